//! Isolation: one client does harm, and the others are looked at.
//!
//! Clients are connected and working: some keep their connection, some come anew for each request. Then one more client
//! commits a fault, really and once. Counted is what becomes of the *others*: how many of those connected fail or stall, whether
//! newcomers are served, for how long nobody answers a client, and when as much is answered again as before.
//!
//! There are enough workers for all clients and some to spare, so nobody waits for a worker by design. Where a process has
//! several clients, it is seen to that the one who does harm is in the company of others, and that not all others are in its.
//! A fault has
//! as much room as its compartment: all of a system's processes share one limit of memory and of processes, but for
//! Bulkhead, where each worker has its own.
//!
//! Expected is [`expected`], which was written down first. In short: a process takes along whoever is in it. Where that is
//! one client, nobody else notices; where it is all of them, all are gone; what is in between takes its part.
//! A panic is Rust's own affair and takes one thread. A loop that is held up holds up its clients. And a fault in
//! what is shared (the number of processes, a process's descriptors) is felt by newcomers.

mod cell;
mod company;
mod judge;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Bench, Experiment};
use crate::findings::{Answer, HeatCell, HeatRow, Outcome, Plot, Table, Verdict};
use crate::servers::Model;
use crate::servers::fastcgi::Responder;
use crate::stats::Spread;
use crate::systems::{Backend, Running, System};
use judge::{Damage, Harm};

pub(super) const QUESTION: &str = "When one client does harm, who else notices, and for how long?";
pub(super) const METHOD: &str = "Closed loop: clients ask for 5 ms of blocking and think for 5 ms; some keep their connection, some connect for each request. One more client \
     commits the fault once. A client of those connected is hit if a request of it fails, or if it has no answer for 250 ms and for three times the longest \
     that anybody waited before or that the machine held up a mere sleeper. Full capacity is back when a window has 90% of the answers of before. A fresh system for each cell, \
     Bulkhead excepted: it has to stand them all in a row. Several systems are measured side by side.";

/// What one client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fault {
    Segfault,
    Abort,
    Exit,
    Panic,
    OutOfMemory,
    Hang,
    Hog,
    ForkBomb,
    DescriptorLeak,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::Segfault,
        Self::Abort,
        Self::Exit,
        Self::Panic,
        Self::OutOfMemory,
        Self::Hang,
        Self::Hog,
        Self::ForkBomb,
        Self::DescriptorLeak,
    ];

    /// One of each kind: a process ends, a thread does, the kernel ends one, nothing ends.
    const FEW: [Self; 5] = [Self::Segfault, Self::Panic, Self::OutOfMemory, Self::Hang, Self::Hog];

    /// Those that end a process without its having a say.
    const CRASHES: [Self; 4] = [Self::Segfault, Self::Abort, Self::Exit, Self::OutOfMemory];

    fn name(self) -> &'static str {
        match self {
            Self::Segfault => "segfault",
            Self::Abort => "abort",
            Self::Exit => "exit",
            Self::Panic => "panic",
            Self::OutOfMemory => "out of memory",
            Self::Hang => "hang",
            Self::Hog => "CPU hog",
            Self::ForkBomb => "fork bomb",
            Self::DescriptorLeak => "descriptor leak",
        }
    }

    /// The page that commits it; a hog is one for `hog`.
    fn target(self, hog: Duration) -> String {
        match self {
            Self::Segfault => "/segv".to_owned(),
            Self::Abort => "/abort".to_owned(),
            Self::Exit => "/exit?code=3".to_owned(),
            Self::Panic => "/panic".to_owned(),
            Self::OutOfMemory => "/leak?mb=4096".to_owned(),
            Self::Hang => "/hang".to_owned(),
            Self::Hog => format!("/cpu?ms={}", hog.as_millis()),
            Self::ForkBomb => "/forks?n=100000".to_owned(),
            Self::DescriptorLeak => "/files?n=100000".to_owned(),
        }
    }

    /// Whether it ends somebody, so that it is known when it has.
    fn is_fatal(self) -> bool {
        matches!(self, Self::Panic) || Self::CRASHES.contains(&self)
    }

    /// Why it must not be committed in this system; `None` if it may.
    fn forbidden_in(self, running: &Running, system: System) -> Option<&'static str> {
        let in_containers = system == System::Bulkhead(Backend::Docker);
        match self {
            Self::ForkBomb if !running.compartment.caps_processes() && !in_containers => {
                Some("no control group here limits the number of processes")
            }
            Self::OutOfMemory if !running.compartment.caps_memory() && !in_containers => {
                Some("no control group here limits memory")
            }
            _ => None,
        }
    }
}

