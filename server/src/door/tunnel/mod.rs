//! The door's end of a tunnel: the hands of a worker that is somewhere else.
//!
//! What a worker on an fd link does with its client's socket is done here on its behalf: the request is peeked and sent,
//! consumed when the first byte of the answer has come, and the answer is written as it comes. So the door's own
//! knowledge of a turn (what is unread, what was written) is the same on both links, and so is every decision.
//!
//! Nothing here waits for a client in the way of the others: an answer that its client does not take is kept, a window at
//! the most, and a task of its own ([`flow`]) writes it when there is room.

mod flow;
mod mouth;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::client::Client;
use super::links::LinkEnd;
use super::pool::{Heard, Pool};
use super::roster::Seat;
use super::workers::hear;
use crate::config::TurnUnit;
use crate::control::Retirement;
use crate::link::tunnel::{End, Frame, MOST_DATA, Pace, Stream};
use crate::link::{After, FromWorker, Note, Sent, ToWorker, TurnFrame};

pub(in crate::door) use mouth::Mouth;
pub use mouth::{MouthError, TunnelMouth};

/// The door's end of one worker's tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) pool: Rc<Pool>,
    end: End,
    turns: RefCell<HashMap<u64, Rc<Turn>>>,
    severed: Notify,
    seat: Cell<Option<Seat>>,
    /// Whether something has found no room since there was some last.
    is_full: Cell<bool>,
    /// Whether nothing has been heard of the worker for so long that it gets no turns.
    is_silent: Cell<bool>,
}

/// A turn that its worker holds.
struct Turn {
    number: u64,
    client: Rc<Client>,
    /// Bytes of the request that wait, peeked and sent, to be consumed when it is answered.
    unconsumed: Cell<usize>,
    /// Bytes that may still be sent to the worker.
    room: Cell<usize>,
    /// Bytes of the answer that the client has not taken.
    backlog: RefCell<Vec<u8>>,
    /// Bytes of the answer that have been written to the client.
    written: Cell<u64>,
    /// Bytes that the client has taken since room was last given back.
    owed: Cell<usize>,
    /// Whether nothing can be written to the client any more.
    gone: Cell<bool>,
    /// Whether the answer ends behind the backlog.
    ends: Cell<bool>,
    /// How the worker has left it, while the backlog is still being written.
    done: Cell<Option<After>>,
    note: Cell<Option<Note>>,
    /// Rung when there is room again, or something else has changed that its flows wait for.
    changed: Notify,
    /// Whether its link has ended behind the worker's last word on it.
    on_its_own: Cell<bool>,
    reading: Cell<Option<AbortHandle>>,
    writing: Cell<Option<AbortHandle>>,
    /// Whether what the client sends is, or has been, passed on as it comes.
    is_read: Cell<bool>,
}

impl Tunnel {
    pub(super) fn new(pool: Rc<Pool>, pace: Pace) -> Rc<Self> {
        Rc::new(Self {
            pool,
            end: End::new(pace),
            turns: RefCell::default(),
            severed: Notify::new(),
            seat: Cell::new(None),
            is_full: Cell::new(false),
            is_silent: Cell::new(false),
        })
    }

    /// Sends a frame of the link.
    pub(super) fn say(&self, frame: &[u8]) -> Sent {
        self.post(&Frame::Link(frame))
    }

    /// Has the worker go to another door. It is at the end of the link: it holds nothing.
    pub(super) fn send_to(&self, door: &str) -> Sent {
        self.post(&Frame::Move { to: door })
    }

    /// Ends the worker's process. The end of the link tells when it has.
    pub(super) fn kill(&self) {
        self.end.post_at_any_rate(&Frame::Die);
    }

    fn post(&self, frame: &Frame<'_>) -> Sent {
        let sent = self.end.post(frame);
        if sent == Sent::Full {
            self.is_full.set(true);
        }
        sent
    }

    pub(super) fn sever(&self) {
        self.severed.notify_one();
    }

    pub(super) fn note_of(&self, turn: u64) -> Option<Note> {
        self.turns.borrow().get(&turn)?.note.get()
    }

