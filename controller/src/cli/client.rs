//! The commands' way to the API: questions, orders, and what is said when there is no answer.
//!
//! A controller on loopback asks nobody who they are. Elsewhere it wants a token, which is read from a file or from
//! the environment: a command line can be read by every process of a machine, so there is no option for the token
//! itself.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::stream::SILENCE;
use crate::api::Problem;
use crate::api::views::WorkerView;

/// How long an answer may take. The controller itself waits for door and engine no longer than a few seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the stream of events is.
const EVENT_STREAM: &str = "text/event-stream";

/// The environment variable that carries the token itself.
const TOKEN: &str = "BULKHEAD_API_TOKEN";

/// Which controller to talk to.
#[derive(Debug, Args)]
pub(super) struct ApiArgs {
    /// The controller's API
    #[arg(long, env = "BULKHEAD_API", value_name = "URL", default_value = "http://127.0.0.1:9090")]
    api: ApiUrl,
    /// A file with the token that the controller wants; else BULKHEAD_API_TOKEN is the token, where it is set
    #[arg(long, env = "BULKHEAD_API_TOKEN_FILE", value_name = "PATH")]
    token_file: Option<PathBuf>,
}

/// Where an API is: `http://HOST:PORT`, and `HOST:PORT` for short.
#[derive(Debug, Clone)]
struct ApiUrl(Url);

/// A controller's API. A clone is another handle to the same connections.
#[derive(Debug, Clone)]
pub(super) struct Api {
    base: Url,
    /// For what is answered at once.
    http: reqwest::Client,
    /// For answers that do not end: only their silence has a bound.
    streaming: reqwest::Client,
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
    /// The controller wants to know who asks, and was not told, or is not convinced.
    #[error("{0}")]
    WhoAreYou(String),
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
        let mut headers = HeaderMap::new();
        if let Some(token) = self.token()? {
            headers.insert(AUTHORIZATION, token);
        }
        // A proxy that the environment names is for the world, not for a controller next door.
        let client = || reqwest::Client::builder().no_proxy().default_headers(headers.clone());
        Ok(Api {
            base: self.api.0.clone(),
            http: client().timeout(PATIENCE).build()?,
            streaming: client().connect_timeout(PATIENCE).read_timeout(SILENCE).build()?,
        })
    }

    /// Where the controller is.
    pub(super) fn address(&self) -> String {
        self.api.to_string()
    }

    /// The value of `Authorization`, where there is a token.
    fn token(&self) -> anyhow::Result<Option<HeaderValue>> {
        let (token, origin) = match &self.token_file {
            Some(path) => {
                let origin = path.display().to_string();
                (
                    std::fs::read_to_string(path)
                        .with_context(|| format!("cannot read the token in {origin}"))?,
                    origin,
                )
            }
            None => match std::env::var(TOKEN) {
                Ok(token) => (token, TOKEN.to_owned()),
                Err(std::env::VarError::NotPresent) => return Ok(None),
                Err(error) => bail!("{TOKEN} is no token: {error}"),
            },
        };
        let token = token.trim();
        if token.is_empty() || token.contains(|c: char| !c.is_ascii_graphic()) {
            bail!("{origin} holds no token: a token is one word of letters, digits and signs");
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
        value.set_sensitive(true);
        Ok(Some(value))
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
            Self::WhoAreYou(_) => {
                Some("give a token with --token-file PATH, BULKHEAD_API_TOKEN_FILE or BULKHEAD_API_TOKEN")
            }
            Self::Refused(_) => None,
        }
    }

    /// What is wrong, with its reason, on one line.
    pub(super) fn in_short(&self) -> String {
        match std::error::Error::source(self) {
            // Only the root of it: the HTTP client's own layers in between say nothing to anybody.
            Some(source) => format!("{self} ({})", root_cause(source)),
            None => self.to_string(),
        }
    }
}

/// What is behind an error.
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
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

    /// Connects to the stream of events; what follows `last` comes first. The answer is the stream.
    pub(super) async fn events(
        &self,
        query: &[(&str, String)],
        last: Option<&str>,
    ) -> Result<Response, ApiError> {
        let mut request = self.streaming.get(self.url(&["events"])).query(query).header(ACCEPT, EVENT_STREAM);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        let streams =
            media_type(&response).split(';').next().is_some_and(|essence| essence.trim() == EVENT_STREAM);
        match response.status().is_success() && streams {
            true => Ok(response),
            false => Err(self.refusal(response).await),
        }
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // One segment at a time, so that a name with a slash in it stays one name.
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        url
    }

    fn request(&self, method: Method, path: &[&str]) -> reqwest::RequestBuilder {
        self.http.request(method, self.url(path))
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, ApiError> {
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let stranger = NotOurs { status: response.status(), media_type: media_type(&response) };
        let body = response.bytes().await.map_err(|source| self.unreachable(source))?;
        serde_json::from_slice(&body)
            .map_err(|_| ApiError::NotBulkhead { api: self.address(), source: stranger })
    }

    /// What an answer that is not the wanted one says.
    async fn refusal(&self, response: Response) -> ApiError {
        let stranger = NotOurs { status: response.status(), media_type: media_type(&response) };
        if stranger.media_type == Problem::MEDIA_TYPE {
            let body = match response.bytes().await {
                Ok(body) => body,
                Err(source) => return self.unreachable(source),
            };
            if let Ok(problem) = serde_json::from_slice::<Problem>(&body) {
                return match stranger.status {
                    StatusCode::UNAUTHORIZED => ApiError::WhoAreYou(problem.detail),
                    _ => ApiError::Refused(problem.detail),
                };
            }
        }
        ApiError::NotBulkhead { api: self.address(), source: stranger }
    }

    fn unreachable(&self, source: reqwest::Error) -> ApiError {
        ApiError::Unreachable { api: self.address(), source }
    }

    fn address(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }
}

fn media_type(response: &Response) -> String {
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media_type.unwrap_or("no content type").to_owned()
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