/// What was expected before anything was measured, in the order of [`Fault::ALL`].
fn expected(system: System) -> Option<[Harm; 9]> {
    use Harm::{All as A, AllForGood as X, Newcomers as N, Nobody as O, Some as S, SomeForGood as G};
    let expected = match system {
        // In order:   segfault, abort, exit, panic, memory, hang, hog, forks, descriptors
        System::Model(Model::ProcessPerConnection) => [O, O, O, O, O, O, O, N, O],
        System::Model(Model::Prefork) => [O, O, O, O, O, O, O, O, O],
        System::Model(Model::Sessions) => [A, A, A, A, A, O, O, N, O],
        System::Model(Model::ThreadPerConnection) => [X, X, X, O, X, O, O, N, N],
        System::Model(Model::ThreadPool) => [X, X, X, O, X, O, O, O, N],
        System::Model(Model::Hybrid) => [S, S, S, O, S, O, O, O, O],
        System::Model(Model::EventWorkers) => [S, S, S, O, S, G, S, O, O],
        System::Model(Model::FastCgi(Responder::Own | Responder::Php)) => [O, O, O, O, O, O, O, O, O],
        System::Bulkhead(Backend::Process | Backend::Docker) => [O, O, O, O, O, O, O, O, O],
        // They are not among those that are measured here.
        System::Model(Model::Splitter(_)) | System::Peer(_) => return None,
    };
    Some(expected)
}

/// What became of one cell in one round.
#[derive(Debug, Clone, Serialize)]
struct Record {
    system: System,
    fault: Fault,
    #[serde(flatten)]
    result: Result<Damage, NotRun>,
}

/// Why a cell was not run.
#[derive(Debug, Clone, Serialize)]
struct NotRun {
    not_run: String,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let faults: &[Fault] = bench.size.pick(&Fault::FEW[..], &Fault::FEW[..], &Fault::ALL[..]);
    let rounds = bench.size.pick(1, 1, 3);
    let roll = bench.systems();
    let times = cell::Times::of(bench.size);
    let progress = bench.progress(Experiment::Isolation, roll.here.len() * faults.len() * rounds);
    // What a cell waits for is time and not the processor, so several are measured at the same time.
    let (next, records) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let jobs: Vec<System> = (0..rounds).flat_map(|_| roll.here.iter().copied()).collect();
    let work = || -> anyhow::Result<()> {
        while let Some(&system) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = cell::row(bench, system, faults, times, &progress)?;
            records.lock().map_err(|_| anyhow!("a thread panicked"))?.extend(found);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|it| it.join().map_err(|_| anyhow!("a measuring thread panicked"))?)
    })?;
    let records = records.into_inner().map_err(|_| anyhow!("a thread panicked"))?;
    let missing: Vec<_> =
        roll.missing.iter().map(|(system, why)| format!("{system}: not run: {why}")).collect();
    outcome(&roll.here, faults, &records, missing).context("nothing was measured")
}

/// Systems that are measured at the same time.
const AT_ONCE: usize = 4;

/// What the rounds of one cell say together.
struct Cell {
    system: System,
    fault: Fault,
    damages: Vec<Damage>,
    not_run: Option<String>,
}

impl Cell {
    /// The worst of all rounds.
    fn harm(&self) -> Option<Harm> {
        self.damages.iter().map(Damage::harm).max()
    }

    fn expected(&self) -> Option<Harm> {
        let nth = Fault::ALL.iter().position(|it| *it == self.fault)?;
        expected(self.system)?.get(nth).copied()
    }

    /// In every round.
    fn as_expected(&self) -> Option<bool> {
        let expected = self.expected()?;
        (!self.damages.is_empty()).then(|| self.damages.iter().all(|it| it.harm() == expected))
    }

    fn spread(&self, figure: impl Fn(&Damage) -> f64) -> Option<Spread> {
        Spread::of(self.damages.iter().map(figure))
    }

    fn text(&self) -> String {
        match (self.damages.first(), self.harm()) {
            (Some(first), Some(harm)) => {
                let hit = self.damages.iter().map(|it| it.hit).max().unwrap_or(0);
                let sign = if self.as_expected() == Some(false) { " !" } else { "" };
                format!("{hit}/{}{}{sign}", first.kept, harm.suffix())
            }
            _ => "not run".to_owned(),
        }
    }

