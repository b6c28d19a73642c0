//! `WWW-Authenticate`: how a client gets a better token (RFC 6750 §3, RFC 9449 §7.1, RFC 9728 §5.1).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::Refusal;
use super::schemes::{Offer, Schemes};
use crate::canonical::CanonicalRequest;
use crate::config::Config;
use crate::mcp::Message;
use crate::policy::Denial;
use crate::token::ProofError;

/// The error of a challenge.
pub(super) enum Challenge {
    /// None, and no challenge: authenticating again would not help.
    None,
    /// No token was sent, so there is no error to tell of.
    NoError,
    /// `error="invalid_request"`.
    InvalidRequest(&'static str),
    /// `error="invalid_token"`.
    InvalidToken(&'static str),
    /// `error="invalid_dpop_proof"`.
    InvalidProof(&'static str),
    /// `error="use_dpop_nonce"`.
    UseNonce(&'static str),
    /// `error="invalid_token"`, of a token whose proof is by another key.
    WrongKey(&'static str),
    /// `error="insufficient_scope"`, with every scope that is needed.
    InsufficientScope(BTreeSet<String>),
}

/// Where the request was going, as far as a challenge tells of it.
#[derive(Debug)]
pub(crate) struct Realm<'s> {
    name: &'s str,
    metadata: Option<&'s str>,
    /// What to ask for, where nothing is known of the caller.
    scopes: BTreeSet<String>,
}

impl<'s> Realm<'s> {
    /// The realm of what is no request.
    pub(super) const fn unknown(config: &'s Config) -> Self {
        Self {
            name: config.auth0.name.as_str(),
            metadata: None,
            scopes: BTreeSet::new(),
        }
    }

    /// The realm of a request that is refused; `None` for one that has no sound form. Clients of a resource
    /// are told at once which scopes to ask for; its metadata lists them anyway. Others learn nothing of
    /// the rules without a token.
    pub(crate) fn of(
        config: &'s Config,
        request: Option<&CanonicalRequest>,
        messages: &[Message],
        refusal: &Refusal,
    ) -> Self {
        let mut realm = Self::unknown(config);
        let Some(request) = request else {
            return realm;
        };
        let Some(resource) = config.resources.of(request.path()) else {
            return realm;
        };
        realm.metadata = Some(&resource.metadata_url);
        if is_for_want_of_a_token(refusal) {
            let matched = config.policy.matched_request(request, messages);
            realm.scopes = matched.rules().scopes_to_ask_for();
        }
        realm
    }
}

/// Whether any good token would be a step forward.
const fn is_for_want_of_a_token(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Denied(Denial::Audience(_) | Denial::TokenRequired)
            | Refusal::Proof {
                error: ProofError::WrongKey,
                ..
            }
            | Refusal::Token(_)
    )
}

/// One challenge for each scheme that is offered. RFC 9110 §11.6.1: on one line they might be misread.
pub(super) fn texts(challenge: &Challenge, realm: &Realm<'_>, schemes: Schemes<'_>) -> Vec<String> {
    let is_about_proof = match challenge {
        // Most refusals have none, and need none written.
        Challenge::None => return Vec::new(),
        Challenge::InvalidProof(_) | Challenge::UseNonce(_) | Challenge::WrongKey(_) => true,
        Challenge::NoError
        | Challenge::InvalidRequest(_)
        | Challenge::InvalidToken(_)
        | Challenge::InsufficientScope(_) => false,
    };
    let offers = schemes.offers(is_about_proof);
    offers
        .iter()
        .filter_map(|offer| {
            if offer.tells_error {
                text_of(challenge, realm, offer)
            } else {
                text_of(&Challenge::NoError, realm, offer)
            }
        })
        .collect()
}

/// `Bearer realm="…"` and what else there is to say. No value holds a quote or a backslash
/// (RFC 6750 §3): descriptions are fixed, a resource's URL is checked where it is read, realm and scopes
/// are cleaned here.
fn text_of(challenge: &Challenge, realm: &Realm<'_>, offer: &Offer) -> Option<String> {
    let mut text = [offer.name, " realm=\"", &quotable(realm.name), "\""].concat();
    if let Some(algorithms) = &offer.algorithms {
        _ = write!(text, ", algs=\"{algorithms}\"");
    }
    let mut error = |code: &str, description: &str| {
        _ = write!(
            text,
            ", error=\"{code}\", error_description=\"{description}\""
        );
    };
    let scopes = match challenge {
        Challenge::None => return None,
        Challenge::NoError => &realm.scopes,
        Challenge::InvalidRequest(description) => {
            error("invalid_request", description);
            &realm.scopes
        }
        Challenge::InvalidToken(description) | Challenge::WrongKey(description) => {
            error("invalid_token", description);
            &realm.scopes
        }
        Challenge::InvalidProof(description) => {
            error("invalid_dpop_proof", description);
            &realm.scopes
        }
        Challenge::UseNonce(description) => {
            error("use_dpop_nonce", description);
            &realm.scopes
        }
        Challenge::InsufficientScope(needed) => {
            error(
                "insufficient_scope",
                "The token lacks a scope that this request needs",
            );
            needed
        }
    };
    if !scopes.is_empty() {
        let scopes: Vec<Cow<'_, str>> = scopes.iter().map(|scope| quotable(scope)).collect();
        _ = write!(text, ", scope=\"{}\"", scopes.join(" "));
    }
    if let Some(metadata) = realm.metadata {
        _ = write!(text, ", resource_metadata=\"{metadata}\"");
    }
    Some(text)
}

fn quotable(text: &str) -> Cow<'_, str> {
    let fits = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if text.bytes().all(fits) {
        return Cow::Borrowed(text);
    }
    let fits = |character: &char| u8::try_from(*character).is_ok_and(fits);
    Cow::Owned(text.chars().filter(fits).collect())
}
