//! The figures behind `/metrics`: what the door has counted, and what the controller has.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use server::control::Stamp;

use super::tell::Teller;
use super::views;
use crate::api::metrics::{Measured, PoolMeasured};
use crate::backend::BackendKind;
use crate::model::{DoorState, Engine, State};

/// Everything that is measured. Of a door that is away, what it said last.
pub(super) fn measure(state: &State, backend: BackendKind, teller: &Teller, started: Stamp) -> Measured {
    let since_epoch = SystemTime::from(started).duration_since(SystemTime::UNIX_EPOCH);
    let workers = views::workers(state, backend);
    let pools = views::pools(state, backend).into_iter().zip(&state.pools).map(|(view, pool)| {
        let report = state.report.as_ref();
        let seen = report.and_then(|report| report.pools.iter().find(|it| it.name == *pool.name()));
        let mut phases = BTreeMap::new();
        for worker in workers.iter().filter(|worker| worker.pool == view.name) {
            *phases.entry(worker.phase).or_default() += 1;
        }
        PoolMeasured {
            pool: view,
            phases,
            longest_wait: seen.map_or(Duration::ZERO, |seen| seen.longest_wait).as_secs_f64(),
            turn_time: seen.map(|seen| seen.turn_time.clone()).unwrap_or_default(),
            queue_wait: seen.map(|seen| seen.queue_wait.clone()).unwrap_or_default(),
            deaths: teller.deaths(pool.name()),
        }
    });
    Measured {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        backend: views::backend_name(backend).to_owned(),
        started_at: since_epoch.unwrap_or_default().as_secs_f64(),
        door_up: matches!(state.door, DoorState::Up { .. }),
        engine_up: state.engine == Engine::Answers,
        events: 0,
        pools: pools.collect(),
    }
}
