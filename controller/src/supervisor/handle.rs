//! What the API may ask of the supervisor.
//!
//! Every question and every command goes through the loop, so that all of them see one state and change it in
//! one order. Those that show what workers hold ask the door first; a door that does not answer within a second
//! costs them that second and the latest figures, nothing more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use server::control::{Order, Report};
use server::http::is_origin_form;
use server::identity::{Incarnation, PoolName, WorkerId};
use server::observation::TRICKLE_RATES;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use super::act::kill_by_the_door;
use crate::api::metrics::Measured;
use crate::api::stream_views::{StateFrame, TrickleView};
use crate::api::views::{IncidentView, PoolView, WorkerView};
use crate::backend::{Backend, BackendError, BackendKind, USERS_PATIENCE, Unit};
use crate::door::{Door, Turns};
use crate::journal::Chronicle;
use crate::model::{Command, StopScope};
use crate::spec::Pool;

/// How long the door may take to say what its workers hold.
const REPORT_PATIENCE: Duration = Duration::from_secs(1);

/// A supervisor that runs, to be asked and told.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) door: Door,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) chronicle: Chronicle,
}

/// Why a command was not carried out.
#[derive(Debug, Error)]
pub enum CommandError {
    /// There is no place of this name. `bulkhead ps` shows those there are.
    #[error("there is no worker {0}: see 'bulkhead ps'")]
    UnknownWorker(WorkerId),
    /// There is no pool of this name.
    #[error("there is no pool {pool}: the pools are {known}")]
    UnknownPool {
        /// As asked.
        pool: PoolName,
        /// Those there are, separated by commas.
        known: String,
    },
    /// The place is empty, or its worker is still being made. It may help to try again.
    #[error("worker {0} is not running at this moment: its next life is on its way")]
    NotRunning(WorkerId),
    /// The signal is none.
    #[error("{0} is not a signal: they are numbered 1 to 64")]
    UnknownSignal(i32),
    /// More workers than a pool may have.
    #[error("{workers} workers are too many: a pool has at most {most}")]
    TooManyWorkers {
        /// As asked.
        workers: u32,
        /// The bound.
        most: u32,
    },
    /// The backend could not do it. Its error says whether to try again.
    #[error("the backend could not {operation} {worker}")]
    Backend {
        /// `signal`, `read the output of`.
        operation: &'static str,
        /// Whom.
        worker: WorkerId,
        /// Why.
        #[source]
        source: BackendError,
    },
    /// The backend did not answer. It may help to try again.
    #[error("the backend did not {operation} {worker} within {}s", USERS_PATIENCE.as_secs())]
    Silence {
        /// `signal`, `read the output of`.
        operation: &'static str,
        /// Whom.
        worker: WorkerId,
    },
    /// The door can send requests to none but HTTP pools.
    #[error("pool {0} speaks tcp: only an http pool can be sent a request")]
    NotHttp(PoolName),
    /// A request that no client would send like this.
    #[error("{0:?} is not a path: it begins with '/' and has only visible ASCII, escaped where it has to be")]
    BadPath(String),
    /// The method is none that the door sends.
    #[error("{method:?} is not sent from here: use one of {}", Handle::METHODS.join(", "))]
    BadMethod {
        /// As asked.
        method: String,
    },
    /// Requests more seldom or more often than the door sends them.
    #[error(
        "{per_second} a second is not within {} to {}", TRICKLE_RATES.start(), TRICKLE_RATES.end()
    )]
    BadRate {
        /// As asked.
        per_second: f64,
    },
    /// The door is not there to do it. It may help to try again.
    #[error("the door is away: it is dialled until it answers")]
    DoorAway,
    /// The supervisor is stopping: nobody is to be started, drained or scaled any more.
    #[error("everything is being stopped")]
    Stopping,
    /// The supervisor has stopped.
    #[error("the supervisor has stopped")]
    Stopped,
}

/// How a stop went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopSummary {
    /// How many workers finished and left.
    pub clean: usize,
    /// How many had to be killed, or died.
    pub killed: usize,
    /// Those of which the backend has not said that they are dead and removed. A controller that is started
    /// again finds them.
    pub left_behind: Vec<Incarnation>,
    /// Whether the backend has said, after it all, that it has nothing of ours any more. Where it has not, there may be
    /// more than those who are named.
    pub verified: bool,
    /// Whether the door is, or may be, still there: it was not to stop, has not stopped in time, or was away all
    /// the while and could not be told.
    pub door_remains: bool,
}

