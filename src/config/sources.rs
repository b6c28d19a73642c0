//! Settings that a flag, an environment variable or the file can set, in this order of precedence.

use std::fmt::Write as _;

use super::environment::Environment;
use super::reader::{Problems, Section};
use super::schema::Form;

/// What flags and the environment say; `None` where they say nothing.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--listen`
    pub listen: Option<String>,
    /// `--upstream`
    pub upstream: Option<String>,
    /// `--admin`
    pub admin: Option<String>,
    /// `--workers`
    pub workers: Option<String>,
    /// `--log`
    pub log: Option<String>,
    /// `--log-format`
    pub log_format: Option<String>,
}

/// Resolves settings by precedence and notes where two sources disagree.
pub(super) struct Sources<'e> {
    environment: &'e Environment,
    pub(super) notes: Vec<String>,
}

/// A value and the name of where it came from. The value may be a key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Sourced {
    pub(super) value: String,
    pub(super) source: String,
}

impl<'e> Sources<'e> {
    pub(super) const fn new(environment: &'e Environment) -> Self {
        Self {
            environment,
            notes: Vec::new(),
        }
    }

    /// A top-level key with a flag and a variable.
    pub(super) fn top_level(
        &mut self,
        key: &'static str,
        flag: Option<&String>,
        variable: &str,
        form: Form,
        file: &mut Section,
        problems: &mut Problems,
    ) -> Option<Sourced> {
        let flag = flag.map(|value| Sourced {
            value: value.trim().to_owned(),
            source: format!("--{}", key.replace('_', "-")),
        });
        let file = file.string_of(key, form, problems).map(|value| Sourced {
            value,
            source: key.to_owned(),
        });
        let variable = self.variable(variable, problems);
        self.first(
            key,
            [flag.filter(|one| !one.value.is_empty()), variable, file],
        )
    }

    /// An environment variable as people paste it: spaces and quotes around the value do not count,
    /// and an empty value counts as not set.
    pub(super) fn variable(&self, name: &str, problems: &mut Problems) -> Option<Sourced> {
        let raw = self.environment.get(name)?;
        let trimmed = raw.trim();
        let unquoted = ['"', '\''].iter().find_map(|quote| {
            trimmed
                .strip_prefix(*quote)
                .and_then(|rest| rest.strip_suffix(*quote))
        });
        if unquoted.is_some() {
            problems.warning(
                name,
                "the quotes around the value were removed; leave them out",
            );
        }
        let value = unquoted.unwrap_or(trimmed).trim();
        (!value.is_empty()).then(|| Sourced {
            value: value.to_owned(),
            source: name.to_owned(),
        })
    }

    /// The first source that has a value wins; another with a different value is noted.
    pub(super) fn first<const N: usize>(
        &mut self,
        key: &str,
        sources: [Option<Sourced>; N],
    ) -> Option<Sourced> {
        let mut present = sources.into_iter().flatten();
        let winner = present.next()?;
        let mut losers = String::new();
        for loser in present.filter(|loser| loser.value != winner.value) {
            let separator = if losers.is_empty() { "" } else { " and " };
            _ = write!(losers, "{separator}{:?} from {}", loser.value, loser.source);
        }
        if !losers.is_empty() {
            self.notes.push(format!(
                "{key}: {:?} from {} wins over {losers}",
                winner.value, winner.source
            ));
        }
        Some(winner)
    }
}
