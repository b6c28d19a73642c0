//! One request and its answer, as what shares a connection with others.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Instant;

use super::super::room::Place;

/// How many streams a connection carries.
#[derive(Debug)]
pub(super) struct Load {
    streams: AtomicUsize,
    last_end: Mutex<Instant>,
}

impl Load {
    pub(super) fn new() -> Self {
        Self {
            streams: AtomicUsize::new(0),
            last_end: Mutex::new(Instant::now()),
        }
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// When the last stream ended.
    pub(super) fn last_end(&self) -> Instant {
        *self.last_end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream counts for as long as either of its sides is there.
#[derive(Debug)]
pub(in crate::upstream) struct Stream {
    load: Arc<Load>,
    over: AtomicBool,
    upload: Mutex<Option<Waker>>,
    _place: Place,
}

impl Stream {
    pub(super) fn new(load: &Arc<Load>, place: Place) -> Arc<Self> {
        load.streams.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            load: Arc::clone(load),
            over: AtomicBool::new(false),
            upload: Mutex::new(None),
            _place: place,
        })
    }

    /// Whether the answer is over, or nobody waits for it any more. If not, the upload is woken when
    /// it is.
    pub(in crate::upstream) fn is_over(&self, cx: &Context<'_>) -> bool {
        let mut upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *upload {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *upload = Some(cx.waker().clone()),
        }
        self.over.load(Ordering::Relaxed)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.load.streams.fetch_sub(1, Ordering::Relaxed);
        let mut last_end = self
            .load
            .last_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last_end = Instant::now();
    }
}

/// Held by whoever waits for the answer, and then by its body. An upload does not outlive it, just as
/// in HTTP/1: the caller's time may be over, and a backend that has answered has decided.
#[derive(Debug)]
pub(in crate::upstream) struct AnswerSide(Arc<Stream>);

impl AnswerSide {
    pub(in crate::upstream) fn new(stream: &Arc<Stream>) -> Self {
        Self(Arc::clone(stream))
    }
}

impl Drop for AnswerSide {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
        let upload = self
            .0
            .upload
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(upload) = upload {
            upload.wake();
        }
    }
}
