//! Proofs of possession: RFC 9449's own example, and tables of proofs that each have one thing wrong.

use std::sync::OnceLock;
use std::time::Duration;

use authgate::clock::UnixTime;
use authgate::identity::{BoundIdentity, Credential, IdentitySettings};
use authgate::jose::Algorithm;
use authgate::token::{
    Binding, IAT_LEAD, Keyring, NONCE_PERIOD, NonceAge, Nonces, NotRecorded, Proof, ProofError,
    ProofSettings, ProofTarget, PublicOrigin, ReplayCache, VerifiedToken, Verifier,
    VerifierSettings, proof_header,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::mint::{
    ABSENT, Draft, ISSUER, NOW, Signer, Verdict, base64url, edited, issuer, judge, non_canonical,
    overlaid, settings, sign_text,
};
use super::secrets::assert_hidden;

const MAX_AGE: u64 = 300;
const JTI: &str = "6f7a1d1e-6a3f-4d5b-9c8e-2b1a0f9e8d7c";

/// The client's key, and what proofs are made of unless a row says otherwise.
struct Client {
    signer: Signer,
    algorithm: &'static str,
    token: VerifiedToken,
    text: String,
}

/// RFC 7638, by the letter of its section 3.
fn thumbprint(jwk: &Value) -> String {
    let member = |name: &str| jwk[name].as_str().expect("a text").to_owned();
    let text = match jwk["kty"].as_str() {
        Some("RSA") => json!({"e": member("e"), "kty": "RSA", "n": member("n")}).to_string(),
        Some("EC") => {
            json!({"crv": member("crv"), "kty": "EC", "x": member("x"), "y": member("y")})
                .to_string()
        }
        _ => json!({"crv": member("crv"), "kty": "OKP", "x": member("x")}).to_string(),
    };
    base64url(digest(&SHA256, text.as_bytes()).as_ref())
}

/// The issuer's side, which takes bound tokens.
fn issue(cnf: &Value) -> (Verdict, String) {
    static ISSUER_KEY: OnceLock<Signer> = OnceLock::new();
    let key = ISSUER_KEY.get_or_init(Signer::ed25519);
    let allowed = [Algorithm::EdDsa];
    let keys = [key.jwk(&json!({"kid":"k1","alg":"EdDSA"}))];
    let keyring = Keyring::new(vec![issuer(ISSUER, &keys, &allowed)], 1);
    let verifier = Verifier::new(VerifierSettings {
        algorithms: allowed.to_vec(),
        bound_tokens: true,
        ..settings()
    });
    let token = Draft::new(&json!({"alg":"EdDSA"}), &json!({ "cnf": cnf })).sign(key);
    (
        judge(&verifier, &keyring, &token, UnixTime::from_secs(NOW)),
        token,
    )
}

impl Client {
    fn new(signer: Signer, algorithm: &'static str) -> Self {
        let (verdict, text) = issue(&json!({"jkt": thumbprint(signer.public())}));
        let Verdict::Accepted(token) = verdict else {
            panic!("{verdict:?}");
        };
        Self {
            signer,
            algorithm,
            token: *token,
            text,
        }
    }

    fn p256() -> Self {
        Self::new(Signer::p256(), "ES256")
    }

    fn binding(&self) -> &Binding {
        self.token.binding().expect("bound")
    }

    fn header(&self) -> Value {
        json!({"typ":"dpop+jwt","alg":self.algorithm,"jwk":self.signer.public()})
    }

    fn claims(&self) -> Value {
        let ath = base64url(digest(&SHA256, self.text.as_bytes()).as_ref());
        json!({
            "jti": JTI, "htm": "GET", "htu": "https://api.example.com/api/agents",
            "iat": NOW, "ath": ath,
        })
    }

    /// A proof with these members changed.
    fn proof(&self, header: &Value, claims: &Value) -> String {
        let header = edited(&self.header(), header).to_string();
        let claims = edited(&self.claims(), claims).to_string();
        self.signed(header.as_bytes(), claims.as_bytes())
    }

    fn signed(&self, header: &[u8], claims: &[u8]) -> String {
        let input = format!("{}.{}", base64url(header), base64url(claims));
        sign_text(&input, &self.signer, self.algorithm)
    }

    fn identity(&self) -> BoundIdentity {
        let settings = IdentitySettings {
            subject_header: HeaderName::from_static("x-forwarded-user"),
            claims_header: None,
            headers: vec![],
            forward_authorization: false,
        };
        match settings.identify(self.token.clone()) {
            Credential::Bound(bound) => bound,
            Credential::Bearer(_) => panic!("not bound"),
        }
    }
}

fn rules() -> ProofSettings {
    ProofSettings {
        algorithms: vec![
            Algorithm::Es256,
            Algorithm::Es384,
            Algorithm::EdDsa,
            Algorithm::Rs256,
            Algorithm::Ps256,
        ],
        max_age: Duration::from_secs(MAX_AGE),
        origin: PublicOrigin::parse("https://api.example.com").expect("an origin"),
    }
}

/// The request that proofs are for.
const REQUEST: ProofTarget<'_> = ProofTarget {
    method: "GET",
    path: "/api/agents",
};

