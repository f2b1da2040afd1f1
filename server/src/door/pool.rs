//! A pool's floor: the turns that its workers hold, and the queue in front of them.
//!
//! Everything that happens to a turn happens here, in functions that do not wait: a turn is submitted, given,
//! acknowledged, done, or lost. Two things are true whenever one of them returns:
//! - nobody waits in the queue while a worker has credit left, unless the door itself could not hand a turn over: then
//!   it tries again in a moment, and meanwhile nobody who comes later is served before those who wait;
//! - a client that is `Held` stands in exactly one link's list of turns, one that is `Queued` exactly once in the
//!   queue.
//!
//! Who the workers are, and how they come and go, is in [`links`](super::links).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::arrival::{self, Scratch};
use super::client::{Client, FailedDelivery, TurnEnd, Whereabouts};
use super::departure::Stage;
use super::links::{HeldTurn, Link, LinkState};
use super::notices::Notices;
use super::recent::RecentTurns;
use super::roster::{Roster, Seat};
use crate::config::{Clients, DoorPool, Protocol, RedeliverMethods, TurnUnit};
use crate::control::{Counters, Notice, Outcome, PoolReport, Stamp};
use crate::link::{After, Sent, TurnFrame};
use crate::observation::{Histogram, TraceEnd};

/// One pool, open for business.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) config: DoorPool,
    /// What clients may ask: the spec's limits, lowered to what the kernel's buffers can hold.
    pub(super) clients: Clients,
    /// Where it listens, port resolved.
    pub(super) address: SocketAddr,
    pub(super) scratch: Scratch,
    pub(super) notices: Rc<Notices>,
    pub(super) counters: RefCell<Counters>,
    times: RefCell<Times>,
    pub(super) recent: Rc<RecentTurns>,
    pub(super) connections: Cell<usize>,
    /// Clients that were too many and have not closed yet.
    pub(super) turned_away: Cell<usize>,
    /// How far its door is on its way out. From the first step on, each answer is its connection's last.
    pub(super) stage: Cell<Stage>,
    pub(super) floor: RefCell<Floor>,
    /// Rung when a turn could not be handed over, through no fault of a worker's.
    stuck: Notify,
    /// The numbers of turns, shared by all pools.
    turns: Rc<Cell<u64>>,
}

/// How long things have taken.
#[derive(Debug, Default)]
struct Times {
    /// From given until done.
    turn: Histogram,
    /// From submitted until given.
    queue: Histogram,
}

/// Who holds what, and who waits.
#[derive(Debug, Default)]
pub(super) struct Floor {
    pub(super) roster: Roster,
    pub(super) links: HashMap<Seat, Link>,
    queue: VecDeque<Queued>,
    pub(super) next_seat: Seat,
}

#[derive(Debug)]
struct Queued {
    client: Rc<Client>,
    since: Instant,
}

/// How long the door waits before it tries again to hand a turn over.
const STUCK: Duration = Duration::from_millis(20);

/// Why a turn was not taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueFull;

/// Where a turn is put when it has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// A new one: at the end, if there is room.
    Back,
    /// One whose worker died: at the front, in any case. It has waited its time.
    Front,
}

/// What a worker's link wants done after a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// Go on listening.
    Fine,
    /// It is done after all with a request that has overrun its time. It gets no further turn and may go.
    Late,
    /// It has broken the protocol in this way.
    Breach(String),
}

impl Pool {
    pub(super) fn new(
        config: DoorPool,
        clients: Clients,
        address: SocketAddr,
        notices: Rc<Notices>,
        turns: Rc<Cell<u64>>,
        recent: Rc<RecentTurns>,
    ) -> Self {
        Self {
            scratch: arrival::scratch(&clients),
            config,
            clients,
            address,
            notices,
            counters: RefCell::default(),
            times: RefCell::default(),
            recent,
            connections: Cell::new(0),
            turned_away: Cell::new(0),
            stage: Cell::new(Stage::Open),
            floor: RefCell::default(),
            stuck: Notify::new(),
            turns,
        }
    }

