//! What door and controller say to each other.
//!
//! One JSON document a line, over a Unix stream socket in a directory that no worker's container mounts. The
//! door listens; one controller at a time is connected, and a new one takes the place of the old. The
//! controller speaks first ([`Order::Hello`]), the door answers [`Notice::Welcome`] with everything that a
//! controller needs to adopt it, then the notices that it kept while nobody listened (a bounded number), then
//! what happens from there on.
//!
//! Losing this connection costs no client anything: the door serves on with the workers it has. What is lost
//! while it is down is *replacement*, which is the controller's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::identity::{Incarnation, PoolName, Secret};
use crate::observation::{Histogram, TrickleReport, TurnTrace};

/// The version of this protocol. Door and controller of different versions refuse each other by name. It changes with the
/// link's as well: a door that is adopted has to understand the workers that its next controller starts.
pub const VERSION: u32 = 7;

/// What somebody says in place of [`VERSION`] who only wants to know the door's. It is answered with the welcome, as
/// any version that the door does not speak, and changes nothing.
pub const ASKS_VERSION: u32 = 0;

/// The longest line that either side accepts, in bytes.
pub const LONGEST_LINE: usize = 8 << 20;

/// What the controller tells the door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// First of all: who I am, and the secret under which workers' tokens are made.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Workers that cannot prove themselves under it are refused.
        secret: Secret,
    },
    /// Give this worker no further turn; when its last one is done, send it away.
    Drain {
        /// Which.
        worker: Incarnation,
    },
    /// This worker is about to be killed, which takes an engine tens of milliseconds: give it no turn that would be
    /// killed with it. Holds for a second, for the kill may fail and the controller may die.
    Withhold {
        /// Which.
        worker: Incarnation,
    },
    /// Have this worker's process end here and now, in the middle of whatever it is at. For a backend that can only ask
    /// for a death and wait, as Kubernetes; forgotten where the worker's link is no tunnel.
    Kill {
        /// Which.
        worker: Incarnation,
    },
    /// This worker's life is over: it is dead as the backend confirms, or another door has lost it, or it has come to none
    /// in time. Let it in no more. Its link may still look open (a process that it started may have inherited it): close
    /// it, and decide about its turns.
    Bury {
        /// Which.
        worker: Incarnation,
    },
    /// These lives are over, and so are all before them in their places: let none of them in. For a door that has come
    /// since, and has not seen them end.
    Over {
        /// The latest of each place.
        lives: Vec<Incarnation>,
    },
    /// Answer with [`Notice::Report`].
    Report {
        /// Comes back in the answer.
        query: u64,
        /// Hand over the turns that have ended since this was last asked, and forget them: they have one reader. The
        /// door notes turns for a few seconds after each such question, and none before the first.
        turns: bool,
    },
    /// Send one request to a pool's own address, as a client would, and forget the answer. For people who want to see
    /// what becomes of it.
    Request {
        /// Which. It speaks HTTP.
        pool: PoolName,
        /// `GET`, or another. There is no body.
        method: String,
        /// What for, from the `/` on; see [`is_origin_form`](crate::http::is_origin_form).
        path: String,
    },
    /// Send requests to a pool's own address, again and again, for people who want something to kill. Takes the place of
    /// the trickle that this pool has.
    Trickle {
        /// Which. It speaks HTTP.
        pool: PoolName,
        /// What to `GET`, from the `/` on; see [`is_origin_form`](crate::http::is_origin_form).
        path: String,
        /// How often: within [`TRICKLE_RATES`](crate::observation::TRICKLE_RATES).
        per_second: f64,
        /// For how long: at most [`LONGEST_TRICKLE`](crate::observation::LONGEST_TRICKLE).
        #[serde(with = "millis")]
        lasting: Duration,
    },
    /// End the trickle of a pool.
    EndTrickle {
        /// Which.
        pool: PoolName,
    },
    /// Send this worker to another door once it has done what it holds. Forgotten where its link is no tunnel.
    Move {
        /// Which.
        worker: Incarnation,
        /// `HOST:PORT` of the other door's tunnel.
        to: String,
    },
    /// Answer with [`Notice::Pong`]: a door that hangs keeps its sockets open, and only silence tells.
    Ping,
    /// Drain everything, then exit: the same as SIGTERM.
    Stop,
}

