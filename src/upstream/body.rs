//! Bodies in both directions. Nothing is gathered; frames pass as they come.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::connection::Connection;
use super::failure::Failure;
use super::http2::{AnswerSide, Stream};
use super::pool::Pool;
use super::room::Running;
use crate::budget::{Budget, Flow};
use crate::clock::after;

/// A client's body on its way to the backend. Trailers end here: none of them was authorised, and
/// a backend might read them as headers (RFC 9110 §6.5.1).
#[derive(Debug)]
pub struct RequestBody(
    /// Boxed, since nearly all requests have none and each is passed on by value many times.
    Option<Box<Sending>>,
);

/// A body with something in it.
#[derive(Debug)]
struct Sending {
    source: Source,
    remaining: Option<u64>,
    upload: Arc<Moving>,
    on_end: OnEnd,
    /// Whether the end is a flag that can be asked for, as it is in HTTP/2.
    ends_by_flag: bool,
    /// The HTTP/2 stream that carries it to the backend, if one does.
    stream: Option<Arc<Stream>>,
    passing: Passing,
}

/// What hyper has of an upload and the backend has not.
#[derive(Debug)]
enum Passing {
    /// It is accounted for elsewhere.
    Free,
    /// Nothing large yet.
    Within(Budget),
    /// Pieces that come out of this budget.
    By(Flow),
}

impl Passing {
    /// Ready when the backend has taken enough for the next piece.
    fn poll_ready(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::By(flow) => flow.poll_ready(cx),
            Self::Free | Self::Within(_) => Poll::Ready(()),
        }
    }

    fn pass(&mut self, data: Bytes) -> Bytes {
        if let Self::Within(budget) = self {
            *self = Self::By(Flow::new(budget));
        }
        match self {
            Self::By(flow) => flow.pass(data),
            Self::Free | Self::Within(_) => data,
        }
    }
}

/// Where a body comes from.
#[derive(Debug)]
enum Source {
    Client(Incoming),
    /// It was read before, and nothing is still to come; `None` once it has been taken.
    Read(Option<Bytes>),
}

/// Told once, when a client's body was read to its end.
struct OnEnd(Option<Box<dyn FnOnce() + Send>>);

impl fmt::Debug for OnEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnEnd")
    }
}

/// How an upload is getting on, for whoever waits for the answer to it. A request without a body has
/// none.
#[derive(Debug, Clone)]
pub(super) struct Upload(Option<Arc<Moving>>);

#[derive(Debug)]
struct Moving {
    began: Instant,
    /// Milliseconds from `began` to the last frame.
    last_frame: AtomicU64,
    /// Whether the backend has taken all that has come, and the client is to send more.
    awaits_client: AtomicBool,
    /// Why it did not come to its end.
    error: OnceLock<RequestBodyError>,
}

impl Moving {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            last_frame: AtomicU64::new(0),
            awaits_client: AtomicBool::new(false),
            error: OnceLock::new(),
        })
    }

    fn on_frame(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_frame.store(now, Ordering::Relaxed);
    }

    /// The first reason stands: what follows is its consequence.
    fn broken(&self, error: RequestBodyError) -> RequestBodyError {
        self.error.get_or_init(|| error).clone()
    }
}

impl Upload {
    /// An answer that breaks after its upload has broken for that reason.
    pub(super) fn failure(&self, failure: Failure) -> Failure {
        let error = self.0.as_ref().and_then(|moving| moving.error.get());
        error.cloned().map_or(failure, Failure::Body)
    }

    /// Whether it is the client that keeps it from moving.
    pub(super) fn awaits_client(&self) -> bool {
        let moving = self.0.as_ref();
        moving.is_some_and(|moving| moving.awaits_client.load(Ordering::Relaxed))
    }

    /// When the last of it passed; when it began, if nothing has.
    pub(super) fn last_moved(&self) -> Option<Instant> {
        let moving = self.0.as_ref()?;
        let last_frame = Duration::from_millis(moving.last_frame.load(Ordering::Relaxed));
        Some(after(moving.began, last_frame))
    }
}

/// Why a request body was not passed on to its end.
#[derive(Debug, Clone)]
pub enum RequestBodyError {
    /// The answer is over, so nobody waits for the rest.
    Answered,
    /// The client went away before the end; what hyper says of it, unless it takes it for the end.
    Gone(Option<Arc<hyper::Error>>),
    /// The client's framing broke; what hyper says of it.
    Malformed(Arc<hyper::Error>),
    /// It is longer than `limits.body_bytes`.
    TooLarge,
}

