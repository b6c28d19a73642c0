//! Whether the worker threads make progress.
//!
//! tokio counts what each runtime does, so an idle worker need not be woken to show that it is well.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;

/// How long a worker that has something to do may take for one turn, which is at most 61 tasks of tokio's. Each
/// takes milliseconds at most; what takes so long is stuck in a call that blocks, or in a loop without end.
pub(super) const MAX_TURN: Duration = Duration::from_secs(30);

/// How often the workers are looked at.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks that are further apart, the process was stopped or had no CPU: no worker is to blame for a turn
/// that was under way then.
const MAX_GAP: Duration = Duration::from_secs(10);

/// How far a worker has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Odd while the worker sleeps until there is something to do.
    parks_and_unparks: u64,
    /// Grows with the end of each turn.
    busy: Duration,
}

impl Progress {
    /// That of the worker with this runtime of one thread.
    pub(super) fn of(runtime: &Handle) -> Self {
        let metrics = runtime.metrics();
        Self {
            parks_and_unparks: metrics.worker_park_unpark_count(0),
            busy: metrics.worker_total_busy_duration(0),
        }
    }

    const fn is_parked(self) -> bool {
        self.parks_and_unparks % 2 == 1
    }
}

/// What was seen of the workers so far.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    last_look: Option<Instant>,
    /// Of each worker: how far it was, and since when.
    workers: Vec<(Progress, Instant)>,
}

impl Liveness {
    /// Takes in how far each worker is now, always in the same order. Answers how many are stuck.
    pub(super) fn look(&mut self, now: Instant, workers: &[Progress]) -> usize {
        let since_last = |last| now.saturating_duration_since(last);
        if self.last_look.is_none_or(|last| since_last(last) > MAX_GAP) {
            self.workers.clear();
        }
        self.last_look = Some(now);
        self.workers.truncate(workers.len());
        let known = self.workers.len();
        for (seen, progress) in self.workers.iter_mut().zip(workers) {
            if progress.is_parked() || seen.0 != *progress {
                *seen = (*progress, now);
            }
        }
        let newcomers = workers.iter().skip(known);
        self.workers
            .extend(newcomers.map(|progress| (*progress, now)));
        let is_stuck = |since: Instant| now.saturating_duration_since(since) >= MAX_TURN;
        let stuck = self.workers.iter().filter(|(_, since)| is_stuck(*since));
        stuck.count()
    }
}

