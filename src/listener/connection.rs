//! One client connection, from its first byte to its end.

use std::future::Future;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::coop::has_budget_remaining;
use tokio_rustls::TlsAcceptor;

use super::activity::{Activity, Counted, Doing};
use super::connections::Connections;
use super::opening::{self, OpeningError, Rewound};
use super::slots::Place;
use super::watched::{Bounds, Watched};
use super::{BoxError, Client, ConnectionSettings, Handler, Phase, Unreadable};
use crate::budget::Lease;
use crate::clock::after;

/// How much of an upload is read at once, and of an answer is held for a client that reads slowly, over
/// HTTP/1. Less would be more calls for a large body; what is read begins with 8 KiB and grows only while
/// a body fills it and the budget of buffers allows it.
const MAX_PIECE_BYTES: usize = 256 * 1024;

/// Requests that one HTTP/2 connection may have open: the least that RFC 9113 §6.5.2 recommends.
const MAX_HTTP2_STREAMS: u32 = 100;

/// What an HTTP/2 client may send ahead on one stream, and on one connection.
const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The same for connections that begin when the budget of buffers has no such window left for them: the
/// least that RFC 9113 §6.9.2 allows for the connection, and a frame for each stream.
const HTTP2_SMALL_STREAM_WINDOW: u32 = HTTP2_FRAME_BYTES;
const HTTP2_SMALL_CONNECTION_WINDOW: u32 = 65_535;

/// What is held for an HTTP/2 client that reads slowly, per stream.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;

/// The largest frame an HTTP/2 client may send: the least that RFC 9113 §4.2 allows, since a frame is
/// held until it is whole.
const HTTP2_FRAME_BYTES: u32 = 16 * 1024;

/// What an HTTP/2 client may have remembered of its header fields: what RFC 7541 begins with. What
/// they unpack to is bounded by `limits.header_bytes`.
const HTTP2_HEADER_TABLE_BYTES: u32 = 4096;

/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to answer.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Streams that a client opened and reset before they were looked at (CVE-2023-44487).
const MAX_HTTP2_PENDING_RESETS: usize = 20;

/// Streams that this side reset for a client's errors (CVE-2025-8671).
const MAX_HTTP2_LOCAL_RESETS: usize = 256;

/// How long an HTTP/2 client may take to hear that its connection is over.
const HTTP2_GOODBYE: Duration = Duration::from_secs(1);

/// How long a connection may still take to begin when the idle ones are let go: it may have been accepted
/// just now, and its request or its TLS handshake is right behind it.
const LAST_OPENING: Duration = Duration::from_secs(1);

