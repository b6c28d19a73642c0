//! What strangers can make the process hold, bounded for the process and not only for each of them.
//!
//! A [`Budget`] is an amount of one thing (bytes, connections) that the whole process may hold; a [`Lease`]
//! is a part of it that is in use; a [`Share`] adds up the leases of one connection or one caller. [`Sizes`]
//! computes all budgets from the limits that [`container`] finds. The sizes are explained in
//! `docs/limits.md`, whose table a test compares with the code.
//!
//! Nothing here waits, reads a clock or does I/O: whoever is refused decides what gives way.

pub mod container;
mod ledger;
mod sizes;

pub use ledger::{Bound, Budget, Exhausted, Lease, Share};
pub use sizes::{Budgets, Sizes};
