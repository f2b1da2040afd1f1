//! A place in a pool, and what the worker in it is doing.
//!
//! ```text
//!             ┌──────────── refused ───────────┐
//!             ▼                                │
//!  ┌────►  Empty ──── plan: spawn ────────► Starting ◄── the door came back without it ──┐
//!  │   (not_before)                            │  │                                      │
//!  │                                  joined   │  │ not ready in time                    │
//!  │                                           ▼  │                                      │
//!  │                                         Live ┼──────────────────────────────────────┘
//!  │     it retires, or is to be drained  ┌────┤  │
//!  │                                      ▼    │  │ a request overran, the protocol was broken
//!  │                                 Draining  │  │
//!  │                   past its deadline  │    ▼  ▼
//!  │                                      └─► Dying (SIGKILL until it is gone)
//!  │                                           │
//!  └── from any of them: its link closed (door), it died (backend), or no listing knows it
//! ```
//!
//! A place is vacated by the *first* evidence that its worker takes no more turns, which is nearly always the
//! door's: the kernel closes a dead worker's link within microseconds. What is left of it by then, a process
//! that has not been reaped or a container to be removed, is moved to the [remains](super::Remains), so that
//! the next worker never waits for the undertaker. [`Phase::Dying`] is the one exception: a worker that hangs
//! keeps its place until it is known to be dead, because its turn may be given away only then. Where its machine has
//! gone dark and no door has it, no turn of its can be given away any more, and it does not keep its place for that
//! (`state::astray`).
//!
//! The state can be wrong in one way only: it is late. A worker that it calls live may have died a moment ago;
//! the notice is on its way, and if it was lost, the next listing tells.

use std::time::{Duration, Instant, SystemTime};

use server::config::Timeouts;
use server::control::Retirement;
use server::identity::Incarnation;

use super::Notes;
use crate::backend::Unit;
use crate::spec::Recycle;

/// A place: there is one for each worker that a pool is to have, and one for each that it has too many.
#[derive(Debug, Clone)]
pub struct Place {
    /// What goes on in it.
    pub phase: Phase,
    /// How many of its workers in a row died before they had been healthy: what back-off grows with.
    pub streak: u32,
    /// What becomes of it when it is vacated.
    pub fate: Fate,
}

/// What becomes of a place when it is vacated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The next worker is spawned into it.
    Refill,
    /// It goes: the pool has been scaled down.
    Close,
}

/// What goes on in a place.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Nobody is here.
    Empty {
        /// Back-off: nobody is to be spawned before that.
        not_before: Instant,
        /// Whose death left it empty, when it was a death: its incident tells how long replacing it took.
        lost: Option<Incarnation>,
    },
    /// Somebody has been ordered, or runs, and its link is not up.
    Starting {
        /// Who.
        tenant: Tenant,
        /// What its start time-out counts from: the backend's word that it has been started, for an order may wait
        /// in a queue before the engine; or the door's return.
        since: Instant,
    },
    /// Its link is up: it takes turns.
    Live {
        /// Who.
        tenant: Tenant,
        /// Since when it has been taking them.
        joined: Instant,
    },
    /// It finishes what it holds and takes no more.
    Draining {
        /// Who.
        tenant: Tenant,
        /// Why it goes.
        purpose: Purpose,
        /// Who told it so.
        told: Told,
        /// It is killed when it is still here then.
        deadline: Instant,
    },
    /// It is being killed, and keeps its place until it is known to be dead.
    Dying {
        /// Who.
        tenant: Tenant,
        /// What for.
        why: KillReason,
        /// How far the killing is.
        errand: Errand,
    },
}

