//! The Docker backend on a real engine.
//!
//! This program packs itself into the image, as `bulkhead` does, and when it finds itself started as a worker it plays
//! one: [`play`] looks at the pool's name to know how to behave, and how to die. Each story runs under an owner of its
//! own and removes what it has started, also when it fails.
//!
//! Where no engine answers the stories are listed as ignored, with the reason; with `CI=true` that is a failure.
//! `cargo test -p controller --test docker -- --ignored --nocapture figures` prints how long starts and removals take.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io::{self, Read, Write};
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::Pin;
use std::process::{ExitCode, abort, exit};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use controller::backend::docker::{self, DockerBackend, DockerOptions, Engine};
use controller::backend::{Backend, BackendError, Found, Home, Sighting, SpawnOrder, Unit, Vital};
use controller::model::{Autopsy, Cause};
use controller::spec::{Limits, Network, Pool, Recycle, Restart, Worker};
use futures_util::FutureExt;
use libtest_mimic::{Arguments, Failed, Trial};
use server::config::{
    App, Clients, DoorPool, Model, Protocol, Queue, Redeliver, RedeliverMethods, Timeouts, TurnUnit,
};
use server::identity::{Incarnation, Secret};
use tokio::net::{UnixListener, UnixStream as AsyncStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// How long anything may take before a story is given up.
const DEADLINE: Duration = Duration::from_secs(30);

const MEMORY: u64 = 32 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|role| role == "worker") {
        play(&args);
    }
    let arguments = Arguments::from_args();
    let engine = match block_on(docker::probe()) {
        Ok(engine) => {
            eprintln!("on {}, API {}", engine.name(), engine.api());
            true
        }
        Err(error) if std::env::var_os("CI").is_some_and(|ci| ci == "true") => {
            eprintln!("CI requires these stories: {error}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            eprintln!("IGNORED, every story below: {error}");
            false
        }
    };
    let story = |name: &'static str, tell: Story| {
        Trial::test(name, move || Rig::run(tell)).with_ignored_flag(!engine)
    };
    let stories = vec![
        story("a_worker_is_shut_in_and_reaches_the_door", |rig| Box::pin(shut_in(rig))),
        story("an_exit_code_is_told_with_the_last_words", |rig| Box::pin(exits(rig))),
        story("an_abort_is_told_as_a_signal", |rig| Box::pin(aborts(rig))),
        story("a_leak_is_told_as_out_of_memory", |rig| Box::pin(leaks(rig))),
        story("a_kill_is_told_and_listed_and_removed", |rig| Box::pin(killed(rig))),
        story("sigterm_reaches_the_worker_through_the_init", |rig| Box::pin(terminated(rig))),
        story("a_stopped_worker_can_be_killed", |rig| Box::pin(stopped(rig))),
        story("a_signal_that_the_init_keeps_is_refused", |rig| Box::pin(kept(rig))),
        story("the_next_controller_adopts_and_strangers_see_nothing", |rig| Box::pin(adopted(rig))),
        story("a_missing_network_is_named_with_the_remedy", |rig| Box::pin(no_network(rig))),
        story("a_missing_image_is_named_with_the_remedy", |rig| Box::pin(no_image(rig))),
        story("a_left_over_of_an_attempt_is_replaced", |rig| Box::pin(left_over(rig))),
        story("a_lost_engine_costs_no_worker", |rig| Box::pin(lost_engine(rig))),
        Trial::test("figures", || Rig::run(|rig| Box::pin(figures(rig)))).with_ignored_flag(true),
    ];
    libtest_mimic::run(&arguments, stories).exit_code()
}

// ---- the stories

async fn shut_in(rig: &Rig) -> Result<()> {
    let door = rig.door()?;
    rig.spawn("prober-0.1").await?;
    let (mut worker, _) = timeout(DEADLINE, door.accept()).await.context("no worker dialled the door")??;
    let mut told = String::new();
    timeout(DEADLINE, tokio::io::AsyncReadExt::read_to_string(&mut worker, &mut told)).await??;
    let facts: BTreeMap<&str, &str> = told.lines().filter_map(|line| line.split_once('=')).collect();
    let fact = |name: &str| facts.get(name).copied().unwrap_or("(not told)");
    ensure!(fact("Uid") == "65532", "uid {} in {told}", fact("Uid"));
    ensure!(fact("CapBnd").chars().all(|c| c == '0'), "capabilities {}", fact("CapBnd"));
    ensure!(fact("NoNewPrivs") == "1" && fact("Seccomp") == "2", "{told}");
    ensure!(fact("interfaces") == "lo", "network interfaces: {}", fact("interfaces"));
    ensure!(fact("open_files") == "64 64", "open files: {}", fact("open_files"));
    ensure!(fact("writes_root") == "read-only", "/: {}", fact("writes_root"));
    ensure!(fact("writes_link") == "read-only", "the link directory: {}", fact("writes_link"));
    ensure!(fact("pid") != "1", "the worker is process 1: no init reaps for it");
    Ok(())
}

