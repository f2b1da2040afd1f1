//! Isolation: one client does harm, and the others are looked at.
//!
//! Clients are connected and working: some keep their connection, some come anew for each request. Then one more client
//! commits a fault, really and once. Counted is what becomes of the *others*: how many of those connected fail or stall, whether
//! newcomers are served in time, for how long nobody answers a client, and when as much is answered again as before. Somebody who
//! only sleeps is looked at, too: a fault that holds him up has hit the machine, and with it everybody.
//!
//! There are enough workers for all clients and some to spare, so nobody waits for a worker by design. Where a process has
//! several clients, it is seen to that the one who does harm is in the company of others, and that not all others are in its.
//! A fault has
//! as much room as its compartment: all of a system's processes share one limit of memory and of processes, but for
//! Bulkhead, where each worker has its own.
//!
//! Expected is [`expected`], which was written down first. In short: a process takes along whoever is in it. Where that is
//! one client, nobody else notices; where it is all of them, all are gone; what is in between takes its part.
//! A panic is Rust's own affair and takes one thread. A loop that is held up holds up its clients. And a fault in
//! what is shared (the number of processes, a process's descriptors) is felt by newcomers.

mod cell;
mod company;
mod judge;
mod outcome;
mod sleeper;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};

use super::{Bench, Experiment};
use crate::engine::{self, Caps};
use crate::findings::{Outcome, Size};
use crate::servers::Model;
use crate::servers::fastcgi::Responder;
use crate::systems::{Backend, Running, System};
use judge::{Damage, Harm};

pub(super) const QUESTION: &str = "When one client does harm, who else notices, and for how long?";
pub(super) const METHOD: &str = "Closed loop: clients ask for 5 ms of blocking and think for 5 ms; some keep their connection, some connect for each request. One more client \
     commits the fault once. A client is hit if a request of it fails, or if it has no answer for 250 ms and for three times the longest that anybody of its kind waited \
     or a mere sleeper was held up before the fault. Full capacity is back when a window has 90% of the answers of before. A fresh system for each cell, \
     Bulkhead excepted: it has to stand them all in a row. Two systems are measured side by side, and those faults alone that use up what a neighbour needs \
     (out of memory, CPU hog, fork bomb); with less than the full size four, whatever the fault.";

/// What one client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fault {
    Segfault,
    Abort,
    Exit,
    Panic,
    OutOfMemory,
    Hang,
    Hog,
    ForkBomb,
    DescriptorLeak,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::Segfault,
        Self::Abort,
        Self::Exit,
        Self::Panic,
        Self::OutOfMemory,
        Self::Hang,
        Self::Hog,
        Self::ForkBomb,
        Self::DescriptorLeak,
    ];

    /// One of each kind: a process ends, a thread does, the kernel ends one, nothing ends.
    const FEW: [Self; 5] = [Self::Segfault, Self::Panic, Self::OutOfMemory, Self::Hang, Self::Hog];

    /// Those that end a process without its having a say.
    const CRASHES: [Self; 4] = [Self::Segfault, Self::Abort, Self::Exit, Self::OutOfMemory];

    fn name(self) -> &'static str {
        match self {
            Self::Segfault => "segfault",
            Self::Abort => "abort",
            Self::Exit => "exit",
            Self::Panic => "panic",
            Self::OutOfMemory => "out of memory",
            Self::Hang => "hang",
            Self::Hog => "CPU hog",
            Self::ForkBomb => "fork bomb",
            Self::DescriptorLeak => "descriptor leak",
        }
    }

    /// The page that commits it; a hog is one for `hog`.
    fn target(self, hog: Duration) -> String {
        match self {
            Self::Segfault => "/segv".to_owned(),
            Self::Abort => "/abort".to_owned(),
            Self::Exit => "/exit?code=3".to_owned(),
            Self::Panic => "/panic".to_owned(),
            Self::OutOfMemory => "/leak?mb=4096".to_owned(),
            Self::Hang => "/hang".to_owned(),
            Self::Hog => format!("/cpu?ms={}", hog.as_millis()),
            Self::ForkBomb => "/forks?n=100000".to_owned(),
            Self::DescriptorLeak => "/files?n=100000".to_owned(),
        }
    }

    /// Whether it uses up what neighbours need, beyond its compartment: processors, memory while it is taken and given back.
    fn is_loud(self) -> bool {
        matches!(self, Self::OutOfMemory | Self::Hog | Self::ForkBomb)
    }

    /// Whether it ends somebody, so that it is known when it has.
    fn is_fatal(self) -> bool {
        matches!(self, Self::Panic) || Self::CRASHES.contains(&self)
    }

    /// Why it must not be committed in this system; `None` if it may. In containers the limits are the engine's, and not
    /// every engine can set them.
    fn forbidden_in(self, running: &Running, system: System) -> Option<&'static str> {
        let caps = || match system {
            System::Bulkhead(Backend::Docker) => {
                engine::caps().unwrap_or(Caps { memory: false, processes: false })
            }
            _ => Caps {
                memory: running.compartment.caps_memory(),
                processes: running.compartment.caps_processes(),
            },
        };
        match self {
            Self::ForkBomb if !caps().processes => Some("nothing here limits the number of processes"),
            Self::OutOfMemory if !caps().memory => Some("nothing here limits memory"),
            _ => None,
        }
    }
}

