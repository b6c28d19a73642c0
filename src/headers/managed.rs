//! Request headers that a client can never send to the upstream.
//!
//! Many backends fold `_`, `-`, `.` and case when they look a header up, so a name counts with all
//! its spellings (CVE-2025-64484, CVE-2026-88011).

use http::header::HeaderName;

/// Headers of one kind that are managed whatever is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManagedGroup {
    /// What they are, for the documentation.
    pub what: &'static str,
    /// The names, folded. One that ends in `*` stands for every name that begins like it.
    pub names: &'static [&'static str],
    /// Whether a trusted proxy may send them, spelled as they are here.
    pub from_trusted_proxies: bool,
    /// Whether `[identity]` may set them.
    pub may_carry_identity: bool,
}

/// What this program sets itself, and what makes some backend believe in another method, path, address or
/// client than the one that was decided on: the headers that other proxies set, by their own defaults.
pub const MANAGED: [ManagedGroup; 10] = [
    ManagedGroup {
        what: "Set by authgate, or about a proof or a connection that only authgate sees",
        names: &[
            "client-cert",
            "client-cert-chain",
            "dpop",
            "http2-settings",
            "proxy",
            "proxy-authorization",
            "traceparent",
            "x-request-id",
        ],
        from_trusted_proxies: false,
        may_carry_identity: false,
    },
    ManagedGroup {
        what: "A proxy's word about its client",
        names: &["forwarded", "x-real-ip"],
        from_trusted_proxies: false,
        may_carry_identity: false,
    },
    ManagedGroup {
        what: "The same: address, host, port, scheme and what was stripped of the path",
        names: &[
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-prefix",
            "x-forwarded-proto",
        ],
        from_trusted_proxies: true,
        may_carry_identity: false,
    },
    ManagedGroup {
        what: "The same: everything else of the family",
        names: &["x-forwarded-*"],
        from_trusted_proxies: false,
        may_carry_identity: true,
    },
    ManagedGroup {
        what: "The client's address, as proxies and content networks call it",
        names: &[
            "ali-cdn-real-ip",
            "cdn-src-ip",
            "cf-connecting-ip",
            "cf-connecting-ipv6",
            "cf-pseudo-ipv4",
            "client-ip",
            "do-connecting-ip",
            "fastly-client-ip",
            "fly-client-ip",
            "forwarded-for",
            "forwarded-for-ip",
            "proxy-client-ip",
            "true-client-ip",
            "wl-proxy-client-ip",
            "x-appengine-remote-addr",
            "x-appengine-user-ip",
            "x-azure-clientip",
            "x-azure-socketip",
            "x-client-ip",
            "x-cluster-client-ip",
            "x-envoy-external-address",
            "x-forwarded",
            "x-nf-client-connection-ip",
            "x-original-forwarded-for",
            "x-original-remote-addr",
            "x-originating-ip",
            "x-proxyuser-ip",
            "x-remote-addr",
            "x-remote-ip",
            "x-vercel-forwarded-for",
        ],
        from_trusted_proxies: true,
        may_carry_identity: false,
    },
    ManagedGroup {
        what: "Another host, scheme or path than the one decided on",
        names: &[
            "front-end-https",
            "x-envoy-internal",
            "x-envoy-original-*",
            "x-host",
            "x-host-override",
            "x-http-host-override",
            "x-original-host",
            "x-original-path",
            "x-original-port",
            "x-original-proto",
            "x-original-scheme",
            "x-original-uri",
            "x-original-url",
            "x-override-url",
            "x-replaced-path",
            "x-rewrite-uri",
            "x-rewrite-url",
            "x-scheme",
            "x-script-name",
            "x-url-scheme",
        ],
        from_trusted_proxies: false,
        may_carry_identity: false,
    },
    ManagedGroup {
        what: "Another method than the one decided on",
        names: &[
            "x-http-method",
            "x-http-method-override",
            "x-method-override",
            "x-original-method",
        ],
        from_trusted_proxies: false,
        may_carry_identity: false,
    },
    ManagedGroup {
        what: "Switches of frameworks and servers (Next.js CVE-2025-29927, Rack CVE-2025-61780)",
        names: &[
            "x-accel-mapping",
            "x-middleware-subrequest",
            "x-sendfile-type",
        ],
        from_trusted_proxies: false,
        may_carry_identity: false,
    },
    ManagedGroup {
        what: "Who somebody is, as other authenticating proxies say it",
        names: &[
            "cf-access-*",
            "iv-creds",
            "iv-groups",
            "iv-user",
            "iv-user-l",
            "l5d-client-id",
            "oam-remote-user",
            "oidc-*",
            "remote-*",
            "shib-*",
            "sm-universalid",
            "sm-user",
            "sm-userdn",
            "tailscale-user-*",
            "teleport-jwt-assertion",
            "x-amzn-oidc-*",
            "x-anonymous-consumer",
            "x-apigateway-api-userinfo",
            "x-auth-request-*",
            "x-authelia-*",
            "x-authenticated-*",
            "x-authentik-*",
            "x-consumer-*",
            "x-credential-identifier",
            "x-endpoint-api-userinfo",
            "x-goog-authenticated-user-*",
            "x-goog-iap-*",
            "x-id-token",
            "x-jwt-assertion",
            "x-ms-client-principal*",
            "x-ms-token-*",
            "x-pomerium-*",
            "x-remote-*",
            "x-token-subject",
            "x-token-user-*",
            "x-user",
            "x-user-id",
            "x-userinfo",
            "x-vouch-*",
            "x-webauth-*",
        ],
        from_trusted_proxies: false,
        may_carry_identity: true,
    },
    ManagedGroup {
        what: "A client's certificate, as proxies that end TLS say it",
        names: &[
            "cf-client-cert*",
            "ssl-client-*",
            "x-amzn-mtls-*",
            "x-arr-clientcert",
            "x-client-cert*",
            "x-client-verify",
            "x-ssl-cert",
            "x-ssl-client-*",
            "x-tls-client-*",
        ],
        from_trusted_proxies: false,
        may_carry_identity: true,
    },
];

