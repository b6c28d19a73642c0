//! Client connections: accepting them, bounding them, serving them, draining them.
//!
//! It knows nothing of what a request means; it is given a function that answers one.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::clock::after;
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long to wait after an accept that failed for want of file descriptors or memory.
const RESOURCE_PAUSE: Duration = Duration::from_millis(100);

/// Requests that one HTTP/2 connection may have open: the least that RFC 9113 §6.5.2 recommends.
const MAX_HTTP2_STREAMS: u32 = 100;

/// What an HTTP/2 client may send ahead on one stream, and on one connection.
const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What is held for an HTTP/2 client that reads slowly, per stream.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;

/// What an HTTP/1 client may send ahead of its turn while a request runs: some dozens of pipelined
/// requests with tokens.
const MAX_AHEAD_BYTES: usize = 64 * 1024;

/// How often an HTTP/2 client with open streams is asked whether it is still there.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// Streams that a client opened and reset before they were looked at (CVE-2023-44487).
const MAX_HTTP2_PENDING_RESETS: usize = 20;

/// Streams that this side reset for a client's errors (CVE-2025-8671).
const MAX_HTTP2_LOCAL_RESETS: usize = 256;

/// What hyper takes as the error of a body or a service.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where in its life the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Business as usual.
    Serving,
    /// Not ready any more; connections are still accepted and told to go elsewhere.
    Lingering,
    /// Nothing is accepted; what runs finishes.
    Draining,
    /// What still runs is cut.
    Cut,
}

/// What the listener enforces.
#[derive(Debug, Clone)]
pub struct ConnectionSettings {
    /// For a request head to arrive.
    pub header_timeout: Duration,
    /// For a connection between requests.
    pub idle_timeout: Duration,
    /// All header fields of a request.
    pub max_header_bytes: usize,
    /// How many header fields.
    pub max_headers: usize,
}

/// All connection slots of the process. Tunnels hold one too.
#[derive(Debug, Clone)]
pub struct Slots {
    all: Arc<Semaphore>,
    count: u32,
}

/// One connection's slot. It is free again when the last copy is dropped.
#[derive(Debug, Clone)]
pub struct Slot(#[expect(dead_code, reason = "held, not read")] Arc<OwnedSemaphorePermit>);

impl Slots {
    /// `count` slots.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let count = u32::try_from(count.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self {
            all: Arc::new(Semaphore::new(
                usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS),
            )),
            count,
        }
    }

    /// Waits until no connection is left.
    pub async fn all_free(&self) {
        _ = self.all.acquire_many(self.count).await;
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        usize::try_from(self.count)
            .unwrap_or(usize::MAX)
            .saturating_sub(self.all.available_permits())
    }
}

/// The connection that a request came over.
#[derive(Debug, Clone)]
pub struct Client {
    /// Who is connected.
    pub address: Option<SocketAddr>,
    activity: Arc<Activity>,
    phase: watch::Receiver<Phase>,
    slot: Slot,
}

impl Client {
    /// Whether clients should go elsewhere.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    /// The connection's slot, for a tunnel that outlives it.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot.clone()
    }

    /// Tells that the request's body was read to its end.
    pub fn body_ended(&self) {
        self.activity.body_open.store(false, Ordering::Relaxed);
    }

    /// Whether the request target on the wire had a fragment, which hyper drops without a word.
    #[must_use]
    pub fn saw_fragment(&self) -> bool {
        self.activity.fragment.swap(false, Ordering::Relaxed)
    }
}

/// Accepts connections until the phase is [`Phase::Draining`], and serves each in a task.
pub async fn serve<H, F, B>(
    listener: TcpListener,
    settings: Arc<ConnectionSettings>,
    slots: Slots,
    phase: watch::Receiver<Phase>,
    handler: H,
) where
    H: Fn(Request<Incoming>, Client) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut closing = phase.clone();
    let mut closed =
        pin!(async move { _ = closing.wait_for(|phase| *phase >= Phase::Draining).await });
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closed => return,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, address, slot)) => {
                let client = Client {
                    address: Some(address),
                    activity: Arc::new(Activity::new()),
                    phase: phase.clone(),
                    slot,
                };
                tokio::spawn(serve_connection(
                    stream,
                    Arc::clone(&settings),
                    client,
                    handler.clone(),
                ));
            }
            Err(error) => after_accept_error(&error).await,
        }
    }
}

