//! Whoever clears up after a lab that could not do it itself.
//!
//! What the lab starts lives in groups of its own, so Ctrl-C does not reach it, and a lab that is killed drops nothing. So there
//! is a second process, in a group of its own too, that does nothing but wait for the lab to end, however that
//! may be. It is told line by line what there is, and what is gone again. When its input ends it removes what is left:
//! processes, control groups, containers, directories.
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

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::compartment::with_descendants;
use crate::engine;
use crate::play::{self, Part};

/// Something that outlives a lab which is killed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Belonging {
    /// A control group, with all that is in it.
    ControlGroup(PathBuf),
    /// A process and its descendants, and when it was started (in the kernel's clock ticks): a pid can be somebody else's later.
    Processes {
        /// Its pid.
        leader: i32,
        /// As in `/proc/PID/stat`.
        started: u64,
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

static JANITOR: OnceLock<Option<Mutex<ChildStdin>>> = OnceLock::new();

/// Starts the janitor of this process. Who starts none clears up only in the ordinary way.
pub fn engage() {
    JANITOR.get_or_init(|| {
        let started = play::command(&Part::Janitor).and_then(|mut command| {
            command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn()
        });
        // It is not waited for: it ends after this process.
        started.ok()?.stdin.map(Mutex::new)
    });
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
    let Some(Some(janitor)) = JANITOR.get() else { return };
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
        let pid = leader.as_raw_nonzero().get();
        Self::Processes { leader: pid, started: start_time(pid).unwrap_or(0) }
    }

    fn remove(&self) {
        match self {
            Self::ControlGroup(dir) => {
                let members = || {
                    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect::<Vec<_>>()
                };
                let until = Instant::now() + Duration::from_secs(10);
                while std::fs::remove_dir(dir).is_err() && dir.exists() && Instant::now() < until {
                    for pid in members() {
                        let _ = kill_process(pid, Signal::KILL);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Self::Processes { leader, started } => {
                if start_time(*leader) == Some(*started)
                    && let Some(leader) = Pid::from_raw(*leader)
                {
                    for pid in with_descendants(leader) {
                        let _ = kill_process(pid, Signal::KILL);
                    }
                }
            }
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

/// When a process was started, in the kernel's clock ticks since the machine was.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}