    /// Gives the client's turn to a worker, or puts it in the queue, where a new one stands behind those that wait already.
    pub(super) fn submit(&self, client: &Rc<Client>, position: Position) -> Result<(), QueueFull> {
        let floor = &mut *self.floor.borrow_mut();
        let comes_next = position == Position::Front || floor.queue.is_empty();
        if comes_next && self.give_to_anybody(floor, client, Duration::ZERO) {
            return Ok(());
        }
        let queued = Queued { client: Rc::clone(client), since: Instant::now() };
        match position {
            Position::Back if floor.queue.len() >= self.config.queue.depth => return Err(QueueFull),
            Position::Back => floor.queue.push_back(queued),
            Position::Front => floor.queue.push_front(queued),
        }
        client.whereabouts.set(Whereabouts::Queued);
        if !comes_next {
            self.feed(floor);
        }
        Ok(())
    }

    /// Tries again, for as long as it is polled, to hand over what could not be handed over.
    pub(super) async fn try_again(&self) {
        loop {
            self.stuck.notified().await;
            tokio::time::sleep(STUCK).await;
            self.feed(&mut self.floor.borrow_mut());
        }
    }

    /// Takes a client out of the queue, if it is there.
    pub(super) fn withdraw(&self, client: &Rc<Client>) -> bool {
        let queue = &mut self.floor.borrow_mut().queue;
        let at = queue.iter().position(|queued| Rc::ptr_eq(&queued.client, client));
        if let Some(at) = at {
            queue.remove(at);
            client.whereabouts.set(Whereabouts::Parked);
        }
        at.is_some()
    }

    /// Gives the queue's first turns away for as long as there is credit.
    pub(super) fn feed(&self, floor: &mut Floor) {
        while floor.roster.pick().is_some()
            && let Some(queued) = floor.queue.pop_front()
        {
            if !self.give_to_anybody(floor, &queued.client, queued.since.elapsed()) {
                // Nobody could take it, or the door could not give it: then trying again at once would be for ever.
                floor.queue.push_front(queued);
                return;
            }
        }
    }

    /// Gives a turn to the worker that the roster picks; to the next one when that one turns out to be gone or deaf.
    /// `true` also when the turn is over, because its client has gone.
    fn give_to_anybody(&self, floor: &mut Floor, client: &Rc<Client>, waited: Duration) -> bool {
        while let Some(seat) = floor.roster.pick() {
            let Some(link) = floor.links.get_mut(&seat) else {
                floor.roster.leave(seat);
                continue;
            };
            let Some(written) = client.written_so_far(waited) else {
                self.counters.borrow_mut().abandoned += 1;
                client.end_turn(TurnEnd::ClientGone);
                return true;
            };
            match self.give(link, client, written) {
                Ok(Sent::Whole) => {
                    floor.roster.give(seat);
                    self.times.borrow_mut().queue.observe(waited);
                    return true;
                }
                // Its end is about to be read from the link, and decides there.
                Ok(Sent::Closed) => floor.roster.close(seat),
                // It has more credit than its link has room, and has not come to read what it was given. If it never
                // does, the time of what it holds will be up.
                Ok(Sent::Full) => floor.roster.pause(seat),
                // The door's own trouble, such as too many descriptors under way: not the worker's fault, and perhaps
                // over in a moment.
                Err(error) => {
                    tracing::warn!(pool = %self.config.name, %error, "cannot hand a client over");
                    self.stuck.notify_one();
                    return false;
                }
            }
        }
        false
    }

