//! A crowd: clients in a process of their own, who take connections and hold them.
//!
//! Ten thousand connections have two ends. A crowd holds one of them, and whoever is measured the other, each under
//! limits of its own; where one crowd is full, another is started beside it ([`Crowd`]). It does what it is told, line by line:
//! open so many, be at work on all of them, ask anew.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use server::sys;
use tokio::net::TcpSocket;
use tokio::task::{JoinSet, LocalSet};

use super::client::processor_time;
use super::connection::{Between, Connection, Request, Then};
use super::{Failure, Latencies, Method};
use crate::compartment::{Compartment, Limits};
use crate::experiments::Party;
use crate::play::{self, Part};

/// As many as one crowd holds.
pub const MOST: usize = 10_000;

/// What they ask for.
const REQUEST: Request<'_> =
    Request { method: Method::Get, host: "lab", target: "/work?ms=0", then: Then::Keep };

/// The clients of a crowd, as the process that is theirs knows them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Clients {
    /// Whom they ask.
    address: SocketAddr,
    /// Where they come from: between two addresses there are only some 28,000 ports.
    from: Ipv4Addr,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// One after another, until one is not answered.
    Queue { connections: usize, patience: Duration },
    /// All at once, until nobody has been answered for so long.
    Throng { connections: usize, silence: Duration },
    /// Each of those that were answered asks again and again, for so long.
    Work { time: Duration },
    /// Another one comes, asks and goes; whether it was answered.
    Newcomer { patience: Duration },
}

/// What came of opening connections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// How many were answered and are held.
    pub answered: usize,
    /// From the first to the last answer, in ms.
    pub took_ms: f64,
    /// From a connection's beginning to its first answer, in ms: of one half not longer.
    pub median_ms: f64,
    /// Of 99 in 100 not longer.
    pub p99_ms: f64,
    /// Why the next one was not answered.
    pub stopped: Option<String>,
}

/// What came of work on all connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Worked {
    /// Answers.
    pub answered: u64,
    /// Requests without one.
    pub failed: u64,
    /// Answers a second.
    pub rate: f64,
    /// In ms; `None`: there were too few answers for it to stand.
    pub p99_ms: Option<f64>,
    /// For what share of the time the clients' one thread was busy; of several crowds, that of the busiest.
    pub busy: f64,
}

/// A crowd that is there. It goes when this is dropped.
#[derive(Debug)]
pub struct Crowd {
    control: BufReader<UnixStream>,
    _compartment: Compartment,
}

impl Crowd {
    /// Starts one: the `nth` of those that ask this address.
    ///
    /// # Errors
    /// When there is no process for it.
    pub fn start(address: SocketAddr, nth: u8) -> anyhow::Result<Self> {
        let clients = Clients { address, from: Ipv4Addr::new(127, 0, 0, nth.saturating_add(2)) };
        let (control, theirs) = UnixStream::pair()?;
        let mut compartment = Compartment::new(Limits { memory: 1 << 30, pids: 64 });
        let command = play::command(&Part::Party(Party::Crowd(clients)))?;
        compartment
            .start(command, Stdio::from(OwnedFd::from(theirs)))
            .context("cannot start a crowd of clients")?;
        Ok(Self { control: BufReader::new(control), _compartment: compartment })
    }

    /// Opens connections, one after another, until one is not answered in time.
    ///
    /// # Errors
    /// When the crowd is gone.
    pub fn queue(&mut self, connections: usize, patience: Duration) -> anyhow::Result<Opened> {
        self.tell(Order::Queue { connections, patience })?;
        self.hear()
    }

    /// Opens connections, all at once, until all are answered or nobody has been for `silence`.
    ///
    /// # Errors
    /// When the crowd is gone.
    pub fn throng(&mut self, connections: usize, silence: Duration) -> anyhow::Result<Opened> {
        self.tell(Order::Throng { connections, silence })?;
        self.hear()
    }

