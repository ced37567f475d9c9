//! The rules of the house: who may stay, and who goes when it is full.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;

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
/// The same of one that has said something, or that does not take its answer.
const SILENCE_MIN: Duration = Duration::from_secs(5);

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

/// What a call is for. Each kind has places of its own: who asks for much of one takes none of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Commits.
    Commit,
    /// Manifests and content.
    Fetch,
    /// Reads published directories again.
    Verify,
    /// Waits for something: who has published, whether a service is healthy.
    Wait,
    /// Is answered at once.
    Short,
    /// A page over HTTP.
    Page,
}

impl Kind {
    /// By the path of a gRPC call.
    pub fn of(path: &str) -> Kind {
        match path {
            "/epochlog.Epochlog/Commit" => Kind::Commit,
            "/epochlog.Epochlog/Fetch" => Kind::Fetch,
            "/epochlog.Epochlog/Verify" => Kind::Verify,
            "/epochlog.Epochlog/PublishedOn" | "/grpc.health.v1.Health/Watch" => Kind::Wait,
            path if path.starts_with("/grpc.reflection.") => Kind::Wait,
            _ => Kind::Short,
        }
    }

    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Commit => "commit",
            Kind::Fetch => "fetch",
            Kind::Verify => "verify",
            Kind::Wait => "wait",
            Kind::Short => "short",
            Kind::Page => "page",
        }
    }

    /// Calls of this kind at a time.
    pub fn most(self) -> usize {
        match self {
            Kind::Commit => 64,
            // Few of them read at a time (`api/reads.rs`); the rest wait for their turn.
            Kind::Fetch | Kind::Short => 128,
            Kind::Verify => 8,
            Kind::Wait => 256,
            Kind::Page => 32,
        }
    }
}

/// A word from the house to whoever polls a socket or a body: it ends now.
#[derive(Debug, Default)]
pub struct End {
    ended: AtomicBool,
    waker: AtomicWaker,
}

impl End {
    /// Whether it has ended; else the caller is woken when it does.
    pub fn has_come(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.is_said()
    }

