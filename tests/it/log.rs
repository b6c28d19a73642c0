//! What becomes of the log, and of everything else, when standard output is not read.

use serde_json::Value;

use crate::issuer::Issuer;
use crate::support::{Client, Proxy, Request, Setup, Upstream, within};

/// Requests whose lines fill the pipe and everything that waits for it: more than 1 MiB of them.
const ENOUGH: usize = 1500;

/// Refused, with a line of more than 1,200 bytes.
fn long_request(number: usize) -> Request {
    Request::get(&format!("/{number}/{}", "x".repeat(1200)))
}

async fn started() -> (Issuer, Upstream, Proxy) {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[timeouts]\nlinger = \"0s\"")
        .start()
        .await;
    (issuer, upstream, proxy)
}

/// Has more logged than fits, over several connections.
async fn overfill(proxy: &Proxy) {
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(proxy.data).await);
    }
    for number in 0..ENOUGH {
        let client = &mut clients[number % 4];
        assert_eq!(client.request(&long_request(number)).await.status(), 401);
    }
}

async fn dropped(proxy: &Proxy) -> u64 {
    let metrics = proxy.admin("GET", "/metrics").await.text();
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix("authgate_log_lines_dropped_total "));
    value.expect("the counter").parse().expect("a number")
}

fn is_request(event: &Value) -> bool {
    event["message"] == "request"
}

#[tokio::test]
async fn a_reader_that_stops_costs_lines_and_nothing_else() {
    let (issuer, _upstream, proxy) = started().await;
    let token = issuer.user("auth0|alice").mint();
    assert_eq!(dropped(&proxy).await, 0);
    proxy.stop_reading();
    overfill(&proxy).await;
    let good = proxy.send(&Request::get("/good").bearer(&token)).await;
    assert_eq!(good.status(), 200);
    for path in ["/livez", "/readyz"] {
        assert_eq!(proxy.admin("GET", path).await.status(), 200, "{path}");
    }
    let missing = dropped(&proxy).await;
    assert!(missing > 0, "everything has found room");

    proxy.read_on();
    let told = proxy
        .event("the lines that are missing", |event| {
            event["message"]
                .as_str()
                .is_some_and(|text| text.starts_with("lines of the log were dropped"))
        })
        .await;
    assert_eq!(
        (&told["level"], &told["lines"]),
        (&"WARN".into(), &missing.into())
    );
    // Of what was logged all the while, each line is whole, and there or counted.
    assert_eq!(
        proxy
            .send(&Request::get("/after").bearer(&token))
            .await
            .status(),
        200
    );
    proxy.request_line("/after").await;
    let printed = proxy.events();
    assert_eq!(
        printed.len(),
        proxy.output().lines().count(),
        "a line is torn"
    );
    let printed = printed.iter().filter(|event| is_request(event)).count();
    let expected = u64::try_from(ENOUGH + 2).expect("a number") - missing;
    assert_eq!(u64::try_from(printed).expect("a number"), expected);
    assert_eq!(dropped(&proxy).await, missing);
}

#[tokio::test]
async fn a_reader_that_stops_does_not_hold_the_end_up() {
    for signal in ["TERM", "INT"] {
        let (_issuer, _upstream, mut proxy) = started().await;
        proxy.stop_reading();
        overfill(&proxy).await;
        proxy.signal(signal);
        assert_eq!(proxy.exit_unread().await.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn a_reader_that_has_gone_harms_nothing() {
    let (issuer, _upstream, mut proxy) = started().await;
    let token = issuer.user("auth0|alice").mint();
    proxy.close_stdout();
    // Until the pipe is closed, and lines cannot be written any more.
    within("a line that is lost", async {
        while dropped(&proxy).await == 0 {
            let answer = proxy.send(&Request::get("/x").bearer(&token)).await;
            assert_eq!(answer.status(), 200);
        }
    })
    .await;
    overfill(&proxy).await;
    assert_eq!(
        proxy
            .send(&Request::get("/x").bearer(&token))
            .await
            .status(),
        200
    );
    assert_eq!(proxy.admin("GET", "/readyz").await.status(), 200);
    proxy.signal("TERM");
    assert_eq!(proxy.exit_unread().await.code(), Some(0));
}

/// The lines of the last requests, and the one after them, are there when the process has ended.
#[tokio::test]
async fn the_end_of_the_log_is_whole() {
    let (_issuer, _upstream, mut proxy) = started().await;
    for number in 0..100 {
        assert_eq!(proxy.send(&long_request(number)).await.status(), 401);
    }
    proxy.signal("TERM");
    assert_eq!(proxy.exit().await.code(), Some(0));
    let events = proxy.events();
    assert_eq!(events.iter().filter(|event| is_request(event)).count(), 100);
    assert_eq!(events.last().expect("a line")["message"], "stopped");
    assert_eq!(
        events.len(),
        proxy.output().lines().count(),
        "a line is torn"
    );
}
