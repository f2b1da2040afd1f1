//! What is done to the database, case by case. Each case leaves it as it was.

use std::sync::{Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use postgres::Client;
use postgres::error::SqlState;
use serde::Serialize;

use super::session::{Away, Job, Session};
use super::shared::Pool;
use crate::experiments::database::Database;

/// The tables of one run, in a schema of their own that goes with this.
pub(super) struct Ground<'a> {
    pub(super) database: &'a Database,
    schema: String,
}

impl<'a> Ground<'a> {
    pub(super) fn prepare(database: &'a Database) -> anyhow::Result<Self> {
        let schema = format!("bulkhead_lab_{}", std::process::id());
        let mut client = database.connect().context("the database lets nobody in")?;
        client.batch_execute(&format!(
            "DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}; \
             CREATE TABLE {schema}.account (id int PRIMARY KEY, n bigint NOT NULL); \
             INSERT INTO {schema}.account SELECT it, 0 FROM generate_series(1, 8) AS it"
        ))?;
        Ok(Self { database, schema })
    }

    fn update(&self, id: u32) -> String {
        self.add(1, id)
    }

    fn add(&self, more: u32, id: u32) -> String {
        format!("UPDATE {}.account SET n = n + {more} WHERE id = {id}", self.schema)
    }

    fn number(&self, client: &mut Client, id: u32) -> anyhow::Result<i64> {
        let row = client.query_one(&format!("SELECT n FROM {}.account WHERE id = {id}", self.schema), &[])?;
        Ok(row.try_get(0)?)
    }

    fn session(&self, settings: &[&str], job: Job) -> anyhow::Result<Away> {
        let settings = settings.iter().map(|&it| it.to_owned()).collect();
        Away::start(Session { url: self.database.url.clone(), settings, job })
    }
}

impl Drop for Ground<'_> {
    fn drop(&mut self) {
        if let Ok(mut client) = self.database.connect() {
            let _ = client.batch_execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.schema));
        }
    }
}

/// How threads use connections for transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Sharing {
    /// One connection for all, and a lock around each statement: nothing is ever sent at the same time.
    LockedByStatement,
    /// One connection for all, and a lock around each transaction.
    LockedByTransaction,
    /// One of a pool for as long as the transaction lasts.
    Pooled,
}

impl Sharing {
    pub(super) const ALL: [Self; 3] = [Self::LockedByStatement, Self::LockedByTransaction, Self::Pooled];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LockedByStatement => "one connection, a lock around each statement",
            Self::LockedByTransaction => "one connection, a lock around each transaction",
            Self::Pooled => "a connection of a pool for each transaction",
        }
    }
}

/// What an application does between two statements, in the least.
const BETWEEN: Duration = Duration::from_micros(100);

/// What became of transactions that add one and are committed, and of others that add a thousand and are rolled back: what
/// was wrongly lost can never make up for what was wrongly kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Shared {
    pub(super) sharing: Sharing,
    /// As many were told that they are committed.
    pub(super) committed: i64,
    /// As many are in the table.
    pub(super) counted: i64,
}

/// Threads that add to one row.
pub(super) fn share(
    ground: &Ground<'_>,
    sharing: Sharing,
    threads: u32,
    rounds: u32,
) -> anyhow::Result<Shared> {
    let mut reader = ground.database.connect()?;
    let before = ground.number(&mut reader, 1)?;
    let one = Mutex::new(ground.database.connect()?);
    let pool: Vec<Client> = (0..2).map(|_| ground.database.connect()).collect::<Result<_, _>>()?;
    let pool = Pool::of(pool);
    let (kept, dropped) = (ground.add(1, 1), ground.add(1000, 1));
    let barrier = Barrier::new(threads as usize);
    let alone = |statement: &str| one.lock().unwrap_or_else(PoisonError::into_inner).batch_execute(statement);
    let transaction = |update: &str, end: &str| -> anyhow::Result<()> {
        let all = |client: &mut Client| {
            client.batch_execute("BEGIN")?;
            client.batch_execute(update)?;
            std::thread::sleep(BETWEEN);
            client.batch_execute(end)
        };
        match sharing {
            Sharing::LockedByStatement => {
                alone("BEGIN")?;
                alone(update)?;
                std::thread::sleep(BETWEEN);
                alone(end)?;
            }
            Sharing::LockedByTransaction => all(&mut one.lock().unwrap_or_else(PoisonError::into_inner))?,
            Sharing::Pooled => with_one(&pool, all)?,
        }
        Ok(())
    };
    let committed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    let mut committed = 0;
                    for round in 0..rounds {
                        match round % 2 {
                            0 => transaction(&kept, "COMMIT")?,
                            _ => transaction(&dropped, "ROLLBACK")?,
                        }
                        committed += i64::from(round % 2 == 0);
                    }
                    anyhow::Ok(committed)
                })
            })
            .collect();
        let mut sum = 0;
        for thread in threads {
            sum += thread.join().map_err(|_| anyhow::anyhow!("a thread has panicked"))??;
        }
        anyhow::Ok(sum)
    })?;
    // What still hangs in an open transaction of the one connection counts for nobody.
    let _ = alone("ROLLBACK");
    let counted = ground.number(&mut reader, 1)? - before;
    Ok(Shared { sharing, committed, counted })
}

