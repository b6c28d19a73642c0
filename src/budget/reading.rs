//! The buffer that a connection reads into.

use super::{Budget, Lease};

/// What every connection has to read into, from the start: hyper's first buffer. It is a part of what a
/// connection costs and is in no other budget.
pub const FIRST_BUFFER: usize = 8 * 1024;

/// What is read at a time where the budget is short: less than half of the smallest buffer that is not the
/// first one, so that hyper halves its buffer at every second read.
const SMALL_READ: usize = 4 * 1024 - 1;

/// Follows the growth of a connection's buffer, which hyper doubles when a read has filled it, halves when
/// two reads have filled less than half of it, and keeps in between. What is beyond the first buffer is
/// leased, and so is what a read that fills it leads to.
#[derive(Debug)]
pub struct Reading {
    lease: Lease,
    most: usize,
}

impl Reading {
    /// A connection with its first buffer, which grows to at most so many bytes.
    #[must_use]
    pub fn new(budget: &Budget, most: usize) -> Self {
        Self {
            lease: budget.lease([]),
            most,
        }
    }

    /// What is leased.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.lease.amount()
    }

    /// How many bytes may be read into a buffer with so much space. Fewer than the space where it must not
    /// grow, and very few where it must shrink.
    #[must_use]
    pub fn allow(&mut self, budget: &Budget, space: usize) -> usize {
        let beyond = space.saturating_sub(FIRST_BUFFER);
        let doubled = space.saturating_mul(2).min(self.most.max(space));
        let ahead = doubled.saturating_sub(FIRST_BUFFER);
        if beyond == 0 {
            self.hold(0);
            // What is not filled does not grow.
            let less = usize::from(budget.is_short());
            return space.saturating_sub(less).max(1);
        }
        if budget.is_short() {
            self.hold(beyond);
            return space.min(SMALL_READ);
        }
        if self.hold(ahead) {
            return space;
        }
        if self.hold(beyond) {
            return space.saturating_sub(1);
        }
        space.min(SMALL_READ)
    }

    /// Holds exactly so much; false, and no less than before, where that is not to be had.
    fn hold(&mut self, amount: usize) -> bool {
        let held = self.lease.amount();
        if amount < held {
            self.lease.shrink(held.saturating_sub(amount));
        }
        let more = amount.saturating_sub(held);
        more == 0 || self.lease.grow(more).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST_BUFFER, Reading, SMALL_READ};
    use crate::budget::Budget;

    const KIB: usize = 1024;

    #[test]
    fn a_buffer_grows_as_long_as_there_is_plenty() {
        let budget = Budget::new("test", 512 * KIB);
        let mut others = budget.lease([]);
        others.grow(128 * KIB).expect("it fits");
        let mut reading = Reading::new(&budget, 512 * KIB);
        for (space, allowed, held) in [
            (FIRST_BUFFER, FIRST_BUFFER, 0),
            (100, 100, 0),
            (16 * KIB, 16 * KIB, 24 * KIB),
            (32 * KIB, 32 * KIB, 56 * KIB),
            (128 * KIB, 128 * KIB, 248 * KIB),
            // Doubled it would be more than there is.
            (256 * KIB, 256 * KIB - 1, 248 * KIB),
            (FIRST_BUFFER, FIRST_BUFFER, 0),
        ] {
            assert_eq!(reading.allow(&budget, space), allowed, "{space}");
            assert_eq!(reading.held(), held, "{space}");
            assert_eq!(budget.used(), 128 * KIB + held, "{space}");
        }
        // What cannot grow any more is not leased twice.
        let mut reading = Reading::new(&budget, 256 * KIB);
        assert_eq!(reading.allow(&budget, 256 * KIB), 256 * KIB);
        assert_eq!(reading.held(), 248 * KIB);
    }

    #[test]
    fn buffers_shrink_where_the_budget_is_short() {
        let budget = Budget::new("test", 100 * KIB);
        let mut reading = Reading::new(&budget, 256 * KIB);
        assert_eq!(reading.allow(&budget, 32 * KIB), 32 * KIB);
        let mut others = budget.lease([]);
        for (space, allowed, held) in [
            (64 * KIB, SMALL_READ, 56 * KIB),
            (32 * KIB, SMALL_READ, 24 * KIB),
            (16 * KIB, SMALL_READ, 8 * KIB),
            (FIRST_BUFFER, FIRST_BUFFER - 1, 0),
            (1, 1, 0),
        ] {
            others
                .grow(budget.capacity() - budget.used())
                .expect("it fits");
            assert_eq!(reading.allow(&budget, space), allowed, "{space}");
            assert_eq!(reading.held(), held, "{space}");
        }
        drop(others);
        assert_eq!(reading.allow(&budget, FIRST_BUFFER), FIRST_BUFFER);
    }
}
