//! What the stream of events says: the state, five times a second, and the journal, as it is written.
//!
//! Two kinds of frames share one stream. A [`StateFrame`] is the whole of what there is to see at one moment: it
//! has no id, and whoever missed one loses nothing, for the next is whole again. A [`JournalEvent`] is one thing
//! that happened: it has an id, and a reader that was cut off asks for what followed. Where not all of that is
//! remembered any more, a [`Gap`] says so first. A reader that is too slow is told ([`Dropped`]) and cut off.
//!
//! Times are RFC 3339 in UTC; everything named `_ms` is in milliseconds, with its fraction.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::views::{IncidentView, PoolView, WorkerView};

/// Everything that there is to see at one moment: the event `state`, and `GET /api/v1/state`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StateFrame {
    /// The moment.
    pub at: String,
    /// Who says so.
    pub controller: ControllerView,
    /// The door, as the controller sees it.
    pub door: DoorView,
    /// Whether the backend answers.
    pub engine: EngineView,
    /// Every pool, in the spec's order.
    pub pools: Vec<PoolFrame>,
    /// Every place of every pool.
    pub workers: Vec<WorkerView>,
    /// Turns that ended since the last frame. Bounded, and the shortest are sampled.
    pub turns: Vec<TurnView>,
    /// How many more ended and are not in `turns`.
    pub turns_omitted: u64,
    /// What the door requests of itself at the moment.
    pub trickles: Vec<TrickleView>,
    /// How many workers' deaths there were.
    pub incidents: IncidentCounts,
}

/// The controller that speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ControllerView {
    /// Bulkhead's version.
    pub version: String,
    /// `process`, `docker` or `kubernetes`.
    pub backend: String,
    /// Since when it has been running.
    pub started_at: String,
}

/// The door, as the controller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoorView {
    /// Whether the two talk to each other.
    pub up: bool,
    /// Its process, where known.
    pub pid: Option<u32>,
}

/// Whether the backend answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineView {
    /// It does.
    Answers,
    /// It did, and does not any more. Workers run on.
    Silent,
    /// It has not listed its workers since the controller started.
    NotListedYet,
}

/// A pool in a [`StateFrame`]: what the listing says of it, and what is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolFrame {
    /// As `GET /api/v1/pools` lists it; its fields stand beside the others.
    #[serde(flatten)]
    pub pool: PoolView,
    /// How long the oldest turn in the queue has been waiting; 0 when none is.
    pub longest_wait_ms: f64,
    /// How long turns took.
    pub turn_ms: Quantiles,
    /// How long turns waited for a worker.
    pub wait_ms: Quantiles,
    /// The figures that matter most.
    pub headline: Headline,
}

/// The middle and the slow end of what was measured; `null` while nothing was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Quantiles {
    /// Half were shorter.
    pub p50: Option<f64>,
    /// All but one in a hundred were shorter.
    pub p99: Option<f64>,
}

/// What clients saw, and what it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Headline {
    /// Requests that a worker answered.
    pub answered: u64,
    /// Requests that were given to another worker because theirs had died.
    pub redelivered: u64,
    /// Requests that their worker took with it: answered by the door, or closed.
    pub lost: u64,
    /// Workers that died.
    pub deaths: u64,
    /// How often a turn was given to a worker, first deliveries and redeliveries.
    pub deliveries: u64,
    /// The share of requests that a worker answered, 0 to 1; `null` while nothing was counted.
    pub effective_success: Option<f64>,
    /// The share of deliveries that ended in an answer, 0 to 1; `null` while nothing was counted.
    pub actual_success: Option<f64>,
    /// How long it took from a death until the replacement was ready, over the incidents that are kept.
    pub recovery_ms: Recovery,
}

/// How long replacements took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Recovery {
    /// Half were faster; `null` while there was none.
    pub median: Option<f64>,
    /// All but one in a hundred were faster; `null` while there was none.
    pub p99: Option<f64>,
    /// Over how many.
    pub n: u64,
}