/// What frames a message. These names pass as they are spelled in HTTP, which was checked; another
/// spelling means nothing here and the same thing to a backend that folds.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// The set of managed names. It is looked into for every field of every request, so both kinds of names are
/// in buckets, of which nearly all have one or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedNames {
    /// Whole names, by length and third byte.
    names: Vec<Vec<ManagedName>>,
    /// How names begin, by first and third byte.
    families: Vec<Vec<Box<str>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ManagedName {
    folded: Box<str>,
    /// From whom a field passes whose name is spelled exactly so; every other spelling is removed.
    passes: PassesFrom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PassesFrom {
    Nobody,
    TrustedProxies,
    Everybody,
}

impl ManagedNames {
    /// The built-in names and `further` ones, which are removed whoever the peer is.
    pub fn new<'n>(further: impl IntoIterator<Item = &'n HeaderName>) -> Self {
        let mut managed = Self {
            names: vec![Vec::new(); BUCKETS],
            families: vec![Vec::new(); BUCKETS],
        };
        for name in further {
            managed.add(name.as_str(), PassesFrom::Nobody);
        }
        for name in FRAMING {
            managed.add(name, PassesFrom::Everybody);
        }
        for group in MANAGED {
            for name in group.names {
                match name.strip_suffix('*') {
                    Some(family) => managed.add_family(family),
                    None if group.from_trusted_proxies => {
                        managed.add(name, PassesFrom::TrustedProxies);
                    }
                    None => managed.add(name, PassesFrom::Nobody),
                }
            }
        }
        managed
    }

    /// The first one of a name counts.
    fn add(&mut self, name: &str, passes: PassesFrom) {
        if self.find(name).is_some() {
            return;
        }
        if let Some(bucket) = self.names.get_mut(bucket_of_name(name)) {
            let folded = fold_text(name).into();
            bucket.push(ManagedName { folded, passes });
        }
    }

    fn add_family(&mut self, family: &str) {
        if let Some(bucket) = self.families.get_mut(bucket_of_family(family)) {
            bucket.push(family.into());
        }
    }

    /// Whether a header of the client's must be removed. What a trusted proxy says of its client may
    /// stay, spelled as proxies spell it.
    #[must_use]
    pub fn covers(&self, name: &HeaderName, peer_is_trusted: bool) -> bool {
        let name = name.as_str();
        match self.find(name) {
            None => self.is_of_family(name),
            Some(found) => match found.passes {
                PassesFrom::Nobody => true,
                PassesFrom::TrustedProxies => !peer_is_trusted || *found.folded != *name,
                PassesFrom::Everybody => *found.folded != *name,
            },
        }
    }

    /// Whether two names are spellings of one.
    #[must_use]
    pub fn alike(one: &HeaderName, other: &HeaderName) -> bool {
        is_folded(one.as_str(), &fold_text(other.as_str()))
    }

    fn find(&self, name: &str) -> Option<&ManagedName> {
        let bucket = self.names.get(bucket_of_name(name))?;
        bucket.iter().find(|one| is_folded(name, &one.folded))
    }

    fn is_of_family(&self, name: &str) -> bool {
        let bucket = self.families.get(bucket_of_family(name));
        let mut families = bucket.into_iter().flatten();
        families.any(|family| has_folded_prefix(name, family))
    }
}

