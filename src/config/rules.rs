//! `[require]` and `[[route]]` become conditions and routes.

use serde_json::Number;
use toml::Value;

use super::reader::{Problems, Section, strings, type_name};
use super::schema::Form;
use crate::claims::ClaimPath;
use crate::policy::{
    Access, ClaimTest, Condition, ListMode, McpCondition, Methods, NamePattern, Pattern,
    Requirement, Route, Scalar,
};
use crate::token::SubjectKind;

/// The claims that `roles` and `permissions` look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimNames {
    /// `auth0.roles_claim`
    pub roles: Option<String>,
    /// `auth0.permissions_claim`
    pub permissions: String,
}

/// What tables of conditions are called in the schema.
const CONDITION: &str = "condition";

/// How values look in the schema; what else is asked of them is checked where they are read.
const PATH: &str = r"^\s*/";
const METHOD: &str = "^[!#$%&'*+.^_`|~0-9A-Z-]+$";
const TRIMMED: &str = r"^\S(.*\S)?$";
const WORD: &str = r"^\S+$";
const NAME_PATTERN: &str = r"^[^\s*]([^*]*[^\s*])?\*?$|^\*$";

/// Reads `[require]`.
pub(super) fn requirement(
    mut section: Section,
    names: &ClaimNames,
    problems: &mut Problems,
) -> Requirement {
    let shadow = section.boolean("shadow", problems).unwrap_or(false);
    Requirement {
        condition: condition(section, names, problems),
        shadow,
    }
}

/// The words that `access` takes.
#[derive(Clone, Copy, PartialEq)]
enum Word {
    Authenticated,
    Deny,
    Public,
}

/// The path of each route as it stands in the file, for telling people which one is meant: they do not count.
pub(super) fn paths(root: &toml::Table) -> Vec<Option<String>> {
    let routes = root.get("route").and_then(Value::as_array);
    let path = |route: &Value| Some(route.get("path")?.as_str()?.to_owned());
    routes.map_or_else(Vec::new, |routes| routes.iter().map(path).collect())
}

/// Reads one `[[route]]`; `None` when it has no usable path.
pub(super) fn route(
    mut section: Section,
    names: &ClaimNames,
    problems: &mut Problems,
) -> Option<Route> {
    section.has_required("path");
    let pattern = match section.string_of("path", Form::Pattern(PATH), problems) {
        None => {
            problems.error(
                section.path_of("path"),
                "is missing: a route needs a path such as \"/api/**\"",
            );
            None
        }
        Some(source) => Pattern::parse(&source)
            .map_err(|error| {
                problems.error(section.path_of("path"), format!("{source:?}: {error}"));
            })
            .ok(),
    };
    let methods = methods(&mut section, problems);
    let mcp = mcp_condition(&mut section, problems);
    let methods = match (methods, &mcp) {
        (methods, None) => methods,
        (methods, Some(_)) => {
            let post = Methods::Only(vec!["POST".to_owned()]);
            if methods != Methods::Remaining && methods != post {
                problems.error(
                    section.path_of("methods"),
                    "makes no sense beside mcp, whose messages come by POST: remove it",
                );
            }
            post
        }
    };
    let shadow = section.boolean("shadow", problems).unwrap_or(false);
    let word = section
        .choice(
            "access",
            problems,
            &[
                ("authenticated", Word::Authenticated),
                ("public", Word::Public),
                ("deny", Word::Deny),
            ],
        )
        .unwrap_or(Word::Authenticated);
    if word != Word::Authenticated && section.has("require") {
        problems.error(
            section.path_of("require"),
            "makes no sense beside access = \"public\" or \"deny\": remove one of them",
        );
    }
    let require = section.section("require", problems).of_kind(CONDITION);
    let require = condition(require, names, problems);
    let access = match word {
        Word::Authenticated => Access::Authenticated(require),
        Word::Deny => Access::Deny,
        Word::Public => Access::Public,
    };
    section.finish(problems);
    Some(Route {
        pattern: pattern?,
        methods,
        mcp,
        access,
        shadow,
    })
}

