//! Whether a majority of the voters that includes the leader has room, and what to say where it has not.
//!
//! One full disk is not everybody's: its node falls behind, is shown, and comes home when it has room. The leader's own
//! counts for more than one, because it proposes nothing that it could not write itself. Who does not answer has no room
//! for anything; but where nobody lacks any, that is not for this to say: there is a quorum, or there is none.

use std::cmp::Reverse;

use nativelog::ledger::{Ask, Ledger, NoRoom, Spoken};

use crate::space::Space;
use crate::units;

/// Attempts that a refusal names.
const NAMED_MAX: usize = 3;

/// What is known of one voter.
#[derive(Debug, Clone)]
pub struct Voter {
    /// Its id.
    pub node: u64,
    /// It leads.
    pub leads: bool,
    /// Its space; `None` when it has not told lately.
    pub space: Option<Space>,
    /// What the ledger held when it told.
    pub held: u64,
    /// Why it takes no content, as it told; its bytes may look like enough.
    pub short: Option<String>,
}

impl Voter {
    /// Its space when `held` bytes are committed: what was since it told takes room there too.
    fn by_now(&self, held: u64) -> Option<Space> {
        self.space.map(|space| space.with(held.saturating_sub(self.held)))
    }

    fn has_room(&self, needed: u64, held: u64) -> bool {
        self.short.is_none() && self.by_now(held).is_some_and(|space| space.has_room_for(needed))
    }

    /// Also once what is garbage was given back.
    fn will_have_room(&self, needed: u64, held: u64) -> bool {
        self.by_now(held).is_some_and(|space| space.will_have_room_for(needed))
    }

    fn lacks_room(&self, needed: u64, held: u64) -> bool {
        self.space.is_some() && !self.has_room(needed, held)
    }
}

/// Where room is lacking.
#[derive(Debug)]
struct Lack<'a> {
    /// Voters that lack it, the leader first.
    without: Vec<&'a Voter>,
    silent: Vec<u64>,
    /// It comes back, or another one leads, in a moment.
    soon: bool,
}

/// Whether room is lacking for `needed` bytes when `held` are committed.
fn lack(voters: &[Voter], needed: u64, held: u64) -> Option<Lack<'_>> {
    let is_majority = |count: usize| count > voters.len() / 2;
    let mut without: Vec<_> = voters.iter().filter(|voter| voter.lacks_room(needed, held)).collect();
    let with = voters.iter().filter(|voter| voter.has_room(needed, held)).count();
    let leader_lacks = without.iter().any(|voter| voter.leads);
    if without.is_empty() || is_majority(with) && !leader_lacks {
        return None;
    }
    without.sort_by_key(|voter| (Reverse(voter.leads), voter.node));
    let later = |voter: &&Voter| voter.has_room(needed, held) || voter.will_have_room(needed, held);
    let silent = voters.iter().filter(|voter| voter.space.is_none()).map(|voter| voter.node).collect();
    // A leader without room hands over to one that has some.
    let can_lead = |voter: &Voter| later(&voter) && voter.leads || voter.has_room(needed, held);
    let soon = is_majority(voters.iter().filter(later).count()) && voters.iter().any(can_lead);
    Some(Lack { without, silent, soon })
}

/// Who could lead so that there is room for what asks, where it is this leader alone that has none and gets none: the
/// voter with most above its reserve.
pub fn successor(voters: &[Voter], ask: Ask) -> Option<u64> {
    let all = ask.needed.saturating_add(ask.spoken_for);
    lack(voters, all, ask.held)?;
    if voters.iter().any(|voter| voter.leads && voter.will_have_room(all, ask.held)) {
        return None;
    }
    let above =
        |voter: &Voter| voter.by_now(ask.held).map_or(0, |space| space.free.saturating_sub(space.reserve));
    let able = voters.iter().filter(|voter| !voter.leads && voter.has_room(all, ask.held));
    let most = able.max_by_key(|voter| (above(voter), Reverse(voter.node)))?.node;
    let after = |voter: &Voter| Voter { leads: voter.node == most, ..voter.clone() };
    let after: Vec<Voter> = voters.iter().map(after).collect();
    lack(&after, all, ask.held).is_none().then_some(most)
}

/// Whether there is room for what asks.
///
/// # Errors
/// Why not.
pub fn judge(voters: &[Voter], ledger: &Ledger, ask: Ask) -> Result<(), NoRoom> {
    let all = ask.needed.saturating_add(ask.spoken_for);
    let Some(lack) = lack(voters, all, ask.held) else { return Ok(()) };
    let mut spoken: Vec<Spoken> = ledger.spoken().filter(|spoken| spoken.bytes > 0).collect();
    spoken.sort_by_key(|spoken| Reverse(spoken.bytes));
    // Where there is none for this alone, no other is to blame.
    let to_blame = spoken.first().filter(|_| self::lack(voters, ask.needed, ask.held).is_none());
    let attempt = to_blame.map_or(0, |spoken| spoken.info.id);
    Err(NoRoom { why: words(&lack, ask, &spoken), soon: lack.soon, attempt })
}

