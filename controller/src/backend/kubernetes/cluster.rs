//! The cluster: how it is reached, and who we are in it.
//!
//! Inside a pod the cluster tells where its API is, by a service account that Kubernetes mounts; that comes first there.
//! Anywhere else a kubeconfig does, as for `kubectl` (`KUBECONFIG`, or `~/.kube/config`).
//!
//! Of our own pod we ask what only it can tell: the image, which workers run as well, and the Deployment that it belongs
//! to. Workers belong to that Deployment too, so that who deletes it deletes them. What cannot be found out is left
//! open and said: without the Deployment workers outlive it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{LocalObjectReference, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, Config, ResourceExt};
use server::identity::Secret;
use thiserror::Error;

use super::calls::{Operation, ask};
use super::names;
use crate::backend::BackendError;

/// Where a pod has its service account.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// Our container in our own pod.
const OWN_CONTAINER: &str = "controller";
const SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";

/// A cluster whose API answers, and a namespace in it.
#[derive(Clone)]
pub struct Cluster {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// For people: `Kubernetes v1.20.2 at https://10.96.0.1/`.
    pub(super) name: String,
    address: String,
    own_pod: Option<Arc<OwnPod>>,
}

/// What our own pod tells.
#[derive(Debug, Clone)]
pub(super) struct OwnPod {
    pub(super) name: String,
    pub(super) image: Option<String>,
    pub(super) deployment: Option<OwnerReference>,
    /// By which its image may be pulled.
    pub(super) pull_secrets: Vec<LocalObjectReference>,
    /// Selects the pods of this kind and deployment, of whatever version.
    pub(super) alike: Option<String>,
}

/// Why a cluster cannot be worked with.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nothing says where its API is.
    #[error(
        "no cluster is known here: run this inside one, or set KUBECONFIG to the file that `kubectl` uses"
    )]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What says it makes no sense.
    #[error("cannot make a client for the cluster's API")]
    Client(#[source] Box<kube::Error>),
    /// It does not answer, or will not have us.
    #[error(transparent)]
    Api(#[from] BackendError),
}

/// Whether this program runs in a pod that may talk to its cluster.
pub fn is_inside() -> bool {
    std::env::var_os(SERVICE_HOST).is_some() && Path::new(TOKEN).exists()
}

impl Cluster {
    /// Finds the cluster and asks who it is. Takes five seconds at most for each of its three questions. `namespace`:
    /// instead of our pod's own, or the kubeconfig's.
    pub async fn find(namespace: Option<&str>) -> Result<Self, ConnectError> {
        let config = if is_inside() {
            Config::incluster().map_err(|error| ConnectError::Unknown(error.into()))?
        } else {
            Config::infer().await.map_err(|error| ConnectError::Unknown(error.into()))?
        };
        Self::at(config, namespace).await
    }

    /// The same, with a configuration that is known.
    pub async fn at(config: Config, namespace: Option<&str>) -> Result<Self, ConnectError> {
        let address = config.cluster_url.to_string();
        let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_owned);
        let client = Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
        let unnamed = format!("Kubernetes at {address}");
        let version = ask(&unnamed, Operation::Version, "it", client.apiserver_version()).await?;
        let name = format!("Kubernetes {} at {address}", version.git_version);
        let mut cluster = Self { client, namespace, name, address, own_pod: None };
        cluster.own_pod = cluster.look_at_ourselves().await.map(Arc::new);
        Ok(cluster)
    }

    /// One that is nowhere but in a test.
    #[cfg(test)]
    pub(super) fn of(client: Client, namespace: &str) -> Self {
        let nowhere = || "nowhere".to_owned();
        Self { client, namespace: namespace.to_owned(), name: nowhere(), address: nowhere(), own_pod: None }
    }

    /// Its name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its API is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where workers live in it.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Who we are among others that want the same: our pod's name, or this machine's and our process id.
    pub fn identity(&self) -> String {
        match &self.own_pod {
            Some(pod) => pod.name.clone(),
            None => format!("{}-{}", host_name(), std::process::id()),
        }
    }

    /// The same for whoever has the lock on a run directory of this machine: one who is started there again is known by
    /// the same name. `secret`: that directory's. No other has it, and six digits of a digest do not tell it.
    pub fn identity_at(run_dir: &Path, secret: &Secret) -> String {
        format!("{}:{}#{}", host_name(), run_dir.display(), names::digest(secret.as_bytes()))
    }

    pub(super) fn own_pod(&self) -> Option<&OwnPod> {
        self.own_pod.as_deref()
    }

    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Whether the API answers at this moment.
    pub(super) async fn probe(&self) -> Result<(), BackendError> {
        ask(&self.name, Operation::Probe, "it", self.client.apiserver_version()).await.map(drop)
    }

    /// What our own pod tells; `None` outside of the cluster.
    async fn look_at_ourselves(&self) -> Option<OwnPod> {
        if !is_inside() {
            return None;
        }
        // A pod's host name is its name, unless somebody has said otherwise.
        let name = std::env::var("BULKHEAD_POD_NAME").unwrap_or_else(|_| host_name());
        let pods: Api<Pod> = self.api();
        match ask(&self.name, Operation::Read, format!("pod {name}"), pods.get(&name)).await {
            Ok(pod) => {
                let deployment = self.deployment_of(&pod).await;
                let alike = alike(pod.labels());
                let spec = pod.spec.unwrap_or_default();
                let pull_secrets = spec.image_pull_secrets.clone().unwrap_or_default();
                Some(OwnPod { name, image: own_image(&spec), deployment, pull_secrets, alike })
            }
            Err(error) => {
                tracing::warn!(%error, "our own pod is not known: workers need --worker-image, and outlive the Deployment");
                Some(OwnPod { name, image: None, deployment: None, pull_secrets: Vec::new(), alike: None })
            }
        }
    }

    /// The Deployment that has made the ReplicaSet that has made this pod.
    async fn deployment_of(&self, pod: &Pod) -> Option<OwnerReference> {
        let made_by = |owners: &[OwnerReference], kind: &str| {
            owners.iter().find(|owner| owner.kind == kind && owner.controller == Some(true)).cloned()
        };
        let set = made_by(pod.owner_references(), "ReplicaSet")?;
        let sets: Api<ReplicaSet> = self.api();
        let asked =
            ask(&self.name, Operation::Read, format!("replica set {}", set.name), sets.get(&set.name));
        match asked.await {
            Ok(set) => {
                let deployment = made_by(set.owner_references(), "Deployment")?;
                // As its controller, although its selector does not have them: whoever empties a node leaves pods alone
                // that nobody would make anew, and somebody does.
                Some(OwnerReference { controller: Some(true), block_owner_deletion: None, ..deployment })
            }
            Err(error) => {
                tracing::warn!(%error, "our own Deployment is not known: workers outlive it");
                None
            }
        }
    }
}

