//! Drives a lane from whoever calls: for simulators, which choose when a pass happens and what waits for it.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::Command;
use super::step::Lane;
use crate::error::LogError;

/// A lane without a thread: commands gather until someone steps it.
pub(crate) struct SteppedLane {
    waiting: Mutex<VecDeque<Command>>,
    /// `None` once it has been stopped.
    lane: Mutex<Option<Lane>>,
}

impl SteppedLane {
    pub(crate) fn new(lane: Lane) -> Self {
        Self { waiting: Mutex::default(), lane: Mutex::new(Some(lane)) }
    }

    /// Adds a command.
    ///
    /// # Errors
    /// [`LogError::Closed`] if the lane has been stopped.
    pub(crate) fn push(&self, command: Command) -> Result<(), LogError> {
        if self.lane.lock().is_none() {
            return Err(LogError::Closed);
        }
        self.waiting.lock().push_back(command);
        Ok(())
    }

    /// Carries out all that waits, as one pass.
    pub(crate) fn step(&self) {
        let mut lane = self.lane.lock();
        let mut commands = std::mem::take(&mut *self.waiting.lock());
        if let Some(lane) = &mut *lane {
            lane.step(&mut commands);
        }
    }

    /// Carries out what waits and takes nothing more.
    pub(crate) fn stop(&self) {
        self.step();
        self.lane.lock().take();
    }
}
