//! From a spec to a running master: what `up` and `controller` have in common.
//!
//! [`prepare`] does everything that can fail before anything is started: it reads the spec, takes the run
//! directory for this controller alone, binds the API's address and finds the backend. [`Prepared::start`] cannot
//! fail. So an error leaves nothing half-started, and what is started is stopped in one place, [`Running::stop`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use server::config::Tunnel;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::follow::Source;
use super::interrupts::Interrupts;
use super::pods::{Lead, Pods, PodsOptions, Whereabouts};
use super::quarters::Quarters;
use super::tokens::{self, Audience};
use super::tunnel;
use crate::api;
use crate::backend::docker::{self, DockerBackend, DockerOptions, Engine};
use crate::backend::kubernetes::{self, Cluster, KubernetesBackend};
use crate::backend::process::ProcessBackend;
use crate::backend::{Backend, BackendKind, Home};
use crate::certificates::files;
use crate::door::{self, Approach, Site};
use crate::model::StopScope;
use crate::rundir::Lock;
use crate::rundir::RunDir;
use crate::spec::{self, Overrides, SpecError};
use crate::spec::{BackendChoice, Deployment};
use crate::supervisor::{self, Dialling, Doors, Handle, Scales, StopSummary};

/// Where root's deployment is, of which a machine has one.
const USUAL_RUN_DIR: &str = "/run/bulkhead";

/// How long the door has to end workers that only it reaches at once, before it is cut off itself.
const DOOR_ENDS_WORKERS: Duration = Duration::from_secs(1);

/// Which deployment a role belongs to.
#[derive(Debug, Args)]
pub(super) struct DeploymentArgs {
    /// The spec file; ./bulkhead.yaml if it exists, else a default with an HTTP and an echo pool
    #[arg(long, short = 'f', env = "BULKHEAD_SPEC", value_name = "FILE")]
    spec: Option<PathBuf>,
    /// Where door, controller and workers meet; one deployment, one directory
    #[arg(long, env = "BULKHEAD_RUN_DIR", value_name = "DIRECTORY")]
    run_dir: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
}

impl DeploymentArgs {
    /// The spec, with what the command line overrides.
    pub(super) fn load(&self) -> Result<Deployment, SpecError> {
        spec::load(self.spec.as_deref(), &self.overrides)
    }

    /// Where the spec is, and what is in it.
    fn source(&self) -> Result<Source, SpecError> {
        Source::find(self.spec.clone(), self.overrides.clone())
    }

    /// The run directory, which need not exist yet.
    pub(super) fn run_dir(&self) -> anyhow::Result<RunDir> {
        let path = match &self.run_dir {
            Some(path) => std::path::absolute(path)?,
            None => RunDir::default_path(),
        };
        Ok(RunDir::at(path))
    }
}

/// What `up` and `controller` are told alike.
#[derive(Debug, Args)]
pub(super) struct MasterArgs {
    #[command(flatten)]
    deployment: DeploymentArgs,
    /// Whose workers these are, where several deployments share an engine [default: by the run directory]
    #[arg(long, env = "BULKHEAD_OWNER", value_name = "NAME")]
    owner: Option<String>,
    /// Serve /metrics at this address too, to whoever asks: no token, and nothing else to be had there
    #[arg(long, env = "BULKHEAD_METRICS", value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    docker: DockerOptions,
    #[command(flatten)]
    pods: PodsOptions,
}

impl MasterArgs {
    /// Two deployments on one engine tell their workers apart by their owner, so it is taken from what they cannot
    /// share: the run directory. The usual one of root, of which a machine has one, has the short name.
    fn owner(&self, run_dir: &RunDir) -> String {
        let usual = || run_dir.path() == std::path::Path::new(USUAL_RUN_DIR);
        match &self.owner {
            Some(owner) => owner.clone(),
            None if usual() => docker::DEFAULT_OWNER.to_owned(),
            None => run_dir.path().display().to_string(),
        }
    }

    /// The same for a deployment whose door is on this machine and whose workers are in a cluster, as others' may be
    /// whose machines have the same directories.
    fn owner_abroad(&self, run_dir: &RunDir) -> String {
        let by_itself = || format!("{}{}", kubernetes::host_name(), run_dir.path().display());
        self.owner.clone().unwrap_or_else(by_itself)
    }
}

