//! The clients themselves: tasks that connect, ask, and read the answer.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::{Connections, Event, Log, Method, Plan, Shape, Tally};

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Nobody took the connection.
    Refused,
    /// The connection ended before the answer was whole.
    Cut,
    /// The answer was not a 2xx.
    Status(u16),
    /// There was no answer in time.
    TimedOut,
    /// There was no connection to ask on: too many were waiting for their answers.
    NoConnection,
    /// There was an answer that nobody had asked for: one request was answered twice.
    Surplus,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Cut => f.write_str("cut off"),
            Self::Status(status) => write!(f, "{status}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::NoConnection => f.write_str("no connection left"),
            Self::Surplus => f.write_str("answered twice"),
        }
    }
}

/// What all clients share.
struct Shared {
    plan: Plan,
    started: Instant,
    stop: Arc<AtomicBool>,
    tally: RefCell<Tally>,
    /// Requests so far: each gets a number.
    asked: Cell<u64>,
    /// Of a closed loop, which clients have been answered at least once.
    answered: RefCell<Vec<bool>>,
    /// How many these are, for others to see.
    served: Arc<AtomicUsize>,
}

/// Runs all clients of a plan until its time is over or they are told to stop.
pub(super) async fn all(
    plan: &Plan,
    started: Instant,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
) -> Tally {
    let tally = RefCell::new(Tally::of_targets(plan.targets.len()));
    let clients = match plan.shape {
        Shape::Closed { clients, .. } => clients,
        Shape::Open { .. } => 0,
    };
    let answered = RefCell::new(vec![false; clients]);
    let shared =
        Rc::new(Shared { plan: plan.clone(), started, stop, tally, asked: Cell::new(0), answered, served });
    let clients = LocalSet::new();
    match plan.shape {
        Shape::Closed { clients: count, think } => {
            for client in 0..count {
                clients.spawn_local(in_closed_loop(Rc::clone(&shared), client, think));
            }
        }
        Shape::Open { rate, most } => {
            clients.spawn_local(in_open_loop(Rc::clone(&shared), rate, most));
        }
    }
    clients.await;
    shared.tally.take()
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.started.elapsed() >= self.plan.time
    }

    /// Asks once and writes down what came of it; the connection, if it can be used again.
    async fn ask(
        &self,
        client: usize,
        draw: u64,
        due: Instant,
        kept: Option<Connection>,
    ) -> Option<Connection> {
        let target = choose(&self.plan.targets, draw);
        let (path, _) = self.plan.targets.get(target)?;
        let close = self.plan.connections == Connections::OneForEach;
        self.asked.set(self.asked.get() + 1);
        let path = path.replace(super::NUMBER, &self.asked.get().to_string());
        let method = self.plan.method;
        let asked = async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::to(self.plan.address).await.map_err(|_| Failure::Refused)?,
            };
            let reusable = connection.ask(method, &path, close).await?;
            Ok(reusable.then_some(connection))
        };
        let asked = tokio::time::timeout(self.plan.patience, asked).await.unwrap_or(Err(Failure::TimedOut));
        let (connection, failure) = match asked {
            Ok(connection) => (connection, None),
            Err(failure) => (None, Some(failure)),
        };
        self.note(client, target, due, failure);
        connection
    }

    fn note(&self, client: usize, target: usize, due: Instant, failure: Option<Failure>) {
        let (from, to) = (due.saturating_duration_since(self.started), self.started.elapsed());
        let event = Event { client, target, from, to, failure };
        if failure.is_none()
            && let Some(answered) = self.answered.borrow_mut().get_mut(client)
            && !std::mem::replace(answered, true)
        {
            self.served.fetch_add(1, Ordering::Relaxed);
        }
        self.tally.borrow_mut().note(event, self.plan.log == Log::EachEvent);
    }
}

/// Which target is meant by a number that is drawn evenly from all numbers.
fn choose(targets: &[(String, u32)], draw: u64) -> usize {
    let sum: u64 = targets.iter().map(|(_, share)| u64::from(*share)).sum();
    let mut rest = draw % sum.max(1);
    for (nth, (_, share)) in targets.iter().enumerate() {
        match rest.checked_sub(u64::from(*share)) {
            None => return nth,
            Some(less) => rest = less,
        }
    }
    0
}

