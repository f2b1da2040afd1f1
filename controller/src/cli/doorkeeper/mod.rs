//! Who sees to it that there is a door: `up` starts one as a process of its own, or adopts the one it finds.
//!
//! ```text
//!  engage ── a door of our build listens on the control socket, and serves these pools ──► adopted ─┐
//!     ├───── it serves others, or is of another build: SIGTERM, until it has drained ──┐            ├─ answers ─► keep
//!     ├───── it says nothing, not even its version: it hangs; SIGKILL ─────────────────┤            │
//!     └───── nobody listens ───────────────────────────────────────────────────────────┴─► spawned ─┘
//! ```
//! A door of another build could not be talked to: door and controller of different versions refuse each other. Its
//! workers dial the next one; whose own link is of another version is refused there, and replaced.
//!
//! The door is in a process group of its own, so that Ctrl-C in a terminal reaches `up` alone, which then drains
//! in order; and it is nobody's to kill when `up` dies: it serves on, and the next `up` adopts it.
//!
//! It gets nothing of `up`'s environment but what says how to log, for it faces strangers and needs nothing else; it
//! runs as the same user. Its log is cut back when it has grown large.
//!
//! A kept door that hangs is killed ([`KeptDoor::replace`]), which is the one thing that is ever killed for silence: it
//! serves nobody, and its workers live on.
//!
//! A kept door that dies is started again, with the spec as it is by then: at once, then after 100 ms, doubling up to 10 s, from the start again
//! once it has lived for 10 s. Its workers dial it again by themselves; clients' connections are lost with it. A
//! door that cannot even start (a port is taken, say) is an error of [`Door::answers`], told in its own words.

mod process;
mod question;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::FutureExt;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use server::control::VERSION;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use self::process::Process;
pub(super) use self::question::{VERSION_PATIENCE, Wanted, probe};
use self::question::{ask_version, dial};
use crate::bounded;
use crate::rundir::RunDir;

/// How long a new door may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// What the door gets of our environment.
const PASSED_ON: [&str; 2] = ["RUST_LOG", "RUST_BACKTRACE"];

/// How often its log is looked at for having grown too large.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// How many times it is asked before it counts as hanging, which is the end of it.
const ASKED: usize = 3;

/// How often a new door is asked.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// How a door is started.
#[derive(Debug, Clone)]
pub(super) struct Doorway {
    /// The program: this one.
    pub(super) program: PathBuf,
    /// Where it meets controller and workers.
    pub(super) run_dir: RunDir,
}

/// A door that runs, and that nobody watches yet.
#[derive(Debug)]
pub(super) struct Door {
    doorway: Doorway,
    process: Process,
    /// Whether it was there before us.
    pub(super) adopted: bool,
}

/// A door that is started again when it dies.
#[derive(Debug)]
pub(super) struct KeptDoor {
    doorway: Doorway,
    wish: watch::Sender<Wish>,
    hangs: Arc<Notify>,
    next: NextSpec,
    keeper: JoinHandle<()>,
}

/// What the next door is to be started with, where that is another spec than this one's.
type NextSpec = Arc<Mutex<Option<String>>>;

/// What is wanted of a kept door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Serve; be started again if need be.
    Serve,
    /// It has been told to leave, by somebody else.
    Leave,
    /// Be gone, now.
    Die,
}

impl Doorway {
    /// Adopts the door that answers, or starts one that serves what `spec` says. `same_pools` tells from the spec
    /// of the one that answers whether it serves that already; if not, it is drained first, within `patience`.
    ///
    /// Dropped half-way, it has started nothing.
    pub(super) async fn engage(
        self,
        spec: &str,
        same_pools: impl FnOnce(&str) -> bool,
        patience: Duration,
    ) -> anyhow::Result<Door> {
        if let Some((mut process, stream)) = self.find().await? {
            match self.ask_version(stream).await {
                Some(VERSION) if fs::read_to_string(self.spec()).is_ok_and(|stored| same_pools(&stored)) => {
                    return Ok(Door { doorway: self, process, adopted: true });
                }
                Some(VERSION) => {
                    tracing::info!(
                        "the door of an earlier run serves other pools: it is drained and replaced"
                    );
                    process.end(patience).await;
                }
                Some(theirs) => {
                    tracing::warn!(
                        theirs,
                        ours = VERSION,
                        "the door of an earlier run is of another build: it is drained and replaced"
                    );
                    process.end(patience).await;
                }
                None => {
                    tracing::warn!("the door of an earlier run hangs: it is killed and replaced");
                    process.signal(Signal::KILL);
                    process.exited().await;
                }
            }
        }
        store(&self.spec(), spec)?;
        let log =
            bounded::create(&self.log()).with_context(|| format!("cannot write {}", self.log().display()))?;
        let process = self.spawn(log)?;
        Ok(Door { doorway: self, process, adopted: false })
    }

