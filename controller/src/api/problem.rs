//! What the API answers when it does not do what was asked: RFC 9457, `application/problem+json`.
//!
//! `type` is for programs and never changes; `detail` is for people, names the thing and says what to do.

use std::fmt::Write as _;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::supervisor::CommandError;

/// An answer that says why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Which kind of problem it is: `urn:bulkhead:unknown-worker`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same in words, alike for all problems of the kind.
    pub title: String,
    /// The answer's status.
    pub status: u16,
    /// What exactly is wrong, and what to do about it.
    pub detail: String,
}

impl Problem {
    /// The media type of a problem.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";

    /// A problem of kind `slug`: the words of its title, joined by dashes.
    pub(super) fn new(status: StatusCode, slug: &str, detail: impl Into<String>) -> Self {
        let words = slug.replace('-', " ");
        let title =
            words.chars().take(1).map(|c| c.to_ascii_uppercase()).chain(words.chars().skip(1)).collect();
        Self { kind: format!("urn:bulkhead:{slug}"), title, status: status.as_u16(), detail: detail.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(Self::MEDIA_TYPE));
        response
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        let (status, slug) = match &error {
            CommandError::UnknownWorker(_) => (StatusCode::NOT_FOUND, "unknown-worker"),
            CommandError::UnknownPool { .. } => (StatusCode::NOT_FOUND, "unknown-pool"),
            CommandError::NotRunning(_) => (StatusCode::CONFLICT, "not-running"),
            CommandError::UnknownSignal(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad-signal"),
            CommandError::TooManyWorkers { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "bad-number"),
            CommandError::NotHttp(_) => (StatusCode::CONFLICT, "not-http"),
            CommandError::BadPath(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad-path"),
            CommandError::BadMethod { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "bad-method"),
            CommandError::BadRate { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "bad-number"),
            CommandError::DoorAway => (StatusCode::SERVICE_UNAVAILABLE, "door-away"),
            CommandError::Backend { .. } => (StatusCode::BAD_GATEWAY, "backend-failed"),
            CommandError::Silence { .. } => (StatusCode::GATEWAY_TIMEOUT, "backend-silent"),
            CommandError::Stopping | CommandError::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        Self::new(status, slug, with_causes(&error))
    }
}

/// The error and what caused it, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
