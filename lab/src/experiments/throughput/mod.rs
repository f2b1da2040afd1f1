//! Throughput: how many answers a second, and how long the slow ones take.
//!
//! First, each system in a *closed loop*: as many clients as it has workers for, each asking again when it has been
//! answered. With no work it shows what a model itself costs; with a connection for each request, what it costs to begin
//! with a client; with 5 ms of blocking, whether all clients can
//! be blocked at a time; with 5 ms of computing, whether the work is spread over the cores. What computes uses up 5 ms of
//! a processor's time: no core can do more than 200 of these a second, whoever has to wait for it. As a control, a thread
//! for each client is kept to one core, and has to do what one core can.
//!
//! Second, *dispatch* in an *open loop*: requests come at random intervals, at 70% of what the workers can do; nine of ten
//! take 5 ms, the tenth takes 200 ms. All systems here have the same number of workers that do one thing at a time, and
//! differ in who gets the next request: any (at random), or one that is idle. In prefork the kernel gives a connection to a
//! child that waits for one; Bulkhead's door gives a request to a worker that has said that it is idle. In a thorough
//! measurement every system is given the same mix, in workers or threads as many.
//!
//! Expected: with no work, the fewer steps the faster: threads and event loops first, a process started for each
//! connection costs nothing once its client keeps it, FastCGI and Bulkhead pay for a hop. With a connection for each request
//! that process is started each time: the slowest of all. With blocking all are equal,
//! workers divided by 5 ms: that is claim 1. With computing all are equal, cores divided by 5 ms, but tails differ.
//! At random, short requests wait behind long ones while other workers are idle: the median of the short ones
//! is many times their 5 ms; where only the idle are given work most of them wait for nobody.

mod dispatch;
mod outcome;

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::{Bench, Experiment};
use crate::cores;
use crate::findings::Outcome;
use crate::load::{self, Connections, Latencies, Plan, Shape as LoadShape, Tally};
use crate::servers::Model;
use crate::servers::splitter::Choice;
use crate::systems::{Backend, Running, Shape, System};

pub(super) const QUESTION: &str =
    "How many answers a second does each system give, and what is idle-aware dispatch worth?";
