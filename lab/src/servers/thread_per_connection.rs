//! A thread for each connection, the classic threaded server.
//!
//! The main thread accepts, and starts a thread for each client, which uses plain blocking calls and ends with its
//! client. What blocks blocks one thread, and the kernel spreads the threads over the cores.
//!
//! It costs a stack and a few kernel structures for each client: tens of KiB, and some ten microseconds to start.
//! Nothing bounds how many there are but the kernel's limits; then a client is turned away.
//!
//! It fails as a whole. Threads share memory, descriptors and fate: a segmentation fault, an abort or a call of
//! `exit` in one of them ends all of them, and there is nobody left to start the process again. A panic is Rust's
//! own affair: it unwinds one thread, and costs one client.

use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::{Protocol, accept};

pub(super) fn serve(listener: &TcpListener, protocol: Protocol) -> io::Result<()> {
    loop {
        let client = accept(listener)?;
        let counted = Counted::new();
        let started = thread::Builder::new().spawn(move || {
            let _counted = counted;
            protocol.serve(&client)
        });
        if let Err(error) = started {
            // The closure is dropped, and the connection with it.
            eprintln!("no thread for a client: {error}");
        }
    }
}

/// How many threads there are for clients, by this server's own count: `/threads` tells it, and one for the main thread.
static CLIENTS: AtomicUsize = AtomicUsize::new(0);

/// A thread that is counted while it lasts.
struct Counted;

impl Counted {
    fn new() -> Self {
        CLIENTS.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        CLIENTS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The threads of this process, as it counts them itself.
pub(super) fn threads() -> usize {
    1 + CLIENTS.load(Ordering::Relaxed)
}
