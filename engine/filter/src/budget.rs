//! What one evaluation may still do.

use millstream_protocol::limits::FILTER_STEPS_MAX;

/// Steps left. One step is an operator, an element compared, 64 bytes looked at or 16 copied: some 20 to 60 ns each.
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

    /// For bytes that are copied to memory of our own: that takes four times as long, much of it in the kernel.
    pub fn take_copied(&mut self, bytes: usize) -> Result<(), Spent> {
        self.take_bytes(bytes.saturating_mul(4))
    }

    /// For a value of its own on the heap.
    pub fn take_allocation(&mut self) -> Result<(), Spent> {
        self.take(4)
    }

    pub fn take_elements(&mut self, elements: usize) -> Result<(), Spent> {
        self.take(u32::try_from(elements).unwrap_or(u32::MAX))
    }
}
