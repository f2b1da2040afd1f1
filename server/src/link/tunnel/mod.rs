//! The tunnel link: the same link over TCP, for a worker that shares no kernel with its door.
//!
//! ```text
//!        door                                                   worker's process
//!  client's socket                                                 its threads
//!        │ peeked, consumed, written                                    │ peek, read, write, as on an fd link
//!     tunnel's end ◄───────────── TCP, TLS on it ─────────────► relay ──┴── a pair of local sockets for each turn
//!        │  preface · hello · welcome · turn + data · note · data + done · beats
//! ```
//! The worker's code does not change: a [relay](crate::worker), a thread of its process, speaks the fd link with it over
//! a socket pair, and hands it one end of a local stream socket in the place of the client's own. So everything that a
//! worker can run on one link it can run on the other.
//!
//! # The contract on it
//!
//! The client's socket never leaves the door, and the door does with it what a worker on an fd link does. A request that
//! is whole is *peeked* and sent; it is consumed only when the first byte of an answer has come back. Until then the
//! bounded copy that redelivery needs is where it has always been: in the kernel, in the client's own socket. What the
//! door knows of a turn, and what becomes of it when its worker dies, is decided by the same code on both links.
//!
//! A request that is too large to wait for, a raw connection, and all that follows the first answer where a connection is
//! one turn, are read as they come and sent on. On a pool whose requests must not run twice that begins when the worker
//! has acknowledged the turn.
//!
//! # Flow control
//!
//! One connection carries all of a worker's turns, and each turn has a window in each direction ([`Pace::window`]): no
//! more bytes of it are under way than the other side has room for, and room is given back as the client's kernel, or the
//! worker's, takes them. So nobody stops reading the connection, a slow client holds up nobody but itself, and signs of life are
//! never stuck behind data.
//!
//! A window is as large as the spec says, or as what may be sent whole (a head and a small body: 80 KiB by default), if that
//! is more: it is sent before there is anybody to give room back. A turn costs the door at the most a window of an answer
//! that its client does not take, in a buffer that may be twice as large by having grown, and 32 KiB while it is read. A link
//! whose network takes nothing costs 1 MiB besides: half of it is being written while the other half waits (`End`).
//!
//! A connection for each turn would have spared the windows; but then a client that does not read would stop the beats,
//! and a worker that takes a thousand turns would need a thousand handshakes each time its door is replaced.
//!
//! # Whether it is dead
//!
//! The end of the stream means that the worker's process is dead, as it does on an fd link: the kernel over there has
//! said so. A relay that ends while its worker lives ends in a reset. A reset, silence for [`Pace::lost_after`], or a probe that nobody answers mean that nobody knows: the worker
//! may be at work on the far side of a partition. It is cut off, and what it held goes to others only where its method may
//! run twice, even at once; a turn that was not acknowledged counts as one that may have been begun. It will not be let in again.

/// What a door answers to a preface before anything else: go on, with the handshake if there is one.
pub const GO_ON: u8 = 0;
/// This worker's life is over as far as the door knows, or it is there already: it is to end.
///
/// It stands in the clear, so whoever can change what is on its way can end a worker with it; he could as well cut it off.
pub const OVER: u8 = 1;

mod end;
mod frame;
mod preface;
mod stream;

pub(crate) use end::End;
pub use frame::{Frame, MOST_DATA, Pace};
pub use preface::{Preface, PrefaceError, Role};
pub use stream::{
    Acceptor, Connector, DOOR_NAME, Stream, TlsError, TlsIdentity, is_of_the_certificate, watch_over,
};
