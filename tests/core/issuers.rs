//! Several issuers: one key set under many domains, and issuers that publish each other's names and keys.

use authgate::clock::UnixTime;
use authgate::jose::Algorithm;
use authgate::token::{IssuerKeys, Keyring, Rejection, Verifier, VerifierSettings, VerifyError};
use authgate::token::{Unverified, bearer_token};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::mint::{ABSENT, Draft, NOW, Signer, issuer, judge, settings};

/// Keys that cost nothing to make.
const ALLOWED: [Algorithm; 1] = [Algorithm::EdDsa];

fn verifier() -> Verifier {
    Verifier::new(VerifierSettings {
        algorithms: ALLOWED.to_vec(),
        ..settings()
    })
}

fn name(place: usize) -> String {
    format!("https://{place}.example/")
}

fn jwk(signer: &Signer, kid: impl Into<Value>) -> Value {
    signer.jwk(&json!({ "alg": "EdDSA", "kid": kid.into() }))
}

fn token(signer: &Signer, kid: impl Into<Value>, iss: &str) -> String {
    Draft::new(
        &json!({ "alg": "EdDSA", "kid": kid.into() }),
        &json!({ "iss": iss }),
    )
    .sign(signer)
}

fn ring(issuers: Vec<IssuerKeys>) -> Keyring {
    Keyring::new(issuers, 1)
}

fn code(keyring: &Keyring, token: &str) -> &'static str {
    judge(&verifier(), keyring, token, UnixTime::from_secs(NOW)).code()
}

#[test]
fn many_domains_of_one_key_set_are_judged_as_one_is() {
    let (current, next, stranger) = (Signer::ed25519(), Signer::ed25519(), Signer::ed25519());
    let set = [jwk(&current, "current"), jwk(&next, "next")];
    for domains in [1, 2, 6, 60] {
        let issuers = (0..domains).map(|place| issuer(&name(place), &set, &ALLOWED));
        let keyring = ring(issuers.collect());
        for place in [0, domains / 2, domains - 1] {
            let iss = name(place);
            for (signer, kid, expected) in [
                (&current, json!("current"), "accepted"),
                (&next, json!("next"), "accepted"),
                (&current, json!(ABSENT), "accepted"),
                (&next, json!(ABSENT), "accepted"),
                (&current, json!("next"), "token_signature_invalid"),
                (&stranger, json!("current"), "token_signature_invalid"),
                (&stranger, json!(ABSENT), "token_signature_invalid"),
                (&current, json!("former"), "unknown_key"),
            ] {
                let token = token(signer, kid.clone(), &iss);
                assert_eq!(code(&keyring, &token), expected, "{kid} of {domains}");
            }
        }
        for iss in ["https://60.example/", "https://0.example", ""] {
            for kid in [json!("current"), json!(ABSENT)] {
                let token = token(&current, kid, iss);
                assert_eq!(code(&keyring, &token), "token_wrong_issuer", "{iss}");
            }
        }
    }
}

#[test]
fn many_issuers_with_keys_of_their_own_are_judged_as_one_is() {
    for (issuers, of_each) in [(1, 5), (2, 5), (6, 3), (60, 1)] {
        let keys: Vec<Vec<Signer>> = (0..issuers)
            .map(|_| (0..of_each).map(|_| Signer::ed25519()).collect())
            .collect();
        // All under one name, so that the name chooses nothing.
        let sets = keys.iter().enumerate().map(|(place, keys)| {
            let set: Vec<Value> = keys.iter().map(|key| jwk(key, "same")).collect();
            issuer(&name(place), &set, &ALLOWED)
        });
        let keyring = ring(sets.collect());
        for place in [0, issuers / 2, issuers - 1] {
            for signer in [keys[place].first(), keys[place].last()] {
                let signer = signer.expect("a key");
                for kid in [json!("same"), json!(ABSENT)] {
                    let own = token(signer, kid.clone(), &name(place));
                    assert_eq!(code(&keyring, &own), "accepted", "{place} of {issuers}");
                    let forged = token(signer, kid, &name(issuers));
                    assert_eq!(code(&keyring, &forged), "token_wrong_issuer");
                }
            }
            let stranger = Signer::ed25519();
            for kid in [json!("same"), json!(ABSENT)] {
                let forged = token(&stranger, kid, &name(place));
                assert_eq!(code(&keyring, &forged), "token_signature_invalid");
            }
        }
        if issuers > 1 {
            let foreign = token(&keys[0][0], "same", &name(1));
            assert_eq!(code(&keyring, &foreign), "token_wrong_issuer");
        }
    }
}

