//! Where a worker finds its door, as text on its command line: a path, or `tcp://HOST:PORT` or `tls://HOST:PORT` with
//! one door or several, separated by commas.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// Where a worker finds its door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dial {
    /// At this Unix socket: the fd link.
    Fd(PathBuf),
    /// Over TCP: the tunnel link.
    Tunnel {
        /// `HOST:PORT` each, of which there is at least one. A name stands for all the addresses that it has.
        doors: Vec<String>,
        /// Whether what is said there is encrypted, and the door has to prove that it is one.
        tls: bool,
    },
}

/// A text that names no door.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no door: it looks like '/run/door.sock', 'tcp://10.0.0.1:7411' or 'tls://one:7411,two:7411'"
)]
pub struct NoDoor(String);

impl fmt::Display for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fd(path) => write!(f, "{}", path.display()),
            Self::Tunnel { doors, tls } => {
                write!(f, "{}://{}", if *tls { "tls" } else { "tcp" }, doors.join(","))
            }
        }
    }
}

impl FromStr for Dial {
    type Err = NoDoor;

    fn from_str(text: &str) -> Result<Self, NoDoor> {
        let (doors, tls) = match text.split_once("://") {
            None if text.is_empty() => return Err(NoDoor(text.to_owned())),
            None => return Ok(Self::Fd(text.into())),
            Some(("tcp", doors)) => (doors, false),
            Some(("tls", doors)) => (doors, true),
            Some(_) => return Err(NoDoor(text.to_owned())),
        };
        let is_door = |door: &str| {
            door.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        let doors: Vec<String> = doors.split(',').map(str::to_owned).collect();
        if doors.iter().all(|door| is_door(door)) {
            Ok(Self::Tunnel { doors, tls })
        } else {
            Err(NoDoor(text.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() -> Result<(), NoDoor> {
        for text in ["/run/bulkhead/link/door.sock", "tcp://127.0.0.1:7411", "tls://a:1,[::1]:2,10.0.0.1:3"] {
            assert_eq!(text.parse::<Dial>()?.to_string(), text);
        }
        Ok(())
    }

    #[test]
    fn what_names_no_door_is_refused() {
        for text in ["", "http://a:1", "tcp://", "tcp://a", "tls://a:1,", "tls://:1", "tcp://a:70000"] {
            assert!(text.parse::<Dial>().is_err(), "{text:?}");
        }
    }
}
