//! The classic echo: `Echo: ` and what was sent, until the client closes.

use std::io::{self, Read, Write};
use std::net::TcpStream;

pub(super) fn serve(mut stream: &TcpStream) -> io::Result<()> {
    let mut piece = [0; 4096];
    let mut answer = Vec::with_capacity(4096 + 6);
    loop {
        let read = match stream.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        };
        answer.clear();
        answer.extend_from_slice(b"Echo: ");
        answer.extend_from_slice(&piece[..read]);
        stream.write_all(&answer)?;
    }
}
