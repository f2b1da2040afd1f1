//! Preemption: one greedy task among interactive ones, on one core.
//!
//! Four interactive tasks have a small step to do every 20 ms. Then a fifth task begins, and gives nothing away until it
//! has enough. What becomes of the others depends on who decides about the processor: the kernel, which takes it away
//! from whoever has had it for long, or the tasks, which have to give it up themselves. The tasks are put together as
//! threads, as processes (as they are, at nice level 19, with a fifth of a processor and no more), on one event loop, and
//! on one event loop with the greedy part moved off to a thread. Then the greedy task waits in a blocking call instead of
//! computing; and then somebody tries to end it before it has enough.
//!
//! All are pinned to the same core, or there would be room for everybody ([`troupe`]). The tasks note themselves when they
//! ran, so that time slices become visible ([`notes`]).
//!
//! Expected: under the kernel the interactive tasks go on, a little later than before, and hardly later where the greedy
//! one is nice or capped. On the event loop not one step is done until the greedy task has enough, whether it computes or
//! blocks; moved off, it is a thread like any other. A process can be ended by itself. A thread cannot: what is sent to
//! it ends its whole process. A task on a loop is told, and does not hear it before it gives up the processor itself.

mod notes;
mod outcome;
mod troupe;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use self::notes::{Lane, Notes, now_ns};
use self::outcome::{Ending, Run};
use self::troupe::{Deed, END_IT, End, Put, READY, Role, Task};
use super::{Bench, Experiment, Party};
use crate::compartment::{Compartment, Limits};
use crate::findings::Outcome;
use crate::play::{self, Part};

pub(super) use self::troupe::Troupe;

pub(super) const QUESTION: &str = "What does one greedy task do to those beside it, and can it be ended?";
pub(super) const METHOD: &str = "Four interactive tasks (1 ms of work, due every 20 ms) and a greedy one, all pinned to one core. \
     Latency counts from when a step is due to when it is done, of the steps due while the greedy task is at it. \
     The tasks look at the clock all the time while they run; a gap of more than 0.1 ms is time in which another one ran. \
     Medians over rounds in which all arrangements are taken in turn.";

const MS: u64 = 1_000_000;
const INTERACTIVE: usize = 4;
const EVERY: u64 = 20 * MS;
/// Before and after the greedy task's time.
const AROUND: u64 = 100 * MS;
/// The lane of the greedy task; those of the interactive ones follow.
const GREEDY: usize = 0;
/// How long something may take that takes next to no time on a machine with little to do.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the greedy process may have where it is capped.
const CAP: f64 = 0.2;

/// How the tasks are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Arrangement {
    Threads,
    Processes,
    /// The greedy one at nice level 19.
    ProcessesNice,
    /// The greedy one with [`CAP`].
    ProcessesCapped,
    EventLoop,
    EventLoopMovedOff,
}

/// One thing that is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Scene {
    arrangement: Arrangement,
    /// What the greedy task does; `None`: there is none.
    deed: Option<Deed>,
}

/// In the order of tables.
const SCENES: [Scene; 9] = [
    Scene { arrangement: Arrangement::Threads, deed: None },
    Scene { arrangement: Arrangement::Threads, deed: Some(Deed::Computes) },
    Scene { arrangement: Arrangement::Processes, deed: Some(Deed::Computes) },
    Scene { arrangement: Arrangement::ProcessesNice, deed: Some(Deed::Computes) },
    Scene { arrangement: Arrangement::ProcessesCapped, deed: Some(Deed::Computes) },
    Scene { arrangement: Arrangement::EventLoop, deed: Some(Deed::Computes) },
    Scene { arrangement: Arrangement::EventLoopMovedOff, deed: Some(Deed::Computes) },
    Scene { arrangement: Arrangement::Threads, deed: Some(Deed::Blocks) },
    Scene { arrangement: Arrangement::EventLoop, deed: Some(Deed::Blocks) },
];

/// Where it is tried to end the greedy task.
const ENDINGS: [Arrangement; 6] = [
    Arrangement::Processes,
    Arrangement::ProcessesNice,
    Arrangement::ProcessesCapped,
    Arrangement::Threads,
    Arrangement::EventLoop,
    Arrangement::EventLoopMovedOff,
];

