//! One client connection, from its first byte to its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::activity::{Activity, Counted};
use super::watched::Watched;
use super::{BoxError, Client, ConnectionSettings, Phase};

/// Requests that one HTTP/2 connection may have open: the least that RFC 9113 §6.5.2 recommends.
const MAX_HTTP2_STREAMS: u32 = 100;

/// What an HTTP/2 client may send ahead on one stream, and on one connection.
const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What is held for an HTTP/2 client that reads slowly, per stream.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;

/// How long a connection may be silent before its peer's kernel is asked whether it is still there,
/// and how often. A vanished client holds one of `limits.connections` for some minutes at most.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How often an HTTP/2 client with open streams is asked whether it is still there.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// Streams that a client opened and reset before they were looked at (CVE-2023-44487).
const MAX_HTTP2_PENDING_RESETS: usize = 20;

/// Streams that this side reset for a client's errors (CVE-2025-8671).
const MAX_HTTP2_LOCAL_RESETS: usize = 256;

/// Serves a connection until it ends.
pub(super) async fn serve<H, F, B>(
    stream: TcpStream,
    settings: Arc<ConnectionSettings>,
    client: Client,
    handler: H,
) where
    H: Fn(Request<Incoming>, Client) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static,
{
    // Events must not wait for the next one (Nagle); a peer that vanished must be noticed, however
    // silent its stream is.
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL);
    let prepared = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive));
    if prepared.is_err() {
        return;
    }
    let mut phase = client.phase.clone();
    let is_http2 = tokio::select! {
        spoken = tokio::time::timeout(settings.header_timeout, speaks_http2(&stream)) => spoken,
        // Nothing was asked on this connection, so nothing is cut.
        _ = phase.wait_for(|phase| *phase >= Phase::Draining) => return,
    };
    let Ok(Ok(is_http2)) = is_http2 else {
        return;
    };
    let activity = Arc::clone(&client.activity);
    let address = client.address;
    let service = Counted::new(handler, client);
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity), !is_http2));
    let ended = if is_http2 {
        let connection = http2_builder(&settings).serve_connection(io, service);
        drive(connection, &activity, &settings, phase, Phase::Lingering).await
    } else {
        let connection = http1_builder(&settings)
            .serve_connection(io, service)
            .with_upgrades();
        // While lingering, each answer says `Connection: close`; nothing idle is cut yet.
        drive(connection, &activity, &settings, phase, Phase::Draining).await
    };
    if let Err(error) = ended {
        log_ended(&error, address);
    }
}

/// hyper answers what it cannot read by itself; here it gets the one line that every request gets.
fn log_ended(error: &hyper::Error, client: Option<SocketAddr>) {
    if error.is_parse() {
        let code = if error.is_parse_too_large() {
            "headers_too_large"
        } else {
            "request_malformed"
        };
        tracing::info!(
            target: "authgate::request",
            client = client.map(tracing::field::display),
            outcome = "refused",
            code,
            detail = %error,
            "request"
        );
    } else {
        tracing::debug!(%error, "connection ended");
    }
}

/// Prior knowledge (RFC 9113 §3.3): no HTTP/1 method begins like the HTTP/2 preface.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 3];
    let length = stream.peek(&mut first).await?;
    Ok(first.get(..length) == Some(b"PRI"))
}

fn http1_builder(settings: &ConnectionSettings) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // The deadlines for heads and idle connections are kept in `drive`: hyper's own starts
        // with the end of the last answer and would close idle connections early.
        .header_read_timeout(None)
        .max_headers(settings.max_headers)
        .max_header_size(settings.max_header_bytes)
        .max_buf_size(settings.max_header_bytes.max(64 * 1024));
    builder
}

fn http2_builder(settings: &ConnectionSettings) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .max_concurrent_streams(MAX_HTTP2_STREAMS)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_header_list_size(u32::try_from(settings.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_HTTP2_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_HTTP2_LOCAL_RESETS);
    builder
}

/// Both kinds of connection, as far as draining needs to know.
trait Drainable: Future<Output = hyper::Result<()>> {
    fn drain(self: Pin<&mut Self>);
}

impl<S, B> Drainable for http1::UpgradeableConnection<TokioIo<Watched>, S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + 'static,
{
    fn drain(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

impl<S, B> Drainable for http2::Connection<TokioIo<Watched>, S, TokioExecutor>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static,
{
    fn drain(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

/// Moves a connection along until it ends, its time is over, or the process has drained.
async fn drive<C: Drainable>(
    connection: C,
    activity: &Activity,
    settings: &ConnectionSettings,
    mut phase: watch::Receiver<Phase>,
    leave_at: Phase,
) -> hyper::Result<()> {
    let mut connection = pin!(connection);
    let mut deadline = pin!(tokio::time::sleep_until(activity.deadline(settings).into()));
    let mut cut_phase = phase.clone();
    let mut cut = pin!(async move { _ = cut_phase.wait_for(|phase| *phase == Phase::Cut).await });
    let mut leaving = pin!(async move { _ = phase.wait_for(|phase| *phase >= leave_at).await });
    let mut leave = false;
    let mut told = false;
    std::future::poll_fn(|cx| {
        if cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        leave = leave || leaving.as_mut().poll(cx).is_ready();
        // A newcomer is served first: GOAWAY before its first request would turn it away unheard.
        if leave && !told && (activity.has_served() || leave_at == Phase::Draining) {
            told = true;
            connection.as_mut().drain();
        }
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(ended);
        }
        // Re-armed only when the deadline came nearer, or when it has fired and is further away.
        let due = activity.deadline(settings);
        if due < deadline.deadline().into_std() {
            deadline.as_mut().reset(due.into());
        }
        while deadline.as_mut().poll(cx).is_ready() {
            let due = activity.deadline(settings);
            if due <= Instant::now() {
                return Poll::Ready(Ok(()));
            }
            deadline.as_mut().reset(due.into());
        }
        Poll::Pending
    })
    .await
}
