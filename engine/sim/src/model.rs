//! What must be true of a partition, as slowly and plainly as possible: a map from offsets to values.
//!
//! Each value is unique and says its own number, which rises in the order in which the values were sent to the partition.
//! After a restart, and whenever it is asked, [`Model::check`] holds the log's answer against the map:
//! - **acknowledged ⇒ there**, at its offset, with its value, at or above the log start;
//! - **there ⇒ sent**, and not refused, and not found missing by an earlier recovery;
//! - numbers rise with offsets: order is kept, nothing twice, nothing half (a batch is there whole or not at all);
//! - the high watermark is not below one that was seen, the log start moves only as far as somebody asked;
//! - a `written` partition may lose its end to a power loss, and nothing but its end; from then on the loss stands;
//! - of a compacted partition a record may be gone if a later one of its key is there;
//! - a loss is allowed where damage was done, and only if it is reported with exactly those offsets.

use std::collections::{BTreeMap, BTreeSet};

use millstream_log::{Durability, LogError, Partition};
use millstream_protocol::Offset;
use millstream_protocol::batch::BatchView;

/// A value's number.
pub type Number = u64;

/// What is known of one partition.
#[derive(Debug, Clone)]
pub struct Model {
    durability: Durability,
    /// Offset to number and length of the value.
    stored: BTreeMap<u64, (Number, usize)>,
    /// Batches whose fate is open, each a run of numbers with their lengths.
    open: Vec<Vec<(Number, usize)>>,
    /// Numbers that surely are not there.
    absent: BTreeSet<Number>,
    /// The highest watermark seen.
    seen: u64,
    /// The log start that was confirmed, and the furthest that was asked for.
    start: (u64, u64),
    /// Ranges that damage may have taken.
    damaged: Vec<(u64, u64)>,
    /// A `written` partition that may have lost its end.
    may_lose_end: bool,
    /// Of a compacted partition: how many keys there are.
    keys: Option<u64>,
}

/// A record as read.
type Found = BTreeMap<u64, (Number, usize)>;

impl Model {
    /// An empty partition; a compacted one has so many [keys](key).
    pub fn new(durability: Durability, keys: Option<u64>) -> Self {
        Self {
            durability,
            stored: BTreeMap::new(),
            open: Vec::new(),
            absent: BTreeSet::new(),
            seen: 0,
            start: (0, 0),
            damaged: Vec::new(),
            may_lose_end: false,
            keys,
        }
    }

    /// The offset after the last one known.
    pub fn end(&self) -> u64 {
        self.stored.last_key_value().map_or(self.seen, |(last, _)| (last + 1).max(self.seen))
    }

    /// A batch was acknowledged at an offset.
    ///
    /// # Errors
    /// The offset is taken.
    pub fn acknowledged(&mut self, base: u64, batch: &[(Number, usize)]) -> Result<(), String> {
        for (offset, value) in (base..).zip(batch) {
            if let Some(other) = self.stored.insert(offset, *value) {
                return Err(format!("offset {offset} was given to value {} and to {}", other.0, value.0));
            }
        }
        Ok(())
    }

