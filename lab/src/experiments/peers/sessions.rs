//! PostgreSQL among the peers: clients that keep a session instead of asking over HTTP.
//!
//! Each session has a process of its own, and all of them share memory. So when one is killed, the master trusts none
//! of the others with what it may have left there: it ends them all, recovers, and starts anew. Each client of the lab
//! is a thread with one session, which asks one statement after the other, and connects again when it has lost it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use postgres::Client;
use rustix::process::{Pid, Signal, kill_process};

use super::super::Bench;
use super::super::database::Database;
use super::super::idle::settled;
use super::{Back, CLIENTS, POSTGRESQL, ROOM, Round, WORK, WORKERS, back};

/// How long a client waits that was refused before it asks again.
const PAUSE: Duration = Duration::from_millis(1);

/// What clients have seen.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    answered: u64,
    failed: u64,
    /// Clients that were hit, each once until it is answered again.
    hits: u64,
}

/// What can be measured of it in one round, on a server of the lab's own: sessions of another one are nobody's to kill.
pub(super) fn round(bench: &Bench, notes: &mut Vec<String>) -> anyhow::Result<Round> {
    let database = Database::open(None)?;
    // The others have as many workers before anybody asks.
    let idle: Result<Vec<Client>, _> = (0..WORKERS).map(|_| database.connect()).collect();
    let idle = idle.context("PostgreSQL gives no session")?;
    let usage = settled(|| database.usage().unwrap_or_default())?;
    drop(idle);
    work(&database, CLIENTS, "SELECT 1", Duration::from_millis(bench.size.pick(50, 50, 500)), || {})?;
    let asking = Duration::from_millis(bench.size.pick(300, 200, 2000));
    let asked = work(&database, CLIENTS, "SELECT 1", asking, || {})?;

    let (time, every) = bench.size.pick((900, 300), (500, 200), (4000, 500));
    let (time, every) = (Duration::from_millis(time), Duration::from_millis(every));
    let mut kills = 0_u32;
    let stormed = work(&database, WORKERS, "SELECT pg_sleep(0.005)", time, || {
        let until = Instant::now() + time;
        while Instant::now() + every < until {
            thread::sleep(every);
            kills += u32::from(kill_one(&database).is_ok());
        }
    })?;
    let back = capacity_back(&database);
    if let Err(error) = &back {
        notes.push(format!("{}: when its capacity is back was not measured: {error:#}", POSTGRESQL.name()));
    }
    Ok(Round {
        system: POSTGRESQL,
        rate: asked.answered as f64 / asking.as_secs_f64(),
        failed: asked.failed,
        busy: None,
        hits_per_kill: (kills > 0).then(|| stormed.hits as f64 / f64::from(kills)),
        back: back.ok(),
        pss_mib: usage.pss_mib(),
        processes: usage.processes,
    })
}

fn kill_one(database: &Database) -> anyhow::Result<()> {
    let victim = database.oldest_session().context("there is no process that serves a session")?;
    kill_process(victim, Signal::KILL).context("cannot kill")
}

/// So many clients, each with a session of its own, ask for so long. What is done `meanwhile` may take as long.
fn work(
    database: &Database,
    clients: usize,
    statement: &str,
    time: Duration,
    meanwhile: impl FnOnce(),
) -> anyhow::Result<Seen> {
    // Whoever asks first does so when all have a session: what it costs to have one is not what is measured.
    let sessions: Result<Vec<Client>, _> = (0..clients).map(|_| database.connect()).collect();
    let sessions = sessions.context("PostgreSQL gives no session")?;
    let until = Instant::now() + time;
    let seen = thread::scope(|scope| {
        let asking: Vec<_> = sessions
            .into_iter()
            .map(|session| scope.spawn(move || ask(database, session, statement, until)))
            .collect();
        meanwhile();
        asking.into_iter().map(|it| it.join().unwrap_or_default()).fold(Seen::default(), Seen::and)
    });
    Ok(seen)
}

fn ask(database: &Database, session: Client, statement: &str, until: Instant) -> Seen {
    let (mut seen, mut session, mut is_served) = (Seen::default(), Some(session), true);
    while Instant::now() < until {
        let asked = session.take().map_or_else(|| database.connect(), Ok).and_then(|mut session| {
            session.batch_execute(statement)?;
            Ok(session)
        });
        match asked {
            Ok(answered) => {
                seen.answered += 1;
                is_served = true;
                session = Some(answered);
            }
            Err(_) => {
                seen.failed += 1;
                seen.hits += u64::from(std::mem::replace(&mut is_served, false));
                thread::sleep(PAUSE);
            }
        }
    }
    seen
}

impl Seen {
    fn and(self, other: Self) -> Self {
        Self {
            answered: self.answered + other.answered,
            failed: self.failed + other.failed,
            hits: self.hits + other.hits,
        }
    }
}

/// From the kill of a session's process until as many as there were get one, and are served all at once.
fn capacity_back(database: &Database) -> anyhow::Result<Back> {
    let statement = format!("SELECT pg_sleep({})", WORK.as_secs_f64());
    let probe = || {
        let began = Instant::now();
        let once = || database.connect().and_then(|mut session| session.batch_execute(&statement)).is_ok();
        let served = thread::scope(|scope| {
            let asking: Vec<_> = (0..WORKERS).map(|_| scope.spawn(once)).collect();
            asking.into_iter().all(|it| it.join().unwrap_or(false))
        });
        if !served {
            thread::sleep(PAUSE);
        }
        Ok(served && began.elapsed() < ROOM)
    };
    back(probe, || {
        // One that is certainly there: a process whose client has just gone may have ended before the signal comes.
        let mut session = database.connect()?;
        let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[])?.try_get(0)?;
        let pid = Pid::from_raw(pid).context("the server says that it has no process")?;
        let killed = Instant::now();
        kill_process(pid, Signal::KILL).context("cannot kill")?;
        if session.batch_execute("SELECT 1").is_ok() {
            bail!("its process was killed, and it is still served");
        }
        Ok(killed)
    })
}
