//! What the load generator itself can do: asked of an answerer that does nothing but answer.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::Plan;

/// Answers a second that so many clients in a closed loop get from threads that answer at once, without reading what
/// they are asked. No system that is measured on this machine can show more.
///
/// # Errors
/// When there is no loopback, or no thread.
pub fn limit(clients: usize, time: Duration) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    // It ends with its last client: each thread does, and the acceptor has as many clients as were announced.
    std::thread::Builder::new().spawn(move || {
        for stream in listener.incoming().take(clients).flatten() {
            std::thread::spawn(move || answer_all(&stream));
        }
    })?;
    Ok(super::run(Plan::closed(address, "/", clients, time))?.rate())
}

fn answer_all(mut stream: &TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let mut piece = [0; 4096];
    while stream.read(&mut piece).is_ok_and(|read| read > 0) {
        if stream.write_all(ANSWER).is_err() {
            return;
        }
    }
}
