//! The upstream learns who the user is from the verified token and from nothing else.

use serde_json::{Value, json};

use crate::issuer::Issuer;
use crate::issuer::keys::base64url;
use crate::support::{
    Findings, Head, Proxy, Request, Response, Setup, Upstream, assert_own, within,
};

const IDENTITY: &str = r#"
[identity]
claims_header = "x-auth-claims"
[identity.headers]
"x-org-id" = "org_id"
"x-roles" = "https://your-app.com/roles"
"x-actor" = ["act", "sub"]
"#;

const PUBLIC: &str = r#"
[[route]]
path = "/public/**"
access = "public"
"#;

/// A name as the laziest backend would read it.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

/// Every spelling in which a field of the head could be taken for `name`.
fn readings<'a>(head: &'a Head, name: &str) -> Vec<&'a str> {
    let fields = head
        .fields
        .iter()
        .filter(|(field, _)| folded(field) == name);
    fields.map(|(_, value)| value.as_str()).collect()
}

fn spellings(name: &str) -> Vec<String> {
    let title = name
        .split('-')
        .map(|word| word[..1].to_uppercase() + &word[1..]);
    let title = title.collect::<Vec<_>>().join("-");
    vec![
        name.to_owned(),
        name.to_uppercase(),
        name.replace('-', "_"),
        name.replace('-', "."),
        name.replacen('-', "_", 1),
        title.replacen('-', ".", 1),
        title.replace('-', "_"),
        title,
    ]
}

#[tokio::test]
async fn no_client_can_say_who_it_is() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(IDENTITY)
        .rest(PUBLIC)
        .start()
        .await;
    let mint = issuer.user("auth0|alice").claim("org_id", "org_alice");
    let token = mint.mint();
    let claims = base64url(mint.payload_text().as_bytes());
    let expected = [
        ("x-forwarded-user", Some("auth0|alice")),
        ("x-org-id", Some("org_alice")),
        ("x-auth-claims", Some(claims.as_str())),
        // Nothing of these is in the token, so nothing of them is said.
        ("x-roles", None),
        ("x-actor", None),
        ("x-mastra-dev-playground", None),
        ("x-mastra-client-type", None),
        ("x-mastra-public-host", None),
    ];
    let mut findings = Findings::default();
    for (name, value) in expected {
        for spelling in spellings(name) {
            for path in ["/private", "/public/x"] {
                let mut requests = Vec::new();
                // A nomination also takes the false copies away, so each is sent without one too.
                for nominated in ["", name, &spelling] {
                    let anonymous = spoofing(path, &spelling, nominated);
                    requests.push((anonymous.clone().bearer(&token), value));
                    if path == "/public/x" {
                        requests.push((anonymous, None));
                    }
                }
                for (request, value) in requests {
                    let case = format!("{spelling} on {path}, expecting {value:?}");
                    let response = proxy.send(&request).await;
                    findings.check(&case, response.status() == 200, || response.text());
                    let exchange = upstream.next().await;
                    let found = readings(&exchange.head, name);
                    let right = found == value.into_iter().collect::<Vec<_>>();
                    findings.check(&case, right, || format!("{found:?}"));
                }
            }
        }
    }
    findings.assert_none();
}

/// One false copy before, one after, and a nomination that would take the true one away.
fn spoofing(path: &str, spelling: &str, nominated: &str) -> Request {
    Request::get(path)
        .header(spelling, "mallory")
        .header("Connection", &format!("close, {nominated}"))
        .header(spelling, "mallory")
}

#[tokio::test]
async fn a_connection_field_cannot_take_away_what_the_proxy_adds() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).rest(IDENTITY).start().await;
    let token = issuer
        .user("auth0|alice")
        .claim("org_id", "org_alice")
        .mint();
    let names = [
        "x-forwarded-user",
        "x-org-id",
        "x-auth-claims",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-request-id",
        "via",
    ];
    let request = Request::get("/x")
        .bearer(&token)
        .header("Connection", &names.join(", "));
    assert_eq!(proxy.send(&request).await.status(), 200);
    let exchange = upstream.next().await;
    for name in names {
        assert_eq!(exchange.head.all(name).len(), 1, "{name}");
    }
}

