//! The demo: an HTTP app on which every fault can be tried.
//!
//! [`decide`] reads a request and says what is to be done about it; it does nothing itself. [`serve`] does it
//! with blocking calls, in the models that block; the event loop does it in its own way. A fault is committed,
//! not described: `/segv` really writes to an address that is not there.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::Me;
use crate::http::Head;
use crate::sys;
use crate::worker::Exchange;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Answer with this text.
    Reply(u16, String),
    /// Block for so long, then answer.
    Work(Duration),
    /// Keep a processor busy for so long by the clock, then answer.
    Burn(Duration),
    /// Use up so much of a processor's time, however long that takes, then answer.
    Compute(Duration),
    /// Send the body back, and its length.
    EchoBody,
    /// Answer with so many bytes, spread over so long.
    Stream {
        /// Bytes of body.
        bytes: usize,
        /// From the first to the last.
        over: Duration,
    },
    /// Begin an answer, write so many bytes of it, and die.
    DieAfter(usize),
    /// Take so many bytes of memory and keep them.
    Leak(usize),
    /// Start so many child processes that sleep.
    Forks {
        /// How many.
        children: u32,
        /// Whether they hold on to the descriptors of this process.
        keep_descriptors: bool,
    },
    /// Open so many files and keep them open.
    Files(u32),
    /// Die, before answering.
    Die(Death),
    /// Never answer.
    Hang,
}

/// A way to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// Exit with this code.
    Exit(i32),
    /// SIGABRT.
    Abort,
    /// SIGSEGV.
    Segfault,
    /// A Rust panic.
    Panic,
}

/// How many pieces a slow answer is sent in.
pub const STREAM_PIECES: usize = 10;

const PAGES: &str = "\
pages
  /                        this
  /work?ms=20              blocks for so long
  /cpu?ms=20               keeps a processor busy for so long by the clock
  /cpu?burn_ms=20          burns that much processor time, however long it takes to get it
  /body                    sends a body back, and its length
  /stream?kb=64&ms=1000    answers slowly, in pieces
faults
  /exit?code=3             exits
  /abort                   aborts (SIGABRT)
  /segv                    faults (SIGSEGV)
  /panic                   panics: the end of a prefork worker, of one turn of a threaded one
  /hang                    never answers; is killed for it when its time is up
  /leak?mb=16              takes memory and keeps it
  /forks?n=8               starts child processes that stay
  /files?n=100             opens files and keeps them open
  /die-after?bytes=100     begins to answer, then dies
A worker that dies before it has answered a GET costs you nothing: another one gets the request. If that one
dies of it too, as it will of the faults above, you are answered 502: two deliveries is the limit, unless
the pool says otherwise.
";

/// Reads what a request of the client at `peer` asks for.
pub fn decide(head: &Head<'_>, peer: SocketAddr, me: &Me) -> Act {
    let target = head.path_and_query();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let number = |name: &str, default: u64, most: u64| parameter(query, name).unwrap_or(default).min(most);
    let millis = |default: u64| Duration::from_millis(number("ms", default, 3_600_000));
    match path {
        "*" => Act::Reply(200, String::new()),
        "/" | "" => Act::Reply(200, format!("{}\n{PAGES}", self_portrait(peer, me))),
        "/work" => Act::Work(millis(20)),
        "/cpu" => match parameter(query, "burn_ms") {
            Some(time) => Act::Compute(Duration::from_millis(time.min(3_600_000))),
            None => Act::Burn(millis(20)),
        },
        "/body" => Act::EchoBody,
        "/stream" => Act::Stream { bytes: small(number("kb", 64, 1 << 20)) * 1024, over: millis(1000) },
        "/die-after" => Act::DieAfter(small(number("bytes", 100, 1 << 20))),
        "/leak" => Act::Leak(small(number("mb", 16, 1 << 20)) << 20),
        "/forks" => Act::Forks {
            children: number("n", 8, 100_000).try_into().unwrap_or(u32::MAX),
            keep_descriptors: number("keep", 0, 1) == 1,
        },
        "/files" => Act::Files(number("n", 100, 10_000_000).try_into().unwrap_or(u32::MAX)),
        "/exit" => Act::Die(Death::Exit(number("code", 3, 255).try_into().unwrap_or(3))),
        "/abort" => Act::Die(Death::Abort),
        "/segv" => Act::Die(Death::Segfault),
        "/panic" => Act::Die(Death::Panic),
        "/hang" => Act::Hang,
        _ => Act::Reply(404, format!("there is no page {path}\n\n{PAGES}")),
    }
}

fn self_portrait(client: SocketAddr, me: &Me) -> String {
    let threads = Me::kernel_threads().map_or_else(|| "unknown".to_owned(), |threads| threads.to_string());
    format!(
        "pool: {}\nworker: {}\ngeneration: {}\npid: {}\nmodel: {}\nthreads: {threads}\nturns: {}\nclient: {client}\n",
        me.life.worker.pool,
        me.life.worker,
        me.life.generation,
        std::process::id(),
        me.model,
        me.turns(),
    )
}

/// The value of `name` in a query string, if it is there and a number.
fn parameter(query: &str, name: &str) -> Option<u64> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

