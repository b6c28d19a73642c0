//! Holes that other gateways had, each with the advisory that told of it.

use serde_json::json;

use crate::issuer::Issuer;
use crate::issuer::keys::SigningKey;
use crate::support::upstream::response;
use crate::support::{
    Client, Findings, Proxy, Reply, Request, Setup, Upstream, assert_own, own, within,
};

const ROUTES: &str = r#"
[[route]]
path = "/public/**"
access = "public"

[[route]]
path = "/admin/**"
require = { any_role = ["admin"] }

[[route]]
path = "/agents/*/closed"
access = "deny"
"#;

const ROLES: &str = "https://your-app.com/roles";

async fn start(issuer: &Issuer, upstream: &Upstream, rules: &str) -> Proxy {
    Setup::new(issuer, upstream)
        .auth0(&format!("roles_claim = \"{ROLES}\""))
        .rest(rules)
        .start()
        .await
}

/// CVE-2026-31908 (APISIX forward-auth): what stands in a claim ends no header and begins none.
#[tokio::test]
async fn a_claim_ends_no_header() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, "[identity.headers]\nx-c = \"c\"").await;
    let long = "x".repeat(6_000);
    let mut findings = Findings::default();
    for (claim, header) in [
        (
            "a\r\nX-Forwarded-User: mallory",
            "a%0D%0AX-Forwarded-User:%20mallory",
        ),
        ("a\nb", "a%0Ab"),
        ("a\rb", "a%0Db"),
        (
            "a\r\n\r\nGET /smuggled HTTP/1.1",
            "a%0D%0A%0D%0AGET%20/smuggled%20HTTP/1.1",
        ),
        ("a\u{0}b", "a%00b"),
        ("a\u{7f}b", "a%7Fb"),
        ("a\u{85}b", "a%C2%85b"),
        ("a\u{2028}b", "a%E2%80%A8b"),
        ("a\u{10a}b", "a%C4%8Ab"),
        ("a%0d%0ab", "a%250d%250ab"),
        ("\ta ", "%09a%20"),
        (long.as_str(), long.as_str()),
    ] {
        let token = issuer.user("auth0|alice").claim("c", claim).mint();
        let answer = proxy.send(&Request::get("/x").bearer(&token)).await;
        findings.check(header, answer.status() == 200, || answer.text());
        let head = upstream.next().await.head;
        findings.check(header, head.get("x-c") == Some(header), || {
            format!("{:?}", head.all("x-c"))
        });
        let users = head.all("x-forwarded-user");
        findings.check(header, users == ["auth0|alice"], || format!("{users:?}"));
    }
    findings.check("the upstream", upstream.requests() == 12, || {
        format!("has seen {}", upstream.requests())
    });
    findings.assert_none();
}

/// CVE-2026-26308 (Envoy RBAC): a field that decides, said twice, decides for nobody.
#[tokio::test]
async fn a_repeated_field_decides_nothing() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let page = "https://app.example.com";
    let cors = format!("[cors]\norigins = [\"{page}\"]\nenforce_origin = true");
    let managed = start(&issuer, &upstream, &cors).await;
    let unmanaged = start(&issuer, &upstream, ROUTES).await;
    let token = issuer.user("auth0|alice").mint();
    let asking = || Request::new("OPTIONS", "/x").header("Origin", page);
    let method = "Access-Control-Request-Method";
    let mut findings = Findings::default();
    for (case, proxy, request, status, code) in [
        (
            "Authorization",
            &unmanaged,
            Request::get("/x").bearer(&token).bearer(&token),
            400,
            "authorization_malformed",
        ),
        (
            "Origin",
            &managed,
            Request::get("/x")
                .bearer(&token)
                .header("Origin", page)
                .header("Origin", "https://evil.example"),
            403,
            "origin_denied",
        ),
        (
            "Origin as a list",
            &managed,
            Request::get("/x")
                .bearer(&token)
                .header("Origin", &format!("{page}, https://evil.example")),
            403,
            "origin_denied",
        ),
        (
            "the method of a preflight",
            &unmanaged,
            asking().header(method, "GET").header(method, "DELETE"),
            401,
            "token_missing",
        ),
        (
            "Host",
            &unmanaged,
            Request::get("/x").bearer(&token).header("Host", "other"),
            400,
            "host_malformed",
        ),
        (
            "Upgrade",
            &unmanaged,
            Request::get("/x")
                .bearer(&token)
                .websocket()
                .header("Upgrade", "websocket"),
            400,
            "upgrade_not_served",
        ),
    ] {
        findings.add(case, own(&proxy.send(&request).await, status, code));
    }
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {}", upstream.requests())
    });
    findings.assert_none();
}