/// Whatever one issuer publishes, the other's tokens are good, and its own keys never speak for the other.
#[test]
fn no_issuer_shuts_out_another() {
    let (victim, own, hostile) = (Signer::ed25519(), Signer::ed25519(), Signer::ed25519());
    let (victim_iss, hostile_iss) = (name(0), name(1));
    let victims = [jwk(&victim, "v")];
    let decoys = |count: usize, kid: &str| -> Vec<Value> {
        (0..count).map(|_| jwk(&Signer::ed25519(), kid)).collect()
    };
    let with_own = |mut keys: Vec<Value>| {
        keys.push(jwk(&hostile, "h"));
        keys.push(jwk(&own, "v"));
        keys
    };
    // Whether it may vouch for its own tokens that the victim's key has signed.
    for (why, published, vouches) in [
        ("nothing of the victim's", with_own(vec![]), false),
        (
            "three more keys of its name",
            with_own(decoys(3, "v")),
            false,
        ),
        ("five keys of its name", with_own(decoys(4, "v")), false),
        ("as many as there may be", with_own(decoys(90, "v")), false),
        (
            "its key under its name",
            with_own(vec![jwk(&victim, "v")]),
            true,
        ),
        (
            "its key under another name",
            with_own(vec![jwk(&victim, "x")]),
            false,
        ),
        (
            "its key without a name",
            with_own(vec![jwk(&victim, ABSENT)]),
            false,
        ),
        (
            "its key among too many",
            with_own([decoys(9, "v"), vec![jwk(&victim, "v")]].concat()),
            false,
        ),
        (
            "its key under both, and others",
            with_own([decoys(2, "v"), vec![jwk(&victim, "x"), jwk(&victim, "v")]].concat()),
            true,
        ),
    ] {
        let sets = || {
            [
                issuer(&victim_iss, &victims, &ALLOWED),
                issuer(&hostile_iss, &published, &ALLOWED),
            ]
        };
        let mut reversed = sets().to_vec();
        reversed.reverse();
        for keyring in [ring(sets().to_vec()), ring(reversed)] {
            for kid in [json!("v"), json!(ABSENT)] {
                let good = token(&victim, kid.clone(), &victim_iss);
                assert_eq!(code(&keyring, &good), "accepted", "{why}, kid {kid}");
                for signer in [&own, &hostile] {
                    let forged = token(signer, kid.clone(), &victim_iss);
                    assert_ne!(code(&keyring, &forged), "accepted", "{why}, kid {kid}");
                }
            }
            let claimed = token(&victim, "v", &hostile_iss);
            let expected = ["token_wrong_issuer", "accepted"][usize::from(vouches)];
            assert_eq!(
                code(&keyring, &claimed),
                expected,
                "{why}: it may vouch for itself"
            );
        }
    }
}