    fn detail(&self) -> String {
        let Some(harm) = self.harm() else {
            return format!("not run: {}", self.not_run.as_deref().unwrap_or("it was not asked for"));
        };
        let expected = self.expected().map_or(String::new(), |it| format!("; expected: {}", it.words()));
        let outage = self.spread(|it| it.longest_ms).map_or(String::new(), |it| it.to_string());
        let newcomers: u64 = self.damages.iter().map(|it| it.newcomers_failed).sum();
        let failures = self.damages.iter().flat_map(|it| &it.failures);
        let mut how: Vec<&str> = failures.map(|(failure, _)| failure.as_str()).collect();
        how.sort_unstable();
        how.dedup();
        let how = if how.is_empty() { String::new() } else { format!(" ({})", how.join(", ")) };
        let back = if self.damages.iter().any(|it| it.back_ms.is_none()) {
            "not back while it was looked at".to_owned()
        } else {
            let back = self.spread(|it| it.back_ms.unwrap_or(0.0));
            format!("full capacity back after {} ms", back.map_or(String::new(), |it| it.to_string()))
        };
        format!(
            "{}{expected}; the longest that a connected client waited: {outage} ms; newcomers' requests that failed: {newcomers}{how}; {back}",
            harm.words()
        )
    }
}

fn outcome(
    systems: &[System],
    faults: &[Fault],
    records: &[Record],
    missing: Vec<String>,
) -> Option<Outcome> {
    let cell = |system: System, fault: Fault| {
        let mut cell = Cell { system, fault, damages: Vec::new(), not_run: None };
        for record in records.iter().filter(|it| it.system == system && it.fault == fault) {
            match &record.result {
                Ok(damage) => cell.damages.push(damage.clone()),
                Err(why) => cell.not_run = Some(why.not_run.clone()),
            }
        }
        cell
    };
    let first = records.iter().find_map(|it| it.result.as_ref().ok())?;
    let columns: Vec<&str> =
        std::iter::once("system").chain(faults.iter().map(|fault| fault.name())).collect();
    let mut hits = Table::new(
        &format!("of {} other clients that were connected, so many failed or stalled", first.kept),
        &columns,
    );
    let mut waits = Table::new("the longest that one of them had no answer, ms", &columns);
    let mut backs = Table::new("until as much was answered again as before, ms", &columns);
    let (mut rows, mut notes) = (Vec::new(), vec![LEGEND.to_owned()]);
    for &system in systems {
        let cells: Vec<_> = faults.iter().map(|&fault| cell(system, fault)).collect();
        let row = |text: &dyn Fn(&Cell) -> String| {
            std::iter::once(system.name().to_owned()).chain(cells.iter().map(text)).collect::<Vec<_>>()
        };
        hits.row(row(&Cell::text));
        waits.row(row(&|it| it.spread(|it| it.longest_ms).map_or("–".to_owned(), |it| it.to_string())));
        backs.row(row(&|it| match it.spread(|it| it.back_ms.unwrap_or(f64::NAN)) {
            Some(back) => back.to_string(),
            None if it.damages.is_empty() => "–".to_owned(),
            None => "not back".to_owned(),
        }));
        for it in &cells {
            match it.as_expected() {
                Some(false) => notes.push(format!("{system}, {}: {}", it.fault.name(), it.detail())),
                None => notes.push(format!("{system}, {}: {}", it.fault.name(), it.detail())),
                Some(true) => {}
            }
        }
        let heat = |it: &Cell| HeatCell {
            text: it.text(),
            heat: it.harm().map(Harm::heat),
            expected: it.as_expected(),
            detail: it.detail(),
        };
        rows.push(HeatRow { name: system.name().to_owned(), cells: cells.iter().map(heat).collect() });
    }
    notes.extend(missing);
    let map = Plot::HeatMap {
        title: "who else is hit by one client's fault".to_owned(),
        columns: faults.iter().map(|fault| fault.name().to_owned()).collect(),
        rows,
    };
    let worst = |system: System, fault: Fault| cell(system, fault).harm();
    Some(Outcome {
        tables: vec![hits, waits, backs],
        plots: vec![map],
        answers: answers(systems, faults, &worst),
        notes,
        data: json!({ "records": records }),
    })
}

const LEGEND: &str = "cells: clients hit / clients connected; + newcomers were not served; ∞ somebody was still out when the measurement ended; \
     ! came out differently from what was written down first";

