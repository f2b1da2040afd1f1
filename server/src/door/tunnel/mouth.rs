//! Where tunnels come in: who is let through, in steps that each cost the door more.
//!
//! ```text
//!  accept ─► preface: one hash ─► known, and alive? ─► TLS handshake ─► hello, judged as on an fd link ─► welcome
//!     └─ not all of it within 2 s   └─ closed, or told       └─ within 5 s
//! ```
//! A controller comes in here as well, and speaks the control protocol behind the same steps.
//!
//! Of one life, one connection at a time is between its preface and its hello: a newer one takes the place of the older.
//! So whoever holds a token can keep nobody out but himself, with however many connections that say nothing more. The
//! newer one it is because a worker whose connection has stalled dials anew, and must not be kept waiting by what it has
//! given up.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Tunnel;
use crate::config;
use crate::control::Notice;
use crate::door::control::{Control, Trust};
use crate::door::wire::Wire;
use crate::door::workers::{HELLO, MOST_STRANGERS, Strangers, Workers, granted};
use crate::identity::{Incarnation, Secret};
use crate::link::tunnel::{
    Acceptor, Frame, GO_ON, OVER, Pace, Preface, Role, Stream, TlsError, TlsIdentity, watch_over,
};
use crate::link::{Breach, FromWorker, ToWorker};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The most bytes of a hello.
const LONGEST_HELLO: usize = 4096;

/// What a door is to be told to listen for workers over TCP.
#[derive(Debug, Clone)]
pub struct TunnelMouth {
    /// Where, and how.
    pub config: config::Tunnel,
    /// What tokens are made with, where it is known before a controller has come.
    pub secret: Option<Secret>,
    /// How it proves that it is this deployment's door; `None`: what it says is not encrypted.
    pub identity: Option<TlsIdentity>,
}

/// Why a door cannot listen for workers over TCP.
#[derive(Debug, Error)]
pub enum MouthError {
    /// The address cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// Its certificate is of no use.
    #[error("cannot prove that it is this deployment's door")]
    Identity(#[from] TlsError),
    /// There is none.
    #[error(
        "`tunnel.tls` is on and the door has no certificate: put tls.crt and tls.key into the directory that --tunnel-identity names"
    )]
    NoIdentity,
}

/// A listener for tunnels.
pub(in crate::door) struct Mouth {
    listener: TcpListener,
    acceptor: Acceptor,
    config: config::Tunnel,
    pub(in crate::door) address: SocketAddr,
    /// Those who have not yet proved that they may come.
    strangers: Strangers,
    /// Those who have, and have not yet said hello. Kept apart: a handshake takes its time, in which as many strangers as
    /// like may come.
    introduced: Introduced,
}

/// Those who have proved that they may come, and have not yet said hello: the oldest first, and each life once.
#[derive(Debug, Default)]
struct Introduced(RefCell<VecDeque<(Role, AbortHandle)>>);

impl Introduced {
    /// Keeps one more, which takes the place of an older one of the same life; or, where there are too many, of the one
    /// that has been silent longest.
    fn host(&self, role: Role, greeting: AbortHandle) {
        let mut introduced = self.0.borrow_mut();
        let same = |(other, _): &(Role, _)| matches!(other, Role::Worker(_)) && *other == role;
        if let Some((_, older)) = introduced.iter().position(same).and_then(|at| introduced.remove(at)) {
            older.abort();
        }
        introduced.push_back((role, greeting));
        if introduced.len() > MOST_STRANGERS {
            introduced.retain(|(_, greeting)| !greeting.is_finished());
        }
        if introduced.len() > MOST_STRANGERS
            && let Some((_, oldest)) = introduced.pop_front()
        {
            oldest.abort();
        }
    }
}

