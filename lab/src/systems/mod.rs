//! The systems that are compared, as an experiment sees them: started, at an address, with members that can be counted.

mod bulkhead;
mod peer;

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

pub use bulkhead::Backend;
pub use peer::Peer;

use crate::compartment::{Compartment, Limits};
use crate::janitor::{self, Belonging};
use crate::play::{self, Part};
use crate::processes;
use crate::servers::fastcgi::{self, Responder};
use crate::servers::{Child, Model, Protocol, Setup};

/// A way to serve many clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum System {
    /// One of the lab's own servers.
    Model(Model),
    /// Bulkhead itself, with its workers in processes or containers.
    Bulkhead(Backend),
    /// A server that somebody else has made.
    Peer(Peer),
}

/// Who is there, and who is not.
#[derive(Debug, Clone, Default)]
pub struct Roll {
    /// Those that can be started here, in the order of tables.
    pub here: Vec<System>,
    /// Those that cannot, and why.
    pub missing: Vec<(System, String)>,
}

impl Roll {
    /// Who is missing, in words for people.
    pub fn notes(&self) -> Vec<String> {
        self.missing.iter().map(|(system, why)| format!("{system} was not measured: {why}")).collect()
    }
}

impl System {
    /// The name that it is called by in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model(model) => model.name(),
            Self::Bulkhead(backend) => backend.name(),
            Self::Peer(peer) => peer.name(),
        }
    }

    /// All of them: which can be started here, and why the others cannot. `bulkhead`: that program, if it is known.
    pub fn all(bulkhead: Option<&Path>) -> Roll {
        let models = Model::ALL.map(Self::Model);
        Self::call(models.into_iter().chain(Backend::ALL.map(Self::Bulkhead)), bulkhead)
    }

    /// Bulkhead, and the servers that others have made: which can be started here, and why the others cannot.
    pub fn peers(bulkhead: Option<&Path>) -> Roll {
        let peers = Peer::ALL.map(Self::Peer);
        Self::call(Backend::ALL.map(Self::Bulkhead).into_iter().chain(peers), bulkhead)
    }

    fn call(systems: impl Iterator<Item = Self>, bulkhead: Option<&Path>) -> Roll {
        let mut roll = Roll::default();
        for system in systems {
            match system.missing(bulkhead) {
                None => roll.here.push(system),
                Some(why) => roll.missing.push((system, why)),
            }
        }
        roll
    }

    /// Why it cannot be started here; `None` if it can.
    pub fn missing(self, bulkhead: Option<&Path>) -> Option<String> {
        match self {
            Self::Model(Model::FastCgi(Responder::Php)) if !is_installed(fastcgi::PHP) => {
                Some(format!("{} is not installed: apt-get install php-cgi", fastcgi::PHP))
            }
            Self::Model(_) => None,
            Self::Bulkhead(backend) => bulkhead::missing(backend, bulkhead),
            Self::Peer(peer) => peer.missing(),
        }
    }

    /// Whether it is Bulkhead itself.
    pub fn is_bulkhead(self) -> bool {
        matches!(self, Self::Bulkhead(_))
    }

    /// Whether its page blocks for as long as it is asked to. Some of the servers that others have made serve a file instead.
    pub fn blocks(self) -> bool {
        match self {
            Self::Model(_) | Self::Bulkhead(_) => true,
            Self::Peer(peer) => peer.blocks(),
        }
    }

    /// Of the processes that serve the one that has been running longest: never a master, a front or a door, unless
    /// there is nobody else.
    pub fn oldest_serving(self, running: &Running) -> Option<Pid> {
        // Of one that has ended and was not reaped yet there is no command line, and a kill of it kills nobody.
        let mut members = running.members();
        members.retain(|pid| !command_line(*pid).is_empty());
        let serves = |pid: &Pid| {
            let words = command_line(*pid);
            match self {
                Self::Model(_) => *pid != running.leader && !is_front(&words),
                Self::Bulkhead(_) => words.get(1).is_some_and(|word| word == "worker"),
                Self::Peer(peer) => *pid != running.leader && peer.serves(&words.join(" ")),
            }
        };
        let serving: Vec<Pid> = members.iter().copied().filter(serves).collect();
        let alone = serving.is_empty() && members.len() == 1;
        let candidates = if alone { members } else { serving };
        candidates.into_iter().min_by_key(|pid| processes::start_time(*pid))
    }

    /// Starts it, and waits until it serves. `bulkhead`: that program, for the systems that are Bulkhead.
    ///
    /// # Errors
    /// When it does not start, or serves nobody within 20 s.
    pub fn start(self, shape: &Shape, bulkhead: Option<&Path>) -> anyhow::Result<Running> {
        match self {
            Self::Model(model) => start_model(model, shape, SocketAddr::from(([127, 0, 0, 1], 0))),
            Self::Bulkhead(backend) => bulkhead::start(backend, shape, bulkhead),
            Self::Peer(peer) => peer.start(shape),
        }
        .with_context(|| format!("{self} could not be started"))
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How large a system is to be. Each takes of it what it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Processes that serve, of models that start them in advance.
    pub processes: usize,
    /// Threads that serve, of models that bound them: of all processes together.
    pub threads: usize,
    /// What is spoken.
    pub protocol: Protocol,
    /// What everything in its compartment may have.
    pub limits: Limits,
    /// Descriptors that a process that serves may have open, where that is not left to the system.
    pub open_files: Option<u64>,
    /// For how long a request may be at work, where somebody looks after that: Bulkhead does.
    pub request_time: Duration,
    /// Where a system chooses at random: it chooses the same for the same number.
    pub seed: u64,
}