/// CVE-2026-73552 (Envoy `safe_regex`): a byte that cannot be decoded opens nothing, a rule that
/// says `not` included.
#[tokio::test]
async fn an_undecodable_byte_opens_nothing() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let rules = format!(
        "{ROUTES}\n[require]\nnot = {{ claims = [{{ claim = \"suspended\", contains = \"yes\" }}] }}"
    );
    let proxy = start(&issuer, &upstream, &rules).await;
    let token = issuer.user("auth0|alice").mint();
    let suspended = issuer.user("auth0|alice").claim("suspended", "yes").mint();
    let mut findings = Findings::default();
    for byte in 0x80..=u8::MAX {
        for (place, head) in [
            (
                "the path",
                [b"GET /public/", &[byte][..], b" HTTP/1.1\r\n"].concat(),
            ),
            (
                "an encoded path",
                format!("GET /agents/%{byte:02x}/closed HTTP/1.1\r\n").into_bytes(),
            ),
            (
                "the scheme",
                [
                    b"GET /x HTTP/1.1\r\nAuthorization: Bearer",
                    &[byte][..],
                    b" ",
                    token.as_bytes(),
                    b"\r\n",
                ]
                .concat(),
            ),
            (
                "the token",
                [
                    b"GET /x HTTP/1.1\r\nAuthorization: Bearer ",
                    token.as_bytes(),
                    &[byte][..],
                    b"\r\n",
                ]
                .concat(),
            ),
        ] {
            let mut client = Client::connect(proxy.data).await;
            client.send(&[&head[..], b"Host: a\r\n\r\n"].concat()).await;
            let status = client.head_or_end().await.map(|head| head.status());
            let refused = matches!(status, Some(400 | 401));
            findings.check(&format!("{byte:#04x} in {place}"), refused, || {
                format!("{status:?}")
            });
        }
    }
    for claim in [
        json!(7),
        json!(null),
        json!({ "yes": true }),
        json!([7]),
        json!("yes"),
    ] {
        let odd = issuer.user("auth0|alice").claim("suspended", claim.clone());
        let answer = proxy.send(&Request::get("/x").bearer(&odd.mint())).await;
        findings.add(&claim.to_string(), own(&answer, 403, "rule_denied"));
    }
    let answer = proxy.send(&Request::get("/x").bearer(&suspended)).await;
    findings.add("suspended", own(&answer, 403, "rule_denied"));
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {}", upstream.requests())
    });
    findings.assert_none();
    assert_eq!(
        proxy
            .send(&Request::get("/x").bearer(&token))
            .await
            .status(),
        200
    );
}

