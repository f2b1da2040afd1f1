//! What comes next on a connection, for a worker that reads requests itself.
//!
//! The door has looked at the first request of every turn. Where a connection is one turn, those behind it are the
//! worker's own, and what the door does for others it has to do itself: bound what a head and a body may take and how
//! long a client may take to send them, and refuse what is no request. [`Terms`] say what the pool allows.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::client::{Client, Peeked};
use crate::http::{Framing, HeaderSpace, Refusal, has_begun, parse_head};
use crate::link::Terms;
use crate::sys;

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A whole head, in so many bytes; there may be more than the head in them.
    Request(usize),
    /// Nothing that is served here.
    Refused(Refusal),
    /// The client has gone, or was idle for too long, or at a time when its worker goes.
    Gone,
}

/// Waits for a request and looks at it, in `buffer`, which grows as it has to. Behind the end of the worker's `link`
/// nobody is waited for who has asked for nothing: the worker is to go, or to look for another door.
pub(super) fn await_request(
    client: &Client,
    terms: &Terms,
    link: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
) -> io::Result<Next> {
    let mut until = Instant::now() + terms.keep_alive;
    let mut least = 1;
    loop {
        let peeked = match least {
            1 => client.peek_first(buffer, until, link)?,
            _ => client.peek_at_least(buffer, least, until)?,
        };
        let there = match peeked {
            Peeked::Bytes(there) => there,
            Peeked::TimeIsUp if least > 1 => return Ok(Next::Refused(Refusal::TooSlow)),
            Peeked::TimeIsUp | Peeked::Ended => return Ok(Next::Gone),
        };
        if !has_begun(&buffer[..there]) {
            // In front of a request empty lines say nothing, and whoever sends them is as idle as before.
            client.discard(there)?;
            continue;
        }
        match is_served(&buffer[..there], terms) {
            Ok(true) => return Ok(Next::Request(there)),
            Ok(false) => {}
            Err(refusal) => return Ok(Next::Refused(refusal)),
        }
        if least == 1 {
            until = Instant::now() + terms.head;
        }
        least = there + 1;
        if buffer.len() < least {
            buffer.resize(2 * there, 0);
        }
    }
}

/// Whether `bytes` begin with a whole head; what stands there may be refused long before it is whole.
pub(super) fn is_served(bytes: &[u8], terms: &Terms) -> Result<bool, Refusal> {
    match parse_head(bytes, &mut HeaderSpace::new(), terms.head_bytes as usize)?.map(|head| head.framing) {
        Some(Framing::Length(body)) if body > terms.body_bytes => Err(Refusal::BodyTooLarge),
        Some(_) => Ok(true),
        None => Ok(false),
    }
}

/// Why a body ends before its end: its client has ended its half, or the door does not wait for the rest any longer, which
/// the kernel tells of the client's own socket, and `cut_off` where there is another in its place.
pub(super) fn cut_short(socket: BorrowedFd<'_>, cut_off: bool) -> Refusal {
    match sys::progress(socket) {
        _ if cut_off => Refusal::TooSlow,
        Ok(progress) if !progress.peer_ended && !progress.gone => Refusal::TooSlow,
        Ok(_) | Err(_) => Refusal::Malformed("the body is shorter than was announced"),
    }
}

/// Why a body cannot be read on, if it is for what the client has sent, or for its sending nothing for too long. A handler
/// has errors of its own, which say nothing of its client.
pub(super) fn refusal_in(error: &io::Error) -> Option<Refusal> {
    error.get_ref()?.downcast_ref::<Refusal>().copied()
}

/// What has gone wrong with reading from a client: when its time is up, that is a refusal, of the same kind.
pub(super) fn stalled(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ io::ErrorKind::WouldBlock => io::Error::new(kind, Refusal::TooSlow),
        _ => error,
    }
}

/// The other way round, for those who read bodies.
pub(super) fn refused(refusal: Refusal) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, refusal)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    const TERMS: Terms = Terms {
        head_bytes: 64,
        body_bytes: 100,
        head: Duration::from_millis(50),
        keep_alive: Duration::from_millis(50),
    };

    /// What comes next when the client has sent this, and then waits, or ends its half.
    fn after(sent: &[u8], ends: bool) -> io::Result<Next> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (served, _) = listener.accept()?;
        client.write_all(sent)?;
        if ends {
            client.shutdown(std::net::Shutdown::Write)?;
        }
        let served = Client::new(served.into());
        let (link, _door) = UnixStream::pair()?;
        // Smaller than a head, as it may be.
        await_request(&served, &TERMS, link.as_fd(), &mut vec![0; 8])
    }

    #[test]
    fn urgent_data_does_not_make_a_worker_spin() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let served = Client::new(listener.accept()?.0.into());
        client.write_all(b"GET / HT")?;
        rustix::net::send(&client, b"!", rustix::net::SendFlags::OOB)?;
        client.write_all(b"TP/1.1\r\n")?;
        let until = Instant::now() + Duration::from_secs(60);
        assert_eq!(served.peek_at_least(&mut [0; 64], 20, until)?, Peeked::Ended);
        Ok(())
    }

    #[test]
    fn behind_the_end_of_the_link_only_who_has_asked_is_served() -> io::Result<()> {
        let patient = Terms { keep_alive: Duration::from_secs(60), ..TERMS };
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let served = Client::new(listener.accept()?.0.into());
        let (link, door) = UnixStream::pair()?;
        let mut buffer = vec![0; 64];
        let idle = std::thread::scope(|scope| {
            // As the door does behind a farewell; its death is the same.
            scope.spawn(|| door.shutdown(std::net::Shutdown::Write));
            await_request(&served, &patient, link.as_fd(), &mut buffer)
        });
        assert_eq!(idle?, Next::Gone);
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request)?;
        assert_eq!(
            await_request(&served, &patient, link.as_fd(), &mut buffer)?,
            Next::Request(request.len())
        );
        Ok(())
    }

    #[test]
    fn a_request_is_there_or_refused() -> io::Result<()> {
        let whole = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(after(whole.as_bytes(), false)?, Next::Request(whole.len()));
        let late = format!("\r\n\r\n\r\n\r\n{whole}");
        assert_eq!(after(late.as_bytes(), false)?, Next::Request(whole.len()));
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(64));
        assert_eq!(after(long.as_bytes(), false)?, Next::Refused(Refusal::TargetTooLong));
        let large = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n";
        assert_eq!(after(large.as_bytes(), false)?, Next::Refused(Refusal::BodyTooLarge));
        assert!(matches!(after(b"GARBAGE\r\n\r\n", false)?, Next::Refused(Refusal::Malformed(_))));
        Ok(())
    }

    #[test]
    fn who_sends_slowly_is_told_and_who_sends_nothing_is_let_go() -> io::Result<()> {
        assert_eq!(after(b"GET / HT", false)?, Next::Refused(Refusal::TooSlow));
        assert_eq!(after(b"", false)?, Next::Gone);
        assert_eq!(after(b"\r\n\r\n\r\n\r\n\r\n", false)?, Next::Gone);
        assert_eq!(after(b"", true)?, Next::Gone);
        assert_eq!(after(b"GET / HT", true)?, Next::Gone);
        Ok(())
    }
}
