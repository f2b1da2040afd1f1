//! Bulkhead itself: `bulkhead up` in a compartment, with a spec and a run directory of its own.
//!
//! Door, controller and process workers are in the compartment and end with it. Containers are the engine's, so they are
//! asked to go first, by a SIGTERM to `up`; if it has not removed them after a while, they are removed by their label.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Running, Scratch, Shape, last_words};
use crate::compartment::Compartment;
use crate::engine;
use crate::janitor::{self, Belonging};
use crate::processes::with_descendants;
use crate::servers::Protocol;

/// How long it may take until all workers are there: an image may have to be packed first.
const START: Duration = Duration::from_secs(90);

/// How long it may take to end in order.
const END: Duration = Duration::from_secs(15);

/// Where Bulkhead's workers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// In processes.
    Process,
    /// In containers.
    Docker,
}

impl Backend {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Process, Self::Docker];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Process => "Bulkhead, processes",
            Self::Docker => "Bulkhead, containers",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
        }
    }
}

/// What there is of a running Bulkhead besides its processes.
#[derive(Debug)]
pub(super) struct Deployment {
    api: SocketAddr,
    backend: Backend,
    /// The label of its containers.
    label: String,
}

/// Why it cannot be started here; `None` if it can.
pub(super) fn missing(backend: Backend, program: Option<&Path>) -> Option<String> {
    match program {
        None => Some("the lab does not know the program bulkhead: set BULKHEAD_PROGRAM to it".to_owned()),
        Some(program) if !program.is_file() => Some(format!("{} is not there", program.display())),
        Some(_) => match backend {
            Backend::Process => None,
            Backend::Docker => engine::answers().err().map(|error| error.to_string()),
        },
    }
}

pub(super) fn start(backend: Backend, shape: &Shape, program: Option<&Path>) -> anyhow::Result<Running> {
    if let Some(why) = missing(backend, program) {
        bail!(why);
    }
    let program = program.context("no program")?;
    let scratch = Scratch::new()?;
    let dir = scratch.0.path();
    // Workers of other users, and containers, have to reach the link socket in it.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    let (spec_file, run_dir) = (dir.join("bulkhead.yaml"), dir.join("run"));
    std::fs::write(&spec_file, spec(backend, shape)).context("cannot write the spec")?;
    let mut command = Command::new(program);
    command.arg("up").arg("--spec").arg(&spec_file).arg("--run-dir").arg(&run_dir);
    command.env_remove("BULKHEAD_API").env("RUST_BACKTRACE", "0");
    let mut compartment = Compartment::new(shape.limits);
    let errors = tempfile::tempfile().context("cannot make a file for what it says")?;
    let label = format!("io.bulkhead.owner={}", run_dir.display());
    if backend == Backend::Docker {
        janitor::have(Belonging::Containers(label.clone()));
    }
    let (leader, output) =
        compartment.start_with(command, Stdio::null(), Stdio::piped(), Stdio::from(errors.try_clone()?))?;
    let output = output.context("it has no output")?;
    let until = Instant::now() + START;
    // From here on it has to end in order, whatever happens.
    let mut running = Running {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        leader,
        compartment,
        deployment: Some(Deployment { api: SocketAddr::from(([127, 0, 0, 1], 0)), backend, label }),
        errors,
        _scratch: Some(scratch),
    };
    let (address, api) = addresses(output, until)
        .map_err(|why| anyhow!("{why}; what it said last: {}", last_words(&running.errors)))?;
    running.address = address;
    if let Some(deployment) = &mut running.deployment {
        deployment.api = api;
        deployment.await_workers(shape.processes, until)?;
    }
    running.await_service(shape.protocol)?;
    Ok(running)
}

