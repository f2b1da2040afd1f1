//! What an event changes.

use std::time::{Duration, Instant};

use server::identity::Incarnation;

use super::{Haste, State, Stopping};
use crate::model::death::{Autopsy, Cause};
use crate::model::event::{Command, Event};
use crate::model::incident::{self, Asked, Died};
use crate::model::now::Now;
use crate::model::place::{Came, Errand, Goes, Phase, Purpose, Tenant, Told};
use crate::model::remains::{Burial, Remains, Stage};
use crate::supervisor::restart;

/// How it has come to light that a worker takes no more turns.
pub(super) enum Departure {
    /// It said goodbye, held nothing, and its link closed.
    Goodbye,
    /// Its link closed.
    Severed,
    /// It was at a door that has gone, and has come to no other.
    Astray,
    /// The backend says that it is dead.
    Dead(Autopsy),
}

impl State {
    /// Takes note of what has happened.
    pub fn fold(&mut self, event: Event, now: Now) {
        let anybody = !self.books_are_empty();
        match event {
            Event::Door(event) => self.fold_door(event, now),
            Event::Sighted(sighting) => self.fold_sighting(sighting, now),
            Event::Spawned { life, result } => self.fold_spawned(&life, result, now),
            Event::Signalled { life, signal, result } => self.fold_signalled(&life, signal, &result, now),
            Event::Removed { life, result } => self.fold_removed(&life, &result, now),
            Event::Listed { began, result } => self.fold_listed(began, result, now),
            Event::Command(command) => self.fold_command(command, now),
            // Not at any other event: when this comes, all that doors have said has been heard.
            Event::Tick => self.give_up_the_astray(now),
        }
        for pool in &mut self.pools {
            pool.reshape(now.at);
            let any_live = pool.live() > 0;
            pool.intensity.settle(&pool.spec.restart, any_live, now.at);
        }
        self.forget_retired_pools();
        self.look_at_briefing();
        if anybody && self.stopping.is_some() && self.books_are_empty() {
            self.list_soon(now.at);
        }
    }

    fn fold_command(&mut self, command: Command, now: Now) {
        match command {
            Command::Kill { worker, signal } => {
                let life = self.place(&worker).and_then(|place| place.phase.tenant()).map(|t| t.life.clone());
                if let Some(tenant) = life.and_then(|life| self.tenant_mut(&life)) {
                    Asked::note(&mut tenant.notes.asked, signal, now.stamp);
                }
            }
            Command::Drain { worker } => {
                if let Some(deadline) = self.drain_deadline(&worker.pool, now.at)
                    && let Some(pool) = self.pool_mut(&worker.pool)
                    && let Some(place) = pool.places.get_mut(&worker.place)
                {
                    place.phase.drain(Purpose::Asked, Told::Nobody, deadline);
                }
            }
            Command::Scale { pool, workers } => {
                if let Some(pool) = self.pool_mut(&pool) {
                    pool.wanted = workers;
                }
            }
            Command::Apply(pools) => self.apply(&pools, now),
            Command::Note(report) => self.report = Some(report),
            Command::CutOff => self.cut_off(now.at),
            Command::Stop { scope, within } => {
                let deadline = now.at + within;
                let give_up = deadline + Stopping::PATIENCE;
                let door_until = now.at + Stopping::DOOR_GRACE;
                self.stopping.get_or_insert(Stopping {
                    scope,
                    asked: now.at,
                    door_told: false,
                    door_until,
                    haste: Haste::Drain,
                    deadline,
                    give_up,
                    clean: 0,
                    killed: 0,
                });
                self.list_soon(now.at);
                for pool in &mut self.pools {
                    pool.wanted = 0;
                }
            }
        }
    }

    /// Everybody's time is up.
    fn cut_off(&mut self, now: Instant) {
        let Some(stopping) = &mut self.stopping else { return };
        if stopping.haste == Haste::CutOff {
            stopping.give_up = now;
            return;
        }
        stopping.haste = Haste::CutOff;
        stopping.deadline = stopping.deadline.min(now);
        stopping.give_up = stopping.give_up.min(now + Stopping::PATIENCE);
        stopping.door_until = stopping.door_until.min(now);
        for place in self.pools.iter_mut().flat_map(|pool| pool.places.values_mut()) {
            if let Phase::Draining { deadline, .. } = &mut place.phase {
                *deadline = (*deadline).min(now);
            }
        }
        for remains in self.remains.values_mut() {
            if let Stage::Leaving { until } | Stage::Excess { until, .. } = &mut remains.stage {
                *until = (*until).min(now);
            }
        }
    }

    /// Vacates the place of a worker that takes no more turns, and sees to what is left of it.
    pub(super) fn depart(&mut self, life: &Incarnation, how: Departure, now: Now) {
        self.saw_end(life, now.at);
        match self.vacate(life, &how, now) {
            Some(tenant) => self.lay_out(tenant, &how, now.at),
            None => self.move_on(life, &how, now.at),
        }
        if let Departure::Dead(autopsy) = how {
            self.keep_autopsy(life, autopsy, now);
        }
        let unit = self.remains.get(life).and_then(|remains| remains.compartment.unit()).cloned();
        if unit.is_some()
            && let Some(incident) = self.incidents.known(life)
        {
            incident.unit = unit;
        }
    }