    /// Whether it has ended.
    pub fn is_said(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn say(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.waker.wake();
    }
}

/// Whose turn it is in a call, as its two bodies see it.
#[derive(Debug, Default)]
pub struct Turn {
    /// The call is over, whatever it does.
    pub end: End,
    waits: Mutex<Waits>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Waits {
    /// Since when the client is waited for.
    asked: Option<Instant>,
    /// Since when a piece of the answer waits for him.
    unread: Option<Instant>,
    /// He has said something.
    heard: bool,
}

impl Turn {
    fn change<T>(&self, change: impl FnOnce(&mut Waits) -> T) -> T {
        change(&mut self.waits.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The client is waited for; answers since when.
    pub fn ask(&self, now: Instant) -> Instant {
        self.change(|waits| *waits.asked.get_or_insert(now))
    }

    /// He has sent something.
    pub fn hear(&self) {
        self.change(|waits| (waits.asked, waits.heard) = (None, true));
    }

    /// A piece of the answer is on its way to him, or all before it was taken.
    pub fn tell(&self, unread: Option<Instant>) {
        self.change(|waits| waits.unread = unread);
    }

    /// Since when the call waits for its client, if it has done so for long enough to be ended for another's sake; a
    /// mute one after `mute_min`.
    fn silent_since(&self, now: Instant, mute_min: Duration) -> Option<Instant> {
        let waits = self.change(|waits| *waits);
        let patience = if waits.heard { SILENCE_MIN } else { mute_min };
        let old = |since: Option<Instant>, patience| since.filter(|since| now - *since >= patience);
        old(waits.asked, patience).or(old(waits.unread, SILENCE_MIN))
    }

    fn unread_since(&self) -> Option<Instant> {
        self.change(|waits| waits.unread)
    }
}

struct Guest {
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
    turn: Arc<Turn>,
}

/// A call that may go on.
pub struct Admitted {
    pub id: u64,
    pub turn: Arc<Turn>,
    /// A silent one had to make room.
    pub ended_another: bool,
}

/// Who came in at the door, and what had to be done for it.
pub struct Entered {
    pub id: u64,
    pub end: Arc<End>,
    /// A quiet one had to make room.
    pub ended_another: bool,
}

/// All who are there. Those that were told to end are no more counted, though they may still be on their way out.
pub struct House {
    connections_max: usize,
    guests: BTreeMap<u64, Guest>,
    calls: BTreeMap<u64, Held>,
    next: u64,
}

impl House {
    pub fn new(connections_max: usize) -> House {
        House { connections_max, guests: BTreeMap::new(), calls: BTreeMap::new(), next: 0 }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Sockets that are open, also of those who are on their way out, are not many more than may be.
    pub fn has_a_socket_left(&self) -> bool {
        self.guests.len() < self.connections_max + self.connections_max / 4 + 1
    }

    /// Somebody comes in; `None` when all who are there are at work.
    pub fn came(&mut self, from: IpAddr, now: Instant) -> Option<Entered> {
        let mut ended_another = false;
        if self.guests.values().filter(|guest| !guest.end.is_said()).count() >= self.connections_max {
            self.guests.get(&self.quietest(now)?)?.end.say();
            ended_another = true;
        }
        let (id, end) = (self.number(), Arc::<End>::default());
        self.guests.insert(id, Guest { from, idle: now, called: false, calls: 0, end: end.clone() });
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

    /// Since when a guest does nothing: he has no call, or is silent in all of them.
    fn quiet_since(&self, id: u64, guest: &Guest, now: Instant) -> Option<Instant> {
        if guest.calls == 0 {
            return Some(guest.idle);
        }
        let mine = self.calls.values().filter(|call| call.guest == Some(id));
        let silent: Option<Vec<Instant>> = mine.map(|call| call.turn.silent_since(now, MUTE_MIN)).collect();
        silent?.into_iter().max()
    }

    /// His socket is closed.
    pub fn left(&mut self, id: u64) {
        self.guests.remove(&id);
    }

    /// A call that waits costs its client nothing, and is never silent: with these alone nobody fills the house.
    fn most(&self, kind: Kind) -> usize {
        match kind {
            Kind::Wait => kind.most().min(self.connections_max / 4).max(1),
            _ => kind.most(),
        }
    }

    /// A call begins; an error says how many of its kind there are, all at work.
    pub fn call_came(&mut self, kind: Kind, guest: Option<u64>, now: Instant) -> Result<Admitted, usize> {
        let at_work = self.calls.values().filter(|call| call.kind == kind && !call.turn.end.is_said());
        let mut ended_another = false;
        let most = self.most(kind);
        if at_work.count() >= most {
            let victim = self.most_silent(kind, guest, now).ok_or(most)?;
            self.end_call(victim);
            ended_another = true;
        }
        let (id, turn) = (self.number(), Arc::<Turn>::default());
        self.calls.insert(id, Held { kind, guest, turn: turn.clone() });
        if let Some(guest) = guest.and_then(|guest| self.guests.get_mut(&guest)) {
            (guest.called, guest.calls) = (true, guest.calls + 1);
        }
        Ok(Admitted { id, turn, ended_another })
    }

    /// Of the silent calls of a kind, from the address that has most of them, and of those from the connection that has:
    /// the one that is silent for the longest time.
    fn most_silent(&self, kind: Kind, newcomer: Option<u64>, now: Instant) -> Option<u64> {
        let here = || self.calls.iter().filter(|(_, call)| call.kind == kind && !call.turn.end.is_said());
        let from = |call: &Held| Some(self.guests.get(&call.guest?)?.from);
        let (mut of_address, mut of_guest) = (BTreeMap::new(), BTreeMap::new());
        for (_, call) in here() {
            *of_address.entry(from(call)).or_insert(0usize) += 1;
            *of_guest.entry(call.guest).or_insert(0usize) += 1;
        }
        let of_newcomer = of_guest.get(&newcomer).copied().unwrap_or(0);
        let silent = here().filter_map(|(id, call)| {
            let mute_min = if of_guest[&call.guest] > of_newcomer { MUTE_OF_MANY_MIN } else { MUTE_MIN };
            Some((*id, call, call.turn.silent_since(now, mute_min)?))
        });
        let found = silent.max_by_key(|(id, call, since)| {
            let longest = now.saturating_duration_since(*since);
            (of_address[&from(call)], of_guest[&call.guest], longest, u64::MAX - id)
        });
        found.map(|(id, ..)| id)
    }

    fn end_call(&self, id: u64) {
        let Some(call) = self.calls.get(&id) else { return };
        call.turn.end.say();
        // What of an answer lies in the connection's buffers goes with it alone.
        if call.turn.unread_since().is_some()
            && let Some(guest) = call.guest.and_then(|guest| self.guests.get(&guest))
        {
            guest.end.say();
        }
    }

    /// A call is over; answers what it was.
    pub fn call_left(&mut self, id: u64, now: Instant) -> Option<Kind> {
        let call = self.calls.remove(&id)?;
        if let Some(guest) = call.guest.and_then(|guest| self.guests.get_mut(&guest)) {
            (guest.calls, guest.idle) = (guest.calls.saturating_sub(1), now);
        }
        Some(call.kind)
    }

    /// Ends the connections without a call for too long, and those that do not take an answer; says how many.
    pub fn look(&self, now: Instant) -> usize {
        let unread = |call: &Held| call.turn.unread_since().is_some_and(|since| now - since >= UNREAD);
        let stuck = self.calls.values().filter(|call| unread(call)).filter_map(|call| call.guest);
        let idle = self.guests.iter().filter(|(_, guest)| {
            let patience = if guest.called { IDLE } else { FIRST_CALL };
            guest.calls == 0 && now.saturating_duration_since(guest.idle) >= patience
        });
        let mut ended = 0;
        for id in stuck.chain(idle.map(|(id, _)| *id)) {
            if let Some(guest) = self.guests.get(&id).filter(|guest| !guest.end.is_said()) {
                guest.end.say();
                ended += 1;
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn later(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn who_comes_to_a_full_house_gets_the_place_of_the_quietest_of_the_most() {
        let (start, mut house) = (Instant::now(), House::new(4));
        let mut came = |from, ms| house.came(from, later(start, ms)).unwrap();
        let oldest = came(B, 0);
        let first = came(A, 1);
        let second = came(A, 2);
        let third = came(A, 3);
        let fifth = came(B, 4);
        assert!(fifth.ended_another && first.end.is_said());
        // Two each now: the quietest of all. Those who were told to end are not told again.
        let sixth = came(B, 5);
        assert!(sixth.ended_another && oldest.end.is_said());
        assert!(!second.end.is_said() && !third.end.is_said() && !fifth.end.is_said());
    }

    #[test]
    fn who_is_at_work_keeps_his_place() {
        let (start, mut house) = (Instant::now(), House::new(2));
        for _ in 0..2 {
            let guest = house.came(A, start).unwrap();
            house.call_came(Kind::Commit, Some(guest.id), start).unwrap();
        }
        assert!(house.came(B, later(start, 60_000)).is_none(), "both are at work");
        // Silent in his only call, for long enough.
        let silent = house.calls.values().next().unwrap().turn.clone();
        silent.ask(later(start, 60_000));
        assert!(house.came(B, later(start, 60_500)).is_none());
        assert!(house.came(B, later(start, 61_500)).is_some());
    }

    #[test]
    fn a_silent_call_makes_room_and_one_that_is_heard_does_not() {
        let (start, mut house) = (Instant::now(), House::new(9));
        let (many, few) = (house.came(A, start).unwrap().id, house.came(A, start).unwrap().id);
        let most = Kind::Verify.most();
        let mut turns: Vec<_> =
            (1..most).map(|_| house.call_came(Kind::Verify, Some(many), start).unwrap().turn).collect();
        turns.push(house.call_came(Kind::Verify, Some(few), start).unwrap().turn);
        assert_eq!(house.call_came(Kind::Verify, Some(few), later(start, 90_000)).err(), Some(most));
        for turn in &turns {
            turn.ask(start);
        }
        turns[0].hear();
        turns[1].hear();
        turns[1].ask(start);
        let soon = later(start, 500);
        let same = |house: &mut House, at| house.call_came(Kind::Verify, Some(many), at);
        assert!(same(&mut house, soon).is_err(), "half a second is no silence for who has as many");
        let newcomer = house.came(B, start).unwrap().id;
        assert!(house.call_came(Kind::Verify, Some(newcomer), later(start, 50)).is_err());
        let admitted = house.call_came(Kind::Verify, Some(newcomer), soon).unwrap();
        assert!(admitted.ended_another);
        let ended: Vec<usize> = (0..most).filter(|at| turns[*at].end.is_said()).collect();
        assert_eq!(ended, [2], "the first of the connection with the most that has never said a word");
        assert!(same(&mut house, later(start, 1500)).unwrap().ended_another, "a second is one for all");
        // Another kind has its own places.
        assert!(!house.call_came(Kind::Commit, Some(many), soon).unwrap().ended_another);
    }

    #[test]
    fn those_who_only_wait_leave_room_for_who_works() {
        let (start, mut house) = (Instant::now(), House::new(8));
        for _ in 0..8 {
            let guest = house.came(A, start).unwrap();
            let _ = house.call_came(Kind::Wait, Some(guest.id), start);
        }
        let came = house.came(B, later(start, 1)).unwrap();
        assert!(came.ended_another, "six of them have no call");
        assert_eq!(house.call_came(Kind::Wait, Some(came.id), start).err(), Some(2));
        assert!(house.call_came(Kind::Commit, Some(came.id), start).is_ok());
    }

    #[test]
    fn an_answer_that_is_not_taken_goes_with_its_connection() {
        let (start, mut house) = (Instant::now(), House::new(9));
        let stuck = house.came(A, start).unwrap();
        let turn = house.call_came(Kind::Fetch, Some(stuck.id), start).unwrap().turn;
        turn.tell(Some(start));
        assert_eq!(house.look(later(start, 89_000)), 0);
        assert_eq!(house.look(start + UNREAD), 1);
        assert!(stuck.end.is_said());
        assert_eq!(house.look(start + UNREAD), 0, "once");
    }

    #[test]
    fn a_connection_without_a_call_ends_in_time() {
        let (start, mut house) = (Instant::now(), House::new(9));
        let mute = house.came(A, start).unwrap();
        let once = house.came(A, start).unwrap();
        let at_work = house.came(A, start).unwrap();
        let call = house.call_came(Kind::Short, Some(once.id), start).unwrap().id;
        house.call_came(Kind::Commit, Some(at_work.id), start).unwrap();
        assert_eq!(house.call_left(call, later(start, 5_000)), Some(Kind::Short));
        assert_eq!(house.look(later(start, 9_000)), 0);
        assert_eq!(house.look(start + FIRST_CALL), 1);
        assert!(mute.end.is_said() && !once.end.is_said());
        assert_eq!(house.look(later(start, 5_000) + IDLE), 1);
        assert!(once.end.is_said() && !at_work.end.is_said());
    }

    #[test]
    fn guests_have_a_part_of_the_files_and_never_all() {
        for files in [256, 1024, 20_000, u64::MAX] {
            let bounds = Bounds::of(files);
            assert!(((bounds.clients + bounds.http) as u64) <= files / 2, "{files}: {bounds:?}");
            assert!(bounds.clients >= 16 && bounds.http >= 16, "{files}: {bounds:?}");
        }
        assert_eq!(Bounds::of(1_048_576), Bounds { clients: 1024, http: 128 });
    }
}
