//! What the supervisor is told of several doors, and where orders go.

use std::collections::BTreeMap;

use server::control::{Held, Notice, Order, Stamp};
use server::identity::{Incarnation, PoolName};

use crate::door::line::Said;
use crate::door::muster::{MemberId, Muster};
use crate::door::{Address, Site};
use crate::model::{Company, DoorEvent, Welcome};

const A: MemberId = MemberId(0);
const B: MemberId = MemberId(1);

fn life(text: &str) -> Incarnation {
    text.parse().unwrap()
}

fn up(linked: &[&str]) -> Said {
    let linked = linked.iter().map(|text| life(text)).collect();
    let welcome = Welcome { pid: 1, pools: BTreeMap::new(), linked, seen: Vec::new() };
    Said::Up { welcome, tunnel: Some(([0, 0, 0, 0], 7411).into()) }
}

/// Two doors, of which each has these.
fn two(of_a: &[&str], of_b: &[&str]) -> Muster {
    let mut muster = Muster::default();
    for (member, linked) in [(A, of_a), (B, of_b)] {
        let name = format!("door-{}", member.0);
        let address = Address::There(format!("10.0.0.{}:7411", member.0));
        muster.found(member, Site { name, address, machine: None });
        muster.hear(member, up(linked));
    }
    muster
}

fn joined(worker: &str) -> Said {
    Said::Notice(Notice::Joined { worker: life(worker), at: Stamp::now() })
}

fn held(turn: u64) -> Held {
    Held {
        turn,
        request: "GET /".to_owned(),
        held_for: std::time::Duration::ZERO,
        delivery: 1,
        overran: false,
    }
}

fn left(worker: &str) -> Said {
    let (worker, at, held) = (life(worker), Stamp::now(), vec![held(5)]);
    Said::Notice(Notice::Left { worker, at, cleanly: false, vanished: None, held, siblings: 0 })
}

/// What the supervisor is told, in words.
fn told(events: &[DoorEvent]) -> Vec<String> {
    let word = |event: &DoorEvent| match event {
        DoorEvent::Up(_) => "up".to_owned(),
        DoorEvent::Another(_) => "another".to_owned(),
        DoorEvent::Company(company) => format!("{company:?}"),
        DoorEvent::Dark(machines) => format!("dark {machines:?}"),
        DoorEvent::Lost { linked, .. } => format!("lost {linked:?}"),
        DoorEvent::Mute { linked } => format!("mute {linked:?}"),
        DoorEvent::Heard { linked } => format!("heard {linked:?}"),
        DoorEvent::Silent => "silent".to_owned(),
        DoorEvent::Answers => "answers".to_owned(),
        DoorEvent::Down { .. } => "down".to_owned(),
        DoorEvent::Notice(Notice::Left { worker, .. }) => format!("{worker} left"),
        DoorEvent::Notice(Notice::Moved { worker, .. }) => format!("{worker} moved"),
        DoorEvent::Notice(Notice::Joined { worker, .. }) => format!("{worker} joined"),
        DoorEvent::Notice(notice) => format!("{notice:?}").split([' ', '{']).next().unwrap().to_owned(),
    };
    events.iter().map(word).collect()
}

fn drain(worker: &str) -> Order {
    Order::Drain { worker: life(worker) }
}

#[test]
fn one_door_is_told_of_as_it_is() {
    let mut muster = Muster::default();
    muster.found(A, Site::here("/run/door.sock"));
    assert_eq!(told(&muster.hear(A, up(&["web-0.1"]))), ["up"]);
    assert_eq!(told(&muster.hear(A, joined("web-1.1"))), ["web-1.1 joined"]);
    assert_eq!(told(&muster.hear(A, left("web-0.1"))), ["web-0.1 left"]);
    assert_eq!(told(&muster.hear(A, Said::Silent)), ["silent"]);
    assert_eq!(told(&muster.hear(A, Said::Answers)), ["answers"]);
    assert_eq!(told(&muster.hear(A, Said::Notice(Notice::Stopping))), ["Stopping"]);
    assert_eq!(told(&muster.hear(A, Said::Down { why: String::new() })), ["down"]);
    assert_eq!(told(&muster.hear(A, up(&[]))), ["up"]);
}

