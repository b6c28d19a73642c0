//! Tokens that are bound to a key of their client, and the proofs that they need (RFC 9449).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use authgate::clock::UnixTime;
use authgate::token::{NONCE_PERIOD, Nonces};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::issuer::keys::{Algorithm, SigningKey, base64url};
use crate::issuer::tokens::{Mint, now};
use crate::issuer::{Issuer, secrets};
use crate::support::answer::{own_whatever_challenge, parameters};
use crate::support::proxy::{program, run_to_end};
use crate::support::upstream::response;
use crate::support::{Client, Findings, Proxy, Reply, Request, Response, Setup, Upstream, own};

/// What clients write, though the proxy itself speaks clear text.
pub const PUBLIC: &str = "https://agents.example.com";

pub const ACCEPTED: &str = "[dpop]\nmode = \"accepted\"";
const REQUIRED: &str = "[dpop]\nmode = \"required\"";
const NONCES: &str = "[dpop]\nmode = \"accepted\"\nnonce = \"required\"";

fn setup(issuer: &Issuer, upstream: &Upstream, dpop: &str) -> Setup {
    Setup::new(issuer, upstream)
        .top(&format!("public_url = \"{PUBLIC}\""))
        .rest(dpop)
}

fn hash(bytes: &[u8]) -> String {
    base64url(digest(&SHA256, bytes).as_ref())
}

/// A client with a key of its own.
pub struct Prover {
    key: SigningKey,
    algorithm: Algorithm,
}

/// A proof under construction.
struct Draft<'p> {
    prover: &'p Prover,
    header: Value,
    claims: Value,
}

impl Prover {
    pub fn new() -> Self {
        Self::with(SigningKey::ec(Algorithm::Es256))
    }

    fn with(key: SigningKey) -> Self {
        Self {
            algorithm: key.default_algorithm(),
            key,
        }
    }

    /// The members that make the key, and no others.
    fn jwk(&self) -> Value {
        let whole = self.key.jwk();
        let names = ["kty", "crv", "x", "y", "n", "e"];
        let members = names.iter().filter(|name| whole[**name].is_string());
        members
            .map(|name| ((*name).to_owned(), whole[*name].clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    /// RFC 7638: the members in their order, which is that of a sorted map.
    fn thumbprint(&self) -> String {
        hash(self.jwk().to_string().as_bytes())
    }

    /// The same token, bound to this key.
    pub fn bind(&self, mint: Mint) -> String {
        mint.claim("cnf", json!({"jkt": self.thumbprint()})).mint()
    }

    /// A good proof for this request.
    fn draft(&self, method: &str, path: &str, token: &str) -> Draft<'_> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        Draft {
            prover: self,
            header: json!({"typ":"dpop+jwt","alg":self.algorithm.name(),"jwk":self.jwk()}),
            claims: json!({
                "jti": format!("proof-{count}"), "htm": method, "htu": format!("{PUBLIC}{path}"),
                "iat": now(), "ath": hash(token.as_bytes()),
            }),
        }
    }

    pub fn proof(&self, method: &str, path: &str, token: &str) -> String {
        self.draft(method, path, token).sign()
    }

    /// A request with a good proof.
    fn get(&self, path: &str, token: &str) -> Request {
        let proof = self.proof("GET", path, token);
        presented(Request::get(path), token).header("DPoP", &proof)
    }
}

impl Draft<'_> {
    fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    fn without(mut self, name: &str) -> Self {
        for members in [&mut self.header, &mut self.claims] {
            members.as_object_mut().expect("members").remove(name);
        }
        self
    }

    /// A proof is noted like a token: no log may hold it.
    fn sign(&self) -> String {
        let part = |value: &Value| base64url(value.to_string().as_bytes());
        let input = format!("{}.{}", part(&self.header), part(&self.claims));
        let signature = self
            .prover
            .key
            .sign(self.prover.algorithm, input.as_bytes());
        let proof = format!("{input}.{}", base64url(&signature));
        secrets::note_token(&proof);
        proof
    }
}

/// A request with the token, in the scheme of proofs.
pub fn presented(request: Request, token: &str) -> Request {
    request.header("Authorization", &format!("DPoP {token}"))
}

/// The challenges of an answer in their order, each with its error: `Bearer, DPoP invalid_dpop_proof`.
fn challenges(response: &Response, algorithms: &str) -> Result<String, String> {
    let mut told = Vec::new();
    for line in response.head.all("www-authenticate") {
        let (scheme, _) = line
            .split_once(' ')
            .ok_or(format!("no parameters: {line}"))?;
        let parameters = parameters(scheme, line)?;
        if parameters.get("realm").map(String::as_str) != Some("auth0") {
            return Err(format!("the realm in {line}"));
        }
        let expected = (scheme == "DPoP").then_some(algorithms);
        if parameters.get("algs").map(String::as_str) != expected {
            return Err(format!("algs in {line}"));
        }
        let error = parameters.get("error");
        if error.is_some() != parameters.contains_key("error_description") {
            return Err(format!(
                "error without description, or the other way round: {line}"
            ));
        }
        told.push(error.map_or(scheme.to_owned(), |error| format!("{scheme} {error}")));
    }
    Ok(told.join(", "))
}

fn refused(response: &Response, status: u16, code: &str, expected: &str) -> Result<(), String> {
    own_whatever_challenge(response, status, code)?;
    let found = challenges(response, "ES256 RS256")?;
    if found == expected {
        Ok(())
    } else {
        Err(format!("expected the challenges {expected}, found {found}"))
    }
}

/// What is wrong, the request anew, its code and its challenges.
type Row<'r> = (&'r str, Box<dyn Fn() -> Request + 'r>, &'r str, &'r str);

const OF_PROOF: &str = "Bearer, DPoP invalid_dpop_proof";
const OF_BOTH: &str = "Bearer, DPoP";

#[tokio::test]
async fn a_bound_token_counts_with_its_proof() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let dpop =
        format!("{ACCEPTED}\nalgorithms = [\"ES256\", \"ES384\", \"EdDSA\", \"RS256\", \"PS256\"]");
    let proxy = setup(&issuer, &upstream, &dpop).start().await;
    let mut provers = vec![
        Prover::new(),
        Prover::with(SigningKey::ec(Algorithm::Es384)),
        Prover::with(SigningKey::ed25519()),
        Prover::with(SigningKey::rsa(1)),
        Prover::with(SigningKey::rsa(1)),
    ];
    provers[4].algorithm = Algorithm::Ps256;
    for prover in &provers {
        let token = prover.bind(issuer.user("auth0|alice"));
        // The first time the token is verified, then it is remembered.
        for _ in 0..3 {
            let response = proxy.send(&prover.get("/api/agents?a=b", &token)).await;
            assert_eq!(response.status(), 200, "{}", response.text());
            assert_eq!(response.header("dpop-nonce"), None);
            let head = upstream.next().await.head;
            assert_eq!(head.get("x-forwarded-user"), Some("auth0|alice"));
            for name in ["dpop", "authorization"] {
                assert_eq!(head.get(name), None, "{name}");
            }
        }
        let proof = prover.proof("POST", "/api/agents", &token);
        let post = presented(Request::post("/api/agents", "{}"), &token).header("dpop", &proof);
        assert_eq!(proxy.send(&post).await.status(), 200);
        upstream.next().await;
        let again = proxy.send(&post).await;
        own_whatever_challenge(&again, 401, "dpop_proof_replayed").expect("a replay");
        let found = challenges(&again, "ES256 ES384 EdDSA RS256 PS256");
        assert_eq!(found.as_deref(), Ok(OF_PROOF));
    }
    // Beside it, everybody else passes as ever, and a proof that nobody needs is not looked at.
    let plain = issuer.user("auth0|bob").mint();
    for request in [
        Request::get("/api/agents").bearer(&plain),
        Request::get("/api/agents")
            .bearer(&plain)
            .header("DPoP", "anything"),
    ] {
        assert_eq!(proxy.send(&request).await.status(), 200);
        assert_eq!(upstream.next().await.head.get("dpop"), None);
    }
    assert_eq!(upstream.requests(), provers.len() * 4 + 2);
}

