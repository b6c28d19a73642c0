//! Protected resources (RFC 9728): what is published, what challenges say, and whose tokens are good where.

use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::issuer::Issuer;
use crate::issuer::tokens::{AUDIENCE, Mint};
use crate::support::answer::parameters;
use crate::support::h2::H2;
use crate::support::{
    Client, Findings, Proxy, Request, Response, Setup, Upstream, assert_own, own,
};

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
const A: &str = "https://agents.example.com/a";
const B: &str = "https://agents.example.com/b";

fn resource(url: &str) -> String {
    format!("[[resource]]\nurl = \"{url}\"\n")
}

/// Two resources with rules of their own, and paths that belong to neither.
fn two(issuer: &Issuer, upstream: &Upstream) -> Setup {
    Setup::new(issuer, upstream)
        .rest(&resource(A))
        .rest(&resource(B))
        .rest(
            "[require]\nscopes = [\"base\"]\n\
             [[route]]\npath = \"/a/**\"\nrequire = { scopes = [\"read:a\"] }\n\
             [[route]]\npath = \"/a/any\"\nrequire = { any_scope = [\"one\", \"two\"] }\n\
             [[route]]\npath = \"/a/closed\"\naccess = \"deny\"\n\
             [[route]]\npath = \"/a/role\"\nrequire = { clients = [\"nobody\"] }\n\
             [[route]]\npath = \"/a/public\"\naccess = \"public\"\n\
             [[route]]\npath = \"/b/**\"\nrequire = { any_of = [{ permissions = [\"use:b\"] }, { scopes = [\"write:b\"] }] }\n\
             [[route]]\npath = \"/b/new\"\nshadow = true\nrequire = { scopes = [\"soon:b\"], not = { scopes = [\"never:b\"] } }\n\
             [[route]]\npath = \"/*/shared\"\nrequire = { scopes = [\"shared\", \"openid\"] }\n\
             [[route]]\npath = \"/c/**\"\nrequire = { scopes = [\"read:c\"] }\n",
        )
}

/// Everything that a rule asks for.
fn good(issuer: &Issuer, audience: &str) -> Mint {
    issuer
        .user("auth0|alice")
        .claim("aud", audience)
        .claim("scope", "openid base read:a one write:b shared read:c")
}

async fn metadata(proxy: &Proxy, path: &str) -> Value {
    let response = proxy.send(&Request::get(path)).await;
    assert_eq!(response.status(), 200, "{path}: {}", response.text());
    response.json()
}

/// Clients that were given a URL with a slash at its end, or that add one, find the metadata too.
#[tokio::test]
async fn a_slash_at_the_end_of_a_metadata_path_makes_no_difference() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let several = two(&issuer, &upstream)
        .rest(&resource("https://agents.example.com/c/"))
        .start()
        .await;
    let alone = Setup::new(&issuer, &upstream)
        .rest(&resource(A))
        .start()
        .await;
    for (proxy, path, expected) in [
        (&several, "/a", A),
        (&several, "/a/", A),
        (&several, "/c", "https://agents.example.com/c/"),
        (&several, "/c/", "https://agents.example.com/c/"),
        (&alone, "/a/", A),
        (&alone, "", A),
        (&alone, "/", A),
    ] {
        let found = metadata(proxy, &format!("{WELL_KNOWN}{path}")).await;
        assert_eq!(found["resource"], expected, "{path}");
    }
    for path in ["", "/", "/a//", "/a/x/"] {
        let answer = several
            .send(&Request::get(&format!("{WELL_KNOWN}{path}")))
            .await;
        assert_own(&answer, 404, "resource_unknown");
    }
    assert_eq!(upstream.requests(), 0);
}

