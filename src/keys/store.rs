//! The snapshot of all keys, shared by every thread, and how a request asks for fresher ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, watch};

use crate::config::Tenant;
use crate::jose::KeySet;
use crate::metrics::Metrics;
use crate::rotation::{OnDemand, Rotation, RotationSettings};
use crate::token::{IssuerKeys, Keyring};

/// How many requests may wait for a fetch at a time. Each holds its head and its token meanwhile, for as long
/// as `auth0.keys.timeout`, and a made-up `kid` costs a stranger nothing. A key that is new to this process
/// is asked for by far fewer before the first fetch has brought it.
const MAX_WAITING: usize = 1_000;

/// `MAX_WAITING` requests are waiting already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyWait;

/// All keys that are known, with one refresher behind each issuer.
#[derive(Debug)]
pub struct KeyStore {
    current: RwLock<Arc<Keyring>>,
    waiting: Semaphore,
    pub(super) issuers: Vec<IssuerState>,
    complete: watch::Sender<bool>,
    pub(super) metrics: Arc<Metrics>,
}

/// What requests and the refresher share about one issuer.
#[derive(Debug)]
pub(super) struct IssuerState {
    pub(super) tenant: Tenant,
    rotation: Mutex<Rotation>,
    /// Wakes the refresher for a fetch that a request asked for.
    pub(super) wake: Notify,
    /// Counts finished fetches, for those who wait for one.
    pub(super) finished: watch::Sender<u64>,
}

impl KeyStore {
    /// A store without keys. Nothing happens until [`KeyStore::refresh_forever`] runs.
    #[must_use]
    pub fn new(tenants: &[Tenant], settings: RotationSettings, metrics: Arc<Metrics>) -> Self {
        for tenant in tenants {
            metrics.on_issuer(&tenant.issuer);
        }
        let empty = tenants.iter().map(|tenant| IssuerKeys {
            issuer: tenant.issuer.clone(),
            keys: None,
        });
        let issuers = tenants.iter().map(|tenant| IssuerState {
            tenant: tenant.clone(),
            rotation: Mutex::new(Rotation::new(settings, Instant::now())),
            wake: Notify::new(),
            finished: watch::Sender::new(0),
        });
        Self {
            current: RwLock::new(Arc::new(Keyring::new(empty.collect(), 0))),
            issuers: issuers.collect(),
            waiting: Semaphore::new(MAX_WAITING),
            complete: watch::Sender::new(false),
            metrics,
        }
    }

    /// The keys that are known now.
    #[must_use]
    pub fn current(&self) -> Arc<Keyring> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether every issuer has keys; changes can be awaited.
    #[must_use]
    pub fn complete(&self) -> watch::Receiver<bool> {
        self.complete.subscribe()
    }

    /// Other keys than `seen`, for a token that newer keys of these issuers may change the verdict on. Waits
    /// for the shared fetch of each that may be asked now, and not at all where all of them were asked too
    /// recently, or other keys are there already. `None` where there are no other keys.
    ///
    /// # Errors
    ///
    /// [`TooManyWait`] for as many requests.
    pub async fn newer_than(
        &self,
        seen: &Arc<Keyring>,
        outdated: &[&str],
    ) -> Result<Option<Arc<Keyring>>, TooManyWait> {
        if outdated.is_empty() {
            return Ok(None);
        }
        if let Some(newer) = self.other_than(seen) {
            return Ok(Some(newer));
        }
        let mut fetches = Vec::new();
        for issuer in self.named(outdated) {
            // Subscribed before the decision, so that the end of the fetch cannot be missed.
            let finished = issuer.finished.subscribe();
            match issuer.rotation().on_unknown_key(Instant::now()) {
                OnDemand::CoolingDown => continue,
                OnDemand::Join => {}
                OnDemand::Start => issuer.wake.notify_one(),
            }
            fetches.push(finished);
        }
        if fetches.is_empty() {
            return Ok(None);
        }
        let _place = self.waiting.try_acquire().map_err(|_| TooManyWait)?;
        for mut finished in fetches {
            // The sender lives as long as the store, so this ends with the fetch.
            _ = finished.changed().await;
        }
        Ok(self.other_than(seen))
    }

    /// Other keys than `seen`, for a token that claims to be of this issuer, whose keys are missing. Waits for the
    /// very first fetch of that issuer, which begins with the process or with a reload, and for no later one.
    /// `None` where there are no other keys.
    ///
    /// # Errors
    ///
    /// [`TooManyWait`] for as many requests.
    pub async fn after_first_fetch(
        &self,
        seen: &Arc<Keyring>,
        issuer: &str,
    ) -> Result<Option<Arc<Keyring>>, TooManyWait> {
        if let Some(issuer) = self.named(&[issuer]).next() {
            let mut finished = issuer.finished.subscribe();
            if *finished.borrow_and_update() == 0 {
                let _place = self.waiting.try_acquire().map_err(|_| TooManyWait)?;
                // The sender lives as long as the store, and a fetch lasts `auth0.keys.timeout` at most.
                _ = finished.changed().await;
            }
        }
        Ok(self.other_than(seen))
    }

