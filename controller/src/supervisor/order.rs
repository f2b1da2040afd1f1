//! What the backend is told when it is to start a worker.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use server::identity::{Incarnation, PoolName, Secret};
use server::link::Dial;
use thiserror::Error;

use crate::backend::{SpawnOrder, Tunnel};
use crate::door::{Door, Mouth};
use crate::spec::{Pool, Recycle};

/// How workers find doors over TCP.
#[derive(Debug, Clone, Default)]
pub struct Dialling {
    /// Whether what is said there is encrypted.
    pub tls: bool,
    /// The certificate of the deployment's authority in PEM, where it is.
    pub ca: Option<String>,
    /// The address of this machine for the workers of each pool, where they do not share its network; empty where they
    /// do. A pool that has come since is taken to have the network of another.
    pub hosts: BTreeMap<PoolName, IpAddr>,
    /// `HOST:PORT` of what else leads to a door, to be dialled last: the name of a service, say.
    pub besides: Vec<String>,
}

/// A worker could not be told where its door is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum NoDoor {
    /// No door that is there listens for it.
    #[error("no door listens for workers over TCP: start it with the same spec, which has link: tunnel")]
    Deaf,
    /// It listens where this worker cannot come.
    #[error(
        "the door listens for workers at {listen}, where containers cannot reach it: give it tunnel.listen: {gateway}:{port}",
        port = listen.port()
    )]
    Loopback {
        /// Where.
        listen: SocketAddr,
        /// Where they could.
        gateway: IpAddr,
    },
}

/// Makes orders.
pub(super) struct OrderBook {
    secret: Secret,
    pools: Vec<(Arc<Pool>, String)>,
    dialling: Option<Dialling>,
}

impl OrderBook {
    pub(super) fn new(secret: Secret, pools: Vec<(Arc<Pool>, String)>, dialling: Option<Dialling>) -> Self {
        Self { secret, pools, dialling }
    }

    /// The pools are these from now on.
    pub(super) fn replace(&mut self, pools: Vec<(Arc<Pool>, String)>) {
        self.pools = pools;
    }

    /// The order for this life; `None` when its pool is not in the spec.
    pub(super) fn spawn(&self, life: &Incarnation, door: &Door) -> Option<Result<SpawnOrder, NoDoor>> {
        let (pool, spec_hash) = self.pool(&life.worker.pool)?;
        let tunnel = self
            .dialling
            .as_ref()
            .map(|dialling| tunnel(dialling, pool.name(), door.to_dial(pool.name(), life.worker.place)));
        let tunnel = match tunnel.transpose() {
            Ok(tunnel) => tunnel,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok(SpawnOrder {
            life: life.clone(),
            token: self.secret.token(life),
            pool: if tunnel.is_some() { with_room_for_a_relay(pool) } else { Arc::clone(pool) },
            retire_after: retire_after(&pool.recycle, rand::random()),
            spec_hash: spec_hash.clone(),
            tunnel,
        }))
    }

    fn pool(&self, name: &PoolName) -> Option<&(Arc<Pool>, String)> {
        self.pools.iter().find(|(pool, _)| pool.name() == name)
    }
}

/// The pool with as many open files more as a worker's relay needs: what the spec allows is what its handlers have.
fn with_room_for_a_relay(pool: &Arc<Pool>) -> Arc<Pool> {
    /// The tunnel, the link, the event loop, names that are looked up.
    const FOR_ITSELF: u32 = 32;
    /// Both ends of a turn's local socket.
    const FOR_A_TURN: u32 = 2;
    let mut pool = Pool::clone(pool);
    let more = FOR_ITSELF + FOR_A_TURN * u32::from(pool.worker.model.credit());
    let open_files = &mut pool.worker.limits.open_files;
    *open_files = open_files.map(|files| files.saturating_add(more));
    Arc::new(pool)
}

