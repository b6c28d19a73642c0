//! authgate's own answers, and what a browser may make of them.

use crate::issuer::Issuer;
use crate::support::upstream::response;
use crate::support::{Client, Findings, Reply, Request, Response, Setup, Upstream, assert_own};

const PAGE: &str = "https://app.example.com";
const EXPOSED: [&str; 5] = [
    "WWW-Authenticate",
    "Mcp-Session-Id",
    "DPoP-Nonce",
    "Retry-After",
    "X-Request-Id",
];

fn preflight(path: &str, origin: &str) -> Request {
    Request::new("OPTIONS", path)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header(
            "Access-Control-Request-Headers",
            "authorization,content-type",
        )
}

/// The members of a comma-separated field, in lower case.
fn list(response: &Response, name: &str) -> Vec<String> {
    let values = response.head.all(name).join(",");
    values
        .split(',')
        .map(|member| member.trim().to_ascii_lowercase())
        .collect()
}

fn is_readable_by(response: &Response, origin: &str) -> Result<(), String> {
    let allowed = response.header("access-control-allow-origin");
    if ![Some(origin), Some("*")].contains(&allowed) {
        return Err(format!("access-control-allow-origin is {allowed:?}"));
    }
    if allowed == Some(origin) && !list(response, "vary").contains(&"origin".to_owned()) {
        return Err("no Vary: Origin".to_owned());
    }
    let exposed = list(response, "access-control-expose-headers");
    for name in EXPOSED {
        if !exposed.contains(&name.to_ascii_lowercase()) {
            return Err(format!("{name} is not exposed: {exposed:?}"));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_page_can_read_why_it_was_refused() {
    let issuer = Issuer::start();
    let mut upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[[route]]\npath = \"/closed\"\naccess = \"deny\"")
        .rest("[[route]]\npath = \"/get\"\nmethods = [\"GET\"]")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    upstream.go_down().await;
    let mut findings = Findings::default();
    for (path, method, bearer, status) in [
        ("/x", "GET", None, 401),
        ("/x", "GET", Some("a.b"), 401),
        ("/x", "GET", Some("a b"), 400),
        ("/%zz", "GET", Some(token.as_str()), 400),
        ("/closed", "GET", Some(token.as_str()), 403),
        ("/get", "POST", Some(token.as_str()), 405),
        ("/x", "GET", Some(token.as_str()), 502),
    ] {
        let mut request = Request::new(method, path).header("Origin", PAGE);
        if let Some(bearer) = bearer {
            request = request.bearer(bearer);
        }
        let answer = proxy.send(&request).await;
        let case = format!("{method} {path}");
        findings.check(&case, answer.status() == status, || {
            answer.head.first_line.clone()
        });
        findings.add(&case, is_readable_by(&answer, PAGE));
    }
    findings.assert_none();
    let without_page = proxy.send(&Request::get("/x")).await;
    assert_eq!(without_page.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_preflight_goes_to_the_upstream_without_a_token() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| {
        let fields = [
            ("Access-Control-Allow-Origin", PAGE),
            ("Access-Control-Max-Age", "3600"),
        ];
        Reply::Bytes(response("204 No Content", &fields, ""))
    });
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let spoofed = preflight("/api/agents", PAGE).header("X_Forwarded_User", "mallory");
    let answer = proxy.send(&spoofed).await;
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
    assert_eq!(answer.header("access-control-max-age"), Some("3600"));
    let head = upstream.next().await.head;
    assert_eq!(head.first_line, "OPTIONS /api/agents HTTP/1.1");
    assert_eq!(head.get("origin"), Some(PAGE));
    assert_eq!(head.all("x_forwarded_user"), Vec::<&str>::new());
    assert_eq!(head.all("x-forwarded-user"), Vec::<&str>::new());
}

#[tokio::test]
async fn only_a_genuine_preflight_needs_no_token() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let origin = ("Origin", PAGE);
    let method = ("Access-Control-Request-Method", "POST");
    for (verb, fields) in [
        ("OPTIONS", &[][..]),
        ("OPTIONS", &[origin]),
        ("OPTIONS", &[method]),
        ("GET", &[origin, method]),
        ("POST", &[origin, method]),
    ] {
        let request = fields
            .iter()
            .fold(Request::new(verb, "/x"), |request, (name, value)| {
                request.header(name, value)
            });
        let answer = proxy.send(&request).await;
        assert_own(&answer, 401, "token_missing");
    }
    for request in [
        Request::new("options", "/x")
            .header(origin.0, origin.1)
            .header(method.0, method.1),
        // A method that is not served is not asked about either.
        Request::new("OPTIONS", "/x")
            .header(origin.0, origin.1)
            .header(method.0, "patch"),
        Request::new("OPTIONS", "/x")
            .header(origin.0, origin.1)
            .header(method.0, "trace"),
    ] {
        assert_own(&proxy.send(&request).await, 501, "method_not_served");
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_refusal_of_a_head_request_has_no_body() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let mut client = Client::connect(proxy.data).await;
    let answer = client.request(&Request::new("HEAD", "/x")).await;
    assert_eq!(answer.status(), 401);
    assert!(answer.header("www-authenticate").is_some());
    // The connection is in step: what follows is the next answer.
    assert_own(
        &client.request(&Request::get("/x")).await,
        401,
        "token_missing",
    );
}

#[tokio::test]
async fn a_refusal_keeps_the_connection_and_its_id_leads_to_the_log() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let mut client = Client::connect(proxy.data).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let answer = client.request(&Request::get("/x")).await;
        assert_own(&answer, 401, "token_missing");
        ids.push(
            answer.json()["request_id"]
                .as_str()
                .expect("an id")
                .to_owned(),
        );
    }
    for id in &ids {
        let line = proxy
            .event("the refusal", |event| {
                event["message"] == "request" && event["request_id"] == id.as_str()
            })
            .await;
        assert_eq!(line["code"], "token_missing");
        assert_eq!(line["outcome"], "refused");
        assert_eq!(line["status"], 401);
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn an_own_answer_says_nothing_of_the_token() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer
        .user("auth0|very-private")
        .claim("aud", "https://very-private.example")
        .header("kid", "very-private-kid")
        .mint();
    let wrong_audience = issuer
        .user("auth0|very-private")
        .claim("aud", "https://very-private.example")
        .mint();
    for token in [token, wrong_audience] {
        let answer = proxy.send(&Request::get("/x").bearer(&token)).await;
        assert_eq!(answer.status(), 401);
        let whole = format!(
            "{}{}",
            String::from_utf8_lossy(&answer.head.raw),
            answer.text()
        );
        assert!(!whole.contains("very-private"), "{whole}");
        assert!(!whole.contains("your-api.com"), "{whole}");
    }
}

#[tokio::test]
async fn configured_origins_are_answered_here() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| {
        let fields = [
            ("Access-Control-Allow-Origin", "*"),
            ("Access-Control-Allow-Credentials", "true"),
            ("Access-Control-Expose-Headers", "X-Upstream"),
        ];
        Reply::Bytes(response("200 OK", &fields, "hello"))
    });
    let proxy = Setup::new(&issuer, &upstream)
        .rest(&format!(
            "[cors]\norigins = [\"{PAGE}\", \"http://localhost:3000\"]\nexpose_headers = [\"X-Own\"]"
        ))
        .start()
        .await;
    for origin in [PAGE, "http://localhost:3000"] {
        let answer = proxy.send(&preflight("/x", origin)).await;
        assert!(
            [200, 204].contains(&answer.status()),
            "{}",
            answer.head.first_line
        );
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(answer.header("access-control-max-age"), Some("7200"));
        let methods = list(&answer, "access-control-allow-methods");
        assert!(methods.contains(&"post".to_owned()), "{methods:?}");
        let names = list(&answer, "access-control-allow-headers");
        for name in [
            "authorization",
            "content-type",
            "mcp-session-id",
            "mcp-protocol-version",
            "a2a-version",
            "traceparent",
        ] {
            assert!(
                names.contains(&name.to_owned()),
                "{name} is not in {names:?}"
            );
        }
    }
    // Chromium sent this field for a time. It asks for nothing that would need an answer.
    let private = preflight("/x", PAGE).header("Access-Control-Request-Private-Network", "true");
    let answer = proxy.send(&private).await;
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
    assert_eq!(answer.header("access-control-allow-private-network"), None);
    assert_eq!(upstream.requests(), 0);

    let token = issuer.user("auth0|alice").mint();
    let answer = proxy
        .send(&Request::get("/x").header("Origin", PAGE).bearer(&token))
        .await;
    assert_eq!(answer.status(), 200);
    is_readable_by(&answer, PAGE).expect("readable");
    assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    let exposed = list(&answer, "access-control-expose-headers");
    for name in ["x-upstream", "x-own", "www-authenticate"] {
        assert!(exposed.contains(&name.to_owned()), "{name}: {exposed:?}");
    }
    let refused = proxy.send(&Request::get("/x").header("Origin", PAGE)).await;
    is_readable_by(&refused, PAGE).expect("readable");

    // What a cache keeps of a request without an origin is not for a page.
    let answer = proxy.send(&Request::get("/x").bearer(&token)).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(list(&answer, "vary"), ["origin"]);
}

