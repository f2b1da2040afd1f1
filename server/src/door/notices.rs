//! What the door has to tell its controller, kept while none is listening.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use tokio::sync::Notify;

use crate::control::Notice;

/// How many notices are kept. Beyond that the oldest are dropped: a controller that was away for so long learns the
/// truth from its backend, and has lost some of history.
const MOST: usize = 4096;
/// Beyond that, what is only for the log is not kept: anybody who reaches the link socket can cause it, and it must not
/// crowd out who has died of what.
const MOST_WITH_CHATTER: usize = MOST / 2;

/// A bounded queue of notices.
#[derive(Debug, Default)]
pub(super) struct Notices {
    kept: RefCell<VecDeque<Notice>>,
    dropped: Cell<u64>,
    posted: Notify,
}

impl Notices {
    /// Adds a notice.
    pub(super) fn post(&self, notice: Notice) {
        let mut kept = self.kept.borrow_mut();
        let chatter = matches!(notice, Notice::Refused { .. } | Notice::Panicked { .. });
        if chatter && kept.len() >= MOST_WITH_CHATTER {
            self.dropped.set(self.dropped.get() + 1);
            return;
        }
        if kept.len() == MOST {
            kept.pop_front();
            self.dropped.set(self.dropped.get() + 1);
        }
        kept.push_back(notice);
        self.posted.notify_one();
    }

    /// Puts one back that could not be told.
    pub(super) fn put_back(&self, notice: Notice) {
        self.kept.borrow_mut().push_front(notice);
    }

    /// Whether there are none that have not been taken.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.borrow().is_empty()
    }

    /// Takes all that there are.
    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<Notice> {
        self.kept.take().into()
    }

    /// Takes the oldest, waiting for it if need be.
    pub(super) async fn next(&self) -> Notice {
        loop {
            if let Some(notice) = self.kept.borrow_mut().pop_front() {
                let dropped = self.dropped.replace(0);
                if dropped > 0 {
                    tracing::warn!(dropped, "notices were dropped while no controller was listening");
                }
                return notice;
            }
            self.posted.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn strangers_do_not_crowd_out_what_matters() {
        let notices = Notices::default();
        notices.post(Notice::Stopping);
        for _ in 0..2 * MOST {
            notices.post(Notice::Refused { claimed: None, detail: "it said no hello".to_owned() });
        }
        notices.post(Notice::Stopping);
        assert_eq!(notices.next().await, Notice::Stopping, "the oldest was dropped");
        assert_eq!(notices.kept.borrow().back(), Some(&Notice::Stopping), "the newest was not taken");
        assert!(notices.kept.borrow().len() <= MOST_WITH_CHATTER);
    }
}
