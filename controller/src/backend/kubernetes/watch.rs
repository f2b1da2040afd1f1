//! The API's watch: who waits, who runs, who has died.
//!
//! ```text
//!   listing ──► watching ──── stream ended in order, or is too old ────► listing (nobody is told)
//!      ▲            └──── failed, and the API does not answer ──► away   told once: Unreachable
//!      └────────── wait (0.1 s … 2 s) ◄────────────────────────────┘     told on the way back: Reachable
//! ```
//! kube's watcher keeps the stream going from where it was, and lists anew where it cannot. A pod's object is told whole
//! each time, so what is told here is always the difference to what was told before ([`Seen`]), and a death is told once.
//!
//! The first listing is left to the supervisor's own: an earlier run of this deployment may have had workers of the same
//! names, and their deaths are not ours.
//!
//! A pod whose object is gone before its end was seen has died unseen. That is so too when somebody deletes it by force,
//! and then its processes live on for the two seconds that the kubelet grants them.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watching};
use server::identity::Incarnation;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::KubernetesBackend;
use super::act::unit;
use super::condition::Condition;
use super::phase;
use super::pod::{self, Tags};
use crate::backend::Sighting;
use crate::model::Cause;

/// How many sightings may wait for the supervisor.
const BACKLOG: usize = 256;

/// How long one request to watch lasts, in seconds. A connection that has been cut without a word is noticed five
/// seconds later, and until then the supervisor's own listings tell.
const WATCH_SECONDS: u32 = 60;

/// How long a pod may wait without any word of trouble before that is trouble enough.
const LONG: Duration = Duration::from_secs(30);

/// How often those that wait are looked at, and an API that is away is tried.
const LOOK: Duration = Duration::from_secs(2);

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Watches until the receiver is dropped.
pub(super) fn start(backend: Arc<KubernetesBackend>) -> mpsc::Receiver<Sighting> {
    let (tell, hear) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        tokio::select! {
            () = watch(&backend, &tell) => {}
            () = phase::write(&backend) => {}
            () = tell.closed() => {}
        }
    });
    hear
}

async fn watch(backend: &Arc<KubernetesBackend>, tell: &mpsc::Sender<Sighting>) {
    let ours = watcher::Config::default().labels(&pod::selector(&backend.mould.owner)).timeout(WATCH_SECONDS);
    let mut events = pin!(watching(backend.pods(), ours).backoff(Waits::default()));
    let mut seen = Seen::default();
    let mut reach = Reach::Here;
    let mut refused = None;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (news, now) = tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => {
                    refused = None;
                    (seen.take(event, Instant::now()), Some(Reach::Here))
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "the watch is begun anew");
                    let why = refusal(&error);
                    if why.is_some() && why != refused {
                        tracing::warn!(
                            why,
                            "the cluster's API lets nobody watch pods here: deaths are noticed late, and of pods that wait it is not known why. \
                             The rights to get, list and watch pods are missing"
                        );
                    }
                    refused = why.or(refused);
                    (Vec::new(), None)
                }
                None => return,
            },
            // A watch that goes on where it was has nothing to say for that.
            _ = look.tick() => (seen.look(Instant::now()), (reach == Reach::Here).then_some(Reach::Here)),
        };
        let now = match now {
            Some(now) => Ok(now),
            None => backend.cluster.probe().await.map(|()| Reach::Here),
        };
        match (reach, now) {
            (Reach::Away, Ok(_)) => {
                reach = Reach::Here;
                tracing::info!("the cluster's API answers again");
                let _ = tell.send(Sighting::Reachable).await;
            }
            (Reach::Here, Err(silent)) => {
                reach = Reach::Away;
                tracing::warn!(error = %silent, "lost the cluster's API; workers run on, and none is replaced until it is back");
                let _ = tell.send(Sighting::Unreachable(silent)).await;
            }
            (Reach::Here, Ok(_)) | (Reach::Away, Err(_)) => {}
        }
        for news in news {
            report(backend, news, tell).await;
        }
    }
}

/// The API's words, where it is there and will not have it.
fn refusal(error: &watcher::Error) -> Option<String> {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return None;
    };
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => Some(status.message.clone()),
        _ => None,
    }
}

/// Whether the API is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Here,
    Away,
}

/// Passes on what is new. A death's autopsy asks the API more, so it goes on beside the watching.
async fn report(backend: &Arc<KubernetesBackend>, news: News, tell: &mpsc::Sender<Sighting>) {
    let sighting = match news {
        News::Waits { life, trouble } => Sighting::Waiting { life, trouble },
        News::Runs { life, pod } => Sighting::Started { life, unit: unit(&pod) },
        News::Died { life, pod, cause, last_words } => {
            if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
                backend.has_spoken(node);
            }
            let (backend, tell) = (Arc::clone(backend), tell.clone());
            tokio::spawn(async move {
                let name = pod.name_any();
                let log = backend.last_lines_of(&life, &name).await;
                let autopsy = backend.autopsy(&name, cause, last_words, log);
                // Nobody listens any more: the controller is on its way out.
                let _ = tell.send(Sighting::Died { life, autopsy }).await;
            });
            return;
        }
    };
    let _ = tell.send(sighting).await;
}

