//! The head of a request: request line and headers, and what they say about where the request ends.

use std::mem::MaybeUninit;

use super::Refusal;

/// How many headers a request may have. More are refused as a head that is too large.
pub const MOST_HEADERS: usize = 96;

/// Room for the headers of one head, on the caller's stack.
#[derive(Debug)]
pub struct HeaderSpace<'b>([MaybeUninit<httparse::Header<'b>>; MOST_HEADERS]);

impl HeaderSpace<'_> {
    /// Room, not initialised: it costs nothing until it is used.
    pub const fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; MOST_HEADERS])
    }
}

impl Default for HeaderSpace<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// A complete, well-formed head.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Bytes from the beginning of the input to the end of the empty line.
    pub len: usize,
    /// `GET`, or any other token.
    pub method: &'a str,
    /// As it stands in the request line.
    pub target: &'a str,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the client speaks HTTP/1.0.
    pub http_1_0: bool,
    /// Whether the client wants the connection kept open.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Whether the request carries an `Idempotency-Key`.
    pub idempotency_key: bool,
    headers: &'a [httparse::Header<'a>],
}

/// Where the body of a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes after the head; zero when the head names no length.
    Length(u64),
    /// After the last chunk.
    Chunked,
}

impl<'a> Head<'a> {
    /// The value of the first header of that name (in any case), if it is there.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// The target without scheme and host, which only clients of proxies send, and everybody has to take. It is `*` for
    /// what asks about the server as a whole, and empty or a bare query where a URI ends behind its host.
    pub fn path_and_query(&self) -> &'a str {
        behind_scheme(self.target).map_or(self.target, |rest| &rest[authority(rest).len()..])
    }

    /// Whether the method may be executed twice to the effect of once (RFC 9110, 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE")
    }

    /// Whether there is a body to read.
    pub fn has_body(&self) -> bool {
        self.framing != Framing::Length(0)
    }
}

/// Reads a head from the beginning of `bytes`. `None`: there is more to come, and what is there is well-formed
/// so far. `limit` is the most that a head may take, in bytes.
pub fn parse_head<'a>(
    bytes: &'a [u8],
    space: &'a mut HeaderSpace<'a>,
    limit: usize,
) -> Result<Option<Head<'a>>, Refusal> {
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(bytes, &mut space.0) {
        Ok(httparse::Status::Complete(len)) if len <= limit => len,
        Ok(httparse::Status::Complete(_)) => return Err(too_large(bytes, limit)),
        Ok(httparse::Status::Partial) if bytes.len() < limit => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(too_large(bytes, limit)),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(httparse::Error::Version) if names_another_version(bytes) => return Err(Refusal::Version),
        Err(httparse::Error::HeaderName) => {
            return Err(Refusal::Malformed("a header's name is not a token followed by a colon"));
        }
        Err(httparse::Error::HeaderValue) => {
            return Err(Refusal::Malformed("a header's value has a character that may not stand there"));
        }
        Err(httparse::Error::NewLine) => return Err(Refusal::Malformed("a line does not end in CR LF")),
        Err(_) => return Err(Refusal::Malformed("the request line is not METHOD TARGET HTTP/1.x")),
    };
    // httparse takes a bare line feed for the end of a line, as RFC 9112 allows. What stands before us may not.
    if has_bare_line_feed(&bytes[..len]) {
        return Err(Refusal::Malformed("a line ends in a bare line feed"));
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Refusal::Malformed("the request line is not METHOD TARGET HTTP/1.x"));
    };
    if method == "CONNECT" {
        return Err(Refusal::NotImplemented("CONNECT is for proxies"));
    }
    if !is_target(method, target) {
        return Err(Refusal::Malformed("the target is neither a path nor an http URI"));
    }
    let said = Said::from_headers(request.headers)?;
    let http_1_0 = minor == 0;
    if !http_1_0 && said.hosts != 1 {
        return Err(Refusal::Malformed("an HTTP/1.1 request has exactly one Host header"));
    }
    if said.hosts > 1 {
        return Err(Refusal::Malformed("a request has at most one Host header"));
    }
    let framing = match (said.length, said.transfer_coding) {
        (Some(_), Some(_)) => {
            return Err(Refusal::Malformed("Content-Length and Transfer-Encoding contradict each other"));
        }
        (_, Some(_)) if http_1_0 => {
            return Err(Refusal::Malformed("HTTP/1.0 has no Transfer-Encoding"));
        }
        (None, Some(TransferCoding::Chunked)) => Framing::Chunked,
        (None, Some(TransferCoding::Unknown)) => {
            return Err(Refusal::NotImplemented("the only transfer coding is a single 'chunked'"));
        }
        (None, Some(TransferCoding::Endless)) => {
            return Err(Refusal::Malformed("the last transfer coding is not 'chunked', once"));
        }
        (length, None) => Framing::Length(length.unwrap_or(0)),
    };
    Ok(Some(Head {
        len,
        method,
        target,
        framing,
        http_1_0,
        keep_alive: if http_1_0 { said.keep_alive && !said.close } else { !said.close },
        // An HTTP/1.0 client cannot be waiting for an interim answer (RFC 9110, 10.1.1).
        expects_continue: said.expects_continue && !http_1_0,
        idempotency_key: said.idempotency_key,
        headers: request.headers,
    }))
}

