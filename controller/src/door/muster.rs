//! Which door has whom, and what of that the supervisor has to know: pure.
//!
//! Each door speaks for itself, and they are not in step. A worker that has left one door for another is announced by the
//! second before the first has noticed, or after; a door that is cut off from us goes on having its workers. So a worker's
//! *home* is the door that it has joined last, and what any other says of it is passed over. When its home loses it and
//! another door has its link still, that one is its home again.
//!
//! A move is under way from our order until the worker's door says that it has gone, or another one that it has come.
//!
//! Where something is done for a pool as a whole (a request, a trickle), one door does it: the open one with the most of
//! its workers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use server::control::{Held, Notice, Order};
use server::identity::{Incarnation, PoolName};

use super::line::Said;
use super::share::{Mouth, Roll, Seen};
use super::site::{Address, Site};
use crate::model::{DoorEvent, Welcome};

/// A door, by a number of its own: in the order in which they were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MemberId(pub(super) u32);

impl MemberId {
    /// A turn of this door, by a number that no other door's turn has. The first door's keep theirs. Below 2^53, so that
    /// they stay exact where numbers are floating point; doors whose numbers are 32 apart do not live at the same time.
    pub(super) fn turn(self, turn: u64) -> u64 {
        turn | u64::from(self.0 % 32) << 48
    }

    /// The same for turns that somebody holds.
    pub(super) fn held(self, held: &mut [Held]) {
        held.iter_mut().for_each(|held| held.turn = self.turn(held.turn));
    }
}

/// Every door that there is.
#[derive(Debug, Default)]
pub(super) struct Muster {
    members: BTreeMap<MemberId, Member>,
    /// The door that each worker has joined last.
    homes: BTreeMap<Incarnation, MemberId>,
    /// Those who are on their way out: nobody to be moved.
    leaving: BTreeSet<Incarnation>,
    /// Those who have been sent from this door to another.
    moving: BTreeMap<Incarnation, MemberId>,
    /// Which door sends itself requests, for each pool.
    trickles: BTreeMap<PoolName, MemberId>,
    /// Whether the supervisor thinks that a door accepts clients.
    told_open: bool,
}

#[derive(Debug)]
struct Member {
    site: Site,
    here: Option<Here>,
}

/// A door that is there.
#[derive(Debug)]
struct Here {
    tunnel: Option<SocketAddr>,
    /// Those that it serves.
    pools: BTreeSet<PoolName>,
    linked: BTreeSet<Incarnation>,
    stopping: bool,
    silent: bool,
}

impl Muster {
    /// Another door has been found.
    pub(super) fn found(&mut self, member: MemberId, site: Site) {
        self.members.insert(member, Member { site, here: None });
    }

    /// A door is none of ours any more.
    pub(super) fn gone(&mut self, member: MemberId) -> Vec<DoorEvent> {
        let events = self.down(member, "it is none of this deployment's doors any more");
        self.members.remove(&member);
        events
    }

    /// What the supervisor has to know of what a door has said.
    pub(super) fn hear(&mut self, member: MemberId, said: Said) -> Vec<DoorEvent> {
        // Its last words may overtake the news that it is none of ours.
        if !self.members.contains_key(&member) {
            return Vec::new();
        }
        match said {
            Said::Up { welcome, tunnel } => self.up(member, welcome, tunnel),
            Said::Notice(notice) => self.noticed(member, notice),
            Said::Silent => self.silent(member),
            Said::Answers => self.answers(member),
            Said::Down { why } => self.down(member, &why),
            Said::Beats(_) => Vec::new(),
        }
    }

