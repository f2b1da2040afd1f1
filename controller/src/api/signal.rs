//! Signals by name: what people type, what the API takes, and what an incident says.
//!
//! The numbers are those of Linux on x86 and ARM.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A signal that can be sent to a worker: 1 to 31.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(u8);

/// What was given is no signal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a signal: use a name such as KILL or SIGTERM, or a number from 1 to 31")]
pub struct NotASignal(String);

/// The name of each, without `SIG`; number 1 first.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

impl Signal {
    /// The one that nothing survives.
    pub const KILL: Self = Self(9);

    /// Its number.
    pub fn number(self) -> i32 {
        self.0.into()
    }
}

impl FromStr for Signal {
    type Err = NotASignal;

    fn from_str(text: &str) -> Result<Self, NotASignal> {
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        (1..)
            .zip(NAMES)
            .find(|(number, name)| *name == bare || number.to_string() == text)
            .map(|(number, _)| Self(number))
            .ok_or_else(|| NotASignal(text.to_owned()))
    }
}

impl fmt::Display for Signal {
    /// The full name: `SIGKILL`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIG{}", NAMES.get(usize::from(self.0).wrapping_sub(1)).copied().unwrap_or("?"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_means_the_same_signal() {
        for spelling in ["9", "KILL", "SIGKILL", "sigkill", "kill"] {
            assert_eq!(spelling.parse(), Ok(Signal::KILL), "{spelling}");
        }
        for wrong in ["", "0", "32", "-9", "+9", "09", "SIG", "SIG9", "SIGSIGKILL", "KILLED"] {
            assert!(wrong.parse::<Signal>().is_err(), "{wrong:?} was taken for a signal");
        }
    }

    #[test]
    fn names_and_numbers_are_the_systems_own() {
        let name = |number: rustix::process::Signal| {
            number.as_raw().to_string().parse().map(|s: Signal| s.to_string())
        };
        assert_eq!(name(rustix::process::Signal::SEGV), Ok("SIGSEGV".to_owned()));
        assert_eq!(name(rustix::process::Signal::TERM), Ok("SIGTERM".to_owned()));
        assert_eq!(name(rustix::process::Signal::XFSZ), Ok("SIGXFSZ".to_owned()));
        assert_eq!(name(rustix::process::Signal::SYS), Ok("SIGSYS".to_owned()));
    }
}