#[tokio::test]
async fn foreign_origins_get_no_leave() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| {
        Reply::Bytes(response(
            "200 OK",
            &[("Access-Control-Allow-Origin", "*")],
            "hello",
        ))
    });
    let cors = format!("[cors]\norigins = [\"{PAGE}\"]");
    let token = issuer.user("auth0|alice").mint();
    let from = |origin: &str| Request::get("/x").header("Origin", origin).bearer(&token);

    let proxy = Setup::new(&issuer, &upstream).rest(&cors).start().await;
    for origin in [
        "https://evil.example",
        "https://app.example.com.evil.example",
        "http://app.example.com",
        "null",
    ] {
        let answer = proxy.send(&from(origin)).await;
        assert_eq!(answer.status(), 200, "{origin}");
        assert_eq!(
            answer.header("access-control-allow-origin"),
            None,
            "{origin}"
        );
        let answer = proxy.send(&preflight("/x", origin)).await;
        assert_eq!(
            answer.header("access-control-allow-origin"),
            None,
            "{origin}"
        );
    }

    let strict = Setup::new(&issuer, &upstream)
        .rest(&cors)
        .rest("enforce_origin = true")
        .start()
        .await;
    assert_eq!(
        strict.send(&from("https://evil.example")).await.status(),
        403
    );
    assert_eq!(strict.send(&from(PAGE)).await.status(), 200);
    // No browser, no origin.
    assert_eq!(
        strict
            .send(&Request::get("/x").bearer(&token))
            .await
            .status(),
        200
    );
}

