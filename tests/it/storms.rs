//! Many at once: what ends together, what breaks together, who leaves together. Afterwards everything
//! is as before.

use std::time::{Duration, Instant, UNIX_EPOCH};

use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;

use crate::issuer::Issuer;
use crate::issuer::tokens::now;
use crate::support::frames::{Frames, RST_STREAM, WHOLE, pseudo};
use crate::support::upstream::response;
use crate::support::{
    Client, Exchange, Findings, Head, Proxy, Reply, Request, Setup, Upstream, raise_limit, within,
};

const OPEN: &str = "[[route]]\npath = \"/**\"\naccess = \"public\"";

/// What anything that must happen at once may take.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What a storm may leave behind in memory once another like it has gone before, in KiB: what the
/// allocator keeps, and not a thousandth of what went through.
const SLACK_KIB: usize = 8 << 10;

/// Between two looks at a process that settles: at first, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_millis(200);

/// File descriptors that the storms need at a time, on either side.
const DESCRIPTORS: u64 = 8192;

/// Each storm measures a process that shares few cores: one at a time.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// One worker, so that there is one pool of connections to look at.
async fn start(issuer: &Issuer, upstream: &Upstream, rest: &str) -> Proxy {
    raise_limit(DESCRIPTORS);
    Setup::new(issuer, upstream)
        .rest(rest)
        .arguments(&["--workers", "1"])
        .start()
        .await
}

/// Waits until `holds`, with a good request before every look: what lies in the pool is cleared away
/// by those who come after.
async fn settles(what: &str, proxy: &Proxy, mut holds: impl FnMut() -> bool) {
    let settled = async {
        let mut pause = FIRST_LOOK;
        loop {
            assert_eq!(proxy.send(&Request::get(GOOD)).await.status(), 200);
            if holds() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    };
    within(what, settled).await;
}

const GOOD: &str = "/good";

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    resident_kib: usize,
}

impl Holdings {
    fn of(proxy: &Proxy) -> Self {
        Self {
            descriptors: proxy.descriptors(),
            threads: proxy.threads(),
            resident_kib: proxy.resident_kib(),
        }
    }

    /// Waits until the process holds no more than before, or a little more memory.
    async fn return_to(self, proxy: &Proxy) {
        let before = self;
        let holds = || {
            let now = Self::of(proxy);
            now.descriptors <= before.descriptors
                && now.threads <= before.threads
                && now.resident_kib <= before.resident_kib + SLACK_KIB
        };
        let what = format!("the process to hold what it held: {before:?}");
        settles(&what, proxy, holds).await;
    }
}

/// How long ago a moment of the wall clock was; nothing if it is ahead.
fn since(seconds: i64) -> Duration {
    let now = UNIX_EPOCH.elapsed().expect("a clock after 1970");
    now.saturating_sub(Duration::from_secs(seconds.unsigned_abs()))
}

#[tokio::test]
async fn everybody_whose_token_is_over_is_ended_at_once() {
    const CONNECTIONS: usize = 20;
    const STREAMS: u32 = 100;
    const SOCKETS: usize = 200;
    /// Seconds: enough to open all of them.
    const LIFE: i64 = 12;
    const GRACE: i64 = 1;
    raise_limit(DESCRIPTORS);
    let _alone = alone().await;
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/ws" => Reply::WebSocket,
        GOOD => Reply::ok("hello"),
        _ => Reply::events(),
    });
    let proxy = Setup::new(&issuer, &upstream)
        .auth0("clock_tolerance = \"0s\"")
        .rest("[streams]\nexpiry_grace = \"1s\"")
        .start()
        .await;
    let expiry = now() + LIFE;
    let token = issuer.user("auth0|alice").claim("exp", expiry).mint();
    let bearer = format!("Bearer {token}");
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut client = Frames::connect(proxy.data).await;
        for id in (0..STREAMS).map(|index| 2 * index + 1) {
            let fields = [&pseudo("GET", "/x")[..], &[("authorization", &bearer)]].concat();
            client.head(id, WHOLE, &fields).await;
        }
        for _ in 0..STREAMS {
            exchanges.push(upstream.next().await);
        }
        clients.spawn(async move {
            let (mut resets, mut last) = (0, Duration::ZERO);
            while resets < STREAMS {
                let frame = client.next().await.expect("a reset of each stream");
                if frame.kind == RST_STREAM {
                    resets += 1;
                    last = since(expiry);
                }
            }
            last
        });
    }
    let mut sockets = JoinSet::new();
    for _ in 0..SOCKETS {
        let request = Request::get("/ws").websocket().bearer(&token);
        let mut client = request.open(proxy.data).await;
        assert_eq!(client.head().await.status(), 101);
        exchanges.push(upstream.next().await);
        sockets.spawn(async move {
            let frame = client.exactly(4).await;
            assert_eq!(frame, [0x88, 2, 0x0b, 0xb8]);
            let last = since(expiry);
            client.closed().await;
            last
        });
    }
    assert!(now() < expiry, "the token is over before the storm");
    for exchange in &exchanges {
        assert!(!exchange.is_closed(), "one has ended before its time");
    }
    let grace = Duration::from_secs(GRACE.unsigned_abs());
    for (what, ends) in [
        ("streams", clients.join_all().await),
        ("sockets", sockets.join_all().await),
    ] {
        let (first, last) = (ends.iter().min(), ends.iter().max());
        let in_time = |end: Option<&Duration>| {
            end.is_some_and(|end| (Duration::ZERO..grace + AT_ONCE).contains(end))
        };
        assert!(
            in_time(first) && in_time(last),
            "{what}: {first:?} to {last:?}"
        );
    }
    for exchange in exchanges {
        exchange.closed().await;
    }
    let lasted = since(expiry);
    assert!(lasted < grace + AT_ONCE, "the upstream's: {lasted:?}");
}

