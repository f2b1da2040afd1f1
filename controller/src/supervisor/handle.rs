//! What the API may ask of the supervisor.
//!
//! Every question and every command goes through the loop, so that all of them see one state and change it in
//! one order. Those that show what workers hold ask the door first; a door that does not answer within a second
//! costs them that second and the latest figures, nothing more.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use server::control::{Order, Report};
use server::identity::{Incarnation, PoolName, WorkerId};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::api::views::{IncidentView, PoolView, WorkerView};
use crate::backend::{Backend, BackendError, Unit};
use crate::door::Door;
use crate::model::{Command, StopScope};

/// How long the door may take to say what its workers hold.
const REPORT_PATIENCE: Duration = Duration::from_secs(1);
/// How long the backend may take for what a user waits for.
const BACKEND_PATIENCE: Duration = Duration::from_secs(10);

/// A supervisor that runs, to be asked and told.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) door: Door,
    pub(super) backend: Arc<dyn Backend>,
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
    #[error("the backend did not {operation} {worker} within {}s", BACKEND_PATIENCE.as_secs())]
    Silence {
        /// `signal`, `read the output of`.
        operation: &'static str,
        /// Whom.
        worker: WorkerId,
    },
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
    Incidents(oneshot::Sender<Vec<IncidentView>>),
    Incident(Incarnation, oneshot::Sender<Option<IncidentView>>),
    IsReady(oneshot::Sender<bool>),
    /// Where this worker is.
    Locate(WorkerId, oneshot::Sender<Result<(Incarnation, Unit), CommandError>>),
    Command(Command, oneshot::Sender<Result<(), CommandError>>),
    Stop(StopScope, Duration, oneshot::Sender<StopSummary>),
}

impl Handle {
    /// The most workers that a pool may be scaled to.
    pub const MOST_WORKERS: u32 = 1024;

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

    /// Sends a signal to a worker. `SIGKILL` ends everything in its compartment.
    pub async fn kill(&self, worker: &WorkerId, signal: i32) -> Result<(), CommandError> {
        let (life, unit) = self.ask(|reply| Request::Locate(worker.clone(), reply)).await??;
        // Noted first: the death may be known before the backend has returned.
        self.command(Command::Kill { worker: worker.clone(), signal }).await?;
        if signal == Signal::KILL.as_raw() {
            self.door.order(Order::Withhold { worker: life.clone() });
        }
        let signalled = self.backend.signal(&life, &unit, signal);
        match self.patiently("signal", worker, signalled).await {
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
        self.door.report(REPORT_PATIENCE).await.ok()
    }

    async fn patiently<T>(
        &self,
        operation: &'static str,
        worker: &WorkerId,
        work: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, CommandError> {
        match tokio::time::timeout(BACKEND_PATIENCE, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(source)) => Err(CommandError::Backend { operation, worker: worker.clone(), source }),
            Err(_elapsed) => Err(CommandError::Silence { operation, worker: worker.clone() }),
        }
    }
}
