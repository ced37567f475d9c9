//! `verify [JOB[@EPOCH]]`; `verify --objects NAME` is in `objects`. It re-reads published directories and compares them with their manifests.
//!
//! A copy is good, damaged, or was not looked at. What to do about a damaged one follows from how many good ones were
//! seen, so all answers are gathered by epoch.

mod objects;

use std::collections::{BTreeMap, BTreeSet};

use client::{Client, Code, Failure, pb};
use serde_json::{Value, json};

use super::global::Format;
use super::output::Output;
use super::screen;
use super::target::Target;
use crate::units;

/// Epochs that a failure names; the lines above it have all.
const NAMED_MAX: usize = 10;

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// JOB or JOB@EPOCH [default: everything]
    target: Option<Target>,
    /// On every node, not only the one that answers
    #[arg(long, conflicts_with = "objects")]
    all_nodes: bool,
    /// Fetch from other nodes what is not as sealed, and swap it in; of an object store: upload anew what it has lost
    #[arg(long)]
    repair: bool,
    /// Compare this object store, as [disk.NAME] of the nodes' configuration calls it, with the log
    #[arg(long, value_name = "NAME", conflicts_with = "target")]
    objects: Option<String>,
    /// Read every object and compare its digest: all bytes of the store
    #[arg(long, requires = "objects")]
    deep: bool,
}

/// Runs the command.
pub async fn run(args: &VerifyArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    if let Some(store) = &args.objects {
        return objects::run((store, args.deep, args.repair), client, output).await;
    }
    let request = pb::VerifyRequest {
        job: args.target.as_ref().map(|target| target.job.to_string()).unwrap_or_default(),
        which: args.target.as_ref().filter(|target| target.which.is_some()).map(Target::to_pb),
        all_nodes: args.all_nodes,
        repair: args.repair,
        ..pb::VerifyRequest::default()
    };
    let mut seen = Seen::default();
    let ended = client
        .verify(request, &mut |reply| {
            print(&reply, output);
            seen.add(&reply);
        })
        .await;
    match ended {
        Ok(()) => {}
        // What came before it broke off stands.
        Err(failure) if failure.code == Code::NotLooked => seen.unasked.push(failure.why),
        Err(failure) => return Err(failure),
    }
    let failure = seen.failure(args);
    if output.format == Format::Jsonl || failure.is_some() {
        output.outcome(seen.json());
    }
    match failure {
        Some(failure) => Err(failure),
        None => {
            let mended =
                if seen.mended > 0 { format!(", {} of them mended now", seen.mended) } else { String::new() };
            output.note(format!("{} looked at, all as sealed{mended}", copies(seen.good())));
            Ok(())
        }
    }
}

fn copies(count: usize) -> String {
    if count == 1 { "1 copy".to_owned() } else { format!("{count} copies") }
}

/// The copies of one epoch, by node.
#[derive(Debug, Default)]
struct Copies {
    good: BTreeSet<u64>,
    damaged: BTreeSet<u64>,
    not_looked: BTreeMap<u64, String>,
}

/// Everything that was seen.
#[derive(Debug, Default)]
struct Seen {
    epochs: BTreeMap<(String, u64), Copies>,
    /// Nodes of which nothing more was seen, and why.
    unasked: Vec<String>,
    mended: usize,
}

impl Seen {
    fn add(&mut self, reply: &pb::VerifyReply) {
        let why = reply.failed.as_ref().map(|failed| failed.why.clone()).unwrap_or_default();
        // Of a whole node, also where one job was asked for.
        if reply.outcome() == pb::Outcome::NotLooked && reply.epoch == 0 && reply.root.is_empty() {
            self.unasked.push(format!("node {}: {why}", reply.node));
            return;
        }
        let copies = self.epochs.entry((reply.job.clone(), reply.epoch)).or_default();
        self.mended += usize::from(reply.outcome() == pb::Outcome::Good && !reply.mended.is_empty());
        match reply.outcome() {
            pb::Outcome::Good => {
                copies.good.insert(reply.node);
            }
            pb::Outcome::Damaged => {
                copies.damaged.insert(reply.node);
            }
            pb::Outcome::NotLooked | pb::Outcome::Unspecified => {
                copies.not_looked.insert(reply.node, why);
            }
        }
    }

