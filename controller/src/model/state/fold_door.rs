//! What the door tells.

use std::collections::BTreeSet;

use server::control::{Notice, Stamp};
use server::identity::Incarnation;

use super::fold::Departure;
use super::{Briefing, DoorState, Pulse, State};
use crate::model::event::{DoorEvent, Welcome};
use crate::model::incident::{Left, Settled};
use crate::model::now::Now;
use crate::model::place::{Errand, KillReason, Phase, Purpose, Told};
use crate::model::remains::{Burial, Stage};

impl State {
    pub(super) fn fold_door(&mut self, event: DoorEvent, now: Now) {
        match event {
            DoorEvent::Up(welcome) => self.door_is_up(welcome, now),
            DoorEvent::Another(welcome) => self.another_is_up(&welcome, now),
            DoorEvent::Company(company) => {
                self.company = company;
                self.wait_anew_for_the_astray(now.at);
            }
            DoorEvent::Dark(machines) => {
                self.dark.retain(|machine, _| machines.contains(machine));
                for machine in machines {
                    self.dark.entry(machine).or_insert(now.at);
                }
            }
            DoorEvent::Lost { linked, why: _ } => {
                linked.iter().for_each(|life| self.dials_another(life, now));
            }
            DoorEvent::Mute { linked } => {
                linked.iter().for_each(|life| self.was_told_nothing(life));
                if let DoorState::Up { mute, .. } = &mut self.door {
                    mute.extend(linked);
                }
            }
            DoorEvent::Heard { linked } => {
                if let DoorState::Up { mute, .. } = &mut self.door {
                    mute.retain(|life| !linked.contains(life));
                }
            }
            DoorEvent::Notice(notice) => self.fold_notice(notice, now),
            DoorEvent::Silent => {
                self.take_pulse(Pulse::Silent);
                // Whom it was to tell it may not have told: SIGTERM says the same, and to be told twice does no harm.
                self.forget_what_the_door_was_told();
            }
            DoorEvent::Answers => {
                self.take_pulse(Pulse::Beats);
                self.wait_anew_for_the_astray(now.at);
                // Whoever was to become ready meanwhile could not.
                for place in self.pools.iter_mut().flat_map(|pool| pool.places.values_mut()) {
                    if let Phase::Starting { since, .. } = &mut place.phase {
                        *since = now.at;
                    }
                }
            }
            DoorEvent::Down { .. } => self.door_is_down(),
        }
    }

    fn take_pulse(&mut self, now: Pulse) {
        if let DoorState::Up { pulse, mute, .. } = &mut self.door {
            *pulse = now;
            mute.clear();
        }
    }

    /// What another door sees is added to what is known; nothing is known any less for its being there.
    fn another_is_up(&mut self, welcome: &Welcome, now: Now) {
        for life in welcome.linked.iter().chain(&welcome.seen) {
            self.saw(life);
        }
        let mut none_was_open = false;
        if let DoorState::Up { linked, open, pools, .. } = &mut self.door {
            none_was_open = !std::mem::replace(open, true);
            linked.extend(welcome.linked.iter().cloned());
            for (pool, address) in &welcome.pools {
                pools.entry(pool.clone()).or_insert(*address);
            }
        }
        if none_was_open {
            self.wait_anew_for_the_astray(now.at);
        }
        for life in &welcome.linked {
            self.is_there(life, now);
            self.bury_if_over(life);
            self.ask_after(life, now.at);
        }
        self.briefing = Briefing::Due;
    }

    /// A door has somebody whose end has been seen: it has not heard of that.
    fn bury_if_over(&mut self, life: &Incarnation) {
        let seen = self.has_ended(life);
        if let Some(remains) = self.remains.get_mut(life) {
            let over = match remains.stage {
                Stage::Dead(_) => true,
                Stage::Severed | Stage::Leaving { .. } | Stage::Killing(_) => seen,
                Stage::Excess { .. } => false,
            };
            if over {
                remains.burial = Burial::Needed;
            }
        }
    }

    /// A worker whose door has gone while another is there, or that has been sent to another. It is not presumed dead: it
    /// dials the other one, and is waited for as who is [astray](super::astray).
    fn dials_another(&mut self, life: &Incarnation, now: Now) {
        self.unlink(life);
        self.was_told_nothing(life);
        if let Some(tenant) = self.tenant_mut(life) {
            tenant.astray = Some(now.at);
        }
        if let Some(phase) = self.phase_mut(life) {
            phase.change(|phase| match phase {
                Phase::Starting { tenant, .. } | Phase::Live { tenant, .. } => {
                    Phase::Starting { tenant, since: now.at }
                }
                other => other,
            });
        }
        if let Some(remains) = self.remains.get_mut(life) {
            remains.burial = Burial::NotNeeded;
        }
    }

    /// Compares what we thought with what the door sees. Nobody is presumed dead for not being linked: after a
    /// restart of the door, workers need a moment to dial again, and have their start time-out for it.
    fn door_is_up(&mut self, welcome: Welcome, now: Now) {
        for life in welcome.linked.iter().chain(&welcome.seen) {
            self.saw(life);
        }
        let linked: BTreeSet<Incarnation> = welcome.linked.into_iter().collect();
        for place in self.pools.iter_mut().flat_map(|pool| pool.places.values_mut()) {
            if place.phase.tenant().is_some_and(|tenant| linked.contains(&tenant.life)) {
                place.phase.join(now.at);
                continue;
            }
            if let Some(tenant) = place.phase.tenant_mut()
                && tenant.first_ready.is_some()
            {
                tenant.astray.get_or_insert(now.at);
            }
            place.phase.change(|phase| match phase {
                Phase::Starting { tenant, .. } | Phase::Live { tenant, .. } => {
                    Phase::Starting { tenant, since: now.at }
                }
                other => other,
            });
        }
        self.wait_anew_for_the_astray(now.at);
        self.remains.values_mut().for_each(|remains| remains.burial = Burial::NotNeeded);
        for life in &linked {
            self.bury_if_over(life);
            self.ask_after(life, now.at);
        }
        self.briefing = Briefing::Due;
        self.door = DoorState::Up {
            pid: welcome.pid,
            pools: welcome.pools,
            linked,
            open: true,
            pulse: Pulse::Beats,
            mute: BTreeSet::new(),
        };
        for pool in &mut self.pools {
            pool.intensity.first_ready(now.at);
        }
    }

