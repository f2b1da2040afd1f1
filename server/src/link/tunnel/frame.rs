//! What stands on a tunnel behind the preface: frames, each with its length in front. Pure.
//!
//! ```text
//!  length u32   kind u8   body
//! ```
//! The length counts kind and body. Integers are little-endian. What a worker and a door say to each other on an fd
//! link travels in frames of the kind *link*, byte for byte; the others carry what the kernel carries there: the
//! client's bytes, their end, how much room there is for more, and a sign of life.

use std::time::Duration;

use crate::link::{Breach, Note};

/// The most bytes of a client's in one frame.
pub const MOST_DATA: usize = 32 * 1024;
/// The longest frame, length not counted: data, behind kind and turn.
const LONGEST: usize = MOST_DATA + 9;

const LINK: u8 = 1;
const DATA: u8 = 2;
const END: u8 = 3;
const GONE: u8 = 4;
const ROOM: u8 = 5;
const NOTE: u8 = 6;
const BEAT: u8 = 7;
const MOVE: u8 = 8;
const PACE: u8 = 9;
const DIE: u8 = 10;

/// A frame on a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'f> {
    /// A frame of the link's own protocol.
    Link(&'f [u8]),
    /// Bytes: the client's on their way to the worker, or an answer's on their way to the client.
    Data {
        /// Of which turn.
        turn: u64,
        /// At most [`MOST_DATA`].
        bytes: &'f [u8],
    },
    /// Nothing more will come in this direction.
    End {
        /// Of which turn.
        turn: u64,
        /// Only in the door's direction: the client could go on, and the door does not wait for it any longer.
        cut_off: bool,
    },
    /// The client's connection is no more: nothing can be read from it or written to it.
    Gone {
        /// Of which turn.
        turn: u64,
    },
    /// So many bytes more may be sent.
    Room {
        /// Of which turn.
        turn: u64,
        /// How many.
        bytes: u32,
    },
    /// What a worker has noted of the answer that it is about to write; see [`Scoreboard`](crate::link::Scoreboard).
    Note(Note),
    /// A sign of life.
    Beat,
    /// Go to another door, once there is nothing in hand; this one is at the end of the link.
    Move {
        /// Its `HOST:PORT`; empty: whichever is found.
        to: &'f str,
    },
    /// How the door keeps this tunnel: its first frame.
    Pace(Pace),
    /// End the worker's process, whatever it is at.
    Die,
}

/// How a tunnel is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two signs of life.
    pub heartbeat: Duration,
    /// After how long without one the other side is lost.
    pub lost_after: Duration,
    /// Bytes of a turn that may be under way in each direction.
    pub window: u32,
}

