//! `authgate healthcheck` and `authgate drain`: what an image without a shell or curl needs to speak to
//! the admin listener of the process that runs beside it.

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::Timeouts;

/// For a whole answer. The listener is on this machine and answers from memory; one that takes longer is
/// not well.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The most that is read of an answer: some hundred bytes are what the listener sends, and another
/// program may hold its port.
const MAX_ANSWER_BYTES: usize = 4 * 1024;

/// How often a waiting drain looks.
const DRAIN_INTERVAL: Duration = Duration::from_millis(250);

/// Why the process did not answer as it should.
#[derive(Debug)]
pub enum OperateError {
    /// Nobody listens there.
    Refused(SocketAddr),
    /// Somebody does, but does not answer, or not in time, or not in HTTP.
    Unreachable(SocketAddr, String),
    /// It answers, and says that it is not ready.
    NotReady(String),
    /// It takes a drain from its own machine only.
    Remote(SocketAddr),
    /// It answers in a way that authgate does not.
    Unexpected(SocketAddr, StatusCode),
}

impl fmt::Display for OperateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(address) => write!(f, "nothing listens on {address}"),
            Self::Unreachable(address, error) => {
                write!(
                    f,
                    "the admin listener on {address} does not answer: {error}"
                )
            }
            Self::NotReady(reason) => write!(f, "not ready: {reason}"),
            Self::Remote(address) => write!(
                f,
                "the admin listener on {address} takes a drain from its own machine only, unless admin_drain = \"anyone\""
            ),
            Self::Unexpected(address, status) => {
                write!(
                    f,
                    "what listens on {address} answers {status}: is it authgate?"
                )
            }
        }
    }
}

impl std::error::Error for OperateError {}

/// Whether the process behind `admin` is ready.
///
/// # Errors
///
/// [`OperateError`] when it is not, or cannot be asked.
pub async fn healthcheck(admin: SocketAddr) -> Result<(), OperateError> {
    let address = reachable(admin);
    let answer = ask(address, Method::GET, "/readyz").await?;
    match answer.status {
        StatusCode::OK => Ok(()),
        StatusCode::SERVICE_UNAVAILABLE => Err(OperateError::NotReady(answer.reason())),
        other => Err(OperateError::Unexpected(address, other)),
    }
}

/// How a wait for the end of a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// No request is running.
    Idle,
    /// The process has ended.
    Ended,
    /// `timeouts.drain` is over and this many requests are still running.
    TimedOut(u64),
}

/// Makes the process behind `admin` unready. It goes on serving.
///
/// # Errors
///
/// [`OperateError`] when it cannot be told.
pub async fn drain(admin: SocketAddr) -> Result<(), OperateError> {
    request_drain(reachable(admin)).await.map(drop)
}

/// The same, and waits until balancers have had `timeouts.linger` to learn of it and no request is
/// running; for `timeouts.drain` at most.
///
/// # Errors
///
/// [`OperateError`] when it cannot be told.
pub async fn drain_and_wait(
    admin: SocketAddr,
    timeouts: &Timeouts,
) -> Result<Waited, OperateError> {
    let address = reachable(admin);
    let begun = Instant::now();
    let mut requests = request_drain(address).await?;
    loop {
        let waited = begun.elapsed();
        if requests == 0 && waited >= timeouts.linger {
            return Ok(Waited::Idle);
        }
        if waited >= timeouts.drain {
            return Ok(Waited::TimedOut(requests));
        }
        tokio::time::sleep(DRAIN_INTERVAL).await;
        // To ask again is to be told what is left.
        requests = match request_drain(address).await {
            Ok(requests) => requests,
            Err(OperateError::Refused(_)) => return Ok(Waited::Ended),
            // A process under load may be late; what it said last still holds.
            Err(OperateError::Unreachable(..)) => requests,
            Err(error) => return Err(error),
        };
    }
}

/// How many requests are still running.
async fn request_drain(address: SocketAddr) -> Result<u64, OperateError> {
    let answer = ask(address, Method::POST, "/drain").await?;
    let requests = answer.member("requests").and_then(|value| value.as_u64());
    match (answer.status, requests) {
        (StatusCode::OK, Some(requests)) => Ok(requests),
        (StatusCode::FORBIDDEN, _) => Err(OperateError::Remote(address)),
        (status, _) => Err(OperateError::Unexpected(address, status)),
    }
}

/// Who listens on every interface is reached over loopback.
fn reachable(mut admin: SocketAddr) -> SocketAddr {
    match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => admin.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => admin.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    admin
}

struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    fn member(&self, name: &str) -> Option<serde_json::Value> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        body.get(name).cloned()
    }

    fn reason(&self) -> String {
        let reason = self.member("reason");
        let reason = reason.as_ref().and_then(serde_json::Value::as_str);
        reason.unwrap_or("no reason is given").to_owned()
    }
}

async fn ask(address: SocketAddr, method: Method, path: &str) -> Result<Answer, OperateError> {
    let asking = ask_patiently(address, method, path);
    match tokio::time::timeout(ANSWER_TIMEOUT, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(OperateError::Unreachable(
            address,
            format!("nothing within {ANSWER_TIMEOUT:?}"),
        )),
    }
}

async fn ask_patiently(
    address: SocketAddr,
    method: Method,
    path: &str,
) -> Result<Answer, OperateError> {
    let failed = |error: &dyn fmt::Display| OperateError::Unreachable(address, error.to_string());
    let request = Request::builder()
        .method(method)
        .uri(path)
        // Without the interface of a link-local address, which is this machine's affair.
        .header(
            HOST,
            SocketAddr::new(address.ip(), address.port()).to_string(),
        )
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            return Err(OperateError::Refused(address));
        }
        Err(error) => return Err(failed(&error)),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    // The connection makes progress only while it is polled; it ends with the process at the latest.
    tokio::spawn(connection);
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| failed(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    let body = body.collect().await.map_err(|error| failed(&error))?;
    let body = body.to_bytes();
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn every_interface_is_reached_over_loopback() {
        for (listening, expected) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("127.0.0.2:9090", "127.0.0.2:9090"),
            ("[::1]:1", "[::1]:1"),
            ("192.0.2.7:9090", "192.0.2.7:9090"),
            ("[fe80::1%3]:9090", "[fe80::1%3]:9090"),
        ] {
            let listening = listening.parse().expect("an address");
            assert_eq!(reachable(listening).to_string(), expected);
        }
    }
}
