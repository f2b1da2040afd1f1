//! From an order to a running container: create, then start.
//!
//! What can be in the way, and what is done about it:
//! - the name is taken by an attempt of ours whose answer never came: it is removed, and creation is tried again;
//! - the image is gone (somebody pruned): it is made again, once;
//! - the pool's network does not exist: an error that names it, and the remedy;
//! - the start is refused: the container is removed in the background, for an engine that could not start it may not be
//!   quick to remove it either. If that fails too, the next listing shows it as dead;
//! - the start is not answered: it may still happen, and its worker join the door. So the container is left alone, and
//!   the next listing shows what has become of it.

use bollard::errors::Error as EngineError;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use server::identity::Incarnation;
use thiserror::Error;

use super::calls::Operation;
use super::container::{self, OWNER_LABEL};
use super::engine::Engine;
use super::image::{self, ImageError};
use super::{DockerBackend, State};
use crate::backend::{BackendError, SpawnOrder, Unit};
use crate::spec::Network;

/// A pool's network could not be joined.
#[derive(Debug, Error)]
#[error(
    "the engine has no network {0:?}: create it with `docker network create {0}`, or set `network: none`"
)]
pub struct NoNetwork(String);

/// A container's name is not free.
#[derive(Debug, Error)]
#[error(
    "the container name {0} is taken by somebody else: remove that container, or give this deployment another owner"
)]
pub struct NameTaken(String);

/// Its turn has not come before everything was stopped.
#[derive(Debug, Error)]
#[error("everything is being stopped")]
pub struct BeingStopped;

