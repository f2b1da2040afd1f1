//! Where stories are told whose workers are pods: a namespace of this program's own on a real cluster, whose nodes have
//! the image of this build.
//!
//! Door and controller are processes of this machine, as on every other backend, and the pods dial it at the address by
//! which the cluster knows its first node, which is this machine (`rig::kubernetes` says how that is told). All nodes'
//! pods are processes of this machine, so a story can do to a worker past the cluster what a kernel does: kill it, stop it.

use std::net::IpAddr;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::eventually;
use super::kubernetes::{self, run};

/// What this build's image is called on the nodes, apart from that of other tests.
const IMAGE: &str = "bulkhead-test-contract";

/// What deployments of this program's stories have in common.
#[derive(Debug)]
pub struct Quarters {
    pub namespace: String,
    pub image: String,
    /// By which pods reach this machine.
    pub host: IpAddr,
}

static QUARTERS: OnceLock<Quarters> = OnceLock::new();

/// Made by the first story that needs them.
pub fn quarters() -> &'static Quarters {
    QUARTERS.get_or_init(|| {
        let nodes = kubernetes::nodes().unwrap_or_else(|why| panic!("{why}"));
        let image = kubernetes::image(&nodes, IMAGE);
        let namespace = format!("bulkhead-test-contract-{}", std::process::id());
        run("kubectl", &["create", "namespace", &namespace]).unwrap_or_else(|why| panic!("{why}"));
        let quarters = Quarters { namespace, image, host: address(&nodes[0].name) };
        // Without one no pod is let in.
        eventually("the namespace has a service account", || {
            quarters.kubectl(&["get", "serviceaccount", "default"])
        });
        quarters
    })
}

/// Takes them away again, if there are any.
pub fn leave() {
    if let Some(Quarters { namespace, .. }) = QUARTERS.get() {
        let gone = run("kubectl", &["delete", "namespace", namespace, "--wait=false"]);
        if let Err(why) = gone {
            eprintln!("the namespace {namespace} stays: {why}");
        }
    }
}

/// Whether the cluster answers.
pub fn answers() -> Result<(), String> {
    kubernetes::nodes()?;
    run("kubectl", &["get", "--raw", "/readyz", "--request-timeout=5s"]).map(drop)
}

/// By which address the cluster knows a node.
fn address(node: &str) -> IpAddr {
    let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    let address = run("kubectl", &["get", "node", node, "-o", path]).unwrap_or_else(|why| panic!("{why}"));
    address.parse().unwrap_or_else(|error| panic!("{node} is at {address:?}: {error}"))
}

/// What a worker has of a processor, unless its story says so itself: little enough for a cluster on one machine to have room
/// for all that are told at a time, and not nothing. A pod that asks for nothing gets nothing when the machine is busy, and is
/// then taken for lost.
const SHARE: f64 = 0.2;

/// The pools of a story, with that share for each worker.
pub fn with_shares(pools: &str) -> String {
    let mut pools: Value = serde_yaml::from_str(pools).unwrap();
    for pool in pools.as_object_mut().unwrap().values_mut() {
        let mut limits = &mut *pool;
        for key in ["worker", "limits"] {
            limits = limits.as_object_mut().unwrap().entry(key).or_insert_with(|| json!({}));
        }
        limits.as_object_mut().unwrap().entry("cpus").or_insert_with(|| json!(SHARE));
    }
    pools.to_string()
}

impl Quarters {
    /// What the program has to be told beside its spec.
    pub fn environment(&self) -> [(&'static str, &str); 2] {
        [("BULKHEAD_NAMESPACE", &self.namespace), ("BULKHEAD_WORKER_IMAGE", &self.image)]
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        run("kubectl", &[&["-n", &self.namespace], arguments].concat())
    }

    /// All objects that a deployment might have left, `kind/name` each. They name its run directory somewhere.
    pub fn of(&self, run_dir: &str) -> Result<Vec<String>, String> {
        let listed = self.kubectl(&["get", "pods,leases,secrets,configmaps", "-o", "json"])?;
        let listed: Value = serde_json::from_str(&listed).map_err(|error| error.to_string())?;
        let objects = listed["items"].as_array().ok_or("no list")?.iter();
        let ours = objects.filter(|it| it.to_string().contains(run_dir));
        Ok(ours.map(|it| format!("{}/{}", it["kind"], it["metadata"]["name"]).replace('"', "")).collect())
    }

    /// Removes them, whatever they are at.
    pub fn clear(&self, run_dir: &str) {
        for object in self.of(run_dir).unwrap_or_default() {
            let _ = self.kubectl(&["delete", &object, "--grace-period=0", "--force", "--wait=false"]);
        }
    }
}
