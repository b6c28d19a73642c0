//! Protected resources (RFC 9728): what is published of each, and for which hosts and pages it is there.
//!
//! Pure. Everything comes from the configuration, and nothing from a request.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, ORIGIN};
use serde_json::{Map, Value, json};

use crate::canonical::Readings;
use crate::headers::{AllowedHost, Host};
use crate::policy::{Area, Areas, Policy};

/// Where the metadata of a resource at the root is; those of others are below it.
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Scopes that say how to log in and not what may be done: clients add them as they like (MCP
/// authorization, "Scope Selection").
const SCOPES_OF_LOGGING_IN: [&str; 2] = ["offline_access", "openid"];

/// `path_prefix`: what something in front strips from the beginning of every path, as `/team-a`. It is
/// configured and never taken from a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPrefix(HeaderValue);

impl PathPrefix {
    /// A path that has been checked: it begins with a slash and ends with none.
    #[must_use]
    pub fn new(path: &str) -> Option<Self> {
        HeaderValue::try_from(path).ok().map(Self)
    }

    /// As it was configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// For `X-Forwarded-Prefix`.
    #[must_use]
    pub const fn value(&self) -> &HeaderValue {
        &self.0
    }

    /// What is left of a path below it.
    #[must_use]
    pub fn strip<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = path.strip_prefix(self.as_str())?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The parts of a resource's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceUrl {
    /// All of it, as it was written: clients compare it letter for letter.
    pub text: String,
    /// Scheme and authority, as browsers send them in `Origin`.
    pub origin: String,
    /// The authority.
    pub host: AllowedHost,
    /// From the first slash on; empty where there is none.
    pub path: String,
    /// The same without `path_prefix`: as its requests come here.
    pub local_path: String,
}

/// One `[[resource]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceSettings {
    /// Where clients find it.
    pub url: ResourceUrl,
    /// Whom tokens for it may name, beside `auth0.audience`.
    pub audiences: Vec<String>,
    /// Advertised beside the scopes that rules name.
    pub scopes: Vec<String>,
    /// What people call it.
    pub name: Option<String>,
    /// Where people read about it.
    pub documentation: Option<String>,
}

/// What is published of proofs, the same for every resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofSupport {
    /// `dpop_signing_alg_values_supported`.
    pub algorithms: Vec<&'static str>,
    /// `dpop_bound_access_tokens_required`.
    pub required: bool,
}

/// A resource, with what is published of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// As configured.
    pub settings: ResourceSettings,
    /// Where its metadata is.
    pub metadata_url: String,
    /// Every scope that is advertised.
    pub scopes: BTreeSet<String>,
    /// The paths at which its metadata is served: those of its URL.
    metadata_paths: Vec<String>,
    /// Further ones, where no other resource has its own: without `path_prefix`, and at the root.
    further_paths: Vec<String>,
    document: Bytes,
}

/// All of them.
#[derive(Debug, Clone)]
pub struct Resources {
    list: Vec<Resource>,
    areas: Areas,
    well_known: Area,
}

/// What a path is to the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WellKnown<'r> {
    /// Nothing.
    Elsewhere,
    /// The metadata of this resource is there.
    Metadata(&'r Resource),
    /// Metadata could be there, and is not.
    Unknown,
}

/// Why a request that belongs to a resource does not come from where it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misdirected {
    /// The host is not the resource's.
    Host,
    /// The page is on another origin.
    Origin,
}

