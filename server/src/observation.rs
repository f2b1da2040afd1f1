//! What can be seen of the door while it runs: how long things take, the turns of a moment ago, and the requests that
//! the door sends itself. Pure: nothing here reads a clock.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::control::{Stamp, millis};
use crate::identity::{Incarnation, PoolName};

/// How often a trickle may ask: so many times a second.
pub const TRICKLE_RATES: RangeInclusive<f64> = 0.1..=50.0;
/// How long a trickle may last before it has to be asked for again.
pub const LONGEST_TRICKLE: Duration = Duration::from_secs(600);
/// How many requests of a trickle may be under way at a time; beyond that, one that is due is left out.
pub const TRICKLE_IN_FLIGHT: usize = 64;

/// Durations, counted in the buckets of [`Histogram::BOUNDS`], with their sum.
///
/// A quantile that is read from it is as exact as the bucket that it falls into is narrow: off by less than a factor of
/// 2.5. The count and the mean are exact.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Buckets", into = "Buckets")]
pub struct Histogram {
    /// So many were at most as long as the bound of the same index, and longer than the one before; the last ones were
    /// longer than any bound.
    counts: [u64; Self::BOUNDS.len() + 1],
    /// Of all of them. 64 bits of nanoseconds are 584 years of work.
    sum_ns: u64,
}

impl Histogram {
    /// Where buckets end, both ends of the range included.
    ///
    /// - Zero has a bucket of its own: most turns do not wait at all, and "at once" must not read as 125 µs.
    /// - Below 250 µs is what the door and the scheduler add to a handler that does nothing: nobody tunes by it.
    /// - From there 1, 2, 5 to the decade, for a factor of at most 2.5 from one to the next.
    /// - Above 60 s a request has overrun under any time-out that people set.
    pub const BOUNDS: [Duration; 19] = [
        Duration::ZERO,
        Duration::from_micros(250),
        Duration::from_micros(500),
        Duration::from_millis(1),
        Duration::from_millis(2),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(20),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(200),
        Duration::from_millis(500),
        Duration::from_secs(1),
        Duration::from_secs(2),
        Duration::from_secs(5),
        Duration::from_secs(10),
        Duration::from_secs(20),
        Duration::from_secs(30),
        Duration::from_secs(60),
    ];

    /// Counts one more. A search among 19 bounds and two additions: a few nanoseconds, and no allocation.
    pub fn observe(&mut self, duration: Duration) {
        let at = Self::BOUNDS.partition_point(|bound| *bound < duration);
        self.counts[at] += 1;
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns = self.sum_ns.saturating_add(nanos);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all that were counted.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// For each bound, how many were at most as long: what Prometheus calls the buckets, without the last, `+Inf`,
    /// which is [`Self::count`].
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        let up_to = |sum: &mut u64, count: &u64| {
            *sum += count;
            Some(*sum)
        };
        Self::BOUNDS.into_iter().zip(self.counts.iter().scan(0, up_to))
    }

    /// What has been counted since `earlier`, a copy of this one from before. A histogram that has been begun anew in
    /// between, with its door, is taken for all that there is.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = self.clone();
        for (count, before) in difference.counts.iter_mut().zip(&earlier.counts) {
            let Some(left) = count.checked_sub(*before) else { return self.clone() };
            *count = left;
        }
        difference.sum_ns = self.sum_ns.saturating_sub(earlier.sum_ns);
        difference
    }

    /// The duration that the fraction `q` of all (0 to 1) did not exceed, as if those in a bucket were spread evenly over
    /// it. What was longer than the last bound is told as that bound. `None` while nothing has been counted.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * count as f64;
        let mut before = 0;
        for (at, &here) in self.counts.iter().enumerate().filter(|(_, here)| **here > 0) {
            let behind = before + here;
            if rank <= behind as f64 {
                let Some(&end) = Self::BOUNDS.get(at) else { break };
                let start = at.checked_sub(1).map_or(Duration::ZERO, |before| Self::BOUNDS[before]);
                let part = ((rank - before as f64) / here as f64).clamp(0.0, 1.0);
                return Some(start + (end - start).mul_f64(part));
            }
            before = behind;
        }
        Self::BOUNDS.last().copied()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Histogram({} in {:?}: {:?})", self.count(), self.sum(), self.counts)
    }
}

