//! Waiting for more than has been looked at.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::option;

/// Waits, within the socket's own time-out, until more than `seen` bytes can be peeked from it, or its peer has ended. Takes
/// nothing. Linux can do this with Unix sockets, and from 6.9 on with TCP.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] where it cannot; [`io::ErrorKind::WouldBlock`] when time is up.
pub fn wait_for_more(socket: BorrowedFd<'_>, seen: usize) -> io::Result<()> {
    let from = |offset| option::set(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset);
    let offset = libc::c_int::try_from(seen).map_err(io::Error::other)?;
    from(offset).map_err(|_| io::ErrorKind::Unsupported)?;
    let looked = recv(socket, &mut [0; 1][..], RecvFlags::PEEK);
    from(-1)?;
    match looked {
        // Whoever waits looks again.
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_has_been_seen_is_not_waited_for_and_stays() -> io::Result<()> {
        let (ours, mut theirs) = UnixStream::pair()?;
        theirs.write_all(b"GET / HT")?;
        ours.set_read_timeout(Some(Duration::from_millis(20)))?;
        wait_for_more(ours.as_fd(), 3)?;
        let none = wait_for_more(ours.as_fd(), 8).map_err(|error| error.kind());
        assert_eq!(none, Err(io::ErrorKind::WouldBlock));
        ours.set_read_timeout(None)?;
        let later = std::thread::spawn(move || theirs.write_all(b"TP/1.1"));
        wait_for_more(ours.as_fd(), 8)?;
        later.join().map_err(|_| io::Error::other("it panicked"))??;
        // The writer has gone: an end is waited for no longer than more is.
        wait_for_more(ours.as_fd(), 14)?;
        let mut all = String::new();
        (&ours).read_to_string(&mut all)?;
        assert_eq!(all, "GET / HTTP/1.1");
        Ok(())
    }
}
