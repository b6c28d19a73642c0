//! `authgate check`: what a configuration means, and whether the outside world plays along.

mod card;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Config, KeySource, LogFormat, NonceSource, SessionKeySource, Tenant};
use crate::cors::Origins;
use crate::jose::{KeySet, SkippedKey};
use crate::keys::{self, Fetcher, Way};
use crate::listening;
use crate::nonce_key;
use crate::policy::{Access, Condition, Methods};
use crate::tls::{HTTP_1_1, Roots};
use crate::token::{IssuerKeys, Keyring, TypPolicy};
use crate::upstream::Connector;
use card::Card;

/// The effective configuration and the route table, for people.
#[must_use]
pub fn describe(config: &Config) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    _ = write_settings(&mut text, config);
    _ = write_resources(&mut text, config);
    _ = write_routes(&mut text, config);
    text
}

fn write_settings(text: &mut String, config: &Config) -> std::fmt::Result {
    let mut line = |name: &str, value: &dyn std::fmt::Display| writeln!(text, "{name:<31} {value}");
    line("listen", &config.listen)?;
    line("upstream", &config.upstream)?;
    line("upstream_protocol", &config.upstream_protocol)?;
    line("admin", &or_word(config.admin, "off"))?;
    line("admin_hosts", &list(&config.admin_hosts))?;
    let drain = if config.anyone_may_drain {
        "anyone"
    } else {
        "local"
    };
    line("admin_drain", &drain)?;
    line("workers", &config.workers)?;
    line("log", &config.logging.filter)?;
    line(
        "log_format",
        &match config.logging.format {
            LogFormat::Auto => "auto",
            LogFormat::Json => "json",
            LogFormat::Text => "text",
        },
    )?;
    line(
        "unmatched",
        &if config.deny_unmatched {
            "deny"
        } else {
            "authenticated"
        },
    )?;
    line("trusted_proxies", &list(&config.trusted_proxies))?;
    line("proxy_protocol", &config.proxy_protocol)?;
    let hosts = &config.allowed_hosts;
    line(
        "allowed_hosts",
        &or_word((!hosts.is_empty()).then(|| list(hosts)), "all"),
    )?;

    let tls = config.tls.as_ref();
    let file = |path: Option<&PathBuf>| or_word(path.map(|path| path.display()), "none");
    line("tls.cert_file", &file(tls.map(|tls| &tls.cert_file)))?;
    line("tls.key_file", &file(tls.map(|tls| &tls.key_file)))?;
    let client_ca_file = tls.and_then(|tls| tls.client_ca_file.as_ref());
    line("tls.client_ca_file", &file(client_ca_file))?;

    let auth0 = &config.auth0;
    let verifier = &auth0.verifier;
    line("auth0.name", &auth0.name)?;
    for tenant in &auth0.tenants {
        line("auth0 issuer", &tenant.issuer)?;
        match &tenant.source {
            KeySource::File(path) => line("auth0 keys from", &path.display())?,
            KeySource::Url(url) => line("auth0 keys from", url)?,
        }
    }
    line("auth0.audience", &list(&auth0.audiences))?;
    line("auth0.algorithms", &list(&verifier.algorithms))?;
    line("auth0.clock_tolerance", &seconds(verifier.clock_tolerance))?;
    line(
        "auth0.max_token_age",
        &or_word(verifier.max_token_age.map(seconds), "off"),
    )?;
    line(
        "auth0.token_type",
        &match verifier.typ {
            TypPolicy::Any => "any",
            TypPolicy::AtJwt => "at+jwt",
        },
    )?;
    line("auth0.allow_anonymous", &verifier.allow_anonymous)?;
    let claims = &auth0.claim_names;
    line("auth0.roles_claim", &or_word(claims.roles.as_ref(), "none"))?;
    line("auth0.permissions_claim", &claims.permissions)?;
    let keys = &auth0.keys;
    line(
        "auth0.keys.ca_file",
        &or_word(keys.ca_file.as_ref().map(|path| path.display()), "none"),
    )?;
    line("auth0.keys.refresh", &seconds(keys.refresh))?;
    line("auth0.keys.cooldown", &seconds(keys.cooldown))?;
    line("auth0.keys.timeout", &seconds(keys.timeout))?;
    line("auth0.keys.serve_stale", &seconds(keys.serve_stale))?;

    write_conduct(text, config)
}

