//! The rules of the house: who may stay, and who goes when it is full.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::kind::Kind;
use super::turn::{End, Turn};

/// A new connection makes its first call within this time.
pub const FIRST_CALL: Duration = Duration::from_secs(10);
/// A connection without a call is kept for so long.
pub const IDLE: Duration = Duration::from_secs(300);
/// A client from whom something is waited for sends some of it within this time. One that reads its directory says every
/// 3 s that it is alive.
pub const SILENCE: Duration = Duration::from_secs(30);
/// An answer that nobody takes is kept for so long.
pub const UNREAD: Duration = Duration::from_secs(90);
/// In a full house, a call that has said nothing yet may be ended after so long for one of a connection that has fewer:
/// who comes with one call is not to wait for who comes with a thousand.
const MUTE_OF_MANY_MIN: Duration = Duration::from_millis(100);
/// The same for anybody.
const MUTE_MIN: Duration = Duration::from_secs(1);
/// In a full house, a commit that was waited for so long and sent nothing but signs of life may be ended for one of an
/// address or connection that has fewer. It goes on where it was when it comes again.
const DRY_MIN: Duration = Duration::from_secs(30);
/// Places of each kind, and connections, that only the addresses of other nodes find in a full house. What they ask is how
/// much space there is and who has published: without an answer an honest commit hears that there is no space.
pub const RESERVED: usize = 16;
/// Answers that nobody takes may lie in the buffers of connections with a commit at work, so many of all of them: each may
/// keep 4 MiB of what restores share (`READ_BUFFERS_BYTES`). With more such a connection goes all the same.
const LEFT_LYING_MAX: usize = 4;

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// At the port for clients.
    pub clients: usize,
    /// At the port for HTTP.
    pub http: usize,
}

impl Bounds {
    /// For a process that may have so many files open: clients get a quarter, HTTP a sixteenth; the rest is for the log,
    /// staged files, readers and peers.
    pub fn of(files: u64) -> Bounds {
        let part = |share: u64, most: usize| usize::try_from(files / share).unwrap_or(most).clamp(16, most);
        Bounds { clients: part(4, 1024), http: part(16, 128) }
    }
}

struct Guest {
    ip: IpAddr,
    /// What it counts as.
    from: IpAddr,
    /// Since when it has no call.
    idle: Instant,
    called: bool,
    calls: usize,
    end: Arc<End>,
}

struct Held {
    kind: Kind,
    guest: Option<u64>,
    since: Instant,
    turn: Arc<Turn>,
}

/// A call that may go on.
pub struct Admitted {
    pub id: u64,
    pub turn: Arc<Turn>,
    /// Another one had to make room.
    pub ended_another: bool,
}

/// Who came in at the door, and what had to be done for it.
pub struct Entered {
    pub id: u64,
    pub end: Arc<End>,
    /// A quiet one had to make room.
    pub ended_another: bool,
}

/// How many calls of a kind there are of each address and of each connection.
#[derive(Default)]
struct Shares {
    of_address: BTreeMap<Option<IpAddr>, usize>,
    of_guest: BTreeMap<Option<u64>, usize>,
}

impl Shares {
    fn of(&self, from: Option<IpAddr>, guest: Option<u64>) -> (usize, usize) {
        let of_address = self.of_address.get(&from).copied().unwrap_or(0);
        (of_address, self.of_guest.get(&guest).copied().unwrap_or(0))
    }
}

/// All who are there. Those that were told to end are no more counted, though they may still be on their way out.
pub struct House {
    connections_max: usize,
    guests: BTreeMap<u64, Guest>,
    calls: BTreeMap<u64, Held>,
    /// Where other nodes are.
    known: BTreeSet<IpAddr>,
    next: u64,
}

