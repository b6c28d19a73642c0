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
use crate::clock::after;

/// A client's body on its way to the backend. Trailers end here: none of them was authorised, and
/// a backend might read them as headers (RFC 9110 §6.5.1).
#[derive(Debug)]
pub struct RequestBody {
    incoming: Option<Incoming>,
    /// What was read before, where nothing is still to come.
    read: Option<Bytes>,
    remaining: Option<u64>,
    upload: Arc<Upload>,
    on_end: OnEnd,
    /// Whether the end is a flag that can be asked for, as it is in HTTP/2.
    ends_by_flag: bool,
    /// The HTTP/2 stream that carries it to the backend, if one does.
    stream: Option<Arc<Stream>>,
}

/// Told once, when a client's body was read to its end.
struct OnEnd(Option<Box<dyn FnOnce() + Send>>);

impl fmt::Debug for OnEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnEnd")
    }
}

/// How an upload is getting on, for whoever waits for the answer to it.
#[derive(Debug)]
pub(super) struct Upload {
    began: Instant,
    /// Milliseconds from `began` to the last frame.
    last_frame: AtomicU64,
    /// Whether the backend has taken all that has come, and the client is to send more.
    awaits_client: AtomicBool,
    /// Why it did not come to its end.
    error: OnceLock<RequestBodyError>,
}

impl Upload {
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

    /// An answer that breaks after its upload has broken for that reason.
    pub(super) fn failure(&self, failure: Failure) -> Failure {
        self.error.get().cloned().map_or(failure, Failure::Body)
    }

    /// Whether it is the client that keeps it from moving.
    pub(super) fn awaits_client(&self) -> bool {
        self.awaits_client.load(Ordering::Relaxed)
    }

    /// When the last of it passed; when it began, if nothing has.
    pub(super) fn last_moved(&self) -> Instant {
        after(
            self.began,
            Duration::from_millis(self.last_frame.load(Ordering::Relaxed)),
        )
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
    /// A client's body over this version, of at most `limit` bytes if there is one. `on_end` is told
    /// when it was read to its end.
    #[must_use]
    pub fn new(
        incoming: Incoming,
        version: Version,
        limit: Option<usize>,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Self {
        // A body that is over from the start is not waited for.
        let on_end = OnEnd((!incoming.is_end_stream()).then(|| {
            let on_end: Box<dyn FnOnce() + Send> = Box::new(on_end);
            on_end
        }));
        Self {
            on_end,
            ends_by_flag: version == Version::HTTP_2,
            stream: None,
            incoming: Some(incoming),
            read: None,
            remaining: limit.map(|limit| u64::try_from(limit).unwrap_or(u64::MAX)),
            upload: Upload::new(),
        }
    }

    /// A body that was read to its end already.
    #[must_use]
    pub fn read(bytes: Bytes) -> Self {
        Self {
            read: (!bytes.is_empty()).then_some(bytes),
            ..Self::empty()
        }
    }

    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            incoming: None,
            read: None,
            remaining: None,
            upload: Upload::new(),
            on_end: OnEnd(None),
            ends_by_flag: false,
            stream: None,
        }
    }

    fn ended(&mut self) {
        if let Some(on_end) = self.on_end.0.take() {
            on_end();
        }
    }

    /// Names the HTTP/2 stream that is to carry it.
    pub(super) fn carried_by(&mut self, stream: Arc<Stream>) {
        self.stream = Some(stream);
    }

    pub(super) const fn upload(&self) -> &Arc<Upload> {
        &self.upload
    }

    /// The first reason stands: what follows is its consequence.
    fn broken(&self, error: RequestBodyError) -> RequestBodyError {
        self.upload.error.get_or_init(|| error).clone()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this
            .stream
            .as_ref()
            .is_some_and(|stream| stream.is_over(cx))
        {
            return Poll::Ready(Some(Err(this.broken(RequestBodyError::Answered))));
        }
        let ends_by_flag = this.ends_by_flag;
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(this.read.take().map(|bytes| Ok(Frame::data(bytes))));
        };
        let frame = Pin::new(&mut *incoming).poll_frame(cx);
        let waiting = frame.is_pending();
        this.upload.awaits_client.store(waiting, Ordering::Relaxed);
        let frame = match ready!(frame) {
            // hyper takes a stream that is reset with NO_ERROR for one that has ended.
            None if ends_by_flag && !incoming.is_end_stream() => {
                return Poll::Ready(Some(Err(this.broken(RequestBodyError::Gone(None)))));
            }
            None => {
                this.ended();
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                let error = this.broken(RequestBodyError::of_client(error));
                return Poll::Ready(Some(Err(error)));
            }
            Some(Ok(frame)) => frame,
        };
        let over = incoming.is_end_stream();
        let Some(data) = frame.data_ref() else {
            this.ended();
            return Poll::Ready(None);
        };
        if let Some(remaining) = this.remaining {
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            let Some(rest) = remaining.checked_sub(length) else {
                let error = this.broken(RequestBodyError::TooLarge);
                return Poll::Ready(Some(Err(error)));
            };
            this.remaining = Some(rest);
        }
        this.upload.on_frame();
        if over {
            this.ended();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_none() && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.as_ref().map_or(0, Bytes::len);
        self.incoming.as_ref().map_or_else(
            || SizeHint::with_exact(u64::try_from(read).unwrap_or(u64::MAX)),
            Body::size_hint,
        )
    }
}

/// A backend's body on its way to the client.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    upload: Arc<Upload>,
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
    },
    /// A stream of a shared HTTP/2 connection.
    Stream(#[expect(dead_code, reason = "held for its end")] AnswerSide),
    /// Given back.
    Released,
}

impl ResponseBody {
    pub(super) fn pooled(
        incoming: Incoming,
        upload: Arc<Upload>,
        connection: Connection,
        pool: Arc<Pool>,
        keep_alive: Duration,
    ) -> Self {
        let carrier = Carrier::Pooled {
            connection,
            pool,
            keep_alive,
        };
        Self::new(incoming, upload, carrier)
    }

    pub(super) fn of_stream(incoming: Incoming, upload: Arc<Upload>, stream: AnswerSide) -> Self {
        Self::new(incoming, upload, Carrier::Stream(stream))
    }

    fn new(incoming: Incoming, upload: Arc<Upload>, carrier: Carrier) -> Self {
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
        } = std::mem::replace(&mut self.carrier, Carrier::Released)
        {
            pool.put(connection, keep_alive);
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
        let mut frame = Pin::new(&mut self.incoming).poll_frame(cx);
        if frame.is_pending()
            && let Carrier::Pooled { connection, .. } = &mut self.carrier
        {
            connection.poll(cx);
            frame = Pin::new(&mut self.incoming).poll_frame(cx);
        }
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
