//! How values of strangers are shown: cut, escaped, and never with a part of the token.

use serde_json::Value;

use crate::claims::Claims;
use crate::secret::Secret;

/// The longest part of one value that is shown: enough for an `aud` with several entries, and a
/// report stays readable whatever a token holds.
const MAX_SHOWN_CHARS: usize = 256;

/// Shorter parts of a credential say nothing about it, and would be found in innocent words.
const SHORTEST_SECRET: usize = 6;

/// What stands in the place of a secret.
const REDACTED: &str = "(part of the token)";

/// Writes values into a report.
#[derive(Debug)]
pub(super) struct Ink {
    secrets: Vec<Secret<String>>,
}

impl Ink {
    /// For a report about this credential.
    pub(super) fn new(credential: Option<&str>) -> Self {
        let is_inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let mut secrets: Vec<String> = credential
            .unwrap_or_default()
            .split(|c| !is_inside(c))
            .filter(|part| part.len() >= SHORTEST_SECRET && !is_scheme(part))
            .map(str::to_owned)
            .collect();
        // The longest first, so that no rest of one is left when another is a part of it.
        secrets.sort_by_key(|part| std::cmp::Reverse(part.len()));
        let secrets = secrets.into_iter().map(Secret::new).collect();
        Self { secrets }
    }

    /// A text as it may be shown.
    pub(super) fn text(&self, text: &str) -> String {
        self.write(text, MAX_SHOWN_CHARS)
    }

    /// A text that is made here, and as long as the configuration makes it.
    pub(super) fn whole(&self, text: &str) -> String {
        self.write(text, usize::MAX)
    }

    fn write(&self, text: &str, most: usize) -> String {
        let mut clean = text.to_owned();
        for secret in self.secrets.iter().map(Secret::expose) {
            if clean.contains(secret.as_str()) {
                clean = clean.replace(secret.as_str(), REDACTED);
            }
        }
        let mut shown = String::new();
        for (place, character) in clean.chars().enumerate() {
            if place == most {
                shown.push('…');
                break;
            }
            if is_unshowable(character) {
                shown.extend(character.escape_unicode());
            } else {
                shown.push(character);
            }
        }
        shown
    }

    /// A claim as JSON.
    pub(super) fn value(&self, value: &Value) -> String {
        self.text(&value.to_string())
    }

    /// A claim as JSON, or that it is not there.
    pub(super) fn claim(&self, claims: &Claims, name: &str) -> String {
        claims
            .get(name)
            .map_or_else(|| "absent".to_owned(), |value| self.value(value))
    }

    /// A list of texts.
    pub(super) fn list(&self, texts: &[String]) -> String {
        self.text(&texts.join(", "))
    }
}

/// The names of schemes are no secrets, and the report names them.
fn is_scheme(part: &str) -> bool {
    ["bearer", "digest", "negotiate"]
        .iter()
        .any(|scheme| part.eq_ignore_ascii_case(scheme))
}

/// What could move a terminal's cursor, or make a text read as another.
fn is_unshowable(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::{Ink, MAX_SHOWN_CHARS, REDACTED};
    use serde_json::json;

    #[test]
    fn what_strangers_write_is_cut_and_escaped() {
        let ink = Ink::new(None);
        for (text, expected) in [
            ("plain", "plain"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\r\nb", "a\\u{d}\\u{a}b"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("abc\u{202e}cba", "abc\\u{202e}cba"),
            ("Mar\u{ed}a", "Mar\u{ed}a"),
        ] {
            assert_eq!(ink.text(text), expected, "{text:?}");
        }
        let long = ink.value(&json!("x".repeat(10_000)));
        assert_eq!(long.chars().count(), MAX_SHOWN_CHARS + 1);
    }

    #[test]
    fn no_part_of_the_token_is_shown_wherever_it_stands() {
        let ink = Ink::new(Some("Bearer headerpart.payloadpart.signature_-part"));
        for (text, expected) in [
            ("payloadpart", REDACTED.to_owned()),
            (
                "x headerpart.payloadpart y",
                format!("x {REDACTED}.{REDACTED} y"),
            ),
            ("the Bearer scheme", "the Bearer scheme".to_owned()),
        ] {
            assert_eq!(ink.text(text), expected);
        }
        // One that would be cut in the middle is gone before the cut.
        let text = format!("{}signature_-part", "x".repeat(MAX_SHOWN_CHARS - 8));
        assert!(!ink.text(&text).contains("signat"), "{}", ink.text(&text));
    }

    #[test]
    fn debug_shows_no_part_of_the_token() {
        let ink = Ink::new(Some("Bearer headerpart.payloadpart.signature_-part"));
        for shown in [format!("{ink:?}"), format!("{ink:#?}")] {
            assert!(!shown.contains("part"), "{shown}");
        }
    }
}
