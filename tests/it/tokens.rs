//! Which tokens pass under which settings, and where they may stand.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::issuer::keys::{Algorithm, SigningKey};
use crate::issuer::tokens::{AUDIENCE, Dialect, Mint, now};
use crate::issuer::{Issuer, secrets};
use crate::support::{Findings, Proxy, Reply, Request, Setup, Upstream, assert_own, own};

async fn assert_accepted(proxy: &Proxy, upstream: &Upstream, table: Vec<(&str, Mint)>) {
    let mut findings = Findings::default();
    for (case, mint) in table {
        let token = mint.mint();
        let response = proxy
            .send(&Request::get("/api/agents").bearer(&token))
            .await;
        findings.check(case, response.status() == 200, || response.text());
        if response.status() == 200 {
            let claims: Value = serde_json::from_str(&mint.payload_text()).expect("claims");
            let exchange = upstream.next().await;
            let user = exchange.head.get("x-forwarded-user");
            findings.check(case, user == claims["sub"].as_str(), || {
                format!("user {user:?}")
            });
        }
    }
    findings.assert_none();
}

pub async fn assert_refused(proxy: &Proxy, table: Vec<(&str, String, &str)>) {
    let mut findings = Findings::default();
    for (case, token, code) in table {
        secrets::note_token(&token);
        let response = proxy
            .send(&Request::get("/api/agents").bearer(&token))
            .await;
        findings.add(case, own(&response, 401, code));
    }
    findings.assert_none();
}

#[tokio::test]
async fn every_dialect_of_auth0_is_accepted() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let user = || issuer.user("auth0|alice");
    let mut table = vec![
        ("a machine", issuer.machine("client0123")),
        (
            "an RFC 9068 machine",
            issuer.machine("client0123").dialect(Dialect::Rfc9068Authz),
        ),
        (
            "an organization",
            user().organization("org_9ybsU1dN2dKfDkBi", "acme"),
        ),
        (
            "a social login",
            issuer.user("google-oauth2|103547991597142817347"),
        ),
        ("aud as a string", user().claim("aud", AUDIENCE)),
        ("no typ", user().without_header("typ")),
        ("typ in another case", user().header("typ", "AT+JWT")),
        ("typ in full", user().header("typ", "application/at+jwt")),
        ("no kid while one key fits", user().without_header("kid")),
        ("no scope", user().without("scope")),
        ("no iat", user().without("iat")),
        ("a fractional exp", user().claim("exp", 9_999_999_999.5)),
        ("an exp in exponent form", user().claim("exp", 1e300)),
        ("exp within the tolerance", user().expires_in(-1)),
        ("nbf within the tolerance", user().claim("nbf", now() + 3)),
        ("iat a moment ahead", user().issued_ago(-3)),
        (
            "unknown header parameters",
            user().header("cty", "x").header("nonce", 1),
        ),
        (
            "a null among the claims",
            user().claim("org_id", Value::Null),
        ),
        ("a subject of 2,048 bytes", issuer.user(&"s".repeat(2048))),
    ];
    table.extend(Dialect::ALL.map(|dialect| ("a dialect", user().dialect(dialect))));
    assert_accepted(&proxy, &upstream, table).await;
}

