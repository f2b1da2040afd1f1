//! Server-sent events, read from bytes that come in any pieces.
//!
//! The format is the WHATWG's (HTML, section 9.2): lines that end in CR, LF or both; `field: value`; a line that
//! begins with a colon is a comment; an empty line ends the frame. A piece may end anywhere, in the middle of a
//! character too, so nothing is looked at before its line is whole. `retry` is not heeded: how long to wait is
//! decided here, not by whoever answers.

use thiserror::Error;

/// The largest frame that is read, in bytes. The state of a thousand workers has half a megabyte.
const LARGEST: usize = 16 << 20;

/// A frame with data in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// Its id, where it has one.
    pub(super) id: Option<String>,
    /// Its name; `message` when it does not say.
    pub(super) event: String,
    /// Its lines of data.
    pub(super) data: String,
}

/// What was sent is no stream of events: no frame has so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an event has more than {} MiB", LARGEST >> 20)]
pub(super) struct TooLarge;

/// What of the stream has not come to a frame yet.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// The line that is being read.
    line: Vec<u8>,
    /// The last byte was a CR: an LF right after it ends the same line.
    after_cr: bool,
    /// The first line has been read: it alone may begin with a byte order mark.
    begun: bool,
    id: Option<String>,
    event: Option<String>,
    data: Option<String>,
}

impl Parser {
    /// The frames that end in `bytes`. After an error the stream is of no use any more.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, TooLarge> {
        let mut frames = Vec::new();
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let (piece, ended_by) = match end {
                Some(at) => (&rest[..at], Some(rest[at])),
                None => (rest, None),
            };
            if self.line.len() + piece.len() + self.data.as_ref().map_or(0, String::len) > LARGEST {
                return Err(TooLarge);
            }
            self.line.extend_from_slice(piece);
            rest = &rest[piece.len() + usize::from(ended_by.is_some())..];
            if let Some(end) = ended_by {
                self.after_cr = end == b'\r';
                let line = std::mem::take(&mut self.line);
                frames.extend(self.line_ended(&String::from_utf8_lossy(&line)));
            }
        }
        Ok(frames)
    }

    /// The frame that this line ends, if it ends one.
    fn line_ended(&mut self, line: &str) -> Option<Frame> {
        let line = match std::mem::replace(&mut self.begun, true) {
            true => line,
            false => line.strip_prefix('\u{feff}').unwrap_or(line),
        };
        if line.is_empty() {
            return self.frame_ended();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            "event" => self.event = Some(value.to_owned()),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // A comment, `retry`, or a field of a later day.
            _ => {}
        }
        None
    }

    fn frame_ended(&mut self) -> Option<Frame> {
        let (id, event, data) = (self.id.take(), self.event.take(), self.data.take());
        let event = event.filter(|event| !event.is_empty()).unwrap_or_else(|| "message".to_owned());
        Some(Frame { id: id.filter(|id| !id.is_empty()), event, data: data? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(id: Option<&str>, event: &str, data: &str) -> Frame {
        Frame { id: id.map(str::to_owned), event: event.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn a_stream_is_read_as_the_standard_says() {
        let said = "\u{feff}: alive\n\nid: k3f9x2-1\nevent: worker\ndata: {\"a\":1}\n\n\
                    data\ndata:  two\nretry: 5\nunknown: x\n\nid: only\n\nevent: state\rdata:{}\r\rdata: never ended\n";
        assert_eq!(
            Parser::default().feed(said.as_bytes()),
            Ok(vec![
                frame(Some("k3f9x2-1"), "worker", "{\"a\":1}"),
                frame(None, "message", "\n two"),
                frame(None, "state", "{}"),
            ])
        );
    }

    #[test]
    fn a_frame_without_end_is_given_up() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        let fed = (0..32).map(|_| parser.feed(&piece)).find(Result::is_err);
        assert_eq!(fed, Some(Err(TooLarge)));
        let mut parser = Parser::default();
        let line = [b"data: ", piece.as_slice(), b"\n"].concat();
        let fed = (0..32).map(|_| parser.feed(&line)).find(Result::is_err);
        assert_eq!(fed, Some(Err(TooLarge)));
    }

    /// What may stand in a field: no line ends.
    const VALUE: &str = "[^\r\n\0\u{feff}]{0,12}";

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let data = proptest::collection::vec(VALUE, 1..4).prop_map(|lines| lines.join("\n"));
        let one = (proptest::option::of("[a-z0-9]{1,6}-[0-9]{1,3}"), "[a-z]{1,8}", data);
        let one = one.prop_map(|(id, event, data)| Frame { id, event, data });
        proptest::collection::vec(one, 0..6)
    }

    /// The frames as somebody could send them: `line_end` after each line, and a comment before each frame.
    fn spelt(frames: &[Frame], line_end: &str, comment: &str) -> String {
        let mut text = String::new();
        let mut line = |words: &str| text += &format!("{words}{line_end}");
        for Frame { id, event, data } in frames {
            line(&format!(":{comment}"));
            if let Some(id) = id {
                line(&format!("id: {id}"));
            }
            line(&format!("event: {event}"));
            for data in data.split('\n') {
                line(&format!("data: {data}"));
            }
            line("");
        }
        text
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(
            frames in frames(),
            line_end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
            comment in VALUE,
            cuts in proptest::collection::vec(1_usize..9, 1..20),
        ) {
            let text = spelt(&frames, line_end, &comment);
            let (mut rest, mut parser, mut read) = (text.as_bytes(), Parser::default(), Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, left) = rest.split_at((*cut).min(rest.len()));
                read.extend(parser.feed(piece)?);
                rest = left;
            }
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn no_bytes_are_too_strange(bytes: Vec<u8>, cut: prop::sample::Index) {
            let whole = Parser::default().feed(&bytes);
            let (one, two) = bytes.split_at(cut.index(bytes.len() + 1));
            let mut parser = Parser::default();
            let mut pieces = parser.feed(one)?;
            pieces.extend(parser.feed(two)?);
            prop_assert_eq!(whole, Ok(pieces));
        }
    }
}
