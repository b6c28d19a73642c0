//! Reads a TOML document key by key and collects every problem with its path, so that a person can
//! mend a file in one go. A key that nobody asked for is a problem too.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use toml::{Table, Value};

use super::schema::{Form, Shape};
use super::units;

/// Something wrong, or doubtful, in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: a TOML path such as `auth0.keys.refresh`, or the name of a variable or flag.
    pub path: String,
    /// What is wrong, and how to mend it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Everything that was found while reading.
#[derive(Debug, Default)]
pub(super) struct Problems {
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// Every table that was read, and what was asked of it.
    pub(super) shapes: Vec<Shape>,
}

impl Problems {
    pub(super) fn error(&mut self, path: impl Into<String>, message: impl Into<String>) {
        let (path, message) = (path.into(), message.into());
        self.errors.push(Problem { path, message });
    }

    /// Puts the path of its route before each problem of one, where the message does not have it.
    pub(super) fn name_routes(&mut self, paths: &[Option<String>]) {
        for problem in self.errors.iter_mut().chain(&mut self.warnings) {
            let place = problem
                .path
                .strip_prefix("route[")
                .and_then(|rest| rest.split(']').next()?.parse::<usize>().ok());
            let path = place.and_then(|place| paths.get(place)?.as_deref());
            if let Some(path) = path.map(|path| format!("{path:?}"))
                && !problem.message.contains(&path)
            {
                problem.message = format!("(the route of {path}) {}", problem.message);
            }
        }
    }

    pub(super) fn warning(&mut self, path: impl Into<String>, message: impl Into<String>) {
        let (path, message) = (path.into(), message.into());
        self.warnings.push(Problem { path, message });
    }
}

/// One table of the document. Keys are taken out as they are read; [`Section::finish`] reports what
/// is left.
#[derive(Debug)]
pub(super) struct Section {
    path: String,
    table: Table,
    kind: Option<&'static str>,
    known: Vec<(&'static str, Form)>,
    required: Vec<&'static str>,
    alternatives: Vec<&'static str>,
}

impl Section {
    pub(super) const fn root(table: Table) -> Self {
        Self::at(String::new(), table)
    }

    /// Gives the table a kind, for tables that can be in several places, or in themselves.
    pub(super) const fn of_kind(mut self, kind: &'static str) -> Self {
        self.kind = Some(kind);
        self
    }

    /// The full path of a key of this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Whether this key is set, to whatever; an empty text is nothing.
    pub(super) fn is_set(&self, key: &str) -> bool {
        match self.table.get(key) {
            None => false,
            Some(Value::String(text)) => !text.trim().is_empty(),
            Some(_) => true,
        }
    }

    /// Takes a value out, whatever its type.
    pub(super) fn take(&mut self, key: &'static str, form: Form) -> Option<Value> {
        self.know(key, form);
        self.table.remove(key)
    }