/// The worker in a place.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Who it is.
    pub life: Incarnation,
    /// Where it runs.
    pub compartment: Compartment,
    /// Whether it runs yet.
    pub launch: Launch,
    /// What it was made from: another hash than its pool's says that it is out of date.
    pub spec_hash: String,
    /// When it was ordered, or, when it was adopted, started.
    pub born: SystemTime,
    /// When it first was ready, whatever has become of it since; `None`: never yet, as far as we have seen.
    pub first_ready: Option<Instant>,
    /// From when on it has had no reason to be at no door, as long as it is at none; `None`: it is at one, or has not been
    /// at any yet.
    pub astray: Option<Instant>,
    /// How we have come by it.
    pub came: Came,
    /// The incident that its readiness completes.
    pub succeeds: Option<Incarnation>,
    /// What its own incident will have to say, should there be one.
    pub notes: Notes,
}

/// Whether a worker that has been made runs yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launch {
    /// It does, as far as anybody has told.
    Done,
    /// The backend has made it, and it waits for what it needs to run.
    Awaited {
        /// What is wrong, in the engine's words.
        trouble: Option<String>,
    },
}

/// How a worker has come into our books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// We have ordered it.
    Ordered,
    /// It was alive when we came, and may have been ready long before.
    Found,
}

impl Tenant {
    /// What is wrong that keeps it from running, in the engine's words.
    pub fn trouble(&self) -> Option<&str> {
        match &self.launch {
            Launch::Awaited { trouble } => trouble.as_deref(),
            Launch::Done => None,
        }
    }

    /// Whether something is.
    pub fn is_held_up(&self) -> bool {
        self.trouble().is_some()
    }

    /// How long it may take until its link is up, from the door's return or its own start. One that has been ready
    /// before may be at work on a turn of the door that is gone, and cannot dial the next one before that is done.
    pub fn start_allowance(&self, timeouts: &Timeouts) -> Duration {
        let at_work = self.first_ready.is_some() || self.came == Came::Found;
        let turn = timeouts.request.unwrap_or(timeouts.drain);
        timeouts.start + if at_work { turn } else { Duration::ZERO }
    }
}

/// Where a worker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compartment {
    /// The backend has been asked for it and has not answered.
    Ordered,
    /// Wherever the backend has put it: it has not answered, and the door says that it is there, or was.
    Unanswered {
        /// Since when we have known that there will be no answer: only a listing that began later can deny it.
        since: Instant,
    },
    /// In this unit.
    Up {
        /// Which.
        unit: Unit,
        /// Since when we have known that: only a listing that began later can deny it.
        known: Instant,
    },
}

impl Compartment {
    /// The unit, as soon as there is one.
    pub fn unit(&self) -> Option<&Unit> {
        match self {
            Self::Ordered | Self::Unanswered { .. } => None,
            Self::Up { unit, .. } => Some(unit),
        }
    }
}

/// How far something is that has to be asked for, maybe more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// To be asked for as soon as possible.
    Due,
    /// Asked for; there will be an answer, if only that none came in time.
    UnderWay,
    /// It failed, or has no visible result yet: to be asked for again then.
    Again(Instant),
}

/// Why a worker is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody asked for it; it is replaced.
    Asked,
    /// Its pool has too many.
    Surplus,
    /// It was made from an older spec; it is replaced.
    OutOfDate,
    /// It goes of its own accord; it is replaced.
    Retires(Retirement),
    /// Everything stops.
    Stopping,
}

/// Who has told a worker to finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nobody yet.
    Nobody,
    /// The door, which gives it no more turns and sends it away.
    ByDoor,
    /// The backend, by SIGTERM: it was not linked, or there was no door. A program that has only just been started
    /// does not take the signal yet, and as the first process of a container it lives on as if there had been none. So
    /// it is sent again until the worker is gone, which harms nobody who has heard it.
    BySigterm {
        /// When it is to be told again.
        again: Instant,
    },
    /// Nobody has to: it said goodbye itself.
    ItKnows,
}

impl Told {
    /// How long after a SIGTERM the next one follows.
    pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(500);
}

