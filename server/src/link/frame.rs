//! The frames, as bytes. Pure: what cannot be read is a [`Breach`], which ends the link and nothing else.
//!
//! Integers are little-endian. Text is UTF-8 and stands last.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use thiserror::Error;

use super::GOODBYE;
use crate::control::Retirement;
use crate::identity::{Incarnation, Token};

/// The longest frame, in bytes.
pub const LONGEST: usize = 1024;
/// The longest text in one, in bytes; what is longer is cut off.
const LONGEST_TEXT: usize = 900;

/// What a worker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromWorker {
    /// First of all.
    Hello {
        /// [`VERSION`](super::VERSION), as the worker knows it.
        version: u16,
        /// How many turns it takes at a time.
        credit: u16,
        /// What proves that it is who it says.
        token: Token,
        /// Who it is.
        life: Incarnation,
    },
    /// From here on this turn may have been executed.
    Acknowledge {
        /// Which.
        turn: u64,
    },
    /// The turn is over, and the worker has closed its duplicate of the client's socket.
    Done {
        /// Which.
        turn: u64,
        /// What becomes of the connection.
        after: After,
    },
    /// A thread has panicked over this turn; the worker caught it.
    Panicked {
        /// Which.
        turn: u64,
        /// What the panic said.
        message: String,
    },
    /// No further turns, please.
    Goodbye(Retirement),
}

/// What a worker leaves behind of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It can carry another request.
    Keep {
        /// Bytes that the worker has written to it. The door counts from there what the next worker writes. Whoever
        /// lies here spoils a connection that it held, which it could in any case.
        written: u64,
    },
    /// It is to be closed.
    Close {
        /// Likewise. None, and the door looks whether anybody is there who ought to be told.
        written: u64,
    },
    /// Likewise, and its client must not take what it has got for a whole answer.
    Cut {
        /// Likewise.
        written: u64,
    },
}

/// What the door says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToWorker {
    /// The hello was good.
    Welcome(Terms),
    /// It was not, and the link is about to be closed.
    Refused {
        /// Why.
        why: String,
    },
    /// Serve this; the client's socket comes with it.
    Turn(TurnFrame),
    /// No turn follows, and the door's half of the link ends behind this.
    Farewell,
}

/// What clients of a pool may ask, for the worker that reads their requests itself: all of them after the first on a
/// connection that is one turn, and the chunks of a body that the door has not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of request line and headers; more is answered `431`, or `414`.
    pub head_bytes: u32,
    /// Bytes of body; more is answered `413`.
    pub body_bytes: u64,
    /// How long a client may take to send a head, and how long it may stall otherwise; to the microsecond.
    pub head: Duration,
    /// How long a client may be idle between two requests; to the microsecond.
    pub keep_alive: Duration,
}

/// What the door says of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnFrame {
    /// Its number; the door never uses one twice.
    pub turn: u64,
    /// Bytes of the request when all of it, its body included, is in the socket; zero when it is not, or on a raw
    /// pool.
    pub whole: u32,
    /// Whether to acknowledge before executing.
    pub acknowledge: bool,
    /// Whether the door has sent `100 Continue` already.
    pub continued: bool,
    /// Whether this is the connection's last request, whatever the client would like.
    pub last: bool,
    /// The client's address, as the door sees it. Who has a tunnel cannot ask the socket.
    pub peer: SocketAddr,
}

/// A frame that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Breach {
    /// No bytes at all, or an unknown kind.
    #[error("a frame of unknown kind {0:#04x}")]
    Kind(u8),
    /// The wrong number of bytes for its kind.
    #[error("a frame of kind {0:#04x} with the wrong length")]
    Length(u8),
    /// Bytes that its kind does not allow.
    #[error("a frame of kind {0:#04x} with a field that says nothing")]
    Field(u8),
}

const HELLO: u8 = b'H';
const ACKNOWLEDGE: u8 = b'A';
const DONE_KEEP: u8 = b'D';
const DONE_CLOSE: u8 = b'C';
const DONE_CUT: u8 = b'B';
const PANICKED: u8 = b'P';
const RECYCLED: u8 = b'G';
const WELCOME: u8 = b'W';
const REFUSED: u8 = b'N';
const TURN: u8 = b'T';
const FAREWELL: u8 = b'F';

