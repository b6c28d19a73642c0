//! Client connections: accepting them, bounding them, serving them, draining them.
//!
//! It knows nothing of what a request means; it is given a [`Handler`] that answers one.

mod activity;
mod answering;
mod connection;
mod head_follower;
mod length_follower;
mod opening;
mod watched;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderValue, Request};
use hyper::body::Incoming;
use ipnet::IpNet;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{MutexGuard, OwnedSemaphorePermit, Semaphore, watch};

use crate::budget::Shares;

use activity::Activity;

pub use answering::{Answering, Places};
pub use connection::serve_stream;

/// How long to wait after an accept that failed for want of file descriptors or memory.
const RESOURCE_PAUSE: Duration = Duration::from_millis(100);

/// How often such failures are told of while they last.
const RESOURCE_WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// How long a connection may be silent before its peer's kernel is asked whether it is still there,
/// and how often. A vanished client holds one of `limits.connections` for some minutes at most.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Where in its life the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Business as usual.
    Serving,
    /// Not ready any more; connections are still accepted and told to go elsewhere.
    Lingering,
    /// Nothing is accepted; what runs finishes, and what is idle is answered once more.
    Draining,
    /// What is idle is let go.
    Leaving,
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
    /// Peers whose connections begin with a PROXY header.
    pub proxy_protocol_peers: Vec<IpNet>,
    /// How TLS is spoken; `None` for clear text.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl ConnectionSettings {
    fn proxy_header_is_due(&self, peer: Option<SocketAddr>) -> bool {
        let peer = peer.map(|peer| peer.ip().to_canonical());
        peer.is_some_and(|peer| {
            self.proxy_protocol_peers
                .iter()
                .any(|network| network.contains(&peer))
        })
    }
}

/// All connection slots of the process. Tunnels hold one too.
#[derive(Debug, Clone)]
pub struct Slots {
    all: Arc<Semaphore>,
    count: u32,
    /// Those with a connection, and not only with somebody who waits for one.
    taken: Arc<AtomicUsize>,
}

/// One connection's slot. It is free again when the last copy is dropped.
#[derive(Debug, Clone)]
pub struct Slot(#[expect(dead_code, reason = "held, not read")] Arc<Taken>);

#[derive(Debug)]
struct Taken {
    _permit: OwnedSemaphorePermit,
    count: Arc<AtomicUsize>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A slot that is free, held for the next connection.
#[derive(Debug)]
pub struct Vacancy {
    permit: OwnedSemaphorePermit,
    count: Arc<AtomicUsize>,
}

impl Vacancy {
    /// A connection is there.
    #[must_use]
    pub fn take(self) -> Slot {
        let Self { permit, count } = self;
        count.fetch_add(1, Ordering::Relaxed);
        Slot(Arc::new(Taken {
            _permit: permit,
            count,
        }))
    }
}

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
            taken: Arc::default(),
        }
    }

    /// A free slot, as soon as there is one.
    pub async fn vacancy(&self) -> Option<Vacancy> {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Vacancy {
            permit,
            count: Arc::clone(&self.taken),
        })
    }

    /// Waits until no connection is left.
    pub async fn all_free(&self) {
        _ = self.all.acquire_many(self.count).await;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// What is thought of a connection. The handler says what earns doubt, and what it means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nothing speaks against it.
    #[default]
    Good,
    /// What it brought last was refused.
    Doubtful,
}

/// The connection that a request came over. Every request has a copy.
#[derive(Debug, Clone)]
pub struct Client(Arc<ClientConnection>);

#[derive(Debug, Clone)]
struct ClientConnection {
    address: Option<SocketAddr>,
    forwarded_for: Option<HeaderValue>,
    is_tls: bool,
    activity: Arc<Activity>,
    phase: watch::Receiver<Phase>,
    slot: Slot,
    shares: Shares,
}

impl Client {
    /// A client on a new connection.
    #[must_use]
    pub fn new(address: Option<SocketAddr>, phase: watch::Receiver<Phase>, slot: Slot) -> Self {
        Self(Arc::new(ClientConnection {
            address,
            forwarded_for: forwarded_for(address),
            is_tls: false,
            activity: Arc::new(Activity::new()),
            phase,
            slot,
            shares: Shares::default(),
        }))
    }

    /// The same, as it is known after the beginning of its connection: a PROXY header may have named
    /// somebody else.
    fn introduced(mut self, source: Option<SocketAddr>, is_tls: bool) -> Self {
        let connection = Arc::make_mut(&mut self.0);
        if source.is_some() {
            connection.address = source;
            connection.forwarded_for = forwarded_for(source);
        }
        connection.is_tls = is_tls;
        self
    }

    /// Who is connected, or whom a PROXY header names.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.address
    }

    /// The address of [`Client::address`] as `X-Forwarded-For` spells it.
    #[must_use]
    pub fn forwarded_for(&self) -> Option<&HeaderValue> {
        self.0.forwarded_for.as_ref()
    }

    /// What the connection holds of the budgets of the process.
    #[must_use]
    pub fn shares(&self) -> &Shares {
        &self.0.shares
    }

    /// Whether the connection is TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.is_tls
    }

    /// Sends an interim answer (RFC 9110 §15.2), as HTTP/1.1 writes it, unless an earlier answer is
    /// still on its way.
    pub fn send_interim(&self, head: &[u8]) {
        self.0.activity.leave_interim(head);
    }

    /// Whether clients should go elsewhere.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.0.phase.borrow() != Phase::Serving
    }

    /// The connection's slot, for a tunnel that outlives it.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.0.slot.clone()
    }

    /// The connection's standing, as soon as no other of its requests holds it.
    pub async fn standing(&self) -> MutexGuard<'_, Standing> {
        self.0.activity.standing.lock().await
    }

    /// Tells that the request's body was read to its end.
    pub fn body_ended(&self) {
        self.0.activity.on_body_end();
    }

    /// Whether the request target on the wire had a fragment, which hyper drops without a word.
    #[must_use]
    pub fn saw_fragment(&self) -> bool {
        self.0.activity.take_fragment()
    }
}

