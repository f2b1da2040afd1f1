//! Stand-ins for what other parts of the controller provide: spec loading, the run directory's locks, backends
//! and supervisor. Each has the name and shape of the real one, so that only imports change when that is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
use async_trait::async_trait;
use clap::Args;
use server::identity::{Incarnation, PoolName, Secret, WorkerId};
use thiserror::Error;

use crate::api::views::{IncidentView, PoolView, WorkerView};
use crate::api::{CommandError, Master};
use crate::backend::{Backend, Home};
use crate::rundir::RunDir;
use crate::spec::{BackendChoice, Deployment};

/// Stand-in for `spec::Overrides`.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Overrides {
    /// Where workers are to run: auto, process or docker
    #[arg(long)]
    pub(super) backend: Option<String>,
}

/// Stand-in for `spec::SpecError`.
#[derive(Debug, Error)]
pub(super) enum SpecError {
    /// Nothing can be loaded yet.
    #[error("cannot load {0}: spec files are not part of this build")]
    NotBuilt(String),
}

/// Stand-in for `spec::load`.
pub(super) fn load(path: Option<&Path>, _: &Overrides) -> Result<Deployment, SpecError> {
    Err(SpecError::NotBuilt(path.map_or_else(|| "the default".to_owned(), |path| path.display().to_string())))
}

/// Stand-in for `Deployment::to_yaml`.
pub(super) fn to_yaml(deployment: &Deployment) -> String {
    format!("{deployment:?}")
}

/// Stand-in for `RunDir::default_path`.
pub(super) fn default_path() -> anyhow::Result<PathBuf> {
    Ok(std::env::temp_dir().join("bulkhead"))
}

/// Stand-in for what `RunDir::lock` returns.
#[derive(Debug)]
pub(super) struct Lock;

/// Stand-in for `RunDir::{create, lock, secret}`.
pub(super) fn occupy(run_dir: &RunDir) -> anyhow::Result<(Lock, Secret)> {
    for dir in [run_dir.link_dir(), run_dir.control_dir(), run_dir.workers_dir()] {
        std::fs::create_dir_all(dir)?;
    }
    Ok((Lock, Secret::new([0; 32])))
}

/// Stand-in for `backend::docker`'s probe: what engine answers, or why none does.
pub(super) async fn probe_docker() -> anyhow::Result<String> {
    bail!("the docker backend is not part of this build")
}

/// Stand-in for connecting to the engine and packing the image.
pub(super) async fn docker(_: &Home) -> anyhow::Result<Arc<dyn Backend>> {
    bail!("the docker backend is not part of this build")
}

/// Stand-in for `backend::process::ProcessBackend::new`.
pub(super) fn process(_: &Home) -> anyhow::Result<Arc<dyn Backend>> {
    bail!("the process backend is not part of this build")
}

/// Stand-in for `supervisor::StopScope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopScope {
    /// The door is somebody else's.
    WorkersOnly,
    /// The door, too.
    DoorToo,
}

/// Stand-in for what `supervisor::Handle::stop` tells.
#[derive(Debug, Default)]
pub(super) struct StopSummary {
    /// Workers that finished what they held.
    pub(super) clean: usize,
    /// Workers that were cut off.
    pub(super) killed: usize,
    /// What could not be removed.
    pub(super) left: Vec<String>,
}

/// Stand-in for `supervisor::Handle`.
#[derive(Debug, Clone)]
pub(super) struct Handle;

/// Stand-in for `supervisor::start`.
pub(super) fn start(_: &Deployment, _: Arc<dyn Backend>, _: &RunDir, _: Secret) -> Handle {
    Handle
}

impl Handle {
    /// Stand-in.
    pub(super) async fn stop(&self, _: StopScope) -> StopSummary {
        StopSummary::default()
    }
}

#[async_trait]
impl Master for Handle {
    async fn workers(&self) -> Vec<WorkerView> {
        Vec::new()
    }
    async fn pools(&self) -> Vec<PoolView> {
        Vec::new()
    }
    async fn incidents(&self) -> Vec<IncidentView> {
        Vec::new()
    }
    async fn incident(&self, _: &Incarnation) -> Option<IncidentView> {
        None
    }
    async fn kill(&self, worker: &WorkerId, _: i32) -> Result<(), CommandError> {
        Err(CommandError::UnknownWorker(worker.clone()))
    }
    async fn drain(&self, worker: &WorkerId) -> Result<(), CommandError> {
        Err(CommandError::UnknownWorker(worker.clone()))
    }
    async fn scale(&self, pool: &PoolName, _: u32) -> Result<(), CommandError> {
        Err(CommandError::UnknownPool(pool.clone(), Vec::new()))
    }
    async fn logs(&self, worker: &WorkerId, _: usize) -> Result<Vec<String>, CommandError> {
        Err(CommandError::UnknownWorker(worker.clone()))
    }
    async fn is_ready(&self) -> bool {
        false
    }
}

/// Stand-in for applying `--backend`.
pub(super) fn choice(deployment: &Deployment) -> BackendChoice {
    deployment.backend
}

/// Stand-in for comparing what a stored spec gives the door with what this one does.
pub(super) fn same_doors(stored: &str, deployment: &Deployment) -> bool {
    stored == to_yaml(deployment)
}
