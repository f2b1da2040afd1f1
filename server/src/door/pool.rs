//! A pool's floor: the workers whose links are up, the turns they hold, and the queue in front of them.
//!
//! Everything that happens to a turn happens here, in functions that do not wait: a turn is submitted, given,
//! acknowledged, done, or lost. Two things are true whenever one of them returns:
//! - nobody waits in the queue while a worker has credit left;
//! - a client that is `Held` stands in exactly one link's list of turns, one that is `Queued` exactly once in the
//!   queue.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::net::{SendFlags, Shutdown};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::arrival::{self, Scratch};
use super::client::{Client, FailedDelivery, Loss, TurnEnd, Whereabouts};
use super::notices::Notices;
use super::roster::{Roster, Seat};
use crate::config::{Clients, DoorPool, Protocol, RedeliverMethods};
use crate::control::{Counters, Held, Notice, Outcome, PoolReport, Retirement, Stamp, WorkerReport};
use crate::identity::Incarnation;
use crate::link::{self, After, Scoreboard, Sent, ToWorker, TurnFrame};
use crate::observation::Histogram;
use crate::sys::SlowToClose;

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
    pub(super) connections: Cell<usize>,
    /// Whether each answer is to be its connection's last.
    pub(super) draining: Cell<bool>,
    floor: RefCell<Floor>,
    /// The numbers of turns, shared by all pools.
    turns: Rc<Cell<u64>>,
}

/// The door's end of a worker's link.
pub(super) type WorkerLink = AsyncFd<SlowToClose>;

#[derive(Debug, Default)]
struct Floor {
    roster: Roster,
    links: HashMap<Seat, Link>,
    queue: VecDeque<Queued>,
    next_seat: Seat,
}

#[derive(Debug)]
struct Queued {
    client: Rc<Client>,
    since: Instant,
}

/// A worker whose link is up.
#[derive(Debug)]
struct Link {
    life: Incarnation,
    socket: Rc<WorkerLink>,
    board: Scoreboard,
    credit: u16,
    state: LinkState,
    /// What it holds, oldest first. As many at the most as it has credit.
    held: Vec<HeldTurn>,
    turns_done: u64,
    idle_since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    /// It gets turns.
    Open,
    /// It gets no turns, and its farewell as soon as there is room for it.
    Dismissed,
    /// It has been sent its farewell: nothing more will come, and it will leave.
    Leaving,
    /// It has broken the protocol. It gets no turn and is not listened to any more; what it
    /// holds is decided when it is dead, for until then it may be at work.
    Condemned,
}

#[derive(Debug)]
struct HeldTurn {
    turn: u64,
    client: Rc<Client>,
    given: Instant,
    /// It was asked to acknowledge, and has not.
    untouched: bool,
    overran: bool,
    /// When its client was sent away for keeping the worker waiting.
    hung_up: Option<Instant>,
}

