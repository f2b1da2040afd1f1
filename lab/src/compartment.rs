//! Where the lab puts what it starts, so that no fault gets further.
//!
//! A compartment is a control group with a limit of memory and of processes, where this user may make one (root, or a
//! delegated hierarchy, see [`crate::groups`]); otherwise a process group of its own and nothing more. What is put in is put in
//! before it runs: a shell joins the group and then becomes the program. Whatever is still in a compartment when it is dropped
//! is killed, by the group and not by name, and so nothing of a fork bomb is left. Where the lab itself is killed, its
//! [`janitor`] does that.
//!
//! Without a control group somebody is known to be in a compartment by the leader's process group, or as a descendant of
//! somebody in it. A leader that has ended is therefore not reaped before the others are gone: until then its pid is
//! nobody else's, and the group can be killed by that number. Who has gone to a group of its own and lost its parent is in
//! nobody's: it becomes the lab's child, and [`end_orphans`] ends it.
//!
//! Experiments ask [`Compartment::caps_processes`] before they do what only a limit of processes survives. Limits of a
//! process (setrlimit) do not stand in for those of a group: `RLIMIT_NPROC` counts the user's threads, the lab's clients among
//! them, and `RLIMIT_DATA` the stacks that ten thousand threads reserve and never touch, so both would change what is measured.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, getrlimit, kill_process,
    kill_process_group, set_child_subreaper, setrlimit, waitid, waitpid,
};

use crate::groups::{self, ControlGroup};
use crate::janitor::{self, Belonging};
use crate::processes;

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
    leader: Option<Leader>,
}

/// Whom a compartment's processes descend from. It is reaped when this is dropped and not before.
#[derive(Debug)]
struct Leader {
    child: Child,
    /// In the kernel's clock ticks.
    started: u64,
    /// As the janitor knows it.
    belonging: Belonging,
}

/// How whoever leads a compartment is to be ended by the janitor; the rest is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Killed: it leaves nothing behind.
    Kill,
    /// Asked first, with this signal, for what a killed one leaves behind stays: PostgreSQL's shared memory.
    Ask(Signal),
    /// As above, with its whole process group.
    AskAll(Signal),
}

impl Compartment {
    /// With these limits, as far as this user may set them.
    pub fn new(limits: Limits) -> Self {
        static NTH: AtomicU32 = AtomicU32::new(0);
        let name = format!("bulkhead-lab-{}-{}", std::process::id(), NTH.fetch_add(1, Ordering::Relaxed));
        let groups = groups::make(&name, limits);
        for group in &groups {
            janitor::have(Belonging::ControlGroup(group.dir.clone()));
        }
        leave_no_cores();
        Self::with_groups(name, groups)
    }

    fn with_groups(name: String, groups: Vec<ControlGroup>) -> Self {
        if groups.is_empty() {
            // Whoever has lost its parent is this process's then, and can be found.
            let _ = set_child_subreaper(Some(getpid()));
        }
        Self { name, groups, leader: None }
    }

    /// Gives everybody in it, taken together, that share of one processor's time and no more: 0.2 is 20 ms of each
    /// 100 ms. To be called before something is started. Whether this user may: `false` leaves it as it was.
    pub fn cap_cpu(&mut self, share: f64) -> bool {
        const PERIOD_US: f64 = 100_000.0;
        match groups::cap_cpu(&self.groups, &self.name, share * PERIOD_US, PERIOD_US) {
            Ok(group) => {
                if let Some(group) = &group {
                    janitor::have(Belonging::ControlGroup(group.dir.clone()));
                }
                self.groups.extend(group);
                true
            }
            Err(_) => false,
        }
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
        self.start_to_end(command, End::Kill, stdin, stdout, stderr)
    }

    /// As above, of a program that must not simply be killed when the lab is.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_to_end(
        &mut self,
        command: Command,
        end: End,
        stdin: Stdio,
        stdout: Stdio,
        stderr: Stdio,
    ) -> io::Result<(Pid, Option<ChildStdout>)> {
        let mut command = self.enclose(command);
        let mut child = command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0).spawn()?;
        let (pid, stdout) = (Pid::from_child(&child), child.stdout.take());
        let started = processes::start_time(pid).unwrap_or(0);
        let belonging = Belonging::led_by(pid, started, end);
        janitor::have(belonging.clone());
        self.leader = Some(Leader { child, started, belonging });
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

    /// Everybody in it, as far as it can be told: by the control group, or by the leader's process group and by descent.
    pub fn members(&self) -> Vec<Pid> {
        match self.groups.first() {
            Some(group) => group.members(),
            None => {
                let leader = self.leader.as_ref();
                leader.map(|it| processes::of_leader(it.pid(), it.started)).unwrap_or_default()
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
        self.leader.as_ref().is_some_and(Leader::lives)
    }

    /// Asks the leader to end (SIGTERM), and waits for it for so long. Whoever is then left goes with the compartment.
    pub fn ask_to_end(&mut self, patience: Duration) {
        self.ask_with(Signal::TERM, patience);
    }

    /// As above, with another signal.
    pub fn ask_with(&mut self, signal: Signal, patience: Duration) {
        let Some(leader) = &self.leader else { return };
        let until = Instant::now() + patience;
        if leader.lives() {
            let _ = kill_process(leader.pid(), signal);
        }
        while Instant::now() < until && leader.lives() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the leader has ended; whether it did so in that time with success.
    pub fn await_success(&mut self, patience: Duration) -> bool {
        let Some(leader) = &self.leader else { return false };
        let until = Instant::now() + patience;
        while Instant::now() < until && leader.lives() {
            std::thread::sleep(Duration::from_millis(2));
        }
        leader.has_succeeded()
    }
}

impl Leader {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether it runs. One that has ended is left as it is: its pid, and its group's, are to stay its own.
    fn lives(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(self.pid()), options), Ok(None))
    }

    fn has_succeeded(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(self.pid()), options), Ok(Some(status)) if status.exit_status() == Some(0))
    }
}

