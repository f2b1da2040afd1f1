//! Peers: Bulkhead beside the servers that it has to be better than, in one run.
//!
//! Expected: a server of files (Apache, nginx) answers more than one that runs a page for each request; each of those
//! that run pages loses the request that a killed process held, and Bulkhead gives it to another.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Signal, kill_process};
use serde::Serialize;
use serde_json::json;

use super::chaos::kill_one;
use super::{Bench, Experiment};
use crate::findings::{Axis, Bar, Outcome, Plot, Table};
use crate::load::{self, Connections, Plan};
use crate::progress::Progress;
use crate::stats::Spread;
use crate::storm;
use crate::systems::{Running, Shape, System};

pub(super) const QUESTION: &str =
    "How does Bulkhead compare with the servers of its kind that are installed here?";
pub(super) const METHOD: &str = "8 workers each. Requests/s: closed loop, 16 clients on kept connections, /work?ms=0, or a file where \
     a server runs no page. Kills: closed loop, 8 clients, /work?ms=5, SIGKILL to the longest-running serving process. Capacity \
     back: from a kill until 8 requests of 50 ms at once take less than 75 ms. Memory: PSS of all its processes before any load.";

const WORKERS: usize = 8;

/// What was measured of one system in one round.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    system: System,
    rate: f64,
    lost_per_kill: f64,
    back_ms: Option<f64>,
    pss_mib: f64,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let roll = System::peers(bench.bulkhead.as_deref());
    let (systems, missing) = (&roll.here, roll.notes());
    if systems.len() < 2 {
        bail!("there is nothing to compare:\n  {}", missing.join("\n  "));
    }
    let rounds = bench.size.pick(1, 1, 5);
    let progress = bench.progress(Experiment::Peers, rounds * systems.len());
    let mut all = Vec::new();
    for _ in 0..rounds {
        for &system in systems {
            progress.doing(system.name());
            all.push(round(system, bench).with_context(|| format!("{system} could not be measured"))?);
            progress.step();
        }
    }
    Ok(outcome(&all, systems, missing))
}

fn round(system: System, bench: &Bench) -> anyhow::Result<Round> {
    let running = bench.start(system, &Shape::of(WORKERS))?;
    let pss_mib = running.usage().pss_kib as f64 / 1024.0;
    let time = Duration::from_millis(bench.size.pick(300, 500, 4000));
    let rate = load::run(Plan::closed(running.address, "/work?ms=0", 2 * WORKERS, time))?.rate();

    let (time, every) = bench.size.pick((900, 300), (900, 300), (6000, 500));
    let mut plan = Plan::closed(running.address, "/work?ms=5", WORKERS, Duration::from_millis(time));
    plan.patience = Duration::from_secs(2);
    let every = Some(Duration::from_millis(every));
    let weather = storm::run(plan, every, &Progress::hidden(), || kill_one(system, &running))?;
    let unanswered = (weather.failed + weather.lost) as f64;
    let lost_per_kill = unanswered / weather.killed().max(1) as f64;

    let back_ms =
        if system.blocks() { Some(capacity_back(system, &running)?.as_secs_f64() * 1e3) } else { None };
    Ok(Round { system, rate, lost_per_kill, back_ms, pss_mib })
}

/// From the kill of a process until there is room again for as many requests at once as there are workers.
fn capacity_back(system: System, running: &Running) -> anyhow::Result<Duration> {
    let patience = Duration::from_secs(20);
    wait_for_capacity(running.address, patience)?;
    let victim = system.oldest_serving(running).context("there is no process that serves")?;
    let killed = Instant::now();
    kill_process(victim, Signal::KILL).context("cannot kill")?;
    wait_for_capacity(running.address, patience)?;
    Ok(killed.elapsed())
}

fn wait_for_capacity(address: SocketAddr, patience: Duration) -> anyhow::Result<()> {
    const WORK: Duration = Duration::from_millis(50);
    let until = Instant::now() + patience;
    loop {
        // Each client asks once, for the time is over when it has been answered; on a crowded machine perhaps not even
        // once.
        let mut plan = Plan::closed(address, "/work?ms=50", WORKERS, WORK.mul_f64(0.9));
        plan.connections = Connections::OneForEach;
        let tally = load::run(plan)?;
        if tally.failures() == 0 && tally.answered == WORKERS as u64 && tally.took < WORK.mul_f64(1.5) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("{WORKERS} requests at once still took {:?} after {patience:?}", tally.took);
        }
    }
}

fn outcome(rounds: &[Round], systems: &[System], missing: Vec<String>) -> Outcome {
    let mut table = Table::new(
        "Bulkhead beside its peers",
        &["system", "requests/s", "not answered for each kill", "capacity back, ms", "memory, MiB"],
    );
    let mut bars = Vec::new();
    for &system in systems {
        let of = |figure: &dyn Fn(&Round) -> Option<f64>| {
            Spread::of(rounds.iter().filter(|it| it.system == system).filter_map(figure))
        };
        let cell = |figure: &dyn Fn(&Round) -> Option<f64>| {
            of(figure).map_or_else(|| "–".to_owned(), |it| it.to_string())
        };
        let name = if system.blocks() { system.name().to_owned() } else { format!("{system}, a file") };
        table.row([
            name.clone(),
            cell(&|it| Some(it.rate)),
            cell(&|it| Some(it.lost_per_kill)),
            cell(&|it| it.back_ms),
            cell(&|it| Some(it.pss_mib)),
        ]);
        bars.extend(of(&|it| Some(it.rate)).map(|value| Bar {
            name,
            group: if system.is_bulkhead() { "Bulkhead" } else { "peers" }.to_owned(),
            value,
        }));
    }
    let plot = Plot::Bars {
        title: "requests a second, without work".to_owned(),
        value: Axis::linear("requests/s"),
        bars,
    };
    Outcome {
        tables: vec![table],
        plots: vec![plot],
        answers: Vec::new(),
        notes: missing,
        data: json!({ "rounds": rounds }),
    }
}
