//! Everything that the supervisor can do: a closed set, decided by `plan`, noted by
//! [`State::begin`](super::State::begin), done by `act`.

use server::identity::Incarnation;

use super::place::{KillReason, Purpose};
use crate::backend::{LinkEnd, Unit};

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the backend for all its workers.
    List,
    /// Start this worker.
    Spawn {
        /// Who it is to be.
        life: Incarnation,
    },
    /// Tell this worker to finish.
    Drain {
        /// Who.
        life: Incarnation,
        /// Why.
        purpose: Purpose,
        /// By whom it is told.
        order: DrainOrder,
    },
    /// Kill this worker, and everything in its compartment, for a reason.
    Kill {
        /// Whose.
        life: Incarnation,
        /// Where.
        unit: Unit,
        /// What for.
        why: KillReason,
    },
    /// Have its door end the process of this worker for a reason, while the backend does not answer.
    KillByDoor {
        /// Whose.
        life: Incarnation,
        /// What for.
        why: KillReason,
    },
    /// End whatever may still run in the compartment of a worker that has left it.
    Finish {
        /// Whose.
        life: Incarnation,
        /// Where.
        unit: Unit,
    },
    /// Tell the backend that a worker's link has ended, in case there is something to be read that will be gone
    /// when its compartment is.
    LinkLost {
        /// Whose.
        life: Incarnation,
        /// Where.
        unit: Unit,
        /// How.
        end: LinkEnd,
    },
    /// Tell the doors that a worker's life is over: one may let it in still, or show its link as open.
    Bury {
        /// Who.
        life: Incarnation,
    },
    /// Tell the doors whose lives have ended before they came.
    Brief {
        /// The latest of each place.
        lives: Vec<Incarnation>,
    },
    /// Have the door turn somebody out who has a good token, and whom neither we nor the backend know.
    TurnOut {
        /// Who it says it is.
        life: Incarnation,
    },
    /// Remove what a dead worker has left behind.
    Remove {
        /// Who.
        life: Incarnation,
        /// Where.
        unit: Unit,
    },
    /// Tell the door to drain and exit.
    StopDoor,
}

/// By whom a worker is told to finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainOrder {
    /// By the door, which knows what it holds.
    ThroughDoor,
    /// By a SIGTERM from the backend, because no door knows it.
    Sigterm(Unit),
}
