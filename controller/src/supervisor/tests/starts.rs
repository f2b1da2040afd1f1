//! A start time-out is the worker's own: it does not count how long an engine takes to come to its order, nor the turn
//! that it was at work on when its door died.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use server::control::Stamp;

use crate::backend::{Sighting, Unit};
use crate::model::{
    Action, Cause, Command, DoorEvent, DrainOrder, Event, KillReason, Now, State, StopScope, Welcome,
};
use crate::supervisor::plan::plan;
use crate::supervisor::testing::{died_of, life, pool, unit};

#[test]
fn the_time_to_start_runs_from_when_the_backend_has_started_it() {
    let spec = pool("web", 1);
    let allowed = spec.door.timeouts.start;
    let hash = spec.spec_hash();
    let start = Now { at: Instant::now(), stamp: Stamp::now(), luck: 0.5 };
    let after = |time: Duration| Now { at: start.at + time, ..start };
    let mut state = State::new([(Arc::new(spec), hash)], start.at);
    let welcome = Welcome { pid: 1, pools: BTreeMap::new(), linked: vec![], seen: vec![] };
    state.fold(Event::Door(DoorEvent::Up(welcome)), start);
    state.fold(Event::Listed { began: start.at, result: Ok(vec![]) }, start);
    let ordered = Action::Spawn { life: life("web-0.1") };
    assert_eq!(plan(&state, start.at).actions, std::slice::from_ref(&ordered));
    state.begin(&ordered, start);

    // A whole pool has died: the engine comes to this order after three times as long as a worker may take.
    let started = after(allowed * 3);
    let result = Ok(unit(&life("web-0.1")));
    state.fold(Event::Spawned { life: life("web-0.1"), result }, started);
    let kill = |at: Now| {
        let why = KillReason::StartTimeout { allowed };
        let kill = Action::Kill { life: life("web-0.1"), unit: unit(&life("web-0.1")), why };
        plan(&state, at.at).actions.contains(&kill)
    };
    assert!(!kill(started), "it has had no time to become ready");
    assert!(!kill(after(allowed * 4 - Duration::from_millis(1))), "it still has time");
    assert_eq!(plan(&state, started.at).wake.map(|wake| wake <= after(allowed * 4).at), Some(true));
    assert!(kill(after(allowed * 4)), "its time is up");
}

#[test]
fn who_waits_for_room_is_not_late_and_its_pool_says_what_is_wrong() {
    let spec = pool("web", 1);
    let allowed = spec.door.timeouts.start;
    let hash = spec.spec_hash();
    let start = Now { at: Instant::now(), stamp: Stamp::now(), luck: 0.5 };
    let after = |time: Duration| Now { at: start.at + time, ..start };
    let mut state = State::new([(Arc::new(spec), hash)], start.at);
    let welcome = Welcome { pid: 1, pools: BTreeMap::new(), linked: vec![], seen: vec![] };
    state.fold(Event::Door(DoorEvent::Up(welcome)), start);
    state.fold(Event::Listed { began: start.at, result: Ok(vec![]) }, start);
    state.begin(&Action::Spawn { life: life("web-0.1") }, start);
    let waits = |trouble: Option<&str>| {
        let trouble = trouble.map(str::to_owned);
        Event::Sighted(Sighting::Waiting { life: life("web-0.1"), trouble })
    };
    // What is told of it and that it has been made may come in any order.
    state.fold(waits(None), start);
    state.fold(Event::Spawned { life: life("web-0.1"), result: Ok(unit(&life("web-0.1"))) }, start);
    assert_eq!(state.pools[0].trouble(), None, "waiting is no trouble in itself");
    state.fold(waits(Some("no room")), start);
    assert_eq!(state.pools[0].trouble(), Some("no room"));
    let is_killed = |state: &State, at: Now| {
        plan(state, at.at).actions.iter().any(|action| matches!(action, Action::Kill { .. }))
    };
    assert!(!is_killed(&state, after(allowed * 10)), "it has not even been started");

    let started = after(allowed * 10);
    let there = Unit::Pod { name: "bulkhead-web-0-1".to_owned(), node: Some("node2".to_owned()) };
    state.fold(Event::Sighted(Sighting::Started { life: life("web-0.1"), unit: there.clone() }), started);
    assert_eq!(state.pools[0].trouble(), None);
    assert_eq!(state.tenant(&life("web-0.1")).and_then(|it| it.compartment.unit()), Some(&there));
    assert!(!is_killed(&state, after(allowed * 11 - Duration::from_millis(1))), "it still has time");
    assert!(is_killed(&state, after(allowed * 11)), "its time is up");
}

