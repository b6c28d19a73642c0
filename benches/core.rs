//! What the pure core costs per request. Numbers count in release only.
//!
//! Targets: a ten-part rule under 1 µs, a lookup in a thousand routes under 2 µs.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use authgate::canonical::Readings;
use authgate::claims::{ClaimPath, Claims};
use authgate::clock::UnixTime;
use authgate::headers::{
    ManagedNames, MaxForwards, Outbound, Peer, Pseudonym, check_head, request_headers,
    rewrite_response,
};
use authgate::jose::{Algorithm, KeySet};
use authgate::mcp::{View, filter_answer, read_body};
use authgate::policy::{
    Access, ClaimTest, Condition, ListMode, Methods, Pattern, Policy, Requirement, Route, Scalar,
};
use authgate::token::{
    IssuerKeys, Keyring, SubjectKind, TokenCache, TypPolicy, VerifiedToken, Verifier,
    VerifierSettings, bearer_token,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::Request;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rsa::RsaPrivateKey;
use rsa::pkcs8::EncodePrivateKey as _;
use rsa::traits::PublicKeyParts as _;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

const ISSUER: &str = "https://tenant.us.auth0.com/";
const AUDIENCE: &str = "https://your-api.com";
const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// One tenant with two keys, and a token of an ordinary user.
struct Tenant {
    verifier: Verifier,
    keyring: Keyring,
    headers: HeaderMap,
}

impl Tenant {
    fn new() -> Self {
        let key = RsaPrivateKey::new(&mut rand::thread_rng(), 2048).expect("an RSA key");
        let der = key.to_pkcs8_der().expect("PKCS#8");
        let pair = RsaKeyPair::from_pkcs8(der.as_bytes()).expect("ring reads it");
        let jwk = |kid: &str| {
            json!({
                "kty":"RSA","use":"sig","alg":"RS256","kid":kid,
                "n":URL_SAFE_NO_PAD.encode(key.n().to_bytes_be()),
                "e":URL_SAFE_NO_PAD.encode(key.e().to_bytes_be()),
            })
        };
        let document = json!({"keys":[jwk("next"), jwk("current")]}).to_string();
        let (keys, _) = KeySet::parse(document.as_bytes(), &[Algorithm::Rs256]).expect("a JWK Set");
        let issuer = IssuerKeys {
            issuer: ISSUER.to_owned(),
            keys: Some(keys),
        };
        let line = format!("Bearer {}", token(&pair));
        let line = HeaderValue::try_from(line).expect("a header value");
        Self {
            verifier: Verifier::new(VerifierSettings {
                algorithms: vec![Algorithm::Rs256],
                audiences: vec![AUDIENCE.to_owned()],
                clock_tolerance: Duration::from_secs(5),
                max_token_age: None,
                typ: TypPolicy::Any,
                allow_anonymous: false,
                bound_tokens: false,
                max_token_bytes: 16 * 1024,
            }),
            keyring: Keyring::new(vec![issuer], 1),
            headers: HeaderMap::from_iter([(AUTHORIZATION, line)]),
        }
    }

    fn verify(&self) -> VerifiedToken {
        let bearer = bearer_token(&self.headers)
            .expect("well-formed")
            .expect("a token");
        let unverified = self.verifier.read(bearer).expect("readable");
        self.verifier
            .verify(&unverified, &self.keyring, NOW)
            .expect("valid")
    }
}

fn claims() -> Value {
    json!({
        "iss":ISSUER,"sub":"auth0|5f7c8ec7c33c6c004bbafe82",
        "aud":[AUDIENCE, format!("{ISSUER}userinfo")],
        "iat":1_799_999_940_u64,"exp":1_800_086_340_u64,"azp":"XyZ0aBcD1eFgH2iJkL3mNoP4qRsT5uVw",
        "scope":"openid profile email read:agents write:workflows",
        "permissions":["read:agents", "write:workflows", "run:tools"],
        "org_id":"org_9ybsU1dN2dKfDkBi","https://your-app.com/roles":["user", "admin"],
        "https://your-app.com/tier":3,
    })
}

fn token(pair: &RsaKeyPair) -> String {
    let header = json!({"alg":"RS256","typ":"JWT","kid":"current"}).to_string();
    let input = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims().to_string())
    );
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        input.as_bytes(),
        &mut signature,
    )
    .expect("a signature");
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn tokens(criterion: &mut Criterion) {
    let tenant = Tenant::new();
    criterion.bench_function("token: first sight, RS256", |bencher| {
        bencher.iter(|| black_box(&tenant).verify());
    });
    let verified = Arc::new(tenant.verify());
    let cache = TokenCache::new();
    let bearer = bearer_token(&tenant.headers)
        .expect("well-formed")
        .expect("a token");
    cache.insert(bearer.secret(), 1, verified.valid_until(), verified);
    criterion.bench_function("token: cache hit", |bencher| {
        bencher.iter(|| {
            let bearer = bearer_token(black_box(&tenant.headers))
                .expect("well-formed")
                .expect("a token");
            cache
                .get(bearer.secret().as_bytes(), 1, NOW)
                .expect("remembered")
        });
    });
}

