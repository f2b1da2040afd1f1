//! Deadlock: parties that each hold what the next one needs, and three ways out.
//!
//! Dining philosophers: N parties at a table with N forks between them, and each needs the two beside him to eat. Each
//! takes the left one first. When all have taken their left ones at the same time, all wait, and nobody ever puts one
//! back. With two parties this is the plain case: two locks, taken in opposite order.
//!
//! ```text
//!   this process                                     a process of the dinner, in a compartment
//!     watch ◄──────────── memory that both see ◄────── party 0 … N-1, threads     record, table
//!       │    meals, who holds which fork
//!       ├──► /proc/PID/task: who sleeps on which lock?                             kernel
//!       └──► the wait-for graph of both: is there a circle?                        graph
//! ```
//!
//! Whoever is stuck stays stuck, so a dinner is a process, and is killed afterwards. That it *is* stuck is not guessed
//! from silence: the kernel has to show every party asleep on a lock that the next one holds, twice in a row with no
//! meal between, and so that it goes in a circle.
//!
//! Expected: without a remedy every dinner stops for ever as soon as there is some time between taking the first
//! fork and the second, and the sooner the longer that time is; with almost none it may go well for long, which is why
//! such mistakes survive tests. With each of the three remedies nobody is ever stuck. An order costs nothing and has no
//! retries; detection has few victims; the time-out has the most retries, for it cannot tell slow from stuck, and
//! the fewest meals.

mod evaluate;
mod graph;
mod kernel;
mod record;
mod table;

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Pid;

use self::evaluate::{Figures, Fixed, Stuck};
use self::kernel::{Call, Thread};
use self::record::{Diary, Record};
pub(super) use self::table::Dinner;
use self::table::{Pace, Way};
use super::{Bench, Experiment, Party};
use crate::compartment::{Compartment, Limits};
use crate::findings::Outcome;
use crate::play::{self, Part};

pub(super) const QUESTION: &str = "When do parties that take two locks in opposite order stop for ever, and what does each way out of that cost?";
pub(super) const METHOD: &str = "Two and five threads around a table of as many locks, in a process that can be killed. Each thinks, takes one, \
     reaches for the next, eats with both. Stuck is when the kernel shows each asleep on a lock that the next one holds. \
     Medians over dinners in which all ways are taken in turn; closed loop.";

const PARTIES: [usize; 2] = [2, 5];

/// For figures: µs each.
const BRISK: Pace = Pace { think: 400, reach: 50, eat: 100 };

/// For pictures: slow enough to be seen.
const SLOW: Pace = Pace { think: 6_000, reach: 2_500, eat: 4_000 };

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let runs: u64 = bench.size.pick(1, 2, 5);
    let reaches: &[u64] = bench.size.pick(&[200], &[0, 20, 200], &[0, 5, 20, 50, 200, 1000]);
    let patience = Duration::from_millis(bench.size.pick(20_000, 400, 2_500));
    let time = Duration::from_millis(bench.size.pick(300, 300, 1_000));
    let (dinners, all) = (PARTIES.len(), 1 + Way::REMEDIES.len());
    let steps = usize::try_from(runs)? * dinners * (reaches.len() + Way::REMEDIES.len()) + all;
    let progress = bench.progress(Experiment::Deadlock, steps);
    let mut figures = Figures::default();
    for run in 0..runs {
        for parties in PARTIES {
            for &reach in reaches {
                progress.doing(&format!("{parties} parties until they are stuck"));
                let pace = Pace { reach, ..BRISK };
                let dinner = Dinner { parties, way: Way::Opposite, pace, seed: run };
                // A dinner that fails costs itself, and not what is known of the others.
                match until_stuck(dinner, patience) {
                    Ok(seen) => figures.stuck.push(Stuck::of(dinner, &seen)),
                    Err(error) => {
                        figures.not_run.push(format!("{parties} parties without a remedy: {error:#}"));
                    }
                }
                progress.step();
            }
            for way in Way::REMEDIES {
                progress.doing(&format!("{parties} parties, {}", way.name()));
                let dinner = Dinner { parties, way, pace: BRISK, seed: run };
                match Seated::begin(dinner) {
                    Ok(seated) => figures.remedies.push(Fixed::of(dinner, &seated.dine(time))),
                    Err(error) => {
                        figures.not_run.push(format!("{parties} parties, {}: {error:#}", way.name()));
                    }
                }
                progress.step();
            }
        }
    }
    progress.doing("pictures");
    let slow = |way| Dinner { parties: 5, way, pace: SLOW, seed: 7 };
    match until_stuck(slow(Way::Opposite), Duration::from_secs(20)) {
        Ok(last) => {
            figures.pictures.push((Way::Opposite, last.diaries));
            figures.kernel = last.shown;
        }
        Err(error) => figures.not_run.push(format!("the picture of no remedy: {error:#}")),
    }
    for way in Way::REMEDIES {
        progress.step();
        match Seated::begin(slow(way)) {
            Ok(seated) => figures.pictures.push((way, seated.dine(Duration::from_millis(120)).diaries)),
            Err(error) => figures.not_run.push(format!("the picture of {}: {error:#}", way.name())),
        }
    }
    Ok(evaluate::outcome(&figures, patience))
}