/// The ways in which an upstream fails.
const FAULTS: [&str; 9] = [
    "/hang", "/close", "/reset", "/early", "/head", "/length", "/chunk", "/garbage", "/endless",
];

fn faulty(head: &Head) -> Reply {
    match head.target() {
        "/hang" => Reply::Hang,
        "/close" => Reply::Close,
        "/reset" => Reply::Reset,
        "/early" => Reply::Early(response("200 OK", &[], "enough")),
        "/head" => Reply::Last(b"HTTP/1.1 200 O".to_vec()),
        "/length" => {
            Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this".to_vec())
        }
        "/chunk" => {
            Reply::Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly".to_vec())
        }
        "/garbage" => Reply::Last(b"\x16\x03\x01\x02\x00\x01\r\n\r\n\0\0".repeat(100)),
        // A head without an end.
        "/endless" => Reply::Last([&b"HTTP/1.1 200 OK\r\nX: "[..], &[b'y'; 1 << 20]].concat()),
        _ => Reply::ok("hello"),
    }
}

/// What a client may see of an upstream that fails.
fn is_right(path: &str, status: Option<u16>, whole: bool) -> bool {
    match path {
        "/hang" => status == Some(504),
        // So much of it takes time.
        "/endless" => matches!(status, Some(502 | 504)),
        "/early" => status == Some(200) && whole,
        // What breaks at once may break before its head is out.
        "/length" | "/chunk" => status.is_none_or(|status| status == 200) && !whole,
        _ => status == Some(502),
    }
}

async fn storm(proxy: &Proxy, path: &'static str, count: usize) -> Vec<(Option<u16>, bool)> {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let address = proxy.data;
        clients.spawn(async move {
            let request = match path {
                "/early" => Request::new("POST", path).header("Content-Length", "1000"),
                _ => Request::get(path),
            };
            let mut client = request.open(address).await;
            let head = client.head_or_end().await;
            let whole = head.is_some() && client.body().await.is_ok();
            (head.map(|head| head.status()), whole)
        });
    }
    clients.join_all().await
}

#[tokio::test]
async fn an_upstream_that_fails_leaves_nothing_behind() {
    const REQUESTS: usize = 200;
    let _alone = alone().await;
    let issuer = Issuer::start();
    let mut upstream = Upstream::start(faulty);
    let rest = format!("{OPEN}\n[timeouts]\nresponse_header = \"1s\"");
    let proxy = start(&issuer, &upstream, &rest).await;
    let mut findings = Findings::default();
    let mut before = None;
    // The first round is the warm-up.
    for _ in 0..2 {
        for path in FAULTS {
            let answers = storm(&proxy, path, REQUESTS).await;
            let wrong = answers
                .iter()
                .find(|(status, whole)| !is_right(path, *status, *whole));
            findings.check(path, wrong.is_none(), || format!("{wrong:?}"));
            assert_eq!(proxy.send(&Request::get(GOOD)).await.text(), "hello");
        }
        upstream.go_down().await;
        let answers = storm(&proxy, "/refuse", REQUESTS).await;
        findings.check(
            "/refuse",
            answers.iter().all(|(status, _)| *status == Some(502)),
            || format!("{answers:?}"),
        );
        upstream.come_up();
        assert_eq!(proxy.send(&Request::get(GOOD)).await.text(), "hello");
        // Then all of it is gone.
        match before {
            None => {
                settles("few descriptors", &proxy, || {
                    proxy.descriptors() < REQUESTS / 4
                })
                .await;
                before = Some(Holdings::of(&proxy));
            }
            Some(before) => Holdings::return_to(before, &proxy).await,
        }
    }
    findings.assert_none();
}

