//! A spec that changes while everything runs: it is read again, and applied when it is good.
//!
//! Whoever watches the spec gives its text each time that it is another one. A text that is wrong is told once, with its
//! mistakes, and what held goes on to hold. What command line options have overridden stays overridden.
//!
//! A controller that waits to lead follows the spec too. Whoever led has gone by it as it was then, so what it read itself when
//! it was started, days ago perhaps, may be of a deployment that is no more: by that it would drain and replace workers.
//!
//! A file is looked at once a second, for what is in it and not for when it was written: editors and ConfigMaps put another
//! file in its place, and nothing is told of that to who watches the old one. In a cluster the ConfigMap itself is watched.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, future, stream};
use server::identity::PoolName;
use tokio::time::{MissedTickBehavior, interval};

use crate::model::in_full;
use crate::spec::{self, Change, Deployment, Overrides, Pool};
use crate::supervisor::Handle;

/// How often a file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where a deployment's spec has come from, and how it was read.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The path that was asked for, if one was.
    pub(super) path: Option<PathBuf>,
    /// The file's name for people.
    pub(super) name: String,
    /// What was in it.
    pub(super) text: String,
    /// What the command line says over it.
    pub(super) overrides: Overrides,
}

impl Source {
    /// Finds the spec and reads it.
    pub(super) fn find(path: Option<PathBuf>, overrides: Overrides) -> Result<Self, spec::SpecError> {
        let (name, text) = spec::find(path.as_deref())?;
        Ok(Self { path, name, text, overrides })
    }

    /// What it means.
    pub(super) fn understand(&self, text: &str) -> Result<Deployment, spec::SpecError> {
        spec::understand(&self.name, text, &self.overrides)
    }

    /// Its text, each time that it is another one. A file that is away is waited for.
    pub(super) fn changes(&self) -> impl Stream<Item = String> + Send + 'static {
        self.changes_looked_for(LOOK_EVERY)
    }

    /// The same of texts that somebody else brings, of which the first may be the one that was read.
    pub(super) fn other_than_known<S>(&self, texts: S) -> impl Stream<Item = String> + Send + use<S>
    where
        S: Stream<Item = String> + Send,
    {
        texts
            .scan(self.text.clone(), |known, text| {
                let is_new = *known != text;
                known.clone_from(&text);
                future::ready(Some(is_new.then_some(text)))
            })
            .filter_map(future::ready)
    }

    /// Follows these texts until something has come to its end, for somebody who has yet to begin. `holds` is then what the
    /// last good one says.
    pub(super) async fn keep_up_until<T>(
        &mut self,
        end: impl Future<Output = T>,
        texts: impl Stream<Item = String>,
        holds: &mut Deployment,
    ) -> T {
        let (mut end, mut texts) = (std::pin::pin!(end), std::pin::pin!(texts));
        loop {
            tokio::select! {
                ended = &mut end => return ended,
                Some(text) = texts.next() => self.revise(holds, text),
            }
        }
    }

    /// Looks once more whether the file says something else.
    pub(super) fn look_again(&mut self, holds: &mut Deployment) {
        match spec::find(self.path.as_deref()) {
            Ok((_, text)) => self.revise(holds, text),
            Err(error) => tracing::warn!(error = in_full(&error), "the spec stays as it was read last"),
        }
    }

    /// The text is this one from now on, before anything has been started.
    pub(super) fn revise(&mut self, holds: &mut Deployment, text: String) {
        if self.text != text {
            self.apply(holds, &text);
            self.text = text;
        }
    }

    /// What holds once the text is this one: what is running follows as far as it can. Whether there is anything to be
    /// followed; what is wrong is told, and what held goes on to hold.
    fn apply(&self, holds: &mut Deployment, text: &str) -> bool {
        match self.understand(text) {
            Ok(new) => {
                tell(&self.name, holds, &new);
                holds.pools = effective(&holds.pools, new.pools);
                true
            }
            Err(error) => {
                tracing::error!(
                    "{} has changed and is wrong, so what held goes on to hold:\n{error}",
                    self.name
                );
                false
            }
        }
    }

    fn changes_looked_for(&self, every: Duration) -> impl Stream<Item = String> + Send + 'static {
        let mut looks = interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let known = Known { text: self.text.clone(), away: false };
        stream::unfold((self.path.clone(), known, looks), |(path, mut known, mut looks)| async move {
            loop {
                looks.tick().await;
                let looked = path.clone();
                // An error means that the runtime is shutting down.
                let found = tokio::task::spawn_blocking(move || spec::find(looked.as_deref())).await.ok()?;
                if let Some(text) = known.compare(found.map(|(_, text)| text)) {
                    return Some((text, (path, known, looks)));
                }
            }
        })
    }
}

