//! Path patterns of routes: literal segments, `*` for one segment, a final `**` for the rest.

use std::fmt;
use std::sync::Arc;

/// A parsed path pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    source: Arc<str>,
    segments: Vec<Segment>,
    rest: bool,
}

/// One segment of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// Exactly this text. An empty one stands for a trailing slash.
    Literal(String),
    /// Any one segment that is not empty.
    Any,
}

/// Why a text is not a path pattern. Each of these could never match a request as intended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternError {
    /// It holds an empty, `.` or `..` segment.
    DotOrEmptySegment,
    /// It holds a character that a decoded path segment cannot have or that backends read differently.
    ForbiddenCharacter(char),
    /// It does not begin with a slash.
    NoLeadingSlash,
    /// `**` stands elsewhere than at the end, or `*` is part of a segment.
    Wildcard,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DotOrEmptySegment => {
                f.write_str("an empty, \".\" or \"..\" segment can never match: leave it out")
            }
            Self::ForbiddenCharacter('?') => {
                f.write_str("the query takes no part in routing: remove everything from \"?\" on")
            }
            Self::ForbiddenCharacter('%') => f.write_str(
                "patterns are written without percent-encoding, in visible ASCII; use \"*\" for a segment that needs more",
            ),
            Self::ForbiddenCharacter(character) => write!(
                f,
                "{character:?} cannot stand in a pattern; use \"*\" for a segment that needs it"
            ),
            Self::NoLeadingSlash => f.write_str("a path begins with \"/\""),
            Self::Wildcard => {
                f.write_str("\"*\" stands for a whole segment, and \"**\" only at the end")
            }
        }
    }
}

impl std::error::Error for PatternError {}

impl Pattern {
    /// Parses a pattern such as `/api/agents/*/stream` or `/api/**`.
    ///
    /// # Errors
    ///
    /// [`PatternError`] says how to write it so that it can match.
    pub fn parse(source: &str) -> Result<Self, PatternError> {
        let path = source
            .strip_prefix('/')
            .ok_or(PatternError::NoLeadingSlash)?;
        if let Some(bad) = path
            .chars()
            .find(|c| !c.is_ascii_graphic() || "%;?#\\".contains(*c))
        {
            return Err(PatternError::ForbiddenCharacter(bad));
        }
        let (path, rest) = match path.strip_suffix("**") {
            Some("") => ("", true),
            Some(before) => (
                before.strip_suffix('/').ok_or(PatternError::Wildcard)?,
                true,
            ),
            None => (path, false),
        };
        let mut segments = Vec::new();
        if !(rest && path.is_empty()) {
            let count = path.split('/').count();
            for (index, text) in path.split('/').enumerate() {
                let last = index.saturating_add(1) == count;
                segments.push(Segment::parse(text, last && !rest)?);
            }
        }
        Ok(Self {
            source: source.into(),
            segments,
            rest,
        })
    }

    /// The pattern as it was written.
    #[must_use]
    pub const fn source(&self) -> &Arc<str> {
        &self.source
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether it ends in `**`.
    pub(super) const fn takes_rest(&self) -> bool {
        self.rest
    }

    /// Whether some path at or below these segments matches, for a backend that ignores case too.
    pub(super) fn reaches(&self, segments: &[&str]) -> bool {
        let same = |(own, other): (&Segment, &&str)| own.takes(other);
        let deep_enough = self.rest || self.segments.len() >= segments.len();
        deep_enough && self.segments.iter().zip(segments).all(same)
    }

    /// Whether every path that matches is at or below these segments.
    pub(super) fn stays_within(&self, segments: &[&str]) -> bool {
        let same = |(own, other): (&Segment, &&str)| *own != Segment::Any && own.takes(other);
        self.segments.len() >= segments.len() && self.segments.iter().zip(segments).all(same)
    }

    /// Whether a literal segment has a letter that folds to another one.
    pub(super) fn has_upper_case(&self) -> bool {
        self.source.bytes().any(|byte| byte.is_ascii_uppercase())
    }

    /// Whether it ends in a slash, beside the root itself.
    pub(super) fn has_trailing_slash(&self) -> bool {
        self.source.len() > 1 && self.source.ends_with('/')
    }
}

impl Segment {
    fn takes(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Literal(literal) => literal.eq_ignore_ascii_case(text),
        }
    }

    fn parse(text: &str, may_be_empty: bool) -> Result<Self, PatternError> {
        match text {
            "*" => Ok(Self::Any),
            "" if may_be_empty => Ok(Self::Literal(String::new())),
            "" | "." | ".." => Err(PatternError::DotOrEmptySegment),
            _ if text.contains('*') => Err(PatternError::Wildcard),
            _ => Ok(Self::Literal(text.to_owned())),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::{Pattern, PatternError};

    #[test]
    fn good_patterns_parse() {
        for (source, segments, rest) in [
            ("/", 1, false),
            ("/**", 0, true),
            ("/api", 1, false),
            ("/api/", 2, false),
            ("/api/**", 1, true),
            ("/api/agents/*/stream", 4, false),
            ("/*/**", 1, true),
            ("/message:send", 1, false),
            ("/.well-known/agent-card.json", 2, false),
        ] {
            let pattern = Pattern::parse(source).expect(source);
            assert_eq!(
                (pattern.segments().len(), pattern.takes_rest()),
                (segments, rest),
                "{source}"
            );
        }
    }

    #[test]
    fn patterns_that_cannot_match_are_refused() {
        use PatternError::{DotOrEmptySegment, ForbiddenCharacter, NoLeadingSlash, Wildcard};
        for (source, expected) in [
            ("", NoLeadingSlash),
            ("api", NoLeadingSlash),
            ("**", NoLeadingSlash),
            ("//", DotOrEmptySegment),
            ("/a//b", DotOrEmptySegment),
            ("/a//**", DotOrEmptySegment),
            ("/a/../b", DotOrEmptySegment),
            ("/./a", DotOrEmptySegment),
            ("/a/**/b", Wildcard),
            ("/a**", Wildcard),
            ("/a*", Wildcard),
            ("/***", Wildcard),
            ("/a?x=1", ForbiddenCharacter('?')),
            ("/a#b", ForbiddenCharacter('#')),
            ("/a%20b", ForbiddenCharacter('%')),
            ("/a;b", ForbiddenCharacter(';')),
            ("/a\\b", ForbiddenCharacter('\\')),
            ("/a b", ForbiddenCharacter(' ')),
            ("/caf\u{e9}", ForbiddenCharacter('\u{e9}')),
        ] {
            assert_eq!(Pattern::parse(source), Err(expected), "{source}");
        }
    }
}
