//! The master of a prefork server: it starts children in advance, and another one whenever one has ended.
//!
//! It touches no connection. The children wait on the same listening socket, and the kernel picks one for each
//! client. What a master decides is small: a child that has lived for a while is replaced at once; one that ended in its
//! first moments is replaced after a breath, or a child that cannot start would keep the machine busy with starting it.
//!
//! This is the least that a master can be; what a good one does beyond it (back-off, draining, limits, telling what
//! happened) is what the rest of this project is about.

use std::io;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::fd::BorrowedFd;
use rustix::process::{Pid, WaitOptions, wait};

use crate::play::{self, Part};

/// A child that has lived for less was none.
const A_WHILE: Duration = Duration::from_millis(200);

/// Keeps so many children in that part, each with `listener` for its descriptor 0, for ever.
///
/// # Errors
/// When a child cannot be started at all.
pub(super) fn keep(children: usize, part: super::Child, listener: BorrowedFd<'_>) -> io::Result<()> {
    let part = Part::Child(part);
    let start = || -> io::Result<(Pid, Instant, Child)> {
        let stdin = Stdio::from(listener.try_clone_to_owned()?);
        let child = play::command(&part)?.stdin(stdin).spawn()?;
        Ok((Pid::from_child(&child), Instant::now(), child))
    };
    let mut living: Vec<_> = (0..children).map(|_| start()).collect::<io::Result<_>>()?;
    loop {
        let Some((ended, _)) = wait(WaitOptions::empty())? else { continue };
        let Some(nth) = living.iter().position(|(pid, ..)| *pid == ended) else { continue };
        if living[nth].1.elapsed() < A_WHILE {
            std::thread::sleep(A_WHILE);
        }
        living[nth] = start()?;
    }
}
