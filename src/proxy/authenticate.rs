//! From a request head to a verified caller.

use std::sync::Arc;

use super::access_log::AccessLog;
use super::first_sight::REFUSAL_PAUSE;
use super::possession::Remembered;
use super::{Exchange, Proxy, Refusal, Settings};
use crate::canonical::CanonicalRequest;
use crate::clock::UnixTime;
use crate::identity::Identity;
use crate::keys::TooManyWait;
use crate::listener::{Client, Standing};
use crate::token::{
    BearerToken, Keyring, Rejection, Unverified, VerifiedToken, Verifier, VerifyError,
};

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
        exchange.caller = Arc::clone(&remembered.shares);
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
        if let Err(error) = &verdict
            && let Some(newer) = newer_keys(settings, &keyring, &unverified, error).await?
        {
            verdict = self
                .verify_with(&settings.verifier, &unverified, &newer, client)
                .await?;
            keyring = newer;
        }
        let token = match verdict {
            Ok(token) => token,
            Err(error) => {
                self.first_sight.with_others().await;
                return Err(refusal_of(error, &unverified, &keyring, settings));
            }
        };
        let valid_until = token.valid_until();
        let callers = &self.shared.callers;
        let shares = callers.verified(token.issuer(), token.subject());
        let credential = settings.config.identity.identify(token);
        let remembered = Arc::new(Remembered::new(credential, shares));
        settings.verified.insert(
            bearer.secret(),
            keyring.generation(),
            valid_until,
            Arc::clone(&remembered),
        );
        self.first_sight.with_others().await;
        Ok(remembered)
    }

    /// One check, when its turn comes, or in several turns where many keys have to be tried; the time is that
    /// of the check. Of each connection one waits in the line at a time, however many streams it has, and
    /// whoever last brought a token that was not taken waits behind. Why it was not makes no difference: each
    /// has cost a turn.
    async fn verify_with(
        &self,
        verifier: &Verifier,
        token: &Unverified<'_>,
        keyring: &Keyring,
        client: &Client,
    ) -> Result<Result<VerifiedToken, VerifyError>, Refusal> {
        let mut standing = client.standing().await;
        let mut verification = verifier.begin(token, keyring);
        let verdict = loop {
            let step = || verification.step(UnixTime::now()).transpose();
            let Ok(judged) = self.first_sight.in_turn(*standing, step).await else {
                drop(standing);
                tokio::time::sleep(REFUSAL_PAUSE).await;
                return Err(Refusal::Overloaded);
            };
            match judged {
                Some(verdict) => break verdict,
                // It costs more than others do, and waits behind them for the rest.
                None => *standing = Standing::Doubtful,
            }
        };
        *standing = match verdict {
            Ok(_) => Standing::Good,
            Err(_) => Standing::Doubtful,
        };
        Ok(verdict)
    }
}

/// Keys that may change the verdict on a token, when a fetch that it may wait for has brought them.
async fn newer_keys(
    settings: &Settings,
    keyring: &Arc<Keyring>,
    token: &Unverified<'_>,
    error: &VerifyError,
) -> Result<Option<Arc<Keyring>>, Refusal> {
    let newer = if matches!(error, VerifyError::KeysUnavailable) {
        let Some(issuer) = token.claimed_issuer() else {
            return Ok(None);
        };
        settings.keys.after_first_fetch(keyring, &issuer).await
    } else {
        let outdated = keyring.outdated_for(token, error);
        settings.keys.newer_than(keyring, &outdated).await
    };
    newer.map_err(|TooManyWait| Refusal::KeysUnavailable)
}

/// Why a token is not taken, once no fetch can help any more. Where a key is in no key set and the last fetch
/// of an issuer has failed, the token may be good: that is an outage, and no reason to log in again. Of which
/// issuer the token is cannot be known without its key, so any of them counts.
fn refusal_of(
    error: VerifyError,
    token: &Unverified<'_>,
    keyring: &Keyring,
    settings: &Settings,
) -> Refusal {
    let lacks_a_key = matches!(
        error,
        VerifyError::UnknownKey | VerifyError::Rejected(Rejection::WrongIssuer { .. })
    );
    let outdated = || keyring.outdated_for(token, &error);
    if lacks_a_key && settings.keys.last_fetch_failed(&outdated()) {
        return Refusal::KeysUnavailable;
    }
    Refusal::of_token(error, token)
}
