//! Throughput: how many answers a second, and how long the slow ones take.
//!
//! First, each system in a *closed loop*: as many clients as it has workers for, each asking again when it has been
//! answered. With no work it shows what a model itself costs; with a connection for each request, what it costs to begin
//! with a client; with 5 ms of blocking, whether all clients can
//! be blocked at a time; with 5 ms of computing, whether the work is spread over the cores.
//!
//! Second, *dispatch* in an *open loop*: requests come at random intervals, at 70% of what the workers can do; nine of ten
//! take 5 ms, the tenth takes 200 ms. All systems here have the same number of workers that do one thing at a time, and
//! differ in who gets the next request: any (at random), or one that is idle. In prefork the kernel gives a connection to a
//! child that waits for one; Bulkhead's door gives a request to a worker that has said that it is idle.
//!
//! Expected: with no work, the fewer steps the faster: threads and event loops first, a process started for each
//! connection costs nothing once its client keeps it, FastCGI and Bulkhead pay for a hop. With a connection for each request
//! that process is started each time: the slowest of all. With blocking all are equal,
//! workers divided by 5 ms: that is claim 1. With computing all are equal, cores divided by 5 ms, but tails differ.
//! At random, short requests wait behind long ones while other workers are idle: the median of the short ones
//! is many times their 5 ms; where only the idle are given work most of them wait for nobody.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::{Bench, Experiment};
use crate::findings::{Answer, Axis, Bar, Outcome, Plot, Table, Verdict};
use crate::load::{self, Connections, Plan, Shape as LoadShape, Tally};
use crate::servers::Model;
use crate::servers::splitter::Choice;
use crate::stats::{Spread, digits};
use crate::systems::{Backend, Shape, System};

pub(super) const QUESTION: &str =
    "How many answers a second does each system give, and what is idle-aware dispatch worth?";
pub(super) const METHOD: &str = "Closed loop, kept connections, a warm-up before each run; the load generator's own limit is measured the same way. \
     Dispatch: open loop (Poisson), 70% of the workers' capacity, 90% of requests take 5 ms and 10% take 200 ms; a latency counts from when the request was due. \
     Medians over rounds in which all systems are taken in turn.";

/// What clients ask for in the closed loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Work {
    Nothing,
    /// Nothing but a connection for each request.
    Connect,
    Block,
    Compute,
}

impl Work {
    const ALL: [Self; 4] = [Self::Nothing, Self::Connect, Self::Block, Self::Compute];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no work",
            Self::Connect => "a connection for each request",
            Self::Block => "5 ms blocking",
            Self::Compute => "5 ms computing",
        }
    }

    fn target(self) -> &'static str {
        match self {
            Self::Nothing | Self::Connect => "/work?ms=0",
            Self::Block => "/work?ms=5",
            Self::Compute => "/cpu?ms=5",
        }
    }
}

/// How long what clients ask for takes, in ms, where it takes time.
const WORK_MS: f64 = 5.0;

/// Who gives which request to whom.
const DISPATCH: [(System, Connections, &str); 4] = [
    (System::Model(Model::Splitter(Choice::Random)), Connections::Kept, "at random"),
    (System::Model(Model::Splitter(Choice::Idle)), Connections::Kept, "to the idle, the same front"),
    (System::Model(Model::Prefork), Connections::OneForEach, "to the idle, prefork: the kernel"),
    (System::Bulkhead(Backend::Process), Connections::Kept, "to the idle, Bulkhead's door"),
];

const SHORT: (&str, f64, u32) = ("/work?ms=5", 5.0, 9);
const LONG: (&str, f64, u32) = ("/work?ms=200", 200.0, 1);
/// Of what the workers can do.
const LOAD: f64 = 0.7;

/// What a run said.
#[derive(Debug, Clone, Copy, Serialize)]
struct Run {
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    failures: u64,
}

#[derive(Debug, Clone, Serialize)]
struct ClosedRun {
    /// `None`: the load generator against an answerer that does nothing else.
    system: Option<System>,
    work: Work,
    #[serde(flatten)]
    run: Run,
}

#[derive(Debug, Clone, Serialize)]
struct DispatchRun {
    way: &'static str,
    /// All requests.
    all: Run,
    /// Those that take 5 ms.
    short: Run,
}

impl Run {
    fn of(tally: &Tally) -> Self {
        Self::with(tally, &tally.latency())
    }

    fn with(tally: &Tally, latency: &load::Latencies) -> Self {
        Self {
            rate: tally.rate(),
            p50_ms: latency.quantile_ms(0.5),
            p99_ms: latency.quantile_ms(0.99),
            p999_ms: latency.quantile_ms(0.999),
            failures: tally.failures(),
        }
    }
}

