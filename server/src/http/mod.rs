//! One strict reading of HTTP/1 requests, for door and worker alike.
//!
//! The door decides from these bytes where a request ends, and the worker then reads the same bytes from the
//! same socket. If the two disagreed by one byte, what the one takes for a body the other would take for the
//! next client's request: request smuggling. So there is one reader, it is strict (RFC 9112), and whatever
//! can be framed in two ways is refused at the door and never reaches a worker: `Content-Length` beside
//! `Transfer-Encoding`, more than one `Content-Length`, any transfer coding but a single `chunked`, a line that
//! ends in a bare line feed, white space before a colon, folded headers, a host that is none.
//!
//! Request line and headers are read by the crate `httparse`; what it lets pass and we do not is in [`head`].

pub mod answer;
pub mod chunked;
pub mod head;
pub mod problem;

use thiserror::Error;

pub use head::{Framing, Head, HeaderSpace, parse_head};

/// Why a request is refused, and with which status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not a request, or one that could be read in two ways: `400`.
    #[error("{0}")]
    Malformed(&'static str),
    /// The client took too long to send it: `408`.
    #[error("the request did not arrive in time")]
    TooSlow,
    /// The body that it announces is larger than the pool allows: `413`.
    #[error("the body is larger than this pool accepts")]
    BodyTooLarge,
    /// The request line alone is larger than the pool allows for a whole head: `414`.
    #[error("the request's target is longer than this pool accepts")]
    TargetTooLong,
    /// It expects what no server of this kind does: `417`.
    #[error("the only expectation that is met here is 100-continue")]
    Expectation,
    /// Request line and headers are larger than the pool allows, or too many: `431`.
    #[error("the request's head is larger than this pool accepts")]
    HeadTooLarge,
    /// A transfer coding or a method that a server of this kind does not speak: `501`.
    #[error("{0}")]
    NotImplemented(&'static str),
    /// Neither HTTP/1.0 nor HTTP/1.1: `505`.
    #[error("the HTTP version is neither 1.0 nor 1.1")]
    Version,
}

impl Refusal {
    /// The status code that says so.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::TooSlow => 408,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            Self::Expectation => 417,
            Self::HeadTooLarge => 431,
            Self::NotImplemented(_) => 501,
            Self::Version => 505,
        }
    }
}

/// Whether a client that has sent `bytes` since the request before has begun another one. Empty lines are none: some send
/// one behind a body (RFC 9112, 2.2).
pub fn has_begun(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| !b"\r\n".contains(byte))
}

/// Whether `target` can stand in a request line as the path and query of what is asked for (RFC 9112, 3.2.1), as it is: a
/// `/`, and then visible ASCII without what would need to be escaped. At most 2,000 bytes.
pub fn is_origin_form(target: &str) -> bool {
    let fits = |byte: u8| {
        byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`')
    };
    target.starts_with('/') && target.len() <= 2000 && target.bytes().all(fits)
}

/// The reason phrase of the status codes that door and apps use.
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::is_origin_form;

    #[test]
    fn what_would_be_another_request_is_no_path() {
        for path in ["/", "/work?ms=300", "/a/b%20c?d={e}&f|g", &format!("/{}", "a".repeat(1999))] {
            assert!(is_origin_form(path), "{path}");
        }
        let long = format!("/{}", "a".repeat(2000));
        for path in ["", "work", "*", "http://a/", "/a b", "/a\r\nHost: b", "/ä", "/a#b", "/a\0", &long] {
            assert!(!is_origin_form(path), "{path}");
        }
    }
}
