//! Which request passes which rule, and by no spelling a weaker one.

use serde_json::{Value, json};

use crate::issuer::Issuer;
use crate::issuer::tokens::{CLIENT, Mint};
use crate::support::answer::parameters;
use crate::support::{Client, Findings, Proxy, Request, Setup, Upstream, assert_own, own};

const ROLES: &str = "https://your-app.com/roles";
const PERMISSIONS: &str = "https://your-app.com/permissions";

async fn start(issuer: &Issuer, upstream: &Upstream, rules: &str) -> Proxy {
    Setup::new(issuer, upstream)
        .auth0(&format!("roles_claim = \"{ROLES}\""))
        .rest(rules)
        .start()
        .await
}

/// One condition on everything.
async fn start_requiring(issuer: &Issuer, upstream: &Upstream, condition: &str) -> Proxy {
    start(issuer, upstream, &format!("[require]\n{condition}")).await
}

async fn passes(proxy: &Proxy, mint: &Mint) -> Result<bool, String> {
    let response = proxy.send(&Request::get("/x").bearer(&mint.mint())).await;
    if response.status() == 200 {
        return Ok(true);
    }
    let code = if response.text().contains("scope_missing") {
        "scope_missing"
    } else {
        "rule_denied"
    };
    own(&response, 403, code).map(|()| false)
}

