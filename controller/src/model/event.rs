//! Everything that can happen to the supervisor: a closed set.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use server::control::{Notice, Report};
use server::identity::{Incarnation, PoolName, WorkerId};
use thiserror::Error;

use crate::backend::{BackendError, Found, Sighting, Unit};
use crate::spec::Pool;

/// Something that has happened.
#[derive(Debug)]
pub enum Event {
    /// At the door.
    Door(DoorEvent),
    /// At the backend, of its own accord.
    Sighted(Sighting),
    /// A worker was ordered, and here it is, or not.
    Spawned {
        /// Who.
        life: Incarnation,
        /// Where, or why not.
        result: Result<Unit, ActionError>,
    },
    /// A signal was to be sent, and here is what came of it.
    Signalled {
        /// To whom.
        life: Incarnation,
        /// Which.
        signal: i32,
        /// What came of it.
        result: Result<(), ActionError>,
    },
    /// Remains were to be removed, and here is what came of it.
    Removed {
        /// Whose.
        life: Incarnation,
        /// What came of it.
        result: Result<(), ActionError>,
    },
    /// The backend was asked for all its workers.
    Listed {
        /// When it was asked: what we have known for less time than that, the listing cannot deny.
        began: Instant,
        /// Its workers, or why it could not tell.
        result: Result<Vec<Found>, ActionError>,
    },
    /// Somebody asked for something that can be done: what cannot was
    /// refused before it got here.
    Command(Command),
    /// Time has passed.
    Tick,
}

/// What happened at the door.
#[derive(Debug)]
pub enum DoorEvent {
    /// The door is there and has told what a controller needs to adopt it.
    Up(Welcome),
    /// Another one is there besides those that are.
    Another(Welcome),
    /// There are others besides one, or there are not any more.
    Company(Company),
    /// Nothing answers for the doors on these machines, not even a kernel that would say that none is there. All of them.
    Dark(BTreeSet<String>),
    /// One of several is not there any more, and these workers, whose links it had, have to dial another.
    Lost {
        /// Whose.
        linked: Vec<Incarnation>,
        /// In words for the log.
        why: String,
    },
    /// One of several gives no sign of life: these workers hear of nothing that is told them by the door.
    Mute {
        /// Whose links it has.
        linked: Vec<Incarnation>,
    },
    /// It gives one again.
    Heard {
        /// Whose links it has.
        linked: Vec<Incarnation>,
    },
    /// It says something.
    Notice(Notice),
    /// It is there and gives no sign of life; of several, none does.
    Silent,
    /// It gives one again.
    Answers,
    /// Nobody answers there any more.
    Down {
        /// In words for the log.
        why: String,
    },
}

/// Whether there is one door or several, those included that are known and do not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// There is one at the most: its workers have nowhere else to go.
    Alone,
    /// There are others.
    Several,
    /// One is there that speaks another version: whom it has is not known, nor, by that, who is at none.
    Unclear,
}

/// What the door says first: [`Notice::Welcome`] without its version, which has been checked.
#[derive(Debug, Clone)]
pub struct Welcome {
    /// The door's process id, as the door sees it.
    pub pid: u32,
    /// Where each pool listens, ports resolved.
    pub pools: BTreeMap<PoolName, SocketAddr>,
    /// The workers whose links are up.
    pub linked: Vec<Incarnation>,
    /// The latest life that it has seen of each place.
    pub seen: Vec<Incarnation>,
}

/// What somebody asks for.
#[derive(Debug, Clone)]
pub enum Command {
    /// Send this signal. The caller sends it; the state notes that it was asked for.
    Kill {
        /// To whom.
        worker: WorkerId,
        /// Which.
        signal: i32,
    },
    /// Let this worker finish, then replace it.
    Drain {
        /// Which.
        worker: WorkerId,
    },
    /// Give this pool so many workers.
    Scale {
        /// Which.
        pool: PoolName,
        /// How many.
        workers: u32,
    },
    /// The spec has changed: these are the pools from now on, in its order.
    Apply(Vec<Arc<Pool>>),
    /// The door's state at this moment, which somebody asked for.
    Note(Report),
    /// Wait for nobody any more during a stop: kill them all, now. Asked for once more, it gives up on those that the
    /// backend has not ended by then.
    CutOff,
    /// Drain and remove everything.
    Stop {
        /// Whether the door stops too.
        scope: StopScope,
        /// How long draining may take.
        within: Duration,
    },
}

/// What is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopScope {
    /// The workers; the door stays, for the next controller.
    WorkersOnly,
    /// The door first, which lets clients finish, then the workers.
    DoorToo,
}

/// Why something that was asked of the backend did not come about.
#[derive(Debug, Error)]
pub enum ActionError {
    /// The backend said so.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// It said nothing for so long that the supervisor stopped listening. What was asked may still happen; a
    /// listing will tell.
    #[error("no answer to '{operation}' within {}s", allowed.as_secs())]
    Silence {
        /// What was asked.
        operation: &'static str,
        /// How long it had.
        allowed: Duration,
    },
}

impl ActionError {
    /// Whether the engine is silent, as against having refused.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Silence { .. } | Self::Backend(BackendError::Unreachable { .. }))
    }

    /// Whether whom it was about is gone, which most callers wanted anyway.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Backend(BackendError::Gone { .. }))
    }
}
