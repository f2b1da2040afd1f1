//! Talk: what it costs two isolated workers to tell each other something.
//!
//! Two processes of this program exchange messages of the same lengths over a pair of pipes, a Unix stream socket, shared memory
//! with a futex, and TCP over the loopback; and by way of Bulkhead's door, where one asks the other as any client would. Beside
//! them stands what those need who share an address space: a call of a function, and a channel between two
//! threads. Everywhere a message is copied from one buffer to another, and both sides know how long it is ([`wires`]).
//!
//! A *round trip* is a message there and the same back, compared byte by byte. Calls are timed many at a time, for to look at
//! the clock takes longer than one. For the *throughput* messages go one way, as fast as they are
//! taken. *Sleeps* are how often whoever asks had to wait for the processor in a round trip: that is where the time goes for short messages.
//!
//! What it costs to be apart is told by the channel between threads, which waits and wakes up as processes do and has
//! memory in common: the quickest way between processes is held against it, length by length.
//!
//! Expected: a call takes nanoseconds; everything between processes takes microseconds, because both have to be put to
//! sleep and woken up, whatever it is that the message goes over, and shared memory with a futex is no exception. A channel between threads pays the same for its
//! wake-ups. For long messages the copying counts: shared memory copies least, and TCP has most to do for each byte. The
//! door comes last: two system calls more, an HTTP head to read, and a decision.

mod door;
mod outcome;
mod ring;
mod wires;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use self::ring::Rings;
use self::wires::{Channels, DONE, Job, LAST, MOST, Streams, Wire, answer_all, head};
use super::{Bench, Experiment, Party};
use crate::compartment::{Compartment, Limits};
use crate::findings::Outcome;
use crate::play::{self, Part};
use crate::stats::Spread;
use crate::systems::{Backend, Running, Shape, System};

pub(super) use self::wires::Peer;

pub(super) const QUESTION: &str = "What does it cost two isolated workers to tell each other something?";
pub(super) const METHOD: &str = "Round trip: a message there and the same back, median of all in a stretch of time; calls are timed in batches. Throughput: messages one way, as \
     fast as they are taken. Sleeps: how often the asking thread gave up the processor in a round trip. Nobody is pinned to a core. \
     Medians over rounds in which all ways are taken in turn.";

/// A way to talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    Call,
    Channel,
    Pipes,
    UnixSocket,
    SharedMemory,
    Tcp,
    Door,
}

impl Way {
    const ALL: [Self; 7] =
        [Self::Call, Self::Channel, Self::Pipes, Self::UnixSocket, Self::SharedMemory, Self::Tcp, Self::Door];

    fn name(self) -> &'static str {
        match self {
            Self::Call => "a call, one thread",
            Self::Channel => "channel, two threads",
            Self::Pipes => "pipes",
            Self::UnixSocket => "Unix socket",
            Self::SharedMemory => "shared memory, futex",
            Self::Tcp => "TCP, loopback",
            Self::Door => "through the door",
        }
    }

    fn is_between_processes(self) -> bool {
        !matches!(self, Self::Call | Self::Channel)
    }
}