impl House {
    pub fn new(connections_max: usize) -> House {
        House {
            connections_max,
            guests: BTreeMap::new(),
            calls: BTreeMap::new(),
            known: BTreeSet::new(),
            next: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Other nodes are there now.
    pub fn know(&mut self, known: BTreeSet<IpAddr>) {
        self.known = known;
    }

    fn is_known(&self, guest: Option<u64>) -> bool {
        guest.and_then(|guest| self.guests.get(&guest)).is_some_and(|guest| self.known.contains(&guest.ip))
    }

    fn from(&self, guest: Option<u64>) -> Option<IpAddr> {
        Some(self.guests.get(&guest?)?.from)
    }

    /// Sockets that are open, also of those who are on their way out, are not many more than may be.
    pub fn has_a_socket_left(&self) -> bool {
        self.guests.len() < self.connections_max + self.connections_max / 4 + 1 + RESERVED
    }

    /// Somebody comes in; `None` when all who are there are at work.
    pub fn came(&mut self, ip: IpAddr, now: Instant) -> Option<Entered> {
        let ip = ip.to_canonical();
        let mut ended_another = false;
        let most = self.connections_max + if self.known.contains(&ip) { RESERVED } else { 0 };
        if self.guests.values().filter(|guest| !guest.end.is_said()).count() >= most {
            self.guests.get(&self.quietest(now)?)?.end.say();
            ended_another = true;
        }
        let (id, end, from) = (self.number(), Arc::<End>::default(), raft::network::source(ip));
        self.guests.insert(id, Guest { ip, from, idle: now, called: false, calls: 0, end: end.clone() });
        Some(Entered { id, end, ended_another })
    }

    /// Of those who do nothing, from the address that has the most connections: who has done so for the longest time.
    fn quietest(&self, now: Instant) -> Option<u64> {
        let mut share = BTreeMap::<IpAddr, usize>::new();
        let here = || self.guests.iter().filter(|(_, guest)| !guest.end.is_said());
        for (_, guest) in here() {
            *share.entry(guest.from).or_default() += 1;
        }
        let quiet = here().filter_map(|(id, guest)| Some((*id, guest, self.quiet_since(*id, guest, now)?)));
        let longest = |since: Instant| now.saturating_duration_since(since);
        let found =
            quiet.max_by_key(|(id, guest, since)| (share[&guest.from], longest(*since), u64::MAX - id));
        found.map(|(id, ..)| id)
    }

    /// Since when a guest does nothing: he has no call, or none that was not told to end, or is silent in all of them.
    fn quiet_since(&self, id: u64, guest: &Guest, now: Instant) -> Option<Instant> {
        let is_his = |call: &&Held| call.guest == Some(id) && !call.turn.end.is_said();
        let mine = self.calls.values().filter(is_his);
        let silent: Option<Vec<Instant>> = mine.map(|call| call.turn.silent_since(now, MUTE_MIN)).collect();
        Some(silent?.into_iter().max().unwrap_or(guest.idle))
    }

    /// His socket is closed.
    pub fn left(&mut self, id: u64) {
        self.guests.remove(&id);
    }

    /// A call that waits costs its client nothing, and is never silent: with these alone nobody fills the house.
    fn most(&self, kind: Kind, guest: Option<u64>) -> usize {
        let most = match kind {
            Kind::Wait => kind.most().min(self.connections_max / 4).max(1),
            _ => kind.most(),
        };
        most + if self.is_known(guest) { RESERVED } else { 0 }
    }

    /// A call begins; an error says how many of its kind there are, all at work.
    pub fn call_came(&mut self, kind: Kind, guest: Option<u64>, now: Instant) -> Result<Admitted, usize> {
        let mut ended_another = false;
        let most = self.most(kind, guest);
        if self.here(kind).count() >= most {
            let silent = self.most_silent(kind, guest, now);
            let victim = silent.or_else(|| self.least_needed(kind, guest, now)).ok_or(most)?;
            self.end_call(victim, now);
            ended_another = true;
        }
        let (id, turn) = (self.number(), Arc::<Turn>::default());
        self.calls.insert(id, Held { kind, guest, since: now, turn: turn.clone() });
        if let Some(guest) = guest.and_then(|guest| self.guests.get_mut(&guest)) {
            (guest.called, guest.calls) = (true, guest.calls + 1);
        }
        Ok(Admitted { id, turn, ended_another })
    }

    /// A call turns out to be of another kind, whose number is bounded elsewhere; answers what it was.
    pub fn call_becomes(&mut self, id: u64, kind: Kind) -> Option<Kind> {
        let call = self.calls.get_mut(&id)?;
        Some(std::mem::replace(&mut call.kind, kind))
    }

    /// The calls of a kind that were not told to end.
    fn here(&self, kind: Kind) -> impl Iterator<Item = (u64, &Held)> {
        let here = self.calls.iter().filter(move |(_, call)| call.kind == kind && !call.turn.end.is_said());
        here.map(|(id, call)| (*id, call))
    }

    fn shares(&self, kind: Kind) -> Shares {
        let mut shares = Shares::default();
        for (_, call) in self.here(kind) {
            *shares.of_address.entry(self.from(call.guest)).or_default() += 1;
            *shares.of_guest.entry(call.guest).or_default() += 1;
        }
        shares
    }

    /// Of the silent calls of a kind, from the address that has most of them, and of those from the connection that has:
    /// the one that is silent for the longest time.
    fn most_silent(&self, kind: Kind, newcomer: Option<u64>, now: Instant) -> Option<u64> {
        let shares = self.shares(kind);
        let (_, of_newcomer) = shares.of(None, newcomer);
        let silent = self.here(kind).filter_map(|(id, call)| {
            let share = shares.of(self.from(call.guest), call.guest);
            let mute_min = if share.1 > of_newcomer { MUTE_OF_MANY_MIN } else { MUTE_MIN };
            let since = call.turn.silent_since(now, mute_min)?;
            Some((share, now.saturating_duration_since(since), u64::MAX - id))
        });
        silent.max().map(|(.., id)| u64::MAX - id)
    }

    /// When nobody is silent, in the same order: the oldest of those who only wait, who may ask again, but no other
    /// node for a stranger's sake; of commits the one that was waited for in vain for longest, of who has more than the
    /// newcomer.
    fn least_needed(&self, kind: Kind, newcomer: Option<u64>, now: Instant) -> Option<u64> {
        let shares = self.shares(kind);
        let of_newcomer = shares.of(self.from(newcomer), newcomer);
        let needless = self.here(kind).filter_map(|(id, call)| {
            let share = shares.of(self.from(call.guest), call.guest);
            let longest = match kind {
                Kind::Wait if self.is_known(call.guest) && !self.is_known(newcomer) => return None,
                Kind::Wait => now.saturating_duration_since(call.since),
                Kind::Commit if share.0 > of_newcomer.0 || share.1 > of_newcomer.1 => {
                    Some(call.turn.dry(now)).filter(|dry| *dry >= DRY_MIN)?
                }
                _ => return None,
            };
            Some((share, longest, u64::MAX - id))
        });
        needless.max().map(|(.., id)| u64::MAX - id)
    }

    fn end_call(&self, id: u64, now: Instant) {
        let Some(call) = self.calls.get(&id) else { return };
        // What of an answer lies in the connection's buffers goes with it alone.
        let goes_with_it = call.turn.unread_since().is_some() && !self.is_spared(call, now);
        call.turn.end.say();
        if call.kind == Kind::Wait {
            call.turn.answer_end.say();
        }
        if goes_with_it && let Some(guest) = call.guest.and_then(|guest| self.guests.get(&guest)) {
            guest.end.say();
        }
    }

    /// Whether the connection of a call whose answer is not taken stays: a commit is at work on it, and little lies around.
    fn is_spared(&self, stuck: &Held, now: Instant) -> bool {
        let at_work = |call: &Held| {
            let is_stuck = call.turn.unread_since().is_some_and(|since| now - since >= UNREAD);
            call.kind.is_commit() && !call.turn.end.is_said() && !is_stuck && call.turn.dry(now) < DRY_MIN
        };
        let lies = |call: &&Held| call.turn.end.is_said() && call.turn.unread_since().is_some();
        self.calls.values().any(|call| call.guest == stuck.guest && at_work(call))
            && (stuck.turn.end.is_said() || self.calls.values().filter(lies).count() < LEFT_LYING_MAX)
    }

    /// A call is over; answers what it was.
    pub fn call_left(&mut self, id: u64, now: Instant) -> Option<Kind> {
        let call = self.calls.remove(&id)?;
        if let Some(guest) = call.guest.and_then(|guest| self.guests.get_mut(&guest)) {
            (guest.calls, guest.idle) = (guest.calls.saturating_sub(1), now);
        }
        Some(call.kind)
    }

    /// Ends the connections without a call for too long, and those that do not take an answer, or on a connection with a
    /// commit at work that call alone; says how many.
    pub fn look(&self, now: Instant) -> usize {
        let mut ended = 0;
        let mut end = |end: &End| {
            if !end.is_said() {
                end.say();
                ended += 1;
            }
        };
        let unread = |call: &Held| call.turn.unread_since().is_some_and(|since| now - since >= UNREAD);
        for call in self.calls.values().filter(|call| unread(call)) {
            let Some(id) = call.guest else { continue };
            match self.guests.get(&id) {
                Some(_) if self.is_spared(call, now) => end(&call.turn.end),
                Some(guest) => end(&guest.end),
                None => {}
            }
        }
        for guest in self.guests.values().filter(|guest| guest.calls == 0) {
            let patience = if guest.called { IDLE } else { FIRST_CALL };
            if now.saturating_duration_since(guest.idle) >= patience {
                end(&guest.end);
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests;
