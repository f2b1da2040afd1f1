//! What the API can tell of our pods: which there are, how they are, how they died, what they said.
//!
//! Asks and gathers; what a pod's object means is decided in [`condition`](super::condition).

use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};
use server::identity::Incarnation;
use tokio::time::{Instant, timeout_at};

use super::act::unit;
use super::calls::{Operation, ask};
use super::condition::{Condition, moment};
use super::pod::{self, CONTAINER, Tags};
use super::{AT_A_TIME, KubernetesBackend};
use crate::backend::{BackendError, Found, Vital};
use crate::model::{Autopsy, Cause};

/// How many lines of a dead worker's output its incident keeps.
const LAST_LINES: usize = 20;

/// How long a listing waits for what the dead in it have written, for all of them together: a kubelet that is out of reach
/// costs the time of a call for each, and whoever waits for the listing spawns nobody meanwhile.
pub(super) const ALL_LOGS: Duration = Duration::from_secs(3);

/// How much of a log is read at most.
const LOG_BYTES: i64 = 256 << 10;

/// The longest line of a log that is shown, in characters.
const LONGEST_LINE: usize = 1000;

impl KubernetesBackend {
    /// All pods of our owner, dead or alive. Asked of the API's store, not of its cache. Of the dead, what they have
    /// written comes along as far as it can be had in the time that is for `all_logs`.
    pub(super) async fn listing(&self, all_logs: Duration) -> Result<Vec<Found>, BackendError> {
        let ours = ListParams::default().labels(&pod::selector(&self.mould.owner));
        let pods = ask(&self.cluster.name, Operation::List, "pods", self.pods().list(&ours)).await?;
        let logs_by = Instant::now() + all_logs;
        Ok(stream::iter(pods.items)
            .map(|pod| self.identify(pod, logs_by))
            .buffer_unordered(AT_A_TIME)
            .filter_map(std::future::ready)
            .collect()
            .await)
    }

    /// What a listed pod is; `None` for one that cannot be told.
    async fn identify(&self, pod: Pod, logs_by: Instant) -> Option<Found> {
        let Some(tags) = Tags::read(pod.labels()) else {
            tracing::warn!(
                pod = pod.name_any(),
                "a pod with our owner's label has no readable identity; left alone"
            );
            return None;
        };
        let vital = match Condition::of(&pod) {
            Condition::Dead { cause, last_words } => {
                let name = pod.name_any();
                let log =
                    timeout_at(logs_by, self.last_lines_of(&tags.life, &name)).await.unwrap_or_default();
                Vital::Dead(self.autopsy(&name, cause, last_words, log))
            }
            Condition::Running { since } => Vital::Alive { since: since.unwrap_or_else(|| created(&pod)) },
            Condition::Waiting { trouble } => Vital::Waiting { since: created(&pod), trouble },
        };
        let spec_hash = pod::made_from(&self.mould, &pod, &tags);
        Some(Found { life: tags.life, unit: unit(&pod), spec_hash, vital })
    }

    /// Keeps what a worker has written that is being ended: its log goes with it.
    pub(super) async fn listen_to(&self, life: &Incarnation, name: &str) {
        if let Ok(lines) = self.tail(life, name, LAST_LINES).await {
            self.heard().insert(name.to_owned(), lines);
        }
    }

    /// What a dead worker has written last. Never fails: what cannot be had is nothing.
    pub(super) async fn last_lines_of(&self, life: &Incarnation, name: &str) -> Vec<String> {
        self.tail(life, name, LAST_LINES).await.unwrap_or_else(|error| {
            tracing::debug!(%life, %error, "its log is lost");
            Vec::new()
        })
    }

    /// What is known of a dead worker. `log`: what could be read of it; where that is nothing, what was heard before it was
    /// ended takes its place, or else the last words in the pod's state.
    pub(super) fn autopsy(
        &self,
        name: &str,
        cause: Cause,
        last_words: Option<String>,
        log: Vec<String>,
    ) -> Autopsy {
        let heard = self.heard().remove(name).unwrap_or_default();
        let last_words = last_lines(&last_words.unwrap_or_default(), LAST_LINES);
        let last_output =
            [log, heard, last_words].into_iter().find(|lines| !lines.is_empty()).unwrap_or_default();
        Autopsy { cause, died_at: None, peak_memory_bytes: None, last_output }
    }

