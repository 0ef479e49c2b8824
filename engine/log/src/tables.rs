//! What a partition remembers beside its records so that each is stored once: its [producers](crate::producers) and its
//! [dedup ids](crate::dedup). Built from the log alone; checkpoints of it are written so that the log may be cut.
//!
//! ```text
//! {offset:020}.tables                       in the partition's directory; the newest two are kept
//!  at  size  field
//!   0     8  magic "MSTRTABL"
//!   8     4  format version (1)
//!  12     4  CRC-32 of the whole file with this field as zero
//!  16     8  incarnation id
//!  24     8  offset: batches below it are in the tables, no others
//!  32     8  length of the producers' part       40  8  length of the dedup ids' part
//!  48        producers, dedup ids: see there
//! ```
//!
//! Invariants
//! - The tables are never ahead of the log: a batch is noted once it is durable, and a checkpoint is written once all below
//!   its offset has been synced (`written` partitions sync for it). One that is ahead all the same is not used.
//! - A segment goes, and a record with a dedup id is compacted away, only when a checkpoint that knows of it is durable.
//! - What is lost with both checkpoints is not taken for new: [`Producers::forget_earlier`].
//!
//! Not here: what a batch means for them (`lane::admission`), the files (`tables::checkpoint`), the rebuild
//! (`recovery::tables`).

pub(crate) mod checkpoint;

use std::collections::HashMap;
use std::sync::Arc;

use millstream_protocol::limits::PRODUCERS_MAX;
use millstream_protocol::{Incarnation, Offset, ProducerId, Timestamp};

use crate::dedup::{DedupKey, DedupTable, First};
use crate::little_endian::u64_at;
use crate::producers::{Producers, Sequenced, Standing};

const MAGIC: &[u8; 8] = b"MSTRTABL";
const VERSION: u32 = 1;
const CRC: usize = 12;
const HEADER_BYTES: usize = 48;

/// The tables of one partition, as far as its log is durable.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub producers: Producers,
    pub dedup: DedupTable,
    /// Where a producer's next batch may begin as well: behind one that was not stored since all of it was known by dedup ids.
    /// In memory only: after a restart the client is told that something is missing, and asks for a new epoch.
    passed: HashMap<ProducerId, u64>,
    /// Batches below are in the tables.
    end: Offset,
    /// The offset of the newest checkpoint that is durable.
    checkpoint: Option<Offset>,
    /// Whether anything was noted since.
    changed: bool,
}

/// Where a producer stands, what was passed over included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stand {
    /// As stored; `None` if no batch of it is known.
    pub known: Option<Standing>,
    /// Where it may go on as well.
    pub passed: Option<u64>,
}

impl Stand {
    /// Whether a batch may be stored, or passed over, that begins at this sequence.
    pub(crate) fn fits(&self, base_sequence: u64) -> bool {
        self.known.map_or(0, |known| known.next) == base_sequence || self.passed == Some(base_sequence)
    }
}

/// A batch that was not stored because all of its records were known by their dedup ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    pub producer: ProducerId,
    pub base_sequence: u64,
    pub next: u64,
}

/// A flagged batch that is stored: the keys of its records' dedup ids, its base offset, when it was appended.
pub(crate) type Identified = (Arc<[Option<DedupKey>]>, Offset, Timestamp);

impl Tables {
    /// What a checkpoint holds, or nothing: to be completed from the log.
    pub(crate) fn begin(loaded: Option<(Offset, Producers, DedupTable)>) -> Self {
        match loaded {
            None => Self::default(),
            Some((offset, producers, dedup)) => {
                Self { producers, dedup, end: offset, checkpoint: Some(offset), ..Self::default() }
            }
        }
    }

    /// Adds a later segment's summary, `end` being where that segment ends.
    pub(crate) fn fold(&mut self, summary: &Producers, end: Offset) {
        self.changed |= !summary.is_blank();
        self.producers.fold(summary, self.end);
        self.end = self.end.max(end);
    }

    /// Adds a dedup id that a rebuild has found in the log.
    pub(crate) fn add_id(&mut self, key: DedupKey, first: First) {
        self.dedup.insert(key, first);
        self.changed = true;
    }

    /// Notes what has become durable: batches with producers, batches with dedup ids, and where the log ends now.
    pub(crate) fn note(&mut self, batches: impl Iterator<Item = Sequenced>, identified: &[Identified], end: Offset) {
        for batch in batches {
            self.producers.note(&batch);
            if !self.passed.is_empty() {
                self.passed.remove(&batch.producer);
            }
            self.changed = true;
        }
        for (keys, base, append_time) in identified {
            for (index, key) in keys.iter().enumerate() {
                let offset = Offset(base.0.saturating_add(index as u64));
                if let Some(key) = key {
                    self.dedup.insert(*key, First { offset, append_time: *append_time });
                }
            }
            self.changed = true;
        }
        self.end = end;
    }

    /// Lets a producer go on behind a batch that was not stored, if that is where it stands.
    pub(crate) fn pass_over(&mut self, passed: &Passed) {
        if !self.stand(passed.producer).fits(passed.base_sequence) {
            return;
        }
        if self.passed.len() >= PRODUCERS_MAX {
            // Whoever is hurt by this asks for a new epoch.
            self.passed.clear();
        }
        self.passed.insert(passed.producer, passed.next);
    }

    /// Where a producer stands.
    pub(crate) fn stand(&self, id: ProducerId) -> Stand {
        let passed = if self.passed.is_empty() { None } else { self.passed.get(&id).copied() };
        Stand { known: self.producers.standing(id), passed }
    }