#[test]
fn a_stop_cuts_off_nobody_who_has_never_been_ready() {
    let killed = || Sighting::Died { life: life("web-0.1"), autopsy: died_of(Cause::Signal(9)) };
    let counted = |mut state: State, now: Now| {
        let within = Duration::from_secs(30);
        state.fold(Event::Command(Command::Stop { scope: StopScope::DoorToo, within }), now);
        state.fold(Event::Sighted(killed()), now);
        state.stopping.map(|stopping| (stopping.clean, stopping.killed))
    };
    let (state, start) = super::two_live();
    assert_eq!(counted(state, start), Some((0, 1)), "it may have held something");

    let spec = pool("web", 1);
    let hash = spec.spec_hash();
    let mut state = State::new([(Arc::new(spec), hash)], start.at);
    let welcome = Welcome { pid: 1, pools: BTreeMap::new(), linked: vec![], seen: vec![] };
    state.fold(Event::Door(DoorEvent::Up(welcome)), start);
    state.fold(Event::Listed { began: start.at, result: Ok(vec![]) }, start);
    state.begin(&Action::Spawn { life: life("web-0.1") }, start);
    state.fold(Event::Spawned { life: life("web-0.1"), result: Ok(unit(&life("web-0.1"))) }, start);
    assert_eq!(counted(state, start), Some((0, 0)), "it has held nothing");
}

#[test]
fn who_has_been_ready_may_finish_its_turn_before_it_dials_the_next_door() {
    let (mut state, start) = super::two_live();
    let after = |time: Duration| Now { at: start.at + time, ..start };
    let timeouts = state.pools[0].spec.door.timeouts;
    let turn = timeouts.request.unwrap_or(timeouts.drain);
    state.fold(Event::Door(DoorEvent::Down { why: "it died".to_owned() }), start);
    let welcome = Welcome { pid: 2, pools: BTreeMap::new(), linked: vec![life("web-0.1")], seen: vec![] };
    state.fold(Event::Door(DoorEvent::Up(welcome)), start);
    let killed = |at: Now| -> Vec<String> {
        let kills = plan(&state, at.at).actions.into_iter().filter_map(|action| match action {
            Action::Kill { life, .. } => Some(life.to_string()),
            _ => None,
        });
        kills.collect()
    };
    let allowed = timeouts.start + turn;
    assert_eq!(killed(after(timeouts.start)), Vec::<String>::new(), "it may be at work");
    assert_eq!(killed(after(allowed - Duration::from_millis(1))), Vec::<String>::new());
    assert_eq!(killed(after(allowed)), ["web-1.1"], "no turn takes that long");
}

#[test]
fn a_silent_door_is_not_relied_on_to_send_workers_away() {
    let (mut state, start) = super::two_live();
    state.fold(Event::Command(Command::Drain { worker: life("web-1.1").worker }), start);
    let drains = |state: &State| -> Vec<(String, bool)> {
        let actions = plan(state, start.at).actions.into_iter();
        let drains = actions.filter_map(|action| match action {
            Action::Drain { life, order, .. } => {
                Some((life.to_string(), matches!(order, DrainOrder::Sigterm(_))))
            }
            _ => None,
        });
        drains.collect()
    };
    for action in plan(&state, start.at).actions {
        state.begin(&action, start);
    }
    let stop = Command::Stop { scope: StopScope::DoorToo, within: Duration::from_secs(60) };
    state.fold(Event::Command(stop), start);
    assert_eq!(drains(&state), [], "the door tells them when it is told to stop");
    state.fold(Event::Door(DoorEvent::Silent), start);
    assert_eq!(drains(&state), [("web-0.1".to_owned(), true), ("web-1.1".to_owned(), true)]);
}

#[test]
fn who_has_only_just_been_started_is_told_to_go_until_it_hears() {
    let (mut state, start) = super::two_live();
    let after = |time: Duration| Now { at: start.at + time, ..start };
    // The door has died and a new one has come: for it, `web-1.1` has not joined yet, so a SIGTERM has to do.
    state.fold(Event::Door(DoorEvent::Down { why: "it died".to_owned() }), start);
    let welcome = Welcome { pid: 2, pools: BTreeMap::new(), linked: vec![life("web-0.1")], seen: vec![] };
    state.fold(Event::Door(DoorEvent::Up(welcome)), start);
    let stop = Command::Stop { scope: StopScope::DoorToo, within: Duration::from_secs(3) };
    state.fold(Event::Command(stop), start);

    let mut told = Vec::new();
    let mut killed = None;
    for ms in (0..=4_000_u64).step_by(100) {
        let now = after(Duration::from_millis(ms));
        for action in plan(&state, now.at).actions {
            state.begin(&action, now);
            match action {
                Action::Drain { life, order: DrainOrder::Sigterm(_), .. }
                    if life.to_string() == "web-1.1" =>
                {
                    told.push(ms);
                }
                Action::Kill { life, why, .. } if life.to_string() == "web-1.1" => {
                    assert_eq!(why, KillReason::DrainTimeout);
                    killed.get_or_insert(ms);
                }
                _ => {}
            }
        }
        assert!(
            killed.is_some() || plan(&state, now.at).wake.is_some_and(|wake| wake > now.at),
            "it thinks again by itself"
        );
    }
    assert_eq!(told, [0, 500, 1_000, 1_500, 2_000, 2_500], "one that has not heard is told again");
    assert_eq!(killed, Some(3_000), "being told again earns it no time");
}