async fn exits(rig: &Rig) -> Result<()> {
    let mut sightings = rig.watch();
    rig.spawn("exiter-0.1").await?;
    let autopsy = died(&mut sightings, "exiter-0.1").await?;
    ensure!(autopsy.cause == Cause::Exit(3), "{autopsy:?}");
    ensure!(autopsy.last_output.len() == 20, "{autopsy:?}");
    ensure!(autopsy.last_output.last().is_some_and(|line| line == "line 30"), "{autopsy:?}");
    let age = SystemTime::now().duration_since(autopsy.died_at.context("no date")?)?;
    ensure!(age < DEADLINE, "died {age:?} ago");
    Ok(())
}

async fn aborts(rig: &Rig) -> Result<()> {
    let mut sightings = rig.watch();
    rig.spawn("aborter-0.1").await?;
    let autopsy = died(&mut sightings, "aborter-0.1").await?;
    ensure!(autopsy.cause == Cause::Signal(6), "{autopsy:?}");
    Ok(())
}

async fn leaks(rig: &Rig) -> Result<()> {
    let mut sightings = rig.watch();
    rig.spawn("leaker-0.1").await?;
    let autopsy = died(&mut sightings, "leaker-0.1").await?;
    ensure!(autopsy.cause == Cause::Oom { limit_bytes: Some(MEMORY) }, "{autopsy:?}");
    let Vital::Dead(listed) = rig.only().await?.vital else { bail!("listed as alive") };
    ensure!(matches!(listed.cause, Cause::Oom { .. } | Cause::Signal(9)), "{listed:?}");
    Ok(())
}

async fn killed(rig: &Rig) -> Result<()> {
    let mut sightings = rig.watch();
    let unit = rig.spawn("sleeper-0.7").await?;
    let life = life("sleeper-0.7")?;
    rig.backend.signal(&life, &unit, 9).await?;
    let autopsy = died(&mut sightings, "sleeper-0.7").await?;
    ensure!(autopsy.cause == Cause::Signal(9), "{autopsy:?}");
    ensure!(rig.backend.logs(&life, &unit, 5).await? == ["sleeper is up"], "logs of a dead worker");
    let Vital::Dead(listed) = rig.only().await?.vital else { bail!("listed as alive") };
    ensure!(listed.cause == Cause::Signal(9), "{listed:?}");
    rig.backend.remove(&life, &unit).await?;
    rig.backend.remove(&life, &unit).await.context("removing twice")?;
    ensure!(rig.backend.list().await?.is_empty(), "removed but listed");
    let again = rig.backend.signal(&life, &unit, 9).await;
    ensure!(matches!(again, Err(BackendError::Gone { .. })), "{again:?}");
    Ok(())
}

async fn terminated(rig: &Rig) -> Result<()> {
    let mut sightings = rig.watch();
    let unit = rig.spawn("sleeper-0.1").await?;
    rig.says(&unit, "sleeper-0.1", "sleeper is up").await?;
    rig.backend.signal(&life("sleeper-0.1")?, &unit, 15).await?;
    let autopsy = died(&mut sightings, "sleeper-0.1").await?;
    ensure!(autopsy.cause == Cause::Signal(15), "{autopsy:?}");
    Ok(())
}

async fn stopped(rig: &Rig) -> Result<()> {
    let mut sightings = rig.watch();
    let life = life("sleeper-0.1")?;
    let unit = rig.spawn("sleeper-0.1").await?;
    for signal in [19, 19, 18, 18, 19] {
        rig.backend.signal(&life, &unit, signal).await.with_context(|| format!("signal {signal}"))?;
    }
    ensure!(matches!(rig.only().await?.vital, Vital::Alive { .. }), "a stopped worker is alive");
    rig.backend.signal(&life, &unit, 9).await?;
    let autopsy = died(&mut sightings, "sleeper-0.1").await?;
    ensure!(autopsy.cause == Cause::Signal(9), "{autopsy:?}");
    Ok(())
}

