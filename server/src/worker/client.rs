//! A client as a worker sees it: something to peek into, read from and write to, blocking.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_timeout};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send};

use crate::link::After;

/// A client that this worker holds for one turn. Dropping it closes the worker's duplicate of the socket, and
/// nothing else: the door has its own.
///
/// How long a call may wait is a property of the socket, which the door has set: a client that neither sends
/// nor takes anything for the pool's `timeouts.head` makes the call fail with [`io::ErrorKind::WouldBlock`].
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    /// Bytes written so far. The door counts them, so nothing may be written past this.
    written: Cell<u64>,
    /// Whether it has been [reset](Self::reset).
    cut: Cell<bool>,
}

/// What [`Client::peek_at_least`] has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peeked {
    /// So many bytes.
    Bytes(usize),
    /// Fewer than was asked for, and no more will come.
    Ended,
    /// Fewer than was asked for until then.
    TimeIsUp,
}

impl Client {
    /// The client behind `socket`.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, written: Cell::new(0), cut: Cell::new(false) }
    }

    /// Looks at what the client has sent and leaves it where it is. 0: there is nothing and nothing will come.
    pub fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        self.receive(into, RecvFlags::PEEK)
    }

    /// Looks at what the client has sent as soon as that is anything, and leaves it where it is. Whoever has sent nothing is
    /// not waited for any longer when `link` has ended.
    pub(super) fn peek_first(
        &self,
        into: &mut [u8],
        until: Instant,
        link: BorrowedFd<'_>,
    ) -> io::Result<Peeked> {
        loop {
            let mut asked = [
                PollFd::new(&self.socket, PollFlags::IN | PollFlags::RDHUP),
                PollFd::from_borrowed_fd(link, PollFlags::RDHUP),
            ];
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
            match poll(&mut asked, left.as_ref()) {
                Ok(0) => return Ok(Peeked::TimeIsUp),
                Ok(_) if asked[0].revents().is_empty() => return Ok(Peeked::Ended),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            match self.receive(into, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok(0) => return Ok(Peeked::Ended),
                Ok(there) => return Ok(Peeked::Bytes(there)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks at what the client has sent as soon as that is `least` bytes, for which `into` has room, and leaves it where
    /// it is.
    pub fn peek_at_least(&self, into: &mut [u8], least: usize, until: Instant) -> io::Result<Peeked> {
        /// A signal ends a wait before its time, too, and there are not many of those.
        const SHORT_WAITS: usize = 8;
        let usual = socket_timeout(&self.socket, Timeout::Recv)?;
        let mut waits = 0;
        loop {
            match self.receive(into, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok(0) => return Ok(Peeked::Ended),
                Ok(there) if there >= least => return Ok(Peeked::Bytes(there)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Peeked::TimeIsUp);
            }
            // Every wait is for all that is wanted. In front of urgent data (`MSG_OOB`) it ends at once, again and again:
            // peeking does not get past that.
            if waits > SHORT_WAITS {
                return Ok(Peeked::Ended);
            }
            waits += 1;
            if has_ended(&self.socket)? {
                return Ok(Peeked::Ended);
            }
            // Peeking takes nothing, so it has to be all of them that are waited for. Zero would be for ever.
            set_socket_timeout(&self.socket, Timeout::Recv, Some(left.max(Duration::from_millis(1))))?;
            let waited = self.receive(&mut into[..least], RecvFlags::PEEK | RecvFlags::WAITALL);
            set_socket_timeout(&self.socket, Timeout::Recv, usual)?;
            match waited {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                // Enough, or the end, or a signal, or time is up: another look tells them apart.
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Takes what the client has sent. 0: nothing more will come.
    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.receive(into, RecvFlags::empty())
    }

    /// Takes exactly `bytes` bytes that have been peeked before, and drops them.
    pub fn discard(&self, mut bytes: usize) -> io::Result<()> {
        let mut waste = [0; 4096];
        while bytes > 0 {
            let room = bytes.min(waste.len());
            match self.read(&mut waste[..room])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => bytes -= read,
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`.
    pub fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    self.written.set(self.written.get() + sent as u64);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Ends the connection with a reset, so that the client cannot take what it got for a whole answer.
    pub fn reset(&self) {
        // Where it is not the client's own socket it fails, and the door does it when it hears what has become of the turn.
        let _ = rustix::net::connect_unspec(&self.socket);
        self.cut.set(true);
    }

    /// What this worker leaves of the connection, if the connection could be kept as far as the handler is concerned.
    pub(super) fn after(&self, keep: bool) -> After {
        after(keep, self.cut.get(), self.written())
    }

    /// Its socket, to look at.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Bytes that have been written to it in this turn.
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    /// Says that nothing more will be written.
    pub fn end(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.socket, Shutdown::Write)?)
    }

    fn receive(&self, into: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        loop {
            match recv(&self.socket, &mut *into, flags) {
                Ok((received, _)) => return Ok(received),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What is left of a connection to which so many bytes were written, and which was reset if it was `cut`. Pure.
pub(super) fn after(keep: bool, cut: bool, written: u64) -> After {
    match keep {
        _ if cut => After::Cut { written },
        true => After::Keep { written },
        false => After::Close { written },
    }
}

/// Whether the client has ended its half, or its connection is gone.
fn has_ended(socket: &OwnedFd) -> io::Result<bool> {
    let mut asked = [PollFd::new(socket, PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&at_once))?;
    Ok(asked[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR))
}
