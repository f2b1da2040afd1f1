//! Chaos: a storm over every system. Clients that never repeat a request, and a kill every so often.
//!
//! What is killed (SIGKILL, as the kernel does when memory is short) is one of the processes that serve, whichever
//! has been running longest; never a master or a door, except where there is nobody else.
//!
//! Expected: where one process is all there is, the first kill ends it, and nobody answers any more. Processes lose
//! what the killed one held: one request for each kill at most where a process has one client, several in a hybrid, all of
//! a worker's in an event loop. Sessions that share memory lose everybody's. Bulkhead gives what the killed one held to
//! another, and loses nothing.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde::Serialize;
use serde_json::json;

use super::{Bench, Experiment};
use crate::findings::{Answer, Axis, Bar, Outcome, Plot, Table, Verdict, surprise};
use crate::load::Plan;
use crate::progress::Progress;
use crate::servers::Model;
use crate::stats::{Spread, digits};
use crate::storm::{self, Weather};
use crate::systems::{Running, Shape, System};

pub(super) const QUESTION: &str = "Who notices when processes are killed under load?";
pub(super) const METHOD: &str = "Closed loop of 8 clients on kept connections, GET /work?ms=5 or as near to it as a system comes, \
     never retried; SIGKILL to the longest-running serving process every so often. Hit: a client whose request was cut off, refused, \
     answered with another status or not in time, counted once until it is answered again, however often it asks meanwhile. \
     Outage: the longest time in which nobody was answered. A quantile of a closed loop would hide both, and is not shown.";

/// As many as there are workers, so that nobody waits by design.
const CLIENTS: usize = 8;

/// Of the clients so many at most may notice a kill that is said to cost a part of them.
const A_PART: f64 = 0.75;

/// One storm over one system.
#[derive(Debug, Clone, Serialize)]
struct Storm {
    system: System,
    weather: Weather,
    #[serde(skip)]
    cost: Cost,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let roll = bench.systems();
    let (systems, mut notes) = (&roll.here, roll.notes());
    let runs = bench.size.pick(1, 1, 3);
    let time = Duration::from_millis(bench.size.pick(1500, 700, 6_000));
    let every = Duration::from_millis(bench.size.pick(300, 150, 600));
    let progress = bench.progress(Experiment::Chaos, runs * systems.len());
    let mut storms = Vec::new();
    for _ in 0..runs {
        for &system in systems {
            progress.doing(system.name());
            match storm_over(system, bench, time, every) {
                Ok(weather) => storms.push(Storm { system, cost: Cost::of(&weather, every), weather }),
                // It costs its own row, and not what is known of the others.
                Err(error) => notes.push(format!("{system} was not measured: {error:#}")),
            }
            progress.step();
        }
    }
    Ok(outcome(&storms, systems, notes))
}

fn storm_over(system: System, bench: &Bench, time: Duration, every: Duration) -> anyhow::Result<Weather> {
    let running = bench.start(system, &Shape::of(CLIENTS + 2))?;
    let mut plan = Plan::closed(running.address, "/work?ms=5&n={n}", CLIENTS, time);
    plan.patience = Duration::from_secs(2);
    Ok(storm::run(plan, Some(every), &Progress::hidden(), || kill_one(system, &running))?)
}

/// Kills whoever serves and has been running longest; whom, or why nobody.
pub(super) fn kill_one(system: System, running: &Running) -> Result<String, String> {
    let victim = system.oldest_serving(running).ok_or("there is no process that serves")?;
    kill_process(victim, Signal::KILL).map_err(|error| format!("{}: {error}", victim.as_raw_nonzero()))?;
    Ok(format!("pid {}", victim.as_raw_nonzero()))
}

/// What the kills of a storm have cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    /// That killed somebody.
    kills: usize,
    /// Clients that were hit, each once until it is answered again: whom nobody serves asks on, and fails as often as it
    /// asks.
    hits: u64,
    longest_gap_ms: f64,
    /// From kill to kill.
    every_ms: f64,
}

impl Cost {
    pub(super) fn of(weather: &Weather, every: Duration) -> Self {
        Self {
            kills: weather.killed(),
            hits: weather.hits,
            longest_gap_ms: weather.longest_gap_ms,
            every_ms: every.as_secs_f64() * 1e3,
        }
    }

    /// `None`: nobody was killed, so a kill has cost nothing that could be told.
    pub(super) fn per_kill(&self) -> Option<f64> {
        (self.kills > 0).then(|| self.hits as f64 / self.kills as f64)
    }
}

