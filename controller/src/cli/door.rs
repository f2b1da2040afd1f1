//! `bulkhead door`: the role that faces the clients.

use std::error::Error;
use std::io;

use anyhow::Context;
use clap::Args;
use server::door::{Config, DoorError};

use super::launch::DeploymentArgs;
use super::logging;

/// Accept clients and hand their requests to workers (a part of `up`)
#[derive(Debug, Args)]
#[command(after_help = "\
It needs no privilege: no engine socket, no API. It serves on when its
controller dies, and lets the next one adopt it. SIGTERM drains.

Example:
  bulkhead door --run-dir /run/bulkhead --spec bulkhead.yaml")]
pub(super) struct DoorArgs {
    #[command(flatten)]
    deployment: DeploymentArgs,
}

pub(super) fn run(args: &DoorArgs) -> anyhow::Result<()> {
    logging::start()?;
    let deployment = args.deployment.load()?;
    let run_dir = args.deployment.run_dir()?;
    run_dir.join()?;
    let config = Config {
        pools: deployment.pools.into_iter().map(|pool| pool.door).collect(),
        link_socket: run_dir.link_socket(),
        control_socket: run_dir.control_socket(),
        tunnel: None,
    };
    server::door::run(&config).context("the door cannot serve")
}

/// What to do about it, where we know.
pub(super) fn remedy(error: &DoorError) -> Option<&'static str> {
    let cause = error.source()?.downcast_ref::<io::Error>()?;
    match cause.kind() {
        io::ErrorKind::AddrInUse => Some(
            "stop what listens there (`ss -ltnp` names it), or choose another address with --listen POOL=IP:PORT",
        ),
        io::ErrorKind::AddrNotAvailable => Some(
            "that address is not this machine's (`ip addr` lists those that are): choose one with --listen POOL=IP:PORT",
        ),
        io::ErrorKind::PermissionDenied => {
            Some("ports below 1024 need a privilege: choose another with --listen POOL=IP:PORT")
        }
        _ => None,
    }
}
