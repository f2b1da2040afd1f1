//! A thread pool: so many threads and no more, on one queue of connections.
//!
//! The main thread accepts and puts each connection into a bounded queue; whichever thread is free takes the next one
//! and serves it to its end with plain blocking calls. When the queue is full the main thread waits, clients wait in the
//! kernel's backlog, and memory stays bounded.
//!
//! It costs its threads, tens of KiB each, and nothing to begin with a client. As with prefork, a client holds
//! a thread for as long as its connection lasts.
//!
//! It fails as a whole, like every threaded server: a fault in one thread ends the process. A panic ends one thread,
//! and a pool that does not look after its threads is smaller by one from then on; so here each client is served behind
//! `catch_unwind`.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use super::{Protocol, accept};

/// Connections that may wait for a thread; those beyond wait in the kernel.
const QUEUE: usize = 1024;

pub(super) fn serve(listener: &TcpListener, protocol: Protocol, threads: usize) -> io::Result<()> {
    let (queue, clients) = mpsc::sync_channel(QUEUE);
    let clients = Arc::new(Mutex::new(clients));
    for _ in 0..threads {
        let clients = Arc::clone(&clients);
        thread::Builder::new().spawn(move || serve_from(&clients, protocol))?;
    }
    loop {
        let client = accept(listener)?;
        queue.send(client).map_err(io::Error::other)?;
    }
}

fn serve_from(clients: &Mutex<mpsc::Receiver<TcpStream>>, protocol: Protocol) {
    loop {
        // The lock is held while waiting, and let go with the client in hand: one thread waits, the others for it.
        let next = clients.lock().ok().and_then(|clients| clients.recv().ok());
        let Some(client) = next else { return };
        let _ = catch_unwind(AssertUnwindSafe(|| protocol.serve(&client)));
    }
}
