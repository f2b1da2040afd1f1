//! What becomes of workers whose machine has gone dark with their door.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use server::control::Notice;

use super::listings::{after, alive, tenants};
use super::{notice, overran, two_in, unmanned};
use crate::backend::{Found, Unit, Vital};
use crate::model::{Action, Company, DoorEvent, Event, Now, Phase, Reason, Stage, State, Welcome};
use crate::supervisor::plan::plan;
use crate::supervisor::testing::life;

/// For how long somebody on a dark machine is waited for, in milliseconds.
const PATIENCE: u64 = 3_000;

fn door(state: &mut State, event: DoorEvent, now: Now) {
    state.fold(Event::Door(event), now);
}

fn lost(state: &mut State, worker: &str, now: Now) {
    door(state, DoorEvent::Lost { linked: vec![life(worker)], why: "it broke".to_owned() }, now);
}

fn dark(state: &mut State, machines: &[&str], now: Now) {
    let machines: BTreeSet<String> = machines.iter().map(|it| (*it).to_owned()).collect();
    door(state, DoorEvent::Dark(machines), now);
}

fn welcome(linked: &[&str]) -> Welcome {
    let linked = linked.iter().map(|text| life(text)).collect();
    Welcome { pid: 2, pools: BTreeMap::new(), linked, seen: vec![] }
}

/// On the machine of its place's number: `web-1.7` is on `node1`.
fn pod(text: &str) -> Unit {
    let node = format!("node{}", life(text).worker.place);
    Unit::Pod { name: text.to_owned(), node: Some(node) }
}

/// There are several doors, and each of two live workers is on a machine of its own.
fn several() -> (State, Now) {
    let (mut state, now) = two_in(|life| pod(&life.to_string()));
    door(&mut state, DoorEvent::Company(Company::Several), now);
    (state, now)
}

/// The moment at which who was lost `now` is given up, and the one before.
fn given_up(now: Now) -> (Now, Now) {
    (after(now, PATIENCE - 1), after(now, PATIENCE))
}

fn is_empty(state: &State, worker: &str) -> bool {
    matches!(state.place(&life(worker).worker).unwrap().phase, Phase::Empty { .. })
}

#[test]
fn who_was_on_a_dark_machine_is_replaced_and_let_in_nowhere() {
    let (mut state, now) = several();
    lost(&mut state, "web-0.1", now);
    let seen = after(now, 2_000);
    dark(&mut state, &["node0"], seen);
    let (just_before, then) = given_up(seen);
    assert_eq!(plan(&state, seen.at).wake, Some(then.at));
    state.fold(Event::Tick, just_before);
    assert!(!is_empty(&state, "web-0.1"));

    state.fold(Event::Tick, then);
    assert!(is_empty(&state, "web-0.1"));
    assert_eq!(tenants(&state), ["web-1.1"], "whose door is there stays");
    let planned = plan(&state, then.at).actions;
    assert!(planned.contains(&Action::Spawn { life: life("web-0.2") }), "{planned:?}");
    assert!(planned.contains(&Action::Bury { life: life("web-0.1") }), "{planned:?}");
    assert!(planned.iter().any(|action| matches!(action, Action::LinkLost { .. })), "{planned:?}");
    planned.iter().for_each(|action| state.begin(action, then));
    assert!(matches!(state.incidents.get(&life("web-0.1")).unwrap().cause(), Reason::Vanished(_)));

    // What is left of it takes as long as it likes, and its place does not wait for it.
    let much_later = after(then, 60_000);
    assert!(plan(&state, much_later.at).actions.iter().any(|action| matches!(action, Action::Finish { .. })));
    assert!(state.remains.contains_key(&life("web-0.1")));
    // It lives, and has come to a door before that was told.
    notice(&mut state, Notice::Joined { worker: life("web-0.1"), at: then.stamp }, then);
    assert!(plan(&state, then.at).actions.contains(&Action::Bury { life: life("web-0.1") }));
}

#[test]
fn a_door_that_crashes_or_hangs_costs_no_worker_its_place() {
    let (mut state, now) = several();
    lost(&mut state, "web-0.1", now);
    // A turn that it is at may keep it from dialling another.
    state.fold(Event::Tick, given_up(now).1);
    assert_eq!(tenants(&state), ["web-0.1", "web-1.1"]);
    // Another machine has gone dark.
    dark(&mut state, &["node2"], now);
    state.fold(Event::Tick, given_up(now).1);
    assert_eq!(tenants(&state), ["web-0.1", "web-1.1"]);
    // Its own was, and is not any more.
    dark(&mut state, &["node0"], now);
    dark(&mut state, &[], given_up(now).0);
    state.fold(Event::Tick, given_up(now).1);
    assert_eq!(tenants(&state), ["web-0.1", "web-1.1"]);
}

