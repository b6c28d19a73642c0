//! Any bytes from a client, through the real listener and proxy, to an upstream that notes what
//! arrives: no request arrives that was not permitted, each says of its caller what its own token
//! says and no more, all of it is well-formed, and the connection always comes to rest.
//!
//! An input is a byte of flags and the client's bytes, some of which stand for more: see [`expand`].
//! With [`IS_HTTP2`] they are frames: see [`frames`].

use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use authgate::budget::Budgets;
use authgate::canonical::Readings;
use authgate::config::{Config, Environment, Overrides, load_text};
use authgate::keys::{Fetcher, KeyStore};
use authgate::listener::{Client, ConnectionSettings, Phase, Slots, serve_stream};
use authgate::metrics::Metrics;
use authgate::proxy::{Proxy, Settings, Shared};
use authgate::rotation::RotationSettings;
use authgate::tls::Roots;
use authgate::upstream::Connector;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::backends::{Asked, Router, Rule, Rules};
use super::headers::{self, HOP_BY_HOP, fold, passes_from_trusted};
use super::mint::{self, AUDIENCE, ISSUER};
use super::wire::{Event, Field, Head, Kind, Parser};

/// The client speaks HTTP/2, frame by frame.
const IS_HTTP2: u8 = 1;
/// The upstream gets the `Authorization` field; otherwise tokens may stand in other places too.
const FORWARDS_AUTHORIZATION: u8 = 2;
/// The client is a trusted proxy that sends a PROXY header first.
const IS_TRUSTED: u8 = 4;
/// The client goes away without a word at the end.
const VANISHES: u8 = 8;

/// The most that a client sends: less than the pipe to the server holds, so that no write waits.
const MAX_SENT: usize = 200 * 1024;
const PIPE: usize = 256 * 1024;

/// How often everybody gets a turn without anything moving until nothing will move any more.
const QUIET_TURNS: usize = 24;
/// How many turns a whole input may take.
const MAX_TURNS: usize = 200_000;

/// Far beyond what a run takes: nothing here is to depend on the time.
const NEVER: Duration = Duration::from_hours(1);

const SUBJECT: &str = "x-forwarded-user";

/// A caller with the scope that some routes ask for, one without, and one whose token is over.
struct Caller {
    subject: &'static str,
    token: String,
    has_scope: bool,
}

static CALLERS: LazyLock<[Caller; 3]> = LazyLock::new(|| {
    [
        ("auth0|held", "held", 4_000_000_000_u64),
        ("auth0|plain", "", 4_000_000_000),
        ("auth0|expired", "held", 1_000_000_000),
    ]
    .map(|(subject, scope, exp)| Caller {
        subject,
        token: mint::with_payload(
            &json!({"iss":ISSUER,"aud":AUDIENCE,"exp":exp,"sub":subject,"scope":scope}),
        ),
        has_scope: scope == "held",
    })
});

/// What is the same for every input.
struct World {
    upstream: UnixListener,
    keys: Arc<KeyStore>,
    /// Without and with `identity.forward_authorization`.
    configs: [Config; 2],
    /// For callers with the scope, and for those without.
    rules: [Rules; 2],
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

impl World {
    fn new() -> Self {
        let folder = option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, Into::into);
        let base = folder.join(format!("authgate-fuzz-{}", std::process::id()));
        let (socket, key_file) = (base.with_extension("sock"), base.with_extension("jwks"));
        _ = std::fs::remove_file(&socket);
        let upstream = UnixListener::bind(&socket).expect("a socket");
        upstream.set_nonblocking(true).expect("non-blocking");
        let document = json!({"keys":[mint::jwk()]});
        std::fs::write(&key_file, document.to_string()).expect("a key file");
        let configs = [false, true]
            .map(|forward_authorization| config(&socket, &key_file, forward_authorization));
        let keys = load_keys(&configs[0]);
        _ = std::fs::remove_file(&key_file);
        Self {
            upstream,
            keys,
            configs,
            rules: [Asked::AnyToken, Asked::AnotherScope].map(rules),
        }
    }
}