impl Resources {
    /// Computes what is published. `policy` has the area of each resource at the same place; `proofs` is
    /// `None` where none are taken.
    #[must_use]
    pub fn new(
        list: Vec<ResourceSettings>,
        issuers: &[&str],
        proofs: Option<&ProofSupport>,
        policy: &Policy,
    ) -> Self {
        let is_alone = list.len() == 1;
        let publish = |(place, settings): (usize, ResourceSettings)| {
            let scopes = advertised(&settings, policy.scopes_in(place));
            Resource::new(settings, scopes, issuers, proofs, is_alone)
        };
        Self {
            list: list.into_iter().enumerate().map(publish).collect(),
            areas: policy.areas().clone(),
            well_known: Area::new(WELL_KNOWN, Vec::new()),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// In the order of configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.list.iter()
    }

    /// The resource that a path belongs to as it stands.
    #[must_use]
    pub fn of(&self, path: &str) -> Option<&Resource> {
        self.list.get(self.areas.at(path)?)
    }

    /// What a path is to the metadata. Documents are there under one spelling only; with any resource, no
    /// reading of another one is left for the upstream to answer.
    #[must_use]
    pub fn well_known(&self, readings: &Readings<'_>) -> WellKnown<'_> {
        if self.is_empty() || !self.well_known.holds_a_reading_of(readings) {
            return WellKnown::Elsewhere;
        }
        let path = readings.literal();
        let at = |paths: fn(&Resource) -> &[String]| {
            let mut list = self.list.iter();
            list.find(|resource| paths(resource).iter().any(|own| own == path))
        };
        let found = at(|resource| &resource.metadata_paths);
        let found = found.or_else(|| at(|resource| &resource.further_paths));
        found.map_or(WellKnown::Unknown, WellKnown::Metadata)
    }

    /// Whether a host is that of some resource.
    #[must_use]
    pub fn serve(&self, host: &Host) -> bool {
        let mut resources = self.list.iter();
        resources.any(|resource| resource.settings.url.host.covers(host))
    }

    /// Checks against DNS rebinding, for every resource that a reading of the path belongs to; one of the hosts
    /// is enough. What the configuration welcomes elsewhere is left out: a host of `allowed_hosts`, an origin of
    /// `[cors]`.
    ///
    /// # Errors
    ///
    /// [`Misdirected`] says what is not as it should be.
    pub fn check_source(
        &self,
        readings: &Readings<'_>,
        hosts: &[&Host],
        origin: Option<&HeaderMap>,
    ) -> Result<(), Misdirected> {
        let places = self.areas.under_every_reading(readings);
        for resource in places.iter().filter_map(|place| self.list.get(*place)) {
            if !hosts.is_empty() && !hosts.iter().any(|host| resource.is_for_host(host)) {
                return Err(Misdirected::Host);
            }
            if origin.is_some_and(|headers| !resource.is_for_origin(headers)) {
                return Err(Misdirected::Origin);
            }
        }
        Ok(())
    }
}

impl Resource {
    fn new(
        settings: ResourceSettings,
        scopes: BTreeSet<String>,
        issuers: &[&str],
        proofs: Option<&ProofSupport>,
        is_alone: bool,
    ) -> Self {
        let url = &settings.url;
        let metadata_url = format!("{}{}", url.origin, well_known_path(&url.path));
        // Clients leave a slash at the end out, or add one.
        let both = |path: &str| {
            let bare = well_known_path(path.strip_suffix('/').unwrap_or(path));
            vec![format!("{bare}/"), bare]
        };
        let metadata_paths = both(&url.path);
        // What strips the prefix may strip it here too; those without the challenge look at the root.
        let mut further_paths = both(&url.local_path);
        if is_alone {
            further_paths.extend(both("/"));
        }
        let document = document(&settings, &scopes, issuers, proofs);
        Self {
            settings,
            metadata_url,
            scopes,
            metadata_paths,
            further_paths,
            document,
        }
    }

    /// The metadata, as JSON.
    #[must_use]
    pub const fn document(&self) -> &Bytes {
        &self.document
    }

    /// A name that an attacker can have resolve to this address is no address: browsers put into `Host`
    /// what stands in the URL, and only names can be rebound. Probes ask by address.
    fn is_for_host(&self, host: &Host) -> bool {
        self.settings.url.host.covers(host) || host.is_address_or_localhost()
    }

    fn is_for_origin(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(ORIGIN).iter();
        let (Some(origin), None) = (lines.next(), lines.next()) else {
            return false;
        };
        let url = &self.settings.url;
        origin.as_bytes() == url.origin.as_bytes()
            || (url.host.is_loopback() && is_loopback(origin))
    }
}

/// RFC 9728 §3.1: the well-known part goes between the host and the path, which at the root is none.
fn well_known_path(path: &str) -> String {
    format!("{WELL_KNOWN}{}", if path == "/" { "" } else { path })
}

/// Whether an origin is on this machine, with any port.
fn is_loopback(origin: &HeaderValue) -> bool {
    let text = origin.to_str().ok();
    let rest = text.and_then(|text| {
        text.strip_prefix("http://")
            .or_else(|| text.strip_prefix("https://"))
    });
    let host = rest.and_then(AllowedHost::parse);
    host.is_some_and(|host| host.is_loopback())
}

fn advertised(settings: &ResourceSettings, needed: BTreeSet<String>) -> BTreeSet<String> {
    let of_rules = needed
        .into_iter()
        .filter(|scope| !SCOPES_OF_LOGGING_IN.contains(&scope.as_str()));
    of_rules.chain(settings.scopes.iter().cloned()).collect()
}

/// RFC 9728 §2. What has no value is left out (§3.2).
fn document(
    settings: &ResourceSettings,
    scopes: &BTreeSet<String>,
    issuers: &[&str],
    proofs: Option<&ProofSupport>,
) -> Bytes {
    let mut members = Map::new();
    let mut set = |name: &str, value: Value| _ = members.insert(name.to_owned(), value);
    set("resource", settings.url.text.as_str().into());
    set("authorization_servers", json!(issuers));
    if !scopes.is_empty() {
        set("scopes_supported", json!(scopes));
    }
    set("bearer_methods_supported", json!(["header"]));
    if let Some(name) = &settings.name {
        set("resource_name", name.as_str().into());
    }
    if let Some(documentation) = &settings.documentation {
        set("resource_documentation", documentation.as_str().into());
    }
    if let Some(proofs) = proofs {
        set(
            "dpop_signing_alg_values_supported",
            json!(proofs.algorithms),
        );
        // False where it is left out.
        if proofs.required {
            set("dpop_bound_access_tokens_required", true.into());
        }
    }
    Value::Object(members).to_string().into()
}
