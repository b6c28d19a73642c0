//! Any request head, whoever sends it: what passes the check reaches the upstream with the identity
//! that was proven and no other, without a connection's fields, and with everything else untouched.
//!
//! An input is a byte of flags, the request line and the fields as lines, and after an empty line the
//! subject, which may hold anything.

use std::sync::Arc;

use authgate::headers::{
    MANAGED as LISTED, ManagedNames, MaxForwards, Outbound, Peer, Pseudonym, check_head,
    is_request_id, is_traceparent, is_tracestate, remove_connection_fields, request_headers,
    rewrite_response, rewrite_switching_response,
};
use authgate::identity::{Identity, IdentitySettings};
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri, Version, request};
use serde_json::json;

use super::mint::{self, AUDIENCE, ISSUER, NOW};

const IS_TRUSTED: u8 = 1;
const HAS_CALLER: u8 = 2;
const FORWARDS_AUTHORIZATION: u8 = 4;
const IS_HTTP2: u8 = 8;
const IS_HTTP10: u8 = 16;
const HAS_PEER: u8 = 32;

const REQUEST_ID: &str = "the-request-id";

/// What says who is asking.
const IDENTITY: [&str; 3] = ["x-forwarded-user", "x-auth-claims", "x-user-name"];

/// Names under which some backend believes a proxy, and the further ones that configuration adds.
pub const MANAGED: [&str; 26] = [
    "client-cert",
    "client-cert-chain",
    "dpop",
    "forwarded",
    "http2-settings",
    "proxy",
    "proxy-authorization",
    "traceparent",
    "x-auth-claims",
    "x-forwarded-email",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-user",
    "x-http-method",
    "x-http-method-override",
    "x-mastra-client-type",
    "x-method-override",
    "x-original-method",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-uri",
    "x-rewrite-url",
    "x-user-name",
];

