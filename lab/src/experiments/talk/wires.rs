//! The ways to talk, each a [`Wire`] with the same two calls, and what is said over all of them.
//!
//! A job begins with a head: what is to be done with the messages, and how long they are. *Echo*: each is sent
//! back. *Sink*: they are taken, and after the last one a word is sent back. The first byte of a message tells whether it is
//! the last. So both sides know when a job is over, and the same process does one after another.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::{Deserialize, Serialize};

use super::ring::{Paths, Rings};

/// The longest message, in bytes.
pub(super) const MOST: usize = 1 << 20;

/// Something that messages go over. Both sides know how long each is.
pub(super) trait Wire: std::fmt::Debug + Send {
    /// Sends a message; waits where there is no room for it.
    fn send(&mut self, message: &[u8]) -> io::Result<()>;
    /// Waits for a message of just this length.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<()>;
}

/// Two streams of bytes, in and out: a pair of pipes, or a socket twice.
#[derive(Debug)]
pub(super) struct Streams<R, W>(pub R, pub W);

impl<R: Read + Send + std::fmt::Debug, W: Write + Send + std::fmt::Debug> Wire for Streams<R, W> {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.1.write_all(message)?;
        self.1.flush()
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(into)
    }
}

/// Two channels, between threads of one process. What is sent is copied, as everywhere here; threads could as well hand
/// over where it lies.
#[derive(Debug)]
pub(super) struct Channels(SyncSender<Vec<u8>>, Receiver<Vec<u8>>);

impl Channels {
    /// The two sides.
    pub(super) fn pair() -> (Self, Self) {
        const ROOM: usize = 4;
        let ((there, arrived), (back, returned)) = (sync_channel(ROOM), sync_channel(ROOM));
        (Self(there, returned), Self(back, arrived))
    }
}

impl Wire for Channels {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.0.send(message.to_vec()).map_err(io::Error::other)
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<()> {
        let message = self.1.recv().map_err(io::Error::other)?;
        if message.len() != into.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        into.copy_from_slice(&message);
        Ok(())
    }
}

/// What a process of this experiment finds to talk over.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// Its standard input and output.
    Pipes,
    /// A Unix stream socket, its descriptor 0.
    UnixSocket,
    /// Memory.
    #[expect(private_interfaces, reason = "nobody but the other side makes or reads it")]
    SharedMemory(Paths),
    /// Whoever listens there.
    Tcp(SocketAddr),
}

impl Peer {
    /// Does what it is told, until there is nobody to tell it.
    pub(crate) fn take_part(&self) -> io::Result<()> {
        let mut wire: Box<dyn Wire> = match self {
            Self::Pipes => Box::new(Streams(io::stdin(), std::fs::File::from(own_stdout()?))),
            Self::UnixSocket => {
                let socket = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?);
                Box::new(Streams(socket.try_clone()?, socket))
            }
            Self::SharedMemory(paths) => Box::new(Rings::open(paths)?),
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Box::new(Streams(stream.try_clone()?, stream))
            }
        };
        match answer_all(&mut *wire) {
            // The other side has had enough.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            other => other,
        }
    }
}

/// Standard output without the buffer that the library puts before it.
fn own_stdout() -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?)
}

/// What is to be done with the messages of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// Each is sent back.
    Echo,
    /// They are taken, and the end is confirmed.
    Sink,
    /// There is no further job.
    End,
}

/// The first byte of a job's last message.
pub(super) const LAST: u8 = 1;

const HEAD: usize = 16;
/// What confirms the end of a [`Job::Sink`].
pub(super) const DONE: [u8; 8] = *b"all here";

/// The head of a job with messages of that length.
pub(super) fn head(job: Job, len: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[0] = match job {
        Job::Echo => 1,
        Job::Sink => 2,
        Job::End => 3,
    };
    head[8..].copy_from_slice(&(len as u64).to_le_bytes());
    head
}

/// The other side of all jobs.
pub(super) fn answer_all(wire: &mut dyn Wire) -> io::Result<()> {
    let mut message = vec![0; MOST];
    loop {
        let mut head = [0; HEAD];
        wire.receive(&mut head)?;
        let [_, _, _, _, _, _, _, _, len @ ..] = head;
        let len = usize::try_from(u64::from_le_bytes(len)).unwrap_or(usize::MAX);
        let Some(message) = message.get_mut(..len).filter(|it| !it.is_empty()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("no message has {len} bytes")));
        };
        let echo = match head[0] {
            1 => true,
            2 => false,
            _ => return Ok(()),
        };
        loop {
            wire.receive(message)?;
            if echo {
                wire.send(message)?;
            }
            if message[0] == LAST {
                break;
            }
        }
        if !echo {
            wire.send(&DONE)?;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    #[test]
    fn jobs_follow_each_other_over_one_wire() {
        let (mut here, mut there) = Channels::pair();
        let other = std::thread::spawn(move || answer_all(&mut there));
        here.send(&head(Job::Echo, 3)).unwrap();
        let mut answer = [0; 3];
        for message in [[0, 7, 8], [LAST, 9, 9]] {
            here.send(&message).unwrap();
            here.receive(&mut answer).unwrap();
            assert_eq!(answer, message);
        }
        here.send(&head(Job::Sink, 1)).unwrap();
        here.send(&[0]).unwrap();
        here.send(&[LAST]).unwrap();
        let mut done = [0; DONE.len()];
        here.receive(&mut done).unwrap();
        assert_eq!(done, DONE);
        here.send(&head(Job::End, 1)).unwrap();
        other.join().unwrap().unwrap();
    }
}