#[tokio::test]
async fn a_proof_with_one_thing_wrong_is_refused_every_time() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = setup(&issuer, &upstream, ACCEPTED).start().await;
    let (prover, stranger) = (Prover::new(), Prover::new());
    let token = prover.bind(issuer.user("auth0|alice"));
    let other_token = prover.bind(issuer.user("auth0|other"));
    let path = "/api/agents";
    let draft = || prover.draft("GET", path, &token);
    let get = |proof: &str| presented(Request::get(path), &token).header("DPoP", proof);
    let good = || draft().sign();
    let htu = |htu: &str| get(&draft().claim("htu", htu).sign());
    let private = || {
        let mut jwk = prover.jwk();
        jwk["d"] = json!("AA");
        jwk
    };
    let tampered = || {
        let proof = good();
        let (input, signature) = proof.rsplit_once('.').expect("parts");
        // The last character may have spare bits, the first one has none.
        let first = if signature.starts_with('A') { "B" } else { "A" };
        format!("{input}.{first}{}", &signature[1..])
    };
    let unsigned = || {
        let proof = good();
        let (input, _) = proof.rsplit_once('.').expect("parts");
        format!("{input}.")
    };
    let malformed = "dpop_proof_malformed";
    // Each is made anew, so that none of them is refused for having been used.
    let table: Vec<Row<'_>> = vec![
        (
            "no proof",
            Box::new(|| presented(Request::get(path), &token)),
            "dpop_proof_missing",
            OF_PROOF,
        ),
        ("an empty field", Box::new(|| get("")), malformed, OF_PROOF),
        (
            "two fields",
            Box::new(|| get(&good()).header("DPoP", &good())),
            malformed,
            OF_PROOF,
        ),
        (
            "the same field twice",
            Box::new(|| {
                let proof = good();
                get(&proof).header("dpop", &proof)
            }),
            malformed,
            OF_PROOF,
        ),
        (
            "a list",
            Box::new(|| get(&format!("{}, {}", good(), good()))),
            malformed,
            OF_PROOF,
        ),
        (
            "a scheme before it",
            Box::new(|| get(&format!("DPoP {}", good()))),
            malformed,
            OF_PROOF,
        ),
        (
            "the token itself",
            Box::new(|| get(&token)),
            malformed,
            OF_PROOF,
        ),
        (
            "no jti",
            Box::new(|| get(&draft().without("jti").sign())),
            malformed,
            OF_PROOF,
        ),
        (
            "no htm",
            Box::new(|| get(&draft().without("htm").sign())),
            malformed,
            OF_PROOF,
        ),
        (
            "no htu",
            Box::new(|| get(&draft().without("htu").sign())),
            malformed,
            OF_PROOF,
        ),
        (
            "no iat",
            Box::new(|| get(&draft().without("iat").sign())),
            malformed,
            OF_PROOF,
        ),
        (
            "no ath",
            Box::new(|| get(&draft().without("ath").sign())),
            malformed,
            OF_PROOF,
        ),
        (
            "no typ",
            Box::new(|| get(&draft().without("typ").sign())),
            malformed,
            OF_PROOF,
        ),
        (
            "no jwk",
            Box::new(|| get(&draft().without("jwk").sign())),
            malformed,
            OF_PROOF,
        ),
        (
            "another typ",
            Box::new(|| get(&draft().header("typ", "JWT").sign())),
            malformed,
            OF_PROOF,
        ),
        (
            "a private jwk",
            Box::new(|| get(&draft().header("jwk", private()).sign())),
            "dpop_key_not_allowed",
            OF_PROOF,
        ),
        (
            "a symmetric jwk",
            Box::new(|| get(&draft().header("jwk", json!({"kty":"oct","k":"AA"})).sign())),
            "dpop_key_not_allowed",
            OF_PROOF,
        ),
        (
            "alg none",
            Box::new(|| get(&draft().header("alg", "none").sign())),
            "dpop_algorithm_not_allowed",
            OF_PROOF,
        ),
        (
            "a symmetric alg",
            Box::new(|| get(&draft().header("alg", "HS256").sign())),
            "dpop_algorithm_not_allowed",
            OF_PROOF,
        ),
        (
            "unsigned",
            Box::new(|| get(&unsigned())),
            "dpop_signature_invalid",
            OF_PROOF,
        ),
        (
            "tampered",
            Box::new(|| get(&tampered())),
            "dpop_signature_invalid",
            OF_PROOF,
        ),
        (
            "a stranger's",
            Box::new(|| get(&stranger.proof("GET", path, &token))),
            "dpop_wrong_key",
            "Bearer, DPoP invalid_token",
        ),
        (
            "for another token",
            Box::new(|| get(&prover.proof("GET", path, &other_token))),
            "dpop_wrong_token",
            OF_PROOF,
        ),
        (
            "for another method",
            Box::new(|| get(&prover.proof("POST", path, &token))),
            "dpop_wrong_method",
            OF_PROOF,
        ),
        (
            "for another path",
            Box::new(|| get(&prover.proof("GET", "/api/other", &token))),
            "dpop_wrong_target",
            OF_PROOF,
        ),
        (
            "for http behind TLS",
            Box::new(|| htu("http://agents.example.com/api/agents")),
            "dpop_wrong_target",
            OF_PROOF,
        ),
        (
            "for another port",
            Box::new(|| htu("https://agents.example.com:8443/api/agents")),
            "dpop_wrong_target",
            OF_PROOF,
        ),
        (
            "for another host",
            Box::new(|| htu("https://evil.example/api/agents")),
            "dpop_wrong_target",
            OF_PROOF,
        ),
        (
            "for a host that the request names",
            Box::new(|| htu("https://evil.example/api/agents").host(Some("evil.example"))),
            "dpop_wrong_target",
            OF_PROOF,
        ),
        (
            "for a host that a proxy would name",
            Box::new(|| {
                htu("https://evil.example/api/agents").header("X-Forwarded-Host", "evil.example")
            }),
            "dpop_wrong_target",
            OF_PROOF,
        ),
        (
            "with a final slash",
            Box::new(|| htu("https://agents.example.com/api/agents/")),
            "dpop_wrong_target",
            OF_PROOF,
        ),
        (
            "an old one",
            Box::new(|| get(&draft().claim("iat", now() - 310).sign())),
            "dpop_proof_expired",
            OF_PROOF,
        ),
        (
            "one from the future",
            Box::new(|| get(&draft().claim("iat", now() + 60).sign())),
            "dpop_proof_expired",
            OF_PROOF,
        ),
    ];
    let mut findings = Findings::default();
    for (case, request, code, expected) in &table {
        // Twice: the token is remembered by then, and its proof is not.
        for _ in 0..2 {
            let response = proxy.send(&request()).await;
            findings.add(case, refused(&response, 401, code, expected));
            findings.check(case, response.header("dpop-nonce").is_none(), || {
                "a nonce".to_owned()
            });
        }
    }
    assert_eq!(upstream.requests(), 0);
    // Spellings of the same URI, and the same proof once more.
    for spelling in [
        "https://agents.example.com:443/api/agents",
        "HTTPS://Agents.Example.COM/api/agents",
        "https://agents.example.com/%61pi/./agents",
        "https://agents.example.com/api/agents?query#fragment",
    ] {
        let request = htu(spelling);
        let first = proxy.send(&request).await;
        findings.check(spelling, first.status() == 200, || first.text());
        let again = proxy.send(&request).await;
        findings.add(
            spelling,
            refused(&again, 401, "dpop_proof_replayed", OF_PROOF),
        );
    }
    findings.assert_none();
    let line = proxy
        .event("a replay", |event| event["code"] == "dpop_proof_replayed")
        .await;
    assert_eq!(line["status"], 401);
    assert_eq!(line["sub"], "auth0|alice", "whose token it was");
    assert!(
        line["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("jti")),
        "{line}"
    );
}