pub(super) const METHOD: &str = "Closed loop, kept connections but where it says otherwise, a warm-up before each run. The load generator is measured the same way against an answerer that does nothing else, without a warm-up: that is a figure of both. \
     Computing: 5 ms of processor time of the thread that answers. \
     Dispatch: open loop (Poisson), other arrivals in each round and the same for all systems of a round, 70% of the workers' capacity, 90% of requests take 5 ms and 10% take 200 ms; a latency counts from when the request was due, and what is due in a warm-up does not count. \
     Medians over rounds in which all systems are taken in turn; a quantile with fewer than ten answers above it in a round is too few to tell.";

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
            Self::Compute => "/cpu?burn_ms=5",
        }
    }

    fn connections(self) -> Connections {
        match self {
            Self::Connect => Connections::OneForEach,
            Self::Nothing | Self::Block | Self::Compute => Connections::Kept,
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
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Run {
    rate: f64,
    /// Of latencies, in ms; `None`: there are too few for it to stand.
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    p999_ms: Option<f64>,
    failures: u64,
    /// For what share of the time the load generator's one thread was busy.
    busy: f64,
    /// In an open loop, how late a request was sent at the latest.
    latest_ms: f64,
}

/// Whom the clients of a closed loop asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Asked {
    System(System),
    /// An answerer that does nothing else: what comes of that is the generator's and this sink's.
    Sink,
    /// A thread for each client, all of them kept to one core.
    OneCore,
}

#[derive(Debug, Clone, Serialize)]
struct ClosedRun {
    asked: Asked,
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

/// The mix of short and long requests, over one system.
#[derive(Debug, Clone, Serialize)]
struct MixRun {
    system: System,
    /// All requests.
    all: Run,
    /// Those that take 5 ms.
    short: Run,
}

/// All that was measured.
#[derive(Debug, Clone, Default, Serialize)]
struct Figures {
    closed: Vec<ClosedRun>,
    dispatch: Vec<DispatchRun>,
    mixed: Vec<MixRun>,
}

impl Run {
    fn of(tally: &Tally) -> Self {
        Self::with(tally, &tally.latency())
    }

    fn with(tally: &Tally, latency: &Latencies) -> Self {
        Self {
            rate: tally.rate(),
            p50_ms: latency.quantile_that_stands_ms(0.5),
            p95_ms: latency.quantile_that_stands_ms(0.95),
            p99_ms: latency.quantile_that_stands_ms(0.99),
            p999_ms: latency.quantile_that_stands_ms(0.999),
            failures: tally.failures(),
            busy: tally.busy,
            latest_ms: tally.latest.as_secs_f64() * 1e3,
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
    /// Of an open loop, before requests count.
    open_warm_up: Duration,
    open: Duration,
    /// `None`: only those are given the mix of requests that differ in who gets the next one.
    mix: Option<Duration>,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let millis = |smallest, quick, full| Duration::from_millis(bench.size.pick(smallest, quick, full));
    let sizes = Sizes {
        rounds: bench.size.pick(1, 1, 3),
        clients: bench.size.pick(4, 8, 16),
        warm_up: millis(50, 30, 200),
        time: millis(150, 150, 1000),
        workers: bench.size.pick(8, 8, 8),
        open_warm_up: millis(200, 200, 500),
        open: millis(2000, 1200, 6000),
        mix: bench.size.pick(None, None, Some(Duration::from_secs(3))),
    };
    let roll = bench.systems();
    let (here, missing): (Vec<_>, Vec<_>) =
        DISPATCH.into_iter().partition(|(system, ..)| system.missing(bench.bulkhead.as_deref()).is_none());
    let steps = (roll.here.len() + 2 + here.len()) * sizes.rounds;
    let progress = bench.progress(Experiment::Throughput, steps);
    let mut figures = Figures::default();
    let mut not_run: Vec<String> =
        roll.missing.iter().map(|(system, why)| format!("{system}: not run: {why}")).collect();
    not_run.extend(missing.iter().map(|(.., way)| format!("dispatch {way}: not run, for the same reason")));
    // What fails costs its own row, and not what is known of the others.
    for seed in (1..).take(sizes.rounds) {
        progress.doing("the load generator itself");
        for work in [Work::Nothing, Work::Connect] {
            let time = sizes.time.max(Duration::from_millis(500));
            match load::limit(sizes.clients, work.connections(), time) {
                Ok(tally) => {
                    figures.closed.push(ClosedRun { asked: Asked::Sink, work, run: Run::of(&tally) });
                }
                Err(error) => not_run.push(format!("the load generator, {}: not run: {error}", work.name())),
            }
        }
        progress.step();
        progress.doing("one core");
        match on_one_core(bench, sizes) {
            Ok(run) => figures.closed.push(ClosedRun { asked: Asked::OneCore, work: Work::Compute, run }),
            Err(error) => not_run.push(format!("the control on one core: not run: {error:#}")),
        }
        progress.step();
        for &system in &roll.here {
            progress.doing(system.name());
            if let Some(time) = sizes.mix {
                match mix(bench, system, sizes, time, seed) {
                    Ok(run) => figures.mixed.push(run),
                    Err(error) => not_run.push(format!("{system}, short and long: not run: {error:#}")),
                }
            }
            if let Err(error) = closed_loops(bench, system, sizes, &mut figures.closed) {
                not_run.push(format!("{system}: not run, or not to the end: {error:#}"));
            }
            progress.step();
        }
        for &(system, connections, way) in &here {
            progress.doing(way);
            match open_loop(bench, system, connections, sizes, sizes.open, seed) {
                Ok((all, short)) => figures.dispatch.push(DispatchRun { way, all, short }),
                Err(error) => not_run.push(format!("dispatch {way}: not run: {error:#}")),
            }
            progress.step();
        }
    }
    Ok(outcome::of(&figures, sizes, cores(), not_run))
}

/// Gives a system each kind of work, one after another.
fn closed_loops(
    bench: &Bench,
    system: System,
    sizes: Sizes,
    into: &mut Vec<ClosedRun>,
) -> anyhow::Result<()> {
    let running = bench.start(system, &Shape::of(sizes.clients + 2))?;
    for work in Work::ALL {
        let run = closed_loop(&running, work, sizes).with_context(|| work.name())?;
        into.push(ClosedRun { asked: Asked::System(system), work, run });
    }
    Ok(())
}

fn closed_loop(running: &Running, work: Work, sizes: Sizes) -> anyhow::Result<Run> {
    let plan = |time| Plan {
        connections: work.connections(),
        ..Plan::closed(running.address, work.target(), sizes.clients, time)
    };
    load::run(plan(sizes.warm_up))?;
    Ok(Run::of(&load::run(plan(sizes.time))?))
}

/// The control: what one core can do of the work for the processor. The clients are kept to no core.
fn on_one_core(bench: &Bench, sizes: Sizes) -> anyhow::Result<Run> {
    let system = System::Model(Model::ThreadPerConnection);
    let all = cores::keep_to(1).context("cannot keep to one core")?;
    let running = bench.start(system, &Shape::of(sizes.clients + 2));
    cores::allow(&all).context("cannot go back to all cores")?;
    closed_loop(&running?, Work::Compute, sizes)
}

/// Gives a system the mix. Where a worker belongs to its client until that goes, clients go after each request.
fn mix(bench: &Bench, system: System, sizes: Sizes, time: Duration, seed: u64) -> anyhow::Result<MixRun> {
    let connections = match system {
        System::Model(Model::Prefork | Model::ThreadPool | Model::Hybrid) => Connections::OneForEach,
        _ => Connections::Kept,
    };
    let (all, short) = open_loop(bench, system, connections, sizes, time, seed)?;
    Ok(MixRun { system, all, short })
}

/// What all requests of the mix said, and the short ones of them.
fn open_loop(
    bench: &Bench,
    system: System,
    connections: Connections,
    sizes: Sizes,
    time: Duration,
    seed: u64,
) -> anyhow::Result<(Run, Run)> {
    let running = bench.start(system, &Shape { seed, ..Shape::of(sizes.workers) })?;
    let plan = Plan {
        targets: vec![(SHORT.0.to_owned(), SHORT.2), (LONG.0.to_owned(), LONG.2)],
        shape: LoadShape::Open { rate: rate(sizes.workers), most: 1000 },
        connections,
        warm_up: sizes.open_warm_up,
        seed,
        ..Plan::closed(running.address, SHORT.0, 0, time)
    };
    let tally = load::run(plan)?;
    let short = tally.latencies.first().cloned().unwrap_or_default();
    Ok((Run::of(&tally), Run::with(&tally, &short)))
}

/// Requests a second that so many workers are given.
fn rate(workers: usize) -> f64 {
    let shares = f64::from(SHORT.2 + LONG.2);
    let mean_ms = (SHORT.1 * f64::from(SHORT.2) + LONG.1 * f64::from(LONG.2)) / shares;
    LOAD * workers as f64 / mean_ms * 1e3
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_are_given_what_they_can_do_seven_tenths_of_the_time() {
        // 24.5 ms on average.
        assert!((rate(8) - 0.7 * 8.0 / 0.0245).abs() < 0.01, "{}", rate(8));
    }
}
