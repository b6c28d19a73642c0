//! Rules on MCP methods and tools: what is not known for certain passes no rule.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use crate::issuer::Issuer;
use crate::issuer::tokens::now;
use crate::resource::challenge;
use crate::support::upstream::response;
use crate::support::wire::chunk;
use crate::support::{Findings, Proxy, Reply, Request, Response, Setup, Upstream, assert_own, own};

const RULES: &str = r#"
[[route]]
path = "/mcp"

[[route]]
path    = "/mcp"
mcp     = { tool = "*" }
require = { scopes = ["call"] }

[[route]]
path    = "/mcp"
mcp     = { tool = ["delete_*", "Wipe"] }
require = { scopes = ["call", "delete"] }

[[route]]
path   = "/mcp"
mcp    = { tool = "run_shell" }
access = "deny"

[[route]]
path    = "/mcp"
mcp     = { method = ["logging/*"] }
require = { scopes = ["log"] }

[[route]]
path = "/open"
mcp  = { method = "tools/list" }
access = "public"

[[route]]
path = "/open"
mcp  = { tool = "*" }
require = { scopes = ["call"] }
"#;

const NEW: &str = "2026-07-28";

const READ: &str = "[mcp]\nread_bodies = true\n";

async fn start(issuer: &Issuer, upstream: &Upstream, rest: &str) -> Proxy {
    Setup::new(issuer, upstream)
        .rest(&format!("{RULES}{rest}"))
        .start()
        .await
}

fn token(issuer: &Issuer, scope: &str) -> String {
    issuer.user("auth0|alice").claim("scope", scope).mint()
}

/// A request of the current revision.
fn named(method: &str, name: Option<&str>) -> Request {
    let request = Request::post("/mcp", "{}")
        .header("Content-Type", "application/json")
        .header("MCP-Protocol-Version", NEW)
        .header("Mcp-Method", method);
    match name {
        None => request,
        Some(name) => request.header("Mcp-Name", name),
    }
}

/// A request that says in its body what it asks for.
fn older(body: &str) -> Request {
    Request::post("/mcp", body).header("Content-Type", "application/json")
}

fn calling(tool: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": tool } })
        .to_string()
}

/// A JSON-RPC error of authgate's own: status and code, and whom it is for, `None` for nobody.
fn rpc(found: &Response, status: u16, code: &str, id: Option<Value>) -> Result<(), String> {
    let shown = format!("{} {}", found.head.first_line, found.text());
    let body: Value =
        serde_json::from_slice(&found.body).map_err(|error| format!("{error}: {shown}"))?;
    let error = &body["error"];
    let is_sound = body["jsonrpc"] == "2.0"
        && error["code"].is_i64()
        && error["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
        && error["data"]["request_id"].as_str() == found.header("x-request-id")
        && found.header("cache-control") == Some("no-store")
        && found.header("content-type") == Some("application/json");
    if found.status() != status || error["data"]["code"] != code || !is_sound {
        return Err(format!("expected {status} {code}, found {shown}"));
    }
    if body.get("id") != id.as_ref() {
        return Err(format!("expected the id {id:?}, found {shown}"));
    }
    let challenged = found.header("www-authenticate").is_some();
    let expected = status == 401 || code == "scope_missing";
    if challenged != expected {
        return Err(format!("challenge {challenged}: {:?}", found.head));
    }
    Ok(())
}

/// `passes`, or status and code.
fn outcome(found: &Response) -> String {
    if found.status() == 200 {
        return "passes".to_owned();
    }
    let body: Value = serde_json::from_slice(&found.body).unwrap_or_default();
    let code = body["error"]["data"]["code"]
        .as_str()
        .or(body["code"].as_str());
    format!("{} {}", found.status(), code.unwrap_or("?"))
}

#[tokio::test]
async fn the_headers_choose_the_rule() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, "").await;
    let caller = token(&issuer, "call");
    let mut findings = Findings::default();
    for (method, name, expected) in [
        ("tools/list", None, "passes"),
        ("server/discover", None, "passes"),
        ("tools/call", Some("read"), "passes"),
        ("tools/call", Some("=?base64?cmVhZA==?="), "passes"),
        ("tools/call", Some("a b, c%20d"), "passes"),
        ("tools/call", Some("delete_user"), "403 scope_missing"),
        ("tools/call", Some("Delete_User"), "403 scope_missing"),
        ("tools/call", Some("wipe"), "403 scope_missing"),
        (
            "tools/call",
            Some("=?base64?ZGVsZXRlX3VzZXI=?="),
            "403 scope_missing",
        ),
        (
            "tools/call",
            Some("=?base64?IGRlbGV0ZV91c2Vy?="),
            "403 scope_missing",
        ),
        ("tools/call", Some("run_shell"), "403 rule_denied"),
        ("tools/call", Some("RUN_SHELL"), "403 rule_denied"),
        (
            "tools/call",
            Some("=?base64?cnVuX3NoZWxs?="),
            "403 rule_denied",
        ),
        ("TOOLS/CALL", Some("run_shell"), "403 rule_denied"),
        ("logging/setLevel", None, "403 scope_missing"),
        ("Logging/SetLevel", None, "403 scope_missing"),
        ("tools/call", None, "400 mcp_header_invalid"),
        ("Tools/Call", None, "400 mcp_header_invalid"),
        ("prompts/get", None, "400 mcp_header_invalid"),
        ("tools/call", Some(""), "400 mcp_header_invalid"),
        ("", None, "400 mcp_header_invalid"),
        (
            "tools/list, tools/call",
            Some("run_shell"),
            "400 mcp_header_invalid",
        ),
        ("tools/call", Some("caf\u{e9}"), "400 mcp_header_invalid"),
        (
            "tools/call",
            Some("=?base64?ZGVsZXRl"),
            "400 mcp_header_invalid",
        ),
        (
            "tools/call",
            Some("=?base64?ZGVsZXRlX3VzZXJ=?="),
            "400 mcp_header_invalid",
        ),
        (
            "tools/call",
            Some("=?BASE64?cmVhZA==?="),
            "400 mcp_header_invalid",
        ),
        (
            "tools/call",
            Some("=?base64?cmVhZA?="),
            "400 mcp_header_invalid",
        ),
        // "run_shell" with a NUL, U+001F, U+FEFF or U+200D, in wide letters, and with U+017F.
        (
            "tools/call",
            Some("=?base64?cnVuX3NoZWxsAA==?="),
            "400 mcp_header_invalid",
        ),
        (
            "tools/call",
            Some("=?base64?cnVuX3NoZWxsHw==?="),
            "400 mcp_header_invalid",
        ),
        (
            "tools/call",
            Some("=?base64?77u/cnVuX3NoZWxs?="),
            "400 mcp_header_invalid",
        ),
        (
            "tools/call",
            Some("=?base64?cnVu4oCNX3NoZWxs?="),
            "400 mcp_header_invalid",
        ),
        (
            "tools/call",
            Some("=?base64?772S772V772OX3NoZWxs?="),
            "400 mcp_header_invalid",
        ),
        (
            "tools/call",
            Some("=?base64?cnVuX8W/aGVsbA==?="),
            "400 mcp_header_invalid",
        ),
        (
            "prompts/get",
            Some("=?base64?cAA=?="),
            "400 mcp_header_invalid",
        ),
        (
            "resources/read",
            Some("=?base64?ZmlsZTovLy9hAA==?="),
            "400 mcp_header_invalid",
        ),
    ] {
        let case = format!("{method} {name:?}");
        let found = proxy.send(&named(method, name).bearer(&caller)).await;
        findings.check(&case, outcome(&found) == expected, || outcome(&found));
        if expected != "passes" {
            let (status, code) = expected.split_once(' ').expect("a status");
            let status = status.parse().expect("a number");
            findings.add(&case, rpc(&found, status, code, None));
        }
    }
    findings.assert_none();
    // What passes, passes as it was.
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, "").await;
    let sent = named("tools/call", Some("=?base64?cmVhZA==?=")).header("Mcp-Param-Region", "eu");
    assert_eq!(proxy.send(&sent.bearer(&caller)).await.status(), 200);
    let last = upstream.next().await;
    assert_eq!(last.head.get("mcp-param-region"), Some("eu"));
    assert_eq!(last.head.get("mcp-name"), Some("=?base64?cmVhZA==?="));
    assert_eq!(last.head.get("mcp-method"), Some("tools/call"));
    assert_eq!(last.body().await, b"{}");
}

