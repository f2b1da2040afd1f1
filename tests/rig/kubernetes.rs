//! The product in a cluster, as `kubectl apply -k` brings it there: in a namespace of its own, from an image of this build.
//!
//! `KUBECONFIG` says which cluster, as for `kubectl`, and `BULKHEAD_TEST_NODES` with which Docker Engine each of its nodes
//! runs its pods: `node1=unix:///var/run/docker.sock,node2=unix:///run/docker2.sock`. The first is this machine: clients
//! here have to reach a Service by its address. `BULKHEAD_TEST_CLUSTER` is a program that can do to the cluster what
//! stories tell of: `stop-node2`, `start-node2`, `restart-api`. Pods' packets pass this machine's `iptables`, which
//! takes root.
//!
//! Doors and controllers stay on the first node, unless a story has one elsewhere: what a client has to a door on a machine
//! that dies, dies with it. Workers are anywhere.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::api::{Api, Worker};
use super::http::Connection;
use super::stack::BULKHEAD;
use super::{eventually, eventually_within};

const NODES: &str = "BULKHEAD_TEST_NODES";
const TOOL: &str = "BULKHEAD_TEST_CLUSTER";
const IMAGE: &str = "bulkhead-test-deployed";

/// How long a cluster may take to do what is asked of it: a pod that is to go has a minute for that, by its manifest, and
/// one that is to come waits for its image, its volumes and its kubelet.
pub const CLUSTERS_PATIENCE: Duration = Duration::from_secs(90);

/// A node and the engine that its pods run on.
#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub engine: String,
}

/// The nodes; or what is missing to tell stories in a cluster.
pub fn nodes() -> Result<Vec<Node>, String> {
    for variable in ["KUBECONFIG", NODES, TOOL] {
        if std::env::var_os(variable).is_none() {
            return Err(format!("no cluster: {variable} is not set"));
        }
    }
    let listed = std::env::var(NODES).map_err(|error| format!("{NODES}: {error}"))?;
    let node = |node: &str| {
        let (name, engine) =
            node.split_once('=').ok_or_else(|| format!("{NODES}: {node:?} is no NODE=HOST"))?;
        Ok(Node { name: name.to_owned(), engine: engine.to_owned() })
    };
    listed.split(',').map(node).collect()
}

/// Whether stories have to be told, and are not to be left out for want of anything: in a build that has a cluster made.
pub fn is_required() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true") && std::env::var_os(TOOL).is_some()
}

/// The product, deployed. [`Deployment::delete`] or the process's end takes it away.
#[derive(Debug)]
pub struct Deployment {
    pub nodes: Vec<Node>,
    pub namespace: String,
    overlay: TempDir,
    /// Where Services are: they keep their addresses.
    services: Mutex<BTreeMap<String, IpAddr>>,
}

impl Deployment {
    /// Brings it into the cluster with `kubectl apply -k`. `pools`: the spec's, YAML beneath `pools:`.
    pub fn apply(pools: &str) -> Self {
        let nodes = nodes().unwrap_or_else(|why| panic!("{why}"));
        let image = image(&nodes, IMAGE);
        let namespace = format!("bulkhead-test-deployed-{}", std::process::id());
        let overlay = tempfile::Builder::new().prefix("bulkhead-overlay-").tempdir_in("/tmp").unwrap();
        let deployment = Self { nodes, namespace, overlay, services: Mutex::default() };
        deployment.write_overlay(&image);
        deployment.change_spec(pools);
        // Clients are sent to them from then on.
        deployment.must(&["rollout", "status", "deployment/bulkhead-door", "--timeout=120s"]);
        deployment
    }

