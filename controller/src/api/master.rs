//! What the API needs of the master, and nothing else of it.
//!
//! The supervisor's [`Handle`] is the one implementation outside tests; the trait is here so that the API can be
//! tested, and read, without a supervisor.

use async_trait::async_trait;
use server::identity::{Incarnation, PoolName, WorkerId};

use super::views::{IncidentView, PoolView, WorkerView};
use crate::supervisor::{CommandError, Handle};

/// The master, as the API sees it.
#[async_trait]
pub trait Master: Send + Sync {
    /// Every place of every pool with the worker that fills it, and what that holds at this moment.
    async fn workers(&self) -> Result<Vec<WorkerView>, CommandError>;

    /// Every pool, in the order of the spec.
    async fn pools(&self) -> Result<Vec<PoolView>, CommandError>;

    /// The deaths that are still remembered, newest first.
    async fn incidents(&self) -> Result<Vec<IncidentView>, CommandError>;

    /// One of them.
    async fn incident(&self, life: Incarnation) -> Result<Option<IncidentView>, CommandError>;

    /// Sends a signal to a worker. It returns when the backend has sent it, not when the worker is dead.
    async fn kill(&self, worker: &WorkerId, signal: i32) -> Result<(), CommandError>;

    /// Lets a worker finish what it holds and replaces it.
    async fn drain(&self, worker: &WorkerId) -> Result<(), CommandError>;

    /// Changes how many workers a pool is to have. It returns when that is known, not when it is reached.
    async fn scale(&self, pool: &PoolName, workers: u32) -> Result<(), CommandError>;

    /// The last `lines` lines that a worker wrote, oldest first.
    async fn logs(&self, worker: &WorkerId, lines: usize) -> Result<Vec<String>, CommandError>;

    /// Whether there is a door and every pool that is to have workers has one that is ready.
    async fn is_ready(&self) -> Result<bool, CommandError>;
}

#[async_trait]
impl Master for Handle {
    async fn workers(&self) -> Result<Vec<WorkerView>, CommandError> {
        self.workers().await
    }

    async fn pools(&self) -> Result<Vec<PoolView>, CommandError> {
        self.pools().await
    }

    async fn incidents(&self) -> Result<Vec<IncidentView>, CommandError> {
        self.incidents().await
    }

    async fn incident(&self, life: Incarnation) -> Result<Option<IncidentView>, CommandError> {
        self.incident(life).await
    }

    async fn kill(&self, worker: &WorkerId, signal: i32) -> Result<(), CommandError> {
        self.kill(worker, signal).await
    }

    async fn drain(&self, worker: &WorkerId) -> Result<(), CommandError> {
        self.drain(worker).await
    }

    async fn scale(&self, pool: &PoolName, workers: u32) -> Result<(), CommandError> {
        self.scale(pool, workers).await
    }

    async fn logs(&self, worker: &WorkerId, lines: usize) -> Result<Vec<String>, CommandError> {
        self.logs(worker, lines).await
    }

    async fn is_ready(&self) -> Result<bool, CommandError> {
        self.is_ready().await
    }
}
