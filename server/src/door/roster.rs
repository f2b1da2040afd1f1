//! Who is idle, and whom to pick. Pure: it knows seats and numbers, no sockets and no clock.
//!
//! A worker gets a turn only on credit that it has granted. Among those with credit left, the one with the fewest
//! turns in hand is picked, so that turns spread over workers before they pile up in one; among equals the one
//! that came back last, whose caches are warm and whose pages are in memory. The longest idle are thus left
//! alone, which is what scaling down wants.

use std::collections::HashMap;

/// A worker's place at the table, for as long as its link is up. The door never uses one twice.
pub(super) type Seat = u64;

/// The workers of one pool.
#[derive(Debug, Default)]
pub(super) struct Roster {
    seats: HashMap<Seat, Standing>,
    /// `free[n]`: who has credit left and `n` turns in hand, the one that came back last at the end.
    free: Vec<Vec<Seat>>,
}

#[derive(Debug, Clone, Copy)]
struct Standing {
    credit: u16,
    in_hand: u16,
    gate: Gate,
    /// Nothing has been heard of it for some time: it may be lost.
    silent: bool,
}

/// Whether a worker with credit may get a turn. What stands later in this list outlasts what stands earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gate {
    Open,
    /// Not before it is done with one, or is known to have room again: what it was sent last found none.
    Paused,
    /// Not while it is about to be killed.
    Withheld,
    /// Never again.
    Closed,
}

impl Gate {
    /// As it is when `over` has ended.
    fn without(self, over: Self) -> Self {
        if self == over { Self::Open } else { self }
    }
}

impl Standing {
    fn is_free(self) -> bool {
        self.gate == Gate::Open && !self.silent && self.in_hand < self.credit
    }
}

impl Roster {
    /// Seats a worker that takes `credit` turns at a time.
    pub(super) fn seat(&mut self, seat: Seat, credit: u16) {
        self.change(seat, |_| Some(Standing { credit, in_hand: 0, gate: Gate::Open, silent: false }));
    }

    /// Who should have the next turn; nobody when no credit is left.
    pub(super) fn pick(&self) -> Option<Seat> {
        self.free.iter().find_map(|level| level.last().copied())
    }

    /// Notes that the worker was given a turn.
    pub(super) fn give(&mut self, seat: Seat) {
        self.change(seat, |standing| {
            standing.map(|it| Standing { in_hand: it.in_hand.saturating_add(1), ..it })
        });
    }

    /// Gives the worker no turn until it is done with one, or is [resumed](Self::resume).
    pub(super) fn pause(&mut self, seat: Seat) {
        self.narrow(seat, Gate::Paused);
    }

    /// Ends what [`Roster::pause`] began.
    pub(super) fn resume(&mut self, seat: Seat) {
        self.reopen(seat, Gate::Paused);
    }

    /// Notes that the worker is done with a turn.
    pub(super) fn take_back(&mut self, seat: Seat) {
        self.change(seat, |standing| {
            let gate = |it: Standing| it.gate.without(Gate::Paused);
            standing.map(|it| Standing { in_hand: it.in_hand.saturating_sub(1), gate: gate(it), ..it })
        });
    }

    /// Gives the worker no turn until it is [heard of](Self::trust).
    pub(super) fn doubt(&mut self, seat: Seat) {
        self.change(seat, |standing| standing.map(|it| Standing { silent: true, ..it }));
    }

    /// Ends what [`Roster::doubt`] began.
    pub(super) fn trust(&mut self, seat: Seat) {
        self.change(seat, |standing| standing.map(|it| Standing { silent: false, ..it }));
    }

    /// Gives the worker no turn until it is released.
    pub(super) fn withhold(&mut self, seat: Seat) {
        self.narrow(seat, Gate::Withheld);
    }

    /// Ends what [`Roster::withhold`] began.
    pub(super) fn release(&mut self, seat: Seat) {
        self.reopen(seat, Gate::Withheld);
    }

    /// Gives the worker no further turns.
    pub(super) fn close(&mut self, seat: Seat) {
        self.narrow(seat, Gate::Closed);
    }

    fn narrow(&mut self, seat: Seat, to: Gate) {
        self.change(seat, |standing| standing.map(|it| Standing { gate: it.gate.max(to), ..it }));
    }

    fn reopen(&mut self, seat: Seat, from: Gate) {
        self.change(seat, |standing| standing.map(|it| Standing { gate: it.gate.without(from), ..it }));
    }

    /// Forgets the worker.
    pub(super) fn leave(&mut self, seat: Seat) {
        self.change(seat, |_| None);
    }

