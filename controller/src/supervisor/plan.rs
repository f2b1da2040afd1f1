//! What is to be done, given what is known: pure. It reads no clock, asks nobody and changes nothing.
//!
//! The rules, in the order in which they are applied to each worker:
//!
//! - Nobody is spawned before both door and engine have told whom they know, while either is away, while the door has
//!   not heard of the pool (which was added to the spec after the door's start), or while the pool has too many
//!   [remains](Remains) lying about.
//! - A start time-out runs only while the door is there and answers: without one, nobody can be ready. One
//!   that waits for room or for its image is not late. A worker that has been ready before has the time of a turn
//!   besides: it may be at work on one of the last door's. But where its machine has gone dark with a door, it is
//!   waited for as long as it takes to come to another, whatever its phase; then its place is vacated
//!   ([`State::is_waited_for`]).
//! - Whoever is to finish is told by the door, if the door knows it and answers, and by SIGTERM otherwise, which is
//!   repeated: who has only just been started does not hear it.
//! - When a stop is cut off, nobody is told anything any more: they are all killed at once, side by side.
//! - Whoever is killed is killed until it is known to be dead, and removed until it is known to be removed.
//! - A silent engine is asked for nothing but a listing, and a door that is away for nothing at all: what was to
//!   be asked of them is still to be done when they are back. Where a door can end a worker's process as well, that half of
//!   a kill does not wait for the engine: who waits for an answer waits for that death.
//! - Doors are told of every end that they have not told of, and when one comes, of all that were before. Who is
//!   at one of several doors, in no books and in no listing begun since is turned out.
//!
//! Everything that depends on time asks one alarm, which remembers the earliest moment at which one of the
//! answers would have been another. The loop wakes up then, so no time-out can be forgotten.

use std::time::Instant;

use server::control::{Report, WorkerReport};
use server::identity::{Incarnation, PoolName};

use super::act::kill_by_the_door;
use crate::backend::{LinkEnd, Unit};
use crate::model::{
    Action, Briefing, Burial, Company, DoorState, DrainOrder, Engine, Errand, Fate, Haste, Incident,
    KillReason, Launch, Phase, PoolState, Pulse, Purpose, Remains, Stage, State, StopScope, Stranger, Tenant,
    Told,
};

/// What is to be done, and when to think again if nothing happens before.
#[derive(Debug, Default)]
pub struct Plan {
    /// To be begun and done in this order.
    pub actions: Vec<Action>,
    /// `None`: only an event can change anything.
    pub wake: Option<Instant>,
}

/// Decides what is to be done.
pub fn plan(state: &State, now: Instant) -> Plan {
    let mut planner = Planner { state, alarm: Alarm { now, next: None }, actions: Vec::new() };
    planner.listing();
    planner.doors();
    for pool in &state.pools {
        planner.places(pool);
        planner.surplus(pool);
        planner.out_of_date(pool);
    }
    for (life, remains) in &state.remains {
        planner.remains(life, remains);
    }
    planner.stop();
    Plan { actions: planner.actions, wake: planner.alarm.next }
}

/// Tells what is due, and remembers when the next thing will be.
struct Alarm {
    now: Instant,
    next: Option<Instant>,
}

impl Alarm {
    fn has_rung(&mut self, at: Instant) -> bool {
        let rung = at <= self.now;
        if !rung {
            self.wake(at);
        }
        rung
    }

    /// For what is noticed, and not decided, when time has passed.
    fn wake(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    fn is_due(&mut self, errand: Errand) -> bool {
        match errand {
            Errand::Due => true,
            Errand::UnderWay => false,
            Errand::Again(at) => self.has_rung(at),
        }
    }
}

struct Planner<'a> {
    state: &'a State,
    alarm: Alarm,
    actions: Vec<Action>,
}

