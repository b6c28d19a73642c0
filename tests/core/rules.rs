//! Rules on claims: the product's two examples, more hostile claims, and the law of wrong types.

use std::cell::Cell;

use authgate::claims::{ClaimPath, Claims};
use authgate::policy::{
    Access, Caller, ClaimTest, Condition, ListMode, Methods, Pattern, Policy, Requirement, Route,
    Scalar,
};
use authgate::token::SubjectKind;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::mint::{identity, object};

const PERMISSIONS: &str = "https://your-app.com/permissions";
const ROLES: &str = "https://your-app.com/roles";

fn claims(value: &Value) -> Claims {
    Claims::new(object(value).clone())
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn texts(items: &[&str]) -> Vec<Scalar> {
    items
        .iter()
        .map(|item| Scalar::String((*item).to_owned()))
        .collect()
}

/// What a condition says: it holds, it fails, or a claim has the wrong type.
fn says(condition: &Condition, value: &Value) -> &'static str {
    match condition.holds(&claims(value)) {
        Ok(true) => "holds",
        Ok(false) => "fails",
        Err(_) => "wrong type",
    }
}

/// `permissions.includes('api:access')` of the product's page; expiry is the verifier's business.
fn api_access() -> Condition {
    Condition::Claim(
        ClaimPath::name(PERMISSIONS),
        ClaimTest::Contains(ListMode::All, texts(&["api:access"])),
    )
}

/// `roles.includes('admin') || roles.includes('user')` of the product's page.
fn admin_or_user() -> Condition {
    Condition::Roles(
        ClaimPath::name(ROLES),
        ListMode::Any,
        strings(&["admin", "user"]),
    )
}

#[test]
fn the_two_examples_of_the_source_page() {
    for (value, expected, why) in [
        (
            json!({PERMISSIONS:["api:access"]}),
            "holds",
            "as in the example",
        ),
        (
            json!({PERMISSIONS:["x", "api:access"]}),
            "holds",
            "among others",
        ),
        (json!({}), "fails", "the example's `|| []`"),
        (json!({PERMISSIONS:[]}), "fails", "none"),
        (
            json!({PERMISSIONS:["api:accessory"]}),
            "fails",
            "a longer one",
        ),
        (json!({PERMISSIONS:["API:ACCESS"]}), "fails", "another case"),
        (
            json!({PERMISSIONS:["api:access x"]}),
            "fails",
            "a list in a string in a list",
        ),
        (
            json!({"permissions":["api:access"]}),
            "fails",
            "without its namespace",
        ),
        (
            json!({"https://your-app":{"com/permissions":["api:access"]}}),
            "fails",
            "split at a dot",
        ),
        (
            json!({"https://your-app.com/permissions/":["api:access"]}),
            "fails",
            "another name",
        ),
        // JavaScript's includes would look for a substring here and let "xapi:accessx" pass.
        (json!({PERMISSIONS:"xapi:accessx"}), "fails", "a substring"),
        (
            json!({PERMISSIONS:"x api:access"}),
            "holds",
            "words in a string",
        ),
        (
            json!({PERMISSIONS:{"api:access":true}}),
            "wrong type",
            "an object",
        ),
        (
            json!({PERMISSIONS:["api:access", 1]}),
            "wrong type",
            "a number beside it",
        ),
        (
            json!({PERMISSIONS:["api:access", ["x"]]}),
            "wrong type",
            "a list beside it",
        ),
        (
            json!({PERMISSIONS:[["api:access"]]}),
            "wrong type",
            "a list in a list",
        ),
        (json!({PERMISSIONS:null}), "wrong type", "null"),
        (json!({PERMISSIONS:true}), "wrong type", "true"),
    ] {
        assert_eq!(says(&api_access(), &value), expected, "{why}: {value}");
    }
    for (value, expected, why) in [
        (json!({ROLES:["admin"]}), "holds", "the one"),
        (json!({ROLES:["guest", "user"]}), "holds", "the other"),
        (json!({ROLES:"user"}), "holds", "one role as a string"),
        (json!({}), "fails", "the example's `|| []`"),
        (json!({ROLES:["guest"]}), "fails", "neither"),
        (
            json!({ROLES:["superadmin", "user2"]}),
            "fails",
            "substrings",
        ),
        (json!({ROLES:["Admin"]}), "fails", "another case"),
        (json!({ROLES:[" admin"]}), "fails", "white space"),
        (json!({ROLES:["\u{430}dmin"]}), "fails", "a look-alike"),
        (json!({ROLES:[""]}), "fails", "an empty role"),
        (json!({ROLES:"superadmin"}), "fails", "a substring"),
        (
            json!({"roles":["admin"]}),
            "fails",
            "a name that Auth0 drops",
        ),
        (
            json!({"app_metadata":{"roles":["admin"]}}),
            "fails",
            "somewhere else",
        ),
        (json!({ROLES:"admin user"}), "wrong type", "one role or two"),
        (
            json!({ROLES:["admin", null]}),
            "wrong type",
            "null beside it",
        ),
        (json!({ROLES:{"admin":true}}), "wrong type", "an object"),
        (json!({ROLES:1}), "wrong type", "a number"),
        (json!({ROLES:false}), "wrong type", "false"),
        (json!({ROLES:null}), "wrong type", "null"),
    ] {
        assert_eq!(says(&admin_or_user(), &value), expected, "{why}: {value}");
    }
}