/// A deployment that is ready to be started, and of which nothing has been started yet.
pub(super) struct Prepared {
    pub(super) deployment: Deployment,
    /// Where that came from.
    pub(super) source: Source,
    changes: BoxStream<'static, String>,
    pub(super) run_dir: RunDir,
    /// The program that door and workers run.
    pub(super) program: PathBuf,
    pub(super) choice: Choice,
    backend: Arc<dyn Backend>,
    api: TcpListener,
    metrics: Option<TcpListener>,
    admission: api::Admission,
    /// What people have to know of the API's token; empty where none is asked for.
    pub(super) token_note: String,
    pub(super) api_address: SocketAddr,
    secret: server::identity::Secret,
    doors: Doors,
    /// How workers find doors over TCP.
    dialling: Option<Dialling>,
    /// Where several controllers might be at it: that it is us.
    lead: Option<Lead>,
    /// Dropped before the lock.
    scaffold: Scaffold,
    lock: Lock,
}

/// A run directory that this start has made. It goes with a start that comes to nothing, however that ends. There is one
/// only while the lock is held: of two starts at once, the one that comes too late must not take the other's away.
struct Scaffold(Option<RunDir>);

impl Drop for Scaffold {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|run_dir| run_dir.remove()) {
            tracing::warn!(%error, "the run directory stays");
        }
    }
}

/// Whose the run directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meeting {
    /// This process makes it, and removes it in the end.
    Ours,
    /// Others meet there too; whoever deploys may have made it.
    Shared,
}

/// Which backend it is to be, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) kind: BackendKind,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    Asked,
    AtHome,
    Inside(String),
    EngineAnswers(String),
    NoEngine(String),
}