/// Ten parts of every kind, all of which hold.
fn ten_conditions() -> Condition {
    let strings = |items: &[&str]| {
        items
            .iter()
            .map(|&item| item.to_owned())
            .collect::<Vec<_>>()
    };
    let text = |item: &str| Scalar::String(item.to_owned());
    Condition::All(vec![
        Condition::Scopes(ListMode::All, strings(&["read:agents", "write:workflows"])),
        Condition::Scopes(ListMode::Any, strings(&["admin", "openid"])),
        Condition::List(
            ClaimPath::name("permissions"),
            ListMode::All,
            strings(&["run:tools", "read:agents"]),
        ),
        Condition::Roles(
            ClaimPath::name("https://your-app.com/roles"),
            ListMode::Any,
            strings(&["owner", "admin"]),
        ),
        Condition::Organizations(strings(&["org_1", "org_2", "org_9ybsU1dN2dKfDkBi"])),
        Condition::Clients(strings(&["XyZ0aBcD1eFgH2iJkL3mNoP4qRsT5uVw"])),
        Condition::SubjectKind(SubjectKind::User),
        Condition::Claim(
            ClaimPath::name("https://your-app.com/tier"),
            ClaimTest::AtLeast(2.into()),
        ),
        Condition::Claim(
            ClaimPath::name("sub"),
            ClaimTest::StartsWith("auth0|".to_owned()),
        ),
        Condition::Not(Box::new(Condition::Any(vec![Condition::Claim(
            ClaimPath::name("org_id"),
            ClaimTest::OneOf(vec![text("org_blocked"), text("org_gone")]),
        )]))),
    ])
}

fn rules(criterion: &mut Criterion) {
    let condition = ten_conditions();
    let claims = Claims::new(claims().as_object().expect("an object").clone());
    assert_eq!(condition.holds(&claims), Ok(true));
    criterion.bench_function("rule: ten conditions", |bencher| {
        bencher.iter(|| black_box(&condition).holds(black_box(&claims)));
    });
}

/// A thousand routes of the shapes that agent backends have, some with upper-case letters.
fn thousand_routes() -> Policy {
    let mut routes = Vec::new();
    for number in 0..250 {
        for path in [
            format!("/api/agents/agent-{number}/generate"),
            format!("/api/tenants/*/Workflows/flow-{number}/**"),
            format!("/api/v{number}/threads/*/messages"),
            format!("/mcp/server-{number}/**"),
        ] {
            routes.push(Route {
                pattern: Pattern::parse(&path).expect("a pattern"),
                methods: Methods::Remaining,
                mcp: None,
                access: Access::Authenticated(Condition::All(vec![])),
                shadow: false,
            });
        }
    }
    let require = Requirement {
        condition: Condition::All(vec![]),
        shadow: false,
    };
    Policy::new(require, routes, false).expect("no duplicates")
}

