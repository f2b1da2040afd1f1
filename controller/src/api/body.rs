//! What clients send in a body, and what they are told when it was taken.
//!
//! Orders are read by [`Order`], the only way for a body into this program: bounded in size and time, declared as
//! JSON, without keys that we do not know. A misspelt key is an error here rather than a default in silence.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::Scope;
use super::problem::Problem;
use crate::backend::BackendKind;

/// The largest body that is read, in bytes.
const LARGEST: usize = 64 << 10;

/// How long a client may take to send it.
const PATIENCE: Duration = Duration::from_secs(10);

/// `POST /api/v1/workers/{id}/kill`. An empty body means the same as `{}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KillOrder {
    /// A name such as `SIGKILL` or `TERM`, or a number as text.
    pub signal: String,
}

impl Default for KillOrder {
    fn default() -> Self {
        Self { signal: "SIGKILL".to_owned() }
    }
}

/// The answer to a [`KillOrder`] that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Killed {
    /// The worker.
    pub worker: String,
    /// The signal that it was sent, by its full name.
    pub signal: String,
}

/// The answer to a drain that has begun. Its order has no content: an empty body, or `{}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Draining {
    /// The worker.
    pub worker: String,
}

/// `POST /api/v1/pools/{name}/scale`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleOrder {
    /// How many workers the pool is to have.
    pub workers: u32,
}

/// The answer to a [`ScaleOrder`] that was taken; it is reached later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Scaled {
    /// The pool.
    pub pool: String,
    /// How many workers it is to have now.
    pub workers: u32,
}

/// `POST /api/v1/pools/{name}/request`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestOrder {
    /// What for, from the `/` on, escaped as in a request line.
    pub path: String,
    /// `GET` unless another is given. There is no body.
    #[serde(default = "RequestOrder::usual_method")]
    pub method: String,
}

impl RequestOrder {
    fn usual_method() -> String {
        "GET".to_owned()
    }
}

/// The answer to a [`RequestOrder`] that was passed on to the door. What became of it shows where every request's does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Requested {
    /// The pool.
    pub pool: String,
    /// Method and path.
    pub request: String,
}

/// `PUT /api/v1/pools/{name}/trickle`. It takes the place of the trickle that the pool has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrickleOrder {
    /// What to `GET`, from the `/` on, escaped as in a request line.
    pub path: String,
    /// How often: 0.1 to 50.
    pub per_second: f64,
}

/// The answer to a [`TrickleOrder`] that was passed on to the door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Trickling {
    /// The pool.
    pub pool: String,
    /// What is asked for.
    pub path: String,
    /// How often.
    pub per_second: f64,
}

/// The answer to an order to end a trickle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrickleEnded {
    /// The pool.
    pub pool: String,
}

/// `GET /api/v1/whoami`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// What the asker may do.
    pub scope: Scope,
    /// Where workers run.
    #[schema(value_type = String, example = "docker")]
    pub backend: BackendKind,
    /// Bulkhead's version.
    pub version: String,
}

/// An order without content.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Empty {}

/// A body that says `T`.
pub(super) struct Order<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Order<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let declared = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !declared.is_some_and(is_json) {
            // Browsers send a plain form or text anywhere without asking; JSON they must ask for first.
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not-json",
                "send this with `content-type: application/json`",
            ));
        }
        let bytes = match tokio::time::timeout(PATIENCE, read(request.into_body())).await {
            Ok(read) => read?,
            Err(_) => {
                return Err(Problem::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "slow-body",
                    format!("the body did not arrive within {} s", PATIENCE.as_secs()),
                ));
            }
        };
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { bytes.as_slice() };
        serde_json::from_slice(text).map(Self).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, "bad-body", format!("the body is not as expected: {error}"))
        })
    }
}

/// `application/json`, with or without parameters.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// The whole body, if it is not too large.
async fn read(body: Body) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, "bad-body", format!("the body could not be read: {error}"))
        })?;
        if bytes.len() + piece.len() > LARGEST {
            let detail = format!("a body may have {} KiB at most", LARGEST >> 10);
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}