/// CVE-2026-48020 (Traefik, `/api../admin`), CVE-2026-73553 and CVE-2026-73511 (Envoy, `;`),
/// CVE-2025-54576, GHSA-pxq7-h93f-9jrg and GHSA-fvhj-4qfh-q2hm (query and fragment): the rows that
/// the other tables of paths have not.
#[tokio::test]
async fn what_looks_public_is_not() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let mut findings = Findings::default();
    for target in [
        "/public../admin/x",
        "/public..;/admin/x",
        "/public;/../admin/x",
        "/public/x;/../../admin/x",
        "/admin;x=y/public/a",
        "/admin/x;/../../public",
        "/admin/x?/public/not-to-be-logged",
        "/admin/x?path=/public/not-to-be-logged",
        "/admin/x%3f/public/x",
        "/public/%23/../../admin/x",
        "/public%23/../admin/x",
        "/admin%23/public/x",
        "/admin/x%23/../../public/x",
        "/public/%2523/../../admin/x",
        "/public%",
        "/publicx",
        "/publi%63",
    ] {
        let answer = proxy.send(&Request::get(target)).await;
        // `/publi%63` is another spelling of what is public, for some backend and not for all.
        let refused = [400, 401].contains(&answer.status());
        findings.check(target, refused, || answer.head.first_line.clone());
    }
    for target in [
        "/public#/../admin/x",
        "/public/x#",
        "/admin/x#/public/x",
        "/#",
    ] {
        let mut client = Client::connect(proxy.data).await;
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send(head.as_bytes()).await;
        findings.add(target, own(&client.response().await, 400, "path_malformed"));
    }
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {}", upstream.requests())
    });
    findings.assert_none();
}

/// CVE-2025-46821 (Envoy): every character that a segment may hold is held by a wildcard.
#[tokio::test]
async fn a_wildcard_holds_every_character() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let token = issuer.user("auth0|alice").mint();
    let mut client = Client::connect(proxy.data).await;
    let mut findings = Findings::default();
    let plain = (b'!'..=b'~')
        .filter(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(byte));
    let plain: Vec<String> = plain.map(|byte| char::from(byte).to_string()).collect();
    let encoded = (0x20..=0x7e).map(|byte| format!("%{byte:02X}"));
    let segments = plain
        .iter()
        .cloned()
        .chain(encoded)
        .chain(["%C3%A9".to_owned()]);
    for segment in segments {
        for segment in [segment.clone(), format!("a{segment}b")] {
            let path = format!("/agents/{segment}/closed");
            let answer = client.request(&Request::get(&path).bearer(&token)).await;
            // A dot is no segment: the path is another one then.
            let other_path = [".", "%2E"].contains(&segment.as_str());
            let right = answer.status() == 403 || (other_path && answer.status() == 200);
            findings.check(&path, right, || answer.text());
        }
    }
    findings.assert_none();
}

/// CVE-2026-27588 (Caddy): a host is compared in the same way however many are listed.
#[tokio::test]
async fn a_long_list_of_hosts_is_compared_like_a_short_one() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    for count in [1, 99, 100, 101, 150] {
        let hosts: Vec<String> = (0..count)
            .map(|n| format!("\"Agent-{n}.example\""))
            .collect();
        let proxy = Setup::new(&issuer, &upstream)
            .top(&format!("allowed_hosts = [{}]", hosts.join(", ")))
            .start()
            .await;
        let get = |host: String| Request::get("/x").host(Some(&host));
        for (host, status) in [
            (format!("agent-{}.example", count - 1), 401),
            (format!("AGENT-{}.EXAMPLE:80", count - 1), 401),
            (format!("agent-{count}.example"), 421),
            (format!("AGENT-{count}.EXAMPLE"), 421),
        ] {
            let answer = proxy.send(&get(host.clone())).await;
            assert_eq!(answer.status(), status, "{host} of {count}");
        }
    }
    assert_eq!(upstream.requests(), 0);
}