#[test]
fn a_door_of_several_that_goes_leaves_its_workers_to_the_others() {
    let mut muster = two(&["web-0.1", "web-1.1"], &["web-2.1"]);
    muster.hear(B, joined("web-1.1"));
    let gone = muster.hear(A, Said::Down { why: "it broke".to_owned() });
    assert_eq!(told(&gone), ["lost [web-0.1]"], "the other one has come to B already");
    assert_eq!(told(&muster.hear(B, joined("web-0.1"))), ["web-0.1 joined"]);
    assert_eq!(muster.route(&drain("web-0.1")), [B]);
    assert_eq!(told(&muster.hear(A, up(&[]))), ["another"]);
    assert_eq!(told(&muster.hear(B, Said::Down { why: String::new() })).len(), 1);
    assert_eq!(told(&muster.hear(A, Said::Down { why: String::new() })), ["down"]);
}

#[test]
fn what_a_door_says_of_a_worker_that_has_joined_another_changes_nothing() {
    let mut muster = two(&["web-0.1"], &[]);
    assert_eq!(told(&muster.hear(B, joined("web-0.1"))), ["web-0.1 joined"]);
    assert_eq!(told(&muster.hear(A, left("web-0.1"))), [""; 0]);
    let broke = Notice::Broke { worker: life("web-0.1"), detail: String::new() };
    assert_eq!(told(&muster.hear(A, Said::Notice(broke))), [""; 0]);
    assert_eq!(told(&muster.hear(B, left("web-0.1"))), ["web-0.1 left"]);
}

#[test]
fn who_is_lost_at_one_door_is_let_in_at_no_other() {
    let mut muster = two(&["web-0.1", "web-1.1", "web-2.1"], &["web-3.1"]);
    let bury = |worker: &str| vec![(B, Order::Bury { worker: life(worker) })];
    assert_eq!(told(&muster.hear(A, left("web-0.1"))), ["web-0.1 left"]);
    assert_eq!(muster.follow_ups(), bury("web-0.1"));
    assert_eq!(muster.follow_ups(), [], "once");
    muster.hear(B, joined("web-1.1"));
    muster.hear(A, left("web-1.1"));
    assert_eq!(muster.follow_ups(), [], "it has come to another door, which told first");
    muster.hear(
        A,
        Said::Notice(Notice::Left {
            worker: life("web-2.1"),
            at: Stamp::now(),
            cleanly: true,
            vanished: None,
            held: Vec::new(),
            siblings: 0,
        }),
    );
    assert_eq!(muster.follow_ups(), bury("web-2.1"), "it has gone of its own accord, and its token is left");
    muster.hear(A, Said::Down { why: String::new() });
    assert_eq!(muster.follow_ups(), [], "whose door has gone is to find another");
}

#[test]
fn a_door_on_its_way_out_keeps_its_workers_until_it_has_gone() {
    let mut muster = two(&["web-0.1"], &["web-1.1"]);
    assert_eq!(told(&muster.leaves(A)), [""; 0]);
    assert!(!muster.has_gone(A));
    assert_eq!(muster.roll().doors.len(), 1, "nobody is dealt out to it");
    assert_eq!(muster.route(&drain("web-0.1")), [A]);
    assert_eq!(
        told(&muster.hear(B, Said::Notice(Notice::Stopping))),
        ["Stopping"],
        "none stays that is open"
    );
    assert_eq!(told(&muster.hear(A, Said::Down { why: String::new() })), ["lost [web-0.1]"]);
    assert!(muster.has_gone(A));
    assert!(muster.roll().absent.is_empty(), "nobody is to dial it");
}

