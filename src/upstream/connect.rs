//! A new connection to the backend, over TCP, TLS or a unix socket.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::body::RequestBody;
use super::failure::Failure;
use super::http2;
use crate::budget::{Budget, Budgets, Exhausted, FIRST_BUFFER, Reading};
use crate::config::{UpstreamAddress, UpstreamProtocol};
use crate::dial::{self, DialError};
use crate::tls::{H2, HTTP_1_1, Roots, RootsError};
use crate::writing::{self, Space};

/// Response headers of a backend: as many as a client may send. For more, hyper needs memory of its own
/// for every answer.
pub(super) const MAX_RESPONSE_HEADERS: usize = 100;

/// What hyper may buffer of a response head. Mastra's own heads are under 2 KiB; cookies and
/// content policies of other backends may be larger.
pub(super) const MAX_RESPONSE_HEAD_BYTES: u32 = 128 * 1024;

/// The largest buffer that is read into over HTTP/1, which must hold a response head. It grows so far only
/// while bodies fill it, and the budget of buffers allows it.
const MAX_BUFFER: usize = 128 * 1024;

/// How connections to the backend are made.
#[derive(Clone)]
pub struct Connector {
    address: Address,
    protocol: UpstreamProtocol,
    timeout: Duration,
    buffers: Budget,
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

/// Why there is no connection. Everybody who waited for the attempt gets a copy.
#[derive(Debug, Clone)]
pub enum ConnectError {
    /// This process has no file descriptor left for it.
    NoDescriptor,
    /// The process may have no more connections or streams, or this client may not.
    NoRoom(Exhausted),
    /// The other side does not speak HTTP/2, which is configured.
    NotHttp2(&'static str),
    /// The upstream's name leads to no address.
    Resolve(Arc<io::Error>),
    /// The socket could not be connected.
    Socket(Arc<io::Error>),
    /// Nothing within `timeouts.connect`.
    Timeout(Duration),
    /// The TLS handshake failed.
    Tls(Arc<io::Error>),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDescriptor => f.write_str("no file descriptor is left for a connection"),
            Self::NoRoom(why) => why.fmt(f),
            Self::NotHttp2(why) => write!(
                f,
                "{why}, so it is not HTTP/2, which upstream_protocol asks for"
            ),
            Self::Resolve(error) => write!(f, "cannot resolve the name: {error}"),
            Self::Socket(error) => write!(f, "cannot connect: {error}"),
            Self::Timeout(limit) => write!(f, "no connection within {limit:?}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
        }
    }
}

impl std::error::Error for ConnectError {}

impl ConnectError {
    /// The error type for `Proxy-Status` (RFC 9209 §2.3).
    pub(super) fn error_type(&self) -> &'static str {
        match self {
            Self::NoDescriptor | Self::NoRoom(_) => "proxy_internal_error",
            Self::NotHttp2(_) => "http_protocol_error",
            Self::Resolve(_) => "dns_error",
            Self::Socket(error) => socket_error_type(error.kind()),
            Self::Timeout(_) => "connection_timeout",
            Self::Tls(error) => tls_error_type(error),
        }
    }

    pub(super) fn socket(error: io::Error) -> Self {
        /// `EMFILE` and `ENFILE`, for which the standard library has no kind: the same on every Unix.
        const OUT_OF_DESCRIPTORS: [i32; 2] = [24, 23];
        let code = error.raw_os_error();
        if code.is_some_and(|code| OUT_OF_DESCRIPTORS.contains(&code)) {
            Self::NoDescriptor
        } else {
            Self::Socket(Arc::new(error))
        }
    }

    fn resolve(error: io::Error) -> Self {
        Self::Resolve(Arc::new(error))
    }

    fn tls(error: io::Error) -> Self {
        Self::Tls(Arc::new(error))
    }
}

fn socket_error_type(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::ConnectionRefused => "connection_refused",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "destination_ip_unroutable"
        }
        io::ErrorKind::TimedOut => "connection_timeout",
        _ => "destination_unavailable",
    }
}