fn has_bare_line_feed(head: &[u8]) -> bool {
    let mut before = 0;
    head.iter().any(|&byte| {
        let bare = byte == b'\n' && before != b'\r';
        before = byte;
        bare
    })
}

/// Which part of a head that exceeds `limit` is to blame.
fn too_large(bytes: &[u8], limit: usize) -> Refusal {
    let bytes = bytes.trim_ascii_start();
    match bytes.iter().take(limit).position(|&byte| byte == b'\n') {
        None if bytes.len() >= limit => Refusal::TargetTooLong,
        _ => Refusal::HeadTooLarge,
    }
}

/// Whether the request line is one, but for a version that is not spoken here. Else it is no request at all.
fn names_another_version(bytes: &[u8]) -> bool {
    let line = bytes.trim_ascii_start().split(|&byte| byte == b'\r' || byte == b'\n').next();
    let mut words = line.unwrap_or_default().split(|&byte| byte == b' ');
    let version = words.nth(2).and_then(|word| word.strip_prefix(b"HTTP/"));
    words.next().is_none() && version.and_then(<[u8]>::first).is_some_and(u8::is_ascii_digit)
}

/// Whether a target is a path, the URI of one, or the `*` of `OPTIONS` (RFC 9112, 3.2). A host and a port are for
/// `CONNECT`, which is for proxies.
fn is_target(method: &str, target: &str) -> bool {
    target.starts_with('/')
        || (target == "*" && method == "OPTIONS")
        || behind_scheme(target).is_some_and(|rest| {
            let host = authority(rest);
            !host.is_empty() && host.bytes().all(stands_in_a_host)
        })
}

/// What follows on `http://` or `https://`.
fn behind_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    ["http", "https"].iter().any(|it| scheme.eq_ignore_ascii_case(it)).then_some(rest)
}

fn authority(rest: &str) -> &str {
    rest.split(['/', '?']).next().unwrap_or(rest)
}

/// Whether a byte may stand in a host and its port (RFC 3986, 3.2.2). There is no room for whoever may be named before
/// an `@`.
fn stands_in_a_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%[]:".contains(&byte)
}

