//! Where workers run. A backend spawns, signals, lists and buries them; it decides nothing.
//!
//! The supervisor is the only caller. It spawns through [`Backend::spawn`], hears of deaths through the
//! [`Sighting`]s, and believes [`Backend::list`] over both: sightings are hints that make recovery fast,
//! listings are the truth that makes it certain.

pub mod docker;
pub mod kubernetes;
pub mod process;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use server::identity::{Incarnation, Token};
use server::link::Dial;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::model::Autopsy;
use crate::spec::Pool;

/// How long a user waits for what a backend is asked to do for one.
pub const USERS_PATIENCE: Duration = Duration::from_secs(10);

/// Which backend it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Plain processes on this machine.
    Process,
    /// Containers of a Docker engine.
    Docker,
    /// Pods of a Kubernetes cluster.
    Kubernetes,
}

/// What the backend is asked to start.
#[derive(Debug, Clone)]
pub struct SpawnOrder {
    /// Who it is to be.
    pub life: Incarnation,
    /// What it proves that with.
    pub token: Token,
    /// What it is to be.
    pub pool: Arc<Pool>,
    /// After how many requests it is to retire, jitter applied; `None`: never.
    pub retire_after: Option<NonZeroU32>,
    /// A hash over all of the pool that shapes a worker; a live worker with another one is out of date.
    pub spec_hash: String,
    /// How it reaches a door that it shares no directory with; `None`: it does, and finds the door's socket there.
    pub tunnel: Option<Tunnel>,
}

impl SpawnOrder {
    /// By whose certificate it knows its doors.
    pub fn tunnel_ca(&self) -> Option<&str> {
        self.tunnel.as_ref()?.ca.as_deref()
    }
}

/// A started compartment, by the name that its engine knows it by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A process and the moment at which the kernel says it started (clock ticks since boot), because a pid alone
    /// may be somebody else by now.
    Process {
        /// The process, which leads a process group of its own.
        pid: u32,
        /// Field 22 of `/proc/PID/stat`.
        started_ticks: u64,
    },
    /// A container's full id.
    Container {
        /// 64 hexadecimal digits.
        id: String,
        /// The name for people: `docker kill NAME`.
        name: String,
        /// The pid of its first process on the engine's host, where known.
        pid: Option<u32>,
    },
    /// A pod, by its name in the deployment's namespace. No two lives have the same one.
    Pod {
        /// The name for people: `kubectl describe pod NAME`.
        name: String,
        /// The node that it is on, once that is known.
        node: Option<String>,
    },
}

/// A worker of ours that a listing found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Who it is, from its labels.
    pub life: Incarnation,
    /// Where it is.
    pub unit: Unit,
    /// [`SpawnOrder::spec_hash`] of the order that made it.
    pub spec_hash: String,
    /// Whether it runs.
    pub vital: Vital,
}

/// Whether a found worker runs.
#[derive(Debug, Clone)]
pub enum Vital {
    /// It runs, since then.
    Alive {
        /// When it was started.
        since: SystemTime,
    },
    /// It has been made, since then, and does not run yet: [`Sighting::Waiting`].
    Waiting {
        /// When it was made.
        since: SystemTime,
        /// Why it takes that long, in the engine's words, when something is wrong.
        trouble: Option<String>,
    },
    /// It is dead and not yet removed.
    Dead(Autopsy),
}

/// What a backend notices of its own accord.
#[derive(Debug)]
pub enum Sighting {
    /// A worker's compartment has died, every process in it.
    Died {
        /// Who.
        life: Incarnation,
        /// What of.
        autopsy: Autopsy,
    },
    /// A worker has been made and does not run yet: it waits for room, or for its image. Told again when the reason
    /// changes. Its start time-out does not run meanwhile.
    Waiting {
        /// Who.
        life: Incarnation,
        /// Why it takes that long, in the engine's words, when something is wrong.
        trouble: Option<String>,
    },
    /// A worker that waited runs now.
    Started {
        /// Who.
        life: Incarnation,
        /// Where it is, which may have been open until now.
        unit: Unit,
    },
    /// The engine does not answer; what was spawned may live on.
    Unreachable(BackendError),
    /// The engine answers again; list before anything else.
    Reachable,
}