#[tokio::test]
async fn headers_that_are_said_twice_or_without_their_revision_choose_nothing() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, "").await;
    let caller = token(&issuer, "call delete log");
    let list = ("Mcp-Method", "tools/list");
    let version = ("MCP-Protocol-Version", NEW);
    let mut findings = Findings::default();
    for (fields, expected) in [
        (&[version, list][..], "passes"),
        (&[version, list, list], "400 mcp_header_invalid"),
        (
            &[version, list, ("Mcp-Method", "tools/call")],
            "400 mcp_header_invalid",
        ),
        (
            &[version, list, ("mcp_method", "tools/call")],
            "400 mcp_header_invalid",
        ),
        (
            &[version, ("Mcp_Method", "tools/list")],
            "400 mcp_header_invalid",
        ),
        (
            &[version, list, ("Mcp-Name", "a"), ("Mcp-Name", "a")],
            "400 mcp_header_invalid",
        ),
        (&[version], "400 mcp_header_invalid"),
        (&[version, version, list], "400 mcp_header_invalid"),
        (
            &[version, ("MCP_Protocol_Version", NEW), list],
            "400 mcp_header_invalid",
        ),
        (
            &[("MCP-Protocol-Version", "2026-07-28, 2025-11-25"), list],
            "400 mcp_header_invalid",
        ),
        (
            &[("MCP-Protocol-Version", "latest"), list],
            "400 mcp_header_invalid",
        ),
        (
            &[("MCP-Protocol-Version", "2026-99-99"), list],
            "400 mcp_header_invalid",
        ),
        (
            &[("MCP-Protocol-Version", "2025-11-25"), list],
            "400 mcp_body_not_read",
        ),
        (
            &[("MCP-Protocol-Version", "2026-07-27"), list],
            "400 mcp_body_not_read",
        ),
        (&[list], "400 mcp_body_not_read"),
        (&[], "400 mcp_body_not_read"),
    ] {
        for path in ["/mcp", "/MCP", "//mcp/", "/%6dcp"] {
            let mut request = Request::post(path, calling("read")).bearer(&caller);
            for (name, value) in fields {
                request = request.header(name, value);
            }
            let found = proxy.send(&request).await;
            findings.check(
                &format!("{path} {fields:?}"),
                outcome(&found) == expected,
                || outcome(&found),
            );
        }
    }
    findings.assert_none();
}

#[tokio::test]
async fn other_methods_and_paths_are_what_they_were() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, "").await;
    let caller = token(&issuer, "");
    let mut findings = Findings::default();
    for (request, expected) in [
        (Request::get("/mcp"), "passes"),
        (Request::new("DELETE", "/mcp"), "passes"),
        (
            Request::get("/mcp")
                .header("Mcp-Method", "tools/call")
                .header("Mcp-Name", "run_shell"),
            "passes",
        ),
        (
            Request::get("/mcp").body(calling("run_shell")),
            "400 mcp_unreadable",
        ),
        (
            Request::new("DELETE", "/mcp").body(calling("run_shell")),
            "400 mcp_unreadable",
        ),
        (
            Request::new("PUT", "/mcp").body(calling("run_shell")),
            "405 method_denied",
        ),
        (
            Request::new("post", "/mcp").body(calling("run_shell")),
            "501 method_not_served",
        ),
        (Request::post("/elsewhere", "{}"), "passes"),
        (Request::get("/open"), "405 method_denied"),
    ] {
        let found = proxy.send(&request.clone().bearer(&caller)).await;
        let case = String::from_utf8_lossy(&request.bytes()).into_owned();
        findings.check(&case, outcome(&found) == expected, || outcome(&found));
    }
    findings.assert_none();
    // Preflights say nothing of the message.
    let preflight = Request::new("OPTIONS", "/open")
        .header("Origin", "https://app.example.com")
        .header("Access-Control-Request-Method", "POST");
    assert_eq!(proxy.send(&preflight).await.status(), 200);
}

#[tokio::test]
async fn a_stranger_is_told_so_before_the_body_is_asked_for() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, READ).await;
    let waiting = Request::new("POST", "/mcp")
        .header("Content-Type", "application/json")
        .header("Content-Length", "100")
        .header("Expect", "100-continue");
    // No "100 Continue" comes before the refusal.
    let mut client = waiting.open(proxy.data).await;
    assert_eq!(client.head().await.status(), 401);
    let bad = waiting
        .clone()
        .bearer("a.b.c")
        .open(proxy.data)
        .await
        .head()
        .await;
    assert_eq!(bad.status(), 401);
    // Somebody who may ask is asked, and so is a stranger where something is public.
    let open = Request::new("POST", "/open")
        .header("Content-Type", "application/json")
        .header("Content-Length", "47")
        .header("Expect", "100-continue");
    let mut client = open.open(proxy.data).await;
    assert_eq!(client.head().await.status(), 100);
    client
        .send(br#"{"jsonrpc":"2.0","id":1,"method":"tools/list" }"#)
        .await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(upstream.requests(), 1);

    let call = Request::post("/open", calling("read")).header("Content-Type", "application/json");
    let found = proxy.send(&call).await;
    rpc(&found, 401, "token_missing", Some(json!(7))).expect("a refusal");
    let both = format!(
        r#"[{{"jsonrpc":"2.0","id":1,"method":"tools/list"}},{}]"#,
        calling("read")
    );
    let both = Request::post("/open", both).header("Content-Type", "application/json");
    rpc(
        &proxy.send(&both).await,
        401,
        "token_missing",
        Some(Value::Null),
    )
    .expect("a refusal");
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn the_body_chooses_the_rule_and_passes_unchanged() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, READ).await;
    let caller = token(&issuer, "call");
    let list = r#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#;
    let passing = [
        format!(" \t\r\n{list}\n"),
        calling("read"),
        r#"{"id":7,"params":{"name":"\u0072ead","arguments":{"Name":"delete","name":["x"]}},"method":"tools\/call","jsonrpc":"2.0"}"#.to_owned(),
        format!("[{list},{}]", calling("read")),
        r#"{"jsonrpc":"2.0","id":3,"result":{"tools":[]}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1e2,"method":"ping","params":{"n":123456789012345678901234567890}}"#.to_owned(),
    ];
    for body in &passing {
        let found = proxy.send(&older(body).bearer(&caller)).await;
        assert_eq!(outcome(&found), "passes", "{body}");
        let reached = upstream.next().await;
        assert_eq!(String::from_utf8_lossy(&reached.body().await), *body);
        assert_eq!(
            reached.head.get("content-length"),
            Some(body.len().to_string().as_str())
        );
        // However the body is cut, and without its length.
        let mut client = Request::new("POST", "/mcp")
            .header("Content-Type", "application/json; charset=utf-8")
            .header("Transfer-Encoding", "chunked")
            .bearer(&caller)
            .open(proxy.data)
            .await;
        for byte in body.as_bytes() {
            client.send(&chunk(&[*byte])).await;
        }
        client.send(b"0\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 200, "{body}");
        assert_eq!(
            String::from_utf8_lossy(&upstream.next().await.body().await),
            *body
        );
    }
}

