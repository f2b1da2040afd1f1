//! Incidents are put together from what three sides tell, and must not depend on who tells first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use server::control::{Held, Notice, Outcome, Retirement, Stamp};
use server::identity::Incarnation;

use super::{notice, two_live};
use crate::api::views::{CauseKind, IncidentView};
use crate::backend::{BackendKind, Found, Sighting, Vital};
use crate::model::{Action, Cause, Command, DoorEvent, Event, Incidents, Now, State, Welcome};
use crate::supervisor::plan::plan;
use crate::supervisor::testing::{died_of, life, pool, unit};
use crate::supervisor::views;

fn held() -> Held {
    let held_for = Duration::from_millis(12);
    Held { turn: 5, request: "GET /crash".to_owned(), held_for, delivery: 1, overran: false }
}

#[derive(Debug, Clone, Copy)]
enum Told {
    Left,
    Settled,
    Died,
    Overran,
}

fn tell(state: &mut State, what: Told, now: Now) {
    let worker = life("web-0.1");
    match what {
        Told::Left => {
            let left = Notice::Left {
                worker,
                at: now.stamp,
                cleanly: false,
                held: vec![held()],
                siblings: 1,
                vanished: None,
            };
            notice(state, left, now);
        }
        Told::Settled => {
            let outcome = Outcome::Answered { status: 502, why: "POST is not idempotent".to_owned() };
            notice(state, Notice::Settled { worker, turn: 5, at: now.stamp, outcome }, now);
        }
        Told::Died => {
            let autopsy = died_of(Cause::Exit(3));
            state.fold(Event::Sighted(Sighting::Died { life: worker, autopsy }), now);
        }
        Told::Overran => notice(state, Notice::Overran { worker, held: held() }, now),
    }
}

fn the_incident(state: &State) -> Option<IncidentView> {
    incident_of(state, &life("web-0.1"))
}

fn incident_of(state: &State, worker: &Incarnation) -> Option<IncidentView> {
    let incident = state.incidents.get(worker)?;
    Some(views::incident(state, BackendKind::Docker, incident))
}

