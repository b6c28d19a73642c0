//! `public_url` and `[dpop]`: tokens that are bound to a key of their client.

use std::path::PathBuf;
use std::time::Duration;

use super::network::is_loopback;
use super::reader::{Problems, Section};
use super::schema::Form;
use crate::jose::Algorithm;
use crate::resource::PathPrefix;
use crate::token::{ProofSettings, PublicOrigin};

/// What Auth0's documentation names for its clients. The first is what its SDKs use.
const DEFAULT_ALGORITHMS: [Algorithm; 2] = [Algorithm::Es256, Algorithm::Rs256];

/// What can be configured. Proofs are short-lived and made by current software, so there is no need for more.
const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::EdDsa,
    Algorithm::Rs256,
    Algorithm::Ps256,
];

/// RFC 9449 §11.1 speaks of seconds or minutes; five of them are what Auth0's own libraries allow.
const DEFAULT_MAX_AGE: Duration = Duration::from_mins(5);

/// Longer than this, a stolen proof is worth stealing.
const LONGEST_MAX_AGE: Duration = Duration::from_hours(1);

/// Some 750 requests a second with the default `max_age`, in about 15 MB.
const DEFAULT_REPLAY_CACHE: usize = 250_000;

/// Some 600 MB.
const LARGEST_REPLAY_CACHE: usize = 10_000_000;

/// `[dpop]`, when it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dpop {
    /// Whether tokens that are bound to no key are refused.
    pub required: bool,
    /// What a proof must satisfy.
    pub proofs: ProofSettings,
    /// Where nonces come from; `None` where none is asked for.
    pub nonces: Option<NonceSource>,
    /// How many used proofs are remembered.
    pub replay_cache: usize,
}

/// Where the key for nonces comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NonceSource {
    /// Made anew by every process.
    Random,
    /// A file that replicas share.
    File(PathBuf),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Off,
    Accepted,
    Required,
}

impl Dpop {
    /// `dpop_signing_alg_values_supported` of a protected resource's metadata (RFC 9728 §2).
    #[must_use]
    pub fn signing_alg_values_supported(&self) -> Vec<&'static str> {
        let algorithms = self.proofs.algorithms.iter();
        algorithms.map(|algorithm| algorithm.name()).collect()
    }

    /// `dpop_bound_access_tokens_required`, likewise.
    #[must_use]
    pub const fn bound_access_tokens_required(&self) -> bool {
        self.required
    }
}

/// Reads `public_url`.
pub(super) fn public_url(
    root: &mut Section,
    prefix: Option<&PathPrefix>,
    problems: &mut Problems,
) -> Option<PublicOrigin> {
    let form = Form::Pattern(r"^\s*$|^\s*[Hh][Tt][Tt][Pp][Ss]?://[^/?#@\s]+/?\s*$");
    let text = root.string_of("public_url", form, problems)?;
    match PublicOrigin::parse(&text) {
        Ok(origin) => {
            let host = origin.host();
            if !origin.is_https() && !is_loopback(host) {
                problems.warning(
                    "public_url",
                    format!("{text:?} is not https://, and it is the URL that clients use, wherever TLS ends"),
                );
            }
            Some(origin.below(prefix.map_or("", PathPrefix::as_str)))
        }
        Err(why) => {
            problems.error(
                "public_url",
                format!(
                    "{text:?} {why}; write scheme and host, such as \"https://api.example.com\""
                ),
            );
            None
        }
    }
}

/// Reads `[dpop]`; `None` when it is off, or wrong.
pub(super) fn read(
    mut section: Section,
    origin: Option<&PublicOrigin>,
    has_public_url: bool,
    problems: &mut Problems,
) -> Option<Dpop> {
    let mode_path = section.path_of("mode");
    let mode = section.choice(
        "mode",
        problems,
        &[
            ("off", Mode::Off),
            ("accepted", Mode::Accepted),
            ("required", Mode::Required),
        ],
    );
    let mode = mode.unwrap_or(Mode::Off);
    let algorithms = algorithms(&mut section, problems);
    let age_path = section.path_of("max_age");
    let max_age = section
        .positive_duration("max_age", problems)
        .unwrap_or(DEFAULT_MAX_AGE);
    if max_age > LONGEST_MAX_AGE {
        problems.error(age_path, "is more than 1h");
    }
    let is_nonce_needed = section
        .choice("nonce", problems, &[("off", false), ("required", true)])
        .unwrap_or(false);
    let key_path = section.path_of("nonce_key_file");
    let key_file = section
        .string("nonce_key_file", problems)
        .map(PathBuf::from);
    if key_file.is_some() && !is_nonce_needed {
        problems.error(key_path, "needs dpop.nonce = \"required\"");
    }
    let replay_cache = section
        .count("replay_cache", LARGEST_REPLAY_CACHE, problems)
        .unwrap_or(DEFAULT_REPLAY_CACHE);
    section.finish(problems);
    if mode == Mode::Off {
        return None;
    }
    if !has_public_url {
        problems.error(
            mode_path,
            "needs public_url: a proof is made for the URL that the client uses",
        );
    }
    let nonces = is_nonce_needed.then(|| key_file.map_or(NonceSource::Random, NonceSource::File));
    Some(Dpop {
        required: mode == Mode::Required,
        proofs: ProofSettings {
            algorithms,
            max_age,
            origin: origin?.clone(),
        },
        nonces,
        replay_cache,
    })
}

fn algorithms(section: &mut Section, problems: &mut Problems) -> Vec<Algorithm> {
    let path = section.path_of("algorithms");
    let names = ALGORITHMS.map(Algorithm::name).to_vec();
    let form = Form::Words(names.clone());
    let Some(list) = section.strings_of("algorithms", form, problems) else {
        return DEFAULT_ALGORITHMS.to_vec();
    };
    if list.is_empty() {
        problems.error(&path, "is an empty list");
    }
    let mut algorithms = Vec::new();
    for name in list {
        let known = Algorithm::from_name(&name).filter(|one| ALGORITHMS.contains(one));
        match known.filter(|one| one.name() == name) {
            Some(algorithm) if algorithms.contains(&algorithm) => {}
            Some(algorithm) => algorithms.push(algorithm),
            None => problems.error(
                &path,
                format!("{name:?} is not supported; known: {}", names.join(", ")),
            ),
        }
    }
    algorithms
}
