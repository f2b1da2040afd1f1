//! Accepting clients.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept_with, bind, getsockname, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::{Client, Whereabouts};
use super::connection;
use super::pool::Pool;
use crate::config::{Clients, DoorPool};
use crate::sys;

/// Connections that the kernel may keep for us before they are accepted; `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4096;
/// What fits into the receive buffer of a socket that Linux sizes by itself, measured down to segments of 100
/// bytes: what the door waits for has to fit, or it would wait for ever.
const FITS_BY_DEFAULT: usize = 88 * 1024;
/// How many of those that are too many are listened to for a moment, so that the answer is not lost to a reset. Others
/// are closed at once: they have no descriptors of their own.
pub(super) const MOST_TURNED_AWAY: usize = 128;
/// How long accepting pauses when the process is out of descriptors.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(20);

/// A listening socket for `pool`, and what its clients may ask once the kernel's limits are known. What is set on
/// it here, every accepted socket inherits.
pub(super) fn open(pool: &DoorPool) -> io::Result<(OwnedFd, SocketAddr, Clients)> {
    let family = if pool.listen.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    sockopt::set_tcp_nodelay(&listener, true)?;
    sockopt::set_socket_keepalive(&listener, true)?;
    // How long a client may stall a worker that waits for more of a body, or for room for more of an answer.
    let patience = Some(pool.timeouts.head);
    sockopt::set_socket_timeout(&listener, Timeout::Recv, patience)?;
    sockopt::set_socket_timeout(&listener, Timeout::Send, patience)?;
    let mut clients = pool.clients;
    let wanted = clients.head_bytes + clients.buffered_body_bytes;
    if wanted > FITS_BY_DEFAULT {
        sockopt::set_socket_recv_buffer_size(&listener, 2 * wanted)?;
        // Linux doubles what it is told, for its own accounts, and caps it at net.core.rmem_max.
        let fits = sockopt::socket_recv_buffer_size(&listener)? / 4;
        if fits < wanted {
            clients.buffered_body_bytes = fits.saturating_sub(clients.head_bytes);
            tracing::warn!(
                pool = %pool.name,
                wanted = pool.clients.buffered_body_bytes,
                waited_for = clients.buffered_body_bytes,
                "net.core.rmem_max is too small for clients.buffered_body: larger bodies are handed over at their head"
            );
        }
    }
    bind(&listener, &pool.listen)?;
    rustix::net::listen(&listener, BACKLOG)?;
    let address = getsockname(&listener)?.try_into().map_err(io::Error::from)?;
    Ok((listener, address, clients))
}

/// The clients of a pool, to find those that are parked.
pub(super) type Guests = std::cell::RefCell<Vec<Weak<Client>>>;

/// Accepts clients until `closing` says that no more are wanted.
///
/// Then it takes in whoever has got through to the kernel already: for those clients the connection stands, and closing
/// the listener would reset it under the request that they may have sent. Only who comes between the last look and the
/// close is still reset.
pub(super) async fn accept(
    listener: OwnedFd,
    pool: Rc<Pool>,
    guests: Rc<Guests>,
    mut closing: watch::Receiver<bool>,
) {
    let listener = match sys::watch(listener, Interest::READABLE) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(pool = %pool.config.name, %error, "cannot wait for clients"),
    };
    let mut sweep_at = 1024;
    loop {
        let mut ready = tokio::select! {
            ready = listener.readable() => match ready {
                Ok(ready) => ready,
                Err(_) => return,
            },
            _ = closing.wait_for(|&closing| closing) => break,
        };
        match take_in(&listener, &pool, &guests) {
            Came::Somebody => {}
            Came::Nobody => ready.clear_ready(),
            Came::NoRoom(error) => {
                tracing::warn!(pool = %pool.config.name, %error, "cannot accept: new clients have to wait");
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
            }
            Came::Broken(error) => {
                return tracing::error!(pool = %pool.config.name, %error, "cannot accept clients any more");
            }
        }
        if guests.borrow().len() >= sweep_at {
            let mut guests = guests.borrow_mut();
            guests.retain(|guest| guest.strong_count() > 0);
            sweep_at = 1024.max(2 * guests.len());
        }
        // However many come, the others have their turn.
        tokio::task::consume_budget().await;
    }
    // As many as the kernel keeps: those that come meanwhile must not put the end off for ever.
    let mut waited = 0;
    while waited <= BACKLOG {
        match take_in(&listener, &pool, &guests) {
            Came::Somebody => waited += 1,
            // Those who leave in the drain make room for those who wait.
            Came::NoRoom(error) => {
                tracing::warn!(pool = %pool.config.name, %error, "cannot accept: the last clients have to wait");
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
            }
            Came::Nobody | Came::Broken(_) => break,
        }
    }
    tracing::info!(pool = %pool.config.name, waited, "closed");
}