fn small(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Does what a request asks for, with blocking calls.
pub fn serve(exchange: &mut Exchange<'_>, me: &Me) -> io::Result<()> {
    match decide(exchange.head(), exchange.peer(), me) {
        Act::Work(time) => {
            std::thread::sleep(time);
            reply(exchange, 200, &worked(time))
        }
        Act::EchoBody => echo_body(exchange),
        Act::Stream { bytes, over } => {
            exchange.stream(200, "text/plain")?;
            for piece in pieces(bytes) {
                exchange.write(&piece)?;
                std::thread::sleep(over / STREAM_PIECES as u32);
            }
            exchange.finish()
        }
        Act::DieAfter(bytes) => {
            exchange.begin_with_length(200, "text/plain", bytes as u64 + 1)?;
            exchange.write_raw(&vec![b'x'; bytes])?;
            std::process::abort()
        }
        act => {
            let (status, text) = at_once(act);
            reply(exchange, status, &text)
        }
    }
}

/// Does what needs no waiting for anybody, in every model alike; what there is to answer.
pub fn at_once(act: Act) -> (u16, String) {
    match act {
        Act::Reply(status, text) => (status, text),
        Act::Burn(time) => {
            burn(time);
            (200, format!("burned {} ms of a processor\n", time.as_millis()))
        }
        Act::Compute(time) => {
            compute(time);
            (200, format!("burned {} ms of a processor's time\n", time.as_millis()))
        }
        Act::Leak(bytes) => leak(bytes),
        Act::Forks { children, keep_descriptors } => forks(children, keep_descriptors),
        Act::Files(files) => open_files(files),
        Act::Die(death) => die(death),
        Act::Hang => loop {
            std::thread::park();
        },
        Act::Work(_) | Act::EchoBody | Act::Stream { .. } | Act::DieAfter(_) => (500, String::new()),
    }
}

/// What is said after blocking.
pub fn worked(time: Duration) -> String {
    format!("worked {} ms\n", time.as_millis())
}

/// A slow answer's pieces.
pub fn pieces(bytes: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..STREAM_PIECES).map(move |piece| {
        let until = |n: usize| bytes * n / STREAM_PIECES;
        vec![b'.'; until(piece + 1) - until(piece)]
    })
}

fn reply(exchange: &mut Exchange<'_>, status: u16, text: &str) -> io::Result<()> {
    exchange.respond(status, "text/plain; charset=utf-8", text.as_bytes())
}

fn echo_body(exchange: &mut Exchange<'_>) -> io::Result<()> {
    let (mut piece, mut total) = (vec![0; 16 * 1024], 0u64);
    let mut read = exchange.read_body(&mut piece)?;
    exchange.stream(200, "application/octet-stream")?;
    while read > 0 {
        total += read as u64;
        exchange.write(&piece[..read])?;
        read = exchange.read_body(&mut piece)?;
    }
    exchange.write(format!("\n{total} bytes\n").as_bytes())?;
    exchange.finish()
}

fn burn(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// A thread that has to wait for a processor meanwhile finds nothing done when it goes on.
fn compute(time: Duration) {
    let end = processor_time() + time;
    while processor_time() < end {
        // To ask the kernel is work as well, and is not to be most of it.
        for _ in 0..1000 {
            std::hint::spin_loop();
        }
    }
}

/// For how long this thread has had a processor.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

/// What the faults of this worker have piled up; it is never given back.
static HOARD: Mutex<Hoard> = Mutex::new(Hoard { memory: Vec::new(), files: Vec::new() });

struct Hoard {
    memory: Vec<Vec<u8>>,
    files: Vec<File>,
}

fn leak(bytes: usize) -> (u16, String) {
    let mut block = Vec::<u8>::with_capacity(bytes);
    // Every page is written to, or the kernel would give none.
    block.resize(bytes, 1);
    let Ok(mut hoard) = HOARD.lock() else { return (500, "the hoard is broken\n".to_owned()) };
    hoard.memory.push(block);
    let held: usize = hoard.memory.iter().map(Vec::len).sum();
    (200, format!("holds {} MiB that it will not give back\n", held >> 20))
}

fn forks(children: u32, keep_descriptors: bool) -> (u16, String) {
    for started in 0..children {
        if let Err(error) = sys::fork_sleeper(keep_descriptors) {
            return (507, format!("started {started} of {children} children, then: {error}\n"));
        }
    }
    (200, format!("started {children} children that stay\n"))
}

fn open_files(files: u32) -> (u16, String) {
    let Ok(mut hoard) = HOARD.lock() else { return (500, "the hoard is broken\n".to_owned()) };
    for opened in 0..files {
        match File::open("/proc/self/status") {
            Ok(file) => hoard.files.push(file),
            Err(error) => return (507, format!("opened {opened} of {files} files, then: {error}\n")),
        }
    }
    (200, format!("opened {files} files that stay open\n"))
}

#[expect(clippy::panic, reason = "the fault that was asked for")]
fn die(death: Death) -> ! {
    match death {
        Death::Exit(code) => std::process::exit(code),
        Death::Abort => std::process::abort(),
        Death::Segfault => sys::segfault(),
        Death::Panic => panic!("/panic was asked for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_computes_for_so_long_has_had_a_processor_for_so_long() {
        let before = processor_time();
        compute(Duration::from_millis(20));
        assert!(processor_time() - before >= Duration::from_millis(20));
    }
}
