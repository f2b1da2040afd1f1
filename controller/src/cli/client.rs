//! The commands' way to the API: questions, orders, and what is said when there is no answer.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::api::Problem;
use crate::api::views::WorkerView;

/// How long an answer may take. The controller itself waits for door and engine no longer than a few seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which controller to talk to.
#[derive(Debug, Args)]
pub(super) struct ApiArgs {
    /// The controller's API
    #[arg(long, env = "BULKHEAD_API", value_name = "URL", default_value = "http://127.0.0.1:9090")]
    api: ApiUrl,
}

/// Where an API is: `http://HOST:PORT`, and `HOST:PORT` for short.
#[derive(Debug, Clone)]
struct ApiUrl(Url);

/// A controller's API.
#[derive(Debug)]
pub(super) struct Api {
    base: Url,
    http: reqwest::Client,
}

/// Why the API did not do what it was asked.
#[derive(Debug, Error)]
pub(super) enum ApiError {
    /// Nobody answers there.
    #[error("no controller answers at {api}")]
    Unreachable {
        /// Where.
        api: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Somebody answers, in words that are not ours.
    #[error("what answers at {api} is not a Bulkhead controller")]
    NotBulkhead {
        /// Where.
        api: String,
        /// What came instead.
        #[source]
        source: NotOurs,
    },
    /// The controller refuses, and says why.
    #[error("{0}")]
    Refused(String),
}

/// An answer that no controller gives.
#[derive(Debug, Error)]
#[error("it answered with status {}, {media_type}", status.as_u16())]
pub(super) struct NotOurs {
    status: StatusCode,
    media_type: String,
}

impl ApiArgs {
    /// A client for it. Connects to nothing yet.
    pub(super) fn connect(&self) -> anyhow::Result<Api> {
        // A proxy that the environment names is for the world, not for a controller next door.
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        Ok(Api { base: self.api.0.clone(), http })
    }
}

impl ApiError {
    /// What to do about it, where the error does not say so itself.
    pub(super) fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => {
                Some("start one with `bulkhead up`, or say where it is with --api URL or BULKHEAD_API")
            }
            Self::NotBulkhead { .. } => Some("say where the controller is with --api URL or BULKHEAD_API"),
            Self::Refused(_) => None,
        }
    }
}

impl Api {
    /// Asks: `get(["workers", "web-3"], &[])`.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T, ApiError> {
        self.answer(self.request(Method::GET, path).query(query)).await
    }

    /// Orders.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        order: &impl Serialize,
    ) -> Result<T, ApiError> {
        self.answer(self.request(Method::POST, path).json(order)).await
    }

    /// All workers, of one pool when one is named. A pool that does not exist is refused by name.
    pub(super) async fn workers(&self, pool: Option<&str>) -> Result<Vec<WorkerView>, ApiError> {
        let mut workers: Vec<WorkerView> = self.get(&["workers"], &[]).await?;
        if let Some(pool) = pool {
            let pools: Vec<crate::api::views::PoolView> = self.get(&["pools"], &[]).await?;
            if !pools.iter().any(|known| known.name == pool) {
                let known: Vec<_> = pools.into_iter().map(|pool| pool.name).collect();
                return Err(ApiError::Refused(format!(
                    "there is no pool {pool}; there are {}",
                    known.join(", ")
                )));
            }
            workers.retain(|worker| worker.pool == pool);
        }
        Ok(workers)
    }

    fn request(&self, method: Method, path: &[&str]) -> reqwest::RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // One segment at a time, so that a name with a slash in it stays one name.
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        self.http.request(method, url)
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, ApiError> {
        let api = || self.base.as_str().trim_end_matches('/').to_owned();
        let unreachable = |source| ApiError::Unreachable { api: api(), source };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or("no content type").to_owned();
        let body = response.bytes().await.map_err(unreachable)?;
        if media_type == Problem::MEDIA_TYPE
            && let Ok(problem) = serde_json::from_slice::<Problem>(&body)
        {
            return Err(ApiError::Refused(problem.detail));
        }
        serde_json::from_slice(&body)
            .ok()
            .filter(|_| status.is_success())
            .ok_or_else(|| ApiError::NotBulkhead { api: api(), source: NotOurs { status, media_type } })
    }
}

impl FromStr for ApiUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let example = "it looks like http://127.0.0.1:9090";
        let url: Url = with_scheme.parse().map_err(|error| format!("{error}: {example}"))?;
        match url.scheme() {
            "http" if url.host_str().is_some() => Ok(Self(url)),
            "https" => Err(format!("the API speaks plain http: {example}")),
            scheme => Err(format!("{scheme:?} is not spoken here: {example}")),
        }
    }
}

impl std::fmt::Display for ApiUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}
