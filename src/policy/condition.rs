//! Conditions on claims.
//!
//! A claim that is missing fails its condition. A claim of the wrong type refuses the request,
//! whatever stands around the condition: so every part is always evaluated, and nothing
//! short-circuits past a type error.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Number, Value};

use crate::claims::{ClaimPath, Claims, WrongType};
use crate::token::SubjectKind;

/// Something that a caller's claims must satisfy.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Every one of these holds. An empty list holds.
    All(Vec<Self>),
    /// At least one of these holds.
    Any(Vec<Self>),
    /// This does not hold.
    Not(Box<Self>),
    /// The `scope` claim, split at spaces (RFC 8693 §4.2), has these.
    Scopes(ListMode, Vec<String>),
    /// An array of strings, such as Auth0's `permissions`, has these.
    List(ClaimPath, ListMode, Vec<String>),
    /// The roles claim has these. Beside an array, a string without spaces counts as one role.
    Roles(ClaimPath, ListMode, Vec<String>),
    /// `org_id` is one of these.
    Organizations(Vec<String>),
    /// `azp`, or `client_id` in the RFC 9068 dialects, is one of these.
    Clients(Vec<String>),
    /// `sub` is one of these.
    Subjects(Vec<String>),
    /// The subject is of this kind.
    SubjectKind(SubjectKind),
    /// The claim passes the test.
    Claim(ClaimPath, ClaimTest),
}

/// Whether all or any of the listed values are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListMode {
    /// Every listed value must be there.
    All,
    /// One listed value is enough.
    Any,
}

/// A test on one claim.
#[derive(Debug, Clone, PartialEq)]
pub enum ClaimTest {
    /// The claim is there.
    Exists,
    /// The claim is not there.
    Absent,
    /// The claim equals one of these, which are all of one type.
    OneOf(Vec<Scalar>),
    /// An array, or a string split at spaces, has these.
    Contains(ListMode, Vec<Scalar>),
    /// A string that starts with this.
    StartsWith(String),
    /// A string that ends with this.
    EndsWith(String),
    /// A number below this.
    LessThan(Number),
    /// A number of at most this.
    AtMost(Number),
    /// A number above this.
    GreaterThan(Number),
    /// A number of at least this.
    AtLeast(Number),
}

/// A value that a claim is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// A number; 1 and 1.0 are equal.
    Number(Number),
    /// A string, compared code point for code point.
    String(String),
}

impl Condition {
    /// Whether the claims satisfy the condition.
    ///
    /// # Errors
    ///
    /// [`WrongType`] when any claim that the condition looks at is of the wrong type.
    pub fn holds(&self, claims: &Claims) -> Result<bool, WrongType> {
        match self {
            Self::All(parts) => every(parts, claims),
            Self::Any(parts) => some(parts, claims),
            Self::Not(part) => part.holds(claims).map(|holds| !holds),
            Self::Scopes(mode, needed) => Ok(match claims.string("scope")? {
                None => false,
                Some(scope) => mode.satisfied(needed, |one| scope.split(' ').any(|s| s == one)),
            }),
            Self::List(path, mode, needed) => list_holds(claims, path, *mode, needed, false),
            Self::Roles(path, mode, needed) => list_holds(claims, path, *mode, needed, true),
            Self::Organizations(accepted) => string_is_one_of(claims, "org_id", accepted),
            Self::Clients(accepted) => match claims.get("azp") {
                Some(_) => string_is_one_of(claims, "azp", accepted),
                None => string_is_one_of(claims, "client_id", accepted),
            },
            Self::Subjects(accepted) => string_is_one_of(claims, "sub", accepted),
            Self::SubjectKind(kind) => Ok(SubjectKind::of(claims)? == *kind),
            Self::Claim(path, test) => test.holds(path, claims.lookup(path)?),
        }
    }