    /// The last lines that a worker wrote, oldest first.
    pub(super) async fn tail(
        &self,
        life: &Incarnation,
        name: &str,
        lines: usize,
    ) -> Result<Vec<String>, BackendError> {
        let wanted = LogParams {
            container: Some(CONTAINER.to_owned()),
            tail_lines: Some(i64::try_from(lines).unwrap_or(i64::MAX)),
            limit_bytes: Some(LOG_BYTES),
            ..LogParams::default()
        };
        let text = self.ask(Operation::ReadLog, life, self.pods().logs(name, &wanted)).await?;
        Ok(if is_an_excuse(&text) { Vec::new() } else { last_lines(&text, lines) })
    }
}

/// Whether a kubelet has sent its regrets in place of a log, as it does, with success, when it cannot find it.
fn is_an_excuse(text: &str) -> bool {
    const EXCUSES: [&str; 2] =
        ["failed to try resolving symlinks in path ", "unable to retrieve container logs for "];
    text.lines().count() <= 1 && EXCUSES.iter().any(|excuse| text.starts_with(excuse))
}

fn last_lines(text: &str, lines: usize) -> Vec<String> {
    let skipped = text.lines().count().saturating_sub(lines);
    text.lines().skip(skipped).map(|line| line.chars().take(LONGEST_LINE).collect()).collect()
}

fn created(pod: &Pod) -> SystemTime {
    pod.creation_timestamp().as_ref().map_or_else(SystemTime::now, moment)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::future::ready;

    use axum::extract::Path;
    use axum::routing::get;
    use axum::{Json, Router};
    use kube::Client;
    use serde_json::{Value, json};

    use super::super::Cluster;
    use super::*;

    fn dead(place: u32) -> Value {
        let ended = json!({ "exitCode": 3, "message": (place == 2).then_some("a last word") });
        json!({
            "metadata": {
                "name": format!("web-{place}"),
                "labels": {
                    "bulkhead.io/pool": "web",
                    "bulkhead.io/worker": format!("web-{place}"),
                    "bulkhead.io/generation": "1",
                },
            },
            "spec": { "containers": [{ "name": CONTAINER }] },
            "status": {
                "phase": "Failed",
                "containerStatuses": [{
                    "name": CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": { "terminated": ended },
                }],
            },
        })
    }

    /// A kubelet that is out of reach is one that its cluster's API waits for.
    async fn log_of(Path(pod): Path<String>) -> &'static str {
        if pod == "web-0" { "up\n" } else { std::future::pending().await }
    }

    #[tokio::test]
    async fn a_listing_does_not_wait_for_the_logs_of_many_dead() {
        let all = json!({ "metadata": {}, "items": (0..100).map(dead).collect::<Vec<_>>() });
        let api = Router::new()
            .route("/api/v1/namespaces/here/pods", get(move || ready(Json(all))))
            .route("/api/v1/namespaces/here/pods/{pod}/log", get(log_of));
        let cluster = Cluster::of(Client::new(api, "here"), "here");
        let backend = KubernetesBackend::to_look_around(cluster, "test");

        let asked = Instant::now();
        let found = backend.listing(ALL_LOGS).await.unwrap();
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "as long as one of them takes: {:?}",
            asked.elapsed()
        );
        let said = |place: u32| {
            let it = found.iter().find(|found| found.life.worker.place == place).unwrap();
            let Vital::Dead(autopsy) = &it.vital else { unreachable!("{it:?}") };
            assert_eq!(autopsy.cause, Cause::Exit(3));
            autopsy.last_output.clone()
        };
        assert_eq!(found.len(), 100);
        assert_eq!(
            (said(0), said(1), said(2)),
            (vec!["up".to_owned()], vec![], vec!["a last word".to_owned()])
        );
    }

    #[test]
    fn a_kubelets_regrets_are_no_log() {
        assert!(is_an_excuse("unable to retrieve container logs for docker://cb560d5d2906"));
        assert!(!is_an_excuse("sleeper is up\nunable to retrieve container logs for docker://cb560d5d2906"));
        assert!(!is_an_excuse(""));
    }

    #[test]
    fn the_last_lines_are_the_last_ones() {
        assert_eq!(last_lines("one\ntwo\nthree\n", 2), ["two", "three"]);
        assert_eq!(last_lines("", 2), Vec::<String>::new());
        assert_eq!(last_lines(&"x".repeat(2 * LONGEST_LINE), 2), ["x".repeat(LONGEST_LINE)]);
    }
}
