//! The promise about paths: if a request passes, it passes under every reading that a backend could
//! make of its path.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;

use authgate::canonical::{PathError, Readings};
use authgate::identity::Identity;
use authgate::policy::{Caller, Policy};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use serde_json::json;

use crate::mint::identity;
use backends::{Asked, Router, Rule, Rules, TRANSFORMATIONS, Transformation, closure};

#[path = "../support/backends.rs"]
mod backends;

/// How many route tables with how many paths each, and how many backends read each path.
const TABLES: u32 = 1_300;
const PATHS: usize = 8;
const BACKENDS: usize = 40;

/// Segments of routes and of paths. Some differ only in case, some look like something else.
const SEGMENTS: [&str; 8] = ["a", "b", "admin", "Admin", "public", "a=b", ":", "x.y"];

const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];

#[derive(Debug, Clone)]
struct Backend {
    steps: Vec<Transformation>,
    router: Router,
}

impl Backend {
    fn read(&self, path: &str) -> Option<String> {
        self.steps
            .iter()
            .try_fold(path.to_owned(), |path, step| step.apply(&path))
    }
}

fn rules() -> impl Strategy<Value = Rules> {
    let segment = prop_oneof![4 => select(&SEGMENTS[..]), 1 => Just("*")];
    let end = prop_oneof![6 => Just(""), 2 => Just("/**"), 1 => Just("/")];
    let path = (vec(segment, 0..4), end).prop_map(|(segments, end)| {
        match format!("/{}{end}", segments.join("/")) {
            path if segments.is_empty() && path == "//" => "/".to_owned(),
            path if segments.is_empty() => path.replacen("//", "/", 1),
            path => path,
        }
    });
    let methods = prop_oneof![
        4 => Just(vec![]),
        1 => Just(vec!["GET"]),
        1 => Just(vec!["POST", "DELETE"]),
    ];
    let access = prop_oneof![
        4 => Just(Asked::Anything),
        2 => Just(Asked::AnyToken),
        2 => Just(Asked::TheScope),
        1 => Just(Asked::AnotherScope),
        2 => Just(Asked::Impossible),
    ];
    let rule = (path, methods, access).prop_map(|(path, methods, access)| Rule {
        path,
        methods,
        access,
    });
    (vec(rule, 1..9), any::<bool>()).prop_map(|(rules, deny)| Rules::new(rules, deny))
}

/// A path made of things that backends disagree about.
fn hostile_path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        8 => select(&SEGMENTS[..]).prop_map(str::to_owned),
        2 => select(vec!["..", ".", "..;", "%2e%2e", "%2E.", ".%252e", "..;x=y", "%252e%252e%253b"])
            .prop_map(str::to_owned),
        1 => select(vec!["ADMIN", "aDmIn", "%41dmin", "%61", "%2561", "adm%69n", "%25%36%31"])
            .prop_map(str::to_owned),
        1 => select(vec!["%3a", "%253A", "a%3db", "a%253Db", "x%2ey", "x%252ey"])
            .prop_map(str::to_owned),
    ];
    let separator = prop_oneof![
        10 => Just("/"),
        2 => select(vec!["//", "/./", "/../", "%2f", "%2F/", "%252f", "%5c", "%5C%5c", "%255c"]),
    ];
    let noise = prop_oneof![
        12 => Just(""),
        2 => select(vec![".json", ".x", "%2Ejson", "..json", ".", "%20", "%2e%20", "...", ".%20/"]),
        2 => select(vec![";", ";x=y", "%3b", "%3Bx", "%253b", ";;", ";/"]),
        1 => select(vec!["%3f", "%3Fx", "%23", "%2523", "%253f"]),
    ];
    let end = prop_oneof![6 => Just(""), 1 => Just("/"), 1 => select(vec!["//", "%2f", "/.", "/..", "/%2e", ";"])];
    (vec((separator, segment, noise), 1..6), end).prop_map(|(pieces, end)| {
        let mut path = String::new();
        for (separator, segment, noise) in pieces {
            let separator = match separator {
                other if path.is_empty() && !other.starts_with('/') => "/",
                other => other,
            };
            path.push_str(separator);
            path.push_str(&segment);
            path.push_str(noise);
        }
        path.push_str(end);
        path
    })
}

fn backend() -> impl Strategy<Value = Backend> {
    let router = any::<[bool; 3]>().prop_map(
        |[ignores_case, ignores_trailing_slash, takes_format_suffix]| Router {
            ignores_case,
            ignores_trailing_slash,
            takes_format_suffix,
        },
    );
    (vec(select(&TRANSFORMATIONS[..]), 0..6), router)
        .prop_map(|(steps, router)| Backend { steps, router })
}

/// The same cases in every run: a failure in CI is a failure everywhere.
fn runner(cases: u32) -> TestRunner {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// Says what failed. The whole input would fill pages with backends that had no part in it.
fn report<T: std::fmt::Debug>(result: Result<(), TestError<T>>) {
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, _)) => panic!("{reason}"),
        Err(error) => panic!("{error}"),
    }
}