impl fmt::Display for RequestBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered => f.write_str("the answer was over before the body"),
            Self::Gone(None) => f.write_str("the client broke off its body: the stream was reset"),
            Self::Gone(Some(error)) => {
                f.write_str("the client broke off its body: ")?;
                write_with_cause(f, error)
            }
            Self::Malformed(error) => {
                f.write_str("the client's body is malformed: ")?;
                write_with_cause(f, error)
            }
            Self::TooLarge => f.write_str("the body is larger than limits.body_bytes"),
        }
    }
}

fn write_with_cause(f: &mut fmt::Formatter<'_>, error: &hyper::Error) -> fmt::Result {
    write!(f, "{error}")?;
    std::error::Error::source(error).map_or(Ok(()), |cause| write!(f, ": {cause}"))
}

impl std::error::Error for RequestBodyError {
    /// hyper looks here for the code with which it resets the stream to the backend.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Gone(Some(error)) | Self::Malformed(error) => Some(error.as_ref()),
            Self::Answered | Self::Gone(None) | Self::TooLarge => None,
        }
    }
}

impl RequestBodyError {
    /// hyper tells a framing that it cannot read by the kind of its I/O error.
    pub(crate) fn of_client(error: hyper::Error) -> Self {
        let malformed = std::error::Error::source(&error)
            .and_then(|cause| cause.downcast_ref::<io::Error>())
            .is_some_and(|cause| {
                matches!(
                    cause.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
                )
            });
        if malformed {
            Self::Malformed(Arc::new(error))
        } else {
            Self::Gone(Some(Arc::new(error)))
        }
    }
}

impl RequestBody {
    /// A client's body over this version, of at most `limit` bytes if there is one; what of it waits to be
    /// written comes out of `buffers`. `on_end` is told when it was read to its end, unless it is over from
    /// the start.
    #[must_use]
    pub fn new(
        incoming: Incoming,
        version: Version,
        limit: Option<usize>,
        buffers: &Budget,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        Self::sending(Sending {
            source: Source::Client(incoming),
            remaining: limit.map(|limit| u64::try_from(limit).unwrap_or(u64::MAX)),
            upload: Moving::new(),
            on_end: OnEnd(Some(Box::new(on_end))),
            ends_by_flag: version == Version::HTTP_2,
            stream: None,
            passing: Passing::Within(buffers.clone()),
        })
    }

    /// A body that was read to its end already.
    #[must_use]
    pub fn read(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            return Self::empty();
        }
        Self::sending(Sending {
            source: Source::Read(Some(bytes)),
            remaining: None,
            upload: Moving::new(),
            on_end: OnEnd(None),
            ends_by_flag: false,
            stream: None,
            passing: Passing::Free,
        })
    }

    /// No body.
    #[must_use]
    pub const fn empty() -> Self {
        Self(None)
    }

    fn sending(sending: Sending) -> Self {
        Self(Some(Box::new(sending)))
    }

    /// Names the HTTP/2 stream that is to carry it.
    pub(super) fn carried_by(&mut self, stream: Arc<Stream>) {
        if let Some(sending) = &mut self.0 {
            sending.stream = Some(stream);
        }
    }

    pub(super) fn upload(&self) -> Upload {
        let sending = self.0.as_ref();
        Upload(sending.map(|sending| Arc::clone(&sending.upload)))
    }
}

