//! How often strangers may be spoken of.
//!
//! Whoever reaches the link socket can be refused as often as it likes, and whoever finds a request that makes a thread
//! panic can send it as often. Each of these is worth an entry in the journal, and a line in the log, until they push
//! out all others: so there are [`AT_ONCE`] of each kind, and then one a second. What is left out is counted, and the
//! next one that is told says how many that were.

use std::time::{Duration, Instant};

use server::control::Notice;

/// How many may come at once.
const AT_ONCE: u32 = 5;
/// How often there is another one after that.
const EVERY: Duration = Duration::from_secs(1);

/// For each kind that strangers can cause, how many more may be told.
#[derive(Debug, Default)]
pub(super) struct Floods {
    refused: Bucket,
    panicked: Bucket,
}

/// Whether something is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Telling {
    /// It is, and so many before it were not.
    Told {
        /// How many.
        left_out: u64,
    },
    /// It is not.
    LeftOut,
}

impl Floods {
    /// Whether this is to be told, `now`.
    pub(super) fn judge(&mut self, notice: &Notice, now: Instant) -> Telling {
        match notice {
            Notice::Refused { .. } => self.refused.judge(now),
            Notice::Panicked { .. } => self.panicked.judge(now),
            _ => Telling::Told { left_out: 0 },
        }
    }
}

/// A token bucket.
#[derive(Debug, Default)]
struct Bucket {
    /// From when on there is another token beyond the ones that there can be: the later, the fewer are there.
    full_at: Option<Instant>,
    left_out: u64,
}

impl Bucket {
    fn judge(&mut self, now: Instant) -> Telling {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now));
        if full_at.duration_since(now) > EVERY * (AT_ONCE - 1) {
            self.left_out += 1;
            return Telling::LeftOut;
        }
        self.full_at = Some(full_at + EVERY);
        Telling::Told { left_out: std::mem::take(&mut self.left_out) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn five_at_once_then_one_a_second_and_none_uncounted() {
        let mut bucket = Bucket::default();
        let start = Instant::now();
        let mut at = |ms| bucket.judge(start + Duration::from_millis(ms));
        for _ in 0..5 {
            assert_eq!(at(0), Telling::Told { left_out: 0 });
        }
        assert_eq!(at(0), Telling::LeftOut);
        assert_eq!(at(999), Telling::LeftOut);
        assert_eq!(at(1000), Telling::Told { left_out: 2 });
        assert_eq!(at(1001), Telling::LeftOut);
        assert_eq!(at(60_000), Telling::Told { left_out: 1 });
    }

    proptest! {
        #[test]
        fn nothing_is_told_more_often_than_that(gaps in prop::collection::vec(0_u64..3000, 0..200)) {
            let mut bucket = Bucket::default();
            let start = Instant::now();
            let (mut now, mut told, mut left_out) = (0, 0_u64, 0_u64);
            for gap in &gaps {
                now += gap;
                if let Telling::Told { left_out: before } = bucket.judge(start + Duration::from_millis(now)) {
                    told += 1;
                    left_out += before;
                }
            }
            prop_assert!(told <= u64::from(AT_ONCE) + now / 1000);
            prop_assert_eq!(told + left_out + bucket.left_out, gaps.len() as u64);
        }
    }
}