    /// The file that the door logs to.
    pub(super) fn log(&self) -> PathBuf {
        self.run_dir.control_dir().join("door.log")
    }

    /// What the door before this one was started with.
    pub(super) fn stored_spec(&self) -> Option<String> {
        fs::read_to_string(self.spec()).ok()
    }

    fn spec(&self) -> PathBuf {
        self.run_dir.control_dir().join("spec.yaml")
    }

    /// The door that listens on the control socket, if one does, and a connection to it.
    async fn find(&self) -> anyhow::Result<Option<(Process, UnixStream)>> {
        let socket = self.run_dir.control_socket();
        let process = async {
            let Some(stream) = dial(&socket).await? else { return Ok(None) };
            // The kernel's word, not the door's: whose process listens on this socket.
            let Some(pid) = stream.peer_cred()?.pid().and_then(Pid::from_raw) else {
                return Err(io::Error::other("it is in another pid namespace: stop it where it was started"));
            };
            let pidfd = server::sys::watch(pidfd_open(pid, PidfdFlags::empty())?, Interest::READABLE)?;
            Ok(Some((Process::Adopted(pidfd), stream)))
        };
        process.await.with_context(|| format!("cannot adopt the door at {}", socket.display()))
    }

    /// Which version it speaks; `None` when it has not said although it was asked [`ASKED`] times, each time on a
    /// connection of its own: one may have been lost in a door that was busy giving up others.
    async fn ask_version(&self, stream: UnixStream) -> Option<u32> {
        let mut stream = Some(stream);
        for _ in 0..ASKED {
            if let Some(stream) = stream.take()
                && let Some(version) = ask_version(stream).await
            {
                return Some(version);
            }
            stream = dial(&self.run_dir.control_socket()).await.ok().flatten();
        }
        None
    }

    fn spawn(&self, log: File) -> anyhow::Result<Process> {
        let passed_on = PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let child = Command::new(&self.program)
            .env_clear()
            .envs(passed_on)
            .current_dir("/")
            .arg("door")
            .arg("--run-dir")
            .arg(self.run_dir.path())
            .arg("--spec")
            .arg(self.spec())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start a door ({})", self.program.display()))?;
        Ok(Process::Own(child))
    }

    fn spawn_again(&self) -> anyhow::Result<Process> {
        let log = bounded::append(&self.log());
        self.spawn(log.with_context(|| format!("cannot write {}", self.log().display()))?)
    }
}

impl Door {
    /// Waits until it answers on its control socket.
    ///
    /// # Errors
    /// It exited instead; the error has its last words. Or it is there and does not answer.
    pub(super) async fn answers(&mut self) -> anyhow::Result<()> {
        let socket = self.doorway.run_dir.control_socket();
        let answered = async {
            while dial(&socket).await?.is_none() {
                tokio::time::sleep(ASK_EVERY).await;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            biased;
            how = self.process.exited() => {
                bail!("the door {how} before it served\n{}", last_words(&self.doorway.log()))
            }
            answered = tokio::time::timeout(START_PATIENCE, answered) => match answered {
                Ok(answered) => answered.with_context(|| format!("cannot reach the door at {}", socket.display())),
                Err(_) => bail!(
                    "the door does not answer at {} after {} s; its log is {}",
                    socket.display(), START_PATIENCE.as_secs(), self.doorway.log().display()
                ),
            }
        }
    }

    /// Drains it and waits until it is gone; cut off after `patience`.
    pub(super) async fn dismiss(mut self, patience: Duration) {
        self.process.end(patience).await;
    }

    /// Watches it from now on, and starts it again when it dies.
    pub(super) fn keep(self) -> KeptDoor {
        let (wish, wishes) = watch::channel(Wish::Serve);
        let hangs = Arc::new(Notify::new());
        let next = NextSpec::default();
        let keeping = keep(self.doorway.clone(), self.process, wishes, Arc::clone(&hangs), Arc::clone(&next));
        let keeper = tokio::spawn(keeping);
        KeptDoor { doorway: self.doorway, wish, hangs, next, keeper }
    }
}

impl KeptDoor {
    /// Starts it with `spec` from the next time on.
    pub(super) fn remember(&self, spec: &str) -> anyhow::Result<()> {
        store(&self.doorway.spec(), spec)
    }

