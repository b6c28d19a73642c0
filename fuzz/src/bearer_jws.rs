//! Any bytes as `Authorization` lines, and any header and payload under a genuine signature: nothing
//! panics, nothing unsigned gets through, and what is signed gets through exactly when the rules say so.
//!
//! An input that begins with NUL is header, NUL, payload, which are signed here. Any other is lines of
//! the field, where the byte 1 stands for a good token.

use std::sync::LazyLock;
use std::time::Duration;

use authgate::clock::UnixTime;
use authgate::identity::IdentitySettings;
use authgate::token::{TypPolicy, Verifier, VerifierSettings, VerifyError, bearer_token};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::mint::{self, AUDIENCE, ISSUER, KEYRING, MAX_TOKEN_BYTES, NOW};

const MAX_AGE_SECONDS: u64 = 3_600;

static GOOD: LazyLock<String> = LazyLock::new(|| mint::token("auth0|good"));

/// The most lenient and the strictest of what can be configured.
static VERIFIERS: LazyLock<[Verifier; 2]> = LazyLock::new(|| {
    [
        VerifierSettings {
            allow_anonymous: true,
            ..mint::settings()
        },
        VerifierSettings {
            max_token_age: Some(Duration::from_secs(MAX_AGE_SECONDS)),
            typ: TypPolicy::AtJwt,
            ..mint::settings()
        },
    ]
    .map(Verifier::new)
});

pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((0, signed)) => {
            let end = signed.iter().position(|byte| *byte == 0);
            let (header, payload) = signed.split_at(end.unwrap_or(signed.len()));
            check_signed(header, payload.get(1..).unwrap_or_default());
        }
        _ => check_lines(data),
    }
}

fn check_lines(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
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
        headers.append(AUTHORIZATION, line);
    }
    let Ok(Some(bearer)) = bearer_token(&headers) else {
        return;
    };
    assert_eq!(headers.len(), 1, "one line, one token");
    let scheme = bearer.scheme();
    assert_eq!(
        format!("{bearer:?}"),
        format!("BearerToken {{ text: Secret, scheme: {scheme:?} }}"),
        "Debug does not show the token"
    );
    let lenient = &VERIFIERS[0];
    let Ok(unverified) = lenient.read(bearer) else {
        return;
    };
    assert!(bearer.secret().len() <= MAX_TOKEN_BYTES);
    assert_eq!(bearer.secret().split('.').count(), 3);
    match lenient.verify(&unverified, &KEYRING, UnixTime::from_secs(NOW)) {
        Ok(_) => assert_eq!(bearer.secret(), *GOOD, "only one token was ever signed"),
        Err(error) => check_error(&error),
    }
}

fn check_signed(header: &[u8], payload: &[u8]) {
    let text = mint::sign(header, payload);
    if text.len() > MAX_TOKEN_BYTES {
        return;
    }
    let mut headers = HeaderMap::new();
    let line = HeaderValue::try_from(format!("Bearer {text}")).expect("visible ASCII");
    headers.insert(AUTHORIZATION, line);
    let bearer = bearer_token(&headers)
        .expect("well-formed")
        .expect("a token");
    assert_eq!(bearer.secret(), text);
    for (verifier, strict) in VERIFIERS.iter().zip([false, true]) {
        let expected = is_acceptable(header, payload, strict);
        let result = match verifier.read(bearer) {
            Ok(unverified) => verifier.verify(&unverified, &KEYRING, UnixTime::from_secs(NOW)),
            Err(rejection) => Err(VerifyError::Rejected(rejection)),
        };
        match result {
            Ok(token) => {
                assert!(expected, "accepted (strict: {strict})");
                assert_eq!(token.issuer(), ISSUER);
                assert_eq!(
                    mint::from_base64url(token.payload()).as_deref(),
                    Some(payload)
                );
                assert!(token.valid_until() >= UnixTime::from_secs(0));
                check_identity(token);
            }
            Err(error) => {
                check_error(&error);
                // Duplicate members and depth are this parser's own rules.
                let is_own_rule =
                    matches!(&error, VerifyError::Rejected(one) if one.code() == "token_malformed");
                assert!(
                    !expected || is_own_rule,
                    "refused (strict: {strict}): {error:?}"
                );
            }
        }
    }
}

