//! From a request head to a verified caller.

use std::sync::Arc;

use http::request;

use super::access_log::AccessLog;
use super::first_sight::Overloaded;
use super::possession::Remembered;
use super::{Exchange, Proxy, Refusal, Settings};
use crate::clock::UnixTime;
use crate::headers;
use crate::identity::Identity;
use crate::token::{BearerToken, Keyring, Unverified, VerifiedToken, Verifier, VerifyError};

impl Proxy {
    /// The caller that the request's token proves; `None` for a request without a token.
    pub(super) async fn authenticate(
        &self,
        settings: &Settings,
        head: &request::Parts,
        exchange: &mut Exchange,
    ) -> Result<Option<Arc<Identity>>, Refusal> {
        let is_websocket = headers::is_websocket_upgrade(head);
        let bearer = settings.config.token_sources.find(head, is_websocket);
        let Some(bearer) = bearer.map_err(Refusal::Authorization)? else {
            return Ok(None);
        };
        let generation = settings.keys.current().generation();
        let remembered = settings
            .verified
            .get(bearer.secret(), generation, UnixTime::now());
        self.shared.metrics.on_token_cache(remembered.is_some());
        let remembered = match remembered {
            Some(remembered) => remembered,
            None => self.verify(settings, bearer, &mut exchange.log).await?,
        };
        exchange.log.caller(&remembered);
        let (scheme, possession) = (bearer.scheme(), &mut exchange.possession);
        let identity = self.identity_of(settings, head, &remembered, scheme, possession);
        Ok(Some(identity.await?))
    }

    /// A token that is not remembered is verified, and remembered.
    async fn verify(
        &self,
        settings: &Settings,
        bearer: BearerToken<'_>,
        log: &mut AccessLog,
    ) -> Result<Arc<Remembered>, Refusal> {
        let unverified = settings.verifier.read(bearer).map_err(Refusal::Token)?;
        log.kid(unverified.kid());
        let mut keyring = settings.keys.current();
        let mut verdict = self
            .verify_with(&settings.verifier, &unverified, &keyring)
            .await?;
        if verdict == Err(VerifyError::UnknownKey)
            && settings.keys.refresh_for_unknown_key(&keyring).await
        {
            keyring = settings.keys.current();
            verdict = self
                .verify_with(&settings.verifier, &unverified, &keyring)
                .await?;
        }
        let token = verdict.map_err(|error| Refusal::of_token(error, &unverified))?;
        let valid_until = token.valid_until();
        let credential = settings.config.identity.identify(token);
        let remembered = Arc::new(Remembered::new(credential));
        settings.verified.insert(
            bearer.secret(),
            keyring.generation(),
            valid_until,
            Arc::clone(&remembered),
        );
        Ok(remembered)
    }

    /// One check, when its turn comes; the time is that of the check.
    async fn verify_with(
        &self,
        verifier: &Verifier,
        token: &Unverified<'_>,
        keyring: &Keyring,
    ) -> Result<Result<VerifiedToken, VerifyError>, Refusal> {
        let check = || verifier.verify(token, keyring, UnixTime::now());
        self.first_sight
            .in_turn(check)
            .await
            .map_err(|Overloaded| Refusal::Overloaded)
    }
}