/// The table of [`config`], with what the scoped routes ask of this caller.
fn rules(scoped: Asked) -> Rules {
    let rule = |path: &str, methods: &[&'static str], access| Rule {
        path: path.to_owned(),
        methods: methods.to_vec(),
        access,
    };
    Rules::new(
        vec![
            rule("/public/**", &[], Asked::Anything),
            rule("/public/*/private", &[], Asked::Impossible),
            rule("/admin/**", &[], Asked::Impossible),
            rule("/held/**", &[], scoped),
            rule("/m", &["GET"], Asked::Anything),
            rule("/m", &["POST"], scoped),
        ],
        false,
    )
}

fn config(
    socket: &std::path::Path,
    key_file: &std::path::Path,
    forward_authorization: bool,
) -> Config {
    let sources = !forward_authorization;
    let text = format!(
        r#"
        upstream = "unix:{socket}"
        admin = "off"
        trusted_proxies = ["10.0.0.0/8"]
        proxy_protocol = true
        [auth0]
        domain = "tenant.us.auth0.com"
        audience = "{AUDIENCE}"
        algorithms = ["EdDSA"]
        [auth0.keys]
        file = "{key_file}"
        cooldown = "8784h"
        serve_stale = "8784h"
        [identity]
        forward_authorization = {forward_authorization}
        [limits]
        header_bytes = "8KiB"
        body_bytes = "64KiB"
        [timeouts]
        response_header = "1h"
        [token_sources]
        query_parameter = "{parameter}"
        websocket_protocol = {sources}
        [[route]]
        path = "/public/**"
        access = "public"
        [[route]]
        path = "/public/*/private"
        access = "deny"
        [[route]]
        path = "/admin/**"
        access = "deny"
        [[route]]
        path = "/held/**"
        require = {{ scopes = ["held"] }}
        [[route]]
        path = "/m"
        methods = ["GET"]
        access = "public"
        [[route]]
        path = "/m"
        methods = ["POST"]
        require = {{ scopes = ["held"] }}
        "#,
        socket = socket.display(),
        key_file = key_file.display(),
        parameter = if sources { "access_token" } else { "" },
    );
    load_text(
        "fuzz",
        &text,
        &Overrides::default(),
        &Environment::default(),
    )
    .config
    .expect("a configuration")
}

/// A store with the key, which asks for no other during the run.
fn load_keys(config: &Config) -> Arc<KeyStore> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let keys = &config.auth0.keys;
    let settings = RotationSettings {
        refresh: keys.refresh,
        cooldown: keys.cooldown,
        serve_stale: keys.serve_stale,
    };
    let metrics = Arc::new(Metrics::new());
    let store = Arc::new(KeyStore::new(&config.auth0.tenants, settings, metrics));
    runtime.block_on(async {
        let tls = Roots::load(None)
            .expect("roots")
            .client_config(authgate::tls::HTTP_1_1);
        let fetcher = Fetcher::new(tls.expect("TLS"), NEVER);
        let algorithms = config.auth0.verifier.algorithms.clone();
        let refresher = Arc::clone(&store).refresh_forever(0, fetcher, algorithms);
        let refresher = tokio::spawn(refresher);
        let mut complete = store.complete();
        complete.wait_for(|complete| *complete).await.expect("keys");
        // From here on unknown keys are refused without waiting for anybody: the fetch is over, and no other
        // may run.
        let issuers = config.auth0.tenants.iter();
        let issuers: Vec<&str> = issuers.map(|tenant| tenant.issuer.as_str()).collect();
        let newer = store.newer_than(&store.current(), &issuers).await;
        assert!(newer.expect("nobody waits").is_none(), "there is one fetch");
        refresher.abort();
    });
    store
}