fn tls_error_type(error: &io::Error) -> &'static str {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::AlertReceived(_)) => "tls_alert_received",
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            "tls_certificate_error"
        }
        _ => "tls_protocol_error",
    }
}

/// Where the requests of a connection go in.
pub(super) type Sender = http1::SendRequest<RequestBody>;

/// What moves the bytes of a connection.
pub(super) type Driver = http1::Connection<TokioIo<Stream>, RequestBody>;

/// A connection's two ends.
pub(super) type Handshake = (Sender, Driver);

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
    pub fn new(
        address: &UpstreamAddress,
        protocol: UpstreamProtocol,
        timeout: Duration,
    ) -> Result<Self, ConnectorError> {
        let alpn = match protocol {
            UpstreamProtocol::Http1 => HTTP_1_1,
            UpstreamProtocol::Http2 => H2,
        };
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
                    .client_config(alpn)
                    .map_err(ConnectorError::Tls)?,
            },
            UpstreamAddress::Unix(path) => Address::Unix(path.clone()),
        };
        Ok(Self {
            address,
            protocol,
            timeout,
            buffers: Budgets::default().buffers,
        })
    }

    /// The same, whose connections read into buffers out of this budget.
    #[must_use]
    pub fn within(self, buffers: &Budget) -> Self {
        Self {
            buffers: buffers.clone(),
            ..self
        }
    }

    /// Connects once, to see whether that can be done.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says which step failed.
    pub async fn reach(&self) -> Result<(), ConnectError> {
        match self.protocol {
            UpstreamProtocol::Http1 => self.in_time(self.connect()).await.map(drop),
            UpstreamProtocol::Http2 => http2::Line::open(self, None).await.map(drop),
        }
    }

    pub(super) const fn protocol(&self) -> UpstreamProtocol {
        self.protocol
    }

    /// Whether connections are encrypted.
    pub(super) const fn is_tls(&self) -> bool {
        matches!(self.address, Address::Tls { .. })
    }

    /// Whatever belongs to a new connection has to be done within the one timeout.
    pub(super) async fn in_time<T>(
        &self,
        connecting: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        tokio::time::timeout(self.timeout, connecting)
            .await
            .map_err(|_| ConnectError::Timeout(self.timeout))?
    }

    /// A connection of HTTP/1.1 to be upgraded.
    pub(super) async fn handshake(&self) -> Result<Handshake, Failure> {
        let stream = self.in_time(self.connect()).await?;
        Self::handshake_over(stream).await
    }

    /// A connection for ordinary exchanges: where the other side takes no more of a request, its answer is waited
    /// for all the same. See [`Stream`].
    pub(super) async fn handshake_for_answers(
        &self,
    ) -> Result<(Handshake, Arc<AtomicBool>), Failure> {
        let mut stream = self.in_time(self.connect()).await?;
        let is_cut = Arc::<AtomicBool>::default();
        stream.is_cut = Some(Arc::clone(&is_cut));
        Ok((Self::handshake_over(stream).await?, is_cut))
    }

    async fn handshake_over(stream: Stream) -> Result<Handshake, Failure> {
        http1::Builder::new()
            .max_headers(MAX_RESPONSE_HEADERS)
            .max_buf_size(MAX_BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Failure::Broken)
    }

    /// A connection, TLS included.
    pub(super) async fn connect(&self) -> Result<Stream, ConnectError> {
        Ok(Stream {
            socket: self.connect_socket().await?,
            buffers: self.buffers.clone(),
            reading: None,
            is_cut: None,
            cut_by: None,
        })
    }

    async fn connect_socket(&self) -> Result<Socket, ConnectError> {
        match &self.address {
            Address::Tcp { host, port } => Ok(Socket::Tcp(tcp(host, *port).await?)),
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
                    .map_err(ConnectError::tls)?;
                let agreed = stream.get_ref().1.alpn_protocol();
                if self.protocol == UpstreamProtocol::Http2 && agreed != Some(H2) {
                    return Err(ConnectError::NotHttp2("it did not choose h2 by ALPN"));
                }
                Ok(Socket::Tls(Box::new(stream)))
            }
            Address::Unix(path) => UnixStream::connect(path)
                .await
                .map(Socket::Unix)
                .map_err(ConnectError::socket),
        }
    }
}

