//! One turn, between its local sockets and the tunnel.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::task::Poll;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::pair::Pair;
use super::{ForWorker, Shared};
use crate::link::tunnel::Frame;
use crate::link::{self, After, Sent, ToWorker, TurnFrame};

/// A turn that the worker holds, or is about to.
pub(super) struct Turn {
    frame: TurnFrame,
    pair: RefCell<Option<Pair>>,
    /// Bytes of the whole request that have not come yet.
    missing: Cell<usize>,
    /// Whether the worker has heard of the turn: it does when all of its request is in the pair.
    handed_over: Cell<bool>,
    /// What has come from the client and has no room in the pair.
    inbox: RefCell<Vec<u8>>,
    /// Bytes that have gone into the pair since room was last given back.
    owed: Cell<usize>,
    /// Bytes of an answer that may still be sent.
    room: Cell<usize>,
    /// Whether nothing more will come from the client behind the inbox.
    ended: Cell<bool>,
    /// Whether the pair has been shut down in some direction, and is of no use to another turn.
    worn: Cell<bool>,
    /// Whether the door has been told what the worker noted of its answer.
    noted: Cell<bool>,
    /// Bytes of the answer that have been sent.
    passed: Cell<u64>,
    /// Whether the worker has ended its answer and the connection with it.
    answered: Cell<bool>,
    /// The worker's last word on it, which waits until its answer is out.
    done: RefCell<Option<LastWord>>,
    /// Rung when there is room again, or something else that its flow waits for.
    pub(super) changed: Notify,
    flow: Cell<Option<AbortHandle>>,
}

/// What a worker says of a turn in the end.
struct LastWord {
    frame: Vec<u8>,
    after: After,
}

impl Turn {
    pub(super) fn new(frame: TurnFrame, pair: Pair, window: usize) -> Rc<Self> {
        Rc::new(Self {
            frame,
            pair: RefCell::new(Some(pair)),
            missing: Cell::new(frame.whole as usize),
            handed_over: Cell::new(false),
            inbox: RefCell::default(),
            owed: Cell::new(0),
            room: Cell::new(window),
            ended: Cell::new(false),
            worn: Cell::new(false),
            noted: Cell::new(false),
            passed: Cell::new(0),
            answered: Cell::new(false),
            done: RefCell::default(),
            changed: Notify::new(),
            flow: Cell::new(None),
        })
    }

    /// Starts what has to be started for it; `None`: the link is over.
    pub(super) fn begin(self: &Rc<Self>, shared: &Rc<Shared>) -> Option<()> {
        let flow = flow(Rc::clone(shared), Rc::clone(self));
        self.flow.set(Some(tokio::task::spawn_local(flow).abort_handle()));
        if self.missing.get() == 0 { self.announce(shared, self.frame) } else { Some(()) }
    }

    /// Has the worker hear of it, behind all that it is to hear before.
    fn announce(self: &Rc<Self>, shared: &Shared, frame: TurnFrame) -> Option<()> {
        self.handed_over.set(true);
        shared.tell_worker(ForWorker::Turn(Rc::clone(self), frame));
        Some(())
    }

    /// Gives the worker its end of the pair.
    pub(super) fn hand_over(&self, link: BorrowedFd<'_>, frame: TurnFrame) -> io::Result<Sent> {
        let mut bytes = Vec::with_capacity(64);
        ToWorker::Turn(frame).encode(&mut bytes);
        let mut pair = self.pair.borrow_mut();
        let Some(Pair { theirs: Some(theirs), .. }) = &*pair else { return Ok(Sent::Whole) };
        let sent = link::send_with(link, &bytes, theirs.as_fd())?;
        if sent == Sent::Whole
            && let Some(pair) = &mut *pair
        {
            pair.has_gone();
        }
        Ok(sent)
    }

