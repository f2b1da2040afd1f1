//! The experiments, one a file. Each opens with what is expected, and says in its notes where it came out differently.
//!
//! An experiment measures and fills an [`Outcome`]; it prints and draws nothing. What it needs processes for besides
//! servers is a [`Party`]: this program, started again in that part.

mod chaos;
mod database;
mod deadlock;
mod idle;
mod isolation;
mod peers;
mod pool;
mod preemption;
mod races;
mod scale;
mod talk;
mod throughput;

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::findings::{Findings, Outcome, Size};
use crate::load::crowd;
use crate::machine::Machine;
use crate::progress::Progress;
use crate::servers::Model;
use crate::systems::{Backend, Roll, Running, Shape, System};

/// Which experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Experiment {
    /// One client does harm: who else notices, and for how long
    Isolation,
    /// Answers a second and tail latencies; what idle-aware dispatch is worth
    Throughput,
    /// What workers cost that wait, and who is served when idle connections hold on
    Idle,
    /// One greedy task among interactive ones: who starves, and can it be ended
    Preemption,
    /// A counter that many bump at once: what is lost, and what each remedy costs
    Races,
    /// Locks that are taken in opposite order: when all stop for ever, and three ways out
    Deadlock,
    /// A real database, shared by threads and by processes: waiting, leaks, clients that die, deadlocks
    Pool,
    /// Kills under load, over every system: what is lost
    Chaos,
    /// Bulkhead beside the servers of its kind that are installed here
    Peers,
    /// More and more connections at a time: what each costs, and what stops each model
    Scale,
    /// Messages between two isolated workers, over whatever they can talk over
    Talk,
}

/// One system of each kind of cost: what a worker or a connection takes does not depend on what becomes of the others when
/// one crashes, nor on what is spoken behind it.
const ONE_OF_EACH_COST: [System; 7] = [
    System::Model(Model::ProcessPerConnection),
    System::Model(Model::Prefork),
    System::Model(Model::ThreadPerConnection),
    System::Model(Model::ThreadPool),
    System::Model(Model::Hybrid),
    System::Model(Model::EventWorkers),
    System::Bulkhead(Backend::Process),
];

/// Why there are no others in that list.
const WHY_ONE_OF_EACH: &str = "a worker or a connection of theirs costs what it costs one of those that were taken: sessions and \
     FastCGI's responders are processes started in advance, behind a front or not, and what a container adds is the engine's";

/// What an experiment can use.
#[derive(Debug)]
pub struct Bench {
    /// How thoroughly to measure.
    pub size: Size,
    /// The `bulkhead` program, if it is known, for the systems that are Bulkhead itself.
    pub bulkhead: Option<PathBuf>,
    /// A PostgreSQL to experiment on, `postgresql://…`; without it the lab starts one of its own.
    pub database_url: Option<String>,
}

/// A process of an experiment that is no server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// Of `scale` and `idle`: clients who hold connections.
    Crowd(crowd::Clients),
    /// Of `preemption`: tasks that note when they ran.
    Troupe(preemption::Troupe),
    /// Of `deadlock`: threads that need two locks each.
    Dinner(deadlock::Dinner),
    /// Of `pool`: a client of a database.
    Session(pool::Session),
    /// Of `talk`: the other side.
    Peer(talk::Peer),
    /// Of `races`: counts for itself and tells the sum.
    Counter(races::Counter),
}

