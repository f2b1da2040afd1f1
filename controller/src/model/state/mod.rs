//! What the supervisor knows: the pools and their places, the remains, the door, the engine, the incidents.
//!
//! Facts come in through [`State::fold`], intentions through [`State::begin`], which notes what has been asked
//! for so that it is not asked for twice. Nothing else changes a state, and only the supervisor's loop calls
//! them. Neither fails: what makes no sense any more (a notice about a worker that is long forgotten) changes
//! nothing.
//!
//! Nothing of this is kept on disk. A controller that starts finds its workers in the backend's listing and the
//! latest generation of each place in the door's welcome, and does nothing before it has both.

mod apply;
mod astray;
mod begin;
mod fold;
mod fold_backend;
mod fold_door;
mod pool;
mod strangers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use server::control::Report;
use server::identity::{Incarnation, PoolName, WorkerId};

use super::event::{Company, StopScope};
use super::incident::Incidents;
use super::place::{Errand, Phase, Place, Tenant};
use super::remains::Remains;
use crate::spec::Pool;

pub use pool::PoolState;

/// Everything that the supervisor knows.
#[derive(Debug, Clone)]
pub struct State {
    /// The pools, in the spec's order.
    pub pools: Vec<PoolState>,
    /// What is left of workers whose places have been vacated.
    pub remains: BTreeMap<Incarnation, Remains>,
    /// Whether the door is there.
    pub door: DoorState,
    /// Whether the doors that are there know of ends from before they came.
    pub briefing: Briefing,
    /// Those who are linked and not in our books.
    pub strangers: BTreeMap<Incarnation, Stranger>,
    /// Whether there is one or several.
    pub company: Company,
    /// The machines that have gone dark with their doors, and since when that has been known.
    pub dark: BTreeMap<String, Instant>,
    /// Whether the engine answers.
    pub engine: Engine,
    /// How far the next listing is.
    pub listing: Errand,
    /// When the latest listing began that found nothing at all.
    pub found_nothing: Option<Instant>,
    /// When an order for a worker was last given up without an answer: it may still be carried out.
    pub unanswered: Option<Instant>,
    /// The deaths.
    pub incidents: Incidents,
    /// What the door last said of itself, when it was asked.
    pub report: Option<Report>,
    /// What is to stop, when something is.
    pub stopping: Option<Stopping>,
    lineages: BTreeMap<WorkerId, Lineage>,
}

/// Whether the door is there.
#[derive(Debug, Clone)]
pub enum DoorState {
    /// It has not been there yet: nobody knows who is linked.
    NotMetYet,
    /// It has gone, and workers wait for it as we do.
    Away,
    /// It is.
    Up {
        /// Its process, as it sees itself.
        pid: u32,
        /// Where each pool listens.
        pools: BTreeMap<PoolName, SocketAddr>,
        /// The workers whose links are up.
        linked: BTreeSet<Incarnation>,
        /// Whether it still accepts clients, or drains and will exit.
        open: bool,
        /// Whether it answers.
        pulse: Pulse,
        /// The workers of one of several doors that does not: they are not told anything by it.
        mute: BTreeSet<Incarnation>,
    },
}

/// Whether doors know whose lives have ended before they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Briefing {
    /// One has come that does not.
    Due,
    /// They do, or there is nothing to know.
    Done,
}

/// Somebody with a good token whom our books do not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// It is linked since then: only a listing that began later can deny it.
    Since(Instant),
    /// Such a listing does not know it either.
    Nobodys,
}

/// Whether a door that is there answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// It does.
    Beats,
    /// It does not. Nobody can become ready, so nobody is spawned or killed for not being so.
    Silent,
}

/// Whether the engine answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// It has listed nothing yet: nobody knows which workers there are, and none may be spawned.
    NotListedYet,
    /// It does.
    Answers,
    /// It does not. It is asked for a listing now and then, and for nothing else.
    Silent,
}

