//! The engine: where it is, and which version of its API to speak.
//!
//! It is looked for once ([`Engine::find`]): at `DOCKER_HOST` where that is set, else at the system's socket, else
//! at the user's own (a rootless engine).
//!
//! bollard knows a `negotiate_version`, but the path that it sends carries no version at all, so an engine answers
//! in the newest dialect that it has. [`Engine::find`] therefore asks for `/version`, picks the lower of the
//! engine's and ours, and writes it into the path of every request.

use std::env;
use std::fmt::{self, Display};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::models::SystemVersionComponents;
use bollard::{BollardRequest, Docker};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::calls::Operation;

/// The socket of an engine that the system runs.
const SYSTEM_SOCKET: &str = "/var/run/docker.sock";

/// How long finding an engine may take in all, so that `backend: auto` decides at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Engine 20.10, which Debian 12 has.
const OLDEST: ApiVersion = ApiVersion { major: 1, minor: 41 };

/// What bollard's types were generated from.
const NEWEST: ApiVersion = ApiVersion {
    major: bollard::API_DEFAULT_VERSION.major_version,
    minor: bollard::API_DEFAULT_VERSION.minor_version,
};

/// A Docker engine that answers, and speaks a version of the API that we speak.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    address: Address,
    release: String,
    api: ApiVersion,
    init: Init,
}

/// Whether the engine has an init to put before a container's own program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Init {
    /// It passes signals on and reaps what is left behind.
    Reaper,
    /// The worker is process 1 itself, and nobody reaps what it leaves behind.
    None,
}

/// Why there is no engine to work with.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nothing is where an engine's socket would be.
    #[error(
        "no Docker engine found: no socket at {tried}; start one (`systemctl start docker`), \
         say where it is with DOCKER_HOST, or use the `process` backend"
    )]
    NoSocket {
        /// The paths, for people.
        tried: String,
    },
    /// There is a socket, and we may not use it.
    #[error(
        "no permission to use the Docker engine at {address}; add this user to the `docker` group \
         (`usermod -aG docker USER`, then log in again), or use the `process` backend"
    )]
    NotAllowed {
        /// The socket.
        address: Address,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is an address, and nobody answers there.
    #[error(
        "the Docker engine at {address} does not answer; start it (`systemctl start docker`) \
         or use the `process` backend"
    )]
    NoAnswer {
        /// Where.
        address: Address,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `DOCKER_HOST` asks for something that cannot work here.
    #[error(
        "DOCKER_HOST={0:?} cannot be used: give unix:///PATH or tcp://ADDRESS:PORT of an engine on this machine"
    )]
    Scheme(String),
    /// The engine's API is older than ours can go back.
    #[error(
        "the Docker engine at {address} speaks API {api}, but at least {OLDEST} (engine 20.10) is needed: upgrade it"
    )]
    TooOld {
        /// Where.
        address: Address,
        /// The newest that it speaks.
        api: ApiVersion,
    },
    /// The engine no longer speaks what we speak.
    #[error(
        "the Docker engine at {address} speaks API {api} and later, but this bulkhead knows {NEWEST} at most: upgrade bulkhead"
    )]
    TooNew {
        /// Where.
        address: Address,
        /// The oldest that it speaks.
        api: ApiVersion,
    },
}

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// `tcp://…`, unencrypted.
    Tcp(String),
}

/// A version of the engine's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    major: usize,
    minor: usize,
}

impl Engine {
    /// Finds the engine. Takes two seconds at most.
    pub async fn find() -> Result<Self, ConnectError> {
        let by = Instant::now() + PATIENCE;
        let mut first_failure = None;
        let candidates =
            candidates(env::var("DOCKER_HOST").ok(), env::var_os("XDG_RUNTIME_DIR").map(Into::into))?;
        for address in &candidates {
            match Self::at(address.clone(), by).await {
                Ok(engine) => return Ok(engine),
                Err(ConnectError::NoSocket { .. }) => {}
                Err(error) => first_failure = first_failure.or(Some(error)),
            }
        }
        Err(first_failure.unwrap_or_else(|| ConnectError::NoSocket {
            tried: candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
        }))
    }