fn passes(policy: &Policy, method: &str, path: &str, who: Option<&Arc<Identity>>) -> bool {
    let caller = who.map_or(Caller::Anonymous, |who| Caller::Verified(Arc::clone(who)));
    policy
        .matched(method, path)
        .is_ok_and(|matched| matched.judge(caller.claims()).is_ok())
}

#[test]
fn a_request_that_passes_passes_under_every_reading() {
    let who = identity(&json!({"scope":"held"}));
    let (requests, passed, readings, altered) = (
        Cell::new(0_u32),
        Cell::new(0_u32),
        Cell::new(0_u32),
        Cell::new(0_u32),
    );
    let count = |counter: &Cell<u32>| counter.set(counter.get() + 1);
    let cases = (
        rules(),
        vec((hostile_path(), select(&METHODS[..]), any::<bool>()), PATHS),
        vec(backend(), BACKENDS),
    );
    let result = runner(TABLES).run(&cases, |(rules, paths, backends)| {
        let policy = rules.policy();
        for (path, method, with_token) in &paths {
            count(&requests);
            if !passes(&policy, method, path, with_token.then_some(&who)) {
                continue;
            }
            count(&passed);
            for backend in &backends {
                let Some(reading) = backend.read(path) else {
                    continue;
                };
                count(&readings);
                if reading != *path {
                    count(&altered);
                }
                prop_assert!(
                    rules.lets_pass(backend.router, &reading, method, *with_token),
                    "{method} {path} passes ({with_token}), and {backend:?} reads {reading}, with {rules:?}"
                );
            }
        }
        Ok(())
    });
    println!(
        "{} requests, {} passed, {} readings of them, {} unlike the path",
        requests.get(),
        passed.get(),
        readings.get(),
        altered.get()
    );
    report(result);
    assert!(readings.get() >= 100_000, "{} readings", readings.get());
    assert!(
        altered.get() >= 30_000,
        "{} readings unlike the path",
        altered.get()
    );
}

#[test]
fn the_readings_are_exactly_what_backends_can_make_of_a_path() {
    let (exact, too_many) = (Cell::new(0_u32), Cell::new(0_u32));
    let check = |path: &str| -> Result<(), String> {
        let Ok(readings) = Readings::of(path) else {
            too_many.set(too_many.get() + 1);
            return Ok(());
        };
        let known: HashSet<&str> = readings.iter().collect();
        let made = closure(path, &known).map_err(|why| format!("{path}: {why}"))?;
        exact.set(exact.get() + 1);
        if made.len() == known.len() {
            return Ok(());
        }
        let invented: Vec<_> = known.iter().filter(|one| !made.contains(**one)).collect();
        Err(format!("{path}: no backend makes {invented:?} of it"))
    };
    for path in [
        "/a;x/b;y",
        "/a;x/b;y/",
        "/a/b;/../c",
        "/a%2fb%3ac",
        "/a%2Fb%252F",
        "/%2561/%253a",
        "/.%252e/%3a",
        "/a%3F/admin%23x",
        "/a%23/b%3Fc/../d",
        "/a//b/..///c/./",
        "/a%5c..%5cb",
        "/a///",
        "//",
        "/..",
        "/.%2e/a%2e",
        "/%2f%2e%2e%2f",
        "/;a=b/%3b",
        "/a%25",
        "/a%2525",
        "/caf%C3%A9%2F%E5%AD%AB",
    ] {
        assert_eq!(check(path), Ok(()));
    }
    assert_eq!(
        (exact.get(), too_many.get()),
        (20, 0),
        "none is too much to look at"
    );
    let result = runner(2_000).run(&hostile_path(), |path| {
        let checked = check(&path);
        prop_assert!(checked.is_ok(), "{checked:?}");
        Ok(())
    });
    report(result);
    let (exact, too_many) = (exact.get(), too_many.get());
    assert!(exact >= 1_000, "{exact} compared, {too_many} too many");
}

#[test]
fn ordinary_paths_are_decided_on() {
    let segment = "[A-Za-z0-9._~!$&'()*+,=:@-]{1,24}"
        .prop_filter("dot segments", |segment: &String| {
            !matches!(segment.as_str(), "." | "..")
        });
    let path = (vec(segment, 0..12), any::<bool>()).prop_map(|(segments, slash)| {
        let end = if slash && !segments.is_empty() {
            "/"
        } else {
            ""
        };
        format!("/{}{end}", segments.join("/"))
    });
    let decided = Cell::new(0_u32);
    let result = runner(2_000).run(&(rules(), path), |(rules, path)| {
        prop_assert!(Readings::of(&path).is_ok(), "{path}");
        prop_assert!(rules.policy().matched("GET", &path).is_ok(), "{path}");
        decided.set(decided.get() + 1);
        Ok(())
    });
    report(result);
    assert_eq!(decided.get(), 2_000);
}

