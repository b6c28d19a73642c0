//! The one exit for refusals: which answer a client gets for which reason.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};

use super::access_log::AccessLog;
use super::body_room::Unread;
use super::challenge::{self, Challenge, Realm};
use super::possession::DPOP_NONCE;
use super::schemes::Schemes;
use super::{Body, Refusal, resource};
use crate::cors::{CorsSettings, Origin};
use crate::headers::HeadError;
use crate::listener::Unreadable;
use crate::mcp::{MessageError, RequestId};
use crate::policy::Denial;
use crate::token::ProofError;
use crate::upstream::{ConnectError, Failure, RequestBodyError};

/// How many fields a refusal has, with one challenge and what the server adds.
const USUAL_FIELDS: usize = 6;

/// When a client that met missing keys should come back: soon, since asking costs next to nothing.
const KEYS_RETRY_AFTER: &str = "5";

/// When a client that met the queue of first checks, or full connections, should come back.
const OVERLOAD_RETRY_AFTER: &str = "1";

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Who has answered, and why (RFC 9209). No details: those are in the log.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who reads a refusal.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reader<'r> {
    /// Anybody.
    Http,
    /// A gRPC client, which gets a status of its own kind instead of a body.
    Grpc,
    /// An MCP client, which gets a JSON-RPC error for its request.
    JsonRpc(&'r RequestId),
}

/// What the client is told. The words of 401 and 403 are those that Mastra's clients print.
struct Answer {
    status: StatusCode,
    error: &'static str,
    challenge: Challenge,
    header: Option<(HeaderName, String)>,
}

impl Answer {
    const fn plain(status: StatusCode, error: &'static str) -> Self {
        Self {
            status,
            error,
            challenge: Challenge::None,
            header: None,
        }
    }
}

/// Chooses the answer. Every reason is named: a new one does not compile until it has an answer.
#[deny(clippy::wildcard_enum_match_arm)]
fn answer(refusal: &Refusal) -> Answer {
    match refusal {
        Refusal::Answer(_) => Answer::plain(StatusCode::BAD_GATEWAY, "Bad gateway"),
        Refusal::Authorization(_) => Answer {
            challenge: Challenge::InvalidRequest(
                "The Authorization header is not exactly one Bearer token",
            ),
            ..Answer::plain(StatusCode::BAD_REQUEST, "Malformed Authorization header")
        },
        Refusal::BodyTooLarge | Refusal::Message(MessageError::BodyTooLarge) => {
            Answer::plain(StatusCode::PAYLOAD_TOO_LARGE, "Request body too large")
        }
        Refusal::Denied(denial) => denied(denial),
        Refusal::Head(HeadError::Method) => {
            Answer::plain(StatusCode::NOT_IMPLEMENTED, "Method not served")
        }
        Refusal::Head(HeadError::MethodCase { upper }) => {
            Answer::plain(StatusCode::NOT_IMPLEMENTED, method_case(upper))
        }
        Refusal::Head(HeadError::Upgrade | HeadError::UpgradeWithBody) => upgrade_not_served(),
        Refusal::Head(
            HeadError::Host(_)
            | HeadError::ContentLength
            | HeadError::FieldName
            | HeadError::Nomination(_)
            | HeadError::Scheme
            | HeadError::TransferEncoding,
        ) => Answer::plain(StatusCode::BAD_REQUEST, "Malformed request"),
        Refusal::HostNotServed => Answer::plain(StatusCode::MISDIRECTED_REQUEST, "Host not served"),
        Refusal::KeysUnavailable => Answer {
            header: Some((RETRY_AFTER, KEYS_RETRY_AFTER.to_owned())),
            ..Answer::plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "Tokens cannot be verified at the moment",
            )
        },
        Refusal::Loop => Answer::plain(StatusCode::LOOP_DETECTED, "Loop detected"),
        Refusal::Message(_) => malformed_message(),
        Refusal::MetadataMethod => Answer {
            header: Some((ALLOW, resource::METHODS.to_owned())),
            ..Answer::plain(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
        },
        Refusal::OriginDenied => Answer::plain(StatusCode::FORBIDDEN, "Access denied"),
        Refusal::Exhausted(_)
        | Refusal::Overloaded
        | Refusal::ReplayCacheFull
        | Refusal::Unread(Unread::NoRoom(_)) => overloaded(),
        Refusal::Path(_) => Answer::plain(StatusCode::BAD_REQUEST, "Malformed path"),
        Refusal::Proof { error, nonce } => proof_refused(error, nonce.as_ref()),
        Refusal::ResourceUnknown => Answer::plain(StatusCode::NOT_FOUND, "Resource unknown"),
        Refusal::Token(rejection) => invalid_token(rejection.description()),
        Refusal::TooManyHeaders => Answer::plain(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "Too many header fields",
        ),
        Refusal::UnknownSession => Answer::plain(StatusCode::NOT_FOUND, "Session not found"),
        Refusal::Unreadable(Unreadable::HeadTooLarge) => Answer::plain(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "Request header too large",
        ),
        Refusal::Unreadable(Unreadable::Malformed(_)) => {
            Answer::plain(StatusCode::BAD_REQUEST, "Malformed request")
        }
        Refusal::Unread(Unread::GaveWay | Unread::TooSlow)
        | Refusal::Unreadable(Unreadable::TooSlow(_) | Unreadable::Evicted) => request_timeout(),
        Refusal::Upstream(failure) => failed(failure),
        Refusal::UriTooLong | Refusal::Unreadable(Unreadable::TargetTooLong) => {
            Answer::plain(StatusCode::URI_TOO_LONG, "Request target too long")
        }
    }
}

