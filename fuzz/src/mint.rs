//! Tokens signed by a key that every run has anew and the same, so that inputs can be replayed.

use std::sync::LazyLock;
use std::time::Duration;

use authgate::clock::UnixTime;
use authgate::jose::{Algorithm, KeySet};
use authgate::token::{
    IssuerKeys, Keyring, TypPolicy, VerifiedToken, Verifier, VerifierSettings, VerifyError,
    bearer_token,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

pub const ISSUER: &str = "https://tenant.us.auth0.com/";
pub const AUDIENCE: &str = "https://your-api.com";
pub const KID: &str = "ours";

/// The time of every check.
pub const NOW: u64 = 1_800_000_000;

pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

static PAIR: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("32 bytes"));

/// The key as an issuer publishes it.
pub fn jwk() -> Value {
    let point = PAIR.public_key();
    json!({"kty":"OKP","crv":"Ed25519","kid":KID,"use":"sig","x":base64url(point.as_ref())})
}

/// A token with this header and payload, whatever they are.
pub fn sign(header: &[u8], payload: &[u8]) -> String {
    let input = format!("{}.{}", base64url(header), base64url(payload));
    let signature = PAIR.sign(input.as_bytes());
    format!("{input}.{}", base64url(signature.as_ref()))
}

/// A good token for this subject.
pub fn token(sub: &str) -> String {
    let payload = json!({"iss":ISSUER,"aud":AUDIENCE,"exp":NOW + 600,"iat":NOW,"sub":sub});
    with_payload(&payload)
}

/// A token with the header of a good one.
pub fn with_payload(payload: &Value) -> String {
    let header = format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{KID}"}}"#);
    sign(header.as_bytes(), payload.to_string().as_bytes())
}

/// The issuer with its key, and two more whose private halves nobody has: those of RFC 7515 A.3 and
/// RFC 8037 A.2.
pub static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    let document = json!({"keys":[
        {"kty":"EC","crv":"P-256","kid":"p256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
        {"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        jwk(),
    ]});
    let (keys, skipped) =
        KeySet::parse(document.to_string().as_bytes(), &Algorithm::ALL).expect("a JWK Set");
    assert!(skipped.is_empty(), "{skipped:?}");
    let issuer = IssuerKeys {
        issuer: ISSUER.to_owned(),
        keys: Some(keys),
    };
    Keyring::new(vec![issuer], 1)
});

/// A verifier as by default, but for every algorithm.
pub fn settings() -> VerifierSettings {
    VerifierSettings {
        algorithms: Algorithm::ALL.to_vec(),
        audiences: vec![AUDIENCE.to_owned()],
        clock_tolerance: Duration::from_secs(5),
        max_token_age: None,
        typ: TypPolicy::Any,
        allow_anonymous: false,
        bound_tokens: false,
        max_token_bytes: MAX_TOKEN_BYTES,
    }
}

/// What verification makes of a token; `None` when it refuses it.
pub fn verified(token: &str) -> Option<VerifiedToken> {
    let mut headers = HeaderMap::new();
    let line = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    headers.insert(AUTHORIZATION, line);
    let bearer = bearer_token(&headers).ok()??;
    let verifier = Verifier::new(settings());
    let unverified = verifier.read(bearer).ok()?;
    match verifier.verify(&unverified, &KEYRING, UnixTime::from_secs(NOW)) {
        Ok(token) => Some(token),
        Err(VerifyError::Rejected(_)) => None,
        Err(error) => panic!("the key is there: {error:?}"),
    }
}

pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn from_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// What a backend reads in an identity header.
pub fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        if *byte == b'%' {
            let digits: Vec<u8> = rest.by_ref().take(2).copied().collect();
            let digits = std::str::from_utf8(&digits).expect("ASCII");
            assert_eq!(digits.len(), 2, "a broken sequence");
            decoded.push(u8::from_str_radix(digits, 16).expect("two digits"));
        } else {
            decoded.push(*byte);
        }
    }
    decoded
}