/// Does all that may fail. Dropped half-way, it leaves nothing behind but directories.
pub(super) async fn prepare(args: &MasterArgs, meeting: Meeting) -> anyhow::Result<Prepared> {
    // Door and workers see to their own.
    let _ = server::door::raise_descriptor_limit();
    let mut source = args.deployment.source()?;
    let mut deployment = source.understand(&source.text)?;
    let run_dir = args.deployment.run_dir()?;
    let is_new = meeting == Meeting::Ours && !run_dir.path().exists();
    match meeting {
        Meeting::Ours => run_dir.create()?,
        Meeting::Shared => run_dir.join()?,
    }
    let lock = run_dir.lock()?;
    let scaffold = Scaffold(is_new.then(|| RunDir::at(run_dir.path())));
    let mut secret = run_dir.secret(&lock)?;
    let api = bind("the API", "--api", deployment.api.listen).await?;
    let metrics = match args.metrics {
        Some(listen) => Some(bind("/metrics", "--metrics", listen).await?),
        None => None,
    };
    let mut home =
        Home { owner: args.owner(&run_dir), run_dir: run_dir.path().to_owned(), program: program()? };
    let before = Quarters::noted(&run_dir)?;
    let at_home = match before {
        Some(Quarters::Process) => !Quarters::Process.living(&home, &args.docker).await?.is_empty(),
        Some(Quarters::Docker { .. } | Quarters::Kubernetes { .. }) | None => false,
    };
    let (choice, ground) = choose(deployment.backend, at_home, args, meeting, &api).await?;
    if let Ground::Cluster(_, Whereabouts::Here) = ground {
        home.owner = args.owner_abroad(&run_dir);
    }
    let quarters = match &ground {
        Ground::Machine => Quarters::Process,
        Ground::Engine(engine) => Quarters::on(engine, &home),
        Ground::Cluster(cluster, _) => Quarters::in_pods(cluster, &home.owner),
    };
    if let Some(before) = before.filter(|before| *before != quarters) {
        before.must_be_empty(&home, &args.docker).await?;
    }
    let hosts = match &ground {
        Ground::Engine(engine) => tunnel::open_to_containers(&mut deployment, engine).await?,
        Ground::Cluster(cluster, Whereabouts::Here) => {
            tunnel::open_to_pods(&deployment, cluster.address()).await?
        }
        Ground::Machine | Ground::Cluster(_, Whereabouts::InTheCluster) => BTreeMap::new(),
    };
    let is_here = !matches!(ground, Ground::Cluster(_, Whereabouts::InTheCluster));
    let ca = match deployment.tunnel {
        Some(Tunnel { tls: true, .. }) if is_here => Some(files::authority(&run_dir, &lock)?),
        Some(_) | None => None,
    };
    let mut dialling =
        deployment.tunnel.map(|Tunnel { tls, .. }| Dialling { tls, ca, hosts, besides: Vec::new() });
    let mut doors = Doors {
        sites: door::only(Site::here(run_dir.control_socket())).boxed(),
        approach: Approach::plain(secret.clone()),
    };
    let (mut lead, mut is_to_lead) = (None, None);
    let mut changes = None;
    let backend: Arc<dyn Backend> = match ground {
        Ground::Machine => {
            // Otherwise they would dial until their start time-out is over, again and again.
            if rustix::process::geteuid().is_root() && deployment.tunnel.is_none() {
                run_dir.is_within_reach()?;
            }
            Arc::new(ProcessBackend::new(&home)?)
        }
        Ground::Engine(engine) => Arc::new(DockerBackend::on(engine, &home, &args.docker).await?),
        Ground::Cluster(cluster, Whereabouts::Here) => {
            let backend = KubernetesBackend::on(cluster.clone(), &home.owner, &args.pods.kubernetes)?;
            is_to_lead = Some(cluster);
            Arc::new(backend)
        }
        Ground::Cluster(cluster, Whereabouts::InTheCluster) => {
            let spec = (&mut source, &mut deployment);
            let pods = Pods::lead(cluster, &home.owner, &args.pods, spec, &api).await?;
            (doors, dialling, secret) = (pods.doors, Some(pods.dialling), pods.secret);
            lead = Some(pods.lead);
            changes = Some(pods.changes);
            run_dir.keep_api_token(&lock, &pods.api_token)?;
            Arc::new(pods.backend)
        }
    };
    let api_address = api.local_addr()?;
    let (admission, token_note) = tokens::admission(&deployment.api, &run_dir, &lock, Audience::of_stdout())?;
    // As late as can be: it is the one thing here that is left where others see it.
    if let Some(cluster) = is_to_lead {
        let us = Cluster::identity_at(run_dir.path(), &secret);
        lead = Some(Lead::alone(&cluster, &home.owner, &us).await?);
    }
    quarters.note(&run_dir, &lock)?;
    Ok(Prepared {
        deployment,
        changes: changes.unwrap_or_else(|| source.changes().boxed()),
        source,
        run_dir,
        program: home.program,
        choice,
        backend,
        api_address,
        api,
        metrics,
        admission,
        token_note,
        secret,
        doors,
        dialling,
        lead,
        scaffold,
        lock,
    })
}

async fn bind(what: &str, flag: &str, listen: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).await.with_context(|| {
        format!(
            "{what} cannot listen on {listen}: stop what listens there (`ss -ltnp` names it), \
             or choose another address with {flag}"
        )
    })
}

/// This program, to be started again as door and workers.
fn program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("cannot find this program's own file")?;
    // Built anew or upgraded under our feet: the kernel still has what we run.
    Ok(if path.exists() { path } else { PathBuf::from("/proc/self/exe") })
}

/// What workers run on.
enum Ground {
    Machine,
    Engine(Engine),
    Cluster(Cluster, Whereabouts),
}