impl Drop for Compartment {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(10);
        let mut killed = Vec::new();
        loop {
            let members = self.members();
            if let Some(leader) = &self.leader {
                let _ = kill_process_group(leader.pid(), Signal::KILL);
            }
            for member in &members {
                let _ = kill_process(*member, Signal::KILL);
                if !killed.contains(member) {
                    killed.push(*member);
                }
            }
            let gone = self
                .groups
                .iter()
                .all(|group| std::fs::remove_dir(&group.dir).is_ok() || !group.dir.exists());
            let ended = self.leader.as_ref().is_none_or(|leader| !leader.lives());
            if (gone && ended && (members.is_empty() || !self.groups.is_empty())) || Instant::now() > until {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(Leader { mut child, belonging, .. }) = self.leader.take() {
            // From here on the pid may be somebody else's.
            let _ = child.try_wait();
            janitor::gone(belonging);
        }
        if self.groups.is_empty() {
            // Of those who had lost their parent this process is the one to ask how they ended.
            for orphan in killed {
                let _ = waitpid(Some(orphan), WaitOptions::NOHANG);
            }
        }
        for group in self.groups.iter().filter(|group| !group.dir.exists()) {
            janitor::gone(Belonging::ControlGroup(group.dir.clone()));
        }
    }
}

/// Whoever faults in the lab does so on purpose: nobody wants its memory on disk. A limit of 0 does not say so where cores are
/// piped to a program: "the RLIMIT_CORE limit is not enforced" there (core(5)). A limit of 1 does: no core file fits into it, and
/// to a program the kernel then sends none (`vfs_coredump` in fs/coredump.c).
fn leave_no_cores() {
    let maximum = getrlimit(Resource::Core).maximum;
    // Whoever may have none at all may have no limit of 1 either.
    let current = Some(maximum.map_or(1, |most| most.min(1)));
    let _ = setrlimit(Resource::Core, Rlimit { current, maximum });
}

/// Ends whoever has become a child of this process because its parent, which this process had started, is gone. To be called when
/// nothing runs any more but the janitor.
pub(crate) fn end_orphans() {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let janitor = janitor::pid();
        let mut left = processes::descendants(getpid());
        left.retain(|pid| Some(*pid) != janitor);
        if left.is_empty() || Instant::now() > until {
            return;
        }
        for pid in left {
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        std::thread::sleep(Duration::from_millis(5));
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    const ROOMY: Limits = Limits { memory: 256 << 20, pids: 64 };

    fn without_groups() -> Compartment {
        Compartment::with_groups("bulkhead-lab-test".to_owned(), Vec::new())
    }

    /// A shell with two children, and all three of them.
    fn three(compartment: &mut Compartment, script: &str) -> (Pid, Vec<Pid>) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let leader = compartment.start(command, Stdio::null()).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let members = compartment.members();
            if members.len() == 3 {
                return (leader, members);
            }
            assert!(Instant::now() < until, "there are not three of them: {members:?}");
            std::thread::yield_now();
        }
    }

    fn are_gone(pids: &[Pid]) {
        for pid in pids {
            let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
            let state = std::fs::read_to_string(path).unwrap_or_default();
            // Its own parent may have yet to reap it.
            assert!(state.is_empty() || state.contains(") Z "), "{state}");
        }
    }

    #[test]
    fn whoever_is_still_in_it_goes_with_it() {
        for mut compartment in [Compartment::new(ROOMY), without_groups()] {
            let (leader, members) = three(&mut compartment, "sleep 600 & sleep 600 & wait");
            assert!(members.contains(&leader));
            drop(compartment);
            are_gone(&members);
        }
    }

    #[test]
    fn whoever_has_lost_the_leader_goes_with_it_too() {
        for mut compartment in [Compartment::new(ROOMY), without_groups()] {
            let (leader, members) = three(&mut compartment, "sleep 600 & sleep 600 & wait");
            kill_process(leader, Signal::KILL).unwrap();
            let until = Instant::now() + Duration::from_secs(10);
            while compartment.lives() {
                assert!(Instant::now() < until, "the leader outlives SIGKILL");
                std::thread::yield_now();
            }
            assert_eq!(compartment.members().len(), 2);
            drop(compartment);
            are_gone(&members);
        }
    }

    #[test]
    fn a_leader_keeps_its_pid_until_the_others_are_gone() {
        let mut compartment = without_groups();
        let leader = compartment.start(Command::new("true"), Stdio::null()).unwrap();
        assert!(compartment.await_success(Duration::from_secs(10)));
        assert!(!compartment.lives());
        // It can still be waited for: nobody has reaped it.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        assert!(waitid(WaitId::Pid(leader), options).unwrap().is_some());
        drop(compartment);
        assert!(waitid(WaitId::Pid(leader), options).is_err());
    }

    #[test]
    fn nobody_who_is_started_leaves_a_core() {
        let mut compartment = Compartment::new(ROOMY);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ulimit -c; cat /proc/self/limits"]);
        let (_, output) =
            compartment.start_with(command, Stdio::null(), Stdio::piped(), Stdio::inherit()).unwrap();
        let said = io::read_to_string(output.unwrap()).unwrap();
        let limit = said.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        let most = getrlimit(Resource::Core).maximum.map_or(1, |most| most.min(1));
        assert_eq!(limit.split_whitespace().next(), Some(most.to_string().as_str()));
    }
}
