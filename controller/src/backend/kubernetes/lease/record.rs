//! What stands on a lease, and what is to be done about it. Pure: it asks nobody, and is told the time.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use super::GOOD_FOR;

/// Under which annotation of the lease what is left for the next one stands.
const WORD: &str = "bulkhead.io/scaled";

/// What is to be done about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is somebody else's.
    Follow,
    /// It is ours already.
    Renew,
    /// It can be had.
    Take,
    /// It is not needed any more.
    Release,
}

/// Pure: what to do about a lease that has not changed for so long, as far as we have seen.
pub(super) fn decide(there: Option<&Lease>, us: &str, unchanged_for: Duration) -> Step {
    let Some(holder) = there.and_then(holder) else { return Step::Take };
    if holder == us {
        return Step::Renew;
    }
    // Whoever holds it says how long it is good for; never do we wait less than we promise ourselves.
    let good_for = there.and_then(|lease| lease.spec.as_ref()?.lease_duration_seconds);
    let good_for =
        good_for.and_then(|seconds| u64::try_from(seconds).ok()).map_or(GOOD_FOR, Duration::from_secs);
    if unchanged_for >= good_for.max(GOOD_FOR) { Step::Take } else { Step::Follow }
}

/// Pure: the lease after `step`.
pub(super) fn written(there: Option<Lease>, name: &str, us: &str, step: Step, now: Timestamp) -> Lease {
    let mut lease = there.unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: None,
    });
    let before = lease.spec.take().unwrap_or_default();
    let transitions = before.lease_transitions.unwrap_or_default();
    let good_for = i32::try_from(GOOD_FOR.as_secs()).ok();
    lease.spec = Some(match step {
        Step::Follow => before,
        Step::Renew => {
            LeaseSpec { renew_time: Some(MicroTime(now)), lease_duration_seconds: good_for, ..before }
        }
        Step::Take => LeaseSpec {
            holder_identity: Some(us.to_owned()),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            lease_duration_seconds: good_for,
            lease_transitions: Some(transitions.saturating_add(1)),
            ..before
        },
        Step::Release => LeaseSpec {
            holder_identity: None,
            renew_time: Some(MicroTime(now)),
            // The API refuses zero.
            lease_duration_seconds: Some(1),
            ..before
        },
    });
    lease
}

/// Pure: says on it whose it is, and what is left for the next one.
pub(super) fn mark(lease: &mut Lease, deployment: Option<&OwnerReference>, word: Option<String>) {
    if let Some(deployment) = deployment {
        lease.metadata.owner_references = Some(vec![deployment.clone()]);
    }
    let annotations = lease.metadata.annotations.get_or_insert_default();
    match word {
        Some(word) => annotations.insert(WORD.to_owned(), word),
        None => annotations.remove(WORD),
    };
}

pub(super) fn word(lease: &Lease) -> Option<String> {
    lease.metadata.annotations.as_ref()?.get(WORD).cloned()
}

pub(super) fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// What a follower has seen of a lease, and when it saw it change.
#[derive(Debug)]
pub(super) struct Seen {
    spec: Option<LeaseSpec>,
    since: Instant,
}

impl Seen {
    pub(super) fn nothing(now: Instant) -> Self {
        Self { spec: None, since: now }
    }

    /// Notes what is there, and when we have seen it: after the answer, so that we never count too long.
    pub(super) fn note(&mut self, there: Option<&Lease>, now: Instant) {
        let spec = there.and_then(|lease| lease.spec.clone());
        if self.spec != spec {
            *self = Self { spec, since: now };
        }
    }