    fn give(&self, link: &mut Link, client: &Rc<Client>, written: u64) -> std::io::Result<Sent> {
        let now = Instant::now();
        let request = &mut *client.request.borrow_mut();
        let turn = self.turns.get();
        let frame = TurnFrame {
            turn,
            whole: request.whole,
            acknowledge: !self.runs_twice(request.idempotent || request.keyed),
            continued: request.continued,
            last: self.stage.get() > Stage::Open,
            // One who comes over IPv4 to a listener for both is still known by that address.
            peer: SocketAddr::new(client.peer.ip().to_canonical(), client.peer.port()),
        };
        let sent = link.wire.give(frame, client)?;
        if sent != Sent::Whole {
            return Ok(sent);
        }
        self.turns.set(turn + 1);
        request.deliveries += 1;
        request.first_given.get_or_insert(now);
        request.written_before = written;
        let mut counters = self.counters.borrow_mut();
        counters.deliveries += 1;
        if let Some(failed) = request.failed.take() {
            counters.redelivered += 1;
            let outcome = Outcome::Redelivered { to: link.life.clone(), added: now - failed.given };
            self.settle(&failed, outcome);
        }
        client.whereabouts.set(Whereabouts::Held);
        let client = Rc::clone(client);
        link.held.push(HeldTurn {
            turn,
            client,
            given: now,
            untouched: frame.acknowledge,
            overran: false,
            panicked: false,
            sent_away: None,
            quiet: None,
        });
        Ok(sent)
    }

    /// Whether a request may be executed again when nobody knows how far the first time came.
    fn runs_twice(&self, idempotent: bool) -> bool {
        match self.config.redeliver.methods {
            RedeliverMethods::All => self.config.protocol == Protocol::Http,
            RedeliverMethods::Idempotent => idempotent,
            RedeliverMethods::None => false,
        }
    }

    /// A worker has acknowledged a turn.
    pub(super) fn acknowledged(&self, seat: Seat, turn: u64) -> Heard {
        let floor = &mut *self.floor.borrow_mut();
        let Some(link) = floor.links.get_mut(&seat).filter(|link| link.state != LinkState::Condemned) else {
            return Heard::Fine;
        };
        match link.held.iter_mut().find(|held| held.turn == turn) {
            Some(held) => {
                held.untouched = false;
                Heard::Fine
            }
            None => Heard::Breach(format!("it acknowledged turn {turn}, which it does not hold")),
        }
    }

    /// A worker is done with a turn.
    pub(super) fn done(&self, seat: Seat, turn: u64, after: After) -> Heard {
        let floor = &mut *self.floor.borrow_mut();
        let Some(link) = floor.links.get_mut(&seat).filter(|link| link.state != LinkState::Condemned) else {
            return Heard::Fine;
        };
        let Some(at) = link.held.iter().position(|held| held.turn == turn) else {
            return Heard::Breach(format!("it is done with turn {turn}, which it does not hold"));
        };
        if let Some(flaw) = flaw(after, self.config.protocol, self.config.turn) {
            // The turn stays with it: what becomes of the client is decided when it is dead.
            return Heard::Breach(format!("it is done with turn {turn}, and {flaw}"));
        }
        let held = link.held.remove(at);
        let now = Instant::now();
        link.turns_done += 1;
        link.idle_since = now;
        self.times.borrow_mut().turn.observe(now.saturating_duration_since(held.given));
        held.trace(&self.recent, &mut link.tracer, TraceEnd::Done, now);
        match link.state {
            LinkState::Dismissed => self.say_farewell(link),
            LinkState::Moving => self.send_off(link),
            LinkState::Open | LinkState::Leaving | LinkState::Moved | LinkState::Condemned => {}
        }
        floor.roster.take_back(seat);
        self.counters.borrow_mut().turns += 1;
        // The worker first, so that it has its next turn while its last client's task is woken.
        self.feed(floor);
        held.client.end_turn(TurnEnd::Done(after));
        if held.overran { Heard::Late } else { Heard::Fine }
    }

