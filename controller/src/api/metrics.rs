//! `GET /metrics`: OpenMetrics text, for Prometheus and its like.
//!
//! Everything here is of a pool, never of a worker or a container: those come and go by the thousand, and each would
//! be a series for ever. Base units, one name a quantity, `_total` for what only grows. What the door has counted
//! begins anew with each door, what the controller has counted with each controller; whoever asks for a rate does not
//! notice.
//!
//! `FAMILIES` is the list of all of them, and `docs/metrics.md` the same for people; a test holds the two, and what
//! is in fact exported, to each other.

use std::collections::BTreeMap;
use std::fmt;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use server::observation::Histogram;

use super::problem::Problem;
use super::views::{CauseKind, PhaseView, PoolView};
use crate::api::Master;

/// What the answer is.
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is measured, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Bulkhead's version.
    pub version: String,
    /// `process`, `docker` or `kubernetes`.
    pub backend: String,
    /// When this controller started, in seconds since the Unix epoch.
    pub started_at: f64,
    /// Whether the door is there.
    pub door_up: bool,
    /// Whether the backend answers.
    pub engine_up: bool,
    /// How many events the journal has been told.
    pub events: u64,
    /// Each pool.
    pub pools: Vec<PoolMeasured>,
}

/// What is measured of one pool.
#[derive(Debug, Clone)]
pub struct PoolMeasured {
    /// As it is listed, with what the door has counted.
    pub pool: PoolView,
    /// How many of its places are in which phase.
    pub phases: BTreeMap<PhaseView, u64>,
    /// How long the first turn in the queue has waited, in seconds.
    pub longest_wait: f64,
    /// How long workers took for a turn.
    pub turn_time: Histogram,
    /// How long turns waited for a worker.
    pub queue_wait: Histogram,
    /// What the controller has counted.
    pub deaths: Deaths,
}

/// What a controller has counted of the deaths in one pool.
#[derive(Debug, Clone, Default)]
pub struct Deaths {
    /// By cause.
    pub causes: BTreeMap<CauseKind, u64>,
    /// What became of the turns that the dead had held.
    pub outcomes: BTreeMap<HeldOutcome, u64>,
    /// From a death until it was noticed, where something dated it.
    pub detection: Histogram,
    /// From then until the replacement was ready.
    pub recovery: Histogram,
}

/// What became of a turn that a dead worker had held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldOutcome {
    /// It was given to another worker.
    Redelivered,
    /// The door answered in the worker's place.
    Answered,
    /// It had been answered in full.
    Finished,
    /// Its connection was closed.
    Closed,
}

/// Exports what is measured, as OpenMetrics text.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "watching",
    responses(
        (status = 200, description = "The figures", body = String, content_type = "application/openmetrics-text"),
        (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn metrics(State(master): State<std::sync::Arc<dyn Master>>) -> Result<Response, Problem> {
    let text = text(master.metrics().await?);
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
}

/// All of it, as it goes over the wire.
fn text(measured: Measured) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(measured));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

/// One family of series.
struct Family {
    /// Without the unit and `_total`, which the format puts behind it.
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    series: fn(&Measured, &mut Series<'_>) -> fmt::Result,
}

type Labels<'a> = [(&'static str, &'a str)];

/// No series of ours has one.
type NoExemplar = [(&'static str, &'static str); 0];

/// Where the series of one family are written.
struct Series<'e>(MetricEncoder<'e>);

impl Series<'_> {
    fn count(&mut self, labels: &Labels<'_>, value: u64) -> fmt::Result {
        self.labelled(labels, |mut encoder| encoder.encode_counter::<NoExemplar, _, u64>(&value, None))
    }

    fn gauge(&mut self, labels: &Labels<'_>, value: f64) -> fmt::Result {
        self.labelled(labels, |mut encoder| encoder.encode_gauge(&value))
    }

    fn labelled(
        &mut self,
        labels: &Labels<'_>,
        write: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(self.0.encode_family(&labels)?)
    }

    fn histogram(&mut self, labels: &Labels<'_>, histogram: &Histogram) -> fmt::Result {
        let mut before = 0;
        let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(Histogram::BOUNDS.len() + 1);
        for (bound, up_to) in histogram.cumulative() {
            buckets.push((bound.as_secs_f64(), up_to - before));
            before = up_to;
        }
        // The last bucket has no bound.
        buckets.push((f64::INFINITY, histogram.count() - before));
        let (sum, count) = (histogram.sum().as_secs_f64(), histogram.count());
        self.labelled(labels, |mut encoder| {
            encoder.encode_histogram::<NoExemplar>(sum, count, &buckets, None)
        })
    }

    /// One series a pool.
    fn of_pools(
        &mut self,
        measured: &Measured,
        mut one: impl FnMut(&mut Self, &PoolMeasured, &Labels<'_>) -> fmt::Result,
    ) -> fmt::Result {
        measured.pools.iter().try_for_each(|pool| one(self, pool, &[("pool", &pool.pool.name)]))
    }

    fn counts(&mut self, measured: &Measured, value: impl Fn(&PoolMeasured) -> u64) -> fmt::Result {
        self.of_pools(measured, |series, pool, labels| series.count(labels, value(pool)))
    }

    fn gauges(&mut self, measured: &Measured, value: impl Fn(&PoolMeasured) -> f64) -> fmt::Result {
        self.of_pools(measured, |series, pool, labels| series.gauge(labels, value(pool)))
    }

    fn histograms(&mut self, measured: &Measured, of: impl Fn(&PoolMeasured) -> &Histogram) -> fmt::Result {
        self.of_pools(measured, |series, pool, labels| series.histogram(labels, of(pool)))
    }
}

impl Collector for Measured {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &FAMILIES {
            let encoder =
                encoder.encode_descriptor(family.name, family.help, family.unit.as_ref(), family.kind)?;
            (family.series)(self, &mut Series(encoder))?;
        }
        Ok(())
    }
}