#[test]
fn the_examples_decide_about_requests() {
    let require = Requirement {
        condition: api_access(),
        shadow: false,
    };
    let route = Route {
        pattern: Pattern::parse("/api/mastra/agents/**").expect("a pattern"),
        methods: Methods::Remaining,
        mcp: None,
        access: Access::Authenticated(admin_or_user()),
        shadow: false,
    };
    let policy = Policy::new(require, vec![route], false).expect("no duplicates");
    let both = json!({PERMISSIONS:["api:access"],ROLES:["user"]});
    for (path, who, expected) in [
        ("/api/mastra/agents", Some(&both), "passes"),
        ("/api/mastra/agents", None, "token_missing"),
        (
            "/api/mastra/agents",
            Some(&json!({PERMISSIONS:["api:access"]})),
            "rule_denied",
        ),
        (
            "/api/mastra/agents/a",
            Some(&json!({ROLES:["admin"]})),
            "rule_denied",
        ),
        (
            "/api/mastra/tools",
            Some(&json!({PERMISSIONS:["api:access"]})),
            "passes",
        ),
        (
            "/api/mastra/tools",
            Some(&json!({ROLES:["admin"]})),
            "rule_denied",
        ),
        (
            "/api/mastra/tools",
            Some(&json!({PERMISSIONS:{}})),
            "rule_denied",
        ),
    ] {
        let caller = who.map_or(Caller::Anonymous, |claims| {
            Caller::Verified(identity(claims))
        });
        let matched = policy.matched("GET", path).expect(path);
        let code = matched
            .judge(caller.claims())
            .map_or_else(|denial| denial.code(), |_| "passes");
        assert_eq!(code, expected, "{path} with {who:?}");
    }
}