proptest! {
    #[test]
    fn what_is_told_of_a_death_may_come_in_any_order(
        order in Just([Told::Left, Told::Settled, Told::Died]).prop_shuffle(),
        overran: bool,
    ) {
        let (mut state, now) = two_live();
        let (mut other, _) = two_live();
        for state in [&mut state, &mut other] {
            if overran {
                tell(state, Told::Overran, now);
            }
        }
        for what in [Told::Left, Told::Settled, Told::Died] {
            tell(&mut state, what, now);
        }
        for what in order {
            tell(&mut other, what, now);
        }
        let incident = the_incident(&state);
        let kind = if overran { CauseKind::RequestTimeout } else { CauseKind::Exit };
        prop_assert_eq!(incident.as_ref().map(|incident| incident.cause.kind), Some(kind));
        prop_assert_eq!(incident, the_incident(&other));
        prop_assert_eq!(
            state.pools[0].places[&0].streak, 1, "one death, however often it is told of"
        );
        prop_assert_eq!(other.pools[0].places[&0].streak, 1);
    }

    #[test]
    fn a_goodbye_is_no_incident_whoever_tells_first(died_first: bool, announced: bool) {
        let (mut state, then) = two_live();
        let now = later(then, HEALTHY);
        let worker = life("web-0.1");
        if announced {
            let why = Retirement::Recycled;
            notice(&mut state, Notice::Retiring { worker: worker.clone(), why }, now);
        }
        let left =
            Notice::Left { worker: worker.clone(), at: now.stamp, cleanly: true, held: vec![], siblings: 1 , vanished: None};
        let died = Event::Sighted(Sighting::Died { life: worker, autopsy: died_of(Cause::Exit(0)) });
        if died_first {
            state.fold(died, now);
            notice(&mut state, left, now);
        } else {
            notice(&mut state, left, now);
            state.fold(died, now);
        }
        prop_assert_eq!(the_incident(&state), None);
        prop_assert_eq!(state.pools[0].places[&0].streak, 0);
        let spawn = Action::Spawn { life: life("web-0.2") };
        prop_assert!(plan(&state, now.at).actions.contains(&spawn), "its successor waits for nothing");
    }

    #[test]
    fn a_goodbye_that_nobody_asked_for_counts_until_a_worker_has_been_healthy(
        died_first: bool,
        announced: bool,
    ) {
        let (mut state, mut now) = two_live();
        for generation in 1..=6 {
            let worker = life("web-0.1").worker.life(generation);
            let why = Retirement::Told;
            if announced {
                notice(&mut state, Notice::Retiring { worker: worker.clone(), why }, now);
            }
            let at = now.stamp;
            let died = Event::Sighted(Sighting::Died { life: worker.clone(), autopsy: died_of(Cause::Exit(0)) });
            let left = Notice::Left { worker: worker.clone(), at, cleanly: true, held: vec![], siblings: 1 , vanished: None};
            if died_first {
                state.fold(died, now);
                notice(&mut state, left, now);
            } else {
                notice(&mut state, left, now);
                state.fold(died, now);
            }
            prop_assert!(state.incidents.get(&worker).is_none(), "it said goodbye");
            prop_assert_eq!(state.pools[0].places[&0].streak, u32::try_from(generation).unwrap());
            now = later(now, Duration::from_secs(4));
            join(&mut state, "web-0", now);
        }
        let soon = later(now, Duration::from_millis(1));
        let worker = state.place(&life("web-0.1").worker).unwrap().phase.tenant().unwrap().life.clone();
        let left = Notice::Left { worker, at: soon.stamp, cleanly: true, held: vec![], siblings: 1 , vanished: None};
        notice(&mut state, left, soon);
        let spawns = plan(&state, soon.at).actions.into_iter().any(|it| matches!(it, Action::Spawn { .. }));
        prop_assert!(!spawns, "the seventh in a row has to wait");
    }

    #[test]
    fn a_goodbye_said_while_no_controller_listened_is_no_incident(
        listed_first: bool,
        began_later: bool,
        code_is_known: bool,
    ) {
        let (mut state, now) = adopting();
        let worker = life("web-0.4");
        let left =
            Notice::Left { worker: worker.clone(), at: now.stamp, cleanly: true, held: vec![], siblings: 1 , vanished: None};
        let cause = if code_is_known { Cause::Exit(0) } else { Cause::Lost };
        let heard = later(now, Duration::from_millis(5));
        if listed_first {
            list_dead(&mut state, now, &worker, cause, heard);
            notice(&mut state, left, heard);
        } else {
            notice(&mut state, left, heard);
            let began = if began_later { later(heard, Duration::from_millis(1)) } else { now };
            list_dead(&mut state, began, &worker, cause, later(heard, Duration::from_millis(2)));
        }
        prop_assert_eq!(incident_of(&state, &worker), None);
        let removal = plan(&state, heard.at).actions.into_iter().any(
            |action| matches!(action, Action::Remove { life, .. } if life == worker)
        );
        prop_assert!(removal, "what is left of it is seen to at once");
        // And not after another word of its death either.
        let died = Sighting::Died { life: worker.clone(), autopsy: died_of(Cause::Exit(0)) };
        state.fold(Event::Sighted(died), heard);
        prop_assert_eq!(incident_of(&state, &worker), None);
    }

    #[test]
    fn a_death_that_only_the_door_saw_gets_its_cause_from_the_first_listing(
        listed_first: bool,
        began_later: bool,
        code in prop_oneof![Just(0), Just(3)],
    ) {
        let (mut state, now) = adopting();
        let worker = life("web-0.4");
        let left = Notice::Left {
            worker: worker.clone(), at: now.stamp, cleanly: false, held: vec![held()], siblings: 1, vanished: None
        };
        let heard = later(now, Duration::from_millis(5));
        if listed_first {
            list_dead(&mut state, now, &worker, Cause::Exit(code), heard);
            notice(&mut state, left, heard);
        } else {
            notice(&mut state, left, heard);
            let began = if began_later { later(heard, Duration::from_millis(1)) } else { now };
            list_dead(&mut state, began, &worker, Cause::Exit(code), later(heard, Duration::from_millis(2)));
        }
        let incident = incident_of(&state, &worker).unwrap();
        prop_assert_eq!(incident.cause.detail, format!("exit code {code}"));
        prop_assert_eq!(incident.last_output, ["last words"]);
    }
}

/// As long as a worker has to be ready to count as healthy.
const HEALTHY: Duration = Duration::from_secs(10);

fn later(now: Now, by: Duration) -> Now {
    Now { at: now.at + by, stamp: Stamp::from(SystemTime::from(now.stamp) + by), ..now }
}