    /// Whether somebody who comes now is answered.
    ///
    /// # Errors
    /// When the crowd is gone.
    pub fn newcomer(&mut self, patience: Duration) -> anyhow::Result<bool> {
        self.tell(Order::Newcomer { patience })?;
        self.hear()
    }

    /// All connections of these crowds at work at the same time.
    ///
    /// # Errors
    /// When a crowd is gone.
    pub fn work(crowds: &mut [Self], time: Duration) -> anyhow::Result<Worked> {
        for crowd in &mut *crowds {
            crowd.tell(Order::Work { time })?;
        }
        let mut sum = Worked::default();
        for (nth, crowd) in crowds.iter_mut().enumerate() {
            let worked: Worked = crowd.hear()?;
            sum.answered += worked.answered;
            sum.failed += worked.failed;
            sum.rate += worked.rate;
            // Of several crowds that of the slowest: what it is of all together is not known, and is no more.
            sum.p99_ms = match nth {
                0 => worked.p99_ms,
                _ => sum.p99_ms.zip(worked.p99_ms).map(|(one, other)| one.max(other)),
            };
            sum.busy = sum.busy.max(worked.busy);
        }
        Ok(sum)
    }

    fn tell(&mut self, order: Order) -> anyhow::Result<()> {
        let line = serde_json::to_string(&order)? + "\n";
        self.control.get_mut().write_all(line.as_bytes()).context("a crowd of clients has gone")
    }

    fn hear<T: for<'a> Deserialize<'a>>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        if self.control.read_line(&mut line)? == 0 {
            bail!("a crowd of clients has gone; what it said is on standard error");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

/// Lets this process have as many files open as it may without asking anybody; how many these are.
pub fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    (if raised { maximum } else { current }).unwrap_or(u64::MAX)
}

impl Clients {
    /// Does what it is told, until nobody is left to tell.
    pub(crate) fn take_part(&self) -> io::Result<()> {
        raise_open_files();
        let control = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let clients = LocalSet::new();
        let mut held = Vec::new();
        for line in BufReader::new(control.try_clone()?).lines() {
            let order = serde_json::from_str(&line?)?;
            let answer = clients.block_on(&runtime, self.obey(order, &mut held))?;
            (&control).write_all((answer + "\n").as_bytes())?;
        }
        Ok(())
    }

    async fn obey(&self, order: Order, held: &mut Vec<Connection>) -> serde_json::Result<String> {
        match order {
            Order::Queue { connections, patience } => {
                serde_json::to_string(&self.queue(connections, patience, held).await)
            }
            Order::Throng { connections, silence } => {
                serde_json::to_string(&self.throng(connections, silence, held).await)
            }
            Order::Work { time } => serde_json::to_string(&work(held, time).await),
            Order::Newcomer { patience } => serde_json::to_string(&self.come(patience).await.is_ok()),
        }
    }

    /// A connection that has been answered once.
    async fn come(&self, patience: Duration) -> Result<Connection, String> {
        let arrive = async {
            let socket = TcpSocket::new_v4().map_err(|error| error.to_string())?;
            sys::choose_port_late(&socket).map_err(|error| error.to_string())?;
            socket.bind((self.from, 0).into()).map_err(|error| error.to_string())?;
            let stream = socket.connect(self.address).await.map_err(|error| error.to_string())?;
            let mut connection = Connection::over(stream).map_err(|error| error.to_string())?;
            ask(&mut connection).await.map_err(|failure| failure.to_string())?;
            Ok(connection)
        };
        tokio::time::timeout(patience, arrive).await.unwrap_or(Err(Failure::TimedOut.to_string()))
    }