#[tokio::test]
async fn trailers_carry_no_identity() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(IDENTITY)
        .rest(PUBLIC)
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    for path in ["/private", "/public/x"] {
        let request = Request::new("POST", path)
            .bearer(&token)
            .header("Transfer-Encoding", "chunked")
            .header("Trailer", "X-Forwarded-User, X_Org_Id, Authorization");
        let mut client = request.open(proxy.data).await;
        let body = "2\r\nhi\r\n0\r\nX-Forwarded-User: mallory\r\nX_Forwarded_User: mallory\r\n\
                    X_Org_Id: org_mallory\r\nAuthorization: Bearer x\r\nHost: evil.example\r\n\
                    Content-Length: 5\r\n\r\n";
        client.send(body.as_bytes()).await;
        assert_eq!(client.response().await.status(), 200);
        let exchange = upstream.next().await;
        assert_eq!(exchange.body().await, b"hi");
        assert_eq!(exchange.trailers().await, Vec::new());
        assert_eq!(
            readings(&exchange.head, "x-forwarded-user"),
            ["auth0|alice"]
        );
    }
}

#[tokio::test]
async fn the_token_itself_stays_outside() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer.user("auth0|alice").mint();
    assert_eq!(
        proxy
            .send(&Request::get("/x").bearer(&token))
            .await
            .status(),
        200
    );
    let head = upstream.next().await.head;
    assert_eq!(readings(&head, "authorization"), Vec::<&str>::new());
    assert!(!crate::support::wire::latin1(&head.raw).contains(&token));
}

#[tokio::test]
async fn the_token_is_forwarded_where_that_is_asked_for() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[identity]\nforward_authorization = true")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    assert_eq!(
        proxy
            .send(&Request::get("/x").bearer(&token))
            .await
            .status(),
        200
    );
    let head = upstream.next().await.head;
    assert_eq!(
        head.get("authorization"),
        Some(format!("Bearer {token}").as_str())
    );
}

#[tokio::test]
async fn further_fields_are_stripped_on_request() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[identity]\nstrip = [\"x-internal\"]")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let request = Request::get("/x")
        .bearer(&token)
        .header("X_Internal", "1")
        .header("x-internal", "1")
        .header("x-mastra-client-type", "studio");
    assert_eq!(proxy.send(&request).await.status(), 200);
    let head = upstream.next().await.head;
    assert_eq!(readings(&head, "x-internal"), Vec::<&str>::new());
    // The setting replaces its default.
    assert_eq!(readings(&head, "x-mastra-client-type"), ["studio"]);
}

/// By which the backends of other proxies, left as they were, believe who is asking and from where.
const OTHER_PROXIES: [(&str, &str); 14] = [
    ("X-Auth-Request-Email", "admin@example.com"),
    ("Remote-User", "admin"),
    ("Remote-Groups", "admins"),
    ("X-Remote-User", "admin"),
    ("X-WEBAUTH-USER", "admin"),
    ("X-User-Id", "1"),
    ("X-Authenticated-Userid", "1"),
    ("X-Goog-Authenticated-User-Email", "admin@example.com"),
    ("X-Amzn-Oidc-Identity", "admin"),
    ("X-MS-CLIENT-PRINCIPAL-NAME", "admin"),
    ("Cf-Access-Jwt-Assertion", "e30.e30.e30"),
    ("X-SSL-Client-S-DN", "CN=admin"),
    ("SSL_CLIENT_VERIFY", "SUCCESS"),
    ("X-Original-Host", "internal.example"),
];

/// What they say of a client's address.
const ADDRESSES: [&str; 6] = [
    "X-Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "X-Cluster-Client-IP",
    "Fastly-Client-IP",
    "Forwarded-For",
];