/// When a client leaves.
const PHASES: [&str; 5] = [
    "mid-head",
    "after the head",
    "mid-body",
    "waiting",
    "mid-stream",
];

/// Opens a client that is about to leave, and the request of it that the upstream has seen.
async fn about_to_leave(
    proxy: &Proxy,
    upstream: &Upstream,
    phase: &str,
) -> (Client, Option<Exchange>) {
    let upload = || Request::new("POST", "/hang").header("Content-Length", "100000");
    let mut client = Client::connect(proxy.data).await;
    let exchange = match phase {
        "mid-head" => {
            client.send(b"GET /hang HTTP/1.1\r\nHost: a\r\nX-").await;
            return (client, None);
        }
        "after the head" => {
            client.write(&upload()).await;
            upstream.next().await
        }
        "mid-body" => {
            client.write(&upload()).await;
            client.send(&[0; 5_000]).await;
            let exchange = upstream.next().await;
            exchange.body_reaches(5_000).await;
            exchange
        }
        "waiting" => {
            client.write(&Request::post("/hang", "{}")).await;
            upstream.next().await
        }
        _ => {
            client.write(&Request::get("/stream")).await;
            let exchange = upstream.next().await;
            exchange.send("data: 1\n\n");
            client.head().await;
            client.data().await;
            exchange
        }
    };
    (client, Some(exchange))
}

fn patient(head: &Head) -> Reply {
    match head.target() {
        "/hang" => Reply::Hang,
        "/stream" => Reply::events(),
        _ => Reply::ok("hello"),
    }
}

/// The next request of a storm: good ones are not of it.
async fn skip_good(upstream: &Upstream) {
    while upstream.next().await.head.target() != GOOD {}
}

#[tokio::test]
async fn clients_that_leave_take_their_requests_with_them() {
    const CLIENTS: usize = 100;
    const TIMES: usize = 5;
    let _alone = alone().await;
    let issuer = Issuer::start();
    let upstream = Upstream::start(patient);
    let proxy = start(&issuer, &upstream, OPEN).await;
    let mut findings = Findings::default();
    assert_eq!(proxy.send(&Request::get(GOOD)).await.status(), 200);
    skip_good(&upstream).await;
    let before = Holdings::of(&proxy);
    for phase in PHASES {
        for time in 0..TIMES {
            let (mut clients, mut exchanges) = (Vec::new(), Vec::new());
            for _ in 0..CLIENTS {
                let (client, exchange) = about_to_leave(&proxy, &upstream, phase).await;
                clients.push(client);
                exchanges.extend(exchange);
            }
            let resets = time % 2 == 1;
            let begun = Instant::now();
            for client in clients {
                if resets {
                    client.reset();
                } else {
                    drop(client);
                }
            }
            for exchange in exchanges {
                exchange.closed().await;
                let whole = exchange.body_is_whole().await;
                let uploads = matches!(phase, "after the head" | "mid-body");
                findings.check(phase, whole != uploads, || format!("whole: {whole}"));
            }
            let lasted = begun.elapsed();
            findings.check(phase, lasted < AT_ONCE, || {
                format!("resets: {resets}; gone after {lasted:?}")
            });
        }
    }
    findings.assert_none();
    // Warm by now: what was held then is the measure for the descriptors only.
    let warm = Holdings {
        resident_kib: proxy.resident_kib(),
        ..before
    };
    warm.return_to(&proxy).await;
}