    /// The same for a batch that may have been sent, and found, before; it was [`unknown`](Self::unknown) until now.
    ///
    /// # Errors
    /// The offset is another value's, or the value has another offset.
    pub fn acknowledged_again(&mut self, base: u64, batch: &[(Number, usize)]) -> Result<(), String> {
        self.open.retain(|open| open[0] != batch[0]);
        if let Some((offset, value)) = self.stored.iter().find(|(_, value)| value.0 == batch[0].0)
            && *offset != base
        {
            return Err(format!("value {} lies at offset {offset} and was acknowledged at {base}", value.0));
        }
        for (offset, value) in (base..).zip(batch) {
            match self.stored.insert(offset, *value) {
                Some(other) if other != *value => {
                    return Err(format!("offset {offset} was given to value {} and to {}", other.0, value.0));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A batch that was not found will be sent again.
    pub fn reopen(&mut self, batch: &[(Number, usize)]) {
        for (number, _) in batch {
            self.absent.remove(number);
        }
        let is_known = self.stored.values().any(|value| *value == batch[0]);
        if !is_known && self.open.iter().all(|open| open[0] != batch[0]) {
            self.open.push(batch.to_vec());
        }
    }

    /// A batch was surely not stored.
    pub fn refused(&mut self, batch: &[(Number, usize)]) {
        self.absent.extend(batch.iter().map(|(number, _)| number));
    }

    /// A batch may or may not be stored.
    pub fn unknown(&mut self, batch: &[(Number, usize)]) {
        self.open.push(batch.to_vec());
    }

    /// Somebody asked to forget what is below an offset.
    pub fn start_asked(&mut self, offset: u64) {
        self.start.1 = self.start.1.max(offset);
    }

    /// Bytes of these offsets were damaged.
    pub fn damaged(&mut self, from: u64, to: u64) {
        self.damaged.push((from, to));
    }

    /// The offsets of the batches that are stored for certain and lie at or above the log start.
    pub fn stored_range(&self) -> Option<(u64, u64)> {
        let above = self.stored.range(self.start.1..);
        Some((*above.clone().next()?.0, *above.last()?.0 + 1))
    }

    /// The power was lost, or the disk failed under it: if it is a `written` partition, its end may be gone.
    pub fn may_lose_end(&mut self) {
        self.may_lose_end = self.durability == Durability::Written;
    }

    /// Holds the partition against what is known. `restarted`: what is not there now never will be.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&mut self, partition: &Partition, restarted: bool) -> Result<(), String> {
        let (start, end) = (partition.log_start().0, partition.high_watermark().0);
        if start < self.start.0 || start > self.start.1 {
            return Err(format!("log start {start} is outside {}..={}", self.start.0, self.start.1));
        }
        // A deletion whose fate was unknown is decided by a restart.
        self.start = (start, if restarted { start } else { self.start.1 });
        let (found, lost) = read_all(partition)?;
        if std::mem::take(&mut self.may_lose_end) {
            self.lose_end(end);
        } else if end < self.seen {
            return Err(format!("high watermark {end} is below {}, which was seen", self.seen));
        }
        self.seen = end;
        for (from, to) in &lost {
            let allowed = self.damaged.iter().any(|(start, end)| start <= from && to <= end);
            if !allowed {
                return Err(format!("offsets {from}..{to} are reported lost, and nothing was damaged there"));
            }
            self.stored.retain(|offset, _| offset < from || offset >= to);
        }
        self.stored = self.stored.split_off(&start);
        let newest = self.newest_of_each_key();
        for (offset, value) in &self.stored {
            match found.get(offset) {
                Some(other) if other == value => {}
                None if newest.get(&key(value.0, self.keys)).is_some_and(|newest| newest > offset) => {}
                other => {
                    return Err(format!("offset {offset}: value {} was acknowledged, {other:?} is there", value.0));
                }
            }
        }
        self.adopt(&found)?;
        if restarted {
            let missing: Vec<Vec<(Number, usize)>> = std::mem::take(&mut self.open);
            missing.iter().for_each(|batch| self.refused(batch));
        }
        Ok(())
    }

    /// Of a compacted partition: the newest offset of each key, which must stay whatever goes.
    fn newest_of_each_key(&self) -> BTreeMap<u64, u64> {
        match self.keys {
            None => BTreeMap::new(),
            keys => self.stored.iter().map(|(offset, value)| (key(value.0, keys), *offset)).collect(),
        }
    }

    /// Reads at one place, and holds what comes against what is known there.
    ///
    /// # Errors
    /// What is wrong.
    pub fn spot_check(&self, partition: &Partition, near: u64) -> Result<(), String> {
        let (start, end) = (partition.log_start().0, partition.high_watermark().0);
        if end < self.seen {
            return Err(format!("high watermark {end} is below {}, which was seen", self.seen));
        }
        let from = near.clamp(start, end);
        let Ok(mut chunk) = partition.read(Offset(from), 1_000) else { return Ok(()) };
        let found = decode(&mut chunk.bytes, partition, Offset(from))?;
        for (offset, value) in self.stored.range(from..chunk.next.0) {
            match found.get(offset) {
                Some(other) if other == value => {}
                None if self.keys.is_some() => {}
                other => {
                    return Err(format!("offset {offset}: value {} was acknowledged, {other:?} is there", value.0));
                }
            }
        }
        Ok(())
    }

    /// What is there and was not acknowledged must have been sent.
    fn adopt(&mut self, found: &Found) -> Result<(), String> {
        let mut last = None;
        for (offset, value) in found {
            if last.is_some_and(|last| value.0 <= last) {
                return Err(format!("offset {offset}: value {} lies behind a later one", value.0));
            }
            last = Some(value.0);
            if self.absent.contains(&value.0) {
                return Err(format!("offset {offset}: value {} was refused, or missing before", value.0));
            }
            if self.stored.contains_key(offset) {
                continue;
            }
            let batch = self.open.iter().position(|batch| batch.iter().any(|(number, _)| *number == value.0));
            let Some(batch) = batch.map(|index| self.open.remove(index)) else {
                return Err(format!("offset {offset}: value {} was never sent", value.0));
            };
            let skip = batch.iter().position(|(number, _)| *number == value.0).expect("just found") as u64;
            for (number, expected) in (offset - skip..).zip(&batch) {
                let may_be_gone = number < self.start.0 || self.keys.is_some();
                if !may_be_gone && found.get(&number) != Some(expected) {
                    return Err(format!("offset {number}: only a part of its batch is there"));
                }
                self.stored.insert(number, *expected);
            }
        }
        Ok(())
    }

    /// A power loss has taken what lies at or above `end` from a `written` partition.
    fn lose_end(&mut self, end: u64) {
        let gone = self.stored.split_off(&end);
        self.absent.extend(gone.values().map(|(number, _)| number));
    }
}

/// The records from `from` on in a chunk.
fn decode(bytes: &mut bytes::Bytes, partition: &Partition, from: Offset) -> Result<Found, String> {
    let mut found = Found::new();
    while !bytes.is_empty() {
        let batch = BatchView::split_stored(bytes, partition.incarnation());
        let batch = batch.map_err(|error| format!("a batch read behind {from}: {error}"))?;
        let mut records = batch.records().map_err(|error| error.to_string())?;
        while let Some(record) = records.next_with_offset() {
            let (offset, record) = record.map_err(|error| error.to_string())?;
            if offset >= from {
                let value = record.value.ok_or_else(|| format!("offset {offset} has no value"))?;
                found.insert(offset.0, parse(&value).ok_or_else(|| format!("offset {offset}: mixed bytes"))?);
            }
        }
    }
    Ok(found)
}

/// All records, and the ranges that are reported lost.
fn read_all(partition: &Partition) -> Result<(Found, Vec<(u64, u64)>), String> {
    let (mut found, mut lost) = (Found::new(), Vec::new());
    let (mut next, end) = (partition.log_start(), partition.high_watermark());
    while next < end {
        match partition.read(next, 1 << 20) {
            Ok(mut chunk) => {
                if chunk.next <= next {
                    return Err(format!("a read at {next} makes no progress"));
                }
                found.extend(decode(&mut chunk.bytes, partition, next)?);
                next = chunk.next;
            }
            Err(LogError::RecordsLost { from, resume }) => {
                lost.push((from.0, resume.0));
                next = Offset(resume.0.max(next.0 + 1));
            }
            Err(error) => return Err(format!("a read at {next}: {error}")),
        }
    }
    Ok((found, lost))
}

/// The key of a value's number.
pub fn key(number: Number, keys: Option<u64>) -> u64 {
    number % keys.unwrap_or(1)
}

/// The value of a number: 8 bytes, then as many of its own pattern.
pub fn value(number: Number, length: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend((0..length).map(|at| pattern(number, at)));
    bytes
}

fn pattern(number: Number, at: usize) -> u8 {
    (number.wrapping_mul(31).wrapping_add(at as u64 * 7) >> 3) as u8
}

fn parse(bytes: &[u8]) -> Option<(Number, usize)> {
    let number = u64::from_le_bytes(*bytes.first_chunk()?);
    let rest = &bytes[8..];
    rest.iter().enumerate().all(|(at, byte)| *byte == pattern(number, at)).then_some((number, rest.len()))
}
