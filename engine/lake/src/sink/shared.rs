//! What a lake's handle and its driver share: requests one way, progress the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_protocol::frame::control::LakeConfig;
use millstream_protocol::{LakeId, Offset, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::plan::Open;
use crate::state::LakeState;
use crate::{LakeError, LakeSettings};

/// What stays the same as long as a lake runs.
#[derive(Debug)]
pub struct Context {
    pub id: LakeId,
    pub config: LakeConfig,
    pub stream: String,
    pub settings: LakeSettings,
    pub shared: Shared,
    /// The key of its state in the partitions; also its name as an owner of holds.
    pub key: String,
}

/// How far a lake is in one partition.
#[derive(Debug, Clone)]
pub struct Progress {
    pub landed_end: Offset,
    /// Everything below is asked to land.
    pub flush_to: Offset,
    pub files: u64,
    pub rows: u64,
    pub rejected: u64,
    pub lost: u64,
    /// When the oldest record that was scanned and has not landed was appended.
    pub oldest: Option<Timestamp>,
    /// What holds it up.
    pub error: String,
}

/// See the module.
#[derive(Debug)]
pub struct Shared {
    partitions: Mutex<Vec<Progress>>,
    /// What holds up the lake as a whole.
    trouble: Mutex<String>,
    halted: Mutex<Option<LakeError>>,
    /// Wakes the driver.
    pub wake: Notify,
    changed: watch::Sender<()>,
    stopping: watch::Sender<bool>,
    /// The same for work on blocking threads.
    pub stop: Arc<AtomicBool>,
}

impl Shared {
    pub fn new(partitions: Vec<Progress>) -> Self {
        Self {
            partitions: Mutex::new(partitions),
            trouble: Mutex::default(),
            halted: Mutex::default(),
            wake: Notify::new(),
            changed: watch::Sender::new(()),
            stopping: watch::Sender::new(false),
            stop: Arc::default(),
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
        self.wake.notify_one();
    }

    /// What flushes ask for in that partition.
    pub fn flush_to(&self, index: usize) -> Offset {
        self.partitions.lock()[index].flush_to
    }

    /// Is told of each change of the progress.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub fn set_trouble(&self, text: String) {
        *self.trouble.lock() = text;
        self.changed.send_replace(());
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
    pub fn halt(&self, error: LakeError) {
        tracing::error!(%error, "a lake has stopped");
        self.halted.lock().get_or_insert(error);
        self.changed.send_replace(());
    }

    pub fn halted(&self) -> Option<LakeError> {
        self.halted.lock().clone()
    }

    /// Asks the driver and its work to end.
    pub fn ask_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.stopping.send_replace(true);
        self.changed.send_replace(());
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Resolves when the driver is to end.
    pub async fn stopping(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender lives as long as `self`.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }
}

impl Progress {
    pub fn new(state: &LakeState) -> Self {
        Self {
            landed_end: state.landed_end,
            flush_to: Offset::ZERO,
            files: state.files,
            rows: state.rows,
            rejected: state.rejected,
            lost: state.lost,
            oldest: None,
            error: String::new(),
        }
    }

    /// Takes over what is durable, and what is open.
    pub fn set(&mut self, state: &LakeState, open: &Open) {
        self.landed_end = state.landed_end;
        self.files = state.files;
        self.rows = state.rows;
        self.rejected = state.rejected;
        self.lost = state.lost;
        self.oldest = open.oldest;
    }
}
