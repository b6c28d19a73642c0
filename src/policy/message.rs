//! Which MCP messages a route is about: methods or tools, by name or by the beginning of it.

use std::fmt;

use crate::mcp::{Call, check_name, fold};

/// A route's condition on the message of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum McpCondition {
    /// The method is one of these.
    Method(Vec<NamePattern>),
    /// A tool is called, and it is one of these.
    Tool(Vec<NamePattern>),
}

/// A name, or the beginning of one: `delete_*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    source: String,
    stem: String,
    folded: String,
    is_prefix: bool,
}

/// Why a text is no pattern of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamePatternError {
    /// It is empty, or has space around it.
    Blank,
    /// `*` stands elsewhere than at the end.
    Wildcard,
    /// No name is like this one: with this problem it is refused.
    NoName(&'static str),
}

impl fmt::Display for NamePatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blank => "is empty, or has spaces around it",
            Self::Wildcard => "\"*\" stands at the end only, for any rest of a name",
            Self::NoName(problem) => problem,
        })
    }
}

impl std::error::Error for NamePatternError {}

/// How closely a condition fits a message: a tool before its method, a whole name before the beginning
/// of one, and of those the longer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fit {
    is_tool: bool,
    is_whole: bool,
    length: usize,
}

/// How a name is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Letter for letter.
    Exact,
    /// As a backend does that ignores case and surrounding space.
    Folded,
}

impl NamePattern {
    /// Parses `delete_user`, `delete_*` or `*`.
    ///
    /// # Errors
    ///
    /// [`NamePatternError`] says what is wrong.
    pub fn parse(source: &str) -> Result<Self, NamePatternError> {
        if source.is_empty() || source.trim() != source {
            return Err(NamePatternError::Blank);
        }
        check_name(source).map_err(NamePatternError::NoName)?;
        let (stem, is_prefix) = match source.strip_suffix('*') {
            Some(stem) => (stem, true),
            None => (source, false),
        };
        if stem.contains('*') {
            return Err(NamePatternError::Wildcard);
        }
        Ok(Self {
            source: source.to_owned(),
            stem: stem.to_owned(),
            folded: fold(stem),
            is_prefix,
        })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    fn fits(&self, name: &str, spelling: Spelling) -> bool {
        let stem = match spelling {
            Spelling::Exact => &self.stem,
            Spelling::Folded => &self.folded,
        };
        if self.is_prefix {
            name.starts_with(stem.as_str())
        } else {
            name == stem
        }
    }
}

impl McpCondition {
    /// How closely this fits a call, if it does.
    pub(super) fn fit(&self, call: &Call, spelling: Spelling) -> Option<Fit> {
        let (patterns, name, is_tool) = match self {
            Self::Method(patterns) => (patterns, Some(call.method()), false),
            Self::Tool(patterns) => (patterns, call.tool(), true),
        };
        let name = match spelling {
            Spelling::Exact => name?.to_owned(),
            Spelling::Folded => fold(name?),
        };
        let fitting = patterns
            .iter()
            .filter(|pattern| pattern.fits(&name, spelling));
        let fits = fitting.map(|pattern| Fit {
            is_tool,
            is_whole: !pattern.is_prefix,
            length: pattern.stem.len(),
        });
        fits.max()
    }

    /// What it takes, each as configuration names it.
    pub(super) fn claims(&self) -> impl Iterator<Item = String> {
        let (key, patterns) = match self {
            Self::Method(patterns) => ("mcp.method", patterns),
            Self::Tool(patterns) => ("mcp.tool", patterns),
        };
        patterns
            .iter()
            .map(move |pattern| format!("{key} {:?}", pattern.source))
    }
}

impl fmt::Display for McpCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, patterns) = match self {
            Self::Method(patterns) => ("mcp.method", patterns),
            Self::Tool(patterns) => ("mcp.tool", patterns),
        };
        let names: Vec<&str> = patterns.iter().map(NamePattern::source).collect();
        write!(f, "{key} {}", names.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::{NamePattern, NamePatternError};

    #[test]
    fn a_pattern_is_what_a_name_can_be() {
        for source in ["a", "delete_*", "*", "tools/call", "a b", "äö", "工具*"] {
            let pattern = NamePattern::parse(source).expect(source);
            assert_eq!(pattern.source(), source);
        }
        for source in ["", " a", "a ", "\u{2028}a", "a\t"] {
            assert_eq!(
                NamePattern::parse(source),
                Err(NamePatternError::Blank),
                "{source:?}"
            );
        }
        for source in ["*a", "a*b", "**"] {
            assert_eq!(
                NamePattern::parse(source),
                Err(NamePatternError::Wildcard),
                "{source:?}"
            );
        }
        for source in [
            "run_shell\0",
            "run_shell\u{1f}",
            "run\nshell*",
            "\u{feff}run_shell",
            "run\u{200d}_shell",
            "run_shell\u{202c}*",
            "ｒｕｎ_shell",
            "run_\u{17f}hell",
            "a\u{308}",
        ] {
            let error = NamePattern::parse(source).expect_err(source);
            assert!(matches!(error, NamePatternError::NoName(_)), "{source:?}");
        }
    }
}
