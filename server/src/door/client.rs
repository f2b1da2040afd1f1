//! One client's connection, as the door holds it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, Shutdown, send, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::http::chunked::Decoder;
use crate::http::has_begun;
use crate::http::problem::AnswerBody;
use crate::identity::Incarnation;
use crate::link::{After, Note};
use crate::sys;

/// A client's connection. Its task, its pool's queue and the link of the worker that holds it share it; the
/// socket is closed when the last of them lets go.
pub(super) struct Client {
    /// A blocking socket: its status flags are shared with the worker's duplicate. Every call on it here says
    /// `MSG_DONTWAIT`.
    socket: AsyncFd<OwnedFd>,
    pub(super) peer: SocketAddr,
    /// When it was accepted.
    pub(super) came: Instant,
    /// The request that is being served, or the last one.
    pub(super) request: RefCell<Request>,
    pub(super) whereabouts: Cell<Whereabouts>,
    /// Bytes of the requests that have been served on this connection; `None` once one of them was not seen whole.
    consumed: Cell<Option<u64>>,
    /// Bytes that have been written to it, as far as [`sys::progress`] counts them; `None` where only the kernel knows.
    written: Cell<Option<u64>>,
    end: Cell<Option<TurnEnd>>,
    waiting: Cell<Option<Waker>>,
}

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// With its own task: it has asked for nothing yet, or is sending its first request.
    New,
    /// With its own task, between two requests: idle, or sending the next one.
    Parked,
    /// In the pool's queue.
    Queued,
    /// With a worker.
    Held,
    /// Being closed.
    Leaving,
}

/// What the door knows of a request.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// Method and target, shortened: for people.
    pub line: String,
    /// Bytes in the socket, body included; 0 when not all of it is there.
    pub whole: u32,
    /// Bytes of it in all, where it says so and they are too many to wait for.
    pub announced: Option<u64>,
    /// Its method is idempotent.
    pub idempotent: bool,
    /// It carries an `Idempotency-Key`.
    pub keyed: bool,
    /// Whether an answer to it has a body.
    pub answer_body: AnswerBody,
    /// Its client speaks HTTP/1.0.
    pub http_1_0: bool,
    /// The door has sent `100 Continue`.
    pub continued: bool,
    /// How far into a chunked body the door has looked.
    pub chunks: Option<Chunks>,
    /// Its client wants the connection kept open.
    pub keep_alive: bool,
    /// Times that it was given to a worker.
    pub deliveries: u32,
    /// When it was first given to one.
    pub first_given: Option<Instant>,
    /// What had been written to the socket when it was given last.
    pub written_before: u64,
    /// The delivery that failed, until the next one succeeds or is given up.
    pub failed: Option<FailedDelivery>,
}

/// What has been seen of a chunked body: the bytes are peeked again, and not decoded again.
#[derive(Debug)]
pub(super) struct Chunks {
    pub decoder: Decoder,
    /// Bytes from the beginning of the request.
    pub at: usize,
    /// Bytes of data in them.
    pub data: u64,
}

/// A delivery whose worker died.
#[derive(Debug, Clone)]
pub(super) struct FailedDelivery {
    pub worker: Incarnation,
    pub turn: u64,
    pub given: Instant,
}

/// How a turn ended.
#[derive(Debug)]
pub(super) enum TurnEnd {
    /// The worker is done.
    Done(After),
    /// The worker has died.
    Lost(Loss),
    /// The client was gone before a worker was found.
    ClientGone,
}

/// What a client may keep its worker waiting with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stall {
    /// Nothing: all of its request is there, and not a byte of an answer.
    Neither,
    /// It has not sent all of its request, for all that is known, and so many bytes since it came.
    MaySend { received: u64 },
    /// An answer has begun, and it may not have taken all of it.
    MayTake,
}

/// A turn whose worker died.
#[derive(Debug)]
pub(super) struct Loss {
    pub delivery: FailedDelivery,
    /// The worker was asked to acknowledge, and had not.
    pub untouched: bool,
    /// Nobody knows that the worker is dead: it may be at work on the turn still.
    pub may_still_run: bool,
    pub overran: bool,
    /// What the worker had announced of its answer.
    pub note: Option<Note>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("peer", &self.peer).field("whereabouts", &self.whereabouts).finish()
    }
}