/// What the headers say that matters for framing and persistence.
#[derive(Default)]
struct Said {
    hosts: usize,
    length: Option<u64>,
    transfer_coding: Option<TransferCoding>,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    idempotency_key: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TransferCoding {
    /// `chunked` and nothing else.
    Chunked,
    /// `chunked` around something that is not spoken here.
    Unknown,
    /// Something that does not say where it ends (RFC 9112, 6.3), or `chunked` twice.
    Endless,
}

impl TransferCoding {
    /// The codings so far, and those of one more header line. They are one list.
    fn and(before: Option<Self>, line: &[u8]) -> Self {
        list(line)
            .fold(before, |before, coding| {
                let chunked = coding.eq_ignore_ascii_case(b"chunked");
                Some(match (before, chunked) {
                    (None, true) => Self::Chunked,
                    (Some(Self::Endless), true) => Self::Unknown,
                    (None | Some(Self::Endless), false) | (Some(Self::Chunked | Self::Unknown), _) => {
                        Self::Endless
                    }
                })
            })
            .unwrap_or(Self::Endless)
    }
}

impl Said {
    fn from_headers(headers: &[httparse::Header<'_>]) -> Result<Self, Refusal> {
        let mut said = Self::default();
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            // The length of the name decides first: most headers are none of these.
            match header.name.len() {
                4 if is("host") => {
                    if !header.value.iter().all(|&byte| stands_in_a_host(byte)) {
                        return Err(Refusal::Malformed("the Host header does not name a host"));
                    }
                    said.hosts += 1;
                }
                6 if is("expect") => {
                    if !header.value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(Refusal::Expectation);
                    }
                    said.expects_continue = true;
                }
                10 if is("connection") => {
                    for option in list(header.value) {
                        said.close |= option.eq_ignore_ascii_case(b"close");
                        said.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if is("content-length") => {
                    if said.length.is_some() {
                        return Err(Refusal::Malformed("more than one Content-Length"));
                    }
                    said.length = Some(decimal(header.value)?);
                }
                15 if is("idempotency-key") => said.idempotency_key |= !header.value.is_empty(),
                17 if is("transfer-encoding") => {
                    said.transfer_coding = Some(TransferCoding::and(said.transfer_coding, header.value));
                }
                _ => {}
            }
        }
        Ok(said)
    }
}

/// The members of a comma-separated list, white space trimmed.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// Digits and nothing else: no sign, no white space, no list.
fn decimal(value: &[u8]) -> Result<u64, Refusal> {
    const WRONG: Refusal = Refusal::Malformed("Content-Length is not a number");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(WRONG);
    }
    std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or(WRONG)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(request: &str) -> Option<u16> {
        parse_head(request.as_bytes(), &mut HeaderSpace::new(), 1024).err().map(Refusal::status)
    }