/// A histogram on its way: the counts up to the last that is not zero.
#[derive(Serialize, Deserialize)]
struct Buckets {
    counts: Vec<u64>,
    sum_ns: u64,
}

/// It was made with other bounds.
#[derive(Debug, Error)]
#[error("a histogram of {0} buckets, where at most {most} are known", most = Histogram::BOUNDS.len() + 1)]
struct TooManyBuckets(usize);

impl From<Histogram> for Buckets {
    fn from(histogram: Histogram) -> Self {
        let mut counts = histogram.counts.to_vec();
        counts.truncate(counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1));
        Self { counts, sum_ns: histogram.sum_ns }
    }
}

impl TryFrom<Buckets> for Histogram {
    type Error = TooManyBuckets;

    fn try_from(buckets: Buckets) -> Result<Self, TooManyBuckets> {
        let mut histogram = Self { sum_ns: buckets.sum_ns, ..Self::default() };
        let counts = histogram.counts.get_mut(..buckets.counts.len());
        counts.ok_or(TooManyBuckets(buckets.counts.len()))?.copy_from_slice(&buckets.counts);
        Ok(histogram)
    }
}

/// A turn that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnTrace {
    /// Its number.
    pub turn: u64,
    /// Who had it.
    pub worker: Incarnation,
    /// Method and target of the request, shortened; `connection from ADDRESS` on a raw pool.
    pub request: String,
    /// When it was given to the worker.
    pub began: Stamp,
    /// From then until the worker was done, or its death was seen.
    #[serde(with = "millis")]
    pub took: Duration,
    /// Which delivery of the request it was, from 1.
    pub delivery: u32,
    /// How it ended.
    pub end: TraceEnd,
}

/// How a turn ended, as far as its worker goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TraceEnd {
    /// The worker said that it was done.
    Done,
    /// The worker died.
    Lost,
}

