//! What can go wrong on the way to the backend.

use std::fmt;
use std::io;
use std::time::Duration;

/// Why a request got no answer from the backend.
#[derive(Debug)]
pub enum Failure {
    /// The connection broke before the answer began.
    Broken(hyper::Error),
    /// The connection closed before the request was sent.
    Closed,
    /// No connection could be made.
    Connect(io::Error),
    /// No connection within `timeouts.connect`.
    ConnectTimeout(Duration),
    /// No answer within `timeouts.response_header`.
    ResponseTimeout(Duration),
    /// The TLS handshake failed.
    Tls(io::Error),
}

impl Failure {
    /// The stable code of this failure, for clients, logs and the README.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Broken(_) | Self::Closed => "upstream_failed",
            Self::Connect(_) | Self::Tls(_) => "upstream_unreachable",
            Self::ConnectTimeout(_) | Self::ResponseTimeout(_) => "upstream_timeout",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(error) => {
                write!(f, "the connection broke: {error}")?;
                std::error::Error::source(error).map_or(Ok(()), |cause| write!(f, ": {cause}"))
            }
            Self::Closed => f.write_str("the connection closed before the request was sent"),
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::ConnectTimeout(limit) => write!(f, "no connection within {limit:?}"),
            Self::ResponseTimeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
        }
    }
}

impl std::error::Error for Failure {}
