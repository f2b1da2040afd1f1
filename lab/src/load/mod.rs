//! Clients that keep coming, that never retry, and that count what they get.
//!
//! In a **closed loop** each of N clients asks again as soon as it has been answered: it shows what a system can do, and
//! hides what waiting costs, because a slow answer also delays the next question. In an **open loop** requests come at
//! a given rate whatever becomes of those before, as those of strangers do; a latency counts from when the
//! request was due, so that what had to wait for its turn is not left out.
//!
//! All clients are tasks on one thread: the generator has a limit of its own, which [`limit()`] measures.

mod client;
pub mod crowd;
mod limit;
mod tally;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use client::Failure;
pub use limit::limit;
pub use tally::{Event, Latencies, Tally};

/// What clients ask.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where.
    pub address: SocketAddr,
    /// By which method.
    pub method: Method,
    /// What, each with its share. The shares need not add up to anything. [`NUMBER`] in it becomes the request's number.
    pub targets: Vec<(String, u32)>,
    /// How they come.
    pub shape: Shape,
    /// Until when, from the start.
    pub time: Duration,
    /// The answer to a request that has taken as long as this is no longer waited for.
    pub patience: Duration,
    /// Whether a client keeps its connection.
    pub connections: Connections,
    /// Whether every single answer is written down.
    pub log: Log,
}

/// What stands for a request's number in a target.
pub const NUMBER: &str = "{n}";

/// What kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// It may be executed twice.
    Get,
    /// It may not; without a body.
    Post,
}

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// So many clients, each asking again when it has been answered and has thought for so long.
    Closed {
        /// How many.
        clients: usize,
        /// Between an answer and the next question.
        think: Duration,
    },
    /// So many requests a second, at random intervals (a Poisson process), on as many connections as it takes, up to
    /// `most` at a time; what would need more counts as failed.
    Open {
        /// Requests a second.
        rate: f64,
        /// Connections.
        most: usize,
    },
}

/// What a client does with its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// It asks on it again and again.
    Kept,
    /// It opens another for each request.
    OneForEach,
}

/// What is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// Sums and latencies.
    Sums,
    /// Every single answer and failure as well.
    EachEvent,
}

impl Plan {
    /// Closed loop, kept connections, no thinking, sums only, ten seconds of patience.
    pub fn closed(address: SocketAddr, target: &str, clients: usize, time: Duration) -> Self {
        Self {
            address,
            method: Method::Get,
            targets: vec![(target.to_owned(), 1)],
            shape: Shape::Closed { clients, think: Duration::ZERO },
            time,
            patience: Duration::from_secs(10),
            connections: Connections::Kept,
            log: Log::Sums,
        }
    }
}

/// Clients that are at it. Stop them, or wait for their time to be over.
#[derive(Debug)]
pub struct Load {
    started: Instant,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    thread: JoinHandle<io::Result<Tally>>,
}

impl Load {
    /// Starts them, on a thread of their own.
    ///
    /// # Errors
    /// When there is no thread or no runtime for them.
    pub fn start(plan: Plan) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = Arc::new(AtomicBool::new(false));
        let started = Instant::now();
        let (told, served) = (Arc::clone(&stop), Arc::new(AtomicUsize::new(0)));
        let tells = Arc::clone(&served);
        let thread = std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || Ok(runtime.block_on(client::all(&plan, started, told, tells))))?;
        Ok(Self { started, stop, served, thread })
    }

    /// What times in the log count from.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// How many clients of a closed loop have been answered at least once by now.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// Lets each client finish what it is at.
    ///
    /// # Errors
    /// When the clients' thread has come to a bad end.
    pub fn stop(self) -> io::Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Waits until their time is over and each has finished what it is at.
    ///
    /// # Errors
    /// When the clients' thread has come to a bad end.
    pub fn wait(self) -> io::Result<Tally> {
        self.thread.join().map_err(|_| io::Error::other("the load generator panicked"))?
    }
}

/// Runs clients to the end of their time.
///
/// # Errors
/// As [`Load::start`] and [`Load::wait`].
pub fn run(plan: Plan) -> io::Result<Tally> {
    Load::start(plan)?.wait()
}