    pub(super) fn unchanged_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    pub(super) fn holder(&self) -> Option<&str> {
        self.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    /// By whom it was renewed last, and when by that one's clock: what a living holder changes every second.
    pub(super) fn renewal(&self) -> Option<(Option<String>, Option<MicroTime>)> {
        let spec = self.spec.as_ref()?;
        Some((spec.holder_identity.clone(), spec.renew_time.clone()))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use proptest::prelude::*;

    use super::super::{EVERY, GIVE_UP};
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn held_by(who: &str) -> Lease {
        written(None, "bulkhead-controller", who, Step::Take, now())
    }

    #[test]
    fn a_lease_is_taken_when_it_is_nobodys_or_has_run_out() {
        let second = Duration::from_secs(1);
        let us = held_by("us");
        let them = held_by("them");
        let released = written(Some(them.clone()), "bulkhead-controller", "them", Step::Release, now());
        for (there, unchanged_for, step) in [
            (None, Duration::ZERO, Step::Take),
            (Some(&released), Duration::ZERO, Step::Take),
            (Some(&us), Duration::ZERO, Step::Renew),
            (Some(&them), Duration::ZERO, Step::Follow),
            (Some(&them), GOOD_FOR - second, Step::Follow),
            (Some(&them), GOOD_FOR, Step::Take),
        ] {
            assert_eq!(decide(there, "us", unchanged_for), step, "{there:?} for {unchanged_for:?}");
        }
        let mut longer = them;
        longer.spec.as_mut().unwrap().lease_duration_seconds = Some(60);
        assert_eq!(decide(Some(&longer), "us", 59 * second), Step::Follow);
        longer.spec.as_mut().unwrap().lease_duration_seconds = Some(1);
        assert_eq!(decide(Some(&longer), "us", GIVE_UP), Step::Follow, "its leader has acted until now");
    }

    #[test]
    fn what_is_written_says_since_when_and_how_often_it_has_changed_hands() {
        let first = held_by("them");
        let then = now() + Duration::from_secs(5);
        let renewed = written(Some(first.clone()), "x", "them", Step::Renew, then).spec.unwrap();
        let first = first.spec.unwrap();
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(renewed.renew_time, Some(MicroTime(then)));
        assert_eq!(renewed.holder_identity.as_deref(), Some("them"));
        let taken = written(Some(held_by("them")), "x", "us", Step::Take, then).spec.unwrap();
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("us"), Some(2)));
        assert_eq!(taken.acquire_time, Some(MicroTime(then)));
    }

    #[test]
    fn what_is_left_on_it_is_there_for_the_next_one() {
        let mut lease = held_by("them");
        mark(&mut lease, None, Some("six".to_owned()));
        let released = written(Some(lease), "x", "them", Step::Release, now());
        let mut taken = written(Some(released), "x", "us", Step::Take, now());
        assert_eq!(word(&taken).as_deref(), Some("six"));
        let deployment = OwnerReference { name: "bulkhead-controller".to_owned(), ..Default::default() };
        mark(&mut taken, Some(&deployment), None);
        assert_eq!(word(&taken), None);
        assert_eq!(taken.metadata.owner_references, Some(vec![deployment]));
    }

    #[test]
    fn a_lease_counts_as_unchanged_from_when_it_was_seen() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Seen::nothing(start);
        seen.note(Some(&held_by("them")), at(1));
        seen.note(Some(&held_by("them")), at(9));
        assert_eq!(seen.unchanged_for(at(10)), Duration::from_secs(9));
        let renewed = written(Some(held_by("them")), "x", "them", Step::Renew, now() + EVERY);
        seen.note(Some(&renewed), at(11));
        assert_eq!(seen.unchanged_for(at(12)), Duration::from_secs(1));
        assert_eq!(seen.holder(), Some("them"));
    }

    proptest! {
        /// One leads and renews when it can; the other looks when it can. Whatever the API does to either, in no moment
        /// do both act.
        #[test]
        fn never_do_two_act(
            renewals in proptest::collection::vec(0_u64..3_000, 1..30),
            looks in proptest::collection::vec(0_u64..3_000, 1..60),
        ) {
            let start = Instant::now();
            let mut lease = held_by("them");
            let mut events: Vec<(u64, bool)> = Vec::new();
            for (pauses, leads) in [(&renewals, true), (&looks, false)] {
                let mut at = 0;
                for pause in pauses {
                    at += pause;
                    events.push((at, leads));
                }
            }
            events.sort_unstable();
            let (mut renewed_at, mut seen) = (0, Seen::nothing(start));
            for (ms, leads) in events {
                let at = start + Duration::from_millis(ms);
                let acts = Duration::from_millis(ms - renewed_at) < GIVE_UP;
                if leads {
                    if acts {
                        let time = now() + Duration::from_millis(ms);
                        lease = written(Some(lease), "x", "them", Step::Renew, time);
                        renewed_at = ms;
                    }
                } else {
                    seen.note(Some(&lease), at);
                    let step = decide(Some(&lease), "us", seen.unchanged_for(at));
                    if step == Step::Take {
                        prop_assert!(!acts, "both act {ms} ms after the start");
                        break;
                    }
                }
            }
        }
    }
}
