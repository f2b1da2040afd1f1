//! A deployment of its own for each story: a run directory, ports that the kernel chose, `bulkhead up`.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::api::{Api, Worker};
use super::backend::{Backend, docker};
use super::http::Connection;
use super::{PATIENCE, eventually, pods};

/// The program under test.
pub const BULKHEAD: &str = env!("CARGO_BIN_EXE_bulkhead");

/// A running deployment. Dropping it ends everything that it started, whatever has become of it.
pub struct Stack {
    program: String,
    pub backend: Backend,
    pub dir: TempDir,
    /// The engine, where it is not the usual one: as in `DOCKER_HOST`.
    engine: Option<String>,
    /// What leads to the cluster, where it is not what leads everybody there: as in `KUBECONFIG`.
    kubeconfig: Option<PathBuf>,
    /// What the API is asked with.
    token: Option<&'static str>,
    up: Option<Up>,
}

/// A client that keeps a worker at work, which waits for the rest of its request.
pub struct Busy(Connection);

/// A pool that waits for a client longer than any story takes.
pub const PATIENT: &str = "timeouts: { head: 60s, request: 2m }";

/// Bytes of its body: more than the door waits for itself.
const BUSY_BODY: usize = 100_000;

impl Busy {
    /// Sends the rest, and is answered.
    pub fn ends(mut self) {
        self.0.send(vec![b'x'; BUSY_BODY]);
        assert_eq!(self.0.response().status, 200);
    }
}

/// What an API asks for that is not open to everybody.
#[derive(Debug, Clone, Copy)]
pub struct Tokens {
    pub operator: &'static str,
    pub viewer: &'static str,
}

/// One life of `bulkhead up`.
struct Up {
    process: Child,
    api: SocketAddr,
    pools: Vec<(String, SocketAddr)>,
    said: Arc<Mutex<String>>,
    /// Whoever reads what it says, until nobody says anything any more.
    listeners: [JoinHandle<()>; 2],
}

impl Stack {
    /// Starts a deployment with these pools, YAML beneath `pools:`. Ports are 0 unless the story needs one.
    pub fn up(backend: Backend, pools: &str) -> Self {
        Self::up_with(BULKHEAD, backend, pools)
    }

    /// The same with another build of the program.
    pub fn up_with(program: &str, backend: Backend, pools: &str) -> Self {
        Self::up_as(program, backend, None, None, pools)
    }

    /// Starts a deployment in containers of this engine.
    pub fn up_on(engine: &str, pools: &str) -> Self {
        Self::up_as(BULKHEAD, Backend::Docker, Some(engine.to_owned()), None, pools)
    }

    /// Starts a deployment of processes whose API asks for these tokens.
    pub fn up_guarded(tokens: Tokens, pools: &str) -> Self {
        Self::up_as(BULKHEAD, Backend::Process, None, Some(tokens), pools)
    }

    /// Starts a deployment whose spec says this of its link.
    pub fn up_linked(backend: Backend, link: &str, pools: &str) -> Self {
        Self::up_saying(BULKHEAD, backend, None, None, &format!("backend: {}\n{link}", backend.word()), pools)
    }

    /// Starts a deployment in the cluster to which this leads.
    pub fn up_by_way_of(kubeconfig: &Path, backend: Backend, pools: &str) -> Self {
        let mut stack = Self::new(BULKHEAD, backend, None, None, &backend.in_spec(), pools);
        stack.kubeconfig = Some(kubeconfig.to_owned());
        stack.start();
        stack
    }

    fn up_as(
        program: &str,
        backend: Backend,
        engine: Option<String>,
        tokens: Option<Tokens>,
        pools: &str,
    ) -> Self {
        Self::up_saying(program, backend, engine, tokens, &backend.in_spec(), pools)
    }

    fn up_saying(
        program: &str,
        backend: Backend,
        engine: Option<String>,
        tokens: Option<Tokens>,
        first: &str,
        pools: &str,
    ) -> Self {
        let mut stack = Self::new(program, backend, engine, tokens, first, pools);
        stack.start();
        stack
    }