    fn count(&self, of: impl Fn(&Copies) -> usize) -> usize {
        self.epochs.values().map(of).sum()
    }

    fn good(&self) -> usize {
        self.count(|copies| copies.good.len())
    }

    /// The failure, unless every copy was looked at and is good.
    fn failure(&self, args: &VerifyArgs) -> Option<Failure> {
        let damaged = self.count(|copies| copies.damaged.len());
        let not_looked = self.count(|copies| copies.not_looked.len());
        if damaged == 0 && not_looked == 0 && self.unasked.is_empty() {
            return None;
        }
        let looked = self.good() + damaged;
        let mut why: Vec<String> = Vec::new();
        let wrong = self.epochs.iter().filter(|(_, copies)| !copies.damaged.is_empty());
        why.extend(wrong.map(|(name, copies)| {
            let good = match copies.good.len() {
                0 => "no good copy was seen".to_owned(),
                _ => format!("good on {}", nodes(&copies.good)),
            };
            format!("{}@{} is damaged on {}, {good}", name.0, name.1, nodes(&copies.damaged))
        }));
        let unseen = self.epochs.iter().flat_map(|(name, copies)| {
            let why = copies.not_looked.iter();
            why.map(move |(node, why)| {
                format!("{}@{} on node {node} was not looked at: {why}", name.0, name.1)
            })
        });
        why.extend(unseen);
        let more = why.len().saturating_sub(NAMED_MAX);
        why.truncate(NAMED_MAX);
        if more > 0 {
            why.push(format!("and {more} more"));
        }
        why.extend(self.unasked.iter().map(|who| format!("could not be asked: {who}")));
        let (code, sentence) = match damaged {
            0 => (
                Code::NotLooked,
                format!("not everything was looked at; the {} that were are as sealed", copies(looked)),
            ),
            _ => (Code::Corrupt, format!("{damaged} of {} are damaged", copies(looked))),
        };
        Some(
            Failure::new(code, sentence).what("verify").why(why.join("; ")).fix(self.advice(args).join("; ")),
        )
    }

    /// What to do follows from how many good copies were seen.
    fn advice(&self, args: &VerifyArgs) -> Vec<String> {
        let mut advice = Vec::new();
        let unseen =
            !self.unasked.is_empty() || self.epochs.values().any(|copies| !copies.not_looked.is_empty());
        let wrong: Vec<_> = self.epochs.iter().filter(|(_, copies)| !copies.damaged.is_empty()).collect();
        let disks: BTreeSet<u64> = wrong.iter().flat_map(|(_, copies)| &copies.damaged).copied().collect();
        let (some, none): (Vec<_>, Vec<_>) = wrong.iter().partition(|(_, copies)| !copies.good.is_empty());
        if !some.is_empty() {
            advice.push(match args.repair {
                true => "see above why what is damaged could not be mended, then repeat".to_owned(),
                false => {
                    "repeat with --repair, which fetches from the good copies what is damaged".to_owned()
                }
            });
        }
        if !none.is_empty() {
            let names: Vec<_> =
                none.iter().take(NAMED_MAX).map(|((job, epoch), _)| format!("{job}@{epoch}")).collect();
            let names = names.join(", ");
            advice.push(match (args.all_nodes, unseen) {
                (false, _) => format!("repeat with --all-nodes, to see whether another node has a good copy of {names}"),
                (true, true) => format!("a node that was not looked at may have a good copy of {names}: see to it first"),
                (true, false) => format!(
                    "no node has a good copy of {names}: put one back from elsewhere, or commit its bytes again, or \
                     restore an older epoch"
                ),
            });
        }
        if !disks.is_empty() {
            advice.push(format!("look at the disk of {}", nodes(&disks)));
        }
        if unseen {
            advice.push(
                "repeat for what was not looked at; `epochlog status` shows who does not answer".to_owned(),
            );
        }
        advice
    }