/// A stop that is under way.
#[derive(Debug, Clone, Copy)]
pub struct Stopping {
    /// What is to stop.
    pub scope: StopScope,
    /// When somebody asked for it.
    pub asked: Instant,
    /// Whether the door has been told.
    pub door_told: bool,
    /// Until when a door that is away, and has not been told, may come back to be told.
    pub door_until: Instant,
    /// Whether whoever is left is still given time to finish.
    pub haste: Haste,
    /// When draining is over and killing begins.
    pub deadline: Instant,
    /// When whoever is left is left behind.
    pub give_up: Instant,
    /// How many workers have left as they should.
    pub clean: usize,
    /// How many died instead.
    pub killed: usize,
}

/// Whether a stop still waits for workers to finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// Until its deadline.
    Drain,
    /// No longer: they are killed as soon as it is known where they are, and told nothing.
    CutOff,
}

impl Stopping {
    /// How long we wait for a door that happens to be away. If it lives, we reach it within half a second.
    pub const DOOR_GRACE: Duration = Duration::from_secs(1);
    /// How long a worker that was told late may take.
    pub const GRACE: Duration = Duration::from_secs(3);
    /// How long killing and removing may take in all, when draining is over.
    pub const PATIENCE: Duration = Duration::from_secs(15);
    /// How long after an order was given up an engine that answers again may still come to carry it out.
    pub const SETTLING: Duration = Duration::from_secs(2);
    /// How soon the backend is asked again whether nothing is left, when its last answer was no proof.
    pub(super) const ASK_AGAIN: Duration = Duration::from_millis(50);
}

/// What is known of the lives of one place.
#[derive(Debug, Clone, Copy)]
struct Lineage {
    /// The latest generation that anybody has seen.
    latest: u64,
    /// The latest generation that is known to have ended, and when we learned that.
    ended: Option<(u64, Instant)>,
}

impl State {
    /// The state of a supervisor that has just started and knows nothing but its spec.
    pub fn new(pools: impl IntoIterator<Item = (Arc<Pool>, String)>, now: Instant) -> Self {
        let pools = pools.into_iter().map(|(spec, spec_hash)| PoolState::new(spec, spec_hash, now));
        Self {
            pools: pools.collect(),
            remains: BTreeMap::new(),
            door: DoorState::NotMetYet,
            briefing: Briefing::Done,
            strangers: BTreeMap::new(),
            company: Company::Alone,
            dark: BTreeMap::new(),
            engine: Engine::NotListedYet,
            listing: Errand::Due,
            found_nothing: None,
            unanswered: None,
            incidents: Incidents::default(),
            report: None,
            stopping: None,
            lineages: BTreeMap::new(),
        }
    }

    /// The pool of this name.
    pub fn pool(&self, name: &PoolName) -> Option<&PoolState> {
        self.pools.iter().find(|pool| pool.spec.name() == name)
    }

    /// The place of this name.
    pub fn place(&self, worker: &WorkerId) -> Option<&Place> {
        self.pool(&worker.pool)?.places.get(&worker.place)
    }

    /// The worker of this name, if it has a place.
    pub fn tenant(&self, life: &Incarnation) -> Option<&Tenant> {
        self.place(&life.worker)?.phase.tenant().filter(|tenant| tenant.life == *life)
    }

    /// Whether this worker's link is up.
    pub fn is_linked(&self, life: &Incarnation) -> bool {
        matches!(&self.door, DoorState::Up { linked, .. } if linked.contains(life))
    }

    /// Whether a door that is there serves this pool. One that was started before the pool was in the spec does not.
    pub fn door_has(&self, pool: &PoolName) -> bool {
        match &self.door {
            DoorState::Up { pools, .. } => pools.is_empty() || pools.contains_key(pool),
            DoorState::NotMetYet | DoorState::Away => false,
        }
    }

    /// Whether this worker hears what the door is told to tell it: it is linked, to a door that answers.
    pub fn hears_the_door(&self, life: &Incarnation) -> bool {
        match &self.door {
            DoorState::Up { linked, pulse: Pulse::Beats, mute, .. } => {
                linked.contains(life) && !mute.contains(life)
            }
            DoorState::Up { .. } | DoorState::NotMetYet | DoorState::Away => false,
        }
    }

