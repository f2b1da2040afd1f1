//! The chunked transfer coding (RFC 9112, 7.1), decoded step by step and without a buffer of its own.
//!
//! The door runs a [`Decoder`] over the bytes that it peeks, to learn whether a small chunked body is there to
//! its end; the worker runs one over the bytes that it reads. Chunk extensions and trailers are passed over, but they
//! are bounded, they have to look like what they are, and every line ends in CR LF: what another reader might take for
//! something else is no body.

use super::Refusal;

/// The most that one chunk's size line may take, extensions included.
const LONGEST_SIZE_LINE: u32 = 256;
/// The most that all trailers may take together.
const LONGEST_TRAILERS: u32 = 8 * 1024;

/// Where in a chunked body the next byte belongs.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a size line: the size so far, its digits, the bytes of this line.
    Size { size: u64, digits: u32, line: u32 },
    /// Behind the size, in white space, which only an extension may follow.
    Space { size: u64, line: u32 },
    /// In an extension.
    Extension { size: u64, line: u32 },
    /// The CR of a size line has been read.
    SizeEnd { size: u64 },
    /// In a chunk's data.
    Data { left: u64 },
    /// Behind a chunk's data, before its CR.
    DataCr,
    /// Before its LF.
    DataLf,
    /// At the beginning of a trailer line or of the empty line that ends the body.
    Trailer { total: u32 },
    /// In the name of a trailer.
    TrailerName { total: u32 },
    /// In its value.
    TrailerLine { total: u32 },
    /// The CR of a trailer line has been read.
    TrailerEnd { total: u32 },
    /// The CR of the last, empty line has been read.
    LastLf,
    /// Behind the body.
    Done,
}

/// One step of decoding.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<'b> {
    /// How much of the input belongs to the body's encoding so far.
    pub consumed: usize,
    /// The data in it, which may be empty.
    pub data: &'b [u8],
}

impl Decoder {
    /// At the beginning of a body.
    pub fn new() -> Self {
        Self { state: State::Size { size: 0, digits: 0, line: 0 } }
    }

    /// Whether the body has been read to its end.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads on from the beginning of `input`, up to the end of the next piece of data, the end of the body, or
    /// the end of the input, whichever comes first.
    pub fn step<'b>(&mut self, input: &'b [u8]) -> Result<Step<'b>, Refusal> {
        let mut at = 0;
        while at < input.len() {
            if let State::Data { left } = self.state {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                let left = left - here as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                return Ok(Step { consumed: at + here, data: &input[at..at + here] });
            }
            if self.is_done() {
                break;
            }
            self.state = self.state.after(input[at])?;
            at += 1;
        }
        Ok(Step { consumed: at, data: &[] })
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// The state after one byte outside a chunk's data.
    fn after(self, byte: u8) -> Result<Self, Refusal> {
        const SIZE: Refusal = Refusal::Malformed("a chunk's size is not a hexadecimal number");
        const END: Refusal = Refusal::Malformed("a chunk does not end in CR LF where its size says");
        const TRAILER: Refusal = Refusal::Malformed("a trailer's name is not a token followed by a colon");
        const LONG: Refusal = Refusal::Malformed("a chunk's size line or the trailers are too long");
        Ok(match (self, byte) {
            (
                Self::Size { line: LONGEST_SIZE_LINE, .. }
                | Self::Space { line: LONGEST_SIZE_LINE, .. }
                | Self::Extension { line: LONGEST_SIZE_LINE, .. },
                _,
            ) => {
                return Err(LONG);
            }
            (Self::Size { size, digits, line }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    _ => (byte | 0x20) - b'a' + 10,
                };
                let size =
                    size.checked_mul(16).and_then(|size| size.checked_add(digit.into())).ok_or(SIZE)?;
                Self::Size { size, digits: digits + 1, line: line + 1 }
            }
            (Self::Size { digits: 0, .. }, _) => return Err(SIZE),
            (Self::Size { size, line, .. } | Self::Space { size, line }, b';') => {
                Self::Extension { size, line: line + 1 }
            }
            (Self::Size { size, line, .. } | Self::Space { size, line }, b' ' | b'\t') => {
                Self::Space { size, line: line + 1 }
            }
            (Self::Size { size, .. } | Self::Extension { size, .. }, b'\r') => Self::SizeEnd { size },
            (Self::Size { .. } | Self::Space { .. }, _) => return Err(SIZE),
            (Self::Extension { .. }, control) if is_control(control) => return Err(END),
            (Self::Extension { size, line }, _) => Self::Extension { size, line: line + 1 },
            (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailer { total: 0 },
            (Self::SizeEnd { size }, b'\n') => Self::Data { left: size },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { size: 0, digits: 0, line: 0 },
            (
                Self::Trailer { total: LONGEST_TRAILERS }
                | Self::TrailerName { total: LONGEST_TRAILERS }
                | Self::TrailerLine { total: LONGEST_TRAILERS },
                _,
            ) => {
                return Err(LONG);
            }
            (Self::Trailer { .. }, b'\r') => Self::LastLf,
            (Self::Trailer { total } | Self::TrailerName { total }, name) if is_token(name) => {
                Self::TrailerName { total: total + 1 }
            }
            (Self::TrailerName { total }, b':') => Self::TrailerLine { total: total + 1 },
            (Self::Trailer { .. } | Self::TrailerName { .. }, _) => return Err(TRAILER),
            (Self::TrailerLine { total }, b'\r') => Self::TrailerEnd { total },
            (Self::TrailerLine { .. }, control) if is_control(control) => return Err(END),
            (Self::TrailerLine { total }, _) => Self::TrailerLine { total: total + 1 },
            (Self::TrailerEnd { total }, b'\n') => Self::Trailer { total },
            (Self::LastLf, b'\n') => Self::Done,
            (
                Self::SizeEnd { .. } | Self::DataCr | Self::DataLf | Self::TrailerEnd { .. } | Self::LastLf,
                _,
            ) => {
                return Err(END);
            }
            // `step` hands us neither of these.
            (Self::Data { .. } | Self::Done, _) => self,
        })
    }
}

