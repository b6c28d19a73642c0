//! The same tokens before an independent implementation: `jsonwebtoken`, set as strictly as it goes.
//!
//! Whatever it refuses must be refused here too. What only this program refuses must fall into a
//! class that is listed with its reason.

use std::cell::RefCell;
use std::collections::BTreeMap;

use authgate::clock::UnixTime;
use authgate::jose::JwsError;
use authgate::token::{Rejection, Verifier};
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};

use crate::mint::{
    ABSENT, AUDIENCE, Draft, ISSUER, Verdict, judge, keyring, non_canonical, object, overlaid,
    settings, stranger, tenant,
};

const CASES: u32 = 800;

/// A change to a good token.
#[derive(Debug, Clone)]
enum Mutation {
    /// Sets or removes a header member.
    Header(&'static str, Value),
    /// Sets or removes a claim.
    Claim(&'static str, Value),
    /// Moves a time to so many seconds from the present.
    Time(&'static str, f64),
    /// Puts this text before the end of the header object.
    HeaderText(&'static str),
    /// Puts this text before the end of the payload object.
    PayloadText(&'static str),
    /// Replaces the payload.
    Payload(&'static str),
    /// Signs with somebody else's key.
    Stranger,
    /// Signs with another algorithm than the header names.
    SignedAs(&'static str),
    /// Changes the token after it was signed.
    Token(Tampering),
}

#[derive(Debug, Clone, Copy)]
enum Tampering {
    CutSignature,
    DropSignature,
    ExtraPart,
    FlipHeader,
    FlipPayload,
    FlipSignature,
    NonCanonicalSignature,
    PadSignature,
    SwapParts,
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let values = || {
        vec![
            json!(ABSENT),
            json!(null),
            json!(true),
            json!(0),
            json!(""),
            json!("x"),
            json!([]),
            json!({}),
            json!(["x", 1]),
        ]
    };
    let kid = select(
        [
            values(),
            vec![json!("k1"), json!("K1"), json!("k".repeat(300))],
        ]
        .concat(),
    );
    let typ = select(
        [
            values(),
            vec![json!("at+jwt"), json!("dpop+jwt"), json!("JOSE")],
        ]
        .concat(),
    );
    let alg = select(vec![
        json!("none"),
        json!("HS256"),
        json!("RS384"),
        json!("PS256"),
        json!("ES256"),
        json!("rs256"),
        json!(ABSENT),
        json!(null),
    ]);
    let extra = select(vec![
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("jku", json!("https://x/")),
        ("jwk", tenant().public().clone()),
        ("x5u", json!("https://x/")),
        ("x5c", json!([])),
        ("x5t", json!("AA")),
        ("x", json!({"y":[1]})),
    ]);
    let iss = select(
        [
            values(),
            vec![json!([ISSUER]), json!("https://tenant.us.auth0.com")],
        ]
        .concat(),
    );
    let aud = select(
        [
            values(),
            vec![
                json!(AUDIENCE),
                json!([AUDIENCE, 1]),
                json!(["x", AUDIENCE]),
                json!({AUDIENCE:1}),
            ],
        ]
        .concat(),
    );
    let sub = select(
        [
            values(),
            vec![
                json!("a\nb"),
                json!("anon@x"),
                json!("c@clients"),
                json!("é"),
            ],
        ]
        .concat(),
    );
    let cnf = select(values());
    let number = select(
        [
            values(),
            vec![json!("9999999999"), json!([9_999_999_999_u64])],
        ]
        .concat(),
    );
    let seconds = select(vec![
        -1e9, -86_400.5, -3_600.0, -100.25, 100.75, 3_600.0, 86_400.5, 1e9,
    ]);
    prop_oneof![
        2 => kid.prop_map(|value| Mutation::Header("kid", value)),
        2 => typ.prop_map(|value| Mutation::Header("typ", value)),
        2 => alg.prop_map(|value| Mutation::Header("alg", value)),
        3 => extra.prop_map(|(name, value)| Mutation::Header(name, value)),
        2 => iss.prop_map(|value| Mutation::Claim("iss", value)),
        2 => aud.prop_map(|value| Mutation::Claim("aud", value)),
        3 => sub.prop_map(|value| Mutation::Claim("sub", value)),
        1 => cnf.prop_map(|value| Mutation::Claim("cnf", value)),
        3 => (select(vec!["exp", "nbf", "iat"]), number)
            .prop_map(|(name, value)| Mutation::Claim(name, value)),
        4 => (select(vec!["exp", "nbf", "iat"]), seconds)
            .prop_map(|(name, value)| Mutation::Time(name, value)),
        2 => select(vec![r#""alg":"none""#, r#""kid":"k1""#, r#""x":1,"x":2"#, r#""x":1e999"#, r#""x""#])
            .prop_map(Mutation::HeaderText),
        3 => select(vec![
            r#""sub":"auth0|admin""#, r#""exp":9999999999"#, r#""x":1,"x":2"#, r#""x":{"y":1,"y":2}"#,
            r#""x":1e999"#, r#""x""#, r#""x":"\ud800""#,
        ])
        .prop_map(Mutation::PayloadText),
        1 => select(vec!["[]", "null", "", "\u{feff}{}", "{}{}"]).prop_map(Mutation::Payload),
        1 => Just(Mutation::Stranger),
        1 => select(vec!["RS384", "RS512", "PS256"]).prop_map(Mutation::SignedAs),
        3 => select(vec![
            Tampering::CutSignature, Tampering::DropSignature, Tampering::ExtraPart,
            Tampering::FlipHeader, Tampering::FlipPayload, Tampering::FlipSignature,
            Tampering::NonCanonicalSignature, Tampering::PadSignature, Tampering::SwapParts,
        ])
        .prop_map(Mutation::Token),
    ]
}

/// A good token for the present, with these changes.
fn token(mutations: &[Mutation], now: UnixTime) -> String {
    let mut header = json!({});
    let mut claims = json!({"iat":now.as_secs() - 60,"exp":now.as_secs() + 86_340});
    for mutation in mutations {
        match mutation {
            Mutation::Header(name, value) => header = overlaid(&header, &json!({ *name: value })),
            Mutation::Claim(name, value) => claims = overlaid(&claims, &json!({ *name: value })),
            Mutation::Time(name, offset) => {
                claims = overlaid(&claims, &json!({ *name: now.as_secs_f64() + offset }));
            }
            _ => {}
        }
    }
    let mut draft = Draft::new(&header, &claims).signed_as("RS256");
    let mut signer = tenant();
    for mutation in mutations {
        draft = match mutation {
            Mutation::HeaderText(text) => {
                let longer = with_text(&draft.header, text);
                draft.raw_header(longer)
            }
            Mutation::PayloadText(text) => {
                let longer = with_text(&draft.payload, text);
                draft.raw_payload(longer)
            }
            Mutation::Payload(text) => draft.raw_payload(*text),
            Mutation::SignedAs(algorithm) => draft.signed_as(algorithm),
            Mutation::Stranger => {
                signer = stranger();
                draft
            }
            _ => draft,
        };
    }
    let mut token = draft.sign(signer);
    for mutation in mutations {
        if let Mutation::Token(tampering) = mutation {
            token = tampering.apply(&token);
        }
    }
    token
}

fn with_text(object: &[u8], text: &str) -> Vec<u8> {
    match object.strip_suffix(b"}") {
        Some(open) => [open, b",", text.as_bytes(), b"}"].concat(),
        None => object.to_vec(),
    }
}

impl Tampering {
    fn apply(self, token: &str) -> String {
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        let flip = |part: &mut String| {
            if let Some(first) = part.chars().next() {
                part.replace_range(0..1, if first == 'A' { "B" } else { "A" });
            }
        };
        let last = parts.len() - 1;
        match self {
            Self::CutSignature => parts[last].truncate(4),
            Self::DropSignature => parts[last].clear(),
            Self::ExtraPart => parts.push("AAAA".to_owned()),
            Self::FlipHeader => flip(&mut parts[0]),
            Self::FlipPayload => flip(&mut parts[1]),
            Self::FlipSignature => flip(&mut parts[last]),
            Self::NonCanonicalSignature if parts[last].len() % 4 == 2 => {
                parts[last] = non_canonical(&parts[last]);
            }
            Self::NonCanonicalSignature => parts[last].push('A'),
            Self::PadSignature => parts[last].push_str("=="),
            Self::SwapParts => parts.swap(0, 1),
        }
        parts.join(".")
    }
}

/// The other implementation, used as its documentation says and told to check all that it can.
fn other_accepts(token: &str) -> bool {
    let Ok(header) = decode_header(token) else {
        return false;
    };
    // The one published key is `k1`.
    if header.kid.is_some_and(|kid| kid != "k1") {
        return false;
    }
    let public = object(tenant().public());
    let text = |name: &str| public[name].as_str().expect("a string");
    let key = DecodingKey::from_rsa_components(text("n"), text("e")).expect("a key");
    let mut validation = Validation::new(jsonwebtoken::Algorithm::RS256);
    validation.leeway = 5;
    validation.validate_nbf = true;
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    decode::<Map<String, Value>>(token, &key, &validation).is_ok()
}

/// Why this program may refuse what the other accepts. `None`: it must not.
fn stricter(verdict: &Verdict) -> Option<&'static str> {
    let Verdict::Rejected(rejection) = verdict else {
        return None;
    };
    match rejection {
        Rejection::Jws(JwsError::CriticalHeader) => {
            Some("RFC 7515 §4.1.11: an extension that must be understood is not")
        }
        Rejection::Jws(JwsError::EmbeddedKey(_)) => {
            Some("RFC 8725 §3.10: a key that the token brings is no reason to read on")
        }
        Rejection::Jws(JwsError::HeaderMember("b64")) => {
            Some("RFC 7797 §6: b64 without crit is read in two ways")
        }
        Rejection::Jws(JwsError::HeaderMember("kid" | "typ")) => {
            Some("null is no string, and no absence either")
        }
        Rejection::Jws(JwsError::HeaderNotJson(_)) => {
            Some("RFC 7515 §4: duplicate or out-of-range header members")
        }
        Rejection::PayloadNotJson(_) => Some("RFC 7519 §4: duplicate claims"),
        Rejection::TypeNotAllowed { .. } => Some("RFC 8725 §3.11: typ says it is something else"),
        Rejection::SenderConstrained => Some("RFC 7800 §3.1: bound to a key of the client's"),
        Rejection::Anonymous => Some("Auth0 anonymous sessions are opted into"),
        Rejection::MalformedClaim { claim: "sub", .. } => {
            Some("a subject must be fit for a header")
        }
        Rejection::MalformedClaim { claim: "iat", .. } => Some("RFC 7519 §4.1.6: iat is a number"),
        Rejection::MalformedClaim { claim: "iss", .. } => {
            Some("RFC 7519 §4.1.1: iss is one string, not a list")
        }
        Rejection::NotYetValid { claim: "iat", .. } => Some("a token from the future"),
        _ => None,
    }
}

#[test]
fn never_laxer_than_jsonwebtoken_and_stricter_only_for_a_reason() {
    let (keyring, verifier) = (keyring(), Verifier::new(settings()));
    let counts: RefCell<BTreeMap<&str, u32>> = RefCell::default();
    let count = |what| *counts.borrow_mut().entry(what).or_default() += 1;
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, rng).run(&vec(mutation(), 0..3), |mutations| {
        let now = UnixTime::now();
        let token = token(&mutations, now);
        let verdict = judge(&verifier, &keyring, &token, now);
        let ours = matches!(verdict, Verdict::Accepted(_));
        match (ours, other_accepts(&token)) {
            (true, true) => count("both accept"),
            (false, false) => count("both refuse"),
            (true, false) => prop_assert!(false, "laxer: {mutations:?}"),
            (false, true) => match stricter(&verdict) {
                Some(class) => count(class),
                None => prop_assert!(false, "unexplained {verdict:?}: {mutations:?}"),
            },
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let counts = counts.into_inner();
    println!("{counts:#?}");
    assert!(counts["both accept"] >= 100);
    assert!(counts["both refuse"] >= 400);
    assert_eq!(counts.len(), 2 + 13, "every class of ours was met");
}

/// What the other refuses and this program accepts, outside the comparison above because it is
/// decided: RFC 7519 §2 gives a `NumericDate` neither a lower nor an upper end, and RFC 7515 §4 lets
/// a reader ignore header members that it does not use.
#[test]
fn the_other_is_stricter_in_three_ways() {
    let (keyring, verifier) = (keyring(), Verifier::new(settings()));
    let now = UnixTime::now();
    for mutation in [
        Mutation::Claim("exp", json!(1e30)),
        Mutation::Claim("nbf", json!(-1)),
        Mutation::Header("cty", json!(5)),
    ] {
        let token = token(std::slice::from_ref(&mutation), now);
        assert!(!other_accepts(&token), "{mutation:?}");
        let verdict = judge(&verifier, &keyring, &token, now);
        assert_eq!(verdict.code(), "accepted", "{mutation:?}");
    }
}
