//! What flows between a client's socket and the tunnel when it does not go through at once.

use std::os::fd::AsFd;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use tokio::time::timeout;

use super::{Tunnel, Turn};
use crate::config::{Protocol, TurnUnit};
use crate::control::Retirement;
use crate::door::client::{Client, TurnEnd};
use crate::door::pool::{Heard, Pool};
use crate::http::chunked::Decoder;
use crate::link::tunnel::{Frame, MOST_DATA};
use crate::sys;

/// How much of what a client sends belongs to the turn. What comes behind it stays in the socket, for the next one.
enum Extent {
    /// So many bytes more.
    Length(u64),
    /// Up to the end of a chunked body, of whose beginning so many bytes have been read by the door before.
    Chunks { decoder: Decoder, seen: usize },
    /// All of it.
    Open,
}

impl Extent {
    fn of(client: &Client, pool: &Pool) -> Self {
        if (pool.config.protocol, pool.config.turn) != (Protocol::Http, TurnUnit::Request) {
            return Self::Open;
        }
        let mut request = client.request.borrow_mut();
        match (request.announced, request.chunks.take()) {
            (Some(length), _) => Self::Length(length),
            (None, Some(chunks)) => Self::Chunks { decoder: chunks.decoder, seen: chunks.at },
            (None, None) => Self::Open,
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunks { decoder, seen } => *seen == 0 && decoder.is_done(),
            Self::Open => false,
        }
    }

    /// How many of these bytes belong to the turn; they are about to be taken.
    fn take(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                taken
            }
            Self::Chunks { seen, .. } if *seen > 0 => {
                let taken = (*seen).min(bytes.len());
                *seen -= taken;
                taken
            }
            Self::Chunks { decoder, .. } => {
                let mut taken = 0;
                while taken < bytes.len() && !decoder.is_done() {
                    match decoder.step(&bytes[taken..]) {
                        Ok(step) => taken += step.consumed,
                        // The worker reads it with the same reader, refuses it and closes the connection.
                        Err(_) => return bytes.len(),
                    }
                }
                taken
            }
            Self::Open => bytes.len(),
        }
    }
}

/// Takes what a client sends, as far as it belongs to the turn and there is room for it at the worker, and passes it on.
pub(super) async fn from_client(tunnel: Rc<Tunnel>, turn: Rc<Turn>) {
    let mut extent = Extent::of(&turn.client, &tunnel.pool);
    let mut piece = vec![0; MOST_DATA];
    while !extent.is_over() {
        let room = turn.room.get().min(piece.len());
        if room == 0 || tunnel.end.is_clogged() {
            turn.changed.notified().await;
            continue;
        }
        let Ok(mut ready) = turn.client.socket().readable().await else { return };
        // There may be many who have waited for their clients, and each would send once more.
        if tunnel.end.is_clogged() {
            continue;
        }
        let there = match recv(turn.client.fd(), &mut piece[..room], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => {
                let Ok(progress) = sys::progress(turn.client.fd()) else { return tunnel.give_up(&turn) };
                tunnel.end.post_at_any_rate(&Frame::End { turn: turn.number, cut_off: !progress.peer_ended });
                return;
            }
            Ok((_, there)) => there,
            Err(Errno::AGAIN) => {
                ready.clear_ready();
                continue;
            }
            Err(Errno::INTR) => continue,
            Err(_) => return tunnel.give_up(&turn),
        };
        let belongs = extent.take(&piece[..there]);
        // They are there, and nobody else takes any.
        let Ok((_, taken)) = recv(turn.client.fd(), &mut piece[..belongs], RecvFlags::DONTWAIT) else {
            return tunnel.give_up(&turn);
        };
        turn.room.set(turn.room.get() - taken);
        tunnel.end.post_at_any_rate(&Frame::Data { turn: turn.number, bytes: &piece[..taken] });
        tokio::task::consume_budget().await;
    }
}

/// Writes what a client has not taken at once, as it takes it, and ends the turn behind it if the worker is done.
pub(super) async fn to_client(tunnel: Rc<Tunnel>, turn: Rc<Turn>) {
    let patience = tunnel.pool.config.timeouts.head;
    loop {
        let mut backlog = turn.backlog.take();
        let taken = tunnel.write(&turn, &backlog);
        if !turn.gone.get() {
            backlog.drain(..taken);
            turn.backlog.replace(backlog);
        }
        if turn.backlog.borrow().is_empty() {
            break;
        }
        match timeout(patience, turn.client.socket().writable()).await {
            Ok(Ok(mut ready)) => ready.clear_ready(),
            // Its worker would not wait for it any longer either, if it had the socket.
            Err(_elapsed) => tunnel.give_up(&turn),
            Ok(Err(_)) => tunnel.give_up(&turn),
        }
    }
    if turn.ends.get() {
        let _ = shutdown(turn.client.fd().as_fd(), Shutdown::Write);
    }
    let Some(after) = turn.done.take() else { return };
    if turn.on_its_own.get() {
        turn.client.end_turn(TurnEnd::Done(turn.left_as(after)));
    } else if let Some(seat) = tunnel.seat.get() {
        match tunnel.finish(seat, turn.number, after) {
            Heard::Fine => {}
            Heard::Late => tunnel.pool.dismiss(seat, Retirement::Told),
            Heard::Breach(detail) => tunnel.pool.breach(seat, &detail),
        }
    }
}
