//! From a worker's death to the report of it.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, kill_process_group, pidfd_open, test_kill_process_group};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::output::tells_of_no_memory;
use super::procfs::Process;
use super::state::State;
use super::{Inner, LAST_LINES, Life, Trouble, output};
use crate::backend::Sighting;
use crate::model::Cause;

/// How long to wait between two looks at a killed group that is not dead yet: at first, and at most. There is
/// no event to wait for instead: a group has no pidfd.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// Something of a process becomes readable when it dies.
type Pidfd = AsyncFd<OwnedFd>;

/// Notes the process of a child that has just been started, and watches it from there on. On an error nothing
/// is left of it.
pub(super) fn start(inner: &Arc<Inner>, state: State, mut child: Child) -> Result<Process, Trouble> {
    match note(inner, state, &child) {
        Ok((state, process, pidfd)) => {
            watched(inner, &state);
            tokio::spawn(until_child_dies(Arc::clone(inner), state, process, pidfd, child));
            Ok(process)
        }
        Err(trouble) => {
            // It has not been waited for, so the number is its own, and so is the group's.
            if let Some(process) = Process::now_at(child.id()) {
                let _dead_already = kill_process_group(process.pid(), Signal::KILL);
            }
            let _dead_already = child.kill();
            let _status_of_no_interest = child.wait();
            Err(trouble)
        }
    }
}

/// Watches a worker that another controller has started.
pub(super) fn adopt(
    inner: &Arc<Inner>,
    state: State,
    process: Process,
    pidfd: OwnedFd,
) -> Result<(), Trouble> {
    let pidfd = watchable(process, pidfd)?;
    watched(inner, &state);
    tokio::spawn(until_adopted_dies(Arc::clone(inner), state, process, pidfd));
    Ok(())
}

fn note(inner: &Inner, state: State, child: &Child) -> Result<(State, Process, Pidfd), Trouble> {
    // A child that nobody has waited for is in /proc, dead or alive.
    let process = Process::now_at(child.id()).ok_or(Trouble::NoPid(child.id()))?;
    let pidfd =
        pidfd_open(process.pid(), PidfdFlags::empty()).map_err(|error| process.trouble("watch", error))?;
    let pidfd = watchable(process, pidfd)?;
    let state = State { process: Some(process), ..state };
    inner.store.write(&state)?;
    Ok((state, process, pidfd))
}

fn watchable(process: Process, pidfd: OwnedFd) -> Result<Pidfd, Trouble> {
    server::sys::watch(pidfd, Interest::READABLE).map_err(|source| Trouble::Process {
        operation: "watch",
        pid: process.number(),
        source,
    })
}

fn watched(inner: &Inner, state: &State) {
    inner.lives().insert(state.life.clone(), Life::Watched { user: state.user });
}

async fn until_child_dies(inner: Arc<Inner>, state: State, process: Process, pidfd: Pidfd, mut child: Child) {
    // An error means that the runtime is being shut down: the worker is then the next controller's.
    let Ok(_) = pidfd.readable().await else { return };
    kill_group(process);
    // It is dead: this does not wait.
    let status = child.wait().ok();
    until_group_is_dead(process).await;
    let last_output = output::tail(&inner.store.output_path(&state.life), LAST_LINES).unwrap_or_default();
    let cause = status.map_or(Cause::Lost, |status| cause(status, &last_output, state.memory_limit_bytes));
    report(&inner, &state, cause).await;
}

async fn until_adopted_dies(inner: Arc<Inner>, state: State, process: Process, pidfd: Pidfd) {
    let Ok(_) = pidfd.readable().await else { return };
    // Whoever is its parent now may have waited for it, and its number may be somebody else's. As long as
    // anybody of its group lives, it is not.
    if !process.is_recycled() {
        kill_group(process);
        until_group_is_dead(process).await;
    }
    report(&inner, &state, Cause::Lost).await;
}

/// What a worker that ended so died of.
fn cause(status: ExitStatus, last_output: &[String], memory_limit_bytes: Option<u64>) -> Cause {
    match (status.signal(), status.code()) {
        (Some(abort), _)
            if abort == Signal::ABORT.as_raw() && last_output.iter().any(|line| tells_of_no_memory(line)) =>
        {
            Cause::Oom { limit_bytes: memory_limit_bytes }
        }
        (Some(signal), _) => Cause::Signal(signal),
        (None, Some(code)) => Cause::Exit(code),
        (None, None) => Cause::Lost,
    }
}

fn kill_group(process: Process) {
    match kill_process_group(process.pid(), Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => {
            tracing::warn!(group = process.number(), %error, "cannot kill what a dead worker has left behind");
        }
    }
}

/// Nearly always it is, as nearly no worker forks. A member that is stuck in the kernel is waited for as long as
/// it takes: it may still hold the worker's link.
async fn until_group_is_dead(process: Process) {
    let (mut pause, longest) = LOOK_AGAIN;
    while test_kill_process_group(process.pid()) != Err(Errno::SRCH) && process.group_lives() {
        if pause == longest {
            tracing::warn!(group = process.number(), "a killed process of a dead worker is not dead yet");
        }
        tokio::time::sleep(pause).await;
        pause = longest.min(pause * 2);
    }
}

async fn report(inner: &Inner, state: &State, cause: Cause) {
    let autopsy = inner.autopsy(&state.life, cause);
    inner.lives().insert(state.life.clone(), Life::Dead(autopsy.clone()));
    // Without a supervisor there is nobody to tell; the next one lists.
    let _nobody_listens = inner.sightings.send(Sighting::Died { life: state.life.clone(), autopsy }).await;
}