/// Who stands at the entrance.
enum Came {
    /// A client: taken in, turned away, or gone before it came to that.
    Somebody,
    Nobody,
    /// Clients, perhaps, and no descriptor or memory for them.
    NoRoom(Errno),
    /// There is no entrance.
    Broken(Errno),
}

fn take_in(listener: &AsyncFd<OwnedFd>, pool: &Rc<Pool>, guests: &Guests) -> Came {
    // The accepted socket blocks: O_NONBLOCK would be the worker's too.
    match accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(socket) => {
            if let Some(client) = admit(socket, pool) {
                pool.connections.set(pool.connections.get() + 1);
                guests.borrow_mut().push(Rc::downgrade(&client));
                tokio::task::spawn_local(guest(client, Rc::clone(pool)));
            }
            Came::Somebody
        }
        Err(Errno::AGAIN) => Came::Nobody,
        Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => Came::NoRoom(error),
        Err(error @ (Errno::BADF | Errno::INVAL | Errno::NOTSOCK)) => Came::Broken(error),
        // The client has gone while it waited to be accepted, or accept(2) tells us here what went wrong with its
        // network.
        Err(error) => {
            tracing::debug!(pool = %pool.config.name, %error, "a client did not come through");
            Came::Somebody
        }
    }
}

/// Takes a client in, or turns it away when there are too many.
fn admit(socket: OwnedFd, pool: &Rc<Pool>) -> Option<Rc<Client>> {
    pool.counters.borrow_mut().connections += 1;
    let peer = rustix::net::getpeername(&socket).ok()??.try_into().ok()?;
    let client = match Client::new(socket, peer) {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(pool = %pool.config.name, %error, "cannot wait for a client");
            return None;
        }
    };
    if pool.connections.get() < pool.clients.connections {
        return Some(client);
    }
    connection::say_that_there_are_too_many(&client, pool);
    if pool.turned_away.get() < MOST_TURNED_AWAY {
        pool.turned_away.set(pool.turned_away.get() + 1);
        let pool = Rc::clone(pool);
        tokio::task::spawn_local(async move {
            client.linger(connection::LINGER).await;
            pool.turned_away.set(pool.turned_away.get() - 1);
        });
    }
    None
}

async fn guest(client: Rc<Client>, pool: Rc<Pool>) {
    connection::serve(client, Rc::clone(&pool)).await;
    pool.connections.set(pool.connections.get() - 1);
}

/// How long a client that has just come may take to send something when the door is about to close.
const JUST_COME: Duration = Duration::from_secs(1);

/// Closes the connections that are idle: their tasks see the end and leave.
pub(super) fn close_idle(guests: &Guests, now: Instant) {
    for guest in guests.borrow().iter().filter_map(Weak::upgrade) {
        let idle = match guest.whereabouts.get() {
            Whereabouts::New => now.saturating_duration_since(guest.came) >= JUST_COME,
            // Else its turn has ended a moment ago, and its task has yet to see how.
            Whereabouts::Parked => guest.request.borrow().line.is_empty(),
            Whereabouts::Queued | Whereabouts::Held | Whereabouts::Leaving => false,
        };
        // Whoever is in the middle of sending a request is let finish it.
        if idle && !guest.is_sending() {
            guest.whereabouts.set(Whereabouts::Leaving);
            guest.shut_down();
        }
    }
}

/// Closes every connection, whatever is going on in it.
pub(super) fn close_all(guests: &Guests) {
    for guest in guests.borrow().iter().filter_map(Weak::upgrade) {
        match guest.whereabouts.replace(Whereabouts::Leaving) {
            Whereabouts::Held => guest.hang_up(),
            _ => guest.shut_down(),
        }
    }
}