#[test]
fn while_a_door_is_there_that_is_not_understood_it_is_unclear_who_is_at_none() {
    const C: MemberId = MemberId(2);
    let mut muster = two(&["web-0.1"], &[]);
    assert_eq!(muster.company(), Company::Several);
    muster.found(C, Site::here("/run/door.sock"));
    muster.hear(C, Said::Foreign);
    assert_eq!(muster.company(), Company::Unclear);
    muster.leaves(C);
    assert_eq!((muster.company(), muster.has_gone(C)), (Company::Unclear, false));
    muster.hear(C, Said::Away);
    assert_eq!((muster.company(), muster.has_gone(C)), (Company::Several, true));
}

#[test]
fn whose_home_loses_it_while_another_door_has_it_is_at_home_there() {
    let mut muster = two(&["web-0.1"], &["web-0.1"]);
    assert_eq!(told(&muster.hear(A, left("web-0.1"))), [""; 0]);
    assert_eq!(muster.route(&drain("web-0.1")), [B]);
    assert_eq!(told(&muster.hear(B, left("web-0.1"))), ["web-0.1 left"]);
}

#[test]
fn a_worker_that_is_sent_to_another_door_does_not_leave_in_whichever_order_that_is_told() {
    let moved = |to: &str| Said::Notice(Notice::Moved { worker: life("web-0.1"), to: to.to_owned() });
    for arrives_first in [true, false] {
        let mut muster = two(&["web-0.1", "web-1.1"], &[]);
        let to = "10.0.0.1:7411".to_owned();
        assert_eq!(muster.route(&Order::Move { worker: life("web-0.1"), to: to.clone() }), [A]);
        let stays: Vec<bool> = muster.roll().doors[0].workers.iter().map(|(_, stays)| *stays).collect();
        assert_eq!(stays, [false, true], "nobody is sent twice");
        let events = match arrives_first {
            true => [muster.hear(B, joined("web-0.1")), muster.hear(A, moved(&to))],
            false => [muster.hear(A, moved(&to)), muster.hear(B, joined("web-0.1"))],
        };
        let expected: &[&str] = match arrives_first {
            true => &["web-0.1 joined"],
            false => &["web-0.1 moved", "web-0.1 joined"],
        };
        assert_eq!(told(&events.into_iter().flatten().collect::<Vec<_>>()), expected);
        assert_eq!(muster.home(&life("web-0.1")), Some(B));
        assert_eq!(told(&muster.hear(B, left("web-0.1"))), ["web-0.1 left"]);
    }
}

#[test]
fn a_silent_door_of_several_is_told_of_by_its_workers() {
    let mut muster = two(&["web-0.1"], &["web-1.1"]);
    assert_eq!(told(&muster.hear(A, Said::Silent)), ["mute [web-0.1]"]);
    assert_eq!(muster.answering(), [B]);
    assert_eq!(told(&muster.hear(B, Said::Silent)), ["silent"]);
    assert_eq!(told(&muster.hear(A, Said::Answers)), ["answers", "mute [web-1.1]"]);
    assert_eq!(told(&muster.hear(B, Said::Answers)), ["heard [web-1.1]"]);
    muster.hear(B, Said::Silent);
    let rest = muster.hear(A, Said::Down { why: String::new() });
    assert_eq!(told(&rest), ["lost [web-0.1]", "silent"], "those that are left are all silent");
}

#[test]
fn clients_are_let_in_as_long_as_one_door_does_not_stop() {
    let mut muster = two(&[], &[]);
    let stopping = || Said::Notice(Notice::Stopping);
    assert_eq!(told(&muster.hear(A, stopping())), [""; 0]);
    assert_eq!(told(&muster.hear(B, stopping())), ["Stopping"]);
    assert_eq!(told(&muster.hear(A, Said::Down { why: String::new() })), ["lost []"]);
    assert_eq!(told(&muster.hear(A, up(&[]))), ["another"]);
    let gone = muster.hear(A, Said::Down { why: String::new() });
    assert_eq!(told(&gone), ["lost []", "Stopping"], "only the one that stops is left");
}