/// How long and how many.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    rounds: usize,
    clients: usize,
    warm_up: Duration,
    time: Duration,
    workers: usize,
    open: Duration,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let millis = |smallest, quick, full| Duration::from_millis(bench.size.pick(smallest, quick, full));
    let sizes = Sizes {
        rounds: bench.size.pick(1, 1, 3),
        clients: bench.size.pick(4, 8, 16),
        warm_up: millis(50, 50, 500),
        time: millis(150, 200, 2000),
        workers: bench.size.pick(8, 8, 8),
        open: millis(2000, 1500, 10_000),
    };
    let roll = bench.systems();
    let (here, missing): (Vec<_>, Vec<_>) =
        DISPATCH.into_iter().partition(|(system, ..)| system.missing(bench.bulkhead.as_deref()).is_none());
    let steps = (roll.here.len() + 1 + here.len()) * sizes.rounds;
    let progress = bench.progress(Experiment::Throughput, steps);
    let (mut closed, mut dispatch) = (Vec::new(), Vec::new());
    let mut not_run: Vec<String> =
        roll.missing.iter().map(|(system, why)| format!("{system}: not run: {why}")).collect();
    not_run.extend(missing.iter().map(|(.., way)| format!("dispatch {way}: not run, for the same reason")));
    for _ in 0..sizes.rounds {
        progress.doing("the load generator itself");
        // Its threads have to be started first, which is a part of the time.
        let rate = load::limit(sizes.clients, sizes.time.max(Duration::from_millis(500)))?;
        let run = Run { rate, p50_ms: f64::NAN, p99_ms: f64::NAN, p999_ms: f64::NAN, failures: 0 };
        closed.push(ClosedRun { system: None, work: Work::Nothing, run });
        progress.step();
        for &system in &roll.here {
            progress.doing(system.name());
            let running = match bench.start(system, &Shape::of(sizes.clients + 2)) {
                Ok(running) => running,
                // It costs its own row, and not what is known of the others.
                Err(error) => {
                    not_run.push(format!("{system}: not run: {error:#}"));
                    progress.step();
                    continue;
                }
            };
            for work in Work::ALL {
                let connections = match work {
                    Work::Connect => Connections::OneForEach,
                    Work::Nothing | Work::Block | Work::Compute => Connections::Kept,
                };
                let plan = |time| Plan {
                    connections,
                    ..Plan::closed(running.address, work.target(), sizes.clients, time)
                };
                load::run(plan(sizes.warm_up))?;
                let run = Run::of(&load::run(plan(sizes.time))?);
                closed.push(ClosedRun { system: Some(system), work, run });
            }
            progress.step();
        }
        for &(system, connections, way) in &here {
            progress.doing(way);
            dispatch.push(open_loop(bench, system, connections, way, sizes)?);
            progress.step();
        }
    }
    Ok(outcome(&closed, &dispatch, sizes, not_run))
}

fn open_loop(
    bench: &Bench,
    system: System,
    connections: Connections,
    way: &'static str,
    sizes: Sizes,
) -> anyhow::Result<DispatchRun> {
    let running = bench.start(system, &Shape::of(sizes.workers))?;
    let plan = Plan {
        targets: vec![(SHORT.0.to_owned(), SHORT.2), (LONG.0.to_owned(), LONG.2)],
        shape: LoadShape::Open { rate: rate(sizes.workers), most: 1000 },
        connections,
        ..Plan::closed(running.address, SHORT.0, 0, sizes.open)
    };
    let tally = load::run(plan)?;
    let short = tally.latencies.first().cloned().unwrap_or_default();
    Ok(DispatchRun { way, all: Run::of(&tally), short: Run::with(&tally, &short) })
}

/// Requests a second that so many workers are given.
fn rate(workers: usize) -> f64 {
    let shares = f64::from(SHORT.2 + LONG.2);
    let mean_ms = (SHORT.1 * f64::from(SHORT.2) + LONG.1 * f64::from(LONG.2)) / shares;
    LOAD * workers as f64 / mean_ms * 1e3
}

