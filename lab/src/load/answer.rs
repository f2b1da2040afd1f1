//! An answer, read as far as a client has to: its status, where it ends, and whether its connection goes on behind it.
//!
//! Bodies are passed over and kept nowhere, in whatever way they are framed (RFC 9112, 6.3): by their length, in chunks, by
//! the end of the connection, or not at all. What nobody may answer in that way is refused, for where such an answer ends
//! every reader guesses for himself.

use std::mem::MaybeUninit;

use httparse::{Header, Response, Status};
use server::http::chunked::Decoder;

/// More headers than this no healthy server sends.
const MOST_HEADERS: usize = 128;
/// Nor a longer head.
const LONGEST_HEAD: usize = 64 * 1024;

/// It is no HTTP answer, or one whose end nobody can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoAnswer;

/// What stands before an answer's body.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    /// In bytes.
    pub(super) len: usize,
    pub(super) body: Body,
    /// Whether the server means to take another request behind this answer.
    pub(super) keep_alive: bool,
}

/// What is still to come of a body.
#[derive(Debug)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    Chunked(Decoder),
    /// Whatever comes before the connection ends.
    UntilTheEnd,
}

impl Head {
    /// From the beginning of `bytes`; `None` as long as it is not whole.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, NoAnswer> {
        let mut space = [MaybeUninit::<Header<'_>>::uninit(); MOST_HEADERS];
        let mut response = Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            bytes,
            &mut space,
        );
        let len = match parsed {
            Ok(Status::Complete(len)) => len,
            Ok(Status::Partial) if bytes.len() < LONGEST_HEAD => return Ok(None),
            Ok(Status::Partial) | Err(_) => return Err(NoAnswer),
        };
        let (status, minor) = (response.code.ok_or(NoAnswer)?, response.version.ok_or(NoAnswer)?);
        let said = Said::from_headers(response.headers)?;
        let body = match (said.coding, said.length) {
            // Of these the first two have no body whatever they say, and 101 is the end of HTTP.
            _ if matches!(status, 100..200 | 204 | 304) => Body::Length(0),
            (Some(Coding::Chunked), _) => Body::Chunked(Decoder::new()),
            (Some(Coding::Other), _) | (None, None) => Body::UntilTheEnd,
            (None, Some(length)) => Body::Length(length),
        };
        let wanted = if minor == 0 { said.keep_alive && !said.close } else { !said.close };
        // Whoever says both a length and a coding is read by the coding and trusted no further.
        let framed = match body {
            Body::UntilTheEnd => false,
            Body::Length(_) => true,
            Body::Chunked(_) => minor == 1 && said.length.is_none(),
        };
        Ok(Some(Self { status, len, body, keep_alive: wanted && framed && status != 101 }))
    }

    /// Whether the answer proper is still to come: `100 Continue`, `103 Early Hints`.
    pub(super) fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..200)
    }
}

impl Body {
    /// Passes over what belongs to it at the beginning of `bytes`; how much that is.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<usize, NoAnswer> {
        match self {
            Self::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= here as u64;
                Ok(here)
            }
            Self::Chunked(decoder) => {
                let mut at = 0;
                while at < bytes.len() && !decoder.is_done() {
                    at += decoder.step(&bytes[at..]).map_err(|_| NoAnswer)?.consumed;
                }
                Ok(at)
            }
            Self::UntilTheEnd => Ok(bytes.len()),
        }
    }

    /// Whether nothing more is to come.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(decoder) => decoder.is_done(),
            Self::UntilTheEnd => false,
        }
    }
}

/// The last transfer coding, which alone says where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    Other,
}

/// What the headers say about framing.
#[derive(Debug, Default)]
struct Said {
    length: Option<u64>,
    coding: Option<Coding>,
    close: bool,
    keep_alive: bool,
}