/// Something that is to be told.
#[derive(Debug)]
enum News {
    Waits { life: Incarnation, trouble: Option<String> },
    Runs { life: Incarnation, pod: Box<Pod> },
    Died { life: Incarnation, pod: Box<Pod>, cause: Cause, last_words: Option<String> },
}

/// What has been told of each pod.
#[derive(Debug, Default)]
struct Seen {
    pods: HashMap<String, (Incarnation, Told)>,
    /// Those of the listing that is under way.
    listed: HashSet<String>,
    /// Whether a listing has ever been complete.
    has_listed: bool,
}

/// What has been told of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Waits { trouble: Option<String>, since: Instant },
    Runs,
    Died,
}

impl Seen {
    /// What an event tells that has not been told before.
    fn take(&mut self, event: Event<Pod>, now: Instant) -> Vec<News> {
        match event {
            Event::Apply(pod) => self.compare(pod, now).into_iter().collect(),
            Event::Delete(pod) => self.gone(pod).into_iter().collect(),
            Event::Init => {
                self.listed.clear();
                Vec::new()
            }
            Event::InitApply(pod) => {
                self.listed.insert(pod.uid().unwrap_or_default());
                self.compare(pod, now).into_iter().collect()
            }
            Event::InitDone => {
                self.has_listed = true;
                // Whom a complete listing does not know is forgotten: that they died the supervisor's own tells.
                self.pods.retain(|uid, _| self.listed.contains(uid));
                Vec::new()
            }
        }
    }

    fn compare(&mut self, pod: Pod, now: Instant) -> Option<News> {
        let life = Tags::read(pod.labels())?.life;
        let uid = pod.uid()?;
        let before = self.pods.get(&uid).map(|(_, told)| told);
        let (told, news) = match Condition::of(&pod) {
            Condition::Waiting { trouble } => {
                let since = match before {
                    Some(Told::Waits { since, .. }) => *since,
                    Some(Told::Runs | Told::Died) | None => now,
                };
                // A word of trouble that was ours stands until there is one of the cluster's, or an end.
                let told_long = matches!(before, Some(Told::Waits { trouble: Some(_), .. }));
                if trouble.is_none() && told_long && now.duration_since(since) > LONG {
                    return None;
                }
                let told = Told::Waits { trouble: trouble.clone(), since };
                (told, News::Waits { life: life.clone(), trouble })
            }
            Condition::Running { .. } => (Told::Runs, News::Runs { life: life.clone(), pod: Box::new(pod) }),
            Condition::Dead { cause, last_words } => {
                (Told::Died, News::Died { life: life.clone(), pod: Box::new(pod), cause, last_words })
            }
        };
        let is_new = before != Some(&told) && before != Some(&Told::Died);
        let is_of_before_us = !self.has_listed && told == Told::Died;
        if is_new {
            self.pods.insert(uid, (life, told));
        }
        (is_new && !is_of_before_us).then_some(news)
    }

    fn gone(&mut self, pod: Pod) -> Option<News> {
        let (life, told) = self.pods.remove(&pod.uid()?)?;
        if told == Told::Died {
            return None;
        }
        let (cause, last_words) = match Condition::of(&pod) {
            Condition::Dead { cause, last_words } => (cause, last_words),
            Condition::Waiting { .. } | Condition::Running { .. } => (Cause::Lost, None),
        };
        Some(News::Died { life, pod: Box::new(pod), cause, last_words })
    }

    /// Whoever waits for long, and nobody says why.
    fn look(&mut self, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        for (life, told) in self.pods.values_mut() {
            if let Told::Waits { trouble: trouble @ None, since } = told
                && now.duration_since(*since) > LONG
            {
                let why = format!(
                    "{life} has not been started for {} seconds, and the cluster does not say why: \
                     `kubectl get events` may",
                    LONG.as_secs()
                );
                *trouble = Some(why.clone());
                news.push(News::Waits { life: life.clone(), trouble: Some(why) });
            }
        }
        news
    }
}

/// The waits between two tries.
#[derive(Debug)]
pub(super) struct Waits(Duration);

impl Default for Waits {
    fn default() -> Self {
        Self(FIRST_WAIT)
    }
}

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.0;
        self.0 = (wait * 2).min(LONGEST_WAIT);
        Some(wait)
    }
}

impl Backoff for Waits {
    fn reset(&mut self) {
        *self = Self::default();
    }
}
