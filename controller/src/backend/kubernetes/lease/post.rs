//! The single questions about a lease: looking at it, writing it, ending it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use tokio::time::{sleep, timeout};

use super::record::{Step, holder, mark, written};
use super::{ANSWER, ENDED_WITHIN, Word};

const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// A lease, and who we are to it.
#[derive(Debug, Clone)]
pub(super) struct Post {
    pub(super) leases: Api<Lease>,
    pub(super) lease: String,
    pub(super) us: String,
    /// Whose the lease is.
    pub(super) deployment: Option<OwnerReference>,
    pub(super) word: Word,
}

/// A question that came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer in time")]
    Silence(#[from] tokio::time::error::Elapsed),
}

impl Post {
    pub(super) async fn look(&self) -> Result<Option<Lease>, NoAnswer> {
        Ok(timeout(ANSWER, self.leases.get_opt(&self.lease)).await??)
    }

    /// Writes what `step` makes of the lease. The API refuses if it has changed since.
    pub(super) async fn claim(&self, there: Option<Lease>, step: Step) -> Result<(), NoAnswer> {
        let how = PostParams::default();
        let mut wanted = written(there, &self.lease, &self.us, step, Timestamp::now());
        mark(&mut wanted, self.deployment.as_ref(), self.word.get());
        match wanted.metadata.resource_version {
            None => timeout(ANSWER, self.leases.create(&how, &wanted)).await??,
            Some(_) => timeout(ANSWER, self.leases.replace(&self.lease, &how, &wanted)).await??,
        };
        Ok(())
    }

    /// Ends it, and again where the API does not do it: it may have changed since we looked, because a renewal was on its way
    /// when we gave it up; or the API is busy.
    pub(super) async fn until_it_stands_still(&self, end: End) -> Result<(), NoAnswer> {
        let mut last = None;
        let tries = async {
            while let Err(error) = self.end(end).await {
                tracing::debug!(%error, "the lease is not ended yet");
                last = Some(error);
                sleep(BETWEEN_TRIES).await;
            }
        };
        let ended = timeout(ENDED_WITHIN, tries).await;
        ended.map_err(|late| last.unwrap_or_else(|| late.into()))
    }

    async fn end(&self, end: End) -> Result<(), NoAnswer> {
        match end {
            End::Released => self.release().await,
            End::Removed => self.remove().await,
        }
    }

    /// Gives it up, if it is ours. The API refuses if it has changed since.
    async fn release(&self) -> Result<(), NoAnswer> {
        match self.look().await?.filter(|there| holder(there) == Some(&self.us)) {
            Some(there) => self.claim(Some(there), Step::Release).await,
            None => Ok(()),
        }
    }

    /// Removes it, if it is ours. The API refuses if it has changed since.
    async fn remove(&self) -> Result<(), NoAnswer> {
        let Some(there) = self.look().await?.filter(|there| holder(there) == Some(&self.us)) else {
            return Ok(());
        };
        let this_one = Preconditions { uid: there.uid(), resource_version: there.resource_version() };
        let how = DeleteParams { preconditions: Some(this_one), ..DeleteParams::default() };
        timeout(ANSWER, self.leases.delete(&self.lease, &how)).await??;
        Ok(())
    }

    pub(super) async fn renew(&self) -> Result<Renewal, NoAnswer> {
        let there = self.look().await?;
        match there.as_ref().and_then(holder) {
            Some(holder) if holder != self.us => Ok(Renewal::Taken { holder: holder.to_owned() }),
            // Deleted, or given up by somebody in our name: we have not ceased to lead for that.
            holder => {
                let step = if holder.is_some() { Step::Renew } else { Step::Take };
                self.claim(there, step).await.map(|()| Renewal::Granted)
            }
        }
    }
}

/// What becomes of a lease that its holder has done with.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Released,
    Removed,
}

/// What came of a renewal.
#[derive(Debug)]
pub(super) enum Renewal {
    Granted,
    Taken { holder: String },
}
