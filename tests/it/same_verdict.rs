//! What is decided on is what is forwarded, as a property: what the upstream has received, put back into
//! the program with the same token, gets the same verdict; and whatever a backend may read into it passes
//! too.

use std::collections::BTreeSet;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use tempfile::TempDir;

use crate::dpop::{ACCEPTED, PUBLIC, Prover};
use crate::issuer::Issuer;
use crate::support::h2::H2;
use crate::support::upstream::response;
use crate::support::{Client, Exchange, Proxy, Reply, Request, Setup, Upstream};

/// How many requests are made up for each configuration.
const CASES: usize = 700;

/// How many of them must have reached the upstream, so that something was tried.
const MIN_PASSED: usize = 70;

const ORIGIN: &str = "https://app.example.com";

/// The MCP session that the upstream has opened.
const SESSION: &str = "an-id";

/// Routes that differ in method, in the end of their path and in the MCP message.
const ROUTES: &str = r#"
[[route]]
path = "/mcp"
[[route]]
path = "/mcp"
mcp = { tool = "*" }
require = { scopes = ["call"] }
[[route]]
path = "/mcp"
mcp = { tool = "run_shell" }
access = "deny"
[[route]]
path = "/items/*"
methods = ["DELETE"]
require = { scopes = ["delete"] }
[[route]]
path = "/items/*"
require = { scopes = ["read"] }
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
require = { scopes = ["admin"] }
[[route]]
path = "/public/upload"
methods = ["POST"]
access = "deny"
[[route]]
path = "/public/upload"
access = "public"
"#;

/// The patterns above that end in a literal, for which a router may take a format suffix.
const LITERAL_ENDS: [&str; 4] = [
    "/mcp",
    "/agents/*/secret",
    "/public/admin",
    "/public/upload",
];

const CONFIGURATIONS: [&str; 5] = [
    "",
    "[cors]\norigins = [\"https://app.example.com\"]\nenforce_origin = true\n",
    "[cors]\norigins = [\"*\"]\n",
    "[mcp]\nread_bodies = true\n",
    "[token_sources]\nquery_parameter = \"access_token\"\nwebsocket_protocol = true\n\
     [[resource]]\nurl = \"https://agents.example.com/mcp\"\n",
];

const METHODS: [&str; 9] = [
    "GET", "POST", "POST", "DELETE", "OPTIONS", "HEAD", "delete", "Post", "PATCH",
];

const TARGETS: [&str; 24] = [
    "/mcp",
    "/mcp",
    "/mcp/",
    "/MCP",
    "/mcp.json",
    "/items/1",
    "/items/1",
    "/items/1/",
    "/items%2f1",
    "/agents/1",
    "/agents/1/secret",
    "/agents/1/secret.json",
    "/agents/1/secret%2Exml",
    "/agents/1/secret.",
    "/agents/1/%73ecret%20",
    "/agents/x/../1/secret",
    "/public/a",
    "/public/admin",
    "/public/admin.txt",
    "/public/admin..txt/",
    "/public/upload?x=1",
    "/public/upload.csv",
    "/public//admin;x=y",
    "/public/..%20/items/1",
];

/// Fields that some decision reads, in honest and in odd spelling, and some that none reads.
const FIELDS: [(&str, &str); 30] = [
    ("Origin", ORIGIN),
    ("Origin", "https://evil.example"),
    ("Access-Control-Request-Method", "POST"),
    ("Access-Control-Request-Method", "DELETE"),
    ("Access-Control-Request-Headers", "authorization"),
    ("Content-Type", "application/json"),
    ("Content-Type", "text/plain"),
    ("Content_Type", "application/json"),
    ("Content-Encoding", "gzip"),
    ("Accept", "application/json, text/event-stream"),
    ("Accept-Encoding", "gzip"),
    ("MCP-Protocol-Version", "2026-07-28"),
    ("MCP-Protocol-Version", "2025-06-18"),
    ("Mcp-Method", "tools/list"),
    ("Mcp-Method", "tools/call"),
    ("mcp_method", "tools/list"),
    ("Mcp-Name", "echo"),
    ("Mcp-Name", "run_shell"),
    ("Mcp-Session-Id", SESSION),
    ("Cookie", "a=b"),
    ("Max-Forwards", "0"),
    ("Max-Forwards", "3"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-Original-URL", "/agents/1/secret"),
    ("X-Forwarded-For", "203.0.113.9"),
    ("X-Forwarded-User", "mallory"),
    ("Via", "1.1 edge"),
    ("TE", "trailers"),
    ("DPoP", "a.b.c"),
    ("X-Other", "1"),
];

const BODIES: [&str; 5] = [
    "",
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"run_shell","arguments":{}}}"#,
    r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"run_shell"}}]"#,
];

