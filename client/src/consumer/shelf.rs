//! What has come and is not handed out yet, taken record by record or batch by batch. Pure.

use millstream_protocol::{Epoch, Offset, PartitionId};

use super::batch::{ConsumedBatch, ConsumedRecord, ConsumedRecords};
use super::intake::Frame;
use crate::error::Result;

/// The application has everything of a partition below `next`, of a batch of this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached {
    pub partition: PartitionId,
    pub next: Offset,
    pub epoch: Epoch,
}

impl Reached {
    fn end_of(batch: &ConsumedBatch) -> Self {
        Self { partition: batch.partition, next: batch.end, epoch: batch.view.header().epoch }
    }
}

/// A frame at a time, and a batch of it that is being read.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    frame: Option<Frame>,
    records: Option<ConsumedRecords>,
}

impl Shelf {
    /// The next frame, once [`record`](Self::record) or [`batch`](Self::batch) has found nothing more.
    pub fn put(&mut self, frame: Frame) {
        self.frame = Some(frame);
    }

    /// Drops what is there.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The next record, or why it cannot be read. Tells `reached` how far the application is with it, and where there
    /// is none any more how far it was.
    pub fn record(&mut self, mut reached: impl FnMut(Reached)) -> Option<Result<ConsumedRecord>> {
        loop {
            if let Some(records) = &mut self.records {
                let next = records.next();
                let mut at = Reached::end_of(records.batch());
                if let Some(Ok(record)) = &next {
                    at.next = record.offset.next();
                }
                reached(at);
                match next {
                    Some(item) => return Some(item),
                    None => self.records = None,
                }
            }
            let batch = self.next_of_frame()?;
            match batch.records() {
                Ok(records) => self.records = Some(records),
                Err(error) => {
                    reached(Reached::end_of(&batch));
                    return Some(Err(error));
                }
            }
        }
    }

    /// The next batch, or what is left of one that was being read.
    pub fn batch(&mut self, mut reached: impl FnMut(Reached)) -> Option<ConsumedBatch> {
        let rest = self.records.take().and_then(ConsumedRecords::into_rest);
        let batch = rest.or_else(|| self.next_of_frame())?;
        reached(Reached::end_of(&batch));
        Some(batch)
    }

    fn next_of_frame(&mut self) -> Option<ConsumedBatch> {
        let batch = self.frame.as_mut()?.batches.pop_front();
        if batch.is_none() {
            self.frame = None;
        }
        batch
    }
}
