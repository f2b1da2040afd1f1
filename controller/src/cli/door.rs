//! `bulkhead door`: the role that faces the clients.

use std::error::Error;
use std::io;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use server::config::Tunnel;
use server::door::{Config, DoorError, MouthError, TunnelMouth};
use server::link::tunnel::TlsIdentity;

use super::doorkeeper::Wanted;
use super::launch::DeploymentArgs;
use super::{doorkeeper, in_runtime, logging};
use crate::certificates::Identity;
use crate::certificates::files::{self, FilesError};
use crate::spec::read_time;

/// How often a door that waits for its certificate looks for it.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Accept clients and hand their requests to workers (a part of `up`)
#[derive(Debug, Args)]
#[command(after_help = "\
It needs no privilege: no engine socket, no API. It serves on when its
controller dies, and lets the next one adopt it. SIGTERM drains.

Examples:
  bulkhead door --run-dir /run/bulkhead --spec bulkhead.yaml
  bulkhead door --run-dir /run/bulkhead --probe    does that one still serve?")]
pub(super) struct DoorArgs {
    #[command(flatten)]
    deployment: DeploymentArgs,
    /// Where its certificate (tls.crt), its key (tls.key) and, where no controller brings it, the deployment's secret
    /// (secret) are, for link: tunnel [default: in the run directory, where the controller makes them]
    #[arg(long, env = "BULKHEAD_TUNNEL_IDENTITY", value_name = "DIRECTORY")]
    tunnel_identity: Option<PathBuf>,
    /// For how long it goes on accepting clients after a SIGTERM, for who sends them may hear of it later, as a cluster
    /// does: 5s, 500ms. A second signal ends it
    #[arg(long, env = "BULKHEAD_LINGER", value_name = "TIME", default_value = "0s", value_parser = read_time)]
    linger: Duration,
    /// Be no door, but ask the one of this run directory for a sign of life: 0 when it has given one within 5s, 1
    /// otherwise. For the health checks of clusters and Compose: the kernel accepts clients for a door that hangs
    #[arg(long)]
    probe: bool,
    /// With --probe: 1 as well while one of its pools has no worker here, until it has been there for so long. For a cluster
    /// that is not to send clients to a door before they can be served
    #[arg(long, value_name = "TIME", requires = "probe", value_parser = read_time)]
    staffed_or_after: Option<Duration>,
}

/// Serves until it is told to go; or asks whether the door that is here does.
pub(super) fn run(args: &DoorArgs) -> anyhow::Result<()> {
    if args.probe {
        let run_dir = args.deployment.run_dir()?;
        let wanted = match args.staffed_or_after {
            Some(or_there_for) => Wanted::Workers { or_there_for },
            None => Wanted::SignOfLife,
        };
        return in_runtime(doorkeeper::probe(&run_dir, wanted, doorkeeper::VERSION_PATIENCE));
    }
    serve(args)
}

fn serve(args: &DoorArgs) -> anyhow::Result<()> {
    logging::start()?;
    let deployment = args.deployment.load()?;
    let run_dir = args.deployment.run_dir()?;
    run_dir.join()?;
    let mouth = |tunnel| match &args.tunnel_identity {
        Some(directory) => mouth(tunnel, directory, Patience::None),
        None => mouth(tunnel, &run_dir.tunnel_dir(), Patience::Endless),
    };
    let tunnel = deployment.tunnel.map(mouth).transpose()?;
    let config = Config {
        pools: deployment.pools.into_iter().map(|pool| pool.door).collect(),
        link_socket: run_dir.link_socket(),
        control_socket: run_dir.control_socket(),
        tunnel,
        linger: args.linger,
    };
    server::door::run(&config).context("the door cannot serve")
}

/// Whether somebody is going to make the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// It should be there.
    None,
    /// The controller does when it comes, whichever of the two is started first.
    Endless,
}

/// Where and as whom the door listens for workers over TCP.
fn mouth(tunnel: Tunnel, directory: &Path, patience: Patience) -> Result<TunnelMouth, FilesError> {
    let identity = if tunnel.tls { identity(directory, patience)? } else { None };
    let identity = identity.map(|Identity { certificate, key }| TlsIdentity {
        certificates_pem: certificate.into_bytes(),
        key_pem: key.into_bytes(),
    });
    Ok(TunnelMouth { config: tunnel, secret: files::secret(directory)?, identity })
}

/// The door's certificate and key, waited for where that makes sense. Nothing has been opened yet, and a signal ends us.
fn identity(directory: &Path, patience: Patience) -> Result<Option<Identity>, FilesError> {
    let mut told = false;
    loop {
        let found = files::identity(directory)?;
        if found.is_some() || patience == Patience::None {
            return Ok(found);
        }
        if !told {
            tracing::info!(directory = %directory.display(), "waiting for the controller to make this door's certificate");
            told = true;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What to do about it, where we know.
pub(super) fn remedy(error: &DoorError) -> Option<&'static str> {
    if let DoorError::Tunnel(error) = error {
        return match error {
            MouthError::Listen(..) => Some(
                "stop what listens there (`ss -ltnp` names it), or write another tunnel.listen in the spec file; it has to be an address of this machine (`ip addr` lists them)",
            ),
            MouthError::Identity(_) | MouthError::NoIdentity => None,
        };
    }
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
