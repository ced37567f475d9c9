//! What is wrong with a cluster, the worst first: what people want to know before any number.

use client::pb;

/// Nodes or epochs that one line names.
const NAMED_MAX: usize = 5;

/// What a status says of the whole cluster.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Node ids that vote.
    pub voters: usize,
    /// Those of them that answer.
    pub reachable: usize,
    /// Why nothing can be committed now, and what to do.
    pub no_quorum: Option<(String, String)>,
    /// Everything that is wrong, the worst first; that there is no quorum is among it.
    pub wrong: Vec<String>,
}

/// Judges what the nodes say.
pub fn judge(reply: &pb::StatusReply) -> Verdict {
    let voters: Vec<_> = reply.nodes.iter().filter(|node| node.voter).collect();
    let (answer, away): (Vec<_>, Vec<_>) = voters.iter().copied().partition(|node| is_there(node));
    let wiped: Vec<_> = away.iter().copied().filter(|node| node.role == "wiped").collect();
    let startable: Vec<_> = away.iter().copied().filter(|node| node.role != "wiped").collect();
    let start = match startable.as_slice() {
        [] => "no other node can be started: what was committed is on those that are left".to_owned(),
        some => format!("start {}", named(some, "or")),
    };
    let majority = voters.len() / 2 + 1;
    let told = format!(
        "{} of {} voters {}",
        answer.len(),
        voters.len(),
        if answer.len() == 1 { "answers" } else { "answer" }
    );
    let no_quorum = if answer.len() < majority {
        Some((format!("{told}, {majority} are needed: nothing can be committed"), start.clone()))
    } else if reply.leader.is_none() {
        let fix = "wait for some seconds: one is elected; if none is, look at the nodes' logs and the network between them";
        Some((format!("{told}, and none of them leads: nothing can be committed now"), fix.to_owned()))
    } else {
        None
    };
    let mut wrong = Vec::new();
    if let Some((why, fix)) = &no_quorum {
        wrong.push(format!("NO QUORUM: {why}; {fix}"));
    } else if !away.is_empty() && answer.len() == majority {
        wrong.push(format!("{told}: one more failure stops all commits; {start}"));
    } else if !away.is_empty() {
        wrong.push(format!("{told}; {start}"));
    }
    let leader = away.iter().find(|node| reply.leader == Some(node.id) && no_quorum.is_none());
    wrong.extend(leader.map(|node| {
        format!(
            "node {}, which leads, does not answer: another one is elected within seconds if it is gone",
            node.id
        )
    }));
    wrong.extend(wiped.iter().map(|node| {
        format!("node {}: its data folder was wiped, so it cannot come back; go on without it", node.id)
    }));
    let with_room = answer.iter().filter(|node| !is_full(node)).count();
    if no_quorum.is_none() && with_room < majority && with_room < answer.len() {
        wrong.push(format!(
            "NO ROOM: {with_room} of {} voters {} content, {majority} are needed: nothing new can be committed, but \
             `epochlog rm` works; make room, or end what is open (`epochlog ls --open`)",
            voters.len(),
            if with_room == 1 { "takes" } else { "take" }
        ));
    }
    for node in &answer {
        let full = [&node.stalled, &node.short_of_space].into_iter().find(|why| !why.is_empty());
        if let Some(why) = full {
            wrong.push(format!(
                "node {} is full: {why}; make room on its disk, or `epochlog rm` old epochs",
                node.id
            ));
        }
    }
    for node in answer.iter().filter(|node| node.unpublished > 0) {
        let epochs = if node.unpublished == 1 {
            "1 epoch is".to_owned()
        } else {
            format!("{} epochs are", node.unpublished)
        };
        let why = if node.why.is_empty() { String::new() } else { format!(" ({})", node.why) };
        wrong.push(format!(
            "node {}: {epochs} missing{why}; `epochlog verify --all-nodes` tells more",
            node.id
        ));
    }
    for node in &answer {
        let away = node.stores.iter().filter(|store| !store.usable && !store.why.is_empty());
        wrong.extend(away.map(|store| {
            format!("node {}: the object store {} cannot be used: {}", node.id, store.name, store.why)
        }));
    }
    if !reply.quarantined.is_empty() {
        let epochs: Vec<_> = reply.quarantined.iter().flat_map(|content| &content.epochs).collect();
        let names: Vec<_> = epochs.iter().take(NAMED_MAX).map(|name| name.as_str()).collect();
        let more = if epochs.len() > NAMED_MAX { " and more" } else { "" };
        wrong.push(format!("in quarantine, because no majority has a good copy: {}{more}", names.join(", ")));
    }
    Verdict { voters: voters.len(), reachable: answer.len(), no_quorum, wrong }
}

