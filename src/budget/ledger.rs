//! Budgets, leases and shares: counters that never add up to more than the capacity.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Up to this part of the capacity, shares do not bind: while there is plenty, one caller with large
/// requests disturbs nobody, and a quarter is enough for newcomers to get in until something gives way.
const PLENTY: Fraction = Fraction { of: 3, parts: 4 };

/// The most that one share holds beyond that: eight connections (or callers) together are needed to use a
/// budget up, and one alone leaves at least an eighth of it to all others.
const ONE_SHARE: Fraction = Fraction { of: 1, parts: 8 };

struct Fraction {
    of: usize,
    parts: usize,
}

impl Fraction {
    /// Rounded down, without overflow.
    fn part_of(&self, whole: usize) -> usize {
        let part = whole.checked_div(self.parts).unwrap_or_default();
        let rest = whole.checked_rem(self.parts).unwrap_or_default();
        let rest = rest.saturating_mul(self.of).checked_div(self.parts);
        part.saturating_mul(self.of)
            .saturating_add(rest.unwrap_or_default())
    }
}

/// What the whole process may hold of one thing, and what it holds. Clones are the same budget.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Ledger>);

#[derive(Debug)]
struct Ledger {
    name: &'static str,
    capacity: usize,
    /// From here on shares bind.
    plenty: usize,
    one_share: usize,
    used: AtomicUsize,
    refused: AtomicU64,
    evicted: AtomicU64,
}

/// What one connection or one caller holds of a budget. Clones are the same share.
#[derive(Debug, Clone, Default)]
pub struct Share(Arc<AtomicUsize>);

impl Share {
    /// A share that holds nothing yet. It belongs to the one budget that it is used with.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is held on its behalf.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one share holds of an amount that is leased apart from it. It is given back when this is dropped.
#[derive(Debug)]
pub struct Holding {
    share: Share,
    amount: usize,
}

impl Share {
    /// Holds an amount that is leased apart from the share, as long as it is used on its behalf.
    #[must_use]
    pub fn hold(&self, amount: usize) -> Holding {
        self.0.fetch_add(amount, Ordering::Relaxed);
        Holding {
            share: self.clone(),
            amount,
        }
    }
}

impl Holding {
    /// What the share holds in all.
    #[must_use]
    pub fn of_share(&self) -> usize {
        self.share.held()
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.share.0.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// An amount that is held, on behalf of its shares. It is given back when this is dropped.
#[derive(Debug)]
pub struct Lease {
    budget: Budget,
    shares: Vec<Share>,
    amount: usize,
}

/// A budget has no room for a larger lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// The name of the budget.
    pub budget: &'static str,
    /// What stood in the way.
    pub bound: Bound,
}

/// What a lease may not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The budget of the process.
    Capacity,
    /// The part of it that one share may hold while it is short.
    Share,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { budget, bound } = self;
        match bound {
            Bound::Capacity => write!(f, "the budget of {budget} is used up"),
            Bound::Share => write!(
                f,
                "the budget of {budget} is short, and the share of this connection or caller is used up"
            ),
        }
    }
}

impl std::error::Error for Exhausted {}

impl Budget {
    /// A budget of which nothing is used. `name` is what metrics and refusals call it; the capacity is in
    /// the unit of what is leased (bytes, connections).
    #[must_use]
    pub fn new(name: &'static str, capacity: usize) -> Self {
        Self(Arc::new(Ledger {
            name,
            capacity,
            plenty: PLENTY.part_of(capacity),
            one_share: ONE_SHARE.part_of(capacity),
            used: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }))
    }

    /// A lease of nothing yet, on behalf of these shares. Without any it is bounded by the capacity alone.
    #[must_use]
    pub fn lease(&self, shares: impl IntoIterator<Item = Share>) -> Lease {
        Lease {
            budget: self.clone(),
            shares: shares.into_iter().collect(),
            amount: 0,
        }
    }

