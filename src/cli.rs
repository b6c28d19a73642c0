//! The command line: what was typed, and the exit code it ends with.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::clock::UnixTime;
use crate::config::{self, Config, Loaded, Overrides, Source};
use crate::explain::{self, Decision, Question};
use crate::operate::Waited;
use crate::reload::WatchedSource;
use crate::token::Keyring;
use crate::{app, check, logging, manual, operate, secret_files};

/// The answer to a question is no: the request would be refused, the process is not ready.
const NO: u8 = 1;
/// `EX_USAGE`: the command line is wrong.
const USAGE: u8 = 64;
/// `EX_UNAVAILABLE`: keys, upstream or the running process are out of reach.
const UNAVAILABLE: u8 = 69;
/// `EX_SOFTWARE`: the program could not run, or broke.
const SOFTWARE: u8 = 70;
/// `EX_CONFIG`: the configuration is wrong.
const CONFIG: u8 = 78;

/// Authenticating reverse proxy in front of an AI-agent backend
#[derive(Parser)]
#[command(name = "authgate", version, args_conflicts_with_subcommands = false)]
#[command(long_about = manual::ABOUT, after_long_help = manual::AFTER)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum Command {
    /// Start the proxy (the default)
    Run,
    /// Load the configuration, report every problem, print what it means
    ///
    /// Every problem is told at once, with its place in the file and how to mend it. What is printed are the
    /// settings in force and the routes in words.
    Check {
        /// Also fetch the keys and reach the upstream
        #[arg(long)]
        online: bool,
    },
    /// Read a token on standard input and say step by step what is decided about it, and why
    Explain(Explain),
    /// Ask the running process whether it is ready
    ///
    /// For images without a shell: it asks /readyz on the admin listener, over loopback where that is on every
    /// interface. Exits with 0 when ready; with 1 when not, or without an answer within 2 s; with 78 when
    /// admin is off.
    Healthcheck,
    /// Make the running process unready while it goes on serving
    ///
    /// For preStop hooks in images without a shell: it sends POST /drain to the admin listener. The process
    /// is not ready any more and tells its clients to go elsewhere; it refuses nothing and does not end. A
    /// second drain changes nothing. Exits with 69 without an answer, with 78 when admin is off.
    Drain {
        /// Return when timeouts.linger is over and no request is running; after timeouts.drain at the
        /// latest, or when the process has ended
        #[arg(long)]
        wait: bool,
    },
    /// Print the JSON Schema of the configuration file
    ///
    /// Editors check and complete with it. A file that begins with "#:schema ./authgate.schema.json" names it.
    Schema,
    /// Print what a shell needs to complete commands and flags
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Args)]
struct Explain {
    /// The method of the request, letter for letter
    #[arg(long, default_value = "GET")]
    method: String,
    /// The path of the request, or its whole URL
    #[arg(long, default_value = "/")]
    path: String,
    #[arg(
        long,
        help = "The host of the request [default: the first of allowed_hosts]"
    )]
    host: Option<String>,
    /// The MCP method that is asked for, where rules want to know
    #[arg(long, value_name = "METHOD")]
    mcp_method: Option<String>,
    /// The MCP tool that is called (tools/call)
    #[arg(long, value_name = "TOOL")]
    mcp_tool: Option<String>,
    /// A request without a token; standard input is not read
    #[arg(long)]
    no_token: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Never used: what is typed here may be a token, and a complaint of clap's would print it
    #[arg(hide = true)]
    stray: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Settings {
    #[arg(
        long,
        help = "Configuration file [env: AUTHGATE_CONFIG]",
        global = true,
        value_name = "FILE"
    )]
    config: Option<PathBuf>,
    #[arg(
        long,
        help = "Where clients connect [env: AUTHGATE_LISTEN] [default: 0.0.0.0:8080]",
        global = true,
        value_name = "ADDRESS"
    )]
    listen: Option<String>,
    #[arg(
        long,
        help = "Where requests go: http://, https:// or unix: [env: AUTHGATE_UPSTREAM] [default: http://127.0.0.1:4111]",
        global = true,
        value_name = "URL"
    )]
    upstream: Option<String>,
    #[arg(
        long,
        help = "Where probes connect, or \"off\" [env: AUTHGATE_ADMIN] [default: 0.0.0.0:9090]",
        global = true,
        value_name = "ADDRESS"
    )]
    admin: Option<String>,
    #[arg(
        long,
        help = "Worker threads, or \"auto\" [env: AUTHGATE_WORKERS] [default: auto]",
        global = true,
        value_name = "NUMBER"
    )]
    workers: Option<String>,
    #[arg(
        long,
        help = "Log filter; \"warn\" leaves the request lines out [env: AUTHGATE_LOG] [default: info]",
        global = true,
        value_name = "FILTER"
    )]
    log: Option<String>,
    #[arg(
        long,
        help = "Log format: auto, text or json [env: AUTHGATE_LOG_FORMAT] [default: auto]",
        global = true,
        value_name = "FORMAT"
    )]
    log_format: Option<String>,
}

