//! The batches of a sealed segment, one by one, both checksums checked. A window of the file in memory.

use std::io;
use std::path::Path;

use bytes::Bytes;
use millstream_protocol::batch::{BatchError, BatchView};
use millstream_protocol::{Incarnation, Offset};

use crate::error::LogError;
use crate::segment::{PREAMBLE_BYTES, Segment};
use crate::storage::read_exact_at;

/// Bytes read at once.
const WINDOW_BYTES: u64 = 1 << 20;

/// Why a segment cannot be read to its end.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// The system's.
    Io(io::Error),
    /// What it holds is not what it should hold.
    Damaged(BatchError),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Unreadable::Io(error)
    }
}

impl From<BatchError> for Unreadable {
    fn from(error: BatchError) -> Self {
        Unreadable::Damaged(error)
    }
}

impl Unreadable {
    /// What is wrong with the segment, to be left as it is; an error if it is the system that cannot read now.
    pub(super) fn damage(self, path: &Path) -> Result<String, LogError> {
        match self {
            Unreadable::Damaged(error) => Ok(error.to_string()),
            // A bad sector, or an end that comes too early: it would be met again at every run.
            Unreadable::Io(error)
                if error.kind() == io::ErrorKind::UnexpectedEof
                    || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) =>
            {
                Ok(error.to_string())
            }
            Unreadable::Io(error) => Err(LogError::io("read", path, error)),
        }
    }
}

/// Reads a segment from its first batch on.
pub(super) struct Batches<'a> {
    segment: &'a Segment,
    incarnation: Incarnation,
    position: u64,
    end: u64,
    next: Offset,
    window: Bytes,
}

impl<'a> Batches<'a> {
    pub(super) fn new(segment: &'a Segment, incarnation: Incarnation) -> Self {
        let end = segment.extent().end_position;
        Self { segment, incarnation, position: PREAMBLE_BYTES, end, next: segment.base(), window: Bytes::new() }
    }

    /// The next batch; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<BatchView>, Unreadable> {
        if self.position == self.end {
            return Ok(None);
        }
        let batch = match BatchView::split_stored(&mut self.window, self.incarnation) {
            Err(BatchError::Truncated { need, .. }) if self.position + need as u64 <= self.end => {
                let length = WINDOW_BYTES.min(self.end - self.position).max(need as u64);
                self.window = read_exact_at(&**self.segment.file(), self.position, length as usize)?.into();
                match BatchView::split_stored(&mut self.window, self.incarnation) {
                    // A header alone was missing before; now it is known how long the batch is.
                    Err(BatchError::Truncated { need, .. }) if self.position + need as u64 <= self.end => {
                        self.window = read_exact_at(&**self.segment.file(), self.position, need)?.into();
                        BatchView::split_stored(&mut self.window, self.incarnation)?
                    }
                    other => other?,
                }
            }
            other => other?,
        };
        let header = batch.header();
        if header.base_offset != self.next {
            let (value, next) = (header.base_offset.0, self.next.0);
            return Err(BatchError::OutOfRange { what: "base offset", value, min: next, max: next }.into());
        }
        self.next = header.end_offset();
        self.position += header.batch_len() as u64;
        Ok(Some(batch))
    }
}
