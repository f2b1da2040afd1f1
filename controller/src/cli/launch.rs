//! From a spec to a running master: what `up` and `controller` have in common.
//!
//! [`prepare`] does everything that can fail before anything is started: it reads the spec, takes the run
//! directory for this controller alone, binds the API's address and finds the backend. [`Prepared::start`] cannot
//! fail. So an error leaves nothing half-started, and what is started is stopped in one place, [`Running::stop`].

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::interrupts::Interrupts;
use super::pending::{self, Handle, Overrides, SpecError, StopScope, StopSummary};
use crate::api::{self, Master};
use crate::backend::{Backend, BackendKind, Home};
use crate::rundir::RunDir;
use crate::spec::{BackendChoice, Deployment};

/// How long an engine may take to say that it is there, before `backend: auto` goes on without it.
const ENGINE_PATIENCE: Duration = Duration::from_secs(2);

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
        pending::load(self.spec.as_deref(), &self.overrides)
    }

    /// The run directory, which need not exist yet.
    pub(super) fn run_dir(&self) -> anyhow::Result<RunDir> {
        let path = match &self.run_dir {
            Some(path) => std::path::absolute(path)?,
            None => pending::default_path()?,
        };
        Ok(RunDir::at(path))
    }

    /// Whose workers these are. Two deployments on one engine tell theirs apart by it, so it is the one thing
    /// that they cannot share: the run directory.
    fn owner(&self, run_dir: &RunDir) -> String {
        std::env::var("BULKHEAD_OWNER").unwrap_or_else(|_| run_dir.path().display().to_string())
    }
}

/// A deployment that is ready to be started, and of which nothing has been started yet.
pub(super) struct Prepared {
    pub(super) deployment: Deployment,
    pub(super) run_dir: RunDir,
    /// The program that door and workers run.
    pub(super) program: PathBuf,
    pub(super) choice: Choice,
    backend: Arc<dyn Backend>,
    api: TcpListener,
    pub(super) api_address: SocketAddr,
    secret: server::identity::Secret,
    lock: pending::Lock,
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
    EngineAnswers(String),
    NoEngine(String),
}

/// Does all that may fail. Dropped half-way, it leaves nothing behind but directories.
pub(super) async fn prepare(args: &DeploymentArgs) -> anyhow::Result<Prepared> {
    let deployment = args.load()?;
    let run_dir = args.run_dir()?;
    let (lock, secret) = pending::occupy(&run_dir)?;
    let api = bind(deployment.api.listen).await?;
    let home = Home { owner: args.owner(&run_dir), run_dir: run_dir.path().to_owned(), program: program()? };
    let choice = choose(pending::choice(&deployment)).await;
    let backend = match choice.kind {
        BackendKind::Process => pending::process(&home)?,
        BackendKind::Docker => pending::docker(&home).await?,
    };
    Ok(Prepared {
        deployment,
        run_dir,
        program: home.program,
        choice,
        backend,
        api_address: api.local_addr()?,
        api,
        secret,
        lock,
    })
}

async fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).await.with_context(|| {
        format!(
            "the API cannot listen on {listen}: stop what listens there (`ss -ltnp` names it), \
             or choose another address with --api"
        )
    })
}

/// This program, to be started again as door and workers.
fn program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("cannot find this program's own file")?;
    // Built anew or upgraded under our feet: the kernel still has what we run.
    Ok(if path.exists() { path } else { PathBuf::from("/proc/self/exe") })
}

async fn choose(asked: BackendChoice) -> Choice {
    let why = match asked {
        BackendChoice::Process | BackendChoice::Docker => Why::Asked,
        BackendChoice::Auto => match tokio::time::timeout(ENGINE_PATIENCE, pending::probe_docker()).await {
            Ok(Ok(engine)) => Why::EngineAnswers(engine),
            Ok(Err(error)) => Why::NoEngine(format!("{error:#}")),
            Err(_) => Why::NoEngine(format!("it did not answer within {} s", ENGINE_PATIENCE.as_secs())),
        },
    };
    let kind = match (asked, &why) {
        (BackendChoice::Docker, _) | (BackendChoice::Auto, Why::EngineAnswers(_)) => BackendKind::Docker,
        (BackendChoice::Process | BackendChoice::Auto, _) => BackendKind::Process,
    };
    Choice { kind, why }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workers_are = match self.kind {
            BackendKind::Process => "process: workers are plain processes of this machine",
            BackendKind::Docker => "docker: each worker is a container",
        };
        f.write_str(workers_are)?;
        match &self.why {
            Why::Asked => f.write_str(", as asked"),
            Why::EngineAnswers(engine) => write!(f, ", because an engine answers ({engine})"),
            Why::NoEngine(reason) => write!(f, ", because no Docker engine answers ({reason})"),
        }
    }
}

/// Master and API of a deployment.
pub(super) struct Running {
    pub(super) master: Handle,
    run_dir: RunDir,
    api: JoinHandle<std::io::Result<()>>,
    end_api: oneshot::Sender<()>,
    /// Kept until everything is stopped, so that no second controller interferes.
    _lock: pending::Lock,
}

impl Prepared {
    /// Starts the master and serves the API.
    pub(super) fn start(self) -> Running {
        let master = pending::start(&self.deployment, self.backend, &self.run_dir, self.secret);
        let (end_api, ended) = oneshot::channel::<()>();
        let ended = async {
            // Sent or dropped, it means the same.
            let _ = ended.await;
        };
        let api = tokio::spawn(api::serve(self.api, Arc::new(master.clone()), ended));
        Running { master, run_dir: self.run_dir, api, end_api, _lock: self.lock }
    }
}

impl Running {
    /// Drains and removes everything within `scope`. When somebody interrupts that, the workers are killed and
    /// `cut_off` is called, which sees to the rest.
    pub(super) async fn stop(
        self,
        scope: StopScope,
        interrupts: &mut Interrupts,
        cut_off: impl FnOnce(),
    ) -> StopSummary {
        let mut stop = std::pin::pin!(self.master.stop(scope));
        let summary = match interrupts.unless(&mut stop).await {
            Some(summary) => summary,
            None => {
                cut_off();
                kill_all(&self.master).await;
                stop.await
            }
        };
        drop(self.end_api);
        // A client that keeps its connection open must not keep us from going.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.api).await;
        if scope == StopScope::DoorToo && summary.left.is_empty() {
            remove(&self.run_dir);
        }
        summary
    }
}

async fn kill_all(master: &Handle) {
    for worker in master.workers().await {
        if let Ok(id) = worker.id.parse() {
            // A worker that is gone already, or whose engine stalls, is counted by the stop that is under way.
            let _ = master.kill(&id, api::signal::Signal::KILL.number()).await;
        }
    }
}

/// Removes the run directory: by name what is ours in it, and itself if that leaves it empty.
fn remove(run_dir: &RunDir) {
    for ours in [run_dir.link_dir(), run_dir.workers_dir(), run_dir.control_dir()] {
        if let Err(error) = std::fs::remove_dir_all(&ours)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {error}", ours.display());
        }
    }
    // Not empty: somebody keeps something there.
    let _ = std::fs::remove_dir(run_dir.path());
}

/// What was done, in a sentence.
pub(super) fn account(summary: &StopSummary) -> String {
    let mut said = format!("stopped: {} workers finished what they held", summary.clean);
    if summary.killed > 0 {
        said += &format!(", {} were cut off", summary.killed);
    }
    said.push('\n');
    for left in &summary.left {
        said += &format!("left behind: {left}\n");
    }
    said
}