#[test]
fn odd_paths_that_honest_clients_send_are_decided_on() {
    let rule = |path: &str, access| Rule {
        path: path.to_owned(),
        methods: vec![],
        access,
    };
    let rules = Rules::new(
        vec![
            rule("/api/**", Asked::AnyToken),
            // Without its twin the next one could never be reached: a backend may ignore the slash.
            rule("/Files/*", Asked::AnyToken),
            rule("/Files/*/", Asked::AnyToken),
            rule("/**", Asked::Impossible),
        ],
        false,
    );
    let (policy, who) = (rules.policy(), identity(&json!({})));
    let long = format!("/api/{}", "x".repeat(16 * 1024 - 5));
    let long_with_one = format!("/api/%20{}", "x".repeat(11 * 1024));
    for path in [
        "/api/threads/thread%20one/messages",
        "/api/agents/caf%C3%A9/generate",
        "/api/agents/%E5%AD%AB%E6%82%9F%E7%A9%BA/stream",
        "/api/fetch/https%3A%2F%2Fexample.com%2Fa%2Fb%3Fq%3D1%23top",
        "/api/fetch/https://example.com/a/b",
        "/api/resources/file%3A%2F%2F%2Fhome%2Fme%2Fnotes.txt",
        "/api/users/auth0%7C5f7c8ec7c33c6c004bbafe82",
        "/api/memory/a;b=c;d=e",
        "/api/search/100%25",
        "/api/search/50%25%20off",
        "/api/mail/me%40example.com",
        "/api/agents/",
        "/api//agents",
        "/api/a/./b",
        "/api/x/../y",
        "/Files/report/",
        // GitLab, Matrix, OData, Mastra, and what is encoded twice.
        "/api/v4/projects/group%2Fsub%2Fproject/repository/files/src%2Fmain%2Ers/raw",
        "/api/v4/projects/1/repository/branches/feature%2Flogin",
        "/api/client/v3/rooms/!abc:example.org/send/m.room.message/txn.1",
        "/api/client/v3/rooms/%21abc%3Aexample.org/state/m.room.member/%40me%3Aexample.org",
        "/api/client/v3/profile/@me:example.org",
        "/api/odata/People('russell%20whyte')/Trips(0)/$value",
        "/api/odata/$metadata",
        "/api/odata/Products(Name='Bread',Id=1)/Default.Rate()",
        "/api/agents/weatherAgent/generate.v2",
        "/api/workflows/my-flow/runs/3f2b0c1e-1d5a-4f0e-9e61-0a5a0c1b2d3e/stream",
        "/api/memory/threads/resource_auth0%7C5f7c/messages",
        "/api/mcp/server-1/tools/get.weather/execute",
        "/api/names/caf%25C3%25A9",
        "/api/names/a%252Fb",
        "/api/names/50%2525",
        "/api/robots.txt",
        "/api/v1.2/x",
        "/api/openapi.json",
        &long,
        &long_with_one,
    ] {
        let matched = policy.matched("GET", path).expect(path);
        let caller = Caller::Verified(Arc::clone(&who));
        assert!(matched.judge(caller.claims()).is_ok(), "{path}");
    }
}

/// The most a stranger can ask for is bounded, whatever the path.
#[test]
fn no_path_has_more_readings_than_are_looked_at() {
    let (read, refused) = (Cell::new(0_u32), Cell::new(0_u32));
    let paths = vec(hostile_path(), 1..40).prop_map(|parts| parts.concat());
    let result = runner(1_000).run(&paths, |path| {
        match Readings::of(&path) {
            Ok(readings) => {
                read.set(read.get() + 1);
                let all: Vec<&str> = readings.iter().collect();
                prop_assert_eq!(all[0], path.as_str());
                prop_assert!(all.len() <= 96, "{} readings of {path}", all.len());
                prop_assert!(all.iter().all(|one| one.starts_with('/')), "{path}");
                prop_assert!(
                    !all.iter().any(|one| one.contains(char::is_control)),
                    "{path}"
                );
                let distinct: HashSet<&str> = all.iter().copied().collect();
                prop_assert_eq!(distinct.len(), all.len(), "{}", path);
                for one in &all {
                    // A reading may hold what cannot be sent; if it can be, it tells nothing new.
                    let again = Readings::of(one);
                    let more =
                        again.is_ok_and(|again| !again.iter().all(|it| distinct.contains(it)));
                    prop_assert!(!more, "{path} as {one} has more readings");
                }
            }
            Err(error) => {
                refused.set(refused.get() + 1);
                prop_assert_eq!(error, PathError::TooManyReadings, "{}", path);
            }
        }
        Ok(())
    });
    report(result);
    assert!(
        read.get() >= 50 && refused.get() >= 500,
        "{read:?} read, {refused:?} refused"
    );
}