/// RFC 9449, sections 7.1 and 7.2: which tokens pass in which scheme, and which challenge has the error.
#[tokio::test]
async fn a_token_passes_in_its_own_scheme_only() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let prover = Prover::new();
    let bound = prover.bind(issuer.user("auth0|alice"));
    let plain = issuer.user("auth0|bob").mint();
    let expired = prover.bind(issuer.user("auth0|alice").expires_in(-60));
    let certificate = issuer
        .user("auth0|carol")
        .claim("cnf", json!({"x5t#S256": prover.thumbprint()}))
        .mint();
    let path = "/api/agents";
    let get = || Request::get(path);
    let with_proof =
        |request: Request, token: &str| request.header("DPoP", &prover.proof("GET", path, token));
    let in_query = |token: &str| Request::get(&format!("{path}?access_token={token}"));
    let offered = |token: &str| {
        get()
            .websocket()
            .header("Sec-WebSocket-Protocol", &format!("chat, bearer.{token}"))
    };
    let sources = "[token_sources]\nquery_parameter = \"access_token\"\nwebsocket_protocol = true";
    for (mode, table) in [
        (
            ACCEPTED,
            vec![
                ("nothing", get(), 401, "token_missing", OF_BOTH),
                (
                    "only a proof",
                    with_proof(get(), &bound),
                    401,
                    "token_missing",
                    OF_BOTH,
                ),
                (
                    "another scheme",
                    get().header("Authorization", "Basic YTpi"),
                    401,
                    "token_missing",
                    OF_BOTH,
                ),
                (
                    "a bound token as a bearer token",
                    get().bearer(&bound),
                    401,
                    "token_requires_dpop",
                    "Bearer invalid_token, DPoP",
                ),
                (
                    "the same with a proof",
                    with_proof(get().bearer(&bound), &bound),
                    401,
                    "token_requires_dpop",
                    "Bearer invalid_token, DPoP",
                ),
                (
                    "a bound token in the query",
                    in_query(&bound),
                    401,
                    "token_requires_dpop",
                    "Bearer invalid_token, DPoP",
                ),
                (
                    "the same with a proof",
                    with_proof(in_query(&bound), &bound),
                    401,
                    "token_requires_dpop",
                    "Bearer invalid_token, DPoP",
                ),
                (
                    "a bound token as a subprotocol",
                    with_proof(offered(&bound), &bound),
                    401,
                    "token_requires_dpop",
                    "Bearer invalid_token, DPoP",
                ),
                (
                    "a token that is not bound",
                    with_proof(presented(get(), &plain), &plain),
                    401,
                    "token_not_bound",
                    "Bearer, DPoP invalid_token",
                ),
                (
                    "the same without a proof",
                    presented(get(), &plain),
                    401,
                    "token_not_bound",
                    "Bearer, DPoP invalid_token",
                ),
                (
                    "a token of a certificate",
                    with_proof(presented(get(), &certificate), &certificate),
                    401,
                    "token_sender_constrained",
                    "Bearer, DPoP invalid_token",
                ),
                (
                    "the same as a bearer token",
                    get().bearer(&certificate),
                    401,
                    "token_sender_constrained",
                    "Bearer invalid_token, DPoP",
                ),
                (
                    "an expired token",
                    with_proof(presented(get(), &expired), &expired),
                    401,
                    "token_expired",
                    "Bearer, DPoP invalid_token",
                ),
                (
                    "an opaque token",
                    presented(get(), "opaque"),
                    401,
                    "token_encrypted_or_opaque",
                    "Bearer, DPoP invalid_token",
                ),
                (
                    "no token behind the scheme",
                    get().header("Authorization", "DPoP"),
                    400,
                    "authorization_malformed",
                    "Bearer, DPoP invalid_request",
                ),
                (
                    "two words",
                    with_proof(presented(get(), &format!("{bound} {bound}")), &bound),
                    400,
                    "authorization_malformed",
                    "Bearer, DPoP invalid_request",
                ),
                (
                    "two words as a bearer token",
                    get().bearer("a b"),
                    400,
                    "authorization_malformed",
                    "Bearer invalid_request, DPoP",
                ),
                (
                    "two schemes in two fields",
                    with_proof(presented(get().bearer(&plain), &bound), &bound),
                    400,
                    "authorization_malformed",
                    "Bearer invalid_request, DPoP invalid_request",
                ),
                (
                    "two schemes in one",
                    get().header("Authorization", &format!("Bearer {plain}, DPoP {bound}")),
                    400,
                    "authorization_malformed",
                    "Bearer invalid_request, DPoP invalid_request",
                ),
                (
                    "a token here and in the query",
                    with_proof(presented(in_query(&plain), &bound), &bound),
                    400,
                    "authorization_malformed",
                    "Bearer, DPoP invalid_request",
                ),
            ],
        ),
        (
            REQUIRED,
            vec![
                ("nothing", get(), 401, "token_missing", "DPoP"),
                (
                    "a token that is not bound",
                    get().bearer(&plain),
                    401,
                    "token_not_bound",
                    "DPoP invalid_token",
                ),
                (
                    "the same with a proof",
                    with_proof(get().bearer(&plain), &plain),
                    401,
                    "token_not_bound",
                    "DPoP invalid_token",
                ),
                (
                    "the same in the scheme of proofs",
                    with_proof(presented(get(), &plain), &plain),
                    401,
                    "token_not_bound",
                    "DPoP invalid_token",
                ),
                (
                    "a bound token as a bearer token",
                    with_proof(get().bearer(&bound), &bound),
                    401,
                    "token_requires_dpop",
                    "DPoP invalid_token",
                ),
                (
                    "a token in the query",
                    in_query(&plain),
                    401,
                    "token_not_bound",
                    "DPoP invalid_token",
                ),
                (
                    "no proof",
                    presented(get(), &bound),
                    401,
                    "dpop_proof_missing",
                    "DPoP invalid_dpop_proof",
                ),
                (
                    "no token behind the scheme",
                    get().header("Authorization", "Bearer"),
                    400,
                    "authorization_malformed",
                    "DPoP invalid_request",
                ),
            ],
        ),
        (
            "[dpop]\nmode = \"off\"",
            vec![
                ("nothing", get(), 401, "token_missing", "Bearer"),
                (
                    "the scheme is none",
                    with_proof(presented(get(), &bound), &bound),
                    401,
                    "token_missing",
                    "Bearer",
                ),
                (
                    "a bound token",
                    get().bearer(&bound),
                    401,
                    "token_sender_constrained",
                    "Bearer invalid_token",
                ),
                (
                    "the same with a proof",
                    with_proof(get().bearer(&bound), &bound),
                    401,
                    "token_sender_constrained",
                    "Bearer invalid_token",
                ),
            ],
        ),
    ] {
        let proxy = setup(&issuer, &upstream, &format!("{mode}\n{sources}"))
            .start()
            .await;
        let before = upstream.requests();
        let mut findings = Findings::default();
        for (case, request, status, code, expected) in table {
            for _ in 0..2 {
                let response = proxy.send(&request).await;
                findings.add(
                    &format!("{mode}: {case}"),
                    refused(&response, status, code, expected),
                );
            }
        }
        findings.assert_none();
        assert_eq!(upstream.requests(), before);
        if mode == REQUIRED {
            let response = proxy.send(&prover.get(path, &bound)).await;
            assert_eq!(response.status(), 200, "{}", response.text());
        }
        if mode == ACCEPTED {
            // An upgrade is a GET of the same URL, in any spelling of the scheme.
            let proof = prover.proof("GET", path, &bound);
            let open = get().websocket().header("DPoP", &proof);
            let open = open.header("Authorization", &format!("dpop {bound}"));
            let response = proxy
                .send(&open.header("Sec-WebSocket-Protocol", "chat"))
                .await;
            assert_ne!(response.status(), 401, "{}", response.text());
        }
    }
}

