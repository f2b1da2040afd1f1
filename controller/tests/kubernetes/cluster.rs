//! The cluster that the stories are told on, and the engines of its nodes, by which a worker can be killed without the
//! cluster's knowledge.
//!
//! Which cluster is said as for `kubectl`, by `KUBECONFIG`. `BULKHEAD_TEST_NODES` names its nodes, each with the Docker
//! Engine on which its pods run: `node1=unix:///var/run/docker.sock,node2=unix:///run/docker2.sock`. The image is loaded
//! into each of them; nothing is pulled.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use controller::backend::docker::{self, DockerOptions, Engine};

/// The nodes' engines, by `DOCKER_HOST`.
const NODES: &str = "BULKHEAD_TEST_NODES";

/// Where our images are kept from those who tidy up images of this program.
const REPOSITORY: &str = "bulkhead-test-pod";

/// A node, and its engine.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) engine: String,
}

/// The nodes, or why there are none to test on.
pub(crate) fn nodes() -> Result<Vec<Node>, String> {
    if std::env::var_os("KUBECONFIG").is_none() {
        return Err("no cluster: KUBECONFIG is not set".to_owned());
    }
    let listed = std::env::var(NODES).map_err(|_| {
        format!("the nodes' engines are not known: {NODES} is not set (node1=unix:///…,node2=…)")
    })?;
    let nodes = listed.split(',').map(|node| {
        let (name, engine) =
            node.split_once('=').ok_or_else(|| format!("{NODES}: {node:?} is no NODE=HOST"))?;
        Ok(Node { name: name.to_owned(), engine: engine.to_owned() })
    });
    nodes.collect()
}

/// Whether stories have to be told, and are not to be left out for want of anything: in a build that has a cluster made,
/// which it tells by naming what can be done to it.
pub(crate) fn is_required() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true") && std::env::var_os("BULKHEAD_TEST_CLUSTER").is_some()
}

/// Makes sure that every node has this program as an image, and returns its name.
pub(crate) async fn image(nodes: &[Node]) -> Result<String> {
    let first = nodes.first().context("no node")?;
    let engine = Engine::at_host(&first.engine).await?;
    let packed = docker::ensure_image(&engine, &DockerOptions::default()).await?;
    let hash = packed.split_once(':').map_or(packed.as_str(), |(_, hash)| hash);
    let image = format!("{REPOSITORY}:{hash}");
    docker(&first.engine, &["tag", &packed, &image])?;
    for node in nodes {
        let there = docker(&node.engine, &["images", "--format", "{{.Repository}}:{{.Tag}}", REPOSITORY])?;
        if !there.lines().any(|tag| tag == image) {
            copy(&first.engine, &node.engine, &image)?;
        }
        for old in there.lines().filter(|tag| *tag != image) {
            // One that a pod still has stays.
            let _ = docker(&node.engine, &["rmi", old]);
        }
    }
    Ok(image)
}

/// Kills the worker in a pod, past the cluster: what the kernel does when it is short of memory, or a fault.
pub(crate) fn kill(nodes: &[Node], node: &str, namespace: &str, pod: &str, signal: &str) -> Result<()> {
    let (engine, id) = container(nodes, node, namespace, pod)?;
    ensure!(id.lines().count() == 1, "{pod} has the containers {id:?}");
    docker(&engine, &["kill", "--signal", signal, &id]).map(drop)
}

/// Whether the worker in a pod runs, by the word of its node's engine.
pub(crate) fn is_running(nodes: &[Node], node: &str, namespace: &str, pod: &str) -> Result<bool> {
    Ok(!container(nodes, node, namespace, pod)?.1.is_empty())
}

/// The engine of a node, and the container on it that is the worker in a pod, if it runs.
fn container(nodes: &[Node], node: &str, namespace: &str, pod: &str) -> Result<(String, String)> {
    let node = nodes.iter().find(|it| it.name == node).with_context(|| format!("no engine of {node}"))?;
    let labels = [("pod.name", pod), ("pod.namespace", namespace), ("container.name", "worker")];
    let filters = labels.map(|(label, value)| format!("--filter=label=io.kubernetes.{label}={value}"));
    let [pod, namespace, container] = &filters;
    let id = docker(&node.engine, &["ps", "-q", pod, namespace, container])?;
    Ok((node.engine.clone(), id))
}

fn copy(from: &str, to: &str, image: &str) -> Result<()> {
    let mut save = Command::new("docker").args(["-H", from, "save", image]).stdout(Stdio::piped()).spawn()?;
    let archive = save.stdout.take().context("no output")?;
    let loaded = Command::new("docker").args(["-H", to, "load"]).stdin(archive).output()?;
    ensure!(save.wait()?.success() && loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    Ok(())
}

fn docker(engine: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(["-H", engine]).args(arguments).output()?;
    if !output.status.success() {
        bail!("docker {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
