//! `[auth0]`: whose tokens are accepted, and how they are verified.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::reader::{Problems, Section};
use super::rules::{self, ClaimNames};
use super::schema::Form;
use super::sources::{Sourced, Sources};
use crate::jose::Algorithm;
use crate::token::{TypPolicy, VerifierSettings};

/// More tolerance than a minute is a broken clock, and it prolongs every token.
const MAX_CLOCK_TOLERANCE: Duration = Duration::from_mins(1);

/// Auth0 and where its keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth0 {
    /// A label for logs.
    pub name: String,
    /// Every accepted issuer.
    pub tenants: Vec<Tenant>,
    /// Whom a token may be for, whatever resource is asked for.
    pub audiences: Vec<String>,
    /// How tokens are verified. Its audiences are those of resources too.
    pub verifier: VerifierSettings,
    /// How keys are fetched.
    pub keys: KeySettings,
    /// Which claims `roles` and `permissions` look at.
    pub claim_names: ClaimNames,
}

/// One domain, which is one issuer with its own keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// `https://DOMAIN/`, exactly as `iss` has it.
    pub issuer: String,
    /// Where its key set is.
    pub source: KeySource,
}

/// Where a JWK Set is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file.
    File(PathBuf),
    /// An `https` URL, or an `http` one on a loopback address.
    Url(Uri),
}

/// `[auth0.keys]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySettings {
    /// Further trusted roots for the fetch, in PEM.
    pub ca_file: Option<PathBuf>,
    /// How old keys may grow before they are fetched again.
    pub refresh: Duration,
    /// The least time between two fetches that unknown key ids ask for.
    pub cooldown: Duration,
    /// How long one fetch may take.
    pub timeout: Duration,
    /// How long keys serve after they became due and could not be fetched.
    pub serve_stale: Duration,
}

pub(super) struct Read {
    pub(super) auth0: Option<Auth0>,
    pub(super) claim_names: ClaimNames,
}

/// Reads `[auth0]`, with `AUTH0_DOMAIN` and `AUTH0_AUDIENCE` before it.
pub(super) fn read(
    mut section: Section,
    sources: &mut Sources<'_>,
    problems: &mut Problems,
) -> Read {
    let name = section
        .string("name", problems)
        .unwrap_or_else(|| "auth0".to_owned());
    let domains = one_or_more(&mut section, "domain", "AUTH0_DOMAIN", sources, problems);
    let audiences = one_or_more(
        &mut section,
        "audience",
        "AUTH0_AUDIENCE",
        sources,
        problems,
    );
    report_missing(&domains, &audiences, problems);
    let audiences: Vec<String> = audiences
        .into_iter()
        .map(|audience| check_audience(audience, problems))
        .collect();
    let mut unique: Vec<String> = Vec::new();
    for domain in domains
        .iter()
        .filter_map(|domain| parse_domain(domain, problems))
    {
        // Two spellings of one domain are one issuer.
        if !unique.contains(&domain) {
            unique.push(domain);
        }
    }
    let domains = unique;
    let verifier = VerifierSettings {
        algorithms: algorithms(&mut section, problems),
        audiences: audiences.clone(),
        clock_tolerance: clock_tolerance(&mut section, problems),
        max_token_age: max_token_age(&mut section, problems),
        typ: section
            .choice(
                "token_type",
                problems,
                &[("any", TypPolicy::Any), ("at+jwt", TypPolicy::AtJwt)],
            )
            .unwrap_or(TypPolicy::Any),
        allow_anonymous: section
            .boolean("allow_anonymous", problems)
            .unwrap_or(false),
        bound_tokens: false,
        max_token_bytes: 0,
    };
    let claim_names = ClaimNames {
        roles: section.string("roles_claim", problems),
        permissions: section
            .string("permissions_claim", problems)
            .unwrap_or_else(|| "permissions".to_owned()),
    };
    if let Some(roles) = &claim_names.roles {
        rules::warn_of_restricted_claim(&section.path_of("roles_claim"), roles, problems);
    }
    let (keys, source) = keys(section.section("keys", problems), &domains, problems);
    section.finish(problems);
    let tenants: Vec<Tenant> = domains
        .iter()
        .filter_map(|domain| {
            let source = source.clone().or_else(|| {
                let url = format!("https://{domain}/.well-known/jwks.json");
                url.parse().ok().map(KeySource::Url)
            })?;
            Some(Tenant {
                issuer: format!("https://{domain}/"),
                source,
            })
        })
        .collect();
    let auth0 = (!tenants.is_empty()).then(|| Auth0 {
        name,
        tenants,
        audiences,
        verifier,
        keys,
        claim_names: claim_names.clone(),
    });
    Read { auth0, claim_names }
}

