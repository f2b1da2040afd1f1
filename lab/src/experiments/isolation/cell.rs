//! One system and one fault: the others at work, the fault, and what is seen of the others.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Pid;

use super::judge::{Damage, Moment, Trace, Who, judge};
use super::sleeper::Sleeper;
use super::{Fault, NotRun, Record, company};
use crate::compartment::Limits;
use crate::experiments::Bench;
use crate::findings::Size;
use crate::load::{Connections, Event, Load, Log, Plan, Shape as LoadShape};
use crate::progress::Progress;
use crate::systems::{Running, Shape, System};

/// Clients are told to stop long before.
const LONGEST: Duration = Duration::from_secs(120);
/// How long it may take until each of them has been answered once.
const SETTLE: Duration = Duration::from_secs(20);
/// How long a fault that ends somebody may take to do so.
const FATAL: Duration = Duration::from_secs(15);
/// How often a system is started again because all clients were in one of its processes. They come at once, and an event loop
/// often takes all of them before the next one has woken.
const TRIES: usize = 40;
/// How often a cell is measured in which the machine stood still: somebody else's doing does not come that often.
const STILL: usize = 3;
/// The share of the time after the fault, at its end, in which who is not answered is out.
const AT_THE_END: f64 = 0.4;

/// How long and how many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    before: Duration,
    after: Duration,
    kept: usize,
    newcomers: usize,
}

impl Times {
    pub(super) fn of(size: Size) -> Self {
        let millis = |smallest, quick, full| Duration::from_millis(size.pick(smallest, quick, full));
        Self {
            before: millis(300, 200, 400),
            after: millis(1000, 700, 1200),
            kept: size.pick(10, 10, 16),
            newcomers: size.pick(2, 2, 4),
        }
    }

    /// A worker for everybody, the one who does harm included, and some to spare: a fault that is tried twice ends two.
    /// Those who keep their connection are more than half of it, so that of two processes with threads neither is without.
    fn workers(self) -> usize {
        self.kept + self.newcomers + 1 + 3
    }

    fn shape(self, system: System) -> Shape {
        // Bulkhead's workers have limits of their own, and so little to share that none of it is ever short.
        let limits = match system {
            System::Model(_) => Limits { memory: 160 << 20, pids: 200 },
            System::Bulkhead(_) | System::Peer(_) => Limits { memory: 2 << 30, pids: 4096 },
        };
        Shape { limits, open_files: Some(256), request_time: self.after * 3 / 4, ..Shape::of(self.workers()) }
    }

    /// A hog is one for half of the time that is looked at, so that it can be seen what is then. It is through before
    /// Bulkhead would end it.
    fn hog(self) -> Duration {
        self.after / 2
    }
}

/// All faults of one system, one after the other.
pub(super) fn row(
    bench: &Bench,
    system: System,
    faults: &[Fault],
    times: Times,
    progress: &Progress,
) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut kept_running = None;
    for &fault in faults {
        progress.doing(&format!("{system}, {}", fault.name()));
        let (mut tries, mut still) = (0, 1);
        let (running, result) = loop {
            let started = kept_running.take().map_or_else(|| bench.start(system, &times.shape(system)), Ok);
            let running = match started {
                Ok(running) => running,
                // A system that does not start costs its own cell, and not what is known of the others.
                Err(error) => break (None, Err(NotRun { not_run: format!("{error:#}") })),
            };
            let why = match fault.forbidden_in(&running, system) {
                Some(why) => why,
                None => match measure(&running, system, fault, times) {
                    Ok(Tried::Measured(damage)) if damage.machine_stood_still() && still < STILL => {
                        still += 1;
                        continue;
                    }
                    Ok(Tried::Measured(damage)) => break (Some(running), Ok(damage)),
                    Ok(Tried::AllInOne | Tried::Alone) if tries < TRIES => {
                        tries += 1;
                        continue;
                    }
                    Ok(Tried::AllInOne) => "all clients were in one process each time",
                    Ok(Tried::Alone) => "who was to do harm never came into the process of others",
                    // What a system does that cannot be measured costs this cell, and a system that is in an unknown
                    // state is not asked for the next one.
                    Err(error) => break (None, Err(NotRun { not_run: format!("{error:#}") })),
                },
            };
            break (Some(running), Err(NotRun { not_run: why.to_owned() }));
        };
        records.push(Record { system, fault, result });
        if matches!(system, System::Bulkhead(_)) {
            kept_running = running;
        }
        progress.step();
    }
    Ok(records)
}

