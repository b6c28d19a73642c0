//! A request is decided on in the form in which it is forwarded.

use serde_json::json;

use crate::issuer::Issuer;
use crate::support::{Findings, Reply, Request, Response, Setup, Upstream, assert_own, own};

/// Rules per MCP method and tool, by the headers alone.
const MCP: &str = "
[[route]]
path = \"/mcp\"
[[route]]
path = \"/mcp\"
mcp = { tool = \"*\" }
require = { scopes = [\"tools:call\"] }
[[route]]
path = \"/mcp\"
mcp = { tool = \"run_shell\" }
access = \"deny\"
";

/// A stronger rule for one method than for the others.
const METHODS: &str = "
[[route]]
path = \"/items/*\"
methods = [\"DELETE\"]
require = { scopes = [\"delete:items\"] }
[[route]]
path = \"/items/*\"
require = { scopes = [\"read:items\"] }
";

const SUFFIXES: &str = "
[[route]]
path = \"/api/agents/**\"
[[route]]
path = \"/api/agents/*/instructions\"
access = \"deny\"
[[route]]
path = \"/admin/**\"
access = \"deny\"
[[route]]
path = \"/openapi\"
access = \"deny\"
[[route]]
path = \"/openapi.json\"
[[route]]
path = \"/files/*\"
access = \"public\"
[[route]]
path = \"/dots/...\"
access = \"deny\"
";

fn outcome(response: &Response) -> String {
    match response.status() {
        200 => "passes".to_owned(),
        status => format!(
            "{status} {}",
            response.json()["code"].as_str().unwrap_or_default()
        ),
    }
}

/// Every field that a decision reads, whether or not it is there.
#[tokio::test]
async fn what_decides_cannot_be_nominated() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).rest(MCP).start().await;
    let token = issuer.user("auth0|alice").claim("scope", "read").mint();
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "run_shell", "arguments": {}}});
    let denied = Request::post("/mcp", call.to_string())
        .bearer(&token)
        .header("Content-Type", "application/json")
        .header("MCP-Protocol-Version", "2026-07-28")
        .header("Mcp-Method", "tools/list")
        .header(
            "Connection",
            "keep-alive, mcp-protocol-version, mcp-method, mcp-name",
        );
    assert_own(&proxy.send(&denied).await, 400, "request_malformed");
    let mut findings = Findings::default();
    for name in [
        "Authorization",
        "DPoP",
        "Host",
        "Origin",
        "Access-Control-Request-Method",
        "Access-Control-Request-Headers",
        "Content-Type",
        "Content-Encoding",
        "Content-Length",
        "Cookie",
        "MCP-Protocol-Version",
        "Mcp-Method",
        "Mcp-Name",
        "Mcp-Session-Id",
        "mcp-whatever",
        "Sec-WebSocket-Protocol",
    ] {
        for options in [name.to_owned(), format!("close , {}", name.to_uppercase())] {
            let request = Request::get("/x")
                .bearer(&token)
                .header("Connection", &options);
            let answer = proxy.send(&request).await;
            findings.add(&options, own(&answer, 400, "request_malformed"));
        }
    }
    findings.assert_none();
    assert_eq!(upstream.requests(), 0);
}

/// A preflight whose two fields would be taken away is none.
#[tokio::test]
async fn a_preflight_reaches_the_upstream_as_a_preflight() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let preflight = Request::new("OPTIONS", "/agents/1?action=run")
        .header("Origin", "https://evil.example")
        .header("Access-Control-Request-Method", "POST");
    for nominated in [
        "origin",
        "access-control-request-method",
        "origin, access-control-request-method",
    ] {
        let request = preflight.clone().header("Connection", nominated);
        assert_own(&proxy.send(&request).await, 400, "request_malformed");
    }
    assert_eq!(upstream.requests(), 0);
    let others = preflight.header("Connection", "close, x-other");
    assert_eq!(
        proxy.send(&others.header("X-Other", "1")).await.status(),
        200
    );
    let head = upstream.next().await.head;
    assert_eq!(head.get("origin"), Some("https://evil.example"));
    assert_eq!(head.get("access-control-request-method"), Some("POST"));
    assert_eq!(head.get("x-other"), None);
}

#[tokio::test]
async fn the_options_of_a_connection_are_bounded() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| {
        let options = head.target().trim_start_matches('/').parse().unwrap_or(0);
        let line = vec!["x-a"; options].join(",");
        let fields = if options == 0 {
            vec![]
        } else {
            vec![("Connection", line.as_str())]
        };
        Reply::Bytes(crate::support::upstream::response(
            "200 OK", &fields, "hello",
        ))
    });
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[[route]]\npath = \"/**\"\naccess = \"public\"")
        .start()
        .await;
    let with = |count: usize| {
        let line = vec!["x-a"; count].join(", ");
        Request::get("/0").header("Connection", &line)
    };
    assert_eq!(proxy.send(&with(32)).await.status(), 200);
    assert_own(&proxy.send(&with(33)).await, 400, "request_malformed");
    assert_own(&proxy.send(&with(7_000)).await, 400, "request_malformed");
    let two_lines = with(32).header("Connection", "x-b");
    assert_own(&proxy.send(&two_lines).await, 400, "request_malformed");
    assert_eq!(proxy.send(&Request::get("/32")).await.status(), 200);
    assert_own(
        &proxy.send(&Request::get("/33")).await,
        502,
        "upstream_failed",
    );
}