impl Client {
    pub(super) fn new(socket: OwnedFd, peer: SocketAddr) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            // For being written to as well: for workers beyond a tunnel the door does it.
            socket: sys::watch(socket, Interest::READABLE | Interest::WRITABLE)?,
            peer,
            came: Instant::now(),
            request: RefCell::default(),
            whereabouts: Cell::new(Whereabouts::New),
            consumed: Cell::new(Some(0)),
            written: Cell::new(None),
            end: Cell::new(None),
            waiting: Cell::new(None),
        }))
    }

    pub(super) fn socket(&self) -> &AsyncFd<OwnedFd> {
        &self.socket
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }

    /// Ends the turn, from wherever the news came.
    pub(super) fn end_turn(&self, end: TurnEnd) {
        self.whereabouts.set(Whereabouts::Parked);
        self.end.set(Some(end));
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// Waits until the turn has ended.
    pub(super) async fn turn_end(&self) -> TurnEnd {
        poll_fn(|context| match self.end.take() {
            Some(end) => Poll::Ready(end),
            None => {
                self.waiting.set(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }

    /// Notes that the request has been served, and so consumed, and how many bytes its answer had.
    pub(super) fn count_served(&self, written: u64) {
        self.written.set(self.request.borrow().written_before.checked_add(written));
        self.count_consumed();
    }

    /// What has been written to it so far, when that is known and it was heard of a moment ago. Else the kernel is
    /// asked, and `None` says that the client has gone.
    pub(super) fn written_so_far(&self, silent_for: Duration) -> Option<u64> {
        /// Asking for each turn would be the door's dearest system call.
        const LONG_AGO: Duration = Duration::from_millis(20);
        if let Some(written) = self.written.get().filter(|_| silent_for < LONG_AGO) {
            return Some(written);
        }
        let progress = sys::progress(self.fd()).ok().filter(|progress| !progress.gone)?;
        self.written.set(Some(progress.written));
        Some(progress.written)
    }

    fn count_consumed(&self) {
        let whole = u64::from(self.request.borrow().whole);
        self.consumed.set(self.consumed.get().filter(|_| whole > 0).map(|before| before + whole));
    }

    /// Makes sure that the request, which has been answered, is consumed: takes it, if the worker died before it had.
    /// False when nobody can know, or when some of it is gone and some is not. `consumed`: bytes that anybody has read from
    /// the connection.
    pub(super) fn consume(&self, consumed: u64) -> bool {
        let (whole, Some(before)) = (u64::from(self.request.borrow().whole), self.consumed.get()) else {
            return false;
        };
        if whole == 0 || (consumed != before && consumed != before + whole) {
            return false;
        }
        let mut left = if consumed == before { whole } else { 0 };
        let mut waste = [0; 4096];
        while left > 0 {
            let room = waste.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match rustix::net::recv(self.fd(), &mut waste[..room], RecvFlags::DONTWAIT) {
                Ok((_, read @ 1..)) => left -= read as u64,
                Ok(_) | Err(_) => return false,
            }
        }
        self.written.set(None);
        self.count_consumed();
        true
    }

    /// Writes what is short, or gives up: whoever does not take so little is not listening.
    pub(super) fn tell(&self, bytes: &[u8]) {
        self.written.set(None);
        let _ = send(self.fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Ends the client's half for everybody who has a duplicate of the connection: behind what has come there is the end.
    /// An answer can still be written.
    pub(super) fn stop_listening(&self) {
        let _ = shutdown(self.fd(), Shutdown::Read);
    }

    /// Ends the connection under the worker that holds it, which sees that and is done with the turn. If an answer has
    /// begun, it ends there.
    pub(super) fn hang_up(&self) {
        let cut = |progress: sys::Progress| progress.written != self.request.borrow().written_before;
        // An HTTP/1.0 client takes the end of the connection for the end of the answer.
        if self.request.borrow().http_1_0 && sys::progress(self.fd()).is_ok_and(cut) {
            self.reset();
        } else {
            self.shut_down();
        }
    }

    /// Ends the connection for everybody who has a duplicate of it.
    pub(super) fn shut_down(&self) {
        let _ = shutdown(self.fd(), Shutdown::Both);
    }

    /// Ends the connection with a reset, so that the client cannot take what it got for a whole answer.
    pub(super) fn reset(&self) {
        // Some kernels do not, while a worker waits in a call on it.
        if rustix::net::connect_unspec(self.fd()).is_err() {
            self.shut_down();
        }
    }

    /// Whether bytes have come that nobody has read: closing the socket now would reset the connection, and take
    /// with it what is still on its way to the client.
    pub(super) fn has_unread(&self) -> bool {
        rustix::io::ioctl_fionread(self.fd()).is_ok_and(|unread| unread > 0)
    }

    /// Bytes that have come from it, when all of them have been read.
    pub(super) fn received_and_read(&self) -> Option<u64> {
        let (progress, consumed) = sys::progress_and_consumed(self.fd()).ok()?;
        (progress.received == consumed).then_some(progress.received)
    }

    /// Whether it has begun to send a request, which a few empty lines are not.
    pub(super) fn is_sending(&self) -> bool {
        let mut first = [0; 64];
        let there = match rustix::net::recv(self.fd(), &mut first[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)
        {
            Ok((_, there)) => there,
            Err(_) => 0,
        };
        has_begun(&first[..there])
    }

    /// What this client may keep its worker waiting with.
    pub(super) fn stall(&self) -> Stall {
        let Ok(progress) = crate::sys::progress(self.fd()) else { return Stall::MayTake };
        let request = self.request.borrow();
        if progress.written != request.written_before {
            return Stall::MayTake;
        }
        let arrived = self.consumed.get().map(|before| progress.received.saturating_sub(before));
        // Only its worker knows where a chunked body ends that was not waited for, or what a raw client is up to.
        let all_there = request.announced.zip(arrived).is_some_and(|(all, arrived)| arrived >= all);
        if request.whole == 0 && !all_there {
            return Stall::MaySend { received: progress.received };
        }
        Stall::Neither
    }

    /// Whether nothing of the request has been read since it was given away. `consumed`: bytes that anybody has read from
    /// the connection. `None`: nobody can know.
    pub(super) fn is_unconsumed(&self, consumed: u64) -> Option<bool> {
        Some(consumed == self.consumed.get()?)
    }

    /// Ends our half and drops what still comes, for a short while: closing a socket with unread bytes in it would
    /// reset the connection, and the client might lose the answer that it has just been sent.
    pub(super) async fn linger(&self, at_most: Duration) {
        const MOST_BYTES: usize = 1 << 20;
        self.whereabouts.set(Whereabouts::Leaving);
        if shutdown(self.fd(), Shutdown::Write).is_err() {
            return;
        }
        let drop_the_rest = async {
            let mut dropped = 0;
            while dropped < MOST_BYTES {
                let Ok(mut ready) = self.socket.readable().await else { return };
                let read = ready.try_io(|socket| {
                    let mut waste = [0; 2048];
                    let (read, _) = rustix::net::recv(socket, &mut waste[..], RecvFlags::DONTWAIT)?;
                    Ok(read)
                });
                match read {
                    Ok(Ok(0) | Err(_)) => return,
                    Ok(Ok(read)) => dropped += read,
                    Err(_would_block) => {}
                }
            }
        };
        let _ = tokio::time::timeout(at_most, drop_the_rest).await;
    }
}

impl Drop for Client {
    /// A worker may have set `SO_LINGER` on what it shares with us, and closing would keep the whole door waiting.
    fn drop(&mut self) {
        let _ = rustix::net::sockopt::set_socket_linger(self.fd(), None);
    }
}

impl Request {
    /// The longest line that is kept, in bytes.
    const LONGEST_LINE: usize = 160;

    /// Sets the line from method and target, without a new allocation where the old one is large enough.
    pub(super) fn name(&mut self, method: &str, target: &str) {
        self.line.clear();
        for part in [method, " ", target] {
            let room = Self::LONGEST_LINE.saturating_sub(self.line.len());
            if part.len() > room {
                // httparse lets only visible ASCII and, in targets, bytes above it through.
                let end = (0..=room).rev().find(|&at| part.is_char_boundary(at)).unwrap_or(0);
                self.line.push_str(&part[..end]);
                self.line.push('…');
                return;
            }
            self.line.push_str(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn what_was_there_before_is_dropped_while_lingering() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut peer = TcpStream::connect(listener.local_addr()?)?;
        let (socket, address) = listener.accept()?;
        let client = Client::new(socket.into(), address)?;
        peer.write_all(b"a part of a request")?;
        client.socket().readable().await?.clear_ready();
        // The peer stays silent and does not close.
        client.linger(Duration::from_millis(50)).await;
        assert!(!client.has_unread(), "closing it now would reset the connection");
        Ok(())
    }
}
