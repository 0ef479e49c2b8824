//! Body checksums of batches, computed while their bytes come: a batch of 1 MiB has left the processor's caches by the time
//! that its last byte is there, and hashing it then costs twice as much.
//!
//! Nothing is trusted: a header that does not decode ends the hashing, and whoever checks the batch then finds out by himself.

use std::collections::VecDeque;

use crc32fast::Hasher;

use super::header::{BatchHeader, HEADER_BYTES, hash_header};

/// The checksums of batches that lie back to back, from some position on.
#[derive(Debug, Clone, Default)]
pub struct BodyCrcs {
    /// Where the batch being hashed begins.
    start: usize,
    current: Option<Current>,
    done: VecDeque<u32>,
    is_broken: bool,
}

#[derive(Debug, Clone)]
struct Current {
    hasher: Hasher,
    hashed: usize,
    end: usize,
}

impl BodyCrcs {
    /// Of batches that begin at `start` of what is received.
    pub fn starting_at(start: usize) -> Self {
        Self { start, ..Self::default() }
    }

    /// Hashes what has come since the last call. `received` is all that has come, from the beginning.
    pub fn update(&mut self, received: &[u8]) {
        while !self.is_broken {
            let Some(current) = &mut self.current else {
                let Some(head) = received.get(self.start..self.start + HEADER_BYTES) else { return };
                match BatchHeader::decode(head) {
                    Ok(header) => self.current = Some(Current::new(head, self.start, header.batch_len())),
                    Err(_) => self.is_broken = true,
                }
                continue;
            };
            let until = current.end.min(received.len());
            current.hasher.update(&received[current.hashed..until]);
            current.hashed = until;
            if until < current.end {
                return;
            }
            self.start = current.end;
            self.done.extend(self.current.take().map(|current| current.hasher.finalize()));
        }
    }

    /// The checksum of the next batch, if all of it has come.
    pub fn take(&mut self) -> Option<u32> {
        self.done.pop_front()
    }
}

impl Current {
    fn new(head: &[u8], start: usize, length: usize) -> Self {
        let mut hasher = Hasher::new();
        hash_header(&mut hasher, head);
        Self { hasher, hashed: start + HEADER_BYTES, end: start + length }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::{BatchBuilder, BatchView, Codec};
    use super::*;
    use crate::Record;

    fn batch(value: usize) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(&Record::new(vec![b'x'; value])).expect("legal");
        builder.finish().expect("not empty")
    }

    #[test]
    fn batches_that_come_in_any_pieces_have_the_checksums_that_their_headers_say() {
        let batches = [batch(0), batch(3_000), batch(7)];
        let bytes = [&b"prefix"[..], &batches.concat()].concat();
        for step in [1, 2, 50, 112, 113, 4_000] {
            let mut crcs = BodyCrcs::starting_at(6);
            (0..bytes.len()).step_by(step).chain([bytes.len()]).for_each(|have| crcs.update(&bytes[..have]));
            for batch in &batches {
                let crc = crcs.take().expect("all of it has come");
                assert!(BatchView::parse_hashed(batch, Some(crc)).is_ok());
                assert!(BatchView::parse_hashed(batch, Some(crc ^ 1)).is_err());
            }
            assert_eq!(crcs.take(), None);
        }
    }

    #[test]
    fn what_is_no_batch_or_not_all_there_has_none() {
        let whole = batch(100);
        for cut in [0, 111, 112, whole.len() - 1] {
            let mut crcs = BodyCrcs::default();
            crcs.update(&whole[..cut]);
            assert_eq!(crcs.take(), None, "{cut}");
        }
        let mut crcs = BodyCrcs::default();
        crcs.update(&[&[0; 200][..], &whole].concat());
        assert_eq!(crcs.take(), None);
    }
}
