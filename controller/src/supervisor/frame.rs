//! Everything that there is to see at one moment, for those who watch.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use server::control::{Counters, PoolReport, Report, Stamp};
use server::identity::PoolName;
use server::observation::{Histogram, TraceEnd, TrickleReport, TurnTrace};

use super::tell::Teller;
use super::views::{self, millis};
use crate::api::stream_views::{
    ControllerView, DoorView, EngineView, Headline, IncidentCounts, PoolFrame, Quantiles, Recovery,
    StateFrame, TrickleView, TurnEnd, TurnView,
};
use crate::api::views::{PoolView, rfc3339};
use crate::backend::BackendKind;
use crate::model::{DoorState, Engine, Incident, State};

/// How many turns one frame shows.
const MOST_TURNS: usize = 200;
/// Over how long the quantiles of a frame are taken, once somebody has watched for so long.
const WINDOW: Duration = Duration::from_secs(10);
/// Somebody who has watched for less is shown everything since the door started.
const SHORTEST_WINDOW: Duration = Duration::from_secs(2);
/// How far apart what is remembered is at least: a little less than the stream asks for it.
const NOTED_EVERY: Duration = Duration::from_millis(150);

/// What a frame says beyond the state.
#[derive(Debug)]
pub(super) struct About {
    pub(super) backend: BackendKind,
    /// Since when this controller has been running.
    pub(super) started: Stamp,
    /// The moment.
    pub(super) at: Stamp,
    pub(super) turns: Ended,
}

/// Turns that ended since the last frame.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Ended {
    turns: Vec<TurnView>,
    omitted: u64,
}

/// The state, with what the door reported last.
pub(super) fn frame(state: &State, teller: &Teller, lately: &Lately, about: About) -> StateFrame {
    let About { backend, started, at, turns } = about;
    let pools = views::pools(state, backend).into_iter();
    StateFrame {
        at: rfc3339(at),
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
        pools: pools.map(|pool| pool_frame(state, lately, pool)).collect(),
        workers: views::workers(state, backend),
        turns: turns.turns,
        turns_omitted: turns.omitted,
        trickles: trickles(state),
        incidents: IncidentCounts {
            total: teller.total_incidents(),
            kept: state.incidents.iter().count() as u64,
        },
    }
}

/// The requests that the door sends itself; none that is away.
pub(super) fn trickles(state: &State) -> Vec<TrickleView> {
    let report = state.report.as_ref().filter(|_| matches!(state.door, DoorState::Up { .. }));
    let trickles = report.map_or(&[][..], |report| &report.trickles);
    let view = |trickle: &TrickleReport| TrickleView {
        pool: trickle.pool.to_string(),
        path: trickle.path.clone(),
        per_second: trickle.per_second,
        until: rfc3339(trickle.until),
        sent: trickle.sent,
        answered: trickle.answered,
        failed: trickle.failed,
        in_flight: trickle.in_flight as u64,
    };
    trickles.iter().map(view).collect()
}

/// Takes the turns out of a report, the latest of them: what is left of it is noted, and read more than once.
pub(super) fn take_turns(report: Option<&mut Report>) -> Ended {
    let Some(report) = report else { return Ended::default() };
    let mut turns = std::mem::take(&mut report.turns);
    let too_many = turns.len().saturating_sub(MOST_TURNS);
    let omitted = std::mem::take(&mut report.turns_omitted) + too_many as u64;
    Ended { turns: turns.drain(too_many..).map(turn_view).collect(), omitted }
}

fn turn_view(turn: TurnTrace) -> TurnView {
    TurnView {
        turn: turn.turn,
        pool: turn.worker.worker.pool.to_string(),
        worker: turn.worker.worker.to_string(),
        generation: turn.worker.generation,
        request: turn.request,
        began: rfc3339(turn.began),
        took_ms: millis(turn.took),
        delivery: turn.delivery,
        end: match turn.end {
            TraceEnd::Done => TurnEnd::Done,
            TraceEnd::Lost => TurnEnd::Lost,
        },
    }
}

