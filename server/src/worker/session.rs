//! Getting a link, and what the blocking models and the event loop do with it alike.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags};

use super::relay::{self, Detour, NoTunnel, Relay};
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
    /// What the link runs through where it is a tunnel: to be dropped behind the link.
    pub(super) relay: Option<Relay>,
}

/// The doors that a worker may come to.
pub(super) struct Doors<'o> {
    options: &'o Options,
    detour: Detour,
}

impl<'o> Doors<'o> {
    pub(super) fn of(options: &'o Options) -> Self {
        Self { options, detour: Detour::default() }
    }

    /// Gets a link, or says how the worker ends without one. Waits for a door for as long as nobody tells the worker to
    /// go.
    pub(super) fn join(&self) -> Result<Joined, Ending> {
        let options = self.options;
        let mut wait = REDIAL.0;
        let mut told_why = false;
        while !sys::told_to_go() {
            match self.dial() {
                Ok((link, relay)) => match greet(&link, options) {
                    Greeting::Welcome(board, terms) => {
                        // Starting up is over. Where that is not possible, the worker is as good, and larger.
                        let _ = sys::release_code_pages();
                        return Ok(Joined { link, board, terms, relay });
                    }
                    Greeting::Refused(why) => {
                        eprintln!("{}: the door refuses this worker: {why}", options.life);
                        return Err(Ending::Refused);
                    }
                    // It went down in between: there will be another.
                    Greeting::Closed => {}
                },
                Err(NoTunnel::Over) => {
                    eprintln!("{}: the door knows that this worker is dead, or has it already", options.life);
                    return Err(Ending::Refused);
                }
                Err(NoTunnel::NoThread(error)) => {
                    eprintln!(
                        "{}: cannot start a thread for its tunnel: is the limit of pids too low? {error}",
                        options.life
                    );
                    return Err(Ending::NoDescriptor);
                }
                Err(NoTunnel::Tls(error)) => {
                    eprintln!("{}: no door can be trusted: {}", options.life, in_full(&error));
                    return Err(Ending::Setup);
                }
                Err(NoTunnel::Distrusted(address, error)) => {
                    eprintln!(
                        "{}: the door at {address} cannot be trusted, its certificate is not from this worker's deployment: {error}",
                        options.life
                    );
                    return Err(Ending::Setup);
                }
                // Said once: a door that is being restarted is away for a moment.
                Err(NoTunnel::Away(error)) if !std::mem::replace(&mut told_why, true) => {
                    eprintln!("{}: no door at {} yet: {error}", options.life, options.link);
                }
                Err(NoTunnel::Away(_)) => {}
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(REDIAL.1);
        }
        Err(Ending::Goodbye)
    }

    fn dial(&self) -> Result<(OwnedFd, Option<Relay>), NoTunnel> {
        match &self.options.link {
            Dial::Fd(path) => link::dial(path).map(|link| (link, None)).map_err(NoTunnel::Away),
            Dial::Tunnel { doors, tls } => {
                let (link, relay) = relay::dial(self.options, doors, *tls, &self.detour)?;
                Ok((link, Some(relay)))
            }
        }
    }
}

/// An error and all its causes.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
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