    /// The scopes that, if the token had them, would make the condition hold; `None` when no scope
    /// could. Scopes that the token already has are named too: a client asks for all of them at once.
    ///
    /// This is a proposal: the caller checks it with [`Condition::holds`].
    #[must_use]
    pub fn scopes_to_hold(&self, claims: &Claims) -> Option<BTreeSet<String>> {
        match self {
            Self::All(parts) => parts.iter().try_fold(BTreeSet::new(), |mut all, part| {
                all.extend(part.scopes_to_hold(claims)?);
                Some(all)
            }),
            Self::Any(parts) => {
                // What holds already is not to be replaced by something else.
                let held = parts.iter().find(|part| part.holds(claims) == Ok(true));
                held.and_then(|part| part.scopes_to_hold(claims))
                    .or_else(|| parts.iter().find_map(|part| part.scopes_to_hold(claims)))
            }
            Self::Scopes(ListMode::All, needed) => Some(needed.iter().cloned().collect()),
            Self::Scopes(ListMode::Any, needed) => {
                let held = claims.string("scope").ok().flatten().unwrap_or_default();
                needed
                    .iter()
                    .find(|one| held.split(' ').any(|s| s == one.as_str()))
                    .or_else(|| needed.first())
                    .map(|one| BTreeSet::from([one.clone()]))
            }
            Self::Not(_)
            | Self::List(..)
            | Self::Roles(..)
            | Self::Organizations(_)
            | Self::Clients(_)
            | Self::Subjects(_)
            | Self::SubjectKind(_)
            | Self::Claim(..) => self
                .holds(claims)
                .is_ok_and(|holds| holds)
                .then(BTreeSet::new),
        }
    }

    /// What it asks of scopes alone, as far as a token that nobody has seen can be told what to have;
    /// `None` when scopes play no part. What stands under `not` is nothing to ask for.
    pub(super) fn scope_part(&self) -> Option<Self> {
        let some = |parts: &[Self]| {
            let parts: Vec<Self> = parts.iter().filter_map(Self::scope_part).collect();
            (!parts.is_empty()).then_some(parts)
        };
        match self {
            Self::All(parts) => some(parts).map(Self::All),
            Self::Any(parts) => some(parts).map(Self::Any),
            Self::Scopes(..) => Some(self.clone()),
            Self::Not(_)
            | Self::List(..)
            | Self::Roles(..)
            | Self::Organizations(_)
            | Self::Clients(_)
            | Self::Subjects(_)
            | Self::SubjectKind(_)
            | Self::Claim(..) => None,
        }
    }

    /// Adds every scope and permission that may help somebody to satisfy the condition. A permission of
    /// an API is a scope that clients can ask for.
    pub(super) fn add_scopes(&self, scopes: &mut BTreeSet<String>) {
        match self {
            Self::All(parts) | Self::Any(parts) => {
                for part in parts {
                    part.add_scopes(scopes);
                }
            }
            Self::Scopes(_, named) | Self::List(_, _, named) => {
                scopes.extend(named.iter().cloned());
            }
            Self::Not(_)
            | Self::Roles(..)
            | Self::Organizations(_)
            | Self::Clients(_)
            | Self::Subjects(_)
            | Self::SubjectKind(_)
            | Self::Claim(..) => {}
        }
    }

    /// What the token has in the claim that the condition is about, for the log; `None` where it is about several.
    #[must_use]
    pub fn found(&self, claims: &Claims) -> Option<String> {
        let shown = |value: Option<&Value>| {
            value.map_or_else(|| "no such claim".to_owned(), ToString::to_string)
        };
        Some(match self {
            Self::All(_) | Self::Any(_) | Self::Not(_) => return None,
            Self::Scopes(..) => shown(claims.get("scope")),
            Self::List(path, ..) | Self::Roles(path, ..) | Self::Claim(path, _) => {
                shown(claims.lookup(path).ok()?)
            }
            Self::Organizations(_) => shown(claims.get("org_id")),
            Self::Clients(_) => shown(claims.get("azp").or_else(|| claims.get("client_id"))),
            Self::Subjects(_) => shown(claims.get("sub")),
            Self::SubjectKind(_) => SubjectKind::of(claims).ok()?.name().to_owned(),
        })
    }

    /// The innermost part that fails, for the log.
    #[must_use]
    pub fn first_failing(&self, claims: &Claims) -> Option<&Self> {
        if self.holds(claims).is_ok_and(|holds| holds) {
            return None;
        }
        match self {
            Self::All(parts) => parts.iter().find_map(|part| part.first_failing(claims)),
            _ => Some(self),
        }
    }
}