/// A slot first, so that a full house leaves newcomers in the kernel's queue.
async fn accept(
    listener: &TcpListener,
    slots: &Slots,
) -> io::Result<(TcpStream, SocketAddr, Slot)> {
    let slot = Arc::clone(&slots.all)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address, Slot(Arc::new(slot))))
}

/// A connection that died in the queue concerns nobody; want of resources passes by waiting.
async fn after_accept_error(error: &io::Error) {
    match error.kind() {
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::Interrupted => {
            tracing::debug!(%error, "a connection ended before it was accepted");
        }
        _ => {
            tracing::warn!(%error, "cannot accept connections; trying again");
            tokio::time::sleep(RESOURCE_PAUSE).await;
        }
    }
}

async fn serve_connection<H, F, B>(
    stream: TcpStream,
    settings: Arc<ConnectionSettings>,
    client: Client,
    handler: H,
) where
    H: Fn(Request<Incoming>, Client) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static,
{
    // Events must not wait for the next one (Nagle).
    if stream.set_nodelay(true).is_err() {
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
    let service = Counted { handler, client };
    let io = TokioIo::new(Watched {
        stream,
        activity: Arc::clone(&activity),
        http1: !is_http2,
        ahead: Vec::new(),
    });
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

/// What a connection is doing, written by its I/O and its requests, read by [`drive`]. Times are
/// milliseconds since the connection began.
#[derive(Debug)]
struct Activity {
    began: Instant,
    running: AtomicUsize,
    /// Whether the last request has a body that was not read to its end yet.
    body_open: AtomicBool,
    /// How many of the running ones wait for the client to take what is there for it.
    owed: AtomicUsize,
    /// When anything was last taken.
    last_taken: AtomicU64,
    last_end: AtomicU64,
    /// When the head that is arriving began; [`NO_HEAD`] when none is.
    head_began: AtomicU64,
    in_first_line: AtomicBool,
    fragment: AtomicBool,
}

const NO_HEAD: u64 = u64::MAX;

impl Activity {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            running: AtomicUsize::new(0),
            body_open: AtomicBool::new(false),
            owed: AtomicUsize::new(0),
            last_taken: AtomicU64::new(0),
            last_end: AtomicU64::new(0),
            // A newcomer has as long for its first head as for any other.
            head_began: AtomicU64::new(0),
            in_first_line: AtomicBool::new(true),
            fragment: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(NO_HEAD - 1)
    }

    /// Bytes arrived. Between requests they begin a head.
    fn on_read(&self, bytes: &[u8], http1: bool) {
        let in_request = self.running.load(Ordering::Relaxed) > 0;
        // What follows a body that nobody read may still be that body.
        if !http1 || in_request || self.body_open.load(Ordering::Relaxed) {
            return;
        }
        if self.head_began.load(Ordering::Relaxed) == NO_HEAD {
            self.head_began.store(self.now(), Ordering::Relaxed);
            self.in_first_line.store(true, Ordering::Relaxed);
        }
        if self.in_first_line.load(Ordering::Relaxed) {
            let line_end = bytes.iter().position(|byte| *byte == b'\n');
            let line = bytes
                .get(..line_end.unwrap_or(bytes.len()))
                .unwrap_or_default();
            if line.contains(&b'#') {
                self.fragment.store(true, Ordering::Relaxed);
            }
            if line_end.is_some() {
                self.in_first_line.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Whether a request has come at all.
    fn has_served(&self) -> bool {
        self.head_began.load(Ordering::Relaxed) != 0
    }

    /// Whether whatever arrives now can only be a later request, sent ahead of its turn.
    fn is_ahead_of_its_turn(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0 && !self.body_open.load(Ordering::Relaxed)
    }

    fn on_request(&self, has_body: bool) {
        self.body_open.store(has_body, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        self.head_began.store(NO_HEAD, Ordering::Relaxed);
    }

    fn on_response_end(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.last_end.store(self.now(), Ordering::Relaxed);
    }

    /// There is something for the client to take.
    fn on_owed(&self) {
        self.owed.fetch_add(1, Ordering::Relaxed);
        self.last_taken.store(self.now(), Ordering::Relaxed);
    }

    /// It was taken, or is not there any more.
    fn on_taken(&self) {
        self.owed.fetch_sub(1, Ordering::Relaxed);
        self.last_taken.store(self.now(), Ordering::Relaxed);
    }

    /// When the connection's patience ends, as things stand. An upstream may be silent for as long
    /// as it likes; a client that takes nothing of what is there for it may not.
    fn deadline(&self, settings: &ConnectionSettings) -> Instant {
        let running = self.running.load(Ordering::Relaxed);
        if running > 0 && self.owed.load(Ordering::Relaxed) >= running {
            return after(self.at(&self.last_taken), settings.idle_timeout);
        }
        if running > 0 {
            return after(Instant::now(), settings.idle_timeout);
        }
        match self.head_began.load(Ordering::Relaxed) {
            NO_HEAD => after(self.at(&self.last_end), settings.idle_timeout),
            _ => after(self.at(&self.head_began), settings.header_timeout),
        }
    }

    fn at(&self, milliseconds: &AtomicU64) -> Instant {
        after(
            self.began,
            Duration::from_millis(milliseconds.load(Ordering::Relaxed)),
        )
    }
}

/// Counts the requests of a connection while they run, bodies included.
struct Counted<H> {
    handler: H,
    client: Client,
}

impl<H, F, B> Service<Request<Incoming>> for Counted<H>
where
    H: Fn(Request<Incoming>, Client) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<CountedBody<B>>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let has_body = !request.body().is_end_stream();
        let running = Running::new(Arc::clone(&self.client.activity), has_body);
        let response = (self.handler)(request, self.client.clone());
        Box::pin(async move {
            let response = response.await;
            Ok(response.map(|body| CountedBody::new(body, running)))
        })
    }
}

struct Running(Arc<Activity>);

impl Running {
    fn new(activity: Arc<Activity>, has_body: bool) -> Self {
        activity.on_request(has_body);
        Self(activity)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.on_response_end();
    }
}

/// A response body that counts as running until it is dropped. hyper asks for a frame when it has
/// room for one; between a frame and the next question, it is the client's turn.
struct CountedBody<B> {
    body: Pin<Box<B>>,
    running: Running,
    owed: bool,
}

impl<B> CountedBody<B> {
    fn new(body: B, running: Running) -> Self {
        running.0.on_owed();
        Self {
            body: Box::pin(body),
            running,
            owed: true,
        }
    }

    fn set_owed(&mut self, owed: bool) {
        match (self.owed, owed) {
            (false, true) => self.running.0.on_owed(),
            (true, false) => self.running.0.on_taken(),
            (true, true) | (false, false) => {}
        }
        self.owed = owed;
    }
}

impl<B> Drop for CountedBody<B> {
    fn drop(&mut self) {
        self.set_owed(false);
    }
}

impl<B: http_body::Body> http_body::Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<B::Data>, B::Error>>> {
        self.set_owed(false);
        let frame = self.body.as_mut().poll_frame(cx);
        self.set_owed(frame.is_ready());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// A socket that tells [`Activity`] what it reads.
///
/// While a request runs, hyper reads only to learn whether the client has gone, and stops doing so
/// at the first byte of a later request. So such bytes are held back here until their turn, and the
/// end of the connection is seen behind them.
#[derive(Debug)]
struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
    http1: bool,
    ahead: Vec<u8>,
}

impl Watched {
    /// Reads what was sent ahead of its turn. Ready only at the end of the connection.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; 2048];
        loop {
            if self.ahead.len() > MAX_AHEAD_BYTES {
                return Poll::Ready(Err(io::Error::other("too much was sent ahead of its turn")));
            }
            let mut buffer = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(buffer.filled());
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.http1 && self.activity.is_ahead_of_its_turn() {
            return self.poll_ahead(cx);
        }
        let before = buffer.filled().len();
        if self.ahead.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        } else {
            let turn = self.ahead.len().min(buffer.remaining());
            let rest = self.ahead.split_off(turn);
            buffer.put_slice(&self.ahead);
            self.ahead = rest;
        }
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        if !bytes.is_empty() {
            self.activity.on_read(bytes, self.http1);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