impl Shape {
    /// Room for as many requests at a time, in processes or in threads.
    pub fn of(workers: usize) -> Self {
        Self {
            processes: workers,
            threads: workers,
            protocol: Protocol::Http,
            limits: Limits { memory: 2 << 30, pids: 4096 },
            open_files: None,
            request_time: Duration::from_secs(30),
            seed: 0,
        }
    }
}

/// A system that serves. It ends when this is dropped, with all that it has started.
#[derive(Debug)]
pub struct Running {
    /// Where clients find it.
    pub address: SocketAddr,
    /// Its first process.
    pub leader: Pid,
    /// Where it is. Of what runs in containers only the rest is there.
    pub compartment: Compartment,
    /// Where its controller answers, and which containers are its own, if it is Bulkhead.
    deployment: Option<bulkhead::Deployment>,
    /// What it and its children write to standard error: panics, and what they have no room for.
    errors: File,
    /// Files that it needs while it runs.
    _scratch: Option<Scratch>,
}

/// A directory that is gone with this, and with the lab.
#[derive(Debug)]
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("bulkhead-lab-").tempdir();
        let dir = dir.context("cannot make a directory for scratch files")?;
        janitor::have(Belonging::Directory(dir.path().to_owned()));
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.path());
        janitor::gone(Belonging::Directory(self.0.path().to_owned()));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(deployment) = &self.deployment {
            deployment.end(&mut self.compartment);
        }
    }
}

/// Starts one of the lab's own servers at that address, and waits until it serves.
pub(crate) fn start_model(model: Model, shape: &Shape, at: SocketAddr) -> anyhow::Result<Running> {
    let listener = TcpListener::bind(at).with_context(|| format!("cannot listen at {at}"))?;
    let address = listener.local_addr()?;
    let Shape { protocol, processes, threads, open_files, seed, .. } = *shape;
    let mut command =
        play::command(&Part::Server(Setup { model, protocol, processes, threads, open_files, seed }))?;
    let scratch = match model {
        Model::FastCgi(Responder::Php) => {
            let scratch = Scratch::new()?;
            std::fs::write(scratch.0.path().join(fastcgi::PAGE_FILE), fastcgi::PAGE)?;
            command.current_dir(scratch.0.path());
            Some(scratch)
        }
        _ => None,
    };
    // A panic is told in a line: to look for the names of functions takes longer than much of what is measured.
    command.env("RUST_BACKTRACE", "0");
    let mut compartment = Compartment::new(shape.limits);
    let errors = tempfile::tempfile().context("cannot make a file for what it says")?;
    let (leader, _) = compartment.start_with(
        command,
        Stdio::from(OwnedFd::from(listener)),
        Stdio::null(),
        Stdio::from(errors.try_clone()?),
    )?;
    let mut running = Running { address, leader, compartment, deployment: None, errors, _scratch: scratch };
    running.await_service(protocol)?;
    Ok(running)
}

/// Whether a program of that name is in one of the directories in which programs are looked for.
fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|dir| dir.join(program).is_file()))
}

