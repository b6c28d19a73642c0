//! May this request pass? Pure: method, path and claims go in, a [`Permit`] or a [`Denial`] comes out.
//!
//! Claims are judged by [`Condition`]s. Which conditions apply is decided by the path, under every
//! reading that a backend could make of it ([`crate::canonical::Readings`]), so that no spelling borrows a weaker rule.

mod area;
mod condition;
mod decision;
mod message;
mod pattern;
mod route;
mod table;

pub use area::{Area, Areas};
pub use condition::{ClaimTest, Condition, ListMode, Scalar};
pub use decision::{
    AppliedRule, Caller, Denial, Matched, MatchedPreflight, MatchedRequest, Miss, Permit, Policy,
    Requirement, Ruling,
};
pub use message::{McpCondition, NamePattern, NamePatternError};
pub use pattern::{Pattern, PatternError};
pub use route::{Access, Methods, Route};
pub use table::DuplicateRoute;
