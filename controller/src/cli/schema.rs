//! `bulkhead schema`: the spec file's JSON Schema, for editors and other tools.

use std::process::ExitCode;

use clap::Args;

use super::output::print;

/// Print the JSON Schema of the spec file.
#[derive(Debug, Args)]
pub(super) struct SchemaArgs {}

/// Prints it. Fails only when standard output does.
pub(super) fn run(SchemaArgs {}: SchemaArgs) -> anyhow::Result<ExitCode> {
    print(&format!("{:#}\n", crate::spec::schema().as_value()))?;
    Ok(ExitCode::SUCCESS)
}