/// Several addresses of a name may be tried at the same time. All of these attempts are the one connection that
/// is being made, and count under its place in [`super::room`]: no more than four sockets, of which all but one
/// are closed before anything is sent.
async fn tcp(host: &str, port: u16) -> Result<TcpStream, ConnectError> {
    let stream = dial::connect(host, port)
        .await
        .map_err(|error| match error {
            DialError::Resolve(error) => ConnectError::resolve(error),
            DialError::Connect(error) => ConnectError::socket(error),
        })?;
    // Events must not wait for the next one (Nagle).
    stream.set_nodelay(true).map_err(ConnectError::socket)?;
    writing::hold_little_unsent(&SockRef::from(&stream));
    Ok(stream)
}

/// A connection. It leases what hyper reads into beyond its first buffer, and reads less where that is not
/// to be had.
///
/// A backend may answer before it has read the request, with 413 say, and close. Its kernel resets the
/// connection then, and whoever goes on writing learns that first; the answer is still there to be read
/// (RFC 9112 §9.5 wants a sender to look for it). hyper would give both directions up. So, where that is asked
/// for, writes that the other side refuses count as done, and what follows of the request is thrown away, until
/// reading has come to an end. Such a connection is never used again.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Socket,
    buffers: Budget,
    /// From the first larger buffer on.
    reading: Option<Reading>,
    /// Whether the other side has refused a write. Without it that is an error at once, as a tunnel and HTTP/2
    /// want it.
    is_cut: Option<Arc<AtomicBool>>,
    /// How it has refused it.
    cut_by: Option<io::ErrorKind>,
}

/// A connected socket.
#[derive(Debug)]
enum Socket {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// The TCP socket under it, if there is one.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match &self.socket {
            Socket::Tcp(stream) => Some(stream),
            Socket::Tls(stream) => Some(stream.get_ref().0),
            Socket::Unix(_) => None,
        }
    }

    /// How much of so much space may be filled.
    fn allowed(&mut self, space: usize) -> usize {
        if space <= FIRST_BUFFER && self.reading.is_none() {
            return space;
        }
        let buffers = &self.buffers;
        self.reading
            .get_or_insert_with(|| Reading::new(buffers, MAX_BUFFER))
            .allow(buffers, space)
    }

    /// Whether the other side reset the connection: its kernel answers bytes for a closed socket so.
    pub(super) fn was_reset(&self) -> bool {
        // Writing to a closed unix socket fails at once, before anything is sent.
        let has_error = |socket: &TcpStream| socket.take_error().is_ok_and(|error| error.is_some());
        self.cut_by.is_some() || self.tcp().is_some_and(has_error)
    }

    /// What comes of a write. Every later one is as good as done.
    fn written<T>(&mut self, written: io::Result<T>, done: T) -> io::Result<T> {
        match (written, &self.is_cut) {
            (Err(error), Some(is_cut)) if is_refusal(&error) => {
                is_cut.store(true, Ordering::Relaxed);
                self.cut_by = Some(error.kind());
                tracing::debug!(%error, "the upstream takes no more of the request; its answer is waited for");
                Ok(done)
            }
            (written, _) => written,
        }
    }

    /// The end that reading came to, which may be what a write has learnt: the system tells each error once. After
    /// a reset, nobody knows whether an answer without a length is whole. A broken pipe comes behind an end.
    fn end(&self) -> io::Result<()> {
        match self.cut_by {
            Some(kind) if kind != io::ErrorKind::BrokenPipe => Err(kind.into()),
            _ => Ok(()),
        }
    }
}

