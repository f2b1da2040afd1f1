//! Peers: Bulkhead beside the servers that it has to be better than, in one run.
//!
//! Expected: a server of files (Apache, nginx) answers more than one that runs a page for each request; each of those
//! that run pages loses the request that a killed process held, and Bulkhead gives it to another. PostgreSQL ends the
//! sessions of all when the process of one is killed.

mod sessions;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Signal, kill_process};
use serde::Serialize;
use serde_json::json;

use super::chaos::{Cost, kill_one};
use super::idle::settled;
use super::{Bench, Experiment, database};
use crate::findings::{Axis, Bar, Outcome, Plot, Table, surprise};
use crate::load::{self, Connections, Plan};
use crate::progress::Progress;
use crate::stats::{Spread, digits};
use crate::storm;
use crate::systems::{Running, Shape, System};

pub(super) const QUESTION: &str =
    "How does Bulkhead compare with the servers of its kind that are installed here?";
pub(super) const METHOD: &str = "8 workers each. Requests/s: closed loop after a warm-up, 16 clients on kept connections, /work?ms=0, or a file where \
     a server runs no page; the load generator the same way against an answerer that does nothing else. Kills: closed loop, 8 clients, /work?ms=5, \
     SIGKILL to the longest-running serving process; a client is hit once until it is answered again. Capacity back: from a kill to the beginning of \
     the first probe in which 8 requests of 50 ms at once take less than 75 ms. PostgreSQL is asked over sessions that its clients keep: \
     SELECT 1, and pg_sleep in place of a page that blocks; it has a process for each session, and its probes open theirs anew. Memory: PSS of all its processes before any load, once no more of \
     them are started.";

const WORKERS: usize = 8;
const CLIENTS: usize = 2 * WORKERS;

/// How long the requests take by which it is found out whether there is room for all of them.
const WORK: Duration = Duration::from_millis(50);
/// How long all of them take at the most if there is.
const ROOM: Duration = Duration::from_millis(75);

/// Who is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Subject {
    /// One that is asked over HTTP.
    Server(System),
    /// One that is asked over sessions, by this name.
    Database(&'static str),
}

const POSTGRESQL: Subject = Subject::Database("PostgreSQL");

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Server(system) => system.name(),
            Self::Database(name) => name,
        }
    }

    fn is_bulkhead(self) -> bool {
        matches!(self, Self::Server(system) if system.is_bulkhead())
    }

    /// As it is called where its figures stand: one that serves a file does less than the others.
    fn title(self) -> String {
        match self {
            Self::Server(system) if !system.blocks() => format!("{system}, a file"),
            Self::Server(system) => system.name().to_owned(),
            Self::Database(name) => format!("{name}, a statement"),
        }
    }

    fn serves_a_file(self) -> bool {
        matches!(self, Self::Server(system) if !system.blocks())
    }
}

/// What was measured of one system in one round.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    system: Subject,
    rate: f64,
    failed: u64,
    /// For what share of the time the load generator's one thread was busy. `None`: each client was a thread of its own.
    busy: Option<f64>,
    /// `None`: nobody was killed.
    hits_per_kill: Option<f64>,
    /// `None`: it serves a file, so nobody is at work for long enough to see; or it was not measured.
    back: Option<Back>,
    /// `None`: this user may not know it of all processes.
    pss_mib: Option<f64>,
    processes: usize,
}

/// When there was room again.
#[derive(Debug, Clone, Copy, Serialize)]
struct Back {
    /// From the kill to the beginning of the probe that found it.
    after_ms: f64,
    /// How long the longest probe took: so far apart are the moments that were looked at.
    probe_ms: f64,
}

