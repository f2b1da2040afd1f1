//! Two real doors, a real supervisor between them, and plain processes as workers, which dial over TLS.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use controller::backend::Home;
use controller::backend::process::ProcessBackend;
use controller::certificates::{Authority, files, today};
use controller::door::{Address, Approach, Site};
use controller::model::StopScope;
use controller::rundir::RunDir;
use controller::spec::{self, Deployment};
use controller::supervisor::{self, Config, Dialling, Doors, Handle, Scales};
use futures_util::{FutureExt as _, StreamExt as _};
use server::identity::Secret;

const DEADLINE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_bulkhead");

/// A door, killed when the test is over.
struct Door {
    directory: PathBuf,
    web: u16,
    tunnel: u16,
    process: Option<Child>,
}

impl Door {
    fn new(temp: &Path, name: &str) -> Self {
        let directory = temp.join(name);
        RunDir::at(&directory).create().unwrap();
        let mut door = Self { directory, web: free_port(), tunnel: free_port(), process: None };
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

    fn site(&self, name: &str) -> Site {
        Site { name: name.to_owned(), address: Address::There(format!("127.0.0.1:{}", self.tunnel)) }
    }

    /// The workers that hold requests which have come in here, while more are asked for than this door can have.
    async fn workers(&self, master: &Handle) -> BTreeSet<String> {
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(Duration::from_secs(5));
        let client = client.build().unwrap();
        let path = format!("/work?ms=200&at={}", self.web);
        let ask = || client.get(format!("http://127.0.0.1:{}{path}", self.web)).send();
        let mut asked = std::pin::pin!(futures_util::future::join_all((0..4).map(|_| ask())));
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

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
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

#[tokio::test(flavor = "current_thread")]
async fn workers_are_dealt_out_evenly_and_survive_a_door() {
    let temp = tempfile::tempdir().unwrap();
    let authority = Authority::new(today()).unwrap();
    let identity = authority.door(today()).unwrap();
    let directory = temp.path().join("identity");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join(files::DOOR), identity.certificate).unwrap();
    fs::write(directory.join(files::DOOR_KEY), identity.key).unwrap();
    fs::write(directory.join(files::SECRET), "5a".repeat(32)).unwrap();

    let (mut a, b) = (Door::new(temp.path(), "a"), Door::new(temp.path(), "b"));
    let deployment = spec::parse("a.yaml", &a.text()).unwrap();
    let master = supervise(temp.path(), &deployment, &[a.site("a"), b.site("b")], &authority);
    let told = AssertUnwindSafe(story(&master, &mut a, &b)).catch_unwind().await;
    let summary = master.stop(StopScope::WorkersOnly, Duration::from_secs(5)).await.unwrap();
    if let Err(panic) = told {
        resume_unwind(panic);
    }
    assert_eq!((summary.clean, summary.killed, summary.verified), (4, 0, true));
}

async fn story(master: &Handle, a: &mut Door, b: &Door) {
    a.has(2, master, "at first").await;
    b.has(2, master, "at first").await;
    assert!(a.workers(master).await.is_disjoint(&b.workers(master).await));

    a.kill();
    b.has(4, master, "when the other has died").await;

    a.start();
    a.has(2, master, "when it is there again").await;
    b.has(2, master, "when the other is there again").await;

    let incidents = master.incidents().await.unwrap();
    assert!(incidents.is_empty(), "nobody has died: {incidents:?}");
    let workers = master.workers().await.unwrap();
    assert!(workers.iter().all(|worker| worker.generation == 1), "and nobody was replaced: {workers:?}");
}
