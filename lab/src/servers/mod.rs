//! The servers, one model a file, each to be read in one sitting.
//!
//! All of them do the same work: HTTP with the pages of Bulkhead's demo (`/work?ms=5` blocks, `/cpu?burn_ms=5` computes,
//! `/segv` really faults), or the classic echo. They differ in who does it. What they have in common is in [`http`] and
//! [`echo`]; what differs is the whole of each file.
//!
//! A server is a process of its own; its listening socket is its descriptor 0, as a FastCGI server's is. Children
//! that are started again from the program's file (this is Rust: a process with threads cannot fork and go on) find
//! the same socket there, or that of their one client.

mod echo;
mod event_workers;
pub mod fastcgi;
mod http;
mod hybrid;
mod master;
mod prefork;
mod process_per_connection;
mod sessions;
pub mod splitter;
mod thread_per_connection;
mod thread_pool;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Once;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// A model of concurrency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// A process for each connection: the classic server that forks.
    ProcessPerConnection,
    /// Processes that wait on one listening socket.
    Prefork,
    /// A process for each session, all of them started afresh when one crashes, because they share memory.
    Sessions,
    /// A thread for each connection: the classic threaded server.
    ThreadPerConnection,
    /// So many threads and no more, on one queue.
    ThreadPool,
    /// Processes with threads in each.
    Hybrid,
    /// An event loop in each of several processes.
    EventWorkers,
    /// Responders behind a web server that speaks FastCGI to them.
    FastCgi(fastcgi::Responder),
    /// A front that gives each request to one of several workers that have a listening socket each.
    Splitter(splitter::Choice),
}

impl Model {
    /// All that stand for themselves, in the order of tables. A splitter is there to be compared with who gives work only to
    /// whoever is idle.
    pub const ALL: [Self; 9] = [
        Self::ProcessPerConnection,
        Self::Prefork,
        Self::Sessions,
        Self::ThreadPerConnection,
        Self::ThreadPool,
        Self::Hybrid,
        Self::EventWorkers,
        Self::FastCgi(fastcgi::Responder::Own),
        Self::FastCgi(fastcgi::Responder::Php),
    ];

    /// The name that it is called by in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProcessPerConnection => "process per connection",
            Self::Prefork => "prefork",
            Self::Sessions => "sessions, reset together",
            Self::ThreadPerConnection => "thread per connection",
            Self::ThreadPool => "thread pool",
            Self::Hybrid => "hybrid",
            Self::EventWorkers => "event workers",
            Self::FastCgi(fastcgi::Responder::Own) => "FastCGI pool",
            Self::FastCgi(fastcgi::Responder::Php) => "FastCGI pool, PHP",
            Self::Splitter(splitter::Choice::Random) => "splitter, at random",
            Self::Splitter(splitter::Choice::Idle) => "splitter, to the idle",
        }
    }
}

impl Model {
    /// Whether it serves this: what hands requests on has to know where one ends.
    pub fn speaks(self, protocol: Protocol) -> bool {
        match self {
            Self::FastCgi(_) | Self::Splitter(_) => protocol == Protocol::Http,
            _ => true,
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1 with the pages of the demo.
    Http,
    /// `Echo: ` and what was sent, until the client closes.
    Echo,
}

impl Protocol {
    /// Serves one client until it closes, with blocking calls.
    ///
    /// # Errors
    /// What the connection says; a client that is gone is none.
    pub fn serve(self, stream: &TcpStream) -> io::Result<()> {
        match self {
            Self::Http => http::serve(stream),
            Self::Echo => echo::serve(stream),
        }
    }
}

/// What a server is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// How it serves.
    pub model: Model,
    /// What it speaks.
    pub protocol: Protocol,
    /// Processes that serve, where the model starts them in advance.
    pub processes: usize,
    /// Threads that serve, where the model bounds them: of all processes together.
    pub threads: usize,
    /// Descriptors that a process may have open, where that is not left to the system.
    pub open_files: Option<u64>,
    /// Where it has to choose at random: it chooses the same for the same number.
    pub seed: u64,
}

/// What a child of a server is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Child {
    /// It has one client, on descriptor 0, and ends with it.
    OfOneConnection(Protocol),
    /// As above, and shares memory with the others.
    Session {
        /// What it speaks.
        protocol: Protocol,
        /// The file to map.
        memory: String,
    },
    /// It takes one client after another from the listening socket on descriptor 0.
    Prefork(Protocol),
    /// As above, with several threads.
    Hybrid {
        /// What they speak.
        protocol: Protocol,
        /// How many.
        threads: usize,
    },
    /// It takes all clients that it can get from the listening socket, which does not block, on descriptor 0.
    EventWorker(Protocol),
    /// It takes HTTP clients as above, and asks a FastCGI pool for them.
    FastCgiFront {
        /// The name of the pool's socket.
        pool: String,
        /// What the responders are to run, if they have to be told.
        script: Option<String>,
    },
    /// It takes HTTP clients as above, and asks these workers for them.
    Splitter {
        /// Where each of them listens.
        workers: Vec<SocketAddr>,
        /// How one is chosen.
        choice: splitter::Choice,
        /// What is chosen at random is the same for the same number.
        seed: u64,
    },
    /// It answers one FastCGI connection after another from the listening socket on descriptor 0.
    Responder,
}