#[tokio::test]
async fn many_that_are_idle_or_slow_keep_nobody_else_waiting() {
    const IDLE: usize = 1_000;
    const SLOW: usize = 300;
    const HEADER: Duration = Duration::from_secs(2);
    const PATIENCE: Duration = Duration::from_secs(4);
    /// How late the end may be seen, with so many tasks of the test at work.
    const LATE: Duration = Duration::from_secs(2);
    /// Timers count in milliseconds, and may begin a little before the test looks at its clock.
    const EARLY: Duration = Duration::from_millis(100);
    let _alone = alone().await;
    let issuer = Issuer::start();
    let upstream = Upstream::start(patient);
    let rest = format!("{OPEN}\n[timeouts]\nheader = \"2s\"\nidle = \"4s\"");
    let proxy = start(&issuer, &upstream, &rest).await;
    assert_eq!(proxy.send(&Request::get(GOOD)).await.status(), 200);
    let before = Holdings::of(&proxy);
    let mut clients = JoinSet::new();
    for _ in 0..IDLE {
        let mut client = Client::connect(proxy.data).await;
        assert_eq!(client.request(&Request::get(GOOD)).await.status(), 200);
        let since = Instant::now();
        clients.spawn(async move {
            client.closed().await;
            (PATIENCE, since.elapsed())
        });
    }
    for _ in 0..SLOW {
        let mut client = Client::connect(proxy.data).await;
        let since = Instant::now();
        clients.spawn(async move {
            client.send(b"GET /slow HTTP/1.1\r\nX-Slow: ").await;
            loop {
                tokio::select! {
                    () = client.closed() => return (HEADER, since.elapsed()),
                    () = tokio::time::sleep(LAST_LOOK) => {}
                }
                client.send(b"y").await;
            }
        });
    }
    let (mut served, mut longest) = (0, Duration::ZERO);
    let serve = async {
        loop {
            let begun = Instant::now();
            assert_eq!(proxy.send(&Request::get(GOOD)).await.text(), "hello");
            longest = longest.max(begun.elapsed());
            served += 1;
        }
    };
    let ended = tokio::select! {
        ended = clients.join_all() => ended,
        () = serve => unreachable!("serving has no end"),
    };
    let mut findings = Findings::default();
    for (patience, lasted) in ended {
        let in_time = (patience - EARLY..patience + LATE).contains(&lasted);
        findings.check("a client", in_time, || format!("{patience:?}: {lasted:?}"));
    }
    findings.assert_none();
    assert!(served > 0 && longest < AT_ONCE, "{served}, {longest:?}");
    let warm = Holdings {
        resident_kib: proxy.resident_kib(),
        ..before
    };
    warm.return_to(&proxy).await;
}

#[tokio::test]
async fn a_burst_of_newcomers_is_held_until_it_is_served() {
    const CLIENTS: usize = 1_000;
    let _alone = alone().await;
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = start(&issuer, &upstream, OPEN).await;
    // Nothing is accepted meanwhile: whoever gets a connection got it from the kernel.
    proxy.signal("STOP");
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Client::connect(proxy.data).await);
    }
    proxy.signal("CONT");
    for mut client in clients {
        assert_eq!(client.request(&Request::get(GOOD)).await.text(), "hello");
    }
}

/// An end of the client's direction counts as its leaving: the one cannot be told from the other, and
/// whoever has left must not keep the upstream at work.
#[tokio::test]
async fn clients_that_end_their_direction_have_left() {
    const CLIENTS: usize = 100;
    let _alone = alone().await;
    let issuer = Issuer::start();
    let upstream = Upstream::start(patient);
    let proxy = start(&issuer, &upstream, OPEN).await;
    assert_eq!(proxy.send(&Request::get(GOOD)).await.status(), 200);
    skip_good(&upstream).await;
    let before = Holdings::of(&proxy);
    for phase in ["waiting", "mid-stream"] {
        let (mut clients, mut exchanges) = (Vec::new(), Vec::new());
        for _ in 0..CLIENTS {
            let (mut client, exchange) = about_to_leave(&proxy, &upstream, phase).await;
            client.end().await;
            clients.push(client);
            exchanges.extend(exchange);
        }
        let begun = Instant::now();
        for exchange in exchanges {
            exchange.closed().await;
        }
        assert!(begun.elapsed() < AT_ONCE, "{phase}: {:?}", begun.elapsed());
        for mut client in clients {
            client.closed().await;
        }
    }
    let warm = Holdings {
        resident_kib: proxy.resident_kib(),
        ..before
    };
    warm.return_to(&proxy).await;
}

#[tokio::test]
async fn upstreams_that_end_their_direction_fail_what_is_not_over() {
    const REQUESTS: usize = 200;
    let _alone = alone().await;
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/whole" => Reply::Last(response("200 OK", &[("Keep-Alive", "timeout=5")], "hello")),
        _ => faulty(head),
    });
    let proxy = start(&issuer, &upstream, OPEN).await;
    assert_eq!(proxy.send(&Request::get(GOOD)).await.status(), 200);
    let before = Holdings::of(&proxy);
    let mut findings = Findings::default();
    // One after the other: each finds the ended connection of the one before in the pool.
    let mut client = Client::connect(proxy.data).await;
    for _ in 0..REQUESTS {
        let answer = client.request(&Request::get("/whole")).await;
        findings.check("/whole", answer.text() == "hello", || answer.text());
    }
    drop(client);
    for path in ["/length", "/chunk"] {
        for (status, whole) in storm(&proxy, path, REQUESTS).await {
            findings.check(path, is_right(path, status, whole), || {
                format!("{status:?}")
            });
        }
    }
    findings.assert_none();
    let warm = Holdings {
        resident_kib: proxy.resident_kib(),
        ..before
    };
    warm.return_to(&proxy).await;
}
