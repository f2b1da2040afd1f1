//! What the backend tells: sightings, which are hints; answers to what it was asked; listings, which are the
//! truth, as of the moment at which they began.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use server::identity::Incarnation;

use super::fold::Departure;
use super::{Engine, State, Stopping};
use crate::backend::{Found, Sighting, Unit, Vital};
use crate::model::death::{Autopsy, Cause};
use crate::model::event::ActionError;
use crate::model::in_full::in_full;
use crate::model::incident::{Finish, Incident, Notes};
use crate::model::now::Now;
use crate::model::place::{Came, Compartment, Errand, Fate, Launch, Phase, Place, Tenant, Told};
use crate::model::remains::{Burial, Remains, Stage};
use crate::supervisor::restart;

/// How often the truth is asked for when nothing else calls for it.
pub(super) const LISTING_PERIOD: Duration = Duration::from_secs(10);
/// How soon an engine that is silent is asked again.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// How soon something is tried again that the backend could not do.
const RETRY: Duration = Duration::from_secs(1);
/// How soon a worker that was killed and does not die is killed again.
const KILL_AGAIN: Duration = Duration::from_secs(5);

impl State {
    pub(super) fn fold_sighting(&mut self, sighting: Sighting, now: Now) {
        match sighting {
            Sighting::Died { life, autopsy } => self.depart(&life, Departure::Dead(autopsy), now),
            Sighting::Waiting { life, trouble } => {
                if let Some(tenant) = self.tenant_mut(&life) {
                    tenant.launch = Launch::Awaited { trouble };
                }
            }
            Sighting::Started { life, unit } => self.fold_started(&life, unit, now.at),
            Sighting::Unreachable(_) => self.engine_is_silent(now.at + PROBE_PERIOD),
            Sighting::Reachable => self.list_soon(now.at),
        }
    }

    /// A worker that waited runs; only now does the time count that it has until it is ready.
    fn fold_started(&mut self, life: &Incarnation, unit: Unit, now: Instant) {
        if let Some(Phase::Starting { since, .. }) = self.phase_mut(life) {
            *since = now;
        }
        let Some(tenant) = self.tenant_mut(life) else { return };
        tenant.launch = Launch::Done;
        if let Compartment::Up { unit: known, .. } = &mut tenant.compartment {
            *known = unit;
        }
    }

    pub(super) fn fold_spawned(&mut self, life: &Incarnation, result: Result<Unit, ActionError>, now: Now) {
        match result {
            Ok(unit) => {
                self.found_at(life, unit, now.at);
                if let Some(pool) = self.pool_mut(&life.worker.pool) {
                    pool.refusal = None;
                }
                if let Some(incident) = self.incident_that_it_ends(life) {
                    incident.spawned.get_or_insert(now.stamp);
                }
            }
            Err(error) => {
                self.note_silence(&error, now.at);
                self.could_not_spawn(life, &error, now);
            }
        }
    }

    /// The incident of the one whose place this worker has taken.
    pub(super) fn incident_that_it_ends(&mut self, life: &Incarnation) -> Option<&mut Incident> {
        let lost = self.tenant(life)?.succeeds.clone()?;
        self.incidents.known(&lost)
    }

