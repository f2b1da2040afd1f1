//! What a storm did, and whether that is within the bars.

use std::collections::HashSet;
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
    /// Of those that failed or were lost, how many were no repetition: the same client's request before had been
    /// answered, or there was none. Whom nobody serves any more fails again and again, as often as it asks; here it counts
    /// once. In an open loop each request is a client.
    pub hits: u64,
    /// Of those above, answered twice.
    pub duplicated: u64,
    /// Not sent, though they were due: the clients had no time or no connection left. Not among those that were sent.
    pub not_sent: u64,
    /// Kept connections that their server ended between two requests. Nothing was lost by that.
    pub ended_between: u64,
    /// In an open loop, how late a request was sent at the latest, in ms. Latencies count that.
    pub latest_ms: f64,
    /// For what share of the time the clients were busy themselves, 0 to 1.
    pub busy: f64,
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
        let count = |fate: Fate| -> u64 {
            let of_that = tally.failed.iter().filter(|(failure, _)| Fate::of(*failure) == fate);
            of_that.map(|(_, count)| count).sum()
        };
        let latency = tally.latency();
        Self {
            sent: tally.answered + tally.failures() - count(Fate::NotSent),
            answered: tally.answered,
            failed: count(Fate::Failed),
            lost: count(Fate::Lost),
            hits: hits(tally),
            duplicated: tally.answered_twice,
            not_sent: count(Fate::NotSent),
            ended_between: tally.ended_between,
            latest_ms: tally.latest.as_secs_f64() * 1e3,
            busy: tally.busy,
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
        let judged = |what: &str, was: f64, bound: Bound, bar: f64, unit: &str| Judged {
            what: what.to_owned(),
            was,
            bound,
            bar,
            unit: unit.to_owned(),
            // What is no number was never measured, and keeps nothing.
            kept: match bound {
                Bound::AtMost => was <= bar,
                Bound::AtLeast => was >= bar,
            },
        };
        let at_most =
            |what: &str, was: u64, bar: u64| judged(what, was as f64, Bound::AtMost, bar as f64, "");
        let at_least =
            |what: &str, was: u64, bar: u64| judged(what, was as f64, Bound::AtLeast, bar as f64, "");
        let mut all = vec![
            // A storm in which nothing was asked, or nobody killed who was to be, has shown nothing.
            at_least("sent", self.sent, 1),
            at_most("not sent", self.not_sent, 0),
            at_most("failed", self.failed, bars.failed),
            at_most("lost", self.lost, bars.lost),
            at_most("answered twice", self.duplicated, 0),
        ];
        if let Some(kills) = bars.kills {
            all.push(at_least("kills", self.killed() as u64, kills));
        }
        let times = [("longest gap", self.longest_gap_ms, bars.gap), ("p99", self.p99_ms, bars.p99)];
        all.extend(times.into_iter().filter_map(|(what, was_ms, bar)| {
            Some(judged(what, was_ms, Bound::AtMost, bar?.as_secs_f64() * 1e3, " ms"))
        }));
        all
    }
}

/// What a failure is to a storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Somebody said so.
    Failed,
    /// Nobody said anything.
    Lost,
    /// It was never asked.
    NotSent,
}

impl Fate {
    /// Of a failure.
    pub fn of(failure: Failure) -> Self {
        match failure {
            Failure::Refused | Failure::Status(_) | Failure::NotHttp => Self::Failed,
            Failure::Unanswered | Failure::KeptEnded | Failure::Cut | Failure::TimedOut => Self::Lost,
            Failure::NoConnection | Failure::Behind => Self::NotSent,
        }
    }
}

/// What is wanted. Whatever these say, something has to be sent, all that is due, and nothing may be answered twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bars {
    /// Requests, at most.
    pub failed: u64,
    /// Requests, at most.
    pub lost: u64,
    /// Kills that killed somebody, at least.
    pub kills: Option<u64>,
    /// Between two answers, whoever got them, at most.
    pub gap: Option<Duration>,
    /// Of the latencies, at most.
    pub p99: Option<Duration>,
}

/// On which side of a bar it is good to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Below it, or on it.
    AtMost,
    /// Above it, or on it.
    AtLeast,
}