    /// Batches below this offset are in the tables.
    pub(crate) fn end(&self) -> Offset {
        self.end
    }

    fn is_blank(&self) -> bool {
        self.producers.is_blank() && self.dedup.is_empty()
    }

    fn encode(&self, incarnation: Incarnation) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        self.producers.encode(&mut out);
        let producers = out.len() - HEADER_BYTES;
        self.dedup.encode(&mut out);
        let dedup = out.len() - HEADER_BYTES - producers;
        out[0..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&incarnation.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.end.0.to_le_bytes());
        out[32..40].copy_from_slice(&(producers as u64).to_le_bytes());
        out[40..48].copy_from_slice(&(dedup as u64).to_le_bytes());
        let crc = crc32fast::hash(&out);
        out[CRC..CRC + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// Reads a checkpoint of that incarnation and offset; `None` if it is not whole.
pub(crate) fn decode(bytes: &[u8], incarnation: Incarnation, offset: Offset) -> Option<(Producers, DedupTable)> {
    let head = bytes.get(..HEADER_BYTES)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..CRC]);
    hasher.update(&[0; 4]);
    hasher.update(&bytes[CRC + 4..]);
    let is_ours = &head[..8] == MAGIC
        && head[8..12] == VERSION.to_le_bytes()
        && head[CRC..CRC + 4] == hasher.finalize().to_le_bytes()
        && u64_at(head, 16)? == incarnation.0
        && u64_at(head, 24)? == offset.0;
    let (producers, dedup) = (usize::try_from(u64_at(head, 32)?).ok()?, usize::try_from(u64_at(head, 40)?).ok()?);
    let dedup_from = HEADER_BYTES.checked_add(producers)?;
    if !is_ours || dedup_from.checked_add(dedup)? != bytes.len() {
        return None;
    }
    let (producers, dedup) = bytes[HEADER_BYTES..].split_at(producers);
    Some((Producers::decode(producers)?, DedupTable::decode(dedup)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INCARNATION: Incarnation = Incarnation(9);

    fn batch(producer: u64, base_sequence: u64, base_offset: u64) -> Sequenced {
        Sequenced {
            producer: ProducerId(producer),
            epoch: 1,
            base_sequence,
            count: 3,
            base_offset: Offset(base_offset),
            append_time: Timestamp(5),
        }
    }

    fn tables() -> Tables {
        let mut tables = Tables::default();
        let keys: Arc<[Option<DedupKey>]> = vec![None, Some(DedupKey([1; 16])), Some(DedupKey([2; 16]))].into();
        let batches = [batch(7, 0, 0), batch(7, 3, 3), batch(8, 0, 6)];
        tables.note(batches.into_iter(), &[(keys, Offset(6), Timestamp(5))], Offset(9));
        tables
    }

    #[test]
    fn a_checkpoint_comes_back_and_any_flipped_bit_or_cut_is_noticed() {
        let tables = tables();
        let bytes = tables.encode(INCARNATION);
        let (producers, dedup) = decode(&bytes, INCARNATION, Offset(9)).unwrap();
        assert_eq!(producers.standing(ProducerId(7)), Some(Standing { epoch: 1, next: 6 }));
        assert_eq!(producers.find(ProducerId(7), 3, 3).unwrap().base_offset, Offset(3));
        assert_eq!(dedup.get(&DedupKey([2; 16])).unwrap().offset, Offset(8));
        assert!(decode(&bytes, Incarnation(8), Offset(9)).is_none());
        assert!(decode(&bytes, INCARNATION, Offset(8)).is_none());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, INCARNATION, Offset(9)).is_none(), "bit {bit}");
        }
        assert!((0..bytes.len()).all(|length| decode(&bytes[..length], INCARNATION, Offset(9)).is_none()));
    }

    #[test]
    fn a_batch_that_was_passed_over_lets_the_next_one_fit_and_is_no_part_of_what_is_stored() {
        let mut tables = tables();
        let pass = |base_sequence| Passed { producer: ProducerId(8), base_sequence, next: base_sequence + 2 };
        tables.pass_over(&pass(4));
        assert!(!tables.stand(ProducerId(8)).fits(6), "it did not stand there");
        tables.pass_over(&pass(3));
        tables.pass_over(&pass(5));
        let stand = tables.stand(ProducerId(8));
        assert!(stand.fits(7) && stand.fits(3) && !stand.fits(5));
        assert_eq!(stand.known.map(|known| known.next), Some(3));
        tables.note([batch(8, 7, 9)].into_iter(), &[], Offset(12));
        let stand = tables.stand(ProducerId(8));
        assert!(stand.fits(10) && stand.passed.is_none());
    }

    #[test]
    fn a_segments_summary_adds_only_what_the_checkpoint_does_not_know() {
        let (producers, dedup) = decode(&tables().encode(INCARNATION), INCARNATION, Offset(9)).unwrap();
        let mut begun = Tables::begin(Some((Offset(9), producers, dedup)));
        let mut summary = Producers::default();
        [batch(7, 3, 3), batch(8, 0, 6), batch(8, 3, 9)].iter().for_each(|batch| summary.note(batch));
        begun.fold(&summary, Offset(12));
        assert_eq!(begun.producers.standing(ProducerId(8)).unwrap().next, 6);
        assert_eq!(begun.producers.find(ProducerId(7), 0, 3).unwrap().base_offset, Offset(0));
        assert_eq!((begun.end(), begun.checkpoint), (Offset(12), Some(Offset(9))));
    }
}