    fn write_overlay(&self, image: &str) {
        let (name, tag) = image.split_once(':').unwrap();
        // Resources have to be said relative to the overlay.
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s").canonicalize().unwrap();
        let base = format!("../..{}", base.display());
        let (namespace, first) = (&self.namespace, &self.nodes[0].name);
        let text = format!(
            "\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: {namespace}
resources: [{base}]
images: [{{ name: bulkhead, newName: {name}, newTag: {tag} }}]
configMapGenerator:
  - name: bulkhead
    behavior: replace
    files: [bulkhead.yaml]
generatorOptions: {{ disableNameSuffixHash: true }}
patches:
  - target: {{ kind: Deployment }}
    patch: |-
      - op: add
        path: /spec/template/spec/nodeSelector
        value: {{ kubernetes.io/hostname: {first} }}
"
        );
        std::fs::write(self.overlay.path().join("kustomization.yaml"), text).unwrap();
    }

    /// Applies the overlay with these pools.
    pub fn change_spec(&self, pools: &str) {
        let mut spec = "backend: kubernetes\napi: { listen: 0.0.0.0:9090 }\npools:\n".to_owned();
        for line in pools.lines() {
            spec.push_str(&format!("  {line}\n"));
        }
        std::fs::write(self.overlay.path().join("bulkhead.yaml"), spec).unwrap();
        self.reapply();
    }

    fn reapply(&self) {
        let overlay = self.overlay.path().to_str().unwrap().to_owned();
        run("kubectl", &["apply", "-k", &overlay]).unwrap_or_else(|why| panic!("{why}"));
    }

    /// Applies the overlay with the same program under another image's name, which it returns.
    pub fn upgrade(&self) -> String {
        let (old, new) = (image(&self.nodes, IMAGE), format!("{IMAGE}:next"));
        for node in &self.nodes {
            run("docker", &["-H", &node.engine, "tag", &old, &new]).unwrap_or_else(|why| panic!("{why}"));
        }
        self.write_overlay(&new);
        self.reapply();
        new
    }

    /// What the API says to the same with a component, which it is only asked about.
    pub fn would_apply_with(&self, component: &str) -> String {
        let overlay = tempfile::Builder::new().prefix("bulkhead-overlay-").tempdir_in("/tmp").unwrap();
        let ours = self.overlay.path().file_name().unwrap().display();
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s").canonicalize().unwrap();
        let text = format!(
            "namespace: {}\nresources: [../{ours}]\ncomponents: [../..{}/components/{component}]\n",
            self.namespace,
            manifests.display()
        );
        std::fs::write(overlay.path().join("kustomization.yaml"), text).unwrap();
        let overlay = overlay.path().to_str().unwrap();
        run("kubectl", &["apply", "--dry-run=server", "-k", overlay]).unwrap_or_else(|why| panic!("{why}"))
    }

