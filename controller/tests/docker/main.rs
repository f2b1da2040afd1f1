//! The Docker backend on a real engine.
//!
//! This program packs itself into the image, as `bulkhead` does, and when it finds itself started as a worker it plays
//! one: [`worker::play`] looks at the pool's name to know how to behave, and how to die. Each story runs under an
//! owner of its own and removes what it has started, also when it fails.
//!
//! Where no engine answers the stories are listed as ignored, with the reason.
//! How long starts, deaths and removals take is printed by
//! `cargo test -p controller --test docker -- --ignored --nocapture --test-threads 1 figures`.

mod figures;
mod rig;
mod worker;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use controller::backend::docker::{self, DockerBackend, DockerOptions, Engine};
use controller::backend::{Backend, BackendError, Found, Sighting, Unit, Vital};
use controller::model::Cause;
use controller::spec::{Cgroup, Network};
use libtest_mimic::{Arguments, Trial};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use rig::{DEADLINE, MEMORY, Rig, Story, Traffic, Wire, block_on, died, life, order};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|role| role == "worker") {
        worker::play(&args);
    }
    let arguments = Arguments::from_args();
    let engine = match block_on(docker::probe()) {
        Ok(engine) => {
            eprintln!("on {}, API {}", engine.name(), engine.api());
            // Once for all stories: they run side by side, and would all find no image and send one.
            if let Err(error) = block_on(docker::ensure_image(&engine, &DockerOptions::default())) {
                eprintln!("no image to run: {error}");
                return ExitCode::FAILURE;
            }
            true
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
        story("a_worker_is_in_the_control_group_that_was_asked_for", |rig| Box::pin(grouped(rig))),
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
        story("a_start_whose_answer_is_lost_leaves_its_worker_alive", |rig| Box::pin(lost_answer(rig))),
        Trial::test("figures_of_each_step", || Rig::run(|rig| Box::pin(figures::of_each_step(rig))))
            .with_ignored_flag(true),
        Trial::test("figures_of_a_storm", || Rig::run(|rig| Box::pin(figures::of_a_storm(rig))))
            .with_ignored_flag(true),
    ];
    libtest_mimic::run(&arguments, stories).exit_code()
}

async fn shut_in(rig: &Rig) -> Result<()> {
    let door = rig.door()?;
    rig.spawn("prober-0.1").await?;
    let (mut worker, _) = timeout(DEADLINE, door.accept()).await.context("no worker dialled the door")??;
    let mut told = String::new();
    timeout(DEADLINE, worker.read_to_string(&mut told)).await??;
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

async fn grouped(rig: &Rig) -> Result<()> {
    let by_systemd = asked_of_docker(&["info", "-f", "{{.CgroupDriver}}"])? == "systemd";
    let root = if by_systemd { "-.slice" } else { "/" };
    let mut order = order("sleeper-0.1")?;
    Arc::make_mut(&mut order.pool).worker.cgroup =
        Cgroup { parent: Some(root.to_owned()), cpu_shares: Some(4096) };
    let unit = rig.backend.spawn(&order).await?;
    let what = "{{.HostConfig.CpuShares}} {{.State.Pid}}";
    let Unit::Container { id, .. } = &unit else { bail!("no container: {unit:?}") };
    let told = asked_of_docker(&["inspect", "-f", what, id])?;
    let (shares, pid) = told.split_once(' ').context("two words")?;
    ensure!(shares == "4096", "{told}");
    // `4:cpu:/...` where each controller has a tree of its own, `0::/...` where there is one.
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = |line: &str| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        let of_the_processor = controllers.is_empty() || controllers.split(',').any(|it| it == "cpu");
        of_the_processor.then(|| path.to_owned())
    };
    let paths: Vec<String> = groups.lines().filter_map(path).collect();
    ensure!(paths.iter().any(|path| path.matches('/').count() == 1 && path.len() > 1), "{groups}");
    Ok(())
}

fn asked_of_docker(words: &[&str]) -> Result<String> {
    let output = std::process::Command::new("docker").args(words).output().context("cannot run docker")?;
    ensure!(output.status.success(), "docker {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
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
    ensure!(listed.cause == autopsy.cause, "{listed:?}");
    Ok(())
}

async fn killed(rig: &Rig) -> Result<()> {
    let mut sightings = rig.watch();
    let unit = rig.spawn("sleeper-0.7").await?;
    let life = life("sleeper-0.7")?;
    rig.says(&unit, "sleeper-0.7", "sleeper is up").await?;
    rig.backend.signal(&life, &unit, 9).await?;
    let autopsy = died(&mut sightings, "sleeper-0.7").await?;
    ensure!(autopsy.cause == Cause::Signal(9), "{autopsy:?}");
    ensure!(rig.backend.logs(&life, &unit, 5).await? == ["sleeper is up"], "logs of a dead worker");
    let Vital::Dead(listed) = rig.only().await?.vital else { bail!("listed as alive") };
    ensure!(listed.cause == Cause::Signal(9), "{listed:?}");
    let again = rig.backend.signal(&life, &unit, 9).await;
    ensure!(matches!(again, Err(BackendError::Gone { .. })), "a kill of the dead: {again:?}");
    rig.backend.remove(&life, &unit).await?;
    rig.backend.remove(&life, &unit).await.context("removing twice")?;
    ensure!(rig.backend.list().await?.is_empty(), "removed but listed");
    let again = rig.backend.signal(&life, &unit, 9).await;
    ensure!(matches!(again, Err(BackendError::Gone { .. })), "a kill of the removed: {again:?}");
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

async fn lost_answer(rig: &Rig) -> Result<()> {
    let mut wire = Wire::to_the_engine(rig.dir.path())?;
    let engine = Engine::at_host(&wire.host).await?;
    let backend = DockerBackend::on(engine, &rig.home, &DockerOptions::default()).await?;
    let door = rig.door()?;
    wire.set(Traffic::LosesAnswersTo("/start"));
    let spawned = backend.spawn(&order("dialler-0.1")?).await;
    ensure!(matches!(spawned, Err(BackendError::Unreachable { .. })), "{spawned:?}");
    let (mut link, _) = timeout(DEADLINE, door.accept()).await.context("nobody dialled")??;
    let mut line = [0; 12];
    link.read_exact(&mut line).await?;
    // Nobody ends it, now that the engine can be reached again: a removal takes a tenth of a second.
    let closed = timeout(Duration::from_secs(2), link.read(&mut [0; 1])).await;
    ensure!(closed.is_err(), "the worker that had joined was ended");
    ensure!(matches!(rig.only().await?.vital, Vital::Alive { .. }));
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
