//! The environment variables that set something, read once.
//!
//! A value that cannot be read is an error and never "not set": without its configuration file the
//! process would run without the rules in it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;

use super::reader::Problem;

/// Every variable that sets something.
pub const VARIABLES: [&str; 10] = [
    "AUTH0_AUDIENCE",
    "AUTH0_DOMAIN",
    "AUTHGATE_ADMIN",
    CONFIG_VARIABLE,
    "AUTHGATE_LISTEN",
    "AUTHGATE_LOG",
    "AUTHGATE_LOG_FORMAT",
    super::mcp::KEY_VARIABLE,
    "AUTHGATE_UPSTREAM",
    "AUTHGATE_WORKERS",
];

/// Names the configuration file.
pub(super) const CONFIG_VARIABLE: &str = "AUTHGATE_CONFIG";

/// Variables that begin like this are meant for this program, or made by Kubernetes.
const PREFIX: &str = "AUTHGATE_";

/// The values of [`VARIABLES`], and the names that look like one of them.
#[derive(Clone, Default)]
pub struct Environment {
    values: BTreeMap<&'static str, String>,
    unknown: Vec<String>,
}

impl Environment {
    /// Reads these variables, such as [`std::env::vars_os`].
    ///
    /// # Errors
    ///
    /// One problem for each of [`VARIABLES`] whose value is not Unicode.
    pub fn new(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Vec<Problem>> {
        let mut environment = Self::default();
        let mut problems = Vec::new();
        for (name, value) in variables {
            if let Some(known) = VARIABLES.into_iter().find(|known| name == *known) {
                match value.into_string() {
                    Ok(value) => _ = environment.values.insert(known, value),
                    Err(_) => problems.push(Problem {
                        path: known.to_owned(),
                        message: "is not Unicode (UTF-8)".to_owned(),
                    }),
                }
            } else if name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                let name = name.to_string_lossy().into_owned();
                if !is_of_a_service(&name, &value) {
                    environment.unknown.push(name);
                }
            }
        }
        environment.unknown.sort();
        problems.sort_by(|one, other| one.path.cmp(&other.path));
        if problems.is_empty() {
            Ok(environment)
        } else {
            Err(problems)
        }
    }

    /// The value of one of [`VARIABLES`], as it is set.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// A warning for each variable that looks like one of this program's and is none.
    pub(super) fn warnings(&self) -> impl Iterator<Item = Problem> {
        self.unknown.iter().map(|name| Problem {
            path: name.clone(),
            message: format!(
                "is not a variable of authgate and sets nothing; the nearest one is {}",
                nearest(name)
            ),
        })
    }
}

impl fmt::Debug for Environment {
    /// Names only: one of the values is a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.values.keys().copied();
        let unknown = self.unknown.iter().map(String::as_str);
        f.debug_set().entries(names.chain(unknown)).finish()
    }
}

/// Whether Kubernetes sets the variable in every container beside a Service whose name begins with
/// `authgate`: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT` (also with the name of a port behind it),
/// `NAME_PORT` with a URL, and `NAME_PORT_80_TCP` (also with `_PROTO`, `_PORT` or `_ADDR`).
fn is_of_a_service(name: &str, value: &OsStr) -> bool {
    const URLS: [&[u8]; 3] = [b"tcp://", b"udp://", b"sctp://"];
    let value = value.as_encoded_bytes();
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && URLS.iter().any(|url| value.starts_with(url)))
        || name
            .match_indices("_PORT_")
            .filter_map(|(at, separator)| name.get(at.saturating_add(separator.len())..))
            .any(is_port_and_protocol)
}

/// `80_TCP`, `80_TCP_PROTO`, `80_TCP_PORT` or `80_TCP_ADDR`.
fn is_port_and_protocol(text: &str) -> bool {
    let Some((port, protocol)) = text.split_once('_') else {
        return false;
    };
    let (protocol, suffix) = protocol.split_once('_').unwrap_or((protocol, ""));
    port.parse::<u16>().is_ok()
        && matches!(protocol, "TCP" | "UDP" | "SCTP")
        && matches!(suffix, "" | "PROTO" | "PORT" | "ADDR")
}

/// The one of [`VARIABLES`] that takes the fewest changes to get to.
fn nearest(name: &str) -> &'static str {
    VARIABLES
        .into_iter()
        .min_by_key(|known| edit_distance(known, name))
        .unwrap_or(CONFIG_VARIABLE)
}

