//! Proofs that were used, remembered for as long as they could be used again (RFC 9449 §11.1).

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Proof;
use crate::clock::UnixTime;

/// Once three quarters of the room are used, a key may have this part of all of it, a sixteenth, and no more: one
/// holder of one token could otherwise fill it, and everybody else's proofs would be refused. Until then it may
/// have what it needs: by default a sixteenth are 47 requests a second, which the one key of a busy service
/// exceeds.
const SHARES: usize = 16;

/// The part of the room that is kept for those who are within their share, a quarter.
const KEPT: usize = 4;

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
    /// There is little room, and its key has had its share.
    ShareUsed,
}

/// All proofs of late, shared by the worker threads: one short lock beside a signature check of some tens
/// of microseconds.
///
/// When it is full, proofs are refused until the oldest are over, and before that those of keys that have had
/// their share. To forget some instead would let a client
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
    order: VecDeque<(UnixTime, ReplayKey, Prover)>,
    /// How many there are of each prover.
    of_each: HashMap<Prover, usize>,
    provers: RandomState,
}

/// The key that a proof is made with, as a number that nobody can choose.
type Prover = u64;

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
        let prover = seen.provers.hash_one(&proof.binding.thumbprint);
        seen.room_for(prover, capacity)?;
        seen.add(now, key, prover);
        drop(seen);
        Ok(FreshProof(proof))
    }
}

impl Seen {
    fn forget(&mut self, now: UnixTime, keep: Duration) {
        while let Some((since, key, prover)) = self.order.front().copied()
            && since.plus(keep) < now
        {
            self.order.pop_front();
            self.keys.remove(&key);
            if let Some(count) = self.of_each.get_mut(&prover) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.of_each.remove(&prover);
                }
            }
        }
    }

    fn room_for(&self, prover: Prover, capacity: usize) -> Result<(), NotRecorded> {
        let used = self.keys.len();
        if used >= capacity {
            return Err(NotRecorded::Full);
        }
        let is_scarce = used >= capacity.saturating_sub(capacity / KEPT);
        let share = (capacity / SHARES).max(1);
        let has = self.of_each.get(&prover).copied().unwrap_or_default();
        if is_scarce && has >= share {
            return Err(NotRecorded::ShareUsed);
        }
        Ok(())
    }

    fn add(&mut self, now: UnixTime, key: ReplayKey, prover: Prover) {
        self.keys.insert(key);
        self.order.push_back((now, key, prover));
        let count = self.of_each.entry(prover).or_default();
        *count = count.saturating_add(1);
    }
}

impl<'b> FreshProof<'b> {
    /// The proof.
    #[must_use]
    pub const fn proof(&self) -> &Proof<'b> {
        &self.0
    }
}