/// One for each value of a byte.
const BUCKETS: usize = 256;

/// The third byte tells most names apart: so many begin with `x-`.
fn bucket_of_name(name: &str) -> usize {
    let [length, ..] = name.len().to_le_bytes();
    bucket(length, folded_byte(name, 2))
}

/// No family is shorter than its third byte.
fn bucket_of_family(name: &str) -> usize {
    bucket(folded_byte(name, 0), folded_byte(name, 2))
}

fn bucket(one: u8, other: u8) -> usize {
    usize::from(one.wrapping_mul(31) ^ other)
}

fn folded_byte(name: &str, index: usize) -> u8 {
    name.as_bytes().get(index).copied().map_or(b'-', fold)
}

/// Whether `[identity]` may set a header of this name: not where it has a meaning in HTTP of its own, or where
/// this program sets it for another purpose.
#[must_use]
pub fn may_carry_identity(name: &HeaderName) -> bool {
    const RESERVED: [&str; 27] = [
        "accept",
        "accept-encoding",
        "accept-language",
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "date",
        "expect",
        "host",
        "keep-alive",
        "location",
        "origin",
        "pragma",
        "range",
        "referer",
        "set-cookie",
        "te",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
    ];
    let folded = fold_text(name.as_str());
    let is_managed_otherwise = MANAGED
        .iter()
        .filter(|group| !group.may_carry_identity)
        .flat_map(|group| group.names)
        .any(|managed| match managed.strip_suffix('*') {
            Some(family) => folded.starts_with(family),
            None => folded == **managed,
        });
    !RESERVED.contains(&folded.as_str()) && !is_managed_otherwise && !folded.starts_with("proxy-")
}

/// Header names are lower case already in `http`; what is not a letter or digit becomes a hyphen.
pub(super) const fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
}

fn fold_text(name: &str) -> String {
    name.bytes().map(fold).map(char::from).collect()
}

/// Nearly every name is spelled as it is folded, and that is quickly compared.
fn is_folded(name: &str, folded: &str) -> bool {
    name == folded || (name.len() == folded.len() && name.bytes().map(fold).eq(folded.bytes()))
}

fn has_folded_prefix(name: &str, prefix: &str) -> bool {
    let beginning = || name.bytes().map(fold).zip(prefix.bytes());
    name.starts_with(prefix)
        || (name.len() >= prefix.len() && beginning().all(|(one, other)| one == other))
}

#[cfg(test)]
mod tests {
    use super::{MANAGED, ManagedNames, fold_text, may_carry_identity};
    use http::header::HeaderName;

    fn name(text: &str) -> HeaderName {
        HeaderName::from_bytes(text.as_bytes()).expect(text)
    }

    #[test]
    fn every_spelling_is_covered() {
        let managed = ManagedNames::new(&[name("x-forwarded-user"), name("x-mastra-client-type")]);
        for spelling in [
            "x-forwarded-user",
            "X-Forwarded-User",
            "x_forwarded_user",
            "x.forwarded.user",
            "X-FORWARDED_USER",
            "x!forwarded~user",
            "x-forwarded-email",
            "x_forwarded_for",
            "X.Forwarded.Host",
            "forwarded",
            "x-real-ip",
            "x_real_ip",
            "X-Mastra-Client-Type",
            "x_mastra.client-type",
            "x-original-url",
            "x_rewrite_url",
            "X-HTTP-Method-Override",
            "proxy",
            "dpop",
            "client-cert",
            "x_request_id",
            "traceparent",
            "http2-settings",
            "content_length",
            "Content.Length",
            "transfer_encoding",
        ] {
            assert!(managed.covers(&name(spelling), false), "{spelling}");
        }
        for other in [
            "accept",
            "content-length",
            "content-type",
            "transfer-encoding",
            "x-forward",
            "x-forwardeduser",
            "x-tenant",
            "tracestate",
            "cookie",
            "mcp-session-id",
        ] {
            assert!(!managed.covers(&name(other), false), "{other}");
        }
    }

