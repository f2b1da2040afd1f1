//! The experiments, one a file. Each opens with what is expected, and says in its notes where it came out differently.
//!
//! An experiment measures and fills an [`Outcome`]; it prints and draws nothing. What it needs processes for besides
//! servers is a [`Party`]: this program, started again in that part.

mod idle;
mod preemption;
mod races;
mod scale;

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::findings::{Findings, Outcome, Size};
use crate::load::crowd;
use crate::machine::Machine;
use crate::progress::Progress;
use crate::systems::{Roll, Running, Shape, System};

/// Which experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Experiment {
    /// What workers cost that wait, and who is served when idle connections hold on
    Idle,
    /// One greedy task among interactive ones: who starves, and can it be ended
    Preemption,
    /// A counter that many bump at once: what is lost, and what each remedy costs
    Races,
    /// More and more connections at a time: what each costs, and what stops each model
    Scale,
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
    /// Of `scale` and `idle`: clients who hold connections.
    Crowd(crowd::Faces),
    /// Of `preemption`: tasks that note when they ran.
    Troupe(preemption::Troupe),
    /// Of `races`: counts for itself and tells the sum.
    Counter(races::Counter),
}

impl Experiment {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 4] = [Self::Scale, Self::Idle, Self::Preemption, Self::Races];

    /// The name that it is called by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Preemption => "preemption",
            Self::Races => "races",
            Self::Scale => "scale",
        }
    }

    /// What it asks, in a sentence.
    pub fn question(self) -> &'static str {
        match self {
            Self::Idle => idle::QUESTION,
            Self::Preemption => preemption::QUESTION,
            Self::Races => races::QUESTION,
            Self::Scale => scale::QUESTION,
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Idle => idle::METHOD,
            Self::Preemption => preemption::METHOD,
            Self::Races => races::METHOD,
            Self::Scale => scale::METHOD,
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
            Self::Idle => idle::measure(bench),
            Self::Preemption => preemption::measure(bench),
            Self::Races => races::measure(bench),
            Self::Scale => scale::measure(bench),
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

/// Of these systems those that can be started here, and why the others cannot.
fn here(systems: &[System], bench: &Bench) -> (Vec<System>, Vec<String>) {
    let (mut here, mut notes) = (Vec::new(), Vec::new());
    for &system in systems {
        match system.missing(bench.bulkhead.as_deref()) {
            None => here.push(system),
            Some(why) => notes.push(format!("{system} was not run: {why}")),
        }
    }
    (here, notes)
}

/// Does what a party does.
///
/// # Errors
/// What the party says.
pub fn take_part(party: Party) -> io::Result<()> {
    match party {
        Party::Crowd(faces) => faces.take_part(),
        Party::Troupe(troupe) => troupe.play(),
        Party::Counter(counter) => counter.run(),
    }
}