    /// A thread of a worker has panicked over a turn. Where a connection is one turn it may do so over one request after
    /// another: the controller is told of the first, and so of no more panics than turns.
    pub(super) fn panicked(&self, seat: Seat, turn: u64, message: String) -> Heard {
        let floor = &mut *self.floor.borrow_mut();
        let Some(link) = floor.links.get_mut(&seat).filter(|link| link.state != LinkState::Condemned) else {
            return Heard::Fine;
        };
        let Some(held) = link.held.iter_mut().find(|held| held.turn == turn) else {
            return Heard::Breach(format!("it panicked over turn {turn}, which it does not hold"));
        };
        if std::mem::replace(&mut held.panicked, true) {
            return Heard::Fine;
        }
        let request = held.client.request.borrow().line.clone();
        let (worker, at) = (link.life.clone(), Stamp::now());
        self.notices.post(Notice::Panicked { worker, turn, request, message, at });
        Heard::Fine
    }

    /// Tells the controller what became of a turn whose worker had died.
    pub(super) fn settle(&self, failed: &FailedDelivery, outcome: Outcome) {
        let at = Stamp::now();
        self.notices.post(Notice::Settled { worker: failed.worker.clone(), turn: failed.turn, at, outcome });
    }

    /// Marks the turns whose request has overrun its time, and tells the controller, once for each.
    pub(super) fn look_for_overruns(&self, now: Instant) {
        let Some(limit) = self.config.timeouts.request else { return };
        let Floor { links, roster, .. } = &mut *self.floor.borrow_mut();
        for (&seat, link) in links {
            for held in link.held.iter_mut().filter(|held| !held.overran) {
                let first_given = held.client.request.borrow().first_given.unwrap_or(held.given);
                if now.saturating_duration_since(first_given) < limit {
                    continue;
                }
                // A slow client is no reason to kill a worker: it is sent away, and the worker's call returns. Only one
                // that does not say so soon after is itself at fault.
                if !held.waits_for_its_client(now) {
                    held.overran = true;
                    // It is about to be killed: whoever were given to it now would be killed with it.
                    roster.close(seat);
                    let held = held.describe(now);
                    self.notices.post(Notice::Overran { worker: link.life.clone(), held });
                }
            }
        }
    }

    /// Counts an answer that the door gave itself.
    pub(super) fn count_answer(&self, status: u16) {
        *self.counters.borrow_mut().answered.entry(status).or_default() += 1;
    }

    /// The pool at this moment.
    pub(super) fn report(&self) -> PoolReport {
        let (floor, times, now) = (self.floor.borrow(), self.times.borrow(), Instant::now());
        // By place, so that lists are stable to look at.
        let workers: BTreeMap<_, _> =
            floor.links.values().map(|link| (&link.life, link.report(now))).collect();
        PoolReport {
            name: self.config.name.clone(),
            listen: self.address,
            connections: self.connections.get(),
            queued: floor.queue.len(),
            longest_wait: floor.queue.front().map_or(Duration::ZERO, |queued| now - queued.since),
            counters: self.counters.borrow().clone(),
            turn_time: times.turn.clone(),
            queue_wait: times.queue.clone(),
            workers: workers.into_values().collect(),
        }
    }
}

