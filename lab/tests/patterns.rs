//! The lab's experiments at their smallest size: each has to show its pattern, on a loaded machine, too.
//!
//! Not times: a time depends on the machine. The programs that an experiment starts are this one, in a part of its own,
//! so `main` first looks whether it was asked to play one.
//!
//! Bulkhead is among the systems where `BULKHEAD_PROGRAM` names it; what is not tried without is said on each test.

#[path = "patterns/systems.rs"]
mod systems;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    if let Some(code) = lab::play::if_asked(std::env::args_os()) {
        return code;
    }
    lab::janitor::engage();
    let arguments = Arguments::from_args();
    let trials: Vec<Trial> = [systems::trials()].into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What experiments are run with.
fn bench() -> lab::experiments::Bench {
    let bulkhead = std::env::var_os("BULKHEAD_PROGRAM").map(Into::into);
    lab::experiments::Bench { size: lab::findings::Size::Smallest, bulkhead }
}
