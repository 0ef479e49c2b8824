//! A partition's records as a queue needs them: in order for its judgement, and again for each delivery.

use std::collections::VecDeque;

use millstream_filter::Candidate;
use millstream_log::{LogError, Partition};
use millstream_protocol::batch::header::FLAG_CONTROL_HEADERS;
use millstream_protocol::batch::record::{DELAY, EXPIRES_AT, NOT_BEFORE, control_number};
use millstream_protocol::batch::{BatchError, BatchView, RecordRef};
use millstream_protocol::{Offset, Record, Timestamp};

use super::event::Reason;
use super::machine::{PartitionQueue, Verdict};
use super::rules::Rules;
use super::settings::{Now, Ordering};

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Chunks that are kept: one where the queue reads on, and some for what comes again.
const CHUNKS: usize = 3;

#[derive(Debug, Default)]
pub(super) struct Feed {
    /// Batches that follow one another in each.
    chunks: VecDeque<Vec<BatchView>>,
}

impl Feed {
    /// The batch that holds `offset`, or the next one if that is in none any more; `None` at the high watermark.
    pub fn batch(&mut self, partition: &Partition, offset: u64) -> Result<Option<BatchView>, LogError> {
        let holds = |batch: &&BatchView| batch.header().end_offset().0 > offset;
        let covers = |chunk: &&Vec<BatchView>| {
            chunk.first().is_some_and(|first| first.header().base_offset.0 <= offset)
                && chunk.last().is_some_and(|last| last.header().end_offset().0 > offset)
        };
        if let Some(chunk) = self.chunks.iter().find(covers) {
            return Ok(chunk.iter().find(holds).cloned());
        }
        if offset >= partition.high_watermark().0 {
            return Ok(None);
        }
        let mut chunk = partition.read(Offset(offset), READ_BYTES)?;
        let mut batches = Vec::new();
        while !chunk.bytes.is_empty() {
            batches.push(BatchView::split_stored(&mut chunk.bytes, partition.incarnation())?);
        }
        let found = batches.iter().find(holds).cloned();
        self.chunks.push_back(batches);
        if self.chunks.len() > CHUNKS {
            self.chunks.pop_front();
        }
        Ok(found)
    }

    /// The record at `offset`, and when it was appended; `None` if it is in no batch any more.
    pub fn record(&mut self, partition: &Partition, offset: u64) -> Result<Option<(Timestamp, Record)>, LogError> {
        let Some(batch) = self.batch(partition, offset)? else { return Ok(None) };
        let mut records = batch.records()?;
        while let Some(record) = records.next_with_offset() {
            let (at, record) = record?;
            if at.0 == offset {
                return Ok(Some((batch.header().append_time, record)));
            }
        }
        Ok(None)
    }

    /// Forgets what it has read.
    pub fn clear(&mut self) {
        self.chunks.clear();
    }
}

/// What a batch's records are to the queue. Answers how many of them the filter failed on: those do not match.
pub(super) fn judge(
    machine: &mut PartitionQueue,
    rules: &Rules,
    partition: &Partition,
    batch: &BatchView,
    now: Now,
) -> Result<u64, BatchError> {
    let header = batch.header();
    let (base, end) = (header.base_offset.0, header.end_offset().0);
    let number = partition.id().0;
    let (first, last) = (rules.at(number, base), rules.at(number, end - 1));
    let append_ms = u64::try_from(header.append_time.0).unwrap_or(0);
    let is_fifo = machine.settings().ordering != Ordering::Unordered;
    let has_control_headers = header.flags & FLAG_CONTROL_HEADERS != 0;
    let rule = rules.get(first);
    if first == last
        && !has_control_headers
        && !header.sparse
        && !is_fifo
        && rule.is_none_or(|rule| rule.filter.is_none())
    {
        machine.judge_all(base..end, due(append_ms, rule.map_or(0, |rule| rule.delay_ms)));
        return Ok(0);
    }
    let judged = machine.ledger().judged();
    let mut failures = 0;
    let mut verdicts = Vec::with_capacity(header.record_count as usize);
    let mut records = batch.records()?;
    while let Some(record) = records.next_ref() {
        let record = record?;
        let offset = base + u64::from(record.offset_delta);
        let rule = rules.get(rules.at(number, offset));
        // Below it the filter was asked before: once a record and queue.
        let filter = rule.and_then(|rule| rule.filter.as_ref()).filter(|_| offset >= judged);
        let is_match = filter.is_none_or(|filter| {
            filter.matches(&Candidate::new(&record)).unwrap_or_else(|_| {
                failures += 1;
                false
            })
        });
        let own = if has_control_headers { own_due(&record, append_ms) } else { None };
        let verdict = match record.key {
            _ if !is_match => Verdict::Filtered,
            None if is_fifo => Verdict::Dead(Reason::NoGroup),
            key => Verdict::Matches {
                due_ms: own.unwrap_or_else(|| due(append_ms, rule.map_or(0, |rule| rule.delay_ms))),
                is_own_delay: own.is_some(),
                group: if is_fifo { hash(key.unwrap_or_default()) } else { 0 },
            },
        };
        verdicts.push((offset, verdict));
    }
    machine.judge(end, verdicts, now);
    Ok(failures)
}

