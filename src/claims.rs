//! The claims of a token: a JSON object that is looked into by literal names.

use std::fmt;

use serde_json::{Map, Value};

/// A claims set (RFC 7519 §4). It only holds values; who may trust them is said by the type around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims(Map<String, Value>);

/// Which claim: a literal name, or the names on the way into nested objects.
///
/// Auth0's custom claims are URLs (`https://your-app.com/roles`), so a name is never split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath {
    name: String,
    inner: Vec<String>,
}

/// A claim is there, but not of the type that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongType {
    /// The claim.
    pub claim: String,
    /// The type that was needed.
    pub expected: &'static str,
    /// The type that was there.
    pub found: &'static str,
}

impl Claims {
    /// Wraps an object.
    #[must_use]
    pub const fn new(members: Map<String, Value>) -> Self {
        Self(members)
    }

    /// The claim with exactly this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The claim at this path; `None` when any part of the way is missing.
    ///
    /// # Errors
    ///
    /// [`WrongType`] when the way leads through something that is not an object.
    pub fn lookup(&self, path: &ClaimPath) -> Result<Option<&Value>, WrongType> {
        let mut value = self.0.get(&path.name);
        for name in &path.inner {
            value = match value {
                None => return Ok(None),
                Some(Value::Object(members)) => members.get(name),
                Some(other) => return Err(WrongType::new(path, "an object", other)),
            };
        }
        Ok(value)
    }

    /// The claim at this path if it is a string.
    ///
    /// # Errors
    ///
    /// [`WrongType`] when it is something else.
    pub fn string(&self, name: &str) -> Result<Option<&str>, WrongType> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(WrongType {
                claim: name.to_owned(),
                expected: "a string",
                found: type_name(other),
            }),
        }
    }

    /// The names of all claims.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// A copy in which the claim `name` has this value.
    #[must_use]
    pub fn with(&self, name: &str, value: Value) -> Self {
        let mut members = self.0.clone();
        members.insert(name.to_owned(), value);
        Self(members)
    }
}

impl ClaimPath {
    /// A claim by its literal name.
    #[must_use]
    pub fn name(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            inner: Vec::new(),
        }
    }

    /// A claim inside nested objects; `None` for an empty path.
    #[must_use]
    pub fn nested(names: impl IntoIterator<Item = String>) -> Option<Self> {
        let mut names = names.into_iter();
        Some(Self {
            name: names.next()?,
            inner: names.collect(),
        })
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for name in &self.inner {
            write!(f, " → {name}")?;
        }
        Ok(())
    }
}

impl WrongType {
    /// The claim at `path` was `found` where `expected` was needed.
    #[must_use]
    pub fn new(path: &ClaimPath, expected: &'static str, found: &Value) -> Self {
        Self {
            claim: path.to_string(),
            expected,
            found: type_name(found),
        }
    }
}

impl fmt::Display for WrongType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            claim,
            expected,
            found,
        } = self;
        write!(f, "claim {claim:?} is {found}, not {expected}")
    }
}

impl std::error::Error for WrongType {}

/// The JSON type of a value, with its article.
#[must_use]
pub const fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::{ClaimPath, Claims};
    use serde_json::{Value, json};

    fn claims(value: Value) -> Claims {
        let Value::Object(members) = value else {
            panic!("not an object: {value}");
        };
        Claims::new(members)
    }

    #[test]
    fn names_are_literal_and_paths_are_explicit() {
        let claims = claims(json!({
            "https://your-app.com/roles": ["admin"],
            "act": {"sub": "agent", "act": {"sub": "inner"}},
            "act.sub": "a name with a dot",
        }));
        let path = |names: &[&str]| {
            ClaimPath::nested(names.iter().map(|name| (*name).to_owned())).expect("not empty")
        };
        let found = |path: &ClaimPath| claims.lookup(path).expect("right types").cloned();
        assert_eq!(
            found(&ClaimPath::name("https://your-app.com/roles")),
            Some(json!(["admin"]))
        );
        assert_eq!(
            found(&ClaimPath::name("act.sub")),
            Some(json!("a name with a dot"))
        );
        assert_eq!(found(&path(&["act", "sub"])), Some(json!("agent")));
        assert_eq!(found(&path(&["act", "act", "sub"])), Some(json!("inner")));
        assert_eq!(found(&path(&["act", "act", "act", "sub"])), None);
        assert_eq!(found(&path(&["no", "sub"])), None);
        assert!(claims.lookup(&path(&["act", "sub", "more"])).is_err());
        assert_eq!(ClaimPath::nested([]), None);
    }
}
