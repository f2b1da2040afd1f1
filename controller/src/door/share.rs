//! Dealing out evenly: which door a new worker dials first, and who is sent to another door. Pure.
//!
//! Requests do not pass from one door to another, so a pool is as good at a door as its workers there are many. New
//! workers are told the doors in order, those with the fewest of their pool first. That is right when they are ordered and
//! may be wrong when they arrive; and a door that is started anew begins with none. So where the doors' shares of a pool
//! differ by more than one, and have for [`PATIENCE`], one worker is sent from the fullest to the emptiest, and then nobody
//! for [`PACE`]. Each move brings the two nearer by two, and none is made for a difference of one: it converges, and ends.
//!
//! A worker that is told to move goes when it has done what it holds, and gets nothing more until then. So doors are asked
//! who holds nothing, while shares are uneven, and those are sent first; where a turn is a whole connection, which may last
//! for days, nobody else is. One that has not come anywhere within [`LOST_PATIENCE`] is waited for no longer, and another
//! may be sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use server::identity::{Incarnation, PoolName};

use super::muster::MemberId;

/// For how long shares have to differ before somebody is moved: doors and workers that start come in no order.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Between two moves in one pool.
pub(super) const PACE: Duration = Duration::from_secs(1);
/// How long a move may take before it counts as none.
pub(super) const LOST_PATIENCE: Duration = Duration::from_secs(60);

/// Where a door listens for workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mouth {
    /// At this `HOST:PORT`, which is good for everybody.
    Address(String),
    /// At this address of this machine, which may be another one for those who dial it.
    OfThisMachine(SocketAddr),
}

/// The doors that take workers, and whom they have.
#[derive(Debug, Clone, Default)]
pub struct Roll {
    pub(super) doors: Vec<Seen>,
    /// Where those are that are known of and not there (yet): a worker may need them some day.
    pub(super) absent: Vec<String>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) member: MemberId,
    /// `None`: it has a Unix socket alone.
    pub(super) mouth: Option<Mouth>,
    /// Those that it serves.
    pub(super) pools: BTreeSet<PoolName>,
    /// Whose home it is, and whether they stay: nobody is moved who goes already.
    pub(super) workers: Vec<(Incarnation, bool)>,
}

impl Seen {
    fn share(&self, pool: &PoolName) -> usize {
        self.workers.iter().filter(|(life, _)| life.worker.pool == *pool).count()
    }

    fn serves(&self, pool: &PoolName) -> bool {
        self.pools.is_empty() || self.pools.contains(pool)
    }
}

impl Roll {
    /// The doors to dial, in order, for whoever is to be in this place of this pool. Among those that have as many, each
    /// place begins with another one, for workers are ordered many at a time. Those that are not there come last.
    pub(super) fn to_dial(&self, pool: &PoolName, place: u32) -> Vec<Mouth> {
        let doors = self.doors.iter().filter(|door| door.serves(pool));
        let doors: Vec<(&Mouth, usize)> =
            doors.filter_map(|door| Some((door.mouth.as_ref()?, door.share(pool)))).collect();
        let start = place as usize % doors.len().max(1);
        let mut turned: Vec<(&Mouth, usize)> =
            doors[start..].iter().chain(&doors[..start]).copied().collect();
        turned.sort_by_key(|(_, share)| *share);
        let absent = self.absent.iter().cloned().map(Mouth::Address);
        turned.into_iter().map(|(mouth, _)| mouth.clone()).chain(absent).collect()
    }

    /// Where the door of this machine listens.
    pub(super) fn mouth_of_this_machine(&self) -> Option<SocketAddr> {
        self.doors.iter().find_map(|door| match door.mouth {
            Some(Mouth::OfThisMachine(address)) => Some(address),
            Some(Mouth::Address(_)) | None => None,
        })
    }
}

/// Somebody who is to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) worker: Incarnation,
    /// `HOST:PORT` of the door that it is sent to.
    pub(super) to: String,
}

/// Since when what is uneven, and what is being done about it.
#[derive(Debug, Default)]
pub(super) struct Balance {
    pools: BTreeMap<PoolName, Pool>,
    /// Those in which a turn is a whole connection.
    connections: BTreeSet<PoolName>,
}

#[derive(Debug, Default)]
struct Pool {
    /// Since when the doors' shares differ too much.
    uneven: Option<Instant>,
    /// Who was sent away, and when.
    moved: Option<(Incarnation, Instant)>,
}

impl Balance {
    /// These are from now on the pools in which a turn is a whole connection.
    pub(super) fn learn(&mut self, connections: BTreeSet<PoolName>) {
        self.connections = connections;
    }

    /// Whether somebody may be moved before long: then it is good to know who is idle.
    pub(super) fn looks_for_idle(&self) -> bool {
        self.pools.values().any(|pool| pool.uneven.is_some())
    }

