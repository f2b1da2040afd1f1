//! The relay: a thread of a worker's process that speaks the fd link with the worker, and a tunnel with the door.
//!
//! ```text
//!   worker's threads ◄── frames, and a local socket for each turn ──► relay ◄── TCP, TLS ──► door
//! ```
//! So a worker is the same program on both links. The local socket of a turn is one end of a Unix stream pair. The relay
//! keeps a duplicate of the worker's end, as the door does on an fd link: a worker that closes its own says nothing by
//! that, and one that shuts it down does. The whole of a request is in the pair before the worker hears of the turn.
//!
//! Its thread waits on an event loop and runs no handler, so it answers the door's signs of life whatever the worker is
//! at. It dies with the worker's process, like everything in it. When the worker leaves in order, it waits until the
//! relay has passed on its last words.
//!
//! When the tunnel ends, what the worker holds ends: its reads and writes fail, it is done with the turns and dials again.

mod pair;
mod turn;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, socketpair};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::Options;
use crate::link::tunnel::{
    Connector, End, Frame, GO_ON, MOST_DATA, OVER, Pace, Preface, Stream, TlsError, watch_over,
};
use crate::link::{self, FromWorker, LONGEST, Received, Scoreboard, ScoreboardPen, Sent, ToWorker};
use crate::sys;
use pair::Pairs;
use turn::Turn;

/// How long a door may take to accept a connection, and to see a handshake through.
const CONNECT: Duration = Duration::from_secs(3);
/// What is kept to until the door has said how this tunnel is kept.
const BEFORE: Pace =
    Pace { heartbeat: Duration::from_secs(1), lost_after: Duration::from_secs(10), window: 64 * 1024 };

/// A tunnel, as the worker holds it. Dropping it waits until the worker's last words are out; its end of the link has to
/// be closed before.
#[derive(Debug)]
pub(super) struct Relay {
    thread: Option<JoinHandle<()>>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Which door is to be tried first, when one has sent us to another.
#[derive(Debug, Clone, Default)]
pub(super) struct Detour(Arc<Mutex<Option<String>>>);

/// Why there is no tunnel.
#[derive(Debug)]
pub(super) enum NoTunnel {
    /// No door was reached, or none that goes on; another try may succeed.
    Away(io::Error),
    /// The door knows that this worker's life is over.
    Over,
    /// What it was given to prove the door by is of no use.
    Tls(TlsError),
}

/// Dials one of the doors and starts a relay; the worker's end of an fd link.
pub(super) fn dial(
    options: &Options,
    doors: &[String],
    tls: bool,
    sent_to: &Detour,
) -> Result<(OwnedFd, Relay), NoTunnel> {
    let connector = match tls {
        false => Connector::Plain,
        true => Connector::tls(options.tunnel_ca.as_deref().unwrap_or_default().as_bytes())
            .map_err(NoTunnel::Tls)?,
    };
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| NoTunnel::Away(error.into()))?;
    let doors: Vec<String> = sent_to.take().into_iter().chain(doors.iter().cloned()).collect();
    let preface = Preface::worker(&options.life, &options.token).to_bytes();
    let credit = options.model.credit();
    let sent_to = sent_to.clone();
    let (tell, told) = mpsc::channel();
    let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = tell.send(Err(NoTunnel::Away(error)));
                return;
            }
        };
        let work = async {
            match reach(&doors, &preface, &connector).await {
                Ok(stream) => {
                    let _ = tell.send(Ok(()));
                    run(stream, ours, credit, sent_to).await;
                }
                Err(why) => {
                    let _ = tell.send(Err(why));
                }
            }
        };
        runtime.block_on(LocalSet::new().run_until(work));
        // A name that is still being looked up is nobody's concern any more.
        runtime.shutdown_background();
    });
    let relay = Relay { thread: Some(thread.map_err(NoTunnel::Away)?) };
    match told.recv() {
        Ok(Ok(())) => Ok((theirs, relay)),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(NoTunnel::Away(io::ErrorKind::BrokenPipe.into())),
    }
}