pub fn run(data: &[u8]) {
    let Some((flags, script)) = data.split_first() else {
        return;
    };
    let sent = if flags & IS_HTTP2 != 0 {
        frames(script)
    } else {
        expand(script)
    };
    let answers = Answers::of(flags >> 4);
    // It has a runtime of its own, and there cannot be two.
    LazyLock::force(&WORLD);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let observed = runtime.block_on(converse(*flags, &sent, answers));
    drop(runtime);
    // Connections that nobody accepted any more.
    while WORLD.upstream.accept().is_ok() {}
    observed.check(*flags, &sent);
}

/// What a client does, one thing after the other.
enum Act {
    Send(Vec<u8>),
    /// Waits until nothing moves any more.
    Pause,
    /// Sends no more.
    Close,
}

/// The bytes 0xf1 to 0xf3 stand for tokens, 0xf4 for a pause, 0xf5 for the end of what is sent, and
/// 0xf6 for the last 16 bytes 255 times more. 0xf7 is for the byte after it as it is.
fn expand(script: &[u8]) -> Vec<Act> {
    let mut acts = Vec::new();
    let mut bytes = Vec::new();
    let mut total = 0_usize;
    let mut script = script.iter();
    while let Some(byte) = script.next() {
        let before = bytes.len();
        match byte {
            0xf1..=0xf3 => {
                bytes.extend_from_slice(CALLERS[usize::from(byte - 0xf1)].token.as_bytes());
            }
            0xf4 => {
                acts.push(Act::Send(std::mem::take(&mut bytes)));
                acts.push(Act::Pause);
                continue;
            }
            0xf5 => {
                acts.push(Act::Send(std::mem::take(&mut bytes)));
                acts.push(Act::Close);
                continue;
            }
            0xf6 => {
                let last = bytes[before.saturating_sub(16)..].to_vec();
                bytes.extend_from_slice(&last.repeat(255));
            }
            0xf7 => bytes.extend(script.next()),
            byte => bytes.push(*byte),
        }
        total += bytes.len() - before;
        if total > MAX_SENT {
            bytes.truncate(bytes.len() - (total - MAX_SENT));
            break;
        }
    }
    acts.push(Act::Send(bytes));
    acts
}

/// Frames that stand one after the other, divided by 0xff: type, stream and flags in a byte each, then
/// the payload. `H` is followed by fields as lines, `C` too; `!` by bytes as they are.
fn frames(script: &[u8]) -> Vec<Act> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let mut acts = Vec::new();
    let mut total = 0_usize;
    for part in script.split(|byte| *byte == 0xff) {
        let (kind, rest) = match part.split_first() {
            Some((b'!', rest)) => {
                bytes.extend_from_slice(rest);
                continue;
            }
            Some((kind, rest)) => (*kind, rest),
            None => {
                acts.push(Act::Send(std::mem::take(&mut bytes)));
                acts.push(Act::Pause);
                continue;
            }
        };
        let [stream, flags, payload @ ..] = rest else {
            continue;
        };
        let mut text = Vec::new();
        for act in expand(payload) {
            if let Act::Send(more) = act {
                text.extend_from_slice(&more);
            }
        }
        let (number, payload) = match kind {
            b'D' => (0, text),
            b'H' => (1, fields(&text, flags & 0x40 != 0)),
            b'R' => (3, text),
            b'S' => (4, text),
            b'P' => (6, text),
            b'G' => (7, text),
            b'W' => (8, text),
            b'C' => (9, fields(&text, false)),
            other => (other, text),
        };
        let stream = match stream % 16 {
            0 => 0,
            number => u32::from(number) * 2 - 1,
        };
        for payload in payload
            .chunks(16_384)
            .chain(payload.is_empty().then_some(&[][..]))
        {
            let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
            total += payload.len();
            if total > MAX_SENT / 2 {
                break;
            }
            bytes.extend_from_slice(&length[1..]);
            bytes.extend_from_slice(&[number, *flags & 0x2d]);
            bytes.extend_from_slice(&stream.to_be_bytes());
            bytes.extend_from_slice(payload);
        }
    }
    acts.push(Act::Send(bytes));
    acts
}

