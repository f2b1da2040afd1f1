//! What a controller answers that is well and has nothing to say yet: it waits for its cluster's API, or to lead.
//!
//! The kubelet starts a pod anew that ends, or that does not answer, and later each time. So whoever can do nothing but wait
//! does not end, and answers.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backend::BackendError;
use crate::backend::kubernetes::ConnectError;

/// Between two tries to reach an API that did not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Answers at the API's address until it is dropped.
pub(super) struct Standby(JoinHandle<()>);

impl Standby {
    /// `why` says what is waited for. From when `may_be_ready` on, `/` says that we are, as the page does that is there when
    /// we lead.
    pub(super) fn at(
        api: &TcpListener,
        why: Arc<Mutex<String>>,
        may_be_ready: CancellationToken,
    ) -> io::Result<Self> {
        // The same socket once more: when this one stops to accept, the other goes on.
        let listener = std::net::TcpListener::from(api.as_fd().try_clone_to_owned()?);
        let listener = TcpListener::from_std(listener)?;
        let waits = move |status| {
            let why = why.lock().unwrap_or_else(PoisonError::into_inner).clone();
            std::future::ready((status, format!("this controller waits; {why}\n")))
        };
        let page = {
            let waits = waits.clone();
            move || match may_be_ready.is_cancelled() {
                true => waits(StatusCode::OK),
                false => waits(StatusCode::SERVICE_UNAVAILABLE),
            }
        };
        let answers = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/", get(page))
            .fallback(move || waits(StatusCode::SERVICE_UNAVAILABLE));
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, answers).await {
                tracing::warn!(%error, "nobody is told that this controller waits");
            }
        });
        Ok(Self(serving))
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What `find` finds, once the cluster's API answers; every other failure is one.
pub(super) async fn until_it_answers<T>(
    api: &TcpListener,
    find: impl AsyncFn() -> Result<T, ConnectError>,
) -> anyhow::Result<T> {
    let why = Arc::new(Mutex::new(String::new()));
    let mut standby = None;
    loop {
        let error = match find().await {
            Err(ConnectError::Api(error @ BackendError::Unreachable { .. })) => error,
            found => return Ok(found?),
        };
        let told = format!("{:#}", anyhow::Error::new(error));
        let before =
            std::mem::replace(&mut *why.lock().unwrap_or_else(PoisonError::into_inner), told.clone());
        if before != told {
            tracing::warn!("{told}; it is waited for");
        }
        if standby.is_none() {
            let never = CancellationToken::new();
            let there = Standby::at(api, Arc::clone(&why), never);
            standby = Some(there.context("cannot answer while the cluster does not")?);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_well_and_answers_nothing_else() {
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = |path: &str| format!("http://{}{path}", api.local_addr().unwrap());
        let may_be_ready = CancellationToken::new();
        let why = Arc::new(Mutex::new("the-other leads".to_owned()));
        let standby = Standby::at(&api, why, may_be_ready.clone()).unwrap();
        assert_eq!(reqwest::get(at("/healthz")).await.unwrap().status(), 200);
        assert_eq!(reqwest::get(at("/")).await.unwrap().status(), 503);
        may_be_ready.cancel();
        assert_eq!(reqwest::get(at("/")).await.unwrap().status(), 200);
        let answer = reqwest::get(at("/readyz")).await.unwrap();
        assert_eq!(answer.status(), 503);
        insta::assert_snapshot!(answer.text().await.unwrap(), @"this controller waits; the-other leads");
        drop(standby);
        let (asked, ()) = tokio::join!(reqwest::get(at("/readyz")), async {
            // Whoever comes now is the API's.
            drop(api.accept().await.unwrap());
        });
        assert!(asked.is_err());
    }

    fn unreachable() -> ConnectError {
        ConnectError::Api(BackendError::Unreachable {
            engine: "Kubernetes at 10.0.0.1".to_owned(),
            operation: "version",
            source: "refused".into(),
        })
    }

    #[tokio::test]
    async fn an_api_that_does_not_answer_is_waited_for_and_the_kubelet_is_answered() {
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = |path: &str| format!("http://{}{path}", api.local_addr().unwrap());
        let tries = Mutex::new(0);
        let found = until_it_answers(&api, async || {
            *tries.lock().unwrap() += 1;
            if *tries.lock().unwrap() == 1 {
                return Err(unreachable());
            }
            assert_eq!(reqwest::get(at("/healthz")).await.unwrap().status(), 200);
            let answer = reqwest::get(at("/")).await.unwrap();
            assert_eq!(answer.status(), 503);
            Ok(answer.text().await.unwrap())
        });
        insta::assert_snapshot!(found.await.unwrap(), @"this controller waits; Kubernetes at 10.0.0.1 does not answer (version): refused");
    }

    #[tokio::test]
    async fn what_no_waiting_mends_is_said_at_once() {
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = || {
            let subject = "it".to_owned();
            ConnectError::Api(BackendError::Refused { operation: "version", subject, source: "403".into() })
        };
        assert!(until_it_answers(&api, async || Err::<(), _>(refused())).await.is_err());
    }
}
