//! What is done to pods: created, told to go, ended, forgotten.
//!
//! What can be in the way of a creation, and what is done about it:
//! - the name is taken by what was ordered: an answer of ours was lost, or the client has asked twice. It is the worker;
//! - the name is taken by anything else: an error that says so. The next try has another name;
//! - the API refuses (a quota, an admission rule): an error with the API's words;
//! - the API does not answer: the pod may exist all the same, and its worker join the door. The next listing tells.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::runtime::wait::await_condition;
use rustix::process::Signal;
use server::identity::Incarnation;
use thiserror::Error;
use tokio::time::timeout;

use super::KubernetesBackend;
use super::calls::Operation;
use super::condition::{self, Condition};
use super::pod::{self, Tags};
use crate::backend::{BackendError, SpawnOrder, USERS_PATIENCE, Unit};

/// By how much a pod may be late in going before it is deleted without its kubelet's word.
const OVERDUE: Duration = Duration::from_secs(30);

/// How long a pod that is to be killed may take to show that its door has done it, before the API is asked. A kubelet
/// looks at its containers once a second and reports when it has the time.
const BY_THE_DOOR: Duration = Duration::from_secs(3);

/// The same for one that has closed its link: it is dead, whatever is done about it, and a kubelet that is told to delete
/// it may not say of what. Shorter than a user waits who has asked for the kill.
const OF_ITSELF: Duration = Duration::from_secs(8);
const _: () = assert!(OF_ITSELF.as_millis() < USERS_PATIENCE.as_millis());

/// Everything is being stopped, and no more workers are made.
#[derive(Debug, Error)]
#[error("everything is being stopped")]
pub struct BeingStopped;

/// A pod shares no directory with its door.
#[derive(Debug, Error)]
#[error("a pod reaches its door over TCP: let the door listen for workers with `tunnel:` in the spec")]
pub struct NoTunnel;

/// A pod's name is not free.
#[derive(Debug, Error)]
#[error("the pod name {0} is taken by another: delete that pod, or give this deployment another owner")]
pub struct NameTaken(String);

/// A signal cannot reach the worker.
#[derive(Debug, Error)]
#[error("signal {0} cannot be sent to a pod: Kubernetes knows SIGTERM and SIGKILL alone")]
pub struct NoSuchSignal(i32);

/// How long the API is to give a pod that it deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grace {
    /// As long as its pool has to drain, which stands in the pod.
    ToDrain,
    /// As long as a worker takes to leave that has nothing to finish, on a busy machine.
    ToLeave,
    /// The shortest for which the API waits for the kubelet's word.
    Shortest,
    /// None: the API forgets it, whatever its kubelet has to say.
    Forget,
}

impl KubernetesBackend {
    /// Creates the pod of a worker.
    pub(super) async fn create(&self, order: &SpawnOrder) -> Result<Unit, BackendError> {
        if order.tunnel.is_none() {
            return Err(refused("start", &order.life, NoTunnel));
        }
        let Ok(_leave) = self.creations.acquire().await else {
            return Err(refused("start", &order.life, BeingStopped));
        };
        let body = pod::body(&self.mould, order, &self.doubtful_nodes());
        let creating = async {
            match self.pods().create(&PostParams::default(), &body).await {
                Ok(pod) => Ok(Some(pod)),
                Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
                Err(error) => Err(error),
            }
        };
        let pod = match self.ask(Operation::Create, &order.life, creating).await? {
            Some(pod) => pod,
            None => self.as_ordered(order, &body).await?,
        };
        Ok(unit(&pod))
    }

    /// The pod that has the name of one which we need, if it is the one that we need.
    async fn as_ordered(&self, order: &SpawnOrder, body: &Pod) -> Result<Pod, BackendError> {
        let name = body.name_any();
        let there = self.read(&order.life, &name).await?;
        let is_it = pod::is_as_ordered(there.labels(), body.labels())
            && there.metadata.deletion_timestamp.is_none()
            && !matches!(Condition::of(&there), Condition::Dead { .. });
        if is_it { Ok(there) } else { Err(refused("start", &order.life, NameTaken(name))) }
    }

    /// Sends a signal, or does what comes to the same.
    pub(super) async fn deliver(
        &self,
        life: &Incarnation,
        name: &str,
        signal: i32,
    ) -> Result<(), BackendError> {
        match Signal::from_named_raw(signal) {
            Some(Signal::TERM) => self.have_finish(life, &self.ours(life, name).await?).await,
            Some(Signal::KILL) => self.kill(life, &self.ours(life, name).await?).await,
            _ => Err(refused("signal", life, NoSuchSignal(signal))),
        }
    }

