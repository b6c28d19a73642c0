//! The built program as a process, with everything it prints.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::client::{Client, Request, Response};
use super::upstream::Upstream;
use super::wire::{Wire, within};
use crate::issuer::port::Port;
use crate::issuer::tokens::AUDIENCE;
use crate::issuer::{Issuer, secrets};

/// Between two questions to a program that does not say when it is ready.
const BACK_OFF: Duration = Duration::from_millis(10);

/// A configuration file in its parts, and how the program is called with it.
pub struct Setup {
    top: String,
    auth0: String,
    keys: String,
    rest: String,
    upstream: Option<String>,
    addresses: Option<(SocketAddr, SocketAddr)>,
    data: IpAddr,
    admin: IpAddr,
    open_files: Option<usize>,
    memory: Option<usize>,
    hosts: Option<String>,
    file: Option<PathBuf>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// The usual: one issuer, one upstream, every default.
    pub fn new(issuer: &Issuer, upstream: &Upstream) -> Self {
        Self::to(issuer, &upstream.url())
    }

    /// The same for a backend that speaks HTTP/2.
    pub fn http2(issuer: &Issuer, url: &str) -> Self {
        Self::to(issuer, url).top("upstream_protocol = \"http2\"")
    }

    /// The same for a backend that a test runs itself.
    pub fn to(issuer: &Issuer, url: &str) -> Self {
        Self::bare()
            .auth0(&format!(
                "domain = \"{}\"\naudience = \"{AUDIENCE}\"",
                issuer.domain()
            ))
            .keys(&format!("ca_file = \"{}\"", issuer.ca_file().display()))
            .upstream(url)
    }

    /// Addresses and a log that a test can read, and nothing else.
    pub fn bare() -> Self {
        Self {
            top: String::new(),
            auth0: String::new(),
            keys: String::new(),
            rest: String::new(),
            upstream: None,
            addresses: None,
            data: Ipv4Addr::LOCALHOST.into(),
            admin: Ipv4Addr::LOCALHOST.into(),
            open_files: None,
            memory: None,
            hosts: None,
            file: None,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Names the upstream by a flag.
    pub fn upstream(mut self, url: &str) -> Self {
        self.upstream = Some(url.to_owned());
        self
    }

    /// Listens where the test says, for a log that does not tell.
    pub fn at(mut self, data: &Port, admin: &Port) -> Self {
        self.addresses = Some((data.address(), admin.address()));
        self
    }

    /// Has the data listener on this address, at any free port.
    pub fn data_on(mut self, address: IpAddr) -> Self {
        self.data = address;
        self
    }

    /// Has the admin listener on this address, at any free port.
    pub fn admin_on(mut self, address: IpAddr) -> Self {
        self.admin = address;
        self
    }

    /// Adds to the top of the file.
    pub fn top(mut self, toml: &str) -> Self {
        line(&mut self.top, toml);
        self
    }

    /// Adds to `[auth0]`.
    pub fn auth0(mut self, toml: &str) -> Self {
        line(&mut self.auth0, toml);
        self
    }

    /// Adds to `[auth0.keys]`.
    pub fn keys(mut self, toml: &str) -> Self {
        line(&mut self.keys, toml);
        self
    }

    /// Adds further tables.
    pub fn rest(mut self, toml: &str) -> Self {
        line(&mut self.rest, toml);
        self
    }

    /// Has this in place of `/etc/hosts`, for the program alone. See [`has_own_hosts`].
    pub fn hosts(mut self, lines: &str) -> Self {
        self.hosts = Some(lines.to_owned());
        self
    }

    /// Names a configuration file that is there already.
    pub fn file(mut self, path: &str) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Lets the program open no more files than this.
    pub fn open_files(mut self, limit: usize) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// Lets the program have no more memory than this (`RLIMIT_DATA`): what it asks for beyond that ends it.
    pub fn memory(mut self, bytes: usize) -> Self {
        self.memory = Some(bytes);
        self
    }

    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The configuration file.
    pub fn text(&self) -> String {
        let Self {
            top,
            auth0,
            keys,
            rest,
            ..
        } = self;
        let mut text = top.clone();
        for (name, table) in [("auth0", auth0), ("auth0.keys", keys)] {
            if !table.is_empty() {
                write!(text, "[{name}]\n{table}").expect("room in a string");
            }
        }
        text + rest
    }

    /// Starts the program and waits until it is ready.
    pub async fn start(self) -> Proxy {
        let addresses = self.addresses;
        let mut proxy = self.spawn();
        if let Some((data, admin)) = addresses {
            (proxy.data, proxy.admin) = (data, admin);
            proxy.ready_unannounced().await;
        } else {
            proxy.find_listeners().await;
            proxy.ready().await;
        }
        proxy
    }

    /// Starts the program and waits until it listens.
    pub async fn launch(self) -> Proxy {
        let mut proxy = self.spawn();
        proxy.find_listeners().await;
        proxy
    }

    fn spawn(self) -> Proxy {
        let directory = TempDir::new().expect("a directory for the configuration");
        let file = self.file.clone().unwrap_or_else(|| {
            let file = directory.path().join("authgate.toml");
            std::fs::write(&file, self.text()).expect("the configuration file");
            file
        });
        let free = SocketAddr::new(self.data, 0);
        let free_admin = SocketAddr::new(self.admin, 0);
        let (data, admin) = self.addresses.unwrap_or((free, free_admin));
        let mut command = match &self.hosts {
            None => program_within(self.open_files, self.memory),
            Some(lines) => {
                let hosts = directory.path().join("hosts");
                std::fs::write(&hosts, lines).expect("the hosts");
                program_with(&hosts)
            }
        };
        command
            .arg("--config")
            .arg(&file)
            .args(["--log-format", "json"]);
        command.args(["--listen", &data.to_string(), "--admin", &admin.to_string()]);
        command.args(self.upstream.iter().flat_map(|url| ["--upstream", url]));
        command.args(&self.arguments).envs(self.environment);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let log = Arc::new(watch::Sender::new(Log::default()));
        let (stdout, stderr) = (Arc::<Gate>::default(), Arc::<Gate>::default());
        let readers = vec![
            read_lines(
                child.stdout.take().expect("its stdout"),
                Arc::clone(&log),
                Arc::clone(&stdout),
            ),
            read_lines(
                child.stderr.take().expect("its stderr"),
                Arc::clone(&log),
                stderr,
            ),
        ];
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        Proxy {
            child,
            log,
            stdout,
            readers,
            data: unknown,
            admin: unknown,
            file,
            _directory: directory,
        }
    }
}

fn line(text: &mut String, more: &str) {
    text.push_str(more);
    text.push('\n');
}

/// Lets this process, and what it starts, have so many open files.
pub fn raise_limit(descriptors: u64) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= descriptors);
    if !enough(current) {
        assert!(enough(maximum), "the test needs {descriptors} descriptors");
        let raised = Rlimit {
            current: Some(descriptors),
            maximum,
        };
        setrlimit(Resource::Nofile, raised).expect("a higher limit");
    }
}