impl Arrangement {
    fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
            Self::ProcessesNice => "processes, the greedy one at nice 19",
            Self::ProcessesCapped => "processes, the greedy one with 0.2 CPUs",
            Self::EventLoop => "event loop",
            Self::EventLoopMovedOff => "event loop, the greedy part on a thread",
        }
    }

    /// Whether the kernel decides who has the processor.
    fn is_preemptive(self) -> bool {
        self != Self::EventLoop
    }

    fn put(self) -> Put {
        match self {
            Self::EventLoop => Put::EventLoop,
            Self::EventLoopMovedOff => Put::EventLoopMovedOff,
            Self::Threads | Self::Processes | Self::ProcessesNice | Self::ProcessesCapped => Put::Threads,
        }
    }

    fn has_a_process_for_each(self) -> bool {
        matches!(self, Self::Processes | Self::ProcessesNice | Self::ProcessesCapped)
    }
}

impl Scene {
    fn name(self) -> String {
        let deed = match self.deed {
            None => "nobody greedy",
            Some(Deed::Computes) => "one computes",
            Some(Deed::Blocks) => "one blocks",
        };
        format!("{}: {deed}", self.arrangement.name())
    }
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let (rounds, rounds_of_endings) = bench.size.pick((1, 1), (1, 1), (5, 3));
    let greedy_for = bench.size.pick(200, 200, 600) * MS;
    // The order is given early and has most of this time to show.
    let greedy_until_ended = bench.size.pick(1000, 600, 1200) * MS;
    let steps = rounds * SCENES.len() + rounds_of_endings * ENDINGS.len();
    let progress = bench.progress(Experiment::Preemption, steps);
    let (mut runs, mut endings, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        for scene in SCENES {
            progress.doing(&scene.name());
            let stage = Stage::build(scene, greedy_for).with_context(|| scene.name())?;
            match stage {
                Ok(stage) => runs.push(stage.play()?),
                Err(why) if !notes.contains(&why) => notes.push(why),
                Err(_) => {}
            }
            progress.step();
        }
        for arrangement in ENDINGS.into_iter().filter(|_| round < rounds_of_endings) {
            let scene = Scene { arrangement, deed: Some(Deed::Computes) };
            progress.doing(&format!("{}, and somebody ends it", scene.name()));
            if let Ok(stage) = Stage::build(scene, greedy_until_ended).with_context(|| scene.name())? {
                endings.push(stage.play_and_end()?);
            }
            progress.step();
        }
    }
    Ok(outcome::of(&runs, &endings, notes))
}

/// One process of a scene.
#[derive(Debug)]
struct Player {
    compartment: Compartment,
    pid: Pid,
    control: UnixStream,
}

/// A scene that is ready to be played.
#[derive(Debug)]
struct Stage {
    scene: Scene,
    notes: Notes,
    /// The one with the greedy task first.
    players: Vec<Player>,
    greedy_for: u64,
}

impl Stage {
    /// Starts its processes, and waits until all are ready. The inner error says why it cannot be played here.
    fn build(scene: Scene, greedy_for: u64) -> anyhow::Result<Result<Self, String>> {
        let notes = Notes::new(1 + INTERACTIVE).context("there is no memory for notes")?;
        let greedy = scene
            .deed
            .map(|deed| Task { lane: GREEDY, role: Role::Greedy { deed, from: AROUND, time: greedy_for } });
        let end = match scene.deed {
            None => End::At(greedy_for + 2 * AROUND),
            Some(_) => End::After { lane: GREEDY, time: greedy_for + AROUND },
        };
        let interactive = (0..INTERACTIVE).map(|nth| Task {
            lane: 1 + nth,
            role: Role::Interactive {
                first: EVERY * nth as u64 / INTERACTIVE as u64,
                every: EVERY,
                work: MS,
                end,
            },
        });
        let tasks: Vec<Task> = greedy.into_iter().chain(interactive).collect();
        let troupes: Vec<Vec<Task>> = if scene.arrangement.has_a_process_for_each() {
            tasks.iter().map(|task| vec![*task]).collect()
        } else {
            vec![tasks]
        };
        let mut players = Vec::new();
        for tasks in troupes {
            let greedy = tasks.iter().any(|task| task.lane == GREEDY);
            let nice = if greedy && scene.arrangement == Arrangement::ProcessesNice { 19 } else { 0 };
            let mut compartment = Compartment::new(Limits { memory: 256 << 20, pids: 64 });
            if greedy && scene.arrangement == Arrangement::ProcessesCapped && !compartment.cap_cpu(CAP) {
                return Ok(Err(format!(
                    "{} was not run: this user may make no control group with a limit of processor time; root may",
                    scene.arrangement.name()
                )));
            }
            let troupe = Troupe { notes: notes.path(), put: scene.arrangement.put(), tasks, nice };
            let (control, theirs) = UnixStream::pair()?;
            let command = play::command(&Part::Party(Party::Troupe(troupe)))?;
            let pid = compartment.start(command, Stdio::from(OwnedFd::from(theirs)))?;
            control.set_read_timeout(Some(PATIENCE))?;
            players.push(Player { compartment, pid, control });
        }
        for player in &mut players {
            let mut said = [0];
            let ready = player.control.read_exact(&mut said).is_ok() && said[0] == READY;
            if !ready {
                bail!("a process does not get ready within {PATIENCE:?}; what it said is on standard error");
            }
        }
        Ok(Ok(Self { scene, notes, players, greedy_for }))
    }