/// What came of a try to measure.
enum Tried {
    Measured(Damage),
    /// All clients were in one process: that shows nothing.
    AllInOne,
    /// The one that was to do harm was in no company: neither does that.
    Alone,
}

fn measure(running: &Running, system: System, fault: Fault, times: Times) -> anyhow::Result<Tried> {
    let plan = |clients, connections| Plan {
        shape: LoadShape::Closed { clients, think: Duration::from_millis(5) },
        // Beyond what is looked at: who waits is stalled, and has not failed.
        patience: times.after * 2,
        connections,
        log: Log::EachEvent,
        ..Plan::closed(running.address, "/work?ms=5", clients, LONGEST)
    };
    let kept = Load::start(plan(times.kept, Connections::Held))?;
    await_all(&kept, times.kept, running)?;
    let company = company::is_shared_in(system).then(|| company::found(running)).transpose()?;
    if company.as_ref().is_some_and(|it| it.len() < 2) {
        kept.stop()?;
        return Ok(Tried::AllInOne);
    }
    let newcomers = Load::start(plan(times.newcomers, Connections::OneForEach))?;
    await_all(&newcomers, times.newcomers, running)?;
    let (settled, sleeper) = (Instant::now(), Sleeper::start()?);
    std::thread::sleep(times.before);
    let Some((culprit, committed)) = commit(running.address, company.as_deref(), &fault.target(times.hog()))?
    else {
        kept.stop()?;
        newcomers.stop()?;
        return Ok(Tried::Alone);
    };
    if fault.is_fatal() {
        // Its end comes when whoever it ends is gone: a process has to fill its memory first.
        let _ = culprit.set_read_timeout(Some(FATAL));
        let _ = (&culprit).read(&mut [0; 4096]);
    }
    std::thread::sleep(times.after);
    let after = committed.elapsed();
    let machine = sleeper.wake(committed);
    let (kept_since, newcomers_since) = (kept.started(), newcomers.started());
    let (kept, newcomers) = (kept.stop()?, newcomers.stop()?);
    drop(culprit);
    let moment = |who: Who, since: Instant, event: &Event| {
        let at = (since + event.to).saturating_duration_since(committed).as_secs_f64();
        let ago = committed.saturating_duration_since(since + event.to).as_secs_f64();
        Moment { who, at: (at - ago) * 1e3, failure: event.failure }
    };
    let kept = kept.log.iter().map(|event| moment(Who::Kept(event.client), kept_since, event));
    let newcomers =
        newcomers.log.iter().map(|event| moment(Who::Newcomer(event.client), newcomers_since, event));
    let trace = Trace {
        kept: times.kept,
        newcomers: times.newcomers,
        before: committed.saturating_duration_since(settled).as_secs_f64() * 1e3,
        after: after.as_secs_f64() * 1e3,
        machine,
        end: times.after.as_secs_f64() * 1e3 * AT_THE_END,
        moments: kept.chain(newcomers).collect(),
    };
    Ok(Tried::Measured(judge(&trace)))
}

/// Waits until each client has been answered once.
fn await_all(load: &Load, clients: usize, running: &Running) -> anyhow::Result<()> {
    let until = Instant::now() + SETTLE;
    while load.served() < clients {
        if Instant::now() > until {
            let (served, said) = (load.served(), running.last_words());
            bail!(
                "only {served} of {clients} clients are served {SETTLE:?} after they came; what it said last: {said}"
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Has one client ask for the fault, in a process of `company` if that is given: its connection, and when it asked. `None`:
/// the kernel gave it to none of those.
fn commit(
    address: SocketAddr,
    company: Option<&[Pid]>,
    target: &str,
) -> anyhow::Result<Option<(TcpStream, Instant)>> {
    const CONNECTIONS: usize = 50;
    let connect = || -> io::Result<Option<TcpStream>> {
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(address)?;
            let Some(company) = company else { return Ok(Some(stream)) };
            if company::serves(&mut stream)?.is_some_and(|pid| company.contains(&pid)) {
                return Ok(Some(stream));
            }
        }
        Ok(None)
    };
    let found = connect().context("the client that is to do harm gets no connection")?;
    let Some(mut stream) = found else { return Ok(None) };
    let committed = Instant::now();
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: lab\r\n\r\n").as_bytes())?;
    Ok(Some((stream, committed)))
}
