//! A namespace of its own for each story, on the real cluster, and a wire to its API that can be cut.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use controller::backend::kubernetes::{Cluster, KubernetesBackend, KubernetesOptions};
use controller::backend::{Backend, Found, Sighting, SpawnOrder, Tunnel, Unit};
use controller::model::Autopsy;
use controller::spec::{parse, spell_size};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, Config};
use server::identity::{Incarnation, Secret};
use server::link::Dial;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::cluster::{self, Node};

/// How long anything may take before a story is given up. A kubelet looks after its pods once a second, or less often.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What each worker may have, in bytes.
pub(crate) const MEMORY: u64 = 32 << 20;

pub(crate) type Story = for<'a> fn(&'a Rig) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// A deployment of its own.
pub(crate) struct Rig {
    pub(crate) nodes: Vec<Node>,
    pub(crate) backend: Arc<KubernetesBackend>,
    pub(crate) namespace: String,
    pub(crate) client: Client,
    image: String,
}

impl Rig {
    pub(crate) async fn run(name: &'static str, nodes: Vec<Node>, image: String, story: Story) -> Result<()> {
        let client = Client::try_default().await?;
        let namespace = format!("bulkhead-test-{}-{}", name.replace('_', "-"), std::process::id());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let body = serde_json::from_value(serde_json::json!({ "metadata": { "name": namespace } }))?;
        namespaces.create(&PostParams::default(), &body).await?;
        // Whatever comes of it, the namespace goes, and with it everything that was in it.
        let outcome = tokio::spawn({
            let (client, namespace) = (client.clone(), namespace.clone());
            async move {
                let backend = Arc::new(backend(&namespace, "test", &image).await?);
                let rig = Self { nodes, backend, namespace, client, image };
                timeout(3 * DEADLINE, story(&rig)).await.context("the story goes on for ever")?
            }
        });
        let outcome = outcome.await;
        namespaces.delete(&namespace, &DeleteParams::default()).await?;
        outcome?
    }

    /// Another controller, of the same deployment or of another.
    pub(crate) async fn second(&self, owner: &str) -> Result<KubernetesBackend> {
        backend(&self.namespace, owner, &self.image).await
    }

    /// Kills a worker, past the cluster.
    pub(crate) fn kill(&self, node: &str, pod: &str, signal: &str) -> Result<()> {
        cluster::kill(&self.nodes, node, &self.namespace, pod, signal)
    }

    pub(crate) fn image(&self) -> String {
        self.image.clone()
    }

    pub(crate) fn watch(&self) -> mpsc::Receiver<Sighting> {
        Arc::clone(&self.backend).watch()
    }

    pub(crate) async fn spawn(&self, life: &str) -> Result<Unit> {
        Ok(self.backend.spawn(&order(life)?).await?)
    }

    /// Spawns a worker and waits until it runs: its pod and its node.
    pub(crate) async fn started(
        &self,
        sightings: &mut mpsc::Receiver<Sighting>,
        name: &str,
    ) -> Result<(String, String)> {
        self.spawn(name).await?;
        let unit = seen(sightings, "its start", |sighting| match sighting {
            Sighting::Started { life, unit } if life.to_string() == name => Some(unit),
            _ => None,
        });
        match unit.await? {
            Unit::Pod { name, node: Some(node) } => Ok((name, node)),
            unit => bail!("{unit:?}"),
        }
    }

    /// Waits until a worker has written a line.
    pub(crate) async fn says(&self, unit: &Unit, name: &str, line: &str) -> Result<()> {
        let life = life(name)?;
        let mut last = None;
        let waiting = async {
            loop {
                // The kubelet may not have found its log yet.
                let said = self.backend.logs(&life, unit, 5).await;
                if said.as_ref().is_ok_and(|said| said.iter().any(|said| said == line)) {
                    return;
                }
                last = Some(said);
            }
        };
        let said = timeout(DEADLINE, waiting).await;
        said.with_context(|| format!("{name} never said {line:?}, but {last:?}"))
    }