    /// One that has not been started.
    fn new(
        program: &str,
        backend: Backend,
        engine: Option<String>,
        tokens: Option<Tokens>,
        first: &str,
        pools: &str,
    ) -> Self {
        let dir = tempfile::Builder::new().prefix("bulkhead-").tempdir_in("/tmp").unwrap();
        // Containers and workers of another user have to reach the link socket in it.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut spec = format!("{first}api:\n  listen: 127.0.0.1:0\n");
        if let Some(tokens) = &tokens {
            for (key, token) in [("token_file", tokens.operator), ("viewer_token_file", tokens.viewer)] {
                let path = dir.path().join(key);
                std::fs::write(&path, token).unwrap();
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
                writeln!(spec, "  {key}: {}", path.display()).unwrap();
            }
        }
        spec.push_str("pools:\n");
        let pools = if backend.is_pods() { &pods::with_shares(pools) } else { pools };
        for line in pools.lines().filter(|line| !line.trim().is_empty()) {
            writeln!(spec, "  {line}").unwrap();
        }
        std::fs::write(dir.path().join("bulkhead.yaml"), spec).unwrap();
        let token = tokens.map(|tokens| tokens.operator);
        Self { program: program.to_owned(), backend, dir, engine, kubeconfig: None, token, up: None }
    }

    /// A pool `web` of that many prefork demo workers, and what else is to be said of it.
    pub fn web(backend: Backend, workers: u32, more: &str) -> Self {
        Self::up(backend, &web(workers, more))
    }

    /// Starts `bulkhead up` on this deployment's directory (again), and waits until it says where to look.
    pub fn start(&mut self) {
        let mut process =
            self.command().stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let listener = keep(process.stderr.take().unwrap(), Arc::clone(&said));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (mut api, mut pools) = (None, Vec::new());
        for line in lines.by_ref().map_while(Result::ok) {
            said.lock().unwrap().push_str(&format!("{line}\n"));
            let mut words = line.split_whitespace();
            let (name, address) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if let Some(address) = address.split_once("://").and_then(|(_, address)| address.parse().ok()) {
                match name {
                    "api" => api = Some(address),
                    _ => pools.push((name.to_owned(), address)),
                }
            }
            if line == "Try" {
                break;
            }
        }
        let Some(api) = api else {
            let status = process.wait();
            panic!(
                "`bulkhead up` ended ({status:?}) before it said where its API is:\n{}",
                said.lock().unwrap()
            );
        };
        let rest = Arc::clone(&said);
        let other = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                rest.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        self.up = Some(Up { process, api, pools, said, listeners: [listener, other] });
    }

    /// The program with these arguments, in this environment, up to its end: its exit code and what it said.
    pub fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut command = Command::new(&self.program);
        command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Starts `bulkhead up` in a way that cannot work, and waits until it has said so.
    pub fn start_in_vain(&self, arguments: &[&str]) -> String {
        self.start_elsewhere_in_vain(&self.run_dir(), arguments)
    }