    /// Empties the place of a worker that could not be had.
    fn could_not_spawn(&mut self, life: &Incarnation, error: &ActionError, now: Now) {
        let unanswered = Compartment::Unanswered { since: now.at };
        if error.is_silence() {
            self.unanswered = Some(now.at);
        }
        // It may have departed before its order was answered.
        if let Some(remains) = self.remains.get_mut(life)
            && remains.compartment == Compartment::Ordered
        {
            if error.is_silence() {
                remains.compartment = unanswered;
                self.list_soon(now.at);
            } else {
                self.remains.remove(life); // Nothing is left of it.
            }
            return;
        }
        let Some(tenant) = self.tenant_mut(life) else { return };
        if tenant.compartment != Compartment::Ordered {
            return; // A listing has found it meanwhile.
        }
        if tenant.first_ready.is_some() {
            // Whatever the backend says or does not say, the door has said that it lives. A listing will tell where.
            tenant.compartment = unanswered;
            return self.list_soon(now.at);
        }
        let succeeds = tenant.succeeds.clone();
        let Some(pool) = self.pool_mut(&life.worker.pool) else { return };
        pool.refusal = Some(in_full(error));
        let Some(place) = pool.places.get_mut(&life.worker.place) else { return };
        let wait = if error.is_silence() {
            restart::SILENCE_PAUSE
        } else {
            let policy = pool.spec.restart;
            pool.intensity.count_death(&policy, pool.wanted, now.at);
            let health = pool.intensity.health();
            let wait = restart::wait_after_refusal(&policy, place.streak, health, now.luck);
            place.streak = place.streak.saturating_add(1);
            wait
        };
        place.phase = Phase::Empty { not_before: now.at + wait, lost: succeeds };
    }

    pub(super) fn fold_signalled(
        &mut self,
        life: &Incarnation,
        signal: i32,
        result: &Result<(), ActionError>,
        now: Now,
    ) {
        if let Err(error) = result {
            self.note_silence(error, now.at);
        }
        if signal != Signal::KILL.as_raw() {
            return; // A SIGTERM that was not heard: the deadline takes care of it.
        }
        if let Some(incident) = self.incidents.known(life) {
            incident.notes.finish = match (incident.notes.finish, result) {
                (Some(_), Ok(())) => Some(Finish::Done),
                (Some(Finish::UnderWay), Err(error)) if error.is_gone() => None,
                (finish, _) => finish,
            };
        }
        let next = match result {
            Ok(()) => Errand::Again(now.at + KILL_AGAIN),
            Err(error) if error.is_gone() => {
                // It is dead. Of what, a sighting tells; or, if nobody watched when it died, a listing.
                self.list_soon(now.at);
                Errand::Again(now.at + RETRY)
            }
            Err(_) => Errand::Again(now.at + RETRY),
        };
        match self.phase_mut(life) {
            Some(Phase::Dying { errand, .. }) => *errand = next,
            Some(_) => {}
            None => {
                if let Some(Remains { stage: Stage::Killing(errand), .. }) = self.remains.get_mut(life) {
                    *errand = next;
                }
            }
        }
    }

    pub(super) fn fold_removed(&mut self, life: &Incarnation, result: &Result<(), ActionError>, now: Now) {
        match result {
            Err(error) if !error.is_gone() => {
                self.note_silence(error, now.at);
                if let Some(remains) = self.remains.get_mut(life) {
                    remains.stage = Stage::Dead(Errand::Again(now.at + RETRY));
                }
            }
            Ok(()) | Err(_) => {
                self.remains.remove(life);
            }
        }
    }

