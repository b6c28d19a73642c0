//! What one message asks for.

use super::error::MessageError;
use super::name::{check_name, check_uri};

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

/// The methods whose results clients and gateways may keep (revision 2026-07-28, "Caching").
const CACHEABLE: [&str; 6] = [
    "server/discover",
    LIST_TOOLS,
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    READ_RESOURCE,
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
    /// [`MessageError::NotMessage`] for a tool that is called without its name, and for a method or a name
    /// that another program may take for another one.
    pub fn new(method: String, name: Option<String>) -> Result<Self, MessageError> {
        use MessageError::NotMessage;
        if check_name(&method).is_err() {
            return Err(NotMessage(
                "a method with control characters, unseen ones, or not in NFKC",
            ));
        }
        let problem = name
            .as_deref()
            .map_or(Ok(()), |name| check_beside(&method, name));
        if problem.is_err() {
            return Err(NotMessage(
                "a name with control characters, unseen ones, or not in NFKC",
            ));
        }
        if name.is_none() && is_spelled(&method, CALL_TOOL) {
            return Err(NotMessage("tools/call without params.name"));
        }
        Ok(Self { method, name })
    }

    /// The call of a tool.
    ///
    /// # Errors
    ///
    /// [`MessageError::NotMessage`] for a name that another program may take for another one.
    pub fn tool_call(name: &str) -> Result<Self, MessageError> {
        Self::new(CALL_TOOL.to_owned(), Some(name.to_owned()))
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

    /// Whether its result may be kept, and served again: what there is, tools among it, or a resource.
    #[must_use]
    pub fn is_cacheable(&self) -> bool {
        CACHEABLE
            .iter()
            .any(|known| is_spelled(&self.method, known))
    }
}

/// Whether a name can stand beside a method.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn check_beside(method: &str, name: &str) -> Result<(), &'static str> {
    match named_by(method) {
        Some(NamedBy::Uri) => check_uri(name),
        Some(NamedBy::Name) | None => check_name(name),
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
        for method in [
            "tools/call",
            "Tools/Call",
            " tools/call ",
            "TOOLS/CALL\u{2028}",
        ] {
            assert!(Call::new(method.to_owned(), None).is_err(), "{method:?}");
            let call = Call::new(method.to_owned(), Some("a".to_owned())).expect(method);
            assert_eq!(call.tool(), Some("a"), "{method:?}");
        }
        let other = Call::new("prompts/get".to_owned(), Some("a".to_owned())).expect("a call");
        assert_eq!((other.tool(), other.name()), (None, Some("a")));
    }

    #[test]
    fn what_another_program_takes_for_another_name_is_none() {
        for (method, name) in [
            ("tools/call\0", Some("a")),
            ("tools/call\n", Some("a")),
            ("\u{feff}tools/call", Some("a")),
            ("tools/\u{200b}call", Some("a")),
            ("tool\u{17f}/call", Some("a")),
            ("tools\u{ff0f}call", Some("a")),
            ("tools/call", Some("a\0")),
            ("Tools/Call", Some("\u{feff}a")),
            ("prompts/get", Some("a\u{1f}")),
            ("prompts/get", Some("\u{ff41}")),
            ("resources/read", Some("file:///a\0")),
            ("Resources/Read", Some("file:///a\r\n")),
            ("ping", Some("a\u{200d}")),
        ] {
            let call = Call::new(method.to_owned(), name.map(str::to_owned));
            assert!(call.is_err(), "{method:?} {name:?}");
        }
        assert!(Call::tool_call("a\0").is_err());
        let uri = Call::new(
            "resources/read".to_owned(),
            Some("file:///\u{fb01}".to_owned()),
        );
        assert!(uri.is_ok());
    }

    #[test]
    fn what_may_be_kept_is_known_in_every_spelling() {
        let is_cacheable =
            |method: &str| Call::new(method.to_owned(), None).is_ok_and(|call| call.is_cacheable());
        for method in [
            "tools/list",
            "Tools/List",
            " prompts/list ",
            "resources/list",
            "RESOURCES/TEMPLATES/LIST",
            "resources/read",
            "server/discover",
        ] {
            assert!(is_cacheable(method), "{method}");
        }
        for method in ["tools/lists", "ping", "", "initialize", "tools/list/"] {
            assert!(!is_cacheable(method), "{method}");
        }
    }

    #[test]
    fn folding_goes_by_upper_case() {
        for (name, folded) in [
            ("Delete_User", "delete_user"),
            ("\u{212a}ill", "kill"),
            ("li\u{17f}t", "list"),
            ("\u{2028}a ", "a"),
        ] {
            assert_eq!(fold(name), folded);
            assert!(is_spelled(name, folded), "{name}");
            assert!(!is_spelled(name, "other"), "{name}");
        }
    }
}
