//! The worker: simple blocking code in a compartment of its own.
//!
//! ```text
//!                ┌────────────── the door has died: dial again ─────────────┐
//!                ▼                                                          │
//!   limits ─► dial ─► hello ─► take a turn ─► serve it ─► done ─► take a turn ...
//!                                  │                                        │
//!                                  └── farewell: nothing more will come ────┴─► exit 0
//! ```
//!
//! A worker has no listening socket, needs no network but to reach a door that is elsewhere ([`relay`]), and has no state
//! that outlives a turn. It takes one turn at a time (or one a thread), reads and answers the client on the client's own
//! socket, or a local one in its place, with blocking calls, and says done. It never decides who is served next; it never
//! retries anything. Whatever goes wrong in it, it may die of: a crash costs the turns that it holds, which the door gives to
//! others where the contract allows, and the master has a fresh worker in its place. There is no async runtime here, except
//! in the relay's thread and in the one model that is there to be compared ([`Model::Event`]).
//!
//! How it can fail: a fault or an abort kills it, with all its threads. A panic kills it in the model
//! `prefork`; in `threads:N` it ends one turn with `500` and is reported. A hang is ended from outside when the
//! turn's time is up. A turn that comes without its descriptor means that the limit of open files is reached:
//! it exits, for it can serve nobody. When the door dies it finishes the turns that it holds, on the
//! descriptors that it has (behind a tunnel they end with it), and dials again until a door is there.

mod blocking;
mod client;
mod event;
mod exchange;
mod limits;
mod next;
mod relay;
mod session;

use std::num::NonZeroU32;
use std::process::ExitCode;

use crate::config::{App, Model, Protocol, TurnUnit};
use crate::identity::{Incarnation, Token};
use crate::link::Dial;
use crate::sys::{self, Termination};

pub use client::{Client, Peeked};
pub use exchange::Exchange;

/// What a worker is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who it is.
    pub life: Incarnation,
    /// What it proves that with.
    pub token: Token,
    /// Where its door is.
    pub link: Dial,
    /// Whom a door at the other end of an encrypted tunnel must have its certificate from: PEM.
    pub tunnel_ca: Option<String>,
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

/// How a worker's life ends, when nothing kills it. The numbers are those of `sysexits.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It was told to go, or has served enough, and has said goodbye.
    Goodbye,
    /// It could not put its limits on itself, or not take SIGTERM, or no door is one that it may trust.
    Setup,
    /// A turn came without its descriptor.
    NoDescriptor,
    /// The door said something that it should not.
    Breach,
    /// The door would not have it.
    Refused,
}

impl Ending {
    /// The process's exit code.
    fn code(self) -> u8 {
        match self {
            Self::Goodbye => 0,
            Self::NoDescriptor => 71,
            Self::Breach => 76,
            Self::Refused => 77,
            Self::Setup => 78,
        }
    }
}

/// Serves until told to go. The exit code is the process's: 0 after a goodbye, 71 when it ran out of
/// descriptors, 76 when the door broke the protocol, 77 when the door refused it, 78 when it could not be set up.
pub fn run(options: &Options) -> ExitCode {
    // Where a sandbox forbids it, it is slower by a fifth under full load, and nothing else.
    let _ = sys::schedule_as_batch();
    let set_up = limits::apply(&options.limits).and_then(|()| Termination::catch());
    let ending = match set_up {
        Err(error) => {
            eprintln!("{}: cannot limit itself or take signals: {error}", options.life);
            Ending::Setup
        }
        Ok(()) => match options.model {
            Model::Prefork | Model::Threads(_) => blocking::run(options),
            Model::Event(_) => event::run(options),
        },
    };
    ending.code().into()
}
