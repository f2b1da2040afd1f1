//! The Kubernetes backend on a real cluster: what it says of a pod has to be what the pod does.
//!
//! Each story has a namespace of its own. Where there is no cluster, or its nodes' engines are not known, they are
//! ignored, with the reason; `cluster` says what they need.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod cluster;
mod rig;
mod shared;
mod worker;

use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use controller::backend::kubernetes::{Cluster, KubernetesBackend, KubernetesOptions};
use controller::backend::{Backend, BackendError, Found, Sighting, Unit, Vital};
use controller::model::Cause;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use kube::api::PostParams;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rig::{MEMORY, Rig, Story, Wire, died, held_up, life, order, order_with, seen};
use serde_json::json;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|role| role == "worker") {
        worker::play(&args);
    }
    let stories: [(&'static str, Story); 14] = [
        ("killed", |rig| Box::pin(killed(rig))),
        ("ended_on_request", |rig| Box::pin(ended_on_request(rig))),
        ("exits_with_its_last_words", |rig| Box::pin(exits_with_its_last_words(rig))),
        ("out_of_memory", |rig| Box::pin(out_of_memory(rig))),
        ("no_image", |rig| Box::pin(no_image(rig))),
        ("no_room", |rig| Box::pin(no_room(rig))),
        ("no_quota", |rig| Box::pin(no_quota(rig))),
        ("adopted", |rig| Box::pin(adopted(rig))),
        ("api_away", |rig| Box::pin(api_away(rig))),
        ("one_leads_at_a_time", |rig| Box::pin(shared::one_leads_at_a_time(rig))),
        ("who_is_cut_off_stops_before_another_leads", |rig| {
            Box::pin(shared::who_is_cut_off_stops_before_another_leads(rig))
        }),
        ("who_is_alone_keeps_its_lease", |rig| Box::pin(shared::who_is_alone_keeps_its_lease(rig))),
        ("secrets_are_made_once", |rig| Box::pin(shared::secrets_are_made_once(rig))),
        ("spec_and_doors_are_told", |rig| Box::pin(shared::spec_and_doors_are_told(rig))),
    ];
    let trials = stories.map(|(name, story)| Trial::ignorable_test(name, move || tell(name, story)));
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

fn tell(name: &'static str, story: Story) -> Result<Completion, Failed> {
    static IMAGE: OnceLock<String> = OnceLock::new();
    let nodes = match cluster::nodes() {
        Ok(nodes) => nodes,
        Err(why) if cluster::is_required() => return Err(Failed::from(why)),
        Err(why) => return Ok(Completion::ignored_with(why)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let image = IMAGE.get_or_init(|| runtime.block_on(cluster::image(&nodes)).expect("an image")).clone();
    let told = runtime.block_on(Rig::run(name, nodes, image, story));
    told.map(|()| Completion::Completed).map_err(|error| Failed::from(format!("{error:#}")))
}

async fn killed(rig: &Rig) -> Result<()> {
    let mut sightings = rig.watch();
    let life = life("sleeper-0.1")?;
    let (pod, node) = rig.started(&mut sightings, "sleeper-0.1").await?;
    let Found { unit, vital: Vital::Alive { .. }, .. } = rig.only().await? else { bail!("it is not alive") };
    ensure!(unit == Unit::Pod { name: pod.clone(), node: Some(node.clone()) }, "{unit:?}");
    rig.says(&unit, "sleeper-0.1", "sleeper is up").await?;

    rig.kill(&node, &pod, "KILL")?;
    let autopsy = died(&mut sightings, "sleeper-0.1").await?;
    ensure!(autopsy.cause == Cause::Signal(9), "{autopsy:?}");
    ensure!(autopsy.last_output == ["sleeper is up"], "{autopsy:?}");
    ensure!(rig.backend.logs(&life, &unit, 5).await? == ["sleeper is up"], "logs of a dead worker");
    let Vital::Dead(listed) = rig.only().await?.vital else { bail!("listed as alive") };
    ensure!(listed.cause == Cause::Signal(9), "{listed:?}");
    let again = rig.backend.signal(&life, &unit, 9).await;
    ensure!(matches!(again, Err(BackendError::Gone { .. })), "a kill of the dead: {again:?}");
    rig.backend.remove(&life, &unit).await?;
    rig.backend.remove(&life, &unit).await.context("removing twice")?;
    ensure!(rig.backend.list().await?.is_empty(), "removed but listed");
    Ok(())
}

async fn ended_on_request(rig: &Rig) -> Result<()> {
    let mut sightings = rig.watch();
    let life = life("sleeper-0.1")?;
    let (pod, node) = rig.started(&mut sightings, "sleeper-0.1").await?;
    let unit = rig.only().await?.unit;
    rig.says(&unit, "sleeper-0.1", "sleeper is up").await?;
    let refusal = rig.backend.signal(&life, &unit, 19).await;
    let Err(refusal @ BackendError::Refused { .. }) = refusal else { bail!("{refusal:?}") };
    let told = format!("{:#}", anyhow::Error::from(refusal));
    insta::assert_snapshot!(told, @"cannot signal sleeper-0.1: signal 19 cannot be sent to a pod: Kubernetes knows SIGTERM and SIGKILL alone");

    // This worker ignores a SIGTERM, as the first process of a container does by default.
    let began = Instant::now();
    rig.backend.signal(&life, &unit, 9).await?;
    while cluster::is_running(&rig.nodes, &node, &rig.namespace, &pod)? {
        tokio::task::yield_now().await;
    }
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(15), "killing it took {took:?}: half as long as its pool may drain");
    let autopsy = died(&mut sightings, "sleeper-0.1").await?;
    // A kubelet may forget a pod that it was told to end without a word of how it ended.
    ensure!(matches!(autopsy.cause, Cause::Signal(9) | Cause::Lost), "{autopsy:?}");
    ensure!(autopsy.last_output == ["sleeper is up"], "{autopsy:?}");
    rig.deserted().await
}

async fn exits_with_its_last_words(rig: &Rig) -> Result<()> {
    let mut sightings = rig.watch();
    rig.spawn("exiter-0.1").await?;
    let autopsy = died(&mut sightings, "exiter-0.1").await?;
    ensure!(autopsy.cause == Cause::Exit(3), "{autopsy:?}");
    let (first, last) = (autopsy.last_output.first(), autopsy.last_output.last());
    ensure!(autopsy.last_output.len() == 20, "{autopsy:?}");
    ensure!(first.is_some_and(|it| it == "line 11") && last.is_some_and(|it| it == "line 30"), "{autopsy:?}");
    Ok(())
}

async fn out_of_memory(rig: &Rig) -> Result<()> {
    let mut sightings = rig.watch();
    rig.spawn("leaker-0.1").await?;
    let autopsy = died(&mut sightings, "leaker-0.1").await?;
    ensure!(autopsy.cause == Cause::Oom { limit_bytes: Some(MEMORY) }, "{autopsy:?}");
    Ok(())
}

async fn no_image(rig: &Rig) -> Result<()> {
    let cluster = Cluster::find(Some(&rig.namespace)).await?;
    let options = KubernetesOptions {
        worker_image: Some("localhost:1/no-such-image:1".to_owned()),
        ..KubernetesOptions::default()
    };
    let backend = KubernetesBackend::on(cluster, "test", &options)?;
    let mut sightings = rig.watch();
    let unit = backend.spawn(&order("sleeper-0.1")?).await?;
    let why = held_up(&mut sightings, "sleeper-0.1").await?;
    ensure!(why.starts_with("ErrImagePull: ") && why.contains("localhost:1"), "{why}");
    ensure!(matches!(rig.only().await?.vital, Vital::Waiting { trouble: Some(_), .. }), "it waits");
    backend.signal(&life("sleeper-0.1")?, &unit, 9).await?;
    rig.deserted().await
}

async fn no_room(rig: &Rig) -> Result<()> {
    let mut sightings = rig.watch();
    let unit = rig.backend.spawn(&order_with("sleeper-0.1", "{ memory: 4096GiB }")?).await?;
    let why = held_up(&mut sightings, "sleeper-0.1").await?;
    ensure!(why.starts_with("Unschedulable: ") && why.contains("Insufficient memory"), "{why}");
    rig.backend.signal(&life("sleeper-0.1")?, &unit, 9).await?;
    rig.deserted().await
}

async fn no_quota(rig: &Rig) -> Result<()> {
    let quotas: Api<ResourceQuota> = Api::namespaced(rig.client.clone(), &rig.namespace);
    let quota = json!({ "metadata": { "name": "small" }, "spec": { "hard": { "pods": "0" } } });
    quotas.create(&PostParams::default(), &serde_json::from_value(quota)?).await?;
    // It counts from when somebody has counted.
    while quotas.get("small").await?.status.and_then(|status| status.hard).is_none() {
        tokio::task::yield_now().await;
    }
    let Err(refusal) = rig.backend.spawn(&order("sleeper-0.1")?).await else { bail!("it was created") };
    ensure!(matches!(refusal, BackendError::Refused { .. }), "{refusal:?}");
    let told = format!("{:#}", anyhow::Error::from(refusal));
    ensure!(told.starts_with("cannot create sleeper-0.1: ") && told.contains("quota"), "{told}");
    Ok(())
}

async fn adopted(rig: &Rig) -> Result<()> {
    rig.spawn("sleeper-2.5").await?;
    rig.spawn("sleeper-2.5").await.context("what was ordered is there")?;
    let next = rig.second("test").await?;
    let found = next.list().await?;
    let [
        Found {
            life,
            unit: Unit::Pod { name, .. },
            spec_hash,
            vital: Vital::Alive { .. } | Vital::Waiting { .. },
        },
    ] = found.as_slice()
    else {
        bail!("{found:?}")
    };
    ensure!(
        life.to_string() == "sleeper-2.5" && spec_hash == "5bec" && name == "test-sleeper-2-5",
        "{found:?}"
    );
    ensure!(rig.second("another").await?.list().await?.is_empty(), "a stranger's listing");

    let mut other = order("sleeper-2.5")?;
    other.spec_hash = "07e4".to_owned();
    let Err(refusal) = rig.backend.spawn(&other).await else { bail!("another's pod was taken for it") };
    let told = format!("{:#}", anyhow::Error::from(refusal));
    insta::assert_snapshot!(told, @"cannot start sleeper-2.5: the pod name test-sleeper-2-5 is taken by another: delete that pod, or give this deployment another owner");
    Ok(())
}

async fn api_away(rig: &Rig) -> Result<()> {
    let wire = Wire::to_the_api().await?;
    let cluster = Cluster::at(wire.config.clone(), Some(&rig.namespace)).await?;
    let options = KubernetesOptions { worker_image: Some(rig.image()), ..KubernetesOptions::default() };
    let backend = std::sync::Arc::new(KubernetesBackend::on(cluster, "test", &options)?);
    let mut sightings = std::sync::Arc::clone(&backend).watch();
    let (pod, node) = rig.started(&mut sightings, "sleeper-0.1").await?;

    wire.cut();
    seen(&mut sightings, "the loss", |it| matches!(it, Sighting::Unreachable(_)).then_some(())).await?;
    let silent = backend.spawn(&order("sleeper-1.1")?).await;
    ensure!(matches!(silent, Err(BackendError::Unreachable { .. })), "{silent:?}");
    // It dies while nobody can be told.
    rig.kill(&node, &pod, "KILL")?;
    wire.mend();
    seen(&mut sightings, "the return", |it| matches!(it, Sighting::Reachable).then_some(())).await?;
    let autopsy = died(&mut sightings, "sleeper-0.1").await?;
    ensure!(autopsy.cause == Cause::Signal(9), "{autopsy:?}");
    Ok(())
}
