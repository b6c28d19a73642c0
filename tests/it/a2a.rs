//! An A2A agent behind authgate: its card for everybody, and nothing else without a token.

use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::issuer::Issuer;
use crate::support::proxy::{program, run_to_end};
use crate::support::upstream::{Feed, response};
use crate::support::{Findings, Head, Proxy, Reply, Request, Setup, Upstream, assert_own, own};

const CARD: &str = "/.well-known/agent-card.json";

/// The rules of `config/a2a.toml`, behind whatever the tests have for a tenant.
fn rules() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/a2a.toml");
    let text = std::fs::read_to_string(path).expect("the example");
    let place = text.find("[[resource]]").expect("a resource");
    text[place..].to_owned()
}

/// A card as the backend has it, signature and all. Its spaces tell it from a copy.
fn card(issuer: &Issuer, url: &str) -> String {
    json!({
        "name": "Weather agent",
        "supportedInterfaces": [{"url": url, "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"}],
        "securitySchemes": {"auth0": {"openIdConnectSecurityScheme": {
            "openIdConnectUrl": format!("{}.well-known/openid-configuration", issuer.issuer()),
        }}},
        "signatures": [{"protected": "e30", "signature": "x"}],
    })
    .to_string()
    .replace("\":", "\" : ")
}

/// The agent: a card with an `ETag`, a stream, and an echo of what was asked for.
fn agent(card: String) -> Upstream {
    Upstream::start(move |head: &Head| {
        let fields = [
            ("Content-Type", "application/json"),
            ("ETag", "\"7\""),
            ("Cache-Control", "max-age=60"),
        ];
        match (head.method(), head.target()) {
            ("GET", CARD) if head.get("if-none-match") == Some("\"7\"") => Reply::Bytes(
                b"HTTP/1.1 304 Not Modified\r\nETag: \"7\"\r\nCache-Control: max-age=60\r\n\r\n"
                    .to_vec(),
            ),
            ("GET", CARD) => Reply::Bytes(response("200 OK", &fields, &card)),
            ("HEAD", CARD) => Reply::Bytes(
                format!(
                    "HTTP/1.1 200 OK\r\nETag: \"7\"\r\nContent-Length: {}\r\n\r\n",
                    card.len()
                )
                .into_bytes(),
            ),
            (_, "/a2a/message:stream") => Reply::events(),
            (method, target) => Reply::ok(&format!("{method} {target}")),
        }
    })
}

async fn start(issuer: &Issuer, upstream: &Upstream) -> Proxy {
    Setup::new(issuer, upstream).rest(&rules()).start().await
}

#[tokio::test]
async fn the_card_is_for_everybody_and_passes_as_it_is() {
    let issuer = Issuer::start();
    let card = card(&issuer, "https://agents.example.com/a2a");
    let upstream = agent(card.clone());
    let proxy = start(&issuer, &upstream).await;
    let response = proxy.send(&Request::get(CARD)).await;
    assert_eq!((response.status(), response.text()), (200, card.clone()));
    assert_eq!(response.header("etag"), Some("\"7\""));
    assert_eq!(response.header("cache-control"), Some("max-age=60"));
    assert_eq!(upstream.next().await.head.get("x-forwarded-user"), None);

    let again = Request::get(CARD).header("If-None-Match", "\"7\"");
    let response = proxy.send(&again).await;
    assert_eq!((response.status(), response.text()), (304, String::new()));
    assert_eq!(response.header("etag"), Some("\"7\""));
    upstream.next().await;

    let response = proxy.send(&Request::new("HEAD", CARD)).await;
    let length = card.len().to_string();
    assert_eq!(response.status(), 200);
    assert_eq!(response.header("content-length"), Some(length.as_str()));

    // Public is not the same as careless: a bad token is one here too.
    let expired = issuer.user("auth0|alice").expires_in(-600).mint();
    let response = proxy.send(&Request::get(CARD).bearer(&expired)).await;
    assert_own(&response, 401, "token_expired");
}

