//! The local sockets that a worker gets in the place of its clients' own.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// How many pairs are kept for the next turns.
const SPARE: usize = 64;
/// Room for the largest request that is waited for, in the kernel's accounts.
const BUFFER: usize = 512 * 1024;

/// One turn's.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) ours: AsyncFd<OwnedFd>,
    /// What the worker has a duplicate of. Blocking, as a client's own is.
    pub(super) theirs: OwnedFd,
}

/// Those that nobody uses. A pair costs half a dozen system calls, and most turns leave theirs as it was.
#[derive(Debug, Default)]
pub(super) struct Pairs(RefCell<Vec<Pair>>);

impl Pairs {
    /// One with nothing in it, on which whoever is kept waiting for longer than `patience` is told so.
    pub(super) fn take(&self, patience: Option<Duration>) -> io::Result<Pair> {
        if let Some(pair) = self.0.borrow_mut().pop() {
            return Ok(pair);
        }
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&theirs, Timeout::Recv, patience)?;
        set_socket_timeout(&theirs, Timeout::Send, patience)?;
        // Where less is allowed, a large request is passed on in pieces.
        let _ = set_socket_send_buffer_size(&ours, BUFFER);
        Ok(Pair { ours: sys::watch(ours, Interest::READABLE | Interest::WRITABLE)?, theirs })
    }

    /// Keeps one for the next turn, if nothing is left in it. It has not been shut down by either side.
    pub(super) fn put_back(&self, pair: Pair) {
        let is_empty = |socket| rustix::io::ioctl_fionread(socket).is_ok_and(|bytes| bytes == 0);
        let mut spare = self.0.borrow_mut();
        if spare.len() < SPARE && is_empty(pair.ours.get_ref()) && is_empty(&pair.theirs) {
            spare.push(pair);
        }
    }
}
