//! Whom doors must not let in, and those whom they have let in and nobody knows.
//!
//! A token is good for one life, for as long as doors do not know that it is over. So every end of a life is made known to
//! all doors that are there ([`Burial`](crate::model::Burial)); and one that comes later is told of all of them at once, by
//! the latest of each place: that one and all before it are over, but for those who live.
//!
//! Somebody may come all the same with the token of a life that ended when nobody watched. He is linked, and not in our
//! books. A backend that has not answered may have made him; a listing tells, which is asked for. Whom it does not know
//! either, though it began after he had come, is nobody's worker, and is turned out where there are several doors. The only
//! one of a machine has seen all lives end that have ended since it was started, and whoever makes tokens there by hand, to
//! play a worker, has the secret.

use std::time::Instant;

use server::identity::Incarnation;

use super::{Briefing, DoorState, Engine, State, Stranger};
use crate::model::place::Errand;
use crate::model::remains::Stage;

impl State {
    /// The lives that are over: of each place the latest such that all before it are, too. Those who live are above it.
    pub fn over(&self) -> Vec<Incarnation> {
        let floor = |(worker, lineage): (&_, &super::Lineage)| {
            let tenant = self.place(worker).and_then(|place| Some(place.phase.tenant()?.life.generation));
            let excess = self.remains.iter().filter(|(life, remains)| {
                life.worker == *worker && matches!(remains.stage, Stage::Excess { .. })
            });
            let lives = excess.map(|(life, _)| life.generation).chain(tenant).min();
            let ended = lineage.ended.map_or(0, |(generation, _)| generation);
            let before = tenant.map_or(0, |generation| generation.saturating_sub(1));
            let floor =
                ended.max(before).min(lives.map_or(u64::MAX, |generation| generation.saturating_sub(1)));
            (floor > 0).then(|| worker.life(floor))
        };
        self.lineages.iter().filter_map(floor).collect()
    }

    /// Notes that there is nothing to brief a door about, once that is known.
    pub(super) fn look_at_briefing(&mut self) {
        let known = self.engine != Engine::NotListedYet && matches!(self.door, DoorState::Up { .. });
        if self.briefing == Briefing::Due && known && self.over().is_empty() {
            self.briefing = Briefing::Done;
        }
    }

    /// A door has somebody: one whom we do not know is asked after.
    pub(super) fn ask_after(&mut self, life: &Incarnation, now: Instant) {
        if self.is_in_our_books(life) {
            return;
        }
        self.strangers.entry(life.clone()).or_insert(Stranger::Since(now));
        if self.listing != Errand::UnderWay {
            self.listing = Errand::Due;
        }
    }

    /// A listing that began then has been taken in: whoever is not in our books now was not in it.
    pub(super) fn look_at_strangers(&mut self, began: Instant, now: Instant) {
        let mut strangers = std::mem::take(&mut self.strangers);
        strangers.retain(|life, _| !self.is_in_our_books(life));
        for stranger in strangers.values_mut() {
            if matches!(stranger, Stranger::Since(since) if *since < began) {
                *stranger = Stranger::Nobodys;
            }
        }
        if strangers.values().any(|stranger| matches!(stranger, Stranger::Since(_))) {
            self.list_soon(now);
        }
        self.strangers = strangers;
    }

    fn is_in_our_books(&self, life: &Incarnation) -> bool {
        self.tenant(life).is_some() || self.remains.contains_key(life)
    }
}
