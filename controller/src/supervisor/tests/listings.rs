//! A listing is the truth of the moment at which it began, and of no later one.

use std::time::{Duration, SystemTime};

use server::control::Notice;
use server::identity::Incarnation;

use super::{notice, two_live};
use crate::backend::{Found, Sighting, Vital};
use crate::model::{Cause, Event, Now, Stage, State};
use crate::supervisor::testing::{died_of, life, unit};

fn alive(life: &Incarnation) -> Found {
    let vital = Vital::Alive { since: SystemTime::now() };
    Found { life: life.clone(), unit: unit(life), spec_hash: "hash".to_owned(), vital }
}

fn after(now: Now, ms: u64) -> Now {
    Now { at: now.at + Duration::from_millis(ms), ..now }
}

fn listed(state: &mut State, began: Now, found: &[&str], now: Now) {
    let found = found.iter().map(|text| alive(&life(text))).collect();
    state.fold(Event::Listed { began: began.at, result: Ok(found) }, now);
}

fn tenants(state: &State) -> Vec<String> {
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
    let left = Notice::Left {
        worker: life("web-0.4"),
        at: now.stamp,
        cleanly: false,
        held: vec![],
        siblings: 1,
        vanished: None,
    };
    notice(&mut state, left, now);
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
