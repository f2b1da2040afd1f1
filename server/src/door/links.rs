//! The links of a pool's workers: who is here, what each of them holds, and how they go.
//!
//! ```text
//!   welcome ─► open ── goodbye, drain ──► dismissed ── farewell sent ──► leaving ──► left
//!               │                              │                             │
//!               └── breach ────────────────────┴─────────────────────────────┴──► condemned ──► left
//! ```
//!
//! A worker whose link has closed is dead, whatever state it was in; one whose tunnel has failed counts as lost, and nobody
//! knows whether it is. It has left cleanly when it was leaving and held
//! nothing; otherwise each turn that it held is lost, and the task of that turn's client decides what becomes of it.
//! What turns go through before that is in [`pool`](super::pool).

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::client::{Client, FailedDelivery, Loss, Stall, TurnEnd};
use super::pool::Pool;
use super::recent::{Ended, RecentTurns, Tracer};
use super::roster::Seat;
use super::wire::{Wire, WorkerLink};
use crate::config::{Protocol, TurnUnit};
use crate::control::{Held, Notice, Retirement, Stamp, WorkerReport};
use crate::identity::Incarnation;
use crate::link::{Sent, Terms};
use crate::observation::TraceEnd;

/// A worker whose link is up.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) life: Incarnation,
    pub(super) wire: Wire,
    pub(super) tracer: Tracer,
    pub(super) credit: u16,
    pub(super) state: LinkState,
    /// The door that it is sent to, if it is.
    pub(super) moves_to: String,
    /// What it holds, oldest first. As many at the most as it has credit.
    pub(super) held: Vec<HeldTurn>,
    pub(super) turns_done: u64,
    pub(super) idle_since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkState {
    /// It gets turns.
    Open,
    /// It gets no turns, and its farewell as soon as there is room for it.
    Dismissed,
    /// It has been sent its farewell: nothing more will come, and it will leave.
    Leaving,
    /// It gets no turns, and is sent to another door as soon as it holds nothing.
    Moving,
    /// It has been sent there.
    Moved,
    /// It has broken the protocol. It gets no turn and is not listened to any more; what it
    /// holds is decided when it is dead, for until then it may be at work.
    Condemned,
}

#[derive(Debug)]
pub(super) struct HeldTurn {
    pub(super) turn: u64,
    pub(super) client: Rc<Client>,
    pub(super) given: Instant,
    /// It was asked to acknowledge, and has not.
    pub(super) untouched: bool,
    pub(super) overran: bool,
    /// Its worker has said that a thread panicked over it.
    pub(super) panicked: bool,
    /// How its client was sent away for keeping the worker waiting.
    pub(super) sent_away: Option<SentAway>,
    /// How many bytes its client had sent, all of them read, when a drain first looked and found no more since.
    pub(super) quiet: Option<(u64, Instant)>,
}

/// How a link ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LinkEnd {
    /// The kernel has closed the worker's end: the worker is dead.
    Dead,
    /// Every process of it is dead, as the backend says; on a tunnel its last words may still be on their way.
    Buried,
    /// Nobody knows what has become of it.
    Vanished(String),
}

impl LinkEnd {
    /// Whether all has been heard that it had to say.
    fn has_been_heard_out(&self, wire: &Wire) -> bool {
        match self {
            Self::Dead => true,
            Self::Buried => matches!(wire, Wire::Fd { .. }),
            Self::Vanished(_) => false,
        }
    }
}

/// How a client was sent away that may have kept its worker waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SentAway {
    /// It has had no answer, and can still be sent one: a worker that reads on is told that nothing more will come.
    Unheard {
        at: Instant,
        /// Bytes that had come from it by then.
        received: u64,
    },
    /// In both directions: it is in the middle of an answer, or does not stop sending.
    Wholly { at: Instant },
}

/// How long a client may send nothing, in a drain, before it is taken for one that is idle.
const IDLE: Duration = Duration::from_secs(1);
/// How long a worker may take to notice that its client was sent away.
const AFTER_HANGING_UP: Duration = Duration::from_secs(1);

impl Pool {
    /// What workers are told that clients may ask.
    pub(super) fn terms(&self) -> Terms {
        let timeouts = &self.config.timeouts;
        Terms {
            head_bytes: u32::try_from(self.clients.head_bytes).unwrap_or(u32::MAX),
            body_bytes: self.clients.body_bytes,
            head: timeouts.head,
            keep_alive: timeouts.keep_alive,
        }
    }

