//! The web server in front of a FastCGI pool: HTTP on one side, FastCGI on the other.
//!
//! One event loop holds all clients. For each request it opens a connection to the pool, on which a responder answers
//! when one is free, as nginx does it unless told otherwise. Nothing is tried twice: whether a responder that is gone
//! had executed the request, a web server does not know.

use std::io;
use std::net::TcpListener;

use fastcgi_client::{Client, Params, Request, io::empty};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpStream, UnixStream};

use super::super::{accept_async, http};

/// Where requests go.
#[derive(Debug)]
struct Pool {
    /// The name of its socket, which is no file.
    name: String,
    /// What is to be run for each request, if the responders have to be told.
    script: Option<String>,
}

/// What it takes of a request to ask a responder.
#[derive(Debug)]
struct Asked {
    method: String,
    target: String,
    keep_alive: bool,
    len: usize,
}

pub(in super::super) fn child(listener: TcpListener, name: String, script: Option<String>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pool: &'static Pool = Box::leak(Box::new(Pool { name, script }));
    runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            tokio::task::spawn_local(speak(accept_async(&listener).await?, pool));
        }
    }))
}

async fn speak(mut client: TcpStream, pool: &Pool) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        while let Some(asked) = parse(&bytes)? {
            bytes.drain(..asked.len);
            let (status, text) = match pool.ask(&asked).await {
                Ok(answer) => read_cgi(&answer),
                Err(error) => (502, format!("no answer from the pool: {error}\n")),
            };
            client.write_all(&http::answer(status, &text, asked.keep_alive)).await?;
            if !asked.keep_alive {
                return Ok(());
            }
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

fn parse(bytes: &[u8]) -> io::Result<Option<Asked>> {
    http::read_head(bytes, |head| {
        let (method, target) = (head.method.to_owned(), head.path_and_query().to_owned());
        Ok(Asked { method, target, keep_alive: head.keep_alive, len: head.len })
    })
}

impl Pool {
    /// What a responder writes: the head of CGI, and the page.
    async fn ask(&self, asked: &Asked) -> io::Result<Vec<u8>> {
        // The zero in front makes it a name and no path.
        let stream = UnixStream::connect(format!("\0{}", self.name)).await?;
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        let mut params = Params::default()
            .request_method(asked.method.as_str())
            .request_uri(asked.target.as_str())
            .script_name(path)
            .query_string(query);
        if let Some(script) = &self.script {
            // Debian's PHP runs nothing that was not handed over by a redirection.
            params = params.script_filename(script.as_str()).custom("REDIRECT_STATUS", "200");
        }
        // In one piece: the crate marks the end of an empty body twice, and by then a quick responder may have answered
        // and gone.
        let stream = BufStream::new(stream);
        let answer = Client::new_tokio(stream).execute_once(Request::new(params, empty())).await;
        answer.map_err(io::Error::other)?.stdout.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// The status and the page of an answer in the form of CGI: a head with `Status` if it is not 200, an empty line, the rest.
fn read_cgi(answer: &[u8]) -> (u16, String) {
    let text = String::from_utf8_lossy(answer);
    let (head, page) = text.split_once("\r\n\r\n").unwrap_or(("", &text));
    let status = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("status").then(|| value.trim().get(..3)?.parse().ok())?
    });
    (status.unwrap_or(200), page.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_200_unless_the_head_says_otherwise() {
        assert_eq!(read_cgi(b"Content-type: text/html\r\n\r\nhello"), (200, "hello".to_owned()));
        assert_eq!(
            read_cgi(b"Status: 507 Insufficient Storage\r\nX: y\r\n\r\nfull"),
            (507, "full".to_owned())
        );
    }
}