/// Reads `mcp` of a route: which messages it is about.
fn mcp_condition(route: &mut Section, problems: &mut Problems) -> Option<McpCondition> {
    let is_there = route.has("mcp");
    let told = problems.errors.len();
    let mut section = route.section("mcp", problems);
    let is_table = problems.errors.len() == told;
    let path = section.path_of("");
    let given = section.count_alternatives(["method", "tool"].into_iter());
    let method = name_patterns(&mut section, "method", problems).map(McpCondition::Method);
    let tool = name_patterns(&mut section, "tool", problems).map(McpCondition::Tool);
    section.finish(problems);
    if is_there && is_table && given != 1 {
        problems.error(
            path.trim_end_matches('.'),
            "needs exactly one of method and tool: a tool is always called by tools/call",
        );
    }
    // A route that lost its condition would take messages that it is not about.
    tool.or(method)
        .or_else(|| is_there.then(|| McpCondition::Method(Vec::new())))
}

fn name_patterns(
    section: &mut Section,
    key: &'static str,
    problems: &mut Problems,
) -> Option<Vec<NamePattern>> {
    let path = section.path_of(key);
    let list = section.strings_of(key, Form::Some(NAME_PATTERN), problems)?;
    if list.is_empty() {
        problems.error(&path, "is empty, so the route would never match");
    }
    let mut patterns: Vec<NamePattern> = Vec::new();
    for text in list {
        match NamePattern::parse(&text) {
            Ok(pattern) if patterns.contains(&pattern) => {
                problems.error(&path, format!("names {text:?} twice"));
            }
            Ok(pattern) => patterns.push(pattern),
            Err(error) => problems.error(&path, format!("{text:?}: {error}")),
        }
    }
    Some(patterns)
}

fn methods(section: &mut Section, problems: &mut Problems) -> Methods {
    let path = section.path_of("methods");
    match section.strings_of("methods", Form::Some(METHOD), problems) {
        None => Methods::Remaining,
        Some(list) => {
            if list.is_empty() {
                problems.error(
                    &path,
                    "is empty, so the route would never match: remove the key to take all methods",
                );
            }
            let mut methods: Vec<String> = Vec::new();
            for method in list {
                if methods.contains(&method) {
                    problems.error(&path, format!("names {method:?} twice"));
                    continue;
                }
                if http::Method::from_bytes(method.as_bytes()).is_err() {
                    problems.error(&path, format!("{method:?} is not an HTTP method"));
                } else if method != method.to_ascii_uppercase() {
                    problems.error(&path, format!("methods are case-sensitive, so {method:?} would never match: write {:?}", method.to_ascii_uppercase()));
                }
                methods.push(method);
            }
            Methods::Only(methods)
        }
    }
}

/// Reads a condition table: all its keys must hold.
fn condition(mut section: Section, names: &ClaimNames, problems: &mut Problems) -> Condition {
    use ListMode::{All, Any};
    let mut parts = Vec::new();
    for (key, mode) in [("scopes", All), ("any_scope", Any)] {
        parts.extend(
            list(&mut section, key, problems).map(|needed| Condition::Scopes(mode, needed)),
        );
    }
    for (key, mode) in [("permissions", All), ("any_permission", Any)] {
        let claim = ClaimPath::name(&names.permissions);
        parts.extend(
            list(&mut section, key, problems).map(|needed| Condition::List(claim, mode, needed)),
        );
    }
    for (key, mode) in [("roles", All), ("any_role", Any)] {
        let path = section.path_of(key);
        let Some(needed) = list(&mut section, key, problems) else {
            continue;
        };
        match &names.roles {
            Some(claim) => parts.push(Condition::Roles(ClaimPath::name(claim), mode, needed)),
            None => problems.error(path, "needs auth0.roles_claim, the claim that an Auth0 Action puts roles in, e.g. \"https://your-app.com/roles\""),
        }
    }
    if let Some(accepted) = list(&mut section, "organizations", problems) {
        for name in accepted.iter().filter(|name| !name.starts_with("org_")) {
            problems.warning(section.path_of("organizations"), format!("{name:?} looks like an organization's name; org_id holds its id, such as \"org_…\""));
        }
        parts.push(Condition::Organizations(accepted));
    }
    parts.extend(list(&mut section, "clients", problems).map(Condition::Clients));
    parts.extend(list(&mut section, "subjects", problems).map(Condition::Subjects));
    let kinds = SubjectKind::ALL.map(|kind| (kind.name(), kind));
    parts.extend(
        section
            .choice("subject_kind", problems, &kinds)
            .map(Condition::SubjectKind),
    );
    for claim in section.sections("claims", problems) {
        let claim = claim.of_kind("claim_test");
        parts.extend(claim_condition(claim, problems));
    }
    parts.extend(combined(&mut section, "any_of", names, problems).map(Condition::Any));
    parts.extend(combined(&mut section, "all_of", names, problems).map(Condition::All));
    if section.has("not") {
        let inner = section.section("not", problems);
        parts.push(Condition::Not(Box::new(nested(inner, names, problems))));
    }
    section.finish(problems);
    match parts.len() {
        1 => parts.pop().unwrap_or(Condition::All(Vec::new())),
        _ => Condition::All(parts),
    }
}

