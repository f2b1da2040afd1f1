//! The door: accepts clients, parks the idle ones, and hands each whole request to one idle worker.
//!
//! One thread, one event loop, a small task for each connection and each link. It holds no privilege: no engine
//! socket, no API. What it does not do is as much the point: it reads no request (it peeks), copies no byte of a
//! body, decides nothing about who lives, and asks nobody for permission to serve. With the controller dead it
//! serves on with the workers that it has. For workers that share no kernel with it, it reads and writes its clients'
//! sockets in their place ([`tunnel`]).
//!
//! # When a worker is killed in the middle of a request
//!
//! 1. The kernel closes the worker's end of its link; the door's loop wakes ([`workers`]).
//! 2. The worker leaves the roster, the controller is told, and each connection that it held hears of it ([`links`]).
//! 3. The connection's task looks at the door's own duplicate of the socket: is the request still whole, has a byte
//!    of an answer been written ([`connection`])? The contract decides ([`redeliver`], pure).
//! 4. The turn goes to the front of the queue and from there to the next worker with credit ([`roster`], pure); or
//!    the door answers `502` or `504` itself; or, when an answer had begun, the connection is cut.
//!
//! # What can be seen of it
//!
//! The controller asks for a report ([`control`]) as often as it likes: what each pool counts and how long things take,
//! what each worker holds, and on demand the turns that have just ended ([`recent`]). For people who have no clients of
//! their own to look at, the door plays one ([`trickle`]).
//!
//! # How it goes
//!
//! Told by a signal, it may serve on for a while ([`departure`], pure), for clients whom somebody sends to it who has not
//! heard yet. Then it drains.
//!
//! # How it can fail
//!
//! - It dies: its connections are closed, but for those that a worker holds, which is served to the end by that
//!   worker, on its own duplicate, unless it is at the other end of a tunnel. Workers dial again until a door is there.
//! - A worker breaks the protocol: it gets no turn any more, the controller is asked to kill it, and what it holds is
//!   decided when it is dead. One that does not read its link gets no turn until it is done with one. Nobody waits
//!   for either but the clients that it holds.
//! - It runs out of descriptors: clients wait in the kernel's backlog.

mod arrival;
mod client;
mod connection;
mod control;
mod departure;
mod links;
mod listen;
mod notices;
mod pool;
mod recent;
mod redeliver;
mod roster;
#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test that cannot go on has failed")]
mod testing;
mod trickle;
mod tunnel;
mod wire;
mod workers;

pub use self::tunnel::{MouthError, TunnelMouth};

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use self::control::Control;
use self::departure::{Heard, Stage};
use self::listen::{Guests, MOST_TURNED_AWAY};
use self::notices::Notices;
use self::pool::Pool;
use self::recent::RecentTurns;
use self::trickle::Trickles;
use self::tunnel::Mouth;
use self::workers::Workers;
use crate::config::DoorPool;
use crate::control::Notice;
use crate::link;
use crate::observation::TRICKLE_IN_FLIGHT;

/// What a door is to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// The pools to open.
    pub pools: Vec<DoorPool>,
    /// Where workers dial: a Unix socket that the door makes, in a directory that exists.
    pub link_socket: PathBuf,
    /// Where the controller dials: likewise, in a directory that no worker can reach.
    pub control_socket: PathBuf,
    /// Where workers dial that share no directory with it.
    pub tunnel: Option<TunnelMouth>,
    /// For how long it goes on accepting clients when a signal has told it to go.
    pub linger: Duration,
}