/// CVE-2026-40575 and CVE-2026-76835 (oauth2-proxy): no field names another path, method or host
/// than the request's own, not even when everybody is a trusted proxy.
#[tokio::test]
async fn no_field_chooses_the_rule() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let strict = start(&issuer, &upstream, ROUTES).await;
    let trusting = Setup::new(&issuer, &upstream)
        .top("trusted_proxies = [\"0.0.0.0/0\", \"::/0\"]")
        .rest("[[route]]\npath = \"/public/**\"\naccess = \"public\"")
        .start()
        .await;
    let mut findings = Findings::default();
    for (field, value) in [
        ("X-Forwarded-Uri", "/public/x"),
        ("X-Forwarded-Path", "/public/x"),
        ("X-Forwarded-Prefix", "/public"),
        ("X-Forwarded-Method", "OPTIONS"),
        ("X-Forwarded-Host", "public.example"),
        ("X-Original-URI", "/public/x"),
        ("X-Original-URL", "/public/x"),
        ("X-Original-Method", "OPTIONS"),
        ("X-Rewrite-URL", "/public/x"),
        ("X-Rewrite-URI", "/public/x"),
        ("X-HTTP-Method-Override", "OPTIONS"),
        ("X-HTTP-Method", "OPTIONS"),
        ("X-Method-Override", "OPTIONS"),
        ("X-Auth-Request-Redirect", "/public/x"),
        ("Referer", "http://agents.example.com/public/x"),
        ("Forwarded", "for=127.0.0.1;host=public.example;proto=https"),
    ] {
        for (name, proxy) in [("strict", &strict), ("trusting", &trusting)] {
            let case = format!("{field}, {name}");
            let get = |path| Request::get(path).header(field, value);
            let answer = proxy.send(&get("/admin/x")).await;
            findings.add(&case, own(&answer, 401, "token_missing"));
            // Where the request passes, nothing behind may choose by it either.
            let seen = upstream.requests();
            let answer = proxy.send(&get("/public/x")).await;
            findings.check(&case, answer.status() == 200, || answer.text());
            let head = upstream.next().await.head;
            findings.check(&case, upstream.requests() == seen + 1, String::new);
            let may_pass = match field {
                "Referer" => true,
                "X-Forwarded-Host" | "X-Forwarded-Prefix" | "Forwarded" => name == "trusting",
                _ => false,
            };
            let passed = head.all(field).iter().any(|found| found.contains(value));
            findings.check(&case, passed == may_pass, || {
                format!("{:?}", head.all(field))
            });
        }
    }
    findings.assert_none();
}

/// GHSA-5hvv-m4w4-gf6v (oauth2-proxy): nobody passes for a health check.
#[tokio::test]
async fn a_probe_needs_a_token_like_anybody() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    for agent in [
        "kube-probe/1.31",
        "GoogleHC/1.0",
        "ELB-HealthChecker/2.0",
        "Consul Health Check",
        "Envoy/HC",
    ] {
        for path in [
            "/", "/x", "/healthz", "/livez", "/readyz", "/ping", "/metrics",
        ] {
            for method in ["GET", "HEAD"] {
                let request = Request::new(method, path).header("User-Agent", agent);
                let answer = proxy.send(&request).await;
                assert_eq!(answer.status(), 401, "{agent} {method} {path}");
            }
        }
    }
    assert_eq!(upstream.requests(), 0);
}

/// CVE-2021-21378 (Envoy), CVE-2022-29226 (Envoy), CVE-2026-59822 (`LiteLLM`): where a token may be
/// missing, a bad one is bad all the same, and its presence proves nothing.
#[tokio::test]
async fn a_bad_token_is_never_a_missing_one() {
    let issuer = Issuer::start();
    let another = Issuer::start_another();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let user = || issuer.user("auth0|alice");
    let mut findings = Findings::default();
    for (case, token, code) in [
        (
            "another issuer",
            another.user("auth0|alice").mint(),
            "token_unknown_key",
        ),
        (
            "another issuer's name",
            user().claim("iss", another.issuer()).mint(),
            "token_wrong_issuer",
        ),
        (
            "another audience",
            user().claim("aud", "https://x.example").mint(),
            "token_wrong_audience",
        ),
        ("expired", user().expires_in(-3600).mint(), "token_expired"),
        (
            "none",
            user().header("alg", "none").signature(Vec::new()).mint(),
            "token_algorithm_not_allowed",
        ),
        (
            "opaque",
            "VjVrMzJvcGFxdWV0b2tlbm9mYXV0aDA".to_owned(),
            "token_encrypted_or_opaque",
        ),
        ("a word", "null".to_owned(), "token_encrypted_or_opaque"),
        (
            "another word",
            "undefined".to_owned(),
            "token_encrypted_or_opaque",
        ),
        ("dots", "..".to_owned(), "token_malformed"),
    ] {
        for path in ["/public/x", "/x", "/admin/x"] {
            let answer = proxy.send(&Request::get(path).bearer(&token)).await;
            findings.add(&format!("{case} on {path}"), own(&answer, 401, code));
        }
    }
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {}", upstream.requests())
    });
    findings.assert_none();
    assert_eq!(proxy.send(&Request::get("/public/x")).await.status(), 200);
}