fn forwarded_for(address: Option<SocketAddr>) -> Option<HeaderValue> {
    let address = address?.ip().to_canonical();
    HeaderValue::try_from(address.to_string()).ok()
}

/// What hyper takes as the error of a body or a service.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What answers the requests of a connection.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The body of an answer.
    type Body: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + Unpin + 'static;

    /// Answers a request.
    fn answer(&self, request: Request<Incoming>, client: Client) -> Answering<Self::Body>;

    /// Answers over HTTP/1.1 what is no request. The connection ends with these bytes.
    fn answer_unreadable(&self, why: Unreadable, client: &Client) -> Vec<u8>;
}

/// Why what a client sent over HTTP/1 is no request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// It breaks the syntax of RFC 9112; what hyper says of it.
    Malformed(String),
    /// Its head is longer than `limits.header_bytes`, or has more fields than `limits.headers`.
    HeadTooLarge,
    /// Its first line alone is.
    TargetTooLong,
    /// Its head was not complete within `timeouts.header`.
    TooSlow(Duration),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "the head is malformed: {error}"),
            Self::HeadTooLarge => f.write_str(
                "the head is larger than limits.header_bytes or has more fields than limits.headers",
            ),
            Self::TargetTooLong => {
                f.write_str("the first line alone is longer than limits.header_bytes")
            }
            Self::TooSlow(limit) => write!(f, "the head was not complete within {limit:?}"),
        }
    }
}

/// Accepts connections until the phase is [`Phase::Draining`] and none is waiting, and serves each in a
/// task. Each is served by the settings of the moment when it came.
pub async fn serve(
    listener: TcpListener,
    settings: watch::Receiver<Arc<ConnectionSettings>>,
    slots: Slots,
    phase: watch::Receiver<Phase>,
    handler: impl Handler,
) {
    let mut closing = phase.clone();
    let mut closed =
        pin!(async move { _ = closing.wait_for(|phase| *phase >= Phase::Draining).await });
    let start = |stream: TcpStream, address: SocketAddr, slot: Slot| {
        let settings = Arc::clone(&settings.borrow());
        tokio::spawn(serve_stream(
            stream,
            settings,
            Client::new(Some(address), phase.clone(), slot),
            handler.clone(),
        ));
    };
    if let Err(error) = prepare(&listener) {
        tracing::warn!(%error, "cannot set the options of client connections");
    }
    let mut trouble = Trouble::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closed => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, address, slot)) => {
                trouble.is_over();
                start(stream, address, slot);
            }
            Err(error) => trouble.wait_out(&error).await,
        }
    }
    let mut leaving = phase.clone();
    let emptied = empty_queue(listener, &slots, start);
    tokio::select! {
        biased;
        emptied = emptied => {
            if let Err(error) = emptied {
                tracing::warn!(%error, "connections that waited to be accepted were lost");
            }
        }
        // Only a full house takes so long.
        _ = leaving.wait_for(|phase| *phase >= Phase::Leaving) => {}
    }
}

/// Accepts what the kernel has accepted already: with the listener it would be reset, and its clients
/// know only that they are connected.
async fn empty_queue(
    listener: TcpListener,
    slots: &Slots,
    start: impl Fn(TcpStream, SocketAddr, Slot),
) -> io::Result<()> {
    // Asked of the kernel itself: the runtime hears of newcomers a moment later.
    let listener = listener.into_std()?;
    while let Some(vacancy) = slots.vacancy().await {
        match listener.accept() {
            Ok((stream, address)) => {
                stream.set_nonblocking(true)?;
                start(TcpStream::from_std(stream)?, address, vacancy.take());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if concerns_nobody(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A slot first, so that a full house leaves newcomers in the kernel's queue.
async fn accept(
    listener: &TcpListener,
    slots: &Slots,
) -> io::Result<(TcpStream, SocketAddr, Slot)> {
    let vacancy = slots
        .vacancy()
        .await
        .ok_or_else(|| io::Error::other("the slots are closed"))?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address, vacancy.take()))
}

/// Events must not wait for the next one (Nagle); a peer that vanished must be noticed, however
/// silent its stream is. What is accepted has the options of the listener: four calls less for each.
fn prepare(listener: &TcpListener) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL);
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)
}

/// Whether a connection has died before it was accepted.
fn concerns_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Accepting has failed and may go on failing.
#[derive(Debug, Default)]
struct Trouble {
    last_warning: Option<Instant>,
}

impl Trouble {
    /// Want of resources passes by waiting.
    async fn wait_out(&mut self, error: &io::Error) {
        if concerns_nobody(error) {
            tracing::debug!(%error, "a connection ended before it was accepted");
            return;
        }
        let is_news = self
            .last_warning
            .is_none_or(|last| last.elapsed() >= RESOURCE_WARNING_INTERVAL);
        if is_news {
            self.last_warning = Some(Instant::now());
            tracing::warn!(%error, "cannot accept connections; trying again");
        }
        tokio::time::sleep(RESOURCE_PAUSE).await;
    }

    fn is_over(&mut self) {
        if self.last_warning.take().is_some() {
            tracing::info!("accepting connections again");
        }
    }
}
