//! `bulkhead completions`: what the shell suggests after TAB.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output::print;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  bulkhead completions bash > ~/.local/share/bash-completion/completions/bulkhead")]
pub(super) struct CompletionsArgs {
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::CommandLine::command(), "bulkhead", &mut script);
    print(&String::from_utf8_lossy(&script))
}