    /// The same with another run directory.
    pub fn start_elsewhere_in_vain(&self, run_dir: &Path, arguments: &[&str]) -> String {
        let output = self.command_in(run_dir).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "it went well:\n{said}");
        said
    }

    fn command(&self) -> Command {
        self.command_in(&self.run_dir())
    }

    fn command_in(&self, run_dir: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("up")
            .arg("--spec")
            .arg(self.dir.path().join("bulkhead.yaml"))
            .arg("--run-dir")
            .arg(run_dir)
            .env_remove("BULKHEAD_API")
            .stdin(Stdio::null());
        if let Some(engine) = &self.engine {
            command.env("DOCKER_HOST", engine);
        }
        if self.backend.is_pods() {
            command.envs(pods::quarters().environment());
            command.envs(self.kubeconfig.iter().map(|path| ("KUBECONFIG", path)));
        }
        command
    }

    /// Runs the `docker` command on the engine of this deployment.
    fn docker(&self, arguments: &[&str]) -> Result<String, String> {
        match &self.engine {
            Some(engine) => docker(&[&["-H", engine], arguments].concat()),
            None => docker(arguments),
        }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn link_socket(&self) -> PathBuf {
        self.run_dir().join("link/door.sock")
    }

    fn current(&self) -> &Up {
        self.up.as_ref().expect("the deployment is up")
    }

    pub fn api(&self) -> Api {
        Api::at(self.current().api).bearing(self.token)
    }

    /// Where a pool listens.
    pub fn address(&self, pool: &str) -> SocketAddr {
        let pools = &self.current().pools;
        pools.iter().find(|(name, _)| name == pool).unwrap_or_else(|| panic!("no pool {pool} in {pools:?}")).1
    }

    /// A new connection to the pool `web`.
    pub fn connect(&self) -> Connection {
        Connection::to(self.address("web"))
    }

    /// What `up` has printed so far.
    pub fn said(&self) -> String {
        self.current().said.lock().unwrap().clone()
    }

    /// Waits until `up` says that it drains.
    pub fn drains(&self) {
        eventually("`up` drains", || {
            let said = self.said();
            if said.contains("draining") { Ok(()) } else { Err(said) }
        });
    }

    /// Waits until so many workers of `pool` are ready.
    pub fn ready(&self, pool: &str, workers: usize) -> Vec<Worker> {
        eventually(&format!("{workers} workers of {pool} are ready"), || {
            let ready: Vec<_> = self
                .api()
                .workers()
                .into_iter()
                .filter(|it| it.pool == pool && it.is_ready() && it.is_known())
                .collect();
            if ready.len() == workers { Ok(ready) } else { Err((ready, self.said())) }
        })
    }

    /// Waits for the worker that holds a request which begins so.
    pub fn holder_of(&self, request: &str) -> Worker {
        eventually(&format!("somebody holds {request}"), || {
            let workers = self.api().workers();
            let holder =
                workers.iter().position(|it| it.holding.iter().any(|held| held.starts_with(request)));
            holder.map(|at| workers[at].clone()).ok_or(workers)
        })
    }

    /// Waits until a worker has nothing in hand: a client has its answer a moment before the door hears that it is done.
    pub fn idle(&self, worker: &str) -> Worker {
        eventually(&format!("{worker} is idle"), || {
            let worker = self.api().worker(worker);
            if worker.phase == "idle" { Ok(worker) } else { Err(vec![worker]) }
        })
    }

    /// Keeps one of the workers of `web` at work until the story lets it go, or the pool's patience with a client that stalls
    /// is over: [`PATIENT`].
    pub fn occupies_one(&self) -> Busy {
        let mut client = self.connect();
        client.send(format!("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: {BUSY_BODY}\r\n\r\n"));
        self.holder_of("POST /body");
        Busy(client)
    }

    /// Waits for the worker that is at work on a request which begins so: it has held it for long enough to have
    /// said that it has begun.
    pub fn at_work_on(&self, request: &str) -> Worker {
        eventually(&format!("somebody is at work on {request}"), || {
            let holder = self.holder_of(request);
            if holder.held_ms > 500.0 { Ok(holder) } else { Err(vec![holder]) }
        })
    }

    /// Kills a worker from outside, as a user would: `docker kill` or `kill -9`. One in a pod as its node's kernel would: a
    /// user would ask the cluster, and that asks the worker first.
    pub fn kill_from_outside(&self, worker: &Worker) {
        if !self.backend.is_docker() {
            return self.signal(worker, Signal::KILL);
        }
        // It may have joined before the engine has said which container it is.
        let container = eventually(&format!("the container of {} is known", worker.life()), || {
            let now = self.api().worker(&worker.id);
            now.container.clone().ok_or(vec![now])
        });
        self.docker(&["kill", &container]).unwrap();
    }

    /// Sends a signal to a worker's process, by its pid on this machine.
    pub fn signal(&self, worker: &Worker, signal: Signal) {
        kill_process(self.pid_of(worker), signal).unwrap();
    }

    /// A worker's process on this machine. In a container it is the child of the engine's own first process; in a pod it
    /// is the first itself.
    pub fn pid_of(&self, worker: &Worker) -> Pid {
        if self.backend.is_pods() {
            let life = format!("--life {} ", worker.life());
            let mut processes = pids_with(self.run_dir().to_str().unwrap());
            // What it has forked is called the same.
            processes.retain(|(pid, line)| line.contains(&life) && is_first(*pid));
            let [(pid, _)] = processes[..] else { panic!("no process of {life}: {processes:?}") };
            return pid;
        }
        // It may have joined before the engine has said so.
        let told = || self.api().worker(&worker.id).pid.ok_or("it is not told");
        let first = worker.pid.unwrap_or_else(|| eventually(&format!("the pid of {}", worker.id), told));
        if !self.backend.is_docker() {
            return Pid::from_raw(first).unwrap();
        }
        // Without an init the worker is the first process itself. The engine is not asked: it may be away.
        let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap();
        let child = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        Pid::from_raw(child.unwrap_or(first)).unwrap()
    }

    /// Ends the controller without a chance to do anything about it. Door and workers live on.
    pub fn kill_controller(&mut self) {
        let mut up = self.up.take().expect("the deployment is up");
        up.process.kill().unwrap();
        up.process.wait().unwrap();
    }

    /// Ctrl-C, as a terminal would send it to `up` alone.
    pub fn interrupt(&mut self) {
        let pid = Pid::from_child(&self.current().process);
        kill_process(pid, Signal::INT).unwrap();
    }

    /// Waits until `up` has ended; its exit status and all that it said.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let mut up = self.up.take().expect("the deployment is up");
        let deadline = Instant::now() + PATIENCE;
        loop {
            // What it said last may not have been read when it is gone.
            if let Some(status) = up.process.try_wait().unwrap()
                && up.listeners.iter().all(JoinHandle::is_finished)
            {
                let said = up.said.lock().unwrap().clone();
                return (status, said);
            }
            assert!(Instant::now() < deadline, "`up` did not end:\n{}", up.said.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the deployment as a user would, and checks that nothing is left of it.
    pub fn down(mut self) -> String {
        // Whom the door has seen die the master shall have heard of: whoever is lost while it stops counts as cut off.
        self.api().workers();
        self.interrupt();
        let (status, said) = self.wait();
        assert!(status.success(), "`up` ended with {status}:\n{said}");
        let left = self.leftovers();
        assert!(left.is_empty(), "left behind: {left:#?}\n{said}");
        said
    }

    /// Processes and containers that belong to this deployment.
    pub fn leftovers(&self) -> Vec<String> {
        let run_dir = self.run_dir();
        let mut left: Vec<_> =
            pids_with(run_dir.to_str().unwrap()).into_iter().map(|(_, line)| line).collect();
        if self.backend.is_docker() {
            left.extend(self.containers().unwrap());
        }
        if self.backend.is_pods() {
            left.extend(pods::quarters().of(run_dir.to_str().unwrap()).unwrap());
        }
        left
    }

    /// The deployment's containers, dead or alive.
    pub fn containers(&self) -> Result<Vec<String>, String> {
        let owner = format!("label=io.bulkhead.owner={}", self.run_dir().display());
        let listed = self.docker(&[
            "ps",
            "-a",
            "--no-trunc",
            "--filter",
            &owner,
            "--format",
            "{{.ID}} {{.Names}} {{.Status}}",
        ]);
        Ok(listed?.lines().map(str::to_owned).collect())
    }

    /// What the door has logged.
    pub fn door_log(&self) -> String {
        std::fs::read_to_string(self.run_dir().join("control/door.log")).unwrap_or_default()
    }

    /// Where its door listens for workers.
    pub fn tunnel(&self) -> SocketAddr {
        eventually("the door has said where it listens for workers", || {
            let log = self.door_log();
            let told = log
                .lines()
                .rev()
                .find_map(|line| line.split_once("open to workers address=")?.1.parse().ok());
            told.ok_or(log)
        })
    }

    /// The memory of a process, in bytes.
    pub fn resident(pid: Pid) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        kib.unwrap().parse::<u64>().unwrap() * 1024
    }

    /// The pid of this deployment's door.
    pub fn door_pid(&self) -> Pid {
        eventually("the door's process is there", || {
            let processes = pids_with(self.run_dir().to_str().unwrap());
            let door = processes.iter().find(|(_, line)| line.contains("bulkhead door"));
            door.map(|(pid, _)| *pid).ok_or(processes)
        })
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(up) = &self.up
        {
            eprintln!("── what `up` said ──\n{}", up.said.lock().unwrap());
            let log = self.run_dir().join("control/door.log");
            eprintln!("── the door's log ──\n{}", std::fs::read_to_string(log).unwrap_or_default());
        }
        if let Some(mut up) = self.up.take() {
            let _ = up.process.kill();
            let _ = up.process.wait();
        }
        if self.backend.is_docker() {
            // An engine that a story has ended cannot be asked any more.
            for container in self.containers().unwrap_or_default() {
                let id = container.split(' ').next().unwrap_or_default();
                let _ = self.docker(&["rm", "-f", id]);
            }
        }
        if self.backend.is_pods() {
            pods::quarters().clear(self.run_dir().to_str().unwrap_or("?"));
        }
        for (pid, _) in pids_with(self.run_dir().to_str().unwrap_or("?")) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A pool `web` in YAML.
pub fn web(workers: u32, more: &str) -> String {
    let mut yaml = format!("web:\n  listen: 127.0.0.1:0\n  size: {{ workers: {workers} }}\n");
    for line in more.lines().filter(|line| !line.trim().is_empty()) {
        writeln!(yaml, "  {line}").unwrap();
    }
    yaml
}

/// The processes whose command line names `text`.
pub fn pids_with(text: &str) -> Vec<(Pid, String)> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        command.contains(text).then_some((pid, command))
    });
    processes.collect()
}

/// Whether a process is the first of its container, by the numbers that it has in each namespace around it.
fn is_first(pid: Pid) -> bool {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().last() == Some("1"))
}

/// Keeps what a process says, to be shown when a story goes wrong.
fn keep(mut from: impl Read + Send + 'static, to: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut piece) {
            to.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    })
}
