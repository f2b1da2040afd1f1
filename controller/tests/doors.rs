//! Two real doors, a real supervisor between them, and plain processes as workers, which dial over TLS.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../tests/rig/ports.rs"]
mod ports;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use controller::backend::Home;
use controller::backend::process::ProcessBackend;
use controller::certificates::{Authority, files, today};
use controller::door::{Address, Approach, Site};
use controller::model::StopScope;
use controller::rundir::RunDir;
use controller::spec::{self, Deployment};
use controller::supervisor::{self, Config, Dialling, Doors, Handle, Scales};
use futures_util::{FutureExt as _, StreamExt as _};
use ports::free_ports;
use rustix::process::{Pid, Signal, kill_process};
use server::identity::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_bulkhead");

/// A door, killed when the test is over.
struct Door {
    directory: PathBuf,
    web: u16,
    tunnel: u16,
    /// For how long it serves on when it is told to go.
    linger: Duration,
    process: Option<Child>,
}

impl Door {
    fn new(temp: &Path, name: &str, linger: Duration) -> Self {
        let directory = temp.join(name);
        RunDir::at(&directory).create().unwrap();
        let [web, tunnel] = free_ports();
        let mut door = Self { directory, web, tunnel, linger, process: None };
        fs::write(door.spec(), door.text()).unwrap();
        door.start();
        door
    }

    fn spec(&self) -> PathBuf {
        self.directory.with_extension("yaml")
    }

    fn text(&self) -> String {
        format!(
            "backend: process
link: tunnel
tunnel: {{ listen: 127.0.0.1:{}, tls: true }}
pools:
  web:
    listen: 127.0.0.1:{}
    size: {{ workers: 4 }}
    worker: {{ limits: {{ pids: none }} }}
",
            self.tunnel, self.web
        )
    }

    fn start(&mut self) {
        let identity = self.directory.with_file_name("identity");
        let door = Command::new(PROGRAM)
            .arg("door")
            .args([Path::new("--run-dir"), &self.directory, Path::new("--spec"), &self.spec()])
            .args([Path::new("--tunnel-identity"), &identity])
            .args(["--linger", &spec::spell_time(self.linger)])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(door.unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut door) = self.process.take() {
            door.kill().unwrap();
            door.wait().unwrap();
        }
    }

    fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.process.as_ref().unwrap()), signal).unwrap();
    }

    /// What a cluster's probe comes to.
    fn is_well(&self) -> bool {
        let probe = Command::new(PROGRAM)
            .args(["door", "--probe", "--run-dir"])
            .arg(&self.directory)
            .stderr(Stdio::null())
            .status();
        probe.unwrap().success()
    }

    /// Waits until it has gone of its own accord.
    async fn has_gone(&mut self) {
        let mut door = self.process.take().unwrap();
        let ended = tokio::task::spawn_blocking(move || door.wait());
        let ended = tokio::time::timeout(DEADLINE, ended).await.unwrap().unwrap();
        assert!(ended.unwrap().success());
    }

    /// A connection to it.
    async fn connect(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(("127.0.0.1", self.web)).await
    }

    fn site(&self, name: &str) -> Site {
        Site {
            name: name.to_owned(),
            address: Address::There(format!("127.0.0.1:{}", self.tunnel)),
            machine: None,
        }
    }

    /// The workers that hold requests which have come in here, while more are asked for than this door can have.
    async fn workers(&self, master: &Handle) -> BTreeSet<String> {
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(Duration::from_secs(5));
        let client = client.build().unwrap();
        let path = format!("/work?ms=200&at={}", self.web);
        let ask = || client.get(format!("http://127.0.0.1:{}{path}", self.web)).send();
        let mut asked = std::pin::pin!(futures_util::future::join_all((0..6).map(|_| ask())));
        let mut seen = BTreeSet::new();
        loop {
            let workers = tokio::select! {
                biased;
                _ = &mut asked => return seen,
                workers = master.workers() => workers.unwrap(),
            };
            let ours = |held: &controller::api::views::HoldingView| held.request.ends_with(&path);
            seen.extend(workers.into_iter().filter(|it| it.holding.iter().any(ours)).map(|it| it.id));
        }
    }

    /// Waits until so many workers are at this door.
    async fn has(&self, number: usize, master: &Handle, when: &str) {
        let mut last = BTreeSet::new();
        let wait = async {
            while last.len() != number {
                last = self.workers(master).await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, wait).await;
        assert!(waited.is_ok(), "{when}: {last:?} are at {}, and not {number}", self.directory.display());
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The connection is kept for another request.
    Kept,
    /// It was said to be the last, and the connection has ended.
    Last,
}

/// Asks for a head and reads it.
async fn ask(connection: &mut TcpStream) -> std::io::Result<Answer> {
    connection.write_all(b"HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    if !head.contains("\r\nconnection: close\r\n") {
        return Ok(Answer::Kept);
    }
    assert_eq!(connection.read_to_end(&mut Vec::new()).await?, 0, "behind the last answer");
    Ok(Answer::Last)
}

fn supervise(temp: &Path, deployment: &Deployment, doors: &[Site; 2], authority: &Authority) -> Handle {
    let secret = secret();
    let run_dir = RunDir::at(temp.join("controller"));
    run_dir.create().unwrap();
    let home =
        Home { owner: "doors".to_owned(), run_dir: run_dir.path().to_owned(), program: PROGRAM.into() };
    let sites = futures_util::stream::iter([doors.to_vec()]).boxed();
    let approach = Approach::new(secret.clone(), Some(&authority.certificate)).unwrap();
    let ca = Some(authority.certificate.clone());
    supervisor::start(Config {
        pools: deployment.pools.clone(),
        secret,
        doors: Doors { sites, approach },
        dialling: Some(Dialling { tls: true, ca, ..Dialling::default() }),
        backend: Arc::new(ProcessBackend::new(&home).unwrap()),
        scales: Scales::left_at(run_dir.scale(), &deployment.pools),
    })
}

fn secret() -> Secret {
    Secret::new([0x5a; 32])
}

/// Makes what doors prove by who they are.
fn identify(temp: &Path) -> Authority {
    let authority = Authority::new(today()).unwrap();
    let identity = authority.door(today()).unwrap();
    let directory = temp.join("identity");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join(files::DOOR), identity.certificate).unwrap();
    fs::write(directory.join(files::DOOR_KEY), identity.key).unwrap();
    fs::write(directory.join(files::SECRET), "5a".repeat(32)).unwrap();
    authority
}