/// Requests that the door sends to one of its own pools, as a client, again and again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrickleReport {
    /// The pool.
    pub pool: PoolName,
    /// What it asks for, with `GET`.
    pub path: String,
    /// How often.
    pub per_second: f64,
    /// When it ends by itself.
    pub until: Stamp,
    /// Requests sent, or tried to send.
    pub sent: u64,
    /// Those that a worker has answered: 200 to 499.
    pub answered: u64,
    /// Those that have failed: 500 and above, cut, refused, or not answered in time.
    pub failed: u64,
    /// Those that nothing has become of yet: what is sent is answered, failed, or in flight.
    pub in_flight: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(durations: &[Duration]) -> Histogram {
        let mut histogram = Histogram::default();
        durations.iter().for_each(|duration| histogram.observe(*duration));
        histogram
    }

    /// From nanoseconds to minutes, each order of magnitude as likely as the next.
    fn duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            1 => Just(Duration::ZERO),
            1 => prop::sample::select(Histogram::BOUNDS.to_vec()),
            8 => (0u32..40, 0.0..1.0f64).prop_map(|(power, part)| {
                Duration::from_nanos(1 << power).mul_f64(1.0 + part)
            }),
        ]
    }

    #[test]
    fn bounds_grow_by_no_more_than_promised() {
        assert_eq!(Histogram::BOUNDS[1], Duration::from_micros(250));
        assert_eq!(Histogram::BOUNDS[18], Duration::from_secs(60));
        for pair in Histogram::BOUNDS[1..].windows(2) {
            assert!(pair[0] < pair[1] && pair[1] <= pair[0].mul_f64(2.5), "{pair:?}");
        }
    }

    #[test]
    fn quantiles_are_interpolated() {
        let millis = Duration::from_millis;
        assert_eq!(Histogram::default().quantile(0.5), None);
        // Evenly spread over 10 to 20 ms.
        let histogram = of(&(11..=20).map(millis).collect::<Vec<_>>());
        assert_eq!(histogram.quantile(0.0), Some(millis(10)));
        assert_eq!(histogram.quantile(0.5), Some(millis(15)));
        assert_eq!(histogram.quantile(1.0), Some(millis(20)));
        // Whoever did not wait has not waited a part of the first bucket.
        let histogram = of(&[Duration::ZERO, Duration::ZERO, Duration::ZERO, millis(1)]);
        assert_eq!(histogram.quantile(0.5), Some(Duration::ZERO));
        assert_eq!(of(&[millis(90_000)]).quantile(0.5), Some(millis(60_000)));
    }

    #[test]
    fn it_is_short_on_the_wire_and_other_bounds_are_refused() {
        let line = |histogram: &Histogram| serde_json::to_string(histogram).unwrap_or_default();
        assert_eq!(line(&Histogram::default()), r#"{"counts":[],"sum_ns":0}"#);
        let histogram = of(&[Duration::from_micros(100), Duration::from_micros(400)]);
        assert_eq!(line(&histogram), r#"{"counts":[0,1,1],"sum_ns":500000}"#);
        let longer = format!(r#"{{"counts":{:?},"sum_ns":0}}"#, [0; 21]);
        let refused = serde_json::from_str::<Histogram>(&longer).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|why| why.contains("21 buckets")));
    }

    proptest! {
        #[test]
        fn a_histogram_tells_the_truth(mut durations in prop::collection::vec(duration(), 1..200), q in 0.0..=1.0f64) {
            let histogram = of(&durations);
            prop_assert_eq!(histogram.count(), durations.len() as u64);
            prop_assert_eq!(histogram.sum(), durations.iter().sum::<Duration>());
            for (bound, count) in histogram.cumulative() {
                let shorter = durations.iter().filter(|duration| **duration <= bound).count();
                prop_assert_eq!(count, shorter as u64, "up to {:?}", bound);
            }
            // The true quantile is in the same bucket.
            durations.sort();
            let rank = (q * durations.len() as f64).ceil() as usize;
            let exact = durations[rank.clamp(1, durations.len()) - 1];
            let told = histogram.quantile(q).unwrap_or_default();
            let bucket = |duration: Duration| Histogram::BOUNDS.partition_point(|bound| *bound < duration);
            let end = Histogram::BOUNDS[bucket(exact).min(18)];
            let start = bucket(exact).checked_sub(1).map_or(Duration::ZERO, |at| Histogram::BOUNDS[at]);
            prop_assert!(start <= told && told <= end, "{:?} told as {:?}", exact, told);
        }

        #[test]
        fn quantiles_grow(durations in prop::collection::vec(duration(), 1..100), a in 0.0..=1.0f64, b in 0.0..=1.0f64) {
            let histogram = of(&durations);
            prop_assert!(histogram.quantile(a.min(b)) <= histogram.quantile(a.max(b)));
        }

        #[test]
        fn a_difference_is_what_came_in_between(
            before in prop::collection::vec(duration(), 0..50),
            after in prop::collection::vec(duration(), 0..50),
        ) {
            let all = [before.clone(), after.clone()].concat();
            prop_assert_eq!(of(&all).since(&of(&before)), of(&after));
        }

        #[test]
        fn it_survives_the_socket(durations in prop::collection::vec(duration(), 0..100)) {
            let histogram = of(&durations);
            let line = serde_json::to_string(&histogram)?;
            prop_assert_eq!(serde_json::from_str::<Histogram>(&line)?, histogram);
        }
    }
}