fn check<'b>(
    client: &'b Client,
    proof: &str,
    request: ProofTarget<'_>,
    nonces: Option<&Nonces>,
    now: u64,
) -> Result<Proof<'b>, ProofError> {
    let rules = rules();
    let read = rules.read(proof, client.binding())?;
    rules.verify(&read, request, nonces, UnixTime::from_secs(now))
}

fn code(client: &Client, proof: &str) -> &'static str {
    match check(client, proof, REQUEST, None, NOW) {
        Ok(_) => "accepted",
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(!error.description().contains(['"', '\\']));
            error.code()
        }
    }
}

fn assert_codes(client: &Client, rows: &[(&str, String, &str)]) {
    let mut wrong = String::new();
    for (case, proof, expected) in rows {
        let found = code(client, proof);
        if found != *expected {
            wrong.push_str(&format!("{case}: expected {expected}, found {found}\n"));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn every_kind_of_key_proves() {
    for client in [
        Client::p256(),
        Client::new(Signer::p384(), "ES384"),
        Client::new(Signer::ed25519(), "EdDSA"),
        Client::new(Signer::ed25519(), "Ed25519"),
        Client::new(Signer::rsa(), "RS256"),
        Client::new(Signer::rsa(), "PS256"),
    ] {
        let proof = client.proof(&json!({}), &json!({}));
        assert_eq!(code(&client, &proof), "accepted", "{}", client.algorithm);
    }
}

#[test]
fn a_proof_may_be_written_in_several_ways() {
    let client = Client::p256();
    let proof = |header: Value, claims: Value| client.proof(&header, &claims);
    let jwk = |more: Value| overlaid(client.signer.public(), &more);
    let none = || json!({});
    assert_codes(
        &client,
        &[
            (
                "typ in full",
                proof(json!({"typ":"application/dpop+jwt"}), none()),
                "accepted",
            ),
            (
                "typ in another case",
                proof(json!({"typ":"DPoP+JWT"}), none()),
                "accepted",
            ),
            ("a kid", proof(json!({"kid":"k"}), none()), "accepted"),
            (
                "a jwk as browsers export it",
                proof(
                    json!({"jwk":jwk(json!({"ext":true,"key_ops":["verify"]}))}),
                    none(),
                ),
                "accepted",
            ),
            (
                "a jwk with alg, use and kid",
                proof(
                    json!({"jwk":jwk(json!({"alg":"ES256","use":"sig","kid":"k"}))}),
                    none(),
                ),
                "accepted",
            ),
            (
                "a fractional iat",
                proof(none(), json!({"iat": NOW as f64 + 0.5})),
                "accepted",
            ),
            (
                "a nonce that nobody asked for",
                proof(none(), json!({"nonce":"n"})),
                "accepted",
            ),
            (
                "further claims",
                proof(none(), json!({"sub":"x","exp":1})),
                "accepted",
            ),
            (
                "a jti of 256 bytes",
                proof(none(), json!({"jti":"j".repeat(256)})),
                "accepted",
            ),
            (
                "a query in htu",
                proof(
                    none(),
                    json!({"htu":"https://api.example.com/api/agents?a=b"}),
                ),
                "accepted",
            ),
            (
                "a fragment in htu",
                proof(
                    none(),
                    json!({"htu":"https://api.example.com/api/agents#a"}),
                ),
                "accepted",
            ),
            (
                "the default port in htu",
                proof(
                    none(),
                    json!({"htu":"https://api.example.com:443/api/agents"}),
                ),
                "accepted",
            ),
            (
                "capitals in htu's host",
                proof(none(), json!({"htu":"HTTPS://API.example.com/api/agents"})),
                "accepted",
            ),
            (
                "escapes in htu",
                proof(
                    none(),
                    json!({"htu":"https://api.example.com/%61pi/agents"}),
                ),
                "accepted",
            ),
            (
                "dots in htu",
                proof(
                    none(),
                    json!({"htu":"https://api.example.com/x/../api/./agents"}),
                ),
                "accepted",
            ),
        ],
    );
}

#[test]
fn a_header_with_one_thing_wrong_is_refused() {
    const MALFORMED: &str = "dpop_proof_malformed";
    const KEY: &str = "dpop_key_not_allowed";
    const ALGORITHM: &str = "dpop_algorithm_not_allowed";
    let client = Client::p256();
    let header = |changes: Value| client.proof(&changes, &json!({}));
    let jwk = |changes: Value| header(json!({"jwk": edited(client.signer.public(), &changes)}));
    let whole = client.proof(&json!({}), &json!({}));
    let claims = client.claims().to_string();
    let twice = |first: &str| {
        let text = client.header().to_string();
        client.signed(text.replacen('{', first, 1).as_bytes(), claims.as_bytes())
    };
    let (input, signature) = whole.rsplit_once('.').expect("parts");
    let stranger = Client::p256();
    let weak = json!({"kty":"RSA","n":base64url(&[0xff; 128]),"e":"AQAB"});
    assert_codes(
        &client,
        &[
            ("typ is absent", header(json!({"typ":ABSENT})), MALFORMED),
            (
                "typ is that of a token",
                header(json!({"typ":"at+jwt"})),
                MALFORMED,
            ),
            ("typ is JWT", header(json!({"typ":"JWT"})), MALFORMED),
            (
                "typ is another media type",
                header(json!({"typ":"text/dpop+jwt"})),
                MALFORMED,
            ),
            ("typ is a number", header(json!({"typ":1})), MALFORMED),
            ("alg is absent", header(json!({"alg":ABSENT})), MALFORMED),
            ("alg is none", header(json!({"alg":"none"})), ALGORITHM),
            ("alg is NONE", header(json!({"alg":"NONE"})), ALGORITHM),
            (
                "alg is symmetric",
                header(json!({"alg":"HS256"})),
                ALGORITHM,
            ),
            (
                "alg is not in the list",
                header(json!({"alg":"RS512"})),
                ALGORITHM,
            ),
            ("alg is unknown", header(json!({"alg":"ES256K"})), ALGORITHM),
            (
                "alg is for another curve",
                header(json!({"alg":"ES384"})),
                KEY,
            ),
            (
                "alg is for another kind of key",
                header(json!({"alg":"RS256"})),
                KEY,
            ),
            ("jwk is absent", header(json!({"jwk":ABSENT})), MALFORMED),
            ("jwk is null", header(json!({"jwk":null})), KEY),
            ("jwk is a text", header(json!({"jwk":"{}"})), KEY),
            (
                "jwk is a list",
                header(json!({"jwk":[client.signer.public()]})),
                KEY,
            ),
            ("jwk is private", jwk(json!({"d":"AA"})), KEY),
            ("jwk has p", jwk(json!({"p":"AA"})), KEY),
            ("jwk has q", jwk(json!({"q":"AA"})), KEY),
            ("jwk has dp", jwk(json!({"dp":"AA"})), KEY),
            ("jwk has dq", jwk(json!({"dq":"AA"})), KEY),
            ("jwk has qi", jwk(json!({"qi":"AA"})), KEY),
            ("jwk has oth", jwk(json!({"oth":[]})), KEY),
            ("jwk has k", jwk(json!({"k":"AA"})), KEY),
            (
                "jwk is symmetric",
                header(json!({"jwk":{"kty":"oct","k":"AA"}})),
                KEY,
            ),
            ("jwk has no kty", jwk(json!({"kty":ABSENT})), KEY),
            ("jwk has no x", jwk(json!({"x":ABSENT})), KEY),
            ("jwk has a short x", jwk(json!({"x":"AA"})), KEY),
            ("jwk names another alg", jwk(json!({"alg":"ES384"})), KEY),
            ("jwk's alg is a number", jwk(json!({"alg":256})), KEY),
            ("jwk is for encryption", jwk(json!({"use":"enc"})), KEY),
            ("jwk may only sign", jwk(json!({"key_ops":["sign"]})), KEY),
            ("jwk on another curve", jwk(json!({"crv":"P-521"})), KEY),
            (
                "jwk of 1,024 bits",
                header(json!({"alg":"RS256","jwk":weak})),
                KEY,
            ),
            (
                "jwk is a stranger's",
                header(json!({"jwk":stranger.signer.public()})),
                "dpop_wrong_key",
            ),
            (
                "jwk and signature are a stranger's",
                stranger.proof(&json!({}), &client.claims()),
                "dpop_wrong_key",
            ),
            ("crit", header(json!({"crit":["jwk"]})), MALFORMED),
            (
                "jku",
                header(json!({"jku":"https://evil.example/"})),
                MALFORMED,
            ),
            ("x5c", header(json!({"x5c":[]})), MALFORMED),
            ("b64", header(json!({"b64":false})), MALFORMED),
            ("alg twice", twice("{\"alg\":\"none\","), MALFORMED),
            ("jwk twice", twice("{\"jwk\":{},"), MALFORMED),
            ("nothing", String::new(), MALFORMED),
            ("no JWS", "proof".to_owned(), MALFORMED),
            ("four parts", format!("{whole}.AA"), MALFORMED),
            ("five parts", format!("{whole}.AA.AA"), MALFORMED),
            ("padding", format!("{whole}=="), MALFORMED),
            ("white space", format!("{whole} "), MALFORMED),
            ("a token", client.text.clone(), MALFORMED),
            ("unsigned", format!("{input}."), "dpop_signature_invalid"),
            (
                "another signature",
                format!("{input}.{}", base64url(&[7; 64])),
                "dpop_signature_invalid",
            ),
            (
                "an ASN.1 signature",
                format!("{input}.{}", base64url(&[0x30; 70])),
                "dpop_signature_invalid",
            ),
            (
                "a signature in another spelling",
                format!("{input}.{}", non_canonical(signature)),
                MALFORMED,
            ),
            (
                "too large",
                client.proof(&json!({}), &json!({"x":"x".repeat(8192)})),
                MALFORMED,
            ),
        ],
    );
    // The first character: in the last one some bits may be spare.
    let first = if signature.starts_with('A') { "B" } else { "A" };
    let tampered = format!("{input}.{first}{}", &signature[1..]);
    assert_eq!(code(&client, &tampered), "dpop_signature_invalid");
    let (header, rest) = whole.split_once('.').expect("parts");
    let other = client.proof(&json!({}), &json!({"jti":"other"}));
    let (_, other) = other.split_once('.').expect("parts");
    let (payload, _) = other.split_once('.').expect("parts");
    let (_, signature) = rest.split_once('.').expect("parts");
    assert_eq!(
        code(&client, &format!("{header}.{payload}.{signature}")),
        "dpop_signature_invalid",
        "another payload"
    );
}

#[test]
fn claims_with_one_thing_wrong_are_refused() {
    const MALFORMED: &str = "dpop_proof_malformed";
    const TARGET: &str = "dpop_wrong_target";
    const METHOD: &str = "dpop_wrong_method";
    const TOKEN: &str = "dpop_wrong_token";
    let client = Client::p256();
    let claims = |changes: Value| client.proof(&json!({}), &changes);
    let raw =
        |payload: &str| client.signed(client.header().to_string().as_bytes(), payload.as_bytes());
    let at = |iat: f64| claims(json!({"iat": iat}));
    let now = NOW as f64;
    let other = Client::p256();
    let ath = client.claims()["ath"].as_str().expect("a text").to_owned();
    let htu = |htu: &str| claims(json!({ "htu": htu }));
    assert_codes(
        &client,
        &[
            ("jti is absent", claims(json!({"jti":ABSENT})), MALFORMED),
            ("jti is empty", claims(json!({"jti":""})), MALFORMED),
            ("jti is a number", claims(json!({"jti":1})), MALFORMED),
            (
                "jti is too long",
                claims(json!({"jti":"j".repeat(257)})),
                MALFORMED,
            ),
            ("htm is absent", claims(json!({"htm":ABSENT})), MALFORMED),
            ("htm is a list", claims(json!({"htm":["GET"]})), MALFORMED),
            (
                "htm is another method",
                claims(json!({"htm":"POST"})),
                METHOD,
            ),
            ("htm is in lower case", claims(json!({"htm":"get"})), METHOD),
            ("htm is empty", claims(json!({"htm":""})), METHOD),
            ("htu is absent", claims(json!({"htu":ABSENT})), MALFORMED),
            ("htu is a number", claims(json!({"htu":1})), MALFORMED),
            ("htu is empty", htu(""), TARGET),
            ("htu is a path", htu("/api/agents"), TARGET),
            (
                "htu is http",
                htu("http://api.example.com/api/agents"),
                TARGET,
            ),
            (
                "htu is wss",
                htu("wss://api.example.com/api/agents"),
                TARGET,
            ),
            (
                "htu has another port",
                htu("https://api.example.com:8443/api/agents"),
                TARGET,
            ),
            (
                "htu has another host",
                htu("https://api.example.com.evil.example/api/agents"),
                TARGET,
            ),
            (
                "htu has user information",
                htu("https://api.example.com@evil.example/api/agents"),
                TARGET,
            ),
            (
                "htu has our host as user information",
                htu("https://evil@api.example.com/api/agents"),
                TARGET,
            ),
            (
                "htu has another path",
                htu("https://api.example.com/api/agents/1"),
                TARGET,
            ),
            (
                "htu has a final slash",
                htu("https://api.example.com/api/agents/"),
                TARGET,
            ),
            (
                "htu has two slashes",
                htu("https://api.example.com//api/agents"),
                TARGET,
            ),
            (
                "htu has an encoded slash",
                htu("https://api.example.com/api%2Fagents"),
                TARGET,
            ),
            (
                "htu's path is in capitals",
                htu("https://api.example.com/API/agents"),
                TARGET,
            ),
            (
                "htu has our path in its query",
                htu("https://api.example.com/?/api/agents"),
                TARGET,
            ),
            (
                "htu's host ends in a query",
                htu("https://api.example.com?/api/agents"),
                TARGET,
            ),
            (
                "htu has a space",
                htu("https://api.example.com/api/agents "),
                TARGET,
            ),
            (
                "htu has a line break",
                htu("https://api.example.com/api/agents\n"),
                TARGET,
            ),
            (
                "htu has a broken escape",
                htu("https://api.example.com/api/agents%"),
                TARGET,
            ),
            ("ath is absent", claims(json!({"ath":ABSENT})), MALFORMED),
            ("ath is a number", claims(json!({"ath":1})), MALFORMED),
            ("ath is empty", claims(json!({"ath":""})), TOKEN),
            ("ath is cut", claims(json!({"ath":&ath[..42]})), TOKEN),
            (
                "ath is padded",
                claims(json!({"ath":format!("{ath}=")})),
                TOKEN,
            ),
            (
                "ath is another token's",
                claims(json!({"ath":other.claims()["ath"]})),
                TOKEN,
            ),
            ("iat is absent", claims(json!({"iat":ABSENT})), MALFORMED),
            (
                "iat is a text",
                claims(json!({"iat":NOW.to_string()})),
                MALFORMED,
            ),
            ("iat is null", claims(json!({"iat":null})), MALFORMED),
            ("iat is the oldest", at(now - MAX_AGE as f64), "accepted"),
            (
                "iat is too old",
                at(now - MAX_AGE as f64 - 0.5),
                "dpop_proof_expired",
            ),
            (
                "iat is the newest",
                at(now + IAT_LEAD.as_secs_f64()),
                "accepted",
            ),
            (
                "iat is ahead",
                at(now + IAT_LEAD.as_secs_f64() + 0.5),
                "dpop_proof_expired",
            ),
            (
                "iat is in milliseconds",
                at(now * 1000.0),
                "dpop_proof_expired",
            ),
            ("iat is zero", at(0.0), "dpop_proof_expired"),
            ("iat is negative", at(-now), "dpop_proof_expired"),
            ("iat is huge", at(1e300), "dpop_proof_expired"),
            ("not JSON", raw("jti"), MALFORMED),
            ("a list", raw("[]"), MALFORMED),
            (
                "jti twice",
                raw(&client
                    .claims()
                    .to_string()
                    .replacen('{', "{\"jti\":\"x\",", 1)),
                MALFORMED,
            ),
        ],
    );
}

/// The request may be spelled in several ways as well, and the host that it names takes no part.
#[test]
fn the_target_is_compared_in_its_normal_form() {
    let client = Client::p256();
    for (htu, path, expected) in [
        ("https://api.example.com/~a", "/%7ea", true),
        ("https://api.example.com/%7Ea", "/~a", true),
        ("https://api.example.com/b", "/a/../b", true),
        ("https://api.example.com/a/../b", "/b", true),
        ("https://api.example.com", "/", true),
        ("https://api.example.com/a%2fb", "/a%2Fb", true),
        ("https://api.example.com/a/b", "/a%2Fb", false),
        ("https://api.example.com/a", "/a/", false),
        ("https://api.example.com/a", "//a", false),
        ("https://api.example.com/a", "/A", false),
        ("https://api.example.com/a%", "/a%", false),
        ("https://api.example.com/a;b", "/a", false),
    ] {
        let proof = client.proof(&json!({}), &json!({ "htu": htu }));
        let request = ProofTarget {
            method: "GET",
            path,
        };
        let found = check(&client, &proof, request, None, NOW);
        assert_eq!(found.is_ok(), expected, "{htu} {path}: {found:?}");
    }
    for (origin, htu, expected) in [
        (
            "https://[2001:DB8::1]",
            "https://[2001:db8::1]/api/agents",
            true,
        ),
        (
            "https://[2001:db8::1]:443",
            "https://[2001:DB8::1]/api/agents",
            true,
        ),
        (
            "https://[2001:db8::1]",
            "https://[2001:db8::2]/api/agents",
            false,
        ),
        (
            "http://127.0.0.1:8080",
            "http://127.0.0.1:8080/api/agents",
            true,
        ),
        (
            "http://127.0.0.1:8080",
            "https://127.0.0.1:8080/api/agents",
            false,
        ),
        (
            "https://API.Example.com:8443",
            "https://api.example.com:8443/api/agents",
            true,
        ),
        (
            "https://api.example.com:8443",
            "https://api.example.com/api/agents",
            false,
        ),
    ] {
        let rules = ProofSettings {
            origin: PublicOrigin::parse(origin).expect("an origin"),
            ..rules()
        };
        let proof = client.proof(&json!({}), &json!({ "htu": htu }));
        let read = rules.read(&proof, client.binding()).expect("readable");
        let found = rules.verify(&read, REQUEST, None, UnixTime::from_secs(NOW));
        assert_eq!(found.is_ok(), expected, "{origin} {htu}: {found:?}");
    }
}

#[test]
fn where_a_nonce_is_asked_for_only_ours_will_do() {
    let client = Client::p256();
    let nonces = Nonces::new(&[7; 32]);
    let period = NONCE_PERIOD.as_secs();
    let at = |seconds: u64| nonces.current(UnixTime::from_secs(seconds));
    let now = NOW - NOW % period;
    for (case, nonce, expected) in [
        ("none", json!(ABSENT), None),
        ("empty", json!(""), None),
        ("a number", json!(1), None),
        ("null", json!(null), None),
        ("made up", json!("eyJ7S_zG.eyJH0-Z.HX4w-7v"), None),
        (
            "of another key",
            json!(Nonces::new(&[8; 32]).current(UnixTime::from_secs(now))),
            None,
        ),
        ("current", json!(at(now)), Some(NonceAge::Current)),
        (
            "of a clock that is ahead",
            json!(at(now + period)),
            Some(NonceAge::Current),
        ),
        (
            "the one before",
            json!(at(now - 1)),
            Some(NonceAge::Previous),
        ),
        ("an old one", json!(at(now - period - 1)), None),
    ] {
        let proof = client.proof(&json!({}), &json!({"nonce": nonce, "iat": now}));
        let found = check(&client, &proof, REQUEST, Some(&nonces), now);
        match (found, expected) {
            (Ok(proof), Some(age)) => assert_eq!(proof.nonce_age(), Some(age), "{case}"),
            (Err(error), None) => assert_eq!(error, ProofError::Nonce, "{case}"),
            (found, _) => panic!("{case}: {found:?}"),
        }
    }
    let proof = client.proof(&json!({}), &json!({"nonce": at(now), "iat": 1}));
    let found = check(&client, &proof, REQUEST, Some(&nonces), now);
    assert_eq!(
        found.map_err(|error| error.code()).err(),
        Some("dpop_proof_expired"),
        "a nonce is no excuse for iat"
    );
}

#[test]
fn a_proof_is_used_once() {
    let (client, keep) = (Client::p256(), rules().lifetime());
    let cache = ReplayCache::default();
    let at = UnixTime::from_secs;
    let used = |request, claims: Value, now: u64| {
        let proof = client.proof(&json!({}), &claims);
        let proof = check(&client, &proof, request, None, now).expect("a good proof");
        cache
            .record(proof, at(now), keep, 5, None)
            .map(|_| ())
            .err()
    };
    let post = ProofTarget {
        method: "POST",
        ..REQUEST
    };
    let path = ProofTarget {
        path: "/other",
        ..REQUEST
    };
    assert_eq!(used(REQUEST, json!({}), NOW), None);
    assert_eq!(used(REQUEST, json!({}), NOW), Some(NotRecorded::Replayed));
    assert_eq!(
        used(REQUEST, json!({"iat":NOW + 1}), NOW),
        Some(NotRecorded::Replayed),
        "signed anew, the same jti"
    );
    assert_eq!(
        used(
            REQUEST,
            json!({"htu":"https://API.example.com/api/agents?x"}),
            NOW
        ),
        Some(NotRecorded::Replayed),
        "spelled anew"
    );
    assert_eq!(
        used(post, json!({"htm":"POST"}), NOW),
        None,
        "another request"
    );
    assert_eq!(
        used(path, json!({"htu":"https://api.example.com/other"}), NOW),
        None
    );
    assert_eq!(used(REQUEST, json!({"jti":"2"}), NOW + 1), None);
    assert_eq!(
        used(REQUEST, json!({"jti":"3"}), NOW + 1),
        Some(NotRecorded::ShareUsed)
    );
    assert_eq!(
        used(REQUEST, json!({}), NOW + 2),
        Some(NotRecorded::Replayed),
        "remembered though full"
    );
    // Made as far ahead as it may be, and used as late as it may be.
    let last = NOW + keep.as_secs();
    let ahead = json!({"iat":NOW + IAT_LEAD.as_secs()});
    assert_eq!(
        used(REQUEST, ahead, last),
        Some(NotRecorded::Replayed),
        "to the end"
    );
    let fresh = json!({"iat":last + 1});
    assert_eq!(
        used(REQUEST, fresh.clone(), last + 1),
        None,
        "and no longer"
    );
    assert_eq!(used(REQUEST, fresh, last + 1), Some(NotRecorded::Replayed));
}

/// One key can use up what nobody else needs, and never what others have a share of.
#[test]
fn a_key_that_fills_the_room_leaves_others_theirs() {
    const CAPACITY: usize = 64;
    const SHARE: usize = CAPACITY / 16;
    let keep = rules().lifetime();
    let cache = ReplayCache::default();
    let used = |client: &Client, number: usize, now: u64| {
        let claims = json!({"jti": number.to_string(), "iat": now});
        let proof = client.proof(&json!({}), &claims);
        let proof = check(client, &proof, REQUEST, None, now).expect("a good proof");
        let at = UnixTime::from_secs(now);
        cache
            .record(proof, at, keep, CAPACITY, None)
            .map(|_| ())
            .err()
    };
    let mallory = Client::p256();
    for number in 0..CAPACITY - CAPACITY / 4 {
        assert_eq!(used(&mallory, number, NOW), None, "there is room");
    }
    let refused = |number| used(&mallory, number, NOW).is_some();
    assert_eq!(used(&mallory, 900, NOW), Some(NotRecorded::ShareUsed));
    let others = [(); 4].map(|()| Client::p256());
    for alice in &others {
        for number in 0..SHARE {
            assert_eq!(used(alice, number, NOW), None, "her share");
            assert!(refused(1000 + number));
        }
        let told = used(alice, SHARE, NOW).expect("no more than her share");
        assert!(matches!(told, NotRecorded::ShareUsed | NotRecorded::Full));
        assert_eq!(used(alice, 0, NOW), Some(NotRecorded::Replayed));
    }
    let late = Client::p256();
    assert_eq!(
        used(&late, 0, NOW),
        Some(NotRecorded::Full),
        "four shares are a quarter"
    );
    // What is over is counted no more, of whoever it was.
    let later = NOW + keep.as_secs() + 1;
    for client in others.iter().chain([&mallory, &late]) {
        for number in 0..SHARE {
            assert_eq!(used(client, number, later), None);
        }
    }
}

#[test]
fn what_a_request_has_used_stays_its_own() {
    let client = Client::p256();
    let cache = ReplayCache::default();
    let (now, keep) = (UnixTime::from_secs(NOW), rules().lifetime());
    let text = client.proof(&json!({}), &json!({}));
    let proof = || check(&client, &text, REQUEST, None, NOW).expect("a good proof");
    let key = proof().replay_key();
    cache.record(proof(), now, keep, 10, None).expect("fresh");
    cache
        .record(proof(), now, keep, 10, Some(key))
        .expect("its own");
    let other = client.proof(&json!({}), &json!({"jti":"other"}));
    let other = check(&client, &other, REQUEST, None, NOW).expect("a good proof");
    let other = other.replay_key();
    let found = cache.record(proof(), now, keep, 10, Some(other));
    assert_eq!(found.err(), Some(NotRecorded::Replayed));
}

#[test]
fn an_identity_is_released_for_its_own_proof_only() {
    let (one, other) = (Client::p256(), Client::p256());
    let cache = ReplayCache::default();
    let (now, keep) = (UnixTime::from_secs(NOW), rules().lifetime());
    let text = one.proof(&json!({}), &json!({}));
    let proof = check(&one, &text, REQUEST, None, NOW).expect("a good proof");
    let fresh = cache.record(proof, now, keep, 10, None).expect("fresh");
    assert!(other.identity().release(&fresh).is_none());
    let identity = one.identity().release(&fresh).expect("its own");
    assert_eq!(identity.token().subject(), "auth0|123456");
    assert!(identity.token().binding().is_some());
}

#[test]
fn no_type_on_the_way_of_a_proof_shows_it() {
    let client = Client::p256();
    let text = client.proof(&json!({}), &json!({}));
    let hidden = |what: &str, value: &dyn std::fmt::Debug| {
        assert_hidden(&text, what, value);
        assert_hidden(&client.text, what, value);
    };
    hidden("Binding", client.binding());
    let unverified = rules().read(&text, client.binding());
    hidden("UnverifiedProof", &unverified);
    let unverified = unverified.expect("readable");
    let now = UnixTime::from_secs(NOW);
    let proof = rules().verify(&unverified, REQUEST, None, now);
    hidden("Proof", &proof);
    let cache = ReplayCache::default();
    let fresh = cache.record(proof.expect("good"), now, rules().lifetime(), 10, None);
    hidden("FreshProof", &fresh);
    hidden("ReplayCache", &cache);
    hidden("BoundIdentity", &client.identity());
    let other = Client::p256();
    hidden("ProofError", &rules().read(&text, other.binding()));
}

#[test]
fn there_is_one_proof_in_one_field() {
    for (lines, expected) in [
        (&[][..], Err(ProofError::Missing)),
        (&["a.b.c"], Ok("a.b.c")),
        (&["a.b.c", "a.b.c"], Err(ProofError::Repeated)),
        (&["a.b.c", ""], Err(ProofError::Repeated)),
        (&["a.b.c,d.e.f"], Err(ProofError::Repeated)),
        (&["a.b.c, "], Err(ProofError::Repeated)),
        (&["a\u{e9}"], Err(ProofError::NotVisibleAscii)),
    ] {
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_bytes(line.as_bytes()).expect("a value");
            headers.append("dpop", value);
        }
        assert_eq!(proof_header(&headers), expected, "{lines:?}");
    }
}

/// RFC 7800: whatever is not a thumbprint that can be asked for is refused.
#[test]
fn only_a_thumbprint_binds() {
    let jkt = thumbprint(Signer::p256().public());
    for (cnf, expected) in [
        (json!({"jkt":jkt}), "accepted"),
        (json!({"jkt":jkt,"kid":"x"}), "accepted"),
        (
            json!({"jkt":jkt,"x5t#S256":jkt}),
            "token_sender_constrained",
        ),
        (json!({"x5t#S256":jkt}), "token_sender_constrained"),
        (json!({"jwk":{}}), "token_sender_constrained"),
        (json!({}), "token_sender_constrained"),
        (json!(null), "token_sender_constrained"),
        (json!(jkt), "token_sender_constrained"),
        (json!([jkt]), "token_sender_constrained"),
        (json!({"jkt":""}), "token_malformed_claim"),
        (json!({"jkt":null}), "token_malformed_claim"),
        (json!({"jkt":[jkt]}), "token_malformed_claim"),
        (json!({"jkt":&jkt[..42]}), "token_malformed_claim"),
        (json!({"jkt":format!("{jkt}=")}), "token_malformed_claim"),
        (
            json!({"jkt":format!("{}+", &jkt[..42])}),
            "token_malformed_claim",
        ),
    ] {
        assert_eq!(issue(&cnf).0.code(), expected, "{cnf}");
    }
}
