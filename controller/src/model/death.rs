//! How a worker died, as far as anybody can tell.

use std::time::SystemTime;

/// Why a worker died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A signal that nobody here sent: its number.
    Signal(i32),
    /// It exited with this code and had not said goodbye.
    Exit(i32),
    /// The kernel killed it, or refused it memory, at its limit.
    Oom {
        /// The limit in bytes, where one is set.
        limit_bytes: Option<u64>,
    },
    /// The backend knows that it is gone and not how: it died while nobody watched.
    Lost,
}

/// What a backend can tell of a dead worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Autopsy {
    /// Why.
    pub cause: Cause,
    /// When, by the engine's or the kernel's own date; `None` where neither keeps one.
    pub died_at: Option<SystemTime>,
    /// The last lines that it wrote, oldest first.
    pub last_output: Vec<String>,
}
