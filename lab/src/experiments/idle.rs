//! Idle: what workers cost that wait, and connections that are only held.
//!
//! First nobody comes. Systems are started with few workers and with more, and left alone: what a further worker adds
//! in memory is the price of having it ready, and how often it wakes up is the price in processor time. Then clients come
//! one after another, each with a connection of its own: how much sooner they are answered is what it buys.
//!
//! Then many come who ask once and keep their connections, as browsers do. Where a worker belongs to its client until the
//! client goes, all workers are soon held by clients who want nothing, and whoever comes next is not served. Memory is
//! told per connection that was answered, and twice: as processes show it (PSS), and as the kernel charges it to the
//! control group, with what it holds for them itself.
//!
//! Expected: a waiting process costs some hundred KiB, a waiting thread some ten, and neither wakes up; a client's first answer
//! comes sooner from one that waits than from a process that is started for it. With prefork, a
//! thread pool and the hybrid, exactly as many are answered as there are workers, and a newcomer is not; he is as soon as the
//! others have gone. With a process or a thread for each connection everybody is served and each costs as much as a
//! worker; event workers and Bulkhead serve everybody, and a parked connection costs them a few KiB.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::json;

use super::{Bench, Experiment};
use crate::findings::{Answer, Axis, Bar, Outcome, Plot, Table, Verdict, surprise};
use crate::load::crowd::{Crowd, MOST, raise_open_files};
use crate::servers::Model;
use crate::stats::Spread;
use crate::systems::{Shape, System, Usage};

pub(super) const QUESTION: &str =
    "What does a worker cost that waits, and who is served when idle connections hold on?";
pub(super) const METHOD: &str = "Waiting: each system is started with few workers and with more, and left alone; \
     then clients come one after another. Parked: as many clients as told connect all at once, ask once, and keep their connections; when nobody more is answered a newcomer asks. \
     PSS is memory as processes show it; charged is what the kernel books on the control group, its own share included.";

/// Workers that parked connections find.
const WORKERS: usize = 8;

/// A system that is left alone.
#[derive(Debug, Clone, Copy, Serialize)]
struct Waiting {
    system: System,
    workers: usize,
    #[serde(flatten)]
    usage: Usage,
    charged_kib: Option<f64>,
    wakeups_per_s: f64,
    /// From connecting to the answer, of clients who come one after another; the median.
    first_answer_ms: f64,
}

/// A system whose clients hold on.
#[derive(Debug, Clone, Copy, Serialize)]
struct Parked {
    system: System,
    connections: usize,
    answered: usize,
    /// Whether a newcomer was served beside them.
    newcomer: bool,
    /// Whether one was served after they had gone.
    afterwards: bool,
    pss_kib_each: Option<f64>,
    charged_kib_each: Option<f64>,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let rounds = bench.size.pick(1, 1, 3);
    let workers = bench.size.pick([2, 8], [4, 16], [8, 64]);
    let parked: &[usize] = bench.size.pick(&[24], &[100], &[100, 1000]);
    let quiet =
        bench.size.pick(Duration::from_millis(300), Duration::from_millis(300), Duration::from_secs(3));
    let silence = bench.size.pick(Duration::from_secs(3), Duration::from_millis(500), Duration::from_secs(2));
    raise_open_files();
    let (systems, mut notes) = super::here(&super::ONE_OF_EACH_COST, bench);
    let progress = bench.progress(Experiment::Idle, rounds * systems.len() * (workers.len() + parked.len()));
    let (mut waiting, mut held) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for &system in &systems {
            for workers in workers {
                progress.doing(&format!("{system}, {workers} workers that wait"));
                match wait(system, workers, quiet, bench) {
                    Ok(it) => waiting.push(it),
                    // It costs its own row, and not what is known of the others.
                    Err(error) => notes.push(format!("{system}, {workers} workers: not measured: {error:#}")),
                }
                progress.step();
            }
            for &connections in parked {
                progress.doing(&format!("{system}, {connections} connections parked"));
                match park(system, connections.min(MOST), silence, bench) {
                    Ok(it) => held.push(it),
                    Err(error) => {
                        notes.push(format!("{system}, {connections} parked: not measured: {error:#}"));
                    }
                }
                progress.step();
            }
        }
    }
    notes.push(format!("connections are parked at {WORKERS} workers, where a system has workers in advance"));
    notes.push("event workers are as many as there are cores, two at least, whatever is asked for; a further one is not told".to_owned());
    notes.extend(super::left_out(&super::ONE_OF_EACH_COST, super::WHY_ONE_OF_EACH));
    Ok(outcome(&systems, &waiting, &held, notes))
}

