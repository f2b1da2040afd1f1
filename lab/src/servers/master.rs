//! The master of a prefork server: it starts children in advance, and another one whenever one has ended.
//!
//! It touches no connection. The children wait on the same listening socket, and the kernel picks one for each
//! client. What a master decides is small: a child that has lived for a while is replaced at once; one that ended in its
//! first moments is replaced after a breath, or a child that cannot start would keep the machine busy with starting it.
//!
//! This is the least that a master can be; what a good one does beyond it (back-off, draining, limits, telling what
//! happened) is what the rest of this project is about.

use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fd::BorrowedFd;
use rustix::process::{Pid, WaitOptions, wait};

use crate::play::{self, Part};

/// A child that has lived for less was none.
const A_WHILE: Duration = Duration::from_millis(200);

/// A child that is to be there.
#[derive(Debug, Clone)]
pub(super) struct Seat<'a> {
    /// What it runs.
    pub program: Program,
    /// What it finds as its descriptor 0.
    pub socket: BorrowedFd<'a>,
}

/// What a child runs.
#[derive(Debug, Clone)]
pub(super) enum Program {
    /// This program, in that part.
    Part(super::Child),
    /// PHP, which speaks FastCGI when its descriptor 0 is a listening socket.
    Php,
}

impl Program {
    fn command(&self) -> io::Result<Command> {
        match self {
            Self::Part(part) => play::command(&Part::Child(part.clone())),
            Self::Php => {
                let mut command = Command::new(super::fastcgi::PHP);
                // It would end after 500 requests otherwise, and be replaced by a master that it does not know.
                command.env("PHP_FCGI_MAX_REQUESTS", "0");
                Ok(command)
            }
        }
    }
}

/// Keeps so many children in that part, each with `listener` for its descriptor 0, for ever.
///
/// # Errors
/// When a child cannot be started at all.
pub(super) fn keep(children: usize, part: super::Child, listener: BorrowedFd<'_>) -> io::Result<()> {
    keep_all(&vec![Seat { program: Program::Part(part), socket: listener }; children])
}

/// Keeps a child in each of these seats, for ever.
///
/// # Errors
/// When a child cannot be started at all.
pub(super) fn keep_all(seats: &[Seat<'_>]) -> io::Result<()> {
    let start = |seat: &Seat<'_>| -> io::Result<(Pid, Instant, Child)> {
        let stdin = Stdio::from(seat.socket.try_clone_to_owned()?);
        let child = seat.program.command()?.stdin(stdin).spawn()?;
        Ok((Pid::from_child(&child), Instant::now(), child))
    };
    let mut living = Vec::with_capacity(seats.len());
    for seat in seats {
        match start(seat) {
            Ok(child) => living.push(child),
            Err(error) => {
                end(living.into_iter().map(|(.., child)| child));
                return Err(error);
            }
        }
    }
    loop {
        let Some((ended, _)) = wait(WaitOptions::empty())? else { continue };
        let Some(nth) = living.iter().position(|(pid, ..)| *pid == ended) else { continue };
        if living[nth].1.elapsed() < A_WHILE {
            std::thread::sleep(A_WHILE);
        }
        // Where there is no room for another one now, there may be later; until then the others serve on.
        living[nth] = loop {
            match start(&seats[nth]) {
                Ok(child) => break child,
                Err(error) => eprintln!("no child: {error}"),
            }
            std::thread::sleep(A_WHILE);
        };
    }
}

/// Ends children that were started in vain: nobody else will.
fn end(children: impl Iterator<Item = Child>) {
    for mut child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
}
