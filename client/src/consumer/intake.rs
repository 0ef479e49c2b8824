//! What came on a consume stream, made into what is handed out. Pure: it reads nothing and waits for nothing.
//!
//! Every batch is verified against its checksums and its partition's incarnation, and trimmed to what is wanted. What does
//! not verify is fetched once more, since it may have happened on the way; at the second time it is told as missing.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use millstream_protocol::batch::{BatchError, BatchHeader, BatchView, BodyCrcs};
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::consume::{BATCHES_PREFIX_BYTES, BatchesPrefix};
use millstream_protocol::frame::control::{ConsumeEvent, Message};
use millstream_protocol::{Code, Offset, PartitionId};
use tokio::sync::OwnedSemaphorePermit;

use super::batch::ConsumedBatch;
use super::position::{Positions, Wanted};
use crate::error::{Error, Gap, Result};

/// What the application is told, in order.
#[derive(Debug)]
pub(crate) enum Item {
    Frame(Frame),
    Gap(Gap, Error),
    /// A partition has failed for good.
    Failed(Error),
    /// The consumer has; nothing follows.
    Final(Error),
}

/// The wanted batches of one frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub partition: PartitionId,
    pub high_watermark: Offset,
    pub batches: VecDeque<ConsumedBatch>,
    /// Goes back to the budget with the frame.
    room: Arc<OwnedSemaphorePermit>,
}

impl Frame {
    fn new(prefix: &BatchesPrefix, room: Arc<OwnedSemaphorePermit>) -> Self {
        let BatchesPrefix { partition, high_watermark, .. } = *prefix;
        Self { partition, high_watermark, batches: VecDeque::new(), room }
    }
}

/// A frame as it came.
#[derive(Debug)]
pub(crate) enum Incoming {
    Batches { body: Bytes, crcs: BodyCrcs, room: OwnedSemaphorePermit },
    Event(Bytes),
    Refused(Bytes),
}

/// What became of one batch that came.
enum Verified {
    Wanted(ConsumedBatch),
    /// All of it is below the position, or beyond the end.
    Known,
    Damaged(Gap, Error),
}

/// Where a stream is, and what of it did not verify.
#[derive(Debug)]
pub(crate) struct Intake {
    pub positions: Positions,
    /// Where a batch did not verify: twice at the same place is no accident of the way.
    unverified: Option<(PartitionId, Offset)>,
}

impl Intake {
    pub fn new(positions: Positions) -> Self {
        Self { positions, unverified: None }
    }

    /// Takes a frame. What goes to the application is put behind `items`, also where an error ends the stream.
    ///
    /// # Errors
    /// The stream has ended: the server said so, or broke the protocol, or a batch must be fetched once more.
    pub fn take(&mut self, incoming: Incoming, items: &mut VecDeque<Item>) -> Result<()> {
        match incoming {
            Incoming::Batches { body, mut crcs, room } => self.take_batches(&body, &mut crcs, room, items),
            Incoming::Event(body) => self.take_event(ConsumeEvent::decode(&body)?, items),
            Incoming::Refused(body) => Err(Refusal::decode(&body)?.into()),
        }
    }

    fn take_batches(
        &mut self,
        body: &Bytes,
        crcs: &mut BodyCrcs,
        room: OwnedSemaphorePermit,
        items: &mut VecDeque<Item>,
    ) -> Result<()> {
        let prefix = BatchesPrefix::decode(body)?;
        let mut frame = Frame::new(&prefix, Arc::new(room));
        let mut rest = body.slice(BATCHES_PREFIX_BYTES..);
        let mut ended = Ok(());
        while !rest.is_empty() {
            match self.verify(prefix.partition, &mut rest, crcs.take()) {
                Ok(Verified::Wanted(batch)) => frame.batches.push_back(batch),
                Ok(Verified::Known) => {}
                Ok(Verified::Damaged(gap, error)) => {
                    let follows = Frame::new(&prefix, Arc::clone(&frame.room));
                    put(std::mem::replace(&mut frame, follows), items);
                    items.push_back(Item::Gap(gap, error));
                }
                // What did verify is delivered, whatever follows it.
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        put(frame, items);
        ended
    }

    /// Takes the first batch off `rest`.
    fn verify(&mut self, partition: PartitionId, rest: &mut Bytes, crc: Option<u32>) -> Result<Verified> {
        let incarnation = self.positions.incarnation(partition)?;
        let at = self.positions.next(partition)?;
        let error = match BatchView::split_stored_hashed(rest, incarnation, crc) {
            Ok(view) => {
                let wanted = self.positions.accept(partition, view.header())?;
                return Ok(wanted.map_or(Verified::Known, |wanted| {
                    let Wanted { from, until } = wanted;
                    Verified::Wanted(ConsumedBatch { partition, view, first: from, end: until })
                }));
            }
            Err(error) => error,
        };
        // The first time at a place it may have happened on the way: it is fetched once more.
        if self.unverified.replace((partition, at)) != Some((partition, at)) {
            let text = format!("a batch of partition {partition} at or behind offset {at} does not verify: {error}");
            return Err(Error::lost(text, error));
        }
        match (&error, BatchHeader::decode(rest)) {
            // The header holds, so that it is known which records are lost and where the next batch begins.
            (BatchError::BodyChecksum { .. }, Ok(header)) => {
                let _ = rest.split_to(header.batch_len());
                Ok(self.positions.accept(partition, &header)?.map_or(Verified::Known, |lost| {
                    let gap = Gap { partition, from: lost.from, resume: lost.until };
                    let text = format!(
                        "records {}..{} of partition {partition} are damaged: {error}; delivery goes on behind them, run \
                         `millstream verify` on the server's data directory",
                        gap.from, gap.resume
                    );
                    Verified::Damaged(gap, Error::of_gap(gap, Code::RecordsLost, text))
                }))
            }
            _ => {
                let text = format!(
                    "what the server sent for partition {partition} at or behind offset {at} is not a batch of it: {error}; \
                     run `millstream verify` on the server's data directory"
                );
                Err(Error::local_from(Code::CorruptBatch, text, error))
            }
        }
    }

    fn take_event(&mut self, event: ConsumeEvent, items: &mut VecDeque<Item>) -> Result<()> {
        match event {
            ConsumeEvent::End { partition, .. } => {
                self.positions.end(PartitionId(partition))?;
            }
            ConsumeEvent::Gap { partition, from, resume, code, text } => {
                if let Some(gap) = self.positions.gap(PartitionId(partition), Offset(from), Offset(resume))? {
                    items.push_back(Item::Gap(gap, Error::of_gap(gap, Code::from_number(code), text)));
                }
            }
            ConsumeEvent::Failed { partition, code, text } => {
                let partition = PartitionId(partition);
                if self.positions.end(partition)? {
                    items.push_back(Item::Failed(Error::of_partition(partition, Code::from_number(code), text)));
                }
            }
            _ => return Err(Error::protocol("an event that this client does not know")),
        }
        Ok(())
    }
}

fn put(frame: Frame, items: &mut VecDeque<Item>) {
    if !frame.batches.is_empty() {
        items.push_back(Item::Frame(frame));
    }
}
