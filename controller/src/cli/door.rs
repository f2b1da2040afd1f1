//! `bulkhead door`: the role that faces the clients.

use std::error::Error;
use std::io;

use anyhow::Context;
use clap::Args;
use server::door::{Config, DoorError};

use super::launch::DeploymentArgs;
use super::logging;
use crate::pending::rundir::RunDirExt as _;

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
    run_dir.create()?;
    let config = Config {
        pools: deployment.pools.into_iter().map(|pool| pool.door).collect(),
        link_socket: run_dir.link_socket(),
        control_socket: run_dir.control_socket(),
    };
    server::door::run(&config)
        .map_err(|error| {
            let remedy = remedy(&error);
            match remedy {
                Some(remedy) => anyhow::Error::new(error).context(remedy),
                None => error.into(),
            }
        })
        .context("the door cannot serve")
}

/// What to do about it, where we know.
fn remedy(error: &DoorError) -> Option<&'static str> {
    let cause = error.source()?.downcast_ref::<io::Error>()?;
    match cause.kind() {
        io::ErrorKind::AddrInUse => Some(
            "an address is taken: stop what listens there (`ss -ltnp` names it), or choose another with --listen POOL=ADDRESS",
        ),
        io::ErrorKind::AddrNotAvailable => Some(
            "an address is not this machine's: `ip addr` lists those that are; choose one with --listen POOL=ADDRESS",
        ),
        io::ErrorKind::PermissionDenied => Some(
            "an address may not be used: ports below 1024 need a privilege; choose another with --listen POOL=ADDRESS",
        ),
        _ => None,
    }
}