/// What was last found.
struct Known {
    text: String,
    /// Whether nothing could be read since, which is told once.
    away: bool,
}

impl Known {
    /// The text that was found now, if it is another one.
    fn compare(&mut self, found: Result<String, spec::SpecError>) -> Option<String> {
        match found {
            Ok(text) => {
                self.away = false;
                (text != self.text).then(|| {
                    self.text.clone_from(&text);
                    text
                })
            }
            Err(error) => {
                if !std::mem::replace(&mut self.away, true) {
                    tracing::warn!(error = in_full(&error), "the spec stays as it was read last");
                }
                None
            }
        }
    }
}

/// Applies what changes, for as long as the master runs and there are changes. `applied` is called with what holds then.
pub(super) async fn follow(
    master: &Handle,
    source: &Source,
    mut deployment: Deployment,
    changes: impl Stream<Item = String>,
    mut applied: impl FnMut(&Deployment),
) {
    let mut changes = std::pin::pin!(changes);
    while let Some(text) = changes.next().await {
        if !source.apply(&mut deployment, &text) {
            continue;
        }
        match master.apply(deployment.pools.clone()).await {
            Ok(()) => applied(&deployment),
            Err(error) => tracing::warn!(error = in_full(&error), "the spec has changed and is not applied"),
        }
    }
}

/// The pools from now on: new ones as written, the others as far as they can follow.
fn effective(old: &[Pool], new: Vec<Pool>) -> Vec<Pool> {
    let old: BTreeMap<&PoolName, &Pool> = old.iter().map(|pool| (pool.name(), pool)).collect();
    let pool = |new: Pool| old.get(new.name()).map_or_else(|| new.clone(), |old| spec::effective(old, &new));
    new.into_iter().map(pool).collect()
}

/// Says in the log what has changed and what comes of it.
fn tell(file: &str, old: &Deployment, new: &Deployment) {
    let whole = [
        ("backend", old.backend != new.backend),
        ("link and tunnel", asked_for(old) != asked_for(new)),
        ("api", old.api != new.api),
    ];
    for (key, _) in whole.into_iter().filter(|(_, changed)| *changed) {
        tracing::warn!(file, key, "has changed, and waits for a restart of door and controller");
    }
    for pool in &new.pools {
        match old.pools.iter().find(|it| it.name() == pool.name()) {
            None => {
                tracing::info!(file, pool = %pool.name(), "a new pool: it has workers once a door has it");
            }
            Some(before) => {
                let change = Change::between(before, pool);
                if !change.is_none() {
                    tracing::info!(file, pool = %pool.name(), "has changed: {change}");
                }
            }
        }
    }
    for pool in old.pools.iter().filter(|pool| !new.pools.iter().any(|it| it.name() == pool.name())) {
        tracing::info!(file, pool = %pool.name(), "is gone: its workers are drained; its door listens until it is restarted");
    }
}