#[tokio::test]
async fn what_the_rules_say_is_said_in_the_scheme_of_the_token() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let rules = "[[route]]\npath = \"/api/**\"\nrequire = { scopes = [\"run:agents\"] }\n\
                 [[route]]\npath = \"/admin\"\nrequire = { subjects = [\"auth0|root\"] }\n\
                 [[route]]\npath = \"/open\"\naccess = \"public\"";
    let proxy = setup(&issuer, &upstream, &format!("{ACCEPTED}\n{rules}"))
        .start()
        .await;
    let prover = Prover::new();
    let token = prover.bind(issuer.user("auth0|alice"));
    let scopes = proxy.send(&prover.get("/api/agents", &token)).await;
    refused(
        &scopes,
        403,
        "scope_missing",
        "Bearer, DPoP insufficient_scope",
    )
    .expect("step-up");
    let lines = scopes.head.all("www-authenticate");
    let parameters = parameters("DPoP", lines[1]).expect("parameters");
    assert_eq!(parameters["scope"], "run:agents");
    let denied = proxy.send(&prover.get("/admin", &token)).await;
    refused(&denied, 403, "rule_denied", "").expect("no challenge");
    assert_eq!(upstream.requests(), 0);
    // On public routes too, a token that is sent must be good, and its proof with it.
    let missing = proxy.send(&presented(Request::get("/open"), &token)).await;
    refused(&missing, 401, "dpop_proof_missing", OF_PROOF).expect("a proof");
    let open = proxy.send(&prover.get("/open", &token)).await;
    assert_eq!(open.status(), 200);
    assert_eq!(
        upstream.next().await.head.get("x-forwarded-user"),
        Some("auth0|alice")
    );
    assert_eq!(proxy.send(&Request::get("/open")).await.status(), 200);
}

#[tokio::test]
async fn a_page_reads_the_nonce_and_the_challenges() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = setup(&issuer, &upstream, NONCES).start().await;
    let prover = Prover::new();
    let token = prover.bind(issuer.user("auth0|alice"));
    let request = prover
        .get("/api/agents", &token)
        .header("Origin", "https://app.example.com");
    let response = proxy.send(&request).await;
    refused(
        &response,
        401,
        "dpop_nonce_required",
        "Bearer, DPoP use_dpop_nonce",
    )
    .expect("a nonce");
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    let exposed = response
        .header("access-control-expose-headers")
        .expect("exposed");
    for name in ["DPoP-Nonce", "WWW-Authenticate"] {
        assert!(exposed.contains(name), "{exposed}");
    }
}

fn nonce_of(response: &Response) -> String {
    match response.head.all("dpop-nonce").as_slice() {
        [nonce] => (*nonce).to_owned(),
        nonces => panic!("nonces: {nonces:?}"),
    }
}

#[tokio::test]
async fn a_nonce_is_asked_for_and_given() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = setup(&issuer, &upstream, NONCES).start().await;
    let prover = Prover::new();
    let token = prover.bind(issuer.user("auth0|alice"));
    let path = "/api/agents";
    let with_nonce = |nonce: Value| {
        let proof = prover
            .draft("GET", path, &token)
            .claim("nonce", nonce)
            .sign();
        presented(Request::get(path), &token).header("DPoP", &proof)
    };
    let first = proxy.send(&prover.get(path, &token)).await;
    refused(
        &first,
        401,
        "dpop_nonce_required",
        "Bearer, DPoP use_dpop_nonce",
    )
    .expect("a nonce");
    let nonce = nonce_of(&first);
    for wrong in [
        json!(""),
        json!("made-up"),
        json!(7),
        json!(null),
        json!(format!("{nonce}A")),
    ] {
        let response = proxy.send(&with_nonce(wrong.clone())).await;
        refused(
            &response,
            401,
            "dpop_nonce_required",
            "Bearer, DPoP use_dpop_nonce",
        )
        .unwrap_or_else(|found| panic!("{wrong}: {found}"));
        nonce_of(&response);
    }
    assert_eq!(upstream.requests(), 0);
    // Any number of proofs may have it, each once.
    for _ in 0..3 {
        let request = with_nonce(json!(nonce));
        assert_eq!(proxy.send(&request).await.status(), 200);
        let again = proxy.send(&request).await;
        refused(&again, 401, "dpop_proof_replayed", OF_PROOF).expect("a replay");
        assert_eq!(again.header("dpop-nonce"), None);
    }
    // Nobody gets a nonce whose token or proof is bad for another reason.
    let stranger = Prover::new();
    for (request, code) in [
        (presented(Request::get(path), &token), "dpop_proof_missing"),
        (stranger.get(path, &token), "dpop_wrong_key"),
        (Request::get(path), "token_missing"),
    ] {
        let response = proxy.send(&request).await;
        own_whatever_challenge(&response, 401, code).expect(code);
        assert_eq!(response.header("dpop-nonce"), None, "{code}");
    }
}

/// A nonce of another time under a known key, while the time does not pass over into the next period.
fn nonce_ago(nonces: &Nonces, periods: u64) -> (String, u64) {
    let now = u64::try_from(now()).expect("after 1970");
    let then = now - periods * NONCE_PERIOD.as_secs();
    (
        nonces.current(UnixTime::from_secs(then)),
        now / NONCE_PERIOD.as_secs(),
    )
}