/// Runs the program with these arguments, the first of which is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors and go to standard output.
            let code = if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
            _ = error.print();
            return code;
        }
    };
    if matches!(&cli.command, Some(Command::Explain(explain)) if !explain.stray.is_empty()) {
        print_error(
            "authgate: a token is read from standard input, never from an argument, where other users and the shell's history can see it",
        );
        return ExitCode::from(USAGE);
    }
    let settings = cli.settings;
    match cli.command.unwrap_or(Command::Run) {
        Command::Run => with_source(settings, |source| run_proxy(WatchedSource::new(source))),
        Command::Check { online } => {
            with_source(settings, |source| run_check(source.load(), online))
        }
        Command::Explain(arguments) => {
            with_source(settings, |source| run_explain(source.load(), &arguments))
        }
        Command::Healthcheck => with_source(settings, |source| run_healthcheck(&source)),
        Command::Drain { wait } => with_source(settings, |source| run_drain(&source, wait)),
        // These two read no configuration, so nothing that is wrong with it concerns them.
        Command::Schema => {
            print(&format!("{:#}", config::schema()));
            ExitCode::SUCCESS
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "authgate", &mut script);
            print(String::from_utf8_lossy(&script).trim_end());
            ExitCode::SUCCESS
        }
    }
}

/// Runs a command that needs to know where the configuration comes from.
fn with_source(settings: Settings, run: impl FnOnce(Source) -> ExitCode) -> ExitCode {
    let overrides = Overrides {
        listen: settings.listen,
        upstream: settings.upstream,
        admin: settings.admin,
        workers: settings.workers,
        log: settings.log,
        log_format: settings.log_format,
    };
    match Source::new(settings.config, overrides, std::env::vars_os()) {
        Ok(source) => run(source),
        Err(errors) => {
            report("error", &errors);
            ExitCode::from(CONFIG)
        }
    }
}

fn run_proxy(mut source: WatchedSource) -> ExitCode {
    let loaded = source.load();
    let config = match loaded.config {
        Ok(config) => config,
        Err(errors) => {
            report("warning", &loaded.warnings);
            report("error", &errors);
            return ExitCode::from(CONFIG);
        }
    };
    let _log = match logging::install(&config.logging) {
        Ok(log) => log,
        Err(error) => {
            print_error(&format!("authgate: cannot log: {error}"));
            return ExitCode::from(SOFTWARE);
        }
    };
    logging::tell(&loaded.notes, &loaded.warnings);
    match app::run(config, source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot run");
            print_error(&format!("authgate: {error}"));
            ExitCode::from(if error.is_configuration() {
                CONFIG
            } else {
                SOFTWARE
            })
        }
    }
}

fn run_check(loaded: Loaded, online: bool) -> ExitCode {
    for note in &loaded.notes {
        print(&format!("note: {note}"));
    }
    report("warning", &loaded.warnings);
    let config = match loaded.config {
        Ok(config) => config,
        Err(errors) => {
            report("error", &errors);
            return ExitCode::from(CONFIG);
        }
    };
    if let Err(error) = check::files(&config) {
        print_error(&format!("error: {error}"));
        return ExitCode::from(CONFIG);
    }
    report("warning", &secret_files::exposed(&config));
    if let Some(warning) = check::exposure(&config) {
        print_error(&format!("warning: {warning}"));
    }
    print(check::describe(&config).trim_end());
    if online {
        check_online(&config)
    } else {
        ExitCode::SUCCESS
    }
}

fn check_online(config: &Config) -> ExitCode {
    wait_for(async {
        let found = check::online(config).await;
        print("");
        for line in found.fine {
            print(&line);
        }
        for line in found.doubtful {
            print_error(&format!("warning: {line}"));
        }
        let wrong = found.wrong;
        for line in &wrong {
            print_error(&format!("unreachable: {line}"));
        }
        if wrong.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(UNAVAILABLE)
        }
    })
}

fn run_healthcheck(source: &Source) -> ExitCode {
    let (admin, _) = match admin_listener(source) {
        Ok(found) => found,
        Err(code) => return code,
    };
    wait_for(async {
        match operate::healthcheck(admin).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                print_error(&format!("authgate: {error}"));
                ExitCode::from(NO)
            }
        }
    })
}

