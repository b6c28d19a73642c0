//! The task behind each issuer: asks the state machine, fetches, publishes.

use std::sync::Arc;
use std::time::Instant;

use super::fetch::Fetcher;
use super::store::{IssuerState, KeyStore};
use crate::clock::UnixTime;
use crate::jose::{Algorithm, KeySet};

impl KeyStore {
    /// Keeps one issuer's keys fresh, for ever. `place` is the issuer's place among the tenants.
    pub async fn refresh_forever(
        self: Arc<Self>,
        place: usize,
        fetcher: Fetcher,
        algorithms: Vec<Algorithm>,
    ) {
        let Some(issuer) = self.issuers.get(place) else {
            return;
        };
        let mut seed = crate::random::Random::new();
        loop {
            let now = Instant::now();
            let (due, wake_at, usable) = {
                let rotation = issuer.rotation();
                (
                    rotation.is_due(now),
                    rotation.wake_at(now),
                    rotation.is_usable(now),
                )
            };
            if due {
                self.refresh(issuer, &fetcher, &algorithms, seed.unit())
                    .await;
                continue;
            }
            if !usable {
                self.drop_stale(issuer);
            }
            tokio::select! {
                () = tokio::time::sleep_until(wake_at.into()) => {}
                () = issuer.wake.notified() => {}
            }
        }
    }

    async fn refresh(
        &self,
        issuer: &IssuerState,
        fetcher: &Fetcher,
        algorithms: &[Algorithm],
        jitter: f64,
    ) {
        issuer.rotation().on_started(Instant::now());
        let name = issuer.tenant.issuer.as_str();
        match fetch_keys(issuer, fetcher, algorithms).await {
            Ok(keys) => {
                // Published first: a request that finds the fetch over must find its keys.
                self.publish(name, Some(&keys));
                issuer.rotation().on_success(Instant::now(), jitter);
                self.metrics.on_keys_fetched(name, UnixTime::now());
                tracing::info!(issuer = name, keys = keys.keys().len(), "keys fetched");
            }
            Err((why, retry_after)) => {
                self.metrics.on_key_fetch_failed(name);
                issuer
                    .rotation()
                    .on_failure(Instant::now(), retry_after, jitter);
                tracing::warn!(issuer = name, error = why, "key fetch failed");
            }
        }
        issuer
            .finished
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Takes keys away that have served for as long as they may.
    fn drop_stale(&self, issuer: &IssuerState) {
        let name = issuer.tenant.issuer.as_str();
        let has_keys = self
            .current()
            .issuers()
            .iter()
            .any(|known| known.issuer == name && known.keys.is_some());
        if has_keys {
            self.publish(name, None);
            tracing::error!(
                issuer = name,
                "the last good keys are older than auth0.keys.serve_stale allows; tokens are answered with 503 until a fetch succeeds"
            );
        }
    }
}

/// The usable keys; a document without any counts as a failure, so that it replaces nothing.
async fn fetch_keys(
    issuer: &IssuerState,
    fetcher: &Fetcher,
    algorithms: &[Algorithm],
) -> Result<KeySet, (String, Option<std::time::Duration>)> {
    let document = fetcher
        .fetch(&issuer.tenant.source)
        .await
        .map_err(|error| (error.to_string(), error.retry_after()))?;
    let (keys, skipped) =
        KeySet::parse(&document, algorithms).map_err(|error| (error.to_string(), None))?;
    for key in skipped {
        tracing::warn!(
            issuer = issuer.tenant.issuer,
            index = key.index,
            kid = key.kid,
            reason = key.reason,
            "a key cannot be used and is left out"
        );
    }
    if keys.is_empty() {
        return Err(("the key set holds no usable key".to_owned(), None));
    }
    Ok(keys)
}