/// Serves until it is told to end.
///
/// # Errors
/// When it cannot go on at all.
pub fn serve(setup: &Setup) -> io::Result<()> {
    let listener = TcpListener::from(descriptor_0()?);
    let Setup { model, protocol, processes, threads, open_files, seed } = *setup;
    if let Some(most) = open_files {
        // Children inherit it.
        let limit = Rlimit { current: Some(most), maximum: getrlimit(Resource::Nofile).maximum };
        setrlimit(Resource::Nofile, limit)?;
    }
    match model {
        Model::ProcessPerConnection => process_per_connection::serve(&listener, protocol),
        Model::Prefork => prefork::serve(&listener, protocol, processes),
        Model::Sessions => sessions::serve(&listener, protocol),
        Model::ThreadPerConnection => thread_per_connection::serve(&listener, protocol),
        Model::ThreadPool => thread_pool::serve(&listener, protocol, threads),
        Model::Hybrid => {
            let processes = cores().min(threads).max(2);
            hybrid::serve(&listener, protocol, processes, threads.div_ceil(processes))
        }
        Model::EventWorkers => event_workers::serve(&listener, protocol, cores().max(2)),
        Model::FastCgi(responder) => fastcgi::serve(&listener, responder, processes),
        Model::Splitter(choice) => splitter::serve(&listener, choice, processes, seed),
    }
}

/// Does what a child does.
///
/// # Errors
/// When it cannot go on at all.
pub fn serve_as_child(child: Child) -> io::Result<()> {
    let socket = descriptor_0()?;
    match child {
        Child::OfOneConnection(protocol) => protocol.serve(&TcpStream::from(socket)),
        Child::Session { protocol, memory } => sessions::session(&TcpStream::from(socket), protocol, &memory),
        Child::Prefork(protocol) => prefork::child(&TcpListener::from(socket), protocol),
        Child::Hybrid { protocol, threads } => hybrid::child(&TcpListener::from(socket), protocol, threads),
        Child::EventWorker(protocol) => event_workers::child(TcpListener::from(socket), protocol),
        Child::FastCgiFront { pool, script } => fastcgi::front::child(socket.into(), pool, script),
        Child::Splitter { workers, choice, seed } => splitter::front(socket.into(), workers, choice, seed),
        Child::Responder => fastcgi::responder::child(&socket.into()),
    }
}

/// Takes the next client. A process that has no descriptor left for one waits until it has: that is no reason to let go
/// of those whom it has.
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    accept_with(|| listener.accept().map(|(client, _)| client))
}

/// As [`accept`], of whatever kind the clients are.
fn accept_with<T>(mut accept: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match accept() {
            Err(error) if out_of_descriptors(&error) => {
                say_once(&error);
                std::thread::sleep(A_BREATH);
            }
            accepted => return accepted,
        }
    }
}

/// As [`accept`], for event loops.
async fn accept_async(listener: &tokio::net::TcpListener) -> io::Result<tokio::net::TcpStream> {
    loop {
        match listener.accept().await {
            Err(error) if out_of_descriptors(&error) => {
                say_once(&error);
                tokio::time::sleep(A_BREATH).await;
            }
            accepted => return accepted.map(|(client, _)| client),
        }
    }
}

/// Says in the kernel's words that there is no descriptor for a client; once, or it would be said all the time.
fn say_once(error: &io::Error) {
    static SAID: Once = Once::new();
    SAID.call_once(|| eprintln!("no descriptor for a client: {error}"));
}

fn out_of_descriptors(error: &io::Error) -> bool {
    let errors = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|error| errors.contains(&error))
}

/// How long who has no descriptor waits for one.
const A_BREATH: Duration = Duration::from_millis(20);

/// Processes of models that have one for each core; two at least, or there would be nobody left when one dies.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The socket that this process was started with, in a descriptor that its own children do not inherit.
fn descriptor_0() -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?)
}