#[tokio::test]
async fn nothing_else_is() {
    let issuer = Issuer::start();
    let upstream = agent(String::new());
    let proxy = start(&issuer, &upstream).await;
    let mut findings = Findings::default();
    for (method, path, status, code) in [
        ("POST", "/a2a/message:send", 401, "token_missing"),
        ("POST", "/a2a/message:stream", 401, "token_missing"),
        ("POST", "/a2a/tasks/7:cancel", 401, "token_missing"),
        ("GET", "/a2a/tasks/7:subscribe", 401, "token_missing"),
        ("POST", "/message:send", 401, "token_missing"),
        ("POST", "/tasks/7:cancel", 401, "token_missing"),
        ("POST", "/", 401, "token_missing"),
        // The extended card, in every version and place.
        ("GET", "/extendedAgentCard", 401, "token_missing"),
        ("GET", "/a2a/extendedAgentCard", 401, "token_missing"),
        ("GET", "/v1/card", 401, "token_missing"),
        (
            "GET",
            "/agent/authenticatedExtendedCard",
            401,
            "token_missing",
        ),
        ("GET", "/.well-known/agent.json", 401, "token_missing"),
        // Ways around the card.
        ("GET", "//.well-known/agent-card.json", 401, "token_missing"),
        ("GET", "/.well-known//agent-card.json", 401, "token_missing"),
        (
            "GET",
            "/.well-known/agent-card.json/..%2f../tasks",
            401,
            "token_missing",
        ),
        (
            "GET",
            "/.well-known/agent-card.json/../../tasks",
            401,
            "token_missing",
        ),
        (
            "GET",
            "/.well-known/agent-card.json/..",
            401,
            "token_missing",
        ),
        (
            "GET",
            "/.well-known/agent-card.json;/../tasks",
            401,
            "token_missing",
        ),
        (
            "GET",
            "/.well-known/agent-card.json/x",
            401,
            "token_missing",
        ),
        (
            "GET",
            "/.well-known/agent-card%2ejson",
            401,
            "token_missing",
        ),
        ("GET", "/.well-known/AGENT-card.json", 401, "token_missing"),
        (
            "GET",
            "/tasks/..%2f.well-known/agent-card.json",
            401,
            "token_missing",
        ),
        (
            "GET",
            "/.well-known/agent-card.json%00",
            400,
            "path_malformed",
        ),
        (
            "GET",
            "/.well-known/agent-card.json%",
            400,
            "path_malformed",
        ),
        (
            "GET",
            "/.well-known\\agent-card.json",
            400,
            "path_malformed",
        ),
        // The path is for reading; its one route says so without a token too.
        ("POST", CARD, 405, "method_denied"),
        ("DELETE", CARD, 405, "method_denied"),
    ] {
        let response = proxy.send(&Request::new(method, path)).await;
        findings.add(&format!("{method} {path}"), own(&response, status, code));
    }
    findings.assert_none();
    assert_eq!(upstream.requests(), 0);
    // Where the path has a route for its other methods, they need a token as that one says.
    let others = format!("{}[[route]]\npath = \"{CARD}\"\n", rules());
    proxy
        .reload(&Setup::new(&issuer, &upstream).rest(&others))
        .await;
    let response = proxy.send(&Request::post(CARD, "{}")).await;
    assert_own(&response, 401, "token_missing");
    assert_eq!(proxy.send(&Request::get(CARD)).await.status(), 200);
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn callers_get_through_with_what_the_protocol_needs() {
    let issuer = Issuer::start();
    let upstream = agent(String::new());
    let proxy = start(&issuer, &upstream).await;
    let resource = "https://agents.example.com/a2a";
    let mint = issuer.user("auth0|alice").claim("aud", resource);
    let token = mint.claim("scope", "message:send").mint();
    let message = Request::post("/a2a/message:send", "{\"message\":{}}")
        .header("Content-Type", "application/a2a+json")
        .header("A2A-Version", "1.0")
        .header("A2A-Extensions", "https://example.com/ext")
        .bearer(&token);
    let response = proxy.send(&message).await;
    assert_eq!(response.text(), "POST /a2a/message:send");
    let exchange = upstream.next().await;
    for (name, value) in [
        ("content-type", "application/a2a+json"),
        ("a2a-version", "1.0"),
        ("a2a-extensions", "https://example.com/ext"),
        ("x-forwarded-user", "auth0|alice"),
    ] {
        assert_eq!(exchange.head.all(name), [value], "{name}");
    }
    assert_eq!(exchange.body().await, b"{\"message\":{}}");
    for path in ["/a2a/tasks/7:cancel", "/a2a/extendedAgentCard"] {
        let response = proxy.send(&Request::post(path, "").bearer(&token)).await;
        assert_eq!(response.text(), format!("POST {path}"));
        upstream.next().await;
    }
    // The colon is a letter like others, also where it is encoded.
    let bare = issuer
        .user("auth0|alice")
        .claim("aud", resource)
        .without("scope")
        .mint();
    for path in [
        "/a2a/message:send",
        "/a2a/message%3Asend",
        "/a2a//message:send",
    ] {
        let response = proxy.send(&Request::post(path, "{}").bearer(&bare)).await;
        assert_own(&response, 403, "scope_missing");
    }
    assert_own(
        &proxy.send(&Request::get("/tasks").bearer(&bare)).await,
        401,
        "token_wrong_audience",
    );

    let request = Request::post("/a2a/message:stream", "{}").bearer(&token);
    let mut client = request.open(proxy.data).await;
    let exchange = upstream.next().await;
    assert_eq!(
        client.head().await.get("content-type"),
        Some("text/event-stream")
    );
    for text in ["data: {\"task\":{}}\n\n", "data: {\"statusUpdate\":{}}\n\n"] {
        exchange.send(text);
        assert_eq!(client.data().await, text);
    }
    exchange.feed(Feed::End);
    client.body().await.expect("a proper end");
}

/// `authgate check --online` with these rules before this agent.
async fn check(issuer: &Issuer, upstream: &Upstream, rules: &str) -> (Option<i32>, String) {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("authgate.toml");
    let text = Setup::new(issuer, upstream).rest(rules).text();
    std::fs::write(&file, text).expect("the configuration");
    let mut command = program();
    command.args([
        "check",
        "--online",
        "--upstream",
        &upstream.url(),
        "--config",
    ]);
    command.arg(&file);
    let output: Output = run_to_end(command, "").await;
    let streams = [&output.stdout, &output.stderr];
    let text = streams.map(|stream| String::from_utf8_lossy(stream).into_owned());
    (output.status.code(), text.concat())
}

#[tokio::test]
async fn check_reads_the_card_and_warns_of_what_does_not_fit() {
    let issuer = Issuer::start();
    let fits = card(&issuer, "https://agents.example.com/a2a");
    let local = card(&issuer, "http://localhost:4111/a2a");
    let mut without: Value = serde_json::from_str(&fits).expect("JSON");
    without["securitySchemes"] =
        json!({"key": {"apiKeySecurityScheme": {"name": "x", "location": "header"}}});
    let rules = rules();
    for (card, says, keeps_silent) in [
        (fits.clone(), &["agent card: there"][..], &["warning"][..]),
        (
            local,
            &[
                "agent card: there",
                "warning: agent card: supportedInterfaces[0].url \"http://localhost:4111/a2a\" is not at https://agents.example.com",
            ],
            &["securitySchemes"],
        ),
        (
            without.to_string(),
            &[
                "warning: agent card: securitySchemes names nothing of",
                "openIdConnectUrl",
            ],
            &["supportedInterfaces"],
        ),
        (
            "no card".to_owned(),
            &["agent card: none: it is not JSON"],
            &["warning"],
        ),
        (
            format!("\"{}\"", "x".repeat(2 << 20)),
            &["agent card: none: "],
            &["warning"],
        ),
    ] {
        let upstream = agent(card);
        let (exit, text) = check(&issuer, &upstream, &rules).await;
        assert_eq!(exit, Some(0), "{text}");
        for part in says {
            assert!(text.contains(part), "no {part} in:\n{text}");
        }
        for part in keeps_silent {
            assert!(!text.contains(part), "{part} in:\n{text}");
        }
        // It asks as anybody would, and once.
        let head = upstream.next().await.head;
        assert_eq!((head.method(), head.target()), ("GET", CARD));
        assert_eq!(head.get("authorization"), None);
        assert_eq!(upstream.requests(), 1);
    }
    let missing = Upstream::start(|_| Reply::Bytes(response("404 Not Found", &[], "")));
    let (exit, text) = check(&issuer, &missing, &rules).await;
    assert_eq!(exit, Some(0), "{text}");
    assert!(
        text.contains("agent card: none: the answer is 404"),
        "{text}"
    );
    // What needs a token is not asked for without one.
    let upstream = agent(fits);
    let (exit, text) = check(&issuer, &upstream, "").await;
    assert_eq!(exit, Some(0), "{text}");
    assert!(!text.contains("agent card"), "{text}");
    assert_eq!(upstream.requests(), 0);
}
