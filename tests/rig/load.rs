//! Clients that keep coming: closed-loop, never retrying, and counting what they get.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::http::Connection;

/// What a client does with its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It asks on it again and again.
    KeepAlive,
    /// It opens another for each request.
    OneForEach,
}

/// A number of clients that ask again as soon as they are answered.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

/// What the clients got.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: u64,
    /// Everything that was not a `200`.
    pub failed: Vec<String>,
}

impl Load {
    /// Starts so many clients, each on a connection of its own.
    pub fn start(address: SocketAddr, clients: usize, target: &str) -> Self {
        Self::of(Manner::KeepAlive, address, clients, target)
    }

    /// Starts so many clients, each with a new connection for every request.
    pub fn start_with_new_connections(address: SocketAddr, clients: usize, target: &str) -> Self {
        Self::of(Manner::OneForEach, address, clients, target)
    }

    fn of(manner: Manner, address: SocketAddr, clients: usize, target: &str) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..clients).map(|_| {
            let (stop, answered, target) = (Arc::clone(&stop), Arc::clone(&answered), target.to_owned());
            std::thread::spawn(move || match manner {
                Manner::KeepAlive => client(address, &target, &stop, &answered),
                Manner::OneForEach => newcomer(address, &target, &stop, &answered),
            })
        });
        Self { clients: clients.collect(), stop, answered }
    }

    /// How many requests have been answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets each client finish what it is at; what all of them got.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients {
            let one = client.join().expect("a client panicked");
            all.answered += one.answered;
            all.failed.extend(one.failed);
        }
        all
    }
}

fn client(address: SocketAddr, target: &str, stop: &AtomicBool, answered: &AtomicU64) -> Tally {
    let mut tally = Tally::default();
    let mut connection = Connection::to(address);
    while !stop.load(Ordering::Relaxed) {
        connection.send_get(target);
        match connection.try_response() {
            Ok(response) if response.status == 200 && response.complete => {
                tally.answered += 1;
                answered.fetch_add(1, Ordering::Relaxed);
                if response.header("connection") == Some("close") {
                    connection = Connection::to(address);
                }
            }
            Ok(response) => {
                tally.failed.push(format!("{} {}", response.status, response.text()));
                connection = Connection::to(address);
            }
            Err(error) => {
                tally.failed.push(error.to_string());
                connection = Connection::to(address);
            }
        }
    }
    tally
}

fn newcomer(address: SocketAddr, target: &str, stop: &AtomicBool, answered: &AtomicU64) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        let response = Connection::try_to(address).and_then(|mut connection| {
            connection
                .try_send(format!("GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"))?;
            connection.try_response()
        });
        match response {
            Ok(response) if response.status == 200 && response.complete => {
                tally.answered += 1;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(response) => tally.failed.push(format!("{} {}", response.status, response.text())),
            Err(error) => tally.failed.push(error.to_string()),
        }
    }
    tally
}
