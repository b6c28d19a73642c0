//! The Model Context Protocol, as far as rules need it: what a request asks for, whose session it is,
//! and which tools an answer names. Pure.
//!
//! What cannot be read with certainty is refused: a rule that guesses is no rule.

mod answer;
mod body;
mod error;
mod events;
mod fields;
mod held;
mod message;
mod name;
mod session;

pub use answer::{View, filter_answer};
pub use body::{Body, RequestId, read_body};
pub use error::{AnswerError, MessageError};
pub use events::{Doubt, Events};
pub use fields::{Revision, check_body_kind, mirrors, revision};
pub use held::{Held, MAX_ANSWER_BYTES};
pub(crate) use message::fold;
pub use message::{Call, Message};
pub(crate) use name::check_name;
pub use session::{
    BoundSession, KeyError, Principal, SessionKeys, UnknownSession, bind_answer, bind_request,
};

/// How deeply arrays and objects may nest. Tools take documents as arguments and describe them by
/// schemas, which nest twice as deep; recursion must end somewhere, and serde's own ends at 128.
const MAX_DEPTH: u8 = 100;

/// A map of these lines.
#[cfg(test)]
fn headers_of(lines: &[(&str, &str)]) -> http::HeaderMap {
    let line = |(name, value): &(&str, &str)| {
        let name = http::HeaderName::try_from(*name).expect("a name");
        let value = http::HeaderValue::from_bytes(value.as_bytes()).expect("a value");
        (name, value)
    };
    lines.iter().map(line).collect()
}
