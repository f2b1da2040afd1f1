//! `compose.yaml` from a clean checkout, under a name and on ports of its own.

use std::fmt;
use std::io::{Read, Seek};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use super::api::{Api, Worker};
use super::backend::docker;
use super::eventually;
use super::http::Connection;
use super::ports::free_ports;
use super::stack::BULKHEAD;

/// How long the image may take: a release build, on two cores that others use too.
const BUILD_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// How long the base image may take to come.
const PULL_PATIENCE: Duration = Duration::from_secs(5 * 60);
/// How long any other command may take. Above the grace that compose.yaml grants two services one after the other.
const COMMAND_PATIENCE: Duration = Duration::from_secs(120);

/// One of the two programs that read a compose.yaml.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compose {
    /// The plugin, `docker compose`.
    V2,
    /// `docker-compose` 1.x, as older distributions have it.
    V1,
}

/// What the test's checkout is of.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Compose {
    pub const ALL: [Self; 2] = [Self::V2, Self::V1];

    fn command(self) -> Command {
        match self {
            Self::V2 => {
                let mut command = Command::new("docker");
                command.arg("compose");
                command
            }
            Self::V1 => Command::new("docker-compose"),
        }
    }

    /// Whether the program is here; if not, why not.
    pub fn is_here(self) -> Result<(), String> {
        let mut command = self.command();
        command.args(["version", "--short"]);
        run(&mut command, COMMAND_PATIENCE).map(drop).map_err(|why| format!("no `{self}`: {}", why.trim()))
    }
}

impl fmt::Display for Compose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V2 => "docker compose",
            Self::V1 => "docker-compose",
        })
    }
}

/// Makes sure that the image which ours is built in is there, pulling it if need be.
pub fn base_image() -> Result<(), String> {
    let dockerfile =
        std::fs::read_to_string(repository().join("docker/Dockerfile")).map_err(|error| error.to_string())?;
    let named = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM ")?.split(' ').next());
    for image in named.filter(|image| *image != "scratch") {
        if docker(&["image", "inspect", image]).is_err() {
            run(Command::new("docker").args(["pull", "-q", image]), PULL_PATIENCE)
                .map_err(|why| format!("the base image {image} is not here and cannot be had: {why}"))?;
        }
    }
    Ok(())
}

/// A deployment. Dropping it ends it and removes all that there is of it, whatever has become of it.
pub struct Deployment {
    compose: Compose,
    checkout: TempDir,
    /// Of project, image and volumes alike.
    name: String,
    web: u16,
    echo: u16,
    api: u16,
}

impl Deployment {
    /// A checkout of what is committed, and nothing started yet.
    pub fn from_clean_checkout(compose: Compose) -> Self {
        let checkout = tempfile::Builder::new().prefix("bulkhead-compose-").tempdir().unwrap();
        let clone = ["clone", "--quiet", "--depth", "1"];
        let from = format!("file://{}", repository().canonicalize().unwrap().display());
        run(Command::new("git").args(clone).arg(from).arg(checkout.path()), COMMAND_PATIENCE)
            .unwrap_or_else(|why| panic!("cannot check out: {why}"));
        let [web, echo, api] = free_ports();
        let which = if compose == Compose::V1 { "v1" } else { "v2" };
        let name = format!("bulkhead-test-{}-{which}", std::process::id());
        Self { compose, checkout, name, web, echo, api }
    }

    fn compose(&self, arguments: &[&str], patience: Duration) -> Result<String, String> {
        let mut command = self.compose.command();
        command
            .args(["-p", &self.name, "-f", "compose.yaml"])
            .args(arguments)
            .current_dir(self.checkout.path())
            .env("BULKHEAD_NAME", &self.name)
            .env("WEB_PORT", self.web.to_string())
            .env("ECHO_PORT", self.echo.to_string())
            .env("API_PORT", self.api.to_string());
        run(&mut command, patience)
    }

    fn must(&self, arguments: &[&str], patience: Duration) {
        if let Err(why) = self.compose(arguments, patience) {
            panic!("`{} {}` failed: {why}", self.compose, arguments.join(" "));
        }
    }

    /// `up --build -d`, whose output is told when it fails.
    pub fn up_and_build(&self) {
        self.must(&["up", "--build", "-d"], BUILD_PATIENCE);
    }

    /// `up -d`: starts again what has stopped, and touches nothing else.
    pub fn up(&self) {
        self.must(&["up", "-d"], COMMAND_PATIENCE);
    }

    pub fn restart(&self, service: &str) {
        self.must(&["restart", service], COMMAND_PATIENCE);
    }

    /// `down -v`.
    pub fn down(&self) {
        self.must(&["down", "-v"], COMMAND_PATIENCE);
    }