/// The load generator against an answerer that does nothing else.
#[derive(Debug, Clone, Copy, Serialize)]
struct Sink {
    rate: f64,
    failed: u64,
    busy: f64,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    let roll = System::peers(bench.bulkhead.as_deref());
    let mut notes = roll.notes();
    let mut subjects: Vec<Subject> = roll.here.into_iter().map(Subject::Server).collect();
    match database::is_installed() {
        Ok(()) => subjects.push(POSTGRESQL),
        Err(missing) => notes.push(format!("{} was not measured: {missing}", POSTGRESQL.name())),
    }
    if subjects.iter().all(|it| it.is_bulkhead()) {
        notes.push("there is nobody here to compare with".to_owned());
    }
    let rounds = bench.size.pick(1, 1, 3);
    let progress = bench.progress(Experiment::Peers, rounds * (subjects.len() + 1));
    let (mut all, mut sinks) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        progress.doing("the load generator itself");
        match load::limit(CLIENTS, Connections::Kept, Duration::from_millis(bench.size.pick(300, 300, 2000)))
        {
            Ok(tally) => {
                sinks.push(Sink { rate: tally.rate(), failed: tally.failures(), busy: tally.busy });
            }
            Err(error) => notes.push(format!("the load generator itself was not measured: {error}")),
        }
        progress.step();
        for &subject in &subjects {
            progress.doing(subject.name());
            let round = match subject {
                Subject::Server(system) => round(system, bench, &mut notes),
                Subject::Database(_) => sessions::round(bench, &mut notes),
            };
            match round {
                Ok(round) => all.push(round),
                // It costs its own row, and not what is known of the others.
                Err(error) => notes.push(format!("{} was not measured: {error:#}", subject.name())),
            }
            progress.step();
        }
    }
    Ok(outcome(&all, &sinks, &subjects, notes))
}

/// What cannot be measured of it is noted.
fn round(system: System, bench: &Bench, notes: &mut Vec<String>) -> anyhow::Result<Round> {
    let running = bench.start(system, &Shape::of(WORKERS))?;
    let usage = settled(|| running.usage())?;
    let ask = |ms| load::run(Plan::closed(running.address, "/work?ms=0", CLIENTS, Duration::from_millis(ms)));
    ask(bench.size.pick(50, 50, 500))?;
    let asked = ask(bench.size.pick(300, 200, 2000))?;
    if asked.failures() > 0 {
        let reasons: Vec<_> = asked.failed.iter().map(|(why, count)| format!("{why} ({count})")).collect();
        notes.push(format!(
            "{system}: of {} requests {} failed while nobody was killed: {}",
            asked.answered + asked.failures(),
            asked.failures(),
            reasons.join(", ")
        ));
    }

    let (time, every) = bench.size.pick((900, 300), (500, 200), (4000, 500));
    let mut plan = Plan::closed(running.address, "/work?ms=5", WORKERS, Duration::from_millis(time));
    plan.patience = Duration::from_secs(2);
    let every = Duration::from_millis(every);
    let weather = storm::run(plan, Some(every), &Progress::hidden(), || kill_one(system, &running))?;
    let hits_per_kill = Cost::of(&weather, every).per_kill();
    if hits_per_kill.is_some_and(|hits| hits > WORKERS as f64) {
        let reasons: Vec<_> = weather.reasons.iter().map(|(why, count)| format!("{why} ({count})")).collect();
        notes.push(format!(
            "{system}: more clients were hit for each kill than there are, so not all of it is the kills' doing: {}",
            reasons.join(", ")
        ));
    }
    if hits_per_kill.is_none() {
        let why = weather.kills.iter().find_map(|it| it.victim.as_ref().err());
        let why = why.map_or("there was no time for it", String::as_str);
        notes.push(format!("{system}: nobody was killed, so nobody was hit: {why}"));
    }
    let back = match system.blocks().then(|| capacity_back(system, &running)) {
        None => None,
        Some(Ok(back)) => Some(back),
        Some(Err(error)) => {
            notes.push(format!("{system}: when its capacity is back was not measured: {error:#}"));
            None
        }
    };
    Ok(Round {
        system: Subject::Server(system),
        rate: asked.rate(),
        failed: asked.failures(),
        busy: Some(asked.busy),
        hits_per_kill,
        back,
        pss_mib: usage.pss_mib(),
        processes: usage.processes,
    })
}