/// A proxy in front may put its own name for authgate into `Host`, as nginx does by default.
#[tokio::test]
async fn a_trusted_proxys_host_counts_at_a_resource() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let start = async |top: &str| {
        Setup::new(&issuer, &upstream)
            .top(top)
            .rest(&resource(A))
            .start()
            .await
    };
    let trusting = start("trusted_proxies = [\"127.0.0.0/8\"]").await;
    let listing =
        start("trusted_proxies = [\"127.0.0.0/8\"]\nallowed_hosts = [\"b.example\"]").await;
    let doubting = start("").await;
    let token = good(&issuer, A).mint();
    let mut findings = Findings::default();
    for (proxy, host, forwarded, is_served) in [
        (
            &trusting,
            "authgate:8080",
            &["agents.example.com"][..],
            true,
        ),
        (&trusting, "agents.example.com", &["evil.example"], true),
        (&trusting, "authgate:8080", &[], false),
        (&trusting, "authgate:8080", &["evil.example"], false),
        (
            &trusting,
            "authgate:8080",
            &["agents.example.com", "agents.example.com"],
            false,
        ),
        (
            &trusting,
            "authgate:8080",
            &["agents.example.com, evil.example"],
            false,
        ),
        (&trusting, "authgate:8080", &["a@agents.example.com"], false),
        (&listing, "authgate:8080", &["b.example"], true),
        (&listing, "authgate:8080", &["agents.example.com"], true),
        (&listing, "authgate:8080", &["c.example"], false),
        (&doubting, "authgate:8080", &["agents.example.com"], false),
    ] {
        let request = Request::get("/a/x").bearer(&token).host(Some(host));
        let request = forwarded.iter().fold(request, |request, host| {
            request.header("X-Forwarded-Host", host)
        });
        let answer = proxy.send(&request).await;
        let finding = if is_served {
            match answer.status() {
                200 => Ok(()),
                other => Err(format!("{other} {}", answer.text())),
            }
        } else {
            own(&answer, 421, "host_not_served")
        };
        findings.add(&format!("{host} for {forwarded:?}"), finding);
    }
    findings.assert_none();
}

#[tokio::test]
async fn the_metadata_is_what_a_client_needs_and_nothing_of_the_request() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = two(&issuer, &upstream).start().await;
    let common = |url: &str, scopes: &[&str]| {
        json!({
            "resource": url,
            "authorization_servers": [issuer.issuer()],
            "scopes_supported": scopes,
            "bearer_methods_supported": ["header"],
        })
    };
    let a = common(A, &["base", "one", "read:a", "shared", "two"]);
    let b = common(B, &["base", "shared", "soon:b", "use:b", "write:b"]);
    assert_eq!(metadata(&proxy, &format!("{WELL_KNOWN}/a")).await, a);
    assert_eq!(metadata(&proxy, &format!("{WELL_KNOWN}/b")).await, b);

    let path = format!("{WELL_KNOWN}/a?x=/../b");
    let hostile = Request::get(&path)
        .host(Some("evil.example.com"))
        .header("Origin", "https://evil.example.com")
        .header("Forwarded", "host=evil.example.com;proto=http")
        .header("X-Forwarded-Host", "evil.example.com")
        .header("X-Forwarded-Proto", "http")
        .header("Authorization", "Bearer nonsense")
        .header("MCP-Protocol-Version", "2025-11-25");
    let response = proxy.send(&hostile).await;
    assert_eq!((response.status(), response.json()), (200, a));
    for (name, value) in [
        ("content-type", "application/json"),
        ("cache-control", "public, max-age=3600"),
        ("access-control-allow-origin", "*"),
        ("proxy-status", "authgate"),
    ] {
        assert_eq!(response.head.all(name), [value], "{name}");
    }
    let whole = response.body.len().to_string();

    let head = Request::new("HEAD", &format!("{WELL_KNOWN}/a"));
    let response = proxy.send(&head).await;
    assert_eq!((response.status(), response.body.len()), (200, 0));
    assert_eq!(response.header("content-length"), Some(whole.as_str()));
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));

    let mut h2 = H2::connect(proxy.data).await;
    let target = format!("http://agents.example.com{WELL_KNOWN}/b");
    let request = http::Request::get(target).body(Full::new(Bytes::new()));
    let response = h2.send(request.expect("a request")).await;
    assert_eq!(response.status(), 200);

    assert_eq!(upstream.requests(), 0);
    let line = proxy.request_line(&format!("{WELL_KNOWN}/b")).await;
    assert_eq!(line["status"], 200, "{line}");
    assert_eq!(line["outcome"], "forwarded", "{line}");
    let metrics = proxy.admin("GET", "/metrics").await.text();
    assert!(metrics.contains("authgate_"), "{metrics}");
}