impl Sending {
    fn ended(&mut self) {
        if let Some(on_end) = self.on_end.0.take() {
            on_end();
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.is_over(cx))
        {
            return Poll::Ready(Some(Err(self.upload.broken(RequestBodyError::Answered))));
        }
        if self.passing.poll_ready(cx).is_pending() {
            // It is the backend that keeps it from moving.
            self.upload.awaits_client.store(false, Ordering::Relaxed);
            return Poll::Pending;
        }
        let incoming = match &mut self.source {
            Source::Client(incoming) => incoming,
            Source::Read(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
        };
        let frame = Pin::new(&mut *incoming).poll_frame(cx);
        let waiting = frame.is_pending();
        self.upload.awaits_client.store(waiting, Ordering::Relaxed);
        let frame = match ready!(frame) {
            // hyper takes a stream that is reset with NO_ERROR for one that has ended.
            None if self.ends_by_flag && !incoming.is_end_stream() => {
                return Poll::Ready(Some(Err(self.upload.broken(RequestBodyError::Gone(None)))));
            }
            None => {
                self.ended();
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                let error = self.upload.broken(RequestBodyError::of_client(error));
                return Poll::Ready(Some(Err(error)));
            }
            Some(Ok(frame)) => frame,
        };
        let over = incoming.is_end_stream();
        let Some(data) = frame.data_ref() else {
            self.ended();
            return Poll::Ready(None);
        };
        let length = data.len();
        if let Some(remaining) = self.remaining {
            let length = u64::try_from(length).unwrap_or(u64::MAX);
            let Some(rest) = remaining.checked_sub(length) else {
                let error = self.upload.broken(RequestBodyError::TooLarge);
                return Poll::Ready(Some(Err(error)));
            };
            self.remaining = Some(rest);
        }
        self.upload.on_frame();
        if over {
            self.ended();
        }
        let frame = if Flow::counts(length) {
            frame.map_data(|data| self.passing.pass(data))
        } else {
            frame
        };
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.get_mut().0 {
            Some(sending) => sending.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|sending| match &sending.source {
            Source::Client(incoming) => incoming.is_end_stream(),
            Source::Read(bytes) => bytes.is_none(),
        })
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.as_ref().map(|sending| &sending.source) {
            Some(Source::Client(incoming)) => incoming.size_hint(),
            Some(Source::Read(Some(bytes))) => {
                SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
            }
            Some(Source::Read(None)) | None => SizeHint::with_exact(0),
        }
    }
}

/// A backend's body on its way to the client.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    upload: Upload,
    carrier: Carrier,
}

/// What a body came over, until its end.
#[derive(Debug)]
enum Carrier {
    /// An HTTP/1 connection of its own. It is moved along by the body, goes back to the pool at the
    /// end, and closes when it is dropped before.
    Pooled {
        connection: Connection,
        pool: Arc<Pool>,
        keep_alive: Duration,
        running: Running,
    },
    /// A stream of a shared HTTP/2 connection.
    Stream(#[expect(dead_code, reason = "held for its end")] AnswerSide),
    /// Given back.
    Released,
}

impl ResponseBody {
    pub(super) fn pooled(
        incoming: Incoming,
        upload: Upload,
        connection: Connection,
        pool: Arc<Pool>,
        keep_alive: Duration,
        running: Running,
    ) -> Self {
        let carrier = Carrier::Pooled {
            connection,
            pool,
            keep_alive,
            running,
        };
        Self::new(incoming, upload, carrier)
    }

    pub(super) fn of_stream(incoming: Incoming, upload: Upload, stream: AnswerSide) -> Self {
        Self::new(incoming, upload, Carrier::Stream(stream))
    }

    fn new(incoming: Incoming, upload: Upload, carrier: Carrier) -> Self {
        let mut body = Self {
            incoming,
            upload,
            carrier,
        };
        body.release_at_end();
        body
    }

    /// The connection is free as soon as the last byte is here, which may be before anybody asks
    /// for the frame after it.
    fn release_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Carrier::Pooled {
            connection,
            pool,
            keep_alive,
            running,
        } = std::mem::replace(&mut self.carrier, Carrier::Released)
        {
            pool.put(connection, keep_alive);
            drop(running);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let Self {
            incoming, carrier, ..
        } = &mut *self;
        let mut incoming = Pin::new(incoming);
        let frame = match carrier {
            Carrier::Pooled { connection, .. } => {
                connection.poll_for(cx, |cx| incoming.as_mut().poll_frame(cx))
            }
            Carrier::Stream(_) | Carrier::Released => incoming.poll_frame(cx),
        };
        match &frame {
            // hyper takes a stream that is reset with NO_ERROR for one that has ended.
            Poll::Ready(None)
                if matches!(self.carrier, Carrier::Stream(_)) && !self.incoming.is_end_stream() =>
            {
                return Poll::Ready(Some(Err(self.upload.failure(Failure::Cut))));
            }
            Poll::Ready(None) => self.release(),
            Poll::Ready(Some(Ok(_))) => self.release_at_end(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame.map_err(|error| self.upload.failure(Failure::Broken(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
