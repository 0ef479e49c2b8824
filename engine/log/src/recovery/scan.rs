//! Reads a segment batch by batch, checking both checksums of each.
//!
//! Used by recovery, by `verify`, and by reads that meet damage. Memory is bounded: a window of the file, grown to a
//! batch's length only once the header that states it has passed its checksum.

use std::io;

use millstream_protocol::batch::header::{MAGIC, check_body_crc, check_header_crc};
use millstream_protocol::batch::{BatchError, BatchHeader, HEADER_BYTES};
use millstream_protocol::{Incarnation, Offset};

use crate::storage::StorageFile;

/// Bytes read at once: sequential reads of 1 MiB are as good as populated maps.
const WINDOW_BYTES: usize = 1 << 20;

/// What lies at the scan's position.
#[derive(Debug)]
pub(crate) enum Step {
    /// A whole batch whose checksums hold; the scan stands behind it.
    Batch { position: u64, header: BatchHeader },
    /// The end of the file, exactly behind a batch.
    End,
    /// Bytes that are not a batch; the scan stays where it is.
    Bad { position: u64, error: BatchError },
}

/// A scan over one file.
pub(crate) struct Scan<'a> {
    file: &'a dyn StorageFile,
    incarnation: Incarnation,
    position: u64,
    limit: u64,
    window: Vec<u8>,
    window_position: u64,
}

impl<'a> Scan<'a> {
    /// Scans `position..limit` of a file.
    pub(crate) fn new(file: &'a dyn StorageFile, incarnation: Incarnation, position: u64, limit: u64) -> Self {
        Self { file, incarnation, position, limit, window: Vec::new(), window_position: position }
    }

    /// Where the scan stands.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Where the scan ends.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Moves the scan.
    pub(crate) fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// Looks at the next batch.
    pub(crate) fn next(&mut self) -> io::Result<Step> {
        let position = self.position;
        if position >= self.limit {
            return Ok(Step::End);
        }
        match self.check_at(position)? {
            Ok(header) => {
                self.position = position + header.batch_len() as u64;
                Ok(Step::Batch { position, header })
            }
            Err(error) => Ok(Step::Bad { position, error }),
        }
    }

    /// Moves to the next whole batch behind the position that ends above `offset`, and returns its header; the scan
    /// stands *before* it. `None` if there is none: the scan then stands at the limit.
    pub(crate) fn resync(&mut self, offset: Offset) -> io::Result<Option<BatchHeader>> {
        let mut position = self.position + 1;
        while let Some(found) = self.find_magic(position)? {
            let header = self.check_at(found)?.ok().filter(|header| header.end_offset() > offset);
            if let Some(header) = header {
                self.position = found;
                return Ok(Some(header));
            }
            position = found + 1;
        }
        self.position = self.limit;
        Ok(None)
    }

    fn check_at(&mut self, position: u64) -> io::Result<Result<BatchHeader, BatchError>> {
        let incarnation = self.incarnation;
        let head = self.window(position, HEADER_BYTES)?;
        let checked = check_header_crc(head, incarnation).and_then(|()| BatchHeader::decode(head));
        let header = match checked {
            Ok(header) => header,
            // A wrong checksum over bytes that do not even look like a header: say the simpler thing.
            Err(error) => return Ok(Err(BatchHeader::decode(head).err().unwrap_or(error))),
        };
        let length = header.batch_len();
        let batch = self.window(position, length)?;
        if batch.len() < length {
            return Ok(Err(BatchError::Truncated { need: length, have: batch.len() }));
        }
        Ok(check_body_crc(batch).map(|()| header))
    }

    /// The position of the next magic at or behind `position`.
    fn find_magic(&mut self, mut position: u64) -> io::Result<Option<u64>> {
        let magic = MAGIC.to_le_bytes();
        while position < self.limit {
            let bytes = self.window(position, WINDOW_BYTES)?;
            if bytes.len() < HEADER_BYTES {
                return Ok(None);
            }
            if let Some(at) = bytes.windows(magic.len()).position(|window| window == magic) {
                return Ok(Some(position + at as u64));
            }
            // The magic may lie across the window's end.
            position += (bytes.len() - (magic.len() - 1)) as u64;
        }
        Ok(None)
    }

    /// Up to `length` bytes at `position`, fewer only at the limit.
    fn window(&mut self, position: u64, length: usize) -> io::Result<&[u8]> {
        let length = length.min((self.limit - position) as usize);
        let held = self.window_position..self.window_position + self.window.len() as u64;
        if position < held.start || position + length as u64 > held.end {
            let want = length.max(WINDOW_BYTES).min((self.limit - position) as usize);
            self.window.resize(want, 0);
            let read = self.file.read_at(&mut self.window, position)?;
            self.window.truncate(read);
            self.window_position = position;
        }
        let start = (position - self.window_position) as usize;
        Ok(&self.window[start..(start + length).min(self.window.len())])
    }
}