/// RFC 7541 §6.2: each field as a literal, which the decoder is to remember or not.
fn fields(text: &[u8], indexed: bool) -> Vec<u8> {
    let mut block = Vec::new();
    let string = |block: &mut Vec<u8>, text: &[u8]| {
        match text.len() {
            short @ 0..127 => block.extend(u8::try_from(short)),
            long => {
                block.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    block.push(0x80 | u8::try_from(rest % 128).expect("seven bits"));
                    rest /= 128;
                }
                block.extend(u8::try_from(rest));
            }
        }
        block.extend_from_slice(text);
    };
    for line in text.split(|byte| *byte == b'\n') {
        // The first colon of a pseudo-header field is part of its name.
        let place = line.iter().skip(1).position(|byte| *byte == b':');
        let Some(place) = place.map(|place| place + 1) else {
            // An index, or whatever else it means.
            block.extend_from_slice(line);
            continue;
        };
        block.push(if indexed { 0x40 } else { 0 });
        string(&mut block, &line[..place]);
        string(&mut block, line[place + 1..].trim_ascii_start());
    }
    block
}

/// How the upstream answers.
#[derive(Clone, Copy)]
enum Answers {
    Length,
    Chunked,
    Early,
    ToTheEnd,
    AfterHints,
    Broken,
    Switching,
    NotAtAll,
}

impl Answers {
    const fn of(number: u8) -> Self {
        match number % 8 {
            0 => Self::Length,
            1 => Self::Chunked,
            2 => Self::Early,
            3 => Self::ToTheEnd,
            4 => Self::AfterHints,
            5 => Self::Broken,
            6 => Self::Switching,
            _ => Self::NotAtAll,
        }
    }

    const fn text(self) -> &'static [u8] {
        match self {
            Self::Length | Self::Early | Self::Switching => {
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\n\r\nok"
            }
            Self::Chunked => {
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n2\r\nok\r\n0\r\nx: y\r\n\r\n"
            }
            Self::ToTheEnd => b"HTTP/1.0 200 OK\r\nConnection: x-secret\r\nX-Secret: 1\r\n\r\nok",
            Self::AfterHints => {
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: link\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            }
            Self::Broken => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok",
            Self::NotAtAll => b"",
        }
    }
}

/// What one input has led to.
#[derive(Default)]
struct Observed {
    requests: Vec<Arrived>,
    /// What is not HTTP.
    malformed: Option<String>,
    received: Vec<u8>,
}

/// A request that arrived at the upstream.
struct Arrived {
    head: Head,
    trailers: Vec<Field>,
}

type Notes = Arc<Mutex<Observed>>;

