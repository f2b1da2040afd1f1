//! `bulkhead worker`: what a backend starts in every compartment.
//!
//! Its command line is written by [`arguments`] and read by [`WorkerArgs`], side by side here so that the two
//! agree. The token comes in the environment ([`TOKEN_VARIABLE`]), because command lines can be read by
//! every process of a machine.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use server::config::{App, Model, Protocol, TurnUnit};
use server::identity::{Incarnation, Token};
use server::link::Dial;
use server::worker::{Options, SelfLimits};

use crate::backend::SpawnOrder;

/// The environment variable that carries a worker's token.
pub const TOKEN_VARIABLE: &str = "BULKHEAD_TOKEN";

/// The environment variable that carries the certificate by which a worker knows its doors.
pub const TUNNEL_CA_VARIABLE: &str = "BULKHEAD_TUNNEL_CA";

/// Serve as one worker of a pool (started by a backend, seldom by hand).
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Which life of which place this is, such as web-3.7
    #[arg(long, value_name = "POOL-PLACE.GENERATION")]
    life: Incarnation,
    /// Where its door is: a Unix socket, or tcp:// or tls:// and HOST:PORT, several with commas
    #[arg(long, value_name = "PATH|URL")]
    link: Dial,
    /// Where its deployment is; it means nothing to the worker, and says whose it is to who lists processes
    #[arg(long, value_name = "PATH")]
    home: Option<PathBuf>,
    /// What to run: demo or echo
    #[arg(long)]
    app: App,
    /// What clients speak: http or tcp
    #[arg(long)]
    protocol: Protocol,
    /// What is given at a time: request or connection
    #[arg(long)]
    turn: TurnUnit,
    /// How to serve: prefork, threads:N or event:N
    #[arg(long, default_value_t = Model::Prefork)]
    model: Model,
    /// Retire after so many requests
    #[arg(long, value_name = "REQUESTS")]
    retire_after: Option<NonZeroU32>,
    /// Bytes of private writable memory that it may have
    #[arg(long, value_name = "BYTES")]
    limit_memory: Option<u64>,
    /// Processes and threads that its user may have
    #[arg(long, value_name = "NUMBER")]
    limit_pids: Option<NonZeroU32>,
    /// Descriptors that it may have open
    #[arg(long, value_name = "NUMBER")]
    limit_open_files: Option<NonZeroU32>,
    /// The user and group to become, when started as root
    #[arg(long, value_name = "UID")]
    user: Option<NonZeroU32>,
    /// What proves who it is
    #[arg(long, env = TOKEN_VARIABLE, hide_env_values = true)]
    token: Token,
    /// The certificate of whoever has signed that of a door at tls://, in PEM
    #[arg(long, env = TUNNEL_CA_VARIABLE, value_name = "PEM", hide_env_values = true)]
    tunnel_ca: Option<String>,
}

/// The arguments, from `worker` on, with which `order` is started to dial the door at `link`, or through the order's
/// tunnel; then `link` only tells whose it is. `limits` are those
/// that the worker is to put on itself; none for a container.
pub fn arguments(order: &SpawnOrder, link: &Path, limits: &SelfLimits) -> Vec<String> {
    let pool = &order.pool;
    let mut arguments = vec!["worker".to_owned()];
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            arguments.extend([name.to_owned(), value]);
        }
    };
    option("--life", Some(order.life.to_string()));
    let link = link.display().to_string();
    match &order.tunnel {
        None => option("--link", Some(link)),
        Some(tunnel) => {
            option("--link", Some(tunnel.link.to_string()));
            option("--home", Some(link));
        }
    }
    option("--app", Some(pool.worker.app.to_string()));
    option("--protocol", Some(pool.door.protocol.to_string()));
    option("--turn", Some(pool.door.turn.to_string()));
    option("--model", Some(pool.worker.model.to_string()));
    option("--retire-after", order.retire_after.map(|n| n.to_string()));
    option("--limit-memory", limits.memory_bytes.map(|n| n.to_string()));
    option("--limit-pids", limits.pids.map(|n| n.to_string()));
    option("--limit-open-files", limits.open_files.map(|n| n.to_string()));
    option("--user", limits.user.map(|n| n.to_string()));
    arguments
}

/// Runs the worker until it is told to go.
pub fn run(args: WorkerArgs) -> ExitCode {
    let _for_others = args.home;
    server::worker::run(&Options {
        life: args.life,
        token: args.token,
        link: args.link,
        tunnel_ca: args.tunnel_ca,
        app: args.app,
        protocol: args.protocol,
        turn: args.turn,
        model: args.model,
        retire_after: args.retire_after,
        limits: SelfLimits {
            memory_bytes: args.limit_memory,
            pids: args.limit_pids,
            open_files: args.limit_open_files,
            user: args.user,
        },
    })
}