#[tokio::test]
async fn a_body_that_is_not_certain_reaches_nobody() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, READ).await;
    let caller = token(&issuer, "call");
    let mut findings = Findings::default();
    let shell = calling("run_shell");
    let list = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;
    let deny = Some(json!(7));
    let null = Some(Value::Null);
    for (body, status, code, id) in [
        (shell.clone(), 403, "rule_denied", deny.clone()),
        (calling("delete_user"), 403, "scope_missing", deny.clone()),
        (calling("DELETE_USER"), 403, "scope_missing", deny.clone()),
        (calling(" delete_user "), 403, "scope_missing", deny.clone()),
        (calling("\tdelete_user"), 400, "mcp_unreadable", null.clone()),
        (calling("wipe"), 403, "scope_missing", deny.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"\u0064elete_user"}}"#.to_owned(), 403, "scope_missing", deny.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"meth\u006fd":"tools\/call","params":{"name":"run\u005fshell"}}"#.to_owned(), 403, "rule_denied", deny.clone()),
        (r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"run_shell"}}"#.to_owned(), 403, "rule_denied", null.clone()),
        (r#"{"jsonrpc":"2.0","id":"x\"y","method":"logging/setLevel"}"#.to_owned(), 403, "scope_missing", Some(json!("x\"y"))),
        (format!("[{list},{shell}]"), 403, "rule_denied", null.clone()),
        (format!("[{shell}]"), 403, "rule_denied", null.clone()),
        (format!("[{list},[{shell}]]"), 400, "mcp_unreadable", null.clone()),
        (format!("{list}{shell}"), 400, "mcp_unreadable", null.clone()),
        (format!("{list}\n{shell}\n"), 400, "mcp_unreadable", null.clone()),
        (format!("\u{feff}{list}"), 400, "mcp_unreadable", null.clone()),
        (String::new(), 400, "mcp_unreadable", null.clone()),
        ("[]".to_owned(), 400, "mcp_unreadable", null.clone()),
        (r#"{"method":"tools/list","method":"tools/call"}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read","name":"run_shell"}}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"method":"ping","Method":"tools/call","params":{"name":"run_shell"}}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read","NAME":"run_shell"}}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read"},"Params":{"name":"run_shell"}}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":{"toString":"run_shell"}}}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":["run_shell"]}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call"}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        // What a C string, trim, strip or NFKC makes of these is the denied tool.
        (calling("run_shell\0"), 400, "mcp_unreadable", null.clone()),
        (calling("run_shell\0x"), 400, "mcp_unreadable", null.clone()),
        (calling("\u{feff}run_shell"), 400, "mcp_unreadable", null.clone()),
        (calling("run_shell\u{1f}"), 400, "mcp_unreadable", null.clone()),
        (calling("run_shell\n"), 400, "mcp_unreadable", null.clone()),
        (calling("run\u{200d}_shell"), 400, "mcp_unreadable", null.clone()),
        (calling("run\u{2060}_shell"), 400, "mcp_unreadable", null.clone()),
        (calling("\u{2066}run_shell\u{2069}"), 400, "mcp_unreadable", null.clone()),
        (calling("\u{202e}llehs_nur"), 400, "mcp_unreadable", null.clone()),
        (calling("\u{ff52}\u{ff55}\u{ff4e}_\u{ff53}\u{ff48}\u{ff45}\u{ff4c}\u{ff4c}"), 400, "mcp_unreadable", null.clone()),
        (calling("run_\u{17f}hell"), 400, "mcp_unreadable", null.clone()),
        (calling("run_shell\u{a0}"), 400, "mcp_unreadable", null.clone()),
        (calling(" run_shell"), 403, "rule_denied", deny.clone()),
        (calling("run_shell \u{2028}"), 403, "rule_denied", deny.clone()),
        (shell.replace("tools/call", "tools/call\\u0000"), 400, "mcp_unreadable", null.clone()),
        (shell.replace("tools/call", "\u{feff}tools/call"), 400, "mcp_unreadable", null.clone()),
        (shell.replace("tools/call", "tools\u{ff0f}call"), 400, "mcp_unreadable", null.clone()),
        (shell.replace("\"method\"", "\"method\":\"ping\",\"method\\u0000\""), 400, "mcp_unreadable", null.clone()),
        (shell.replace("\"method\"", "\"method\":\"ping\",\"\u{feff}method\""), 400, "mcp_unreadable", null.clone()),
        (shell.replace("\"name\"", "\"name\":\"read\",\"name\\u0000\""), 400, "mcp_unreadable", null.clone()),
        (shell.replace("\"name\"", "\"name\":\"read\",\"\u{ff4e}ame\""), 400, "mcp_unreadable", null.clone()),
        (shell.replace("\"params\"", "\"params\":{\"name\":\"read\"},\"params\u{200b}\""), 400, "mcp_unreadable", null.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"method":"prompts/get","params":{"name":"a\u0000"}}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"file:///a\u0000"}}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"method":["tools/call"]}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","result":{},"params":{"name":"run_shell"}}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        (r#"{'jsonrpc':'2.0','id':7,'method':'ping'}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        (r#"{"jsonrpc":"2.0","id":7,"method":"ping",}"#.to_owned(), 400, "mcp_unreadable", null.clone()),
        (format!("{{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\",\"params\":{}", "[".repeat(50_000)), 400, "mcp_unreadable", null.clone()),
        ("tools/list".to_owned(), 400, "mcp_unreadable", null.clone()),
    ] {
        let found = proxy.send(&older(&body).bearer(&caller)).await;
        let case: String = body.chars().take(100).collect();
        findings.add(&case, rpc(&found, status, code, id));
    }
    for fields in [
        &[][..],
        &[("Content-Type", "text/plain")],
        &[("Content-Type", "application/json; charset=utf-16")],
        &[
            ("Content-Type", "application/json"),
            ("Content-Type", "application/json"),
        ],
        &[
            ("Content-Type", "application/json"),
            ("Content-Encoding", "gzip"),
        ],
        &[
            ("Content-Type", "application/json"),
            ("Content_Encoding", "gzip"),
        ],
    ] {
        let mut request = Request::post("/mcp", list).bearer(&caller);
        for (name, value) in fields {
            request = request.header(name, value);
        }
        let found = proxy.send(&request).await;
        let code = if fields.len() > 1 && fields[1].0 != "Content-Encoding" {
            "mcp_header_invalid"
        } else {
            "mcp_unreadable"
        };
        findings.add(&format!("{fields:?}"), rpc(&found, 400, code, None));
    }
    findings.assert_none();
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn headers_must_agree_with_a_body_that_is_read() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, READ).await;
    let caller = token(&issuer, "call");
    let list = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#.to_owned();
    let json = "application/json";
    let mut findings = Findings::default();
    for (version, method, name, body, expected) in [
        (NEW, "tools/call", Some("read"), calling("read"), "passes"),
        (
            NEW,
            "tools/call",
            Some("=?base64?cmVhZA==?="),
            calling("read"),
            "passes",
        ),
        (
            NEW,
            "tools/call",
            Some("read"),
            calling("run_shell"),
            "400 mcp_header_mismatch",
        ),
        (
            NEW,
            "tools/call",
            Some("run_shell"),
            calling("read"),
            "400 mcp_header_mismatch",
        ),
        (
            NEW,
            "tools/call",
            Some("Read"),
            calling("read"),
            "400 mcp_header_mismatch",
        ),
        (
            NEW,
            "tools/list",
            None,
            calling("read"),
            "400 mcp_header_mismatch",
        ),
        (
            NEW,
            "tools/list",
            Some("read"),
            calling("read"),
            "400 mcp_header_mismatch",
        ),
        (
            NEW,
            "tools/call",
            Some("read"),
            list.clone(),
            "400 mcp_header_mismatch",
        ),
        (
            NEW,
            "tools/list",
            None,
            format!("[{list}]"),
            "400 mcp_header_mismatch",
        ),
        (
            NEW,
            "tools/list",
            None,
            r#"{"jsonrpc":"2.0","id":7,"result":{}}"#.to_owned(),
            "400 mcp_header_mismatch",
        ),
        (
            NEW,
            "tools/call",
            None,
            calling("read"),
            "400 mcp_header_invalid",
        ),
        // Older revisions know no such headers, so the body alone counts.
        (
            "2025-11-25",
            "tools/list",
            None,
            calling("run_shell"),
            "403 rule_denied",
        ),
        (
            "2025-11-25",
            "tools/call",
            Some("run_shell"),
            list,
            "passes",
        ),
    ] {
        let mut request = Request::post("/mcp", body.clone())
            .header("Content-Type", json)
            .header("MCP-Protocol-Version", version)
            .header("Mcp-Method", method)
            .bearer(&caller);
        if let Some(name) = name {
            request = request.header("Mcp-Name", name);
        }
        let found = proxy.send(&request).await;
        findings.check(
            &format!("{version} {method} {name:?} {body}"),
            outcome(&found) == expected,
            || outcome(&found),
        );
    }
    findings.assert_none();
}

