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
//! Expected: only the first way loses updates, a different number each time, and none with one thread. With the
//! global lock the rate stays that of one core; with the others the work is spread over cores.

use std::io::{self, Read, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Bench, Experiment, Party};
use crate::findings::{Answer, Axis, Outcome, Plot, Point, Series, Table, Verdict};
use crate::play::{self, Part};
use crate::stats::{Spread, digits};

pub(super) const QUESTION: &str =
    "What is lost when many bump one counter at once, and what does each remedy cost?";
pub(super) const METHOD: &str = "Each of N threads (or processes) bumps as often as the others; all begin at once. Lost is what the counter lacks at the end. \
     Medians over rounds in which all ways are taken in turn.";

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
    expected: u64,
    counted: u64,
    took_ms: f64,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let rounds = bench.size.pick(2, 3, 7);
    let bumps = bench.size.pick(20_000, 100_000, 400_000);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let parties: Vec<usize> = [1, 2, 4, 8].into_iter().filter(|&n| n <= (2 * cores).max(4)).collect();
    let progress = bench.progress(Experiment::Races, rounds * parties.len() * Way::ALL.len());
    let mut all = Vec::new();
    for _ in 0..rounds {
        for &parties in &parties {
            for way in Way::ALL {
                progress.doing(&format!("{}, {parties} at once", way.name()));
                all.push(round(way, parties, bumps)?);
                progress.step();
            }
        }
    }
    Ok(outcome(&all, &parties, cores))
}

fn round(way: Way, parties: usize, bumps: u64) -> anyhow::Result<Round> {
    let (counted, took) = match way {
        Way::Processes => by_processes(parties, bumps)?,
        _ => by_threads(way, parties, bumps),
    };
    Ok(Round { way, parties, expected: bumps * parties as u64, counted, took_ms: took.as_secs_f64() * 1e3 })
}

fn by_threads(way: Way, threads: usize, bumps: u64) -> (u64, Duration) {
    let (counter, lock) = (AtomicU64::new(0), Mutex::new(0_u64));
    let barrier = Barrier::new(threads + 1);
    let started = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                barrier.wait();
                match way {
                    Way::LoadAndStore => load_and_store(&counter, bumps),
                    Way::Mutex => under_mutex(&lock, bumps),
                    Way::GlobalLock => under_global_lock(&lock, bumps),
                    Way::AtomicAdd | Way::Processes => atomic_add(&counter, bumps),
                }
            });
        }
        barrier.wait();
        Instant::now()
    });
    let took = started.elapsed();
    let locked = lock.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    (counter.into_inner() + locked, took)
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

fn outcome(rounds: &[Round], parties: &[usize], cores: usize) -> Outcome {
    let of =
        |way: Way, parties: usize| rounds.iter().filter(move |it| it.way == way && it.parties == parties);
    let lost = |it: &Round| (it.expected - it.counted) as f64 / it.expected as f64 * 100.0;
    let rate = |it: &Round| it.expected as f64 / it.took_ms / 1e3;
    let spread = |way, parties, figure: &dyn Fn(&Round) -> f64| Spread::of(of(way, parties).map(figure));
    let mut table = Table::new(
        "a counter, bumped by many at once",
        &["how", "at once", "lost, %", "million bumps/s", "times one alone"],
    );
    let mut series = Vec::new();
    for way in Way::ALL {
        let mut points = Vec::new();
        for &n in parties {
            let (Some(lost), Some(rate), Some(alone)) =
                (spread(way, n, &lost), spread(way, n, &rate), spread(way, 1, &rate))
            else {
                continue;
            };
            table.row([
                way.name().to_owned(),
                n.to_string(),
                lost.to_string(),
                rate.to_string(),
                digits(rate.median / alone.median),
            ]);
            points.push(Point { x: n as f64, y: rate });
        }
        series.push(Series { name: way.name().to_owned(), points });
    }
    let plot = Plot::Lines {
        title: "bumps a second over how many bump at once".to_owned(),
        x: Axis::linear("threads or processes at once"),
        y: Axis::linear("million bumps/s"),
        series,
    };
    Outcome {
        tables: vec![table],
        plots: vec![plot],
        answers: answers(rounds, parties, cores),
        notes: Vec::new(),
        data: json!({ "cores": cores, "rounds": rounds }),
    }
}

fn answers(rounds: &[Round], parties: &[usize], cores: usize) -> Vec<Answer> {
    let most = parties.iter().copied().max().unwrap_or(1);
    let of = |way: Way| rounds.iter().filter(move |it| it.way == way && it.parties > 1);
    let lost: Vec<u64> = of(Way::LoadAndStore).map(|it| it.expected - it.counted).collect();
    let (least, worst) = (lost.iter().min().copied().unwrap_or(0), lost.iter().max().copied().unwrap_or(0));
    let others = Way::ALL.iter().filter(|&&way| way != Way::LoadAndStore);
    let nothing_else_lost = others.clone().all(|&way| of(way).all(|it| it.expected == it.counted));
    let speed = |way: Way, n: usize| {
        let rounds = rounds.iter().filter(move |it| it.way == way && it.parties == n);
        Spread::of(rounds.map(|it| it.expected as f64 / it.took_ms)).map_or(f64::NAN, |it| it.median)
    };
    let gain = |way: Way| speed(way, cores.clamp(1, most)) / speed(way, 1);
    let (global, atomic) = (gain(Way::GlobalLock), gain(Way::AtomicAdd));
    vec![
        Answer {
            claim: 13,
            verdict: Verdict::of(worst > 0 && least != worst),
            evidence: format!(
                "load and store lost between {} and {} updates a round",
                digits(least as f64),
                digits(worst as f64)
            ),
        },
        Answer {
            claim: 11,
            verdict: Verdict::of(nothing_else_lost && worst > 0),
            evidence: "with a mutex, an atomic add, a global lock or messages nothing was lost".to_owned(),
        },
        Answer {
            claim: 14,
            verdict: if cores < 2 {
                Verdict::NotMeasured
            } else {
                Verdict::of(nothing_else_lost && global < 1.2 && atomic > 1.3)
            },
            evidence: format!(
                "on {cores} cores {} times one thread's rate under the global lock, {} with an atomic add",
                digits(global),
                digits(atomic)
            ),
        },
    ]
}
