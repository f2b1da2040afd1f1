//! A process for each connection, the classic server that forks.
//!
//! The parent accepts, starts a child with the client's socket for its descriptor 0, and forgets both: it holds no
//! connection, so nothing that happens to one can reach it. The child uses plain blocking calls and ends with its
//! client. Whenever the parent accepts, it also reaps the children that have ended since; until then they are
//! zombies, an entry in the process table and nothing else.
//!
//! It costs a process for each client: page tables, some hundred KiB, and most of a millisecond to start, for a child
//! of a program in Rust is started from the program's file and not forked from its parent's memory.
//!
//! It fails one client at a time. Whatever a child does (fault, exit, leak, spin) ends with the child. What all share
//! is the machine: nothing here bounds how many there are but the kernel's limits, and a child may use up what the
//! others need.

use std::io;
use std::net::TcpListener;
use std::process::Stdio;

use rustix::fd::OwnedFd;
use rustix::process::{WaitOptions, wait};

use super::{Child, Protocol, accept};
use crate::play::{self, Part};

pub(super) fn serve(listener: &TcpListener, protocol: Protocol) -> io::Result<()> {
    let part = Part::Child(Child::OfOneConnection(protocol));
    loop {
        let client = accept(listener)?;
        let mut command = play::command(&part)?;
        command.stdin(Stdio::from(OwnedFd::from(client)));
        if let Err(error) = command.spawn() {
            eprintln!("no process for a client: {error}");
        }
        // The command, dropped, has closed the parent's copy of the socket.
        drop(command);
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
}