impl FromWorker {
    /// Writes the frame to the end of `to`, which the caller has emptied.
    pub fn encode(&self, to: &mut Vec<u8>) {
        match self {
            Self::Hello { version, credit, token, life } => {
                to.push(HELLO);
                to.extend(version.to_le_bytes());
                to.extend(credit.to_le_bytes());
                to.extend(token.as_bytes());
                to.extend(life.to_string().bytes());
            }
            Self::Acknowledge { turn } => {
                to.push(ACKNOWLEDGE);
                to.extend(turn.to_le_bytes());
            }
            Self::Done { turn, after } => {
                let (kind, written) = match after {
                    After::Keep { written } => (DONE_KEEP, written),
                    After::Close { written } => (DONE_CLOSE, written),
                    After::Cut { written } => (DONE_CUT, written),
                };
                to.push(kind);
                to.extend(turn.to_le_bytes());
                to.extend(written.to_le_bytes());
            }
            Self::Panicked { turn, message } => {
                to.push(PANICKED);
                to.extend(turn.to_le_bytes());
                to.extend(shortened(message).bytes());
            }
            Self::Goodbye(Retirement::Told) => to.extend(GOODBYE),
            Self::Goodbye(Retirement::Recycled) => to.push(RECYCLED),
        }
    }

    /// Reads a frame.
    pub fn decode(frame: &[u8]) -> Result<Self, Breach> {
        if frame == GOODBYE {
            return Ok(Self::Goodbye(Retirement::Told));
        }
        let mut fields = Fields::of(frame)?;
        let frame = match fields.kind {
            // The version stands first and is read by every version: what follows it may differ.
            HELLO => {
                let version = u16::from_le_bytes(fields.take()?);
                let credit = u16::from_le_bytes(fields.take()?);
                let token = Token::from_bytes(fields.take()?);
                let life = fields.text()?.parse().map_err(|_| Breach::Field(HELLO))?;
                Self::Hello { version, credit, token, life }
            }
            ACKNOWLEDGE => Self::Acknowledge { turn: u64::from_le_bytes(fields.take()?) },
            DONE_KEEP | DONE_CLOSE | DONE_CUT => {
                let turn = u64::from_le_bytes(fields.take()?);
                let written = u64::from_le_bytes(fields.take()?);
                let after = match fields.kind {
                    DONE_KEEP => After::Keep { written },
                    DONE_CUT => After::Cut { written },
                    _ => After::Close { written },
                };
                Self::Done { turn, after }
            }
            PANICKED => {
                let turn = u64::from_le_bytes(fields.take()?);
                Self::Panicked { turn, message: fields.text()?.to_owned() }
            }
            RECYCLED => Self::Goodbye(Retirement::Recycled),
            kind => return Err(Breach::Kind(kind)),
        };
        fields.end(frame)
    }
}

impl ToWorker {
    /// Writes the frame to the end of `to`, which the caller has emptied.
    pub fn encode(&self, to: &mut Vec<u8>) {
        match self {
            Self::Welcome(terms) => {
                to.push(WELCOME);
                to.extend(terms.head_bytes.to_le_bytes());
                to.extend(terms.body_bytes.to_le_bytes());
                to.extend(micros(terms.head).to_le_bytes());
                to.extend(micros(terms.keep_alive).to_le_bytes());
            }
            Self::Refused { why } => {
                to.push(REFUSED);
                to.extend(shortened(why).bytes());
            }
            Self::Turn(turn) => {
                to.push(TURN);
                to.extend(turn.turn.to_le_bytes());
                to.extend(turn.whole.to_le_bytes());
                to.push(
                    u8::from(turn.acknowledge)
                        | u8::from(turn.continued) << 1
                        | u8::from(turn.last) << 2
                        | u8::from(turn.peer.is_ipv6()) << 3,
                );
                to.extend(turn.peer.port().to_le_bytes());
                match turn.peer.ip() {
                    IpAddr::V4(ip) => to.extend(ip.octets()),
                    // Of which link it is on its machine would say nothing on another.
                    IpAddr::V6(ip) => to.extend(ip.octets()),
                }
            }
            Self::Farewell => to.push(FAREWELL),
        }
    }

    /// Reads a frame.
    pub fn decode(frame: &[u8]) -> Result<Self, Breach> {
        let mut fields = Fields::of(frame)?;
        let frame = match fields.kind {
            WELCOME => Self::Welcome(Terms {
                head_bytes: u32::from_le_bytes(fields.take()?),
                body_bytes: u64::from_le_bytes(fields.take()?),
                head: Duration::from_micros(u64::from_le_bytes(fields.take()?)),
                keep_alive: Duration::from_micros(u64::from_le_bytes(fields.take()?)),
            }),
            REFUSED => Self::Refused { why: fields.text()?.to_owned() },
            TURN => {
                let turn = u64::from_le_bytes(fields.take()?);
                let whole = u32::from_le_bytes(fields.take()?);
                let [flags] = fields.take()?;
                if flags > 0b1111 {
                    return Err(Breach::Field(TURN));
                }
                let port = u16::from_le_bytes(fields.take()?);
                let ip = match flags & 8 {
                    0 => Ipv4Addr::from(fields.take::<4>()?).into(),
                    _ => Ipv6Addr::from(fields.take::<16>()?).into(),
                };
                Self::Turn(TurnFrame {
                    turn,
                    whole,
                    acknowledge: flags & 1 != 0,
                    continued: flags & 2 != 0,
                    last: flags & 4 != 0,
                    peer: SocketAddr::new(ip, port),
                })
            }
            FAREWELL => Self::Farewell,
            kind => return Err(Breach::Kind(kind)),
        };
        fields.end(frame)
    }
}

