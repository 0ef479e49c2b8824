//! The history of a process of receivers: each line is handed to the system before what it says is done.

use std::sync::{Arc, Mutex, PoisonError};

use millstream_check::history::{Clock, InQueue, OfQueue, Recorder, What};

use crate::failure::Failure;

/// One file, written by all receivers of a process. Cheap to clone.
#[derive(Clone)]
pub struct Book {
    recorder: Arc<Mutex<Recorder>>,
    clock: Clock,
}

impl Book {
    pub fn new(recorder: Recorder) -> Self {
        Self { clock: recorder.clock(), recorder: Arc::new(Mutex::new(recorder)) }
    }

    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// Tells something of now.
    pub fn tell(&self, queue: u32, receiver: u64, what: InQueue) -> Result<(), Failure> {
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        recorder.record(What::Queue(OfQueue { queue, receiver, what }));
        Ok(recorder.flush()?)
    }
}