    /// Begins; when that is.
    fn begin(&mut self) -> anyhow::Result<u64> {
        // Until then the word has reached everybody.
        let start = now_ns() + 20 * MS;
        for player in &mut self.players {
            player.control.write_all(&start.to_le_bytes()).context("a process ended before the beginning")?;
        }
        Ok(start)
    }

    fn play(mut self) -> anyhow::Result<Run> {
        let start = self.begin()?;
        self.wait()?;
        Ok(Run { scene: self.scene, start, greedy: self.greedy(start), interactive: self.interactive() })
    }

    /// In the middle of its time somebody orders the greedy task to end, by whatever means there is.
    fn play_and_end(mut self) -> anyhow::Result<Ending> {
        self.begin()?;
        let greedy = self.await_greedy()?;
        std::thread::sleep(Duration::from_nanos((greedy.began + AROUND).saturating_sub(now_ns())));
        let who = i32::try_from(greedy.who).unwrap_or(0);
        let ordered = now_ns();
        if let Some(player) = self.players.first_mut() {
            match self.scene.arrangement {
                Arrangement::Threads => {
                    // There is no call that ends another thread. This one is addressed to it, and is the closest.
                    let thread = Pid::from_raw(who).context("the greedy thread has not said who it is")?;
                    kill_process(thread, Signal::KILL).context("cannot kill the greedy thread")?;
                }
                Arrangement::EventLoop | Arrangement::EventLoopMovedOff => {
                    player.control.write_all(&[END_IT]).context("the event loop's process has ended")?;
                }
                _ => kill_process(player.pid, Signal::KILL).context("cannot kill the greedy process")?,
            }
        }
        self.wait()?;
        Ok(Ending {
            arrangement: self.scene.arrangement,
            ordered,
            own_end: greedy.began + self.greedy_for,
            last: self.notes.read(GREEDY).last,
            interactive: self.interactive(),
        })
    }

    /// The greedy task may be late, as everybody is on a machine with much to do.
    fn await_greedy(&self) -> anyhow::Result<Lane> {
        let until = Instant::now() + PATIENCE;
        loop {
            let greedy = self.notes.read(GREEDY);
            if greedy.began != 0 {
                return Ok(greedy);
            }
            if Instant::now() > until {
                bail!("{}: the greedy task has not begun: {greedy:?}", self.scene.name());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until everybody is through.
    fn wait(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + 3 * PATIENCE;
        while self.players.iter_mut().any(|player| player.compartment.lives()) {
            if Instant::now() > until {
                let lanes: Vec<_> = (0..=INTERACTIVE).map(|lane| self.notes.read(lane)).collect();
                bail!("{} does not come to an end; so far: {lanes:?}", self.scene.name());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// What the greedy task did; where there is none, when it would have.
    fn greedy(&self, start: u64) -> Lane {
        match self.scene.deed {
            Some(_) => self.notes.read(GREEDY),
            None => {
                Lane { began: start + AROUND, ended: start + AROUND + self.greedy_for, ..Lane::default() }
            }
        }
    }

    fn interactive(&self) -> Vec<Lane> {
        (1..=INTERACTIVE).map(|lane| self.notes.read(lane)).collect()
    }
}
