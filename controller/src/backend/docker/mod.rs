//! Workers as Docker containers. The only place that names bollard.
//!
//! A worker's container is created and started by [`Backend::spawn`] ([`container`] says how it is shut in) and runs
//! an image into which this program has packed itself ([`image`]). Nothing about it is remembered here: who a
//! container is stands in its labels, so a controller that starts anew lists and adopts what the last one left.
//!
//! The engine is never trusted to be there. Each call has a deadline ([`engine`]), a lost event stream is a
//! [`Sighting::Unreachable`] and nothing more ([`watch`]), and workers run on without engine or controller. If we die
//!
//! - before a container is created: nothing has happened;
//! - between its creation and its start: it is listed as dead of unknown cause, and removed;
//! - after its start: it joins the door, and is adopted;
//! - before a dead one is removed: it is listed as dead, with all that can be said of it.
//!
//! A death is seen by the door first, when the link closes. The engine's event comes some 25 ms later and adds what
//! only the engine knows; [`autopsy`] says how that is read.

mod autopsy;
mod container;
mod engine;
mod image;
mod pace;
mod pack;
mod spawn;
mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::models::{ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::{
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder,
};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use rustix::process::Signal;
use server::identity::Incarnation;
use thiserror::Error;
use tokio::sync::mpsc;

pub use self::container::DEFAULT_OWNER;
pub use self::engine::{Address, ApiVersion, ConnectError, Engine};
pub use self::image::ImageError;
pub use self::pack::PackError;
pub use self::spawn::{NameTaken, NoImage, NoNetwork};

use self::autopsy::Memory;
use self::container::{Link, OWNER_LABEL, Tags};
use self::engine::{Init, Operation};
use self::image::Source;
use self::pace::Pace;
use super::{Backend, BackendError, BackendKind, Found, Home, Sighting, SpawnOrder, Unit, Vital};
use crate::model::{Autopsy, Cause};
use crate::rundir::RunDir;

/// How many lines of a dead worker's output its incident keeps.
const LAST_LINES: usize = 20;

/// How many containers are inspected at a time.
const INSPECTIONS: usize = 8;

/// The signals that the init in a container does not pass on: those of faults, and of a terminal.
const KEPT_BY_THE_INIT: [Signal; 10] = [
    Signal::ILL,
    Signal::TRAP,
    Signal::ABORT,
    Signal::BUS,
    Signal::FPE,
    Signal::SEGV,
    Signal::CHILD,
    Signal::TTIN,
    Signal::TTOU,
    Signal::SYS,
];

/// What an operator may say about the Docker backend.
#[derive(Debug, Clone, Default, Args)]
pub struct DockerOptions {
    /// Run workers from this image instead of packing this program into one
    #[arg(long, env = "BULKHEAD_IMAGE", value_name = "IMAGE")]
    pub image: Option<String>,
    /// The volume that holds the door's link socket, when the door runs in a container itself
    #[arg(long, env = "BULKHEAD_LINK_VOLUME", value_name = "VOLUME")]
    pub link_volume: Option<String>,
}

/// Workers as containers of one engine.
#[derive(Debug)]
pub struct DockerBackend {
    engine: Engine,
    owner: String,
    link: Link,
    source: Source,
    pace: Pace,
    /// The image's name. It changes only when the image had to be made again.
    image: tokio::sync::Mutex<String>,
    state: Mutex<State>,
}

/// What is on the way, or was noticed in passing. Losing it costs precision, never a worker.
#[derive(Debug, Default)]
struct State {
    /// Names of containers that are being created and started at this moment: no business of a listing yet.
    starting: HashSet<String>,
    /// Containers in which the kernel has killed for memory, and when that was seen.
    short_of_memory: HashMap<String, SystemTime>,
}

/// Why workers cannot run as containers.
#[derive(Debug, Error)]
pub enum DockerError {
    /// There is no engine to work with.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// There is no image to run.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The run directory's path could not be resolved.
    #[error("cannot find the run directory {path}")]
    RunDir {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A signal cannot reach the worker.
#[derive(Debug, Error)]
#[error(
    "signal {0} does not pass through the container's init: use another, such as SIGTERM, SIGKILL or SIGSTOP"
)]
pub struct NotForwarded(i32);

/// What the engine said of a death when it announced it.
#[derive(Debug, Clone, Copy)]
struct Announced {
    at: SystemTime,
    exit_code: Option<i64>,
}

/// How a signal gets to the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Kill,
    Pause,
    Resume,
    Impossible,
}

/// Whether every process of a container stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paused {
    Yes,
    No,
}

/// Looks for an engine and says which one it is. Takes two seconds at most.
pub async fn probe() -> Result<Engine, ConnectError> {
    Engine::find().await
}

/// Makes sure that the image is there, and returns its name: what `bulkhead image` does.
pub async fn ensure_image(engine: &Engine, options: &DockerOptions) -> Result<String, ImageError> {
    image::ensure(engine, &Source::from(options)).await
}

