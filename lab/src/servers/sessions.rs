//! A process for each session, under a supervisor that starts all of them afresh when one has crashed (PostgreSQL).
//!
//! ```text
//!   serving ── a session crashes ──► resetting: kill all, wait for all, new memory ──► serving
//!      │
//!      └── a session ends in order: nothing happens
//! ```
//!
//! The sessions are processes and yet share memory: PostgreSQL's hold buffers and locks in it, these count in it. So
//! when one of them dies in the middle of something, nobody knows what it has left behind. The supervisor makes no
//! guess. It ends all sessions, throws the memory away, and begins again with a fresh one; what it must never do is
//! to look into that memory itself, for it is the one that has to survive.
//!
//! It costs a process for each client, as [`super::process_per_connection`] does.
//!
//! It fails as a whole, for a moment, whenever a session crashes: all clients are cut off and come back to a
//! server that is well. That is the price of sharing memory; where nothing is shared nobody has to pay it. While it is
//! resetting, clients wait in the listening socket's backlog.

use std::io;
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use server::sys::SharedWords;

use super::{Child, Protocol, accept};
use crate::memory;
use crate::play::{self, Part};

/// What the supervisor knows: of the shared memory only where it is.
#[derive(Debug)]
struct Supervisor {
    memory: OwnedFd,
    sessions: Vec<Pid>,
}

pub(super) fn serve(listener: &TcpListener, protocol: Protocol) -> io::Result<()> {
    let supervisor =
        Arc::new(Mutex::new(Supervisor { memory: memory::fresh("sessions", 4096)?, sessions: Vec::new() }));
    let reaping = Arc::clone(&supervisor);
    std::thread::Builder::new().spawn(move || reap(&reaping))?;
    loop {
        let client = accept(listener)?;
        // Not while it is resetting: then the lock is held.
        let mut supervisor = supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = memory::path_of(&supervisor.memory);
        let mut command = play::command(&Part::Child(Child::Session { protocol, memory }))?;
        match command.stdin(Stdio::from(OwnedFd::from(client))).spawn() {
            Ok(child) => supervisor.sessions.push(Pid::from_child(&child)),
            Err(error) => eprintln!("no process for a session: {error}"),
        }
    }
}

/// Waits for sessions to end, and resets when one has crashed.
fn reap(supervisor: &Mutex<Supervisor>) {
    loop {
        let Ok(Some((pid, status))) = wait(WaitOptions::empty()) else {
            // There is no session to wait for.
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        let mut supervisor = supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        supervisor.sessions.retain(|session| *session != pid);
        if crashed(status) {
            supervisor.reset();
        }
    }
}

/// Whether a session may have left something broken behind: it ended by a signal, or by a code that is neither success
/// nor the failure that a program owns up to. PostgreSQL draws the line at the same place.
fn crashed(status: WaitStatus) -> bool {
    !matches!(status.exit_status(), Some(0 | 1))
}

impl Supervisor {
    fn reset(&mut self) {
        for session in &self.sessions {
            let _ = kill_process(*session, Signal::KILL);
        }
        while !self.sessions.is_empty() {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, _))) => self.sessions.retain(|session| *session != pid),
                _ => break,
            }
        }
        self.sessions.clear();
        match memory::fresh("sessions", 4096) {
            Ok(memory) => self.memory = memory,
            // It cannot go on without, nor with what may be corrupted.
            Err(error) => {
                eprintln!("no memory to share: {error}");
                std::process::exit(1);
            }
        }
    }
}

/// What a session does: it counts itself in the memory that all share, and serves its client.
pub(super) fn session(client: &std::net::TcpStream, protocol: Protocol, memory: &str) -> io::Result<()> {
    let memory = SharedWords::map(memory::open(memory)?)?;
    if let Some(sessions) = memory.get(0) {
        sessions.fetch_add(1, Ordering::Relaxed);
    }
    protocol.serve(client)
}