fn every(parts: &[Condition], claims: &Claims) -> Result<bool, WrongType> {
    let mut all = true;
    for part in parts {
        all &= part.holds(claims)?;
    }
    Ok(all)
}

fn some(parts: &[Condition], claims: &Claims) -> Result<bool, WrongType> {
    let mut any = false;
    for part in parts {
        any |= part.holds(claims)?;
    }
    Ok(any)
}

fn string_is_one_of(claims: &Claims, name: &str, accepted: &[String]) -> Result<bool, WrongType> {
    Ok(claims
        .string(name)?
        .is_some_and(|found| accepted.iter().any(|one| one == found)))
}

fn list_holds(
    claims: &Claims,
    path: &ClaimPath,
    mode: ListMode,
    needed: &[String],
    one_name_is_a_list: bool,
) -> Result<bool, WrongType> {
    match claims.lookup(path)? {
        None => Ok(false),
        Some(Value::Array(items)) => {
            if let Some(odd) = items.iter().find(|item| !item.is_string()) {
                return Err(WrongType::new(path, "an array of strings", odd));
            }
            Ok(mode.satisfied(needed, |one| items.iter().any(|item| item == one)))
        }
        // A name with a space could be one role or two; guessing would hand out the second.
        Some(Value::String(name)) if one_name_is_a_list && !name.contains(' ') => {
            Ok(mode.satisfied(needed, |one| one == name))
        }
        Some(other) => Err(WrongType::new(path, "an array of strings", other)),
    }
}

impl ListMode {
    fn satisfied(self, needed: &[String], has: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::All => needed.iter().all(|one| has(one)),
            Self::Any => needed.iter().any(|one| has(one)),
        }
    }
}

impl ClaimTest {
    fn holds(&self, path: &ClaimPath, found: Option<&Value>) -> Result<bool, WrongType> {
        let Some(value) = found else {
            return Ok(matches!(self, Self::Absent));
        };
        let wrong = |expected| WrongType::new(path, expected, value);
        if value.is_null() {
            // Present and absent at once, depending on who reads it.
            return Err(wrong("a value"));
        }
        match self {
            Self::Exists => Ok(true),
            Self::Absent => Ok(false),
            Self::OneOf(accepted) => {
                let mut any = false;
                for one in accepted {
                    any |= one.equals(value).ok_or_else(|| wrong(one.type_name()))?;
                }
                Ok(any)
            }
            Self::Contains(mode, needed) => contains(path, *mode, needed, value),
            Self::StartsWith(prefix) => match value {
                Value::String(text) => Ok(text.starts_with(prefix.as_str())),
                _ => Err(wrong("a string")),
            },
            Self::EndsWith(suffix) => match value {
                Value::String(text) => Ok(text.ends_with(suffix.as_str())),
                _ => Err(wrong("a string")),
            },
            Self::LessThan(limit) => compare(value, limit)
                .map(std::cmp::Ordering::is_lt)
                .ok_or_else(|| wrong("a number")),
            Self::AtMost(limit) => compare(value, limit)
                .map(std::cmp::Ordering::is_le)
                .ok_or_else(|| wrong("a number")),
            Self::GreaterThan(limit) => compare(value, limit)
                .map(std::cmp::Ordering::is_gt)
                .ok_or_else(|| wrong("a number")),
            Self::AtLeast(limit) => compare(value, limit)
                .map(std::cmp::Ordering::is_ge)
                .ok_or_else(|| wrong("a number")),
        }
    }
}

/// A string counts as a list of words, as Auth0's `claimIncludes` has it; never as a substring.
fn contains(
    path: &ClaimPath,
    mode: ListMode,
    needed: &[Scalar],
    value: &Value,
) -> Result<bool, WrongType> {
    let words: Vec<Value>;
    let items = match value {
        Value::Array(items) => items,
        Value::String(text) => {
            words = text.split(' ').map(Value::from).collect();
            &words
        }
        other => return Err(WrongType::new(path, "an array or a string", other)),
    };
    let mut all = true;
    let mut any = false;
    for one in needed {
        let mut has = false;
        for item in items {
            has |= one
                .equals(item)
                .ok_or_else(|| WrongType::new(path, one.type_name(), item))?;
        }
        all &= has;
        any |= has;
    }
    Ok(match mode {
        ListMode::All => all,
        ListMode::Any => any,
    })
}

