//! The address of this machine in one of the engine's networks, at which containers reach a door that runs beside them.

use std::net::IpAddr;

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
        let configs = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        let mut gateways = configs.into_iter().filter_map(|config| config.gateway?.parse().ok());
        gateways.next().ok_or_else(|| NoGateway::None { network: network.to_owned() })
    }
}