    /// The one place that keeps `seats` and `free` in step.
    fn change(&mut self, seat: Seat, to: impl FnOnce(Option<Standing>) -> Option<Standing>) {
        let before = self.seats.remove(&seat);
        let after = to(before);
        if let Some(before) = before.filter(|it| it.is_free()) {
            let level = &mut self.free[usize::from(before.in_hand)];
            // The one that was just picked stands at the end.
            if let Some(at) = level.iter().rposition(|&other| other == seat) {
                level.remove(at);
            }
        }
        if let Some(after) = after {
            if after.is_free() {
                let level = usize::from(after.in_hand);
                if self.free.len() <= level {
                    self.free.resize_with(level + 1, Vec::new);
                }
                self.free[level].push(seat);
            }
            self.seats.insert(seat, after);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Seat(u16),
        Give,
        TakeBack(usize),
        Pause(usize),
        Resume(usize),
        Doubt(usize),
        Trust(usize),
        Withhold(usize),
        Release(usize),
        Close(usize),
        Leave(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => (1u16..4).prop_map(Step::Seat),
            8 => Just(Step::Give),
            6 => any::<usize>().prop_map(Step::TakeBack),
            1 => any::<usize>().prop_map(Step::Pause),
            1 => any::<usize>().prop_map(Step::Resume),
            1 => any::<usize>().prop_map(Step::Doubt),
            1 => any::<usize>().prop_map(Step::Trust),
            1 => any::<usize>().prop_map(Step::Withhold),
            1 => any::<usize>().prop_map(Step::Release),
            1 => any::<usize>().prop_map(Step::Close),
            1 => any::<usize>().prop_map(Step::Leave),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Against the plainest model there is: a list of (seat, credit, in hand, open, what keeps it from turns).
        #[test]
        fn turns_go_only_where_credit_is_left(steps in steps()) {
            let (mut roster, mut model, mut next) = (Roster::default(), Vec::<(Seat, u16, u16, bool, Option<Step>)>::new(), 0);
            let mut silent = HashSet::new();
            for step in steps {
                let index = |n: usize| (!model.is_empty()).then(|| n % model.len());
                match step {
                    Step::Seat(credit) => {
                        roster.seat(next, credit);
                        model.push((next, credit, 0, true, None));
                        next += 1;
                    }
                    Step::Give => {
                        let picked = roster.pick();
                        let fewest = model.iter().filter(|it| !silent.contains(&it.0) && it.3 && it.4.is_none() && it.2 < it.1).map(|it| it.2).min();
                        let picked_has = picked.and_then(|seat| model.iter_mut().find(|it| it.0 == seat));
                        prop_assert_eq!(picked_has.as_ref().map(|it| it.2), fewest, "not the least busy one");
                        if let Some(it) = picked_has {
                            prop_assert!(!silent.contains(&it.0) && it.3 && it.4.is_none() && it.2 < it.1, "given beyond its credit");
                            it.2 += 1;
                            roster.give(it.0);
                        }
                    }
                    Step::TakeBack(n) => if let Some(at) = index(n) && model[at].2 > 0 {
                        model[at].2 -= 1;
                        model[at].4.take_if(|it| matches!(it, Step::Pause(_)));
                        roster.take_back(model[at].0);
                    },
                    Step::Pause(n) => if let Some(at) = index(n) {
                        model[at].4.get_or_insert(Step::Pause(n));
                        roster.pause(model[at].0);
                    },
                    Step::Resume(n) => if let Some(at) = index(n) {
                        model[at].4.take_if(|it| matches!(it, Step::Pause(_)));
                        roster.resume(model[at].0);
                    },
                    Step::Doubt(n) => if let Some(at) = index(n) {
                        silent.insert(model[at].0);
                        roster.doubt(model[at].0);
                    },
                    Step::Trust(n) => if let Some(at) = index(n) {
                        silent.remove(&model[at].0);
                        roster.trust(model[at].0);
                    },
                    Step::Withhold(n) => if let Some(at) = index(n) {
                        model[at].4 = Some(Step::Withhold(n));
                        roster.withhold(model[at].0);
                    },
                    Step::Release(n) => if let Some(at) = index(n) {
                        model[at].4.take_if(|it| matches!(it, Step::Withhold(_)));
                        roster.release(model[at].0);
                    },
                    Step::Close(n) => if let Some(at) = index(n) {
                        model[at].3 = false;
                        roster.close(model[at].0);
                    },
                    Step::Leave(n) => if let Some(at) = index(n) {
                        roster.leave(model.remove(at).0);
                    },
                }
            }
        }

        #[test]
        fn among_equals_the_last_to_come_back_is_picked(workers in 2u64..9, order in Just(()).prop_perturb(|(), mut rng| rng.random::<u64>())) {
            let mut roster = Roster::default();
            for seat in 0..workers {
                roster.seat(seat, 1);
                roster.give(seat);
            }
            let last = order % workers;
            for seat in (0..workers).filter(|&seat| seat != last) {
                roster.take_back(seat);
            }
            roster.take_back(last);
            prop_assert_eq!(roster.pick(), Some(last));
        }
    }
}
