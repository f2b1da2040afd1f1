//! One HTTP request and its answer, blocking.
//!
//! # Why the answer is written before the request is consumed
//!
//! The request stays in the socket, peeked and not taken, until the first bytes of the answer have been
//! written; only then is it consumed. A worker that dies at any moment therefore leaves one of two states
//! behind, and the door can tell them apart: the request whole and nothing written (it can be given to another
//! worker), or something written (it cannot). Were the request consumed first, a worker that dies between the
//! two calls would take it along.
//!
//! A request whose body was too large to wait for is consumed as the app reads it; such a one is never given
//! to another worker.

use std::io;
use std::net::SocketAddr;

use super::client::Client;
use super::next::{cut_short, refused, stalled};
use crate::http::answer::{AnswerHead, AnswerLength, Persistence};
use crate::http::chunked::Decoder;
use crate::http::{Framing, Head, Refusal};
use crate::link::{ScoreLine, Terms, TurnFrame};

/// How much of a body that the app did not read is read and dropped to keep the connection; more is not worth it.
const WORTH_DRAINING: u64 = 256 * 1024;
/// How much is read from a client at a time.
const PIECE: usize = 16 * 1024;
/// Answers up to this size go out in one write, head and body.
const ONE_WRITE: usize = 64 * 1024;

/// One request that waits for its answer.
#[derive(Debug)]
pub struct Exchange<'t> {
    client: &'t Client,
    peer: SocketAddr,
    head: Head<'t>,
    body: Body<'t>,
    /// Bytes of body that the pool still allows, for one that does not say its length.
    body_left: u64,
    stage: Stage,
    keep: bool,
    /// Where the door finds out how long the answer was to be, if this worker dies of it.
    line: ScoreLine<'t>,
    /// Reused from turn to turn, so that a small answer allocates nothing.
    out: &'t mut Vec<u8>,
}

/// Where the answer has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not one byte written.
    Unanswered,
    /// Begun.
    Answering,
    /// Written to its end.
    Answered,
}

/// Where the request's body comes from.
#[derive(Debug)]
enum Body<'t> {
    /// All of it has been peeked.
    Whole {
        /// What the app has not read yet, still encoded.
        rest: &'t [u8],
        framing: Unread,
        /// Bytes of the request in the socket, head included; 0 once consumed.
        in_socket: usize,
    },
    /// It is still on its way.
    Arriving {
        framing: Unread,
        /// Bytes of the head in the socket; 0 once consumed.
        head_in_socket: usize,
        /// Whether the client waits for `100 Continue`.
        awaits_continue: bool,
    },
}

/// What is left of a body, by its framing.
#[derive(Debug)]
enum Unread {
    Length(u64),
    Chunked(Decoder),
}

impl Unread {
    fn is_empty(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(decoder) => decoder.is_done(),
        }
    }
}

impl<'t> Exchange<'t> {
    /// An exchange over a request whose head is `head`, read from `peeked`, which also holds the whole body when
    /// `turn` says so.
    pub fn new(
        client: &'t Client,
        turn: &TurnFrame,
        head: Head<'t>,
        peeked: &'t [u8],
        terms: &Terms,
        line: ScoreLine<'t>,
        out: &'t mut Vec<u8>,
    ) -> Self {
        let framing = match head.framing {
            Framing::Length(length) => Unread::Length(length),
            Framing::Chunked => Unread::Chunked(Decoder::new()),
        };
        let whole = turn.whole as usize;
        let body = if whole >= head.len && whole <= peeked.len() {
            Body::Whole { rest: &peeked[head.len..whole], framing, in_socket: whole }
        } else {
            let awaits_continue = head.expects_continue && !turn.continued;
            Body::Arriving { framing, head_in_socket: head.len, awaits_continue }
        };
        let keep = head.keep_alive && !turn.last;
        let (peer, body_left) = (turn.peer, terms.body_bytes);
        Self { client, peer, head, body, body_left, stage: Stage::Unanswered, keep, line, out }
    }