/// The program with an environment of which nothing of the developer's is left.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_authgate"));
    command.env_clear();
    command
}

/// The same, with limits of open files and of bytes of memory that it cannot raise.
fn program_within(open_files: Option<usize>, memory: Option<usize>) -> Command {
    if open_files.is_none() && memory.is_none() {
        return program();
    }
    let mut limits = String::new();
    for (option, limit) in [("n", open_files), ("d", memory.map(|bytes| bytes / 1024))] {
        if let Some(limit) = limit {
            write!(limits, "ulimit -{option} {limit}; ").expect("room in a string");
        }
    }
    let mut command = Command::new("/bin/sh");
    command.env_clear();
    command.args(["-c", &format!("{limits}exec \"$0\" \"$@\"")]);
    command.arg(env!("CARGO_BIN_EXE_authgate"));
    command
}

/// The same, in a namespace of its own where this file is `/etc/hosts`.
fn program_with(hosts: &Path) -> Command {
    let mut command = own_namespace("mount --bind \"$0\" /etc/hosts && exec \"$@\"");
    command.arg(hosts).arg(env!("CARGO_BIN_EXE_authgate"));
    command
}

fn own_namespace(script: &str) -> Command {
    let mut command = Command::new("/usr/bin/unshare");
    command.env_clear();
    command.args(["--map-root-user", "--mount", "/bin/sh", "-c", script]);
    command
}

/// Whether the system lets this process give the program an `/etc/hosts` of its own.
pub fn has_own_hosts() -> bool {
    let tried = own_namespace("mount --bind /dev/null /etc/hosts").output();
    tried.is_ok_and(|tried| tried.status.success())
}

