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
mod reach;
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

use rustix::net::sockopt;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, socketpair};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::{Ending, Options};
use crate::link::tunnel::{Connector, End, Frame, MOST_DATA, Pace, Preface, Stream, TlsError, watch_over};
use crate::link::{
    self, FromWorker, LONGEST, Received, Scoreboard, ScoreboardPen, Sent, ToWorker, TurnFrame,
};
use crate::sys;
use pair::Pairs;
use reach::reach;
use turn::Turn;

/// What its thread needs of stack: a handshake needs most.
const STACK_BYTES: usize = 512 * 1024;
/// What is kept to until the door has said how this tunnel is kept.
const BEFORE: Pace =
    Pace { heartbeat: Duration::from_secs(1), lost_after: Duration::from_secs(10), window: 64 * 1024 };

/// A tunnel, as the worker holds it. Dropping it ends the link, and waits until the worker's last words are out.
#[derive(Debug)]
pub(super) struct Relay {
    thread: Option<JoinHandle<()>>,
    /// A duplicate of the worker's end: a child that has inherited the link must not keep the relay waiting.
    link: OwnedFd,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.link, Shutdown::Both);
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
    /// Whoever answers there has a certificate from somebody else, and so has every other door.
    Distrusted(SocketAddr, io::Error),
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
    let own = theirs.try_clone().map_err(NoTunnel::Away)?;
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
                let reached = tokio::select! {
                    reached = reach(&doors, &preface, &connector) => reached,
                    () = told_to_go() => Err(NoTunnel::Away(io::ErrorKind::Interrupted.into())),
                };
                match reached {
                    Ok((stream, severity)) => {
                        let _ = tell.send(Ok(()));
                        run(stream, severity, ours, credit, sent_to).await;
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
    let relay = Relay { thread: Some(thread.map_err(NoTunnel::NoThread)?), link: own };
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

/// Waits until somebody tells the worker to go.
async fn told_to_go() {
    while !sys::told_to_go() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How long it is waited for a descriptor.
const NO_DESCRIPTOR: Duration = Duration::from_millis(20);
/// So many frames are heard of a worker before others have their turn.
const AT_A_TIME: u32 = 32;

/// As where a descriptor does not arrive: this process can serve nobody.
fn no_descriptor(error: &io::Error) -> ! {
    eprintln!("a client's socket could not be made: open_files is too low ({error})");
    std::process::exit(Ending::NoDescriptor.code().into());
}

/// What all parts of a relay share.
struct Shared {
    end: End,
    /// A duplicate of the tunnel's, for its options.
    socket: Option<OwnedFd>,
    link: AsyncFd<OwnedFd>,
    /// What the worker is to hear, and has no room for yet.
    to_worker: RefCell<VecDeque<ForWorker>>,
    /// Rung when there is something in it.
    untold: Notify,
    /// Where the worker notes its answers; not before it was welcome.
    board: RefCell<Option<ScoreboardPen>>,
    credit: u16,
    /// How long a client may stall; as the door has it.
    patience: Cell<Option<Duration>>,
    turns: RefCell<HashMap<u64, Rc<Turn>>>,
    /// Rung when one of them is over.
    a_turn_left: Notify,
    pairs: Pairs,
    /// Where what is passed on is read into.
    scratch: RefCell<Box<[u8; MOST_DATA]>>,
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

/// A duplicate of the tunnel's socket, by which the tunnel can be made to end in a reset. To the door a connection that
/// ends in order is a process that is dead, and while that is not so it must not look so.
struct Severity(OwnedFd);

impl Severity {
    fn impose(&self) {
        let _ = sockopt::set_socket_linger(&self.0, Some(Duration::ZERO));
    }
}

impl Drop for Severity {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.impose();
        }
    }
}

async fn run(stream: Stream, severity: Severity, link: OwnedFd, credit: u16, sent_to: Detour) {
    let Ok(link) = sys::watch(link, Interest::READABLE) else {
        return severity.impose();
    };
    let shared = Rc::new(Shared {
        end: End::new(BEFORE),
        socket: severity.0.try_clone().ok(),
        link,
        to_worker: RefCell::default(),
        untold: Notify::new(),
        board: RefCell::default(),
        credit,
        patience: Cell::new(None),
        turns: RefCell::default(),
        a_turn_left: Notify::new(),
        pairs: Pairs::default(),
        scratch: RefCell::new(Box::new([0; MOST_DATA])),
        sent_to,
    });
    let (from, to) = tokio::io::split(stream);
    let mut door = std::pin::pin!(shared.hear_door(from));
    let speaking = async {
        let worker_gone = async {
            shared.hear_worker().await;
            shared.last_words_are_out().await;
            shared.end.close();
        };
        let wake = || shared.turns.borrow().values().for_each(|turn| turn.changed.notify_one());
        tokio::join!(biased; worker_gone, shared.end.speak(to, wake));
    };
    // In this order, so that what one of them has to say goes out at once.
    let said_all = tokio::select! {
        biased;
        () = &mut door => false,
        () = speaking => true,
        () = shared.tell_worker_later() => false,
        // The door is less patient: it is to say first that this worker is lost.
        _silent = shared.end.keep_watch(2, || {}) => false,
    };
    if !said_all {
        severity.impose();
    } else {
        // Closed while something comes, it would end in a reset all the same, and what is on its way be lost.
        let _ = timeout(shared.end.pace().lost_after, door).await;
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
            loop {
                match Frame::decode(&read[at..]) {
                    Ok(Some((frame, length))) => {
                        at += length;
                        if self.pass_on(&frame).is_none() {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
            read.drain(..at);
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
            Frame::Pace(pace) => {
                self.end.keep_pace(pace);
                if let Some(socket) = &self.socket {
                    // Where that fails it is watched over as before.
                    let _ = watch_over(socket, 2 * pace.lost_after);
                }
            }
            Frame::Move { to } => {
                self.sent_to.set(to);
                // The worker holds nothing and sees the end of its link; that it dials another door is no death.
                let _ = rustix::net::shutdown(&self.link, Shutdown::Both);
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
                let pair = match self.pairs.take(self.patience.get(), self.credit, frame.whole) {
                    Ok(pair) => pair,
                    Err(error) => no_descriptor(&error),
                };
                let turn = Turn::new(frame, pair, self.end.window());
                self.turns.borrow_mut().insert(frame.turn, Rc::clone(&turn));
                turn.begin(self)
            }
            ToWorker::Farewell => {
                self.tell_worker(ForWorker::Frame(bytes.to_vec()));
                // For those of its threads that do not hear it.
                self.tell_worker(ForWorker::End);
                Some(())
            }
            ToWorker::Refused { .. } => {
                self.tell_worker(ForWorker::Frame(bytes.to_vec()));
                Some(())
            }
        }
    }

    /// Tells the worker something, behind what it has still to hear.
    fn tell_worker(&self, what: ForWorker) {
        let mut waiting = self.to_worker.borrow_mut();
        if !waiting.is_empty() || self.try_to_tell(&what) == Sent::Full {
            waiting.push_back(what);
            self.untold.notify_one();
        }
    }

    /// One that cannot hear any more is about to be seen to have gone.
    fn try_to_tell(&self, what: &ForWorker) -> Sent {
        let sent = match what {
            ForWorker::Frame(bytes) => link::send(self.link.as_fd(), bytes, SendFlags::DONTWAIT),
            ForWorker::Turn(turn, frame) => turn.hand_over(self.link.as_fd(), *frame),
            ForWorker::End => {
                rustix::net::shutdown(&self.link, Shutdown::Write).map(|()| Sent::Whole).map_err(Into::into)
            }
        };
        sent.unwrap_or(Sent::Closed)
    }

    /// Tells what had no room when it came.
    async fn tell_worker_later(&self) {
        let mut room = None;
        loop {
            if self.to_worker.borrow().is_empty() {
                room = None;
                self.untold.notified().await;
                continue;
            }
            // Watched only now: whoever is always told that there is room is woken by each frame that the worker reads.
            let Some(watch) = &room else {
                let link = self.link.get_ref().try_clone();
                match link.and_then(|link| sys::watch(link, Interest::WRITABLE)) {
                    Ok(watch) => room = Some(watch),
                    // There may be a descriptor again soon.
                    Err(_) => tokio::time::sleep(NO_DESCRIPTOR).await,
                }
                continue;
            };
            let Ok(mut ready) = watch.writable().await else { return };
            if ready.ready().is_write_closed() {
                // It counts as writable for ever; whoever listens sees why.
                return std::future::pending().await;
            }
            // It stays at the front until it has been told, or what comes in the meantime would overtake it.
            let told = self.to_worker.borrow().front().map(|next| self.try_to_tell(next));
            match told {
                Some(Sent::Full) => ready.clear_ready(),
                Some(Sent::Whole | Sent::Closed) => drop(self.to_worker.borrow_mut().pop_front()),
                None => {}
            }
        }
    }

    /// Waits until the answers of all turns that the worker is done with have been passed on.
    async fn last_words_are_out(&self) {
        while self.turns.borrow().values().any(|turn| turn.is_done()) {
            self.a_turn_left.notified().await;
        }
    }

    /// Passes on what the worker says, until its end of the link closes.
    async fn hear_worker(self: &Rc<Self>) {
        let mut frame = [0; LONGEST + 1];
        let mut heard = 0_u32;
        loop {
            // However much it says, what it has said goes out.
            heard = heard.wrapping_add(1);
            if heard.is_multiple_of(AT_A_TIME) {
                tokio::task::yield_now().await;
            }
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
                Ok(FromWorker::Done { turn, after }) => match self.turn(turn) {
                    // Behind its answer.
                    Some(turn) => turn.finish(self, bytes, after),
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