    async fn queue(&self, connections: usize, patience: Duration, held: &mut Vec<Connection>) -> Opened {
        let mut latencies = Latencies::default();
        let (started, before, mut stopped) = (Instant::now(), held.len(), None);
        while held.len() - before < connections && stopped.is_none() {
            let begun = Instant::now();
            match self.come(patience).await {
                Ok(connection) => {
                    latencies.note(begun.elapsed());
                    held.push(connection);
                }
                Err(why) => stopped = Some(why),
            }
        }
        let took = started.elapsed();
        Opened {
            answered: held.len() - before,
            took_ms: took.as_secs_f64() * 1e3,
            median_ms: number(latencies.quantile_ms(0.5)),
            p99_ms: number(latencies.quantile_ms(0.99)),
            stopped,
        }
    }

    async fn throng(&self, connections: usize, silence: Duration, held: &mut Vec<Connection>) -> Opened {
        let mut latencies = Latencies::default();
        let (started, before, mut stopped) = (Instant::now(), held.len(), None);
        let mut clients = JoinSet::new();
        // Clients that wait keep their connections open until it is over, and then give up.
        let forever = Duration::from_secs(3600);
        for _ in 0..connections {
            let who = self.clone();
            clients.spawn_local(async move { who.come(forever).await });
        }
        let mut last = Duration::ZERO;
        loop {
            match tokio::time::timeout(silence, clients.join_next()).await {
                Ok(Some(Ok(Ok(connection)))) => {
                    last = started.elapsed();
                    latencies.note(last);
                    held.push(connection);
                }
                Ok(Some(Ok(Err(why)))) => stopped = Some(why),
                Ok(Some(Err(_))) => stopped = Some("a client panicked".to_owned()),
                Ok(None) => break,
                Err(_) => {
                    stopped = Some(format!("nobody more was answered for {silence:?}"));
                    break;
                }
            }
        }
        // Those that still wait are kept waiting: whoever lets them go changes what is measured next.
        clients.detach_all();
        Opened {
            answered: held.len() - before,
            took_ms: last.as_secs_f64() * 1e3,
            median_ms: number(latencies.quantile_ms(0.5)),
            p99_ms: number(latencies.quantile_ms(0.99)),
            stopped,
        }
    }
}

/// Asks on a connection that is held, which has to be as it was left.
async fn ask(connection: &mut Connection) -> Result<(), Failure> {
    match connection.between() {
        Between::Quiet => {}
        Between::Ended => return Err(Failure::KeptEnded),
        Between::Surplus => return Err(Failure::NotHttp),
    }
    match connection.ask(REQUEST).await?.status {
        200..300 => Ok(()),
        status => Err(Failure::Status(status)),
    }
}

/// JSON knows no number that is none.
fn number(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value }
}

/// Each connection asks again as soon as it has been answered, until the time is over.
async fn work(held: &mut Vec<Connection>, time: Duration) -> Worked {
    const PATIENCE: Duration = Duration::from_secs(20);
    let (started, busy_before) = (Instant::now(), processor_time());
    let latencies = Rc::new(RefCell::new(Latencies::default()));
    let (answered, failed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let mut clients = JoinSet::new();
    for mut connection in held.drain(..) {
        let (latencies, answered, failed) = (Rc::clone(&latencies), Rc::clone(&answered), Rc::clone(&failed));
        clients.spawn_local(async move {
            while started.elapsed() < time {
                let asked = Instant::now();
                match tokio::time::timeout(PATIENCE, ask(&mut connection)).await {
                    Ok(Ok(())) => {
                        answered.set(answered.get() + 1);
                        latencies.borrow_mut().note(asked.elapsed());
                    }
                    _ => {
                        failed.set(failed.get() + 1);
                        return None;
                    }
                }
            }
            Some(connection)
        });
    }
    while let Some(client) = clients.join_next().await {
        held.extend(client.ok().flatten());
    }
    let p99_ms = latencies.borrow().quantile_that_stands_ms(0.99);
    let took = started.elapsed().as_secs_f64();
    let busy = processor_time().saturating_sub(busy_before).as_secs_f64() / took;
    Worked {
        answered: answered.get(),
        failed: failed.get(),
        rate: answered.get() as f64 / took,
        p99_ms,
        busy,
    }
}