/// What is passed on, and within which bounds.
fn write_conduct(text: &mut String, config: &Config) -> std::fmt::Result {
    let mut line = |name: &str, value: &dyn std::fmt::Display| writeln!(text, "{name:<31} {value}");
    let sources = &config.token_sources;
    line(
        "token_sources.query_parameter",
        &or_word(sources.query_parameter.as_ref(), "off"),
    )?;
    line(
        "token_sources.websocket_protocol",
        &sources.websocket_protocol,
    )?;

    line("path_prefix", &or_word(config.path_prefix.as_ref(), "none"))?;
    line("public_url", &or_word(config.public_url.as_ref(), "none"))?;
    match &config.dpop {
        None => line("dpop.mode", &"off")?,
        Some(dpop) => {
            let mode = if dpop.required {
                "required"
            } else {
                "accepted"
            };
            line("dpop.mode", &mode)?;
            line("dpop.algorithms", &list(&dpop.proofs.algorithms))?;
            line("dpop.max_age", &seconds(dpop.proofs.max_age))?;
            let nonce = match &dpop.nonces {
                None => "off".to_owned(),
                Some(NonceSource::Random) => "required".to_owned(),
                Some(NonceSource::File(path)) => format!("required, key from {}", path.display()),
            };
            line("dpop.nonce", &nonce)?;
            line("dpop.replay_cache", &dpop.replay_cache)?;
        }
    }

    let identity = &config.identity;
    line("identity.subject_header", &identity.subject_header)?;
    line(
        "identity.claims_header",
        &or_word(identity.claims_header.as_ref(), "none"),
    )?;
    line(
        "identity.forward_authorization",
        &identity.forward_authorization,
    )?;
    line("identity.strip", &list(&config.strip))?;
    for (name, claim) in &identity.headers {
        line("identity.headers", &format_args!("{name} = {claim}"))?;
    }

    match &config.cors {
        None => line("cors.origins", &"none: the upstream answers for itself")?,
        Some(cors) => {
            match &cors.origins {
                Origins::Any => line("cors.origins", &"*")?,
                Origins::Listed { exact, patterns } => {
                    let exact = exact.iter().filter_map(|origin| origin.to_str().ok());
                    let patterns = patterns.iter().map(ToString::to_string);
                    let origins: Vec<String> = exact.map(str::to_owned).chain(patterns).collect();
                    line("cors.origins", &list(&origins))?;
                }
            }
            line("cors.enforce_origin", &cors.enforce_origin)?;
            line("cors.patterns_enforce", &cors.patterns_enforce)?;
            line("cors.expose_headers", &list(&cors.expose_headers))?;
            line("cors.max_age", &seconds(cors.max_age))?;
        }
    }
    line("mcp.read_bodies", &config.mcp.read_bodies)?;
    line("mcp.max_body", &config.mcp.max_body)?;
    line("mcp.filter_tools", &config.mcp.filter_tools)?;
    match &config.mcp.sessions {
        SessionKeySource::None => line("mcp sessions belong to", &"whoever knows their id")?,
        SessionKeySource::Given(_) | SessionKeySource::File(_) => {
            line("mcp sessions belong to", &"the caller who opened them")?;
        }
    }
    line(
        "streams.expiry_grace",
        &or_word(config.expiry_grace.map(seconds), "never"),
    )?;
    let limits = &config.limits;
    line("limits.header_bytes", &limits.header_bytes)?;
    line("limits.headers", &limits.headers)?;
    line("limits.uri_bytes", &limits.uri_bytes)?;
    line("limits.token_bytes", &limits.token_bytes)?;
    line("limits.body_bytes", &or_word(limits.body_bytes, "off"))?;
    line("limits.connections", &limits.connections)?;
    let timeouts = &config.timeouts;
    line("timeouts.header", &seconds(timeouts.header))?;
    line("timeouts.idle", &seconds(timeouts.idle))?;
    line("timeouts.connect", &seconds(timeouts.connect))?;
    line(
        "timeouts.response_header",
        &seconds(timeouts.response_header),
    )?;
    line("timeouts.linger", &seconds(timeouts.linger))?;
    line("timeouts.drain", &seconds(timeouts.drain))
}

fn or_word<T: ToString>(value: Option<T>, word: &str) -> String {
    value.map_or_else(|| word.to_owned(), |value| value.to_string())
}

fn list<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

