//! From a request head to a verified caller.

use std::sync::Arc;

use super::access_log::AccessLog;
use super::first_sight::REFUSAL_PAUSE;
use super::possession::Remembered;
use super::{Exchange, Proxy, Refusal, Settings};
use crate::canonical::CanonicalRequest;
use crate::clock::UnixTime;
use crate::identity::Identity;
use crate::listener::{Client, Standing};
use crate::token::{BearerToken, Keyring, Unverified, VerifiedToken, Verifier, VerifyError};

impl Proxy {
    /// The caller that the request's token proves; `None` for a request without a token.
    pub(super) async fn authenticate(
        &self,
        settings: &Settings,
        request: &CanonicalRequest,
        client: &Client,
        exchange: &mut Exchange,
    ) -> Result<Option<Arc<Identity>>, Refusal> {
        let (target, headers) = (request.target(), request.headers());
        let sources = &settings.config.token_sources;
        let presented = sources.presented(target, headers, request.is_websocket());
        let Some(presented) = presented.map_err(Refusal::Authorization)? else {
            return Ok(None);
        };
        let generation = settings.keys.current().generation();
        let remembered = settings
            .verified
            .get(presented.secret(), generation, UnixTime::now());
        let remembered = if let Some(remembered) = remembered {
            self.shared.metrics.on_token_cache(true);
            remembered
        } else {
            let bearer = presented.token().map_err(Refusal::Authorization)?;
            self.shared.metrics.on_token_cache(false);
            // Boxed, so that it takes no room in the futures of those who are remembered.
            Box::pin(self.verify(settings, bearer, client, &mut exchange.log)).await?
        };
        exchange.log.caller(&remembered);
        let (scheme, possession) = (presented.scheme(), &mut exchange.possession);
        let identity = self.identity_of(settings, request, client, &remembered, scheme, possession);
        Ok(Some(identity.await?))
    }

    /// A token that is not remembered is verified, and remembered.
    async fn verify(
        &self,
        settings: &Settings,
        bearer: BearerToken<'_>,
        client: &Client,
        log: &mut AccessLog,
    ) -> Result<Arc<Remembered>, Refusal> {
        let unverified = settings.verifier.read(bearer).map_err(Refusal::Token)?;
        log.kid(unverified.kid());
        let mut keyring = settings.keys.current();
        let mut verdict = self
            .verify_with(&settings.verifier, &unverified, &keyring, client)
            .await?;
        if verdict == Err(VerifyError::UnknownKey)
            && settings.keys.refresh_for_unknown_key(&keyring).await
        {
            keyring = settings.keys.current();
            verdict = self
                .verify_with(&settings.verifier, &unverified, &keyring, client)
                .await?;
        }
        let token = match verdict {
            Ok(token) => token,
            Err(error) => {
                self.first_sight.with_others().await;
                return Err(Refusal::of_token(error, &unverified));
            }
        };
        let valid_until = token.valid_until();
        let credential = settings.config.identity.identify(token);
        let remembered = Arc::new(Remembered::new(credential));
        settings.verified.insert(
            bearer.secret(),
            keyring.generation(),
            valid_until,
            Arc::clone(&remembered),
        );
        self.first_sight.with_others().await;
        Ok(remembered)
    }

    /// One check, when its turn comes; the time is that of the check. Of each connection one waits in
    /// the line at a time, however many streams it has, and whoever last brought a token that was not
    /// taken waits behind. Why it was not makes no difference: each has cost a turn.
    async fn verify_with(
        &self,
        verifier: &Verifier,
        token: &Unverified<'_>,
        keyring: &Keyring,
        client: &Client,
    ) -> Result<Result<VerifiedToken, VerifyError>, Refusal> {
        let mut standing = client.standing().await;
        let check = || verifier.verify(token, keyring, UnixTime::now());
        let judged = self.first_sight.in_turn(*standing, check).await;
        let Ok(verdict) = judged else {
            drop(standing);
            tokio::time::sleep(REFUSAL_PAUSE).await;
            return Err(Refusal::Overloaded);
        };
        *standing = match verdict {
            Ok(_) => Standing::Good,
            Err(_) => Standing::Doubtful,
        };
        Ok(verdict)
    }
}
