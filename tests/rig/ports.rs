//! Ports to be said before anybody listens on them.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// Ports of loopback that nobody has at this moment, and that nobody else in this process has been given.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // All held at once, so that the kernel does not name one of them again.
    let mut held = Vec::new();
    [(); N].map(|()| {
        loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            held.push(listener);
            if given.insert(port) {
                return port;
            }
        }
    })
}
