//! The reports of several doors in one: pure.
//!
//! Workers are in the report of the door that is their home, gauges are added up, and so are counters and histograms. A
//! door counts from when it was started. So that the sums never go back, what a door has counted is kept when it is gone,
//! and when it begins to count from the start again, which is told by a counter that has become less.

use std::collections::{BTreeMap, BTreeSet};

use server::control::{Counters, PoolReport, Report, WorkerReport};
use server::identity::{Incarnation, PoolName};
use server::observation::Histogram;

use super::muster::MemberId;

/// What has been counted so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By doors that are gone, or that have begun anew.
    past: BTreeMap<PoolName, Sums>,
    /// By each door when it was last heard of.
    last: BTreeMap<MemberId, BTreeMap<PoolName, Sums>>,
    /// The turns that each worker has done at each door.
    served: BTreeMap<Incarnation, BTreeMap<MemberId, u64>>,
    /// Who held nothing when the doors were last asked.
    idle: BTreeSet<Incarnation>,
    /// Ended turns that came too late for whoever had asked for them.
    unheard: u64,
}

/// What is counted of a pool.
#[derive(Debug, Clone, Default, PartialEq)]
struct Sums {
    counters: Counters,
    turn_time: Histogram,
    queue_wait: Histogram,
}

impl Sums {
    fn of(report: &PoolReport) -> Self {
        Self {
            counters: report.counters.clone(),
            turn_time: report.turn_time.clone(),
            queue_wait: report.queue_wait.clone(),
        }
    }

    /// Whether whoever has counted `earlier` has begun anew since.
    fn begins_anew_after(&self, earlier: &Self) -> bool {
        let (now, then) = (&self.counters, &earlier.counters);
        now.connections < then.connections || now.turns < then.turns || now.deliveries < then.deliveries
    }

    fn add(&mut self, other: &Self) {
        let Counters { connections, turns, deliveries, redelivered, deaths, answered, cut, abandoned } =
            &other.counters;
        let sums = &mut self.counters;
        sums.connections += connections;
        sums.turns += turns;
        sums.deliveries += deliveries;
        sums.redelivered += redelivered;
        sums.deaths += deaths;
        sums.cut += cut;
        sums.abandoned += abandoned;
        for (status, count) in answered {
            *sums.answered.entry(*status).or_default() += count;
        }
        self.turn_time.add(&other.turn_time);
        self.queue_wait.add(&other.queue_wait);
    }
}

impl Tally {
    /// One report of all that have answered. `home` tells whose word counts for a worker.
    pub(super) fn merge(
        &mut self,
        reports: Vec<(MemberId, Report)>,
        home: impl Fn(&Incarnation) -> Option<MemberId>,
    ) -> Report {
        let mut merged = Report::default();
        for (member, report) in reports {
            let trickles = report.trickles.into_iter();
            merged.trickles.extend(trickles);
            merged.turns_omitted += report.turns_omitted;
            merged.turns.extend(report.turns.into_iter().map(|mut turn| {
                turn.turn = member.turn(turn.turn);
                turn
            }));
            for mut pool in report.pools {
                self.note(member, &pool);
                pool.workers.retain(|worker| home(&worker.worker).is_none_or(|home| home == member));
                pool.workers.iter_mut().for_each(|worker| self.note_worker(member, worker));
                match merged.pools.iter_mut().find(|it| it.name == pool.name) {
                    None => merged.pools.push(pool),
                    Some(all) => join(all, pool),
                }
            }
        }
        merged.turns.sort_by_key(|turn| turn.began);
        for pool in &mut merged.pools {
            let Sums { counters, turn_time, queue_wait } = self.sums(&pool.name);
            (pool.counters, pool.turn_time, pool.queue_wait) = (counters, turn_time, queue_wait);
        }
        let there: BTreeSet<&Incarnation> =
            merged.pools.iter().flat_map(|pool| &pool.workers).map(|worker| &worker.worker).collect();
        self.served.retain(|life, _| there.contains(life));
        let idle = merged.pools.iter().flat_map(|pool| &pool.workers).filter(|it| it.holding.is_empty());
        self.idle = idle.map(|worker| worker.worker.clone()).collect();
        merged
    }

    /// The turns of a report that nobody hears are made known to the next one who takes some.
    pub(super) fn unheard(&mut self, report: &Report) {
        self.unheard += report.turns.len() as u64 + report.turns_omitted;
    }

    /// How many those are; they are known by that.
    pub(super) fn take_unheard(&mut self) -> u64 {
        std::mem::take(&mut self.unheard)
    }

    /// Who held nothing when the doors were last asked.
    pub(super) fn idle(&self) -> &BTreeSet<Incarnation> {
        &self.idle
    }

    /// A door is none of ours any more. What it has counted stays.
    pub(super) fn gone(&mut self, member: MemberId) {
        for (pool, sums) in self.last.remove(&member).unwrap_or_default() {
            self.past.entry(pool).or_default().add(&sums);
        }
    }

    fn note(&mut self, member: MemberId, pool: &PoolReport) {
        let now = Sums::of(pool);
        let last = self.last.entry(member).or_default().entry(pool.name.clone()).or_default();
        if now.begins_anew_after(last) {
            self.past.entry(pool.name.clone()).or_default().add(last);
        }
        *last = now;
    }