    /// Who is to be moved `now`. `idle` are those who held nothing when the doors were last asked.
    pub(super) fn look(&mut self, roll: &Roll, idle: &BTreeSet<Incarnation>, now: Instant) -> Vec<Move> {
        let everybody = roll.doors.iter().flat_map(|door| &door.workers);
        let names: BTreeSet<PoolName> = everybody.map(|(life, _)| life.worker.pool.clone()).collect();
        self.pools.retain(|name, _| names.contains(name));
        names
            .into_iter()
            .filter_map(|name| {
                let who = match self.connections.contains(&name) {
                    true => Whom::IdleAlone,
                    false => Whom::IdleFirst,
                };
                self.pools.entry(name.clone()).or_default().look(&name, roll, (idle, who), now)
            })
            .collect()
    }

    /// Those of whom it is not believed any more that they come to another door.
    pub(super) fn given_up(&mut self, now: Instant) -> Vec<Incarnation> {
        let late = |pool: &mut Pool| pool.moved.take_if(|(_, at)| now >= *at + LOST_PATIENCE);
        self.pools.values_mut().filter_map(late).map(|(life, _)| life).collect()
    }
}

/// Who may be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    /// Somebody idle, or else somebody who is not: that is soon over.
    IdleFirst,
    /// Nobody but those.
    IdleAlone,
}

