//! What the engine can tell of our containers: which there are, how they are, how they died, what they said.
//!
//! Asks and gathers; what an exit code means is decided in [`autopsy`].

use std::collections::HashMap;
use std::time::SystemTime;

use bollard::container::LogOutput;
use bollard::models::{ContainerState, ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::{ListContainersOptionsBuilder, LogsOptionsBuilder};
use futures_util::{StreamExt, TryStreamExt, stream};
use server::identity::Incarnation;

use super::DockerBackend;
use super::autopsy::{self, Memory};
use super::calls::Operation;
use super::container::{OWNER_LABEL, Tags};
use crate::backend::{BackendError, Found, Unit, Vital};
use crate::model::{Autopsy, Cause};

/// How many lines of a dead worker's output its incident keeps.
const LAST_LINES: usize = 20;

/// How many containers are inspected at a time.
const INSPECTIONS: usize = 8;

/// What the engine said of a death when it announced it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Announced {
    pub(super) at: SystemTime,
    pub(super) exit_code: Option<i64>,
}

impl DockerBackend {
    /// What can be found out about a dead container. Never fails: what cannot be found out is left open.
    pub(super) async fn autopsy(&self, tags: &Tags, id: &str, announced: Option<Announced>) -> Autopsy {
        let state = match announced {
            // Only a SIGKILL raises a question that the announcement leaves open.
            Some(Announced { exit_code: Some(code), .. }) if code != autopsy::KILLED => None,
            _ => self.last_state(tags, id).await,
        };
        let finished_at = state.as_ref().and_then(|state| autopsy::moment(state.finished_at.as_deref()));
        let died_at = announced.map(|event| event.at).or(finished_at);
        // A container that never ran has an exit code as well, and it means nothing.
        let kept_code = finished_at.and(state.as_ref()).and_then(|state| state.exit_code);
        let exit_code = announced.and_then(|event| event.exit_code).or(kept_code);
        let last_output = self.tail(&tags.life, id, LAST_LINES).await.unwrap_or_else(|error| {
            tracing::debug!(worker = %tags.life, %error, "its last output is lost");
            Vec::new()
        });
        // Last, because the engine's word of a lack of memory may follow that of the death.
        let memory = Memory {
            seen_at: self.state().short_of_memory.get(id).copied(),
            flagged: state.and_then(|state| state.oom_killed).unwrap_or_default(),
        };
        // Without a code it never ran, or it was removed before anybody looked.
        let cause =
            exit_code.map_or(Cause::Lost, |code| autopsy::cause(code, died_at, memory, tags.memory_bytes));
        let peak = self.state().peaks.get(id).copied();
        Autopsy { cause, died_at, peak_memory_bytes: peak.or_else(|| autopsy::peak_bytes(id)), last_output }
    }

    async fn last_state(&self, tags: &Tags, id: &str) -> Option<ContainerState> {
        match self.state_of(&tags.life, id).await {
            Ok(state) => state,
            Err(error) => {
                tracing::debug!(worker = %tags.life, %error, "the autopsy knows only what was announced");
                None
            }
        }
    }

    /// The pid on the engine's machine of a container's first process; for people, so nothing depends on it.
    pub(super) async fn first_pid(&self, life: &Incarnation, id: &str) -> Option<u32> {
        pid(self.state_of(life, id).await.ok()?.as_ref())
    }

    async fn state_of(&self, life: &Incarnation, id: &str) -> Result<Option<ContainerState>, BackendError> {
        let inspecting = self.engine.docker().inspect_container(id, None);
        Ok(self.engine.ask(Operation::Inspect, life, inspecting).await?.state)
    }

    /// The last lines that a worker wrote, oldest first.
    pub(super) async fn tail(
        &self,
        life: &Incarnation,
        id: &str,
        lines: usize,
    ) -> Result<Vec<String>, BackendError> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let chunks = self.engine.docker().logs(id, Some(options)).map_ok(LogOutput::into_bytes);
        let bytes = chunks.try_fold(Vec::new(), |mut all, chunk| async move {
            all.extend_from_slice(&chunk);
            Ok(all)
        });
        let bytes = self.engine.ask(Operation::ReadLog, life, bytes).await?;
        let text = String::from_utf8_lossy(&bytes);
        let skipped = text.lines().count().saturating_sub(lines);
        Ok(text.lines().skip(skipped).map(str::to_owned).collect())
    }

    /// All containers of our owner, dead or alive.
    pub(super) async fn listing(&self) -> Result<Vec<Found>, BackendError> {
        let ours = HashMap::from([("label", vec![format!("{OWNER_LABEL}={}", self.owner)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&ours).build();
        let listing = self.engine.docker().list_containers(Some(options));
        let summaries = self.engine.ask(Operation::List, "containers", listing).await?;
        Ok(stream::iter(summaries)
            .map(|summary| self.identify(summary))
            .buffer_unordered(INSPECTIONS)
            .filter_map(std::future::ready)
            .collect()
            .await)
    }

    /// What a listed container is; `None` for one that is none of our business, or is none any more.
    async fn identify(&self, summary: ContainerSummary) -> Option<Found> {
        let id = summary.id?;
        let name = summary.names?.into_iter().next()?.trim_start_matches('/').to_owned();
        let Some(tags) = Tags::read(&summary.labels?) else {
            tracing::warn!(
                container = name,
                "a container with our owner's label has no readable identity; left alone"
            );
            return None;
        };
        let (vital, pid) = match summary.state? {
            ContainerSummaryStateEnum::REMOVING => return None,
            ContainerSummaryStateEnum::CREATED if self.state().starting.contains(&name) => return None,
            ContainerSummaryStateEnum::CREATED
            | ContainerSummaryStateEnum::EXITED
            | ContainerSummaryStateEnum::DEAD => (Vital::Dead(self.autopsy(&tags, &id, None).await), None),
            _ => {
                let state = match self.state_of(&tags.life, &id).await {
                    Ok(state) => state,
                    Err(BackendError::Gone { .. }) => return None,
                    // It was running a moment ago, which is what a listing says.
                    Err(_) => None,
                };
                let since = state.as_ref().and_then(|state| autopsy::moment(state.started_at.as_deref()));
                (Vital::Alive { since: since.unwrap_or_else(SystemTime::now) }, pid(state.as_ref()))
            }
        };
        let unit = Unit::Container { id, name, pid };
        Some(Found { life: tags.life, unit, spec_hash: tags.spec_hash, vital })
    }
}

/// The pid that the engine knows; it says 0 of a container that does not run.
fn pid(state: Option<&ContainerState>) -> Option<u32> {
    state?.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|&pid| pid > 0)
}
