//! Through the door: one worker asks another as any client would, and is sent back what it has sent.
//!
//! The answer comes in chunks, for the worker that answers does not know beforehand how much it will be; behind the message
//! it says how long that was.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

/// Sends a message to whoever the door chooses, and receives it back.
///
/// # Errors
/// What the connection says; an answer that is none, or too short.
pub(super) fn ask(
    stream: &mut (impl Read + Write),
    host: SocketAddr,
    message: &[u8],
    into: &mut [u8],
) -> io::Result<()> {
    let head = format!("POST /body HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", message.len());
    let mut request = head.into_bytes();
    request.extend_from_slice(message);
    stream.write_all(&request)?;
    let (mut answer, mut piece) = (Vec::with_capacity(2 * message.len()), vec![0; 64 * 1024]);
    loop {
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&piece[..read]),
        }
        // The last chunk is empty; looked for only at the end, or long answers would be read again and again.
        if !answer.ends_with(b"\r\n0\r\n\r\n") {
            continue;
        }
        if let Some(body) = body(&answer)? {
            let sent_back = body.get(..into.len()).ok_or(io::ErrorKind::InvalidData)?;
            into.copy_from_slice(sent_back);
            return Ok(());
        }
    }
}

/// The body of an answer in chunks; `None` if more is to come.
fn body(answer: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let broken = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") || !head.contains("transfer-encoding: chunked") {
        return Err(broken(format!("the door answers other than expected: {head}")));
    }
    let mut body = Vec::with_capacity(answer.len());
    let mut rest = &answer[end + 4..];
    loop {
        let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let text = String::from_utf8_lossy(&rest[..line]).into_owned();
        let len =
            usize::from_str_radix(text.trim(), 16).map_err(|_| broken(format!("no chunk: {text:?}")))?;
        let (from, to) = (line + 2, line + 2 + len);
        let Some(chunk) = rest.get(from..to).filter(|_| rest.len() >= to + 2) else { return Ok(None) };
        if len == 0 {
            return Ok(Some(body));
        }
        body.extend_from_slice(chunk);
        rest = &rest[to + 2..];
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";

    #[test]
    fn chunks_are_put_together_when_the_last_one_is_there() {
        assert_eq!(body(ANSWER).unwrap().as_deref(), Some(&b"abcde"[..]));
        for end in 0..ANSWER.len() {
            assert_eq!(body(&ANSWER[..end]).unwrap(), None, "of {end} bytes");
        }
    }

    #[test]
    fn what_is_no_answer_is_told() {
        assert!(body(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