/// Whether a batch holds the record of that offset: compaction may have taken it out.
pub(super) fn has_record(batch: &BatchView, offset: u64) -> bool {
    let header = batch.header();
    if !header.sparse {
        return header.base_offset.0 <= offset && offset < header.end_offset().0;
    }
    let Ok(mut records) = batch.records() else { return false };
    while let Some(Ok(record)) = records.next_ref() {
        if header.base_offset.0 + u64::from(record.offset_delta) == offset {
            return true;
        }
    }
    false
}

/// Whether a message's time has passed.
pub(super) fn is_expired(batch: &BatchView, offset: u64, ttl_ms: Option<u64>, now: Now) -> Result<bool, BatchError> {
    let header = batch.header();
    let append_ms = u64::try_from(header.append_time.0).unwrap_or(0);
    if ttl_ms.is_some_and(|ttl| append_ms.saturating_add(ttl) <= now.wall_ms) {
        return Ok(true);
    }
    if header.flags & FLAG_CONTROL_HEADERS == 0 {
        return Ok(false);
    }
    let mut records = batch.records()?;
    while let Some(record) = records.next_ref() {
        let record = record?;
        if header.base_offset.0 + u64::from(record.offset_delta) == offset {
            return Ok(record.control_number(EXPIRES_AT).is_some_and(|expires| expires <= now.wall_ms));
        }
    }
    Ok(false)
}

fn due(append_ms: u64, delay_ms: u64) -> u64 {
    if delay_ms == 0 { 0 } else { append_ms.saturating_add(surely_passed(delay_ms)) }
}

/// When a record that was read again is due, Unix ms; 0: at once.
pub(super) fn due_ms(rules: &Rules, partition: u32, offset: u64, appended: Timestamp, record: &Record) -> u64 {
    let append_ms = u64::try_from(appended.0).unwrap_or(0);
    let number = |name: &str| control_number(&record.headers, name);
    let own = number(DELAY).map(|delay| append_ms.saturating_add(surely_passed(delay)));
    let own = own.into_iter().chain(number(NOT_BEFORE)).max();
    own.unwrap_or_else(|| due(append_ms, rules.get(rules.at(partition, offset)).map_or(0, |rule| rule.delay_ms)))
}

/// Clocks are read in whole milliseconds, rounded down: one more, so that nothing is ever early.
pub(super) fn surely_passed(ms: u64) -> u64 {
    if ms == 0 { 0 } else { ms.saturating_add(1) }
}

/// When a record says that it is due.
fn own_due(record: &RecordRef<'_>, append_ms: u64) -> Option<u64> {
    let delay = record.control_number(DELAY).map(|delay| append_ms.saturating_add(surely_passed(delay)));
    delay.into_iter().chain(record.control_number(NOT_BEFORE)).max()
}

/// A message group's number. Two keys that meet share a lock, which keeps their order: no more is needed of it than that
/// keys as they come do not meet. It is stored with redriven messages, so it stays as it is. FNV-1a, and SplitMix64's finalizer.
pub(super) fn hash(key: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut hash = key.iter().fold(0xcbf2_9ce4_8422_2325, fold);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}
