//! The controller's end of its doors' control connections: one door or several, which to the supervisor are one.
//!
//! ```text
//!  supervisor ──orders──► fleet ──► line ──► door        sites: where doors are, as they come and go
//!             ◄──events──       ◄──      ◄──              line:  one connection, dialled for ever
//!                          muster: which door has whom, and what of it the supervisor has to know (pure)
//!                          tally:  the doors' reports in one, and sums that do not go back (pure)
//!                          share:  which door a new worker dials first, and who is moved to another (pure)
//! ```
//! A task for each door dials, says hello, and from then on turns the door's notices into events and our orders into lines
//! ([`mod@line`]). One task puts them together ([`fleet`]). To the supervisor the door is up when one is, and what is left of
//! the difference is in a few events of their own: another door has come, one of several has gone and these workers dial
//! another now, one is silent and these workers cannot be told anything by it.
//!
//! A worker belongs to one door at a time: the one that it has joined last. What another door still says of it (that its
//! link has closed, which it may learn late or not at all) changes nothing. When a worker is sent from one door to another
//! it is nobody's for a moment, and has its start time-out to be somebody's again. Doors count turns each for itself, so
//! turns are renumbered at this border (`MemberId::turn`): what an incident holds of one door is not taken for
//! what another has settled.
//!
//! Orders are not kept for a door that is away ([`Door::order`] forgets them): the supervisor plans anew when the door is
//! back, and an order from before might by then be about somebody else's state.

mod darkness;
mod fleet;
mod line;
mod muster;
mod share;
mod site;
mod tally;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::Stream;
use server::control::{Order, Report};
use server::identity::PoolName;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::model::DoorEvent;

pub use line::{HANGS_AFTER, SILENT_AFTER};
pub use share::{Mouth, Roll};
pub use site::{Address, Approach, Site, only};

/// How many orders may wait. One a worker is plenty.
const ORDERS: usize = 4096;
/// How many events may wait for the supervisor before the doors have to.
const EVENTS: usize = 1024;

/// Where orders to the doors go.
#[derive(Debug, Clone)]
pub struct Door {
    requests: mpsc::Sender<Request>,
    silence: watch::Receiver<u32>,
    roll: watch::Receiver<Roll>,
}

/// No door is there, or none has answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the door does not answer")]
pub struct NoReport;

/// What goes to the fleet, and from there to a line.
#[derive(Debug)]
enum Request {
    Order(Order),
    Report(Turns, Duration, oneshot::Sender<Report>),
    /// In these pools a turn is a whole connection.
    Connections(BTreeSet<PoolName>),
}

/// What becomes of the turns that have ended, when the door is asked for a report: they have one reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turns {
    /// They stay with the door.
    Leave,
    /// They come with the report, and the door forgets them.
    Take,
}

impl Door {
    /// Starts to dial the doors that are at these sites, for as long as this handle or a clone of it lives. Each item is
    /// all of them; when there is no further one, they stay as they are.
    pub fn connect(
        sites: impl Stream<Item = Vec<Site>> + Send + 'static,
        approach: Approach,
    ) -> (Self, mpsc::Receiver<DoorEvent>) {
        let (requests, asked) = mpsc::channel(ORDERS);
        let (events, heard) = mpsc::channel(EVENTS);
        let (beats, silence) = watch::channel(0);
        let (rolls, roll) = watch::channel(Roll::default());
        let fleet = fleet::Fleet::new(approach, asked, events, fleet::Shown { beats, rolls });
        tokio::spawn(fleet.run(Box::pin(sites)));
        (Self { requests, silence, roll }, heard)
    }

    /// For how many beats the door has been there and has given no sign of life; of several doors, the one that has been
    /// silent for least.
    pub fn silence(&self) -> watch::Receiver<u32> {
        self.silence.clone()
    }

    /// The doors to dial for a worker that is to be in this place of this pool: first the one that has the fewest of that
    /// pool. None when no door is there that listens for workers over TCP.
    pub fn to_dial(&self, pool: &PoolName, place: u32) -> Vec<Mouth> {
        self.roll.borrow().to_dial(pool, place)
    }

    /// Where the door of this machine listens for workers; `None` when it does not, or is not there.
    pub fn mouth_of_this_machine(&self) -> Option<SocketAddr> {
        self.roll.borrow().mouth_of_this_machine()
    }

    /// Tells in which pools a turn is a whole connection: there nobody who has one is sent to another door.
    pub fn connections_are_turns_in(&self, pools: BTreeSet<PoolName>) {
        if self.requests.try_send(Request::Connections(pools)).is_err() {
            tracing::warn!("which pools have turns that last is not known: too many orders wait already");
        }
    }

    /// Gives an order to whichever door it is for. It is forgotten when that door is away.
    pub fn order(&self, order: Order) {
        if self.requests.try_send(Request::Order(order)).is_err() {
            tracing::warn!("an order to the door was dropped: too many wait already");
        }
    }

    /// Asks for the state at this moment and waits for it for no longer than `patience`; not at all when every door is
    /// silent. Of several doors those that answer in time are heard.
    pub async fn report(&self, turns: Turns, patience: Duration) -> Result<Report, NoReport> {
        if *self.silence.borrow() >= SILENT_AFTER {
            return Err(NoReport);
        }
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(Request::Report(turns, patience, reply)).map_err(|_| NoReport)?;
        tokio::time::timeout(patience, answer).await.map_err(|_| NoReport)?.map_err(|_| NoReport)
    }
}