fn wait(system: System, workers: usize, quiet: Duration, bench: &Bench) -> anyhow::Result<Waiting> {
    let running = bench.start(system, &Shape::of(workers))?;
    let before = settled(|| running.usage())?;
    let started = Instant::now();
    std::thread::sleep(quiet);
    let usage = running.usage();
    let switches = usage.switches.voluntary.saturating_sub(before.switches.voluntary);
    Ok(Waiting {
        system,
        workers,
        usage,
        charged_kib: running.compartment.charged().map(|bytes| bytes as f64 / 1024.0),
        wakeups_per_s: switches as f64 / started.elapsed().as_secs_f64(),
        first_answer_ms: first_answer_ms(running.address)?,
    })
}

/// Lets clients come one after another, each with a connection of its own.
fn first_answer_ms(address: SocketAddr) -> anyhow::Result<f64> {
    const CLIENTS: usize = 15;
    let one = || -> io::Result<f64> {
        let came = Instant::now();
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /work?ms=0 HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
        if stream.read(&mut [0; 512])? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(came.elapsed().as_secs_f64() * 1e3)
    };
    let times: Vec<f64> =
        (0..CLIENTS).map(|_| one()).collect::<io::Result<_>>().context("a client was not answered")?;
    Ok(Spread::of(times).context("there were no clients")?.median)
}

/// Waits until nobody is started any more.
pub(super) fn settled(usage: impl Fn() -> Usage) -> anyhow::Result<Usage> {
    let until = Instant::now() + Duration::from_secs(20);
    let mut before = usage();
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = usage();
        if (now.processes, now.threads) == (before.processes, before.threads) {
            return Ok(now);
        }
        if Instant::now() > until {
            bail!("its processes and threads still change after 20 s: {before:?}, then {now:?}");
        }
        before = now;
    }
}

fn park(system: System, connections: usize, silence: Duration, bench: &Bench) -> anyhow::Result<Parked> {
    let running = bench.start(system, &Shape::of(WORKERS))?;
    // Whoever runs the same program shares its pages and takes some off everybody's PSS: so they are there from the beginning.
    let mut crowd = Crowd::start(running.address, 0)?;
    let mut other = Crowd::start(running.address, 1)?;
    crowd.newcomer(silence)?;
    other.newcomer(silence)?;
    let before = (settled(|| running.usage())?, running.compartment.charged());
    let opened = crowd.throng(connections, silence)?;
    let after = (running.usage(), running.compartment.charged());
    let newcomer = other.newcomer(silence)?;
    drop(crowd);
    let afterwards = other.newcomer(Duration::from_secs(20))?;
    let each = |before: Option<u64>, after: Option<u64>| {
        let (before, after) = before.zip(after)?;
        Some((after as f64 - before as f64) / opened.answered.max(1) as f64)
    };
    Ok(Parked {
        system,
        connections,
        answered: opened.answered,
        newcomer,
        afterwards,
        pss_kib_each: each(before.0.pss_kib, after.0.pss_kib),
        charged_kib_each: each(before.1, after.1).map(|bytes| bytes / 1024.0),
    })
}

impl Parked {
    /// As the kernel charges it, and where it does not, as processes show it.
    fn kib_each(&self) -> Option<f64> {
        self.charged_kib_each.or(self.pss_kib_each)
    }
}

/// Whether a worker of this system belongs to its client for as long as the client stays, and there are only so many.
fn is_held_by_its_clients(system: System) -> bool {
    matches!(system, System::Model(Model::Prefork | Model::ThreadPool | Model::Hybrid))
}

/// Whether workers are started in advance, as many as asked for.
fn has_workers_in_advance(system: System) -> bool {
    is_held_by_its_clients(system) || matches!(system, System::Bulkhead(_))
}

fn outcome(systems: &[System], waiting: &[Waiting], parked: &[Parked], mut notes: Vec<String>) -> Outcome {
    for it in parked.iter().filter(|it| !as_expected(it)) {
        let served = |served: bool| if served { "served" } else { "not served" };
        let words = |(answered, newcomer, afterwards): (usize, bool, bool)| {
            format!("{answered} answered, a newcomer {}, afterwards {}", served(newcomer), served(afterwards))
        };
        notes.push(surprise(
            &format!("{} with {} parked connections", it.system, it.connections),
            &words((it.answered, it.newcomer, it.afterwards)),
            &words(expected(it)),
        ));
    }
    let bars = systems.iter().filter_map(|&system| {
        let of = parked.iter().filter(|it| it.system == system);
        let most = of.clone().map(|it| it.connections).max()?;
        let most = of.filter(|it| it.connections == most && it.answered == it.connections);
        let value = Spread::of(most.filter_map(Parked::kib_each))?;
        Some(Bar { name: system.name().to_owned(), group: "parked".to_owned(), value })
    });
    let plot = Plot::Bars {
        title: "memory for each parked connection, where all were answered".to_owned(),
        value: Axis::linear("KiB"),
        bars: bars.collect(),
    };
    Outcome {
        tables: vec![waiting_table(systems, waiting), parked_table(systems, parked)],
        plots: vec![plot],
        answers: answers(waiting, parked),
        notes,
        data: json!({ "waiting": waiting, "parked": parked }),
    }
}

