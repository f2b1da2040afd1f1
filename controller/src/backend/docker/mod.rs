//! Workers as Docker containers. The only place that names bollard.
//!
//! A worker's container is created and started by [`Backend::spawn`] (`container` says how it is shut in) and runs
//! an image into which this program has packed itself (`image`). Nothing about it is remembered here: who a
//! container is stands in its labels, so a controller that starts anew lists and adopts what the last one left.
//!
//! The engine is never trusted to be there. Each call has a deadline (`calls`), a lost event stream is a
//! [`Sighting::Unreachable`] and nothing more (`watch`), and workers run on without engine or controller. If we die
//!
//! - before a container is created: nothing has happened;
//! - between its creation and its start: it is listed as dead of unknown cause, and removed;
//! - after its start: it joins the door, and is adopted;
//! - before a dead one is removed: it is listed as dead, with all that can be said of it.
//!
//! A death is seen by the door first, when the link closes. The engine's event comes some 25 ms later and adds what
//! only the engine knows; `autopsy` says how that is read.

mod autopsy;
mod calls;
mod container;
mod engine;
mod examine;
mod gateway;
mod image;
mod pace;
mod pack;
mod signals;
mod spawn;
mod watch;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use clap::Args;
use server::identity::Incarnation;
use thiserror::Error;
use tokio::sync::mpsc;

pub use self::container::DEFAULT_OWNER;
pub use self::engine::{Address, ApiVersion, ConnectError, Engine};
pub use self::gateway::NoGateway;
pub use self::image::ImageError;
pub use self::pack::PackError;
pub use self::signals::NotForwarded;
pub use self::spawn::{BeingStopped, NameTaken, NoImage, NoNetwork};

use self::container::Link;
use self::engine::Init;
use self::image::Source;
use self::pace::Pace;
use super::{Backend, BackendError, BackendKind, Found, Home, Sighting, SpawnOrder, Unit};
use crate::rundir::RunDir;

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
    /// The most memory that each of them had, where it could be read by then.
    peaks: HashMap<String, u64>,
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
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
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
        let mut backend = Self::to_look_around(engine, home, options)?;
        *backend.image.get_mut() = image::ensure(&backend.engine, &backend.source).await?;
        if backend.engine.init() == Init::None {
            tracing::warn!(
                "{} has no init for containers: what a worker leaves behind is not reaped",
                backend.engine.name()
            );
        }
        Ok(backend)
    }

    /// The same for somebody who lists and removes and spawns nobody: it has no image.
    pub fn to_look_around(engine: Engine, home: &Home, options: &DockerOptions) -> Result<Self, DockerError> {
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
        Ok(Self {
            engine,
            owner: home.owner.clone(),
            link,
            source,
            pace: Pace::new(),
            image: tokio::sync::Mutex::default(),
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

    fn short_of_memory(&self, id: &str, at: SystemTime) {
        // Now: the cgroup that tells goes with the container.
        let peak = autopsy::peak_bytes(id);
        let mut state = self.state();
        state.short_of_memory.insert(id.to_owned(), at);
        if let Some(peak) = peak {
            state.peaks.insert(id.to_owned(), peak);
        }
    }

    fn forget(&self, id: &str) {
        let mut state = self.state();
        state.short_of_memory.remove(id);
        state.peaks.remove(id);
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

    fn spawn_no_more(&self) {
        self.pace.close();
    }

    async fn signal(&self, life: &Incarnation, unit: &Unit, signal: i32) -> Result<(), BackendError> {
        let id = container_id(life, unit)?;
        self.deliver(life, id, signal).await
    }

    async fn remove(&self, life: &Incarnation, unit: &Unit) -> Result<(), BackendError> {
        let id = container_id(life, unit)?;
        let _leave = self.pace.remove().await;
        self.discard(life, id).await
    }

    async fn list(&self) -> Result<Vec<Found>, BackendError> {
        self.listing().await
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

fn container_id<'a>(life: &Incarnation, unit: &'a Unit) -> Result<&'a str, BackendError> {
    match unit {
        Unit::Container { id, .. } => Ok(id),
        // Left by a deployment that ran on another backend; there is nothing of it on this engine.
        Unit::Process { .. } | Unit::Pod { .. } => Err(BackendError::Gone { subject: life.to_string() }),
    }
}
