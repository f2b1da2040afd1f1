//! What the backend is to show of its workers to those who look at the engine itself: what each of them is doing.
//!
//! Nothing depends on it. It is compared with what has been shown before, so a controller that starts anew shows
//! everything again, and what has not changed costs nothing.

use std::collections::{HashMap, HashSet};

use server::identity::Incarnation;

use crate::backend::{Doing, Unit};
use crate::model::{Came, Phase, State, Tenant};

/// What has been shown.
#[derive(Debug, Default)]
pub(super) struct Shown(HashMap<Incarnation, Doing>);

impl Shown {
    /// Whoever is doing something else than was shown last. From here on, it has been shown.
    pub(super) fn changes(&mut self, state: &State) -> Vec<(Incarnation, Unit, Doing)> {
        let places = state.pools.iter().flat_map(|pool| pool.places.values());
        let present = places.filter_map(|place| {
            let tenant = place.phase.tenant()?;
            Some((tenant, tenant.compartment.unit()?, doing(&place.phase)?))
        });
        let mut lives = HashSet::new();
        let mut changes = Vec::new();
        for (Tenant { life, came, .. }, unit, doing) in present {
            lives.insert(life);
            // Whom we have ordered starts, and has been made as somebody who does.
            let shown = self.0.get(life).copied().or((*came == Came::Ordered).then_some(Doing::Starting));
            if shown != Some(doing) {
                changes.push((life.clone(), unit.clone(), doing));
            }
            if self.0.get(life) != Some(&doing) {
                self.0.insert(life.clone(), doing);
            }
        }
        self.0.retain(|life, _| lives.contains(life));
        changes
    }
}

fn doing(phase: &Phase) -> Option<Doing> {
    match phase {
        Phase::Empty { .. } => None,
        Phase::Starting { .. } => Some(Doing::Starting),
        Phase::Live { .. } => Some(Doing::Ready),
        Phase::Draining { .. } | Phase::Dying { .. } => Some(Doing::Draining),
    }
}