/// The backend, and what it needs. `at_home`: workers of an earlier run live as processes. `api`: where a controller answers
/// that waits for its cluster.
async fn choose(
    asked: BackendChoice,
    at_home: bool,
    args: &MasterArgs,
    meeting: Meeting,
    api: &TcpListener,
) -> anyhow::Result<(Choice, Ground)> {
    let namespace = args.pods.kubernetes.namespace.as_deref();
    // Whoever makes the run directory starts a door in it.
    let doors_are = match meeting {
        Meeting::Ours => Whereabouts::Here,
        Meeting::Shared => Whereabouts::InTheCluster,
    };
    let (kind, why, ground) = match asked {
        BackendChoice::Process => (BackendKind::Process, Why::Asked, Ground::Machine),
        BackendChoice::Docker => {
            let engine = docker::probe().await.context("there is no engine for `backend: docker`")?;
            (BackendKind::Docker, Why::Asked, Ground::Engine(engine))
        }
        BackendChoice::Kubernetes => {
            let cluster = doors_are.cluster(namespace, api).await;
            let cluster = cluster.context("there is no cluster for `backend: kubernetes`")?;
            (BackendKind::Kubernetes, Why::Asked, Ground::Cluster(cluster, doors_are))
        }
        BackendChoice::Auto if at_home => (BackendKind::Process, Why::AtHome, Ground::Machine),
        BackendChoice::Auto if kubernetes::is_inside() => {
            let cluster = doors_are.cluster(namespace, api).await?;
            let why = Why::Inside(cluster.name().to_owned());
            (BackendKind::Kubernetes, why, Ground::Cluster(cluster, doors_are))
        }
        BackendChoice::Auto => match docker::probe().await {
            Ok(engine) => (BackendKind::Docker, Why::EngineAnswers(engine.name()), Ground::Engine(engine)),
            Err(error) => (
                BackendKind::Process,
                Why::NoEngine(format!("{:#}", anyhow::Error::new(error))),
                Ground::Machine,
            ),
        },
    };
    Ok((Choice { kind, why }, ground))
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workers_are = match self.kind {
            BackendKind::Process => "process: workers are plain processes of this machine",
            BackendKind::Docker => "docker: each worker is a container",
            BackendKind::Kubernetes => "kubernetes: each worker is a pod",
        };
        f.write_str(workers_are)?;
        match &self.why {
            Why::Asked => f.write_str(", as asked"),
            Why::AtHome => f.write_str(", because those of an earlier run are there"),
            Why::Inside(cluster) => write!(f, ", because this is a pod of one ({cluster})"),
            Why::EngineAnswers(engine) => write!(f, ", because an engine answers ({engine})"),
            Why::NoEngine(reason) => write!(f, ", because no Docker engine answers ({reason})"),
        }
    }
}

/// Master and API of a deployment.
pub(super) struct Running {
    pub(super) master: Handle,
    /// The spec, each time that it is another one.
    pub(super) changes: BoxStream<'static, String>,
    run_dir: RunDir,
    api: JoinHandle<std::io::Result<()>>,
    end_api: DropGuard,
    /// Kept until everything is stopped, so that no second controller interferes.
    _lock: Lock,
    lead: Option<Lead>,
    longest_drain: Duration,
}

impl Prepared {
    /// The longest that any pool may take to drain.
    pub(super) fn longest_drain(&self) -> Duration {
        self.deployment.pools.iter().map(|pool| pool.door.timeouts.drain).max().unwrap_or_default()
    }

    /// It is not started after all: what others might have seen of it goes.
    pub(super) async fn give_up(self) {
        if let Some(lead) = self.lead {
            lead.end().await;
        }
    }

    /// Starts the master and serves the API.
    pub(super) fn start(mut self) -> Running {
        self.scaffold.0 = None;
        let longest_drain = self.longest_drain();
        let scales = match self.lead.as_ref().and_then(Lead::keeps_scales) {
            Some(keep) => Scales::left_with(keep, &self.deployment.pools),
            None => Scales::left_at(self.run_dir.scale(), &self.deployment.pools),
        };
        let master = supervisor::start(supervisor::Config {
            scales,
            pools: self.deployment.pools,
            doors: self.doors,
            dialling: self.dialling,
            secret: self.secret,
            backend: self.backend,
        });
        if let Some(lead) = &self.lead {
            lead.leave_when_lost();
        }
        let end_api = CancellationToken::new();
        let ended = || end_api.clone().cancelled_owned();
        let api = tokio::spawn(api::serve(self.api, Arc::new(master.clone()), self.admission, ended()));
        if let Some(listener) = self.metrics {
            tokio::spawn(api::serve_metrics(listener, Arc::new(master.clone()), ended()));
        }
        Running {
            master,
            changes: self.changes,
            run_dir: self.run_dir,
            api,
            end_api: end_api.drop_guard(),
            _lock: self.lock,
            lead: self.lead,
            longest_drain,
        }
    }
}

