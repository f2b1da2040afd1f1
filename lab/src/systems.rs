//! The systems that are compared, as an experiment sees them: started, at an address, with members that can be counted.

use std::fmt;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::compartment::{Compartment, Limits};
use crate::play::{self, Part};
use crate::servers::{Model, Protocol, Setup};

/// A way to serve many clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum System {
    /// One of the lab's own servers.
    Model(Model),
}

impl System {
    /// The name that it is called by in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model(model) => model.name(),
        }
    }

    /// Starts it, and waits until it serves.
    ///
    /// # Errors
    /// When it does not start, or serves nobody within 20 s.
    pub fn start(self, shape: &Shape) -> anyhow::Result<Running> {
        match self {
            Self::Model(model) => start_model(model, shape),
        }
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
}

impl Shape {
    /// Room for as many requests at a time, in processes or in threads.
    pub fn of(workers: usize) -> Self {
        Self {
            processes: workers,
            threads: workers,
            protocol: Protocol::Http,
            limits: Limits { memory: 2 << 30, pids: 4096 },
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
    /// Where it is.
    pub compartment: Compartment,
    /// Files that it needs while it runs.
    pub scratch: Option<PathBuf>,
}

fn start_model(model: Model, shape: &Shape) -> anyhow::Result<Running> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on a loopback port")?;
    let address = listener.local_addr()?;
    let setup = Setup { model, protocol: shape.protocol, processes: shape.processes, threads: shape.threads };
    let command = play::command(&Part::Server(setup))?;
    let mut compartment = Compartment::new(shape.limits);
    let leader = compartment
        .start(command, Stdio::from(OwnedFd::from(listener)))
        .with_context(|| format!("cannot start {model}"))?;
    await_service(address, shape.protocol, &mut compartment)
        .with_context(|| format!("{model} does not serve"))?;
    Ok(Running { address, leader, compartment, scratch: None })
}

/// Waits until a first client is served.
fn await_service(
    address: SocketAddr,
    protocol: Protocol,
    compartment: &mut Compartment,
) -> anyhow::Result<()> {
    use std::io::{Read, Write};
    let until = Instant::now() + Duration::from_secs(20);
    let ask: &[u8] = match protocol {
        Protocol::Http => b"GET /work?ms=0 HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n",
        Protocol::Echo => b"ready?",
    };
    let served = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(ask)?;
        Ok(stream.read(&mut [0; 512])? > 0)
    };
    while !served().unwrap_or(false) {
        if !compartment.lives() {
            bail!("it has ended; what it said last is on standard error");
        }
        if Instant::now() > until {
            bail!("nobody is served at {address} after 20 s");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// What the members of a compartment use, summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Processes.
    pub processes: usize,
    /// Threads of all processes.
    pub threads: usize,
    /// Proportional set size: pages of its own, and its share of those that it has in common with others, in KiB.
    pub pss_kib: u64,
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
    /// What it uses now, as `/proc` has it. Processes that end meanwhile are left out.
    pub fn usage(&self) -> Usage {
        usage(&self.compartment.members())
    }

    /// Whether a process is a member, for experiments that were told a pid by an answer.
    pub fn has(&self, pid: Pid) -> bool {
        self.compartment.members().contains(&pid)
    }
}

/// What these processes use now.
pub fn usage(pids: &[Pid]) -> Usage {
    let mut sum = Usage::default();
    for pid in pids {
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let read = |path: &str| std::fs::read_to_string(proc.join(path)).unwrap_or_default();
        let Some(pss) = field(&read("smaps_rollup"), "Pss:") else { continue };
        sum.processes += 1;
        sum.pss_kib += pss;
        for task in std::fs::read_dir(proc.join("task")).into_iter().flatten().flatten() {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            sum.threads += 1;
            sum.switches.voluntary += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            sum.switches.involuntary += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
        }
    }
    sum
}

/// The number behind a key, in files of `/proc`.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}
