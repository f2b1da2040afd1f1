//! What the API needs of the master, and nothing else of it.
//!
//! The supervisor's [`Handle`] is the one implementation outside tests; the trait is here so that the API can be
//! tested, and read, without a supervisor.

use async_trait::async_trait;
use server::identity::{Incarnation, PoolName, WorkerId};

use super::metrics::Measured;
use super::stream_views::{StateFrame, TrickleView};
use super::views::{IncidentView, PoolView, WorkerView};
use crate::backend::BackendKind;
use crate::door::Turns;
use crate::journal::Chronicle;
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

    /// Everything that there is to see at this moment. The turns that have ended have one reader.
    async fn frame(&self, turns: Turns) -> Result<StateFrame, CommandError>;

    /// Everything that is measured.
    async fn metrics(&self) -> Result<Measured, CommandError>;

    /// What has happened, and what happens.
    fn chronicle(&self) -> &Chronicle;

    /// Where workers run.
    fn backend(&self) -> BackendKind;

    /// Has the door send one request to a pool. It returns when the door has been told, not when it is answered.
    async fn request(&self, pool: &PoolName, method: &str, path: &str) -> Result<(), CommandError>;

    /// The requests that the door sends itself again and again.
    async fn trickles(&self) -> Result<Vec<TrickleView>, CommandError>;

    /// Has it send some to a pool, in the place of those that it sends there already.
    async fn trickle(&self, pool: &PoolName, path: &str, per_second: f64) -> Result<(), CommandError>;

    /// Ends those of a pool, if there are any.
    async fn end_trickle(&self, pool: &PoolName) -> Result<(), CommandError>;
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

    async fn frame(&self, turns: Turns) -> Result<StateFrame, CommandError> {
        self.frame(turns).await
    }

    async fn metrics(&self) -> Result<Measured, CommandError> {
        self.metrics().await
    }

    fn chronicle(&self) -> &Chronicle {
        self.chronicle()
    }

    fn backend(&self) -> BackendKind {
        self.backend()
    }

    async fn request(&self, pool: &PoolName, method: &str, path: &str) -> Result<(), CommandError> {
        self.request(pool, method, path).await
    }

    async fn trickles(&self) -> Result<Vec<TrickleView>, CommandError> {
        self.trickles().await
    }

    async fn trickle(&self, pool: &PoolName, path: &str, per_second: f64) -> Result<(), CommandError> {
        self.trickle(pool, path, per_second).await
    }

    async fn end_trickle(&self, pool: &PoolName) -> Result<(), CommandError> {
        self.end_trickle(pool).await
    }
}
