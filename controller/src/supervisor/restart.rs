//! How fast dead workers are replaced: pure, with time and luck passed in.
//!
//! Two brakes, for two kinds of trouble.
//!
//! **Back-off, per place.** The first death in a place is repaired at once. Each further one in a row waits
//! longer: `backoff`, twice that, four times that, up to `longest`; up to a quarter of each wait is taken off at
//! random, so that places do not march in step. A worker that was ready for `healthy_after` ends the row.
//! `backoff: 0ms` means what it says: no place ever waits by itself, however often its workers are killed, and
//! the other brake is the only one. That is the setting for a pool whose workers are expected to be killed.
//!
//! **Intensity, per pool.** More than `deaths` within `within` make the pool degraded: from then on every place
//! waits `longest` after each death. Each of a pool's workers may die once all the same, however many it has: a machine
//! that dies, or a hand that kills them all, says nothing about what ran there. The pool stays degraded until a whole window has passed in which somebody was ready and
//! nobody died. Trying never ends; a pool that nobody looks at must come back by itself when what ailed it is
//! gone.
//!
//! What is no death waits for nothing: a worker that was drained or scaled away, that has served as many requests as
//! it was made for, or that said goodbye after it had been healthy. One that says goodbye earlier, and was not asked
//! to, counts as a death: it would otherwise be replaced in a hot loop. A spawn that the
//! backend *refuses* counts as a death, but never waits for less than [`REFUSED_PAUSE`]: an engine that says no
//! at once would otherwise be asked in a hot loop. An engine that says nothing is nobody's fault and counts as
//! nothing ([`SILENCE_PAUSE`]).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::spec::Restart;

/// The shortest wait after a spawn that was refused.
pub const REFUSED_PAUSE: Duration = Duration::from_millis(250);
/// The wait after a spawn that was not answered.
pub const SILENCE_PAUSE: Duration = Duration::from_millis(500);

/// The part of a wait that luck may take off.
const JITTER: f64 = 0.25;

/// How long a place waits that has just been vacated by the death that follows `streak` others in a row.
pub fn wait(policy: &Restart, streak: u32, health: &Health, luck: f64) -> Duration {
    let full = match (health, streak.checked_sub(1)) {
        (Health::Degraded { .. }, _) => policy.longest,
        (Health::Sound, None) => Duration::ZERO,
        (Health::Sound, Some(doublings)) => doubled(policy.backoff, doublings).min(policy.longest),
    };
    full.mul_f64(1.0 - JITTER * luck.clamp(0.0, 1.0))
}

/// How long a place waits whose spawn has been refused, `streak` times in a row before this.
pub fn wait_after_refusal(policy: &Restart, streak: u32, health: &Health, luck: f64) -> Duration {
    let growing = doubled(REFUSED_PAUSE, streak).min(policy.longest);
    wait(policy, streak, health, luck).max(growing).max(REFUSED_PAUSE)
}

/// Whether a pool loses workers faster than its policy allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does not.
    Sound,
    /// It did; it has been calm since then.
    Degraded {
        /// The last death, or, when nobody was ready then, the first one that was.
        calm_since: Instant,
    },
}

/// A pool's recent deaths, and what follows from them.
#[derive(Debug, Clone)]
pub struct Intensity {
    recent: VecDeque<Instant>,
    health: Health,
}

impl Intensity {
    /// A pool that has lost nobody.
    pub fn new() -> Self {
        Self { recent: VecDeque::new(), health: Health::Sound }
    }

    /// How the pool is.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Counts a death in a pool of so many workers (OTP's `add_restart`: add, forget what is out of the window, compare).
    pub fn count_death(&mut self, policy: &Restart, workers: u32, now: Instant) {
        self.recent.push_back(now);
        self.recent.retain(|death| now.duration_since(*death) <= policy.within);
        let most = policy.deaths.max(workers);
        let too_many = self.recent.len() > usize::try_from(most).unwrap_or(usize::MAX);
        if too_many || matches!(self.health, Health::Degraded { .. }) {
            self.health = Health::Degraded { calm_since: now };
        }
    }

    /// The latest death was none: it had said goodbye, and that was heard after its end was seen.
    pub fn pardon(&mut self) {
        self.recent.pop_back();
    }

    /// Somebody is ready in a pool in which nobody was: only from now on can it prove that it is healthy.
    pub fn first_ready(&mut self, now: Instant) {
        if let Health::Degraded { calm_since } = &mut self.health {
            *calm_since = now;
        }
    }