/// Condition, claims (null takes one away), whether they satisfy it.
type Row = (&'static str, Value, bool);

async fn assert_conditions(table: Vec<Row>) {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let mut findings = Findings::default();
    let mut running: Option<(&str, Proxy)> = None;
    for (condition, claims, expected) in table {
        // Rows with the same condition share a process.
        let proxy = match running.take() {
            Some((same, proxy)) if same == condition => proxy,
            _ => start_requiring(&issuer, &upstream, condition).await,
        };
        let mut mint = issuer.user("auth0|alice").without("scope");
        for (name, value) in claims.as_object().expect("claims") {
            mint = if value.is_null() {
                mint.without(name)
            } else {
                mint.claim(name, value.clone())
            };
        }
        let case = format!("{condition} with {claims}");
        match passes(&proxy, &mint).await {
            Ok(passed) => findings.check(&case, passed == expected, || format!("passed: {passed}")),
            Err(finding) => findings.add(&case, Err(finding)),
        }
        running = Some((condition, proxy));
    }
    findings.assert_none();
}

#[tokio::test]
#[rustfmt::skip]
async fn scopes_and_permissions_and_roles() {
    assert_conditions(vec![
        ("scopes = [\"read:a\", \"write:a\"]", json!({ "scope": "write:a openid read:a" }), true),
        ("scopes = [\"read:a\", \"write:a\"]", json!({ "scope": "read:a" }), false),
        ("scopes = [\"read:a\", \"write:a\"]", json!({ "scope": "read:ab write:a" }), false),
        ("scopes = [\"read:a\", \"write:a\"]", json!({}), false),
        ("any_scope = [\"read:a\", \"write:a\"]", json!({ "scope": "openid write:a" }), true),
        ("any_scope = [\"read:a\", \"write:a\"]", json!({ "scope": "openid" }), false),
        ("permissions = [\"read:a\", \"write:a\"]", json!({ "permissions": ["write:a", "x", "read:a"] }), true),
        ("permissions = [\"read:a\", \"write:a\"]", json!({ "permissions": ["read:a"] }), false),
        ("permissions = [\"read:a\", \"write:a\"]", json!({ "scope": "read:a write:a" }), false),
        ("any_permission = [\"read:a\", \"write:a\"]", json!({ "permissions": ["write:a"] }), true),
        ("any_permission = [\"read:a\", \"write:a\"]", json!({ "permissions": [] }), false),
        ("roles = [\"admin\", \"user\"]", json!({ ROLES: ["user", "admin"] }), true),
        ("roles = [\"admin\", \"user\"]", json!({ ROLES: ["admin"] }), false),
        ("any_role = [\"admin\", \"user\"]", json!({ ROLES: ["user"] }), true),
        ("any_role = [\"admin\", \"user\"]", json!({ ROLES: ["User"] }), false),
        ("any_role = [\"admin\", \"user\"]", json!({ "roles": ["admin"] }), false),
        ("any_role = [\"admin\", \"user\"]", json!({}), false),
    ])
    .await;
}

#[tokio::test]
#[rustfmt::skip]
async fn who_the_token_speaks_for() {
    assert_conditions(vec![
        ("organizations = [\"org_1\", \"org_2\"]", json!({ "org_id": "org_2" }), true),
        ("organizations = [\"org_1\", \"org_2\"]", json!({ "org_id": "org_3" }), false),
        ("organizations = [\"org_1\", \"org_2\"]", json!({ "org_name": "org_1" }), false),
        ("clients = [\"client-1\"]", json!({ "azp": "client-1" }), true),
        ("clients = [\"client-1\"]", json!({ "azp": null, "client_id": "client-1" }), true),
        ("clients = [\"client-1\"]", json!({ "azp": CLIENT }), false),
        ("subjects = [\"auth0|alice\"]", json!({}), true),
        ("subjects = [\"auth0|alice\"]", json!({ "sub": "auth0|Alice" }), false),
        ("subject_kind = \"user\"", json!({}), true),
        ("subject_kind = \"user\"", json!({ "sub": "c@clients", "gty": "client-credentials" }), false),
        ("subject_kind = \"machine\"", json!({ "sub": "c@clients", "gty": "client-credentials" }), true),
        ("subject_kind = \"machine\"", json!({ "gty": "password" }), false),
    ])
    .await;
}

/// An API with `agent_subject_claims`: `sub` is an agent's or a client's id, nothing is appended to it, and the
/// RFC 9068 profile has no `gty`.
#[tokio::test]
#[rustfmt::skip]
async fn agents_and_clients_are_no_users() {
    let agent = json!({ "sub": "agt_8Zt", "sub_profile": "ai_agent", "azp": null, "client_id": "XyZ0" });
    let external = json!({ "sub": "auth0|alice", "sub_profile": "ai_agent", "azp": null, "client_id": "XyZ0" });
    let client = json!({ "sub": "XyZ0", "azp": null, "client_id": "XyZ0" });
    let service = json!({ "sub": "XyZ0", "sub_profile": "service", "azp": null, "client_id": "XyZ0" });
    let user = json!({ "sub_profile": "user", "azp": null, "client_id": "XyZ0" });
    let unknown = json!({ "sub_profile": "robot" });
    let odd = json!({ "sub_profile": ["user"] });
    let kinds = ["user", "agent", "machine", "anonymous"];
    let mut table = Vec::new();
    for (claims, kind) in [
        (agent, "agent"), (external, "agent"), (client, "machine"), (service, "machine"), (user, "user"),
        (unknown, "none"), (odd, "none"),
    ] {
        for one in kinds {
            table.push((format!("subject_kind = \"{one}\""), claims.clone(), kind == one));
            table.push((format!("not = {{ subject_kind = \"{one}\" }}"), claims.clone(), kind != one && kind != "none"));
            let around = format!("any_of = [{{ subject_kind = \"{one}\" }}, {{ subjects = [\"auth0|alice\", \"agt_8Zt\", \"XyZ0\"] }}]");
            table.push((around, claims.clone(), kind != "none"));
        }
    }
    // Rows with the same condition share a process.
    table.sort_by(|one, other| one.0.cmp(&other.0));
    let table = table.into_iter().map(|(condition, claims, passes)| (&*condition.leak(), claims, passes));
    assert_conditions(table.collect()).await;
}

#[tokio::test]
#[rustfmt::skip]
async fn any_claim_can_be_asked_for() {
    let equals = "claims = [{ claim = \"https://your-app.com/tier\", equals = \"gold\" }]";
    let contains =
        "claims = [{ claim = \"https://your-app.com/teams\", contains_any = [\"a\", \"b\"] }]";
    let path = "claims = [{ claim = [\"act\", \"sub\"], starts_with = \"agent|\" }]";
    let number = "claims = [{ claim = \"https://your-app.com/level\", ge = 3 }]";
    let absent = "claims = [{ claim = \"https://your-app.com/banned\", absent = true }]";
    assert_conditions(vec![
        (equals, json!({ "https://your-app.com/tier": "gold" }), true),
        (equals, json!({ "https://your-app.com/tier": "Gold" }), false),
        // A literal name is never taken apart.
        (equals, json!({ "https://your-app": { "com/tier": "gold" } }), false),
        (contains, json!({ "https://your-app.com/teams": ["x", "b"] }), true),
        (contains, json!({ "https://your-app.com/teams": ["x"] }), false),
        (path, json!({ "act": { "sub": "agent|7" } }), true),
        (path, json!({ "act": { "sub": "human|7" } }), false),
        (path, json!({ "act.sub": "agent|7" }), false),
        (number, json!({ "https://your-app.com/level": 3 }), true),
        (number, json!({ "https://your-app.com/level": 2.9 }), false),
        (number, json!({ "https://your-app.com/level": "9" }), false),
        (absent, json!({}), true),
        (absent, json!({ "https://your-app.com/banned": false }), false),
    ])
    .await;
}

#[tokio::test]
#[rustfmt::skip]
async fn conditions_combine() {
    let either = "any_of = [{ any_role = [\"admin\"] }, { scopes = [\"admin:all\"] }]";
    let neither = "not = { any_role = [\"banned\"] }";
    let nested = "all_of = [{ any_role = [\"user\"] }, { not = { organizations = [\"org_9\"] } }]";
    let both = "any_role = [\"user\"]\norganizations = [\"org_1\"]";
    assert_conditions(vec![
        (either, json!({ ROLES: ["admin"] }), true),
        (either, json!({ "scope": "admin:all" }), true),
        (either, json!({ ROLES: ["user"], "scope": "openid" }), false),
        (neither, json!({ ROLES: ["user"] }), true),
        (neither, json!({ ROLES: ["banned"] }), false),
        (neither, json!({}), true),
        // A claim of the wrong type refuses, even where its condition is turned round.
        (neither, json!({ ROLES: "banned" }), false),
        (neither, json!({ ROLES: { "banned": true } }), false),
        (neither, json!({ ROLES: [1] }), false),
        (nested, json!({ ROLES: ["user"] }), true),
        (nested, json!({ ROLES: ["user"], "org_id": "org_9" }), false),
        (nested, json!({ ROLES: ["user"], "org_id": ["org_9"] }), false),
        (both, json!({ ROLES: ["user"], "org_id": "org_1" }), true),
        (both, json!({ ROLES: ["user"] }), false),
    ])
    .await;
}

#[tokio::test]
async fn the_two_examples_of_the_provider_are_three_lines_each() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let permission =
        format!("[require]\nclaims = [{{ claim = \"{PERMISSIONS}\", contains = \"api:access\" }}]");
    let proxy = start(&issuer, &upstream, &permission).await;
    let user =
        |claim: &str, values: &[&str]| issuer.user("auth0|alice").claim(claim, json!(values));
    assert_eq!(
        passes(&proxy, &user(PERMISSIONS, &["api:access"])).await,
        Ok(true)
    );
    assert_eq!(
        passes(&proxy, &user(PERMISSIONS, &["other"])).await,
        Ok(false)
    );
    assert_eq!(passes(&proxy, &issuer.user("auth0|alice")).await, Ok(false));

    let proxy = start(
        &issuer,
        &upstream,
        "[require]\nany_role = [\"admin\", \"user\"]",
    )
    .await;
    assert_eq!(passes(&proxy, &user(ROLES, &["user"])).await, Ok(true));
    assert_eq!(passes(&proxy, &user(ROLES, &["guest"])).await, Ok(false));
}

