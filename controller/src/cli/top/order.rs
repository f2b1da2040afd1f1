//! What can be ordered from this screen, in words and as the command that does the same.

use crate::api::{Draining, KillOrder, Killed, ScaleOrder, Scaled};
use crate::cli::client::{Api, ApiError};

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// Something for one worker to bear.
    Worker {
        deed: Deed,
        worker: String,
        /// In which life it was when it was chosen.
        generation: u64,
        chosen: Chosen,
    },
    /// More workers, or fewer.
    Scale { pool: String, workers: u32 },
}

/// What is done to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// SIGKILL.
    Kill,
    /// SIGSEGV: as if it had crashed.
    Crash,
    /// SIGSTOP: it hangs. What it holds overruns its time.
    Pause,
    /// SIGCONT.
    Resume,
    /// It finishes what it holds and is replaced.
    Drain,
}

/// Who chose the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen {
    ByHand,
    ByChance,
}

impl Deed {
    /// The signal's bare name; a drain is none.
    fn signal(self) -> Option<&'static str> {
        match self {
            Self::Kill => Some("KILL"),
            Self::Crash => Some("SEGV"),
            Self::Pause => Some("STOP"),
            Self::Resume => Some("CONT"),
            Self::Drain => None,
        }
    }
}

impl Order {
    /// The command that does the same.
    pub(super) fn command(&self) -> String {
        match self {
            Self::Worker { deed, worker, .. } => match deed.signal() {
                None => format!("bulkhead drain {worker}"),
                Some("KILL") => format!("bulkhead kill {worker}"),
                Some(signal) => format!("bulkhead kill {worker} --signal {signal}"),
            },
            Self::Scale { pool, workers } => format!("bulkhead scale {pool} {workers}"),
        }
    }

    /// What is about to be done.
    pub(super) fn intention(&self) -> String {
        match self {
            Self::Worker { deed, worker, chosen, .. } => match (deed.signal(), chosen) {
                (None, _) => format!("draining {worker}"),
                (Some(signal), Chosen::ByHand) => format!("sending SIG{signal} to {worker}"),
                (Some(signal), Chosen::ByChance) => {
                    format!("sending SIG{signal} to {worker}, chosen by chance")
                }
            },
            Self::Scale { pool, workers } => format!("scaling {pool} to {workers}"),
        }
    }

    /// What was done.
    pub(super) fn account(&self) -> String {
        match self {
            Self::Worker { deed, worker, chosen, .. } => match (deed.signal(), chosen) {
                (None, _) => format!("{worker} finishes what it holds and is then replaced"),
                (Some(signal), Chosen::ByHand) => format!("sent SIG{signal} to {worker}"),
                (Some(signal), Chosen::ByChance) => format!("sent SIG{signal} to {worker}, chosen by chance"),
            },
            Self::Scale { pool, workers: 1 } => format!("{pool} is to have 1 worker"),
            Self::Scale { pool, workers } => format!("{pool} is to have {workers} workers"),
        }
    }

    /// Has it done.
    pub(super) async fn give(&self, api: &Api) -> Result<(), ApiError> {
        match self {
            Self::Worker { deed, worker, .. } => match deed.signal() {
                Some(signal) => {
                    let order = KillOrder { signal: format!("SIG{signal}") };
                    api.post::<Killed>(&["workers", worker, "kill"], &order).await.map(drop)
                }
                None => {
                    let order = serde_json::json!({});
                    api.post::<Draining>(&["workers", worker, "drain"], &order).await.map(drop)
                }
            },
            Self::Scale { pool, workers } => {
                let order = ScaleOrder { workers: *workers };
                api.post::<Scaled>(&["pools", pool, "scale"], &order).await.map(drop)
            }
        }
    }
}
