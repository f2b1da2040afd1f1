//! The address of this machine in one of the engine's networks, at which containers reach a door that runs beside them.
//!
//! Engines tell a network's gateway, but those up to 20.10 not always that of their default bridge. It has the first
//! address of its subnet then, which is what the engine gives every bridge of which nobody has said otherwise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bollard::query_parameters::InspectNetworkOptions;
use thiserror::Error;

use super::calls::Operation;
use super::engine::Engine;
use crate::backend::BackendError;

/// A network does not lead here.
#[derive(Debug, Error)]
pub enum NoGateway {
    /// The engine does not know it, or does not answer.
    #[error("cannot find the gateway of network {network}")]
    Engine {
        /// Which.
        network: String,
        /// Why.
        #[source]
        source: BackendError,
    },
    /// It has none: it is `none` or `host`, or internal, or a plugin's.
    #[error(
        "network {network} has no gateway by which its containers could reach a door on this machine: use bridge, or a network made with `docker network create`"
    )]
    None {
        /// Which.
        network: String,
    },
}

impl Engine {
    /// The gateway of `network`, which on a bridge is this machine.
    pub async fn gateway(&self, network: &str) -> Result<IpAddr, NoGateway> {
        let inspect = self.docker().inspect_network(network, None::<InspectNetworkOptions>);
        let found = self.ask(Operation::FindNetwork, network, inspect).await;
        let found = found.map_err(|source| NoGateway::Engine { network: network.to_owned(), source })?;
        let bridge = found.driver.as_deref() == Some("bridge");
        let configs = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        let told = configs.iter().find_map(|config| config.gateway.as_ref()?.parse().ok());
        let usual = || configs.iter().find_map(|config| first_of(config.subnet.as_ref()?));
        let gateway = told.or_else(|| usual().filter(|_| bridge));
        gateway.ok_or_else(|| NoGateway::None { network: network.to_owned() })
    }
}

/// The first address of a subnet, `172.17.0.1` of `172.17.0.0/16`.
fn first_of(subnet: &str) -> Option<IpAddr> {
    let (address, prefix) = subnet.split_once('/')?;
    let prefix: u32 = prefix.parse().ok()?;
    match address.parse().ok()? {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32_u32.checked_sub(prefix)?).unwrap_or(0);
            Some(Ipv4Addr::from((u32::from(address) & mask) | 1).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.checked_sub(prefix)?).unwrap_or(0);
            Some(Ipv6Addr::from((u128::from(address) & mask) | 1).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_has_the_first_address_of_its_subnet() {
        let first = |subnet| first_of(subnet).map(|first| first.to_string());
        assert_eq!(first("172.17.0.0/16").as_deref(), Some("172.17.0.1"));
        assert_eq!(first("10.1.2.128/25").as_deref(), Some("10.1.2.129"));
        assert_eq!(first("fd00:1::/64").as_deref(), Some("fd00:1::1"));
        for wrong in ["", "172.17.0.0", "172.17.0.0/33", "here/8"] {
            assert_eq!(first(wrong), None, "{wrong:?}");
        }
    }
}