impl Pool {
    fn look(
        &mut self,
        name: &PoolName,
        roll: &Roll,
        (idle, whom): (&BTreeSet<Incarnation>, Whom),
        now: Instant,
    ) -> Option<Move> {
        let mut shares: Vec<(usize, &Seen)> = roll
            .doors
            .iter()
            .filter(|door| door.serves(name) && matches!(door.mouth, Some(Mouth::Address(_))))
            .map(|door| (door.share(name), door))
            .collect();
        if let Some((life, at)) = &self.moved {
            // Wherever it has come to: it may have found the other door closed and be back.
            let mut everybody = roll.doors.iter().flat_map(|door| &door.workers);
            let arrived = everybody.any(|(worker, stays)| worker == life && *stays);
            if !arrived || now < *at + PACE {
                return None;
            }
            self.moved = None;
        }
        shares.sort_by_key(|(share, door)| (*share, door.member));
        let ((least, emptiest), (most, fullest)) = (shares.first()?, shares.last()?);
        if most - least < 2 {
            self.uneven = None;
            return None;
        }
        if now < *self.uneven.get_or_insert(now) + PATIENCE {
            return None;
        }
        let may_go = |life: &Incarnation| whom == Whom::IdleFirst || idle.contains(life);
        let candidates = fullest
            .workers
            .iter()
            .filter(|(life, stays)| life.worker.pool == *name && *stays && may_go(life));
        let (worker, _) = candidates.max_by_key(|(life, _)| (idle.contains(life), life))?;
        let Some(Mouth::Address(to)) = &emptiest.mouth else { return None };
        self.moved = Some((worker.clone(), now));
        Some(Move { worker: worker.clone(), to: to.clone() })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn roll(shares: &[&[u32]]) -> Roll {
        let door = |(number, places): (usize, &&[u32])| Seen {
            member: MemberId(u32::try_from(number).unwrap()),
            mouth: Some(Mouth::Address(format!("10.0.0.{number}:7411"))),
            pools: BTreeSet::new(),
            workers: places.iter().map(|place| (life(*place), true)).collect(),
        };
        Roll { doors: shares.iter().enumerate().map(door).collect(), absent: Vec::new() }
    }

    fn life(place: u32) -> Incarnation {
        format!("web-{place}.1").parse().unwrap()
    }

    /// The same while this worker is on its way.
    fn while_moving(mut roll: Roll, place: u32) -> Roll {
        for (worker, stays) in roll.doors.iter_mut().flat_map(|door| &mut door.workers) {
            *stays &= *worker != life(place);
        }
        roll
    }

    fn dialled(roll: &Roll, place: u32) -> Vec<String> {
        let mouths = roll.to_dial(&"web".parse().unwrap(), place);
        mouths
            .into_iter()
            .map(|mouth| match mouth {
                Mouth::Address(address) => address[7..8].to_owned(),
                Mouth::OfThisMachine(_) => "here".to_owned(),
            })
            .collect()
    }

    #[test]
    fn a_new_worker_dials_first_where_its_pool_is_fewest() {
        let uneven = roll(&[&[0, 1], &[2], &[3, 4, 5]]);
        assert_eq!(dialled(&uneven, 6), ["1", "0", "2"]);
        assert_eq!(dialled(&roll(&[]), 6), [""; 0]);
        let absent = vec!["10.0.0.9:7411".to_owned()];
        assert_eq!(dialled(&Roll { absent, ..uneven }, 6), ["1", "0", "2", "9"]);
        let mut one_is_of_before = roll(&[&[0, 1], &[2]]);
        one_is_of_before.doors[1].pools.insert("raw".parse().unwrap());
        assert_eq!(dialled(&one_is_of_before, 6), ["0"], "a door that does not know the pool lets nobody in");
    }

    #[test]
    fn workers_that_are_ordered_at_once_begin_with_different_doors() {
        let empty = roll(&[&[], &[], &[]]);
        let first: Vec<String> = (0..6).map(|place| dialled(&empty, place).remove(0)).collect();
        assert_eq!(first, ["0", "1", "2", "0", "1", "2"]);
        assert_eq!(dialled(&empty, 1), ["1", "2", "0"], "and all of them are told all of the doors");
    }

    #[test]
    fn one_is_moved_when_it_has_been_uneven_for_a_while_and_then_nobody_for_a_moment() {
        let (start, mut balance) = (Instant::now(), Balance::default());
        let at = |ms| start + Duration::from_millis(ms);
        let uneven = roll(&[&[0, 1, 2, 3], &[]]);
        let idle = BTreeSet::from([life(1)]);
        assert!(!balance.looks_for_idle());
        assert_eq!(balance.look(&uneven, &idle, at(0)), []);
        assert!(balance.looks_for_idle(), "before anybody is moved");
        assert_eq!(balance.look(&uneven, &idle, at(2_999)), []);
        let moved = [Move { worker: life(1), to: "10.0.0.1:7411".to_owned() }];
        assert_eq!(balance.look(&uneven, &idle, at(3_000)), moved, "one that holds nothing goes first");
        let on_its_way = while_moving(uneven, 1);
        assert_eq!(balance.look(&on_its_way, &idle, at(30_000)), [], "it has not come yet");
        let nearer = roll(&[&[0, 2, 3], &[1]]);
        assert_eq!(balance.look(&nearer, &idle, at(30_001)).len(), 1);
        let even = roll(&[&[0, 2], &[1, 3]]);
        assert_eq!(balance.look(&even, &idle, at(60_000)), []);
        assert!(!balance.looks_for_idle());
        assert_eq!(
            balance.look(&roll(&[&[0, 2], &[1, 3, 4]]), &idle, at(90_000)),
            [],
            "one is no difference"
        );
    }

    #[test]
    fn who_does_not_come_anywhere_is_given_up_and_who_comes_back_is_not_waited_for() {
        let (start, mut balance) = (Instant::now(), Balance::default());
        let uneven = || roll(&[&[0, 1, 2, 3], &[]]);
        let look = |balance: &mut Balance, roll: &Roll, ms| {
            balance.look(roll, &BTreeSet::new(), start + Duration::from_millis(ms)).len()
        };
        assert_eq!((look(&mut balance, &uneven(), 0), look(&mut balance, &uneven(), 3_000)), (0, 1));
        assert_eq!(look(&mut balance, &while_moving(uneven(), 3), 62_000), 0);
        assert_eq!(balance.given_up(start + Duration::from_secs(62)), []);
        assert_eq!(balance.given_up(start + Duration::from_secs(63)), [life(3)]);
        assert_eq!(look(&mut balance, &uneven(), 63_000), 1, "another may be sent");
        assert_eq!(look(&mut balance, &uneven(), 64_000), 1, "it is back: it found the other door closed");
    }

    #[test]
    fn who_holds_a_connection_is_not_moved() {
        let (start, mut balance) = (Instant::now(), Balance::default());
        balance.learn(BTreeSet::from(["web".parse().unwrap()]));
        let uneven = roll(&[&[0, 1, 2, 3], &[]]);
        let nobody = BTreeSet::new();
        assert_eq!(balance.look(&uneven, &nobody, start), []);
        assert!(balance.looks_for_idle());
        assert_eq!(balance.look(&uneven, &nobody, start + PATIENCE), [], "all of them do");
        let idle = BTreeSet::from([life(2)]);
        let moves = balance.look(&uneven, &idle, start + PATIENCE);
        assert_eq!(moves.first().map(|it| &it.worker), Some(&life(2)), "as soon as one does not");
    }

    #[test]
    fn who_leaves_is_not_moved() {
        let (start, mut balance) = (Instant::now(), Balance::default());
        let mut uneven = roll(&[&[0, 1], &[]]);
        uneven.doors[0].workers[1].1 = false;
        balance.look(&uneven, &BTreeSet::new(), start);
        let moves = balance.look(&uneven, &BTreeSet::new(), start + PATIENCE);
        assert_eq!(moves.first().map(|it| &it.worker), Some(&life(0)));
    }

    proptest! {
        #[test]
        fn it_converges_and_then_rests(shares in prop::collection::vec(0..12_usize, 1..5)) {
            let mut doors: Vec<Vec<u32>> = Vec::new();
            let mut next = 0;
            for share in shares {
                doors.push((next..next + u32::try_from(share).unwrap()).collect());
                next += u32::try_from(share).unwrap();
            }
            let (mut now, mut balance, mut moves) = (Instant::now(), Balance::default(), 0);
            for _ in 0..200 {
                now += PACE;
                let seen = roll(&doors.iter().map(Vec::as_slice).collect::<Vec<_>>());
                for Move { worker, to } in balance.look(&seen, &BTreeSet::new(), now) {
                    moves += 1;
                    let place = worker.worker.place;
                    doors.iter_mut().for_each(|door| door.retain(|it| *it != place));
                    doors[to[7..8].parse::<usize>().unwrap()].push(place);
                }
            }
            let sizes = || doors.iter().map(Vec::len);
            prop_assert!(sizes().max().unwrap() - sizes().min().unwrap() < 2, "{doors:?}");
            prop_assert!(moves <= next, "{moves} moves of {next} workers");
        }
    }
}
