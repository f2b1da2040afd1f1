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
//! It also ends the process when the door says so, which is how a worker is killed whose machine has no other ear for it:
//! the kernel ends all its threads in the middle of what they do, and closes the link behind them.
//!
//! When the tunnel ends, what the worker holds ends: its reads and writes fail, it is done with the turns and dials again.

mod pair;
mod turn;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
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
use crate::link::{
    self, FromWorker, LONGEST, Received, Scoreboard, ScoreboardPen, Sent, ToWorker, TurnFrame,
};
use crate::sys;
use pair::Pairs;
use turn::Turn;

/// How long a door may take to accept a connection, and to see a handshake through.
const CONNECT: Duration = Duration::from_secs(3);
/// What its thread needs of stack: a handshake needs most.
const STACK_BYTES: usize = 512 * 1024;
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
    /// The relay's thread cannot be started.
    NoThread(io::Error),
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
    let thread =
        std::thread::Builder::new().name("relay".to_owned()).stack_size(STACK_BYTES).spawn(move || {
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
    let relay = Relay { thread: Some(thread.map_err(NoTunnel::NoThread)?) };
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
    /// What the worker is to hear, and has no room for yet.
    to_worker: RefCell<VecDeque<ForWorker>>,
    /// Whether it has been told that there is nothing more.
    told_all: Cell<bool>,
    /// Where the worker notes its answers; not before it was welcome.
    board: RefCell<Option<ScoreboardPen>>,
    credit: u16,
    /// How long a client may stall; as the door has it.
    patience: Cell<Option<Duration>>,
    turns: RefCell<HashMap<u64, Rc<Turn>>>,
    pairs: Pairs,
    sent_to: Detour,
}

/// What the worker is to hear.
enum ForWorker {
    Frame(Vec<u8>),
    /// Of a turn, whose socket comes with it.
    Turn(Rc<Turn>, TurnFrame),
    /// That there is nothing more.
    End,
}

async fn run(stream: Stream, link: OwnedFd, credit: u16, sent_to: Detour) {
    let Ok(link) = sys::watch(link, Interest::READABLE | Interest::WRITABLE) else { return };
    let shared = Rc::new(Shared {
        end: End::new(BEFORE),
        link,
        to_worker: RefCell::default(),
        told_all: Cell::new(false),
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
        () = shared.tell_worker_later() => {}
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
                if cut_off && let Some(board) = &*self.board.borrow() {
                    board.cut_off(turn, |turn| self.turns.borrow().contains_key(&turn));
                }
                if let Some(turn) = self.turn(turn) {
                    turn.end();
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
            Frame::Die => sys::end_now(),
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
                let pair = self.pairs.take(self.patience.get(), self.credit).ok()?;
                let turn = Turn::new(frame, pair, self.end.window());
                self.turns.borrow_mut().insert(frame.turn, Rc::clone(&turn));
                turn.begin(self)
            }
            ToWorker::Farewell => {
                self.tell_worker(ForWorker::Frame(bytes.to_vec()))?;
                // For those of its threads that do not hear it.
                self.tell_worker(ForWorker::End)
            }
            ToWorker::Refused { .. } => self.tell_worker(ForWorker::Frame(bytes.to_vec())),
        }
    }

    /// Tells the worker something, behind what it has still to hear; `None`: the link is over.
    fn tell_worker(&self, what: ForWorker) -> Option<()> {
        let mut waiting = self.to_worker.borrow_mut();
        if !waiting.is_empty() || self.try_to_tell(&what)? == Sent::Full {
            waiting.push_back(what);
        }
        Some(())
    }

    fn try_to_tell(&self, what: &ForWorker) -> Option<Sent> {
        let sent = match what {
            ForWorker::Frame(bytes) => link::send(self.link.as_fd(), bytes, SendFlags::DONTWAIT),
            ForWorker::Turn(turn, frame) => turn.hand_over(self.link.as_fd(), *frame),
            ForWorker::End => {
                self.told_all.set(true);
                rustix::net::shutdown(&self.link, Shutdown::Write).map(|()| Sent::Whole).map_err(Into::into)
            }
        };
        sent.ok().filter(|sent| *sent != Sent::Closed)
    }

    /// Tells what had no room when it came, until the link is over.
    async fn tell_worker_later(&self) {
        loop {
            if self.told_all.get() {
                // What has been shut down counts as writable for ever.
                return std::future::pending().await;
            }
            let Ok(mut ready) = self.link.writable().await else { return };
            ready.clear_ready();
            loop {
                let Some(next) = self.to_worker.borrow_mut().pop_front() else { break };
                match self.try_to_tell(&next) {
                    Some(Sent::Full) => {
                        self.to_worker.borrow_mut().push_front(next);
                        break;
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        }
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