    /// Everything as one object, by epoch.
    fn json(&self) -> Value {
        let epochs = self.epochs.iter().map(|((job, epoch), copies)| {
            json!({
                "job": job,
                "epoch": epoch,
                "good": copies.good,
                "damaged": copies.damaged,
                "not_looked": copies.not_looked.keys().collect::<Vec<_>>(),
            })
        });
        json!({
            "type": "summary",
            "checked": self.good() + self.count(|copies| copies.damaged.len()),
            "good": self.good(),
            "damaged": self.count(|copies| copies.damaged.len()),
            "not_looked": self.count(|copies| copies.not_looked.len()),
            "not_asked": self.unasked,
            "mended": self.mended,
            "ok": self.unasked.is_empty()
                && self.epochs.values().all(|copies| copies.damaged.is_empty() && copies.not_looked.is_empty()),
            "epochs": epochs.collect::<Vec<_>>(),
        })
    }
}

/// `node 1`, or `nodes 1 and 3`.
fn nodes(ids: &BTreeSet<u64>) -> String {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    match ids.split_last() {
        None => String::new(),
        Some((only, [])) => format!("node {only}"),
        Some((last, others)) => format!("nodes {} and {last}", others.join(", ")),
    }
}

fn print(reply: &pb::VerifyReply, output: &Output) {
    let why = reply.failed.as_ref().map(|failed| failed.why.clone());
    if output.is_json() {
        output.json(&json!({
            "type": "verified",
            "node": reply.node,
            "job": reply.job,
            "epoch": reply.epoch,
            "outcome": match reply.outcome() {
                pb::Outcome::Good => "good",
                pb::Outcome::Damaged => "damaged",
                pb::Outcome::NotLooked | pb::Outcome::Unspecified => "not_looked",
            },
            "ok": reply.ok,
            "root": units::hex(&reply.root),
            "files": reply.files,
            "bytes": reply.bytes,
            "problems": reply.problems,
            "why": why,
            "mended": reply.mended,
        }));
        return;
    }
    output.line(line(reply, why.as_deref().unwrap_or_default()));
    reply.problems.iter().for_each(|problem| output.line(format!("            {}", screen::cell(problem))));
    reply
        .mended
        .iter()
        .for_each(|problem| output.line(format!("            was: {}", screen::cell(problem))));
}