/// What reaches the loop.
pub(super) enum Request {
    Workers(Option<Report>, oneshot::Sender<Vec<WorkerView>>),
    Pools(Option<Report>, oneshot::Sender<Vec<PoolView>>),
    /// Everything that there is to see.
    Frame(Option<Report>, oneshot::Sender<StateFrame>),
    Metrics(Option<Report>, oneshot::Sender<Measured>),
    Trickles(Option<Report>, oneshot::Sender<Vec<TrickleView>>),
    /// Something for the door to do.
    Errand(Errand, oneshot::Sender<Result<(), CommandError>>),
    Incidents(oneshot::Sender<Vec<IncidentView>>),
    Incident(Incarnation, oneshot::Sender<Option<IncidentView>>),
    IsReady(oneshot::Sender<bool>),
    /// Where this worker is.
    Locate(WorkerId, oneshot::Sender<Result<(Incarnation, Unit), CommandError>>),
    Command(Command, oneshot::Sender<Result<(), CommandError>>),
    Stop(StopScope, Duration, oneshot::Sender<StopSummary>),
    /// Decide nothing any more.
    Leave,
}

/// What somebody wants the door to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Errand {
    Request { pool: PoolName, method: String, path: String },
    Trickle { pool: PoolName, path: String, per_second: f64 },
    EndTrickle { pool: PoolName },
}

impl Handle {
    /// The methods of requests that the door sends on request.
    pub const METHODS: [&'static str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

    /// The most workers that a pool may be scaled to: as many as its spec may say.
    pub const MOST_WORKERS: u32 = 1000;

    /// Every place, with what its worker holds at this moment.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, CommandError> {
        let report = self.report().await;
        self.ask(|reply| Request::Workers(report, reply)).await
    }

    /// Every pool, in the spec's order, with its counters as of this moment.
    pub async fn pools(&self) -> Result<Vec<PoolView>, CommandError> {
        let report = self.report().await;
        self.ask(|reply| Request::Pools(report, reply)).await
    }

    /// Everything that there is to see at this moment.
    ///
    /// The turns that have ended have one reader: whoever [takes](Turns::Take) them.
    pub async fn frame(&self, turns: Turns) -> Result<StateFrame, CommandError> {
        let report = self.door.report(turns, REPORT_PATIENCE).await.ok();
        self.ask(|reply| Request::Frame(report, reply)).await
    }

    /// Everything that is measured.
    pub async fn metrics(&self) -> Result<Measured, CommandError> {
        let report = self.report().await;
        self.ask(|reply| Request::Metrics(report, reply)).await
    }

    /// The requests that the door sends itself.
    pub async fn trickles(&self) -> Result<Vec<TrickleView>, CommandError> {
        let report = self.report().await;
        self.ask(|reply| Request::Trickles(report, reply)).await
    }

    /// Has the door send one request to a pool, as a client would. What becomes of it shows where every client's does.
    pub async fn request(&self, pool: &PoolName, method: &str, path: &str) -> Result<(), CommandError> {
        if !Self::METHODS.contains(&method) {
            return Err(CommandError::BadMethod { method: method.chars().take(40).collect() });
        }
        valid_path(path)?;
        let (pool, method, path) = (pool.clone(), method.to_owned(), path.to_owned());
        self.ask(|reply| Request::Errand(Errand::Request { pool, method, path }, reply)).await?
    }

    /// Has the door send requests to a pool, again and again, in the place of those that it sends there already.
    pub async fn trickle(&self, pool: &PoolName, path: &str, per_second: f64) -> Result<(), CommandError> {
        if !TRICKLE_RATES.contains(&per_second) {
            return Err(CommandError::BadRate { per_second });
        }
        valid_path(path)?;
        let (pool, path) = (pool.clone(), path.to_owned());
        self.ask(|reply| Request::Errand(Errand::Trickle { pool, path, per_second }, reply)).await?
    }

    /// Ends that. It is no mistake when there is none.
    pub async fn end_trickle(&self, pool: &PoolName) -> Result<(), CommandError> {
        let pool = pool.clone();
        self.ask(|reply| Request::Errand(Errand::EndTrickle { pool }, reply)).await?
    }

    /// Where workers run.
    pub fn backend(&self) -> BackendKind {
        self.backend.kind()
    }

    /// What has happened, and what happens.
    pub fn chronicle(&self) -> &Chronicle {
        &self.chronicle
    }

    /// The latest deaths, newest first.
    pub async fn incidents(&self) -> Result<Vec<IncidentView>, CommandError> {
        self.ask(Request::Incidents).await
    }

    /// One death, by the name of the life that it ended; `None` when it is not known, or not any more.
    pub async fn incident(&self, life: Incarnation) -> Result<Option<IncidentView>, CommandError> {
        self.ask(|reply| Request::Incident(life, reply)).await
    }

    /// Whether the door is there and every pool that is to have workers has one that takes turns.
    pub async fn is_ready(&self) -> Result<bool, CommandError> {
        self.ask(Request::IsReady).await
    }

