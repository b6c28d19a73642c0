//! Every reason for which a request is answered here and not by the upstream.

use std::fmt;

use super::body_room::Unread;
use crate::budget::Exhausted;
use crate::canonical::{PathError, RequestError};
use crate::headers::HeadError;
use crate::listener::Unreadable;
use crate::mcp::{AnswerError, MessageError};
use crate::policy::Denial;
use crate::token::{AuthorizationError, ProofError, Rejection, Unverified, VerifyError};
use crate::upstream::{Failure, RequestBodyError};

/// Why a request is not answered by the upstream. `Display` is for the log.
#[derive(Debug)]
pub enum Refusal {
    /// The upstream's answer is not passed on.
    Answer(AnswerError),
    /// The `Authorization` header cannot be read.
    Authorization(AuthorizationError),
    /// The body is larger than `limits.body_bytes`.
    BodyTooLarge,
    /// The rules refuse.
    Denied(Denial),
    /// A budget of the process is used up.
    Exhausted(Exhausted),
    /// The head is unsound.
    Head(HeadError),
    /// The host is not in `allowed_hosts`.
    HostNotServed,
    /// Keys are missing, or a newer set of them is, so the token cannot be judged.
    KeysUnavailable,
    /// The request has passed here before.
    Loop,
    /// It is not certain what an MCP request asks for.
    Message(MessageError),
    /// A resource's metadata is asked for with a method that it has not.
    MetadataMethod,
    /// The request comes from a page on an origin that is not welcome.
    OriginDenied,
    /// Too many tokens or proofs are waiting for their signature check.
    Overloaded,
    /// The path is malformed or ambiguous.
    Path(PathError),
    /// The token is bound to a key, and its proof is refused.
    Proof {
        /// Why.
        error: ProofError,
        /// The nonce that the next proof must have, where that is what this one lacks.
        nonce: Option<String>,
    },
    /// A proof holds, and cannot be remembered as used.
    ReplayCacheFull,
    /// There is no resource whose metadata would be at this path.
    ResourceUnknown,
    /// The token is refused.
    Token(Rejection),
    /// More header fields than `limits.headers`.
    TooManyHeaders,
    /// The MCP session is none of this caller's.
    UnknownSession,
    /// An MCP message was not read to its end.
    Unread(Unread),
    /// It is no request.
    Unreadable(Unreadable),
    /// The upstream did not answer.
    Upstream(Failure),
    /// The target is longer than `limits.uri_bytes`.
    UriTooLong,
}

impl Refusal {
    /// Why a token is not taken, once no fetch can help any more.
    #[must_use]
    pub fn of_token(error: VerifyError, token: &Unverified<'_>) -> Self {
        match error {
            VerifyError::KeysUnavailable => Self::KeysUnavailable,
            VerifyError::Rejected(rejection) => Self::Token(rejection),
            VerifyError::UnknownKey => Self::Token(Rejection::UnknownKey {
                kid: token.kid().map(str::to_owned),
            }),
        }
    }

