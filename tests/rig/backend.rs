//! The backends that stories are told on, and whether they are there.

use std::fmt;
use std::process::Command;

/// Where workers run in a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Process,
    Docker,
    /// Processes that reach the door over TCP.
    ProcessTunnel,
    /// Containers that reach the door over TLS.
    DockerTunnel,
}

/// Whether a backend can be used here.
pub enum Availability {
    Here,
    Missing { why: String },
}

impl Backend {
    pub const ALL: [Self; 4] = [Self::Process, Self::Docker, Self::ProcessTunnel, Self::DockerTunnel];

    /// Whether its workers are containers.
    pub fn is_docker(self) -> bool {
        matches!(self, Self::Docker | Self::DockerTunnel)
    }

    /// Whether its workers are reached over TCP.
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::ProcessTunnel | Self::DockerTunnel)
    }

    /// How many threads a worker has that has so many for its own work: a tunnel has one more, for its relay.
    pub fn threads(self, own: u32) -> String {
        (own + u32::from(self.is_tunnel())).to_string()
    }

    /// What a spec calls it.
    pub fn word(self) -> &'static str {
        if self.is_docker() { "docker" } else { "process" }
    }

    /// What a spec says of it, a line each.
    pub fn in_spec(self) -> String {
        format!("backend: {}\n{}", self.word(), self.link(""))
    }

    /// What a spec says of its link, with `more` (`, key: value`) in the block of the tunnel.
    pub fn link(self, more: &str) -> String {
        match self {
            Self::Process | Self::Docker => String::new(),
            Self::ProcessTunnel => format!("link: tunnel\ntunnel: {{ listen: 127.0.0.1:0{more} }}\n"),
            Self::DockerTunnel => {
                format!("link: tunnel\ntunnel: {{ listen: 127.0.0.1:0, tls: true{more} }}\n")
            }
        }
    }

    pub fn availability(self) -> Availability {
        match self {
            Self::Process | Self::ProcessTunnel => Availability::Here,
            Self::Docker | Self::DockerTunnel => {
                match docker(&["version", "--format", "{{.Server.Version}}"]) {
                    Ok(_) => Availability::Here,
                    Err(why) => Availability::Missing { why: format!("no Docker engine answers: {why}") },
                }
            }
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Process => "process",
            Self::Docker => "docker",
            Self::ProcessTunnel => "process_tunnel",
            Self::DockerTunnel => "docker_tunnel",
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
