//! What a fault did to the others, told from when they were answered: no clock, no clients.

use serde::Serialize;

use crate::load::Failure;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// One of those who keep their connection.
    Kept(usize),
    /// Somebody who connects for each request.
    Newcomer,
}

/// One request's end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub who: Who,
    /// In ms from the fault; negative before it.
    pub at: f64,
    pub failure: Option<Failure>,
}

/// What was seen of the others.
#[derive(Debug, Clone)]
pub(super) struct Trace {
    /// Clients that keep their connection.
    pub kept: usize,
    /// For how long before the fault, in ms.
    pub before: f64,
    /// For how long after it, in ms.
    pub after: f64,
    /// Of that, the time at its end in which who is not answered is out, in ms.
    pub end: f64,
    /// The longest that the machine held up somebody after the fault who wanted nothing but to wake up, in ms.
    pub machine: f64,
    /// In any order.
    pub moments: Vec<Moment>,
}

/// What a fault did to others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Damage {
    /// Clients that were connected.
    pub kept: usize,
    /// Of these, who had a request fail or was stalled.
    pub hit: usize,
    /// Of these, who had a request fail.
    pub failed: usize,
    /// Of these, who was not answered any more when it ended.
    pub out: usize,
    /// Requests of newcomers that failed.
    pub newcomers_failed: u64,
    /// How the requests of both failed, and how often.
    pub failures: Vec<(String, u64)>,
    /// Whether no newcomer was answered any more when it ended.
    pub newcomers_out: bool,
    /// The longest that one of those connected had no answer.
    pub longest_ms: f64,
    /// From the first harm until as much was answered as before; `None`: not while it was looked at.
    pub back_ms: Option<f64>,
}

/// Who else is hit, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Harm {
    /// Nobody notices.
    Nobody,
    /// Those who were connected notice nothing; newcomers are not served, or not all of them.
    Newcomers,
    /// Some of those connected, who are then served again.
    Some,
    /// Some of those connected, of whom some stay out.
    SomeForGood,
    /// All of those connected, who are then served again.
    All,
    /// All of those connected, of whom some stay out.
    AllForGood,
}

impl Harm {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Nobody => "nobody else is hit",
            Self::Newcomers => "only newcomers are hit",
            Self::Some => "some are hit",
            Self::SomeForGood => "some are hit and stay out",
            Self::All => "all are hit",
            Self::AllForGood => "all are hit and stay out",
        }
    }

    /// Behind the number of those hit.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Nobody | Self::Some | Self::All => "",
            Self::Newcomers => " +",
            Self::SomeForGood | Self::AllForGood => " ∞",
        }
    }

    /// From 0 to 1.
    pub(super) fn heat(self) -> f64 {
        match self {
            Self::Nobody => 0.0,
            Self::Newcomers => 0.3,
            Self::Some => 0.45,
            Self::SomeForGood => 0.65,
            Self::All => 0.8,
            Self::AllForGood => 1.0,
        }
    }
}

impl Damage {
    pub(super) fn harm(&self) -> Harm {
        match self.hit {
            0 if self.newcomers_failed > 0 || self.newcomers_out => Harm::Newcomers,
            0 => Harm::Nobody,
            hit if hit < self.kept && self.out == 0 => Harm::Some,
            hit if hit < self.kept => Harm::SomeForGood,
            _ if self.out == 0 => Harm::All,
            _ => Harm::AllForGood,
        }
    }
}

/// Whoever has no answer for less than this is not stalled, in ms.
const STALL: f64 = 250.0;
/// Nor is who waits less than so many times the longest wait before the fault, or the machine's own.
const TIMES_COMMON: f64 = 3.0;
/// In ms: capacity is told from the answers in a window.
const WINDOW: f64 = 150.0;
/// The share of answers of before with which full capacity is back.
const FULL: f64 = 0.9;