/// What was measured of one way with messages of one length, in one round.
#[derive(Debug, Clone, Copy, Serialize)]
struct Measured {
    way: Way,
    bytes: usize,
    trips: usize,
    trip_us: f64,
    /// For each round trip.
    sleeps: f64,
    /// One way; `None` where there is none.
    mib_per_s: Option<f64>,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let rounds = bench.size.pick(1, 1, 5);
    let lengths: &[usize] =
        bench.size.pick(&[64, 1 << 16], &[64, 4096, 1 << 16], &[16, 256, 4096, 1 << 16, MOST]);
    let stretch = Duration::from_millis(bench.size.pick(50, 100, 300));
    let missing = System::Bulkhead(Backend::Process).missing(bench.bulkhead.as_deref());
    let ways: Vec<Way> = Way::ALL.into_iter().filter(|way| *way != Way::Door || missing.is_none()).collect();
    let progress = bench.progress(Experiment::Talk, rounds * ways.len());
    let mut all = Vec::new();
    let mut notes = vec![
        "between threads a message is copied, as everywhere here; they could as well hand over where it lies, at any length".to_owned(),
    ];
    for _ in 0..rounds {
        for &way in &ways {
            progress.doing(way.name());
            // It costs its own rows, and not what is known of the others.
            if let Err(error) = talk_by(way, lengths, stretch, bench, &mut all) {
                notes.push(format!("{}: not measured, or not to the end: {error:#}", way.name()));
            }
            progress.step();
        }
    }
    match missing {
        Some(why) => notes.push(format!("{} was not run: {why}", Way::Door.name())),
        None => notes.push(
            "through the door a question has to be answered before the next one, so there is no throughput one way".to_owned(),
        ),
    }
    Ok(outcome::of(&ways, lengths, &all, notes))
}

/// Says something of each length that way.
fn talk_by(
    way: Way,
    lengths: &[usize],
    stretch: Duration,
    bench: &Bench,
    into: &mut Vec<Measured>,
) -> anyhow::Result<()> {
    let mut talk = Talk::begin(way, bench).context("cannot begin")?;
    for &bytes in lengths {
        into.push(talk.measure(bytes, stretch).with_context(|| format!("{bytes} bytes"))?);
    }
    Ok(())
}

/// Somebody to talk to.
#[derive(Debug)]
enum Talk {
    Call,
    Over {
        way: Way,
        wire: Box<dyn Wire>,
        /// The other side, gone when this is dropped.
        _other: Other,
    },
    Door {
        stream: TcpStream,
        address: SocketAddr,
        _running: Box<Running>,
    },
}

/// Whoever is on the other side.
#[derive(Debug)]
enum Other {
    /// It ends with its wire.
    Thread {
        _handle: JoinHandle<io::Result<()>>,
    },
    Process {
        _compartment: Compartment,
    },
}

impl Talk {
    fn begin(way: Way, bench: &Bench) -> anyhow::Result<Self> {
        let over = |wire: Box<dyn Wire>, compartment| Self::Over {
            way,
            wire,
            _other: Other::Process { _compartment: compartment },
        };
        Ok(match way {
            Way::Call => Self::Call,
            Way::Channel => {
                let (here, mut there) = Channels::pair();
                let handle = std::thread::Builder::new().spawn(move || answer_all(&mut there))?;
                Self::Over { way, wire: Box::new(here), _other: Other::Thread { _handle: handle } }
            }
            Way::Pipes => {
                let (theirs, ours) = io::pipe()?;
                let (compartment, output) = start(Peer::Pipes, OwnedFd::from(theirs).into(), Stdio::piped())?;
                let output = output.context("a process has no output")?;
                over(Box::new(Streams(output, ours)), compartment)
            }
            Way::UnixSocket => {
                let (ours, theirs) = UnixStream::pair()?;
                let (compartment, _) = start(Peer::UnixSocket, OwnedFd::from(theirs).into(), Stdio::null())?;
                over(Box::new(Streams(ours.try_clone()?, ours)), compartment)
            }
            Way::SharedMemory => {
                let (mut rings, _files, paths) = Rings::fresh()?;
                let (compartment, _) = start(Peer::SharedMemory(paths), Stdio::null(), Stdio::null())?;
                // Once it answers it has opened the files, and they may go.
                round_trips(&mut rings, 1, Duration::ZERO)?;
                over(Box::new(rings), compartment)
            }
            Way::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let peer = Peer::Tcp(listener.local_addr()?);
                let (mut compartment, _) = start(peer, Stdio::null(), Stdio::null())?;
                let stream = accept(&listener, &mut compartment)?;
                stream.set_nodelay(true)?;
                over(Box::new(Streams(stream.try_clone()?, stream)), compartment)
            }
            Way::Door => {
                let running = bench.start(System::Bulkhead(Backend::Process), &Shape::of(2))?;
                let stream = TcpStream::connect(running.address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(20)))?;
                Self::Door { stream, address: running.address, _running: Box::new(running) }
            }
        })
    }

    fn measure(&mut self, bytes: usize, stretch: Duration) -> anyhow::Result<Measured> {
        let (way, trips, mib_per_s) = match self {
            Self::Call => (Way::Call, calls(bytes, stretch)?, Some(calls_one_way(bytes, stretch))),
            Self::Over { way, wire, .. } => {
                (*way, round_trips(&mut **wire, bytes, stretch)?, Some(one_way(&mut **wire, bytes, stretch)?))
            }
            Self::Door { stream, address, .. } => {
                let host = *address;
                (
                    Way::Door,
                    trips(bytes, stretch, |message, into| door::ask(stream, host, message, into))?,
                    None,
                )
            }
        };
        let trip = Spread::of(trips.us.iter().copied()).context("there was no round trip")?;
        Ok(Measured {
            way,
            bytes,
            trips: trips.us.len() * trips.each,
            trip_us: trip.median,
            sleeps: trips.sleeps as f64 / (trips.us.len() * trips.each) as f64,
            mib_per_s,
        })
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        if let Self::Over { wire, .. } = self {
            // Whoever is a thread, or sleeps at a ring, hears of it only so.
            let _ = wire.send(&head(Job::End, 1));
        }
    }
}

