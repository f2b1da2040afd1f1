//! What changes when the supervisor begins to do something: that it is under way, so that the next plan does not
//! ask for it again.

use std::time::{Duration, Instant, SystemTime};

use server::identity::Incarnation;

use super::{Briefing, DoorState, State, Stopping};
use crate::model::action::{Action, DrainOrder};
use crate::model::incident::{Finish, Notes};
use crate::model::now::Now;
use crate::model::place::{
    Came, Compartment, Errand, Fate, KillReason, Launch, Phase, Purpose, Tenant, Told,
};
use crate::model::remains::{Burial, Remains, Stage};

/// How soon a door is asked again to end a worker's process, while there is nobody else to be asked.
const KILL_AGAIN_BY_DOOR: Duration = Duration::from_secs(1);

impl State {
    /// Takes note that `action` is now being done.
    pub fn begin(&mut self, action: &Action, now: Now) {
        match action {
            Action::List => self.listing = Errand::UnderWay,
            Action::Spawn { life } => self.begin_spawn(life, now),
            Action::Drain { life, purpose, order } => {
                let told = match order {
                    DrainOrder::ThroughDoor => Told::ByDoor,
                    DrainOrder::Sigterm(_) => Told::BySigterm { again: now.at + Told::AGAIN_AFTER },
                };
                self.begin_drain(life, *purpose, told, now.at);
            }
            Action::Kill { life, why, .. } => self.begin_kill(life, why, Errand::UnderWay, now),
            Action::KillByDoor { life, why } => {
                // No answer comes. What the backend has to do is still to be done when it answers again.
                self.begin_kill(life, why, Errand::Again(now.at + KILL_AGAIN_BY_DOOR), now);
            }
            Action::Finish { life, .. } => {
                if let Some(remains) = self.remains.get_mut(life) {
                    remains.stage = Stage::Killing(Errand::UnderWay);
                    if let Some(incident) = self.incidents.known(life) {
                        incident.notes.finish.get_or_insert(Finish::UnderWay);
                    }
                }
            }
            Action::LinkLost { life, .. } => {
                if let Some(remains) = self.remains.get_mut(life) {
                    remains.stage = Stage::Leaving { until: now.at + Remains::SEVERED_GRACE };
                }
            }
            Action::Remove { life, .. } => {
                if let Some(remains) = self.remains.get_mut(life) {
                    remains.stage = Stage::Dead(Errand::UnderWay);
                }
            }
            Action::Bury { life } => {
                if let Some(remains) = self.remains.get_mut(life) {
                    remains.burial = Burial::NotNeeded;
                }
            }
            Action::Brief { .. } => self.briefing = Briefing::Done,
            Action::TurnOut { life } => drop(self.strangers.remove(life)),
            Action::StopDoor => {
                if let Some(stopping) = &mut self.stopping {
                    stopping.door_told = true;
                }
                if let DoorState::Up { open, .. } = &mut self.door {
                    *open = false;
                }
            }
        }
    }

    fn begin_spawn(&mut self, life: &Incarnation, now: Now) {
        self.saw(life);
        let Some(pool) = self.pool_mut(&life.worker.pool) else { return };
        let spec_hash = pool.spec_hash.clone();
        let Some(place) = pool.places.get_mut(&life.worker.place) else { return };
        let Phase::Empty { lost, .. } = &place.phase else { return };
        let tenant = Tenant {
            life: life.clone(),
            compartment: Compartment::Ordered,
            launch: Launch::Done,
            spec_hash,
            born: SystemTime::from(now.stamp),
            first_ready: None,
            astray: None,
            came: Came::Ordered,
            succeeds: lost.clone(),
            notes: Notes::default(),
        };
        place.phase = Phase::Starting { tenant, since: now.at };
    }

    fn begin_drain(&mut self, life: &Incarnation, purpose: Purpose, told: Told, now: Instant) {
        let by_then = self.drain_deadline(&life.worker.pool, now);
        // A worker that hears of it late, after the door has gone or the engine was away, still gets time to leave.
        let late = |before: Told, deadline: Instant| match (before, told) {
            (Told::Nobody | Told::ItKnows, Told::BySigterm { .. } | Told::ByDoor) => {
                deadline.max(now + Stopping::GRACE)
            }
            (Told::BySigterm { .. } | Told::ByDoor, _) | (_, Told::Nobody | Told::ItKnows) => deadline,
        };
        if let Some(by_then) = by_then
            && let Some(pool) = self.pool_mut(&life.worker.pool)
            && let Some(place) = pool.places.get_mut(&life.worker.place)
            && place.phase.tenant().is_some_and(|tenant| tenant.life == *life)
        {
            match &mut place.phase {
                Phase::Draining { told: known, deadline, .. } => {
                    *deadline = late(*known, *deadline);
                    *known = told;
                }
                phase => phase.drain(purpose, told, late(Told::Nobody, by_then)),
            }
            if purpose == Purpose::Surplus {
                place.fate = Fate::Close;
            }
        } else if let Some(Remains { stage: Stage::Excess { told: known, until }, .. }) =
            self.remains.get_mut(life)
        {
            *until = late(*known, *until);
            *known = told;
            self.incidents.of(life).notes.was_draining = true;
        }
    }

    fn begin_kill(&mut self, life: &Incarnation, why: &KillReason, errand: Errand, now: Now) {
        if let Some(phase) = self.phase_mut(life) {
            phase.kill(why.clone(), errand);
            if let Some(tenant) = phase.tenant_mut() {
                tenant.notes.kill_sent.get_or_insert(now.stamp);
            }
        } else if let Some(remains) = self.remains.get_mut(life) {
            remains.stage = Stage::Killing(errand);
            let notes = &mut self.incidents.of(life).notes;
            notes.killed_for = Some(why.clone());
            notes.kill_sent.get_or_insert(now.stamp);
        }
    }
}
