//! What several controllers and doors of one deployment share: the lease, the secrets, the spec.

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use controller::backend::kubernetes::lease::{self, Lost, NotOurs};
use controller::backend::kubernetes::secrets::{self, Material};
use controller::backend::kubernetes::{Cluster, observe};
use futures_util::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use server::identity::Secret;
use tokio::time::timeout;

use crate::rig::{DEADLINE, Rig, Wire};

pub(crate) async fn one_leads_at_a_time(rig: &Rig) -> Result<()> {
    let cluster = Cluster::find(Some(&rig.namespace)).await?;
    let first = timeout(DEADLINE, lease::win(&cluster, "leader", "first", |_| {})).await?;
    let (follows, seen) = tokio::sync::watch::channel(None);
    let mut second = pin!(lease::win(&cluster, "leader", "second", |who| {
        follows.send_replace(who.map(str::to_owned));
    }));
    let mut seen_first = seen.clone();
    tokio::select! {
        _ = &mut second => anyhow::bail!("two lead"),
        told = timeout(DEADLINE, seen_first.wait_for(|who| who.as_deref() == Some("first"))) => drop(told??),
    }
    ensure!(first.lost().now_or_never().is_none(), "it has lost what nobody took");

    // Given up, it is the second's without waiting until it runs out.
    let leaves = Some("a word".to_owned());
    first.word().set(leaves.clone());
    let leases: Api<Lease> = Api::namespaced(rig.client.clone(), &rig.namespace);
    first.release().await;
    let holder = leases.get("leader").await?.spec.and_then(|it| it.holder_identity);
    ensure!(holder.is_none(), "it is {holder:?}'s until it runs out");
    let second = timeout(DEADLINE, second).await?;
    ensure!(second.word().get() == leaves, "nothing was left for it: {:?}", second.word().get());

    // Somebody takes it by force: whoever had it stops at its next renewal.
    let theirs = json!({ "spec": { "holderIdentity": "third" } });
    leases.patch("leader", &PatchParams::default(), &Patch::Merge(&theirs)).await?;
    let lost = timeout(DEADLINE, second.lost()).await?;
    ensure!(lost == Lost::Taken { lease: "leader".to_owned(), holder: "third".to_owned() }, "{lost}");
    Ok(())
}

/// How long it may take until another leads when the one that did has fallen silent: a lease's time, seen late, looked at
/// late, by an API that may be busy.
const TAKEN_OVER: Duration = Duration::from_secs(30);

pub(crate) async fn who_is_cut_off_stops_before_another_leads(rig: &Rig) -> Result<()> {
    let wire = Wire::to_the_api().await?;
    let theirs = Cluster::at(wire.config.clone(), Some(&rig.namespace)).await?;
    let first = timeout(DEADLINE, lease::win(&theirs, "leader", "first", |_| {})).await?;
    let cluster = Cluster::find(Some(&rig.namespace)).await?;
    let (follows, mut follower) = tokio::sync::watch::channel(false);
    let mut second = pin!(lease::win(&cluster, "leader", "second", |_| {
        follows.send_replace(true);
    }));
    tokio::select! {
        _ = &mut second => anyhow::bail!("two lead"),
        told = timeout(DEADLINE, follower.wait_for(|follows| *follows)) => drop(told??),
    }

    wire.cut();
    let cut = Instant::now();
    let stopped = async { (first.lost().await, cut.elapsed()) };
    let taken = async { (second.await, cut.elapsed()) };
    let ((lost, stopped), (second, taken)) =
        timeout(DEADLINE, futures_util::future::join(stopped, taken)).await?;
    ensure!(matches!(lost, Lost::NotRenewed { .. }), "{lost}");
    ensure!(stopped < taken, "one stopped after {stopped:?}, and another led after {taken:?}");
    ensure!(taken < TAKEN_OVER, "nobody led for {taken:?}");
    second.release().await;
    Ok(())
}

/// How long the API is away from whoever has a lease: longer than it is good for.
const AWAY: Duration = Duration::from_secs(8);

