//! The snapshot of all keys, shared by every thread, and how a request asks for fresher ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use crate::config::Tenant;
use crate::jose::KeySet;
use crate::metrics::Metrics;
use crate::rotation::{OnDemand, Rotation, RotationSettings};
use crate::token::{IssuerKeys, Keyring};

/// All keys that are known, with one refresher behind each issuer.
#[derive(Debug)]
pub struct KeyStore {
    current: RwLock<Arc<Keyring>>,
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

    /// Waits for the shared fetch of every issuer that may be asked now, for a token whose key is not
    /// in `seen`. Returns at once, with `false`, when all of them were asked too recently, and with
    /// `true` when there are other keys than `seen` already.
    pub async fn refresh_for_unknown_key(&self, seen: &Arc<Keyring>) -> bool {
        if !Arc::ptr_eq(seen, &self.current()) {
            return true;
        }
        let mut waiting = Vec::new();
        for issuer in &self.issuers {
            // Subscribed before the decision, so that the end of the fetch cannot be missed.
            let finished = issuer.finished.subscribe();
            match issuer.rotation().on_unknown_key(Instant::now()) {
                OnDemand::CoolingDown => continue,
                OnDemand::Join => {}
                OnDemand::Start => issuer.wake.notify_one(),
            }
            waiting.push(finished);
        }
        let any = !waiting.is_empty();
        for mut finished in waiting {
            // The sender lives as long as the store, so this ends with the fetch.
            _ = finished.changed().await;
        }
        any
    }

    /// Replaces one issuer's keys. `None` takes them away.
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
        let next = Keyring::new(issuers, generation);
        let complete = next.is_complete();
        *current = Arc::new(next);
        drop(current);
        self.complete
            .send_if_modified(|known| std::mem::replace(known, complete) != complete);
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
            store.publish(ISSUER, set.as_ref());
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
