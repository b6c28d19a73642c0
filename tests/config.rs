//! The configuration from outside: what is shipped loads, each mistake is told with its place and its
//! mend, and flags win over the environment, the environment over the file, the file over the defaults.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test may break it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use authgate::claims::Claims;
use authgate::config::{self, Config, Environment, Loaded, Overrides, Problem, Source};
use authgate::policy::Access;
use serde_json::json;
use tempfile::{NamedTempFile, TempDir};
use toml::{Table, Value};

const DOMAIN: &str = "your-tenant.us.auth0.com";
const AUDIENCE: &str = "https://your-api.com";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// An environment with these values.
fn environment(value: impl Fn(&str) -> Option<String>) -> Environment {
    let variables = config::VARIABLES.into_iter();
    let variables = variables.filter_map(|name| Some((name.into(), value(name)?.into())));
    Environment::new(variables).expect("Unicode")
}

fn load_file(path: &Path) -> Loaded {
    config::load(Some(path), &Overrides::default(), &Environment::default())
}

fn load_with(text: &str, overrides: &Overrides, environment: &Environment) -> Loaded {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("a file");
    config::load(Some(file.path()), overrides, environment)
}

fn load(text: &str) -> Loaded {
    load_with(text, &Overrides::default(), &Environment::default())
}

/// A fragment of a file, with the domain and the audience that it lacks.
fn complete(fragment: &str) -> String {
    let mut table: Table = fragment
        .parse()
        .unwrap_or_else(|error| panic!("{error}\nin\n{fragment}"));
    let auth0 = table
        .entry("auth0")
        .or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(auth0) = auth0 {
        for (key, value) in [("domain", DOMAIN), ("audience", AUDIENCE)] {
            auth0.entry(key).or_insert_with(|| value.into());
        }
    }
    table.to_string()
}

fn errors(loaded: Loaded) -> Vec<Problem> {
    loaded.config.err().unwrap_or_default()
}

fn joined(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|one| format!("  {one}\n")).collect();
    lines.concat()
}

/// Loads without a single error or warning.
fn must_load(what: &str, loaded: Loaded) -> Config {
    let warnings = joined(&loaded.warnings);
    let config = loaded
        .config
        .unwrap_or_else(|errors| panic!("{what} does not load:\n{}", joined(&errors)));
    assert!(warnings.is_empty(), "{what} is warned about:\n{warnings}");
    config
}

// What is shipped.

fn shipped() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("config")).expect("config/");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|one| one == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_shipped_file_loads() {
    let files = shipped();
    let names: Vec<_> = files
        .iter()
        .filter_map(|path| path.file_stem()?.to_str())
        .collect();
    // A file that is added is added here, so that an empty directory cannot pass.
    assert_eq!(
        names,
        [
            "a2a",
            "machine-to-machine",
            "mcp-tools",
            "mcp",
            "minimal",
            "organizations",
            "public-routes",
            "reference",
            "roles",
            "scopes-and-permissions",
            "shadow",
        ]
    );
    for file in &files {
        must_load(&file.display().to_string(), load_file(file));
    }
}

/// The file that the Kubernetes manifest mounts.
#[test]
fn the_manifest_holds_a_file_that_loads() {
    let manifest =
        std::fs::read_to_string(root().join("config/kubernetes.yaml")).expect("the manifest");
    let block = manifest
        .split_once("authgate.toml: |\n")
        .expect("a file in the ConfigMap")
        .1;
    let lines: Vec<&str> = block
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("    "))
        .collect();
    let config = must_load("config/kubernetes.yaml", load(&complete(&lines.join("\n"))));
    assert!(!config.routes.is_empty(), "the manifest shows a rule");
}

/// What README.md and docs/ show is what the program takes, whole files and fragments alike.
#[test]
fn every_snippet_of_the_documentation_loads() {
    for (place, snippet) in snippets() {
        must_load(&place, load(&complete(&snippet)));
    }
}

/// The TOML in README.md and docs/, each with its place.
fn snippets() -> Vec<(String, String)> {
    let mut pages = vec!["README.md".to_owned()];
    for entry in std::fs::read_dir(root().join("docs")).expect("docs/") {
        let name = entry.expect("an entry").file_name();
        pages.push(format!("docs/{}", name.to_str().expect("UTF-8")));
    }
    let snippets: Vec<_> = pages.iter().flat_map(|page| snippets_of(page)).collect();
    assert!(snippets.len() >= 15, "only {} snippets", snippets.len());
    snippets
}

fn snippets_of(page: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join(page)).expect(page);
    let mut snippets: Vec<(usize, String)> = Vec::new();
    let mut inside = false;
    for (number, line) in (1..).zip(text.lines()) {
        let fence = line.trim_start().strip_prefix("```");
        match fence {
            Some(language) if !inside && language.starts_with("toml") => {
                snippets.push((number, String::new()));
                inside = true;
            }
            Some(_) => inside = false,
            None if inside => {
                let (_, snippet) = snippets.last_mut().expect("an open snippet");
                snippet.push_str(line);
                snippet.push('\n');
            }
            None => {}
        }
    }
    let named = snippets.into_iter();
    named
        .map(|(number, snippet)| (format!("{page}:{number}"), snippet))
        .collect()
}

// The reference file.

fn reference() -> String {
    std::fs::read_to_string(root().join("config/reference.toml")).expect("the reference")
}

/// The reference with its examples in force: "#" before anything but a space hides a setting.
fn reference_with_examples() -> Table {
    let text: String = reference()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with([' ', ':']) => setting,
            // The lines within an example that has several.
            Some(setting) if setting.starts_with("    {") => setting,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    text.parse()
        .unwrap_or_else(|error| panic!("the reference with its examples: {error}\n{text}"))
}

#[test]
fn the_reference_says_the_defaults() {
    let bare = must_load("a bare file", load(&complete("")));
    let reference = must_load("the reference", load(&reference()));
    assert_eq!(format!("{bare:#?}"), format!("{reference:#?}"));
}

#[test]
fn the_examples_in_the_reference_load() {
    let mut table = reference_with_examples();
    // The roles need a claim to be in, for which there is no default.
    let Some(Value::Table(auth0)) = table.get_mut("auth0") else {
        panic!("no [auth0]");
    };
    auth0.insert(
        "roles_claim".to_owned(),
        "https://your-app.com/roles".into(),
    );
    must_load("the reference with its examples", load(&table.to_string()));
}

/// Every key that the program knows is in the reference, and in the documentation. The program says which it knows when it
/// meets one that it does not.
#[test]
fn the_reference_is_complete() {
    let probe = r#"
        unknown = 1
        [auth0]
        unknown = 1
        [auth0.keys]
        unknown = 1
        [cors]
        unknown = 1
        [dpop]
        unknown = 1
        [identity]
        unknown = 1
        [limits]
        unknown = 1
        [mcp]
        unknown = 1
        [streams]
        unknown = 1
        [timeouts]
        unknown = 1
        [token_sources]
        unknown = 1
        [require]
        unknown = 1
        claims = [{ claim = "a", exists = true, unknown = 1 }]
        [[route]]
        path = "/a"
        unknown = 1
        [[resource]]
        url = "https://a.example/mcp"
        unknown = 1
        "#;
    let found = errors(load(&complete(probe)));
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for problem in found {
        let (section, _) = problem.path.rsplit_once("unknown").expect("an unknown key");
        let (_, keys) = problem
            .message
            .split_once("known here: ")
            .expect("the known keys");
        let keys = keys.split(", ").map(str::to_owned);
        known.insert(section.trim_end_matches('.').to_owned(), keys.collect());
    }
    let sections: Vec<&str> = known.keys().map(String::as_str).collect();
    assert_eq!(
        sections,
        [
            "",
            "auth0",
            "auth0.keys",
            "cors",
            "dpop",
            "identity",
            "limits",
            "mcp",
            "require",
            "require.claims[0]",
            "resource[0]",
            "route[0]",
            "streams",
            "timeouts",
            "token_sources",
        ]
    );

    let table = reference_with_examples();
    let inner = |table: &Table, name: &str| match table.get(name) {
        Some(Value::Table(inner)) => inner.clone(),
        Some(Value::Array(items)) => items
            .iter()
            .filter_map(Value::as_table)
            .flat_map(Table::clone)
            .collect(),
        _ => panic!("the reference has no [{name}]"),
    };
    for (section, keys) in known {
        let shown = section
            .split('.')
            .filter(|name| !name.is_empty())
            .fold(table.clone(), |table, name| {
                inner(&table, name.trim_end_matches("[0]"))
            });
        let shown: BTreeSet<String> = shown.keys().cloned().collect();
        assert_eq!(
            shown, keys,
            "[{section}] in the reference, and in the program"
        );
        let page = match section.as_str() {
            "require" | "require.claims[0]" | "route[0]" => "docs/rules.md",
            _ => "docs/configuration.md",
        };
        let text = std::fs::read_to_string(root().join(page)).expect(page);
        for key in shown {
            // As a row of a table, in an example, or as a table of its own.
            let forms = [
                format!("`{key}`"),
                format!("`{key} ="),
                format!("{key} = NAME"),
                format!("[{key}]"),
                format!(".{key}]"),
            ];
            assert!(
                forms.iter().any(|form| text.contains(form)),
                "{page} has no {key} of [{section}]"
            );
        }
    }
}

// The examples.

/// The two functions that roles.toml replaces, against the claims they were written for.
#[test]
fn the_roles_example_decides_as_the_functions_did() {
    let config = must_load("roles.toml", load_file(&root().join("config/roles.toml")));
    let conditions: Vec<_> = config
        .routes
        .iter()
        .map(|route| match &route.access {
            Access::Authenticated(condition) => condition,
            Access::Deny | Access::Public => panic!("{} asks for no claim", route.pattern),
        })
        .collect();
    assert_eq!(conditions.len(), 2);
    let (roles, permissions) = (
        "https://your-app.com/roles",
        "https://your-app.com/permissions",
    );
    for (claims, by_permission, by_role) in [
        (json!({}), false, false),
        (json!({permissions: ["api:access"]}), true, false),
        (json!({permissions: ["x", "api:access"]}), true, false),
        (json!({permissions: ["api:access:all"]}), false, false),
        (json!({permissions: []}), false, false),
        (json!({"permissions": ["api:access"]}), false, false),
        (json!({roles: ["admin"]}), false, true),
        (json!({roles: ["user", "x"]}), false, true),
        (json!({roles: ["administrator"]}), false, false),
        (json!({"roles": ["admin"]}), false, false),
        (
            json!({roles: ["user"], permissions: ["api:access"]}),
            true,
            true,
        ),
    ] {
        let members = claims.as_object().expect("an object").clone();
        let claims = Claims::new(members);
        let decided: Vec<_> = conditions
            .iter()
            .map(|condition| condition.holds(&claims).expect("the right types"))
            .collect();
        assert_eq!(decided, [by_permission, by_role], "{claims:?}");
    }
}

