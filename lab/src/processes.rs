//! Who runs on this machine and whose child he is, as `/proc` has it.

use rustix::process::Pid;

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    pid: Pid,
    /// `None`: the kernel's.
    parent: Option<Pid>,
    group: i32,
    /// It has ended, and nobody has asked how yet.
    is_zombie: bool,
    /// In the kernel's clock ticks since the machine was started.
    started: u64,
}

impl Row {
    fn read(pid: Pid) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        Self::parse(pid, &stat)
    }

    fn parse(pid: Pid, stat: &str) -> Option<Self> {
        // The name in brackets may hold anything, so what counts is behind the last bracket: state, parent, group, …
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        Some(Self {
            pid,
            parent: Pid::from_raw(fields.get(1)?.parse().ok()?),
            group: fields.get(2)?.parse().ok()?,
            is_zombie: matches!(fields.first(), Some(&("Z" | "X"))),
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

fn table() -> Vec<Row> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter_map(Row::read).collect()
}

/// A process and all that descend from it.
pub(crate) fn with_descendants(root: Pid) -> Vec<Pid> {
    closure(&table(), vec![root])
}

/// Who descends from this process, and lives.
pub(crate) fn descendants(root: Pid) -> Vec<Pid> {
    let table = table();
    let lives = |pid: &Pid| table.iter().any(|row| row.pid == *pid && !row.is_zombie);
    closure(&table, vec![root]).into_iter().filter(|pid| *pid != root && lives(pid)).collect()
}

/// Who lives of those that this leader of a process group has started: whoever is in the group, also when the leader has
/// ended, and whoever descends from one of those. None if the leader's pid is somebody else's by now.
pub(crate) fn of_leader(leader: Pid, started: u64) -> Vec<Pid> {
    led_by(&table(), leader, started)
}

fn led_by(table: &[Row], leader: Pid, started: u64) -> Vec<Pid> {
    // While a group has members the kernel gives its number to nobody.
    let is_another = |row: &Row| row.pid == leader && row.started != started;
    if table.iter().any(is_another) {
        return Vec::new();
    }
    let group = leader.as_raw_nonzero().get();
    let is_of_it = |row: &&Row| row.pid == leader || (row.group == group && row.started >= started);
    let roots = table.iter().filter(is_of_it).map(|row| row.pid).collect();
    let lives = |pid: &Pid| table.iter().any(|row| row.pid == *pid && !row.is_zombie);
    closure(table, roots).into_iter().filter(lives).collect()
}

fn closure(table: &[Row], mut found: Vec<Pid>) -> Vec<Pid> {
    let mut next = 0;
    while let Some(&ancestor) = found.get(next) {
        let children = table.iter().filter(|row| row.parent == Some(ancestor)).map(|row| row.pid);
        let new: Vec<Pid> = children.filter(|pid| !found.contains(pid)).collect();
        found.extend(new);
        next += 1;
    }
    found
}

/// When a process was started, in the kernel's clock ticks since the machine was.
pub(crate) fn start_time(pid: Pid) -> Option<u64> {
    Row::read(pid).map(|row| row.started)
}

/// Whether the process that was started then still runs.
pub(crate) fn lives(pid: Pid, started: u64) -> bool {
    Row::read(pid).is_some_and(|row| row.started == started && !row.is_zombie)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use rustix::process::{Signal, kill_process};

    use super::*;

    #[test]
    fn descendants_are_found_by_their_parents() {
        let mut child = Command::new("/bin/sh").args(["-c", "sleep 600 & wait"]).spawn().unwrap();
        let root = Pid::from_child(&child);
        let until = Instant::now() + Duration::from_secs(10);
        while with_descendants(root).len() < 2 {
            assert!(Instant::now() < until, "the child of the child was not found");
            std::thread::yield_now();
        }
        for pid in with_descendants(root).into_iter().rev() {
            kill_process(pid, Signal::KILL).unwrap();
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a) b (c) S 3 5 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        let pid = Pid::from_raw(7).unwrap();
        let row = Row { pid, parent: Pid::from_raw(3), group: 5, is_zombie: false, started: 4711 };
        assert_eq!(Row::parse(pid, stat), Some(row));
    }

    #[test]
    fn a_dead_leaders_group_is_still_his_and_a_recycled_pid_is_not() {
        let pid = |raw| Pid::from_raw(raw).unwrap();
        let row = |raw, parent, group, is_zombie, started| Row {
            pid: pid(raw),
            parent: Pid::from_raw(parent),
            group,
            is_zombie,
            started,
        };
        // 10 has ended and left 11, which has a child in a group of its own; 20 has nothing to do with it.
        let orphans = [
            row(1, 0, 1, false, 0),
            row(11, 1, 10, false, 60),
            row(12, 11, 12, false, 70),
            row(20, 1, 20, false, 60),
        ];
        assert_eq!(led_by(&orphans, pid(10), 50), [pid(11), pid(12)]);
        let zombie = [&orphans[..], &[row(10, 1, 10, true, 50)]].concat();
        assert_eq!(led_by(&zombie, pid(10), 50), [pid(11), pid(12)]);
        let recycled = [&orphans[..], &[row(10, 1, 10, false, 99)]].concat();
        assert_eq!(led_by(&recycled, pid(10), 50), []);
    }
}