/// Whether it takes no content for want of room.
fn is_full(node: &pb::NodeStatus) -> bool {
    !node.stalled.is_empty() || !node.short_of_space.is_empty()
}

/// Whether it takes part. A learner has lost what made it a voter, or has not begun.
fn is_there(node: &pb::NodeStatus) -> bool {
    node.late || !matches!(node.role.as_str(), "unreachable" | "wiped" | "learner" | "shutdown")
}

/// `node 1`, or `node 1 or 3`.
fn named(nodes: &[&pb::NodeStatus], last: &str) -> String {
    let ids: Vec<String> = nodes.iter().take(NAMED_MAX).map(|node| node.id.to_string()).collect();
    match ids.split_last() {
        None => String::new(),
        Some((only, [])) => format!("node {only}"),
        Some((end, others)) => format!("node {} {last} {end}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(leader: Option<u64>, roles: &[&str]) -> pb::StatusReply {
        let node = |(id, role): (u64, &&str)| pb::NodeStatus {
            id,
            role: (*role).to_owned(),
            voter: true,
            ..pb::NodeStatus::default()
        };
        pb::StatusReply { leader, nodes: (1..).zip(roles).map(node).collect(), ..pb::StatusReply::default() }
    }

    fn first(reply: &pb::StatusReply) -> String {
        judge(reply).wrong.first().cloned().unwrap_or_default()
    }

    #[test]
    fn a_store_that_is_away_is_said_and_one_that_nobody_asked_is_not() {
        let mut reply = cluster(Some(1), &["leader"]);
        let store =
            |name: &str, why: &str| pb::StoreStatus { name: name.into(), usable: false, why: why.into() };
        reply.nodes[0].stores = vec![store("main", ""), store("other", "no answer")];
        reply.nodes[0].stores.push(pb::StoreStatus { name: "good".into(), usable: true, why: String::new() });
        assert_eq!(judge(&reply).wrong, ["node 1: the object store other cannot be used: no answer"]);
    }

    #[test]
    fn a_healthy_cluster_has_nothing_wrong() {
        for roles in [&["leader"][..], &["leader", "follower", "follower"], &["leader", "follower"]] {
            let verdict = judge(&cluster(Some(1), roles));
            assert_eq!((&verdict.wrong, verdict.no_quorum), (&Vec::new(), None), "{roles:?}");
            assert_eq!((verdict.reachable, verdict.voters), (roles.len(), roles.len()));
        }
    }

    #[test]
    fn no_quorum_is_said_first_and_with_what_to_start() {
        // What the last leader says of itself, and what a follower that is left does.
        for role in ["no quorum", "follower", "candidate", "leader"] {
            let verdict = judge(&cluster(None, &["unreachable", role, "unreachable"]));
            let (why, fix) = verdict.no_quorum.unwrap();
            assert_eq!(why, "1 of 3 voters answers, 2 are needed: nothing can be committed");
            assert_eq!(fix, "start node 1 or 3");
            assert!(verdict.wrong[0].starts_with("NO QUORUM: 1 of 3"), "{:?}", verdict.wrong);
        }
        // Whatever leader somebody still believes in.
        assert!(judge(&cluster(Some(2), &["unreachable", "leader", "unreachable"])).no_quorum.is_some());
        let hung = judge(&cluster(Some(1), &["unreachable", "follower", "follower"]));
        assert!(
            hung.no_quorum.is_none() && hung.wrong[1].starts_with("node 1, which leads, does not answer")
        );
        let leaderless = judge(&cluster(None, &["follower", "candidate", "unreachable"]));
        assert!(leaderless.no_quorum.unwrap().0.contains("none of them leads"));
    }

    #[test]
    fn a_node_whose_status_takes_long_is_there() {
        let mut busy = cluster(Some(1), &["unreachable", "follower", "unreachable"]);
        assert!(judge(&busy).no_quorum.is_some());
        busy.nodes[0].late = true;
        let verdict = judge(&busy);
        assert_eq!((verdict.reachable, verdict.no_quorum), (2, None));
    }

    #[test]
    fn one_failure_away_from_none_is_said() {
        let two = cluster(Some(1), &["leader", "follower", "unreachable"]);
        assert_eq!(first(&two), "2 of 3 voters answer: one more failure stops all commits; start node 3");
        let four = cluster(Some(1), &["leader", "follower", "follower", "follower", "unreachable"]);
        assert_eq!(first(&four), "4 of 5 voters answer; start node 5");
        assert!(judge(&two).no_quorum.is_none() && judge(&four).no_quorum.is_none());
    }

    #[test]
    fn a_wiped_node_is_not_to_be_started_and_a_learner_is_not_there() {
        let wiped = judge(&cluster(Some(1), &["leader", "follower", "wiped"]));
        assert!(wiped.wrong[0].starts_with("2 of 3 voters answer: one more failure stops all commits"));
        assert!(!wiped.wrong[0].contains("start node"), "{:?}", wiped.wrong);
        assert!(wiped.wrong[1].starts_with("node 3: its data folder was wiped, so it cannot come back"));
        let learner = judge(&cluster(Some(1), &["leader", "learner", "unreachable"]));
        assert_eq!(learner.reachable, 1);
        assert!(learner.no_quorum.is_some());
    }

    #[test]
    fn too_few_nodes_with_room_are_said_before_each_of_the_full_ones() {
        let mut one = cluster(Some(1), &["leader", "follower", "follower"]);
        one.nodes[1].short_of_space = "node 2 is short of space".into();
        assert!(first(&one).starts_with("node 2 is full"), "one full disk is not everybody's");
        one.nodes[2].role = "unreachable".into();
        let wrong = judge(&one).wrong;
        assert!(wrong[0].starts_with("2 of 3 voters answer: one more failure"), "{wrong:?}");
        assert!(wrong[1].starts_with("NO ROOM: 1 of 3 voters takes content, 2 are needed"), "{wrong:?}");
        assert!(wrong[2].starts_with("node 2 is full"), "{wrong:?}");
        let mut alone = cluster(Some(1), &["leader"]);
        assert!(judge(&alone).wrong.is_empty());
        alone.nodes[0].stalled = "the log waits".into();
        assert!(first(&alone).starts_with("NO ROOM: 0 of 1 voters take content"), "{:?}", judge(&alone));
    }

    #[test]
    fn full_nodes_and_missing_epochs_come_next() {
        let mut reply = cluster(Some(1), &["leader", "follower", "follower"]);
        reply.nodes[1].unpublished = 2;
        reply.nodes[1].why = "j@1 is no directory here: a blob is missing".into();
        reply.nodes[2].short_of_space = "node 3 is short of space".into();
        reply.quarantined = vec![pb::Quarantined { epochs: vec!["j@7".into()], ..Default::default() }];
        let wrong = judge(&reply).wrong;
        assert!(wrong[0].starts_with("node 3 is full: node 3 is short of space; make room"), "{wrong:?}");
        assert!(wrong[1].starts_with("node 2: 2 epochs are missing (j@1 is no directory here"), "{wrong:?}");
        assert!(wrong[2].ends_with("j@7"), "{wrong:?}");
        assert_eq!(wrong.len(), 3);
    }
}
