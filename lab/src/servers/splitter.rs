//! A splitter: a front that gives each request to one of several workers, each with a listening socket of its own.
//!
//! The workers are prefork children, one request at a time each. What differs from prefork is who chooses. Here the front does, and
//! a request that was given to a worker waits for that one, whatever the others do. A choice *at random* is what
//! load balancers, routers and Kubernetes' services make when they know nothing of who is busy. A choice of *the idle*
//! keeps one queue and gives its first to whoever is free, so that nobody waits while somebody has nothing to do.
//!
//! It costs a hop, and at random the waiting: behind a worker that is busy, in front of one that is not.
//!
//! It fails one request at a time, and if the front fails, as a whole. At random, requests go to a dead or hanging
//! worker as to any other.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

use super::master::{self, Program, Seat};
use super::{Child, Protocol, accept_async, http};

/// How a worker is chosen for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// Any.
    Random,
    /// One that has nothing to do; if there is none, the first that has.
    Idle,
}

pub(super) fn serve(listener: &TcpListener, choice: Choice, workers: usize, seed: u64) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listeners: Vec<TcpListener> =
        (0..workers).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<_>>()?;
    let workers = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
    let front = Program::Part(Child::Splitter { workers, choice, seed });
    let mut seats = vec![Seat { program: front, socket: listener.as_fd() }];
    let worker = |socket| Seat { program: Program::Part(Child::Prefork(Protocol::Http)), socket };
    seats.extend(listeners.iter().map(|it| worker(it.as_fd())));
    master::keep_all(&seats)
}

/// Who is there to be chosen.
enum Workers {
    Random { all: Vec<SocketAddr>, state: Cell<u64> },
    Idle { next: Mutex<mpsc::UnboundedReceiver<SocketAddr>>, back: mpsc::UnboundedSender<SocketAddr> },
}

impl Workers {
    fn new(all: Vec<SocketAddr>, choice: Choice, seed: u64) -> Self {
        match choice {
            Choice::Random => {
                // Whatever the seed is, it is not 0, from which nothing else would ever come.
                let state = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
                Self::Random { all, state: Cell::new(state) }
            }
            Choice::Idle => {
                let (back, next) = mpsc::unbounded_channel();
                for worker in all {
                    let _ = back.send(worker);
                }
                Self::Idle { next: Mutex::new(next), back }
            }
        }
    }

    /// The lock is fair, and so is the queue of those who wait for somebody idle.
    async fn choose(&self) -> Option<SocketAddr> {
        match self {
            Self::Random { all, state } => {
                let mut number = state.get();
                number ^= number << 13;
                number ^= number >> 7;
                number ^= number << 17;
                state.set(number);
                all.get(usize::try_from(number >> 32).unwrap_or(0) % all.len().max(1)).copied()
            }
            Self::Idle { next, .. } => next.lock().await.recv().await,
        }
    }

    fn is_done(&self, worker: SocketAddr) {
        if let Self::Idle { back, .. } = self {
            let _ = back.send(worker);
        }
    }
}

pub(super) fn front(
    listener: TcpListener,
    workers: Vec<SocketAddr>,
    choice: Choice,
    seed: u64,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let workers: &'static Workers = Box::leak(Box::new(Workers::new(workers, choice, seed)));
    runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            tokio::task::spawn_local(speak(accept_async(&listener).await?, workers));
        }
    }))
}

async fn speak(mut client: TcpStream, workers: &Workers) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let parsed = http::read_head(&bytes, |head| {
            Ok((head.path_and_query().to_owned(), head.keep_alive, head.len))
        })?;
        let Some((target, keep_alive, len)) = parsed else {
            if client.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            continue;
        };
        bytes.drain(..len);
        let Some(worker) = workers.choose().await else { return Ok(()) };
        let (status, text) = match ask(worker, &target).await {
            Ok(answer) => answer,
            Err(error) => (502, format!("no answer from a worker: {error}\n")),
        };
        workers.is_done(worker);
        client.write_all(&http::answer(status, &text, keep_alive)).await?;
        if !keep_alive {
            return Ok(());
        }
    }
}

/// Asks a worker on a connection of its own, which waits in the worker's backlog while that is busy.
async fn ask(worker: SocketAddr, target: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(worker).await?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, page) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, page.to_owned()))
}