/// Whether an error of a write says that the other side takes nothing more.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let allowed = this.allowed(buffer.remaining());
        let socket = Pin::new(&mut this.socket);
        if allowed >= buffer.remaining() {
            ready!(socket.poll_read(cx, buffer))?;
        } else {
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(allowed));
            ready!(socket.poll_read(cx, &mut part))?;
            let length = part.filled().len();
            buffer.advance(length);
        }
        if this.cut_by.is_some() && buffer.filled().len() == before {
            return Poll::Ready(this.end());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
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
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.cut_by.is_some() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes));
        Poll::Ready(self.written(written, bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = || slices.iter().map(|slice| slice.len()).sum();
        if self.cut_by.is_some() {
            return Poll::Ready(Ok(all()));
        }
        let socket = Pin::new(&mut self.socket);
        let written = ready!(match Space::new().join(slices) {
            Some(bytes) => socket.poll_write(cx, bytes),
            None => socket.poll_write_vectored(cx, slices),
        });
        Poll::Ready(self.written(written, all()))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut_by.is_some() {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut self.socket).poll_flush(cx));
        Poll::Ready(self.written(flushed, ()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut_by.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl AsyncWrite for Socket {
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

#[cfg(test)]
mod tests {
    use super::{Socket, Stream};
    use crate::budget::Budgets;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    fn stream(socket: Socket, is_cut: Option<Arc<AtomicBool>>) -> Stream {
        Stream {
            socket,
            buffers: Budgets::default().buffers,
            reading: None,
            is_cut,
            cut_by: None,
        }
    }

    /// Writes until the other side refuses it.
    async fn write(stream: &mut Stream, is_cut: &AtomicBool) -> io::Result<()> {
        let piece = vec![b'x'; 16 * 1024];
        let writing = async {
            while !is_cut.load(Ordering::Relaxed) {
                stream.write_all(&piece).await?;
            }
            // What is thrown away counts as written, however much it is.
            for _ in 0..1000 {
                stream.write_all(&piece).await?;
            }
            stream.flush().await?;
            stream.shutdown().await
        };
        let written = tokio::time::timeout(Duration::from_secs(10), writing).await;
        written.expect("no waiting for who has gone")
    }

    async fn tcp() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let ours = TcpStream::connect(address).await.expect("a connection");
        let (theirs, _) = listener.accept().await.expect("a connection");
        (ours, theirs)
    }

    #[tokio::test]
    async fn an_answer_outlives_the_reset_of_its_request() {
        // What ends the connection, with something unread in it, and how reading ends then.
        for (is_tcp, ends_first) in [(true, false), (true, true), (false, false)] {
            let is_cut = Arc::<AtomicBool>::default();
            let watched = Some(Arc::clone(&is_cut));
            let mut ours = if is_tcp {
                let (ours, mut theirs) = tcp().await;
                let mut ours = stream(Socket::Tcp(ours), watched);
                ours.write_all(b"unread").await.expect("room");
                theirs.readable().await.expect("bytes");
                theirs.write_all(b"answer").await.expect("room");
                if ends_first {
                    theirs.shutdown().await.expect("an end");
                }
                ours
            } else {
                let (ours, mut theirs) = UnixStream::pair().expect("a pair");
                let mut ours = stream(Socket::Unix(ours), watched);
                ours.write_all(b"unread").await.expect("room");
                theirs.write_all(b"answer").await.expect("room");
                ours
            };
            write(&mut ours, &is_cut).await.expect("no error");
            assert!(ours.was_reset());
            let mut answer = Vec::new();
            let end = ours.read_to_end(&mut answer).await;
            assert_eq!(answer, b"answer", "{is_tcp} {ends_first}");
            let end = end.map_err(|error| error.kind());
            if ends_first {
                assert_eq!(end, Ok(6), "the end came before the reset");
            } else {
                assert_eq!(end, Err(io::ErrorKind::ConnectionReset), "{is_tcp}");
            }
        }
    }

    #[tokio::test]
    async fn elsewhere_a_write_that_is_refused_is_an_error() {
        let (ours, theirs) = tcp().await;
        drop(theirs);
        let mut ours = stream(Socket::Tcp(ours), None);
        let error = write(&mut ours, &AtomicBool::new(false)).await;
        let kind = error.expect_err("nobody is there").kind();
        assert!(matches!(
            kind,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ));
    }
}