#[tokio::test]
async fn replicas_share_nonces_and_the_next_one_comes_in_time() {
    const KEY: &str = "q1w2e3r4t5y6u7i8o9p0a1s2d3f4g5h6j7k8l9";
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/missing" => Reply::Bytes(response("404 Not Found", &[], "")),
        _ => Reply::Bytes(response(
            "200 OK",
            &[
                ("Cache-Control", "private, no-transform"),
                ("DPoP-Nonce", "theirs"),
            ],
            "hello",
        )),
    });
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("nonce.key");
    std::fs::write(&file, format!("{KEY}\n")).expect("the key");
    secrets::note(KEY);
    let shared = format!("{NONCES}\nnonce_key_file = \"{}\"", file.display());
    let one = setup(&issuer, &upstream, &shared).start().await;
    let two = setup(&issuer, &upstream, &shared).start().await;
    let alone = setup(&issuer, &upstream, NONCES).start().await;
    let prover = Prover::new();
    let token = prover.bind(issuer.user("auth0|alice"));
    let with_nonce = |path: &str, nonce: &str| {
        let proof = prover
            .draft("GET", path, &token)
            .claim("nonce", nonce)
            .sign();
        presented(Request::get(path), &token).header("DPoP", &proof)
    };
    let nonce = nonce_of(&one.send(&prover.get("/api", &token)).await);
    let current = two.send(&with_nonce("/api", &nonce)).await;
    assert_eq!(current.status(), 200, "{}", current.text());
    assert_eq!(current.head.all("cache-control"), ["private, no-transform"]);
    let foreign = alone.send(&with_nonce("/api", &nonce)).await;
    refused(
        &foreign,
        401,
        "dpop_nonce_required",
        "Bearer, DPoP use_dpop_nonce",
    )
    .expect("its own key");

    let nonces = Nonces::new(KEY.as_bytes());
    loop {
        let (previous, period) = nonce_ago(&nonces, 1);
        let renewed = two.send(&with_nonce("/api", &previous)).await;
        let missing = two.send(&with_nonce("/missing", &previous)).await;
        let old = two
            .send(&with_nonce("/api", &nonce_ago(&nonces, 2).0))
            .await;
        let (current, still) = nonce_ago(&nonces, 0);
        if period != still {
            continue;
        }
        assert_eq!(renewed.status(), 200, "{}", renewed.text());
        assert_eq!(nonce_of(&renewed), current);
        // RFC 9449, section 8.2: an answer with a nonce is not for caches.
        assert_eq!(
            renewed.head.all("cache-control"),
            ["private, no-transform", "no-store"]
        );
        assert_eq!(missing.status(), 404);
        assert_eq!(missing.header("dpop-nonce"), None, "only with success");
        refused(
            &old,
            401,
            "dpop_nonce_required",
            "Bearer, DPoP use_dpop_nonce",
        )
        .expect("too old");
        assert_eq!(nonce_of(&old), current);
        break;
    }
}

#[tokio::test]
async fn a_reload_makes_no_used_proof_good_again() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = setup(&issuer, &upstream, NONCES).start().await;
    let prover = Prover::new();
    let token = prover.bind(issuer.user("auth0|alice"));
    let nonce = nonce_of(&proxy.send(&prover.get("/api", &token)).await);
    let request = || {
        let proof = prover
            .draft("GET", "/api", &token)
            .claim("nonce", nonce.as_str())
            .sign();
        presented(Request::get("/api"), &token).header("DPoP", &proof)
    };
    let used = request();
    assert_eq!(proxy.send(&used).await.status(), 200);
    proxy
        .reload(&setup(
            &issuer,
            &upstream,
            &format!("{NONCES}\nmax_age = \"10m\""),
        ))
        .await;
    let again = proxy.send(&used).await;
    refused(&again, 401, "dpop_proof_replayed", OF_PROOF).expect("remembered");
    let another = proxy.send(&request()).await;
    assert_eq!(
        another.status(),
        200,
        "the nonce is still good: {}",
        another.text()
    );
    // A remembered token is worth nothing any more where bound ones are not taken.
    proxy.reload(&Setup::new(&issuer, &upstream)).await;
    let bearer = proxy.send(&Request::get("/api").bearer(&token)).await;
    refused(
        &bearer,
        401,
        "token_sender_constrained",
        "Bearer invalid_token",
    )
    .expect("off");
    proxy.reload(&setup(&issuer, &upstream, ACCEPTED)).await;
    let again = proxy.send(&used).await;
    refused(&again, 401, "dpop_proof_replayed", OF_PROOF).expect("still remembered");
}

#[tokio::test]
async fn where_no_more_proofs_can_be_remembered_none_is_accepted() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let dpop = format!("{ACCEPTED}\nreplay_cache = 3");
    let proxy = setup(&issuer, &upstream, &dpop).start().await;
    let prover = Prover::new();
    let token = prover.bind(issuer.user("auth0|alice"));
    // Proofs that are refused take no room.
    for _ in 0..5 {
        let wrong = prover.proof("POST", "/api", &token);
        let wrong = presented(Request::get("/api"), &token).header("DPoP", &wrong);
        assert_eq!(proxy.send(&wrong).await.status(), 401);
    }
    let mut used = Vec::new();
    for _ in 0..3 {
        used.push(prover.get("/api", &token));
        assert_eq!(proxy.send(&used[used.len() - 1]).await.status(), 200);
    }
    let full = proxy.send(&prover.get("/api", &token)).await;
    refused(&full, 503, "overloaded", "").expect("full");
    assert_eq!(full.header("retry-after"), Some("1"));
    for request in &used {
        let again = proxy.send(request).await;
        refused(&again, 401, "dpop_proof_replayed", OF_PROOF).expect("nothing was forgotten");
    }
    // Who needs no proof does not notice.
    let plain = issuer.user("auth0|bob").mint();
    let plain = proxy.send(&Request::get("/api").bearer(&plain)).await;
    assert_eq!((plain.status(), upstream.requests()), (200, 4));
}

/// One holder of one bound token sends as many proofs as it can: others are served all the while.
#[tokio::test]
async fn whoever_fills_the_replay_cache_fills_no_share_of_others() {
    const CAPACITY: usize = 64;
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let dpop = format!("{ACCEPTED}\nreplay_cache = {CAPACITY}");
    let proxy = setup(&issuer, &upstream, &dpop).start().await;
    let (mallory, alice) = (Prover::new(), Prover::new());
    let stolen = mallory.bind(issuer.user("auth0|mallory"));
    let token = alice.bind(issuer.user("auth0|alice"));
    let mut flood = Client::connect(proxy.data).await;
    let mut statuses = Vec::new();
    for _ in 0..2 * CAPACITY {
        let answer = flood.request(&mallory.get("/api", &stolen)).await;
        statuses.push(answer.status());
    }
    let count = |status| statuses.iter().filter(|one| **one == status).count();
    assert_eq!(count(200), CAPACITY - CAPACITY / 4, "{statuses:?}");
    assert_eq!(count(503), 2 * CAPACITY - count(200), "{statuses:?}");
    for _ in 0..CAPACITY / 16 {
        assert_eq!(proxy.send(&alice.get("/api", &token)).await.status(), 200);
        let more = flood.request(&mallory.get("/api", &stolen)).await;
        refused(&more, 503, "overloaded", "").expect("its share is used");
    }
    // Another token for the same key has no other share.
    let used = alice.get("/api", &alice.bind(issuer.user("auth0|bob")));
    let more = proxy.send(&used).await;
    refused(&more, 503, "overloaded", "").expect("a share is that of a key");
}

