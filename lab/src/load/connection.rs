//! One connection: ask, read the answer to its end, and know between two requests what has become of it.
//!
//! Three things can be the matter with a kept connection when its client wants to ask again. Nothing; then it is asked on.
//! Its server has ended it, as any server may when it likes: then nothing has been asked, nothing is lost, and another is
//! opened. Or something has come that nobody had asked for: the request before has been answered twice.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::{Body, Head, NoAnswer};
use super::{Failure, Method};

/// How much of a body is read at a time.
const PIECE: usize = 16 * 1024;

/// A connection, and what has been read from it beyond the last answer.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
    age: Age,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// Nothing has been answered on it.
    New,
    Kept,
}

/// What has become of a connection between two requests, as far as is known without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    Quiet,
    /// Its server has ended it.
    Ended,
    /// Something has come that nobody had asked for.
    Surplus,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'r> {
    pub(super) method: Method,
    pub(super) host: &'r str,
    pub(super) target: &'r str,
    pub(super) then: Then,
}

/// What the client means to do behind the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Keep,
    Close,
}

/// A whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) status: u16,
    /// Whether the connection can be asked on again.
    pub(super) then: Then,
}

impl Connection {
    pub(super) async fn to(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect(address).await?)
    }

    pub(super) fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, bytes: Vec::with_capacity(1024), age: Age::New })
    }

    /// Asks and reads the whole answer, whatever its status.
    pub(super) async fn ask(&mut self, request: Request<'_>) -> Result<Answered, Failure> {
        self.stream.write_all(request.to_string().as_bytes()).await.map_err(|_| self.ended())?;
        let head = loop {
            match Head::parse(&self.bytes).map_err(|NoAnswer| Failure::NotHttp)? {
                Some(head) if head.is_interim() => self.bytes.drain(..head.len),
                Some(head) => break head,
                None if self.read().await.is_ok_and(|read| read > 0) => continue,
                None => return Err(self.ended()),
            };
        };
        self.bytes.drain(..head.len);
        self.age = Age::Kept;
        self.pass_over(head.body).await?;
        let then = match request.then {
            Then::Keep if head.keep_alive => Then::Keep,
            Then::Keep | Then::Close => Then::Close,
        };
        Ok(Answered { status: head.status, then })
    }

    async fn pass_over(&mut self, mut body: Body) -> Result<(), Failure> {
        loop {
            let passed = body.pass(&self.bytes).map_err(|NoAnswer| Failure::NotHttp)?;
            self.bytes.drain(..passed);
            if body.is_whole() {
                return Ok(());
            }
            self.bytes.reserve(PIECE);
            match (self.read().await, &body) {
                (Ok(1..), _) => {}
                (Ok(0), Body::UntilTheEnd) => return Ok(()),
                (Ok(0) | Err(_), _) => return Err(Failure::Cut),
            }
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        self.stream.read_buf(&mut self.bytes).await
    }

    /// What it means that the connection ends before the answer's head is whole.
    fn ended(&self) -> Failure {
        match self.age {
            _ if !self.bytes.is_empty() => Failure::Cut,
            Age::New => Failure::Unanswered,
            Age::Kept => Failure::KeptEnded,
        }
    }

    /// What has become of it since the last answer.
    pub(super) fn between(&mut self) -> Between {
        if !self.bytes.is_empty() {
            return Between::Surplus;
        }
        match self.stream.try_read_buf(&mut self.bytes) {
            Ok(1..) => Between::Surplus,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Between::Quiet,
            Ok(0) | Err(_) => Between::Ended,
        }
    }

    /// Listens on behind the last answer, until the connection ends or for so long; whether it was quiet.
    pub(super) async fn listen(mut self, at_most: Duration) -> Between {
        if self.bytes.is_empty() {
            let _ = tokio::time::timeout(at_most, self.read()).await;
        }
        if self.bytes.is_empty() { Between::Quiet } else { Between::Surplus }
    }
}

impl std::fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { method, host, target, then } = self;
        let (method, length) = match method {
            Method::Get => ("GET", ""),
            Method::Post => ("POST", "Content-Length: 0\r\n"),
        };
        let connection = match then {
            Then::Keep => "",
            Then::Close => "Connection: close\r\n",
        };
        write!(f, "{method} {target} HTTP/1.1\r\nHost: {host}\r\n{length}{connection}\r\n")
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    const ASKED: Request<'_> = Request { method: Method::Get, host: "lab", target: "/", then: Then::Keep };
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    /// A connection to somebody who waits for a request, says each of these, one write each, and ends the connection.
    async fn whose_server_says(pieces: &[&'static [u8]]) -> io::Result<Connection> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, pieces) = (listener.local_addr()?, pieces.to_vec());
        std::thread::spawn(move || -> io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let _ = stream.read(&mut [0; 1024])?;
            pieces.iter().try_for_each(|piece| stream.write_all(piece))
        });
        Connection::to(address).await
    }

    async fn asked(pieces: &[&'static [u8]]) -> Result<Answered, Failure> {
        let mut connection = whose_server_says(pieces).await.map_err(|_| Failure::Refused)?;
        connection.ask(ASKED).await
    }

    #[tokio::test]
    async fn answers_of_every_framing_are_whole() {
        let kept = Ok(Answered { status: 200, then: Then::Keep });
        let closed = Ok(Answered { status: 200, then: Then::Close });
        assert_eq!(asked(&[OK]).await, kept);
        assert_eq!(asked(&[b"HTTP/1.1 200 OK\r\nContent-", b"Length: 2\r\n\r\no", b"k"]).await, kept);
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(asked(&[chunked, b"2\r\no", b"k\r\n0\r", b"\n\r\n"]).await, kept);
        assert_eq!(asked(&[b"HTTP/1.0 200 OK\r\n\r\n", b"until ", b"the end"]).await, closed);
        assert_eq!(asked(&[b"HTTP/1.1 100 Continue\r\n\r\n", OK]).await, kept);
        let no_content = asked(&[b"HTTP/1.1 204 No Content\r\n\r\n"]).await;
        assert_eq!(no_content, Ok(Answered { status: 204, then: Then::Keep }));
    }

    #[tokio::test]
    async fn where_an_answer_was_cut_off_is_told() {
        assert_eq!(asked(&[]).await, Err(Failure::Unanswered));
        assert_eq!(asked(&[&OK[..9]]).await, Err(Failure::Cut));
        assert_eq!(asked(&[&OK[..OK.len() - 1]]).await, Err(Failure::Cut));
        assert_eq!(asked(&[b"220 mail\r\n"]).await, Err(Failure::NotHttp));
    }

    #[tokio::test]
    async fn a_second_answer_is_heard_and_an_end_is_none() -> io::Result<()> {
        const LONG: Duration = Duration::from_secs(10);
        let mut twice = whose_server_says(&[OK, OK]).await?;
        assert!(twice.ask(ASKED).await.is_ok());
        assert_eq!(twice.listen(LONG).await, Between::Surplus);
        let mut once = whose_server_says(&[OK]).await?;
        assert!(once.ask(ASKED).await.is_ok());
        assert_eq!(once.listen(LONG).await, Between::Quiet);
        Ok(())
    }

    #[tokio::test]
    async fn a_kept_connection_that_has_ended_is_seen_before_it_is_asked_on() -> io::Result<()> {
        let mut connection = whose_server_says(&[OK]).await?;
        assert!(connection.ask(ASKED).await.is_ok());
        connection.stream.readable().await?;
        assert_eq!(connection.between(), Between::Ended);
        Ok(())
    }
}