/// The image is gone, and could not be made again.
#[derive(Debug, Error)]
#[error("the image is gone from the engine, and cannot be made again")]
pub struct NoImage(#[source] ImageError);

impl DockerBackend {
    /// Starts a container for `order`.
    pub(super) async fn spawn_container(&self, order: &SpawnOrder) -> Result<Unit, BackendError> {
        let name = container::name(&self.owner, &order.life);
        let _unlisted = Unlisted::new(self, &name);
        let Some(_leave) = self.pace.start().await else {
            return Err(refused(Operation::Start, &order.life, BeingStopped));
        };
        let id = self.create(&name, order).await?;
        let starting = self.engine.docker().start_container(&id, None);
        if let Err(error) = self.engine.ask(Operation::Start, &order.life, starting).await {
            if !matches!(error, BackendError::Unreachable { .. }) {
                let (engine, life) = (self.engine.clone(), order.life.clone());
                tokio::spawn(async move {
                    if let Err(error) = discard(&engine, &life, &id, Running::Keep).await {
                        tracing::debug!(worker = %life, %error, "a container that did not start stays for now");
                    }
                });
            }
            return Err(self.explain(error, order).await);
        }
        let pid = self.first_pid(&order.life, &id).await;
        Ok(Unit::Container { id, name, pid })
    }

    /// Removes a container, running or not, or finds it gone.
    pub(super) async fn discard(&self, life: &Incarnation, id: &str) -> Result<(), BackendError> {
        discard(&self.engine, life, id, Running::Kill).await
    }

    async fn create(&self, name: &str, order: &SpawnOrder) -> Result<String, BackendError> {
        let image = self.image().await;
        match self.try_create(name, order, &image).await? {
            Creation::Done(id) => return Ok(id),
            Creation::NoImage => {
                let mut current = self.image.lock().await;
                *current = image::ensure(&self.engine, &self.source)
                    .await
                    .map_err(|error| refused(Operation::Create, &order.life, NoImage(error)))?;
            }
            Creation::NameTaken => self.evict(name, &order.life).await?,
        }
        let image = self.image().await;
        match self.try_create(name, order, &image).await? {
            Creation::Done(id) => Ok(id),
            Creation::NoImage => {
                Err(refused(Operation::Create, &order.life, NoImage(ImageError::Missing(image))))
            }
            Creation::NameTaken => Err(refused(Operation::Create, &order.life, NameTaken(name.to_owned()))),
        }
    }

    async fn try_create(
        &self,
        name: &str,
        order: &SpawnOrder,
        image: &str,
    ) -> Result<Creation, BackendError> {
        let body = container::body(&self.owner, order, image, &self.link, self.engine.init());
        self.engine.ask(Operation::Create, &order.life, create(&self.engine, name, body)).await
    }

    /// Removes the container that has a name which we need, if it is ours.
    async fn evict(&self, name: &str, life: &Incarnation) -> Result<(), BackendError> {
        let inspecting = self.engine.docker().inspect_container(name, None);
        let config = match self.engine.ask(Operation::Inspect, life, inspecting).await {
            Ok(container) => container.config,
            Err(BackendError::Gone { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let owner = config.and_then(|config| config.labels?.remove(OWNER_LABEL));
        if owner.as_ref() == Some(&self.owner) {
            self.discard(life, name).await
        } else {
            Err(refused(Operation::Create, life, NameTaken(name.to_owned())))
        }
    }

    /// A refused start, with the reason that the engine words badly replaced by ours.
    async fn explain(&self, error: BackendError, order: &SpawnOrder) -> BackendError {
        let Network::Named(network) = &order.pool.worker.network else { return error };
        let finding = async {
            match self.engine.docker().inspect_network(network, None).await {
                Ok(_) => Ok(true),
                Err(EngineError::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
                Err(error) => Err(error),
            }
        };
        match self.engine.ask(Operation::FindNetwork, network, finding).await {
            Ok(false) => refused(Operation::Start, &order.life, NoNetwork(network.clone())),
            Ok(true) | Err(_) => error,
        }
    }
}

/// How a creation went, when the engine said something that can be acted on.
enum Creation {
    Done(String),
    NoImage,
    NameTaken,
}

async fn create(engine: &Engine, name: &str, body: ContainerCreateBody) -> Result<Creation, EngineError> {
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    match engine.docker().create_container(Some(options), body).await {
        Ok(created) => {
            for warning in created.warnings {
                tracing::debug!(container = name, warning, "the engine remarks");
            }
            Ok(Creation::Done(created.id))
        }
        Err(EngineError::DockerResponseServerError { status_code: 409, .. }) => Ok(Creation::NameTaken),
        Err(EngineError::DockerResponseServerError { status_code: 404, .. }) => Ok(Creation::NoImage),
        Err(error) => Err(error),
    }
}

/// What becomes of a container that is to be removed and runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Running {
    Kill,
    Keep,
}

async fn discard(
    engine: &Engine,
    life: &Incarnation,
    id: &str,
    running: Running,
) -> Result<(), BackendError> {
    let options = RemoveContainerOptionsBuilder::new().force(running == Running::Kill).v(true).build();
    let removing = async {
        match engine.docker().remove_container(id, Some(options)).await {
            // Gone, or about to be: somebody was faster. Or it runs, and is to be kept.
            Err(EngineError::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
            other => other,
        }
    };
    engine.ask(Operation::Remove, life, removing).await
}

fn refused(
    operation: Operation,
    life: &Incarnation,
    source: impl std::error::Error + Send + Sync + 'static,
) -> BackendError {
    BackendError::Refused { operation: operation.verb(), subject: life.to_string(), source: source.into() }
}

/// Keeps a container out of listings until it has been started, or given up.
struct Unlisted<'a> {
    backend: &'a DockerBackend,
    name: String,
}

impl<'a> Unlisted<'a> {
    fn new(backend: &'a DockerBackend, name: &str) -> Self {
        backend.state().starting.insert(name.to_owned());
        Self { backend, name: name.to_owned() }
    }
}

impl Drop for Unlisted<'_> {
    fn drop(&mut self) {
        let State { starting, .. } = &mut *self.backend.state();
        starting.remove(&self.name);
    }
}