impl fmt::Display for ClaimTest {
    /// The operator as configuration names it, with what it compares with.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str("exists"),
            Self::Absent => f.write_str("absent"),
            Self::OneOf(accepted) => write!(f, "one_of {}", DisplayList(accepted)),
            Self::Contains(ListMode::All, needed) => {
                write!(f, "contains_all {}", DisplayList(needed))
            }
            Self::Contains(ListMode::Any, needed) => {
                write!(f, "contains_any {}", DisplayList(needed))
            }
            Self::StartsWith(prefix) => write!(f, "starts_with {prefix:?}"),
            Self::EndsWith(suffix) => write!(f, "ends_with {suffix:?}"),
            Self::LessThan(limit) => write!(f, "lt {limit}"),
            Self::AtMost(limit) => write!(f, "le {limit}"),
            Self::GreaterThan(limit) => write!(f, "gt {limit}"),
            Self::AtLeast(limit) => write!(f, "ge {limit}"),
        }
    }
}

struct DisplayList<'s>(&'s [Scalar]);

impl fmt::Display for DisplayList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (place, one) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            match one {
                Scalar::Bool(truth) => write!(f, "{separator}{truth}")?,
                Scalar::Number(number) => write!(f, "{separator}{number}")?,
                Scalar::String(text) => write!(f, "{separator}{text:?}")?,
            }
        }
        f.write_str("]")
    }
}

impl Scalar {
    /// Whether a claim equals this; `None` when it is of another type.
    fn equals(&self, value: &Value) -> Option<bool> {
        match (self, value) {
            (Self::Bool(expected), Value::Bool(found)) => Some(expected == found),
            (Self::Number(expected), Value::Number(_)) => {
                compare(value, expected).map(std::cmp::Ordering::is_eq)
            }
            (Self::String(expected), Value::String(found)) => Some(expected == found),
            _ => None,
        }
    }

    const fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
        }
    }
}

/// Compares exactly where both are integers, else as IEEE doubles; `None` when `value` is no number.
fn compare(value: &Value, limit: &Number) -> Option<std::cmp::Ordering> {
    let Value::Number(found) = value else {
        return None;
    };
    match (found.as_i128(), limit.as_i128()) {
        (Some(found), Some(limit)) => Some(found.cmp(&limit)),
        _ => found.as_f64()?.partial_cmp(&limit.as_f64()?),
    }
}

impl fmt::Display for Condition {
    /// Names the condition as configuration does, with what it asks for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(_) => f.write_str("all_of"),
            Self::Any(_) => f.write_str("any_of"),
            Self::Not(part) => write!(f, "not {part}"),
            Self::Scopes(ListMode::All, needed) => write!(f, "scopes {needed:?}"),
            Self::Scopes(ListMode::Any, needed) => write!(f, "any_scope {needed:?}"),
            Self::List(path, ListMode::All, needed) => write!(f, "permissions ({path}) {needed:?}"),
            Self::List(path, ListMode::Any, needed) => {
                write!(f, "any_permission ({path}) {needed:?}")
            }
            Self::Roles(path, ListMode::All, needed) => write!(f, "roles ({path}) {needed:?}"),
            Self::Roles(path, ListMode::Any, needed) => write!(f, "any_role ({path}) {needed:?}"),
            Self::Organizations(accepted) => write!(f, "organizations {accepted:?}"),
            Self::Clients(accepted) => write!(f, "clients {accepted:?}"),
            Self::Subjects(accepted) => write!(f, "subjects {accepted:?}"),
            Self::SubjectKind(kind) => write!(f, "subject_kind {}", kind.name()),
            Self::Claim(path, test) => write!(f, "claim \"{path}\" {test}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ClaimTest, Condition, ListMode, Scalar};
    use crate::claims::{ClaimPath, Claims};
    use crate::token::SubjectKind;
    use serde_json::{Number, Value, json};
    use std::collections::BTreeSet;

    const ROLES: &str = "https://your-app.com/roles";

    fn claims(value: &Value) -> Claims {
        Claims::new(value.as_object().expect("an object").clone())
    }

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    fn text(value: &str) -> Scalar {
        Scalar::String(value.to_owned())
    }

    fn scopes(mode: ListMode, needed: &[&str]) -> Condition {
        Condition::Scopes(mode, strings(needed))
    }

    fn roles(mode: ListMode, needed: &[&str]) -> Condition {
        Condition::Roles(ClaimPath::name(ROLES), mode, strings(needed))
    }

    fn permissions(mode: ListMode, needed: &[&str]) -> Condition {
        Condition::List(ClaimPath::name("permissions"), mode, strings(needed))
    }

    fn claim(name: &str, test: ClaimTest) -> Condition {
        Condition::Claim(ClaimPath::name(name), test)
    }

    /// What a condition says: it holds, it fails, or a claim has the wrong type.
    fn says(condition: &Condition, value: &Value) -> &'static str {
        match condition.holds(&claims(value)) {
            Ok(true) => "holds",
            Ok(false) => "fails",
            Err(_) => "wrong type",
        }
    }

