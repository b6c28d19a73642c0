//! What the client gets as a body, with the log record that ends with it.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::access_log::AccessLog;
use super::respond;
use super::tools::{Begun, EventBody};
use crate::headers;
use crate::upstream::{Failure, Place, ResponseBody};

/// A response body.
#[derive(Debug)]
pub struct Body {
    content: Content,
    expiry: Option<Expiry>,
    log: Option<AccessLog>,
}

/// The end of a caller's token, with its grace. The timer is set only when a body has to be waited for.
#[derive(Debug)]
struct Expiry {
    at: Instant,
    /// gRPC has words for it behind a body, which its client is told then.
    is_grpc: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Why a body ends before its end. The client sees the connection break off, never a clean end.
#[derive(Debug)]
pub enum BodyError {
    /// The caller's token has expired, and `streams.expiry_grace` is over.
    Expired,
    /// The exchange with the upstream broke.
    Upstream(Failure),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("the token of the stream has expired"),
            Self::Upstream(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BodyError {}

#[derive(Debug)]
enum Content {
    /// An answer of our own, until it is taken.
    Own(Option<Bytes>),
    Upstream(Upstream),
}

/// The body of an upstream's answer.
#[derive(Debug)]
pub(super) enum Upstream {
    /// Over a connection of the pool.
    Pooled(ResponseBody),
    /// Read already.
    Read(Option<Bytes>),
    /// An event stream that is made for its caller.
    Events(Box<EventBody>),
    /// Read in part.
    Begun(Box<Begun>),
    /// Over a connection that asked for an upgrade and got an ordinary answer.
    Single(
        Incoming,
        #[expect(dead_code, reason = "held for its end")] Place,
    ),
}

impl Body {
    /// An answer of our own. One without a text is all head.
    pub(super) fn own(text: Bytes, log: AccessLog) -> Self {
        Self {
            content: Content::Own((!text.is_empty()).then_some(text)),
            expiry: None,
            log: Some(log),
        }
    }

    /// The upstream's answer, which ends at `expiry` if it has not ended before.
    pub(super) fn forwarded(
        body: Upstream,
        expiry: Option<std::time::Instant>,
        is_grpc: bool,
        log: AccessLog,
    ) -> Self {
        let mut body = Self {
            content: Content::Upstream(body),
            expiry: expiry.map(|at| Expiry {
                at: at.into(),
                is_grpc,
                timer: None,
            }),
            log: Some(log),
        };
        body.note_end();
        body
    }

    /// Nothing; `101` has no body.
    pub(super) const fn none() -> Self {
        Self {
            content: Content::Own(None),
            expiry: None,
            log: None,
        }
    }

    /// The last byte may be here before anybody asks for the frame after it.
    fn note_end(&mut self) {
        if let Content::Upstream(body) = &self.content
            && body.is_end_stream()
            && let Some(mut log) = self.log.take()
        {
            log.complete();
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let upstream = match &mut self.content {
            Content::Own(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Content::Upstream(upstream) => upstream,
        };
        let frame = upstream.poll_frame(cx);
        let waiting = frame.is_pending();
        let ended = matches!(frame, Poll::Ready(None));
        if !ended
            && let Some(expiry) = &mut self.expiry
            && expiry.is_over(waiting, cx)
        {
            let end = if expiry.is_grpc {
                Ok(Frame::trailers(respond::grpc_expired()))
            } else {
                Err(BodyError::Expired)
            };
            if let Some(mut log) = self.log.take() {
                log.expired();
            }
            self.content = Content::Own(None);
            self.expiry = None;
            return Poll::Ready(Some(end));
        }
        let mut frame = ready!(frame);
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::rewrite_trailers(trailers);
                }
                self.note_end();
            }
            Some(Err(error)) => {
                if let Some(log) = &mut self.log {
                    log.broken(error);
                }
            }
            None => {
                if let Some(mut log) = self.log.take() {
                    log.complete();
                }
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Upstream)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(bytes) => bytes.is_none(),
            Content::Upstream(upstream) => upstream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Content::Upstream(upstream) => upstream.size_hint(),
        }
    }
}

impl Expiry {
    /// Whether the time is over; when the body is waiting, the task is woken for it.
    fn is_over(&mut self, waiting: bool, cx: &mut Context<'_>) -> bool {
        if !waiting {
            return Instant::now() >= self.at;
        }
        let at = self.at;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        timer.as_mut().poll(cx).is_ready()
    }
}

impl Upstream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self {
            Self::Pooled(body) => Pin::new(body).poll_frame(cx),
            Self::Read(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(events) => events.poll_frame(cx),
            Self::Begun(begun) => begun.poll_frame(cx),
            Self::Single(body, _) => Pin::new(body).poll_frame(cx).map_err(Failure::Broken),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Pooled(body) => body.is_end_stream(),
            Self::Read(bytes) => bytes.is_none(),
            Self::Events(events) => events.is_end_stream(),
            Self::Begun(begun) => begun.is_end_stream(),
            Self::Single(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Pooled(body) => body.size_hint(),
            Self::Read(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Self::Events(_) | Self::Begun(_) => SizeHint::default(),
            Self::Single(body, _) => body.size_hint(),
        }
    }
}