/// A dinner that goes on. It is ended, whatever became of it, when this is dropped.
struct Seated {
    dinner: Dinner,
    record: Record,
    pid: Pid,
    since: Instant,
    compartment: Compartment,
}

/// What was seen of a dinner.
struct Seen {
    diaries: Vec<Diary>,
    lasted: Duration,
    /// What the kernel showed in the end, if it got stuck.
    shown: Option<Vec<Shown>>,
}

/// A thread that is stuck: what the kernel shows of it, and what that means.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
struct Shown {
    thread: Thread,
    /// The lock that it sleeps on.
    wants: Option<usize>,
    /// Who holds that.
    held_by: Option<usize>,
}

impl Seated {
    fn begin(dinner: Dinner) -> anyhow::Result<Self> {
        let (record, file) = Record::fresh().context("no memory for the record of a dinner")?;
        let command = play::command(&Part::Party(Party::Dinner(dinner)))?;
        let mut compartment = Compartment::new(Limits { memory: 256 << 20, pids: 64 });
        let pid = compartment.start(command, Stdio::from(file)).context("cannot start a dinner")?;
        let until = Instant::now() + Duration::from_secs(20);
        while !record.has_begun() {
            if !compartment.lives() || Instant::now() > until {
                bail!("the process of a dinner has not begun; what it said last is on standard error");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Self { dinner, record, pid, since: Instant::now(), compartment })
    }

    fn diaries(&self) -> Vec<Diary> {
        (0..self.dinner.parties).map(|party| self.record.diary(party)).collect()
    }

    /// For so long, and then in peace. That everybody gets up in the end is part of what is measured: who does not is
    /// stuck, and is shown.
    fn dine(mut self, time: Duration) -> Seen {
        std::thread::sleep(time.saturating_sub(self.since.elapsed()));
        let (lasted, diaries) = (self.since.elapsed(), self.diaries());
        self.record.end();
        let until = Instant::now() + Duration::from_secs(20);
        while self.compartment.lives() {
            if Instant::now() > until {
                return Seen { diaries, lasted, shown: Some(self.look()) };
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Seen { diaries, lasted, shown: None }
    }

    /// What the kernel shows of the parties now, in their order.
    fn look(&self) -> Vec<Shown> {
        let parties = kernel::threads(self.pid).into_iter().filter(|it| it.name.starts_with("party "));
        let mut shown: Vec<Shown> = parties
            .map(|thread| {
                let wants = match thread.call {
                    Call::Futex(address) => self.record.lock_at(address),
                    _ => None,
                };
                Shown { wants, held_by: wants.and_then(|fork| self.record.holder(fork)), thread }
            })
            .collect();
        shown.sort_by(|one, other| one.thread.name.cmp(&other.thread.name));
        shown
    }

    fn meals(&self) -> Vec<u64> {
        (0..self.dinner.parties).map(|party| self.record.meals(party)).collect()
    }
}

/// Whether what is shown is a circle of all.
fn is_circle(shown: &[Shown], parties: usize) -> bool {
    let waits: Vec<_> = shown.iter().map(|it| it.held_by).collect();
    waits.len() == parties && graph::cycle(&waits).is_some_and(|cycle| cycle.len() == parties)
}

/// Dines without a remedy until nobody can move, or until that time is over.
fn until_stuck(dinner: Dinner, patience: Duration) -> anyhow::Result<Seen> {
    let seated = Seated::begin(dinner)?;
    let mut meals = seated.meals();
    let mut last_meal = seated.since.elapsed();
    loop {
        std::thread::sleep(Duration::from_millis(3));
        let (now, lasted) = (seated.meals(), seated.since.elapsed());
        if now != meals {
            (meals, last_meal) = (now, lasted);
        } else {
            let first = seated.look();
            let hidden = first.iter().any(|it| it.thread.call == Call::Hidden);
            // Twice the same, and no meal between; where the kernel shows nothing, silence has to do.
            let again = || seated.look() == first && seated.meals() == meals;
            let silent = hidden && lasted > last_meal + Duration::from_secs(2);
            if (is_circle(&first, dinner.parties) && again()) || silent {
                return Ok(Seen { diaries: seated.diaries(), lasted: last_meal, shown: Some(first) });
            }
        }
        if lasted > patience {
            return Ok(Seen { diaries: seated.diaries(), lasted, shown: None });
        }
    }
}
