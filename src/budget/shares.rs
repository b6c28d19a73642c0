//! What one client connection, or one caller, holds of the budgets that have shares.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Share;

/// How many callers are known before those who are gone are looked for the first time.
const FIRST_SWEEP: usize = 1024;

/// The shares of one client connection, or of one caller.
#[derive(Debug, Clone, Default)]
pub struct Shares {
    /// Of the connections to the upstream, those whose exchange runs.
    pub upstream_connections: Share,
    /// Of the bytes of MCP messages.
    pub messages: Share,
    /// Of the bytes of answers that are read to be filtered.
    pub answers: Share,
}

/// The shares of every caller of whom something is known: a verified token, or a request.
#[derive(Debug)]
pub struct Callers {
    /// All requests without a token are one caller: nothing tells them apart that one of them could not change.
    anonymous: Arc<Shares>,
    names: RandomState,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// By a number that nobody can choose. Two callers with one number would share a share.
    shares: HashMap<u64, Weak<Shares>>,
    next_sweep: usize,
}

impl Default for Callers {
    fn default() -> Self {
        Self {
            anonymous: Arc::default(),
            names: RandomState::new(),
            known: Mutex::new(Known {
                shares: HashMap::new(),
                next_sweep: FIRST_SWEEP,
            }),
        }
    }
}

impl Callers {
    /// The shares of all requests without a token.
    #[must_use]
    pub const fn anonymous(&self) -> &Arc<Shares> {
        &self.anonymous
    }

    /// The shares of a caller, whichever of its tokens it comes with.
    #[must_use]
    pub fn verified(&self, issuer: &str, subject: &str) -> Arc<Shares> {
        let name = self.names.hash_one((issuer, subject));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shares) = known.shares.get(&name).and_then(Weak::upgrade) {
            return shares;
        }
        if known.shares.len() >= known.next_sweep {
            known.shares.retain(|_, shares| shares.strong_count() > 0);
            known.next_sweep = known.shares.len().saturating_mul(2).max(FIRST_SWEEP);
        }
        let shares = Arc::<Shares>::default();
        known.shares.insert(name, Arc::downgrade(&shares));
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::{Callers, FIRST_SWEEP};
    use std::sync::Arc;

    #[test]
    fn a_caller_is_issuer_and_subject() {
        let callers = Callers::default();
        let alice = callers.verified("https://a/", "alice");
        for (issuer, subject, is_she) in [
            ("https://a/", "alice", true),
            ("https://b/", "alice", false),
            ("https://a/", "bob", false),
            ("https://a/a", "lice", false),
            ("https://a/", "", false),
        ] {
            let found = callers.verified(issuer, subject);
            assert_eq!(Arc::ptr_eq(&alice, &found), is_she, "{issuer} {subject}");
        }
        assert!(!Arc::ptr_eq(&alice, callers.anonymous()));
    }

    #[test]
    fn callers_of_whom_nothing_is_left_are_forgotten() {
        let callers = Callers::default();
        let alice = callers.verified("https://a/", "alice");
        for number in 0..10 * FIRST_SWEEP {
            drop(callers.verified("https://a/", &number.to_string()));
        }
        let known = || callers.known.lock().expect("no panic").shares.len();
        assert!(known() <= FIRST_SWEEP, "{}", known());
        let many: Vec<_> = (0..3 * FIRST_SWEEP)
            .map(|number| callers.verified("https://a/", &number.to_string()))
            .collect();
        assert!(known() >= many.len());
        assert!(Arc::ptr_eq(
            &alice,
            &callers.verified("https://a/", "alice")
        ));
    }
}