fn noted<T>(notes: &Notes, note: impl FnOnce(&mut Observed) -> T) -> T {
    note(&mut notes.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Counts everything that moves.
type Moves = Arc<AtomicUsize>;

async fn converse(flags: u8, sent: &[Act], answers: Answers) -> Observed {
    let world = &*WORLD;
    let notes: Notes = Notes::default();
    let moves = Moves::default();
    let listener = world.upstream.try_clone().expect("a socket");
    let listener = tokio::net::UnixListener::from_std(listener).expect("a socket");
    let upstream = tokio::spawn(accept(
        listener,
        answers,
        Arc::clone(&notes),
        Arc::clone(&moves),
    ));

    let mut config = world.configs[usize::from(flags & FORWARDS_AUTHORIZATION != 0)].clone();
    config.timeouts.response_header = NEVER;
    let connector = Connector::new(&config.upstream, config.upstream_protocol, NEVER);
    let connector = connector.expect("a connector");
    let settings = Arc::new(ConnectionSettings {
        header_timeout: NEVER,
        idle_timeout: NEVER,
        max_header_bytes: config.limits.header_bytes,
        max_headers: config.limits.headers,
        trusted_proxies: config.trusted_proxies.clone(),
        proxy_protocol: true,
        tls: None,
    });
    let rules = Settings::new(config, Arc::clone(&world.keys), connector, None);
    let shared = Arc::new(Shared::new(rules, Arc::new(Metrics::new())));
    let proxy = Arc::new(Proxy::new(shared));
    let (_phase, phase) = watch::channel(Phase::Serving);
    let slots = Slots::new(&Budgets::default());
    let slot = slots.slot().await.expect("a slot");
    let address: IpAddr = if flags & IS_TRUSTED != 0 {
        IpAddr::from([10, 0, 0, 9])
    } else {
        IpAddr::from([192, 0, 2, 1])
    };
    let client = Client::new(Some(SocketAddr::from((address, 1))), phase, slot);
    let (near, far) = tokio::io::duplex(PIPE);
    let server = tokio::spawn(serve_stream(far, settings, client, proxy));
    let (mut reader, mut writer) = tokio::io::split(near);
    let listening = tokio::spawn({
        let (notes, moves) = (Arc::clone(&notes), Arc::clone(&moves));
        async move {
            let mut space = vec![0; 16 * 1024];
            while let Ok(length @ 1..) = reader.read(&mut space).await {
                moves.fetch_add(1, Ordering::Relaxed);
                noted(&notes, |seen| {
                    seen.received.extend_from_slice(&space[..length])
                });
            }
            reader
        }
    });

    let mut turns = 0;
    let mut is_open = true;
    for act in sent {
        match act {
            // A server that has hung up is no error.
            Act::Send(bytes) if is_open => is_open = writer.write_all(bytes).await.is_ok(),
            Act::Send(_) => {}
            Act::Pause => settle(&moves, &mut turns).await,
            Act::Close => {
                _ = writer.shutdown().await;
                is_open = false;
            }
        }
    }
    settle(&moves, &mut turns).await;
    if flags & VANISHES == 0 {
        _ = writer.shutdown().await;
        settle(&moves, &mut turns).await;
    }
    listening.abort();
    if let Err(error) = listening.await
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
    drop(writer);
    settle(&moves, &mut turns).await;
    assert!(
        server.is_finished(),
        "a connection without a client goes on"
    );
    if let Err(error) = server.await {
        std::panic::resume_unwind(error.into_panic());
    }
    upstream.abort();
    noted(&notes, std::mem::take)
}

/// Lets everybody have turns until nothing moves any more.
async fn settle(moves: &Moves, turns: &mut usize) {
    let mut last = moves.load(Ordering::Relaxed);
    let mut quiet = 0;
    while quiet < QUIET_TURNS {
        // The runtime looks for I/O before it comes back here.
        tokio::task::yield_now().await;
        let now = moves.load(Ordering::Relaxed);
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
        *turns += 1;
        assert!(*turns < MAX_TURNS, "it does not come to rest");
    }
}

async fn accept(listener: tokio::net::UnixListener, answers: Answers, notes: Notes, moves: Moves) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        moves.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(answer(
            stream,
            answers,
            Arc::clone(&notes),
            Arc::clone(&moves),
        ));
    }
}

