//! Any bytes as a JWK Set: nothing panics, every entry is used or skipped with a reason whatever stands
//! beside it, and what is used is a public key bound to an allowed algorithm.

use std::sync::LazyLock;

use authgate::jose::{Algorithm, CompactJws, KeySet, MAX_DOCUMENT_BYTES};
use serde_json::{Value, json};

use super::mint;

/// Headers `{"alg":…}` of every kind of key, with an empty payload and a short signature.
const TOKENS: [&str; 3] = [
    "eyJhbGciOiJSUzI1NiJ9..AAAA",
    "eyJhbGciOiJFUzI1NiJ9..AAAA",
    "eyJhbGciOiJFZERTQSJ9..AAAA",
];

static GOOD: LazyLock<String> = LazyLock::new(|| mint::token("auth0|good"));

pub fn run(data: &[u8]) {
    for allowed in [&Algorithm::ALL[..], &[Algorithm::Rs256], &[]] {
        let Ok((set, skipped)) = KeySet::parse(data, allowed) else {
            continue;
        };
        assert!(data.len() <= MAX_DOCUMENT_BYTES);
        assert!(skipped.iter().all(|key| !key.reason.is_empty()));
        let document: Value = serde_json::from_slice(data).expect("it was read");
        let entries = document["keys"].as_array().expect("it was read");
        assert_eq!(set.keys().len() + skipped.len(), entries.len());
        assert!(entries.len() <= 100);
        let used = entries
            .iter()
            .enumerate()
            .filter(|(place, _)| skipped.iter().all(|one| one.index != *place))
            .map(|(_, entry)| entry);
        for (entry, key) in used.zip(set.keys()) {
            assert!(allowed.contains(&key.algorithm()));
            assert!(key.kid().is_none_or(|kid| kid.len() <= 256));
            check_used(entry, key.kid(), key.algorithm());
        }
        for token in TOKENS {
            let jws = CompactJws::parse(token).expect("well-formed");
            assert!(
                jws.verify(set.keys()).is_err(),
                "four letters are no signature"
            );
        }
        check_alone(entries, allowed, &set);
        check_beside(entries, allowed, &set);
    }
}

/// What is used is what it says it is.
fn check_used(entry: &Value, kid: Option<&str>, algorithm: Algorithm) {
    for secret in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
        assert!(entry.get(secret).is_none(), "{secret} is published");
    }
    assert_eq!(entry.get("kid").and_then(Value::as_str), kid);
    if let Some(named) = entry.get("alg") {
        let named = named.as_str().and_then(Algorithm::from_name);
        assert_eq!(named, Some(algorithm));
    }
    assert!(entry.get("use").is_none_or(|purpose| purpose == "sig"));
    let kind = match algorithm.name() {
        "EdDSA" => "OKP",
        name if name.starts_with("ES") => "EC",
        _ => "RSA",
    };
    assert_eq!(entry["kty"], kind);
    if kind == "RSA" {
        let modulus = entry["n"].as_str().expect("a string");
        // Six bits a letter, of which the last may hold fewer.
        assert!(modulus.len() * 6 >= 2048, "a short modulus");
    }
}

/// An entry counts for what it is, whatever stands beside it.
fn check_alone(entries: &[Value], allowed: &[Algorithm], set: &KeySet) {
    let mut alone = Vec::new();
    for entry in entries {
        let document = json!({"keys":[entry]}).to_string();
        let (one, skipped) = KeySet::parse(document.as_bytes(), allowed).expect("a JWK Set");
        assert_eq!(one.keys().len() + skipped.len(), 1);
        alone.extend_from_slice(one.keys());
    }
    assert_eq!(alone, set.keys());
}

/// A key that cannot be used never costs another one.
fn check_beside(entries: &[Value], allowed: &[Algorithm], set: &KeySet) {
    if entries.len() >= 100 || !allowed.contains(&Algorithm::EdDsa) {
        return;
    }
    let mut entries = entries.to_vec();
    entries.push(mint::jwk());
    let document = json!({"keys":entries}).to_string();
    if document.len() > MAX_DOCUMENT_BYTES {
        return;
    }
    let (more, _) = KeySet::parse(document.as_bytes(), allowed).expect("a JWK Set");
    assert_eq!(more.keys().len(), set.keys().len() + 1);
    let jws = CompactJws::parse(&GOOD).expect("well-formed");
    assert!(jws.verify(more.keys()).is_ok(), "our key is there");
}