fn check_error(error: &VerifyError) {
    match error {
        VerifyError::Rejected(rejection) => {
            assert!(rejection.code().starts_with("token_"));
            assert!(!rejection.description().contains(['"', '\\']));
            assert!(!rejection.to_string().is_empty());
        }
        VerifyError::UnknownKey => {}
        VerifyError::KeysUnavailable => panic!("the keys are there"),
    }
}

/// The headers that speak for the token are sound, and say what it says.
fn check_identity(token: authgate::token::VerifiedToken) {
    let settings = IdentitySettings {
        subject_header: HeaderName::from_static("x-forwarded-user"),
        claims_header: Some(HeaderName::from_static("x-auth-claims")),
        headers: Vec::new(),
        forward_authorization: false,
    };
    let subject = token.subject().to_owned();
    let payload = token.payload().to_owned();
    let identity = settings.identify(token).bearer().expect("bound to nothing");
    let [(_, of_subject), (_, of_claims)] = identity.headers() else {
        panic!("two headers: {:?}", identity.headers());
    };
    assert!(of_subject.as_bytes().iter().all(u8::is_ascii_graphic));
    assert_eq!(
        mint::percent_decoded(of_subject.as_bytes()),
        subject.as_bytes()
    );
    assert_eq!(of_claims, payload.as_str());
}

/// The rules for access tokens by the letter, sharing nothing with the program.
fn is_acceptable(header: &[u8], payload: &[u8], strict: bool) -> bool {
    let (Ok(Value::Object(header)), Ok(Value::Object(claims))) = (
        serde_json::from_slice(header),
        serde_json::from_slice(payload),
    ) else {
        return false;
    };
    let forbidden = ["crit", "jwk", "jku", "x5c", "x5u", "b64"];
    let typ = match header.get("typ") {
        None => !strict,
        Some(Value::String(typ)) => {
            let typ = typ.to_ascii_lowercase();
            let typ = typ.strip_prefix("application/").unwrap_or(&typ);
            typ == "at+jwt" || (typ == "jwt" && !strict)
        }
        Some(_) => false,
    };
    let key = header.get("kid").is_none_or(|kid| kid == mint::KID);
    let header = typ
        && key
        && header
            .get("alg")
            .is_some_and(|alg| alg == "EdDSA" || alg == "Ed25519")
        && forbidden.iter().all(|name| !header.contains_key(*name));

    let audience = match claims.get("aud") {
        Some(Value::String(one)) => one == AUDIENCE,
        Some(Value::Array(many)) => {
            many.iter().all(Value::is_string) && many.iter().any(|one| one == AUDIENCE)
        }
        _ => false,
    };
    let now = NOW as f64;
    let time = |name: &str, absent: bool, holds: &dyn Fn(f64) -> bool| match claims.get(name) {
        None => absent,
        Some(value) => value.as_f64().is_some_and(holds),
    };
    let times = time("exp", false, &|exp| exp + 5.0 > now)
        && time("nbf", true, &|nbf| nbf <= now + 5.0)
        && time("iat", !strict, &|iat| {
            iat <= now + 60.0 && (!strict || iat + MAX_AGE_SECONDS as f64 + 5.0 >= now)
        });
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let subject = text("sub").is_some_and(|sub| {
        (1..=2048).contains(&sub.len())
            && !sub.chars().any(char::is_control)
            && !(strict && sub.starts_with("anon@"))
    });
    let profile = !strict || (text("client_id").is_some() && text("jti").is_some());
    header
        && audience
        && times
        && subject
        && profile
        && text("iss") == Some(ISSUER)
        && !claims.contains_key("cnf")
}
