//! Any bytes as `DPoP` lines, and any header and payload under a genuine signature: nothing panics, no proof
//! counts that was not signed, and what is signed counts exactly when the rules say so, once.
//!
//! An input that begins with NUL is header, NUL, payload, which are signed here; in the header the byte 2
//! stands for the key, in the payload for the hash of the token. Any other is a path, NUL, and lines of the
//! field, where the byte 1 stands for a good proof for `/api`.

use std::sync::LazyLock;
use std::time::Duration;

use authgate::clock::UnixTime;
use authgate::jose::Algorithm;
use authgate::token::{
    Binding, NotRecorded, Proof, ProofError, ProofSettings, ProofTarget, PublicOrigin, ReplayCache,
    VerifiedToken, Verifier, VerifierSettings, bearer_token, proof_header,
};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::mint::{self, AUDIENCE, ISSUER, KEYRING, NOW};

const ORIGIN: &str = "https://api.example.com";
const MAX_AGE_SECONDS: u64 = 300;

static JWK: LazyLock<Value> =
    LazyLock::new(|| json!({"kty":"OKP","crv":"Ed25519","x":mint::jwk()["x"]}));

static TOKEN: LazyLock<String> = LazyLock::new(|| {
    let thumbprint = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":{}}}"#, JWK["x"]);
    mint::with_payload(&json!({
        "iss":ISSUER,"aud":AUDIENCE,"exp":NOW + 600,"iat":NOW,"sub":"auth0|good",
        "cnf":{"jkt":hash(thumbprint.as_bytes())},
    }))
});

static BOUND: LazyLock<VerifiedToken> = LazyLock::new(|| {
    let verifier = Verifier::new(VerifierSettings {
        bound_tokens: true,
        ..mint::settings()
    });
    let line = HeaderValue::try_from(format!("Bearer {}", *TOKEN)).expect("visible ASCII");
    let headers = HeaderMap::from_iter([(AUTHORIZATION, line)]);
    let bearer = bearer_token(&headers).expect("sound").expect("a token");
    let unverified = verifier.read(bearer).expect("readable");
    verifier
        .verify(&unverified, &KEYRING, UnixTime::from_secs(NOW))
        .expect("valid")
});

static GOOD: LazyLock<String> = LazyLock::new(|| {
    let header = json!({"typ":"dpop+jwt","alg":"EdDSA","jwk":*JWK}).to_string();
    let payload = json!({
        "jti":"1","htm":"GET","htu":format!("{ORIGIN}/api"),"iat":NOW,"ath":hash(TOKEN.as_bytes()),
    });
    mint::sign(header.as_bytes(), payload.to_string().as_bytes())
});

static RULES: LazyLock<ProofSettings> = LazyLock::new(|| ProofSettings {
    algorithms: Algorithm::ALL.to_vec(),
    max_age: Duration::from_secs(MAX_AGE_SECONDS),
    origin: PublicOrigin::parse(ORIGIN).expect("an origin"),
});

fn hash(bytes: &[u8]) -> String {
    mint::base64url(digest(&SHA256, bytes).as_ref())
}

fn binding() -> &'static Binding {
    BOUND.binding().expect("bound")
}

pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((0, signed)) => {
            let (header, payload) = split(signed);
            let header = filled(header, &JWK.to_string());
            let payload = filled(payload, &format!("{:?}", hash(TOKEN.as_bytes())));
            check_signed(&header, &payload);
        }
        _ => {
            let (path, lines) = split(data);
            check_lines(path, lines);
        }
    }
}

fn split(data: &[u8]) -> (&[u8], &[u8]) {
    let end = data.iter().position(|byte| *byte == 0);
    let (first, second) = data.split_at(end.unwrap_or(data.len()));
    (first, second.get(1..).unwrap_or_default())
}

fn filled(text: &[u8], with: &str) -> Vec<u8> {
    let mut filled = Vec::new();
    for byte in text {
        match byte {
            2 => filled.extend_from_slice(with.as_bytes()),
            byte => filled.push(*byte),
        }
    }
    filled
}

fn verdict(proof: &str, path: &str) -> Result<Proof<'static>, ProofError> {
    let request = ProofTarget {
        method: "GET",
        path,
    };
    let read = RULES.read(proof, binding())?;
    RULES.verify(&read, request, None, UnixTime::from_secs(NOW))
}

fn check_lines(path: &[u8], lines: &[u8]) {
    let Ok(path) = std::str::from_utf8(path) else {
        return;
    };
    let mut headers = HeaderMap::new();
    let mut count = 0;
    for line in lines.split(|byte| *byte == b'\n') {
        let mut text = Vec::new();
        for byte in line {
            match byte {
                1 => text.extend_from_slice(GOOD.as_bytes()),
                byte => text.push(*byte),
            }
        }
        let Ok(line) = HeaderValue::from_bytes(&text) else {
            return;
        };
        headers.append("dpop", line);
        count += 1;
    }
    let found = proof_header(&headers).and_then(|proof| Ok((proof, verdict(proof, path)?)));
    match found {
        Ok((proof, verified)) => {
            assert_eq!(
                (count, proof),
                (1, GOOD.as_str()),
                "only one was ever signed"
            );
            assert!(path.len() >= 4, "no shorter spelling of /api");
            check_use(verified, proof, path);
        }
        Err(error) => {
            check_error(&error);
            let is_good = lines == [1] && path == "/api";
            assert!(!is_good, "the good one is refused: {error}");
        }
    }
}

