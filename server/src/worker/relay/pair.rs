//! The local sockets that a worker gets in the place of its clients' own.
//!
//! A worker that takes few turns at a time gets the same ones again. A child that it has forked with its descriptors, and
//! that outlives the turn, could then meddle with later turns of the same worker, and with nobody else's.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// How many turns a worker may take at a time for its pairs to be kept and used again: a pair that is kept costs a
/// descriptor more for as long as a turn has it.
const FEW_TURNS: u16 = 16;
/// Bytes of a request that a pair takes by default, by far.
const FITS_BY_DEFAULT: u32 = 64 * 1024;
/// Room for one that is larger, in the kernel's accounts.
const BUFFER: usize = 512 * 1024;

/// One turn's.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) ours: OwnedFd,
    /// What the worker gets a duplicate of. Blocking, as a client's own is.
    pub(super) theirs: Option<OwnedFd>,
    is_kept: bool,
}

/// Those that nobody uses. A pair costs half a dozen system calls, and most turns leave theirs as it was.
#[derive(Debug, Default)]
pub(super) struct Pairs(RefCell<Vec<Pair>>);

impl Pair {
    /// The worker has its end.
    pub(super) fn has_gone(&mut self) {
        if !self.is_kept {
            self.theirs = None;
        }
    }

    /// Waits, when asked, for an answer or for room for more of the request. Each has a watch of its own, for the turns that
    /// need it: whoever is told of all that happens to a pair is woken by each piece that the worker reads or writes.
    pub(super) fn watch(&self, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
        sys::watch(self.ours.try_clone()?, interest)
    }

    /// Whether there is nothing in it, in either direction, and nobody has shut down the worker's end.
    fn is_quiet(&self) -> bool {
        let Some(theirs) = &self.theirs else { return false };
        let mut asked = [
            PollFd::new(&self.ours, PollFlags::IN | PollFlags::RDHUP),
            PollFd::new(theirs, PollFlags::IN | PollFlags::RDHUP),
        ];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&at_once)) == Ok(0)
    }

    /// Whether nobody has the worker's end any more. That it only does not write any more is something else.
    pub(super) fn is_closed(&self) -> bool {
        let mut asked = [PollFd::new(&self.ours, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&at_once)).is_ok() && asked[0].revents().contains(PollFlags::HUP)
    }
}

impl Pairs {
    /// One with nothing in it, for a worker that takes so many turns at a time, on which whoever is kept waiting for longer
    /// than `patience` is told so. A whole request of so many bytes goes into it.
    pub(super) fn take(&self, patience: Option<Duration>, credit: u16, whole: u32) -> io::Result<Pair> {
        let kept = self.0.borrow_mut().pop();
        if let Some(pair) = kept {
            make_room(&pair, whole);
            return Ok(pair);
        }
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&theirs, Timeout::Recv, patience)?;
        set_socket_timeout(&theirs, Timeout::Send, patience)?;
        let pair = Pair { ours, theirs: Some(theirs), is_kept: credit <= FEW_TURNS };
        make_room(&pair, whole);
        Ok(pair)
    }

    /// Keeps one for the next turn, if that is possible and nothing is left in it. It has not been shut down by either side.
    pub(super) fn put_back(&self, pair: Pair) {
        if pair.is_quiet() {
            self.0.borrow_mut().push(pair);
        }
    }
}

/// Where less is allowed than is needed, a large request is passed on in pieces. Others are not given more: what waits in
/// the kernel counts as the worker's memory.
fn make_room(pair: &Pair, whole: u32) {
    if whole > FITS_BY_DEFAULT {
        let _ = set_socket_send_buffer_size(&pair.ours, BUFFER);
    }
}