    /// The engine at `host`, which is written as in `DOCKER_HOST`.
    pub async fn at_host(host: &str) -> Result<Self, ConnectError> {
        Self::at(Address::read(host)?, Instant::now() + PATIENCE).await
    }

    /// The engine at `address`, asked for its version by the given moment.
    async fn at(address: Address, by: Instant) -> Result<Self, ConnectError> {
        let silent = |source: Box<dyn std::error::Error + Send + Sync>| ConnectError::NoAnswer {
            address: address.clone(),
            source,
        };
        if let Address::Unix(path) = &address {
            // bollard says only that a socket is missing; whether it may be opened is worth an answer of its own.
            knock(path, by).await?;
        }
        let docker = address.dial().map_err(|error| silent(error.into()))?;
        let version = timeout_at(by, docker.version())
            .await
            .map_err(|elapsed| silent(elapsed.into()))?
            .map_err(|error| silent(error.into()))?;
        let newest = version.api_version.as_deref().and_then(ApiVersion::read).unwrap_or(OLDEST);
        let oldest = version.min_api_version.as_deref().and_then(ApiVersion::read).unwrap_or(OLDEST);
        let Some(api) = common(newest, oldest) else {
            return Err(if newest < OLDEST {
                ConnectError::TooOld { address, api: newest }
            } else {
                ConnectError::TooNew { address, api: oldest }
            });
        };
        let docker = docker.with_request_modifier(move |request| speak(api, request));
        let init = init_among(version.components.as_deref().unwrap_or_default());
        let release = version.version.unwrap_or_else(|| "of unknown release".to_owned());
        Ok(Self { docker, address, release, api, init })
    }

    /// Which engine it is, for people: `Docker 20.10.24 at unix:///var/run/docker.sock`.
    pub fn name(&self) -> String {
        format!("Docker {} at {}", self.release, self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The version of the API that is spoken with it.
    pub fn api(&self) -> ApiVersion {
        self.api
    }

    /// Whether it has an init for containers.
    pub(super) fn init(&self) -> Init {
        self.init
    }

    /// bollard's handle. What is asked through it goes through `Engine::ask` as well.
    pub(super) fn docker(&self) -> &Docker {
        &self.docker
    }
}

impl Address {
    fn read(host: &str) -> Result<Self, ConnectError> {
        let wrong = || ConnectError::Scheme(host.to_owned());
        match host.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("tcp" | "http", rest))
                if !rest.is_empty() && env::var_os("DOCKER_TLS_VERIFY").is_none() =>
            {
                Ok(Self::Tcp(rest.trim_end_matches('/').to_owned()))
            }
            _ => Err(wrong()),
        }
    }

