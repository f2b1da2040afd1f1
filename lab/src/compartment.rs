//! Where the lab puts what it starts, so that no fault gets further.
//!
//! A compartment is a control group with a limit of memory and of processes, where this user may make one (root, or a
//! delegated hierarchy); otherwise a process group of its own and nothing more. What is put in is put in before it
//! runs: a shell joins the group and then becomes the program. Whatever is still in a compartment when it is dropped is
//! killed, by the group and not by name, and so nothing of a fork bomb is left. Where the lab itself is killed, its
//! [`janitor`] does that.
//!
//! Experiments ask [`Compartment::caps_processes`] before they do what only a limit of processes survives.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process, kill_process_group, setrlimit,
};

use crate::janitor::{self, Belonging};

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// What everything in a compartment may have, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In bytes.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u32,
}

/// Room for one system.
#[derive(Debug)]
pub struct Compartment {
    name: String,
    groups: Vec<ControlGroup>,
    leader: Option<Child>,
    /// The leader, as the janitor knows it.
    belonging: Option<Belonging>,
}

/// One control group that belongs to a compartment.
#[derive(Debug)]
struct ControlGroup {
    dir: PathBuf,
    caps_processes: bool,
    caps_memory: bool,
}

impl Compartment {
    /// With these limits, as far as this user may set them.
    pub fn new(limits: Limits) -> Self {
        static NTH: AtomicU32 = AtomicU32::new(0);
        let name = format!("bulkhead-lab-{}-{}", std::process::id(), NTH.fetch_add(1, Ordering::Relaxed));
        let groups = make_groups(Path::new(GROUPS), &name, limits);
        for group in &groups {
            janitor::have(Belonging::ControlGroup(group.dir.clone()));
        }
        // Whoever faults in the lab does so on purpose: nobody wants its memory on disk.
        let no_cores = Rlimit { current: Some(0), maximum: getrlimit(Resource::Core).maximum };
        let _ = setrlimit(Resource::Core, no_cores);
        Self { name, groups, leader: None, belonging: None }
    }

    /// Gives everybody in it, taken together, that share of one processor's time and no more: 0.2 is 20 ms of each
    /// 100 ms. To be called before something is started. Whether this user may: `false` leaves it as it was.
    pub fn cap_cpu(&mut self, share: f64) -> bool {
        const PERIOD_US: f64 = 100_000.0;
        let quota = format!("{:.0}", share * PERIOD_US);
        let root = Path::new(GROUPS);
        if root.join("cgroup.controllers").exists() {
            let Some(group) = self.groups.first() else { return false };
            return std::fs::write(group.dir.join("cpu.max"), format!("{quota} {PERIOD_US:.0}")).is_ok();
        }
        let group = make_group(root.join("cpu").join(&self.name), &[("cpu.cfs_quota_us", &quota)]);
        let capped = group.is_some();
        if let Some(group) = &group {
            janitor::have(Belonging::ControlGroup(group.dir.clone()));
        }
        self.groups.extend(group);
        capped
    }

    /// Whether it has a limit of processes.
    pub fn caps_processes(&self) -> bool {
        self.groups.iter().any(|group| group.caps_processes)
    }

    /// Whether it has a limit of memory.
    pub fn caps_memory(&self) -> bool {
        self.groups.iter().any(|group| group.caps_memory)
    }