    /// Hands a turn over: the frame, and all of the request behind it where all of it is there.
    pub(super) fn give(self: &Rc<Self>, frame: TurnFrame, client: &Rc<Client>) -> Sent {
        let mut bytes = Vec::with_capacity(64);
        ToWorker::Turn(frame).encode(&mut bytes);
        let mut scratch = self.pool.scratch.borrow_mut();
        let whole = (frame.whole as usize).min(scratch.len());
        let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let there = match whole {
            0 => 0,
            // A client that has gone is found gone by whoever answers it.
            _ => recv(client.fd(), &mut scratch[..whole], peek).map_or(0, |(_, there)| there),
        };
        let sent = self.say(&bytes);
        if sent != Sent::Whole {
            return sent;
        }
        for bytes in scratch[..there].chunks(MOST_DATA) {
            self.end.post_at_any_rate(&Frame::Data { turn: frame.turn, bytes });
        }
        let turn = Rc::new(Turn {
            number: frame.turn,
            client: Rc::clone(client),
            unconsumed: Cell::new(there),
            room: Cell::new(self.end.window().saturating_sub(there)),
            backlog: RefCell::default(),
            written: Cell::new(0),
            owed: Cell::new(0),
            gone: Cell::new(false),
            ends: Cell::new(false),
            done: Cell::new(None),
            note: Cell::new(None),
            changed: Notify::new(),
            on_its_own: Cell::new(false),
            reading: Cell::new(None),
            writing: Cell::new(None),
            is_read: Cell::new(false),
        });
        if whole == 0 && !frame.acknowledge {
            self.begin_to_read(&turn);
        }
        self.turns.borrow_mut().insert(frame.turn, turn);
        Sent::Whole
    }

    /// From here on what the client sends is taken from its socket and passed on.
    fn begin_to_read(self: &Rc<Self>, turn: &Rc<Turn>) {
        let reading = flow::from_client(Rc::clone(self), Rc::clone(turn));
        turn.is_read.set(true);
        turn.reading.set(Some(tokio::task::spawn_local(reading).abort_handle()));
    }

    /// Serves the tunnel until it ends.
    pub(super) async fn serve(self: &Rc<Self>, stream: Stream, already: Vec<u8>, seat: Seat) -> LinkEnd {
        self.seat.set(Some(seat));
        let (from, to) = tokio::io::split(stream);
        let end = tokio::select! {
            end = self.listen(from, already, seat) => end,
            () = self.end.speak(to, || self.has_room()) => LinkEnd::Dead,
            silent = self.end.keep_watch(1, || self.doubt(seat)) => LinkEnd::Vanished(format!("no sign of life for {silent:.1?}")),
            () = self.severed.notified() => LinkEnd::Dead,
        };
        self.end.give_up();
        end
    }

    /// It may be lost, with all that is on its machine: until it is heard of, nobody else's turn goes there.
    fn doubt(&self, seat: Seat) {
        self.is_silent.set(true);
        self.pool.doubt(seat);
    }

    fn has_heard(&self, seat: Seat) {
        self.end.has_heard();
        if self.is_silent.take() {
            self.pool.is_heard_of(seat);
        }
    }

    /// For whoever waits because too much was on its way.
    fn has_room(&self) {
        self.turns.borrow().values().for_each(|turn| turn.changed.notify_waiters());
        if self.is_full.take()
            && let Some(seat) = self.seat.get()
        {
            self.pool.has_room(seat);
        }
    }

    /// Lets a turn end by itself that the worker is done with, and whose client has not taken all of the answer yet. Whether
    /// it is one.
    pub(super) fn let_go(&self, turn: u64) -> bool {
        let mut turns = self.turns.borrow_mut();
        let is_done = turns.get(&turn).is_some_and(|turn| turn.done.get().is_some());
        if is_done && let Some(turn) = turns.remove(&turn) {
            turn.on_its_own.set(true);
            if let Some(reading) = turn.reading.take() {
                reading.abort();
            }
        }
        is_done
    }

