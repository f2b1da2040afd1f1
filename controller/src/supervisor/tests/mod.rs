//! The supervisor's stories: the pure parts in a world of their own, with a clock of its own; the loop between a
//! fake backend and a fake door, with real sockets and real time.
#![expect(clippy::unwrap_used, reason = "tests")]

mod applying;
mod doors;
mod incidents;
mod listings;
mod starts;
mod stories;
mod telling;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use server::control::{Notice, Stamp};

use super::plan::plan;
use super::testing::{pool, unit};
use crate::model::{Action, DoorEvent, Event, Now, State, Welcome};

/// A state in which web-0.1 and web-1.1 are live, and the moment at which they are.
fn two_live() -> (State, Now) {
    let spec = pool("web", 2);
    let hash = spec.spec_hash();
    let now = Now { at: Instant::now(), stamp: Stamp::now(), luck: 0.5 };
    let mut state = State::new([(Arc::new(spec), hash)], now.at);
    let welcome = Welcome { pid: 1, pools: BTreeMap::new(), linked: vec![], seen: vec![] };
    state.fold(Event::Door(DoorEvent::Up(welcome)), now);
    state.fold(Event::Listed { began: now.at, result: Ok(vec![]) }, now);
    for action in plan(&state, now.at).actions {
        state.begin(&action, now);
        if let Action::Spawn { life } = action {
            let result = Ok(unit(&life));
            state.fold(Event::Spawned { life: life.clone(), result }, now);
            notice(&mut state, Notice::Joined { worker: life, at: now.stamp }, now);
        }
    }
    (state, now)
}

fn notice(state: &mut State, notice: Notice, now: Now) {
    state.fold(Event::Door(DoorEvent::Notice(notice)), now);
}
