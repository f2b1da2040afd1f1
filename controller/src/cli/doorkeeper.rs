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

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::FutureExt;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use server::control::{ASKS_VERSION, LONGEST_LINE, Order, VERSION};
use server::identity::Secret;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::bounded;
use crate::rundir::RunDir;

/// How long a new door may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// What the door gets of our environment.
const PASSED_ON: [&str; 2] = ["RUST_LOG", "RUST_BACKTRACE"];

/// How often its log is looked at for having grown too large.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// How long a door that is there may take to say which version it speaks. Its event loop answers in microseconds, on a
/// machine that is very busy in tens of milliseconds.
const VERSION_PATIENCE: Duration = Duration::from_secs(5);

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

/// A process, ours or inherited.
#[derive(Debug)]
enum Process {
    Own(Child),
    Adopted(AsyncFd<OwnedFd>),
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

impl Process {
    /// Waits until it is gone and says how it went. May be asked again and again, and dropped.
    async fn exited(&mut self) -> String {
        match self {
            Self::Own(child) => match child.wait().await {
                Ok(status) => format!("ended ({status})"),
                Err(error) => format!("is lost ({error})"),
            },
            Self::Adopted(pidfd) => match pidfd.readable().await {
                // Left as it is: a pidfd stays readable once its process is gone.
                Ok(mut ready) => {
                    ready.retain_ready();
                    "ended".to_owned()
                }
                Err(error) => format!("is lost ({error})"),
            },
        }
    }

    /// Sends a signal. Whom it does not reach is gone already.
    fn signal(&self, signal: Signal) {
        let _ = match self {
            Self::Own(child) => {
                // While we have not waited for it, its pid is nobody else's.
                match child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
                    Some(pid) => kill_process(pid, signal),
                    None => Ok(()),
                }
            }
            Self::Adopted(pidfd) => pidfd_send_signal(pidfd.get_ref(), signal),
        };
    }

    /// SIGTERM, and SIGKILL when it is still there after `patience`.
    async fn end(&mut self, patience: Duration) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(patience, self.exited()).await.is_err() {
            self.signal(Signal::KILL);
            self.exited().await;
        }
    }
}