/// How long a worker may take to notice that its client was sent away.
const AFTER_HANGING_UP: Duration = Duration::from_secs(1);

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
    ) -> Self {
        Self {
            scratch: arrival::scratch(&clients),
            config,
            clients,
            address,
            notices,
            counters: RefCell::default(),
            connections: Cell::new(0),
            draining: Cell::new(false),
            floor: RefCell::default(),
            turns,
        }
    }

    // ── turns ────────────────────────────────────────────────────────────────────────────────────────────────

    /// Gives the client's turn to a worker, or puts it in the queue.
    pub(super) fn submit(&self, client: &Rc<Client>, position: Position) -> Result<(), QueueFull> {
        let floor = &mut *self.floor.borrow_mut();
        if self.give_to_anybody(floor, client, Duration::ZERO) {
            return Ok(());
        }
        let queued = Queued { client: Rc::clone(client), since: Instant::now() };
        match position {
            Position::Back if floor.queue.len() >= self.config.queue.depth => return Err(QueueFull),
            Position::Back => floor.queue.push_back(queued),
            Position::Front => floor.queue.push_front(queued),
        }
        client.whereabouts.set(Whereabouts::Queued);
        Ok(())
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
    fn feed(&self, floor: &mut Floor) {
        while floor.roster.pick().is_some()
            && let Some(queued) = floor.queue.pop_front()
        {
            if !self.give_to_anybody(floor, &queued.client, queued.since.elapsed()) {
                floor.queue.push_front(queued);
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
                    return true;
                }
                // Its end is about to be read from the link, and decides there.
                Ok(Sent::Closed) => floor.roster.close(seat),
                // It has more credit than its link has room, and has not come to read what it was given. If it never
                // does, the time of what it holds will be up.
                Ok(Sent::Full) => floor.roster.pause(seat),
                // The door's own trouble, such as too many descriptors under way: not the worker's fault, and perhaps
                // over by the time that the next one is free.
                Err(error) => {
                    tracing::warn!(pool = %self.config.name, %error, "cannot hand a client over");
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
            acknowledge: !self.runs_twice(request.idempotent),
            continued: request.continued,
            last: self.draining.get(),
        };
        let mut bytes = Vec::with_capacity(16);
        ToWorker::Turn(frame).encode(&mut bytes);
        let sent = link::send_with(link.socket.as_fd(), &bytes, client.fd())?;
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
            hung_up: None,
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

    /// Tells the controller what became of a turn whose worker had died.
    pub(super) fn settle(&self, failed: &FailedDelivery, outcome: Outcome) {
        let at = Stamp::now();
        self.notices.post(Notice::Settled { worker: failed.worker.clone(), turn: failed.turn, at, outcome });
    }

    // ── workers ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes in a worker whose hello was good.
    pub(super) fn welcome(
        &self,
        life: Incarnation,
        credit: u16,
        socket: Rc<WorkerLink>,
        board: Scoreboard,
    ) -> Seat {
        let floor = &mut *self.floor.borrow_mut();
        let seat = floor.next_seat;
        floor.next_seat += 1;
        self.notices.post(Notice::Joined { worker: life.clone(), at: Stamp::now() });
        let link = Link {
            life,
            socket,
            board,
            credit,
            state: LinkState::Open,
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
        let held = link.held.remove(at);
        link.turns_done += 1;
        link.idle_since = Instant::now();
        if link.state == LinkState::Dismissed {
            self.say_farewell(link);
        }
        floor.roster.take_back(seat);
        self.counters.borrow_mut().turns += 1;
        // The worker first, so that it has its next turn while its last client's task is woken.
        self.feed(floor);
        held.client.end_turn(TurnEnd::Done(after));
        if held.overran { Heard::Late } else { Heard::Fine }
    }

    /// The link of a worker.
    pub(super) fn link(&self, seat: Seat) -> Option<Rc<WorkerLink>> {
        self.floor.borrow().links.get(&seat).map(|link| Rc::clone(&link.socket))
    }

    /// What a worker holds by this turn's number, for a report of it.
    pub(super) fn request_of(&self, seat: Seat, turn: u64) -> Option<(Incarnation, String)> {
        let floor = self.floor.borrow();
        let link = floor.links.get(&seat)?;
        let held = link.held.iter().find(|held| held.turn == turn)?;
        Some((link.life.clone(), held.client.request.borrow().line.clone()))
    }

    /// A worker said goodbye, or is to be sent away: it gets no further turns, and its farewell.
    pub(super) fn dismiss(&self, seat: Seat, why: Retirement) {
        let floor = &mut *self.floor.borrow_mut();
        let Some(link) = floor.links.get_mut(&seat).filter(|link| link.state == LinkState::Open) else {
            return;
        };
        link.state = LinkState::Dismissed;
        floor.roster.close(seat);
        self.notices.post(Notice::Retiring { worker: link.life.clone(), why });
        self.say_farewell(link);
    }

    fn say_farewell(&self, link: &mut Link) {
        let mut farewell = Vec::new();
        ToWorker::Farewell.encode(&mut farewell);
        match link::send(link.socket.as_fd(), &farewell, SendFlags::DONTWAIT) {
            // One of its threads hears it; the others see the end of what the door has to say, behind every turn that
            // was given before.
            Ok(Sent::Whole) => {
                link.state = LinkState::Leaving;
                let _ = rustix::net::shutdown(&link.socket, Shutdown::Write);
            }
            // Again when it is done with a turn; or its death is about to be read from the link.
            Ok(Sent::Full | Sent::Closed) => {}
            Err(error) => self.condemn(link, &format!("its link has failed: {error}")),
        }
    }

    /// A worker is about to be killed.
    pub(super) fn withhold(&self, seat: Seat) {
        self.floor.borrow_mut().roster.withhold(seat);
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

    /// A worker's link has closed: it is dead, and what it held is decided by each client's own task.
    pub(super) fn left(&self, seat: Seat) {
        let floor = &mut *self.floor.borrow_mut();
        floor.roster.leave(seat);
        let Some(link) = floor.links.remove(&seat) else { return };
        let cleanly = link.state == LinkState::Leaving && link.held.is_empty();
        if !cleanly {
            self.counters.borrow_mut().deaths += 1;
        }
        let now = Instant::now();
        self.notices.post(Notice::Left {
            worker: link.life.clone(),
            at: Stamp::now(),
            cleanly,
            held: link.held.iter().map(|held| held.describe(now)).collect(),
            siblings: floor.links.len(),
        });
        for HeldTurn { turn, client, given, untouched, overran, .. } in link.held {
            let delivery = FailedDelivery { worker: link.life.clone(), turn, given };
            let note = link.board.of_turn(turn, link.credit);
            client.end_turn(TurnEnd::Lost(Loss { delivery, untouched, overran, note }));
        }
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
                if held.hung_up.is_none() && held.client.is_in_the_way() {
                    held.hung_up = Some(now);
                    held.client.shut_down();
                }
                if held.hung_up.is_none_or(|since| now.saturating_duration_since(since) >= AFTER_HANGING_UP) {
                    held.overran = true;
                    // It is about to be killed: whoever were given to it now would be killed with it.
                    roster.close(seat);
                    let held = held.describe(now);
                    self.notices.post(Notice::Overran { worker: link.life.clone(), held });
                }
            }
        }
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

    // ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Counts an answer that the door gave itself.
    pub(super) fn count_answer(&self, status: u16) {
        *self.counters.borrow_mut().answered.entry(status).or_default() += 1;
    }

    /// The pool at this moment.
    pub(super) fn report(&self) -> PoolReport {
        let (floor, now) = (self.floor.borrow(), Instant::now());
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
            turn_time: Histogram::default(),
            queue_wait: Histogram::default(),
            workers: workers.into_values().collect(),
        }
    }
}

impl HeldTurn {
    fn describe(&self, now: Instant) -> Held {
        let request = self.client.request.borrow();
        Held {
            turn: self.turn,
            request: request.line.clone(),
            held_for: now.saturating_duration_since(self.given),
            delivery: request.deliveries,
            overran: self.overran,
        }
    }
}

impl Link {
    fn report(&self, now: Instant) -> WorkerReport {
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
