//! One end of a tunnel, the same at the door and at the worker: what is on its way out, and whether the other side lives.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::frame::{Frame, MOST_DATA, Pace};
use crate::link::Sent;

/// Bytes that may wait for the network before the other side counts as one that does not read.
const MOST_WAITING: usize = 512 * 1024;

/// One end of a tunnel.
#[derive(Debug)]
pub(crate) struct End {
    pace: Cell<Pace>,
    /// Frames on their way out.
    out: RefCell<Vec<u8>>,
    /// Rung when there is something in `out`, or when there will be nothing more.
    outgoing: Notify,
    state: Cell<State>,
    heard: Cell<Instant>,
    /// Why writing has failed.
    failure: RefCell<Option<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// What is in `out` is the last.
    Closing,
    Over,
}

impl End {
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            pace: Cell::new(pace),
            out: RefCell::default(),
            outgoing: Notify::new(),
            state: Cell::new(State::Open),
            heard: Cell::new(Instant::now()),
            failure: RefCell::default(),
        }
    }

    pub(crate) fn pace(&self) -> Pace {
        self.pace.get()
    }

    /// Learns how the door keeps this tunnel.
    pub(crate) fn keep_pace(&self, pace: Pace) {
        self.pace.set(pace);
    }

    /// Bytes of a turn that may be under way in each direction.
    pub(crate) fn window(&self) -> usize {
        self.pace.get().window as usize
    }

    /// Sends a frame, as soon as the network takes it. Never waits.
    pub(crate) fn post(&self, frame: &Frame<'_>) -> Sent {
        if self.state.get() != State::Open {
            return Sent::Closed;
        }
        if self.out.borrow().len() > MOST_WAITING {
            return Sent::Full;
        }
        self.post_at_any_rate(frame);
        Sent::Whole
    }

    /// The same for what is bounded elsewhere, by a window or by credit.
    pub(crate) fn post_at_any_rate(&self, frame: &Frame<'_>) {
        if self.state.get() == State::Open {
            frame.encode(&mut self.out.borrow_mut());
            self.outgoing.notify_one();
        }
    }

    /// Whether so much is on its way that no more data should be read to be sent.
    pub(crate) fn is_clogged(&self) -> bool {
        self.out.borrow().len() > MOST_WAITING / 2
    }

    /// Nothing more is sent than what has been posted.
    pub(crate) fn close(&self) {
        self.state.set(State::Closing);
        self.outgoing.notify_one();
    }

    /// It is over; what is posted is forgotten.
    pub(crate) fn give_up(&self) {
        self.state.set(State::Over);
    }

    /// Why writing has failed, if it has, for any other reason than that the other side has ended.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Something has come from the other side.
    pub(crate) fn has_heard(&self) {
        self.heard.set(Instant::now());
    }

    /// Writes what is posted, and returns when the end has been closed and everything is out. `made_room` is called
    /// whenever some of it has gone. Where writing fails it waits for ever: whoever reads sees why.
    pub(crate) async fn speak(&self, mut to: impl AsyncWrite + Unpin, made_room: impl Fn()) {
        let mut sending = Vec::new();
        loop {
            std::mem::swap(&mut sending, &mut *self.out.borrow_mut());
            if sending.is_empty() {
                if self.state.get() == State::Closing {
                    let _ = to.shutdown().await;
                    return;
                }
                self.outgoing.notified().await;
                continue;
            }
            let written = async {
                to.write_all(&sending).await?;
                to.flush().await
            };
            if let Err(error) = written.await {
                // Behind the other side's end nothing can be written, which is no failure of the connection's.
                if error.kind() != io::ErrorKind::BrokenPipe {
                    *self.failure.borrow_mut() = Some(error.to_string());
                }
                std::future::pending::<()>().await;
            }
            sending.clear();
            sending.shrink_to(2 * MOST_DATA);
            made_room();
        }
    }

    /// Gives signs of life, and returns when there has been none from the other side for too long, `patience` times over:
    /// for how long. `doubt` is called once in each silence, when half of that time is up.
    ///
    /// Half is enough for this: all who are on a machine that has died were heard of within one heartbeat, and a heartbeat
    /// is a third of `lost_after` at the most. So when the first of them is lost, the others are in doubt.
    pub(crate) async fn keep_watch(&self, patience: u32, doubt: impl Fn()) -> Duration {
        let mut beaten = Instant::now();
        let mut doubted = None;
        loop {
            let Pace { heartbeat, lost_after, .. } = self.pace();
            let patience = lost_after * patience;
            let heard = self.heard.get();
            let due = if doubted == Some(heard) { patience } else { patience / 2 };
            // It is lost when its time is up, not at the first beat after that.
            let wake = (beaten + heartbeat).min(heard + due);
            sleep_until(wake).await;
            let now = Instant::now();
            // If it was us who was stopped, there may be things to hear that we have not come to.
            if now.saturating_duration_since(wake) > heartbeat {
                self.heard.set(now);
            }
            let silent = now.saturating_duration_since(self.heard.get());
            if silent >= patience {
                return silent;
            }
            if silent >= patience / 2 && doubted.replace(self.heard.get()) != Some(self.heard.get()) {
                doubt();
            }
            if now >= beaten + heartbeat {
                beaten = now;
                self.post(&Frame::Beat);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_silent_are_lost_when_their_time_is_up_and_not_at_the_next_beat() {
        let (heartbeat, lost_after) = (Duration::from_secs(2), Duration::from_millis(2_100));
        let end = End::new(Pace { heartbeat, lost_after, window: 0 });
        let (began, doubted) = (Instant::now(), Cell::new(Vec::new()));
        let silent =
            end.keep_watch(1, || doubted.set([doubted.take(), vec![began.elapsed()]].concat())).await;
        assert!(silent < 2 * heartbeat, "it waited for the next beat");
        let doubted = doubted.take();
        assert!(doubted.len() == 1 && doubted[0] < heartbeat, "it was in doubt after {doubted:?}");
        assert!(!end.out.borrow().is_empty(), "it gave no sign of life itself");
    }
}