/// What the door tells the controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "snake_case")]
pub enum Notice {
    /// The answer to [`Order::Hello`].
    Welcome {
        /// [`VERSION`].
        version: u32,
        /// The door's process id, as the door sees it.
        pid: u32,
        /// Where each pool listens, ports resolved.
        pools: BTreeMap<PoolName, SocketAddr>,
        /// Where it listens for workers over TCP, port resolved; `None`: it has a Unix socket alone.
        tunnel: Option<SocketAddr>,
        /// The workers whose links are up.
        linked: Vec<Incarnation>,
        /// The latest life that the door has seen of each place, dead or alive: the next one must be higher.
        seen: Vec<Incarnation>,
    },
    /// A worker's link is up and its token is good: it is ready for turns.
    Joined {
        /// Which.
        worker: Incarnation,
        /// When.
        at: Stamp,
    },
    /// A worker has gone to another door, as it was [told to](Order::Move). It lives.
    Moved {
        /// Which.
        worker: Incarnation,
        /// Where to; empty: wherever it finds one.
        to: String,
    },
    /// A worker said goodbye: it takes no further turn, and it will leave when it has done those it has.
    Retiring {
        /// Which.
        worker: Incarnation,
        /// Why it says that it goes.
        why: Retirement,
    },
    /// A worker's link has closed.
    Left {
        /// Which.
        worker: Incarnation,
        /// When the door saw it.
        at: Stamp,
        /// Whether it had said goodbye and held nothing.
        cleanly: bool,
        /// Why the door has lost sight of it, where the kernel has not said that it is dead: it may be at work still.
        vanished: Option<String>,
        /// The turns that it held, oldest first. What became of each follows as [`Notice::Settled`].
        held: Vec<Held>,
        /// How many other workers of its pool were linked at that moment.
        siblings: usize,
    },
    /// What became of a turn whose worker had died. Exactly one follows for each turn in [`Notice::Left`].
    Settled {
        /// The worker that died.
        worker: Incarnation,
        /// The turn.
        turn: u64,
        /// When.
        at: Stamp,
        /// What became of it.
        outcome: Outcome,
    },
    /// A request has overrun its time: the worker that holds it is to be killed. Said once for each turn.
    Overran {
        /// The worker.
        worker: Incarnation,
        /// What it holds too long.
        held: Held,
    },
    /// A worker has broken the protocol. It gets no further turn and is to be killed.
    Broke {
        /// The worker.
        worker: Incarnation,
        /// What it did.
        detail: String,
    },
    /// A thread of a worker has panicked; the worker caught it and lives on.
    Panicked {
        /// The worker.
        worker: Incarnation,
        /// The turn.
        turn: u64,
        /// The request.
        request: String,
        /// The panic's message.
        message: String,
        /// When.
        at: Stamp,
    },
    /// Somebody came to the link and was turned away.
    Refused {
        /// Who it said it was, when it came as far as that.
        claimed: Option<Incarnation>,
        /// Why it was refused.
        detail: String,
    },
    /// The answer to [`Order::Report`].
    Report {
        /// As asked.
        query: u64,
        /// The state at this moment.
        report: Report,
    },
    /// A pool has no trickle any more: its time was up, it was told to end, or the door drains. Not said of one that
    /// another has taken the place of.
    TrickleEnded {
        /// Which.
        pool: PoolName,
    },
    /// The answer to [`Order::Ping`].
    Pong,
    /// The door has begun to drain and will exit.
    Stopping,
}

/// A turn that a worker holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The turn's number; a redelivered turn gets a new one.
    pub turn: u64,
    /// Method and target of the request, shortened; `connection from ADDRESS` on a raw pool.
    pub request: String,
    /// Since it was handed to this worker.
    #[serde(with = "millis")]
    pub held_for: Duration,
    /// Which delivery this is, from 1.
    pub delivery: u32,
    /// Whether the request has overrun its time.
    pub overran: bool,
}

/// What became of a turn whose worker died.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Given to another worker.
    Redelivered {
        /// To whom.
        to: Incarnation,
        /// From the moment when the dead worker was given it until the other one was.
        #[serde(with = "millis")]
        added: Duration,
    },
    /// The door answered in the worker's place.
    Answered {
        /// `502` or `504`, or `503` when it waited too long for another worker.
        status: u16,
        /// Why it was not redelivered.
        why: String,
    },
    /// Nothing: the dead worker had answered in full, and only its `done` was missing. The connection goes on.
    Finished,
    /// The connection was closed: an answer had begun, the client had gone, or a raw pool has no other words.
    Closed {
        /// Which of these.
        why: String,
    },
}

/// Why a worker goes of its own accord.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retirement {
    /// It was told to: SIGTERM, or [`Order::Drain`].
    Told,
    /// It has served as many requests as it was made for.
    Recycled,
}

/// The door's state at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Each pool.
    pub pools: Vec<PoolReport>,
    /// The turns that have ended since they were last asked for, the oldest first; none when they were not asked for.
    pub turns: Vec<TurnTrace>,
    /// How many more have ended: those that there was no room for, and most of the very short ones.
    pub turns_omitted: u64,
    /// The requests that the door sends itself.
    pub trickles: Vec<TrickleReport>,
}