    /// Takes what has come from the client; `None`: the link is over.
    pub(super) fn feed(self: &Rc<Self>, shared: &Shared, bytes: &[u8]) -> Option<()> {
        if self.inbox.borrow().len() + bytes.len() > shared.end.window() {
            return None;
        }
        let taken = if self.inbox.borrow().is_empty() { self.put(shared, bytes) } else { 0 };
        self.inbox.borrow_mut().extend(&bytes[taken..]);
        self.missing.set(self.missing.get().saturating_sub(bytes.len()));
        if !self.inbox.borrow().is_empty() {
            // Somebody has to watch for room from here on.
            self.changed.notify_one();
        }
        match (self.handed_over.get(), self.inbox.borrow().is_empty()) {
            (true, _) => Some(()),
            (false, true) if self.missing.get() > 0 => Some(()),
            (false, true) => self.announce(shared, self.frame),
            // More than the kernel has room for: the worker reads it as it comes.
            (false, false) => self.announce(shared, TurnFrame { whole: 0, ..self.frame }),
        }
    }

    /// Puts into the pair what goes in; how many bytes. What its worker does not want to read is let go.
    fn put(&self, shared: &Shared, bytes: &[u8]) -> usize {
        let mut taken = 0;
        let pair = self.pair.borrow();
        let Some(pair) = pair.as_ref() else { return bytes.len() };
        while taken < bytes.len() {
            match send(pair.ours.get_ref(), &bytes[taken..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => taken += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => taken = bytes.len(),
            }
        }
        self.owed.set(self.owed.get() + taken);
        if self.owed.get() >= shared.end.window() / 4 {
            let bytes = u32::try_from(self.owed.take()).unwrap_or(u32::MAX);
            shared.end.post_at_any_rate(&Frame::Room { turn: self.frame.turn, bytes });
        }
        taken
    }

    /// Nothing more will come from the client.
    pub(super) fn end(&self) {
        self.ended.set(true);
        if self.inbox.borrow().is_empty() {
            self.shut(Shutdown::Write);
        }
    }

    /// The client is gone.
    pub(super) fn cut(&self) {
        self.inbox.borrow_mut().clear();
        // Nobody is there to take more of it.
        self.answered.set(true);
        self.changed.notify_one();
        self.shut(Shutdown::Both);
    }

    fn shut(&self, how: Shutdown) {
        self.worn.set(true);
        if let Some(pair) = &*self.pair.borrow() {
            let _ = shutdown(pair.ours.get_ref(), how);
        }
    }

    pub(super) fn make_room(&self, shared: &Shared, bytes: u32) {
        self.room.set(self.room.get().saturating_add(bytes as usize).min(shared.end.window()));
        self.changed.notify_one();
    }

    /// The worker is done: `last_word` goes out behind its answer.
    pub(super) fn finish(self: &Rc<Self>, shared: &Shared, last_word: &[u8], after: After) {
        self.done.replace(Some(LastWord { frame: last_word.to_vec(), after }));
        self.pass_answer_on(shared);
        self.changed.notify_one();
    }

    /// Sends as much of the answer as there is room for, and the last word if that was all of it.
    fn pass_answer_on(&self, shared: &Shared) {
        let mut piece = shared.scratch.borrow_mut();
        while !self.is_whole()
            && let Some(there) = self.take_answer(shared, &mut piece[..])
        {
            self.note(shared);
            let data = Frame::Data { turn: self.frame.turn, bytes: &piece[..there] };
            shared.end.post_at_any_rate(&data);
            self.passed.set(self.passed.get() + there as u64);
            // That was all of it for now; what comes later is heard of.
            if there < piece.len() && !self.is_done() {
                break;
            }
        }
        let may_wait_for_room = self.room.get() == 0 || shared.end.is_clogged();
        if may_wait_for_room && !self.answered.get() && !self.is_whole() {
            return;
        }
        if let Some(last_word) = self.done.take() {
            shared.end.post_at_any_rate(&Frame::Link(&last_word.frame));
            self.leave(shared);
        }
    }

    /// Whether as much has been sent as the worker says that it has written, so that nobody has to look whether there is
    /// more. An answer behind which the connection is closed has an end, too, and that is heard of by looking.
    fn is_whole(&self) -> bool {
        let done = self.done.borrow();
        matches!(&*done, Some(LastWord { after: After::Keep { written }, .. }) if *written == self.passed.get())
    }

    /// The next bytes of the answer; `None`: there are none now, or there is no room for any.
    fn take_answer(&self, shared: &Shared, piece: &mut [u8]) -> Option<usize> {
        let room = self.room.get().min(piece.len());
        if room == 0 || shared.end.is_clogged() || self.answered.get() {
            return None;
        }
        let pair = self.pair.borrow();
        let ours = pair.as_ref()?.ours.get_ref().as_fd();
        match receive(ours, &mut piece[..room]) {
            Ok(0) if pair.as_ref()?.is_closed() => {
                // The worker has closed its end: its last word is on its way, and says what becomes of the connection.
                self.answered.set(true);
                self.worn.set(true);
                None
            }
            Ok(0) => {
                self.answered.set(true);
                self.worn.set(true);
                shared.end.post_at_any_rate(&Frame::End { turn: self.frame.turn, cut_off: false });
                None
            }
            Ok(there) => {
                self.room.set(self.room.get() - there);
                Some(there)
            }
            Err(Errno::AGAIN) => None,
            Err(_) => {
                self.answered.set(true);
                None
            }
        }
    }

    /// Tells the door what the worker has noted of this answer, once, in front of its bytes.
    fn note(&self, shared: &Shared) {
        if self.noted.get() {
            return;
        }
        let board = shared.board.borrow();
        if let Some(note) = board.as_ref().and_then(|board| board.of_turn(self.frame.turn, shared.credit)) {
            self.noted.set(true);
            shared.end.post_at_any_rate(&Frame::Note(note));
        }
    }

    /// Whether the worker is done with it, and only its answer has to be passed on.
    pub(super) fn is_done(&self) -> bool {
        self.done.borrow().is_some()
    }

    /// It is over.
    fn leave(&self, shared: &Shared) {
        shared.turns.borrow_mut().remove(&self.frame.turn);
        shared.a_turn_left.notify_waiters();
        if let Some(flow) = self.flow.take() {
            flow.abort();
        }
        let is_as_it_was = !self.worn.get() && self.inbox.borrow().is_empty();
        if let Some(pair) = self.pair.take().filter(|_| is_as_it_was) {
            shared.pairs.put_back(pair);
        }
    }
}

fn receive(from: BorrowedFd<'_>, into: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match recv(from, &mut *into, RecvFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            received => return received.map(|(_, received)| received),
        }
    }
}

