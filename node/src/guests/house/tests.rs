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
    turns[0].hear(start);
    turns[1].hear(start);
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
    let all: Vec<_> = house.here(Kind::Wait).map(|(id, call)| (id, call.turn.clone())).collect();
    assert_eq!(all.len(), 2);
    // Of the address that has the most, the oldest; it may ask again.
    assert!(house.call_came(Kind::Wait, Some(came.id), later(start, 2)).unwrap().ended_another);
    assert!(all[0].1.answer_end.is_said() && !all[1].1.answer_end.is_said());
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

#[test]
fn other_nodes_find_a_place_that_strangers_do_not() {
    let (start, mut house) = (Instant::now(), House::new(4));
    house.know([B].into());
    let fill = |house: &mut House, from| {
        let guest = house.came(from, start).unwrap().id;
        (0..Kind::Short.most())
            .take_while(|_| house.call_came(Kind::Short, Some(guest), start).is_ok())
            .count()
    };
    assert_eq!(fill(&mut house, A), Kind::Short.most());
    assert_eq!(fill(&mut house, A), 0);
    assert_eq!(fill(&mut house, B), RESERVED);
    for _ in 0..2 {
        let guest = house.came(A, start).unwrap().id;
        house.call_came(Kind::Fetch, Some(guest), start).unwrap();
    }
    assert!(house.came(A, start).is_none_or(|entered| entered.ended_another), "only idle ones make room");
    assert!(house.came(B, start).is_some_and(|entered| !entered.ended_another));
    // A wait of another node is not ended for a stranger.
    let (node, stranger) = (house.came(B, start).unwrap().id, house.guests.keys().next().copied());
    let waits = house.call_came(Kind::Wait, Some(node), start).unwrap().turn;
    assert_eq!(house.call_came(Kind::Wait, stranger, later(start, 9)).err(), Some(1));
    assert!(!waits.end.is_said());
}

#[test]
fn signs_of_life_alone_keep_no_place_from_who_has_fewer() {
    let (start, mut house) = (Instant::now(), House::new(9));
    let many = house.came(A, start).unwrap().id;
    let turns: Vec<_> = (0..Kind::Commit.most())
        .map(|_| house.call_came(Kind::Commit, Some(many), start).unwrap().turn)
        .collect();
    for second in 0..31 {
        for (at, turn) in turns.iter().enumerate() {
            turn.ask(later(start, second * 1000));
            turn.hear(later(start, second * 1000 + 900));
            if at != 5 && second % 10 == 5 {
                turn.progress();
            }
        }
    }
    let newcomer = house.came(A, start).unwrap().id;
    turns[5].ask(later(start, 31_000));
    assert!(house.call_came(Kind::Commit, Some(many), later(start, 33_500)).is_err(), "he has as many");
    assert!(house.call_came(Kind::Commit, Some(newcomer), later(start, 33_500)).unwrap().ended_another);
    let ended: Vec<usize> = (0..turns.len()).filter(|at| turns[*at].end.is_said()).collect();
    assert_eq!(ended, [5], "the others bring theirs on");
}

#[test]
fn an_answer_that_is_not_taken_ends_no_commit_beside_it() {
    let (start, mut house) = (Instant::now(), House::new(9));
    let guest = house.came(A, start).unwrap();
    let commit = house.call_came(Kind::Commit, Some(guest.id), start).unwrap();
    let stuck = house.call_came(Kind::Fetch, Some(guest.id), start).unwrap().turn;
    stuck.tell(Some(start));
    assert_eq!(house.look(start + UNREAD), 1);
    assert!(stuck.end.is_said() && !guest.end.is_said() && !commit.turn.end.is_said());
    assert_eq!(house.look(start + UNREAD), 0, "once");
    house.call_left(commit.id, start + UNREAD);
    assert_eq!(house.look(start + UNREAD), 1);
    assert!(guest.end.is_said(), "nothing keeps it any more");
}

#[test]
fn only_a_few_answers_lie_around_for_the_sake_of_commits() {
    let (start, mut house) = (Instant::now(), House::new(99));
    let guests: Vec<_> = (0..LEFT_LYING_MAX + 2)
        .map(|_| {
            let guest = house.came(A, start).unwrap();
            house.call_came(Kind::Commit, Some(guest.id), start).unwrap();
            house.call_came(Kind::Fetch, Some(guest.id), start).unwrap().turn.tell(Some(start));
            guest
        })
        .collect();
    house.look(start + UNREAD);
    house.look(start + UNREAD);
    assert_eq!(guests.iter().filter(|guest| guest.end.is_said()).count(), 2);
}

#[test]
fn a_commit_by_path_takes_no_place_of_those_that_are_streamed() {
    let (start, mut house) = (Instant::now(), House::new(9));
    for from in [A, B] {
        let guest = house.came(from, start).unwrap().id;
        // More than there are places.
        for _ in 0..Kind::Commit.most() {
            let call = house.call_came(Kind::Commit, Some(guest), start).unwrap();
            assert_eq!(house.call_becomes(call.id, Kind::ByPath), Some(Kind::Commit));
        }
    }
    let last = *house.calls.keys().last().unwrap();
    assert_eq!(house.call_left(last, start), Some(Kind::ByPath));
}