    /// Takes in a worker whose hello was good.
    pub(super) fn welcome(&self, life: Incarnation, credit: u16, wire: Wire) -> Seat {
        let floor = &mut *self.floor.borrow_mut();
        let seat = floor.next_seat;
        floor.next_seat += 1;
        self.notices.post(Notice::Joined { worker: life.clone(), at: Stamp::now() });
        let link = Link {
            tracer: Tracer::new(&life),
            life,
            wire,
            credit,
            state: LinkState::Open,
            moves_to: String::new(),
            held: Vec::new(),
            turns_done: 0,
            idle_since: Instant::now(),
        };
        floor.links.insert(seat, link);
        floor.roster.seat(seat, credit);
        self.feed(floor);
        seat
    }

    /// Whether a worker's link is up.
    pub(super) fn is_linked(&self, life: &Incarnation) -> bool {
        self.seat_of(life).is_some()
    }

    /// The workers whose links are up.
    pub(super) fn linked(&self) -> Vec<Incarnation> {
        self.floor.borrow().links.values().map(|link| link.life.clone()).collect()
    }

    pub(super) fn seat_of(&self, life: &Incarnation) -> Option<Seat> {
        let floor = self.floor.borrow();
        floor.links.iter().find_map(|(&seat, link)| (link.life == *life).then_some(seat))
    }

    /// The socket of a worker's fd link.
    pub(super) fn fd_link(&self, seat: Seat) -> Option<Rc<WorkerLink>> {
        match &self.floor.borrow().links.get(&seat)?.wire {
            Wire::Fd { socket, .. } => Some(Rc::clone(socket)),
            Wire::Tunnel(_) => None,
        }
    }

    /// Ends a worker's link for whoever still holds the other end.
    pub(super) fn sever(&self, seat: Seat) {
        if let Some(link) = self.floor.borrow().links.get(&seat) {
            link.wire.sever();
        }
    }

    /// A worker said goodbye, or is to be sent away: it gets no further turns, and its farewell.
    pub(super) fn dismiss(&self, seat: Seat, why: Retirement) {
        let floor = &mut *self.floor.borrow_mut();
        let may_be_dismissed = |state| matches!(state, LinkState::Open | LinkState::Moving);
        let Some(link) = floor.links.get_mut(&seat).filter(|link| may_be_dismissed(link.state)) else {
            return;
        };
        link.state = LinkState::Dismissed;
        floor.roster.close(seat);
        self.notices.post(Notice::Retiring { worker: link.life.clone(), why });
        self.say_farewell(link);
    }

    /// Sends a worker to another door once it has done what it holds. One whose link is no tunnel knows only this one.
    pub(super) fn move_away(&self, seat: Seat, to: &str) {
        let floor = &mut *self.floor.borrow_mut();
        let Some(link) = floor.links.get_mut(&seat) else { return };
        if link.state != LinkState::Open || !matches!(link.wire, Wire::Tunnel(_)) {
            return;
        }
        link.state = LinkState::Moving;
        to.clone_into(&mut link.moves_to);
        floor.roster.close(seat);
        self.send_off(link);
    }

    /// Tells a worker that is to move, if it holds nothing, that it may go now.
    pub(super) fn send_off(&self, link: &mut Link) {
        if let Wire::Tunnel(tunnel) = &link.wire
            && link.held.is_empty()
            && tunnel.send_to(&link.moves_to) == Sent::Whole
        {
            link.state = LinkState::Moved;
        }
    }

    pub(super) fn say_farewell(&self, link: &mut Link) {
        match link.wire.say_farewell() {
            Ok(Sent::Whole) => link.state = LinkState::Leaving,
            // Again when it is done with a turn, or its tunnel has room; or its death is about to be read from the link.
            Ok(Sent::Full | Sent::Closed) => {}
            Err(error) => self.condemn(link, &format!("its link has failed: {error}")),
        }
    }

    /// Lets those go, in a drain, who are idle on connections whose next request their workers wait for themselves: behind
    /// what such a client has sent there is the end. An answer that it waits for still comes.
    pub(super) fn close_idle(&self, now: Instant) {
        if (self.config.protocol, self.config.turn) != (Protocol::Http, TurnUnit::Connection) {
            return;
        }
        let links = &mut self.floor.borrow_mut().links;
        for held in links.values_mut().flat_map(|link| &mut link.held) {
            let received = held.client.received_and_read();
            match held.quiet {
                Some((before, since)) if received == Some(before) => {
                    if now.saturating_duration_since(since) >= IDLE {
                        held.client.stop_listening();
                    }
                }
                _ => held.quiet = received.map(|received| (received, now)),
            }
        }
    }