/// Takes the other side's connection, if it comes.
fn accept(listener: &TcpListener, compartment: &mut Compartment) -> anyhow::Result<TcpStream> {
    let until = Instant::now() + Duration::from_secs(20);
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) if !compartment.lives() => bail!("the other side has ended before it came"),
            Err(_) if Instant::now() > until => bail!("the other side does not come"),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Starts the other side in a compartment; its output if that is a pipe.
fn start(
    peer: Peer,
    input: Stdio,
    output: Stdio,
) -> anyhow::Result<(Compartment, Option<std::process::ChildStdout>)> {
    let mut compartment = Compartment::new(Limits { memory: 256 << 20, pids: 16 });
    let command = play::command(&Part::Party(Party::Peer(peer)))?;
    let (_, output) = compartment
        .start_with(command, input, output, Stdio::inherit())
        .context("cannot start a process to talk to")?;
    Ok((compartment, output))
}

/// Round trips in a row.
#[derive(Debug)]
struct Trips {
    /// Each, or each batch of them divided by how many these were.
    us: Vec<f64>,
    /// How many were timed together.
    each: usize,
    /// How often this thread gave up the processor meanwhile.
    sleeps: u64,
}

/// One exchange after another until the time is over, each with another message; all come back as they were sent.
fn trips(
    bytes: usize,
    time: Duration,
    mut exchange: impl FnMut(&[u8], &mut [u8]) -> io::Result<()>,
) -> anyhow::Result<Trips> {
    const FEWEST: usize = 20;
    const MOST_TRIPS: usize = 200_000;
    let (mut message, mut back) = (vec![0; bytes], vec![0; bytes]);
    let mut us = Vec::new();
    let (before, started) = (sleeps_so_far()?, Instant::now());
    let mut last = false;
    while !last {
        last = us.len() + 1 >= FEWEST && started.elapsed() >= time || us.len() + 1 >= MOST_TRIPS;
        fill(&mut message, us.len(), last);
        let sent = Instant::now();
        exchange(&message, &mut back)?;
        us.push(sent.elapsed().as_nanos() as f64 / 1e3);
        if back != message {
            bail!("message {} of {bytes} bytes came back other than it was sent", us.len());
        }
    }
    Ok(Trips { us, each: 1, sleeps: sleeps_so_far()?.saturating_sub(before) })
}