#[tokio::test]
async fn what_is_read_is_bounded() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(
        &issuer,
        &upstream,
        "[mcp]\nread_bodies = true\nmax_body = \"1KiB\"\n",
    )
    .await;
    let caller = token(&issuer, "call");
    let padded = |length: usize| {
        let call = calling("read");
        format!("{call}{}", " ".repeat(length - call.len()))
    };
    assert_eq!(
        proxy
            .send(&older(&padded(1024)).bearer(&caller))
            .await
            .status(),
        200
    );
    let found = proxy.send(&older(&padded(1025)).bearer(&caller)).await;
    rpc(&found, 413, "body_too_large", None).expect("a refusal");
    // The same without a length, and without an end.
    let mut client = Request::new("POST", "/mcp")
        .header("Content-Type", "application/json")
        .header("Transfer-Encoding", "chunked")
        .bearer(&caller)
        .open(proxy.data)
        .await;
    for _ in 0..2 {
        client.send(&chunk(padded(600).as_bytes())).await;
    }
    rpc(&client.response().await, 413, "body_too_large", None).expect("a refusal");
    assert_eq!(upstream.requests(), 1);
    // Elsewhere nothing is read, and nothing is bounded.
    let big = Request::post("/elsewhere", padded(100_000)).bearer(&caller);
    assert_eq!(proxy.send(&big).await.status(), 200);
}

#[tokio::test]
async fn a_client_that_leaves_its_message_unfinished_is_gone() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, READ).await;
    let caller = token(&issuer, "call");
    let mut client = Request::new("POST", "/mcp")
        .header("Content-Type", "application/json")
        .header("Content-Length", "100")
        .bearer(&caller)
        .open(proxy.data)
        .await;
    client.send(b"{\"jsonrpc\"").await;
    drop(client);
    let line = proxy.request_line("/mcp").await;
    assert_eq!(line["outcome"], "cancelled", "{line}");
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_of_events_cancels_its_call() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::events());
    let proxy = start(&issuer, &upstream, READ).await;
    let caller = token(&issuer, "call");
    let new = older(&calling("read"))
        .header("MCP-Protocol-Version", NEW)
        .header("Mcp-Method", "tools/call")
        .header("Mcp-Name", "read");
    for request in [older(&calling("read")), new] {
        let mut client = request.bearer(&caller).open(proxy.data).await;
        let exchange = upstream.next().await;
        let event =
            "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n";
        exchange.send(event);
        assert_eq!(client.head().await.status(), 200);
        assert_eq!(client.data().await, event);
        drop(client);
        exchange.closed().await;
    }
}

#[tokio::test]
async fn everything_else_is_refused_as_ever() {
    let issuer = Issuer::start();
    let mut upstream = Upstream::start(|head| match head.target() {
        "/mcp" => Reply::Bytes(response(
            "200 OK",
            &[("Content-Type", "application/json")],
            "{}",
        )),
        _ => Reply::ok("hello"),
    });
    let proxy = start(&issuer, &upstream, "").await;
    assert_own(
        &proxy.send(&Request::get("/mcp")).await,
        401,
        "token_missing",
    );
    assert_own(
        &proxy.send(&Request::post("/x", "{}")).await,
        401,
        "token_missing",
    );
    let found = proxy.send(&named("tools/list", None)).await;
    rpc(&found, 401, "token_missing", None).expect("a refusal");
    let found = proxy.send(&named("tools/list", None).bearer("a.b.c")).await;
    rpc(&found, 401, "token_malformed", None).expect("a refusal");
    // A gRPC client reads neither.
    let grpc = Request::post("/mcp", "").header("Content-Type", "application/grpc");
    assert_eq!(proxy.send(&grpc).await.header("grpc-status"), Some("16"));
    // Before anything is decided, nobody knows that it is MCP.
    let hostless = Request::post("/mcp", "{}").host(None);
    assert_eq!(
        own(&proxy.send(&hostless).await, 400, "host_malformed"),
        Ok(())
    );
    upstream.go_down().await;
    let list = named("tools/list", None).bearer(&token(&issuer, ""));
    rpc(&proxy.send(&list).await, 502, "upstream_unreachable", None).expect("a refusal");
}

/// A resource whose tools have rules of their own, and one that lists its tools to anybody.
const RESOURCE_RULES: &str = r#"
[require]
scopes = ["base"]

[[resource]]
url = "https://agents.example.com/tools"

[[resource]]
url = "https://agents.example.com/shop"

[[route]]
path    = "/tools"
require = { scopes = ["connect"] }

[[route]]
path    = "/tools"
mcp     = { tool = "*" }
require = { scopes = ["call"] }

[[route]]
path    = "/tools"
mcp     = { tool = "delete_*" }
require = { scopes = ["call", "delete"] }

[[route]]
path    = "/tools"
mcp     = { tool = "run_shell" }
access  = "deny"

[[route]]
path   = "/shop"
mcp    = { method = "tools/list" }
access = "public"

[[route]]
path    = "/shop"
mcp     = { tool = "*" }
require = { any_scope = ["buy", "sell"] }

[mcp]
read_bodies = true
"#;

/// A message without a rule of its own, and the scopes that it needs.
const HELLO: (&str, &str) = (
    r#"{"jsonrpc":"2.0","id":7,"method":"initialize"}"#,
    "base connect",
);

fn to(path: &str, body: &str) -> Request {
    Request::post(path, body).header("Content-Type", "application/json")
}

