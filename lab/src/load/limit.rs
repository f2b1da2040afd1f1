//! What the load generator itself can do, with a sink behind it: an answerer that does nothing but answer.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};

use super::{Connections, Plan, Tally};

/// What so many clients in a closed loop get from as many threads that answer at once, without reading what they are
/// asked.
///
/// It is a figure of both, generator and sink: the threads need processors too, so a system that needs less than they do
/// can show a little more. Whatever comes near it was limited by the generator, if that was busy all the time.
///
/// # Errors
/// When there is no loopback, or no thread.
pub fn limit(clients: usize, connections: Connections, time: Duration) -> io::Result<Tally> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::scope(|scope| {
        let threads = (0..clients).map(|_| {
            std::thread::Builder::new().spawn_scoped(scope, || {
                while let Ok((stream, _)) = listener.accept() {
                    // Who has gone is nobody to answer.
                    let _ = answer(&stream, connections);
                }
            })
        });
        let threads = threads.collect::<io::Result<Vec<_>>>();
        let tally = threads
            .and_then(|_| super::run(Plan { connections, ..Plan::closed(address, "/", clients, time) }));
        // Wakes those who wait for clients: there are none to come.
        let _ = shutdown(&listener, Shutdown::Both);
        tally
    })
}

fn answer(mut stream: &TcpStream, connections: Connections) -> io::Result<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let mut piece = [0; 4096];
    while stream.read(&mut piece)? > 0 {
        stream.write_all(ANSWER)?;
        if connections == Connections::OneForEach {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_who_opens_a_connection_for_each_request_does_not_rest_between_them() -> io::Result<()> {
        // With a nap of a millisecond behind each answer it could never be a thousand; without one it can, when the
        // machine has a moment for it.
        const ENOUGH: f64 = 1000.0;
        let mut best = 0.0_f64;
        for _ in 0..50 {
            best = best.max(limit(1, Connections::OneForEach, Duration::from_millis(100))?.rate());
            if best > ENOUGH {
                return Ok(());
            }
        }
        Err(io::Error::other(format!("one client got {best:.0} answers/s at the best")))
    }
}
