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

/// Every field of a wide dictionary that changes the verdict on some request is one that cannot be
/// nominated, or a field of the connection.
#[tokio::test]
async fn the_table_of_what_decides_is_what_decides() {
    // These are looked at for the connection: for framing, for loops and for how far a request goes. Without
    // them a request is decided on, and forwarded, without them.
    const ELSEWHERE: [&str; 4] = ["max-forwards", "upgrade", "connection", "transfer-encoding"];
    const CONFIGURATIONS: [&str; 3] = [
        "[cors]\norigins = [\"https://app.example.com\"]\nenforce_origin = true\n[mcp]\nread_bodies = true\n",
        "[token_sources]\nquery_parameter = \"access_token\"\nwebsocket_protocol = true\n",
        "[dpop]\nmode = \"accepted\"\n",
    ];
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let token = issuer
        .user("auth0|alice")
        .claim("scope", "read tools:call")
        .mint();
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;
    let scenarios = [
        Request::get("/x"),
        Request::get("/x").bearer(&token),
        Request::new("OPTIONS", "/x").header("Origin", "https://app.example.com"),
        Request::new("OPTIONS", "/x")
            .header("Origin", "https://app.example.com")
            .header("Access-Control-Request-Method", "POST"),
        Request::post("/mcp", call)
            .bearer(&token)
            .header("Content-Type", "application/json"),
        Request::post("/mcp", call)
            .bearer(&token)
            .header("Content-Type", "application/json")
            .header("MCP-Protocol-Version", "2026-07-28")
            .header("Mcp-Method", "tools/call")
            .header("Mcp-Name", "echo"),
        Request::get("/x")
            .websocket()
            .header("Sec-WebSocket-Protocol", &format!("bearer.{token}")),
    ];
    let values = [
        "1",
        "application/json",
        "gzip",
        "https://evil.example",
        "POST",
        "2026-07-28",
        "bearer.x",
    ];
    let mut deciding = std::collections::BTreeSet::new();
    for (number, configuration) in CONFIGURATIONS.into_iter().enumerate() {
        let proxy = Setup::new(&issuer, &upstream)
            .top(if number == 2 {
                "public_url = \"https://agents.example.com\""
            } else {
                ""
            })
            .rest(&format!("{configuration}{MCP}"))
            .start()
            .await;
        for scenario in &scenarios {
            let before = outcome_or_switch(&proxy.send(scenario).await);
            for name in NAMES {
                // A length that is one number would have the program wait for the body.
                let fits = |value: &&str| name != "Content-Length" || value.parse::<u64>().is_err();
                for value in values.into_iter().filter(fits) {
                    let answer = proxy.send(&scenario.clone().header(name, value)).await;
                    if outcome_or_switch(&answer) != before {
                        deciding.insert(name.to_ascii_lowercase());
                    }
                }
            }
        }
    }
    deciding.retain(|name| !ELSEWHERE.contains(&name.as_str()));
    let is_listed = |name: &String| {
        let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
        authgate::headers::is_read_by_decisions(&name)
    };
    let missing: Vec<&String> = deciding.iter().filter(|name| !is_listed(name)).collect();
    assert!(
        missing.is_empty(),
        "these decide, and could be nominated: {missing:?}"
    );
    // And nothing is listed in vain, but for two that a backend decides by: its session, and its own CORS.
    for read in authgate::headers::READ_BY_DECISIONS {
        let is_decided_by = deciding.iter().any(|name| name.starts_with(read));
        let is_backends = ["access-control-request-", "cookie", "dpop"].contains(&read);
        assert!(
            is_decided_by || is_backends,
            "{read} decides nothing: {deciding:?}"
        );
    }
}

fn outcome_or_switch(response: &Response) -> String {
    match response.status() {
        status @ (101 | 204 | 426) => status.to_string(),
        _ => outcome(response),
    }
}

/// Request fields in use, registered or not.
const NAMES: [&str; 66] = [
    "A-IM",
    "Accept",
    "Accept-Charset",
    "Accept-Encoding",
    "Accept-Language",
    "Access-Control-Request-Headers",
    "Access-Control-Request-Method",
    "Access-Control-Request-Private-Network",
    "Authorization",
    "Cache-Control",
    "Client-Cert",
    "Content-Digest",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Length",
    "Content-Location",
    "Content-Range",
    "Content-Type",
    "Cookie",
    "DNT",
    "DPoP",
    "Date",
    "Depth",
    "Destination",
    "Expect",
    "Forwarded",
    "From",
    "Host",
    "Idempotency-Key",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "MCP-Protocol-Version",
    "Max-Forwards",
    "Mcp-Method",
    "Mcp-Name",
    "Mcp-Session-Id",
    "Mcp_Method",
    "Origin",
    "Pragma",
    "Prefer",
    "Priority",
    "Proxy-Authorization",
    "Range",
    "Referer",
    "Sec-Fetch-Mode",
    "Sec-Fetch-Site",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Protocol",
    "Signature",
    "TE",
    "Trailer",
    "Upgrade-Insecure-Requests",
    "User-Agent",
    "Via",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-User",
    "X-HTTP-Method-Override",
    "X-Original-URL",
    "X-Request-Id",
    "traceparent",
];
