//! authgate at work, with nothing else installed: a stand-in Auth0 tenant, a small agent, and authgate
//! between them, configured by a file as it would be anywhere.
//!
//! `cargo run --release --example demo` prints curl lines to try and serves until Ctrl-C.
//! `--self-test` runs those lines itself and compares. `--listen ADDRESS` moves it from port 8080.

mod agent;
mod cases;
#[path = "../../tests/support/issuer.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "it is written for the integration tests, which use all of it"
)]
mod issuer;

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Read as _, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cases::{Case, ROLES_CLAIM};
use issuer::Issuer;
use issuer::port::Port;
use issuer::tokens::AUDIENCE;
use tempfile::TempDir;

const USAGE: &str = "usage: demo [--self-test] [--listen ADDRESS]";
const DEFAULT_PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(20);
const BACK_OFF: Duration = Duration::from_millis(10);

/// These would lead the demo's loopback requests astray.
const PROXY_VARIABLES: [&str; 8] = [
    "ALL_PROXY",
    "all_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// These, and those that would win over the demo's file.
fn foreign_variables() -> impl Iterator<Item = &'static str> {
    authgate::config::VARIABLES
        .into_iter()
        .chain(PROXY_VARIABLES)
}

struct Options {
    self_test: bool,
    listen: Option<SocketAddr>,
}

fn main() -> ExitCode {
    if foreign_variables().any(|name| std::env::var_os(name).is_some()) {
        return relaunch_without_foreign_variables();
    }
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => return fail(64, &message),
    };
    match demonstrate(&options) {
        Ok(code) => code,
        Err(error) => fail(70, &error.to_string()),
    }
}

/// A process cannot safely take variables out of its own environment, but it can begin again.
fn relaunch_without_foreign_variables() -> ExitCode {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return fail(70, &error.to_string()),
    };
    let mut again = Command::new(program);
    again.args(std::env::args_os().skip(1));
    for name in foreign_variables() {
        again.env_remove(name);
    }
    fail(70, &again.exec().to_string())
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        self_test: false,
        listen: None,
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--self-test" => options.self_test = true,
            "--listen" => {
                let address = arguments.next().ok_or(USAGE)?;
                let parsed = address
                    .parse()
                    .map_err(|_| format!("{address}: not an address\n{USAGE}"))?;
                options.listen = Some(parsed);
            }
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(options)
}

fn demonstrate(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let issuer = Issuer::start();
    let agent = agent::start()?;
    let directory = TempDir::new()?;
    let mut out = io::stdout();

    // Holds a port while nothing listens on it, so that it can be printed before authgate takes it.
    let reserved = Port::reserve();
    let listen = listen_address(options, &reserved, &mut out)?;
    let config = configuration(&issuer, agent, listen);
    let file = directory.path().join("authgate.toml");
    std::fs::write(&file, &config)?;
    cases::write_tokens(&issuer, directory.path())?;
    writeln!(out, "# {}\n{config}", file.display())?;

    let gate = start_gate(&file, options.self_test)?;
    let cases = cases::all(listen, directory.path());
    wait_until_serving(&gate, listen, &directory.path().join("user"))?;
    if options.self_test {
        return Ok(self_test(&cases, &mut out)?);
    }
    print_cases(&cases, &mut out)?;
    gate.join().map_err(|_| "authgate has panicked".into())
}

fn listen_address(
    options: &Options,
    reserved: &Port,
    out: &mut impl Write,
) -> io::Result<SocketAddr> {
    if let Some(address) = options.listen {
        return Ok(if address.port() == 0 {
            reserved.address()
        } else {
            address
        });
    }
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT));
    match TcpListener::bind(usual) {
        Ok(_) => Ok(usual),
        Err(error) => {
            let free = reserved.address();
            writeln!(
                out,
                "{usual} is not to be had ({error}); the demo takes {free}.\n"
            )?;
            Ok(free)
        }
    }
}

fn configuration(issuer: &Issuer, agent: SocketAddr, listen: SocketAddr) -> String {
    let domain = issuer.domain();
    let ca_file = issuer.ca_file().display();
    format!(
        r#"listen   = "{listen}"
upstream = "http://{agent}"
admin    = "127.0.0.1:0"

[auth0]
domain      = "{domain}"
audience    = "{AUDIENCE}"
roles_claim = "{ROLES_CLAIM}"

[auth0.keys]
ca_file = "{ca_file}"     # the demo's tenant is no public host

[[route]]
path   = "/health"
access = "public"

[[route]]
path    = "/api/**"
require = {{ any_role = ["user", "admin"] }}

[[route]]
path    = "/admin/**"
require = {{ any_role = ["admin"] }}
"#
    )
}

fn start_gate(file: &Path, quiet: bool) -> io::Result<JoinHandle<ExitCode>> {
    let mut arguments = vec![OsString::from("authgate"), "--config".into(), file.into()];
    if quiet {
        arguments.extend(["--log".into(), "warn".into()]);
    }
    std::thread::Builder::new()
        .name("authgate".to_owned())
        .spawn(move || authgate::run(arguments))
}

/// Serving means that the keys are there too: until then a good token is answered by 503.
fn wait_until_serving(
    gate: &JoinHandle<ExitCode>,
    address: SocketAddr,
    token_file: &Path,
) -> Result<(), Box<dyn Error>> {
    let token = std::fs::read_to_string(token_file)?;
    let begun = Instant::now();
    loop {
        if gate.is_finished() {
            return Err("authgate has ended before it served".into());
        }
        let failure = match probe(address, &token) {
            Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => return Ok(()),
            Ok(answer) => answer,
            Err(error) => error.to_string(),
        };
        if begun.elapsed() > PATIENCE {
            return Err(format!("authgate does not serve: {failure}").into());
        }
        std::thread::sleep(BACK_OFF);
    }
}

fn probe(address: SocketAddr, token: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /api/agents HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Connection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn print_cases(cases: &[Case], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "Try these in another terminal. Ctrl-C ends the demo.\n"
    )?;
    for case in cases {
        writeln!(
            out,
            "# {}: shows {} and {}\n{}\n",
            case.title, case.status, case.word, case.command
        )?;
    }
    Ok(())
}

fn self_test(cases: &[Case], out: &mut impl Write) -> io::Result<ExitCode> {
    let mut failed = Vec::new();
    for case in cases {
        let outcome = case.run();
        writeln!(
            out,
            "{:<34}{:<5}{:<26}{outcome}",
            case.title, case.status, case.word
        )?;
        if !outcome.is_as_printed() {
            failed.push(case.title);
        }
    }
    if failed.is_empty() {
        writeln!(
            out,
            "\nAll {} lines show what the demo prints.",
            cases.len()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "\nNot as printed: {}.", failed.join(", "))?;
    Ok(ExitCode::FAILURE)
}

fn fail(code: u8, message: &str) -> ExitCode {
    // Without a terminal to complain to, the exit code has to do.
    let _unseen = writeln!(io::stderr(), "{message}");
    ExitCode::from(code)
}