#[tokio::test]
async fn a_resource_advertises_what_its_tools_need_and_one_challenge_tells_all_of_it() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(RESOURCE_RULES)
        .start()
        .await;
    let mut advertised = Vec::new();
    for (name, expected) in [
        ("tools", json!(["base", "call", "connect", "delete"])),
        ("shop", json!(["base", "buy", "sell"])),
    ] {
        let path = format!("/.well-known/oauth-protected-resource/{name}");
        let found = proxy.send(&Request::get(&path)).await.json();
        assert_eq!(found["scopes_supported"], expected, "{name}");
        advertised.push(found["scopes_supported"].clone());
    }
    let at = |name: &str| {
        Some(format!(
            "https://agents.example.com/.well-known/oauth-protected-resource/{name}"
        ))
    };
    let some = |scopes: &str| Some(scopes.to_owned());
    let mint = |scope: &str| issuer.user("auth0|alice").claim("scope", scope).mint();
    let all: Vec<&str> = advertised[0]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let all = mint(&all.join(" "));

    // A stranger is told what a first message needs, whatever it has sent.
    let none = issuer.user("auth0|alice").claim("aud", "urn:other").mint();
    let of_shop = issuer
        .user("auth0|alice")
        .claim("aud", "https://agents.example.com/shop")
        .claim("scope", "base connect call delete")
        .mint();
    let call = calling("delete_user");
    for (token, code) in [
        (None, "token_missing"),
        (Some(&none), "token_wrong_audience"),
        (Some(&of_shop), "token_wrong_audience"),
    ] {
        let mut request = to("/tools", &call);
        if let Some(token) = token {
            request = request.bearer(token);
        }
        let found = proxy.send(&request).await;
        rpc(&found, 401, code, None).expect("a refusal");
        assert_eq!(challenge(&found), Some((at("tools"), some(HELLO.1))));
    }
    // Where something is public the message is read, and tells what to ask for.
    let found = proxy.send(&to("/shop", &calling("cart"))).await;
    rpc(&found, 401, "token_missing", Some(json!(7))).expect("a refusal");
    assert_eq!(challenge(&found), Some((at("shop"), some("base buy"))));

    // Step-up: all that this message needs, at once; then it passes, and with all that is advertised too.
    let batch = format!("[{},{},{call}]", HELLO.0, calling("read"));
    let read = calling("read");
    for (body, needed, id) in [
        (HELLO.0, HELLO.1, json!(7)),
        (&read, "base call", json!(7)),
        (&call, "base call delete", json!(7)),
        (&calling("Delete_user"), "base call delete", json!(7)),
        (&batch, "base call connect delete", Value::Null),
    ] {
        for held in ["", "base", "call delete", "other"] {
            let request = to("/tools", body).bearer(&mint(held));
            let found = proxy.send(&request).await;
            rpc(&found, 403, "scope_missing", Some(id.clone())).expect(body);
            let expected = Some((at("tools"), some(needed)));
            assert_eq!(challenge(&found), expected, "{body} with {held:?}");
        }
        let before = upstream.requests();
        for token in [&mint(needed), &all] {
            let found = proxy.send(&to("/tools", body).bearer(token)).await;
            assert_eq!(found.status(), 200, "{body}: {}", found.text());
        }
        assert_eq!(upstream.requests(), before + 2);
    }
    let before = upstream.requests();
    // What the rules deny, no scope opens.
    let shell = to("/tools", &calling("run_shell")).bearer(&all);
    let found = proxy.send(&shell).await;
    rpc(&found, 403, "rule_denied", Some(json!(7))).expect("a refusal");
    assert_eq!(upstream.requests(), before);

    // Who may not ask at all is not asked for a body.
    let waiting = |host: &str, origin: &str| {
        Request::new("POST", "/tools")
            .host(Some(host))
            .header("Origin", origin)
            .header("Content-Type", "application/json")
            .header("Content-Length", "100")
            .header("Expect", "100-continue")
            .bearer(&all)
    };
    for (host, origin, status) in [
        ("evil.example", "https://agents.example.com", 421),
        ("agents.example.com", "https://evil.example", 403),
        ("agents.example.com", "https://agents.example.com", 100),
    ] {
        let mut client = waiting(host, origin).open(proxy.data).await;
        assert_eq!(client.head().await.status(), status, "{host} {origin}");
    }
    assert_eq!(upstream.requests(), before);
}

/// Where no rule is for every message, one that no rule names is for nobody.
#[tokio::test]
async fn a_message_that_no_rule_covers_is_denied() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, READ).await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let request = Request::post("/open", ping)
        .header("Content-Type", "application/json")
        .bearer(&token(&issuer, "call"));
    let found = proxy.send(&request).await;
    rpc(&found, 403, "mcp_denied", Some(json!(1))).expect("a refusal");
    assert_eq!(upstream.requests(), 0);
}

const FILTER: &str = "[mcp]\nread_bodies = true\nfilter_tools = true\n";

const TOOLS: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"read","x":1.50},{"name":"delete_user"},{"name":"run_shell"},{"name":"\u0064elete_all"}, {"name":"write"}],"nextCursor":"p2"}}"#;

const CALLABLE: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"read","x":1.50},{"name":"write"}],"nextCursor":"p2"}}"#;

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

fn json_answer(fields: &[(&str, &str)], body: &str) -> Reply {
    let mut all = vec![("Content-Type", "application/json")];
    all.extend_from_slice(fields);
    Reply::Bytes(response("200 OK", &all, body))
}

#[tokio::test]
async fn a_caller_sees_the_tools_that_it_may_call() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| json_answer(&[("ETag", "\"1\"")], TOOLS));
    let proxy = start(&issuer, &upstream, FILTER).await;
    let mirrored = older(LIST)
        .header("MCP-Protocol-Version", NEW)
        .header("Mcp-Method", "tools/list");
    let batch = format!(r#"[{{"jsonrpc":"2.0","id":1,"method":"ping"}},{LIST}]"#);
    let odd = LIST.replace("tools/list", "Tools\\/List");
    for request in [older(LIST), mirrored, older(&batch), older(&odd)] {
        let request = request
            .header("Accept-Encoding", "gzip, br")
            .header("Range", "bytes=5-");
        for (scope, expected) in [
            ("call", CALLABLE.to_owned()),
            (
                "call delete",
                TOOLS
                    .replace(r#"{"name":"run_shell"},"#, "")
                    .replace(", {", ",{"),
            ),
            (
                "",
                r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"nextCursor":"p2"}}"#.to_owned(),
            ),
        ] {
            let found = proxy
                .send(&request.clone().bearer(&token(&issuer, scope)))
                .await;
            assert_eq!(found.text(), expected, "{scope}");
            assert_eq!(found.header("etag"), None);
            let reached = upstream.next().await;
            assert_eq!(reached.head.all("accept-encoding"), ["identity"]);
            assert_eq!(reached.head.get("range"), None);
        }
    }
    // Whatever was asked for, as far as anybody knows.
    let other = older(&calling("read")).header("Accept-Encoding", "gzip");
    let other = other.bearer(&token(&issuer, "call"));
    assert_eq!(proxy.send(&other).await.text(), CALLABLE);
    let reached = upstream.next().await;
    assert_eq!(reached.head.all("accept-encoding"), ["identity"]);
}

/// What a server says of how long, and for whom, an answer may be kept.
fn hinted(result: &str, time: &str, scope: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{{result}"ttlMs":{time},"cacheScope":{scope}}}}}"#
    )
}

/// The time that an answer may be kept, if everything else is as expected.
fn time_kept(text: &str, result: &str) -> Option<i64> {
    let found: Value = serde_json::from_str(text).ok()?;
    let time = found["result"]["ttlMs"].as_i64()?;
    (text == hinted(result, &time.to_string(), "\"private\"")).then_some(time)
}

#[tokio::test]
async fn what_may_be_kept_is_kept_by_its_caller_for_the_life_of_its_token() {
    const OF_OTHERS: &str =
        r#""content":[],"structuredContent":{"cacheScope":"public","ttlMs":86400000},"#;
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| {
        let answer = hinted(OF_OTHERS, "86400000", "\"public\"");
        if head.get("x-case") == Some("events") {
            let kind = [("Content-Type", "text/event-stream")];
            let event = format!("id: 1\ndata: {answer}\n\n");
            return Reply::Bytes(response("200 OK", &kind, &event));
        }
        json_answer(&[("ETag", "\"1\"")], &answer)
    });
    let proxy = start(&issuer, &upstream, FILTER).await;
    let end = now() + 1000;
    let caller = issuer.user("auth0|alice").claim("scope", "call");
    let caller = caller.claim("exp", end).mint();
    let mut findings = Findings::default();
    for (method, params) in [
        ("tools/list", json!({})),
        ("prompts/list", json!({})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("server/discover", json!({})),
        ("resources/read", json!({ "uri": "file:///a" })),
        ("Tools/List", json!({})),
        // No result of these is kept, and what is there all the same says so.
        ("tools/call", json!({ "name": "read" })),
        ("ping", json!({})),
    ] {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        for case in ["json", "events"] {
            let request = older(&body.to_string()).header("X-Case", case);
            let latest = (end - now()) * 1000;
            let found = proxy.send(&request.bearer(&caller)).await;
            let earliest = (end - now() - 1) * 1000;
            let text = found.text();
            let text = match text
                .strip_prefix("data: ")
                .or(text.strip_prefix("id: 1\ndata: "))
            {
                Some(event) => event.lines().next().unwrap_or_default(),
                None => &text,
            };
            let time = time_kept(text, OF_OTHERS);
            let is_left = time.is_some_and(|time| (earliest..=latest).contains(&time));
            findings.check(&format!("{method} {case}"), is_left, || {
                format!("not within {earliest}..={latest}: {}", found.text())
            });
            findings.check(method, found.header("etag").is_none(), || {
                "an ETag".to_owned()
            });
        }
    }
    findings.assert_none();
}

