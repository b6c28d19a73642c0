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
    /// The upstream's name leads to no address.
    Resolve(io::Error),
    /// No answer within `timeouts.response_header`.
    ResponseTimeout(Duration),
    /// The TLS handshake failed.
    Tls(io::Error),
    /// `101` where nobody asked for it, or to something that nobody asked for.
    UnaskedUpgrade,
    /// The answer cannot be passed on.
    Unsound(&'static str),
}

impl Failure {
    /// An exchange that broke, by whoever's fault it was.
    pub(super) fn broken(error: hyper::Error) -> Self {
        let body: Option<&RequestBodyError> =
            std::error::Error::source(&error).and_then(|cause| cause.downcast_ref());
        body.cloned().map_or(Self::Broken(error), Self::Body)
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
            Self::Body(RequestBodyError::Gone(_)) => "client_closed",
            Self::Body(RequestBodyError::Malformed(_)) => "request_malformed",
            Self::Body(RequestBodyError::TooLarge) => "body_too_large",
            Self::NoDescriptor => "overloaded",
            Self::Broken(_) | Self::Closed | Self::UnaskedUpgrade | Self::Unsound(_) => {
                "upstream_failed"
            }
            Self::Connect(_) | Self::Resolve(_) | Self::Tls(_) => "upstream_unreachable",
            Self::ConnectTimeout(_) | Self::ResponseTimeout(_) => "upstream_timeout",
        }
    }

    /// The error type for `Proxy-Status` (RFC 9209 §2.3).
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Body(_) => "http_request_error",
            Self::Broken(error) if error.is_parse() => "http_protocol_error",
            Self::Broken(_) | Self::Closed => "connection_terminated",
            Self::Connect(error) => connect_error_type(error.kind()),
            Self::ConnectTimeout(_) => "connection_timeout",
            Self::NoDescriptor => "proxy_internal_error",
            Self::Resolve(_) => "dns_error",
            Self::ResponseTimeout(_) => "http_response_timeout",
            Self::Tls(error) => tls_error_type(error),
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
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::ConnectTimeout(limit) => write!(f, "no connection within {limit:?}"),
            Self::NoDescriptor => f.write_str("no file descriptor is left for a connection"),
            Self::Resolve(error) => write!(f, "cannot resolve the name: {error}"),
            Self::ResponseTimeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::UnaskedUpgrade => f.write_str("unsound answer: 101 that nobody asked for"),
            Self::Unsound(what) => write!(f, "unsound answer: {what}"),
        }
    }
}

impl std::error::Error for Failure {}

fn connect_error_type(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::ConnectionRefused => "connection_refused",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "destination_ip_unroutable"
        }
        io::ErrorKind::TimedOut => "connection_timeout",
        _ => "destination_unavailable",
    }
}

fn tls_error_type(error: &io::Error) -> &'static str {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::AlertReceived(_)) => "tls_alert_received",
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            "tls_certificate_error"
        }
        _ => "tls_protocol_error",
    }
}
