//! Any bytes as an `Authorization` header, up to and including the signature check: nothing panics,
//! and nothing without a genuine signature gets through.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use authgate::clock::UnixTime;
use authgate::jose::{Algorithm, KeySet};
use authgate::token::{
    IssuerKeys, Keyring, TypPolicy, Verifier, VerifierSettings, VerifyError, bearer_token,
};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The keys of RFC 7515 A.3 and RFC 8037 A.2, whose tokens lack all that an access token needs.
const KEYS: &str = r#"{"keys":[
    {"kty":"EC","crv":"P-256","kid":"p256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
]}"#;

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    let (keys, skipped) = KeySet::parse(KEYS.as_bytes(), &Algorithm::ALL).expect("a JWK Set");
    assert!(skipped.is_empty());
    let issuer = IssuerKeys {
        issuer: "https://tenant.us.auth0.com/".to_owned(),
        keys: Some(keys),
    };
    Keyring::new(vec![issuer], 1)
});

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    Verifier::new(VerifierSettings {
        algorithms: Algorithm::ALL.to_vec(),
        audiences: vec!["https://your-api.com".to_owned()],
        clock_tolerance: Duration::from_secs(5),
        max_token_age: None,
        typ: TypPolicy::Any,
        allow_anonymous: true,
        max_token_bytes: MAX_TOKEN_BYTES,
    })
});

fuzz_target!(|data: &[u8]| {
    // Lines of the input are lines of the field.
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(line) = HeaderValue::from_bytes(line) else {
            return;
        };
        headers.append(AUTHORIZATION, line);
    }
    let Ok(Some(bearer)) = bearer_token(&headers) else {
        return;
    };
    assert_eq!(headers.len(), 1, "one line, one token");
    assert!(
        !format!("{bearer:?}").contains(bearer.secret()),
        "Debug shows the token"
    );
    let Ok(unverified) = VERIFIER.read(bearer) else {
        return;
    };
    assert!(bearer.secret().len() <= MAX_TOKEN_BYTES);
    assert_eq!(bearer.secret().split('.').count(), 3);
    match VERIFIER.verify(&unverified, &KEYRING, UnixTime::from_secs(1_800_000_000)) {
        Ok(_) => panic!("the private keys are not at hand, so nothing can be genuine and complete"),
        Err(VerifyError::Rejected(rejection)) => {
            assert!(rejection.code().starts_with("token_"));
            assert!(!rejection.description().contains(['"', '\\']));
        }
        Err(VerifyError::UnknownKey) => {}
        Err(VerifyError::KeysUnavailable) => panic!("the keys are there"),
    }
});
