//! What the kernel knows of a TCP connection.

#![expect(unsafe_code, reason = "the newer fields of TCP_INFO have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How far a connection has come, as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes written to the socket so far, by whoever holds it, whether they are on their way or still queued.
    /// Only differences between two readings mean anything.
    pub written: u64,
    /// Bytes that have arrived from the peer since the connection began, read or not.
    pub received: u64,
    /// Whether the peer has ended its half, and ours is open.
    pub peer_ended: bool,
    /// Whether the connection is gone in both directions: reset, or timed out.
    pub gone: bool,
}

/// The first 216 bytes of Linux's `struct tcp_info`, which has had them since 4.19.
const INFO_LEN: usize = 216;
/// Where the fields stand that are read here.
const BYTES_RECEIVED: usize = 128;
const NOTSENT_BYTES: usize = 144;
const BYTES_SENT: usize = 200;
const BYTES_RETRANS: usize = 208;
/// `tcpi_state` of a connection that is no more.
const TCP_CLOSE: u8 = 7;
/// `tcpi_state` of a connection whose peer has ended its half.
const TCP_CLOSE_WAIT: u8 = 8;

/// Reads how far the connection behind `socket` has come. One call, so that the figures are of one moment.
///
/// # Errors
/// Not a TCP socket; or a kernel older than 4.19 ([`io::ErrorKind::Unsupported`]).
pub fn progress(socket: BorrowedFd<'_>) -> io::Result<Progress> {
    let mut info = [0u8; INFO_LEN];
    let mut len = INFO_LEN as libc::socklen_t;
    // SAFETY: `info` is writable for `len` bytes, which is what the kernel is told and fills at the most; the
    // descriptor is open for as long as `socket` is borrowed.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < INFO_LEN {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let queued = u64::from(u32::from_ne_bytes(field(&info, NOTSENT_BYTES)));
    let sent = u64::from_ne_bytes(field(&info, BYTES_SENT));
    let again = u64::from_ne_bytes(field(&info, BYTES_RETRANS));
    // The kernel counts the end of the stream as a byte.
    let peer_ended = info[0] == TCP_CLOSE_WAIT;
    let received = u64::from_ne_bytes(field(&info, BYTES_RECEIVED)) - u64::from(peer_ended);
    Ok(Progress {
        written: sent - again.min(sent) + queued,
        received,
        peer_ended,
        gone: info[0] == TCP_CLOSE,
    })
}

/// The same, and how many bytes of what has been received somebody has read, of one and the same moment.
///
/// # Errors
/// As [`progress`].
pub fn progress_and_consumed(socket: BorrowedFd<'_>) -> io::Result<(Progress, u64)> {
    loop {
        let unread = rustix::io::ioctl_fionread(socket)?;
        let progress = progress(socket)?;
        // What came in between is in one of the figures and not in the other. It ends when the peer's window does.
        if rustix::io::ioctl_fionread(socket)? == unread {
            return Ok((progress, progress.received.saturating_sub(unread)));
        }
    }
}

fn field<const N: usize>(info: &[u8; INFO_LEN], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&info[at..at + N]);
    field
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_has_been_read_is_known_while_more_comes() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        client.set_nodelay(true)?;
        let (mut served, _) = listener.accept()?;
        std::thread::spawn(move || (0..1000).try_for_each(|_| client.write_all(b"x")));
        served.read_exact(&mut [0; 100])?;
        loop {
            let (progress, consumed) = progress_and_consumed(served.as_fd())?;
            assert_eq!(consumed, 100);
            if progress.received == 1000 {
                return Ok(());
            }
        }
    }

    #[test]
    fn written_bytes_are_counted_before_and_after_they_are_read() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut served, _) = listener.accept()?;
        let start = progress(served.as_fd())?.written;
        assert_eq!(progress(served.as_fd())?.received, 0);
        served.write_all(&[0; 1000])?;
        assert_eq!(progress(served.as_fd())?.written - start, 1000);
        client.read_exact(&mut [0; 1000])?;
        client.write_all(b"more")?;
        served.read_exact(&mut [0; 4])?;
        assert_eq!(progress(served.as_fd())?.written - start, 1000);
        assert_eq!(progress(served.as_fd())?.received, 4);
        // Our own not listening any more is not the peer's end.
        rustix::net::shutdown(&served, rustix::net::Shutdown::Read)?;
        assert!(!progress(served.as_fd())?.peer_ended);
        client.shutdown(std::net::Shutdown::Write)?;
        assert_eq!(served.read(&mut [0; 4])?, 0);
        assert_eq!(progress(served.as_fd())?.received, 4, "the end of the stream was counted");
        assert!(progress(served.as_fd())?.peer_ended);
        // More than the peer's buffer takes: most of it stays queued here.
        rustix::io::ioctl_fionbio(&served, true)?;
        let mut written = 1000;
        while let Ok(bytes) = served.write(&[0; 65536]) {
            written += bytes as u64;
        }
        assert_eq!(progress(served.as_fd())?.written - start, written);
        Ok(())
    }
}