#[tokio::test]
async fn a_missing_scope_is_asked_for_by_name() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(
        &issuer,
        &upstream,
        "[require]\nscopes = [\"read:agents\"]\n\
         [[route]]\npath = \"/runs/**\"\nrequire = { scopes = [\"write:runs\", \"read:runs\"] }",
    )
    .await;
    let token = issuer
        .user("auth0|alice")
        .claim("scope", "read:agents")
        .mint();
    let answer = proxy.send(&Request::get("/runs/1").bearer(&token)).await;
    assert_own(&answer, 403, "scope_missing");
    let challenge = parameters(
        "Bearer",
        answer.header("www-authenticate").expect("a challenge"),
    );
    let challenge = challenge.expect("a well-formed challenge");
    let mut scopes: Vec<&str> = challenge["scope"].split(' ').collect();
    scopes.sort_unstable();
    assert_eq!(scopes, ["read:agents", "read:runs", "write:runs"]);
    assert_eq!(
        proxy
            .send(&Request::get("/x").bearer(&token))
            .await
            .status(),
        200
    );
}

const ROUTES: &str = r#"
[[route]]
path = "/public/**"
access = "public"

[[route]]
path = "/admin/**"
require = { any_role = ["admin"] }

[[route]]
path = "/agents/*"
methods = ["GET"]