#[tokio::test]
async fn each_event_is_kept_for_what_is_left_of_the_token_then() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::events());
    let proxy = start(&issuer, &upstream, FILTER).await;
    let end = now() + 1000;
    let caller = issuer.user("auth0|alice").claim("exp", end).mint();
    let mut client = Request::get("/mcp").bearer(&caller).open(proxy.data).await;
    let exchange = upstream.next().await;
    client.head().await;
    let mut last = i64::MAX;
    // Until a second is over, however many events it takes.
    let begun = now();
    while now() <= begun + 1 {
        exchange.send(&format!(
            "data: {}\n\n",
            hinted("", "86400000", "\"public\"")
        ));
        let latest = (end - now()) * 1000;
        let mut found = client.data().await;
        while !found.ends_with("\n\n") {
            found += &client.data().await;
        }
        let text = found.strip_prefix("data: ").expect(&found).trim_end();
        let time = time_kept(text, "").expect(text);
        let earliest = (end - now() - 1) * 1000;
        assert!((earliest..=latest.min(last)).contains(&time), "{time}");
        last = time;
    }
    assert!(last < 1_000_000);
}

#[tokio::test]
async fn a_caller_without_a_token_keeps_what_it_gets_for_itself() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| json_answer(&[], &hinted("", "86400000", "\"public\"")));
    let proxy = start(&issuer, &upstream, FILTER).await;
    let list = Request::post("/open", LIST).header("Content-Type", "application/json");
    let found = proxy.send(&list).await;
    assert_eq!(found.text(), hinted("", "86400000", "\"private\""));
    // With one it counts there too.
    let caller = issuer.user("auth0|alice").claim("exp", now() + 1000).mint();
    let found = proxy.send(&list.bearer(&caller)).await;
    assert!(time_kept(&found.text(), "").is_some_and(|time| time <= 1_000_000));
}

#[tokio::test]
async fn an_answer_that_has_no_lists_passes_even_if_it_cannot_be_read() {
    let issuer = Issuer::start();
    let long = format!(
        r#"{{"jsonrpc":"2.0","id":7,"result":{{"text":"{}"}}}}"#,
        "x".repeat(5 << 20)
    );
    let answers = vec![
        (
            "twice",
            "application/json",
            r#"{"result":{"a":1,"a":2}}"#.to_owned(),
        ),
        (
            "half",
            "application/json",
            r#"{"result":{"tools":["#.to_owned(),
        ),
        ("long", "application/json", long.clone()),
        ("text", "text/plain", "hello".to_owned()),
        ("gzip", "application/json", "not JSON".to_owned()),
        (
            "events",
            "text/event-stream",
            format!("data: {long}\n\ndata: [DONE]\n\ndata: {{}}\n\n"),
        ),
    ];
    let served = answers.clone();
    let upstream = Upstream::start(move |head| {
        let case = head.get("x-case").unwrap_or_default();
        let (_, kind, text) = served.iter().find(|(name, ..)| *name == case).expect(case);
        let mut fields = vec![("Content-Type", *kind), ("ETag", "\"1\"")];
        if case == "gzip" {
            fields.push(("Content-Encoding", "gzip"));
        }
        Reply::Bytes(response("200 OK", &fields, text))
    });
    let proxy = start(&issuer, &upstream, FILTER).await;
    let caller = token(&issuer, "call");
    let mut findings = Findings::default();
    for (case, _, text) in &answers {
        let call = older(&calling("read"))
            .header("X-Case", case)
            .bearer(&caller);
        let found = proxy.send(&call).await;
        let is_same = found.status() == 200 && found.text() == *text;
        let shown = || format!("{:?}, {} bytes", found.head, found.body.len());
        findings.check(
            case,
            is_same && found.header("etag") == Some("\"1\""),
            shown,
        );
    }
    findings.assert_none();
}

/// What one process may take, as `limits.memory` of config/kubernetes.yaml says.
fn limit_memory(proxy: &Proxy) {
    let id = i32::try_from(proxy.id()).ok().and_then(Pid::from_raw);
    let limit = Some(128 << 20);
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    prlimit(Some(id.expect("a process")), Resource::Data, limit).expect("a limit");
}

/// Items that take many times their own length when they are built, and one that does not.
const COSTLY: [&str; 6] = [
    "0",
    "[0]",
    r#"{"":0}"#,
    r#"{"":{"":{"":{"":0}}}}"#,
    r#"{"a":[],"b":{},"c":[{}]}"#,
    r#""x""#,
];

/// An array of such items, so that the whole has this length at most.
fn costly(begin: &str, item: &str, end: &str, length: usize) -> String {
    let count = (length - begin.len() - end.len()) / (item.len() + 1);
    format!("{begin}[{}]{end}", vec![item; count - 1].join(","))
}

#[tokio::test]
async fn a_message_takes_the_memory_of_its_length() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, READ).await;
    limit_memory(&proxy);
    let (caller, stranger) = (token(&issuer, "call"), token(&issuer, ""));
    let members: Vec<String> = (0..90_000).map(|one| format!("\"{one:x}\":0")).collect();
    let wide = format!("[{{{}}}", members.join(","));
    let mut findings = Findings::default();
    for item in COSTLY.iter().copied().chain([wide.as_str()]) {
        let begin = calling("read");
        let begin = begin.strip_suffix("}}").expect("its end");
        let body = costly(
            &format!("{begin},\"arguments\":{{\"a\":"),
            item,
            "}}}",
            1 << 20,
        );
        let body = if item == wide {
            format!("{begin},\"arguments\":{wide}]}}}}")
        } else {
            body
        };
        let case = &item[..item.len().min(30)];
        // Whoever may not call is told so, and whoever may is served.
        let request = older(&body);
        let found = proxy.send(&request.clone().bearer(&stranger)).await;
        findings.add(case, rpc(&found, 403, "scope_missing", Some(json!(7))));
        let found = proxy.send(&request.bearer(&caller)).await;
        findings.check(case, found.status() == 200, || outcome(&found));
    }
    findings.assert_none();
    proxy.ready().await;
}

#[tokio::test]
async fn an_answer_takes_the_memory_of_its_length() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| {
        let place: usize = head
            .get("x-case")
            .and_then(|one| one.parse().ok())
            .expect("a place");
        let tools = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"run_shell"}],"x":"#;
        let answer = costly(tools, COSTLY[place], "}}", (4 << 20) - 16);
        if head.method() == "GET" {
            let kind = [("Content-Type", "text/event-stream")];
            return Reply::Bytes(response("200 OK", &kind, &format!("data: {answer}\n\n")));
        }
        json_answer(&[], &answer)
    });
    let proxy = start(&issuer, &upstream, FILTER).await;
    limit_memory(&proxy);
    let caller = token(&issuer, "call");
    let mut findings = Findings::default();
    for (place, item) in COSTLY.iter().enumerate() {
        for request in [older(LIST), Request::get("/mcp")] {
            let request = request.header("X-Case", &place.to_string());
            let found = proxy.send(&request.bearer(&caller)).await;
            let text = found.text();
            let is_filtered = text.contains(r#""tools":[],"x":["#) && text.len() > (4 << 20) - 100;
            let shown = || format!("{:?}, {} bytes", found.head, text.len());
            findings.check(item, found.status() == 200 && is_filtered, shown);
        }
    }
    findings.assert_none();
    proxy.ready().await;
}