#[test]
fn who_has_come_to_another_door_meanwhile_is_left_alone_and_so_is_his_machine() {
    let (mut state, now) = several();
    lost(&mut state, "web-0.1", now);
    dark(&mut state, &["node0"], now);
    let late = after(now, 60_000);
    // What doors have said is heard first, however late it is.
    notice(&mut state, Notice::Joined { worker: life("web-1.1"), at: now.stamp }, late);
    assert!(!is_empty(&state, "web-0.1"));
    notice(&mut state, Notice::Joined { worker: life("web-0.1"), at: now.stamp }, late);
    state.fold(Event::Tick, late);
    assert_eq!(tenants(&state), ["web-0.1", "web-1.1"]);

    // Somebody else of that machine is heard of: it is not the machine.
    let (mut state, now) = two_in(|life| match pod(&life.to_string()) {
        Unit::Pod { name, .. } => Unit::Pod { name, node: Some("node0".to_owned()) },
        other => other,
    });
    door(&mut state, DoorEvent::Company(Company::Several), now);
    lost(&mut state, "web-0.1", now);
    dark(&mut state, &["node0"], now);
    state.fold(Event::Tick, given_up(now).1);
    assert_eq!(tenants(&state), ["web-0.1", "web-1.1"]);
}

#[test]
fn who_finishes_or_is_being_killed_keeps_no_place_either() {
    let (mut state, now) = several();
    notice(&mut state, overran(life("web-0.1")), now);
    let retiring = Notice::Retiring { worker: life("web-1.1"), why: server::control::Retirement::Told };
    notice(&mut state, retiring, now);
    for worker in ["web-0.1", "web-1.1"] {
        lost(&mut state, worker, now);
    }
    dark(&mut state, &["node0", "node1"], now);
    state.fold(Event::Tick, given_up(now).1);
    assert!(is_empty(&state, "web-0.1") && is_empty(&state, "web-1.1"));
}

#[test]
fn while_nobody_could_come_nobody_is_given_up() {
    let down = || DoorEvent::Down { why: "it broke".to_owned() };
    let (mut state, now) = several();
    lost(&mut state, "web-0.1", now);
    dark(&mut state, &["node0"], now);
    door(&mut state, down(), now);
    let back = after(now, 60_000);
    state.fold(Event::Tick, back);
    assert_eq!(tenants(&state), ["web-0.1", "web-1.1"]);
    door(&mut state, DoorEvent::Up(welcome(&["web-1.1"])), back);
    state.fold(Event::Tick, given_up(back).0);
    assert_eq!(tenants(&state), ["web-0.1", "web-1.1"], "each has all of its time");
    state.fold(Event::Tick, given_up(back).1);
    assert_eq!(tenants(&state), ["web-1.1"]);

    // Another is there, and whom it has is not understood; or it is the only one, and its workers wait for it.
    for company in [Company::Unclear, Company::Alone] {
        let (mut state, now) = several();
        lost(&mut state, "web-0.1", now);
        dark(&mut state, &["node0"], now);
        door(&mut state, DoorEvent::Company(company), now);
        state.fold(Event::Tick, given_up(now).1);
        assert_eq!(tenants(&state), ["web-0.1", "web-1.1"], "{company:?}");
    }
}

#[test]
fn whom_the_next_controller_finds_on_a_dark_machine_is_replaced_unless_it_may_be_starting() {
    let (mut state, now) = unmanned();
    door(&mut state, DoorEvent::Company(Company::Several), now);
    dark(&mut state, &["node0", "node1"], now);
    let born = |text: &str, ago: Duration| {
        let since = SystemTime::from(now.stamp) - ago;
        Found { unit: pod(text), vital: Vital::Alive { since }, ..alive(&life(text)) }
    };
    let found = vec![born("web-0.7", Duration::from_secs(3_600)), born("web-1.7", Duration::ZERO)];
    state.fold(Event::Listed { began: now.at, result: Ok(found) }, now);
    state.fold(Event::Tick, given_up(now).0);
    assert_eq!(tenants(&state), ["web-0.7", "web-1.7"]);
    state.fold(Event::Tick, given_up(now).1);
    assert_eq!(tenants(&state), ["web-1.7"]);
    let started = after(now, u64::try_from(state.pools[0].spec.door.timeouts.start.as_millis()).unwrap());
    state.fold(Event::Tick, given_up(started).1);
    assert_eq!(tenants(&state), [""; 0]);
    assert!(matches!(state.remains[&life("web-0.7")].stage, Stage::Severed));
}