/// What authgate adds, and must not find when it is put back.
const ADDED: [&str; 9] = [
    "content-length",
    "host",
    "transfer-encoding",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-user",
    "x-request-id",
];

#[derive(Debug, Clone)]
struct Case {
    method: &'static str,
    target: &'static str,
    fields: Vec<(String, String)>,
    nominated: Vec<String>,
    body: &'static str,
    token: usize,
    is_http2: bool,
}

/// A request as it reached the upstream, less what was added to it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Received {
    method: String,
    target: String,
    fields: BTreeSet<(String, String)>,
    body: Vec<u8>,
}

fn case() -> impl Strategy<Value = Case> {
    let fields = subsequence((0..FIELDS.len()).collect::<Vec<_>>(), 0..7);
    let mirrors = prop_oneof![
        2 => Just(vec![]),
        1 => Just(vec![5_usize, 11, 13]),
        1 => Just(vec![5, 11, 14, 16]),
        1 => Just(vec![5, 11, 14, 17]),
        1 => Just(vec![0, 2]),
        1 => Just(vec![1, 2]),
    ];
    // Half of all requests nominate nothing; the others some of what they hold.
    let nominated = prop_oneof![1 => Just(0_usize), 1 => 1..4_usize];
    (
        select(&METHODS[..]),
        select(&TARGETS[..]),
        fields,
        mirrors,
        (nominated, any::<prop::sample::Index>()),
        select(&BODIES[..]),
        0..4_usize,
        prop::bool::weighted(0.2),
    )
        .prop_map(
            |(method, target, some, mirrors, nominated, body, token, is_http2)| {
                // What a browser sends before the request.
                let is_preflight = mirrors.get(1) == Some(&2);
                let (method, body, token) = if is_preflight {
                    ("OPTIONS", "", 0)
                } else {
                    (method, body, token)
                };
                let chosen: BTreeSet<usize> = some.into_iter().chain(mirrors).collect();
                let fields: Vec<(String, String)> = chosen
                    .into_iter()
                    .map(|index| FIELDS[index])
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect();
                let (count, first) = nominated;
                let count = count.min(fields.len());
                let nominated = (0..count)
                    .map(|step| {
                        fields[(first.index(fields.len().max(1)) + step) % fields.len()]
                            .0
                            .clone()
                    })
                    .collect();
                Case {
                    method,
                    target,
                    fields,
                    nominated,
                    body,
                    token,
                    is_http2,
                }
            },
        )
}

/// Who sends a request.
#[derive(Clone, Copy)]
struct Sender<'s> {
    token: Option<&'s str>,
    /// Whose key the token is bound to: each request has a proof of its own.
    prover: Option<&'s Prover>,
    /// What the client knows the session of [`SESSION`] by.
    session: Option<&'s str>,
}

impl Sender<'_> {
    /// The fields of a request, less those that name its connection.
    fn fields(self, case: &Received) -> Vec<(String, String)> {
        let mut fields: Vec<_> = case.fields.iter().cloned().collect();
        for (name, value) in &mut fields {
            if let Some(session) = self.session
                && name.eq_ignore_ascii_case("mcp-session-id")
                && value == SESSION
            {
                session.clone_into(value);
            }
        }
        let Some(token) = self.token else {
            return fields;
        };
        let scheme = if let Some(prover) = self.prover {
            // RFC 9449 §4.2: without the query.
            let path = case.target.split('?').next().unwrap_or_default();
            let proof = prover.proof(&case.method, path, token);
            fields.push(("dpop".to_owned(), proof));
            "DPoP"
        } else {
            "Bearer"
        };
        fields.push(("authorization".to_owned(), format!("{scheme} {token}")));
        fields
    }
}