    /// `kubectl` in our namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        run("kubectl", &[&["-n", &self.namespace], arguments].concat())
    }

    pub fn must(&self, arguments: &[&str]) -> String {
        self.kubectl(arguments).unwrap_or_else(|why| panic!("{why}"))
    }

    /// The command line, in the pod of the controller that leads: its Service has that one alone.
    pub fn bulkhead(&self, arguments: &[&str]) -> Result<String, String> {
        let inside = ["exec", "service/bulkhead-controller", "--", "/bulkhead"];
        self.kubectl(&[&inside, arguments].concat())
    }

    /// Whether the API lets a service account of ours do that, in the words of `kubectl auth can-i`.
    pub fn may(&self, account: &str, what: &str) -> bool {
        let account = format!("--as=system:serviceaccount:{}:{account}", self.namespace);
        let mut asks = Command::new("kubectl");
        asks.args(["-n", &self.namespace, "auth", "can-i", &account]).args(what.split(' '));
        // That it may not is said with an exit code, too.
        let said = asks.stdin(Stdio::null()).output().unwrap();
        match String::from_utf8_lossy(&said.stdout).split_whitespace().next() {
            Some("yes") => true,
            Some("no") => false,
            _ => panic!("{asks:?}: {said:?}"),
        }
    }

    /// Where the Service of that name is.
    pub fn service(&self, name: &str, port: u16) -> SocketAddr {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let address = services.entry(name.to_owned()).or_insert_with(|| {
            self.must(&["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"]).parse().unwrap()
        });
        SocketAddr::new(*address, port)
    }

    /// Where a pod itself listens.
    pub fn pod_address(&self, pod: &str, port: u16) -> SocketAddr {
        let address = self.must(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]);
        SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
    }

    /// Lets nothing through to these workers, and nothing from them: to others their machine has vanished.
    pub fn silence<'w>(&self, workers: impl IntoIterator<Item = &'w Worker>) -> Cut {
        // All of them at one moment: who they are is asked before.
        let addresses: Vec<String> = workers
            .into_iter()
            .map(|worker| self.pod_address(worker.pod.as_deref().unwrap(), 0).ip().to_string())
            .collect();
        Cut::of(addresses.iter().flat_map(|address| {
            ["-s", "-d"].map(|way| ["FORWARD", way, address].map(str::to_owned).to_vec())
        }))
    }

    pub fn web(&self) -> SocketAddr {
        self.service("bulkhead", 80)
    }

    pub fn connect(&self) -> Connection {
        Connection::to(self.web())
    }

    /// The API of the controller that leads, once there is one: its Service leads to it alone.
    pub fn api(&self) -> Api {
        // As long as the process: each deployment has one.
        static TOKEN: OnceLock<String> = OnceLock::new();
        let token = TOKEN.get_or_init(|| {
            let secret = || {
                self.kubectl(&[
                    "get",
                    "secret",
                    "bulkhead-ca",
                    "-o",
                    "go-template={{index .data \"api-token\" | base64decode}}",
                ])
            };
            eventually("a controller has made the token", secret)
        });
        let api = Api::at(self.service("bulkhead-controller", 9090)).bearing(Some(token.as_str()));
        eventually("a controller leads", || {
            let mut connection = Connection::try_to(api.address()).map_err(|error| error.to_string())?;
            // Who leads asks for a token; one that waits answers nothing of the kind.
            let host = api.address();
            let asked = format!("GET /api/v1/whoami HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let answer = connection.try_send(asked).and_then(|()| connection.try_response());
            let status = answer.map_err(|error| error.to_string())?.status;
            if status == 401 { Ok(()) } else { Err(status.to_string()) }
        });
        api
    }

    /// Waits until so many workers of `pool` take turns, and it is known where they are.
    pub fn ready(&self, pool: &str, workers: usize) -> Vec<Worker> {
        self.ready_where(pool, workers, "they do", |_| true)
    }

    /// The same, of workers who satisfy `is`.
    pub fn ready_where(
        &self,
        pool: &str,
        workers: usize,
        what: &str,
        is: impl Fn(&Worker) -> bool,
    ) -> Vec<Worker> {
        let api = self.api();
        let what = format!("{workers} workers of {pool} are ready, and {what}");
        eventually_within(CLUSTERS_PATIENCE, &what, || {
            let all: Vec<_> = api.try_workers()?.into_iter().filter(|it| it.pool == pool).collect();
            let good = |it: &Worker| it.is_ready() && it.node.is_some() && is(it);
            if all.len() == workers && all.iter().all(good) { Ok(all) } else { Err(format!("{all:?}")) }
        })
    }

    /// Waits for the worker that holds a request which begins so.
    pub fn holder_of(&self, request: &str) -> Worker {
        let api = self.api();
        eventually(&format!("somebody holds {request}"), || {
            let workers = api.try_workers()?;
            let holder = workers.iter().find(|it| it.holding.iter().any(|held| held.starts_with(request)));
            holder.filter(|it| it.node.is_some()).cloned().ok_or_else(|| format!("{workers:?}"))
        })
    }

    /// The names of the pods of a component, those on their way out left aside.
    pub fn pods(&self, component: &str) -> Vec<String> {
        let pods = self.pods_as_they_are(component).into_iter();
        pods.filter(|it| it["metadata"]["deletionTimestamp"].is_null())
            .map(|it| it["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// All pods of a component, as the API tells of them.
    pub fn pods_as_they_are(&self, component: &str) -> Vec<Value> {
        let label = format!("app.kubernetes.io/component={component}");
        let listed: Value =
            serde_json::from_str(&self.must(&["get", "pods", "-l", &label, "-o", "json"])).unwrap();
        listed["items"].as_array().unwrap().clone()
    }

    /// One more door, which is on that node and nobody's replica. Whoever has made it takes it away.
    pub fn door_on(&self, node: &str) -> String {
        let made: Value =
            serde_json::from_str(&self.must(&["get", "deployment", "bulkhead-door", "-o", "json"])).unwrap();
        let mut pod = made["spec"]["template"].clone();
        let name = format!("bulkhead-door-on-{node}");
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = name.clone().into();
        pod["spec"]["nodeSelector"]["kubernetes.io/hostname"] = node.into();
        let manifest = self.overlay.path().join("door.json");
        std::fs::write(&manifest, pod.to_string()).unwrap();
        self.must(&["apply", "-f", manifest.to_str().unwrap()]);
        self.must(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=90s"]);
        name
    }

    /// Which controller leads, by the lease.
    pub fn leader(&self) -> String {
        self.must(&["get", "lease", "bulkhead-controller", "-o", "jsonpath={.spec.holderIdentity}"])
    }

    /// Kills the worker in its container, past the cluster: what the kernel does for want of memory, or a fault.
    pub fn kill_past_the_cluster(&self, pod: &str, node: &str, container: &str) {
        let (engine, id) = self.container(pod, node, container);
        run("docker", &["-H", engine, "kill", "--signal", "KILL", &id]).unwrap();
    }

    /// The first process of a container, as this machine numbers it.
    pub fn process(&self, pod: &str, node: &str, container: &str) -> Pid {
        let (engine, id) = self.container(pod, node, container);
        let pid = run("docker", &["-H", engine, "inspect", "--format", "{{.State.Pid}}", &id]).unwrap();
        Pid::from_raw(pid.parse().unwrap()).expect("the container runs")
    }

    /// The engine of the node, and the container's name there.
    fn container(&self, pod: &str, node: &str, container: &str) -> (&str, String) {
        let engine = &self.nodes.iter().find(|it| it.name == node).unwrap().engine;
        let labels = [("pod.name", pod), ("pod.namespace", &self.namespace), ("container.name", container)];
        let filters = labels.map(|(label, value)| format!("--filter=label=io.kubernetes.{label}={value}"));
        let [pod, namespace, container] = &filters;
        (engine, run("docker", &["-H", engine, "ps", "-q", pod, namespace, container]).unwrap())
    }

    /// `kubectl delete -k`.
    pub fn delete(&self) {
        run("kubectl", &["delete", "-k", self.overlay.path().to_str().unwrap()])
            .unwrap_or_else(|why| panic!("{why}"));
    }

    /// All that there is of it in the cluster and on its nodes.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let namespaces = run("kubectl", &["get", "namespaces", "-o", "name"]).unwrap();
        left.extend(namespaces.lines().filter(|it| it.ends_with(&self.namespace)).map(str::to_owned));
        let ours = format!("--filter=label=io.kubernetes.pod.namespace={}", self.namespace);
        for node in &self.nodes {
            let containers = run("docker", &["-H", &node.engine, "ps", "-aq", &ours]).unwrap();
            left.extend(containers.lines().map(|it| format!("{}: container {it}", node.name)));
        }
        left
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let _ =
            run("kubectl", &["delete", "namespace", &self.namespace, "--ignore-not-found", "--wait=false"]);
    }
}

/// `kubectl port-forward`, for as long as this is there.
#[derive(Debug)]
pub struct Forward {
    kubectl: Child,
    /// It says a line for each connection, and would die of a pipe that nobody reads from.
    _says: BufReader<ChildStdout>,
    /// Where it listens on this machine.
    pub address: SocketAddr,
}

impl Forward {
    /// To a port of whatever `what` names.
    pub fn to(deployment: &Deployment, what: &str, port: u16) -> Self {
        // A port of this machine that nobody has.
        let ports = format!(":{port}");
        let mut kubectl = Command::new("kubectl")
            .args(["-n", &deployment.namespace, "port-forward", what, &ports])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut says, mut line) = (BufReader::new(kubectl.stdout.take().unwrap()), String::new());
        says.read_line(&mut line).unwrap();
        let address =
            line.strip_prefix("Forwarding from ").and_then(|it| it.split(" -> ").next()?.parse().ok());
        let address = address.unwrap_or_else(|| {
            let _ = kubectl.kill();
            panic!("kubectl port-forward said {line:?}, and then {:?}", kubectl.wait())
        });
        Self { kubectl, _says: says, address }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// Packets that are dropped without a word, for as long as this is there: `iptables` rules without their `-j`.
#[derive(Debug)]
pub struct Cut(Vec<Vec<String>>);

impl Cut {
    pub fn of(rules: impl IntoIterator<Item = Vec<String>>) -> Self {
        let mut cut = Self(Vec::new());
        for rule in rules {
            Self::change("-I", &rule).unwrap_or_else(|why| panic!("{why}"));
            cut.0.push(rule);
        }
        cut
    }

    fn change(how: &str, rule: &[String]) -> Result<String, String> {
        let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
        run("iptables", &[&["-w", how], rule.as_slice(), &["-j", "DROP"]].concat())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        for rule in &self.0 {
            if let Err(why) = Self::change("-D", rule) {
                eprintln!("{why}");
            }
        }
    }
}

/// Does something to the cluster itself, and says when that was done.
pub fn cluster(command: &str) -> Instant {
    let tool = std::env::var(TOOL).unwrap();
    run(&tool, &[command]).unwrap_or_else(|why| panic!("{why}"));
    Instant::now()
}

/// Packs the program into an image of that name that every node has.
pub fn image(nodes: &[Node], name: &str) -> String {
    let first = &nodes[0].engine;
    let mut pack = Command::new(BULKHEAD);
    let packed = said(pack.args(["image"]).env("DOCKER_HOST", first)).unwrap();
    let packed = packed.split_whitespace().last().unwrap().to_owned();
    let image = format!("{name}:{}", packed.rsplit(':').next().unwrap());
    run("docker", &["-H", first, "tag", &packed, &image]).unwrap();
    for node in nodes {
        let tags = ["-H", &node.engine, "images", "--format", "{{.Repository}}:{{.Tag}}", name];
        let there = run("docker", &tags).unwrap();
        if !there.lines().any(|tag| tag == image) {
            copy(first, &node.engine, &image);
        }
        for old in there.lines().filter(|tag| *tag != image) {
            // One that a pod still has stays.
            let _ = run("docker", &["-H", &node.engine, "rmi", old]);
        }
    }
    image
}

fn copy(from: &str, to: &str, image: &str) {
    let mut save =
        Command::new("docker").args(["-H", from, "save", image]).stdout(Stdio::piped()).spawn().unwrap();
    let archive = save.stdout.take().unwrap();
    let loaded = Command::new("docker").args(["-H", to, "load"]).stdin(archive).output().unwrap();
    assert!(save.wait().unwrap().success() && loaded.status.success(), "{loaded:?}");
}

/// Runs a command; what it printed, or what it complained of.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    said(Command::new(program).args(arguments))
        .map_err(|why| format!("{program} {}: {why}", arguments.join(" ")))
}

fn said(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// For how long, in words.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
