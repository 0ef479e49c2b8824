//! What a lake's handle and its tasks share: requests one way, progress the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_protocol::frame::control::LakeConfig;
use millstream_protocol::{LakeId, Offset, Timestamp};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::layout::Layout;
use crate::manifest::Ledger;
use crate::schema::LakeSchema;
use crate::state::LakeState;
use crate::store::Store;
use crate::{LakeError, LakeSettings};

/// What stays the same as long as a lake runs.
pub(super) struct Context {
    pub id: LakeId,
    pub config: LakeConfig,
    pub stream: String,
    pub settings: LakeSettings,
    pub layout: Layout,
    pub shared: Shared,
    /// The key of its state in the partitions; also its name as an owner of holds.
    pub key: String,
    /// Which start of which process this is, for people.
    pub writer: String,
    /// The lake's schema, of all its partitions.
    pub schema: Arc<Mutex<LakeSchema>>,
    pub ledger: Box<dyn Ledger>,
    /// The store, once it is open and this lake's.
    pub store: watch::Sender<Option<Store>>,
}

/// How far a lake is in one partition.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    pub floor: Offset,
    pub read_end: Offset,
    pub start: Offset,
    /// Everything below is asked to land.
    pub flush_to: Offset,
    pub files: u64,
    pub rows: u64,
    pub bytes: u64,
    pub rejected: u64,
    pub lost: u64,
    pub open_rows: u64,
    pub open_files: u32,
    /// When the oldest record that was read and has not landed was appended.
    pub oldest: Option<Timestamp>,
    /// When the newest landed record was appended.
    pub newest_landed: Option<Timestamp>,
    /// What holds it up.
    pub error: String,
    /// Attempts at the error prefix that are done.
    pub retries_done: u64,
    /// Records that these landed.
    pub retried: u64,
    /// Records that are left in the error prefix after the last attempt.
    pub left: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    partitions: Mutex<Vec<Progress>>,
    /// What holds up the lake as a whole.
    trouble: Mutex<String>,
    halted: Mutex<Option<LakeError>>,
    last_error: Mutex<(String, i64)>,
    /// Counts requests: flushes, attempts at the error prefix.
    requests: watch::Sender<u64>,
    retries: Mutex<u64>,
    changed: watch::Sender<()>,
    stopping: watch::Sender<Stopping>,
    /// Reading ends.
    pub stop: Arc<AtomicBool>,
    /// Everything ends.
    abort: AtomicBool,
}

/// How far a lake is on its way to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stopping {
    No,
    /// What was read is landed first.
    Soon,
    Now,
}

impl Shared {
    pub fn new(partitions: Vec<Progress>) -> Self {
        Self {
            partitions: Mutex::new(partitions),
            trouble: Mutex::default(),
            halted: Mutex::default(),
            last_error: Mutex::default(),
            requests: watch::Sender::new(0),
            retries: Mutex::default(),
            changed: watch::Sender::new(()),
            stopping: watch::Sender::new(Stopping::No),
            stop: Arc::default(),
            abort: AtomicBool::new(false),
        }
    }

    /// A copy of the progress.
    pub fn progress(&self) -> Vec<Progress> {
        self.partitions.lock().clone()
    }

    /// Changes one partition's progress and tells those who wait for it.
    pub fn update(&self, index: usize, change: impl FnOnce(&mut Progress)) {
        change(&mut self.partitions.lock()[index]);
        self.changed.send_replace(());
    }

    /// Asks for all below these offsets to land.
    pub fn ask_flush(&self, targets: &[Offset]) {
        for (progress, target) in self.partitions.lock().iter_mut().zip(targets) {
            progress.flush_to = progress.flush_to.max(*target);
        }
        self.requests.send_modify(|requests| *requests += 1);
    }

    /// What flushes ask for in that partition.
    pub fn flush_to(&self, index: usize) -> Offset {
        self.partitions.lock()[index].flush_to
    }