    /// To which doors an order goes.
    pub(super) fn route(&mut self, order: &Order) -> Vec<MemberId> {
        match order {
            Order::Drain { worker } | Order::Withhold { worker } => {
                let home = self.homes.get(worker).copied();
                if home.is_some() {
                    self.leaving.insert(worker.clone());
                }
                home.into_iter().collect()
            }
            Order::Bury { .. } => {
                // Whoever has its link still must not have it, and none may let it in again.
                self.present().map(|(member, _)| member).collect()
            }
            Order::Move { worker, .. } => {
                let home = self.homes.get(worker).copied();
                if let Some(home) = home {
                    self.moving.insert(worker.clone(), home);
                }
                home.into_iter().collect()
            }
            Order::Request { pool, .. } => self.spokesman(pool).into_iter().collect(),
            Order::Trickle { pool, .. } => {
                let there = |member: &MemberId| self.usable().any(|(usable, _)| usable == *member);
                let known = self.trickles.get(pool).copied().filter(there);
                let chosen = known.or_else(|| self.spokesman(pool));
                if let Some(chosen) = chosen {
                    self.trickles.insert(pool.clone(), chosen);
                }
                chosen.into_iter().collect()
            }
            Order::EndTrickle { pool } => match self.trickles.get(pool) {
                Some(member) => vec![*member],
                None => self.present().map(|(member, _)| member).collect(),
            },
            Order::Stop => self.present().map(|(member, _)| member).collect(),
            // Each line says these for itself.
            Order::Hello { .. } | Order::Report { .. } | Order::Ping => Vec::new(),
        }
    }

    /// The doors that are there and answer.
    pub(super) fn answering(&self) -> Vec<MemberId> {
        self.present().filter(|(_, here)| !here.silent).map(|(member, _)| member).collect()
    }

    /// Whose word counts for this worker.
    pub(super) fn home(&self, life: &Incarnation) -> Option<MemberId> {
        self.homes.get(life).copied()
    }

    /// The doors as new workers and moves are dealt out to them.
    pub(super) fn roll(&self) -> Roll {
        let seen = |(member, here): (MemberId, &Here)| {
            let site = &self.members.get(&member)?.site;
            let mouth = match (&site.address, here.tunnel) {
                (Address::There(address), Some(_)) => Some(Mouth::Address(address.clone())),
                (Address::Here(_), Some(tunnel)) => Some(Mouth::OfThisMachine(tunnel)),
                (_, None) => None,
            };
            Some(Seen { member, mouth, pools: here.pools.clone(), workers: Vec::new() })
        };
        let mut doors: Vec<Seen> = self.usable().filter_map(seen).collect();
        for (life, home) in &self.homes {
            if let Some(door) = doors.iter_mut().find(|door| door.member == *home) {
                let stays = !self.leaving.contains(life) && !self.moving.contains_key(life);
                door.workers.push((life.clone(), stays));
            }
        }
        Roll { doors }
    }

    /// A move that has come to nothing so far is none any more.
    pub(super) fn stays(&mut self, life: &Incarnation) {
        self.moving.remove(life);
    }

    fn up(&mut self, member: MemberId, welcome: Welcome, tunnel: Option<SocketAddr>) -> Vec<DoorEvent> {
        let first = self.present().next().is_none();
        let linked: BTreeSet<Incarnation> = welcome.linked.iter().cloned().collect();
        for life in &linked {
            // Two that have it cannot both be right; which one is, the next thing that happens to it tells.
            self.homes.entry(life.clone()).or_insert(member);
        }
        if let Some(it) = self.members.get_mut(&member) {
            let pools = welcome.pools.keys().cloned().collect();
            it.here = Some(Here { tunnel, pools, linked, stopping: false, silent: false });
        }
        self.told_open = true;
        vec![if first { DoorEvent::Up(welcome) } else { DoorEvent::Another(welcome) }]
    }

    fn down(&mut self, member: MemberId, why: &str) -> Vec<DoorEvent> {
        let Some(it) = self.members.get_mut(&member) else { return Vec::new() };
        if it.here.take().is_none() {
            return Vec::new();
        }
        let name = it.site.name.clone();
        self.moving.retain(|_, from| *from != member);
        let homed: Vec<Incarnation> =
            self.homes.iter().filter(|(_, home)| **home == member).map(|(life, _)| life.clone()).collect();
        let lost: Vec<Incarnation> = homed.into_iter().filter(|life| !self.finds_another(life)).collect();
        let ended: Vec<PoolName> =
            self.trickles.iter().filter(|(_, at)| **at == member).map(|(pool, _)| pool.clone()).collect();
        self.trickles.retain(|_, at| *at != member);
        self.leaving.retain(|life| self.homes.contains_key(life));
        if self.present().next().is_none() {
            self.told_open = false;
            return vec![DoorEvent::Down { why: why.to_owned() }];
        }
        let mut events = vec![DoorEvent::Lost { linked: lost, why: format!("{name}: {why}") }];
        events.extend(ended.into_iter().map(|pool| DoorEvent::Notice(Notice::TrickleEnded { pool })));
        events.extend(self.closed());
        if self.answering().is_empty() {
            events.push(DoorEvent::Silent);
        }
        events
    }

