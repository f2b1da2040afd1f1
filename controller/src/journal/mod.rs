//! The journal: the latest events, each with an id by which a reader finds its place again.
//!
//! A reader that lost its connection says which event it had last, and is told what has happened since. It must be
//! able to trust that: either the answer is complete, or it says that it is not, and why. There are two reasons why
//! not. The journal is bounded, so what is long ago has been dropped. And it is in memory, so another controller
//! knows nothing of what its predecessor told. Hence an id has two parts, `k3f9x2-17`: the first changes with each
//! controller process, the second counts from 1 without a hole.
//!
//! [`Journal`] is pure and knows nothing of what it keeps. [`Chronicle`] is the one that is shared: the supervisor's
//! loop writes, any number of readers follow at their own pace, and nobody waits for anybody but for as long as it
//! takes to append to a queue in memory.

mod chronicle;

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

pub use chronicle::{Chronicle, Entry, Reader};

/// What can be kept: it takes room.
pub trait Keepable: Clone {
    /// How many bytes, about.
    fn bytes(&self) -> usize;
}

/// How much is kept, at most; the latest event always is.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// So many events.
    pub events: usize,
    /// So many bytes of them.
    pub bytes: usize,
}

impl Bounds {
    /// Those that hold unless somebody says otherwise. An event has a few hundred bytes; that of a worker which died
    /// with a thousand turns has hundreds of thousands.
    pub const USUAL: Self = Self { events: 2000, bytes: 8 << 20 };
}

/// The latest events.
#[derive(Debug, Clone)]
pub struct Journal<T> {
    boot: Boot,
    /// How many events there have been; also the number of the latest.
    count: u64,
    /// The latest of them, without a hole, oldest first.
    kept: VecDeque<T>,
    /// How many bytes they have.
    bytes: usize,
    most: Bounds,
}

/// Which controller process it is: 1 to 16 of a-z and 0-9.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot(String);

/// The name of an event: `k3f9x2-17`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventId {
    /// Whose event it is.
    pub boot: Boot,
    /// Which one of that controller's, from 1.
    pub number: u64,
}

/// This names no event.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not the id of an event: it looks like 'k3f9x2-17'")]
pub struct NotAnId(String);

/// After which event somebody wants to read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// From the first one that is remembered.
    Nothing,
    /// After this one.
    Event(EventId),
}

/// What has happened since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay<T> {
    /// What is missing before the first of [`events`](Self::events); `None`: nothing.
    pub gap: Option<Gap>,
    /// What is remembered, oldest first.
    pub events: Vec<T>,
}

/// Something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// What followed the event that was asked for has been dropped meanwhile.
    TooLongAgo,
    /// This controller has told no such event; another one may have.
    AnotherController,
}

impl<T: Keepable> Journal<T> {
    /// An empty journal of the controller `boot`, which keeps the latest events, `most` of them.
    pub fn new(boot: Boot, most: Bounds) -> Self {
        Self { boot, count: 0, kept: VecDeque::new(), bytes: 0, most }
    }

    /// Appends what `entry` makes of the id that it gets. The oldest ones make room.
    pub fn push(&mut self, entry: impl FnOnce(&EventId) -> T) {
        self.count += 1;
        let entry = entry(&self.id(self.count));
        self.bytes += entry.bytes();
        self.kept.push_back(entry);
        while self.kept.len() > 1 && (self.kept.len() > self.most.events || self.bytes > self.most.bytes) {
            let Some(oldest) = self.kept.pop_front() else { return };
            self.bytes -= oldest.bytes();
        }
    }

    /// What has happened after that.
    pub fn after(&self, after: &After) -> Replay<T> {
        let (gap, number) = match after {
            After::Nothing => (None, 0),
            After::Event(id) if id.boot != self.boot || id.number > self.count => {
                (Some(Gap::AnotherController), 0)
            }
            After::Event(id) if id.number < self.dropped() => (Some(Gap::TooLongAgo), 0),
            After::Event(id) => (None, id.number),
        };
        let known = usize::try_from(number.saturating_sub(self.dropped())).unwrap_or(usize::MAX);
        Replay { gap, events: self.kept.iter().skip(known).cloned().collect() }
    }

    /// The id of the oldest event that is remembered.
    pub fn oldest(&self) -> Option<EventId> {
        (!self.kept.is_empty()).then(|| self.id(self.dropped() + 1))
    }

    /// Where somebody is who has read everything.
    pub fn end(&self) -> EventId {
        self.id(self.count)
    }

    fn id(&self, number: u64) -> EventId {
        EventId { boot: self.boot.clone(), number }
    }

    /// How many have been dropped.
    fn dropped(&self) -> u64 {
        self.count - self.kept.len() as u64
    }
}

impl Boot {
    /// The one that `luck` makes: six characters, which no two controllers of one machine are likely to share.
    pub fn of(luck: u64) -> Self {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let digit = |power| char::from(DIGITS[(luck / 36_u64.pow(power) % 36) as usize]);
        Self((0..6).map(digit).collect())
    }
}