/// Many proofs at a time, one of which several connections send at once: it counts once.
#[tokio::test]
async fn of_many_at_once_each_proof_counts_once() {
    const SENDERS: usize = 24;
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = setup(&issuer, &upstream, ACCEPTED)
        .arguments(&["--workers", "4"])
        .start()
        .await;
    let proxy = Arc::new(proxy);
    let prover = Prover::new();
    let token = prover.bind(issuer.user("auth0|alice"));
    let shared = prover.get("/shared", &token);
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..SENDERS {
        let (proxy, shared, own) = (
            Arc::clone(&proxy),
            shared.clone(),
            prover.get("/own", &token),
        );
        senders.spawn(async move {
            let shared = proxy.send(&shared).await.status();
            (shared, proxy.send(&own).await.status())
        });
    }
    let answers = senders.join_all().await;
    let count = |status: u16| {
        answers
            .iter()
            .filter(|(shared, _)| *shared == status)
            .count()
    };
    assert_eq!((count(200), count(401)), (1, SENDERS - 1));
    assert!(answers.iter().all(|(_, own)| *own == 200), "{answers:?}");
    assert_eq!(upstream.requests(), SENDERS + 1);
}

#[tokio::test]
async fn a_file_without_a_key_is_no_configuration() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let directory = TempDir::new().expect("a directory");
    for (name, text, words) in [
        ("short.key", Some("too short"), "less than 32 bytes"),
        ("missing.key", None, "missing.key"),
    ] {
        let key = directory.path().join(name);
        if let Some(text) = text {
            std::fs::write(&key, text).expect("a file");
        }
        let dpop = format!("{NONCES}\nnonce_key_file = \"{}\"", key.display());
        let file = directory.path().join("authgate.toml");
        std::fs::write(&file, setup(&issuer, &upstream, &dpop).text()).expect("a file");
        for command in ["check", "run"] {
            let mut program = program();
            program.args([command, "--config", &file.display().to_string()]);
            program
                .env("AUTHGATE_LISTEN", "127.0.0.1:0")
                .env("AUTHGATE_ADMIN", "off");
            let output = run_to_end(program, "").await;
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            assert_eq!(output.status.code(), Some(78), "{command}: {text}");
            assert!(
                text.contains("dpop.nonce_key_file") && text.contains(words),
                "{command}: {text}"
            );
        }
    }
}

const TOOLS: &str = "[mcp]\nread_bodies = true\n\
     [[route]]\npath = \"/mcp\"\n\
     [[route]]\npath = \"/mcp\"\nmcp.tool = \"delete_*\"\nrequire = { scopes = [\"delete\"] }";

/// Whoever brings no good proof is asked for no message, and the rules of the message hold beside the proof.
#[tokio::test]
async fn an_mcp_message_is_read_once_its_proof_holds() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = setup(&issuer, &upstream, &format!("{ACCEPTED}\n{TOOLS}"))
        .start()
        .await;
    let prover = Prover::new();
    let bare = prover.bind(issuer.user("auth0|alice"));
    let scoped = prover.bind(issuer.user("auth0|alice").claim("scope", "delete"));
    let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"delete_user"}}"#;
    let post = |token: &str| {
        presented(Request::new("POST", "/mcp"), token).header("Content-Type", "application/json")
    };
    let proof = |token: &str| prover.proof("POST", "/mcp", token);
    let refused = |response: &Response, status: u16, code: &str, id: Value, expected: &str| {
        let body: Value = response.json();
        assert_eq!(response.status(), status, "{body}");
        assert_eq!(body["error"]["data"]["code"], code);
        assert_eq!(body["id"], id, "{code}");
        let found = challenges(response, "ES256 RS256");
        assert_eq!(found.as_deref(), Ok(expected), "{code}");
    };
    for (proof, code) in [
        (None, "dpop_proof_missing"),
        (Some("a.b.c".to_owned()), "dpop_proof_malformed"),
    ] {
        let mut waiting = post(&scoped)
            .header("Content-Length", "100")
            .header("Expect", "100-continue");
        if let Some(proof) = &proof {
            waiting = waiting.header("DPoP", proof);
        }
        let mut client = waiting.open(proxy.data).await;
        let response = client.response().await;
        refused(&response, 401, code, Value::Null, OF_PROOF);
    }
    let lacking = post(&bare).header("DPoP", &proof(&bare)).body(call);
    let expected = "Bearer, DPoP insufficient_scope";
    let response = proxy.send(&lacking).await;
    refused(&response, 403, "scope_missing", json!(7), expected);
    assert_eq!(upstream.requests(), 0);
    let good = post(&scoped).header("DPoP", &proof(&scoped)).body(call);
    assert_eq!(proxy.send(&good).await.status(), 200);
    assert_eq!(upstream.next().await.body().await, call.as_bytes());
    let again = proxy.send(&good).await;
    refused(&again, 401, "dpop_proof_replayed", Value::Null, OF_PROOF);
    assert_eq!(upstream.requests(), 1);

    // The report treats a message that is not told as the proxy does.
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("authgate.toml");
    let heads_only = TOOLS.replace("read_bodies = true", "read_bodies = false");
    let text = setup(&issuer, &upstream, &format!("{ACCEPTED}\n{heads_only}")).text();
    std::fs::write(&file, text).expect("a file");
    for (token, tool, exit, code) in [
        (&scoped, None, 1, Some("mcp_body_not_read")),
        (&scoped, Some("delete_user"), 0, None),
        (&bare, Some("delete_user"), 1, Some("scope_missing")),
        (&bare, Some("read"), 0, None),
    ] {
        let mut command = program();
        command.args(["explain", "--json", "--path", "/mcp", "--method", "POST"]);
        command.args(["--config", &file.display().to_string()]);
        command.args(tool.iter().flat_map(|tool| ["--mcp-tool", tool]));
        let output = run_to_end(command, &format!("DPoP {token}")).await;
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["code"].as_str(), code, "{tool:?} {report}");
        assert_eq!(output.status.code(), Some(exit), "{tool:?} {report}");
    }
}

/// The report says what a token needs, and judges what it can.
#[tokio::test]
async fn explain_says_that_a_proof_is_needed() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let prover = Prover::new();
    let token = prover.bind(issuer.user("auth0|alice"));
    let plain = issuer.user("auth0|bob").mint();
    let rules = "[[route]]\npath = \"/admin\"\nrequire = { subjects = [\"auth0|root\"] }";
    let directory = TempDir::new().expect("a directory");
    for (mode, pasted, path, exit, code, words) in [
        (
            ACCEPTED,
            format!("DPoP {token}"),
            "/api",
            0,
            None,
            "with a good DPoP proof, which is not judged here, as auth0|alice",
        ),
        (
            ACCEPTED,
            format!("DPoP {token}"),
            "/admin",
            1,
            Some("rule_denied"),
            "/admin",
        ),
        (
            ACCEPTED,
            token.clone(),
            "/api",
            1,
            Some("token_requires_dpop"),
            "Authorization: DPoP",
        ),
        (
            ACCEPTED,
            format!("DPoP {plain}"),
            "/api",
            1,
            Some("token_not_bound"),
            "the scheme Bearer",
        ),
        (
            REQUIRED,
            plain.clone(),
            "/api",
            1,
            Some("token_not_bound"),
            "required",
        ),
        (
            "[dpop]",
            token.clone(),
            "/api",
            1,
            Some("token_sender_constrained"),
            "dpop.mode = \"accepted\"",
        ),
        (
            "[dpop]",
            format!("DPoP {token}"),
            "/api",
            1,
            Some("token_missing"),
            "DPoP",
        ),
    ] {
        let file = directory.path().join("authgate.toml");
        let text = setup(&issuer, &upstream, &format!("{mode}\n{rules}")).text();
        std::fs::write(&file, text).expect("a file");
        let mut command = program();
        command.args([
            "explain",
            "--json",
            "--path",
            path,
            "--config",
            &file.display().to_string(),
        ]);
        let output = run_to_end(command, &pasted).await;
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(output.status.code(), Some(exit), "{report}");
        assert_eq!(report["code"].as_str(), code, "{report}");
        let diagnosis = report["diagnosis"].as_str().expect("a diagnosis");
        assert!(diagnosis.contains(words), "{diagnosis}");
        let steps = report["steps"].as_array().expect("steps");
        let proof = steps.iter().find(|step| step["check"] == "token.proof");
        let is_judged = pasted.starts_with("DPoP") && mode == ACCEPTED && !pasted.contains(&plain);
        assert_eq!(proof.is_some(), is_judged, "{report}");
        if let Some(proof) = proof {
            assert_eq!(proof["outcome"], "note");
            let expected = proof["expected"].as_str().expect("a text");
            assert!(
                expected.contains(&format!("GET {PUBLIC}{path}")),
                "{expected}"
            );
        }
    }
}

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Two resources, and tokens that are good at one of them only.
fn with_resources(setup: Setup) -> Setup {
    setup.rest(
        "[[resource]]\nurl = \"https://agents.example.com/a\"\n\
         [[resource]]\nurl = \"https://agents.example.com/b\"\n\
         [[route]]\npath = \"/a/**\"\nrequire = { scopes = [\"read:a\"] }\n",
    )
}

