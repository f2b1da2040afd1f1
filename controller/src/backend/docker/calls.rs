//! What is asked of the engine, and how long to wait for each answer.
//!
//! Every call goes through [`Engine::ask`]: an engine that stalls must not stall its caller, so each [`Operation`]
//! has a deadline of its own. bollard's own time-out, 120 s unless told otherwise, covers only the head of an answer.
//! Its errors become [`BackendError`]s here that name the operation and the subject, and that keep apart an engine
//! which refused from one which did not answer.

use std::fmt::Display;
use std::time::Duration;

use bollard::errors::Error as EngineError;
use tokio::time::timeout;

use super::engine::Engine;
use crate::backend::BackendError;

/// What can be asked of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Ping,
    Create,
    Start,
    Kill,
    Pause,
    Resume,
    Remove,
    Inspect,
    List,
    ReadLog,
    FindNetwork,
    FindImage,
    ListImages,
    RemoveImage,
    LoadImage,
    Listen,
}

impl Engine {
    /// Asks for one thing, and waits no longer for it than it deserves.
    pub(super) async fn ask<T>(
        &self,
        operation: Operation,
        subject: impl Display,
        answer: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, BackendError> {
        match timeout(operation.deadline(), answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.fault(operation, &subject, error)),
            Err(elapsed) => Err(self.unreachable(operation, elapsed.into())),
        }
    }

    /// Whether the engine answers at this moment.
    pub(super) async fn ping(&self) -> Result<(), BackendError> {
        self.ask(Operation::Ping, "the engine", self.docker().ping()).await.map(drop)
    }

    /// What an error of bollard's means to us.
    pub(super) fn fault(
        &self,
        operation: Operation,
        subject: &dyn Display,
        error: EngineError,
    ) -> BackendError {
        match error {
            EngineError::DockerResponseServerError { status_code: 404, .. }
                if operation.is_about_a_container() =>
            {
                BackendError::Gone { subject: subject.to_string() }
            }
            // A container that is not running any more cannot be killed any more.
            EngineError::DockerResponseServerError { status_code: 409, .. }
                if operation == Operation::Kill =>
            {
                BackendError::Gone { subject: subject.to_string() }
            }
            // 502 to 504 come from a proxy in front of an engine that is not there.
            EngineError::DockerResponseServerError { status_code, message }
                if !(502..=504).contains(&status_code) =>
            {
                BackendError::Refused {
                    operation: operation.verb(),
                    subject: subject.to_string(),
                    source: message.trim().into(),
                }
            }
            EngineError::DockerStreamError { error } => BackendError::Refused {
                operation: operation.verb(),
                subject: subject.to_string(),
                source: error.into(),
            },
            other => self.unreachable(operation, other.into()),
        }
    }

    pub(super) fn unreachable(
        &self,
        operation: Operation,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) -> BackendError {
        BackendError::Unreachable { engine: self.name(), operation: operation.verb(), source }
    }
}

impl Operation {
    /// How long an answer is worth waiting for. A container's start takes 0.1 s on an idle machine and many times that
    /// on a crowded one; only an image is sent for longer than seconds.
    pub(super) fn deadline(self) -> Duration {
        Duration::from_secs(match self {
            Self::Ping | Self::Listen => 2,
            Self::Inspect | Self::ReadLog | Self::FindNetwork | Self::FindImage | Self::ListImages => 5,
            Self::List | Self::Kill | Self::Pause | Self::Resume => 10,
            Self::Create | Self::Start | Self::Remove | Self::RemoveImage => 20,
            Self::LoadImage => 300,
        })
    }

    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Ping => "reach",
            Self::Create => "create",
            Self::Start => "start",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Remove | Self::RemoveImage => "remove",
            Self::Inspect => "inspect",
            Self::List | Self::ListImages => "list",
            Self::ReadLog => "read the log of",
            Self::FindNetwork | Self::FindImage => "find",
            Self::LoadImage => "load",
            Self::Listen => "listen to",
        }
    }

    /// Whether "not found" is said of the container. `create` and `start` say it of an image or a network.
    fn is_about_a_container(self) -> bool {
        matches!(self, Self::Kill | Self::Pause | Self::Resume | Self::Remove | Self::Inspect | Self::ReadLog)
    }
}
