//! What a fault did to the others, told from when they were answered: no clock, no clients.

use serde::Serialize;

use crate::load::Failure;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// One of those who keep their connection.
    Kept(usize),
    /// One of those who connect for each request.
    Newcomer(usize),
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
    /// Clients that connect for each request.
    pub newcomers: usize,
    /// For how long before the fault, in ms.
    pub before: f64,
    /// For how long after it, in ms.
    pub after: f64,
    /// Of that, the time at its end in which who is not answered is out, in ms.
    pub end: f64,
    /// The longest that the machine held up somebody who wanted nothing but to wake up, in ms.
    pub machine: Machine,
    /// In any order.
    pub moments: Vec<Moment>,
}

/// How long it held up somebody at the most, in ms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    pub before: f64,
    /// From the fault on.
    pub after: f64,
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
    /// Of the clients that connect for each request, who had one fail or was stalled.
    pub newcomers_hit: usize,
    /// Requests of newcomers that failed.
    pub newcomers_failed: u64,
    /// How the requests of both failed, and how often.
    pub failures: Vec<(String, u64)>,
    /// Whether no newcomer was answered any more when it ended.
    pub newcomers_out: bool,
    /// The longest that one of those connected had no answer.
    pub longest_ms: f64,
    /// The longest that a newcomer had none.
    pub newcomers_longest_ms: f64,
    /// Whoever of those connected had no answer for longer than this is stalled: told from before the fault.
    pub stall_ms: f64,
    /// The longest that the machine, from the fault on, held up somebody who wanted nothing but to wake up.
    pub machine_ms: f64,
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
    pub(super) const ALL: [Self; 6] =
        [Self::Nobody, Self::Newcomers, Self::Some, Self::SomeForGood, Self::All, Self::AllForGood];

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
    /// Whether the machine itself, and not only the system, left everybody waiting who was on it.
    pub(super) fn machine_stood_still(&self) -> bool {
        self.machine_ms > self.stall_ms
    }

    pub(super) fn harm(&self) -> Harm {
        match self.hit {
            0 if self.newcomers_hit > 0 => Harm::Newcomers,
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
/// Nor is who waits less than so many times the longest wait before the fault, or the machine's own before it.
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
    let kept: Vec<Vec<f64>> = (0..trace.kept).map(|nth| answers(Who::Kept(nth))).collect();
    let newcomers: Vec<Vec<f64>> = (0..trace.newcomers).map(|nth| answers(Who::Newcomer(nth))).collect();
    // Nothing that is seen from the fault on counts here: a fault that holds up the whole machine would excuse itself.
    let stall = |clients: &[Vec<f64>]| {
        let before = clients.iter().flat_map(|times| gaps(times, -trace.before, 0.0)).map(|(_, gap)| gap);
        before.fold(trace.machine.before.max(STALL / TIMES_COMMON), f64::max) * TIMES_COMMON
    };
    let (stall_ms, newcomers_stall) = (stall(&kept), stall(&newcomers));
    let failed = |who: Who| {
        let failed = trace.moments.iter().filter(move |it| it.who == who && it.failure.is_some());
        failed.map(|it| it.at).filter(|at| (0.0..=trace.after).contains(at))
    };
    // The longest that somebody waited, and when harm first came to him; never is infinite.
    let harm_to = |who: Who, times: &[f64], stall: f64| {
        let last_before = times.iter().copied().rfind(|at| *at < 0.0).unwrap_or(0.0);
        let waits = gaps(times, last_before, trace.after);
        let stalled = waits.iter().find(|(_, gap)| *gap > stall).map(|(from, _)| from.max(0.0));
        let longest = waits.iter().fold(0.0_f64, |longest, (_, gap)| longest.max(*gap));
        (longest, failed(who).chain(stalled).fold(f64::INFINITY, f64::min))
    };
    let (mut hit, mut cut, mut out, mut longest_ms, mut first) = (0, 0, 0, 0.0_f64, f64::INFINITY);
    for (nth, times) in kept.iter().enumerate() {
        let (longest, first_harm) = harm_to(Who::Kept(nth), times, stall_ms);
        hit += usize::from(first_harm.is_finite());
        cut += usize::from(failed(Who::Kept(nth)).next().is_some());
        out += usize::from(first_harm.is_finite() && !answered_at_the_end(times, trace));
        (longest_ms, first) = (longest_ms.max(longest), first.min(first_harm));
    }
    let (mut newcomers_hit, mut newcomers_longest_ms, mut newcomers_failed) = (0, 0.0_f64, 0);
    for (nth, times) in newcomers.iter().enumerate() {
        let (longest, first_harm) = harm_to(Who::Newcomer(nth), times, newcomers_stall);
        newcomers_hit += usize::from(first_harm.is_finite());
        newcomers_failed += failed(Who::Newcomer(nth)).count() as u64;
        (newcomers_longest_ms, first) = (newcomers_longest_ms.max(longest), first.min(first_harm));
    }
    let newcomers_out = newcomers_hit > 0 && !newcomers.iter().any(|it| answered_at_the_end(it, trace));
    let mut all: Vec<f64> = kept.into_iter().chain(newcomers).flatten().collect();
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
        newcomers_hit,
        newcomers_failed,
        newcomers_out,
        longest_ms,
        newcomers_longest_ms,
        stall_ms,
        machine_ms: trace.machine.after,
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
        for who in (0..4).map(Who::Kept).chain([Who::Newcomer(0)]) {
            for step in -50..100 {
                let at = f64::from(step) * 10.0 + 5.0;
                match unless(who, at) {
                    None => moments.push(Moment { who, at, failure: None }),
                    Some(None) => {}
                    Some(failure) => moments.push(Moment { who, at, failure }),
                }
            }
        }
        let machine = Machine { before: 6.0, after: 6.0 };
        Trace { kept: 4, newcomers: 1, before: 500.0, after: 1000.0, end: 300.0, machine, moments }
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
        let damage = judge(&trace(|who, at| (who == Who::Newcomer(0) && at > 100.0).then_some(None)));
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

    #[test]
    fn newcomers_who_are_held_up_and_then_served_are_hit() {
        let waits = |at: f64| (100.0..500.0).contains(&at);
        let damage = judge(&trace(|who, at| (who == Who::Newcomer(0) && waits(at)).then_some(None)));
        assert_eq!(damage.harm(), Harm::Newcomers);
        assert_eq!((damage.newcomers_hit, damage.newcomers_failed, damage.newcomers_out), (1, 0, false));
        assert!(damage.newcomers_longest_ms > 400.0, "{damage:?}");
    }

    #[test]
    fn a_fault_that_holds_up_the_machine_does_not_excuse_itself() {
        let still = |before: f64| {
            let mut trace = trace(|_, at| (100.0..500.0).contains(&at).then_some(None));
            trace.machine = Machine { before, after: 390.0 };
            judge(&trace)
        };
        let damage = still(6.0);
        assert_eq!(damage.harm(), Harm::All);
        assert!(damage.machine_stood_still(), "{damage:?}");
        // A machine that did so all along says nothing about the fault.
        let damage = still(390.0);
        assert_eq!(damage.harm(), Harm::Nobody);
        assert!(!damage.machine_stood_still(), "{damage:?}");
    }
}
