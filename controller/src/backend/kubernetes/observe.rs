//! What else of the cluster a controller follows: its spec, in a ConfigMap, and the doors that there are.
//!
//! Both are streams that tell the state whole each time it has changed, the first one as soon as it is known; and both
//! outlast the API's absence, in which they say nothing. What is told can be late and never out of order.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::{Stream, StreamExt, future};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::ResourceExt;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};

use super::calls::{Operation, ask};
use super::cluster::Cluster;
use super::pod;
use super::watch::Waits;

/// The entry of the ConfigMap that is the spec.
pub const SPEC_ENTRY: &str = "bulkhead.yaml";

/// How long one request to watch lasts, in seconds; a connection cut without a word is noticed so late.
const WATCH_SECONDS: u32 = 60;

/// A door of this deployment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DoorPod {
    /// The pod's name.
    pub name: String,
    /// Its address, by which controller and workers reach it.
    pub address: IpAddr,
    /// Whether its readiness probe says that it serves.
    pub ready: bool,
    /// Its node.
    pub node: Option<String>,
}

/// The spec's text, from the ConfigMap of that name. One without the entry, or none at all, is no news: what was told
/// before stands.
pub fn spec_changes(cluster: &Cluster, config_map: &str) -> impl Stream<Item = String> + Send + use<> {
    let this_one = Config::default().fields(&format!("metadata.name={config_map}")).timeout(WATCH_SECONDS);
    let events = watcher(cluster.api::<ConfigMap>(), this_one).backoff(Waits::default());
    events
        .filter_map(|event| {
            let map = match event {
                Ok(Event::Apply(map) | Event::InitApply(map)) => Some(map),
                Ok(Event::Delete(_)) => {
                    tracing::warn!("the spec's ConfigMap has been deleted; the last spec stands");
                    None
                }
                Ok(Event::Init | Event::InitDone) => None,
                Err(error) => {
                    tracing::debug!(%error, "the watch on the spec is begun anew");
                    None
                }
            };
            future::ready(map.and_then(|mut map| map.data.as_mut()?.remove(SPEC_ENTRY)))
        })
        .scan(None, |told, text| {
            let is_new = told.as_ref() != Some(&text);
            *told = Some(text.clone());
            future::ready(Some(is_new.then_some(text)))
        })
        .filter_map(future::ready)
}

/// The address of the Service of that name, by which it can be dialled without asking for a name. `None`: it has none of
/// its own, or it cannot be read.
pub async fn service_address(cluster: &Cluster, name: &str) -> Option<IpAddr> {
    let services = cluster.api::<Service>();
    match ask(&cluster.name, Operation::Read, format!("service {name}"), services.get(name)).await {
        Ok(service) => service.spec?.cluster_ip?.parse().ok(),
        Err(error) => {
            tracing::debug!(%error, "workers are told the Service's name");
            None
        }
    }
}

/// The doors that have an address, by name. One that is on its way out is not among them.
pub fn doors(cluster: &Cluster, owner: &str) -> impl Stream<Item = Vec<DoorPod>> + Send + use<> {
    let ours = Config::default().labels(&pod::door_selector(owner)).timeout(WATCH_SECONDS);
    let events = watcher(cluster.api::<Pod>(), ours).backoff(Waits::default());
    events
        .scan(Doors::default(), |doors, event| {
            future::ready(Some(match event {
                Ok(event) => doors.take(event),
                Err(error) => {
                    tracing::debug!(%error, "the watch on the doors is begun anew");
                    None
                }
            }))
        })
        .filter_map(future::ready)
}

/// What has been told of the doors.
#[derive(Debug, Default)]
struct Doors {
    there: BTreeMap<String, DoorPod>,
    /// The listing that is under way; nothing is told before it is complete.
    listed: Option<BTreeMap<String, DoorPod>>,
    told: Option<Vec<DoorPod>>,
}

impl Doors {
    fn take(&mut self, event: Event<Pod>) -> Option<Vec<DoorPod>> {
        match event {
            Event::Init => {
                self.listed = Some(BTreeMap::new());
                return None;
            }
            Event::InitApply(pod) => {
                if let (Some(listed), Some(door)) = (&mut self.listed, door(&pod)) {
                    listed.insert(door.name.clone(), door);
                }
                return None;
            }
            Event::InitDone => self.there = self.listed.take().unwrap_or_default(),
            Event::Apply(pod) => match door(&pod) {
                Some(door) => drop(self.there.insert(door.name.clone(), door)),
                None => drop(self.there.remove(&pod.name_any())),
            },
            Event::Delete(pod) => drop(self.there.remove(&pod.name_any())),
        }
        let now: Vec<DoorPod> = self.there.values().cloned().collect();
        let is_new = self.told.as_ref() != Some(&now);
        self.told = Some(now.clone());
        is_new.then_some(now)
    }
}

fn door(pod: &Pod) -> Option<DoorPod> {
    let status = pod.status.as_ref()?;
    let is_over = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    if is_over || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let ready = conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True");
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    Some(DoorPod { name: pod.name_any(), address: status.pod_ip.as_ref()?.parse().ok()?, ready, node })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ip: Option<&str>, ready: &str, leaving: bool) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": name,
                "deletionTimestamp": leaving.then_some("2026-01-01T00:00:00Z"),
            },
            "status": { "phase": "Running", "podIP": ip, "conditions": [{ "type": "Ready", "status": ready }] },
        }))
        .unwrap()
    }

    fn told(doors: Option<Vec<DoorPod>>) -> Option<Vec<(String, bool)>> {
        Some(doors?.into_iter().map(|door| (door.name, door.ready)).collect())
    }

    #[test]
    fn doors_are_told_whole_when_they_have_changed() {
        let mut doors = Doors::default();
        let mut take = |event| told(doors.take(event));
        assert_eq!(take(Event::Init), None);
        assert_eq!(take(Event::InitApply(pod("b", Some("10.0.0.2"), "False", false))), None);
        assert_eq!(take(Event::InitApply(pod("a", None, "False", false))), None);
        assert_eq!(take(Event::InitDone), Some(vec![("b".to_owned(), false)]), "one has no address yet");
        let both = Some(vec![("a".to_owned(), true), ("b".to_owned(), false)]);
        assert_eq!(take(Event::Apply(pod("a", Some("10.0.0.1"), "True", false))), both);
        assert_eq!(take(Event::Apply(pod("a", Some("10.0.0.1"), "True", false))), None, "nothing new");
        let one = Some(vec![("b".to_owned(), false)]);
        assert_eq!(take(Event::Apply(pod("a", Some("10.0.0.1"), "True", true))), one, "it is leaving");
        assert_eq!(take(Event::Delete(pod("b", None, "False", true))), Some(vec![]));
        assert_eq!(take(Event::Init), None);
        assert_eq!(take(Event::InitDone), None, "still nobody");
    }
}
