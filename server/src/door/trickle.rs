//! The door as a client of its own: a thin, steady stream of requests to one of its pools, for people who want to see
//! what a kill does and have no load of their own to kill it under.
//!
//! It sits in the door because the door is the one process that can reach every pool's address, whatever the networks in
//! between are: the API may be in another container or another pod, where `0.0.0.0:8080` is somebody else's.
//!
//! Its requests are clients like all others. They come in through the listener, count as connections, wait in the queue,
//! and are turned away when the pool is full; they are never tried again, so what the door does for them after a death is
//! what it does for anybody. They disturb nobody: each is a small task on the door's loop that waits for a socket, at most
//! [`TRICKLE_IN_FLIGHT`] are under way in a pool, those that are due beyond that are left out, and of a long answer only
//! the beginning is read.
//!
//! A trickle ends when its time is up ([`LONGEST_TRICKLE`] at the most), when it is told to, when another takes its place,
//! and when the door drains; requests that are under way then are let finish. It does not end with the controller, which
//! finds it in the next report.
//!
//! It speaks HTTP/1.0: the end of the connection is the end of the answer, and an answer that is cut ends in a reset
//! (see [`connection`](super::connection)), so nothing has to be parsed to tell the two apart.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use super::departure::Stage;
use super::pool::Pool;
use crate::config::Protocol;
use crate::control::{Notice, Stamp};
use crate::http::is_origin_form;
use crate::identity::PoolName;
use crate::observation::{LONGEST_TRICKLE, TRICKLE_IN_FLIGHT, TRICKLE_RATES, TrickleReport};

/// How long a request may take beyond the pool's own limits on waiting and being served, which the door answers by itself.
const BEYOND_THE_LIMIT: Duration = Duration::from_secs(5);
/// How long it may take on a pool that has no limit.
const WITHOUT_A_LIMIT: Duration = Duration::from_secs(60);
/// How many bytes of an answer are read. Whoever wants more than that has hung up, and has been answered.
const ENOUGH: usize = 1 << 20;

/// Why nothing is sent. The controller has checked all of this before; it may know another spec than this door.
#[derive(Debug, Clone, PartialEq, Error)]
pub(super) enum Unfit {
    #[error("there is no such pool")]
    NoPool,
    #[error("the pool does not speak HTTP")]
    NotHttp,
    #[error("the door is on its way out")]
    Draining,
    #[error("{0:?} is not the path and query of a request")]
    Path(String),
    #[error("{0:?} is not a method")]
    Method(String),
    #[error("{0} a second is not within {TRICKLE_RATES:?}")]
    Rate(f64),
    #[error("{TRICKLE_IN_FLIGHT} requests are under way already")]
    TooMany,
}

/// The requests that the door sends to its own pools.
#[derive(Debug)]
pub(super) struct Trickles(BTreeMap<PoolName, Rc<OwnClient>>);

/// The door as a client of one pool.
#[derive(Debug)]
struct OwnClient {
    pool: Rc<Pool>,
    /// Requests under way, of whichever trickle.
    under_way: Cell<usize>,
    trickle: RefCell<Option<Trickle>>,
}

#[derive(Debug)]
struct Trickle {
    path: String,
    per_second: f64,
    until: Stamp,
    tally: Rc<Tally>,
    sending: AbortHandle,
}

/// What became of the requests of one trickle.
#[derive(Debug, Default)]
struct Tally {
    sent: Cell<u64>,
    answered: Cell<u64>,
    failed: Cell<u64>,
}

impl Trickles {
    pub(super) fn new(pools: impl IntoIterator<Item = Rc<Pool>>) -> Self {
        let own = |pool: Rc<Pool>| OwnClient { pool, under_way: Cell::new(0), trickle: RefCell::new(None) };
        Self(pools.into_iter().map(|pool| (pool.config.name.clone(), Rc::new(own(pool)))).collect())
    }