    /// Whether the last fetch of one of these issuers has failed, so that its keys may be older than a token.
    #[must_use]
    pub fn last_fetch_failed(&self, issuers: &[&str]) -> bool {
        self.named(issuers)
            .any(|issuer| issuer.rotation().has_failed())
    }

    fn named<'s>(&'s self, names: &'s [&str]) -> impl Iterator<Item = &'s IssuerState> {
        let issuers = self.issuers.iter();
        issuers.filter(|issuer| names.contains(&issuer.tenant.issuer.as_str()))
    }

    fn other_than(&self, seen: &Arc<Keyring>) -> Option<Arc<Keyring>> {
        Some(self.current()).filter(|current| !Arc::ptr_eq(current, seen))
    }

    /// Replaces one issuer's keys. `None` takes them away. The snapshot stays the same one where nothing has
    /// changed, so that nobody verifies a token once more with the same keys.
    pub(super) fn publish(&self, issuer: &str, keys: Option<&KeySet>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut issuers = current.issuers().to_vec();
        let mut generation = current.generation();
        for known in issuers.iter_mut().filter(|known| known.issuer == issuer) {
            // What was verified with a key that is gone must be forgotten.
            if lost_a_key(known.keys.as_ref(), keys) {
                generation = generation.saturating_add(1);
            }
            known.keys = keys.cloned();
        }
        if issuers == current.issuers() {
            return;
        }
        let next = Keyring::new(issuers, generation);
        let complete = next.is_complete();
        let before = std::mem::replace(&mut *current, Arc::new(next));
        let now = Arc::clone(&current);
        drop(current);
        warn_of_ambiguity(&before, &now);
        self.complete
            .send_if_modified(|known| std::mem::replace(known, complete) != complete);
    }
}

/// Says which names of keys have become ambiguous. A document can make many so, and they are all of one kind.
fn warn_of_ambiguity(before: &Keyring, now: &Keyring) {
    let known = before.ambiguous();
    let ambiguous = now.ambiguous();
    let mut new = ambiguous.iter().filter(|one| !known.contains(one));
    if let Some(first) = new.next() {
        tracing::warn!(
            kid = first.kid,
            others = new.count(),
            detail = %first,
            "a kid does not say which key is meant"
        );
    }
}

fn lost_a_key(before: Option<&KeySet>, after: Option<&KeySet>) -> bool {
    let after = after.map(KeySet::keys).unwrap_or_default();
    before.is_some_and(|before| before.keys().iter().any(|key| !after.contains(key)))
}

impl IssuerState {
    pub(super) fn rotation(&self) -> MutexGuard<'_, Rotation> {
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::KeyStore;
    use crate::config::{KeySource, Tenant};
    use crate::jose::{Algorithm, KeySet};
    use crate::metrics::Metrics;
    use crate::rotation::RotationSettings;
    use std::sync::Arc;
    use std::time::Duration;

    const ISSUER: &str = "https://a.example/";

    fn store() -> KeyStore {
        let tenant = Tenant {
            issuer: ISSUER.to_owned(),
            source: KeySource::File("unused".into()),
        };
        KeyStore::new(
            &[tenant],
            RotationSettings {
                refresh: Duration::from_mins(10),
                cooldown: Duration::from_secs(30),
                serve_stale: Duration::from_mins(1),
            },
            Arc::new(Metrics::new()),
        )
    }

    fn keys(names: &[&str]) -> KeySet {
        let modulus = format!("{}w", "_".repeat(341));
        let keys: Vec<_> = names
            .iter()
            .map(|kid| serde_json::json!({"kty":"RSA","kid":kid,"n":modulus,"e":"AQAB"}))
            .collect();
        let document = serde_json::json!({ "keys": keys }).to_string();
        let (set, skipped) =
            KeySet::parse(document.as_bytes(), &[Algorithm::Rs256]).expect("a JWK Set");
        assert_eq!(skipped, []);
        set
    }

    #[test]
    fn generations_move_only_when_a_key_goes() {
        let store = store();
        let mut seen = Vec::new();
        for set in [
            Some(keys(&["a"])),
            Some(keys(&["a"])),
            Some(keys(&["b", "a"])),
            Some(keys(&["b"])),
            None,
            Some(keys(&["b"])),
        ] {
            let (before, known) = (store.current(), store.current().issuers().to_vec());
            store.publish(ISSUER, set.as_ref());
            let is_same = Arc::ptr_eq(&before, &store.current());
            assert_eq!(is_same, store.current().issuers() == known);
            seen.push(store.current().generation());
        }
        assert_eq!(seen, [0, 0, 0, 1, 2, 2]);
    }

    #[test]
    fn complete_follows_the_keys() {
        let store = store();
        let complete = store.complete();
        assert!(!*complete.borrow());
        store.publish(ISSUER, Some(&keys(&["a"])));
        assert!(*complete.borrow());
        assert!(store.current().is_complete());
        store.publish(ISSUER, None);
        assert!(!*complete.borrow());
        assert!(!store.current().is_complete());
    }
}