fn run_drain(source: &Source, wait: bool) -> ExitCode {
    let (admin, timeouts) = match admin_listener(source) {
        Ok(found) => found,
        Err(code) => return code,
    };
    wait_for(async {
        let drained = if wait {
            operate::drain_and_wait(admin, &timeouts).await
        } else {
            operate::drain(admin).await.map(|()| Waited::Idle)
        };
        match drained {
            Ok(Waited::Idle | Waited::Ended) => ExitCode::SUCCESS,
            Ok(Waited::TimedOut(requests)) => {
                print_error(&format!(
                    "authgate: timeouts.drain is over; requests still running: {requests}"
                ));
                ExitCode::SUCCESS
            }
            Err(error) => {
                print_error(&format!("authgate: {error}"));
                ExitCode::from(UNAVAILABLE)
            }
        }
    })
}

/// Where the running process answers, or the exit code of not knowing.
fn admin_listener(source: &Source) -> Result<(SocketAddr, config::Timeouts), ExitCode> {
    let operation = source.load_operation().map_err(|errors| {
        report("error", &errors);
        ExitCode::from(CONFIG)
    })?;
    let Some(admin) = operation.admin else {
        print_error("authgate: admin is \"off\", so there is nobody to ask");
        return Err(ExitCode::from(CONFIG));
    };
    Ok((admin, operation.timeouts))
}

fn wait_for(task: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(task),
        Err(error) => {
            print_error(&format!("authgate: {error}"));
            ExitCode::from(SOFTWARE)
        }
    }
}

/// Room on standard input for what surrounds a token: JSON with other tokens, headers, line breaks.
const PASTE_SLACK: usize = 256 * 1024;

fn run_explain(loaded: Loaded, arguments: &Explain) -> ExitCode {
    report("warning", &loaded.warnings);
    let config = match loaded.config {
        Ok(config) => config,
        Err(errors) => {
            report("error", &errors);
            return ExitCode::from(CONFIG);
        }
    };
    if let Err(error) = check::files(&config) {
        print_error(&format!("error: {error}"));
        return ExitCode::from(CONFIG);
    }
    let credential = if arguments.no_token {
        Ok(None)
    } else {
        read_pasted(config.limits.token_bytes.saturating_add(PASTE_SLACK))
            .map(|pasted| explain::credential(&pasted))
    };
    let question = credential.and_then(|credential| {
        let (method, path) = (&arguments.method, &arguments.path);
        let (mcp_method, mcp_tool) = (&arguments.mcp_method, &arguments.mcp_tool);
        Question::new(&config, method, path, arguments.host.as_deref(), credential)
            .and_then(|one| one.with_message(mcp_method.as_deref(), mcp_tool.as_deref()))
            .map_err(|error| error.to_string())
    });
    let question = match question {
        Ok(question) => question,
        Err(error) => {
            print_error(&format!("authgate: {error}"));
            return ExitCode::from(USAGE);
        }
    };
    // Without keys first: many requests need none for a verdict.
    let mut story = explain::explain(&config, &Keyring::default(), &question, UnixTime::now());
    if story.lacks_keys() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                print_error(&format!("authgate: {error}"));
                return ExitCode::from(SOFTWARE);
            }
        };
        let (keyring, left_out, wrong) = runtime.block_on(check::keyring(&config));
        // A file or a name that is still being looked up must not hold the answer back.
        runtime.shutdown_background();
        for line in &left_out {
            print_error(&format!("note: {line}"));
        }
        for line in &wrong {
            print_error(&format!("unreachable: {line}"));
        }
        story = explain::explain(&config, &keyring, &question, UnixTime::now());
    }
    if arguments.json {
        print(&story.to_json());
    } else {
        print(&story.to_string());
    }
    match story.decision {
        Decision::Pass => ExitCode::SUCCESS,
        Decision::Refuse => ExitCode::from(NO),
        Decision::Unknown => ExitCode::from(UNAVAILABLE),
    }
}

/// Standard input up to `limit` bytes. What is not UTF-8 is no token, and is told so later.
fn read_pasted(limit: usize) -> Result<String, String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        print_error("Paste the token, then press Enter and Ctrl-D:");
    }
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut pasted = Vec::new();
    stdin
        .lock()
        .take(most)
        .read_to_end(&mut pasted)
        .map_err(|error| format!("standard input: {error}"))?;
    if pasted.len() > limit {
        return Err(format!("standard input: more than {limit} bytes"));
    }
    Ok(String::from_utf8_lossy(&pasted).into_owned())
}

fn report(kind: &str, problems: &[config::Problem]) {
    for problem in problems {
        print_error(&format!("{kind}: {problem}"));
    }
}

/// A closed pipe is the reader's choice and no error of ours.
fn print(line: &str) {
    _ = writeln!(std::io::stdout(), "{line}");
}

fn print_error(line: &str) {
    _ = writeln!(std::io::stderr(), "{line}");
}