/// A turn that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TurnView {
    /// Its number; a redelivered turn keeps it.
    pub turn: u64,
    /// The pool.
    pub pool: String,
    /// Who held it: `web-3`.
    pub worker: String,
    /// In which life.
    pub generation: u64,
    /// Method and target, or `connection from ADDRESS`.
    pub request: String,
    /// When it was handed over.
    pub began: String,
    /// From there until it ended.
    pub took_ms: f64,
    /// Which delivery it was, from 1.
    pub delivery: u32,
    /// How it ended.
    pub end: TurnEnd,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TurnEnd {
    /// Its worker said that it was done.
    Done,
    /// Its worker died. What became of it is in the incident.
    Lost,
}

/// Requests that the door makes to itself, so many a second, for something to look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrickleView {
    /// The pool that is asked.
    pub pool: String,
    /// For what.
    pub path: String,
    /// How often.
    pub per_second: f64,
    /// When it ends by itself.
    pub until: String,
    /// Requests made.
    pub sent: u64,
    /// Of these: answered.
    pub answered: u64,
    /// Of these: failed.
    pub failed: u64,
    /// Of these: under way.
    pub in_flight: u64,
}

/// How many workers' deaths there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentCounts {
    /// Since the controller started.
    pub total: u64,
    /// Of these: still told by `GET /api/v1/incidents`.
    pub kept: u64,
}

/// One thing that happened. On the stream its kind is the event's name, too, and its id the event's id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JournalEvent {
    /// `BOOT-N`: which run of the controller, and a number that counts from 1.
    pub id: String,
    /// When.
    pub at: String,
    /// What; its fields stand beside `id` and `at`, under a `kind`.
    #[serde(flatten)]
    pub happened: Happened,
}

/// What happened, by the subject that it happened to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Happened {
    /// To a worker.
    Worker {
        /// `web-3`.
        worker: String,
        /// The pool that it belongs to.
        pool: String,
        /// In which life.
        generation: u64,
        /// What.
        what: WorkerChange,
        /// More about it.
        detail: Option<String>,
    },
    /// A worker has died, or more is known about that.
    Incident {
        /// All that is known by now.
        incident: Box<IncidentView>,
        /// How much that is.
        stage: IncidentStage,
    },
    /// To a pool.
    Pool {
        /// Its name.
        pool: String,
        /// What.
        what: PoolChange,
        /// More about it: `4 to 6 workers`.
        detail: Option<String>,
    },
    /// To the door.
    Door {
        /// What.
        what: PartChange,
        /// More about it.
        detail: Option<String>,
    },
    /// To the backend.
    Engine {
        /// What.
        what: PartChange,
        /// More about it.
        detail: Option<String>,
    },
    /// To a trickle of requests.
    Trickle {
        /// The pool that is asked.
        pool: String,
        /// What.
        what: TrickleChange,
        /// More about it: `4 a second of GET /work?ms=300`.
        detail: Option<String>,
    },
}

/// What happened to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerChange {
    /// The backend has started it.
    Spawned,
    /// Its link is up: it takes turns.
    Ready,
    /// It takes no more turns and leaves when it is done.
    Retiring,
    /// It left with a goodbye.
    Left,
    /// Its link closed without one.
    LinkClosed,
    /// A request overran its time.
    Overran,
    /// It said what no worker says.
    BrokeProtocol,
    /// Its app panicked; it lives on.
    Panicked,
    /// The door did not let it in.
    Refused,
    /// The backend says that it is gone.
    Died,
    /// Somebody asked for a signal to be sent to it.
    KillRequested,
    /// Somebody asked for it to be drained.
    DrainRequested,
}

/// How much is known of a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IncidentStage {
    /// It was noticed.
    Opened,
    /// More than before.
    Updated,
    /// The cause, what became of all that it held, and when its replacement was ready.
    Complete,
}

/// What happened to a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolChange {
    /// It is to have another number of workers.
    Scaled,
    /// Its spec is another one now, or it has come, or goes.
    Changed,
    /// It loses too many workers too fast.
    Degraded,
    /// It does not any more.
    Sound,
    /// A worker that was ordered for it could not be started.
    Trouble,
}

