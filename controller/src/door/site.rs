//! Where a door is, and how its controller gets to talk to it: over a Unix socket, or over the port that workers dial, too.
//!
//! Over TCP the first bytes prove the right to be there, before the door spends anything on it; then comes TLS, where the
//! deployment has it, in which the door proves that it is one; then the same lines as on the Unix socket.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use server::identity::Secret;
use server::link::tunnel::{Connector, GO_ON, Preface, TlsError, watch_over};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// After how long without an acknowledgement the kernel gives a connection up.
const LOST_AFTER: Duration = Duration::from_secs(15);

/// After how long a peer that has not been heard of is lost, unless the spec says otherwise (`tunnel.lost_after`).
const VANISHED_AFTER: Duration = Duration::from_secs(3);

/// How long a connection over a network may take to come about, TLS included.
const DIAL_PATIENCE: Duration = Duration::from_secs(5);

/// How long the other machine's kernel may take for its part in that. It answers whatever its door is doing, in
/// milliseconds, or in a second when the question was lost on the way.
const KERNELS_PATIENCE: Duration = Duration::from_secs(2);

/// Nothing has answered at all: no door, and no kernel that would say that there is none.
#[derive(Debug, thiserror::Error)]
#[error("no machine answers there")]
struct Dark;

/// Whether a dial has failed because nothing answers there, not even to say no.
pub(super) fn is_dark(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)
        || error.get_ref().and_then(|inner| inner.downcast_ref::<Dark>()).is_some()
}

/// A door, by the name that whoever finds doors knows it by: another name is another door, wherever it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Where it is dialled.
    pub address: Address,
    /// The machine that it is on, where machines have names: workers that are there share its fate.
    pub machine: Option<String>,
}

/// Where a door is dialled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// At this Unix socket, by its controller alone.
    Here(PathBuf),
    /// At this `HOST:PORT`, by controller and workers.
    There(String),
}

impl Site {
    /// The door of this machine, at its control socket.
    pub fn here(socket: impl Into<PathBuf>) -> Self {
        Self { name: "door".to_owned(), address: Address::Here(socket.into()), machine: None }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(path) => path.display().fmt(f),
            Self::There(address) => f.write_str(address),
        }
    }
}

/// One door and never another.
pub fn only(site: Site) -> impl Stream<Item = Vec<Site>> + Send + 'static {
    stream::once(std::future::ready(vec![site])).chain(stream::pending())
}

/// How a controller makes itself known, and knows its doors.
#[derive(Clone)]
pub struct Approach {
    pub(super) secret: Secret,
    pub(super) lost_after: Duration,
    connector: Connector,
}

impl Approach {
    /// With the deployment's secret; where its tunnels are encrypted, with the certificate of its authority in PEM.
    ///
    /// # Errors
    /// That is no certificate.
    pub fn new(secret: Secret, ca: Option<&str>) -> Result<Self, TlsError> {
        let connector = match ca {
            None => Connector::Plain,
            Some(ca) => Connector::tls(ca.as_bytes())?,
        };
        Ok(Self { secret, lost_after: VANISHED_AFTER, connector })
    }

    /// For a door that is reached in the clear, or over a Unix socket.
    pub fn plain(secret: Secret) -> Self {
        Self { secret, lost_after: VANISHED_AFTER, connector: Connector::Plain }
    }

    /// The same where a peer that has not been heard of counts as lost after so long: the spec's `tunnel.lost_after`.
    #[must_use]
    pub fn losing_after(self, lost_after: Duration) -> Self {
        Self { lost_after, ..self }
    }

    /// Connects. Both halves of the connection, on which nothing of the protocol has been said.
    pub(super) async fn dial(&self, address: &Address) -> io::Result<Wire> {
        match address {
            Address::Here(path) => Ok(Wire::of(UnixStream::connect(path).await?)),
            Address::There(address) => {
                let dialled = tokio::time::timeout(DIAL_PATIENCE, self.dial_there(address)).await;
                dialled.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            }
        }
    }

    async fn dial_there(&self, address: &str) -> io::Result<Wire> {
        let connecting = tokio::time::timeout(KERNELS_PATIENCE, TcpStream::connect(address));
        let mut stream = connecting.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, Dark))??;
        watch_over(&stream, LOST_AFTER)?;
        stream.write_all(&Preface::controller(&self.secret).to_bytes()).await?;
        if stream.read_u8().await? != GO_ON {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it does not know this controller's secret",
            ));
        }
        Ok(Wire::of(self.connector.connect(stream).await?))
    }
}

impl fmt::Debug for Approach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Approach")
            .field("tls", &matches!(self.connector, Connector::Tls(_)))
            .finish_non_exhaustive()
    }
}

/// Both directions of a connection.
pub(super) struct Wire {
    pub(super) from: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) to: Box<dyn AsyncWrite + Send + Unpin>,
}

impl Wire {
    fn of(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (from, to) = tokio::io::split(stream);
        Self { from: Box::new(from), to: Box::new(to) }
    }
}