/// An outage of one issuer is no verdict on its tokens, whoever else publishes their key.
#[test]
fn missing_keys_of_one_issuer_are_no_refusal_of_its_tokens() {
    let (shared, other) = (Signer::ed25519(), Signer::ed25519());
    let (there, away) = (name(0), name(1));
    let set = [jwk(&shared, "k"), jwk(&other, "o")];
    let keyring = ring(vec![
        issuer(&there, &set, &ALLOWED),
        issuer(&away, &[], &ALLOWED),
    ]);
    let stranger = Signer::ed25519();
    for (why, token, expected) in [
        (
            "its own issuer is there",
            token(&shared, "k", &there),
            "accepted",
        ),
        ("no kid", token(&shared, ABSENT, &there), "accepted"),
        (
            "the shared key",
            token(&shared, "k", &away),
            "keys_unavailable",
        ),
        (
            "the shared key, no kid",
            token(&shared, ABSENT, &away),
            "keys_unavailable",
        ),
        (
            "a key of that name",
            token(&stranger, "k", &away),
            "keys_unavailable",
        ),
        (
            "no kid",
            token(&stranger, ABSENT, &away),
            "keys_unavailable",
        ),
        (
            "an unknown kid",
            token(&stranger, "n", &away),
            "keys_unavailable",
        ),
        (
            "of nobody",
            token(&shared, "k", &name(2)),
            "token_wrong_issuer",
        ),
    ] {
        assert_eq!(code(&keyring, &token), expected, "{why}");
    }
}

/// What a stranger can ask for at once does not grow with the number of issuers.
#[test]
fn a_step_tries_no_more_keys_than_one_issuer_has() {
    for (issuers, steps) in [(1, 1), (2, 2), (6, 6), (60, 60)] {
        let sets = (0..issuers).map(|place| {
            let set: Vec<Value> = (0..5).map(|_| jwk(&Signer::ed25519(), "k")).collect();
            issuer(&name(place), &set, &ALLOWED)
        });
        let keyring = ring(sets.collect());
        let forged = token(&Signer::ed25519(), ABSENT, &name(0));
        let verifier = verifier();
        with_unverified(&verifier, &forged, |token| {
            let mut verification = verifier.begin(token, &keyring);
            let mut taken = 1;
            while let Ok(outcome) = verification.step(UnixTime::from_secs(NOW)) {
                assert_eq!(outcome, None);
                taken += 1;
            }
            assert_eq!(taken, steps, "{issuers} issuers");
        });
    }
}