/// What is set here, whatever the client said.
const SET: [&str; 8] = [
    "forwarded",
    "host",
    "traceparent",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// RFC 9110 §7.6.1.
pub const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub fn run(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else {
        return;
    };
    let (text, subject) = match rest.windows(2).position(|pair| pair == b"\n\n") {
        Some(end) => (&rest[..end], rest.get(end + 2..).unwrap_or_default()),
        None => (rest, &[][..]),
    };
    let Some(head) = head(text, *flags) else {
        return;
    };
    check_response(&head.headers);
    let Ok(host) = check_head(&head) else {
        return;
    };
    let came = head.headers.clone();
    let mut head = head;
    if remove_connection_fields(&mut head.headers).is_err() {
        assert_eq!(head.headers, came);
        return;
    }
    assert!(!matches!(head.method, Method::CONNECT | Method::TRACE));
    check_framing(&head);
    check_host(&head, host.value());

    let caller = (flags & HAS_CALLER != 0)
        .then(|| identity(subject))
        .flatten();
    let names = IDENTITY.map(HeaderName::from_static);
    let strip = [HeaderName::from_static("x-mastra-client-type")];
    let managed = ManagedNames::new(names.iter().chain(&strip));
    let pseudonym = Pseudonym::new(7);
    let id = HeaderValue::from_static(REQUEST_ID);
    let peer = HeaderValue::from_static("10.0.0.9");
    let peer = (flags & HAS_PEER != 0).then_some(&peer);
    let outbound = |is_trusted: bool| Outbound {
        identity: caller.as_deref(),
        forward_authorization: flags & FORWARDS_AUTHORIZATION != 0,
        host: &host,
        scheme: "http",
        te_trailers: false,
        max_forwards: MaxForwards::Unlimited,
        reads_answer: false,
        version: head.version,
        pseudonym: &pseudonym,
        peer: Peer {
            address: peer,
            is_trusted,
        },
        path_prefix: None,
        request_id: &id,
    };
    let sent = request_headers(&head.headers, &managed, &outbound(flags & IS_TRUSTED != 0));

    check_managed(&sent, caller.as_deref(), flags & IS_TRUSTED != 0);
    check_set(&head, &sent, *flags, host.value());
    check_rest(&came, &sent, *flags);

    // Once more, for a client nobody trusts: only what is counted grows.
    let mut again = request_headers(&sent, &managed, &outbound(false));
    let mut once = request_headers(&head.headers, &managed, &outbound(false));
    once.remove("via");
    again.remove("via");
    assert_eq!(once, again, "rewriting is not idempotent");
}

/// The head as hyper would hand it over.
pub(super) fn head(text: &[u8], flags: u8) -> Option<request::Parts> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let place = first.iter().position(|byte| *byte == b' ')?;
    let method = Method::from_bytes(&first[..place]).ok()?;
    let target = Uri::try_from(&first[place + 1..]).ok()?;
    let mut headers = HeaderMap::new();
    for line in lines.take(100) {
        let place = line.iter().position(|byte| *byte == b':')?;
        // The names that HTTP/2 has are not quite those of HTTP/1.
        let name = match flags & IS_HTTP2 {
            0 => HeaderName::from_bytes(&line[..place]),
            _ => HeaderName::from_lowercase(&line[..place]),
        };
        let name = name.ok()?;
        let value = HeaderValue::from_bytes(line[place + 1..].trim_ascii()).ok()?;
        headers.append(name, value);
    }
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = method;
    head.uri = target;
    head.headers = headers;
    head.version = match flags & (IS_HTTP2 | IS_HTTP10) {
        IS_HTTP2 => Version::HTTP_2,
        IS_HTTP10 => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    Some(head)
}

/// A caller with this subject, if a token may have it.
fn identity(subject: &[u8]) -> Option<Arc<Identity>> {
    let subject = std::str::from_utf8(subject).ok()?;
    let payload = json!({
        "iss":ISSUER,"aud":AUDIENCE,"exp":NOW + 600,"sub":subject,"name":[subject,{"a":subject}],
    });
    let token = mint::verified(&mint::with_payload(&payload))?;
    let [subject_header, claims_header, name] = IDENTITY.map(HeaderName::from_static);
    let settings = IdentitySettings {
        subject_header,
        claims_header: Some(claims_header),
        headers: vec![(name, authgate::claims::ClaimPath::name("name"))],
        forward_authorization: false,
    };
    settings.identify(token).bearer()
}

fn check_framing(head: &request::Parts) {
    let is_token = |name: &HeaderName| HeaderName::from_bytes(name.as_str().as_bytes()).is_ok();
    assert!(head.headers.keys().all(is_token));
    let count = |name: &str| head.headers.get_all(name).iter().count();
    let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
    assert!(lengths + codings <= 1, "two ways to frame it");
    for coding in head.headers.get_all("transfer-encoding") {
        assert!(coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    }
    for length in head.headers.get_all("content-length") {
        assert!(!length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit));
    }
    if let Some(upgrade) = head.headers.get("upgrade") {
        assert!(upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
        assert_eq!(head.method, Method::GET);
        assert_eq!(head.version, Version::HTTP_11);
        assert_eq!(codings, 0);
    }
}

fn check_host(head: &request::Parts, host: &HeaderValue) {
    assert!(head.headers.get_all(HOST).iter().count() <= 1);
    let text = host.to_str().expect("visible");
    assert!(!text.is_empty() && !text.contains(['@', '/', '?', '#', '%', ',', ' ']));
    let authority = format!("http://{text}/").parse::<Uri>().expect("a URL");
    assert_eq!(authority.authority().map(|one| one.as_str()), Some(text));
    match head.uri.authority() {
        Some(authority) => assert_eq!(authority.as_str(), text),
        None => assert_eq!(head.headers.get(HOST), Some(host)),
    }
}

/// How backends that make variables of header names spell one.
pub fn fold(name: &str) -> String {
    name.chars()
        .map(|one| {
            if one.is_ascii_alphanumeric() {
                one
            } else {
                '-'
            }
        })
        .collect()
}

/// Whether a name, folded, is one that clients cannot send.
pub fn is_managed(folded: &str) -> bool {
    let mut listed = LISTED.iter().flat_map(|group| group.names);
    MANAGED.contains(&folded)
        || folded.starts_with("x-forwarded-")
        || listed.any(|name| match name.strip_suffix('*') {
            Some(family) => folded.starts_with(family),
            None => folded == *name,
        })
}

/// Whether a trusted proxy may send it.
pub fn passes_from_trusted(name: &str) -> bool {
    let mut groups = LISTED.iter().filter(|group| group.from_trusted_proxies);
    groups.any(|group| group.names.contains(&name))
}

/// The identity that was proven and no other, and no spelling of any managed name beside our own.
fn check_managed(sent: &HeaderMap, caller: Option<&Identity>, is_trusted: bool) {
    let mut expected: Vec<(&str, &HeaderValue)> = Vec::new();
    for (name, value) in caller.into_iter().flat_map(Identity::headers) {
        expected.push((name.as_str(), value));
        assert!(value.as_bytes().iter().all(u8::is_ascii_graphic));
    }
    if let Some(caller) = caller {
        assert_eq!(expected.len(), IDENTITY.len());
        let subject = caller.token().subject();
        let decoded = mint::percent_decoded(expected[0].1.as_bytes());
        assert_eq!(decoded, subject.as_bytes());
    }
    let found: Vec<(&str, &HeaderValue)> = sent
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .filter(|(name, _)| IDENTITY.contains(name))
        .collect();
    assert_eq!(found.len(), expected.len(), "{sent:?}");
    assert!(expected.iter().all(|one| found.contains(one)));

    for name in sent.keys() {
        let folded = fold(name.as_str());
        let own = IDENTITY.contains(&name.as_str())
            || SET.contains(&name.as_str())
            || (is_trusted && (name == "x-forwarded-port" || name == "x-forwarded-prefix"));
        assert!(
            own || (is_trusted && passes_from_trusted(name.as_str())) || !is_managed(&folded),
            "{name} reaches the upstream"
        );
    }
}

/// What is said of the way that the request has come.
fn check_set(head: &request::Parts, sent: &HeaderMap, flags: u8, host: &HeaderValue) {
    let all = |headers: &HeaderMap, name: &str| -> Vec<Vec<u8>> {
        headers
            .get_all(name)
            .iter()
            .map(|value| value.as_bytes().to_vec())
            .collect()
    };
    assert_eq!(all(sent, "host"), [host.as_bytes()]);
    assert_eq!(all(sent, "x-request-id"), [REQUEST_ID.as_bytes()]);
    assert!(is_request_id(REQUEST_ID.as_bytes()));

    let traces = all(sent, "traceparent");
    assert!(traces.is_empty() || traces == all(&head.headers, "traceparent"));
    assert!(traces.iter().all(|trace| is_traceparent(trace)));
    let states = all(sent, "tracestate");
    assert!(states.len() <= 1);
    for state in states {
        assert!(is_tracestate(std::str::from_utf8(&state).expect("ASCII")));
        assert_eq!(traces.len(), 1);
    }

    let via = all(sent, "via");
    let own = match head.version {
        Version::HTTP_2 => "2 authgate-00000007",
        Version::HTTP_10 => "1.0 authgate-00000007",
        _ => "1.1 authgate-00000007",
    };
    assert_eq!(via.last().map(Vec::as_slice), Some(own.as_bytes()));

    let is_trusted = flags & IS_TRUSTED != 0;
    let peer = (flags & HAS_PEER != 0).then_some("10.0.0.9");
    for (name, own) in [
        ("x-forwarded-for", peer),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", host.to_str().ok()),
    ] {
        let lines = all(sent, name);
        if !is_trusted {
            let own: Vec<&[u8]> = own.iter().map(|own| own.as_bytes()).collect();
            assert_eq!(lines, own, "{name}");
        }
        if name == "x-forwarded-for"
            && let Some(peer) = peer
        {
            assert_eq!(lines.len(), 1);
            assert!(lines[0].ends_with(peer.as_bytes()));
        }
    }
    let forwarded = all(sent, "forwarded");
    assert_eq!(
        forwarded.len(),
        usize::from(head.headers.contains_key("forwarded"))
    );
    for line in forwarded {
        let line = String::from_utf8(line).expect("ASCII");
        let own = format!(
            "for={};host=\"{}\";proto=http",
            peer.unwrap_or("unknown"),
            host.to_str().expect("visible")
        );
        assert!(if is_trusted {
            line.ends_with(&own)
        } else {
            line == own
        });
    }
}

/// Nothing of the connection passes, and everything else does, as it came and in its order.
fn check_rest(came: &HeaderMap, sent: &HeaderMap, flags: u8) {
    for name in HOP_BY_HOP {
        assert!(!sent.contains_key(name), "{name}");
    }
    let nominated: Vec<String> = came
        .get_all("connection")
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name).trim().to_ascii_lowercase())
        .collect();
    let forwards = flags & FORWARDS_AUTHORIZATION != 0;
    assert!(forwards || !sent.contains_key("authorization"));
    for name in came.keys() {
        let text = name.as_str();
        let folded = fold(name.as_str());
        let is_nominated = nominated.iter().any(|one| one == text);
        if SET.contains(&text) || IDENTITY.contains(&text) || text == "tracestate" {
            continue;
        }
        assert!(
            !is_nominated || !sent.contains_key(name),
            "{name} was nominated"
        );
        let goes = is_nominated
            || HOP_BY_HOP.contains(&text)
            || is_managed(&folded)
            || (text == "authorization" && !forwards);
        if goes {
            continue;
        }
        let values = |headers: &HeaderMap| -> Vec<Vec<u8>> {
            headers
                .get_all(name)
                .iter()
                .map(|value| value.as_bytes().to_vec())
                .collect()
        };
        let mut before = values(came);
        if text == "cookie" {
            before = vec![before.join(&b"; "[..])];
        }
        assert_eq!(before, values(sent), "{name}");
    }
    for name in sent.keys() {
        assert!(
            came.contains_key(name)
                || SET.contains(&name.as_str())
                || IDENTITY.contains(&name.as_str()),
            "{name} was made up"
        );
    }
}

/// The same head as an answer: nothing of the connection passes, but for the upgrade that was agreed.
fn check_response(came: &HeaderMap) {
    let id = HeaderValue::from_static(REQUEST_ID);
    let mut plain = came.clone();
    if rewrite_response(&mut plain, &id).is_err() {
        return;
    }
    for name in HOP_BY_HOP.iter().filter(|name| **name != "expect") {
        assert!(!plain.contains_key(*name), "{name}");
    }
    assert!(plain.contains_key("x-request-id"));
    let mut again = plain.clone();
    rewrite_response(&mut again, &id).expect("no options are left");
    assert_eq!(plain, again);
    let mut switching = came.clone();
    rewrite_switching_response(&mut switching, &id).expect("few options");
    assert_eq!(
        switching.remove("connection"),
        Some(HeaderValue::from_static("upgrade"))
    );
    assert_eq!(
        switching.remove("upgrade"),
        Some(HeaderValue::from_static("websocket"))
    );
    assert_eq!(switching, plain);
}
