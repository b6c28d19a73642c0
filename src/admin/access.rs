//! Who may ask what of the admin listener.
//!
//! Probes are answered always. Everything else is kept from web pages: a page names its origin, or has its own name
//! resolve to this address (DNS rebinding), and then that name stands in `Host`.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::{Method, request};

use crate::headers::{AllowedHost, Host, effective_host};

/// What the `Allow` of a refused method says, for what is read and for what is done.
pub(super) const READ: &str = "GET, HEAD";
pub(super) const DO: &str = "POST";

/// Names that public DNS resolves for nobody: those of Kubernetes' Services, of private networks, of mDNS.
const PRIVATE_ENDINGS: [&str; 4] = [".svc", ".cluster.local", ".internal", ".local"];

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Drain,
    Live,
    Metrics,
    Ready,
}

/// Why it is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no such path.
    Unknown,
    /// The path takes these methods only.
    Method(&'static str),
    /// The request is for a host that could be a web page's.
    Host,
    /// A web page asks.
    Origin,
    /// Another machine asks for a drain.
    Drain,
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) peer: IpAddr,
    pub(super) local: IpAddr,
}

impl Ends {
    /// Whether both are on this machine: loopback, or an address that was dialled from itself.
    fn are_local(self) -> bool {
        // A listener on `[::]` has IPv4 clients with mapped addresses.
        let (peer, local) = (self.peer.to_canonical(), self.local.to_canonical());
        peer.is_loopback() || peer == local
    }
}

/// The settings that decide.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access<'c> {
    /// Further hosts: `admin_hosts`.
    pub(super) hosts: &'c [AllowedHost],
    /// `admin_drain = "anyone"`.
    pub(super) anyone_may_drain: bool,
}

impl Access<'_> {
    /// What a request asks, if it may.
    pub(super) fn question(&self, head: &request::Parts, ends: Ends) -> Result<Question, Refusal> {
        let question = match head.uri.path() {
            "/livez" => Some(Question::Live),
            "/readyz" => Some(Question::Ready),
            "/metrics" => Some(Question::Metrics),
            "/drain" => Some(Question::Drain),
            _ => None,
        };
        if !matches!(question, Some(Question::Live | Question::Ready)) {
            if !self.serves_host_of(head) {
                return Err(Refusal::Host);
            }
            if head.headers.contains_key(ORIGIN) {
                return Err(Refusal::Origin);
            }
        }
        let question = question.ok_or(Refusal::Unknown)?;
        let allowed = if question == Question::Drain {
            DO
        } else {
            READ
        };
        let is_allowed = match head.method {
            Method::GET | Method::HEAD => allowed == READ,
            Method::POST => allowed == DO,
            _ => false,
        };
        if !is_allowed {
            return Err(Refusal::Method(allowed));
        }
        if question == Question::Drain && !self.anyone_may_drain && !ends.are_local() {
            return Err(Refusal::Drain);
        }
        Ok(question)
    }

    fn serves_host_of(&self, head: &request::Parts) -> bool {
        // Browsers always send one.
        if head.uri.authority().is_none() && !head.headers.contains_key(HOST) {
            return true;
        }
        effective_host(head).is_ok_and(|host| {
            host.is_address_or_localhost()
                || is_private(&host)
                || self.hosts.iter().any(|allowed| allowed.covers(&host))
        })
    }
}

