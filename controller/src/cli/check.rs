//! `bulkhead check`: what a spec file means, or everything that is wrong with it.
//!
//! It starts nothing and asks nobody: whether an engine answers and whether an address is free is found by
//! `bulkhead up`. Exit codes: 0 the spec is good, 2 it is not, 1 standard output is broken.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use server::config::{Tunnel, TurnUnit};

use crate::spec::{
    self, BackendChoice, Deployment, Mistake, Overrides, Pool, SpecError, spell_size, spell_time,
};

/// Check a spec file and say what it means.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The spec file; left out: bulkhead.yaml, or what is built in where there is none
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Checks, and prints the result on standard output, good or bad: it is what was asked for.
#[expect(clippy::needless_pass_by_value, reason = "commands are given what was typed, all in the same way")]
pub(super) fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let checked = spec::find(args.file.as_deref())
        .and_then(|(file, text)| Ok((spec::understand(&file, &text, &args.overrides)?, file)));
    let (text, code) = match &checked {
        Ok((deployment, file)) => {
            let text =
                if args.json { json(&Verdict::good(file, deployment))? } else { summary(file, deployment) };
            (text, ExitCode::SUCCESS)
        }
        Err(error) => {
            let text = if args.json { json(&Verdict::bad(error))? } else { complaint(error) };
            (text, ExitCode::from(2))
        }
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(code)
}