#[test]
fn more_hostile_claims() {
    use ListMode::{All, Any};
    let act = |names: &[&str], test| {
        let path = ClaimPath::nested(names.iter().map(|&name| name.to_owned())).expect("a path");
        Condition::Claim(path, test)
    };
    let claim = |test| act(&["c"], test);
    let scopes = |mode, needed: &[&str]| Condition::Scopes(mode, strings(needed));
    let clients = Condition::Clients(strings(&["c"]));
    let not = |condition| Condition::Not(Box::new(condition));
    for (condition, value, expected, why) in [
        (
            scopes(All, &["a"]),
            json!({"scope":"a,b"}),
            "fails",
            "commas do not separate scopes",
        ),
        (
            scopes(All, &["a"]),
            json!({"scope":"a\tb"}),
            "fails",
            "nor do tabs",
        ),
        (
            scopes(All, &["a"]),
            json!({"scope":"a\u{a0}b"}),
            "fails",
            "nor other spaces",
        ),
        (
            scopes(All, &["a"]),
            json!({"scope":"  a  "}),
            "holds",
            "spaces may be many",
        ),
        (
            scopes(All, &["a"]),
            json!({"scp":"a"}),
            "fails",
            "another issuer's claim",
        ),
        (
            scopes(All, &["a"]),
            json!({"scopes":"a"}),
            "fails",
            "another name",
        ),
        (
            scopes(Any, &["a"]),
            json!({"scope":{"a":1}}),
            "wrong type",
            "an object",
        ),
        (
            scopes(Any, &["a"]),
            json!({"scope":0}),
            "wrong type",
            "a number",
        ),
        (
            clients.clone(),
            json!({"azp":null,"client_id":"c"}),
            "wrong type",
            "null is no absence",
        ),
        (
            clients.clone(),
            json!({"azp":"","client_id":"c"}),
            "fails",
            "an empty one is there",
        ),
        (
            clients.clone(),
            json!({"client_id":["c"]}),
            "wrong type",
            "a list",
        ),
        (
            clients.clone(),
            json!({"sub":"c@clients"}),
            "fails",
            "the subject is no client claim",
        ),
        (
            not(clients),
            json!({"azp":7}),
            "wrong type",
            "not does not turn it round",
        ),
        (
            act(&["act", "sub"], ClaimTest::Exists),
            json!({"act":"agt_1"}),
            "wrong type",
            "the way leads through a string",
        ),
        (
            act(&["act", "sub"], ClaimTest::Exists),
            json!({"act":null}),
            "wrong type",
            "or null",
        ),
        (
            act(&["act", "sub"], ClaimTest::Exists),
            json!({"act":[{"sub":"x"}]}),
            "wrong type",
            "or a list",
        ),
        (
            act(&["act", "sub"], ClaimTest::Absent),
            json!({"act":{}}),
            "holds",
            "not there",
        ),
        (
            act(&["act", "sub"], ClaimTest::Absent),
            json!({"act":7}),
            "wrong type",
            "absent and unreachable differ",
        ),
        (
            act(&["act", "sub"], ClaimTest::Absent),
            json!({"act.sub":1}),
            "holds",
            "a dot is no way",
        ),
        (
            claim(ClaimTest::OneOf(texts(&["1"]))),
            json!({"c":true}),
            "wrong type",
            "a boolean",
        ),
        (
            claim(ClaimTest::OneOf(vec![Scalar::Bool(false)])),
            json!({"c":0}),
            "wrong type",
            "zero is not false",
        ),
        (
            claim(ClaimTest::OneOf(vec![Scalar::Bool(false)])),
            json!({"c":""}),
            "wrong type",
            "nothing is not false",
        ),
        (
            claim(ClaimTest::OneOf(vec![Scalar::Bool(false)])),
            json!({}),
            "fails",
            "absent is not false",
        ),
        (
            claim(ClaimTest::OneOf(vec![Scalar::Number(0.into())])),
            json!({"c":-0.0}),
            "holds",
            "minus zero",
        ),
        (
            claim(ClaimTest::OneOf(vec![Scalar::Number(
                9_007_199_254_740_993_u64.into(),
            )])),
            json!({"c":9_007_199_254_740_992_u64}),
            "fails",
            "integers compare exactly",
        ),
        (
            claim(ClaimTest::OneOf(texts(&["\u{e9}"]))),
            json!({"c":"e\u{301}"}),
            "fails",
            "no normalization",
        ),
        (
            claim(ClaimTest::Contains(Any, texts(&["a"]))),
            json!({"c":[]}),
            "fails",
            "an empty list",
        ),
        (
            claim(ClaimTest::Contains(All, texts(&["a"]))),
            json!({"c":""}),
            "fails",
            "an empty string",
        ),
        (
            claim(ClaimTest::Contains(All, texts(&["a"]))),
            json!({"c":"a,b"}),
            "fails",
            "commas separate nothing",
        ),
        (
            claim(ClaimTest::Contains(All, texts(&["a"]))),
            json!({"c":["a", null]}),
            "wrong type",
            "null beside it",
        ),
        (
            claim(ClaimTest::Contains(Any, vec![Scalar::Number(1.into())])),
            json!({"c":"1 2"}),
            "wrong type",
            "words are no numbers",
        ),
        (
            claim(ClaimTest::StartsWith("org_".into())),
            json!({"c":" org_1"}),
            "fails",
            "white space first",
        ),
        (
            claim(ClaimTest::EndsWith("@corp.com".into())),
            json!({"c":"me@evil@corp.com"}),
            "holds",
            "it is a suffix and no more",
        ),
        (
            claim(ClaimTest::EndsWith("corp.com".into())),
            json!({"c":"me@notcorp.com"}),
            "holds",
            "so write the @",
        ),
        (
            claim(ClaimTest::LessThan(5.into())),
            json!({"c":-1e308}),
            "holds",
            "far below",
        ),
        (
            claim(ClaimTest::GreaterThan(5.into())),
            json!({"c":18_446_744_073_709_551_615_u64}),
            "holds",
            "far above",
        ),
        (
            claim(ClaimTest::AtMost(5.into())),
            json!({"c":null}),
            "wrong type",
            "null",
        ),
        (
            claim(ClaimTest::AtLeast(5.into())),
            json!({"c":[6]}),
            "wrong type",
            "a list",
        ),
        (
            claim(ClaimTest::AtLeast(5.into())),
            json!({}),
            "fails",
            "absent",
        ),
        (
            not(claim(ClaimTest::AtLeast(5.into()))),
            json!({}),
            "holds",
            "not of a failure",
        ),
        (
            Condition::SubjectKind(SubjectKind::User),
            json!({"sub":"x@clients"}),
            "fails",
            "a machine",
        ),
        (
            Condition::SubjectKind(SubjectKind::User),
            json!({"sub":"anon@x|y"}),
            "fails",
            "anonymous all the same",
        ),
        (
            Condition::SubjectKind(SubjectKind::User),
            json!({"sub":"agt_1","client_id":"c"}),
            "fails",
            "an agent without a profile",
        ),
        (
            Condition::SubjectKind(SubjectKind::User),
            json!({"sub":"auth0|x","sub_profile":"ai_agent"}),
            "fails",
            "an agent that is called like a user",
        ),
        (
            Condition::SubjectKind(SubjectKind::User),
            json!({"sub":"auth0|x","sub_profile":"robot"}),
            "wrong type",
            "no kind that is known",
        ),
        (
            not(Condition::SubjectKind(SubjectKind::User)),
            json!({"sub":"auth0|x","sub_profile":"robot"}),
            "wrong type",
            "not does not turn it round",
        ),
        (
            not(Condition::SubjectKind(SubjectKind::User)),
            json!({"sub":"auth0|x","sub_profile":null}),
            "wrong type",
            "null is no absence",
        ),
        (
            Condition::SubjectKind(SubjectKind::Machine),
            json!({"sub":"auth0|x","gty":"password"}),
            "fails",
            "a password grant",
        ),
        (
            Condition::Subjects(strings(&["auth0|1"])),
            json!({"sub":"auth0|1 "}),
            "fails",
            "a space more",
        ),
        (
            Condition::Organizations(strings(&["org_1"])),
            json!({"org_name":"org_1"}),
            "fails",
            "a name is no id",
        ),
    ] {
        assert_eq!(
            says(&condition, &value),
            expected,
            "{why}: {condition} on {value}"
        );
    }
}

