//! Which of several controllers may act: the one that holds a `Lease` of the cluster.
//!
//! ```text
//!               nobody's, or unchanged for 6 s
//!   following ──────────────────────────────────► leading ── released in the end ──► over
//!       │  looks every second                        │ renews every second
//!       └ somebody else's                            └ cannot for 5 s, or it is somebody else's ──► lost: act no more
//! ```
//! Nobody's clock is compared with anybody else's. A follower counts by its own how long the lease has not changed; a
//! leader counts by its own from before it asked for the latest renewal that was granted. Five seconds and six leave
//! one for an act that was begun in time, and for clocks that do not run at the same speed: those of machines differ by
//! less than a thousandth.
//!
//! So short because nobody replaces workers meanwhile: a node that dies with the leader on it has its workers replaced when
//! another has come to lead. What it costs is that an API which is away for longer than five seconds ends the leader, and
//! that is cheap. Nobody can take the lease while the API is away, and nobody acts; doors and workers serve on. When it is
//! back, one gets the lease, whoever asks first: the one that has waited, for as far as it has seen the lease is six
//! seconds old, or the one that has led, which its cluster has started again and which is known by its name. The API lets
//! only one of them write. That one lists and adopts before it spawns anybody, and kills nobody for what it does not know.
//!
//! Whoever wants the lease is as impatient as whoever has it: by an API so slow that it could not be kept it is not taken
//! either, or each would have it in turn for five seconds, and end.
//!
//! Losing the lease is for good: whoever has lost it starts anew, as a follower. What it had asked of the API by then may
//! still be carried out. That is harmless: a pod has its life's name, which cannot be had twice, and two controllers in a
//! row agree on the next one by what the door and the API have seen.
//!
//! One that dies leaves its lease to run out, unless it comes back under its own name, as a container does that its
//! kubelet starts again: that one goes on at once, for its predecessor is certainly gone.
//!
//! Whoever leads may leave a word on it for the next ([`Word`]), which is written with a renewal, at once if the API answers.
//! It belongs to the controllers' Deployment, and goes with it.
//!
//! Some have nobody who waits to take over: a controller whose door is its own, outside of the cluster. To them the lease
//! says only that the workers of that name are theirs ([`seize`]). They do not wait behind somebody who renews it, they do
//! not give up for an API that is away, in which nobody can take it either, and they remove it in the end.

mod post;
mod record;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::post::{End, NoAnswer, Post, Renewal};
use self::record::{Seen, Step, decide, word};
use super::cluster::Cluster;
use super::names;

/// How long a lease is good for that is not renewed.
const GOOD_FOR: Duration = Duration::from_secs(6);
/// How often it is renewed, and looked at by those who would like to have it. Two small questions a second of each.
const EVERY: Duration = Duration::from_secs(1);
/// When a leader that cannot renew it stops to act.
const GIVE_UP: Duration = Duration::from_secs(5);
/// How long a leader waits for one renewal, and whoever wants to lead for one try, each two questions: one that is lost
/// leaves time for another.
const RENEWAL: Duration = Duration::from_millis(2500);
/// How long one question to the API may take.
const ANSWER: Duration = Duration::from_secs(2);
/// How long it is tried to end a lease, which will run out by itself.
const ENDED_WITHIN: Duration = Duration::from_secs(4);
/// What the API says to whoever writes what has changed since, or creates what is there.
const CONFLICT: u16 = 409;

/// Why somebody leads no longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Somebody else has it.
    #[error("the lease {lease} is {holder}'s now")]
    Taken {
        /// Which.
        lease: String,
        /// Whose.
        holder: String,
    },
    /// It could not be renewed in time.
    #[error("the lease {lease} could not be renewed for {} s: {why}", GIVE_UP.as_secs())]
    NotRenewed {
        /// Which.
        lease: String,
        /// What the API said last, if anything.
        why: String,
    },
}

/// Why somebody who does not wait for the lease has not got it.
#[derive(Debug, thiserror::Error)]
pub enum NotOurs {
    /// Somebody else has it, and renews it.
    #[error(
        "{holder} leads by the lease {lease}: stop it there, or give this deployment a name of its own with --owner"
    )]
    Held {
        /// Which.
        lease: String,
        /// Who.
        holder: String,
    },
    /// The API has not let us see or write it.
    #[error(
        "cannot get the lease {lease}: it takes the right to get, create, update and delete leases in the namespace"
    )]
    Refused {
        /// Which.
        lease: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// For how long somebody leads who cannot renew the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tenure {
    /// Until others may have it.
    UntilOverdue,
    /// Until it is seen to be somebody else's: nobody waits for it.
    UntilTaken,
}

