//! What a storm did, and whether that is within the bars.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Kill;
use crate::load::{Failure, Tally};
use crate::stats::digits;

/// What a storm did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Weather {
    /// Requests that were sent.
    pub sent: u64,
    /// Answered with a 2xx, whole.
    pub answered: u64,
    /// Answered otherwise, or not taken: somebody said that it did not work.
    pub failed: u64,
    /// Not answered: cut off, or not in time.
    pub lost: u64,
    /// Answered twice.
    pub duplicated: u64,
    /// Failures by reason, in words.
    pub reasons: Vec<(String, u64)>,
    /// The longest time in which nobody was answered, in ms.
    pub longest_gap_ms: f64,
    /// Of those that were answered, in ms.
    pub p50_ms: f64,
    /// As above.
    pub p99_ms: f64,
    /// As above.
    pub p999_ms: f64,
    /// Answers a second.
    pub rate: f64,
    /// In order.
    pub kills: Vec<Kill>,
}

impl Weather {
    pub(super) fn of(tally: &Tally, time: Duration, kills: Vec<Kill>) -> Self {
        let count = |kind: Gale| {
            tally
                .failed
                .iter()
                .filter(|(failure, _)| Gale::of(*failure) == kind)
                .map(|(_, count)| count)
                .sum()
        };
        let latency = tally.latency();
        Self {
            sent: tally.answered + tally.failures(),
            answered: tally.answered,
            failed: count(Gale::Failed),
            lost: count(Gale::Lost),
            duplicated: count(Gale::Duplicated),
            reasons: tally.failed.iter().map(|(failure, count)| (failure.to_string(), *count)).collect(),
            longest_gap_ms: longest_gap(tally, time).as_secs_f64() * 1e3,
            p50_ms: latency.quantile_ms(0.5),
            p99_ms: latency.quantile_ms(0.99),
            p999_ms: latency.quantile_ms(0.999),
            rate: tally.rate(),
            kills,
        }
    }

    /// Kills that killed somebody.
    pub fn killed(&self) -> usize {
        self.kills.iter().filter(|kill| kill.victim.is_ok()).count()
    }

    /// Each bar that was set, and whether it was kept.
    pub fn judge(&self, bars: &Bars) -> Vec<Judged> {
        let judged = |what: &str, was: f64, bar: f64, unit: &'static str| Judged {
            what: what.to_owned(),
            was,
            bar,
            unit: unit.to_owned(),
            // What is no number was never measured, and keeps nothing.
            kept: was <= bar,
        };
        let mut all = vec![
            judged("failed", self.failed as f64, bars.failed as f64, ""),
            judged("lost", self.lost as f64, bars.lost as f64, ""),
            judged("answered twice", self.duplicated as f64, 0.0, ""),
        ];
        if let Some(gap) = bars.gap {
            all.push(judged("longest gap", self.longest_gap_ms, gap.as_secs_f64() * 1e3, " ms"));
        }
        if let Some(p99) = bars.p99 {
            all.push(judged("p99", self.p99_ms, p99.as_secs_f64() * 1e3, " ms"));
        }
        all
    }
}

/// What a failure is to a storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gale {
    /// Somebody said so.
    Failed,
    /// Nobody said anything.
    Lost,
    /// Somebody said it twice.
    Duplicated,
}

impl Gale {
    /// Of a failure.
    pub fn of(failure: Failure) -> Self {
        match failure {
            Failure::Refused | Failure::Status(_) | Failure::NoConnection => Self::Failed,
            Failure::Cut | Failure::TimedOut => Self::Lost,
            Failure::Surplus => Self::Duplicated,
        }
    }
}

/// What is allowed at most. Answered twice is never allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bars {
    /// Requests.
    pub failed: u64,
    /// Requests.
    pub lost: u64,
    /// Between two answers, whoever got them.
    pub gap: Option<Duration>,
    /// Of the latencies.
    pub p99: Option<Duration>,
}

/// One bar, and what was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Of what.
    pub what: String,
    /// What was measured.
    pub was: f64,
    /// What is allowed.
    pub bar: f64,
    /// Of both.
    pub unit: String,
    /// Whether it is within.
    pub kept: bool,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, was, bar, unit, kept } = self;
        let verdict = if *kept { "kept" } else { "MISSED" };
        // Requests are counted; only times have fractions.
        let written = |figure: f64| if unit.is_empty() { format!("{figure:.0}") } else { digits(figure) };
        write!(f, "{verdict:<7}{what}: {}{unit}, allowed {}{unit}", written(*was), written(*bar))
    }
}

/// The longest time in which nobody was answered, from the beginning to the end.
fn longest_gap(tally: &Tally, time: Duration) -> Duration {
    let mut answers: Vec<_> = tally.log.iter().filter(|it| it.failure.is_none()).map(|it| it.to).collect();
    answers.sort();
    let mut last = Duration::ZERO;
    let mut longest = Duration::ZERO;
    for at in answers.into_iter().chain([time]) {
        longest = longest.max(at.saturating_sub(last));
        last = last.max(at);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Event;

    fn tally(events: &[(u64, Option<Failure>)]) -> Tally {
        let event = |&(at, failure)| Event {
            client: 0,
            target: 0,
            from: Duration::from_millis(at),
            to: Duration::from_millis(at),
            failure,
        };
        let answered = events.iter().filter(|(_, failure)| failure.is_none()).count() as u64;
        let failed = events.iter().filter_map(|(_, failure)| Some(((*failure)?, 1))).collect();
        Tally { answered, failed, log: events.iter().map(event).collect(), ..Tally::default() }
    }

    #[test]
    fn the_longest_gap_counts_answers_only_and_includes_both_ends() {
        let time = Duration::from_millis(1000);
        let gap = |events: &[(u64, Option<Failure>)]| longest_gap(&tally(events), time).as_millis();
        assert_eq!(gap(&[]), 1000);
        assert_eq!(gap(&[(100, None), (900, None)]), 800);
        assert_eq!(gap(&[(100, None), (500, Some(Failure::Cut)), (900, None)]), 800);
        assert_eq!(gap(&[(500, None)]), 500);
    }

    #[test]
    fn what_nobody_said_is_lost_and_what_somebody_said_has_failed() {
        let events = [
            (1, None),
            (2, Some(Failure::Cut)),
            (3, Some(Failure::Status(502))),
            (4, Some(Failure::TimedOut)),
            (5, Some(Failure::Surplus)),
        ];
        let weather = Weather::of(&tally(&events), Duration::from_millis(10), Vec::new());
        assert_eq!((weather.sent, weather.answered), (5, 1));
        assert_eq!((weather.failed, weather.lost, weather.duplicated), (1, 2, 1));
    }

    #[test]
    fn a_bar_that_is_missed_is_said_and_what_was_not_measured_keeps_none() {
        let weather = Weather::of(&tally(&[(1, Some(Failure::Cut))]), Duration::from_millis(10), Vec::new());
        let bars = Bars { lost: 0, p99: Some(Duration::from_secs(1)), ..Bars::default() };
        let missed: Vec<_> =
            weather.judge(&bars).into_iter().filter(|it| !it.kept).map(|it| it.what).collect();
        assert_eq!(missed, ["lost", "p99"]);
    }
}