/// What `--json` prints.
#[derive(Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
enum Verdict<'a> {
    /// The spec is good, and `effective` says all of it, defaults and overrides included.
    Good { file: &'a str, effective: serde_json::Value },
    /// It could not be read.
    Unreadable { problem: String },
    /// It is wrong.
    Wrong { mistakes: &'a [Mistake] },
}

impl<'a> Verdict<'a> {
    fn good(file: &'a str, deployment: &Deployment) -> Self {
        Self::Good { file, effective: deployment.to_json() }
    }

    fn bad(error: &'a SpecError) -> Self {
        match error {
            SpecError::Wrong(mistakes) => Self::Wrong { mistakes },
            SpecError::Read { source, .. } => Self::Unreadable { problem: format!("{error}: {source}") },
        }
    }
}

fn json(verdict: &Verdict<'_>) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(verdict)? + "\n")
}

/// The errors for people.
fn complaint(error: &SpecError) -> String {
    match error {
        SpecError::Wrong(mistakes) => {
            let count =
                if mistakes.len() == 1 { "1 mistake".into() } else { format!("{} mistakes", mistakes.len()) };
            format!("{error}\n{count}; nothing was started\n")
        }
        SpecError::Read { source, .. } => format!("{error}: {source}\n"),
    }
}

/// What the spec means, for people.
fn summary(file: &str, deployment: &Deployment) -> String {
    let backend = match deployment.backend {
        BackendChoice::Auto => "docker where an engine answers, else plain processes",
        BackendChoice::Process => "plain processes",
        BackendChoice::Docker => "docker",
        BackendChoice::Kubernetes => "kubernetes",
    };
    let mut text = format!(
        "{file} is good.\n\nbackend  {backend}\nlink     {}\napi      http://{}\n",
        link(deployment.tunnel.as_ref()),
        deployment.api.listen
    );
    for pool in &deployment.pools {
        describe(&mut text, pool);
    }
    text
}

fn link(tunnel: Option<&Tunnel>) -> String {
    let Some(tunnel) = tunnel else { return "fd: workers get the client's own socket".to_owned() };
    format!(
        "tunnel: workers dial {} {}; a heartbeat every {}, lost after {}, {} under way",
        tunnel.listen,
        if tunnel.tls { "with TLS" } else { "in the clear" },
        spell_time(tunnel.heartbeat),
        spell_time(tunnel.lost_after),
        spell_size(tunnel.window_bytes.into()),
    )
}

fn describe(text: &mut String, pool: &Pool) {
    let door = &pool.door;
    let turn = match door.turn {
        TurnUnit::Request => "one request at a time",
        TurnUnit::Connection => "whole connections",
    };
    let limits = &pool.worker.limits;
    let cpus = limits.cpus.map(|cpus| format!("{cpus} cpus"));
    let lines = [
        format!("\npool {}  {}://{}, {turn}", pool.name(), door.protocol, door.listen),
        format!("  workers     {} of {}, {}", pool.workers, pool.worker.app, pool.worker.model),
        format!(
            "  each        {}, {}, {} processes and threads, {} open files, network {}",
            limits
                .memory_bytes
                .map_or_else(|| "any memory".into(), |bytes| format!("{} of memory", spell_size(bytes))),
            cpus.as_deref().unwrap_or("any number of cpus"),
            limits.pids.map_or_else(|| "any number of".into(), |n| n.to_string()),
            limits.open_files.map_or_else(|| "any number of".into(), |n| n.to_string()),
            pool.worker.network,
        ),
        format!(
            "  gives up    after {} to start, {} for a head, {} for a request, {} idle, {} to drain",
            spell_time(door.timeouts.start),
            spell_time(door.timeouts.head),
            door.timeouts.request.map_or_else(|| "any time".into(), spell_time),
            spell_time(door.timeouts.keep_alive),
            spell_time(door.timeouts.drain),
        ),
        format!("  queue       {} at most, {} each", door.queue.depth, spell_time(door.queue.wait)),
        format!("  deliveries  {} at most, {} requests", door.redeliver.attempts, door.redeliver.methods),
    ];
    for line in lines {
        let _infallible = writeln!(text, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_spec_is_summed_up() -> Result<(), SpecError> {
        let deployment = spec::parse("bulkhead.yaml", spec::BUILT_IN)?;
        insta::assert_snapshot!(summary("bulkhead.yaml", &deployment), @"
        bulkhead.yaml is good.

        backend  docker where an engine answers, else plain processes
        link     fd: workers get the client's own socket
        api      http://127.0.0.1:9090

        pool web  http://127.0.0.1:8080, one request at a time
          workers     4 of demo, prefork
          each        64MiB of memory, 0.5 cpus, 64 processes and threads, 1024 open files, network none
          gives up    after 10s to start, 10s for a head, 30s for a request, 75s idle, 30s to drain
          queue       1024 at most, 10s each
          deliveries  2 at most, idempotent requests

        pool echo  tcp://127.0.0.1:12345, whole connections
          workers     4 of echo, prefork
          each        64MiB of memory, 0.5 cpus, 64 processes and threads, 1024 open files, network none
          gives up    after 10s to start, 10s for a head, any time for a request, 75s idle, 30s to drain
          queue       1024 at most, 10s each
          deliveries  2 at most, idempotent requests
        ");
        Ok(())
    }

    #[test]
    fn a_bad_one_is_told_to_people_and_to_programs() -> serde_json::Result<()> {
        let wrong = spec::parse("bulkhead.yaml", "pools:\n  web:\n    queue: { depth: 0 }\n");
        let Err(error) = wrong else { unreachable!("a queue of depth 0 was taken for good") };
        insta::assert_snapshot!(complaint(&error), @"
        bulkhead.yaml:3:21: pools.web.queue.depth: 0 is too little
            use 1 to 1000000: every request passes through the queue, if only for a moment
        1 mistake; nothing was started
        ");
        insta::assert_snapshot!(json(&Verdict::bad(&error))?, @r#"
        {
          "verdict": "wrong",
          "mistakes": [
            {
              "file": "bulkhead.yaml",
              "origin": {
                "file": {
                  "line": 3,
                  "column": 21
                }
              },
              "key": "pools.web.queue.depth",
              "problem": "0 is too little",
              "remedy": "use 1 to 1000000: every request passes through the queue, if only for a moment"
            }
          ]
        }
        "#);
        Ok(())
    }
}
