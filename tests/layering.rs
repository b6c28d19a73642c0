//! The floor plan of `lib.rs`, enforced: which module may import which, and which crates.
//!
//! A source file that no row covers fails the test, so the plan cannot grow holes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A module, the modules it may import, and the outside crates it may import.
const PLAN: &[(&str, &[&str], &[&str])] = &[
    // The pure core: no tokio, no hyper, no rustls, no tracing anywhere.
    ("clock", &[], &[]),
    ("random", &[], &[]),
    ("secret", &[], &[]),
    ("claims", &[], &["serde_json"]),
    (
        "jose",
        &["secret"],
        &["base64", "jose_jwk", "ring", "serde", "serde_json"],
    ),
    ("rotation", &["clock"], &[]),
    ("budget", &[], &["bytes"]),
    (
        "token",
        &["claims", "clock", "jose", "secret"],
        &["http", "serde_json"],
    ),
    ("identity", &["claims", "token"], &["http", "serde_json"]),
    (
        "mcp",
        &["headers", "jose", "secret"],
        &[
            "base64",
            "http",
            "ring",
            "serde_json",
            "unicode_normalization",
        ],
    ),
    ("headers", &["identity"], &["http"]),
    ("canonical", &["headers"], &["http"]),
    (
        "policy",
        &["canonical", "claims", "identity", "mcp", "token"],
        &["serde_json"],
    ),
    (
        "authorized",
        &["canonical", "headers", "mcp", "policy", "token"],
        &["http"],
    ),
    ("cors", &[], &["http"]),
    (
        "resource",
        &["canonical", "headers", "policy"],
        &["bytes", "http", "serde_json"],
    ),
    // Configuration produces the core's types and does no I/O but to read its file, and the one with the keys
    // of sessions when it is asked for them.
    (
        "config",
        &[
            "certificate",
            "claims",
            "cors",
            "headers",
            "identity",
            "jose",
            "mcp",
            "policy",
            "resource",
            "token",
        ],
        &["http", "ipnet", "serde_json", "toml", "tracing_subscriber"],
    ),
    // I/O.
    ("certificate", &[], &["rustls"]),
    ("writing", &[], &["socket2", "tracing"]),
    ("container", &["budget"], &["rustix"]),
    ("resolve", &[], &["tokio"]),
    ("dial", &["resolve"], &["tokio"]),
    ("listening", &[], &[]),
    ("nonce_key", &["config", "token"], &["ring"]),
    ("secret_files", &["config", "nonce_key"], &["rustix"]),
    (
        "metrics",
        &["budget", "clock"],
        &["http", "prometheus_client"],
    ),
    (
        "tls",
        &[],
        &["rustls", "rustls_native_certs", "webpki_roots"],
    ),
    (
        "keys",
        &[
            "clock", "config", "dial", "jose", "metrics", "random", "rotation", "token",
        ],
        &[
            "bytes",
            "http",
            "http_body_util",
            "hyper",
            "hyper_util",
            "ipnet",
            "rustls",
            "tokio",
            "tokio_rustls",
            "tower_service",
            "tracing",
        ],
    ),
    (
        "upstream",
        &[
            "authorized",
            "budget",
            "clock",
            "config",
            "dial",
            "tls",
            "writing",
        ],
        &[
            "bytes",
            "http",
            "http_body",
            "hyper",
            "hyper_util",
            "rustls",
            "socket2",
            "tokio",
            "tokio_rustls",
            "tracing",
        ],
    ),
    (
        "listener",
        &["budget", "clock", "writing"],
        &[
            "bytes",
            "http",
            "http_body",
            "hyper",
            "hyper_util",
            "ipnet",
            "proxy_header",
            "rustls",
            "socket2",
            "tokio",
            "tokio_rustls",
            "tracing",
        ],
    ),
    (
        "proxy",
        &[
            "authorized",
            "budget",
            "canonical",
            "clock",
            "config",
            "cors",
            "headers",
            "identity",
            "keys",
            "listener",
            "mcp",
            "metrics",
            "policy",
            "random",
            "resource",
            "token",
            "upstream",
        ],
        &[
            "bytes",
            "http",
            "http_body",
            "hyper",
            "hyper_util",
            "serde_json",
            "tokio",
            "tracing",
        ],
    ),
    (
        "admin",
        &[
            "budget", "headers", "listener", "logging", "metrics", "proxy",
        ],
        &[
            "bytes",
            "http",
            "http_body_util",
            "hyper",
            "hyper_util",
            "serde_json",
            "tokio",
            "tracing",
        ],
    ),
    // Composition.
    (
        "check",
        &[
            "authorized",
            "canonical",
            "config",
            "cors",
            "headers",
            "jose",
            "keys",
            "listening",
            "nonce_key",
            "policy",
            "tls",
            "token",
            "upstream",
        ],
        &["http", "http_body_util", "serde_json", "tokio"],
    ),
    (
        "operate",
        &["config"],
        &[
            "bytes",
            "http",
            "http_body_util",
            "hyper",
            "hyper_util",
            "serde_json",
            "tokio",
        ],
    ),
    ("manual", &[], &[]),
    (
        "explain",
        &[
            "authorized",
            "canonical",
            "claims",
            "clock",
            "config",
            "cors",
            "headers",
            "identity",
            "jose",
            "listener",
            "mcp",
            "policy",
            "proxy",
            "secret",
            "token",
        ],
        &["base64", "http", "serde_json"],
    ),
    (
        "reload",
        &[
            "certificate",
            "config",
            "keys",
            "listener",
            "logging",
            "metrics",
            "nonce_key",
            "proxy",
            "rotation",
            "secret_files",
            "tls",
            "upstream",
        ],
        &["tokio", "tracing"],
    ),
    (
        "logging",
        &["clock", "config"],
        &["serde", "serde_json", "tracing", "tracing_subscriber"],
    ),
    (
        "app",
        &[
            "admin",
            "budget",
            "certificate",
            "config",
            "container",
            "listener",
            "logging",
            "metrics",
            "nonce_key",
            "proxy",
            "reload",
            "secret_files",
            "tls",
            "upstream",
        ],
        &["socket2", "tokio", "tracing"],
    ),
    (
        "cli",
        &[
            "app",
            "check",
            "clock",
            "config",
            "explain",
            "logging",
            "manual",
            "operate",
            "reload",
            "secret_files",
            "token",
        ],
        &["clap", "clap_complete", "tokio", "tracing"],
    ),
];

