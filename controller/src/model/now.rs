//! What a pure function needs to be told because it must not find out for itself.

use std::time::Instant;

use server::control::Stamp;

/// The moment at which something is folded, and a random number to go with it.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// By the clock that only goes forward: what waits and time-outs are reckoned by.
    pub at: Instant,
    /// By the clock on the wall, which door and controller share: what incidents are dated by.
    pub stamp: Stamp,
    /// Evenly spread over 0.0 to 1.0: where jitter comes from.
    pub luck: f64,
}