    /// The next life of this place. Door and backend have each been asked for the latest one they saw before
    /// anybody is spawned, so this one is new to both.
    pub fn next_life(&self, worker: &WorkerId) -> Incarnation {
        worker.life(self.latest(worker) + 1)
    }

    /// The latest generation that anybody has seen in this place; 0 for none.
    pub fn latest(&self, worker: &WorkerId) -> u64 {
        self.lineages.get(worker).map_or(0, |lineage| lineage.latest)
    }

    /// Whether everything that was to stop has, or nobody waits for it any longer.
    ///
    /// That nobody is in our books is not enough: a controller that is stopped early has not heard whom the last one
    /// left, and an engine can carry out an order that it did not answer. The backend itself has to say that there is
    /// nothing, and say it after the stop.
    pub fn has_stopped(&self, now: Instant) -> bool {
        let Some(stopping) = &self.stopping else { return false };
        let door_gone = match stopping.scope {
            StopScope::WorkersOnly => true,
            StopScope::DoorToo => {
                // One that gives no sign of life is nothing to wait for.
                let there = matches!(self.door, DoorState::Up { pulse: Pulse::Beats, .. });
                !there && (stopping.door_told || stopping.door_until <= now)
            }
        };
        (self.is_deserted() && door_gone) || stopping.give_up <= now
    }

    /// Whether nothing is left, by our books and by the word of the backend since the stop.
    pub fn is_deserted(&self) -> bool {
        let proof_from = self.proof_from();
        self.books_are_empty()
            && self.found_nothing.zip(proof_from).is_some_and(|(began, proof_from)| proof_from <= began)
    }

    /// Whether nobody is in our books.
    fn books_are_empty(&self) -> bool {
        self.tenants().next().is_none() && self.remains.is_empty()
    }

    /// When a listing has to begin at the earliest to prove, during a stop, that nothing is left.
    fn proof_from(&self) -> Option<Instant> {
        let asked = self.stopping?.asked;
        Some(self.unanswered.map_or(asked, |at| asked.max(at + Stopping::SETTLING)))
    }

    /// Everybody who has a place.
    pub fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.pools.iter().flat_map(|pool| pool.places.values()).filter_map(|place| place.phase.tenant())
    }

    /// When a worker of this pool that is told to finish now will be killed.
    fn drain_deadline(&self, pool: &PoolName, now: Instant) -> Option<Instant> {
        let own = now + self.pool(pool)?.spec.door.timeouts.drain;
        Some(self.stopping.map_or(own, |stopping| stopping.deadline))
    }

    fn pool_mut(&mut self, name: &PoolName) -> Option<&mut PoolState> {
        self.pools.iter_mut().find(|pool| pool.spec.name() == name)
    }

    /// The phase of the place that this worker has.
    fn phase_mut(&mut self, life: &Incarnation) -> Option<&mut Phase> {
        let place = self.pool_mut(&life.worker.pool)?.places.get_mut(&life.worker.place)?;
        Some(&mut place.phase).filter(|phase| phase.tenant().is_some_and(|tenant| tenant.life == *life))
    }

    fn tenant_mut(&mut self, life: &Incarnation) -> Option<&mut Tenant> {
        self.phase_mut(life)?.tenant_mut()
    }

    /// Whether the end of this life has been seen, or that of a later one in its place.
    fn has_ended(&self, life: &Incarnation) -> bool {
        let ended = self.lineages.get(&life.worker).and_then(|lineage| lineage.ended);
        ended.is_some_and(|(generation, _)| life.generation <= generation)
    }

    fn saw(&mut self, life: &Incarnation) {
        let lineage = self.lineages.entry(life.worker.clone()).or_insert(Lineage { latest: 0, ended: None });
        lineage.latest = lineage.latest.max(life.generation);
    }

    fn saw_end(&mut self, life: &Incarnation, now: Instant) {
        self.saw(life);
        if let Some(lineage) = self.lineages.get_mut(&life.worker)
            && lineage.ended.is_none_or(|(generation, _)| generation <= life.generation)
        {
            lineage.ended = Some((life.generation, now));
        }
    }
}
