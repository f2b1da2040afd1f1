//! Where a door on this machine listens for workers that dial it, so that they can.
//!
//! Plain processes reach whatever is this machine's. Containers have a network of their own, in which this machine is the
//! gateway. So where the spec leaves the door on loopback, or asks for that, it listens on their gateway's address
//! instead: that is as near to loopback as there is for them. Where it listens on every address, each pool is told the
//! gateway of its own network. Any other address is taken for what it is: whoever writes it knows that it can be reached.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use server::identity::PoolName;
use thiserror::Error;

use crate::backend::docker::{Engine, NoGateway};
use crate::spec::{Deployment, Network};

/// Containers would not reach the door.
#[derive(Debug, Error)]
pub(super) enum Unreachable {
    /// They have no network at all.
    #[error(
        "workers of pool {pool} have network: none and cannot dial a door, as link: tunnel has them do: write network: bridge, or link: fd"
    )]
    ShutIn {
        /// The pool.
        pool: PoolName,
    },
    /// Their network does not lead here.
    #[error(transparent)]
    Gateway(#[from] NoGateway),
    /// Loopback cannot stand for two gateways.
    #[error("pools are on networks with several gateways ({}), and the door would listen on one: write tunnel.listen: 0.0.0.0:{port}", listed(.gateways))]
    Several {
        /// All of them.
        gateways: Vec<IpAddr>,
        /// The port.
        port: u16,
    },
}

fn listed(gateways: &[IpAddr]) -> String {
    gateways.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Has the door of `deployment` listen where the containers of `engine` can reach it. What this machine is called by the
/// workers of each pool.
pub(super) async fn open_to_containers(
    deployment: &mut Deployment,
    engine: &Engine,
) -> Result<BTreeMap<PoolName, IpAddr>, Unreachable> {
    let Some(tunnel) = &mut deployment.tunnel else { return Ok(BTreeMap::new()) };
    let mut hosts = BTreeMap::new();
    for pool in &deployment.pools {
        let Network::Named(network) = &pool.worker.network else {
            return Err(Unreachable::ShutIn { pool: pool.name().clone() });
        };
        hosts.insert(pool.name().clone(), engine.gateway(network).await?);
    }
    tunnel.listen = listen(tunnel.listen, &hosts)?;
    Ok(hosts)
}

/// Where a door that is to listen at `asked` listens for workers to whom this machine is one of `hosts`.
fn listen(asked: SocketAddr, hosts: &BTreeMap<PoolName, IpAddr>) -> Result<SocketAddr, Unreachable> {
    if !asked.ip().is_loopback() {
        return Ok(asked);
    }
    let mut gateways: Vec<IpAddr> = hosts.values().copied().collect();
    gateways.sort_unstable();
    gateways.dedup();
    match gateways[..] {
        [] => Ok(asked),
        [gateway] => Ok((gateway, asked.port()).into()),
        [..] => Err(Unreachable::Several { gateways, port: asked.port() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_stands_for_the_one_gateway_that_there_is() -> Result<(), Box<dyn std::error::Error>> {
        let hosts = |ips: &[&str]| -> Result<BTreeMap<PoolName, IpAddr>, Box<dyn std::error::Error>> {
            let host = |(n, ip): (usize, &&str)| Ok((format!("pool{n}").parse()?, ip.parse()?));
            ips.iter().enumerate().map(host).collect()
        };
        let (loopback, everywhere) = ("127.0.0.1:7411".parse()?, "0.0.0.0:7411".parse()?);
        let one = hosts(&["172.17.0.1", "172.17.0.1"])?;
        assert_eq!(listen(loopback, &one)?.to_string(), "172.17.0.1:7411");
        assert_eq!(listen(everywhere, &one)?, everywhere);
        let two = hosts(&["172.17.0.1", "172.18.0.1"])?;
        let told = listen(loopback, &two).map_err(|error| error.to_string());
        insta::assert_snapshot!(told.err().unwrap_or_default(), @"pools are on networks with several gateways (172.17.0.1, 172.18.0.1), and the door would listen on one: write tunnel.listen: 0.0.0.0:7411");
        assert_eq!(listen(everywhere, &two)?, everywhere);
        Ok(())
    }
}
