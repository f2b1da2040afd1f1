//! A client of the database that is a process of its own, so that it can be killed, stopped, and left alone.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use postgres::{Client, NoTls};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::experiments::Party;
use crate::janitor::{self, Belonging};
use crate::play::{self, Part};

/// The variable in which a session finds where the database is.
const URL: &str = "BULKHEAD_LAB_DATABASE_URL";

/// What a session is to do. It says `ready` when it has come so far, and ends with its standard input at the latest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Session {
    /// Told in [`URL`], for it may hold a password, and everybody may read a command line.
    #[serde(skip)]
    pub(super) url: String,
    /// Statements that it sends first.
    pub(super) settings: Vec<String>,
    pub(super) job: Job,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Job {
    /// Begins a transaction, changes a row, and leaves both like that.
    HoldRow {
        /// The statement that changes it.
        update: String,
        /// For so long it is then busy with a statement; `None`: it does nothing.
        busy_ms: Option<u64>,
    },
    /// Waits for a word, sends this statement again and again for so long, and tells how often.
    Work { statement: String, time_ms: u64 },
    /// Opens one connection more and forgets it.
    Leak,
}

impl Session {
    /// Does the job.
    pub(in crate::experiments) fn run(self) -> io::Result<()> {
        let Self { settings, job, .. } = self;
        let url = std::env::var(URL).map_err(io::Error::other)?;
        let connect = || -> io::Result<Client> {
            let mut client = Client::connect(&url, NoTls).map_err(io::Error::other)?;
            for setting in &settings {
                client.batch_execute(setting).map_err(io::Error::other)?;
            }
            Ok(client)
        };
        let mut client = connect()?;
        match job {
            Job::HoldRow { update, busy_ms } => {
                client.batch_execute(&format!("BEGIN; {update}")).map_err(io::Error::other)?;
                say("ready")?;
                if let Some(ms) = busy_ms {
                    let statement = format!("SELECT pg_sleep({})", ms as f64 / 1e3);
                    client.batch_execute(&statement).map_err(io::Error::other)?;
                }
                until_input_ends()
            }
            Job::Work { statement, time_ms } => {
                say("ready")?;
                io::stdin().read_exact(&mut [0])?;
                let (until, mut count) = (Instant::now() + Duration::from_millis(time_ms), 0_u64);
                while Instant::now() < until {
                    client.batch_execute(&statement).map_err(io::Error::other)?;
                    count += 1;
                }
                say(&count.to_string())
            }
            Job::Leak => {
                let _held = client;
                std::mem::forget(connect()?);
                say("ready")?;
                until_input_ends()
            }
        }
    }
}

fn say(word: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{word}")?;
    out.flush()
}

fn until_input_ends() -> io::Result<()> {
    while io::stdin().read(&mut [0; 64])? > 0 {}
    Ok(())
}

/// A session, as its parent has it. It is killed when this is dropped.
pub(super) struct Away {
    child: Child,
    /// As the janitor knows it: one that is frozen does not see that its parent has ended.
    belonging: Belonging,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Away {
    /// Starts it, and waits until it has come so far.
    pub(super) fn start(session: Session) -> anyhow::Result<Self> {
        let url = session.url.clone();
        let mut command = play::command(&Part::Party(Party::Session(session)))?;
        command.env(URL, url);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start a session")?;
        let belonging = Belonging::processes(Pid::from_child(&child));
        janitor::have(belonging.clone());
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("a session has no output")?);
        let mut away = Self { child, belonging, input, output };
        let word = away.next_word()?;
        anyhow::ensure!(
            word == "ready",
            "a session has ended before it was ready; it said why on standard error"
        );
        Ok(away)
    }

    fn next_word(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Lets one that waits for a word begin.
    pub(super) fn go(&mut self) -> io::Result<()> {
        self.input.as_mut().map_or(Ok(()), |input| input.write_all(b"g"))
    }

    /// What it has counted.
    pub(super) fn count(&mut self) -> anyhow::Result<u64> {
        self.next_word()?
            .parse()
            .context("a session has ended before its time; it said why on standard error")
    }

    /// As a crash does it, or an out-of-memory killer.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// It does nothing any more, and does not close anything either: what a server sees of a client whose machine or
    /// network has gone.
    pub(super) fn freeze(&self) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        janitor::gone(self.belonging.clone());
    }
}