impl Said {
    fn from_headers(headers: &[Header<'_>]) -> Result<Self, NoAnswer> {
        let mut said = Self::default();
        for Header { name, value } in headers {
            let tokens = || value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            if name.eq_ignore_ascii_case("content-length") {
                for token in tokens() {
                    let digits = !token.is_empty() && token.iter().all(u8::is_ascii_digit);
                    let length = std::str::from_utf8(token).ok().filter(|_| digits);
                    let length: u64 = length.and_then(|it| it.parse().ok()).ok_or(NoAnswer)?;
                    // Said twice it has to be the same.
                    if said.length.replace(length).is_some_and(|before| before != length) {
                        return Err(NoAnswer);
                    }
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                for token in tokens().filter(|token| !token.is_empty()) {
                    let chunked = token.eq_ignore_ascii_case(b"chunked");
                    said.coding = Some(if chunked { Coding::Chunked } else { Coding::Other });
                }
            } else if name.eq_ignore_ascii_case("connection") {
                said.close |= tokens().any(|token| token.eq_ignore_ascii_case(b"close"));
                said.keep_alive |= tokens().any(|token| token.eq_ignore_ascii_case(b"keep-alive"));
            }
        }
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of an answer in one piece: its status, whether it is whole without the connection's end, how much of it is left
    /// over, and whether the connection goes on.
    fn read(text: &str) -> Result<Option<(u16, bool, usize, bool)>, NoAnswer> {
        let bytes = text.as_bytes();
        let Some(mut head) = Head::parse(bytes)? else { return Ok(None) };
        let passed = head.body.pass(&bytes[head.len..])?;
        let left = bytes.len() - head.len - passed;
        Ok(Some((head.status, head.body.is_whole(), left, head.keep_alive)))
    }

    #[test]
    fn an_answer_ends_where_its_framing_says() {
        let whole = |text: &str| read(text).map(|it| it.map(|(_, whole, left, _)| (whole, left)));
        assert_eq!(whole("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Ok(Some((true, 0))));
        assert_eq!(whole("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP"), Ok(Some((true, 4))));
        assert_eq!(whole("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok"), Ok(Some((false, 0))));
        assert_eq!(whole("HTTP/1.1 204 No Content\r\n\r\n"), Ok(Some((true, 0))));
        assert_eq!(whole("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"), Ok(Some((true, 0))));
        assert_eq!(whole("HTTP/1.0 200 OK\r\n\r\nas long as it lasts"), Ok(Some((false, 0))));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(whole(&format!("{chunked}2\r\nok\r\n")), Ok(Some((false, 0))));
        assert_eq!(whole(&format!("{chunked}2;a=b\r\nok\r\n0\r\nX: y\r\n\r\nmore")), Ok(Some((true, 4))));
        assert_eq!(whole(&format!("{chunked}nonsense")), Err(NoAnswer));
    }

    #[test]
    fn a_head_in_pieces_is_waited_for_and_what_is_none_is_refused() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert!((0..text.len()).all(|len| read(&text[..len]) == Ok(None)));
        assert!(read(text).is_ok_and(|it| it.is_some()));
        for none in [
            "SSH-2.0-OpenSSH_9.2\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
        ] {
            assert_eq!(read(none), Err(NoAnswer), "{none}");
        }
        assert_eq!(read(&format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(LONGEST_HEAD))), Err(NoAnswer));
    }

    #[test]
    fn a_connection_goes_on_if_its_server_says_so_and_the_answer_has_an_end_of_its_own() {
        let kept = |version: &str, headers: &str| {
            read(&format!("HTTP/{version} 200 OK\r\n{headers}\r\n")).map(|it| it.map(|(.., kept)| kept))
        };
        assert_eq!(kept("1.1", "Content-Length: 0\r\n"), Ok(Some(true)));
        assert_eq!(kept("1.1", "Content-Length: 0\r\nConnection: te, Close\r\n"), Ok(Some(false)));
        assert_eq!(kept("1.1", ""), Ok(Some(false)));
        assert_eq!(kept("1.1", "Transfer-Encoding: chunked\r\n"), Ok(Some(true)));
        assert_eq!(kept("1.1", "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), Ok(Some(false)));
        assert_eq!(kept("1.1", "Transfer-Encoding: chunked, gzip\r\n"), Ok(Some(false)));
        assert_eq!(kept("1.0", "Content-Length: 0\r\n"), Ok(Some(false)));
        assert_eq!(kept("1.0", "Content-Length: 0\r\nConnection: Keep-Alive\r\n"), Ok(Some(true)));
    }

    #[test]
    fn what_comes_before_an_answer_is_not_taken_for_it() {
        let interim = |status: u16| {
            Head::parse(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes())
                .map(|head| head.is_some_and(|head| head.is_interim() && head.body.is_whole()))
        };
        assert_eq!([100, 103].map(interim), [Ok(true); 2]);
        assert_eq!([101, 200, 404].map(interim), [Ok(false); 3]);
    }
}
