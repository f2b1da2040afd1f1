//! Who is told of the end of a life, who must not come in any more, and who ends a life while the backend is away.

use std::collections::BTreeMap;

use server::control::Notice;

use super::listings::{after, alive, listed};
use super::stories::left;
use super::{notice, overran, two_in, two_live, unmanned};
use crate::backend::{BackendError, Sighting, Unit};
use crate::model::{Action, Cause, Company, DoorEvent, Event, KillReason, Now, Phase, State, Welcome};
use crate::supervisor::plan::plan;
use crate::supervisor::testing::{died_of, life};

/// Another door comes.
fn another(state: &mut State, linked: &[&str], now: Now) {
    let linked = linked.iter().map(|text| life(text)).collect();
    let welcome = Welcome { pid: 2, pools: BTreeMap::new(), linked, seen: vec![] };
    state.fold(Event::Door(DoorEvent::Another(welcome)), now);
}

/// What is to be done now, which is begun.
fn begun(state: &mut State, now: Now) -> Vec<Action> {
    let actions = plan(state, now.at).actions;
    actions.iter().for_each(|action| state.begin(action, now));
    actions
}

fn is_silent(state: &mut State, now: Now) {
    let unreachable = BackendError::Unreachable {
        engine: "the cluster".to_owned(),
        operation: "list",
        source: "it is away".into(),
    };
    state.fold(Event::Sighted(Sighting::Unreachable(unreachable)), now);
}

#[test]
fn a_pods_door_ends_its_process_while_the_api_is_away() {
    let (mut state, now) = two_in(|life| Unit::Pod { name: format!("pod-{life}"), node: None });
    is_silent(&mut state, now);
    notice(&mut state, overran(life("web-0.1")), now);
    let by_the_door = |actions: &[Action]| {
        matches!(actions, [Action::KillByDoor { life, why: KillReason::RequestTimeout { .. } }]
            if life.to_string() == "web-0.1")
    };
    let actions = begun(&mut state, now);
    assert!(by_the_door(&actions), "{actions:?}");
    assert_eq!(begun(&mut state, now), [], "once");
    let later = after(now, 999);
    assert!(!begun(&mut state, later).iter().any(|action| *action != Action::List));

    // The API is back before the process has ended: it has its half to do.
    let back = after(now, 1_500);
    let found = ["web-0.1", "web-1.1"].map(|text| alive(&life(text)));
    state.fold(Event::Listed { began: back.at, result: Ok(found.into()) }, back);
    let actions = begun(&mut state, back);
    assert!(
        matches!(&actions[..], [Action::Kill { life, .. }] if life.to_string() == "web-0.1"),
        "{actions:?}"
    );
}

#[test]
fn the_death_by_the_door_frees_the_place_while_the_api_is_away() {
    let (mut state, now) = two_in(|life| Unit::Pod { name: format!("pod-{life}"), node: None });
    is_silent(&mut state, now);
    notice(&mut state, overran(life("web-0.1")), now);
    begun(&mut state, now);
    notice(&mut state, left("web-0.1", vec![]), now);
    assert!(matches!(state.place(&life("web-0.1").worker).unwrap().phase, Phase::Empty { .. }));
}

#[test]
fn who_is_no_pod_is_killed_by_its_engine_alone() {
    let (mut state, now) = two_live();
    is_silent(&mut state, now);
    notice(&mut state, overran(life("web-0.1")), now);
    assert_eq!(begun(&mut state, now), []);
}

#[test]
fn a_death_before_it_has_come_to_any_door_is_made_known_to_all() {
    let (mut state, now) = unmanned();
    state.fold(Event::Listed { began: now.at, result: Ok(vec![]) }, now);
    begun(&mut state, now);
    let died = Sighting::Died { life: life("web-0.1"), autopsy: died_of(Cause::Exit(1)) };
    state.fold(Event::Sighted(died), now);
    assert!(begun(&mut state, now).contains(&Action::Bury { life: life("web-0.1") }));
}

#[test]
fn a_door_that_comes_is_told_whose_lives_are_over_once_it_is_known_who_lives() {
    let (mut state, now) = two_live();
    notice(&mut state, left("web-0.1", vec![]), now);
    begun(&mut state, now);
    another(&mut state, &[], now);
    let brief = |lives: &[&str]| Action::Brief { lives: lives.iter().map(|text| life(text)).collect() };
    assert!(begun(&mut state, now).contains(&brief(&["web-0.1"])), "web-0.2 and web-1.1 live");
    assert!(!begun(&mut state, now).iter().any(|action| matches!(action, Action::Brief { .. })), "once");

    // The next controller knows it from who is there.
    let (mut state, now) = unmanned();
    assert_eq!(begun(&mut state, now), [Action::List], "nobody knows yet who lives");
    listed(&mut state, after(now, 1), &["web-0.7", "web-1.1"], after(now, 2));
    let now = after(now, 2);
    assert!(begun(&mut state, now).contains(&brief(&["web-0.6"])));
    assert!(state.over().contains(&life("web-0.6")));

    // Whoever lives is not among them, even if his place is another's by now.
    notice(&mut state, left("web-5.9", vec![]), now);
    listed(&mut state, after(now, 1), &["web-0.7", "web-1.1", "web-5.8"], after(now, 2));
    assert!(state.over().contains(&life("web-5.7")), "{:?}", state.over());
}

#[test]
fn who_is_in_no_books_and_in_no_listing_since_he_came_is_turned_out() {
    let joined = |state: &mut State, now: Now| {
        notice(state, Notice::Joined { worker: life("web-0.9"), at: now.stamp }, now);
    };
    let turned_out = |actions: &[Action]| actions.contains(&Action::TurnOut { life: life("web-0.9") });
    let (mut state, now) = two_live();
    joined(&mut state, after(now, 10));
    assert_eq!(begun(&mut state, after(now, 10)), [Action::List]);
    // This one began before.
    listed(&mut state, after(now, 5), &["web-0.1", "web-1.1"], after(now, 20));
    assert_eq!(begun(&mut state, after(now, 20)), [Action::List], "another is asked for");
    listed(&mut state, after(now, 20), &["web-0.1", "web-1.1"], after(now, 30));
    assert!(!turned_out(&begun(&mut state, after(now, 30))), "the only door knows who has left it");
    state.fold(Event::Door(DoorEvent::Company(Company::Several)), after(now, 30));
    let actions = begun(&mut state, after(now, 30));
    assert!(turned_out(&actions), "{actions:?}");
    assert!(!turned_out(&begun(&mut state, after(now, 30))), "once");

    // Made by a backend that had not answered: it is known, and not wanted.
    let (mut state, now) = two_live();
    state.fold(Event::Door(DoorEvent::Company(Company::Several)), now);
    joined(&mut state, after(now, 10));
    begun(&mut state, after(now, 10));
    listed(&mut state, after(now, 20), &["web-0.1", "web-1.1", "web-0.9"], after(now, 30));
    assert!(!turned_out(&begun(&mut state, after(now, 30))));

    // Gone before anybody could say who it was.
    let (mut state, now) = two_live();
    state.fold(Event::Door(DoorEvent::Company(Company::Several)), now);
    joined(&mut state, after(now, 10));
    notice(&mut state, left("web-0.9", vec![]), after(now, 15));
    listed(&mut state, after(now, 20), &["web-0.1", "web-1.1"], after(now, 30));
    assert!(!turned_out(&begun(&mut state, after(now, 30))));
}