    /// The request's head.
    pub fn head(&self) -> &Head<'t> {
        &self.head
    }

    /// The client's address, as the door sees it.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether nothing of an answer has been written.
    pub fn is_unanswered(&self) -> bool {
        self.stage == Stage::Unanswered
    }

    /// Reads on in the request's body; 0 at its end.
    ///
    /// # Errors
    /// The client has gone or stalls ([`io::ErrorKind::WouldBlock`]); or it sends what is no body, or more than the pool
    /// allows ([`io::ErrorKind::InvalidData`]). A handler that has not begun to answer may pass these on and leave the
    /// answer to the worker.
    pub fn read_body(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            let read = match &mut self.body {
                Body::Whole { framing, .. } | Body::Arriving { framing, .. } if framing.is_empty() => {
                    return Ok(0);
                }
                Body::Whole { rest: [], .. } => return Err(io::ErrorKind::UnexpectedEof.into()),
                Body::Whole { rest, framing, .. } => {
                    let (consumed, data) = decode(framing, rest, into)?;
                    *rest = &rest[consumed..];
                    data
                }
                // Its client waits for a word that cannot be said any more, and will hardly send the body.
                Body::Arriving { awaits_continue: true, .. } if self.stage != Stage::Unanswered => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Body::Arriving { framing, head_in_socket, awaits_continue } => {
                    self.client.discard(std::mem::take(head_in_socket))?;
                    if std::mem::take(awaits_continue) {
                        self.client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                    }
                    // Only what belongs to this request may be taken from the socket, so: look, decode, take.
                    let mut piece = [0; PIECE];
                    let peeked = self.client.peek(&mut piece).map_err(stalled)?;
                    if peeked == 0 {
                        return Err(refused(cut_short(self.client.fd(), self.line.is_cut_off())));
                    }
                    let (consumed, data) = decode(framing, &piece[..peeked], into)?;
                    self.client.discard(consumed)?;
                    data
                }
            };
            // Framing alone is no data, and not the end either.
            if read > 0 {
                let left = self.body_left.checked_sub(read as u64);
                self.body_left = left.ok_or_else(|| refused(Refusal::BodyTooLarge))?;
                return Ok(read);
            }
        }
    }

    /// Answers with all of a body.
    pub fn respond(&mut self, status: u16, content_type: &str, body: &[u8]) -> io::Result<()> {
        self.begin(status, content_type, AnswerLength::Known(body.len() as u64));
        let body = if self.head.method == "HEAD" { &[] } else { body };
        self.announce(self.out.len() + body.len());
        if self.out.len() + body.len() <= ONE_WRITE {
            self.out.extend(body);
            self.flush()?;
        } else {
            self.flush()?;
            self.client.write_all(body)?;
        }
        self.stage = Stage::Answered;
        Ok(())
    }

    /// Begins an answer whose body follows through [`Exchange::write`] and ends with [`Exchange::finish`].
    pub fn stream(&mut self, status: u16, content_type: &str) -> io::Result<()> {
        let length = if self.head.http_1_0 { AnswerLength::UntilClose } else { AnswerLength::Chunked };
        self.begin(status, content_type, length);
        self.flush()
    }

    /// Begins an answer whose body of `length` bytes follows through [`Exchange::write_raw`].
    pub fn begin_with_length(&mut self, status: u16, content_type: &str, length: u64) -> io::Result<()> {
        self.begin(status, content_type, AnswerLength::Known(length));
        self.flush()
    }

    /// Writes a piece of a streamed body.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.head.method == "HEAD" || piece.is_empty() {
            return Ok(());
        }
        if self.head.http_1_0 {
            return self.client.write_all(piece);
        }
        self.out.clear();
        self.out.extend(format!("{:x}\r\n", piece.len()).bytes());
        self.out.extend(piece);
        self.out.extend(b"\r\n");
        self.client.write_all(self.out)
    }

    /// Writes bytes of a body of known length.
    pub fn write_raw(&mut self, piece: &[u8]) -> io::Result<()> {
        self.client.write_all(piece)
    }

    /// Ends a streamed answer.
    pub fn finish(&mut self) -> io::Result<()> {
        if !self.head.http_1_0 && self.head.method != "HEAD" {
            self.client.write_all(b"0\r\n\r\n")?;
        }
        self.stage = Stage::Answered;
        Ok(())
    }

    /// Leaves the exchange where it is: its handler has failed. An HTTP/1.0 client takes the end of the connection for the
    /// end of an answer, so it is reset in the middle of one.
    pub fn abandon(self) {
        if self.stage == Stage::Answering && self.head.http_1_0 {
            self.client.reset();
        }
    }

    /// Leaves the exchange. Whether the connection can carry another request: the answer is complete, and nothing
    /// of this request is left in the socket to be mistaken for the next.
    pub fn close(mut self) -> io::Result<bool> {
        if self.stage != Stage::Answered {
            self.abandon();
            return Ok(false);
        }
        if !self.keep {
            return Ok(false);
        }
        if matches!(&self.body, Body::Arriving { awaits_continue: true, .. }) {
            // Nobody knows whether the body will come.
            return Ok(false);
        }
        let (mut waste, mut drained) = ([0; PIECE], 0);
        while drained <= WORTH_DRAINING {
            match self.read_body(&mut waste)? {
                0 => return Ok(true),
                read => drained += read as u64,
            }
        }
        Ok(false)
    }

    /// Tells the door how long the answer will be, in case this worker does not live to say that it is done.
    fn announce(&self, bytes: usize) {
        // What is left of a body that was not seen whole only this worker knows.
        if matches!(self.body, Body::Whole { .. }) {
            self.line.announce(bytes as u64, self.keep);
        }
    }

    fn begin(&mut self, status: u16, content_type: &str, length: AnswerLength) {
        self.keep &= length != AnswerLength::UntilClose;
        let persistence = match (self.keep, self.head.http_1_0) {
            (true, false) => Persistence::Keep,
            (true, true) => Persistence::KeepAlive10,
            (false, _) => Persistence::Close,
        };
        self.out.clear();
        AnswerHead { status, content_type, length, persistence, extra: "" }.write(self.out);
    }

    /// Writes what is in `out`; behind the first byte of an answer the request is consumed.
    fn flush(&mut self) -> io::Result<()> {
        self.stage = Stage::Answering;
        self.client.write_all(self.out)?;
        match &mut self.body {
            Body::Whole { in_socket, .. } => self.client.discard(std::mem::take(in_socket)),
            Body::Arriving { head_in_socket, .. } => self.client.discard(std::mem::take(head_in_socket)),
        }
    }
}

