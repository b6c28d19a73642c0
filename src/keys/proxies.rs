//! Which proxy a fetch goes through, as the environment says.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use ipnet::IpNet;

use super::bare_host;

/// `HTTPS_PROXY`, or else `ALL_PROXY`, and the exceptions from it in `NO_PROXY`.
pub(super) struct Proxies {
    proxies: Matcher,
    exceptions: Vec<Exception>,
}

/// The way that a fetch goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// There is nothing to fetch.
    File,
    /// To the server itself.
    Direct,
    /// Through this proxy, named without credentials.
    Through(String),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("from a file"),
            Self::Direct => f.write_str("directly"),
            Self::Through(proxy) => write!(f, "through the proxy {proxy}"),
        }
    }
}

impl Proxies {
    pub(super) fn from_env() -> Self {
        Self::new(
            &first_of(["HTTPS_PROXY", "https_proxy"]),
            &first_of(["ALL_PROXY", "all_proxy"]),
            &first_of(["NO_PROXY", "no_proxy"]),
        )
    }

    fn new(https: &str, all: &str, no: &str) -> Self {
        Self {
            proxies: Matcher::builder().https(https).all(all).build(),
            exceptions: no
                .split([',', ' ', '\t'])
                .filter_map(Exception::parse)
                .collect(),
        }
    }

    /// The proxy for an `https` URL, if it goes through one. Plain `http` is for loopback only, as configuration
    /// has checked, and never goes through one.
    pub(super) fn intercept(&self, url: &Uri) -> Option<Intercept> {
        let port = url.port_u16().unwrap_or(443);
        let covers = |exception: &Exception| exception.covers(bare_host(url), port);
        if url.scheme_str() != Some("https") || self.exceptions.iter().any(covers) {
            return None;
        }
        self.proxies.intercept(url)
    }

    pub(super) fn way(&self, url: &Uri) -> Way {
        self.intercept(url).map_or(Way::Direct, |proxy| {
            let (scheme, authority) = (proxy.uri().scheme_str(), proxy.uri().authority());
            let authority = authority.map_or("", |authority| authority.as_str());
            Way::Through(format!("{}://{authority}", scheme.unwrap_or_default()))
        })
    }
}

/// The first of these variables that is set.
fn first_of(names: [&str; 2]) -> String {
    let mut values = names.iter().filter_map(|name| std::env::var(name).ok());
    values.next().unwrap_or_default()
}

/// An entry of `NO_PROXY`. No standard says what may stand there; these are the forms that curl takes, and those
/// of Go's programs, for which the values of whole clusters are mostly written.
struct Exception {
    place: Place,
    port: Option<u16>,
}

enum Place {
    /// `*`
    Any,
    /// An address or a network.
    Network(IpNet),
    /// `host` or `.host`: a name, and those below it.
    Name(String),
    /// `*.host`: those below a name.
    Below(String),
}

impl Exception {
    /// `None` for what is empty.
    fn parse(entry: &str) -> Option<Self> {
        if entry.is_empty() {
            return None;
        }
        if let Some(network) = network(entry) {
            return Some(Self {
                place: Place::Network(network),
                port: None,
            });
        }
        let with_port = entry.rsplit_once(':');
        let with_port = with_port.and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = with_port.map_or((entry, None), |(host, port)| (host, Some(port)));
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        let place = if host == "*" {
            Place::Any
        } else if let Some(network) = network(host) {
            Place::Network(network)
        } else if let Some(above) = host.strip_prefix("*.") {
            Place::Below(folded(above))
        } else {
            Place::Name(folded(host.strip_prefix('.').unwrap_or(host)))
        };
        Some(Self { place, port })
    }

    /// Whether a host, an IPv6 address without brackets, is reached directly at this port.
    fn covers(&self, host: &str, port: u16) -> bool {
        if self.port.is_some_and(|only| only != port) {
            return false;
        }
        let address = host.parse().map(|address: IpAddr| address.to_canonical());
        match (&self.place, address) {
            (Place::Any, _) => true,
            (Place::Network(network), Ok(address)) => network.contains(&address),
            (Place::Name(name), Err(_)) => {
                let host = folded(host);
                host == *name || is_below(&host, name)
            }
            (Place::Below(name), Err(_)) => is_below(&folded(host), name),
            (Place::Network(_), Err(_)) | (Place::Name(_) | Place::Below(_), Ok(_)) => false,
        }
    }
}

fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse().map(|address: IpAddr| address.to_canonical());
    text.parse().or_else(|_| address().map(IpNet::from)).ok()
}

/// A name as it is compared: the case of letters and the dot of the root mean nothing in DNS.
fn folded(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn is_below(host: &str, name: &str) -> bool {
    let label = host.strip_suffix(name);
    label.is_some_and(|label| label.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::{Proxies, Way};

    #[test]
    fn exceptions_from_the_proxy_have_many_forms() {
        const NAME: &str = "https://tenant.example.com/jwks.json";
        const PORT: &str = "https://tenant.example.com:8443/jwks.json";
        for (no_proxy, url, is_direct) in [
            ("", NAME, false),
            ("*", NAME, true),
            ("tenant.example.com", NAME, true),
            ("tenant.example.com", PORT, true),
            ("TENANT.Example.com.", NAME, true),
            ("example.com", NAME, true),
            (".example.com", NAME, true),
            (".example.com", "https://example.com/", true),
            ("*.example.com", NAME, true),
            ("*.example.com", "https://a.b.example.com/", true),
            ("*.example.com", "https://example.com/", false),
            ("*.com", NAME, true),
            ("ample.com", NAME, false),
            ("*ample.com", NAME, false),
            ("*.ample.com", NAME, false),
            ("tenant", NAME, false),
            ("tenant.*", NAME, false),
            ("tenant.example.com:443", NAME, true),
            ("tenant.example.com:443", PORT, false),
            ("tenant.example.com:8443", PORT, true),
            ("tenant.example.com:8443", NAME, false),
            (".example.com:443", NAME, true),
            ("*.example.com:8443", PORT, true),
            ("*.example.com:8443", NAME, false),
            ("*:443", NAME, true),
            ("*:443", PORT, false),
            ("tenant.example.com:https", NAME, false),
            ("localhost, 10.0.0.0/8 ,  *.example.com", NAME, true),
            ("localhost 127.0.0.1 .example.com", NAME, true),
            (",,", NAME, false),
            ("10.0.0.0/8", NAME, false),
            ("10.0.0.0/8", "https://10.1.2.3/", true),
            ("10.0.0.0/8", "https://11.1.2.3/", false),
            ("10.1.2.3", "https://10.1.2.3:8443/", true),
            ("10.1.2.3:8443", "https://10.1.2.3:8443/", true),
            ("10.1.2.3:8443", "https://10.1.2.3/", false),
            ("::ffff:10.1.2.3", "https://10.1.2.3/", true),
            ("2001:db8::/32", "https://[2001:db8::7]/", true),
            ("2001:db8::7", "https://[2001:db8::7]/", true),
            ("[2001:db8::7]", "https://[2001:db8::7]:8443/", true),
            ("[2001:db8::7]:443", "https://[2001:db8::7]/", true),
            ("[2001:db8::7]:443", "https://[2001:db8::7]:8443/", false),
            ("3", "https://10.1.2.3/", false),
            ("*.2.3", "https://10.1.2.3/", false),
        ] {
            let proxies = Proxies::new("http://proxy.example.com:3128", "", no_proxy);
            let url = url.parse().expect("a URL");
            let is_found = proxies.way(&url) == Way::Direct;
            assert_eq!(is_found, is_direct, "NO_PROXY={no_proxy:?} {url}");
        }
    }

    #[test]
    fn the_way_is_told_without_credentials() {
        for (https, all, url, expected) in [
            ("", "", "https://tenant.example.com/", "directly"),
            (
                "http://user:p%40ss@proxy.example.com:3128/x",
                "",
                "https://tenant.example.com/",
                "through the proxy http://proxy.example.com:3128",
            ),
            (
                "",
                "proxy.example.com:3128",
                "https://tenant.example.com/",
                "through the proxy http://proxy.example.com:3128",
            ),
            (
                "http://one.example.com",
                "http://other.example.com",
                "https://tenant.example.com/",
                "through the proxy http://one.example.com",
            ),
            (
                "socks5://proxy.example.com",
                "",
                "https://tenant.example.com/",
                "through the proxy socks5://proxy.example.com",
            ),
            (
                "http://proxy.example.com",
                "http://proxy.example.com",
                "http://127.0.0.1/",
                "directly",
            ),
        ] {
            let way = Proxies::new(https, all, "").way(&url.parse().expect("a URL"));
            assert_eq!(way.to_string(), expected, "{https:?} {all:?}");
        }
    }
}
