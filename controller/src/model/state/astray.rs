//! Workers that have gone with their door's machine, where there are several doors.
//!
//! A worker whose door has gone dials the next one, and is there within a moment, or when the turn is over that it is at.
//! It has its start time-out for that, and the time of a turn. But a machine that is switched off takes doors and workers
//! along, and of those nobody says that they are dead. It is told by its door: it has fallen silent, or was never heard
//! of, and to the next try to reach it *nothing* answers, no kernel that would say that no door is there. Then the machine
//! is *dark*, and whoever was on it and is at no door, and comes to none within moments, is not waited for any longer. The
//! place is vacated and filled again; no door lets that life in any more, should it live; what is left of it is ended by
//! the backend, which may take as long as it likes.
//!
//! A living door's word is all that prevents this, that the worker has come there, or that any other of that machine is
//! there: then it is not the machine. A door that crashes, hangs, or drains leaves its machine answering, so nobody is
//! given up for that, on whatever machine.
//!
//! The same holds for those whom a controller finds when it starts and whom no door has: what a door has said of their
//! ends was told to the controller of before, and may have been lost with it. One that is found so young that it may be
//! starting yet has its start time-out first.
//!
//! Where there is one door, its workers wait for it as long as it takes. Nobody is given up while no door answers and is
//! open, or the engine does not, for then nobody could come; nor while a door is there that speaks another version, as in
//! the middle of a rollout: whom it has it does not say.

use std::time::{Duration, Instant, SystemTime};

use server::identity::Incarnation;

use super::fold::Departure;
use super::{DoorState, Engine, Pulse, State};
use crate::backend::Unit;
use crate::model::event::Company;
use crate::model::incident::Left;
use crate::model::now::Now;
use crate::model::place::{Launch, Tenant};

/// How long a worker that is at no door is waited for when its machine is known to be dark. That takes as long as a link
/// takes to count as lost and a try to reach it; a worker gives its door twice as long (the door is to be the less patient
/// one), and dials another then.
pub(super) const ASTRAY_AFTER: Duration = Duration::from_secs(3);

impl State {
    /// Until when a worker is waited for whose machine is dark; `None`: it is at a door, or there is none that it could be
    /// at, or its machine is not dark.
    pub fn is_waited_for(&self, tenant: &Tenant) -> Option<Instant> {
        let open = matches!(self.door, DoorState::Up { open: true, pulse: Pulse::Beats, .. });
        let can_be_replaced = open && self.engine == Engine::Answers && self.stopping.is_none();
        let may_be_lost = self.company == Company::Several && tenant.launch == Launch::Done;
        let (machine, since) = (machine(tenant)?, tenant.astray?);
        let dark = *self.dark.get(machine)?;
        (can_be_replaced && may_be_lost && !self.hears_of(machine)).then(|| since.max(dark) + ASTRAY_AFTER)
    }

    /// Whether a door has the link of somebody on that machine.
    fn hears_of(&self, there: &str) -> bool {
        let mut tenants = self.tenants().filter(|tenant| machine(tenant) == Some(there));
        tenants.any(|tenant| self.is_linked(&tenant.life))
    }

    /// Vacates the places of those who have come to no door in time.
    pub(super) fn give_up_the_astray(&mut self, now: Now) {
        let late = |tenant: &&Tenant| self.is_waited_for(tenant).is_some_and(|until| until <= now.at);
        let late: Vec<Incarnation> = self.tenants().filter(late).map(|tenant| tenant.life.clone()).collect();
        for life in late {
            self.depart(&life, Departure::Astray, now);
            let siblings = self.pool(&life.worker.pool).map_or(0, super::PoolState::live);
            let vanished = Some("nothing answers on its machine, and it is at no door".to_owned());
            let left = Left { at: now.stamp, held: Vec::new(), siblings, vanished };
            self.incidents.of(&life).left.get_or_insert(left);
        }
    }

    /// Something has changed without which they could have come nowhere.
    pub(super) fn wait_anew_for_the_astray(&mut self, now: Instant) {
        let places = self.pools.iter_mut().flat_map(|pool| pool.places.values_mut());
        for astray in places.filter_map(|place| place.phase.tenant_mut()?.astray.as_mut()) {
            *astray = now.max(*astray);
        }
    }

    /// From when on somebody who was found alive ought to be at a door.
    pub(super) fn may_be_astray_from(
        &self,
        life: &Incarnation,
        launch: &Launch,
        born: SystemTime,
        now: Now,
    ) -> Option<Instant> {
        if *launch != Launch::Done || self.is_linked(life) {
            return None;
        }
        let start = self.pool(&life.worker.pool)?.spec.door.timeouts.start;
        let age = SystemTime::from(now.stamp).duration_since(born).unwrap_or_default();
        Some(now.at + start.saturating_sub(age))
    }
}

fn machine(tenant: &Tenant) -> Option<&str> {
    match tenant.compartment.unit()? {
        Unit::Pod { node, .. } => node.as_deref(),
        Unit::Process { .. } | Unit::Container { .. } => None,
    }
}