    #[test]
    fn a_trusted_proxy_may_forward_but_not_identify() {
        let managed = ManagedNames::new(&[name("x-forwarded-user"), name("fly-client-ip")]);
        for allowed in [
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-prefix",
            "x-forwarded-proto",
            "x-client-ip",
            "true-client-ip",
            "CF-Connecting-IP",
            "x-remote-addr",
            "accept",
        ] {
            assert!(!managed.covers(&name(allowed), true), "{allowed}");
        }
        for refused in [
            "x-forwarded-email",
            "x-forwarded-path",
            "forwarded",
            "x-real-ip",
            "x-forwarded-user",
            "x_forwarded_user",
            "x_forwarded_for",
            "x_client_ip",
            "true.client-ip",
            "x-original-url",
            "x-original-host",
            "x-envoy-original-path",
            "x-scheme",
            "x-request-id",
            "remote-user",
            "x-remote-user",
            "x-auth-request-email",
            "cf-access-jwt-assertion",
            "ssl-client-s-dn",
            // Configured, and so removed from everybody.
            "fly-client-ip",
        ] {
            assert!(managed.covers(&name(refused), true), "{refused}");
        }
    }

    /// The headers by which oauth2-proxy, Authelia, Pomerium, clouds, nginx and others say who
    /// somebody is and from where, each as its documentation spells it.
    #[test]
    #[rustfmt::skip]
    fn what_other_proxies_say_is_removed() {
        let managed = ManagedNames::new([]);
        for removed in [
            "X-Auth-Request-User", "X-Auth-Request-Email", "X-Auth-Request-Preferred-Username", "X-Auth-Request-Groups",
            "X-Auth-Request-Access-Token", "Remote-User", "Remote-Groups", "Remote-Email", "Remote-Name", "REMOTE_USER",
            "X-Remote-User", "X-Remote-Group", "X-Remote-Extra-scopes", "X-User", "X-User-Id", "X_USER_ID", "X-WEBAUTH-USER",
            "X-WEBAUTH-ROLE", "X-Authenticated-Userid", "X-Authenticated-Scope", "X-Consumer-Username", "X-Consumer-Custom-ID",
            "X-Anonymous-Consumer", "X-Credential-Identifier", "X-Userinfo", "X-ID-Token", "X-Goog-Authenticated-User-Email",
            "X-Goog-Authenticated-User-ID", "X-Goog-IAP-JWT-Assertion", "X-Endpoint-API-UserInfo", "X-Apigateway-Api-Userinfo",
            "X-Amzn-Oidc-Data", "X-Amzn-Oidc-Identity", "X-Amzn-Oidc-Accesstoken", "X-Amzn-Mtls-Clientcert-Subject",
            "X-MS-CLIENT-PRINCIPAL", "X-MS-CLIENT-PRINCIPAL-NAME", "X-MS-CLIENT-PRINCIPAL-IDP", "X-MS-TOKEN-AAD-ID-TOKEN",
            "X-ARR-ClientCert", "Cf-Access-Jwt-Assertion", "Cf-Access-Authenticated-User-Email", "X-Pomerium-Jwt-Assertion",
            "X-Pomerium-Claim-Email", "X-authentik-username", "X-authentik-jwt", "X-Authelia-URL", "X-Vouch-User",
            "X-Token-User-Name", "X-Token-Subject", "OIDC_CLAIM_sub", "OIDC_access_token", "Shib-Session-ID", "Tailscale-User-Login",
            "Teleport-Jwt-Assertion", "l5d-client-id", "iv-user", "SM_USER", "X-JWT-Assertion", "X-Forwarded-User",
            "X-SSL-Client-Verify", "X-SSL-Client-S-DN", "SSL-Client-Subject-DN", "ssl-client-verify", "SSL_CLIENT_S_DN",
            "X-Client-Cert", "X-Client-Certificate", "X-Client-Cert-DN", "X-Client-Verify", "X-Forwarded-Client-Cert",
            "X-Forwarded-Tls-Client-Cert-Info", "Client-Cert", "X-Client-IP", "True-Client-IP", "CF-Connecting-IP",
            "CF-Connecting-IPv6", "X-Cluster-Client-IP", "Forwarded-For", "X-Forwarded", "Fastly-Client-IP", "X-Real-IP",
            "X-Envoy-External-Address", "X-Azure-ClientIP", "X-Appengine-User-IP", "X-Original-Forwarded-For", "X-Original-Host",
            "X-Host", "X-Scheme", "X-Envoy-Original-Path", "X-Original-URI", "X-Rewrite-URL", "X-Script-Name",
            "X-Middleware-Subrequest", "X-Accel-Mapping", "X-Sendfile-Type",
        ] {
            assert!(managed.covers(&name(removed), false), "{removed}");
        }
    }