/// A frame's fields, taken from the front.
struct Fields<'f> {
    kind: u8,
    rest: &'f [u8],
}

impl<'f> Fields<'f> {
    fn of(frame: &'f [u8]) -> Result<Self, Breach> {
        let (&kind, rest) = frame.split_first().ok_or(Breach::Kind(0))?;
        Ok(Self { kind, rest })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Breach> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(Breach::Length(self.kind))?;
        self.rest = rest;
        Ok(*field)
    }

    fn text(&mut self) -> Result<&'f str, Breach> {
        let text =
            std::str::from_utf8(std::mem::take(&mut self.rest)).map_err(|_| Breach::Field(self.kind))?;
        if text.len() > LONGEST_TEXT { Err(Breach::Length(self.kind)) } else { Ok(text) }
    }

    fn end<T>(self, frame: T) -> Result<T, Breach> {
        if self.rest.is_empty() { Ok(frame) } else { Err(Breach::Length(self.kind)) }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// As much of `text` as a frame takes, cut between characters.
fn shortened(text: &str) -> &str {
    let end = (0..=text.len().min(LONGEST_TEXT)).rev().find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::{PoolName, WorkerId};

    fn from_worker() -> impl Strategy<Value = FromWorker> {
        let life = ("[a-z][a-z0-9]{0,8}", any::<u32>(), any::<u64>())
            .prop_filter_map("a pool name", |(p, place, g)| {
                Some(WorkerId::new(p.parse::<PoolName>().ok()?, place).life(g))
            });
        prop_oneof![
            (any::<u16>(), any::<u16>(), any::<[u8; 32]>(), life).prop_map(
                |(version, credit, token, life)| {
                    FromWorker::Hello { version, credit, token: Token::from_bytes(token), life }
                }
            ),
            any::<u64>().prop_map(|turn| FromWorker::Acknowledge { turn }),
            (any::<u64>(), any::<Option<bool>>(), any::<u64>()).prop_map(|(turn, keep, written)| {
                let after = match keep {
                    Some(true) => After::Keep { written },
                    Some(false) => After::Close { written },
                    None => After::Cut { written },
                };
                FromWorker::Done { turn, after }
            }),
            (any::<u64>(), ".{0,100}").prop_map(|(turn, message)| FromWorker::Panicked { turn, message }),
            Just(FromWorker::Goodbye(Retirement::Told)),
            Just(FromWorker::Goodbye(Retirement::Recycled)),
        ]
    }

    fn to_worker() -> impl Strategy<Value = ToWorker> {
        prop_oneof![
            (any::<u32>(), any::<[u64; 3]>()).prop_map(|(head_bytes, [body_bytes, head, keep_alive])| {
                let (head, keep_alive) = (Duration::from_micros(head), Duration::from_micros(keep_alive));
                ToWorker::Welcome(Terms { head_bytes, body_bytes, head, keep_alive })
            }),
            ".{0,100}".prop_map(|why| ToWorker::Refused { why }),
            (any::<u64>(), any::<u32>(), any::<[bool; 3]>(), any::<(IpAddr, u16)>()).prop_map(
                |(turn, whole, [acknowledge, continued, last], peer)| {
                    ToWorker::Turn(TurnFrame { turn, whole, acknowledge, continued, last, peer: peer.into() })
                }
            ),
            Just(ToWorker::Farewell),
        ]
    }

    proptest! {
        #[test]
        fn what_a_worker_says_is_what_the_door_hears(frame in from_worker()) {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            prop_assert!(bytes.len() <= LONGEST);
            prop_assert_eq!(FromWorker::decode(&bytes), Ok(frame));
            bytes.push(0xff);
            prop_assert!(FromWorker::decode(&bytes).is_err(), "a byte too many was taken");
        }

        #[test]
        fn what_the_door_says_is_what_a_worker_hears(frame in to_worker()) {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            prop_assert!(bytes.len() <= LONGEST);
            prop_assert_eq!(ToWorker::decode(&bytes), Ok(frame));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = (FromWorker::decode(&bytes), ToWorker::decode(&bytes));
        }

        #[test]
        fn long_texts_are_cut_between_characters(message in "[aäも]{0,1200}") {
            let mut bytes = Vec::new();
            FromWorker::Panicked { turn: 1, message: message.clone() }.encode(&mut bytes);
            prop_assert!(bytes.len() <= LONGEST);
            let Ok(FromWorker::Panicked { message: heard, .. }) = FromWorker::decode(&bytes) else {
                return Err(TestCaseError::fail("not a frame"));
            };
            prop_assert!(message.starts_with(&heard) && (heard.len() + 4 > LONGEST_TEXT || heard == message));
        }
    }
}