/// How many are answered, whether a newcomer is served beside them, and whether one is afterwards.
fn expected(it: &Parked) -> (usize, bool, bool) {
    match is_held_by_its_clients(it.system) {
        true => (it.connections.min(WORKERS), it.connections < WORKERS, true),
        false => (it.connections, true, true),
    }
}

fn as_expected(it: &Parked) -> bool {
    (it.answered, it.newcomer, it.afterwards) == expected(it)
}

/// What a further worker adds, from the fewest workers to the most, round by round.
fn each_further(
    system: System,
    waiting: &[Waiting],
    figure: impl Fn(&Waiting) -> Option<f64>,
) -> Option<Spread> {
    let of = || waiting.iter().filter(|it| it.system == system);
    let (few, many) = (of().map(|it| it.workers).min()?, of().map(|it| it.workers).max()?);
    let with = |workers: usize| of().filter(move |it| it.workers == workers).map(&figure);
    let added = with(few).zip(with(many)).filter_map(|(few, many)| Some((few?, many?)));
    if few == many {
        return None;
    }
    Spread::of(added.map(|(less, more)| (more - less) / (many - few) as f64))
}

fn pss_kib(it: &Waiting) -> Option<f64> {
    it.usage.pss_kib.map(|kib| kib as f64)
}

fn cell(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |it| it.to_string())
}

fn waiting_table(systems: &[System], waiting: &[Waiting]) -> Table {
    let mut table = Table::new(
        "workers that wait, nobody comes",
        &[
            "system",
            "workers",
            "processes",
            "threads",
            "PSS, MiB",
            "wake-ups/s",
            "first answer, ms",
            "PSS each further, KiB",
            "charged each further, KiB",
        ],
    );
    for &system in systems {
        let of = || waiting.iter().filter(|it| it.system == system);
        let Some(most) = of().map(|it| it.workers).max() else { continue };
        let spread = |figure: fn(&Waiting) -> Option<f64>| {
            cell(Spread::of(of().filter(|it| it.workers == most).filter_map(figure)))
        };
        let further = |figure: fn(&Waiting) -> Option<f64>| match has_workers_in_advance(system) {
            true => cell(each_further(system, waiting, figure)),
            false => "–".to_owned(),
        };
        table.row([
            system.name().to_owned(),
            if has_workers_in_advance(system) { most.to_string() } else { "–".to_owned() },
            spread(|it| Some(it.usage.processes as f64)),
            spread(|it| Some(it.usage.threads as f64)),
            spread(|it| it.usage.pss_mib()),
            spread(|it| Some(it.wakeups_per_s)),
            spread(|it| Some(it.first_answer_ms)),
            further(pss_kib),
            further(|it| it.charged_kib),
        ]);
    }
    table
}

fn parked_table(systems: &[System], parked: &[Parked]) -> Table {
    let mut table = Table::new(
        "connections that are held and idle",
        &["system", "parked", "answered", "a newcomer", "PSS each, KiB", "charged each, KiB"],
    );
    let mut counts: Vec<usize> = parked.iter().map(|it| it.connections).collect();
    counts.sort_unstable();
    counts.dedup();
    for &system in systems {
        for &connections in &counts {
            let of = || parked.iter().filter(|it| it.system == system && it.connections == connections);
            let served = of().filter(|it| it.newcomer).count();
            table.row([
                system.name().to_owned(),
                connections.to_string(),
                cell(Spread::of(of().map(|it| it.answered as f64))),
                match served {
                    0 => "not served".to_owned(),
                    all if all == of().count() => "served".to_owned(),
                    some => format!("served in {some} of {} rounds", of().count()),
                },
                cell(Spread::of(of().filter_map(|it| it.pss_kib_each))),
                cell(Spread::of(of().filter_map(|it| it.charged_kib_each))),
            ]);
        }
    }
    table
}

