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
//! touched, and meanwhile answer `/healthz` and `/`, so that nobody takes them for dead or unready, and everything else with
//! 503. A Service leads to the one that leads by a label (`flag`). They follow the spec, so that they begin with what holds when they come to lead. Whoever leads and cannot be sure of it any more ends at once, by leaving the process: what it
//! was about to do must not be done, and there is nothing to tidy up that the next one does not find. Its cluster starts
//! it again, and it waits.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use server::identity::Secret;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::follow::Source;
use super::quarters::Quarters;
use super::standby::{self, Standby};
use crate::backend::kubernetes::lease::{self, Leadership, NotOurs, Word};
use crate::backend::kubernetes::secrets::{self, Material};
use crate::backend::kubernetes::{Cluster, KubernetesBackend, KubernetesOptions, flag, is_inside, observe};
use crate::certificates::{Authority, CertificateError, today};
use crate::door::{Address, Approach, Site};
use crate::spec::Deployment;
use crate::supervisor::{Dialling, Doors, Keep};

/// How long whoever has come to lead waits to be told its spec. The API has just answered; a ConfigMap that is not there
/// is not waited for.
const SPEC_PATIENCE: Duration = Duration::from_secs(10);

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
    /// The spec's text, each time that it is another one.
    pub(super) changes: BoxStream<'static, String>,
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

    /// Where whoever takes over finds what pools have been scaled to; `None`: nobody does, elsewhere than here.
    pub(super) fn keeps_scales(&self) -> Option<Box<dyn Keep>> {
        match self {
            Self::AmongOthers(leadership) => Some(Box::new(leadership.word())),
            Self::Alone(_) => None,
        }
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

/// On the lease: whoever takes over has a run directory of its own.
impl Keep for Word {
    fn kept(&self) -> io::Result<Option<String>> {
        Ok(self.get())
    }

    fn keep(&self, json: &str) -> io::Result<()> {
        self.set(Some(json.to_owned()));
        Ok(())
    }

    fn drop_it(&self) -> io::Result<()> {
        self.set(None);
        Ok(())
    }

    fn place(&self) -> String {
        "the lease".to_owned()
    }
}

impl Pods {
    /// Waits until we lead, and gathers the rest. `api`: where followers answer that they are well. The spec is as it
    /// was read, and then as it is when we lead.
    ///
    /// # Errors
    /// The cluster will not have us, or no image is known for workers.
    pub(super) async fn lead(
        cluster: Cluster,
        owner: &str,
        options: &PodsOptions,
        (source, deployment): (&mut Source, &mut Deployment),
        api: &TcpListener,
    ) -> anyhow::Result<Self> {
        let tunnel = deployment.tunnel.context(
            "pods share no directory with a door: write `link: tunnel` in the spec, with tunnel.listen: 0.0.0.0:7411",
        )?;
        // What can be wrong is found by whoever follows too.
        let backend = KubernetesBackend::on(cluster.clone(), owner, &options.kubernetes)?;
        let config_map = options.spec_config_map.as_deref();
        let texts = match config_map {
            Some(map) => source.other_than_known(observe::spec_changes(&cluster, map)).boxed(),
            None => source.changes().boxed(),
        };
        let leadership = source.keep_up_until(lead(&cluster, owner, api), texts, deployment).await?;
        let Material { ca_certificate, secret, api_token, .. } =
            secrets::get_or_create(&cluster, make).await?;
        let ca = tunnel.tls.then_some(ca_certificate);
        let port = tunnel.listen.port();
        let sites = observe::doors(&cluster, owner).map(move |doors| {
            let site = |door: observe::DoorPod| site(door, port);
            doors.into_iter().map(site).collect()
        });
        // Asked anew: what was told while we waited may lag behind.
        let changes = match config_map {
            Some(map) => {
                let mut texts = observe::spec_changes(&cluster, map).boxed();
                match timeout(SPEC_PATIENCE, texts.next()).await {
                    Ok(Some(text)) => source.revise(deployment, text),
                    Ok(None) | Err(_) => {
                        tracing::warn!(map, "no spec is in the ConfigMap: it stays as it was read last");
                    }
                }
                source.other_than_known(texts).boxed()
            }
            None => {
                source.look_again(deployment);
                source.changes().boxed()
            }
        };
        let door_service = match observe::service_address(&cluster, &options.door_service).await {
            Some(address) => SocketAddr::new(address, port).to_string(),
            None => format!("{}:{port}", options.door_service),
        };
        let approach = Approach::new(secret.clone(), ca.as_deref())
            .context("the authority's certificate in the cluster's secret makes no sense")?;
        let dialling = Dialling { tls: tunnel.tls, ca, besides: vec![door_service], ..Dialling::default() };
        Ok(Self {
            backend,
            doors: Doors { sites: sites.boxed(), approach: approach.losing_after(tunnel.lost_after) },
            dialling,
            secret,
            lead: Lead::AmongOthers(leadership),
            api_token,
            changes,
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

impl Whereabouts {
    /// The cluster that workers are to run in. A controller that is a pod of it waits for its API, and answers at `api`
    /// meanwhile.
    pub(super) async fn cluster(self, namespace: Option<&str>, api: &TcpListener) -> anyhow::Result<Cluster> {
        match (self, is_inside()) {
            (Self::InTheCluster, true) => standby::until_it_answers(api, || Cluster::find(namespace)).await,
            (Self::InTheCluster, false) | (Self::Here, _) => Ok(Cluster::find(namespace).await?),
        }
    }
}

async fn lead(cluster: &Cluster, owner: &str, api: &TcpListener) -> anyhow::Result<Leadership> {
    let why = Arc::new(Mutex::new("nobody yet leads".to_owned()));
    // What an earlier life of this pod's may have left there.
    let lowered = CancellationToken::new();
    let lowering = {
        let (cluster, lowered) = (cluster.clone(), lowered.clone());
        tokio::spawn(async move {
            flag::show(&cluster, false).await;
            lowered.cancel();
        })
    };
    let _standby = Standby::at(api, Arc::clone(&why), lowered)
        .context("cannot answer while another controller leads")?;
    let (lease, us) = (lease::name(owner), cluster.identity());
    let leadership = lease::win(cluster, &lease, &us, |who| {
        let who = who.unwrap_or("nobody").to_owned();
        tracing::info!(leader = who, "another controller leads; this one waits");
        *why.lock().unwrap_or_else(PoisonError::into_inner) = format!("{who} leads");
    });
    let leadership = leadership.await;
    tracing::info!(us, "this controller leads");
    let cluster = cluster.clone();
    tokio::spawn(async move {
        // One after the other, or the first could be the last to arrive.
        let _ = lowering.await;
        flag::show(&cluster, true).await;
        flag::inherit(&cluster).await;
    });
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

fn site(door: observe::DoorPod, port: u16) -> Site {
    let address = SocketAddr::new(door.address, port).to_string();
    Site { name: door.name, address: Address::There(address), machine: door.node }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_enough_to_reach_a_door() {
        let material = make().unwrap();
        assert!(Approach::new(material.secret, Some(&material.ca_certificate)).is_ok());
        let door = observe::DoorPod {
            name: "a".to_owned(),
            address: "::1".parse().unwrap(),
            ready: true,
            node: Some("node1".to_owned()),
        };
        let site = site(door, 7411);
        assert_eq!(
            (site.address.to_string().as_str(), site.machine.as_deref()),
            ("[::1]:7411", Some("node1"))
        );
    }
}
