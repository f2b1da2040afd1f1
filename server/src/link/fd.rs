//! The fd link: frames and descriptors over a `SOCK_SEQPACKET` Unix socket.
//!
//! These are thin: one call, one packet. Whether a call waits is the caller's to say, call by call: the door
//! passes `MSG_DONTWAIT` on its own end, the worker blocks on its own.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, recvmsg,
    sendmsg, socket_with,
};

use super::frame::LONGEST;
use crate::sys::SlowToClose;

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
    /// A frame with descriptors from somebody who has none to send.
    Uninvited,
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
            Err(Errno::AGAIN | Errno::NOBUFS) => Ok(Sent::Full),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Ok(Sent::Closed),
            Err(error) => Err(error.into()),
        };
    }
}

/// Receives a frame, without waiting, from somebody who has no descriptors to send. Those that come all the same are
/// closed elsewhere, and make the frame [`Received::Uninvited`].
pub fn receive_bare(link: BorrowedFd<'_>, buffer: &mut FrameBuffer) -> io::Result<Received> {
    // As many as one message can carry: what finds no room the kernel closes, on this thread.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let len = match receive_message(link, buffer, &mut ancillary, RecvFlags::DONTWAIT)? {
        Message::Came { len, .. } => len,
        Message::Nothing => return Ok(Received::Nothing),
    };
    let mut uninvited = false;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            uninvited = true;
            descriptors.map(SlowToClose::new).for_each(drop);
        }
    }
    Ok(match len {
        _ if uninvited => Received::Uninvited,
        0 => Received::Closed,
        len => Received::Frame { len, descriptor: None },
    })
}

/// Receives a frame and the descriptor that came with it. `flags` is `DONTWAIT` or nothing.
pub fn receive(link: BorrowedFd<'_>, buffer: &mut FrameBuffer, flags: RecvFlags) -> io::Result<Received> {
    // Room for two, so that a second descriptor is received, seen and closed rather than cut off unseen.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let (len, cut_off) = match receive_message(link, buffer, &mut ancillary, flags)? {
        Message::Came { len, cut_off } => (len, cut_off),
        Message::Nothing => return Ok(Received::Nothing),
    };
    let mut descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let first = descriptors.next().and_then(|mut descriptors| {
        let first = descriptors.next();
        first.filter(|_| descriptors.next().is_none())
    });
    let descriptor = first.filter(|_| !cut_off);
    Ok(if len == 0 { Received::Closed } else { Received::Frame { len, descriptor } })
}

/// What a receive brought, before anybody has looked at it.
enum Message {
    Came {
        /// 0: the other side has closed its end.
        len: usize,
        /// Whether descriptors were lost on the way.
        cut_off: bool,
    },
    Nothing,
}

fn receive_message(
    link: BorrowedFd<'_>,
    buffer: &mut FrameBuffer,
    ancillary: &mut RecvAncillaryBuffer<'_>,
    flags: RecvFlags,
) -> io::Result<Message> {
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        return match recvmsg(link, &mut parts, ancillary, flags | RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => {
                Ok(Message::Came { len: message.bytes, cut_off: message.flags.contains(ReturnFlags::CTRUNC) })
            }
            // Said once, and before what is still in the queue, by a socket whose other end died without having read
            // all that it was sent. Its last words follow.
            Err(Errno::INTR | Errno::CONNRESET) => continue,
            Err(Errno::AGAIN) => Ok(Message::Nothing),
            Err(error) => Err(error.into()),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

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
    fn last_words_are_heard_from_one_who_died_without_having_read_all() -> io::Result<()> {
        let (ours, theirs) = pair()?;
        send(ours.as_fd(), b"never read", SendFlags::empty())?;
        send(theirs.as_fd(), b"last words", SendFlags::empty())?;
        drop(theirs);
        let mut buffer = [0; LONGEST + 1];
        let heard = receive_bare(ours.as_fd(), &mut buffer)?;
        assert!(matches!(heard, Received::Frame { len: 10, .. }), "{heard:?}");
        assert!(matches!(receive_bare(ours.as_fd(), &mut buffer)?, Received::Closed));
        Ok(())
    }

    #[test]
    fn descriptors_from_a_stranger_are_not_taken() -> io::Result<()> {
        let (ours, theirs) = pair()?;
        let (reader, writer) = io::pipe()?;
        send_with(theirs.as_fd(), b"gift", writer.as_fd())?;
        drop(writer);
        assert!(matches!(receive_bare(ours.as_fd(), &mut [0; LONGEST + 1])?, Received::Uninvited));
        // The pipe ends when its last writer, which was under way, has been closed.
        assert_eq!(io::read_to_string(reader)?, "");
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
