//! Room for answers that are being made. Each takes some kilobytes, which an allocator hands out and
//! takes back at more cost than all the small pieces of a request.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::Response;
use tokio_util::sync::ReusableBoxFuture;

/// How many places are kept for later: as many as one turn of the I/O driver usually finishes. The rest
/// goes back to the allocator.
const MAX_SPARE: usize = 64;

/// The places of one worker thread.
pub struct Places<B> {
    spare: Mutex<Vec<Place<B>>>,
}

type Place<B> = ReusableBoxFuture<'static, Response<B>>;

impl<B> Default for Places<B> {
    fn default() -> Self {
        Self {
            spare: Mutex::new(Vec::new()),
        }
    }
}

impl<B> fmt::Debug for Places<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places")
            .field("spare", &self.spare().len())
            .finish()
    }
}

impl<B> Places<B> {
    /// Has an answer made in one of these places.
    pub fn make(
        self: &Arc<Self>,
        answer: impl Future<Output = Response<B>> + Send + 'static,
    ) -> Answering<B> {
        let spare = self.spare().pop();
        let place = match spare {
            Some(mut place) => {
                place.set(answer);
                place
            }
            None => ReusableBoxFuture::new(answer),
        };
        Answering {
            place: Some(place),
            of: Arc::clone(self),
        }
    }

    /// Nothing is left in a place whose answer is made but the room itself.
    fn give_back(&self, place: Place<B>) {
        let mut spare = self.spare();
        if spare.len() < MAX_SPARE {
            spare.push(place);
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Place<B>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that is being made. Dropped before that, it takes its place along.
pub struct Answering<B> {
    place: Option<Place<B>>,
    of: Arc<Places<B>>,
}

impl<B> Future for Answering<B> {
    type Output = Response<B>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<B>> {
        // Without a place the answer was given already.
        let answer = match &mut self.place {
            Some(place) => place.poll(cx),
            None => Poll::Pending,
        };
        if answer.is_ready()
            && let Some(place) = self.place.take()
        {
            self.of.give_back(place);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_SPARE, Places};
    use http::Response;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    fn poll<B>(answer: &mut super::Answering<B>) -> Poll<Response<B>> {
        Future::poll(Pin::new(answer), &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_place_serves_one_answer_after_the_other() {
        let places = Arc::new(Places::default());
        for number in 0..3 {
            let mut answer = places.make(async move { Response::new(number) });
            assert!(places.spare().is_empty());
            let Poll::Ready(made) = poll(&mut answer) else {
                panic!("it waits for nothing");
            };
            assert_eq!(*made.body(), number);
            assert_eq!(places.spare().len(), 1);
            assert!(poll(&mut answer).is_pending(), "it is given once");
        }
        // One of another size takes a place of its own.
        let large = [7_u8; 1000];
        let mut answer = places.make(async move { Response::new(large.iter().count()) });
        assert!(matches!(poll(&mut answer), Poll::Ready(made) if *made.body() == 1000));
    }

    #[test]
    fn what_is_not_finished_is_dropped_whole() {
        let places = Arc::new(Places::<()>::default());
        let held = Arc::new(());
        let with_it = Arc::clone(&held);
        let mut answer = places.make(async move {
            std::future::pending::<()>().await;
            drop(with_it);
            Response::new(())
        });
        assert!(poll(&mut answer).is_pending());
        drop(answer);
        assert!(places.spare().is_empty());
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn few_places_are_kept() {
        let places = Arc::new(Places::default());
        let mut answers: Vec<_> = (0..MAX_SPARE * 2)
            .map(|_| places.make(async { Response::new(()) }))
            .collect();
        for answer in &mut answers {
            assert!(poll(answer).is_ready());
        }
        assert_eq!(places.spare().len(), MAX_SPARE);
    }
}