    /// Whether all partitions have read what flushes ask for.
    pub fn flush_is_read(&self) -> bool {
        self.partitions.lock().iter().all(|progress| progress.read_end >= progress.flush_to)
    }

    /// Asks for another attempt at the error prefix; its number.
    pub fn ask_retry(&self) -> u64 {
        let retry = {
            let mut retries = self.retries.lock();
            *retries += 1;
            *retries
        };
        self.requests.send_modify(|requests| *requests += 1);
        retry
    }

    /// How many attempts at the error prefix were asked for.
    pub fn retries(&self) -> u64 {
        *self.retries.lock()
    }

    /// Is told of each request.
    pub fn requests(&self) -> watch::Receiver<u64> {
        self.requests.subscribe()
    }

    /// Is told of each change of the progress.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub fn set_trouble(&self, text: String, now: Timestamp) {
        if !text.is_empty() {
            self.note_error(&text, now);
        }
        *self.trouble.lock() = text;
        self.changed.send_replace(());
    }

    /// Keeps what went wrong last.
    pub fn note_error(&self, text: &str, now: Timestamp) {
        *self.last_error.lock() = (text.to_owned(), now.0);
    }

    pub fn last_error(&self) -> (String, i64) {
        self.last_error.lock().clone()
    }

    /// The first error there is, for people.
    pub fn error(&self) -> String {
        if let Some(error) = &*self.halted.lock() {
            return error.to_string();
        }
        let trouble = self.trouble.lock().clone();
        if !trouble.is_empty() {
            return trouble;
        }
        let partitions = self.partitions.lock();
        partitions.iter().map(|progress| &progress.error).find(|error| !error.is_empty()).cloned().unwrap_or_default()
    }

    /// The lake goes no further.
    pub fn halt(&self, error: LakeError, now: Timestamp) {
        tracing::error!(%error, "a lake has stopped");
        self.note_error(&error.to_string(), now);
        self.halted.lock().get_or_insert(error);
        self.changed.send_replace(());
    }

    pub fn halted(&self) -> Option<LakeError> {
        self.halted.lock().clone()
    }

    /// Asks the tasks to land what they have read, and to end.
    pub fn ask_finish(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.stopping.send_modify(|stopping| *stopping = (*stopping).max(Stopping::Soon));
        self.changed.send_replace(());
    }

    /// Asks the tasks to end at once.
    pub fn ask_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.abort.store(true, Ordering::Relaxed);
        self.stopping.send_replace(Stopping::Now);
        self.changed.send_replace(());
    }

    /// Whether the tasks are to end, sooner or later.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether the tasks are to end at once.
    pub fn is_aborting(&self) -> bool {
        self.abort.load(Ordering::Relaxed)
    }

    /// Resolves when the tasks are to end, sooner or later.
    pub async fn stopping(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender lives as long as `self`.
        let _ = stopping.wait_for(|stopping| *stopping >= Stopping::Soon).await;
    }

    /// Resolves when the tasks are to end at once.
    pub async fn aborting(&self) {
        let mut stopping = self.stopping.subscribe();
        let _ = stopping.wait_for(|stopping| *stopping == Stopping::Now).await;
    }
}

impl Progress {
    pub fn new(state: &LakeState) -> Self {
        let mut progress = Self {
            floor: state.landed.floor,
            read_end: state.landed.floor,
            start: state.start,
            flush_to: Offset::ZERO,
            files: 0,
            rows: 0,
            bytes: 0,
            rejected: 0,
            lost: 0,
            open_rows: 0,
            open_files: 0,
            oldest: None,
            newest_landed: None,
            error: String::new(),
            retries_done: 0,
            retried: 0,
            left: 0,
        };
        progress.set(state);
        progress
    }

    /// Takes over what is durable.
    pub fn set(&mut self, state: &LakeState) {
        self.floor = state.landed.floor;
        self.files = state.files;
        self.rows = state.rows;
        self.bytes = state.bytes;
        self.rejected = state.rejected;
        self.lost = state.lost;
    }
}
