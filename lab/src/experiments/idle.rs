//! Idle: what workers cost that wait, and connections that are only held.
//!
//! First nobody comes. Systems are started with few workers and with more, and left alone: what a further worker adds
//! in memory is the price of having it ready, and how often it wakes up is the price in processor time.
//!
//! Then many come who ask once and keep their connections, as browsers do. Where a worker belongs to its client until the
//! client goes, all workers are soon held by clients who want nothing, and whoever comes next is not served. Memory is
//! told per connection that was answered, and twice: as processes show it (PSS), and as the kernel charges it to the
//! control group, with what it holds for them itself.
//!
//! Expected: a waiting process costs some hundred KiB, a waiting thread some ten, and neither wakes up. With prefork, a
//! thread pool and the hybrid, exactly as many are answered as there are workers, and a newcomer is not; he is as soon as the
//! others have gone. With a process or a thread for each connection everybody is served and each costs as much as a
//! worker; event workers and Bulkhead serve everybody, and a parked connection costs them a few KiB.

use std::time::{Duration, Instant};

use anyhow::bail;
use serde::Serialize;
use serde_json::json;

use super::{Bench, Experiment};
use crate::findings::{Answer, Axis, Bar, Outcome, Plot, Table, Verdict};
use crate::load::crowd::{Crowd, MOST, raise_open_files};
use crate::servers::Model;
use crate::stats::{Spread, digits};
use crate::systems::{Running, Shape, System, Usage};

pub(super) const QUESTION: &str =
    "What does a worker cost that waits, and who is served when idle connections hold on?";
pub(super) const METHOD: &str = "Waiting: each system is started with few workers and with more, and left alone. \
     Parked: as many clients as told connect all at once, ask once, and keep their connections; when nobody more is answered a newcomer asks. \
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
    pss_kib_each: f64,
    charged_kib_each: Option<f64>,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let rounds = bench.size.pick(1, 1, 3);
    let workers = bench.size.pick([2, 8], [4, 16], [8, 64]);
    let parked: &[usize] = bench.size.pick(&[24], &[100], &[100, 1000]);
    let quiet =
        bench.size.pick(Duration::from_millis(300), Duration::from_millis(300), Duration::from_secs(3));
    let silence = bench.size.pick(Duration::from_secs(3), Duration::from_millis(700), Duration::from_secs(2));
    raise_open_files();
    let (systems, mut notes) = super::here(&super::ONE_OF_EACH_COST, bench);
    let progress = bench.progress(Experiment::Idle, rounds * systems.len() * (workers.len() + parked.len()));
    let (mut waiting, mut held) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for &system in &systems {
            for workers in workers {
                progress.doing(&format!("{system}, {workers} workers that wait"));
                waiting.push(wait(system, workers, quiet, bench)?);
                progress.step();
            }
            for &connections in parked {
                progress.doing(&format!("{system}, {connections} connections parked"));
                held.push(park(system, connections.min(MOST), silence, bench)?);
                progress.step();
            }
        }
    }
    notes.push(format!("connections are parked at {WORKERS} workers, where a system has workers in advance"));
    notes.push("event workers are as many as there are cores, two at least, whatever is asked for; a further one is not told".to_owned());
    Ok(outcome(&systems, &waiting, &held, notes))
}

fn wait(system: System, workers: usize, quiet: Duration, bench: &Bench) -> anyhow::Result<Waiting> {
    let running = bench.start(system, &Shape::of(workers))?;
    let before = settled(&running)?;
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
    })
}

/// Waits until nobody is started any more.
fn settled(running: &Running) -> anyhow::Result<Usage> {
    let until = Instant::now() + Duration::from_secs(20);
    let mut before = running.usage();
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = running.usage();
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
    let before = (settled(&running)?, running.compartment.charged());
    let opened = crowd.throng(connections, silence)?;
    let after = (running.usage(), running.compartment.charged());
    let newcomer = other.newcomer(silence)?;
    drop(crowd);
    let afterwards = other.newcomer(Duration::from_secs(20))?;
    let each = |before: f64, after: f64| (after - before) / opened.answered.max(1) as f64;
    Ok(Parked {
        system,
        connections,
        answered: opened.answered,
        newcomer,
        afterwards,
        pss_kib_each: each(before.0.pss_kib as f64, after.0.pss_kib as f64),
        charged_kib_each: before
            .1
            .zip(after.1)
            .map(|(before, after)| each(before as f64 / 1024.0, after as f64 / 1024.0)),
    })
}