#[tokio::test]
async fn without_the_switch_or_the_rules_nothing_is_filtered() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| json_answer(&[], TOOLS));
    for (rest, path) in [(READ, "/mcp"), (FILTER, "/elsewhere")] {
        let proxy = start(&issuer, &upstream, rest).await;
        let list = Request::post(path, LIST)
            .header("Content-Type", "application/json")
            .bearer(&token(&issuer, ""));
        assert_eq!(proxy.send(&list).await.text(), TOOLS, "{path}");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_filtered_is_not_passed_on() {
    let issuer = Issuer::start();
    let big = format!("{}{}", TOOLS, " ".repeat(4 * 1024 * 1024));
    let upstream = Upstream::start(move |head| {
        let json = |text: &str| json_answer(&[], text);
        match head.get("x-case").unwrap_or_default() {
            "half" => json(&TOOLS[..TOOLS.len() - 1]),
            "twice" => json(r#"{"result":{},"result":{"tools":[{"name":"run_shell"}]}}"#),
            "names" => json(r#"{"result":{"tools":[{"name":"read","name":"run_shell"}]}}"#),
            "object" => json(r#"{"result":{"tools":{"run_shell":{}}}}"#),
            "lines" => json("{}\n{}"),
            "gzip" => json_answer(&[("Content-Encoding", "gzip")], TOOLS),
            "text" => Reply::Bytes(response("200 OK", &[("Content-Type", "text/plain")], TOOLS)),
            "none" => Reply::Bytes(response("200 OK", &[], TOOLS)),
            "both" => json_answer(&[("Content-Type", "text/plain")], TOOLS),
            "big" => json(&big),
            "error" => Reply::Bytes(response(
                "500 Oops",
                &[("Content-Type", "text/plain")],
                "no",
            )),
            "empty" => Reply::Bytes(response("202 Accepted", &[], "")),
            "rpc" => json(r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}"#),
            other => panic!("{other}"),
        }
    });
    let proxy = start(&issuer, &upstream, FILTER).await;
    let caller = token(&issuer, "call");
    let mut findings = Findings::default();
    for case in [
        "half", "twice", "names", "object", "lines", "gzip", "text", "none", "both", "big",
    ] {
        let found = proxy
            .send(&older(LIST).header("X-Case", case).bearer(&caller))
            .await;
        findings.add(
            case,
            rpc(&found, 502, "mcp_answer_unreadable", Some(json!(1))),
        );
        let shown = found.text().contains("run_shell");
        findings.check(case, !shown, || found.text());
    }
    for (case, status, text) in [
        ("error", 500, "no"),
        ("empty", 202, ""),
        (
            "rpc",
            200,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}"#,
        ),
    ] {
        let found = proxy
            .send(&older(LIST).header("X-Case", case).bearer(&caller))
            .await;
        findings.check(
            case,
            found.status() == status && found.text() == text,
            || found.text(),
        );
    }
    findings.assert_none();
}

#[tokio::test]
async fn events_pass_as_they_come_and_lists_in_them_are_filtered() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::events());
    let proxy = start(&issuer, &upstream, FILTER).await;
    let caller = token(&issuer, "call");
    for request in [older(LIST), Request::get("/mcp")] {
        let mut client = request.bearer(&caller).open(proxy.data).await;
        let exchange = upstream.next().await;
        assert_eq!(
            client.head().await.get("content-type"),
            Some("text/event-stream")
        );
        for event in [
            ": ping\n\n",
            "id: 1\r\ndata:\r\n\r\n",
            "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n",
        ] {
            exchange.send(event);
            let mut found = String::new();
            while found.len() < event.len() {
                found += &client.data().await;
            }
            assert_eq!(found, event);
        }
        // However the event is cut.
        let event = format!("event: message\nid: 7\ndata: {TOOLS}\n\n");
        let expected = format!("event: message\nid: 7\ndata: {CALLABLE}\n\n");
        for byte in event.chars() {
            exchange.send(&byte.to_string());
        }
        let mut found = String::new();
        while found.len() < expected.len() {
            found += &client.data().await;
        }
        assert_eq!(found, expected);
        exchange.send(": still here\n");
        assert_eq!(client.data().await, ": still here\n");
        // What cannot be read breaks off, and not as if it were the end.
        exchange.send("data: {\"result\":{\"tools\":[{\"name\":\"run_shell\"}]}\n\n");
        assert!(client.body().await.is_err());
        exchange.closed().await;
    }
}

#[tokio::test]
async fn the_rules_of_the_moment_filter() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::events());
    let setup = |rules: &str| Setup::new(&issuer, &upstream).rest(&format!("{rules}{FILTER}"));
    let proxy = setup(RULES).start().await;
    let mut client = older(LIST)
        .bearer(&token(&issuer, "call"))
        .open(proxy.data)
        .await;
    let exchange = upstream.next().await;
    client.head().await;
    let event = format!("data: {TOOLS}\n\n");
    exchange.send(&event);
    assert_eq!(client.data().await, format!("data: {CALLABLE}\n\n"));
    let closed = RULES.replace("scopes = [\"call\"]", "scopes = [\"never\"]");
    proxy.reload(&setup(&closed)).await;
    exchange.send(&event);
    let nothing = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"nextCursor":"p2"}}"#;
    assert_eq!(client.data().await, format!("data: {nothing}\n\n"));
}

#[tokio::test]
async fn no_websocket_carries_messages_past_the_rules() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::WebSocket);
    let proxy = start(&issuer, &upstream, "").await;
    let caller = token(&issuer, "call");
    let found = proxy
        .send(&Request::get("/mcp").websocket().bearer(&caller))
        .await;
    assert_own(&found, 400, "mcp_unreadable");
    assert_eq!(upstream.requests(), 0);
}

const KEY: &str = "k0123456789abcdef0123456789abcdef";
const OLD_KEY: &str = "o0123456789abcdef0123456789abcdef";

/// A server that opens a session for whoever asks for it, and one whose id is `bad`.
fn session_server() -> Upstream {
    Upstream::start(|head| {
        let id = match head.target() {
            "/mcp/spaces" => "a b",
            "/mcp/long" => return json_answer(&[("Mcp-Session-Id", &"x".repeat(2049))], "{}"),
            "/mcp/twice" => {
                return json_answer(&[("Mcp-Session-Id", "a"), ("Mcp-Session-Id", "b")], "{}");
            }
            _ => "s-1.2",
        };
        json_answer(&[("Mcp-Session-Id", id)], "{}")
    })
}

async fn with_key(issuer: &Issuer, upstream: &Upstream, keys: &str) -> Proxy {
    crate::issuer::secrets::note(keys);
    Setup::new(issuer, upstream)
        .rest("[[route]]\npath = \"/open\"\naccess = \"public\"\n")
        .environment("AUTHGATE_MCP_SESSION_KEY", keys)
        .start()
        .await
}

/// The id that a client is given.
async fn opened(proxy: &Proxy, request: &Request) -> String {
    let found = proxy.send(request).await;
    assert_eq!(found.status(), 200, "{}", found.text());
    let id = found.header("mcp-session-id").expect("a session");
    assert!(id.starts_with("s-1.2."), "{id}");
    id.to_owned()
}

