//! Whoever clears up after a lab that could not do it itself.
//!
//! What the lab starts lives in groups of its own, so Ctrl-C does not reach it, and a lab that is killed drops nothing. So there
//! is a second process, in a group of its own too, that does nothing but wait for the lab to end, however that
//! may be. It is told line by line what there is, and what is gone again. When its input ends it removes what is left:
//! processes, control groups, containers, directories. A database is asked to stop first and has two seconds for it: killed, it
//! would leave shared memory behind, which no directory holds.
//!
//! If the janitor itself is killed, nobody is harmed: then things are cleared up as far as the lab does so in the
//! ordinary way.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::compartment::End;
use crate::engine;
use crate::groups;
use crate::play::{self, Part};
use crate::processes;

/// How long who is asked to end may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something that outlives a lab which is killed. What comes first is removed first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Belonging {
    /// A process that is asked to end before it is killed as below.
    Asked {
        /// Its pid.
        leader: i32,
        /// As below.
        started: u64,
        /// The number of the signal that asks it.
        signal: i32,
        /// Whether its process group is asked with it.
        with_group: bool,
    },
    /// A control group, with all that is in it.
    ControlGroup(PathBuf),
    /// A process, those in the process group that it leads, and all their descendants; and when it was started (in the kernel's
    /// clock ticks): a pid can be somebody else's later.
    Processes {
        /// Its pid.
        leader: i32,
        /// As in `/proc/PID/stat`.
        started: u64,
    },
    /// The group of version 2 in which the lab's own processes are, so that the one that it was given can be divided.
    Aside {
        /// The one that it was given.
        own: PathBuf,
        /// Within that.
        aside: PathBuf,
    },
    /// Containers with this label, `key=value`.
    Containers(String),
    /// A directory and what is in it.
    Directory(PathBuf),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Have(Belonging),
    Gone(Belonging),
}

static JANITOR: OnceLock<Option<(Pid, Mutex<ChildStdin>)>> = OnceLock::new();

/// Starts the janitor of this process. Who starts none clears up only in the ordinary way.
pub fn engage() {
    JANITOR.get_or_init(|| {
        let started = play::command(&Part::Janitor).and_then(|mut command| {
            command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn()
        });
        // It is not waited for: it ends after this process.
        let mut janitor = started.ok()?;
        let pid = Pid::from_child(&janitor);
        janitor.stdin.take().map(|stdin| (pid, Mutex::new(stdin)))
    });
}

/// Which process it is, if there is one.
pub(crate) fn pid() -> Option<Pid> {
    JANITOR.get()?.as_ref().map(|(pid, _)| *pid)
}

/// Something is there that is to be cleared up.
pub fn have(belonging: Belonging) {
    tell(&Word::Have(belonging));
}

/// It has been.
pub fn gone(belonging: Belonging) {
    tell(&Word::Gone(belonging));
}

fn tell(word: &Word) {
    let Some(Some((_, janitor))) = JANITOR.get() else { return };
    if let Ok(mut line) = serde_json::to_vec(word) {
        line.push(b'\n');
        // A janitor that is gone costs nothing but the clearing up.
        let _ = janitor.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
    }
}

/// What the janitor does.
pub(super) fn run() -> io::Result<()> {
    let mut left = BTreeSet::new();
    for line in io::stdin().lines() {
        match serde_json::from_str(&line?) {
            Ok(Word::Have(belonging)) => {
                left.insert(belonging);
            }
            Ok(Word::Gone(belonging)) => {
                left.remove(&belonging);
            }
            Err(error) => eprintln!("the janitor was told what it does not understand: {error}"),
        }
    }
    // In the order of the variants: processes before the containers and directories that they use.
    left.iter().for_each(Belonging::remove);
    Ok(())
}

impl Belonging {
    /// A process that runs, with its descendants.
    pub fn processes(leader: Pid) -> Self {
        let started = processes::start_time(leader).unwrap_or(0);
        Self::Processes { leader: leader.as_raw_nonzero().get(), started }
    }

    /// A process that runs and leads a process group, to be ended in that way.
    pub(crate) fn led_by(leader: Pid, started: u64, end: End) -> Self {
        let leader = leader.as_raw_nonzero().get();
        let asked =
            |signal: Signal, with_group| Self::Asked { leader, started, signal: signal.as_raw(), with_group };
        match end {
            End::Kill => Self::Processes { leader, started },
            End::Ask(signal) => asked(signal, false),
            End::AskAll(signal) => asked(signal, true),
        }
    }

    fn remove(&self) {
        match self {
            Self::Asked { leader, started, signal, with_group } => {
                let Some(leader) = Pid::from_raw(*leader) else { return };
                let Some(signal) = Signal::from_named_raw(*signal) else { return };
                if processes::lives(leader, *started) {
                    let _ = if *with_group {
                        kill_process_group(leader, signal)
                    } else {
                        kill_process(leader, signal)
                    };
                }
                let until = Instant::now() + PATIENCE;
                while processes::lives(leader, *started) && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(5));
                }
                kill_all(leader, *started);
            }
            Self::ControlGroup(dir) => {
                let until = Instant::now() + Duration::from_secs(10);
                while std::fs::remove_dir(dir).is_err() && dir.exists() && Instant::now() < until {
                    for pid in groups::members(dir) {
                        let _ = kill_process(pid, Signal::KILL);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Self::Processes { leader, started } => {
                if let Some(leader) = Pid::from_raw(*leader) {
                    kill_all(leader, *started);
                }
            }
            Self::Aside { own, aside } => groups::step_back(own, aside),
            Self::Containers(label) => {
                if let Err(error) = engine::remove_containers(label) {
                    eprintln!("containers with the label {label} may be left: {error}");
                }
            }
            Self::Directory(dir) => {
                let _ = std::fs::remove_dir_all(dir);
            }
        }
    }
}

/// Kills whoever a leader has started, and itself, until nobody is left.
fn kill_all(leader: Pid, started: u64) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let left = processes::of_leader(leader, started);
        if left.is_empty() || Instant::now() > until {
            return;
        }
        for pid in left {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
