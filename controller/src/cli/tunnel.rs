//! Where a door on this machine listens for workers that dial it, so that they can.
//!
//! Plain processes reach whatever is this machine's. Containers have a network of their own, in which this machine is the
//! gateway. So where the spec leaves the door on loopback, or asks for that, it listens on their gateway's address
//! instead: that is as near to loopback as there is for them. Where it listens on every address, each pool is told the
//! gateway of its own network. Any other address is taken for what it is: whoever writes it knows that it can be reached.
//!
//! Pods come from other machines. Where the door listens on every address, they are told the one by which this machine
//! reaches the cluster's API: the nodes are mostly where that is. Where that is loopback, as with a cluster that runs in
//! this machine's containers, nobody can tell, and somebody has to say it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use server::identity::PoolName;
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};

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
    /// Their gateway is another machine than this.
    #[error(
        "{0}, the gateway of the workers' network, is no address of this machine, as is the case within a container: write a tunnel.listen at which they can reach the door"
    )]
    Elsewhere(IpAddr),
    /// Loopback cannot stand for two gateways.
    #[error("pools are on networks with several gateways ({}), and the door would listen on one: write tunnel.listen: 0.0.0.0:{port}", listed(.gateways))]
    Several {
        /// All of them.
        gateways: Vec<IpAddr>,
        /// The port.
        port: u16,
    },
    /// Pods are on other machines, or at least in other networks.
    #[error(
        "no pod reaches {listen}: write a tunnel.listen with an address of this machine that the cluster's pods can dial"
    )]
    NotByPods {
        /// Where the door would listen.
        listen: SocketAddr,
    },
    /// What pods are to call this machine cannot be found out.
    #[error(
        "pods cannot be told where this machine is, for from here its cluster's API at {api} is this machine itself, or cannot be found: write tunnel.listen: ADDRESS:{port}, with an address of this machine that pods can dial (`ip addr` lists them)"
    )]
    Nameless {
        /// Where the API is.
        api: String,
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
    let asked = tunnel.listen;
    tunnel.listen = listen(asked, &hosts)?;
    if tunnel.listen != asked {
        // The door binds it in earnest; here is but a look whether it can.
        let bound = TcpListener::bind((tunnel.listen.ip(), 0)).await;
        bound.map_err(|_| Unreachable::Elsewhere(tunnel.listen.ip()))?;
        tracing::info!(
            listen = %tunnel.listen,
            "the door listens for workers at their gateway: containers do not reach {asked}"
        );
    }
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

/// Makes sure that the pods of a cluster, whose API is at the URL `api`, can be told where the door of `deployment` listens.
/// What this machine is called by the workers of each pool, where that is not in the spec.
pub(super) async fn open_to_pods(
    deployment: &Deployment,
    api: &str,
) -> Result<BTreeMap<PoolName, IpAddr>, Unreachable> {
    let Some(tunnel) = &deployment.tunnel else { return Ok(BTreeMap::new()) };
    let Some(host) = host_for_pods(tunnel.listen, towards(api).await, api)? else {
        return Ok(BTreeMap::new());
    };
    tracing::info!(%host, "pods dial this machine at the address by which it reaches their cluster's API");
    Ok(deployment.pools.iter().map(|pool| (pool.name().clone(), host)).collect())
}

/// What pods call this machine whose door listens at `listen`; `None` where that says it already. `ours`: this machine's
/// address to the cluster's API.
fn host_for_pods(listen: SocketAddr, ours: Option<IpAddr>, api: &str) -> Result<Option<IpAddr>, Unreachable> {
    if listen.ip().is_loopback() {
        return Err(Unreachable::NotByPods { listen });
    }
    if !listen.ip().is_unspecified() {
        return Ok(None);
    }
    match ours.filter(|ours| !ours.is_loopback()) {
        Some(ours) => Ok(Some(ours)),
        None => Err(Unreachable::Nameless { api: api.to_owned(), port: listen.port() }),
    }
}

/// By which address this machine reaches whoever is at `url`, by its own routes: nothing is sent.
async fn towards(url: &str) -> Option<IpAddr> {
    let url = reqwest::Url::parse(url).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    let there = tokio::net::lookup_host((host, url.port_or_known_default()?)).await.ok()?.next()?;
    let any: IpAddr =
        if there.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(there).await.ok()?;
    Some(socket.local_addr().ok()?.ip())
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
    #[tokio::test]
    async fn pods_are_told_an_address_that_is_not_their_own() -> Result<(), Box<dyn std::error::Error>> {
        let api = "https://127.0.0.1:6443/";
        let (everywhere, loopback, one) =
            ("0.0.0.0:7411".parse()?, "127.0.0.1:7411".parse()?, "10.0.0.5:7411".parse()?);
        let ours: IpAddr = "192.168.1.7".parse()?;
        assert_eq!(host_for_pods(everywhere, Some(ours), api)?, Some(ours));
        assert_eq!(host_for_pods(one, None, api)?, None);
        let at_home = towards(api).await;
        assert_eq!(at_home, Some("127.0.0.1".parse()?));
        assert!(towards("https://[::1]:6443").await.is_none_or(|it| it.is_loopback()));
        let told = |listen, ours| host_for_pods(listen, ours, api).err().map(|error| error.to_string());
        insta::assert_snapshot!(told(loopback, Some(ours)).unwrap_or_default(), @"no pod reaches 127.0.0.1:7411: write a tunnel.listen with an address of this machine that the cluster's pods can dial");
        insta::assert_snapshot!(told(everywhere, at_home).unwrap_or_default(), @"pods cannot be told where this machine is, for from here its cluster's API at https://127.0.0.1:6443/ is this machine itself, or cannot be found: write tunnel.listen: ADDRESS:7411, with an address of this machine that pods can dial (`ip addr` lists them)");
        assert_eq!(told(everywhere, at_home), told(everywhere, None));
        Ok(())
    }
}
