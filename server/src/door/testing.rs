//! What the door's tests share: a pool, a life in it, and both ends of a link and of a client's connection.

use std::cell::Cell;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::client::Client;
use super::notices::Notices;
use super::pool::Pool;
use super::wire::WorkerLink;
use crate::config::{Clients, DoorPool, Protocol, Queue, Redeliver, RedeliverMethods, Timeouts, TurnUnit};
use crate::identity::Incarnation;
use crate::sys::{self, SlowToClose};

/// How long a test waits for what ought to end.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn life() -> Incarnation {
    "web-0.1".parse().expect("the name of a life")
}

/// What a pool of one-turn workers is that speaks HTTP, on a port that the kernel chooses.
pub(super) fn config() -> DoorPool {
    let second = Duration::from_secs(1);
    DoorPool {
        name: life().worker.pool,
        listen: ([127, 0, 0, 1], 0).into(),
        protocol: Protocol::Http,
        turn: TurnUnit::Request,
        credit: 1,
        timeouts: Timeouts { start: second, head: second, request: None, keep_alive: second, drain: second },
        queue: Queue { depth: 8, wait: second },
        clients: Clients { connections: 8, head_bytes: 512, buffered_body_bytes: 0, body_bytes: 0 },
        redeliver: Redeliver { attempts: 2, methods: RedeliverMethods::Idempotent },
    }
}

/// Such a pool, without a listener.
pub(super) fn pool() -> Rc<Pool> {
    let config = config();
    let (clients, listen) = (config.clients, config.listen);
    let (notices, turns) = (Rc::new(Notices::default()), Rc::new(Cell::new(1)));
    Rc::new(Pool::new(config, clients, listen, notices, turns, Rc::default()))
}

/// The two ends of a worker's link: the door's and the worker's.
pub(super) fn link() -> io::Result<(Rc<WorkerLink>, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Rc::new(sys::watch_slow(SlowToClose::new(ours))?), theirs))
}

/// A client that has come in, and its own end of the connection.
pub(super) fn guest() -> io::Result<(Rc<Client>, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let peer = TcpStream::connect(listener.local_addr()?)?;
    let (socket, address) = listener.accept()?;
    Ok((Client::new(socket.into(), address)?, peer))
}

/// Runs `story` on a thread of its own, in an event loop; what it came to, if it came to an end.
pub(super) fn in_time<T: Send + 'static>(
    story: impl AsyncFnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let outcome = runtime.and_then(|runtime| runtime.block_on(story()));
        tell.send(outcome.map_err(|error| error.to_string()))
    });
    told.recv_timeout(DEADLINE).unwrap_or_else(|error| Err(error.to_string()))
}