    /// Takes a table out; an absent one is empty.
    pub(super) fn section(&mut self, key: &'static str, problems: &mut Problems) -> Self {
        let path = self.path_of(key);
        let table = match self.take(key, Form::Table) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                problems.error(&path, format!("is {}, not a table", type_name(&other)));
                Table::new()
            }
        };
        Self::at(path, table)
    }

    /// Takes an array of tables out; an absent one is empty.
    pub(super) fn sections(&mut self, key: &'static str, problems: &mut Problems) -> Vec<Self> {
        self.sections_of(key, Form::Tables, problems)
    }

    /// The same of [`Form::SomeTables`], which is for the caller to check.
    pub(super) fn sections_of(
        &mut self,
        key: &'static str,
        form: Form,
        problems: &mut Problems,
    ) -> Vec<Self> {
        let path = self.path_of(key);
        let items = match self.take(key, form) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                problems.error(&path, format!("is {}; write [[{key}]]", type_name(&other)));
                return Vec::new();
            }
        };
        let mut sections = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            match item {
                Value::Table(table) => sections.push(Self::at(path, table)),
                other => problems.error(path, format!("is {}, not a table", type_name(&other))),
            }
        }
        sections
    }

    /// A table that stands somewhere in the document.
    pub(super) const fn at(path: String, table: Table) -> Self {
        Self {
            path,
            table,
            kind: None,
            known: Vec::new(),
            required: Vec::new(),
            alternatives: Vec::new(),
        }
    }

    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.know(key, Form::Unknown);
        self.table.contains_key(key)
    }

    /// Whether a key is there that must be.
    pub(super) fn has_required(&mut self, key: &'static str) -> bool {
        self.required.push(key);
        self.has(key)
    }

    /// How many of these keys are there, of which exactly one must be.
    pub(super) fn count_alternatives(&mut self, keys: impl Iterator<Item = &'static str>) -> usize {
        self.alternatives.extend(keys);
        let given = |key: &&&'static str| self.table.contains_key(**key);
        self.alternatives.iter().filter(given).count()
    }

    fn know(&mut self, key: &'static str, form: Form) {
        match self.known.iter_mut().find(|(name, _)| *name == key) {
            None => self.known.push((key, form)),
            Some((_, known)) if *known == Form::Unknown => *known = form,
            Some(_) => {}
        }
    }

    /// Takes a string out. An empty one counts as not set.
    pub(super) fn string(&mut self, key: &'static str, problems: &mut Problems) -> Option<String> {
        self.string_of(key, Form::Text, problems)
    }

    /// Takes a string of some form out, which is for the caller to check.
    pub(super) fn string_of(
        &mut self,
        key: &'static str,
        form: Form,
        problems: &mut Problems,
    ) -> Option<String> {
        match self.take(key, form)? {
            Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            other => {
                problems.error(
                    self.path_of(key),
                    format!("is {}, not a string", type_name(&other)),
                );
                None
            }
        }
    }

    /// Takes a string or an array of strings out.
    pub(super) fn strings(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Vec<String>> {
        self.strings_of(key, Form::Texts, problems)
    }

    /// The same of some form, which is for the caller to check.
    pub(super) fn strings_of(
        &mut self,
        key: &'static str,
        form: Form,
        problems: &mut Problems,
    ) -> Option<Vec<String>> {
        let value = self.take(key, form)?;
        strings(&self.path_of(key), value, problems)
    }

    pub(super) fn boolean(&mut self, key: &'static str, problems: &mut Problems) -> Option<bool> {
        match self.take(key, Form::Boolean)? {
            Value::Boolean(value) => Some(value),
            other => {
                problems.error(
                    self.path_of(key),
                    format!("is {}; write true or false", type_name(&other)),
                );
                None
            }
        }
    }

    /// Takes a positive whole number out, `most` at most.
    pub(super) fn count(
        &mut self,
        key: &'static str,
        most: usize,
        problems: &mut Problems,
    ) -> Option<usize> {
        let value = self.take(key, Form::Count(most))?;
        let count = match &value {
            Value::Integer(number) => usize::try_from(*number).ok().filter(|count| *count > 0),
            _ => None,
        };
        if count.is_none() {
            problems.error(
                self.path_of(key),
                format!("is {value}; write a whole number from 1 on"),
            );
        }
        if count.is_some_and(|count| count > most) {
            problems.error(self.path_of(key), format!("is more than {most}"));
        }
        count
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Duration> {
        let value = self.take(key, Form::Duration)?;
        self.parsed(key, &value, problems, units::duration, units::DURATION_FORM)
    }

    /// A duration that is not zero.
    pub(super) fn positive_duration(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Duration> {
        let value = self.take(key, Form::PositiveDuration)?;
        let duration = self.parsed(key, &value, problems, units::duration, units::DURATION_FORM)?;
        if duration.is_zero() {
            problems.error(self.path_of(key), "must be more than zero");
        }
        Some(duration)
    }

    pub(super) fn size(&mut self, key: &'static str, problems: &mut Problems) -> Option<usize> {
        let value = self.take(key, Form::Size)?;
        self.parsed(key, &value, problems, units::size, units::SIZE_FORM)
    }

    /// A size that is not zero.
    pub(super) fn positive_size(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<usize> {
        let value = self.take(key, Form::PositiveSize)?;
        let size = self.parsed(key, &value, problems, units::size, units::SIZE_FORM)?;
        if size == 0 {
            problems.error(self.path_of(key), "must be more than zero");
        }
        Some(size)
    }

    /// A duration or a word such as `"off"`. `None` for the word, and when absent or wrong.
    pub(super) fn duration_or(
        &mut self,
        word: &'static str,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Duration> {
        let (parse, form) = (units::duration, units::DURATION_FORM);
        self.word_or(word, key, problems, parse, form, Form::Duration)
    }

    /// A size or a word, likewise.
    pub(super) fn size_or(
        &mut self,
        word: &'static str,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<usize> {
        let (parse, form) = (units::size, units::SIZE_FORM);
        self.word_or(word, key, problems, parse, form, Form::Size)
    }

    fn word_or<T>(
        &mut self,
        word: &'static str,
        key: &'static str,
        problems: &mut Problems,
        parse: fn(&str) -> Option<T>,
        written: &str,
        form: Form,
    ) -> Option<T> {
        let value = self.take(key, Form::WordOr(word, Box::new(form)))?;
        if value.as_str() == Some(word) {
            return None;
        }
        let written = format!("{written}, or \"{word}\"");
        self.parsed(key, &value, problems, parse, &written)
    }

    /// Whether a key holds this very word.
    pub(super) fn is_word(&self, key: &str, word: &str) -> bool {
        self.table.get(key).and_then(Value::as_str) == Some(word)
    }

    /// Takes one of several words out.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let words = choices.iter().map(|(word, _)| *word).collect();
        let text = match self.take(key, Form::Word(words))? {
            // An empty one is not absent: a condition that vanished would let everybody pass.
            Value::String(text) => text,
            other => {
                problems.error(
                    self.path_of(key),
                    format!("is {}, not a string", type_name(&other)),
                );
                return None;
            }
        };
        let chosen = choices.iter().find(|(word, _)| *word == text.trim());
        if chosen.is_none() {
            let words: Vec<String> = choices
                .iter()
                .map(|(word, _)| format!("{word:?}"))
                .collect();
            problems.error(
                self.path_of(key),
                format!("is {text:?}; write {}", words.join(" or ")),
            );
        }
        chosen.map(|(_, value)| *value)
    }

    /// Reports every key that was not read, and notes what was.
    pub(super) fn finish(self, problems: &mut Problems) {
        for key in self.table.keys() {
            let known: Vec<&str> = self.known.iter().map(|(key, _)| *key).collect();
            problems.error(
                self.path_of(&as_written(key)),
                format!("unknown key; known here: {}", known.join(", ")),
            );
        }
        problems.shapes.push(Shape {
            path: self.path,
            kind: self.kind,
            keys: self.known,
            required: self.required,
            alternatives: self.alternatives,
        });
    }

    fn parsed<T>(
        &self,
        key: &str,
        value: &Value,
        problems: &mut Problems,
        parse: fn(&str) -> Option<T>,
        form: &str,
    ) -> Option<T> {
        let parsed = value.as_str().and_then(parse);
        if parsed.is_none() {
            problems.error(self.path_of(key), format!("is {value}; write {form}"));
        }
        parsed
    }
}

/// A key as TOML has it, in quotes where it needs them: an empty one would be no path at all.
fn as_written(key: &str) -> Cow<'_, str> {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !key.is_empty() && key.bytes().all(is_bare) {
        Cow::Borrowed(key)
    } else {
        Cow::Owned(format!("{key:?}"))
    }
}

/// A string, or an array of strings.
pub(super) fn strings(path: &str, value: Value, problems: &mut Problems) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one]),
        Value::Array(items) => {
            let mut list = Vec::new();
            for (index, item) in items.into_iter().enumerate() {
                match item {
                    Value::String(text) => list.push(text),
                    other => problems.error(
                        format!("{path}[{index}]"),
                        format!("is {}, not a string", type_name(&other)),
                    ),
                }
            }
            Some(list)
        }
        other => {
            problems.error(
                path,
                format!(
                    "is {}; write a string or a list of strings",
                    type_name(&other)
                ),
            );
            None
        }
    }
}

pub(super) const fn type_name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "a boolean",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "an array",
        Value::Table(_) => "a table",
    }
}
