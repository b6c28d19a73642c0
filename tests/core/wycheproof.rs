//! Google's Project Wycheproof, by way of C2SP: signatures and keys made to fool a verifier.
//!
//! The raw RSA signature vectors are tested in `src/jose/jwk.rs`, since their messages are no JWS.

use std::collections::BTreeMap;

use authgate::jose::{Algorithm, CompactJws, KeySet};
use serde_json::{Value, json};

use crate::mint::object;

/// What the file says about a vector and what this program says.
struct Compared {
    id: u64,
    group: String,
    valid: bool,
    accepted: bool,
}

fn groups(file: &str) -> Vec<Value> {
    let path = format!(
        "{}/tests/vectors/wycheproof/{file}",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read(&path).expect(&path);
    let document: Value = serde_json::from_slice(&text).expect("JSON");
    let groups = document["testGroups"].as_array().expect("groups").clone();
    let counted: usize = groups.iter().map(|group| tests(group).len()).sum();
    assert_eq!(document["numberOfTests"], counted, "{file} is complete");
    groups
}

fn tests(group: &Value) -> &Vec<Value> {
    group["tests"].as_array().expect("tests")
}

/// The keys of a group as one JWK Set. Groups of symmetric keys have only a private half.
fn document(group: &Value) -> Value {
    let keys = group.get("public").unwrap_or(&group["private"]);
    if keys.get("keys").is_some() {
        keys.clone()
    } else {
        json!({ "keys": [keys] })
    }
}

/// Verifies as the program does: every algorithm allowed, keys chosen by `kid`.
fn accepts(document: &Value, jws: &Value) -> bool {
    let (keys, _) = KeySet::parse(document.to_string().as_bytes(), &Algorithm::ALL)
        .expect("the document is a JWK Set");
    // The JSON serialization of a JWS is an object; a token is never anything but a string.
    let text = jws.as_str().map_or_else(|| jws.to_string(), str::to_owned);
    let Ok(jws) = CompactJws::parse(&text) else {
        return false;
    };
    let kid = jws.header().kid.as_deref();
    let chosen = keys
        .keys()
        .iter()
        .filter(|key| kid.is_none() || key.kid() == kid);
    jws.verify(chosen).is_ok()
}

fn compare(file: &str) -> Vec<Compared> {
    let mut compared = Vec::new();
    for group in groups(file) {
        let keys = document(&group);
        for test in tests(&group) {
            let valid = match test["result"].as_str() {
                Some("valid") => true,
                Some("invalid") => false,
                other => panic!("unexpected result {other:?}"),
            };
            compared.push(Compared {
                id: test["tcId"].as_u64().expect("tcId"),
                group: group["comment"].as_str().expect("comment").to_owned(),
                valid,
                accepted: accepts(&keys, &test["jws"]),
            });
        }
    }
    compared
}

/// The ids of vectors that a predicate picks, by group.
fn by_group(compared: &[Compared], picked: impl Fn(&Compared) -> bool) -> BTreeMap<&str, Vec<u64>> {
    let mut found: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for one in compared.iter().filter(|one| picked(one)) {
        found.entry(&one.group).or_default().push(one.id);
    }
    found
}

#[test]
fn signatures() {
    let compared = compare("json_web_signature_test.json");
    assert_eq!(compared.len(), 401);
    assert_eq!(compared.iter().filter(|one| one.valid).count(), 46);
    assert_eq!(
        by_group(&compared, |one| !one.valid && one.accepted),
        BTreeMap::new(),
        "no invalid signature passes"
    );
    // Valid, and refused on purpose.
    let expected = BTreeMap::from([
        // HS256 cannot be configured: a shared secret in a proxy could sign.
        ("hs256", vec![1]),
        ("base64", vec![357, 358, 359, 372, 373, 376, 377]),
        // 346 and 350: the JWK says PS256 and the token PS384. 347 and 351: ES512 on P-521, under
        // the unregistered name ES521. 348 and 352: HS256.
        ("rfc7520", vec![346, 347, 348, 352]),
        ("rfc7520WithKeyOps", vec![350, 351]),
    ]);
    assert_eq!(
        by_group(&compared, |one| one.valid && !one.accepted),
        expected
    );
    assert_eq!(compared.iter().filter(|one| one.accepted).count(), 32);
}

#[test]
fn keys() {
    let compared = compare("json_web_key_test.json");
    assert_eq!(compared.len(), 26);
    assert_eq!(compared.iter().filter(|one| one.valid).count(), 5);
    // 7 is a genuine signature, by a 2049-bit RSA key with the fingerprint of Infineon's flawed
    // generator (ROCA, CVE-2017-15361). Keys are not searched for that fingerprint: they come from
    // the issuer's own key set and from nowhere else.
    assert_eq!(
        by_group(&compared, |one| !one.valid && one.accepted),
        BTreeMap::from([("jws_rsa_roca_key", vec![7])])
    );
    // HS256, HS384 and HS512 keys.
    let expected = BTreeMap::from([
        ("HS256", vec![13]),
        ("HS384", vec![14]),
        ("HS512", vec![15]),
        ("jws_keyset", vec![2]),
    ]);
    assert_eq!(
        by_group(&compared, |one| one.valid && !one.accepted),
        expected
    );
}

/// Whoever publishes a private half lets everybody sign: such a key is refused, whatever else is
/// right with it.
#[test]
fn private_halves_are_never_used() {
    let mut refused = 0;
    for group in groups("json_web_signature_test.json") {
        let private = &group["private"];
        assert!(
            ["d", "k"]
                .iter()
                .any(|secret| object(private).contains_key(*secret))
        );
        let document = json!({ "keys": [private] });
        for test in tests(&group) {
            assert!(!accepts(&document, &test["jws"]), "tcId {}", test["tcId"]);
            refused += 1;
        }
    }
    assert_eq!(refused, 401);
}
