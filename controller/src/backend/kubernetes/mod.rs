//! Workers as pods of a Kubernetes cluster. The only place that names kube.
//!
//! A worker's pod is created by [`Backend::spawn`] (`pod` says how it is shut in). Nothing about it is remembered here:
//! who a pod is stands in its labels, so a controller that starts anew lists and adopts what the last one left. Only one
//! controller may be at it at a time; [`lease`] sees to that.
//!
//! A created pod does not run yet. It waits for room, for its image, for the kubelet; and what holds it up is told as a
//! [`Sighting::Waiting`], in the cluster's words, for as long as it does (`condition` reads them). It is left waiting:
//! an autoscaler makes room for pods that wait, not for those that come and go.
//!
//! ```text
//!   SIGTERM   the pod is deleted with its pool's time to drain: the kubelet sends SIGTERM. One that does not run yet has
//!             nothing to finish, and gets five seconds
//!   SIGKILL   the door ends the process over its link, within milliseconds and without a SIGTERM. A worker that does
//!             not hear it is deleted three seconds later, with a grace of one: SIGTERM, and SIGKILL a moment later.
//!             One that has closed its link is dead, and its kubelet is given longer to say of what: deleted, a pod may
//!             go without a word
//!   others    cannot be sent: the API has no word for them, and running a command in a pod is a right that a
//!             controller had better not have
//! ```
//! Every way that the API has to end a pod begins with a SIGTERM, which to a worker is an order to finish, so a kill goes
//! by the link, where there is one (`supervisor::act`). The kernel closes that link when the process is dead, and only then does its door
//! give away what it held: nothing is counted dead for having been deleted.
//!
//! Never deleted with no grace at all: then the API forgets the pod at once, and its absence proves nothing. With one
//! second it forgets it
//! when the kubelet has said that every process is gone. A kubelet that cannot be reached never says so; a pod that is
//! overdue by half a minute is therefore deleted without its word. That its worker is dead nobody knows then, and nothing
//! depends on it: its link to the door has been closed, by the door, and it cannot join again under that name.
//!
//! Dead pods stay until they are removed, for what they can tell: exit code, reason, log. If we die
//!
//! - before a pod is created: nothing has happened;
//! - after that: it joins the door, and is adopted;
//! - before a dead one is removed: it is listed as dead, with all that can be said of it.
//!
//! The API is never trusted to be there. Each call has a deadline (`calls`), a lost watch is a [`Sighting::Unreachable`]
//! and nothing more (`watch`), and workers run on without API or controller. A death is seen by the door first, when the
//! link closes; the API adds, a second later, what only it knows.

mod act;
mod calls;
mod cluster;
mod condition;
mod examine;
pub mod flag;
pub mod lease;
mod names;
pub mod observe;
mod phase;
mod pod;
pub mod secrets;
mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use server::identity::Incarnation;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};

pub use self::act::{BeingStopped, NameTaken, NoSuchSignal, NoTunnel};
pub use self::cluster::{Cluster, ConnectError, host_name, is_inside};

use self::calls::{Operation, ask};
use self::phase::Phases;
use self::pod::Mould;
use super::{Backend, BackendError, BackendKind, Doing, Found, LinkEnd, Sighting, SpawnOrder, Unit};

/// How many pods are created at a time, and how many logs are read. A pool that is started anew is no reason to be
/// throttled.
const AT_A_TIME: usize = 8;

/// For how long a node is in doubt on which a worker has died, when its kubelet says nothing: by then the cluster has missed
/// it too.
const IN_DOUBT: Duration = Duration::from_secs(60);

/// What an operator may say about the Kubernetes backend.
#[derive(Debug, Clone, Default, Args)]
pub struct KubernetesOptions {
    /// Run workers as pods of this image instead of that of the controller's own pod
    #[arg(long, env = "BULKHEAD_WORKER_IMAGE", value_name = "IMAGE")]
    pub worker_image: Option<String>,
    /// The namespace for workers instead of the controller's own
    #[arg(long, env = "BULKHEAD_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// Workers as pods of one namespace.
#[derive(Debug)]
pub struct KubernetesBackend {
    cluster: Cluster,
    mould: Mould,
    creations: Semaphore,
    /// What those have written whom we are ending, by pod: their kubelet throws it away with them.
    heard: Mutex<HashMap<String, Vec<String>>>,
    /// Nodes on which a worker has died of late, until their kubelets have said so: nobody knows whether they live.
    doubtful: Mutex<HashMap<String, Instant>>,
    /// Those pods whose process has closed its link: it is dead, and its kubelet has only to say so.
    closed: Mutex<HashSet<String>>,
    /// What is to be written on pods, for people to read.
    phases: Phases,
}

/// Why workers cannot run as pods.
#[derive(Debug, Error)]
pub enum KubernetesError {
    /// There is no cluster to work with.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Nobody has said what they are to run.
    #[error(
        "which image workers are to run is not known outside of a pod: name one that the cluster's nodes have or can \
         pull, with --worker-image"
    )]
    NoImage,
}

