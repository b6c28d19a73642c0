//! What is held of an answer until it can be read.

use std::fmt;

use super::error::AnswerError;

/// How much of one answer, or of one event, is held. Servers with hundreds of tools list them in pages far
/// below this.
pub const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// The bytes of one answer, or of one event. They grow in [`Held::push`] and nowhere else.
#[derive(Default)]
pub struct Held {
    bytes: Vec<u8>,
    /// How many bytes are announced; the buffer grows to no more while they are right.
    announced: usize,
}

impl Held {
    /// Nothing yet of an answer that announces so many bytes.
    #[must_use]
    pub const fn announced(bytes: usize) -> Self {
        Self {
            bytes: Vec::new(),
            announced: bytes,
        }
    }

    /// Adds bytes.
    ///
    /// # Errors
    ///
    /// [`AnswerError::TooLarge`] when they would be more than [`MAX_ANSWER_BYTES`] together; then none of
    /// these is held.
    pub fn push(&mut self, more: &[u8]) -> Result<(), AnswerError> {
        let length = self.bytes.len().saturating_add(more.len());
        if length > MAX_ANSWER_BYTES {
            return Err(AnswerError::TooLarge);
        }
        if length > self.bytes.capacity() {
            // By doubling, as a vector grows, and not beyond what may be held.
            let doubled = self.bytes.capacity().saturating_mul(2);
            let most = if length <= self.announced {
                self.announced
            } else {
                MAX_ANSWER_BYTES
            };
            let room = doubled.clamp(length, most.min(MAX_ANSWER_BYTES));
            let held = self.bytes.len();
            self.bytes.reserve_exact(room.saturating_sub(held));
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// What is held.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The memory that it takes.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.bytes.capacity()
    }

    /// The bytes themselves.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Shows how much is held and not what.
impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::{AnswerError, Held, MAX_ANSWER_BYTES};

    #[test]
    fn no_more_is_held_than_is_said() {
        let mut held = Held::default();
        for _ in 0..MAX_ANSWER_BYTES / 1000 {
            assert_eq!(held.push(&[b'x'; 1000]), Ok(()));
            assert!(held.size() <= MAX_ANSWER_BYTES);
        }
        assert_eq!(held.push(&[b'x'; 1000]), Err(AnswerError::TooLarge));
        let length = held.bytes().len();
        assert_eq!(length, MAX_ANSWER_BYTES / 1000 * 1000);
        let rest = vec![b'x'; MAX_ANSWER_BYTES - length];
        assert_eq!(held.push(&rest), Ok(()));
        assert_eq!(held.push(b"x"), Err(AnswerError::TooLarge));
        assert_eq!(held.push(b""), Ok(()));
        assert_eq!(held.into_bytes().len(), MAX_ANSWER_BYTES);
    }
}