// Mistakes.

/// Each fragment has one mistake: its path, and words that the message must have.
#[rustfmt::skip]
const MISTAKES: &[(&str, &str, &str)] = &[
    // Unknown keys, at every level.
    ("colour = \"blue\"", "colour", "unknown key; known here: listen, "),
    ("[auth1]", "auth1", "unknown key"),
    ("\"\" = 1", "\"\"", "unknown key"),
    ("[limits]\n\"head ers\" = 1", "limits.\"head ers\"", "unknown key"),
    ("auth0.nmae = \"x\"", "auth0.nmae", "known here: name, domain, audience"),
    ("auth0.keys.uri = \"https://x\"", "auth0.keys.uri", "known here: url, file"),
    ("identity.header = \"x-user\"", "identity.header", "known here: subject_header"),
    ("limits.header_byte = \"64KiB\"", "limits.header_byte", "known here: header_bytes"),
    ("timeouts.total = \"5m\"", "timeouts.total", "known here: header, idle"),
    ("require.any_roles = [\"admin\"]", "require.any_roles", "any_role"),
    ("require.not = { scopes = [\"a\"], scope = [\"b\"] }", "require.not.scope", "unknown key"),
    ("require.any_of = [{ scopes = [\"a\"] }, { subjects = [\"b\"], sub = \"b\" }]", "require.any_of[1].sub", "unknown key"),
    ("require.claims = [{ claim = \"a\", exists = true, is = 1 }]", "require.claims[0].is", "known here: claim, equals"),
    ("[[route]]\npath = \"/a\"\nacess = \"public\"", "route[0].acess", "known here: path, methods"),
    ("[[route]]\npath = \"/a\"\nrequire = { scopes = [\"a\"], issuer = \"b\" }", "route[0].require.issuer", "unknown key"),
    ("Listen = \"0.0.0.0:8080\"", "Listen", "unknown key"),

    // Wrong types.
    ("listen = 8080", "listen", "is a number, not a string"),
    ("upstream = [\"http://127.0.0.1:1\"]", "upstream", "is an array, not a string"),
    ("log = true", "log", "is a boolean, not a string"),
    ("limits = 5", "limits", "is a number, not a table"),
    ("route = \"/a\"", "route", "is a string; write [[route]]"),
    ("[route]\npath = \"/a\"", "route", "is a table; write [[route]]"),
    ("route = [\"/a\"]", "route[0]", "is a string, not a table"),
    ("auth0.allow_anonymous = \"yes\"", "auth0.allow_anonymous", "write true or false"),
    ("auth0.roles_claim = [\"https://your-app.com/roles\"]", "auth0.roles_claim", "is an array, not a string"),
    ("auth0.algorithms = 256", "auth0.algorithms", "write a string or a list of strings"),
    ("auth0.algorithms = [\"RS256\", 384]", "auth0.algorithms[1]", "is a number, not a string"),
    ("auth0.audience = [\"https://your-api.com\", 1979-05-27]", "auth0.audience[1]", "is a date, not a string"),
    ("auth0.token_type = true", "auth0.token_type", "is a boolean, not a string"),
    ("auth0.keys.url = 1", "auth0.keys.url", "is a number, not a string"),
    ("identity.headers = \"org_id\"", "identity.headers", "write header = \"claim\" lines"),
    ("identity.headers.x-org = 1", "identity.headers.\"x-org\"", "is a number"),
    ("identity.forward_authorization = 1", "identity.forward_authorization", "write true or false"),
    ("require.scopes = { read = true }", "require.scopes", "write a string or a list of strings"),
    ("require.shadow = \"on\"", "require.shadow", "write true or false"),

    // Words out of a set.
    ("unmatched = \"public\"", "unmatched", "is \"public\"; write \"authenticated\" or \"deny\""),
    ("unmatched = \"\"", "unmatched", "is \"\"; write \"authenticated\" or \"deny\""),
    ("admin_drain = \"everybody\"", "admin_drain", "is \"everybody\"; write \"local\" or \"anyone\""),
    ("admin_drain = \"\"", "admin_drain", "is \"\"; write \"local\" or \"anyone\""),
    ("admin_drain = true", "admin_drain", "is a boolean, not a string"),
    ("upstream_protocol = \"h2\"", "upstream_protocol", "is \"h2\"; write \"http1\" or \"http2\""),
    ("upstream_protocol = 2", "upstream_protocol", "is a number, not a string"),
    ("log_format = \"xml\"", "log_format", "write \"auto\", \"text\" or \"json\""),
    ("auth0.token_type = \"jwt\"", "auth0.token_type", "write \"any\" or \"at+jwt\""),
    ("require.subject_kind = \"robot\"", "require.subject_kind", "write \"user\" or \"agent\" or \"machine\" or \"anonymous\""),
    ("require.subject_kind = \"\"", "require.subject_kind", "is \"\"; write"),
    ("[[route]]\npath = \"/a\"\naccess = \"open\"", "route[0].access", "write \"authenticated\" or \"public\" or \"deny\""),

    // Addresses.
    ("listen = \"8080\"", "listen", "is not an address; write one such as \"0.0.0.0:8080\""),
    ("listen = \"0.0.0.0:80800\"", "listen", "is not an address"),
    ("listen = \"example.com:80\"", "listen", "is not an address"),
    ("admin = \"on\"", "admin", "is not an address"),
    ("workers = 0", "workers", "write \"auto\" or a number from 1 to 256"),
    ("workers = 257", "workers", "write \"auto\" or a number from 1 to 256"),
    ("workers = \"many\"", "workers", "write \"auto\" or a number from 1 to 256"),
    ("log = \"info,authgate=loud\"", "log", "is not a log filter"),
    ("trusted_proxies = [\"10.0.0.0/40\"]", "trusted_proxies", "\"10.0.0.0/40\" is not a network"),
    ("trusted_proxies = [\"::ffff:10.0.0.0/8\"]", "trusted_proxies", "is a network of IPv4-mapped addresses that reaches beyond them"),
    ("[tls]\ncert_file = \"a.pem\"", "tls.key_file", "is missing"),
    ("[tls]\nkey_file = \"a.pem\"", "tls.cert_file", "is missing"),
    ("[tls]\ncert_file = \"a.pem\"\nkey_file = \" \"", "tls.key_file", "is missing"),
    ("[tls]\nclient_ca_file = \"a.pem\"", "tls.cert_file", "is missing"),
    ("[tls]\ncert_file = 7\nkey_file = \"a.pem\"", "tls.cert_file", "is a number, not a string"),
    ("proxy_protocol = true", "proxy_protocol", "needs trusted_proxies"),
    ("proxy_protocol = \"v2\"", "proxy_protocol", "write true or false"),
    ("trusted_proxies = \"balancer\"", "trusted_proxies", "write one such as \"10.0.0.0/8\""),
    ("allowed_hosts = [\"\"]", "allowed_hosts", "\"\" is not a host; write one as it stands in Host"),
    ("allowed_hosts = \"\"", "allowed_hosts", "\"\" is not a host"),
    ("allowed_hosts = [\"https://agents.example.com\"]", "allowed_hosts", "without scheme, path or wildcard"),
    ("allowed_hosts = [\"agents.example.com/mcp\"]", "allowed_hosts", "such as \"agents.example.com\" or \"agents.example.com:8443\""),
    ("allowed_hosts = [\"*\"]", "allowed_hosts", "\"*\" is not a host"),
    ("allowed_hosts = [\"*.example.com\"]", "allowed_hosts", "\"*.example.com\" is not a host"),
    ("allowed_hosts = [\"me@agents.example.com\"]", "allowed_hosts", "is not a host"),
    ("allowed_hosts = [\"agents.example.com:\"]", "allowed_hosts", "is not a host"),
    ("allowed_hosts = [\"agents.example.com:99999\"]", "allowed_hosts", "is not a host"),
    ("allowed_hosts = [\"::1\"]", "allowed_hosts", "is not a host"),
    ("allowed_hosts = [\"a.example\", \"A.EXAMPLE\"]", "allowed_hosts", "holds \"A.EXAMPLE\" twice; remove one"),
    ("admin_hosts = [\"*.example.com\"]", "admin_hosts", "\"*.example.com\" is not a host"),
    ("admin_hosts = [\"http://metrics.example.com\"]", "admin_hosts", "without scheme, path or wildcard"),
    ("admin_hosts = \"\"", "admin_hosts", "\"\" is not a host"),
    ("admin_hosts = [\"a.example\", \"A.EXAMPLE\"]", "admin_hosts", "holds \"A.EXAMPLE\" twice; remove one"),
    ("admin_hosts = true", "admin_hosts", "write a string or a list of strings"),
    ("allowed_hosts = [1]", "allowed_hosts[0]", "is a number, not a string"),
    ("upstream = \"http://127.0.0.1:4111/api\"", "upstream", "has a path or query, but requests are forwarded with the path that the client sent"),
    ("upstream = \"http://127.0.0.1:4111?a=b\"", "upstream", "has a path or query"),
    ("upstream = \"http://user@127.0.0.1:4111\"", "upstream", "holds user information"),
    ("upstream = \"ftp://127.0.0.1:4111\"", "upstream", "has a scheme that is not supported"),
    ("upstream = \"127.0.0.1:4111\"", "upstream", "has no scheme"),
    ("upstream = \"http://agent host\"", "upstream", "is not a URL"),
    ("upstream = \"http://127.0.0.1:0\"", "upstream", "has no usable host and port"),
    ("upstream = \"http://127.0.0.1:99999\"", "upstream", "write one such as \"http://127.0.0.1:4111\""),
    ("upstream = \"unix:agent.sock\"", "upstream", "write unix: and an absolute path"),
    ("upstream = \"http://127.0.0.1:8080\"", "upstream", "is where authgate itself listens (0.0.0.0:8080)"),
    ("upstream = \"http://localhost:8080\"", "upstream", "move the agent or authgate to another port"),
    ("listen = \"127.0.0.1:4111\"", "upstream", "is where authgate itself listens"),
    ("listen = \"[::]:4111\"", "upstream", "is where authgate itself listens"),
    ("admin = \"0.0.0.0:8080\"", "admin", "is the same address as listen (0.0.0.0:8080)"),

    ("public_url = \"api.example.com\"", "public_url", "has no scheme; write scheme and host, such as \"https://api.example.com\""),
    ("public_url = \"https://api.example.com/agents\"", "public_url", "holds a path, query or fragment"),
    ("public_url = \"https://api.example.com?a\"", "public_url", "holds a path, query or fragment"),
    ("public_url = \"https://me@api.example.com\"", "public_url", "holds user information"),
    ("public_url = \"wss://api.example.com\"", "public_url", "is neither https:// nor http://"),
    ("public_url = \"https://api.example.com:99999\"", "public_url", "has no usable host and port"),
    ("public_url = \"https://:443\"", "public_url", "has no usable host and port"),
    ("public_url = 443", "public_url", "is a number, not a string"),
    ("dpop.mode = \"accepted\"", "dpop.mode", "needs public_url: a proof is made for the URL that the client uses"),
    ("dpop.mode = \"required\"", "dpop.mode", "needs public_url"),
    ("dpop.mode = \"on\"", "dpop.mode", "write \"off\" or \"accepted\" or \"required\""),
    ("dpop.mode = true", "dpop.mode", "is a boolean, not a string"),
    ("dpop.algorithms = []", "dpop.algorithms", "is an empty list"),
    ("dpop.algorithms = [\"HS256\"]", "dpop.algorithms", "\"HS256\" is not supported; known: ES256, ES384, EdDSA, RS256, PS256"),
    ("dpop.algorithms = [\"ES256\", \"none\"]", "dpop.algorithms", "\"none\" is not supported"),
    ("dpop.algorithms = \"RS512\"", "dpop.algorithms", "\"RS512\" is not supported"),
    ("dpop.algorithms = 256", "dpop.algorithms", "write a string or a list of strings"),
    ("dpop.max_age = \"0s\"", "dpop.max_age", "must be more than zero"),
    ("dpop.max_age = \"2h\"", "dpop.max_age", "is more than 1h"),
    ("dpop.max_age = 300", "dpop.max_age", "write a duration"),
    ("dpop.nonce = \"on\"", "dpop.nonce", "write \"off\" or \"required\""),
    ("dpop.nonce_key_file = \"nonce.key\"", "dpop.nonce_key_file", "needs dpop.nonce = \"required\""),
    ("dpop.replay_cache = 0", "dpop.replay_cache", "write a whole number from 1 on"),
    ("dpop.replay_cache = 10000001", "dpop.replay_cache", "is more than 10000000"),
    ("dpop.replay = 1", "dpop.replay", "known here: mode, algorithms"),

    // Whose tokens.
    ("auth0.domain = \"http://your-tenant.us.auth0.com/\"", "auth0.domain",
        "begins with http://, but Auth0 is reached over https: write \"your-tenant.us.auth0.com\""),
    ("auth0.domain = \"your-tenant.us.auth0.com/oauth\"", "auth0.domain", "holds a path or query: write \"your-tenant.us.auth0.com\""),
    ("auth0.domain = \"your-tenant.us.auth0.com?a\"", "auth0.domain", "holds a path or query: write \"your-tenant.us.auth0.com\""),
    ("auth0.domain = \"your-tenant.us.auth0.com#a\"", "auth0.domain", "holds a path or query: write \"your-tenant.us.auth0.com\""),
    ("auth0.domain = \"me@your-tenant.us.auth0.com\"", "auth0.domain", "holds user information: write \"your-tenant.us.auth0.com\""),
    ("auth0.domain = \"your tenant.us.auth0.com\"", "auth0.domain", "holds a space"),
    ("auth0.domain = \"your_tenant.us.auth0.com\"", "auth0.domain", "is not a host name"),
    ("auth0.domain = \"your-tenant..auth0.com\"", "auth0.domain", "is not a host name"),
    ("auth0.domain = \"your-tenant.us.auth0.com:0\"", "auth0.domain", "is not a host name"),
    ("auth0.domain = \"*.auth0.com\"", "auth0.domain", "is not a host name"),
    ("auth0.domain = \"a.auth0.com,b.auth0.com\"", "auth0.domain", "is not a host name"),
    ("auth0.domain = []", "auth0.domain", "the Auth0 domain is required: set AUTH0_DOMAIN, or domain in [auth0]"),
    ("auth0.audience = \" \"", "auth0.audience", "the API's audience is required: set AUTH0_AUDIENCE, or audience in [auth0]"),
    ("auth0.algorithms = [\"HS256\"]", "auth0.algorithms", "symmetric algorithms would need Auth0's secret here"),
    ("auth0.algorithms = \"none\"", "auth0.algorithms", "\"none\" is not one of RS256, RS384"),
    ("auth0.algorithms = [\"rs256\"]", "auth0.algorithms", "\"rs256\" is not one of RS256"),
    ("auth0.algorithms = []", "auth0.algorithms", "is empty, so no token could ever pass"),
    ("auth0.clock_tolerance = \"61s\"", "auth0.clock_tolerance", "is more than 60s; mend the clock"),
    ("auth0.max_token_age = \"never\"", "auth0.max_token_age", "write a duration such as \"250ms\", \"5s\", \"10m\" or \"24h\", or \"off\""),
    ("auth0.max_token_age = \"0s\"", "auth0.max_token_age", "must be more than zero"),
    ("auth0.keys.url = \"http://keys.example.com/jwks.json\"", "auth0.keys.url", "http:// is for loopback addresses only"),
    ("auth0.keys.url = \"keys.example.com\"", "auth0.keys.url", "write an https:// URL"),
    ("auth0.keys.url = \"file:///keys.json\"", "auth0.keys.url", "is not a URL"),
    ("auth0.keys.url = \"https://me@keys.example.com/jwks.json\"", "auth0.keys.url", "must not hold user information"),
    ("auth0.keys = { url = \"https://keys.example.com/jwks.json\", file = \"/keys.json\" }", "auth0.keys.url", "auth0.keys.file are both set"),
    ("auth0 = { domain = [\"a.auth0.com\", \"b.auth0.com\"], keys.url = \"https://keys.example.com/\" }", "auth0.keys.url", "stands beside several domains"),
    ("auth0 = { domain = [\"a.auth0.com\", \"b.auth0.com\"], keys.file = \"/keys.json\" }", "auth0.keys.url", "stands beside several domains"),

    // Durations and sizes.
    ("auth0.keys.refresh = \"10\"", "auth0.keys.refresh", "is \"10\"; write a duration such as"),
    ("auth0.keys.refresh = 600", "auth0.keys.refresh", "is 600; write a duration such as"),
    ("auth0.keys.refresh = \"0s\"", "auth0.keys.refresh", "must be more than zero"),
    ("auth0.keys.cooldown = \"0ms\"", "auth0.keys.cooldown", "must be more than zero"),
    ("auth0.keys.timeout = \"0h\"", "auth0.keys.timeout", "must be more than zero"),
    ("auth0.keys.serve_stale = \"1d\"", "auth0.keys.serve_stale", "is \"1d\"; write a duration"),
    ("timeouts.header = \"10 s\"", "timeouts.header", "write a duration"),
    ("timeouts.idle = \"1.5s\"", "timeouts.idle", "write a duration"),
    ("timeouts.connect = \"0s\"", "timeouts.connect", "must be more than zero"),
    ("timeouts.response_header = \"off\"", "timeouts.response_header", "write a duration"),
    ("timeouts.linger = \"-5s\"", "timeouts.linger", "write a duration"),
    ("timeouts.drain = \"99999999999999999999s\"", "timeouts.drain", "write a duration"),
    ("limits.header_bytes = \"64kb\"", "limits.header_bytes", "is \"64kb\"; write a size such as \"16KiB\" or \"4MiB\""),
    ("limits.header_bytes = \"4KiB\"", "limits.header_bytes", "is less than 8KiB, too little for a request with a token"),
    ("limits.uri_bytes = 16384", "limits.uri_bytes", "is 16384; write a size"),
    ("limits.uri_bytes = \"0B\"", "limits.uri_bytes", "must be more than zero"),
    ("limits.token_bytes = \"0KiB\"", "limits.token_bytes", "must be more than zero"),
    ("limits.body_bytes = \"none\"", "limits.body_bytes", "write a size such as \"16KiB\" or \"4MiB\", or \"off\""),
    ("limits.headers = 0", "limits.headers", "is 0; write a whole number from 1 on"),
    ("limits.headers = \"100\"", "limits.headers", "write a whole number from 1 on"),
    ("limits.headers = 100000", "limits.headers", "is more than 10000"),
    ("limits.connections = -1", "limits.connections", "is -1; write a whole number from 1 on"),

    // Tokens elsewhere, and streams.
    ("token_sources.query = \"access_token\"", "token_sources.query", "known here: query_parameter, websocket_protocol"),
    ("token_sources.query_parameter = \"access token\"", "token_sources.query_parameter", "is a parameter's name, of letters, digits"),
    ("token_sources.query_parameter = true", "token_sources.query_parameter", "is a boolean, not a string"),
    ("token_sources.websocket_protocol = \"bearer\"", "token_sources.websocket_protocol", "write true or false"),
    ("streams.grace = \"5m\"", "streams.grace", "known here: expiry_grace"),
    ("streams.expiry_grace = \"off\"", "streams.expiry_grace", "or \"never\""),

    // Pages on other origins.
    ("cors.origin = []", "cors.origin", "known here: origins, enforce_origin, patterns_enforce, expose_headers, max_age"),
    ("cors.origins = [\"app.example.com\"]", "cors.origins", "is not an origin; write scheme and host"),
    ("cors.origins = [\"https://app.example.com/page\"]", "cors.origins", "is not an origin"),
    ("cors.origins = [\"*\", \"https://app.example.com\"]", "cors.origins", "\"*\" stands alone"),
    ("cors.enforce_origin = true", "cors.enforce_origin", "needs a list of exact origins"),
    ("cors = { origins = \"*\", enforce_origin = true }", "cors.enforce_origin", "needs a list of exact origins"),
    ("cors.enforce_origin = true\ncors.origins = [\"https://app-*.preview.example.com\"]", "cors.enforce_origin", "or patterns there and patterns_enforce = true"),
    ("cors.origins = [\"https://.example.com\"]", "cors.origins", "can never match: its host is no host name"),
    ("cors.origins = [\"https://app.example.*\"]", "cors.origins", "the last label of its host must have no \"*\""),
    ("cors.origins = [\"https://app.example.com:*\"]", "cors.origins", "\":*\" is for ports of this machine only"),
    ("cors.origins = [\"wss://app.example.com\"]", "cors.origins", "no page's origin has this scheme"),
    ("cors.origins = [\"https://127.1\"]", "cors.origins", "a host that ends in a number is an address"),
    ("cors.origins = [\"https://app.example.com:99999\"]", "cors.origins", "its port is no number"),
    ("cors.expose_headers = [\"X-Total-Count\"]", "cors.expose_headers", "needs cors.origins"),
    ("cors = { origins = \"*\", expose_headers = [\"not a name\"] }", "cors.expose_headers", "\"not a name\" is not a header name"),
    ("path_prefix = \"team-a\"", "path_prefix", "does not begin with a slash; write what the ingress strips"),
    ("path_prefix = \"/\"", "path_prefix", "ends in a slash"),
    ("path_prefix = \"/team-a/\"", "path_prefix", "ends in a slash"),
    ("path_prefix = \"/a//b\"", "path_prefix", "has a path that cannot be one"),
    ("path_prefix = \"/a/../b\"", "path_prefix", "has a path that cannot be one"),
    ("path_prefix = \"/a%2fb\"", "path_prefix", "has percent-encoding in its path"),
    ("path_prefix = \"/a?b\"", "path_prefix", "has '?' in its path"),
    ("path_prefix = \"/team-a\"\n[[resource]]\nurl = \"https://a.example/mcp\"", "resource[0].url", "does not lie below path_prefix, which is stripped from every path: \"https://a.example/team-a/mcp\" would"),
    ("path_prefix = \"/team-a\"\n[[resource]]\nurl = \"https://a.example/team-ab\"", "resource[0].url", "does not lie below path_prefix"),
    ("path_prefix = \"/a\"\n[[resource]]\nurl = \"https://a.example/a/.well-known/oauth-protected-resource\"", "resource[0].url", "lies where the metadata"),
    ("[[route]]\npath = \"/ok\"\n[[route]]\npath = \"/api/*\"\nmethods = []", "route[1].methods", "(the route of \"/api/*\")"),
    ("[[route]]\npath = \"/api/*\"\nrequire = { scopes = [] }", "route[0].require.scopes", "(the route of \"/api/*\")"),
    ("[[route]]\npath = \"/x\"\nmethods = \"GET\"\n[[route]]\npath = \"/x\"\nmethods = \"GET\"", "route[1]", "(the route of \"/x\") route[0] has the same path and takes GET already"),
    ("cors.max_age = \"25h\"", "cors.max_age", "is more than 24h, which no browser keeps"),
    ("cors.max_age = 600", "cors.max_age", "write a duration"),

    // What the upstream is told.
    ("identity.strip = [\"host\"]", "identity.strip", "host cannot be stripped: the request would mean another one"),
    ("identity.subject_header = \"x user\"", "identity.subject_header", "\"x user\" is not a header name"),
    ("identity.subject_header = \"Host\"", "identity.subject_header", "host has a meaning in HTTP and cannot carry identity"),
    ("identity.subject_header = \"content_length\"", "identity.subject_header", "cannot carry identity; choose one such as \"x-forwarded-user\""),
    ("identity.claims_header = \"authorization\"", "identity.claims_header", "cannot carry identity"),
    ("identity.claims_header = \"x-forwarded-for\"", "identity.claims_header", "cannot carry identity"),
    ("identity.headers.x-request-id = \"sub\"", "identity.headers.\"x-request-id\"", "cannot carry identity"),
    ("identity.headers.\"x org\" = \"org_id\"", "identity.headers.\"x org\"", "is not a header name"),
    ("identity.headers.x-org = \"\"", "identity.headers.\"x-org\"", "holds an empty name"),
    ("identity.headers.x-org = []", "identity.headers.\"x-org\"", "holds an empty name, or none at all"),
    ("identity.headers.x-forwarded-user = \"email\"", "identity", "x-forwarded-user is used for two headers"),
    ("identity.headers = { x-org = \"org_id\", x_org = \"org_name\" }", "identity", "is used for two headers"),
    ("identity = { subject_header = \"x-who\", claims_header = \"X-Who\" }", "identity", "x-who is used for two headers"),
    ("identity.strip = [\"not a name\"]", "identity.strip", "\"not a name\" is not a header name"),

    // Rules.
    ("require.any_role = [\"admin\"]", "require.any_role", "needs auth0.roles_claim"),
    ("require.roles = \"admin\"", "require.roles", "\"https://your-app.com/roles\""),
    ("[[route]]\npath = \"/a\"\nrequire = { any_role = [\"admin\"] }", "route[0].require.any_role", "needs auth0.roles_claim"),
    ("require.scopes = []", "require.scopes", "is empty: name at least one value, or remove the key"),
    ("require.any_permission = []", "require.any_permission", "is empty"),
    ("require.organizations = []", "require.organizations", "is empty"),
    ("require.clients = []", "require.clients", "is empty"),
    ("require.subjects = [\"\"]", "require.subjects", "holds an empty value, or one with spaces around it"),
    ("require.permissions = [\"a \"]", "require.permissions", "one with spaces around it"),
    ("require.scopes = \"read:agents write:agents\"", "require.scopes", "write one scope per string"),
    ("require.any_of = []", "require.any_of", "is empty"),
    ("require.all_of = [{}]", "require.all_of[0]", "is an empty condition"),
    ("require.not = {}", "require.not", "is an empty condition"),
    ("require.claims = [{ claim = \"a\" }]", "require.claims[0]", "needs exactly one of equals, one_of"),
    ("require.claims = [{ claim = \"a\", equals = 1, gt = 2 }]", "require.claims[0]", "needs exactly one of"),
    ("require.claims = [{ equals = 1 }]", "require.claims[0].claim", "names the claim: a literal name, or a list of names"),
    ("require.claims = [{ claim = \"a\", equals = [1] }]", "require.claims[0].equals", "needs a string, a number or a boolean"),
    ("require.claims = [{ claim = \"a\", one_of = [] }]", "require.claims[0].one_of", "all of one type and not empty"),
    ("require.claims = [{ claim = \"a\", contains_any = [1, \"b\"] }]", "require.claims[0].contains_any", "all of one type"),
    ("require.claims = [{ claim = \"a\", starts_with = \"\" }]", "require.claims[0].starts_with", "a string that is not empty"),
    ("require.claims = [{ claim = \"a\", exists = false }]", "require.claims[0].exists", "for the opposite there is the other one"),
    ("require.claims = [{ claim = \"a\", lt = \"5\" }]", "require.claims[0].lt", "needs a number"),
    ("require.claims = [{ claim = \"a\", ge = nan }]", "require.claims[0].ge", "needs a number"),
    ("require.claims = [\"a\"]", "require.claims[0]", "is a string, not a table"),

    // Routes.
    ("[[route]]\naccess = \"public\"", "route[0].path", "is missing: a route needs a path such as \"/api/**\""),
    ("[[route]]\npath = \"api\"", "route[0].path", "a path begins with \"/\""),
    ("[[route]]\npath = \"/a/../b\"", "route[0].path", "segment can never match"),
    ("[[route]]\npath = \"/a//b\"", "route[0].path", "segment can never match"),
    ("[[route]]\npath = \"/a?b=c\"", "route[0].path", "the query takes no part in routing"),
    ("[[route]]\npath = \"/a%20b\"", "route[0].path", "patterns are written without percent-encoding"),
    ("[[route]]\npath = \"/a;b\"", "route[0].path", "';' cannot stand in a pattern"),
    ("[[route]]\npath = \"/caf\u{e9}\"", "route[0].path", "cannot stand in a pattern"),
    ("[[route]]\npath = \"/a/**/b\"", "route[0].path", "\"*\" stands for a whole segment, and \"**\" only at the end"),
    ("[[route]]\npath = \"/a*\"", "route[0].path", "\"*\" stands for a whole segment"),
    ("[[route]]\npath = \"/a\"\nmethods = []", "route[0].methods", "remove the key to take all methods"),
    ("[[route]]\npath = \"/a\"\nmethods = [\"get\"]", "route[0].methods", "methods are case-sensitive, so \"get\" would never match: write \"GET\""),
    ("[[route]]\npath = \"/a\"\nmethods = [\"GET POST\"]", "route[0].methods", "\"GET POST\" is not an HTTP method"),
    ("[[route]]\npath = \"/a\"\nmethods = [\"GET\", \"GET\"]", "route[0].methods", "names \"GET\" twice"),
    ("[[route]]\npath = \"/a\"\nmcp = \"tools/call\"", "route[0].mcp", "is a string, not a table"),
    ("[[route]]\npath = \"/a\"\nmcp = {}", "route[0].mcp", "needs exactly one of method and tool"),
    ("[[route]]\npath = \"/a\"\nmcp = { method = \"tools/call\", tool = \"a\" }", "route[0].mcp", "needs exactly one of method and tool"),
    ("[[route]]\npath = \"/a\"\nmcp.tool = []", "route[0].mcp.tool", "is empty, so the route would never match"),
    ("[[route]]\npath = \"/a\"\nmcp.tool = \"\"", "route[0].mcp.tool", "is empty, or has spaces around it"),
    ("[[route]]\npath = \"/a\"\nmcp.tool = \"a \"", "route[0].mcp.tool", "is empty, or has spaces around it"),
    ("[[route]]\npath = \"/a\"\nmcp.tool = \"a*b\"", "route[0].mcp.tool", "stands at the end only"),
    ("[[route]]\npath = \"/a\"\nmcp.method = [\"tools/**\"]", "route[0].mcp.method", "stands at the end only"),
    ("[[route]]\npath = \"/a\"\nmcp.method = [\"ping\", 1]", "route[0].mcp.method[1]", "is a number, not a string"),
    ("[[route]]\npath = \"/a\"\nmcp.tool = \"a\\u0001b\"", "route[0].mcp.tool", "holds a control character"),
    ("[[route]]\npath = \"/a\"\nmcp.tool = [\"a\", \"a\"]", "route[0].mcp.tool", "names \"a\" twice"),
    ("[[route]]\npath = \"/a\"\nmethods = [\"GET\"]\nmcp.tool = \"a\"", "route[0].methods", "makes no sense beside mcp, whose messages come by POST"),
    ("[[route]]\npath = \"/a\"\nmcp.tool = \"a\"\n[[route]]\npath = \"/a\"\nmcp.tool = [\"b\", \"a\"]", "route[1]", "route[0] has the same path and takes mcp.tool \"a\" already"),
    ("mcp.max_body = \"0KiB\"", "mcp.max_body", "must be more than zero"),
    ("mcp.read_bodies = \"yes\"", "mcp.read_bodies", "write true or false"),
    ("mcp.filter_tools = 1", "mcp.filter_tools", "write true or false"),
    ("mcp.session_key_file = [\"a\"]", "mcp.session_key_file", "is an array, not a string"),
    ("mcp.session_key = \"a\"", "mcp.session_key", "known here: read_bodies, max_body, filter_tools, session_key_file"),
    ("[[route]]\npath = \"/a\"\naccess = \"public\"\nrequire = {}", "route[0].require", "makes no sense beside access = \"public\" or \"deny\""),
    ("[[route]]\npath = \"/a\"\naccess = \"deny\"\nrequire = { scopes = [\"a\"] }", "route[0].require", "remove one of them"),
    ("[[route]]\npath = \"/a\"\n[[route]]\npath = \"/b\"\n[[route]]\npath = \"/a\"", "route[2]", "route[0] has the same path and takes the remaining methods already"),
    ("[[route]]\npath = \"/a\"\nmethods = \"GET\"\n[[route]]\npath = \"/a\"\nmethods = [\"PUT\", \"GET\"]", "route[1]", "route[0] has the same path and takes GET already"),

    // Resources.
    ("resource = \"https://a.example/mcp\"", "resource", "is a string; write [[resource]]"),
    ("[[resource]]", "resource[0].url", "is missing: a resource is known by its URL"),
    ("[[resource]]\nurl = \" \"", "resource[0].url", "such as \"https://api.example.com/mcp\""),
    ("[[resource]]\nurl = 7", "resource[0].url", "is a number, not a string"),
    ("[[resource]]\nuri = \"https://a.example/mcp\"\nurl = \"https://a.example/mcp\"", "resource[0].uri", "known here: url, audience, scopes, name, documentation"),
    ("[[resource]]\nurl = \"a.example/mcp\"", "resource[0].url", "has no scheme; write the URL as clients use it"),
    ("[[resource]]\nurl = \"/mcp\"", "resource[0].url", "has no scheme"),
    ("[[resource]]\nurl = \"http://a.example/mcp\"", "resource[0].url", "begins with http://, which is for loopback hosts only"),
    ("[[resource]]\nurl = \"http://127.0.0.1.example/mcp\"", "resource[0].url", "begins with http://"),
    ("[[resource]]\nurl = \"ftp://a.example/mcp\"", "resource[0].url", "is not an https:// URL"),
    ("[[resource]]\nurl = \"https://a.example/mcp?a=b\"", "resource[0].url", "holds a query: remove everything from \"?\" on"),
    ("[[resource]]\nurl = \"https://a.example?a=b\"", "resource[0].url", "holds a query"),
    ("[[resource]]\nurl = \"https://a.example/mcp#a\"", "resource[0].url", "holds a fragment: remove everything from \"#\" on"),
    ("[[resource]]\nurl = \"https://me@a.example/mcp\"", "resource[0].url", "holds user information: write \"a.example\" for the host"),
    ("[[resource]]\nurl = \"https://me:x@a.example/mcp\"", "resource[0].url", "holds user information"),
    ("[[resource]]\nurl = \"https://A.example/Mcp\"", "resource[0].url", "has capitals where clients write small letters: write \"https://a.example/Mcp\""),
    ("[[resource]]\nurl = \"HTTPS://a.example/mcp\"", "resource[0].url", "write \"https://a.example/mcp\""),
    ("[[resource]]\nurl = \"https://a.example:443/mcp\"", "resource[0].url", "names the default port, which clients leave out: write \"https://a.example/mcp\""),
    ("[[resource]]\nurl = \"http://localhost:80/\"", "resource[0].url", "write \"http://localhost/\""),
    ("[[resource]]\nurl = \"https://a.example:0/mcp\"", "resource[0].url", "has no host name with an optional port"),
    ("[[resource]]\nurl = \"https://a_b.example/mcp\"", "resource[0].url", "has no host name"),
    ("[[resource]]\nurl = \"https://\"", "resource[0].url", "has no host name"),
    ("[[resource]]\nurl = \"https:///mcp\"", "resource[0].url", "has no host name"),
    ("[[resource]]\nurl = \"https://*.example/mcp\"", "resource[0].url", "has no host name"),
    ("[[resource]]\nurl = \"https://a.example/m%63p\"", "resource[0].url", "has percent-encoding in its path"),
    ("[[resource]]\nurl = \"https://a.example/a/../mcp\"", "resource[0].url", "segment can never match"),
    ("[[resource]]\nurl = \"https://a.example//mcp\"", "resource[0].url", "segment can never match"),
    ("[[resource]]\nurl = \"https://a.example/mcp//\"", "resource[0].url", "segment can never match"),
    ("[[resource]]\nurl = \"https://a.example/./mcp\"", "resource[0].url", "segment can never match"),
    ("[[resource]]\nurl = \"https://a.example/mcp;a\"", "resource[0].url", "has ';' in its path"),
    ("[[resource]]\nurl = \"https://a.example/*\"", "resource[0].url", "has '*' in its path"),
    ("[[resource]]\nurl = 'https://a.example/\"'", "resource[0].url", "has '\"' in its path"),
    ("[[resource]]\nurl = 'https://a.example/m\\cp'", "resource[0].url", "has '\\\\' in its path"),
    ("[[resource]]\nurl = \"https://a.example/caf\u{e9}\"", "resource[0].url", "has '\u{e9}' in its path"),
    ("[[resource]]\nurl = \"https://a.example/.well-known/oauth-protected-resource\"", "resource[0].url", "lies where the metadata of resources is"),
    ("[[resource]]\nurl = \"https://a.example/.Well-Known/OAuth-protected-resource/mcp\"", "resource[0].url", "lies where the metadata of resources is"),
    ("[[resource]]\nurl = \"https://a.example/mcp\"\n[[resource]]\nurl = \"https://b.example/mcp\"", "resource[1].url", "has the same path as resource[0].url"),
    ("[[resource]]\nurl = \"https://a.example/mcp\"\n[[resource]]\nurl = \"https://a.example/MCP\"", "resource[1].url", "give each a path of its own"),
    ("[[resource]]\nurl = \"https://a.example/mcp\"\naudience = [\"\"]", "resource[0].audience", "is empty or has spaces around it"),
    ("[[resource]]\nurl = \"https://a.example/mcp\"\naudience = [1]", "resource[0].audience[0]", "is a number, not a string"),
    ("[[resource]]\nurl = \"https://a.example/mcp\"\nscopes = [\"read:a write:a\"]", "resource[0].scopes", "is not a scope: write one scope per string"),
    ("[[resource]]\nurl = \"https://a.example/mcp\"\nscopes = ['a\"b']", "resource[0].scopes", "without quotation marks and backslashes"),
    ("[[resource]]\nurl = \"https://a.example/mcp\"\nscopes = [\"\"]", "resource[0].scopes", "is not a scope"),
    ("[[resource]]\nurl = \"https://a.example/mcp\"\nname = [\"a\"]", "resource[0].name", "is an array, not a string"),
    ("[[resource]]\nurl = \"https://a.example/mcp\"\ndocumentation = \"docs\"", "resource[0].documentation", "is not a URL: write that of a page for people"),
    ("[[resource]]\nurl = \"https://a.example/mcp\"\ndocumentation = \"javascript:alert(1)\"", "resource[0].documentation", "is not a URL"),
];