/// What was expected before anything was measured, in the order of [`Fault::ALL`].
fn expected(system: System) -> Option<[Harm; 9]> {
    use Harm::{All as A, AllForGood as X, Newcomers as N, Nobody as O, Some as S, SomeForGood as G};
    let expected = match system {
        // In order:   segfault, abort, exit, panic, memory, hang, hog, forks, descriptors
        System::Model(Model::ProcessPerConnection) => [O, O, O, O, O, O, O, N, O],
        System::Model(Model::Prefork) => [O, O, O, O, O, O, O, O, O],
        System::Model(Model::Sessions) => [A, A, A, A, A, O, O, N, O],
        System::Model(Model::ThreadPerConnection) => [X, X, X, O, X, O, O, N, N],
        System::Model(Model::ThreadPool) => [X, X, X, O, X, O, O, O, N],
        System::Model(Model::Hybrid) => [S, S, S, O, S, O, O, O, O],
        System::Model(Model::EventWorkers) => [S, S, S, O, S, G, S, O, O],
        System::Model(Model::FastCgi(Responder::Own | Responder::Php)) => [O, O, O, O, O, O, O, O, O],
        System::Bulkhead(Backend::Process | Backend::Docker) => [O, O, O, O, O, O, O, O, O],
        // They are not among those that are measured here.
        System::Model(Model::Splitter(_)) | System::Peer(_) => return None,
    };
    Some(expected)
}

/// What became of one cell in one round.
#[derive(Debug, Clone, Serialize)]
struct Record {
    system: System,
    fault: Fault,
    #[serde(flatten)]
    result: Result<Damage, NotRun>,
}

/// Why a cell was not run.
#[derive(Debug, Clone, Serialize)]
struct NotRun {
    not_run: String,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let faults: &[Fault] = bench.size.pick(&Fault::FEW[..], &Fault::FEW[..], &Fault::ALL[..]);
    let rounds = bench.size.pick(1, 1, 3);
    let roll = bench.systems();
    let times = cell::Times::of(bench.size);
    let progress = bench.progress(Experiment::Isolation, roll.here.len() * faults.len() * rounds);
    let records = Mutex::new(Vec::new());
    for phase in phases(bench.size, faults) {
        let next = AtomicUsize::new(0);
        let jobs: Vec<System> = (0..rounds).flat_map(|_| roll.here.iter().copied()).collect();
        let work = || -> anyhow::Result<()> {
            while let Some(&system) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let found = cell::row(bench, system, &phase.faults, times, &progress)?;
                records.lock().map_err(|_| anyhow!("a thread panicked"))?.extend(found);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..phase.at_once).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .try_for_each(|it| it.join().map_err(|_| anyhow!("a measuring thread panicked"))?)
        })?;
    }
    let records = records.into_inner().map_err(|_| anyhow!("a thread panicked"))?;
    let missing: Vec<_> =
        roll.missing.iter().map(|(system, why)| format!("{system}: not run: {why}")).collect();
    let mut outcome =
        outcome::outcome(&roll.here, faults, &records, missing).context("nothing was measured")?;
    if rounds == 1 {
        outcome.is_of_one_run();
    }
    if bench.size < Size::Full {
        outcome.notes.push(SIDE_BY_SIDE.to_owned());
    }
    Ok(outcome)
}

const SIDE_BY_SIDE: &str = "four systems were measured at the same time, so a cell shows what its neighbours' faults do to the machine, too; in the full size those \
     faults are measured alone";

/// Faults that are measured in one go.
#[derive(Debug, PartialEq, Eq)]
struct Phase {
    /// Of so many systems at the same time. What a cell waits for is mostly time and not the processor.
    at_once: usize,
    faults: Vec<Fault>,
}

/// In the full size loud faults are measured with nobody beside them.
fn phases(size: Size, faults: &[Fault]) -> Vec<Phase> {
    if size < Size::Full {
        return vec![Phase { at_once: 4, faults: faults.to_vec() }];
    }
    let (loud, quiet) = faults.iter().copied().partition(|it| it.is_loud());
    vec![Phase { at_once: 2, faults: quiet }, Phase { at_once: 1, faults: loud }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_measured_once_and_a_loud_one_alone_in_the_full_size() {
        for size in [Size::Smallest, Size::Quick, Size::Full] {
            let phases = phases(size, &Fault::ALL);
            let all: Vec<Fault> = phases.iter().flat_map(|it| it.faults.clone()).collect();
            assert!(all.len() == 9 && Fault::ALL.iter().all(|it| all.contains(it)), "{phases:?}");
            let beside = |it: &Phase| it.at_once > 1 && it.faults.iter().any(|it| it.is_loud());
            assert_eq!(phases.iter().any(beside), size < Size::Full, "{phases:?}");
        }
    }
}