impl Mouth {
    /// Listens.
    pub(in crate::door) async fn open(mouth: &TunnelMouth) -> Result<Self, MouthError> {
        let acceptor = match (&mouth.identity, mouth.config.tls) {
            (_, false) => Acceptor::Plain,
            (Some(identity), true) => Acceptor::tls(identity)?,
            (None, true) => return Err(MouthError::NoIdentity),
        };
        let failed = |error| MouthError::Listen(mouth.config.listen, error);
        let listener = TcpListener::bind(mouth.config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            acceptor,
            config: mouth.config,
            address,
            strangers: Strangers::default(),
            introduced: Introduced::default(),
        })
    }

    /// Takes tunnels in for as long as it is polled.
    pub(in crate::door) async fn accept(self, workers: Rc<Workers>, control: Rc<Control>) {
        let mouth = Rc::new(self);
        loop {
            match mouth.listener.accept().await {
                Ok((stream, peer)) => {
                    let (workers, control) = (Rc::clone(&workers), Rc::clone(&control));
                    let greeting = Rc::clone(&mouth).greet(stream, peer, workers, control);
                    mouth.strangers.host(tokio::task::spawn_local(greeting).abort_handle());
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a tunnel");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            tokio::task::consume_budget().await;
        }
    }

    async fn greet(
        self: Rc<Self>,
        mut stream: TcpStream,
        peer: SocketAddr,
        workers: Rc<Workers>,
        control: Rc<Control>,
    ) {
        let refuse = |claimed, detail: String| refuse(&workers, peer, claimed, &detail);
        let first_words = async {
            match stream.peek(&mut [0]).await {
                Ok(0) => Ok(None),
                _ => Preface::read(&mut stream).await.map(Some),
            }
        };
        let preface = match timeout(HELLO, first_words).await {
            // It has looked whether somebody listens, as probes do.
            Ok(Ok(None)) => return,
            Ok(Ok(Some(preface))) => preface,
            Ok(Err(error)) => return refuse(None, error.to_string()),
            Err(_elapsed) => return refuse(None, format!("it did not say who it is within {HELLO:?}")),
        };
        let Some(secret) = workers.secret().await else { return };
        let Some(role) = preface.proven(&secret) else {
            return refuse(None, "it cannot prove that it belongs here".to_owned());
        };
        if let Role::Worker(life) = &role {
            if let Err(why) = workers.pool_of(life) {
                // Without a word, which sends it to the next door: that one may serve its pool.
                return refuse(Some(life.clone()), why);
            }
            if let Err(why) = workers.may_come(life) {
                let _ = stream.write_all(&[OVER]).await;
                return refuse(Some(life.clone()), why);
            }
        }
        let rest = Rc::clone(&self).let_in(role.clone(), stream, peer, secret, workers, control);
        self.introduced.host(role, tokio::task::spawn_local(rest).abort_handle());
    }

    /// Goes on with somebody who has proved that he may come.
    async fn let_in(
        self: Rc<Self>,
        role: Role,
        mut stream: TcpStream,
        peer: SocketAddr,
        secret: Secret,
        workers: Rc<Workers>,
        control: Rc<Control>,
    ) {
        let refuse = |claimed, detail: String| refuse(&workers, peer, claimed, &detail);
        let pace = self.pace();
        if watch_over(&stream, pace.lost_after).is_err() || stream.write_all(&[GO_ON]).await.is_err() {
            return;
        }
        let stream = match timeout(HANDSHAKE, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            // It has hung up: another door was faster.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return,
            Ok(Err(error)) => return refuse(None, format!("its handshake failed: {error}")),
            Err(_elapsed) => return refuse(None, format!("its handshake took longer than {HANDSHAKE:?}")),
        };
        match role {
            Role::Controller => {
                let (from, to) = tokio::io::split(stream);
                tokio::task::spawn_local(control.meet(from, to, Trust::Secret(secret)));
            }
            Role::Worker(life) => match hear_out(&life, stream, pace, &workers).await {
                Ok(Some(guest)) => {
                    // A task of its own: whoever is known is not among those that others push out.
                    tokio::task::spawn_local(guest.serve(workers));
                }
                Ok(None) => {}
                Err(why) => refuse(Some(life), why),
            },
        }
    }

    fn pace(&self) -> Pace {
        Pace {
            heartbeat: self.config.heartbeat,
            lost_after: self.config.lost_after,
            window: self.config.window_bytes,
        }
    }
}

fn refuse(workers: &Workers, peer: SocketAddr, claimed: Option<Incarnation>, detail: &str) {
    workers.notices.post(Notice::Refused { claimed, detail: format!("{peer}: {detail}") });
}

/// A worker whose hello was good.
struct Guest {
    life: Incarnation,
    tunnel: Rc<Tunnel>,
    seat: u64,
    stream: Stream,
    already: Vec<u8>,
}

impl Guest {
    async fn serve(self, workers: Rc<Workers>) {
        let Self { life, tunnel, seat, stream, already } = self;
        let end = tunnel.serve(stream, already, seat).await;
        workers.gone(&life, &tunnel.pool, seat, &end);
    }
}

/// Hears what it says of itself; `Ok(None)`: it has hung up.
async fn hear_out(
    life: &Incarnation,
    mut stream: Stream,
    pace: Pace,
    workers: &Rc<Workers>,
) -> Result<Option<Guest>, String> {
    let mut read = Vec::new();
    let hello = timeout(HELLO, receive_hello(&mut stream, &mut read)).await;
    let Ok(hello) = hello else { return Err(format!("it said no hello within {HELLO:?}")) };
    let Some(hello) = hello.map_err(|breach| breach.to_string())? else { return Ok(None) };
    let refusal = match hello {
        FromWorker::Hello { version, credit, token, life: claimed } if claimed == *life => {
            let Some(secret) = workers.secret().await else { return Ok(None) };
            match workers.judge(version, credit, life, secret.vouches_for(life, &token)) {
                Ok(pool) => {
                    let credit = granted(life, credit, pool.config.credit);
                    let clients = pool.clients;
                    // Whatever is whole has to fit: it is sent before there is anybody to give room back.
                    let whole = u32::try_from(clients.head_bytes + clients.buffered_body_bytes);
                    let window = pace.window.max(whole.unwrap_or(u32::MAX));
                    let pace = Pace { window, ..pace };
                    let tunnel = Tunnel::new(Rc::clone(&pool), pace);
                    tunnel.post(&Frame::Pace(pace));
                    let mut welcome = Vec::new();
                    ToWorker::Welcome(pool.terms()).encode(&mut welcome);
                    tunnel.say(&welcome);
                    // Without waiting for anything since it was judged.
                    workers.note(life, false);
                    let seat = pool.welcome(life.clone(), credit, Wire::Tunnel(Rc::clone(&tunnel)));
                    return Ok(Some(Guest { life: life.clone(), tunnel, seat, stream, already: read }));
                }
                Err(refusal) => refusal,
            }
        }
        FromWorker::Hello { life: claimed, .. } => format!("it then says that it is {claimed}"),
        _ => "it did not begin with a hello".to_owned(),
    };
    let (mut refused, mut out) = (Vec::new(), Vec::new());
    ToWorker::Refused { why: refusal.clone() }.encode(&mut refused);
    Frame::Link(&refused).encode(&mut out);
    let _ = timeout(HELLO, stream.write_all(&out)).await;
    let _ = timeout(HELLO, stream.shutdown()).await;
    Err(refusal)
}

/// The first frame, which `read` is then left without.
async fn receive_hello(stream: &mut Stream, read: &mut Vec<u8>) -> Result<Option<FromWorker>, Breach> {
    loop {
        if let Some((frame, length)) = Frame::decode(read)? {
            let Frame::Link(frame) = frame else { return Err(Breach::Kind(0)) };
            let hello = FromWorker::decode(frame)?;
            read.drain(..length);
            return Ok(Some(hello));
        }
        if read.len() > LONGEST_HELLO {
            return Err(Breach::Length(0));
        }
        match stream.read_buf(read).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::ErrorKind;

    use tokio::sync::Notify;
    use tokio::task::LocalSet;

    use super::*;
    use crate::door::testing::{in_time, pool};
    use crate::door::trickle::Trickles;

    /// A mouth that is open, and where.
    async fn open(secret: &Secret) -> io::Result<SocketAddr> {
        let config = config::Tunnel {
            listen: ([127, 0, 0, 1], 0).into(),
            tls: false,
            heartbeat: Duration::from_secs(1),
            lost_after: Duration::from_secs(3),
            window_bytes: 64 * 1024,
        };
        let mouth = Mouth::open(&TunnelMouth { config, secret: None, identity: None }).await;
        let mouth = mouth.map_err(io::Error::other)?;
        let address = mouth.address;
        let (pools, notices) = (vec![pool()], Rc::default());
        let workers = Rc::new(Workers::new(pools.iter().cloned(), Rc::clone(&notices)));
        workers.learn(secret.clone());
        let control = Control {
            trickles: Rc::new(Trickles::new(pools.iter().cloned())),
            pools,
            workers: Rc::clone(&workers),
            notices,
            recent: Rc::default(),
            stop: Rc::new(Notify::new()),
            stopping: Cell::new(false),
            tunnel: Some(address),
            current: RefCell::default(),
        };
        tokio::task::spawn_local(mouth.accept(workers, Rc::new(control)));
        Ok(address)
    }

    /// Somebody who proves that he may come as this worker, is told to go on, and says nothing more.
    async fn come(address: SocketAddr, life: &Incarnation, secret: &Secret) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&Preface::worker(life, &secret.token(life)).to_bytes()).await?;
        match stream.read_u8().await? {
            GO_ON => Ok(stream),
            other => Err(io::Error::other(format!("it was told {other}"))),
        }
    }

    fn is_open(stream: &TcpStream) -> bool {
        matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    #[test]
    fn who_comes_again_and_again_takes_his_own_place_and_nobody_elses() {
        let still_open = in_time(async || {
            let secret = Secret::new([7; 32]);
            let story = async {
                let (one, other) = ("web-0.1", "web-1.1");
                let life = |text: &str| text.parse::<Incarnation>().map_err(io::Error::other);
                let address = open(&secret).await?;
                let bystander = come(address, &life(other)?, &secret).await?;
                let mut last = come(address, &life(one)?, &secret).await?;
                for _ in 0..2 * MOST_STRANGERS {
                    let next = come(address, &life(one)?, &secret).await?;
                    let mut older = std::mem::replace(&mut last, next);
                    // However it ends, it ends.
                    let _ = older.read(&mut [0]).await;
                }
                Ok((is_open(&bystander), is_open(&last)))
            };
            LocalSet::new().run_until(story).await
        });
        assert_eq!(still_open, Ok((true, true)));
    }
}
