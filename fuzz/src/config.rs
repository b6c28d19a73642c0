//! Any text as the configuration file: it loads or says what is wrong and where, twice the same, and
//! what loads keeps to the documented bounds.
//!
//! Comment lines that begin with `#!` set flags and variables: `#!--listen=:80`, `#!AUTH0_DOMAIN=x`.

use std::time::Duration;

use authgate::check;
use authgate::config::{
    Config, Environment, KeySource, Loaded, Overrides, Problem, UpstreamAddress, load_text,
};
use authgate::headers::may_carry_identity;
use authgate::policy::{Access, Methods};

const NAME: &str = "authgate.toml";

/// What the reference calls the longest duration.
const A_YEAR: Duration = Duration::from_hours(8784);

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let loaded = load(text);
    let problems = loaded.config.as_ref().err().into_iter().flatten();
    for Problem { path, message } in problems.chain(&loaded.warnings) {
        assert!(!path.is_empty(), "{message}");
        assert!(!message.is_empty(), "{path}");
    }
    let again = load(text);
    assert_eq!(loaded.warnings, again.warnings);
    assert_eq!(loaded.notes, again.notes);
    match (&loaded.config, &again.config) {
        (Err(errors), Err(again)) => {
            assert!(!errors.is_empty());
            assert_eq!(errors, again);
        }
        (Ok(config), Ok(again)) => {
            assert_eq!(check::describe(config), check::describe(again));
            check_bounds(config);
            check_routes(config);
        }
        _ => panic!("it loads only sometimes"),
    }
}

fn load(text: &str) -> Loaded {
    let settings = || {
        text.lines()
            .filter_map(|line| line.strip_prefix("#!")?.split_once('='))
    };
    let setting = |name: &str| {
        settings()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.to_owned())
    };
    let overrides = Overrides {
        listen: setting("--listen"),
        upstream: setting("--upstream"),
        admin: setting("--admin"),
        workers: setting("--workers"),
        log: setting("--log"),
        log_format: setting("--log-format"),
    };
    let variables = settings().filter(|(name, _)| !name.starts_with('-'));
    let variables = variables.map(|(name, value)| (name.into(), value.into()));
    let environment = Environment::new(variables).expect("text is Unicode");
    load_text(NAME, text, &overrides, &environment)
}

fn check_bounds(config: &Config) {
    let limits = &config.limits;
    assert!(limits.header_bytes >= 8 * 1024);
    assert!((1..=10_000).contains(&limits.headers));
    assert!(limits.uri_bytes > 0 && limits.token_bytes > 0 && limits.connections > 0);

    let timeouts = &config.timeouts;
    for timeout in [
        timeouts.header,
        timeouts.idle,
        timeouts.connect,
        timeouts.response_header,
        timeouts.drain,
    ] {
        assert!(!timeout.is_zero() && timeout <= A_YEAR);
    }
    assert!(timeouts.linger <= A_YEAR);

    let auth0 = &config.auth0;
    assert!(!auth0.tenants.is_empty());
    for tenant in &auth0.tenants {
        assert!(tenant.issuer.starts_with("https://") && tenant.issuer.ends_with('/'));
        assert_eq!(tenant.issuer, tenant.issuer.to_ascii_lowercase());
        assert_eq!(tenant.issuer.matches('/').count(), 3);
        if let KeySource::Url(url) = &tenant.source {
            let host = url.host().expect("a host");
            let loopback = host == "localhost"
                || host
                    .trim_matches(['[', ']'])
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback());
            assert!(url.scheme_str() == Some("https") || loopback, "{url}");
        }
    }
    let verifier = &auth0.verifier;
    assert!(!verifier.algorithms.is_empty());
    assert!(!verifier.audiences.is_empty());
    assert!(
        verifier
            .audiences
            .iter()
            .all(|audience| !audience.is_empty())
    );
    assert!(verifier.clock_tolerance <= Duration::from_mins(1));
    assert!(
        verifier
            .max_token_age
            .is_none_or(|age| !age.is_zero() && age <= A_YEAR)
    );
    assert_eq!(verifier.max_token_bytes, limits.token_bytes);
    let keys = &auth0.keys;
    for duration in [keys.refresh, keys.cooldown, keys.timeout] {
        assert!(!duration.is_zero() && duration <= A_YEAR);
    }
    assert!(keys.serve_stale <= A_YEAR);

    match &config.upstream {
        UpstreamAddress::Http { host, port } | UpstreamAddress::Https { host, port } => {
            assert!(!host.is_empty() && *port > 0);
        }
        UpstreamAddress::Unix(path) => assert!(path.is_absolute()),
    }
    assert!(
        config
            .admin
            .is_none_or(|admin| admin != config.listen || admin.port() == 0)
    );

    let identity = &config.identity;
    for name in identity.names() {
        assert!(may_carry_identity(name), "{name}");
        assert!(config.managed.covers(name, true), "{name} is not protected");
    }
    assert!(
        config
            .strip
            .iter()
            .all(|name| config.managed.covers(name, false))
    );
    if let Some(cors) = &config.cors {
        assert!(cors.max_age <= Duration::from_hours(24));
    }
    assert!(config.expiry_grace.is_none_or(|grace| grace <= A_YEAR));
}

/// Each route decides requests for its own path.
fn check_routes(config: &Config) {
    let some_shadow = config.routes.iter().any(|route| route.shadow);
    for route in &config.routes {
        let path = route.pattern.source();
        if path.contains('*') {
            continue;
        }
        let method = match &route.methods {
            Methods::Remaining => "PROPFIND",
            Methods::Only(methods) => methods.first().expect("one at least").as_str(),
        };
        let matched = config.policy.matched(method, path).expect("a sound path");
        let anonymous = matched.judge(None);
        if route.access != Access::Public && !some_shadow {
            assert!(anonymous.is_err(), "{path} is open");
        }
    }
}
