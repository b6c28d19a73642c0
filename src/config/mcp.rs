//! `[mcp]`: how far MCP messages are read, and whose sessions are.

use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;

use super::reader::{Problems, Section};
use super::sources::Sources;
use crate::mcp::{KeyError, SessionKeys};

/// The variable with the keys.
pub(super) const KEY_VARIABLE: &str = "AUTHGATE_MCP_SESSION_KEY";

/// The most that is read of a file of keys: far more than as many keys as there may be.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// `[mcp]`
#[derive(Debug, Clone)]
pub struct McpSettings {
    /// Whether what a request asks for is read from its body, where rules want to know.
    pub read_bodies: bool,
    /// The longest body that is read for it.
    pub max_body: usize,
    /// Whether answers list only the tools that the caller may call.
    pub filter_tools: bool,
    /// Where the keys are with which a session belongs to who opened it.
    pub sessions: SessionKeySource,
}

/// Where the keys of sessions come from.
#[derive(Debug, Clone)]
pub enum SessionKeySource {
    /// Nowhere, so that sessions belong to nobody.
    None,
    /// The environment.
    Given(SessionKeys),
    /// This file.
    File(PathBuf),
}

/// Why there are no keys of sessions.
#[derive(Debug)]
pub struct SessionKeyError {
    file: PathBuf,
    why: String,
}

impl fmt::Display for SessionKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, why) = (self.file.display(), &self.why);
        write!(f, "mcp.session_key_file: {file}: {why}")
    }
}

impl std::error::Error for SessionKeyError {}

impl SessionKeySource {
    /// Reads the keys.
    ///
    /// # Errors
    ///
    /// [`SessionKeyError`] when the file cannot be read, or does not hold what it should.
    pub fn load(&self) -> Result<Option<SessionKeys>, SessionKeyError> {
        match self {
            Self::None => Ok(None),
            Self::Given(keys) => Ok(Some(keys.clone())),
            Self::File(file) => {
                let wrong = |why: String| SessionKeyError {
                    file: file.clone(),
                    why,
                };
                let mut text = String::new();
                std::fs::File::open(file)
                    .and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text))
                    .map_err(|error| wrong(error.to_string()))?;
                let keys = SessionKeys::parse(&text);
                keys.map(Some)
                    .map_err(|error: KeyError| wrong(error.to_string()))
            }
        }
    }

    /// The file, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        match self {
            Self::None | Self::Given(_) => None,
            Self::File(file) => Some(file.clone()),
        }
    }
}

/// Reads `[mcp]`; `is_gated` says whether a route asks for messages.
pub(super) fn read(
    mut section: Section,
    is_gated: bool,
    sources: &mut Sources<'_>,
    problems: &mut Problems,
) -> McpSettings {
    let read_bodies = switch(&mut section, "read_bodies", is_gated, problems);
    let max_body = section
        .positive_size("max_body", problems)
        .unwrap_or(1024 * 1024);
    let filter_tools = switch(&mut section, "filter_tools", is_gated, problems);
    let sessions = sessions(&mut section, sources, problems);
    section.finish(problems);
    McpSettings {
        read_bodies,
        max_body,
        filter_tools,
        sessions,
    }
}

/// The variable wins over the file. What it holds is shown nowhere.
fn sessions(
    section: &mut Section,
    sources: &mut Sources<'_>,
    problems: &mut Problems,
) -> SessionKeySource {
    let file = section.string("session_key_file", problems);
    match (sources.variable(KEY_VARIABLE, problems), file) {
        (None, None) => SessionKeySource::None,
        (None, Some(file)) => SessionKeySource::File(file.into()),
        (Some(variable), file) => {
            if let Some(file) = file {
                sources.notes.push(format!(
                    "mcp.session_key_file: {KEY_VARIABLE} wins over the file {file}"
                ));
            }
            match SessionKeys::parse(&variable.value) {
                Ok(keys) => SessionKeySource::Given(keys),
                Err(error) => {
                    problems.error(KEY_VARIABLE, error.to_string());
                    SessionKeySource::None
                }
            }
        }
    }
}

/// A switch for routes with `mcp`.
fn switch(
    section: &mut Section,
    key: &'static str,
    is_gated: bool,
    problems: &mut Problems,
) -> bool {
    let path = section.path_of(key);
    let is_on = section.boolean(key, problems).unwrap_or(false);
    if is_on && !is_gated {
        problems.warning(path, "does nothing without a [[route]] that has mcp");
    }
    is_on
}