    /// When the pool will have proved that it is healthy, if nobody dies until then.
    pub fn sound_at(&self, policy: &Restart) -> Option<Instant> {
        match self.health {
            Health::Sound => None,
            Health::Degraded { calm_since } => Some(calm_since + policy.within),
        }
    }

    /// Lets time pass. `any_ready`: whether anybody is there for the pool to be healthy with.
    pub fn settle(&mut self, policy: &Restart, any_ready: bool, now: Instant) {
        if any_ready && self.sound_at(policy).is_some_and(|at| at <= now) {
            self.health = Health::Sound;
            self.recent.clear();
        }
    }
}

impl Default for Intensity {
    fn default() -> Self {
        Self::new()
    }
}

fn doubled(duration: Duration, times: u32) -> Duration {
    duration.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policies() -> impl Strategy<Value = Restart> {
        (0_u64..2_000, 0_u64..60_000, 1_u64..60_000, 0_u32..50, 1_u64..60_000).prop_map(
            |(backoff, more, healthy_after, deaths, within)| Restart {
                backoff: Duration::from_millis(backoff),
                longest: Duration::from_millis(backoff + more),
                healthy_after: Duration::from_millis(healthy_after),
                deaths,
                within: Duration::from_millis(within),
            },
        )
    }

    fn degraded() -> Health {
        Health::Degraded { calm_since: Instant::now() }
    }

    proptest! {
        #[test]
        fn waits_are_bounded_and_grow(policy in policies(), streak: u32, luck in 0.0..=1.0) {
            let this = wait(&policy, streak, &Health::Sound, luck);
            prop_assert!(this <= policy.longest);
            prop_assert!(this <= wait(&policy, streak.saturating_add(1), &Health::Sound, luck));
            prop_assert!(this <= wait(&policy, streak, &degraded(), luck));
        }

        #[test]
        fn the_first_replacement_is_immediate_and_the_second_is_not(policy in policies(), luck in 0.0..=1.0) {
            prop_assert_eq!(wait(&policy, 0, &Health::Sound, luck), Duration::ZERO);
            prop_assert!(wait(&policy, 1, &Health::Sound, luck) >= policy.backoff.mul_f64(0.74));
        }

        #[test]
        fn without_backoff_no_place_ever_waits(policy in policies(), streak: u32, luck in 0.0..=1.0) {
            let policy = Restart { backoff: Duration::ZERO, ..policy };
            prop_assert_eq!(wait(&policy, streak, &Health::Sound, luck), Duration::ZERO);
        }

        #[test]
        fn a_refusal_always_waits(policy in policies(), streak: u32, luck in 0.0..=1.0) {
            prop_assert!(wait_after_refusal(&policy, streak, &Health::Sound, luck) >= REFUSED_PAUSE);
        }

        #[test]
        fn a_pool_is_degraded_by_exactly_one_death_too_many(
            policy in policies(),
            workers in 0_u32..50,
            gaps in proptest::collection::vec(0_u64..5_000, 1..100),
        ) {
            let mut intensity = Intensity::new();
            let mut now = Instant::now();
            let mut deaths = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                deaths.push(now);
                intensity.count_death(&policy, workers, now);
                let in_window = deaths.iter().filter(|d| now.duration_since(**d) <= policy.within).count();
                if in_window > usize::try_from(policy.deaths.max(workers)).unwrap() {
                    prop_assert_ne!(intensity.health(), &Health::Sound);
                    return Ok(());
                }
                prop_assert_eq!(intensity.health(), &Health::Sound);
            }
        }

        #[test]
        fn degraded_ends_after_a_window_in_which_somebody_was_ready(policy in policies()) {
            let start = Instant::now();
            let mut intensity = Intensity::new();
            for _ in 0..=policy.deaths {
                intensity.count_death(&policy, 0, start);
            }
            let much_later = start + policy.within * 10;
            intensity.settle(&policy, false, much_later);
            prop_assert_ne!(intensity.health(), &Health::Sound, "nobody is ready");

            intensity.first_ready(much_later);
            intensity.settle(&policy, true, much_later + policy.within - Duration::from_nanos(1));
            prop_assert_ne!(intensity.health(), &Health::Sound, "the window is not over");
            intensity.settle(&policy, true, much_later + policy.within);
            prop_assert_eq!(intensity.health(), &Health::Sound);
        }
    }
}
