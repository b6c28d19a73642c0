//! A headless Chromium without a driver: its pages ask their own server for scripts and post back what
//! came of them.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::upstream::response;
use crate::support::wire::Head;
use crate::support::{Exchange, Reply, Upstream};

/// The names it goes by.
const PROGRAMS: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// It has no display, no network but loopback, and no profile but ours. Root, which tests in containers
/// run as, cannot have its sandbox.
const SWITCHES: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
];

/// A first start on a busy machine reads some hundred megabytes.
const START: Duration = Duration::from_secs(60);

/// The one document that the browser is started with. Every page is a frame of it.
const ROOT: &str = "<!doctype html><title>tests</title><body><script>
new EventSource('/told').onmessage = event => {
  document.body.append(Object.assign(document.createElement('iframe'), {src: event.data}));
};
</script>";

/// A page that runs the scripts it is sent, one at a time, and posts back what they tell, in order.
/// `ask` shapes its request as the Auth0 SPA SDK's fetcher does.
const PAGE: &str = "<!doctype html><title>page</title><script>
const AsyncFunction = (async () => {}).constructor;
let posted = Promise.resolve();
const post = value => posted = posted.then(
  () => fetch('/tell', {method: 'POST', body: JSON.stringify(value)}));
const tell = value => post({told: value ?? null});

const read = async response => ({
  status: response.status,
  headers: Object.fromEntries(response.headers),
  body: await response.text(),
});
const ask = ({url, init, token, scheme, proof}) => {
  const request = new Request(url, init);
  if (token) request.headers.set('authorization', `${scheme ?? 'Bearer'} ${token}`);
  if (proof) request.headers.set('dpop', proof);
  return fetch(request).then(read).catch(error => ({rejected: error.name}));
};

const scripts = new EventSource('/told');
scripts.onerror = () => scripts.close();
scripts.onmessage = async event => {
  const {script, input} = JSON.parse(event.data);
  try {
    post({returned: await new AsyncFunction('input', script)(input) ?? null});
  } catch (error) {
    post({threw: `${error}`});
  }
};
</script>";

/// The running browser. It ends with this value.
pub struct Browser {
    child: Child,
    version: String,
    root: Exchange,
    _server: Upstream,
    _directory: TempDir,
}

