//! The lab's experiments at their smallest size: each has to show its pattern, on a loaded machine, too.
//!
//! Not times: a time depends on the machine. The programs that an experiment starts are this one, in a part of its own,
//! so `main` first looks whether it was asked to play one.
//!
//! Bulkhead is among the systems where `BULKHEAD_PROGRAM` names it; what is not tried without is said on each test.

#[path = "patterns/chaos.rs"]
mod chaos;
#[path = "patterns/deadlock.rs"]
mod deadlock;
#[path = "patterns/idle.rs"]
mod idle;
#[path = "patterns/isolation.rs"]
mod isolation;
#[path = "patterns/killed.rs"]
mod killed;
#[path = "patterns/peers.rs"]
mod peers;
#[path = "patterns/pool.rs"]
mod pool;
#[path = "patterns/preemption.rs"]
mod preemption;
#[path = "patterns/races.rs"]
mod races;
#[path = "patterns/report.rs"]
mod report;
#[path = "patterns/scale.rs"]
mod scale;
#[path = "patterns/systems.rs"]
mod systems;
#[path = "patterns/talk.rs"]
mod talk;
#[path = "patterns/throughput.rs"]
mod throughput;

use std::collections::BTreeSet;
use std::process::ExitCode;

use lab::claims::CLAIMS;
use lab::experiments::Experiment;
use lab::findings::{Findings, Table};
use libtest_mimic::{Arguments, Failed};

fn main() -> ExitCode {
    if let Some(code) = lab::play::if_asked(std::env::args_os()) {
        return code;
    }
    if let Some(code) = killed::if_asked() {
        return code;
    }
    lab::janitor::engage();
    let mut arguments = Arguments::from_args();
    // Experiments beside each other would measure each other.
    arguments.test_threads = Some(1);
    let trials = [
        systems::trials(),
        killed::trials(),
        idle::trials(),
        preemption::trials(),
        deadlock::trials(),
        pool::trials(),
        scale::trials(),
        isolation::trials(),
        talk::trials(),
        throughput::trials(),
        races::trials(),
        chaos::trials(),
        peers::trials(),
    ];
    let trials = trials.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What experiments are run with.
fn bench() -> lab::experiments::Bench {
    let bulkhead = std::env::var_os("BULKHEAD_PROGRAM").map(Into::into);
    lab::experiments::Bench { size: lab::findings::Size::Smallest, bulkhead, database_url: None }
}

/// Runs an experiment; when it does not show its pattern, does not answer the claims that name it, or cannot be shown in the
/// report, what came out is shown.
fn pattern(experiment: Experiment, holds: fn(&Findings) -> Result<(), String>) -> Result<(), Failed> {
    let found = experiment.run(&bench()).map_err(|error| format!("{error:#}"))?;
    holds(&found).and_then(|()| answers(&found)).and_then(|()| report::shows(&found)).map_err(|why| {
        let tables: Vec<_> = found.outcome.tables.iter().map(Table::render).collect();
        Failed::from(format!("{why}\n\n{}\nnotes: {:#?}", tables.join("\n"), found.outcome.notes))
    })
}

/// Whether an experiment answers those claims that name it, and no others.
fn answers(found: &Findings) -> Result<(), String> {
    let named = CLAIMS.iter().filter(|it| it.experiments.contains(&found.experiment.as_str()));
    let named: BTreeSet<u8> = named.map(|it| it.number).collect();
    let answered: BTreeSet<u8> = found.outcome.answers.iter().map(|it| it.claim).collect();
    if named == answered {
        return Ok(());
    }
    Err(format!("the claims {named:?} name {}, and it answers {answered:?}", found.experiment))
}
