//! What can go wrong on the way to the backend.

use std::fmt;
use std::time::Duration;

use super::body::RequestBodyError;
use super::connect::ConnectError;
use crate::budget::Exhausted;

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
    Connect(ConnectError),
    /// The stream was given up without an error, and without its end.
    Cut,
    /// An event of the answer is to be filtered, and there is no room to hold it.
    Exhausted(Exhausted),
    /// The caller's token expired, and `streams.expiry_grace` was over, before the answer began.
    Expired,
    /// As many connections are full of streams as one worker may have.
    Full,
    /// No answer within `timeouts.response_header`.
    ResponseTimeout(Duration),
    /// `101` where nobody asked for it, or to something that nobody asked for.
    UnaskedUpgrade,
    /// The answer cannot be passed on.
    Unsound(&'static str),
    /// An upgrade was asked for, and the upstream is spoken to in HTTP/2, which has none.
    Upgrade,
    /// The client sent nothing more of its body for as long as an answer may take.
    UploadStalled(Duration),
}

impl Failure {
    /// An answer whose `Connection` has more options than are looked at.
    pub const TOO_MANY_OPTIONS: Self = Self::Unsound("Connection has more than 32 options");

    /// An exchange that broke, by whoever's fault it was.
    pub(super) fn broken(error: hyper::Error) -> Self {
        let body: Option<&RequestBodyError> =
            std::error::Error::source(&error).and_then(|cause| cause.downcast_ref());
        body.cloned().map_or(Self::Broken(error), Self::Body)
    }

    /// The stable code of this failure, for clients, logs and `docs/responses.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Body(RequestBodyError::Gone(_)) => "client_closed",
            Self::Body(RequestBodyError::Answered | RequestBodyError::Malformed(_)) => {
                "request_malformed"
            }
            Self::Body(RequestBodyError::TooLarge) => "body_too_large",
            Self::Connect(ConnectError::NoDescriptor | ConnectError::NoRoom(_))
            | Self::Exhausted(_)
            | Self::Full => "overloaded",
            Self::Broken(_)
            | Self::Closed
            | Self::Cut
            | Self::UnaskedUpgrade
            | Self::Unsound(_) => "upstream_failed",
            Self::Connect(ConnectError::Timeout(_)) | Self::ResponseTimeout(_) => {
                "upstream_timeout"
            }
            Self::Connect(_) => "upstream_unreachable",
            Self::Expired => "token_expired",
            Self::Upgrade => "upgrade_not_served",
            Self::UploadStalled(_) => "request_timeout",
        }
    }

    /// The error type for `Proxy-Status` (RFC 9209 §2.3).
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Body(_) | Self::Upgrade | Self::UploadStalled(_) => "http_request_error",
            Self::Broken(error) if error.is_parse() => "http_protocol_error",
            Self::Broken(_) | Self::Closed | Self::Cut => "connection_terminated",
            Self::Connect(error) => error.error_type(),
            Self::Expired => "http_request_denied",
            Self::Exhausted(_) | Self::Full => "proxy_internal_error",
            Self::ResponseTimeout(_) => "http_response_timeout",
            Self::UnaskedUpgrade => "http_upgrade_failed",
            Self::Unsound(_) => "http_protocol_error",
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
            Self::Connect(error) => error.fmt(f),
            Self::Exhausted(why) => why.fmt(f),
            Self::Cut => f.write_str("the upstream gave up its stream"),
            Self::Expired => {
                f.write_str("streams.expiry_grace after exp is over; there was no answer yet")
            }
            Self::Full => f.write_str("every connection to the upstream is full of streams"),
            Self::ResponseTimeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::UnaskedUpgrade => f.write_str("unsound answer: 101 that nobody asked for"),
            Self::Unsound(what) => write!(f, "unsound: {what}"),
            Self::Upgrade => {
                f.write_str("upstream_protocol is \"http2\", over which no WebSocket is opened")
            }
            Self::UploadStalled(limit) => {
                write!(
                    f,
                    "the client sent nothing more of its body within {limit:?}"
                )
            }
        }
    }
}

impl std::error::Error for Failure {}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}
