//! What the supervisor makes of several doors.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use server::control::Notice;

use super::{notice, two_live};
use crate::model::{Action, Command, DoorEvent, DrainOrder, Event, Now, Phase, State, Told, Welcome};
use crate::supervisor::plan::plan;
use crate::supervisor::testing::life;

fn door(state: &mut State, event: DoorEvent, now: Now) {
    state.fold(Event::Door(event), now);
}

fn another(linked: &[&str]) -> DoorEvent {
    let linked = linked.iter().map(|text| life(text)).collect();
    DoorEvent::Another(Welcome { pid: 2, pools: BTreeMap::new(), linked, seen: vec![] })
}

fn lost(worker: &str) -> DoorEvent {
    DoorEvent::Lost { linked: vec![life(worker)], why: "it broke".to_owned() }
}

fn later(now: Now, after: Duration) -> Now {
    Now { at: now.at + after, ..now }
}

/// What is to be done about somebody; a listing is about nobody.
fn planned(state: &State, at: Instant) -> Vec<Action> {
    let actions = plan(state, at).actions.into_iter();
    actions.filter(|action| *action != Action::List).collect()
}

fn phase<'a>(state: &'a State, worker: &str) -> &'a Phase {
    &state.place(&life(worker).worker).unwrap().phase
}

#[test]
fn workers_of_a_door_that_is_gone_have_their_time_to_dial_another_and_others_are_not_touched() {
    let (mut state, now) = two_live();
    door(&mut state, another(&[]), now);
    let now = later(now, Duration::from_secs(60));
    door(&mut state, lost("web-0.1"), now);
    assert!(matches!(phase(&state, "web-0.1"), Phase::Starting { since, .. } if *since == now.at));
    assert!(matches!(phase(&state, "web-1.1"), Phase::Live { .. }));
    assert_eq!(planned(&state, now.at), [], "nobody is killed or replaced for it");
    notice(&mut state, Notice::Joined { worker: life("web-0.1"), at: now.stamp }, now);
    assert!(matches!(phase(&state, "web-0.1"), Phase::Live { .. }));
    assert!(state.is_linked(&life("web-0.1")));
}

#[test]
fn who_finds_no_other_door_in_time_is_killed_for_that() {
    let (mut state, now) = two_live();
    door(&mut state, lost("web-0.1"), now);
    // Its start, and the time of a turn that it may have been at.
    let times = state.pools[0].spec.door.timeouts;
    let allowed = times.start + times.request.unwrap();
    assert_eq!(planned(&state, now.at + allowed - Duration::from_millis(1)), []);
    let planned = planned(&state, now.at + allowed);
    assert!(
        matches!(&planned[..], [Action::Kill { life, .. }] if life.to_string() == "web-0.1"),
        "{planned:?}"
    );
}

#[test]
fn a_worker_that_is_moved_has_its_time_as_well() {
    let (mut state, now) = two_live();
    let moved = Notice::Moved { worker: life("web-1.1"), to: "10.0.0.2:7411".to_owned() };
    notice(&mut state, moved, now);
    assert!(matches!(phase(&state, "web-1.1"), Phase::Starting { .. }));
    assert_eq!(plan(&state, now.at).actions, []);
}

#[test]
fn another_door_brings_in_whom_it_has_and_opens_what_was_closed() {
    let (mut state, now) = two_live();
    door(&mut state, lost("web-0.1"), now);
    notice(&mut state, Notice::Stopping, now);
    door(&mut state, another(&["web-0.1"]), now);
    assert!(matches!(phase(&state, "web-0.1"), Phase::Live { .. }));
    assert!(matches!(state.door, crate::model::DoorState::Up { open: true, .. }));
}

#[test]
fn who_is_at_a_silent_door_of_several_is_told_by_a_signal() {
    let (mut state, now) = two_live();
    let drain = |state: &mut State, worker: &str| {
        state.fold(Event::Command(Command::Drain { worker: life(worker).worker }), now);
        plan(state, now.at).actions
    };
    door(&mut state, DoorEvent::Mute { linked: vec![life("web-0.1")] }, now);
    let planned = drain(&mut state, "web-0.1");
    assert!(
        matches!(&planned[..], [Action::Drain { order: DrainOrder::Sigterm(_), .. }]),
        "its door would not tell it: {planned:?}"
    );
    planned.iter().for_each(|action| state.begin(action, now));
    let planned = drain(&mut state, "web-1.1");
    assert!(matches!(&planned[..], [Action::Drain { order: DrainOrder::ThroughDoor, .. }]), "{planned:?}");
    planned.iter().for_each(|action| state.begin(action, now));
    door(&mut state, DoorEvent::Mute { linked: vec![life("web-1.1")] }, now);
    let untold = Phase::is_untold(phase(&state, "web-1.1"));
    assert!(untold, "what the door was to tell it, it may not have told");
    door(&mut state, DoorEvent::Heard { linked: vec![life("web-1.1")] }, now);
    let planned = plan(&state, now.at).actions;
    assert!(matches!(&planned[..], [Action::Drain { order: DrainOrder::ThroughDoor, .. }]), "{planned:?}");
}

impl Phase {
    fn is_untold(&self) -> bool {
        matches!(self, Self::Draining { told: Told::Nobody, .. })
    }
}
