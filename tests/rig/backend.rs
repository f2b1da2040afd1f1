//! The backends that stories are told on, and whether they are there.

use std::fmt;
use std::process::Command;

/// Where workers run in a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Process,
    Docker,
}

/// Whether a backend can be used here.
pub enum Availability {
    Here,
    Missing { why: String },
}

impl Backend {
    pub const ALL: [Self; 2] = [Self::Process, Self::Docker];

    pub fn availability(self) -> Availability {
        match self {
            Self::Process => Availability::Here,
            Self::Docker => match docker(&["version", "--format", "{{.Server.Version}}"]) {
                Ok(_) => Availability::Here,
                Err(why) => Availability::Missing { why: format!("no Docker engine answers: {why}") },
            },
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Process => "process",
            Self::Docker => "docker",
        })
    }
}

/// Runs the `docker` command; what it printed, or what it complained of.
pub fn docker(arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new("docker").args(arguments).output().map_err(|error| format!("docker: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