    fn silent(&mut self, member: MemberId) -> Vec<DoorEvent> {
        let Some(here) = self.here(member) else { return Vec::new() };
        here.silent = true;
        if self.answering().is_empty() {
            return vec![DoorEvent::Silent];
        }
        vec![DoorEvent::Mute { linked: self.at_home(member) }]
    }

    fn answers(&mut self, member: MemberId) -> Vec<DoorEvent> {
        let none_did = self.answering().is_empty();
        let Some(here) = self.here(member) else { return Vec::new() };
        here.silent = false;
        if !none_did {
            return vec![DoorEvent::Heard { linked: self.at_home(member) }];
        }
        let others: Vec<MemberId> =
            self.present().filter(|(_, here)| here.silent).map(|(member, _)| member).collect();
        let mute = others.into_iter().map(|other| DoorEvent::Mute { linked: self.at_home(other) });
        std::iter::once(DoorEvent::Answers).chain(mute).collect()
    }

    fn noticed(&mut self, member: MemberId, mut notice: Notice) -> Vec<DoorEvent> {
        let elsewhere = |homes: &BTreeMap<Incarnation, MemberId>, life: &Incarnation| {
            homes.get(life).is_some_and(|home| *home != member)
        };
        match &mut notice {
            Notice::Joined { worker, .. } => {
                if let Some(here) = self.here(member) {
                    here.linked.insert(worker.clone());
                }
                self.homes.insert(worker.clone(), member);
                self.moving.remove(worker);
            }
            Notice::Left { worker, held, .. } => {
                member.held(held);
                if let Some(here) = self.here(member) {
                    here.linked.remove(worker);
                }
                if elsewhere(&self.homes, worker) {
                    tracing::debug!(%worker, "the door that it has left knows so now");
                    return Vec::new();
                }
                if self.finds_another(worker) {
                    return Vec::new();
                }
                self.moving.remove(worker);
                self.leaving.remove(worker);
            }
            Notice::Moved { worker, .. } => {
                if let Some(here) = self.here(member) {
                    here.linked.remove(worker);
                }
                if elsewhere(&self.homes, worker) || self.finds_another(worker) {
                    return Vec::new();
                }
                self.moving.remove(worker);
            }
            Notice::Retiring { worker, .. } | Notice::Broke { worker, .. } => {
                if elsewhere(&self.homes, worker) {
                    return Vec::new();
                }
                self.leaving.insert(worker.clone());
            }
            Notice::Overran { worker, held } => {
                if elsewhere(&self.homes, worker) {
                    return Vec::new();
                }
                member.held(std::slice::from_mut(held));
                self.leaving.insert(worker.clone());
            }
            Notice::Settled { turn, .. } | Notice::Panicked { turn, .. } => *turn = member.turn(*turn),
            Notice::TrickleEnded { pool } => match self.trickles.get(pool) {
                Some(at) if *at != member => return Vec::new(),
                _ => drop(self.trickles.remove(pool)),
            },
            Notice::Stopping => {
                if let Some(here) = self.here(member) {
                    here.stopping = true;
                }
                return self.closed().into_iter().collect();
            }
            Notice::Refused { .. } => {}
            // They have ended with the line.
            Notice::Welcome { .. } | Notice::Report { .. } | Notice::Pong => return Vec::new(),
        }
        vec![DoorEvent::Notice(notice)]
    }

    /// Tells that no door accepts clients any more, once.
    fn closed(&mut self) -> Option<DoorEvent> {
        let open = self.present().any(|(_, here)| !here.stopping);
        let closed = std::mem::replace(&mut self.told_open, open) && !open;
        closed.then_some(DoorEvent::Notice(Notice::Stopping))
    }

    /// Whether another door still has the link of a worker that has just lost its home, which is that door then.
    fn finds_another(&mut self, life: &Incarnation) -> bool {
        let other = self.present().find(|(_, here)| here.linked.contains(life)).map(|(member, _)| member);
        match other {
            Some(other) => self.homes.insert(life.clone(), other),
            None => self.homes.remove(life),
        };
        other.is_some()
    }