/// A state of a controller that has just met the door, has asked for its first listing, and knows nobody.
fn adopting() -> (State, Now) {
    let spec = pool("web", 2);
    let hash = spec.spec_hash();
    let now = Now { at: Instant::now(), stamp: Stamp::now(), luck: 0.5 };
    let mut state = State::new([(Arc::new(spec), hash)], now.at);
    state.begin(&Action::List, now);
    let welcome = Welcome { pid: 1, pools: BTreeMap::new(), linked: vec![], seen: vec![life("web-0.4")] };
    state.fold(Event::Door(DoorEvent::Up(welcome)), now);
    (state, now)
}

fn list_dead(state: &mut State, began: Now, whom: &Incarnation, cause: Cause, now: Now) {
    let found = Found {
        life: whom.clone(),
        unit: unit(whom),
        spec_hash: "hash".to_owned(),
        vital: Vital::Dead(died_of(cause)),
    };
    state.fold(Event::Listed { began: began.at, result: Ok(vec![found]) }, now);
}

/// Has the place's next worker spawned and lets it join; its back-off must be over.
fn join(state: &mut State, place: &str, now: Now) {
    for action in plan(state, now.at).actions {
        state.begin(&action, now);
        if let Action::Spawn { life } = action
            && life.worker.to_string() == place
        {
            state.fold(Event::Spawned { life: life.clone(), result: Ok(unit(&life)) }, now);
            notice(state, Notice::Joined { worker: life, at: now.stamp }, now);
        }
    }
}

#[test]
fn a_worker_that_was_healthy_for_long_is_replaced_at_once_whatever_it_is_killed_for() {
    let (mut state, mut now) = two_live();
    for generation in 1..=4 {
        let worker = life("web-0.1").worker.life(generation);
        let left =
            Notice::Left { worker, at: now.stamp, cleanly: false, held: vec![], siblings: 1, vanished: None };
        notice(&mut state, left, now);
        now = later(now, Duration::from_secs(1));
        join(&mut state, "web-0", now);
    }
    let now = later(now, HEALTHY);
    let worker = life("web-0.5");
    assert!(state.tenant(&worker).is_some());
    notice(&mut state, Notice::Overran { worker: worker.clone(), held: held() }, now);
    let left = Notice::Left {
        worker,
        at: now.stamp,
        cleanly: false,
        held: vec![held()],
        siblings: 1,
        vanished: None,
    };
    notice(&mut state, left, now);
    let spawn = Action::Spawn { life: life("web-0.6") };
    assert!(plan(&state, now.at).actions.contains(&spawn), "{:?}", state.pools[0].places[&0]);
}

#[test]
fn a_signal_sent_on_request_does_not_excuse_another_death() {
    let (mut state, now) = two_live();
    let worker = life("web-0.1");
    // SIGUSR1, which it survived; then it ran out of memory.
    state.fold(Event::Command(Command::Kill { worker: worker.worker.clone(), signal: 10 }), now);
    let autopsy = died_of(Cause::Oom { limit_bytes: Some(64 << 20) });
    state.fold(Event::Sighted(Sighting::Died { life: worker, autopsy }), now);
    let incident = the_incident(&state).unwrap();
    assert_eq!((incident.cause.kind, incident.cause.detail.as_str()), (CauseKind::Oom, "64 MiB"));
    assert_eq!(incident.steps_ms.detected, None);
}

#[test]
fn a_signal_that_did_not_kill_does_not_colour_a_later_death() {
    let (stop, usr1, term, kill) = (19, 10, 15, 9);
    let soon = Duration::from_millis(300);
    let much_later = Duration::from_secs(60);
    for (signal, after, cause, asked_for) in [
        (kill, soon, Cause::Signal(kill), true),
        (kill, soon, Cause::Lost, true),
        (usr1, soon, Cause::Signal(usr1), true),
        (usr1, soon, Cause::Lost, true),
        (usr1, soon, Cause::Signal(kill), false),
        (usr1, much_later, Cause::Signal(usr1), false),
        (usr1, much_later, Cause::Lost, false),
        (term, much_later, Cause::Signal(term), false),
        (stop, soon, Cause::Signal(stop), false),
        (stop, soon, Cause::Lost, false),
    ] {
        let (mut state, now) = two_live();
        let worker = life("web-0.1");
        state.fold(Event::Command(Command::Kill { worker: worker.worker.clone(), signal }), now);
        let now = later(now, after);
        tell(&mut state, Told::Left, now);
        let died = Sighting::Died { life: worker, autopsy: died_of(cause.clone()) };
        state.fold(Event::Sighted(died), now);
        let incident = the_incident(&state).unwrap();
        let told = incident.cause.detail.ends_with("sent on request");
        assert_eq!(told, asked_for, "{signal} and {after:?} later {cause:?}: {incident:?}");
        let detected = incident.steps_ms.detected;
        assert_eq!(detected.is_some(), asked_for, "{signal} and {after:?} later {cause:?}: {detected:?}");
    }
}