/// Reads `any_of` or `all_of`: a list of conditions that must not be empty.
fn combined(
    section: &mut Section,
    key: &'static str,
    names: &ClaimNames,
    problems: &mut Problems,
) -> Option<Vec<Condition>> {
    if !section.has(key) {
        return None;
    }
    let path = section.path_of(key);
    let inner: Vec<Condition> = section
        .sections_of(key, Form::SomeTables, problems)
        .into_iter()
        .map(|part| nested(part, names, problems))
        .collect();
    if inner.is_empty() {
        problems.error(path, "is empty");
    }
    Some(inner)
}

/// A condition inside another one. An empty table there holds always, which nobody means.
fn nested(section: Section, names: &ClaimNames, problems: &mut Problems) -> Condition {
    let path = section.path_of("");
    let inner = condition(section.of_kind(CONDITION), names, problems);
    if inner == Condition::All(Vec::new()) {
        problems.error(path.trim_end_matches('.'), "is an empty condition");
    }
    inner
}

/// A list that must not be empty: an empty one would hold for everybody, or for nobody.
fn list(section: &mut Section, key: &'static str, problems: &mut Problems) -> Option<Vec<String>> {
    let path = section.path_of(key);
    let one_word = matches!(key, "scopes" | "any_scope");
    let form = Form::Some(if one_word { WORD } else { TRIMMED });
    let list = section.strings_of(key, form, problems)?;
    if list.is_empty() {
        problems.error(
            &path,
            "is empty: name at least one value, or remove the key",
        );
    }
    if list
        .iter()
        .any(|value| value.is_empty() || value.trim() != value)
    {
        problems.error(&path, "holds an empty value, or one with spaces around it");
    }
    if one_word && list.iter().any(|value| value.contains(' ')) {
        problems.error(
            &path,
            "holds a value with a space: write one scope per string",
        );
    }
    Some(list)
}

/// Reads `{ claim = …, OPERATOR = … }`, with exactly one operator.
fn claim_condition(mut section: Section, problems: &mut Problems) -> Option<Condition> {
    let path = section.path_of("claim");
    if !section.has_required("claim") {
        problems.error(
            &path,
            "names the claim: a literal name, or a list of names for a claim inside another",
        );
    }
    let claim = section.take("claim", Form::ClaimPath);
    let claim = claim.and_then(|value| claim_path(&path, value, problems));
    let given = section.count_alternatives(OPERATORS.iter().map(|(name, ..)| *name));
    let mut tests = Vec::new();
    for (key, form, test) in OPERATORS {
        let path = section.path_of(key);
        if let Some(value) = section.take(key, form) {
            match test(value) {
                Ok(test) => tests.push(test),
                Err(form) => problems.error(path, format!("needs {form}")),
            }
        }
    }
    let path = section.path_of("");
    section.finish(problems);
    if given != 1 {
        let names: Vec<&str> = OPERATORS.iter().map(|(name, ..)| *name).collect();
        problems.error(
            path.trim_end_matches('.'),
            format!("needs exactly one of {}", names.join(", ")),
        );
    }
    Some(Condition::Claim(claim?, tests.pop()?))
}

