//! `bulkhead kill`: what one tries first.

use anyhow::bail;
use clap::Args;
use rand::seq::IndexedRandom;

use super::client::{Api, ApiArgs};
use super::output::{print, print_json};
use crate::api::signal::Signal;
use crate::api::views::PhaseView;
use crate::api::{KillOrder, Killed};

/// Send a signal to a worker and see what becomes of what it held
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead kill web-3                    SIGKILL, as `docker kill` and the kernel do
  bulkhead kill random --pool web        any worker of the pool that serves at the moment
  bulkhead kill web-3 --signal STOP      hang it: its request times out, then it is killed
  bulkhead kill web-3 --signal SEGV      as if it had crashed
Then:
  bulkhead incidents")]
pub(super) struct KillArgs {
    /// The worker, such as web-3; or `random`
    #[arg(value_name = "WORKER|random")]
    worker: String,
    /// With `random`: choose among the workers of this pool
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// The signal, by name or number
    #[arg(long, short, value_name = "SIGNAL", default_value = "KILL")]
    signal: Signal,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub(super) async fn run(args: KillArgs) -> anyhow::Result<()> {
    let api = args.api.connect()?;
    let victim = match (args.worker.as_str(), &args.pool) {
        ("random", pool) => anybody(&api, pool.as_deref()).await?,
        (worker, None) => worker.to_owned(),
        (worker, Some(_)) => bail!("--pool goes with `random` only; {worker} says which worker already"),
    };
    let order = KillOrder { signal: args.signal.to_string() };
    let killed: Killed = api.post(&["workers", &victim, "kill"], &order).await?;
    if args.json {
        return print_json(&killed);
    }
    print(&format!(
        "sent {} to {}\n`bulkhead incidents` tells what became of it\n",
        killed.signal, killed.worker
    ))
}

/// A worker that serves at the moment.
pub(super) async fn anybody(api: &Api, pool: Option<&str>) -> anyhow::Result<String> {
    let workers = api.workers(pool).await?;
    let serving: Vec<_> =
        workers.iter().filter(|worker| matches!(worker.phase, PhaseView::Idle | PhaseView::Busy)).collect();
    match serving.choose(&mut rand::rng()) {
        Some(worker) => Ok(worker.id.clone()),
        None => bail!("no worker serves at the moment; `bulkhead ps` shows what each is doing"),
    }
}
