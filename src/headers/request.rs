//! A request head before the decision (is it sound?) and after it (what does the upstream get?).

use std::fmt;

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderMap,
    HeaderName, HeaderValue, MAX_FORWARDS, RANGE, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{Method, Version, request};

use super::connection::NominationError;
use super::forwarded::Before;
use super::hops::{MaxForwards, Pseudonym};
use super::host::{Host, HostError, effective_host};
use super::managed::ManagedNames;
use super::trace::{TRACEPARENT, is_tracestate, traceparent};
use super::{joined, list_holds, only_value};
use crate::identity::Identity;

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Room for what is added to a request: the identity, the trace and the way that it has come.
const MAX_ADDED: usize = 10;

/// Why a head is refused before anything is decided. All of these are the client's mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadError {
    /// Without exactly one well-formed host.
    Host(HostError),
    /// `CONNECT` and `TRACE`, in any case, are not for this gateway (RFC 9110 §9.3.6, §9.3.8).
    Method,
    /// A method with a lower-case letter. Methods are case-sensitive (RFC 9110 §9.1), and some backends
    /// read them in upper case all the same. No registered method has one.
    MethodCase {
        /// What the client most likely means.
        upper: String,
    },
    /// `Connection` nominates what no request may nominate, or too much.
    Nomination(NominationError),
    /// A content length that is not one number (RFC 9110 §8.6).
    ContentLength,
    /// A field name that no field has (RFC 9110 §5.1), which HTTP/2 can carry and HTTP/1 cannot.
    FieldName,
    /// A scheme that is neither `http` nor `https`.
    Scheme,
    /// A transfer coding other than one `chunked`, or beside a content length (RFC 9112 §6.1, §6.3): the next
    /// server may frame it differently.
    TransferEncoding,
    /// A WebSocket handshake that is not whole. Its client expects no ordinary answer.
    Upgrade,
    /// A WebSocket handshake with a body: nobody could say where it ends and the frames begin.
    UpgradeWithBody,
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(error) => error.fmt(f),
            Self::Method => f.write_str("CONNECT and TRACE are not served"),
            Self::MethodCase { upper } => {
                write!(f, "methods are case-sensitive: send {upper}")
            }
            Self::Nomination(error) => error.fmt(f),
            Self::ContentLength => f.write_str("Content-Length is not one number"),
            Self::FieldName => f.write_str("a field name holds a quotation mark"),
            Self::Scheme => f.write_str("the scheme is neither http nor https"),
            Self::TransferEncoding => f.write_str(
                "Transfer-Encoding is not exactly one \"chunked\", or stands beside Content-Length",
            ),
            Self::Upgrade => f.write_str(
                "a WebSocket handshake is a GET with Connection: upgrade that offers nothing beside websocket",
            ),
            Self::UpgradeWithBody => f.write_str("a WebSocket handshake has no body"),
        }
    }
}

impl std::error::Error for HeadError {}

/// Checks what hyper lets pass and a gateway must not.
///
/// # Errors
///
/// [`HeadError`] names what is wrong.
pub fn check_head(head: &request::Parts) -> Result<Host, HeadError> {
    check_method(head.method.as_str())?;
    if head
        .uri
        .scheme_str()
        .is_some_and(|scheme| !matches!(scheme, "http" | "https"))
    {
        return Err(HeadError::Scheme);
    }
    // The one sign that `HeaderName` takes from HTTP/2 although it is none of a token's.
    if head
        .headers
        .keys()
        .any(|name| name.as_str().bytes().any(|byte| byte == b'"'))
    {
        return Err(HeadError::FieldName);
    }
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
        if !digits || lengths.next().is_some() {
            return Err(HeadError::ContentLength);
        }
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let one_chunked =
            coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        if !one_chunked || head.headers.contains_key(CONTENT_LENGTH) {
            return Err(HeadError::TransferEncoding);
        }
    }
    if asks_for_websocket(head) {
        if !is_websocket_upgrade(head) {
            return Err(HeadError::Upgrade);
        }
        if announces_body(&head.headers) {
            return Err(HeadError::UpgradeWithBody);
        }
    }
    effective_host(head).map_err(HeadError::Host)
}

