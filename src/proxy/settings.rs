//! The configuration that decides now, and how another one takes its place.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::body_room::BodyRoom;
use super::possession::Remembered;
use crate::budget::{Budgets, Callers, Sizes};
use crate::config::Config;
use crate::headers::Pseudonym;
use crate::keys::KeyStore;
use crate::mcp::SessionKeys;
use crate::metrics::Metrics;
use crate::random::Random;
use crate::token::{Nonces, ReplayCache, TokenCache, Verifier};
use crate::upstream::{Connector, Room, Upstream};

/// One configuration, with what follows from it.
#[derive(Debug)]
pub struct Settings {
    /// How many configurations have been in force, this one included.
    pub generation: u64,
    /// What was configured.
    pub config: Config,
    /// The keys of its issuers.
    pub keys: Arc<KeyStore>,
    pub(super) verifier: Verifier,
    pub(super) verified: Arc<TokenCache<Remembered>>,
    /// What these may take, where it is less than usual.
    token_cache_bytes: usize,
    /// The nonces that proofs must bring, where one is asked for.
    pub nonces: Option<Nonces>,
    /// With these, an MCP session belongs to who opened it.
    pub(super) sessions: Option<SessionKeys>,
    connector: Connector,
    /// The generation that the way to the upstream is from.
    upstream_since: u64,
}

/// What all worker threads share.
#[derive(Debug)]
pub struct Shared {
    current: RwLock<Arc<Settings>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) pseudonym: Pseudonym,
    /// A change of the configuration makes no used proof good again.
    pub(super) used_proofs: ReplayCache,
    /// What strangers can make the process hold.
    pub budgets: Budgets,
    /// What each caller holds of them.
    pub(super) callers: Callers,
    /// Where MCP messages are read.
    pub(super) messages: Arc<BodyRoom>,
    room: Room,
}

/// One worker's connections to the upstream that is configured now.
#[derive(Debug, Default)]
pub(super) struct CurrentUpstream {
    held: Mutex<Option<(u64, Arc<Upstream>)>>,
}

impl Settings {
    /// The first configuration of a process.
    #[must_use]
    pub fn new(
        config: Config,
        keys: Arc<KeyStore>,
        connector: Connector,
        nonces: Option<Nonces>,
    ) -> Self {
        Self {
            nonces,
            generation: 1,
            verifier: Verifier::new(config.auth0.verifier.clone()),
            verified: Arc::new(TokenCache::new()),
            token_cache_bytes: usize::MAX,
            config,
            keys,
            sessions: None,
            connector,
            upstream_since: 1,
        }
    }

    /// The same with no more remembered than fits.
    #[must_use]
    pub fn within(self, sizes: &Sizes) -> Self {
        self.remembering(sizes.token_cache_bytes)
    }

    fn remembering(self, token_cache_bytes: usize) -> Self {
        Self {
            verified: Arc::new(TokenCache::within(token_cache_bytes)),
            token_cache_bytes,
            ..self
        }
    }

    /// The same with keys for MCP sessions.
    #[must_use]
    pub fn with_sessions(self, sessions: Option<SessionKeys>) -> Self {
        Self { sessions, ..self }
    }

    /// The one after this. What was verified stays remembered where the same checks made it, and
    /// connections to the upstream are kept where they would be made in the same way.
    #[must_use]
    pub fn succeeded_by(
        &self,
        config: Config,
        keys: Arc<KeyStore>,
        connector: Connector,
        nonces: Option<Nonces>,
    ) -> Self {
        let same_checks = config.auth0.verifier == self.config.auth0.verifier
            && config.identity == self.config.identity
            && Arc::ptr_eq(&keys, &self.keys);
        let same_way = config.upstream == self.config.upstream
            && config.upstream_protocol == self.config.upstream_protocol
            && config.timeouts.connect == self.config.timeouts.connect
            && config.timeouts.response_header == self.config.timeouts.response_header;
        let mut next =
            Self::new(config, keys, connector, nonces).remembering(self.token_cache_bytes);
        next.generation = self.generation.saturating_add(1);
        next.upstream_since = if same_way {
            self.upstream_since
        } else {
            next.generation
        };
        if same_checks {
            next.verified = Arc::clone(&self.verified);
        }
        next
    }

    /// How long a stream may outlive its token: at least for as long as the token is accepted.
    pub(super) fn expiry_grace(&self) -> Option<Duration> {
        let grace = self.config.expiry_grace?;
        Some(grace.max(self.config.auth0.verifier.clock_tolerance))
    }
}

impl Shared {
    /// Starts with these settings.
    #[must_use]
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        let instance = u32::try_from(Random::new().bits() >> 32).unwrap_or(u32::MAX);
        Self {
            current: RwLock::new(Arc::new(settings)),
            metrics,
            pseudonym: Pseudonym::new(instance),
            used_proofs: ReplayCache::default(),
            messages: Arc::new(BodyRoom::new(&Budgets::default().messages)),
            budgets: Budgets::default(),
            callers: Callers::default(),
            room: Room::default(),
        }
    }

    /// The same with budgets that fit the process' surroundings.
    #[must_use]
    pub fn with_budgets(self, budgets: Budgets) -> Self {
        Self {
            messages: Arc::new(BodyRoom::new(&budgets.messages)),
            room: Room::new(&budgets.upstream_connections),
            budgets,
            ..self
        }
    }

    /// The settings in force now.
    #[must_use]
    pub fn current(&self) -> Arc<Settings> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts others in force. When this returns, nothing is decided by the old ones any more.
    pub fn replace(&self, settings: Settings) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// Decides while these settings are in force: they cannot be replaced before the decision is made.
    /// `None` when they have been replaced already.
    pub(super) fn while_current<T>(
        &self,
        settings: &Settings,
        decide: impl FnOnce() -> T,
    ) -> Option<T> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        (current.generation == settings.generation).then(decide)
    }
}

impl CurrentUpstream {
    /// The upstream of these settings.
    pub(super) fn under(&self, settings: &Settings, shared: &Shared) -> Arc<Upstream> {
        let since = settings.upstream_since;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((held_since, upstream)) = &*held
            && *held_since == since
        {
            return Arc::clone(upstream);
        }
        let timeout = settings.config.timeouts.response_header;
        let upstream = Upstream::new(settings.connector.clone(), timeout, shared.room.clone());
        let upstream = Arc::new(upstream);
        // A request that was decided on just before a change does not bring the old one back.
        if held
            .as_ref()
            .is_none_or(|(held_since, _)| *held_since < since)
        {
            *held = Some((since, Arc::clone(&upstream)));
        }
        upstream
    }
}
