//! What the kernel knows of a TCP connection.

#![expect(unsafe_code, reason = "TCP_INFO's newer fields and SIOCOUTQ have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How far a connection has come, as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes written to the socket so far, by whoever holds it: acknowledged by the peer, or still queued.
    /// Only differences between two readings mean anything.
    pub written: u64,
    /// Whether the connection is gone in both directions: reset, or timed out.
    pub gone: bool,
}

/// The first 128 bytes of Linux's `struct tcp_info`, which has had them since 4.1.
const INFO_LEN: usize = 128;
/// Where `tcpi_bytes_acked` stands in it.
const BYTES_ACKED: usize = 120;
/// `tcpi_state` of a connection that is no more.
const TCP_CLOSE: u8 = 7;

/// Reads how far the connection behind `socket` has come.
pub fn progress(socket: BorrowedFd<'_>) -> io::Result<Progress> {
    loop {
        let before = info(socket)?;
        let queued = queued(socket)?;
        // An acknowledgement between the two readings moves bytes from one to the other. Where nothing is queued
        // nothing can move; otherwise read again until it stands still.
        if queued == 0 {
            let after = info(socket)?;
            return Ok(Progress { written: after.acked, gone: after.state == TCP_CLOSE });
        }
        let after = info(socket)?;
        if before.acked == after.acked {
            return Ok(Progress { written: after.acked + queued, gone: after.state == TCP_CLOSE });
        }
    }
}

struct Info {
    state: u8,
    acked: u64,
}

fn info(socket: BorrowedFd<'_>) -> io::Result<Info> {
    let mut bytes = [0u8; INFO_LEN];
    let mut len = INFO_LEN as libc::socklen_t;
    // SAFETY: `bytes` is writable for `len` bytes, which is what the kernel is told and fills at the most; the
    // descriptor is open for as long as `socket` is borrowed.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            bytes.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut acked = [0; 8];
    acked.copy_from_slice(&bytes[BYTES_ACKED..BYTES_ACKED + 8]);
    Ok(Info { state: bytes[0], acked: u64::from_ne_bytes(acked) })
}

/// Bytes written and not yet acknowledged by the peer.
fn queued(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int, to which the pointer is valid; the descriptor
    // is open for as long as `socket` is borrowed.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn written_bytes_are_counted_before_and_after_they_are_read() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut served, _) = listener.accept()?;
        let start = progress(served.as_fd())?.written;
        served.write_all(&[0; 1000])?;
        assert_eq!(progress(served.as_fd())?.written - start, 1000);
        client.read_exact(&mut [0; 1000])?;
        client.write_all(b"more")?;
        served.read_exact(&mut [0; 4])?;
        assert_eq!(progress(served.as_fd())?.written - start, 1000);
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