[[route]]
path = "/agents/*"
methods = ["POST"]
require = { any_role = ["user"] }

[[route]]
path = "/agents/closed"
access = "deny"

[[route]]
path = "/hooks/slack"
methods = ["POST"]
access = "public"
"#;

#[tokio::test]
async fn the_most_specific_route_decides_and_then_its_method() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let plain = issuer.user("auth0|alice").mint();
    let user = issuer
        .user("auth0|alice")
        .claim(ROLES, json!(["user"]))
        .mint();
    let admin = issuer
        .user("auth0|alice")
        .claim(ROLES, json!(["admin"]))
        .mint();
    let mut findings = Findings::default();
    for (method, path, token, status) in [
        ("GET", "/public/x", None, 200),
        ("DELETE", "/public/x/y", None, 200),
        ("GET", "/admin/x", None, 401),
        ("GET", "/admin/x", Some(&plain), 403),
        ("GET", "/admin/x", Some(&user), 403),
        ("GET", "/admin/x", Some(&admin), 200),
        ("GET", "/agents/a", None, 401),
        ("GET", "/agents/a", Some(&plain), 200),
        ("POST", "/agents/a", Some(&plain), 403),
        ("POST", "/agents/a", Some(&user), 200),
        ("PUT", "/agents/a", Some(&user), 405),
        ("GET", "/agents/closed", Some(&admin), 403),
        ("GET", "/agents/a/b", Some(&plain), 200),
        ("POST", "/hooks/slack", None, 200),
        ("GET", "/hooks/slack", Some(&admin), 405),
        ("GET", "/elsewhere", Some(&plain), 200),
        ("GET", "/elsewhere", None, 401),
    ] {
        let mut request = Request::new(method, path);
        if let Some(token) = token {
            request = request.bearer(token);
        }
        let answer = proxy.send(&request).await;
        let case = format!("{method} {path}, token {}", token.is_some());
        findings.check(&case, answer.status() == status, || {
            answer.head.first_line.clone()
        });
        if status == 405 {
            findings.add(&case, own(&answer, 405, "method_denied"));
            let allowed = answer.header("allow").unwrap_or_default().to_owned();
            findings.check(&case, allowed.contains("POST"), || {
                format!("Allow: {allowed}")
            });
        }
    }
    findings.assert_none();
}

#[tokio::test]
async fn what_no_route_matches_can_be_denied() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .top("unmatched = \"deny\"")
        .rest("[[route]]\npath = \"/api/**\"")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    assert_eq!(
        proxy
            .send(&Request::get("/api/x").bearer(&token))
            .await
            .status(),
        200
    );
    let answer = proxy.send(&Request::get("/x").bearer(&token)).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.json()["error"], "Access denied");
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn no_spelling_borrows_a_weaker_route() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let plain = issuer.user("auth0|alice").mint();
    let mut findings = Findings::default();
    for path in [
        "/public/../admin/x",
        "/public/%2e%2e/admin/x",
        "/public/%2E./admin/x",
        "/public/.%2e/admin/x",
        "/public/%252e%252e/admin/x",
        "/public/..%2fadmin/x",
        "/public/..%2Fadmin%2fx",
        "/public%2f..%2fadmin/x",
        "/public/..;/admin/x",
        "/public/..;a=b/admin/x",
        "/public/x/../../admin/x",
        "/public/./../admin/x",
        "/public//../admin/x",
        "/public/..%5cadmin/x",
        "/public/%5c..%5c..%5cadmin/x",
        "/public/..//admin/x",
        "//admin/x",
        "///admin/x",
        "/%61dmin/x",
        "/%61%64%6d%69%6e/x",
        "/ADMIN/x",
        "/Admin/x",
        "/admin//x",
        "/admin;v=1/x",
        "/admin%3bv=1/x",
        "/./admin/x",
        "/x/../admin/x",
        "/admin/./x",
        "/%2fadmin/x",
        "/%5cadmin/x",
        "/admin%2fx",
        "/admin%5cx",
    ] {
        for token in [None, Some(&plain)] {
            let mut request = Request::get(path);
            if let Some(token) = token {
                request = request.bearer(token);
            }
            let answer = proxy.send(&request).await;
            let case = format!("{path}, token {}", token.is_some());
            let refused = [400, 401, 403].contains(&answer.status());
            findings.check(&case, refused, || answer.head.first_line.clone());
        }
    }
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {} of them", upstream.requests())
    });
    findings.assert_none();
}