    /// Takes back the incident of a worker whose goodbye is heard after all, and what its death has cost its place: the
    /// backend's word of the exit can overtake the door's word of the goodbye.
    pub(super) fn pardon(&mut self, life: &Incarnation, now: Now) {
        let premature = self.incidents.known(life).is_some_and(|incident| incident.notes.premature);
        self.incidents.retract(life);
        let Some(pool) = self.pool_mut(&life.worker.pool) else { return };
        let Some(place) = pool.places.get_mut(&life.worker.place) else { return };
        match &mut place.phase {
            Phase::Empty { not_before, lost } if lost.as_ref() == Some(life) => {
                if !premature {
                    *not_before = now.at;
                }
                *lost = None;
            }
            phase => match phase.tenant_mut() {
                Some(tenant) if tenant.succeeds.as_ref() == Some(life) => tenant.succeeds = None,
                _ => return,
            },
        }
        if !premature {
            place.streak = place.streak.saturating_sub(1);
            pool.intensity.pardon();
        }
    }

    /// Takes the worker out of its place and decides when the next may come.
    fn vacate(&mut self, life: &Incarnation, how: &Departure, now: Now) -> Option<Tenant> {
        let mut tenant = self.tenant(life)?.clone();
        tenant.notes.was_draining |= self.stopping.is_some();
        let graceful = match how {
            Departure::Goodbye => true,
            Departure::Severed | Departure::Astray => false,
            Departure::Dead(autopsy) => tenant.notes.was_draining && incident::is_graceful(&autopsy.cause),
        };
        // Who has never been ready has held nothing: nothing of it is cut off, however it ends.
        let has_served = tenant.first_ready.is_some() || tenant.came == Came::Found;
        if let Some(stopping) = &mut self.stopping {
            match (graceful, has_served) {
                (true, _) => stopping.clean += 1,
                (false, true) => stopping.killed += 1,
                (false, false) => {}
            }
        }
        let pool = self.pool_mut(&life.worker.pool)?;
        let others = pool.live();
        let place = pool.places.get_mut(&life.worker.place)?;
        let others = others - usize::from(matches!(place.phase, Phase::Live { .. }));
        let policy = pool.spec.restart;

        let had_been_healthy = tenant.first_ready.is_some_and(|ready| now.at >= ready + policy.healthy_after);
        let goes = place.phase.goes(&pool.spec.recycle);
        tenant.notes.premature = !had_been_healthy && goes == Goes::OfItself;
        let excused = match goes {
            Goes::AsItShould => true,
            Goes::OfItself => graceful && had_been_healthy,
        };
        let wait = if excused {
            Duration::ZERO // No death to learn from: it was to go.
        } else {
            if had_been_healthy {
                place.streak = 0;
            }
            // A machine's end says nothing about what ran on it.
            if !matches!(how, Departure::Astray) {
                pool.intensity.count_death(&policy, pool.wanted, now.at);
            }
            let wait = restart::wait(&policy, place.streak, pool.intensity.health(), now.luck);
            place.streak = place.streak.saturating_add(1);
            wait
        };
        let lost = (!graceful).then(|| life.clone());
        place.phase = Phase::Empty { not_before: now.at + wait, lost };

        if !matches!(how, Departure::Goodbye) {
            let incident = self.incidents.of(life);
            incident.notes = tenant.notes.clone();
            incident.others = others;
        }
        Some(tenant)
    }

    /// What is left of a worker that has just lost its place.
    fn lay_out(&mut self, tenant: Tenant, how: &Departure, now: Instant) {
        let stage = match how {
            Departure::Goodbye => Stage::Leaving { until: now + Remains::GOODBYE_GRACE },
            Departure::Severed | Departure::Astray => Stage::Severed,
            Departure::Dead(_) => Stage::Dead(Errand::Due),
        };
        let said_goodbye = matches!(how, Departure::Goodbye);
        let burial = self.burial(&tenant.life, how);
        let remains = Remains { compartment: tenant.compartment, stage, burial, said_goodbye };
        self.remains.insert(tenant.life, remains);
    }

    /// What changes for somebody who has no place any more.
    fn move_on(&mut self, life: &Incarnation, how: &Departure, now: Instant) {
        let burial = self.burial(life, how);
        let Some(remains) = self.remains.get_mut(life) else { return };
        remains.burial = burial;
        match (how, &remains.stage) {
            (Departure::Goodbye, Stage::Dead(_)) => remains.said_goodbye = true,
            (_, Stage::Dead(_)) => {}
            (Departure::Dead(_), _) => remains.stage = Stage::Dead(Errand::Due),
            (Departure::Goodbye, Stage::Excess { .. }) => {
                remains.said_goodbye = true;
                remains.stage = Stage::Leaving { until: now + Remains::GOODBYE_GRACE };
            }
            (Departure::Severed | Departure::Astray, Stage::Excess { .. }) => remains.stage = Stage::Severed,
            (Departure::Goodbye | Departure::Severed | Departure::Astray, _) => {}
        }
    }

    /// Whether the doors have to be told. Of an end that one of them has told of, the others have been told already.
    fn burial(&self, life: &Incarnation, how: &Departure) -> Burial {
        match how {
            Departure::Dead(_) | Departure::Astray => Burial::Needed,
            // Linked nevertheless: it is dead without that door knowing it.
            Departure::Goodbye | Departure::Severed if self.is_linked(life) => Burial::Needed,
            Departure::Goodbye | Departure::Severed => Burial::NotNeeded,
        }
    }

    /// Adds the backend's findings to the incident, if there is one or may still be one.
    fn keep_autopsy(&mut self, life: &Incarnation, autopsy: Autopsy, now: Now) {
        let incident = match self.remains.get(life) {
            Some(remains) if remains.said_goodbye => return,
            Some(_) => self.incidents.of(life),
            // Removed already, and remembered only if there was something to remember.
            None => match self.incidents.known(life) {
                Some(incident) => incident,
                None => return,
            },
        };
        match &mut incident.died {
            Some(died) if died.autopsy.cause == Cause::Lost => died.autopsy = autopsy,
            Some(_) => {}
            none => *none = Some(Died { noticed: now.stamp, autopsy }),
        }
    }
}
