//! A door's process, whether it is our child or was there before us.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

/// A process, ours or inherited.
#[derive(Debug)]
pub(super) enum Process {
    Own(Child),
    Adopted(AsyncFd<OwnedFd>),
}

impl Process {
    /// Waits until it is gone and says how it went. May be asked again and again, and dropped.
    pub(super) async fn exited(&mut self) -> String {
        match self {
            Self::Own(child) => match child.wait().await {
                Ok(status) => format!("ended ({status})"),
                Err(error) => format!("is lost ({error})"),
            },
            Self::Adopted(pidfd) => match pidfd.readable().await {
                // Left as it is: a pidfd stays readable once its process is gone.
                Ok(mut ready) => {
                    ready.retain_ready();
                    "ended".to_owned()
                }
                Err(error) => format!("is lost ({error})"),
            },
        }
    }

    /// Sends a signal. Whom it does not reach is gone already.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = match self {
            Self::Own(child) => {
                // While we have not waited for it, its pid is nobody else's.
                match child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
                    Some(pid) => kill_process(pid, signal),
                    None => Ok(()),
                }
            }
            Self::Adopted(pidfd) => pidfd_send_signal(pidfd.get_ref(), signal),
        };
    }

    /// SIGTERM, and SIGKILL when it is still there after `patience`.
    pub(super) async fn end(&mut self, patience: Duration) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(patience, self.exited()).await.is_err() {
            self.signal(Signal::KILL);
            self.exited().await;
        }
    }
}
