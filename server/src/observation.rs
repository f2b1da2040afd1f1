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

/// Durations, counted in buckets, with their sum.
///
/// A quantile that is read from it is as exact as the bucket that it falls into is narrow: from 250 µs on, off by less
/// than an eighth. The count and the mean are exact.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Buckets", into = "Buckets")]
pub struct Histogram {
    /// So many were at most as long as the bucket's [end](Self::end), and longer than the end of the one before; the last
    /// ones were longer than any bound.
    counts: [u64; Self::BUCKETS],
    /// Of all of them. 64 bits of nanoseconds are 584 years of work.
    sum_ns: u64,
}

impl Histogram {
    /// Each bound but the first two is twice the one before.
    ///
    /// - Zero has a bucket of its own: most turns do not wait at all, and "at once" must not read as 125 µs.
    /// - Below 250 µs is what the door and the scheduler add to a handler that does nothing: nobody tunes by it.
    /// - Above 65 s a request has overrun under any time-out that people set.
    ///
    /// These are the bounds that are [told](Self::cumulative) to those who keep histograms over time. Between one and the
    /// next there are eight buckets of the same width, for the quantiles that people look at.
    pub const BOUNDS: [Duration; 20] = {
        let mut bounds = [Duration::ZERO; 20];
        let mut at = 1;
        while at < bounds.len() {
            bounds[at] = Duration::from_micros(250 << (at - 1));
            at += 1;
        }
        bounds
    };

    /// The first bound that is not zero, in nanoseconds.
    const FIRST_NS: u64 = 250_000;
    /// Into how many buckets what lies between two bounds is divided.
    const PARTS: usize = 8;
    /// How many times the bounds double.
    const DOUBLINGS: usize = Self::BOUNDS.len() - 2;
    /// The bucket of zero, the one up to the first bound, those behind it, and the one without an end.
    const BUCKETS: usize = 2 + Self::DOUBLINGS * Self::PARTS + 1;

    /// Where a bucket ends, that end included; `None` for the last one.
    fn end(bucket: usize) -> Option<Duration> {
        let Some(behind_first) = bucket.checked_sub(2) else {
            return Self::BOUNDS.get(bucket).copied();
        };
        let (doublings, part) = (behind_first / Self::PARTS, behind_first % Self::PARTS);
        let start = *Self::BOUNDS.get(1 + doublings).filter(|_| doublings < Self::DOUBLINGS)?;
        Some(start + start * (part as u32 + 1) / Self::PARTS as u32)
    }

    /// The bucket of a duration.
    fn bucket(nanos: u64) -> usize {
        // Ends belong to the bucket that they end.
        let Some(below) = nanos.checked_sub(1) else { return 0 };
        let Some(doublings) = (below / Self::FIRST_NS).checked_ilog2() else { return 1 };
        let start = Self::FIRST_NS << doublings;
        let part = (below - start) / (start / Self::PARTS as u64);
        (2 + doublings as usize * Self::PARTS + part as usize).min(Self::BUCKETS - 1)
    }

    /// Counts one more: a few instructions, and no allocation.
    pub fn observe(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[Self::bucket(nanos)] += 1;
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

    /// For each of [`Self::BOUNDS`], how many were at most as long: what Prometheus calls the buckets, without the last,
    /// `+Inf`, which is [`Self::count`].
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        Self::BOUNDS.into_iter().enumerate().map(|(at, bound)| {
            let buckets = if at == 0 { 1 } else { 2 + (at - 1) * Self::PARTS };
            (bound, self.counts[..buckets].iter().sum())
        })
    }