    /// Begins a trickle, in place of the one that the pool has.
    pub(super) fn begin(
        &self,
        pool: &PoolName,
        path: String,
        per_second: f64,
        lasting: Duration,
    ) -> Result<(), Unfit> {
        let own = self.of(pool, &path)?;
        if !TRICKLE_RATES.contains(&per_second) {
            return Err(Unfit::Rate(per_second));
        }
        let lasting = lasting.min(LONGEST_TRICKLE);
        let tally = Rc::<Tally>::default();
        let request = request("GET", &path, own.address());
        let every = Duration::from_secs_f64(1.0 / per_second);
        let sending = Rc::clone(own).send(request, every, Instant::now() + lasting, Rc::clone(&tally));
        let sending = tokio::task::spawn_local(sending).abort_handle();
        let until = Stamp::now().later(lasting);
        let old = own.trickle.replace(Some(Trickle { path, per_second, until, tally, sending }));
        if let Some(old) = old {
            old.sending.abort();
        }
        Ok(())
    }

    /// Ends the trickle of a pool, if it has one.
    pub(super) fn end(&self, pool: &PoolName) {
        if let Some(own) = self.0.get(pool) {
            own.end();
        }
    }

    /// Ends all of them.
    pub(super) fn end_all(&self) {
        self.0.values().for_each(|own| own.end());
    }

    /// Sends one request, whose answer nobody waits for.
    pub(super) fn request(&self, pool: &PoolName, method: &str, path: &str) -> Result<(), Unfit> {
        if !(1..=16).contains(&method.len()) || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(Unfit::Method(method.to_owned()));
        }
        let own = self.of(pool, path)?;
        let turn = UnderWay::begin(own).ok_or(Unfit::TooMany)?;
        let line = format!("{method} {path}");
        let request = request(method, path, own.address());
        let (address, patience) = (own.address(), own.patience());
        tokio::task::spawn_local(async move {
            let outcome = ask(address, &request, patience).await;
            tracing::debug!(pool = %turn.0.pool.config.name, request = line, ?outcome, "asked as a client");
        });
        Ok(())
    }

    pub(super) fn report(&self) -> Vec<TrickleReport> {
        let of = |(name, own): (&PoolName, &Rc<OwnClient>)| {
            let trickle = own.trickle.borrow();
            let Trickle { path, per_second, until, tally, .. } = trickle.as_ref()?;
            let (sent, answered, failed) = (tally.sent.get(), tally.answered.get(), tally.failed.get());
            Some(TrickleReport {
                pool: name.clone(),
                path: path.clone(),
                per_second: *per_second,
                until: *until,
                sent,
                answered,
                failed,
                in_flight: usize::try_from(sent - answered - failed).unwrap_or(usize::MAX),
            })
        };
        self.0.iter().filter_map(of).collect()
    }

    /// The pool, if it can be asked for that.
    fn of(&self, pool: &PoolName, path: &str) -> Result<&Rc<OwnClient>, Unfit> {
        let own = self.0.get(pool).ok_or(Unfit::NoPool)?;
        match () {
            () if own.pool.config.protocol != Protocol::Http => Err(Unfit::NotHttp),
            () if own.pool.stage.get() > Stage::Open => Err(Unfit::Draining),
            () if !is_origin_form(path) => Err(Unfit::Path(path.to_owned())),
            () => Ok(own),
        }
    }
}

impl OwnClient {
    fn address(&self) -> SocketAddr {
        reachable(self.pool.address)
    }

    fn patience(&self) -> Duration {
        let config = &self.pool.config;
        let limit = config.timeouts.request.map_or(WITHOUT_A_LIMIT, |limit| limit + BEYOND_THE_LIMIT);
        config.queue.wait + limit
    }

    /// Sends the request again and again until the time is up.
    async fn send(self: Rc<Self>, request: Vec<u8>, every: Duration, until: Instant, tally: Rc<Tally>) {
        let request = Rc::<[u8]>::from(request);
        let mut due = interval(every);
        // Whoever comes late does not make up for it: that would be a burst.
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while timeout_at(until, due.tick()).await.is_ok() {
            let Some(turn) = UnderWay::begin(&self) else { continue };
            let (request, tally) = (Rc::clone(&request), Rc::clone(&tally));
            tally.sent.set(tally.sent.get() + 1);
            tokio::task::spawn_local(async move {
                let outcome = ask(turn.0.address(), &request, turn.0.patience()).await;
                let count = if outcome.is_an_answer() { &tally.answered } else { &tally.failed };
                count.set(count.get() + 1);
            });
        }
        self.end();
    }