/// It holds once.
fn check_use(proof: Proof<'_>, text: &str, path: &str) {
    let cache = ReplayCache::default();
    let (now, keep) = (UnixTime::from_secs(NOW), RULES.lifetime());
    assert!(proof.is_for(binding()));
    let fresh = cache.record(proof, now, keep, 2, None).expect("new");
    assert!(fresh.proof().is_for(binding()));
    let again = verdict(text, path).expect("it held before");
    let again = cache.record(again, now, keep, 2, None);
    assert_eq!(again.err(), Some(NotRecorded::Replayed));
}

fn check_signed(header: &[u8], payload: &[u8]) {
    let text = mint::sign(header, payload);
    let expected = text.len() <= 8 * 1024 && is_acceptable(header, payload);
    match verdict(&text, "/api") {
        Ok(proof) => {
            let claims: Value = serde_json::from_slice(payload).expect("it was read");
            let htu = claims["htu"].as_str().expect("it was read");
            assert!(is_ours(htu), "{htu}");
            assert!(expected || htu != format!("{ORIGIN}/api"), "accepted");
            check_use(proof, &text, "/api");
        }
        Err(error) => {
            check_error(&error);
            // Duplicate members and depth are this parser's own rules; and what is no member of this kind
            // of key is not looked at in the same way by everybody.
            let is_own_rule = matches!(
                error.code(),
                "dpop_proof_malformed" | "dpop_key_not_allowed"
            );
            assert!(!expected || is_own_rule, "refused: {error:?}");
        }
    }
}

fn check_error(error: &ProofError) {
    assert!(error.code().starts_with("dpop_"));
    assert!(!error.description().contains(['"', '\\']));
    assert!(!error.to_string().is_empty());
    assert_ne!(*error, ProofError::Nonce, "none was asked for");
}

/// Whether a URI can be one of our origin: by its letters, sharing nothing with the program.
fn is_ours(htu: &str) -> bool {
    let lower = htu.to_ascii_lowercase();
    lower.strip_prefix(ORIGIN).is_some_and(|rest| {
        let rest = rest.strip_prefix(":443").unwrap_or(rest);
        let rest = rest.strip_prefix(':').unwrap_or(rest);
        rest.is_empty() || rest.starts_with(['/', '?', '#'])
    })
}

/// The rules for proofs by the letter of RFC 9449, section 4.3.
fn is_acceptable(header: &[u8], payload: &[u8]) -> bool {
    let (Ok(Value::Object(header)), Ok(Value::Object(claims))) = (
        serde_json::from_slice(header),
        serde_json::from_slice(payload),
    ) else {
        return false;
    };
    let is_eddsa = |alg: &Value| alg == "EdDSA" || alg == "Ed25519";
    let typ = header
        .get("typ")
        .and_then(Value::as_str)
        .map(str::to_ascii_lowercase);
    let typ = typ.is_some_and(|typ| typ.strip_prefix("application/").unwrap_or(&typ) == "dpop+jwt");
    let short_kid = |kid: Option<&Value>| {
        kid.is_none_or(|kid| kid.as_str().is_some_and(|kid| kid.len() <= 256))
    };
    let jwk = header.get("jwk").and_then(Value::as_object);
    let jwk = jwk.is_some_and(|jwk| {
        let ours = ["kty", "crv", "x"]
            .iter()
            .all(|name| jwk.get(*name) == JWK.get(*name));
        let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
        ours && private.iter().all(|name| !jwk.contains_key(*name))
            && jwk.get("alg").is_none_or(is_eddsa)
            && jwk.get("use").is_none_or(|purpose| purpose == "sig")
            && jwk.get("key_ops").is_none_or(|operations| {
                operations
                    .as_array()
                    .is_some_and(|all| all.iter().any(|one| one == "verify"))
            })
            && short_kid(jwk.get("kid"))
    });
    let forbidden = ["crit", "jku", "x5c", "x5u", "b64"];
    let header = typ
        && jwk
        && header.get("alg").is_some_and(is_eddsa)
        && short_kid(header.get("kid"))
        && forbidden.iter().all(|name| !header.contains_key(*name));
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let now = NOW as f64;
    header
        && text("jti").is_some_and(|jti| (1..=256).contains(&jti.len()))
        && text("htm") == Some("GET")
        && text("htu") == Some("https://api.example.com/api")
        && text("ath") == Some(&hash(TOKEN.as_bytes()))
        && claims
            .get("iat")
            .and_then(Value::as_f64)
            .is_some_and(|iat| (now - MAX_AGE_SECONDS as f64..=now + 30.0).contains(&iat))
}