/// CVE-2026-31837 (Istio): without keys nobody's signature holds, on a public route neither.
#[tokio::test]
async fn without_keys_there_is_no_key_to_pass_with() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    issuer.go_down();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[[route]]\npath = \"/public/**\"\naccess = \"public\"")
        .launch()
        .await;
    for key in [0, 1] {
        let key = std::sync::Arc::new(SigningKey::rsa(key));
        let token = issuer.user("auth0|alice").forged_with(&key).mint();
        for path in ["/x", "/public/x"] {
            let answer = proxy.send(&Request::get(path).bearer(&token)).await;
            assert_own(&answer, 503, "keys_unavailable");
        }
    }
    assert_eq!(upstream.requests(), 0);
}

/// CVE-2025-64527 (Envoy): keys that come in the middle of many requests of many users break
/// nothing and mix nothing.
#[tokio::test]
async fn keys_that_come_in_the_middle_of_requests_break_nothing() {
    const CLIENTS: usize = 32;
    let issuer = Issuer::start();
    let upstream =
        Upstream::start(|head| Reply::ok(head.get("x-forwarded-user").unwrap_or("nobody")));
    issuer.behave(|behaviour| behaviour.held = true);
    let proxy = Setup::new(&issuer, &upstream).launch().await;
    let forger = std::sync::Arc::new(SigningKey::rsa(1));
    let (told, mut refused) = tokio::sync::mpsc::unbounded_channel();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let subject = format!("auth0|user-{number}");
        let token = issuer.user(&subject).mint();
        let forged = issuer.user(&subject).forged_with(&forger).mint();
        let (address, told) = (proxy.data, told.clone());
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            loop {
                let answer = client.request(&Request::get("/x").bearer(&forged)).await;
                assert!([401, 503].contains(&answer.status()), "{}", answer.text());
                let answer = client.request(&Request::get("/x").bearer(&token)).await;
                if answer.status() == 200 {
                    assert_eq!(answer.text(), subject);
                    return;
                }
                assert_own(&answer, 503, "keys_unavailable");
                told.send(()).expect("a test that goes on");
            }
        });
    }
    // As many refusals as there are clients: they are all at it when the keys come.
    for _ in 0..CLIENTS {
        within("a refusal", refused.recv()).await;
    }
    issuer.behave(|behaviour| behaviour.held = false);
    while let Some(passed) = within("every client", clients.join_next()).await {
        passed.expect("a client that passed");
    }
    assert_eq!(upstream.requests(), CLIENTS);
}

/// CVE-2021-32701 and CVE-2026-33496 (Oathkeeper): what was remembered of a token for one place
/// decides nothing in another.
#[tokio::test]
async fn a_remembered_token_is_judged_anew_everywhere() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let user = issuer
        .user("auth0|alice")
        .claim(ROLES, json!(["user"]))
        .mint();
    let admin = issuer
        .user("auth0|alice")
        .claim(ROLES, json!(["admin"]))
        .mint();
    let mut client = Client::connect(proxy.data).await;
    for _ in 0..3 {
        for (token, path, status) in [
            (&user, "/x", 200),
            (&user, "/admin/x", 403),
            (&admin, "/admin/x", 200),
            (&user, "/admin/x", 403),
            (&admin, "/agents/1/closed", 403),
            (&user, "/public/x", 200),
        ] {
            let answer = client.request(&Request::get(path).bearer(token)).await;
            assert_eq!(answer.status(), status, "{path}");
        }
        // A token that is one of them but for its last character is neither.
        let last = if admin.ends_with('A') { "Q" } else { "A" };
        let changed = format!("{}{last}", &admin[..admin.len() - 1]);
        let answer = client
            .request(&Request::get("/admin/x").bearer(&changed))
            .await;
        assert_eq!(answer.status(), 401);
    }
}