impl Running {
    /// Waits until a first client is served.
    fn await_service(&mut self, protocol: Protocol) -> anyhow::Result<()> {
        use std::io::{Read, Write};
        let until = Instant::now() + Duration::from_secs(20);
        let ask: &[u8] = match protocol {
            Protocol::Http => b"GET /work?ms=0 HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n",
            Protocol::Echo => b"ready?",
        };
        let address = self.address;
        let served = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(ask)?;
            let mut answer = [0; 512];
            let read = stream.read(&mut answer)?;
            Ok(match protocol {
                Protocol::Http => answer[..read].starts_with(b"HTTP/1.1 200"),
                Protocol::Echo => read > 0,
            })
        };
        while !served().unwrap_or(false) {
            if !self.compartment.lives() {
                bail!("it has ended; what it said last: {}", self.last_words());
            }
            if Instant::now() > until {
                bail!("nobody is served at {address} after 20 s; what it said last: {}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whether it or one of its children has written anything to standard error.
    pub fn has_spoken(&self) -> bool {
        self.errors.metadata().is_ok_and(|it| it.len() > 0)
    }

    /// The end of what it and its children have written to standard error.
    pub fn last_words(&self) -> String {
        last_words(&self.errors)
    }
}

fn last_words(errors: &File) -> String {
    use std::os::unix::fs::FileExt;
    const MOST: u64 = 2000;
    let len = errors.metadata().map_or(0, |it| it.len());
    let mut bytes = vec![0; usize::try_from(len.min(MOST)).unwrap_or(0)];
    match errors.read_exact_at(&mut bytes, len.saturating_sub(MOST)) {
        Ok(()) if !bytes.is_empty() => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        _ => "nothing".to_owned(),
    }
}

/// What the members of a compartment use, summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Processes.
    pub processes: usize,
    /// Threads of all processes.
    pub threads: usize,
    /// Proportional set size: pages of its own, and its share of those that it has in common with others, in KiB.
    /// `None`: of one of the processes this user may not know it, and a sum without it would be too small.
    pub pss_kib: Option<u64>,
    /// Context switches so far: voluntary ones (it waited) and others (it was made to), of all threads that still live.
    pub switches: Switches,
}

/// Context switches since a process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switches {
    /// It had to wait for something.
    pub voluntary: u64,
    /// It had to make room for somebody.
    pub involuntary: u64,
}

impl Running {
    /// What it uses now, as `/proc` has it. Processes that have ended are left out.
    pub fn usage(&self) -> Usage {
        usage(&self.members())
    }

    /// Its processes: those in its compartment, and of what is in containers those.
    pub fn members(&self) -> Vec<Pid> {
        let mut members = self.compartment.members();
        if let Some(deployment) = &self.deployment {
            members.extend(deployment.in_containers());
        }
        members.sort_unstable_by_key(|pid| pid.as_raw_nonzero());
        members.dedup();
        members
    }

    /// Whether a process is a member, for experiments that were told a pid by an answer.
    pub fn has(&self, pid: Pid) -> bool {
        self.members().contains(&pid)
    }
}

impl Usage {
    /// The proportional set size in MiB.
    pub fn pss_mib(&self) -> Option<f64> {
        self.pss_kib.map(|kib| kib as f64 / 1024.0)
    }
}

/// What these processes use now.
pub fn usage(pids: &[Pid]) -> Usage {
    let mut sum = Usage { pss_kib: Some(0), ..Usage::default() };
    for pid in pids {
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let pss = match std::fs::read_to_string(proc.join("smaps_rollup")) {
            Ok(text) => field(&text, "Pss:"),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
            // It has ended, and nobody has reaped it yet.
            Err(_) => continue,
        };
        sum.processes += 1;
        sum.pss_kib = sum.pss_kib.zip(pss).map(|(sum, pss)| sum + pss);
        for task in std::fs::read_dir(proc.join("task")).into_iter().flatten().flatten() {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            sum.threads += 1;
            sum.switches.voluntary += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            sum.switches.involuntary += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
        }
    }
    sum
}

/// The words of a process's command line; none if it has ended.
pub(crate) fn command_line(pid: Pid) -> Vec<String> {
    let words = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    String::from_utf8_lossy(&words).split_terminator('\0').map(str::to_owned).collect()
}

/// Whether a process, by the words of its command line, is a child of one of the lab's servers that only hands on what
/// others serve.
fn is_front(words: &[String]) -> bool {
    matches!(play::part_of(words), Some(Part::Child(Child::FastCgiFront { .. } | Child::Splitter { .. })))
}

/// The number behind a key, in files of `/proc`.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;
    use crate::servers::splitter::Choice;

    #[test]
    fn a_front_is_told_from_those_who_serve_by_its_part() {
        let words = |child: Child| {
            let command = play::command(&Part::Child(child)).unwrap();
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let front = Child::FastCgiFront { pool: "a socket".to_owned(), script: None };
        let splitter = Child::Splitter { workers: Vec::new(), choice: Choice::Random, seed: 0 };
        assert!(is_front(&words(front)) && is_front(&words(splitter)));
        assert!(!is_front(&words(Child::Responder)) && !is_front(&words(Child::Prefork(Protocol::Http))));
        assert!(!is_front(&["php-cgi".to_owned()]) && !is_front(&[]));
    }

    #[test]
    fn memory_of_this_process_is_known_and_of_one_that_has_ended_there_is_none() {
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&ended);
        ended.wait().unwrap();
        let used = usage(&[rustix::process::getpid(), pid]);
        assert_eq!(used.processes, 1);
        assert!(used.pss_kib > Some(0), "{used:?}");
    }
}