    /// Counts all that `other` has counted, too.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
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
                let Some(end) = Self::end(at) else { break };
                let start = at.checked_sub(1).and_then(Self::end).unwrap_or_default();
                let part = ((rank - before as f64) / here as f64).clamp(0.0, 1.0);
                return Some(start + (end - start).mul_f64(part));
            }
            before = behind;
        }
        Self::BOUNDS.last().copied()
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; Self::BUCKETS], sum_ns: 0 }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Histogram({} in {:?}: {:?})", self.count(), self.sum(), Buckets::from(self.clone()).counts)
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
#[error("a histogram of {0} buckets, where at most {most} are known", most = Histogram::BUCKETS)]
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
    fn buckets_are_as_narrow_as_promised_and_end_at_the_bounds() {
        let ends: Vec<Duration> = (0..Histogram::BUCKETS).map_while(Histogram::end).collect();
        assert_eq!(ends.len(), Histogram::BUCKETS - 1, "one has no end");
        assert_eq!(ends[..2], Histogram::BOUNDS[..2]);
        assert!(Histogram::BOUNDS.iter().all(|bound| ends.contains(bound)));
        for pair in ends[1..].windows(2) {
            assert!(pair[0] < pair[1] && pair[1] <= pair[0].mul_f64(1.125), "{pair:?}");
        }
        for (bucket, end) in ends.iter().enumerate() {
            let nanos = end.as_nanos() as u64;
            assert_eq!(
                (Histogram::bucket(nanos), Histogram::bucket(nanos + 1)),
                (bucket, bucket + 1),
                "{end:?}"
            );
        }
    }

    #[test]
    fn quantiles_are_interpolated() {
        let millis = Duration::from_millis;
        assert_eq!(Histogram::default().quantile(0.5), None);
        // Evenly spread over one bucket, from 16 to 18 ms.
        let histogram = of(&(33..=36).map(|half| millis(half) / 2).collect::<Vec<_>>());
        assert_eq!(histogram.quantile(0.0), Some(millis(16)));
        assert_eq!(histogram.quantile(0.5), Some(millis(17)));
        assert_eq!(histogram.quantile(1.0), Some(millis(18)));
        // Whoever did not wait has not waited a part of the first bucket.
        let histogram = of(&[Duration::ZERO, Duration::ZERO, Duration::ZERO, millis(1)]);
        assert_eq!(histogram.quantile(0.5), Some(Duration::ZERO));
        assert_eq!(of(&[millis(90_000)]).quantile(0.5), Some(millis(65_536)));
    }

    #[test]
    fn it_is_short_on_the_wire_and_other_bounds_are_refused() {
        let line = |histogram: &Histogram| serde_json::to_string(histogram).unwrap_or_default();
        assert_eq!(line(&Histogram::default()), r#"{"counts":[],"sum_ns":0}"#);
        let histogram = of(&[Duration::from_micros(100), Duration::from_micros(400)]);
        assert_eq!(line(&histogram), r#"{"counts":[0,1,0,0,0,0,1],"sum_ns":500000}"#);
        let longer = format!(r#"{{"counts":{:?},"sum_ns":0}}"#, [0; 148]);
        let refused = serde_json::from_str::<Histogram>(&longer).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|why| why.contains("148 buckets")));
    }

    proptest! {
        #[test]
        fn a_histogram_tells_the_truth(
            mut durations in prop::collection::vec(duration(), 1..200),
            parts in 0usize..=1024,
        ) {
            let histogram = of(&durations);
            prop_assert_eq!(histogram.count(), durations.len() as u64);
            prop_assert_eq!(histogram.sum(), durations.iter().sum::<Duration>());
            for (bound, count) in histogram.cumulative() {
                let shorter = durations.iter().filter(|duration| **duration <= bound).count();
                prop_assert_eq!(count, shorter as u64, "up to {:?}", bound);
            }
            // The true quantile is in the same bucket.
            durations.sort();
            let rank = (parts * durations.len()).div_ceil(1024);
            let exact = durations[rank.clamp(1, durations.len()) - 1];
            let told = histogram.quantile(parts as f64 / 1024.0).unwrap_or_default();
            let bucket = Histogram::bucket(exact.as_nanos() as u64);
            let end = Histogram::end(bucket).unwrap_or(Histogram::BOUNDS[19]);
            let start = bucket.checked_sub(1).and_then(Histogram::end).unwrap_or_default();
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
        fn a_sum_is_of_both(
            one in prop::collection::vec(duration(), 0..50),
            other in prop::collection::vec(duration(), 0..50),
        ) {
            let mut sum = of(&one);
            sum.add(&of(&other));
            prop_assert_eq!(sum, of(&[one, other].concat()));
        }

        #[test]
        fn it_survives_the_socket(durations in prop::collection::vec(duration(), 0..100)) {
            let histogram = of(&durations);
            let line = serde_json::to_string(&histogram)?;
            prop_assert_eq!(serde_json::from_str::<Histogram>(&line)?, histogram);
        }
    }
}
