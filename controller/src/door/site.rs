//! Where a door is, and how its controller gets to talk to it: over a Unix socket, or over the port that workers dial, too.
//!
//! Over TCP the first bytes prove the right to be there, before the door spends anything on it; then comes TLS, where the
//! deployment has it, in which the door proves that it is one; then the same lines as on the Unix socket.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use server::identity::Secret;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::certificates::DOOR_NAME;

/// How long a connection over a network may take to come about, TLS included.
const DIAL_PATIENCE: Duration = Duration::from_secs(5);

/// A door, by the name that whoever finds doors knows it by: another name is another door, wherever it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Where it is dialled.
    pub address: Address,
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
        Self { name: "door".to_owned(), address: Address::Here(socket.into()) }
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
    /// What it says before anything else, over TCP.
    preface: Vec<u8>,
    tls: Option<TlsConnector>,
}

/// What was to be an authority's certificate is none.
#[derive(Debug, Error)]
pub enum CaError {
    /// It is no PEM.
    #[error("the certificate of the deployment's authority is damaged")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// It is no certificate, or TLS is not to be had.
    #[error("the certificate of the deployment's authority cannot be used")]
    Tls(#[source] rustls::Error),
}

impl Approach {
    /// For doors on this machine.
    pub fn here(secret: Secret) -> Self {
        Self { secret, preface: Vec::new(), tls: None }
    }

    /// For doors over TCP, which are greeted by `preface`; with an authority's certificate in PEM, by TLS.
    pub fn there(secret: Secret, preface: Vec<u8>, ca: Option<&str>) -> Result<Self, CaError> {
        Ok(Self { secret, preface, tls: ca.map(connector).transpose()? })
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
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&self.preface).await?;
        match &self.tls {
            None => Ok(Wire::of(stream)),
            Some(tls) => {
                let name = ServerName::try_from(DOOR_NAME).map_err(io::Error::other)?;
                Ok(Wire::of(tls.connect(name, stream).await?))
            }
        }
    }
}

impl fmt::Debug for Approach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Approach").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

fn connector(ca: &str) -> Result<TlsConnector, CaError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.map_err(CaError::Pem)?).map_err(CaError::Tls)?;
    }
    if roots.is_empty() {
        return Err(CaError::Pem(rustls::pki_types::pem::Error::NoItemsFound));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(CaError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
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