/// As many workers as the shape wants, each with a few limits of its own; clients as many as come.
fn spec(backend: Backend, shape: &Shape) -> String {
    let protocol = match shape.protocol {
        Protocol::Http => "http",
        Protocol::Echo => "tcp",
    };
    format!(
        "\
backend: {backend}
api: {{ listen: '127.0.0.1:0' }}
pools:
  web:
    listen: 127.0.0.1:0
    protocol: {protocol}
    size: {{ workers: {workers} }}
    worker:
      limits: {{ memory: 64MiB, pids: 64, open_files: {open_files} }}
    timeouts: {{ request: {request}ms, drain: 1s }}
    clients: {{ connections: 20000 }}
",
        backend = backend.word(),
        workers = shape.processes,
        open_files = shape.open_files.unwrap_or(1024),
        request = shape.request_time.as_millis(),
    )
}

/// Where the pool and the API listen, as `up` says on its output.
fn addresses(output: ChildStdout, until: Instant) -> anyhow::Result<(SocketAddr, SocketAddr)> {
    let (found, heard) = mpsc::channel();
    // It listens to the end: nobody may be held up in writing to a full pipe.
    std::thread::Builder::new().name("greeting".to_owned()).spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let mut words = line.split_whitespace();
            let (Some(name), Some(url)) = (words.next(), words.next()) else { continue };
            let address = url.split_once("://").and_then(|(_, address)| address.parse::<SocketAddr>().ok());
            if let Some(address) = address {
                let _ = found.send((name.to_owned(), address));
            }
        }
    })?;
    let (mut web, mut api) = (None, None);
    loop {
        match heard.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok((name, address)) if name == "api" => api = Some(address),
            Ok((_, address)) => web = Some(address),
            Err(RecvTimeoutError::Timeout) => bail!("it has not said where it listens after {START:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("it ended before it said where it listens"),
        }
        if let (Some(web), Some(api)) = (web, api) {
            return Ok((web, api));
        }
    }
}

impl Deployment {
    /// Waits until so many workers are idle.
    fn await_workers(&self, workers: usize, until: Instant) -> anyhow::Result<()> {
        loop {
            let listed = self.workers();
            let phases =
                listed.as_ref().map(|all| all.iter().map(|it| it["phase"].clone()).collect::<Vec<_>>());
            match &phases {
                Ok(phases) if phases.iter().filter(|&it| it == "idle").count() >= workers => return Ok(()),
                _ if Instant::now() > until => bail!("not all workers are there after {START:?}: {phases:?}"),
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Its workers, as its API has them.
    fn workers(&self) -> anyhow::Result<Vec<Value>> {
        let mut stream = TcpStream::connect(self.api)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let host = self.api;
        stream.write_all(
            format!("GET /api/v1/workers HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let body: Value = serde_json::from_str(body).context("the workers are no JSON")?;
        let listed = body.as_array().or_else(|| body["workers"].as_array());
        listed.cloned().context("no list of workers")
    }

    /// The processes of its containers, as far as its API knows them.
    pub(super) fn in_containers(&self) -> Vec<Pid> {
        if self.backend == Backend::Process {
            return Vec::new();
        }
        let workers = self.workers().unwrap_or_default();
        let pids = workers.iter().filter_map(|it| Pid::from_raw(i32::try_from(it["pid"].as_i64()?).ok()?));
        pids.flat_map(with_descendants).collect()
    }

    /// Ends it as a user would, and removes what is left then.
    pub(super) fn end(&self, compartment: &mut Compartment) {
        if self.backend == Backend::Process {
            // All of it is in the compartment.
            return;
        }
        compartment.ask_to_end(END);
        match engine::remove_containers(&self.label) {
            Ok(()) => janitor::gone(Belonging::Containers(self.label.clone())),
            Err(error) => eprintln!("containers with the label {} may be left: {error}", self.label),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_program_it_is_said_how_to_name_it() {
        for backend in Backend::ALL {
            assert!(missing(backend, None).is_some_and(|why| why.contains("BULKHEAD_PROGRAM")));
            assert!(
                missing(backend, Some(Path::new("/nowhere/bulkhead")))
                    .is_some_and(|why| why.contains("/nowhere"))
            );
        }
    }
}