/// Why a worker goes, as far as back-off is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goes {
    /// We have told it to, or it has served as many requests as it was made for.
    AsItShould,
    /// Nobody here has asked it to: it dies, or it says goodbye of its own accord (or by a SIGTERM of somebody's). Who
    /// does that before it has been healthy must not be replaced in a hot loop, however politely it goes.
    OfItself,
}

/// What a worker is killed for by us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KillReason {
    /// A request overran its time.
    RequestTimeout {
        /// The request.
        request: String,
    },
    /// It was not ready in time.
    StartTimeout {
        /// The time it had.
        allowed: Duration,
    },
    /// It broke the link's protocol.
    Protocol {
        /// How.
        detail: String,
    },
    /// It was still here when its time to drain was over.
    DrainTimeout,
}

impl Phase {
    /// The worker, where there is one.
    pub fn tenant(&self) -> Option<&Tenant> {
        match self {
            Self::Empty { .. } => None,
            Self::Starting { tenant, .. }
            | Self::Live { tenant, .. }
            | Self::Draining { tenant, .. }
            | Self::Dying { tenant, .. } => Some(tenant),
        }
    }

    /// The same, to be changed.
    pub(super) fn tenant_mut(&mut self) -> Option<&mut Tenant> {
        match self {
            Self::Empty { .. } => None,
            Self::Starting { tenant, .. }
            | Self::Live { tenant, .. }
            | Self::Draining { tenant, .. }
            | Self::Dying { tenant, .. } => Some(tenant),
        }
    }

    /// The worker's link is up.
    pub(super) fn join(&mut self, now: Instant) {
        if let Some(tenant) = self.tenant_mut() {
            tenant.first_ready.get_or_insert(now);
            tenant.astray = None;
        }
        self.change(|phase| match phase {
            Self::Starting { tenant, .. } => Self::Live { tenant, joined: now },
            other => other,
        });
    }

    /// Whether the worker in this place, should it go now, goes because it is to.
    pub(super) fn goes(&self, recycle: &Recycle) -> Goes {
        match self {
            Self::Draining { purpose: Purpose::Retires(Retirement::Recycled), .. } => {
                // Its word alone: where nobody is to be recycled, nobody has served enough.
                if recycle.requests.is_some() { Goes::AsItShould } else { Goes::OfItself }
            }
            Self::Draining { purpose: Purpose::Retires(Retirement::Told), .. } => Goes::OfItself,
            Self::Draining {
                purpose: Purpose::Asked | Purpose::Surplus | Purpose::OutOfDate | Purpose::Stopping,
                ..
            }
            | Self::Dying { why: KillReason::DrainTimeout, .. } => Goes::AsItShould,
            Self::Empty { .. } | Self::Starting { .. } | Self::Live { .. } | Self::Dying { .. } => {
                Goes::OfItself
            }
        }
    }

    /// Lets the worker finish what it holds. Nothing changes for one that is finishing or being killed already.
    pub(super) fn drain(&mut self, purpose: Purpose, told: Told, deadline: Instant) {
        self.change(|phase| match phase {
            Self::Starting { mut tenant, .. } | Self::Live { mut tenant, .. } => {
                tenant.notes.was_draining = true;
                Self::Draining { tenant, purpose, told, deadline }
            }
            other => other,
        });
    }

    /// Has the worker killed. The first reason stands.
    pub(super) fn kill(&mut self, why: KillReason, errand: Errand) {
        self.change(|phase| match phase {
            Self::Starting { mut tenant, .. }
            | Self::Live { mut tenant, .. }
            | Self::Draining { mut tenant, .. } => {
                tenant.notes.killed_for = Some(why.clone());
                Self::Dying { tenant, why, errand }
            }
            Self::Dying { tenant, why, .. } => Self::Dying { tenant, why, errand },
            empty @ Self::Empty { .. } => empty,
        });
    }

    /// Replaces the phase by what `step` makes of it.
    pub(super) fn change(&mut self, step: impl FnOnce(Self) -> Self) {
        *self = step(self.clone());
    }
}