/// What is wrong with how a worker leaves a turn, if anything is. Pure.
///
/// A connection that is kept is parked again. One whose request nobody has answered would be given to the next worker
/// as if it had come anew, whatever the contract says, or its client would wait for an answer that nobody owes it.
fn flaw(after: After, protocol: Protocol, turn: TurnUnit) -> Option<&'static str> {
    match (protocol, turn, after) {
        (_, _, After::Close { .. } | After::Cut { .. }) => None,
        (Protocol::Http, TurnUnit::Request, After::Keep { written: 1.. }) => None,
        (Protocol::Http, TurnUnit::Request, After::Keep { written: 0 }) => {
            Some("keeps a connection on which it has written no answer")
        }
        (Protocol::Tcp, _, After::Keep { .. }) | (_, TurnUnit::Connection, After::Keep { .. }) => {
            Some("keeps a connection that was its own to the end")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::fd::OwnedFd;

    use super::super::testing::{guest, in_time, life, link, pool};
    use super::*;
    use crate::door::wire::Wire;
    use crate::link::Scoreboard;
    use crate::sys::{self, SlowToClose};

    #[test]
    fn a_connection_is_kept_only_behind_an_answer() {
        use Protocol::{Http, Tcp};
        use TurnUnit::{Connection, Request};
        let keep = |written| After::Keep { written };
        for (protocol, turn) in [(Http, Request), (Http, Connection), (Tcp, Connection)] {
            assert_eq!(flaw(After::Close { written: 0 }, protocol, turn), None);
        }
        assert_eq!(flaw(keep(1), Http, Request), None);
        assert_eq!(flaw(keep(u64::MAX), Http, Request), None);
        for (written, protocol, turn) in [(0, Http, Request), (1, Http, Connection), (1, Tcp, Connection)] {
            assert!(flaw(keep(written), protocol, turn).is_some(), "{written} {protocol} {turn}");
        }
    }

    #[test]
    fn a_second_panic_over_a_turn_is_no_breach_and_is_not_told_again() {
        let heard = in_time(async || {
            let pool = pool();
            let (client, _peer) = guest()?;
            let (link, _worker) = link()?;
            let seat = pool.welcome(life(), 1, Wire::Fd { socket: link, board: Scoreboard::new(1)? });
            assert_eq!(pool.submit(&client, Position::Back), Ok(()));
            let _ = pool.notices.all();
            let panics = |turn| pool.panicked(seat, turn, "once more".to_owned());
            assert!(matches!(panics(2), Heard::Breach(_)), "it does not hold that turn");
            assert_eq!((panics(1), panics(1)), (Heard::Fine, Heard::Fine));
            Ok(pool.notices.all())
        });
        assert!(matches!(heard.as_deref(), Ok([Notice::Panicked { turn: 1, .. }])), "{heard:?}");
    }

    /// A pool with one worker, to whom nothing can be handed over until the end of its link is put in place of what stands
    /// there; and a client that waits for it.
    fn stuck() -> std::io::Result<(Rc<Pool>, Seat, Rc<Client>, TcpStream)> {
        let pool = pool();
        let (client, peer) = guest()?;
        assert_eq!(pool.submit(&client, Position::Back), Ok(()));
        let (not_a_socket, _writer) = std::io::pipe()?;
        let link = Rc::new(sys::watch_slow(SlowToClose::new(not_a_socket.into()))?);
        let seat = pool.welcome(life(), 1, Wire::Fd { socket: link, board: Scoreboard::new(1)? });
        Ok((pool, seat, client, peer))
    }

    fn get_unstuck(pool: &Pool, seat: Seat) -> std::io::Result<OwnedFd> {
        let (ours, theirs) = link()?;
        if let Some(link) = pool.floor.borrow_mut().links.get_mut(&seat) {
            link.wire = Wire::Fd { socket: ours, board: Scoreboard::new(1)? };
        }
        Ok(theirs)
    }

    #[test]
    fn a_turn_that_cannot_be_handed_over_is_not_tried_for_ever() {
        let queued = in_time(async || Ok(stuck()?.0.report().queued));
        assert_eq!(queued, Ok(1));
    }

    #[test]
    fn a_turn_that_could_not_be_handed_over_is_tried_again() {
        let handed_over = in_time(async || {
            let (pool, seat, client, _peer) = stuck()?;
            let _worker = get_unstuck(&pool, seat)?;
            let held = async {
                while client.whereabouts.get() != Whereabouts::Held {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = held => {}
                () = pool.try_again() => {}
            }
            Ok(pool.report().queued)
        });
        assert_eq!(handed_over, Ok(0));
    }

    #[test]
    fn a_turn_that_could_not_be_handed_over_is_not_overtaken() {
        let whereabouts = in_time(async || {
            let (pool, seat, first, _peer) = stuck()?;
            let _worker = get_unstuck(&pool, seat)?;
            let (second, _other) = guest()?;
            assert_eq!(pool.submit(&second, Position::Back), Ok(()));
            Ok((first.whereabouts.get(), second.whereabouts.get()))
        });
        assert_eq!(whereabouts, Ok((Whereabouts::Held, Whereabouts::Queued)));
    }
}