#[tokio::test]
async fn a_method_in_another_case_borrows_no_rule() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).rest(METHODS).start().await;
    let token = issuer
        .user("auth0|alice")
        .claim("scope", "read:items")
        .mint();
    for (method, words) in [
        ("delete", "Methods are case-sensitive: send DELETE"),
        ("Delete", "Methods are case-sensitive: send DELETE"),
        ("deletE", "Methods are case-sensitive: send DELETE"),
        ("patch", "Methods are case-sensitive: send PATCH"),
        ("get", "Methods are case-sensitive: send GET"),
        ("purge", "Methods are case-sensitive: send it in upper case"),
        ("trace", "Method not served"),
        ("connect", "Method not served"),
        ("TRACE", "Method not served"),
    ] {
        let answer = proxy
            .send(&Request::new(method, "/items/1").bearer(&token))
            .await;
        assert_own(&answer, 501, "method_not_served");
        assert_eq!(answer.json()["error"], words, "{method}");
    }
    assert_eq!(upstream.requests(), 0);
    for (method, expected) in [
        ("DELETE", 403),
        ("GET", 200),
        ("PATCH", 200),
        ("X-OWN", 200),
    ] {
        let answer = proxy
            .send(&Request::new(method, "/items/1").bearer(&token))
            .await;
        assert_eq!(answer.status(), expected, "{method}");
    }
}

/// What routers with format suffixes, and file systems that drop dots and spaces, make of a path.
#[tokio::test]
async fn suffixes_and_ends_of_segments_borrow_no_rule() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).rest(SUFFIXES).start().await;
    let token = issuer.user("auth0|alice").mint();
    let mut findings = Findings::default();
    for (path, expected) in [
        ("/api/agents/1/instructions", "403 rule_denied"),
        ("/api/agents/1/instructions.json", "403 rule_denied"),
        ("/api/agents/1/instructions.json/", "403 rule_denied"),
        ("/api/agents/1/instructions%2Ejson", "403 rule_denied"),
        ("/api/agents/1/instructions%2ejson", "403 rule_denied"),
        ("/api/agents/1/Instructions.JSON", "403 rule_denied"),
        ("/api/agents/1/instructions..json", "403 rule_denied"),
        (
            "/api/agents/1/instructions.0123456789abcdef",
            "403 rule_denied",
        ),
        ("/api/agents/1/instructions.", "403 rule_denied"),
        ("/api/agents/1/instructions%20", "403 rule_denied"),
        ("/api/agents/1/instructions%2E%20/", "403 rule_denied"),
        ("/api/agents/1/instructions%252e", "403 rule_denied"),
        ("/admin.json", "403 rule_denied"),
        ("/admin.json/", "403 rule_denied"),
        ("/admin./x", "403 rule_denied"),
        ("/admin%20/x", "403 rule_denied"),
        ("/openapi", "403 rule_denied"),
        ("/openapi.yaml", "403 rule_denied"),
        ("/dots/...", "403 rule_denied"),
        // Nothing but what the routes say.
        ("/openapi.json", "passes"),
        ("/robots.txt", "passes"),
        ("/v1.2/x", "passes"),
        ("/files/report.pdf", "passes"),
        ("/api/agents/1.json", "passes"),
        ("/api/agents/1/instructions.0123456789abcdefg", "passes"),
        ("/api/agents/1/instructions.j-son", "passes"),
        ("/api/agents/1/instructions.json/x", "passes"),
        ("/administrator.json", "passes"),
        ("/dots/....", "passes"),
        ("/dots/x", "passes"),
    ] {
        let answer = proxy.send(&Request::get(path).bearer(&token)).await;
        findings.check(path, outcome(&answer) == expected, || outcome(&answer));
        if expected == "passes" {
            let head = upstream.next().await.head;
            assert_eq!(head.target(), path, "byte for byte");
        }
    }
    findings.assert_none();
}

/// A path that needs no token may be asked for under names that need none only.
#[tokio::test]
async fn a_public_suffix_opens_nothing() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let rules = "[[route]]\npath = \"/files/**\"\naccess = \"public\"\n[[route]]\npath = \"/files/secret\"\n";
    let proxy = Setup::new(&issuer, &upstream).rest(rules).start().await;
    for path in [
        "/files/secret",
        "/files/secret.txt",
        "/files/secret.",
        "/files/secret%20",
        "/files/x/../secret.txt",
    ] {
        assert_own(&proxy.send(&Request::get(path)).await, 401, "token_missing");
    }
    for path in ["/files/public.txt", "/files/", "/files/secretary.txt"] {
        assert_eq!(
            proxy.send(&Request::get(path)).await.status(),
            200,
            "{path}"
        );
    }
}
