//! Every flaw that a token can have, and its code.

use std::sync::Arc;

use ring::hmac;
use serde_json::{Value, json};

use crate::issuer::Issuer;
use crate::issuer::keys::{Algorithm, SigningKey, base64url};
use crate::issuer::tokens::{AUDIENCE, Mint, now};
use crate::support::{Setup, Upstream};
use crate::tokens::assert_refused;

#[tokio::test]
async fn every_flaw_has_its_code() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    assert_refused(&proxy, misshapen(&issuer)).await;
    assert_refused(&proxy, bad_headers(&issuer)).await;
    assert_refused(&proxy, bad_signatures(&issuer)).await;
    assert_refused(&proxy, bad_claims(&issuer)).await;
    assert_refused(&proxy, bad_times(&issuer)).await;
    assert_eq!(
        upstream.requests(),
        0,
        "a refused request has reached the upstream"
    );
}

#[rustfmt::skip]
fn misshapen(issuer: &Issuer) -> Vec<(&'static str, String, &'static str)> {
    let token = issuer.user("auth0|alice").mint();
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        panic!("three parts")
    };
    vec![
        ("opaque", "VjVrMzJvcGFxdWV0b2tlbm9mYXV0aDA".to_owned(), "token_encrypted_or_opaque"),
        ("encrypted", format!("{}..{payload}.{payload}.{signature}", base64url(br#"{"alg":"dir","enc":"A256GCM"}"#)), "token_encrypted_or_opaque"),
        ("two parts", format!("{header}.{payload}"), "token_malformed"),
        ("four parts", format!("{token}.{signature}"), "token_malformed"),
        ("a dot at the end", format!("{token}."), "token_malformed"),
        ("padding after the signature", format!("{token}=="), "token_malformed"),
        ("a plus in the header", format!("+{token}"), "token_malformed"),
        ("a slash in the signature", format!("{token}/"), "token_malformed"),
        ("a tilde in the signature", format!("{token}~"), "token_malformed"),
        ("stray bits in the signature", with_stray_bits(&token), "token_malformed"),
        ("half a byte of signature", format!("{header}.{payload}.A"), "token_malformed"),
        ("too large", issuer.user(&"s".repeat(20_000)).mint(), "token_too_large"),
    ]
}

/// Sets a bit that decodes to nothing, so that a sloppy decoder sees the same token.
fn with_stray_bits(token: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = token.as_bytes().to_vec();
    let last = bytes.last_mut().expect("a token");
    let value = ALPHABET
        .iter()
        .position(|symbol| symbol == last)
        .expect("base64url");
    // 256 bytes leave four unused bits in the last symbol.
    assert_eq!(value % 16, 0);
    *last = ALPHABET[value + 1];
    String::from_utf8(bytes).expect("ASCII")
}

#[rustfmt::skip]
fn bad_headers(issuer: &Issuer) -> Vec<(&'static str, String, &'static str)> {
    let user = || issuer.user("auth0|alice");
    let header = user().header_text();
    let twice = header.replacen('{', r#"{"alg":"none","#, 1);
    let deep = format!(
        r#"{{"alg":"RS256","x":{}{}}}"#,
        "[".repeat(4000),
        "]".repeat(4000)
    );
    let utf16: Vec<u8> = header.encode_utf16().flat_map(u16::to_le_bytes).collect();
    vec![
        ("header no JSON", user().raw_header("not json").mint(), "token_malformed"),
        ("header an array", user().raw_header("[]").mint(), "token_malformed"),
        ("header a string", user().raw_header("\"RS256\"").mint(), "token_malformed"),
        ("header empty", user().raw_header("").mint(), "token_malformed"),
        ("header with text after it", user().raw_header(format!("{header} x")).mint(), "token_malformed"),
        ("header with a byte order mark", user().raw_header(format!("\u{feff}{header}")).mint(), "token_malformed"),
        ("header in UTF-16", user().raw_header(utf16).mint(), "token_malformed"),
        ("header not UTF-8", user().raw_header(&b"{\"alg\":\"RS256\",\"x\":\"\xff\"}"[..]).mint(), "token_malformed"),
        ("header nested without end", user().raw_header(deep).mint(), "token_malformed"),
        ("alg twice", user().raw_header(twice).mint(), "token_malformed"),
        ("no alg", user().without_header("alg").mint(), "token_malformed"),
        ("alg a number", user().header("alg", 256).mint(), "token_malformed"),
        ("kid a number", user().header("kid", 7).mint(), "token_malformed"),
        ("crit", user().header("crit", json!(["exp"])).mint(), "token_critical_header"),
        ("crit empty", user().header("crit", json!([])).mint(), "token_critical_header"),
        ("crit with b64", user().header("crit", json!(["b64"])).header("b64", false).mint(), "token_critical_header"),
        ("its own key", user().header("jwk", issuer.key().jwk()).mint(), "token_embedded_key"),
        ("the address of a key", user().header("jku", issuer.keys_url()).mint(), "token_embedded_key"),
        ("its own certificate", user().header("x5c", json!(["MIIB"])).mint(), "token_embedded_key"),
        ("the address of a certificate", user().header("x5u", "https://evil.example/").mint(), "token_embedded_key"),
        ("an ID token's typ", user().header("typ", "id+jwt").mint(), "token_type_not_allowed"),
        ("a logout token", user().header("typ", "logout+jwt").mint(), "token_type_not_allowed"),
        ("a DPoP proof", user().header("typ", "dpop+jwt").mint(), "token_type_not_allowed"),
        ("an unknown kid", user().header("kid", "bm90LWEta2V5").mint(), "token_unknown_key"),
        ("a kid that is a path", user().header("kid", "../../dev/null").mint(), "token_unknown_key"),
        ("a kid in another case", user().header("kid", issuer.key().kid().to_lowercase()).mint(), "token_unknown_key"),
    ]
}

#[rustfmt::skip]
fn bad_signatures(issuer: &Issuer) -> Vec<(&'static str, String, &'static str)> {
    let user = || issuer.user("auth0|alice");
    let other = Arc::new(SigningKey::rsa(1));
    let ec = Arc::new(SigningKey::ec(Algorithm::Es256));
    let token = user().mint();
    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    let another = issuer.user("auth0|mallory").mint();
    let (foreign, _) = another.rsplit_once('.').expect("three parts");
    let mut table = vec![
        ("the key of somebody else", user().forged_with(&other).mint(), "token_signature_invalid"),
        ("another token's signature", format!("{foreign}.{signature}"), "token_signature_invalid"),
        ("no signature", format!("{signed}."), "token_signature_invalid"),
        ("zeroes", user().signature(vec![0; 256]).mint(), "token_signature_invalid"),
        ("a byte too many", user().signature(vec![1; 257]).mint(), "token_signature_invalid"),
        ("PS256", user().algorithm(Algorithm::Ps256).mint(), "token_algorithm_not_allowed"),
        ("RS384", user().algorithm(Algorithm::Rs384).mint(), "token_algorithm_not_allowed"),
        ("PS256 called RS256", user().algorithm(Algorithm::Ps256).header("alg", "RS256").mint(), "token_signature_invalid"),
        ("RS384 called RS256", user().algorithm(Algorithm::Rs384).header("alg", "RS256").mint(), "token_signature_invalid"),
        ("ES256", user().key(&ec).mint(), "token_algorithm_not_allowed"),
        ("HS256 with the public key", hmac_confusion(issuer), "token_algorithm_not_allowed"),
        ("HS256 called RS256", hmac_called_rsa(issuer), "token_signature_invalid"),
        ("alg in lower case", user().header("alg", "rs256").mint(), "token_algorithm_not_allowed"),
        ("alg empty", user().header("alg", "").mint(), "token_algorithm_not_allowed"),
    ];
    // Claims are not looked at while the signature does not hold.
    table.push((
        "forged and expired",
        user().forged_with(&other).expires_in(-9).mint(),
        "token_signature_invalid",
    ));
    for none in ["none", "None", "NONE", "nOnE"] {
        let unsigned = user().header("alg", none).signature(Vec::new()).mint();
        table.push(("unsigned", unsigned, "token_algorithm_not_allowed"));
    }
    table
}

/// The classic: an HMAC whose secret is the public key.
fn hmac_confusion(issuer: &Issuer) -> String {
    hmac_signed(issuer.user("auth0|alice").header("alg", "HS256"), issuer)
}

fn hmac_called_rsa(issuer: &Issuer) -> String {
    hmac_signed(issuer.user("auth0|alice"), issuer)
}

fn hmac_signed(mint: Mint, issuer: &Issuer) -> String {
    let secret = issuer.key().jwk()["n"]
        .as_str()
        .expect("a modulus")
        .to_owned();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let token = mint.mint();
    let (signed, _) = token.rsplit_once('.').expect("three parts");
    mint.signature(hmac::sign(&key, signed.as_bytes()).as_ref())
        .mint()
}

#[rustfmt::skip]
fn bad_claims(issuer: &Issuer) -> Vec<(&'static str, String, &'static str)> {
    let user = || issuer.user("auth0|alice");
    let claims = user().payload_text();
    let twice = |member: &str| {
        user()
            .raw_payload(claims.replacen('{', &format!("{{{member},"), 1))
            .mint()
    };
    let slashless = issuer.issuer().trim_end_matches('/').to_owned();
    let mut table = vec![
        ("claims no JSON", user().raw_payload("not json").mint(), "token_malformed"),
        ("claims an array", user().raw_payload("[]").mint(), "token_malformed"),
        ("claims empty", user().raw_payload("").mint(), "token_malformed"),
        ("claims not UTF-8", user().raw_payload(&b"{\"sub\":\"\xff\"}"[..]).mint(), "token_malformed"),
        ("claims with text after them", user().raw_payload(format!("{claims}{{}}")).mint(), "token_malformed"),
        ("an unpaired surrogate", twice(r#""x":"\ud800""#), "token_malformed"),
        ("an infinite number", twice(r#""x":1e400"#), "token_malformed"),
        ("sub twice", twice(r#""sub":"auth0|mallory""#), "token_malformed"),
        ("sub twice, once escaped", twice(r#""su\u0062":"auth0|mallory""#), "token_malformed"),
        ("an own claim twice", twice(r#""x":1,"x":1"#), "token_malformed"),
        ("a nested member twice", twice(r#""x":{"y":1,"y":2}"#), "token_malformed"),
        ("another issuer", user().claim("iss", "https://evil.example/").mint(), "token_wrong_issuer"),
        ("the issuer without its slash", user().claim("iss", slashless).mint(), "token_wrong_issuer"),
        ("the issuer in upper case", user().claim("iss", issuer.issuer().to_uppercase()).mint(), "token_wrong_issuer"),
        ("no issuer", user().without("iss").mint(), "token_missing_claim"),
        ("another audience", user().claim("aud", "https://another-api.com").mint(), "token_wrong_audience"),
        ("an ID token", user().claim("aud", "XyZ0aBcD1eFgH2iJkL3mNoP4qRsT5uVw").mint(), "token_wrong_audience"),
        ("the audience with a slash", user().claim("aud", format!("{AUDIENCE}/")).mint(), "token_wrong_audience"),
        ("the audience and more", user().claim("aud", format!("{AUDIENCE}.evil.example")).mint(), "token_wrong_audience"),
        ("no audience in the array", user().claim("aud", json!([])).mint(), "token_wrong_audience"),
        ("no audience", user().without("aud").mint(), "token_missing_claim"),
        ("no expiry", user().without("exp").mint(), "token_missing_claim"),
        ("no subject", user().without("sub").mint(), "token_missing_claim"),
        ("bound by DPoP", user().claim("cnf", json!({ "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" })).mint(), "token_sender_constrained"),
        ("bound by a certificate", user().claim("cnf", json!({ "x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2" })).mint(), "token_sender_constrained"),
        ("bound by nothing known", user().claim("cnf", json!({})).mint(), "token_sender_constrained"),
        ("an anonymous session", issuer.anonymous().mint(), "token_anonymous"),
    ];
    for (claim, value) in [
        ("iss", json!(["https://a/"])),
        ("iss", json!(1)),
        ("aud", json!(1)),
        ("aud", json!({ "https://your-api.com": true })),
        ("aud", json!([AUDIENCE, 1])),
        ("aud", json!([[AUDIENCE]])),
        ("aud", Value::Null),
        ("sub", json!("")),
        ("sub", json!(1)),
        ("sub", json!(["auth0|alice"])),
        ("sub", Value::Null),
        ("sub", json!("auth0|alice\r\nX-Forwarded-User: admin")),
        ("sub", json!("auth0|\u{0}alice")),
        ("sub", json!("auth0|\u{85}alice")),
        ("sub", json!("s".repeat(2049))),
        ("exp", json!("9999999999")),
        ("exp", json!(true)),
        ("exp", Value::Null),
        ("exp", json!([9_999_999_999_i64])),
        ("nbf", json!("1")),
        ("nbf", Value::Null),
        ("iat", json!("1")),
        ("iat", json!({})),
    ] {
        table.push((
            "a claim of the wrong type",
            user().claim(claim, value).mint(),
            "token_malformed_claim",
        ));
    }
    table
}

#[rustfmt::skip]
fn bad_times(issuer: &Issuer) -> Vec<(&'static str, String, &'static str)> {
    let user = || issuer.user("auth0|alice");
    vec![
        ("over", user().expires_in(-3600).mint(), "token_expired"),
        ("over and beyond the tolerance", user().expires_in(-6).mint(), "token_expired"),
        ("before 1970", user().claim("exp", -1).mint(), "token_expired"),
        ("at 1970", user().claim("exp", 0).mint(), "token_expired"),
        ("before all time", user().claim("exp", -1e300).mint(), "token_expired"),
        ("nbf ahead", user().claim("nbf", now() + 600).mint(), "token_not_yet_valid"),
        ("nbf just beyond the tolerance", user().claim("nbf", now() + 30).mint(), "token_not_yet_valid"),
        ("iat far ahead", user().issued_ago(-3600).mint(), "token_not_yet_valid"),
    ]
}
