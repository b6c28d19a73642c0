//! Access tokens against `token::Verifier`: one table for each row J1 to J25 of the checklist that
//! the module documentation of `token` answers to, and the tokens that Auth0 really issues.

use std::sync::Arc;
use std::time::Duration;

use authgate::clock::UnixTime;
use authgate::jose::Algorithm;
use authgate::token::{
    Keyring, Rejection, SubjectKind, TokenCache, TypPolicy, Verifier, VerifierSettings,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::signature::KeyPair as _;
use serde_json::{Value, json};

use crate::mint::{
    ABSENT, AUDIENCE, Draft, ISSUER, NOW, OTHER_ISSUER, Signer, Verdict, base64url, default_claims,
    default_header, edited, issuer, judge, key_set, keyring, non_canonical, overlaid, settings,
    sign_text, stranger, tenant, with_claims, with_header,
};

const CLIENT_ID: &str = "XyZ0aBcD1eFgH2iJkL3mNoP4qRsT5uVw";

/// A row: why, the token, and what must become of it.
type Row<'w> = (&'w str, String, &'w str);

/// What a table of tokens is judged by.
struct Bench {
    verifier: Verifier,
    keyring: Keyring,
    now: UnixTime,
}

impl Bench {
    /// Auth0's defaults and the tenant's one key.
    fn new() -> Self {
        Self::with(settings(), keyring())
    }

    fn with(settings: VerifierSettings, keyring: Keyring) -> Self {
        Self {
            verifier: Verifier::new(settings),
            keyring,
            now: UnixTime::from_secs(NOW),
        }
    }

    /// One issuer with these keys, and these algorithms allowed.
    fn keys(keys: &[Value], allowed: &[Algorithm]) -> Self {
        let settings = VerifierSettings {
            algorithms: allowed.to_vec(),
            ..settings()
        };
        Self::with(
            settings,
            Keyring::new(vec![issuer(ISSUER, keys, allowed)], 1),
        )
    }

    fn code(&self, token: &str) -> &'static str {
        self.verdict(token).code()
    }

    /// Every verdict is also held against J24: what a client is told never varies with the token.
    fn verdict(&self, token: &str) -> Verdict {
        let verdict = judge(&self.verifier, &self.keyring, token, self.now);
        if let Verdict::Rejected(rejection) = &verdict {
            check_rejection(rejection, token);
        }
        verdict
    }

    /// Judges a whole table and reports every row that went wrong, not only the first. Twice, since the
    /// second time the header of those that are accepted is known.
    fn check(&self, rows: &[Row<'_>], accepted: usize) {
        let wrong: Vec<String> = rows
            .iter()
            .chain(rows)
            .filter(|(_, token, expected)| self.code(token) != *expected)
            .map(|(why, token, expected)| {
                format!("{why}: {expected}, and not {:?}", self.verdict(token))
            })
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let counted = rows
            .iter()
            .filter(|(_, _, code)| *code == "accepted")
            .count();
        assert_eq!(counted, accepted, "rows that are accepted");
        assert!(rows.len() > accepted, "a table without a hostile row");
    }
}

/// J24. RFC 6750 §3 allows neither quotes nor backslashes in a description.
fn check_rejection(rejection: &Rejection, token: &str) {
    assert!(rejection.code().starts_with("token_"), "{rejection:?}");
    let description = rejection.description();
    assert!(!description.is_empty(), "{rejection:?}");
    assert!(
        description
            .bytes()
            .all(|byte| matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'),
        "{description}"
    );
    let log = format!("{rejection} {rejection:?}");
    for part in token.split('.').filter(|part| part.len() > 40) {
        assert!(
            !log.contains(part),
            "the log shows part of the token: {log}"
        );
    }
}

fn claims_rows<'w>(rows: &[(&'w str, Value, &'w str)]) -> Vec<Row<'w>> {
    rows.iter()
        .map(|(why, claims, expected)| (*why, with_claims(claims), *expected))
        .collect()
}

fn header_rows<'w>(rows: &[(&'w str, Value, &'w str)]) -> Vec<Row<'w>> {
    rows.iter()
        .map(|(why, header, expected)| (*why, with_header(header), *expected))
        .collect()
}

/// The parts of a good token.
fn parts() -> [String; 3] {
    let token = with_claims(&json!({}));
    let parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts.try_into().expect("three parts")
}

#[test]
fn j01_exactly_three_parts_of_base64url() {
    let [h, p, s] = parts();
    let token = format!("{h}.{p}.{s}");
    let json = format!(r#"{{"payload":"{p}","protected":"{h}","signature":"{s}"}}"#);
    Bench::new().check(
        &[
            ("untouched", token.clone(), "accepted"),
            ("no signature part", format!("{h}.{p}"), "token_malformed"),
            (
                "two payloads",
                format!("{h}.{p}.{p}.{s}"),
                "token_malformed",
            ),
            ("a dot at the end", format!("{token}."), "token_malformed"),
            ("a dot at the start", format!(".{token}"), "token_malformed"),
            ("only dots", "..".to_owned(), "token_malformed"),
            ("no header", format!(".{p}.{s}"), "token_malformed"),
            ("no payload", format!("{h}..{s}"), "token_signature_invalid"),
            (
                "an empty signature",
                format!("{h}.{p}."),
                "token_signature_invalid",
            ),
            ("swapped parts", format!("{p}.{h}.{s}"), "token_malformed"),
            (
                "five parts",
                format!("{h}.{p}.{s}.{s}.{s}"),
                "token_encrypted_or_opaque",
            ),
            (
                "five empty parts",
                "....".to_owned(),
                "token_encrypted_or_opaque",
            ),
            (
                "opaque",
                "V8oQ3bT1kZ7xW5yL0rJ9cN2dF4gH6aSe".to_owned(),
                "token_encrypted_or_opaque",
            ),
            ("padding at the end", format!("{token}="), "token_malformed"),
            (
                "padding inside",
                format!("{h}=.{p}.{s}"),
                "authorization_malformed",
            ),
            (
                "the other alphabet",
                format!("{h}.{p}.+/+/"),
                "token_malformed",
            ),
            ("a tilde", format!("{h}.{p}.~~~~"), "token_malformed"),
            (
                "a space inside",
                format!("{h}. {p}.{s}"),
                "authorization_malformed",
            ),
            ("a line break", format!("{h}.{p}.{s}\n"), "not_a_header"),
            ("quotes", format!("\"{token}\""), "authorization_malformed"),
            (
                "the scheme twice",
                format!("Bearer {token}"),
                "authorization_malformed",
            ),
            ("JSON serialization", json, "authorization_malformed"),
            (
                "two tokens",
                format!("{token}, {token}"),
                "authorization_malformed",
            ),
            ("nothing", String::new(), "authorization_malformed"),
        ],
        1,
    );
}

#[test]
fn j02_one_spelling_for_every_token() {
    // Lengths that leave unused bits in the last character of the part.
    let padded = |text: Value, room: usize| {
        let mut text = text.to_string();
        while text.len() % 3 != room {
            text.insert(1, ' ');
        }
        text
    };
    let mut rows = vec![("untouched", with_claims(&json!({})), "accepted")];
    for room in [1, 2] {
        let draft = Draft::new(&json!({}), &json!({}))
            .raw_header(padded(default_header(), room))
            .raw_payload(padded(default_claims(), room));
        let (h, p) = (base64url(&draft.header), base64url(&draft.payload));
        rows.push(("white space in JSON", draft.sign(tenant()), "accepted"));
        rows.push((
            "unused bits in the header, signed so",
            sign_text(&format!("{}.{p}", non_canonical(&h)), tenant(), "RS256"),
            "token_malformed",
        ));
        rows.push((
            "unused bits in the payload, signed so",
            sign_text(&format!("{h}.{}", non_canonical(&p)), tenant(), "RS256"),
            "token_malformed",
        ));
        let [_, _, s] = parts();
        rows.push((
            "unused bits in payload and another signature",
            format!("{h}.{}.{s}", non_canonical(&p)),
            "token_signature_invalid",
        ));
    }
    let [h, p, s] = parts();
    rows.push((
        "unused bits in the signature",
        format!("{h}.{p}.{}", non_canonical(&s)),
        "token_malformed",
    ));
    Bench::new().check(&rows, 3);
}

#[test]
fn j03_the_size_is_capped_before_anything_is_decoded() {
    let token = with_claims(&json!({}));
    let capped_at = |bytes: usize| {
        let settings = VerifierSettings {
            max_token_bytes: bytes,
            ..settings()
        };
        Bench::with(settings, keyring())
    };
    assert_eq!(
        capped_at(token.len()).code(&token),
        "accepted",
        "at the limit"
    );
    assert_eq!(
        capped_at(token.len() - 1).code(&token),
        "token_too_large",
        "one over"
    );
    let long = with_claims(&json!({"permissions": vec!["read:things"; 1_200]}));
    Bench::new().check(
        &[
            (
                "a megabyte without sense",
                "a".repeat(1 << 20),
                "token_too_large",
            ),
            ("a megabyte of dots", ".".repeat(1 << 20), "token_too_large"),
            ("well signed and too long", long, "token_too_large"),
        ],
        0,
    );
}

/// Bytes that are no JSON object, or none that two parsers would agree about.
fn hostile_json(good: &str) -> Vec<(&'static str, Vec<u8>)> {
    let member = |member: &str| format!("{},{member}}}", &good[..good.len() - 1]).into_bytes();
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let with_bom = [&b"\xef\xbb\xbf"[..], good.as_bytes()].concat();
    vec![
        ("nothing", Vec::new()),
        ("an array", format!("[{good}]").into_bytes()),
        ("a string", json!(good).to_string().into_bytes()),
        ("a number", b"1".to_vec()),
        ("null", b"null".to_vec()),
        ("a byte order mark", with_bom),
        ("UTF-16", utf16),
        ("something after it", format!("{good}x").into_bytes()),
        ("a NUL after it", format!("{good}\0").into_bytes()),
        ("two of them", format!("{good}{good}").into_bytes()),
        ("cut off", good.as_bytes()[..good.len() - 1].to_vec()),
        (
            "a trailing comma",
            format!("{},}}", &good[..good.len() - 1]).into_bytes(),
        ),
        ("single quotes", good.replace('"', "'").into_bytes()),
        ("a comment", format!("/**/{good}").into_bytes()),
        ("NaN", member(r#""x":NaN"#)),
        ("Infinity", member(r#""x":Infinity"#)),
        ("a number out of range", member(r#""x":1e400"#)),
        ("a leading zero", member(r#""x":01"#)),
        ("a hexadecimal number", member(r#""x":0x1"#)),
        ("a lone surrogate", member(r#""x":"\ud800""#)),
        ("a raw control character", member("\"x\":\"\u{1}\"")),
        (
            "bytes that are not UTF-8",
            [&member("\"x\":\"")[..], b"\xff\"}"].concat(),
        ),
        (
            "33 levels",
            member(&format!("\"x\":{}{}", "[".repeat(32), "]".repeat(32))),
        ),
        (
            "1,000 levels",
            member(&format!("\"x\":{}{}", "[".repeat(1_000), "]".repeat(1_000))),
        ),
        (
            "nesting that never ends",
            member(&format!("\"x\":{}", "[{\"y\":".repeat(1_000))),
        ),
    ]
}

#[test]
fn j04_header_and_claims_are_json_objects() {
    let draft = Draft::new(&json!({}), &json!({}));
    let mut rows = vec![
        (
            "insignificant white space",
            draft
                .clone()
                .raw_header(b" \t\r\n{\"alg\" : \"RS256\" , \"kid\":\"k1\"} \n".to_vec())
                .sign(tenant()),
            "accepted",
        ),
        (
            "32 levels",
            with_claims(&json!({"x": serde_json::from_str::<Value>(
                &format!("{}{}", "[".repeat(31), "]".repeat(31))
            ).expect("JSON")})),
            "accepted",
        ),
    ];
    for (why, bytes) in hostile_json(&default_header().to_string()) {
        let token = draft.clone().raw_header(bytes).sign(tenant());
        rows.push((why, token, "token_malformed"));
    }
    for (why, bytes) in hostile_json(&default_claims().to_string()) {
        let token = draft.clone().raw_payload(bytes).sign(tenant());
        rows.push((why, token, "token_malformed"));
    }
    Bench::new().check(&rows, 2);
    assert_eq!(rows.len(), 52);
}

#[test]
fn j05_no_member_twice() {
    let draft = Draft::new(&json!({}), &json!({}));
    let mut rows = vec![("untouched", draft.sign(tenant()), "accepted")];
    let header = default_header().to_string();
    for member in [
        r#""alg":"none""#,
        r#""alg":"RS256""#,
        r#""kid":"k2""#,
        r#""typ":"JWT""#,
        r#""\u0061lg":"none""#,
        r#""x":1,"x":2"#,
        r#""x":{"y":1,"y":1}"#,
    ] {
        let twice = format!("{},{member}}}", &header[..header.len() - 1]);
        rows.push((
            member,
            draft.clone().raw_header(twice).sign(tenant()),
            "token_malformed",
        ));
    }
    let claims = default_claims().to_string();
    for member in [
        r#""sub":"auth0|admin""#,
        r#""sub":"auth0|123456""#,
        r#""iss":"https://tenant.us.auth0.com/""#,
        r#""aud":"https://your-api.com""#,
        r#""exp":9999999999"#,
        r#""s\u0075b":"auth0|admin""#,
        r#""scope":"admin""#,
        r#""https://your-app.com/roles":[],"https://your-app.com/roles":["admin"]"#,
        r#""act":{"sub":"a","sub":"b"}"#,
        r#""x":[[{"y":{"z":1,"z":2}}]]"#,
        r#""":1,"":2"#,
    ] {
        let twice = format!("{},{member}}}", &claims[..claims.len() - 1]);
        rows.push((
            member,
            draft.clone().raw_payload(twice).sign(tenant()),
            "token_malformed",
        ));
    }
    Bench::new().check(&rows, 1);
    assert_eq!(rows.len(), 19);
}

/// A token whose MAC was made with bytes that everybody knows.
fn hmac_token(algorithm: hmac::Algorithm, name: &str, secret: &[u8]) -> String {
    let input = Draft::new(&json!({"alg":name}), &json!({})).signing_input();
    let tag = hmac::sign(&hmac::Key::new(algorithm, secret), input.as_bytes());
    format!("{input}.{}", base64url(tag.as_ref()))
}

#[test]
fn j06_the_algorithm_is_configured_and_never_chosen_by_the_token() {
    // RFC 8017 A.1.1 and RFC 5280 §4.1: the public key in the encodings that are lying around.
    let pkcs1 = tenant().rsa_pair().public_key().as_ref().to_vec();
    let pem = |label: &str, der: &[u8]| {
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            STANDARD.encode(der)
        )
    };
    let pem_pkcs1 = pem("RSA PUBLIC KEY", &pkcs1);
    let jwk = tenant().jwk(&json!({"kid":"k1","alg":"RS256"})).to_string();
    let modulus = tenant().public()["n"].as_str().expect("n").to_owned();
    let mut rows = vec![
        (
            "HS256 under the PKCS#1 DER",
            hmac_token(hmac::HMAC_SHA256, "HS256", &pkcs1),
        ),
        (
            "HS256 under the PEM",
            hmac_token(hmac::HMAC_SHA256, "HS256", pem_pkcs1.as_bytes()),
        ),
        (
            "HS256 under the PEM without its last line break",
            hmac_token(hmac::HMAC_SHA256, "HS256", pem_pkcs1.trim_end().as_bytes()),
        ),
        (
            "HS256 under the JWK",
            hmac_token(hmac::HMAC_SHA256, "HS256", jwk.as_bytes()),
        ),
        (
            "HS256 under the modulus",
            hmac_token(hmac::HMAC_SHA256, "HS256", modulus.as_bytes()),
        ),
        (
            "HS256 under nothing",
            hmac_token(hmac::HMAC_SHA256, "HS256", b""),
        ),
        (
            "HS384 under the PEM",
            hmac_token(hmac::HMAC_SHA384, "HS384", pem_pkcs1.as_bytes()),
        ),
        (
            "HS512 under the PEM",
            hmac_token(hmac::HMAC_SHA512, "HS512", pem_pkcs1.as_bytes()),
        ),
    ];
    for name in [
        "none", "None", "NONE", "nOnE", " none", "", "rs256", "RS256 ", "RS-256", "RS1", "ES256K",
        "ES512", "RSA-OAEP", "dir",
    ] {
        let input = Draft::new(&json!({"alg":name}), &json!({})).signing_input();
        rows.push(("no signature", format!("{input}.")));
        rows.push(("signed as RS256", sign_text(&input, tenant(), "RS256")));
    }
    for name in ["RS384", "RS512", "PS256", "PS384", "PS512"] {
        let draft = Draft::new(&json!({"alg":name}), &json!({}));
        rows.push(("genuine, and not configured", draft.sign(tenant())));
    }
    let rows: Vec<Row<'_>> = rows
        .into_iter()
        .map(|(why, token)| (why, token, "token_algorithm_not_allowed"))
        .collect();
    assert_eq!(rows.len(), 41);
    Bench::new().check(&rows, 0);
    // With everything configured, what cannot be configured is refused all the same.
    let keys = [tenant().jwk(&json!({"kid":"k1","alg":"RS256"}))];
    Bench::keys(&keys, &Algorithm::ALL).check(&rows, 0);
    Bench::new().check(
        &header_rows(&[
            ("no alg", json!({"alg":ABSENT}), "token_malformed"),
            ("a number", json!({"alg":256}), "token_malformed"),
            ("a list", json!({"alg":["RS256"]}), "token_malformed"),
            ("null", json!({"alg":null}), "token_malformed"),
            (
                "an object",
                json!({"alg":{"RS256":true}}),
                "token_malformed",
            ),
        ]),
        0,
    );
    // The list holds even where a key set was read under a wider one.
    let ps256 = [tenant().jwk(&json!({"kid":"k1","alg":"PS256"}))];
    let wider = Keyring::new(vec![issuer(ISSUER, &ps256, &Algorithm::ALL)], 1);
    let genuine = Draft::new(&json!({"alg":"PS256"}), &json!({})).sign(tenant());
    let bench = Bench::with(settings(), wider);
    assert_eq!(bench.code(&genuine), "token_algorithm_not_allowed");
}

#[test]
fn j07_one_key_one_algorithm() {
    use Algorithm::{Es256, Ps256, Rs256, Rs512};
    let token = |alg: &str| Draft::new(&json!({"alg":alg}), &json!({})).sign(tenant());
    let named = |alg: &str| [tenant().jwk(&json!({"kid":"k1","alg":alg}))];
    let silent = [tenant().jwk(&json!({"kid":"k1"}))];
    for (why, bench, rs256, ps256) in [
        (
            "an RS256 key",
            Bench::keys(&named("RS256"), &[Rs256, Ps256]),
            true,
            false,
        ),
        (
            "a PS256 key",
            Bench::keys(&named("PS256"), &[Rs256, Ps256]),
            false,
            true,
        ),
        (
            "a silent key, RS256 first",
            Bench::keys(&silent, &[Rs256, Ps256]),
            true,
            false,
        ),
        (
            "a silent key, PS256 first",
            Bench::keys(&silent, &[Ps256, Rs256]),
            false,
            true,
        ),
        (
            "a silent key after another family",
            Bench::keys(&silent, &[Es256, Rs256]),
            true,
            false,
        ),
    ] {
        for (alg, fits) in [("RS256", rs256), ("PS256", ps256)] {
            let expected = if fits {
                "accepted"
            } else {
                "token_algorithm_not_allowed"
            };
            assert_eq!(bench.code(&token(alg)), expected, "{alg} with {why}");
        }
    }
    let draft = |alg: &str, kid: &str| Draft::new(&json!({"alg":alg,"kid":kid}), &json!({}));
    let (p256, p384, ed25519) = (Signer::p256(), Signer::p384(), Signer::ed25519());
    let keys = [
        tenant().jwk(&json!({"kid":"rsa","alg":"RS256"})),
        p256.jwk(&json!({"kid":"p256"})),
        p384.jwk(&json!({"kid":"p384","alg":"ES384"})),
        ed25519.jwk(&json!({"kid":"ed","alg":"EdDSA"})),
    ];
    let es256 = draft("ES256", "p256").sign(&p256);
    let (input, signature) = es256.rsplit_once('.').expect("a signature");
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let (r, s) = signature.split_at(32);
    Bench::keys(&keys, &Algorithm::ALL).check(
        &[
            ("RS256", draft("RS256", "rsa").sign(tenant()), "accepted"),
            ("ES256", es256.clone(), "accepted"),
            ("ES384", draft("ES384", "p384").sign(&p384), "accepted"),
            ("EdDSA", draft("EdDSA", "ed").sign(&ed25519), "accepted"),
            (
                "Ed25519 of RFC 9864",
                draft("Ed25519", "ed").sign(&ed25519),
                "accepted",
            ),
            (
                "RS512 by an RS256 key",
                draft("RS512", "rsa").sign(tenant()),
                "token_algorithm_not_allowed",
            ),
            (
                "ES256 with the name of an RSA key",
                draft("ES256", "rsa").sign(&p256),
                "token_algorithm_not_allowed",
            ),
            (
                "RS256 with the name of a curve key",
                draft("RS256", "p256").sign(tenant()),
                "token_algorithm_not_allowed",
            ),
            (
                "ES256 with the name of the P-384 key",
                draft("ES256", "p384").sign(&p256),
                "token_algorithm_not_allowed",
            ),
            (
                "EdDSA bytes under RS256",
                draft("RS256", "rsa").sign(&ed25519),
                "token_signature_invalid",
            ),
            (
                "PKCS#1 bytes under EdDSA",
                draft("EdDSA", "ed").signed_as("RS256").sign(tenant()),
                "token_signature_invalid",
            ),
            (
                "P-384 bytes under ES256",
                draft("ES256", "p256").sign(&p384),
                "token_signature_invalid",
            ),
            (
                "a zero ECDSA signature",
                format!("{input}.{}", base64url(&[0; 64])),
                "token_signature_invalid",
            ),
            (
                "an ECDSA signature in DER",
                format!("{input}.{}", base64url(&der_signature(r, s))),
                "token_signature_invalid",
            ),
            (
                "an ECDSA signature with its halves swapped",
                format!("{input}.{}", base64url(&[s, r].concat())),
                "token_signature_invalid",
            ),
            (
                "half an ECDSA signature",
                format!("{input}.{}", base64url(r)),
                "token_signature_invalid",
            ),
        ],
        5,
    );
    let both = Bench::keys(&named("RS512"), &[Rs256, Rs512]);
    assert_eq!(both.code(&token("RS256")), "token_algorithm_not_allowed");
}

/// The form that X.509 uses and JOSE does not (RFC 7518 §3.4).
fn der_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let mut number: Vec<u8> = half.iter().copied().skip_while(|byte| *byte == 0).collect();
        if number.first().is_none_or(|byte| byte & 0x80 != 0) {
            number.insert(0, 0);
        }
        let mut der = vec![0x02, u8::try_from(number.len()).expect("short")];
        der.append(&mut number);
        der
    };
    let body = [integer(r), integer(s)].concat();
    [vec![0x30, u8::try_from(body.len()).expect("short")], body].concat()
}

#[test]
fn j08_keys_for_other_purposes_are_not_used_and_do_not_disturb() {
    let token = with_claims(&json!({}));
    let rsa = |changes: Value| tenant().jwk(&overlaid(&json!({"kid":"k1"}), &changes));
    for (why, key) in [
        ("use enc", rsa(json!({"use":"enc"}))),
        ("use in capitals", rsa(json!({"use":"SIG"}))),
        ("use is no string", rsa(json!({"use":["sig"]}))),
        ("key_ops without verify", rsa(json!({"key_ops":["sign"]}))),
        ("key_ops empty", rsa(json!({"key_ops":[]}))),
        ("key_ops is no array", rsa(json!({"key_ops":"verify"}))),
        ("alg for encryption", rsa(json!({"alg":"RSA-OAEP-256"}))),
        ("alg HS256", rsa(json!({"alg":"HS256"}))),
        ("alg none", rsa(json!({"alg":"none"}))),
        ("alg is no string", rsa(json!({"alg":256}))),
        ("kty in small letters", rsa(json!({"kty":"rsa"}))),
        ("kty missing", rsa(json!({"kty":ABSENT}))),
        ("kid is no string", rsa(json!({"kid":1}))),
        ("a private exponent", rsa(json!({"d":"AQAB"}))),
    ] {
        // The key beside it keeps the set from being empty, which would mean "no keys yet".
        let beside = stranger().jwk(&json!({"kid":"k2"}));
        let bench = Bench::keys(&[key, beside], &[Algorithm::Rs256]);
        assert_eq!(bench.code(&token), "unknown_key", "{why}");
    }
    let junk = [
        json!({"kty":"AKP","alg":"ML-DSA-65","pub":"AAAA","kid":"post-quantum"}),
        json!({"kty":"EC","crv":"P-521","x":"AA","y":"AA","kid":"p521"}),
        json!({"kty":"OKP","crv":"Ed448","x":"AA","kid":"ed448"}),
        json!({"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ","kid":"secret"}),
        json!({"kid":"nothing"}),
        json!(null),
        json!("text"),
        // Auth0's x5t: base64url of forty hexadecimal digits, not of twenty bytes.
        tenant().jwk(&json!({
            "kid":"k1","alg":"RS256","x5c":["MIIC"],
            "x5t":"NjVBRjY5MDlCMUIwNzU4RTA2QzZFMDQ4QzQ2MDAyQjVDNjk1RTM2Qg",
        })),
    ];
    let bench = Bench::keys(&junk, &[Algorithm::Rs256]);
    assert_eq!(
        bench.code(&token),
        "accepted",
        "the good key among seven others"
    );
    for kid in ["post-quantum", "p521", "ed448", "secret", "nothing"] {
        assert_eq!(
            bench.code(&with_header(&json!({"kid":kid}))),
            "unknown_key",
            "{kid}"
        );
    }
}

#[test]
fn j09_short_and_odd_rsa_keys_are_not_used() {
    use rsa::traits::PublicKeyParts as _;
    for bits in [1024, 2047] {
        let key = rsa::RsaPrivateKey::new(&mut rand::thread_rng(), bits).expect("an RSA key");
        let input = Draft::new(&json!({}), &json!({})).signing_input();
        let signature = key
            .sign(rsa::Pkcs1v15Sign::new_unprefixed(), &digest_info(&input))
            .expect("a signature");
        let token = format!("{input}.{}", base64url(&signature));
        let short = json!({
            "kty":"RSA","kid":"k1","n":base64url(&key.n().to_bytes_be()),"e":"AQAB",
        });
        let beside = stranger().jwk(&json!({"kid":"k2"}));
        let bench = Bench::keys(&[short, beside], &[Algorithm::Rs256]);
        assert_eq!(
            bench.code(&token),
            "unknown_key",
            "a genuine signature with {bits} bits"
        );
    }
    for (e, why) in [
        ("AQ", "one"),
        ("Ag", "two"),
        ("AA", "zero"),
        ("", "nothing"),
        ("AQAC", "even"),
    ] {
        let odd = tenant().jwk(&json!({"kid":"k1","e":e}));
        let beside = stranger().jwk(&json!({"kid":"k2"}));
        let code = Bench::keys(&[odd, beside], &[Algorithm::Rs256]).code(&with_claims(&json!({})));
        assert!(
            matches!(code, "unknown_key" | "token_signature_invalid"),
            "exponent {why}: {code}"
        );
    }
}

/// RFC 8017 §9.2, note 1: what a PKCS#1 v1.5 signature with SHA-256 signs.
fn digest_info(input: &str) -> Vec<u8> {
    const PREFIX: [u8; 19] = [
        0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
        0x05, 0x00, 0x04, 0x20,
    ];
    let digest = ring::digest::digest(&ring::digest::SHA256, input.as_bytes());
    [&PREFIX[..], digest.as_ref()].concat()
}

#[test]
fn j10_crit_is_never_understood() {
    Bench::new().check(
        &header_rows(&[
            (
                "one that is there",
                json!({"crit":["exp"],"exp":1}),
                "token_critical_header",
            ),
            (
                "one that is not there",
                json!({"crit":["exp"]}),
                "token_critical_header",
            ),
            (
                "a registered one",
                json!({"crit":["alg"]}),
                "token_critical_header",
            ),
            (
                "b64",
                json!({"crit":["b64"],"b64":false}),
                "token_critical_header",
            ),
            ("empty", json!({"crit":[]}), "token_critical_header"),
            ("null", json!({"crit":null}), "token_critical_header"),
            ("a string", json!({"crit":"exp"}), "token_critical_header"),
            ("false", json!({"crit":false}), "token_critical_header"),
            ("b64 without crit", json!({"b64":false}), "token_malformed"),
            (
                "b64 as it is anyway",
                json!({"b64":true}),
                "token_malformed",
            ),
            (
                "another case is another name",
                json!({"Crit":["exp"]}),
                "accepted",
            ),
            (
                "an unknown member",
                json!({"x-private":{"a":1}}),
                "accepted",
            ),
        ]),
        2,
    );
}

#[test]
fn j11_a_key_that_the_token_brings_is_never_used() {
    let evil = stranger().jwk(&json!({"kid":"k1","alg":"RS256"}));
    let mut rows = Vec::new();
    for (why, header) in [
        ("jwk", json!({"jwk":evil})),
        (
            "jwk of the tenant itself",
            json!({"jwk":tenant().jwk(&json!({}))}),
        ),
        ("jwk null", json!({"jwk":null})),
        ("jku", json!({"jku":"https://evil.example/jwks.json"})),
        (
            "jku of the tenant itself",
            json!({"jku":format!("{ISSUER}.well-known/jwks.json")}),
        ),
        ("x5u", json!({"x5u":"https://evil.example/cert.pem"})),
        ("x5c", json!({"x5c":["MIIC"]})),
        ("x5c empty", json!({"x5c":[]})),
    ] {
        rows.push((why, with_header(&header), "token_embedded_key"));
        let forged = Draft::new(&header, &json!({"sub":"auth0|admin"})).sign(stranger());
        rows.push((why, forged, "token_embedded_key"));
    }
    rows.push((
        "thumbprints only name a key",
        with_header(&json!({"x5t":"AA","x5t#S256":"AA"})),
        "accepted",
    ));
    Bench::new().check(&rows, 1);
}

#[test]
fn j12_kid_is_an_opaque_name_of_bounded_length() {
    Bench::new().check(
        &header_rows(&[
            ("exact", json!({"kid":"k1"}), "accepted"),
            ("absent, one key", json!({"kid":ABSENT}), "accepted"),
            ("another case", json!({"kid":"K1"}), "unknown_key"),
            ("a longer one", json!({"kid":"k1 "}), "unknown_key"),
            ("a shorter one", json!({"kid":"k"}), "unknown_key"),
            ("empty", json!({"kid":""}), "unknown_key"),
            (
                "a path",
                json!({"kid":"../../../../dev/null"}),
                "unknown_key",
            ),
            ("SQL", json!({"kid":"' or '1'='1"}), "unknown_key"),
            ("a shell", json!({"kid":"k1|id"}), "unknown_key"),
            ("line breaks", json!({"kid":"k1\r\nx: y"}), "unknown_key"),
            ("NUL", json!({"kid":"k1\u{0}"}), "unknown_key"),
            ("256 bytes", json!({"kid":"k".repeat(256)}), "unknown_key"),
            (
                "257 bytes",
                json!({"kid":"k".repeat(257)}),
                "token_malformed",
            ),
            (
                "129 two-byte characters",
                json!({"kid":"\u{e9}".repeat(129)}),
                "token_malformed",
            ),
            ("a number", json!({"kid":1}), "token_malformed"),
            ("null", json!({"kid":null}), "token_malformed"),
            ("a list", json!({"kid":["k1"]}), "token_malformed"),
        ]),
        2,
    );
    let anonymous = with_header(&json!({"kid":ABSENT}));
    // Distinct keys: those that count are told apart by more than their names.
    let modulus = stranger().public()["n"]
        .as_str()
        .expect("a text")
        .to_owned();
    let decoys = |count: usize, kid: Option<&str>| -> Vec<Value> {
        (0..count)
            .map(|number| {
                let kid = kid.map_or_else(|| format!("decoy{number}"), str::to_owned);
                let n = format!("{}{number:02}{}", &modulus[..100], &modulus[102..]);
                stranger().jwk(&json!({"kid":kid,"alg":"RS256","n":n}))
            })
            .collect()
    };
    let own = |kid: Value| tenant().jwk(&json!({"kid":kid,"alg":"RS256"}));
    for (keys, token, expected, why) in [
        (1, &anonymous, "accepted", "no kid, one key"),
        (
            5,
            &anonymous,
            "accepted",
            "no kid, five keys, the last fits",
        ),
        (
            6,
            &anonymous,
            "token_unknown_key",
            "no kid, six keys: too many to try",
        ),
    ] {
        let keys = [decoys(keys - 1, None), vec![own(json!("k1"))]].concat();
        assert_eq!(
            Bench::keys(&keys, &[Algorithm::Rs256]).code(token),
            expected,
            "{why}"
        );
    }
    let named = with_claims(&json!({}));
    for (keys, expected, why) in [
        (5, "accepted", "five keys of one name, the last fits"),
        (
            6,
            "token_unknown_key",
            "six keys of one name: too many to try",
        ),
    ] {
        let keys = [decoys(keys - 1, Some("k1")), vec![own(json!("k1"))]].concat();
        assert_eq!(
            Bench::keys(&keys, &[Algorithm::Rs256]).code(&named),
            expected,
            "{why}"
        );
    }
    let repeated = vec![own(json!("k1")); 90];
    let bench = Bench::keys(&repeated, &[Algorithm::Rs256]);
    assert_eq!(bench.code(&named), "accepted", "one key many times");
    assert_eq!(bench.code(&anonymous), "accepted", "one key many times");
    let nameless = [tenant().jwk(&json!({"alg":"RS256"}))];
    let bench = Bench::keys(&nameless, &[Algorithm::Rs256]);
    assert_eq!(bench.code(&anonymous), "accepted", "neither has a name");
    assert_eq!(
        bench.code(&named),
        "unknown_key",
        "only the token has a name"
    );
    let many_others = [decoys(20, None), vec![own(json!("k1"))]].concat();
    let bench = Bench::keys(&many_others, &[Algorithm::Rs256]);
    assert_eq!(
        bench.code(&named),
        "accepted",
        "others of another name do not count"
    );
    let other_family = Signer::p256();
    let mixed: Vec<Value> = (0..9)
        .map(|number| other_family.jwk(&json!({"kid":format!("ec{number}"),"alg":"ES256"})))
        .chain([own(json!("k1"))])
        .collect();
    let bench = Bench::keys(&mixed, &[Algorithm::Rs256, Algorithm::Es256]);
    assert_eq!(
        bench.code(&anonymous),
        "accepted",
        "keys of another algorithm do not count"
    );
}

#[test]
fn j13_an_unknown_key_is_told_from_missing_keys() {
    let allowed = [Algorithm::Rs256];
    let own = issuer(ISSUER, &[tenant().jwk(&json!({"kid":"k1"}))], &allowed);
    let other = issuer(
        OTHER_ISSUER,
        &[stranger().jwk(&json!({"kid":"k2"}))],
        &allowed,
    );
    let missing = |name| issuer(name, &[], &allowed);
    let good = with_claims(&json!({}));
    let unknown = with_header(&json!({"kid":"k9"}));
    let nameless = Draft::new(&json!({"kid":ABSENT}), &json!({})).sign(tenant());
    for (issuers, token, expected, why) in [
        (vec![], &good, "keys_unavailable", "no issuer"),
        (vec![missing(ISSUER)], &good, "keys_unavailable", "no keys"),
        (
            vec![missing(ISSUER)],
            &nameless,
            "keys_unavailable",
            "no keys and no kid",
        ),
        (
            vec![missing(ISSUER), other.clone()],
            &good,
            "keys_unavailable",
            "it may be the missing one's",
        ),
        (
            vec![own.clone(), missing(OTHER_ISSUER)],
            &good,
            "accepted",
            "known, though another's are missing",
        ),
        (
            vec![own.clone(), missing(OTHER_ISSUER)],
            &unknown,
            "keys_unavailable",
            "it may be the missing one's",
        ),
        (
            vec![own.clone(), other.clone()],
            &unknown,
            "unknown_key",
            "all are there and none is it",
        ),
        (vec![own.clone()], &unknown, "unknown_key", "rotation"),
        (
            vec![own, other],
            &nameless,
            "accepted",
            "every issuer's keys are tried",
        ),
    ] {
        let bench = Bench::with(settings(), Keyring::new(issuers, 1));
        assert_eq!(bench.code(token), expected, "{why}");
    }
    let empty = Keyring::new(
        vec![authgate::token::IssuerKeys {
            issuer: ISSUER.to_owned(),
            keys: Some(key_set(&[], &allowed)),
        }],
        1,
    );
    assert_eq!(
        Bench::with(settings(), empty).code(&good),
        "unknown_key",
        "a set without keys"
    );
}

#[test]
fn j14_nothing_is_believed_before_the_signature_holds() {
    let [h, p, s] = parts();
    let payload =
        |claims: Value| base64url(edited(&default_claims(), &claims).to_string().as_bytes());
    let [_, other_payload, other_signature] = {
        let token = with_claims(&json!({"sub":"auth0|other"}));
        let parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        <[String; 3]>::try_from(parts).expect("three parts")
    };
    let cut = &s[..340];
    let header = base64url(br#"{"typ":"JWT","kid":"k1","alg":"RS256"}"#);
    Bench::new().check(
        &[
            ("untouched", format!("{h}.{p}.{s}"), "accepted"),
            (
                "another sub",
                format!("{h}.{}.{s}", payload(json!({"sub":"auth0|admin"}))),
                "token_signature_invalid",
            ),
            (
                "a later exp",
                format!("{h}.{}.{s}", payload(json!({"exp":NOW + 999_999}))),
                "token_signature_invalid",
            ),
            // What is wrong with an unsigned payload is nobody's business.
            (
                "expired, tampered",
                format!("{h}.{}.{s}", payload(json!({"exp":1}))),
                "token_signature_invalid",
            ),
            (
                "no JSON, tampered",
                format!("{h}.{}.{s}", base64url(b"not json")),
                "token_signature_invalid",
            ),
            (
                "no base64url, tampered",
                format!("{h}.A.{s}"),
                "token_signature_invalid",
            ),
            (
                "another token's signature",
                format!("{h}.{p}.{other_signature}"),
                "token_signature_invalid",
            ),
            (
                "another token's payload",
                format!("{h}.{other_payload}.{s}"),
                "token_signature_invalid",
            ),
            (
                "the same header in another order",
                format!("{header}.{p}.{s}"),
                "token_signature_invalid",
            ),
            (
                "a signature cut short",
                format!("{h}.{p}.{cut}"),
                "token_signature_invalid",
            ),
            (
                "a signature twice",
                format!("{h}.{p}.{}", base64url(&[0; 512])),
                "token_signature_invalid",
            ),
            (
                "zeros",
                format!("{h}.{p}.{}", base64url(&[0; 256])),
                "token_signature_invalid",
            ),
            (
                "ones",
                format!("{h}.{p}.{}", base64url(&[255; 256])),
                "token_signature_invalid",
            ),
            (
                "a stranger's signature",
                Draft::new(&json!({}), &json!({})).sign(stranger()),
                "token_signature_invalid",
            ),
            (
                "the payload as its own signature",
                format!("{h}.{p}.{p}"),
                "token_signature_invalid",
            ),
        ],
        1,
    );
}

#[test]
fn j15_the_issuer_is_exact_and_bound_to_its_keys() {
    Bench::new().check(
        &claims_rows(&[
            ("exact", json!({"iss":ISSUER}), "accepted"),
            (
                "without its slash",
                json!({"iss":"https://tenant.us.auth0.com"}),
                "token_wrong_issuer",
            ),
            (
                "two slashes",
                json!({"iss":"https://tenant.us.auth0.com//"}),
                "token_wrong_issuer",
            ),
            (
                "upper case",
                json!({"iss":"https://TENANT.us.auth0.com/"}),
                "token_wrong_issuer",
            ),
            (
                "http",
                json!({"iss":"http://tenant.us.auth0.com/"}),
                "token_wrong_issuer",
            ),
            (
                "a port",
                json!({"iss":"https://tenant.us.auth0.com:443/"}),
                "token_wrong_issuer",
            ),
            (
                "a path",
                json!({"iss":"https://tenant.us.auth0.com/x"}),
                "token_wrong_issuer",
            ),
            (
                "a query",
                json!({"iss":"https://tenant.us.auth0.com/?"}),
                "token_wrong_issuer",
            ),
            (
                "a subdomain",
                json!({"iss":"https://x.tenant.us.auth0.com/"}),
                "token_wrong_issuer",
            ),
            (
                "userinfo",
                json!({"iss":"https://x@tenant.us.auth0.com/"}),
                "token_wrong_issuer",
            ),
            (
                "a suffix",
                json!({"iss":"https://tenant.us.auth0.com.evil/"}),
                "token_wrong_issuer",
            ),
            (
                "white space",
                json!({"iss":" https://tenant.us.auth0.com/"}),
                "token_wrong_issuer",
            ),
            (
                "the bare domain",
                json!({"iss":"tenant.us.auth0.com"}),
                "token_wrong_issuer",
            ),
            (
                "a look-alike",
                json!({"iss":"https://ten\u{430}nt.us.auth0.com/"}),
                "token_wrong_issuer",
            ),
            ("empty", json!({"iss":""}), "token_wrong_issuer"),
            ("missing", json!({"iss":ABSENT}), "token_missing_claim"),
            ("null", json!({"iss":null}), "token_malformed_claim"),
            ("a list", json!({"iss":[ISSUER]}), "token_malformed_claim"),
            (
                "an object",
                json!({"iss":{"value":ISSUER}}),
                "token_malformed_claim",
            ),
            ("a number", json!({"iss":1}), "token_malformed_claim"),
        ]),
        1,
    );
    let allowed = [Algorithm::Rs256];
    let of = |signer: &Signer, kid: &str, iss: &str| {
        Draft::new(&json!({"kid":kid}), &json!({"iss":iss})).sign(signer)
    };
    // Two issuers whose keys have the same name.
    let issuers = vec![
        issuer(ISSUER, &[tenant().jwk(&json!({"kid":"k1"}))], &allowed),
        issuer(
            OTHER_ISSUER,
            &[stranger().jwk(&json!({"kid":"k1"}))],
            &allowed,
        ),
    ];
    let bench = Bench::with(settings(), Keyring::new(issuers, 1));
    bench.check(
        &[
            (
                "the first issuer's own",
                of(tenant(), "k1", ISSUER),
                "accepted",
            ),
            (
                "the second issuer's own",
                of(stranger(), "k1", OTHER_ISSUER),
                "accepted",
            ),
            (
                "the first's key, the second's name",
                of(tenant(), "k1", OTHER_ISSUER),
                "token_wrong_issuer",
            ),
            (
                "the second's key, the first's name",
                of(stranger(), "k1", ISSUER),
                "token_wrong_issuer",
            ),
            (
                "neither's name",
                of(tenant(), "k1", "https://third.example/"),
                "token_wrong_issuer",
            ),
        ],
        2,
    );
    let Verdict::Accepted(token) = bench.verdict(&of(stranger(), "k1", OTHER_ISSUER)) else {
        panic!("accepted above");
    };
    assert_eq!(token.issuer(), OTHER_ISSUER);
    // Auth0 publishes one key set under the tenant's own domain and under its custom domains.
    let shared = [tenant().jwk(&json!({"kid":"k1","alg":"RS256"}))];
    let issuers = [ISSUER, OTHER_ISSUER].map(|name| issuer(name, &shared, &allowed));
    let bench = Bench::with(settings(), Keyring::new(issuers.to_vec(), 1));
    bench.check(
        &[
            (
                "the tenant's own domain",
                of(tenant(), "k1", ISSUER),
                "accepted",
            ),
            (
                "the custom domain",
                of(tenant(), "k1", OTHER_ISSUER),
                "accepted",
            ),
            (
                "a third domain",
                of(tenant(), "k1", "https://third.example/"),
                "token_wrong_issuer",
            ),
        ],
        2,
    );
}

#[test]
fn j16_one_audience_is_ours() {
    Bench::new().check(
        &claims_rows(&[
            ("a string", json!({"aud":AUDIENCE}), "accepted"),
            ("a list of one", json!({"aud":[AUDIENCE]}), "accepted"),
            (
                "the last of many",
                json!({"aud":["a", "b", "c", AUDIENCE]}),
                "accepted",
            ),
            (
                "another",
                json!({"aud":"https://other-api.com"}),
                "token_wrong_audience",
            ),
            (
                "others",
                json!({"aud":["https://other-api.com", "x"]}),
                "token_wrong_audience",
            ),
            (
                "only userinfo",
                json!({"aud":format!("{ISSUER}userinfo")}),
                "token_wrong_audience",
            ),
            (
                "a prefix of ours",
                json!({"aud":"https://your-api"}),
                "token_wrong_audience",
            ),
            (
                "ours and more",
                json!({"aud":format!("{AUDIENCE}/v2")}),
                "token_wrong_audience",
            ),
            (
                "a slash more",
                json!({"aud":format!("{AUDIENCE}/")}),
                "token_wrong_audience",
            ),
            (
                "upper case",
                json!({"aud":AUDIENCE.to_uppercase()}),
                "token_wrong_audience",
            ),
            (
                "ours among words",
                json!({"aud":format!("x {AUDIENCE}")}),
                "token_wrong_audience",
            ),
            (
                "ours among commas",
                json!({"aud":format!("{AUDIENCE},x")}),
                "token_wrong_audience",
            ),
            ("an empty string", json!({"aud":""}), "token_wrong_audience"),
            ("an empty list", json!({"aud":[]}), "token_wrong_audience"),
            ("missing", json!({"aud":ABSENT}), "token_missing_claim"),
            ("null", json!({"aud":null}), "token_malformed_claim"),
            ("a number", json!({"aud":1}), "token_malformed_claim"),
            ("true", json!({"aud":true}), "token_malformed_claim"),
            (
                "an object",
                json!({"aud":{AUDIENCE:true}}),
                "token_malformed_claim",
            ),
            (
                "a list in a list",
                json!({"aud":[[AUDIENCE]]}),
                "token_malformed_claim",
            ),
            (
                "ours and a number",
                json!({"aud":[AUDIENCE, 1]}),
                "token_malformed_claim",
            ),
            (
                "ours and null",
                json!({"aud":[AUDIENCE, null]}),
                "token_malformed_claim",
            ),
        ]),
        3,
    );
    let several = VerifierSettings {
        audiences: vec![AUDIENCE.to_owned(), "https://second.example".to_owned()],
        ..settings()
    };
    let bench = Bench::with(several, keyring());
    assert_eq!(
        bench.code(&with_claims(&json!({"aud":"https://second.example"}))),
        "accepted"
    );
    let nobody = VerifierSettings {
        audiences: vec![],
        ..settings()
    };
    let bench = Bench::with(nobody, keyring());
    assert_eq!(
        bench.code(&with_claims(&json!({}))),
        "token_wrong_audience",
        "fails closed"
    );
}

#[test]
fn j17_exp_is_a_number_in_the_future() {
    let raw = |exp: &str| {
        let claims = default_claims().to_string();
        let good = format!("\"exp\":{}", NOW + 86_340);
        assert!(claims.contains(&good));
        Draft::new(&json!({}), &json!({}))
            .raw_payload(claims.replace(&good, &format!("\"exp\":{exp}")))
            .sign(tenant())
    };
    let mut rows = claims_rows(&[
        ("missing", json!({"exp":ABSENT}), "token_missing_claim"),
        ("null", json!({"exp":null}), "token_malformed_claim"),
        (
            "a string (CVE-2026-25537)",
            json!({"exp":"9999999999"}),
            "token_malformed_claim",
        ),
        (
            "a date",
            json!({"exp":"2099-01-01T00:00:00Z"}),
            "token_malformed_claim",
        ),
        ("true", json!({"exp":true}), "token_malformed_claim"),
        ("a list", json!({"exp":[NOW + 60]}), "token_malformed_claim"),
        ("an object", json!({"exp":{}}), "token_malformed_claim"),
        ("negative", json!({"exp":-1}), "token_expired"),
        ("zero", json!({"exp":0}), "token_expired"),
        ("an hour ago", json!({"exp":NOW - 3_600}), "token_expired"),
        ("within the tolerance", json!({"exp":NOW - 4}), "accepted"),
        ("at the tolerance", json!({"exp":NOW - 5}), "token_expired"),
        ("a second from now", json!({"exp":NOW + 1}), "accepted"),
    ]);
    rows.extend([
        (
            "a fraction within the tolerance",
            raw(&format!("{}.5", NOW - 5)),
            "accepted",
        ),
        (
            "a fraction beyond the tolerance",
            raw(&format!("{}.99", NOW - 6)),
            "token_expired",
        ),
        ("in scientific notation", raw("1.9e9"), "accepted"),
        (
            "long past, in scientific notation",
            raw("1.9e-9"),
            "token_expired",
        ),
        ("minus zero", raw("-0"), "token_expired"),
        ("minus 1e308", raw("-1e308"), "token_expired"),
        // RFC 7519 §4.1.4 sets no upper end; `max_token_age` does.
        ("beyond 64 bits", raw("99999999999999999999"), "accepted"),
        ("1e308", raw("1e308"), "accepted"),
        ("1e309", raw("1e309"), "token_malformed"),
        ("milliseconds", raw("1800000000000"), "accepted"),
    ]);
    Bench::new().check(&rows, 7);
    assert_eq!(rows.len(), 23);
}

#[test]
fn j17_leeway_ends_exactly_at_the_tolerance() {
    let at = |seconds: f64| {
        UnixTime::from_secs(0).plus(Duration::try_from_secs_f64(seconds).expect("a time"))
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "a test's time is far below 2^53"
    )]
    let noon = NOW as f64;
    let code = |tolerance: u64, claims: &Value, now: f64| {
        let settings = VerifierSettings {
            clock_tolerance: Duration::from_secs(tolerance),
            ..settings()
        };
        let bench = Bench {
            now: at(now),
            ..Bench::with(settings, keyring())
        };
        bench.code(&with_claims(claims))
    };
    for tolerance in [0_u32, 5, 60] {
        let edge = f64::from(tolerance);
        let tolerance = u64::from(tolerance);
        let exp = json!({"exp":NOW});
        assert_eq!(
            code(tolerance, &exp, noon + edge - 0.5),
            "accepted",
            "{tolerance}"
        );
        assert_eq!(
            code(tolerance, &exp, noon + edge),
            "token_expired",
            "{tolerance}"
        );
        assert_eq!(
            code(tolerance, &exp, noon + edge + 0.5),
            "token_expired",
            "{tolerance}"
        );
        let nbf = json!({"nbf":NOW});
        assert_eq!(
            code(tolerance, &nbf, noon - edge - 0.5),
            "token_not_yet_valid",
            "{tolerance}"
        );
        assert_eq!(
            code(tolerance, &nbf, noon - edge),
            "accepted",
            "{tolerance}"
        );
        assert_eq!(
            code(tolerance, &nbf, noon - edge + 0.5),
            "accepted",
            "{tolerance}"
        );
    }
}

#[test]
fn j18_nbf_and_iat_are_numbers_that_have_come() {
    Bench::new().check(
        &claims_rows(&[
            ("no nbf, no iat", json!({"iat":ABSENT}), "accepted"),
            ("nbf in the past", json!({"nbf":NOW - 1}), "accepted"),
            ("nbf at the tolerance", json!({"nbf":NOW + 5}), "accepted"),
            (
                "nbf past the tolerance",
                json!({"nbf":NOW + 6}),
                "token_not_yet_valid",
            ),
            (
                "nbf with a fraction",
                json!({"nbf":1_800_000_005.25}),
                "token_not_yet_valid",
            ),
            ("nbf far ahead", json!({"nbf":1e300}), "token_not_yet_valid"),
            ("nbf before 1970", json!({"nbf":-1}), "accepted"),
            ("nbf a string", json!({"nbf":"0"}), "token_malformed_claim"),
            ("nbf null", json!({"nbf":null}), "token_malformed_claim"),
            ("nbf a list", json!({"nbf":[0]}), "token_malformed_claim"),
            (
                "iat with a fraction",
                json!({"iat":1_799_999_999.75}),
                "accepted",
            ),
            ("iat a minute ahead", json!({"iat":NOW + 60}), "accepted"),
            (
                "iat further ahead",
                json!({"iat":NOW + 61}),
                "token_not_yet_valid",
            ),
            ("iat far ahead", json!({"iat":1e300}), "token_not_yet_valid"),
            (
                "iat a string",
                json!({"iat":"1700000000"}),
                "token_malformed_claim",
            ),
            ("iat null", json!({"iat":null}), "token_malformed_claim"),
            ("iat false", json!({"iat":false}), "token_malformed_claim"),
        ]),
        6,
    );
    let aged = VerifierSettings {
        max_token_age: Some(Duration::from_secs(600)),
        ..settings()
    };
    let bench = Bench::with(aged, keyring());
    bench.check(
        &claims_rows(&[
            ("young", json!({}), "accepted"),
            (
                "at its age and the tolerance",
                json!({"iat":NOW - 605}),
                "accepted",
            ),
            ("a second older", json!({"iat":NOW - 606}), "token_too_old"),
            (
                "older by a fraction",
                json!({"iat":1_799_999_394.5}),
                "token_too_old",
            ),
            (
                "of no known age",
                json!({"iat":ABSENT}),
                "token_missing_claim",
            ),
            ("before 1970", json!({"iat":-1e300}), "token_too_old"),
            (
                "1e308 seconds of life left",
                json!({"iat":NOW - 606,"exp":1e308}),
                "token_too_old",
            ),
        ]),
        2,
    );
    for (claims, until) in [
        (json!({"exp":NOW + 9_000}), NOW - 60 + 600),
        (json!({"exp":NOW + 90}), NOW + 90),
        (json!({"exp":NOW + 90,"iat":NOW - 605}), NOW - 5),
    ] {
        let Verdict::Accepted(token) = bench.verdict(&with_claims(&claims)) else {
            panic!("{claims} is accepted");
        };
        assert_eq!(token.valid_until(), UnixTime::from_secs(until), "{claims}");
    }
}

#[test]
fn j19_sub_is_a_name_that_can_be_passed_on() {
    let bad = "token_malformed_claim";
    Bench::new().check(
        &claims_rows(&[
            (
                "a user",
                json!({"sub":"auth0|5f7c8ec7c33c6c004bbafe82"}),
                "accepted",
            ),
            ("2,048 bytes", json!({"sub":"x".repeat(2_048)}), "accepted"),
            ("beyond ASCII", json!({"sub":"oidc|Jürgen 孫"}), "accepted"),
            ("2,049 bytes", json!({"sub":"x".repeat(2_049)}), bad),
            (
                "1,025 two-byte characters",
                json!({"sub":"é".repeat(1_025)}),
                bad,
            ),
            ("empty", json!({"sub":""}), bad),
            ("a line break", json!({"sub":"auth0|1\r\nx-admin: 1"}), bad),
            ("a line feed", json!({"sub":"auth0|1\n"}), bad),
            ("a tab", json!({"sub":"auth0|\t1"}), bad),
            ("NUL", json!({"sub":"auth0|1\u{0}"}), bad),
            ("DEL", json!({"sub":"auth0|1\u{7f}"}), bad),
            ("a C1 control", json!({"sub":"auth0|1\u{85}"}), bad),
            ("a number", json!({"sub":12_345}), bad),
            ("null", json!({"sub":null}), bad),
            ("true", json!({"sub":true}), bad),
            ("a list", json!({"sub":["auth0|1"]}), bad),
            ("an object", json!({"sub":{"id":"auth0|1"}}), bad),
            ("missing", json!({"sub":ABSENT}), "token_missing_claim"),
            (
                "another case is another claim",
                json!({"sub":ABSENT,"Sub":"auth0|1"}),
                "token_missing_claim",
            ),
        ]),
        3,
    );
}

#[test]
fn j20_typ_says_access_token_or_nothing() {
    const REFUSED: &str = "token_type_not_allowed";
    let table = [
        ("Auth0's default", json!({"typ":"JWT"}), true, false),
        ("small letters", json!({"typ":"jwt"}), true, false),
        ("none", json!({"typ":ABSENT}), true, false),
        (
            "with its prefix",
            json!({"typ":"application/jwt"}),
            true,
            false,
        ),
        ("RFC 9068", json!({"typ":"at+jwt"}), true, true),
        ("in capitals", json!({"typ":"AT+JWT"}), true, true),
        (
            "RFC 9068 with its prefix",
            json!({"typ":"application/at+jwt"}),
            true,
            true,
        ),
        (
            "prefix in mixed case",
            json!({"typ":"Application/At+Jwt"}),
            true,
            true,
        ),
        ("a DPoP proof", json!({"typ":"dpop+jwt"}), false, false),
        ("a logout token", json!({"typ":"logout+jwt"}), false, false),
        (
            "a security event",
            json!({"typ":"secevent+jwt"}),
            false,
            false,
        ),
        (
            "an entity statement",
            json!({"typ":"entity-statement+jwt"}),
            false,
            false,
        ),
        (
            "an introspection response",
            json!({"typ":"token-introspection+jwt"}),
            false,
            false,
        ),
        ("a key-binding JWT", json!({"typ":"kb+jwt"}), false, false),
        ("a JWS of anything", json!({"typ":"JOSE"}), false, false),
        ("empty", json!({"typ":""}), false, false),
        ("a space more", json!({"typ":"JWT "}), false, false),
        (
            "the prefix twice",
            json!({"typ":"application/application/jwt"}),
            false,
            false,
        ),
        (
            "the prefix alone",
            json!({"typ":"application/"}),
            false,
            false,
        ),
        ("another tree", json!({"typ":"text/at+jwt"}), false, false),
        ("a look-alike", json!({"typ":"at jwt"}), false, false),
        ("no space for plus", json!({"typ":"at%2Bjwt"}), false, false),
    ];
    let profile = json!({"client_id":"c","jti":"j"});
    let strict = VerifierSettings {
        typ: TypPolicy::AtJwt,
        ..settings()
    };
    let (any, strict) = (Bench::new(), Bench::with(strict, keyring()));
    let code = |accepted: bool| if accepted { "accepted" } else { REFUSED };
    for (why, header, by_any, by_strict) in &table {
        let token = Draft::new(header, &profile)
            .signed_as("RS256")
            .sign(tenant());
        assert_eq!(any.code(&token), code(*by_any), "any: {why}");
        assert_eq!(strict.code(&token), code(*by_strict), "strict: {why}");
    }
    for typ in [json!(1), json!(null), json!(["JWT"]), json!(true)] {
        assert_eq!(
            any.code(&with_header(&json!({"typ":typ}))),
            "token_malformed",
            "{typ}"
        );
    }
}

#[test]
fn j21_an_id_token_is_no_access_token() {
    let id_token = |claims: Value| {
        let base = json!({
            "aud":CLIENT_ID,"azp":ABSENT,"scope":ABSENT,"nonce":"n-0S6_WzA2Mj","at_hash":"77QmUPtjPfzWtF2AnpK9RQ",
            "sid":"s","auth_time":NOW - 60,"name":"A User","email":"user@example.com",
        });
        with_claims(&overlaid(&base, &claims))
    };
    Bench::new().check(
        &[
            (
                "Auth0's ID token",
                id_token(json!({})),
                "token_wrong_audience",
            ),
            (
                "with a list",
                id_token(json!({"aud":[CLIENT_ID]})),
                "token_wrong_audience",
            ),
            (
                "for two clients",
                id_token(json!({"aud":[CLIENT_ID, "another"],"azp":CLIENT_ID})),
                "token_wrong_audience",
            ),
            (
                "a logout token",
                with_header(&json!({"typ":"logout+jwt"})),
                "token_type_not_allowed",
            ),
        ],
        0,
    );
}

#[test]
fn j22_the_strict_profile_misses_nothing() {
    let strict = VerifierSettings {
        typ: TypPolicy::AtJwt,
        ..settings()
    };
    let bench = Bench::with(strict, keyring());
    let token = |claims: Value| {
        let base = json!({"client_id":CLIENT_ID,"jti":"Vu3ZG1","azp":ABSENT});
        Draft::new(&json!({"typ":"at+jwt"}), &overlaid(&base, &claims)).sign(tenant())
    };
    let mut rows = vec![("whole", token(json!({})), "accepted")];
    for claim in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        rows.push((claim, token(json!({claim:ABSENT})), "token_missing_claim"));
        rows.push((claim, token(json!({claim:null})), "token_malformed_claim"));
        rows.push((
            claim,
            token(json!({claim:{"a":1}})),
            "token_malformed_claim",
        ));
    }
    rows.push((
        "client_id is a number",
        token(json!({"client_id":7})),
        "token_malformed_claim",
    ));
    rows.push((
        "jti is a number",
        token(json!({"jti":7})),
        "token_malformed_claim",
    ));
    rows.push((
        "iat is a string",
        token(json!({"iat":"1"})),
        "token_malformed_claim",
    ));
    bench.check(&rows, 1);
    assert_eq!(rows.len(), 25);
}

#[test]
fn j23_a_bound_token_is_no_bearer_token() {
    const REFUSED: &str = "token_sender_constrained";
    Bench::new().check(
        &claims_rows(&[
            ("not bound", json!({}), "accepted"),
            (
                "DPoP",
                json!({"cnf":{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}),
                REFUSED,
            ),
            (
                "mTLS",
                json!({"cnf":{"x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}}),
                REFUSED,
            ),
            ("an unknown binding", json!({"cnf":{"kid":"x"}}), REFUSED),
            ("an empty object", json!({"cnf":{}}), REFUSED),
            ("null", json!({"cnf":null}), REFUSED),
            ("false", json!({"cnf":false}), REFUSED),
            ("a string", json!({"cnf":""}), REFUSED),
            ("a list", json!({"cnf":[]}), REFUSED),
            ("a number", json!({"cnf":0}), REFUSED),
        ]),
        1,
    );
}

#[test]
fn j24_what_the_client_is_told_does_not_depend_on_the_token() {
    let bench = Bench::new();
    for (one, two, code) in [
        (
            json!({"iss":"https://a.example/"}),
            json!({"iss":"https://b.example/"}),
            "token_wrong_issuer",
        ),
        (
            json!({"aud":"a"}),
            json!({"aud":["b", "c"]}),
            "token_wrong_audience",
        ),
        (json!({"exp":1}), json!({"exp":-5.5}), "token_expired"),
        (
            json!({"exp":"x"}),
            json!({"exp":["y"]}),
            "token_malformed_claim",
        ),
        (
            json!({"sub":ABSENT}),
            json!({"sub":ABSENT,"scope":"a b"}),
            "token_missing_claim",
        ),
        (
            json!({"nbf":NOW + 99}),
            json!({"iat":NOW + 99}),
            "token_not_yet_valid",
        ),
    ] {
        let told = |claims: &Value| match bench.verdict(&with_claims(claims)) {
            Verdict::Rejected(rejection) => (rejection.code(), rejection.description()),
            other => panic!("{claims}: {other:?}"),
        };
        assert_eq!(told(&one), told(&two));
        assert_eq!(told(&one).0, code);
    }
}

#[test]
fn j25_the_cache_ends_with_the_token_and_with_the_keys() {
    let bench = Bench::new();
    let (one, other) = (
        with_claims(&json!({"exp":NOW + 30})),
        with_claims(&json!({})),
    );
    let Verdict::Accepted(token) = bench.verdict(&one) else {
        panic!("accepted");
    };
    let cache = TokenCache::new();
    let until = token.valid_until();
    assert_eq!(until, UnixTime::from_secs(NOW + 30));
    cache.insert(&one, 1, until, Arc::new(*token));
    let at = |seconds: u64| UnixTime::from_secs(seconds);
    let signature = one.rsplit('.').next().expect("a signature");
    let forged = format!(
        "{}.{signature}",
        Draft::new(&json!({}), &json!({"sub":"admin"})).signing_input()
    );
    for (asked, generation, now, found, why) in [
        (&one, 1, at(NOW), true, "at once"),
        (&one, 1, at(NOW + 29), true, "a second before exp"),
        (
            &one,
            1,
            at(NOW + 30),
            false,
            "at exp, though the tolerance runs on",
        ),
        (&one, 2, at(NOW), false, "a key has gone"),
        (&one, 0, at(NOW), false, "another key ring"),
        (&other, 1, at(NOW), false, "another token"),
        (
            &forged,
            1,
            at(NOW),
            false,
            "another payload under the same signature",
        ),
    ] {
        assert_eq!(
            cache.get(asked.as_bytes(), generation, now).is_some(),
            found,
            "{why}"
        );
    }
}

#[test]
fn the_four_dialects_of_auth0() {
    let permissions = json!(["read:agents", "write:workflows"]);
    let any = Bench::new();
    let strict = Bench::with(
        VerifierSettings {
            typ: TypPolicy::AtJwt,
            ..settings()
        },
        keyring(),
    );
    let rfc9068 = json!({"client_id":CLIENT_ID,"jti":"Vu3ZG1","azp":ABSENT});
    for (dialect, header, claims, profile) in [
        ("access_token", json!({}), json!({"gty":"password"}), false),
        (
            "access_token_authz",
            json!({}),
            json!({"permissions":permissions}),
            false,
        ),
        (
            "rfc9068_profile",
            json!({"typ":"at+jwt"}),
            rfc9068.clone(),
            true,
        ),
        (
            "rfc9068_profile_authz",
            json!({"typ":"at+jwt"}),
            edited(&rfc9068, &json!({"permissions":permissions})),
            true,
        ),
    ] {
        let token = Draft::new(&header, &claims).sign(tenant());
        let Verdict::Accepted(verified) = any.verdict(&token) else {
            panic!("{dialect}: {:?}", any.verdict(&token));
        };
        assert_eq!(verified.subject(), "auth0|123456", "{dialect}");
        assert_eq!(verified.kid(), Some("k1"), "{dialect}");
        assert_eq!(verified.issuer(), ISSUER, "{dialect}");
        let kind = SubjectKind::of(verified.claims());
        assert_eq!(kind, Ok(SubjectKind::User), "{dialect}");
        assert_eq!(
            verified.claims().get("permissions"),
            claims.get("permissions"),
            "{dialect}"
        );
        assert_eq!(
            Some(verified.payload()),
            token.split('.').nth(1),
            "{dialect}"
        );
        let expected = if profile {
            "accepted"
        } else {
            "token_type_not_allowed"
        };
        assert_eq!(strict.code(&token), expected, "{dialect}, strict");
    }
}

#[test]
fn machines_organizations_and_anonymous_sessions() {
    let open = Bench::with(
        VerifierSettings {
            allow_anonymous: true,
            ..settings()
        },
        keyring(),
    );
    let (closed, machine) = (Bench::new(), SubjectKind::Machine);
    for (why, claims, kind) in [
        (
            "a client's own token",
            json!({"sub":format!("{CLIENT_ID}@clients"),"gty":"client-credentials","scope":ABSENT}),
            machine,
        ),
        (
            "without gty",
            json!({"sub":format!("{CLIENT_ID}@clients")}),
            machine,
        ),
        ("gty alone", json!({"gty":"client-credentials"}), machine),
        (
            "a user called so",
            json!({"sub":"samlp|corp|me@clients"}),
            SubjectKind::User,
        ),
        (
            "a password grant",
            json!({"gty":"password"}),
            SubjectKind::User,
        ),
        (
            "a member of an organization",
            json!({"org_id":"org_x","org_name":"x"}),
            SubjectKind::User,
        ),
        (
            "an agent for a user",
            json!({"act":{"sub":"agt_1","act":{"sub":"agt_2"}}}),
            SubjectKind::User,
        ),
        (
            "a user with anon in the name",
            json!({"sub":"auth0|anon@1"}),
            SubjectKind::User,
        ),
    ] {
        for bench in [&open, &closed] {
            let Verdict::Accepted(token) = bench.verdict(&with_claims(&claims)) else {
                panic!("{why}: {:?}", bench.verdict(&with_claims(&claims)));
            };
            assert_eq!(SubjectKind::of(token.claims()), Ok(kind), "{why}");
        }
    }
    for sub in ["anon@", "anon@5f7c", "anon@x@clients", "anon@a|b"] {
        let token = with_claims(&json!({"sub":sub,"gty":"client-credentials"}));
        assert_eq!(closed.code(&token), "token_anonymous", "{sub}");
        let Verdict::Accepted(token) = open.verdict(&token) else {
            panic!("{sub} is allowed");
        };
        let kind = SubjectKind::of(token.claims());
        assert_eq!(kind, Ok(SubjectKind::Anonymous), "{sub}");
    }
}
