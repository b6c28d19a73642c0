//! Names with several addresses, of which the first one is silent (RFC 8305).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::issuer::Issuer;
use crate::support::proxy::has_own_hosts;
use crate::support::{Request, Setup, Upstream};

/// In this order glibc tries them.
const HOSTS: &str = "::1 localhost\n127.0.0.1 localhost\n";

/// A listener that no further connection gets to: its queue is full, and further SYNs are dropped.
struct Silent {
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl Silent {
    /// At the IPv6 twin of an address; `None` where somebody has that port, or there is no IPv6.
    async fn beside(port: u16) -> Option<Self> {
        let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let listener = Socket::new(Domain::IPV6, Type::STREAM, None).ok()?;
        listener.set_only_v6(true).ok()?;
        listener.bind(&address.into()).ok()?;
        listener.listen(0).expect("a listener");
        let mut queued = Vec::new();
        let connect =
            || tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address));
        // The system may take one or two more than it is told to.
        while let Ok(stream) = connect().await {
            queued.push(stream.expect("a connection"));
            assert!(queued.len() < 100, "the queue has no end");
        }
        Some(Self {
            _listener: listener,
            _queued: queued,
        })
    }
}

/// What can be had here; else the reason is printed.
fn can_try() -> bool {
    let has_ipv6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let can_try = has_ipv6 && has_own_hosts();
    if !can_try {
        eprintln!("there is no IPv6 or no /etc/hosts of one's own here, so it is not tried");
    }
    can_try
}

/// A server on IPv4 whose IPv6 twin is silent.
async fn half_silent<S>(start: impl Fn() -> (S, u16)) -> (S, u16, Silent) {
    for _ in 0..20 {
        let (server, port) = start();
        if let Some(silent) = Silent::beside(port).await {
            return (server, port, silent);
        }
    }
    panic!("somebody has every port on ::1");
}

async fn issuer() -> (Issuer, Silent) {
    let start = || {
        let issuer = Issuer::start();
        let domain = issuer.domain();
        let (_, port) = domain.rsplit_once(':').expect("a port");
        let port = port.parse().expect("a port");
        (issuer, port)
    };
    let (issuer, _, silent) = half_silent(start).await;
    (issuer, silent)
}

#[tokio::test]
async fn keys_and_the_upstream_are_reached_behind_a_silent_address() {
    if !can_try() {
        return;
    }
    let (issuer, _silent) = issuer().await;
    let start = || {
        let upstream = Upstream::hello();
        let port = upstream.address().port();
        (upstream, port)
    };
    let (upstream, port, _silent) = half_silent(start).await;
    // Ready within `auth0.keys.timeout` or never: a fetch that fails has no other way next time.
    let proxy = Setup::to(&issuer, &format!("http://localhost:{port}"))
        .hosts(HOSTS)
        .keys("timeout = \"3s\"")
        .rest("[timeouts]\nconnect = \"3s\"")
        .start()
        .await;
    let failed = |event: &serde_json::Value| event["message"] == "key fetch failed";
    assert!(!proxy.events().iter().any(failed), "{}", proxy.output());
    let token = issuer.user("auth0|alice").mint();
    for _ in 0..3 {
        let answer = proxy.send(&Request::get("/x").bearer(&token)).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        // So that the next one needs a connection of its own.
        upstream.next().await.cut().await;
    }
}

#[tokio::test]
async fn the_proxy_is_reached_behind_a_silent_address() {
    if !can_try() {
        return;
    }
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let start = || {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        let port = listener.local_addr().expect("a bound socket").port();
        (listener, port)
    };
    let (listener, port, _silent) = half_silent(start).await;
    let listener = TcpListener::from_std(listener).expect("a listener");
    let target = issuer.domain();
    let tunnel = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            client.readable().await.expect("a request");
            match client.try_read_buf(&mut head) {
                Ok(length) => assert_ne!(length, 0, "an end"),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        let mut server = TcpStream::connect(target).await.expect("the issuer");
        let answer = b"HTTP/1.1 200 OK\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut client, answer)
            .await
            .expect("room");
        // Either side may end it.
        let _ended = copy_bidirectional(&mut client, &mut server).await;
    });
    let proxy = Setup::new(&issuer, &upstream)
        .hosts(HOSTS)
        .keys("timeout = \"3s\"")
        .environment("HTTPS_PROXY", &format!("http://localhost:{port}"))
        .start()
        .await;
    let failed = |event: &serde_json::Value| event["message"] == "key fetch failed";
    assert!(!proxy.events().iter().any(failed), "{}", proxy.output());
    tunnel.abort();
}
