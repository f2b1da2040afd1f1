//! How workers are scheduled.

#![expect(unsafe_code, reason = "sched_setscheduler has no safe wrapper")]

use std::io;

/// Makes this thread, and every thread that it starts from here on, one that computes rather than one that answers
/// (`SCHED_BATCH`): it gets its full share of the processor, and waking it up does not interrupt whoever runs.
///
/// It is the door that wakes workers, again and again while it hands out what has arrived. A worker that interrupts
/// the door for its one turn keeps all the others waiting for theirs.
pub fn schedule_as_batch() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread; the parameters are valid for the call and copied by it.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