/// An operation of a backend that failed.
#[derive(Debug, Error)]
pub enum BackendError {
    /// The engine did not answer, in time or at all. Worth another try.
    #[error("{engine} does not answer ({operation})")]
    Unreachable {
        /// Which engine, with its address.
        engine: String,
        /// What was asked of it.
        operation: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine answered and refused. Another try makes sense only when something has changed.
    #[error("cannot {operation} {subject}")]
    Refused {
        /// What was asked: `start`, `kill`, `list`.
        operation: &'static str,
        /// Of whom.
        subject: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no such worker any more. For a kill that is as good as done.
    #[error("{subject} is gone already")]
    Gone {
        /// Who.
        subject: String,
    },
}

/// A place where workers run.
#[async_trait]
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// Which one it is.
    fn kind(&self) -> BackendKind;

    /// Starts a worker and returns when it has been started, before its link is up. The order may wait its turn; what
    /// is asked of an engine then has deadlines, so that this ends however the engine behaves.
    async fn spawn(&self, order: &SpawnOrder) -> Result<Unit, BackendError>;

    /// Everything is being stopped: orders that still wait their turn are to be refused, and need not be begun only to be
    /// undone.
    fn spawn_no_more(&self) {}

    /// Sends a signal. `SIGKILL` ends everything in the compartment; any other goes to the worker alone.
    async fn signal(&self, life: &Incarnation, unit: &Unit, signal: i32) -> Result<(), BackendError>;

    /// Removes what a dead worker has left behind: its container, its files.
    async fn remove(&self, life: &Incarnation, unit: &Unit) -> Result<(), BackendError>;

    /// All workers of this deployment, dead or alive.
    async fn list(&self) -> Result<Vec<Found>, BackendError>;

    /// The last `lines` lines that a live (or not yet removed) worker wrote, oldest first.
    async fn logs(&self, life: &Incarnation, unit: &Unit, lines: usize) -> Result<Vec<String>, BackendError>;

    /// This worker's link has just ended, and nobody has been asked to kill it. Whatever can
    /// only be read while the compartment still exists (its cgroup's count of memory kills) is to be read now.
    /// Must return at once.
    fn link_lost(&self, _life: &Incarnation, _unit: &Unit, _end: LinkEnd) {}

    /// This worker is doing that now: for those who look at the engine itself, where it has a place for it. Nothing
    /// depends on it. Must return at once.
    fn show(&self, _life: &Incarnation, _unit: &Unit, _doing: Doing) {}

    /// What happens from here on. Called once.
    fn watch(self: Arc<Self>) -> mpsc::Receiver<Sighting>;
}

/// How a worker's link has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEnd {
    /// The worker's kernel has closed it: its process is dying or dead.
    Closed,
    /// Nothing has come over it for too long, or its door is gone: nobody knows whether its process lives.
    Vanished,
}

/// What a worker is doing, as far as it is shown where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doing {
    /// Its link is not up.
    Starting,
    /// It takes turns.
    Ready,
    /// It finishes what it holds, or is being killed.
    Draining,
}

impl Doing {
    /// As `bulkhead ps` calls it, but that idle and busy are both ready: it would be out of date before it was read.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// What every backend needs to know of the deployment that it serves.
#[derive(Debug, Clone)]
pub struct Home {
    /// Whose workers these are: another deployment on the same machine or engine must not touch them.
    pub owner: String,
    /// The directory on this machine whose `link/door.sock` workers dial.
    pub run_dir: PathBuf,
    /// The program that workers run: this one.
    pub program: PathBuf,
}

/// How workers reach a door over TCP.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// A [`Dial::Tunnel`].
    pub link: Dial,
    /// Whom the door has its certificate from, in PEM, where the tunnel is encrypted.
    pub ca: Option<String>,
}