impl KubernetesBackend {
    /// Workers of `owner` in this cluster.
    ///
    /// # Errors
    /// Nobody has said which image they are to run.
    pub fn on(cluster: Cluster, owner: &str, options: &KubernetesOptions) -> Result<Self, KubernetesError> {
        let own_image = || cluster.own_pod()?.image.clone();
        let image = options.worker_image.clone().or_else(own_image).ok_or(KubernetesError::NoImage)?;
        Ok(Self::with_image(cluster, owner, image))
    }

    /// The same for somebody who lists and removes and spawns nobody: it has no image.
    pub fn to_look_around(cluster: Cluster, owner: &str) -> Self {
        Self::with_image(cluster, owner, String::new())
    }

    fn with_image(cluster: Cluster, owner: &str, image: String) -> Self {
        let own_pod = cluster.own_pod();
        let belongs_to = own_pod.and_then(|pod| pod.deployment.clone());
        let pull_secrets = own_pod.map(|pod| pod.pull_secrets.clone()).unwrap_or_default();
        let mould = Mould { owner: owner.to_owned(), image, belongs_to, pull_secrets };
        Self {
            cluster,
            mould,
            creations: Semaphore::new(AT_A_TIME),
            heard: Mutex::default(),
            doubtful: Mutex::default(),
            closed: Mutex::default(),
            phases: Phases::default(),
        }
    }

    /// The cluster, for those who tell the user about it.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn pods(&self) -> Api<Pod> {
        self.cluster.api()
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<String, Vec<String>>> {
        // A small map, changed by single calls: a panic in between leaves nothing half done.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubtful(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kubelet has told of a death: its node lives.
    fn has_spoken(&self, node: &str) {
        self.doubtful().remove(node);
    }

    /// The nodes on which a new worker had better not be: a cluster goes on giving pods to a node that has died until it
    /// has missed it for the better part of a minute.
    fn doubtful_nodes(&self) -> Vec<String> {
        let mut doubtful = self.doubtful();
        doubtful.retain(|_, since| since.elapsed() < IN_DOUBT);
        let mut nodes: Vec<_> = doubtful.keys().cloned().collect();
        nodes.sort();
        nodes
    }

    async fn ask<T>(
        &self,
        operation: Operation,
        life: &Incarnation,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, BackendError> {
        ask(&self.cluster.name, operation, life, answer).await
    }
}

#[async_trait]
impl Backend for KubernetesBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Kubernetes
    }

    async fn spawn(&self, order: &SpawnOrder) -> Result<Unit, BackendError> {
        self.create(order).await
    }

    fn spawn_no_more(&self) {
        self.creations.close();
    }

    async fn signal(&self, life: &Incarnation, unit: &Unit, signal: i32) -> Result<(), BackendError> {
        self.deliver(life, pod_name(life, unit)?, signal).await
    }

    async fn remove(&self, life: &Incarnation, unit: &Unit) -> Result<(), BackendError> {
        self.forget(life, pod_name(life, unit)?).await
    }

    async fn list(&self) -> Result<Vec<Found>, BackendError> {
        self.listing(examine::ALL_LOGS).await
    }

    async fn logs(&self, life: &Incarnation, unit: &Unit, lines: usize) -> Result<Vec<String>, BackendError> {
        self.tail(life, pod_name(life, unit)?, lines).await
    }

    fn link_lost(&self, _life: &Incarnation, unit: &Unit, end: LinkEnd) {
        let Unit::Pod { name, node } = unit else { return };
        if let Some(node) = node {
            self.doubtful().insert(node.clone(), Instant::now());
        }
        if end == LinkEnd::Closed {
            self.closed().insert(name.clone());
        }
    }

    fn show(&self, life: &Incarnation, unit: &Unit, doing: Doing) {
        if let Unit::Pod { name, .. } = unit {
            self.phases.note(name, life, doing);
        }
    }

    fn watch(self: Arc<Self>) -> mpsc::Receiver<Sighting> {
        watch::start(self)
    }
}

fn pod_name<'a>(life: &Incarnation, unit: &'a Unit) -> Result<&'a str, BackendError> {
    match unit {
        Unit::Pod { name, .. } => Ok(name),
        // Left by a deployment that ran on another backend; there is nothing of it in this cluster.
        Unit::Process { .. } | Unit::Container { .. } => {
            Err(BackendError::Gone { subject: life.to_string() })
        }
    }
}
