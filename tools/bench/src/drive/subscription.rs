//! What readers share who read everything together: a consumer's, a group's or a queue's whole side of a run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Shared, intended_of};
use crate::stamp::{Found, Stamp};
use crate::verify::{Ledger, Place, Rules, Verdict};

/// A record as it was found.
pub struct Read<'a> {
    /// Where.
    pub place: Place<'a>,
    /// Its value.
    pub value: &'a [u8],
    /// Its stamp, if that lies beside the value.
    pub stamp: Option<&'a [u8]>,
    /// The producer's time.
    pub timestamp: i64,
}

/// What readers share.
#[derive(Debug)]
pub struct Subscription {
    /// What it is called in what is printed.
    pub name: String,
    ledger: Mutex<Ledger>,
    /// Records of this run that are done with, each once.
    done: AtomicU64,
    expected: AtomicU64,
    /// All that is expected is done.
    pub complete: CancellationToken,
    /// Partitions went from one to another after something was read.
    pub has_moved: AtomicBool,
}

/// What to make of a record.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// It counts as one of this run's, and for the first time.
    pub counts: bool,
    /// When it was to be sent, if it says so and is new.
    pub intended_ns: Option<u64>,
}

impl Subscription {
    /// Nothing read yet.
    pub fn new(name: String, rules: Rules) -> Self {
        Self {
            name,
            ledger: Mutex::new(Ledger::new(rules)),
            done: AtomicU64::new(0),
            expected: AtomicU64::new(u64::MAX),
            complete: CancellationToken::new(),
            has_moved: AtomicBool::new(false),
        }
    }

    /// Looks at many records at one time.
    pub fn look<R>(&self, look: impl FnOnce(&mut Ledger) -> R) -> R {
        look(&mut self.ledger.lock())
    }

    /// So many more are done with.
    pub fn did(&self, records: u64) {
        let done = self.done.fetch_add(records, Ordering::SeqCst) + records;
        if done >= self.expected.load(Ordering::SeqCst) {
            self.complete.cancel();
        }
    }

    /// So many were sent.
    pub fn expect(&self, records: u64) {
        self.expected.store(records, Ordering::SeqCst);
        self.did(0);
    }

    /// How many are done with.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// Waits until all that is expected is done, or that long.
    pub async fn wait(&self, patience: Duration) -> bool {
        tokio::time::timeout(patience, self.complete.cancelled()).await.is_ok()
    }
}

/// Holds a record against the ledger; without one it is only counted.
pub fn take(ledger: &mut Ledger, read: &Read<'_>, shared: &Shared) -> Taken {
    if !shared.is_stamped {
        ledger.counted(read.place);
        let intended_ns = Some(intended_of(shared.clock, read.timestamp));
        return Taken { counts: !read.place.again, intended_ns };
    }
    if !shared.verifies {
        ledger.counted(Place { again: true, ..read.place });
        let intended_ns = Stamp::intended_ns(read.stamp.unwrap_or(read.value));
        return Taken { counts: !read.place.again, intended_ns };
    }
    let found = match read.stamp {
        Some(stamp) => Stamp::of_header(stamp, read.value),
        None => Stamp::of_value(read.value),
    };
    match ledger.saw(read.place, found) {
        Verdict::New(stamp) => Taken { counts: true, intended_ns: Some(stamp.intended_ns) },
        Verdict::Damaged => Taken { counts: true, intended_ns: None },
        // Records without stamps at all: somebody's stream, of which only the number counts.
        Verdict::Foreign if found == Found::Foreign => Taken { counts: true, intended_ns: None },
        Verdict::Foreign | Verdict::Again => Taken { counts: false, intended_ns: None },
    }
}