/// Whether a method is served: as the method of a request, or as the one that a preflight asks about.
///
/// # Errors
///
/// [`HeadError::Method`] or [`HeadError::MethodCase`].
pub fn check_method(method: &str) -> Result<(), HeadError> {
    if method.eq_ignore_ascii_case("CONNECT") || method.eq_ignore_ascii_case("TRACE") {
        return Err(HeadError::Method);
    }
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(HeadError::MethodCase {
            upper: method.to_ascii_uppercase(),
        });
    }
    Ok(())
}

/// Whether anything but an empty body is to come.
fn announces_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH);
    headers.contains_key(TRANSFER_ENCODING)
        || length.is_some_and(|length| length.as_bytes().iter().any(|digit| *digit != b'0'))
}

/// Whether a request asks for a WebSocket, soundly or not. Any other `Upgrade` is only an offer: a server may
/// ignore it, and ignores every one over HTTP/1.0 (RFC 9110 §7.8). Java's `HttpClient` offers `h2c` in each
/// request. It is removed with the fields of the connection.
fn asks_for_websocket(head: &request::Parts) -> bool {
    let is_websocket = |offer: &[u8]| {
        let name = offer.split(|byte| *byte == b'/').next();
        name.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"websocket"))
    };
    let mut lines = head.headers.get_all(UPGRADE).iter();
    head.version == Version::HTTP_11
        && lines.any(|line| {
            line.as_bytes()
                .split(|byte| *byte == b',')
                .any(is_websocket)
        })
}

/// RFC 6455 §4.1: a GET over HTTP/1.1 that asks for `websocket` and nothing else.
#[must_use]
pub(crate) fn is_websocket_upgrade(head: &request::Parts) -> bool {
    let mut protocols = head.headers.get_all(UPGRADE).iter();
    let only_websocket = protocols
        .next()
        .is_some_and(|one| one.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && protocols.next().is_none();
    only_websocket
        && head.version == Version::HTTP_11
        && head.method == Method::GET
        && list_holds(&head.headers, &http::header::CONNECTION, "upgrade")
}

/// Whether a request is a gRPC call, whose client reads no JSON. (gRPC-Web is HTTP that browsers read.)
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some(kind) = only_value(headers, &CONTENT_TYPE) else {
        return false;
    };
    let kind = kind.as_bytes();
    kind.get(..GRPC.len())
        .is_some_and(|kind| kind.eq_ignore_ascii_case(GRPC))
        && matches!(kind.get(GRPC.len()), None | Some(b'+' | b';' | b' '))
}

/// The other end of the client's connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peer<'r> {
    /// Its address, without brackets.
    pub address: Option<&'r HeaderValue>,
    /// Whether it is a trusted proxy, so that what it says of its client is extended.
    pub is_trusted: bool,
}

/// What the upstream is to be told beside the client's own headers.
#[derive(Debug, Clone, Copy)]
pub struct Outbound<'r> {
    /// The verified caller, if there is one.
    pub identity: Option<&'r Identity>,
    /// Whether the upstream gets the token itself.
    pub forward_authorization: bool,
    /// The host that was checked.
    pub host: &'r Host,
    /// The client's HTTP version.
    pub version: Version,
    /// The scheme by which it came.
    pub scheme: &'static str,
    /// The name of this instance in `Via`.
    pub pseudonym: &'r Pseudonym,
    /// Whether the upstream gets `TE: trailers`: the client takes them, and so does the upstream, which is
    /// spoken to in HTTP/2.
    pub te_trailers: bool,
    /// What becomes of `Max-Forwards`.
    pub max_forwards: MaxForwards,
    /// Whether the answer is read here: it must come whole and in no coding.
    pub reads_answer: bool,
    /// Who is connected.
    pub peer: Peer<'r>,
    /// What something in front strips from the beginning of every path, where that is configured.
    pub path_prefix: Option<&'r HeaderValue>,
    /// The id of the request.
    pub request_id: &'r HeaderValue,
}