    /// Forgets its turns: what becomes of them is decided elsewhere by now.
    pub(super) fn forget(&self) {
        for (_, turn) in self.turns.borrow_mut().drain() {
            turn.stop();
        }
    }

    async fn listen(
        self: &Rc<Self>,
        mut from: impl AsyncRead + Unpin,
        mut read: Vec<u8>,
        seat: Seat,
    ) -> LinkEnd {
        loop {
            let mut at = 0;
            loop {
                match Frame::decode(&read[at..]) {
                    Ok(Some((frame, length))) => {
                        at += length;
                        match self.hear(frame, seat) {
                            Heard::Fine => {}
                            Heard::Late => self.pool.dismiss(seat, Retirement::Told),
                            Heard::Breach(detail) => self.pool.breach(seat, &detail),
                        }
                        // However much it says, the others have their turn.
                        tokio::task::consume_budget().await;
                    }
                    Ok(None) => break,
                    // Where the next frame begins nobody knows.
                    Err(breach) => {
                        self.pool.breach(seat, &breach.to_string());
                        return LinkEnd::Vanished(breach.to_string());
                    }
                }
            }
            read.drain(..at);
            match from.read_buf(&mut read).await {
                Ok(0) => return self.ended(),
                // A peer that dies says no goodbye in TLS; its kernel has still said that there is nobody any more.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return self.ended(),
                Err(error) => return LinkEnd::Vanished(format!("its tunnel has failed: {error}")),
                Ok(_) => self.has_heard(seat),
            }
        }
    }

    /// There is nothing more to read. Whoever writes may have been told before that the connection has failed, and the
    /// kernel says that once.
    fn ended(&self) -> LinkEnd {
        match self.end.failure() {
            Some(why) => LinkEnd::Vanished(format!("its tunnel has failed: {why}")),
            None => LinkEnd::Dead,
        }
    }

    fn hear(self: &Rc<Self>, frame: Frame<'_>, seat: Seat) -> Heard {
        match frame {
            Frame::Link(frame) => match FromWorker::decode(frame) {
                Ok(FromWorker::Done { turn, after }) => self.done(seat, turn, after),
                Ok(FromWorker::Acknowledge { turn }) => {
                    let found = self.turns.borrow().get(&turn).cloned();
                    if let Some(turn) = found.filter(|turn| turn.is_unread()) {
                        self.begin_to_read(&turn);
                    }
                    self.pool.acknowledged(seat, turn)
                }
                Ok(frame) => hear(&self.pool, seat, frame),
                Err(breach) => Heard::Breach(breach.to_string()),
            },
            Frame::Data { turn, bytes } => self.answer(turn, bytes),
            Frame::End { turn, .. } => {
                if let Some(turn) = self.turn(turn) {
                    turn.end();
                }
                Heard::Fine
            }
            Frame::Room { turn, bytes } => {
                if let Some(turn) = self.turn(turn) {
                    let window = self.end.window();
                    turn.room.set(turn.room.get().saturating_add(bytes as usize).min(window));
                    turn.changed.notify_waiters();
                }
                Heard::Fine
            }
            Frame::Note(note) => {
                if let Some(turn) = self.turn(note.turn) {
                    turn.note.set(Some(note));
                }
                Heard::Fine
            }
            Frame::Beat => Heard::Fine,
            Frame::Gone { .. } | Frame::Move { .. } | Frame::Pace(_) | Frame::Die => {
                Heard::Breach("it said what only a door says".to_owned())
            }
        }
    }

    /// A turn that is under way. One that is over may still be talked about.
    fn turn(&self, number: u64) -> Option<Rc<Turn>> {
        self.turns.borrow().get(&number).cloned()
    }