/// CVE-2025-11230 (`HAProxy`): no number, however long, costs time or memory.
#[tokio::test]
async fn a_number_costs_nothing() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let claims = issuer.user("auth0|alice").payload_text();
    let digits = "9".repeat(8_000);
    let deep = format!("{}{}", "[".repeat(4_000), "]".repeat(4_000));
    let mut findings = Findings::default();
    for (case, value) in [
        ("a huge exponent", "1e999999999".to_owned()),
        ("a huge negative exponent", "-1e999999999".to_owned()),
        ("a long exponent", format!("1e{digits}")),
        ("many digits", digits.clone()),
        ("many decimals", format!("0.{digits}")),
        ("nesting", deep),
    ] {
        for payload in [
            claims.replacen('{', &format!("{{\"x\":{value},"), 1),
            claims.replacen("\"exp\":", &format!("\"exp\":{value},\"y\":"), 1),
        ] {
            let token = issuer.user("auth0|alice").raw_payload(payload).mint();
            let answer = proxy.send(&Request::get("/admin/x").bearer(&token)).await;
            let refused = [401, 403].contains(&answer.status());
            findings.check(case, refused, || answer.text());
        }
    }
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {}", upstream.requests())
    });
    findings.assert_none();
}

/// CVE-2026-2833 (Pingora): what follows a handshake belongs to nobody until the upstream has
/// switched, and is a request of its own if it does not.
#[tokio::test]
async fn nothing_follows_an_upgrade_that_was_declined() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/declined" => Reply::Bytes(response("200 OK", &[], "declined")),
        "/required" => Reply::Bytes(response("426 Upgrade Required", &[], "required")),
        _ => Reply::WebSocket,
    });
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let token = issuer.user("auth0|alice").mint();
    for path in ["/declined", "/required"] {
        let handshake = Request::get(path).websocket().bearer(&token);
        let smuggled = Request::get("/admin/x").header("X-Forwarded-User", "admin");
        let bytes = [handshake.bytes(), smuggled.bytes()].concat();
        let mut client = Client::connect(proxy.data).await;
        let seen = upstream.requests();
        client.send(&bytes).await;
        assert_eq!(client.response().await.text(), path[1..]);
        // Judged by itself, if it is looked at at all.
        let next = client.head_or_end().await.map(|head| head.status());
        assert!(matches!(next, None | Some(401)), "{path}: {next:?}");
        let exchange = upstream.next().await;
        assert_eq!(exchange.body().await, b"");
        assert_eq!(upstream.requests(), seen + 1, "{path}");
    }
    // Where it switches, nothing was lost and nothing came before.
    let handshake = Request::get("/accepted").websocket().bearer(&token);
    let mut client = Client::connect(proxy.data).await;
    client
        .send(&[&handshake.bytes()[..], b"early"].concat())
        .await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(client.exactly(5).await, b"early");
}

