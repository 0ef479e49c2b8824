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
    /// Records acknowledged by the life that had stored them, so late that the answer was to another send of them.
    pub from_memory: AtomicU64,
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
    pub from_memory: u64,
    pub known_ids: u64,
    pub fenced: u64,
    pub repeated: u64,
}

impl Books {
    pub fn new(lives: Lives) -> Self {
        let [resent, from_log, from_memory, known_ids, fenced, repeated] = Default::default();
        Self { acked: watch::channel(0).0, resent, from_log, from_memory, known_ids, fenced, repeated, lives }
    }

    pub fn counted(&self) -> Counted {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            acked: *self.acked.borrow(),
            resent: of(&self.resent),
            from_log: of(&self.from_log),
            from_memory: of(&self.from_memory),
            known_ids: of(&self.known_ids),
            fenced: of(&self.fenced),
            repeated: of(&self.repeated),
        }
    }
}

/// A connection that has been silent for so long is given up, so an answer that comes so long after the append is not the
/// first one.
const LATE_MS: i64 = 1_000;

/// What an acknowledgement is an answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// As far as can be told, the send that stored the record.
    First,
    /// A later send, by the life of the server that stored the record.
    FromMemory,
    /// A later send, by a later life.
    FromLog,
}

/// When the server's lives began.
#[derive(Debug, Clone, Default)]
pub struct Lives {
    all: Arc<Mutex<Vec<Began>>>,
}

/// The moment before a start, by both clocks: nothing that this life appends is older.
#[derive(Debug, Clone, Copy)]
pub struct Begin {
    at_ns: u64,
    at_ms: i64,
}

#[derive(Debug, Clone, Copy)]
struct Began {
    begin: Begin,
    ready_ns: u64,
}

impl Lives {
    /// The moment before a start.
    pub fn begin(&self, clock: Clock) -> Begin {
        let now = clock_gettime(ClockId::Realtime);
        Begin { at_ns: clock.now_ns(), at_ms: now.tv_sec * 1_000 + now.tv_nsec / 1_000_000 }
    }

    /// The server that was started at that moment is ready.
    pub fn ready(&self, begin: Begin, clock: Clock) {
        let began = Began { begin, ready_ns: clock.now_ns() };
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(began);
    }

    /// Of an acknowledgement that came at `at_ns`, of what was appended at `append_ms` by the wall clock.
    pub fn answer(&self, at_ns: u64, append_ms: i64) -> Answer {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Began { begin, .. }) = all.iter().rev().find(|began| began.ready_ns <= at_ns) else {
            return Answer::First;
        };
        let since_ms = i64::try_from((at_ns - begin.at_ns) / 1_000_000).unwrap_or(i64::MAX);
        match begin.at_ms.saturating_add(since_ms).saturating_sub(append_ms) {
            _ if append_ms < begin.at_ms => Answer::FromLog,
            late if late >= LATE_MS => Answer::FromMemory,
            _ => Answer::First,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_by_who_gives_it_and_how_late() {
        const MS: u64 = 1_000_000;
        let lives = Lives::default();
        let began = |at_ms: u64, wall_ms| {
            let begin = Begin { at_ns: at_ms * MS, at_ms: wall_ms };
            Began { begin, ready_ns: (at_ms + 10) * MS }
        };
        lives.all.lock().expect("alone").extend([began(100, 50_100), began(5_000, 55_000)]);
        assert_eq!(lives.answer(2_000 * MS, 51_995), Answer::First);
        assert_eq!(lives.answer(2_000 * MS, 51_000), Answer::FromMemory);
        assert_eq!(lives.answer(5_020 * MS, 54_000), Answer::FromLog);
        assert_eq!(lives.answer(5_020 * MS, 55_000), Answer::First);
        assert_eq!(lives.answer(5 * MS, 0), Answer::First, "nobody was there");
    }
}