fn line(reply: &pb::VerifyReply, why: &str) -> String {
    let root = units::hex(&reply.root);
    let (node, name) = (reply.node, format!("{}@{}", reply.job, reply.epoch));
    let seen =
        format!("{}, {} files  root {}", units::size(reply.bytes), reply.files, &root[..root.len().min(8)]);
    match (reply.outcome(), reply.mended.is_empty()) {
        (pb::Outcome::Good, true) => format!("good        node {node}  {name}  {seen}"),
        (pb::Outcome::Good, false) => format!("mended      node {node}  {name}  {seen}"),
        (pb::Outcome::Damaged, _) => format!("DAMAGED     node {node}  {name}  {seen}"),
        _ if root.is_empty() => format!("not looked  node {node}  {}", screen::cell(why)),
        _ => format!("not looked  node {node}  {name}  {}", screen::cell(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::Outcome::{Damaged, Good, NotLooked};

    fn copy(node: u64, epoch: u64, outcome: pb::Outcome) -> pb::VerifyReply {
        let failed = Failure::new(Code::NotLooked, "x").why("it is being published").to_pb();
        pb::VerifyReply {
            node,
            job: "j".into(),
            epoch,
            root: vec![7; 32].into(),
            outcome: outcome.into(),
            ok: outcome == Good,
            failed: (outcome == NotLooked).then_some(failed),
            ..pb::VerifyReply::default()
        }
    }

    fn away(node: u64) -> pb::VerifyReply {
        let failed = Failure::new(Code::NotLooked, "x").why("no answer for 9 s").to_pb();
        pb::VerifyReply {
            node,
            failed: Some(failed),
            outcome: NotLooked.into(),
            ..pb::VerifyReply::default()
        }
    }

    fn said(replies: &[pb::VerifyReply], all_nodes: bool, repair: bool) -> Option<Failure> {
        let mut seen = Seen::default();
        replies.iter().for_each(|reply| seen.add(reply));
        seen.failure(&VerifyArgs { target: None, all_nodes, repair, objects: None, deep: false })
    }

    #[test]
    fn a_node_that_is_away_is_no_damage() {
        let failure = said(&[copy(1, 1, Good), copy(2, 1, Good), away(3)], true, false).unwrap();
        assert_eq!(failure.code, Code::NotLooked);
        assert_eq!(failure.sentence, "not everything was looked at; the 2 copies that were are as sealed");
        assert_eq!(failure.why, "could not be asked: node 3: no answer for 9 s");
        for word in ["--repair", "disk", "@0", "good copy"] {
            assert!(!failure.fix.contains(word) && !failure.why.contains(word), "{failure:?}");
        }
        let line = line(&away(3), "no answer for 9 s");
        assert_eq!(line, "not looked  node 3  no answer for 9 s");
    }

    #[test]
    fn an_epoch_that_is_being_published_is_no_damage() {
        let failure = said(&[copy(1, 1, Good), copy(2, 1, NotLooked)], true, false).unwrap();
        assert_eq!(failure.code, Code::NotLooked);
        assert_eq!(failure.why, "j@1 on node 2 was not looked at: it is being published");
        assert!(!failure.fix.contains("disk"), "{failure:?}");
    }

    #[test]
    fn what_to_do_follows_from_the_good_copies_that_were_seen() {
        let two_of_three =
            said(&[copy(1, 1, Good), copy(2, 1, Damaged), copy(3, 1, Good)], true, false).unwrap();
        assert_eq!(two_of_three.code, Code::Corrupt);
        assert_eq!(two_of_three.sentence, "1 of 3 copies are damaged");
        assert_eq!(two_of_three.why, "j@1 is damaged on node 2, good on nodes 1 and 3");
        assert!(two_of_three.fix.starts_with("repeat with --repair"), "{two_of_three:?}");
        assert!(two_of_three.fix.contains("the disk of node 2"), "{two_of_three:?}");

        // The only node, or the only one that was asked.
        let alone = said(&[copy(1, 1, Damaged)], false, false).unwrap();
        assert!(alone.fix.starts_with("repeat with --all-nodes, to see whether"), "{alone:?}");
        assert!(!alone.fix.contains("--repair"), "{alone:?}");
        let nowhere = said(&[copy(1, 1, Damaged), copy(2, 1, Damaged)], true, false).unwrap();
        assert!(nowhere.fix.starts_with("no node has a good copy of j@1"), "{nowhere:?}");
        assert!(nowhere.why.contains("no good copy was seen"), "{nowhere:?}");
        let hidden = said(&[copy(1, 1, Damaged), away(2)], true, false).unwrap();
        assert!(
            hidden.fix.starts_with("a node that was not looked at may have a good copy of j@1"),
            "{hidden:?}"
        );
        let mended = said(&[copy(1, 1, Good), copy(2, 1, Damaged)], true, true).unwrap();
        assert!(mended.fix.starts_with("see above why"), "{mended:?}");

        assert!(said(&[copy(1, 1, Good), copy(2, 1, Good)], true, false).is_none());
    }

    #[test]
    fn programs_get_the_copies_by_epoch() {
        let mut seen = Seen::default();
        for reply in [copy(1, 1, Good), copy(1, 2, Good), copy(2, 1, Damaged), copy(2, 2, NotLooked), away(3)]
        {
            seen.add(&reply);
        }
        let value = seen.json();
        assert_eq!(
            value["epochs"][0],
            json!({ "job": "j", "epoch": 1, "good": [1], "damaged": [2], "not_looked": [] })
        );
        assert_eq!(value["epochs"][1]["not_looked"], json!([2]));
        let counts =
            json!([value["checked"], value["good"], value["damaged"], value["not_looked"], value["ok"]]);
        assert_eq!(counts, json!([3, 2, 1, 1, false]));
    }
}
