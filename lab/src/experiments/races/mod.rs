//! Races: a counter that N threads bump at the same time.
//!
//! Five ways. *Load and store*: each thread reads the counter and writes back one more. On a plain variable that would
//! be undefined in Rust; here load and store are each atomic and only the two together are not, which is what a
//! compiler makes of `counter += 1` elsewhere. *Mutex* and *atomic add* are the remedies. *One global lock* does the
//! same under a lock that each thread holds for a time slice, as an interpreter's does: nothing is lost, and nothing is
//! gained from more cores. *Processes* share nothing: each counts for itself and sends its sum through a pipe.
//!
//! Besides counting, each bump is a piece of work for the processor, so that it can be seen what more cores are good for
//! in each way.
//!
//! That is done by more and more at once on all cores, and by as many as there are cores, kept to fewer of them. And
//! because a race need not show, two threads bump a few times only, again and again.
//!
//! Expected: only the first way loses updates, a different number each time, and none with one thread; of a few bumps mostly
//! none. With the global lock the rate stays that of one core; with the others the work is spread over cores.

mod outcome;

use std::io::{self, Read, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};

use super::{Bench, Experiment, Party};
use crate::cores;
use crate::findings::Outcome;
use crate::play::{self, Part};

pub(super) const QUESTION: &str =
    "What is lost when many bump one counter at once, and what does each remedy cost?";
pub(super) const METHOD: &str = "Each of N threads (or processes) bumps as often as the others; all begin at once. Lost is what the counter lacks at the end. \
     The time is from when the first began to when the last was through. Medians over rounds in which all ways are taken in turn; what is \
     compared with one thread, or with one core, is compared within a round.";

/// A way to bump a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    /// No synchronisation.
    LoadAndStore,
    /// A lock around each bump.
    Mutex,
    /// One instruction that nobody can come between.
    AtomicAdd,
    /// A lock that a thread holds while it runs, and offers to the others after each slice.
    GlobalLock,
    /// Counters of their own, in processes of their own, and a message at the end.
    Processes,
}

impl Way {
    const ALL: [Self; 5] =
        [Self::LoadAndStore, Self::Mutex, Self::AtomicAdd, Self::GlobalLock, Self::Processes];

    fn name(self) -> &'static str {
        match self {
            Self::LoadAndStore => "load and store",
            Self::Mutex => "mutex",
            Self::AtomicAdd => "atomic add",
            Self::GlobalLock => "one global lock",
            Self::Processes => "processes, messages",
        }
    }
}

/// What came out of one round.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    way: Way,
    parties: usize,
    /// Cores that they may run on.
    cores: usize,
    expected: u64,
    counted: u64,
    took_ms: f64,
}

/// So many at once are enough to show what there is to see, however many cores there are.
const MOST: usize = 32;
/// Bumps of which a race may well lose none.
const FEW: u64 = 10;

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let rounds = bench.size.pick(2, 3, 7);
    let bumps = bench.size.pick(20_000, 100_000, 400_000);
    let tries = bench.size.pick(20, 50, 200);
    let all_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let parties = parties(all_cores);
    let (a_core_each, fewer) = (all_cores.min(MOST), fewer_cores(all_cores.min(MOST)));
    let progress =
        bench.progress(Experiment::Races, rounds * (parties.len() + fewer.len()) * Way::ALL.len() + 1);
    let mut all = Vec::new();
    for _ in 0..rounds {
        for &parties in &parties {
            for way in Way::ALL {
                progress.doing(&format!("{}, {parties} at once", way.name()));
                all.push(round(way, parties, all_cores, bumps)?);
                progress.step();
            }
        }
        for &cores in &fewer {
            for way in Way::ALL {
                progress.doing(&format!("{}, {a_core_each} at once on {cores} cores", way.name()));
                let before = cores::keep_to(cores)?;
                let kept = round(way, a_core_each, cores, bumps);
                cores::allow(&before)?;
                all.push(kept?);
                progress.step();
            }
        }
    }
    progress.doing("a few bumps, again and again");
    let few: Vec<Round> =
        (0..tries).map(|_| round(Way::LoadAndStore, 2, all_cores, FEW)).collect::<anyhow::Result<_>>()?;
    progress.step();
    Ok(outcome::of(&all, &few, all_cores))
}

/// How many bump at once: more and more, and as many as there are cores.
fn parties(cores: usize) -> Vec<usize> {
    let mut parties: Vec<usize> = [1, 2, 4, 8].into_iter().filter(|&n| n <= (2 * cores).max(4)).collect();
    parties.push(cores.min(MOST));
    parties.sort_unstable();
    parties.dedup();
    parties
}

/// Numbers of cores below that one, each twice the one before.
fn fewer_cores(cores: usize) -> Vec<usize> {
    std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n < cores).collect()
}

