//! What the tasks note about themselves: when they ran, and when each of their steps was due and done.
//!
//! A task looks at the clock all the time while it computes. As long as the looks follow each other closely it had the
//! processor; a gap is time in which somebody else had it, and so the scheduler's time slices become visible. The
//! notes are in memory that tasks and experiment have in common: they outlive whoever is killed.
//!
//! ```text
//!   a lane:  who · began · ended · span's beginning · last look · spans · steps │ (from, to) … │ (due, done) …
//! ```

use std::io;
use std::sync::atomic::Ordering;

use rustix::fd::OwnedFd;
use rustix::time::{ClockId, clock_gettime};
use server::sys::SharedWords;

use crate::memory;

/// A look at the clock that comes later than this after the one before, in ns, was kept waiting.
pub(super) const GAP_NS: u64 = 100_000;

const HEAD: usize = 7;
const MOST_SPANS: usize = 4096;
const MOST_STEPS: usize = 1024;
const LANE: usize = HEAD + 2 * (MOST_SPANS + MOST_STEPS);

const WHO: usize = 0;
const BEGAN: usize = 1;
const ENDED: usize = 2;
const FROM: usize = 3;
const LAST: usize = 4;
const SPANS: usize = 5;
const STEPS: usize = 6;

/// The time on the clock that all processes have in common, in ns.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The notes of all tasks.
#[derive(Debug)]
pub(super) struct Notes {
    words: SharedWords,
    /// Who has made them keeps them open, so that others can find them.
    memory: Option<OwnedFd>,
}

/// The notes of one task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lane {
    /// The kernel's number for its thread.
    pub who: u64,
    /// When what it is here for began; 0: it has not.
    pub began: u64,
    /// When that ended; 0: it has not.
    pub ended: u64,
    /// When it last looked at the clock.
    pub last: u64,
    /// When it had the processor.
    pub spans: Vec<(u64, u64)>,
    /// When each step was due, and when it was done.
    pub steps: Vec<(u64, u64)>,
}

impl Notes {
    /// For so many tasks.
    pub(super) fn new(lanes: usize) -> io::Result<Self> {
        let bytes = lanes * LANE * size_of::<u64>();
        let memory = memory::fresh("notes", u64::try_from(bytes).unwrap_or(u64::MAX))?;
        Ok(Self { words: SharedWords::map(&memory)?, memory: Some(memory) })
    }

    /// Those that another process has made.
    pub(super) fn open(path: &str) -> io::Result<Self> {
        Ok(Self { words: SharedWords::map(memory::open(path)?)?, memory: None })
    }

    /// Where other processes find them.
    pub(super) fn path(&self) -> String {
        self.memory.as_ref().map(memory::path_of).unwrap_or_default()
    }

    /// For the task that writes in that lane.
    pub(super) fn pen(&self, lane: usize) -> Pen<'_> {
        Pen { words: &self.words, first: lane * LANE }
    }

    /// What was noted in that lane so far.
    pub(super) fn read(&self, lane: usize) -> Lane {
        let pen = self.pen(lane);
        let pairs = |from: usize, count: u64, most: usize| {
            let count = usize::try_from(count).unwrap_or(most).min(most);
            (0..count).map(|nth| (pen.get(from + 2 * nth), pen.get(from + 2 * nth + 1))).collect::<Vec<_>>()
        };
        let mut spans = pairs(HEAD, pen.get(SPANS), MOST_SPANS);
        // Whoever was killed has left its last span open, or closed already and not yet forgotten.
        let open = (pen.get(FROM), pen.get(LAST));
        if open.0 != 0 && spans.last() != Some(&open) {
            spans.push(open);
        }
        Lane {
            who: pen.get(WHO),
            began: pen.get(BEGAN),
            ended: pen.get(ENDED),
            last: pen.get(LAST),
            spans,
            steps: pairs(HEAD + 2 * MOST_SPANS, pen.get(STEPS), MOST_STEPS),
        }
    }
}

/// Writes in one lane. What there is no room for is left out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pen<'a> {
    words: &'a SharedWords,
    first: usize,
}

impl Pen<'_> {
    /// Which thread writes here.
    pub(super) fn who(self) {
        self.set(WHO, u64::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap_or(0));
    }

    /// What the task is here for begins; when that is.
    pub(super) fn began(self) -> u64 {
        let now = now_ns();
        self.set(BEGAN, now);
        now
    }

    /// What the task is here for has ended.
    pub(super) fn ended(self) {
        self.set(ENDED, now_ns());
    }

    /// When what the task of this lane is here for began and when it ended; 0: not yet.
    pub(super) fn when(self) -> (u64, u64) {
        (self.get(BEGAN), self.get(ENDED))
    }

    /// Keeps the processor busy until it has had it for `most_ns`, or until the clock shows `until`.
    pub(super) fn compute(self, most_ns: u64, until: u64) {
        let mut had = 0;
        let mut last = now_ns();
        self.set(LAST, last);
        self.set(FROM, last);
        while had < most_ns && last < until {
            let now = now_ns();
            if now - last > GAP_NS {
                self.close_span();
                self.set(FROM, now);
            } else {
                had += now - last;
            }
            self.set(LAST, now);
            last = now;
        }
        self.close_span();
        self.set(FROM, 0);
    }

    /// A step that was due then is done now.
    pub(super) fn step(self, due: u64) {
        self.add(STEPS, HEAD + 2 * MOST_SPANS, MOST_STEPS, (due, now_ns()));
    }

    fn close_span(self) {
        self.add(SPANS, HEAD, MOST_SPANS, (self.get(FROM), self.get(LAST)));
    }

    fn add(self, counter: usize, at: usize, most: usize, (first, second): (u64, u64)) {
        let nth = self.get(counter);
        let Some(place) = usize::try_from(nth).ok().filter(|nth| *nth < most) else { return };
        self.set(at + 2 * place, first);
        self.set(at + 2 * place + 1, second);
        // Whoever reads the count sees what is counted.
        self.set(counter, nth + 1);
    }

    fn get(self, nth: usize) -> u64 {
        self.words.get(self.first + nth).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn set(self, nth: usize, value: u64) {
        if let Some(word) = self.words.get(self.first + nth) {
            word.store(value, Ordering::Release);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    #[test]
    fn what_one_notes_the_other_reads() {
        let notes = Notes::new(2).unwrap();
        let theirs = Notes::open(&notes.path()).unwrap();
        let pen = theirs.pen(1);
        let due = now_ns();
        pen.who();
        pen.began();
        pen.compute(1_000_000, u64::MAX);
        pen.step(due);
        pen.ended();
        let lane = notes.read(1);
        let had: u64 = lane.spans.iter().map(|(from, to)| to - from).sum();
        assert!(had >= 1_000_000, "{lane:?}");
        assert!(due <= lane.began && lane.began < lane.last && lane.last <= lane.ended, "{lane:?}");
        assert!(lane.steps.len() == 1 && lane.steps[0].0 == due && lane.steps[0].1 > due, "{lane:?}");
        assert_eq!(notes.read(0), Lane::default());
    }

    #[test]
    fn what_there_is_no_room_for_is_left_out() {
        let notes = Notes::new(1).unwrap();
        for due in 0..MOST_STEPS as u64 + 5 {
            notes.pen(0).step(due);
        }
        assert_eq!(notes.read(0).steps.len(), MOST_STEPS);
    }
}
