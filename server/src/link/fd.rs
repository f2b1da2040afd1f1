//! The fd link: frames and descriptors over a `SOCK_SEQPACKET` Unix socket.
//!
//! These are thin: one call, one packet. Whether a call waits is the caller's to say, call by call: the door
//! passes `MSG_DONTWAIT` on its own end, the worker blocks on its own.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, recvmsg,
    sendmsg, socket_with,
};

use super::frame::LONGEST;

/// Room for one frame. One byte more than the longest, so that one that is too long is seen to be.
pub type FrameBuffer = [u8; LONGEST + 1];

/// What a receive brought.
#[derive(Debug)]
pub enum Received {
    /// A frame of so many bytes at the beginning of the buffer, and the descriptor that came with it.
    Frame {
        /// Its length.
        len: usize,
        /// What came with it. More than one descriptor, or one too many for this process's limit, is none.
        descriptor: Option<OwnedFd>,
    },
    /// Nothing there now.
    Nothing,
    /// The other side has closed its end, or is dead.
    Closed,
}

/// What became of a frame that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is in the other side's queue.
    Whole,
    /// The other side's queue is full: it does not read.
    Full,
    /// The other side has closed its end, or is dead.
    Closed,
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags | SocketFlags::CLOEXEC, None)?)
}

/// Listens at `path`, which must not exist. Accepting does not block.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let listener = socket(SocketFlags::NONBLOCK)?;
    bind(&listener, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&listener, 256)?;
    Ok(listener)
}

/// Connects to the door at `path`, for blocking use.
pub fn dial(path: &Path) -> io::Result<OwnedFd> {
    let link = socket(SocketFlags::empty())?;
    connect(&link, &SocketAddrUnix::new(path)?)?;
    Ok(link)
}

/// Sends a frame. `flags` is `DONTWAIT` or nothing: the door never waits, for a queue that is full belongs to
/// somebody who does not read.
pub fn send(link: BorrowedFd<'_>, frame: &[u8], flags: SendFlags) -> io::Result<Sent> {
    sent(|| rustix::net::send(link, frame, flags | SendFlags::NOSIGNAL))
}

/// Sends a frame and, with it, a duplicate of a descriptor. Never waits.
pub fn send_with(link: BorrowedFd<'_>, frame: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<Sent> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let frame = [IoSlice::new(frame)];
    sent(|| sendmsg(link, &frame, &mut ancillary, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
}

fn sent(mut try_to: impl FnMut() -> Result<usize, Errno>) -> io::Result<Sent> {
    loop {
        return match try_to() {
            Ok(_) => Ok(Sent::Whole),
            Err(Errno::INTR) => continue,
            // TOOMANYREFS: more descriptors are under way than this process may have open; whoever should have
            // taken them does not read.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS) => Ok(Sent::Full),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Ok(Sent::Closed),
            Err(error) => Err(error.into()),
        };
    }
}

/// Receives a frame and no descriptor, without waiting: those that a worker sends along are nobody's, and the
/// kernel closes them before this process has ever had them.
pub fn receive_bare(link: BorrowedFd<'_>, buffer: &mut FrameBuffer) -> io::Result<Received> {
    loop {
        return match rustix::net::recv(link, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => Ok(Received::Closed),
            Ok((_, len)) => Ok(Received::Frame { len: len.min(buffer.len()), descriptor: None }),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Ok(Received::Nothing),
            Err(error) => Err(error.into()),
        };
    }
}

/// Receives a frame and the descriptor that came with it. `flags` is `DONTWAIT` or nothing.
pub fn receive(link: BorrowedFd<'_>, buffer: &mut FrameBuffer, flags: RecvFlags) -> io::Result<Received> {
    // Room for two, so that a second descriptor is received, seen and closed rather than cut off unseen.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut parts = [IoSliceMut::new(buffer)];
        match recvmsg(link.as_fd(), &mut parts, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(error) => return Err(error.into()),
        }
    };
    let mut descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let first = descriptors.next().and_then(|mut descriptors| {
        let first = descriptors.next();
        first.filter(|_| descriptors.next().is_none())
    });
    let descriptor = first.filter(|_| !message.flags.contains(ReturnFlags::CTRUNC));
    if message.bytes == 0 {
        Ok(Received::Closed)
    } else {
        Ok(Received::Frame { len: message.bytes, descriptor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
    }

    #[test]
    fn a_descriptor_travels_with_its_frame() -> io::Result<()> {
        let (ours, theirs) = pair()?;
        let (reader, writer) = io::pipe()?;
        assert_eq!(send_with(ours.as_fd(), b"frame", writer.as_fd())?, Sent::Whole);
        drop(writer);
        let mut buffer = [0; LONGEST + 1];
        let received = receive(theirs.as_fd(), &mut buffer, RecvFlags::empty())?;
        let Received::Frame { len: 5, descriptor: Some(descriptor) } = received else {
            return Err(io::Error::other(format!("not the frame with its descriptor: {received:?}")));
        };
        rustix::io::write(&descriptor, b"through")?;
        drop(descriptor);
        assert_eq!(io::read_to_string(reader)?, "through");
        Ok(())
    }

    #[test]
    fn who_never_reads_is_noticed_and_does_not_block() -> io::Result<()> {
        let (ours, _theirs) = pair()?;
        let full = (0..100_000)
            .find(|_| !matches!(send(ours.as_fd(), &[0; 100], SendFlags::DONTWAIT), Ok(Sent::Whole)));
        assert!(full.is_some(), "a queue without end");
        assert_eq!(send(ours.as_fd(), &[0; 100], SendFlags::DONTWAIT)?, Sent::Full);
        Ok(())
    }

    #[test]
    fn an_end_is_seen_from_both_sides() -> io::Result<()> {
        let (ours, theirs) = pair()?;
        drop(theirs);
        assert!(matches!(
            receive(ours.as_fd(), &mut [0; LONGEST + 1], RecvFlags::empty())?,
            Received::Closed
        ));
        assert_eq!(send(ours.as_fd(), b"x", SendFlags::empty())?, Sent::Closed);
        Ok(())
    }
}
