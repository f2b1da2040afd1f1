//! A client that hides nothing: bytes out, bytes in, and whether the connection ended or was reset.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::PATIENCE;

/// One connection.
pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body reached the end that its head announced.
    pub complete: bool,
}

impl Connection {
    pub fn to(address: SocketAddr) -> Self {
        Self::try_to(address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"))
    }

    /// The same where nobody may be listening.
    pub fn try_to(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// Sends where the other side may have gone.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// The client's own address.
    pub fn address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// The sending half, for whoever has to send and read at the same time.
    pub fn sender(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    pub fn get(&mut self, target: &str) -> Response {
        self.send_get(target);
        self.response()
    }

    pub fn send_get(&mut self, target: &str) -> &mut Self {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    pub fn send_post(&mut self, target: &str, body: &str) -> &mut Self {
        self.send(format!(
            "POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    /// Says that nothing more will be sent.
    pub fn end(&mut self) -> &mut Self {
        self.stream.shutdown(Shutdown::Write).unwrap();
        self
    }

    pub fn response(&mut self) -> Response {
        self.try_response().unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// The next answer; an error when the connection ends or is reset before its head is complete.
    pub fn try_response(&mut self) -> io::Result<Response> {
        self.response_to("GET")
    }

    /// The answer to a request of that method.
    pub fn response_to(&mut self, method: &str) -> io::Result<Response> {
        let (status, headers) = loop {
            let mut space = [httparse::EMPTY_HEADER; 32];
            let mut response = httparse::Response::new(&mut space);
            if let httparse::Status::Complete(len) = response.parse(&self.unread).map_err(io::Error::other)? {
                let status = response.code.unwrap_or_default();
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers: Vec<_> =
                    response.headers.iter().map(|it| (it.name.to_lowercase(), text(it.value))).collect();
                self.unread.drain(..len);
                break (status, headers);
            }
            if self.more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let header = |name: &str| headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str());
        let (body, complete) = if method == "HEAD" || status == 100 {
            (Vec::new(), true)
        } else if header("transfer-encoding") == Some("chunked") {
            self.chunks()
        } else if let Some(length) = header("content-length").map(|length| length.parse::<usize>().unwrap()) {
            while self.unread.len() < length && matches!(self.more(), Ok(1..)) {}
            let here = length.min(self.unread.len());
            (self.unread.drain(..here).collect(), here == length)
        } else {
            let mut end = self.more();
            while matches!(end, Ok(1..)) {
                end = self.more();
            }
            (std::mem::take(&mut self.unread), end.is_ok())
        };
        Ok(Response { status, headers, body, complete })
    }

    /// Reads on until the other side closes; what came. A reset is an error.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.more()? > 0 {}
        Ok(std::mem::take(&mut self.unread))
    }

    /// Whether it was reset behind what has been read.
    pub fn was_reset(&self) -> bool {
        self.stream.take_error().unwrap().is_some()
    }

    /// Reads until so many bytes are there, and takes them.
    pub fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        while self.unread.len() < bytes {
            assert!(self.more().unwrap() > 0, "the connection ended after {:?}", self.unread);
        }
        self.unread.drain(..bytes).collect()
    }

    fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            match httparse::parse_chunk_size(&self.unread) {
                Ok(httparse::Status::Complete((line, size))) => {
                    let (size, end) = (size as usize, line + size as usize + 2);
                    while self.unread.len() < end {
                        if !matches!(self.more(), Ok(1..)) {
                            return (body, false);
                        }
                    }
                    body.extend(&self.unread[line..line + size]);
                    self.unread.drain(..end);
                    if size == 0 {
                        return (body, true);
                    }
                }
                Ok(httparse::Status::Partial) if matches!(self.more(), Ok(1..)) => {}
                _ => return (body, false),
            }
        }
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let read = loop {
            match self.stream.read(&mut piece) {
                // A socket with a time-out is not read anew by itself when its process has been stopped and continued.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.unread.extend(&piece[..read]);
        Ok(read)
    }
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The value of `name: value` on the demo's front page.
    pub fn line(&self, name: &str) -> String {
        let text = self.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no line {name} in {text}")).to_owned()
    }
}
