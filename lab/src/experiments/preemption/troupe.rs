//! The tasks themselves: how they are put together, and what each does.
//!
//! A troupe is a process with one or more tasks. It says that it is ready, is told when to begin, and plays to the end
//! of the time; what it does it notes in [`Notes`]. While it plays, an order to end the greedy task may come; what
//! comes of it depends on how the tasks are put together. If the experiment is gone, so is the troupe.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::{AbortHandle, JoinSet, LocalSet};

use super::notes::{Notes, Pen, now_ns};
use crate::cores;

/// A process of the experiment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Troupe {
    /// Where the notes are.
    pub(super) notes: String,
    /// How its tasks are put together.
    pub(super) put: Put,
    /// What they are.
    pub(super) tasks: Vec<Task>,
    /// Added to the process's nice level.
    pub(super) nice: i32,
}

/// How tasks are put together in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Put {
    /// A thread for each.
    Threads,
    /// All on one event loop.
    EventLoop,
    /// As above, and what is greedy is handed to a thread of its own.
    EventLoopMovedOff,
}

/// One task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Task {
    /// Where it notes what it does.
    pub lane: usize,
    /// What it does.
    pub role: Role,
}

/// What a task does. Times are in ns, from the beginning of the play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// A small step, every so often.
    Interactive {
        /// When the first step is due.
        first: u64,
        /// From step to step.
        every: u64,
        /// How much of the processor's time a step takes.
        work: u64,
        /// Until when.
        end: End,
    },
    /// From then on, and for so long, it gives nothing away.
    Greedy {
        /// What it does.
        deed: Deed,
        /// When it begins, if it has the processor then.
        from: u64,
        /// For how long.
        time: u64,
    },
}

/// Until when there are steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// From the beginning of the play.
    At(u64),
    /// After the task that notes in that lane has begun, and has had its time. When it begins is up to the scheduler:
    /// beside others, a nice one may wait for long.
    After {
        /// Which task.
        lane: usize,
        /// From when it began.
        time: u64,
    },
}

/// Who waits for a task that does not begin has waited for long enough after this, in ns.
const LONG_ENOUGH: u64 = 20_000_000_000;

/// In what way a task is greedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Deed {
    /// It computes without a pause.
    Computes,
    /// It waits in a call that blocks.
    Blocks,
}

/// Said by a troupe that is ready.
pub(super) const READY: u8 = b'r';
/// Said to a troupe: end the greedy task.
pub(super) const END_IT: u8 = b'e';

/// What an order to end the greedy task goes to, where tasks know how to be ended.
type Handle = Arc<Mutex<Option<AbortHandle>>>;

impl Troupe {
    /// Plays to the end.
    pub(crate) fn play(&self) -> io::Result<()> {
        let mut control = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?);
        let notes = Notes::open(&self.notes)?;
        // All tasks of all troupes on the same core, or there would be room for everybody.
        cores::keep_to(1)?;
        if self.nice != 0 {
            rustix::process::nice(self.nice)?;
        }
        control.write_all(&[READY])?;
        let mut start = [0; 8];
        control.read_exact(&mut start)?;
        let start = u64::from_le_bytes(start);
        let greedy = Handle::default();
        let told = Arc::clone(&greedy);
        thread::Builder::new().spawn(move || obey(control, &told))?;
        match self.put {
            Put::Threads => thread::scope(|scope| {
                for task in &self.tasks {
                    let notes = &notes;
                    scope.spawn(move || task.play_blocking(notes, start));
                }
                Ok(())
            }),
            Put::EventLoop | Put::EventLoopMovedOff => self.play_on_a_loop(notes, start, &greedy),
        }
    }

    fn play_on_a_loop(&self, notes: Notes, start: u64, greedy: &Handle) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let notes = Arc::new(notes);
        let moved_off = self.put == Put::EventLoopMovedOff;
        runtime.block_on(LocalSet::new().run_until(async move {
            let mut tasks = JoinSet::new();
            for task in self.tasks.clone() {
                let notes = Arc::clone(&notes);
                let handle =
                    tasks.spawn_local(async move { task.play_on_a_loop(notes, start, moved_off).await });
                if let (Role::Greedy { .. }, Ok(mut greedy)) = (task.role, greedy.lock()) {
                    *greedy = Some(handle);
                }
            }
            while tasks.join_next().await.is_some() {}
        }));
        Ok(())
    }
}

/// Waits for orders; without anybody to give them, the process ends.
fn obey(mut control: UnixStream, greedy: &Handle) {
    let mut order = [0];
    while control.read_exact(&mut order).is_ok() {
        if let (END_IT, Ok(greedy)) = (order[0], greedy.lock())
            && let Some(greedy) = &*greedy
        {
            greedy.abort();
        }
    }
    std::process::exit(1);
}

impl Task {
    fn play_blocking(self, notes: &Notes, start: u64) {
        let pen = notes.pen(self.lane);
        pen.who();
        match self.role {
            Role::Interactive { work, .. } => {
                for due in self.role.due(notes, start) {
                    thread::sleep(until(due));
                    pen.compute(work, u64::MAX);
                    pen.step(due);
                }
            }
            Role::Greedy { deed, from, time } => {
                thread::sleep(until(start + from));
                be_greedy(pen, deed, time);
            }
        }
    }

    async fn play_on_a_loop(self, notes: Arc<Notes>, start: u64, moved_off: bool) {
        let pen = notes.pen(self.lane);
        pen.who();
        match self.role {
            Role::Interactive { work, .. } => {
                for due in self.role.due(&notes, start) {
                    tokio::time::sleep(until(due)).await;
                    pen.compute(work, u64::MAX);
                    pen.step(due);
                }
            }
            Role::Greedy { deed, from, time } => {
                tokio::time::sleep(until(start + from)).await;
                if moved_off {
                    let (notes, lane) = (Arc::clone(&notes), self.lane);
                    let away = move || be_greedy(notes.pen(lane), deed, time);
                    // It can only fail by a panic over there, which shows in the notes: it has no end.
                    let _ = tokio::task::spawn_blocking(away).await;
                } else {
                    be_greedy(pen, deed, time);
                }
            }
        }
    }
}

impl Role {
    /// When its steps are due, if it has steps.
    fn due(self, notes: &Notes, start: u64) -> impl Iterator<Item = u64> {
        let (first, every, end) = match self {
            Self::Interactive { first, every, end, .. } => (first, every.max(1), end),
            Self::Greedy { .. } => (0, 1, End::At(0)),
        };
        let is_over = move |due: u64| match end {
            End::At(end) => due >= start + end,
            End::After { lane, time } => match notes.pen(lane).when() {
                (0, _) => due >= start + LONG_ENOUGH,
                (began, ended) => due >= ended.max(began) + time,
            },
        };
        (0..).map(move |nth| start + first + nth * every).take_while(move |due| !is_over(*due))
    }
}

fn be_greedy(pen: Pen<'_>, deed: Deed, time: u64) {
    let to = pen.began() + time;
    match deed {
        Deed::Computes => pen.compute(u64::MAX, to),
        Deed::Blocks => thread::sleep(until(to)),
    }
    pen.ended();
}

fn until(due: u64) -> Duration {
    Duration::from_nanos(due.saturating_sub(now_ns()))
}
