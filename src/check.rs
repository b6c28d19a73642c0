//! `authgate check`: what a configuration means, and whether the outside world plays along.

use std::fmt::Write as _;

use crate::config::{Config, KeySource};
use crate::jose::KeySet;
use crate::keys::Fetcher;
use crate::policy::{Access, Condition, Methods};
use crate::tls::Roots;
use crate::upstream::Connector;

/// The effective configuration and the route table, for people.
#[must_use]
pub fn describe(config: &Config) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    _ = write_settings(&mut text, config);
    _ = write_routes(&mut text, config);
    text
}

fn write_settings(text: &mut String, config: &Config) -> std::fmt::Result {
    let auth0 = &config.auth0;
    let verifier = &auth0.verifier;
    let algorithms: Vec<&str> = verifier
        .algorithms
        .iter()
        .map(|algorithm| algorithm.name())
        .collect();
    writeln!(text, "listen       {}", config.listen)?;
    writeln!(text, "upstream     {}", config.upstream)?;
    match config.admin {
        Some(address) => writeln!(text, "admin        {address}")?,
        None => writeln!(text, "admin        off")?,
    }
    writeln!(text, "workers      {}", config.workers)?;
    for tenant in &auth0.tenants {
        writeln!(text, "issuer       {}", tenant.issuer)?;
        match &tenant.source {
            KeySource::File(path) => writeln!(text, "  keys       {}", path.display())?,
            KeySource::Url(url) => writeln!(text, "  keys       {url}")?,
        }
    }
    writeln!(text, "audience     {}", verifier.audiences.join(", "))?;
    writeln!(text, "algorithms   {}", algorithms.join(", "))?;
    writeln!(text, "tolerance    {:?}", verifier.clock_tolerance)?;
    match verifier.max_token_age {
        Some(age) => writeln!(text, "token age    at most {age:?}")?,
        None => writeln!(text, "token age    until exp")?,
    }
    writeln!(text, "subject in   {}", config.identity.subject_header)?;
    for (name, claim) in &config.identity.headers {
        writeln!(text, "claim in     {name} = {claim}")?;
    }
    if let Some(name) = &config.identity.claims_header {
        writeln!(text, "claims in    {name}")?;
    }
    if config.identity.forward_authorization {
        writeln!(text, "token        forwarded to the upstream")?;
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
        let methods = match &route.methods {
            Methods::Remaining => "all other methods".to_owned(),
            Methods::Only(methods) => methods.join(" "),
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

/// Fetches every key set and connects to the upstream, once each. The first list is what went well,
/// the second what did not.
pub async fn online(config: &Config) -> (Vec<String>, Vec<String>) {
    let mut fine = Vec::new();
    let mut wrong = Vec::new();
    let tls = Roots::load(config.auth0.keys.ca_file.as_deref())
        .map_err(|error| error.to_string())
        .and_then(|roots| roots.client_config().map_err(|error| error.to_string()));
    let tls = match tls {
        Ok(tls) => tls,
        Err(error) => return (fine, vec![format!("trusted roots: {error}")]),
    };
    let fetcher = Fetcher::new(tls, config.auth0.keys.timeout);
    for tenant in &config.auth0.tenants {
        let issuer = &tenant.issuer;
        let keys = match fetcher.fetch(&tenant.source).await {
            Ok(document) => KeySet::parse(&document, &config.auth0.verifier.algorithms)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match keys {
            Ok((keys, skipped)) if keys.is_empty() => {
                let reasons: Vec<String> = skipped.into_iter().map(|key| key.reason).collect();
                wrong.push(format!("{issuer}: no usable key ({})", reasons.join("; ")));
            }
            Ok((keys, skipped)) => {
                fine.push(format!("{issuer}: {} usable keys", keys.keys().len()));
                for key in skipped {
                    fine.push(format!(
                        "{issuer}: key {} is left out: {}",
                        key.index, key.reason
                    ));
                }
            }
            Err(error) => wrong.push(format!("{issuer}: {error}")),
        }
    }
    let connected = match Connector::new(&config.upstream, config.timeouts.connect) {
        Ok(connector) => connector
            .connect()
            .await
            .map(drop)
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match connected {
        Ok(()) => fine.push(format!("upstream {}: reachable", config.upstream)),
        Err(error) => wrong.push(format!("upstream {}: {error}", config.upstream)),
    }
    (fine, wrong)
}