/// What the worst of each cell says about the claims.
fn answers(
    systems: &[System],
    faults: &[Fault],
    worst: &dyn Fn(System, Fault) -> Option<Harm>,
) -> Vec<Answer> {
    let crashes = || Fault::CRASHES.iter().copied().filter(|it| faults.contains(it));
    let of = |models: &[Model], faults: &mut dyn Iterator<Item = Fault>| -> Vec<(System, Fault, Harm)> {
        let systems = models.iter().map(|it| System::Model(*it)).filter(|it| systems.contains(it));
        let systems: Vec<_> = systems.collect();
        faults
            .flat_map(|fault| systems.iter().filter_map(move |&it| Some((it, fault, worst(it, fault)?))))
            .collect()
    };
    let answer = |claim: u8, cells: Vec<(System, Fault, Harm)>, good: &dyn Fn(Harm) -> bool, what: &str| {
        let held = cells.iter().filter(|(.., harm)| good(*harm)).count();
        let others: Vec<_> = cells
            .iter()
            .filter(|(.., harm)| !good(*harm))
            .map(|(system, fault, harm)| format!("{system}, {}: {}", fault.name(), harm.words()))
            .collect();
        let but = if others.is_empty() { String::new() } else { format!("; but {}", others.join("; ")) };
        Answer {
            claim,
            verdict: match (held, cells.len()) {
                (_, 0) => Verdict::NotMeasured,
                (held, all) if held == all => Verdict::Held,
                (0, _) => Verdict::DidNotHold,
                _ => Verdict::InPart,
            },
            evidence: format!("{what} in {held} of {} cells{but}", cells.len()),
        }
    };
    let threads = [Model::ThreadPerConnection, Model::ThreadPool];
    let processes = [Model::ProcessPerConnection, Model::Prefork];
    let alone = crashes().chain([Fault::Panic, Fault::Hang, Fault::Hog]);
    vec![
        answer(
            1,
            of(&processes, &mut alone.into_iter().filter(|it| faults.contains(it))),
            &|harm| harm == Harm::Nobody,
            "with a process for each client, and with prefork, a fault hit nobody else",
        ),
        answer(
            7,
            of(&threads, &mut crashes()),
            &|harm| harm == Harm::AllForGood,
            "a crash in one thread ended all clients for good",
        ),
        answer(
            8,
            of(&[Model::Hybrid], &mut crashes()),
            &|harm| harm == Harm::Some,
            "a crash in a process with threads hit those of that process, who were served again",
        ),
        answer(
            9,
            of(&[Model::EventWorkers], &mut crashes()),
            &|harm| harm == Harm::Some,
            "the death of one event worker hit its own clients, who were served again",
        ),
    ]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    fn damage(hit: usize, out: usize) -> Damage {
        Damage {
            kept: 10,
            hit,
            failed: hit,
            out,
            newcomers_failed: 0,
            failures: Vec::new(),
            newcomers_out: false,
            longest_ms: 20.0,
            back_ms: (out == 0).then_some(0.0),
        }
    }

    fn record(model: Model, fault: Fault, hit: usize, out: usize) -> Record {
        Record { system: System::Model(model), fault, result: Ok(damage(hit, out)) }
    }

    fn verdict(outcome: &Outcome, claim: u8) -> Option<Verdict> {
        outcome.answers.iter().find(|it| it.claim == claim).map(|it| it.verdict)
    }

    #[test]
    fn what_came_out_as_expected_is_no_note_and_answers_the_claims() {
        let systems = [Model::Prefork, Model::ThreadPool, Model::Hybrid].map(System::Model);
        let records = [
            record(Model::Prefork, Fault::Segfault, 0, 0),
            record(Model::ThreadPool, Fault::Segfault, 10, 10),
            record(Model::Hybrid, Fault::Segfault, 4, 0),
        ];
        let outcome = outcome(&systems, &[Fault::Segfault], &records, Vec::new()).unwrap();
        assert_eq!(outcome.notes, [LEGEND]);
        for claim in [1, 7, 8] {
            assert_eq!(verdict(&outcome, claim), Some(Verdict::Held), "{claim}: {:?}", outcome.answers);
        }
        assert_eq!(verdict(&outcome, 9), Some(Verdict::NotMeasured));
    }

    #[test]
    fn what_came_out_differently_in_one_round_is_said() {
        let systems = [System::Model(Model::Prefork)];
        let records =
            [record(Model::Prefork, Fault::Abort, 0, 0), record(Model::Prefork, Fault::Abort, 3, 0)];
        let outcome = outcome(&systems, &[Fault::Abort], &records, Vec::new()).unwrap();
        assert!(outcome.notes.iter().any(|note| note.contains("prefork, abort")), "{:?}", outcome.notes);
        assert_eq!(verdict(&outcome, 1), Some(Verdict::DidNotHold));
        let Some(Plot::HeatMap { rows, .. }) = outcome.plots.first() else { panic!("no heat map") };
        assert_eq!(rows[0].cells[0].text, "3/10 !");
        assert_eq!(rows[0].cells[0].expected, Some(false));
    }

    #[test]
    fn what_was_not_run_says_why() {
        let system = System::Model(Model::Prefork);
        let not_run = NotRun { not_run: "no limit".to_owned() };
        let records = [
            record(Model::Prefork, Fault::Abort, 0, 0),
            Record { system, fault: Fault::ForkBomb, result: Err(not_run) },
        ];
        let outcome = outcome(&[system], &[Fault::Abort, Fault::ForkBomb], &records, Vec::new()).unwrap();
        assert!(outcome.notes.iter().any(|note| note.contains("fork bomb: not run: no limit")));
        assert_eq!(outcome.tables[0].rows[0][2], "not run");
    }
}
