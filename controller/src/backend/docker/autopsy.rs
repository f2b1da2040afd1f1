//! What a dead container can tell.
//!
//! An engine keeps an exit code, and 128+n is how both the engine and the init in the container spell "killed by
//! signal n"; a program that exits with such a code of its own accord cannot be told from one that was killed.
//!
//! That the kernel killed for memory is a SIGKILL with evidence ([`Memory`]). There are three witnesses, each of
//! which can be missing: the engine's `oom` event (lost when we did not listen), its `OOMKilled` flag (known to be
//! unreliable), and the cgroup's own count (gone with the container, and readable only on the engine's machine).
//! One is enough. But a worker whose *child* was killed for memory lives on, and a later SIGKILL by hand must not
//! be blamed on memory: evidence that is dated has to be fresh.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use crate::model::Cause;

/// How long before a death the kernel's killing for memory may have been, to be its cause. The init's own exit
/// and the engine's bookkeeping lie between the two.
const FRESH: Duration = Duration::from_secs(2);

/// The exit code of a SIGKILL.
pub(super) const KILLED: i64 = 128 + 9;

/// What is known of a container's killings for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Memory {
    /// When the engine last announced one, or the cgroup's count was last seen above zero.
    pub(super) seen_at: Option<SystemTime>,
    /// The engine's flag, which carries no date.
    pub(super) flagged: bool,
}

/// Why a container with this exit code died.
pub(super) fn cause(
    exit_code: i64,
    died_at: Option<SystemTime>,
    memory: Memory,
    limit_bytes: Option<u64>,
) -> Cause {
    match i32::try_from(exit_code) {
        Ok(_) if exit_code == KILLED && memory.explains(died_at) => Cause::Oom { limit_bytes },
        Ok(code) if (129..=128 + 64).contains(&code) => Cause::Signal(code - 128),
        Ok(code) => Cause::Exit(code),
        Err(_) => Cause::Lost,
    }
}

impl Memory {
    fn explains(self, died_at: Option<SystemTime>) -> bool {
        match (self.seen_at, died_at) {
            // A stale sighting explains the flag away as well: the flag stands for the same event.
            (Some(seen), Some(died)) => died.duration_since(seen).unwrap_or_default() <= FRESH,
            (Some(_), None) => true,
            (None, _) => self.flagged,
        }
    }
}

/// A moment as the engine writes it; `None` for its year 1, which means "never".
pub(super) fn moment(text: Option<&str>) -> Option<SystemTime> {
    let moment: Timestamp = text?.parse().ok()?;
    let since_epoch = Duration::try_from(moment.as_duration()).ok()?;
    (!since_epoch.is_zero()).then(|| SystemTime::UNIX_EPOCH + since_epoch)
}

/// How many processes the kernel has killed in this container for want of memory, where this machine is the
/// engine's and the container's cgroup still exists.
pub(super) fn oom_kills(id: &str) -> Option<u64> {
    counters(id).into_iter().find_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    })
}

/// The most memory that this container has had, where this machine is the engine's, the kernel keeps that (version 2
/// of cgroups does since Linux 5.19) and the container's cgroup still exists.
pub(super) fn peak_bytes(id: &str) -> Option<u64> {
    let paths = cgroup_files(id, "memory.max_usage_in_bytes", "memory.peak");
    paths.into_iter().find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
}

fn counters(id: &str) -> [PathBuf; 4] {
    cgroup_files(id, "memory.oom_control", "memory.events")
}

/// Where a container's files are: under cgroup version 1 and 2, which name them differently, for an engine that makes
/// its cgroups itself or has systemd do it.
fn cgroup_files(id: &str, version_1: &str, version_2: &str) -> [PathBuf; 4] {
    [
        format!("/sys/fs/cgroup/memory/docker/{id}/{version_1}"),
        format!("/sys/fs/cgroup/memory/system.slice/docker-{id}.scope/{version_1}"),
        format!("/sys/fs/cgroup/docker/{id}/{version_2}"),
        format!("/sys/fs/cgroup/system.slice/docker-{id}.scope/{version_2}"),
    ]
    .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Option<u64> = Some(64 << 20);

    fn at(seconds: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn a_code_above_128_is_a_signal() {
        for (code, expected) in [
            (0, Cause::Exit(0)),
            (3, Cause::Exit(3)),
            (128, Cause::Exit(128)),
            (134, Cause::Signal(6)),
            (137, Cause::Signal(9)),
            (255, Cause::Exit(255)),
        ] {
            assert_eq!(cause(code, at(10), Memory::default(), LIMIT), expected, "exit code {code}");
        }
    }

    #[test]
    fn a_sigkill_with_evidence_was_for_memory() {
        let event = Memory { seen_at: at(10), flagged: false };
        let flag = Memory { seen_at: None, flagged: true };
        for evidence in [event, flag, Memory { seen_at: at(10), flagged: true }] {
            assert_eq!(
                cause(137, at(11), evidence, LIMIT),
                Cause::Oom { limit_bytes: LIMIT },
                "{evidence:?}"
            );
            assert_eq!(cause(139, at(11), evidence, LIMIT), Cause::Signal(11), "{evidence:?}");
        }
    }

    #[test]
    fn a_child_that_was_killed_for_memory_long_ago_is_not_the_cause() {
        let stale = Memory { seen_at: at(10), flagged: true };
        assert_eq!(cause(137, at(60), stale, LIMIT), Cause::Signal(9));
    }

    #[test]
    fn the_engines_year_one_is_no_date() {
        assert_eq!(moment(Some("0001-01-01T00:00:00Z")), None);
        assert_eq!(moment(Some("1970-01-01T00:00:02.5Z")), at(2).map(|t| t + Duration::from_millis(500)));
        assert_eq!(moment(Some("yesterday")), None);
    }
}