fn with_unverified(verifier: &Verifier, token: &str, judge: impl FnOnce(&Unverified<'_>)) {
    let line = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header");
    let headers = HeaderMap::from_iter([(AUTHORIZATION, line)]);
    let bearer = bearer_token(&headers).expect("one").expect("a token");
    judge(&verifier.read(bearer).expect("well-formed"));
}

#[test]
fn newer_keys_are_asked_of_those_who_may_have_them() {
    let (shared, second) = (Signer::ed25519(), Signer::ed25519());
    let (a, b, c) = (name(0), name(1), name(2));
    let keyring = ring(vec![
        issuer(&a, &[jwk(&shared, "k"), jwk(&second, "s")], &ALLOWED),
        issuer(&b, &[jwk(&second, "s")], &ALLOWED),
        issuer(&c, &[jwk(&second, "s")], &ALLOWED),
    ]);
    let stranger = Signer::ed25519();
    let verifier = verifier();
    for (why, token, expected) in [
        (
            "a name that nobody has",
            token(&stranger, "n", &a),
            vec![&a, &b, &c],
        ),
        (
            "a name that others may have by now",
            token(&stranger, "k", &a),
            vec![&b, &c],
        ),
        ("a name that all have", token(&stranger, "s", &a), vec![]),
        ("no name", token(&stranger, ABSENT, &a), vec![]),
        (
            "a key that its issuer does not publish",
            token(&shared, "k", &b),
            vec![&b],
        ),
        ("of nobody", token(&shared, "k", &name(3)), vec![]),
        (
            "refused for something else",
            token(&shared, "k", &a),
            vec![],
        ),
    ] {
        with_unverified(&verifier, &token, |token| {
            let past = UnixTime::from_secs(u64::from(u32::MAX));
            let error = verifier.verify(token, &keyring, past);
            let error = error.expect_err("it is not taken");
            assert_eq!(
                keyring.outdated_for(token, &error),
                expected,
                "{why}: {error:?}"
            );
        });
    }
}

/// A key of one issuer under the name that another has given to a key of another algorithm.
#[test]
fn a_name_with_another_algorithm_is_final_only_where_all_have_it() {
    let allowed = [Algorithm::EdDsa, Algorithm::Es256];
    let (ed, ec) = (Signer::ed25519(), Signer::p256());
    let of_ec = ec.jwk(&json!({ "alg": "ES256", "kid": "k" }));
    let verifier = Verifier::new(VerifierSettings {
        algorithms: allowed.to_vec(),
        ..settings()
    });
    let asked = token(&ed, "k", &name(1));
    for (second, expected) in [
        (of_ec.clone(), "token_algorithm_not_allowed"),
        (jwk(&Signer::ed25519(), "old"), "unknown_key"),
    ] {
        let keyring = ring(vec![
            issuer(&name(0), std::slice::from_ref(&of_ec), &allowed),
            issuer(&name(1), &[second], &allowed),
        ]);
        let verdict = judge(&verifier, &keyring, &asked, UnixTime::from_secs(NOW));
        assert_eq!(verdict.code(), expected);
    }
}

#[test]
fn ambiguous_names_are_told() {
    let [one, two, three] = [(); 3].map(|()| Signer::ed25519());
    let ec = Signer::p256().jwk(&json!({ "alg": "ES256", "kid": "k" }));
    let allowed = [Algorithm::EdDsa, Algorithm::Es256];
    let told = |sets: &[Vec<Value>]| -> Vec<(String, usize, usize, usize)> {
        let issuers = sets.iter().enumerate();
        let issuers = issuers.map(|(place, keys)| issuer(&name(place), keys, &allowed));
        let ambiguous = ring(issuers.collect()).ambiguous();
        let facts = ambiguous
            .into_iter()
            .map(|one| (one.kid, one.keys, one.issuers.len(), one.untried.len()));
        facts.collect()
    };
    let k = |signer: &Signer| jwk(signer, "k");
    let many: Vec<Value> = (0..6).map(|_| k(&Signer::ed25519())).collect();
    for (sets, expected) in [
        (vec![vec![k(&one)]], vec![]),
        (vec![vec![k(&one), k(&one)]], vec![]),
        (vec![vec![k(&one)], vec![k(&one)]], vec![]),
        (vec![vec![k(&one), ec.clone()]], vec![]),
        (vec![vec![jwk(&one, ABSENT), jwk(&two, ABSENT)]], vec![]),
        (vec![vec![k(&one), k(&two)]], vec![("k", 2, 1, 0)]),
        (vec![vec![k(&one)], vec![k(&two)]], vec![("k", 2, 2, 0)]),
        (
            vec![vec![k(&one)], vec![k(&two)], vec![k(&one)]],
            vec![("k", 2, 3, 0)],
        ),
        (vec![vec![k(&one)], many.clone()], vec![("k", 7, 2, 1)]),
        (
            vec![
                vec![jwk(&one, "z"), jwk(&two, "a")],
                vec![jwk(&three, "a"), jwk(&two, "z")],
            ],
            vec![("a", 2, 2, 0), ("z", 2, 2, 0)],
        ),
    ] {
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(kid, keys, issuers, untried): (&str, _, _, _)| {
                (kid.to_owned(), keys, issuers, untried)
            })
            .collect();
        assert_eq!(told(&sets), expected);
    }
}

#[test]
fn a_rejection_of_an_untried_key_names_its_kid() {
    let many: Vec<Value> = (0..6).map(|_| jwk(&Signer::ed25519(), "k")).collect();
    let keyring = ring(vec![issuer(&name(0), &many, &ALLOWED)]);
    let verifier = verifier();
    with_unverified(
        &verifier,
        &token(&Signer::ed25519(), "k", &name(0)),
        |token| {
            let error = verifier.verify(token, &keyring, UnixTime::from_secs(NOW));
            let kid = Some("k".to_owned());
            let expected = VerifyError::Rejected(Rejection::UnknownKey { kid });
            assert_eq!(error, Err(expected));
        },
    );
}
