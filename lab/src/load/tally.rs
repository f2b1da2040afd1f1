//! What clients got.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::Failure;

/// What all clients got, taken together.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Requests answered with a status of 2xx.
    pub answered: u64,
    /// Requests that were not, by reason.
    pub failed: Vec<(Failure, u64)>,
    /// Of those that were answered or failed, how many were followed by a second answer.
    pub answered_twice: u64,
    /// Kept connections whose servers ended them between two requests. Nothing was lost by that.
    pub ended_between: u64,
    /// In an open loop, how long after it was due a request was sent at the latest: the clients' fault, which their
    /// latencies count as well.
    pub latest: Duration,
    /// For what share of the time the clients' one thread was busy itself. Near 1 it is them who were measured.
    pub busy: f64,
    /// How long it was from the first request to the last answer.
    pub took: Duration,
    /// By target, in the plan's order, of those that were answered.
    pub latencies: Vec<Latencies>,
    /// Each one, in the order in which they ended, if that was asked for.
    pub log: Vec<Event>,
}

/// One request and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Which client. In an open loop each request is a client.
    pub client: usize,
    /// Which of the targets.
    pub target: usize,
    /// When it was due, from the start.
    pub from: Duration,
    /// When its answer was there, or it had failed, from the start.
    pub to: Duration,
    /// How it failed, if it did.
    pub failure: Option<Failure>,
}

impl Tally {
    pub(super) fn of_targets(targets: usize) -> Self {
        Self { latencies: (0..targets).map(|_| Latencies::default()).collect(), ..Self::default() }
    }

    pub(super) fn note(&mut self, event: Event, keep: bool) {
        match event.failure {
            None => {
                self.answered += 1;
                if let Some(latencies) = self.latencies.get_mut(event.target) {
                    latencies.note(event.to.saturating_sub(event.from));
                }
            }
            Some(failure) => match self.failed.iter_mut().find(|(known, _)| *known == failure) {
                Some((_, count)) => *count += 1,
                None => self.failed.push((failure, 1)),
            },
        }
        self.took = self.took.max(event.to);
        if keep {
            self.log.push(event);
        }
    }

    pub(super) fn note_late(&mut self, by: Duration) {
        self.latest = self.latest.max(by);
    }

    /// How many failed, for whatever reason.
    pub fn failures(&self) -> u64 {
        self.failed.iter().map(|(_, count)| count).sum()
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// The latencies of all targets together.
    pub fn latency(&self) -> Latencies {
        let mut all = Latencies::default();
        for latencies in &self.latencies {
            all.add(latencies);
        }
        all
    }
}

/// How long answers took: to a microsecond, with three digits, up to an hour.
#[derive(Debug, Clone)]
pub struct Latencies(Option<Histogram<u64>>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 3_600_000_000, 3).ok())
    }
}

impl Latencies {
    /// As many have to lie above a quantile that is shown.
    pub const ABOVE: f64 = 10.0;

    pub(super) fn note(&mut self, latency: Duration) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn add(&mut self, other: &Self) {
        if let (Some(own), Some(other)) = (&mut self.0, &other.0) {
            let _ = own.add(other);
        }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As [`Self::quantile_ms`]; `None` where fewer than [`Self::ABOVE`] took longer: it would be the time of one or two of
    /// them, and another one the next time.
    pub fn quantile_that_stands_ms(&self, q: f64) -> Option<f64> {
        let above = self.len() as f64 * (1.0 - q);
        // Half a one for what cannot be written as a binary fraction.
        (above + 0.5 >= Self::ABOVE).then(|| self.quantile_ms(q))
    }

    /// The time, in ms, that a share `q` of the answers did not exceed; not a number if there are none.
    pub fn quantile_ms(&self, q: f64) -> f64 {
        match &self.0 {
            Some(histogram) if !histogram.is_empty() => histogram.value_at_quantile(q) as f64 / 1e3,
            _ => f64::NAN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_stands_on_ten_that_took_longer() {
        let of = |count: u64| {
            let mut latencies = Latencies::default();
            (0..count).for_each(|it| latencies.note(Duration::from_millis(it)));
            latencies
        };
        assert!(of(999).quantile_that_stands_ms(0.99).is_some_and(|it| it > 900.0));
        assert_eq!(of(900).quantile_that_stands_ms(0.99), None);
        assert!(of(20).quantile_that_stands_ms(0.5).is_some());
        assert_eq!(of(0).quantile_that_stands_ms(0.5), None);
    }
}