/// Reads a literal claim name or an array path, and warns of names that Auth0 drops.
pub(super) fn claim_path(path: &str, value: Value, problems: &mut Problems) -> Option<ClaimPath> {
    let is_name = value.is_str();
    let names = strings(path, value, problems)?;
    if names.is_empty() || names.iter().any(String::is_empty) {
        problems.error(path, "holds an empty name, or none at all");
        return None;
    }
    match names.first() {
        Some(name) if is_name => warn_of_restricted_claim(path, name, problems),
        _ => {}
    }
    ClaimPath::nested(names)
}

/// Auth0 drops these names silently when an Action sets them un-namespaced.
pub(super) fn warn_of_restricted_claim(path: &str, name: &str, problems: &mut Problems) {
    if matches!(name, "roles" | "groups") {
        problems.warning(path, format!("Auth0 silently drops a claim named {name:?}: let the Action set \"https://your-app.com/{name}\" and name that here"));
    }
}

type Operator = fn(Value) -> Result<ClaimTest, &'static str>;

const SCALAR: &str = "a string, a number or a boolean";
const SCALARS: &str = "a list of strings, of numbers or of booleans, all of one type and not empty";

const OPERATORS: [(&str, Form, Operator); 13] = [
    ("equals", Form::Scalar, |value| {
        scalar(&value)
            .map(|one| ClaimTest::OneOf(vec![one]))
            .ok_or(SCALAR)
    }),
    ("one_of", Form::Scalars, |value| {
        scalars(&value).map(ClaimTest::OneOf).ok_or(SCALARS)
    }),
    ("contains", Form::Scalar, |value| {
        scalar(&value)
            .map(|one| ClaimTest::Contains(ListMode::All, vec![one]))
            .ok_or(SCALAR)
    }),
    ("contains_any", Form::Scalars, |value| {
        scalars(&value)
            .map(|list| ClaimTest::Contains(ListMode::Any, list))
            .ok_or(SCALARS)
    }),
    ("contains_all", Form::Scalars, |value| {
        scalars(&value)
            .map(|list| ClaimTest::Contains(ListMode::All, list))
            .ok_or(SCALARS)
    }),
    ("starts_with", Form::NotEmpty, |value| {
        text(value).map(ClaimTest::StartsWith)
    }),
    ("ends_with", Form::NotEmpty, |value| {
        text(value).map(ClaimTest::EndsWith)
    }),
    ("exists", Form::True, |value| {
        only_true(&value).map(|()| ClaimTest::Exists)
    }),
    ("absent", Form::True, |value| {
        only_true(&value).map(|()| ClaimTest::Absent)
    }),
    ("lt", Form::Number, |value| {
        number(&value).map(ClaimTest::LessThan)
    }),
    ("le", Form::Number, |value| {
        number(&value).map(ClaimTest::AtMost)
    }),
    ("gt", Form::Number, |value| {
        number(&value).map(ClaimTest::GreaterThan)
    }),
    ("ge", Form::Number, |value| {
        number(&value).map(ClaimTest::AtLeast)
    }),
];

fn scalar(value: &Value) -> Option<Scalar> {
    match value {
        Value::String(text) => Some(Scalar::String(text.clone())),
        Value::Boolean(truth) => Some(Scalar::Bool(*truth)),
        _ => number(value).ok().map(Scalar::Number),
    }
}

fn scalars(value: &Value) -> Option<Vec<Scalar>> {
    let items = value.as_array().filter(|items| !items.is_empty())?;
    let one_type = items.windows(2).all(|pair| match pair {
        [one, two] => type_name(one) == type_name(two),
        _ => true,
    });
    items
        .iter()
        .map(scalar)
        .collect::<Option<_>>()
        .filter(|_| one_type)
}

fn number(value: &Value) -> Result<Number, &'static str> {
    match value {
        Value::Integer(number) => Some(Number::from(*number)),
        Value::Float(number) => Number::from_f64(*number),
        _ => None,
    }
    .ok_or("a number")
}

/// An empty prefix or suffix would hold for every string.
fn text(value: Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text),
        _ => Err("a string that is not empty"),
    }
}

fn only_true(value: &Value) -> Result<(), &'static str> {
    match value {
        Value::Boolean(true) => Ok(()),
        _ => Err("true; for the opposite there is the other one of exists and absent"),
    }
}
