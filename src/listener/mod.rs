//! Client connections: accepting them, bounding them, serving them, draining them.
//!
//! It knows nothing of what a request means; it is given a function that answers one.

mod activity;
mod connection;
mod watched;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use activity::Activity;

/// How long to wait after an accept that failed for want of file descriptors or memory.
const RESOURCE_PAUSE: Duration = Duration::from_millis(100);

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
        self.activity.on_body_end();
    }

    /// Whether the request target on the wire had a fragment, which hyper drops without a word.
    #[must_use]
    pub fn saw_fragment(&self) -> bool {
        self.activity.take_fragment()
    }
}

/// What hyper takes as the error of a body or a service.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
                tokio::spawn(connection::serve(
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