/// The upstream's headers, of a request's headers without the fields of its connection: those that may
/// pass, then those that are set here, so that no spelling can touch them.
#[must_use]
pub fn request_headers(
    headers: &HeaderMap,
    managed: &ManagedNames,
    outbound: &Outbound<'_>,
) -> HeaderMap {
    let passes = |name: &HeaderName| {
        name != HOST
            && name != EXPECT
            && name != TRACESTATE
            && (name != AUTHORIZATION || outbound.forward_authorization)
            && !managed.covers(name, outbound.peer.is_trusted)
    };
    let mut sent = HeaderMap::with_capacity(headers.len().saturating_add(MAX_ADDED));
    for (name, value) in headers.iter().filter(|(name, _)| passes(name)) {
        sent.append(name.clone(), value.clone());
    }
    join_cookies(&mut sent);

    sent.insert(HOST, outbound.host.value().clone());
    if outbound.te_trailers {
        // The one value that HTTP/2 allows (RFC 9113 §8.2.2); gRPC servers insist on it.
        sent.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let MaxForwards::Left(left) = outbound.max_forwards {
        sent.insert(MAX_FORWARDS, HeaderValue::from(left));
    }
    if outbound.reads_answer {
        sent.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        sent.remove(RANGE);
    }
    sent.insert(X_REQUEST_ID, outbound.request_id.clone());
    put_trace(&mut sent, headers);
    sent.append(VIA, outbound.pseudonym.line(outbound.version).clone());
    Before::of(headers, outbound.peer.is_trusted).extend(
        &mut sent,
        outbound.peer.address,
        outbound.host,
        outbound.scheme,
    );
    if let Some(prefix) = outbound.path_prefix {
        sent.insert(X_FORWARDED_PREFIX, prefix.clone());
    }
    for (name, value) in outbound.identity.into_iter().flat_map(Identity::headers) {
        sent.insert(name.clone(), value.clone());
    }
    sent
}

/// Passes a sound trace on, and begins none: nothing records a span here, and a parent that was made up
/// would take the decision to sample away from the agent.
fn put_trace(sent: &mut HeaderMap, headers: &HeaderMap) {
    // A state without a trace means nothing.
    let Some(traceparent) = traceparent(headers) else {
        return;
    };
    sent.insert(TRACEPARENT, traceparent.clone());
    if let Some(state) = joined(headers, &TRACESTATE)
        .filter(|state| is_tracestate(state))
        .and_then(|state| HeaderValue::try_from(state).ok())
    {
        sent.insert(TRACESTATE, state);
    }
}

/// RFC 9113 §8.2.3: HTTP/2 may split the cookie field; HTTP/1 must not see it split.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    if crumbs.len() > 1 {
        let whole: Vec<u8> = crumbs
            .iter()
            .map(HeaderValue::as_bytes)
            .collect::<Vec<_>>()
            .join(&b"; "[..]);
        if let Ok(whole) = HeaderValue::from_bytes(&whole) {
            headers.insert(COOKIE, whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        HeadError, Host, ManagedNames, MaxForwards, Outbound, Peer, Pseudonym, check_head,
        check_method, is_grpc, request_headers,
    };
    use crate::headers::remove_connection_fields;
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use http::{Request, Version, request};

    fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn host() -> Host {
        check_head(&head("GET", "/", &[("host", "a.example")])).expect("a sound head")
    }

    fn rewritten(headers: &[(&str, &str)], trusted: bool) -> HeaderMap {
        rewritten_below(None, headers, trusted)
    }

    fn rewritten_below(
        prefix: Option<&'static str>,
        headers: &[(&str, &str)],
        trusted: bool,
    ) -> HeaderMap {
        let mut headers = head("GET", "/", headers).headers;
        remove_connection_fields(&mut headers).expect("fields that may be nominated");
        let host = host();
        let managed = ManagedNames::new(&[HeaderName::from_static("x-forwarded-user")]);
        request_headers(
            &headers,
            &managed,
            &Outbound {
                identity: None,
                forward_authorization: false,
                host: &host,
                version: Version::HTTP_11,
                scheme: "http",
                pseudonym: &Pseudonym::new(7),
                te_trailers: false,
                max_forwards: MaxForwards::Unlimited,
                reads_answer: false,
                peer: Peer {
                    address: Some(&HeaderValue::from_static("10.0.0.9")),
                    is_trusted: trusted,
                },
                path_prefix: prefix.map(HeaderValue::from_static).as_ref(),
                request_id: &HeaderValue::from_static("id-1"),
            },
        )
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (kinds, expected) in [
            (&["application/grpc"][..], true),
            (&["application/grpc+proto"], true),
            (&["Application/GRPC; charset=utf-8"], true),
            (&["application/grpc-web"], false),
            (&["application/grpc-web+proto"], false),
            (&["application/grpcx"], false),
            (&["application/json"], false),
            (&[""], false),
            (&["application/grpc", "application/json"], false),
            (&[], false),
        ] {
            let fields: Vec<_> = kinds.iter().map(|kind| ("content-type", *kind)).collect();
            assert_eq!(
                is_grpc(&head("POST", "/", &fields).headers),
                expected,
                "{kinds:?}"
            );
        }
    }

    fn values<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
        headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().expect("visible"))
            .collect()
    }

    #[test]
    fn unsound_heads_are_refused() {
        let websocket = [
            ("host", "a"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
        ];
        assert!(check_head(&head("GET", "/", &websocket)).is_ok());
        for (field, sound) in [
            (("content-length", "0"), true),
            (("content-length", "5"), false),
            (("content-length", "10"), false),
            (("transfer-encoding", "chunked"), false),
        ] {
            let fields = [&websocket[..], &[field]].concat();
            let expected = if sound {
                None
            } else {
                Some(HeadError::UpgradeWithBody)
            };
            let found = check_head(&head("GET", "/", &fields)).err();
            assert_eq!(found, expected, "{field:?}");
        }
        assert!(
            check_head(&head(
                "POST",
                "/",
                &[("host", "a"), ("transfer-encoding", "Chunked")]
            ))
            .is_ok()
        );
        for (method, uri, headers, expected) in [
            (
                "CONNECT",
                "a.example:443",
                &[("host", "a")][..],
                HeadError::Method,
            ),
            ("TRACE", "/", &[("host", "a")], HeadError::Method),
            (
                "GET",
                "ftp://a.example/",
                &[("host", "a")],
                HeadError::Scheme,
            ),
            (
                "POST",
                "/",
                &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
                HeadError::TransferEncoding,
            ),
            (
                "POST",
                "/",
                &[
                    ("host", "a"),
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "chunked"),
                ],
                HeadError::TransferEncoding,
            ),
            (
                "POST",
                "/",
                &[("host", "a"), ("transfer-encoding", "identity")],
                HeadError::TransferEncoding,
            ),
            (
                "POST",
                "/",
                &[
                    ("host", "a"),
                    ("transfer-encoding", "chunked"),
                    ("content-length", "3"),
                ],
                HeadError::TransferEncoding,
            ),
            (
                "POST",
                "/",
                &[("host", "a"), ("content-length", "")],
                HeadError::ContentLength,
            ),
            (
                "POST",
                "/",
                &[("host", "a"), ("content-length", "+5")],
                HeadError::ContentLength,
            ),
            (
                "POST",
                "/",
                &[
                    ("host", "a"),
                    ("content-length", "5"),
                    ("content-length", "5"),
                ],
                HeadError::ContentLength,
            ),
            (
                "GET",
                "/",
                &[("host", "a"), ("upgrade", "websocket")],
                HeadError::Upgrade,
            ),
            (
                "POST",
                "/",
                &[
                    ("host", "a"),
                    ("connection", "upgrade"),
                    ("upgrade", "websocket"),
                ],
                HeadError::Upgrade,
            ),
            (
                "GET",
                "/",
                &[
                    ("host", "a"),
                    ("connection", "upgrade"),
                    ("upgrade", "websocket"),
                    ("upgrade", "h2c"),
                ],
                HeadError::Upgrade,
            ),
            (
                "GET",
                "/",
                &[
                    ("host", "a"),
                    ("connection", "upgrade"),
                    ("upgrade", "websocket, h2c"),
                ],
                HeadError::Upgrade,
            ),
        ] {
            assert_eq!(
                check_head(&head(method, uri, headers)),
                Err(expected),
                "{method} {uri} {headers:?}"
            );
        }
    }

    #[test]
    fn an_offer_of_another_protocol_is_no_flaw() {
        for (version, fields, sound) in [
            (Version::HTTP_11, &[("upgrade", "h2c")][..], true),
            (Version::HTTP_11, &[("upgrade", "TLS/1.0, foo")], true),
            (Version::HTTP_11, &[("upgrade", "")], true),
            (
                Version::HTTP_11,
                &[("upgrade", "h2c"), ("content-length", "5")],
                true,
            ),
            (
                Version::HTTP_11,
                &[("upgrade", "websockets, x/websocket")],
                true,
            ),
            (Version::HTTP_11, &[("upgrade", "h2c, WebSocket")], false),
            (Version::HTTP_11, &[("upgrade", "websocket/13")], false),
            (
                Version::HTTP_11,
                &[("upgrade", "h2c"), ("upgrade", "websocket")],
                false,
            ),
            (Version::HTTP_10, &[("upgrade", "websocket")], true),
            (Version::HTTP_10, &[("upgrade", "h2c")], true),
        ] {
            let common = [("host", "a"), ("connection", "upgrade")];
            let mut head = head("POST", "/", &[&common[..], fields].concat());
            head.version = version;
            let expected = (!sound).then_some(HeadError::Upgrade);
            assert_eq!(check_head(&head).err(), expected, "{version:?} {fields:?}");
        }
    }

    #[test]
    fn methods_are_served_in_upper_case_only() {
        for method in [
            "GET", "POST", "DELETE", "OPTIONS", "PATCH", "M-SEARCH", "X_1", "1", "CONNECTS",
        ] {
            assert_eq!(check_method(method), Ok(()), "{method}");
        }
        for (method, upper) in [
            ("patch", "PATCH"),
            ("delete", "DELETE"),
            ("Delete", "DELETE"),
            ("deletE", "DELETE"),
            ("m-search", "M-SEARCH"),
            ("get", "GET"),
        ] {
            let upper = upper.to_owned();
            assert_eq!(
                check_method(method),
                Err(HeadError::MethodCase { upper }),
                "{method}"
            );
        }
        for method in ["TRACE", "trace", "Trace", "CONNECT", "connect", "cONNECT"] {
            assert_eq!(check_method(method), Err(HeadError::Method), "{method}");
        }
    }

    #[test]
    fn a_field_name_is_a_token() {
        let mut head = head("GET", "/", &[("host", "a")]);
        let name = HeaderName::from_lowercase(b"a\"b").expect("a name, as HTTP/2 has it");
        head.headers.insert(name, HeaderValue::from_static("x"));
        assert_eq!(check_head(&head), Err(HeadError::FieldName));
    }

    #[test]
    fn what_the_client_must_not_say_goes_and_the_rest_stays() {
        let headers = rewritten(
            &[
                ("host", "spoofed.example"),
                ("connection", "close, x-secret, x-forwarded-user"),
                ("x-secret", "1"),
                ("keep-alive", "5"),
                ("te", "trailers"),
                ("trailer", "x"),
                ("proxy-connection", "x"),
                ("proxy-authorization", "Basic x"),
                ("authorization", "Bearer x"),
                ("expect", "100-continue"),
                ("x-forwarded-user", "admin"),
                ("X_Forwarded_User", "admin"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-host", "evil.example"),
                ("forwarded", "for=1.2.3.4"),
                ("x-request-id", "theirs"),
                ("via", "1.1 front"),
                ("accept", "a"),
                ("accept", "b"),
                ("cookie", "a=1"),
                ("cookie", "b=2"),
            ],
            false,
        );
        for gone in [
            "connection",
            "x-secret",
            "keep-alive",
            "te",
            "trailer",
            "proxy-connection",
            "proxy-authorization",
            "authorization",
            "expect",
            "x-forwarded-user",
            "x_forwarded_user",
        ] {
            assert!(values(&headers, gone).is_empty(), "{gone}");
        }
        for (name, expected) in [
            ("host", &["a.example"][..]),
            ("x-forwarded-for", &["10.0.0.9"]),
            ("x-forwarded-host", &["a.example"]),
            ("x-forwarded-proto", &["http"]),
            ("x-request-id", &["id-1"]),
            ("via", &["1.1 front", "1.1 authgate-00000007"]),
            ("forwarded", &["for=10.0.0.9;host=\"a.example\";proto=http"]),
            ("accept", &["a", "b"]),
            ("cookie", &["a=1; b=2"]),
            ("traceparent", &[]),
        ] {
            assert_eq!(values(&headers, name), expected, "{name}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_extended() {
        let headers = rewritten(
            &[
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "public.example"),
                ("x-forwarded-user", "admin"),
            ],
            true,
        );
        assert_eq!(values(&headers, "x-forwarded-for"), ["1.2.3.4, 10.0.0.9"]);
        assert_eq!(values(&headers, "x-forwarded-proto"), ["https"]);
        assert_eq!(values(&headers, "x-forwarded-host"), ["public.example"]);
        assert!(values(&headers, "x-forwarded-user").is_empty());
    }

    #[test]
    fn a_stripped_prefix_is_a_trusted_proxys_word_or_configured() {
        for (prefix, sent, trusted, expected) in [
            (None, &[][..], false, &[][..]),
            (None, &[("x-forwarded-prefix", "/evil")], false, &[]),
            (None, &[("X_Forwarded_Prefix", "/evil")], true, &[]),
            (
                None,
                &[("x-forwarded-prefix", "/team-a")],
                true,
                &["/team-a"],
            ),
            (Some("/team-a"), &[], false, &["/team-a"]),
            (
                Some("/team-a"),
                &[("x-forwarded-prefix", "/evil")],
                false,
                &["/team-a"],
            ),
            (
                Some("/team-a"),
                &[("x-forwarded-prefix", "/other")],
                true,
                &["/team-a"],
            ),
        ] {
            let headers = rewritten_below(prefix, sent, trusted);
            assert_eq!(values(&headers, "x-forwarded-prefix"), expected, "{sent:?}");
            assert!(values(&headers, "x_forwarded_prefix").is_empty());
        }
    }

    #[test]
    fn a_sound_trace_is_kept_and_an_unsound_one_dropped() {
        const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let kept = rewritten(&[("traceparent", TRACE), ("tracestate", "v=1")], false);
        assert_eq!(values(&kept, "traceparent"), [TRACE]);
        assert_eq!(values(&kept, "tracestate"), ["v=1"]);
        for unsound in [
            &[("traceparent", "junk"), ("tracestate", "v=1")][..],
            &[
                ("traceparent", TRACE),
                ("traceparent", TRACE),
                ("tracestate", "v=1"),
            ],
            &[("tracestate", "v=1")],
            // Other tracers' headers are no reason to begin a trace beside theirs.
            &[("x-b3-traceid", "1"), ("x-cloud-trace-context", "1/1;o=1")],
        ] {
            let headers = rewritten(unsound, false);
            assert!(values(&headers, "traceparent").is_empty(), "{unsound:?}");
            assert!(values(&headers, "tracestate").is_empty(), "{unsound:?}");
        }
    }
}