#[tokio::test]
async fn the_metadata_of_a_resource_tells_of_proofs() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let required = format!("{REQUIRED}\nalgorithms = [\"EdDSA\", \"ES256\"]");
    for (dpop, algorithms, is_required) in [
        ("", None, None),
        ("[dpop]", None, None),
        (ACCEPTED, Some(json!(["ES256", "RS256"])), None),
        (
            &required,
            Some(json!(["EdDSA", "ES256"])),
            Some(json!(true)),
        ),
    ] {
        let proxy = with_resources(setup(&issuer, &upstream, dpop))
            .start()
            .await;
        for resource in ["a", "b"] {
            let path = format!("{WELL_KNOWN}/{resource}");
            let found = proxy.send(&Request::get(&path)).await.json();
            assert_eq!(
                found.get("dpop_signing_alg_values_supported"),
                algorithms.as_ref(),
                "{dpop}"
            );
            assert_eq!(
                found.get("dpop_bound_access_tokens_required"),
                is_required.as_ref(),
                "{dpop}"
            );
            assert_eq!(found["bearer_methods_supported"], json!(["header"]));
        }
    }
}

/// An ingress that strips `/team-a`: clients, Auth0 and proofs know the whole path, requests have the rest.
#[tokio::test]
async fn behind_a_stripped_prefix_urls_are_those_of_clients() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let resource = |path: &str| format!("[[resource]]\nurl = \"{PUBLIC}{path}\"\n");
    let proxy = setup(&issuer, &upstream, ACCEPTED)
        .top("path_prefix = \"/team-a\"")
        .rest(&resource("/team-a/mcp"))
        .rest(&resource("/team-a/team-a/mcp"))
        .rest("[[route]]\npath = \"/mcp/**\"\nrequire = { scopes = [\"read:a\"] }\n")
        .start()
        .await;
    let public_metadata = format!("{PUBLIC}{WELL_KNOWN}/team-a/mcp");

    let answer = proxy.send(&Request::get("/mcp")).await;
    let told = format!("resource_metadata=\"{public_metadata}\"");
    for challenge in answer.head.all("www-authenticate") {
        assert!(challenge.contains(&told), "{challenge}");
    }
    // Where the path with the prefix is that of another resource without, the first one counts.
    for (path, expected) in [
        ("/team-a/mcp", "/team-a/mcp"),
        ("/mcp", "/team-a/mcp"),
        ("/team-a/team-a/mcp", "/team-a/team-a/mcp"),
    ] {
        let path = format!("{WELL_KNOWN}{path}");
        let found = proxy.send(&Request::get(&path)).await.json();
        assert_eq!(found["resource"], format!("{PUBLIC}{expected}"), "{path}");
    }
    let wrong = Request::get(&format!("{WELL_KNOWN}/team-b/mcp"));
    assert_eq!(
        own(&proxy.send(&wrong).await, 404, "resource_unknown"),
        Ok(())
    );
    // The checks against DNS rebinding are of that resource too.
    let rebound = Request::get("/mcp").host(Some("evil.example"));
    assert_eq!(
        own(&proxy.send(&rebound).await, 421, "host_not_served"),
        Ok(())
    );

    let prover = Prover::new();
    let mint = |audience: &str| {
        let mint = issuer.user("auth0|alice").claim("scope", "read:a");
        prover.bind(mint.claim("aud", format!("{PUBLIC}{audience}")))
    };
    let token = mint("/team-a/mcp");
    let ask = async |arrives: &str, made_for: &str| {
        let proof = prover.proof("GET", made_for, &token);
        let request = presented(Request::get(arrives), &token).header("DPoP", &proof);
        proxy
            .send(&request.header("X-Forwarded-Prefix", "/evil"))
            .await
    };
    for (arrives, made_for) in [("/mcp", "/team-a/mcp"), ("/mcp/../mcp", "/team-a/mcp")] {
        assert_eq!(ask(arrives, made_for).await.text(), "hello", "{arrives}");
        let head = upstream.next().await.head;
        assert_eq!(head.all("x-forwarded-prefix"), ["/team-a"]);
        assert_eq!(head.target(), arrives);
    }
    for (arrives, made_for) in [
        ("/mcp", "/mcp"),
        ("/mcp", "/evil/mcp"),
        ("/mcp", "/team-a/team-a/mcp"),
        // What lies beside the prefix is another service's.
        ("/../mcp", "/mcp"),
    ] {
        let answer = ask(arrives, made_for).await;
        let found = own_whatever_challenge(&answer, 401, "dpop_wrong_target");
        assert_eq!(found, Ok(()), "{arrives} {made_for}");
    }
    assert_eq!(upstream.requests(), 2);
}

/// Without it nobody makes one up, and only a trusted proxy may say it.
#[tokio::test]
async fn a_prefix_that_is_not_configured_is_a_trusted_proxys_word() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let token = issuer.user("auth0|alice").mint();
    let request = Request::get("/x")
        .bearer(&token)
        .header("X-Forwarded-Prefix", "/team-a");
    for (trusted, expected) in [("[]", &[][..]), ("[\"127.0.0.0/8\"]", &["/team-a"])] {
        let proxy = Setup::new(&issuer, &upstream)
            .top(&format!("trusted_proxies = {trusted}"))
            .start()
            .await;
        assert_eq!(proxy.send(&request).await.text(), "hello");
        let head = upstream.next().await.head;
        assert_eq!(head.all("x-forwarded-prefix"), expected, "{trusted}");
    }
}

