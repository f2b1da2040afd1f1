//! The link between one worker and the door: a `SOCK_SEQPACKET` Unix socket, one frame a packet. Over TCP the same frames
//! travel through a [`tunnel`], and what is said of descriptors below holds for a local socket at the worker's side.
//!
//! ```text
//! worker                                door
//!   │ ── hello: version, life, token, credit ─► │   refused (and why), or
//!   │ ◄───────────── welcome: terms + scoreboard ─│   it is in the roster
//!   │ ◄───────────── turn + the client's socket ─│   never more turns than credit
//!   │ ── acknowledge (if the turn asks for it) ► │   from here on it may have been executed
//!   │ ── done: close or keep, + bytes written ─► │   the credit is free again
//!   │ ── goodbye ─────────────────────────────► │   SIGTERM, an order to drain, or enough requests
//!   │ ◄────────── farewell, and end of the link ─│   behind every turn that was given; none follows
//!   ╵ closes: it has left cleanly
//! ```
//!
//! A packet is read whole or not at all, so a worker that dies in the middle of a `send` leaves no half frame
//! behind, and its death is an end-of-file that the kernel delivers at once.
//!
//! # Who owns a client's descriptor, and who may use it
//!
//! | moment | the door's descriptor | the worker's duplicate | who reads and writes |
//! | --- | --- | --- | --- |
//! | parked, queued | open | there is none | the door, peeking only |
//! | turn given | open, untouched | open | the worker |
//! | done | open | closed by the worker *before* it says done | the door |
//! | worker dead | open | closed by the kernel, with the link | the door |
//! | answered, cut, gone | closed | — | nobody |
//!
//! A descriptor moves as `OwnedFd` and is looked at as `BorrowedFd`; the number alone never travels.
//!
//! # Acknowledging
//!
//! A turn's frame says whether the worker has to acknowledge it before it begins. The door asks for it only
//! where the answer can matter: for a request that it would not redeliver once it may have been executed. For a
//! GET it changes nothing, and two system calls and a wake-up of the door are saved on the commonest path. A
//! worker whose turn arrives without its descriptor (too many open files) exits: it can serve nobody.

mod dial;
mod fd;
mod frame;
mod scoreboard;
pub mod tunnel;

pub use dial::{Dial, NoDoor};
pub use fd::{FrameBuffer, Received, Sent, dial, listen, receive, receive_bare, send, send_with};
pub use frame::{After, Breach, FromWorker, LONGEST, Terms, ToWorker, TurnFrame};
pub use scoreboard::{Note, ScoreLine, Scoreboard, ScoreboardPen};

/// The version of this protocol.
pub const VERSION: u16 = 6;

/// The frame that says [`FromWorker::Goodbye`]: one byte, so that a signal handler can send it.
pub const GOODBYE: &[u8] = b"X";