    fn dial(&self) -> Result<Docker, EngineError> {
        // The time-out is bollard's own, for the head of an answer only; ours are shorter, or meant to be this long.
        let longest = Operation::LoadImage.deadline().as_secs();
        match self {
            Self::Unix(path) => {
                Docker::connect_with_unix(&path.to_string_lossy(), longest, bollard::API_DEFAULT_VERSION)
            }
            Self::Tcp(host) => {
                Docker::connect_with_http(&format!("tcp://{host}"), longest, bollard::API_DEFAULT_VERSION)
            }
        }
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

impl ApiVersion {
    fn read(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Where an engine may be, in the order in which to try.
fn candidates(
    docker_host: Option<String>,
    runtime_dir: Option<PathBuf>,
) -> Result<Vec<Address>, ConnectError> {
    if let Some(host) = docker_host.filter(|host| !host.is_empty()) {
        return Ok(vec![Address::read(&host)?]);
    }
    let rootless = runtime_dir.map(|dir| dir.join("docker.sock"));
    Ok([Some(PathBuf::from(SYSTEM_SOCKET)), rootless].into_iter().flatten().map(Address::Unix).collect())
}

/// The newest version that both sides speak.
fn common(engines_newest: ApiVersion, engines_oldest: ApiVersion) -> Option<ApiVersion> {
    let newest = engines_newest.min(NEWEST);
    (newest >= engines_oldest.max(OLDEST)).then_some(newest)
}

/// An engine lists its init among its components only when it found one that runs.
fn init_among(components: &[SystemVersionComponents]) -> Init {
    if components.iter().any(|component| component.name.contains("init")) { Init::Reaper } else { Init::None }
}

/// Opens and closes the socket.
async fn knock(path: &Path, by: Instant) -> Result<(), ConnectError> {
    let address = || Address::Unix(path.to_owned());
    let source = match timeout_at(by, UnixStream::connect(path)).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error,
        Err(elapsed) => elapsed.into(),
    };
    Err(match source.kind() {
        io::ErrorKind::NotFound => ConnectError::NoSocket { tried: address().to_string() },
        io::ErrorKind::PermissionDenied => ConnectError::NotAllowed { address: address(), source },
        _ => ConnectError::NoAnswer { address: address(), source: source.into() },
    })
}

/// Puts the version before the path, unless a later bollard has done so.
fn speak(api: ApiVersion, mut request: BollardRequest) -> BollardRequest {
    let uri = request.uri();
    if let (Some(scheme), Some(authority), Some(path)) =
        (uri.scheme_str(), uri.authority(), uri.path_and_query())
        && !path.as_str().starts_with("/v1.")
        && let Ok(versioned) = format!("{scheme}://{authority}/v{api}{path}").parse()
    {
        *request.uri_mut() = versioned;
    }
    request
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    fn api(minor: usize) -> ApiVersion {
        ApiVersion { major: 1, minor }
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        assert_eq!(common(api(41), api(12)), Some(api(41)), "engine 20.10 on Debian 12");
        assert_eq!(common(api(52), api(44)), Some(api(52)), "engine 29");
        assert_eq!(common(api(90), api(44)), Some(NEWEST), "an engine from the future that remembers us");
        assert_eq!(common(api(90), api(80)), None, "one that does not");
        assert_eq!(common(api(40), api(12)), None, "engine 19.03");
    }

    #[test]
    fn docker_host_is_the_only_candidate_when_it_is_set() -> Result<(), ConnectError> {
        let named = candidates(Some("unix:///somewhere/d.sock".to_owned()), Some("/run/user/7".into()))?;
        assert_eq!(named, [Address::Unix("/somewhere/d.sock".into())]);
        let unnamed = candidates(Some(String::new()), Some("/run/user/7".into()))?;
        assert_eq!(
            unnamed,
            [Address::Unix(SYSTEM_SOCKET.into()), Address::Unix("/run/user/7/docker.sock".into())]
        );
        Ok(())
    }

    #[test]
    fn a_docker_host_that_cannot_work_is_named_with_the_remedy() {
        let error = candidates(Some("ssh://somewhere".to_owned()), None).map(drop).unwrap_err();
        insta::assert_snapshot!(error, @r#"DOCKER_HOST="ssh://somewhere" cannot be used: give unix:///PATH or tcp://ADDRESS:PORT of an engine on this machine"#);
    }

    #[tokio::test]
    async fn an_absent_engine_is_told_from_a_silent_one() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("docker.sock");
        let by = Instant::now() + Duration::from_millis(200);
        assert!(matches!(
            Engine::at(Address::Unix(path.clone()), by).await,
            Err(ConnectError::NoSocket { .. })
        ));
        let silent = std::os::unix::net::UnixListener::bind(&path)?;
        assert!(matches!(
            Engine::at(Address::Unix(path.clone()), by).await,
            Err(ConnectError::NoAnswer { .. })
        ));
        drop(silent);
        assert!(matches!(Engine::at(Address::Unix(path), by).await, Err(ConnectError::NoAnswer { .. })));
        Ok(())
    }
}