#[deny(clippy::wildcard_enum_match_arm)]
fn failed(failure: &Failure) -> Answer {
    match failure {
        Failure::Body(RequestBodyError::TooLarge) => {
            Answer::plain(StatusCode::PAYLOAD_TOO_LARGE, "Request body too large")
        }
        Failure::Body(
            RequestBodyError::Answered | RequestBodyError::Gone(_) | RequestBodyError::Malformed(_),
        ) => Answer::plain(StatusCode::BAD_REQUEST, "Malformed request"),
        Failure::Connect(ConnectError::NoDescriptor | ConnectError::NoRoom(_))
        | Failure::Exhausted(_)
        | Failure::Full => overloaded(),
        Failure::Connect(ConnectError::Timeout(_)) | Failure::ResponseTimeout(_) => {
            Answer::plain(StatusCode::GATEWAY_TIMEOUT, "Gateway timeout")
        }
        Failure::Broken(_)
        | Failure::Closed
        | Failure::Connect(
            ConnectError::NotHttp2(_)
            | ConnectError::Resolve(_)
            | ConnectError::Socket(_)
            | ConnectError::Tls(_),
        )
        | Failure::Cut
        | Failure::UnaskedUpgrade
        | Failure::Unsound(_) => Answer::plain(StatusCode::BAD_GATEWAY, "Bad gateway"),
        Failure::Expired => invalid_token("The token has expired"),
        Failure::Upgrade => upgrade_not_served(),
        Failure::UploadStalled(_) => request_timeout(),
    }
}

/// RFC 9449 §7.1 and §9. Its figure 16 has a key that does not match under `invalid_token`: it is the token
/// that is not good in these hands.
fn proof_refused(error: &ProofError, nonce: Option<&String>) -> Answer {
    let description = error.description();
    Answer {
        challenge: match error {
            ProofError::Nonce => Challenge::UseNonce(description),
            ProofError::WrongKey => Challenge::WrongKey(description),
            _ => Challenge::InvalidProof(description),
        },
        header: nonce.map(|nonce| (DPOP_NONCE, nonce.clone())),
        ..Answer::plain(StatusCode::UNAUTHORIZED, "Invalid or expired token")
    }
}

fn invalid_token(description: &'static str) -> Answer {
    Answer {
        challenge: Challenge::InvalidToken(description),
        ..Answer::plain(StatusCode::UNAUTHORIZED, "Invalid or expired token")
    }
}

fn overloaded() -> Answer {
    Answer {
        header: Some((RETRY_AFTER, OVERLOAD_RETRY_AFTER.to_owned())),
        ..Answer::plain(StatusCode::SERVICE_UNAVAILABLE, "Overloaded")
    }
}

const fn malformed_message() -> Answer {
    Answer::plain(StatusCode::BAD_REQUEST, "Malformed MCP message")
}

const fn request_timeout() -> Answer {
    Answer::plain(StatusCode::REQUEST_TIMEOUT, "Request timeout")
}

const fn upgrade_not_served() -> Answer {
    Answer::plain(StatusCode::BAD_REQUEST, "Upgrade not served")
}