fn outcome(closed: &[ClosedRun], dispatch: &[DispatchRun], sizes: Sizes, mut notes: Vec<String>) -> Outcome {
    let mut systems: Vec<System> = Vec::new();
    for system in closed.iter().filter_map(|it| it.system) {
        if !systems.contains(&system) {
            systems.push(system);
        }
    }
    let of = |system: Option<System>, work: Work| {
        closed.iter().filter(move |it| it.system == system && it.work == work).map(|it| it.run)
    };
    let cell = |spread: Option<Spread>| spread.map_or("–".to_owned(), |it| it.to_string());
    let mut tables = Vec::new();
    let mut bars = Vec::new();
    for work in Work::ALL {
        let mut table = Table::new(
            &format!("{}, {} clients, closed loop", work.name(), sizes.clients),
            &["system", "answers/s", "p50, ms", "p99, ms", "p99.9, ms", "failed"],
        );
        for &system in &systems {
            let spread = |figure: fn(&Run) -> f64| Spread::of(of(Some(system), work).map(|it| figure(&it)));
            let rate = spread(|it| it.rate);
            table.row([
                system.name().to_owned(),
                cell(rate),
                cell(spread(|it| it.p50_ms)),
                cell(spread(|it| it.p99_ms)),
                cell(spread(|it| it.p999_ms)),
                of(Some(system), work).map(|it| it.failures).sum::<u64>().to_string(),
            ]);
            if let Some(value) = rate {
                bars.push(Bar { name: system.name().to_owned(), group: work.name().to_owned(), value });
            }
        }
        tables.push(table);
    }
    let limit = Spread::of(of(None, Work::Nothing).map(|it| it.rate));
    if let Some(limit) = limit {
        let name = "the load generator's own limit".to_owned();
        if let Some(table) = tables.first_mut() {
            let dash = || "–".to_owned();
            table.row([name.clone(), limit.to_string(), dash(), dash(), dash(), dash()]);
        }
        bars.push(Bar { name, group: Work::Nothing.name().to_owned(), value: limit });
        let near = |system: &System| {
            let rate = Spread::of(of(Some(*system), Work::Nothing).map(|it| it.rate));
            rate.is_some_and(|rate| rate.median > limit.median / 2.0)
        };
        let near: Vec<_> = systems.iter().filter(|it| near(it)).map(|it| it.name()).collect();
        if !near.is_empty() {
            notes.push(format!(
                "with no work, more than half of the load generator's own limit is reached by {}: what differs there may be the generator's",
                near.join(", ")
            ));
        }
    }
    let mut ways: Vec<&str> = dispatch.iter().map(|it| it.way).collect();
    ways.dedup();
    let mut seen = Vec::new();
    ways.retain(|way| {
        !seen.contains(way) && {
            seen.push(*way);
            true
        }
    });
    let mut table = Table::new(
        &format!(
            "dispatch to {} workers, {} requests/s in an open loop: 90% take 5 ms, 10% take 200 ms; of those that take 5 ms",
            sizes.workers,
            digits(rate(sizes.workers))
        ),
        &["each request goes", "p50, ms", "p99, ms", "p99.9, ms", "failed"],
    );
    let mut waits = Vec::new();
    for &way in &ways {
        let runs = || dispatch.iter().filter(move |it| it.way == way);
        let spread = |figure: fn(&Run) -> f64| Spread::of(runs().map(|it| figure(&it.short)));
        table.row([
            way.to_owned(),
            cell(spread(|it| it.p50_ms)),
            cell(spread(|it| it.p99_ms)),
            cell(spread(|it| it.p999_ms)),
            runs().map(|it| it.all.failures).sum::<u64>().to_string(),
        ]);
        for (group, figure) in [("median", (|it| it.p50_ms) as fn(&Run) -> f64), ("p99", |it| it.p99_ms)] {
            if let Some(value) = spread(figure) {
                waits.push(Bar { name: way.to_owned(), group: group.to_owned(), value });
            }
        }
    }
    tables.push(table);
    let plots = vec![
        Plot::Bars { title: "answers a second".to_owned(), value: Axis::log("answers/s"), bars },
        Plot::Bars {
            title: "what a request of 5 ms waits for, by who gets it".to_owned(),
            value: Axis::log("latency of short requests, ms"),
            bars: waits,
        },
    ];
    let answers = answers(closed, &systems, sizes);
    notes.extend(differences(dispatch));
    Outcome { tables, plots, answers, notes, data: json!({ "closed": closed, "dispatch": dispatch }) }
}

/// Where dispatch came out differently from what was written down first.
fn differences(dispatch: &[DispatchRun]) -> Vec<String> {
    let median = |way: &str| {
        Spread::of(dispatch.iter().filter(|it| it.way == way).map(|it| it.short.p50_ms)).map(|it| it.median)
    };
    let Some(random) = median(DISPATCH[0].2) else { return Vec::new() };
    let others = DISPATCH[1..].iter().filter_map(|(.., way)| Some((way, median(way)?)));
    others
        .filter(|(_, median)| *median * 2.0 > random)
        .map(|(way, median)| {
            format!(
                "dispatch {way}: the median of short requests is {} ms, and at random {} ms: less than half was expected",
                digits(median),
                digits(random)
            )
        })
        .collect()
}

