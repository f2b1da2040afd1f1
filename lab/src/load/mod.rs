//! Clients that keep coming, that never retry, and that count what they get.
//!
//! In a **closed loop** each of N clients asks again as soon as it has been answered: it shows what a system can do, and
//! hides what waiting costs, because a slow answer also delays the next question. In an **open loop** requests come at
//! a given rate whatever becomes of those before, as those of strangers do; a latency counts from when the
//! request was due, so that what had to wait for its turn is not left out.
//!
//! All clients are tasks on one thread: the generator has a limit of its own, which [`limit()`] measures, and of each run
//! [`Tally::busy`] and [`Tally::latest`] tell how near it was. Where this machine has no connection left to open, that is
//! an error and no failure of the server's.

mod answer;
mod client;
mod connection;
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
    /// By which name, with the port if it is not 80: what the header `Host` says.
    pub host: String,
    /// By which method.
    pub method: Method,
    /// What, each with its share. The shares need not add up to anything. [`NUMBER`] in it becomes the request's number.
    pub targets: Vec<(String, u32)>,
    /// How they come.
    pub shape: Shape,
    /// What is due so early is asked as everything else, and not counted.
    pub warm_up: Duration,
    /// Until when, from the end of the warm-up.
    pub time: Duration,
    /// Chance comes out the same for the same number: when requests come, and which of the targets each asks for.
    pub seed: u64,
    /// The answer to a request that has taken as long as this is no longer waited for.
    pub patience: Duration,
    /// Whether a client keeps its connection.
    pub connections: Connections,
    /// Whether every single answer is written down.
    pub log: Log,
    /// How a connection is let go of.
    pub parting: Parting,
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
    /// `most` at a time; what would need more is not sent, and counts as failed. A timer wakes up to a millisecond late,
    /// and latencies count that.
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
    /// It asks on it again and again. Where its server has ended it between two requests, it opens another.
    Kept,
    /// The same, and that it has been ended is a failure: for those who measure who notices what.
    Held,
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

/// How a client lets go of a connection that it does not need any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// It closes it.
    AtOnce,
    /// It listens a quarter of a second longer, or until the server ends it, for a second answer.
    Listening,
}

impl Plan {
    /// Closed loop, kept connections, no warm-up, no thinking, sums only, ten seconds of patience.
    pub fn closed(address: SocketAddr, target: &str, clients: usize, time: Duration) -> Self {
        Self {
            address,
            host: "lab".to_owned(),
            method: Method::Get,
            targets: vec![(target.to_owned(), 1)],
            shape: Shape::Closed { clients, think: Duration::ZERO },
            warm_up: Duration::ZERO,
            time,
            seed: 0,
            patience: Duration::from_secs(10),
            connections: Connections::Kept,
            log: Log::Sums,
            parting: Parting::AtOnce,
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
            .spawn(move || runtime.block_on(client::all(&plan, started, told, tells)))?;
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

    /// Whether all clients have finished, or cannot go on: then [`Load::wait`] does not take long.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Lets each client finish what it is at.
    ///
    /// # Errors
    /// When this machine had no connection left to open, or the clients' thread has come to a bad end.
    pub fn stop(self) -> io::Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Waits until their time is over and each has finished what it is at.
    ///
    /// # Errors
    /// When this machine had no connection left to open, or the clients' thread has come to a bad end.
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
