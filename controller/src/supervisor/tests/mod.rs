//! The supervisor's stories: the pure parts in a world of their own, with a clock of its own; the loop between a
//! fake backend and a fake door, with real sockets and real time.
#![expect(clippy::unwrap_used, reason = "tests")]

mod applying;
mod astray;
mod doors;
mod endings;
mod incidents;
mod listings;
mod starts;
mod stories;
mod telling;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use server::control::{Held, Notice, Stamp};
use server::identity::Incarnation;

use super::plan::plan;
use super::testing::{pool, unit};
use crate::backend::Unit;
use crate::model::{Action, DoorEvent, Event, Now, State, Welcome};

/// A state in which two workers of `web` are wanted, the door is there, and the backend has not been asked.
fn unmanned() -> (State, Now) {
    let spec = pool("web", 2);
    let hash = spec.spec_hash();
    let now = Now { at: Instant::now(), stamp: Stamp::now(), luck: 0.5 };
    let mut state = State::new([(Arc::new(spec), hash)], now.at);
    let welcome = Welcome { pid: 1, pools: BTreeMap::new(), linked: vec![], seen: vec![] };
    state.fold(Event::Door(DoorEvent::Up(welcome)), now);
    (state, now)
}

/// A state in which web-0.1 and web-1.1 are live, and the moment at which they are.
fn two_live() -> (State, Now) {
    two_in(unit)
}

/// The same where each of them is in this unit.
fn two_in(units: impl Fn(&Incarnation) -> Unit) -> (State, Now) {
    let (mut state, now) = unmanned();
    state.fold(Event::Listed { began: now.at, result: Ok(vec![]) }, now);
    for action in plan(&state, now.at).actions {
        state.begin(&action, now);
        if let Action::Spawn { life } = action {
            let result = Ok(units(&life));
            state.fold(Event::Spawned { life: life.clone(), result }, now);
            notice(&mut state, Notice::Joined { worker: life, at: now.stamp }, now);
        }
    }
    (state, now)
}

/// A turn of this worker's has taken longer than it may.
fn overran(worker: Incarnation) -> Notice {
    let held = Held {
        turn: 1,
        request: "GET /hang".to_owned(),
        held_for: Duration::from_secs(30),
        delivery: 1,
        overran: true,
    };
    Notice::Overran { worker, held }
}

fn notice(state: &mut State, notice: Notice, now: Now) {
    state.fold(Event::Door(DoorEvent::Notice(notice)), now);
}