pub(super) fn judge(trace: &Trace) -> Damage {
    let answers = |who: Who| {
        let mut times: Vec<f64> = trace
            .moments
            .iter()
            .filter(|it| it.who == who && it.failure.is_none())
            .map(|it| it.at)
            .filter(|at| (-trace.before..=trace.after).contains(at))
            .collect();
        times.sort_by(f64::total_cmp);
        times
    };
    let by_client: Vec<Vec<f64>> = (0..trace.kept).map(|nth| answers(Who::Kept(nth))).collect();
    let before = by_client.iter().flat_map(|times| gaps(times, -trace.before, 0.0)).map(|(_, gap)| gap);
    let stall = before.fold(trace.machine.max(STALL / TIMES_COMMON), f64::max) * TIMES_COMMON;
    let failed = |who: Who| {
        let failed = trace.moments.iter().filter(move |it| it.who == who && it.failure.is_some());
        failed.map(|it| it.at).filter(|at| (0.0..=trace.after).contains(at))
    };
    let (mut hit, mut cut, mut out, mut longest, mut first) = (0, 0, 0, 0.0_f64, f64::INFINITY);
    for (nth, times) in by_client.iter().enumerate() {
        let last_before = times.iter().copied().rfind(|at| *at < 0.0).unwrap_or(0.0);
        let waits = gaps(times, last_before, trace.after);
        let stalled = waits.iter().find(|(_, gap)| *gap > stall).map(|(from, _)| from.max(0.0));
        let first_harm = failed(Who::Kept(nth)).chain(stalled).fold(f64::INFINITY, f64::min);
        hit += usize::from(first_harm.is_finite());
        cut += usize::from(failed(Who::Kept(nth)).next().is_some());
        first = first.min(first_harm);
        longest = waits.iter().fold(longest, |longest, (_, gap)| longest.max(*gap));
        let is_out = first_harm.is_finite() && !answered_at_the_end(times, trace);
        out += usize::from(is_out);
    }
    let newcomers = answers(Who::Newcomer);
    let newcomers_failed = failed(Who::Newcomer).count() as u64;
    let newcomers_out = !newcomers.is_empty() && !answered_at_the_end(&newcomers, trace);
    first = failed(Who::Newcomer).fold(first, f64::min);
    if newcomers_out {
        first = first.min(newcomers.last().copied().unwrap_or(0.0).max(0.0));
    }
    let mut all: Vec<f64> = by_client.into_iter().flatten().chain(newcomers).collect();
    all.sort_by(f64::total_cmp);
    let back_ms = if first.is_finite() { back(&all, first, trace) } else { Some(0.0) };
    let mut failures: Vec<(String, u64)> = Vec::new();
    for it in trace.moments.iter().filter(|it| (0.0..=trace.after).contains(&it.at)) {
        let Some(failure) = it.failure.map(|it| it.to_string()) else { continue };
        match failures.iter_mut().find(|(known, _)| *known == failure) {
            Some((_, count)) => *count += 1,
            None => failures.push((failure, 1)),
        }
    }
    Damage {
        failures,
        kept: trace.kept,
        hit,
        failed: cut,
        out,
        newcomers_failed,
        newcomers_out,
        longest_ms: longest,
        back_ms,
    }
}

/// The times between one answer and the next from `from` to `to`, both of which count as one: when each began, and how
/// long it was.
fn gaps(times: &[f64], from: f64, to: f64) -> Vec<(f64, f64)> {
    let between = times.iter().copied().filter(|at| (from..=to).contains(at));
    let ends: Vec<f64> = std::iter::once(from).chain(between).chain([to]).collect();
    ends.windows(2).map(|two| (two[0], two[1] - two[0])).collect()
}

fn answered_at_the_end(times: &[f64], trace: &Trace) -> bool {
    times.iter().any(|at| *at > trace.after - trace.end)
}