/// What happened to the door or to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartChange {
    /// It is there.
    Up,
    /// It is gone.
    Down,
    /// It finishes what is under way.
    Stopping,
    /// It is there, perhaps, and does not answer.
    Silent,
    /// It answers again.
    Answers,
}

/// What happened to a trickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrickleChange {
    /// It began.
    Began,
    /// It was ended, or its time was over.
    Ended,
}

/// Not all that was asked for is remembered: the event `gap`. It comes first, and what is remembered follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gap {
    /// After which event the reader asked to go on.
    pub asked: String,
    /// The oldest event that is remembered.
    pub oldest: Option<String>,
    /// `too long ago` or `another controller`.
    pub why: String,
}

/// This reader is cut off: the event `dropped`, the last of its stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dropped {
    /// Why.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    /// That `said` is read as a `T` and said again in the same words.
    fn survives<T: DeserializeOwned + Serialize>(said: &Value) -> Result<T, serde_json::Error> {
        let read: T = serde_json::from_str(&said.to_string())?;
        assert_eq!(serde_json::to_value(&read)?, *said);
        Ok(read)
    }

    #[test]
    fn a_frame_is_one_flat_object_a_pool() -> Result<(), serde_json::Error> {
        let frame: StateFrame = survives(&json!({
            "at": "2026-01-02T03:04:05.000006Z",
            "controller": {"version": "0.1.0", "backend": "docker", "started_at": "2026-01-02T03:00:00.000000Z"},
            "door": {"up": true, "pid": 123}, "engine": "not_listed_yet",
            "pools": [{
                "name": "web", "listen": "127.0.0.1:8080", "protocol": "http", "turn": "request", "app": "demo",
                "model": "prefork", "backend": "docker", "wanted": 4, "ready": 4, "busy": 1, "degraded": false,
                "queued": 0, "connections": 9,
                "counters": {"connections": 9, "turns": 7, "deliveries": 8, "redelivered": 1, "deaths": 1,
                             "answered": {"502": 1}, "cut": 0, "abandoned": 0},
                "longest_wait_ms": 0.0, "turn_ms": {"p50": 1.2, "p99": 20.1}, "wait_ms": {"p50": null, "p99": null},
                "headline": {"answered": 7, "redelivered": 1, "lost": 0, "deaths": 1, "deliveries": 8,
                             "effective_success": 1.0, "actual_success": null,
                             "recovery_ms": {"median": 5.2, "p99": 9.1, "n": 3}},
            }],
            "workers": [],
            "turns": [{"turn": 812, "pool": "web", "worker": "web-3", "generation": 7, "request": "GET /work?ms=300",
                       "began": "2026-01-02T03:04:05.000006Z", "took_ms": 301.2, "delivery": 1, "end": "done"}],
            "turns_omitted": 0,
            "trickles": [{"pool": "web", "path": "/work?ms=300", "per_second": 4.0,
                          "until": "2026-01-02T03:14:05.000000Z", "sent": 12, "answered": 10, "failed": 0,
                          "in_flight": 2}],
            "incidents": {"total": 17, "kept": 17},
        }))?;
        assert_eq!(frame.pools[0].pool.counters.answered[&502], 1);
        Ok(())
    }

    #[test]
    fn an_event_names_its_kind_beside_its_id() -> Result<(), serde_json::Error> {
        let event = |rest: Value| {
            let mut said = json!({"id": "k3f9x2-17", "at": "2026-01-02T03:04:05.000006Z"});
            if let (Some(said), Value::Object(rest)) = (said.as_object_mut(), rest) {
                said.extend(rest);
            }
            survives::<JournalEvent>(&said)
        };
        event(
            json!({"kind": "worker", "worker": "web-3", "pool": "web", "generation": 7, "what": "link_closed",
                     "detail": null}),
        )?;
        event(json!({"kind": "pool", "pool": "web", "what": "scaled", "detail": "4 to 6 workers"}))?;
        event(json!({"kind": "door", "what": "up", "detail": null}))?;
        event(json!({"kind": "engine", "what": "silent", "detail": "no answer within 5 s"}))?;
        event(
            json!({"kind": "trickle", "pool": "web", "what": "began", "detail": "4 a second of GET /work"}),
        )?;
        Ok(())
    }
}