/// One bar, and what was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Of what.
    pub what: String,
    /// What was measured.
    pub was: f64,
    /// Where it should be.
    pub bound: Bound,
    /// Of what.
    pub bar: f64,
    /// Of both.
    pub unit: String,
    /// Whether it is within.
    pub kept: bool,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, was, bound, bar, unit, kept } = self;
        let verdict = if *kept { "kept" } else { "MISSED" };
        // Requests are counted; only times have fractions.
        let written = |figure: f64| if unit.is_empty() { format!("{figure:.0}") } else { digits(figure) };
        let wanted = match bound {
            Bound::AtMost => "allowed",
            Bound::AtLeast => "wanted at least",
        };
        write!(f, "{verdict:<7}{what}: {}{unit}, {wanted} {}{unit}", written(*was), written(*bar))
    }
}

/// How often a client failed whose request before had not.
fn hits(tally: &Tally) -> u64 {
    let mut down = HashSet::new();
    let mut hits = 0;
    for it in &tally.log {
        match it.failure {
            None => {
                down.remove(&it.client);
            }
            Some(failure) if Fate::of(failure) == Fate::NotSent => {}
            Some(_) => hits += u64::from(down.insert(it.client)),
        }
    }
    hits
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
    fn what_nobody_said_is_lost_and_what_somebody_said_has_failed_and_what_was_not_asked_is_neither() {
        let events = [
            (1, None),
            (2, Some(Failure::Cut)),
            (3, Some(Failure::Status(502))),
            (4, Some(Failure::TimedOut)),
            (5, Some(Failure::Behind)),
        ];
        let tally = Tally { answered_twice: 1, ..tally(&events) };
        let weather = Weather::of(&tally, Duration::from_millis(10), Vec::new());
        assert_eq!((weather.sent, weather.answered), (4, 1));
        assert_eq!((weather.failed, weather.lost, weather.not_sent), (1, 2, 1));
        // Beside the others, for what was answered twice was answered.
        assert_eq!(weather.duplicated, 1);
    }

    #[test]
    fn who_fails_again_and_again_was_hit_once_until_it_is_answered() {
        let refused = Some(Failure::Refused);
        let hits = |events: &[(u64, Option<Failure>)]| hits(&tally(events));
        assert_eq!(hits(&[(1, None), (2, Some(Failure::Cut)), (3, refused), (4, refused)]), 1);
        assert_eq!(hits(&[(1, refused), (2, None), (3, refused)]), 2);
        assert_eq!(hits(&[(1, None), (2, Some(Failure::Behind))]), 0);
    }

    fn missed(weather: &Weather, bars: &Bars) -> Vec<String> {
        weather.judge(bars).into_iter().filter(|it| !it.kept).map(|it| it.what).collect()
    }

    #[test]
    fn a_bar_that_is_missed_is_said_and_what_was_not_measured_keeps_none() {
        let weather = Weather::of(&tally(&[(1, Some(Failure::Cut))]), Duration::from_millis(10), Vec::new());
        let bars = Bars { lost: 0, p99: Some(Duration::from_secs(1)), ..Bars::default() };
        assert_eq!(missed(&weather, &bars), ["lost", "p99"]);
    }

    #[test]
    fn a_storm_that_asks_nothing_or_kills_nobody_who_was_to_be_killed_has_kept_nothing() {
        let time = Duration::from_millis(10);
        let kills = |victim: Result<String, String>| vec![Kill { at_ms: 1.0, victim }];
        let bars = Bars { kills: Some(1), ..Bars::default() };
        let in_vain = Weather::of(&tally(&[(1, None)]), time, kills(Err("none left".to_owned())));
        assert_eq!(missed(&in_vain, &bars), ["kills"]);
        assert!(missed(&in_vain, &Bars::default()).is_empty(), "nobody was to be killed");
        let silent = Weather::of(&tally(&[]), time, kills(Ok("web-1".to_owned())));
        assert_eq!(missed(&silent, &bars), ["sent"]);
        let slow = Weather::of(&tally(&[(1, None), (2, Some(Failure::NoConnection))]), time, Vec::new());
        assert_eq!(missed(&slow, &Bars::default()), ["not sent"]);
    }
}
