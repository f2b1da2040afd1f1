//! A lab that is ended in the middle of something, by Ctrl-C or by SIGKILL, leaves nothing behind: no process, no control
//! group, no file for scratch, no shared memory.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use lab::experiments::Experiment;
use libtest_mimic::{Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};

/// Names the experiment that this program is to run, as a lab of its own.
const RUN: &str = "BULKHEAD_LAB_TEST_RUN";

/// Tells what such a lab has started from what others have.
const MARK: &str = "BULKHEAD_LAB_TEST_MARK";

/// How long it may take to get into the middle, and to clear up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs an experiment if that is what this program was started for.
pub(crate) fn if_asked() -> Option<ExitCode> {
    let name = std::env::var(RUN).ok()?;
    lab::janitor::engage();
    let experiment = Experiment::from_str(&name, true).ok()?;
    Some(match experiment.run(&crate::bench()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for experiment in [Experiment::Scale, Experiment::Pool] {
        for (how, signal) in [("interrupted", Signal::INT), ("killed", Signal::KILL)] {
            let name = format!("killed::{}_that_is_{how}_leaves_nothing", experiment.name());
            let trial = Trial::test(name, move || leaves_nothing(experiment, signal));
            trials.push(match experiment.is_possible(&crate::bench()) {
                Ok(()) => trial,
                Err(missing) => trial.with_kind(missing).with_ignored_flag(true),
            });
        }
    }
    trials
}

/// Killed when this is dropped, if it still runs.
struct Lab {
    child: Child,
    mark: String,
    scratch: tempfile::TempDir,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What there is of a lab.
#[derive(Debug, Default)]
struct Left {
    processes: Vec<String>,
    groups: Vec<PathBuf>,
    scratch: Vec<PathBuf>,
    segments: BTreeSet<String>,
}

impl Left {
    fn is_nothing(&self) -> bool {
        self.processes.is_empty()
            && self.groups.is_empty()
            && self.scratch.is_empty()
            && self.segments.is_empty()
    }
}

impl Lab {
    fn start(experiment: Experiment) -> Result<Self, Failed> {
        let scratch = tempfile::Builder::new().prefix("bulkhead-lab-test-").tempdir()?;
        // PostgreSQL's directory is in it, and PostgreSQL is somebody else.
        std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755))?;
        let mark = scratch.path().display().to_string();
        let mut command = Command::new("/proc/self/exe");
        command.env(RUN, experiment.name()).env(MARK, &mark).env("TMPDIR", scratch.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn()?;
        Ok(Self { child, mark, scratch })
    }

    /// Of `segments` those that are still there.
    fn left(&self, segments: &BTreeSet<String>) -> Left {
        let name = format!("bulkhead-lab-{}-", self.child.id());
        let mut groups = Vec::new();
        find_dirs(Path::new("/sys/fs/cgroup"), &name, &mut groups);
        let scratch = std::fs::read_dir(self.scratch.path()).into_iter().flatten().flatten();
        let there: BTreeSet<String> = self::segments().into_iter().map(|(id, _)| id).collect();
        Left {
            processes: self
                .processes(&name)
                .into_iter()
                .map(|(pid, words)| format!("{pid}: {words}"))
                .collect(),
            groups,
            scratch: scratch.map(|it| it.path()).collect(),
            segments: segments.intersection(&there).cloned().collect(),
        }
    }

    /// Those that it has started, and the lab: by their surroundings, their group, or what they were told on their command line.
    fn processes(&self, name: &str) -> Vec<(u32, String)> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
        let of_it = |pid: &u32| {
            let says = |file: &str, what: &str| {
                let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                String::from_utf8_lossy(&bytes).contains(what)
            };
            let is_alive = !says("stat", ") Z ");
            is_alive && (says("environ", &self.mark) || says("cmdline", &self.mark) || says("cgroup", name))
        };
        let words = |pid: u32| {
            let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&bytes).replace('\0', " "))
        };
        pids.filter(of_it).map(words).collect()
    }

    /// Waits until what it measures is there.
    fn await_middle(&mut self, experiment: Experiment) -> Result<(), Failed> {
        let until = Instant::now() + PATIENCE;
        let name = format!("bulkhead-lab-{}-", self.child.id());
        loop {
            let processes = self.processes(&name);
            let has = |what: &str| processes.iter().any(|(_, words)| words.contains(what));
            let is_there = match experiment {
                Experiment::Pool => has("\"session\"") && !self.segments(&processes).is_empty(),
                _ => has("\"server\"") && has("\"crowd\""),
            };
            if is_there {
                return Ok(());
            }
            if let Some(ended) = self.child.try_wait()? {
                return Err(format!("the lab has ended before its time: {ended}").into());
            }
            if Instant::now() > until {
                return Err(format!("the lab does not get into the middle: {processes:?}").into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The shared memory that one of these has made.
    fn segments(&self, processes: &[(u32, String)]) -> BTreeSet<String> {
        let of_it = |maker: u32| processes.iter().any(|(pid, _)| *pid == maker);
        segments().into_iter().filter(|(_, maker)| of_it(*maker)).map(|(id, _)| id).collect()
    }
}

fn leaves_nothing(experiment: Experiment, signal: Signal) -> Result<(), Failed> {
    let mut lab = Lab::start(experiment)?;
    lab.await_middle(experiment)?;
    let name = format!("bulkhead-lab-{}-", lab.child.id());
    let segments = lab.segments(&lab.processes(&name));
    kill_process(Pid::from_child(&lab.child), signal)?;
    lab.child.wait()?;
    let until = Instant::now() + PATIENCE;
    loop {
        let left = lab.left(&segments);
        if left.is_nothing() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("{PATIENCE:?} after its end there is left of the lab: {left:#?}").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Of System V: the number of each segment, and who has made it.
fn segments() -> Vec<(String, u32)> {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let row = |line: &str| {
        // key, shmid, perms, size, cpid, …
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        Some(((*columns.get(1)?).to_owned(), columns.get(4)?.parse().ok()?))
    };
    table.lines().skip(1).filter_map(row).collect()
}

fn find_dirs(dir: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            if entry.file_name().to_string_lossy().starts_with(name) {
                found.push(entry.path());
            }
            find_dirs(&entry.path(), name, found);
        }
    }
}