    fn with_head<T>(request: &str, look: impl FnOnce(&Head<'_>) -> T) -> Result<T, Refusal> {
        let mut space = HeaderSpace::new();
        let head = parse_head(request.as_bytes(), &mut space, 1024)?;
        head.as_ref().map(look).ok_or(Refusal::Malformed("incomplete"))
    }

    #[test]
    fn what_frames_in_two_ways_is_refused() {
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
                501,
            ),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n", 501),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", 417),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, more\r\n\r\n", 417),
            ("\x16\x03\x01\x02\x00\x01\x00", 400),
        ] {
            assert_eq!(refused(request), Some(status), "{request:?}");
        }
    }

    #[test]
    fn what_names_no_target_host_or_version_is_refused() {
        for (request, status) in [
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET http://you@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: you@a\r\n\r\n", 400),
            ("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET / a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
            ("GET / http/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / \r\nHost: a\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GE\0T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nA\0: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: \x7f\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400),
            ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("\r\nGET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        ] {
            assert_eq!(refused(request), Some(status), "{request:?}");
        }
    }

    #[test]
    fn every_form_of_target_is_understood() -> Result<(), Refusal> {
        for (method, target, path) in [
            ("GET", "/a?b", "/a?b"),
            ("GET", "//a/b", "//a/b"),
            ("GET", "/a://b", "/a://b"),
            ("GET", "http://a/b?c", "/b?c"),
            ("GET", "HTTPS://a:80/b", "/b"),
            ("GET", "http://[::1]:80?c", "?c"),
            ("GET", "http://a", ""),
            ("OPTIONS", "*", "*"),
        ] {
            // Empty lines in front are what some clients send behind a body.
            let request = format!("\r\n\r\n{method} {target} HTTP/1.1\r\nHost: a.b:80\r\n\r\n");
            assert_eq!(with_head(&request, |head| head.path_and_query().to_owned())?, path, "{request:?}");
        }
        for host in ["", "a", "[::1]:80", "a_b.c:1", "\t a \t"] {
            let request = format!("GET / HTTP/1.1\r\nHost:{host}\r\n\r\n");
            assert!(with_head(&request, |_| ()).is_ok(), "{request:?}");
        }
        Ok(())
    }

    #[test]
    fn white_space_around_a_value_is_not_a_part_of_it() -> Result<(), Refusal> {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: \t 7 \t\r\n\r\n";
        assert_eq!(with_head(request, |head| head.framing)?, Framing::Length(7));
        let request = "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tChunked \r\n\r\n";
        assert_eq!(with_head(request, |head| head.framing)?, Framing::Chunked);
        let request = "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: \r\n\r\n";
        assert!(!with_head(request, |head| head.idempotency_key)?, "an empty key is none");
        Ok(())
    }

    #[test]
    fn a_head_over_the_limit_is_refused_before_it_is_complete() {
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(1024));
        assert_eq!(refused(&long), Some(414));
        assert_eq!(refused(&long[..1024]), Some(414));
        let cookie = format!("GET / HTTP/1.1\r\nCookie: {}", "a".repeat(1024));
        assert_eq!(refused(&cookie), Some(431));
        assert_eq!(refused(&"\r\n".repeat(512)), Some(431));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MOST_HEADERS + 1));
        assert_eq!(refused(&many), Some(431));
    }

    #[test]
    fn persistence_follows_version_and_connection() -> Result<(), Refusal> {
        for (request, keep) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
            ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", false),
        ] {
            assert_eq!(with_head(request, |head| head.keep_alive)?, keep, "{request:?}");
        }
        Ok(())
    }

    #[test]
    fn what_the_door_needs_is_read() -> Result<(), Refusal> {
        let request = "POST /a?b HTTP/1.1\r\nhOsT: a\r\nEXPECT: 100-Continue\r\nIdempotency-Key: 1\r\n\
                       Content-Length: 12\r\n\r\nbody";
        with_head(request, |head| {
            assert_eq!((head.method, head.target, head.len), ("POST", "/a?b", request.len() - 4));
            assert_eq!(head.framing, Framing::Length(12));
            assert!(
                head.expects_continue && head.idempotency_key && !head.is_idempotent() && head.has_body()
            );
            assert_eq!(head.header("Host"), Some(&b"a"[..]));
            assert_eq!(head.header("none"), None);
        })
    }

    proptest! {
        /// Door and worker may see the same request with more or fewer bytes behind it; what they read must not
        /// depend on that.
        #[test]
        fn what_follows_a_head_does_not_change_it(target in "/[a-z?=&]{0,20}", length in 0u64..100, tail: Vec<u8>) {
            let head = format!("PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
            let mut longer = head.clone().into_bytes();
            longer.extend(&tail);
            let (mut one, mut two) = (HeaderSpace::new(), HeaderSpace::new());
            let alone = parse_head(head.as_bytes(), &mut one, 4096)?.map(|head| (head.len, head.framing));
            let followed = parse_head(&longer, &mut two, 4096)?.map(|head| (head.len, head.framing));
            prop_assert_eq!(alone, Some((head.len(), Framing::Length(length))));
            prop_assert_eq!(alone, followed);
        }

        #[test]
        fn a_part_of_a_head_is_never_taken_for_a_whole(cut in 0usize..60) {
            let head = "GET /some/where HTTP/1.1\r\nHost: example\r\nAccept: */*\r\n\r\n";
            let part = &head.as_bytes()[..cut.min(head.len() - 1)];
            prop_assert!(parse_head(part, &mut HeaderSpace::new(), 4096)?.is_none());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = parse_head(&bytes, &mut HeaderSpace::new(), 64);
        }
    }
}
