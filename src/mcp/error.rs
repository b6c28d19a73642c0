//! Why something cannot be decided on, or passed on.

use std::fmt;

use crate::jose::JsonError;

/// Why it is not certain what a request asks for. `Display` is for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageError {
    /// A header that the revision asks for is missing, repeated or malformed.
    Field {
        /// Which.
        name: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The revision puts it into the body, and bodies are not read.
    BodyNotRead,
    /// The body is not of the type or coding that can be read.
    BodyKind(&'static str),
    /// The body is longer than `mcp.max_body`.
    BodyTooLarge,
    /// The body is not JSON, or JSON that two parsers read differently.
    NotJson(JsonError),
    /// It is JSON and not what JSON-RPC and MCP send.
    NotMessage(&'static str),
    /// Headers and body name different things.
    Mismatch {
        /// The header.
        name: &'static str,
    },
}

impl MessageError {
    /// The stable code, for clients, logs and `docs/responses.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Field { .. } => "mcp_header_invalid",
            Self::BodyNotRead => "mcp_body_not_read",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyKind(_) | Self::NotJson(_) | Self::NotMessage(_) => "mcp_unreadable",
            Self::Mismatch { .. } => "mcp_header_mismatch",
        }
    }
}

impl From<JsonError> for MessageError {
    fn from(error: JsonError) -> Self {
        Self::NotJson(error)
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field { name, problem } => write!(f, "{name} {problem}"),
            Self::BodyNotRead => f.write_str(
                "revisions before 2026-07-28 name method and tool in the body only, and mcp.read_bodies is false",
            ),
            Self::BodyKind(problem) | Self::NotMessage(problem) => f.write_str(problem),
            Self::BodyTooLarge => f.write_str("the message is larger than mcp.max_body"),
            Self::NotJson(error) => write!(f, "the body: {error}"),
            Self::Mismatch { name } => write!(f, "{name} and the body differ"),
        }
    }
}

impl std::error::Error for MessageError {}

/// Why an answer is not passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerError {
    /// It is not JSON, or JSON that two parsers read differently.
    NotJson(JsonError),
    /// It is neither JSON nor an event stream, or in a coding.
    Kind(&'static str),
    /// The list of tools is none.
    NotTools(&'static str),
    /// It is more than is held at a time.
    TooLarge,
    /// Its session id is repeated, too long, or not of visible ASCII.
    Session,
}

impl AnswerError {
    /// What is wrong, without anything of the answer's.
    #[must_use]
    pub const fn problem(&self) -> &'static str {
        match self {
            Self::NotJson(_) => "an MCP message that is not JSON, where tools are filtered",
            Self::Kind(problem) | Self::NotTools(problem) => problem,
            Self::TooLarge => "an MCP message of more than 4 MiB, where tools are filtered",
            Self::Session => "an Mcp-Session-Id that is repeated, too long or not visible ASCII",
        }
    }
}

impl From<JsonError> for AnswerError {
    fn from(error: JsonError) -> Self {
        Self::NotJson(error)
    }
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.problem())?;
        match self {
            Self::NotJson(error) => write!(f, ": {error}"),
            Self::Kind(_) | Self::NotTools(_) | Self::TooLarge | Self::Session => Ok(()),
        }
    }
}

impl std::error::Error for AnswerError {}
