//! What a worker's link runs over, as far as the floor cares: how a turn is handed over, and how one is sent away.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use rustix::net::{SendFlags, Shutdown};
use tokio::io::unix::AsyncFd;

use super::client::Client;
use super::tunnel::Tunnel;
use crate::link::{self, Note, Scoreboard, Sent, ToWorker, TurnFrame};
use crate::sys::SlowToClose;

/// The door's end of an fd link.
pub(super) type WorkerLink = AsyncFd<SlowToClose>;

/// The door's end of a link.
#[derive(Debug)]
pub(super) enum Wire {
    /// A socket that clients' descriptors go through.
    Fd {
        socket: Rc<WorkerLink>,
        /// Where the worker notes its answers.
        board: Scoreboard,
    },
    /// A tunnel, for which the door reads and writes the clients' sockets itself.
    Tunnel(Rc<Tunnel>),
}

impl Wire {
    /// Hands a turn over. Never waits.
    ///
    /// # Errors
    /// It is the door's own trouble, not the worker's.
    pub(super) fn give(&self, turn: TurnFrame, client: &Rc<Client>) -> io::Result<Sent> {
        match self {
            Self::Fd { socket, .. } => {
                let mut bytes = Vec::with_capacity(64);
                ToWorker::Turn(turn).encode(&mut bytes);
                link::send_with(socket.as_fd(), &bytes, client.fd())
            }
            Self::Tunnel(tunnel) => Ok(tunnel.give(turn, client)),
        }
    }

    /// Says that no turn follows. Never waits.
    pub(super) fn say_farewell(&self) -> io::Result<Sent> {
        let mut farewell = Vec::new();
        ToWorker::Farewell.encode(&mut farewell);
        match self {
            Self::Fd { socket, .. } => {
                let sent = link::send(socket.as_fd(), &farewell, SendFlags::DONTWAIT)?;
                if sent == Sent::Whole {
                    // One of its threads hears it; the others see the end of what the door has to say, behind every
                    // turn that was given before.
                    let _ = rustix::net::shutdown(socket, Shutdown::Write);
                }
                Ok(sent)
            }
            Self::Tunnel(tunnel) => Ok(tunnel.say(&farewell)),
        }
    }

    /// What the worker has noted of a turn, of which it has credit for so many.
    pub(super) fn note_of(&self, turn: u64, credit: u16) -> Option<Note> {
        match self {
            Self::Fd { board, .. } => board.of_turn(turn, credit),
            Self::Tunnel(tunnel) => tunnel.note_of(turn),
        }
    }

    /// Whether the worker is done with this turn, which ends by itself when its client has taken the answer.
    pub(super) fn outlives_its_link(&self, turn: u64) -> bool {
        match self {
            Self::Fd { .. } => false,
            Self::Tunnel(tunnel) => tunnel.let_go(turn),
        }
    }

    /// It has ended: nothing more is done for the turns that went through it.
    pub(super) fn forget(&self) {
        if let Self::Tunnel(tunnel) = self {
            tunnel.forget();
        }
    }

    /// Ends it for whoever still holds the other end.
    pub(super) fn sever(&self) {
        match self {
            Self::Fd { socket, .. } => {
                let _ = rustix::net::shutdown(socket, Shutdown::Both);
            }
            Self::Tunnel(tunnel) => tunnel.sever(),
        }
    }
}
