//! SIGINT, SIGTERM and SIGHUP: somebody wants us to go.
//!
//! The first one means drain, a second one means now; which is which is the caller's to count. A closed terminal
//! (SIGHUP) counts too: what runs in it would otherwise live on without a master.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end us, caught from its creation on.
#[derive(Debug)]
pub(super) struct Interrupts {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Interrupts {
    /// From now on these signals no longer end the process by themselves.
    pub(super) fn catch() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self {
            int: catch(SignalKind::interrupt())?,
            term: catch(SignalKind::terminate())?,
            hup: catch(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one and says which it was.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.int.recv() => "Ctrl-C",
            _ = self.term.recv() => "SIGTERM",
            _ = self.hup.recv() => "SIGHUP",
        }
    }

    /// As [`Self::next`], while `work` is being done, or has been.
    pub(super) async fn next_while(&mut self, work: impl Future<Output = ()>) -> &'static str {
        tokio::select! {
            biased;
            by = self.next() => return by,
            () = work => {}
        }
        self.next().await
    }

    /// What `work` comes to; `None` when one of the signals came first and the work was dropped.
    pub(super) async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = self.next() => None,
            done = work => Some(done),
        }
    }
}
