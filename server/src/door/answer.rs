//! What the door says to a client in a worker's place.
//!
//! Every one of these ends the connection: what the client has sent and nobody has read is dropped with it, so
//! that it cannot be taken for another request.

use serde::Serialize;

use super::client::Request;
use crate::http::answer::{AnswerHead, AnswerLength, Persistence};
use crate::http::reason;

/// An answer of the door, as RFC 9457 wants problems to be described.
#[derive(Debug, Serialize)]
pub(super) struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    /// The incident that is to blame: the dead worker's life.
    #[serde(skip_serializing_if = "Option::is_none")]
    incident: Option<&'a str>,
}

impl<'a> Problem<'a> {
    /// A problem that no worker is to blame for.
    pub(super) fn new(status: u16, detail: &dyn std::fmt::Display) -> Self {
        Self {
            kind: "about:blank",
            title: reason(status),
            status,
            detail: detail.to_string(),
            incident: None,
        }
    }

    /// A problem that the death of `incident` has caused.
    pub(super) fn of_incident(status: u16, detail: &dyn std::fmt::Display, incident: &'a str) -> Self {
        Self { incident: Some(incident), ..Self::new(status, detail) }
    }

    /// The whole answer to `request`.
    pub(super) fn answer(&self, request: &Request) -> Vec<u8> {
        // A structure of texts and numbers: it cannot fail to be written.
        let mut body = serde_json::to_vec(self).unwrap_or_default();
        body.push(b'\n');
        let mut answer = Vec::with_capacity(512);
        AnswerHead {
            status: self.status,
            content_type: "application/problem+json",
            length: AnswerLength::Known(body.len() as u64),
            persistence: Persistence::Close,
            extra: if self.status == 503 { "retry-after: 1\r\n" } else { "" },
        }
        .write(&mut answer);
        if !request.head_only {
            answer.extend(body);
        }
        answer
    }
}
