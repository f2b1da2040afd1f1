//! What the kernel knows of threads that wait: each one's state, and the address of the lock that it sleeps on.
//!
//! A mutex that is free, or that nobody else wants, is a matter of the process alone. Who has to wait asks the kernel
//! to be put to sleep on the lock's address (`futex`), and the system call with its arguments can be read in
//! `/proc/PID/task/TID/syscall` by whoever may trace the process: its user, or root.

use std::path::Path;

use rustix::process::Pid;
use serde::Serialize;

/// The number of `futex`, where it is known.
const FUTEX: Option<u64> = if cfg!(target_arch = "x86_64") {
    Some(202)
} else if cfg!(any(target_arch = "aarch64", target_arch = "riscv64")) {
    Some(98)
} else {
    None
};

/// One thread, as the kernel sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Thread {
    pub(super) id: u32,
    /// The name that it gave itself.
    pub(super) name: String,
    /// `R` runs or could, `S` sleeps, `Z` has ended.
    pub(super) state: char,
    /// The kernel's function that it sleeps in; empty where that is not shown.
    pub(super) sleeps_in: String,
    pub(super) call: Call,
}

/// The system call that a thread is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Call {
    /// It waits for the lock at this address.
    Futex(u64),
    /// Another one, by its number.
    Other(u64),
    /// None: it runs.
    Running,
    /// This user, or this kernel, does not show it.
    Hidden,
}

/// All threads of a process, by their ids. Those that end meanwhile are left out.
pub(super) fn threads(pid: Pid) -> Vec<Thread> {
    let tasks = std::path::PathBuf::from(format!("/proc/{}/task", pid.as_raw_nonzero()));
    let mut threads: Vec<Thread> = std::fs::read_dir(tasks)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| thread(&entry.path()))
        .collect();
    threads.sort_by_key(|it| it.id);
    threads
}

fn thread(task: &Path) -> Option<Thread> {
    let read = |name: &str| std::fs::read_to_string(task.join(name)).ok();
    let sleeps_in = read("wchan").unwrap_or_default().trim().to_owned();
    Some(Thread {
        id: task.file_name()?.to_str()?.parse().ok()?,
        name: read("comm")?.trim().to_owned(),
        // Behind the name in brackets, which may hold anything.
        state: read("stat")?.rsplit_once(") ")?.1.chars().next()?,
        sleeps_in: if sleeps_in == "0" { String::new() } else { sleeps_in },
        call: read("syscall").map_or(Call::Hidden, |text| call(&text)),
    })
}

/// `running`, or the number of the call and its arguments in hexadecimal.
fn call(text: &str) -> Call {
    let mut words = text.split_whitespace();
    let Some(number) = words.next() else { return Call::Hidden };
    let Ok(number) = number.parse::<u64>() else { return Call::Running };
    let first = words.next().and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    match first {
        Some(address) if Some(number) == FUTEX => Call::Futex(address),
        _ => Call::Other(number),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        assert_eq!(call("running\n"), Call::Running);
        assert_eq!(call(""), Call::Hidden);
        assert_eq!(call("-1 0x7ffc 0x7f"), Call::Running, "it sleeps outside of a call: in a page fault");
        if let Some(futex) = FUTEX {
            assert_eq!(
                call(&format!("{futex} 0x7f10 0x80 0x2 0x0 0x0 0x0 0x7ffc 0x7f")),
                Call::Futex(0x7f10)
            );
        }
        assert_eq!(call("9999 0x0 0x7ffc 0x7f"), Call::Other(9999));
    }

    #[test]
    fn a_thread_that_waits_for_a_lock_is_seen_to_wait_for_that_lock() {
        let lock = Mutex::new(());
        let address = std::ptr::from_ref(&lock) as u64;
        let held = lock.lock().unwrap();
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("waits here".to_owned())
                .spawn_scoped(scope, || drop(lock.lock()))
                .unwrap();
            let until = Instant::now() + Duration::from_secs(20);
            let seen = loop {
                let threads = threads(rustix::process::getpid());
                let seen = threads.into_iter().find(|it| it.name == "waits here");
                match &seen {
                    Some(Thread { call: Call::Futex(at), .. }) if (address..address + 8).contains(at) => {
                        break Ok(seen);
                    }
                    Some(Thread { call: Call::Hidden, .. }) => break Ok(None),
                    _ if Instant::now() > until => break Err(seen),
                    _ => std::thread::yield_now(),
                }
            };
            drop(held);
            assert!(seen.as_ref().is_ok_and(Option::is_some), "{seen:?} does not wait at {address:x}");
        });
    }
}
