//! `bulkhead controller`: the master alone, for a door that somebody else starts.
//!
//! Compose and service managers run door and controller side by side. Whichever is first waits for the other, and
//! either may be started again at any time. Told to go, it drains and removes its workers and leaves the door;
//! but in a cluster, where another controller takes over, it leaves its workers too.

use std::process::ExitCode;

use clap::Args;

use super::follow::follow;
use super::interrupts::Interrupts;
use super::launch::{self, MasterArgs, Meeting, account};
use super::output::print;
use super::{greeting, logging, up};
use crate::model::StopScope;

/// Spawn, watch and replace workers for a door that runs elsewhere (a part of `up`)
#[derive(Debug, Args)]
#[command(after_help = "\
Killed, it leaves its workers serving; started again, it adopts them. It follows
a spec file that is changed while it runs.

Example:
  bulkhead controller --run-dir /run/bulkhead --spec bulkhead.yaml")]
pub(super) struct ControllerArgs {
    #[command(flatten)]
    master: MasterArgs,
}

pub(super) async fn run(args: ControllerArgs) -> anyhow::Result<ExitCode> {
    logging::start()?;
    let mut interrupts = Interrupts::catch()?;
    let Some(prepared) = interrupts.unless(launch::prepare(&args.master, Meeting::Shared)).await else {
        return Ok(ExitCode::FAILURE);
    };
    let prepared = prepared?;
    let (deployment, api) = (prepared.deployment.clone(), prepared.api_address);
    let source = prepared.source.clone();
    print(&format!(
        "backend  {}\n{}Waiting for a door at {} (`bulkhead door` with the same --run-dir and --spec)\n",
        prepared.choice,
        prepared.token_note,
        prepared.run_dir.control_socket().display()
    ))?;

    let mut running = prepared.start();
    let by = match interrupts.unless(up::ready(&running.master, &deployment)).await {
        None => "interrupted",
        Some(ready) => {
            let (pools, workers) = (running.master.pools().await?, running.master.workers().await?);
            print(&match ready? {
                true => greeting::text(&greeting::program(), &pools, &workers, api),
                false => "Not every pool has a worker yet; it keeps trying\n".to_owned(),
            })?;
            let following = follow(&running.master, &source, deployment, &mut running.changes, |_| {});
            interrupts.next_while(following).await
        }
    };
    if running.has_successors() {
        // A rollout, or its node is emptied. Whoever deletes its Deployment deletes the workers with it.
        print(&format!("{by}: the workers stay, for the controller that takes over\n"))?;
        running.hand_over().await;
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!("{by}: draining the workers\n"))?;
    let summary = running.stop(StopScope::WorkersOnly, &mut interrupts, || {}).await?;
    print(&account(&summary))?;
    Ok(if summary.verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
