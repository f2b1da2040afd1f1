//! What the runs say: pure, from rates and latencies to tables, plots and answers.

use serde_json::json;

use super::dispatch::{differences, dispatch_table, mix_table, waits};
use super::{Asked, ClosedRun, Figures, Run, Sizes, WORK_MS, Work};
use crate::findings::{Answer, Axis, Bar, Outcome, Plot, Table, Verdict, surprise};
use crate::servers::Model;
use crate::stats::{Spread, digits};
use crate::systems::System;

/// A rate that is less than this part of what was expected came out differently.
const NEAR: f64 = 0.65;

/// Nobody can do more than there is time for: a rate of more than so many times that is a mistake of the measurement.
const AT_MOST: f64 = 1.1;

/// From this share of the time on the load generator is said to have been busy.
const BUSY: f64 = 0.8;

pub(super) fn of(figures: &Figures, sizes: Sizes, cores: usize, mut notes: Vec<String>) -> Outcome {
    let closed = Closed { runs: &figures.closed, clients: sizes.clients, cores };
    let mut tables: Vec<Table> = Work::ALL.iter().map(|&work| closed.table(work)).collect();
    tables.push(dispatch_table(&figures.dispatch, sizes.workers));
    if !figures.mixed.is_empty() {
        tables.push(mix_table(&closed.systems(), &figures.mixed, sizes.workers));
    }
    let plots = vec![
        Plot::Bars {
            title: "answers a second".to_owned(),
            value: Axis::log("answers/s"),
            bars: Work::ALL.iter().flat_map(|&work| closed.bars(work)).collect(),
        },
        Plot::Bars {
            title: "what a request of 5 ms waits for, by who gets it".to_owned(),
            value: Axis::log("latency of short requests, ms"),
            bars: waits(&figures.dispatch),
        },
    ];
    notes.extend(closed.near_the_generator());
    notes.extend(differences(&figures.dispatch));
    notes.extend(closed.surprises());
    Outcome { tables, plots, answers: closed.answers(), notes, data: json!(figures) }
}

impl Asked {
    fn name(self) -> &'static str {
        match self {
            Self::System(system) => system.name(),
            Self::Sink => "the load generator and a sink",
            Self::OneCore => "control: a thread for each, all on one core",
        }
    }
}

pub(super) fn cell(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |it| it.to_string())
}

/// Of a quantile: where there was a round in which it did not stand, there is none.
pub(super) fn quantile(runs: impl Iterator<Item = Run>, figure: fn(&Run) -> Option<f64>) -> String {
    match runs.map(|it| figure(&it)).collect::<Option<Vec<f64>>>() {
        Some(values) => cell(Spread::of(values)),
        None => "too few".to_owned(),
    }
}

/// All runs of the closed loop.
#[derive(Debug, Clone, Copy)]
struct Closed<'a> {
    runs: &'a [ClosedRun],
    clients: usize,
    cores: usize,
}

