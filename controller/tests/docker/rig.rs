//! A deployment of its own for each story, on the real engine, and a wire to the engine that can be cut.

use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use controller::backend::docker::{DockerBackend, DockerOptions};
use controller::backend::{Backend, Found, Home, Sighting, SpawnOrder, Unit};
use controller::model::Autopsy;
use controller::spec::{parse, spell_size};
use futures_util::FutureExt;
use libtest_mimic::Failed;
use server::identity::{Incarnation, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// How long anything may take before a story is given up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What each worker may have, in bytes.
pub(crate) const MEMORY: u64 = 32 << 20;

pub(crate) type Story = for<'a> fn(&'a Rig) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A deployment of its own on the real engine.
pub(crate) struct Rig {
    pub(crate) backend: Arc<DockerBackend>,
    pub(crate) home: Home,
    pub(crate) dir: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn run(story: Story) -> Result<(), Failed> {
        block_on(async {
            let rig = Rig::new().await?;
            let outcome = AssertUnwindSafe(story(&rig)).catch_unwind().await;
            rig.clear().await?;
            match outcome {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
        .map_err(|error| Failed::from(format!("{error:#}")))
    }

    pub(crate) async fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        // Workers are nobody in particular, and must get through to the link directory.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
        fs::create_dir(dir.path().join("link"))?;
        let owner = format!("test of {}", dir.path().display());
        let home = Home { owner, run_dir: dir.path().to_owned(), program: std::env::current_exe()? };
        let backend = Arc::new(DockerBackend::connect(&home, &DockerOptions::default()).await?);
        Ok(Self { backend, home, dir })
    }

    pub(crate) async fn second(&self, owner: &str) -> Result<DockerBackend> {
        let home = Home { owner: owner.to_owned(), ..self.home.clone() };
        Ok(DockerBackend::connect(&home, &DockerOptions::default()).await?)
    }

    async fn clear(&self) -> Result<()> {
        // Another backend's listing has no starts of its own to leave out.
        for found in self.second(&self.home.owner).await?.list().await? {
            self.backend.remove(&found.life, &found.unit).await?;
        }
        Ok(())
    }

    pub(crate) fn watch(&self) -> mpsc::Receiver<Sighting> {
        Arc::clone(&self.backend).watch()
    }

    pub(crate) async fn spawn(&self, life: &str) -> Result<Unit> {
        Ok(self.backend.spawn(&order(life)?).await?)
    }

    pub(crate) fn door(&self) -> Result<UnixListener> {
        let path = self.dir.path().join("link/door.sock");
        let door = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        Ok(door)
    }

    pub(crate) async fn only(&self) -> Result<Found> {
        let mut found = self.backend.list().await?;
        ensure!(found.len() == 1, "{found:?}");
        found.pop().context("none")
    }

    /// Waits until a worker has written a line.
    pub(crate) async fn says(&self, unit: &Unit, name: &str, line: &str) -> Result<()> {
        let life = life(name)?;
        let waiting = async {
            while !self.backend.logs(&life, unit, 5).await?.iter().any(|said| said == line) {
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        timeout(DEADLINE, waiting).await.with_context(|| format!("{name} never said {line:?}"))?
    }
}

pub(crate) async fn died(sightings: &mut mpsc::Receiver<Sighting>, name: &str) -> Result<Autopsy> {
    let whom = life(name)?;
    let waiting = async {
        loop {
            match sightings.recv().await {
                Some(Sighting::Died { life, autopsy }) if life == whom => return Ok(autopsy),
                Some(
                    Sighting::Died { .. }
                    | Sighting::Waiting { .. }
                    | Sighting::Started { .. }
                    | Sighting::Reachable
                    // An engine that is busy: the watch finds out all the same.
                    | Sighting::Unreachable(_),
                ) => {}
                None => bail!("the watch has ended"),
            }
        }
    };
    timeout(DEADLINE, waiting).await.with_context(|| format!("nobody told of {name}'s death"))?
}

pub(crate) fn life(name: &str) -> Result<Incarnation> {
    Ok(name.parse()?)
}

pub(crate) fn order(name: &str) -> Result<SpawnOrder> {
    let life = life(name)?;
    let limits = format!("{{ memory: {}, cpus: 0.5, pids: 16, open_files: 64 }}", spell_size(MEMORY));
    let spec = format!("pools: {{ {}: {{ worker: {{ limits: {limits} }} }} }}", life.worker.pool);
    let pool = parse("a test", &spec)?.pools.remove(0);
    let token = Secret::new([7; 32]).token(&life);
    Ok(SpawnOrder {
        life,
        token,
        pool: Arc::new(pool),
        retire_after: None,
        spec_hash: "5bec".to_owned(),
        tunnel: None,
    })
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    #[expect(clippy::expect_used, reason = "without a runtime there is no test")]
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

/// A socket that leads to the engine, while it is let.
pub(crate) struct Wire {
    pub(crate) host: String,
    traffic: watch::Sender<Traffic>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    Flows,
    /// Every connection is closed, and new ones are closed at once.
    Cut,
    /// Connections stay open, and nothing passes: an engine that is stopped.
    Stalled,
    /// The engine does what is asked of it with these words in the request, and its answer is lost with the connection.
    LosesAnswersTo(&'static str),
}

impl Wire {
    pub(crate) fn to_the_engine(dir: &Path) -> Result<Self> {
        let path = dir.join("engine.sock");
        let listener = UnixListener::bind(&path)?;
        let traffic = watch::Sender::new(Traffic::Flows);
        let observed = traffic.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, observed.clone()));
            }
        });
        Ok(Self { host: format!("unix://{}", path.display()), traffic })
    }

    pub(crate) fn set(&mut self, traffic: Traffic) {
        self.traffic.send_replace(traffic);
    }
}

async fn carry(mut client: UnixStream, mut traffic: watch::Receiver<Traffic>) {
    let Ok(mut engine) = UnixStream::connect("/var/run/docker.sock").await else { return };
    loop {
        let now = *traffic.borrow_and_update();
        match now {
            Traffic::Cut => return,
            Traffic::Stalled => {
                if traffic.changed().await.is_err() {
                    return;
                }
            }
            Traffic::LosesAnswersTo(words) => {
                let (mut piece, mut answer) = ([0; 4096], [0; 4096]);
                tokio::select! {
                    read = client.read(&mut piece) => {
                        let Ok(read @ 1..) = read else { return };
                        let lost = String::from_utf8_lossy(&piece[..read]).contains(words);
                        if engine.write_all(&piece[..read]).await.is_err() {
                            return;
                        }
                        if lost {
                            let _ = engine.read(&mut answer).await;
                            return;
                        }
                    }
                    read = engine.read(&mut answer) => {
                        let Ok(read @ 1..) = read else { return };
                        if client.write_all(&answer[..read]).await.is_err() {
                            return;
                        }
                    }
                }
            }
            Traffic::Flows => tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut engine) => return,
                changed = traffic.changed() => if changed.is_err() { return },
            },
        }
    }
}