fn round(way: Way, parties: usize, cores: usize, bumps: u64) -> anyhow::Result<Round> {
    let (counted, took) = match way {
        Way::Processes => by_processes(parties, bumps)?,
        _ => by_threads(way, parties, bumps)?,
    };
    let expected = bumps * parties as u64;
    Ok(Round { way, parties, cores, expected, counted, took_ms: took.as_secs_f64() * 1e3 })
}

fn by_threads(way: Way, threads: usize, bumps: u64) -> anyhow::Result<(u64, Duration)> {
    let (counter, lock) = (AtomicU64::new(0), Mutex::new(0_u64));
    let barrier = Barrier::new(threads);
    let bump = || {
        barrier.wait();
        // Each looks at the clock itself: whoever looked for them would want the processor that they have.
        let began = Instant::now();
        match way {
            Way::LoadAndStore => load_and_store(&counter, bumps),
            Way::Mutex => under_mutex(&lock, bumps),
            Way::GlobalLock => under_global_lock(&lock, bumps),
            Way::AtomicAdd | Way::Processes => atomic_add(&counter, bumps),
        }
        (began, Instant::now())
    };
    let times: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(bump)).collect();
        threads
            .into_iter()
            .map(|it| it.join().map_err(|_| anyhow!("a counting thread panicked")))
            .collect::<anyhow::Result<_>>()
    })?;
    let first = times.iter().map(|it| it.0).min().context("there were no threads")?;
    let last = times.iter().map(|it| it.1).max().context("there were no threads")?;
    let locked = lock.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok((counter.into_inner() + locked, last - first))
}

fn load_and_store(counter: &AtomicU64, bumps: u64) {
    for nth in 0..bumps {
        work(nth);
        let seen = counter.load(Ordering::Relaxed);
        counter.store(seen + 1, Ordering::Relaxed);
    }
}

fn atomic_add(counter: &AtomicU64, bumps: u64) {
    for nth in 0..bumps {
        work(nth);
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn under_mutex(counter: &Mutex<u64>, bumps: u64) {
    for nth in 0..bumps {
        work(nth);
        if let Ok(mut counter) = counter.lock() {
            *counter += 1;
        }
    }
}

/// The work, too, is done under the lock: an interpreter runs no code without it. After each slice it is let go.
fn under_global_lock(counter: &Mutex<u64>, bumps: u64) {
    const SLICE: u64 = 1000;
    let mut done = 0;
    while done < bumps {
        let slice = SLICE.min(bumps - done);
        if let Ok(mut counter) = counter.lock() {
            for nth in done..done + slice {
                work(nth);
                *counter += 1;
            }
        }
        done += slice;
        std::thread::yield_now();
    }
}

/// What is computed at each bump: some hundred nanoseconds.
fn work(seed: u64) {
    let mut value = seed | 1;
    for _ in 0..64 {
        value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005).rotate_left(7));
    }
}

/// A process that counts for itself.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Counter {
    bumps: u64,
}

impl Counter {
    /// Says that it is ready, waits for the word to begin, counts, and tells the sum.
    pub(super) fn run(self) -> io::Result<()> {
        io::stdout().write_all(b"r")?;
        io::stdout().flush()?;
        io::stdin().read_exact(&mut [0])?;
        let counter = AtomicU64::new(0);
        load_and_store(&counter, self.bumps);
        io::stdout().write_all(&counter.into_inner().to_le_bytes())
    }
}

fn by_processes(processes: usize, bumps: u64) -> anyhow::Result<(u64, Duration)> {
    let part = Part::Party(Party::Counter(Counter { bumps }));
    let start = || play::command(&part)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut children: Vec<_> = (0..processes)
        .map(|_| start())
        .collect::<io::Result<_>>()
        .context("cannot start a counting process")?;
    for child in &mut children {
        child.stdout.as_mut().context("a child has no output")?.read_exact(&mut [0])?;
    }
    let started = Instant::now();
    for child in &mut children {
        child.stdin.as_mut().context("a child has no input")?.write_all(b"g")?;
    }
    let mut sum = 0;
    for child in &mut children {
        let mut bytes = [0; 8];
        child.stdout.as_mut().context("a child has no output")?.read_exact(&mut bytes)?;
        sum += u64::from_le_bytes(bytes);
    }
    let took = started.elapsed();
    for mut child in children {
        child.wait()?;
    }
    Ok((sum, took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_there_are_cores_are_among_those_who_bump_at_once() {
        for cores in 1..100 {
            assert!(parties(cores).contains(&cores.min(MOST)), "{cores}");
            assert_eq!(parties(cores)[0], 1);
        }
        assert_eq!((parties(2), parties(3)), (vec![1, 2, 4], vec![1, 2, 3, 4]));
        assert_eq!((fewer_cores(1), fewer_cores(2), fewer_cores(6)), (vec![], vec![1], vec![1, 2, 4]));
    }
}