/// Levenshtein's distance in bytes: insertions, deletions and substitutions. Case makes no difference.
fn edit_distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, byte) in one.bytes().enumerate() {
        let mut diagonal = at;
        let mut left = at.saturating_add(1);
        let mut next = vec![left];
        for (above, other) in row.iter().skip(1).zip(other.bytes()) {
            let substituted =
                diagonal.saturating_add(usize::from(!byte.eq_ignore_ascii_case(&other)));
            left = substituted
                .min(left.saturating_add(1))
                .min(above.saturating_add(1));
            next.push(left);
            diagonal = *above;
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Environment, VARIABLES, edit_distance};
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;

    fn read(variables: &[(&str, &str)]) -> Environment {
        let variables = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        Environment::new(variables).expect("Unicode")
    }

    #[test]
    fn a_value_that_is_not_unicode_is_an_error_and_not_unset() {
        let odd = OsString::from_vec(vec![b'/', 0xFF]);
        for name in VARIABLES {
            let variables = [
                (OsString::from("PATH"), odd.clone()),
                (OsString::from(name), odd.clone()),
            ];
            let problems = Environment::new(variables).expect_err(name);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert_eq!(problems[0].path, name);
        }
        let all = VARIABLES.map(|name| (OsString::from(name), odd.clone()));
        let problems = Environment::new(all).expect_err("not Unicode");
        assert_eq!(problems.len(), VARIABLES.len());
    }

    #[test]
    fn an_unknown_name_is_told_with_the_nearest_known_one() {
        for (name, nearest) in [
            ("AUTHGATE_CONFIGS", "AUTHGATE_CONFIG"),
            ("AUTHGATE_CONFG", "AUTHGATE_CONFIG"),
            ("AUTHGATE_CONFIG_FILE", "AUTHGATE_CONFIG"),
            ("AUTHGATE__CONFIG", "AUTHGATE_CONFIG"),
            ("AUTHGATE_config", "AUTHGATE_CONFIG"),
            ("AUTHGATE_LISTEN_ADDRESS", "AUTHGATE_LISTEN"),
            ("AUTHGATE_UPSTREAM_URL", "AUTHGATE_UPSTREAM"),
            ("AUTHGATE_LOGFORMAT", "AUTHGATE_LOG_FORMAT"),
            ("AUTHGATE_WORKER", "AUTHGATE_WORKERS"),
            ("AUTHGATE_MCP_SESSION_KEYS", "AUTHGATE_MCP_SESSION_KEY"),
        ] {
            let warnings: Vec<_> = read(&[(name, "x")]).warnings().collect();
            assert_eq!(warnings.len(), 1, "{name}: {warnings:?}");
            assert_eq!(warnings[0].path, name);
            assert!(
                warnings[0].message.ends_with(&format!(" {nearest}")),
                "{name}: {}",
                warnings[0].message
            );
        }
        for other in [
            "PATH",
            "AUTHGATE",
            "authgate_config",
            "MY_AUTHGATE_CONFIG",
            "AUTH0_SECRET",
        ] {
            assert_eq!(read(&[(other, "x")]).warnings().count(), 0, "{other}");
        }
        for known in VARIABLES {
            assert_eq!(read(&[(known, "x")]).warnings().count(), 0, "{known}");
        }
    }

    #[test]
    fn a_name_that_is_not_unicode_is_told_too() {
        let name = OsString::from_vec(b"AUTHGATE_CONFIG\xFF".to_vec());
        let environment = Environment::new([(name, "x".into())]).expect("no value of ours");
        let warnings: Vec<_> = environment.warnings().collect();
        assert_eq!(warnings[0].path, "AUTHGATE_CONFIG\u{FFFD}");
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_is_no_slip() {
        for (name, value) in [
            ("AUTHGATE_SERVICE_HOST", "10.0.0.1"),
            ("AUTHGATE_SERVICE_PORT", "80"),
            ("AUTHGATE_SERVICE_PORT_HTTP", "80"),
            ("AUTHGATE_ADMIN_SERVICE_HOST", "10.0.0.1"),
            ("AUTHGATE_PORT", "tcp://10.0.0.1:80"),
            ("AUTHGATE_PORT", "udp://10.0.0.1:80"),
            ("AUTHGATE_PORT", "sctp://10.0.0.1:80"),
            ("AUTHGATE_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("AUTHGATE_PORT_80_TCP_PROTO", "tcp"),
            ("AUTHGATE_PORT_80_TCP_PORT", "80"),
            ("AUTHGATE_PORT_80_TCP_ADDR", "10.0.0.1"),
            (
                "AUTHGATE_PORT_AUTHORITY_PORT_65535_SCTP",
                "sctp://10.0.0.1:65535",
            ),
        ] {
            assert_eq!(
                read(&[(name, value)]).warnings().count(),
                0,
                "{name}={value}"
            );
        }
        for (name, value) in [
            ("AUTHGATE_PORT", "8080"),
            ("AUTHGATE_PORT", ""),
            ("AUTHGATE_PORT", "http://10.0.0.1"),
            ("AUTHGATE_PORT", " tcp://10.0.0.1:80"),
            ("AUTHGATE_LISTEN_PORT", "8080"),
            ("AUTHGATE_PORT_80", "tcp://10.0.0.1:80"),
            ("AUTHGATE_PORT_80_HTTP", "tcp://10.0.0.1:80"),
            ("AUTHGATE_PORT_99999_TCP", "tcp://10.0.0.1:80"),
            ("AUTHGATE_PORT_80_TCP_HOST", "10.0.0.1"),
            ("AUTHGATE_SERVICE", "x"),
            ("AUTHGATE_SERVICE_HOSTS", "x"),
        ] {
            assert_eq!(
                read(&[(name, value)]).warnings().count(),
                1,
                "{name}={value}"
            );
        }
    }

    #[test]
    fn distances() {
        for (one, other, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("abc", "ABC", 0),
            ("abc", "abd", 1),
            ("abc", "ab", 1),
            ("abc", "xabc", 1),
            ("abcd", "acbd", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edit_distance(one, other), distance, "{one:?} {other:?}");
        }
    }

    #[test]
    fn no_value_is_shown() {
        let environment = read(&[
            ("AUTHGATE_MCP_SESSION_KEY", "geheim"),
            ("AUTHGATE_X", "geheim"),
        ]);
        for shown in [format!("{environment:?}"), format!("{environment:#?}")] {
            assert!(shown.contains("AUTHGATE_MCP_SESSION_KEY"), "{shown}");
            assert!(!shown.contains("geheim"), "{shown}");
        }
    }
}
