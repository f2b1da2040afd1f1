//! How a worker died, as far as anybody can tell.

use std::fmt;
use std::time::SystemTime;

/// Why a worker died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A signal that nobody here sent: its number.
    Signal(i32),
    /// It exited with this code and had not said goodbye.
    Exit(i32),
    /// The kernel killed it, or refused it memory, at its limit.
    Oom {
        /// The limit in bytes, where one is set.
        limit_bytes: Option<u64>,
    },
    /// Whoever runs the machines has taken it away, or could not get it to run; in their words.
    Taken {
        /// `Evicted: The node was low on resource: memory`.
        why: String,
    },
    /// The backend knows that it is gone and not how: it died while nobody watched.
    Lost,
}

/// What a backend can tell of a dead worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Autopsy {
    /// Why.
    pub cause: Cause,
    /// When, by the engine's or the kernel's own date; `None` where neither keeps one.
    pub died_at: Option<SystemTime>,
    /// The most memory that it had, where the kernel still told by then.
    pub peak_memory_bytes: Option<u64>,
    /// The last lines that it wrote, oldest first.
    pub last_output: Vec<String>,
}

impl fmt::Display for Cause {
    /// `SIGKILL`, `exit code 3`, `64 MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(number) => f.write_str(&signal_name(*number)),
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Oom { limit_bytes: Some(bytes) } if bytes % (1 << 20) == 0 => {
                write!(f, "{} MiB", bytes >> 20)
            }
            Self::Oom { limit_bytes: Some(bytes) } => write!(f, "{bytes} bytes"),
            Self::Oom { limit_bytes: None } => f.write_str("no limit of its own: the machine ran out"),
            Self::Taken { why } => f.write_str(why),
            Self::Lost => f.write_str("it is gone, and nobody saw how"),
        }
    }
}

/// What people call a signal: `SIGKILL`. The numbers are Linux's on x86-64 and aarch64 (signal(7)).
pub fn signal_name(number: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let index = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
    match index.and_then(|index| NAMES.get(index)) {
        Some(name) => format!("SIG{name}"),
        None => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::signal_name;

    #[test]
    fn signals_have_the_kernels_names() {
        let by_kernel = [(1, "SIGHUP"), (6, "SIGABRT"), (9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM")];
        for (number, name) in by_kernel {
            assert_eq!(signal_name(number), name);
        }
        assert_eq!(signal_name(31), "SIGSYS");
        assert_eq!(signal_name(0), "signal 0");
        assert_eq!(signal_name(34), "signal 34");
    }
}