#[tokio::test]
async fn other_credentials_are_no_token() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer.user("auth0|alice").mint();
    let get = || Request::get("/api/agents");
    let mut findings = Findings::default();
    for (case, request) in [
        ("nothing", get()),
        (
            "Basic",
            get().header("Authorization", "Basic dXNlcjpwYXNzd29yZA=="),
        ),
        (
            "DPoP",
            get().header("Authorization", &format!("DPoP {token}")),
        ),
        (
            "a scheme that begins alike",
            get().header("Authorization", &format!("Bearer{token}")),
        ),
        ("an empty field", get().header("Authorization", "")),
        (
            "the query",
            Request::get(&format!("/api/agents?access_token={token}")),
        ),
        (
            "Mastra's query",
            Request::get(&format!("/api/agents?apiKey={token}")),
        ),
        (
            "a cookie",
            get().header(
                "Cookie",
                &format!("access_token={token}; mastra-token={token}"),
            ),
        ),
        (
            "a subprotocol",
            get()
                .websocket()
                .header("Sec-WebSocket-Protocol", &format!("bearer.{token}, chat")),
        ),
        (
            "Proxy-Authorization",
            get().header("Proxy-Authorization", &format!("Bearer {token}")),
        ),
        (
            "a body",
            Request::post("/api/agents", format!("access_token={token}"))
                .header("Content-Type", "application/x-www-form-urlencoded"),
        ),
    ] {
        findings.add(case, own(&proxy.send(&request).await, 401, "token_missing"));
    }
    findings.assert_none();
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_malformed_credential_is_the_clients_mistake() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer.user("auth0|alice").mint();
    let authorization = |value: &str| Request::get("/api/agents").header("Authorization", value);
    let mut findings = Findings::default();
    for (case, request) in [
        ("a bare scheme", authorization("Bearer")),
        (
            "two words",
            authorization(&format!("Bearer {token} {token}")),
        ),
        (
            "a list",
            authorization(&format!("Bearer {token}, Bearer {token}")),
        ),
        ("a comma", authorization(&format!("Bearer {token},"))),
        ("quotes", authorization(&format!("Bearer \"{token}\""))),
        (
            "JSON serialization",
            authorization("Bearer {\"payload\":\"e30\"}"),
        ),
        (
            "a token and an attribute",
            authorization(&format!("Bearer token={token}")),
        ),
        (
            "two fields",
            authorization(&format!("Bearer {token}")).bearer(&token),
        ),
        (
            "two fields, one of another scheme",
            authorization("Basic YTpi").bearer(&token),
        ),
        ("two fields, one empty", authorization("").bearer(&token)),
    ] {
        findings.add(
            case,
            own(&proxy.send(&request).await, 400, "authorization_malformed"),
        );
    }
    findings.assert_none();
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn the_scheme_may_be_written_in_any_case() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer.user("auth0|alice").mint();
    for value in [
        format!("bearer {token}"),
        format!("BEARER {token}"),
        format!("Bearer   {token}  "),
    ] {
        let request = Request::get("/api/agents").header("authorization", &value);
        assert_eq!(proxy.send(&request).await.status(), 200, "{value}");
    }
}

#[tokio::test]
async fn the_configured_algorithms_and_no_others() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let rsa = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
    ];
    let mut signers: Vec<(Algorithm, Arc<SigningKey>)> = rsa
        .iter()
        .map(|&algorithm| (algorithm, Arc::new(SigningKey::rsa(0))))
        .collect();
    for key in [
        SigningKey::ec(Algorithm::Es256),
        SigningKey::ec(Algorithm::Es384),
        SigningKey::ed25519(),
    ] {
        signers.push((key.default_algorithm(), Arc::new(key)));
    }
    issuer.behave(|behaviour| {
        behaviour.keys = signers
            .iter()
            .map(|(algorithm, key)| {
                let mut jwk = key.jwk();
                jwk["alg"] = json!(algorithm.name());
                jwk
            })
            .collect();
    });
    let proxy = Setup::new(&issuer, &upstream)
        .auth0(r#"algorithms = ["RS256","RS384","RS512","PS256","PS384","PS512","ES256","ES384","EdDSA"]"#)
        .start()
        .await;
    let signed = |algorithm: Algorithm, key: &Arc<SigningKey>| {
        issuer.user("auth0|alice").key(key).algorithm(algorithm)
    };
    let accepted = signers
        .iter()
        .map(|(algorithm, key)| (algorithm.name(), signed(*algorithm, key)));
    assert_accepted(&proxy, &upstream, accepted.collect()).await;

    // A key serves the one algorithm it is published for.
    let mut crossed = Vec::new();
    for (published, key) in signers.iter().take(rsa.len()) {
        for algorithm in rsa.iter().filter(|algorithm| *algorithm != published) {
            crossed.push((
                algorithm.name(),
                signed(*algorithm, key).mint(),
                "token_algorithm_not_allowed",
            ));
        }
    }
    assert_refused(&proxy, crossed).await;
}