    fn note_worker(&mut self, member: MemberId, worker: &mut WorkerReport) {
        let served = self.served.entry(worker.worker.clone()).or_default();
        served.insert(member, worker.turns);
        worker.turns = served.values().sum();
        member.held(&mut worker.holding);
    }

    fn sums(&self, pool: &PoolName) -> Sums {
        let mut sums = self.past.get(pool).cloned().unwrap_or_default();
        self.last.values().filter_map(|pools| pools.get(pool)).for_each(|last| sums.add(last));
        sums
    }
}

/// Adds what a pool is at one door to what it is at others, but for what is counted.
fn join(all: &mut PoolReport, one: PoolReport) {
    all.connections += one.connections;
    all.queued += one.queued;
    all.longest_wait = all.longest_wait.max(one.longest_wait);
    all.workers.extend(one.workers);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::time::Duration;

    use server::control::Held;

    use super::*;

    const A: MemberId = MemberId(0);
    const B: MemberId = MemberId(1);

    fn worker(life: &str, turns: u64, holds: &[u64]) -> WorkerReport {
        let held = |turn: &u64| Held {
            turn: *turn,
            request: "GET /".to_owned(),
            held_for: Duration::ZERO,
            delivery: 1,
            overran: false,
        };
        WorkerReport {
            worker: life.parse().unwrap(),
            turns,
            credit: 1,
            draining: false,
            idle_for: Duration::ZERO,
            holding: holds.iter().map(held).collect(),
        }
    }

    fn report(turns: u64, workers: Vec<WorkerReport>) -> Report {
        let mut turn_time = Histogram::default();
        (0..turns).for_each(|_| turn_time.observe(Duration::from_millis(1)));
        let pool = PoolReport {
            name: "web".parse().unwrap(),
            listen: ([127, 0, 0, 1], 8080).into(),
            connections: 3,
            queued: 1,
            longest_wait: Duration::from_millis(turns),
            counters: Counters {
                turns,
                deliveries: turns,
                answered: [(502, 1)].into(),
                ..Counters::default()
            },
            turn_time,
            queue_wait: Histogram::default(),
            workers,
        };
        Report { pools: vec![pool], ..Report::default() }
    }

    fn anywhere(_: &Incarnation) -> Option<MemberId> {
        None
    }

    /// Turns by counter and by histogram.
    fn turns(report: &Report) -> (u64, u64) {
        (report.pools[0].counters.turns, report.pools[0].turn_time.count())
    }

    #[test]
    fn one_door_is_reported_as_it_reports() {
        let only = report(7, vec![worker("web-0.1", 7, &[9])]);
        assert_eq!(Tally::default().merge(vec![(A, only.clone())], anywhere), only);
    }

    #[test]
    fn two_doors_are_added_up() {
        let mut tally = Tally::default();
        let of_a = report(7, vec![worker("web-0.1", 7, &[9])]);
        let of_b = report(5, vec![worker("web-1.1", 5, &[9])]);
        let both = tally.merge(vec![(A, of_a), (B, of_b)], anywhere);
        let pool = &both.pools[0];
        assert_eq!(turns(&both), (12, 12));
        assert_eq!((pool.connections, pool.queued), (6, 2));
        assert_eq!(pool.longest_wait, Duration::from_millis(7));
        assert_eq!(pool.counters.answered[&502], 2);
        assert_ne!(pool.workers[0].holding[0].turn, pool.workers[1].holding[0].turn);
    }

    #[test]
    fn a_worker_is_where_its_home_is_and_keeps_what_it_has_done_elsewhere() {
        let mut tally = Tally::default();
        tally.merge(vec![(A, report(7, vec![worker("web-0.1", 7, &[])]))], |_| Some(A));
        assert_eq!(tally.idle().len(), 1);
        let of_a = report(7, vec![worker("web-0.1", 7, &[])]);
        let of_b = report(2, vec![worker("web-0.1", 2, &[1])]);
        let moved = tally.merge(vec![(A, of_a), (B, of_b)], |_| Some(B));
        let workers: Vec<u64> = moved.pools[0].workers.iter().map(|worker| worker.turns).collect();
        assert_eq!(workers, [9]);
        assert!(tally.idle().is_empty());
    }

    #[test]
    fn sums_do_not_go_back() {
        let mut tally = Tally::default();
        let merge = |tally: &mut Tally, reports: Vec<(MemberId, u64)>| {
            let reports = reports.into_iter().map(|(member, turns)| (member, report(turns, vec![])));
            turns(&tally.merge(reports.collect(), anywhere)).0
        };
        assert_eq!(merge(&mut tally, vec![(A, 10), (B, 20)]), 30);
        assert_eq!(merge(&mut tally, vec![(B, 21)]), 31, "one has not answered in time");
        assert_eq!(merge(&mut tally, vec![(A, 3), (B, 22)]), 35, "one has begun anew");
        tally.gone(B);
        assert_eq!(merge(&mut tally, vec![(A, 4)]), 36, "one is gone for good");
        assert_eq!(merge(&mut tally, vec![(A, 4), (MemberId(2), 1)]), 37, "and another has come");
    }
}
