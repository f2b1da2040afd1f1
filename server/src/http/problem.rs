//! What a client is told when its request is not served: by the door in a worker's place, or by a worker that reads
//! requests itself.
//!
//! Every one of these ends the connection: what the client has sent and nobody has read is dropped with it, so
//! that it cannot be taken for another request.

use serde::Serialize;

use super::answer::{AnswerHead, AnswerLength, Persistence};
use super::{Refusal, reason};

/// An answer that is none, as RFC 9457 wants problems to be described.
#[derive(Debug, Serialize)]
pub struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    /// The incident that is to blame: the dead worker's life.
    #[serde(skip_serializing_if = "Option::is_none")]
    incident: Option<&'a str>,
}

/// Whether the answer to a request has a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AnswerBody {
    /// It has.
    #[default]
    Sent,
    /// It has not, for the request's method is HEAD.
    Omitted,
}

impl AnswerBody {
    /// For the request that `bytes` begin with, as far as one can tell: it need not be well-formed.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.trim_ascii_start().starts_with(b"HEAD ") { Self::Omitted } else { Self::Sent }
    }
}

impl<'a> Problem<'a> {
    /// A problem that no worker is to blame for.
    pub fn new(status: u16, detail: &dyn std::fmt::Display) -> Self {
        Self {
            kind: "about:blank",
            title: reason(status),
            status,
            detail: detail.to_string(),
            incident: None,
        }
    }

    /// A problem that the death of `incident` has caused.
    pub fn of_incident(status: u16, detail: &dyn std::fmt::Display, incident: &'a str) -> Self {
        Self { incident: Some(incident), ..Self::new(status, detail) }
    }

    /// The whole answer.
    pub fn answer(&self, body: AnswerBody) -> Vec<u8> {
        // A structure of texts and numbers: it cannot fail to be written.
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.push(b'\n');
        let mut answer = Vec::with_capacity(512);
        AnswerHead {
            status: self.status,
            content_type: "application/problem+json",
            length: AnswerLength::Known(text.len() as u64),
            persistence: Persistence::Close,
            extra: if self.status == 503 { "retry-after: 1\r\n" } else { "" },
        }
        .write(&mut answer);
        if body == AnswerBody::Sent {
            answer.extend(text);
        }
        answer
    }
}

impl From<Refusal> for Problem<'_> {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status(), &refusal)
    }
}
