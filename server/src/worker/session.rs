//! Getting a link, and what the blocking models and the event loop do with it alike.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags};

use super::{Ending, Options};
use crate::link::{self, Dial, FromWorker, LONGEST, Received, ScoreboardPen, Terms, ToWorker};
use crate::sys;

/// The first wait before another try to reach a door, and the longest.
const REDIAL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// A link whose hello was welcome.
pub(super) struct Joined {
    pub(super) link: OwnedFd,
    pub(super) board: ScoreboardPen,
    pub(super) terms: Terms,
}

/// Gets a link, or says how the worker ends without one. Waits for a door for as long as nobody tells the worker to go.
pub(super) fn join(options: &Options) -> Result<Joined, Ending> {
    let mut wait = REDIAL.0;
    let mut told_why = false;
    while !sys::told_to_go() {
        match dial(options) {
            Ok(link) => match greet(&link, options) {
                Greeting::Welcome(board, terms) => {
                    // Starting up is over. Where that is not possible, the worker is as good, and larger.
                    let _ = sys::release_code_pages();
                    return Ok(Joined { link, board, terms });
                }
                Greeting::Refused(why) => {
                    eprintln!("{}: the door refuses this worker: {why}", options.life);
                    return Err(Ending::Refused);
                }
                // It went down in between: there will be another.
                Greeting::Closed => {}
            },
            // Said once: a door that is being restarted is away for a moment.
            Err(error) if !std::mem::replace(&mut told_why, true) => {
                eprintln!("{}: no door at {} yet: {error}", options.life, options.link);
            }
            Err(_) => {}
        }
        std::thread::sleep(wait);
        wait = (wait * 2).min(REDIAL.1);
    }
    Err(Ending::Goodbye)
}

fn dial(options: &Options) -> io::Result<OwnedFd> {
    match &options.link {
        Dial::Fd(path) => link::dial(path),
        Dial::Tunnel { .. } => Err(io::ErrorKind::Unsupported.into()),
    }
}

enum Greeting {
    Welcome(ScoreboardPen, Terms),
    Refused(String),
    Closed,
}

fn greet(link: &OwnedFd, options: &Options) -> Greeting {
    let hello = FromWorker::Hello {
        version: link::VERSION,
        credit: options.model.credit(),
        token: options.token,
        life: options.life.clone(),
    };
    say(link, &hello);
    // A door that has no controller yet keeps its workers waiting. Whoever is told to go meanwhile goes.
    let _ = set_socket_timeout(link, Timeout::Recv, Some(REDIAL.1));
    let mut buffer = [0; LONGEST + 1];
    let answer = loop {
        match link::receive(link.as_fd(), &mut buffer, RecvFlags::empty()) {
            Ok(Received::Nothing) if !sys::told_to_go() => {}
            answer => break answer,
        }
    };
    let _ = set_socket_timeout(link, Timeout::Recv, None);
    match answer {
        Ok(Received::Frame { len, descriptor }) => match (ToWorker::decode(&buffer[..len]), descriptor) {
            (Ok(ToWorker::Welcome(terms)), Some(board)) => match ScoreboardPen::for_board(board) {
                Ok(pen) => Greeting::Welcome(pen, terms),
                Err(error) => Greeting::Refused(format!("its scoreboard cannot be mapped: {error}")),
            },
            (Ok(ToWorker::Refused { why }), _) => Greeting::Refused(why),
            (Ok(other), _) => Greeting::Refused(format!("it answered the hello with {other:?}")),
            (Err(breach), _) => Greeting::Refused(format!("it answered the hello with {breach}")),
        },
        Ok(Received::Nothing | Received::Uninvited | Received::Closed) | Err(_) => Greeting::Closed,
    }
}

/// Sends a frame and waits until there is room for it. A link that has closed meanwhile is seen by the next
/// receive, so nothing is said of it here.
pub(super) fn say(link: &OwnedFd, frame: &FromWorker) {
    let mut bytes = Vec::with_capacity(64);
    frame.encode(&mut bytes);
    let _ = link::send(link.as_fd(), &bytes, SendFlags::empty());
}
