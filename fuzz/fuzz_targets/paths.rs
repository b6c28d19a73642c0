//! Any text as a path: nothing panics, the readings are bounded and closed, and no spelling of a
//! denied path passes.

#![no_main]

use std::sync::LazyLock;

use authgate::policy::{
    Access, Caller, Condition, Methods, Pattern, Policy, Readings, Requirement, Route,
};
use libfuzzer_sys::fuzz_target;

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let route = |path: &str, access: Access| Route {
        pattern: Pattern::parse(path).expect("a pattern"),
        methods: Methods::Remaining,
        access,
        shadow: false,
    };
    let require = Requirement {
        condition: Condition::All(vec![]),
        shadow: false,
    };
    let routes = vec![
        route("/public/**", Access::Public),
        route("/public/*/Private", Access::Deny),
        route("/admin/**", Access::Deny),
        route("/slash/", Access::Deny),
    ];
    Policy::new(require, routes, true).expect("no duplicates")
});

fuzz_target!(|path: &str| {
    for slash_matters in [false, true] {
        let Ok(readings) = Readings::of(path, slash_matters) else {
            continue;
        };
        let all: Vec<&str> = readings.iter().collect();
        assert_eq!(
            all.first(),
            Some(&path),
            "the path as it was sent comes first"
        );
        assert!(all.len() <= 64);
        assert!(all.iter().all(|one| one.starts_with('/')));
        assert!(all.iter().all(|one| !one.contains(char::is_control)));
        // Reading a reading again tells nothing new, unless it cannot be sent as a path at all.
        for one in &all {
            if let Ok(again) = Readings::of(one, slash_matters) {
                assert!(
                    again.iter().all(|reading| all.contains(&reading)),
                    "{path:?}: {one:?}"
                );
            }
        }
    }
    let Ok(matched) = POLICY.matched("GET", path) else {
        return;
    };
    if matched.authorize(Caller::Anonymous).is_err() {
        return;
    }
    // Whoever passes without a token stays below /public, however the path is read.
    let readings = Readings::of(path, true).expect("it was decided on");
    for reading in readings.iter() {
        let lower = reading.to_ascii_lowercase();
        assert!(
            lower == "/public" || lower.starts_with("/public/"),
            "{path:?} passes as {reading:?}"
        );
        let mut segments = lower.split('/').skip(2);
        let private = segments.next().is_some_and(|one| !one.is_empty())
            && segments.next() == Some("private")
            && segments.next().is_none();
        assert!(!private, "{path:?} passes as {reading:?}");
    }
});
