//! Verified tokens, remembered so that a client's second request costs no signature check.
//!
//! Only tokens that passed every check get in, so strangers cannot fill it. Rules are never cached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::UnixTime;
use crate::secret::Secret;

/// How many tokens are remembered: more principals than one agent replica serves within the life of
/// their tokens; beyond it the least recently seen pay for a check again.
const MAX_ENTRIES: usize = 16 * 1024;

/// How much memory they may take, as [`entry_bytes`] estimates it.
const MAX_BYTES: usize = 24 * 1024 * 1024;

/// Locks, so that worker threads seldom meet. A power of two.
const SHARDS: usize = 16;

/// Each shard has a young and an old half; see [`Shard`].
const HALVES: usize = 2;

/// The end of a signature names a token well enough to find it; the whole token is then compared.
type Tail = Secret<[u8; 32]>;

/// A bounded map from token to `T`, shared by all worker threads.
#[derive(Debug)]
pub struct TokenCache<T> {
    shards: [Mutex<Shard<T>>; SHARDS],
    max_entries: usize,
    max_bytes: usize,
}

/// New and recently used entries are in `young`. When that is full it becomes `old`, and what was
/// old and not asked for since is dropped: least-recently-used, near enough, at constant cost.
#[derive(Debug)]
struct Shard<T> {
    young: HashMap<Tail, Entry<T>>,
    old: HashMap<Tail, Entry<T>>,
    young_bytes: usize,
}

#[derive(Debug)]
struct Entry<T> {
    token: Secret<Box<str>>,
    generation: u64,
    valid_until: UnixTime,
    value: Arc<T>,
}

impl<T> TokenCache<T> {
    /// An empty cache with the built-in bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::with_bounds(MAX_ENTRIES, MAX_BYTES)
    }

    /// The same with less memory, where it is less.
    #[must_use]
    pub fn within(bytes: usize) -> Self {
        Self::with_bounds(MAX_ENTRIES, MAX_BYTES.min(bytes))
    }

    fn with_bounds(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(Shard::empty())),
            max_entries: max_entries / SHARDS / HALVES,
            max_bytes: max_bytes / SHARDS / HALVES,
        }
    }

    /// What was remembered for this very token, unless its time is over or keys have gone since.
    #[must_use]
    pub fn get(&self, token: &[u8], generation: u64, now: UnixTime) -> Option<Arc<T>> {
        let tail = tail(token)?;
        let mut shard = self
            .shard(tail)?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = shard.young.get(&tail) {
            return entry.answer(token, generation, now);
        }
        let entry = shard.old.remove(&tail)?;
        let answer = entry.answer(token, generation, now)?;
        shard.insert(tail, entry, self.max_entries, self.max_bytes);
        Some(answer)
    }

    /// Remembers `value` for `token` until `valid_until`.
    pub fn insert(&self, token: &str, generation: u64, valid_until: UnixTime, value: Arc<T>) {
        let Some((tail, shard)) =
            tail(token.as_bytes()).and_then(|tail| Some((tail, self.shard(tail)?)))
        else {
            return;
        };
        let entry = Entry {
            token: Secret::new(token.into()),
            generation,
            valid_until,
            value,
        };
        shard.lock().unwrap_or_else(PoisonError::into_inner).insert(
            tail,
            entry,
            self.max_entries,
            self.max_bytes,
        );
    }

    fn shard(&self, tail: Tail) -> Option<&Mutex<Shard<T>>> {
        let [first, ..] = *tail.expose();
        self.shards.get(usize::from(first) % SHARDS)
    }
}

impl<T> Default for TokenCache<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Shard<T> {
    fn empty() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            young_bytes: 0,
        }
    }

    fn insert(&mut self, tail: Tail, entry: Entry<T>, max_entries: usize, max_bytes: usize) {
        let bytes = entry_bytes(entry.token.expose());
        let full =
            self.young.len() >= max_entries || self.young_bytes.saturating_add(bytes) > max_bytes;
        if full {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.old.remove(&tail);
        self.young_bytes = self.young_bytes.saturating_add(bytes);
        if let Some(replaced) = self.young.insert(tail, entry) {
            self.young_bytes = self
                .young_bytes
                .saturating_sub(entry_bytes(replaced.token.expose()));
        }
    }
}

impl<T> Entry<T> {
    fn answer(&self, token: &[u8], generation: u64, now: UnixTime) -> Option<Arc<T>> {
        let holds = self.token.expose().as_bytes() == token
            && self.generation == generation
            && now < self.valid_until;
        holds.then(|| Arc::clone(&self.value))
    }
}

/// The token, its payload again, its claims as a tree, the headers made of them, and the map's own cost.
const fn entry_bytes(token: &str) -> usize {
    token.len().saturating_mul(4).saturating_add(512)
}

fn tail(token: &[u8]) -> Option<Tail> {
    token.last_chunk().copied().map(Secret::new)
}

#[cfg(test)]
mod tests {
    use super::{SHARDS, TokenCache};
    use crate::clock::UnixTime;
    use std::sync::Arc;

    const NOON: UnixTime = UnixTime::from_secs(43_200);
    const LATER: UnixTime = UnixTime::from_secs(43_300);

    fn token(number: usize) -> String {
        format!("header.payload.{number:0>40}")
    }

    #[test]
    fn it_answers_for_the_whole_token_only() {
        let cache = TokenCache::new();
        cache.insert(&token(1), 7, LATER, Arc::new("one"));
        assert_eq!(
            cache.get(token(1).as_bytes(), 7, NOON).as_deref(),
            Some(&"one")
        );
        assert_eq!(
            cache.get(token(2).as_bytes(), 7, NOON),
            None,
            "another signature"
        );
        let forged = token(1).replace("payload", "PAYLOAD");
        assert_eq!(
            cache.get(forged.as_bytes(), 7, NOON),
            None,
            "the same signature, another payload"
        );
        assert_eq!(cache.get(b"short", 7, NOON), None, "shorter than a tail");
    }

    #[test]
    fn it_forgets_with_time_and_with_keys() {
        let cache = TokenCache::new();
        cache.insert(&token(1), 7, LATER, Arc::new(()));
        assert!(cache.get(token(1).as_bytes(), 7, NOON).is_some());
        assert!(cache.get(token(1).as_bytes(), 7, LATER).is_none(), "at exp");
        assert!(
            cache.get(token(1).as_bytes(), 8, NOON).is_none(),
            "a key has gone"
        );
    }

    #[test]
    fn it_stays_within_its_bounds_and_keeps_what_is_used() {
        for (entries, bytes) in [(SHARDS * 8, usize::MAX), (usize::MAX, SHARDS * 8 * 1024)] {
            let cache = TokenCache::with_bounds(entries, bytes);
            cache.insert(&token(0), 1, LATER, Arc::new(0));
            for number in 1..2_000 {
                cache.insert(&token(number), 1, LATER, Arc::new(number));
                assert!(
                    cache.get(token(0).as_bytes(), 1, NOON).is_some(),
                    "in use, after {number}"
                );
            }
            let kept = (1..2_000)
                .filter(|number| cache.get(token(*number).as_bytes(), 1, NOON).is_some())
                .count();
            assert!((1..=SHARDS * 8).contains(&kept), "{kept} kept");
        }
    }
}