/// Sends a request, and tells what reached the upstream, if it did.
async fn received(
    proxy: &Proxy,
    upstream: &Upstream,
    case: &Received,
    nominated: &[String],
    sender: Sender<'_>,
    is_http2: bool,
) -> Option<Received> {
    let before = upstream.requests();
    let fields = sender.fields(case);
    if is_http2 {
        let mut request = http::Request::builder()
            .method(case.method.as_str())
            .uri(format!("http://agents.example.com{}", case.target));
        for (name, value) in &fields {
            request = request.header(name.as_str(), value.as_str());
        }
        let request = request
            .body(Full::new(Bytes::from(case.body.clone())))
            .ok()?;
        let mut client = H2::connect(proxy.data).await;
        _ = client.send(request).await.into_body().collect().await;
    } else {
        let mut request = Request::new(&case.method, &case.target);
        for (name, value) in &fields {
            request = request.header(name, value);
        }
        if !nominated.is_empty() {
            request = request.header("Connection", &nominated.join(", "));
        }
        if !case.body.is_empty() {
            request = request.body(case.body.clone());
        }
        let mut client = Client::connect(proxy.data).await;
        drop(client.request(&request).await);
    }
    if upstream.requests() == before {
        return None;
    }
    Some(of(upstream.next().await).await)
}

async fn of(exchange: Exchange) -> Received {
    let head = &exchange.head;
    let fields = head
        .fields
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| !ADDED.contains(&name.as_str()))
        .collect();
    Received {
        method: head.method().to_owned(),
        target: head.target().to_owned(),
        fields,
        body: exchange.body().await,
    }
}

/// What a backend may read into a request.
fn readings(received: &Received) -> Vec<Received> {
    let (path, query) = match received.target.split_once('?') {
        Some((path, query)) => (path, format!("?{query}")),
        None => (received.target.as_str(), String::new()),
    };
    let mut paths = vec![path.to_owned()];
    for step in [decoded, without_dots, merged, bare, trimmed] {
        let more: Vec<String> = paths.iter().map(|path| step(path)).collect();
        paths.extend(more);
    }
    let stems: Vec<String> = paths.iter().filter_map(|path| stem(path)).collect();
    paths.extend(stems);
    paths.sort();
    paths.dedup();
    let mut found: Vec<Received> = paths
        .into_iter()
        .filter(|path| path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()))
        .map(|path| Received {
            target: format!("{path}{query}"),
            ..received.clone()
        })
        .collect();
    found.push(Received {
        method: received.method.to_ascii_uppercase(),
        ..received.clone()
    });
    found.retain(|one| one != received);
    found
}

fn decoded(path: &str) -> String {
    path.replace("%2f", "/")
        .replace("%2E", ".")
        .replace("%73", "s")
        .replace("%20", " ")
}

fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

fn merged(path: &str) -> String {
    path.replace("//", "/")
}

/// Without parameters, and without a slash at the end.
fn bare(path: &str) -> String {
    let path = path.split(';').next().unwrap_or_default();
    path.strip_suffix('/').unwrap_or(path).to_owned()
}

fn trimmed(path: &str) -> String {
    let trim = |segment: &str| match segment.trim_end_matches(['.', ' ']) {
        "" => segment.trim_end_matches(' ').to_owned(),
        trimmed => trimmed.to_owned(),
    };
    path.split('/').map(trim).collect::<Vec<_>>().join("/")
}