    async fn have_finish(&self, life: &Incarnation, pod: &Pod) -> Result<(), BackendError> {
        let grace = match Condition::of(pod) {
            Condition::Dead { .. } => return Err(gone(life)),
            Condition::Running { .. } => Grace::ToDrain,
            // Nothing of it runs, nor will: there is nothing that a kubelet would have to end.
            Condition::Waiting { trouble: Some(_) } => Grace::Forget,
            // It may be about to run. A process that is the first of its container does not hear a SIGTERM before it has
            // said what it does with one, and a kubelet sends no second: with its pool's time to drain it would have all of
            // that to itself, with nothing to do in it. Or it runs already, and its kubelet is late to say so.
            Condition::Waiting { trouble: None } => Grace::ToLeave,
        };
        self.delete(life, pod, grace).await
    }

    async fn kill(&self, life: &Incarnation, pod: &Pod) -> Result<(), BackendError> {
        let name = pod.name_any();
        match Condition::of(pod) {
            Condition::Dead { .. } => return Err(gone(life)),
            Condition::Waiting { trouble: Some(_) } => return self.delete(life, pod, Grace::Forget).await,
            _ if condition::is_overdue(pod, SystemTime::now(), OVERDUE) => {
                tracing::warn!(%life, pod = name, "its kubelet has not said that it is gone: its node may be lost; forgotten");
                return self.delete(life, pod, Grace::Forget).await;
            }
            condition => {
                // Who has had a link has run, whatever its kubelet has come to say by now.
                let runs = matches!(condition, Condition::Running { .. }) || self.closed().contains(&name);
                if runs && !is_leaving(pod) && self.is_dead_soon(&name).await {
                    // Of what its door or somebody else has done: not of this.
                    return Err(gone(life));
                }
            }
        }
        // Side by side: a kill waits for nobody, and the kubelet grants more time than a log takes.
        let (done, ()) = tokio::join!(self.delete(life, pod, Grace::Shortest), self.listen_to(life, &name));
        done
    }

    /// Whether it is dead before the API has to be asked to kill it: the door has told its process to end, or it has
    /// ended of itself.
    async fn is_dead_soon(&self, name: &str) -> bool {
        let is_over =
            |pod: Option<&Pod>| pod.is_none_or(|pod| matches!(Condition::of(pod), Condition::Dead { .. }));
        let mut end = pin!(await_condition(self.pods(), name, is_over));
        match timeout(BY_THE_DOOR, &mut end).await {
            Ok(end) => end.is_ok(),
            Err(_) if self.closed().contains(name) => {
                matches!(timeout(OF_ITSELF - BY_THE_DOOR, end).await, Ok(Ok(_)))
            }
            Err(_) => false,
        }
    }

    /// Removes a dead worker's pod, or finds it gone. One that is not dead after all is ended first.
    pub(super) async fn forget(&self, life: &Incarnation, name: &str) -> Result<(), BackendError> {
        self.closed().remove(name);
        let done = match self.ours(life, name).await {
            Ok(pod) => match Condition::of(&pod) {
                Condition::Dead { .. } => self.delete(life, &pod, Grace::Forget).await,
                Condition::Waiting { .. } | Condition::Running { .. } => {
                    self.delete(life, &pod, Grace::Shortest).await
                }
            },
            Err(error) => Err(error),
        };
        match done {
            Err(BackendError::Gone { .. }) => Ok(()),
            other => other,
        }
    }

    async fn delete(&self, life: &Incarnation, pod: &Pod, grace: Grace) -> Result<(), BackendError> {
        let how = DeleteParams {
            grace_period_seconds: grace.seconds(),
            // This very pod, not one of the same name that somebody has made meanwhile.
            preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        let name = pod.name_any();
        self.ask(Operation::Delete, life, self.pods().delete(&name, &how)).await.map(drop)
    }

    /// A pod of that name, if it is this life's.
    async fn ours(&self, life: &Incarnation, name: &str) -> Result<Pod, BackendError> {
        let pod = self.read(life, name).await?;
        let is_ours = Tags::read(pod.labels()).is_some_and(|tags| tags.life == *life);
        if is_ours { Ok(pod) } else { Err(gone(life)) }
    }

    async fn read(&self, life: &Incarnation, name: &str) -> Result<Pod, BackendError> {
        self.ask(Operation::Read, life, self.pods().get(name)).await
    }
}

impl Grace {
    fn seconds(self) -> Option<u32> {
        match self {
            Self::ToDrain => None,
            Self::ToLeave => Some(5),
            Self::Shortest => Some(1),
            Self::Forget => Some(0),
        }
    }
}

/// Whether somebody has had it deleted already.
fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// A pod, as the rest of the program knows it.
pub(super) fn unit(pod: &Pod) -> Unit {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    Unit::Pod { name: pod.name_any(), node }
}

fn gone(life: &Incarnation) -> BackendError {
    BackendError::Gone { subject: life.to_string() }
}

fn refused(
    operation: &'static str,
    life: &Incarnation,
    source: impl std::error::Error + Send + Sync + 'static,
) -> BackendError {
    BackendError::Refused { operation, subject: life.to_string(), source: source.into() }
}