/// Labels that the standard gives to what belongs together; the version is not among them.
const INSTANCE: &str = "app.kubernetes.io/instance";
const BELONGING: [&str; 3] = ["app.kubernetes.io/name", INSTANCE, "app.kubernetes.io/component"];

/// A selector for all that have these in common, and for those alone. Without a name for the instance nobody knows who
/// belongs to another one.
fn alike(labels: &BTreeMap<String, String>) -> Option<String> {
    let has = |label: &str| match labels.get(label) {
        Some(value) => format!("{label}={value}"),
        None => format!("!{label}"),
    };
    labels.contains_key(INSTANCE).then(|| BELONGING.map(has).join(","))
}

/// What we run: the container of that name, for others may have been put beside it; the first, where none is called so.
fn own_image(pod: &PodSpec) -> Option<String> {
    let ours = pod.containers.iter().find(|container| container.name == OWN_CONTAINER);
    ours.or(pod.containers.first())?.image.clone()
}

/// What this machine, or this pod, is called.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the client: it has credentials.
        f.debug_struct("Cluster").field("name", &self.name).field("namespace", &self.namespace).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_belongs_together_is_of_one_instance_and_of_any_version() {
        let of = |labels: &[(&str, &str)]| {
            alike(&labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(of(&[("app.kubernetes.io/component", "controller")]), None);
        let named = [
            ("app.kubernetes.io/name", "bulkhead"),
            ("app.kubernetes.io/instance", "two"),
            ("pod-template-hash", "5d4f"),
        ];
        assert_eq!(
            of(&named),
            Some(
                "app.kubernetes.io/name=bulkhead,app.kubernetes.io/instance=two,!app.kubernetes.io/component"
                    .to_owned()
            )
        );
    }

    #[test]
    fn our_image_is_not_that_of_who_has_been_put_beside_us() {
        let image = |containers| {
            let spec = json!({ "containers": containers });
            serde_json::from_value(spec).ok().and_then(|spec: PodSpec| own_image(&spec))
        };
        let proxy = json!({ "name": "proxy", "image": "mesh:1" });
        let ours = json!({ "name": "controller", "image": "bulkhead:1" });
        assert_eq!(image(json!([proxy, ours])).as_deref(), Some("bulkhead:1"));
        assert_eq!(
            image(json!([{ "name": "master", "image": "bulkhead:2" }])).as_deref(),
            Some("bulkhead:2")
        );
        assert_eq!(image(json!([])), None);
    }
}
