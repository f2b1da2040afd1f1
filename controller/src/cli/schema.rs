//! `bulkhead schema`: the spec file's JSON Schema, for editors and other tools.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;

/// Print the JSON Schema of the spec file.
#[derive(Debug, Args)]
pub(super) struct SchemaArgs {}

/// Prints it. Fails only when standard output does.
pub(super) fn run(SchemaArgs {}: SchemaArgs) -> anyhow::Result<ExitCode> {
    writeln!(std::io::stdout().lock(), "{:#}", crate::spec::schema().as_value())?;
    Ok(ExitCode::SUCCESS)
}