    pub(crate) async fn only(&self) -> Result<Found> {
        let mut found = self.backend.list().await?;
        ensure!(found.len() == 1, "{found:?}");
        found.pop().context("none")
    }

    /// Waits until the cluster knows of no pod of ours.
    pub(crate) async fn deserted(&self) -> Result<()> {
        let waiting = async {
            while !self.backend.list().await?.is_empty() {
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        timeout(DEADLINE, waiting).await.context("somebody stays")?
    }
}

async fn backend(namespace: &str, owner: &str, image: &str) -> Result<KubernetesBackend> {
    let cluster = Cluster::find(Some(namespace)).await?;
    let options = KubernetesOptions { worker_image: Some(image.to_owned()), ..KubernetesOptions::default() };
    Ok(KubernetesBackend::on(cluster, owner, &options)?)
}

/// Waits for a sighting of which `what` is made.
pub(crate) async fn seen<T>(
    sightings: &mut mpsc::Receiver<Sighting>,
    what: &str,
    mut pick: impl FnMut(Sighting) -> Option<T>,
) -> Result<T> {
    let waiting = async {
        loop {
            let sighting = sightings.recv().await.context("the watch has ended")?;
            if let Some(found) = pick(sighting) {
                return Ok(found);
            }
        }
    };
    timeout(DEADLINE, waiting).await.with_context(|| format!("nobody told of {what}"))?
}

pub(crate) async fn died(sightings: &mut mpsc::Receiver<Sighting>, name: &str) -> Result<Autopsy> {
    seen(sightings, "a death", |sighting| match sighting {
        Sighting::Died { life, autopsy } if life.to_string() == name => Some(autopsy),
        _ => None,
    })
    .await
}

/// Waits until something is told to hold a worker up.
pub(crate) async fn held_up(sightings: &mut mpsc::Receiver<Sighting>, name: &str) -> Result<String> {
    seen(sightings, "what holds it up", |sighting| match sighting {
        Sighting::Waiting { life, trouble } if life.to_string() == name => trouble,
        _ => None,
    })
    .await
}

pub(crate) fn life(name: &str) -> Result<Incarnation> {
    Ok(name.parse()?)
}

pub(crate) fn order(name: &str) -> Result<SpawnOrder> {
    order_with(name, &format!("{{ memory: {}, cpus: 0.05, open_files: 64 }}", spell_size(MEMORY)))
}

pub(crate) fn order_with(name: &str, limits: &str) -> Result<SpawnOrder> {
    let life = life(name)?;
    let spec = format!("pools: {{ {}: {{ worker: {{ limits: {limits} }} }} }}", life.worker.pool);
    let pool = parse("a test", &spec)?.pools.remove(0);
    let token = Secret::new([7; 32]).token(&life);
    // Nobody listens there, and nobody dials: this program's workers do not.
    let link = Dial::Tunnel { doors: vec!["127.0.0.1:1".to_owned()], tls: false };
    Ok(SpawnOrder {
        life,
        token,
        pool: Arc::new(pool),
        retire_after: None,
        spec_hash: "5bec".to_owned(),
        tunnel: Some(Tunnel { link, ca: None }),
    })
}

/// A port that leads to the cluster's API, while it is let.
pub(crate) struct Wire {
    pub(crate) config: Config,
    flows: watch::Sender<bool>,
}

impl Wire {
    pub(crate) async fn to_the_api() -> Result<Self> {
        let mut config = Config::infer().await?;
        let authority = config.cluster_url.authority().context("no authority")?.clone();
        let api = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(443));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        config.cluster_url = format!("https://{}", listener.local_addr()?).parse()?;
        config.tls_server_name = Some(authority.host().to_owned());
        let flows = watch::Sender::new(true);
        let observed = flows.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, api.clone(), observed.clone()));
            }
        });
        Ok(Self { config, flows })
    }

    /// Closes every connection, and new ones at once.
    pub(crate) fn cut(&self) {
        self.flows.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.flows.send_replace(true);
    }
}

async fn carry(mut client: TcpStream, api: String, mut flows: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(api).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = flows.wait_for(|flows| !flows) => {}
    }
}