/// Previews of a page have another origin each.
#[tokio::test]
async fn origins_can_be_patterns() {
    const FITS: &str = "https://app-git-main-team.vercel.app";
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/ws" => Reply::WebSocket,
        _ => Reply::ok("hello"),
    });
    let cors = format!(
        "[cors]\norigins = [\"{PAGE}\", \"https://app-*-team.vercel.app\", \"http://localhost:*\"]\n"
    );
    let start = async |more: &str| {
        let resource = "[[resource]]\nurl = \"https://agents.example.com/mcp\"\n";
        let rest = format!("{cors}{more}{resource}");
        Setup::new(&issuer, &upstream).rest(&rest).start().await
    };
    let reading = start("").await;
    let enforcing = start("enforce_origin = true\n").await;
    let trusting = start("enforce_origin = true\npatterns_enforce = true\n").await;
    let token = issuer.user("auth0|alice").mint();
    let from =
        |path: &str, origin: &str| Request::get(path).header("Origin", origin).bearer(&token);
    let mut findings = Findings::default();
    for (origin, fits) in [
        (PAGE, true),
        (FITS, true),
        ("http://localhost:5173", true),
        ("https://app-x.evil.com-team.vercel.app", false),
        ("https://app-x-team.vercel.app.evil.com", false),
        ("https://app-x@evil-team.vercel.app", false),
        ("https://app--team.vercel.app", false),
        ("https://app-x-team.vercel.app:8443", false),
        ("http://app-x-team.vercel.app", false),
        ("https://APP-x-team.vercel.app", false),
        ("http://localhost.evil.com:80", false),
        ("null", false),
    ] {
        let expected = fits.then_some(origin);
        for (name, request) in [
            ("GET", from("/x", origin)),
            ("preflight", preflight("/x", origin)),
        ] {
            let answer = reading.send(&request).await;
            let allowed = answer.header("access-control-allow-origin");
            findings.check(&format!("{name} {origin}"), allowed == expected, || {
                format!("{} allows {allowed:?}", answer.status())
            });
        }
        // To be let in takes more than to be answered readably.
        for (name, proxy, path, lets_in) in [
            ("reading", &reading, "/mcp", origin == PAGE),
            ("reading", &reading, "/ws", origin == PAGE),
            ("enforcing", &enforcing, "/x", origin == PAGE),
            ("trusting", &trusting, "/x", fits),
            ("trusting", &trusting, "/mcp", fits),
            ("trusting", &trusting, "/ws", fits),
        ] {
            let mut request = from(path, origin);
            if path == "/ws" {
                request = request.websocket();
            }
            let mut client = request.open(proxy.data).await;
            let head = client.head().await;
            let expected = match (lets_in, path) {
                (false, _) => 403,
                (true, "/ws") => 101,
                (true, _) => 200,
            };
            findings.check(
                &format!("{name} {path} {origin}"),
                head.status() == expected,
                || format!("{}, expected {expected}", head.status()),
            );
        }
    }
    findings.assert_none();
}

#[tokio::test]
async fn every_origin_can_be_welcome() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[cors]\norigins = [\"*\"]")
        .start()
        .await;
    let answer = proxy.send(&preflight("/x", "https://anyone.example")).await;
    let allowed = answer.header("access-control-allow-origin");
    assert!(
        [Some("*"), Some("https://anyone.example")].contains(&allowed),
        "{allowed:?}"
    );
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}