/// Notes what arrives on one connection, and answers it.
async fn answer(mut stream: UnixStream, answers: Answers, notes: Notes, moves: Moves) {
    let mut parser = Parser::new(Kind::Requests);
    let mut space = vec![0; 16 * 1024];
    loop {
        loop {
            match parser.next_event() {
                Ok(Some(Event::Head(head))) => {
                    let is_upgrade = head.fields.iter().any(|(name, _)| name == "upgrade");
                    let trailers = Vec::new();
                    noted(&notes, |seen| {
                        seen.requests.push(Arrived { head, trailers })
                    });
                    if matches!(answers, Answers::Switching) && is_upgrade {
                        parser.switch();
                        let text = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello";
                        _ = stream.write_all(text).await;
                    } else if matches!(answers, Answers::Early) {
                        _ = stream.write_all(answers.text()).await;
                    }
                }
                Ok(Some(Event::End(trailers))) => {
                    noted(&notes, |seen| {
                        if let Some(request) = seen.requests.last_mut() {
                            request.trailers = trailers;
                        }
                    });
                    if !matches!(answers, Answers::Early) {
                        _ = stream.write_all(answers.text()).await;
                    }
                    if matches!(answers, Answers::ToTheEnd | Answers::Broken) {
                        return;
                    }
                }
                Ok(None) => break,
                Err(why) => {
                    noted(&notes, |seen| seen.malformed = Some(why));
                    return;
                }
            }
        }
        match stream.read(&mut space).await {
            Ok(length @ 1..) => {
                moves.fetch_add(1, Ordering::Relaxed);
                parser.feed(&space[..length]);
            }
            _ => return,
        }
    }
}

impl Observed {
    fn check(&self, flags: u8, sent: &[Act]) {
        assert_eq!(self.malformed, None, "what arrives is not HTTP");
        for request in &self.requests {
            check_fields(request, flags);
            check_permitted(request, flags);
        }
        if flags & IS_HTTP2 == 0 {
            self.check_counts(sent);
            self.check_received(sent);
        }
    }

    /// A token speaks for the requests that it came with, and for no more.
    fn check_counts(&self, sent: &[Act]) {
        for caller in &*CALLERS {
            let arrived = self
                .requests
                .iter()
                .filter(|request| request.subject() == Some(caller.subject))
                .count();
            assert!(
                arrived == 0 || arrived <= occurrences(sent, &caller.token),
                "{} speaks for more requests than it came with",
                caller.subject
            );
        }
    }

    /// What an HTTP/1 client receives is well-formed, too.
    fn check_received(&self, sent: &[Act]) {
        // Whether an answer has a body depends on the request.
        if occurrences(sent, "HEAD") > 0 {
            return;
        }
        let mut parser = Parser::new(Kind::Answers);
        parser.feed(&self.received);
        loop {
            match parser.next_event() {
                Ok(Some(Event::Head(head))) => {
                    let is_secret = |name: &str| name == "x-secret" || name == "keep-alive";
                    assert!(!head.fields.iter().any(|(name, _)| is_secret(name)));
                }
                Ok(Some(Event::End(_))) => {}
                Ok(None) => return,
                Err(why) => panic!("{why}: {:?}", String::from_utf8_lossy(&self.received)),
            }
        }
    }
}

fn occurrences(sent: &[Act], text: &str) -> usize {
    let mut whole = Vec::new();
    for act in sent {
        if let Act::Send(bytes) = act {
            whole.extend_from_slice(bytes);
        }
    }
    // Other bytes than those of a text become other letters of another text.
    String::from_utf8_lossy(&whole).matches(text).count()
}

impl Arrived {
    fn all<'r>(&'r self, name: &str) -> Vec<&'r str> {
        let fields = self.head.fields.iter();
        fields
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    fn subject(&self) -> Option<&str> {
        self.all(SUBJECT).first().copied()
    }
}