fn write_resources(text: &mut String, config: &Config) -> std::fmt::Result {
    for resource in config.resources.iter() {
        let settings = &resource.settings;
        let mut line =
            |name: &str, value: &dyn std::fmt::Display| writeln!(text, "{name:<31} {value}");
        line("resource", &settings.url.text)?;
        line("resource metadata", &resource.metadata_url)?;
        line("resource audience", &list(&settings.audiences))?;
        let scopes: Vec<&String> = resource.scopes.iter().collect();
        line("resource scopes", &list(&scopes))?;
    }
    Ok(())
}

fn write_routes(text: &mut String, config: &Config) -> std::fmt::Result {
    writeln!(text)?;
    let shadow = |shadow: bool| if shadow { "  (shadow)" } else { "" };
    writeln!(
        text,
        "every authenticated request: {}{}",
        words(&config.require.condition),
        shadow(config.require.shadow)
    )?;
    for route in &config.routes {
        let methods = match (&route.mcp, &route.methods) {
            (Some(mcp), _) => mcp.to_string(),
            (None, Methods::Remaining) => {
                "every method that no other route of this path names".to_owned()
            }
            (None, Methods::Only(methods)) => methods.join(" "),
        };
        let access = match &route.access {
            Access::Authenticated(condition) => format!("authenticated, {}", words(condition)),
            Access::Deny | Access::Public => route.access.name().to_owned(),
        };
        writeln!(
            text,
            "{}  {methods}  {access}{}",
            route.pattern,
            shadow(route.shadow)
        )?;
    }
    let unmatched = if config.deny_unmatched {
        "deny"
    } else {
        "authenticated"
    };
    writeln!(text, "everything else: {unmatched}")?;
    for (pattern, methods) in config.policy.uncovered_methods() {
        writeln!(
            text,
            "note: {pattern} answers 405 to everything but {}",
            methods.join(", ")
        )?;
    }
    for (pattern, leaves_some) in config.policy.gated() {
        let others = if leaves_some {
            "other MCP messages are 403"
        } else {
            "other MCP messages fall under its route without mcp"
        };
        writeln!(
            text,
            "note: {pattern} is decided by the MCP message; {others}"
        )?;
    }
    Ok(())
}

/// A condition on one line.
fn words(condition: &Condition) -> String {
    match condition {
        Condition::All(parts) if parts.is_empty() => "any valid token".to_owned(),
        Condition::All(parts) => join(parts, " and "),
        Condition::Any(parts) => format!("({})", join(parts, " or ")),
        Condition::Not(part) => format!("not ({})", words(part)),
        other => other.to_string(),
    }
}

fn join(parts: &[Condition], with: &str) -> String {
    parts.iter().map(words).collect::<Vec<_>>().join(with)
}

/// Reads the files that the configuration names, beside its own.
///
/// # Errors
///
/// When trusted roots cannot be put together, `auth0.keys.file` is no key set, the listener's certificate cannot be
/// used, or there are no keys for sessions where there should be.
pub fn files(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    Roots::load(config.auth0.keys.ca_file.as_deref())?;
    for tenant in &config.auth0.tenants {
        keys::check_file(&tenant.source, &config.auth0.verifier.algorithms)?;
    }
    if let Some(files) = &config.tls {
        files.load()?;
    }
    nonce_key::load(config, None)?;
    config.mcp.sessions.load()?;
    Ok(())
}

/// What one issuer has published, with what of it is left out; or why there is nothing to be had.
struct Published {
    way: Way,
    keys: Result<(KeySet, Vec<SkippedKey>), String>,
}