impl Planner<'_> {
    fn listing(&mut self) {
        if self.alarm.is_due(self.state.listing) {
            self.actions.push(Action::List);
        }
    }

    /// What doors have to know, and whom they are to turn out.
    fn doors(&mut self) {
        if !self.door_is_up() || self.state.engine == Engine::NotListedYet {
            return;
        }
        if self.state.briefing == Briefing::Due {
            self.actions.push(Action::Brief { lives: self.state.over() });
        }
        if self.state.company == Company::Alone {
            return;
        }
        let nobodys = self.state.strangers.iter().filter(|(_, stranger)| **stranger == Stranger::Nobodys);
        self.actions.extend(nobodys.map(|(life, _)| Action::TurnOut { life: life.clone() }));
    }

    fn places(&mut self, pool: &PoolState) {
        let room = self.may_spawn(pool);
        for (number, place) in &pool.places {
            if let Some(until) = place.phase.tenant().and_then(|tenant| self.state.is_waited_for(tenant)) {
                self.alarm.wake(until);
            }
            match &place.phase {
                Phase::Empty { not_before, .. } => {
                    if room && self.alarm.has_rung(*not_before) {
                        let life = self.state.next_life(&pool.worker(*number));
                        self.actions.push(Action::Spawn { life });
                    }
                }
                Phase::Starting { tenant, since } => {
                    let allowed = tenant.start_allowance(&pool.spec.door.timeouts);
                    if let Some(stopping) = &self.state.stopping {
                        self.dismiss(tenant, stopping.deadline);
                    } else if self.door_is_up()
                        && tenant.launch == Launch::Done
                        && self.alarm.has_rung(*since + allowed)
                        && let Some(unit) = tenant.compartment.unit()
                    {
                        self.kill(&tenant.life, unit, KillReason::StartTimeout { allowed });
                    }
                }
                Phase::Live { tenant, .. } => {
                    if let Some(stopping) = &self.state.stopping {
                        self.dismiss(tenant, stopping.deadline);
                    }
                }
                Phase::Draining { tenant, purpose, told, deadline } => {
                    let told_now = self.is_to_be_told(*told, *deadline) && self.drain(tenant, *purpose);
                    if !told_now
                        && self.alarm.has_rung(*deadline)
                        && let Some(unit) = tenant.compartment.unit()
                    {
                        self.kill(&tenant.life, unit, KillReason::DrainTimeout);
                    }
                }
                Phase::Dying { tenant, why, errand } => {
                    if let Some(unit) = tenant.compartment.unit()
                        && self.alarm.is_due(*errand)
                    {
                        self.kill(&tenant.life, unit, why.clone());
                    }
                }
            }
        }
        if let Some(at) = pool.intensity.sound_at(&pool.spec.restart) {
            self.alarm.has_rung(at);
        }
    }

    /// Sends the idlest away when there are too many; those first that have not even started.
    fn surplus(&mut self, pool: &PoolState) {
        if self.stopping() || !self.engine_answers() || self.door_is_silent() {
            return;
        }
        let mut candidates: Vec<&Tenant> = pool
            .places
            .values()
            .filter(|place| place.fate == Fate::Refill)
            .filter_map(|place| match &place.phase {
                Phase::Starting { tenant, .. } | Phase::Live { tenant, .. } => Some(tenant),
                Phase::Empty { .. } | Phase::Draining { .. } | Phase::Dying { .. } => None,
            })
            .collect();
        candidates.sort_by_key(|tenant| {
            let seen = self.state.report.as_ref().and_then(|report| reported(report, &tenant.life));
            let linked = self.state.is_linked(&tenant.life);
            let held = seen.map_or(0, |worker| worker.holding.len());
            let idle = std::cmp::Reverse(seen.map(|worker| worker.idle_for));
            (linked, held, idle, std::cmp::Reverse(tenant.life.clone()))
        });
        for tenant in candidates.into_iter().take(pool.surplus()) {
            self.drain(tenant, Purpose::Surplus);
        }
    }

    /// Replaces one worker at a time that was made from an older spec, while all the others are there; and whoever is held
    /// up in its start, at once: it serves nobody, and the new spec may be what it waits for.
    fn out_of_date(&mut self, pool: &PoolState) {
        if !self.stopping() {
            let held_up = pool.places.values().filter_map(|place| match &place.phase {
                Phase::Starting { tenant, .. } => Some(tenant),
                Phase::Empty { .. } | Phase::Live { .. } | Phase::Draining { .. } | Phase::Dying { .. } => {
                    None
                }
            });
            for tenant in held_up.filter(|tenant| tenant.spec_hash != pool.spec_hash && tenant.is_held_up()) {
                self.drain(tenant, Purpose::OutOfDate);
            }
        }
        let all_live = pool.places.values().all(|place| matches!(place.phase, Phase::Live { .. }));
        if self.stopping() || !all_live || pool.surplus() > 0 || self.door_is_silent() {
            return;
        }
        let tenants = pool.places.values().filter_map(|place| place.phase.tenant());
        if let Some(tenant) = tenants.into_iter().find(|tenant| tenant.spec_hash != pool.spec_hash) {
            self.drain(tenant, Purpose::OutOfDate);
        }
    }

    fn remains(&mut self, life: &Incarnation, remains: &Remains) {
        if remains.burial == Burial::Needed && self.door_is_up() {
            self.actions.push(Action::Bury { life: life.clone() });
        }
        let Some(unit) = remains.compartment.unit() else { return };
        match &remains.stage {
            Stage::Severed => {
                let end = self.state.incidents.get(life).map_or(LinkEnd::Vanished, Incident::link_end);
                self.actions.push(Action::LinkLost { life: life.clone(), unit: unit.clone(), end });
            }
            Stage::Leaving { until } => {
                if self.alarm.has_rung(*until) {
                    self.finish(life, unit);
                }
            }
            Stage::Excess { told, until } => {
                let told_now =
                    self.is_to_be_told(*told, *until) && self.tell(life, Some(unit), Purpose::Surplus);
                if !told_now && self.alarm.has_rung(*until) {
                    self.kill(life, unit, KillReason::DrainTimeout);
                }
            }
            Stage::Killing(errand) => {
                if self.alarm.is_due(*errand) {
                    self.finish(life, unit);
                }
            }
            Stage::Dead(errand) => {
                if self.alarm.is_due(*errand) && self.engine_answers() {
                    self.actions.push(Action::Remove { life: life.clone(), unit: unit.clone() });
                }
            }
        }
    }

    fn stop(&mut self) {
        let Some(stopping) = &self.state.stopping else { return };
        for at in [stopping.door_until, stopping.give_up] {
            self.alarm.has_rung(at);
        }
        if stopping.scope == StopScope::DoorToo && !stopping.door_told && self.door_answers() {
            self.actions.push(Action::StopDoor);
        }
    }

    /// Sends a worker away because everything stops, and ends it when there has been nobody to tell it.
    fn dismiss(&mut self, tenant: &Tenant, deadline: Instant) {
        let told = self.drain(tenant, Purpose::Stopping);
        if !told
            && self.alarm.has_rung(deadline)
            && let Some(unit) = tenant.compartment.unit()
        {
            self.kill(&tenant.life, unit, KillReason::DrainTimeout);
        }
    }

    /// Whether a worker that is to be gone by `deadline` has to be told so, or told again.
    fn is_to_be_told(&mut self, told: Told, deadline: Instant) -> bool {
        match told {
            Told::Nobody => true,
            Told::BySigterm { again } => !self.alarm.has_rung(deadline) && self.alarm.has_rung(again),
            Told::ByDoor | Told::ItKnows => false,
        }
    }

    fn drain(&mut self, tenant: &Tenant, purpose: Purpose) -> bool {
        self.tell(&tenant.life, tenant.compartment.unit(), purpose)
    }

    /// Has a worker told to finish, if there is anybody to tell it. A door that stops tells its workers itself.
    fn tell(&mut self, life: &Incarnation, unit: Option<&Unit>, purpose: Purpose) -> bool {
        if self.state.stopping.is_some_and(|stopping| stopping.haste == Haste::CutOff) {
            return false;
        }
        let door_will = self.state.stopping.is_some_and(|stopping| stopping.scope == StopScope::DoorToo);
        let by_door = self.state.hears_the_door(life);
        let order = match unit {
            _ if by_door && door_will => return false,
            _ if by_door => DrainOrder::ThroughDoor,
            _ if matches!(self.state.door, DoorState::NotMetYet) && !self.stopping() => return false,
            Some(unit) if self.engine_answers() => DrainOrder::Sigterm(unit.clone()),
            _ => return false,
        };
        self.actions.push(Action::Drain { life: life.clone(), purpose, order });
        true
    }

    fn kill(&mut self, life: &Incarnation, unit: &Unit, why: KillReason) {
        if self.engine_answers() {
            self.actions.push(Action::Kill { life: life.clone(), unit: unit.clone(), why });
        } else if self.state.hears_the_door(life) && kill_by_the_door(life, unit).is_some() {
            self.actions.push(Action::KillByDoor { life: life.clone(), why });
        }
    }

    fn finish(&mut self, life: &Incarnation, unit: &Unit) {
        if self.engine_answers() {
            self.actions.push(Action::Finish { life: life.clone(), unit: unit.clone() });
        }
    }

    fn may_spawn(&self, pool: &PoolState) -> bool {
        self.door_is_up()
            && self.engine_answers()
            && !self.stopping()
            && self.state.door_has(pool.name())
            && self.has_room(pool.name(), pool.wanted)
    }

    /// Whether the pool's remains are few enough to make more of them.
    fn has_room(&self, pool: &PoolName, wanted: u32) -> bool {
        let most = usize::try_from(wanted).unwrap_or(usize::MAX).saturating_mul(2).max(16);
        self.state.remains.keys().filter(|life| life.worker.pool == *pool).count() < most
    }

    fn stopping(&self) -> bool {
        self.state.stopping.is_some()
    }

    fn engine_answers(&self) -> bool {
        self.state.engine == Engine::Answers
    }

    /// Whether there is a door, even one that has begun to stop.
    fn door_answers(&self) -> bool {
        matches!(self.state.door, DoorState::Up { .. })
    }

    /// Whether there is a door that gives no sign of life: who is told to go by it would not hear it in time.
    fn door_is_silent(&self) -> bool {
        matches!(self.state.door, DoorState::Up { pulse: Pulse::Silent, .. })
    }

    /// Whether there is a door for new workers to come to.
    fn door_is_up(&self) -> bool {
        matches!(self.state.door, DoorState::Up { open: true, pulse: Pulse::Beats, .. })
    }
}

/// What the door said of this worker.
pub fn reported<'a>(report: &'a Report, life: &Incarnation) -> Option<&'a WorkerReport> {
    let pool = report.pools.iter().find(|pool| pool.name == life.worker.pool)?;
    pool.workers.iter().find(|worker| worker.worker == *life)
}
