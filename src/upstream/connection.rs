//! One HTTP/1.1 connection to the backend, moved along by whoever waits for its answer.
//!
//! No task of its own drives it: the request's task polls it while it waits for the head, and the
//! response body polls it while it streams. That saves two wake-ups per request, and a request that
//! is dropped takes its connection with it, so the backend learns at once.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::body::RequestBody;
use super::connect::{Handshake, Stream};

/// A connection, idle or in the middle of one exchange.
#[derive(Debug)]
pub(super) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    driver: Box<http1::Connection<TokioIo<Stream>, RequestBody>>,
    ended: bool,
}

/// How an exchange can fail.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// The connection broke, or brought no sound answer. The request may have been read.
    Broken(hyper::Error),
    /// The connection was reset in answer to the request: nearly always, nobody has read it.
    Refused(hyper::Error),
    /// The connection was closed already; the request is unharmed.
    Unsent(Box<Request<RequestBody>>),
}

impl Connection {
    pub(super) fn new((sender, driver): Handshake) -> Self {
        Self {
            sender,
            driver: Box::new(driver),
            ended: false,
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn exchange(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Self), ExchangeError> {
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        let ended = &mut self.ended;
        let answer = std::future::poll_fn(|cx| {
            drive(driver, ended, cx);
            answer.as_mut().poll(cx)
        })
        .await;
        match answer {
            Ok(response) => Ok((response, self)),
            Err(mut error) => Err(match error.take_message() {
                Some(request) => ExchangeError::Unsent(Box::new(request)),
                None => self.judge(error.into_error()),
            }),
        }
    }

    /// Whether anybody can have read the request.
    fn judge(self, error: hyper::Error) -> ExchangeError {
        let cause = std::error::Error::source(&error);
        let refused = cause
            .and_then(|cause| cause.downcast_ref::<io::Error>())
            .is_some_and(|cause| {
                matches!(
                    cause.kind(),
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                )
            });
        let silent = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
        if refused || (silent && self.driver.into_parts().io.into_inner().was_reset()) {
            ExchangeError::Refused(error)
        } else {
            ExchangeError::Broken(error)
        }
    }

    /// Moves bytes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, &mut self.ended, cx);
    }

    /// Whether it can take a request: open, and nothing of the last exchange is left. Moves bytes
    /// to find out.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll(cx);
        !self.ended && self.sender.is_ready()
    }

    /// [`Connection::poll_idle`] for a place where nobody can wait.
    pub(super) fn is_idle_now(&mut self) -> bool {
        self.poll_idle(&mut Context::from_waker(Waker::noop()))
    }
}

fn drive(
    driver: &mut http1::Connection<TokioIo<Stream>, RequestBody>,
    ended: &mut bool,
    cx: &mut Context<'_>,
) {
    // Its error also reaches the exchange or the body, which say what it meant for the request.
    if !*ended && matches!(Pin::new(driver).poll(cx), Poll::Ready(_)) {
        *ended = true;
    }
}
