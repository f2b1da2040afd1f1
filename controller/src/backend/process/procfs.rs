//! What `/proc` tells of processes, and who a pid is.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use server::identity::Incarnation;

use super::{Trouble, limits};
use crate::backend::Unit;

/// A process, told apart from all others of this boot by the tick at which it started. Never process 1, whose
/// group's number stands for everybody when signals are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Numbers", into = "Numbers")]
pub(super) struct Process {
    pid: Pid,
    started_ticks: u64,
}

/// The same, unchecked.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Numbers {
    pub(super) pid: u32,
    pub(super) started_ticks: u64,
}

/// The fields of `/proc/PID/stat` that we look at; proc_pid_stat(5).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// Neither a zombie nor dead.
    alive: bool,
    group: i32,
    threads: u64,
    started_ticks: u64,
}

impl Process {
    /// The process that has this pid now.
    pub(super) fn now_at(pid: u32) -> Option<Self> {
        let started_ticks = stat(pid)?.started_ticks;
        Self::try_from(Numbers { pid, started_ticks }).ok()
    }

    /// A pidfd of it, if it lives and the pid is still its own. The pidfd comes first and the look at who it is
    /// second: then the one that was looked at is the one that the pidfd holds.
    pub(super) fn open(&self) -> Result<Option<OwnedFd>, Trouble> {
        match pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(self.is_alive().then_some(pidfd)),
            // `INVAL`: it is a thread of some process by now.
            Err(Errno::SRCH | Errno::INVAL) => Ok(None),
            Err(error) => Err(self.trouble("watch", error)),
        }
    }

    /// The pid, which is also the number of the group that it leads.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether the pid has gone to another process.
    pub(super) fn is_recycled(&self) -> bool {
        stat(self.number()).is_some_and(|stat| stat.started_ticks != self.started_ticks)
    }

    /// Whether anybody of its group lives. Zombies do not, whoever forgot to wait for them.
    pub(super) fn group_lives(&self) -> bool {
        pids().filter_map(stat).any(|stat| stat.alive && stat.group == self.pid.as_raw_nonzero().get())
    }

    pub(super) fn unit(&self) -> Unit {
        Unit::Process { pid: self.number(), started_ticks: self.started_ticks }
    }

    pub(super) fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(super) fn trouble(&self, operation: &'static str, error: Errno) -> Trouble {
        Trouble::Process { operation, pid: self.number(), source: error.into() }
    }

    fn is_alive(&self) -> bool {
        stat(self.number()).is_some_and(|stat| stat.alive && stat.started_ticks == self.started_ticks)
    }
}

impl TryFrom<Numbers> for Process {
    type Error = Trouble;

    fn try_from(Numbers { pid, started_ticks }: Numbers) -> Result<Self, Trouble> {
        let valid = i32::try_from(pid).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw);
        valid.map(|pid| Self { pid, started_ticks }).ok_or(Trouble::NoPid(pid))
    }
}

impl From<Process> for Numbers {
    fn from(process: Process) -> Self {
        Self { pid: process.number(), started_ticks: process.started_ticks }
    }
}

/// This boot of this machine: ticks and pids of another one mean nothing.
pub(super) fn boot() -> Result<String, Trouble> {
    let path = PathBuf::from("/proc/sys/kernel/random/boot_id");
    let id = fs::read_to_string(&path).map_err(|source| Trouble::File { operation: "read", path, source })?;
    Ok(id.trim().to_owned())
}

/// The live process whose command line says that it is this life of a worker of the deployment whose link
/// socket this is. Anybody can choose his command line, so it has to be one of our users too.
pub(super) fn find_worker(life: &Incarnation, link: &Path) -> Option<Process> {
    let life = life.to_string();
    pids().filter(|pid| owner(*pid).is_some_and(may_be_a_worker)).find_map(|pid| {
        let process = Process::now_at(pid)?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let says =
            |option: &str, value: &[u8]| words.windows(2).any(|pair| pair == [option.as_bytes(), value]);
        let link = link.as_os_str().as_bytes();
        let is_ours = says("--link", link) || says("--home", link);
        (says("--life", life.as_bytes()) && is_ours && process.is_alive()).then_some(process)
    })
}

/// How many threads this process's user has on this machine.
pub(super) fn threads_of_this_user() -> u64 {
    let us = rustix::process::getuid().as_raw();
    pids().filter(|pid| owner(*pid) == Some(us)).filter_map(stat).map(|stat| stat.threads).sum()
}

/// Its own user, or, where we are root, one of those that workers become. The files of a process that has
/// changed its user belong to root.
fn may_be_a_worker(owner: u32) -> bool {
    let us = rustix::process::geteuid();
    owner == us.as_raw() || (us.is_root() && limits::USERS.contains(&owner))
}

fn owner(pid: u32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}")).ok().map(|found| found.uid())
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(line: &[u8]) -> Option<Stat> {
    // The second field is the program's name in parentheses, and may itself contain any of `) (`.
    let end_of_name = line.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(line.get(end_of_name + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The manual counts from 1, and the first field here is its third.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        alive: !matches!(field(3)?, "Z" | "X"),
        group: field(5)?.parse().ok()?,
        threads: field(20)?.parse().ok()?,
        started_ticks: field(22)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_made_to_confuse_does_not() {
        let line = b"7 (a) Z 1 (b) S 1 42 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 987654 1 2\n";
        let expected = Stat { alive: true, group: 42, threads: 3, started_ticks: 987_654 };
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(parse_stat(b"7 (a) S 1"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn we_are_alive_and_who_started_at_another_tick_is_not_us() -> Result<(), Trouble> {
        let Some(us) = Process::now_at(std::process::id()) else { unreachable!("this test has no process") };
        assert!(us.open()?.is_some());
        let another = Process { started_ticks: us.started_ticks + 1, ..us };
        assert!(another.open()?.is_none());
        assert!(another.is_recycled());
        assert!(threads_of_this_user() >= 1);
        Ok(())
    }

    #[test]
    fn process_1_is_nobodys_worker() {
        for pid in [0, 1, u32::MAX] {
            assert!(Process::try_from(Numbers { pid, started_ticks: 0 }).is_err(), "{pid} was taken");
        }
    }
}