/// The claims of the property below: every one has a type, and tests for it can be right or wrong.
fn typed_claims() -> Value {
    json!({
        "scope":"a b","permissions":["a", "b"],"org_id":"org_1","azp":"c","sub":"auth0|1",
        "text":"word","number":7,"flag":true,"list":["a", "b"],"object":{"inner":"x"},
        "null":null,"mixed":["a", 1],
    })
}

/// A condition on one claim, and whether the claim is of a type that it can judge.
fn leaf() -> impl Strategy<Value = (Condition, bool)> {
    let name = select(vec![
        "text", "number", "flag", "list", "object", "null", "mixed", "missing",
    ]);
    let test = select(vec![
        ClaimTest::Exists,
        ClaimTest::Absent,
        ClaimTest::OneOf(texts(&["word", "other"])),
        ClaimTest::OneOf(vec![Scalar::Number(7.into())]),
        ClaimTest::OneOf(vec![Scalar::Bool(true)]),
        ClaimTest::Contains(ListMode::Any, texts(&["a", "word"])),
        ClaimTest::Contains(ListMode::All, texts(&["a", "z"])),
        ClaimTest::StartsWith("w".to_owned()),
        ClaimTest::EndsWith("d".to_owned()),
        ClaimTest::LessThan(8.into()),
        ClaimTest::AtMost(6.into()),
        ClaimTest::GreaterThan(8.into()),
        ClaimTest::AtLeast(7.into()),
    ]);
    let list = select(vec![
        Condition::Scopes(ListMode::Any, strings(&["a"])),
        Condition::Scopes(ListMode::All, strings(&["a", "z"])),
        Condition::Organizations(strings(&["org_1"])),
        Condition::Clients(strings(&["d"])),
        Condition::Subjects(strings(&["auth0|1"])),
        Condition::SubjectKind(SubjectKind::User),
        Condition::List(
            ClaimPath::name("permissions"),
            ListMode::All,
            strings(&["a"]),
        ),
    ]);
    let of_list = (name.clone(), any::<bool>()).prop_map(|(name, roles)| {
        let (path, needed) = (ClaimPath::name(name), strings(&["a"]));
        let right = match name {
            "list" | "missing" => true,
            "text" => roles,
            _ => false,
        };
        let condition = if roles {
            Condition::Roles(path, ListMode::Any, needed)
        } else {
            Condition::List(path, ListMode::Any, needed)
        };
        (condition, right)
    });
    let through = name.clone().prop_map(|name| {
        let path = ClaimPath::nested([name.to_owned(), "inner".to_owned()]).expect("a path");
        let right = matches!(name, "object" | "missing");
        (Condition::Claim(path, ClaimTest::Exists), right)
    });
    let of_claim = (name, test).prop_map(|(name, test)| {
        let right = can_judge(&test, name);
        (Condition::Claim(ClaimPath::name(name), test), right)
    });
    prop_oneof![
        4 => of_claim,
        1 => list.prop_map(|condition| (condition, true)),
        1 => of_list,
        1 => through,
    ]
}

