//! Waiting for descriptors in the event loop.

#![expect(unsafe_code, reason = "tokio cannot know that a descriptor stays open and the same")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::SlowToClose;

/// Registers `descriptor` with the event loop, for what `interest` says. Its status flags stay as they are.
pub fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and has one number for as long as it lives, and `AsyncFd` owns it until it has
    // taken the registration back.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

/// The same for a descriptor that may be slow to close, for being readable.
pub fn watch_slow(descriptor: SlowToClose) -> io::Result<AsyncFd<SlowToClose>> {
    // SAFETY: as above; `SlowToClose` owns its descriptor and gives it away only when it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}