/// The path without a format suffix, where a route ends in a literal there.
fn stem(path: &str) -> Option<String> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let (stem, suffix) = path.rsplit_once('.')?;
    if suffix.is_empty() || !suffix.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let matches = |pattern: &&&str| {
        let (wanted, found) = (pattern.split('/'), stem.split('/'));
        wanted.clone().count() == found.clone().count()
            && wanted
                .zip(found)
                .all(|(wanted, found)| wanted == "*" || wanted == found)
    };
    LITERAL_ENDS.iter().find(matches).map(|_| stem.to_owned())
}

#[tokio::test]
async fn what_was_forwarded_is_decided_on_alike() {
    let issuer = Issuer::start();
    let answer = response("200 OK", &[("Mcp-Session-Id", SESSION)], "hello");
    let upstream = Upstream::start(move |_| Reply::Bytes(answer.clone()));
    let scopes = ["read", "read call", "read call delete admin"];
    let user = |scope: &str| issuer.user("auth0|alice").claim("scope", scope);
    let tokens = scopes.map(|scope| user(scope).mint());
    let prover = Prover::new();
    let bound = scopes.map(|scope| prover.bind(user(scope)));
    let directory = TempDir::new().expect("a directory");
    let key = directory.path().join("session.key");
    std::fs::write(&key, "k".repeat(32)).expect("a key");
    let sessions = format!("[mcp]\nsession_key_file = \"{}\"\n", key.display());
    let configurations = CONFIGURATIONS.into_iter().chain([ACCEPTED, &sessions]);
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let (mut alike, mut stricter) = (Vec::new(), Vec::new());
    for configuration in configurations {
        let mut passed = 0;
        let proxy = Setup::new(&issuer, &upstream)
            .top(&format!("public_url = \"{PUBLIC}\""))
            .rest(&format!("{configuration}\n{ROUTES}"))
            .start()
            .await;
        let is_bound = configuration == ACCEPTED;
        let opened = Request::get("/agents/1").bearer(&tokens[0]);
        let opened = proxy.send(&opened).await;
        drop(of(upstream.next().await).await);
        let session = opened.header("mcp-session-id");
        assert_eq!(session == Some(SESSION), configuration != sessions);
        for _ in 0..CASES {
            let case = case().new_tree(&mut runner).expect("a case").current();
            let tokens = if is_bound { &bound } else { &tokens };
            let sender = Sender {
                token: case.token.checked_sub(1).map(|place| &*tokens[place]),
                prover: is_bound.then_some(&prover),
                session,
            };
            let sent = Received {
                method: case.method.to_owned(),
                target: case.target.to_owned(),
                fields: case.fields.iter().cloned().collect(),
                body: case.body.as_bytes().to_vec(),
            };
            let first = received(
                &proxy,
                &upstream,
                &sent,
                &case.nominated,
                sender,
                case.is_http2,
            );
            let Some(first) = first.await else {
                continue;
            };
            passed += 1;
            let again = received(&proxy, &upstream, &first, &[], sender, false).await;
            // `Max-Forwards` counts down, and nothing else changes.
            let same = again.as_ref().is_some_and(|again| {
                let without = |one: &Received| {
                    let mut one = one.clone();
                    one.fields.retain(|(name, _)| name != "max-forwards");
                    one
                };
                without(again) == without(&first)
            });
            if !same {
                alike.push(format!(
                    "{configuration:?} {case:?}\n  arrived as {first:?}\n  and again as {again:?}"
                ));
            }
            for reading in readings(&first) {
                if received(&proxy, &upstream, &reading, &[], sender, false)
                    .await
                    .is_none()
                {
                    stricter.push(format!("{configuration:?} {case:?}\n  arrived as {first:?}\n  and is refused as {} {}", reading.method, reading.target));
                }
            }
        }
        assert!(
            passed >= MIN_PASSED,
            "only {passed} passed with {configuration:?}"
        );
    }
    assert!(
        alike.is_empty() && stricter.is_empty(),
        "{} decided otherwise:\n{}\n\n{} weaker than a reading:\n{}",
        alike.len(),
        alike.iter().take(4).cloned().collect::<Vec<_>>().join("\n"),
        stricter.len(),
        stricter
            .iter()
            .take(6)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n"),
    );
}