#[tokio::test]
async fn an_ecdsa_signature_is_refused_in_any_other_form() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let key = issuer.rotate_to(SigningKey::ec(Algorithm::Es256));
    let proxy = Setup::new(&issuer, &upstream)
        .auth0(r#"algorithms = ["ES256"]"#)
        .start()
        .await;
    let user = || issuer.user("auth0|alice").key(&key);
    let mut der = vec![0x30, 0x44, 0x02, 0x20];
    der.extend_from_slice(&[0x7f; 32]);
    der.extend_from_slice(&[0x02, 0x20]);
    der.extend_from_slice(&[0x7f; 32]);
    assert_refused(
        &proxy,
        vec![
            (
                "zeroes (CVE-2022-21449)",
                user().signature(vec![0; 64]).mint(),
                "token_signature_invalid",
            ),
            (
                "DER",
                user().signature(der).mint(),
                "token_signature_invalid",
            ),
            (
                "empty",
                user().signature(Vec::new()).mint(),
                "token_signature_invalid",
            ),
        ],
    )
    .await;
    assert_accepted(&proxy, &upstream, vec![("genuine", user())]).await;
}

#[tokio::test]
async fn the_clock_tolerance_can_be_taken_away() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .auth0("clock_tolerance = \"0s\"")
        .start()
        .await;
    let user = || issuer.user("auth0|alice");
    assert_refused(
        &proxy,
        vec![
            ("just over", user().expires_in(-1).mint(), "token_expired"),
            (
                "not yet",
                user().claim("nbf", now() + 30).mint(),
                "token_not_yet_valid",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_old_token_is_refused_where_an_age_is_set() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .auth0("max_token_age = \"1h\"")
        .start()
        .await;
    let user = || issuer.user("auth0|alice");
    assert_refused(
        &proxy,
        vec![
            ("old", user().issued_ago(7200).mint(), "token_too_old"),
            (
                "of unknown age",
                user().without("iat").mint(),
                "token_missing_claim",
            ),
            (
                "of the future",
                user().issued_ago(-3600).mint(),
                "token_not_yet_valid",
            ),
        ],
    )
    .await;
    assert_accepted(&proxy, &upstream, vec![("young", user().issued_ago(1800))]).await;
}

#[tokio::test]
async fn the_strict_profile_is_rfc_9068() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .auth0("token_type = \"at+jwt\"")
        .start()
        .await;
    let strict = || issuer.user("auth0|alice").dialect(Dialect::Rfc9068);
    assert_refused(
        &proxy,
        vec![
            (
                "the default profile",
                issuer.user("auth0|alice").mint(),
                "token_type_not_allowed",
            ),
            (
                "no typ",
                strict().without_header("typ").mint(),
                "token_type_not_allowed",
            ),
            (
                "no client_id",
                strict().without("client_id").mint(),
                "token_missing_claim",
            ),
            (
                "no jti",
                strict().without("jti").mint(),
                "token_missing_claim",
            ),
            (
                "no iat",
                strict().without("iat").mint(),
                "token_missing_claim",
            ),
        ],
    )
    .await;
    let accepted = vec![
        ("plain", strict()),
        (
            "with permissions",
            issuer.user("auth0|alice").dialect(Dialect::Rfc9068Authz),
        ),
        ("typ in full", strict().header("typ", "application/AT+JWT")),
    ];
    assert_accepted(&proxy, &upstream, accepted).await;
}

#[tokio::test]
async fn anonymous_sessions_pass_where_they_are_allowed() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .auth0("allow_anonymous = true")
        .start()
        .await;
    assert_accepted(&proxy, &upstream, vec![("anonymous", issuer.anonymous())]).await;
}

#[tokio::test]
async fn the_size_of_a_token_is_limited() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let sized = |length: usize| issuer.user(&"s".repeat(length));
    let fits = |length: &usize| sized(*length).mint().len() <= 2048;
    let length = (1..2048)
        .take_while(fits)
        .last()
        .expect("a length that fits");
    let (long, longer) = (sized(length), sized(length + 1).mint());
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[limits]\ntoken_bytes = \"2KiB\"")
        .start()
        .await;
    assert_refused(&proxy, vec![("a byte too long", longer, "token_too_large")]).await;
    assert_accepted(&proxy, &upstream, vec![("as long as may be", long)]).await;
}