impl Detour {
    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, door: &str) {
        let door = Some(door.to_owned()).filter(|door| !door.is_empty());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = door;
    }
}

/// The first door that goes on, of all the addresses of each.
async fn reach(doors: &[String], preface: &[u8], connector: &Connector) -> Result<Stream, NoTunnel> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for door in doors {
        let addresses = match lookup_host(door).await {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                last = error;
                Vec::new()
            }
        };
        for address in addresses {
            match knock(address, preface, connector).await {
                Err(NoTunnel::Away(error)) => last = error,
                done => return done,
            }
        }
    }
    Err(NoTunnel::Away(last))
}

async fn knock(address: SocketAddr, preface: &[u8], connector: &Connector) -> Result<Stream, NoTunnel> {
    let away = |error: io::Error| NoTunnel::Away(error);
    let late = |_elapsed| NoTunnel::Away(io::ErrorKind::TimedOut.into());
    let mut stream = timeout(CONNECT, TcpStream::connect(address)).await.map_err(late)?.map_err(away)?;
    watch_over(&stream, BEFORE.lost_after).map_err(away)?;
    stream.write_all(preface).await.map_err(away)?;
    // A door that has no controller yet keeps its workers waiting. Whoever is told to go meanwhile goes.
    let answer = loop {
        match timeout(Duration::from_millis(250), stream.read_u8()).await {
            Ok(answer) => break answer.map_err(away)?,
            Err(_elapsed) if sys::told_to_go() => {
                return Err(NoTunnel::Away(io::ErrorKind::Interrupted.into()));
            }
            Err(_elapsed) => {}
        }
    };
    match answer {
        GO_ON => timeout(CONNECT, connector.connect(stream)).await.map_err(late)?.map_err(away),
        OVER => Err(NoTunnel::Over),
        _ => Err(NoTunnel::Away(io::ErrorKind::InvalidData.into())),
    }
}

/// What all parts of a relay share.
struct Shared {
    end: End,
    link: AsyncFd<OwnedFd>,
    /// Where the worker notes its answers; not before it was welcome.
    board: RefCell<Option<ScoreboardPen>>,
    credit: u16,
    /// How long a client may stall; as the door has it.
    patience: Cell<Option<Duration>>,
    turns: RefCell<HashMap<u64, Rc<Turn>>>,
    pairs: Pairs,
    sent_to: Detour,
}

async fn run(stream: Stream, link: OwnedFd, credit: u16, sent_to: Detour) {
    let Ok(link) = sys::watch(link, Interest::READABLE) else { return };
    let shared = Rc::new(Shared {
        end: End::new(BEFORE),
        link,
        board: RefCell::default(),
        credit,
        patience: Cell::new(None),
        turns: RefCell::default(),
        pairs: Pairs::default(),
        sent_to,
    });
    let (from, to) = tokio::io::split(stream);
    let speaking = async {
        let worker_gone = async {
            shared.hear_worker().await;
            shared.end.close();
        };
        let wake = || shared.turns.borrow().values().for_each(|turn| turn.changed.notify_waiters());
        tokio::join!(worker_gone, shared.end.speak(to, wake));
    };
    tokio::select! {
        () = shared.hear_door(from) => {}
        () = speaking => {}
        _silent = shared.end.keep_watch() => {}
    }
    shared.end.give_up();
    for (_, turn) in shared.turns.borrow_mut().drain() {
        turn.cut();
    }
    // The worker is told by the end of its link, even while somebody holds a duplicate of ours.
    let _ = rustix::net::shutdown(&shared.link, Shutdown::Both);
}

impl Shared {
    /// Passes on what the door says, until there is nothing more.
    async fn hear_door(self: &Rc<Self>, mut from: impl AsyncRead + Unpin) {
        let mut read = Vec::with_capacity(4096);
        loop {
            let mut at = 0;
            while let Ok(Some((frame, length))) = Frame::decode(&read[at..]) {
                at += length;
                if self.pass_on(&frame).is_none() {
                    return;
                }
            }
            read.drain(..at);
            // One that is too long never gets whole.
            if read.len() > 2 * MOST_DATA {
                return;
            }
            match from.read_buf(&mut read).await {
                Ok(0) | Err(_) => return,
                Ok(_) => self.end.has_heard(),
            }
        }
    }

