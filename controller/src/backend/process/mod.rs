//! Workers as plain processes.
//!
//! Each worker leads a process group of its own, reads nothing, and writes to a file. What is known of it is in
//! a state file beside that; both are named after its life, so that two lives of one place never share a name:
//! ```text
//! RUN/workers/web-3.7.json   who it is, its process, the machine's boot
//! RUN/workers/web-3.7.log    what it wrote; a file and not a pipe, so that it can write on when we die
//! ```
//! **When we die,** workers live on. The next controller finds the state files and checks each against the
//! kernel: same boot, and under that pid a process that started at that very clock tick. A recycled pid is
//! somebody else, and is never touched. The state is first written *without* a process, as an intent; then the
//! process is started; then the state is written with it. Whoever dies between the two leaves an intent, and
//! only for those the next controller searches `/proc` for a command line that names this life and this
//! deployment's link socket. None of it is synced to disk: a machine that crashes takes the workers along.
//!
//! **When a worker dies,** its pidfd says so, whether it is our child or was adopted. Its whole group is killed
//! and seen dead before the death is reported, because a process that it left behind would hold its link open.
//! For our own child the group is killed while the child still is a zombie: until it is waited for, its number
//! cannot be given to anybody else. Only a parent is told how a process died; an adopted one that dies is
//! [`Cause::Lost`].
//!
//! **Limits** are put on by the worker itself before it does anything else; see `limits`. `cpus` and `network`
//! mean nothing here.
//!
//! What a plain process can do and a container cannot: leave its group (`setsid`) and so outlive its own
//! death; see the machine's network and files; and, where we are not root, signal and trace its siblings, as
//! they are the same user. Who cannot trust a worker that far runs it in a container.

mod limits;
mod output;
mod procfs;
mod state;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Signal, kill_process_group, pidfd_send_signal};
use server::control::Stamp;
use server::identity::Incarnation;
use thiserror::Error;
use tokio::sync::mpsc;

use super::{Backend, BackendError, BackendKind, Found, Home, Sighting, SpawnOrder, Unit, Vital};
use crate::cli::worker::{TOKEN_VARIABLE, TUNNEL_CA_VARIABLE, arguments};
use crate::model::{Autopsy, Cause};
use crate::rundir::RunDir;
use procfs::{Numbers, Process};
use state::{State, Store};

/// How often outputs are cut back to their bound.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// How many lines of a dead worker's output its autopsy shows.
const LAST_LINES: usize = 20;

/// The backend that runs workers as plain processes.
#[derive(Debug, Clone)]
pub struct ProcessBackend(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    run: RunDir,
    program: PathBuf,
    store: Store,
    lives: Mutex<HashMap<Incarnation, Life>>,
    /// Held while listing, so that nobody is adopted twice.
    listing: Mutex<()>,
    sightings: mpsc::Sender<Sighting>,
    /// Until [`Backend::watch`] takes it.
    receiver: Mutex<Option<mpsc::Receiver<Sighting>>>,
}

/// What this controller knows of a worker, beyond its state file.
#[derive(Debug, Clone)]
enum Life {
    /// [`Backend::spawn`] is at it: its state file is an intent, and rightly so.
    Starting { user: Option<u32> },
    /// A task waits for its death.
    Watched { user: Option<u32> },
    /// It died under our eyes and is not yet removed.
    Dead(Autopsy),
}

