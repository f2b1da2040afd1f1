//! Pool: a real PostgreSQL, used by threads over a pool and by processes with a connection each.
//!
//! Memory is the simple thing to share. A connection is harder: it has a state of its own, the open transaction, which a
//! lock around each statement does not protect. And what a client holds in the database, a row's lock for one, outlives
//! the client until the server notices that it has gone.
//!
//! Expected, case by case:
//!
//! - *Sharing*: with one connection and a lock around each statement, transactions run into one another, and what
//!   was said to be committed is not what is in the table. With a lock around each transaction, or a connection of a
//!   pool for each, the two are the same.
//! - *Waiting*: the fewer connections the pool has, the longer its clients wait for one. Processes with their own never
//!   wait, and the server pays for each of them, until it takes no more.
//! - *A leak* dries the pool up for all threads. A process's leaked connections go with the process.
//! - *A client that goes*: killed between statements, its row is free at once, for the kernel closes the connection.
//!   Killed in a statement, it is free at the statement's end, unless the server is told to look. Frozen, never,
//!   unless transactions may not be idle for so long.
//! - *Two sessions that wait for each other*: PostgreSQL looks for a circle after `deadlock_timeout`, ends one of the two
//!   with 40P01, and the other one goes on.

mod cases;
mod evaluate;
mod session;
mod shared;

use std::time::Duration;

use self::cases::{Going, Ground, Sharing};
use self::evaluate::Figures;
pub(super) use self::session::Session;
use super::database::{self, Database};
use super::{Bench, Experiment};
use crate::findings::{Answer, Outcome, Verdict};

pub(super) const QUESTION: &str =
    "What does it take to share a database, and what becomes of what a client held there that has gone?";
pub(super) const METHOD: &str = "A PostgreSQL of its own behind a Unix socket, or the one that was named. Threads over pools of connections, and processes with one each; each transaction \
     costs 5 ms of waiting in the server; closed loop, no thinking. Medians over rounds in which all cases are taken in turn.";

/// Clients at a time.
const CLIENTS: usize = 16;

/// The first version of the server that looks after clients while it works for them.
const CHECKS_CLIENTS: u32 = 140_000;

/// Whether there is a database to measure; if not, what to do about it.
pub(super) fn is_possible(bench: &Bench) -> Result<(), String> {
    if bench.database_url.is_some() {
        return Ok(());
    }
    database::is_installed().map_err(|missing| format!("{missing}, or name a server with --database-url"))
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Outcome> {
    if let Err(missing) = is_possible(bench) {
        return Ok(not_run(&missing));
    }
    let rounds = bench.size.pick(1, 1, 3);
    let pools: &[usize] = bench.size.pick(&[2, 16], &[1, 4, 16], &[1, 2, 4, 8, 16]);
    let time = Duration::from_millis(bench.size.pick(200, 250, 1_000));
    let (busy_ms, patience_ms) = bench.size.pick((800, 1_000), (800, 1_000), (3_000, 10_000));
    let timeouts: &[u64] = bench.size.pick(&[50], &[50, 400], &[50, 200, 1_000]);
    let each = Sharing::ALL.len() + pools.len() + 1 + 1 + Going::ALL.len() + timeouts.len();
    let progress = bench.progress(Experiment::Pool, 1 + rounds * each);
    progress.doing("a PostgreSQL");
    let database = Database::open(bench.database_url.as_deref())?;
    let ground = Ground::prepare(&database)?;
    progress.step();
    let mut figures = Figures::default();
    let ways_to_go: Vec<Going> = match database.version()? {
        CHECKS_CLIENTS.. => Going::ALL.to_vec(),
        older => {
            let name = Going::KilledBusyChecked.name();
            figures.not_run.push(format!("{name}: not run: the server is older than PostgreSQL 14: {older}"));
            Going::ALL.into_iter().filter(|it| *it != Going::KilledBusyChecked).collect()
        }
    };
    for _ in 0..rounds {
        for sharing in Sharing::ALL {
            progress.doing(sharing.name());
            figures.shared.push(cases::share(&ground, sharing, 4, 40)?);
            progress.step();
        }
        for &connections in pools {
            progress.doing(&format!("{CLIENTS} threads, {connections} connections"));
            figures.served.push(cases::over_pool(&ground, CLIENTS, connections, time)?);
            progress.step();
        }
        progress.doing(&format!("{CLIENTS} processes"));
        figures.served.push(cases::by_processes(&ground, CLIENTS, time)?);
        progress.step();
        progress.doing("leaks");
        figures.leaked.push(cases::leak(&ground, 4)?);
        progress.step();
        for &going in &ways_to_go {
            progress.doing(going.name());
            figures.noticed.push(cases::let_go(&ground, going, busy_ms, patience_ms)?);
            progress.step();
        }
        for &timeout_ms in timeouts {
            progress.doing("two sessions that wait for each other");
            figures.crossed.extend(cases::cross(&ground, timeout_ms)?);
            progress.step();
        }
    }
    if database.is_own() {
        progress.doing("more connections than there are");
        figures.most = Some(cases::exhaust(&ground)?);
    }
    Ok(evaluate::outcome(&figures))
}

fn not_run(missing: &str) -> Outcome {
    let answer = |claim| Answer { claim, verdict: Verdict::NotMeasured, evidence: missing.to_owned() };
    Outcome {
        answers: vec![answer(11), answer(12)],
        notes: vec![format!("Not run: {missing}")],
        ..Outcome::default()
    }
}
