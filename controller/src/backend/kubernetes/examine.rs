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
        let Some(Tags { life, spec_hash }) = Tags::read(pod.labels()) else {
            tracing::warn!(
                pod = pod.name_any(),
                "a pod with our owner's label has no readable identity; left alone"
            );
            return None;
        };
        let vital = match Condition::of(&pod) {
            Condition::Dead { cause, last_words } => {
                Vital::Dead(self.autopsy(&life, &pod.name_any(), cause, last_words).await)
            }
            Condition::Running { since } => Vital::Alive { since: since.unwrap_or_else(|| created(&pod)) },
            Condition::Waiting { .. } => Vital::Alive { since: created(&pod) },
        };
        Some(Found { life, unit: unit(&pod), spec_hash, vital })
    }

    /// What can be found out about a dead worker. Never fails: what cannot be found out is left open.
    pub(super) async fn autopsy(
        &self,
        life: &Incarnation,
        name: &str,
        cause: Cause,
        last_words: Option<String>,
    ) -> Autopsy {
        let last_output = match self.tail(life, name, LAST_LINES).await {
            Ok(lines) if !lines.is_empty() => lines,
            other => {
                if let Err(error) = other {
                    tracing::debug!(%life, %error, "its log is lost");
                }
                last_lines(&last_words.unwrap_or_default(), LAST_LINES)
            }
        };
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
        Ok(last_lines(&text, lines))
    }
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
    fn the_last_lines_are_the_last_ones() {
        assert_eq!(last_lines("one\ntwo\nthree\n", 2), ["two", "three"]);
        assert_eq!(last_lines("", 2), Vec::<String>::new());
        assert_eq!(last_lines(&"x".repeat(2 * LONGEST_LINE), 2), ["x".repeat(LONGEST_LINE)]);
    }
}
