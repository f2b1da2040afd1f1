//! The label by which a Service finds the controller that leads.
//!
//! Those that wait are well, and say that they are ready: a Deployment of which one half never is would never be complete.
//! So a Service has to be told otherwise which of them to lead to. A container that is started again in its pod finds the
//! label that it has left there: whoever waits takes it away before anything else. From who cannot do that any more, whoever
//! leads takes it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use super::calls::{Operation, ask};
use super::cluster::Cluster;
use crate::backend::BackendError;

const LEADS_LABEL: &str = "bulkhead.io/leads";

/// How long after an API that did not answer, or would not, it is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The same, when it has refused for some time: who may not is told so, and it may be allowed one day.
const SELDOM: Duration = Duration::from_secs(30);
/// So many refusals in a row are no accident.
const REFUSALS: u32 = 5;

/// Says on our own pod whether we lead. Returns when it stands there; or, for one that does not lead, when the API has
/// refused so often that it will not.
pub async fn show(cluster: &Cluster, leads: bool) {
    if let Some(pod) = cluster.own_pod() {
        set(cluster, &pod.name, leads).await;
    }
}

/// Takes the label from those who have led before and cannot do so themselves: the pod of a controller whose node has died
/// is there for minutes, and so long the Service would lead half of all that ask it to nowhere. Only for who leads.
pub async fn inherit(cluster: &Cluster) {
    let Some(pod) = cluster.own_pod() else { return };
    let Some(alike) = &pod.alike else { return };
    let selector = format!("{alike},{LEADS_LABEL}=true");
    let (pods, which) = (cluster.api::<Pod>(), ListParams::default().labels(&selector));
    let found = loop {
        match ask(&cluster.name, Operation::List, "pods of controllers".to_owned(), pods.list(&which)).await {
            Ok(found) => break found,
            Err(error @ BackendError::Unreachable { .. }) => {
                tracing::debug!(%error, "it is not known yet who has led");
            }
            Err(error) => {
                tracing::warn!(%error, "the Service may lead to a controller that does not lead any more");
                return;
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    };
    for other in found.iter().map(ResourceExt::name_any).filter(|name| *name != pod.name) {
        tracing::info!(pod = other, "it does not lead any more");
        set(cluster, &other, false).await;
    }
}

async fn set(cluster: &Cluster, pod: &str, leads: bool) {
    let change = json!({ "metadata": { "labels": { LEADS_LABEL: leads.then_some("true") } } });
    let (change, how) = (Patch::Merge(change), PatchParams::default());
    let pods = cluster.api::<Pod>();
    let mut refusals = 0;
    loop {
        let answer = pods.patch(pod, &how, &change);
        match ask(&cluster.name, Operation::Label, format!("pod {pod}"), answer).await {
            Ok(_) | Err(BackendError::Gone { .. }) => return,
            Err(error @ BackendError::Unreachable { .. }) => {
                tracing::debug!(%error, "who leads is not shown yet");
            }
            Err(error @ BackendError::Refused { .. }) => {
                refusals += 1;
                if refusals == REFUSALS {
                    tracing::warn!(%error, "the Service does not find the controller that leads: the right to patch pods may be missing");
                    if !leads {
                        return;
                    }
                }
            }
        }
        tokio::time::sleep(if refusals < REFUSALS { AGAIN_AFTER } else { SELDOM }).await;
    }
}
