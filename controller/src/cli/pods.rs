//! What a controller needs before its workers can be pods: to lead, the deployment's secrets, and to know its doors.
//!
//! ```text
//!   doors            in the cluster, pods of their own      here, the one that `up` starts
//!   found by         their labels                           the run directory
//!   secrets          Secrets of the cluster                 the run directory's
//!   the lease        others wait for it; it can be lost     nobody waits for it; removed in the end
//!   in the end       workers stay, for who takes over       workers go
//! ```
//! A door that is here is like one whose workers are containers: workers have to reach it, and to them this machine has
//! an address (`tunnel`). All that it leaves to the cluster is pods and, so that no other controller takes them for its
//! own, the lease.
//!
//! Of several controllers in a cluster one leads. The others wait here, in [`Pods::lead`], before anything of the deployment has been
//! touched, and meanwhile answer `/healthz`, so that nobody takes them for dead, and `/readyz` with 503, so that nobody
//! asks them for anything. Whoever leads and cannot be sure of it any more ends at once, by leaving the process: what it
//! was about to do must not be done, and there is nothing to tidy up that the next one does not find. Its cluster starts
//! it again, and it waits.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use clap::Args;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use server::config::Tunnel;
use server::identity::Secret;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::quarters::Quarters;
use crate::backend::kubernetes::lease::{self, Leadership, NotOurs};
use crate::backend::kubernetes::secrets::{self, Material};
use crate::backend::kubernetes::{Cluster, KubernetesBackend, KubernetesOptions, observe};
use crate::certificates::{Authority, CertificateError, today};
use crate::door::{Address, Approach, Site};
use crate::supervisor::{Dialling, Doors};

/// What an operator may say about a deployment in a cluster.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PodsOptions {
    #[command(flatten)]
    pub(super) kubernetes: KubernetesOptions,
    /// The Service that leads workers to a door when they know no other way
    #[arg(long, env = "BULKHEAD_DOOR_SERVICE", value_name = "NAME", default_value = "bulkhead-door")]
    door_service: String,
    /// The ConfigMap whose entry bulkhead.yaml is followed as the spec, instead of the file: a change there is known at
    /// once, in a file that is mounted from it a minute later
    #[arg(long, env = "BULKHEAD_SPEC_CONFIG_MAP", value_name = "NAME")]
    spec_config_map: Option<String>,
}

/// All that a master needs to have pods as workers.
pub(super) struct Pods {
    pub(super) backend: KubernetesBackend,
    pub(super) doors: Doors,
    pub(super) dialling: Dialling,
    pub(super) secret: Secret,
    pub(super) lead: Lead,
    /// What the API asks for, where the spec names no token.
    pub(super) api_token: String,
    /// The spec's text from its ConfigMap, where one is named: what it is now, and each other one.
    pub(super) spec: Option<BoxStream<'static, String>>,
}

/// Where the doors are that pods dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// Beside the controller, in its run directory: one.
    Here,
    /// In the cluster: as many pods as there are.
    InTheCluster,
}

/// That the workers in the cluster are this controller's.
pub(super) enum Lead {
    /// Others wait to take over.
    AmongOthers(Leadership),
    /// Nobody does.
    Alone(Leadership),
}

impl Lead {
    /// For a controller that has its door with it: takes the lease, or says who has it. `us`: as
    /// [`Cluster::identity_at`] says.
    ///
    /// # Errors
    /// Another has it, or the cluster will not have us.
    pub(super) async fn alone(cluster: &Cluster, owner: &str, us: &str) -> Result<Self, NotOurs> {
        lease::seize(cluster, &lease::name(owner), us).await.map(Self::Alone)
    }

    /// Whether another controller takes over when this one goes, so that the workers are to stay.
    pub(super) fn has_successors(&self) -> bool {
        matches!(self, Self::AmongOthers(_))
    }

    /// Gives it up, in order.
    pub(super) async fn end(self) {
        match self {
            Self::AmongOthers(leadership) => leadership.release().await,
            Self::Alone(leadership) => leadership.remove().await,
        }
    }

    /// Ends this process when it is lost.
    pub(super) fn leave_when_lost(&self) {
        let (Self::AmongOthers(leadership) | Self::Alone(leadership)) = self;
        let lost = leadership.lost();
        tokio::spawn(async move {
            let lost = lost.await;
            tracing::error!("this controller leads no longer and ends: {lost}");
            std::process::exit(1);
        });
    }
}