/// Why the machine refused. Becomes the source of a [`BackendError`].
#[derive(Debug, Error)]
enum Trouble {
    #[error("cannot {operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot run {}", program.display())]
    Program {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot {operation} process {pid}")]
    Process {
        operation: &'static str,
        pid: u32,
        #[source]
        source: io::Error,
    },
    #[error("{0} is not a signal of this machine")]
    NoSignal(i32),
    #[error("process {0} is still alive: kill it first")]
    Alive(u32),
    #[error("{0} is no worker's process id")]
    NoPid(u32),
    #[error("the controller is shutting down")]
    ShuttingDown,
    #[error("a container is not ours to touch")]
    Container,
}

impl ProcessBackend {
    /// A backend for the deployment of `home`, whose run directory has been created. List before the first
    /// spawn: what is not adopted yet is not counted among the users that are taken.
    pub fn new(home: &Home) -> Result<Self, BackendError> {
        let run = RunDir::at(&home.run_dir);
        let store = Store::open(run.workers_dir()).map_err(refused("read", "this machine's boot id"))?;
        let (sightings, receiver) = mpsc::channel(256);
        Ok(Self(Arc::new(Inner {
            run,
            program: home.program.clone(),
            store,
            lives: Mutex::default(),
            listing: Mutex::default(),
            sightings,
            receiver: Mutex::new(Some(receiver)),
        })))
    }
}

impl ProcessBackend {
    /// The workers of this deployment that live, whoever started them. Looks, and touches nothing.
    pub fn living(home: &Home) -> Result<Vec<Incarnation>, BackendError> {
        let run = RunDir::at(&home.run_dir);
        let living = || {
            let store = Store::open(run.workers_dir())?;
            let mut living = Vec::new();
            for state in store.read_all()?.into_iter().filter(|state| state.boot == store.boot()) {
                let process = state.process.or_else(|| procfs::find_worker(&state.life, &run.link_socket()));
                if let Some(process) = process
                    && process.open()?.is_some()
                {
                    living.push(state.life);
                }
            }
            Ok(living)
        };
        living().map_err(refused("list", "process workers"))
    }
}

#[async_trait]
impl Backend for ProcessBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Process
    }

    async fn spawn(&self, order: &SpawnOrder) -> Result<Unit, BackendError> {
        let (inner, order) = (Arc::clone(&self.0), order.clone());
        let subject = order.life.to_string();
        blocking(move || inner.start(&order).inspect_err(|_| inner.forget(&order.life)))
            .await
            .map_err(refused("start", subject))
    }

    async fn signal(&self, life: &Incarnation, unit: &Unit, signal: i32) -> Result<(), BackendError> {
        let subject = life.to_string();
        let process = process_of(unit).map_err(refused("signal", &subject))?;
        let signal = Signal::from_named_raw(signal)
            .ok_or(Trouble::NoSignal(signal))
            .map_err(refused("signal", &subject))?;
        let Some(pidfd) = process.open().map_err(refused("signal", &subject))? else {
            return Err(BackendError::Gone { subject });
        };
        let sent = match signal {
            // The process was alive a moment ago, and nobody's number comes around again so soon. It may have left its
            // own group: what it can leave behind there dies with the group, it dies itself in any case.
            Signal::KILL => {
                let _already_gone = kill_process_group(process.pid(), signal);
                pidfd_send_signal(&pidfd, signal)
            }
            _ => pidfd_send_signal(&pidfd, signal),
        };
        match sent {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::SRCH) => Err(BackendError::Gone { subject }),
            Err(error) => Err(refused("signal", &subject)(process.trouble("signal", error))),
        }
    }

    async fn remove(&self, life: &Incarnation, unit: &Unit) -> Result<(), BackendError> {
        let known = self.0.lives().get(life).cloned();
        let dead = process_of(unit).and_then(|process| match known {
            Some(Life::Dead(_)) => Ok(()),
            None if process.open()?.is_none() => Ok(()),
            // Perhaps dead by now; but then its death is still to be reported.
            _ => Err(Trouble::Alive(process.number())),
        });
        dead.map_err(refused("remove", life))?;
        self.0.forget(life);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Found>, BackendError> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.list()).await.map_err(refused("list", "process workers"))
    }

    async fn logs(&self, life: &Incarnation, _: &Unit, lines: usize) -> Result<Vec<String>, BackendError> {
        let path = self.0.store.output_path(life);
        blocking(move || output::tail(&path, lines)).await.map_err(refused("read the output of", life))
    }

    fn watch(self: Arc<Self>) -> mpsc::Receiver<Sighting> {
        let weak = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TRIM_EVERY);
            loop {
                ticks.tick().await;
                let Some(inner) = weak.upgrade() else { return };
                inner.store.outputs().iter().for_each(|path| output::trim(path));
            }
        });
        let receiver = self.0.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        receiver.unwrap_or_else(|| {
            tracing::error!("the process backend is watched already; this watcher will see nothing");
            mpsc::channel(1).1
        })
    }
}