async fn in_closed_loop(shared: Rc<Shared>, client: usize, think: Duration) {
    let (mut connection, mut random) = (None, Random::new(client as u64));
    while !shared.is_over() {
        let failed_before = connection.is_none();
        connection = shared.ask(client, random.next(), Instant::now(), connection).await;
        if !think.is_zero() {
            tokio::time::sleep(think).await;
        } else if connection.is_none() && failed_before {
            // Whom nobody takes does not keep the processor busy with asking.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn in_open_loop(shared: Rc<Shared>, rate: f64, most: usize) {
    let mut random = Random::new(0);
    let mut due = shared.started;
    let idle: Rc<RefCell<Vec<Connection>>> = Rc::default();
    let under_way = Rc::new(RefCell::new(0_usize));
    let mut requests = tokio::task::JoinSet::new();
    for client in 0.. {
        due += Duration::from_secs_f64(-random.unit().ln() / rate.max(1e-6));
        tokio::time::sleep_until(due.into()).await;
        if shared.is_over() {
            break;
        }
        let draw = random.next();
        if *under_way.borrow() >= most {
            shared.note(client, choose(&shared.plan.targets, draw), due, Some(Failure::NoConnection));
            continue;
        }
        *under_way.borrow_mut() += 1;
        let (shared, idle, under_way) = (Rc::clone(&shared), Rc::clone(&idle), Rc::clone(&under_way));
        requests.spawn_local(async move {
            let kept = idle.borrow_mut().pop();
            let connection = shared.ask(client, draw, due, kept).await;
            idle.borrow_mut().extend(connection);
            *under_way.borrow_mut() -= 1;
        });
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
}

/// One connection, and what has been read from it beyond the last answer.
pub(super) struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Connection {
    async fn to(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect(address).await?)
    }

    pub(super) fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, bytes: Vec::with_capacity(1024) })
    }

    /// Whether something has come that was not asked for. The end of the connection is none; that shows when it is asked on.
    fn has_surplus(&mut self) -> bool {
        let _ = self.stream.try_read_buf(&mut self.bytes);
        !self.bytes.is_empty()
    }

    /// Asks and reads the whole answer; whether the connection can be used again.
    pub(super) async fn ask(&mut self, method: Method, path: &str, close: bool) -> Result<bool, Failure> {
        if self.has_surplus() {
            return Err(Failure::Surplus);
        }
        let connection = if close { "Connection: close\r\n" } else { "" };
        let (method, length) = match method {
            Method::Get => ("GET", ""),
            Method::Post => ("POST", "Content-Length: 0\r\n"),
        };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: lab\r\n{length}{connection}\r\n");
        self.stream.write_all(request.as_bytes()).await.map_err(|_| Failure::Cut)?;
        loop {
            if let Some(answer) = Answer::parse(&self.bytes)? {
                self.bytes.drain(..answer.len);
                let good = (200..300).contains(&answer.status);
                return if good {
                    Ok(answer.keep_alive && !close)
                } else {
                    Err(Failure::Status(answer.status))
                };
            }
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(0) | Err(_) => return Err(Failure::Cut),
                Ok(_) => {}
            }
        }
    }
}

/// An answer with a `Content-Length`, which those of the lab's systems and of their peers have.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    keep_alive: bool,
    len: usize,
}

impl Answer {
    /// From the beginning of `bytes`; `None` as long as it is not whole.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Failure> {
        let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&bytes[..head]).map_err(|_| Failure::Cut)?;
        let mut lines = text.split("\r\n");
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or(Failure::Cut)?;
        let (mut length, mut keep_alive) = (None, true);
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { continue };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse::<usize>().ok();
            } else if name.eq_ignore_ascii_case("connection") {
                keep_alive = !value.trim().eq_ignore_ascii_case("close");
            }
        }
        let len = head + 4 + length.ok_or(Failure::Cut)?;
        Ok((bytes.len() >= len).then_some(Self { status, keep_alive, len }))
    }
}

/// Numbers that come out the same each time (xorshift): two systems that are compared are asked the same.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Above 0, at most 1.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_length_is_there() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        assert_eq!(Answer::parse(text), Ok(Some(Answer { status: 200, keep_alive: false, len: text.len() })));
        assert_eq!(Answer::parse(&text[..text.len() - 1]), Ok(None));
        assert_eq!(Answer::parse(&text[..20]), Ok(None));
        assert_eq!(Answer::parse(b"HTTP/1.1 200 OK\r\n\r\n"), Err(Failure::Cut));
    }

    #[test]
    fn targets_are_drawn_by_their_shares() {
        let targets = [("short".to_owned(), 9), ("long".to_owned(), 1)];
        let mut random = Random::new(1);
        let long = (0..10_000).filter(|_| choose(&targets, random.next()) == 1).count();
        assert!((900..1100).contains(&long), "{long} of 10000 were long");
    }
}