fn outcome(storms: &[Storm], systems: &[System], mut notes: Vec<String>) -> Outcome {
    let of = |system: System| storms.iter().filter(move |it| it.system == system);
    let mut table = Table::new(
        "clients that never retry, and kills",
        &["system", "kills", "answered", "clients hit", "of that for each kill", "outage, ms"],
    );
    let mut bars = Vec::new();
    for &system in systems {
        let figure = |figure: &dyn Fn(&Storm) -> Option<f64>| {
            Spread::of(of(system).filter_map(figure)).map_or_else(|| "–".to_owned(), |it| it.to_string())
        };
        table.row([
            system.name().to_owned(),
            figure(&|it| Some(it.cost.kills as f64)),
            figure(&|it| Some(it.weather.answered as f64)),
            figure(&|it| Some(it.cost.hits as f64)),
            figure(&|it| it.cost.per_kill()),
            figure(&|it| Some(it.cost.longest_gap_ms)),
        ]);
        bars.extend(Spread::of(of(system).map(|it| it.cost.longest_gap_ms)).map(|value| Bar {
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
    for Storm { system, weather, cost } in storms {
        match weather.kills.iter().find_map(|kill| kill.victim.as_ref().err()) {
            Some(why) if cost.kills == 0 => notes.push(format!("{system}: nobody was killed: {why}")),
            _ => notes.extend(other_than_expected(*system, cost)),
        }
    }
    let costs: Vec<(System, Cost)> = storms.iter().map(|it| (it.system, it.cost)).collect();
    Outcome {
        tables: vec![table],
        plots: vec![plot],
        answers: vec![answer(8, Model::Hybrid, &costs), answer(9, Model::EventWorkers, &costs)],
        notes,
        data: json!({ "storms": storms }),
    }
}

/// Where a storm came out differently from what was written down first.
fn other_than_expected(system: System, cost: &Cost) -> Option<String> {
    let per_kill = cost.per_kill()?;
    let (came, expected) = match system {
        System::Model(Model::ThreadPerConnection | Model::ThreadPool) => {
            (cost.longest_gap_ms > cost.every_ms, "that nobody is answered any more after the first kill")
        }
        System::Model(Model::ProcessPerConnection | Model::Prefork | Model::FastCgi(_)) => {
            (per_kill <= 1.0, "one for each kill at most")
        }
        System::Model(Model::Hybrid | Model::EventWorkers) => {
            (per_kill < CLIENTS as f64, "what one process held for each kill")
        }
        System::Model(Model::Sessions) => (per_kill > 1.0, "more than one for each kill"),
        System::Bulkhead(_) => (cost.hits == 0, "that nothing is lost"),
        System::Model(Model::Splitter(_)) | System::Peer(_) => return None,
    };
    let was = format!(
        "{} clients hit for each kill, nobody answered for {} ms at most",
        digits(per_kill),
        digits(cost.longest_gap_ms)
    );
    (!came).then(|| surprise(system.name(), &was, expected))
}

/// What a kill costs is told of claims 8 and 9 here; the other faults are told in `isolation`.
fn answer(claim: u8, model: Model, costs: &[(System, Cost)]) -> Answer {
    let of = || costs.iter().filter(|(system, _)| *system == System::Model(model)).map(|(_, cost)| cost);
    let kills: usize = of().map(|it| it.kills).sum();
    let (Some(cost), Some(gap), 2..) =
        (Spread::of(of().filter_map(Cost::per_kill)), Spread::of(of().map(|it| it.longest_gap_ms)), kills)
    else {
        let evidence = format!("{}: {kills} kills, which are too few to tell", model.name());
        return Answer { claim, verdict: Verdict::NotMeasured, evidence };
    };
    let served_on = of().all(|it| it.longest_gap_ms < it.every_ms);
    let only_a_part = cost.median <= CLIENTS as f64 * A_PART;
    let verdict = match (served_on, only_a_part) {
        (true, true) => Verdict::Held,
        // Those who were hit were served again, but they were not only those of the one that was killed.
        (true, false) => Verdict::InPart,
        (false, _) => Verdict::DidNotHold,
    };
    let evidence = format!(
        "{}: of {CLIENTS} clients each of {kills} kills hit {cost}; the longest that nobody was answered was {gap} ms",
        model.name()
    );
    Answer { claim, verdict, evidence }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(kills: usize, hits: u64, longest_gap_ms: f64) -> Cost {
        Cost { kills, hits, longest_gap_ms, every_ms: 400.0 }
    }

    #[test]
    fn a_kill_that_costs_everybody_a_request_or_ends_the_service_holds_nothing() {
        let events = System::Model(Model::EventWorkers);
        let verdict = |cost| answer(9, Model::EventWorkers, &[(events, cost)]).verdict;
        assert_eq!(verdict(cost(3, 12, 20.0)), Verdict::Held);
        assert_eq!(verdict(cost(3, 24, 20.0)), Verdict::InPart);
        assert_eq!(verdict(cost(3, 12, 1200.0)), Verdict::DidNotHold);
        assert_eq!(verdict(cost(1, 4, 20.0)), Verdict::NotMeasured);
    }

    #[test]
    fn without_a_kill_no_cost_of_one_is_told() {
        assert_eq!(cost(0, 7, 20.0).per_kill(), None);
        assert_eq!(cost(2, 7, 20.0).per_kill(), Some(3.5));
    }

    #[test]
    fn what_a_kill_cost_is_held_against_what_was_expected() {
        let surprises = |model, cost| other_than_expected(System::Model(model), &cost).is_some();
        assert!(!surprises(Model::Prefork, cost(3, 3, 20.0)) && surprises(Model::Prefork, cost(3, 4, 20.0)));
        // Of threads in one process the first kill is to end all.
        assert!(!surprises(Model::ThreadPool, cost(1, 8, 1200.0)));
        assert!(surprises(Model::ThreadPool, cost(3, 3, 20.0)));
    }
}
