//! Where each partition's delivery begins, and what must be said about it first.

use std::collections::HashSet;
use std::sync::Arc;

use millstream_broker::Stream;
use millstream_log::{LogError, Partition};
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::control::{
    ConsumeEvent, ConsumeMode, ConsumeOpen, ConsumePosition, ConsumeStart, Start,
};
use millstream_protocol::limits::CONSUME_PARTITIONS_MAX;
use millstream_protocol::{Code, Epoch, Offset, PartitionId, Timestamp};

use super::delivery::Cursor;
use crate::shared::{blocking, broker_refusal, log_refusal};

/// A consume stream, ready to deliver.
pub(super) struct Started {
    pub positions: Vec<ConsumePosition>,
    pub cursors: Vec<Cursor>,
    /// Said before anything is delivered.
    pub events: Vec<ConsumeEvent>,
}

/// Resolves every start of `open`. Refuses the whole opening where the client asked for something that cannot be;
/// a partition that cannot be read now gets a `Failed` event, and the others go on.
pub(super) async fn resolve(stream: &Arc<Stream>, open: &ConsumeOpen) -> Result<Started, Refusal> {
    check_list(&open.partitions)?;
    let count = open.partitions.len();
    let mut started = Started { positions: Vec::with_capacity(count), cursors: Vec::new(), events: Vec::new() };
    for wanted in &open.partitions {
        let partition = match stream.partition(PartitionId(wanted.partition)) {
            Ok(partition) => Arc::clone(partition),
            Err(error) if matches!(error.code(), Code::UnknownPartition | Code::StreamDeleted) => {
                return Err(broker_refusal(error));
            }
            Err(error) => {
                started.positions.push(nowhere(wanted.partition));
                started.events.push(failed(wanted.partition, &broker_refusal(error)));
                continue;
            }
        };
        let begin = match wanted.start {
            // The one start that reads the disk.
            Start::Time(ms) => {
                let asked = Arc::clone(&partition);
                let found = blocking(move || asked.offset_for_time(Timestamp(ms))).await?;
                Begin::At(found.map_err(|error| log_refusal(&error))?)
            }
            start => begin(&partition, start)?,
        };
        started.add(partition, begin, open.mode);
    }
    Ok(started)
}

fn check_list(partitions: &[ConsumeStart]) -> Result<(), Refusal> {
    let illegal = |text: String| Err(Refusal::new(Code::IllegalSetting, text));
    if partitions.is_empty() || partitions.len() > CONSUME_PARTITIONS_MAX {
        let count = partitions.len();
        return illegal(format!("{count} partitions on one consume stream: name 1 to {CONSUME_PARTITIONS_MAX}"));
    }
    let mut seen = HashSet::with_capacity(partitions.len());
    match partitions.iter().find(|wanted| !seen.insert(wanted.partition)) {
        Some(twice) => illegal(format!("partition {} is named twice: name each once", twice.partition)),
        None => Ok(()),
    }
}

enum Begin {
    At(Offset),
    /// The client stands on records that the log has lost.
    Truncated {
        end: Offset,
        text: String,
    },
}

fn begin(partition: &Partition, start: Start) -> Result<Begin, Refusal> {
    let (offset, epoch) = match start {
        Start::Earliest => return Ok(Begin::At(partition.log_start())),
        Start::Latest => return Ok(Begin::At(partition.high_watermark())),
        Start::Time(_) => unreachable!("`resolve` has looked it up"),
        Start::Offset { offset, epoch } => (Offset(offset), epoch),
    };
    if let Some(epoch) = epoch {
        let end = partition.epoch_end(Epoch(epoch));
        if offset > end {
            let text = format!(
                "the log of partition {} lost its records {end}..{offset} of epoch {epoch}: what stands there now is \
                 other records; go on at {end}",
                partition.id()
            );
            return Ok(Begin::Truncated { end, text });
        }
    }
    let high_watermark = partition.high_watermark();
    if offset > high_watermark {
        let log_start = partition.log_start();
        return Err(log_refusal(&LogError::OffsetOutOfRange { wanted: offset, log_start, high_watermark }));
    }
    Ok(Begin::At(offset))
}

impl Started {
    fn add(&mut self, partition: Arc<Partition>, begin: Begin, mode: ConsumeMode) {
        let id = partition.id().0;
        // The start first: it only rises, so it stays below what is read after it.
        let log_start = partition.log_start();
        let high_watermark = partition.high_watermark().max(log_start);
        let offset = match begin {
            Begin::At(offset) if offset < log_start => {
                let text = format!(
                    "records {offset}..{log_start} of partition {id} are gone (retention or deletion); delivery goes on \
                     at {log_start}"
                );
                self.events.push(gap(id, offset, log_start, Code::OffsetOutOfRange, text));
                log_start
            }
            Begin::At(offset) => offset,
            Begin::Truncated { end, text } => {
                self.positions.push(position(id, end, high_watermark, log_start));
                self.events.push(failed(id, &Refusal::new(Code::LogTruncated, text)));
                return;
            }
        };
        self.positions.push(position(id, offset, high_watermark, log_start));
        let end = (mode == ConsumeMode::Bounded).then_some(high_watermark.max(offset));
        self.cursors.push(Cursor { partition, next: offset, end, read_size: 0 });
    }
}

fn position(partition: u32, offset: Offset, high_watermark: Offset, log_start: Offset) -> ConsumePosition {
    ConsumePosition { partition, offset: offset.0, high_watermark: high_watermark.0, log_start: log_start.0 }
}

fn nowhere(partition: u32) -> ConsumePosition {
    position(partition, Offset::ZERO, Offset::ZERO, Offset::ZERO)
}

pub(super) fn gap(partition: u32, from: Offset, resume: Offset, code: Code, text: String) -> ConsumeEvent {
    ConsumeEvent::Gap { partition, from: from.0, resume: resume.0, code: code.number(), text }
}

pub(super) fn failed(partition: u32, refusal: &Refusal) -> ConsumeEvent {
    ConsumeEvent::Failed { partition, code: refusal.code.number(), text: refusal.text.clone() }
}
