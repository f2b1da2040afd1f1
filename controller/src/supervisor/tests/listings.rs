//! A listing is the truth of the moment at which it began, and of no later one.

use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use server::control::Notice;
use server::identity::Incarnation;

use super::stories::left;
use super::{notice, two_live, unmanned};
use crate::backend::{BackendError, Found, Sighting, Vital};
use crate::model::{Action, ActionError, Cause, Errand, Event, Incident, Now, Reason, Stage, State};
use crate::supervisor::plan::plan;
use crate::supervisor::testing::{died_of, life, unit};

pub(super) fn alive(life: &Incarnation) -> Found {
    let vital = Vital::Alive { since: SystemTime::now() };
    Found { life: life.clone(), unit: unit(life), spec_hash: "hash".to_owned(), vital }
}

pub(super) fn after(now: Now, ms: u64) -> Now {
    Now { at: now.at + Duration::from_millis(ms), ..now }
}

pub(super) fn listed(state: &mut State, began: Now, found: &[&str], now: Now) {
    let found = found.iter().map(|text| alive(&life(text))).collect();
    state.fold(Event::Listed { began: began.at, result: Ok(found) }, now);
}

pub(super) fn tenants(state: &State) -> Vec<String> {
    state.tenants().map(|tenant| tenant.life.to_string()).collect()
}

#[test]
fn whom_a_later_listing_does_not_know_is_lost() {
    let (mut state, now) = two_live();
    listed(&mut state, after(now, 1), &["web-1.1"], after(now, 2));
    assert_eq!(tenants(&state), ["web-1.1"]);
    assert!(state.incidents.get(&life("web-0.1")).is_some());
}

#[test]
fn whom_an_earlier_listing_does_not_know_may_have_come_since() {
    let (mut state, now) = two_live();
    // It began at the very moment at which both were made, or before.
    listed(&mut state, now, &[], after(now, 100));
    assert_eq!(tenants(&state), ["web-0.1", "web-1.1"]);
}

#[test]
fn an_earlier_listing_does_not_bring_the_dead_back() {
    let (mut state, now) = two_live();
    let began = after(now, 10);
    let died = Sighting::Died { life: life("web-0.1"), autopsy: died_of(Cause::Exit(1)) };
    state.fold(Event::Sighted(died), after(now, 20));
    state.fold(Event::Removed { life: life("web-0.1"), result: Ok(()) }, after(now, 30));
    listed(&mut state, began, &["web-0.1", "web-1.1"], after(now, 40));
    assert_eq!(tenants(&state), ["web-1.1"]);
    assert!(state.remains.is_empty(), "{:?}", state.remains);
}

#[test]
fn whoever_is_alive_after_the_end_of_its_place_was_seen_is_sent_away() {
    let (mut state, now) = two_live();
    notice(&mut state, left("web-0.4", vec![]), now);
    listed(&mut state, after(now, 1), &["web-0.1", "web-1.1", "web-0.4"], after(now, 2));
    assert_eq!(tenants(&state), ["web-0.1", "web-1.1"]);
    assert!(matches!(state.remains[&life("web-0.4")].stage, Stage::Excess { .. }));
}

#[test]
fn two_live_workers_of_one_place_the_later_one_keeps_it() {
    let (mut state, now) = two_live();
    listed(&mut state, after(now, 1), &["web-0.1", "web-1.1", "web-7.2", "web-7.3"], after(now, 2));
    assert!(tenants(&state).contains(&"web-7.3".to_owned()));
    assert!(matches!(state.remains[&life("web-7.2")].stage, Stage::Excess { .. }));
}

#[test]
fn who_waits_in_its_engine_when_it_is_found_is_not_late_before_it_runs() {
    let (mut state, now) = unmanned();
    let vital = Vital::Waiting { since: SystemTime::now(), trouble: Some("no room".to_owned()) };
    let waiting = Found { vital, ..alive(&life("web-0.1")) };
    state.fold(Event::Listed { began: now.at, result: Ok(vec![waiting]) }, now);
    let is_killed = |state: &State, now: Now| {
        plan(state, now.at).actions.iter().any(|action| matches!(action, Action::Kill { .. }))
    };
    let an_hour_later = after(now, 3_600_000);
    assert!(!is_killed(&state, an_hour_later));
    // That it runs, a listing tells as well as a sighting.
    listed(&mut state, an_hour_later, &["web-0.1"], an_hour_later);
    assert!(!is_killed(&state, an_hour_later));
    assert!(is_killed(&state, after(an_hour_later, 3_600_000)));
}

#[test]
fn what_a_worker_died_of_that_is_gone_when_it_is_to_be_killed_a_listing_tells() {
    let (mut state, now) = two_live();
    let victim = life("web-0.1");
    notice(&mut state, left("web-0.1", vec![]), now);
    for ms in [1, 500] {
        for action in plan(&state, after(now, ms).at).actions {
            state.begin(&action, after(now, ms));
        }
    }
    assert!(matches!(state.remains[&victim].stage, Stage::Killing(Errand::UnderWay)));
    let gone = BackendError::Gone { subject: victim.to_string() };
    let signalled =
        Event::Signalled { life: victim.clone(), signal: Signal::KILL.as_raw(), result: Err(gone.into()) };
    state.fold(signalled, after(now, 600));
    let cause = |state: &State| state.incidents.get(&victim).map(Incident::cause);
    assert_eq!(cause(&state), Some(Reason::NotKnownYet));
    assert!(plan(&state, after(now, 600).at).actions.contains(&Action::List));

    let dead = Found { vital: Vital::Dead(died_of(Cause::Exit(3))), ..alive(&victim) };
    let found = vec![dead, alive(&life("web-1.1"))];
    state.fold(Event::Listed { began: after(now, 600).at, result: Ok(found) }, after(now, 700));
    assert_eq!(cause(&state), Some(Reason::Found(Cause::Exit(3))));
    assert!(matches!(state.remains[&victim].stage, Stage::Dead(_)));
}

#[test]
fn who_was_made_after_all_succeeds_whom_it_was_ordered_for() {
    for joins_first in [true, false] {
        let (mut state, now) = two_live();
        let (dead, next) = (life("web-0.1"), life("web-0.2"));
        notice(&mut state, left("web-0.1", vec![]), now);
        state.fold(
            Event::Sighted(Sighting::Died { life: dead.clone(), autopsy: died_of(Cause::Exit(1)) }),
            now,
        );
        assert!(plan(&state, now.at).actions.contains(&Action::Spawn { life: next.clone() }));
        state.begin(&Action::Spawn { life: next.clone() }, now);
        let silence = ActionError::Silence { operation: "spawn", allowed: Duration::from_secs(1) };
        state.fold(Event::Spawned { life: next.clone(), result: Err(silence) }, now);
        let joined = Notice::Joined { worker: next, at: now.stamp };
        if joins_first {
            notice(&mut state, joined.clone(), now);
        }
        listed(&mut state, after(now, 1), &["web-0.2", "web-1.1"], after(now, 2));
        notice(&mut state, joined, after(now, 3));
        let incident = state.incidents.get(&dead).unwrap();
        assert!(incident.spawned.is_some() && incident.is_complete(), "{incident:?}");
    }
}
