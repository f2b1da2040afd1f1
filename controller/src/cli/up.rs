//! `bulkhead up`: the whole of it on one machine.
//!
//! It is door, workers, master and API until it is told to go. The door is a process of its own, the workers are
//! children of the backend, the master is this process. Only where the workers are pods are they elsewhere: they dial the
//! door that is here. Killed with SIGKILL, this process takes nobody with it:
//! door and workers serve on, and the next `up` finds and adopts them.
//!
//! A door that hangs is replaced after a while; see `doorkeeper`. During a stop it is killed after the same while; its
//! workers are told to finish by SIGTERM as soon as it counts as silent.
//!
//! An error on the way up stops what was started before it is told. Ctrl-C, SIGTERM or a closed terminal drain;
//! a second one cuts off what is left.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use server::config::Tunnel;

use super::doorkeeper::{Door, Doorway, KeptDoor};
use super::follow::{Source, follow};
use super::interrupts::Interrupts;
use super::launch::{self, MasterArgs, Meeting, Prepared, Running, account};
use super::output::{duration, print};
use super::{greeting, logging};
use crate::api::views::PoolView;
use crate::door::HANGS_AFTER;
use crate::model::StopScope;
use crate::spec::{self, Deployment};
use crate::supervisor::{Handle, StopSummary};

/// What a door may take beyond its drain time-out before it counts as stuck.
const GRACE: Duration = Duration::from_secs(5);

/// How often the master is asked whether everybody is ready.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Run door, workers and master on this machine
#[derive(Debug, Args)]
#[command(after_help = "\
Without a spec file it serves HTTP on port 8080 and an echo on port 12345, on
loopback, 4 workers each. Ctrl-C drains and leaves nothing behind; a second
Ctrl-C does not wait for what is left.

Examples:
  bulkhead up
  bulkhead up --backend docker
  bulkhead up --backend kubernetes --worker-image bulkhead:latest
  bulkhead up --spec bulkhead.yaml --workers web=8 --listen web=0.0.0.0:80")]
pub(super) struct UpArgs {
    #[command(flatten)]
    master: MasterArgs,
}

pub(super) async fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    logging::start()?;
    let started = Instant::now();
    let mut interrupts = Interrupts::catch()?;

    let Some(prepared) = interrupts.unless(launch::prepare(&args.master, Meeting::Ours)).await else {
        return interrupted();
    };
    let prepared = prepared?;
    print(&format!("backend  {}\n{}", prepared.choice, prepared.token_note))?;

    let door = match open_door(&prepared, &mut interrupts).await {
        Ok(Some(door)) => door,
        Ok(None) => {
            prepared.give_up().await;
            return interrupted();
        }
        Err(error) => {
            prepared.give_up().await;
            return Err(error);
        }
    };

    let deployment = prepared.deployment.clone();
    let source = prepared.source.clone();
    let api = prepared.api_address;
    let adopted = door.adopted;
    let door = door.keep();
    let running = prepared.start();

    let greeted = Greeted { api, adopted, started };
    let told = serve(&running, &deployment, &source, &door, greeted, &mut interrupts).await;
    if let Ok(by) = told {
        // Whoever closed the terminal does not read this.
        let _ = print(&format!("\n{by}: draining; once more to cut off what is left\n"));
    }

    door.expect_exit();
    let summary = stop(running, &door, &mut interrupts).await;
    let left_by_itself = door.gone(GRACE).await;
    told?;
    let summary = summary?;
    let _ = print(&account(&summary));
    let clean = left_by_itself && summary.killed == 0 && summary.verified;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A door that answers; `None` when somebody has interrupted that. Of one that does not answer nothing is left.
async fn open_door(prepared: &Prepared, interrupts: &mut Interrupts) -> anyhow::Result<Option<Door>> {
    let patience = prepared.longest_drain() + GRACE;
    let Some(door) = interrupts.unless(engage_door(prepared, patience)).await else { return Ok(None) };
    let mut door = door?;
    match interrupts.unless(door.answers()).await {
        Some(Ok(())) => Ok(Some(door)),
        Some(Err(error)) => {
            door.dismiss(GRACE).await;
            Err(error)
        }
        None => {
            door.dismiss(patience).await;
            Ok(None)
        }
    }
}

async fn engage_door(prepared: &Prepared, patience: Duration) -> anyhow::Result<Door> {
    let doorway = Doorway { program: prepared.program.clone(), run_dir: prepared.run_dir.clone() };
    let same_pools = |stored: &str| same_doors(stored, &prepared.deployment);
    let stored = doorway.stored_spec();
    doorway
        .engage(&on_the_same_port(&prepared.deployment, stored.as_deref()).to_yaml(), same_pools, patience)
        .await
}

/// What people are told once all is there.
struct Greeted {
    api: SocketAddr,
    /// Whether the door is one of an earlier run.
    adopted: bool,
    started: Instant,
}

