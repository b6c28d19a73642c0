//! A route: which requests it is about, and what it asks of them.

use super::condition::Condition;
use super::message::McpCondition;
use super::pattern::Pattern;

/// One `[[route]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Which paths.
    pub pattern: Pattern,
    /// Which methods.
    pub methods: Methods,
    /// Which MCP messages, which come by POST; `None` when that is no matter.
    pub mcp: Option<McpCondition>,
    /// What is asked.
    pub access: Access,
    /// Refusals are logged and counted, and not made.
    pub shadow: bool,
}

/// The methods of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Methods {
    /// All that no other route with the same path names.
    Remaining,
    /// These, spelled exactly.
    Only(Vec<String>),
}

/// What a route asks of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Access {
    /// A valid token whose claims satisfy the condition.
    Authenticated(Condition),
    /// Nobody may pass.
    Deny,
    /// No token is needed.
    Public,
}

impl Access {
    /// The name used in configuration and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Authenticated(_) => "authenticated",
            Self::Deny => "deny",
            Self::Public => "public",
        }
    }
}
