//! What several hold together: the memory of the files under construction, of all lakes of a server; the open files of a lake.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A count with a limit. It refuses nothing: who finds it exceeded gives something back.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// Nothing is held yet.
    pub fn new(limit: usize) -> Budget {
        Budget { limit, used: AtomicUsize::new(0) }
    }

    /// Somebody held `before` and holds `now`.
    pub(crate) fn change(&self, before: usize, now: usize) {
        if now >= before {
            self.used.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Whether enough was given back after it was exceeded: a quarter of the limit is free, so that it is not exceeded again
    /// at once.
    pub(crate) fn is_relieved(&self) -> bool {
        self.used.load(Ordering::Relaxed) <= self.limit / 4 * 3
    }

    /// Whether one more would be too many.
    pub(crate) fn is_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.limit
    }

    /// Whether more is held than should be.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit
    }
}