impl Pods {
    /// Waits until we lead, and gathers the rest. `api`: where followers answer that they are well.
    ///
    /// # Errors
    /// The cluster will not have us, or no image is known for workers.
    pub(super) async fn lead(
        cluster: Cluster,
        owner: &str,
        options: &PodsOptions,
        tunnel: Option<Tunnel>,
        api: &TcpListener,
    ) -> anyhow::Result<Self> {
        let tunnel = tunnel.context(
            "pods share no directory with a door: write `link: tunnel` in the spec, with tunnel.listen: 0.0.0.0:7411",
        )?;
        // What can be wrong is found by whoever follows too.
        let backend = KubernetesBackend::on(cluster.clone(), owner, &options.kubernetes)?;
        let leadership = lead(&cluster, owner, api).await?;
        let Material { ca_certificate, secret, api_token, .. } =
            secrets::get_or_create(&cluster, make).await?;
        let ca = tunnel.tls.then_some(ca_certificate);
        let port = tunnel.listen.port();
        let sites = observe::doors(&cluster, owner).map(move |doors| {
            let site = |door: observe::DoorPod| site(door.name, door.address, port);
            doors.into_iter().map(site).collect()
        });
        let spec = options.spec_config_map.as_deref().map(|map| observe::spec_changes(&cluster, map).boxed());
        let approach = Approach::new(secret.clone(), ca.as_deref())
            .context("the authority's certificate in the cluster's secret makes no sense")?;
        let dialling = Dialling {
            tls: tunnel.tls,
            ca,
            besides: vec![format!("{}:{port}", options.door_service)],
            ..Dialling::default()
        };
        Ok(Self {
            backend,
            doors: Doors { sites: sites.boxed(), approach },
            dialling,
            secret,
            lead: Lead::AmongOthers(leadership),
            api_token,
            spec,
        })
    }
}

impl Quarters {
    /// In pods of this cluster.
    pub(super) fn in_pods(cluster: &Cluster, owner: &str) -> Self {
        Self::Kubernetes {
            api: cluster.address().to_owned(),
            namespace: cluster.namespace().to_owned(),
            owner: owner.to_owned(),
        }
    }
}

async fn lead(cluster: &Cluster, owner: &str, api: &TcpListener) -> anyhow::Result<Leadership> {
    let leader = Arc::new(Mutex::new("nobody yet".to_owned()));
    let _standby =
        Standby::at(api, Arc::clone(&leader)).context("cannot answer while another controller leads")?;
    let (lease, us) = (lease::name(owner), cluster.identity());
    let leadership = lease::win(cluster, &lease, &us, |who| {
        let who = who.unwrap_or("nobody").to_owned();
        tracing::info!(leader = who, "another controller leads; this one waits");
        *leader.lock().unwrap_or_else(PoisonError::into_inner) = who;
    });
    let leadership = leadership.await;
    tracing::info!(us, "this controller leads");
    Ok(leadership)
}

fn make() -> Result<Material, MakeError> {
    let authority = Authority::new(today())?;
    let door = authority.door(today())?;
    let random = || {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(MakeError::Random).map(|()| bytes)
    };
    Ok(Material {
        ca_certificate: authority.certificate,
        ca_key: authority.key,
        certificate: door.certificate,
        key: door.key,
        secret: Secret::new(random()?),
        api_token: random()?.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// The deployment's secrets could not be made.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("cannot draw random bytes")]
    Random(#[source] getrandom::Error),
}

fn site(name: String, address: IpAddr, port: u16) -> Site {
    Site { name, address: Address::There(SocketAddr::new(address, port).to_string()) }
}

/// What answers at the API's address while we wait to lead.
struct Standby(JoinHandle<()>);

impl Standby {
    fn at(api: &TcpListener, leader: Arc<Mutex<String>>) -> std::io::Result<Self> {
        // The same socket once more: when this one stops to accept, the other goes on.
        let listener = std::net::TcpListener::from(api.as_fd().try_clone_to_owned()?);
        let listener = TcpListener::from_std(listener)?;
        let not_ready = move || {
            let leader = leader.lock().unwrap_or_else(PoisonError::into_inner).clone();
            std::future::ready((
                StatusCode::SERVICE_UNAVAILABLE,
                format!("this controller waits; {leader} leads\n"),
            ))
        };
        let answers = Router::new().route("/healthz", get(|| async { "ok\n" })).fallback(not_ready);
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, answers).await {
                tracing::warn!(%error, "nobody is told that this controller waits");
            }
        });
        Ok(Self(serving))
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_well_and_not_ready() {
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = |path: &str| format!("http://{}{path}", api.local_addr().unwrap());
        let standby = Standby::at(&api, Arc::new(Mutex::new("the-other".to_owned()))).unwrap();
        assert_eq!(reqwest::get(at("/healthz")).await.unwrap().status(), 200);
        let answer = reqwest::get(at("/readyz")).await.unwrap();
        assert_eq!(answer.status(), 503);
        insta::assert_snapshot!(answer.text().await.unwrap(), @"this controller waits; the-other leads");
        drop(standby);
        let (asked, ()) = tokio::join!(reqwest::get(at("/readyz")), async {
            // Whoever comes now is the API's.
            drop(api.accept().await.unwrap());
        });
        assert!(asked.is_err());
    }

    #[test]
    fn what_is_made_is_enough_to_reach_a_door() {
        let material = make().unwrap();
        assert!(Approach::new(material.secret, Some(&material.ca_certificate)).is_ok());
        assert_eq!(site("a".to_owned(), "::1".parse().unwrap(), 7411).address.to_string(), "[::1]:7411");
    }
}