#[tokio::test]
async fn a_deny_is_not_talked_round() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let admin = issuer
        .user("auth0|alice")
        .claim(ROLES, json!(["admin", "user"]))
        .mint();
    for path in [
        "/agents/closed/",
        "/agents/Closed",
        "/agents/close%64",
        "/agents/closed;x",
        "/agents//closed",
        "/agents/x/../closed",
    ] {
        let answer = proxy.send(&Request::get(path).bearer(&admin)).await;
        assert!(
            [400, 403].contains(&answer.status()),
            "{path}: {}",
            answer.head.first_line
        );
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn readings_that_agree_pass_untouched() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let admin = issuer
        .user("auth0|alice")
        .claim(ROLES, json!(["admin"]))
        .mint();
    for path in [
        "/public/caf%C3%A9",
        "/public/a%20b",
        "/public/a%2Fb",
        "/public/A",
        "/public/a;v=1",
        "/public/a//b",
        "/public/",
        "/public/x%3Fy",
        "/admin/a%2Fb",
        "/admin/a/./b",
    ] {
        let answer = proxy.send(&Request::get(path).bearer(&admin)).await;
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
        assert_eq!(upstream.next().await.head.target(), path);
    }
}

#[tokio::test]
async fn paths_that_nobody_means_are_malformed() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let mut findings = Findings::default();
    for path in [
        "/public/%",
        "/public/%2",
        "/public/%zz",
        "/public/%00",
        "/public/%0d%0a",
        "/public/%7f",
        "/public/%1f",
    ] {
        findings.add(
            path,
            own(
                &proxy.send(&Request::get(path)).await,
                400,
                "path_malformed",
            ),
        );
    }
    // These may be refused by the parser already, before there is an answer of our own.
    for target in [
        &b"/public/a\\b"[..],
        b"/public/a#b",
        b"/public/caf\xc3\xa9",
        b"/public/\x7f",
        b"/public/\x01",
        b"public/x",
    ] {
        let mut client = Client::connect(proxy.data).await;
        client
            .send(&[b"GET ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat())
            .await;
        let status = client.head_or_end().await.map(|head| head.status());
        let case = String::from_utf8_lossy(target).into_owned();
        findings.check(&case, status == Some(400), || format!("{status:?}"));
    }
    findings.check("the upstream", upstream.requests() == 0, || {
        "has seen one of them".to_owned()
    });
    findings.assert_none();
}

#[tokio::test]
async fn the_query_takes_no_part() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    for (target, status) in [
        ("/public/x?/../admin/x", 200),
        ("/public/x?%00%zz", 200),
        ("/admin/x?/../public/x", 401),
        ("/admin/x?path=/public", 401),
    ] {
        assert_eq!(
            proxy.send(&Request::get(target)).await.status(),
            status,
            "{target}"
        );
    }
}

#[tokio::test]
async fn a_rule_in_shadow_lets_pass_and_tells() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(
        &issuer,
        &upstream,
        "[[route]]\npath = \"/shadow/**\"\nshadow = true\nrequire = { any_role = [\"admin\"] }",
    )
    .await;
    let token = issuer.user("auth0|alice").mint();
    assert_eq!(
        proxy
            .send(&Request::get("/shadow/x").bearer(&token))
            .await
            .status(),
        200
    );
    let line = proxy.request_line("/shadow/x").await;
    assert_eq!(line["outcome"], "forwarded");
    let told = proxy.output();
    assert!(
        told.contains("shadow"),
        "nothing about the shadow in:\n{told}"
    );
    // A shadow is no open door: what is no rule is enforced.
    assert_own(
        &proxy.send(&Request::get("/shadow/x")).await,
        401,
        "token_missing",
    );
}

#[tokio::test]
async fn rules_are_evaluated_on_every_request() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, ROUTES).await;
    let token = issuer
        .user("auth0|alice")
        .claim(ROLES, json!(["user"]))
        .mint();
    let mut client = Client::connect(proxy.data).await;
    for (path, status) in [
        ("/x", 200),
        ("/admin/x", 403),
        ("/x", 200),
        ("/admin/x", 403),
    ] {
        let answer = client.request(&Request::get(path).bearer(&token)).await;
        assert_eq!(answer.status(), status, "{path}");
    }
}