/// What else there is to say, where it is at, and what is left out.
#[tokio::test]
async fn a_single_resource_is_found_at_the_root_too() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    for (url, rest, paths, missing, expected) in [
        (
            "https://agents.example.com/mcp",
            "name = \"Agent \\\"tools\\\"\"\ndocumentation = \"https://docs.example.com/\"\nscopes = [\"z\", \"openid\", \"offline_access\"]\n\
             [require]\nscopes = [\"openid\", \"base\"]\n",
            &["", "/", "/mcp", "/mcp/"][..],
            &["//", "/mcp//", "/MCP", "/mcp/x", "/mc", "/m%63p"][..],
            json!({
                "scopes_supported": ["base", "offline_access", "openid", "z"],
                "resource_name": "Agent \"tools\"",
                "resource_documentation": "https://docs.example.com/",
            }),
        ),
        (
            "https://agents.example.com/mcp/",
            "",
            &["", "/", "/mcp", "/mcp/"],
            &["/mcp//", "//"],
            json!({}),
        ),
        (
            "https://agents.example.com/",
            "",
            &["", "/"],
            &["//", "/mcp", "/x"],
            json!({}),
        ),
        (
            "https://agents.example.com",
            "[require]\nscopes = [\"openid\"]\n",
            &["", "/"],
            &["//", "/mcp"],
            json!({}),
        ),
    ] {
        let setup = Setup::new(&issuer, &upstream);
        let proxy = setup.rest(&resource(url)).rest(rest).start().await;
        let mut whole = json!({
            "resource": url,
            "authorization_servers": [issuer.issuer()],
            "bearer_methods_supported": ["header"],
        });
        for (name, value) in expected.as_object().expect("an object") {
            whole[name] = value.clone();
        }
        for path in paths {
            let found = metadata(&proxy, &format!("{WELL_KNOWN}{path}")).await;
            assert_eq!(found, whole, "{url} at {path}");
        }
        for path in missing {
            let request = Request::get(&format!("{WELL_KNOWN}{path}"));
            assert_own(&proxy.send(&request).await, 404, "resource_unknown");
        }
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn other_methods_and_preflights() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = two(&issuer, &upstream)
        .rest("[cors]\norigins = [\"https://app.example.com\"]\nenforce_origin = true\n")
        .start()
        .await;
    let path = format!("{WELL_KNOWN}/a");
    for method in ["POST", "PUT", "DELETE", "PATCH", "PROPFIND"] {
        let response = proxy.send(&Request::new(method, &path)).await;
        assert_own(&response, 405, "method_denied");
        assert_eq!(response.header("allow"), Some("GET, HEAD, OPTIONS"));
    }
    for asked in [
        "mcp-protocol-version",
        "authorization, mcp-protocol-version, x-own",
    ] {
        let preflight = Request::new("OPTIONS", &path)
            .header("Origin", "https://evil.example.com")
            .header("Access-Control-Request-Method", "GET")
            .header("Access-Control-Request-Headers", asked);
        let response = proxy.send(&preflight).await;
        assert_eq!(response.status(), 204);
        let value = |name| {
            response
                .header(name)
                .unwrap_or_default()
                .to_ascii_lowercase()
        };
        assert_eq!(value("access-control-allow-origin"), "*");
        assert_eq!(value("access-control-allow-methods"), "get, head, options");
        let allowed = value("access-control-allow-headers");
        for name in asked.split(", ") {
            assert!(allowed.split(", ").any(|one| one == name), "{allowed}");
        }
    }
    let plain = proxy.send(&Request::new("OPTIONS", &path)).await;
    assert_eq!(plain.status(), 204);
    assert_eq!(plain.header("allow"), Some("GET, HEAD, OPTIONS"));
    // A page on another origin reads the document, and only that.
    let evil = |path: &str| Request::get(path).header("Origin", "https://evil.example.com");
    let response = proxy.send(&evil(&path)).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    assert_own(&proxy.send(&evil("/c")).await, 403, "origin_denied");
    assert_eq!(upstream.requests(), 0);
}