    fn end(&self) {
        if let Some(trickle) = self.trickle.take() {
            trickle.sending.abort();
            self.pool.notices.post(Notice::TrickleEnded { pool: self.pool.config.name.clone() });
        }
    }
}

/// One request's place among those that may be under way.
struct UnderWay(Rc<OwnClient>);

impl UnderWay {
    fn begin(own: &Rc<OwnClient>) -> Option<Self> {
        let under_way = own.under_way.get();
        (under_way < TRICKLE_IN_FLIGHT).then(|| {
            own.under_way.set(under_way + 1);
            Self(Rc::clone(own))
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
    }
}

/// What became of a request.
#[derive(Debug)]
enum Outcome {
    /// A whole answer, or as much of it as anybody needs, with this status.
    Answer(u16),
    /// The connection ended before there was a status.
    NoAnswer,
    /// It was refused, or cut.
    #[expect(dead_code, reason = "read by whoever reads the log")]
    Broken(io::Error),
    /// It took too long.
    TooSlow,
}

impl Outcome {
    /// Whether a worker has answered: when the door answers in its place, the status is 500 or above.
    fn is_an_answer(&self) -> bool {
        matches!(self, Self::Answer(200..=499))
    }
}

/// Where a listener that listens on every address can be reached from here.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn request(method: &str, path: &str, host: SocketAddr) -> Vec<u8> {
    format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: bulkhead\r\nContent-Length: 0\r\n\r\n")
        .into_bytes()
}

async fn ask(address: SocketAddr, request: &[u8], patience: Duration) -> Outcome {
    match timeout(patience, exchange(address, request)).await {
        Ok(Ok(Some(status))) => Outcome::Answer(status),
        Ok(Ok(None)) => Outcome::NoAnswer,
        Ok(Err(error)) => Outcome::Broken(error),
        Err(_elapsed) => Outcome::TooSlow,
    }
}

/// Sends the request and reads the answer; its status, if it has one.
async fn exchange(address: SocketAddr, request: &[u8]) -> io::Result<Option<u16>> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(request).await?;
    let (mut buffer, mut filled, mut read) = ([0; 1024], 0, 0);
    while read < ENOUGH {
        // The status line is kept, and what follows is written over.
        let kept = filled.min(STATUS_LINE);
        match connection.read(&mut buffer[kept..]).await? {
            0 => break,
            bytes => {
                filled = kept + bytes;
                read += bytes;
            }
        }
    }
    Ok(status(&buffer[..filled.min(STATUS_LINE)]))
}

/// Bytes of `HTTP/1.1 200`.
const STATUS_LINE: usize = 12;

