//! A pool's places, and how many of them there are to be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use server::identity::{PoolName, WorkerId};

use crate::model::place::{Fate, Phase, Place, Tenant};
use crate::spec::Pool;
use crate::supervisor::restart::Intensity;

/// A pool, its places and its fortune.
#[derive(Debug, Clone)]
pub struct PoolState {
    /// What it is to be.
    pub spec: Arc<Pool>,
    /// What its workers are to have been made from.
    pub spec_hash: String,
    /// How many workers it is to have: the spec's number until somebody scales it.
    pub wanted: u32,
    /// Its places. Scaling down closes the idlest ones, so the numbers may have gaps.
    pub places: BTreeMap<u32, Place>,
    /// How fast it loses workers.
    pub intensity: Intensity,
    /// Whether it is not in the spec any more: it goes when nobody is left in it.
    pub retired: bool,
    /// Why the last worker that was ordered for it could not be had; `None` when it could.
    pub(super) refusal: Option<String>,
}

impl PoolState {
    pub(super) fn new(spec: Arc<Pool>, spec_hash: String, now: Instant) -> Self {
        let mut pool = Self {
            wanted: spec.workers,
            spec,
            spec_hash,
            places: BTreeMap::new(),
            intensity: Intensity::new(),
            retired: false,
            refusal: None,
        };
        pool.reshape(now);
        pool
    }

    /// The pool's name.
    pub fn name(&self) -> &PoolName {
        self.spec.name()
    }

    /// The name of one of its places.
    pub fn worker(&self, place: u32) -> WorkerId {
        WorkerId::new(self.name().clone(), place)
    }

    /// How many workers take turns.
    pub fn live(&self) -> usize {
        self.places.values().filter(|place| matches!(place.phase, Phase::Live { .. })).count()
    }

    /// Why it is short of workers: the last one that was ordered could not be had, or one that was made cannot run.
    pub fn trouble(&self) -> Option<&str> {
        let awaited =
            || self.places.values().filter_map(|place| place.phase.tenant()).find_map(Tenant::trouble);
        self.refusal.as_deref().or_else(awaited)
    }

    /// How many places too many there are, those left out that close anyway.
    pub fn surplus(&self) -> usize {
        let staying = self.places.values().filter(|place| place.fate == Fate::Refill).count();
        staying.saturating_sub(usize::try_from(self.wanted).unwrap_or(usize::MAX))
    }

    /// Opens the places that are missing and closes those that it costs nothing to close: the empty ones, the
    /// highest first, then those whose workers go anyway. Whom else to send away is the plan's to decide.
    pub(super) fn reshape(&mut self, now: Instant) {
        let empty = |place: &Place| matches!(place.phase, Phase::Empty { .. });
        self.places.retain(|_, place| !(empty(place) && place.fate == Fate::Close));

        let numbers: Vec<u32> = self.places.keys().rev().copied().collect();
        for number in &numbers {
            if self.surplus() > 0 && self.places.get(number).is_some_and(empty) {
                self.places.remove(number);
            }
        }
        for number in &numbers {
            if self.surplus() > 0
                && let Some(place) = self.places.get_mut(number)
                && matches!(place.phase, Phase::Draining { .. } | Phase::Dying { .. })
            {
                place.fate = Fate::Close;
            }
        }

        let staying = self.places.values().filter(|place| place.fate == Fate::Refill).count();
        let missing = usize::try_from(self.wanted).unwrap_or(usize::MAX).saturating_sub(staying);
        let free: Vec<u32> = (0..).filter(|number| !self.places.contains_key(number)).take(missing).collect();
        for number in free {
            let phase = Phase::Empty { not_before: now, lost: None };
            self.places.insert(number, Place { phase, streak: 0, fate: Fate::Refill });
        }
    }
}
