//! What can go wrong on the way to the backend.

use std::fmt;
use std::io;
use std::time::Duration;

use super::body::RequestBodyError;

/// Why a request got no answer from the backend.
#[derive(Debug)]
pub enum Failure {
    /// The client's body broke off, or was too large, so the request was abandoned.
    Body(RequestBodyError),
    /// The connection broke before the answer began.
    Broken(hyper::Error),
    /// The connection closed before the request was sent.
    Closed,
    /// No connection could be made.
    Connect(io::Error),
    /// No connection within `timeouts.connect`.
    ConnectTimeout(Duration),
    /// No connection could be made, because this process has no file descriptor left for it.
    NoDescriptor,
    /// No answer within `timeouts.response_header`.
    ResponseTimeout(Duration),
    /// The TLS handshake failed.
    Tls(io::Error),
    /// The answer cannot be passed on.
    Unsound(&'static str),
}

impl Failure {
    /// An exchange that broke, by whoever's fault it was.
    pub(super) fn broken(error: hyper::Error) -> Self {
        let body = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref());
        match body {
            Some(RequestBodyError::TooLarge) => Self::Body(RequestBodyError::TooLarge),
            Some(RequestBodyError::Client(cause)) => {
                Self::Body(RequestBodyError::Client(cause.clone()))
            }
            None => Self::Broken(error),
        }
    }

    /// A connection that could not be made.
    pub(super) fn connect(error: io::Error) -> Self {
        /// `EMFILE` and `ENFILE`, for which the standard library has no kind: the same on every Unix.
        const OUT_OF_DESCRIPTORS: [i32; 2] = [24, 23];
        let code = error.raw_os_error();
        if code.is_some_and(|code| OUT_OF_DESCRIPTORS.contains(&code)) {
            Self::NoDescriptor
        } else {
            Self::Connect(error)
        }
    }

    /// The stable code of this failure, for clients, logs and the README.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Body(RequestBodyError::Client(_)) => "request_malformed",
            Self::Body(RequestBodyError::TooLarge) => "body_too_large",
            Self::Broken(_) | Self::Closed | Self::Unsound(_) => "upstream_failed",
            Self::Connect(_) | Self::Tls(_) => "upstream_unreachable",
            Self::NoDescriptor => "overloaded",
            Self::ConnectTimeout(_) | Self::ResponseTimeout(_) => "upstream_timeout",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(error) => error.fmt(f),
            Self::Broken(error) => {
                write!(f, "the connection broke: {error}")?;
                std::error::Error::source(error).map_or(Ok(()), |cause| write!(f, ": {cause}"))
            }
            Self::Closed => f.write_str("the connection closed before the request was sent"),
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::ConnectTimeout(limit) => write!(f, "no connection within {limit:?}"),
            Self::NoDescriptor => f.write_str("no file descriptor is left for a connection"),
            Self::ResponseTimeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Unsound(what) => write!(f, "unsound answer: {what}"),
        }
    }
}

impl std::error::Error for Failure {}