/// As [`trips`], by a call each, and timed in batches.
fn calls(bytes: usize, time: Duration) -> anyhow::Result<Trips> {
    /// As much is copied in a batch, short messages not more often than that many times: it takes some 50 µs.
    const COPIED: usize = 256 << 10;
    const MOST_CALLS: usize = 2000;
    let each = (COPIED / bytes.max(1)).clamp(1, MOST_CALLS);
    let mut there = vec![0; bytes];
    let mut trips = trips(bytes, time, |message, into| {
        for _ in 0..each {
            call(message, &mut there)?;
            call(&there, into)?;
        }
        Ok(())
    })?;
    trips.us.iter_mut().for_each(|us| *us /= each as f64);
    Ok(Trips { each, ..trips })
}

/// Another message than the one before.
fn fill(message: &mut [u8], nth: usize, last: bool) {
    let nth = (nth as u64).to_le_bytes();
    for (byte, value) in message.iter_mut().skip(1).zip(nth) {
        *byte = value;
    }
    if let Some(end) = message.last_mut() {
        *end = nth[0];
    }
    if let Some(first) = message.first_mut() {
        *first = if last { LAST } else { 0 };
    }
}

fn round_trips(wire: &mut dyn Wire, bytes: usize, time: Duration) -> anyhow::Result<Trips> {
    wire.send(&head(Job::Echo, bytes))?;
    trips(bytes, time, |message, into| {
        wire.send(message)?;
        wire.receive(into)
    })
}

/// In MiB a second.
fn one_way(wire: &mut dyn Wire, bytes: usize, time: Duration) -> anyhow::Result<f64> {
    wire.send(&head(Job::Sink, bytes))?;
    let mut message = vec![0; bytes];
    let (started, mut sent, mut last) = (Instant::now(), 0_usize, false);
    while !last {
        // The clock is not looked at for each of many short messages.
        last = sent % 64 == 63 && started.elapsed() >= time;
        fill(&mut message, sent, last);
        wire.send(&message)?;
        sent += 1;
    }
    let mut done = [0; DONE.len()];
    wire.receive(&mut done)?;
    if done != DONE {
        bail!("the other side does not confirm the end of {sent} messages");
    }
    Ok(mib(sent * bytes) / started.elapsed().as_secs_f64())
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A call that the compiler does not see through, which copies the message one way.
#[expect(clippy::unnecessary_wraps, reason = "as everything else that a message goes over")]
#[inline(never)]
fn call(message: &[u8], into: &mut [u8]) -> io::Result<()> {
    into.copy_from_slice(std::hint::black_box(message));
    std::hint::black_box(into);
    Ok(())
}

fn calls_one_way(bytes: usize, time: Duration) -> f64 {
    let (message, mut into) = (vec![0; bytes], vec![0; bytes]);
    let (started, mut sent) = (Instant::now(), 0_usize);
    while sent % 64 != 0 || started.elapsed() < time {
        let _ = call(&message, &mut into);
        sent += 1;
    }
    mib(sent * bytes) / started.elapsed().as_secs_f64()
}

/// How often this thread has given up the processor.
fn sleeps_so_far() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status")
        .context("cannot read /proc/thread-self/status")?;
    let count =
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok());
    count.context("/proc/thread-self/status does not tell context switches")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    #[test]
    fn calls_are_timed_in_batches_and_counted_one_by_one() {
        let trips = calls(64, Duration::ZERO).unwrap();
        assert!(trips.each > 1 && trips.us.iter().all(|us| *us > 0.0), "{trips:?}");
        assert_eq!(calls(MOST, Duration::ZERO).unwrap().each, 1);
    }

    #[test]
    fn what_comes_back_other_than_it_was_sent_is_told() {
        let garbled = |message: &[u8], into: &mut [u8]| {
            into.copy_from_slice(message);
            into[0] ^= 0x80;
            Ok(())
        };
        assert!(trips(8, Duration::ZERO, garbled).is_err());
        assert!(trips(8, Duration::ZERO, call).is_ok());
    }
}