impl Parked {
    /// As the kernel charges it, and where it does not, as processes show it.
    fn kib_each(&self) -> f64 {
        self.charged_kib_each.unwrap_or(self.pss_kib_each)
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
        notes.push(format!(
            "other than expected: {} with {} parked connections: {} answered, a newcomer {}",
            it.system,
            it.connections,
            it.answered,
            if it.newcomer { "served" } else { "not served" }
        ));
    }
    let bars = systems.iter().filter_map(|&system| {
        let of = parked.iter().filter(|it| it.system == system);
        let most = of.clone().map(|it| it.connections).max()?;
        let most = of.filter(|it| it.connections == most && it.answered == it.connections);
        let value = Spread::of(most.map(Parked::kib_each))?;
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

fn as_expected(it: &Parked) -> bool {
    let (answered, newcomer) = match is_held_by_its_clients(it.system) {
        true => (it.connections.min(WORKERS), it.connections < WORKERS),
        false => (it.connections, true),
    };
    (it.answered, it.newcomer, it.afterwards) == (answered, newcomer, true)
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
            "PSS each further, KiB",
            "charged each further, KiB",
        ],
    );
    for &system in systems {
        let of = || waiting.iter().filter(|it| it.system == system);
        let Some(most) = of().map(|it| it.workers).max() else { continue };
        let spread =
            |figure: fn(&Waiting) -> f64| cell(Spread::of(of().filter(|it| it.workers == most).map(figure)));
        let further = |figure: fn(&Waiting) -> Option<f64>| match has_workers_in_advance(system) {
            true => cell(each_further(system, waiting, figure)),
            false => "–".to_owned(),
        };
        table.row([
            system.name().to_owned(),
            if has_workers_in_advance(system) { most.to_string() } else { "–".to_owned() },
            spread(|it| it.usage.processes as f64),
            spread(|it| it.usage.threads as f64),
            spread(|it| it.usage.pss_kib as f64 / 1024.0),
            spread(|it| it.wakeups_per_s),
            further(|it| Some(it.usage.pss_kib as f64)),
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
                cell(Spread::of(of().map(|it| it.pss_kib_each))),
                cell(Spread::of(of().filter_map(|it| it.charged_kib_each))),
            ]);
        }
    }
    table
}

fn answers(waiting: &[Waiting], parked: &[Parked]) -> Vec<Answer> {
    let prefork = System::Model(Model::Prefork);
    let memory = each_further(prefork, waiting, |it| Some(it.usage.pss_kib as f64));
    let wakes = each_further(prefork, waiting, |it| Some(it.wakeups_per_s));
    let mut answers = Vec::new();
    if let (Some(memory), Some(wakes)) = (memory, wakes) {
        answers.push(Answer {
            claim: 3,
            verdict: match (memory.median > 0.0, wakes.median >= 1.0) {
                (true, true) => Verdict::Held,
                // Memory it costs, processor time it does not.
                (true, false) | (false, true) => Verdict::InPart,
                (false, false) => Verdict::DidNotHold,
            },
            evidence: format!(
                "a prefork worker that waits costs {} KiB and wakes up {} times a second",
                digits(memory.median),
                digits(wakes.median)
            ),
        });
    }
    let of = |system: System| parked.iter().filter(move |it| it.system == system);
    let events = System::Model(Model::EventWorkers);
    let each = |system: System| {
        let most = of(system).map(|it| it.connections).max();
        Spread::of(of(system).filter(|it| Some(it.connections) == most).map(Parked::kib_each))
    };
    if let (Some(event), Some(process)) = (each(events), each(System::Model(Model::ProcessPerConnection))) {
        let held = of(events).all(|it| it.answered == it.connections && it.newcomer);
        answers.push(Answer {
            claim: 9,
            verdict: Verdict::of(held && event.median < process.median),
            evidence: format!(
                "event workers held every idle connection for {} KiB each and served a newcomer; a process for each takes {} KiB",
                digits(event.median.max(0.0)),
                digits(process.median)
            ),
        });
    }
    answers
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
            pss_kib_each: 1.0,
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
            usage: Usage { pss_kib, ..Usage::default() },
            charged_kib: None,
            wakeups_per_s: 0.0,
        };
        let rounds = [waiting(4, 5000), waiting(16, 9800), waiting(4, 5200), waiting(16, 10_240)];
        let each = each_further(prefork, &rounds, |it| Some(it.usage.pss_kib as f64)).unwrap();
        assert_eq!((each.low, each.high), (400.0, 420.0));
        let claim = &answers(&rounds, &[])[0];
        assert_eq!(
            (claim.claim, claim.verdict),
            (3, Verdict::InPart),
            "it never wakes up: {}",
            claim.evidence
        );
    }
}
