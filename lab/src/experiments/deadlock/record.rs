//! The flight recorder: what diners do, in memory that can be read when they are stuck, and after they were killed.
//!
//! A sealed memory file, written by the process that dines and read by the one that watches. Nobody waits for anybody
//! to write it: each word has one writer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustix::fs::{MemfdFlags, SealFlags};
use serde::Serialize;
use server::sys::SharedWords;

/// As many sit at a table at most.
pub(super) const MOST: usize = 8;

/// As many changes of what it does are kept of each party: those of half a minute at a picture's pace, for its end is
/// what is shown.
const KEPT: usize = 8192;

const WORDS_EACH: usize = Field::Log as usize + KEPT;

/// What a party does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Doing {
    /// It needs nothing.
    Thinks,
    /// It wants its first fork.
    Waits,
    /// It has that, and wants its second.
    HoldsOne,
    /// It has both.
    Eats,
    /// It has put back what it held, and waits before it tries again.
    StepsBack,
}

impl Doing {
    pub(super) const ALL: [Self; 5] =
        [Self::Thinks, Self::Waits, Self::HoldsOne, Self::Eats, Self::StepsBack];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Thinks => "thinks",
            Self::Waits => "wants a first fork",
            Self::HoldsOne => "holds one fork",
            Self::Eats => "eats",
            Self::StepsBack => "steps back",
        }
    }
}

/// A number that is kept of a party.
#[derive(Debug, Clone, Copy)]
enum Field {
    Meals,
    Retries,
    Victim,
    Logged,
    Log,
}

/// The table's own words, before those of the parties.
#[derive(Debug, Clone, Copy)]
enum Head {
    /// Not 0: everybody is to finish the meal and go.
    Over,
    /// Not 0: everybody sits.
    Begun,
    /// For each fork the address of its lock, the end of it, and its holder (counted from 1; 0: it lies on the table).
    Forks,
}

const HEAD: usize = Head::Forks as usize + 3 * MOST;

/// What a party did so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Diary {
    /// How often it ate.
    pub(super) meals: u64,
    /// How often it gave up waiting and tried again.
    pub(super) retries: u64,
    /// How often it was chosen to step back.
    pub(super) victim: u64,
    /// What it did, each from when on, in µs from the beginning; the first ones alone, if there were many.
    #[serde(skip)]
    pub(super) log: Vec<(u64, Doing)>,
}

/// The recorder, on either side.
#[derive(Debug)]
pub(super) struct Record {
    words: SharedWords,
    started: Instant,
}

impl Record {
    /// A fresh one, and the file that the other process is given.
    pub(super) fn fresh() -> io::Result<(Self, OwnedFd)> {
        let file = rustix::fs::memfd_create("dinner", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, ((HEAD + MOST * WORDS_EACH) * size_of::<u64>()) as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
        Ok((Self::of(&file)?, file))
    }

    /// The one in this file.
    pub(super) fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(Self { words: SharedWords::map(file)?, started: Instant::now() })
    }

    fn set(&self, index: usize, value: u64) {
        if let Some(word) = self.words.get(index) {
            word.store(value, Ordering::SeqCst);
        }
    }

    fn get(&self, index: usize) -> u64 {
        self.words.get(index).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn of_party(&self, party: usize, field: Field) -> Option<&AtomicU64> {
        self.words.get(HEAD + party * WORDS_EACH + field as usize)
    }

    fn count(&self, party: usize, field: Field) {
        if let Some(word) = self.of_party(party, field) {
            word.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(super) fn end(&self) {
        self.set(Head::Over as usize, 1);
    }

    pub(super) fn is_over(&self) -> bool {
        self.get(Head::Over as usize) != 0
    }

    pub(super) fn begin(&self) {
        self.set(Head::Begun as usize, 1);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.get(Head::Begun as usize) != 0
    }

    /// Where the lock of a fork lies in the memory of the process that dines.
    pub(super) fn note_lock(&self, fork: usize, addresses: std::ops::Range<u64>) {
        self.set(Head::Forks as usize + 3 * fork, addresses.start);
        self.set(Head::Forks as usize + 3 * fork + 1, addresses.end);
    }

    /// The fork whose lock lies there.
    pub(super) fn lock_at(&self, address: u64) -> Option<usize> {
        (0..MOST).find(|fork| {
            let at = Head::Forks as usize + 3 * fork;
            (self.get(at)..self.get(at + 1)).contains(&address)
        })
    }

    pub(super) fn note_holder(&self, fork: usize, party: Option<usize>) {
        self.set(Head::Forks as usize + 3 * fork + 2, party.map_or(0, |it| it as u64 + 1));
    }

    pub(super) fn holder(&self, fork: usize) -> Option<usize> {
        let holder = self.get(Head::Forks as usize + 3 * fork + 2);
        usize::try_from(holder).ok()?.checked_sub(1)
    }

    pub(super) fn ate(&self, party: usize) {
        self.count(party, Field::Meals);
    }

    pub(super) fn retried(&self, party: usize) {
        self.count(party, Field::Retries);
    }

    pub(super) fn was_victim(&self, party: usize) {
        self.count(party, Field::Victim);
    }

    /// From now on the party does this.
    pub(super) fn does(&self, party: usize, doing: Doing) {
        let Some(logged) = self.of_party(party, Field::Logged) else { return };
        let nth = usize::try_from(logged.load(Ordering::SeqCst)).unwrap_or(KEPT);
        if nth < KEPT {
            let at_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(0);
            self.set(HEAD + party * WORDS_EACH + Field::Log as usize + nth, at_us << 8 | doing as u64);
            logged.store(nth as u64 + 1, Ordering::SeqCst);
        }
    }

    /// What a party did so far.
    pub(super) fn diary(&self, party: usize) -> Diary {
        let number = |field| self.of_party(party, field).map_or(0, |word| word.load(Ordering::SeqCst));
        let logged = usize::try_from(number(Field::Logged)).unwrap_or(0).min(KEPT);
        let first = HEAD + party * WORDS_EACH + Field::Log as usize;
        let log = (first..first + logged).filter_map(|index| {
            let word = self.get(index);
            Some((word >> 8, *Doing::ALL.get(usize::try_from(word & 0xff).ok()?)?))
        });
        Diary {
            meals: number(Field::Meals),
            retries: number(Field::Retries),
            victim: number(Field::Victim),
            log: log.collect(),
        }
    }

    pub(super) fn meals(&self, party: usize) -> u64 {
        self.of_party(party, Field::Meals).map_or(0, |word| word.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let (here, file) = Record::fresh().unwrap();
        let there = Record::of(&file).unwrap();
        there.begin();
        there.note_lock(3, 100..108);
        there.note_holder(3, Some(0));
        there.does(7, Doing::Thinks);
        there.does(7, Doing::Eats);
        there.ate(7);
        here.end();
        assert!(here.has_begun() && there.is_over());
        assert_eq!(
            (here.lock_at(104), here.lock_at(108), here.holder(3), here.holder(2)),
            (Some(3), None, Some(0), None)
        );
        let diary = here.diary(7);
        assert_eq!((diary.meals, here.meals(7), here.meals(6)), (1, 1, 0));
        assert!(matches!(*diary.log, [(_, Doing::Thinks), (_, Doing::Eats)]), "{diary:?}");
    }

    #[test]
    fn a_long_dinner_is_logged_as_far_as_there_is_room() {
        let (record, _file) = Record::fresh().unwrap();
        for _ in 0..2 * KEPT {
            record.does(0, Doing::Eats);
        }
        assert_eq!((record.diary(0).log.len(), record.diary(1).log.len()), (KEPT, 0));
    }
}