fn words(lack: &Lack<'_>, ask: Ask, spoken: &[Spoken]) -> String {
    let mut why = format!("{} are needed", units::size(ask.needed));
    if ask.spoken_for > 0 {
        let named = spoken
            .iter()
            .take(NAMED_MAX)
            .map(|spoken| format!("{}@{} {}", spoken.info.job, spoken.info.epoch, units::size(spoken.bytes)));
        let named: Vec<_> = named.collect();
        let more = spoken.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let who = if named.is_empty() { String::new() } else { format!(" ({}{more})", named.join(", ")) };
        why.push_str(&format!(
            " beside {} that open attempts have spoken for{who}",
            units::size(ask.spoken_for)
        ));
    }
    let all = ask.needed.saturating_add(ask.spoken_for);
    for voter in &lack.without {
        let Some(space) = voter.by_now(ask.held) else { continue };
        why.push_str("; ");
        why.push_str(&of_voter(voter, &space, all));
    }
    for node in &lack.silent {
        why.push_str(&format!("; node {node} does not answer"));
    }
    why
}

fn of_voter(voter: &Voter, space: &Space, needed: u64) -> String {
    let Voter { node, leads, short, .. } = voter;
    let leads = if *leads { " (it leads)" } else { "" };
    let mut why = format!(
        "node {node} has {} free, {} stay reserved{leads}",
        units::size(space.free),
        units::size(space.reserve)
    );
    if let Some(short) = short.as_ref().filter(|_| space.has_room_for(needed)) {
        why.clone_from(short);
    } else if space.inodes_short {
        why.push_str(" and has hardly any inodes left");
    }
    if space.garbage > 0 {
        why.push_str(&format!(", {} that were removed are being given back", units::size(space.garbage)));
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pressure;

    const MIB: u64 = 1 << 20;

    fn voter(node: u64, free: u64) -> Voter {
        let space = Space { free, total: 1000, reserve: 50, ..Space::default() };
        Voter { node, leads: node == 1, space: Some(space), held: 500, short: None }
    }

    fn silent(node: u64) -> Voter {
        Voter { space: None, ..voter(node, 0) }
    }

    fn without(voters: &[Voter], needed: u64) -> Option<Vec<u64>> {
        lack(voters, needed, 500).map(|lack| lack.without.iter().map(|voter| voter.node).collect())
    }

    #[test]
    fn one_full_disk_of_three_is_not_everybodys() {
        let full = [voter(1, 150), voter(2, 10), voter(3, 150)];
        assert_eq!(without(&full, 100), None);
        assert_eq!(without(&full, 101), Some(vec![1, 2, 3]));
        // The leader has to have some, whoever else has.
        assert_eq!(without(&[voter(1, 10), voter(2, 150), voter(3, 150)], 100), Some(vec![1]));
        // With the one that does not answer no majority has room; without anybody who lacks it there is nothing to say.
        assert_eq!(without(&[voter(1, 150), voter(2, 10), silent(3)], 100), Some(vec![2]));
        assert_eq!(without(&[voter(1, 150), silent(2), silent(3)], 100), None);
        assert_eq!(without(&[voter(1, 10)], 0), Some(vec![1]));
        let four = [voter(1, 150), voter(2, 10), voter(3, 10), voter(4, 150)];
        assert_eq!(without(&four, 100), Some(vec![2, 3]), "two of four are no majority");
    }

    #[test]
    fn what_was_committed_since_a_voter_told_is_counted() {
        let voters = [voter(1, 500), voter(2, 200), voter(3, 200)];
        let lacks = |held| lack(&voters, 100, held).is_some();
        assert!(!lacks(400) && !lacks(500) && !lacks(550) && lacks(551));
        let lacking = Space { lacking: 60, ..voters[1].space.unwrap() };
        let catching_up = Voter { space: Some(lacking), ..voters[1].clone() };
        assert!(lack(&[voters[0].clone(), catching_up, silent(3)], 100, 500).is_some());
    }

    #[test]
    fn what_is_given_back_and_a_leader_that_hands_over_are_waited_for() {
        let soon = |voters: &[Voter]| lack(voters, 100, 500).unwrap().soon;
        let garbage =
            |voter: Voter| Voter { space: voter.space.map(|space| Space { garbage: 140, ..space }), ..voter };
        assert!(!soon(&[voter(1, 150), voter(2, 10), voter(3, 10)]));
        assert!(soon(&[voter(1, 150), garbage(voter(2, 10)), voter(3, 10)]));
        assert!(soon(&[voter(1, 10), voter(2, 150), voter(3, 150)]), "another one leads in a moment");
        assert!(!soon(&[voter(1, 10), voter(2, 150), voter(3, 10)]), "whoever leads");
        let full = |node| Voter { leads: false, ..voter(node, 10) };
        assert!(!soon(&[voter(1, 10), garbage(full(2)), garbage(full(3))]), "nobody could lead yet");
        assert!(!soon(&[voter(1, 10)]));
        assert!(soon(&[garbage(voter(1, 10))]));
        let short = Voter { short: Some("it makes room".into()), ..voter(2, 150) };
        assert_eq!(without(&[voter(1, 150), short, silent(3)], 0), Some(vec![2]), "whatever its bytes say");
    }

    #[test]
    fn where_the_leader_alone_lacks_room_another_one_is_to_lead() {
        let to = |voters: &[Voter], needed| successor(voters, Ask { needed, spoken_for: 0, held: 500 });
        let one = [voter(1, 100), voter(2, 200), voter(3, 250)];
        assert_eq!(to(&one, 50), None, "it has room itself");
        assert_eq!(to(&one, 100), Some(3), "the one with most");
        assert_eq!(to(&one, 160), None, "with one no majority has room, whoever leads");
        assert_eq!(to(&[voter(1, 100), voter(2, 200), silent(3)], 100), None);
        assert_eq!(to(&[voter(1, 10)], 100), None, "there is nobody else");
        let short = Voter { short: Some("it makes room".into()), ..voter(3, 250) };
        assert_eq!(to(&[voter(1, 100), voter(2, 200), short], 100), None);
        let space = Space { garbage: 100, ..voter(1, 100).space.unwrap() };
        let clears = Voter { space: Some(space), ..voter(1, 100) };
        assert_eq!(to(&[clears, voter(2, 200), voter(3, 250)], 100), None, "it gets some back");
    }

    #[test]
    fn a_refusal_names_its_own_need_and_the_nodes() {
        let space = |free, reserve| Space { free, total: 1 << 30, reserve, ..Space::default() };
        let of = |voter: Voter| {
            let ask = Ask { needed: 5 * MIB, spoken_for: 0, held: 0 };
            judge(&[Voter { leads: true, ..voter }, silent(3)], &Ledger::default(), ask).unwrap_err()
        };
        let plain = Voter { space: Some(space(MIB, 2 * MIB)), ..voter(2, 0) };
        let no = of(plain.clone());
        assert_eq!(
            no.why,
            "5.0 MiB are needed; node 2 has 1.0 MiB free, 2.0 MiB stay reserved (it leads); node 3 does not answer"
        );
        assert_eq!((no.attempt, no.soon), (0, false));
        let garbage = Voter { space: Some(Space { garbage: 3 * MIB, ..space(0, 1) }), ..plain.clone() };
        assert!(of(garbage).why.contains("3.0 MiB that were removed are being given back"));
        let gives_way = pressure::gives_way(2);
        let roomy = space(1 << 30, 2 * MIB);
        let waits = pressure::words(2, &roomy, Some("cannot write DATA/wal: No space left on device"));
        assert!(waits.contains("its log waits although 1.0 GiB are free"), "{waits}");
        for said in [gives_way, waits] {
            let short = Voter { space: Some(roomy), short: Some(said.clone()), ..plain.clone() };
            assert!(of(short).why.contains(&said));
        }
    }

    #[test]
    fn whoever_has_spoken_for_the_rest_is_named_and_blamed_only_where_it_is_to_blame() {
        use checkpoint::{CommitId, EntryKind, PlanEntry, RelPath};
        use nativelog::compose::{self, Opening, Pages};
        use nativelog::record::LogId;

        let mut ledger = Ledger::default();
        let entry = |path: &str, kind, size| PlanEntry {
            path: RelPath::parse(path.as_bytes()).unwrap(),
            kind,
            mode: 0o700,
            size,
            target: Vec::new(),
        };
        ledger.step(LogId { term: 1, node: 1, index: 0 }, &compose::tick(1).header).unwrap();
        for (n, bytes) in [(1, 100 * MIB), (2, 300 * MIB)] {
            let opening = Opening {
                job: "etl".parse().unwrap(),
                epoch: Some(n),
                token: None,
                commit: CommitId::from_bytes([n as u8; 16]),
                born: 0,
                chunk_bytes: 1 << 20,
                base: None,
                labels: Vec::new(),
                depends_on: Vec::new(),
            };
            let entries = [entry("", EntryKind::Directory, 0), entry("f", EntryKind::File, bytes)];
            let record = compose::begin(&opening, &Pages::new(&entries));
            let at = LogId { term: 1, node: 1, index: n };
            assert!(ledger.step(at, &record.header).unwrap().verdict.is_accepted());
        }
        let space = Space { free: 350 * MIB, total: 1 << 30, reserve: 50 * MIB, ..Space::default() };
        let voters = [Voter { space: Some(space), ..voter(1, 0) }];
        let judged = |needed| {
            let ask = Ask { needed, spoken_for: ledger.reserved_bytes(), held: 500 };
            judge(&voters, &ledger, ask).unwrap_err()
        };
        let no = judged(5 * MIB);
        assert!(
            no.why.starts_with("5.0 MiB are needed beside 400.0 MiB that open attempts have spoken for"),
            "{}",
            no.why
        );
        assert!(no.why.contains("(etl@2 300.0 MiB, etl@1 100.0 MiB)"), "{}", no.why);
        assert_eq!(no.attempt, 2);
        assert_eq!(judged(400 * MIB).attempt, 0, "it would not fit without them either");
    }
}
