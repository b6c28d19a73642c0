//! The command line and the configuration file, as their user meets them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::issuer::Issuer;
use crate::issuer::port::Port;
use crate::issuer::tokens::AUDIENCE;
use crate::support::proxy::{program, run_to_end};
use crate::support::{Findings, Request, Setup, Upstream};

/// Both streams together.
fn printed(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr];
    streams
        .map(|stream| String::from_utf8_lossy(stream).into_owned())
        .concat()
}

async fn call(arguments: &[&str]) -> Output {
    let mut command = program();
    command.args(arguments);
    run_to_end(command, "").await
}

/// `authgate check` of a file with this text.
async fn check(text: &str) -> Output {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("authgate.toml");
    std::fs::write(&file, text).expect("the configuration");
    call(&["check", "--config", &file.display().to_string()]).await
}

const VALID: &str =
    "[auth0]\ndomain = \"your-tenant.us.auth0.com\"\naudience = \"https://your-api.com\"\n";

#[tokio::test]
async fn help_and_version_are_no_errors() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["check", "--help"],
        &["help"],
    ] {
        let output = call(arguments).await;
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}",
            printed(&output)
        );
        assert!(printed(&output).contains("authgate"), "{arguments:?}");
    }
}

/// The long help is the manual where there is no other.
#[tokio::test]
async fn the_long_help_names_every_variable_and_every_exit_code() {
    let output = call(&["--help"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let others = ["SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "NO_PROXY"];
    let signals = ["SIGTERM", "SIGINT"];
    for name in authgate::config::VARIABLES
        .into_iter()
        .chain(others)
        .chain(signals)
    {
        assert!(text.contains(name), "no {name} in:\n{text}");
    }
    let (_, codes) = text.split_once("Exit codes:\n").expect("exit codes");
    let codes: Vec<&str> = codes
        .lines()
        .map_while(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(codes, ["0", "1", "64", "69", "70", "78"]);
    let short = call(&["-h"]).await;
    assert!(short.stdout.len() < output.stdout.len() / 2);
}

#[tokio::test]
async fn the_schema_is_printed_as_it_is() {
    let output = call(&["schema"]).await;
    assert_eq!(output.status.code(), Some(0));
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(printed, authgate::config::schema());
}

#[tokio::test]
async fn every_shell_is_given_every_command() {
    for (shell, sign) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef authgate"),
        ("fish", "complete -c authgate"),
        ("elvish", "edit:completion:arg-completer[authgate]"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let output = call(&["completions", shell]).await;
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = String::from_utf8_lossy(&output.stdout).into_owned();
        for part in [
            sign,
            "run",
            "check",
            "online",
            "healthcheck",
            "drain",
            "wait",
            "schema",
            "completions",
            "config",
            "log-format",
        ] {
            assert!(script.contains(part), "no {part} for {shell}");
        }
    }
}

#[tokio::test]
async fn a_wrong_call_is_64() {
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["completions", "no-such-shell"],
        &["completions"],
        &["healthcheck", "--wait"],
        &["drain", "now"],
        &["check", "--config"],
        &["explain", "eyJhbGciOiJub25lIn0.e30."],
    ] {
        let output = call(arguments).await;
        assert_eq!(
            output.status.code(),
            Some(64),
            "{arguments:?}: {}",
            printed(&output)
        );
        assert!(
            output.stdout.is_empty(),
            "{arguments:?} complains on stdout"
        );
    }
}

#[tokio::test]
async fn nothing_configured_is_one_message_with_every_way_out() {
    for arguments in [&[][..], &["run"], &["check"]] {
        let output = call(arguments).await;
        assert_eq!(
            output.status.code(),
            Some(78),
            "{arguments:?}: {}",
            printed(&output)
        );
        let text = printed(&output);
        for name in [
            "AUTH0_DOMAIN",
            "AUTH0_AUDIENCE",
            "domain and audience",
            "[auth0]",
        ] {
            assert!(text.contains(name), "{arguments:?}: no {name} in {text}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_is_78() {
    let output = call(&["check", "--config", "/no/such/authgate.toml"]).await;
    assert_eq!(output.status.code(), Some(78));
    assert!(printed(&output).contains("/no/such/authgate.toml"));
}

#[tokio::test]
async fn every_problem_is_told_at_once() {
    let output = check(
        r#"
        listen = "nowhere"
        upstream = "ftp://127.0.0.1"
        workers = 0
        colour = "blue"
        [auth0]
        domain = "http://your-tenant.us.auth0.com"
        algorithms = ["HS256"]
        clock_tolerance = "2m"
        [auth0.keys]
        url = "http://example.com/jwks.json"
        [[route]]
        path = "api"
        [[route]]
        path = "/x"
        access = "maybe"
        require = { any_role = [] }
        [limits]
        header_bytes = "lots"
        "#,
    )
    .await;
    assert_eq!(output.status.code(), Some(78));
    let text = printed(&output);
    for path in [
        "listen",
        "upstream",
        "workers",
        "colour",
        "auth0.domain",
        "auth0.audience",
        "auth0.algorithms",
        "auth0.clock_tolerance",
        "auth0.keys.url",
        "route[0].path",
        "route[1].access",
        "route[1].require.any_role",
        "limits.header_bytes",
    ] {
        assert!(text.contains(path), "nothing about {path} in:\n{text}");
    }
}

#[tokio::test]
#[rustfmt::skip]
async fn each_mistake_is_an_error() {
    let with = |text: &str| format!("{VALID}{text}");
    let domain = |domain: &str| {
        format!("[auth0]\ndomain = \"{domain}\"\naudience = \"https://your-api.com\"\n")
    };
    let mut findings = Findings::default();
    for (text, mention) in [
        ("not toml".to_owned(), "line 1"),
        (with("[auth0]\nname = \"twice\""), "auth0"),
        (with("name = 7"), "auth0.name"),
        (with("nmae = \"x\""), "auth0.nmae"),
        (with("[identiti]"), "identiti"),
        (with("[identity]\nsubject_header = \"not a name\""), "identity.subject_header"),
        (with("[identity]\nsubject_header = \"host\""), "identity.subject_header"),
        (with("[identity.headers]\n\"x-forwarded-user\" = \"org_id\""), "x-forwarded-user"),
        (with("[require]\nany_role = [\"admin\"]"), "roles_claim"),
        (with("[require]\nroles = [\"admin\"]"), "roles_claim"),
        (with("[require]\nscopes = []"), "require.scopes"),
        (with("[require]\nclaims = [{ claim = \"x\" }]"), "require.claims"),
        (with("[require]\nclaims = [{ claim = \"x\", equals = 1, gt = 2 }]"), "require.claims"),
        (with("[require]\nclaims = [{ claim = \"x\", is = 1 }]"), "require.claims"),
        (with("[require]\nsubject_kind = \"robot\""), "require.subject_kind"),
        (with("[[route]]\naccess = \"public\""), "route[0].path"),
        (with("[[route]]\npath = \"/a/**/b\""), "route[0].path"),
        (with("[[route]]\npath = \"/a\"\nmethods = []"), "route[0].methods"),
        (with("[[route]]\npath = \"/a\"\naccess = \"public\"\nrequire = { scopes = [\"x\"] }"), "route[0]"),
        (with("[[route]]\npath = \"/a\"\n[[route]]\npath = \"/a\""), "route[1]"),
        (with("[streams]\nexpiry_grace = \"soon\""), "streams.expiry_grace"),
        (with("[timeouts]\ndrain = -1"), "timeouts.drain"),
        (with("[tls]\ncert_file = \"/x.pem\""), "tls"),
        (with("[cors]\norigins = [\"app.example.com\"]"), "cors.origins"),
        (with("[[resource]]\nurl = \"http://api.example.com/mcp\""), "resource"),
        (format!("upstream = \"http://127.0.0.1:4111/api\"\n{VALID}"), "upstream"),
        (format!("upstream = \"http://127.0.0.1:4111?x\"\n{VALID}"), "upstream"),
        (format!("listen = \"127.0.0.1:4111\"\nupstream = \"http://127.0.0.1:4111\"\n{VALID}"), "upstream"),
        (format!("unmatched = \"public\"\n{VALID}"), "unmatched"),
        (format!("trusted_proxies = [\"10.0.0.0/40\"]\n{VALID}"), "trusted_proxies"),
        (domain("http://your-tenant.us.auth0.com"), "auth0.domain"),
        (domain("your-tenant.us.auth0.com/path"), "auth0.domain"),
        (domain("your-tenant.us.auth0.com?x"), "auth0.domain"),
        (domain("user@your-tenant.us.auth0.com"), "auth0.domain"),
        (domain("your tenant"), "auth0.domain"),
    ] {
        let output = check(&text).await;
        let told = printed(&output);
        findings.check(&text, output.status.code() == Some(78), || {
            format!("{:?}: {told}", output.status.code())
        });
        findings.check(&text, told.contains(mention), || {
            format!("nothing about {mention}: {told}")
        });
    }
    findings.assert_none();
}

#[tokio::test]
#[rustfmt::skip]
async fn what_is_only_doubtful_is_a_warning() {
    let auth0 = |domain: &str, audience: &str, more: &str| {
        format!("[auth0]\ndomain = \"{domain}\"\naudience = \"{audience}\"\n{more}")
    };
    let (host, api) = ("your-tenant.us.auth0.com", "https://your-api.com");
    let mut findings = Findings::default();
    for (text, mention) in [
        (auth0(&format!("https://{host}"), api, ""), "auth0.domain"),
        (auth0(&format!("{host}/"), api, ""), "auth0.domain"),
        (auth0("Your-Tenant.us.auth0.com", api, ""), "auth0.domain"),
        (auth0("your-tenant", api, ""), "auth0.domain"),
        (auth0(host, "XyZ0aBcD1eFgH2iJkL3mNoP4qRsT5uVw", ""), "auth0.audience"),
        (auth0(host, api, "roles_claim = \"roles\""), "auth0.roles_claim"),
        (auth0(host, api, "[require]\nclaims = [{ claim = \"groups\", contains = \"x\" }]"), "groups"),
        (auth0(host, api, "[require]\norganizations = [\"acme\"]"), "require.organizations"),
        (auth0(host, api, "[cors]\norigins = [\"https://app.example.com/\"]"), "cors.origins"),
    ] {
        let output = check(&text).await;
        let told = printed(&output);
        findings.check(&text, output.status.code() == Some(0), || {
            format!("{:?}: {told}", output.status.code())
        });
        let warned = told.to_lowercase().contains("warning") && told.contains(mention);
        findings.check(&text, warned, || format!("no warning of {mention}: {told}"));
    }
    let output = check(VALID).await;
    findings.check(
        VALID,
        !printed(&output).to_lowercase().contains("warning"),
        || printed(&output),
    );
    findings.assert_none();
}

#[tokio::test]
async fn check_shows_the_settings_and_the_routes() {
    let output = check(&format!(
        "{VALID}[[route]]\npath = \"/api/agents/**\"\nmethods = [\"GET\", \"POST\"]\n\
         [[route]]\npath = \"/health\"\naccess = \"public\"\n"
    ))
    .await;
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in [
        "https://your-tenant.us.auth0.com/",
        "https://your-api.com",
        "http://127.0.0.1:4111",
        "0.0.0.0:8080",
        "/api/agents/**",
        "/health",
        "public",
        // The first route leaves methods uncovered.
        "405",
    ] {
        assert!(text.contains(part), "no {part} in:\n{text}");
    }
}

#[tokio::test]
async fn check_shows_the_resources_and_where_their_metadata_is() {
    let output = check(&format!(
        "{VALID}[[resource]]\nurl = \"https://api.example.com/mcp\"\naudience = [\"https://api.example.com/mcp\", \"urn:mcp\"]\n\
         [[route]]\npath = \"/mcp/**\"\nrequire = {{ scopes = [\"use:tools\"] }}\n"
    ))
    .await;
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for (name, value) in [
        ("auth0.audience", "https://your-api.com"),
        ("resource", "https://api.example.com/mcp"),
        (
            "resource metadata",
            "https://api.example.com/.well-known/oauth-protected-resource/mcp",
        ),
        ("resource audience", "https://api.example.com/mcp, urn:mcp"),
        ("resource scopes", "use:tools"),
    ] {
        let line = format!("{name:<31} {value}\n");
        assert!(text.contains(&line), "no {line} in:\n{text}");
    }
}

#[tokio::test]
async fn every_shipped_configuration_loads() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let entries = std::fs::read_dir(&directory).expect("the directory config/");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "toml")
    });
    assert!(
        files.len() >= 3,
        "a reference and a few examples, not {files:?}"
    );
    for file in files {
        let output = call(&["check", "--config", &file.display().to_string()]).await;
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}: {}",
            file.display(),
            printed(&output)
        );
    }
}

