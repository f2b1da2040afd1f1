//! Incidents are put together from what three sides tell, and must not depend on who tells first.

use std::time::Duration;

use proptest::prelude::*;
use server::control::{Held, Notice, Outcome, Retirement};

use super::{notice, two_live};
use crate::api::views::{CauseKind, IncidentView};
use crate::backend::{BackendKind, Sighting};
use crate::model::{Action, Cause, Command, Event, Incidents, Now, State};
use crate::supervisor::plan::plan;
use crate::supervisor::testing::{died_of, life};
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
            let left =
                Notice::Left { worker, at: now.stamp, cleanly: false, held: vec![held()], siblings: 1 };
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
    let incident = state.incidents.get(&life("web-0.1"))?;
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
        let (mut state, now) = two_live();
        let worker = life("web-0.1");
        if announced {
            let why = Retirement::Recycled;
            notice(&mut state, Notice::Retiring { worker: worker.clone(), why }, now);
        }
        let left =
            Notice::Left { worker: worker.clone(), at: now.stamp, cleanly: true, held: vec![], siblings: 1 };
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
            Notice::Left { worker, at: now.stamp, cleanly: false, held: vec![], siblings: 0 },
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
      "reproduce": "curl http://127.0.0.1:0/crash",
      "backend": "docker",
      "unit": "web-0.1"
    }
    "#);
}
