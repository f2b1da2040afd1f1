//! Who may keep the engine busy.
//!
//! A start costs about a tenth of a second of processor time, most of it in the engine's helpers. When a whole pool
//! dies at once, starting all of its workers side by side makes the first one as late as the last. So starts are
//! bounded, and removals, for which nobody waits, stand back while there is a start under way - for a while, so
//! that a pool that dies without end cannot fill the disk with its dead.

use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;

/// How long a removal stands back at most.
const STANDS_BACK: Duration = Duration::from_millis(500);

/// The turnstile before the engine.
#[derive(Debug)]
pub(super) struct Pace {
    starts: Semaphore,
    removals: Semaphore,
    starting: watch::Sender<usize>,
}

/// Leave to start one container; given back when dropped.
#[derive(Debug)]
pub(super) struct Starting<'a> {
    starting: &'a watch::Sender<usize>,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Pace {
    /// One start a processor, two at least.
    pub(super) fn new() -> Self {
        let starts = available_parallelism().map_or(2, |n| n.get().max(2));
        Self { starts: Semaphore::new(starts), removals: Semaphore::new(1), starting: watch::Sender::new(0) }
    }

    /// Waits for leave to start a container; `None` when no more are to be started.
    pub(super) async fn start(&self) -> Option<Starting<'_>> {
        // Counted from here on, so that a removal stands back for starts that wait as well.
        self.starting.send_modify(|n| *n += 1);
        let mut leave = Starting { starting: &self.starting, _permit: None };
        leave._permit = Some(self.starts.acquire().await.ok()?);
        Some(leave)
    }

    /// Gives no more leave to start any, not even to those who wait for it.
    pub(super) fn close(&self) {
        self.starts.close();
    }

    /// Waits for leave to remove a container.
    pub(super) async fn remove(&self) -> Option<SemaphorePermit<'_>> {
        let permit = self.removals.acquire().await.ok();
        let mut starting = self.starting.subscribe();
        let _ = timeout(STANDS_BACK, starting.wait_for(|&n| n == 0)).await;
        permit
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.starting.send_modify(|n| *n -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_removal_stands_back_for_a_start() {
        let pace = Pace::new();
        assert!(pace.remove().now_or_never().is_some(), "there is nothing to stand back for");
        let start = pace.start().await;
        assert!(start.is_some());
        assert!(pace.remove().now_or_never().is_none(), "a start is under way");
        let removal = pace.remove();
        drop(start);
        assert!(removal.now_or_never().is_some(), "the start is over");
    }

    #[tokio::test]
    async fn starts_are_bounded_and_one_that_gives_up_leaves_no_trace() {
        let pace = Pace::new();
        let mut starts = Vec::new();
        while let Some(start) = pace.start().now_or_never() {
            starts.push(start);
        }
        assert!(starts.len() >= 2);
        starts.clear();
        assert!(pace.start().now_or_never().is_some_and(|leave| leave.is_some()));
        assert!(pace.remove().now_or_never().is_some());
    }

    #[tokio::test]
    async fn whoever_waits_when_it_closes_is_turned_away_and_whoever_has_begun_goes_on() {
        let pace = Pace::new();
        let mut begun = Vec::new();
        while let Some(start) = pace.start().now_or_never() {
            begun.push(start);
        }
        let waits = pace.start();
        pace.close();
        assert!(waits.await.is_none());
        assert!(
            pace.remove().now_or_never().is_none(),
            "a removal still stands back for those that have begun"
        );
        begun.clear();
        assert!(pace.start().await.is_none());
        assert!(pace.remove().now_or_never().is_some());
    }
}