    /// A worker's link has room again, for what found none before.
    pub(super) fn has_room(&self, seat: Seat) {
        let floor = &mut *self.floor.borrow_mut();
        floor.roster.resume(seat);
        if let Some(link) = floor.links.get_mut(&seat).filter(|link| link.state == LinkState::Dismissed) {
            self.say_farewell(link);
        }
        self.feed(floor);
    }

    /// Nothing has been heard of a worker for some time: it may be lost.
    pub(super) fn doubt(&self, seat: Seat) {
        self.floor.borrow_mut().roster.doubt(seat);
    }

    /// Something has been heard of a worker that was in doubt.
    pub(super) fn is_heard_of(&self, seat: Seat) {
        let floor = &mut *self.floor.borrow_mut();
        floor.roster.trust(seat);
        self.feed(floor);
    }

    /// A worker is about to be killed.
    pub(super) fn withhold(&self, seat: Seat) {
        self.floor.borrow_mut().roster.withhold(seat);
    }

    /// A worker is to end in the middle of whatever it is at.
    pub(super) fn kill(&self, seat: Seat) {
        if let Some(Wire::Tunnel(tunnel)) = self.floor.borrow().links.get(&seat).map(|link| &link.wire) {
            tunnel.kill();
        }
    }

    /// A worker that was about to be killed is still there.
    pub(super) fn release(&self, seat: Seat) {
        let floor = &mut *self.floor.borrow_mut();
        floor.roster.release(seat);
        self.feed(floor);
    }

    /// A worker has broken the protocol.
    pub(super) fn breach(&self, seat: Seat, detail: &str) {
        let floor = &mut *self.floor.borrow_mut();
        floor.roster.close(seat);
        if let Some(link) = floor.links.get_mut(&seat) {
            self.condemn(link, detail);
        }
    }

    fn condemn(&self, link: &mut Link, detail: &str) {
        if link.state != LinkState::Condemned {
            link.state = LinkState::Condemned;
            self.notices.post(Notice::Broke { worker: link.life.clone(), detail: detail.to_owned() });
        }
    }

    /// A worker's link has ended, and what it held is decided by each client's own task. Whether it lives on, as far as is
    /// known: it has been sent to another door, and was free to go.
    pub(super) fn left(&self, seat: Seat, end: &LinkEnd) -> bool {
        let floor = &mut *self.floor.borrow_mut();
        floor.roster.leave(seat);
        let Some(mut link) = floor.links.remove(&seat) else { return false };
        if link.state == LinkState::Moved && *end == LinkEnd::Dead {
            self.notices.post(Notice::Moved { worker: link.life, to: link.moves_to });
            return true;
        }
        // What the worker was done with is done, though its client may not have taken all of the answer yet.
        let (done, held) = std::mem::take(&mut link.held)
            .into_iter()
            .partition::<Vec<_>, _>(|held| link.wire.outlives_its_link(held.turn));
        link.held = held;
        let now = Instant::now();
        for held in done {
            self.counters.borrow_mut().turns += 1;
            held.trace(&self.recent, &mut link.tracer, TraceEnd::Done, now);
        }
        let cleanly = link.state == LinkState::Leaving && link.held.is_empty();
        if !cleanly {
            self.counters.borrow_mut().deaths += 1;
        }
        self.notices.post(Notice::Left {
            worker: link.life.clone(),
            at: Stamp::now(),
            cleanly,
            held: link.held.iter().map(|held| held.describe(now)).collect(),
            siblings: floor.links.len(),
            vanished: match end {
                LinkEnd::Dead | LinkEnd::Buried => None,
                LinkEnd::Vanished(why) => Some(why.clone()),
            },
        });
        for held in &link.held {
            held.trace(&self.recent, &mut link.tracer, TraceEnd::Lost, now);
        }
        for HeldTurn { turn, client, given, untouched, overran, .. } in link.held {
            let delivery = FailedDelivery { worker: link.life.clone(), turn, given };
            // Who may still be at work on the far side of a partition may have begun, whatever we have heard.
            let may_still_run = !end.has_been_heard_out(&link.wire);
            let untouched = untouched && !may_still_run;
            let note = link.wire.note_of(turn, link.credit);
            client.end_turn(TurnEnd::Lost(Loss { delivery, untouched, may_still_run, overran, note }));
        }
        link.wire.forget();
        false
    }

    /// Says again what a controller has to act on, for one that may not have heard it.
    pub(super) fn repeat_what_is_wrong(&self) {
        let now = Instant::now();
        for link in self.floor.borrow().links.values() {
            for held in link.held.iter().filter(|held| held.overran) {
                self.notices.post(Notice::Overran { worker: link.life.clone(), held: held.describe(now) });
            }
            if link.state == LinkState::Condemned {
                let detail = "it had broken the protocol before this controller came".to_owned();
                self.notices.post(Notice::Broke { worker: link.life.clone(), detail });
            }
        }
    }
}

