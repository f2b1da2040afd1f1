//! What the API needs of the master, and nothing else of it.
//!
//! The supervisor's handle is the one implementation outside tests; the trait is here so that the API can be
//! tested, and read, without a supervisor.

use async_trait::async_trait;
use server::identity::{Incarnation, PoolName, WorkerId};
use thiserror::Error;

use super::views::{IncidentView, PoolView, WorkerView};

/// The master, as the API sees it.
#[async_trait]
pub trait Master: Send + Sync {
    /// Every place of every pool with the worker that fills it, ordered by pool and place.
    async fn workers(&self) -> Vec<WorkerView>;

    /// Every pool, in the order of the spec.
    async fn pools(&self) -> Vec<PoolView>;

    /// The deaths that are still remembered, newest first.
    async fn incidents(&self) -> Vec<IncidentView>;

    /// One of them.
    async fn incident(&self, id: &Incarnation) -> Option<IncidentView>;

    /// Sends a signal to a worker. It returns when the backend has sent it, not when the worker is dead.
    async fn kill(&self, worker: &WorkerId, signal: i32) -> Result<(), CommandError>;

    /// Lets a worker finish what it holds and replaces it.
    async fn drain(&self, worker: &WorkerId) -> Result<(), CommandError>;

    /// Changes how many workers a pool is to have. It returns when that is known, not when it is reached.
    async fn scale(&self, pool: &PoolName, workers: u32) -> Result<(), CommandError>;

    /// The last `lines` lines that a worker wrote, oldest first.
    async fn logs(&self, worker: &WorkerId, lines: usize) -> Result<Vec<String>, CommandError>;

    /// Whether there is a door and every pool that is to have workers has one that is ready.
    async fn is_ready(&self) -> bool;
}

/// Why the master did not do what it was told.
#[derive(Debug, Error)]
pub enum CommandError {
    /// No pool has such a place. Another try is in vain.
    #[error("there is no worker {0}")]
    UnknownWorker(WorkerId),
    /// No such pool. Another try is in vain.
    #[error("there is no pool {0}; there are {known}", known = .1.join(", "))]
    UnknownPool(PoolName, Vec<String>),
    /// The place is empty at the moment. Worth another try when it has its next worker.
    #[error("worker {0} is not running at the moment")]
    NotRunning(WorkerId),
    /// The backend could not. Worth another try when it answers again.
    #[error("the backend cannot do that to worker {worker}")]
    Backend {
        /// To whom.
        worker: WorkerId,
        /// Why.
        #[source]
        source: crate::backend::BackendError,
    },
    /// It needs the door, and the door is away. Worth another try.
    #[error("the door does not answer")]
    DoorAway,
    /// The controller is on its way out.
    #[error("the controller is stopping")]
    Stopping,
}