/// The fields are the client's without a trace of what it must not say.
fn check_fields(request: &Arrived, flags: u8) {
    for name in [
        "host",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    ] {
        assert_eq!(request.all(name).len(), 1, "{name}: {:?}", request.head);
    }
    for name in ["traceparent", SUBJECT] {
        assert!(request.all(name).len() <= 1, "{name}: {:?}", request.head);
    }
    assert!(!request.all("via").is_empty());
    let addresses = request.all("x-forwarded-for");
    if flags & IS_TRUSTED == 0 {
        assert_eq!(addresses, ["192.0.2.1"]);
    }
    let is_upgrade = !request.all("upgrade").is_empty();
    if is_upgrade {
        assert_eq!(request.all("upgrade"), ["websocket"]);
        assert_eq!(request.all("connection"), ["upgrade"]);
        assert_eq!(request.head.method, "GET");
    }
    let own = [
        "forwarded",
        "traceparent",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
        SUBJECT,
    ];
    for (name, _) in &request.head.fields {
        let allowed = match name.as_str() {
            "transfer-encoding" => true,
            "connection" | "upgrade" => is_upgrade,
            "authorization" => flags & FORWARDS_AUTHORIZATION != 0,
            // A trusted proxy says it, and nothing is added to it.
            "x-forwarded-port" | "x-forwarded-prefix" => flags & IS_TRUSTED != 0,
            // Managed here where a header is named after it.
            "x-auth-claims" | "x-user-name" => true,
            name if HOP_BY_HOP.contains(&name) => false,
            name if own.contains(&name) => true,
            name if passes_from_trusted(name) => flags & IS_TRUSTED != 0,
            name => !is_managed(name),
        };
        assert!(allowed, "{name} reaches the upstream: {:?}", request.head);
    }
    for (name, _) in &request.trailers {
        let allowed = !is_managed(name)
            && !HOP_BY_HOP.contains(&name.as_str())
            && !["authorization", "content-length", "host"].contains(&name.as_str());
        assert!(allowed, "{name} reaches the upstream in a trailer");
    }
}

fn is_managed(name: &str) -> bool {
    let folded = fold(name);
    let unmanaged = ["x-auth-claims", "x-user-name"];
    headers::is_managed(&folded) && !unmanaged.contains(&folded.as_str())
}

/// The rules let the request pass for the caller that it names, however its path is read.
fn check_permitted(request: &Arrived, flags: u8) {
    let head = &request.head;
    assert!(!["CONNECT", "TRACE"].contains(&head.method.as_str()));
    let caller = request.subject().map(|subject| {
        CALLERS
            .iter()
            .take(2)
            .find(|caller| caller.subject == subject)
            .unwrap_or_else(|| panic!("nobody is {subject:?}"))
    });
    if flags & FORWARDS_AUTHORIZATION != 0 {
        // The only place for a token, so it is the one that has spoken.
        let shown = request.all("authorization");
        let is_bearer = |line: &&&str| line.to_ascii_lowercase().starts_with("bearer ");
        let token = shown.iter().find(is_bearer).map(|line| line[7..].trim());
        assert_eq!(token, caller.map(|caller| caller.token.as_str()));
    } else {
        let query = head.target.split_once('?').map_or("", |(_, query)| query);
        let parameter = |pair: &str| pair.split('=').next() == Some("access_token");
        assert!(!query.split('&').any(parameter), "{}", head.target);
    }

    let path = head.target.split('?').next().unwrap_or_default();
    let readings = Readings::of(path).expect("it was decided on");
    let is_preflight = head.method == "OPTIONS"
        && caller.is_none()
        && !request.all("origin").is_empty()
        && request.all("access-control-request-method").len() == 1;
    for reading in readings.iter() {
        for (ignores_case, ignores_trailing_slash) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let router = Router {
                takes_format_suffix: true,
                ignores_case,
                ignores_trailing_slash,
            };
            let passes = |rules: &Rules, method: &str, has_token: bool| {
                rules.lets_pass(router, reading, method, has_token)
            };
            let passes = match caller {
                // A preflight brings no token, and passes where some token could.
                None if is_preflight => {
                    let asked = request.all("access-control-request-method");
                    passes(&WORLD.rules[0], asked[0], true)
                }
                None => passes(&WORLD.rules[0], &head.method, false),
                Some(caller) => {
                    let rules = &WORLD.rules[usize::from(!caller.has_scope)];
                    passes(rules, &head.method, true)
                }
            };
            assert!(passes, "{router:?} reads {reading:?}: {head:?}");
        }
    }
}
