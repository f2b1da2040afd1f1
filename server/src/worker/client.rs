//! A client as a worker sees it: something to peek into, read from and write to, blocking.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send};

/// A client that this worker holds for one turn. Dropping it closes the worker's duplicate of the socket, and
/// nothing else: the door has its own.
///
/// How long a call may wait is a property of the socket, which the door has set: a client that neither sends
/// nor takes anything for the pool's `timeouts.head` makes the call fail with [`io::ErrorKind::WouldBlock`].
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    /// Bytes written so far. The door counts them, so nothing may be written past this.
    written: Cell<u64>,
}

impl Client {
    /// The client behind `socket`.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, written: Cell::new(0) }
    }

    /// Looks at what the client has sent and leaves it where it is. 0: there is nothing and nothing will come.
    pub fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        self.receive(into, RecvFlags::PEEK)
    }

    /// Looks at what the client has sent once `into` can be filled; with less when the client sends no more or
    /// stalls.
    pub fn peek_all(&self, into: &mut [u8]) -> io::Result<usize> {
        self.receive(into, RecvFlags::PEEK | RecvFlags::WAITALL)
    }

    /// Takes what the client has sent. 0: nothing more will come.
    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.receive(into, RecvFlags::empty())
    }

    /// Takes exactly `bytes` bytes that have been peeked before, and drops them.
    pub fn discard(&self, mut bytes: usize) -> io::Result<()> {
        let mut waste = [0; 4096];
        while bytes > 0 {
            let room = bytes.min(waste.len());
            match self.read(&mut waste[..room])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => bytes -= read,
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`.
    pub fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    self.written.set(self.written.get() + sent as u64);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Bytes that have been written to it in this turn.
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    /// Says that nothing more will be written.
    pub fn end(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.socket, Shutdown::Write)?)
    }

    fn receive(&self, into: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        loop {
            match recv(&self.socket, &mut *into, flags) {
                Ok((received, _)) => return Ok(received),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