    pub(super) fn fold_listed(&mut self, began: Instant, result: Result<Vec<Found>, ActionError>, now: Now) {
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                self.note_silence(&error, now.at);
                self.listing = Errand::Again(now.at + PROBE_PERIOD);
                return;
            }
        };
        let first = self.engine == Engine::NotListedYet;
        self.engine = Engine::Answers;
        self.listing = Errand::Again(now.at + LISTING_PERIOD);
        if found.is_empty() {
            self.found_nothing = Some(began);
        }

        let there: BTreeSet<Incarnation> = found.iter().map(|found| found.life.clone()).collect();
        for life in self.deniable(began).into_iter().filter(|life| !there.contains(life)) {
            self.depart(&life, Departure::Dead(nobody_saw()), now);
        }
        // The latest life of a place comes first, so that it is the one that is adopted.
        let mut found = found;
        found.sort_by(|a, b| b.life.cmp(&a.life));
        for found in found {
            self.fold_found(found, began, first, now);
        }
        self.look_at_strangers(began, now.at);
        if let Some(proof_from) = self.proof_from()
            && self.books_are_empty()
            && !self.is_deserted()
        {
            self.listing = Errand::Again(proof_from.max(now.at + Stopping::ASK_AGAIN));
        }
    }

    /// Those whom a listing that began then would have found.
    fn deniable(&self, began: Instant) -> Vec<Incarnation> {
        let tenants = self.tenants().map(|tenant| (&tenant.life, &tenant.compartment));
        let remains = self.remains.iter().map(|(life, remains)| (life, &remains.compartment));
        tenants
            .chain(remains)
            .filter(|(_, compartment)| match compartment {
                Compartment::Ordered => false,
                Compartment::Unanswered { since } => *since < began,
                Compartment::Up { known, .. } => *known < began,
            })
            .map(|(life, _)| life.clone())
            .collect()
    }

    fn fold_found(&mut self, found: Found, began: Instant, first: bool, now: Now) {
        self.saw(&found.life);
        let in_our_books = self.tenant(&found.life).is_some() || self.remains.contains_key(&found.life);
        if in_our_books {
            match found.vital {
                Vital::Alive { .. } if self.is_awaited(&found.life) => {
                    self.fold_started(&found.life, found.unit, now.at);
                }
                Vital::Alive { .. } | Vital::Waiting { .. } => {
                    self.found_at(&found.life, found.unit, now.at);
                }
                Vital::Dead(autopsy) => {
                    self.found_at(&found.life, found.unit, now.at);
                    if !self.has_joined_since(&found.life, began) {
                        self.depart(&found.life, Departure::Dead(autopsy), now);
                    }
                }
            }
            return;
        }
        let life = found.life.clone();
        let ended = self.lineages.get(&life.worker).and_then(|lineage| lineage.ended);
        let ended = ended.filter(|(generation, _)| life.generation <= *generation);
        let compartment = Compartment::Up { unit: found.unit.clone(), known: now.at };
        let (born, launch) = match found.vital {
            Vital::Alive { since } => (since, Launch::Done),
            Vital::Waiting { since, trouble } => (since, Launch::Awaited { trouble }),
            Vital::Dead(autopsy) => {
                let burial = if self.is_linked(&life) { Burial::Needed } else { Burial::NotNeeded };
                let stage = Stage::Dead(Errand::Due);
                // The door tells of deaths that happened while no controller watched. Whose end it has told of as a
                // goodbye, or not at all because a spawn that failed has left it behind, is no incident.
                let awaited = self.incidents.awaits_autopsy(&life);
                let unheard_of = first && ended.is_none();
                if unheard_of && autopsy.cause == Cause::Exit(0) {
                    // A worker exits so behind a goodbye, unless the door has yet to say otherwise.
                    self.incidents.of(&life).notes.was_draining = true;
                }
                let said_goodbye = !(awaited || unheard_of);
                self.remains.insert(life.clone(), Remains { compartment, stage, burial, said_goodbye });
                return self.depart(&life, Departure::Dead(autopsy), now);
            }
        };
        match ended {
            // The listing is older than what we know: its end, and maybe its removal.
            Some((_, at)) if began <= at => {}
            Some(_) => self.expel(&life, found.unit, now.at),
            None => {
                let astray = self.may_be_astray_from(&life, &launch, born, now);
                let tenant = Tenant {
                    life,
                    compartment,
                    launch,
                    spec_hash: found.spec_hash,
                    born,
                    first_ready: None,
                    astray,
                    came: Came::Found,
                    succeeds: None,
                    notes: Notes::default(),
                };
                self.adopt(tenant, now);
            }
        }
    }

    /// Whether this worker is waited for by its engine, as far as we know.
    fn is_awaited(&self, life: &Incarnation) -> bool {
        self.tenant(life).is_some_and(|tenant| matches!(tenant.launch, Launch::Awaited { .. }))
    }

    /// Whether this worker is live and has become so since then: what looked at it before may have found it not yet
    /// running.
    fn has_joined_since(&self, life: &Incarnation, then: Instant) -> bool {
        let phase = self.place(&life.worker).map(|place| &place.phase);
        matches!(phase, Some(Phase::Live { tenant, joined }) if tenant.life == *life && then <= *joined)
    }

    /// Gives a live worker the place that its name says, if it is to be had. It is an earlier controller's, or one that was
    /// made although the answer to the order was lost or said otherwise: then it succeeds whom it was ordered for.
    fn adopt(&mut self, mut tenant: Tenant, now: Now) {
        let linked = self.is_linked(&tenant.life);
        let life = tenant.life.clone();
        let stopping = self.stopping.is_some();
        let place = self.pool_mut(&life.worker.pool).filter(|_| !stopping).map(|pool| {
            let phase = Phase::Empty { not_before: now.at, lost: None };
            let place = Place { phase, streak: 0, fate: Fate::Refill };
            pool.places.entry(life.worker.place).or_insert(place)
        });
        match place {
            Some(Place { phase: phase @ Phase::Empty { .. }, .. }) => {
                if let Phase::Empty { lost, .. } = phase {
                    tenant.succeeds = lost.take();
                }
                *phase = Phase::Starting { tenant, since: now.at };
                if linked {
                    phase.join(now.at);
                }
                if let Some(incident) = self.incident_that_it_ends(&life) {
                    incident.spawned.get_or_insert(now.stamp);
                    if linked {
                        incident.ready.get_or_insert(now.stamp);
                    }
                }
            }
            _ => {
                if let Compartment::Up { unit, .. } = tenant.compartment {
                    self.expel(&life, unit, now.at);
                }
            }
        }
    }

    /// Sends a live worker away for which there is no place.
    fn expel(&mut self, life: &Incarnation, unit: Unit, now: Instant) {
        /// For workers of a pool that is not in the spec any more, and so has no time to drain of its own.
        const DRAIN: Duration = Duration::from_secs(30);
        let until = match self.stopping {
            Some(stopping) => stopping.deadline,
            None => self.drain_deadline(&life.worker.pool, now).unwrap_or(now + DRAIN),
        };
        let stage = Stage::Excess { told: Told::Nobody, until };
        let compartment = Compartment::Up { unit, known: now };
        let remains = Remains { compartment, stage, burial: Burial::NotNeeded, said_goodbye: false };
        self.remains.insert(life.clone(), remains);
    }

    /// Notes where a worker runs, if that was not known.
    fn found_at(&mut self, life: &Incarnation, unit: Unit, now: Instant) {
        let compartment = match self.tenant_mut(life) {
            Some(tenant) => &mut tenant.compartment,
            None => match self.remains.get_mut(life) {
                Some(remains) => &mut remains.compartment,
                // Its place has been given up while it was being made. A listing would find it, but not soon.
                None => return self.expel(life, unit, now),
            },
        };
        if !matches!(compartment, Compartment::Up { .. }) {
            *compartment = Compartment::Up { unit, known: now };
            if let Some(Phase::Starting { since, .. }) = self.phase_mut(life) {
                *since = now;
            }
        }
    }

    fn note_silence(&mut self, error: &ActionError, now: Instant) {
        if error.is_silence() {
            self.engine_is_silent(now);
        }
    }

    /// Asks nothing of the engine until a listing has succeeded.
    fn engine_is_silent(&mut self, probe_at: Instant) {
        if self.engine == Engine::Answers {
            self.engine = Engine::Silent;
            if self.listing != Errand::UnderWay {
                self.listing = Errand::Again(probe_at);
            }
        }
    }

    pub(super) fn list_soon(&mut self, now: Instant) {
        if self.listing != Errand::UnderWay {
            self.listing = Errand::Again(now);
        }
    }
}

fn nobody_saw() -> Autopsy {
    Autopsy { cause: Cause::Lost, died_at: None, peak_memory_bytes: None, last_output: Vec::new() }
}
