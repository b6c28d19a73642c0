//! A new connection to the backend, over TCP, TLS or a unix socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::body::RequestBody;
use super::failure::Failure;
use crate::config::UpstreamAddress;
use crate::tls::{Roots, RootsError};

/// Response headers of a backend: the same order of size as a client may send.
const MAX_RESPONSE_HEADERS: usize = 256;

/// What hyper may buffer of a response head. Mastra's own heads are under 2 KiB; cookies and
/// content policies of other backends may be larger.
const MAX_RESPONSE_HEAD_BYTES: usize = 128 * 1024;

/// How connections to the backend are made.
#[derive(Clone)]
pub struct Connector {
    address: Address,
    timeout: Duration,
}

#[derive(Clone)]
enum Address {
    Tcp {
        host: String,
        port: u16,
    },
    Tls {
        host: String,
        port: u16,
        name: ServerName<'static>,
        tls: Arc<ClientConfig>,
    },
    Unix(PathBuf),
}

/// Why an `https` upstream cannot be set up.
#[derive(Debug)]
pub enum ConnectorError {
    /// Its host can stand in no certificate.
    Name,
    /// There are no trusted roots.
    Roots(RootsError),
    /// rustls refused the configuration.
    Tls(rustls::Error),
}

impl fmt::Display for ConnectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("the host can stand in no certificate"),
            Self::Roots(error) => write!(f, "trusted roots: {error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
        }
    }
}

impl std::error::Error for ConnectorError {}

/// A connection's two ends: where requests go in, and what moves the bytes.
pub(super) type Handshake = (
    http1::SendRequest<RequestBody>,
    http1::Connection<TokioIo<Stream>, RequestBody>,
);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Connector {
    /// A connector to `address`. An `https` upstream is checked against the system's roots. Proxy
    /// variables do not apply: the backend is in reach, and its traffic must not leave the pod.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`] when TLS is asked for and cannot be set up.
    pub fn new(address: &UpstreamAddress, timeout: Duration) -> Result<Self, ConnectorError> {
        let address = match address {
            UpstreamAddress::Http { host, port } => Address::Tcp {
                host: host.clone(),
                port: *port,
            },
            UpstreamAddress::Https { host, port } => Address::Tls {
                host: host.clone(),
                port: *port,
                name: ServerName::try_from(host.clone()).map_err(|_| ConnectorError::Name)?,
                tls: Roots::load(None)
                    .map_err(ConnectorError::Roots)?
                    .client_config()
                    .map_err(ConnectorError::Tls)?,
            },
            UpstreamAddress::Unix(path) => Address::Unix(path.clone()),
        };
        Ok(Self { address, timeout })
    }

    /// Connects, within the timeout, TLS included.
    ///
    /// # Errors
    ///
    /// [`Failure`] says which step failed.
    pub async fn connect(&self) -> Result<Stream, Failure> {
        tokio::time::timeout(self.timeout, self.open())
            .await
            .map_err(|_| Failure::ConnectTimeout(self.timeout))?
    }

    pub(super) async fn handshake(&self) -> Result<Handshake, Failure> {
        let stream = TokioIo::new(self.connect().await?);
        http1::Builder::new()
            .max_headers(MAX_RESPONSE_HEADERS)
            .max_buf_size(MAX_RESPONSE_HEAD_BYTES)
            .handshake(stream)
            .await
            .map_err(Failure::Broken)
    }

    async fn open(&self) -> Result<Stream, Failure> {
        match &self.address {
            Address::Tcp { host, port } => Ok(Stream::Tcp(tcp(host, *port).await?)),
            Address::Tls {
                host,
                port,
                name,
                tls,
            } => {
                let stream = tcp(host, *port).await?;
                let stream = TlsConnector::from(Arc::clone(tls))
                    .connect(name.clone(), stream)
                    .await
                    .map_err(Failure::Tls)?;
                Ok(Stream::Tls(Box::new(stream)))
            }
            Address::Unix(path) => UnixStream::connect(path)
                .await
                .map(Stream::Unix)
                .map_err(Failure::connect),
        }
    }
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, Failure> {
    // An address needs no look-up, and gets none.
    let addresses = lookup_host((host, port)).await.map_err(Failure::Resolve)?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    let stream = TcpStream::connect(addresses.as_slice())
        .await
        .map_err(Failure::connect)?;
    // Events must not wait for the next one (Nagle).
    stream.set_nodelay(true).map_err(Failure::connect)?;
    Ok(stream)
}

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Whether the other side reset the connection: its kernel answers bytes for a closed socket so.
    pub(super) fn was_reset(&self) -> bool {
        let socket = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
            // Writing to a closed unix socket fails at once, before anything is sent.
            Self::Unix(_) => return false,
        };
        socket.take_error().is_ok_and(|error| error.is_some())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
