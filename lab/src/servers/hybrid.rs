//! The hybrid: processes with threads in each (Apache's mod_worker).
//!
//! A master keeps a few processes, each of which has a few threads, and all threads of all processes wait on the same
//! listening socket. A thread uses plain blocking calls and has one client at a time.
//!
//! It costs less memory than a process for each client and more than one process with threads. It is the middle in
//! everything.
//!
//! It fails one process at a time: a fault takes all clients of the threads of one process along, and none of the
//! other processes'. The master starts the process again.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::{Child, Protocol, accept, master};

pub(super) fn serve(
    listener: &TcpListener,
    protocol: Protocol,
    processes: usize,
    threads_in_each: usize,
) -> io::Result<()> {
    master::keep(processes, Child::Hybrid { protocol, threads: threads_in_each }, listener.as_fd())
}

/// What a process of the master's does. It returns only with an error.
pub(super) fn child(listener: &TcpListener, protocol: Protocol, threads: usize) -> io::Result<()> {
    thread::scope(|scope| {
        let serving: Vec<_> = (0..threads).map(|_| scope.spawn(|| one_thread(listener, protocol))).collect();
        serving
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
    })
}

fn one_thread(listener: &TcpListener, protocol: Protocol) -> io::Result<()> {
    loop {
        let client = accept(listener)?;
        let _ = catch_unwind(AssertUnwindSafe(|| protocol.serve(&client)));
    }
}
