//! Asking whoever listens on a control socket which build it is of, without being let in.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use server::control::{ASKS_VERSION, LONGEST_LINE, Order};
use server::identity::Secret;
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

/// Which version of the control protocol the door at the other end speaks; `None` when it does not say in time. Any
/// build's answer will do: nothing is expected of it but the number.
pub(super) async fn ask_version(mut stream: UnixStream) -> Option<u32> {
    let asking = async {
        // No secret of ours: who asks is not let in, so nobody learns it.
        let hello = Order::Hello { version: ASKS_VERSION, secret: Secret::new([0; 32]) };
        let mut line = serde_json::to_vec(&hello).ok()?;
        line.push(b'\n');
        stream.write_all(&line).await.ok()?;
        let mut answer = String::new();
        let longest = u64::try_from(LONGEST_LINE).ok()?;
        BufReader::new(stream).take(longest).read_line(&mut answer).await.ok()?;
        let answer: serde_json::Value = serde_json::from_str(&answer).ok()?;
        answer.get("version")?.as_u64()?.try_into().ok()
    };
    tokio::time::timeout(VERSION_PATIENCE, asking).await.ok()?
}

/// Asks the door of a run directory for a sign of life, on behalf of somebody who cannot tell by a connection: the kernel
/// accepts those for a door that hangs.
///
/// # Errors
/// Nobody listens there, or it says nothing within `patience`.
pub(in crate::cli) async fn probe(run_dir: &RunDir, patience: Duration) -> anyhow::Result<()> {
    let socket = run_dir.control_socket();
    let dialled = dial(&socket).await.with_context(|| format!("cannot ask at {}", socket.display()))?;
    let Some(stream) = dialled else { bail!("no door listens at {}", socket.display()) };
    match tokio::time::timeout(patience, ask_version(stream)).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) | Err(_) => bail!("the door at {} gives no sign of life", socket.display()),
    }
}