#[tokio::test]
async fn a_session_is_for_whom_it_was_opened() {
    let issuer = Issuer::start();
    let upstream = session_server();
    let proxy = with_key(&issuer, &upstream, KEY).await;
    let alice = || issuer.user("auth0|alice");
    let open = |token: &str| Request::post("/mcp", "{}").bearer(token);
    let id = opened(&proxy, &open(&alice().mint())).await;
    upstream.next().await;
    // Another token of the same caller is as good.
    for method in ["POST", "GET", "DELETE"] {
        let request = Request::new(method, "/mcp").header("Mcp-Session-Id", &id);
        let found = proxy
            .send(&request.bearer(&alice().claim("jti", method).mint()))
            .await;
        assert_eq!(found.status(), 200, "{method}");
        let reached = upstream.next().await;
        assert_eq!(reached.head.all("mcp-session-id"), ["s-1.2"]);
    }
    let seen = upstream.requests();
    let mut findings = Findings::default();
    for (case, who) in [
        ("bob", issuer.user("auth0|bob")),
        ("another client", alice().claim("azp", "another")),
        ("a machine", issuer.machine("robot")),
    ] {
        let request = open(&who.mint()).header("Mcp-Session-Id", &id);
        findings.add(
            case,
            own(&proxy.send(&request).await, 404, "mcp_session_unknown"),
        );
    }
    let (server, seal) = id.rsplit_once('.').expect("a seal");
    let cut = &id[..id.len() - 1];
    let wrapped = format!("{id}.{seal}");
    let other = format!("s-2.{seal}");
    for (case, fields) in [
        ("bare", vec![("Mcp-Session-Id", server)]),
        ("cut", vec![("Mcp-Session-Id", cut)]),
        ("twice sealed", vec![("Mcp-Session-Id", wrapped.as_str())]),
        ("another session", vec![("Mcp-Session-Id", other.as_str())]),
        ("empty", vec![("Mcp-Session-Id", "")]),
        (
            "twice",
            vec![
                ("Mcp-Session-Id", id.as_str()),
                ("Mcp-Session-Id", id.as_str()),
            ],
        ),
        ("a spelling", vec![("Mcp_Session_Id", server)]),
        (
            "a spelling beside",
            vec![("Mcp-Session-Id", id.as_str()), ("Mcp_Session_Id", server)],
        ),
        (
            "no revision",
            vec![("Mcp-Session-Id", server), ("MCP-Protocol-Version", "next")],
        ),
        (
            "an old revision",
            vec![
                ("Mcp-Session-Id", server),
                ("MCP-Protocol-Version", "2025-11-25"),
            ],
        ),
    ] {
        let mut request = open(&alice().mint());
        for (name, value) in fields {
            request = request.header(name, value);
        }
        findings.add(
            case,
            own(&proxy.send(&request).await, 404, "mcp_session_unknown"),
        );
    }
    findings.assert_none();
    // Without a token there is no session to speak of.
    let stranger = Request::post("/mcp", "{}").header("Mcp-Session-Id", &id);
    assert_own(&proxy.send(&stranger).await, 401, "token_missing");
    assert_eq!(upstream.requests(), seen);

    // Nobody is one caller, and not alice.
    let nobody = opened(&proxy, &Request::post("/open", "{}")).await;
    let again = Request::post("/open", "{}").header("Mcp-Session-Id", &nobody);
    assert_eq!(proxy.send(&again).await.status(), 200);
    let hers = again.clone().bearer(&alice().mint());
    assert_own(&proxy.send(&hers).await, 404, "mcp_session_unknown");

    for path in ["/mcp/spaces", "/mcp/long", "/mcp/twice"] {
        let found = proxy
            .send(&Request::post(path, "{}").bearer(&alice().mint()))
            .await;
        assert_own(&found, 502, "mcp_answer_unreadable");
    }
    proxy.assert_kept_secrets();
}

#[tokio::test]
async fn replicas_and_restarts_know_a_session() {
    let issuer = Issuer::start();
    let upstream = session_server();
    let open = Request::post("/mcp", "{}").bearer(&issuer.user("auth0|alice").mint());
    let old = with_key(&issuer, &upstream, OLD_KEY).await;
    let id = opened(&old, &open).await;
    drop(old);
    let both = format!("{KEY},{OLD_KEY}");
    for (keys, status) in [(OLD_KEY, 200), (both.as_str(), 200), (KEY, 404)] {
        let proxy = with_key(&issuer, &upstream, keys).await;
        let found = proxy
            .send(&open.clone().header("Mcp-Session-Id", &id))
            .await;
        assert_eq!(found.status(), status, "{keys}");
        if status == 200 {
            // It goes on with the key of the moment.
            let renewed = found.header("mcp-session-id").expect("a session");
            assert_eq!(renewed == id, keys == OLD_KEY);
        }
    }
}

#[tokio::test]
async fn without_a_key_a_session_is_nobody_s() {
    let issuer = Issuer::start();
    let upstream = session_server();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let request = Request::post("/mcp", "{}")
        .header("Mcp-Session-Id", "s-1.2")
        .bearer(&issuer.user("auth0|alice").mint());
    let found = proxy.send(&request).await;
    assert_eq!(found.header("mcp-session-id"), Some("s-1.2"));
    assert_eq!(
        upstream.next().await.head.get("mcp-session-id"),
        Some("s-1.2")
    );
}

#[tokio::test]
async fn where_sessions_are_no_more_the_id_goes_nowhere() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = with_key(&issuer, &upstream, KEY).await;
    let request = Request::post("/mcp", "{}")
        .header("MCP-Protocol-Version", NEW)
        .header("Mcp-Session-Id", "s-1")
        .header("mcp_session_id", "s-1")
        .bearer(&issuer.user("auth0|alice").mint());
    assert_eq!(proxy.send(&request).await.status(), 200);
    let reached = upstream.next().await;
    assert_eq!(reached.head.get("mcp-session-id"), None);
    assert_eq!(reached.head.get("mcp_session_id"), None);
}

#[tokio::test]
async fn keys_in_a_file_are_read_again_and_a_bad_file_is_78() {
    let issuer = Issuer::start();
    let upstream = session_server();
    let directory = tempfile::TempDir::new().expect("a directory");
    let file = directory.path().join("keys");
    std::fs::write(&file, format!("{OLD_KEY}\n")).expect("a file");
    let setup = || {
        let line = format!("[mcp]\nsession_key_file = \"{}\"\n", file.display());
        Setup::new(&issuer, &upstream).rest(&line)
    };
    let proxy = setup().start().await;
    let open = Request::post("/mcp", "{}").bearer(&issuer.user("auth0|alice").mint());
    let id = opened(&proxy, &open).await;
    std::fs::write(&file, format!("{KEY}\n{OLD_KEY}\n")).expect("a file");
    proxy.reload(&setup()).await;
    let renewed = opened(&proxy, &open.clone().header("Mcp-Session-Id", &id)).await;
    assert_ne!(renewed, id);
    std::fs::write(&file, format!("{KEY}\n")).expect("a file");
    proxy.reload(&setup()).await;
    let gone = proxy
        .send(&open.clone().header("Mcp-Session-Id", &id))
        .await;
    assert_own(&gone, 404, "mcp_session_unknown");
    opened(&proxy, &open.clone().header("Mcp-Session-Id", &renewed)).await;

    for text in [None, Some("short\n"), Some("\n")] {
        match text {
            None => std::fs::remove_file(&file).expect("a file"),
            Some(text) => std::fs::write(&file, text).expect("a file"),
        }
        let configuration = directory.path().join("authgate.toml");
        std::fs::write(&configuration, setup().text()).expect("a file");
        for command in ["check", "run"] {
            let mut program = crate::support::proxy::program();
            program.arg(command).arg("--config").arg(&configuration);
            program.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
            let output = crate::support::proxy::run_to_end(program, "").await;
            assert_eq!(output.status.code(), Some(78), "{command} {text:?}");
            let told = String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout);
            assert!(told.contains("mcp.session_key_file"), "{told}");
        }
    }
}

#[tokio::test]
async fn messages_over_http_2_are_read_too() {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};

    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| json_answer(&[], TOOLS));
    let proxy = start(&issuer, &upstream, FILTER).await;
    let caller = token(&issuer, "call");
    let mut client = crate::support::h2::H2::connect(proxy.data).await;
    let request = |body: &str| {
        http::Request::post("http://agents.example.com/mcp")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {caller}"))
            .body(Full::new(Bytes::from(body.to_owned())))
            .expect("a request")
    };
    for (body, status, text) in [
        (LIST.to_owned(), 200, CALLABLE),
        (calling("read"), 200, CALLABLE),
        (calling("run_shell"), 403, "rule_denied"),
        (String::new(), 400, "mcp_unreadable"),
    ] {
        let answer = client.send(request(&body)).await;
        assert_eq!(answer.status(), status, "{body}");
        let found = answer
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        let found = String::from_utf8_lossy(&found);
        assert!(found.contains(text), "{body}: {found}");
    }
    assert_eq!(upstream.requests(), 2);
}
