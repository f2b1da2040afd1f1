//! The experiments, one a file. Each opens with what is expected, and says in its notes where it came out differently.
//!
//! An experiment measures and fills an [`Outcome`]; it prints and draws nothing. What it needs processes for besides
//! servers is a [`Party`]: this program, started again in that part.

mod chaos;
mod peers;
mod preemption;
mod deadlock;
mod races;

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::findings::{Findings, Outcome, Size};
use crate::machine::Machine;
use crate::progress::Progress;
use crate::systems::{Roll, Running, Shape, System};

/// Which experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Experiment {
    /// One greedy task among interactive ones: who starves, and can it be ended
    Preemption,
    /// A counter that many bump at once: what is lost, and what each remedy costs
    Races,
    /// Kills under load, over every system: what is lost
    Chaos,
    /// Bulkhead beside the servers of its kind that are installed here
    Peers,
    /// Locks that are taken in opposite order: when all stop for ever, and three ways out
    Deadlock,
}

/// What an experiment can use.
#[derive(Debug)]
pub struct Bench {
    /// How thoroughly to measure.
    pub size: Size,
    /// The `bulkhead` program, if it is known, for the systems that are Bulkhead itself.
    pub bulkhead: Option<PathBuf>,
}

/// A process of an experiment that is no server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// Of `preemption`: tasks that note when they ran.
    Troupe(preemption::Troupe),
    /// Of `races`: counts for itself and tells the sum.
    Counter(races::Counter),
    /// Of `deadlock`: threads that need two locks each.
    Dinner(deadlock::Dinner),
}

impl Experiment {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 5] = [Self::Races, Self::Chaos, Self::Peers, Self::Preemption, Self::Deadlock];

    /// The name that it is called by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preemption => "preemption",
            Self::Races => "races",
            Self::Chaos => "chaos",
            Self::Peers => "peers",
            Self::Deadlock => "deadlock",
        }
    }

    /// What it asks, in a sentence.
    pub fn question(self) -> &'static str {
        match self {
            Self::Preemption => preemption::QUESTION,
            Self::Races => races::QUESTION,
            Self::Chaos => chaos::QUESTION,
            Self::Peers => peers::QUESTION,
            Self::Deadlock => deadlock::QUESTION,
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Preemption => preemption::METHOD,
            Self::Races => races::METHOD,
            Self::Chaos => chaos::METHOD,
            Self::Peers => peers::METHOD,
            Self::Deadlock => deadlock::METHOD,
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// When something that it cannot do without is not there or fails; the error says what.
    pub fn run(self, bench: &Bench) -> anyhow::Result<Findings> {
        let (machine, at, started) = (Machine::here(), jiff::Timestamp::now().to_string(), Instant::now());
        let outcome = self.measure(bench)?;
        Ok(Findings {
            experiment: self.name().to_owned(),
            question: self.question().to_owned(),
            method: self.method().to_owned(),
            size: bench.size,
            machine,
            at,
            took_s: started.elapsed().as_secs_f64(),
            outcome,
        })
    }

    fn measure(self, bench: &Bench) -> anyhow::Result<Outcome> {
        match self {
            Self::Preemption => preemption::measure(bench),
            Self::Races => races::measure(bench),
            Self::Chaos => chaos::measure(bench),
            Self::Peers => peers::measure(bench),
            Self::Deadlock => deadlock::measure(bench),
        }
    }
}

impl Bench {
    /// Starts a system.
    ///
    /// # Errors
    /// As [`System::start`].
    pub fn start(&self, system: System, shape: &Shape) -> anyhow::Result<Running> {
        system.start(shape, self.bulkhead.as_deref())
    }

    /// The systems that can be started here, and those that cannot.
    pub fn systems(&self) -> Roll {
        System::all(self.bulkhead.as_deref())
    }

    /// A bar for so many steps.
    pub fn progress(&self, experiment: Experiment, steps: usize) -> Progress {
        Progress::new(experiment.name(), steps as u64)
    }
}

/// Does what a party does.
///
/// # Errors
/// What the party says.
pub fn take_part(party: Party) -> io::Result<()> {
    match party {
        Party::Troupe(troupe) => troupe.play(),
        Party::Counter(counter) => counter.run(),
        Party::Dinner(dinner) => dinner.run(),
    }
}
