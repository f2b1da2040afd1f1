//! Everything that there is to see at one moment, for those who watch.

use std::time::Duration;

use server::control::{Counters, PoolReport, Stamp};

use super::tell::Teller;
use super::views::{self, millis};
use crate::api::stream_views::{
    ControllerView, DoorView, EngineView, Headline, IncidentCounts, PoolFrame, Quantiles, Recovery, StateFrame,
};
use crate::api::views::{PoolView, rfc3339};
use crate::backend::BackendKind;
use crate::model::{DoorState, Engine, State};

/// The state, with what the door reported last.
pub(super) fn frame(state: &State, backend: BackendKind, teller: &Teller, started: Stamp, now: Stamp) -> StateFrame {
    StateFrame {
        at: rfc3339(now),
        controller: ControllerView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: views::backend_name(backend).to_owned(),
            started_at: rfc3339(started),
        },
        door: match state.door {
            DoorState::Up { pid, .. } => DoorView { up: true, pid: Some(pid) },
            DoorState::NotMetYet | DoorState::Away => DoorView { up: false, pid: None },
        },
        engine: match state.engine {
            Engine::Answers => EngineView::Answers,
            Engine::Silent => EngineView::Silent,
            Engine::NotListedYet => EngineView::NotListedYet,
        },
        pools: views::pools(state, backend).into_iter().map(|pool| pool_frame(state, pool)).collect(),
        workers: views::workers(state, backend),
        turns: Vec::new(),
        turns_omitted: 0,
        trickles: Vec::new(),
        incidents: IncidentCounts {
            total: teller.total_incidents(),
            kept: state.incidents.iter().count() as u64,
        },
    }
}

fn pool_frame(state: &State, pool: PoolView) -> PoolFrame {
    let seen = state.report.as_ref().and_then(|report| report.pools.iter().find(|it| it.name.as_str() == pool.name));
    let recoveries = recoveries(state, &pool.name);
    PoolFrame {
        longest_wait_ms: seen.map_or(0.0, |seen| millis(seen.longest_wait)),
        turn_ms: Quantiles::default(),
        wait_ms: Quantiles::default(),
        headline: headline(seen, recoveries),
        pool,
    }
}

/// How long it took until each dead worker of the pool was replaced, over the incidents that are kept.
fn recoveries(state: &State, pool: &str) -> Vec<Duration> {
    let incidents = state.incidents.iter().filter(|incident| incident.life.worker.pool.as_str() == pool);
    incidents.filter_map(|incident| incident.recovery()).collect()
}

fn headline(seen: Option<&PoolReport>, recoveries: Vec<Duration>) -> Headline {
    let none = Counters::default();
    let counters = seen.map_or(&none, |seen| &seen.counters);
    let answered = counters.turns;
    let lost = lost(counters);
    // What is under way has not ended either way.
    let held = seen.map_or(0, |seen| seen.workers.iter().map(|worker| worker.holding.len() as u64).sum());
    Headline {
        answered,
        redelivered: counters.redelivered,
        lost,
        deaths: counters.deaths,
        deliveries: counters.deliveries,
        effective_success: share(answered, answered + lost),
        actual_success: share(answered, counters.deliveries.saturating_sub(held).max(answered)),
        recovery_ms: recovery(recoveries),
    }
}

/// Requests that a death took from their clients: answered by the door in the worker's place, or cut.
pub(super) fn lost(counters: &Counters) -> u64 {
    let answered = |status| counters.answered.get(&status).copied().unwrap_or(0);
    answered(502) + answered(504) + counters.cut
}

/// `None` while nothing was counted.
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn recovery(mut took: Vec<Duration>) -> Recovery {
    took.sort_unstable();
    let at = |share| nearest_rank(&took, share).map(millis);
    Recovery { median: at(0.5), p99: at(0.99), n: took.len() as u64 }
}

/// The smallest of them that at least `share` of all do not exceed.
fn nearest_rank(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let ms = Duration::from_millis;
        let of = |took: &[u64]| recovery(took.iter().map(|it| ms(*it)).collect());
        assert_eq!(of(&[]), Recovery { median: None, p99: None, n: 0 });
        assert_eq!(of(&[7]), Recovery { median: Some(7.0), p99: Some(7.0), n: 1 });
        assert_eq!(of(&[9, 5, 1]), Recovery { median: Some(5.0), p99: Some(9.0), n: 3 });
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(of(&hundred), Recovery { median: Some(50.0), p99: Some(99.0), n: 100 });
    }

    #[test]
    fn what_a_death_took_is_lost_and_what_a_full_queue_turned_away_is_not() {
        let answered = BTreeMap::from([(400, 9), (502, 2), (503, 5), (504, 1)]);
        assert_eq!(lost(&Counters { answered, cut: 3, ..Counters::default() }), 6);
    }

    #[test]
    fn nothing_counted_is_no_success() {
        let headline = headline(None, Vec::new());
        assert_eq!((headline.effective_success, headline.actual_success), (None, None));
    }
}
