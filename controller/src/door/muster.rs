//! Which door has whom, and what of that the supervisor has to know: pure.
//!
//! Each door speaks for itself, and they are not in step. A worker that has left one door for another is announced by the
//! second before the first has noticed, or after; a door that is cut off from us goes on having its workers. So a worker's
//! *home* is the door that it has joined last, and what any other says of it is passed over. When its home loses it and
//! another door has its link still, that one is its home again.
//!
//! A door that is not to be found any more may be there yet: it is on its way out, serves those who are there, and keeps its
//! workers until it goes. It is heard until its line ends, and deals with nobody new.
//!
//! A worker that its home has lost is none any more, though it may live on the far side of a partition and dial the next
//! door, which knows nothing of it; and whoever knows the token of one that has gone in order could come there as it. So
//! the other doors are told to bury it ([`Muster::follow_ups`]).
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
use crate::model::{Company, DoorEvent, Welcome};

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
    /// What doors are to be told for what another has said.
    follow_ups: Vec<(MemberId, Order)>,
}

#[derive(Debug)]
struct Member {
    site: Site,
    standing: Standing,
    tongue: Tongue,
    /// Nothing answers where it is.
    dark: bool,
    here: Option<Here>,
}

/// Whether a door is to be found where doors are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is.
    Stays,
    /// Not any more: when its line ends, it has gone.
    Leaves,
}

/// Whether a door is there that says things which are not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tongue {
    /// Not as far as is known.
    Ours,
    /// It speaks another version, and may have workers.
    Another,
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
        let (standing, tongue) = (Standing::Stays, Tongue::Ours);
        self.members.insert(member, Member { site, standing, tongue, dark: false, here: None });
    }

    /// A door is to be found no more: it goes, or has gone.
    pub(super) fn leaves(&mut self, member: MemberId) -> Vec<DoorEvent> {
        if let Some(it) = self.members.get_mut(&member) {
            it.standing = Standing::Leaves;
        }
        self.closed().into_iter().collect()
    }

    /// A door is to be found, or still is.
    pub(super) fn stays_on(&mut self, member: MemberId) {
        if let Some(it) = self.members.get_mut(&member) {
            it.standing = Standing::Stays;
        }
    }

    /// Whether this door was on its way out and is not there any more.
    pub(super) fn has_gone(&self, member: MemberId) -> bool {
        self.members.get(&member).is_some_and(|it| {
            it.standing == Standing::Leaves && it.here.is_none() && it.tongue == Tongue::Ours
        })
    }

    /// Whether there are others besides one.
    pub(super) fn company(&self) -> Company {
        let staying = self.members.values().filter(|it| it.standing == Standing::Stays);
        match staying.count() {
            _ if self.members.values().any(|it| it.tongue == Tongue::Another) => Company::Unclear,
            0 | 1 => Company::Alone,
            _ => Company::Several,
        }
    }

    /// It is none of ours any more.
    pub(super) fn forget(&mut self, member: MemberId) {
        self.members.remove(&member);
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
            Said::Foreign => self.speaks(member, Tongue::Another),
            Said::Away => self.speaks(member, Tongue::Ours),
            Said::Dark(dark) => {
                if let Some(it) = self.members.get_mut(&member) {
                    it.dark = dark;
                }
                Vec::new()
            }
            Said::Beats(_) => Vec::new(),
        }
    }

    /// The machines on which nothing answers for their door.
    pub(super) fn dark(&self) -> BTreeSet<String> {
        self.members.values().filter(|it| it.dark).filter_map(|it| it.site.machine.clone()).collect()
    }

    fn speaks(&mut self, member: MemberId, tongue: Tongue) -> Vec<DoorEvent> {
        if let Some(it) = self.members.get_mut(&member) {
            it.tongue = tongue;
        }
        Vec::new()
    }

    /// What doors have to do for what was [heard](Self::hear) of others since this was last asked.
    pub(super) fn follow_ups(&mut self) -> Vec<(MemberId, Order)> {
        std::mem::take(&mut self.follow_ups)
    }

    /// To which doors an order goes.
    pub(super) fn route(&mut self, order: &Order) -> Vec<MemberId> {
        match order {
            Order::Drain { worker } | Order::Withhold { worker } | Order::Kill { worker } => {
                let home = self.homes.get(worker).copied();
                if home.is_some() {
                    self.leaving.insert(worker.clone());
                }
                home.into_iter().collect()
            }
            Order::Bury { .. } | Order::Over { .. } => {
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
        let absent =
            self.members.iter().filter(|(_, it)| it.here.is_none() && it.standing == Standing::Stays);
        let absent = absent.filter_map(|(_, it)| match &it.site.address {
            Address::There(address) => Some(address.clone()),
            Address::Here(_) => None,
        });
        Roll { doors, absent: absent.collect() }
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
            it.tongue = Tongue::Ours;
            it.dark = false;
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
                let others = self.present().map(|(other, _)| other).filter(|other| *other != member);
                let bury = |other| (other, Order::Bury { worker: worker.clone() });
                let orders: Vec<_> = others.map(bury).collect();
                self.follow_ups.extend(orders);
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
        let open = self.staying().any(|(_, here)| !here.stopping);
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
        self.staying().filter(|(_, here)| !here.silent && !here.stopping)
    }

    /// Those that are there and not on their way out.
    fn staying(&self) -> impl Iterator<Item = (MemberId, &Here)> {
        let staying = self.members.iter().filter(|(_, it)| it.standing == Standing::Stays);
        staying.filter_map(|(member, it)| Some((*member, it.here.as_ref()?)))
    }
}