#[test]
fn orders_go_where_they_belong() {
    let mut muster = two(&["web-0.1"], &["web-1.1", "web-2.1", "raw-0.1"]);
    let (web, raw): (PoolName, PoolName) = ("web".parse().unwrap(), "raw".parse().unwrap());
    let request = |pool: &PoolName| Order::Request {
        pool: pool.clone(),
        method: "GET".to_owned(),
        path: "/".to_owned(),
    };
    assert_eq!(muster.route(&drain("web-0.1")), [A]);
    assert_eq!(muster.route(&drain("web-9.1")), [], "nobody has it");
    assert_eq!(muster.route(&Order::Bury { worker: life("web-0.1") }), [A, B]);
    assert_eq!(muster.route(&Order::Stop), [A, B]);
    assert_eq!((muster.route(&request(&web)), muster.route(&request(&raw))), (vec![B], vec![B]));
    muster.hear(B, Said::Silent);
    assert_eq!(muster.route(&request(&web)), [A], "a silent door serves nobody");
}

#[test]
fn a_pool_has_one_trickle_and_the_end_of_another_is_none() {
    let mut muster = two(&["web-0.1"], &["web-1.1", "web-2.1"]);
    let web: PoolName = "web".parse().unwrap();
    let lasting = std::time::Duration::from_secs(1);
    let trickle = Order::Trickle { pool: web.clone(), path: "/".to_owned(), per_second: 1.0, lasting };
    let ended = || Said::Notice(Notice::TrickleEnded { pool: web.clone() });
    assert_eq!(muster.route(&trickle), [B]);
    for worker in ["web-3.1", "web-4.1"] {
        muster.hear(A, joined(worker));
    }
    assert_eq!(muster.route(&trickle), [B], "in the place of the one that there is");
    assert_eq!(told(&muster.hear(A, ended())), [""; 0]);
    assert_eq!(muster.route(&Order::EndTrickle { pool: web.clone() }), [B]);
    let gone = muster.hear(B, Said::Down { why: String::new() });
    assert_eq!(told(&gone)[1..], ["TrickleEnded"], "it went with its door");
    assert_eq!(muster.route(&trickle), [A]);
    assert_eq!(told(&muster.hear(A, ended())), ["TrickleEnded"]);
}

#[test]
fn turns_of_two_doors_have_different_numbers() {
    let mut muster = two(&["web-0.1"], &["web-1.1"]);
    let number = |events: Vec<DoorEvent>| match &events[..] {
        [DoorEvent::Notice(Notice::Left { held, .. })] => held[0].turn,
        [DoorEvent::Notice(Notice::Settled { turn, .. })] => *turn,
        _ => unreachable!("{events:?}"),
    };
    let (of_a, of_b) = (number(muster.hear(A, left("web-0.1"))), number(muster.hear(B, left("web-1.1"))));
    assert_eq!(of_a, 5, "the first door's keep theirs");
    assert_ne!(of_a, of_b);
    assert!(of_b < 1 << 53);
    let settled = Notice::Settled {
        worker: life("web-1.1"),
        turn: 5,
        at: Stamp::now(),
        outcome: server::control::Outcome::Finished,
    };
    assert_eq!(number(muster.hear(B, Said::Notice(settled))), of_b);
}

#[test]
fn machines_are_dark_whose_doors_nothing_answers_for() {
    let mut muster = Muster::default();
    for (member, name) in [(A, "a"), (B, "b")] {
        let machine = Some(format!("node-{name}"));
        muster.found(member, Site { name: name.to_owned(), machine, ..Site::here("/run/door.sock") });
    }
    assert!(muster.dark().is_empty());
    muster.hear(A, Said::Dark(true));
    assert_eq!(muster.dark().into_iter().collect::<Vec<_>>(), ["node-a"]);
    muster.hear(B, Said::Dark(true));
    muster.hear(A, up(&[]));
    assert_eq!(muster.dark().into_iter().collect::<Vec<_>>(), ["node-b"], "it is there again");
    muster.forget(B);
    assert!(muster.dark().is_empty(), "it is none of ours any more");
}
