//! The worker: a blocking loop that takes one turn at a time.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{App, Model, Protocol, TurnUnit};
use crate::identity::{Incarnation, Token};

/// What a worker is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who it is.
    pub life: Incarnation,
    /// What it proves that with.
    pub token: Token,
    /// The door's socket.
    pub link: PathBuf,
    /// What it runs.
    pub app: App,
    /// What its clients speak.
    pub protocol: Protocol,
    /// What it is given at a time.
    pub turn: TurnUnit,
    /// How it serves.
    pub model: Model,
    /// After how many requests it retires; `None`: never.
    pub retire_after: Option<NonZeroU32>,
    /// Limits that it puts on itself before it does anything else. Containers have theirs from the engine.
    pub limits: SelfLimits,
}

/// Limits that a plain process puts on itself. Each is a hard limit: it cannot be raised again.
#[derive(Debug, Clone, Copy, Default)]
pub struct SelfLimits {
    /// Bytes of private writable memory (`RLIMIT_DATA`).
    pub memory_bytes: Option<u64>,
    /// Processes and threads of its user (`RLIMIT_NPROC`).
    pub pids: Option<NonZeroU32>,
    /// Open descriptors (`RLIMIT_NOFILE`).
    pub open_files: Option<NonZeroU32>,
    /// The user and group to become, when started as root. A user of its own makes `pids` a limit of this worker
    /// and not of all that its user runs.
    pub user: Option<NonZeroU32>,
}

/// Serves until told to go. The exit code is the process's.
pub fn run(_options: Options) -> ExitCode {
    ExitCode::SUCCESS
}