impl Closed<'_> {
    /// Those that were asked something, in the order of tables.
    fn systems(self) -> Vec<System> {
        let mut systems = Vec::new();
        for it in self.runs {
            if let Asked::System(system) = it.asked
                && !systems.contains(&system)
            {
                systems.push(system);
            }
        }
        systems
    }

    /// The systems first, then what they are to be held against.
    fn asked(self) -> impl Iterator<Item = Asked> {
        self.systems().into_iter().map(Asked::System).chain([Asked::Sink, Asked::OneCore])
    }

    fn of(self, asked: Asked, work: Work) -> impl Iterator<Item = Run> {
        self.runs.iter().filter(move |it| (it.asked, it.work) == (asked, work)).map(|it| it.run)
    }

    fn spread(self, asked: Asked, work: Work, figure: fn(&Run) -> f64) -> Option<Spread> {
        Spread::of(self.of(asked, work).map(|it| figure(&it)))
    }

    fn rate(self, asked: Asked, work: Work) -> Option<Spread> {
        self.spread(asked, work, |it| it.rate)
    }

    fn rate_of(self, model: Model, work: Work) -> Option<Spread> {
        self.rate(Asked::System(System::Model(model)), work)
    }

    /// How many times what one core can do of the work for the processor.
    fn gain(self, asked: Asked) -> Option<Spread> {
        Spread::of(self.of(asked, Work::Compute).map(|it| it.rate / (1e3 / WORK_MS)))
    }

    /// How many answers a second there can be at most, where the work takes time.
    fn most(self, work: Work) -> Option<f64> {
        let at_once = match work {
            Work::Nothing | Work::Connect => return None,
            Work::Block => self.clients,
            Work::Compute => self.cores.min(self.clients),
        };
        Some(at_once as f64 / WORK_MS * 1e3)
    }

    fn table(self, work: Work) -> Table {
        let mut table = Table::new(
            &format!("{}, {} clients, closed loop", work.name(), self.clients),
            &[
                "system",
                "answers/s",
                "p50, ms",
                "p95, ms",
                "p99, ms",
                "p99.9, ms",
                "failed",
                "load generator busy, %",
            ],
        );
        for asked in self.asked() {
            let Some(rate) = self.rate(asked, work) else { continue };
            let of = || self.of(asked, work);
            table.row([
                asked.name().to_owned(),
                rate.to_string(),
                quantile(of(), |it| it.p50_ms),
                quantile(of(), |it| it.p95_ms),
                quantile(of(), |it| it.p99_ms),
                quantile(of(), |it| it.p999_ms),
                of().map(|it| it.failures).sum::<u64>().to_string(),
                cell(self.spread(asked, work, |it| it.busy * 100.0)),
            ]);
        }
        table
    }

    fn bars(self, work: Work) -> Vec<Bar> {
        let bar = |asked: Asked| {
            let value = self.rate(asked, work)?;
            Some(Bar { name: asked.name().to_owned(), group: work.name().to_owned(), value })
        };
        self.asked().filter_map(bar).collect()
    }

    /// Where it may have been the generator that was measured.
    fn near_the_generator(self) -> Vec<String> {
        let mut notes = Vec::new();
        for work in Work::ALL {
            let busy = |system: &System| {
                let busy = self.spread(Asked::System(*system), work, |it| it.busy);
                busy.is_some_and(|it| it.median >= BUSY)
            };
            let busy: Vec<_> = self.systems().iter().filter(|it| busy(it)).map(|it| it.name()).collect();
            if !busy.is_empty() {
                notes.push(format!(
                    "{}: the load generator's one thread was busy for {:.0}% of the time and more with {}: the rate may be the generator's",
                    work.name(),
                    BUSY * 100.0,
                    busy.join(", ")
                ));
            }
            let Some(limit) = self.rate(Asked::Sink, work) else { continue };
            let near = |system: &System| {
                let rate = self.rate(Asked::System(*system), work);
                rate.is_some_and(|rate| rate.median > limit.median / 2.0)
            };
            let near: Vec<_> = self.systems().iter().filter(|it| near(it)).map(|it| it.name()).collect();
            if !near.is_empty() {
                notes.push(format!(
                    "{}: more than half of what the load generator gets from a sink is reached by {}: what differs there may be the generator's",
                    work.name(),
                    near.join(", ")
                ));
            }
        }
        notes
    }

    /// Where it came out differently from what was written down first: blocking side by side, computing on all cores, one
    /// core as one core, a process for each connection as the slowest to begin with a client.
    fn surprises(self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut hold = |what: String, rate: Spread, most: f64| {
            let expected = match rate.median {
                above if above > AT_MOST * most => {
                    format!("{} at most: more cannot be, and the measurement is wrong", digits(most))
                }
                below if below < NEAR * most => format!("about {}", digits(most)),
                _ => return,
            };
            notes.push(surprise(&what, &format!("{rate} answers/s"), &expected));
        };
        for work in Work::ALL {
            let Some(most) = self.most(work) else { continue };
            for system in self.systems() {
                if let Some(rate) = self.rate(Asked::System(system), work) {
                    hold(format!("{system}, {}", work.name()), rate, most);
                }
            }
        }
        if let Some(rate) = self.rate(Asked::OneCore, Work::Compute) {
            hold(Asked::OneCore.name().to_owned(), rate, 1e3 / WORK_MS);
        }
        let connect = self
            .systems()
            .into_iter()
            .filter_map(|system| Some((system, self.rate(Asked::System(system), Work::Connect)?.median)));
        let each = System::Model(Model::ProcessPerConnection);
        match connect.min_by(|one, other| one.1.total_cmp(&other.1)) {
            Some((slowest, rate)) if slowest != each && self.systems().contains(&each) => {
                let was = format!("{slowest} is the slowest, with {} answers/s", digits(rate));
                notes.push(surprise(Work::Connect.name(), &was, &each.to_string()));
            }
            _ => {}
        }
        notes
    }

    fn answers(self) -> Vec<Answer> {
        let not_measured =
            || (Verdict::NotMeasured, "not all that it takes was run; the notes say why".to_owned());
        let answer = |claim, said: Option<(Verdict, String)>| {
            let (verdict, evidence) = said.unwrap_or_else(not_measured);
            Answer { claim, verdict, evidence }
        };
        vec![
            answer(1, self.blocking()),
            answer(8, self.spread_over_cores_by_processes()),
            answer(6, self.spread_over_cores_by_threads()),
            answer(4, self.beginning()),
        ]
    }

    fn blocking(self) -> Option<(Verdict, String)> {
        let each = self.rate_of(Model::ProcessPerConnection, Work::Block)?;
        let prefork = self.rate_of(Model::Prefork, Work::Block)?;
        let most = self.most(Work::Block)?;
        let evidence = format!(
            "{} clients that block for 5 ms each got {each} answers/s from a process each and {prefork} from prefork; if blocking \
             blocked anybody else it were {}, and {} if nobody else",
            self.clients,
            digits(1e3 / WORK_MS),
            digits(most)
        );
        let verdict = match (each.median.min(prefork.median), each.median.max(prefork.median)) {
            (_, above) if above > AT_MOST * most => Verdict::NotMeasured,
            (least, _) => Verdict::of(least > most / 2.0),
        };
        Some((verdict, evidence))
    }

    fn spread_over_cores_by_processes(self) -> Option<(Verdict, String)> {
        let gain = |model| self.gain(Asked::System(System::Model(model)));
        let (hybrid, events) = (gain(Model::Hybrid)?, gain(Model::EventWorkers)?);
        let evidence = format!(
            "on {} cores the hybrid did {hybrid} times the work for the processor that one core can, event workers {events} times{}",
            self.cores,
            self.of_the_control()
        );
        Some((self.is_spread(hybrid.median), evidence))
    }

    fn spread_over_cores_by_threads(self) -> Option<(Verdict, String)> {
        let threads = self.gain(Asked::System(System::Model(Model::ThreadPerConnection)))?;
        let evidence = format!(
            "on {} cores {} threads did {threads} times the work for the processor that one core can{}",
            self.cores,
            self.clients,
            self.of_the_control()
        );
        Some((self.is_spread(threads.median), evidence))
    }

    fn of_the_control(self) -> String {
        self.gain(Asked::OneCore)
            .map_or_else(String::new, |it| format!("; kept to one core threads did {it} times"))
    }

    fn is_spread(self, gain: f64) -> Verdict {
        let control = self.gain(Asked::OneCore).map(|it| it.median);
        is_spread(gain, self.cores.min(self.clients), control)
    }

    fn beginning(self) -> Option<(Verdict, String)> {
        let connect = |model| self.rate_of(model, Work::Connect);
        let (prefork, each) = (connect(Model::Prefork)?, connect(Model::ProcessPerConnection)?);
        let (pool, thread) = (connect(Model::ThreadPool)?, connect(Model::ThreadPerConnection)?);
        let failures = |model| {
            let asked = Asked::System(System::Model(model));
            self.runs.iter().filter(|it| it.asked == asked).map(|it| it.run.failures).sum::<u64>()
        };
        let failed = failures(Model::Prefork) + failures(Model::ProcessPerConnection);
        let evidence = format!(
            "with a connection for each request prefork gave {prefork} answers/s and a process started for each {each}, a thread \
             pool {pool} and a thread started for each {thread}; of the two with processes {failed} requests failed"
        );
        Some((Verdict::of(failed == 0 && prefork.median > each.median), evidence))
    }
}