#[deny(clippy::wildcard_enum_match_arm)]
fn denied(denial: &Denial) -> Answer {
    match denial {
        Denial::MessageUnread { .. } => malformed_message(),
        Denial::Audience(rejection) => invalid_token(rejection.description()),
        Denial::Denied { .. }
        | Denial::MessageNotCovered { .. }
        | Denial::RuleFailed { .. }
        | Denial::Unmatched
        | Denial::WrongClaimType { .. } => Answer::plain(StatusCode::FORBIDDEN, "Access denied"),
        Denial::MethodNotCovered { allow, .. } => Answer {
            header: Some((ALLOW, allow.join(", "))),
            ..Answer::plain(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
        },
        Denial::ScopeMissing { needed, .. } => Answer {
            challenge: Challenge::InsufficientScope(needed.clone()),
            ..Answer::plain(StatusCode::FORBIDDEN, "Access denied")
        },
        Denial::TokenRequired => Answer {
            challenge: Challenge::NoError,
            ..Answer::plain(StatusCode::UNAUTHORIZED, "Authentication required")
        },
    }
}

/// What to send instead. `fetch` turns some methods into upper case and leaves others, `patch` first of
/// all, as the page spells them (Fetch, "normalize a method").
fn method_case(upper: &str) -> &'static str {
    match upper {
        "DELETE" => "Methods are case-sensitive: send DELETE",
        "GET" => "Methods are case-sensitive: send GET",
        "HEAD" => "Methods are case-sensitive: send HEAD",
        "OPTIONS" => "Methods are case-sensitive: send OPTIONS",
        "PATCH" => "Methods are case-sensitive: send PATCH",
        "POST" => "Methods are case-sensitive: send POST",
        "PUT" => "Methods are case-sensitive: send PUT",
        _ => "Methods are case-sensitive: send it in upper case",
    }
}

/// What gRPC calls an HTTP status: as its clients would take it if they looked at nothing else, and
/// closer where they would know no better than UNKNOWN.
const fn grpc_status(status: StatusCode) -> &'static str {
    match status {
        // INTERNAL, PERMISSION_DENIED, UNAUTHENTICATED, DEADLINE_EXCEEDED
        StatusCode::BAD_REQUEST | StatusCode::LOOP_DETECTED => "13",
        StatusCode::FORBIDDEN => "7",
        StatusCode::UNAUTHORIZED => "16",
        StatusCode::REQUEST_TIMEOUT => "4",
        // UNIMPLEMENTED
        StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::MISDIRECTED_REQUEST
        | StatusCode::NOT_FOUND
        | StatusCode::NOT_IMPLEMENTED => "12",
        // RESOURCE_EXHAUSTED
        StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        | StatusCode::URI_TOO_LONG => "8",
        // UNAVAILABLE
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT | StatusCode::SERVICE_UNAVAILABLE => {
            "14"
        }
        // UNKNOWN
        _ => "2",
    }
}

/// How a gRPC call ends whose token is over.
pub(super) fn grpc_expired() -> HeaderMap {
    HeaderMap::from_iter([
        (
            GRPC_STATUS,
            HeaderValue::from_static(grpc_status(StatusCode::UNAUTHORIZED)),
        ),
        (
            GRPC_MESSAGE,
            HeaderValue::from_static("Invalid or expired token (token_expired)"),
        ),
    ])
}

/// The code of a JSON-RPC error (JSON-RPC 2.0 §5.1), for those that look at nothing else.
#[deny(clippy::wildcard_enum_match_arm)]
const fn rpc_code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Message(error) => match error {
            MessageError::NotJson(_) => "-32700",
            MessageError::NotMessage(_) => "-32600",
            // What MCP has for headers that do not go with the body.
            MessageError::Field { .. } | MessageError::Mismatch { .. } => "-32020",
            MessageError::BodyKind(_) | MessageError::BodyNotRead | MessageError::BodyTooLarge => {
                "-32000"
            }
        },
        // What MCP's own servers say.
        Refusal::UnknownSession => "-32001",
        Refusal::Answer(_)
        | Refusal::Exhausted(_)
        | Refusal::KeysUnavailable
        | Refusal::Overloaded
        | Refusal::ReplayCacheFull
        | Refusal::Unread(_)
        | Refusal::Upstream(_) => "-32603",
        Refusal::Authorization(_)
        | Refusal::BodyTooLarge
        | Refusal::Denied(_)
        | Refusal::Head(_)
        | Refusal::HostNotServed
        | Refusal::Loop
        | Refusal::MetadataMethod
        | Refusal::OriginDenied
        | Refusal::Path(_)
        | Refusal::Proof { .. }
        | Refusal::ResourceUnknown
        | Refusal::Token(_)
        | Refusal::TooManyHeaders
        | Refusal::Unreadable(_)
        | Refusal::UriTooLong => "-32000",
    }
}