/// A connection to the control socket; `None` when nobody listens there (any more).
async fn dial(socket: &Path) -> io::Result<Option<UnixStream>> {
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
async fn ask_version(mut stream: UnixStream) -> Option<u32> {
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
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use tempfile::TempDir;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// A doorway whose door is a shell script. A script cannot listen: where the door is to answer, the test does.
    fn doorway(script: &str) -> (TempDir, Doorway) {
        let dir = TempDir::new().unwrap();
        let run_dir = RunDir::at(dir.path().join("run"));
        fs::create_dir_all(run_dir.control_dir()).unwrap();
        let program = dir.path().join("door.sh");
        fs::write(&program, format!("#!/bin/sh\ncd {}\n{script}\n", dir.path().display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        (dir, Doorway { program, run_dir })
    }

    /// The lines of a file that the script writes, once there are so many.
    async fn lines(path: &Path, number: usize) -> Vec<String> {
        let started = Instant::now();
        loop {
            let text = fs::read_to_string(path).unwrap_or_default();
            if text.lines().count() >= number && text.ends_with('\n') {
                return text.lines().map(str::to_owned).collect();
            }
            assert!(started.elapsed() < DEADLINE, "{} has only {text:?}", path.display());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn alive(pid: &str) -> bool {
        Path::new("/proc").join(pid).exists()
    }

    #[tokio::test]
    async fn a_door_that_cannot_start_is_told_in_its_own_words() {
        let (_dir, doorway) = doorway(
            "echo some log line >&2; echo 'bulkhead: cannot listen on pool \"web\" at 127.0.0.1:80' >&2; exit 1",
        );
        let mut door = doorway.engage("pools: {}", |_| true, DEADLINE).await.unwrap();
        let error = door.answers().await.unwrap_err().to_string();
        insta::assert_snapshot!(error, @r#"
        the door ended (exit status: 1) before it served
          bulkhead: cannot listen on pool "web" at 127.0.0.1:80
        "#);
    }

    #[tokio::test]
    async fn a_dead_door_is_started_again_and_an_expected_exit_is_not() {
        let (dir, doorway) = doorway("echo $$ >>pids; exec sleep 1000");
        let mut door = doorway.clone().engage("pools: {}", |_| true, DEADLINE).await.unwrap();
        assert!(!door.adopted);
        let _listener = UnixListener::bind(doorway.run_dir.control_socket()).unwrap();
        door.answers().await.unwrap();
        let kept = door.keep();
        let pids = dir.path().join("pids");

        let first = lines(&pids, 1).await[0].clone();
        kill_process(Pid::from_raw(first.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
        let second = lines(&pids, 2).await[1].clone();
        assert!(alive(&second) && second != first);

        kept.expect_exit();
        kill_process(Pid::from_raw(second.parse().unwrap()).unwrap(), Signal::TERM).unwrap();
        assert!(kept.gone(DEADLINE).await, "it left by itself");
        assert_eq!(lines(&pids, 2).await.len(), 2, "nobody started a third");
    }

    #[tokio::test]
    async fn a_door_that_is_started_again_has_the_spec_that_is_written_by_then() {
        let (dir, doorway) = doorway("cat run/control/spec.yaml >>specs; echo $$ >>pids; exec sleep 1000");
        let kept = doorway.clone().engage("pools: { old: {} }\n", |_| true, DEADLINE).await.unwrap().keep();
        let pids = dir.path().join("pids");
        let first = lines(&pids, 1).await[0].clone();
        kept.remember_for_the_next("pools: { new: {} }\n".to_owned());
        assert_eq!(
            fs::read_to_string(doorway.spec()).unwrap(),
            "pools: { old: {} }\n",
            "it has not changed yet"
        );
        kill_process(Pid::from_raw(first.parse().unwrap()).unwrap(), Signal::TERM).unwrap();
        lines(&pids, 2).await;
        assert_eq!(lines(&dir.path().join("specs"), 2).await, ["pools: { old: {} }", "pools: { new: {} }"]);
        kept.expect_exit();
        kept.kill();
        assert!(kept.gone(DEADLINE).await);
    }

    #[tokio::test]
    async fn a_door_that_hangs_is_started_again_when_it_is_to_be_replaced() {
        let (dir, doorway) = doorway("echo $$ >>pids; exec sleep 1000");
        let kept = doorway.engage("pools: {}", |_| true, DEADLINE).await.unwrap().keep();
        let pids = dir.path().join("pids");
        let first = lines(&pids, 1).await[0].clone();
        kill_process(Pid::from_raw(first.parse().unwrap()).unwrap(), Signal::STOP).unwrap();
        kept.replace();
        let second = lines(&pids, 2).await[1].clone();
        assert!(alive(&second) && !alive(&first));
        kept.expect_exit();
        kept.kill();
        assert!(kept.gone(DEADLINE).await);
        assert_eq!(lines(&pids, 2).await.len(), 2, "one replacement, and no more");
    }

    #[tokio::test]
    async fn the_door_gets_nothing_of_our_environment_and_its_log_is_bounded() {
        assert!(std::env::vars().any(|(name, _)| name.starts_with("CARGO")), "there is something to hide");
        let (dir, doorway) = doorway(
            "env >environment; yes 'a line of a log' | head -c 3000000 >&2; echo $$ >>pids; exec sleep 1000",
        );
        let door = doorway.clone().engage("pools: {}", |_| true, DEADLINE).await.unwrap();
        lines(&dir.path().join("pids"), 1).await;
        let kept = door.keep();
        let started = Instant::now();
        while fs::metadata(doorway.log()).unwrap().len() > bounded::KEPT {
            assert!(started.elapsed() < DEADLINE, "its log is not cut back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        kept.expect_exit();
        kept.kill();
        assert!(kept.gone(DEADLINE).await);
        let environment = lines(&dir.path().join("environment"), 1).await;
        // A shell adds these by itself.
        let own = ["PWD=", "OLDPWD=", "SHLVL=", "_=", "PATH="];
        let ours = |line: &&String| !own.iter().any(|name| line.starts_with(name)) && line.contains('=');
        let passed_on = |line: &String| PASSED_ON.iter().any(|name| line.starts_with(name));
        let leaked: Vec<_> = environment.iter().filter(ours).filter(|line| !passed_on(line)).collect();
        assert!(leaked.is_empty(), "{leaked:?}");
    }

    #[tokio::test]
    async fn a_door_that_does_not_go_is_cut_off() {
        let (dir, doorway) = doorway("trap '' TERM; echo $$ >>pids; while :; do sleep 0.1; done");
        let door = doorway.engage("pools: {}", |_| true, DEADLINE).await.unwrap();
        let pid = lines(&dir.path().join("pids"), 1).await[0].clone();
        door.dismiss(Duration::from_millis(50)).await;
        assert!(!alive(&pid));
    }

    #[test]
    fn doors_that_die_young_wait_longer_each_time() {
        let waits: Vec<_> = (1..=12).map(|deaths| wait_before(deaths).as_millis()).collect();
        assert_eq!(waits[..4], [0, 100, 200, 400]);
        assert!(waits.is_sorted());
        assert_eq!(wait_before(u32::MAX), LONGEST_WAIT);
    }
}
