//! An HTTP/2 client with prior knowledge, in clear text.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::wire::within;

/// How often a wait looks for a change that nothing announces.
const TICK: Duration = Duration::from_millis(20);

/// One HTTP/2 connection. A clone is the same connection.
#[derive(Clone)]
pub struct H2 {
    sender: SendRequest<Full<Bytes>>,
}

impl H2 {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address))
            .await
            .expect("a connection");
        Self::over(stream).await
    }

    /// Over something that is connected already.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = within(
            "a handshake",
            handshake(TokioExecutor::new(), TokioIo::new(stream)),
        )
        .await
        .expect("an HTTP/2 handshake");
        tokio::spawn(async move {
            // Its failure is every request's failure, where it is seen.
            let _failed = connection.await;
        });
        Self { sender }
    }

    /// Waits until the other side has let go of the connection.
    pub async fn closed(&mut self) {
        within("the end of the connection", async {
            while !self.sender.is_closed() {
                tokio::time::sleep(TICK).await;
            }
        })
        .await;
    }

    /// Sends a request whose URI is absolute, as HTTP/2 wants.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        within("room for a stream", self.sender.ready())
            .await
            .expect("an open connection");
        within("a response", self.sender.send_request(request))
            .await
            .expect("a response")
    }
}

/// The whole body.
pub async fn body(response: Response<Incoming>) -> Bytes {
    within("a body", response.into_body().collect())
        .await
        .expect("a whole body")
        .to_bytes()
}