fn routes(criterion: &mut Criterion) {
    let policy = thousand_routes();
    for (name, path, pattern) in [
        (
            "plain path",
            "/api/agents/agent-199/generate",
            "/api/agents/agent-199/generate",
        ),
        (
            "path with upper case",
            "/api/tenants/org_9ybsU1dN2dKfDkBi/Workflows/flow-7/runs/Run-1",
            "/api/tenants/*/Workflows/flow-7/**",
        ),
        (
            "encoded path",
            "/api/v120/threads/thread%20one/messages",
            "/api/v120/threads/*/messages",
        ),
    ] {
        let matched = policy.matched("POST", path).expect(path);
        assert_eq!(matched.route().map(|route| &**route), Some(pattern));
        criterion.bench_function(&format!("thousand routes: {name}"), |bencher| {
            bencher.iter(|| policy.matched(black_box("POST"), black_box(path)).is_ok());
        });
    }
}

fn readings(criterion: &mut Criterion) {
    let many = "/a;x/..;y/%252e%252e%252f/b%253b//c;z/./d%5ce;".repeat(20);
    for (name, path, is_ok) in [
        ("plain", "/api/agents/WeatherAgent/stream", true),
        ("encoded", "/api/v120/threads/thread%20one/messages", true),
        ("odd", "/public/..;x=y/%2e%2e/admin", true),
        (
            "a URL in a segment",
            "/api/fetch/https%3A%2F%2Fexample.com%2Fa%2Fb%3Fq%3D1%23top",
            true,
        ),
        ("nested 60 times", &format!("/%{}41", "25".repeat(60)), true),
        (
            "nested 20 times, long",
            &format!("/{}/%{}41", "a".repeat(900), "25".repeat(20)),
            true,
        ),
        (
            "one sequence, 16 KiB",
            &format!("/%41{}", "a".repeat(16 * 1024 - 4)),
            true,
        ),
        (
            "sequences, 2 KiB",
            &format!("/{}", "%E5%AD%AB".repeat(240)),
            true,
        ),
        (
            "dots, 10 KiB",
            &format!("/{}", "a./".repeat(3 * 1024)),
            true,
        ),
        (
            "two dozen parameters",
            &format!("/a{}", ";b=c".repeat(24)),
            true,
        ),
        ("too many", &many, false),
        (
            "nested 90 times",
            &format!("/%{}41", "25".repeat(90)),
            false,
        ),
    ] {
        assert_eq!(Readings::of(path).is_ok(), is_ok, "{name}");
        criterion.bench_function(&format!("readings: {name}"), |bencher| {
            bencher.iter(|| Readings::of(black_box(path)).is_ok());
        });
    }
}