/// An agent on every interface can be reached around the proxy, whatever name the upstream has here.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn check_warns_of_an_upstream_that_listens_on_every_interface() {
    let open_v4 = std::net::TcpListener::bind("0.0.0.0:0").expect("a listener");
    let open_v6 = std::net::TcpListener::bind("[::]:0").expect("a listener");
    let shut_v4 = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let shut_v6 = std::net::TcpListener::bind("[::1]:0").expect("a listener");
    let nobody = Port::reserve();
    let port = |listener: &std::net::TcpListener| listener.local_addr().expect("its port").port();
    let mut findings = Findings::default();
    for (host, port, warned) in [
        ("http://127.0.0.1", port(&open_v4), true),
        ("http://127.0.0.2", port(&open_v4), true),
        ("https://localhost", port(&open_v4), true),
        ("http://[::1]", port(&open_v6), true),
        ("http://localhost", port(&open_v6), true),
        ("http://127.0.0.1", port(&shut_v4), false),
        ("http://localhost", port(&shut_v4), false),
        ("http://[::1]", port(&shut_v6), false),
        ("http://127.0.0.1", nobody.address().port(), false),
        // Elsewhere, the port says nothing.
        ("http://192.0.2.7", port(&open_v4), false),
        ("https://agent.internal", port(&open_v4), false),
    ] {
        let output = check(&format!("upstream = \"{host}:{port}\"\n{VALID}")).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected =
            format!("warning: upstream: something listens on port {port} of every interface");
        let case = format!("{host}:{port}");
        findings.check(&case, output.status.code() == Some(0), || printed(&output));
        findings.check(&case, told.starts_with(&expected) == warned, || {
            told.clone()
        });
        findings.check(&case, warned || told.is_empty(), || told.clone());
    }
    findings.assert_none();
}