    /// For how many beats, about a second each, the door has been there without a sign of life
    /// ([`crate::door::HANGS_AFTER`]).
    pub fn door_silence(&self) -> watch::Receiver<u32> {
        self.door.silence()
    }

    /// Where the door of this machine listens for workers over TCP; `None` when it does not, or is not there.
    pub fn tunnel(&self) -> Option<SocketAddr> {
        self.door.mouth_of_this_machine()
    }

    /// Sends a signal to a worker. `SIGKILL` ends everything in its compartment.
    pub async fn kill(&self, worker: &WorkerId, signal: i32) -> Result<(), CommandError> {
        let (life, unit) = self.ask(|reply| Request::Locate(worker.clone(), reply)).await??;
        // Noted first: the death may be known before the backend has returned.
        self.command(Command::Kill { worker: worker.clone(), signal }).await?;
        let by_the_door = (signal == Signal::KILL.as_raw()).then(|| kill_by_the_door(&life, &unit)).flatten();
        if signal == Signal::KILL.as_raw() {
            self.door.order(Order::Withhold { worker: life.clone() });
        }
        let was_told = by_the_door.is_some();
        if let Some(order) = by_the_door {
            self.door.order(order);
        }
        let signalled = self.backend.signal(&life, &unit, signal);
        match self.patiently("signal", worker, signalled).await {
            // The door has been faster.
            Err(CommandError::Backend { source: BackendError::Gone { .. }, .. }) if was_told => Ok(()),
            Err(CommandError::Backend { source: BackendError::Gone { .. }, .. }) => {
                Err(CommandError::NotRunning(worker.clone()))
            }
            other => other,
        }
    }

    /// Lets a worker finish what it holds, and has it replaced.
    pub async fn drain(&self, worker: &WorkerId) -> Result<(), CommandError> {
        self.command(Command::Drain { worker: worker.clone() }).await
    }

    /// Gives a pool so many workers. Those that are too many are drained, the idlest first.
    pub async fn scale(&self, pool: &PoolName, workers: u32) -> Result<(), CommandError> {
        if let Some(report) = self.report().await {
            // Whom to send away is decided by what they do at this moment.
            self.command(Command::Note(report)).await?;
        }
        self.command(Command::Scale { pool: pool.clone(), workers }).await
    }

    /// The pools are these from now on. Workers follow one by one; what only a door can change waits for its restart.
    pub async fn apply(&self, pools: Vec<Pool>) -> Result<(), CommandError> {
        self.command(Command::Apply(pools.into_iter().map(Arc::new).collect())).await
    }

    /// The last `lines` lines that a worker wrote, oldest first.
    pub async fn logs(&self, worker: &WorkerId, lines: usize) -> Result<Vec<String>, CommandError> {
        let (life, unit) = self.ask(|reply| Request::Locate(worker.clone(), reply)).await??;
        self.patiently("read the output of", worker, self.backend.logs(&life, &unit, lines)).await
    }

    /// Drains and removes every worker, and ends the supervisor. Draining may take `within`; what is not done by
    /// then is killed, and what cannot be killed or removed in a reasonable time is left behind and named.
    pub async fn stop(&self, scope: StopScope, within: Duration) -> Result<StopSummary, CommandError> {
        self.ask(|reply| Request::Stop(scope, within, reply)).await
    }

    /// Ends the supervisor, and leaves doors and workers as they are, to the next one. When this returns nothing more is
    /// decided; what the backend has been asked to do by then may still be done.
    pub async fn leave(&self) {
        // Refused only where it has ended already.
        let _ = self.requests.send(Request::Leave).await;
        self.requests.closed().await;
    }

    /// Cuts a [stop](Self::stop) short: whoever is left is killed at once, all side by side. Said once more, it gives
    /// up on those that the backend has not ended by then.
    pub async fn cut_off(&self) -> Result<(), CommandError> {
        self.command(Command::CutOff).await
    }

    async fn command(&self, command: Command) -> Result<(), CommandError> {
        self.ask(|reply| Request::Command(command, reply)).await?
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| CommandError::Stopped)?;
        answer.await.map_err(|_| CommandError::Stopped)
    }

    async fn report(&self) -> Option<Report> {
        self.door.report(Turns::Leave, REPORT_PATIENCE).await.ok()
    }

    async fn patiently<T>(
        &self,
        operation: &'static str,
        worker: &WorkerId,
        work: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, CommandError> {
        match tokio::time::timeout(USERS_PATIENCE, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(source)) => Err(CommandError::Backend { operation, worker: worker.clone(), source }),
            Err(_elapsed) => Err(CommandError::Silence { operation, worker: worker.clone() }),
        }
    }
}

fn valid_path(path: &str) -> Result<(), CommandError> {
    if is_origin_form(path) { Ok(()) } else { Err(CommandError::BadPath(path.chars().take(80).collect())) }
}
