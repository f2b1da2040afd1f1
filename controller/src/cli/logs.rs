//! `bulkhead logs`: what a worker wrote.

use std::io::{self, IsTerminal};

use clap::Args;

use super::client::ApiArgs;
use super::output::{print, print_json, printable};

/// Show what a worker wrote to its standard output and error
#[derive(Debug, Args)]
#[command(after_help = "\
What a dead worker wrote last is kept with its incident: `bulkhead incidents web-3.7`.

Examples:
  bulkhead logs web-3
  bulkhead logs web-3 -n 1000 | grep panicked")]
pub(super) struct LogsArgs {
    /// The worker, such as web-3
    worker: String,
    /// How many lines, counted from the end
    #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 100)]
    lines: u32,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub(super) async fn run(args: LogsArgs) -> anyhow::Result<()> {
    let query = [("lines", args.lines.to_string())];
    let lines: Vec<String> = args.api.connect()?.get(&["workers", &args.worker, "logs"], &query).await?;
    if args.json {
        return print_json(&lines);
    }
    let to_terminal = io::stdout().is_terminal();
    let shown = lines.iter().map(|line| if to_terminal { printable(line) } else { line.into() });
    print(&shown.map(|line| format!("{line}\n")).collect::<String>())
}