async fn kept(rig: &Rig) -> Result<()> {
    let unit = rig.spawn("sleeper-0.1").await?;
    let refusal = rig.backend.signal(&life("sleeper-0.1")?, &unit, 11).await;
    let Err(refusal @ BackendError::Refused { .. }) = refusal else { bail!("{refusal:?}") };
    let told = format!("{:#}", anyhow::Error::from(refusal));
    insta::assert_snapshot!(told, @"cannot signal sleeper-0.1: signal 11 does not pass through the container's init: use another, such as SIGTERM, SIGKILL or SIGSTOP");
    Ok(())
}

async fn adopted(rig: &Rig) -> Result<()> {
    rig.spawn("sleeper-2.5").await?;
    let next = rig.second(&rig.home.owner).await?;
    let found = next.list().await?;
    let [Found { life, unit: Unit::Container { name, pid, .. }, spec_hash, vital: Vital::Alive { since } }] =
        found.as_slice()
    else {
        bail!("{found:?}")
    };
    ensure!(life.to_string() == "sleeper-2.5" && spec_hash == "5bec", "{found:?}");
    ensure!(name.starts_with("bulkhead-") && name.ends_with("-sleeper-2.5"), "{name}");
    ensure!(pid.is_some(), "{found:?}");
    ensure!(SystemTime::now().duration_since(*since)? < DEADLINE, "{found:?}");
    let stranger = rig.second(&format!("not-{}", rig.home.owner)).await?;
    ensure!(stranger.list().await?.is_empty(), "a stranger's listing");
    Ok(())
}

async fn no_network(rig: &Rig) -> Result<()> {
    let mut order = order("sleeper-0.1")?;
    Arc::make_mut(&mut order.pool).worker.network = Network::Named("no-such-network".to_owned());
    let Err(refusal) = rig.backend.spawn(&order).await else { bail!("it started") };
    let told = format!("{:#}", anyhow::Error::from(refusal));
    insta::assert_snapshot!(told, @"cannot start sleeper-0.1: the engine has no network \"no-such-network\": create it with `docker network create no-such-network`, or set `network: none`");
    Ok(())
}

async fn no_image(rig: &Rig) -> Result<()> {
    let options = DockerOptions { image: Some("no-such-image:1".to_owned()), ..DockerOptions::default() };
    let Err(refusal) = DockerBackend::connect(&rig.home, &options).await else { bail!("it connected") };
    insta::assert_snapshot!(refusal, @"the image \"no-such-image:1\" is not on the engine; build or pull it first (`docker pull no-such-image:1`), or give none and this program packs itself");
    Ok(())
}

async fn left_over(rig: &Rig) -> Result<()> {
    let first = rig.spawn("sleeper-0.1").await?;
    let second = rig.spawn("sleeper-0.1").await?;
    ensure!(first != second, "the same container twice");
    ensure!(rig.only().await?.life == life("sleeper-0.1")?);
    Ok(())
}

async fn lost_engine(rig: &Rig) -> Result<()> {
    let mut wire = Wire::to_the_engine(rig.dir.path())?;
    let engine = Engine::at_host(&wire.host).await?;
    let backend = Arc::new(DockerBackend::on(engine, &rig.home, &DockerOptions::default()).await?);
    let unit = backend.spawn(&order("sleeper-0.1")?).await?;
    let mut sightings = Arc::clone(&backend).watch();
    for trouble in [Traffic::Cut, Traffic::Stalled] {
        wire.set(trouble);
        let sighting = timeout(DEADLINE, sightings.recv()).await?.context("no sighting")?;
        ensure!(matches!(sighting, Sighting::Unreachable(_)), "{trouble:?}: {sighting:?}");
        wire.set(Traffic::Flows);
        let sighting = timeout(DEADLINE, sightings.recv()).await?.context("no sighting")?;
        ensure!(matches!(sighting, Sighting::Reachable), "{trouble:?}: {sighting:?}");
        ensure!(matches!(rig.only().await?.vital, Vital::Alive { .. }), "the worker died with the engine");
    }
    backend.signal(&life("sleeper-0.1")?, &unit, 9).await?;
    died(&mut sightings, "sleeper-0.1").await?;
    Ok(())
}

