//! Asking whoever listens on a control socket which build it is of, and whom it has, without being let in.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, bail};
use serde_json::Value;
use server::control::{ASKS_VERSION, LONGEST_LINE, Notice, Order};
use server::identity::{PoolName, Secret};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::rundir::RunDir;

/// How long a door that is there may take to say which version it speaks. Its event loop answers in microseconds, on a
/// machine that is very busy in tens of milliseconds.
pub(in crate::cli) const VERSION_PATIENCE: Duration = Duration::from_secs(5);

/// A connection to the control socket; `None` when nobody listens there (any more).
pub(super) async fn dial(socket: &Path) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect(socket).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
            _ => Err(error),
        },
    }
}

/// What a door is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Wanted {
    /// A sign of life.
    SignOfLife,
    /// Besides, that each of its pools has a worker; or that it has been there for so long: a pool may have none, or all of
    /// them at other doors.
    Workers {
        /// How long.
        or_there_for: Duration,
    },
}

/// Which version of the control protocol the door at the other end speaks; `None` when it does not say in time. Any
/// build's answer will do: nothing is expected of it but the number.
pub(super) async fn ask_version(stream: UnixStream) -> Option<u32> {
    tokio::time::timeout(VERSION_PATIENCE, ask(stream)).await.ok()?.as_ref().and_then(version)
}

fn version(welcome: &Value) -> Option<u32> {
    welcome.get("version")?.as_u64()?.try_into().ok()
}

/// What it says to who only asks.
async fn ask(mut stream: UnixStream) -> Option<Value> {
    // No secret of ours: who asks is not let in, so nobody learns it.
    let hello = Order::Hello { version: ASKS_VERSION, secret: Secret::new([0; 32]) };
    let mut line = serde_json::to_vec(&hello).ok()?;
    line.push(b'\n');
    stream.write_all(&line).await.ok()?;
    let mut answer = String::new();
    let longest = u64::try_from(LONGEST_LINE).ok()?;
    BufReader::new(stream).take(longest).read_line(&mut answer).await.ok()?;
    serde_json::from_str(&answer).ok()
}

/// Asks the door of a run directory, on behalf of somebody who cannot tell by a connection: the kernel accepts those for a
/// door that hangs, and a door for pools that have no worker yet.
///
/// # Errors
/// Nobody listens there, or it says nothing within `patience`, or it has not got what is wanted.
pub(in crate::cli) async fn probe(
    run_dir: &RunDir,
    wanted: Wanted,
    patience: Duration,
) -> anyhow::Result<()> {
    let socket = run_dir.control_socket();
    let dialled = dial(&socket).await.with_context(|| format!("cannot ask at {}", socket.display()))?;
    let Some(stream) = dialled else { bail!("no door listens at {}", socket.display()) };
    let welcome = tokio::time::timeout(patience, ask(stream)).await.ok().flatten();
    let Some(welcome) = welcome.filter(|it| version(it).is_some()) else {
        bail!("the door at {} gives no sign of life", socket.display())
    };
    match wanted {
        Wanted::SignOfLife => Ok(()),
        Wanted::Workers { or_there_for } if has_been_there_for(&socket, or_there_for) => Ok(()),
        Wanted::Workers { .. } => {
            let welcome = serde_json::from_value(welcome)
                .with_context(|| format!("the door at {} is of another build", socket.display()))?;
            match without_workers(&welcome).as_slice() {
                [] => Ok(()),
                [pool, ..] => bail!("pool {pool} has no worker at the door at {} yet", socket.display()),
            }
        }
    }
}

/// A door makes its socket when it starts. One of which it cannot be told since when it has been there is not waited for.
fn has_been_there_for(socket: &Path, long: Duration) -> bool {
    let made = fs::metadata(socket).and_then(|it| it.modified()).ok();
    made.and_then(|made| made.elapsed().ok()).is_none_or(|age| age >= long)
}

/// Pure: the pools that nobody is there for.
fn without_workers(welcome: &Notice) -> Vec<&PoolName> {
    let Notice::Welcome { pools, linked, .. } = welcome else { return Vec::new() };
    pools.keys().filter(|pool| !linked.iter().any(|life| life.worker.pool == **pool)).collect()
}