/// Whether it is a name that only a private resolver knows. With a final dot it is not taken for one.
fn is_private(host: &Host) -> bool {
    let name = host.name().to_ascii_lowercase();
    let has_one_label = !name.contains('.');
    has_one_label || PRIVATE_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::{Access, DO, Ends, Question, READ, Refusal};
    use crate::headers::AllowedHost;
    use http::{Request, request};
    use std::net::IpAddr;

    const FAR: Ends = Ends {
        peer: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
        local: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5)),
    };

    fn head(method: &str, target: &str, fields: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn asked(method: &str, target: &str, fields: &[(&str, &str)]) -> Result<Question, Refusal> {
        let hosts = [
            "metrics.example.com",
            "port.example.com:9090",
            "dot.example.com.",
        ]
        .map(|host| AllowedHost::parse(host).expect("a host"));
        let access = Access {
            hosts: &hosts,
            anyone_may_drain: false,
        };
        access.question(&head(method, target, fields), FAR)
    }

    #[test]
    fn each_path_has_its_methods() {
        use Question::{Live, Metrics, Ready};
        for (method, target, expected) in [
            ("GET", "/livez", Ok(Live)),
            ("HEAD", "/livez", Ok(Live)),
            ("GET", "/livez?verbose", Ok(Live)),
            ("GET", "/readyz", Ok(Ready)),
            ("HEAD", "/metrics", Ok(Metrics)),
            ("POST", "/livez", Err(Refusal::Method(READ))),
            ("DELETE", "/readyz", Err(Refusal::Method(READ))),
            ("get", "/readyz", Err(Refusal::Method(READ))),
            ("OPTIONS", "/metrics", Err(Refusal::Method(READ))),
            ("GET", "/drain", Err(Refusal::Method(DO))),
            ("PUT", "/drain", Err(Refusal::Method(DO))),
            ("POST", "/drain", Err(Refusal::Drain)),
            ("POST", "/drain/", Err(Refusal::Unknown)),
            ("POST", "//drain", Err(Refusal::Unknown)),
            ("POST", "/Drain", Err(Refusal::Unknown)),
            ("GET", "/livez/", Err(Refusal::Unknown)),
            ("GET", "/", Err(Refusal::Unknown)),
        ] {
            assert_eq!(asked(method, target, &[]), expected, "{method} {target}");
        }
    }

    #[test]
    fn hosts_that_no_page_can_have_are_served() {
        for host in [
            "10.0.0.5",
            "10.0.0.5:9090",
            "[fd00::5]",
            "[fd00::5]:9090",
            "[::ffff:10.0.0.5]:9090",
            "0.0.0.0:9090",
            "localhost",
            "localhost:9090",
            "LOCALHOST",
            "authgate",
            "authgate:9090",
            "AUTHGATE:9090",
            "my_stack-authgate-1",
            "authgate.default.svc:9090",
            "a.b.SVC",
            "authgate.default.svc.cluster.local:9090",
            "authgate.corp.internal",
            "printer.local",
            "metrics.example.com",
            "metrics.example.com:1",
            "METRICS.example.com",
            "port.example.com:9090",
            "dot.example.com.",
        ] {
            assert_eq!(
                asked("GET", "/metrics", &[("host", host)]),
                Ok(Question::Metrics),
                "{host}"
            );
            assert_eq!(
                asked("POST", "/drain", &[("host", host)]),
                Err(Refusal::Drain),
                "{host}"
            );
        }
        assert_eq!(asked("GET", "/metrics", &[]), Ok(Question::Metrics));
    }

    #[test]
    fn other_hosts_are_not() {
        for host in [
            "evil.example",
            "evil.example:9090",
            "EVIL.EXAMPLE",
            "evil.example.",
            "localhost.evil.example",
            "localhost.",
            "authgate.",
            "127.0.0.1.evil.example",
            "127.0.0.1.",
            "10-0-0-5.evil.example",
            "svc.evil.example",
            "evil-svc.example",
            "evil.xsvc",
            "evil.notlocal",
            "cluster.local.evil.example",
            "authgate.default.svc.",
            "authgate.default.svc.cluster.local.",
            "internal.example",
            "x.metrics.example.com",
            "metrics.example.com.",
            "xmetrics.example.com",
            "example.com",
            "port.example.com",
            "port.example.com:80",
            "dot.example.com",
            // None of these is one host.
            "",
            " ",
            ":9090",
            "localhost:",
            "localhost:x",
            "localhost:99999",
            "localhost@evil.example",
            "localhost:9090@evil.example",
            "evil.example@localhost",
            "localhost,evil.example",
            "localhost evil.example",
            "localhost/evil.example",
            "http://localhost",
            "[::1",
            "::1",
            "[evil.example]",
            "localhost%2eevil.example",
            "localhost%00.evil.example",
            "127.1",
            "0x7f.1",
            "*",
            "*.svc",
        ] {
            for (method, target) in [
                ("GET", "/metrics"),
                ("POST", "/drain"),
                ("GET", "/x"),
                ("PUT", "/metrics"),
            ] {
                let found = asked(method, target, &[("host", host)]);
                assert_eq!(found, Err(Refusal::Host), "{host:?} {target}");
            }
            assert_eq!(
                asked("GET", "/livez", &[("host", host)]),
                Ok(Question::Live),
                "{host:?}"
            );
            assert_eq!(
                asked("GET", "/readyz", &[("host", host)]),
                Ok(Question::Ready),
                "{host:?}"
            );
        }
        let two = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(asked("GET", "/metrics", &two), Err(Refusal::Host));
        assert_eq!(asked("GET", "/livez", &two), Ok(Question::Live));
    }

    /// RFC 9112 §3.2.2.
    #[test]
    fn the_host_of_the_target_counts_where_there_is_one() {
        for (target, host, expected) in [
            (
                "http://authgate:9090/metrics",
                Some("evil.example"),
                Ok(Question::Metrics),
            ),
            (
                "http://evil.example/metrics",
                Some("localhost"),
                Err(Refusal::Host),
            ),
            (
                "http://localhost@evil.example/metrics",
                Some("localhost"),
                Err(Refusal::Host),
            ),
            ("http://evil.example/metrics", None, Err(Refusal::Host)),
            ("http://evil.example/livez", None, Ok(Question::Live)),
        ] {
            let fields: Vec<_> = host.iter().map(|host| ("host", *host)).collect();
            assert_eq!(asked("GET", target, &fields), expected, "{target} {host:?}");
        }
    }

    #[test]
    fn no_web_page_is_answered_but_with_probes() {
        for origin in ["https://evil.example", "http://localhost:9090", "null", ""] {
            let fields = [("host", "localhost"), ("origin", origin)];
            for (method, target, expected) in [
                ("GET", "/livez", Ok(Question::Live)),
                ("GET", "/readyz", Ok(Question::Ready)),
                ("GET", "/metrics", Err(Refusal::Origin)),
                ("POST", "/drain", Err(Refusal::Origin)),
                ("OPTIONS", "/drain", Err(Refusal::Origin)),
                ("GET", "/x", Err(Refusal::Origin)),
            ] {
                assert_eq!(
                    asked(method, target, &fields),
                    expected,
                    "{origin:?} {target}"
                );
            }
        }
    }

    #[test]
    fn a_drain_comes_from_this_machine() {
        for (peer, local, is_local) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", true),
            ("127.9.9.9", "10.0.0.5", true),
            ("::1", "::1", true),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1", true),
            ("::ffff:127.0.0.1", "::ffff:10.0.0.5", true),
            ("10.0.0.5", "10.0.0.5", true),
            ("::ffff:10.0.0.5", "10.0.0.5", true),
            ("fd00::5", "fd00::5", true),
            ("10.0.0.6", "10.0.0.5", false),
            ("10.0.0.5", "127.0.0.1", false),
            ("::ffff:10.0.0.6", "::ffff:10.0.0.5", false),
            ("::ffff:10.0.0.6", "10.0.0.5", false),
            ("fd00::6", "fd00::5", false),
            ("fe80::1", "fe80::2", false),
            ("::2", "::1", false),
            ("::", "::1", false),
            ("0.0.0.0", "127.0.0.1", false),
            // Embedded otherwise than mapped, it is another address.
            ("::127.0.0.1", "::1", false),
            ("64:ff9b::7f00:1", "::1", false),
            ("128.0.0.1", "10.0.0.5", false),
            ("192.0.2.7", "10.0.0.5", false),
        ] {
            let ends = Ends {
                peer: peer.parse().expect("an address"),
                local: local.parse().expect("an address"),
            };
            let drain = head("POST", "/drain", &[]);
            for anyone_may_drain in [false, true] {
                let access = Access {
                    hosts: &[],
                    anyone_may_drain,
                };
                let expected = if is_local || anyone_may_drain {
                    Ok(Question::Drain)
                } else {
                    Err(Refusal::Drain)
                };
                let found = access.question(&drain, ends);
                assert_eq!(found, expected, "{peer} {local} {anyone_may_drain}");
                // Everything else is for everybody.
                let metrics = access.question(&head("GET", "/metrics", &[]), ends);
                assert_eq!(metrics, Ok(Question::Metrics));
                // And a setting opens nothing to web pages.
                let page = head("POST", "/drain", &[("origin", "null")]);
                assert_eq!(access.question(&page, ends), Err(Refusal::Origin));
                let rebound = head("POST", "/drain", &[("host", "evil.example")]);
                assert_eq!(access.question(&rebound, ends), Err(Refusal::Host));
            }
        }
    }
}