#[tokio::test]
async fn check_reaches_out_when_asked() {
    let issuer = Issuer::start();
    let mut upstream = Upstream::hello();
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("authgate.toml");
    std::fs::write(&file, Setup::new(&issuer, &upstream).text()).expect("the configuration");
    let file = file.display().to_string();
    let url = upstream.url();
    let arguments = ["check", "--online", "--config", &file, "--upstream", &url];
    let output = call(&arguments).await;
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    upstream.go_down().await;
    let output = call(&arguments).await;
    assert_eq!(output.status.code(), Some(69), "{}", printed(&output));
    upstream.come_up();
    issuer.go_down();
    let output = call(&arguments).await;
    assert_eq!(output.status.code(), Some(69), "{}", printed(&output));
}

#[tokio::test]
async fn two_variables_are_enough() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    // The other addresses are variables too, for no test may take a fixed port.
    for (domain, audience) in [
        (issuer.domain(), AUDIENCE.to_owned()),
        (
            format!("  {}\n", issuer.domain()),
            format!("https://another-api.com , {AUDIENCE}"),
        ),
        (format!("\"{}\"", issuer.domain()), format!("'{AUDIENCE}'")),
        (format!("https://{}/", issuer.domain()), AUDIENCE.to_owned()),
    ] {
        let proxy = Setup::bare()
            .environment("AUTH0_DOMAIN", &domain)
            .environment("AUTH0_AUDIENCE", &audience)
            .environment("AUTHGATE_UPSTREAM", &upstream.url())
            .environment("SSL_CERT_FILE", &issuer.ca_file().display().to_string())
            .start()
            .await;
        let token = issuer.user("auth0|alice").mint();
        let answer = proxy.send(&Request::get("/x").bearer(&token)).await;
        assert_eq!(answer.status(), 200, "{domain} {audience}");
    }
}