/// Uses one of a pool. Whoever gets none within 20 s has done nothing, and says so.
fn with_one<R>(
    pool: &Pool<Client>,
    use_it: impl FnOnce(&mut Client) -> Result<R, postgres::Error>,
) -> anyhow::Result<R> {
    let lent = pool.take(Duration::from_secs(20));
    let used = lent.and_then(|mut lent| lent.with(use_it));
    Ok(used.context("nobody gave a connection back for 20 s")??)
}

/// Clients that always want to do something, over so many connections.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Served {
    /// `None`: processes, each with a connection of its own.
    pub(super) connections: Option<usize>,
    pub(super) clients: usize,
    pub(super) per_second: f64,
    /// For a connection, in ms: half waited less, and 99 of 100.
    pub(super) waited_ms: (f64, f64),
    /// All processes of the server, if they can be seen: when all have connected, and nobody has asked for anything yet.
    pub(super) server_mib: Option<f64>,
}

/// What each client does while it holds a connection: 5 ms of a database's time.
const WORK: &str = "SELECT pg_sleep(0.005)";

/// Threads over a pool.
pub(super) fn over_pool(
    ground: &Ground<'_>,
    clients: usize,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Served> {
    let pool: Vec<Client> = (0..connections).map(|_| ground.database.connect()).collect::<Result<_, _>>()?;
    let pool = Pool::of(pool);
    let server_mib = ground.database.usage().and_then(|it| it.pss_mib());
    let started = Instant::now();
    let mut waits: Vec<f64> = std::thread::scope(|scope| {
        let client = || {
            let mut waits = Vec::new();
            while started.elapsed() < time {
                let asked = Instant::now();
                let lent = pool.take(Duration::from_secs(20));
                waits.push(asked.elapsed().as_secs_f64() * 1e3);
                let used = lent.and_then(|mut lent| lent.with(|client| client.batch_execute(WORK)));
                used.context("nobody gave a connection back for 20 s")??;
            }
            anyhow::Ok(waits)
        };
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.join().map_err(|_| anyhow::anyhow!("a thread has panicked"))??);
        }
        anyhow::Ok(all)
    })?;
    let per_second = waits.len() as f64 / started.elapsed().as_secs_f64();
    waits.sort_by(f64::total_cmp);
    let part = |part: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
        let nth = (waits.len().saturating_sub(1) as f64 * part) as usize;
        waits.get(nth).copied().unwrap_or(0.0)
    };
    let waited_ms = (part(0.5), part(0.99));
    Ok(Served { connections: Some(connections), clients, per_second, waited_ms, server_mib })
}

/// Processes, each with its own.
pub(super) fn by_processes(ground: &Ground<'_>, clients: usize, time: Duration) -> anyhow::Result<Served> {
    let job =
        Job::Work { statement: WORK.to_owned(), time_ms: u64::try_from(time.as_millis()).unwrap_or(1000) };
    let mut sessions: Vec<Away> =
        (0..clients).map(|_| ground.session(&[], job.clone())).collect::<anyhow::Result<_>>()?;
    let server_mib = ground.database.usage().and_then(|it| it.pss_mib());
    let started = Instant::now();
    for session in &mut sessions {
        session.go()?;
    }
    let mut count = 0;
    for session in &mut sessions {
        count += session.count()?;
    }
    let per_second = count as f64 / started.elapsed().as_secs_f64();
    Ok(Served { connections: None, clients, per_second, waited_ms: (0.0, 0.0), server_mib })
}

/// What becomes of connections that are taken and never given back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Leaked {
    pub(super) pool: usize,
    /// Transactions until nobody got a connection any more.
    pub(super) until_dry: usize,
    /// Of so many who asked after that, so many waited in vain.
    pub(super) in_vain: (usize, usize),
    /// When the connections of processes that leaked as many were gone, in ms from the end of those processes.
    pub(super) back_with_processes_ms: f64,
}