impl Gap {
    /// As the stream says it.
    pub fn words(self) -> &'static str {
        match self {
            Self::TooLongAgo => "too long ago",
            Self::AnotherController => "another controller",
        }
    }
}

impl FromStr for EventId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let parts = text.split_once('-').and_then(|(boot, number)| {
            let boot_is_one = (1..=16).contains(&boot.len())
                && boot.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            let number = number.parse().ok().filter(|_| digits)?;
            boot_is_one.then(|| Self { boot: Boot(boot.to_owned()), number })
        });
        // What comes from outside is shown, but not at any length.
        parts.ok_or_else(|| NotAnId(text.chars().take(40).collect()))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.boot.0, self.number)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn boot() -> Boot {
        Boot::of(17)
    }

    impl Keepable for u64 {
        fn bytes(&self) -> usize {
            8
        }
    }

    fn at_most(events: usize) -> Bounds {
        Bounds { events, ..Bounds::USUAL }
    }

    fn journal(most: usize, events: u64) -> Journal<u64> {
        let mut journal = Journal::new(boot(), at_most(most));
        for _ in 0..events {
            journal.push(|id| id.number);
        }
        journal
    }

    proptest! {
        /// Whoever reads in pieces, at whatever pace, gets every event once and in order, or is told that some are
        /// missing.
        #[test]
        fn a_reader_misses_nothing_that_it_is_not_told_of(
            most in 1_usize..40,
            bursts in prop::collection::vec(0_u64..60, 0..20),
        ) {
            let mut journal = Journal::new(boot(), at_most(most));
            let mut last = journal.end();
            let mut told = 0_u64;
            for burst in bursts {
                for _ in 0..burst {
                    told += 1;
                    journal.push(|id| id.number);
                }
                let replay = journal.after(&After::Event(last.clone()));
                let dropped = burst > most as u64;
                prop_assert_eq!(replay.gap, dropped.then_some(Gap::TooLongAgo));
                let first = if dropped { told - most as u64 + 1 } else { last.number + 1 };
                prop_assert_eq!(replay.events, (first..=told).collect::<Vec<_>>());
                last = journal.end();
                prop_assert_eq!(last.number, told);
            }
        }

        #[test]
        fn no_more_are_kept_than_that(most in 1_usize..40, events in 0_u64..100) {
            let replay = journal(most, events).after(&After::Nothing);
            prop_assert_eq!(replay.events.len() as u64, events.min(most as u64));
            prop_assert_eq!(replay.gap, None);
        }

        #[test]
        fn an_id_is_read_as_it_was_written(luck: u64, number: u64) {
            let id = EventId { boot: Boot::of(luck), number };
            prop_assert_eq!(id.to_string().parse::<EventId>(), Ok(id));
        }

        #[test]
        fn no_text_makes_reading_an_id_panic(text in ".{0,40}") {
            let _refused_or_not = text.parse::<EventId>();
        }
    }

    #[test]
    fn large_events_push_out_more_than_one_and_the_latest_stays() {
        #[derive(Debug, Clone, PartialEq)]
        struct Sized(usize);
        impl Keepable for Sized {
            fn bytes(&self) -> usize {
                self.0
            }
        }
        let mut journal = Journal::new(boot(), Bounds { events: 10, bytes: 100 });
        let kept = |journal: &Journal<Sized>| -> Vec<usize> {
            journal.after(&After::Nothing).events.iter().map(|it| it.0).collect()
        };
        for bytes in [30, 30, 30, 60] {
            journal.push(|_| Sized(bytes));
        }
        assert_eq!(kept(&journal), [30, 60]);
        journal.push(|_| Sized(1000));
        assert_eq!(kept(&journal), [1000]);
        journal.push(|_| Sized(1));
        assert_eq!(kept(&journal), [1]);
        assert_eq!(journal.oldest().unwrap().number, 6);
    }

    #[test]
    fn an_id_of_another_controller_is_a_gap() {
        let journal = journal(3, 5);
        let other = EventId { boot: Boot::of(18), number: 4 };
        let replay = journal.after(&After::Event(other));
        assert_eq!((replay.gap, replay.events), (Some(Gap::AnotherController), vec![3, 4, 5]));
        // Of this one, and not told yet: whoever made it up has not read it here.
        let future = EventId { boot: boot(), number: 6 };
        assert_eq!(journal.after(&After::Event(future)).gap, Some(Gap::AnotherController));
        assert_eq!(journal.oldest().unwrap().number, 3);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for wrong in ["", "17", "-17", "k3f9x2-", "k3f9x2-x", "k3f9x2-+1", "K3-1", "a_b-1", "k3f9x2-17-1"] {
            assert!(wrong.parse::<EventId>().is_err(), "{wrong:?} was taken for an id");
        }
    }
}
