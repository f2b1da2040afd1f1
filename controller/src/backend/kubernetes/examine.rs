//! What the API can tell of our pods: which there are, how they are, how they died, what they said.
//!
//! Asks and gathers; what a pod's object means is decided in [`condition`](super::condition).

use std::time::SystemTime;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};
use server::identity::Incarnation;

use super::act::unit;
use super::calls::{Operation, ask};
use super::condition::{Condition, moment};
use super::pod::{self, CONTAINER, Tags};
use super::{AT_A_TIME, KubernetesBackend};
use crate::backend::{BackendError, Found, Vital};
use crate::model::{Autopsy, Cause};

/// How many lines of a dead worker's output its incident keeps.
const LAST_LINES: usize = 20;

/// How much of a log is read at most.
const LOG_BYTES: i64 = 256 << 10;

/// The longest line of a log that is shown, in characters.
const LONGEST_LINE: usize = 1000;

impl KubernetesBackend {
    /// All pods of our owner, dead or alive. Asked of the API's store, not of its cache.
    pub(super) async fn listing(&self) -> Result<Vec<Found>, BackendError> {
        let ours = ListParams::default().labels(&pod::selector(&self.mould.owner));
        let pods = ask(&self.cluster.name, Operation::List, "pods", self.pods().list(&ours)).await?;
        Ok(stream::iter(pods.items)
            .map(|pod| self.identify(pod))
            .buffer_unordered(AT_A_TIME)
            .filter_map(std::future::ready)
            .collect()
            .await)
    }

    /// What a listed pod is; `None` for one that cannot be told.
    async fn identify(&self, pod: Pod) -> Option<Found> {
        let Some(tags) = Tags::read(pod.labels()) else {
            tracing::warn!(
                pod = pod.name_any(),
                "a pod with our owner's label has no readable identity; left alone"
            );
            return None;
        };
        let vital = match Condition::of(&pod) {
            Condition::Dead { cause, last_words } => {
                Vital::Dead(self.autopsy(&tags.life, &pod.name_any(), cause, last_words).await)
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

    /// What can be found out about a dead worker. Never fails: what cannot be found out is left open.
    pub(super) async fn autopsy(
        &self,
        life: &Incarnation,
        name: &str,
        cause: Cause,
        last_words: Option<String>,
    ) -> Autopsy {
        let read = self.tail(life, name, LAST_LINES).await.unwrap_or_else(|error| {
            tracing::debug!(%life, %error, "its log is lost");
            Vec::new()
        });
        let heard = self.heard().remove(name).unwrap_or_default();
        let last_words = last_lines(&last_words.unwrap_or_default(), LAST_LINES);
        let last_output =
            [read, heard, last_words].into_iter().find(|lines| !lines.is_empty()).unwrap_or_default();
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
mod tests {
    use super::*;

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
