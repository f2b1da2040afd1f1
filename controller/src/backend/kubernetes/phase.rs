//! What a worker is doing, as a label of its pod: for `kubectl get pods -L bulkhead.io/phase`, and for nobody else.
//!
//! A pod that runs is not yet a worker that takes turns, and only its door knows when it is. Labels are written one at a
//! time, the latest word for each pod, behind everything else: they are in no worker's way. Whoever has gone meanwhile
//! needs none. An API that is away is asked again; one that refuses is told of once.
//!
//! A merge, not an apply: an apply would make a pod of that name where there is none any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use server::identity::Incarnation;
use tokio::sync::Notify;

use super::KubernetesBackend;
use super::calls::Operation;
use super::pod::PHASE_LABEL;
use crate::backend::{BackendError, Doing};

/// How long after an API that did not answer it is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// What is to be written yet.
#[derive(Debug, Default)]
pub(super) struct Phases {
    due: Mutex<HashMap<String, (Incarnation, Doing)>>,
    news: Notify,
}

impl Phases {
    /// The pod's worker is doing that now.
    pub(super) fn note(&self, pod: &str, life: &Incarnation, doing: Doing) {
        self.due().insert(pod.to_owned(), (life.clone(), doing));
        self.news.notify_one();
    }

    fn due(&self) -> MutexGuard<'_, HashMap<String, (Incarnation, Doing)>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of those that are due; from here on it is not.
    async fn next(&self) -> (String, Incarnation, Doing) {
        loop {
            {
                let mut due = self.due();
                let pod = due.keys().next().cloned();
                if let Some((pod, (life, doing))) = pod.and_then(|pod| due.remove_entry(&pod)) {
                    return (pod, life, doing);
                }
            }
            self.news.notified().await;
        }
    }

    /// It could not be written. A later word, if there is one, takes its place.
    fn again(&self, pod: String, life: Incarnation, doing: Doing) {
        self.due().entry(pod).or_insert((life, doing));
    }
}

/// Writes what is due, for ever.
pub(super) async fn write(backend: &Arc<KubernetesBackend>) {
    let phases = &backend.phases;
    let mut refused = false;
    loop {
        let (pod, life, doing) = phases.next().await;
        match backend.label(&pod, &life, doing).await {
            Ok(()) | Err(BackendError::Gone { .. }) => refused = false,
            Err(error @ BackendError::Refused { .. }) => {
                if !refused {
                    tracing::warn!(%error, "what workers are doing is not shown at their pods");
                }
                refused = true;
            }
            Err(BackendError::Unreachable { .. }) => {
                phases.again(pod, life, doing);
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

impl KubernetesBackend {
    async fn label(&self, pod: &str, life: &Incarnation, doing: Doing) -> Result<(), BackendError> {
        let change = json!({ "metadata": { "labels": { PHASE_LABEL: doing.name() } } });
        let (change, how) = (Patch::Merge(change), PatchParams::default());
        let pods = self.pods();
        let answer = pods.patch(pod, &how, &change);
        self.ask(Operation::Label, life, answer).await.map(|_: Pod| ())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_latest_word_is_written_once() {
        let phases = Phases::default();
        let life: Incarnation = "web-0.1".parse().unwrap();
        phases.note("web-0-1", &life, Doing::Starting);
        phases.note("web-0-1", &life, Doing::Ready);
        let (pod, _, doing) = phases.next().await;
        assert_eq!((pod.as_str(), doing), ("web-0-1", Doing::Ready));
        assert!(phases.due().is_empty());
    }

    #[tokio::test]
    async fn what_failed_gives_way_to_what_came_since() {
        let phases = Phases::default();
        let life: Incarnation = "web-0.1".parse().unwrap();
        phases.note("web-0-1", &life, Doing::Ready);
        let (pod, _, doing) = phases.next().await;
        phases.note("web-0-1", &life, Doing::Draining);
        phases.again(pod, life, doing);
        assert_eq!(phases.next().await.2, Doing::Draining);
        assert!(phases.due().is_empty());
    }
}
