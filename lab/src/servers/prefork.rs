//! Prefork: children that were started in advance wait on one listening socket (Apache's mod_prefork, Passenger).
//!
//! Each child is a loop of four calls: accept, serve, close, again. It uses plain blocking calls and has one client at
//! a time. The kernel picks who gets the next connection; the master ([`super::master`]) only replaces who has ended.
//!
//! It costs its processes whether clients come or not, and nothing to begin with a client. A client holds a child for
//! as long as its connection lasts, idle or not: with as many idle clients as there are children, nobody else is
//! served.
//!
//! It fails one client at a time: with a child goes the connection that it had, and until the master has started
//! another there is one child less. The kernel hands connections to whoever waits, so a child that hangs is passed
//! over, and missing, until somebody ends it.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;

use super::{Child, Protocol, accept, master};

pub(super) fn serve(listener: &TcpListener, protocol: Protocol, children: usize) -> io::Result<()> {
    master::keep(children, Child::Prefork(protocol), listener.as_fd())
}

/// What a child does.
pub(super) fn child(listener: &TcpListener, protocol: Protocol) -> io::Result<()> {
    loop {
        let client = accept(listener)?;
        // A client that misbehaves ends its connection, and not the child.
        let _ = protocol.serve(&client);
    }
}
