//! Room for more in a socket that is peeked and not read.

#![expect(unsafe_code, reason = "SO_MEMINFO has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{RecvFlags, recv};

use super::option;

/// What the kernel wants to be free before it tells the peer of any room, and as much for what comes meanwhile: a segment
/// each, which has 64 KiB on loopback, and on a network whose segments are put together.
const SEGMENTS: usize = 2 * 64 * 1024;

/// Makes room for `bytes` unread bytes in a TCP socket whose buffer the kernel sizes.
///
/// It charges a socket with all of what it has put together until the last byte of that is taken, and it puts together
/// what arrives while nobody reads, half a megabyte and more. So where a few bytes are left of much, what comes behind
/// them may find no room, and its peer is not asked for more before somebody reads; whoever only peeks waits for ever.
/// Hence what is charged now is asked for, and is added to what is wanted. A mark for how many bytes are to be waited for
/// makes the kernel enlarge the buffer, which it keeps when the mark is taken back.
///
/// # Errors
/// The kernel refuses it. Then there is as much room as before.
pub fn make_room(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let mark = |bytes| option::set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes);
    let wanted = bytes.saturating_add(SEGMENTS).saturating_add(memory(socket)?.charged);
    mark(libc::c_int::try_from(wanted).unwrap_or(libc::c_int::MAX))?;
    mark(1)?;
    // Only whoever looks makes the kernel tell the peer.
    let _ = recv(socket, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    Ok(())
}

/// What the receiving side of a socket uses, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    /// For what has arrived, with all that the kernel keeps around it.
    charged: usize,
    /// At most, before it takes no more.
    limit: usize,
}

fn memory(socket: BorrowedFd<'_>) -> io::Result<Memory> {
    // `SK_MEMINFO_RMEM_ALLOC` and `SK_MEMINFO_RCVBUF` are the first two; the kernel fills in as many as there is room for.
    let mut words = [0_u32; 2];
    let mut size = size_of_val(&words) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to `words`, which are valid for that; the descriptor is open for as
    // long as `socket` is borrowed.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            words.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let [charged, limit] = words.map(|word| usize::try_from(word).unwrap_or(usize::MAX));
    Ok(Memory { charged, limit })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
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

    #[test]
    fn what_has_been_read_and_is_still_charged_takes_no_room() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut theirs = TcpStream::connect(listener.local_addr()?)?;
        let (mut ours, _) = listener.accept()?;
        // As much as goes in while nobody reads; then all but the last byte is taken.
        theirs.set_nonblocking(true)?;
        let mut sent = 0;
        while let Ok(more) = theirs.write(&[b'x'; 4096]) {
            sent += more;
        }
        theirs.set_nonblocking(false)?;
        let until = std::time::Instant::now() + Duration::from_secs(20);
        let mut taken = 0;
        while taken + 1 < sent {
            let mut piece = vec![0; (sent - taken - 1).min(4096)];
            taken += ours.read(&mut piece)?;
            assert!(std::time::Instant::now() < until, "{taken} of {sent} bytes came");
        }
        const WANTED: usize = 80 * 1024;
        make_room(ours.as_fd(), WANTED)?;
        let Memory { charged, limit } = memory(ours.as_fd())?;
        assert!(limit >= charged + WANTED + SEGMENTS, "{charged} of {limit} bytes are charged for one");
        // And so the peer is asked for more.
        let sender = std::thread::spawn(move || theirs.write_all(&[b'y'; WANTED]).map(|()| theirs));
        while rustix::io::ioctl_fionread(&ours)? < WANTED as u64 + 1 {
            assert!(std::time::Instant::now() < until, "it did not come, whoever only looks");
            std::thread::yield_now();
        }
        assert!(sender.join().is_ok_and(|sent| sent.is_ok()));
        Ok(())
    }
}
