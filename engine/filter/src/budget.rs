//! What one evaluation may still do.

use millstream_protocol::limits::FILTER_STEPS_MAX;

/// Steps left. One step is an operator, an element compared, or 64 bytes looked at.
#[derive(Debug)]
pub struct Budget {
    steps: u32,
}

/// Nothing is left. Unlike any other failure no `||` hides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent;

impl Budget {
    pub fn new() -> Self {
        Self { steps: FILTER_STEPS_MAX }
    }

    pub fn take(&mut self, steps: u32) -> Result<(), Spent> {
        match self.steps.checked_sub(steps) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => {
                self.steps = 0;
                Err(Spent)
            }
        }
    }

    pub fn take_bytes(&mut self, bytes: usize) -> Result<(), Spent> {
        self.take(u32::try_from(bytes / 64).unwrap_or(u32::MAX))
    }

    pub fn take_elements(&mut self, elements: usize) -> Result<(), Spent> {
        self.take(u32::try_from(elements).unwrap_or(u32::MAX))
    }
}
