//! How a door goes, step by step: pure.
//!
//! ```text
//! open ──told by a signal──► lingering ──time is up, or told again──► draining ──nobody is left, or a signal──► over
//!   │                                                                    ▲
//!   └──told by its controller, or there is no time to linger─────────────┘
//! ```
//!
//! Whoever sends clients to a door may learn later than the door that it is to go: a cluster sends the signal and tells
//! each node's kube-proxy at the same time, and until the last of them has heard, new connections come. A door that
//! *lingers* takes them in as before. It keeps its workers, makes each answer its connection's last, so that those who
//! ask again do so elsewhere, and lets its controller know that it is leaving, so that nobody new is sent to it.

use std::time::Duration;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It is not to go.
    Open,
    /// It serves on, for those who do not know yet.
    Lingering,
    /// It takes nobody in any more, and lets those who are there finish.
    Draining,
    /// Who is still there is cut off.
    Over,
}

/// What moves it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// SIGTERM or SIGINT.
    Signal,
    /// The controller's order: whoever gave it knows that no client is to come any more.
    Order,
    /// What it did has come to its end: the time to linger is up, or the drain is done.
    Done,
}

impl Stage {
    /// Where it is next. `linger`: for how long it serves on after a signal.
    pub(super) fn after(self, heard: Heard, linger: Duration) -> Self {
        match (self, heard) {
            (Self::Open, Heard::Signal) if !linger.is_zero() => Self::Lingering,
            (Self::Open | Self::Lingering, _) => Self::Draining,
            // It drains already.
            (Self::Draining, Heard::Order) => Self::Draining,
            (Self::Draining | Self::Over, _) => Self::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn goes(heard: &[Heard], linger: Duration) -> Vec<Stage> {
        let next = |stage: &mut Stage, heard: &Heard| {
            *stage = stage.after(*heard, linger);
            Some(*stage)
        };
        heard.iter().scan(Stage::Open, next).collect()
    }

    #[test]
    fn each_signal_is_a_step() {
        use Stage::{Draining, Lingering, Over};
        assert_eq!(goes(&[Heard::Signal; 3], SECOND), [Lingering, Draining, Over]);
        assert_eq!(goes(&[Heard::Signal; 2], Duration::ZERO), [Draining, Over]);
        assert_eq!(goes(&[Heard::Signal, Heard::Done, Heard::Done], SECOND), [Lingering, Draining, Over]);
    }

    #[test]
    fn who_is_ordered_to_go_does_not_linger_and_is_not_cut_off_by_another_order() {
        use Stage::{Draining, Lingering, Over};
        assert_eq!(goes(&[Heard::Order, Heard::Order, Heard::Done], SECOND), [Draining, Draining, Over]);
        assert_eq!(goes(&[Heard::Signal, Heard::Order], SECOND), [Lingering, Draining]);
    }

    proptest! {
        #[test]
        fn it_never_turns_back_and_nobody_is_cut_off_who_was_not_given_time(
            heard in proptest::collection::vec(
                prop_oneof![Just(Heard::Signal), Just(Heard::Order), Just(Heard::Done)], 0..8),
            linger in 0..2u32,
        ) {
            let stages = goes(&heard, SECOND * linger);
            prop_assert!(stages.is_sorted());
            if let Some(over) = stages.iter().position(|it| *it == Stage::Over) {
                prop_assert!(stages[..over].contains(&Stage::Draining), "{:?}", stages);
            }
        }
    }
}