/// No spelling of what is below the well-known path gets to the upstream, with a token or without, even
/// where every path is public.
#[tokio::test]
async fn no_reading_of_the_well_known_path_reaches_the_upstream() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let everything = "[[route]]\npath = \"/**\"\naccess = \"public\"\n";
    let setup = two(&issuer, &upstream).rest(everything);
    let proxy = setup.start().await;
    let token = good(&issuer, AUDIENCE).mint();
    let mut findings = Findings::default();
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/",
        "/.well-known/oauth-protected-resource/c",
        "/.well-known/oauth-protected-resource/a//",
        "/.well-known/oauth-protected-resource//a",
        "/.well-known/oauth-protected-resource/a/b",
        "//.well-known/oauth-protected-resource/a",
        "/.well-known//oauth-protected-resource/a",
        "/./.well-known/oauth-protected-resource/a",
        "/x/../.well-known/oauth-protected-resource/a",
        "/x/..%2f.well-known/oauth-protected-resource/a",
        "/x/%2e%2e/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/..%2foauth-protected-resource/a",
        "/%2ewell-known/oauth-protected-resource/a",
        "/.well-known%2foauth-protected-resource%2fa",
        "/.well-known/oauth%2Dprotected-resource/a",
        "/.well-known/oauth-protected-resource/%61",
        "/%252ewell-known/oauth-protected-resource/a",
        "/.Well-Known/OAuth-Protected-Resource/a",
        "/.well-known/oauth-protected-resource/A",
        "/.well-known;x/oauth-protected-resource;y/a",
        "/.well-known/oauth-protected-resource/a;x=y",
        "/.well-known/oauth-protected-resource%3f/a",
        "/.well-known/oauth-protected-resource%23",
        "//evil.example.com/.well-known/oauth-protected-resource/a",
        "/.well-known%5coauth-protected-resource",
        "/x/../../.well-known/oauth-protected-resource",
    ] {
        for request in [
            Request::get(path),
            Request::get(path).bearer(&token),
            Request::post(path, "x"),
        ] {
            let response = proxy.send(&request).await;
            findings.add(path, own(&response, 404, "resource_unknown"));
        }
    }
    for (path, code) in [
        (
            "/.well-known/oauth-protected-resource/%zz",
            "path_malformed",
        ),
        (
            "/.well-known/oauth-protected-resource/%00",
            "path_malformed",
        ),
        ("/.well-known\\oauth-protected-resource", "path_malformed"),
    ] {
        let response = proxy.send(&Request::get(path)).await;
        findings.add(path, own(&response, 400, code));
    }
    findings.assert_none();
    assert_eq!(upstream.requests(), 0);
    // The neighbours are the upstream's.
    for path in [
        "/.well-known/oauth-protected-resources",
        "/.well-known/oauth-authorization-server",
        "/x/.well-known/oauth-protected-resource",
    ] {
        let response = proxy.send(&Request::get(path)).await;
        assert_eq!(response.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn without_a_resource_the_path_is_one_like_others() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let request = Request::get(WELL_KNOWN);
    let response = proxy.send(&request).await;
    assert_own(&response, 401, "token_missing");
    assert_eq!(
        response.header("www-authenticate"),
        Some("Bearer realm=\"auth0\"")
    );
    let token = issuer.user("auth0|alice").mint();
    assert_eq!(proxy.send(&request.bearer(&token)).await.text(), "hello");
}

/// What a challenge says of the metadata and of scopes.
pub(crate) fn challenge(response: &Response) -> Option<(Option<String>, Option<String>)> {
    let lines = response.head.all("www-authenticate");
    let line = lines.first()?;
    assert_eq!(lines.len(), 1, "{lines:?}");
    let found = parameters("Bearer", line).expect("a challenge");
    Some((
        found.get("resource_metadata").cloned(),
        found.get("scope").cloned(),
    ))
}

#[tokio::test]
async fn challenges_name_the_metadata_and_the_scopes() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = two(&issuer, &upstream).start().await;
    let at = |name: &str| Some(format!("https://agents.example.com{WELL_KNOWN}/{name}"));
    let some = |scopes: &str| Some(scopes.to_owned());
    let bare = issuer.user("auth0|alice").without("scope").mint();
    let base = issuer.user("auth0|alice").claim("scope", "base two").mint();
    let expired = good(&issuer, AUDIENCE).expires_in(-600).mint();
    let of_b = good(&issuer, B).mint();
    let none: Option<&str> = None;
    for (path, token, code, expected) in [
        // Without a token: what to ask for. Where it would not help, there is less to say.
        (
            "/a",
            none,
            "token_missing",
            Some((at("a"), some("base read:a"))),
        ),
        (
            "/a/x",
            none,
            "token_missing",
            Some((at("a"), some("base read:a"))),
        ),
        (
            "/a/any",
            none,
            "token_missing",
            Some((at("a"), some("base one"))),
        ),
        (
            "/a/closed",
            none,
            "token_missing",
            Some((at("a"), some("base"))),
        ),
        (
            "/b",
            none,
            "token_missing",
            Some((at("b"), some("base write:b"))),
        ),
        (
            "/b/new",
            none,
            "token_missing",
            Some((at("b"), some("base"))),
        ),
        (
            "/a/shared",
            none,
            "token_missing",
            Some((at("a"), some("base read:a"))),
        ),
        // Every reading's rules; the metadata is that of the path as it stands.
        (
            "/a/..%2fb",
            none,
            "token_missing",
            Some((at("a"), some("base read:a write:b"))),
        ),
        // Belongs to none of the two, so strangers learn nothing.
        ("/c", none, "token_missing", Some((None, None))),
        ("/ab", none, "token_missing", Some((None, None))),
        ("/", none, "token_missing", Some((None, None))),
        // Bad tokens.
        (
            "/a",
            Some(expired.as_str()),
            "token_expired",
            Some((at("a"), some("base read:a"))),
        ),
        (
            "/a",
            Some("e30.e30.x"),
            "token_malformed",
            Some((at("a"), some("base read:a"))),
        ),
        (
            "/a/public",
            Some(expired.as_str()),
            "token_expired",
            Some((at("a"), some("base"))),
        ),
        (
            "/a",
            Some(of_b.as_str()),
            "token_wrong_audience",
            Some((at("a"), some("base read:a"))),
        ),
        (
            "/c",
            Some(expired.as_str()),
            "token_expired",
            Some((None, None)),
        ),
        // Step-up: all that are needed, those that are there among them, and no others.
        (
            "/a",
            Some(bare.as_str()),
            "scope_missing",
            Some((at("a"), some("base read:a"))),
        ),
        (
            "/a",
            Some(base.as_str()),
            "scope_missing",
            Some((at("a"), some("base read:a"))),
        ),
        (
            "/a/any",
            Some(bare.as_str()),
            "scope_missing",
            Some((at("a"), some("base one"))),
        ),
        (
            "/c",
            Some(base.as_str()),
            "scope_missing",
            Some((None, some("base read:c"))),
        ),
        // More of the same would not help.
        (
            "/a/role",
            Some(of_b.as_str()),
            "token_wrong_audience",
            Some((at("a"), some("base"))),
        ),
        ("/a/closed", Some(base.as_str()), "rule_denied", None),
        ("/a/role", Some(base.as_str()), "rule_denied", None),
    ] {
        let mut request = Request::get(path);
        if let Some(token) = token {
            request = request.bearer(token);
        }
        let response = proxy.send(&request).await;
        assert_eq!(response.json()["code"], code, "{path}");
        assert_own(&response, response.status(), code);
        assert_eq!(challenge(&response), expected, "{path} {code}");
        let line = response
            .header("www-authenticate")
            .unwrap_or("Bearer realm=");
        assert!(line.starts_with("Bearer realm="), "{line}");
    }
    let twice = Request::get("/a").bearer(&bare).bearer(&bare);
    let response = proxy.send(&twice).await;
    assert_own(&response, 400, "authorization_malformed");
    let (metadata, _) = challenge(&response).expect("a challenge");
    assert_eq!(metadata, at("a"));
    let grpc = Request::post("/a/x", "").header("Content-Type", "application/grpc");
    let response = proxy.send(&grpc).await;
    assert_eq!(response.header("grpc-status"), Some("16"));
    assert_eq!(challenge(&response), Some((at("a"), some("base read:a"))));
    assert_eq!(upstream.requests(), 0);
}

