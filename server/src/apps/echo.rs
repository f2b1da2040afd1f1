//! The classic echo server of the process-per-connection model: replies `Echo: ` and what was sent, until the
//! client closes.

use std::io;

use crate::worker::Client;

/// What stands before everything that is sent back.
pub const PREFIX: &[u8] = b"Echo: ";

/// Serves one connection to its end.
pub fn serve(client: &Client) -> io::Result<()> {
    let mut reply = [0; PREFIX.len() + 4096];
    reply[..PREFIX.len()].copy_from_slice(PREFIX);
    loop {
        match client.read(&mut reply[PREFIX.len()..]) {
            Ok(0) => return client.end(),
            Ok(read) => client.write_all(&reply[..PREFIX.len() + read])?,
            // The socket's own time-out is for clients in the middle of something; this one is only thinking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