/// Tells a story of two doors that share four workers, and of whom the first lingers for so long.
async fn tell(linger: Duration, story: impl AsyncFnOnce(&Handle, &mut Door, &Door)) {
    let temp = tempfile::tempdir().unwrap();
    let authority = identify(temp.path());
    let mut a = Door::new(temp.path(), "a", linger);
    let b = Door::new(temp.path(), "b", Duration::ZERO);
    let deployment = spec::parse("a.yaml", &a.text()).unwrap();
    let master = supervise(temp.path(), &deployment, &[a.site("a"), b.site("b")], &authority);
    let told = async {
        a.has(2, &master, "at first").await;
        b.has(2, &master, "at first").await;
        story(&master, &mut a, &b).await;
        let incidents = master.incidents().await.unwrap();
        assert!(incidents.is_empty(), "nobody has died: {incidents:?}");
        let workers = master.workers().await.unwrap();
        assert!(workers.iter().all(|worker| worker.generation == 1), "and nobody was replaced: {workers:?}");
    };
    let told = AssertUnwindSafe(told).catch_unwind().await;
    let summary = master.stop(StopScope::WorkersOnly, Duration::from_secs(5)).await.unwrap();
    if let Err(panic) = told {
        resume_unwind(panic);
    }
    assert_eq!((summary.killed, summary.verified), (0, true));
}

#[tokio::test(flavor = "current_thread")]
async fn workers_are_dealt_out_evenly_and_survive_a_door() {
    tell(Duration::ZERO, async |master, a, b| {
        assert!(a.workers(master).await.is_disjoint(&b.workers(master).await));

        a.kill();
        b.has(4, master, "when the other has died").await;

        a.start();
        a.has(2, master, "when it is there again").await;
        b.has(2, master, "when the other is there again").await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_door_that_lingers_serves_newcomers_and_sends_them_elsewhere() {
    // Longer than anybody waits: the second signal ends it.
    tell(Duration::from_secs(600), async |master, a, b| {
        let mut parked = a.connect().await.unwrap();
        assert_eq!(ask(&mut parked).await.unwrap(), Answer::Kept);
        a.terminate();
        let heard = async {
            let newcomer = async || ask(&mut a.connect().await?).await;
            while newcomer().await.unwrap() != Answer::Last {}
        };
        tokio::time::timeout(DEADLINE, heard).await.unwrap();
        assert_eq!(ask(&mut parked).await.unwrap(), Answer::Last, "to one who was there before");

        master.scale(&"web".parse().unwrap(), 5).await.unwrap();
        b.has(3, master, "when somebody new is ordered").await;
        a.has(2, master, "while it lingers").await;

        a.terminate();
        a.has_gone().await;
        assert!(a.connect().await.is_err(), "somebody listens still");
        b.has(5, master, "when the other has gone").await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_linger_ends() {
    tell(Duration::from_millis(500), async |master, a, b| {
        a.terminate();
        a.has_gone().await;
        b.has(4, master, "when the other has gone").await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_probe_finds_out_a_door_that_hangs() {
    let temp = tempfile::tempdir().unwrap();
    identify(temp.path());
    let door = Door::new(temp.path(), "a", Duration::ZERO);
    let started = Instant::now();
    while !door.is_well() {
        assert!(started.elapsed() < DEADLINE, "the door does not come");
    }
    door.signal(Signal::STOP);
    assert!(door.connect().await.is_ok(), "its kernel accepts for it");
    assert!(!door.is_well(), "it was taken for well");
    door.signal(Signal::CONT);
    assert!(door.is_well(), "it goes on");
}