/// Fetches the key set of every issuer, once each. The result is in the order of the tenants.
async fn fetch(config: &Config) -> Result<Vec<Published>, String> {
    let tls = Roots::load(config.auth0.keys.ca_file.as_deref())
        .map_err(|error| error.to_string())
        .and_then(|roots| {
            roots
                .client_config(HTTP_1_1)
                .map_err(|error| error.to_string())
        })
        .map_err(|error| format!("trusted roots: {error}"))?;
    let fetcher = Fetcher::new(tls, config.auth0.keys.timeout);
    let mut published = Vec::new();
    for tenant in &config.auth0.tenants {
        let keys = match fetcher.fetch(&tenant.source).await {
            Ok(document) => KeySet::parse(&document, &config.auth0.verifier.algorithms)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let keys = match keys {
            Ok((keys, skipped)) if keys.is_empty() => {
                let reasons: Vec<String> = skipped.into_iter().map(|key| key.reason).collect();
                Err(format!("no usable key ({})", reasons.join("; ")))
            }
            other => other,
        };
        let way = fetcher.way(&tenant.source);
        published.push(Published { way, keys });
    }
    Ok(published)
}

/// Fetches the keys of every issuer, for deciding on one token. The first list is what of them is left
/// out, the second what went wrong.
pub async fn keyring(config: &Config) -> (Keyring, Vec<String>, Vec<String>) {
    let published = match fetch(config).await {
        Ok(published) => published,
        Err(error) => return (Keyring::default(), Vec::new(), vec![error]),
    };
    let (mut left_out, mut wrong) = (Vec::new(), Vec::new());
    for (tenant, published) in config.auth0.tenants.iter().zip(&published) {
        let issuer = &tenant.issuer;
        match &published.keys {
            Ok((_, skipped)) => left_out.extend(skipped.iter().map(|key| is_left_out(issuer, key))),
            Err(error) => wrong.push(no_keys(tenant, error)),
        }
    }
    (ring_of(config, published), left_out, wrong)
}

fn ring_of(config: &Config, published: Vec<Published>) -> Keyring {
    let tenants = config.auth0.tenants.iter().zip(published);
    let issuers = tenants.map(|(tenant, published)| IssuerKeys {
        issuer: tenant.issuer.clone(),
        keys: published.keys.ok().map(|(keys, _)| keys),
    });
    Keyring::new(issuers.collect(), 0)
}

/// That it is the keys that are not to be had, and from where.
fn no_keys(tenant: &Tenant, error: &str) -> String {
    let issuer = &tenant.issuer;
    match &tenant.source {
        KeySource::File(path) => format!("{issuer}: keys from {}: {error}", path.display()),
        KeySource::Url(url) => format!("{issuer}: keys from {url}: {error}"),
    }
}

fn is_left_out(issuer: &str, key: &SkippedKey) -> String {
    format!("{issuer}: key {} is left out: {}", key.index, key.reason)
}

/// Warns of an upstream that clients may reach around the proxy. Whoever shares its network namespace, as
/// the containers of a pod do, shares its interfaces too.
#[must_use]
pub fn exposure(config: &Config) -> Option<String> {
    let port = config.upstream.loopback_port()?;
    listening::on_every_interface(port).then(|| {
        format!(
            "upstream: something listens on port {port} of every interface and not on loopback only: whoever reaches it goes around authgate and can claim to be anybody; bind the agent to 127.0.0.1 (Mastra: server.host or MASTRA_HOST)"
        )
    })
}

/// What was found outside.
#[derive(Debug, Default)]
pub struct Found {
    /// What went well.
    pub fine: Vec<String>,
    /// What will bring somebody trouble.
    pub doubtful: Vec<String>,
    /// What is out of reach.
    pub wrong: Vec<String>,
}

/// Fetches every key set, connects to the upstream and reads its agent card, once each.
pub async fn online(config: &Config) -> Found {
    let mut found = Found::default();
    let Found {
        fine,
        doubtful,
        wrong,
    } = &mut found;
    let published = match fetch(config).await {
        Ok(published) => published,
        Err(error) => {
            wrong.push(error);
            return found;
        }
    };
    for (tenant, published) in config.auth0.tenants.iter().zip(&published) {
        let issuer = &tenant.issuer;
        let way = &published.way;
        match &published.keys {
            Ok((keys, skipped)) => {
                let count = keys.keys().len();
                fine.push(format!("{issuer}: usable keys: {count}, fetched {way}"));
                fine.extend(skipped.iter().map(|key| is_left_out(issuer, key)));
            }
            Err(error) => wrong.push(format!("{} ({way})", no_keys(tenant, error))),
        }
    }
    let ambiguous = ring_of(config, published).ambiguous();
    doubtful.extend(ambiguous.iter().map(ToString::to_string));
    let connector = Connector::new(
        &config.upstream,
        config.upstream_protocol,
        config.timeouts.connect,
    );
    let connected = match connector {
        Ok(connector) => match connector.reach().await {
            Ok(()) => Ok(connector),
            Err(error) => Err(error.to_string()),
        },
        Err(error) => Err(error.to_string()),
    };
    match connected {
        Ok(connector) => {
            fine.push(format!("upstream {}: reachable", config.upstream));
            match card::read(config, connector).await {
                Card::NotPublic => {}
                Card::Missing(why) => fine.push(format!("agent card: none: {why}")),
                Card::There(doubts) => {
                    fine.push("agent card: there".to_owned());
                    doubtful.extend(doubts.iter().map(|doubt| format!("agent card: {doubt}")));
                }
            }
        }
        Err(error) => wrong.push(format!("upstream {}: {error}", config.upstream)),
    }
    found
}