/// Why a door could not open, or had to stop.
#[derive(Debug, Error)]
pub enum DoorError {
    /// A pool's address could not be listened on.
    #[error("cannot listen on {address} for pool {pool}")]
    Listen {
        /// The pool.
        pool: String,
        /// Its address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A Unix socket could not be made.
    #[error("cannot make the socket {}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another door has opened here.
    #[error("a door is open already at {}", path.display())]
    Occupied {
        /// Its control socket.
        path: PathBuf,
    },
    /// Workers could not be listened for over TCP.
    #[error("cannot open the tunnel")]
    Tunnel(#[from] MouthError),
    /// The event loop could not be set up.
    #[error("cannot set up the event loop")]
    Runtime(#[source] io::Error),
}

/// How long workers that hold nothing may take to leave, when everything is stopped.
const GOODBYES: Duration = Duration::from_secs(2);

/// How often requests are looked at for overrunning their time, at the most and at the least.
const OVERRUN_LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Opens the door and serves until SIGTERM, SIGINT or [`Order::Stop`](crate::control::Order::Stop). After a signal it
/// lingers, if [`Config::linger`] says so; then it drains: takes in whoever waits in the kernel's backlog and stops
/// listening, closes idle connections, lets turns finish until the longest of the pools' drain times is up, and cuts off
/// what is left. A further signal ends the linger, or cuts off, at once. Ordered to stop, it sends its workers home last,
/// who otherwise look for another door. Blocks; runs an event loop of its own.
pub fn run(config: &Config) -> Result<(), DoorError> {
    let config = &within(config, raise_descriptor_limit());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DoorError::Runtime)?;
    runtime.block_on(LocalSet::new().run_until(serve(config)))
}

async fn serve(config: &Config) -> Result<(), DoorError> {
    let notices = Rc::new(Notices::default());
    let turns = Rc::new(Cell::new(1));
    let recent = Rc::<RecentTurns>::default();
    let mut opened = Vec::new();
    for pool in &config.pools {
        let (listener, address, clients) = listen::open(pool).map_err(|source| DoorError::Listen {
            pool: pool.name.to_string(),
            address: pool.listen,
            source,
        })?;
        let (notices, turns, recent) = (Rc::clone(&notices), Rc::clone(&turns), Rc::clone(&recent));
        let pool = Pool::new(pool.clone(), clients, address, notices, turns, recent);
        opened.push((Rc::new(pool), listener));
    }
    let mouth = match &config.tunnel {
        Some(mouth) => Some(Mouth::open(mouth).await?),
        None => None,
    };
    let (link, controllers) = open_sockets(config)?;
    let (mut terminate, mut interrupt) = signals().map_err(DoorError::Runtime)?;

    // Nothing was served until here; from here on nothing fails.
    let pools: Vec<_> = opened.iter().map(|(pool, _)| Rc::clone(pool)).collect();
    let workers = Rc::new(Workers::new(pools.iter().cloned(), Rc::clone(&notices)));
    let trickles = Rc::new(Trickles::new(pools.iter().cloned()));
    let stop = Rc::new(Notify::new());
    let control = Rc::new(Control {
        pools: pools.clone(),
        workers: Rc::clone(&workers),
        notices: Rc::clone(&notices),
        recent,
        trickles: Rc::clone(&trickles),
        stop: Rc::clone(&stop),
        stopping: Cell::new(false),
        tunnel: mouth.as_ref().map(|mouth| mouth.address),
        current: RefCell::default(),
    });
    if let Some(secret) = config.tunnel.as_ref().and_then(|mouth| mouth.secret.clone()) {
        workers.learn(secret);
    }
    if let Some(mouth) = mouth {
        tracing::info!(address = %mouth.address, "open to workers");
        tokio::task::spawn_local(mouth.accept(Rc::clone(&workers), Rc::clone(&control)));
    }
    tokio::task::spawn_local(Rc::clone(&workers).accept(link));
    tokio::task::spawn_local(Rc::clone(&control).accept(controllers));
    let guests = Rc::new(Guests::default());
    let (mut listeners, closing) = (Vec::new(), watch::Sender::new(false));
    for (pool, listener) in opened {
        tracing::info!(pool = %pool.config.name, address = %pool.address, "open");
        tokio::task::spawn_local(look_for_overruns(Rc::clone(&pool)));
        let stuck = Rc::clone(&pool);
        tokio::task::spawn_local(async move { stuck.try_again().await });
        let accepting = listen::accept(listener, pool, Rc::clone(&guests), closing.subscribe());
        listeners.push(tokio::task::spawn_local(accepting));
    }

    let (mut stage, mut ordered) = (Stage::Open, false);
    while stage != Stage::Over {
        let over = async {
            match stage {
                Stage::Open => std::future::pending().await,
                Stage::Lingering => tokio::time::sleep(config.linger).await,
                Stage::Draining | Stage::Over => drain(&pools, &guests, &listeners).await,
            }
        };
        let heard = tokio::select! {
            () = over => Heard::Done,
            _ = terminate.recv() => Heard::Signal,
            _ = interrupt.recv() => Heard::Signal,
            () = stop.notified(), if stage < Stage::Draining => Heard::Order,
        };
        ordered |= heard == Heard::Order;
        if stage == Stage::Open {
            control.stopping.set(true);
            notices.post(Notice::Stopping);
            trickles.end_all();
        }
        let next = stage.after(heard, config.linger);
        match next {
            Stage::Lingering => tracing::info!(linger = ?config.linger, "told to go: serving on for a while"),
            Stage::Draining => drop(closing.send_replace(true)),
            Stage::Over if heard == Heard::Signal => {
                tracing::warn!("told to go at once: cutting off what is left");
            }
            Stage::Open | Stage::Over => {}
        }
        if next == Stage::Over && heard == Heard::Done && ordered {
            send_home(&workers, &notices).await;
        }
        pools.iter().for_each(|pool| pool.stage.set(next));
        stage = next;
    }
    listen::close_all(&guests);
    let _ = fs::remove_file(&config.link_socket);
    let _ = fs::remove_file(&config.control_socket);
    Ok(())
}

/// Waits until nobody is let in any more and no client is left, or time is up.
async fn drain(pools: &[Rc<Pool>], guests: &Guests, listeners: &[JoinHandle<()>]) {
    let deadline =
        Instant::now() + pools.iter().map(|pool| pool.config.timeouts.drain).max().unwrap_or_default();
    let open = || pools.iter().map(|pool| pool.connections.get()).sum::<usize>();
    tracing::info!(connections = open(), "draining");
    let mut look = interval(Duration::from_millis(10));
    let empty = async {
        while open() > 0 || !listeners.iter().all(JoinHandle::is_finished) {
            // Again and again: a connection may have been parked since the last look.
            listen::close_idle(guests, Instant::now());
            pools.iter().for_each(|pool| pool.close_idle(Instant::now()));
            look.tick().await;
        }
    };
    if timeout_at(deadline, empty).await.is_err() {
        tracing::warn!(connections = open(), "the time to drain is up: cutting off what is left");
    }
}

/// Lets the workers go, whom no client needs any more. A controller that gives the order to stop opens no other door, and
/// those who find theirs closed wait for another. It is told of each that has gone.
async fn send_home(workers: &Workers, notices: &Notices) {
    let mut told = BTreeSet::new();
    let mut look = interval(Duration::from_millis(5));
    let gone = async {
        loop {
            let linked = workers.linked();
            let done = linked.is_empty() && notices.is_empty();
            for life in linked {
                if told.insert(life.clone()) {
                    workers.drain(&life);
                }
            }
            // What was taken from the notices last may still be on its way.
            look.tick().await;
            if done {
                return;
            }
        }
    };
    if timeout(GOODBYES, gone).await.is_err() {
        tracing::warn!("workers have not said goodbye; their controller sees to them");
    }
}

async fn look_for_overruns(pool: Rc<Pool>) {
    let Some(limit) = pool.config.timeouts.request else { return };
    let mut look = interval((limit / 20).clamp(OVERRUN_LOOKS.0, OVERRUN_LOOKS.1));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = look.tick().await;
        pool.look_for_overruns(now);
    }
}

fn signals() -> io::Result<(tokio::signal::unix::Signal, tokio::signal::unix::Signal)> {
    Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
}

/// Makes both sockets, in place of those that a dead door has left behind.
fn open_sockets(config: &Config) -> Result<(OwnedFd, UnixListener), DoorError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DoorError::Socket { path, source }
    };
    if UnixStream::connect(&config.control_socket).is_ok() {
        return Err(DoorError::Occupied { path: config.control_socket.clone() });
    }
    for path in [&config.control_socket, &config.link_socket] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(path)(error)),
            _ => {}
        }
    }
    let link = link::listen(&config.link_socket).map_err(failed(&config.link_socket))?;
    // Workers are other users. What lets them in is their token.
    open_to_all(&config.link_socket).map_err(failed(&config.link_socket))?;
    let control = control::listen(&config.control_socket).map_err(failed(&config.control_socket))?;
    // The controller may be root without root's capabilities, which the directory's mode has let in already.
    open_to_all(&config.control_socket).map_err(failed(&config.control_socket))?;
    Ok((link, control))
}

