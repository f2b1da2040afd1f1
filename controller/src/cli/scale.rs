//! `bulkhead scale`: more workers, or fewer.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::client::{Api, ApiArgs};
use super::output::{duration, print, print_json};
use crate::api::views::{PhaseView, WorkerView};
use crate::api::{ScaleOrder, Scaled};

/// How often the API is asked how far it is.
const EVERY: Duration = Duration::from_millis(100);

/// Change how many workers a pool has
#[derive(Debug, Args)]
#[command(after_help = "\
The idlest are drained first when there are to be fewer. The spec file is not
changed. The number outlives the controller; a stop ends it, and so does another
number in the spec file.

Examples:
  bulkhead scale web 8
  bulkhead scale web 0 --no-wait    requests wait in the queue")]
pub(super) struct ScaleArgs {
    /// The pool
    pool: String,
    /// How many workers it is to have
    #[arg(value_name = "NUMBER")]
    workers: u32,
    /// Return at once instead of when it is reached
    #[arg(long)]
    no_wait: bool,
    /// How many seconds to wait at most
    #[arg(long, value_name = "SECONDS", default_value_t = 60, conflicts_with = "no_wait")]
    timeout: u64,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub(super) async fn run(args: ScaleArgs) -> anyhow::Result<()> {
    let api = args.api.connect()?;
    let order = ScaleOrder { workers: args.workers };
    let scaled: Scaled = api.post(&["pools", &args.pool, "scale"], &order).await?;
    let mut said = format!("{} is to have {}\n", scaled.pool, workers(scaled.workers));
    if !args.no_wait {
        let took = until_reached(&api, &scaled, Duration::from_secs(args.timeout)).await?;
        said = format!(
            "{} has {} ({})\n",
            scaled.pool,
            workers(scaled.workers),
            duration(took.as_secs_f64() * 1e3)
        );
    }
    if args.json { print_json(&scaled) } else { print(&said) }
}

/// Waits until the pool has as many workers as it is to have, all of them ready, and says how long that took.
async fn until_reached(api: &Api, wanted: &Scaled, patience: Duration) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let progress = progress(wanted.workers);
    loop {
        let census = Census::of(&api.workers(Some(&wanted.pool)).await?);
        progress.set_position(census.ready.into());
        progress.set_message(census.to_string());
        if census.is(wanted.workers) {
            progress.finish_and_clear();
            return Ok(started.elapsed());
        }
        if started.elapsed() >= patience {
            progress.finish_and_clear();
            bail!(
                "{} is not yet where it is to be after {}: {census}\n  \
                 it keeps trying; `bulkhead ps` and `bulkhead incidents` say more",
                wanted.pool,
                duration(patience.as_secs_f64() * 1e3)
            );
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// How many workers of a pool are how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Census {
    ready: u32,
    starting: u32,
    draining: u32,
}

impl Census {
    fn of(workers: &[WorkerView]) -> Self {
        let mut census = Self { ready: 0, starting: 0, draining: 0 };
        for worker in workers {
            match worker.phase {
                PhaseView::Idle | PhaseView::Busy => census.ready += 1,
                PhaseView::Starting => census.starting += 1,
                PhaseView::Draining => census.draining += 1,
                PhaseView::Dead => {}
            }
        }
        census
    }

    /// Whether exactly `workers` are there and nobody comes or goes.
    fn is(self, workers: u32) -> bool {
        self == Self { ready: workers, starting: 0, draining: 0 }
    }
}

impl std::fmt::Display for Census {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ready, {} starting, {} draining", self.ready, self.starting, self.draining)
    }
}

fn workers(number: u32) -> String {
    match number {
        1 => "1 worker".to_owned(),
        _ => format!("{number} workers"),
    }
}

/// On a terminal a bar, elsewhere nothing: a script waits for the one line at the end.
fn progress(wanted: u32) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {msg}");
    ProgressBar::new(wanted.into()).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