    /// Starts it with `spec` the next time that it is started, whenever that is. Until then its own spec is the one that
    /// it was started with: by that the next `up` tells whether it can adopt it.
    pub(super) fn remember_for_the_next(&self, spec: String) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(spec);
    }

    /// It hangs: it is killed, and started again.
    pub(super) fn replace(&self) {
        self.hangs.notify_one();
    }

    /// Somebody is about to tell it to leave: let it go when it does.
    pub(super) fn expect_exit(&self) {
        self.wish.send_replace(Wish::Leave);
    }

    /// Kills it.
    pub(super) fn kill(&self) {
        self.wish.send_replace(Wish::Die);
    }

    /// Waits until it is gone, and kills it when it still is not after `patience`. True when it left by itself.
    pub(super) async fn gone(mut self, patience: Duration) -> bool {
        if tokio::time::timeout(patience, &mut self.keeper).await.is_ok() {
            return true;
        }
        self.kill();
        // The kernel takes a moment at most; a process that it cannot end (a broken disk) we cannot either.
        let _ = tokio::time::timeout(Duration::from_secs(5), &mut self.keeper).await;
        false
    }
}

async fn keep(
    doorway: Doorway,
    mut process: Process,
    mut wishes: watch::Receiver<Wish>,
    hangs: Arc<Notify>,
    next: NextSpec,
) {
    let mut deaths_in_a_row = 0;
    let mut born = Instant::now();
    let mut trims = tokio::time::interval(TRIM_EVERY);
    loop {
        let how = tokio::select! {
            how = process.exited() => how,
            () = hangs.notified() => {
                tracing::error!(log = %doorway.log().display(), "the door hangs; it is killed");
                process.signal(Signal::KILL);
                continue;
            }
            _ = trims.tick() => {
                if let Err(error) = bounded::cut_back(&doorway.log()) && error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, log = %doorway.log().display(), "cannot cut back the door's log");
                }
                continue;
            }
            changed = wishes.changed() => {
                if changed.is_err() {
                    return;
                }
                if *wishes.borrow_and_update() == Wish::Die {
                    process.signal(Signal::KILL);
                }
                continue;
            }
        };
        if *wishes.borrow() != Wish::Serve {
            return;
        }
        deaths_in_a_row = if born.elapsed() >= LONGEST_WAIT { 1 } else { deaths_in_a_row + 1 };
        let wait = wait_before(deaths_in_a_row);
        tracing::error!(log = %doorway.log().display(), ?wait, "the door {how}; it is started again");
        process = match revive(&doorway, wait, &mut wishes, &next).await {
            Some(process) => process,
            None => return,
        };
        born = Instant::now();
        // Whatever was said of the last one is not about this one.
        let _ = hangs.notified().now_or_never();
    }
}

/// Another door after `wait`, tried until there is one; `None` when none is wanted any more.
async fn revive(
    doorway: &Doorway,
    mut wait: Duration,
    wishes: &mut watch::Receiver<Wish>,
    next: &NextSpec,
) -> Option<Process> {
    loop {
        let unwanted = wishes.wait_for(|wish| *wish != Wish::Serve);
        if tokio::time::timeout(wait, unwanted).await.is_ok() {
            return None;
        }
        let spec = next.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(spec) = spec
            && let Err(error) = store(&doorway.spec(), &spec)
        {
            tracing::error!("{error:#}: the next door is started with the spec of the last one");
        }
        match doorway.spawn_again() {
            Ok(process) => return Some(process),
            Err(error) => {
                wait = LONGEST_WAIT;
                tracing::error!(?wait, "{error:#}; tried again");
            }
        }
    }
}

/// The longest wait between two doors, and how long one has to live to be forgiven its predecessors.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long to wait before a door is started that follows on so many that died young.
fn wait_before(deaths_in_a_row: u32) -> Duration {
    match deaths_in_a_row {
        0 | 1 => Duration::ZERO,
        more => Duration::from_millis(100).saturating_mul(1 << (more - 2).min(10)).min(LONGEST_WAIT),
    }
}

/// Writes a file so that it is there whole or not at all.
fn store(path: &Path, text: &str) -> anyhow::Result<()> {
    let draft = path.with_extension("new");
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// What the door complained of in the end, indented: from its last complaint on, or its last lines.
fn last_words(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let complaint = lines.iter().rposition(|line| line.starts_with("bulkhead: "));
    let from = complaint.unwrap_or(lines.len().saturating_sub(5));
    let words: Vec<_> = lines.iter().skip(from).map(|line| format!("  {line}")).collect();
    if words.is_empty() { "  and said nothing".to_owned() } else { words.join("\n") }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests;
