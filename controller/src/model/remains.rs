//! What is left of a worker when its place has been given to the next.
//!
//! ```text
//!  link closed in the middle of something ──► Severed ── the backend may look ──► Leaving ─┐
//!  said goodbye, held nothing ────────────────────────────────────────────────────► Leaving ┤ not gone in time
//!  alive, and nobody's ──► Excess ── drained; or its deadline is over ──────────────────────┤
//!                                                                                           ▼
//!  the backend says that it is dead ──► Dead ◄───────────────────────────────────────── Killing
//!                                        └── removed: forgotten
//! ```
//!
//! A dying process shows the door its closed link a moment before it has an exit code to show to its parent.
//! So remains are given a moment to become dead by themselves: a SIGKILL sent at once could overtake the exit
//! code, and the incident would tell of our signal instead of the worker's reason.
//!
//! No pool is given another worker while it has too many remains (see `plan`): an engine that kills but does
//! not bury must not fill up.

use std::time::{Duration, Instant};

use super::place::{Compartment, Errand, Told};

/// What is left of one worker.
#[derive(Debug, Clone)]
pub struct Remains {
    /// Where it ran.
    pub compartment: Compartment,
    /// How far its end is.
    pub stage: Stage,
    /// Whether the door has to be told that it is dead.
    pub burial: Burial,
    /// Whether it said goodbye and held nothing: its death is no incident.
    pub said_goodbye: bool,
}

/// How far a worker's end is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Its link has closed and the backend has not been told so.
    Severed,
    /// It should be gone any moment; it is killed when it is not by then.
    Leaving {
        /// The end of our patience.
        until: Instant,
    },
    /// It runs, and it is not wanted: its pool is gone, or another has its place.
    Excess {
        /// Who told it to finish.
        told: Told,
        /// When it is killed.
        until: Instant,
    },
    /// It is being killed.
    Killing(Errand),
    /// It is dead and has to be removed.
    Dead(Errand),
}

/// Whether the doors have to be told that a worker's life is over: when none of them has told us. The backend knew it
/// first, and a child of the worker's may hold its link open; or it died before it had come to any, and its token would be
/// good for whoever knows it; or it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Burial {
    /// They know.
    NotNeeded,
    /// They may not.
    Needed,
}

impl Remains {
    /// How long a worker whose link has closed has to become dead by itself.
    pub const SEVERED_GRACE: Duration = Duration::from_millis(200);
    /// How long a worker that said goodbye has to exit.
    pub const GOODBYE_GRACE: Duration = Duration::from_secs(5);
}
