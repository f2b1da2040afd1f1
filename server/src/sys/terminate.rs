//! SIGTERM in a process that spends its life in blocking calls.
//!
//! A flag that a signal handler sets is seen too late by a thread that has just gone to sleep in `recvmsg`, and
//! interrupting every system call of somebody's handler with `EINTR` would break it. So the handler itself says
//! goodbye: it sends the one-byte [`GOODBYE`] over the link (`send` is
//! async-signal-safe), every system call is restarted, and the door answers with a farewell that the sleeping
//! thread receives like any other frame, in order behind every turn that was given before.

#![expect(unsafe_code, reason = "installing a signal handler")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level;

use crate::link::GOODBYE;

static TOLD: AtomicBool = AtomicBool::new(false);
/// The link's descriptor, or -1. Only [`Termination`] writes it.
static LINK: AtomicI32 = AtomicI32::new(-1);

/// Whether the process has been told to go.
pub fn told_to_go() -> bool {
    TOLD.load(Ordering::SeqCst)
}

/// The exit code by which the runtimes of containers spell "killed by SIGKILL".
const KILLED: i32 = 128 + libc::SIGKILL;

/// Ends this process as SIGKILL would: no destructor runs and no buffer is written. A process that is the first of its
/// container cannot send itself a SIGKILL, the kernel forgets it.
pub fn end_now() -> ! {
    low_level::exit(KILLED)
}

/// While it lives, SIGTERM and SIGINT say goodbye on this link.
#[derive(Debug)]
pub struct Termination {
    // Declared for its `Drop`: it must stay open for as long as its number stands in LINK.
    _link: OwnedFd,
}

impl Termination {
    /// Takes the signals. To be called once, before there is a link.
    pub fn catch() -> io::Result<()> {
        for signal in [SIGTERM, SIGINT] {
            // SAFETY: the action is async-signal-safe: two atomics and one `send` on a descriptor that is either -1
            // or kept open by the one `Termination` there is, which takes its number out before it closes it.
            unsafe {
                low_level::register(signal, || {
                    TOLD.store(true, Ordering::SeqCst);
                    say_goodbye();
                })?;
            }
        }
        Ok(())
    }

    /// Lets the handler speak on `link`, a duplicate of the link's descriptor. When the signal has come already,
    /// the goodbye is sent here.
    pub fn on(link: OwnedFd) -> Self {
        LINK.store(link.as_raw_fd(), Ordering::SeqCst);
        if told_to_go() {
            say_goodbye();
        }
        Self { _link: link }
    }
}

impl Drop for Termination {
    fn drop(&mut self) {
        LINK.store(-1, Ordering::SeqCst);
    }
}

/// Async-signal-safe. Saying it twice does no harm.
fn say_goodbye() {
    let link = LINK.load(Ordering::SeqCst);
    if link >= 0 {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the pointer is to one byte with static lifetime. Nothing can be done about a failure here: a
        // closed link ends the worker anyway, a full one is evicted by the door.
        unsafe { libc::send(link, GOODBYE.as_ptr().cast(), GOODBYE.len(), flags) };
    }
}
