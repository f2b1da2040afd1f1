//! Chaos: a storm over every system. Clients that never retry, and a kill every so often.
//!
//! What is killed (SIGKILL, as the kernel does when memory is short) is one of the processes that serve, whichever
//! has been running longest; never a master or a door, except where there is nobody else.
//!
//! Expected: where one process is all there is, the first kill ends it, and nobody answers any more. Processes lose
//! what the killed one held: one request for each kill at most where a process has one client, several in a hybrid, all of
//! a worker's in an event loop. Sessions that share memory lose everybody's. Bulkhead gives what the killed one held to
//! another, and loses nothing.

use std::time::Duration;

use anyhow::Context;
use rustix::process::{Signal, kill_process};
use serde::Serialize;
use serde_json::json;

use super::{Bench, Experiment};
use crate::findings::{Answer, Axis, Bar, Outcome, Plot, Table, Verdict};
use crate::load::Plan;
use crate::stats::{Spread, digits};
use crate::storm::{self, Weather};
use crate::systems::{Running, Shape, System};

pub(super) const QUESTION: &str = "Who notices when processes are killed under load?";
pub(super) const METHOD: &str = "Closed loop of 8 clients on kept connections, GET /work?ms=5 or as near to it as a system comes, \
     never retried; SIGKILL to the longest-running serving process every so often. Lost: cut off or not answered in time; failed: \
     refused, or another status.";

/// As many as there are workers, so that nobody waits by design.
const CLIENTS: usize = 8;

/// One storm over one system.
#[derive(Debug, Clone, Serialize)]
struct Storm {
    system: System,
    weather: Weather,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let roll = bench.systems();
    let (systems, missing) = (&roll.here, roll.notes());
    let runs = bench.size.pick(1, 1, 3);
    let time = bench.size.pick(1500, 1600, 10_000);
    let every = bench.size.pick(400, 400, 1000);
    let progress = bench.progress(Experiment::Chaos, runs * systems.len());
    let mut storms = Vec::new();
    for _ in 0..runs {
        for &system in systems {
            progress.doing(system.name());
            let running = bench.start(system, &Shape::of(CLIENTS + 2))?;
            let target = "/work?ms=5&n={n}";
            let mut plan = Plan::closed(running.address, target, CLIENTS, Duration::from_millis(time));
            plan.patience = Duration::from_secs(2);
            let quiet = crate::progress::Progress::hidden();
            let every = Some(Duration::from_millis(every));
            let weather = storm::run(plan, every, &quiet, || kill_one(system, &running))
                .with_context(|| format!("no storm over {system}"))?;
            storms.push(Storm { system, weather });
            progress.step();
        }
    }
    Ok(outcome(&storms, systems, missing))
}

/// Kills whoever serves and has been running longest; whom, or why nobody.
pub(super) fn kill_one(system: System, running: &Running) -> Result<String, String> {
    let victim = system.oldest_serving(running).ok_or("there is no process that serves")?;
    kill_process(victim, Signal::KILL).map_err(|error| format!("{}: {error}", victim.as_raw_nonzero()))?;
    Ok(format!("pid {}", victim.as_raw_nonzero()))
}

fn outcome(storms: &[Storm], systems: &[System], missing: Vec<String>) -> Outcome {
    let of = |system: System| storms.iter().filter(move |it| it.system == system).map(|it| &it.weather);
    let unanswered = |weather: &Weather| (weather.failed + weather.lost) as f64;
    let per_kill = |weather: &Weather| unanswered(weather) / weather.killed().max(1) as f64;
    let mut table = Table::new(
        "clients that never retry, and kills",
        &[
            "system",
            "kills",
            "answered",
            "failed or lost",
            "of that for each kill",
            "longest gap, ms",
            "p99, ms",
        ],
    );
    let mut bars = Vec::new();
    for &system in systems {
        let figure = |figure: &dyn Fn(&Weather) -> f64| {
            Spread::of(of(system).map(figure)).map_or_else(|| "–".to_owned(), |it| it.to_string())
        };
        table.row([
            system.name().to_owned(),
            of(system).map(Weather::killed).sum::<usize>().to_string(),
            figure(&|it| it.answered as f64),
            figure(&unanswered),
            figure(&per_kill),
            figure(&|it| it.longest_gap_ms),
            figure(&|it| it.p99_ms),
        ]);
        bars.extend(Spread::of(of(system).map(|it| it.longest_gap_ms)).map(|value| Bar {
            name: system.name().to_owned(),
            group: if system.is_bulkhead() { "Bulkhead" } else { "the lab's servers" }.to_owned(),
            value,
        }));
    }
    let plot = Plot::Bars {
        title: "the longest time in which nobody was answered, under kills".to_owned(),
        value: Axis::log("ms"),
        bars,
    };
    Outcome {
        tables: vec![table],
        plots: vec![plot],
        answers: answers(storms),
        notes: missing,
        data: json!({ "storms": storms }),
    }
}

/// What a kill costs is told of claims 8 and 9 here; the other faults are told in `isolation`.
fn answers(storms: &[Storm]) -> Vec<Answer> {
    use crate::servers::Model;
    let answer = |claim: u8, model: Model| {
        let of: Vec<_> = storms.iter().filter(|it| it.system == System::Model(model)).collect();
        let kills: usize = of.iter().map(|it| it.weather.killed()).sum();
        let unanswered: u64 = of.iter().map(|it| it.weather.failed + it.weather.lost).sum();
        let answered: u64 = of.iter().map(|it| it.weather.answered).sum();
        let verdict = if kills < 2 {
            Verdict::NotMeasured
        } else {
            // It served on after each kill, and lost no more than everybody's request each time.
            Verdict::of(answered > 0 && unanswered <= (kills * CLIENTS) as u64)
        };
        let evidence = format!(
            "{}: {kills} kills cost {} of {} requests, and the rest were answered",
            model.name(),
            digits(unanswered as f64),
            digits((answered + unanswered) as f64)
        );
        Answer { claim, verdict, evidence }
    };
    vec![answer(8, Model::Hybrid), answer(9, Model::EventWorkers)]
}
