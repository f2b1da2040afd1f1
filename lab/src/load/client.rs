//! The clients themselves: tasks that connect, ask, and read the answer.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::task::LocalSet;

use super::connection::{Answered, Between, Connection, Request, Then};
use super::{Connections, Event, Log, Parting, Plan, Shape, Tally};

/// For how long a connection is listened to behind its last answer, where that is asked for.
const LISTEN: Duration = Duration::from_millis(250);
/// For how long requests that were due before the end are still sent behind it, on a machine that has other things to do.
const AFTER_THE_END: Duration = Duration::from_millis(250);

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Nobody took the connection.
    Refused,
    /// The connection, a new one, ended before the answer had begun.
    Unanswered,
    /// The connection had carried an answer before, and ended before this one had begun. A server may end a connection
    /// between two requests, and may have done so before it had seen this one.
    KeptEnded,
    /// The connection ended in the middle of the answer.
    Cut,
    /// What came was no HTTP.
    NotHttp,
    /// The answer was not a 2xx.
    Status(u16),
    /// There was no answer in time.
    TimedOut,
    /// It was not sent, for there was no connection to ask on: too many were waiting for their answers.
    NoConnection,
    /// It was not sent: the time was over before the clients, who are too slow for so many requests, had come to it.
    Behind,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Unanswered => f.write_str("the connection ended without an answer"),
            Self::KeptEnded => f.write_str("the kept connection ended without an answer"),
            Self::Cut => f.write_str("cut off in the answer"),
            Self::NotHttp => f.write_str("no HTTP answer"),
            Self::Status(status) => write!(f, "{status}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::NoConnection => f.write_str("no connection left to send it on"),
            Self::Behind => f.write_str("not sent before the end"),
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
    /// Why there cannot be any more requests, of whoever noticed first.
    broken: Cell<Option<io::Error>>,
}

/// What a client goes on with.
struct Next {
    connection: Option<Connection>,
    outcome: Result<(), Failure>,
}

/// Runs all clients of a plan until its time is over or they are told to stop.
///
/// # Errors
/// When it was this machine that had no connection left to open: that says nothing of the server.
pub(super) async fn all(
    plan: &Plan,
    started: Instant,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
) -> io::Result<Tally> {
    let tally = RefCell::new(Tally::of_targets(plan.targets.len()));
    let clients = match plan.shape {
        Shape::Closed { clients, .. } => clients,
        Shape::Open { .. } => 0,
    };
    let shared = Rc::new(Shared {
        plan: plan.clone(),
        started,
        stop,
        tally,
        asked: Cell::new(0),
        answered: RefCell::new(vec![false; clients]),
        served,
        broken: Cell::new(None),
    });
    let (begun, busy_before) = (Instant::now(), processor_time());
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
    if let Some(error) = shared.broken.take() {
        return Err(error);
    }
    let busy = processor_time().saturating_sub(busy_before);
    let busy = busy.as_secs_f64() / begun.elapsed().as_secs_f64().max(1e-9);
    Ok(Tally { busy, ..shared.tally.take() })
}

/// For how long this thread has had a processor.
pub(super) fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.started.elapsed() >= self.plan.warm_up + self.plan.time
    }

    /// Asks once and writes down what came of it.
    async fn ask(self: &Rc<Self>, client: usize, draw: u64, due: Instant, kept: Option<Connection>) -> Next {
        let target = choose(&self.plan.targets, draw);
        let path = self.plan.targets.get(target).map_or("/", |(path, _)| path);
        self.asked.set(self.asked.get() + 1);
        let path = path.replace(super::NUMBER, &self.asked.get().to_string());
        let then = match self.plan.connections {
            Connections::Kept | Connections::Held => Then::Keep,
            Connections::OneForEach => Then::Close,
        };
        let request = Request { method: self.plan.method, host: &self.plan.host, target: &path, then };
        let kept = match kept.map(|kept| self.if_quiet(kept)).transpose() {
            Ok(kept) => kept.flatten(),
            Err(failure) => {
                self.note(client, target, due, Some(failure));
                return Next { connection: None, outcome: Err(failure) };
            }
        };
        let asked = async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::to(self.plan.address).await.map_err(Trouble::of)?,
            };
            let answered = connection.ask(request).await?;
            Ok((connection, answered))
        };
        let asked = tokio::time::timeout(self.plan.patience, asked).await;
        let (connection, outcome) = match asked.unwrap_or(Err(Trouble::Theirs(Failure::TimedOut))) {
            Ok((connection, answered)) => (self.kept_or_parted_with(connection, answered), good(answered)),
            Err(Trouble::Theirs(failure)) => (None, Err(failure)),
            Err(Trouble::Ours(error)) => {
                self.broken.set(Some(error));
                self.stop.store(true, Ordering::Relaxed);
                return Next { connection: None, outcome: Err(Failure::NoConnection) };
            }
        };
        self.note(client, target, due, outcome.err());
        Next { connection, outcome }
    }

    /// A kept connection that can be asked on; `None`: another is to be opened.
    fn if_quiet(&self, mut kept: Connection) -> Result<Option<Connection>, Failure> {
        let mut tally = self.tally.borrow_mut();
        match kept.between() {
            Between::Quiet => return Ok(Some(kept)),
            Between::Ended if self.plan.connections == Connections::Held => return Err(Failure::KeptEnded),
            Between::Ended => tally.ended_between += 1,
            Between::Surplus => tally.answered_twice += 1,
        }
        Ok(None)
    }

    fn kept_or_parted_with(
        self: &Rc<Self>,
        connection: Connection,
        answered: Answered,
    ) -> Option<Connection> {
        match answered.then {
            Then::Keep => Some(connection),
            Then::Close => {
                part_with(self, connection);
                None
            }
        }
    }

    fn note(&self, client: usize, target: usize, due: Instant, failure: Option<Failure>) {
        let counted_from = self.started + self.plan.warm_up;
        if failure.is_none()
            && let Some(answered) = self.answered.borrow_mut().get_mut(client)
            && !std::mem::replace(answered, true)
        {
            self.served.fetch_add(1, Ordering::Relaxed);
        }
        if due < counted_from {
            return;
        }
        let (from, to) = (due.saturating_duration_since(counted_from), counted_from.elapsed());
        let event = Event { client, target, from, to, failure };
        self.tally.borrow_mut().note(event, self.plan.log == Log::EachEvent);
    }
}