/// A token that was asked for at one resource is nobody at another, also once it is remembered, and under
/// every spelling of the way there.
#[tokio::test]
async fn a_token_is_good_where_it_is_for() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = two(&issuer, &upstream)
        .rest(&format!(
            "[[resource]]\nurl = \"{A}/inner\"\naudience = [\"{A}/inner\", \"urn:inner\"]\n"
        ))
        .start()
        .await;
    let audiences = [
        json!(AUDIENCE),
        json!(A),
        json!(B),
        json!("urn:inner"),
        json!([B, A]),
        json!([format!("{}userinfo", issuer.issuer()), A]),
        json!("https://other.example.com"),
        json!(format!("{A}/")),
    ];
    let (everywhere, a, b, inner, both, with_userinfo) = (0, 1, 2, 3, 4, 5);
    let tokens = audiences.map(|audience| good(&issuer, "").claim("aud", audience).mint());
    let mut findings = Findings::default();
    // Twice: the second time every token that is good somewhere is remembered.
    for round in 0..2 {
        for (path, welcome) in [
            ("/a", &[everywhere, a, both, with_userinfo][..]),
            ("/a/x", &[everywhere, a, both, with_userinfo]),
            ("/a/public", &[everywhere, a, both, with_userinfo]),
            ("/a/inner", &[everywhere, inner]),
            ("/a/inner/x", &[everywhere, inner]),
            ("/a/innerx", &[everywhere, a, both, with_userinfo]),
            ("/b/x", &[everywhere, b, both]),
            ("/c", &[everywhere]),
            ("/", &[everywhere]),
            ("/ab", &[everywhere]),
            ("/A", &[everywhere]),
            ("/b/%2e%2e/a", &[everywhere, both]),
            ("/a/..%2fb", &[everywhere, both]),
            ("//a/b", &[everywhere]),
            ("/a/../c", &[everywhere]),
            ("/a/..;/c", &[everywhere]),
            ("/c/..%2fa", &[everywhere]),
            ("/%61", &[everywhere]),
            ("/a/x/..%2f..%2fa/inner", &[everywhere]),
        ] {
            for (place, token) in tokens.iter().enumerate() {
                let response = proxy.send(&Request::get(path).bearer(token)).await;
                let what = format!("{path} with token {place}, round {round}");
                let finding = match welcome.contains(&place) {
                    true if response.status() == 200 => Ok(()),
                    true => Err(format!("{} {}", response.status(), response.text())),
                    false => own(&response, 401, "token_wrong_audience"),
                };
                findings.add(&what, finding);
            }
        }
    }
    findings.assert_none();
    let line = proxy
        .event("a refused token", |event| {
            event["code"] == "token_wrong_audience"
        })
        .await;
    assert_eq!(line["outcome"], "refused", "{line}");
}

