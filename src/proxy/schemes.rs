//! Which authentication schemes an answer offers, and which of them its error belongs to (RFC 9449 §7.1, §7.2).

use http::header::{AUTHORIZATION, HeaderMap};

use crate::config::{Config, Dpop};
use crate::token::Scheme;

/// How a request has presented its token, as far as its head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// In no `Authorization` header of a known scheme.
    Nothing,
    /// With this scheme.
    With(Scheme),
    /// In several ways at once.
    Ambiguous,
}

/// What is offered in answer to that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schemes<'c> {
    dpop: Option<&'c Dpop>,
    credentials: Credentials,
}

/// One challenge.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// The scheme's name.
    pub(super) name: &'static str,
    /// The algorithms for proofs, where there are proofs.
    pub(super) algorithms: Option<String>,
    /// Whether the error of the answer stands here.
    pub(super) tells_error: bool,
}

impl Credentials {
    /// Looks where it matters: without proofs there is one scheme only.
    pub(crate) fn under(config: &Config, headers: &HeaderMap) -> Self {
        if config.dpop.is_some() {
            Self::of(headers)
        } else {
            Self::Nothing
        }
    }

    /// Looks at the scheme only.
    fn of(headers: &HeaderMap) -> Self {
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        let line = lines.next().and_then(|line| line.to_str().ok());
        let line = line.unwrap_or_default().trim();
        if lines.next().is_some() || line.contains(',') {
            return Self::Ambiguous;
        }
        let name = line.split(' ').next().unwrap_or_default();
        Scheme::from_name(name.as_bytes()).map_or(Self::Nothing, Self::With)
    }
}

impl<'c> Schemes<'c> {
    pub(crate) const fn new(config: &'c Config, credentials: Credentials) -> Self {
        Self {
            dpop: config.dpop.as_ref(),
            credentials,
        }
    }

    /// The challenges, each for a field line of its own, the best known scheme first. `is_about_proof` says
    /// that the error can be nothing but one of the scheme `DPoP`.
    pub(super) fn offers(&self, is_about_proof: bool) -> Vec<Offer> {
        let Some(dpop) = self.dpop else {
            return vec![Offer::bearer(true)];
        };
        let algorithms = dpop.signing_alg_values_supported().join(" ");
        let proof = |tells_error| Offer {
            name: "DPoP",
            algorithms: Some(algorithms.clone()),
            tells_error,
        };
        if dpop.required {
            // To offer Bearer would promise what is not kept.
            return vec![proof(true)];
        }
        let (of_bearer, of_proof) = match self.credentials {
            _ if is_about_proof => (false, true),
            Credentials::With(Scheme::Dpop) => (false, true),
            Credentials::Ambiguous => (true, true),
            Credentials::With(Scheme::Bearer) | Credentials::Nothing => (true, false),
        };
        vec![Offer::bearer(of_bearer), proof(of_proof)]
    }
}

impl Offer {
    const fn bearer(tells_error: bool) -> Self {
        Self {
            name: "Bearer",
            algorithms: None,
            tells_error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Credentials;
    use crate::token::Scheme;
    use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};

    #[test]
    fn the_head_says_how_a_token_is_presented() {
        for (lines, expected) in [
            (&[][..], Credentials::Nothing),
            (&["Basic YTpi"], Credentials::Nothing),
            (&["Bearer a"], Credentials::With(Scheme::Bearer)),
            (&["bearer a b"], Credentials::With(Scheme::Bearer)),
            (&["DPoP a"], Credentials::With(Scheme::Dpop)),
            (&[" dpop  a"], Credentials::With(Scheme::Dpop)),
            (&["DPoP"], Credentials::With(Scheme::Dpop)),
            (&["Bearer a, DPoP b"], Credentials::Ambiguous),
            (&["Bearer a", "DPoP b"], Credentials::Ambiguous),
            (&["DPoP a", "DPoP a"], Credentials::Ambiguous),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(AUTHORIZATION, HeaderValue::from_static(line));
            }
            assert_eq!(Credentials::of(&headers), expected, "{lines:?}");
        }
    }
}