    #[test]
    fn each_condition_against_each_kind_of_claim() {
        use ListMode::{All, Any};
        for (condition, value, expected) in [
            (scopes(All, &["a", "b"]), json!({"scope":"b c a"}), "holds"),
            (scopes(All, &["a", "b"]), json!({"scope":"a"}), "fails"),
            (
                scopes(All, &["read"]),
                json!({"scope":"read:agents"}),
                "fails",
            ),
            (scopes(All, &["a"]), json!({}), "fails"),
            (scopes(All, &["a"]), json!({"scope":["a"]}), "wrong type"),
            (scopes(All, &["a"]), json!({"scope":null}), "wrong type"),
            (scopes(Any, &["a", "b"]), json!({"scope":"b"}), "holds"),
            (scopes(Any, &["a", "b"]), json!({"scope":""}), "fails"),
            (
                permissions(All, &["x"]),
                json!({"permissions":["y","x"]}),
                "holds",
            ),
            (permissions(All, &["x"]), json!({"permissions":[]}), "fails"),
            (
                permissions(All, &["x"]),
                json!({"permissions":"x"}),
                "wrong type",
            ),
            (
                permissions(All, &["x"]),
                json!({"permissions":["x",1]}),
                "wrong type",
            ),
            (
                permissions(All, &["x"]),
                json!({"permissions":{"x":true}}),
                "wrong type",
            ),
            (
                permissions(Any, &["x", "y"]),
                json!({"permissions":["y"]}),
                "holds",
            ),
            (
                roles(Any, &["admin", "user"]),
                json!({ROLES:["user"]}),
                "holds",
            ),
            (roles(Any, &["admin"]), json!({ROLES:"admin"}), "holds"),
            (
                roles(Any, &["Admin"]),
                json!({ROLES:"Super Admin"}),
                "wrong type",
            ),
            (
                roles(Any, &["Admin"]),
                json!({ROLES:["Super Admin"]}),
                "fails",
            ),
            (
                roles(Any, &["admin"]),
                json!({"https://your-app":{"com/roles":["admin"]}}),
                "fails",
            ),
            (roles(Any, &["admin"]), json!({ROLES:7}), "wrong type"),
            (
                Condition::Organizations(strings(&["org_1"])),
                json!({"org_id":"org_1"}),
                "holds",
            ),
            (
                Condition::Organizations(strings(&["org_1"])),
                json!({"org_id":"org_2"}),
                "fails",
            ),
            (
                Condition::Organizations(strings(&["org_1"])),
                json!({"org_id":["org_1"]}),
                "wrong type",
            ),
            (
                Condition::Clients(strings(&["c"])),
                json!({"azp":"c"}),
                "holds",
            ),
            (
                Condition::Clients(strings(&["c"])),
                json!({"client_id":"c"}),
                "holds",
            ),
            (
                Condition::Clients(strings(&["c"])),
                json!({"azp":"d","client_id":"c"}),
                "fails",
            ),
            (
                Condition::Clients(strings(&["c"])),
                json!({"azp":1,"client_id":"c"}),
                "wrong type",
            ),
            (
                Condition::Subjects(strings(&["s"])),
                json!({"sub":"s"}),
                "holds",
            ),
            (
                Condition::Subjects(strings(&["s"])),
                json!({"sub":"S"}),
                "fails",
            ),
            (
                Condition::SubjectKind(SubjectKind::Machine),
                json!({"sub":"abc@clients"}),
                "holds",
            ),
            (
                Condition::SubjectKind(SubjectKind::Machine),
                json!({"sub":"x","gty":"client-credentials"}),
                "holds",
            ),
            (
                Condition::SubjectKind(SubjectKind::Machine),
                json!({"sub":"samlp|me@clients"}),
                "fails",
            ),
            (
                Condition::SubjectKind(SubjectKind::User),
                json!({"sub":"auth0|1"}),
                "holds",
            ),
            (
                Condition::SubjectKind(SubjectKind::User),
                json!({"sub":"anon@1"}),
                "fails",
            ),
            (
                Condition::SubjectKind(SubjectKind::User),
                json!({"sub":"x","gty":["client-credentials"]}),
                "wrong type",
            ),
        ] {
            assert_eq!(says(&condition, &value), expected, "{condition} on {value}");
        }
    }