    pub fn web(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.web).into()
    }

    pub fn connect(&self) -> Connection {
        Connection::to(self.web())
    }

    pub fn connect_to_echo(&self) -> Connection {
        Connection::to((Ipv4Addr::LOCALHOST, self.echo).into())
    }

    pub fn api(&self) -> Api {
        Api::at((Ipv4Addr::LOCALHOST, self.api).into())
    }

    /// What `bulkhead ARGUMENTS --json` says from outside, on this machine.
    pub fn bulkhead(&self, arguments: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(BULKHEAD);
        command.args(arguments).args(["--json", "--api", &format!("http://127.0.0.1:{}", self.api)]);
        let said = run(&mut command, COMMAND_PATIENCE)?;
        serde_json::from_str(&said).map_err(|error| format!("{error} in {said}"))
    }

    /// Waits until `bulkhead ps` lists so many workers of `pool` that are ready.
    pub fn ready(&self, pool: &str, workers: usize) -> Vec<Worker> {
        // A published port is open before anybody listens behind it, so the first question must be one that may fail.
        eventually(&format!("{workers} workers of {pool} are ready"), || {
            let listed = self.bulkhead(&["ps", "--pool", pool])?;
            let ready = |it: &Value| matches!(it["phase"].as_str(), Some("idle" | "busy"));
            let known = |it: &Value| it["container"].is_string();
            match listed.as_array() {
                Some(list) if list.len() == workers && list.iter().all(|it| ready(it) && known(it)) => Ok(()),
                _ => Err(format!("{listed:#}")),
            }
        });
        self.api().workers().into_iter().filter(|it| it.pool == pool).collect()
    }

    /// Waits for the worker that holds a request which begins so.
    pub fn holder_of(&self, request: &str) -> Worker {
        eventually(&format!("somebody holds {request}"), || {
            let workers = self.api().workers();
            let holder = workers.iter().find(|it| it.holding.iter().any(|held| held.starts_with(request)));
            holder.cloned().ok_or(workers)
        })
    }

    /// What the engine knows of the container of a service.
    pub fn inspect(&self, service: &str) -> Value {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let service = format!("label=com.docker.compose.service={service}");
        // Compose v2 labels the image as well, so workers have inherited the other two; this one they have not.
        let own = "label=com.docker.compose.config-hash";
        let filters = ["--filter", &project, "--filter", &service, "--filter", own];
        let id = docker(&[&["ps", "-aq", "--no-trunc"][..], &filters[..]].concat()).unwrap();
        serde_json::from_str::<Value>(&docker(&["inspect", &id]).unwrap()).unwrap()[0].take()
    }

    fn owner(&self) -> String {
        format!("label=io.bulkhead.owner={}-compose", self.name)
    }

    /// All that there is of it on the engine, but for the image, which `down` leaves to whoever may want it again.
    pub fn leftovers(&self) -> Vec<String> {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let named = format!("name={}", self.name);
        let mut left = Vec::new();
        for (kind, list) in [
            ("worker", ["ps", "-aq", "--filter", &self.owner()]),
            ("container", ["ps", "-aq", "--filter", &project]),
            ("volume", ["volume", "ls", "-q", &format!("--filter={named}")]),
            ("network", ["network", "ls", "-q", &format!("--filter={named}")]),
        ] {
            let listed = docker(&list).unwrap_or_else(|why| panic!("cannot list: {why}"));
            left.extend(listed.lines().map(|it| format!("{kind} {it}")));
        }
        left
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.compose(&["logs", "--no-color", "--tail", "200"], COMMAND_PATIENCE);
            eprintln!("── the logs of {} ──\n{}", self.name, logs.unwrap_or_else(|why| why));
        }
        // First whoever would start more of the others.
        let _ = self.compose(&["kill"], COMMAND_PATIENCE);
        let workers = docker(&["ps", "-aq", "--filter", &self.owner()]).unwrap_or_default();
        for worker in workers.lines() {
            let _ = docker(&["rm", "-f", worker]);
        }
        let _ = self.compose(&["down", "-v"], COMMAND_PATIENCE);
        let _ = docker(&["image", "rm", &format!("{}:compose", self.name)]);
    }
}

/// Runs a command to its end: what it said, or in what way it failed and what it said before.
fn run(command: &mut Command, patience: Duration) -> Result<String, String> {
    let mut said = tempfile::tempfile().map_err(|error| error.to_string())?;
    let copy = || said.try_clone().map(Stdio::from).map_err(|error| error.to_string());
    command.stdin(Stdio::null()).stdout(copy()?).stderr(copy()?).process_group(0);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let deadline = Instant::now() + patience;
    let ended = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                let _ = child.wait();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let mut text = Vec::new();
    said.rewind().and_then(|()| said.read_to_end(&mut text)).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&text).into_owned();
    match ended {
        Some(status) if status.success() => Ok(text),
        Some(status) => Err(format!("{status}\n{text}")),
        None => Err(format!("not done after {} s\n{text}", patience.as_secs())),
    }
}
