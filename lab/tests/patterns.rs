//! The patterns: each experiment at its smallest size, and what must come out of it whatever the machine.
//!
//! A pattern is who fails, who starves, what is lost; never how long something takes. The lab starts its servers and
//! parties from the program that runs, which here is this test: so it first looks whether it is to play a part.

use std::process::ExitCode;

use lab::experiments::{Bench, Experiment};
use lab::findings::{Findings, Size};
use libtest_mimic::{Arguments, Failed, Trial};

#[path = "patterns/preemption.rs"]
mod preemption;

fn main() -> ExitCode {
    if let Some(code) = lab::play::if_asked(std::env::args_os()) {
        return code;
    }
    let mut args = Arguments::from_args();
    // Experiments that run beside each other would measure each other.
    args.test_threads = Some(1);
    let trials = vec![Trial::test("preemption", || pattern(Experiment::Preemption, preemption::holds))];
    libtest_mimic::run(&args, trials).exit_code()
}

/// Runs an experiment at its smallest size, and shows what came out when it is not what had to.
fn pattern(experiment: Experiment, holds: fn(&Findings) -> Result<(), String>) -> Result<(), Failed> {
    let bulkhead = std::env::var_os("BULKHEAD_PROGRAM").map(Into::into);
    let found =
        experiment.run(&Bench { size: Size::Smallest, bulkhead }).map_err(|error| format!("{error:#}"))?;
    holds(&found).map_err(|why| {
        let tables: Vec<_> = found.outcome.tables.iter().map(lab::findings::Table::render).collect();
        Failed::from(format!("{why}\n\n{}\nnotes: {:#?}", tables.join("\n"), found.outcome.notes))
    })
}
