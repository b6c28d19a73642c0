//! One HTTP/1.1 connection to the backend, moved along by whoever waits for its answer.
//!
//! No task of its own drives it: the request's task polls it while it waits for the head, and the
//! response body polls it while it streams. That saves two wake-ups per request, and a request that
//! is dropped takes its connection with it, so the backend learns at once.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use http::{Request, Response};
use hyper::body::Incoming;

use super::body::RequestBody;
use super::connect::{Driver, Handshake, Sender};
use crate::budget::Lease;

/// A connection, idle or in the middle of one exchange.
#[derive(Debug)]
pub(super) struct Connection {
    sender: Sender,
    /// Until it is dropped for the request that waits in it.
    driver: Option<Box<Driver>>,
    ended: bool,
    /// Whether the other side has refused a part of the request: nothing may follow the answer.
    is_cut: Arc<AtomicBool>,
    gate: Arc<Gate>,
    /// Of `gate`.
    waker: Waker,
    /// It counts until it is closed, idle or not.
    _lease: Lease,
}

/// How an exchange can fail.
pub(super) enum ExchangeError {
    /// The connection broke, or brought no sound answer. The request may have been read.
    Broken(hyper::Error),
    /// The connection was reset in answer to the request: nearly always, nobody has read it.
    Refused(hyper::Error),
    /// The connection was closed already; the request is unharmed.
    Unsent(Box<Request<RequestBody>>),
}

impl Connection {
    pub(super) fn new((sender, driver): Handshake, is_cut: Arc<AtomicBool>, lease: Lease) -> Self {
        let gate = Arc::new(Gate::new());
        Self {
            sender,
            driver: Some(Box::new(driver)),
            ended: false,
            is_cut,
            waker: Waker::from(Arc::clone(&gate)),
            gate,
            _lease: lease,
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn exchange(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Self), ExchangeError> {
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        let (driver, ended) = (&mut self.driver, &mut self.ended);
        let (gate, waker) = (&self.gate, &self.waker);
        let answer = std::future::poll_fn(|cx| {
            gate.pass(waker, cx, |cx| {
                drive(driver, ended, cx);
                let answered = answer.as_mut().poll(cx);
                if answered.is_ready() || !*ended {
                    return answered;
                }
                // Closed before it took the request, which it gives back when it goes.
                *driver = None;
                answer.as_mut().poll(cx)
            })
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
        let was_reset = |driver: Box<Driver>| driver.into_parts().io.into_inner().was_reset();
        if refused || (silent && self.driver.is_some_and(was_reset)) {
            ExchangeError::Refused(error)
        } else {
            ExchangeError::Broken(error)
        }
    }

    /// Asks for what the connection is to bring, and moves bytes where it is not there yet.
    pub(super) fn poll_for<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut ask: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let (driver, ended) = (&mut self.driver, &mut self.ended);
        self.gate.pass(&self.waker, cx, |cx| {
            let answer = ask(cx);
            if answer.is_ready() {
                return answer;
            }
            drive(driver, ended, cx);
            ask(cx)
        })
    }

    /// Whether it can take a request: open, and nothing of the last exchange is left. Moves bytes
    /// to find out, unless hyper has said so at the end of the exchange. Nobody is woken for an idle
    /// connection.
    pub(super) fn rest(&mut self) -> bool {
        if !self.sender.is_ready() {
            let mut cx = Context::from_waker(&self.waker);
            drive(&mut self.driver, &mut self.ended, &mut cx);
        }
        self.gate.wake_for(Waker::noop());
        !self.ended && !self.is_cut.load(Ordering::Relaxed) && self.sender.is_ready()
    }
}

/// Wakes the task that moves a connection along, but not while it does: what hyper's two ends tell
/// each other meanwhile is looked at before the task rests. Without it each answer, and each piece of
/// one, would have its task run once more for nothing.
#[derive(Debug)]
struct Gate {
    task: Mutex<Waker>,
    is_closed: AtomicBool,
    has_knocked: AtomicBool,
}

impl Gate {
    fn new() -> Self {
        Self {
            task: Mutex::new(Waker::noop().clone()),
            is_closed: AtomicBool::new(false),
            has_knocked: AtomicBool::new(false),
        }
    }

    /// Polls behind the gate. Whoever gets an answer asks again before they wait, so that knocking
    /// counts only where there is none.
    fn pass<T>(
        &self,
        waker: &Waker,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.wake_for(cx.waker());
        self.has_knocked.store(false, Ordering::Relaxed);
        self.is_closed.store(true, Ordering::SeqCst);
        let answer = poll(&mut Context::from_waker(waker));
        self.is_closed.store(false, Ordering::SeqCst);
        if answer.is_pending() && self.has_knocked.load(Ordering::SeqCst) {
            cx.waker().wake_by_ref();
        }
        answer
    }

    fn wake_for(&self, waker: &Waker) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !task.will_wake(waker) {
            let before = std::mem::replace(&mut *task, waker.clone());
            drop(task);
            drop(before);
        }
    }
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_knocked.store(true, Ordering::SeqCst);
        if !self.is_closed.load(Ordering::SeqCst) {
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            task.wake_by_ref();
        }
    }
}

fn drive(driver: &mut Option<Box<Driver>>, ended: &mut bool, cx: &mut Context<'_>) {
    // Its error also reaches the exchange or the body, which say what it meant for the request.
    if !*ended
        && let Some(driver) = driver
        && matches!(Pin::new(driver.as_mut()).poll(cx), Poll::Ready(_))
    {
        *ended = true;
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Task {
        fn wake_ups(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    #[test]
    fn a_gate_wakes_whoever_would_otherwise_wait_for_ever() {
        let (task, gate) = (Arc::new(Task::default()), Arc::new(Gate::new()));
        let (own, waker) = (
            Waker::from(Arc::clone(&task)),
            Waker::from(Arc::clone(&gate)),
        );
        let mut cx = Context::from_waker(&own);
        for (knocks, answer, wake_ups) in [
            (0, Poll::Pending, 0),
            (0, Poll::Ready(()), 0),
            (1, Poll::Pending, 1),
            (2, Poll::Pending, 1),
            (1, Poll::Ready(()), 0),
            // The knocks before are forgotten.
            (0, Poll::Pending, 0),
        ] {
            let polled = gate.pass(&waker, &mut cx, |cx| {
                for _ in 0..knocks {
                    cx.waker().wake_by_ref();
                }
                answer
            });
            assert_eq!(polled, answer);
            assert_eq!(task.wake_ups(), wake_ups, "{knocks} knocks, {answer:?}");
            waker.wake_by_ref();
            assert_eq!(task.wake_ups(), 1, "outside, every one counts");
        }
    }

    #[test]
    fn a_gate_wakes_the_task_that_passed_it_last() {
        let tasks = [Arc::new(Task::default()), Arc::new(Task::default())];
        let gate = Arc::new(Gate::new());
        let waker = Waker::from(Arc::clone(&gate));
        for (place, task) in tasks.iter().enumerate() {
            let own = Waker::from(Arc::clone(task));
            let polled: Poll<()> =
                gate.pass(&waker, &mut Context::from_waker(&own), |_| Poll::Pending);
            assert!(polled.is_pending());
            waker.wake_by_ref();
            let wake_ups = tasks.each_ref().map(|task| task.wake_ups());
            assert_eq!(wake_ups, [usize::from(place == 0), usize::from(place == 1)]);
        }
        gate.wake_for(Waker::noop());
        waker.wake_by_ref();
        assert_eq!(tasks.each_ref().map(|task| task.wake_ups()), [0, 0]);
    }
}
