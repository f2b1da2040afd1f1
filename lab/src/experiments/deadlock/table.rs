//! The dinner itself, in a process of its own: as many threads as forks, and each needs two of them to eat.
//!
//! Party N takes fork N and then fork N + 1, the last one fork 0: of two parties each takes first what the other takes
//! second. That is the mistake. Each remedy is a function of a few lines: [`ordered`], [`with_time_out`],
//! [`with_detection`].
//!
//! The locks of the mistake and of the order are plain `std::sync::Mutex`es; a thread that waits for one of them
//! sleeps in the kernel, on the address of that lock, where anybody may see it. So whoever is stuck here is really
//! stuck, and the process has to be killed.

use std::io;
use std::sync::{Barrier, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::graph;
use super::record::{Doing, Record};

/// How parties see to it that they do not wait for each other for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// They do not.
    Opposite,
    /// Everybody takes the fork with the lower number first.
    Ordered,
    /// Whoever has waited too long for the second puts the first back, and tries again after a random while.
    TimeOut,
    /// Who waits for whom is written down, and where it goes in a circle one has to step back.
    Detection,
}

impl Way {
    pub(super) const REMEDIES: [Self; 3] = [Self::Ordered, Self::TimeOut, Self::Detection];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Opposite => "opposite order",
            Self::Ordered => "an order among forks",
            Self::TimeOut => "time-out and retry",
            Self::Detection => "detection, a victim",
        }
    }
}

/// How long what takes, in µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pace {
    /// On the average; it is random.
    pub(super) think: u64,
    /// Between taking the first fork and reaching for the second.
    pub(super) reach: u64,
    /// With both.
    pub(super) eat: u64,
}

/// A dinner. Its record is descriptor 0.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Dinner {
    pub(super) parties: usize,
    pub(super) way: Way,
    pub(super) pace: Pace,
    pub(super) seed: u64,
}

impl Dinner {
    /// Dines until the record says that it is over.
    pub(in crate::experiments) fn run(self) -> io::Result<()> {
        let record = Record::of(io::stdin())?;
        let locks: Vec<Mutex<()>> = (0..self.parties).map(|_| Mutex::new(())).collect();
        for (nth, lock) in locks.iter().enumerate() {
            let address = std::ptr::from_ref(lock) as u64;
            record.note_lock(nth, address..address + size_of::<Mutex<()>>() as u64);
        }
        let forks: Vec<Fork> = (0..self.parties).map(|_| Fork::default()).collect();
        let ledger = Ledger::new(self.parties);
        let barrier = Barrier::new(self.parties + 1);
        std::thread::scope(|scope| {
            for party in 0..self.parties {
                let (record, barrier, locks, forks, ledger) = (&record, &barrier, &locks, &forks, &ledger);
                // The kernel shows a thread by its name.
                std::thread::Builder::new().name(format!("party {party}")).spawn_scoped(
                    scope,
                    move || {
                        let mut place = Place::new(self, party, record);
                        barrier.wait();
                        while !record.is_over() {
                            record.does(party, Doing::Thinks);
                            place.think();
                            match self.way {
                                Way::Opposite => in_turn(&place, locks, place.first, place.second),
                                Way::Ordered => ordered(&place, locks),
                                Way::TimeOut => with_time_out(&mut place, forks),
                                Way::Detection => with_detection(&mut place, ledger),
                            }
                        }
                    },
                )?;
            }
            record.begin();
            barrier.wait();
            Ok(())
        })
    }
}

/// A party at its place.
struct Place<'a> {
    party: usize,
    first: usize,
    second: usize,
    pace: Pace,
    record: &'a Record,
    luck: u64,
}