/// What is remembered is judged by the resources that are configured when it is used.
#[tokio::test]
async fn a_reload_changes_where_remembered_tokens_are_good() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let with = |rest: &str| Setup::new(&issuer, &upstream).rest(rest);
    let both = format!("{}{}", resource(A), resource(B));
    let proxy = with(&both).start().await;
    let mut client = Client::connect(proxy.data).await;
    let request = Request::get("/a").bearer(&good(&issuer, A).mint());
    assert_eq!(client.request(&request).await.status(), 200);
    let swapped = format!(
        "[[resource]]\nurl = \"{A}\"\naudience = \"{B}\"\n[[resource]]\nurl = \"{B}\"\naudience = \"{A}\"\n"
    );
    proxy.reload(&with(&swapped)).await;
    let refused = client.request(&request).await;
    assert_own(&refused, 401, "token_wrong_audience");
    proxy.reload(&with(&both)).await;
    assert_eq!(client.request(&request).await.status(), 200);
    proxy.reload(&with("")).await;
    let refused = client.request(&request).await;
    assert_own(&refused, 401, "token_wrong_audience");
    let gone = client
        .request(&Request::get(&format!("{WELL_KNOWN}/a")))
        .await;
    assert_own(&gone, 401, "token_missing");
}

/// DNS rebinding: a page whose own name leads here sends that name in `Host`, and itself in `Origin`.
#[tokio::test]
async fn requests_for_a_resource_come_under_its_name_and_from_its_pages() {
    const RESOURCES: [&str; 3] = [
        "https://agents.example.com/mcp",
        "http://localhost:3001/local",
        "https://other.example.com:8443/port",
    ];
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let start = async |top: &str, rest: &str| {
        let setup = Setup::new(&issuer, &upstream).top(top).rest(rest);
        let setup = RESOURCES
            .iter()
            .fold(setup, |setup, url| setup.rest(&resource(url)));
        setup.start().await
    };
    let plain = start("", "").await;
    let listed = start(
        "allowed_hosts = [\"inside.example.com:9000\"]",
        "[cors]\norigins = [\"https://app.example.com\"]\n",
    )
    .await;
    let open = start("", "[cors]\norigins = \"*\"\n").await;
    let token = issuer.user("auth0|alice").mint();
    let (own_host, evil) = ("agents.example.com", "evil.example.com");
    let mut findings = Findings::default();
    for (proxy, path, host, origins, expected) in [
        // Hosts.
        (&plain, "/mcp", own_host, &[][..], 200),
        (&plain, "/mcp/x", "AGENTS.example.com:443", &[], 200),
        (&plain, "/mcp", evil, &[], 421),
        (
            &plain,
            "/mcp",
            "agents.example.com.evil.example.com",
            &[],
            421,
        ),
        (&plain, "/mcp", "agents.example.com.", &[], 421),
        (&plain, "/mcp", "other.example.com:8443", &[], 421),
        (&plain, "/mcp/..%2fx", evil, &[], 421),
        (&plain, "/x/..%2fmcp", evil, &[], 421),
        (&plain, "//mcp", evil, &[], 421),
        (&plain, "/MCP", evil, &[], 421),
        (&plain, "/port", "other.example.com:8443", &[], 200),
        (&plain, "/port", "other.example.com", &[], 421),
        (&plain, "/port", "other.example.com:443", &[], 421),
        // Names can be rebound, addresses cannot: probes and sidecars.
        (&plain, "/mcp", "127.0.0.1:8080", &[], 200),
        (&plain, "/mcp", "10.1.2.3", &[], 200),
        (&plain, "/mcp", "[::1]:8080", &[], 200),
        (&plain, "/mcp", "localhost:8080", &[], 200),
        (&plain, "/mcp", "10.1.2.3.nip.io", &[], 421),
        (&plain, "/mcp", "localhost.evil.example.com", &[], 421),
        (&plain, "/mcp", "2130706433", &[], 421),
        // Elsewhere any host will do.
        (&plain, "/mcpx", evil, &[], 200),
        (&plain, "/", evil, &[], 200),
        // Origins.
        (
            &plain,
            "/mcp",
            own_host,
            &["https://agents.example.com"],
            200,
        ),
        (&plain, "/mcp", own_host, &["https://evil.example.com"], 403),
        (
            &plain,
            "/mcp",
            own_host,
            &["http://agents.example.com"],
            403,
        ),
        (
            &plain,
            "/mcp",
            own_host,
            &["https://agents.example.com:8443"],
            403,
        ),
        (
            &plain,
            "/mcp",
            own_host,
            &["https://agents.example.com/"],
            403,
        ),
        (
            &plain,
            "/mcp",
            own_host,
            &["https://agents.example.com.evil"],
            403,
        ),
        (&plain, "/mcp", own_host, &["http://localhost:6274"], 403),
        (&plain, "/mcp", own_host, &["null"], 403),
        (&plain, "/mcp", own_host, &[""], 403),
        (
            &plain,
            "/mcp",
            own_host,
            &["https://agents.example.com", "https://agents.example.com"],
            403,
        ),
        (
            &plain,
            "/x/..%2fmcp",
            own_host,
            &["https://evil.example.com"],
            403,
        ),
        (
            &plain,
            "/mcpx",
            own_host,
            &["https://evil.example.com"],
            200,
        ),
        (
            &plain,
            "/port",
            "other.example.com:8443",
            &["https://other.example.com:8443"],
            200,
        ),
        (
            &plain,
            "/port",
            "other.example.com:8443",
            &["https://agents.example.com"],
            403,
        ),
        // On this machine any of its pages.
        (
            &plain,
            "/local",
            "localhost:3001",
            &["http://localhost:6274"],
            200,
        ),
        (
            &plain,
            "/local",
            "127.0.0.1:3001",
            &["http://127.0.0.1:1"],
            200,
        ),
        (&plain, "/local", "localhost", &["https://[::1]:8443"], 200),
        (&plain, "/local", "localhost", &["http://localhost"], 200),
        (
            &plain,
            "/local",
            "localhost",
            &["http://localhost.evil.example.com"],
            403,
        ),
        (
            &plain,
            "/local",
            "localhost",
            &["http://evil.example.com"],
            403,
        ),
        (&plain, "/local", "localhost", &["http://10.1.2.3"], 403),
        (&plain, "/local", "localhost", &["file://"], 403),
        (&plain, "/local", evil, &["http://evil.example.com"], 421),
        // The ways out.
        (&listed, "/mcp", "inside.example.com:9000", &[], 200),
        (&listed, "/mcp", "inside.example.com", &[], 421),
        (&listed, "/mcp", own_host, &[], 200),
        (&listed, "/mcp", "other.example.com:8443", &[], 421),
        (&listed, "/mcp", "127.0.0.1", &[], 421),
        (&listed, "/mcp", own_host, &["https://app.example.com"], 200),
        (
            &listed,
            "/mcp",
            own_host,
            &["https://agents.example.com"],
            200,
        ),
        (
            &listed,
            "/mcp",
            own_host,
            &["https://evil.example.com"],
            403,
        ),
        (&listed, "/x", own_host, &["https://evil.example.com"], 200),
        (&open, "/mcp", own_host, &["https://evil.example.com"], 200),
        (
            &open,
            "/mcp",
            own_host,
            &["https://a.example", "https://b.example"],
            403,
        ),
        (&open, "/mcp", evil, &[], 421),
    ] {
        // Without a token the answer is the same, so a page learns nothing of it.
        for bearer in [Some(&token), None] {
            let mut request = Request::get(path).host(Some(host));
            for origin in origins {
                request = request.header("Origin", origin);
            }
            if let Some(token) = bearer {
                request = request.bearer(token);
            }
            let response = proxy.send(&request).await;
            let finding = match (expected, bearer) {
                (200, Some(_)) if response.status() == 200 => Ok(()),
                (200, Some(_)) => Err(format!("{} {}", response.status(), response.text())),
                (200, None) => own(&response, 401, "token_missing"),
                (403, _) => own(&response, 403, "origin_denied"),
                (_, _) => own(&response, 421, "host_not_served"),
            };
            findings.add(&format!("{path} for {host} from {origins:?}"), finding);
        }
    }
    findings.assert_none();
    // A page that may not ask may not ask whether it may, either.
    let preflight = Request::new("OPTIONS", "/mcp")
        .header("Origin", "https://evil.example.com")
        .header("Access-Control-Request-Method", "POST");
    assert_own(&plain.send(&preflight).await, 403, "origin_denied");
    let socket = Request::get("/mcp")
        .websocket()
        .header("Origin", "https://evil.example.com")
        .bearer(&token);
    assert_own(&plain.send(&socket).await, 403, "origin_denied");
}
