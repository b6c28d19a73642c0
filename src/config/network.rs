//! Where to listen, where to forward to, and the limits and timeouts on the way.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use ipnet::{IpNet, Ipv4Net};

use super::reader::{Problems, Section};
use super::sources::Sourced;
use crate::certificate::CertificateFiles;
use crate::headers::AllowedHost;

/// Where requests are forwarded to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// `http://HOST:PORT`
    Http {
        /// A host name or an address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `https://HOST:PORT`
    Https {
        /// A host name or an address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix:/path/to.sock`
    Unix(PathBuf),
}

/// Which HTTP is spoken to the upstream. It is not negotiated: in clear text there is nothing to
/// negotiate with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2: by prior knowledge in clear text, by ALPN over TLS.
    Http2,
}

/// `[limits]`: the most of everything that a client decides on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// All header fields of a request together, in bytes.
    pub header_bytes: usize,
    /// Header fields of a request.
    pub headers: usize,
    /// The request target, in bytes.
    pub uri_bytes: usize,
    /// A bearer token, in bytes.
    pub token_bytes: usize,
    /// A request body, in bytes; `None` leaves it to the upstream.
    pub body_bytes: Option<usize>,
    /// Connections at a time.
    pub connections: usize,
}

/// `[timeouts]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For a client to send a request head.
    pub header: Duration,
    /// For a connection between requests.
    pub idle: Duration,
    /// For a connection to the upstream.
    pub connect: Duration,
    /// For the upstream to begin its answer.
    pub response_header: Duration,
    /// After SIGTERM: how long connections are still accepted, and then how long idle ones are kept.
    pub linger: Duration,
    /// After SIGTERM or SIGINT: how long running requests may go on.
    pub drain: Duration,
}

impl std::fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Http { .. } => write!(f, "http://{}", self.authority().unwrap_or_default()),
            Self::Https { .. } => write!(f, "https://{}", self.authority().unwrap_or_default()),
        }
    }
}

impl std::fmt::Display for UpstreamProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        })
    }
}

impl UpstreamAddress {
    /// Host and port as they stand in a URL, where it has them.
    #[must_use]
    pub fn authority(&self) -> Option<String> {
        match self {
            Self::Http { host, port } | Self::Https { host, port } if host.contains(':') => {
                Some(format!("[{host}]:{port}"))
            }
            Self::Http { host, port } | Self::Https { host, port } => {
                Some(format!("{host}:{port}"))
            }
            Self::Unix(_) => None,
        }
    }

    /// The TCP port on this machine, where it is one.
    #[must_use]
    pub fn loopback_port(&self) -> Option<u16> {
        match self {
            Self::Http { host, port } | Self::Https { host, port } => {
                is_loopback(host).then_some(*port)
            }
            Self::Unix(_) => None,
        }
    }
}

/// Whether a host is this machine itself.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// `ADDRESS:PORT`, `:PORT` or `localhost:PORT`.
pub(super) fn listen_address(setting: &Sourced, problems: &mut Problems) -> Option<SocketAddr> {
    let Sourced { value, source } = setting;
    let every_interface = value
        .strip_prefix(':')
        .map(|port| format!("0.0.0.0:{port}"));
    let loopback = value
        .strip_prefix("localhost:")
        .map(|port| format!("127.0.0.1:{port}"));
    let text = every_interface
        .or(loopback)
        .unwrap_or_else(|| value.clone());
    let parsed = text.parse().ok();
    if parsed.is_none() {
        problems.error(
            source,
            format!(
                "{value:?} is not an address; write one such as \"0.0.0.0:8080\" or \"[::]:8080\""
            ),
        );
    }
    parsed
}

/// The admin listener's address; `None` for `"off"`. Fails when a problem was reported.
pub(super) fn admin_address(
    setting: &Sourced,
    problems: &mut Problems,
) -> Result<Option<SocketAddr>, ()> {
    if setting.value == "off" {
        return Ok(None);
    }
    listen_address(setting, problems).map(Some).ok_or(())
}

/// More threads than this is a slip of the finger; each has its own pool of connections.
pub(super) const MOST_WORKERS: usize = 256;

/// `"auto"` or a number of threads.
pub(super) fn workers(setting: &Sourced, problems: &mut Problems) -> Option<NonZeroUsize> {
    if setting.value == "auto" {
        return None;
    }
    let parsed = setting
        .value
        .parse()
        .ok()
        .filter(|count: &NonZeroUsize| count.get() <= MOST_WORKERS);
    if parsed.is_none() {
        problems.error(
            &setting.source,
            format!(
                "{:?}: write \"auto\" or a number from 1 to {MOST_WORKERS}",
                setting.value
            ),
        );
    }
    parsed
}

