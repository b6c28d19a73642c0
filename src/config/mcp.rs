//! `[mcp]`: how far MCP messages are read.

use super::reader::{Problems, Section};

/// `[mcp]`
#[derive(Debug, Clone)]
pub struct McpSettings {
    /// Whether what a request asks for is read from its body, where rules want to know.
    pub read_bodies: bool,
    /// The longest body that is read for it.
    pub max_body: usize,
}

/// Reads `[mcp]`; `is_gated` says whether a route asks for messages.
pub(super) fn read(mut section: Section, is_gated: bool, problems: &mut Problems) -> McpSettings {
    let read_bodies = switch(&mut section, "read_bodies", is_gated, problems);
    let max_body = section
        .positive_size("max_body", problems)
        .unwrap_or(1024 * 1024);
    section.finish(problems);
    McpSettings {
        read_bodies,
        max_body,
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