/// From the first harm to the beginning of the first window that is as full as those before the fault.
fn back(answers: &[f64], first_harm: f64, trace: &Trace) -> Option<f64> {
    const STEP: f64 = 10.0;
    let within = |from: f64, to: f64| answers.iter().filter(|at| (from..to).contains(*at)).count() as f64;
    // When clients have just come not all of them are at it yet.
    let settled = trace.before * 0.75;
    let enough = within(-settled, 0.0) / settled * WINDOW * FULL;
    let mut from = first_harm;
    while from + WINDOW <= trace.after {
        if within(from, from + WINDOW) >= enough {
            return Some(from - first_harm);
        }
        from += STEP;
    }
    None
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    /// Four clients and a newcomer, each answered every 10 ms unless `unless` says otherwise.
    fn trace(mut unless: impl FnMut(Who, f64) -> Option<Option<Failure>>) -> Trace {
        let mut moments = Vec::new();
        for who in (0..4).map(Who::Kept).chain([Who::Newcomer]) {
            for step in -50..100 {
                let at = f64::from(step) * 10.0 + 5.0;
                match unless(who, at) {
                    None => moments.push(Moment { who, at, failure: None }),
                    Some(None) => {}
                    Some(failure) => moments.push(Moment { who, at, failure }),
                }
            }
        }
        Trace { kept: 4, before: 500.0, after: 1000.0, end: 300.0, machine: 6.0, moments }
    }

    #[test]
    fn nobody_is_hit_when_all_are_answered() {
        let damage = judge(&trace(|_, _| None));
        assert_eq!(damage.harm(), Harm::Nobody);
        assert_eq!((damage.hit, damage.back_ms), (0, Some(0.0)));
        assert!(damage.longest_ms < 11.0, "{damage:?}");
    }

    #[test]
    fn who_is_cut_off_once_and_comes_back_is_hit_and_not_out() {
        let damage =
            judge(&trace(|who, at| (who == Who::Kept(2) && at == 25.0).then_some(Some(Failure::Cut))));
        assert_eq!(damage.harm(), Harm::Some);
        assert_eq!((damage.hit, damage.out, damage.back_ms), (1, 0, Some(0.0)));
    }

    #[test]
    fn who_has_no_answer_to_the_end_is_stalled_and_out() {
        let damage = judge(&trace(|who, at| (matches!(who, Who::Kept(0 | 1)) && at > 0.0).then_some(None)));
        assert_eq!(damage.harm(), Harm::SomeForGood);
        assert_eq!((damage.hit, damage.out, damage.back_ms), (2, 2, None));
        assert!(damage.longest_ms > 1000.0);
    }

    #[test]
    fn an_outage_of_all_ends_when_the_rate_is_back() {
        let damage = judge(&trace(|_, at| (at > 0.0 && at < 400.0).then_some(Some(Failure::Refused))));
        assert_eq!(damage.harm(), Harm::All);
        let back = damage.back_ms.unwrap();
        assert!((350.0..=400.0).contains(&back), "{back}");
    }

    #[test]
    fn all_who_are_refused_to_the_end_are_out_for_good() {
        let damage = judge(&trace(|_, at| (at > 0.0).then_some(Some(Failure::Refused))));
        assert_eq!(damage.harm(), Harm::AllForGood);
        assert!(damage.newcomers_out);
    }

    #[test]
    fn newcomers_alone_are_told_from_those_who_were_connected() {
        let damage = judge(&trace(|who, at| (who == Who::Newcomer && at > 100.0).then_some(None)));
        assert_eq!(damage.harm(), Harm::Newcomers);
        assert_eq!(damage.back_ms, None, "a fifth of the answers is missing");
    }

    #[test]
    fn a_wait_that_was_common_before_is_no_stall() {
        // Before the fault, too, somebody waits for 150 ms: less than three times as much is nothing new.
        let waits = |at: f64| (-300.0..-150.0).contains(&at) || (100.0..500.0).contains(&at);
        let damage = judge(&trace(|who, at| (who == Who::Kept(0) && waits(at)).then_some(None)));
        assert_eq!(damage.hit, 0, "{damage:?}");
    }
}
