//! Any request head: what is forwarded of it, put back into the decision with the same caller, gets the
//! same verdict, and whatever a backend may read into it passes too.
//!
//! An input is a byte of flags and then the head, as for `headers`.

use std::sync::{Arc, LazyLock};

use authgate::canonical::{CanonicalRequest, without_format_suffix};
use authgate::config::{Config, Environment, Overrides, load_text};
use authgate::headers::{MaxForwards, Outbound, Peer, Pseudonym, request_headers};
use authgate::identity::{Identity, IdentitySettings};
use authgate::mcp::{self, Message, Revision};
use authgate::policy::{Caller, Permit};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{Method, Request, Uri, Version, request};
use serde_json::json;

use super::headers::head;
use super::mint::{self, AUDIENCE, ISSUER, NOW};

const HAS_CALLER: u8 = 2;
const HAS_BODY: u8 = 8;
const IS_HTTP2: u8 = 16;

/// What decides by method, by the end of a path, and by MCP message.
const CONFIG: &str = r#"
    upstream = "http://127.0.0.1:4111"
    [auth0]
    domain = "tenant.us.auth0.com"
    audience = "https://api.example.com"
    [token_sources]
    query_parameter = "access_token"
    websocket_protocol = true
    [[route]]
    path = "/mcp"
    [[route]]
    path = "/mcp"
    mcp = { tool = "*" }
    require = { scopes = ["other"] }
    [[route]]
    path = "/items/*"
    methods = ["DELETE"]
    access = "deny"
    [[route]]
    path = "/items/*"
    access = "public"
    [[route]]
    path = "/agents/**"
    [[route]]
    path = "/agents/*/secret"
    access = "deny"
    [[route]]
    path = "/public/**"
    access = "public"
    [[route]]
    path = "/public/admin"
    require = { scopes = ["held"] }
"#;

/// The routes above that a router may take a format suffix for.
const LITERAL_ENDS: [&str; 3] = ["/mcp", "/agents/*/secret", "/public/admin"];

static WORLD: LazyLock<(Config, Arc<Identity>)> = LazyLock::new(|| {
    let loaded = load_text(
        "fuzz",
        CONFIG,
        &Overrides::default(),
        &Environment::default(),
    );
    let payload =
        json!({"iss":ISSUER,"aud":AUDIENCE,"exp":NOW + 600,"sub":"auth0|x","scope":"held"});
    let token = mint::verified(&mint::with_payload(&payload)).expect("a good token");
    let settings = IdentitySettings {
        subject_header: HeaderName::from_static("x-forwarded-user"),
        claims_header: None,
        headers: Vec::new(),
        forward_authorization: false,
    };
    let identity = settings.identify(token).bearer().expect("bound to nothing");
    (loaded.config.expect("a configuration"), identity)
});

pub fn run(data: &[u8]) {
    let Some((flags, text)) = data.split_first() else {
        return;
    };
    // The flags that `head` knows are other ones.
    let version = if flags & IS_HTTP2 != 0 { 8 } else { 0 };
    let Some(mut first) = head(text, version) else {
        return;
    };
    let has_caller = flags & HAS_CALLER != 0;
    if has_caller {
        first
            .headers
            .insert(AUTHORIZATION, HeaderValue::from_static("Bearer a.b.c"));
    }
    let has_body = flags & HAS_BODY != 0;
    let Ok(request) = CanonicalRequest::new(first, has_body) else {
        return;
    };
    let Some(permit) = decide(&request, has_caller) else {
        return;
    };
    let received = forwarded(&permit, has_caller);
    let again = CanonicalRequest::new(received, has_body).expect("what is forwarded is sound");
    assert!(
        decide(&again, has_caller).is_some(),
        "{request:?} is decided otherwise as {again:?}"
    );
    for reading in readings(&again) {
        let Some(read) = with_path(&permit, has_caller, &reading) else {
            continue;
        };
        // Nothing but what can be sent can be tried.
        if let Ok(read) = CanonicalRequest::new(read, has_body) {
            assert!(
                decide(&read, has_caller).is_some(),
                "{request:?} passes, and {reading} does not"
            );
        }
    }
}

/// The permit that the rules give, if they do.
fn decide(request: &CanonicalRequest, has_caller: bool) -> Option<Permit<'_>> {
    let (config, identity) = &*WORLD;
    let policy = &config.policy;
    if let Some(preflight) = policy.matched_preflight(request) {
        return preflight.authorize().ok();
    }
    let headers = request.headers();
    let presented = config
        .token_sources
        .presented(request.target(), headers, request.is_websocket())
        .ok()?;
    // A token that stands elsewhere is nobody's here.
    let is_in_header = headers.contains_key(AUTHORIZATION);
    if presented.is_some() != (has_caller && is_in_header) {
        return None;
    }
    let caller = match presented {
        Some(_) => Caller::Verified(Arc::clone(identity)),
        None => Caller::Anonymous,
    };
    let matched = policy.matched_request(request, &[]);
    let is_gated = matched.rules().is_gated() && *request.method() == Method::POST;
    let matched = if is_gated && mcp::revision(headers) == Ok(Revision::Mirrored) {
        let call = mcp::mirrors(headers).ok()?;
        policy.matched_request(request, &[Message::Call(call)])
    } else {
        matched
    };
    matched.authorize(caller).ok()
}

/// What a backend receives, less what is added to it.
fn forwarded(permit: &Permit<'_>, has_caller: bool) -> request::Parts {
    let (config, _) = &*WORLD;
    let permitted = permit.request();
    let outbound = Outbound {
        identity: None,
        forward_authorization: true,
        host: permitted.host(),
        version: permitted.version(),
        scheme: "http",
        te_trailers: false,
        max_forwards: MaxForwards::Unlimited,
        reads_answer: false,
        pseudonym: &Pseudonym::new(7),
        peer: Peer::default(),
        path_prefix: None,
        request_id: &HeaderValue::from_static("id"),
    };
    let mut headers = request_headers(permitted.headers(), &config.managed, &outbound);
    headers.remove("via");
    if permitted.is_websocket() {
        headers.insert("connection", HeaderValue::from_static("upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
    }
    assert!(!has_caller || headers.contains_key(AUTHORIZATION));
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = permitted.method().clone();
    parts.uri = permitted.target().clone();
    parts.version = Version::HTTP_11;
    parts.headers = headers;
    parts
}

/// The paths that a backend may read.
fn readings(request: &CanonicalRequest) -> Vec<String> {
    let all = request.readings();
    let mut paths: Vec<String> = all.iter().map(str::to_owned).collect();
    let is_literal_end = |stem: &str| {
        LITERAL_ENDS.iter().any(|pattern| {
            let (wanted, found) = (pattern.split('/'), stem.split('/'));
            wanted.clone().count() == found.clone().count()
                && wanted
                    .zip(found)
                    .all(|(wanted, found)| wanted == "*" && !found.is_empty() || wanted == found)
        })
    };
    let stems = all.iter().flat_map(without_format_suffix);
    paths.extend(stems.filter(|stem| is_literal_end(stem)).map(str::to_owned));
    paths
}

fn with_path(permit: &Permit<'_>, has_caller: bool, path: &str) -> Option<request::Parts> {
    let mut parts = forwarded(permit, has_caller);
    let query = parts
        .uri
        .query()
        .map_or(String::new(), |query| format!("?{query}"));
    if path.contains(['?', '#', ' ', '\\']) || !path.is_ascii() {
        return None;
    }
    parts.uri = Uri::try_from(format!("{path}{query}")).ok()?;
    Some(parts)
}
