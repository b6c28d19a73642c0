//! Step-up: who asks for the scopes of a challenge, and for no others, passes; who asks for fewer does not.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use authgate::canonical::Readings;
use authgate::claims::ClaimPath;
use authgate::identity::Identity;
use authgate::mcp::{Call, Message};
use authgate::policy::{
    Access, Area, Areas, Caller, Condition, Denial, ListMode, Matched, McpCondition, Methods,
    NamePattern, Pattern, Policy, Requirement, Route,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::json;

use crate::mint::{AUDIENCE, identity};

const SCOPES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const SETS: usize = 1 << SCOPES.len();
const ROLES: &str = "https://your-app.com/roles";

/// Between them: one reading and several, one route and several.
const PATHS: [&str; 6] = ["/r", "/r/x", "/R/X", "/r/..%2fq", "/q", "/r/x/../q"];

/// Where the message decides.
const MCP_PATH: &str = "/m";

/// Messages there: one that no route names, and calls of tools that one route takes, or two, by the spelling.
static MESSAGES: LazyLock<[Vec<Message>; 5]> = LazyLock::new(|| {
    let call = |tool| Message::Call(Call::tool_call(tool).expect(tool));
    [
        vec![Message::Answer],
        vec![call("read")],
        vec![call("delete_x")],
        vec![call("Delete_x")],
        vec![Message::Answer, call("read"), call("delete_x")],
    ]
});

/// Callers with every set of scopes, without the role and with it.
static CALLERS: LazyLock<Vec<Arc<Identity>>> = LazyLock::new(|| {
    let callers = [json!([]), json!(["admin"])].into_iter().flat_map(|roles| {
        (0..SETS).map(move |set| {
            let claims = json!({"scope": names(set).join(" "), ROLES: roles});
            identity(&claims)
        })
    });
    callers.collect()
});

/// The scopes whose bits are set.
fn names(set: usize) -> Vec<&'static str> {
    let is_in = |place: &usize| set >> place & 1 == 1;
    (0..SCOPES.len())
        .filter(is_in)
        .map(|place| SCOPES[place])
        .collect()
}

fn set_of(scopes: &BTreeSet<String>) -> usize {
    let bit = |scope: &String| {
        let place = SCOPES.iter().position(|one| one == scope);
        1 << place.expect("a known scope")
    };
    scopes.iter().map(bit).sum()
}

fn strict_subsets(set: usize) -> impl Iterator<Item = usize> {
    (0..set).filter(move |other| other & set == *other)
}

fn scopes() -> impl Strategy<Value = Condition> {
    let mode = select(&[ListMode::All, ListMode::Any][..]);
    (mode, subsequence(&SCOPES[..], 1..4)).prop_map(|(mode, named)| {
        Condition::Scopes(mode, named.into_iter().map(str::to_owned).collect())
    })
}

fn role() -> impl Strategy<Value = Condition> {
    let admin = vec!["admin".to_owned()];
    Just(Condition::Roles(
        ClaimPath::name(ROLES),
        ListMode::Any,
        admin,
    ))
}

fn nested(leaf: BoxedStrategy<Condition>) -> BoxedStrategy<Condition> {
    let tree = leaf.prop_recursive(3, 12, 3, |inner| {
        let parts = vec(inner, 1..4);
        prop_oneof![
            parts.clone().prop_map(Condition::All),
            parts.prop_map(Condition::Any),
        ]
    });
    tree.boxed()
}

/// Rules whose conditions are of this kind.
fn policy(condition: BoxedStrategy<Condition>) -> impl Strategy<Value = Policy> {
    let require = prop_oneof![Just(Condition::All(vec![])), condition.clone()];
    let routes = subsequence(&["/r/**", "/r/x", "/**", "/*/x"][..], 1..4);
    (require, routes, vec((condition, any::<u8>()), 7)).prop_map(|(require, paths, conditions)| {
        let tools = [None, Some("*"), Some("delete_*")].map(|tool| (MCP_PATH, tool));
        let routes = tools
            .into_iter()
            .chain(paths.into_iter().map(|path| (path, None)));
        let routes = routes.zip(conditions);
        let routes = routes.map(|((path, tool), (condition, chance))| Route {
            pattern: Pattern::parse(path).expect(path),
            methods: match tool {
                None => Methods::Remaining,
                Some(_) => Methods::Only(vec!["POST".to_owned()]),
            },
            mcp: tool.map(|tool| McpCondition::Tool(vec![NamePattern::parse(tool).expect(tool)])),
            access: Access::Authenticated(condition),
            shadow: chance < 32,
        });
        let require = Requirement {
            condition: require,
            shadow: false,
        };
        let policy = Policy::new(require, routes.collect(), false).expect("no duplicates");
        let audiences = vec![AUDIENCE.to_owned()];
        let root = Area::new("/", audiences.clone());
        policy.with_areas(Areas::new(vec![root], audiences))
    })
}