/// From the kill of a process until there is room again for as many requests at once as there are workers.
fn capacity_back(system: System, running: &Running) -> anyhow::Result<Back> {
    let probe = || {
        // Each client asks once, for the time is over when it has been answered; on a crowded machine perhaps not even
        // once.
        let mut plan = Plan::closed(running.address, "/work?ms=50", WORKERS, WORK.mul_f64(0.9));
        plan.connections = Connections::OneForEach;
        let tally = load::run(plan)?;
        Ok(tally.failures() == 0 && tally.answered == WORKERS as u64 && tally.took < ROOM)
    };
    back(probe, || {
        let victim = system.oldest_serving(running).context("there is no process that serves")?;
        let killed = Instant::now();
        kill_process(victim, Signal::KILL).context("cannot kill")?;
        Ok(killed)
    })
}

/// Waits until a probe finds room for all, kills, and probes until one does again. `kill` says when it did.
fn back(
    probe: impl Fn() -> anyhow::Result<bool>,
    kill: impl FnOnce() -> anyhow::Result<Instant>,
) -> anyhow::Result<Back> {
    await_room(&probe)?;
    let killed = kill()?;
    let (found, longest) = await_room(&probe)?;
    let ms = |it: Duration| it.as_secs_f64() * 1e3;
    Ok(Back { after_ms: ms(found.saturating_duration_since(killed)), probe_ms: ms(longest) })
}