fn status(line: &[u8]) -> Option<u16> {
    let code = line.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(code).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::os::fd::OwnedFd;

    use tokio::task::LocalSet;

    use super::*;
    use crate::config::DoorPool;
    use crate::door::{listen, testing};

    /// What becomes of a request that is answered so by a server of the test's own, and what that server was sent.
    async fn answered(answer: &[&'static [u8]], reset: bool) -> io::Result<(Outcome, String)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, answer) = (listener.local_addr()?, answer.to_vec());
        let server = std::thread::spawn(move || -> io::Result<String> {
            let (mut client, _) = listener.accept()?;
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte)?;
                request.extend(byte);
            }
            for piece in answer {
                // It may have had enough, which is for the test to judge.
                let _ = client.write_all(piece);
            }
            if reset {
                rustix::net::connect_unspec(&client)?;
            } else {
                let _ = client.shutdown(Shutdown::Write);
            }
            Ok(String::from_utf8_lossy(&request).into_owned())
        });
        let request = request("GET", "/work?ms=1", address);
        let outcome = ask(address, &request, Duration::from_secs(20)).await;
        let sent = server.join().map_err(|_| io::Error::other("the server panicked"))??;
        Ok((outcome, sent))
    }

    #[tokio::test]
    async fn answers_are_told_from_failures() -> io::Result<()> {
        let (outcome, sent) = answered(&[b"HT", b"TP/1.1 200 OK\r\n\r\n", b"body"], false).await?;
        assert!(matches!(outcome, Outcome::Answer(200)) && outcome.is_an_answer(), "{outcome:?}");
        assert!(sent.starts_with("GET /work?ms=1 HTTP/1.0\r\nHost: 127.0.0.1:"), "{sent}");
        let (outcome, _) = answered(&[b"HTTP/1.1 404 Not Found\r\n\r\n"], false).await?;
        assert!(outcome.is_an_answer(), "{outcome:?}");
        let (outcome, _) = answered(&[b"HTTP/1.1 502 Bad Gateway\r\n\r\n"], false).await?;
        assert!(matches!(outcome, Outcome::Answer(502)) && !outcome.is_an_answer(), "{outcome:?}");
        let (outcome, _) = answered(&[b"HTTP/1.1 200 OK\r\n\r\nhalf of"], true).await?;
        assert!(matches!(outcome, Outcome::Broken(_)) && !outcome.is_an_answer(), "{outcome:?}");
        let (outcome, _) = answered(&[], false).await?;
        assert!(matches!(outcome, Outcome::NoAnswer) && !outcome.is_an_answer(), "{outcome:?}");
        Ok(())
    }

    #[tokio::test]
    async fn a_long_answer_is_not_read_to_its_end() -> io::Result<()> {
        // Far more than the sockets' buffers hold: the server could not end if nobody hung up.
        let long = vec![b'.'; 16 << 20].leak();
        let (outcome, _) = answered(&[b"HTTP/1.1 200 OK\r\n\r\n", long], true).await?;
        assert!(matches!(outcome, Outcome::Answer(200)), "{outcome:?}");
        Ok(())
    }

    #[tokio::test]
    async fn who_does_not_answer_in_time_has_failed() -> io::Result<()> {
        // Accepted by the kernel, and by nobody else.
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let request = request("GET", "/", listener.local_addr()?);
        let outcome = ask(listener.local_addr()?, &request, Duration::from_millis(50)).await;
        assert!(matches!(outcome, Outcome::TooSlow) && !outcome.is_an_answer(), "{outcome:?}");
        let address = listener.local_addr()?;
        drop(listener);
        let outcome = ask(address, &request, Duration::from_secs(20)).await;
        assert!(matches!(outcome, Outcome::Broken(_)), "{outcome:?}");
        Ok(())
    }

    /// A pool whose listener nobody accepts from: whoever asks waits until it has had enough.
    fn deaf_pool(protocol: Protocol) -> Result<(Rc<Pool>, OwnedFd), Box<dyn Error>> {
        let config = DoorPool { protocol, ..testing::config() };
        let (listener, address, clients) = listen::open(&config)?;
        let (notices, recent) = (Rc::default(), Rc::default());
        Ok((Rc::new(Pool::new(config, clients, address, notices, Rc::default(), recent)), listener))
    }

    #[tokio::test]
    async fn no_more_than_so_many_are_under_way() -> Result<(), Box<dyn Error>> {
        let (pool, _listener) = deaf_pool(Protocol::Http)?;
        let (web, trickles) = (pool.config.name.clone(), Trickles::new([pool]));
        let own = Rc::clone(&trickles.0[&web]);
        let mut under_way: Vec<_> = (0..TRICKLE_IN_FLIGHT).map_while(|_| UnderWay::begin(&own)).collect();
        assert_eq!(under_way.len(), TRICKLE_IN_FLIGHT);
        LocalSet::new()
            .run_until(async {
                assert_eq!(trickles.request(&web, "GET", "/"), Err(Unfit::TooMany));
                // The trickle goes on, and leaves out what it has no room for.
                trickles.begin(&web, "/".to_owned(), 50.0, LONGEST_TRICKLE)?;
                under_way.pop();
                let sent = async {
                    while trickles.report()[0].sent == 0 {
                        tokio::task::yield_now().await;
                    }
                };
                timeout(Duration::from_secs(20), sent).await.map_err(|_| format!("{own:?}"))?;
                let TrickleReport { sent, in_flight, answered, failed, .. } = trickles.report()[0].clone();
                assert_eq!((sent, in_flight, answered, failed), (1, 1, 0, 0));
                assert!(UnderWay::begin(&own).is_none(), "there was room for one");
                Ok(())
            })
            .await
    }

    #[tokio::test]
    async fn a_trickle_ends_once_and_another_takes_its_place() -> Result<(), Box<dyn Error>> {
        let (pool, _listener) = deaf_pool(Protocol::Http)?;
        let (web, notices) = (pool.config.name.clone(), Rc::clone(&pool.notices));
        let trickles = Trickles::new([pool]);
        LocalSet::new()
            .run_until(async {
                trickles.begin(&web, "/a".to_owned(), 0.1, LONGEST_TRICKLE * 2)?;
                let limit = Stamp::now().later(LONGEST_TRICKLE);
                assert!(trickles.report()[0].until <= limit, "it lasts longer than allowed");
                trickles.begin(&web, "/b".to_owned(), 50.0, Duration::from_millis(30))?;
                assert_eq!(trickles.report().len(), 1);
                assert_eq!(trickles.report()[0].path, "/b");
                // By itself, and the one before has not been told of.
                assert_eq!(notices.next().await, Notice::TrickleEnded { pool: web.clone() });
                assert_eq!(trickles.report(), []);
                trickles.end(&web);
                trickles.begin(&web, "/c".to_owned(), 50.0, LONGEST_TRICKLE)?;
                notices.post(Notice::Stopping);
                trickles.end_all();
                assert_eq!(notices.next().await, Notice::Stopping, "an end was told twice");
                assert_eq!(notices.next().await, Notice::TrickleEnded { pool: web.clone() });
                Ok(())
            })
            .await
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_refused() -> Result<(), Box<dyn Error>> {
        let (pool, _listener) = deaf_pool(Protocol::Http)?;
        let (web, trickles) = (pool.config.name.clone(), Trickles::new([Rc::clone(&pool)]));
        let begin = |path: &str, rate| trickles.begin(&web, path.to_owned(), rate, LONGEST_TRICKLE);
        assert_eq!(begin("/ HTTP/1.1\r\nHost: b", 1.0), Err(Unfit::Path("/ HTTP/1.1\r\nHost: b".to_owned())));
        for rate in [0.0, 0.09, 50.1, -1.0, f64::INFINITY] {
            assert_eq!(begin("/", rate), Err(Unfit::Rate(rate)));
        }
        assert!(matches!(begin("/", f64::NAN), Err(Unfit::Rate(_))));
        for method in ["", "get", "GET /", "G\r\n", "AAAAAAAAAAAAAAAAA"] {
            assert_eq!(trickles.request(&web, method, "/"), Err(Unfit::Method(method.to_owned())));
        }
        assert_eq!(trickles.request(&"api".parse()?, "GET", "/"), Err(Unfit::NoPool));
        pool.stage.set(Stage::Lingering);
        assert_eq!(begin("/", 1.0), Err(Unfit::Draining));
        let (raw, _listener) = deaf_pool(Protocol::Tcp)?;
        assert_eq!(Trickles::new([raw]).request(&web, "GET", "/"), Err(Unfit::NotHttp));
        Ok(())
    }

    #[test]
    fn every_address_is_reached_over_loopback() -> Result<(), std::net::AddrParseError> {
        for (listens, reached) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("172.17.0.1:80", "172.17.0.1:80"),
            ("[::1]:81", "[::1]:81"),
        ] {
            assert_eq!(reachable(listens.parse()?), reached.parse()?);
        }
        Ok(())
    }

    #[test]
    fn only_a_status_line_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 200"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503"), Some(503));
        for line in [&b""[..], b"HTTP/1.1 20", b"HTTP/2 200 O", b"<html> 200 .", b"HTTP/1.1 +1x"] {
            assert_eq!(status(line), None, "{line:?}");
        }
    }
}
