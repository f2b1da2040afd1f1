//! A FastCGI pool: PHP and its like behind a web server.
//!
//! ```text
//!   clients ══HTTP══► front ──FastCGI, a connection for each request──► responders on one listening socket
//!                       ▲                                                  ▲
//!                       └───────────────── master keeps both ──────────────┘
//! ```
//!
//! The front ([`front`]) is an event loop and holds all clients, idle ones too, for next to nothing. A responder
//! ([`responder`], or `php-cgi` with [`PAGE`]) is a prefork child that speaks another protocol: it inherits the pool's listening
//! socket as its descriptor 0, takes a connection, answers the one request on it with plain blocking calls, and takes
//! the next. Whoever is free takes the next request, so a responder is held by a request and never by a client.
//!
//! It costs a hop: each request is read, framed anew, and its answer read and framed back. It also costs the responders,
//! whether requests come or not.
//!
//! It fails one request at a time. The front, which shares nothing with who has failed, answers 502 and keeps the
//! client's connection; the master replaces the responder. PHP goes further: what a script opens and takes is given
//! back at the end of each request, and its memory has a limit of its own. If the front fails, all is gone.

pub(super) mod front;
pub(super) mod responder;

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use serde::{Deserialize, Serialize};

use super::Child;
use super::master::{self, Program, Seat};

/// The program that runs PHP behind a web server.
pub const PHP: &str = "php-cgi";

/// The demo's pages and faults in PHP.
pub const PAGE: &str = include_str!("page.php");

/// What [`PAGE`] is called in the directory in which the server is started.
pub const PAGE_FILE: &str = "page.php";

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Responder {
    /// This program.
    Own,
    /// PHP, with the page in the current directory.
    Php,
}

pub(super) fn serve(listener: &TcpListener, responder: Responder, responders: usize) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    // A name that is no file: it is gone with the last one who holds the socket.
    let pool = format!("bulkhead-lab-fastcgi-{}", std::process::id());
    let inside = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&pool)?)?;
    let script = match responder {
        Responder::Own => None,
        Responder::Php => Some(std::env::current_dir()?.join(PAGE_FILE).to_string_lossy().into_owned()),
    };
    let program = match responder {
        Responder::Own => Program::Part(Child::Responder),
        Responder::Php => Program::Php,
    };
    let front = Program::Part(Child::FastCgiFront { pool, script });
    let mut seats = vec![Seat { program: front, socket: listener.as_fd() }];
    seats.extend(vec![Seat { program, socket: inside.as_fd() }; responders]);
    master::keep_all(&seats)
}
