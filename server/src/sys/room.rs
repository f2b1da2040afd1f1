//! Room for more in a socket that is peeked and not read.

#![expect(unsafe_code, reason = "SO_RCVLOWAT has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{RecvFlags, recv};

/// What bytes that were taken long ago may still be charged with, and what the kernel wants to be free before it tells the
/// peer of any room: a segment each, which has 64 KiB on loopback, and on a network whose segments are put together.
const SEGMENTS: usize = 2 * 64 * 1024;

/// Makes room for `bytes` unread bytes in a TCP socket whose buffer the kernel sizes.
///
/// It charges a socket with a whole segment until the last of its bytes is taken. So where a few bytes are left of a large
/// one, what comes behind it may find no room, and its peer is not asked for more before somebody reads; whoever only
/// peeks waits for ever. A mark for how many bytes are to be waited for makes the kernel enlarge the buffer, which it
/// keeps when the mark is taken back.
///
/// # Errors
/// The kernel refuses it. Then there is as much room as before.
pub fn make_room(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let mark = |bytes: libc::c_int| {
        // SAFETY: the option's value is an `int`, whose address and size the kernel is told; the descriptor is open for
        // as long as `socket` is borrowed.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                (&raw const bytes).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    mark(libc::c_int::try_from(bytes.saturating_add(SEGMENTS)).unwrap_or(libc::c_int::MAX))?;
    mark(1)?;
    // Only whoever looks makes the kernel tell the peer.
    let _ = recv(socket, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::net::sockopt::socket_recv_buffer_size;

    use super::*;

    #[test]
    fn there_is_more_room_and_a_byte_is_still_heard_of() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut theirs = TcpStream::connect(listener.local_addr()?)?;
        let (ours, _) = listener.accept()?;
        let wanted = socket_recv_buffer_size(&ours)?;
        make_room(ours.as_fd(), wanted)?;
        let now = socket_recv_buffer_size(&ours)?;
        assert!(now >= wanted + SEGMENTS, "{now} bytes, {wanted} before");
        theirs.write_all(b"x")?;
        let mut asked = [PollFd::new(&ours, PollFlags::IN)];
        let patience = Timespec::try_from(Duration::from_secs(20)).map_err(io::Error::other)?;
        assert_eq!(poll(&mut asked, Some(&patience))?, 1, "nobody was told of it");
        Ok(())
    }
}