fn answers(closed: &[ClosedRun], systems: &[System], sizes: Sizes) -> Vec<Answer> {
    let rate = |model: Model, work: Work| {
        let system = System::Model(model);
        let runs = closed.iter().filter(|it| it.system == Some(system) && it.work == work);
        systems
            .contains(&system)
            .then(|| Spread::of(runs.map(|it| it.run.rate)))
            .flatten()
            .map(|it| it.median)
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut answers = Vec::new();
    if let (Some(processes), Some(prefork)) =
        (rate(Model::ProcessPerConnection, Work::Block), rate(Model::Prefork, Work::Block))
    {
        let most = sizes.clients as f64 / WORK_MS * 1e3;
        answers.push(Answer {
            claim: 1,
            verdict: Verdict::of(processes.min(prefork) > most / 2.0),
            evidence: format!(
                "{} clients that block for 5 ms each got {} answers/s from a process each and {} from prefork; if blocking blocked anybody else it were {}",
                sizes.clients,
                digits(processes),
                digits(prefork),
                digits(1e3 / WORK_MS)
            ),
        });
    }
    let gain = |model: Model| Some(rate(model, Work::Compute)? / (1e3 / WORK_MS));
    if let (Some(hybrid), Some(events)) = (gain(Model::Hybrid), gain(Model::EventWorkers)) {
        answers.push(Answer {
            claim: 8,
            verdict: if cores < 2 { Verdict::NotMeasured } else { Verdict::of(hybrid > 1.3) },
            evidence: format!(
                "on {cores} cores the hybrid did {} times the work for the processor that one core can, event workers {} times",
                digits(hybrid),
                digits(events)
            ),
        });
    }
    let connect = |model| rate(model, Work::Connect);
    if let (Some(prefork), Some(each), Some(pool), Some(thread)) = (
        connect(Model::Prefork),
        connect(Model::ProcessPerConnection),
        connect(Model::ThreadPool),
        connect(Model::ThreadPerConnection),
    ) {
        let failures = |model| {
            let system = Some(System::Model(model));
            closed.iter().filter(|it| it.system == system).map(|it| it.run.failures).sum::<u64>()
        };
        let failed = failures(Model::Prefork) + failures(Model::ProcessPerConnection);
        answers.push(Answer {
            claim: 4,
            verdict: Verdict::of(failed == 0 && prefork > each),
            evidence: format!(
                "with a connection for each request prefork gave {} answers/s and a process started for each {}, \
                 a thread pool {} and a thread started for each {}; of the two with processes {failed} requests failed",
                digits(prefork),
                digits(each),
                digits(pool),
                digits(thread)
            ),
        });
    }
    answers
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        rounds: 1,
        clients: 8,
        warm_up: Duration::ZERO,
        time: Duration::ZERO,
        workers: 8,
        open: Duration::ZERO,
    };

    fn run(rate: f64, p50_ms: f64) -> Run {
        Run { rate, p50_ms, p99_ms: p50_ms * 2.0, p999_ms: p50_ms * 3.0, failures: 0 }
    }

    fn closed(model: Model, work: Work, rate: f64) -> ClosedRun {
        ClosedRun { system: Some(System::Model(model)), work, run: run(rate, 1.0) }
    }

    fn dispatch(way: &'static str, p50_ms: f64) -> DispatchRun {
        DispatchRun { way, all: run(100.0, p50_ms), short: run(100.0, p50_ms) }
    }

    #[test]
    fn the_workers_are_given_what_they_can_do_seven_tenths_of_the_time() {
        // 24.5 ms on average.
        assert!((rate(8) - 0.7 * 8.0 / 0.0245).abs() < 0.01, "{}", rate(8));
    }

    #[test]
    fn blocking_that_is_side_by_side_holds_and_one_after_the_other_does_not() {
        let verdict = |rate: f64| {
            let runs = [
                closed(Model::ProcessPerConnection, Work::Block, rate),
                closed(Model::Prefork, Work::Block, rate),
            ];
            let outcome = outcome(&runs, &[], SIZES, Vec::new());
            outcome.answers.iter().find(|it| it.claim == 1).map(|it| it.verdict)
        };
        assert_eq!(verdict(1500.0), Some(Verdict::Held));
        assert_eq!(verdict(200.0), Some(Verdict::DidNotHold));
    }

    #[test]
    fn who_waits_as_long_as_at_random_is_noted() {
        let runs =
            [dispatch(DISPATCH[0].2, 80.0), dispatch(DISPATCH[1].2, 6.0), dispatch(DISPATCH[2].2, 70.0)];
        let notes = differences(&runs);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("prefork"), "{notes:?}");
    }

    #[test]
    fn each_way_is_a_row_whatever_the_number_of_rounds() {
        let runs: Vec<_> =
            [80.0, 90.0].into_iter().flat_map(|p50| DISPATCH.map(|(.., way)| dispatch(way, p50))).collect();
        let outcome = outcome(&[], &runs, SIZES, Vec::new());
        let rows = &outcome.tables.last().unwrap().rows;
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0][1], "85.0 (80.0–90.0)");
    }
}
