//! The local sockets that a worker gets in the place of its clients' own.
//!
//! A worker that takes few turns at a time gets the same ones again. A child that it has forked with its descriptors, and
//! that outlives the turn, could then meddle with later turns of the same worker, and with nobody else's.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, Waker};
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
    pub(super) ours: AsyncFd<OwnedFd>,
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

    /// Waits, when asked, until there is room for more of the request. A watch of its own, for the turns that need one: whoever
    /// is always told that there is room is woken by each byte that the worker reads.
    pub(super) fn watch_for_room(&self) -> io::Result<AsyncFd<OwnedFd>> {
        sys::watch(self.ours.get_ref().try_clone()?, Interest::WRITABLE)
    }

    /// Whether there is nothing in it for us, and nobody has shut down the worker's end.
    fn is_quiet(&self) -> bool {
        let mut asked = [PollFd::new(self.ours.get_ref(), PollFlags::IN | PollFlags::RDHUP)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&at_once)) == Ok(0)
    }

    /// Whether nobody has the worker's end any more. That it only does not write any more is something else.
    pub(super) fn is_closed(&self) -> bool {
        let mut asked = [PollFd::new(self.ours.get_ref(), PollFlags::empty())];
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
        let ours = sys::watch(ours, Interest::READABLE)?;
        let pair = Pair { ours, theirs: Some(theirs), is_kept: credit <= FEW_TURNS };
        make_room(&pair, whole);
        Ok(pair)
    }

    /// Keeps one for the next turn, if that is possible and nothing is left in it. It has not been shut down by either side.
    pub(super) fn put_back(&self, pair: Pair) {
        // What has been heard of it is read by now, and would have its next turn look once more.
        let mut nobody = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok(mut ready)) = pair.ours.poll_read_ready(&mut nobody) {
            ready.clear_ready();
        }
        let is_empty = |theirs| rustix::io::ioctl_fionread(theirs).is_ok_and(|bytes| bytes == 0);
        if pair.theirs.as_ref().is_some_and(is_empty) && pair.is_quiet() {
            self.0.borrow_mut().push(pair);
        }
    }
}

/// Where less is allowed than is needed, a large request is passed on in pieces. Others are not given more: what waits in
/// the kernel counts as the worker's memory.
fn make_room(pair: &Pair, whole: u32) {
    if whole > FITS_BY_DEFAULT {
        let _ = set_socket_send_buffer_size(pair.ours.get_ref(), BUFFER);
    }
}
