//! `bulkhead drain`: replaces a worker without anybody noticing.

use clap::Args;

use super::client::ApiArgs;
use super::output::{print, print_json};
use crate::api::Draining;

/// Let a worker finish what it holds, then replace it
#[derive(Debug, Args)]
#[command(after_help = "\
It takes no further turn from this moment; what it still holds at the pool's
drain time-out is cut off.

Example:
  bulkhead drain web-3")]
pub(super) struct DrainArgs {
    /// The worker, such as web-3
    worker: String,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub(super) async fn run(args: DrainArgs) -> anyhow::Result<()> {
    let order = serde_json::json!({});
    let drained: Draining = args.api.connect()?.post(&["workers", &args.worker, "drain"], &order).await?;
    if args.json {
        return print_json(&drained);
    }
    print(&format!("{} finishes what it holds and is then replaced\n", drained.worker))
}