impl<'a> Place<'a> {
    fn new(dinner: Dinner, party: usize, record: &'a Record) -> Self {
        Self {
            party,
            first: party,
            second: (party + 1) % dinner.parties,
            pace: dinner.pace,
            record,
            luck: dinner.seed ^ (party as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// A number below `end`.
    fn random(&mut self, end: u64) -> u64 {
        self.luck = self.luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.luck >> 33) % end.max(1)
    }

    fn think(&mut self) {
        let time = self.random(2 * self.pace.think);
        pass(time);
    }

    fn reach(&self, fork: usize) {
        self.record.note_holder(fork, Some(self.party));
        self.record.does(self.party, Doing::HoldsOne);
        pass(self.pace.reach);
    }

    fn eat(&self, second: usize) {
        self.record.note_holder(second, Some(self.party));
        self.record.does(self.party, Doing::Eats);
        pass(self.pace.eat);
        self.record.ate(self.party);
        self.record.note_holder(self.first, None);
        self.record.note_holder(self.second, None);
    }

    fn step_back(&self) {
        self.record.note_holder(self.first, None);
        self.record.does(self.party, Doing::StepsBack);
    }
}

fn pass(us: u64) {
    if us > 0 {
        std::thread::sleep(Duration::from_micros(us));
    }
}

fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes one and then the other, and waits for each as long as it takes.
fn in_turn(place: &Place<'_>, locks: &[Mutex<()>], one: usize, other: usize) {
    let (Some(first), Some(second)) = (locks.get(one), locks.get(other)) else { return };
    place.record.does(place.party, Doing::Waits);
    let _first = lock(first);
    place.reach(one);
    let _second = lock(second);
    place.eat(other);
}

/// The remedy that costs nothing while it runs: with one order for all, there is always somebody who holds the highest
/// fork that anybody holds, and he waits for nobody.
fn ordered(place: &Place<'_>, locks: &[Mutex<()>]) {
    in_turn(place, locks, place.first.min(place.second), place.first.max(place.second));
}

/// A fork that one can stop waiting for.
#[derive(Default)]
struct Fork {
    taken: Mutex<bool>,
    back: Condvar,
}

impl Fork {
    /// Whether it was taken within that time; without one it is waited for as long as it takes.
    fn take(&self, patience: Option<Duration>) -> bool {
        let guard = lock(&self.taken);
        let mut guard = match patience {
            None => self.back.wait_while(guard, |taken| *taken).unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = self.back.wait_timeout_while(guard, patience, |taken| *taken);
                let (guard, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
                if timed_out.timed_out() {
                    return false;
                }
                guard
            }
        };
        *guard = true;
        true
    }

    fn put_back(&self) {
        *lock(&self.taken) = false;
        self.back.notify_one();
    }
}

/// The remedy that needs to know nothing of the others. It is late by the time-out, and without luck in the wait all
/// would step back together and meet again: the random while, twice as long each time, keeps them apart.
fn with_time_out(place: &mut Place<'_>, forks: &[Fork]) {
    let (Some(first), Some(second)) = (forks.get(place.first), forks.get(place.second)) else { return };
    let patience = Duration::from_micros(4 * (place.pace.eat + place.pace.reach));
    let mut back_off = place.pace.eat.max(50);
    while !place.record.is_over() {
        place.record.does(place.party, Doing::Waits);
        first.take(None);
        place.reach(place.first);
        if second.take(Some(patience)) {
            place.eat(place.second);
            second.put_back();
            first.put_back();
            return;
        }
        place.step_back();
        first.put_back();
        place.record.retried(place.party);
        pass(place.random(back_off));
        back_off = (2 * back_off).min(32 * place.pace.eat.max(50));
    }
}

/// Who holds and who wants what: what a database keeps of its locks.
struct Ledger {
    entries: Mutex<Entries>,
    changed: Condvar,
}

struct Entries {
    holders: Vec<Option<usize>>,
    wants: Vec<Option<usize>>,
    /// Who has to step back, and has not yet.
    doomed: Vec<bool>,
    /// For the choice of victims.
    meals: Vec<u64>,
}

/// Somebody had to step back, and it is this one.
struct Chosen;

impl Ledger {
    fn new(parties: usize) -> Self {
        let entries = Entries {
            holders: vec![None; parties],
            wants: vec![None; parties],
            doomed: vec![false; parties],
            meals: vec![0; parties],
        };
        Self { entries: Mutex::new(entries), changed: Condvar::new() }
    }

    /// Waits for a fork. Whoever is about to wait looks first whether that closes a circle, so that it is found the
    /// moment it comes into being.
    fn take(&self, party: usize, fork: usize) -> Result<(), Chosen> {
        let mut entries = lock(&self.entries);
        put(&mut entries.wants, party, Some(fork));
        if let Some(victim) = entries.victim() {
            put(&mut entries.doomed, victim, true);
            self.changed.notify_all();
        }
        loop {
            if entries.doomed.get(party) == Some(&true) {
                put(&mut entries.doomed, party, false);
                put(&mut entries.wants, party, None);
                return Err(Chosen);
            }
            if entries.holders.get(fork) == Some(&None) {
                put(&mut entries.holders, fork, Some(party));
                put(&mut entries.wants, party, None);
                return Ok(());
            }
            entries = self.changed.wait(entries).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn put_back(&self, fork: usize) {
        put(&mut lock(&self.entries).holders, fork, None);
        self.changed.notify_all();
    }

    fn ate(&self, party: usize) {
        if let Some(meals) = lock(&self.entries).meals.get_mut(party) {
            *meals += 1;
        }
    }
}

impl Entries {
    /// Who has to step back now, if anybody. While one of a circle has been told to, it is as good as broken.
    fn victim(&self) -> Option<usize> {
        let cycle = graph::cycle(&graph::waits(&self.wants, &self.holders))?;
        if cycle.iter().any(|party| self.doomed.get(*party) == Some(&true)) {
            return None;
        }
        graph::victim(&cycle, &self.meals)
    }
}

fn put<T>(list: &mut [T], nth: usize, value: T) {
    if let Some(entry) = list.get_mut(nth) {
        *entry = value;
    }
}

/// The remedy that waits for nothing in vain: only who stands in a circle is disturbed. It costs a ledger that all
/// write in, and a victim has to be able to begin again.
fn with_detection(place: &mut Place<'_>, ledger: &Ledger) {
    let (party, first, second) = (place.party, place.first, place.second);
    while !place.record.is_over() {
        place.record.does(party, Doing::Waits);
        // Who holds nothing stands in no circle, and is never chosen.
        if ledger.take(party, first).is_err() {
            continue;
        }
        place.reach(first);
        match ledger.take(party, second) {
            Ok(()) => {
                place.eat(second);
                ledger.ate(party);
                ledger.put_back(second);
                ledger.put_back(first);
                return;
            }
            Err(Chosen) => {
                place.step_back();
                ledger.put_back(first);
                place.record.was_victim(party);
                // A victim that came back at once would close the same circle again.
                pass(place.random(place.pace.eat));
            }
        }
    }
}