impl Frame<'_> {
    /// Appends its bytes.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend([0; 4]);
        match *self {
            Self::Link(frame) => {
                to.push(LINK);
                to.extend(frame);
            }
            Self::Data { turn, bytes } => {
                to.push(DATA);
                to.extend(turn.to_le_bytes());
                to.extend(bytes);
            }
            Self::End { turn, cut_off } => {
                to.push(END);
                to.extend(turn.to_le_bytes());
                to.push(cut_off.into());
            }
            Self::Gone { turn } => {
                to.push(GONE);
                to.extend(turn.to_le_bytes());
            }
            Self::Room { turn, bytes } => {
                to.push(ROOM);
                to.extend(turn.to_le_bytes());
                to.extend(bytes.to_le_bytes());
            }
            Self::Note(note) => {
                to.push(NOTE);
                to.extend(note.turn.to_le_bytes());
                to.extend(note.bytes.to_le_bytes());
                to.push(note.keep.into());
            }
            Self::Beat => to.push(BEAT),
            Self::Die => to.push(DIE),
            Self::Move { to: other } => {
                to.push(MOVE);
                to.extend(other.bytes());
            }
            Self::Pace(pace) => {
                to.push(PACE);
                to.extend(millis(pace.heartbeat).to_le_bytes());
                to.extend(millis(pace.lost_after).to_le_bytes());
                to.extend(pace.window.to_le_bytes());
            }
        }
        let length = u32::try_from(to.len() - start - 4).unwrap_or(u32::MAX);
        to[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Reads the frame at the beginning of `bytes`, and says how many bytes it has; `None`: not all of it is there.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, Breach> {
        let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > LONGEST {
            return Err(Breach::Length(0));
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        Ok(Some((Frame::read(frame)?, 4 + length)))
    }

    fn read(frame: &[u8]) -> Result<Frame<'_>, Breach> {
        let (&kind, mut rest) = frame.split_first().ok_or(Breach::Kind(0))?;
        let rest = &mut rest;
        let read = match kind {
            LINK => Frame::Link(std::mem::take(rest)),
            DATA => Frame::Data { turn: number(kind, rest)?, bytes: std::mem::take(rest) },
            END => Frame::End { turn: number(kind, rest)?, cut_off: flag(kind, rest)? },
            GONE => Frame::Gone { turn: number(kind, rest)? },
            ROOM => Frame::Room { turn: number(kind, rest)?, bytes: u32::from_le_bytes(take(kind, rest)?) },
            NOTE => Frame::Note(Note {
                turn: number(kind, rest)?,
                bytes: number(kind, rest)?,
                keep: flag(kind, rest)?,
            }),
            BEAT => Frame::Beat,
            DIE => Frame::Die,
            MOVE => Frame::Move {
                to: std::str::from_utf8(std::mem::take(rest)).map_err(|_| Breach::Field(kind))?,
            },
            PACE => Frame::Pace(Pace {
                heartbeat: Duration::from_millis(number(kind, rest)?),
                lost_after: Duration::from_millis(number(kind, rest)?),
                window: u32::from_le_bytes(take(kind, rest)?),
            }),
            kind => return Err(Breach::Kind(kind)),
        };
        if rest.is_empty() { Ok(read) } else { Err(Breach::Length(kind)) }
    }
}

fn take<const N: usize>(kind: u8, rest: &mut &[u8]) -> Result<[u8; N], Breach> {
    let (field, behind) = rest.split_first_chunk().ok_or(Breach::Length(kind))?;
    *rest = behind;
    Ok(*field)
}

fn number(kind: u8, rest: &mut &[u8]) -> Result<u64, Breach> {
    Ok(u64::from_le_bytes(take(kind, rest)?))
}

fn flag(kind: u8, rest: &mut &[u8]) -> Result<bool, Breach> {
    match take(kind, rest)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [_] => Err(Breach::Field(kind)),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            link: Vec<u8>, turn: u64, number: u64, room: u32, flag: bool, to in ".{0,40}",
            data in proptest::collection::vec(any::<u8>(), 0..200), times in any::<[u32; 2]>(),
        ) {
            let [heartbeat, lost_after] = times.map(|ms| Duration::from_millis(ms.into()));
            let frames = [
                Frame::Link(&link),
                Frame::Data { turn, bytes: &data },
                Frame::End { turn, cut_off: flag },
                Frame::Gone { turn },
                Frame::Room { turn, bytes: room },
                Frame::Note(Note { turn, bytes: number, keep: flag }),
                Frame::Beat,
                Frame::Die,
                Frame::Move { to: &to },
                Frame::Pace(Pace { heartbeat, lost_after, window: room }),
            ];
            let mut bytes = Vec::new();
            frames.iter().for_each(|frame| frame.encode(&mut bytes));
            let mut rest = &bytes[..];
            for frame in frames {
                for cut in [0, 3, 4] {
                    prop_assert_eq!(Frame::decode(&rest[..cut.min(rest.len())]), Ok(None));
                }
                let (read, length) = Frame::decode(rest)?.ok_or_else(|| TestCaseError::fail("no frame"))?;
                prop_assert_eq!(read, frame);
                rest = &rest[length..];
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Frame::decode(&bytes);
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_has_come() {
        let length = u32::try_from(LONGEST + 1).unwrap_or(u32::MAX).to_le_bytes();
        assert_eq!(Frame::decode(&length), Err(Breach::Length(0)));
        assert_eq!(Frame::decode(&[0; 4]), Err(Breach::Length(0)));
    }

    #[test]
    fn the_longest_data_fits() {
        let mut bytes = Vec::new();
        Frame::Data { turn: 1, bytes: &[7; MOST_DATA] }.encode(&mut bytes);
        assert!(matches!(Frame::decode(&bytes), Ok(Some((Frame::Data { .. }, _)))));
    }
}
