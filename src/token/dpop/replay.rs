//! Proofs that were used, remembered for as long as they could be used again (RFC 9449 §11.1).

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Proof;
use crate::clock::UnixTime;

/// What names a proof: a digest of the key, the method, the URI and `jti`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplayKey(pub(super) u128);

/// The proof that a proof holds and was never used before. Only [`ReplayCache::record`] makes one.
#[derive(Debug)]
pub struct FreshProof<'b>(Proof<'b>);

/// Why a proof is not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRecorded {
    /// It was used before.
    Replayed,
    /// There is no room to remember it.
    Full,
}

/// All proofs of late, shared by the worker threads: one short lock beside a signature check of some tens
/// of microseconds.
///
/// When it is full, proofs are refused until the oldest are over. To forget some instead would let a client
/// that sends enough of its own make room for the replay of somebody else's, and a demand for a nonce would
/// not stop that client, which gets one like everybody. Only proofs that hold, for tokens that hold, get in.
#[derive(Debug, Default)]
pub struct ReplayCache {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    keys: HashSet<ReplayKey>,
    /// In the order of arrival, and so in the order in which they may go.
    order: VecDeque<(UnixTime, ReplayKey)>,
}

impl ReplayCache {
    /// Uses a proof up. `keep` is how long a proof is accepted at most, counted from now; `capacity` is how
    /// many are remembered. Both come with every call, as they can be configured anew.
    ///
    /// `recorded` is what this very request has used up already, if it is decided on again.
    ///
    /// # Errors
    ///
    /// [`NotRecorded`].
    pub fn record<'b>(
        &self,
        proof: Proof<'b>,
        now: UnixTime,
        keep: Duration,
        capacity: usize,
        recorded: Option<ReplayKey>,
    ) -> Result<FreshProof<'b>, NotRecorded> {
        let key = proof.replay_key();
        if recorded == Some(key) {
            return Ok(FreshProof(proof));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget(now, keep);
        if seen.keys.contains(&key) {
            return Err(NotRecorded::Replayed);
        }
        if seen.keys.len() >= capacity {
            return Err(NotRecorded::Full);
        }
        seen.keys.insert(key);
        seen.order.push_back((now, key));
        drop(seen);
        Ok(FreshProof(proof))
    }
}

impl Seen {
    fn forget(&mut self, now: UnixTime, keep: Duration) {
        while let Some((since, key)) = self.order.front().copied()
            && since.plus(keep) < now
        {
            self.order.pop_front();
            self.keys.remove(&key);
        }
    }
}

impl<'b> FreshProof<'b> {
    /// The proof.
    #[must_use]
    pub const fn proof(&self) -> &Proof<'b> {
        &self.0
    }
}
