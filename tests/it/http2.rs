//! Hostile HTTP/2 clients: whatever they send, the process stays within bounds and others are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::issuer::Issuer;
use crate::support::frames::{
    ACK, CANCEL, CONTINUATION, DATA, ENABLE_CONNECT_PROTOCOL, END_HEADERS, END_STREAM,
    ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, Frames, GOAWAY, HEADER_TABLE_SIZE,
    HEADERS, INITIAL_WINDOW_SIZE, LARGEST_FRAME, LARGEST_WINDOW, MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE, NEWEST, NO_ERROR, PADDED, PREFACE, PRIORITY, PROTOCOL_ERROR,
    PUSH_PROMISE, REFUSED_STREAM, RST_STREAM, SETTINGS, USUAL_WINDOW, Verdict, WHOLE,
    WITH_PRIORITY, block, data, dependency, frame, goaway, indexed, ping, priority, pseudo, reset,
    settings, window_update,
};
use crate::support::upstream::{Feed, response};
use crate::support::{
    Client, Exchange, Findings, Head, Proxy, Reply, Request, Setup, Upstream, within,
};

/// Every second of patience that a test cuts short is one that it takes.
const SHORT: Duration = Duration::from_secs(1);

/// Timers count in milliseconds, and may begin a little before the test looks at its clock.
const NEARLY_SHORT: Duration = Duration::from_millis(900);

/// How late an end may come on a machine that is busy with the attack.
const LATE: Duration = Duration::from_secs(5);

/// The same for the program.
const SHORT_TIMES: &str = "[timeouts]\nheader = \"1s\"\nidle = \"1s\"";

/// What an attack may cost in memory, in KiB, where nothing else is said: the buffers of a few
/// connections, and code that had not run before.
const SLACK_KIB: usize = 8 << 10;

/// What is asked for of the upstream in the good client's name.
const GOOD: &str = "/good";

/// A proxy with one user, who is served whatever happens.
struct Scene {
    _issuer: Issuer,
    upstream: Upstream,
    proxy: Proxy,
    token: String,
    /// How many requests that are not the good client's have reached the upstream.
    reached: Arc<AtomicUsize>,
}

impl Scene {
    async fn new(behaviour: impl Fn(&Head) -> Reply + Send + Sync + 'static, rest: &str) -> Self {
        let issuer = Issuer::start();
        let reached = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&reached);
        let upstream = Upstream::start(move |head| {
            if head.target() == GOOD {
                return Reply::ok("hello");
            }
            counter.fetch_add(1, Ordering::SeqCst);
            behaviour(head)
        });
        let proxy = Setup::new(&issuer, &upstream).rest(rest).start().await;
        let token = issuer.user("auth0|alice").mint();
        Self {
            _issuer: issuer,
            upstream,
            proxy,
            token,
            reached,
        }
    }

    /// With an upstream that answers everything.
    async fn hello(rest: &str) -> Self {
        Self::new(|_| Reply::ok("hello"), rest).await
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    async fn connect(&self) -> Frames {
        Frames::connect(self.proxy.data).await
    }

    fn reached(&self) -> usize {
        self.reached.load(Ordering::SeqCst)
    }

    /// The next request at the upstream that is not the good client's.
    async fn next(&self) -> Exchange {
        let next = async {
            loop {
                let exchange = self.upstream.next().await;
                if exchange.head.target() != GOOD {
                    return exchange;
                }
            }
        };
        within("a request of the attack", next).await
    }

    /// One good request over a connection of its own.
    async fn good(&self) {
        let answer = self
            .proxy
            .send(&Request::get(GOOD).bearer(&self.token))
            .await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
    }

    /// Runs an attack while the good client is served again and again, and holds the memory of the
    /// process to `slack_kib` more than before. Returns how often the good client was served, too.
    async fn during<F: Future>(&self, slack_kib: usize, attack: F) -> (F::Output, usize) {
        for _ in 0..3 {
            self.good().await;
        }
        let before = self.proxy.resident_kib();
        let (mut most, mut served) = (before, 0);
        let serve = async {
            loop {
                self.good().await;
                served += 1;
                most = most.max(self.proxy.resident_kib());
            }
        };
        let outcome = tokio::select! {
            outcome = attack => outcome,
            () = serve => unreachable!("serving has no end"),
        };
        self.good().await;
        let grown = most.max(self.proxy.resident_kib()) - before;
        assert!(grown < slack_kib, "it has grown by {grown} KiB");
        (outcome, served)
    }
}

fn whole(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &block(fields))
}

/// The fields of a request with a token, which comes fifth.
fn with_token<'a>(method: &'a str, path: &'a str, bearer: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut fields = pseudo(method, path);
    fields.push(("authorization", bearer));
    fields
}