const fn family(
    kind: MetricType,
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
    series: fn(&Measured, &mut Series<'_>) -> fmt::Result,
) -> Family {
    Family { name, help, unit, kind, series }
}

use MetricType::{Counter, Gauge, Histogram as Buckets, Info};

/// All families, in the order in which they are exported.
static FAMILIES: [Family; 25] = [
    family(Info, "bulkhead_build", None, "Which Bulkhead this is", |measured, series| {
        let labels: &Labels<'_> = &[("version", &measured.version), ("backend", &measured.backend)];
        series.0.encode_info(&labels)
    }),
    family(
        Gauge,
        "bulkhead_controller_start_time",
        Some(Unit::Seconds),
        "When the controller started, since the Unix epoch",
        |measured, series| series.gauge(&[], measured.started_at),
    ),
    family(
        Gauge,
        "bulkhead_door_up",
        None,
        "Whether the controller talks to the door",
        |measured, series| series.gauge(&[], flag(measured.door_up)),
    ),
    family(
        Gauge,
        "bulkhead_engine_up",
        None,
        "Whether the backend answers; 0 also until it has listed its workers",
        |measured, series| series.gauge(&[], flag(measured.engine_up)),
    ),
    family(Counter, "bulkhead_events", None, "Events told to the journal", |measured, series| {
        series.count(&[], measured.events)
    }),
    family(Gauge, "bulkhead_workers_wanted", None, "Workers that the pool is to have", |measured, series| {
        series.gauges(measured, |pool| pool.pool.wanted.into())
    }),
    family(Gauge, "bulkhead_workers", None, "Places of the pool, by what is in them", |measured, series| {
        series.of_pools(measured, |series, pool, labels| {
            PHASES.iter().try_for_each(|(phase, word)| {
                let number = pool.phases.get(phase).copied().unwrap_or(0);
                series.gauge(&[labels[0], ("phase", word)], number as f64)
            })
        })
    }),
    family(
        Gauge,
        "bulkhead_pool_degraded",
        None,
        "Whether the pool has lost too many workers too fast",
        |measured, series| series.gauges(measured, |pool| flag(pool.pool.degraded)),
    ),
    family(Gauge, "bulkhead_queue_length", None, "Turns that wait for a worker", |measured, series| {
        series.gauges(measured, |pool| pool.pool.queued as f64)
    }),
    family(
        Gauge,
        "bulkhead_queue_longest_wait",
        Some(Unit::Seconds),
        "How long the first turn in the queue has waited",
        |measured, series| series.gauges(measured, |pool| pool.longest_wait),
    ),
    family(
        Gauge,
        "bulkhead_connections",
        None,
        "Open client connections, parked ones included",
        |measured, series| series.gauges(measured, |pool| pool.pool.connections as f64),
    ),
    family(
        Counter,
        "bulkhead_connections_accepted",
        None,
        "Client connections accepted",
        |measured, series| series.counts(measured, |pool| pool.pool.counters.connections),
    ),
    family(Counter, "bulkhead_turns", None, "Turns done by a worker", |measured, series| {
        series.counts(measured, |pool| pool.pool.counters.turns)
    }),
    family(
        Counter,
        "bulkhead_deliveries",
        None,
        "Deliveries of a turn to a worker, first ones and redeliveries",
        |measured, series| series.counts(measured, |pool| pool.pool.counters.deliveries),
    ),
    family(
        Counter,
        "bulkhead_redeliveries",
        None,
        "Deliveries of a turn after the first",
        |measured, series| series.counts(measured, |pool| pool.pool.counters.redelivered),
    ),
    family(
        Counter,
        "bulkhead_door_answers",
        None,
        "Answers that the door gave in a worker's place, by status",
        |measured, series| {
            series.of_pools(measured, |series, pool, labels| {
                pool.pool.counters.answered.iter().try_for_each(|(status, number)| {
                    series.count(&[labels[0], ("status", &status.to_string())], *number)
                })
            })
        },
    ),
    family(
        Counter,
        "bulkhead_connections_cut",
        None,
        "Connections cut because their worker died in the middle of an answer",
        |measured, series| series.counts(measured, |pool| pool.pool.counters.cut),
    ),
    family(
        Counter,
        "bulkhead_turns_abandoned",
        None,
        "Turns dropped in the queue because their client had gone",
        |measured, series| series.counts(measured, |pool| pool.pool.counters.abandoned),
    ),
    family(
        Counter,
        "bulkhead_worker_deaths",
        None,
        "Workers whose link closed with a turn in their hands or without a goodbye",
        |measured, series| series.counts(measured, |pool| pool.pool.counters.deaths),
    ),
    family(
        Counter,
        "bulkhead_incidents",
        None,
        "Deaths of which the cause is known, by cause",
        |measured, series| {
            series.of_pools(measured, |series, pool, labels| {
                CAUSES.iter().try_for_each(|(cause, word)| {
                    let number = pool.deaths.causes.get(cause).copied().unwrap_or(0);
                    series.count(&[labels[0], ("cause", word)], number)
                })
            })
        },
    ),
    family(
        Counter,
        "bulkhead_held_turns",
        None,
        "Turns that a worker held when it died, by what became of them",
        |measured, series| {
            series.of_pools(measured, |series, pool, labels| {
                OUTCOMES.iter().try_for_each(|(outcome, word)| {
                    let number = pool.deaths.outcomes.get(outcome).copied().unwrap_or(0);
                    series.count(&[labels[0], ("outcome", word)], number)
                })
            })
        },
    ),
    family(
        Buckets,
        "bulkhead_turn_duration",
        Some(Unit::Seconds),
        "How long workers took for a turn",
        |measured, series| series.histograms(measured, |pool| &pool.turn_time),
    ),
    family(
        Buckets,
        "bulkhead_queue_wait",
        Some(Unit::Seconds),
        "How long turns waited for a worker, each time that they were given to one",
        |measured, series| series.histograms(measured, |pool| &pool.queue_wait),
    ),
    family(
        Buckets,
        "bulkhead_detection",
        Some(Unit::Seconds),
        "From a worker's death until it was noticed, where something dates the death",
        |measured, series| series.histograms(measured, |pool| &pool.deaths.detection),
    ),
    family(
        Buckets,
        "bulkhead_recovery",
        Some(Unit::Seconds),
        "From the detection of a worker's death until its replacement was ready",
        |measured, series| series.histograms(measured, |pool| &pool.deaths.recovery),
    ),
];

const PHASES: [(PhaseView, &str); 5] = [
    (PhaseView::Starting, "starting"),
    (PhaseView::Idle, "idle"),
    (PhaseView::Busy, "busy"),
    (PhaseView::Draining, "draining"),
    (PhaseView::Dead, "dead"),
];

/// All but [`CauseKind::NotKnownYet`]: a death is counted once it is known what it was.
const CAUSES: [(CauseKind, &str); 7] = [
    (CauseKind::Signal, "signal"),
    (CauseKind::Exit, "exit"),
    (CauseKind::Oom, "oom"),
    (CauseKind::RequestTimeout, "request_timeout"),
    (CauseKind::StartTimeout, "start_timeout"),
    (CauseKind::Protocol, "protocol"),
    (CauseKind::Lost, "lost"),
];

const OUTCOMES: [(HeldOutcome, &str); 4] = [
    (HeldOutcome::Redelivered, "redelivered"),
    (HeldOutcome::Answered, "answered"),
    (HeldOutcome::Finished, "finished"),
    (HeldOutcome::Closed, "closed"),
];

fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}