/// The tunnel but for its address, which may have been chosen by us.
fn asked_for(deployment: &Deployment) -> Option<(bool, Duration, Duration, u32)> {
    deployment.tunnel.map(|tunnel| (tunnel.tls, tunnel.heartbeat, tunnel.lost_after, tunnel.window_bytes))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_file_is_read_again_when_another_takes_its_place() {
        let temp = tempfile::tempdir().unwrap();
        let (path, aside) = (temp.path().join("bulkhead.yaml"), temp.path().join("new"));
        let (first, second) = ("pools: { web: {} }", "pools: { web: { size: { workers: 2 } } }");
        fs::write(&path, first).unwrap();
        let source = Source::find(Some(path.clone()), Overrides::default()).unwrap();
        let mut changes = std::pin::pin!(source.changes_looked_for(Duration::from_millis(2)));
        for text in [second, first] {
            // As a ConfigMap changes: the link leads elsewhere.
            fs::write(&aside, text).unwrap();
            fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink(&aside, &path).unwrap();
            let next = tokio::time::timeout(Duration::from_secs(10), changes.next()).await;
            assert_eq!(next.unwrap().as_deref(), Some(text));
        }
    }

    #[tokio::test]
    async fn what_somebody_brings_is_a_change_when_it_is_another_text() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("bulkhead.yaml");
        fs::write(&path, "a").unwrap();
        let source = Source::find(Some(path), Overrides::default()).unwrap();
        let brought = stream::iter(["a", "b", "b", "a"].map(str::to_owned));
        assert_eq!(source.other_than_known(brought).collect::<Vec<_>>().await, ["b", "a"]);
    }

    #[tokio::test]
    async fn who_begins_later_begins_with_what_holds_then() {
        let spec = |workers: u32| {
            format!("pools: {{ web: {{ listen: 127.0.0.1:1, size: {{ workers: {workers} }} }} }}")
        };
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("bulkhead.yaml");
        fs::write(&path, spec(4)).unwrap();
        let mut source = Source::find(Some(path.clone()), Overrides::default()).unwrap();
        let mut holds = source.understand(&source.text).unwrap();
        let (end, ended) = tokio::sync::oneshot::channel();
        let brought = stream::iter([spec(4), spec(8), "pools: [".to_owned()]).chain(stream::once(async {
            end.send("it leads").unwrap();
            future::pending().await
        }));
        assert_eq!(source.keep_up_until(ended, brought, &mut holds).await, Ok("it leads"));
        assert_eq!(holds.pools[0].workers, 8, "the last one is wrong");
        fs::write(&path, spec(5)).unwrap();
        source.look_again(&mut holds);
        assert_eq!(holds.pools[0].workers, 5);
        assert_eq!(source.text, spec(5), "it is no change any more");
        fs::remove_file(&path).unwrap();
        source.look_again(&mut holds);
        assert_eq!(holds.pools[0].workers, 5);
    }

    #[test]
    fn what_is_the_same_or_away_is_no_change() {
        let mut known = Known { text: "a".to_owned(), away: false };
        let missing = || spec::find(Some("/nonexistent".as_ref())).map(|(_, text)| text);
        assert_eq!(known.compare(Ok("a".to_owned())), None);
        assert_eq!(known.compare(missing()), None);
        assert!(known.away);
        assert_eq!(known.compare(Ok("a".to_owned())), None);
        assert_eq!(known.compare(Ok("b".to_owned())).as_deref(), Some("b"));
        assert_eq!(known.compare(Ok("b".to_owned())), None);
    }

    #[test]
    fn pools_follow_as_far_as_their_door_lets_them() {
        let pools = |text: &str| spec::parse("bulkhead.yaml", text).unwrap().pools;
        let old = pools("pools: { a: { listen: 127.0.0.1:1 }, b: { listen: 127.0.0.1:2 } }");
        let new = pools(
            "pools: { c: { listen: 127.0.0.1:3 }, a: { listen: 127.0.0.1:1, protocol: tcp, size: { workers: 9 } } }",
        );
        let effective = effective(&old, new.clone());
        assert_eq!(effective[0], new[0]);
        assert_eq!((effective[1].workers, &effective[1].worker), (9, &old[0].worker));
        assert_eq!(effective.len(), 2);
    }
}