impl DockerBackend {
    /// Finds the engine and makes sure that it has the image. `home.run_dir` has to exist.
    pub async fn connect(home: &Home, options: &DockerOptions) -> Result<Self, DockerError> {
        let engine = Engine::find().await?;
        Self::on(engine, home, options).await
    }

    /// The same, on an engine that [`probe`] has found.
    pub async fn on(engine: Engine, home: &Home, options: &DockerOptions) -> Result<Self, DockerError> {
        let link = match &options.link_volume {
            Some(volume) => Link::Volume(volume.clone()),
            None => {
                let path = &home.run_dir;
                let run_dir = std::fs::canonicalize(path)
                    .map_err(|source| DockerError::RunDir { path: path.clone(), source })?;
                Link::Directory(RunDir::at(run_dir).link_dir())
            }
        };
        let source = Source::from(options);
        let image = image::ensure(&engine, &source).await?;
        if engine.init() == Init::None {
            tracing::warn!(
                "{} has no init for containers: what a worker leaves behind is not reaped",
                engine.name()
            );
        }
        Ok(Self {
            engine,
            owner: home.owner.clone(),
            link,
            source,
            pace: Pace::new(),
            image: tokio::sync::Mutex::new(image),
            state: Mutex::default(),
        })
    }

    /// The engine, for those who tell the user about it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The image that workers run.
    pub async fn image(&self) -> String {
        self.image.lock().await.clone()
    }

    /// How many processes the kernel has killed in this container for want of memory, where this machine can see
    /// that. Reads one small file: cheap enough to ask the moment a link closes, when the container's cgroup may not
    /// yet be gone. What it sees is remembered for the autopsy.
    pub async fn oom_kills(&self, unit: &Unit) -> Option<u64> {
        let Unit::Container { id, .. } = unit else { return None };
        let kills = autopsy::oom_kills(id)?;
        if kills > 0 {
            self.short_of_memory(id, SystemTime::now());
        }
        Some(kills)
    }

