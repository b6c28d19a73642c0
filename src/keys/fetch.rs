//! One bounded read of a JWK Set, over TLS, from a loopback address, or from a file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, RETRY_AFTER, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::bare_host;
use super::proxies::{Proxies, Way};
use crate::config::KeySource;
use crate::dial::{self, DialError};
use crate::jose::{Algorithm, KeySet, MAX_DOCUMENT_BYTES};

/// Reads key sets.
#[derive(Clone)]
pub struct Fetcher {
    tls: Arc<ClientConfig>,
    proxies: Arc<Proxies>,
    timeout: Duration,
}

/// Why a key set could not be read.
#[derive(Debug)]
pub enum FetchError {
    /// The file cannot be read.
    File(io::Error),
    /// The connection failed, or broke.
    Http(hyper::Error),
    /// The host could not be reached, directly or through a proxy.
    Connect(String),
    /// The proxy's own URL is not usable.
    Proxy(String),
    /// Another status than 200. Redirects are not followed: keys come from the configured place.
    Status {
        /// The status.
        status: StatusCode,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It took longer than `auth0.keys.timeout`.
    Timeout(Duration),
    /// The TLS handshake failed.
    Tls(io::Error),
    /// More than [`MAX_DOCUMENT_BYTES`].
    TooLarge,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => write!(f, "cannot read the file: {error}"),
            Self::Http(error) => write!(f, "HTTP: {error}"),
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Proxy(error) => write!(f, "proxy: {error}"),
            Self::Status { status, .. } if status.is_redirection() => {
                write!(f, "status {status}: redirects are not followed")
            }
            Self::Status { status, .. } => write!(f, "status {status}"),
            Self::Timeout(limit) => write!(f, "no complete answer within {limit:?}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::TooLarge => write!(f, "more than {MAX_DOCUMENT_BYTES} bytes"),
        }
    }
}

impl std::error::Error for FetchError {}

impl FetchError {
    /// When the server wants to be asked again.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Fetcher {
    /// A fetcher that takes at most `timeout` for everything. `HTTPS_PROXY` and `NO_PROXY` apply.
    #[must_use]
    pub fn new(tls: Arc<ClientConfig>, timeout: Duration) -> Self {
        Self {
            tls,
            proxies: Arc::new(Proxies::from_env()),
            timeout,
        }
    }

    /// Reads the document.
    ///
    /// # Errors
    ///
    /// [`FetchError`] says which step failed.
    pub async fn fetch(&self, source: &KeySource) -> Result<Bytes, FetchError> {
        let reading = async {
            match source {
                KeySource::File(path) => read_file(path).await,
                KeySource::Url(url) => self.get(url).await,
            }
        };
        tokio::time::timeout(self.timeout, reading)
            .await
            .map_err(|_| FetchError::Timeout(self.timeout))?
    }

    /// The way that it takes to a document.
    #[must_use]
    pub fn way(&self, source: &KeySource) -> Way {
        match source {
            KeySource::File(_) => Way::File,
            KeySource::Url(url) => self.proxies.way(url),
        }
    }

    async fn get(&self, url: &Uri) -> Result<Bytes, FetchError> {
        if url.scheme_str() == Some("http") {
            // Loopback only, as configuration has checked; never through a proxy.
            return get_over(connect(url).await?, url).await;
        }
        let stream = match self.proxies.intercept(url) {
            None => connect(url).await?,
            Some(proxy) => {
                if proxy.uri().scheme_str() != Some("http") {
                    return Err(FetchError::Proxy(
                        "only http:// proxies are supported".to_owned(),
                    ));
                }
                let mut tunnel = Tunnel::new(proxy.uri().clone(), Dialed);
                if let Some(credentials) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(credentials.clone());
                }
                tunnel
                    .call(with_port(url)?)
                    .await
                    .map_err(|error| FetchError::Proxy(error.to_string()))?
            }
        };
        let name = ServerName::try_from(bare_host(url).to_owned())
            .map_err(|error| FetchError::Connect(error.to_string()))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream.into_inner())
            .await
            .map_err(FetchError::Tls)?;
        get_over(TokioIo::new(stream), url).await
    }
}

/// The tunnel asks the proxy for exactly this authority, so the port must be said.
fn with_port(url: &Uri) -> Result<Uri, FetchError> {
    let port = url.port_u16().unwrap_or(443);
    let host = url.host().unwrap_or_default();
    format!("https://{host}:{port}/")
        .parse()
        .map_err(|error: http::uri::InvalidUri| FetchError::Connect(error.to_string()))
}

async fn connect(url: &Uri) -> Result<TokioIo<TcpStream>, FetchError> {
    let default_port = if url.scheme_str() == Some("http") {
        80
    } else {
        443
    };
    let port = url.port_u16().unwrap_or(default_port);
    dial::connect(bare_host(url), port)
        .await
        .map(TokioIo::new)
        .map_err(|error| FetchError::Connect(error.to_string()))
}

/// Connects to a proxy as to everything else.
#[derive(Clone)]
struct Dialed;

impl Service<Uri> for Dialed {
    type Response = TokioIo<TcpStream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, proxy: Uri) -> Self::Future {
        Box::pin(async move {
            let port = proxy.port_u16().unwrap_or(80);
            dial::connect(bare_host(&proxy), port)
                .await
                .map(TokioIo::new)
        })
    }
}