/// A key whose value is one string or a list; the variable takes a comma-separated list.
fn one_or_more(
    section: &mut Section,
    key: &'static str,
    variable: &str,
    sources: &mut Sources<'_>,
    problems: &mut Problems,
) -> Vec<Sourced> {
    let path = section.path_of(key);
    // A comma separates values in a variable only: in the file there are lists.
    let in_file = section.strings(key, problems).unwrap_or_default();
    let in_file = distinct(in_file.iter().map(String::as_str));
    let in_variable = sources.variable(variable, problems);
    let in_variable = in_variable.map_or_else(Vec::new, |setting| {
        listed(variable, &setting.value, problems)
    });
    let joined = |list: &[String], source: &str| {
        (!list.is_empty()).then(|| Sourced {
            value: list.join(", "),
            source: source.to_owned(),
        })
    };
    let sources_in_order = [joined(&in_variable, variable), joined(&in_file, &path)];
    let Some(winner) = sources.first(&path, sources_in_order) else {
        return Vec::new();
    };
    let list = if winner.source == path {
        in_file
    } else {
        in_variable
    };
    list.into_iter()
        .map(|value| Sourced {
            value,
            source: winner.source.clone(),
        })
        .collect()
}

/// The values of a variable, between commas. A list in JSON, which other programs want, is taken for what it
/// says.
fn listed(variable: &str, text: &str, problems: &mut Problems) -> Vec<String> {
    let list: Option<Vec<String>> = serde_json::from_str(text).ok();
    if let Some(list) = list {
        let list = distinct(list.iter().map(String::as_str));
        let mend = list.join(",");
        problems.warning(
            variable,
            format!("is a list in JSON and was read as one: write {mend:?}, with commas only"),
        );
        return list;
    }
    // An address in brackets may begin so, and has no quotes.
    if text.starts_with('[') && text.contains(['"', '\'']) {
        problems.error(
            variable,
            format!("{text:?} is neither one value nor several with commas between: leave brackets and quotes out"),
        );
    }
    distinct(text.split(','))
}

/// The values without the spaces around them, each once, none empty.
fn distinct<'v>(values: impl Iterator<Item = &'v str>) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    for value in values.map(str::trim).filter(|value| !value.is_empty()) {
        if list.iter().all(|known| known != value) {
            list.push(value.to_owned());
        }
    }
    list
}

fn report_missing(domains: &[Sourced], audiences: &[Sourced], problems: &mut Problems) {
    let (what, path) = match (domains.is_empty(), audiences.is_empty()) {
        (false, false) => return,
        (true, true) => (
            "Auth0 domain and audience are required: set AUTH0_DOMAIN and AUTH0_AUDIENCE, or domain and audience in [auth0]",
            "auth0",
        ),
        (true, false) => (
            "the Auth0 domain is required: set AUTH0_DOMAIN, or domain in [auth0]",
            "auth0.domain",
        ),
        (false, true) => (
            "the API's audience is required: set AUTH0_AUDIENCE, or audience in [auth0], to the API identifier of your Auth0 API",
            "auth0.audience",
        ),
    };
    problems.error(path, what);
}

fn check_audience(audience: Sourced, problems: &mut Problems) -> String {
    if !audience.value.contains(':') {
        problems.warning(&audience.source, format!(
            "{:?} has no scheme, so it looks like a client id; the audience is the API identifier, such as \"https://your-api.com\" (with a client id here, ID tokens would be taken for access tokens)",
            audience.value
        ));
    }
    audience.value
}

/// A host name, or host and port, as the issuer has it. What people paste is mended with a warning
/// where it is clear what they mean, and refused where it is not.
fn parse_domain(domain: &Sourced, problems: &mut Problems) -> Option<String> {
    let Sourced { value, source } = domain;
    let refuse = |problems: &mut Problems, why: &str| {
        problems.error(source, format!(
            "{value:?} {why}; {source} must be a host name such as your-tenant.us.auth0.com, without https:// or a path"
        ));
        None
    };
    let lower = value.to_ascii_lowercase();
    let mut host = lower.as_str();
    if let Some(rest) = host.strip_prefix("http://") {
        let bare = rest.trim_end_matches('/');
        return refuse(
            problems,
            &format!("begins with http://, but Auth0 is reached over https: write {bare:?}"),
        );
    }
    let bare = host.strip_prefix("https://").unwrap_or(host);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    if bare != host {
        problems.warning(
            source,
            format!("{value:?}: write {bare:?}, without https:// and the trailing slash"),
        );
        host = bare;
    }
    if host.contains(char::is_whitespace) {
        return refuse(problems, "holds a space");
    }
    if let Some((bare, _)) = host.split_once(['/', '?', '#']) {
        return refuse(problems, &format!("holds a path or query: write {bare:?}"));
    }
    if let Some((_, bare)) = host.rsplit_once('@') {
        return refuse(problems, &format!("holds user information: write {bare:?}"));
    }
    if !is_host_and_port(host) {
        return refuse(problems, "is not a host name");
    }
    if lower != *value {
        problems.warning(
            source,
            format!("{value:?} was folded to lower case: write {host:?}"),
        );
    }
    let name = host.split(':').next().unwrap_or(host);
    if !name.contains('.') && !name.starts_with('[') && name != "localhost" {
        problems.warning(source, format!("{host:?} looks like a bare tenant name: write the whole domain, such as \"{host}.us.auth0.com\""));
    }
    Some(host.to_owned())
}