/// What may not stand in an extension or a trailer: everything below space but the tab.
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// Whether a byte may stand in a name (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes `input`, given in pieces of `size` bytes; the data and how much was consumed at the end.
    fn decode(input: &[u8], size: usize) -> Result<(Vec<u8>, usize, bool), Refusal> {
        let (mut decoder, mut data, mut at) = (Decoder::new(), Vec::new(), 0);
        while at < input.len() && !decoder.is_done() {
            let piece = &input[at..input.len().min(at + size)];
            let step = decoder.step(piece)?;
            data.extend(step.data);
            at += step.consumed;
        }
        Ok((data, at, decoder.is_done()))
    }

    #[test]
    fn a_body_ends_where_it_says() -> Result<(), Refusal> {
        let body =
            b"4\r\nWiki\r\n5 ;ext=\"a\";\tb\r\npedia\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /";
        let (data, consumed, done) = decode(body, 1000)?;
        assert_eq!((data.as_slice(), consumed, done), (&b"Wikipedia0123456789"[..], body.len() - 5, true));
        Ok(())
    }

    #[test]
    fn what_is_not_chunked_is_refused() {
        let long = format!("1;{}\r\n", "x".repeat(300));
        let zeros = format!("{}1\r\n", "0".repeat(300));
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(3000));
        for wrong in [
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "10000000000000000\r\n",
            "0\r\n\n",
            "1 1\r\na\r\n",
            "1 \r\na\r\n",
            " 1\r\na\r\n",
            "0x1\r\na\r\n",
            "+1\r\na\r\n",
            "1\r\r\na\r\n",
            "1;a\rb\r\na\r\n",
            "1;a\n\r\na\r\n",
            "1;a\x01\r\na\r\n",
            "1\r\na\r0\r\n\r\n",
            "0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "0\r\n: a\r\n\r\n",
            "0\r\n a: b\r\n\r\n",
            "0\r\na : b\r\n\r\n",
            "0\r\na: b\r\n folded\r\n\r\n",
            "0\r\na: b\rc\r\n\r\n",
            "0\r\na: b\0\r\n\r\n",
            "0\r\na: b\n\r\n",
            &long,
            &zeros,
            &trailers,
        ] {
            assert!(decode(wrong.as_bytes(), 1000).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6), size in 1usize..50, tail: Vec<u8>) {
            let mut encoded = Vec::new();
            for chunk in &chunks {
                encoded.extend(format!("{:x}\r\n", chunk.len()).bytes());
                encoded.extend(chunk);
                encoded.extend(b"\r\n");
            }
            encoded.extend(b"0\r\n\r\n");
            let length = encoded.len();
            encoded.extend(&tail);
            let (data, consumed, done) = decode(&encoded, size)?;
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!((consumed, done), (length, true));
        }

        #[test]
        fn no_bytes_make_it_panic_or_stall(bytes: Vec<u8>, size in 1usize..9) {
            let _ = decode(&bytes, size);
        }
    }
}
