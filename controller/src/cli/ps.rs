//! `bulkhead ps`: who is there, and what each holds at this moment.

use clap::Args;

use super::client::{Api, ApiArgs};
use super::output::{Column, Table, duration, print, print_json, printable, since, width};
use crate::api::views::{HoldingView, PhaseView, PoolView, WorkerView};

/// List workers, and what each holds at this moment
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead ps                 every worker
  bulkhead ps --pool web      those of one pool
  bulkhead ps --pools         the pools themselves
  bulkhead ps --json | jq -r '.[] | select(.phase == \"busy\").id'")]
pub(super) struct PsArgs {
    /// List pools instead
    #[arg(long, conflicts_with = "pool")]
    pools: bool,
    /// Only the workers of this pool
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub(super) async fn run(args: PsArgs) -> anyhow::Result<()> {
    let api = args.api.connect()?;
    if args.pools { list_pools(&api, args.json).await } else { list_workers(&api, &args).await }
}

async fn list_workers(api: &Api, args: &PsArgs) -> anyhow::Result<()> {
    let workers = api.workers(args.pool.as_deref()).await?;
    if args.json {
        return print_json(&workers);
    }
    let troubles = workers.iter().filter_map(|it| Some((it.id.as_str(), it.trouble.as_deref()?)));
    print(&(workers_table(&workers).render(width()) + &told(troubles)))
}

async fn list_pools(api: &Api, json: bool) -> anyhow::Result<()> {
    let pools: Vec<PoolView> = api.get(&["pools"], &[]).await?;
    if json {
        return print_json(&pools);
    }
    let troubles = pools.iter().filter_map(|it| Some((it.name.as_str(), it.trouble.as_deref()?)));
    print(&(pools_table(&pools).render(width()) + &told(troubles)))
}

/// What is wrong with whom, below the table: an engine's words are too long for a column.
fn told<'a>(troubles: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let lines = troubles.map(|(who, trouble)| format!("{}: {}\n", printable(who), printable(trouble)));
    let lines: String = lines.collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

fn workers_table(workers: &[WorkerView]) -> Table<7> {
    let now = jiff::Timestamp::now();
    let mut table = Table::new([
        Column::Left("WORKER"),
        Column::Left("PHASE"),
        Column::Right("GEN"),
        Column::Left("WHERE"),
        Column::Right("UP"),
        Column::Right("TURNS"),
        Column::Left("HOLDING"),
    ]);
    for worker in workers {
        table.row([
            worker.id.clone(),
            if worker.trouble.is_some() { "held up" } else { phase(worker.phase) }.to_owned(),
            worker.generation.to_string(),
            place(worker),
            worker.started_at.as_deref().map_or_else(|| "-".to_owned(), |at| since(at, now)),
            worker.turns.to_string(),
            holding(&worker.holding),
        ]);
    }
    table
}

fn pools_table(pools: &[PoolView]) -> Table<8> {
    let mut table = Table::new([
        Column::Left("POOL"),
        Column::Left("LISTENS AT"),
        Column::Left("RUNS"),
        Column::Right("READY"),
        Column::Right("BUSY"),
        Column::Right("QUEUED"),
        Column::Right("CLIENTS"),
        Column::Left("STATE"),
    ]);
    for pool in pools {
        table.row([
            pool.name.clone(),
            format!("{}://{}", pool.protocol, pool.listen),
            format!("{} {}", pool.app, pool.model),
            format!("{}/{}", pool.ready, pool.wanted),
            pool.busy.to_string(),
            pool.queued.to_string(),
            pool.connections.to_string(),
            state(pool).to_owned(),
        ]);
    }
    table
}

/// The phase as the API spells it.
pub(super) fn phase(phase: PhaseView) -> &'static str {
    match phase {
        PhaseView::Starting => "starting",
        PhaseView::Idle => "idle",
        PhaseView::Busy => "busy",
        PhaseView::Draining => "draining",
        PhaseView::Dead => "dead",
    }
}

/// What `kill`, `docker kill` or `kubectl delete pod` would have to be given, and the node that the pod is on.
pub(super) fn place(worker: &WorkerView) -> String {
    match (&worker.container, &worker.pod, worker.pid) {
        (Some(container), ..) => container.clone(),
        (None, Some(pod), _) => match &worker.node {
            Some(node) => format!("{pod} on {node}"),
            None => pod.clone(),
        },
        (None, None, Some(pid)) => format!("pid {pid}"),
        (None, None, None) => "-".to_owned(),
    }
}

pub(super) fn holding(holding: &[HoldingView]) -> String {
    match holding {
        [] => String::new(),
        [only] => format!("{} for {}", only.request, duration(only.for_ms)),
        [oldest, more @ ..] => {
            format!("{} for {} and {} more", oldest.request, duration(oldest.for_ms), more.len())
        }
    }
}

pub(super) fn state(pool: &PoolView) -> &'static str {
    match pool {
        PoolView { degraded: true, .. } => "degraded",
        PoolView { wanted: 0, .. } => "scaled to zero",
        PoolView { ready, wanted, .. } if ready < wanted => "recovering",
        _ => "ok",
    }
}
