//! The agent card (A2A): does what the backend tells of itself fit where it stands?
//!
//! Cards are never rewritten: they may be signed. So what is wrong in one is told here, for its author.

use std::time::Duration;

use http::header::{ACCEPT, HOST, HeaderValue};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use crate::authorized::{AuthorizedRequest, Forwarding};
use crate::canonical::CanonicalRequest;
use crate::config::Config;
use crate::headers::{AllowedHost, MaxForwards, Outbound, Peer, Pseudonym};
use crate::policy::{Caller, Permit};
use crate::upstream::{Asker, Connector, RequestBody, Room, Unheard, Upstream};

/// Where a card is (A2A §8.2).
const PATH: &str = "/.well-known/agent-card.json";

/// Far more than a card with every skill of an agent.
const MAX_CARD_BYTES: usize = 1024 * 1024;

/// For the whole answer: a card is a file, or as good as one.
const PATIENCE: Duration = Duration::from_secs(5);

/// What there is to say of the card.
pub(super) enum Card {
    /// Nobody may read it without a token, so it is not looked at.
    NotPublic,
    /// It cannot be had, for this reason.
    Missing(String),
    /// It is there. What does not fit, if anything.
    There(Vec<String>),
}

/// Asks for the card as a client without a token does, under the same rules.
pub(super) async fn read(config: &Config, connector: Connector) -> Card {
    let Some(request) = request() else {
        return Card::NotPublic;
    };
    let matched = config.policy.matched_request(&request, &[]);
    let Ok(permit) = matched.authorize(Caller::Anonymous) else {
        return Card::NotPublic;
    };
    match tokio::time::timeout(PATIENCE, fetch(config, connector, &permit)).await {
        Ok(Ok(card)) => Card::There(judge(&card, &Surroundings::of(config))),
        Ok(Err(why)) => Card::Missing(why),
        Err(_) => Card::Missing(format!("nothing within {PATIENCE:?}")),
    }
}

/// The request for a card.
fn request() -> Option<CanonicalRequest> {
    let request = Request::get(PATH)
        .header(HOST, "localhost")
        .header(ACCEPT, "application/json")
        .body(());
    let (head, ()) = request.ok()?.into_parts();
    CanonicalRequest::new(head, false).ok()
}