    async fn kill(&self, life: &Incarnation, id: &str, signal: &str) -> Result<(), BackendError> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        self.engine.ask(Operation::Kill, life, self.engine.docker().kill_container(id, Some(options))).await
    }

    /// Pauses or resumes a container. One that is so already is fine.
    async fn pause(&self, life: &Incarnation, id: &str, wanted: Paused) -> Result<(), BackendError> {
        let docker = self.engine.docker();
        let done = match wanted {
            Paused::Yes => self.engine.ask(Operation::Pause, life, docker.pause_container(id)).await,
            Paused::No => self.engine.ask(Operation::Resume, life, docker.unpause_container(id)).await,
        };
        let Err(refused @ BackendError::Refused { .. }) = done else { return done };
        let inspected = self.engine.ask(Operation::Inspect, life, docker.inspect_container(id, None)).await?;
        let paused = inspected.state.and_then(|state| state.paused);
        if paused == Some(wanted == Paused::Yes) { Ok(()) } else { Err(refused) }
    }

    /// What can be found out about a dead container. Never fails: what cannot be found out is left open.
    async fn autopsy(&self, tags: &Tags, id: &str, announced: Option<Announced>) -> Autopsy {
        let inspected = self
            .engine
            .ask(Operation::Inspect, &tags.life, self.engine.docker().inspect_container(id, None))
            .await;
        let state = match inspected {
            Ok(container) => container.state,
            Err(error) => {
                tracing::debug!(worker = %tags.life, %error, "the autopsy knows only what was announced");
                None
            }
        };
        let exit_code = state.as_ref().and_then(|state| state.exit_code);
        let finished_at = state.as_ref().and_then(|state| autopsy::moment(state.finished_at.as_deref()));
        let died_at = announced.map(|event| event.at).or(finished_at);
        let memory = Memory {
            seen_at: self.state().short_of_memory.remove(id),
            flagged: state.and_then(|state| state.oom_killed).unwrap_or_default(),
        };
        let cause =
            match announced.and_then(|event| event.exit_code).or(exit_code.filter(|_| finished_at.is_some()))
            {
                Some(code) => autopsy::cause(code, died_at, memory, tags.memory_bytes),
                // It never ran, or it was removed before anybody looked.
                None => Cause::Lost,
            };
        let last_output = self.tail(&tags.life, id, LAST_LINES).await.unwrap_or_else(|error| {
            tracing::debug!(worker = %tags.life, %error, "its last output is lost");
            Vec::new()
        });
        Autopsy { cause, died_at, last_output }
    }

    async fn tail(&self, life: &Incarnation, id: &str, lines: usize) -> Result<Vec<String>, BackendError> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let chunks = self.engine.docker().logs(id, Some(options)).map_ok(LogOutput::into_bytes);
        let bytes = chunks.try_fold(Vec::new(), |mut all, chunk| async move {
            all.extend_from_slice(&chunk);
            Ok(all)
        });
        let bytes = self.engine.ask(Operation::ReadLog, life, bytes).await?;
        let text = String::from_utf8_lossy(&bytes);
        let skipped = text.lines().count().saturating_sub(lines);
        Ok(text.lines().skip(skipped).map(str::to_owned).collect())
    }

    /// What a listed container is; `None` for one that is none of our business, or is none any more.
    async fn identify(&self, summary: ContainerSummary) -> Option<Found> {
        let id = summary.id?;
        let name = summary.names?.into_iter().next()?.trim_start_matches('/').to_owned();
        let Some(tags) = Tags::read(&summary.labels?) else {
            tracing::warn!(
                container = name,
                "a container with our owner's label has no readable identity; left alone"
            );
            return None;
        };
        let (vital, pid) = match summary.state? {
            ContainerSummaryStateEnum::REMOVING => return None,
            ContainerSummaryStateEnum::CREATED if self.state().starting.contains(&name) => return None,
            ContainerSummaryStateEnum::CREATED
            | ContainerSummaryStateEnum::EXITED
            | ContainerSummaryStateEnum::DEAD => (Vital::Dead(self.autopsy(&tags, &id, None).await), None),
            _ => {
                let inspecting = self.engine.docker().inspect_container(&id, None);
                let inspected = self.engine.ask(Operation::Inspect, &tags.life, inspecting).await;
                let state = match inspected {
                    Ok(container) => container.state,
                    Err(BackendError::Gone { .. }) => return None,
                    // It was running a moment ago, which is what a listing says.
                    Err(_) => None,
                };
                let since = state.as_ref().and_then(|state| autopsy::moment(state.started_at.as_deref()));
                let pid = state.and_then(|state| state.pid).and_then(|pid| u32::try_from(pid).ok());
                (Vital::Alive { since: since.unwrap_or_else(SystemTime::now) }, pid.filter(|&pid| pid > 0))
            }
        };
        let unit = Unit::Container { id, name, pid };
        Some(Found { life: tags.life, unit, spec_hash: tags.spec_hash, vital })
    }

    fn short_of_memory(&self, id: &str, at: SystemTime) {
        self.state().short_of_memory.insert(id.to_owned(), at);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Two small maps, changed by single calls: a panic in between leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Backend for DockerBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Docker
    }

    async fn spawn(&self, order: &SpawnOrder) -> Result<Unit, BackendError> {
        self.spawn_container(order).await
    }

    async fn signal(&self, life: &Incarnation, unit: &Unit, signal: i32) -> Result<(), BackendError> {
        let id = container_id(life, unit)?;
        match Delivery::of(signal, self.engine.init()) {
            Delivery::Kill => self.kill(life, id, &signal.to_string()).await,
            Delivery::Pause => self.pause(life, id, Paused::Yes).await,
            Delivery::Resume => self.pause(life, id, Paused::No).await,
            Delivery::Impossible => Err(BackendError::Refused {
                operation: "signal",
                subject: life.to_string(),
                source: NotForwarded(signal).into(),
            }),
        }
    }

    async fn remove(&self, life: &Incarnation, unit: &Unit) -> Result<(), BackendError> {
        let id = container_id(life, unit)?;
        let _leave = self.pace.remove().await;
        self.state().short_of_memory.remove(id);
        self.discard(life, id).await
    }

    async fn list(&self) -> Result<Vec<Found>, BackendError> {
        let ours = HashMap::from([("label", vec![format!("{OWNER_LABEL}={}", self.owner)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&ours).build();
        let listing = self.engine.docker().list_containers(Some(options));
        let summaries = self.engine.ask(Operation::List, "containers", listing).await?;
        Ok(stream::iter(summaries)
            .map(|summary| self.identify(summary))
            .buffer_unordered(INSPECTIONS)
            .filter_map(std::future::ready)
            .collect()
            .await)
    }

    async fn logs(&self, life: &Incarnation, unit: &Unit, lines: usize) -> Result<Vec<String>, BackendError> {
        self.tail(life, container_id(life, unit)?, lines).await
    }

    fn watch(self: Arc<Self>) -> mpsc::Receiver<Sighting> {
        watch::start(self)
    }
}

impl From<&DockerOptions> for Source {
    fn from(options: &DockerOptions) -> Self {
        options.image.clone().map_or(Self::Packed, Self::Named)
    }
}

impl Delivery {
    /// The engine signals process 1, the init. That one passes on what it can catch; it cannot catch SIGKILL, which
    /// takes everything with it as it should, nor SIGSTOP, which would stop the init alone: a pause stops every process
    /// instead. And some it keeps to itself ([`KEPT_BY_THE_INIT`]).
    fn of(signal: i32, init: Init) -> Self {
        match (Signal::from_named_raw(signal), init) {
            (Some(Signal::STOP), _) => Self::Pause,
            (Some(Signal::CONT), _) => Self::Resume,
            (Some(signal), Init::Reaper) if KEPT_BY_THE_INIT.contains(&signal) => Self::Impossible,
            _ => Self::Kill,
        }
    }
}

fn container_id<'a>(life: &Incarnation, unit: &'a Unit) -> Result<&'a str, BackendError> {
    match unit {
        Unit::Container { id, .. } => Ok(id),
        // Left by a deployment that ran on another backend; there is nothing of it on this engine.
        Unit::Process { .. } => Err(BackendError::Gone { subject: life.to_string() }),
    }
}