impl Experiment {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 11] = [
        Self::Isolation,
        Self::Scale,
        Self::Idle,
        Self::Throughput,
        Self::Preemption,
        Self::Races,
        Self::Deadlock,
        Self::Pool,
        Self::Talk,
        Self::Chaos,
        Self::Peers,
    ];

    /// The name that it is called by.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// What it asks, in a sentence.
    pub fn question(self) -> &'static str {
        self.entry().question
    }

    fn entry(self) -> Entry {
        use Entry as E;
        match self {
            Self::Isolation => E::of("isolation", isolation::QUESTION, isolation::METHOD, isolation::measure),
            Self::Scale => E::of("scale", scale::QUESTION, scale::METHOD, scale::measure),
            Self::Idle => E::of("idle", idle::QUESTION, idle::METHOD, idle::measure),
            Self::Throughput => {
                E::of("throughput", throughput::QUESTION, throughput::METHOD, throughput::measure)
            }
            Self::Preemption => {
                E::of("preemption", preemption::QUESTION, preemption::METHOD, preemption::measure)
            }
            Self::Races => E::of("races", races::QUESTION, races::METHOD, races::measure),
            Self::Deadlock => E::of("deadlock", deadlock::QUESTION, deadlock::METHOD, deadlock::measure),
            Self::Pool => E::of("pool", pool::QUESTION, pool::METHOD, pool::measure),
            Self::Talk => E::of("talk", talk::QUESTION, talk::METHOD, talk::measure),
            Self::Chaos => E::of("chaos", chaos::QUESTION, chaos::METHOD, chaos::measure),
            Self::Peers => E::of("peers", peers::QUESTION, peers::METHOD, peers::measure),
        }
    }

    /// Whether what it is about is there; where it is not, it runs all the same, measures nothing, and says this.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    pub fn is_possible(self, bench: &Bench) -> Result<(), String> {
        match self {
            Self::Pool => pool::is_possible(bench),
            _ => Ok(()),
        }
    }

    /// Whether it measures nothing a second time at this size.
    fn runs_once(self, size: Size) -> bool {
        match self {
            Self::Races => false,
            Self::Deadlock => size == Size::Smallest,
            Self::Isolation
            | Self::Scale
            | Self::Throughput
            | Self::Idle
            | Self::Preemption
            | Self::Pool
            | Self::Chaos
            | Self::Peers
            | Self::Talk => size != Size::Full,
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// When something that it cannot do without is not there or fails; the error says what.
    pub fn run(self, bench: &Bench) -> anyhow::Result<Findings> {
        let (machine, at, started) = (Machine::here(), jiff::Timestamp::now().to_string(), Instant::now());
        let Entry { name, question, method, measure } = self.entry();
        let mut outcome = measure(bench)?;
        if self.runs_once(bench.size) {
            outcome.is_of_one_run();
        }
        Ok(Findings {
            experiment: name.to_owned(),
            question: question.to_owned(),
            method: method.to_owned(),
            size: bench.size,
            machine,
            at,
            took_s: started.elapsed().as_secs_f64(),
            outcome,
        })
    }
}

/// What there is to know of an experiment.
struct Entry {
    name: &'static str,
    question: &'static str,
    method: &'static str,
    measure: fn(&Bench) -> anyhow::Result<Outcome>,
}

impl Entry {
    fn of(
        name: &'static str,
        question: &'static str,
        method: &'static str,
        measure: fn(&Bench) -> anyhow::Result<Outcome>,
    ) -> Self {
        Self { name, question, method, measure }
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

/// Which systems an experiment leaves out on purpose, of all that there are, and why; `None`: none.
fn left_out(taken: &[System], why: &str) -> Option<String> {
    let all = Model::ALL.map(System::Model).into_iter().chain(Backend::ALL.map(System::Bulkhead));
    let left_out: Vec<&str> = all.filter(|it| !taken.contains(it)).map(System::name).collect();
    (!left_out.is_empty()).then(|| format!("left out on purpose: {}: {why}", left_out.join(", ")))
}

/// Does what a party does.
///
/// # Errors
/// What the party says.
pub fn take_part(party: Party) -> io::Result<()> {
    match party {
        Party::Crowd(faces) => faces.take_part(),
        Party::Troupe(troupe) => troupe.play(),
        Party::Dinner(dinner) => dinner.run(),
        Party::Session(session) => session.run(),
        Party::Peer(peer) => peer.take_part(),
        Party::Counter(counter) => counter.run(),
    }
}
