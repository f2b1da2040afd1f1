//! Where the roles say what they do: standard error, one line an event, as much as `RUST_LOG` asks for.

use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// Turns the log on. Called once, by a role, before it does anything.
pub(super) fn start() -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(asked) => asked.parse::<EnvFilter>().with_context(|| {
            format!(
                "RUST_LOG={asked} is not understood: it looks like 'info' or 'controller=debug,server=info'"
            )
        })?,
        Err(_) => EnvFilter::new("info"),
    };
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !no_color)
        .init();
    Ok(())
}