fn answers(waiting: &[Waiting], parked: &[Parked]) -> Vec<Answer> {
    let prefork = System::Model(Model::Prefork);
    let memory = each_further(prefork, waiting, pss_kib);
    let wakes = each_further(prefork, waiting, |it| Some(it.wakeups_per_s));
    let mut answers = Vec::new();
    let first_answer = |system: System| {
        let of = || waiting.iter().filter(move |it| it.system == system);
        let most = of().map(|it| it.workers).max();
        Spread::of(of().filter(|it| Some(it.workers) == most).map(|it| it.first_answer_ms))
    };
    let started = first_answer(System::Model(Model::ProcessPerConnection));
    if let (Some(memory), Some(wakes), Some(ready), Some(started)) =
        (memory, wakes, first_answer(prefork), started)
    {
        answers.push(Answer {
            claim: 3,
            verdict: are_wasted(memory.median, wakes.median, started.median / ready.median),
            evidence: format!(
                "a prefork worker that waits costs {memory} KiB and wakes up {wakes} times a second; a client's first answer \
                 comes after {ready} ms where workers wait and after {started} ms where a process is started for it",
            ),
        });
    }
    let of = |system: System| parked.iter().filter(move |it| it.system == system);
    let events = System::Model(Model::EventWorkers);
    let each = |system: System| {
        let most = of(system).map(|it| it.connections).max();
        Spread::of(of(system).filter(|it| Some(it.connections) == most).filter_map(Parked::kib_each))
    };
    if let (Some(event), Some(process)) = (each(events), each(System::Model(Model::ProcessPerConnection))) {
        let held = of(events).all(|it| it.answered == it.connections && it.newcomer);
        let sum = |figure: fn(&Parked) -> usize| of(events).map(figure).sum::<usize>();
        answers.push(Answer {
            claim: 9,
            verdict: Verdict::of(held && event.median < process.median),
            evidence: format!(
                "event workers answered {} of {} connections that were then held idle, and a newcomer beside them in {} of {} rounds; \
                 each took {event} KiB, and {process} KiB with a process for each",
                sum(|it| it.answered),
                sum(|it| it.connections),
                of(events).filter(|it| it.newcomer).count(),
                of(events).count(),
            ),
        });
    }
    answers
}

/// Whether workers that wait are wasted: what they cost in KiB and wake-ups a second, against how many times sooner they
/// answer than one that is started first. What costs and buys nothing is wasted; what costs and buys something is in part;
/// what costs next to nothing is not.
fn are_wasted(kib: f64, wakes_per_s: f64, times_sooner: f64) -> Verdict {
    /// A process's table of pages alone is larger.
    const NEXT_TO_NOTHING_KIB: f64 = 16.0;
    /// Less may be chance.
    const SOONER: f64 = 1.5;
    match (kib > NEXT_TO_NOTHING_KIB || wakes_per_s >= 1.0, times_sooner > SOONER) {
        (true, false) => Verdict::Held,
        (true, true) => Verdict::InPart,
        (false, _) => Verdict::DidNotHold,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    fn parked(model: Model, answered: usize, newcomer: bool) -> Parked {
        Parked {
            system: System::Model(model),
            connections: 100,
            answered,
            newcomer,
            afterwards: true,
            pss_kib_each: Some(1.0),
            charged_kib_each: None,
        }
    }

    #[test]
    fn who_has_a_worker_for_each_client_serves_no_more_than_that() {
        assert!(as_expected(&parked(Model::Prefork, WORKERS, false)));
        assert!(!as_expected(&parked(Model::Prefork, 100, true)));
        assert!(as_expected(&parked(Model::EventWorkers, 100, true)));
        assert!(!as_expected(&parked(Model::EventWorkers, 100, false)));
        let stuck = Parked { afterwards: false, ..parked(Model::ThreadPool, WORKERS, false) };
        assert!(!as_expected(&stuck), "whoever comes after all have gone is served");
    }

    #[test]
    fn what_a_worker_costs_is_what_it_adds() {
        let prefork = System::Model(Model::Prefork);
        let waiting = |workers: usize, pss_kib: u64| Waiting {
            system: prefork,
            workers,
            usage: Usage { pss_kib: Some(pss_kib), ..Usage::default() },
            charged_kib: None,
            wakeups_per_s: 0.0,
            first_answer_ms: 0.1,
        };
        let rounds = [waiting(4, 5000), waiting(16, 9800), waiting(4, 5200), waiting(16, 10_240)];
        let each = each_further(prefork, &rounds, pss_kib).unwrap();
        assert_eq!((each.low, each.high), (400.0, 420.0));
    }

    #[test]
    fn workers_that_wait_are_wasted_if_they_cost_something_and_answer_no_sooner() {
        assert_eq!(are_wasted(400.0, 0.0, 1.0), Verdict::Held);
        assert_eq!(are_wasted(400.0, 0.0, 8.0), Verdict::InPart);
        assert_eq!(are_wasted(4.0, 0.0, 8.0), Verdict::DidNotHold);
    }
}
