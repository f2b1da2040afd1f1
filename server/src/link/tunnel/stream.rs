//! The connection that a tunnel runs over: TCP, in the clear or in TLS.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// The name that every door's certificate is for, whatever its address.
pub const DOOR_NAME: &str = "bulkhead-door";

/// How a door proves that it is one.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    /// Its certificate, and those between it and the one that clients know, in PEM.
    pub certificates_pem: Vec<u8>,
    /// Its key, in PEM.
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsIdentity").finish_non_exhaustive()
    }
}

/// What is wrong with a certificate or a key.
#[derive(Debug, Error)]
pub enum TlsError {
    /// Text that holds none.
    #[error("not a certificate or a key in PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// No certificate in it.
    #[error("there is no certificate in it")]
    Empty,
    /// They do not fit, or are of a kind that is not understood.
    #[error("the certificate cannot be used")]
    Unfit(#[source] rustls::Error),
}

/// Takes tunnels in.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "tokio-rustls has none")]
pub enum Acceptor {
    /// As they come.
    Plain,
    /// With a handshake.
    Tls(TlsAcceptor),
}

/// Begins tunnels.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "tokio-rustls has none")]
pub enum Connector {
    /// As they are.
    Plain,
    /// With a handshake in which the door proves who it is.
    Tls(TlsConnector),
}

/// One side of a tunnel.
#[derive(Debug)]
pub enum Stream {
    /// In the clear.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Acceptor {
    /// For a door with this identity.
    pub fn tls(identity: &TlsIdentity) -> Result<Self, TlsError> {
        let chain = certificates(&identity.certificates_pem)?;
        let key = PrivateKeyDer::from_pem_slice(&identity.key_pem).map_err(TlsError::Pem)?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key));
        Ok(Self::Tls(TlsAcceptor::from(Arc::new(config.map_err(TlsError::Unfit)?))))
    }

    /// Sees a handshake through, where there is one.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        Ok(match self {
            Self::Plain => Stream::Plain(stream),
            Self::Tls(acceptor) => Stream::Tls(Box::new(acceptor.accept(stream).await?.into())),
        })
    }
}

impl Connector {
    /// For doors whose certificates come from `ca`, which is in PEM.
    pub fn tls(ca: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(TlsError::Unfit)?;
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unfit)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self::Tls(TlsConnector::from(Arc::new(config))))
    }

    /// Sees a handshake through, where there is one.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<Stream> {
        Ok(match self {
            Self::Plain => Stream::Plain(stream),
            Self::Tls(connector) => {
                let name = ServerName::try_from(DOOR_NAME).map_err(io::Error::other)?;
                Stream::Tls(Box::new(connector.connect(name, stream).await?.into()))
            }
        })
    }
}

/// Whether a handshake has failed over who the door is: another try would end as this one did.
pub fn is_of_the_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(TlsError::Pem)?;
    if found.is_empty() { Err(TlsError::Empty) } else { Ok(found) }
}

/// Has the kernel watch over a connection: small frames leave at once, and a peer that has vanished is noticed within
/// `lost_after` whether something is under way to it (then it is not acknowledged) or not (then probes are not).
pub fn watch_over(stream: impl AsFd, lost_after: Duration) -> io::Result<()> {
    let stream = stream.as_fd();
    const SECOND: Duration = Duration::from_secs(1);
    sockopt::set_tcp_nodelay(stream, true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SECOND)?;
    sockopt::set_tcp_keepintvl(stream, SECOND)?;
    let probes = lost_after.as_secs().saturating_sub(1).clamp(1, 100);
    sockopt::set_tcp_keepcnt(stream, u32::try_from(probes).unwrap_or(1))?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(lost_after.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