/// Runs the program to its end, with `input` on its standard input. What it prints is searched for
/// secrets; where it echoes a token by design the test looks for itself.
pub async fn run_to_end(mut command: Command, input: &str) -> Output {
    let input = input.to_owned();
    let run = tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut stdin = child.stdin.take().expect("its stdin");
        // A program that does not read its input ends the pipe, which is its right.
        let _unread = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("the program's end")
    });
    let output = within("the program's end", run).await.expect("a thread");
    for text in [&output.stdout, &output.stderr] {
        assert_no_secrets(&String::from_utf8_lossy(text));
    }
    output
}

fn assert_no_secrets(output: &str) {
    let found = secrets::found_in(output);
    assert!(
        found.is_empty(),
        "the program has printed secrets {found:?} in:\n{output}"
    );
}

#[derive(Default)]
struct Log {
    lines: Vec<(String, Option<Value>)>,
    /// How many of the two streams have ended.
    ended: usize,
}

/// Whether a stream of the program is read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Reading {
    #[default]
    On,
    Stopped,
    /// The pipe is closed, once another line has been read.
    Over,
}

/// What the reader of a stream asks before each line.
#[derive(Default)]
struct Gate(Mutex<Reading>, Condvar);

impl Gate {
    fn set(&self, reading: Reading) {
        *self.0.lock().expect("sound") = reading;
        self.1.notify_all();
    }

    /// Whether there is a next line to be read.
    fn pass(&self) -> bool {
        let reading = self.0.lock().expect("sound");
        let is_stopped = |reading: &mut Reading| *reading == Reading::Stopped;
        *self.1.wait_while(reading, is_stopped).expect("sound") == Reading::On
    }
}

fn read_lines(
    stream: impl Read + Send + 'static,
    log: Arc<watch::Sender<Log>>,
    gate: Arc<Gate>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { break };
            if !gate.pass() {
                break;
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            let event = serde_json::from_str(&line).ok();
            log.send_modify(|log| log.lines.push((line, event)));
        }
        log.send_modify(|log| log.ended += 1);
    })
}

/// A running authgate. It is killed with this value, and everything it printed is searched for secrets.
pub struct Proxy {
    child: Child,
    log: Arc<watch::Sender<Log>>,
    stdout: Arc<Gate>,
    readers: Vec<JoinHandle<()>>,
    /// Where clients go.
    pub data: SocketAddr,
    /// Where operators go.
    pub admin: SocketAddr,
    file: PathBuf,
    _directory: TempDir,
}

impl Proxy {
    /// Waits for the event that says that it can serve.
    pub async fn ready(&self) {
        self.event("ready", |event| event["message"] == "ready")
            .await;
    }

    /// The same for a log that does not tell: the admin listener is asked until it says so.
    async fn ready_unannounced(&self) {
        let ask = async || {
            let stream = TcpStream::connect(self.admin).await.ok()?;
            let mut client = Client::over(Wire::new(stream));
            client.write(&Request::get("/readyz")).await;
            client.head_or_end().await.map(|head| head.status())
        };
        within("readiness", async {
            while ask().await != Some(200) {
                tokio::time::sleep(BACK_OFF).await;
            }
        })
        .await;
    }

    async fn find_listeners(&mut self) {
        self.data = self.listener("data").await;
        self.admin = self.listener("admin").await;
    }

    async fn listener(&self, name: &str) -> SocketAddr {
        let event = self
            .event(&format!("the {name} listener"), |event| {
                event["message"] == "listening" && event["listener"] == name
            })
            .await;
        let address = event["address"].as_str().expect("an address in the event");
        address.parse().expect("an address")
    }

    /// The first event of which `matches` holds, from the beginning of the log.
    pub async fn event(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        self.event_after(0, what, matches).await
    }

    /// The same, from a [`mark`](Self::mark) on.
    pub async fn event_after(
        &self,
        mark: usize,
        what: &str,
        matches: impl Fn(&Value) -> bool,
    ) -> Value {
        let find = |log: &Log| {
            let events = log
                .lines
                .iter()
                .skip(mark)
                .filter_map(|(_, event)| event.as_ref());
            events.into_iter().find(|event| matches(event)).cloned()
        };
        let mut log = self.log.subscribe();
        let seen = log.wait_for(|log| find(log).is_some() || log.ended == 2);
        let seen = tokio::time::timeout(super::wire::PATIENCE, seen).await;
        let found = match seen {
            Ok(Ok(log)) => find(&log),
            Ok(Err(_)) | Err(_) => None,
        };
        found.unwrap_or_else(|| panic!("no event of {what} in the log:\n{}", self.output()))
    }

    /// How long the log is at this moment.
    pub fn mark(&self) -> usize {
        self.log.borrow().lines.len()
    }