/// Why there is no answer.
enum Trouble {
    Theirs(Failure),
    /// This machine has no connection left to open.
    Ours(io::Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Theirs(failure)
    }
}

impl Trouble {
    /// Of an error in opening a connection.
    fn of(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL | Errno::NOBUFS | Errno::NOMEM) => {
                Self::Ours(error)
            }
            _ => Self::Theirs(Failure::Refused),
        }
    }
}

fn good(answered: Answered) -> Result<(), Failure> {
    match answered.status {
        200..300 => Ok(()),
        status => Err(Failure::Status(status)),
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
    let (mut connection, mut random) = (None, Random::new(shared.plan.seed, client as u64));
    while !shared.is_over() {
        let next = shared.ask(client, random.next(), Instant::now(), connection).await;
        connection = next.connection;
        if !think.is_zero() {
            tokio::time::sleep(think).await;
        } else if next.outcome.is_err() {
            // Whom nobody takes does not keep the processor busy with asking.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    if let Some(connection) = connection {
        part_with(&shared, connection);
    }
}

async fn in_open_loop(shared: Rc<Shared>, rate: f64, most: usize) {
    let mut random = Random::new(shared.plan.seed, 0);
    let mut due = shared.started;
    let counted_from = due + shared.plan.warm_up;
    let end = counted_from + shared.plan.time;
    let idle: Rc<RefCell<Vec<Connection>>> = Rc::default();
    let under_way = Rc::new(RefCell::new(0_usize));
    let mut requests = tokio::task::JoinSet::new();
    for client in 0.. {
        due += Duration::from_secs_f64(-random.unit().ln() / rate.max(1e-6));
        if due >= end {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let draw = random.next();
        let not_sent = if Instant::now() > end + AFTER_THE_END {
            Some(Failure::Behind)
        } else {
            (*under_way.borrow() >= most).then_some(Failure::NoConnection)
        };
        if not_sent.is_some() {
            shared.note(client, choose(&shared.plan.targets, draw), due, not_sent);
            continue;
        }
        if due >= counted_from {
            shared.tally.borrow_mut().note_late(due.elapsed());
        }
        *under_way.borrow_mut() += 1;
        let (shared, idle, under_way) = (Rc::clone(&shared), Rc::clone(&idle), Rc::clone(&under_way));
        requests.spawn_local(async move {
            let kept = idle.borrow_mut().pop();
            let next = shared.ask(client, draw, due, kept).await;
            idle.borrow_mut().extend(next.connection);
            *under_way.borrow_mut() -= 1;
        });
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
    for connection in idle.take() {
        part_with(&shared, connection);
    }
}

/// Lets go of a connection, listening a while longer if that is asked for. Nobody waits for that but the end of it all.
fn part_with(shared: &Rc<Shared>, connection: Connection) {
    if shared.plan.parting == Parting::AtOnce {
        return;
    }
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        if connection.listen(LISTEN).await == Between::Surplus {
            shared.tally.borrow_mut().answered_twice += 1;
        }
    });
}

/// Numbers that come out the same each time (xorshift): two systems that are compared are asked the same.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64, client: u64) -> Self {
        // Whatever both are, it is not 0, from which nothing else would ever come.
        let both = seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(client);
        let mut random = Self(both.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        // Seeds that are near each other are told apart after a few.
        for _ in 0..8 {
            random.next();
        }
        random
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
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;
    use crate::load;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const TIME: Duration = Duration::from_millis(200);

    /// Where whoever connects is served like that, one thread each, for as long as this test runs.
    fn served(serve: fn(TcpStream) -> io::Result<()>) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream));
            }
        });
        Ok(address)
    }

    fn asked(stream: &mut TcpStream) -> io::Result<bool> {
        Ok(stream.read(&mut [0; 1024])? > 0)
    }

    #[test]
    fn a_server_may_end_a_kept_connection_between_two_requests() -> io::Result<()> {
        let address = served(|mut stream| {
            asked(&mut stream)?;
            stream.write_all(OK)
        })?;
        let think = Duration::from_millis(20);
        let shape = Shape::Closed { clients: 2, think };
        let tally = load::run(Plan { shape, ..Plan::closed(address, "/", 2, TIME) })?;
        assert!(tally.failed.is_empty() && tally.ended_between > 0, "{tally:?}");
        let held = Plan { shape, connections: Connections::Held, ..Plan::closed(address, "/", 2, TIME) };
        let tally = load::run(held)?;
        assert!(matches!(tally.failed[..], [(Failure::KeptEnded, 1..)]), "{tally:?}");
        let open = Shape::Open { rate: 100.0, most: 4 };
        let tally = load::run(Plan { shape: open, ..Plan::closed(address, "/", 2, TIME) })?;
        assert!(tally.failures() <= tally.answered / 10 && tally.ended_between > 0, "{tally:?}");
        Ok(())
    }

    #[test]
    fn a_second_answer_counts_beside_the_request_that_it_follows() -> io::Result<()> {
        let address = served(|mut stream| {
            while asked(&mut stream)? {
                stream.write_all(OK)?;
                stream.write_all(OK)?;
            }
            Ok(())
        })?;
        // Each connection carries one request: the second answer is seen before the next, or at the end.
        for connections in [Connections::Kept, Connections::OneForEach] {
            let shape = Shape::Closed { clients: 1, think: Duration::from_millis(20) };
            let plan = Plan {
                shape,
                connections,
                parting: Parting::Listening,
                ..Plan::closed(address, "/", 1, TIME)
            };
            let tally = load::run(plan)?;
            assert!(tally.answered > 0 && tally.failed.is_empty(), "{tally:?}");
            assert_eq!(tally.answered_twice, tally.answered, "{connections:?}");
        }
        Ok(())
    }

    #[test]
    fn requests_that_there_was_no_connection_for_are_told_apart() -> io::Result<()> {
        let address = served(|mut stream| {
            asked(&mut stream)?;
            // Until the client gives up.
            asked(&mut stream).map(|_| ())
        })?;
        let shape = Shape::Open { rate: 100.0, most: 1 };
        let tally = load::run(Plan { shape, patience: TIME, ..Plan::closed(address, "/", 0, TIME) })?;
        let count =
            |failure| tally.failed.iter().find(|(it, _)| *it == failure).map_or(0, |(_, count)| *count);
        assert!(count(Failure::TimedOut) >= 1 && count(Failure::NoConnection) >= 1, "{tally:?}");
        assert_eq!(tally.failures(), count(Failure::TimedOut) + count(Failure::NoConnection), "{tally:?}");
        Ok(())
    }

    #[test]
    fn what_this_machine_lacks_is_not_blamed_on_the_server() {
        let trouble = |errno: Errno| Trouble::of(errno.into());
        for errno in [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL] {
            assert!(matches!(trouble(errno), Trouble::Ours(_)), "{errno}");
        }
        for errno in [Errno::CONNREFUSED, Errno::CONNRESET, Errno::HOSTUNREACH] {
            assert!(matches!(trouble(errno), Trouble::Theirs(Failure::Refused)), "{errno}");
        }
    }

    #[test]
    fn targets_are_drawn_by_their_shares() {
        let targets = [("short".to_owned(), 9), ("long".to_owned(), 1)];
        let mut random = Random::new(1, 0);
        let long = (0..10_000).filter(|_| choose(&targets, random.next()) == 1).count();
        assert!((900..1100).contains(&long), "{long} of 10000 were long");
    }

    #[test]
    fn another_seed_brings_other_arrivals_and_the_same_one_the_same() {
        let first = |seed, client| Random::new(seed, client).unit().to_bits();
        assert_eq!(first(1, 0), first(1, 0));
        let mut all: Vec<u64> =
            (0..8).flat_map(|seed| (0..8).map(move |client| first(seed, client))).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 64);
    }

    #[test]
    fn what_is_due_in_the_warm_up_is_asked_and_not_counted() -> io::Result<()> {
        let address = served(|mut stream| {
            while asked(&mut stream)? {
                stream.write_all(OK)?;
            }
            Ok(())
        })?;
        let shape = Shape::Open { rate: 500.0, most: 16 };
        let plan = Plan { shape, log: Log::EachEvent, ..Plan::closed(address, "/", 0, TIME) };
        let cold = load::run(plan.clone())?;
        let warm = load::run(Plan { warm_up: TIME, time: Duration::ZERO, ..plan.clone() })?;
        assert_eq!((warm.answered, warm.failures(), warm.log.len()), (0, 0, 0), "{warm:?}");
        // The same arrivals, of which the later half counts, from where counting began.
        let half = load::run(Plan { warm_up: TIME / 2, time: TIME / 2, ..plan })?;
        assert!(half.log.len() < cold.log.len() && !half.log.is_empty(), "{half:?} of {cold:?}");
        assert!(half.log.iter().all(|it| it.from <= TIME / 2), "{half:?}");
        Ok(())
    }
}