/// The lease is ours, as long as [`Leadership::lost`] does not return.
#[derive(Debug)]
pub struct Leadership {
    post: Post,
    lost: watch::Receiver<Option<Lost>>,
    renewing: JoinHandle<()>,
    /// Cancelled when it is not to be renewed any more.
    enough: CancellationToken,
}

/// A few words on the lease, for whoever leads next: what the last one has left, until they are changed. Dropped with
/// everything else when the lease is lost.
#[derive(Debug, Clone, Default)]
pub struct Word(Arc<Written>);

#[derive(Debug, Default)]
struct Written {
    text: Mutex<Option<String>>,
    /// Rung when it is to be written.
    changed: Notify,
}

impl Word {
    /// What they are.
    pub fn get(&self) -> Option<String> {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes them, and returns at once.
    pub fn set(&self, text: Option<String>) {
        self.keep(text);
        self.0.changed.notify_one();
    }

    fn keep(&self, text: Option<String>) {
        *self.0.text.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

/// The lease of the controllers of this owner's deployment.
pub fn name(owner: &str) -> String {
    format!("{}-controller", names::label(owner))
}

/// Waits until the lease of this name is ours; `us` is how we are known there ([`Cluster::identity`]). `following` is told who has it, whenever that changes.
pub async fn win(cluster: &Cluster, lease: &str, us: &str, following: impl Fn(Option<&str>)) -> Leadership {
    let mut candidate = Candidate::at(cluster, lease, us);
    loop {
        let before = candidate.seen.holder().map(str::to_owned);
        // What it has asked for by then, and gets, it finds to be its own.
        let tried = timeout(RENEWAL, candidate.tries()).await.unwrap_or_else(|late| Err(late.into()));
        match tried {
            Ok(Outcome::Ours { since }) => return candidate.post.lead(since, Tenure::UntilOverdue),
            Ok(Outcome::Theirs) => {
                if before.as_deref() != candidate.seen.holder() {
                    following(candidate.seen.holder());
                }
            }
            Ok(Outcome::Missed(error)) => {
                tracing::debug!(%error, "somebody else was faster, or nobody answered");
            }
            Err(error) => tracing::warn!(%error, lease, "cannot tell who leads; waiting"),
        }
        sleep(EVERY).await;
    }
}

/// Takes the lease of this name, for somebody who is alone with its door: nobody is to wait for it, and nobody takes over
/// from it. Takes as long as a dead holder's lease is good for at the most, and much less where it is free, ours already,
/// or renewed by another.
///
/// # Errors
/// Another holds it and lives; or the API will not have us, which is worth another try where it does not answer.
pub async fn seize(cluster: &Cluster, lease: &str, us: &str) -> Result<Leadership, NotOurs> {
    let mut candidate = Candidate::at(cluster, lease, us);
    let refused = |source: NoAnswer| NotOurs::Refused { lease: lease.to_owned(), source: source.into() };
    let mut renewed_before = None;
    loop {
        match candidate.tries().await.map_err(refused)? {
            Outcome::Ours { since } => return Ok(candidate.post.lead(since, Tenure::UntilTaken)),
            Outcome::Theirs => {
                let now = candidate.seen.renewal();
                if renewed_before.is_some_and(|before| before != now) {
                    let holder = candidate.seen.holder().unwrap_or("somebody").to_owned();
                    return Err(NotOurs::Held { lease: lease.to_owned(), holder });
                }
                renewed_before = Some(now);
                sleep(EVERY).await;
            }
            // Its holder has renewed it in this very moment, or somebody else was faster.
            Outcome::Missed(NoAnswer::Api(kube::Error::Api(status))) if status.code == CONFLICT => {
                sleep(EVERY).await;
            }
            Outcome::Missed(error) => return Err(refused(error)),
        }
    }
}

impl Leadership {
    /// Returns when we lead no longer, and says why. From then on nothing may be done.
    pub fn lost(&self) -> impl Future<Output = Lost> + Send + use<> {
        let mut lost = self.lost.clone();
        async move {
            let told = lost.wait_for(Option::is_some).await.ok().and_then(|lost| lost.clone());
            match told {
                Some(lost) => lost,
                // Nobody renews it any more because it has been released, which is no loss.
                None => std::future::pending().await,
            }
        }
    }

    /// What is left for the next one.
    pub fn word(&self) -> Word {
        self.post.word.clone()
    }

    /// Ends the renewals, and waits for one that is on its way: the API may carry out, behind all that follows here, what
    /// nobody waits for any more.
    async fn rest(&mut self) {
        self.enough.cancel();
        if timeout(2 * ANSWER, &mut self.renewing).await.is_err() {
            self.renewing.abort();
        }
    }

    /// Gives it up, so that the next one need not wait for it to run out.
    pub async fn release(mut self) {
        self.rest().await;
        if let Err(error) = self.post.until_it_stands_still(End::Released).await {
            tracing::warn!(%error, "the lease could not be released; it runs out in {} s", GOOD_FOR.as_secs());
        }
    }

    /// Removes it: nobody is to take over, and nothing of us is to stay.
    pub async fn remove(mut self) {
        self.rest().await;
        if let Err(error) = self.post.until_it_stands_still(End::Removed).await {
            let lease = &self.post.lease;
            tracing::warn!(%error, lease, "the lease stays; it runs out in {} s", GOOD_FOR.as_secs());
        }
    }
}

/// Somebody who would like to have a lease.
struct Candidate {
    post: Post,
    seen: Seen,
}

/// What has come of trying to get one.
enum Outcome {
    /// It is ours, as of before it was asked for.
    Ours {
        /// When.
        since: Instant,
    },
    /// It is somebody else's.
    Theirs,
    /// It was to be had, and we have not got it.
    Missed(NoAnswer),
}

impl Candidate {
    fn at(cluster: &Cluster, lease: &str, us: &str) -> Self {
        let deployment = cluster.own_pod().and_then(|pod| pod.deployment.clone());
        let post = Post {
            leases: cluster.api(),
            lease: lease.to_owned(),
            us: us.to_owned(),
            deployment,
            word: Word::default(),
        };
        Self { post, seen: Seen::nothing(Instant::now()) }
    }

    /// Looks at it, and takes it if it can be had.
    async fn tries(&mut self) -> Result<Outcome, NoAnswer> {
        let asked = Instant::now();
        let there = self.post.look().await?;
        // Both ends are taken so that it never seems longer than it is.
        self.seen.note(there.as_ref(), Instant::now());
        let step = decide(there.as_ref(), &self.post.us, self.seen.unchanged_for(asked));
        if step == Step::Follow {
            return Ok(Outcome::Theirs);
        }
        self.post.word.keep(there.as_ref().and_then(word));
        let since = Instant::now();
        Ok(match self.post.claim(there, step).await {
            Ok(()) => Outcome::Ours { since },
            Err(error) => Outcome::Missed(error),
        })
    }
}

impl Post {
    /// Renews it until it is lost. `since`: from before it was asked for.
    fn lead(self, since: Instant, tenure: Tenure) -> Leadership {
        let (tell, lost) = watch::channel(None);
        let enough = CancellationToken::new();
        let (post, is_enough) = (self.clone(), enough.clone());
        let renewing = tokio::spawn(async move {
            // Who has done with it does not lose it any more.
            if let Some(why) = post.keep(since, tenure, &is_enough).await
                && !is_enough.is_cancelled()
            {
                let _ = tell.send(Some(why));
            }
        });
        Leadership { post: self, lost, renewing, enough }
    }

    /// `None`: it was `enough`, which is looked at between two renewals.
    async fn keep(&self, mut since: Instant, tenure: Tenure, enough: &CancellationToken) -> Option<Lost> {
        let mut why = "the API has not been asked".to_owned();
        let mut is_told = false;
        let mut asked = since;
        loop {
            let left = tenure.left(since, Instant::now());
            if left.is_zero() {
                return Some(Lost::NotRenewed { lease: self.lease.clone(), why });
            }
            // At once where there is something to be written. From question to question: one that was not answered has
            // taken its time already.
            let pause = EVERY.saturating_sub(asked.elapsed());
            tokio::select! {
                biased;
                () = enough.cancelled() => return None,
                _ = timeout(pause.min(left), self.word.0.changed.notified()) => {}
            }
            asked = Instant::now();
            match timeout(tenure.patience(since, asked), self.renew()).await {
                Ok(Ok(Renewal::Granted)) => (since, is_told) = (asked, false),
                Ok(Ok(Renewal::Taken { holder })) => {
                    return Some(Lost::Taken { lease: self.lease.clone(), holder });
                }
                Ok(Err(error)) => {
                    if !is_told {
                        tracing::warn!(%error, lease = self.lease, "the lease is not renewed");
                    }
                    (why, is_told) = (error.to_string(), true);
                }
                Err(_) => "no answer in time".clone_into(&mut why),
            }
        }
    }
}

impl Tenure {
    /// For how long it still lasts that has been granted `since` then.
    fn left(self, since: Instant, now: Instant) -> Duration {
        match self {
            Self::UntilOverdue => (since + GIVE_UP).saturating_duration_since(now),
            Self::UntilTaken => GIVE_UP,
        }
    }

    /// How long one renewal may take: where the lease cannot be overdue, as long as its questions may.
    fn patience(self, since: Instant, now: Instant) -> Duration {
        match self {
            Self::UntilOverdue => self.left(since, now).min(RENEWAL),
            Self::UntilTaken => 2 * ANSWER,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::http::StatusCode;
    use axum::routing::get;
    use axum::{Json, Router};
    use futures_util::FutureExt as _;
    use k8s_openapi::api::coordination::v1::Lease;
    use k8s_openapi::jiff::Timestamp;
    use kube::Client;
    use serde_json::json;

    use super::record::written;
    use super::*;

    #[tokio::test]
    async fn a_leader_that_gets_no_answer_asks_again_and_has_given_up_before_another_may_lead() {
        let asked = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&asked);
        let silence = Router::new().fallback(async move || {
            counted.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<()>().await;
        });
        let cluster = Cluster::of(Client::new(silence, "here"), "here");
        let since = Instant::now();
        let leadership = Candidate::at(&cluster, "leader", "us").post.lead(since, Tenure::UntilOverdue);
        let lost = leadership.lost().await;
        let led_for = since.elapsed();
        assert!(matches!(lost, Lost::NotRenewed { .. }), "{lost}");
        assert!(led_for >= GIVE_UP && led_for < GOOD_FOR, "it led for {led_for:?}");
        assert!(asked.load(Ordering::Relaxed) >= 2, "it asked once");
    }

    const LEADER: &str = "/apis/coordination.k8s.io/v1/namespaces/here/leases/leader";

    /// The lease as it is while `us` has it.
    fn ours() -> Lease {
        let mut lease = written(None, "leader", "us", Step::Take, Timestamp::now());
        lease.metadata.resource_version = Some("1".to_owned());
        lease
    }

    #[tokio::test]
    async fn neither_a_late_renewal_nor_a_busy_api_keeps_a_lease_from_being_removed() {
        for refusal in [StatusCode::CONFLICT, StatusCode::INTERNAL_SERVER_ERROR] {
            let tries = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&tries);
            let removing = async move || match counted.fetch_add(1, Ordering::Relaxed) {
                0 => {
                    let code = refusal.as_u16();
                    let status = json!({ "status": "Failure", "reason": "", "code": code, "message": "" });
                    (refusal, Json(status))
                }
                _ => (StatusCode::OK, Json(json!({ "status": "Success" }))),
            };
            let api = Router::new().route(LEADER, get(async || Json(ours())).delete(removing));
            let cluster = Cluster::of(Client::new(api, "here"), "here");
            let post = Candidate::at(&cluster, "leader", "us").post;
            let removed = post.until_it_stands_still(End::Removed).await;
            assert!(removed.is_ok(), "{removed:?}");
            assert_eq!(tries.load(Ordering::Relaxed), 2);
        }
    }

    #[tokio::test]
    async fn a_lease_is_given_up_behind_the_renewal_that_is_on_its_way() {
        type Asked = Mutex<Vec<String>>;
        let note = |asked: &Asked, what: String| {
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.push(what);
            asked.len()
        };
        let asked = Arc::new(Asked::default());
        let (came, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (noted, comes, opens) = (Arc::clone(&asked), Arc::clone(&came), Arc::clone(&gate));
        let looking = async move || {
            if note(&noted, "look".to_owned()) == 1 {
                comes.notify_one();
                opens.notified().await;
            }
            Json(ours())
        };
        let noted = Arc::clone(&asked);
        let writing = async move |Json(lease): Json<Lease>| {
            let holder = lease.spec.as_ref().and_then(|it| it.holder_identity.clone());
            note(&noted, holder.unwrap_or_else(|| "nobody".to_owned()));
            Json(lease)
        };
        let api = Router::new().route(LEADER, get(looking).put(writing));
        let cluster = Cluster::of(Client::new(api, "here"), "here");
        let post = Candidate::at(&cluster, "leader", "us").post;
        let leadership = post.lead(Instant::now(), Tenure::UntilOverdue);
        came.notified().await;
        let lost = leadership.lost();
        tokio::join!(leadership.release(), async { gate.notify_one() });
        assert_eq!(
            *asked.lock().unwrap_or_else(PoisonError::into_inner),
            ["look", "us", "look", "nobody"],
            "it was not waited for"
        );
        assert!(lost.now_or_never().is_none(), "who gives it up has not lost it");
    }
}