/// Not a test: how long each step takes here.
async fn figures(rig: &Rig) -> Result<()> {
    const ROUNDS: u64 = 30;
    let mut sightings = rig.watch();
    let mut steps: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut step =
        |name, since: Instant| steps.entry(name).or_default().push(since.elapsed().as_secs_f64() * 1e3);
    let door = rig.door()?;
    for round in 1..=ROUNDS {
        let name = format!("dialler-0.{round}");
        let began = Instant::now();
        let unit = rig.spawn(&name).await?;
        step("spawn: create and start", began);
        timeout(DEADLINE, door.accept()).await??;
        step("spawn until it dials the door", began);
        let began = Instant::now();
        rig.backend.signal(&life(&name)?, &unit, 9).await?;
        died(&mut sightings, &name).await?;
        step("kill until its autopsy", began);
        let began = Instant::now();
        rig.backend.remove(&life(&name)?, &unit).await?;
        step("remove", began);
    }
    let began = Instant::now();
    let fleet = (0..8).map(|place| async move { rig.spawn(&format!("sleeper-{place}.1")).await });
    futures_util::future::try_join_all(fleet).await?;
    step("spawn of 8 at once, the last one", began);
    for (name, mut millis) in steps {
        millis.sort_by(f64::total_cmp);
        let (min, median, max) = (millis[0], millis[millis.len() / 2], millis[millis.len() - 1]);
        println!("{name:34} min {min:6.1}  median {median:6.1}  max {max:6.1} ms  ({} times)", millis.len());
    }
    Ok(())
}

// ---- the rig

type Story = for<'a> fn(&'a Rig) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A deployment of its own on the real engine.
struct Rig {
    backend: Arc<DockerBackend>,
    home: Home,
    dir: tempfile::TempDir,
}

impl Rig {
    fn run(story: Story) -> Result<(), Failed> {
        block_on(async {
            let rig = Rig::new().await?;
            let outcome = AssertUnwindSafe(story(&rig)).catch_unwind().await;
            rig.clear().await?;
            match outcome {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
        .map_err(|error| Failed::from(format!("{error:#}")))
    }

    async fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        // Workers are nobody in particular, and must get through to the link directory.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
        fs::create_dir(dir.path().join("link"))?;
        let owner = format!("test of {}", dir.path().display());
        let home = Home { owner, run_dir: dir.path().to_owned(), program: std::env::current_exe()? };
        let backend = Arc::new(DockerBackend::connect(&home, &DockerOptions::default()).await?);
        Ok(Self { backend, home, dir })
    }

    async fn second(&self, owner: &str) -> Result<DockerBackend> {
        let home = Home { owner: owner.to_owned(), ..self.home.clone() };
        Ok(DockerBackend::connect(&home, &DockerOptions::default()).await?)
    }

    async fn clear(&self) -> Result<()> {
        for found in self.backend.list().await? {
            self.backend.remove(&found.life, &found.unit).await?;
        }
        Ok(())
    }

    fn watch(&self) -> mpsc::Receiver<Sighting> {
        Arc::clone(&self.backend).watch()
    }

    async fn spawn(&self, life: &str) -> Result<Unit> {
        Ok(self.backend.spawn(&order(life)?).await?)
    }

    fn door(&self) -> Result<UnixListener> {
        let path = self.dir.path().join("link/door.sock");
        let door = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        Ok(door)
    }

    async fn only(&self) -> Result<Found> {
        let mut found = self.backend.list().await?;
        ensure!(found.len() == 1, "{found:?}");
        found.pop().context("none")
    }

    /// Waits until a worker has written a line.
    async fn says(&self, unit: &Unit, name: &str, line: &str) -> Result<()> {
        let life = life(name)?;
        let waiting = async {
            while !self.backend.logs(&life, unit, 5).await?.iter().any(|said| said == line) {
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        timeout(DEADLINE, waiting).await.with_context(|| format!("{name} never said {line:?}"))?
    }
}

async fn died(sightings: &mut mpsc::Receiver<Sighting>, name: &str) -> Result<Autopsy> {
    let whom = life(name)?;
    let waiting = async {
        loop {
            match sightings.recv().await {
                Some(Sighting::Died { life, autopsy }) if life == whom => return Ok(autopsy),
                Some(Sighting::Died { .. } | Sighting::Reachable) => {}
                Some(Sighting::Unreachable(error)) => return Err(error.into()),
                None => bail!("the watch has ended"),
            }
        }
    };
    timeout(DEADLINE, waiting).await.with_context(|| format!("nobody told of {name}'s death"))?
}

fn life(name: &str) -> Result<Incarnation> {
    Ok(name.parse()?)
}

fn order(name: &str) -> Result<SpawnOrder> {
    let life = life(name)?;
    let (second, none) = (Duration::from_secs(1), Duration::ZERO);
    let pool = Pool {
        door: DoorPool {
            name: life.worker.pool.clone(),
            listen: ([127, 0, 0, 1], 0).into(),
            protocol: Protocol::Http,
            turn: TurnUnit::Request,
            timeouts: Timeouts {
                start: second,
                head: second,
                request: None,
                keep_alive: second,
                drain: second,
            },
            queue: Queue { depth: 1, wait: second },
            clients: Clients { connections: 1, head_bytes: 1, buffered_body_bytes: 1, body_bytes: 1 },
            redeliver: Redeliver { attempts: 2, methods: RedeliverMethods::Idempotent },
        },
        workers: 1,
        worker: Worker {
            app: App::Demo,
            model: Model::Prefork,
            limits: Limits {
                memory_bytes: Some(MEMORY),
                cpus: Some(0.5),
                pids: NonZeroU32::new(16),
                open_files: NonZeroU32::new(64),
            },
            network: Network::None,
        },
        recycle: Recycle { requests: None, jitter: 0.0 },
        restart: Restart { backoff: none, longest: none, healthy_after: none, deaths: 1, within: second },
    };
    let token = Secret::new([7; 32]).token(&life);
    Ok(SpawnOrder { life, token, pool: Arc::new(pool), retire_after: None, spec_hash: "5bec".to_owned() })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    #[expect(clippy::expect_used, reason = "without a runtime there is no test")]
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

/// A socket that leads to the engine, while it is let.
struct Wire {
    host: String,
    traffic: watch::Sender<Traffic>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Traffic {
    Flows,
    /// Every connection is closed, and new ones are closed at once.
    Cut,
    /// Connections stay open, and nothing passes: an engine that is stopped.
    Stalled,
}

impl Wire {
    fn to_the_engine(dir: &Path) -> Result<Self> {
        let path = dir.join("engine.sock");
        let listener = UnixListener::bind(&path)?;
        let traffic = watch::Sender::new(Traffic::Flows);
        let observed = traffic.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, observed.clone()));
            }
        });
        Ok(Self { host: format!("unix://{}", path.display()), traffic })
    }

    fn set(&mut self, traffic: Traffic) {
        self.traffic.send_replace(traffic);
    }
}

async fn carry(mut client: AsyncStream, mut traffic: watch::Receiver<Traffic>) {
    let Ok(mut engine) = AsyncStream::connect("/var/run/docker.sock").await else { return };
    loop {
        let now = *traffic.borrow_and_update();
        match now {
            Traffic::Cut => return,
            Traffic::Stalled => {
                if traffic.changed().await.is_err() {
                    return;
                }
            }
            Traffic::Flows => tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut engine) => return,
                changed = traffic.changed() => if changed.is_err() { return },
            },
        }
    }
}