impl Running {
    /// Whether another controller takes over when this one goes, so that the workers are to stay.
    pub(super) fn has_successors(&self) -> bool {
        self.lead.as_ref().is_some_and(Lead::has_successors)
    }

    /// Goes and leaves everything as it is, to the next controller.
    pub(super) async fn hand_over(self) {
        // Whoever takes over acts at once. By then nobody may do so here.
        self.master.leave().await;
        drop(self.end_api);
        if let Some(lead) = self.lead {
            lead.end().await;
        }
    }

    /// Drains and removes everything within `scope`. When somebody interrupts that, all workers are killed at once and
    /// `cut_off` is called a moment later, which sees to the rest. When somebody interrupts even that, it waits for nothing more.
    pub(super) async fn stop(
        self,
        scope: StopScope,
        interrupts: &mut Interrupts,
        cut_off: impl Fn(),
    ) -> anyhow::Result<StopSummary> {
        let mut stop = std::pin::pin!(self.master.stop(scope, self.longest_drain));
        let summary = loop {
            // The stop first: before it has been asked for there is nothing to cut off.
            tokio::select! {
                biased;
                summary = &mut stop => break summary?,
                _ = interrupts.next() => {
                    // Refused only by a master that has stopped this very moment.
                    let _ = self.master.cut_off().await;
                    if let Ok(summary) = timeout(DOOR_ENDS_WORKERS, &mut stop).await {
                        break summary?;
                    }
                    cut_off();
                }
            }
        };
        drop(self.end_api);
        if let Some(lead) = self.lead {
            lead.end().await;
        }
        // A client that keeps its connection open must not keep us from going.
        let _ = timeout(Duration::from_secs(1), self.api).await;
        if scope == StopScope::DoorToo && summary.verified && !summary.door_remains {
            remove(&self.run_dir);
        }
        Ok(summary)
    }
}

/// Removes what is ours.
fn remove(run_dir: &RunDir) {
    if let Err(error) = run_dir.remove() {
        tracing::warn!("{:#}", anyhow::Error::new(error));
    }
}

/// What was done, in a sentence.
pub(super) fn account(summary: &StopSummary) -> String {
    let mut said = format!("Stopped; workers that finished what they held: {}", summary.clean);
    if summary.killed > 0 {
        said += &format!("; cut off: {}", summary.killed);
    }
    said.push('\n');
    for life in &summary.left_behind {
        said += &format!("Left behind, because the backend did not answer: {life}\n");
    }
    if !summary.verified {
        said += "The backend has not said whether anything else is left; started again, it is found and adopted\n";
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_of_a_backend_is_explained() {
        let told = |kind, why| Choice { kind, why }.to_string();
        insta::assert_snapshot!(told(BackendKind::Docker, Why::Asked), @"docker: each worker is a container, as asked");
        insta::assert_snapshot!(told(BackendKind::Process, Why::AtHome), @"process: workers are plain processes of this machine, because those of an earlier run are there");
        let engine = Why::EngineAnswers("Docker 20.10.24 at unix:///var/run/docker.sock".to_owned());
        insta::assert_snapshot!(told(BackendKind::Docker, engine), @"docker: each worker is a container, because an engine answers (Docker 20.10.24 at unix:///var/run/docker.sock)");
        let none = Why::NoEngine("no socket at /var/run/docker.sock".to_owned());
        insta::assert_snapshot!(told(BackendKind::Process, none), @"process: workers are plain processes of this machine, because no Docker engine answers (no socket at /var/run/docker.sock)");
    }

    #[test]
    fn what_was_left_behind_is_named() -> Result<(), server::identity::NameError> {
        let clean =
            StopSummary { clean: 8, killed: 0, left_behind: Vec::new(), verified: true, door_remains: false };
        insta::assert_snapshot!(account(&clean), @"Stopped; workers that finished what they held: 8");
        let torn = StopSummary {
            clean: 6,
            killed: 1,
            left_behind: vec!["web-3.7".parse()?],
            verified: false,
            door_remains: false,
        };
        insta::assert_snapshot!(account(&torn), @r"
        Stopped; workers that finished what they held: 6; cut off: 1
        Left behind, because the backend did not answer: web-3.7
        The backend has not said whether anything else is left; started again, it is found and adopted
        ");
        Ok(())
    }
}