/// Tells what there is to see, follows the spec, and waits until somebody wants us to go.
async fn serve(
    running: &Running,
    deployment: &Deployment,
    source: &Source,
    door: &KeptDoor,
    Greeted { api, adopted, started }: Greeted,
    interrupts: &mut Interrupts,
) -> anyhow::Result<&'static str> {
    let Some(ready) = interrupts.unless(ready(&running.master, deployment)).await else {
        return Ok("interrupted");
    };
    let ready = ready?;
    let (pools, workers) = (running.master.pools().await?, running.master.workers().await?);
    let chosen = with_ports(deployment, &pools, running.master.tunnel());
    door.remember(&chosen.to_yaml())?;
    let mut text = greeting::text(&greeting::program(), &pools, &workers, api);
    if adopted {
        text += "The door of an earlier run was adopted, with the workers that it had.\n";
    }
    text += &match ready {
        true => format!(
            "Ready after {}. Ctrl-C drains and stops.\n",
            duration(started.elapsed().as_secs_f64() * 1e3)
        ),
        false => "Not every pool has a worker yet; it keeps trying. Ctrl-C drains and stops.\n".to_owned(),
    };
    print(&text)?;
    let next_door = |new: &Deployment| door.remember_for_the_next(with_ports_of(&chosen, new).to_yaml());
    let following = follow(&running.master, source, deployment.clone(), source.changes(), next_door);
    tokio::select! {
        by = interrupts.next_while(following) => Ok(by),
        () = replace_what_hangs(&running.master, door) => Ok("the master has ended"),
    }
}

/// Stops everything. A door that hangs is killed: nothing that it holds comes to an end.
async fn stop(running: Running, door: &KeptDoor, interrupts: &mut Interrupts) -> anyhow::Result<StopSummary> {
    let mut silence = running.master.door_silence();
    let mut stop = std::pin::pin!(running.stop(StopScope::DoorToo, interrupts, || door.kill()));
    tokio::select! {
        summary = &mut stop => return summary,
        Ok(_) = silence.wait_for(|beats| *beats >= HANGS_AFTER) => door.kill(),
    }
    stop.await
}

/// Has a door killed and started again that has given no sign of life for too long.
async fn replace_what_hangs(master: &Handle, door: &KeptDoor) {
    let mut silence = master.door_silence();
    loop {
        if silence.wait_for(|beats| *beats >= HANGS_AFTER).await.is_err() {
            return;
        }
        door.replace();
        if silence.wait_for(|beats| *beats < HANGS_AFTER).await.is_err() {
            return;
        }
    }
}

/// Waits until every pool can serve, as long as a worker may take to start. Whether they can by then.
pub(super) async fn ready(master: &Handle, deployment: &Deployment) -> anyhow::Result<bool> {
    let patience = deployment.pools.iter().map(|pool| pool.door.timeouts.start).max().unwrap_or_default();
    let ready = async {
        while !master.is_ready().await? {
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(true)
    };
    tokio::time::timeout(patience, ready).await.unwrap_or(Ok(false))
}

/// Whether a door that was started with `stored` serves what `deployment` gives it to serve. Where the kernel was to
/// choose a port, whatever it chose is right.
fn same_doors(stored: &str, deployment: &Deployment) -> bool {
    spec::parse("the door's spec", stored).is_ok_and(|stored| {
        same_tunnels(stored.tunnel, deployment.tunnel)
            && stored.pools.len() == deployment.pools.len()
            && stored.pools.iter().zip(&deployment.pools).all(|(stored, wanted)| {
                let mut stored = stored.door.clone();
                if wanted.door.listen.port() == 0 {
                    stored.listen.set_port(0);
                }
                stored == wanted.door
            })
    })
}

/// The deployment with the port for tunnels that the door before it had, where it leaves that to the kernel: workers that
/// are there know that one alone.
fn on_the_same_port(deployment: &Deployment, stored: Option<&str>) -> Deployment {
    let mut deployment = deployment.clone();
    let before = stored.and_then(|stored| spec::parse("the door's spec", stored).ok()?.tunnel);
    if let (Some(tunnel), Some(before)) = (&mut deployment.tunnel, before)
        && tunnel.listen.port() == 0
        && tunnel.listen.ip() == before.listen.ip()
    {
        tunnel.listen = before.listen;
    }
    deployment
}

fn same_tunnels(stored: Option<Tunnel>, wanted: Option<Tunnel>) -> bool {
    match (stored, wanted) {
        (Some(mut stored), Some(wanted)) => {
            if wanted.listen.port() == 0 {
                stored.listen.set_port(0);
            }
            stored == wanted
        }
        (stored, wanted) => stored == wanted,
    }
}

/// The deployment with the ports that the kernel chose: a door that is started again must be found where the last
/// one was.
fn with_ports(deployment: &Deployment, pools: &[PoolView], tunnel: Option<SocketAddr>) -> Deployment {
    let mut deployment = deployment.clone();
    if let (Some(spec), Some(listen)) = (&mut deployment.tunnel, tunnel) {
        spec.listen = listen;
    }
    for pool in &mut deployment.pools {
        let view = pools.iter().find(|view| view.name == pool.name().as_str());
        if let Some(listen) = view.and_then(|view| view.listen.parse().ok()) {
            pool.door.listen = listen;
        }
    }
    deployment
}

/// `new` with the ports of `chosen`, where it leaves a port open that has been chosen there.
fn with_ports_of(chosen: &Deployment, new: &Deployment) -> Deployment {
    let mut new = Deployment { tunnel: chosen.tunnel, ..new.clone() };
    for pool in new.pools.iter_mut().filter(|pool| pool.door.listen.port() == 0) {
        if let Some(known) = chosen.pools.iter().find(|known| known.name() == pool.name()) {
            pool.door.listen = known.door.listen;
        }
    }
    new
}

fn interrupted() -> anyhow::Result<ExitCode> {
    print("\ninterrupted; nothing is left behind\n")?;
    Ok(ExitCode::FAILURE)
}
