//! The text of tokens, proofs and keys, kept so that no log can show it.

use std::fmt;

/// Text or bytes that must not be shown: `Debug` hides them, and there is no `Display`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Keeps this.
    #[must_use]
    pub const fn new(secret: T) -> Self {
        Self(secret)
    }

    /// What is kept. It must not go into a log, an error or an answer.
    #[must_use]
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