    /// What metrics and refusals call it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// The most that is leased at a time.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// What is leased now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// How often a lease was refused to grow.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// How many leases were ended to make room in it.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.0.evicted.load(Ordering::Relaxed)
    }

    /// So many leases were asked to end, to make room.
    pub fn on_evicted(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.0.evicted.fetch_add(count, Ordering::Relaxed);
    }

    /// Whether more than three quarters are used, so that shares bind.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.used() > self.0.plenty
    }

    /// The most that one share may hold while the budget is short.
    #[must_use]
    pub fn one_share(&self) -> usize {
        self.0.one_share
    }

    /// Counts a refusal that was decided on by other means than [`Lease::grow`].
    #[must_use]
    pub fn refuse_capacity(&self) -> Exhausted {
        self.refuse(Bound::Capacity)
    }

    fn refuse(&self, bound: Bound) -> Exhausted {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        Exhausted {
            budget: self.name(),
            bound,
        }
    }

    /// Counts a refusal to a share that holds all it may.
    #[must_use]
    pub fn refuse_share(&self) -> Exhausted {
        self.refuse(Bound::Share)
    }

    /// Takes `more`, unless the capacity does not allow it; answers with what is used then.
    fn take(&self, more: usize) -> Option<usize> {
        let capacity = self.0.capacity;
        let fits = |used: usize| used.checked_add(more).filter(|sum| *sum <= capacity);
        let before = self
            .0
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        before.ok().map(|before| before.saturating_add(more))
    }

    fn give_back(&self, amount: usize) {
        self.0.used.fetch_sub(amount, Ordering::Relaxed);
    }
}

impl Lease {
    /// What is held.
    #[must_use]
    pub const fn amount(&self) -> usize {
        self.amount
    }

    /// Holds `more`, or as much as before.
    ///
    /// # Errors
    ///
    /// [`Exhausted`] when the budget has not so much left, or when it is short and a share of this lease
    /// would hold more than an eighth of the capacity.
    pub fn grow(&mut self, more: usize) -> Result<(), Exhausted> {
        if more == 0 {
            return Ok(());
        }
        let Some(used) = self.budget.take(more) else {
            return Err(self.budget.refuse(Bound::Capacity));
        };
        let most = if used > self.budget.0.plenty {
            self.budget.0.one_share
        } else {
            usize::MAX
        };
        for (place, share) in self.shares.iter().enumerate() {
            let before = share.0.fetch_add(more, Ordering::Relaxed);
            if before.saturating_add(more) > most {
                for taken in self.shares.iter().take(place.saturating_add(1)) {
                    taken.0.fetch_sub(more, Ordering::Relaxed);
                }
                self.budget.give_back(more);
                return Err(self.budget.refuse(Bound::Share));
            }
        }
        self.amount = self.amount.saturating_add(more);
        Ok(())
    }

    /// Holds exactly so much, or as much as before.
    ///
    /// # Errors
    ///
    /// Those of [`Lease::grow`].
    pub fn resize(&mut self, amount: usize) -> Result<(), Exhausted> {
        self.shrink(self.amount.saturating_sub(amount));
        self.grow(amount.saturating_sub(self.amount))
    }

    /// Moves an amount, at most all, to a lease of its own.
    #[must_use]
    pub fn split(&mut self, amount: usize) -> Self {
        let amount = amount.min(self.amount);
        self.amount = self.amount.saturating_sub(amount);
        Self {
            budget: self.budget.clone(),
            shares: self.shares.clone(),
            amount,
        }
    }