#[tokio::test]
async fn each_domain_is_an_issuer_with_its_own_keys() {
    let canonical = Issuer::start();
    let custom = Issuer::start_another();
    let upstream = Upstream::hello();
    let directory = tempfile::TempDir::new().expect("a directory");
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, format!("{}{}", canonical.ca_pem(), custom.ca_pem()))
        .expect("the roots");
    let proxy = Setup::bare()
        .auth0(&format!(
            "domain = [\"{}\", \"{}\"]",
            canonical.domain(),
            custom.domain()
        ))
        .auth0("audience = [\"https://another-api.com\", \"https://your-api.com\"]")
        .keys(&format!("ca_file = \"{}\"", roots.display()))
        .upstream(&upstream.url())
        .start()
        .await;
    let accepted = vec![
        ("the first", canonical.user("auth0|alice")),
        ("the second", custom.user("auth0|alice")),
        (
            "the other audience",
            custom
                .user("auth0|alice")
                .claim("aud", "https://another-api.com"),
        ),
    ];
    assert_accepted(&proxy, &upstream, accepted).await;
    let impostor = custom
        .user("auth0|alice")
        .claim("iss", canonical.issuer())
        .mint();
    assert_refused(
        &proxy,
        vec![("one signs for the other", impostor, "token_wrong_issuer")],
    )
    .await;
}

#[tokio::test]
async fn a_cached_token_expires_all_the_same() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .auth0("clock_tolerance = \"0s\"")
        .start()
        .await;
    let expiry = now() + 3;
    let token = issuer.user("auth0|alice").claim("exp", expiry).mint();
    let request = Request::get("/api/agents").bearer(&token);
    for _ in 0..3 {
        assert_eq!(proxy.send(&request).await.status(), 200);
    }
    // Only time itself brings the expiry.
    let until = Duration::from_secs(u64::try_from(expiry).expect("a time after 1970"));
    let rest = until.saturating_sub(UNIX_EPOCH.elapsed().expect("a clock after 1970"));
    tokio::time::sleep(rest).await;
    assert_own(&proxy.send(&request).await, 401, "token_expired");
}

#[tokio::test]
async fn the_query_carries_a_token_where_it_may() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[token_sources]\nquery_parameter = \"access_token\"")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let mut findings = Findings::default();
    for (target, forwarded) in [
        (format!("/api/x?access_token={token}"), "/api/x"),
        (
            format!("/api/x?a=1&access_token={token}&b=%2F&&c"),
            "/api/x?a=1&b=%2F&&c",
        ),
        (
            format!("/api/x?access_token={token}&access_tokens=2"),
            "/api/x?access_tokens=2",
        ),
    ] {
        let response = proxy.send(&Request::get(&target)).await;
        findings.check(forwarded, response.status() == 200, || response.text());
        if response.status() == 200 {
            let exchange = upstream.next().await;
            let found = exchange.head.target();
            findings.check(forwarded, found == forwarded, || found.to_owned());
        }
    }
    let query = format!("/api/x?access_token={token}");
    for (case, request) in [
        (
            "in the query and in the header",
            Request::get(&query).bearer(&token),
        ),
        (
            "twice in the query",
            Request::get(&format!("{query}&access_token={token}")),
        ),
    ] {
        findings.add(
            case,
            own(&proxy.send(&request).await, 400, "authorization_malformed"),
        );
    }
    findings.assert_none();
}

#[tokio::test]
async fn a_subprotocol_carries_a_token_where_it_may() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::WebSocket);
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[token_sources]\nwebsocket_protocol = true")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let open = |offer: String| {
        Request::get("/ws")
            .websocket()
            .header("Sec-WebSocket-Protocol", &offer)
    };
    let mut client = open(format!("chat, bearer.{token}")).open(proxy.data).await;
    assert_eq!(client.head().await.status(), 101);
    let exchange = upstream.next().await;
    assert_eq!(exchange.head.get("sec-websocket-protocol"), Some("chat"));
    assert_eq!(exchange.head.get("x-forwarded-user"), Some("auth0|alice"));

    let both = open(format!("chat, bearer.{token}")).bearer(&token);
    assert_own(&proxy.send(&both).await, 400, "authorization_malformed");
    // Outside a WebSocket handshake the field means nothing.
    let plain = Request::get("/x").header("Sec-WebSocket-Protocol", &format!("bearer.{token}"));
    assert_own(&proxy.send(&plain).await, 401, "token_missing");
}
