//! `authgate schema`: the JSON Schema of the configuration file.
//!
//! The reader notes of each table which keys it asked for and in what form. To describe the whole file, a
//! probe with one of every table is read, and the notes are written down as a schema. What is said of a key,
//! and its default, come from `config/reference.toml`, which tests hold to the code.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::environment::Environment;
use super::reader::{Problems, Section};
use super::sources::{Overrides, Sources};

/// The form of a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Form {
    /// Nobody has asked for the value yet, only whether it is there.
    Unknown,
    /// Any text.
    Text,
    /// A text that this regular expression finds something in. JSON Schema takes it as ECMA-262 does.
    Pattern(&'static str),
    /// One of these words.
    Word(Vec<&'static str>),
    /// A text that is not empty.
    NotEmpty,
    /// Texts, or one.
    Texts,
    /// Texts of this pattern, or one; not an empty list.
    Some(&'static str),
    /// Some of these words, or one.
    Words(Vec<&'static str>),
    Boolean,
    /// A whole number from 1 to this.
    Count(usize),
    Duration,
    /// A duration that is not zero.
    PositiveDuration,
    Size,
    /// A size that is not zero.
    PositiveSize,
    /// This word, or else the other form.
    WordOr(&'static str, Box<Self>),
    /// `"auto"` or a number of threads up to this.
    Threads(usize),
    /// A claim's name, or the names that lead to one inside another.
    ClaimPath,
    /// A table of header names and claims.
    Claims,
    Scalar,
    /// Scalars of one type, at least one.
    Scalars,
    Number,
    /// `true`.
    True,
    Table,
    Tables,
    /// At least one.
    SomeTables,
}

/// A table that was read.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) path: String,
    /// What tables of its kind are called, where they can be in several places, or in themselves.
    pub(super) kind: Option<&'static str>,
    pub(super) keys: Vec<(&'static str, Form)>,
    pub(super) required: Vec<&'static str>,
    /// Exactly one of these keys is needed.
    pub(super) alternatives: Vec<&'static str>,
}

/// One of every table whose keys are read only if it is there.
const PROBE: &str = r"
[require]
claims = [{}]
any_of = [{}]
all_of = [{}]
not    = {}
[[route]]
[route.require]
claims = [{}]
any_of = [{}]
all_of = [{}]
not    = {}
[[resource]]
";

/// The file that says what every key means.
const REFERENCE: &str = include_str!("../../config/reference.toml");

/// What stands in the reference for keys that have no default.
const WITHOUT_DEFAULT: [&str; 2] = ["auth0.domain", "auth0.audience"];

/// The JSON Schema (2020-12) of the configuration file.
///
/// It asks for nothing that the program does not, but it cannot see everything: what a text means beyond its
/// form, and how keys relate, `authgate check` tells.
#[must_use]
pub fn schema() -> Value {
    let shapes = shapes();
    let writer = Writer {
        shapes: &shapes,
        manual: Manual::read(REFERENCE),
    };
    let mut schema = writer.table("", &[""]);
    let kinds: Vec<&str> = shapes.iter().filter_map(|shape| shape.kind).collect();
    let definitions: Map<String, Value> = kinds
        .into_iter()
        .map(|kind| {
            let paths: Vec<&str> = shapes
                .iter()
                .filter(|shape| shape.kind == Some(kind))
                .map(|shape| shape.path.as_str())
                .collect();
            (kind.to_owned(), writer.table(kind, &paths))
        })
        .collect();
    if let Value::Object(members) = &mut schema {
        for (name, value) in [
            (
                "$schema",
                "https://json-schema.org/draft/2020-12/schema".into(),
            ),
            ("title", "authgate".into()),
            (
                "description",
                "The configuration file of authgate, an authenticating reverse proxy".into(),
            ),
            ("$defs", Value::Object(definitions)),
        ] {
            members.insert(name.to_owned(), value);
        }
    }
    schema
}

/// What the reader asks of the probe.
fn shapes() -> Vec<Shape> {
    let probe: toml::Table = PROBE.parse().unwrap_or_default();
    let mut problems = Problems::default();
    let environment = Environment::default();
    let mut sources = Sources::new(&environment);
    // The probe is no configuration; only the questions count.
    _ = super::read(
        Section::root(probe),
        &Overrides::default(),
        &mut sources,
        &mut problems,
    );
    problems.shapes
}

struct Writer<'s> {
    shapes: &'s [Shape],
    manual: Manual,
}

impl Writer<'_> {
    /// The tables at these paths are of one kind. Each may lack what another has.
    fn table(&self, kind: &str, paths: &[&str]) -> Value {
        let shapes: Vec<&Shape> = paths.iter().filter_map(|path| self.at(path)).collect();
        let Some(first) = shapes.first() else {
            return json!({"type": "object"});
        };
        let mut properties = Map::new();
        for (key, _) in &first.keys {
            let answers = shapes.iter().filter_map(|shape| {
                let form = shape.keys.iter().find(|(name, _)| name == key);
                form.map(|(_, form)| (shape.path.as_str(), form))
            });
            let answers: Vec<(&str, &Form)> = answers
                .filter(|(_, form)| **form != Form::Unknown)
                .collect();
            properties.insert((*key).to_owned(), self.property(kind, key, &answers));
        }
        let mut schema = Map::new();
        schema.insert("type".to_owned(), "object".into());
        schema.insert("properties".to_owned(), properties.into());
        schema.insert("additionalProperties".to_owned(), false.into());
        if !first.required.is_empty() {
            schema.insert("required".to_owned(), json!(first.required));
        }
        if !first.alternatives.is_empty() {
            let one = first
                .alternatives
                .iter()
                .map(|key| json!({"required": [key]}));
            schema.insert("oneOf".to_owned(), one.collect());
        }
        schema.into()
    }

    fn property(&self, kind: &str, key: &'static str, answers: &[(&str, &Form)]) -> Value {
        let inner: Vec<String> = answers
            .iter()
            .map(|(path, form)| match form {
                Form::Tables | Form::SomeTables => format!("{}[0]", join(path, key)),
                _ => join(path, key),
            })
            .collect();
        let mut schema = match answers.first() {
            Some((_, Form::Table)) => self.child(&inner),
            Some((_, Form::Tables)) => json!({"type": "array", "items": self.child(&inner)}),
            Some((_, Form::SomeTables)) => {
                json!({"type": "array", "minItems": 1, "items": self.child(&inner)})
            }
            Some((_, form)) => form.schema(),
            None => Value::Bool(true),
        };
        // Conditions are described once, in [require].
        let places = inner.iter().cloned().chain([format!("require.{key}")]);
        let entry = places
            .take(if kind.is_empty() {
                inner.len()
            } else {
                usize::MAX
            })
            .find_map(|place| self.manual.entries.get(&place.replace("[0]", "")));
        if let (Some(entry), Value::Object(members)) = (entry, &mut schema) {
            for (name, value) in [("description", &entry.text), ("default", &entry.default)] {
                if let Some(value) = value {
                    members.insert(name.to_owned(), value.clone());
                }
            }
        }
        schema
    }

    /// The first of these tables that was read.
    fn child(&self, paths: &[String]) -> Value {
        let read = paths.iter().find_map(|path| self.at(path));
        match read.map(|shape| (shape.kind, shape.path.clone())) {
            Some((Some(kind), _)) => json!({"$ref": format!("#/$defs/{kind}")}),
            Some((None, path)) => self.table("", &[&path]),
            None => json!({"type": "object"}),
        }
    }

    fn at(&self, path: &str) -> Option<&Shape> {
        self.shapes.iter().find(|shape| shape.path == path)
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

const DURATION: &str = "^[0-9]+(ms|s|m|h)$";
const POSITIVE_DURATION: &str = "^0*[1-9][0-9]*(ms|s|m|h)$";
const POSITIVE_SIZE: &str = "^0*[1-9][0-9]*(B|KiB|MiB|GiB)$";
const SIZE: &str = "^[0-9]+(B|KiB|MiB|GiB)$";

impl Form {
    fn schema(&self) -> Value {
        match self {
            Self::Unknown => Value::Bool(true),
            Self::Text => json!({"type": "string"}),
            Self::Pattern(pattern) => json!({"type": "string", "pattern": pattern}),
            Self::NotEmpty => json!({"type": "string", "minLength": 1}),
            Self::Word(words) => json!({"enum": words}),
            Self::Texts => json!({"type": ["string", "array"], "items": {"type": "string"}}),
            Self::Some(pattern) => json!({
                "type": ["string", "array"],
                "pattern": pattern,
                "minItems": 1,
                "items": {"type": "string", "pattern": pattern},
            }),
            Self::Words(words) => json!({"anyOf": [
                {"enum": words},
                {"type": "array", "minItems": 1, "items": {"enum": words}},
            ]}),
            Self::Boolean => json!({"type": "boolean"}),
            Self::Count(most) => json!({"type": "integer", "minimum": 1, "maximum": most}),
            Self::Duration => json!({"type": "string", "pattern": DURATION}),
            Self::PositiveDuration => json!({"type": "string", "pattern": POSITIVE_DURATION}),
            Self::Size => json!({"type": "string", "pattern": SIZE}),
            Self::PositiveSize => json!({"type": "string", "pattern": POSITIVE_SIZE}),
            Self::WordOr(word, form) => json!({"anyOf": [{"const": word}, form.schema()]}),
            Self::Threads(most) => json!({"anyOf": [
                {"const": "auto"},
                {"type": "integer", "minimum": 1, "maximum": most},
                {"type": "string", "pattern": "^\\s*(auto|0*[1-9][0-9]{0,2})?\\s*$"},
            ]}),
            Self::ClaimPath => json!({
                "type": ["string", "array"],
                "minLength": 1,
                "minItems": 1,
                "items": {"type": "string", "minLength": 1},
            }),
            Self::Claims => json!({
                "type": "object",
                "propertyNames": {"pattern": HEADER_NAME},
                "additionalProperties": Self::ClaimPath.schema(),
            }),
            Self::Scalar => json!({"type": ["string", "number", "boolean"]}),
            Self::Scalars => json!({"type": "array", "minItems": 1, "anyOf": [
                {"items": {"type": "string"}},
                {"items": {"type": "number"}},
                {"items": {"type": "boolean"}},
            ]}),
            Self::Number => json!({"type": "number"}),
            Self::True => json!({"const": true}),
            Self::Table => json!({"type": "object"}),
            Self::Tables | Self::SomeTables => {
                json!({"type": "array", "items": {"type": "object"}})
            }
        }
    }
}

/// RFC 9110 §5.6.2.
const HEADER_NAME: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

/// What the reference says of one key or table.
#[derive(Debug, Default)]
struct Entry {
    text: Option<Value>,
    default: Option<Value>,
}

/// The reference, by path.
struct Manual {
    entries: BTreeMap<String, Entry>,
}

impl Manual {
    /// The prose above a key or table is about it, and about further keys up to the next prose or empty
    /// line. A line that begins with "#" and no space is an example.
    fn read(reference: &str) -> Self {
        let defaults: toml::Table = reference.parse().unwrap_or_default();
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        let mut table = String::new();
        let mut prose: Vec<&str> = Vec::new();
        let mut prose_is_open = false;
        for line in reference.lines() {
            if let Some(text) = line.strip_prefix("# ") {
                if !prose_is_open {
                    prose.clear();
                }
                prose_is_open = true;
                prose.push(text.trim());
                continue;
            }
            prose_is_open = false;
            let setting = line.strip_prefix('#').unwrap_or(line);
            let path = if let Some(name) = setting.strip_prefix('[') {
                name.trim_matches(['[', ']']).clone_into(&mut table);
                table.clone()
            } else if let Some((key, _)) = setting.split_once(" = ")
                && key
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            {
                join(&table, key)
            } else {
                prose.clear();
                continue;
            };
            let text = (!prose.is_empty()).then(|| prose.join(" ").into());
            let default = default(&defaults, &path).filter(|default| !default.is_object());
            // A second table of a list only shows what the first one cannot.
            entries.entry(path).or_insert(Entry { text, default });
        }
        Self { entries }
    }
}

fn default(table: &toml::Table, path: &str) -> Option<Value> {
    if WITHOUT_DEFAULT.contains(&path) {
        return None;
    }
    let (outer, key) = path.rsplit_once('.').unwrap_or(("", path));
    let table = outer
        .split('.')
        .filter(|name| !name.is_empty())
        .try_fold(table, |table, name| table.get(name)?.as_table())?;
    serde_json::to_value(table.get(key)?).ok()
}

#[cfg(test)]
mod tests {
    use super::{Form, Manual, REFERENCE, join, shapes};

    /// A table that no probe has entered would be open to everything.
    #[test]
    fn every_table_and_every_key_was_asked_for() {
        let shapes = shapes();
        assert!(shapes.len() >= 15, "{shapes:#?}");
        for shape in &shapes {
            for (key, form) in &shape.keys {
                let path = join(&shape.path, key);
                let known = |path: &str| {
                    // Of a kind that can be in itself, one that was entered is enough.
                    shape.kind.is_some() || shapes.iter().any(|other| other.path == path)
                };
                match form {
                    Form::Table => assert!(known(&path), "{path}"),
                    Form::Tables | Form::SomeTables => {
                        assert!(known(&format!("{path}[0]")), "{path}");
                    }
                    Form::Unknown => assert!(shape.kind.is_some(), "{path}"),
                    _ => {}
                }
            }
        }
        for kind in shapes.iter().filter_map(|shape| shape.kind) {
            let whole = shapes.iter().filter(|shape| shape.kind == Some(kind));
            let mut keys: Vec<_> = whole.flat_map(|shape| &shape.keys).collect();
            keys.sort_by_key(|(key, form)| (*key, *form == Form::Unknown));
            keys.dedup_by_key(|(key, _)| *key);
            for (key, form) in keys {
                assert_ne!(*form, Form::Unknown, "{kind} {key}");
            }
        }
    }

    #[test]
    fn the_reference_explains_what_it_holds() {
        let manual = Manual::read(REFERENCE);
        for (path, words, default) in [
            ("listen", "Where clients connect", Some("\"0.0.0.0:8080\"")),
            (
                "auth0.keys.refresh",
                "How old keys may grow",
                Some("\"10m\""),
            ),
            ("auth0.domain", "The tenant's domain", None),
            ("auth0", "", None),
            ("cors", "Pages on other origins", None),
            ("route", "Any number of routes", None),
            ("route.methods", "These methods only", None),
            ("route.mcp", "These MCP messages only", None),
            ("require.any_scope", "All of these, or any of these", None),
            ("limits.headers", "Header fields", Some("100")),
            ("identity.headers", "Header = claim", None),
        ] {
            let entry = manual.entries.get(path).expect(path);
            let text = entry.text.as_ref().map(ToString::to_string);
            assert!(
                text.unwrap_or_default().contains(words),
                "{path}: {entry:?}"
            );
            let found = entry.default.as_ref().map(ToString::to_string);
            assert_eq!(found.as_deref(), default, "{path}");
        }
    }
}