pub(super) fn is_host_and_port(text: &str) -> bool {
    let Ok(authority) = text.parse::<http::uri::Authority>() else {
        return false;
    };
    let host = authority.host();
    let numeric_v6 = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    let name = !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
    let rest = text.get(host.len()..).unwrap_or_default();
    let port_is_fine = rest.is_empty() || authority.port_u16().is_some_and(|port| port > 0);
    (name || numeric_v6) && port_is_fine
}

fn algorithms(section: &mut Section, problems: &mut Problems) -> Vec<Algorithm> {
    let path = section.path_of("algorithms");
    let Some(names) = section.strings_of(
        "algorithms",
        Form::Words(Algorithm::ALL.map(Algorithm::name).to_vec()),
        problems,
    ) else {
        return vec![Algorithm::Rs256];
    };
    if names.is_empty() {
        problems.error(&path, "is empty, so no token could ever pass");
    }
    let mut algorithms = Vec::new();
    for name in &names {
        match Algorithm::from_name(name) {
            Some(algorithm) if !algorithms.contains(&algorithm) => algorithms.push(algorithm),
            Some(_) => {}
            None => {
                let known: Vec<&str> = Algorithm::ALL
                    .iter()
                    .map(|algorithm| algorithm.name())
                    .collect();
                let hint = if name.starts_with("HS") {
                    "; symmetric algorithms would need Auth0's secret here and are not offered: set the API's signing algorithm to RS256"
                } else {
                    ""
                };
                problems.error(
                    &path,
                    format!("{name:?} is not one of {}{hint}", known.join(", ")),
                );
            }
        }
    }
    algorithms
}

fn clock_tolerance(section: &mut Section, problems: &mut Problems) -> Duration {
    let path = section.path_of("clock_tolerance");
    let tolerance = section
        .duration("clock_tolerance", problems)
        .unwrap_or(Duration::from_secs(5));
    if tolerance > MAX_CLOCK_TOLERANCE {
        problems.error(path, "is more than 60s; mend the clock instead");
    }
    tolerance
}

fn max_token_age(section: &mut Section, problems: &mut Problems) -> Option<Duration> {
    let path = section.path_of("max_token_age");
    let age = section.duration_or("off", "max_token_age", problems);
    if age.is_some_and(|age| age.is_zero()) {
        problems.error(
            path,
            "must be more than zero, or no token could ever pass; \"off\" is no bound",
        );
    }
    age
}

fn keys(
    mut section: Section,
    domains: &[String],
    problems: &mut Problems,
) -> (KeySettings, Option<KeySource>) {
    let url_path = section.path_of("url");
    let url = section
        .string("url", problems)
        .and_then(|text| parse_key_url(&url_path, &text, problems));
    let file = section.string("file", problems).map(PathBuf::from);
    if url.is_some() && file.is_some() {
        problems.error(
            &url_path,
            "and auth0.keys.file are both set: remove one of them",
        );
    }
    if (url.is_some() || file.is_some()) && domains.len() > 1 {
        problems.error(&url_path, "or auth0.keys.file stands beside several domains; each domain's keys are at its own URL, so remove it");
    }
    let duration = |section: &mut Section, key, default, problems: &mut Problems| {
        section.positive_duration(key, problems).unwrap_or(default)
    };
    let settings = KeySettings {
        ca_file: section.string("ca_file", problems).map(PathBuf::from),
        refresh: duration(&mut section, "refresh", Duration::from_mins(10), problems),
        cooldown: duration(&mut section, "cooldown", Duration::from_secs(30), problems),
        timeout: duration(&mut section, "timeout", Duration::from_secs(5), problems),
        serve_stale: section
            .duration("serve_stale", problems)
            .unwrap_or(Duration::from_hours(24)),
    };
    section.finish(problems);
    (
        settings,
        url.map(KeySource::Url).or(file.map(KeySource::File)),
    )
}

/// Keys fetched in the clear could be anybody's, so `http` is for a loopback address only.
fn parse_key_url(path: &str, text: &str, problems: &mut Problems) -> Option<Uri> {
    let uri: Uri = match text.parse() {
        Ok(uri) => uri,
        Err(error) => {
            problems.error(path, format!("{text:?} is not a URL: {error}"));
            return None;
        }
    };
    let host = uri.host().unwrap_or_default();
    let loopback = super::network::is_loopback(host);
    match uri.scheme_str() {
        _ if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@')) =>
        {
            problems.error(path, "must not hold user information");
            None
        }
        Some("https") => Some(uri),
        Some("http") if loopback => Some(uri),
        Some("http") => {
            problems.error(
                path,
                format!(
                    "{text:?}: http:// is for loopback addresses only; keys must come over https"
                ),
            );
            None
        }
        _ => {
            problems.error(path, format!("{text:?}: write an https:// URL"));
            None
        }
    }
}