/// Builds the response for a refusal. Whoever reads it, the head says the same.
pub(super) fn refuse(
    refusal: &Refusal,
    reader: Reader<'_>,
    realm: &Realm<'_>,
    schemes: Schemes<'_>,
    request_id: &HeaderValue,
    origin: &Origin,
    mut log: AccessLog,
) -> Response<Body> {
    log.refused(refusal);
    let response = refusal_text(refusal, reader, realm, schemes, request_id, origin);
    // Who has left gets nothing.
    if !refusal.is_by_leaving() {
        log.status(response.status());
    }
    response.map(|text| Body::own(text.into(), log))
}

/// The same for what is no request, as the bytes of the last answer of a connection.
pub(super) fn refuse_unreadable(
    why: Unreadable,
    realm: &Realm<'_>,
    schemes: Schemes<'_>,
    request_id: &HeaderValue,
    mut log: AccessLog,
) -> Vec<u8> {
    let refusal = Refusal::Unreadable(why);
    log.refused(&refusal);
    let reader = Reader::Http;
    let response = refusal_text(&refusal, reader, realm, schemes, request_id, &Origin::None);
    log.status(response.status());
    let mut bytes = http1_head(response.status(), response.headers());
    let body = response.body();
    bytes.truncate(bytes.len().saturating_sub(b"\r\n".len()));
    bytes.extend_from_slice(
        format!(
            "connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
    bytes
}

/// A response head as HTTP/1.1 writes it, up to and with the empty line.
pub(super) fn http1_head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The answer itself, which needs no connection.
pub(crate) fn refusal_text(
    refusal: &Refusal,
    reader: Reader<'_>,
    realm: &Realm<'_>,
    schemes: Schemes<'_>,
    request_id: &HeaderValue,
    origin: &Origin,
) -> Response<String> {
    let answer = answer(refusal);
    // None of the three needs escaping: two are fixed texts, and a request id is checked or made here.
    let (error, code) = (answer.error, refusal.code());
    let id = request_id.to_str().unwrap_or_default();
    let (kind, body) = match reader {
        Reader::Http => (
            "application/json",
            // Joined, since a flood of refusals would feel what the formatter takes.
            [
                r#"{"error":""#,
                error,
                r#"","code":""#,
                code,
                r#"","request_id":""#,
                id,
                r#""}"#,
            ]
            .concat(),
        ),
        Reader::Grpc => ("application/grpc", String::new()),
        Reader::JsonRpc(of) => {
            let of = match of {
                RequestId::Unread => String::new(),
                RequestId::Null => "\"id\":null,".to_owned(),
                RequestId::Of(of) => format!("\"id\":{of},"),
            };
            let number = rpc_code(refusal);
            let data = format!("{{\"code\":\"{code}\",\"request_id\":\"{id}\"}}");
            let body = format!(
                "{{\"jsonrpc\":\"2.0\",{of}\"error\":{{\"code\":{number},\"message\":\"{error}\",\"data\":{data}}}}}"
            );
            ("application/json", body)
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.reserve(USUAL_FIELDS);
    if matches!(reader, Reader::Grpc) {
        let status = grpc_status(answer.status);
        headers.insert(GRPC_STATUS, HeaderValue::from_static(status));
        set_text(headers, GRPC_MESSAGE, Some(format!("{error} ({code})")));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_REQUEST_ID, request_id.clone());
    let status = ["authgate; error=", refusal.error_type()].concat();
    set_text(headers, PROXY_STATUS, Some(status));
    for text in challenge::texts(&answer.challenge, realm, schemes) {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.append(WWW_AUTHENTICATE, value);
        }
    }
    if let Some((name, value)) = answer.header {
        set_text(headers, name, Some(value));
    }
    origin.mark_own(headers);
    response
}

/// Answers a preflight in the upstream's stead.
pub(super) fn preflight(
    origin: &Origin,
    request: &HeaderMap,
    settings: &CorsSettings,
    request_id: &HeaderValue,
) -> Response<Bytes> {
    let mut response = no_content(request_id);
    origin.mark_preflight(response.headers_mut(), request, settings);
    response
}

/// Answers an OPTIONS that is not to go further. It says nothing of the upstream.
pub(crate) fn options_answer(origin: &Origin, request_id: &HeaderValue) -> Response<Bytes> {
    let mut response = no_content(request_id);
    origin.mark_own(response.headers_mut());
    response
}

/// An answer without a body.
pub(super) fn no_content(request_id: &HeaderValue) -> Response<Bytes> {
    let mut response = ok(Bytes::new(), request_id);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// An answer of our own that is no refusal.
pub(super) fn ok(body: Bytes, request_id: &HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, request_id.clone());
    headers.insert(PROXY_STATUS, HeaderValue::from_static("authgate"));
    response
}

fn set_text(headers: &mut HeaderMap, name: HeaderName, text: Option<String>) {
    if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(name, value);
    }
}