/// A pool at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolReport {
    /// Which.
    pub name: PoolName,
    /// Where it listens, port resolved.
    pub listen: SocketAddr,
    /// Open client connections, parked ones included.
    pub connections: usize,
    /// Turns that wait for a worker.
    pub queued: usize,
    /// How long the first of them has waited.
    #[serde(with = "millis")]
    pub longest_wait: Duration,
    /// Counted since the door started.
    pub counters: Counters,
    /// How long workers took for a turn, from when they were given it until they were done: as many as
    /// [`Counters::turns`].
    pub turn_time: Histogram,
    /// How long turns waited before they were given to a worker, each time that they were: as many as
    /// [`Counters::deliveries`].
    pub queue_wait: Histogram,
    /// The workers whose links are up.
    pub workers: Vec<WorkerReport>,
}

/// A worker at one moment, as the door sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Which.
    pub worker: Incarnation,
    /// Turns done.
    pub turns: u64,
    /// Turns that it takes at a time.
    pub credit: u16,
    /// Whether it gets no further turns.
    pub draining: bool,
    /// Since it last had something to do; zero while it holds a turn.
    #[serde(with = "millis")]
    pub idle_for: Duration,
    /// What it holds, oldest first.
    pub holding: Vec<Held>,
}

/// What a pool's door has counted since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Connections accepted.
    pub connections: u64,
    /// Turns done by a worker.
    pub turns: u64,
    /// Deliveries of a turn to a worker, first ones and redeliveries.
    pub deliveries: u64,
    /// Deliveries after the first.
    pub redelivered: u64,
    /// Workers whose link closed with a turn in their hands or without a goodbye.
    pub deaths: u64,
    /// Answers that the door gave in a worker's place, by status.
    #[serde(with = "by_status")]
    pub answered: BTreeMap<u16, u64>,
    /// Connections cut because their worker died in the middle of an answer.
    pub cut: u64,
    /// Turns dropped in the queue because their client had gone.
    pub abandoned: u64,
}

/// A moment, in microseconds since the Unix epoch by the clock of the machine that both sides share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(u64);

impl Stamp {
    /// This moment.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// From `earlier` until this; zero when the clock was set back in between.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The moment so long before this.
    #[must_use]
    pub fn earlier(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }

    /// The moment so long after this.
    #[must_use]
    pub fn later(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl From<SystemTime> for Stamp {
    fn from(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX))
    }
}

impl From<Stamp> for SystemTime {
    fn from(stamp: Stamp) -> Self {
        Self::UNIX_EPOCH + Duration::from_micros(stamp.0)
    }
}

/// Counts by status. JSON has only text for keys, and serde, which turns it back into numbers elsewhere, does
/// not where it had to read ahead for a tag, as it does for every [`Notice`].
mod by_status {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(counts: &BTreeMap<u16, u64>, to: S) -> Result<S::Ok, S::Error> {
        counts.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u16, u64>, D::Error> {
        let counts = BTreeMap::<String, u64>::deserialize(from)?;
        let number = |(status, count): (String, u64)| Ok((status.parse::<u16>()?, count));
        let counts: Result<_, std::num::ParseIntError> = counts.into_iter().map(number).collect();
        counts.map_err(serde::de::Error::custom)
    }
}

/// Durations as a number of milliseconds, with their fraction.
pub(crate) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(duration.as_secs_f64() * 1e3)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let millis = f64::deserialize(from)?;
        Duration::try_from_secs_f64(millis / 1e3).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::TraceEnd;

    #[test]
    fn a_report_with_answers_in_it_survives_the_socket() -> Result<(), Box<dyn std::error::Error>> {
        let counters = Counters { answered: BTreeMap::from([(502, 3), (503, 1)]), ..Counters::default() };
        let mut queue_wait = Histogram::default();
        queue_wait.observe(Duration::from_micros(1500));
        let pool = PoolReport {
            name: "web".parse()?,
            listen: ([127, 0, 0, 1], 8080).into(),
            connections: 1,
            queued: 0,
            longest_wait: Duration::from_micros(1500),
            counters,
            turn_time: Histogram::default(),
            queue_wait,
            workers: Vec::new(),
        };
        let turn = TurnTrace {
            turn: 812,
            worker: "web-3.7".parse()?,
            request: "GET /".to_owned(),
            began: Stamp(1_700_000_000_000_000),
            took: Duration::from_micros(301_200),
            delivery: 2,
            end: TraceEnd::Lost,
        };
        let trickle = TrickleReport {
            pool: "web".parse()?,
            path: "/work?ms=300".to_owned(),
            per_second: 0.5,
            until: Stamp(1_700_000_000_000_001),
            sent: 3,
            answered: 1,
            failed: 1,
            in_flight: 1,
        };
        let report =
            Report { pools: vec![pool], turns: vec![turn], turns_omitted: 2, trickles: vec![trickle] };
        let notice = Notice::Report { query: 7, report };
        let line = serde_json::to_string(&notice)?;
        assert!(line.contains(r#""answered":{"502":3,"503":1}"#), "{line}");
        assert_eq!(serde_json::from_str::<Notice>(&line)?, notice);
        Ok(())
    }
}
