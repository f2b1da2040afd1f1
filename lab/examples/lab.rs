//! The lab alone, for those who work on it: `cargo run -p lab --example lab -- lab races --quick`.
//!
//! It is `bulkhead lab` without the rest of `bulkhead`; the systems that are Bulkhead itself need that program, and
//! are taken from `BULKHEAD_PROGRAM` if it is set.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: Only,
}

#[derive(Debug, Subcommand)]
enum Only {
    Lab(lab::LabArgs),
}

fn main() -> ExitCode {
    if let Some(code) = lab::play::if_asked(std::env::args_os()) {
        return code;
    }
    let Only::Lab(args) = Line::parse().command;
    match lab::run(args, std::env::var_os("BULKHEAD_PROGRAM").map(Into::into)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
