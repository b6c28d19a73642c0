//! What strangers can make the process hold, bounded for the process and not only for each of them.
//!
//! A [`Budget`] is an amount of one thing (bytes, connections) that the whole process may hold; a [`Lease`]
//! is a part of it that is in use; a [`Share`] adds up the leases of one connection or one caller. A [`Reading`] and
//! a [`Flow`] are how the bytes of bodies get their leases: while they are read, and until they are written. [`Sizes`]
//! computes all budgets from the limits that [`container`] finds. The sizes are explained in
//! `docs/limits.md`, whose table a test compares with the code.
//!
//! Nothing here waits, reads a clock or does I/O: whoever is refused decides what gives way.

pub mod container;
mod flow;
mod ledger;
mod reading;
mod shares;
mod sizes;

pub use flow::Flow;
pub use ledger::{Bound, Budget, Exhausted, Holding, Lease, Share};
pub use reading::{FIRST_BUFFER, Reading};
pub use shares::{Callers, Shares};
pub use sizes::{Budgets, Sizes};
