//! What the API says: types of its own, so that nothing inside can change what programs read by accident.
//!
//! Times are RFC 3339 in UTC; everything named `_ms` is in milliseconds, with its fraction.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A worker, as `GET /api/v1/workers` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerView {
    /// `web-3`.
    pub id: String,
    /// The pool that it belongs to.
    pub pool: String,
    /// `process`, `docker` or `kubernetes`.
    pub backend: String,
    /// What it is doing.
    pub phase: PhaseView,
    /// Which life of this place it is, from 1.
    pub generation: u64,
    /// On this machine, where known.
    pub pid: Option<u32>,
    /// The container's name.
    pub container: Option<String>,
    /// The pod's name.
    pub pod: Option<String>,
    /// The node's name.
    pub node: Option<String>,
    /// When it was started.
    pub started_at: Option<String>,
    /// Turns done.
    pub turns: u64,
    /// What it holds at this moment, oldest first.
    pub holding: Vec<HoldingView>,
    /// Why it does not run yet, in the engine's words, when something is wrong.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PhaseView {
    /// Spawned; its link is not up yet.
    Starting,
    /// Waits for a turn.
    Idle,
    /// Holds a turn.
    Busy,
    /// Finishes what it holds and takes no more.
    Draining,
    /// Gone; the place waits for its next worker.
    Dead,
}

/// A turn that a worker holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HoldingView {
    /// Method and target, or `connection from ADDRESS`.
    pub request: String,
    /// Since it was handed over.
    pub for_ms: f64,
}

/// A pool, as `GET /api/v1/pools` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// Where it listens, port resolved.
    pub listen: String,
    /// `http` or `tcp`.
    pub protocol: String,
    /// `request` or `connection`.
    pub turn: String,
    /// `demo` or `echo`.
    pub app: String,
    /// `prefork`, `threads:N` or `event:N`.
    pub model: String,
    /// Where its workers run.
    pub backend: String,
    /// How many workers it is to have.
    pub wanted: u32,
    /// How many of them are ready (idle or busy).
    pub ready: u32,
    /// How many of them hold a turn.
    pub busy: u32,
    /// Whether it has lost too many workers too fast and waits longest between tries.
    pub degraded: bool,
    /// Why the last worker that was ordered for it could not be started; absent when it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Turns that wait for a worker.
    pub queued: usize,
    /// Open client connections, parked ones included.
    pub connections: usize,
    /// Counted since the door started.
    #[schema(value_type = super::openapi::CountersView)]
    pub counters: server::control::Counters,
}

/// One worker's death, as `GET /api/v1/incidents` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IncidentView {
    /// The life that ended: `web-3.7`.
    pub id: String,
    /// The pool.
    pub pool: String,
    /// The place: `web-3`.
    pub worker: String,
    /// When it was noticed.
    pub at: String,
    /// Why it died.
    pub cause: CauseView,
    /// What it held.
    pub held: Vec<HeldView>,
    /// How long each step took.
    pub steps_ms: StepsView,
    /// How many other workers of the pool were there and lived on.
    pub siblings: usize,
    /// The last lines that it wrote, oldest first.
    pub last_output: Vec<String>,
    /// How much memory it had and used, when that is what it died of.
    pub memory: Option<MemoryView>,
    /// Requests of other workers of the pool that a death took from their clients between the detection of this one
    /// and the readiness of its replacement; `null` until that is ready.
    pub siblings_failed: Option<u64>,
    /// A command that does the same again, where there is one.
    pub reproduce: Option<String>,
    /// `process`, `docker` or `kubernetes`.
    #[serde(default)]
    pub backend: String,
    /// Where it ran: `pid 123`, or the container's name, or the pod's with its node's.
    pub unit: Option<String>,
    /// Why its replacement does not run yet, in the engine's words, when something is wrong.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Whether all has been said: what it died of and what became of all that it held are known, and its replacement
    /// is ready.
    #[serde(default)]
    pub complete: bool,
}

/// The memory of a worker that died for want of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryView {
    /// How much it might have; `null` when the machine, not the worker, ran out.
    pub limit_bytes: Option<u64>,
    /// The most that it had, where the kernel still told.
    pub peak_bytes: Option<u64>,
}

/// Why a worker died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CauseView {
    /// Which kind.
    pub kind: CauseKind,
    /// `SIGKILL`, `exit code 3`, `64 MiB`, the request.
    pub detail: String,
}

/// Which kind of cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// A signal, sent from outside or by the kernel for a fault.
    Signal,
    /// It exited without a goodbye.
    Exit,
    /// It wanted more memory than its limit.
    Oom,
    /// It was killed because a request overran its time.
    RequestTimeout,
    /// It was killed because it was not ready in time.
    StartTimeout,
    /// It was killed because it broke the link's protocol.
    Protocol,
    /// It is gone and nobody saw how.
    Lost,
    /// Its link closed, and the backend has not said yet what it died of: a pod's end may be told after its
    /// replacement is ready. One of the others follows.
    NotKnownYet,
}

/// A turn that a dead worker had held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeldView {
    /// Method and target, or `connection from ADDRESS`.
    pub request: String,
    /// `redelivered`, `answered`, `closed`; `pending` until that is known.
    pub outcome: String,
    /// To whom it was redelivered: `web-5`.
    pub to: Option<String>,
    /// The status with which the door answered.
    pub status: Option<u16>,
    /// Why it was answered or closed rather than redelivered.
    pub why: Option<String>,
    /// What the death cost this request: from its first hand-over to the next.
    pub added_ms: Option<f64>,
}

/// How long each step took. `detected` counts from the death as the engine or the kernel dates it; the others
/// from detection. A step that did not happen, or not yet, is `null`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepsView {
    /// From the death until the door or the backend noticed.
    pub detected: Option<f64>,
    /// Until the last turn that could be redelivered was in other hands.
    pub redelivered: Option<f64>,
    /// Until the backend had started the replacement.
    pub spawned: Option<f64>,
    /// Until the replacement's link was up.
    pub ready: Option<f64>,
}

/// A moment as every view writes it: RFC 3339 in UTC, to the microsecond.
pub(crate) fn rfc3339(time: impl Into<SystemTime>) -> String {
    // Fails only for years beyond 9999.
    jiff::Timestamp::try_from(time.into()).map(|time| format!("{time:.6}")).unwrap_or_default()
}
