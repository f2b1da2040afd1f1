//! The backends that stories are told on, and whether they are there.

use std::fmt;
use std::process::Command;

use super::{kubernetes, pods};

/// Where workers run in a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Process,
    Docker,
    /// Processes that reach the door over TCP.
    ProcessTunnel,
    /// Containers that reach the door over TLS.
    DockerTunnel,
    /// Pods, which reach it so as well.
    Kubernetes,
}

/// Whether a backend can be used here.
pub enum Availability {
    Here,
    Missing {
        why: String,
    },
    /// Somebody has said where it is, and it is not there.
    Broken {
        why: String,
    },
}

impl Backend {
    pub const ALL: [Self; 5] =
        [Self::Process, Self::Docker, Self::ProcessTunnel, Self::DockerTunnel, Self::Kubernetes];

    /// Whether its workers are containers of this machine's engine.
    pub fn is_docker(self) -> bool {
        matches!(self, Self::Docker | Self::DockerTunnel)
    }

    /// Whether its workers are reached over TCP.
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::ProcessTunnel | Self::DockerTunnel | Self::Kubernetes)
    }

    /// Whether what is said there is encrypted.
    pub fn has_tls(self) -> bool {
        matches!(self, Self::DockerTunnel | Self::Kubernetes)
    }

    /// Whether its workers are pods.
    pub fn is_pods(self) -> bool {
        self == Self::Kubernetes
    }

    /// How many threads a worker has that has so many for its own work: a tunnel has one more, for its relay.
    pub fn threads(self, own: u32) -> String {
        (own + u32::from(self.is_tunnel())).to_string()
    }

    /// What a spec calls it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Process | Self::ProcessTunnel => "process",
            Self::Docker | Self::DockerTunnel => "docker",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// What a spec says of it, a line each.
    pub fn in_spec(self) -> String {
        format!("backend: {}\n{}", self.word(), self.link(""))
    }

    /// What a spec says of its link, with `more` (`, key: value`) in the block of the tunnel.
    pub fn link(self, more: &str) -> String {
        if self.is_tunnel() { self.tunnel(self.has_tls(), more) } else { String::new() }
    }

    /// What a spec says of a link over TCP that is encrypted.
    pub fn link_with_tls(self) -> String {
        self.tunnel(true, "")
    }

    fn tunnel(self, tls: bool, more: &str) -> String {
        // With containers, loopback stands for their gateway.
        let host = if self.is_pods() { pods::quarters().host.to_string() } else { "127.0.0.1".to_owned() };
        format!("link: tunnel\ntunnel: {{ listen: '{host}:0', tls: {tls}{more} }}\n")
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
            Self::Kubernetes => match (kubernetes::nodes(), pods::answers()) {
                (Ok(_), Ok(())) => Availability::Here,
                (Err(why), _) => Availability::Missing { why },
                (Ok(_), Err(why)) => Availability::Broken { why },
            },
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
            Self::Kubernetes => "kubernetes",
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
