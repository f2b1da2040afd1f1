//! What is asked of the cluster's API, and how long to wait for each answer.
//!
//! Every call goes through [`ask`]: an API that stalls must not stall its caller, so each [`Operation`] has a deadline of
//! its own. Within it, the client tries again by itself what was throttled or met a server that was just going (429,
//! 503, 504), with growing waits. What remains becomes a [`BackendError`] that names the operation and the subject, and
//! that keeps apart an API which refused from one which did not answer. Being throttled to the end counts as no answer:
//! it is nobody's fault, and asking less is what helps.

use std::fmt::Display;
use std::time::Duration;

use kube::error::Status;
use tokio::time::timeout;

use crate::backend::BackendError;

/// What can be asked of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Version,
    Probe,
    Create,
    Delete,
    Read,
    List,
    ReadLog,
    Label,
}

/// Asks for one thing, and waits no longer for it than it deserves.
pub(super) async fn ask<T>(
    server: &str,
    operation: Operation,
    subject: impl Display,
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, BackendError> {
    match timeout(operation.deadline(), answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(fault(server, operation, &subject, error)),
        Err(elapsed) => Err(unreachable(server, operation, elapsed.into())),
    }
}

/// What an error of kube's means to us.
pub(super) fn fault(
    server: &str,
    operation: Operation,
    subject: &dyn Display,
    error: kube::Error,
) -> BackendError {
    match error {
        kube::Error::Api(status) if status.is_not_found() && operation.is_about_a_pod() => {
            BackendError::Gone { subject: subject.to_string() }
        }
        kube::Error::Api(status) if !is_no_answer(&status) => BackendError::Refused {
            operation: operation.verb(),
            subject: subject.to_string(),
            source: in_words(&status).into(),
        },
        other => unreachable(server, operation, other.into()),
    }
}

/// Throttled, or a gateway speaks for a server that is not there.
fn is_no_answer(status: &Status) -> bool {
    matches!(status.code, 429 | 502..=504)
}

/// The API's own words; its reason, where it has no others.
fn in_words(status: &Status) -> String {
    match (status.message.trim(), status.reason.as_str()) {
        ("", "") => format!("the API says {}", status.code),
        ("", reason) => reason.to_owned(),
        (message, _) => message.to_owned(),
    }
}

fn unreachable(
    server: &str,
    operation: Operation,
    source: Box<dyn std::error::Error + Send + Sync>,
) -> BackendError {
    BackendError::Unreachable { engine: server.to_owned(), operation: operation.verb(), source }
}

impl Operation {
    /// How long an answer is worth waiting for, the client's own further tries included.
    fn deadline(self) -> Duration {
        Duration::from_secs(match self {
            Self::Probe => 2,
            Self::Version | Self::Read | Self::ReadLog => 5,
            Self::Create | Self::Delete | Self::List | Self::Label => 10,
        })
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Version | Self::Probe => "reach",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Read => "read",
            Self::List => "list",
            Self::ReadLog => "read the log of",
            Self::Label => "label",
        }
    }

    /// Whether "not found" is said of the pod. `create` says it of the namespace.
    fn is_about_a_pod(self) -> bool {
        matches!(self, Self::Delete | Self::Read | Self::ReadLog | Self::Label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(operation: Operation, code: u16, reason: &str, message: &str) -> BackendError {
        let status = Status::failure(message, reason).with_code(code);
        fault("Kubernetes at https://k", operation, &"web-3.7", kube::Error::Api(status.boxed()))
    }

    #[test]
    fn a_refusal_a_loss_and_a_silence_are_told_apart() {
        let quota = "pods \"bulkhead-web-3-7\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2";
        let refused = said(Operation::Create, 403, "Forbidden", quota);
        assert!(matches!(&refused, BackendError::Refused { .. }), "{refused:?}");
        let told = format!("{:#}", anyhow::Error::from(refused));
        insta::assert_snapshot!(told, @r#"cannot create web-3.7: pods "bulkhead-web-3-7" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2"#);

        let gone = said(Operation::Delete, 404, "NotFound", "pods \"x\" not found");
        assert!(matches!(gone, BackendError::Gone { .. }), "{gone:?}");
        let no_namespace = said(Operation::Create, 404, "NotFound", "namespaces \"x\" not found");
        assert!(matches!(no_namespace, BackendError::Refused { .. }), "{no_namespace:?}");
        for code in [429, 502, 503, 504] {
            let silent = said(Operation::List, code, "", "");
            assert!(matches!(silent, BackendError::Unreachable { .. }), "{code}: {silent:?}");
        }
    }
}