#[test]
fn each_mistake_is_told_with_its_place_and_its_mend() {
    let mut wrong = String::new();
    for (fragment, path, words) in MISTAKES {
        let loaded = load(&complete(fragment));
        let doubts = joined(&loaded.warnings);
        let found = errors(loaded);
        let told = matches!(&found[..], [one] if one.path == *path && one.message.contains(words));
        if !told || !doubts.is_empty() {
            let found = joined(&found);
            wrong.push_str(&format!(
                "{fragment}\n  should say {path}: …{words}…\n{found}{doubts}\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Each fragment loads, with one warning.
#[rustfmt::skip]
const DOUBTS: &[(&str, &str, &str)] = &[
    ("auth0.domain = \"https://your-tenant.us.auth0.com\"", "auth0.domain", "write \"your-tenant.us.auth0.com\", without https:// and the trailing slash"),
    ("auth0.domain = \"your-tenant.us.auth0.com/\"", "auth0.domain", "write \"your-tenant.us.auth0.com\", without"),
    ("auth0.domain = \"Your-Tenant.us.auth0.com\"", "auth0.domain", "was folded to lower case: write \"your-tenant.us.auth0.com\""),
    ("auth0.domain = \"your-tenant\"", "auth0.domain", "looks like a bare tenant name: write the whole domain, such as \"your-tenant.us.auth0.com\""),
    ("auth0.audience = \"XyZ0aBcD1eFgH2iJkL3mNoP4qRsT5uVw\"", "auth0.audience", "has no scheme, so it looks like a client id"),
    ("auth0.roles_claim = \"roles\"", "auth0.roles_claim", "Auth0 silently drops a claim named \"roles\": let the Action set \"https://your-app.com/roles\""),
    ("require.claims = [{ claim = \"groups\", contains = \"staff\" }]", "require.claims[0].claim", "Auth0 silently drops a claim named \"groups\""),
    ("identity.headers.x-roles = \"roles\"", "identity.headers.\"x-roles\"", "Auth0 silently drops a claim named \"roles\""),
    ("cors.origins = [\"https://*.vercel.app\"]", "cors.origins", "welcomes whoever can have a name under vercel.app"),
    ("cors.origins = [\"https://app-*-team.vercel.app\"]", "cors.origins", "welcomes whoever can have a name under vercel.app"),
    ("cors = { origins = [\"https://app.example.com\"], patterns_enforce = true }", "cors.patterns_enforce", "has no effect: cors.origins has no pattern"),
    ("cors.origins = [\"http://[0:0:0:0:0:0:0:1]:3000\"]", "cors.origins", "write \"http://[::1]:3000\""),
    ("mcp.filter_tools = true", "mcp.filter_tools", "does nothing without a [[route]] that has mcp"),
    ("mcp.read_bodies = true", "mcp.read_bodies", "does nothing without a [[route]] that has mcp"),
    ("public_url = \"http://api.example.com\"", "public_url", "is not https://, and it is the URL that clients use"),
    ("require.organizations = [\"org_9ybsU1dN2dKfDkBi\", \"acme\"]", "require.organizations", "\"acme\" looks like an organization's name; org_id holds its id"),
    ("[[resource]]\nurl = \"https://a.example/mcp/\"", "resource[0].url", "unless clients use it so, write \"https://a.example/mcp\""),
    ("[[resource]]\nurl = \"https://a.example\"", "resource[0].url", "clients make \"https://a.example/\" of it"),
    ("[[resource]]\nurl = \"https://a.example/mcp\"\naudience = \"urn:other\"", "resource[0].url", "is no audience that is accepted here"),
    ("[[resource]]\nurl = \"https://a.example/mcp\"\n[[route]]\npath = \"/.well-known/oauth-protected-resource/**\"\naccess = \"public\"", "route[0].path", "is never asked"),
];

#[test]
fn what_is_only_doubtful_is_a_warning() {
    let mut wrong = String::new();
    for (fragment, path, words) in DOUBTS {
        let loaded = load(&complete(fragment));
        let told = matches!(&loaded.warnings[..], [one] if one.path == *path && one.message.contains(words));
        if !told || loaded.config.is_err() {
            let doubts = joined(&loaded.warnings);
            let found = joined(&errors(loaded));
            wrong.push_str(&format!(
                "{fragment}\n  should say {path}: …{words}…\n{found}{doubts}\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// The other side of the tables above: values at the edge of what is refused.
#[rustfmt::skip]
const UNUSUAL: &[&str] = &[
    "listen = \":8080\"",
    "listen = \"localhost:8080\"",
    "listen = \"[::1]:8080\"",
    "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"",
    "listen = \"\"",
    "admin = \"off\"",
    "admin_drain = \"local\"",
    "admin_drain = \"anyone\"",
    "admin_hosts = \"metrics.example.com\"",
    "admin_hosts = [\"metrics.example.com:9090\", \"authgate.default.svc.cluster.local.\"]",
    "public_url = \"https://api.example.com/\"",
    "public_url = \"HTTPS://API.example.com:8443\"",
    "public_url = \"http://127.0.0.1:8080\"",
    "public_url = \"http://[::1]:8080\"",
    "public_url = \" \"",
    "public_url = \"https://api.example.com\"\ndpop.mode = \"required\"\ndpop.algorithms = \"EdDSA\"",
    "public_url = \"https://api.example.com\"\ndpop.mode = \"accepted\"\ndpop.nonce = \"required\"\ndpop.nonce_key_file = \"nonce.key\"",
    "dpop.mode = \"off\"\ndpop.nonce = \"required\"",
    "workers = 1",
    "workers = \"256\"",
    "log = \"warn,authgate=debug\"",
    "trusted_proxies = [\"10.0.0.0/8\", \"::1\", \"192.0.2.7\"]",
    "allowed_hosts = []",
    "allowed_hosts = \"agents.example.com\"",
    "allowed_hosts = [\"agents.example.com\", \"agents.example.com:8443\", \"[::1]:8080\", \"localhost\"]",
    "upstream = \"http://127.0.0.1:4111/\"",
    "upstream = \"https://agent.internal\"",
    "upstream = \"http://[::1]:4111\"",
    "upstream = \"unix:/run/agent.sock\"",
    "upstream = \"https://127.0.0.1:8080\"",
    "auth0.domain = [\"your-tenant.us.auth0.com\", \"login.your-company.com\"]",
    "auth0.domain = \"localhost:8443\"",
    "auth0.domain = \"[::1]:8443\"",
    "auth0.audience = [\"https://your-api.com\", \"urn:your-other-api\"]",
    "auth0.algorithms = [\"RS256\", \"PS256\", \"ES256\", \"EdDSA\"]",
    "auth0.clock_tolerance = \"60s\"",
    "auth0.clock_tolerance = \"0s\"",
    "auth0.keys.url = \"http://127.0.0.1:9/jwks.json\"",
    "auth0.keys.url = \"http://[::1]:9/jwks.json\"",
    "auth0.keys.serve_stale = \"0s\"",
    "auth0 = { domain = [\"a.auth0.com\", \"b.auth0.com\"], keys.refresh = \"5m\" }",
    "timeouts.linger = \"0s\"",
    "streams.expiry_grace = \"never\"",
    "streams.expiry_grace = \"0s\"",
    "token_sources = { query_parameter = \"access_token\", websocket_protocol = true }",
    "limits.headers = 10000",
    "limits.header_bytes = \"8KiB\"",
    "limits.body_bytes = \"10MiB\"",
    "cors.origins = [\"https://app-*.preview.example.com\", \"http://localhost:*\", \"tauri://localhost\"]",
    "cors = { origins = [\"https://*.preview.example.com\"], enforce_origin = true, patterns_enforce = true }",
    "cors = { origins = \"https://app.example.com\", expose_headers = \"X-Total-Count\" }",
    "path_prefix = \"/team-a\"\n[[resource]]\nurl = \"https://a.example/team-a/mcp\"\n[[resource]]\nurl = \"https://a.example/team-a/team-a/mcp\"",
    "path_prefix = \" /a/b-c_d~e.f \"\n[[resource]]\nurl = \"https://a.example/a/b-c_d~e.f/x\"",
    "identity.strip = []",
    "identity.subject_header = \"Remote-User\"",
    "identity.headers.x-actor = [\"act\", \"sub\"]",
    "require = {}",
    "require.claims = [{ claim = \"a.b/c\", one_of = [1, 2.5] }]",
    "[[route]]\npath = \"/\"\n[[route]]\npath = \"/**\"",
    "[[route]]\npath = \"/a\"\n[[route]]\npath = \"/a/\"\n[[route]]\npath = \"/A\"",
    "[[route]]\npath = \"/a\"\nmethods = \"GET\"\n[[route]]\npath = \"/a\"",
    "[[route]]\npath = \"/a\"\n[[route]]\npath = \"/a\"\nmcp.tool = \"*\"\n[[route]]\npath = \"/a\"\nmcp.method = [\"tools/call\", \"ping\"]\nmethods = [\"POST\"]",
    "mcp.session_key_file = \"/run/secrets/key\"",
    "mcp = { max_body = \"64KiB\" }\nroute = [{ path = \"/a\", mcp.tool = [\"Gr\u{fc}\u{df}e senden\", \"a b*\"] }]",
    "[[route]]\npath = \"/message:send\"\nmethods = [\"QUERY\"]",
    "[[resource]]\nurl = \"https://a.example/\"",
    "[[resource]]\nurl = \" https://a.example:8443/a/b-c_d~e.f/:g@h \"",
    "[[resource]]\nurl = \"http://localhost:3001/mcp\"",
    "[[resource]]\nurl = \"http://127.0.0.1:8080/\"",
    "[[resource]]\nurl = \"http://[::1]/Mcp\"",
    "[[resource]]\nurl = \"https://a.example/\"\n[[resource]]\nurl = \"https://a.example/mcp\"\n[[resource]]\nurl = \"https://b.example/mcp/admin\"",
    "[[resource]]\nurl = \"https://a.example/mcp\"\naudience = [\"https://a.example/mcp\", \"urn:mcp\"]\nscopes = [\"profile\"]",
    "[[resource]]\nurl = \"https://a.example/mcp\"\naudience = []\nscopes = []\nname = \"\"\ndocumentation = \"\"",
    "[[resource]]\nurl = \"https://a.example/mcp\"\nscopes = \"offline_access\"\nname = \"Caf\u{e9} \\\"tools\\\"\"",
    "auth0.audience = \"https://a.example/mcp\"\n[[resource]]\nurl = \"https://a.example/mcp\"\naudience = \"urn:mcp\"",
];

#[test]
fn what_is_unusual_but_right_loads() {
    for fragment in UNUSUAL {
        must_load(fragment, load(&complete(fragment)));
    }
}

// The schema.

/// What a schema cannot see, by words of the message that the program has for it. It knows the form of each
/// text, and not what the text means, what else is in the file, or in another text.
const UNSEEN: &[(&str, &str)] = &[
    (
        "is not an address",
        "the host of an address, and the range of its port",
    ),
    ("is not a log filter", "a language of its own"),
    ("is not a network", "numbers within a text"),
    (
        "is a network of IPv4-mapped addresses",
        "numbers within a text",
    ),
    ("is not a host", "host names"),
    ("holds \"A.EXAMPLE\" twice", "two spellings of one host"),
    ("has no usable host and port", "numbers within a text"),
    ("needs trusted_proxies", "another key"),
    ("needs public_url", "another key"),
    ("needs dpop.nonce", "another key"),
    ("is more than 1h", "amounts with units"),
    (
        "TLS for clients needs cert_file and key_file",
        "another key",
    ),
    ("authgate itself listens", "another key"),
    ("is the same address as listen", "another key"),
    ("begins with http://", "host names"),
    ("holds a path or query: write", "host names"),
    ("holds user information: write", "host names"),
    ("holds a space", "host names"),
    (
        "the Auth0 domain is required",
        "the environment may have it",
    ),
    (
        "the API's audience is required",
        "the environment may have it",
    ),
    ("is more than 60s", "amounts with units"),
    ("is more than 24h", "amounts with units"),
    ("is less than 8KiB", "amounts with units"),
    ("must be more than zero, or", "amounts with units"),
    ("\"99999999999999999999s\"", "amounts with units"),
    ("is for loopback addresses only", "addresses"),
    ("write an https:// URL", "URLs"),
    ("is not a URL", "URLs"),
    ("must not hold user information", "URLs"),
    ("auth0.keys.file are both set", "another key"),
    ("stands beside several domains", "another key"),
    ("is a parameter's name", "names in queries"),
    ("is not a header name", "names in HTTP"),
    ("cannot carry identity", "names with a meaning in HTTP"),
    ("is used for two headers", "another key"),
    ("cannot be stripped", "names with a meaning in HTTP"),
    ("needs auth0.roles_claim", "another key"),
    (
        "is an empty condition",
        "tables without keys are right elsewhere",
    ),
    ("is not an origin", "origins"),
    ("needs a list of exact origins", "another key"),
    ("needs cors.origins", "another key"),
    ("does not lie below path_prefix", "another key"),
    ("has a path that cannot be one", "paths"),
    ("\"*\" stands alone", "what else is in the list"),
    ("can never match", "paths"),
    ("the query takes no part", "paths"),
    ("patterns are written without percent-encoding", "paths"),
    ("cannot stand in a pattern", "paths"),
    ("stands for a whole segment", "paths"),
    ("names \"GET\" twice", "what else is in the list"),
    ("makes no sense beside access", "another key"),
    ("makes no sense beside mcp", "another key"),
    ("holds a control character", "single characters"),
    ("names \"a\" twice", "what else is in the list"),
    ("has the same path", "another route"),
    (
        "has capitals where clients write small letters",
        "host names",
    ),
    ("names the default port", "which port is the default"),
    ("has no host name with", "host names"),
    ("in its path: choose", "paths"),
    ("lies where the metadata of resources is", "paths"),
    ("is empty or has spaces around it", "identifiers of Auth0's"),
    ("is not a scope", "an empty list is right here"),
];

fn validator() -> jsonschema::Validator {
    jsonschema::draft202012::new(&config::schema()).expect("a schema")
}

fn schema_problems(validator: &jsonschema::Validator, text: &str) -> Vec<String> {
    let table: Table = text
        .parse()
        .unwrap_or_else(|error| panic!("{error}\nin\n{text}"));
    let json = serde_json::to_value(table).expect("JSON");
    let errors = validator.iter_errors(&json);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

#[test]
fn the_schema_is_one() {
    let schema = config::schema();
    jsonschema::meta::validate(&schema).expect("a JSON Schema");
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
}

#[test]
fn the_schema_accepts_whatever_loads() {
    let mut texts = snippets();
    for file in shipped() {
        let text = std::fs::read_to_string(&file).expect("a file");
        texts.push((file.display().to_string(), text));
    }
    texts.push((
        "the examples".to_owned(),
        reference_with_examples().to_string(),
    ));
    let unusual = UNUSUAL
        .iter()
        .chain(DOUBTS.iter().map(|(fragment, ..)| fragment));
    texts.extend(unusual.map(|text| ((*text).to_owned(), complete(text))));
    let mut wrong = String::new();
    let validator = validator();
    for (place, text) in texts {
        for problem in schema_problems(&validator, &text) {
            wrong.push_str(&format!("{place}: {problem}\n"));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn the_schema_rejects_every_mistake_that_it_can_see() {
    let mut wrong = String::new();
    let mut used = BTreeSet::new();
    let validator = validator();
    for (fragment, ..) in MISTAKES {
        let text = complete(fragment);
        if !schema_problems(&validator, &text).is_empty() {
            continue;
        }
        let message = joined(&errors(load(&text)));
        match UNSEEN.iter().find(|(part, _)| message.contains(part)) {
            Some((part, _)) => _ = used.insert(*part),
            None => wrong.push_str(&format!("not seen: {fragment}\n{message}")),
        }
    }
    for (part, _) in UNSEEN {
        if !used.contains(part) {
            wrong.push_str(&format!("seen after all: {part}\n"));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Defaults and descriptions are for people in front of an editor.
#[test]
fn the_schema_explains_every_key() {
    let schema = config::schema();
    let mut described = 0;
    let mut wrong = String::new();
    let mut tables = vec![("", &schema), ("condition", &schema["$defs"]["condition"])];
    while let Some((name, table)) = tables.pop() {
        for (key, property) in table["properties"].as_object().expect("properties") {
            if property["properties"].is_object() {
                tables.push((key, property));
            } else if property["description"].as_str().is_none_or(str::is_empty) {
                wrong.push_str(&format!("{name}.{key}\n"));
            }
            described += 1;
        }
    }
    assert!(described > 70, "only {described} keys");
    assert!(wrong.is_empty(), "nothing is said of\n{wrong}");
    let refresh = &schema["properties"]["auth0"]["properties"]["keys"]["properties"]["refresh"];
    assert_eq!(refresh["default"], "10m");
}

#[test]
fn nothing_configured_names_the_variables_and_the_keys() {
    for file in [None, Some(Path::new("/dev/null"))] {
        let loaded = config::load(file, &Overrides::default(), &Environment::default());
        assert_eq!(
            joined(&errors(loaded)),
            "  auth0: Auth0 domain and audience are required: set AUTH0_DOMAIN and AUTH0_AUDIENCE, \
             or domain and audience in [auth0]\n"
        );
    }
}

/// One word for word, since people search for it.
#[test]
fn a_domain_with_http_gets_the_whole_sentence() {
    let found = errors(load(&complete(
        "auth0.domain = \"http://your-tenant.us.auth0.com\"",
    )));
    assert_eq!(
        joined(&found),
        "  auth0.domain: \"http://your-tenant.us.auth0.com\" begins with http://, but Auth0 is reached \
         over https: write \"your-tenant.us.auth0.com\"; auth0.domain must be a host name such as \
         your-tenant.us.auth0.com, without https:// or a path\n"
    );
}

#[test]
fn all_problems_of_a_file_are_told_at_once() {
    let text = r#"
        listen = "nowhere"
        admin = 9090
        upstream = "ftp://127.0.0.1"
        workers = 0
        log_format = "xml"
        unmatched = "public"
        trusted_proxies = ["10.0.0.0/40"]
        colour = "blue"
        tls = { origins = ["*"] }
        [auth0]
        domain = "http://your-tenant.us.auth0.com"
        algorithms = ["HS256"]
        clock_tolerance = "2m"
        [auth0.keys]
        url = "http://example.com/jwks.json"
        refresh = "often"
        [identity]
        subject_header = "host"
        [require]
        scopes = []
        any_role = ["admin"]
        [[route]]
        path = "api"
        [[route]]
        path = "/x"
        access = "maybe"
        require = { any_role = [] }
        [[route]]
        path = "/x"
        methods = ["get"]
        [[route]]
        path = "/x"
        [limits]
        header_bytes = "lots"
        [timeouts]
        drain = "0s"
        "#;
    let mut paths: Vec<String> = errors(load(text)).into_iter().map(|one| one.path).collect();
    paths.sort();
    assert_eq!(
        paths,
        [
            "admin",
            "auth0.algorithms",
            "auth0.audience",
            "auth0.clock_tolerance",
            "auth0.domain",
            "auth0.keys.refresh",
            "auth0.keys.url",
            "colour",
            "identity.subject_header",
            "limits.header_bytes",
            "listen",
            "log_format",
            "require.any_role",
            "require.scopes",
            "route[0].path",
            "route[1].access",
            "route[1].require.any_role",
            "route[1].require.any_role",
            "route[2].methods",
            "route[3]",
            "timeouts.drain",
            "tls.origins",
            "trusted_proxies",
            "unmatched",
            "upstream",
            "workers",
        ]
    );
}

/// A file that cannot be read is one problem, and not followed by complaints about what it lacks.
#[test]
fn a_file_that_cannot_be_read_is_one_problem() {
    let directory = TempDir::new().expect("a directory");
    let large = directory.path().join("large.toml");
    std::fs::write(&large, "# filler\n".repeat(500_000)).expect("a file");
    let broken = directory.path().join("broken.toml");
    std::fs::write(&broken, "listen = \"0.0.0.0:8080\"\nadmin = \n").expect("a file");
    let twice = directory.path().join("twice.toml");
    std::fs::write(&twice, "[auth0]\n[auth0]\n").expect("a file");
    let binary = directory.path().join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe, 0x00]).expect("a file");
    for (path, words) in [
        (
            directory.path().join("absent.toml"),
            "cannot be read: No such file",
        ),
        (directory.path().to_owned(), "cannot be read"),
        (binary, "cannot be read"),
        (large, "is larger than 4 MiB"),
        (broken, "is not TOML: TOML parse error at line 2"),
        (twice, "line 2"),
    ] {
        let found = errors(load_file(&path));
        assert_eq!(found.len(), 1, "{}", joined(&found));
        assert_eq!(found[0].path, path.display().to_string());
        assert!(found[0].message.contains(words), "{}", joined(&found));
    }
}

// Flags, environment, file, defaults.

#[test]
fn variables_are_taken_as_people_paste_them() {
    for (domain, audience, domains, audiences, warned) in [
        (DOMAIN, AUDIENCE, 1, vec![AUDIENCE], vec![]),
        (
            "  your-tenant.us.auth0.com\n",
            " https://your-api.com ",
            1,
            vec![AUDIENCE],
            vec![],
        ),
        (
            "\"your-tenant.us.auth0.com\"",
            "'https://your-api.com'",
            1,
            vec![AUDIENCE],
            vec!["AUTH0_DOMAIN", "AUTH0_AUDIENCE"],
        ),
        (
            "https://your-tenant.us.auth0.com/",
            AUDIENCE,
            1,
            vec![AUDIENCE],
            vec!["AUTH0_DOMAIN"],
        ),
        (
            "a.auth0.com, b.auth0.com,,a.auth0.com",
            "https://a ,https://b",
            2,
            vec!["https://a", "https://b"],
            vec![],
        ),
        (
            "[\"a.auth0.com\", \"b.auth0.com\"]",
            " [\"https://a\",\"https://b\"] ",
            2,
            vec!["https://a", "https://b"],
            vec!["AUTH0_DOMAIN", "AUTH0_AUDIENCE"],
        ),
        ("[::1]:8443", AUDIENCE, 1, vec![AUDIENCE], vec![]),
    ] {
        let environment = environment(|name| match name {
            "AUTH0_DOMAIN" => Some(domain.to_owned()),
            "AUTH0_AUDIENCE" => Some(audience.to_owned()),
            _ => None,
        });
        let loaded = config::load(None, &Overrides::default(), &environment);
        let paths: Vec<&str> = loaded
            .warnings
            .iter()
            .map(|one| one.path.as_str())
            .collect();
        assert_eq!(paths, warned, "{}", joined(&loaded.warnings));
        let config = loaded.config.expect("a configuration");
        assert_eq!(config.auth0.tenants.len(), domains, "{domain:?}");
        assert_eq!(config.auth0.verifier.audiences, audiences, "{audience:?}");
        assert_eq!(loaded.notes, Vec::<String>::new());
    }
}

#[test]
fn a_wrong_variable_is_named_and_not_the_key() {
    let environment = environment(|name| {
        let value = match name {
            "AUTH0_DOMAIN" => "http://your-tenant.us.auth0.com",
            "AUTH0_AUDIENCE" => "  ",
            "AUTHGATE_LISTEN" => "everywhere",
            "AUTHGATE_WORKERS" => "-1",
            "AUTHGATE_LOG_FORMAT" => "xml",
            _ => return None,
        };
        Some(value.to_owned())
    });
    let overrides = Overrides {
        upstream: Some("agent".to_owned()),
        ..Overrides::default()
    };
    let loaded = config::load(None, &overrides, &environment);
    let mut paths: Vec<String> = errors(loaded).into_iter().map(|one| one.path).collect();
    paths.sort();
    assert_eq!(
        paths,
        [
            "--upstream",
            "AUTH0_DOMAIN",
            "AUTHGATE_LISTEN",
            "AUTHGATE_LOG_FORMAT",
            "AUTHGATE_WORKERS",
            "auth0.audience",
        ]
    );
}

#[test]
fn a_list_that_is_no_json_is_no_list_of_audiences() {
    for audience in [
        "['https://a', 'https://b']",
        "[\"https://a\", 1]",
        "[\"https://a\"",
    ] {
        let environment = environment(|name| match name {
            "AUTH0_DOMAIN" => Some(DOMAIN.to_owned()),
            "AUTH0_AUDIENCE" => Some(audience.to_owned()),
            _ => None,
        });
        let found = errors(config::load(None, &Overrides::default(), &environment));
        assert_eq!(found.len(), 1, "{audience}: {}", joined(&found));
        assert_eq!(found[0].path, "AUTH0_AUDIENCE");
        assert!(found[0].message.contains("leave brackets and quotes out"));
    }
}

#[test]
fn an_address_is_shown_as_it_stands_in_a_url() {
    for (text, expected) in [
        ("http://[::1]:4111", "http://[::1]:4111"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]:443"),
        ("http://127.0.0.1:4111/", "http://127.0.0.1:4111"),
        ("http://agent", "http://agent:80"),
    ] {
        let config = must_load(text, load(&complete(&format!("upstream = \"{text}\""))));
        assert_eq!(config.upstream.to_string(), expected);
    }
}

/// One source after the other falls silent, and the next one is heard.
#[test]
fn flags_win_over_variables_over_the_file_over_the_defaults() {
    let flags = Overrides {
        listen: Some("127.0.0.1:1".to_owned()),
        upstream: Some("http://127.0.0.2:1".to_owned()),
        admin: Some("127.0.0.3:1".to_owned()),
        workers: Some("11".to_owned()),
        log: Some("error".to_owned()),
        log_format: Some("json".to_owned()),
    };
    let variables = environment(|name| {
        let value = match name {
            "AUTHGATE_LISTEN" => "127.0.0.1:2",
            "AUTHGATE_UPSTREAM" => "http://127.0.0.2:2",
            "AUTHGATE_ADMIN" => "127.0.0.3:2",
            "AUTHGATE_WORKERS" => "12",
            "AUTHGATE_LOG" => "warn",
            "AUTHGATE_LOG_FORMAT" => "text",
            "AUTH0_DOMAIN" => "two.auth0.com",
            "AUTH0_AUDIENCE" => "https://two",
            _ => return None,
        };
        Some(value.to_owned())
    });
    let file = r#"
        listen = "127.0.0.1:3"
        upstream = "http://127.0.0.2:3"
        admin = "off"
        workers = 13
        log = "debug"
        log_format = "auto"
        [auth0]
        domain = "three.auth0.com"
        audience = ["https://three", "https://four"]
        "#;
    let shown = |loaded: Loaded| {
        let config = loaded.config.expect("a configuration");
        let settings = format!(
            "{} {} {:?} {} {} {:?} {} {}",
            config.listen,
            config.upstream,
            config.admin,
            config.workers,
            config.logging.filter,
            config.logging.format,
            config.auth0.tenants[0].issuer,
            config.auth0.verifier.audiences.join(" "),
        );
        (settings, loaded.notes)
    };

    let (settings, notes) = shown(load_with(file, &flags, &variables));
    assert_eq!(
        settings,
        "127.0.0.1:1 http://127.0.0.2:1 Some(127.0.0.3:1) 11 error Json https://two.auth0.com/ https://two"
    );
    assert_eq!(
        notes,
        [
            "listen: \"127.0.0.1:1\" from --listen wins over \"127.0.0.1:2\" from AUTHGATE_LISTEN and \"127.0.0.1:3\" from listen",
            "admin: \"127.0.0.3:1\" from --admin wins over \"127.0.0.3:2\" from AUTHGATE_ADMIN and \"off\" from admin",
            "upstream: \"http://127.0.0.2:1\" from --upstream wins over \"http://127.0.0.2:2\" from AUTHGATE_UPSTREAM and \"http://127.0.0.2:3\" from upstream",
            "workers: \"11\" from --workers wins over \"12\" from AUTHGATE_WORKERS and \"13\" from workers",
            "log: \"error\" from --log wins over \"warn\" from AUTHGATE_LOG and \"debug\" from log",
            "log_format: \"json\" from --log-format wins over \"text\" from AUTHGATE_LOG_FORMAT and \"auto\" from log_format",
            "auth0.domain: \"two.auth0.com\" from AUTH0_DOMAIN wins over \"three.auth0.com\" from auth0.domain",
            "auth0.audience: \"https://two\" from AUTH0_AUDIENCE wins over \"https://three, https://four\" from auth0.audience",
        ]
    );

    let (settings, notes) = shown(load_with(file, &Overrides::default(), &variables));
    assert_eq!(
        settings,
        "127.0.0.1:2 http://127.0.0.2:2 Some(127.0.0.3:2) 12 warn Text https://two.auth0.com/ https://two"
    );
    assert_eq!(notes.len(), 8, "{notes:?}");

    let (settings, notes) = shown(load(file));
    assert_eq!(
        settings,
        "127.0.0.1:3 http://127.0.0.2:3 None 13 debug Auto https://three.auth0.com/ https://three https://four"
    );
    assert_eq!(notes, Vec::<String>::new());

    let (settings, notes) = shown(load(&complete("workers = 1")));
    assert_eq!(
        settings,
        "0.0.0.0:8080 http://127.0.0.1:4111 Some(0.0.0.0:9090) 1 info Auto https://your-tenant.us.auth0.com/ https://your-api.com"
    );
    assert_eq!(notes, Vec::<String>::new());
}

/// Sources that agree are no news, however they are spelled.
#[test]
fn agreement_is_not_noted() {
    let environment = environment(|name| {
        let value = match name {
            "AUTH0_AUDIENCE" => "https://a,https://b",
            "AUTHGATE_LISTEN" => " 127.0.0.1:1 ",
            // Empty is not set.
            "AUTHGATE_ADMIN" | "AUTH0_DOMAIN" => "",
            _ => return None,
        };
        Some(value.to_owned())
    });
    let flags = Overrides {
        listen: Some("127.0.0.1:1".to_owned()),
        admin: Some(" ".to_owned()),
        ..Overrides::default()
    };
    let file = "admin = \"off\"\nauth0.domain = \"a.auth0.com\"\nauth0.audience = [\"https://a\", \"https://b\"]";
    let loaded = load_with(file, &flags, &environment);
    assert_eq!(loaded.notes, Vec::<String>::new());
    let config = must_load("the file", loaded);
    assert_eq!(config.admin, None);
    assert_eq!(config.auth0.tenants[0].issuer, "https://a.auth0.com/");
}

#[test]
fn the_file_is_named_by_the_flag_or_the_variable() {
    let source = |flag: Option<&str>, variable: Option<&str>| {
        let variables = variable.map(|value| ("AUTHGATE_CONFIG".into(), value.into()));
        Source::new(flag.map(PathBuf::from), Overrides::default(), variables)
    };
    let flag = Some("/flag.toml");
    for (flag, variable, expected) in [
        (None, None, None),
        (None, Some("/variable.toml"), Some("/variable.toml")),
        (None, Some(" /variable.toml\n"), Some("/variable.toml")),
        (flag, None, Some("/flag.toml")),
        (flag, Some("/variable.toml"), Some("/flag.toml")),
        (flag, Some(""), Some("/flag.toml")),
        (flag, Some(" "), Some("/flag.toml")),
    ] {
        let source = source(flag, variable).expect("a source");
        assert_eq!(
            source.file(),
            expected.map(Path::new),
            "{flag:?} {variable:?}"
        );
        let notes = source.load().notes;
        let is_noted = flag.is_some() && variable == Some("/variable.toml");
        assert_eq!(notes.len(), usize::from(is_noted), "{notes:?}");
    }
    for blank in ["", " ", "\t\r\n", "\u{2003}"] {
        let problems = source(None, Some(blank)).expect_err("no file is named");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].path, "AUTHGATE_CONFIG");
        assert!(problems[0].message.contains("unset"), "{problems:?}");
    }
}

/// What the variable holds is told to nobody.
#[test]
fn keys_of_sessions_are_taken_and_never_shown() {
    let load = |keys: &'static str, fragment: &str| {
        let environment =
            environment(|name| (name == "AUTHGATE_MCP_SESSION_KEY").then(|| keys.to_owned()));
        load_with(&complete(fragment), &Overrides::default(), &environment)
    };
    let long = "0123456789abcdef0123456789abcdef,fedcba9876543210fedcba9876543210";
    let loaded = load(long, "mcp.session_key_file = \"/run/key\"");
    assert_eq!(
        loaded.notes,
        ["mcp.session_key_file: AUTHGATE_MCP_SESSION_KEY wins over the file /run/key"]
    );
    let shown = format!("{loaded:?}");
    assert!(shown.contains("SessionKeys(2)"), "{shown}");
    assert!(!shown.contains("0123456789abcdef"), "{shown}");
    for (keys, words) in [
        ("short", "holds a key of less than 32 characters"),
        (",", "holds no key"),
    ] {
        let found = errors(load(keys, ""));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].path, "AUTHGATE_MCP_SESSION_KEY");
        assert!(found[0].message.contains(words), "{found:?}");
        assert!(!found[0].message.contains("short"), "{found:?}");
    }
    let loaded = load(" ", "");
    assert!(format!("{loaded:?}").contains("sessions: None"));
}