/// The head of a request from a browser, and that of its answer.
fn heads(criterion: &mut Criterion) {
    let request = Request::builder().uri("/api/agents/weather/stream");
    let request = [
        ("host", "agents.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
        ("accept", "text/event-stream"),
        ("accept-encoding", "gzip, br"),
        ("authorization", "Bearer a.b.c"),
        ("content-type", "application/json"),
        ("origin", "https://app.example.com"),
        ("x-forwarded-user", "auth0|mallory"),
    ]
    .into_iter()
    .fold(request, |request, (name, value)| {
        request.header(name, value)
    });
    let (head, ()) = request.body(()).expect("a request").into_parts();
    criterion.bench_function("head: checked", |bencher| {
        bencher.iter(|| check_head(black_box(&head)).expect("sound"));
    });
    let host = check_head(&head).expect("sound");
    let managed = ManagedNames::new(&[HeaderName::from_static("x-forwarded-user")]);
    let (pseudonym, id) = (Pseudonym::new(7), HeaderValue::from_static("an-id"));
    let peer = HeaderValue::from_static("192.0.2.1");
    criterion.bench_function("head: rewritten for the agent", |bencher| {
        let outbound = Outbound {
            identity: None,
            forward_authorization: false,
            host: &host,
            scheme: "https",
            te_trailers: false,
            max_forwards: MaxForwards::Unlimited,
            reads_answer: false,
            version: head.version,
            pseudonym: &pseudonym,
            peer: Peer {
                address: Some(&peer),
                is_trusted: false,
            },
            path_prefix: None,
            request_id: &id,
        };
        bencher.iter(|| request_headers(black_box(&head.headers), &managed, &outbound));
    });
    let answer = HeaderMap::from_iter([
        (CONNECTION, HeaderValue::from_static("keep-alive")),
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (
            DATE,
            HeaderValue::from_static("Tue, 24 Nov 2026 21:00:00 GMT"),
        ),
        (TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
    ]);
    criterion.bench_function("head: rewritten for the client", |bencher| {
        bencher.iter_batched(
            || answer.clone(),
            |mut headers| {
                rewrite_response(&mut headers, &id).expect("few options");
                headers
            },
            BatchSize::SmallInput,
        );
    });
}

const MIB: usize = 1 << 20;

/// Arguments of a tool of 1 MiB: texts, and what takes the most memory when it is built.
fn long_arguments() -> Vec<(&'static str, String)> {
    let filled = |item: &str| {
        let count = (MIB - 200) / (item.len() + 1);
        format!("[{}]", vec![item; count].join(","))
    };
    let members: Vec<String> = (0..90_000).map(|one| format!("\"{one:x}\":0")).collect();
    vec![
        ("one text", format!("\"{}\"", "x".repeat(MIB - 200))),
        ("numbers", filled("0")),
        ("arrays", filled("[0]")),
        ("objects", filled(r#"{"":0}"#)),
        ("nested objects", filled(r#"{"":{"":{"":{"":0}}}}"#)),
        (
            "an object of 90,000 members",
            format!("{{{}}}", members.join(",")),
        ),
        (
            "rows of a table",
            filled(r#"{"id":"c6f1d2","name":"a name","size":1.5}"#),
        ),
    ]
}

/// Messages of 1 MiB, beside what `serde_json` needs to pass them over; and answers of 4 MiB.
fn messages(criterion: &mut Criterion) {
    for (name, arguments) in long_arguments() {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{{"a":{arguments}}}}}}}"#
        );
        assert!(
            text.len() <= MIB && read_body(text.as_bytes()).is_ok(),
            "{name}"
        );
        criterion.bench_function(
            &format!("message of 1 MiB: {name}, passed over"),
            |bencher| {
                bencher.iter(|| serde_json::from_str::<IgnoredAny>(black_box(&text)).is_ok());
            },
        );
        criterion.bench_function(&format!("message of 1 MiB: {name}"), |bencher| {
            bencher.iter(|| read_body(black_box(text.as_bytes())).is_ok());
        });
    }
    let tool = r#"{"name":"delete_user","description":"Deletes a user.","inputSchema":{"type":"object","properties":{"id":{"type":"string"}}}}"#;
    let tools = vec![tool; (4 * MIB - 100) / (tool.len() + 1)].join(",");
    let answer = format!(r#"{{"result":{{"tools":[{tools}],"ttlMs":1,"cacheScope":"public"}}}}"#);
    for (name, may_call) in [("kept", true), ("gone", false)] {
        let view = View {
            may_call: &|_| may_call,
            token_life: Some(Duration::from_secs(60)),
        };
        assert!(filter_answer(answer.as_bytes(), &view).is_ok(), "{name}");
        criterion.bench_function(
            &format!("answer of 4 MiB: 33,000 tools, {name}"),
            |bencher| {
                bencher.iter(|| filter_answer(black_box(answer.as_bytes()), &view).is_ok());
            },
        );
    }
}

criterion_group!(core, tokens, rules, routes, readings, heads, messages);
criterion_main!(core);