/// Serves a connection until it ends: a PROXY header where one is due, TLS where it is configured,
/// then HTTP.
pub async fn serve_stream<S, H>(
    mut stream: S,
    settings: Arc<ConnectionSettings>,
    client: Client,
    handler: H,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Handler,
{
    // It is known as long as it is served, so that it can be asked to go.
    let _entry = Connections::enter(&client.0.activity);
    let is_due = settings.proxy_protocol && settings.is_trusted(client.address());
    let Some(tls) = settings.tls.clone() else {
        let mut bytes = Vec::new();
        let patience = Patience::new(&settings, &client);
        let opening = async {
            let source = named_source(&mut stream, &mut bytes, is_due).await?;
            let is_http2 = opening::is_http2(&mut stream, &mut bytes).await?;
            Ok((source, is_http2, place_for(is_http2, &client).await))
        };
        if let Some((source, is_http2, _place)) = patience.wait_for(opening).await {
            let client = client.introduced(&settings, source, false);
            serve_http(stream, bytes, is_http2, settings, client, handler).await;
        }
        return;
    };
    // Boxed, so that it takes no room in the tasks of those who speak clear text.
    Box::pin(serve_tls(stream, is_due, tls, settings, client, handler)).await;
}

/// Serves a connection with TLS, whose PROXY header is still to come if one is due.
async fn serve_tls<S, H>(
    mut stream: S,
    is_due: bool,
    tls: Arc<rustls::ServerConfig>,
    settings: Arc<ConnectionSettings>,
    client: Client,
    handler: H,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Handler,
{
    let patience = Patience::new(&settings, &client);
    let mut bytes = Vec::new();
    let opening = async {
        let for_tls = client.0.slot.another_place().await;
        let source = named_source(&mut stream, &mut bytes, is_due).await?;
        let stream = Rewound::new(bytes, stream);
        let mut stream = TlsAcceptor::from(tls).accept(stream).await?;
        let mut bytes = Vec::new();
        let is_http2 = match stream.get_ref().1.alpn_protocol() {
            Some(protocol) => protocol == b"h2",
            None => opening::is_http2(&mut stream, &mut bytes).await?,
        };
        let places = (for_tls, place_for(is_http2, &client).await);
        Ok((source, stream, bytes, is_http2, places))
    };
    if let Some((source, stream, bytes, is_http2, _places)) = patience.wait_for(opening).await {
        let client = client.introduced(&settings, source, true);
        serve_http(stream, bytes, is_http2, settings, client, handler).await;
    }
}

/// What a connection of HTTP/2 takes beside its slot: the tables and buffers of its frames are as much as a
/// connection of HTTP/1.
async fn place_for(is_http2: bool, client: &Client) -> Option<Place> {
    if is_http2 {
        client.0.slot.another_place().await
    } else {
        None
    }
}

/// Whom the PROXY header names, where one is due. What was read behind it stays in `bytes`.
async fn named_source<S: AsyncRead + Unpin>(
    stream: &mut S,
    bytes: &mut Vec<u8>,
    is_due: bool,
) -> Result<Option<SocketAddr>, OpeningError> {
    if is_due {
        opening::read_proxy_header(stream, bytes).await
    } else {
        Ok(None)
    }
}

/// How long the beginning of a connection is waited for.
struct Patience {
    limit: Duration,
    address: Option<SocketAddr>,
    phase: watch::Receiver<Phase>,
    activity: Arc<Activity>,
}

impl Patience {
    fn new(settings: &ConnectionSettings, client: &Client) -> Self {
        Self {
            limit: settings.header_timeout,
            address: client.address(),
            phase: client.0.phase.clone(),
            activity: Arc::clone(&client.0.activity),
        }
    }

    /// What the opening comes to; `None` when the connection is not worth serving.
    async fn wait_for<T>(
        mut self,
        opening: impl Future<Output = Result<T, OpeningError>>,
    ) -> Option<T> {
        let leaving = async {
            _ = self.phase.wait_for(|phase| *phase >= Phase::Leaving).await;
            tokio::time::sleep(LAST_OPENING).await;
        };
        let opening = tokio::select! {
            // What is there already is read first.
            biased;
            opening = tokio::time::timeout(self.limit, opening) => opening.ok()?,
            // Nothing was asked on this connection, so nothing is cut.
            () = leaving => return None,
            () = self.activity.asked_to_go() => return None,
        };
        let address = self.address.map(tracing::field::display);
        match opening {
            Ok(opened) => return Some(opened),
            Err(OpeningError::NoProxyHeader) => tracing::warn!(
                client = address,
                "a connection from a trusted proxy does not begin with a PROXY header; it was closed"
            ),
            Err(OpeningError::Io(error)) => {
                tracing::debug!(client = address, %error, "connection ended before its first request");
            }
        }
        None
    }
}

/// Serves HTTP on a connection of which these bytes were read already.
async fn serve_http<S, H>(
    stream: S,
    first_bytes: Vec<u8>,
    is_http2: bool,
    settings: Arc<ConnectionSettings>,
    client: Client,
    handler: H,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Handler,
{
    let phase = client.0.phase.clone();
    let activity = Arc::clone(&client.0.activity);
    let bounds = Bounds {
        head: settings.max_header_bytes,
        buffer: max_buffer(&settings),
    };
    let watched = Watched::new(
        stream,
        Arc::clone(&activity),
        !is_http2,
        first_bytes,
        bounds,
    );
    let service = Counted::new(handler.clone(), client.clone(), is_http2);
    let io = TokioIo::new(watched);
    if is_http2 {
        let window = large_window(&activity);
        let builder = http2_builder(&settings, window.is_some());
        let connection = pin!(builder.serve_connection(io, service));
        drive(connection, &activity, &settings, phase).await.log();
        return;
    }
    let mut connection = http1_builder(&settings)
        .serve_connection(io, service)
        .with_upgrades();
    let ended = drive(Pin::new(&mut connection), &activity, &settings, phase).await;
    let why = unreadable(&ended, &activity, &settings);
    ended.log();
    let Some(http1::Parts { io, read_buf, .. }) = connection.into_parts() else {
        // Boxed, so that it takes no room in the tasks of all others.
        Box::pin(close_unswitched::<S>(&activity)).await;
        return;
    };
    drop(read_buf);
    let watched = io.into_inner();
    if let Some(why) = why {
        let last_words = handler.answer_unreadable(why, &client);
        watched.farewell(&last_words).await;
    } else if watched.needs_farewell() && matches!(ended, Ended::ByItself(_)) {
        watched.farewell(b"").await;
    }
}

/// Ends a connection that hyper takes for switched, if nobody has switched it: an `Upgrade` that is ignored, or
/// a WebSocket that the upstream has declined, stays pending in hyper to the end of the connection, which is
/// then handed over instead of shut down.
async fn close_unswitched<S>(activity: &Activity)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some(on_upgrade) = activity.take_upgrade() else {
        return;
    };
    let parts = on_upgrade
        .await
        .map(Upgraded::downcast::<TokioIo<Watched<S>>>);
    if let Ok(Ok(parts)) = parts {
        parts.io.into_inner().close().await;
    }
}

/// How a connection ended.
enum Ended {
    /// The process has drained.
    ByDrain,
    /// Either side has ended it, or it broke.
    ByItself(hyper::Result<()>),
    /// The client was too slow.
    Overdue,
    /// Others needed its place, or the bytes of its head.
    MadeWay,
}

impl Ended {
    fn log(&self) {
        if let Self::ByItself(Err(error)) = self {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// What is to be said to a client whose request could not be read.
fn unreadable(
    ended: &Ended,
    activity: &Activity,
    settings: &ConnectionSettings,
) -> Option<Unreadable> {
    match ended {
        Ended::ByItself(Err(error)) if error.is_parse_too_large() => {
            Some(if activity.is_in_first_line() {
                Unreadable::TargetTooLong
            } else {
                Unreadable::HeadTooLarge
            })
        }
        Ended::ByItself(Err(error)) if error.is_parse() => {
            Some(Unreadable::Malformed(error.to_string()))
        }
        Ended::Overdue if activity.is_in_head() => {
            Some(Unreadable::TooSlow(settings.header_timeout))
        }
        Ended::MadeWay if activity.is_in_head() => Some(Unreadable::Evicted),
        Ended::ByDrain | Ended::ByItself(_) | Ended::Overdue | Ended::MadeWay => None,
    }
}

fn http1_builder(settings: &ConnectionSettings) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // The deadlines for heads and idle connections are kept in `drive`: hyper's own starts
        // with the end of the last answer and would close idle connections early.
        .header_read_timeout(None)
        .max_headers(settings.max_headers)
        .max_header_size(settings.max_header_bytes)
        .max_buf_size(max_buffer(settings));
    builder
}

fn max_buffer(settings: &ConnectionSettings) -> usize {
    settings.max_header_bytes.max(MAX_PIECE_BYTES)
}

/// What is leased for a large window of an HTTP/2 connection, if there is plenty: it cannot be taken back.
fn large_window(activity: &Activity) -> Option<Lease> {
    let buffers = activity.buffers();
    let mut window = buffers.lease([]);
    let bytes = usize::try_from(HTTP2_CONNECTION_WINDOW).ok()?;
    window.grow(bytes).ok()?;
    (!buffers.is_short()).then_some(window)
}

fn http2_builder(
    settings: &ConnectionSettings,
    has_large_window: bool,
) -> http2::Builder<TokioExecutor> {
    let (of_stream, of_connection) = if has_large_window {
        (HTTP2_STREAM_WINDOW, HTTP2_CONNECTION_WINDOW)
    } else {
        (HTTP2_SMALL_STREAM_WINDOW, HTTP2_SMALL_CONNECTION_WINDOW)
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .header_table_size(HTTP2_HEADER_TABLE_BYTES)
        .max_concurrent_streams(MAX_HTTP2_STREAMS)
        .initial_stream_window_size(of_stream)
        .initial_connection_window_size(of_connection)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_header_list_size(u32::try_from(settings.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_HTTP2_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_HTTP2_LOCAL_RESETS);
    builder
}

/// Both kinds of connection, as far as their end needs to know.
trait Drainable: Future<Output = hyper::Result<()>> {
    /// When a draining process tells it to end. Over HTTP/1 each answer says `Connection: close`
    /// before that, and whoever is silent has heard nothing.
    const LEAVES_AT: Phase;

    /// Whether its requests run in its own task, one after the other, as those of HTTP/1 do.
    const RUNS_ITS_REQUESTS: bool;

    /// How long a client that is too slow may take to hear it; none where there are no words for it.
    const GOODBYE: Duration;

    /// Whether it may be told now.
    fn may_leave(activity: &Activity) -> bool;

    fn drain(self: Pin<&mut Self>);
}

impl<I, S, B> Drainable for http1::UpgradeableConnection<TokioIo<Watched<I>>, S>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + 'static,
{
    const LEAVES_AT: Phase = Phase::Leaving;
    const RUNS_ITS_REQUESTS: bool = true;
    const GOODBYE: Duration = Duration::ZERO;

    /// hyper takes a connection for idle until a head is complete.
    fn may_leave(activity: &Activity) -> bool {
        !activity.is_in_head()
    }

    fn drain(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

impl<I, S, B> Drainable for http2::Connection<TokioIo<Watched<I>>, S, TokioExecutor>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static,
{
    const LEAVES_AT: Phase = Phase::Lingering;
    const RUNS_ITS_REQUESTS: bool = false;
    const GOODBYE: Duration = HTTP2_GOODBYE;

    /// GOAWAY before its first request would turn a newcomer away unheard.
    fn may_leave(activity: &Activity) -> bool {
        activity.has_served()
    }

    fn drain(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

/// Moves a connection along until it ends, its time is over, others need its room, or the process has
/// drained.
async fn drive<C: Drainable>(
    connection: Pin<&mut C>,
    activity: &Activity,
    settings: &ConnectionSettings,
    mut phase: watch::Receiver<Phase>,
) -> Ended {
    let due = activity.deadline(settings, Instant::now());
    let mut deadline = pin!(tokio::time::sleep_until(due.into()));
    let leave = AtomicBool::new(false);
    let news = phase.clone();
    let mut cut = pin!(async {
        _ = phase.wait_for(|phase| *phase >= C::LEAVES_AT).await;
        leave.store(true, Ordering::Relaxed);
        _ = phase.wait_for(|phase| *phase == Phase::Cut).await;
    });
    let mut asked = pin!(activity.asked_to_go());
    let mut turns = Turns {
        connection,
        activity,
        settings,
        told: false,
        last_deadline: None,
    };
    // Whom a change of the phase wakes, and whether the deadline does: what was asked is not asked again in
    // each turn. Without a share of tokio's budget for the turn, asking was in vain. Once the phase has
    // changed it is asked always, since a change wakes by and by: whoever asks in between may be registered
    // for nothing.
    let mut woken: Option<Waker> = None;
    let mut is_armed = false;
    std::future::poll_fn(|cx| {
        let is_known = woken
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()));
        if !is_known {
            woken = has_budget_remaining().then(|| cx.waker().clone());
            is_armed = false;
        }
        if (!is_known || news.has_changed().unwrap_or(true)) && cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ended::ByDrain);
        }
        if !is_known || activity.is_asked_to_go() {
            while asked.as_mut().poll(cx).is_ready() {
                asked.set(activity.asked_to_go());
            }
        }
        let mut now = Instant::now();
        if let Some(ended) = turns.turn(cx, now, leave.load(Ordering::Relaxed)) {
            return Poll::Ready(ended);
        }
        loop {
            let due = match turns.due(cx, now) {
                ControlFlow::Continue(due) => due,
                ControlFlow::Break(ended) => return Poll::Ready(ended),
            };
            // Re-armed only when the deadline came nearer, or when it has fired and is further away.
            if due < deadline.deadline().into_std() || deadline.is_elapsed() {
                deadline.as_mut().reset(due.into());
                is_armed = false;
            }
            if is_armed {
                return Poll::Pending;
            }
            is_armed = has_budget_remaining();
            if deadline.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            now = Instant::now();
        }
    })
    .await
}

/// A connection that is moved along, turn by turn.
struct Turns<'c, C> {
    connection: Pin<&'c mut C>,
    activity: &'c Activity,
    settings: &'c ConnectionSettings,
    /// Whether it was told that the process leaves.
    told: bool,
    /// When a client that was told to go must have gone.
    last_deadline: Option<Instant>,
}

impl<C: Drainable> Turns<'_, C> {
    /// One turn; answers how the connection has ended, if it has.
    fn turn(&mut self, cx: &mut Context<'_>, now: Instant, leave: bool) -> Option<Ended> {
        if C::RUNS_ITS_REQUESTS {
            self.activity.begin_turn(now);
        }
        let ended = self.advance(cx);
        if ended.is_some() {
            return ended;
        }
        // After it has read what is there: what has been asked already is answered.
        if leave && !self.told && C::may_leave(self.activity) {
            self.told = true;
            let ended = self.tell(cx);
            if ended.is_some() {
                return ended;
            }
        }
        if self.activity.is_asked_to_go() {
            return self.make_way(cx);
        }
        None
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Option<Ended> {
        match self.connection.as_mut().poll(cx) {
            Poll::Ready(ended) => Some(Ended::ByItself(ended)),
            Poll::Pending => None,
        }
    }

    /// Tells the client that the connection ends with what runs on it.
    fn tell(&mut self, cx: &mut Context<'_>) -> Option<Ended> {
        self.connection.as_mut().drain();
        self.advance(cx)
    }

    /// Goes for others, unless a request runs.
    fn make_way(&mut self, cx: &mut Context<'_>) -> Option<Ended> {
        match self.activity.doing() {
            Doing::Requests => {
                self.activity.stay();
                None
            }
            // It gets an answer.
            Doing::Head if C::RUNS_ITS_REQUESTS => Some(Ended::MadeWay),
            Doing::Head | Doing::Nothing => self.tell(cx).or(Some(Ended::MadeWay)),
        }
    }

    /// When the connection's time is over, if it is not.
    fn due(&mut self, cx: &mut Context<'_>, now: Instant) -> ControlFlow<Ended, Instant> {
        loop {
            let due = self
                .last_deadline
                .unwrap_or_else(|| self.activity.deadline(self.settings, now));
            // Compared with the clock, since a connection that always has something to read leaves the
            // timer no share of tokio's budget for one turn.
            if due > now {
                return ControlFlow::Continue(due);
            }
            if self.last_deadline.is_some() || C::GOODBYE.is_zero() {
                return ControlFlow::Break(Ended::Overdue);
            }
            self.last_deadline = Some(after(now, C::GOODBYE));
            if let Some(ended) = self.tell(cx) {
                return ControlFlow::Break(ended);
            }
        }
    }
}