/// CVE-2025-4366 (Pingora): the body of a refused request is not the next request.
#[tokio::test]
async fn the_body_of_a_refused_request_is_no_request() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| Reply::ok(head.target()));
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let token = issuer.user("auth0|alice").mint();
    let smuggled = Request::get("/smuggled").bearer(&token).bytes();
    let next = Request::get("/next").bearer(&token);
    let chunks = [
        format!("{:x}\r\n", smuggled.len()).as_bytes(),
        &smuggled,
        b"\r\n0\r\n\r\n",
    ]
    .concat();
    let many = smuggled.repeat(1_000);
    let chunked = |request: Request| {
        let head = request.header("Transfer-Encoding", "chunked").bytes();
        [head, chunks.clone()].concat()
    };
    let post = |path: &str| Request::new("POST", path);
    for (case, refused, status) in [
        ("no token", post("/x").body(smuggled.clone()).bytes(), 401),
        ("a long body", post("/x").body(many).bytes(), 401),
        ("no token, in chunks", chunked(post("/x")), 401),
        (
            "a rule",
            post("/admin/x")
                .bearer(&token)
                .body(smuggled.clone())
                .bytes(),
            403,
        ),
        ("a path", chunked(post("/%zz")), 400),
        ("a host", chunked(post("/x").host(Some("a b"))), 400),
        (
            "TRACE",
            Request::new("TRACE", "/x").body(smuggled.clone()).bytes(),
            501,
        ),
        (
            "OPTIONS *",
            Request::new("OPTIONS", "*").body(smuggled.clone()).bytes(),
            204,
        ),
    ] {
        let mut client = Client::connect(proxy.data).await;
        client.send(&[refused, next.bytes()].concat()).await;
        assert_eq!(client.response().await.status(), status, "{case}");
        // Either the connection ends, or what comes next is what was sent next.
        if let Some(head) = client.head_or_end().await {
            assert_eq!(head.status(), 200, "{case}");
            assert_eq!(upstream.next().await.head.target(), "/next", "{case}");
        }
        assert!(!proxy.output().contains("/smuggled"), "{case}");
    }
}

/// CVE-2025-64763 (Envoy): what follows a refused CONNECT is no tunnel.
#[tokio::test]
async fn nothing_follows_a_refused_connect() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let token = issuer.user("auth0|alice").mint();
    for early in [
        &b"GET /admin/x HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"\x16\x03\x01\x00\x05hello",
    ] {
        let connect = Request::new("CONNECT", "agents.example.com:443").bearer(&token);
        let mut client = Client::connect(proxy.data).await;
        client.send(&[&connect.bytes()[..], early].concat()).await;
        assert_eq!(client.response().await.status(), 501);
        let next = client.head_or_end().await.map(|head| head.status());
        assert!(matches!(next, None | Some(400 | 401)), "{next:?}");
    }
    assert_eq!(upstream.requests(), 0);
}

/// CVE-2026-31838 (Istio) and CVE-2026-27589 (Caddy): the admin listener changes no configuration,
/// forwards nothing and tells nothing of tokens, users or settings.
#[tokio::test]
async fn the_admin_listener_gives_nothing_away() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let token = issuer.user("auth0|very-private").mint();
    for path in ["/x", "/admin/x"] {
        proxy.send(&Request::get(path).bearer(&token)).await;
    }
    let seen = upstream.requests();
    let kid = issuer.key().kid().to_owned();
    let parts: Vec<&str> = token.split('.').collect();
    let told = [parts[0], parts[1], parts[2], "very-private", &kid, ROLES];
    let mut findings = Findings::default();
    for path in [
        "/",
        "/livez",
        "/readyz",
        "/metrics",
        "/config",
        "/config/",
        "/config_dump",
        "/debug/vars",
        "/debug/pprof/",
        "/debug/syncz",
        "/keys",
        "/tokens",
        "/load",
        "/stop",
        "/id/x",
        "/admin/x",
        "/public/x",
        "/../x",
    ] {
        for method in [
            "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT",
        ] {
            let case = format!("{method} {path}");
            let request = Request::new(method, path).bearer(&token).body("{}");
            let answer = request.send(proxy.admin).await;
            let read_only = method == "GET" || answer.status() >= 400;
            findings.check(&case, read_only, || answer.head.first_line.clone());
            let whole = format!(
                "{}{}",
                String::from_utf8_lossy(&answer.head.raw),
                answer.text()
            );
            let found = told.iter().find(|secret| whole.contains(**secret));
            findings.check(&case, found.is_none(), || format!("tells {found:?}"));
        }
    }
    findings.check("the upstream", upstream.requests() == seen, || {
        "was reached over the admin listener".to_owned()
    });
    findings.assert_none();
    // Still the same rules.
    let answer = proxy.send(&Request::get("/admin/x").bearer(&token)).await;
    assert_own(&answer, 403, "rule_denied");
}