/// A pool of which every tenth borrower forgets to give back; then processes that forget as much.
pub(super) fn leak(ground: &Ground<'_>, size: usize) -> anyhow::Result<Leaked> {
    let connections: Vec<Client> = (0..size).map(|_| ground.database.connect()).collect::<Result<_, _>>()?;
    let pool = Pool::of(connections);
    let patience = Duration::from_millis(100);
    let (mut forgotten, mut until_dry) = (Vec::new(), 0);
    while let Some(mut lent) = pool.take(patience) {
        lent.with(|client| client.batch_execute("SELECT 1")).unwrap_or(Ok(()))?;
        until_dry += 1;
        if until_dry % 10 == 0 {
            forgotten.extend(lent.forget());
        }
    }
    let asked = 8;
    let in_vain = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..asked).map(|_| scope.spawn(|| pool.take(patience).is_none())).collect();
        askers.into_iter().filter_map(|asker| asker.join().ok()).filter(|in_vain| *in_vain).count()
    });
    drop(forgotten);
    let mut watcher = ground.database.connect()?;
    let name = format!("bulkhead-lab-leak-{}", std::process::id());
    let setting = format!("SET application_name = '{name}'");
    let leaking: Vec<Away> =
        (0..size).map(|_| ground.session(&[&setting], Job::Leak)).collect::<anyhow::Result<_>>()?;
    let mut theirs = || -> anyhow::Result<i64> {
        let row = watcher
            .query_one("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", &[&name])?;
        Ok(row.try_get(0)?)
    };
    ensure!(theirs()? == 2 * i64::try_from(size)?, "{size} processes do not hold two connections each");
    let ended = Instant::now();
    drop(leaking);
    while theirs()? > 0 {
        ensure!(
            ended.elapsed() < Duration::from_secs(20),
            "the connections of processes that have ended stay open"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let back_with_processes_ms = ended.elapsed().as_secs_f64() * 1e3;
    Ok(Leaked { pool: size, until_dry, in_vain: (in_vain, asked), back_with_processes_ms })
}

/// How a client goes that holds the lock of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Going {
    /// Killed between two statements.
    KilledIdle,
    /// Killed while the server works for it.
    KilledBusy,
    /// As above; the server looks after its clients every 100 ms (`client_connection_check_interval`).
    KilledBusyChecked,
    /// It does nothing any more, and nothing is closed: as if its machine had gone.
    Frozen,
    /// As above; the server gives a transaction 300 ms (`idle_in_transaction_session_timeout`).
    FrozenLimited,
}

impl Going {
    pub(super) const ALL: [Self; 5] =
        [Self::KilledIdle, Self::KilledBusy, Self::KilledBusyChecked, Self::Frozen, Self::FrozenLimited];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KilledIdle => "killed between statements",
            Self::KilledBusy => "killed in a statement",
            Self::KilledBusyChecked => "killed in one, checked every 100 ms",
            Self::Frozen => "frozen, nothing closed",
            Self::FrozenLimited => "frozen, idle for 300 ms at most",
        }
    }

    fn setting(self) -> Option<&'static str> {
        match self {
            Self::KilledBusyChecked => Some("SET client_connection_check_interval = 100"),
            Self::FrozenLimited => Some("SET idle_in_transaction_session_timeout = 300"),
            Self::KilledIdle | Self::KilledBusy | Self::Frozen => None,
        }
    }

    fn is_busy(self) -> bool {
        matches!(self, Self::KilledBusy | Self::KilledBusyChecked)
    }
}

/// How long others waited for the row of a client that has gone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Noticed {
    pub(super) going: Going,
    /// From the end of the client; `None`: it was not free within `patience_ms`.
    pub(super) free_after_ms: Option<f64>,
    /// How long the client's last statement would have taken, where it was in one.
    pub(super) busy_ms: Option<u64>,
    pub(super) patience_ms: u64,
}

/// Lets a client go, and waits for the row that it has changed: for a frozen one's so long, for the others' until it
/// is free.
pub(super) fn let_go(
    ground: &Ground<'_>,
    going: Going,
    busy_ms: u64,
    patience_ms: u64,
) -> anyhow::Result<Noticed> {
    let patience_ms = if going == Going::Frozen { patience_ms } else { 20_000 };
    let busy_ms = going.is_busy().then_some(busy_ms);
    let settings: Vec<&str> = going.setting().into_iter().collect();
    let mut waiter = ground.database.connect()?;
    // From when it begins to wait, which is before the client goes.
    waiter.batch_execute(&format!("SET statement_timeout = {patience_ms}"))?;
    let mut watcher = ground.database.connect()?;
    let waiting: i32 = waiter.query_one("SELECT pg_backend_pid()", &[])?.try_get(0)?;
    let mut away = ground.session(&settings, Job::HoldRow { update: ground.update(2), busy_ms })?;
    let free_after_ms = std::thread::scope(|scope| {
        let update = ground.update(2);
        let waiter = scope.spawn(move || (waiter.batch_execute(&update), Instant::now()));
        let gone = until_it_waits(&mut watcher, waiting).and_then(|()| {
            match going {
                Going::Frozen | Going::FrozenLimited => away.freeze()?,
                Going::KilledIdle | Going::KilledBusy | Going::KilledBusyChecked => away.kill()?,
            }
            Ok(Instant::now())
        });
        let (updated, at) = waiter.join().map_err(|_| anyhow::anyhow!("a thread has panicked"))?;
        let gone = gone?;
        match updated {
            Ok(()) => Ok(Some(at.saturating_duration_since(gone).as_secs_f64() * 1e3)),
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Ok(None),
            Err(error) => Err(anyhow::Error::from(error)),
        }
    })?;
    Ok(Noticed { going, free_after_ms, busy_ms, patience_ms })
}