impl HeldTurn {
    /// Whether it may be the client that keeps this turn from ending, whose time is up. It is sent away then, which makes
    /// a worker that waits for it go on; one that does not within a moment waits for something else.
    pub(super) fn waits_for_its_client(&mut self, now: Instant) -> bool {
        let patient = |at| now.saturating_duration_since(at) < AFTER_HANGING_UP;
        let next = match (self.sent_away, self.client.stall()) {
            (Some(SentAway::Unheard { at, .. } | SentAway::Wholly { at }), _) if patient(at) => return true,
            (Some(SentAway::Wholly { .. }), _) | (None, Stall::Neither) => return false,
            (None, Stall::MaySend { received }) => SentAway::Unheard { at: now, received },
            // What is on its way is read before the end is: whoever sends fast enough has not been stopped by it.
            (Some(SentAway::Unheard { received: before, .. }), Stall::MaySend { received })
                if received == before =>
            {
                return false;
            }
            (Some(SentAway::Unheard { .. }), Stall::Neither) => return false,
            (_, Stall::MayTake | Stall::MaySend { .. }) => SentAway::Wholly { at: now },
        };
        match next {
            SentAway::Unheard { .. } => self.client.stop_listening(),
            SentAway::Wholly { .. } => self.client.hang_up(),
        }
        self.sent_away = Some(next);
        true
    }

    pub(super) fn describe(&self, now: Instant) -> Held {
        let request = self.client.request.borrow();
        Held {
            turn: self.turn,
            request: request.line.clone(),
            held_for: now.saturating_duration_since(self.given),
            delivery: request.deliveries,
            overran: self.overran,
        }
    }

    /// Notes its end, at this moment.
    pub(super) fn trace(&self, recent: &RecentTurns, tracer: &mut Tracer, end: TraceEnd, now: Instant) {
        let request = self.client.request.borrow();
        let (line, delivery) = (request.line.as_str(), request.deliveries);
        recent.note(tracer, &Ended { turn: self.turn, given: self.given, request: line, delivery, end }, now);
    }
}

impl Link {
    pub(super) fn report(&self, now: Instant) -> WorkerReport {
        let idle = self.held.is_empty();
        WorkerReport {
            worker: self.life.clone(),
            turns: self.turns_done,
            credit: self.credit,
            draining: self.state != LinkState::Open,
            idle_for: if idle { now.saturating_duration_since(self.idle_since) } else { Duration::ZERO },
            holding: self.held.iter().map(|held| held.describe(now)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::super::testing::{guest, in_time};
    use super::*;

    fn held(client: Rc<Client>, given: Instant) -> HeldTurn {
        HeldTurn {
            turn: 1,
            client,
            given,
            untouched: false,
            overran: false,
            panicked: false,
            sent_away: None,
            quiet: None,
        }
    }

    #[test]
    fn a_worker_that_does_not_mind_its_client_is_at_fault_and_the_client_can_be_told() {
        let told = in_time(async || {
            let (client, mut peer) = guest()?;
            let now = Instant::now();
            let mut held = held(Rc::clone(&client), now);
            // Nobody knows whether all of its request has come.
            let waits: Vec<_> = [0, 999, 1000]
                .map(|later| held.waits_for_its_client(now + Duration::from_millis(later)))
                .into();
            client.tell(b"told");
            let mut answer = [0; 4];
            peer.read_exact(&mut answer)?;
            Ok((waits, held.sent_away == Some(SentAway::Unheard { at: now, received: 0 }), answer))
        });
        assert_eq!(told, Ok((vec![true, true, false], true, *b"told")));
    }

    #[test]
    fn a_client_that_does_not_stop_sending_is_sent_away_wholly() {
        let sent_away = in_time(async || {
            let (client, mut peer) = guest()?;
            let now = Instant::now();
            let mut held = held(Rc::clone(&client), now);
            let mut waits = vec![held.waits_for_its_client(now)];
            peer.write_all(b"more")?;
            while client.stall() != (Stall::MaySend { received: 4 }) {
                tokio::task::yield_now().await;
            }
            for later in [1, 2] {
                waits.push(held.waits_for_its_client(now + Duration::from_secs(later)));
            }
            let wholly = SentAway::Wholly { at: now + Duration::from_secs(1) };
            Ok((waits, held.sent_away == Some(wholly), peer.read(&mut [0; 4])?))
        });
        assert_eq!(sent_away, Ok((vec![true, true, false], true, 0)));
    }
}