/// `http://`, `https://` or `unix:`, without path or query.
pub(super) fn upstream(setting: &Sourced, problems: &mut Problems) -> Option<UpstreamAddress> {
    let Sourced { value, source } = setting;
    if let Some(path) = value.strip_prefix("unix:") {
        if !path.starts_with('/') {
            problems.error(
                source,
                format!(
                    "{value:?}: write unix: and an absolute path, such as \"unix:/run/agent.sock\""
                ),
            );
            return None;
        }
        return Some(UpstreamAddress::Unix(PathBuf::from(path)));
    }
    let refuse = |problems: &mut Problems, why: &str| {
        problems.error(source, format!("{value:?} {why}; write one such as \"http://127.0.0.1:4111\", \"https://agent.internal\" or \"unix:/run/agent.sock\""));
        None
    };
    let Ok(uri) = value.parse::<Uri>() else {
        return refuse(problems, "is not a URL");
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return refuse(problems, "has no scheme");
    };
    if authority.as_str().contains('@') {
        return refuse(problems, "holds user information");
    }
    if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
        return refuse(
            problems,
            "has a path or query, but requests are forwarded with the path that the client sent",
        );
    }
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let has_port_text = authority.as_str().len() > authority.host().len();
    if host.is_empty() || (has_port_text && authority.port_u16().is_none_or(|port| port == 0)) {
        return refuse(problems, "has no usable host and port");
    }
    match scheme {
        "http" => Some(UpstreamAddress::Http {
            host,
            port: authority.port_u16().unwrap_or(80),
        }),
        "https" => Some(UpstreamAddress::Https {
            host,
            port: authority.port_u16().unwrap_or(443),
        }),
        _ => refuse(problems, "has a scheme that is not supported"),
    }
}

/// `"http1"` or `"http2"`.
pub(super) fn upstream_protocol(root: &mut Section, problems: &mut Problems) -> UpstreamProtocol {
    root.choice(
        "upstream_protocol",
        problems,
        &[
            ("http1", UpstreamProtocol::Http1),
            ("http2", UpstreamProtocol::Http2),
        ],
    )
    .unwrap_or(UpstreamProtocol::Http1)
}

/// Refuses to forward to ourselves: every request would go round until something breaks.
pub(super) fn check_loop(listen: SocketAddr, upstream: &UpstreamAddress, problems: &mut Problems) {
    let UpstreamAddress::Http { host, port } = upstream else {
        return;
    };
    let host: Option<IpAddr> = match host.as_str() {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        other => other.parse().ok(),
    };
    let own = host.is_some_and(|host| {
        host == listen.ip()
            || host.is_unspecified()
            || (host.is_loopback() && listen.ip().is_unspecified())
    });
    if own && *port == listen.port() && *port != 0 {
        problems.error("upstream", format!("is where authgate itself listens ({listen}): move the agent or authgate to another port"));
    }
}

/// Addresses or networks whose `X-Forwarded-*` headers are believed.
pub(super) fn trusted_proxies(section: &mut Section, problems: &mut Problems) -> Vec<IpNet> {
    let path = section.path_of("trusted_proxies");
    let list = section
        .strings("trusted_proxies", problems)
        .unwrap_or_default();
    let mut networks = Vec::new();
    for text in list {
        match network(&text) {
            Ok(network) => networks.push(network),
            Err(why) => problems.error(&path, format!("{text:?} {why}")),
        }
    }
    networks
}

/// A network or an address. Peers are compared by their canonical address, so a network of IPv4-mapped ones
/// (`::ffff:10.0.0.0/104`, RFC 4291 §2.5.5.2) is read as the IPv4 network that it is: logs and tools print
/// addresses so, and they are copied from there.
fn network(text: &str) -> Result<IpNet, &'static str> {
    const MAPPED_PREFIX: u8 = 96;
    let network = text
        .parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        .ok_or("is not a network; write one such as \"10.0.0.0/8\"")?;
    let IpAddr::V4(mapped) = network.addr().to_canonical() else {
        return Ok(network);
    };
    if network.addr().is_ipv4() {
        return Ok(network);
    }
    network
        .prefix_len()
        .checked_sub(MAPPED_PREFIX)
        .and_then(|prefix| Ipv4Net::new(mapped, prefix).ok())
        .map(IpNet::V4)
        .ok_or(
            "is a network of IPv4-mapped addresses that reaches beyond them; write the IPv4 network, \
             such as \"10.0.0.0/8\"",
        )
}

/// Whether the connections of trusted proxies begin with a PROXY header.
pub(super) fn proxy_protocol(
    section: &mut Section,
    trusted_proxies: &[IpNet],
    problems: &mut Problems,
) -> bool {
    let wanted = section.boolean("proxy_protocol", problems).unwrap_or(false);
    if wanted && trusted_proxies.is_empty() {
        problems.error(
            section.path_of("proxy_protocol"),
            "needs trusted_proxies: a PROXY header is believed from those peers only",
        );
    }
    wanted
}