/// Files that may name a status code: the exits for answers, and what reads the upstream's.
const STATUS_CODES: [&str; 9] = [
    "admin/mod.rs",
    "keys/fetch.rs",
    "listener/activity.rs",
    "operate.rs",
    "proxy/access_log.rs",
    "proxy/mod.rs",
    "proxy/respond.rs",
    "proxy/tunnel.rs",
    "upstream/mod.rs",
];

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path
                    .strip_prefix(&root)
                    .expect("below src")
                    .display()
                    .to_string();
                found.push((name, std::fs::read_to_string(&path).expect("text")));
            }
        }
    }
    found.sort();
    assert!(found.len() >= 50, "only {} files found", found.len());
    found
}

/// The code without its test module, comments and strings' contents that could look like imports.
fn code(text: &str) -> String {
    let production = text
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default();
    production
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The identifiers that follow `prefix` in the code, braces of a `use` included.
fn after<'c>(code: &'c str, prefix: &str) -> Vec<&'c str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (place, _) in code.match_indices(prefix) {
        let rest = &code[place + prefix.len()..];
        match rest.strip_prefix('{') {
            None => found.push(rest.split(|c| !is_word(c)).next().unwrap_or_default()),
            Some(list) => {
                let mut depth = 0_i32;
                let mut start = true;
                for (place, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && is_word(c) => {
                            found.push(
                                list[place..]
                                    .split(|c| !is_word(c))
                                    .next()
                                    .unwrap_or_default(),
                            );
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

#[test]
fn every_import_is_in_the_plan() {
    let crates: BTreeSet<&str> = PLAN
        .iter()
        .flat_map(|(_, _, crates)| crates.iter().copied())
        .collect();
    let mut edges = 0;
    for (name, text) in sources() {
        if matches!(name.as_str(), "lib.rs" | "main.rs") {
            continue;
        }
        let module = name.split(['/', '.']).next().unwrap_or_default();
        let (_, modules, outside) = PLAN
            .iter()
            .find(|(planned, ..)| *planned == module)
            .unwrap_or_else(|| panic!("src/{name} is in no row of the plan"));
        let code = code(&text);
        for import in after(&code, "crate::") {
            edges += 1;
            assert!(
                import == module || modules.contains(&import),
                "src/{name} imports crate::{import}"
            );
        }
        for used in &crates {
            let uses = code.contains(&format!("use {used}::"))
                || code.contains(&format!("use {used};"))
                || code
                    .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
                    .any(|word| word.starts_with(&format!("{used}::")));
            let shadowed = modules.contains(used) || module == *used;
            assert!(
                !uses || shadowed || outside.contains(used),
                "src/{name} imports {used}"
            );
        }
    }
    assert!(edges >= 60, "only {edges} imports found");
}

#[test]
fn the_core_has_no_io_no_clock_and_no_log() {
    // `explain` stands above the proxy, and is as pure as what it tells of.
    const CORE: [&str; 16] = [
        "authorized",
        "budget",
        "canonical",
        "claims",
        "cors",
        "explain",
        "headers",
        "identity",
        "jose",
        "mcp",
        "policy",
        "random",
        "resource",
        "rotation",
        "secret",
        "token",
    ];
    let mut seen = BTreeSet::new();
    for (name, text) in sources() {
        let module = name.split(['/', '.']).next().unwrap_or_default().to_owned();
        if !CORE.contains(&module.as_str()) {
            continue;
        }
        for forbidden in [
            "tokio",
            "hyper",
            "tracing",
            "rustls",
            "std::fs",
            "std::net::Tcp",
            "std::env",
            "std::io",
            "Instant::now",
            "SystemTime",
            "println!",
            "UnixTime::now",
        ] {
            assert!(
                !code(&text).contains(forbidden),
                "src/{name} holds {forbidden}"
            );
        }
        seen.insert(module);
    }
    assert_eq!(seen.len(), CORE.len());
}

#[test]
fn status_codes_are_chosen_at_the_exits() {
    let files: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| code(text).contains("StatusCode"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(files, STATUS_CODES);
}

#[test]
fn only_the_named_modules_make_the_proofs() {
    for (proof, home) in [
        ("VerifiedToken {", "token/verifier.rs"),
        ("Permit {", "policy/decision.rs"),
        ("Identity { token", "identity.rs"),
        ("BoundIdentity {", "identity.rs"),
        ("Ok(Proof {", "token/dpop/mod.rs"),
        ("FreshProof(", "token/dpop/replay.rs"),
    ] {
        let makers: Vec<String> = sources()
            .into_iter()
            .filter(|(_, text)| {
                code(text).lines().any(|line| {
                    let line = line.trim_start();
                    line.contains(proof)
                        && !line.starts_with("impl")
                        && !line.contains("struct ")
                        && !line.contains("-> ")
                })
            })
            .map(|(name, _)| name)
            .collect();
        assert_eq!(makers, [home], "{proof}");
    }
}

/// The refusal codes in the code are the ones in `docs/responses.md`: each with what to do about it.
#[test]
fn every_code_is_documented() {
    const CODES: [&str; 8] = [
        "listener/connection.rs",
        "mcp/error.rs",
        "policy/decision.rs",
        "proxy/access_log.rs",
        "proxy/refusal.rs",
        "token/dpop/error.rs",
        "token/rejection.rs",
        "upstream/failure.rs",
    ];
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/responses.md");
    let page = std::fs::read_to_string(page).expect("docs/responses.md");
    let is_code = |text: &str| {
        text.contains('_')
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let mut codes = BTreeSet::new();
    for (name, text) in sources() {
        if CODES.contains(&name.as_str()) {
            let code = code(&text);
            codes.extend(
                code.split('"')
                    .filter(|text| is_code(text))
                    .map(str::to_owned),
            );
        }
    }
    assert!(codes.len() >= 35, "only {} codes found", codes.len());
    for code in codes {
        assert!(
            page.contains(&format!("`{code}`")),
            "{code} is not in docs/responses.md"
        );
    }
}

/// Each is provoked over real sockets: some test of the program names it.
#[test]
fn every_code_is_provoked_through_the_program() {
    let mut codes = BTreeSet::new();
    for (_, text) in sources() {
        let text = code(&text);
        for function in text.split("fn code(&self)").skip(1) {
            let body = function.split("\n    }").next().unwrap_or_default();
            let texts = body.split('"').skip(1).step_by(2);
            codes.extend(texts.map(str::to_owned));
        }
    }
    assert!(codes.len() >= 60, "only {} codes found", codes.len());
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let tests: String = std::fs::read_dir(tests)
        .expect("tests/it")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .map(|path| std::fs::read_to_string(path).expect("a source file"))
        .collect();
    let mut words = tests.split(|letter: char| !letter.is_ascii_lowercase() && letter != '_');
    let words: BTreeSet<&str> = words.by_ref().collect();
    let missing: Vec<&String> = codes
        .iter()
        .filter(|code| !words.contains(code.as_str()))
        .collect();
    assert!(missing.is_empty(), "no test provokes {missing:?}");
}

/// `docs/headers.md` lists what is managed, as the code has it.
#[test]
fn the_page_on_headers_lists_every_managed_name() {
    use std::fmt::Write as _;
    let mut table =
        "| what | names | from `trusted_proxies` | in `[identity]` |\n|---|---|---|---|\n"
            .to_owned();
    for group in authgate::headers::MANAGED {
        let names: Vec<String> = group.names.iter().map(|name| format!("`{name}`")).collect();
        let word = |passes: bool| if passes { "pass" } else { "removed" };
        let (trusted, identity) = (word(group.from_trusted_proxies), group.may_carry_identity);
        let identity = if identity { "yes" } else { "no" };
        writeln!(
            table,
            "| {} | {} | {trusted} | {identity} |",
            group.what,
            names.join(", ")
        )
        .expect("a string");
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/headers.md");
    let page = std::fs::read_to_string(page).expect("docs/headers.md");
    assert!(
        page.contains(&table),
        "docs/headers.md lacks this table:\n{table}"
    );
}

/// Where the text of tokens, proofs and keys passes.
const SECRET_PATHS: [&str; 16] = [
    "authorized.rs",
    "canonical/",
    "cli.rs",
    "config/dpop.rs",
    "config/environment.rs",
    "config/mcp.rs",
    "config/sources.rs",
    "explain/",
    "identity.rs",
    "jose/",
    "keys/",
    "listener/",
    "mcp/session.rs",
    "proxy/",
    "token/",
    "upstream/",
];

/// Fields of text or bytes that `Debug` shows there, and why none of them can hold such a text. What can is a
/// `Secret`, or its type has no `Debug`.
#[rustfmt::skip]
const SHOWN: [(&str, &str, &[&str], &str); 45] = [
    ("canonical/path.rs", "PathError", &["ForbiddenByte"], "a byte of the path"),
    ("canonical/path.rs", "Readings", &["literal", "others"], "the path, without its query"),
    ("cli.rs", "Settings", &["listen", "upstream", "admin", "workers", "log", "log_format"], "flags, none of which is a secret"),
    ("config/mcp.rs", "SessionKeyError", &["why"], "an error of the file system, or what is wrong with a key"),
    ("config/sources.rs", "Overrides", &["listen", "upstream", "admin", "workers", "log", "log_format"], "flags, as above"),
    ("explain/diagnosis.rs", "Facts", &["audiences"], "for the report"),
    ("explain/mod.rs", "Report", &["method", "path", "upstream", "answer", "diagnosis"], "the report, which `Ink` has written"),
    ("explain/steps.rs", "Step", &["check", "expected", "found"], "a part of the report"),
    ("jose/json.rs", "JsonError", &["0"], "the place of a mistake"),
    ("jose/jwk.rs", "Key", &["kid"], "a name"),
    ("jose/jwk.rs", "KeySetError", &["Malformed"], "the place of a mistake in a public document"),
    ("jose/jwk.rs", "Material", &["Point", "Rsa"], "public keys"),
    ("jose/jwk.rs", "SkippedKey", &["kid", "reason"], "about a public key"),
    ("jose/jws.rs", "Header", &["algorithm", "kid", "typ"], "members of the header that the log shows"),
    ("jose/jws.rs", "JwsError", &["Parts"], "a number"),
    ("keys/fetch.rs", "FetchError", &["Connect", "Proxy"], "errors, which name no credentials"),
    ("keys/fetch.rs", "KeyFileError", &["why"], "what is wrong, and nothing of the file"),
    ("keys/proxies.rs", "Way", &["Through"], "a URL without credentials"),
    ("listener/activity.rs", "Activity", &["interim"], "an answer of the upstream"),
    ("listener/head_follower.rs", "HeadFollower", &["frame_head"], "lengths and types of frames"),
    ("listener/length_follower.rs", "Lines", &["begun"], "at most as long as the name Content-Length"),
    ("listener/mod.rs", "ClientConnection", &["forwarded_for"], "an address"),
    ("listener/mod.rs", "Unreadable", &["Malformed"], "what is wrong, without the text"),
    ("mcp/session.rs", "Principal", &["issuer", "subject", "client"], "names"),
    ("proxy/access_log.rs", "Record", &["request_id", "asked", "detail", "route", "kid"], "what the log shows"),
    ("proxy/body.rs", "Content", &["Own"], "an answer"),
    ("proxy/body.rs", "Upstream", &["Read"], "an answer"),
    ("proxy/challenge.rs", "Realm", &["name", "metadata", "scopes"], "for the challenge"),
    ("proxy/frames.rs", "Place", &["ExtendedLength"], "a length"),
    ("proxy/possession.rs", "Possession", &["renewed"], "a nonce, which any client may ask for"),
    ("proxy/refusal.rs", "Refusal", &["nonce"], "a nonce, as above"),
    ("proxy/schemes.rs", "Offer", &["algorithms"], "for the challenge"),
    ("token/dpop/error.rs", "ProofError", &["Key", "expected", "found"], "members of a proof that the log shows"),
    ("token/dpop/mod.rs", "Binding", &["thumbprint", "token_hash"], "digests"),
    ("token/dpop/mod.rs", "ProofTarget", &["method", "path"], "of the request, without its query"),
    ("token/dpop/target.rs", "PublicOrigin", &["origin", "prefix"], "of the configuration"),
    ("token/keyring.rs", "AmbiguousKid", &["kid", "issuers", "untried"], "names"),
    ("token/keyring.rs", "Candidate", &["issuers"], "names"),
    ("token/keyring.rs", "IssuerKeys", &["issuer"], "a name"),
    ("token/rejection.rs", "Rejection", &["expected", "found", "kid"], "members of a token that the log shows"),
    ("token/sources.rs", "TokenSources", &["query_parameter"], "the name of a parameter"),
    ("token/verifier.rs", "SignedToken", &["issuer", "kid"], "names"),
    ("token/verifier.rs", "VerifiedToken", &["issuer", "kid", "subject"], "names"),
    ("token/verifier.rs", "VerifierSettings", &["audiences"], "of the configuration"),
    ("upstream/body.rs", "Source", &["Read"], "the body of a message, where no token counts"),
];

/// The types that derive `Debug`, each with its lines.
fn shown_types(code: &str) -> Vec<(String, Vec<&str>)> {
    let mut lines = code.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if !(line.starts_with("#[derive(") && line.contains("Debug")) {
            continue;
        }
        let head = lines.find(|line| !line.starts_with("#[")).expect("a type");
        let mut words = head.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        words.find(|word| matches!(*word, "struct" | "enum"));
        let name = words.next().expect("a name").to_owned();
        let body = if head.ends_with(';') {
            vec![head]
        } else {
            lines
                .by_ref()
                .take_while(|line| *line != "}" && *line != ");")
                .collect()
        };
        found.push((name, body));
    }
    found
}

/// The name in `pub(super) name: Type` and `Name(Type)`.
fn field_name(line: &str) -> &str {
    let line = line.trim_start();
    let line = ["pub(super) ", "pub(crate) ", "pub "]
        .iter()
        .find_map(|visibility| line.strip_prefix(visibility))
        .unwrap_or(line);
    line.split([':', '(', ' ']).next().unwrap_or_default()
}

/// Whether a line declares a field that could hold the text of a token.
fn holds_text(line: &str) -> bool {
    const TEXTS: [&str; 12] = [
        "str",
        "String",
        "Bytes",
        "BytesMut",
        "u8",
        "OsString",
        "HeaderMap",
        "HeaderValue",
        "Uri",
        "Parts",
        "Request",
        "Cow",
    ];
    let line = line.replace("&'static str", "");
    let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    !line.contains("Secret<") && words.any(|word| TEXTS.contains(&word))
}

/// A type that derives `Debug` and gets a field of text must say why that may be shown.
#[test]
fn debug_shows_no_secret() {
    let mut found = BTreeSet::new();
    for (file, text) in sources() {
        if !SECRET_PATHS.iter().any(|path| file.starts_with(path)) {
            continue;
        }
        let code = code(&text);
        for (name, lines) in shown_types(&code) {
            for line in lines.into_iter().filter(|line| holds_text(line)) {
                let field = match line.contains("struct ") {
                    true => "0",
                    false => field_name(line),
                };
                found.insert((file.clone(), name.clone(), field.to_owned()));
            }
        }
    }
    let allowed: BTreeSet<(String, String, String)> = SHOWN
        .into_iter()
        .flat_map(|(file, name, fields, _)| {
            let row = |field: &&str| (file.to_owned(), name.to_owned(), (*field).to_owned());
            fields.iter().map(row).collect::<Vec<_>>()
        })
        .collect();
    let new: Vec<_> = found.difference(&allowed).collect();
    assert!(
        new.is_empty(),
        "{new:?}: keep it as a Secret, or say here why it may be shown"
    );
    let gone: Vec<_> = allowed.difference(&found).collect();
    assert!(gone.is_empty(), "{gone:?}: no such fields any more");
}

#[test]
fn fields_of_text_are_found() {
    let code = "\
#[derive(Debug, Clone)]
pub struct Plain<'t> {
    pub text: &'t str,
    hidden: Secret<&'t str>,
    name: &'static str,
    number: u64,
}
#[derive(Clone)]
struct NoDebug {
    text: String,
}
#[derive(Debug)]
#[must_use]
pub(crate) struct Tuple(Vec<u8>);
#[derive(Debug)]
enum Several {
    One(String),
    Other {
        found: Option<String>,
    },
}
";
    let found: Vec<(String, Vec<&str>)> = shown_types(code)
        .into_iter()
        .map(|(name, lines)| {
            (
                name,
                lines
                    .into_iter()
                    .filter(|line| holds_text(line))
                    .map(str::trim)
                    .collect(),
            )
        })
        .collect();
    let expected = [
        ("Plain", &["pub text: &'t str,"][..]),
        ("Tuple", &["pub(crate) struct Tuple(Vec<u8>);"]),
        ("Several", &["One(String),", "found: Option<String>,"]),
    ];
    let expected = expected.map(|(name, lines)| (name.to_owned(), lines.to_vec()));
    assert_eq!(found, expected);
}