    /// The door that does something for a pool as a whole.
    fn spokesman(&self, pool: &PoolName) -> Option<MemberId> {
        let workers = |member: MemberId| {
            let here = self.homes.iter().filter(|(life, home)| **home == member && life.worker.pool == *pool);
            here.count()
        };
        let doors = self.usable().map(|(member, _)| member);
        doors.max_by_key(|member| (workers(*member), std::cmp::Reverse(*member)))
    }

    fn at_home(&self, member: MemberId) -> Vec<Incarnation> {
        self.homes.iter().filter(|(_, home)| **home == member).map(|(life, _)| life.clone()).collect()
    }

    fn here(&mut self, member: MemberId) -> Option<&mut Here> {
        self.members.get_mut(&member)?.here.as_mut()
    }

    /// Those that are there.
    fn present(&self) -> impl Iterator<Item = (MemberId, &Here)> {
        self.members.iter().filter_map(|(member, it)| Some((*member, it.here.as_ref()?)))
    }

    /// Those that are there, answer, and accept clients.
    fn usable(&self) -> impl Iterator<Item = (MemberId, &Here)> {
        self.present().filter(|(_, here)| !here.silent && !here.stopping)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::collections::BTreeMap;

    use server::control::Stamp;

    use super::*;

    const A: MemberId = MemberId(0);
    const B: MemberId = MemberId(1);

    fn life(text: &str) -> Incarnation {
        text.parse().unwrap()
    }

    fn up(linked: &[&str]) -> Said {
        let linked = linked.iter().map(|text| life(text)).collect();
        let welcome = Welcome { pid: 1, pools: BTreeMap::new(), linked, seen: Vec::new() };
        Said::Up { welcome, tunnel: Some(([0, 0, 0, 0], 7411).into()) }
    }

    /// Two doors, of which each has these.
    fn two(of_a: &[&str], of_b: &[&str]) -> Muster {
        let mut muster = Muster::default();
        for (member, linked) in [(A, of_a), (B, of_b)] {
            let name = format!("door-{}", member.0);
            let address = Address::There(format!("10.0.0.{}:7411", member.0));
            muster.found(member, Site { name, address });
            muster.hear(member, up(linked));
        }
        muster
    }

    fn joined(worker: &str) -> Said {
        Said::Notice(Notice::Joined { worker: life(worker), at: Stamp::now() })
    }

    fn held(turn: u64) -> Held {
        Held {
            turn,
            request: "GET /".to_owned(),
            held_for: std::time::Duration::ZERO,
            delivery: 1,
            overran: false,
        }
    }

    fn left(worker: &str) -> Said {
        let (worker, at, held) = (life(worker), Stamp::now(), vec![held(5)]);
        Said::Notice(Notice::Left { worker, at, cleanly: false, vanished: None, held, siblings: 0 })
    }

    /// What the supervisor is told, in words.
    fn told(events: &[DoorEvent]) -> Vec<String> {
        let word = |event: &DoorEvent| match event {
            DoorEvent::Up(_) => "up".to_owned(),
            DoorEvent::Another(_) => "another".to_owned(),
            DoorEvent::Lost { linked, .. } => format!("lost {linked:?}"),
            DoorEvent::Mute { linked } => format!("mute {linked:?}"),
            DoorEvent::Heard { linked } => format!("heard {linked:?}"),
            DoorEvent::Silent => "silent".to_owned(),
            DoorEvent::Answers => "answers".to_owned(),
            DoorEvent::Down { .. } => "down".to_owned(),
            DoorEvent::Notice(Notice::Left { worker, .. }) => format!("{worker} left"),
            DoorEvent::Notice(Notice::Moved { worker, .. }) => format!("{worker} moved"),
            DoorEvent::Notice(Notice::Joined { worker, .. }) => format!("{worker} joined"),
            DoorEvent::Notice(notice) => format!("{notice:?}").split([' ', '{']).next().unwrap().to_owned(),
        };
        events.iter().map(word).collect()
    }

    fn drain(worker: &str) -> Order {
        Order::Drain { worker: life(worker) }
    }

    #[test]
    fn one_door_is_told_of_as_it_is() {
        let mut muster = Muster::default();
        muster.found(A, Site::here("/run/door.sock"));
        assert_eq!(told(&muster.hear(A, up(&["web-0.1"]))), ["up"]);
        assert_eq!(told(&muster.hear(A, joined("web-1.1"))), ["web-1.1 joined"]);
        assert_eq!(told(&muster.hear(A, left("web-0.1"))), ["web-0.1 left"]);
        assert_eq!(told(&muster.hear(A, Said::Silent)), ["silent"]);
        assert_eq!(told(&muster.hear(A, Said::Answers)), ["answers"]);
        assert_eq!(told(&muster.hear(A, Said::Notice(Notice::Stopping))), ["Stopping"]);
        assert_eq!(told(&muster.hear(A, Said::Down { why: String::new() })), ["down"]);
        assert_eq!(told(&muster.hear(A, up(&[]))), ["up"]);
    }

    #[test]
    fn a_door_of_several_that_goes_leaves_its_workers_to_the_others() {
        let mut muster = two(&["web-0.1", "web-1.1"], &["web-2.1"]);
        muster.hear(B, joined("web-1.1"));
        let gone = muster.hear(A, Said::Down { why: "it broke".to_owned() });
        assert_eq!(told(&gone), ["lost [web-0.1]"], "the other one has come to B already");
        assert_eq!(told(&muster.hear(B, joined("web-0.1"))), ["web-0.1 joined"]);
        assert_eq!(muster.route(&drain("web-0.1")), [B]);
        assert_eq!(told(&muster.hear(A, up(&[]))), ["another"]);
        assert_eq!(told(&muster.hear(B, Said::Down { why: String::new() })).len(), 1);
        assert_eq!(told(&muster.hear(A, Said::Down { why: String::new() })), ["down"]);
    }

    #[test]
    fn what_a_door_says_of_a_worker_that_has_joined_another_changes_nothing() {
        let mut muster = two(&["web-0.1"], &[]);
        assert_eq!(told(&muster.hear(B, joined("web-0.1"))), ["web-0.1 joined"]);
        assert_eq!(told(&muster.hear(A, left("web-0.1"))), [""; 0]);
        let broke = Notice::Broke { worker: life("web-0.1"), detail: String::new() };
        assert_eq!(told(&muster.hear(A, Said::Notice(broke))), [""; 0]);
        assert_eq!(told(&muster.hear(B, left("web-0.1"))), ["web-0.1 left"]);
    }

    #[test]
    fn whose_home_loses_it_while_another_door_has_it_is_at_home_there() {
        let mut muster = two(&["web-0.1"], &["web-0.1"]);
        assert_eq!(told(&muster.hear(A, left("web-0.1"))), [""; 0]);
        assert_eq!(muster.route(&drain("web-0.1")), [B]);
        assert_eq!(told(&muster.hear(B, left("web-0.1"))), ["web-0.1 left"]);
    }

    #[test]
    fn a_worker_that_is_sent_to_another_door_does_not_leave_in_whichever_order_that_is_told() {
        let moved = |to: &str| Said::Notice(Notice::Moved { worker: life("web-0.1"), to: to.to_owned() });
        for arrives_first in [true, false] {
            let mut muster = two(&["web-0.1", "web-1.1"], &[]);
            let to = "10.0.0.1:7411".to_owned();
            assert_eq!(muster.route(&Order::Move { worker: life("web-0.1"), to: to.clone() }), [A]);
            let stays: Vec<bool> = muster.roll().doors[0].workers.iter().map(|(_, stays)| *stays).collect();
            assert_eq!(stays, [false, true], "nobody is sent twice");
            let events = match arrives_first {
                true => [muster.hear(B, joined("web-0.1")), muster.hear(A, moved(&to))],
                false => [muster.hear(A, moved(&to)), muster.hear(B, joined("web-0.1"))],
            };
            let expected: &[&str] = match arrives_first {
                true => &["web-0.1 joined"],
                false => &["web-0.1 moved", "web-0.1 joined"],
            };
            assert_eq!(told(&events.into_iter().flatten().collect::<Vec<_>>()), expected);
            assert_eq!(muster.home(&life("web-0.1")), Some(B));
            assert_eq!(told(&muster.hear(B, left("web-0.1"))), ["web-0.1 left"]);
        }
    }

    #[test]
    fn a_silent_door_of_several_is_told_of_by_its_workers() {
        let mut muster = two(&["web-0.1"], &["web-1.1"]);
        assert_eq!(told(&muster.hear(A, Said::Silent)), ["mute [web-0.1]"]);
        assert_eq!(muster.answering(), [B]);
        assert_eq!(told(&muster.hear(B, Said::Silent)), ["silent"]);
        assert_eq!(told(&muster.hear(A, Said::Answers)), ["answers", "mute [web-1.1]"]);
        assert_eq!(told(&muster.hear(B, Said::Answers)), ["heard [web-1.1]"]);
        muster.hear(B, Said::Silent);
        let rest = muster.hear(A, Said::Down { why: String::new() });
        assert_eq!(told(&rest), ["lost [web-0.1]", "silent"], "those that are left are all silent");
    }

    #[test]
    fn clients_are_let_in_as_long_as_one_door_does_not_stop() {
        let mut muster = two(&[], &[]);
        let stopping = || Said::Notice(Notice::Stopping);
        assert_eq!(told(&muster.hear(A, stopping())), [""; 0]);
        assert_eq!(told(&muster.hear(B, stopping())), ["Stopping"]);
        assert_eq!(told(&muster.hear(A, Said::Down { why: String::new() })), ["lost []"]);
        assert_eq!(told(&muster.hear(A, up(&[]))), ["another"]);
        let gone = muster.hear(A, Said::Down { why: String::new() });
        assert_eq!(told(&gone), ["lost []", "Stopping"], "only the one that stops is left");
    }

    #[test]
    fn orders_go_where_they_belong() {
        let mut muster = two(&["web-0.1"], &["web-1.1", "web-2.1", "raw-0.1"]);
        let (web, raw): (PoolName, PoolName) = ("web".parse().unwrap(), "raw".parse().unwrap());
        let request = |pool: &PoolName| Order::Request {
            pool: pool.clone(),
            method: "GET".to_owned(),
            path: "/".to_owned(),
        };
        assert_eq!(muster.route(&drain("web-0.1")), [A]);
        assert_eq!(muster.route(&drain("web-9.1")), [], "nobody has it");
        assert_eq!(muster.route(&Order::Bury { worker: life("web-0.1") }), [A, B]);
        assert_eq!(muster.route(&Order::Stop), [A, B]);
        assert_eq!((muster.route(&request(&web)), muster.route(&request(&raw))), (vec![B], vec![B]));
        muster.hear(B, Said::Silent);
        assert_eq!(muster.route(&request(&web)), [A], "a silent door serves nobody");
    }

    #[test]
    fn a_pool_has_one_trickle_and_the_end_of_another_is_none() {
        let mut muster = two(&["web-0.1"], &["web-1.1", "web-2.1"]);
        let web: PoolName = "web".parse().unwrap();
        let lasting = std::time::Duration::from_secs(1);
        let trickle = Order::Trickle { pool: web.clone(), path: "/".to_owned(), per_second: 1.0, lasting };
        let ended = || Said::Notice(Notice::TrickleEnded { pool: web.clone() });
        assert_eq!(muster.route(&trickle), [B]);
        for worker in ["web-3.1", "web-4.1"] {
            muster.hear(A, joined(worker));
        }
        assert_eq!(muster.route(&trickle), [B], "in the place of the one that there is");
        assert_eq!(told(&muster.hear(A, ended())), [""; 0]);
        assert_eq!(muster.route(&Order::EndTrickle { pool: web.clone() }), [B]);
        let gone = muster.hear(B, Said::Down { why: String::new() });
        assert_eq!(told(&gone)[1..], ["TrickleEnded"], "it went with its door");
        assert_eq!(muster.route(&trickle), [A]);
        assert_eq!(told(&muster.hear(A, ended())), ["TrickleEnded"]);
    }

    #[test]
    fn turns_of_two_doors_have_different_numbers() {
        let mut muster = two(&["web-0.1"], &["web-1.1"]);
        let number = |events: Vec<DoorEvent>| match &events[..] {
            [DoorEvent::Notice(Notice::Left { held, .. })] => held[0].turn,
            [DoorEvent::Notice(Notice::Settled { turn, .. })] => *turn,
            _ => unreachable!("{events:?}"),
        };
        let (of_a, of_b) = (number(muster.hear(A, left("web-0.1"))), number(muster.hear(B, left("web-1.1"))));
        assert_eq!(of_a, 5, "the first door's keep theirs");
        assert_ne!(of_a, of_b);
        assert!(of_b < 1 << 53);
        let settled = Notice::Settled {
            worker: life("web-1.1"),
            turn: 5,
            at: Stamp::now(),
            outcome: server::control::Outcome::Finished,
        };
        assert_eq!(number(muster.hear(B, Said::Notice(settled))), of_b);
    }
}