async fn fetch(
    config: &Config,
    connector: Connector,
    permit: &Permit<'_>,
) -> Result<Value, String> {
    let request = permit.request();
    let forwarding = Forwarding {
        managed: &config.managed,
        token_sources: &config.token_sources,
        session: None,
        outbound: Outbound {
            identity: None,
            forward_authorization: false,
            host: request.host(),
            version: request.version(),
            scheme: "http",
            te_trailers: false,
            max_forwards: MaxForwards::Unlimited,
            reads_answer: false,
            pseudonym: &Pseudonym::new(0),
            peer: Peer::default(),
            path_prefix: config.forwarded_prefix(),
            request_id: &HeaderValue::from_static("check"),
        },
    };
    let authorize = |body| AuthorizedRequest::new(permit, body, &forwarding);
    let answer = Upstream::new(connector, PATIENCE, Room::default())
        .send(
            RequestBody::empty(),
            authorize,
            None,
            None::<Unheard>,
            Asker::default(),
        )
        .await
        .map_err(|failure| failure.to_string())?;
    if !answer.status().is_success() {
        return Err(format!("the answer is {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), MAX_CARD_BYTES)
        .collect()
        .await
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| format!("it is not JSON: {error}"))
}

/// What is known of where the agent is.
struct Surroundings {
    /// Scheme and authority of every resource.
    origins: Vec<String>,
    allowed_hosts: Vec<AllowedHost>,
    /// The backend itself, where it has an authority.
    upstream: Option<String>,
    issuers: Vec<String>,
}

impl Surroundings {
    fn of(config: &Config) -> Self {
        let origins = config.resources.iter();
        Self {
            origins: origins
                .map(|resource| resource.settings.url.origin.clone())
                .collect(),
            allowed_hosts: config.allowed_hosts.clone(),
            upstream: config.upstream.authority(),
            issuers: config
                .auth0
                .tenants
                .iter()
                .map(|tenant| tenant.issuer.clone())
                .collect(),
        }
    }

    /// Why clients that follow this URL do not come here, as far as is known.
    fn misses(&self, url: &str) -> Option<String> {
        let Some(uri) = url.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some()) else {
            return Some("is no absolute URL".to_owned());
        };
        let authority = uri.authority().map_or("", http::uri::Authority::as_str);
        let origin = format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
        if !self.origins.is_empty() {
            let is_known = self.origins.contains(&origin.to_ascii_lowercase());
            return (!is_known).then(|| {
                format!(
                    "is not at {}, as the [[resource]] is",
                    self.origins.join(" or ")
                )
            });
        }
        let host = AllowedHost::parse(authority);
        if !self.allowed_hosts.is_empty() {
            let is_known = host.is_some_and(|host| {
                let mut allowed = self.allowed_hosts.iter();
                allowed.any(|allowed| allowed.includes(&host))
            });
            return (!is_known).then(|| "is for no host in allowed_hosts".to_owned());
        }
        let is_local = host.is_some_and(|host| host.is_loopback())
            || self.upstream.as_deref() == Some(authority);
        is_local.then(|| {
            "leads to the agent itself or to the client's own machine, and not here".to_owned()
        })
    }
}

/// Every reason for which clients that go by this card would not get through.
fn judge(card: &Value, known: &Surroundings) -> Vec<String> {
    let mut doubts = Vec::new();
    let urls = urls(card);
    if urls.is_empty() {
        doubts.push("it names no URL (supportedInterfaces, or url before A2A 1.0)".to_owned());
    }
    for (place, url) in urls {
        if let Some(why) = known.misses(url) {
            doubts.push(format!(
                "{place} {url:?} {why}: set the URL that clients use"
            ));
        }
    }
    let schemes = card.get("securitySchemes");
    let names_an_issuer = |scheme: &Value| {
        let mut issuers = known.issuers.iter();
        issuers.any(|issuer| holds_text(scheme, &|text| text.starts_with(issuer.as_str())))
    };
    if !schemes.is_some_and(names_an_issuer) {
        let issuer = known.issuers.first().map_or("", String::as_str);
        doubts.push(format!("securitySchemes names nothing of {}, so clients do not learn where to log in: declare an openIdConnectSecurityScheme with openIdConnectUrl \"{issuer}.well-known/openid-configuration\"", known.issuers.join(" or ")));
    }
    doubts
}

/// Every URL at which the card says the agent is: A2A 1.0 and before.
fn urls(card: &Value) -> Vec<(String, &str)> {
    let mut urls = Vec::new();
    if let Some(url) = card.get("url").and_then(Value::as_str) {
        urls.push(("url".to_owned(), url));
    }
    for list in ["supportedInterfaces", "additionalInterfaces"] {
        let interfaces = card.get(list).and_then(Value::as_array);
        for (place, interface) in interfaces.into_iter().flatten().enumerate() {
            if let Some(url) = interface.get("url").and_then(Value::as_str) {
                urls.push((format!("{list}[{place}].url"), url));
            }
        }
    }
    urls
}

/// Whether a text somewhere in a value is such. How deep values nest is bounded where they are parsed.
fn holds_text(value: &Value, is_such: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is_such(text),
        Value::Array(items) => items.iter().any(|item| holds_text(item, is_such)),
        Value::Object(members) => members.values().any(|member| holds_text(member, is_such)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Surroundings, judge};
    use crate::headers::AllowedHost;
    use serde_json::{Value, json};

    fn known(origins: &[&str], hosts: &[&str]) -> Surroundings {
        Surroundings {
            origins: origins.iter().map(|one| (*one).to_owned()).collect(),
            allowed_hosts: hosts
                .iter()
                .filter_map(|host| AllowedHost::parse(host))
                .collect(),
            upstream: Some("agent:4111".to_owned()),
            issuers: vec!["https://t.auth0.com/".to_owned()],
        }
    }

    fn card(url: &str) -> Value {
        json!({
            "supportedInterfaces": [{"url": url, "protocolBinding": "HTTP+JSON"}],
            "securitySchemes": {"auth0": {"openIdConnectSecurityScheme": {
                "openIdConnectUrl": "https://t.auth0.com/.well-known/openid-configuration",
            }}},
        })
    }

    #[test]
    fn urls_are_compared_with_what_is_known() {
        let resource = known(&["https://agents.example.com"], &["ignored.example"]);
        let hosts = known(&[], &["agents.example.com", "b.example:8443"]);
        let nothing = known(&[], &[]);
        for (known, url, fits) in [
            (&resource, "https://agents.example.com/a2a/v1", true),
            (&resource, "https://agents.example.com", true),
            (&resource, "https://AGENTS.example.com/x", true),
            (&resource, "http://agents.example.com/a2a", false),
            (&resource, "https://agents.example.com.evil/a2a", false),
            (&resource, "https://ignored.example/a2a", false),
            (&resource, "http://127.0.0.1:4111/", false),
            (&resource, "/a2a", false),
            (&resource, "", false),
            (&hosts, "https://agents.example.com/a2a", true),
            (&hosts, "https://agents.example.com:444/a2a", true),
            (&hosts, "https://b.example:8443/", true),
            (&hosts, "https://b.example/", false),
            (&hosts, "https://other.example/", false),
            (&hosts, "http://localhost:4111/", false),
            (&nothing, "https://anything.example/", true),
            (&nothing, "http://localhost:4111/", false),
            (&nothing, "http://[::1]:4111/", false),
            (&nothing, "http://agent:4111/a2a", false),
            (&nothing, "agents.example.com", false),
        ] {
            let doubts = judge(&card(url), known);
            assert_eq!(doubts.is_empty(), fits, "{url}: {doubts:?}");
        }
    }

    #[test]
    fn schemes_of_both_versions_count_and_others_do_not() {
        let known = known(&["https://a.example"], &[]);
        let oauth = json!({"clientCredentials": {"tokenUrl": "https://t.auth0.com/oauth/token"}});
        for (schemes, fits) in [
            (
                json!({"a": {"type": "openIdConnect", "openIdConnectUrl": "https://t.auth0.com/.well-known/openid-configuration"}}),
                true,
            ),
            (json!({"a": {"type": "oauth2", "flows": oauth}}), true),
            (
                json!({"a": {"oauth2SecurityScheme": {"flows": oauth}}}),
                true,
            ),
            (
                json!({"a": {"httpAuthSecurityScheme": {"scheme": "bearer"}}}),
                false,
            ),
            (
                json!({"a": {"type": "openIdConnect", "openIdConnectUrl": "https://t.auth0.com.evil/"}}),
                false,
            ),
            (
                json!({"a": {"type": "openIdConnect", "openIdConnectUrl": "https://other.auth0.com/"}}),
                false,
            ),
            (json!({}), false),
            (json!(null), false),
        ] {
            let card = json!({"url": "https://a.example/a2a", "securitySchemes": schemes});
            assert_eq!(judge(&card, &known).is_empty(), fits, "{schemes}");
        }
    }

    #[test]
    fn what_is_no_card_has_everything_wrong() {
        let known = known(&[], &[]);
        for card in [
            json!({}),
            json!([]),
            json!("x"),
            json!({"url": 7, "supportedInterfaces": {}}),
        ] {
            assert_eq!(judge(&card, &known).len(), 2, "{card}");
        }
        let several = json!({
            "url": "http://localhost/a",
            "supportedInterfaces": [{"url": "http://localhost/b"}, {"url": "https://fine.example"}, {}],
            "additionalInterfaces": [{"url": "http://127.0.0.1/c"}],
        });
        let doubts = judge(&several, &known).join("\n");
        for place in [
            "url \"",
            "supportedInterfaces[0].url",
            "additionalInterfaces[0].url",
        ] {
            assert!(doubts.contains(place), "{doubts}");
        }
        assert!(!doubts.contains("fine.example"), "{doubts}");
    }
}