    /// `None`: the link is over.
    fn pass_on(self: &Rc<Self>, frame: &Frame<'_>) -> Option<()> {
        match *frame {
            Frame::Link(frame) => return self.pass_on_to_worker(frame),
            Frame::Data { turn, bytes } => {
                if let Some(turn) = self.turn(turn) {
                    return turn.feed(self, bytes);
                }
            }
            Frame::End { turn, cut_off } => {
                if let Some(turn) = self.turn(turn) {
                    turn.end(cut_off);
                }
            }
            Frame::Gone { turn } => {
                if let Some(turn) = self.turn(turn) {
                    turn.cut();
                }
            }
            Frame::Room { turn, bytes } => {
                if let Some(turn) = self.turn(turn) {
                    turn.make_room(self, bytes);
                }
            }
            Frame::Pace(pace) => self.end.keep_pace(pace),
            Frame::Move { to } => {
                self.sent_to.set(to);
                return None;
            }
            Frame::Beat => {}
            Frame::Note(_) => return None,
        }
        Some(())
    }

    fn pass_on_to_worker(self: &Rc<Self>, bytes: &[u8]) -> Option<()> {
        match ToWorker::decode(bytes).ok()? {
            ToWorker::Welcome(terms) => {
                self.patience.set(Some(terms.head));
                let board = Scoreboard::new(self.credit).ok()?;
                let sent = link::send_with(self.link.as_fd(), bytes, board.as_fd()).ok()?;
                *self.board.borrow_mut() = Some(ScoreboardPen::for_board(&board).ok()?);
                (sent == Sent::Whole).then_some(())
            }
            ToWorker::Turn(frame) => {
                let pair = self.pairs.take(self.patience.get()).ok()?;
                let turn = Turn::new(frame, pair, self.end.window());
                self.turns.borrow_mut().insert(frame.turn, Rc::clone(&turn));
                turn.begin(self)
            }
            ToWorker::Farewell => {
                self.say_to_worker(bytes)?;
                // Behind it there is the end, for those of its threads that do not hear it.
                rustix::net::shutdown(&self.link, Shutdown::Write).ok()
            }
            ToWorker::Refused { .. } => self.say_to_worker(bytes),
        }
    }

    fn say_to_worker(&self, bytes: &[u8]) -> Option<()> {
        // No more frames are under way than it has credit for, and a farewell.
        let sent = link::send(self.link.as_fd(), bytes, SendFlags::DONTWAIT).ok()?;
        (sent == Sent::Whole).then_some(())
    }

    /// Passes on what the worker says, until its end of the link closes.
    async fn hear_worker(self: &Rc<Self>) {
        let mut frame = [0; LONGEST + 1];
        loop {
            let Ok(mut ready) = self.link.readable().await else { return };
            let bytes = match link::receive(self.link.as_fd(), &mut frame, RecvFlags::DONTWAIT) {
                Ok(Received::Frame { len, .. }) => &frame[..len],
                Ok(Received::Nothing) => {
                    ready.clear_ready();
                    continue;
                }
                Ok(Received::Closed | Received::Uninvited) | Err(_) => return,
            };
            match FromWorker::decode(bytes) {
                Ok(FromWorker::Done { turn, .. }) => match self.turn(turn) {
                    // Behind its answer.
                    Some(turn) => turn.finish(self, bytes),
                    None => self.end.post_at_any_rate(&Frame::Link(bytes)),
                },
                Ok(_) | Err(_) => self.end.post_at_any_rate(&Frame::Link(bytes)),
            }
        }
    }

    fn turn(&self, number: u64) -> Option<Rc<Turn>> {
        self.turns.borrow().get(&number).cloned()
    }
}
