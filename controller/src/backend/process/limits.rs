//! What a worker is told to limit itself to, and which user to become.
//!
//! `memory` becomes `RLIMIT_DATA`, which counts private writable memory; `open_files` `RLIMIT_NOFILE`; `pids`
//! `RLIMIT_NPROC`. That last one is not per process: the kernel counts all threads of the *user*, and does not
//! hold root to it at all.
//!
//! So where we are root, every worker becomes a user of its own, and the limit is its own. The users come from
//! the range that systemd gives to services with `DynamicUser=`, which belongs to nobody for longer than a
//! service runs; a worker keeps no file, so it leaves nothing behind for the next one. Which one it is follows
//! from the worker's place, so that it has the same each time, as long as nobody else has it: no other worker,
//! and no child that the worker before it has left.
//!
//! Where we are not root, a worker stays our user, and its limit is what our user runs at this moment and the
//! worker's share on top: enough to stop a fork bomb, and no exact count.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use rustix::io::Errno;
use server::identity::WorkerId;
use server::worker::SelfLimits;
use sha2::{Digest as _, Sha256};

use super::procfs;
use crate::spec::Limits;

/// `DynamicUser=` in systemd.exec(5).
pub(super) const USERS: RangeInclusive<u32> = 61184..=65519;

/// What a worker under `limits` is told, that is to become `user` if there is one.
pub(super) fn of(limits: &Limits, user: Option<u32>) -> SelfLimits {
    let others = if user.is_some() { 0 } else { procfs::threads_of_this_user() };
    let others = u32::try_from(others).unwrap_or(u32::MAX);
    SelfLimits {
        memory_bytes: limits.memory_bytes,
        pids: limits.pids.map(|pids| pids.saturating_add(others)),
        open_files: limits.open_files,
        user: user.and_then(NonZeroU32::new),
    }
}

/// The user for the worker in this place: its usual one, or the next that is not `taken`. Where all are, one is
/// shared.
pub(super) fn user(worker: &WorkerId, taken: impl Fn(u32) -> bool) -> u32 {
    let count = USERS.end() - USERS.start() + 1;
    let usual = start_of(worker).wrapping_add(worker.place) % count;
    let nth = |n: u32| USERS.start() + (usual + n) % count;
    (0..count).map(nth).find(|&user| !taken(user)).unwrap_or_else(|| nth(0))
}

/// Whether anything runs as `user`, or has ended and waits for its parent to ask how: the children that a worker
/// leaves behind count against the limit of whoever is that user next, until the last of them has been reaped.
pub(super) fn runs_something(user: u32) -> bool {
    rustix::process::getpriority_user(rustix::process::Uid::from_raw(user)) != Err(Errno::SRCH)
}

/// Where the users of a pool begin: the same each time, and for most pools not where another's begin.
fn start_of(worker: &WorkerId) -> u32 {
    let digest: [u8; 32] = Sha256::digest(worker.pool.as_str()).into();
    digest.iter().take(3).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_two_live_workers_share_a_user(
            pools in proptest::collection::vec("[a-z]{1,8}", 1..4),
            places in proptest::collection::vec((0..3_usize, 0..1000_u32), 1..200),
        ) {
            let mut taken = HashSet::new();
            for (pool, place) in places {
                let worker = WorkerId::new(pools[pool % pools.len()].parse()?, place);
                let user = user(&worker, |user| taken.contains(&user));
                prop_assert!(USERS.contains(&user));
                prop_assert!(taken.insert(user), "{} was given to two", user);
            }
        }

        #[test]
        fn a_place_has_its_usual_user(pool in "[a-z]{1,8}", place in 0..1000_u32) {
            let worker = WorkerId::new(pool.parse()?, place);
            let usual = user(&worker, |_| false);
            prop_assert_eq!(user(&worker, |user| user != usual), usual);
            prop_assert_ne!(user(&worker, |user| user == usual), usual);
        }
    }

    #[test]
    fn who_runs_something_is_told_from_who_does_not() {
        assert!(runs_something(rustix::process::getuid().as_raw()));
        // The last of them all is nobody's: -1 stands for no user.
        assert!(!runs_something(u32::MAX - 1));
    }
}
