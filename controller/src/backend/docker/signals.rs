//! How a signal gets to a worker in its container.
//!
//! The engine signals process 1, which is the init. That one passes on what it can catch. It cannot catch SIGKILL,
//! which takes everything with it, as it should; nor SIGSTOP, which would stop the init alone, so a pause stops every
//! process instead, and SIGCONT resumes. The signals of faults and of a terminal it keeps to itself: those are refused
//! here, because a signal that silently does nothing is worse.

use bollard::query_parameters::KillContainerOptionsBuilder;
use rustix::process::Signal;
use server::identity::Incarnation;
use thiserror::Error;

use super::DockerBackend;
use super::calls::Operation;
use super::engine::Init;
use crate::backend::BackendError;

/// The signals that the init in a container does not pass on: those of faults, and of a terminal.
const KEPT_BY_THE_INIT: [Signal; 10] = [
    Signal::ILL,
    Signal::TRAP,
    Signal::ABORT,
    Signal::BUS,
    Signal::FPE,
    Signal::SEGV,
    Signal::CHILD,
    Signal::TTIN,
    Signal::TTOU,
    Signal::SYS,
];

/// A signal cannot reach the worker.
#[derive(Debug, Error)]
#[error(
    "signal {0} does not pass through the container's init: use another, such as SIGTERM, SIGKILL or SIGSTOP"
)]
pub struct NotForwarded(i32);

/// How a signal gets to the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Kill,
    Pause,
    Resume,
    Impossible,
}

/// Whether every process of a container stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paused {
    Yes,
    No,
}

impl DockerBackend {
    /// Sends a signal to the worker, or does what comes to the same.
    pub(super) async fn deliver(
        &self,
        life: &Incarnation,
        id: &str,
        signal: i32,
    ) -> Result<(), BackendError> {
        match Delivery::of(signal, self.engine.init()) {
            Delivery::Kill => self.kill(life, id, &signal.to_string()).await,
            Delivery::Pause => self.pause(life, id, Paused::Yes).await,
            Delivery::Resume => self.pause(life, id, Paused::No).await,
            Delivery::Impossible => Err(BackendError::Refused {
                operation: "signal",
                subject: life.to_string(),
                source: NotForwarded(signal).into(),
            }),
        }
    }

    async fn kill(&self, life: &Incarnation, id: &str, signal: &str) -> Result<(), BackendError> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        self.engine.ask(Operation::Kill, life, self.engine.docker().kill_container(id, Some(options))).await
    }

    /// Pauses or resumes a container. One that is so already is fine.
    async fn pause(&self, life: &Incarnation, id: &str, wanted: Paused) -> Result<(), BackendError> {
        let docker = self.engine.docker();
        let done = match wanted {
            Paused::Yes => self.engine.ask(Operation::Pause, life, docker.pause_container(id)).await,
            Paused::No => self.engine.ask(Operation::Resume, life, docker.unpause_container(id)).await,
        };
        let Err(refused @ BackendError::Refused { .. }) = done else { return done };
        let inspected = self.engine.ask(Operation::Inspect, life, docker.inspect_container(id, None)).await?;
        let paused = inspected.state.and_then(|state| state.paused);
        if paused == Some(wanted == Paused::Yes) { Ok(()) } else { Err(refused) }
    }
}

impl Delivery {
    fn of(signal: i32, init: Init) -> Self {
        match (Signal::from_named_raw(signal), init) {
            (Some(Signal::STOP), _) => Self::Pause,
            (Some(Signal::CONT), _) => Self::Resume,
            (Some(signal), Init::Reaper) if KEPT_BY_THE_INIT.contains(&signal) => Self::Impossible,
            _ => Self::Kill,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_init_keeps_is_refused_only_where_there_is_one() {
        for (signal, through_an_init, without) in [
            (9, Delivery::Kill, Delivery::Kill),
            (15, Delivery::Kill, Delivery::Kill),
            (19, Delivery::Pause, Delivery::Pause),
            (18, Delivery::Resume, Delivery::Resume),
            (11, Delivery::Impossible, Delivery::Kill),
            (6, Delivery::Impossible, Delivery::Kill),
        ] {
            assert_eq!(Delivery::of(signal, Init::Reaper), through_an_init, "signal {signal}");
            assert_eq!(Delivery::of(signal, Init::None), without, "signal {signal}");
        }
    }
}
