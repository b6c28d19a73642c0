//! authgate at work, with nothing else installed: a stand-in Auth0 tenant, a small agent, and authgate
//! between them, configured by a file as it would be anywhere.
//!
//! `cargo run --example demo` prints curl lines to try and serves until Ctrl-C.
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
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cases::{Case, ROLES_CLAIM};
use issuer::Issuer;
use issuer::port::Port;
use issuer::tokens::AUDIENCE;

const USAGE: &str = "usage: demo [--self-test] [--listen ADDRESS]";
/// Runs authgate itself, with its file as the next argument, until standard input ends.
const AUTHGATE: &str = "--authgate";
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
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == AUTHGATE) {
        return authgate_until_abandoned(arguments.next().unwrap_or_default());
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
    let directory = tempfile::Builder::new().prefix("authgate-").tempdir()?;
    let mut out = io::stdout();

    // Each holds a port while nothing listens on it, so that it can be printed before authgate takes it.
    let (reserved, admin) = (Port::reserve(), Port::reserve());
    let listen = listen_address(options, &reserved, &mut out)?;
    let file = directory.path().join("authgate.toml");
    std::fs::write(
        &file,
        configuration(&issuer, agent, listen, admin.address()),
    )?;
    cases::write_fields(&issuer, directory.path())?;

    let log = directory.path().join("authgate.log");
    let mut gate = Gate::start(&file, File::create(&log)?)?;
    if let Err(error) = gate.wait_until_ready(admin.address()) {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        return Err(format!("{error}\n{log}").into());
    }
    let cases = cases::all(listen);
    if options.self_test {
        return Ok(self_test(&cases, directory.path(), &mut out)?);
    }
    print_cases(&cases, listen, directory.path(), &mut out)?;
    let ended = gate.0.wait()?;
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(1).into())
}

/// authgate in a process of its own, so that its log is not between the demo's words. It ends with the demo.
struct Gate(Child);

impl Gate {
    fn start(file: &Path, log: File) -> io::Result<Self> {
        let stderr = log.try_clone()?;
        let child = Command::new(std::env::current_exe()?)
            .arg(AUTHGATE)
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(stderr)
            .spawn()?;
        Ok(Self(child))
    }

    /// Ready is with the keys of the tenant: until then a good token is answered by 503.
    fn wait_until_ready(&mut self, admin: SocketAddr) -> Result<(), Box<dyn Error>> {
        let begun = Instant::now();
        loop {
            if let Some(ended) = self.0.try_wait()? {
                return Err(format!("authgate has ended: {ended}").into());
            }
            let failure = match ask_ready(admin) {
                Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => return Ok(()),
                Ok(answer) => answer,
                Err(error) => error.to_string(),
            };
            if begun.elapsed() > PATIENCE {
                return Err(format!("authgate is not ready: {failure}").into());
            }
            std::thread::sleep(BACK_OFF);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended: io::Result<ExitStatus> = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Whatever comes first: the end of authgate, or that of the demo, which holds the other end of standard input.
fn authgate_until_abandoned(file: OsString) -> ExitCode {
    let (ends, ended) = mpsc::channel();
    let abandoned = ends.clone();
    std::thread::spawn(move || {
        let _end = io::copy(&mut io::stdin(), &mut io::sink());
        abandoned.send(ExitCode::SUCCESS)
    });
    std::thread::spawn(move || {
        ends.send(authgate::run(["authgate".into(), "--config".into(), file]))
    });
    ended.recv().unwrap_or(ExitCode::FAILURE)
}

fn ask_ready(admin: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
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

fn configuration(
    issuer: &Issuer,
    agent: SocketAddr,
    listen: SocketAddr,
    admin: SocketAddr,
) -> String {
    let domain = issuer.domain();
    let ca_file = issuer.ca_file().display();
    format!(
        r#"listen   = "{listen}"
upstream = "http://{agent}"
admin    = "{admin}"

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

/// What fits a screen of 24 lines with 80 columns.
fn print_cases(
    cases: &[Case],
    listen: SocketAddr,
    directory: &Path,
    out: &mut impl Write,
) -> io::Result<()> {
    writeln!(
        out,
        "authgate serves an agent at {listen}. Ctrl-C ends it. In another terminal:\n\
         cd {}    # with authgate.toml and authgate.log",
        directory.display()
    )?;
    for (number, case) in (1..).zip(cases) {
        writeln!(
            out,
            "{number:>2}  {}\n      {} {} - {}",
            case.command, case.status, case.word, case.lesson
        )?;
    }
    Ok(())
}

fn self_test(cases: &[Case], directory: &Path, out: &mut impl Write) -> io::Result<ExitCode> {
    let mut failed = Vec::new();
    for case in cases {
        let outcome = case.run(directory);
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