    /// Names that are near to managed ones, and that clients need.
    #[test]
    #[rustfmt::skip]
    fn what_clients_say_for_themselves_passes() {
        let managed = ManagedNames::new([]);
        for kept in [
            "accept", "accept-language", "authorization", "baggage", "cache-control", "cf-ipcountry", "cf-ray", "cf-visitor",
            "client-version", "content-type", "cookie", "cookie2", "cdn-loop", "grpc-timeout", "host", "idempotency-key",
            "if-none-match", "last-event-id", "mcp-protocol-version", "mcp-session-id", "oidc", "origin", "prefer", "range",
            "referer", "remote", "save-data", "sec-ch-ua", "sec-fetch-site", "sec-websocket-key", "ssl", "tracestate",
            "traceparent2", "user-agent", "via", "x-access-token", "x-amz-date", "x-amzn-trace-id", "x-api-key", "x-auth",
            "x-auth-token", "x-b3-traceid", "x-client", "x-client-id", "x-client-info", "x-client-version", "x-cloud-trace-context",
            "x-consumer", "x-correlation-id", "x-csrf-token", "x-datadog-trace-id", "x-envoy-attempt-count", "x-forward",
            "x-forwardeduser", "x-github-event", "x-goog-api-client", "x-goog-api-key", "x-goog-user-project", "x-grpc-web",
            "x-hasura-role", "x-host-name", "x-hub-signature-256", "x-ms-client-request-id", "x-ms-version", "x-org-id",
            "x-original-filename", "x-remote", "x-requested-with", "x-scheme-version", "x-stainless-lang", "x-tenant-id",
            "x-token", "x-user-agent", "x-user-timezone", "x-users", "x-vercel-id", "x-xsrf-token",
        ] {
            assert!(!managed.covers(&name(kept), false), "{kept}");
            assert!(!managed.covers(&name(kept), true), "{kept}");
        }
    }

    #[test]
    fn the_table_is_in_order() {
        let mut all: Vec<&str> = Vec::new();
        for group in MANAGED {
            assert!(group.names.is_sorted(), "{}", group.what);
            all.extend(group.names);
        }
        for name in &all {
            let text = name.strip_suffix('*').unwrap_or(name);
            assert!(text.len() >= 3 && text == fold_text(text), "{name}");
            assert_eq!(
                all.iter().filter(|other| *other == name).count(),
                1,
                "{name} twice"
            );
        }
    }

    /// The index finds what a plain search of the table finds, in every spelling.
    #[test]
    fn the_index_agrees_with_the_table() {
        let managed = ManagedNames::new([]);
        let mut checked = 0;
        for listed in MANAGED.iter().flat_map(|group| group.names) {
            let text = listed.replace('*', "");
            let more = [
                format!("{text}x"),
                format!("{text}-x"),
                format!("x-{text}"),
                format!("-{text}"),
            ];
            let less = text[..text.len() - 1].to_owned();
            let mixed = text.replacen('-', "_", 1).replace('-', ".");
            for candidate in more
                .into_iter()
                .chain([less, mixed, text.to_ascii_uppercase(), text])
            {
                let folded = fold_text(&candidate);
                let expected = MANAGED.iter().flat_map(|group| group.names).any(|listed| {
                    match listed.strip_suffix('*') {
                        Some(family) => folded.starts_with(family),
                        None => folded == **listed,
                    }
                });
                let is_framing = matches!(folded.as_str(), "content-length" | "transfer-encoding");
                assert!(!is_framing);
                assert_eq!(
                    managed.covers(&name(&candidate), false),
                    expected,
                    "{candidate}"
                );
                checked += 1;
            }
        }
        assert!(checked > 800, "{checked}");
    }

    #[test]
    fn identity_needs_a_name_of_its_own() {
        for fine in [
            "x-forwarded-user",
            "x-auth-sub",
            "x-org-id",
            "remote-user",
            "x-user-id",
            "x-auth-request-email",
            "x-ssl-client-s-dn",
            "x-ms-client-principal-name",
        ] {
            assert!(may_carry_identity(&name(fine)), "{fine}");
        }
        for reserved in [
            "host",
            "authorization",
            "Content_Length",
            "x-forwarded-for",
            "via",
            "x-request-id",
            "proxy-user",
            "traceparent",
            "x-client-ip",
            "x_original_host",
            "x-envoy-original-path",
            "forwarded",
            "client-cert",
        ] {
            assert!(!may_carry_identity(&name(reserved)), "{reserved}");
        }
    }
}