/// What becomes of a caller: it passes, or may step up to these scopes, or is refused for good.
#[derive(Debug, PartialEq)]
enum Verdict {
    Passes,
    Asks(usize),
    Refused,
}

fn judge(matched: &Matched<'_>, set: usize, has_role: bool) -> Verdict {
    let place = set + if has_role { SETS } else { 0 };
    let caller = Caller::Verified(Arc::clone(&CALLERS[place]));
    match matched.judge(caller.claims()) {
        Ok(_) => Verdict::Passes,
        Err(Denial::ScopeMissing { needed, .. }) => Verdict::Asks(set_of(&needed)),
        Err(Denial::RuleFailed { .. }) => Verdict::Refused,
        Err(other) => panic!("{other}"),
    }
}

fn run(
    cases: u32,
    condition: BoxedStrategy<Condition>,
    property: impl Fn(&Policy, &Matched<'_>) -> Result<(), TestCaseError>,
) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, rng).run(&policy(condition), |policy| {
        for path in PATHS {
            let matched = policy.matched("GET", path).expect(path);
            property(&policy, &matched)?;
        }
        for messages in MESSAGES.iter() {
            let readings = Readings::of(MCP_PATH).expect(MCP_PATH);
            let matched = policy.matched_with("POST", &readings, messages);
            property(&policy, &matched)?;
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn what_is_asked_for_suffices_and_nothing_less_does() {
    let (several, refused) = (Cell::new(0_u32), Cell::new(0_u32));
    run(600, nested(scopes().boxed()), |policy, matched| {
        let asked = matched.scopes_to_ask_for();
        prop_assert!(asked.is_subset(&policy.scopes_in(0)), "{asked:?}");
        let asked = set_of(&asked);
        prop_assert_eq!(judge(matched, asked, false), Verdict::Passes);
        several.set(several.get() + u32::from(asked.count_ones() > 1));
        for held in strict_subsets(asked) {
            let Verdict::Asks(needed) = judge(matched, held, false) else {
                return Err(TestCaseError::fail("no challenge"));
            };
            refused.set(refused.get() + 1);
            prop_assert_eq!(judge(matched, needed, false), Verdict::Passes);
            prop_assert_eq!(judge(matched, needed | held, false), Verdict::Passes);
        }
        Ok(())
    });
    let (several, refused) = (several.get(), refused.get());
    assert!(
        several > 500 && refused > 3_000,
        "{several} of several scopes, {refused} refused"
    );
}

/// Whatever a caller has, and whatever else is asked of it.
#[test]
fn one_challenge_is_enough_where_scopes_help_and_there_is_none_elsewhere() {
    let (challenged, refused) = (Cell::new(0_u32), Cell::new(0_u32));
    let leaf = prop_oneof![3 => scopes(), 1 => role()];
    run(40, nested(leaf.boxed()), |_, matched| {
        for (held, has_role) in (0..SETS).flat_map(|set| [(set, false), (set, true)]) {
            match judge(matched, held, has_role) {
                Verdict::Passes => {}
                Verdict::Asks(needed) => {
                    challenged.set(challenged.get() + 1);
                    prop_assert_ne!(needed & held, needed, "all of them are there");
                    prop_assert_eq!(judge(matched, needed, has_role), Verdict::Passes);
                    prop_assert_eq!(judge(matched, needed | held, has_role), Verdict::Passes);
                    for fewer in strict_subsets(needed) {
                        prop_assert_ne!(judge(matched, fewer, has_role), Verdict::Passes);
                    }
                }
                Verdict::Refused => {
                    refused.set(refused.get() + 1);
                    let all = judge(matched, SETS - 1, has_role);
                    prop_assert_eq!(all, Verdict::Refused);
                }
            }
        }
        Ok(())
    });
    let (challenged, refused) = (challenged.get(), refused.get());
    assert!(
        challenged > 3_000 && refused > 2_000,
        "{challenged} challenged, {refused} refused"
    );
}

/// Under `not`, a scope may be one too many; what a challenge asks for helps all the same.
#[test]
fn a_challenge_helps_beside_what_is_there_also_where_scopes_are_forbidden() {
    let challenged = Cell::new(0_u32);
    let not = scopes().prop_map(|inner| Condition::Not(Box::new(inner)));
    let leaf = prop_oneof![3 => scopes(), 1 => not, 1 => role()];
    run(40, nested(leaf.boxed()), |_, matched| {
        for (held, has_role) in (0..SETS).flat_map(|set| [(set, false), (set, true)]) {
            if let Verdict::Asks(needed) = judge(matched, held, has_role) {
                challenged.set(challenged.get() + 1);
                prop_assert_ne!(needed & held, needed, "all of them are there");
                prop_assert_eq!(judge(matched, needed | held, has_role), Verdict::Passes);
            }
        }
        Ok(())
    });
    let challenged = challenged.get();
    assert!(challenged > 3_000, "{challenged} challenged");
}
