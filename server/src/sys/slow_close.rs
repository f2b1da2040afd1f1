//! Closing what strangers have touched, on a thread of its own.
//!
//! `close` can take its time: a socket on which somebody has set `SO_LINGER` keeps whoever closes it last waiting,
//! for as long as that somebody likes. Descriptors travel in the queue of a Unix socket, so closing that socket, or
//! receiving from it, closes whatever was put there. An event loop cannot afford to find out.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

/// A descriptor that is closed elsewhere when it is dropped.
#[derive(Debug)]
pub struct SlowToClose(Option<OwnedFd>);

impl SlowToClose {
    /// Takes over a descriptor.
    pub fn new(descriptor: OwnedFd) -> Self {
        Self(Some(descriptor))
    }
}

impl Drop for SlowToClose {
    fn drop(&mut self) {
        static CLOSER: OnceLock<Sender<OwnedFd>> = OnceLock::new();
        let closer = CLOSER.get_or_init(|| {
            let (give, take) = channel::<OwnedFd>();
            // Without the thread the descriptors are closed where they are dropped: slower at worst, never lost.
            let _ = std::thread::Builder::new()
                .name("closer".to_owned())
                .spawn(move || take.iter().for_each(drop));
            give
        });
        if let Some(descriptor) = self.0.take() {
            let _ = closer.send(descriptor);
        }
    }
}

impl AsRawFd for SlowToClose {
    /// One and the same number for as long as it lives.
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

impl AsFd for SlowToClose {
    #[expect(clippy::expect_used, reason = "it is emptied by `drop` alone, after which nobody can borrow it")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("a descriptor until it is dropped").as_fd()
    }
}