    #[test]
    fn each_claim_test_against_each_kind_of_claim() {
        use ListMode::{All, Any};
        let number = |n: f64| Number::from_f64(n).expect("finite");
        for (test, value, expected) in [
            (ClaimTest::Exists, json!({"c":false}), "holds"),
            (ClaimTest::Exists, json!({}), "fails"),
            (ClaimTest::Exists, json!({"c":null}), "wrong type"),
            (ClaimTest::Absent, json!({}), "holds"),
            (ClaimTest::Absent, json!({"c":0}), "fails"),
            (ClaimTest::Absent, json!({"c":null}), "wrong type"),
            (ClaimTest::OneOf(vec![text("a")]), json!({"c":"a"}), "holds"),
            (
                ClaimTest::OneOf(vec![text("a"), text("b")]),
                json!({"c":"b"}),
                "holds",
            ),
            (ClaimTest::OneOf(vec![text("a")]), json!({"c":"A"}), "fails"),
            (ClaimTest::OneOf(vec![text("a")]), json!({}), "fails"),
            (
                ClaimTest::OneOf(vec![text("1")]),
                json!({"c":1}),
                "wrong type",
            ),
            (
                ClaimTest::OneOf(vec![text("a")]),
                json!({"c":["a"]}),
                "wrong type",
            ),
            (
                ClaimTest::OneOf(vec![Scalar::Bool(true)]),
                json!({"c":true}),
                "holds",
            ),
            (
                ClaimTest::OneOf(vec![Scalar::Bool(true)]),
                json!({"c":"true"}),
                "wrong type",
            ),
            (
                ClaimTest::OneOf(vec![Scalar::Number(number(1.0))]),
                json!({"c":1}),
                "holds",
            ),
            (
                ClaimTest::Contains(All, vec![text("a"), text("b")]),
                json!({"c":["b","a"]}),
                "holds",
            ),
            (
                ClaimTest::Contains(All, vec![text("a"), text("b")]),
                json!({"c":["a"]}),
                "fails",
            ),
            (
                ClaimTest::Contains(Any, vec![text("a"), text("b")]),
                json!({"c":["a"]}),
                "holds",
            ),
            (
                ClaimTest::Contains(All, vec![text("a")]),
                json!({"c":"b a"}),
                "holds",
            ),
            (
                ClaimTest::Contains(All, vec![text("a")]),
                json!({"c":"ba"}),
                "fails",
            ),
            (
                ClaimTest::Contains(All, vec![text("a")]),
                json!({"c":["a",{"x":1}]}),
                "wrong type",
            ),
            (
                ClaimTest::Contains(All, vec![text("a")]),
                json!({"c":{"a":1}}),
                "wrong type",
            ),
            (
                ClaimTest::Contains(Any, vec![Scalar::Number(number(2.0))]),
                json!({"c":[1,2]}),
                "holds",
            ),
            (
                ClaimTest::StartsWith("a".into()),
                json!({"c":"ab"}),
                "holds",
            ),
            (
                ClaimTest::StartsWith("a".into()),
                json!({"c":"ba"}),
                "fails",
            ),
            (
                ClaimTest::StartsWith("a".into()),
                json!({"c":["ab"]}),
                "wrong type",
            ),
            (
                ClaimTest::EndsWith("@corp.com".into()),
                json!({"c":"me@corp.com"}),
                "holds",
            ),
            (
                ClaimTest::EndsWith("@corp.com".into()),
                json!({"c":"me@corp.com.evil"}),
                "fails",
            ),
            (
                ClaimTest::EndsWith("x".into()),
                json!({"c":1}),
                "wrong type",
            ),
            (ClaimTest::LessThan(5.into()), json!({"c":4}), "holds"),
            (ClaimTest::LessThan(5.into()), json!({"c":5}), "fails"),
            (
                ClaimTest::LessThan(5.into()),
                json!({"c":"4"}),
                "wrong type",
            ),
            (ClaimTest::AtMost(5.into()), json!({"c":5}), "holds"),
            (ClaimTest::AtMost(5.into()), json!({"c":5.5}), "fails"),
            (ClaimTest::GreaterThan(5.into()), json!({"c":5}), "fails"),
            (ClaimTest::GreaterThan(5.into()), json!({"c":6}), "holds"),
            (ClaimTest::AtLeast(5.into()), json!({"c":5}), "holds"),
            (ClaimTest::AtLeast(5.into()), json!({"c":-1}), "fails"),
            (
                ClaimTest::AtLeast(9_007_199_254_740_993_u64.into()),
                json!({"c":9_007_199_254_740_992_u64}),
                "fails",
            ),
        ] {
            assert_eq!(
                says(&claim("c", test.clone()), &value),
                expected,
                "{test:?} on {value}"
            );
        }
    }