/// Whatever the scheme, a client learns where the metadata is, and what to ask for where a token is wanted.
#[tokio::test]
async fn every_challenge_of_a_resource_names_its_metadata() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let accepted = with_resources(setup(&issuer, &upstream, ACCEPTED))
        .start()
        .await;
    let (prover, other) = (Prover::new(), Prover::new());
    let mint = || issuer.user("auth0|alice").claim("scope", "read:a");
    let token = prover.bind(mint());
    let of_b = prover.bind(mint().claim("aud", "https://agents.example.com/b"));
    let poor = prover.bind(issuer.user("auth0|alice").claim("scope", "other"));
    let at = |request: Request| presented(request, &token);
    let wanted = Some("read:a");
    for (request, status, code, errors, scopes) in [
        (
            Request::get("/a"),
            401,
            "token_missing",
            OF_BOTH,
            [wanted, wanted],
        ),
        (
            Request::get("/a").bearer(&token),
            401,
            "token_requires_dpop",
            "Bearer invalid_token, DPoP",
            [wanted, wanted],
        ),
        (
            at(Request::get("/a")),
            401,
            "dpop_proof_missing",
            OF_PROOF,
            [None, None],
        ),
        (
            at(Request::get("/a")).header("DPoP", &other.proof("GET", "/a", &token)),
            401,
            "dpop_wrong_key",
            "Bearer, DPoP invalid_token",
            [wanted, wanted],
        ),
        (
            prover.get("/a", &of_b),
            401,
            "token_wrong_audience",
            "Bearer, DPoP invalid_token",
            [wanted, wanted],
        ),
        (
            prover.get("/a", &poor),
            403,
            "scope_missing",
            "Bearer, DPoP insufficient_scope",
            [None, wanted],
        ),
        (
            Request::get("/a").header("Authorization", "Bearer a, DPoP b"),
            400,
            "authorization_malformed",
            "Bearer invalid_request, DPoP invalid_request",
            [None, None],
        ),
    ] {
        let response = accepted.send(&request).await;
        refused(&response, status, code, errors).expect(code);
        let lines = response.head.all("www-authenticate");
        for ((scheme, line), scope) in ["Bearer", "DPoP"].iter().zip(&lines).zip(scopes) {
            let found = parameters(scheme, line).expect("a challenge");
            let metadata = format!("{PUBLIC}{WELL_KNOWN}/a");
            assert_eq!(
                found.get("resource_metadata"),
                Some(&metadata),
                "{code}: {line}"
            );
            assert_eq!(
                found.get("scope").map(String::as_str),
                scope,
                "{code}: {line}"
            );
        }
    }
    assert_eq!(upstream.requests(), 0);
    // A token is good where it is for, and nothing is said of a resource elsewhere.
    let path = "/b/x";
    assert_eq!(accepted.send(&prover.get(path, &of_b)).await.status(), 200);
    let elsewhere = accepted.send(&prover.get("/elsewhere", &of_b)).await;
    refused(
        &elsewhere,
        401,
        "token_wrong_audience",
        "Bearer, DPoP invalid_token",
    )
    .expect("refused");
    for line in elsewhere.head.all("www-authenticate") {
        assert!(!line.contains("resource_metadata"), "{line}");
    }

    let required = with_resources(setup(&issuer, &upstream, REQUIRED))
        .start()
        .await;
    let response = required.send(&Request::get("/a")).await;
    refused(&response, 401, "token_missing", "DPoP").expect("one");
    let [line] = response.head.all("www-authenticate")[..] else {
        panic!("not one challenge");
    };
    assert!(
        line.contains("/.well-known/oauth-protected-resource/a\""),
        "{line}"
    );
}

/// The report looks at the audience of a bound token too.
#[tokio::test]
async fn explain_says_that_a_bound_token_is_for_another_resource() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let prover = Prover::new();
    let mint = issuer.user("auth0|alice").claim("scope", "read:a");
    let token = prover.bind(mint.claim("aud", "https://agents.example.com/b"));
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("authgate.toml");
    let text = with_resources(setup(&issuer, &upstream, ACCEPTED)).text();
    std::fs::write(&file, text).expect("a file");
    for (path, exit, code, outcome) in [
        ("/a", 1, Some("token_wrong_audience"), "failed"),
        ("/b", 0, None, "passed"),
    ] {
        let mut command = program();
        command.args([
            "explain",
            "--json",
            "--path",
            path,
            "--config",
            &file.display().to_string(),
        ]);
        let output = run_to_end(command, &format!("DPoP {token}")).await;
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(output.status.code(), Some(exit), "{report}");
        assert_eq!(report["code"].as_str(), code, "{report}");
        let steps = report["steps"].as_array().expect("steps");
        let audience = steps.iter().find(|step| step["check"] == "resource.aud");
        assert_eq!(audience.expect("a step")["outcome"], outcome, "{report}");
    }
}

/// `check` shows what is in force.
#[tokio::test]
async fn check_prints_the_settings() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("authgate.toml");
    std::fs::write(&file, setup(&issuer, &upstream, NONCES).text()).expect("a file");
    let mut command = program();
    command.args(["check", "--config", &file.display().to_string()]);
    let output = run_to_end(command, "").await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for (name, value) in [
        ("public_url", PUBLIC),
        ("dpop.mode", "accepted"),
        ("dpop.algorithms", "ES256, RS256"),
        ("dpop.max_age", "300s"),
        ("dpop.nonce", "required"),
        ("dpop.replay_cache", "250000"),
    ] {
        let line = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name));
        assert!(
            line.is_some_and(|line| line.ends_with(value)),
            "{name} in\n{text}"
        );
    }
}

/// A flood of proofs with the right key and wrong signatures keeps nobody else waiting for ever.
#[tokio::test]
async fn forged_proofs_stand_before_nobody_else() {
    const FORGERS: usize = 16;
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = setup(&issuer, &upstream, ACCEPTED)
        .arguments(&["--workers", "1"])
        .start()
        .await;
    let proxy: Arc<Proxy> = Arc::new(proxy);
    let (prover, stolen) = (Prover::new(), Prover::new());
    let token = prover.bind(issuer.user("auth0|alice"));
    let stolen_token = stolen.bind(issuer.user("auth0|mallory"));
    let proof = stolen.proof("GET", "/api", &stolen_token);
    let (input, _) = proof.rsplit_once('.').expect("parts");
    let forged = format!("{input}.{}", base64url(&[7; 64]));
    let forged = presented(Request::get("/api"), &stolen_token).header("DPoP", &forged);
    let refused_so_far = Arc::new(AtomicUsize::new(0));
    let mut forgers = tokio::task::JoinSet::new();
    for _ in 0..FORGERS {
        let (proxy, forged, count) = (
            Arc::clone(&proxy),
            forged.clone(),
            Arc::clone(&refused_so_far),
        );
        forgers.spawn(async move {
            let mut client = Client::connect(proxy.data).await;
            loop {
                let response = client.request(&forged).await;
                own_whatever_challenge(&response, 401, "dpop_signature_invalid").expect("refused");
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let plain = issuer.user("auth0|bob").mint();
    while refused_so_far.load(Ordering::SeqCst) < 200 {
        let with_proof = proxy.send(&prover.get("/api", &token)).await;
        assert_eq!(with_proof.status(), 200, "{}", with_proof.text());
        let without = proxy.send(&Request::get("/api").bearer(&plain)).await;
        assert_eq!(without.status(), 200, "{}", without.text());
        let newcomer = issuer.user("auth0|newcomer").claim("jti", now()).mint();
        let newcomer = proxy.send(&Request::get("/api").bearer(&newcomer)).await;
        assert_eq!(newcomer.status(), 200, "{}", newcomer.text());
    }
    forgers.abort_all();
}
