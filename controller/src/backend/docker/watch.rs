//! The engine's events: who has died, and for want of memory.
//!
//! ```text
//!             subscribed                     stream ended, failed, or engine silent
//!   calling ─────────────► listening ─────────────────────────────────────────────► calling
//!      │ no answer: wait (0.1 s … 2 s), call again                                     │
//!      └ told once: Unreachable                        told on the way back: Reachable ┘
//! ```
//! Events are hints. An engine keeps only its last 256 and forgets them when it restarts, so after every loss the
//! receiver is told [`Sighting::Reachable`] and lists. Each subscription but the first asks for the events since a little before
//! the last one ended, so that nothing falls between listing and listening; a death may be told twice.
//!
//! An engine that is stopped or stuck keeps its connections open and says nothing. So it is asked for a sign of life
//! every few seconds, and one that gives none in time is unreachable.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::calls::Operation;
use super::container::{OWNER_LABEL, Tags};
use super::examine::Announced;
use super::{DockerBackend, autopsy};
use crate::backend::{BackendError, Sighting};

/// How many sightings may wait for the supervisor.
const BACKLOG: usize = 256;

/// Between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// By how much a subscription overlaps the one before.
const OVERLAP: Duration = Duration::from_secs(2);

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Watches until the receiver is dropped.
pub(super) fn start(backend: Arc<DockerBackend>) -> mpsc::Receiver<Sighting> {
    let (tell, hear) = mpsc::channel(BACKLOG);
    let since = SystemTime::now();
    tokio::spawn(async move {
        tokio::select! {
            () = watch(backend, since, &tell) => {}
            () = tell.closed() => {}
        }
    });
    hear
}

async fn watch(backend: Arc<DockerBackend>, mut since: SystemTime, tell: &mpsc::Sender<Sighting>) {
    loop {
        let lost = listen(&backend, since, tell).await;
        since = SystemTime::now() - OVERLAP;
        tracing::warn!(error = %lost, "lost the engine; workers run on, and none is replaced until it is back");
        if tell.send(Sighting::Unreachable(lost)).await.is_err() {
            return;
        }
        let mut wait = FIRST_WAIT;
        while backend.engine.ping().await.is_err() {
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        tracing::info!("the engine answers again");
        if tell.send(Sighting::Reachable).await.is_err() {
            return;
        }
    }
}

/// Listens until the engine is lost, and says how. What happened before `since` is left to the listing: an earlier
/// run of this deployment may have had workers of the same names, and their deaths are not ours.
async fn listen(
    backend: &Arc<DockerBackend>,
    since: SystemTime,
    tell: &mpsc::Sender<Sighting>,
) -> BackendError {
    // The engine counts in whole seconds, and tells what happened within the first of them too.
    let seconds = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let filters = HashMap::from([
        ("type", vec!["container".to_owned()]),
        ("event", ["die", "oom", "destroy"].map(str::to_owned).to_vec()),
        ("label", vec![format!("{OWNER_LABEL}={}", backend.owner)]),
    ]);
    let options = EventsOptionsBuilder::new().since(&seconds.to_string()).filters(&filters).build();
    let mut events = backend.engine.docker().events(Some(options));
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => notice(backend, event, since, tell),
                Some(Err(error)) => return backend.engine.fault(Operation::Listen, &"events", error),
                None => return backend.engine.unreachable(Operation::Listen, "the event stream has ended".into()),
            },
            _ = heartbeat.tick() => if let Err(silent) = backend.engine.ping().await {
                return silent;
            },
        }
    }
}

/// Acts on one event. A death's autopsy asks the engine more, so it goes on beside the listening.
fn notice(
    backend: &Arc<DockerBackend>,
    event: EventMessage,
    since: SystemTime,
    tell: &mpsc::Sender<Sighting>,
) {
    let at = event.time_nano.and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos);
    let Some(at) = at.map(|since_epoch| UNIX_EPOCH + since_epoch).filter(|at| *at >= since) else { return };
    let Some((id, attributes)) = event.actor.and_then(|actor| Some((actor.id?, actor.attributes?))) else {
        return;
    };
    match event.action.as_deref() {
        Some("oom") => backend.short_of_memory(&id, at),
        Some("die") => {
            let Some(tags) = Tags::read(&attributes) else { return };
            if autopsy::oom_kills(&id).is_some_and(|kills| kills > 0) {
                backend.short_of_memory(&id, at);
            }
            let exit_code = attributes.get("exitCode").and_then(|code| code.parse().ok());
            let (backend, tell) = (Arc::clone(backend), tell.clone());
            tokio::spawn(async move {
                let autopsy = backend.autopsy(&tags, &id, Some(Announced { at, exit_code })).await;
                // Nobody listens any more: the controller is on its way out.
                let _ = tell.send(Sighting::Died { life: tags.life, autopsy }).await;
            });
        }
        Some("destroy") => backend.forget(&id),
        _ => {}
    }
}
