//! The command line: what was typed, and the exit code it ends with.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, Loaded, Overrides, Source};
use crate::reload::WatchedSource;
use crate::{app, check, logging};

/// `EX_USAGE`: the command line is wrong.
const USAGE: u8 = 64;
/// `EX_UNAVAILABLE`: keys or upstream are out of reach.
const UNAVAILABLE: u8 = 69;
/// `EX_SOFTWARE`: the program could not run, or broke.
const SOFTWARE: u8 = 70;
/// `EX_CONFIG`: the configuration is wrong.
const CONFIG: u8 = 78;

/// Authenticating reverse proxy: lets a request through to an AI-agent backend only with a valid
/// Auth0 access token that satisfies the configured rules, and tells the backend who is asking.
#[derive(Debug, Parser)]
#[command(name = "authgate", version, args_conflicts_with_subcommands = false)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the proxy (the default)
    Run,
    /// Load the configuration, report every problem, print what it means
    Check {
        /// Also fetch the keys and reach the upstream
        #[arg(long)]
        online: bool,
    },
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
    let mut source = WatchedSource::new(source(cli.settings));
    let loaded = source.load();
    match cli.command.unwrap_or(Command::Run) {
        Command::Run => run_proxy(source, loaded),
        Command::Check { online } => run_check(loaded, online),
    }
}

fn source(settings: Settings) -> Source {
    Source {
        flag: settings.config,
        overrides: Overrides {
            listen: settings.listen,
            upstream: settings.upstream,
            admin: settings.admin,
            workers: settings.workers,
            log: settings.log,
            log_format: settings.log_format,
        },
    }
}

fn run_proxy(source: WatchedSource, loaded: Loaded) -> ExitCode {
    let config = match loaded.config {
        Ok(config) => config,
        Err(errors) => {
            report("warning", &loaded.warnings);
            report("error", &errors);
            return ExitCode::from(CONFIG);
        }
    };
    logging::install(&config.logging);
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
    print(check::describe(&config).trim_end());
    if online {
        check_online(&config)
    } else {
        ExitCode::SUCCESS
    }
}

fn check_online(config: &Config) -> ExitCode {
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
    let (fine, wrong) = runtime.block_on(check::online(config));
    print("");
    for line in fine {
        print(&line);
    }
    for line in &wrong {
        print_error(&format!("unreachable: {line}"));
    }
    if wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(UNAVAILABLE)
    }
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