    #[test]
    fn a_wrong_type_refuses_whatever_stands_around_it() {
        let wrong = claim("c", ClaimTest::StartsWith("a".into()));
        let fine = claim("d", ClaimTest::Exists);
        let broken = claim("missing", ClaimTest::Exists);
        let value = json!({"c":1,"d":1});
        for condition in [
            Condition::Not(Box::new(wrong.clone())),
            Condition::Any(vec![fine.clone(), wrong.clone()]),
            Condition::Any(vec![wrong.clone(), fine.clone()]),
            Condition::All(vec![broken.clone(), wrong.clone()]),
            Condition::Not(Box::new(Condition::All(vec![broken, wrong.clone()]))),
            Condition::Not(Box::new(Condition::Any(vec![
                fine,
                Condition::Not(Box::new(wrong)),
            ]))),
        ] {
            assert_eq!(says(&condition, &value), "wrong type", "{condition:?}");
        }
    }

    #[test]
    fn the_algebra() {
        let yes = claim("d", ClaimTest::Exists);
        let no = claim("e", ClaimTest::Exists);
        let value = json!({"d":1});
        for (condition, expected) in [
            (Condition::All(vec![]), "holds"),
            (Condition::Any(vec![]), "fails"),
            (Condition::All(vec![yes.clone(), no.clone()]), "fails"),
            (Condition::Any(vec![no.clone(), yes.clone()]), "holds"),
            (Condition::Not(Box::new(no.clone())), "holds"),
            (Condition::Not(Box::new(yes.clone())), "fails"),
        ] {
            assert_eq!(says(&condition, &value), expected, "{condition:?}");
        }
    }

    #[test]
    fn scopes_are_proposed_only_where_they_help() {
        use ListMode::{All, Any};
        let value = claims(&json!({"scope":"a","d":1}));
        let yes = claim("d", ClaimTest::Exists);
        let no = claim("e", ClaimTest::Exists);
        for (condition, expected) in [
            (scopes(All, &["a", "b"]), Some(vec!["a", "b"])),
            (scopes(Any, &["x", "a"]), Some(vec!["a"])),
            (scopes(Any, &["x", "y"]), Some(vec!["x"])),
            (
                Condition::All(vec![scopes(All, &["b"]), yes]),
                Some(vec!["b"]),
            ),
            (Condition::All(vec![scopes(All, &["b"]), no.clone()]), None),
            (
                Condition::Any(vec![scopes(All, &["x"]), scopes(All, &["a"])]),
                Some(vec!["a"]),
            ),
            (
                Condition::Any(vec![no, scopes(All, &["c"])]),
                Some(vec!["c"]),
            ),
        ] {
            let expected = expected.map(|list: Vec<&str>| {
                list.into_iter().map(str::to_owned).collect::<BTreeSet<_>>()
            });
            assert_eq!(condition.scopes_to_hold(&value), expected, "{condition:?}");
        }
    }
}