fn open_to_all(socket: &Path) -> io::Result<()> {
    fs::set_permissions(socket, Permissions::from_mode(0o666))
}

/// Raises the soft limit of open files, which is often far below the hard one: a door needs a descriptor for each client,
/// a controller one or two for each worker and each client of its API. How many there may be then.
pub fn raise_descriptor_limit() -> Option<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    getrlimit(Resource::Nofile).current
}

/// The same pools with no more connections than there are descriptors for, shared out by what each asks for. Some are
/// kept back: clients must not take those that workers and controller need to come in, nor those of who is turned away
/// and of the door as a client of its own.
fn within(config: &Config, descriptors: Option<u64>) -> Config {
    const KEPT_BACK: u64 = 1024;
    const KEPT_BACK_FOR_EACH_POOL: u64 = (MOST_TURNED_AWAY + TRICKLE_IN_FLIGHT) as u64;
    let kept_back = KEPT_BACK + config.pools.len() as u64 * KEPT_BACK_FOR_EACH_POOL;
    let mut config = config.clone();
    let wanted: u64 = config.pools.iter().map(|pool| pool.clients.connections as u64).sum();
    let Some(descriptors) = descriptors else { return config };
    // At least half is the clients', however few there are.
    let room = descriptors.saturating_sub(kept_back).max(descriptors / 2);
    if wanted > room {
        for pool in &mut config.pools {
            let share = pool.clients.connections as u128 * u128::from(room) / u128::from(wanted);
            pool.clients.connections = usize::try_from(share).unwrap_or(usize::MAX).max(1);
            tracing::warn!(
                pool = %pool.name,
                connections = pool.clients.connections,
                "the limit of open files ({descriptors}) is too low for clients.connections"
            );
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_descriptors_for_everybody_else() {
        let pools = |connections: usize| {
            let mut pool = testing::config();
            pool.clients.connections = connections;
            vec![pool.clone(), pool]
        };
        let config = |connections| Config {
            pools: pools(connections),
            link_socket: PathBuf::new(),
            control_socket: PathBuf::new(),
            tunnel: None,
            linger: Duration::ZERO,
        };
        let shared_out = |connections, descriptors| {
            within(&config(connections), descriptors)
                .pools
                .iter()
                .map(|pool| pool.clients.connections)
                .sum::<usize>()
        };
        let others = 1024 + 2 * (MOST_TURNED_AWAY + TRICKLE_IN_FLIGHT);
        assert_eq!(shared_out(10_000, Some(10_000)), 10_000 - others);
        assert_eq!(shared_out(100, Some(10_000)), 200);
        // At least half, however few there are.
        assert_eq!(shared_out(10_000, Some(1000)), 500);
        assert_eq!(shared_out(10_000, None), 20_000);
    }
}