    /// The events so far.
    pub fn events(&self) -> Vec<Value> {
        self.log
            .borrow()
            .lines
            .iter()
            .filter_map(|(_, event)| event.clone())
            .collect()
    }

    /// The line about the request to `path`.
    pub async fn request_line(&self, path: &str) -> Value {
        self.event(&format!("the request to {path}"), |event| {
            event["message"] == "request" && event["path"] == path
        })
        .await
    }

    /// Everything it has printed.
    pub fn output(&self) -> String {
        let log = self.log.borrow();
        log.lines
            .iter()
            .fold(String::new(), |text, (line, _)| text + line + "\n")
    }

    /// Sends a request to the data listener over a connection of its own.
    pub async fn send(&self, request: &Request) -> Response {
        request.send(self.data).await
    }

    /// Asks the admin listener.
    pub async fn admin(&self, method: &str, path: &str) -> Response {
        let host = self.admin.to_string();
        let request = Request::new(method, path).host(Some(&host));
        request.send(self.admin).await
    }

    /// Replaces the configuration file in one step, and tells nobody.
    pub fn rewrite(&self, setup: &Setup) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, setup.text()).expect("the next configuration file");
        std::fs::rename(next, &self.file).expect("the configuration file");
    }

    /// Puts another configuration in force and waits for the line that says so; answers with its
    /// generation.
    pub async fn reload(&self, setup: &Setup) -> u64 {
        self.rewrite(setup);
        let mark = self.mark();
        self.signal("HUP");
        let event = self
            .event_after(mark, "a loaded configuration", |event| {
                event["message"] == "configuration loaded"
            })
            .await;
        event["generation"].as_u64().expect("a generation")
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How much memory it holds.
    pub fn resident_kib(&self) -> usize {
        self.status("VmRSS:")
    }

    /// The most memory that it has held.
    pub fn peak_kib(&self) -> usize {
        self.status("VmHWM:")
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        self.status("Threads:")
    }

    /// How many file descriptors it has open.
    pub fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.id()));
        open.expect("/proc").count()
    }

    /// Changes how many files it may open from now on; answers with what it was.
    pub fn limit_files(&self, limit: u64) -> u64 {
        let id = i32::try_from(self.id()).expect("a process id");
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limits = Rlimit {
            current: Some(limit),
            maximum,
        };
        let before = prlimit(Pid::from_raw(id), Resource::Nofile, limits);
        let before = before.expect("a process of ours").current;
        before.expect("a limit of open files")
    }

    fn status(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.expect("/proc");
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        let number = value.and_then(|value| value.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.id().to_string())
            .status();
        assert!(sent.expect("kill").success(), "no process to signal");
    }

    /// Stops the process, and lets it go on when everything has arrived, so that it finds all at once.
    pub async fn while_stopped(&self, arrivals: impl Future<Output = ()>) {
        let stat = format!("/proc/{}/stat", self.id());
        self.signal("STOP");
        within("the process to stop", async {
            while !std::fs::read_to_string(&stat)
                .expect("/proc")
                .contains(") T ")
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
        arrivals.await;
        self.signal("CONT");
    }

    /// Waits for its end.
    pub async fn exit(&mut self) -> ExitStatus {
        let mut log = self.log.subscribe();
        let ended = log.wait_for(|log| log.ended == 2);
        let ended = within("the end of the program", ended).await.map(|_| ());
        ended.expect("a running reader");
        self.child.wait().expect("the exit status")
    }

    /// From now on its standard output is not read.
    pub fn stop_reading(&self) {
        self.stdout.set(Reading::Stopped);
    }

    /// Reads its standard output again.
    pub fn read_on(&self) {
        self.stdout.set(Reading::On);
    }

    /// Closes the other end of its standard output, as soon as it prints a line.
    pub fn close_stdout(&self) {
        self.stdout.set(Reading::Over);
    }

    /// Waits for its end, whether what it printed is read or not.
    pub async fn exit_unread(&mut self) -> ExitStatus {
        within("the end of the program", async {
            loop {
                if let Some(status) = self.child.try_wait().expect("the exit status") {
                    return status;
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        })
        .await
    }

    /// Fails if a token or a query has been printed.
    pub fn assert_kept_secrets(&self) {
        assert_no_secrets(&self.output());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        self.read_on();
        for reader in self.readers.drain(..) {
            let _read = reader.join();
        }
        if !std::thread::panicking() {
            self.assert_kept_secrets();
        }
    }
}