/// What a worker of this pool is to dial, given the doors in the order in which it is to try them.
fn tunnel(dialling: &Dialling, pool: &PoolName, mouths: Vec<Mouth>) -> Result<Tunnel, NoDoor> {
    let host = dialling.hosts.get(pool).or_else(|| dialling.hosts.values().next()).copied();
    let reached = |mouth| match (mouth, host) {
        (Mouth::Address(address), _) => Ok(address),
        (Mouth::OfThisMachine(listen), Some(gateway)) if listen.ip().is_loopback() => {
            Err(NoDoor::Loopback { listen, gateway })
        }
        (Mouth::OfThisMachine(mut listen), host) => {
            if listen.ip().is_unspecified() {
                listen.set_ip(host.unwrap_or(match listen {
                    SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                }));
            }
            Ok(listen.to_string())
        }
    };
    let mut doors = mouths.into_iter().map(reached).collect::<Result<Vec<_>, _>>()?;
    doors.extend(dialling.besides.iter().cloned());
    if doors.is_empty() {
        return Err(NoDoor::Deaf);
    }
    Ok(Tunnel { link: Dial::Tunnel { doors, tls: dialling.tls }, ca: dialling.ca.clone() })
}

/// After how many requests a worker retires, `luck` (0.0 to 1.0) having moved it by up to the jitter either way.
fn retire_after(recycle: &Recycle, luck: f64) -> Option<NonZeroU32> {
    let requests = recycle.requests?;
    let factor = 1.0 + recycle.jitter * (2.0 * luck - 1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, which is meant"
    )]
    let moved = (f64::from(requests.get()) * factor).round() as u32;
    Some(NonZeroU32::new(moved).unwrap_or(NonZeroU32::MIN))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_worker_dials_the_door_where_it_is_for_that_worker() -> Result<(), Box<dyn std::error::Error>> {
        let pool: PoolName = "web".parse()?;
        let dialled = |dialling: &Dialling, mouths: &[Mouth]| {
            tunnel(dialling, &pool, mouths.to_vec()).map(|tunnel| tunnel.link.to_string())
        };
        let listen = |text: &str| text.parse().map(Mouth::OfThisMachine);
        let (everywhere, loopback, own) =
            (listen("0.0.0.0:1")?, listen("127.0.0.1:1")?, listen("10.0.0.5:1")?);
        let process = Dialling::default();
        assert_eq!(dialled(&process, std::slice::from_ref(&everywhere)), Ok("tcp://127.0.0.1:1".to_owned()));
        assert_eq!(dialled(&process, std::slice::from_ref(&loopback)), Ok("tcp://127.0.0.1:1".to_owned()));
        assert_eq!(dialled(&process, &[]), Err(NoDoor::Deaf));

        let hosts = BTreeMap::from([(pool.clone(), "172.17.0.1".parse()?)]);
        let docker = Dialling { tls: true, hosts, ..Dialling::default() };
        assert_eq!(dialled(&docker, &[everywhere]), Ok("tls://172.17.0.1:1".to_owned()));
        assert_eq!(dialled(&docker, &[own]), Ok("tls://10.0.0.5:1".to_owned()));
        let told = dialled(&docker, &[loopback]).map_err(|error| error.to_string());
        insta::assert_snapshot!(told.unwrap_or_else(|told| told), @"the door listens for workers at 127.0.0.1:1, where containers cannot reach it: give it tunnel.listen: 172.17.0.1:1");

        let pods = Dialling { besides: vec!["doors:7411".to_owned()], ..Dialling::default() };
        let mouths = ["10.1.0.2:7411", "10.1.0.1:7411"].map(|at| Mouth::Address(at.to_owned()));
        assert_eq!(dialled(&pods, &mouths), Ok("tcp://10.1.0.2:7411,10.1.0.1:7411,doors:7411".to_owned()));
        assert_eq!(dialled(&pods, &[]), Ok("tcp://doors:7411".to_owned()), "a door may come before it does");
        Ok(())
    }

    #[test]
    fn a_relay_takes_no_open_files_from_the_handlers() {
        let mut pool = crate::supervisor::testing::pool("web", 1);
        pool.worker.model = server::config::Model::Threads(100);
        pool.worker.limits.open_files = NonZeroU32::new(1024);
        let given = with_room_for_a_relay(&Arc::new(pool)).worker.limits.open_files;
        assert_eq!(given.map(NonZeroU32::get), Some(1024 + 32 + 200));
    }

    proptest! {
        #[test]
        fn jitter_stays_in_its_share(requests in 1_u32..1_000_000, jitter in 0.0..=1.0, luck in 0.0..=1.0) {
            let recycle = Recycle { requests: NonZeroU32::new(requests), jitter };
            let after = f64::from(retire_after(&recycle, luck).map_or(0, NonZeroU32::get));
            let most = f64::from(requests) * jitter;
            prop_assert!(after >= 1.0);
            prop_assert!((after - f64::from(requests)).abs() <= most.max(1.0) + 0.5);
        }
    }
}
