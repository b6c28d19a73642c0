//! Any text as a path and any route table: nothing panics, the readings are bounded and all that
//! backends can make of the path, and what passes passes under each of them, whatever the backend's
//! router ignores.
//!
//! An input is two bytes for the table, one for the request, and the path.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use authgate::canonical::Readings;
use authgate::identity::{Identity, IdentitySettings};
use authgate::policy::{Caller, Policy};
use http::header::HeaderName;
use serde_json::json;

use super::backends::{Asked, Router, Rule, Rules, closure};
use super::mint::{self, AUDIENCE, ISSUER, NOW};

const HEAD: usize = 3;

/// Segments of routes. Some differ only in case.
const SEGMENTS: [&str; 9] = ["a", "b", "admin", "Admin", "public", "a=b", ":", "x.y", "*"];

const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];

/// A caller with the scope that some routes ask for.
static CALLER: LazyLock<Arc<Identity>> = LazyLock::new(|| {
    let payload =
        json!({"iss":ISSUER,"aud":AUDIENCE,"exp":NOW + 600,"sub":"auth0|x","scope":"held"});
    let token = mint::verified(&mint::with_payload(&payload)).expect("a good token");
    let settings = IdentitySettings {
        subject_header: HeaderName::from_static("x-forwarded-user"),
        claims_header: None,
        headers: Vec::new(),
        forward_authorization: false,
    };
    settings.identify(token).bearer().expect("bound to nothing")
});

/// The table that people write: something public, with something in it that is not.
static USUAL: LazyLock<(Rules, Policy)> = LazyLock::new(|| {
    let rule = |path: &str, access| Rule {
        path: path.to_owned(),
        methods: vec![],
        access,
    };
    let rules = Rules::new(
        vec![
            rule("/public/**", Asked::Anything),
            rule("/public/*/Private", Asked::Impossible),
            rule("/admin/**", Asked::AnotherScope),
            rule("/slash/", Asked::Impossible),
        ],
        false,
    );
    let policy = rules.policy();
    (rules, policy)
});

pub fn run(data: &[u8]) {
    let Some((head, path)) = data.split_at_checked(HEAD) else {
        return;
    };
    let Ok(path) = std::str::from_utf8(path) else {
        return;
    };
    check_readings(path);
    let [high, low, request] = head else {
        return;
    };
    let method = METHODS[usize::from(*request) % METHODS.len()];
    let with_token = request & 0x80 != 0;
    match u16::from_be_bytes([*high, *low]) {
        0 => check_decision(&USUAL.0, &USUAL.1, method, path, with_token),
        seed => {
            let rules = some_rules(seed);
            check_decision(&rules, &rules.policy(), method, path, with_token);
        }
    }
}

fn check_readings(path: &str) {
    let Ok(readings) = Readings::of(path) else {
        return;
    };
    let all: Vec<&str> = readings.iter().collect();
    assert_eq!(
        all.first(),
        Some(&path),
        "the path as it was sent comes first"
    );
    assert!(all.len() <= 96);
    assert!(all.iter().all(|one| one.starts_with('/')));
    assert!(all.iter().all(|one| !one.contains(char::is_control)));
    let known: HashSet<&str> = all.iter().copied().collect();
    assert_eq!(known.len(), all.len(), "each once");
    if let Err(missing) = closure(path, &known) {
        panic!("{path:?} lacks a reading: {missing}");
    }
    // Reading a reading again tells nothing new, unless it cannot be sent as a path at all.
    for one in &all {
        if let Ok(again) = Readings::of(one) {
            assert!(
                again.iter().all(|reading| known.contains(reading)),
                "{path:?}: {one:?}"
            );
        }
    }
}

fn check_decision(rules: &Rules, policy: &Policy, method: &str, path: &str, with_token: bool) {
    let caller = if with_token {
        Caller::Verified(Arc::clone(&CALLER))
    } else {
        Caller::Anonymous
    };
    let passes = policy
        .matched(method, path)
        .is_ok_and(|matched| matched.judge(caller.claims()).is_ok());
    if !passes {
        return;
    }
    let readings = Readings::of(path).expect("it was decided on");
    for reading in readings.iter() {
        for bits in 0..8 {
            let router = Router {
                ignores_case: bits & 1 != 0,
                ignores_trailing_slash: bits & 2 != 0,
                takes_format_suffix: bits & 4 != 0,
            };
            assert!(
                rules.lets_pass(router, reading, method, with_token),
                "{method} {path:?} passes (token: {with_token}), and {router:?} reads {reading:?}, with {rules:?}"
            );
        }
    }
}

/// A small route table, the same for the same seed.
fn some_rules(seed: u16) -> Rules {
    let mut state = u64::from(seed);
    let mut below = |bound: usize| {
        // Knuth's MMIX generator; its high bits are the good ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let mut rules = Vec::new();
    for _ in 0..=below(7) {
        let mut path = String::new();
        for _ in 0..below(4) {
            path.push('/');
            path.push_str(SEGMENTS[below(SEGMENTS.len())]);
        }
        match below(9) {
            0 | 1 => path.push_str("/**"),
            2 => path.push('/'),
            _ if path.is_empty() => path.push('/'),
            _ => {}
        }
        rules.push(Rule {
            path,
            methods: match below(5) {
                0 => vec!["GET"],
                1 => vec!["POST", "DELETE"],
                _ => vec![],
            },
            access: [
                Asked::Anything,
                Asked::Anything,
                Asked::AnyToken,
                Asked::TheScope,
                Asked::AnotherScope,
                Asked::Impossible,
            ][below(6)],
        });
    }
    Rules::new(rules, below(2) == 0)
}