/// Until the server says that this session waits for a lock. The lock's holder may be given up before: then there is
/// nothing to wait for, and whoever asks has the row already.
fn until_it_waits(watcher: &mut Client, pid: i32) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let row = watcher.query_one(
            "SELECT coalesce(wait_event_type, ''), state FROM pg_stat_activity WHERE pid = $1",
            &[&pid],
        )?;
        let (event, state): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        if event == "Lock" {
            return Ok(());
        }
        ensure!(Instant::now() < until, "a session that should wait for a row does not: {state}, {event}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Two sessions that each wait for the other's row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Crossed {
    /// After waiting for so long the server looks for a circle.
    pub(super) timeout_ms: u64,
    /// From when both had their first row and the victim asked for its second.
    pub(super) broken_after_ms: f64,
    /// The error of the one that was chosen.
    pub(super) code: String,
    pub(super) message: String,
    /// How many of the two went through at once, and how many after trying again.
    pub(super) went_through: (usize, usize),
}

/// Lets two sessions change two rows in opposite order. `None`: the server lets this user set no `deadlock_timeout`.
///
/// The victim tries again when the other one is through. One that does so at once can take its first row again before
/// the other one has woken up to it, and then both stand where they stood: retries need a pause, here as elsewhere.
pub(super) fn cross(ground: &Ground<'_>, timeout_ms: u64) -> anyhow::Result<Option<Crossed>> {
    let barrier = Barrier::new(2);
    let set = format!("SET deadlock_timeout = {timeout_ms}");
    let (mut one, mut other) = (ground.database.connect()?, ground.database.connect()?);
    if one.batch_execute(&set).and_then(|()| other.batch_execute(&set)).is_err() {
        return Ok(None);
    }
    let both = |first: u32, second: u32| (ground.update(first), ground.update(second));
    let party = |client: &mut Client, (first, second): (String, String)| {
        let begun = client.batch_execute(&format!("BEGIN; {first}"));
        barrier.wait();
        let since = Instant::now();
        let through = begun.and_then(|()| client.batch_execute(&format!("{second}; COMMIT")));
        (since, Instant::now(), through)
    };
    let results = std::thread::scope(|scope| {
        let threads =
            [scope.spawn(|| party(&mut one, both(3, 4))), scope.spawn(|| party(&mut other, both(4, 3)))];
        threads.map(std::thread::ScopedJoinHandle::join)
    });
    let mut crossed = Crossed {
        timeout_ms,
        broken_after_ms: 0.0,
        code: String::new(),
        message: String::new(),
        went_through: (0, 0),
    };
    for (result, client) in results.into_iter().zip([&mut one, &mut other]) {
        let (since, ended, through) = result.map_err(|_| anyhow::anyhow!("a thread has panicked"))?;
        let Err(error) = through else {
            crossed.went_through.0 += 1;
            crossed.went_through.1 += 1;
            continue;
        };
        crossed.broken_after_ms = ended.saturating_duration_since(since).as_secs_f64() * 1e3;
        crossed.code = error.code().map(|it| it.code().to_owned()).unwrap_or_default();
        crossed.message = error.as_db_error().map_or_else(|| error.to_string(), |it| it.message().to_owned());
        // A victim has lost its transaction and nothing else: it can begin again.
        let (first, second) = both(3, 4);
        let again = client.batch_execute("ROLLBACK");
        let again = again.and_then(|()| client.batch_execute(&format!("BEGIN; {first}; {second}; COMMIT")));
        crossed.went_through.1 += usize::from(again.is_ok());
    }
    Ok(Some(crossed))
}

/// Opens connections until there are no more; how many there were, and what the server said.
pub(super) fn exhaust(ground: &Ground<'_>) -> anyhow::Result<(usize, String)> {
    let mut held = Vec::new();
    loop {
        match ground.database.connect() {
            Ok(client) => held.push(client),
            Err(error) => {
                let said = error.as_db_error().map(|it| format!("{} ({})", it.message(), it.code().code()));
                return Ok((held.len(), said.unwrap_or_else(|| error.to_string())));
            }
        }
        ensure!(held.len() < 1000, "a server that should hold 40 connections holds 1,000");
    }
}
