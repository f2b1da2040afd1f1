//! HTTP for all the servers: the parser of Bulkhead's own door and the pages of its demo.
//!
//! The faults among the pages are really committed. What they end is up to the server that they are committed in, and
//! that is what the lab is about.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use server::apps::Me;
use server::apps::demo::{self, Act};
use server::config::Model;
use server::http::{Head, HeaderSpace, parse_head};

/// The most that a head may take, in bytes.
const MOST_HEAD: usize = 16 * 1024;

/// One request, as far as a server has to know it.
#[derive(Debug)]
pub(super) struct Request {
    /// What it asks for.
    pub act: Act,
    /// Whether the client wants to ask again on the same connection.
    pub keep_alive: bool,
    /// Bytes that it takes.
    pub len: usize,
}

/// Reads a request from the beginning of `bytes`. `None`: there is more to come.
///
/// # Errors
/// When it is no request, or has a body: the lab's clients send none.
pub(super) fn parse(bytes: &[u8], peer: SocketAddr) -> io::Result<Option<Request>> {
    read_head(bytes, |head| {
        let act = match head.path_and_query() {
            "/threads" => Act::Reply(200, super::thread_per_connection::threads().to_string()),
            _ => demo::decide(head, peer, me()?),
        };
        Ok(Request { act, keep_alive: head.keep_alive, len: head.len })
    })
}

/// Makes something of the head at the beginning of `bytes`. `None`: there is more to come.
///
/// # Errors
/// As [`parse`].
pub(super) fn read_head<T>(
    bytes: &[u8],
    make: impl FnOnce(&Head<'_>) -> io::Result<T>,
) -> io::Result<Option<T>> {
    let no_request = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut space = HeaderSpace::new();
    let head = match parse_head(bytes, &mut space, MOST_HEAD) {
        Ok(Some(head)) => head,
        Ok(None) => return Ok(None),
        Err(refusal) => return Err(no_request(&format!("{refusal:?}"))),
    };
    if head.has_body() {
        return Err(no_request("the lab's servers take no bodies"));
    }
    make(&head).map(Some)
}

/// An answer as bytes: short, for what is measured is not the writing of heads.
pub(super) fn answer(status: u16, text: &str, keep_alive: bool) -> Vec<u8> {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let reason = server::http::reason(status);
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}

/// Does what is asked for with blocking calls.
pub(super) fn act(act: Act) -> (u16, String) {
    match act {
        Act::Work(time) => {
            std::thread::sleep(time);
            (200, demo::worked(time))
        }
        act => demo::at_once(act),
    }
}

/// Serves one client until it closes or wants no more, with blocking calls.
pub(super) fn serve(mut stream: &TcpStream) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(1024);
    let mut piece = [0; 1024];
    let peer = stream.peer_addr()?;
    loop {
        while let Some(request) = parse(&bytes, peer)? {
            bytes.drain(..request.len);
            let (status, text) = act(request.act);
            stream.write_all(&answer(status, &text, request.keep_alive))?;
            if !request.keep_alive {
                return Ok(());
            }
        }
        match stream.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// The pages of the demo say who serves; here it is always the lab.
fn me() -> io::Result<&'static Me> {
    use std::sync::OnceLock;
    static ME: OnceLock<Me> = OnceLock::new();
    if let Some(me) = ME.get() {
        return Ok(me);
    }
    let life = "lab-0.1".parse().map_err(io::Error::other)?;
    Ok(ME.get_or_init(|| Me::new(life, Model::Prefork)))
}