/// S13: no client can say what another proxy would have said, on public routes too.
#[tokio::test]
async fn headers_of_other_proxies_end_here() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let token = issuer.user("auth0|alice").mint();
    let mut findings = Findings::default();
    for trusted in ["", "trusted_proxies = [\"127.0.0.0/8\"]"] {
        let proxy = Setup::new(&issuer, &upstream).top(trusted).rest(PUBLIC);
        let proxy = proxy.start().await;
        let mut request = Request::get("/public/x");
        for (name, value) in OTHER_PROXIES {
            request = request.header(name, value);
        }
        for name in ADDRESSES {
            request = request.header(name, "10.0.0.1");
        }
        for request in [request.clone(), request.bearer(&token)] {
            assert_eq!(proxy.send(&request).await.status(), 200);
            let head = upstream.next().await.head;
            for (name, _) in OTHER_PROXIES {
                let found = readings(&head, &folded(name));
                findings.check(name, found.is_empty(), || format!("{found:?}, {trusted}"));
            }
            for name in ADDRESSES {
                let found = readings(&head, &folded(name));
                let expected: &[&str] = if trusted.is_empty() {
                    &[]
                } else {
                    &["10.0.0.1"]
                };
                findings.check(name, found == expected, || format!("{found:?}, {trusted}"));
            }
        }
    }
    findings.assert_none();
}

/// A backend that was behind another proxy is told by authgate under the name that it knows.
#[tokio::test]
async fn names_of_other_proxies_can_carry_identity() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[identity]\nsubject_header = \"Remote-User\"")
        .rest("[identity.headers]\nx-user-id = \"sub\"\nX-Auth-Request-Email = \"https://your-app.com/email\"")
        .rest(PUBLIC)
        .start()
        .await;
    let names = ["remote-user", "x-user-id", "x-auth-request-email"];
    let mut request = Request::get("/public/x");
    for name in names {
        for spelling in [name.to_owned(), name.replace('-', "_")] {
            request = request.header(&spelling, "mallory");
        }
    }
    let mint = issuer.user("auth0|alice");
    let token = mint
        .claim("https://your-app.com/email", "alice@example.com")
        .mint();
    for (request, expected) in [
        (request.clone(), [&[][..], &[], &[]]),
        (
            request.bearer(&token),
            [&["auth0|alice"], &["auth0|alice"], &["alice@example.com"]],
        ),
    ] {
        assert_eq!(proxy.send(&request).await.status(), 200);
        let head = upstream.next().await.head;
        assert_eq!(
            names.map(|name| readings(&head, name)),
            expected.map(<[&str]>::to_vec)
        );
    }
}

/// Names that are near to managed ones.
#[tokio::test]
async fn what_clients_say_for_themselves_passes() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let names = [
        "x-user-agent",
        "x-tenant-id",
        "x-api-key",
        "x-amzn-trace-id",
        "x-ms-client-request-id",
        "cf-ray",
        "x-goog-api-client",
        "x-client-version",
        "x-access-token",
        "x-original-filename",
        "x-requested-with",
        "x-csrf-token",
        "last-event-id",
        "baggage",
    ];
    let token = issuer.user("auth0|alice").mint();
    let mut request = Request::get("/x").bearer(&token);
    for name in names {
        request = request.header(name, "1");
    }
    assert_eq!(proxy.send(&request).await.status(), 200);
    let head = upstream.next().await.head;
    for name in names {
        assert_eq!(head.get(name), Some("1"), "{name}");
    }
}