impl Inner {
    fn lives(&self) -> MutexGuard<'_, HashMap<Incarnation, Life>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Intent, process, state, watch: in this order, see the head of this file.
    fn start(self: &Arc<Self>, order: &SpawnOrder) -> Result<Unit, Trouble> {
        let life = &order.life;
        let user = self.claim_user(life);
        let limits = limits::of(&order.pool.worker.limits, user);
        let state = State {
            life: life.clone(),
            spec_hash: order.spec_hash.clone(),
            started_at: Stamp::now(),
            boot: self.store.boot().to_owned(),
            memory_limit_bytes: limits.memory_bytes,
            user,
            process: None,
        };
        self.store.write(&state)?;
        let output = output::create(&self.store.output_path(life))?;
        let errors = output.try_clone().map_err(|source| Trouble::File {
            operation: "share",
            path: self.store.output_path(life),
            source,
        })?;
        let mut command = Command::new(&self.program);
        command
            .args(arguments(order, &self.run.link_socket(), &limits))
            .env_clear()
            .env(TOKEN_VARIABLE, order.token.to_string())
            .envs(order.tunnel_ca().map(|ca| (TUNNEL_CA_VARIABLE, ca)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0);
        let child =
            command.spawn().map_err(|source| Trouble::Program { program: self.program.clone(), source })?;
        Ok(watch::start(self, state, child)?.unit())
    }

    /// A user for this life that no other live worker has; none unless we are root.
    fn claim_user(&self, life: &Incarnation) -> Option<u32> {
        let mut lives = self.lives();
        let user = rustix::process::geteuid().is_root().then(|| {
            let taken = lives.values().filter_map(|life| match life {
                Life::Starting { user } | Life::Watched { user } => *user,
                Life::Dead(_) => None,
            });
            let taken: HashSet<_> = taken.collect();
            limits::user(&life.worker, |user| taken.contains(&user) || limits::runs_something(user))
        });
        lives.insert(life.clone(), Life::Starting { user });
        user
    }

    fn forget(&self, life: &Incarnation) {
        self.store.remove(life);
        self.lives().remove(life);
    }

    fn list(self: &Arc<Self>) -> Result<Vec<Found>, Trouble> {
        let _one_at_a_time = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for state in self.store.read_all()? {
            let known = self.lives().get(&state.life).cloned();
            if matches!(known, Some(Life::Starting { .. })) {
                continue;
            }
            let Some(process) = state.process.or_else(|| self.find_orphan(&state)) else {
                // An intent that came to nothing: no process was ever there.
                self.forget(&state.life);
                continue;
            };
            let vital = match known {
                Some(Life::Dead(autopsy)) => Vital::Dead(autopsy),
                Some(Life::Starting { .. } | Life::Watched { .. }) => {
                    Vital::Alive { since: state.started_at.into() }
                }
                None => self.adopt(&state, process)?,
            };
            found.push(Found { life: state.life, unit: process.unit(), spec_hash: state.spec_hash, vital });
        }
        Ok(found)
    }

    /// The process that an intent led to, if whoever wrote it died before it could write that down.
    fn find_orphan(&self, intent: &State) -> Option<Process> {
        if intent.boot != self.store.boot() {
            return None;
        }
        let process = procfs::find_worker(&intent.life, &self.run.link_socket())?;
        let state = State { process: Some(process), ..intent.clone() };
        if let Err(error) = self.store.write(&state) {
            // It is found again the next time.
            tracing::warn!(life = %intent.life, error = &error as &dyn std::error::Error, "cannot note a found worker");
        }
        Some(process)
    }

    /// Begins to watch a worker that an earlier controller started, if it lives.
    fn adopt(self: &Arc<Self>, state: &State, process: Process) -> Result<Vital, Trouble> {
        let pidfd = if state.boot == self.store.boot() { process.open()? } else { None };
        match pidfd {
            Some(pidfd) => {
                watch::adopt(self, state.clone(), process, pidfd)?;
                Ok(Vital::Alive { since: state.started_at.into() })
            }
            None => Ok(Vital::Dead(self.autopsy(&state.life, Cause::Lost))),
        }
    }

    fn autopsy(&self, life: &Incarnation, cause: Cause) -> Autopsy {
        let path = self.store.output_path(life);
        let last_output = output::tail(&path, LAST_LINES).unwrap_or_default();
        // The kernel keeps no date of a process's death.
        // A process has given back its memory, and the account of it, by the time its parent hears of its end.
        Autopsy { cause, died_at: None, peak_memory_bytes: None, last_output }
    }
}

fn process_of(unit: &Unit) -> Result<Process, Trouble> {
    match unit {
        Unit::Process { pid, started_ticks } => {
            Process::try_from(Numbers { pid: *pid, started_ticks: *started_ticks })
        }
        Unit::Container { .. } | Unit::Pod { .. } => Err(Trouble::Container),
    }
}

fn refused(operation: &'static str, subject: impl std::fmt::Display) -> impl FnOnce(Trouble) -> BackendError {
    let subject = subject.to_string();
    move |trouble| BackendError::Refused { operation, subject, source: Box::new(trouble) }
}

/// Runs what waits for the disk where it holds up nobody. What has begun is finished even if nobody waits for
/// it any more, so that no process is started and then forgotten.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|unfinished| match unfinished.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(Trouble::ShuttingDown),
    })
}
