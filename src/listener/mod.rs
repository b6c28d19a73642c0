//! Client connections: accepting them, bounding them, serving them, draining them.
//!
//! It knows nothing of what a request means; it is given a [`Handler`] that answers one.

mod activity;
mod answering;
mod connection;
mod connections;
mod head_follower;
mod heads;
mod length_follower;
mod opening;
mod slots;
mod watched;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use ipnet::IpNet;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{MutexGuard, watch};

use crate::budget::{Budget, Exhausted, Shares};
use crate::writing;
use activity::Activity;

pub use answering::{Answering, Places};
pub use connection::serve_stream;
pub use slots::{Slot, Slots};

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
    /// Peers that others speak through: what they hold is bounded as a whole, and not by the share of one
    /// client.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether the connections of these peers begin with a PROXY header.
    pub proxy_protocol: bool,
    /// How TLS is spoken; `None` for clear text.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl ConnectionSettings {
    fn is_trusted(&self, peer: Option<SocketAddr>) -> bool {
        peer.is_some_and(|peer| {
            self.trusted_proxies
                .iter()
                .any(|network| network.contains(&peer.ip()))
        })
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
    /// Whether the peer is a proxy that others speak through on this connection.
    is_shared: bool,
    activity: Arc<Activity>,
    phase: watch::Receiver<Phase>,
    slot: Slot,
    shares: Shares,
}

impl Client {
    /// A client on a new connection.
    #[must_use]
    pub fn new(address: Option<SocketAddr>, phase: watch::Receiver<Phase>, slot: Slot) -> Self {
        let address = address.map(canonical);
        Self(Arc::new(ClientConnection {
            address,
            forwarded_for: forwarded_for(address),
            is_tls: false,
            is_shared: false,
            activity: Arc::new(Activity::new(slot.connections())),
            phase,
            slot,
            shares: Shares::default(),
        }))
    }

    /// The same, as it is known after the beginning of its connection: a PROXY header may have named
    /// somebody else, who has the connection alone.
    fn introduced(
        mut self,
        settings: &ConnectionSettings,
        source: Option<SocketAddr>,
        is_tls: bool,
    ) -> Self {
        let is_shared = source.is_none() && settings.is_trusted(self.address());
        let connection = Arc::make_mut(&mut self.0);
        connection.is_shared = is_shared;
        if source.is_some() {
            connection.address = source.map(canonical);
            connection.forwarded_for = forwarded_for(connection.address);
        }
        connection.is_tls = is_tls;
        self
    }

    /// Who is connected, or whom a PROXY header names. A client of IPv4 has its own address, also where the
    /// listener is one of IPv6.
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

    /// Whether what the connection holds of a budget counts as the share of one client. What a trusted proxy
    /// holds does not.
    #[must_use]
    pub fn has_share(&self) -> bool {
        !self.0.is_shared
    }

    /// What bodies on their way take their bytes from.
    #[must_use]
    pub fn buffers(&self) -> &Budget {
        self.0.activity.buffers()
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

    /// The connection behind `101`, for whoever answers so the latest request that asked for an upgrade.
    #[must_use]
    pub fn take_upgrade(&self) -> Option<OnUpgrade> {
        self.0.activity.take_upgrade()
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
    HeaderValue::try_from(address?.ip().to_string()).ok()
}

/// An IPv4-mapped address as the IPv4 address that it is, as everybody else knows it.
fn canonical(mut address: SocketAddr) -> SocketAddr {
    address.set_ip(address.ip().to_canonical());
    address
}

/// What hyper takes as the error of a body or a service.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What answers the requests of a connection.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The body of an answer.
    type Body: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + Unpin + 'static;

    /// Answers a request.
    fn answer(&self, request: Request<Incoming>, client: Client) -> Answering<Self::Body>;

    /// Answers a request that nothing is left for.
    fn refuse(
        &self,
        request: Request<Incoming>,
        client: Client,
        why: Exhausted,
    ) -> Answering<Self::Body>;

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
    /// Its head was not complete when others needed the room: it was the oldest such.
    Evicted,
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
            Self::Evicted => f.write_str(
                "the head was not complete when there was no room left for others, and the oldest such",
            ),
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
    let mut leaving = phase.clone();
    let mut leaving = pin!(async { _ = leaving.wait_for(|phase| *phase >= Phase::Leaving).await });
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closed => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Whoever is inactive holds what newcomers want.
                slots.shed();
                trouble.wait_out(&error).await;
                continue;
            }
        };
        trouble.is_over();
        // A full house leaves further newcomers in the kernel's queue.
        tokio::select! {
            biased;
            slot = slots.slot() => if let Some(slot) = slot {
                start(stream, address, slot);
            },
            () = &mut leaving => return,
        }
    }
    let emptied = empty_queue(listener, &slots, start);
    tokio::select! {
        biased;
        emptied = emptied => {
            if let Err(error) = emptied {
                tracing::warn!(%error, "connections that waited to be accepted were lost");
            }
        }
        // Only a full house takes so long.
        () = leaving => {}
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
    loop {
        match listener.accept() {
            Ok((stream, address)) => {
                stream.set_nonblocking(true)?;
                let stream = TcpStream::from_std(stream)?;
                let Some(slot) = slots.slot().await else {
                    return Ok(());
                };
                start(stream, address, slot);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if concerns_nobody(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Events must not wait for the next one (Nagle); a peer that vanished must be noticed, however
/// silent its stream is. What is accepted has the options of the listener: four calls less for each.
fn prepare(listener: &TcpListener) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL);
    let socket = SockRef::from(listener);
    writing::hold_little_unsent(&socket);
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