    /// Nothing is inferred from the door's absence but that it is absent.
    fn door_is_down(&mut self) {
        self.door = DoorState::Away;
        self.strangers.clear();
        self.forget_what_the_door_was_told();
    }

    fn forget_what_the_door_was_told(&mut self) {
        for place in self.pools.iter_mut().flat_map(|pool| pool.places.values_mut()) {
            if let Phase::Draining { told: told @ Told::ByDoor, .. } = &mut place.phase {
                *told = Told::Nobody;
            }
        }
        for remains in self.remains.values_mut() {
            if let Stage::Excess { told: told @ Told::ByDoor, .. } = &mut remains.stage {
                *told = Told::Nobody;
            }
        }
    }

    /// What the door was to tell this worker, it may not have told.
    fn was_told_nothing(&mut self, life: &Incarnation) {
        if let Some(Phase::Draining { told: told @ Told::ByDoor, .. }) = self.phase_mut(life) {
            *told = Told::Nobody;
        }
        if let Some(remains) = self.remains.get_mut(life)
            && let Stage::Excess { told: told @ Told::ByDoor, .. } = &mut remains.stage
        {
            *told = Told::Nobody;
        }
    }

    fn fold_notice(&mut self, notice: Notice, now: Now) {
        match notice {
            Notice::Joined { worker, at } => self.joined(&worker, at, now),
            Notice::Moved { worker, .. } => self.dials_another(&worker, now),
            Notice::Retiring { worker, why } => {
                let Some(deadline) = self.drain_deadline(&worker.worker.pool, now.at) else { return };
                if let Some(phase) = self.phase_mut(&worker) {
                    phase.drain(Purpose::Retires(why), Told::ItKnows, deadline);
                }
            }
            Notice::Left { worker, cleanly: true, .. } => {
                self.unlink(&worker);
                self.depart(&worker, Departure::Goodbye, now);
                self.pardon(&worker, now);
            }
            Notice::Left { worker, at, cleanly: false, held, siblings, vanished } => {
                self.unlink(&worker);
                self.depart(&worker, Departure::Severed, now);
                self.incidents.of(&worker).left.get_or_insert(Left { at, held, siblings, vanished });
            }
            Notice::Settled { worker, turn, at, outcome } => {
                self.incidents.of(&worker).settled.entry(turn).or_insert(Settled { at, outcome });
            }
            Notice::Overran { worker, held } => {
                self.condemn(&worker, KillReason::RequestTimeout { request: held.request });
            }
            Notice::Broke { worker, detail } => self.condemn(&worker, KillReason::Protocol { detail }),
            Notice::Report { report, .. } => self.report = Some(report),
            Notice::Stopping => {
                if let DoorState::Up { open, .. } = &mut self.door {
                    *open = false;
                }
            }
            // For the log alone; the loop has written them there. A welcome comes as an event of its own.
            Notice::Welcome { .. }
            | Notice::Panicked { .. }
            | Notice::Refused { .. }
            | Notice::TrickleEnded { .. }
            | Notice::Pong => {}
        }
    }

    fn joined(&mut self, life: &Incarnation, at: Stamp, now: Now) {
        self.saw(life);
        if let DoorState::Up { linked, mute, .. } = &mut self.door {
            linked.insert(life.clone());
            mute.remove(life);
        }
        self.is_there(life, now);
        self.bury_if_over(life);
        if self.tenant(life).is_none() {
            // Linked, with a good token, and maybe not in our books: a listing will tell who that is.
            return self.ask_after(life, now.at);
        }
        if let Some(incident) = self.incident_that_it_ends(life) {
            incident.ready.get_or_insert(at);
        }
    }

    /// A worker's link is up.
    fn is_there(&mut self, life: &Incarnation, now: Now) {
        let Some(phase) = self.phase_mut(life) else { return };
        phase.join(now.at);
        if let Some(pool) = self.pool_mut(&life.worker.pool)
            && pool.live() == 1
        {
            pool.intensity.first_ready(now.at);
        }
    }

    /// Has a worker killed that is not to be trusted with a turn any more.
    fn condemn(&mut self, life: &Incarnation, why: KillReason) {
        match self.phase_mut(life) {
            Some(Phase::Dying { .. }) => {}
            Some(phase) => phase.kill(why, Errand::Due),
            None => {
                if let Some(remains) = self.remains.get_mut(life)
                    && matches!(remains.stage, Stage::Excess { .. })
                {
                    remains.stage = Stage::Killing(Errand::Due);
                    self.incidents.of(life).notes.killed_for = Some(why);
                }
            }
        }
    }

    fn unlink(&mut self, life: &Incarnation) {
        self.strangers.remove(life);
        if let DoorState::Up { linked, mute, .. } = &mut self.door {
            linked.remove(life);
            mute.remove(life);
        }
    }
}
