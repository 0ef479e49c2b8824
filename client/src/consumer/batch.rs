//! What a consumer hands out: verified batches, and the records in them.

use millstream_protocol::batch::{BatchView, Records};
use millstream_protocol::{Code, Epoch, Offset, PartitionId, Record, Timestamp};

use crate::error::{Error, Gap, Result};

/// One record with where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// Its batch's epoch: (offset + 1, epoch) is the position behind it.
    pub epoch: Epoch,
    /// The server's time of append.
    pub append_time: Timestamp,
    /// The record. Its parts share the memory of its batch: keep many of few batches, or copy.
    pub record: Record,
}

/// One batch as stored, its checksums verified. Its records are decoded when asked for.
#[derive(Debug, Clone)]
pub struct ConsumedBatch {
    /// The partition.
    pub partition: PartitionId,
    /// The batch, whole: it may begin below `first` and reach beyond `end`.
    pub view: BatchView,
    /// The first offset of it that is this consumer's.
    pub first: Offset,
    /// The offset after the last one that is this consumer's.
    pub end: Offset,
}

impl ConsumedBatch {
    /// How many offsets are this consumer's: the number of its records, unless compaction removed some.
    pub fn offset_count(&self) -> u64 {
        self.first.records_until(self.end)
    }

    /// Decompresses the batch and reads this consumer's records one by one.
    ///
    /// # Errors
    /// [`Code::RecordsLost`]: its checksum holds, but it does not decompress. Its producer is at fault.
    pub fn records(&self) -> Result<ConsumedRecords> {
        let records = self.view.records().map_err(|error| self.corrupt(self.first, &error))?;
        Ok(ConsumedRecords { batch: self.clone(), records, next: self.first })
    }

    /// The part from `next` on.
    pub(crate) fn rest(self, next: Offset) -> Option<Self> {
        let first = next.max(self.first);
        (first < self.end).then_some(Self { first, ..self })
    }

    fn corrupt(&self, from: Offset, error: &millstream_protocol::batch::BatchError) -> Error {
        let (partition, resume) = (self.partition, self.end);
        let text = format!(
            "records {from}..{resume} of partition {partition} cannot be read: {error}; they were stored as their producer \
             sent them, delivery goes on behind them"
        );
        Error::of_gap(Gap { partition, from, resume }, Code::RecordsLost, text)
    }
}

/// The records of a [`ConsumedBatch`] that are the consumer's.
#[derive(Debug)]
pub struct ConsumedRecords {
    batch: ConsumedBatch,
    records: Records,
    /// Everything of the batch below was yielded, or is not wanted.
    next: Offset,
}

impl ConsumedRecords {
    /// What was not yielded yet, as a batch.
    pub(crate) fn into_rest(self) -> Option<ConsumedBatch> {
        self.batch.rest(self.next)
    }

    pub(crate) fn batch(&self) -> &ConsumedBatch {
        &self.batch
    }
}

impl Iterator for ConsumedRecords {
    type Item = Result<ConsumedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.next >= self.batch.end {
                return None;
            }
            let (offset, record) = match self.records.next_with_offset() {
                None => {
                    self.next = self.batch.end;
                    return None;
                }
                Some(Err(error)) => {
                    let error = self.batch.corrupt(self.next, &error);
                    self.next = self.batch.end;
                    return Some(Err(error));
                }
                Some(Ok(found)) => found,
            };
            if offset < self.next {
                continue;
            }
            if offset >= self.batch.end {
                self.next = self.batch.end;
                return None;
            }
            self.next = offset.next();
            let header = self.batch.view.header();
            let (epoch, append_time) = (header.epoch, header.append_time);
            return Some(Ok(ConsumedRecord { partition: self.batch.partition, offset, epoch, append_time, record }));
        }
    }
}