/// Decodes one piece of body from `input` to `into`: bytes of input used, bytes of data.
fn decode(framing: &mut Unread, input: &[u8], into: &mut [u8]) -> io::Result<(usize, usize)> {
    match framing {
        Unread::Length(left) => {
            let here = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len()).min(into.len());
            into[..here].copy_from_slice(&input[..here]);
            *left -= here as u64;
            Ok((here, here))
        }
        Unread::Chunked(decoder) => {
            // Data never outgrows its encoding, so as much input as there is room is never too much.
            let input = &input[..input.len().min(into.len())];
            let step = decoder.step(input).map_err(refused)?;
            into[..step.data.len()].copy_from_slice(step.data);
            Ok((step.consumed, step.data.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::super::next::refusal_in;
    use super::*;
    use crate::http::{HeaderSpace, parse_head};
    use crate::link::{Scoreboard, ScoreboardPen};

    /// What a client has got, and how the connection ended, when the handler of its request has done this and failed.
    fn failed(
        request: &[u8],
        handler: impl FnOnce(&mut Exchange<'_>) -> io::Result<()>,
    ) -> io::Result<(String, Option<io::ErrorKind>)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client_side = TcpStream::connect(listener.local_addr()?)?;
        let peer = client_side.local_addr()?;
        let client = Client::new(listener.accept()?.0.into());
        client_side.write_all(request)?;
        let time = Duration::from_secs(1);
        let terms = Terms { head_bytes: 512, body_bytes: 512, head: time, keep_alive: time };
        let whole = u32::try_from(request.len()).map_err(io::Error::other)?;
        let turn = TurnFrame { turn: 1, whole, acknowledge: false, continued: false, last: false, peer };
        let pen = ScoreboardPen::for_board(Scoreboard::new(1)?)?;
        let (mut space, mut out) = (HeaderSpace::new(), Vec::new());
        let head = parse_head(request, &mut space, 512).ok().flatten().ok_or(io::ErrorKind::InvalidInput)?;
        let mut exchange = Exchange::new(&client, &turn, head, request, &terms, pen.line(0, 1), &mut out);
        handler(&mut exchange)?;
        exchange.abandon();
        drop(client);
        let mut got = Vec::new();
        let end = client_side.read_to_end(&mut got).err().map(|error| error.kind());
        Ok((String::from_utf8_lossy(&got).into_owned(), end))
    }

    #[test]
    fn who_takes_the_end_for_the_end_of_the_answer_is_reset_in_the_middle_of_one() -> io::Result<()> {
        let old = b"GET / HTTP/1.0\r\n\r\n";
        let half = |exchange: &mut Exchange<'_>| {
            exchange.stream(200, "text/plain")?;
            exchange.write(b"half of")
        };
        assert_eq!(failed(old, half)?.1, Some(io::ErrorKind::ConnectionReset));
        let (got, end) = failed(old, |exchange| exchange.respond(200, "text/plain", b"all"))?;
        assert!(got.ends_with("all") && end.is_none(), "{got:?}, {end:?}");
        // Chunks without a last one are seen to be cut.
        let (got, end) = failed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", half)?;
        assert!(got.ends_with("half of\r\n") && end.is_none(), "{got:?}, {end:?}");
        Ok(())
    }

    #[test]
    fn only_a_client_that_stalls_is_told_that_it_does() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client_side = TcpStream::connect(listener.local_addr()?)?;
        let peer = client_side.local_addr()?;
        let (served, _) = listener.accept()?;
        // As the door sets it.
        served.set_read_timeout(Some(Duration::from_millis(20)))?;
        let client = Client::new(served.into());
        let request = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
        client_side.write_all(request)?;
        let time = Duration::from_secs(1);
        let terms = Terms { head_bytes: 512, body_bytes: 512, head: time, keep_alive: time };
        let turn = TurnFrame { turn: 1, whole: 0, acknowledge: false, continued: false, last: false, peer };
        let pen = ScoreboardPen::for_board(Scoreboard::new(1)?)?;
        let (mut space, mut out) = (HeaderSpace::new(), Vec::new());
        let head = parse_head(request, &mut space, 512).ok().flatten().ok_or(io::ErrorKind::InvalidInput)?;
        let mut exchange = Exchange::new(&client, &turn, head, request, &terms, pen.line(0, 1), &mut out);
        let stalled = exchange.read_body(&mut [0; 8]).err();
        assert_eq!(stalled.as_ref().map(io::Error::kind), Some(io::ErrorKind::WouldBlock));
        assert_eq!(stalled.as_ref().and_then(refusal_in), Some(Refusal::TooSlow));
        // A handler's own, of a queue that is full, say.
        assert_eq!(refusal_in(&io::ErrorKind::WouldBlock.into()), None);
        Ok(())
    }

    #[test]
    fn nobody_is_told_to_go_on_in_the_middle_of_an_answer() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client_side = TcpStream::connect(listener.local_addr()?)?;
        let peer = client_side.local_addr()?;
        let client = Client::new(listener.accept()?.0.into());
        let request = b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        client_side.write_all(request)?;

        let time = Duration::from_secs(1);
        let terms = Terms { head_bytes: 512, body_bytes: 512, head: time, keep_alive: time };
        let turn = TurnFrame { turn: 1, whole: 0, acknowledge: false, continued: false, last: false, peer };
        let pen = ScoreboardPen::for_board(Scoreboard::new(1)?)?;
        let (mut space, mut out) = (HeaderSpace::new(), Vec::new());
        let head = parse_head(request, &mut space, 512).ok().flatten().ok_or(io::ErrorKind::InvalidInput)?;
        let mut exchange = Exchange::new(&client, &turn, head, request, &terms, pen.line(0, 1), &mut out);
        exchange.stream(200, "text/plain")?;
        assert_eq!(
            exchange.read_body(&mut [0; 8]).map_err(|error| error.kind()),
            Err(io::ErrorKind::UnexpectedEof)
        );
        exchange.finish()?;
        assert!(!exchange.close()?, "the body may still come");

        client.end()?;
        let mut answer = String::new();
        client_side.read_to_string(&mut answer)?;
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("100 Continue"), "{answer}");
        Ok(())
    }
}
