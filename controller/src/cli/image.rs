//! `bulkhead image`: packs this program into a local image, or finds that it is there.
//!
//! The same step that `bulkhead up --backend docker` takes by itself. The image's name is all that goes to standard
//! output, so that `docker run $(bulkhead image) …` works.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::backend::docker::{self, DockerOptions};

/// Pack this program into an image for its workers, and print the image's name.
#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    #[command(flatten)]
    docker: DockerOptions,
    /// Print a JSON document instead
    #[arg(long)]
    json: bool,
}

/// Exits with 0 when the image is there, and with an error when there is no engine or no image.
pub(super) async fn run(args: ImageArgs) -> anyhow::Result<ExitCode> {
    let engine = docker::probe().await?;
    let image = docker::ensure_image(&engine, &args.docker).await?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "image": image, "engine": engine.name() }))?;
    } else {
        writeln!(out, "{image}")?;
    }
    Ok(ExitCode::SUCCESS)
}
