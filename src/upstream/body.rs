//! Bodies in both directions. Nothing is gathered; frames pass as they come.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::connection::Connection;
use super::failure::Failure;
use super::pool::Pool;
use crate::clock::after;

/// A client's body on its way to the backend. Trailers end here: none of them was authorised, and
/// a backend might read them as headers (RFC 9110 §6.5.1).
#[derive(Debug)]
pub struct RequestBody {
    incoming: Option<Incoming>,
    remaining: Option<u64>,
    upload: Arc<Upload>,
    on_end: OnEnd,
    /// Whether the end is a flag that can be asked for, as it is in HTTP/2.
    ends_by_flag: bool,
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
    /// Why it did not come to its end.
    error: OnceLock<RequestBodyError>,
}

impl Upload {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            last_frame: AtomicU64::new(0),
            error: OnceLock::new(),
        })
    }

    fn on_frame(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_frame.store(now, Ordering::Relaxed);
    }

    /// An answer that breaks after its upload has broken for that reason.
    pub(super) fn failure(&self, error: hyper::Error) -> Failure {
        let upload = self.error.get().cloned();
        upload.map_or(Failure::Broken(error), Failure::Body)
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
    /// The client went away before the end; what hyper says of it.
    Gone(String),
    /// The client's framing broke; what hyper says of it.
    Malformed(String),
    /// It is longer than `limits.body_bytes`.
    TooLarge,
}

impl fmt::Display for RequestBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(error) => write!(f, "the client broke off its body: {error}"),
            Self::Malformed(error) => write!(f, "the client's body is malformed: {error}"),
            Self::TooLarge => f.write_str("the body is larger than limits.body_bytes"),
        }
    }
}

impl std::error::Error for RequestBodyError {}

impl RequestBodyError {
    /// hyper tells a framing that it cannot read by the kind of its I/O error.
    fn of_client(error: &hyper::Error) -> Self {
        let cause = std::error::Error::source(error);
        let malformed = cause
            .and_then(|cause| cause.downcast_ref::<io::Error>())
            .is_some_and(|cause| {
                matches!(
                    cause.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
                )
            });
        let text = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        if malformed {
            Self::Malformed(text)
        } else {
            Self::Gone(text)
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
            incoming: Some(incoming),
            remaining: limit.map(|limit| u64::try_from(limit).unwrap_or(u64::MAX)),
            upload: Upload::new(),
        }
    }

    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            incoming: None,
            remaining: None,
            upload: Upload::new(),
            on_end: OnEnd(None),
            ends_by_flag: false,
        }
    }

    fn ended(&mut self) {
        if let Some(on_end) = self.on_end.0.take() {
            on_end();
        }
    }

    pub(super) const fn upload(&self) -> &Arc<Upload> {
        &self.upload
    }

    fn broken(&self, error: RequestBodyError) -> RequestBodyError {
        self.upload.error.get_or_init(|| error).clone()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let ends_by_flag = self.ends_by_flag;
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            // hyper takes a stream that is reset with NO_ERROR for one that has ended.
            None if ends_by_flag && !incoming.is_end_stream() => {
                let error = RequestBodyError::Gone("the stream was reset".to_owned());
                return Poll::Ready(Some(Err(self.broken(error))));
            }
            None => {
                self.ended();
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                let error = self.broken(RequestBodyError::of_client(&error));
                return Poll::Ready(Some(Err(error)));
            }
            Some(Ok(frame)) => frame,
        };
        let over = incoming.is_end_stream();
        let Some(data) = frame.data_ref() else {
            self.ended();
            return Poll::Ready(None);
        };
        if let Some(remaining) = self.remaining {
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            let Some(rest) = remaining.checked_sub(length) else {
                let error = self.broken(RequestBodyError::TooLarge);
                return Poll::Ready(Some(Err(error)));
            };
            self.remaining = Some(rest);
        }
        self.upload.on_frame();
        if over {
            self.ended();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A backend's body on its way to the client. It moves its connection along, gives it back to the
/// pool at the end, and closes it when it is dropped before.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    connection: Option<Connection>,
    upload: Arc<Upload>,
    pool: Arc<Pool>,
    keep_alive: Duration,
}

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        connection: Connection,
        upload: Arc<Upload>,
        pool: Arc<Pool>,
        keep_alive: Duration,
    ) -> Self {
        let mut body = Self {
            incoming,
            connection: Some(connection),
            upload,
            pool,
            keep_alive,
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
        if let Some(connection) = self.connection.take() {
            self.pool.put(connection, self.keep_alive);
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
            && let Some(connection) = &mut self.connection
        {
            connection.poll(cx);
            frame = Pin::new(&mut self.incoming).poll_frame(cx);
        }
        match &frame {
            Poll::Ready(None) => self.release(),
            Poll::Ready(Some(Ok(_))) => self.release_at_end(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame.map_err(|error| self.upload.failure(error))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
