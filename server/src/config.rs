//! What a pool is, in the words that door and worker need: valid by the time it gets here.
//!
//! The spec file's text is read, checked and complained about in the controller; these types are what remains.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::identity::PoolName;

/// What the door knows of a pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DoorPool {
    /// The pool's name.
    pub name: PoolName,
    /// Where clients come in. Port 0 lets the kernel choose; the door tells the controller what it chose.
    pub listen: SocketAddr,
    /// What clients speak.
    pub protocol: Protocol,
    /// What a worker is given at a time.
    pub turn: TurnUnit,
    /// How many turns a worker is given at a time at the most, whatever it says that it takes: what its model takes.
    pub credit: u16,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Where whole requests wait for a worker.
    pub queue: Queue,
    /// What a client may ask of the door.
    pub clients: Clients,
    /// What becomes of a turn whose worker died.
    pub redeliver: Redeliver,
}

/// What the clients of a pool speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http,
    /// Bytes.
    Tcp,
}

/// What a worker is given at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TurnUnit {
    /// One request; the connection returns to the door in between. Only for [`Protocol::Http`].
    Request,
    /// A whole connection, until either side closes it.
    Connection,
}

/// How long each step may take before somebody gives up on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// From spawning a worker until its link is up. Enforced by the controller.
    pub start: Duration,
    /// For a client to send its whole head (and small body), and the longest that a client may stall a worker
    /// in the middle of a large body or of an answer.
    pub head: Duration,
    /// From the first time a request is handed to a worker until it is answered, redeliveries included.
    /// `None`: for ever, which is what `turn: connection` pools have unless they say otherwise.
    pub request: Option<Duration>,
    /// How long an idle connection may stay parked.
    pub keep_alive: Duration,
    /// From the order to drain until what is left is cut off.
    pub drain: Duration,
}

/// The bounded FIFO in front of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// How many turns may wait; one more is answered `503`.
    pub depth: usize,
    /// How long a turn may wait before it is answered `503`.
    pub wait: Duration,
}

/// What a client may ask of the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// Open connections, parked ones included; one more is answered `503`.
    pub connections: usize,
    /// Bytes of request line and headers; more is answered `431`, or `414` where the request line alone is that long.
    pub head_bytes: usize,
    /// Bytes of body up to which the door waits for the whole body, so that the request can be redelivered and
    /// a slow upload holds no worker.
    pub buffered_body_bytes: usize,
    /// Bytes of body above which a request is answered `413`: at once where it declares its length, and else as soon as
    /// so many have come.
    pub body_bytes: u64,
}

/// What becomes of a turn whose worker died before it had answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redeliver {
    /// Deliveries in all, the first one included.
    pub attempts: u32,
    /// Which requests may run twice.
    pub methods: RedeliverMethods,
}

/// Which requests may be executed a second time when nobody knows how far the first one came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedeliverMethods {
    /// None: only turns that no worker has acknowledged.
    None,
    /// GET, HEAD, PUT, DELETE, OPTIONS, TRACE, and what carries an `Idempotency-Key`.
    Idempotent,
    /// All of them.
    All,
}

/// How workers reach a door that they share no kernel with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Where the door listens for them. Port 0 lets the kernel choose; the door tells the controller what it chose.
    pub listen: SocketAddr,
    /// Whether what goes through it is encrypted, and the door proves who it is.
    pub tls: bool,
    /// Between two signs of life, in each direction.
    pub heartbeat: Duration,
    /// After how long without a sign of life the other side counts as lost.
    pub lost_after: Duration,
    /// Bytes of a turn that may be under way in each direction; at least what a whole request may have.
    pub window_bytes: u32,
}

/// What a worker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum App {
    /// An HTTP app on which every fault can be tried.
    Demo,
    /// Replies `Echo: ` and what was sent, until the client closes.
    Echo,
}

/// How a worker serves the turns it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Model {
    /// One process, one thread, one turn at a time.
    Prefork,
    /// One process, so many threads, a turn each.
    Threads(u16),
    /// One process, one thread, an event loop that interleaves so many turns.
    Event(u16),
}

impl Model {
    /// The most turns that a worker takes at a time.
    pub const MOST_TURNS: u16 = 1024;

    /// How many turns a worker of this model takes at a time.
    pub fn credit(self) -> u16 {
        match self {
            Self::Prefork => 1,
            Self::Threads(turns) | Self::Event(turns) => turns,
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefork => f.write_str("prefork"),
            Self::Threads(turns) => write!(f, "threads:{turns}"),
            Self::Event(turns) => write!(f, "event:{turns}"),
        }
    }
}

impl FromStr for Model {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a model: use 'prefork', 'threads:N' or 'event:N', N from 1 to 1024");
        let turns =
            |n: &str| n.parse::<u16>().ok().filter(|n| (1..=Self::MOST_TURNS).contains(n)).ok_or_else(wrong);
        match text.split_once(':') {
            None if text == "prefork" => Ok(Self::Prefork),
            Some(("threads", n)) => Ok(Self::Threads(turns(n)?)),
            Some(("event", n)) => Ok(Self::Event(turns(n)?)),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Model {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Model> for String {
    fn from(model: Model) -> String {
        model.to_string()
    }
}

macro_rules! lowercase_text {
    ($($name:ident { $($variant:ident = $text:literal),* })*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $text),* })
            }
        }
        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(format!("{text:?} is none of {}", [$($text),*].join(", "))),
                }
            }
        }
    )*};
}
lowercase_text! {
    Protocol { Http = "http", Tcp = "tcp" }
    TurnUnit { Request = "request", Connection = "connection" }
    App { Demo = "demo", Echo = "echo" }
    RedeliverMethods { None = "none", Idempotent = "idempotent", All = "all" }
}