/// When the first probe began that found it, and how long the longest probe took.
fn await_room(probe: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<(Instant, Duration)> {
    const PATIENCE: Duration = Duration::from_secs(20);
    let until = Instant::now() + PATIENCE;
    let mut longest = Duration::ZERO;
    loop {
        let began = Instant::now();
        let found = probe()?;
        longest = longest.max(began.elapsed());
        if found {
            return Ok((began, longest));
        }
        if Instant::now() > until {
            bail!("there was no room for {WORKERS} requests at once within {PATIENCE:?}");
        }
    }
}

fn outcome(rounds: &[Round], sinks: &[Sink], systems: &[Subject], mut notes: Vec<String>) -> Outcome {
    let plot = Plot::Bars {
        title: "requests a second, without work".to_owned(),
        value: Axis::linear("requests/s"),
        bars: bars(rounds, sinks, systems),
    };
    notes.extend(about_dashes(rounds, systems));
    for it in rounds {
        if let Some(hits) = it.hits_per_kill.filter(|hits| it.system.is_bulkhead() && *hits > 0.0) {
            let was = format!("{} clients hit for each kill", digits(hits));
            notes.push(surprise(
                it.system.name(),
                &was,
                "that what a killed process held is given to another",
            ));
        }
    }
    Outcome {
        tables: vec![table(rounds, sinks, systems)],
        plots: vec![plot],
        answers: Vec::new(),
        notes,
        data: json!({ "rounds": rounds, "sink": sinks }),
    }
}

const SINK: &str = "the load generator and a sink";

fn of(rounds: &[Round], system: Subject, figure: impl Fn(&Round) -> Option<f64>) -> Option<Spread> {
    Spread::of(rounds.iter().filter(|it| it.system == system).filter_map(figure))
}

fn table(rounds: &[Round], sinks: &[Sink], systems: &[Subject]) -> Table {
    let mut table = Table::new(
        "Bulkhead beside its peers",
        &[
            "system",
            "requests/s",
            "failed",
            "load generator busy, %",
            "clients hit for each kill",
            "capacity back, ms",
            "memory, MiB",
            "processes",
        ],
    );
    let text = |spread: Option<Spread>| spread.map_or_else(|| "–".to_owned(), |it| it.to_string());
    for &system in systems {
        let cell = |figure: &dyn Fn(&Round) -> Option<f64>| text(of(rounds, system, figure));
        let failed = rounds.iter().filter(|it| it.system == system).map(|it| it.failed).sum::<u64>();
        table.row([
            system.title(),
            cell(&|it| Some(it.rate)),
            failed.to_string(),
            cell(&|it| Some(it.busy? * 100.0)),
            cell(&|it| it.hits_per_kill),
            cell(&|it| it.back.map(|it| it.after_ms)),
            cell(&|it| it.pss_mib),
            cell(&|it| Some(it.processes as f64)),
        ]);
    }
    if !sinks.is_empty() {
        let of = |figure: fn(&Sink) -> f64| text(Spread::of(sinks.iter().map(figure)));
        let failed = sinks.iter().map(|it| it.failed).sum::<u64>().to_string();
        let figures = [SINK.to_owned(), of(|it| it.rate), failed, of(|it| it.busy * 100.0)];
        table.row(figures.into_iter().chain(std::iter::repeat_n("–".to_owned(), 4)));
    }
    table
}

fn bars(rounds: &[Round], sinks: &[Sink], systems: &[Subject]) -> Vec<Bar> {
    let bar = |&system: &Subject| {
        let group = if system.is_bulkhead() { "Bulkhead" } else { "peers" }.to_owned();
        Some(Bar { name: system.title(), group, value: of(rounds, system, |it| Some(it.rate))? })
    };
    let sink = Spread::of(sinks.iter().map(|it| it.rate));
    let sink = sink.map(|value| Bar { name: SINK.to_owned(), group: "the load generator".to_owned(), value });
    systems.iter().filter_map(bar).chain(sink).collect()
}

/// Why a cell has no figure, as far as that is so by design, and what the others stand on.
fn about_dashes(rounds: &[Round], systems: &[Subject]) -> Vec<String> {
    let mut notes = vec![format!(
        "{SINK}: both are threads of the lab, so there is nobody to kill and no memory to tell"
    )];
    let files: Vec<&str> = systems.iter().filter(|it| it.serves_a_file()).map(|it| it.name()).collect();
    if !files.is_empty() {
        notes.push(format!(
            "{}: what is served is a file, which holds nobody for long enough to count who is at work; and where the processor is the limit \
             those who are left can do all that was done before, so that a rate does not tell when capacity is back either",
            files.join(", ")
        ));
    }
    let hidden = |system: &Subject| rounds.iter().any(|it| it.system == *system && it.pss_mib.is_none());
    let hidden: Vec<&str> = systems.iter().filter(|it| hidden(it)).map(|it| it.name()).collect();
    if !hidden.is_empty() {
        notes.push(format!("{}: this user may not know the memory of all processes", hidden.join(", ")));
    }
    if systems.contains(&POSTGRESQL) {
        notes.push(
            "PostgreSQL: each of its clients is a thread of the lab's with one session, so there is no one thread whose being busy would tell"
                .to_owned(),
        );
    }
    let longest = rounds.iter().filter_map(|it| it.back).map(|it| it.probe_ms).reduce(f64::max);
    if let Some(longest) = longest {
        notes.push(format!(
            "capacity back is told to the length of a probe, which was {} ms at most: 0 is that the first one after the kill found it",
            digits(longest)
        ));
    }
    notes
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;
    use crate::systems::{Backend, Peer};

    #[test]
    fn a_cell_without_a_figure_has_its_reason_in_the_notes() {
        let systems = [System::Bulkhead(Backend::Process), System::Peer(Peer::Nginx)].map(Subject::Server);
        let round = |system, back| Round {
            system,
            rate: 100.0,
            failed: 2,
            busy: Some(0.5),
            hits_per_kill: Some(0.0),
            back,
            pss_mib: None,
            processes: 9,
        };
        let back = Back { after_ms: 12.0, probe_ms: 55.0 };
        let rounds = [round(systems[0], Some(back)), round(systems[1], None)];
        let sinks = [Sink { rate: 900.0, failed: 0, busy: 1.0 }];
        let outcome = outcome(&rounds, &sinks, &systems, Vec::new());
        let rows = &outcome.tables[0].rows;
        assert!(rows[0][5].starts_with("12.0") && rows[1][5] == "–", "{rows:?}");
        assert_eq!((rows[0][2].as_str(), rows[2][0].as_str()), ("2", SINK));
        let said = |what: &str| outcome.notes.iter().any(|it| it.contains(what));
        assert!(said("nginx: what is served is a file") && said("55.0 ms at most"), "{:?}", outcome.notes);
        assert!(said("the memory of all processes"), "{:?}", outcome.notes);
        let bar = outcome.plots.iter().find_map(|it| match it {
            Plot::Bars { bars, .. } => bars.iter().find(|it| it.name == SINK),
            _ => None,
        });
        assert_eq!(bar.unwrap().value.median, 900.0);
    }
}