#[tokio::test]
async fn any_subject_makes_a_safe_header() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[identity]\nsubject_header = \"X-Auth-Sub\"")
        .start()
        .await;
    for (subject, header) in [
        (
            "auth0|507f1f77bcf86cd799439020",
            "auth0|507f1f77bcf86cd799439020",
        ),
        (
            "google-oauth2|103547991597142817347",
            "google-oauth2|103547991597142817347",
        ),
        ("client0123@clients", "client0123@clients"),
        (
            "samlp|acme|alice@example.com",
            "samlp|acme|alice@example.com",
        ),
        (" padded ", "%20padded%20"),
        ("100%", "100%25"),
        ("ad|Zoë", "ad|Zo%C3%AB"),
        ("\u{1f600}", "%F0%9F%98%80"),
        ("a,b;c=\"d\"", "a,b;c=\"d\""),
        ("!~", "!~"),
    ] {
        let token = issuer.user(subject).mint();
        assert_eq!(
            proxy
                .send(&Request::get("/x").bearer(&token))
                .await
                .status(),
            200,
            "{subject}"
        );
        let head = upstream.next().await.head;
        assert_eq!(head.get("x-auth-sub"), Some(header));
        assert_eq!(head.all("x-forwarded-user"), Vec::<&str>::new());
    }
}

#[tokio::test]
async fn claims_become_headers() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).rest(IDENTITY).start().await;
    let mint = issuer
        .user("auth0|alice")
        .claim("https://your-app.com/roles", json!(["admin", "a b", 7]))
        .claim("org_id", "org_9ybsU1dN2dKfDkBi")
        .claim("act", json!({ "sub": "agent|007", "x": { "y": 1 } }));
    let token = mint.mint();
    assert_eq!(
        proxy
            .send(&Request::get("/x").bearer(&token))
            .await
            .status(),
        200
    );
    let head = upstream.next().await.head;
    assert_eq!(head.get("x-roles"), Some("admin,a%20b,7"));
    assert_eq!(head.get("x-org-id"), Some("org_9ybsU1dN2dKfDkBi"));
    assert_eq!(head.get("x-actor"), Some("agent|007"));
    let claims = head.get("x-auth-claims").expect("the claims");
    assert_eq!(claims, base64url(mint.payload_text().as_bytes()));
}

#[tokio::test]
async fn claims_of_every_type_become_headers() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[identity.headers]\n\"x-c\" = \"c\"")
        .start()
        .await;
    let mut findings = Findings::default();
    for (value, header) in [
        (json!("text"), Some("text")),
        (
            json!("line\r\nX-Forwarded-User: mallory"),
            Some("line%0D%0AX-Forwarded-User:%20mallory"),
        ),
        (json!(7), Some("7")),
        (json!(1.5), Some("1.5")),
        (json!(true), Some("true")),
        (json!({ "a": 1 }), Some("{\"a\":1}")),
        (json!(["a", "b"]), Some("a,b")),
        (json!(["a"]), Some("a")),
        (json!("a,b"), Some("a%2Cb")),
        (json!(["a,b", "c"]), Some("a%2Cb,c")),
        (json!({ "a": 1, "b": 2 }), Some("{\"a\":1%2C\"b\":2}")),
        (json!("{\"a\":1}"), Some("%7B\"a\":1}")),
        (json!("[\"a\"]"), Some("%5B\"a\"]")),
    ] {
        let token = issuer.user("auth0|alice").claim("c", value.clone()).mint();
        let response = proxy.send(&Request::get("/x").bearer(&token)).await;
        findings.check(&value.to_string(), response.status() == 200, || {
            response.text()
        });
        let head = upstream.next().await.head;
        let found = head.get("x-c");
        findings.check(&value.to_string(), found == header, || format!("{found:?}"));
    }
    findings.assert_none();
}

#[tokio::test]
async fn a_public_route_asks_for_nothing_and_believes_nothing_false() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).rest(PUBLIC).start().await;
    let get = || Request::get("/public/x");
    let user = |response: Response, head: Head| {
        assert_eq!(response.status(), 200);
        head.get("x-forwarded-user").map(str::to_owned)
    };
    let response = proxy.send(&get()).await;
    assert_eq!(user(response, upstream.next().await.head), None);

    let token = issuer.user("auth0|alice").mint();
    let response = proxy.send(&get().bearer(&token)).await;
    assert_eq!(
        user(response, upstream.next().await.head).as_deref(),
        Some("auth0|alice")
    );

    let expired = issuer.user("auth0|alice").expires_in(-3600).mint();
    assert_own(
        &proxy.send(&get().bearer(&expired)).await,
        401,
        "token_expired",
    );
    let two = get().bearer(&token).bearer(&token);
    assert_own(&proxy.send(&two).await, 400, "authorization_malformed");
    assert_eq!(upstream.requests(), 2);
}

