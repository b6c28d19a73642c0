//! Numbers that only need to differ: request ids, jitter. No secret is made of them.

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

    /// The next 64 bits as hexadecimal digits.
    pub fn digits(&mut self) -> [u8; 16] {
        digits(self.bits())
    }

    /// The next number from 0 to 1.
    pub fn unit(&mut self) -> f64 {
        let top = u32::try_from(self.bits() >> 32).unwrap_or(u32::MAX);
        f64::from(top) / f64::from(u32::MAX)
    }
}

fn digits(bits: u64) -> [u8; 16] {
    // Spread out first, so that the compiler turns all sixteen at once.
    let mut digits = [0; 16];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bits.to_be_bytes()) {
        pair.copy_from_slice(&[byte >> 4, byte & 15]);
    }
    digits.map(|digit| digit.wrapping_add(if digit < 10 { b'0' } else { b'a' - 10 }))
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{Random, digits};

    #[test]
    fn digits_are_the_number() {
        for number in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX, u64::MAX << 4] {
            assert_eq!(digits(number), format!("{number:016x}").as_bytes());
        }
    }

    #[test]
    fn numbers_differ() {
        let mut random = Random::new();
        assert_ne!(random.digits(), random.digits());
        assert_ne!(Random::new().bits(), Random::new().bits());
    }
}