#[test]
fn a_later_signal_does_not_hide_the_kill() {
    let (mut state, now) = two_live();
    let worker = life("web-0.1");
    for signal in [9, 10, 18] {
        state.fold(Event::Command(Command::Kill { worker: worker.worker.clone(), signal }), now);
    }
    let died = Sighting::Died { life: worker, autopsy: died_of(Cause::Signal(9)) };
    state.fold(Event::Sighted(died), later(now, Duration::from_millis(20)));
    assert_eq!(the_incident(&state).unwrap().cause.detail, "SIGKILL, sent on request");
}

#[test]
fn what_is_killed_for_certainty_keeps_the_reason_that_it_died_of() {
    let (mut state, now) = two_live();
    tell(&mut state, Told::Left, now);
    let later = Now { at: now.at + Duration::from_secs(1), ..now };
    // First the backend is told of the closed link, then, when nothing comes of it, to kill.
    let mut kills = 0;
    for at in [now, later] {
        for action in plan(&state, at.at).actions {
            state.begin(&action, at);
            kills += usize::from(matches!(action, Action::Finish { .. }));
        }
    }
    assert_eq!(kills, 1);
    tell(&mut state, Told::Died, later);
    assert_eq!(the_incident(&state).unwrap().cause.detail, "exit code 3");
}

#[test]
fn a_controller_that_was_away_still_hears_of_the_dead() {
    let (mut state, now) = two_live();
    let left = Notice::Left {
        worker: life("gone-0.4"),
        at: now.stamp,
        cleanly: false,
        held: vec![held()],
        siblings: 0,
        vanished: None,
    };
    notice(&mut state, left, now);
    let incident = state.incidents.get(&life("gone-0.4")).unwrap();
    let incident = views::incident(&state, BackendKind::Docker, incident);
    assert_eq!(incident.held[0].outcome, "pending");
}

#[test]
fn only_the_latest_incidents_are_kept() {
    let (mut state, now) = two_live();
    let most = u64::try_from(Incidents::MOST).unwrap();
    for generation in 1..=most + 5 {
        let worker = life("gone-0.1").worker.life(generation);
        notice(
            &mut state,
            Notice::Left { worker, at: now.stamp, cleanly: false, held: vec![], siblings: 0, vanished: None },
            now,
        );
    }
    assert_eq!(state.incidents.iter().count(), Incidents::MOST);
    assert_eq!(state.incidents.get(&life("gone-0.5")), None);
    assert!(state.incidents.get(&life("gone-0.6")).is_some());
}

#[test]
fn an_incident_reads_like_this() {
    let (mut state, now) = two_live();
    for what in [Told::Left, Told::Settled, Told::Died] {
        tell(&mut state, what, now);
    }
    let mut incident = the_incident(&state).unwrap();
    incident.at = "2026-01-02T03:04:05Z".to_owned();
    insta::assert_json_snapshot!(incident, @r#"
    {
      "id": "web-0.1",
      "pool": "web",
      "worker": "web-0",
      "at": "2026-01-02T03:04:05Z",
      "cause": {
        "kind": "exit",
        "detail": "exit code 3"
      },
      "held": [
        {
          "request": "GET /crash",
          "outcome": "answered",
          "to": null,
          "status": 502,
          "why": "POST is not idempotent",
          "added_ms": null
        }
      ],
      "steps_ms": {
        "detected": null,
        "redelivered": null,
        "spawned": null,
        "ready": null
      },
      "siblings": 1,
      "last_output": [
        "last words"
      ],
      "memory": null,
      "siblings_failed": null,
      "reproduce": "curl -g --path-as-is http://127.0.0.1:0/crash",
      "backend": "docker",
      "unit": "web-0.1",
      "trouble": null,
      "complete": false
    }
    "#);
}