/// What the door's histograms were a while ago, while somebody watches: quantiles since the door started would not move
/// any more after an hour.
#[derive(Debug, Default)]
pub(super) struct Lately(VecDeque<(Instant, Vec<Measured>)>);

/// What was measured of one pool by then.
#[derive(Debug, Clone, PartialEq)]
struct Measured {
    pool: PoolName,
    turn_time: Histogram,
    queue_wait: Histogram,
}

impl Lately {
    /// Remembers what the door reported `now`, unless somebody has asked a moment ago, and forgets what is older than
    /// the window. So how much is kept does not grow with how often it is asked for.
    pub(super) fn note(&mut self, report: Option<&Report>, now: Instant) {
        if self.0.back().is_some_and(|(at, _)| now < *at + NOTED_EVERY) {
            return;
        }
        let pools = report.map_or(&[][..], |report| &report.pools);
        let measured = |pool: &PoolReport| Measured {
            pool: pool.name.clone(),
            turn_time: pool.turn_time.clone(),
            queue_wait: pool.queue_wait.clone(),
        };
        while self.0.front().is_some_and(|(at, _)| *at + WINDOW < now) {
            self.0.pop_front();
        }
        self.0.push_back((now, pools.iter().map(measured).collect()));
    }

    /// Turn time and queue wait of a pool within the window, of which `seen` is the end.
    fn of(&self, seen: &PoolReport) -> (Histogram, Histogram) {
        let whole = || (seen.turn_time.clone(), seen.queue_wait.clone());
        let (Some((first, earliest)), Some((last, _))) = (self.0.front(), self.0.back()) else {
            return whole();
        };
        if last.duration_since(*first) < SHORTEST_WINDOW {
            return whole();
        }
        earliest.iter().find(|earlier| earlier.pool == seen.name).map_or_else(whole, |earlier| {
            (seen.turn_time.since(&earlier.turn_time), seen.queue_wait.since(&earlier.queue_wait))
        })
    }
}

fn pool_frame(state: &State, lately: &Lately, pool: PoolView) -> PoolFrame {
    let seen =
        state.report.as_ref().and_then(|report| report.pools.iter().find(|it| it.name.as_str() == pool.name));
    let (turn_time, queue_wait) = seen.map(|seen| lately.of(seen)).unwrap_or_default();
    PoolFrame {
        longest_wait_ms: seen.map_or(0.0, |seen| millis(seen.longest_wait)),
        turn_ms: quantiles(&turn_time),
        wait_ms: quantiles(&queue_wait),
        headline: headline(seen, recoveries(state, &pool.name)),
        pool,
    }
}

fn quantiles(histogram: &Histogram) -> Quantiles {
    Quantiles { p50: histogram.quantile(0.5).map(millis), p99: histogram.quantile(0.99).map(millis) }
}

/// How long it took until each dead worker of the pool was replaced, over the incidents that are kept.
fn recoveries(state: &State, pool: &str) -> Vec<Duration> {
    let incidents = state.incidents.iter().filter(|incident| incident.life.worker.pool.as_str() == pool);
    incidents.filter_map(Incident::recovery).collect()
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
    let at = |percent| nearest_rank(&took, percent).map(millis);
    Recovery { median: at(50), p99: at(99), n: took.len() as u64 }
}

/// The smallest of them that at least so many percent of all do not exceed.
fn nearest_rank(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_remembered_does_not_grow_with_how_often_it_is_asked_for() {
        let mut lately = Lately::default();
        let start = Instant::now();
        for ms in 0..60_000 {
            lately.note(None, start + Duration::from_millis(ms));
        }
        let most = WINDOW.as_millis() / NOTED_EVERY.as_millis() + 2;
        assert!(lately.0.len() as u128 <= most, "{} are kept", lately.0.len());
    }

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