    /// The stable code, for clients, logs and `docs/responses.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Answer(_) => "mcp_answer_unreadable",
            Self::Authorization(_) => "authorization_malformed",
            Self::BodyTooLarge => "body_too_large",
            Self::Denied(denial) => denial.code(),
            Self::Head(HeadError::Host(_)) => "host_malformed",
            Self::Head(HeadError::Method | HeadError::MethodCase { .. }) => "method_not_served",
            Self::Head(
                HeadError::ContentLength
                | HeadError::FieldName
                | HeadError::Nomination(_)
                | HeadError::Scheme
                | HeadError::TransferEncoding,
            )
            | Self::Unreadable(Unreadable::Malformed(_)) => "request_malformed",
            Self::Head(HeadError::Upgrade | HeadError::UpgradeWithBody) => "upgrade_not_served",
            Self::HostNotServed => "host_not_served",
            Self::KeysUnavailable => "keys_unavailable",
            Self::Loop => "loop_detected",
            Self::Message(error) => error.code(),
            Self::MetadataMethod => "method_denied",
            Self::OriginDenied => "origin_denied",
            Self::Exhausted(_)
            | Self::Overloaded
            | Self::ReplayCacheFull
            | Self::Unread(Unread::NoRoom(_)) => "overloaded",
            Self::Path(PathError::TooManyReadings) => "path_ambiguous",
            Self::Path(_) => "path_malformed",
            Self::Proof { error, .. } => error.code(),
            Self::ResourceUnknown => "resource_unknown",
            Self::Token(rejection) => rejection.code(),
            Self::TooManyHeaders => "headers_too_many",
            Self::UnknownSession => "mcp_session_unknown",
            Self::Unreadable(Unreadable::HeadTooLarge) => "headers_too_large",
            Self::Unread(Unread::GaveWay | Unread::TooSlow)
            | Self::Unreadable(Unreadable::TooSlow(_) | Unreadable::Evicted) => "request_timeout",
            Self::UriTooLong | Self::Unreadable(Unreadable::TargetTooLong) => "uri_too_long",
            Self::Upstream(failure) => failure.code(),
        }
    }

    /// The error type for `Proxy-Status` (RFC 9209 §2.3). Every reason is named: a new one does not
    /// compile until it has a type.
    #[deny(clippy::wildcard_enum_match_arm)]
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Authorization(_)
            | Self::BodyTooLarge
            | Self::Head(
                HeadError::ContentLength
                | HeadError::FieldName
                | HeadError::Host(_)
                | HeadError::Nomination(_)
                | HeadError::Scheme
                | HeadError::TransferEncoding
                | HeadError::Upgrade
                | HeadError::UpgradeWithBody,
            )
            | Self::Denied(Denial::MessageUnread { .. })
            | Self::Message(_)
            | Self::Path(_)
            | Self::ResourceUnknown
            | Self::TooManyHeaders
            | Self::Unread(Unread::GaveWay | Unread::TooSlow)
            | Self::Unreadable(_)
            | Self::UriTooLong => "http_request_error",
            Self::Denied(_)
            | Self::Head(HeadError::Method | HeadError::MethodCase { .. })
            | Self::HostNotServed
            | Self::MetadataMethod
            | Self::OriginDenied
            | Self::Proof { .. }
            | Self::Token(_)
            | Self::UnknownSession => "http_request_denied",
            Self::Answer(_) => "http_protocol_error",
            Self::Exhausted(_)
            | Self::KeysUnavailable
            | Self::Overloaded
            | Self::ReplayCacheFull
            | Self::Unread(Unread::NoRoom(_)) => "proxy_internal_error",
            Self::Loop => "proxy_loop_detected",
            Self::Upstream(failure) => failure.error_type(),
        }
    }

    /// Whether what follows on the connection may be a part of this request (RFC 9112 §6.3).
    #[must_use]
    pub const fn leaves_framing_in_doubt(&self) -> bool {
        matches!(
            self,
            Self::Head(
                HeadError::ContentLength
                    | HeadError::TransferEncoding
                    | HeadError::Upgrade
                    | HeadError::UpgradeWithBody
            ) | Self::Unread(Unread::GaveWay | Unread::TooSlow)
                | Self::Upstream(Failure::UploadStalled(_))
        )
    }

    /// Whether the client itself broke off.
    #[must_use]
    pub const fn is_by_leaving(&self) -> bool {
        matches!(
            self,
            Self::Upstream(Failure::Body(RequestBodyError::Gone(_)))
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(error) => error.fmt(f),
            Self::Authorization(error) => error.fmt(f),
            Self::BodyTooLarge => f.write_str("the body is larger than limits.body_bytes"),
            Self::Denied(denial) => denial.fmt(f),
            Self::Exhausted(why) => why.fmt(f),
            Self::Head(error) => error.fmt(f),
            Self::HostNotServed => {
                f.write_str("the host is neither in allowed_hosts nor that of the resource")
            }
            Self::KeysUnavailable => {
                f.write_str("an issuer's keys, or a newer set of them, cannot be had, so this token cannot be judged")
            }
            Self::Loop => {
                f.write_str("Via says that this instance has passed the request on before")
            }
            Self::Message(error) => error.fmt(f),
            Self::MetadataMethod => write!(f, "only {:?}", super::resource::METHODS),
            Self::OriginDenied => {
                f.write_str("the origin is neither in cors.origins nor that of the resource")
            }
            Self::Overloaded => {
                f.write_str("too many tokens or proofs are waiting for their signature check")
            }
            Self::Path(error) => error.fmt(f),
            Self::Proof { error, .. } => error.fmt(f),
            Self::ReplayCacheFull => {
                f.write_str("dpop.replay_cache is full of proofs that could be used again, or this key has its share of them")
            }
            Self::ResourceUnknown => f.write_str("no resource has its metadata here"),
            Self::Token(rejection) => rejection.fmt(f),
            Self::TooManyHeaders => f.write_str("more header fields than limits.headers"),
            Self::UnknownSession => f.write_str(
                "the Mcp-Session-Id was not given to this caller by anybody with the key",
            ),
            Self::Unread(why) => why.fmt(f),
            Self::Unreadable(why) => why.fmt(f),
            Self::Upstream(failure) => failure.fmt(f),
            Self::UriTooLong => f.write_str("the target is longer than limits.uri_bytes"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Head(error) => Self::Head(error),
            RequestError::Path(error) => Self::Path(error),
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Upstream(failure)
    }
}
