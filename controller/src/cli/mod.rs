//! The command line: one file a command, and this one to choose among them.
//!
//! Two kinds of commands live here. The *roles* (`up`, `controller`, `door`, `worker`) are the parts of a running
//! deployment; they log to standard error. The others are *clients* of a controller's API: they print what it
//! says and are gone.
//!
//! Two more measure: `storm` a deployment or any other server, and `lab` the ways to serve as such ([`::lab`]).
//!
//! `worker` is different from all of them: it may have 2 MiB of memory and must be up within milliseconds, so
//! [`main`] hands over to it before anything else is built: no runtime, no log, not even the other commands'
//! descriptions.

mod check;
mod client;
mod completions;
mod controller;
mod door;
mod doorkeeper;
mod drain;
mod events;
mod follow;
mod greeting;
mod image;
mod incidents;
mod interrupts;
mod kill;
mod lab;
mod launch;
mod logging;
mod logs;
mod output;
mod pods;
mod ps;
mod quarters;
mod scale;
mod schema;
mod standby;
mod storm;
mod stream;
mod tokens;
mod top;
mod tunnel;
mod up;
pub mod worker;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use server::door::DoorError;

use crate::spec::SpecError;
use client::ApiError;

/// A prefork server whose processes are containers
#[derive(Debug, Parser)]
#[command(
    name = "bulkhead",
    version,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  bulkhead up                          door, workers and master, on this machine
  bulkhead up --backend docker         each worker in a container of its own
  bulkhead ps                          who is there, and what each holds
  bulkhead top                         the same, live, with a key for every harm
  bulkhead kill random                 what one tries first
  bulkhead incidents                   what became of it
  bulkhead storm                       load, and a kill every second: who notices?
  bulkhead lab                         what processes, threads and event loops cost and survive

Exit codes:
  0  done
  1  failed, or refused by the controller
  2  the command line or the spec file is wrong
  3  no controller answers"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::UpArgs),
    Ps(ps::PsArgs),
    Top(top::TopArgs),
    Kill(kill::KillArgs),
    Storm(storm::StormArgs),
    Incidents(incidents::IncidentsArgs),
    Events(events::EventsArgs),
    Logs(logs::LogsArgs),
    Drain(drain::DrainArgs),
    Scale(scale::ScaleArgs),
    Check(check::CheckArgs),
    Schema(schema::SchemaArgs),
    Image(image::ImageArgs),
    Lab(::lab::LabArgs),
    Controller(controller::ControllerArgs),
    Door(door::DoorArgs),
    Worker(worker::WorkerArgs),
    Completions(completions::CompletionsArgs),
}

/// Serve as one worker of a pool (started by a backend, seldom by hand)
//
// The same words as `Command::Worker`, read without the other commands.
#[derive(Debug, Parser)]
#[command(name = "bulkhead worker", bin_name = "bulkhead worker")]
struct WorkerLine {
    #[command(flatten)]
    args: worker::WorkerArgs,
}

/// Runs the program. The code returned is the process's.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next();
    if words.next().as_deref() == Some(OsStr::new("worker")) {
        return worker::run(WorkerLine::parse_from(program.into_iter().chain(words)).args);
    }
    if let Some(code) = ::lab::play::if_asked(std::env::args_os()) {
        return code;
    }
    match run(CommandLine::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bulkhead: {}", explain(&error));
            exit_code(&error)
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Up(args) => return in_runtime(up::run(args)),
        Command::Controller(args) => return in_runtime(controller::run(args)),
        Command::Check(args) => return check::run(args),
        Command::Schema(args) => return schema::run(args),
        Command::Image(args) => return in_runtime(image::run(args)),
        Command::Worker(args) => return Ok(worker::run(args)),
        Command::Storm(args) => return in_runtime(storm::run(args)),
        Command::Lab(args) => return lab::run(args),
        Command::Door(args) => door::run(&args),
        Command::Ps(args) => in_runtime(ps::run(args)),
        Command::Top(args) => in_runtime(top::run(args)),
        Command::Kill(args) => in_runtime(kill::run(args)),
        Command::Drain(args) => in_runtime(drain::run(args)),
        Command::Scale(args) => in_runtime(scale::run(args)),
        Command::Logs(args) => in_runtime(logs::run(args)),
        Command::Incidents(args) => in_runtime(incidents::run(args)),
        Command::Events(args) => in_runtime(events::run(args)),
        Command::Completions(args) => completions::run(&args),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// One thread carries the whole control path: it waits far more than it works.
fn in_runtime<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(command);
    // What still runs on a blocking thread by now (a look-up of a name, say) is nobody's business any more.
    runtime.shutdown_background();
    done
}

/// What went wrong, why, and what to do about it.
fn explain(error: &anyhow::Error) -> String {
    if let Some(error) = error.downcast_ref::<ApiError>()
        && let Some(remedy) = error.remedy()
    {
        return format!("{}\n  {remedy}", error.in_short());
    }
    match error.downcast_ref::<DoorError>().and_then(door::remedy) {
        Some(remedy) => format!("{error:#}\n  {remedy}"),
        None => format!("{error:#}"),
    }
}

/// The exit code that `--help` promises for an error.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<SpecError>() {
        return ExitCode::from(2);
    }
    match error.downcast_ref::<ApiError>() {
        Some(ApiError::Unreachable { .. } | ApiError::NotBulkhead { .. }) => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_is_described_without_contradiction() {
        CommandLine::command().debug_assert();
        WorkerLine::command().debug_assert();
    }
}