pub(crate) async fn who_is_alone_keeps_its_lease(rig: &Rig) -> Result<()> {
    let wire = Wire::to_the_api().await?;
    let theirs = Cluster::at(wire.config.clone(), Some(&rig.namespace)).await?;
    let first = lease::seize(&theirs, "alone", "first").await?;

    // Whoever else would like to have it does not wait for it.
    let cluster = Cluster::find(Some(&rig.namespace)).await?;
    let asked = Instant::now();
    match lease::seize(&cluster, "alone", "second").await {
        Err(NotOurs::Held { holder, .. }) => ensure!(holder == "first", "{holder} has it"),
        other => anyhow::bail!("it was not refused: {other:?}"),
    }
    ensure!(asked.elapsed() < AWAY, "it was waited for: {:?}", asked.elapsed());

    // An API that is away takes it from nobody.
    let leases: Api<Lease> = Api::namespaced(rig.client.clone(), &rig.namespace);
    let renewed =
        async || Ok::<_, anyhow::Error>(leases.get("alone").await?.spec.and_then(|it| it.renew_time));
    wire.cut();
    let before = renewed().await?;
    ensure!(timeout(AWAY, first.lost()).await.is_err(), "it was lost to nobody");
    wire.mend();
    let renewing = async {
        while renewed().await? == before {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    timeout(DEADLINE, renewing).await.context("it is not renewed any more")??;

    // One that comes back under its name has it at once, and in the end there is nothing of it.
    let again = lease::seize(&cluster, "alone", "first").await?;
    again.remove().await;
    // Who is not told that it has ended in its name makes it anew.
    first.remove().await;
    ensure!(leases.get_opt("alone").await?.is_none(), "it is still there");
    Ok(())
}

pub(crate) async fn secrets_are_made_once(rig: &Rig) -> Result<()> {
    let cluster = Cluster::find(Some(&rig.namespace)).await?;
    let made = AtomicU32::new(0);
    let make = || {
        let which = made.fetch_add(1, Ordering::Relaxed);
        let text = |what: &str| format!("{what} of making {which}");
        Ok::<_, std::io::Error>(Material {
            ca_certificate: text("ca.crt"),
            ca_key: text("ca.key"),
            certificate: text("tls.crt"),
            key: text("tls.key"),
            api_token: text("api-token"),
            secret: Secret::new([u8::try_from(which).unwrap_or_default(); 32]),
        })
    };
    let racing = (0..4).map(|_| secrets::get_or_create(&cluster, make));
    let all = futures_util::future::try_join_all(racing).await?;
    ensure!(all.iter().all(|material| *material == all[0]), "they do not agree: {all:?}");
    let later = secrets::get_or_create(&cluster, || Err(std::io::Error::other("it was to be read"))).await?;
    ensure!(later == all[0], "{later:?}");

    // Whoever made the key has died before it made the rest.
    let objects: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(rig.client.clone(), &rig.namespace);
    objects.delete(secrets::TUNNEL, &DeleteParams::default()).await?;
    let anew = timeout(DEADLINE, secrets::get_or_create(&cluster, make)).await??;
    ensure!(anew.ca_key != all[0].ca_key, "half of the old and half of the new");
    Ok(())
}

pub(crate) async fn spec_and_doors_are_told(rig: &Rig) -> Result<()> {
    let cluster = Cluster::find(Some(&rig.namespace)).await?;
    let mut specs = pin!(observe::spec_changes(&cluster, "bulkhead"));
    let maps: Api<ConfigMap> = Api::namespaced(rig.client.clone(), &rig.namespace);
    let map = |text: &str| -> Result<ConfigMap> {
        Ok(serde_json::from_value(
            json!({ "metadata": { "name": "bulkhead" }, "data": { "bulkhead.yaml": text } }),
        )?)
    };
    maps.create(&PostParams::default(), &map("one")?).await?;
    ensure!(next(specs.as_mut()).await? == "one");
    let other = json!({ "metadata": { "labels": { "nothing": "new" } } });
    maps.patch("bulkhead", &PatchParams::default(), &Patch::Merge(&other)).await?;
    maps.replace("bulkhead", &PostParams::default(), &map("two")?).await?;
    ensure!(next(specs.as_mut()).await? == "two", "what had not changed was told");

    let mut doors = pin!(observe::doors(&cluster, "test"));
    ensure!(next(doors.as_mut()).await?.is_empty(), "there is no door yet");
    let labels = json!({
        "app.kubernetes.io/name": "bulkhead",
        "app.kubernetes.io/instance": "test",
        "app.kubernetes.io/component": "door",
    });
    let container = json!({ "name": "door", "image": rig.image(), "args": ["worker", "--life", "door-0.1"] });
    let door: Pod = serde_json::from_value(json!({
        "metadata": { "name": "a-door", "labels": labels },
        "spec": { "containers": [container], "terminationGracePeriodSeconds": 1 },
    }))?;
    let pods: Api<Pod> = Api::namespaced(rig.client.clone(), &rig.namespace);
    pods.create(&PostParams::default(), &door).await?;
    let ready = loop {
        let told = next(doors.as_mut()).await?;
        if let [door] = told.as_slice()
            && door.ready
        {
            break door.clone();
        }
    };
    ensure!(ready.name == "a-door" && matches!(ready.address, IpAddr::V4(_)), "{ready:?}");
    pods.delete("a-door", &DeleteParams::default()).await?;
    ensure!(next(doors.as_mut()).await?.is_empty(), "it is leaving");
    Ok(())
}

async fn next<T>(mut stream: Pin<&mut impl Stream<Item = T>>) -> Result<T> {
    timeout(DEADLINE, stream.next()).await.context("nothing was told")?.context("the stream has ended")
}
