//! One HTTP/2 connection to the backend.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};

use super::super::body::RequestBody;
use super::super::connect::{self, ConnectError, Connector, MAX_RESPONSE_HEAD_BYTES};
use super::super::room::Place;
use super::stream::{Load, Stream};
use crate::budget::Lease;
use crate::clock::after;

/// Streams on one connection, if its backend allows as many: the least that RFC 9113 §6.5.2 recommends
/// to allow.
pub(super) const MAX_STREAMS: usize = 100;

/// What the backend may send ahead on one stream, and so what is held of it for a client that reads
/// slowly: what a network with a round trip of 1 ms carries at 1 Gbit/s.
const STREAM_WINDOW: u32 = 128 * 1024;

/// The same for the connection: as much as all of its streams, so that clients who read nothing never
/// stop those who do.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 100;

const _: () = assert!(MAX_STREAMS == 100, "CONNECTION_WINDOW follows MAX_STREAMS");

/// What is held of an upload for a backend that reads slowly, per stream.
const SEND_BUFFER: usize = 64 * 1024;

/// Streams given up here that are still remembered, so that what the backend had under way on them is
/// not taken for an error. Clients decide how many they give up at a time.
const REMEMBERED_RESETS: usize = 1024;

/// How often a backend with open streams is asked whether it is still there. gRPC servers hang up on
/// clients that ask more than once in 5 minutes while nothing is sent.
const PING_INTERVAL: Duration = Duration::from_secs(310);

/// How long it may take to say so.
const PING_PATIENCE: Duration = Duration::from_secs(20);

/// The kernel asks more often, and no server counts that: a host that vanished is noticed in about a
/// minute and a half of silence.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long what was sent may go unacknowledged: by default Linux tries for a quarter of an hour, and
/// every new request would follow onto the dead connection.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_PATIENCE: Duration = Duration::from_secs(20);

/// How long a connection beside another one with room may carry nothing before it is closed.
const MAX_IDLE_TIME: Duration = Duration::from_secs(30);

pub(super) type Sender = http2::SendRequest<RequestBody>;
type Connection = http2::Connection<TokioIo<connect::Stream>, RequestBody, Spawner>;

/// What moves a connection along. Nothing once it has ended, so that no request is left lying in it.
type Driver = Mutex<Option<Connection>>;

/// A connection. Its streams keep it open when it has been given up.
pub(in crate::upstream) struct Line {
    sender: Sender,
    /// Shared with the task that moves it along, and asked for what the backend allows.
    driver: Arc<Driver>,
    load: Arc<Load>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("load", &self.load)
            .finish_non_exhaustive()
    }
}

impl Line {
    /// Connects, and waits until the backend has said how many streams it takes (RFC 9113 §3.4): more
    /// would wait unseen behind those that last.
    /// The lease is held as long as the connection is there.
    pub(in crate::upstream) async fn open(
        connector: &Connector,
        lease: Option<Lease>,
    ) -> Result<Self, ConnectError> {
        connector.in_time(Self::handshake(connector, lease)).await
    }

    async fn handshake(connector: &Connector, lease: Option<Lease>) -> Result<Self, ConnectError> {
        let stream = connector.connect().await?;
        if let Some(socket) = stream.tcp() {
            watch_over(socket)?;
        }
        let progress = Arc::new(Progress::default());
        let (sender, driver) = builder(&progress)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| ConnectError::NotHttp2("it hung up"))?;
        let driver = Arc::new(Mutex::new(Some(driver)));
        let (ending, mut ended) = oneshot::channel();
        tokio::spawn(drive(Arc::clone(&driver), ending, lease));
        loop {
            tokio::select! {
                () = progress.made.notified() => {}
                _ = &mut ended => return Err(ConnectError::NotHttp2("it ended the connection")),
            }
            if max_streams(&driver) > 0 {
                progress.settled.store(true, Ordering::Relaxed);
                return Ok(Self {
                    sender,
                    driver,
                    load: Arc::new(Load::new()),
                });
            }
        }
    }

    /// Whether it takes requests: not closed, and not told to go away.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Whether it has carried nothing for a while.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.load.streams() == 0 && after(self.load.last_end(), MAX_IDLE_TIME) <= now
    }

    /// A stream for one more request, which takes the place, if there is room on this connection.
    pub(super) fn stream(&self, place: &mut Option<Place>) -> Option<(Sender, Arc<Stream>)> {
        let most = max_streams(&self.driver).min(MAX_STREAMS);
        if self.load.streams() >= most {
            return None;
        }
        let stream = Stream::new(&self.load, place.take()?);
        Some((self.sender.clone(), stream))
    }
}

/// What the backend allows; nothing before it has said so.
fn max_streams(driver: &Driver) -> usize {
    lock(driver)
        .as_ref()
        .map_or(0, Connection::current_max_send_streams)
}

fn lock(driver: &Driver) -> std::sync::MutexGuard<'_, Option<Connection>> {
    driver.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Moves a connection along until it ends. Nobody listens for that once it is open.
async fn drive(driver: Arc<Driver>, _ending: oneshot::Sender<()>, _lease: Option<Lease>) {
    let ended = std::future::poll_fn(|cx| {
        let mut driver = lock(&driver);
        let Some(connection) = &mut *driver else {
            return Poll::Ready(Ok(()));
        };
        let ended = Pin::new(connection).poll(cx);
        if ended.is_ready() {
            *driver = None;
        }
        ended
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the upstream ended");
    }
}

fn builder(progress: &Arc<Progress>) -> http2::Builder<Spawner> {
    let mut builder = http2::Builder::new(Spawner(Arc::clone(progress)));
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_PATIENCE)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_RESPONSE_HEAD_BYTES)
        // None before the backend has said how many it takes.
        .initial_max_send_streams(0)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        // The backend is no stranger: what it still sends on a stream that was given up long ago must
        // not end the connection of all others.
        .max_local_error_reset_streams(None);
    builder
}

fn watch_over(socket: &TcpStream) -> Result<(), ConnectError> {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL);
    let watched = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let watched = watched.and_then(|()| socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_PATIENCE)));
    watched.map_err(ConnectError::socket)
}

/// Runs hyper's tasks, and tells when the connection has moved until it is open.
#[derive(Clone)]
struct Spawner(Arc<Progress>);

#[derive(Default)]
struct Progress {
    made: Notify,
    settled: AtomicBool,
}

impl<F> Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        if self.0.settled.load(Ordering::Relaxed) {
            tokio::spawn(task);
            return;
        }
        let progress = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut task = pin!(task);
            std::future::poll_fn(|cx| {
                let polled: Poll<F::Output> = task.as_mut().poll(cx);
                if !progress.settled.load(Ordering::Relaxed) {
                    progress.made.notify_one();
                }
                polled
            })
            .await
        });
    }
}