/// The types that an operator is for, from the contract: a missing claim is never a wrong type.
fn can_judge(test: &ClaimTest, name: &str) -> bool {
    match (test, name) {
        (_, "missing") => true,
        (_, "null") => false,
        (ClaimTest::Exists | ClaimTest::Absent, _) => true,
        (ClaimTest::OneOf(values), _) => match values.first() {
            Some(Scalar::String(_)) => name == "text",
            Some(Scalar::Number(_)) => name == "number",
            Some(Scalar::Bool(_)) => name == "flag",
            None => true,
        },
        (ClaimTest::Contains(..), _) => matches!(name, "text" | "list"),
        (ClaimTest::StartsWith(_) | ClaimTest::EndsWith(_), _) => name == "text",
        (
            ClaimTest::LessThan(_)
            | ClaimTest::AtMost(_)
            | ClaimTest::GreaterThan(_)
            | ClaimTest::AtLeast(_),
            _,
        ) => name == "number",
    }
}

/// A condition of any shape, and whether every leaf can judge its claim.
fn tree() -> impl Strategy<Value = (Condition, bool)> {
    leaf().prop_recursive(5, 40, 5, |inner| {
        let parts = || {
            vec(inner.clone(), 0..5).prop_map(|parts| {
                let right = parts.iter().all(|(_, right)| *right);
                let parts: Vec<Condition> = parts.into_iter().map(|(part, _)| part).collect();
                (parts, right)
            })
        };
        prop_oneof![
            parts().prop_map(|(parts, right)| (Condition::All(parts), right)),
            parts().prop_map(|(parts, right)| (Condition::Any(parts), right)),
            inner
                .clone()
                .prop_map(|(part, right)| (Condition::Not(Box::new(part)), right)),
        ]
    })
}

/// Two-valued logic over the leaves: what a tree says when every claim is of the right type.
fn truth(condition: &Condition, claims: &Claims) -> bool {
    match condition {
        Condition::All(parts) => parts.iter().all(|part| truth(part, claims)),
        Condition::Any(parts) => parts.iter().any(|part| truth(part, claims)),
        Condition::Not(part) => !truth(part, claims),
        leaf => leaf.holds(claims).expect("of the right type"),
    }
}

#[test]
fn a_wrong_type_anywhere_refuses_whatever_stands_around_it() {
    let value = typed_claims();
    let claims = claims(&value);
    let who = identity(&value);
    let (right, wrong) = (Cell::new(0_u32), Cell::new(0_u32));
    let config = Config {
        cases: 4_000,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, rng).run(&tree(), |(condition, all_right)| {
        let counter = if all_right { &right } else { &wrong };
        counter.set(counter.get() + 1);
        let found = condition.holds(&claims);
        if all_right {
            prop_assert_eq!(found, Ok(truth(&condition, &claims)), "{:?}", condition);
        } else {
            prop_assert!(found.is_err(), "{found:?} from {condition:?}");
            let require = Requirement {
                condition,
                shadow: false,
            };
            let policy = Policy::new(require, vec![], false).expect("no routes");
            let matched = policy.matched("GET", "/").expect("a path");
            let decision = matched.judge(Caller::Verified(std::sync::Arc::clone(&who)).claims());
            let code = decision.map_or_else(|denial| denial.code(), |_| "passes");
            prop_assert_eq!(code, "rule_denied");
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let (right, wrong) = (right.get(), wrong.get());
    assert!(
        right >= 1_000 && wrong >= 1_000,
        "{right} right, {wrong} wrong"
    );
}
