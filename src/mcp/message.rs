//! What one message asks for.

use super::error::MessageError;

/// The method that calls a tool.
const CALL_TOOL: &str = "tools/call";

/// The method that lists tools.
const LIST_TOOLS: &str = "tools/list";

/// The method that reads a resource.
const READ_RESOURCE: &str = "resources/read";

/// The methods with a name beside them, and the member of `params` that holds it.
const NAMED: [(&str, NamedBy); 3] = [
    (CALL_TOOL, NamedBy::Name),
    ("prompts/get", NamedBy::Name),
    (READ_RESOURCE, NamedBy::Uri),
];

/// The member of `params` that names what a method is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NamedBy {
    /// `name`, which rules compare.
    Name,
    /// `uri`, which they do not.
    Uri,
}

/// A message that a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A request or a notification.
    Call(Call),
    /// The answer to a request of the server's. It asks for nothing.
    Answer,
}

/// A method, and what it is about where a name says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    method: String,
    name: Option<String>,
}

impl Call {
    /// A call with the name that stands beside its method, if one does.
    ///
    /// # Errors
    ///
    /// [`MessageError::NotMessage`] for a tool that is called without its name.
    pub fn new(method: String, name: Option<String>) -> Result<Self, MessageError> {
        if name.is_none() && is_spelled(&method, CALL_TOOL) {
            return Err(MessageError::NotMessage("tools/call without params.name"));
        }
        Ok(Self { method, name })
    }

    /// The call of a tool.
    #[must_use]
    pub fn tool_call(name: &str) -> Self {
        Self {
            method: CALL_TOOL.to_owned(),
            name: Some(name.to_owned()),
        }
    }

    /// The method, as it was sent.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The name beside it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The tool that is called, if one is.
    #[must_use]
    pub fn tool(&self) -> Option<&str> {
        self.name().filter(|_| is_spelled(&self.method, CALL_TOOL))
    }

    /// Whether it asks which tools there are.
    #[must_use]
    pub fn lists_tools(&self) -> bool {
        is_spelled(&self.method, LIST_TOOLS)
    }
}

/// The member of `params` that names what a method is about.
pub(super) fn named_by(method: &str) -> Option<NamedBy> {
    NAMED
        .iter()
        .find(|(named, _)| is_spelled(method, named))
        .map(|(_, member)| *member)
}

/// Whether a backend that ignores case or surrounding space would take a name for this one, which is in
/// lower case: what [`fold`] tells, without making it.
pub(super) fn is_spelled(name: &str, known: &str) -> bool {
    let upper = name.trim().chars().flat_map(char::to_uppercase);
    upper.flat_map(char::to_lowercase).eq(known.chars())
}

/// A name as backends see it that ignore case and surrounding space. Some fold by way of upper case,
/// where the Kelvin sign is a K and the long s an S.
#[must_use]
pub(crate) fn fold(name: &str) -> String {
    let name = name.trim();
    if name.is_ascii() {
        name.to_ascii_lowercase()
    } else {
        name.to_uppercase().to_lowercase()
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, fold, is_spelled};

    #[test]
    fn every_spelling_of_a_call_needs_a_name() {
        for method in ["tools/call", "Tools/Call", " tools/call\n", "toolſ/call"] {
            assert!(Call::new(method.to_owned(), None).is_err(), "{method:?}");
            let call = Call::new(method.to_owned(), Some("a".to_owned())).expect(method);
            assert_eq!(call.tool(), Some("a"), "{method:?}");
        }
        let other = Call::new("prompts/get".to_owned(), Some("a".to_owned())).expect("a call");
        assert_eq!((other.tool(), other.name()), (None, Some("a")));
        assert!(Call::new("tools/list".to_owned(), None).is_ok_and(|call| call.lists_tools()));
    }

    #[test]
    fn folding_goes_by_upper_case() {
        for (name, folded) in [
            ("Delete_User", "delete_user"),
            ("\u{212a}ill", "kill"),
            ("li\u{17f}t", "list"),
            ("\u{a0}a\t", "a"),
        ] {
            assert_eq!(fold(name), folded);
            assert!(is_spelled(name, folded), "{name}");
            assert!(!is_spelled(name, "other"), "{name}");
        }
    }
}