#[tokio::test]
async fn every_request_of_a_connection_is_judged_by_its_own_token() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let mut client = crate::support::Client::connect(proxy.data).await;
    for subject in ["auth0|alice", "auth0|bob", "auth0|alice"] {
        let request = Request::get("/x").bearer(&issuer.user(subject).mint());
        assert_eq!(client.request(&request).await.status(), 200);
        assert_eq!(
            upstream.next().await.head.get("x-forwarded-user"),
            Some(subject)
        );
    }
    assert_own(
        &client.request(&Request::get("/x")).await,
        401,
        "token_missing",
    );
}

#[tokio::test]
async fn users_do_not_mix_under_load() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| {
        let user = head.get("x-forwarded-user").unwrap_or("nobody");
        crate::support::Reply::ok(user)
    });
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8 {
        let address = proxy.data;
        let subject = format!("auth0|user-{client}");
        let token = issuer.user(&subject).mint();
        clients.spawn(async move {
            let mut connection = crate::support::Client::connect(address).await;
            for _ in 0..25 {
                let response = connection.request(&Request::get("/x").bearer(&token)).await;
                assert_eq!(response.text(), subject);
            }
        });
    }
    within("every client", async {
        while let Some(client) = clients.join_next().await {
            client.expect("a client that saw itself");
        }
    })
    .await;
}

#[tokio::test]
async fn forwarding_facts_are_not_taken_from_strangers() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let head = forwarded(&issuer, &upstream, &proxy).await;
    assert_eq!(readings(&head, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(readings(&head, "x-forwarded-proto"), ["http"]);
    assert_eq!(readings(&head, "x-forwarded-host"), ["agents.example.com"]);
    assert_eq!(
        readings(&head, "forwarded"),
        ["for=127.0.0.1;host=\"agents.example.com\";proto=http"]
    );
}

#[tokio::test]
async fn forwarding_facts_are_extended_for_trusted_proxies() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .top("trusted_proxies = [\"10.0.0.0/8\", \"127.0.0.0/8\"]")
        .start()
        .await;
    let head = forwarded(&issuer, &upstream, &proxy).await;
    assert_eq!(head.get("x-forwarded-for"), Some("203.0.113.7, 127.0.0.1"));
    assert_eq!(head.get("x-forwarded-proto"), Some("https"));
    assert_eq!(head.get("x-forwarded-host"), Some("public.example"));
    assert_eq!(head.all("x_forwarded_for"), Vec::<&str>::new());
    assert_eq!(
        head.get("forwarded"),
        Some(
            "for=203.0.113.9;proto=https;host=public.example, \
             for=127.0.0.1;host=\"agents.example.com\";proto=http"
        )
    );
}

async fn forwarded(issuer: &Issuer, upstream: &Upstream, proxy: &Proxy) -> Head {
    let request = Request::get("/x")
        .bearer(&issuer.user("auth0|alice").mint())
        .header("X-Forwarded-For", "203.0.113.7")
        .header("X_Forwarded_For", "203.0.113.8")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "public.example")
        .header(
            "Forwarded",
            "for=203.0.113.9;proto=https;host=public.example",
        );
    assert_eq!(proxy.send(&request).await.status(), 200);
    upstream.next().await.head
}

#[tokio::test]
async fn the_log_names_the_user() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer.user("auth0|alice").mint();
    assert_eq!(
        proxy
            .send(&Request::get("/x").bearer(&token))
            .await
            .status(),
        200
    );
    let line = proxy.request_line("/x").await;
    assert_eq!(line["sub"], "auth0|alice");
    assert_eq!(line["kid"], Value::from(issuer.key().kid()));
}