impl Browser {
    pub async fn start() -> Self {
        let program = find(&PROGRAMS);
        let version = Command::new(&program)
            .args(["--version", "--no-sandbox"])
            .output();
        let version = version.expect("the browser's version").stdout;
        let directory = TempDir::new().expect("a directory for the browser");
        let log = directory.path().join("log");
        let server = Upstream::start(|head| serve(head, ROOT));
        let child = Command::new(program)
            .args(SWITCHES)
            .arg(option("--user-data-dir=", directory.path().join("profile")))
            .arg(server.url())
            .env("HOME", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).expect("a file for its log"))
            .spawn()
            .expect("the browser");
        let root = tokio::time::timeout(START, told(&server)).await;
        let root = root.unwrap_or_else(|_| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("no page came up in the browser, which says:\n{log}")
        });
        Self {
            child,
            version: String::from_utf8_lossy(&version).trim().to_owned(),
            root,
            _server: server,
            _directory: directory,
        }
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// Opens a page on an origin of its own.
    pub async fn open(&self) -> Page {
        let server = Upstream::start(|head| serve(head, PAGE));
        let origin = server.url();
        self.root.send(&format!("data: {origin}\n\n"));
        let scripts = told(&server).await;
        Page {
            origin,
            scripts,
            server,
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn option(name: &str, value: PathBuf) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(name);
    option.push(value);
    option
}

/// Where the first of these programs is.
fn find(programs: &[&str]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = programs.iter().map(OsStr::new).find_map(|program| {
        std::env::split_paths(&path)
            .map(|directory| directory.join(program))
            .find(|file| file.is_file())
    });
    found.unwrap_or_else(|| {
        panic!("these tests need a browser: none of {programs:?} is on the PATH")
    })
}

fn serve(head: &Head, document: &str) -> Reply {
    match head.target() {
        "/" => {
            let fields = [("Content-Type", "text/html; charset=utf-8")];
            Reply::Bytes(response("200 OK", &fields, document))
        }
        "/told" => Reply::events(),
        "/tell" => Reply::ok(""),
        _ => Reply::Bytes(response("404 Not Found", &[], "")),
    }
}

/// The stream over which a document is told what to do.
async fn told(server: &Upstream) -> Exchange {
    loop {
        let exchange = server.next().await;
        if exchange.head.target() == "/told" {
            return exchange;
        }
    }
}

/// A document on an origin of its own.
pub struct Page {
    /// As it stands in `Origin`.
    pub origin: String,
    scripts: Exchange,
    server: Upstream,
}

impl Page {
    /// Begins to run the body of an asynchronous function of `input`.
    pub fn begin(&self, script: &str, input: &Value) {
        let data = json!({ "script": script, "input": input });
        self.scripts.send(&format!("data: {data}\n\n"));
    }

    /// The next value that the script tells.
    pub async fn told(&self) -> Value {
        self.posted("told").await
    }

    /// What the script has returned.
    pub async fn returned(&self) -> Value {
        self.posted("returned").await
    }

    /// Runs a script to its end.
    pub async fn run(&self, script: &str, input: &Value) -> Value {
        self.begin(script, input);
        self.returned().await
    }

    async fn posted(&self, kind: &str) -> Value {
        loop {
            let exchange = self.server.next().await;
            if exchange.head.target() != "/tell" {
                continue;
            }
            let posted: Value =
                serde_json::from_slice(&exchange.body().await).expect("JSON from the page");
            let value = posted.get(kind);
            return value
                .unwrap_or_else(|| panic!("expected that the page has {kind}, found {posted}"))
                .clone();
        }
    }

    /// Lets the page send a request, and says what it could read of the answer.
    pub async fn ask(&self, ask: &Ask) -> Seen {
        Seen(self.run("return ask(input)", &ask.0).await)
    }

    /// The same with a body of this length.
    pub async fn upload(&self, ask: &Ask, length: usize) -> Seen {
        let script = format!("input.init.body = 'x'.repeat({length}); return ask(input)");
        Seen(self.run(&script, &ask.0).await)
    }
}

/// A request of a page.
#[derive(Clone)]
pub struct Ask(Value);

impl Ask {
    pub fn new(method: &str, url: &str) -> Self {
        Self(json!({ "url": url, "init": { "method": method, "headers": {} } }))
    }

    pub fn get(url: &str) -> Self {
        Self::new("GET", url)
    }

    /// With a JSON body.
    pub fn json(self, body: &Value) -> Self {
        self.init("body", &body.to_string())
            .header("Content-Type", "application/json")
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.0["init"]["headers"][name] = json!(value);
        self
    }

    /// One more member of what `fetch` takes.
    pub fn init(mut self, name: &str, value: &str) -> Self {
        self.0["init"][name] = json!(value);
        self
    }

    pub fn bearer(mut self, token: &str) -> Self {
        self.0["token"] = json!(token);
        self
    }

    /// As the SDK sends a token that is bound to a key.
    pub fn dpop(mut self, token: &str, proof: &str) -> Self {
        self.0["scheme"] = json!("DPoP");
        self.0["proof"] = json!(proof);
        self.bearer(token)
    }
}

/// What a page could read of an answer.
#[derive(Debug, PartialEq)]
pub struct Seen(Value);

impl Seen {
    /// That the answer is readable, and its status.
    #[track_caller]
    pub fn status(&self) -> u64 {
        let status = self.0["status"].as_u64();
        status.unwrap_or_else(|| panic!("the page could not read the answer: {}", self.0))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.0["headers"][name].as_str()
    }

    pub fn text(&self) -> &str {
        self.0["body"].as_str().unwrap_or_default()
    }

    /// Fails unless all that the page has got is that there is nothing for it.
    #[track_caller]
    pub fn assert_rejected(&self) {
        assert_eq!(self.0, json!({ "rejected": "TypeError" }));
    }

    /// Fails unless it is authgate's own answer, whole in what it says.
    #[track_caller]
    pub fn assert_own(&self, status: u64, code: &str) {
        assert_eq!(self.status(), status, "{self:?}");
        let body: Value = serde_json::from_str(self.text()).expect("a JSON body");
        assert_eq!(body["code"], code, "{self:?}");
        assert_eq!(
            body["request_id"].as_str(),
            self.header("x-request-id"),
            "{self:?}"
        );
        assert!(body["request_id"].is_string(), "{self:?}");
    }
}
