//! Numbers that only need to differ: request ids, trace ids, jitter. No secret is made of them.

use std::hash::{BuildHasher as _, RandomState};

/// A stream of numbers from the standard library's randomly keyed hash, by counting.
#[derive(Debug)]
pub struct Random {
    key: RandomState,
    count: u64,
}

impl Random {
    /// A stream with a key of its own.
    #[must_use]
    pub fn new() -> Self {
        Self {
            key: RandomState::new(),
            count: 0,
        }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.count = self.count.wrapping_add(1);
        self.key.hash_one(self.count)
    }

    /// The next number from 0 to 1.
    pub fn unit(&mut self) -> f64 {
        let top = u32::try_from(self.bits() >> 32).unwrap_or(u32::MAX);
        f64::from(top) / f64::from(u32::MAX)
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}
