//! What a spec file means, once everything in it has been checked.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use server::config::{App, DoorPool, Model, Tunnel};
use server::identity::PoolName;

/// Everything that one `bulkhead.yaml` says.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// Where workers are to run.
    pub backend: BackendChoice,
    /// How they reach the door when they share no directory with it; `None`: they do, and have the fd link.
    pub tunnel: Option<Tunnel>,
    /// The controller's API.
    pub api: Api,
    /// The pools, in the file's order. At least one; names are unique.
    pub pools: Vec<Pool>,
}

/// Where workers run, as the spec says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// Docker where an engine answers, plain processes otherwise.
    Auto,
    /// Plain processes.
    Process,
    /// Docker containers.
    Docker,
    /// Pods of the cluster that the controller runs in, or is configured for.
    Kubernetes,
}

/// How workers and door reach each other, as the spec says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChoice {
    /// By a Unix socket in a directory that they share; the door hands over the client's own socket.
    Fd,
    /// Over TCP, which workers dial.
    Tunnel,
}

/// The controller's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// Where it listens. Loopback unless the spec says otherwise.
    pub listen: SocketAddr,
    /// Who may ask.
    pub access: ApiAccess,
    /// A name under which it may be asked, besides IP addresses and `localhost`.
    pub host_name: Option<String>,
}

/// Who may ask the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiAccess {
    /// Whoever reaches it.
    Open,
    /// Whoever has a token.
    Token {
        /// The file with the token of those who may do everything; `None`: one is made up.
        operator: Option<PathBuf>,
        /// The file with the token of those who may look; `None`: there are none.
        viewer: Option<PathBuf>,
    },
}

/// Who may ask the API, as the spec says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessChoice {
    /// On loopback whoever reaches it, unless there is a token file or a name; elsewhere whoever has a token.
    Auto,
    /// Whoever has a token.
    Token,
    /// Whoever reaches it.
    Open,
}

/// One pool: what the door needs, and what the master needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// What the door needs: name, address, time-outs, queue, redelivery.
    pub door: DoorPool,
    /// How many workers.
    pub workers: u32,
    /// What each worker is.
    pub worker: Worker,
    /// When workers are replaced of their own accord.
    pub recycle: Recycle,
    /// How fast dead workers are replaced.
    pub restart: Restart,
}

impl Pool {
    /// The pool's name.
    pub fn name(&self) -> &PoolName {
        &self.door.name
    }
}

/// What each worker of a pool is.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// What it runs.
    pub app: App,
    /// How it serves.
    pub model: Model,
    /// What its compartment may use.
    pub limits: Limits,
    /// What its compartment may reach.
    pub network: Network,
    /// Where an engine puts it among everything else that wants a processor.
    pub cgroup: Cgroup,
}

/// Where a container is in the engine's tree of control groups, and what it weighs there. `None`: as the engine has it.
/// Nothing else than containers has one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// The group that its own is made in: a path, or a slice where systemd keeps them.
    pub parent: Option<String>,
    /// Its weight beside the others in there, when they want more than there is, on the scale of cgroup version 1.
    pub cpu_shares: Option<u32>,
}

/// What a compartment may use before the kernel says no. `None`: no limit of ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Bytes of memory; no swap beyond it.
    pub memory_bytes: Option<u64>,
    /// Processors, as a fraction: 0.5 is half of one. Containers only.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<NonZeroU32>,
    /// Open descriptors.
    pub open_files: Option<NonZeroU32>,
}

/// What a container may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Nothing at all: the client's socket comes over the link.
    None,
    /// A network of the engine, by name.
    Named(String),
}

/// When workers are replaced of their own accord.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recycle {
    /// After so many requests; `None`: never.
    pub requests: Option<NonZeroU32>,
    /// The share by which that number varies from worker to worker, either way, so that a pool does not
    /// retire at once: 0.0 to 1.0.
    pub jitter: f64,
}

/// How fast dead workers are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// The first wait; the very first replacement does not wait at all.
    pub backoff: Duration,
    /// The longest wait.
    pub longest: Duration,
    /// A worker that lived so long was healthy: its place starts over without a wait.
    pub healthy_after: Duration,
    /// More deaths than this within [`Restart::within`], and than the pool has workers, make it degraded.
    pub deaths: u32,
    /// The window in which deaths are counted.
    pub within: Duration,
}
