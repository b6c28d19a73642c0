//! The way to the backend: connections of each worker thread's own, streaming both ways.

mod body;
mod connect;
mod connection;
mod failure;
mod http1;
mod http2;
mod pool;
mod room;

pub use body::{RequestBody, RequestBodyError, ResponseBody};
pub use connect::{ConnectError, Connector, ConnectorError};
pub use failure::Failure;
pub use room::{Asker, Place, Room};

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use http::{Response, StatusCode};
use hyper::body::Incoming;

use crate::authorized::AuthorizedRequest;
use crate::clock::after;
use crate::config::UpstreamProtocol;
use body::Upload;
use http1::Http1;
use http2::Http2;

/// What is told of interim answers (RFC 9110 §15.2) where nobody listens to them.
pub type Unheard = fn(StatusCode, &HeaderMap);

/// Sends requests to the backend.
#[derive(Debug, Clone)]
pub struct Upstream {
    protocol: Protocol,
    response_header_timeout: Duration,
}

#[derive(Debug, Clone)]
enum Protocol {
    Http1(Http1),
    Http2(Http2),
}

impl Upstream {
    /// An upstream without connections yet. Each worker thread has its own, and all of them share the room.
    #[must_use]
    pub fn new(connector: Connector, response_header_timeout: Duration, room: Room) -> Self {
        Self {
            protocol: match connector.protocol() {
                UpstreamProtocol::Http1 => Protocol::Http1(Http1::new(connector, room)),
                UpstreamProtocol::Http2 => Protocol::Http2(Http2::new(connector, room)),
            },
            response_header_timeout,
        }
    }

    /// Sends a request and waits for the head of the answer; the body streams afterwards. `authorize`
    /// makes the request of its body, anew where it has to be sent again. At `expiry` the caller's time
    /// is over, however far its upload has come. `on_interim` is told of what comes before that head,
    /// over HTTP/1.1; hyper keeps it to itself over HTTP/2. The exchange is `asker`'s until its end.
    ///
    /// # Errors
    ///
    /// [`Failure`] says whether the backend could not be reached, broke, or took too long.
    pub async fn send(
        &self,
        body: RequestBody,
        authorize: impl Fn(RequestBody) -> AuthorizedRequest<RequestBody>,
        expiry: Option<Instant>,
        on_interim: Option<impl Fn(StatusCode, &HeaderMap) + Clone + Send + Sync + 'static>,
        asker: Asker<'_>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let upload = body.upload();
        let request = |body| {
            let mut request = authorize(body).into_request();
            if let Some(on_interim) = on_interim.clone() {
                hyper::ext::on_informational(&mut request, move |answer| {
                    on_interim(answer.status(), answer.headers());
                });
            }
            request
        };
        match &self.protocol {
            Protocol::Http1(http1) => {
                let exchange = pin!(http1.send(body, &request, asker));
                self.within_patience(&upload, expiry, exchange).await
            }
            // Boxed, so that it takes no room in the futures of the others.
            Protocol::Http2(http2) => {
                let mut exchange = Box::pin(http2.send(request(body), asker));
                self.within_patience(&upload, expiry, exchange.as_mut())
                    .await
            }
        }
    }

    /// Opens a connection of its own for a request that asks for an upgrade. The connection counts as long as the
    /// [`Place`] is held.
    ///
    /// # Errors
    ///
    /// [`Failure`], as for [`Upstream::send`].
    pub async fn send_upgrade(
        &self,
        request: AuthorizedRequest<RequestBody>,
        asker: Asker<'_>,
    ) -> Result<(Response<Incoming>, Place), Failure> {
        let Protocol::Http1(http1) = &self.protocol else {
            return Err(Failure::Upgrade);
        };
        let request = request.into_request();
        let upload = request.body().upload();
        let exchange = async {
            let (mut sender, connection, place) = http1.handshake(asker).await?;
            // Driven on its own: after 101 the connection belongs to the tunnel.
            tokio::spawn(async move {
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(%error, "upgraded connection ended");
                }
            });
            let response = sender
                .send_request(request)
                .await
                .map_err(Failure::broken)?;
            check_framing(response.headers())?;
            let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            let to = response.headers().get(UPGRADE);
            if switches && !to.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
                return Err(Failure::UnaskedUpgrade);
            }
            Ok((response, place))
        };
        self.within_patience(&upload, None, pin!(exchange)).await
    }

    /// Waits for an answer for as long as `timeouts.response_header` after the upload last moved: there
    /// is no total timeout on a stream, in either direction. When that is over, either the backend has
    /// not answered, or the client has not sent what it is still waited for.
    async fn within_patience<T>(
        &self,
        upload: &Upload,
        expiry: Option<Instant>,
        mut exchange: Pin<&mut impl Future<Output = Result<T, Failure>>>,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        let patience = || {
            let last_moved = upload.last_moved().unwrap_or(began);
            after(last_moved, self.response_header_timeout)
        };
        loop {
            let patience_ends = patience();
            let deadline = expiry.map_or(patience_ends, |expiry| expiry.min(patience_ends));
            if let Ok(answer) = tokio::time::timeout_at(deadline.into(), exchange.as_mut()).await {
                return answer;
            }
            if expiry == Some(deadline) {
                return Err(Failure::Expired);
            }
            if patience() <= patience_ends {
                let limit = self.response_header_timeout;
                return Err(if upload.awaits_client() {
                    Failure::UploadStalled(limit)
                } else {
                    Failure::ResponseTimeout(limit)
                });
            }
        }
    }
}

/// What no answer may be, in either protocol.
fn check_answer(response: &Response<Incoming>) -> Result<(), Failure> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::UnaskedUpgrade);
    }
    check_framing(response.headers())
}

/// RFC 9112 §6.3: an answer framed in two ways means two things to two readers.
fn check_framing(headers: &HeaderMap) -> Result<(), Failure> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = codings
        .next()
        .is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !chunked || codings.next().is_some() {
        return Err(Failure::Unsound(
            "Transfer-Encoding is not exactly one \"chunked\"",
        ));
    }
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err(Failure::Unsound(
            "both Transfer-Encoding and Content-Length",
        ));
    }
    Ok(())
}