/// Whether work is spread over so many cores that did `gain` times what one can do. Where more was done than these cores
/// can, or on one core more than one core can (`control`), the measurement is wrong and says nothing. Where a core did less
/// it had something else to do, and so may the others have had: then that too little was done says nothing either.
fn is_spread(gain: f64, cores: usize, control: Option<f64>) -> Verdict {
    match gain {
        _ if cores < 2 => Verdict::NotMeasured,
        _ if control.is_some_and(|it| it > AT_MOST) => Verdict::NotMeasured,
        above if above > AT_MOST * cores as f64 => Verdict::NotMeasured,
        most if most >= NEAR * cores as f64 => Verdict::Held,
        _ if control.is_some_and(|it| it < NEAR) => Verdict::NotMeasured,
        some if some >= NEAR * 2.0 => Verdict::InPart,
        _ => Verdict::DidNotHold,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use std::time::Duration;

    use super::*;

    const SIZES: Sizes = Sizes {
        rounds: 1,
        clients: 8,
        warm_up: Duration::ZERO,
        time: Duration::ZERO,
        workers: 8,
        open_warm_up: Duration::ZERO,
        open: Duration::ZERO,
        mix: None,
    };

    fn run(rate: f64, p50_ms: f64) -> Run {
        Run { rate, p50_ms: Some(p50_ms), p95_ms: Some(p50_ms * 2.0), ..Run::default() }
    }

    fn closed(model: Model, work: Work, rate: f64) -> ClosedRun {
        ClosedRun { asked: Asked::System(System::Model(model)), work, run: run(rate, 1.0) }
    }

    fn outcome(closed: &[ClosedRun]) -> Outcome {
        of(&Figures { closed: closed.to_vec(), ..Figures::default() }, SIZES, 2, Vec::new())
    }

    fn verdict(closed: &[ClosedRun], claim: u8) -> Verdict {
        outcome(closed).answers.iter().find(|it| it.claim == claim).unwrap().verdict
    }

    #[test]
    fn blocking_that_is_side_by_side_holds_and_one_after_the_other_does_not() {
        let verdict = |rate: f64| {
            let runs = [Model::ProcessPerConnection, Model::Prefork].map(|it| closed(it, Work::Block, rate));
            verdict(&runs, 1)
        };
        assert_eq!(verdict(1500.0), Verdict::Held);
        assert_eq!(verdict(200.0), Verdict::DidNotHold);
        // Eight that take 5 ms each cannot be answered more than 1,600 times a second.
        assert_eq!(verdict(1900.0), Verdict::NotMeasured);
    }

    #[test]
    fn work_is_spread_if_each_core_has_its_share_and_none_has_more() {
        assert_eq!(is_spread(1.4, 2, Some(1.0)), Verdict::Held);
        assert_eq!(is_spread(1.4, 8, Some(1.0)), Verdict::InPart);
        assert_eq!(is_spread(1.0, 8, None), Verdict::DidNotHold);
        assert_eq!(is_spread(1.0, 1, Some(1.0)), Verdict::NotMeasured);
        assert_eq!(is_spread(2.3, 2, Some(1.0)), Verdict::NotMeasured);
        assert_eq!(is_spread(1.9, 2, Some(1.6)), Verdict::NotMeasured, "one core did more than one can");
        assert_eq!(is_spread(0.4, 2, Some(0.2)), Verdict::NotMeasured, "the cores had other things to do");
        assert_eq!(is_spread(1.9, 2, Some(0.2)), Verdict::Held);
    }

    #[test]
    fn more_than_all_cores_can_do_is_noted_as_a_mistake() {
        let runs =
            [closed(Model::ThreadPool, Work::Compute, 900.0), closed(Model::Prefork, Work::Compute, 390.0)];
        let notes = outcome(&runs).notes;
        let said = |it: &String| it.contains("thread pool, 5 ms computing: 900 ") && it.contains("wrong");
        assert!(notes.iter().any(said), "{notes:?}");
        assert!(!notes.iter().any(|it| it.contains("prefork, 5 ms computing")), "{notes:?}");
    }

    #[test]
    fn a_rate_of_blocking_that_is_one_after_the_other_is_noted() {
        let runs =
            [closed(Model::Prefork, Work::Block, 200.0), closed(Model::ThreadPool, Work::Block, 1500.0)];
        let notes = outcome(&runs).notes;
        assert!(notes.iter().any(|it| it.contains("prefork, 5 ms blocking: 200 ")), "{notes:?}");
        assert!(!notes.iter().any(|it| it.contains("thread pool, 5 ms")), "{notes:?}");
    }

    #[test]
    fn a_quantile_that_did_not_stand_in_one_round_is_not_shown() {
        let with = |p99_ms| Run { p99_ms, ..run(1.0, 1.0) };
        assert_eq!(quantile([with(Some(2.0)), with(None)].into_iter(), |it| it.p99_ms), "too few");
        assert!(quantile([with(Some(2.0)), with(Some(2.0))].into_iter(), |it| it.p99_ms).starts_with("2.00"));
    }

    #[test]
    fn where_the_generator_was_busy_itself_that_is_said() {
        let busy = |busy| {
            let mut it = closed(Model::Prefork, Work::Nothing, 1.0);
            it.run.busy = busy;
            outcome(&[it]).notes.iter().any(|it| it.contains("was busy"))
        };
        assert!(busy(0.9) && !busy(0.5));
    }
}
