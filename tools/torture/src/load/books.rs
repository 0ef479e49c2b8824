//! What all workers of a load count together, and the server's lives, by which an answer tells where it is from.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use millstream_check::history::Clock;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// Counters of a load.
#[derive(Debug)]
pub struct Books {
    pub acked: watch::Sender<u64>,
    /// Batches sent again by producers that have ended.
    pub resent: AtomicU64,
    /// Records acknowledged by a life of the server that had not stored them: it knew of them from the log.
    pub from_log: AtomicU64,
    /// Records acknowledged with the place of an earlier one of their dedup id.
    pub known_ids: AtomicU64,
    /// Producers that ended because a newer one took their name.
    pub fenced: AtomicU64,
    /// Lives of producers that began with records that were sent before.
    pub repeated: AtomicU64,
    pub lives: Lives,
}

/// Of one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    pub acked: u64,
    pub resent: u64,
    pub from_log: u64,
    pub known_ids: u64,
    pub fenced: u64,
    pub repeated: u64,
}

impl Books {
    pub fn new(lives: Lives) -> Self {
        let [resent, from_log, known_ids, fenced, repeated] = Default::default();
        Self { acked: watch::channel(0).0, resent, from_log, known_ids, fenced, repeated, lives }
    }

    pub fn counted(&self) -> Counted {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            acked: *self.acked.borrow(),
            resent: of(&self.resent),
            from_log: of(&self.from_log),
            known_ids: of(&self.known_ids),
            fenced: of(&self.fenced),
            repeated: of(&self.repeated),
        }
    }
}

/// When the server's lives began.
#[derive(Debug, Clone, Default)]
pub struct Lives {
    all: Arc<Mutex<Vec<Began>>>,
}

#[derive(Debug, Clone, Copy)]
struct Began {
    /// By the clock of the history, when it was ready.
    ready_ns: u64,
    /// By the wall clock, before its process was started: nothing that it appended is older.
    start_ms: i64,
}

impl Lives {
    /// The moment before a start.
    pub fn begin(&self) -> i64 {
        let now = clock_gettime(ClockId::Realtime);
        now.tv_sec * 1_000 + now.tv_nsec / 1_000_000
    }

    /// The server that was started at that moment is ready.
    pub fn ready(&self, start_ms: i64, clock: Clock) {
        let began = Began { ready_ns: clock.now_ns(), start_ms };
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(began);
    }

    /// Whether an answer that came at `at_ns` is about what an earlier life appended at `append_ms`.
    pub fn is_of_an_earlier_one(&self, at_ns: u64, append_ms: i64) -> bool {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let answering = all.iter().rev().find(|began| began.ready_ns <= at_ns);
        answering.is_some_and(|began| append_ms < began.start_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_before_the_start_of_who_answers_is_from_the_log() {
        let lives = Lives::default();
        let began = |ready_ns, start_ms| Began { ready_ns, start_ms };
        lives.all.lock().expect("alone").extend([began(10, 1_000), began(50, 2_000)]);
        assert!(!lives.is_of_an_earlier_one(20, 1_500), "it answered what it had stored");
        assert!(lives.is_of_an_earlier_one(60, 1_500));
        assert!(!lives.is_of_an_earlier_one(60, 2_000));
        assert!(!lives.is_of_an_earlier_one(5, 0), "nobody answered");
    }
}