/// Sees to a turn whenever its pair can be read or written, or something has changed.
async fn flow(shared: Rc<Shared>, turn: Rc<Turn>) {
    let mut room = None;
    loop {
        let wants_to_read = turn.room.get() > 0 && !shared.end.is_clogged() && !turn.answered.get();
        let wants_to_write = !turn.inbox.borrow().is_empty();
        if wants_to_write && room.is_none() {
            // Where there is no descriptor for it, it is tried again at the next sign of life.
            room = turn.pair.borrow().as_ref().and_then(|pair| pair.watch_for_room().ok());
        }
        let ready = std::future::poll_fn(|context| {
            let pair = turn.pair.borrow();
            let Some(pair) = pair.as_ref() else { return Poll::Pending };
            if wants_to_read && let Poll::Ready(ready) = pair.ours.poll_read_ready(context) {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
                return Poll::Ready(());
            }
            if wants_to_write
                && let Some(room) = &room
                && let Poll::Ready(ready) = room.poll_write_ready(context)
            {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
                return Poll::Ready(());
            }
            Poll::Pending
        });
        tokio::select! {
            () = ready => {}
            () = turn.changed.notified() => {}
        }
        turn.pass_answer_on(&shared);
        if !turn.inbox.borrow().is_empty() {
            let mut inbox = turn.inbox.take();
            let taken = turn.put(&shared, &inbox);
            inbox.drain(..taken);
            turn.inbox.replace(inbox);
            if turn.inbox.borrow().is_empty() && turn.ended.get() {
                turn.shut(Shutdown::Write);
            }
        }
    }
}