    /// Passes on what a worker answers.
    fn answer(self: &Rc<Self>, number: u64, bytes: &[u8]) -> Heard {
        let Some(turn) = self.turn(number) else { return Heard::Fine };
        let kept = turn.backlog.borrow().len() + turn.owed.get();
        if kept + bytes.len() > self.end.window() {
            return Heard::Breach(format!("it sent more of turn {number} than there was room for"));
        }
        if turn.gone.get() {
            return Heard::Fine;
        }
        if turn.consume() && self.pool.config.turn == TurnUnit::Connection {
            self.begin_to_read(&turn);
        }
        let waits = !turn.backlog.borrow().is_empty();
        let taken = if waits { 0 } else { self.write(&turn, bytes) };
        if taken < bytes.len() && !turn.gone.get() {
            turn.backlog.borrow_mut().extend(&bytes[taken..]);
            if !waits {
                let writing = flow::to_client(Rc::clone(self), Rc::clone(&turn));
                turn.writing.set(Some(tokio::task::spawn_local(writing).abort_handle()));
            }
        }
        Heard::Fine
    }

    /// Writes what the client takes at once, and gives the worker room for as much; how many bytes.
    fn write(&self, turn: &Turn, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            match send(turn.client.fd(), &bytes[taken..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => taken += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.give_up(turn);
                    break;
                }
            }
        }
        turn.written.set(turn.written.get() + taken as u64);
        turn.owed.set(turn.owed.get() + taken);
        // Not for every few bytes: most answers are over before the worker needs room again.
        if turn.owed.get() >= self.end.window() / 4 {
            let bytes = u32::try_from(turn.owed.take()).unwrap_or(u32::MAX);
            self.end.post_at_any_rate(&Frame::Room { turn: turn.number, bytes });
        }
        taken
    }

    /// The client is gone: nothing more is written, and the worker is told.
    fn give_up(&self, turn: &Turn) {
        if !turn.gone.replace(true) {
            turn.backlog.borrow_mut().clear();
            self.end.post_at_any_rate(&Frame::Gone { turn: turn.number });
        }
    }

    fn done(&self, seat: Seat, number: u64, after: After) -> Heard {
        match self.turn(number) {
            Some(turn) if !turn.backlog.borrow().is_empty() => {
                turn.done.set(Some(after));
                turn.changed.notify_waiters();
                Heard::Fine
            }
            _ => self.finish(seat, number, after),
        }
    }

    /// The turn is over, and all of its answer is with the client's kernel.
    fn finish(&self, seat: Seat, number: u64, after: After) -> Heard {
        let found = self.turns.borrow_mut().remove(&number);
        let Some(turn) = found else { return self.pool.done(seat, number, after) };
        turn.stop();
        self.pool.done(seat, number, turn.left_as(after))
    }
}

impl Turn {
    /// Whether nothing of what the client has sent has been passed on.
    fn is_unread(&self) -> bool {
        self.client.request.borrow().whole == 0 && !self.is_read.get()
    }

    /// Takes the request that is being answered out of its socket; `false`: that has been done, or there was none.
    fn consume(&self) -> bool {
        let mut left = self.unconsumed.take();
        let is_first = left > 0;
        let mut waste = [0; 16 * 1024];
        while left > 0 {
            let room = waste.len().min(left);
            match recv(self.client.fd(), &mut waste[..room], RecvFlags::DONTWAIT) {
                Ok((_, read @ 1..)) => left -= read,
                Ok(_) | Err(_) => break,
            }
        }
        is_first
    }

    /// The worker says that its answer ends here.
    fn end(&self) {
        if self.backlog.borrow().is_empty() {
            let _ = shutdown(self.client.fd(), Shutdown::Write);
        } else {
            self.ends.set(true);
        }
    }

    /// How the worker has left it, with the number of bytes that there really are: who wrote them knows.
    fn left_as(&self, after: After) -> After {
        let written = self.written.get();
        match after {
            // Who has not got all of an answer gets no other.
            After::Keep { .. } | After::Close { .. } if self.gone.get() => After::Cut { written },
            After::Keep { .. } => After::Keep { written },
            After::Close { .. } => After::Close { written },
            After::Cut { .. } => After::Cut { written },
        }
    }

    fn stop(&self) {
        [self.reading.take(), self.writing.take()].iter().flatten().for_each(AbortHandle::abort);
    }
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn")
            .field("number", &self.number)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