    /// Starts `command` in it with that standard input, as the leader of a process group. There is one leader in a
    /// compartment; whatever it starts stays in. Output and errors go where this process's go.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, command: Command, stdin: Stdio) -> io::Result<Pid> {
        Ok(self.start_with(command, stdin, Stdio::inherit(), Stdio::inherit())?.0)
    }

    /// As [`Self::start`], with output and errors elsewhere; the output's other end if that is a pipe.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(
        &mut self,
        command: Command,
        stdin: Stdio,
        stdout: Stdio,
        stderr: Stdio,
    ) -> io::Result<(Pid, Option<ChildStdout>)> {
        let mut command = self.enclose(command);
        let mut child = command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0).spawn()?;
        let (pid, stdout) = (Pid::from_child(&child), child.stdout.take());
        self.leader = Some(child);
        let belonging = Belonging::processes(pid);
        janitor::have(belonging.clone());
        self.belonging = Some(belonging);
        Ok((pid, stdout))
    }

    /// The same command, run by a shell that first joins the control groups.
    fn enclose(&self, command: Command) -> Command {
        if self.groups.is_empty() {
            return command;
        }
        let script =
            "for group in $1; do echo $$ > \"$group/cgroup.procs\" || exit 125; done; shift; exec \"$@\"";
        let dirs: Vec<_> = self.groups.iter().map(|it| it.dir.to_string_lossy()).collect();
        let mut enclosed = Command::new("/bin/sh");
        enclosed.args(["-c", script, "sh", &dirs.join(" ")]);
        enclosed.arg(program(&command)).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => enclosed.env(name, value),
                None => enclosed.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            enclosed.current_dir(dir);
        }
        enclosed
    }

    /// Everybody in it, as far as it can be told: by the control group, or by descent from the leader.
    pub fn members(&self) -> Vec<Pid> {
        match self.groups.first() {
            Some(group) => group.members(),
            None => {
                let leader = self.leader.as_ref().map(Pid::from_child);
                leader.map(with_descendants).unwrap_or_default()
            }
        }
    }

    /// What the kernel charges to everybody in it, in bytes: with what it holds for them itself (stacks of threads,
    /// page tables, socket buffers), which no process shows as its own. `None` without a control group.
    pub fn charged(&self) -> Option<u64> {
        self.memory_file("memory.usage_in_bytes", "memory.current")?.trim().parse().ok()
    }

    /// How often the kernel has killed somebody in it because there was no memory left.
    pub fn killed_for_memory(&self) -> Option<u64> {
        let text = self.memory_file("memory.oom_control", "memory.events")?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
    }

    fn memory_file(&self, version_1: &str, version_2: &str) -> Option<String> {
        let group = self.groups.iter().find(|group| group.caps_memory)?;
        [version_1, version_2].iter().find_map(|file| std::fs::read_to_string(group.dir.join(file)).ok())
    }

    /// Whether the leader still runs.
    pub fn lives(&mut self) -> bool {
        self.leader.as_mut().is_some_and(|leader| matches!(leader.try_wait(), Ok(None)))
    }

    /// Asks the leader to end (SIGTERM), and waits for it for so long. Whoever is then left goes with the compartment.
    pub fn ask_to_end(&mut self, patience: Duration) {
        if let Some(leader) = &mut self.leader {
            let until = Instant::now() + patience;
            if matches!(leader.try_wait(), Ok(None)) {
                let _ = kill_process(Pid::from_child(leader), Signal::TERM);
            }
            while Instant::now() < until && matches!(leader.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Compartment {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let members = self.members();
            if let Some(leader) = &mut self.leader
                && matches!(leader.try_wait(), Ok(None))
            {
                let _ = kill_process_group(Pid::from_child(leader), Signal::KILL);
            }
            for member in &members {
                let _ = kill_process(*member, Signal::KILL);
            }
            let gone = self
                .groups
                .iter()
                .all(|group| std::fs::remove_dir(&group.dir).is_ok() || !group.dir.exists());
            let ended = self.leader.as_mut().is_none_or(|leader| !matches!(leader.try_wait(), Ok(None)));
            if (gone && ended) || Instant::now() > until {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(belonging) = self.belonging.take() {
            janitor::gone(belonging);
        }
        for group in self.groups.iter().filter(|group| !group.dir.exists()) {
            janitor::gone(Belonging::ControlGroup(group.dir.clone()));
        }
    }
}

impl ControlGroup {
    fn members(&self) -> Vec<Pid> {
        let text = std::fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
    }
}

/// `/proc/self/exe` would be the shell's: the program has to be named before the shell takes over.
fn program(command: &Command) -> OsString {
    let program = command.get_program();
    if program == "/proc/self/exe"
        && let Ok(path) = std::env::current_exe()
    {
        return path.into_os_string();
    }
    program.to_owned()
}

/// Makes the groups that this user may make: one in the unified hierarchy, or one each in those of version 1.
fn make_groups(root: &Path, name: &str, limits: Limits) -> Vec<ControlGroup> {
    let (memory, pids) = (limits.memory.to_string(), limits.pids.to_string());
    if root.join("cgroup.controllers").exists() {
        let here = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = here.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        // Beside this process and not beneath it: a group with processes of its own hands out no controllers.
        let parent = root.join(own).parent().map_or(root.to_owned(), Path::to_owned);
        let files: [(&str, &str); 3] =
            [("pids.max", &pids), ("memory.max", &memory), ("memory.swap.max", "0")];
        return make_group(parent.join(name), &files).into_iter().collect();
    }
    let pids_files: [(&str, &str); 1] = [("pids.max", &pids)];
    let memory_files: [(&str, &str); 1] = [("memory.limit_in_bytes", &memory)];
    let groups = [
        make_group(root.join("pids").join(name), &pids_files),
        make_group(root.join("memory").join(name), &memory_files),
    ];
    groups.into_iter().flatten().collect()
}

/// Makes one group and sets its limits; `None` if it may not, or may set none.
fn make_group(dir: PathBuf, files: &[(&str, &str)]) -> Option<ControlGroup> {
    std::fs::create_dir(&dir).ok()?;
    let set = files.iter().filter(|(file, value)| std::fs::write(dir.join(file), value).is_ok());
    let set: Vec<&str> = set.map(|(file, _)| *file).collect();
    if set.is_empty() {
        let _ = std::fs::remove_dir(&dir);
        return None;
    }
    Some(ControlGroup {
        caps_processes: set.contains(&"pids.max"),
        caps_memory: set.iter().any(|file| file.starts_with("memory.")),
        dir,
    })
}

/// A process and all that descend from it, by their parents in `/proc`.
pub fn with_descendants(root: Pid) -> Vec<Pid> {
    let parents: Vec<(Pid, Pid)> = processes().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&ancestor) = found.get(next) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == ancestor).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name in brackets may hold anything, so what counts is behind the last bracket: state, parent, …
    Pid::from_raw(stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    const ROOMY: Limits = Limits { memory: 256 << 20, pids: 64 };

    #[test]
    fn whoever_is_still_in_it_goes_with_it() {
        let mut compartment = Compartment::new(ROOMY);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 600 & sleep 600 & wait"]);
        let leader = compartment.start(command, Stdio::null()).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let members = loop {
            let members = compartment.members();
            if members.len() == 3 {
                break members;
            }
            assert!(Instant::now() < until, "there are not three of them: {members:?}");
            std::thread::yield_now();
        };
        assert!(members.contains(&leader));
        drop(compartment);
        for pid in members {
            let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
            let state = std::fs::read_to_string(path).unwrap_or_default();
            // Its own parent may have yet to reap it.
            assert!(state.is_empty() || state.contains(") Z "), "{state}");
        }
    }

    #[test]
    fn descendants_are_found_by_their_parents() {
        let mut child = Command::new("/bin/sh").args(["-c", "sleep 600 & wait"]).spawn().unwrap();
        let root = Pid::from_child(&child);
        let until = Instant::now() + Duration::from_secs(10);
        while with_descendants(root).len() < 2 {
            assert!(Instant::now() < until, "the child of the child was not found");
            std::thread::yield_now();
        }
        for pid in with_descendants(root).into_iter().rev() {
            kill_process(pid, Signal::KILL).unwrap();
        }
        child.wait().unwrap();
    }
}