// ---- the worker

/// Behaves as the pool's name says, in a container.
fn play(args: &[String]) -> ! {
    let life = args.iter().position(|arg| arg == "--life").and_then(|at| args.get(at + 1));
    let role = life.and_then(|life| life.split('-').next()).unwrap_or_default();
    match role {
        "prober" => {
            let link = UnixStream::connect("/run/bulkhead/link/door.sock");
            let told = link.and_then(|mut link| link.write_all(facts().as_bytes()));
            exit(if told.is_ok() { 0 } else { 1 })
        }
        "dialler" => {
            let _link = UnixStream::connect("/run/bulkhead/link/door.sock");
            sleep_for_good()
        }
        "exiter" => {
            (1..=30).for_each(|line| println!("line {line}"));
            exit(3)
        }
        "aborter" => abort(),
        "leaker" => {
            let mut held = Vec::new();
            loop {
                held.push(vec![1_u8; 1 << 20]);
            }
        }
        _ => {
            println!("{role} is up");
            sleep_for_good()
        }
    }
}

fn sleep_for_good() -> ! {
    loop {
        // Standard input is empty or a terminal that never answers; either way there is nothing else to do.
        let _ = io::stdin().read(&mut [0; 1]);
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn facts() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut facts: Vec<String> = status
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some(format!("{name}={}", value.split_whitespace().next()?))
        })
        .collect();
    let interfaces = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let interfaces: Vec<&str> =
        interfaces.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    facts.push(format!("interfaces={}", interfaces.join(" ")));
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files: Vec<&str> = files.unwrap_or_default().split_whitespace().take(2).collect();
    facts.push(format!("open_files={}", files.join(" ")));
    for (name, path) in [("writes_root", "/here"), ("writes_link", "/run/bulkhead/link/here")] {
        let outcome = match fs::write(path, "x") {
            Ok(()) => "done".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => "read-only".to_owned(),
            Err(error) => error.to_string(),
        };
        facts.push(format!("{name}={outcome}"));
    }
    facts.push(format!("pid={}", std::process::id()));
    facts.join("\n")
}
