//! The head of an answer, as bytes.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use super::reason;

/// What stands in the head of an answer.
#[derive(Debug, Clone, Copy)]
pub struct AnswerHead<'a> {
    /// The status code.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'a str,
    /// Where the body ends.
    pub length: AnswerLength,
    /// What becomes of the connection.
    pub persistence: Persistence,
    /// Further header lines, each ending in CR LF.
    pub extra: &'a str,
}

/// Where the body of an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerLength {
    /// After so many bytes.
    Known(u64),
    /// After the last chunk.
    Chunked,
    /// Where the connection ends, for clients that know no chunks.
    UntilClose,
}

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// It stays open, which HTTP/1.1 takes for granted.
    Keep,
    /// It stays open, and an HTTP/1.0 client has to be told.
    KeepAlive10,
    /// It is closed.
    Close,
}

impl AnswerHead<'_> {
    /// Writes status line, headers and the empty line to the end of `to`.
    pub fn write(&self, to: &mut Vec<u8>) {
        let mut head = HeadWriter(to);
        head.line(format_args!("HTTP/1.1 {} {}", self.status, reason(self.status)));
        with_date(|date| head.line(format_args!("date: {date}")));
        if !self.content_type.is_empty() {
            head.line(format_args!("content-type: {}", self.content_type));
        }
        match self.length {
            AnswerLength::Known(length) => head.line(format_args!("content-length: {length}")),
            AnswerLength::Chunked => head.line(format_args!("transfer-encoding: chunked")),
            AnswerLength::UntilClose => {}
        }
        match self.persistence {
            Persistence::Keep => {}
            Persistence::KeepAlive10 => head.line(format_args!("connection: keep-alive")),
            Persistence::Close => head.line(format_args!("connection: close")),
        }
        to.extend(self.extra.bytes());
        to.extend(b"\r\n");
    }
}

struct HeadWriter<'v>(&'v mut Vec<u8>);

impl std::fmt::Write for HeadWriter<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend(text.bytes());
        Ok(())
    }
}

impl HeadWriter<'_> {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a vector cannot fail.
        let _ = self.write_fmt(text);
        self.0.extend(b"\r\n");
    }
}

/// The date as HTTP wants it, made once a second.
fn with_date(then: impl FnOnce(&str)) {
    thread_local! {
        static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(made, date)| {
        if *made != second || date.is_empty() {
            *date = httpdate::fmt_http_date(now);
            *made = second;
        }
        then(date);
    });
}
