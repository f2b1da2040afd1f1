//! What workers run out of the box.

pub mod demo;
pub mod echo;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::Model;
use crate::identity::Incarnation;

/// What an app can know of the worker that it runs in.
#[derive(Debug)]
pub struct Me {
    /// Who it is.
    pub life: Incarnation,
    /// How it serves.
    pub model: Model,
    turns: AtomicU64,
}

impl Me {
    /// A worker that has served nobody yet.
    pub fn new(life: Incarnation, model: Model) -> Self {
        Self { life, model, turns: AtomicU64::new(0) }
    }

    /// Counts one turn; how many there are with it.
    pub fn count_turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Turns so far, the ones at work included.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// The threads of this process, as the kernel counts them; `None` where there is no `/proc`.
    pub fn kernel_threads() -> Option<u32> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        status.lines().find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok())
    }
}