#[tokio::test]
async fn an_empty_variable_is_not_set() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .environment("AUTH0_DOMAIN", " ")
        .environment("AUTH0_AUDIENCE", "")
        .environment("AUTHGATE_WORKERS", "")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    assert_eq!(
        proxy
            .send(&Request::get("/x").bearer(&token))
            .await
            .status(),
        200
    );
}

/// A start without the rules that were meant: the two variables alone make a complete configuration.
#[tokio::test]
async fn a_configuration_that_cannot_be_found_is_never_done_without() {
    let not_unicode = OsString::from_vec(b"/etc/authgate/\xFF.toml".to_vec());
    let directory = TempDir::new().expect("a directory");
    let files = directory.path().as_os_str();
    for command in ["run", "check", "explain", "healthcheck", "drain"] {
        for (name, value, words) in [
            ("AUTHGATE_CONFIG", OsStr::new(""), "unset"),
            ("AUTHGATE_CONFIG", OsStr::new(" \t\n"), "unset"),
            ("AUTHGATE_CONFIG", &not_unicode, "not Unicode"),
            (
                "AUTHGATE_CONFIG",
                OsStr::new("/no/such/file.toml"),
                "cannot be read",
            ),
            ("AUTHGATE_CONFIG", OsStr::new("\"\""), "cannot be read"),
            ("AUTHGATE_CONFIG", files, "cannot be read"),
            ("AUTHGATE_ADMIN", &not_unicode, "not Unicode"),
            ("AUTHGATE_MCP_SESSION_KEY", &not_unicode, "not Unicode"),
            ("AUTH0_AUDIENCE", &not_unicode, "not Unicode"),
        ] {
            let mut program = two_variables();
            program.args([command, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
            program.env(name, value);
            let output = run_to_end(program, "").await;
            let text = printed(&output);
            assert_eq!(
                output.status.code(),
                Some(78),
                "{command} {name}={value:?}: {text}"
            );
            let (subject, _) = text.split_once(words).unwrap_or_else(|| panic!("{text}"));
            let place = if words == "cannot be read" {
                &value.to_string_lossy()
            } else {
                name
            };
            assert!(
                subject.contains(place),
                "{command} {name}={value:?}: {text}"
            );
        }
    }
}

/// `--config` says which file is meant.
#[tokio::test]
async fn a_flag_makes_up_for_a_blank_variable_and_not_for_an_unreadable_one() {
    let not_unicode = OsString::from_vec(vec![0xFF]);
    for (value, code) in [(OsStr::new(" "), 0), (&not_unicode, 78)] {
        let mut program = program();
        program.args(["check", "--config", "config/minimal.toml"]);
        program.env("AUTHGATE_CONFIG", value);
        let output = run_to_end(program, "").await;
        assert_eq!(
            output.status.code(),
            Some(code),
            "{value:?}: {}",
            printed(&output)
        );
    }
    for (file, code) in [("", 64), (" ", 78)] {
        let mut program = two_variables();
        program.args(["check", "--config", file]);
        let output = run_to_end(program, "").await;
        assert_eq!(
            output.status.code(),
            Some(code),
            "{file:?}: {}",
            printed(&output)
        );
    }
}

#[tokio::test]
async fn what_reads_no_configuration_is_not_kept_from_it() {
    for arguments in [&["schema"][..], &["completions", "bash"]] {
        for value in [OsString::new(), OsString::from_vec(vec![0xFF])] {
            let mut program = program();
            program.args(arguments).env("AUTHGATE_CONFIG", &value);
            let output = run_to_end(program, "").await;
            assert_eq!(output.status.code(), Some(0), "{arguments:?} {value:?}");
        }
    }
}

#[tokio::test]
async fn an_unknown_variable_is_a_warning_with_the_nearest_name() {
    let mut program = two_variables();
    program.arg("check").envs([
        ("AUTHGATE_CONFIG_FILE", "/etc/authgate/authgate.toml"),
        ("AUTHGATE_PORT", "8080"),
        ("AUTHGATE_SERVICE_HOST", "10.0.0.1"),
        ("AUTHGATE_SERVICE_PORT_HTTP", "80"),
        ("AUTHGATE_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("AUTHGATE_ADMIN_PORT", "tcp://10.0.0.1:9090"),
    ]);
    let output = run_to_end(program, "").await;
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let warnings: Vec<&str> = errors
        .lines()
        .filter(|line| line.contains("AUTHGATE_"))
        .collect();
    assert_eq!(warnings.len(), 2, "{errors}");
    for (warning, name, nearest) in [
        (warnings[0], "AUTHGATE_CONFIG_FILE", " AUTHGATE_CONFIG"),
        (warnings[1], "AUTHGATE_PORT", " AUTHGATE_LOG"),
    ] {
        assert!(
            warning.starts_with(&format!("warning: {name}: ")),
            "{warning}"
        );
        assert!(warning.ends_with(nearest), "{warning}");
    }
}

/// The same in the log of the running process.
#[tokio::test]
async fn a_running_process_warns_of_unknown_variables() {
    let (issuer, upstream) = (Issuer::start(), Upstream::hello());
    let proxy = Setup::new(&issuer, &upstream)
        .environment("AUTHGATE_CONFG", "authgate.toml")
        .start()
        .await;
    proxy
        .event("the warning", |event| {
            event["level"] == "WARN" && event.to_string().contains("AUTHGATE_CONFG")
        })
        .await;
}

/// The program with the least that it runs with.
fn two_variables() -> Command {
    let mut command = program();
    command.env("AUTH0_DOMAIN", "your-tenant.us.auth0.com");
    command.env("AUTH0_AUDIENCE", "https://your-api.com");
    command
}

#[tokio::test]
async fn flags_win_over_variables_and_variables_over_the_file() {
    let issuer = Issuer::start();
    let (by_flag, by_variable) = (Upstream::hello(), Upstream::hello());
    let proxy = Setup::new(&issuer, &by_flag)
        .top("upstream = \"http://127.0.0.1:9\"")
        .environment("AUTHGATE_UPSTREAM", &by_variable.url())
        .environment("AUTH0_AUDIENCE", "https://another-api.com")
        .start()
        .await;
    let token = issuer
        .user("auth0|alice")
        .claim("aud", "https://another-api.com")
        .mint();
    assert_eq!(
        proxy
            .send(&Request::get("/x").bearer(&token))
            .await
            .status(),
        200
    );
    assert_eq!((by_flag.requests(), by_variable.requests()), (1, 0));
    let output = proxy.output();
    for name in [
        "--upstream",
        "AUTHGATE_UPSTREAM",
        "AUTH0_AUDIENCE",
        "auth0.audience",
    ] {
        assert!(output.contains(name), "nothing of {name} in:\n{output}");
    }
}

/// A key file that everybody may read is no secret.
#[tokio::test]
async fn key_files_of_everybody_are_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let directory = TempDir::new().expect("a directory");
    let key = directory.path().join("session.key");
    std::fs::write(&key, "q1w2e3r4t5y6u7i8o9p0a1s2d3f4g5h6").expect("a key");
    let file = directory.path().join("authgate.toml");
    let setup = || {
        let table = format!("[mcp]\nsession_key_file = \"{}\"", key.display());
        Setup::new(&issuer, &upstream).rest(&table)
    };
    std::fs::write(&file, setup().text()).expect("the configuration");
    for (mode, warned) in [(0o600, false), (0o604, true)] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&key, permissions).expect("its owner");
        let output = call(&["check", "--config", &file.display().to_string()]).await;
        let text = printed(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert_eq!(text.contains("mcp.session_key_file"), warned, "{text}");
        let proxy = setup().start().await;
        let told = proxy
            .events()
            .into_iter()
            .find(|event| event["message"] == "configuration");
        let told = told.map(|event| event["path"].clone());
        assert_eq!(told, warned.then(|| "mcp.session_key_file".into()));
    }
}