/// The number of the client's stream `index`.
fn stream(index: usize) -> u32 {
    u32::try_from(2 * index + 1).expect("few streams")
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_end_the_connection() {
    // CVE-2023-44487: each costs the server a request, and none counts as open.
    const STREAMS: usize = 2_000;
    const ROUNDS: usize = 10;
    let scene = Scene::hello("").await;
    let fields = pseudo("GET", "/x");
    let burst: Vec<u8> = (0..STREAMS)
        .map(stream)
        .flat_map(|id| [whole(id, &fields), reset(id, CANCEL)].concat())
        .collect();
    let attack = async {
        for _ in 0..ROUNDS {
            let mut attacker = scene.connect().await;
            attacker.send(&burst).await;
            assert_eq!(attacker.end().await.goaway, [ENHANCE_YOUR_CALM]);
        }
    };
    scene.during(SLACK_KIB, attack).await;
    assert_eq!(scene.reached(), 0);
}

/// What makes the server reset stream `id`, which is open, or end the connection (CVE-2025-8671: such
/// a stream does not count as open any more, though its request may still be at work).
fn provocations(id: u32) -> [(&'static str, Vec<u8>, u32); 6] {
    [
        (
            "a window too large",
            window_update(id, LARGEST_WINDOW),
            ENHANCE_YOUR_CALM,
        ),
        (
            "a stream that depends on itself",
            priority(id, id),
            ENHANCE_YOUR_CALM,
        ),
        (
            "a window that does not grow",
            window_update(id, 0),
            PROTOCOL_ERROR,
        ),
        ("a body after the end", data(0, id, b"more"), PROTOCOL_ERROR),
        (
            "a head after the end",
            whole(id, &pseudo("GET", "/x")),
            PROTOCOL_ERROR,
        ),
        (
            "a priority of the wrong size",
            frame(PRIORITY, 0, id, b"abc"),
            PROTOCOL_ERROR,
        ),
    ]
}

#[tokio::test]
async fn errors_that_the_server_answers_with_resets_are_counted() {
    /// As `connection.rs` says.
    const MOST_RESETS: usize = 256;
    let scene = Scene::new(|_| Reply::Hang, "").await;
    let bearer = scene.bearer();
    let fields = with_token("GET", "/x", &bearer);
    let mut findings = Findings::default();
    for case in 0..provocations(1).len() {
        let (name, _, code) = provocations(1)[case].clone();
        let attack = async {
            let mut attacker = scene.connect().await;
            let mut requests = Vec::new();
            let mut resets = 0;
            for id in (0..2 * MOST_RESETS).map(stream) {
                attacker.send(&whole(id, &fields)).await;
                // The request is at work, and then nobody waits for it any more.
                let exchange = loop {
                    tokio::select! {
                        exchange = scene.next() => break Ok(exchange),
                        frame = attacker.next() => match frame {
                            Some(frame) if frame.kind == GOAWAY => break Err(Some(frame.code())),
                            Some(frame) => resets += usize::from(frame.kind == RST_STREAM),
                            None => break Err(None),
                        },
                    }
                };
                match exchange {
                    Ok(exchange) => requests.push(exchange),
                    Err(code) => {
                        let count = requests.len();
                        for exchange in requests {
                            exchange.closed().await;
                        }
                        return (code, resets, count);
                    }
                }
                attacker.send(&provocations(id)[case].1).await;
            }
            (None, resets, requests.len())
        };
        let ((end, resets, requests), _) = scene.during(SLACK_KIB, attack).await;
        let most = if code == ENHANCE_YOUR_CALM {
            MOST_RESETS
        } else {
            0
        };
        findings.check(name, end == Some(code) && resets == most, || {
            format!("{resets} resets and {end:?}")
        });
        findings.check(name, requests <= most + 1, || {
            format!("{requests} requests")
        });
    }
    findings.assert_none();
}

#[tokio::test]
async fn heads_that_never_end_end_the_connection() {
    // RUSTSEC-2024-0332.
    const FRAMES: usize = 50_000;
    const ROUNDS: usize = 5;
    let scene = Scene::hello("").await;
    let start = block(&pseudo("GET", "/x"));
    let large = block(&[("x-more", "y".repeat(16_000))]);
    for (name, more) in [
        ("empty", vec![]),
        ("small", block(&[("x", "y")])),
        ("large", large),
    ] {
        let attack = async {
            for _ in 0..ROUNDS {
                let mut attacker = scene.connect().await;
                attacker.send(&frame(HEADERS, END_STREAM, 1, &start)).await;
                let mut flood = Vec::new();
                for _ in 0..FRAMES.min((8 << 20) / (9 + more.len())) {
                    flood.extend(frame(CONTINUATION, 0, 1, &more));
                }
                attacker.send(&flood).await;
                assert_eq!(attacker.end().await.goaway, [ENHANCE_YOUR_CALM], "{name}");
            }
        };
        scene.during(SLACK_KIB, attack).await;
    }
    assert_eq!(scene.reached(), 0);
}

#[tokio::test]
async fn data_without_data_ends_the_connection() {
    // RUSTSEC-2026-0258.
    const FRAMES: usize = 50_000;
    let scene = Scene::new(|_| Reply::Hang, "").await;
    let bearer = scene.bearer();
    let padded = frame(DATA, PADDED, 1, &[&[255][..], &[0; 255]].concat());
    for (name, empty) in [("empty", data(0, 1, b"")), ("padding only", padded)] {
        for authorised in [true, false] {
            let mut fields = with_token("POST", "/x", &bearer);
            fields.truncate(if authorised { 5 } else { 4 });
            let attack = async {
                let mut attacker = scene.connect().await;
                attacker.head(1, END_HEADERS, &fields).await;
                let exchange = if authorised {
                    Some(scene.next().await)
                } else {
                    assert_eq!(attacker.verdict(1).await, Verdict::Status(401));
                    None
                };
                attacker.send(&empty.repeat(FRAMES)).await;
                let end = attacker.end().await.goaway;
                // Padding counts for the windows, which this client does not keep to.
                let codes = [ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR];
                let last = end.last().copied();
                assert!(
                    last.is_some_and(|code| codes.contains(&code)),
                    "{name}: {end:?}"
                );
                if let Some(exchange) = exchange {
                    exchange.closed().await;
                }
            };
            scene.during(SLACK_KIB, attack).await;
        }
    }
    assert_eq!(scene.reached(), 2);
}

#[tokio::test]
async fn floods_end_with_the_time_for_a_head() {
    const TIMES: usize = 4096;
    const ROUNDS: usize = 5;
    let scene = Scene::hello(SHORT_TIMES).await;
    let one = settings(&[(INITIAL_WINDOW_SIZE, 1)]);
    let most = settings(&[(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)]);
    let floods = [
        ("settings", settings(&[])),
        ("windows", [one, most].concat()),
        ("pings", ping(0)),
        ("pongs", ping(ACK)),
        ("priorities", priority(1, 3)),
        ("updates", window_update(0, 1)),
        ("unknown frames", frame(0xfa, 0, 0, b"")),
    ];
    let mut findings = Findings::default();
    for (case, reads, asks) in [
        ("reading", true, false),
        ("reading, after a request", true, true),
        ("deaf", false, false),
    ] {
        let mut served = 0;
        // Seven of them and the test itself share few cores: once may be too short to be served.
        for _ in 0..ROUNDS {
            if served > 0 {
                break;
            }
            let mut attackers = JoinSet::new();
            for (name, bytes) in floods.clone() {
                let (address, flood) = (scene.proxy.data, bytes.repeat(TIMES));
                attackers.spawn(async move {
                    let mut attacker = Frames::connect(address).await;
                    if asks {
                        attacker.request(1, "/x", &[]).await;
                        assert_eq!(attacker.verdict(1).await, Verdict::Status(401));
                    }
                    let begun = Instant::now();
                    attacker.flood(&flood, reads).await;
                    (name, begun.elapsed())
                });
            }
            let (ended, during) = scene.during(SLACK_KIB, attackers.join_all()).await;
            served += during;
            for (name, lasted) in ended {
                let in_time = (NEARLY_SHORT / 2..LATE).contains(&lasted);
                findings.check(name, in_time, || format!("{case}: ended after {lasted:?}"));
            }
        }
        findings.check(case, served > 0, || "nobody else was served".to_owned());
    }
    findings.assert_none();
    assert_eq!(scene.reached(), 0);
}

#[tokio::test]
async fn a_small_head_that_unpacks_to_a_large_one_ends_the_connection() {
    const ROUNDS: usize = 20;
    let scene = Scene::hello("").await;
    // 4,000 bytes enter the table, and each further byte stands for all of them.
    let entry = indexed("x-bomb", &"b".repeat(4_000));
    let bomb = |count| {
        [
            block(&pseudo("GET", "/x")),
            entry.clone(),
            vec![NEWEST; count],
        ]
        .concat()
    };
    let mut findings = Findings::default();
    for (name, block, expected) in [
        ("large", bomb(20), Verdict::Status(431)),
        ("huge", bomb(12_000), Verdict::GoAway(ENHANCE_YOUR_CALM)),
    ] {
        let attack = async {
            let mut verdict = Verdict::End;
            for _ in 0..ROUNDS {
                let mut attacker = scene.connect().await;
                attacker.send(&frame(HEADERS, WHOLE, 1, &block)).await;
                verdict = attacker.verdict(1).await;
            }
            verdict
        };
        let (verdict, _) = scene.during(SLACK_KIB, attack).await;
        findings.check(name, verdict == expected, || format!("{verdict:?}"));
    }
    findings.assert_none();
    assert_eq!(scene.reached(), 0);
}

#[tokio::test]
async fn a_head_has_limits_over_http_2_too() {
    let scene = Scene::hello("[limits]\nheader_bytes = \"8KiB\"\nheaders = 20").await;
    let bearer = scene.bearer();
    let fill = "f".repeat(500);
    let mut client = scene.connect().await;
    let mut findings = Findings::default();
    for (index, (case, count, value, expected)) in [
        ("few and small", 10, "f", 200),
        // The host and the like do not count, the token does.
        ("as many as may be", 19, "f", 200),
        ("too many", 20, "f", 431),
        ("too large", 18, fill.as_str(), 431),
        ("few again", 10, "f", 200),
    ]
    .into_iter()
    .enumerate()
    {
        let id = stream(index);
        let names: Vec<String> = (0..count).map(|number| format!("x-{number}")).collect();
        let mut fields = with_token("GET", "/x", &bearer);
        fields.extend(names.iter().map(|name| (name.as_str(), value)));
        client.head(id, WHOLE, &fields).await;
        // One connection for all: a refusal ends the stream alone.
        let verdict = client.verdict(id).await;
        findings.check(case, verdict == Verdict::Status(expected), || {
            format!("{verdict:?}")
        });
    }
    findings.assert_none();
    assert_eq!(scene.reached(), 3);
    let sizes = client_settings(&scene).await;
    assert_eq!(value_of(&sizes, MAX_HEADER_LIST_SIZE), Some(8 << 10));
}

/// What the server's first frame sets.
async fn client_settings(scene: &Scene) -> Vec<(u16, u32)> {
    let mut client = scene.connect().await;
    client.expect(SETTINGS, 0).await.settings()
}

fn value_of(settings: &[(u16, u32)], name: u16) -> Option<u32> {
    let mut values = settings.iter().filter(|(one, _)| *one == name);
    values.next().map(|(_, value)| *value)
}

#[tokio::test]
async fn a_connection_has_so_many_streams_and_no_more() {
    const STREAMS: usize = 100;
    /// As many streams as are refused before the connection is.
    const REFUSALS: usize = 256;
    let scene = Scene::new(|_| Reply::Hang, "").await;
    let set = client_settings(&scene).await;
    assert_eq!(value_of(&set, MAX_CONCURRENT_STREAMS), Some(100));
    let bearer = scene.bearer();
    let fields = with_token("GET", "/x", &bearer);
    let attack = async {
        let mut attacker = scene.connect().await;
        let mut requests = Vec::new();
        for index in 0..STREAMS {
            attacker.send(&whole(stream(index), &fields)).await;
            requests.push(scene.next().await);
        }
        for index in STREAMS..STREAMS + REFUSALS {
            attacker.send(&whole(stream(index), &fields)).await;
            let verdict = attacker.verdict(stream(index)).await;
            assert_eq!(verdict, Verdict::Reset(REFUSED_STREAM));
        }
        assert!(requests.iter().all(|exchange| !exchange.is_closed()));
        attacker
            .send(&whole(stream(STREAMS + REFUSALS), &fields))
            .await;
        assert_eq!(attacker.end().await.goaway, [ENHANCE_YOUR_CALM]);
        for exchange in requests {
            exchange.closed().await;
        }
    };
    scene.during(SLACK_KIB, attack).await;
    assert_eq!(scene.reached(), STREAMS);
}

/// A client that asks for much and takes next to nothing: a slot, and a part of each answer.
#[tokio::test]
async fn what_is_held_for_a_client_that_takes_nothing_is_bounded_and_let_go() {
    const STREAMS: usize = 100;
    /// For each stream: what is read from the upstream at a time, at most, and what waits to be sent.
    const STREAM_KIB: usize = 512;
    let scene = Scene::new(|_| Reply::events(), SHORT_TIMES).await;
    let bearer = scene.bearer();
    let fields = with_token("GET", "/x", &bearer);
    let megabyte = "x".repeat(1 << 20);
    let mut findings = Findings::default();
    // One byte of each, so that a part of each is fetched; or as much as there is, unread.
    for (case, window) in [("no windows", 1), ("no reading", LARGEST_WINDOW)] {
        let attack = async {
            let mut attacker = Frames::with_window(scene.proxy.data, window).await;
            attacker
                .send(&window_update(0, LARGEST_WINDOW - USUAL_WINDOW))
                .await;
            let mut requests = Vec::new();
            for index in 0..STREAMS {
                attacker.send(&whole(stream(index), &fields)).await;
                let exchange = scene.next().await;
                for _ in 0..4 {
                    exchange.send(&megabyte);
                }
                requests.push(exchange);
            }
            let begun = Instant::now();
            for exchange in requests {
                exchange.closed().await;
            }
            begun.elapsed()
        };
        let most = STREAMS * STREAM_KIB + SLACK_KIB;
        let (lasted, _) = scene.during(most, attack).await;
        findings.check(case, (NEARLY_SHORT / 2..LATE).contains(&lasted), || {
            format!("let go after {lasted:?}")
        });
    }
    findings.assert_none();
}

#[tokio::test]
async fn a_client_that_takes_nothing_frees_its_slot() {
    let rest = format!("{SHORT_TIMES}\n[limits]\nconnections = 1");
    let scene = Scene::hello(&rest).await;
    let bearer = scene.bearer();
    let fields = with_token("GET", "/x", &bearer);
    let mut attacker = Frames::with_window(scene.proxy.data, 0).await;
    attacker.send(&whole(1, &fields)).await;
    assert_eq!(attacker.verdict(1).await, Verdict::Status(200));
    let begun = Instant::now();
    scene.good().await;
    assert!((NEARLY_SHORT / 2..LATE).contains(&begun.elapsed()));
    attacker.end().await;
}

#[tokio::test]
async fn beginnings_that_do_not_go_on_are_let_go() {
    let scene = Scene::hello("[timeouts]\nheader = \"1s\"").await;
    let start = block(&pseudo("GET", "/x"));
    let begun = |bytes: &[u8]| [PREFACE, &settings(&[]), bytes].concat();
    let mut findings = Findings::default();
    let mut clients = Vec::new();
    let since = Instant::now();
    for (case, bytes) in [
        ("nothing", Vec::new()),
        ("one byte", b"P".to_vec()),
        ("two bytes", b"PR".to_vec()),
        ("three bytes", b"PRI".to_vec()),
        ("one line", PREFACE[..16].to_vec()),
        ("no settings", PREFACE.to_vec()),
        ("no request", begun(b"")),
        (
            "half a frame",
            begun(&frame(HEADERS, WHOLE, 1, &start)[..20]),
        ),
        ("half a head", begun(&frame(HEADERS, END_STREAM, 1, &start))),
    ] {
        let mut client = Frames::raw(scene.proxy.data).await;
        client.send(&bytes).await;
        clients.push((case, client));
    }
    scene.good().await;
    for (case, mut client) in clients {
        client.end().await;
        let lasted = since.elapsed();
        findings.check(case, (NEARLY_SHORT..LATE).contains(&lasted), || {
            format!("let go after {lasted:?}")
        });
    }
    findings.assert_none();
    assert_eq!(scene.reached(), 0);
}

#[tokio::test]
async fn a_connection_between_requests_is_let_go() {
    let scene = Scene::hello("[timeouts]\nidle = \"1s\"").await;
    let bearer = scene.bearer();
    let mut client = scene.connect().await;
    for id in [1, 3] {
        client
            .request(id, "/x", &[("authorization", &bearer)])
            .await;
        assert_eq!(client.verdict(id).await, Verdict::Status(200));
        assert_eq!(client.body(id).await, b"hello");
    }
    let begun = Instant::now();
    client.end().await;
    assert!((NEARLY_SHORT..LATE).contains(&begun.elapsed()));
}

#[tokio::test]
async fn a_body_that_never_ends_is_not_waited_for() {
    let scene = Scene::new(
        |head| match head.target() {
            "/early" => Reply::Early(response("200 OK", &[], "enough")),
            _ => Reply::Hang,
        },
        "[timeouts]\nresponse_header = \"1s\"\nidle = \"1s\"",
    )
    .await;
    let bearer = scene.bearer();
    let mut client = scene.connect().await;
    let mut findings = Findings::default();
    for (index, (path, authorised, expected)) in [
        ("/x", false, 401),
        ("/early", true, 200),
        ("/late", true, 408),
    ]
    .into_iter()
    .enumerate()
    {
        let id = stream(index);
        let mut fields = with_token("POST", path, &bearer);
        fields.truncate(if authorised { 5 } else { 4 });
        client.head(id, END_HEADERS, &fields).await;
        client.send(&data(0, id, b"part")).await;
        let verdict = client.verdict(id).await;
        findings.check(path, verdict == Verdict::Status(expected), || {
            format!("{verdict:?}")
        });
        // The client is told that nobody reads the rest (RFC 9113, section 8.1).
        let told = client.expect(RST_STREAM, id).await.code();
        let codes = [NO_ERROR, CANCEL];
        findings.check(path, codes.contains(&told), || format!("told {told}"));
        if authorised {
            let exchange = scene.next().await;
            findings.check(path, !exchange.body_is_whole().await, || {
                "the upstream has seen a whole body".to_owned()
            });
            exchange.closed().await;
        }
    }
    findings.assert_none();
    assert_eq!(scene.reached(), 2);
    // Whoever goes on nevertheless has not asked for anything more.
    let rest = data(0, 1, &[0; LARGEST_FRAME]);
    scene.during(SLACK_KIB, client.flood(&rest, true)).await;
}

#[tokio::test]
async fn a_client_that_says_goodbye_gets_what_it_waits_for() {
    let scene = Scene::new(|_| Reply::events(), "").await;
    let bearer = scene.bearer();
    let mut client = scene.connect().await;
    client.request(1, "/x", &[("authorization", &bearer)]).await;
    let exchange = scene.next().await;
    client.send(&goaway(0, NO_ERROR)).await;
    exchange.send("data: 1\n\n");
    assert_eq!(client.verdict(1).await, Verdict::Status(200));
    assert_eq!(client.expect(DATA, 1).await.payload, b"data: 1\n\n");
    exchange.send("data: 2\n\n");
    assert_eq!(client.expect(DATA, 1).await.payload, b"data: 2\n\n");
    exchange.feed(Feed::End);
    assert!(client.body(1).await.is_empty());
    // With the last answer nothing keeps the connection.
    let begun = Instant::now();
    client.end().await;
    assert!(begun.elapsed() < LATE);
}

#[tokio::test]
async fn a_reset_cancels_the_request_at_once() {
    const ROUNDS: usize = 50;
    let scene = Scene::new(
        |head| match head.target() {
            "/stream" => Reply::events(),
            _ => Reply::Hang,
        },
        "",
    )
    .await;
    let bearer = scene.bearer();
    let mut client = scene.connect().await;
    let mut slowest = Duration::ZERO;
    for index in 0..ROUNDS {
        let id = stream(index);
        let path = ["/wait", "/stream", "/upload"][index % 3];
        let method = if path == "/upload" { "POST" } else { "GET" };
        let flags = if path == "/upload" {
            END_HEADERS
        } else {
            WHOLE
        };
        let fields = with_token(method, path, &bearer);
        client.head(id, flags, &fields).await;
        let exchange = scene.next().await;
        if path == "/stream" {
            exchange.send("data: 1\n\n");
            client.expect(DATA, id).await;
        }
        let begun = Instant::now();
        client.send(&reset(id, CANCEL)).await;
        exchange.closed().await;
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < SHORT, "one has taken {slowest:?}");
    // The connection serves on.
    let id = stream(ROUNDS);
    client
        .request(id, GOOD, &[("authorization", &bearer)])
        .await;
    assert_eq!(client.verdict(id).await, Verdict::Status(200));
}

/// Whether the stream or the connection is ended for a malformed request; the connection may be
/// (RFC 9113, section 5.4).
fn is_refused_as_malformed(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Reset(PROTOCOL_ERROR) | Verdict::GoAway(PROTOCOL_ERROR) | Verdict::Status(400)
    )
}

#[tokio::test]
async fn malformed_requests_reach_nobody() {
    let scene = Scene::hello("").await;
    let bearer = scene.bearer();
    let usual = with_token("GET", "/x", &bearer);
    let with = |more: &[(&'static str, &'static str)]| [&usual[..], more].concat();
    let without = |name: &str| {
        let mut fields = usual.clone();
        fields.retain(|(one, _)| *one != name);
        fields
    };
    let path = |path: &'static str| {
        let mut fields = without(":path");
        fields.insert(0, (":path", path));
        fields
    };
    let mut after = without(":path");
    after.push((":path", "/x"));
    let mut cases = vec![
        ("an upper-case name", with(&[("X-Upper", "1")])),
        (
            "an upper-case authorization",
            with(&[("Authorization", "1")]),
        ),
        ("an empty name", with(&[("", "1")])),
        ("a name with a space", with(&[("x y", "1")])),
        ("a name with a colon", with(&[("x:y", "1")])),
        ("a name with a line end", with(&[("x\r\ny", "1")])),
        (
            "a value with a line end",
            with(&[("x-y", "1\r\nx-forwarded-user: admin")]),
        ),
        ("a value with a line feed", with(&[("x-y", "1\nx-z: 2")])),
        ("a value with a null", with(&[("x-y", "1\0")])),
        ("connection", with(&[("connection", "close")])),
        ("keep-alive", with(&[("keep-alive", "timeout=5")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        (
            "transfer-encoding",
            with(&[("transfer-encoding", "chunked")]),
        ),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te", with(&[("te", "gzip")])),
        ("te and more", with(&[("te", "trailers, deflate")])),
        ("a pseudo-header after fields", after),
        (
            "two paths",
            with(&[]).into_iter().chain([(":path", "/y")]).collect(),
        ),
        (
            "an unknown pseudo-header",
            [&[(":evil", "1")], &usual[..]].concat(),
        ),
        ("a status", [&[(":status", "200")], &usual[..]].concat()),
        (
            "a protocol without CONNECT",
            [&[(":protocol", "websocket")], &usual[..]].concat(),
        ),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("no host", without(":authority")),
        ("an empty path", path("")),
        ("a path without a slash", path("x")),
        (
            "a whole URL for a path",
            path("http://agents.example.com/x"),
        ),
        ("an asterisk for a path", path("*")),
        ("a path with a space", path("/x y")),
        (
            "a path with a line end",
            path("/x\r\nx-forwarded-user: admin"),
        ),
        ("another host", with(&[("host", "evil.example.com")])),
        (
            "two hosts",
            with(&[
                ("host", "agents.example.com"),
                ("host", "agents.example.com"),
            ]),
        ),
        ("user information", {
            let mut fields = without(":authority");
            fields.insert(0, (":authority", "u@agents.example.com"));
            fields
        }),
        ("another scheme", {
            let mut fields = without(":scheme");
            fields.insert(0, (":scheme", "ftp"));
            fields
        }),
        ("a length without a body", with(&[("content-length", "5")])),
    ];
    let mut twice = usual.clone();
    twice.insert(0, (":method", "POST"));
    cases.push(("two methods", twice));
    let mut findings = Findings::default();
    for (case, fields) in cases {
        let mut client = scene.connect().await;
        client.head(1, WHOLE, &fields).await;
        let verdict = client.verdict(1).await;
        findings.check(case, is_refused_as_malformed(verdict), || {
            format!("{verdict:?}")
        });
    }
    findings.check("the upstream", scene.reached() == 0, || {
        format!("has seen {} of them", scene.reached())
    });
    findings.assert_none();
    // What is nearly the same and sound.
    let mut client = scene.connect().await;
    for (index, fields) in [
        with(&[("te", "trailers")]),
        with(&[("host", "agents.example.com")]),
    ]
    .iter()
    .enumerate()
    {
        client.head(stream(index), WHOLE, fields).await;
        assert_eq!(client.verdict(stream(index)).await, Verdict::Status(200));
    }
}

/// The fragment is dropped, and what is left is both decided on and forwarded.
#[tokio::test]
async fn a_fragment_hides_no_route() {
    let scene = Scene::hello(
        "[[route]]\npath = \"/open/**\"\naccess = \"public\"\n\
         [[route]]\npath = \"/closed/**\"\naccess = \"deny\"",
    )
    .await;
    let bearer = scene.bearer();
    for (path, status, forwarded) in [
        ("/closed/x#/../../open/x", 403, None),
        ("/open/x#/../../closed/x", 200, Some("/open/x")),
        (
            "/open/x?a=long-enough#b",
            200,
            Some("/open/x?a=long-enough"),
        ),
    ] {
        let mut client = scene.connect().await;
        client.request(1, path, &[("authorization", &bearer)]).await;
        let verdict = client.verdict(1).await;
        match forwarded {
            Some(forwarded) if verdict == Verdict::Status(status) => {
                assert_eq!(scene.next().await.head.target(), forwarded);
            }
            _ => assert!(
                verdict == Verdict::Status(400)
                    || forwarded.is_none() && verdict == Verdict::Status(status),
                "{path}: {verdict:?}"
            ),
        }
    }
}

#[tokio::test]
async fn a_length_that_is_not_the_body_s_is_no_whole_request() {
    let scene = Scene::new(|_| Reply::Hang, "").await;
    let bearer = scene.bearer();
    let mut findings = Findings::default();
    for (case, parts) in [
        ("too little", &[("abc", END_STREAM)][..]),
        ("too much at once", &[("abcdefgh", END_STREAM)]),
        ("too much bit by bit", &[("abc", 0), ("def", 0)]),
        ("trailers too early", &[("abc", 0), ("", 2)]),
    ] {
        let mut client = scene.connect().await;
        let mut fields = with_token("POST", "/x", &bearer);
        fields.push(("content-length", "5"));
        client.head(1, END_HEADERS, &fields).await;
        let exchange = scene.next().await;
        for (part, flags) in parts {
            if *flags == 2 {
                let trailers = block(&[("x-end", "1")]);
                client.send(&frame(HEADERS, WHOLE, 1, &trailers)).await;
            } else {
                client.send(&data(*flags, 1, part.as_bytes())).await;
            }
        }
        let verdict = client.verdict(1).await;
        findings.check(case, verdict == Verdict::Reset(PROTOCOL_ERROR), || {
            format!("{verdict:?}")
        });
        findings.check(case, !exchange.body_is_whole().await, || {
            "the upstream has seen a whole request".to_owned()
        });
        exchange.closed().await;
    }
    findings.assert_none();
}

#[tokio::test]
async fn connect_opens_nothing() {
    let scene = Scene::hello("").await;
    let bearer = scene.bearer();
    let set = client_settings(&scene).await;
    let offered = value_of(&set, ENABLE_CONNECT_PROTOCOL).unwrap_or(0);
    assert_eq!(offered, 0, "extended CONNECT is offered");
    let plain = [
        (":method", "CONNECT"),
        (":authority", "internal.example.com:443"),
        ("authorization", &bearer),
    ];
    let mut extended = with_token("CONNECT", "/ws", &bearer);
    extended.insert(0, (":protocol", "websocket"));
    let mut client = scene.connect().await;
    client.head(1, END_HEADERS, &plain).await;
    assert_eq!(client.verdict(1).await, Verdict::Status(501));
    client.head(3, END_HEADERS, &extended).await;
    assert_eq!(client.verdict(3).await, Verdict::Reset(PROTOCOL_ERROR));
    // The connection serves on.
    client.request(5, "/x", &[("authorization", &bearer)]).await;
    assert_eq!(client.verdict(5).await, Verdict::Status(200));
    assert_eq!(scene.reached(), 1);
}

#[tokio::test]
async fn http_1_never_turns_into_http_2() {
    let scene = Scene::hello("").await;
    for upgrade in ["h2c", "H2C", "HTTP/2.0"] {
        let request = Request::get("/x")
            .bearer(&scene.token)
            .header("Connection", "Upgrade, HTTP2-Settings")
            .header("Upgrade", upgrade)
            .header("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA");
        let answer = scene.proxy.send(&request).await;
        assert_eq!(answer.status(), 200, "{upgrade}");
        assert!(answer.head.first_line.starts_with("HTTP/1.1 "), "{upgrade}");
    }
    assert_eq!(scene.reached(), 3);
    // Nor by the preface behind a request.
    let mut client = Client::connect(scene.proxy.data).await;
    let answer = client
        .request(&Request::get(GOOD).bearer(&scene.token))
        .await;
    assert_eq!(answer.status(), 200);
    client.send(&[PREFACE, &settings(&[])].concat()).await;
    let answer = client.head_or_end().await;
    assert!(answer.is_none_or(|head| head.first_line.starts_with("HTTP/1.1 400")));
    client.closed().await;
    assert_eq!(scene.reached(), 3);
}

#[tokio::test]
async fn trailers_authorise_nothing_and_go_nowhere() {
    let scene = Scene::hello("").await;
    let bearer = scene.bearer();
    let late = block(&[
        ("authorization", bearer.as_str()),
        ("x-forwarded-user", "admin"),
        ("x_forwarded_user", "admin"),
        ("host", "evil.example.com"),
        ("content-length", "0"),
    ]);
    let end = frame(HEADERS, WHOLE, 1, &late);
    let mut client = scene.connect().await;
    client.head(1, END_HEADERS, &pseudo("POST", "/x")).await;
    client
        .send(&[data(0, 1, b"body"), end.clone()].concat())
        .await;
    assert_eq!(client.verdict(1).await, Verdict::Status(401));
    assert_eq!(scene.reached(), 0);

    let mut client = scene.connect().await;
    client
        .head(1, END_HEADERS, &with_token("POST", "/x", &bearer))
        .await;
    client.send(&[data(0, 1, b"body"), end].concat()).await;
    assert_eq!(client.verdict(1).await, Verdict::Status(200));
    let exchange = scene.next().await;
    assert_eq!(exchange.body().await, b"body");
    assert_eq!(exchange.trailers().await, []);
    assert_eq!(exchange.head.all("x-forwarded-user"), ["auth0|alice"]);
    assert!(!String::from_utf8_lossy(&exchange.head.raw).contains("admin"));

    // A pseudo-header at the end makes the request malformed (RFC 9113, section 8.1).
    let mut client = scene.connect().await;
    client.head(1, END_HEADERS, &pseudo("POST", "/x")).await;
    let end = frame(HEADERS, WHOLE, 1, &block(&[(":path", "/admin")]));
    client.send(&[data(0, 1, b"body"), end].concat()).await;
    client.verdict(1).await;
    assert_eq!(scene.reached(), 1);
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let scene = Scene::hello("").await;
    let bearer = scene.bearer();
    let head = |id| whole(id, &with_token("GET", "/x", &bearer));
    let huge = vec![0; LARGEST_FRAME + 1];
    let mut findings = Findings::default();
    for (case, bytes, expected) in [
        ("data before a head", data(0, 1, b"x"), PROTOCOL_ERROR),
        ("data on no stream", data(0, 0, b"x"), PROTOCOL_ERROR),
        ("a head on no stream", head(0), PROTOCOL_ERROR),
        ("a head on the server's stream", head(2), PROTOCOL_ERROR),
        (
            "a continuation of nothing",
            frame(CONTINUATION, END_HEADERS, 1, b""),
            PROTOCOL_ERROR,
        ),
        (
            "another frame inside a head",
            [frame(HEADERS, 0, 1, b""), ping(0)].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "a continuation of another head",
            [
                frame(HEADERS, 0, 1, b""),
                frame(CONTINUATION, END_HEADERS, 3, b""),
            ]
            .concat(),
            PROTOCOL_ERROR,
        ),
        (
            "a promise",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
            PROTOCOL_ERROR,
        ),
        ("a reset of nothing", reset(1, CANCEL), PROTOCOL_ERROR),
        ("a reset of no stream", reset(0, CANCEL), PROTOCOL_ERROR),
        ("a window for nothing", window_update(1, 1), PROTOCOL_ERROR),
        ("no more window", window_update(0, 0), PROTOCOL_ERROR),
        (
            "too much window",
            window_update(0, LARGEST_WINDOW),
            FLOW_CONTROL_ERROR,
        ),
        ("a frame too large", data(0, 1, &huge), FRAME_SIZE_ERROR),
        (
            "too much padding",
            frame(HEADERS, WHOLE | PADDED, 1, &[9, 0]),
            PROTOCOL_ERROR,
        ),
        (
            "no room for a priority",
            frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &dependency(0)[..3]),
            PROTOCOL_ERROR,
        ),
        (
            "a header block that ends early",
            frame(HEADERS, WHOLE, 1, &[0, 5, b'x']),
            PROTOCOL_ERROR,
        ),
        (
            "a reference to nothing",
            frame(HEADERS, WHOLE, 1, &[0xff, 0x7f]),
            PROTOCOL_ERROR,
        ),
        (
            "a table too large",
            frame(HEADERS, WHOLE, 1, &[0x3f, 0xe1, 0xff, 0x03]),
            PROTOCOL_ERROR,
        ),
        (
            "an unasked answer to settings",
            [frame(SETTINGS, ACK, 0, b""), frame(SETTINGS, ACK, 0, b"")].concat(),
            PROTOCOL_ERROR,
        ),
    ] {
        let mut client = scene.connect().await;
        client.send(&bytes).await;
        let end = client.end().await;
        // The RFC wants special codes for some of these; the end is what counts.
        let last = end.goaway.last().copied();
        findings.check(case, last == Some(expected), || format!("{:?}", end.goaway));
    }
    let mut old = scene.connect().await;
    old.send(&[head(5), head(3)].concat()).await;
    let end = old.end().await.goaway;
    findings.check("an older stream", end == [PROTOCOL_ERROR], || {
        format!("{end:?}")
    });
    findings.assert_none();
    assert_eq!(scene.reached(), 0);
}

/// What begins like the preface may be a request of HTTP/1.
#[tokio::test]
async fn a_request_that_begins_like_a_preface_is_read_to_its_end() {
    let scene = Scene::hello("").await;
    for (cut, method) in [
        (1, "POST"),
        (1, "PUT"),
        (1, "PATCH"),
        (1, "PROPFIND"),
        (2, "PROPFIND"),
    ] {
        let bytes = Request::new(method, "/x")
            .bearer(&scene.token)
            .body("{}")
            .bytes();
        let mut client = Client::connect(scene.proxy.data).await;
        client.send(&bytes[..cut]).await;
        for _ in 0..3 {
            scene.good().await;
        }
        client.send(&bytes[cut..]).await;
        assert_eq!(client.response().await.status(), 200, "{method}");
    }
}

#[tokio::test]
async fn a_preface_may_come_bit_by_bit() {
    let scene = Scene::hello("").await;
    let bearer = scene.bearer();
    for cuts in [&[1][..], &[2], &[1, 2, 3], &[17]] {
        let mut client = Frames::raw(scene.proxy.data).await;
        let mut from = 0;
        for cut in cuts {
            client.send(&PREFACE[from..*cut]).await;
            from = *cut;
            // Long enough that what was sent has been seen alone.
            for _ in 0..3 {
                scene.good().await;
            }
        }
        client
            .send(&[&PREFACE[from..], &settings(&[(HEADER_TABLE_SIZE, 0)])].concat())
            .await;
        client.request(1, "/x", &[("authorization", &bearer)]).await;
        let verdict = client.verdict(1).await;
        assert_eq!(verdict, Verdict::Status(200), "cut at {cuts:?}");
    }
}

/// A head has its time wherever it comes, not the longer one between requests.
#[tokio::test]
async fn a_later_head_that_does_not_end_is_let_go() {
    let scene = Scene::new(|_| Reply::events(), "[timeouts]\nheader = \"1s\"").await;
    let bearer = scene.bearer();
    let start = block(&pseudo("GET", "/x"));
    let mut findings = Findings::default();
    let mut clients = Vec::new();
    let since = Instant::now();
    for (case, path, bytes) in [
        (
            "behind an answer",
            GOOD,
            frame(HEADERS, END_STREAM, 3, &start),
        ),
        (
            "beside a stream",
            "/stream",
            frame(HEADERS, END_STREAM, 3, &start),
        ),
        (
            "half a frame",
            GOOD,
            frame(HEADERS, WHOLE, 3, &start)[..20].to_vec(),
        ),
    ] {
        let mut client = scene.connect().await;
        client.request(1, path, &[("authorization", &bearer)]).await;
        assert_eq!(client.verdict(1).await, Verdict::Status(200));
        client.send(&bytes).await;
        clients.push((case, client));
    }
    for (case, mut client) in clients {
        let ended = tokio::time::timeout(LATE, client.end()).await;
        findings.check(
            case,
            ended.is_ok() && since.elapsed() >= NEARLY_SHORT,
            || format!("not let go after {:?}", since.elapsed()),
        );
    }
    findings.assert_none();
}

/// RFC 9113, section 6.8: the client must learn which of its requests were not read.
#[tokio::test]
async fn a_connection_that_is_let_go_is_told_so() {
    let scene = Scene::hello(SHORT_TIMES).await;
    let bearer = scene.bearer();
    let mut findings = Findings::default();
    for (case, asks) in [("between requests", true), ("before the first", false)] {
        let mut client = scene.connect().await;
        if asks {
            client.request(1, "/x", &[("authorization", &bearer)]).await;
            assert_eq!(client.verdict(1).await, Verdict::Status(200));
        }
        let end = client.end().await.goaway;
        findings.check(case, end.last() == Some(&NO_ERROR), || format!("{end:?}"));
    }
    findings.assert_none();
}