/// A list of hosts that requests may be for.
pub(super) fn hosts(
    section: &mut Section,
    key: &'static str,
    problems: &mut Problems,
) -> Vec<AllowedHost> {
    let path = section.path_of(key);
    let list = section.strings(key, problems).unwrap_or_default();
    let mut hosts = Vec::new();
    for text in list {
        match AllowedHost::parse(&text) {
            Some(host) if hosts.contains(&host) => {
                problems.error(&path, format!("holds {text:?} twice; remove one"));
            }
            Some(host) => hosts.push(host),
            None => problems.error(&path, format!("{text:?} is not a host; write one as it stands in Host, such as \"agents.example.com\" or \"agents.example.com:8443\", without scheme, path or wildcard")),
        }
    }
    hosts
}

/// Reads `[tls]`.
pub(super) fn tls(mut section: Section, problems: &mut Problems) -> Option<CertificateFiles> {
    let is_wanted = ["cert_file", "key_file", "client_ca_file"]
        .iter()
        .any(|key| section.is_set(key));
    let mut missing = None;
    let mut path = |key, is_needed: bool| {
        if is_needed && !section.is_set(key) {
            missing = missing.or(Some(key));
        }
        section.string(key, problems).map(PathBuf::from)
    };
    let cert_file = path("cert_file", is_wanted);
    let key_file = path("key_file", is_wanted);
    let client_ca_file = path("client_ca_file", false);
    if let Some(key) = missing {
        problems.error(
            section.path_of(key),
            "is missing: TLS for clients needs cert_file and key_file",
        );
    }
    section.finish(problems);
    Some(CertificateFiles {
        cert_file: cert_file?,
        key_file: key_file?,
        client_ca_file,
    })
}

/// Reads `[limits]`.
pub(super) fn limits(mut section: Section, problems: &mut Problems) -> Limits {
    /// A head must fit one request line and a token of a few kilobytes.
    const LEAST_HEADER_BYTES: usize = 8 * 1024;
    /// Far more than any client sends. The header map behind it breaks above 24,576 fields.
    const MOST_HEADERS: usize = 10_000;
    let header_path = section.path_of("header_bytes");
    let limits = Limits {
        header_bytes: section.size("header_bytes", problems).unwrap_or(64 * 1024),
        headers: section
            .count("headers", MOST_HEADERS, problems)
            .unwrap_or(100),
        uri_bytes: section
            .positive_size("uri_bytes", problems)
            .unwrap_or(16 * 1024),
        token_bytes: section
            .positive_size("token_bytes", problems)
            .unwrap_or(16 * 1024),
        body_bytes: section.size_or("off", "body_bytes", problems),
        connections: section
            .count("connections", usize::MAX, problems)
            .unwrap_or(10_000),
    };
    if limits.header_bytes < LEAST_HEADER_BYTES {
        problems.error(
            header_path,
            "is less than 8KiB, too little for a request with a token",
        );
    }
    section.finish(problems);
    limits
}

/// Reads `[timeouts]`.
pub(super) fn timeouts(mut section: Section, problems: &mut Problems) -> Timeouts {
    fn patience(
        section: &mut Section,
        key: &'static str,
        seconds: u64,
        problems: &mut Problems,
    ) -> Duration {
        let value = section.positive_duration(key, problems);
        value.unwrap_or(Duration::from_secs(seconds))
    }
    let timeouts = Timeouts {
        header: patience(&mut section, "header", 10, problems),
        idle: patience(&mut section, "idle", 75, problems),
        connect: patience(&mut section, "connect", 5, problems),
        response_header: patience(&mut section, "response_header", 300, problems),
        linger: section
            .duration("linger", problems)
            .unwrap_or(Duration::from_secs(5)),
        drain: patience(&mut section, "drain", 25, problems),
    };
    section.finish(problems);
    timeouts
}

#[cfg(test)]
mod tests {
    use super::network;

    #[test]
    fn mapped_networks_are_ipv4_networks() {
        for (text, expected) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("127.0.0.1", Some("127.0.0.1/32")),
            ("::1", Some("::1/128")),
            ("2001:db8::/32", Some("2001:db8::/32")),
            ("::/0", Some("::/0")),
            ("::ffff:127.0.0.1", Some("127.0.0.1/32")),
            ("::ffff:7f00:1", Some("127.0.0.1/32")),
            ("::FFFF:10.1.2.3/128", Some("10.1.2.3/32")),
            ("::ffff:127.0.0.0/104", Some("127.0.0.0/8")),
            ("0:0:0:0:0:ffff:c0a8:0/112", Some("192.168.0.0/16")),
            ("::ffff:0:0/96", Some("0.0.0.0/0")),
            ("::ffff:10.0.0.0/95", None),
            ("::ffff:10.0.0.0/8", None),
            // Other addresses that hold one of IPv4 are none.
            ("64:ff9b::10.0.0.0/104", Some("64:ff9b::a00:0/104")),
            ("10.0.0.0/33", None),
            ("proxy.example.com", None),
            ("[::1]", None),
            ("", None),
        ] {
            let read = network(text).map(|network| network.to_string());
            assert_eq!(read.ok().as_deref(), expected, "{text:?}");
        }
    }
}
