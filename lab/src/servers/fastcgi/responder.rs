//! A responder: a prefork child that speaks FastCGI.
//!
//! It blocks twice, in accepting and in what it is asked for. Reading the protocol is left to a crate that wants to
//! be awaited; as there is never more than one thing to wait for, that is blocking in other words.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};

use tokio::io::BufReader;
use tokio_fastcgi::{Request, RequestResult, Requests};

use super::super::http;

pub(in super::super) fn child(listener: &UnixListener) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    loop {
        let connection = super::super::accept_with(|| listener.accept().map(|(connection, _)| connection))?;
        // A front that misbehaves ends its connection, and not the child.
        let _ = runtime.block_on(answer_all(connection));
    }
}

async fn answer_all(connection: UnixStream) -> Result<(), tokio_fastcgi::Error> {
    connection.set_nonblocking(true)?;
    let mut connection = tokio::net::UnixStream::from_std(connection)?;
    let (reads, writes) = connection.split();
    let mut requests = Requests::new(BufReader::new(reads), writes, 1, 1);
    while let Some(request) = requests.next().await? {
        request
            .process(|request| async move {
                let (status, text) = answer(&request).unwrap_or((400, "no request\n".to_owned()));
                let page = format!("Status: {status}\r\nContent-Type: text/plain\r\n\r\n{text}");
                let written = request.get_stdout().write(page.as_bytes()).await;
                RequestResult::Complete(u32::from(written.is_err()))
            })
            .await?;
    }
    Ok(())
}

/// Does what is asked for. The two variables of CGI that say it are put together again to the request that they were taken
/// from: there is one parser for all servers.
fn answer<W: tokio::io::AsyncWrite + Unpin>(request: &Request<W>) -> io::Result<(u16, String)> {
    let (method, target) = (request.get_str_param("request_method"), request.get_str_param("request_uri"));
    let (Some(method), Some(target)) = (method, target) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let head = format!("{method} {target} HTTP/1.1\r\nHost: lab\r\n\r\n");
    match http::parse(head.as_bytes(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))? {
        Some(request) => Ok(http::act(request.act)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