#[cfg(test)]
mod tests {
    use super::{LOOK_INTERVAL, Liveness, MAX_GAP, MAX_TURN, Progress};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};
    use std::time::{Duration, Instant};
    use tokio::runtime::{Builder, Handle};

    fn at(parks_and_unparks: u64, busy: u64) -> Progress {
        let busy = Duration::from_millis(busy);
        Progress {
            parks_and_unparks,
            busy,
        }
    }

    /// What each of the looks says, so many seconds after the first one.
    fn looks(looks: &[(u64, &[Progress])]) -> Vec<usize> {
        let (start, mut liveness) = (Instant::now(), Liveness::default());
        looks
            .iter()
            .map(|(after, workers)| liveness.look(start + Duration::from_secs(*after), workers))
            .collect()
    }

    #[test]
    fn only_a_worker_that_could_run_and_does_not_is_stuck() {
        assert_eq!((LOOK_INTERVAL.as_secs(), MAX_TURN.as_secs()), (5, 30));
        let hung = at(4, 70);
        let every_five = |last: u64| (0..=last / 5).map(|look| look * 5);

        let always: Vec<_> = every_five(60).map(|after| (after, vec![hung])).collect();
        let idle: Vec<_> = every_five(60)
            .map(|after| (after, vec![at(5, 70)]))
            .collect();
        let busy: Vec<_> = every_five(60)
            .map(|after| (after, vec![at(4, after)]))
            .collect();
        let waking: Vec<_> = every_five(60)
            .map(|after| (after, vec![at(after * 2, 7)]))
            .collect();
        // One of three.
        let beside: Vec<_> = every_five(60)
            .map(|after| (after, vec![at(5, 70), hung, at(4, after)]))
            .collect();
        // Goes on after all.
        let late: Vec<_> = every_five(60)
            .map(|after| (after, vec![if after < 45 { hung } else { at(5, 99) }]))
            .collect();
        // Starts late.
        let newcomer: Vec<_> = every_five(60)
            .map(|after| (after, if after < 20 { vec![] } else { vec![hung] }))
            .collect();
        let stuck_from_to = |from: u64, to: u64| -> Vec<usize> {
            every_five(60)
                .map(|after| usize::from(from <= after && after < to))
                .collect()
        };
        for (name, seen, stuck) in [
            ("hung", always, stuck_from_to(30, 99)),
            ("idle", idle, stuck_from_to(99, 99)),
            ("busy", busy, stuck_from_to(99, 99)),
            ("waking", waking, stuck_from_to(99, 99)),
            ("beside others", beside, stuck_from_to(30, 99)),
            ("late", late, stuck_from_to(30, 45)),
            ("newcomer", newcomer, stuck_from_to(50, 99)),
            (
                "none",
                every_five(60).map(|after| (after, vec![])).collect(),
                stuck_from_to(99, 99),
            ),
        ] {
            let seen: Vec<(u64, &[Progress])> = seen
                .iter()
                .map(|(after, workers)| (*after, &workers[..]))
                .collect();
            assert_eq!(looks(&seen), stuck, "{name}");
        }
    }

    /// SIGSTOP, a paused container, a machine without a share of CPU: then nobody looked either.
    #[test]
    fn a_process_that_was_stopped_starts_anew() {
        let hung = [at(4, 70)];
        let gap = MAX_GAP.as_secs() + 1;
        let stopped = [
            (0, &hung[..]),
            (25, &hung),
            (25 + gap, &hung),
            (25 + 3600, &hung),
        ];
        assert_eq!(looks(&stopped), [0, 0, 0, 0]);
        // Stopped in the middle, and hung nevertheless.
        let resumed: Vec<(u64, &[Progress])> = [0, 5, 10, 1000, 1005, 1015, 1025, 1029, 1030]
            .iter()
            .map(|after| (*after, &hung[..]))
            .collect();
        assert_eq!(looks(&resumed), [0, 0, 0, 0, 0, 0, 0, 0, 1]);
        // Probes look, too, at any time.
        let often: Vec<(u64, &[Progress])> = [0, 0, 9, 10, 11, 20, 29, 30]
            .iter()
            .map(|after| (*after, &hung[..]))
            .collect();
        assert_eq!(looks(&often), [0, 0, 0, 0, 0, 0, 0, 1]);
    }

    /// A worker's runtime that runs `work`, until the test ends.
    fn worker(work: impl Future<Output = ()> + Send + 'static) -> Handle {
        let (sender, handle) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            sender.send(runtime.handle().clone()).expect("the test");
            runtime.block_on(async {
                tokio::spawn(work);
                std::future::pending::<()>().await;
            });
        });
        handle.recv().expect("a worker")
    }

    /// What tokio tells of real runtimes is what the decision takes it for.
    #[test]
    fn progress_is_that_of_the_runtime() {
        let idle = worker(async {});
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let busy = worker(async move {
            while !over.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
        });
        let (tell, told) = mpsc::channel();
        let (_never, end) = mpsc::channel::<()>();
        let blocked = worker(async move {
            tell.send(()).expect("the test");
            _ = end.recv();
        });
        told.recv().expect("a worker in a call that blocks");
        while !Progress::of(&idle).is_parked() {
            std::thread::yield_now();
        }
        let before = [&idle, &busy, &blocked].map(Progress::of);
        while Progress::of(&busy) == before[1] {
            std::thread::yield_now();
        }
        let after = [&idle, &busy, &blocked].map(Progress::of);
        assert!(after[0].is_parked() && !after[2].is_parked());
        assert_eq!(before[2], after[2]);
        let mut liveness = Liveness::default();
        let start = Instant::now();
        for seconds in [0, 10, 20] {
            assert_eq!(
                liveness.look(start + Duration::from_secs(seconds), &before),
                0
            );
        }
        assert_eq!(liveness.look(start + MAX_TURN, &after), 1);
        is_over.store(true, Ordering::Relaxed);
    }
}