    /// Gives `less` back, at most all.
    pub fn shrink(&mut self, less: usize) {
        let less = less.min(self.amount);
        if less == 0 {
            return;
        }
        self.amount = self.amount.saturating_sub(less);
        for share in &self.shares {
            share.0.fetch_sub(less, Ordering::Relaxed);
        }
        self.budget.give_back(less);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shrink(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::{Bound, Budget, Exhausted, Lease, Share};
    use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
    use std::thread;

    fn exhausted(bound: Bound) -> Exhausted {
        Exhausted {
            budget: "test",
            bound,
        }
    }

    #[test]
    fn a_lease_grows_as_far_as_the_capacity_and_the_share_allow() {
        // Of 800: shares bind above 600, and then at 100.
        for (others, held, more, expected) in [
            (0, 0, 0, Ok(())),
            (0, 0, 600, Ok(())),
            (0, 0, 601, Err(Bound::Share)),
            (0, 0, 800, Err(Bound::Share)),
            (0, 0, 801, Err(Bound::Capacity)),
            (0, 0, usize::MAX, Err(Bound::Capacity)),
            (0, 600, 1, Err(Bound::Share)),
            (0, 600, 0, Ok(())),
            (500, 100, 1, Err(Bound::Share)),
            (500, 99, 1, Ok(())),
            (500, 0, 101, Err(Bound::Share)),
            (500, 0, 100, Ok(())),
            (700, 0, 100, Ok(())),
            (700, 0, 101, Err(Bound::Capacity)),
            (700, 60, 41, Err(Bound::Capacity)),
            (700, 60, 40, Ok(())),
            (800, 0, 1, Err(Bound::Capacity)),
            (800, 0, 0, Ok(())),
        ] {
            let budget = Budget::new("test", 800);
            let share = Share::new();
            let mut rest = budget.lease([]);
            rest.grow(others).expect("it fits");
            let mut lease = budget.lease([share.clone()]);
            lease.grow(held).expect("it fits");
            let row = (others, held, more);
            assert_eq!(lease.grow(more), expected.map_err(exhausted), "{row:?}");
            let now = if expected.is_ok() { held + more } else { held };
            assert_eq!((lease.amount(), share.held()), (now, now), "{row:?}");
            assert_eq!(budget.used(), others + now, "{row:?}");
            assert_eq!(budget.refused(), u64::from(expected.is_err()), "{row:?}");
            drop((lease, rest));
            assert_eq!((budget.used(), share.held()), (0, 0), "{row:?}");
        }
    }

    #[test]
    fn every_share_of_a_lease_binds() {
        let budget = Budget::new("test", 800);
        let (connection, caller) = (Share::new(), Share::new());
        let mut rest = budget.lease([]);
        rest.grow(550).expect("it fits");
        let mut other = budget.lease([caller.clone()]);
        other.grow(60).expect("it fits");
        let mut lease = budget.lease([connection.clone(), caller.clone()]);
        assert_eq!(lease.grow(41), Err(exhausted(Bound::Share)));
        assert_eq!(
            (connection.held(), caller.held(), budget.used()),
            (0, 60, 610)
        );
        assert_eq!(lease.grow(40), Ok(()));
        drop(other);
        assert_eq!((connection.held(), caller.held()), (40, 40));
        assert_eq!(lease.grow(60), Ok(()));
        lease.shrink(30);
        assert_eq!((connection.held(), budget.used()), (70, 620));
        lease.shrink(usize::MAX);
        assert_eq!(
            (connection.held(), caller.held(), budget.used()),
            (0, 0, 550)
        );
    }

    #[test]
    fn odd_capacities_have_sound_shares() {
        for (capacity, plenty, one_share) in [
            (0, 0, 0),
            (1, 0, 0),
            (7, 5, 0),
            (8, 6, 1),
            (1001, 750, 125),
            (usize::MAX, usize::MAX / 4 * 3 + 2, usize::MAX / 8),
        ] {
            let budget = Budget::new("test", capacity);
            assert_eq!(
                (budget.0.plenty, budget.one_share()),
                (plenty, one_share),
                "{capacity}"
            );
        }
    }

    #[test]
    fn threads_never_exceed_a_budget_together() {
        let budget = Budget::new("test", 1000);
        let shares = [Share::new(), Share::new()];
        thread::scope(|scope| {
            for number in 0..4 {
                let (budget, share) = (budget.clone(), shares[number % 2].clone());
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let mut lease = budget.lease([share.clone()]);
                        let grown = lease.grow(round % 300);
                        assert!(budget.used() <= 1000);
                        assert_eq!(lease.amount(), grown.map_or(0, |()| round % 300));
                        lease.shrink(round % 7);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
        assert_eq!(shares.map(|share| share.held()), [0, 0]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Open {
            connection: Option<usize>,
            caller: Option<usize>,
        },
        Grow {
            lease: usize,
            more: usize,
        },
        Shrink {
            lease: usize,
            less: usize,
        },
        Resize {
            lease: usize,
            amount: usize,
        },
        Split {
            lease: usize,
            amount: usize,
        },
        Close {
            lease: usize,
        },
    }

    /// A lease with its connection and its caller.
    type Held = (Option<usize>, Option<usize>, Lease);

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let who = || prop_oneof![Just(None), (0..3_usize).prop_map(Some)];
        let amount = || prop_oneof![0..50_usize, 0..1200_usize, any::<usize>()];
        let lease = || 0..8_usize;
        let step = prop_oneof![
            2 => (who(), who()).prop_map(|(connection, caller)| Step::Open { connection, caller }),
            6 => (lease(), amount()).prop_map(|(lease, more)| Step::Grow { lease, more }),
            2 => (lease(), amount()).prop_map(|(lease, less)| Step::Shrink { lease, less }),
            2 => (lease(), amount()).prop_map(|(lease, amount)| Step::Resize { lease, amount }),
            1 => (lease(), amount()).prop_map(|(lease, amount)| Step::Split { lease, amount }),
            1 => lease().prop_map(|lease| Step::Close { lease }),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        /// The books balance after every step, whatever the steps are.
        #[test]
        fn the_sum_of_all_leases_is_what_is_used(capacity in 0..1000_usize, steps in steps()) {
            let budget = Budget::new("test", capacity);
            let connections = [(); 3].map(|()| Share::new());
            let callers = [(); 3].map(|()| Share::new());
            let mut leases: Vec<Held> = Vec::new();
            for step in steps {
                match step {
                    Step::Open { connection, caller } => {
                        let shares = [
                            connection.map(|place| connections[place].clone()),
                            caller.map(|place| callers[place].clone()),
                        ];
                        let lease = budget.lease(shares.into_iter().flatten());
                        leases.push((connection, caller, lease));
                    }
                    Step::Grow { lease, more } => {
                        let Some((connection, caller, lease)) = leases.get_mut(lease) else { continue };
                        let before = lease.amount();
                        let grown = lease.grow(more);
                        assert_eq!(lease.amount(), grown.map_or(before, |()| before + more));
                        let held = connection.map(|place| connections[place].held()).into_iter()
                            .chain(caller.map(|place| callers[place].held()));
                        if grown.is_ok() && more > 0 && budget.is_short() {
                            assert!(held.max().unwrap_or(0) <= budget.one_share());
                        }
                    }
                    Step::Shrink { lease, less } => {
                        if let Some((.., lease)) = leases.get_mut(lease) {
                            lease.shrink(less);
                        }
                    }
                    Step::Resize { lease, amount } => {
                        let Some((.., lease)) = leases.get_mut(lease) else { continue };
                        let before = lease.amount();
                        let resized = lease.resize(amount);
                        assert_eq!(lease.amount(), resized.map_or(before, |()| amount));
                    }
                    Step::Split { lease, amount } => {
                        let Some((connection, caller, lease)) = leases.get_mut(lease) else { continue };
                        let before = lease.amount();
                        let (connection, caller, part) = (*connection, *caller, lease.split(amount));
                        assert_eq!((part.amount(), lease.amount()), (amount.min(before), before.saturating_sub(amount)));
                        leases.push((connection, caller, part));
                    }
                    Step::Close { lease } => {
                        if lease < leases.len() {
                            leases.swap_remove(lease);
                        }
                    }
                }
                let sum = |of: &dyn Fn(&Held) -> bool| -> usize {
                    leases.iter().filter(|lease| of(lease)).map(|(.., lease)| lease.amount()).sum()
                };
                assert_eq!(budget.used(), sum(&|_| true));
                assert!(budget.used() <= capacity);
                for place in 0..3 {
                    assert_eq!(connections[place].held(), sum(&|lease| lease.0 == Some(place)));
                    assert_eq!(callers[place].held(), sum(&|lease| lease.1 == Some(place)));
                }
            }
            drop(leases);
            assert_eq!(budget.used(), 0);
            for share in connections.iter().chain(&callers) {
                assert_eq!(share.held(), 0);
            }
        }
    }
}