async fn get_over<S>(stream: S, url: &Uri) -> Result<Bytes, FetchError>
where
    S: Read + Write + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(stream).await.map_err(FetchError::Http)?;
    let request = Request::get(
        url.path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str),
    )
    .header(
        HOST,
        url.authority().map_or("", http::uri::Authority::as_str),
    )
    .header(ACCEPT, "application/json")
    .header(USER_AGENT, concat!("authgate/", env!("CARGO_PKG_VERSION")))
    .body(Empty::<Bytes>::new())
    .map_err(|error| FetchError::Connect(error.to_string()))?;
    let answer = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(FetchError::Http)?;
        if response.status() != StatusCode::OK {
            let retry_after = response.headers().get(RETRY_AFTER);
            let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
            return Err(FetchError::Status {
                status: response.status(),
                retry_after: seconds.map(Duration::from_secs),
            });
        }
        let body = Limited::new(response.into_body(), MAX_DOCUMENT_BYTES)
            .collect()
            .await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|error| {
                if error.is::<LengthLimitError>() {
                    FetchError::TooLarge
                } else {
                    error.downcast().map_or_else(
                        |error| FetchError::Connect(error.to_string()),
                        |error| FetchError::Http(*error),
                    )
                }
            })
    };
    // The connection makes progress only while it is polled; it ends with the answer.
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // It may end badly behind an answer that is whole by its own framing, with which it has come in one
        // piece: many servers close without the close_notify of TLS. An answer that only the end of the
        // connection ends is an error in itself then (RFC 9112 §9.8), since it may have been cut.
        ended = &mut connection => match (answer.await, ended) {
            (Err(FetchError::Http(_)), Err(error)) => Err(FetchError::Http(error)),
            (answer, _) => answer,
        },
    }
}

async fn read_file(path: &Path) -> Result<Bytes, FetchError> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || read_whole(&path))
        .await
        .map_err(|error| FetchError::File(io::Error::other(error)))?
}

/// Files are read whole, up to the same bound as documents from the network.
fn read_whole(path: &Path) -> Result<Bytes, FetchError> {
    use std::io::Read as _;
    let mut document = Vec::new();
    let limit = u64::try_from(MAX_DOCUMENT_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    std::fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut document))
        .map_err(FetchError::File)?;
    if document.len() > MAX_DOCUMENT_BYTES {
        return Err(FetchError::TooLarge);
    }
    Ok(document.into())
}

/// An `auth0.keys.file` that is missing, or is no JWK Set.
#[derive(Debug)]
pub struct KeyFileError {
    file: PathBuf,
    why: String,
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "auth0.keys.file: {}: {}", self.file.display(), self.why)
    }
}

impl std::error::Error for KeyFileError {}

/// Whether the file with an issuer's keys, where they are in one, can be read. What is on the disk is there before
/// the program: to wait for it would hide a slip of the finger.
///
/// # Errors
///
/// [`KeyFileError`] when it is missing, or no JWK Set.
pub fn check_file(source: &KeySource, algorithms: &[Algorithm]) -> Result<(), KeyFileError> {
    let KeySource::File(file) = source else {
        return Ok(());
    };
    let fail = |error: &dyn fmt::Display| KeyFileError {
        file: file.clone(),
        why: error.to_string(),
    };
    let document = read_whole(file).map_err(|error| fail(&error))?;
    KeySet::parse(&document, algorithms).map_err(|error| fail(&error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::get_over;
    use hyper_util::rt::TokioIo;
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    /// A server that says this as soon as it is asked anything, and breaks.
    struct Broken {
        says: Vec<u8>,
        error: io::ErrorKind,
        is_asked: bool,
    }

    impl Broken {
        fn new(says: &str, error: io::ErrorKind) -> TokioIo<Self> {
            TokioIo::new(Self {
                says: says.into(),
                error,
                is_asked: false,
            })
        }
    }

    impl AsyncRead for Broken {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if !self.is_asked {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.says.is_empty() {
                return Poll::Ready(Err(self.error.into()));
            }
            let turn = self.says.len().min(buffer.remaining());
            let rest = self.says.split_off(turn);
            buffer.put_slice(&self.says);
            self.says = rest;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.is_asked = true;
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_whole_by_its_framing_counts_however_the_connection_ends() {
        let url = "https://tenant.example.com/jwks.json"
            .parse()
            .expect("a URL");
        for (fields, body, expected) in [
            ("Content-Length: 5", "hello", Some("hello")),
            (
                "Content-Length: 5\r\nConnection: close",
                "hello",
                Some("hello"),
            ),
            ("Content-Length: 0", "", Some("")),
            (
                "Transfer-Encoding: chunked",
                "5\r\nhello\r\n0\r\n\r\n",
                Some("hello"),
            ),
            // Cut short, or perhaps cut short.
            ("Content-Length: 6", "hello", None),
            ("Content-Length: 6\r\nConnection: close", "hello", None),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n", None),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n", None),
            ("Transfer-Encoding: chunked", "5\r\nhel", None),
            ("Connection: close", "hello", None),
            ("Content-Type: application/json", "hello", None),
            ("Connection: close", "", None),
        ] {
            for kind in [
                io::ErrorKind::UnexpectedEof,
                io::ErrorKind::ConnectionReset,
                io::ErrorKind::TimedOut,
            ] {
                let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}");
                let read = get_over(Broken::new(&answer, kind), &url).await.ok();
                let expected = expected.map(Into::into);
                assert_eq!(read, expected, "{fields:?} {body:?} {kind}");
            }
        }
        for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"] {
            let broken = Broken::new(answer, io::ErrorKind::ConnectionReset);
            let read = get_over(broken, &url).await;
            read.expect_err("half a head is no answer");
        }
    }
}
