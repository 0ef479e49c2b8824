//! Dedup ids of one partition: which ids were appended within the window, and where the first record of each is.
//!
//! A pure machine. An id counts together with the record's key, as 16 bytes of their SHA-256. The window runs from the first
//! append, by append times, which never go back: so ids leave in the order in which they came. At most
//! [`DEDUP_IDS_MAX`] are remembered; the lane refuses what would be too much, and no id is forgotten before its time.
//!
//! ```text
//! encoded:  u32 count · u32 zero · for each, oldest first: 16 bytes key · u64 offset · i64 append time
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use millstream_protocol::batch::header::FLAG_CONTROL_HEADERS;
use millstream_protocol::batch::{BatchError, BatchView};
use millstream_protocol::limits::DEDUP_IDS_MAX;
use millstream_protocol::{Offset, Timestamp};

use crate::little_endian::{u32_at, u64_at};

const HEADER_BYTES: usize = 8;
const ENTRY_BYTES: usize = 32;

/// What stands for a record's dedup id and its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DedupKey(pub [u8; 16]);

impl DedupKey {
    /// The first 16 bytes of a SHA-256 over the record's key (its presence and length first) and the id.
    pub fn of(key: Option<&[u8]>, id: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        // 0: no key; n + 1: a key of n bytes. So no key and id give the same bytes as others.
        context.update(&key.map_or(0, |key| key.len() as u64 + 1).to_le_bytes());
        context.update(key.unwrap_or_default());
        context.update(id);
        let digest = context.finish();
        DedupKey(*digest.as_ref().first_chunk().expect("a digest has 32 bytes"))
    }

    /// The keys of a batch's records, `None` where one has no dedup id; `None` if the batch is not flagged.
    ///
    /// # Errors
    /// [`BatchError`] if its records do not decode.
    pub fn of_batch(batch: &BatchView) -> Result<Option<Arc<[Option<DedupKey>]>>, BatchError> {
        if batch.header().flags & FLAG_CONTROL_HEADERS == 0 {
            return Ok(None);
        }
        let mut keys = Vec::with_capacity(batch.header().record_count as usize);
        let mut records = batch.records()?;
        while let Some(record) = records.next_ref() {
            let record = record?;
            keys.push(record.dedup_id().map(|id| DedupKey::of(record.key, id)));
        }
        Ok(Some(keys.into()))
    }
}

/// Where the first record of an id is, and when it was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct First {
    pub offset: Offset,
    pub append_time: Timestamp,
}

/// The ids of a partition that are within the window.
#[derive(Debug, Clone, Default)]
pub(crate) struct DedupTable {
    /// Oldest first.
    entries: VecDeque<(DedupKey, First)>,
    /// Each key's place in `entries`, counted from the first entry ever (wrapping; far fewer are there at once).
    places: HashMap<DedupKey, u32>,
    /// How many entries have left.
    gone: u32,
}

impl DedupTable {
    /// Ids remembered.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets what has left a window of `window_ms` at `now`.
    pub(crate) fn expire(&mut self, now: Timestamp, window_ms: u64) {
        while let Some((key, first)) = self.entries.front()
            && !is_within(first.append_time, now, window_ms)
        {
            self.places.remove(key);
            self.entries.pop_front();
            self.gone = self.gone.wrapping_add(1);
        }
        if self.entries.is_empty() {
            // Its memory goes with the last one.
            *self = Self::default();
        }
    }

    /// Where the first record of an id is.
    pub(crate) fn get(&self, key: &DedupKey) -> Option<First> {
        let index = self.places.get(key)?.wrapping_sub(self.gone);
        self.entries.get(index as usize).map(|(_, first)| *first)
    }

    /// Remembers an id that was appended now, unless it is known. Where the table is full the oldest goes: a lane has
    /// refused the batch before that, so it happens only in a rebuild under another window.
    pub(crate) fn insert(&mut self, key: DedupKey, first: First) {
        if self.places.contains_key(&key) {
            return;
        }
        if self.entries.len() >= DEDUP_IDS_MAX
            && let Some((oldest, _)) = self.entries.pop_front()
        {
            self.places.remove(&oldest);
            self.gone = self.gone.wrapping_add(1);
        }
        self.places.insert(key, self.gone.wrapping_add(self.entries.len() as u32));
        self.entries.push_back((key, first));
    }

    /// Its bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(HEADER_BYTES + self.entries.len() * ENTRY_BYTES);
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for (key, first) in &self.entries {
            out.extend_from_slice(&key.0);
            out.extend_from_slice(&first.offset.0.to_le_bytes());
            out.extend_from_slice(&first.append_time.0.to_le_bytes());
        }
    }

    /// Reads it back; `None` if the bytes are not a table.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let count = u32_at(bytes, 0)? as usize;
        if count > DEDUP_IDS_MAX || bytes.len() != HEADER_BYTES + count * ENTRY_BYTES || u32_at(bytes, 4)? != 0 {
            return None;
        }
        let mut table = Self::default();
        let mut last = Timestamp(i64::MIN);
        for entry in bytes[HEADER_BYTES..].chunks_exact(ENTRY_BYTES) {
            let first = First { offset: Offset(u64_at(entry, 16)?), append_time: Timestamp(u64_at(entry, 24)? as i64) };
            if first.append_time < last {
                return None;
            }
            last = first.append_time;
            table.insert(DedupKey(*entry.first_chunk()?), first);
        }
        // One that is there twice was not written by us.
        (table.len() == count).then_some(table)
    }
}

/// Whether an id that was first appended at `first` is still known at `now`.
pub(crate) fn is_within(first: Timestamp, now: Timestamp, window_ms: u64) -> bool {
    let age_ms = u64::try_from(now.0.saturating_sub(first.0)).unwrap_or(0);
    age_ms < window_ms
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_and_ids_cannot_be_shifted_into_one_another() {
        let keys = [
            DedupKey::of(None, b"ab"),
            DedupKey::of(Some(b""), b"ab"),
            DedupKey::of(Some(b"a"), b"b"),
            DedupKey::of(Some(b"ab"), b""),
            DedupKey::of(Some(b"b"), b"a"),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{index}");
        }
        assert_eq!(DedupKey::of(Some(b"ride-17"), b"42"), DedupKey::of(Some(b"ride-17"), b"42"));
    }

    fn key(n: u8) -> DedupKey {
        DedupKey([n; 16])
    }

    proptest! {
        /// Against a list that is searched from the front.
        #[test]
        fn the_table_agrees_with_a_list(operations in proptest::collection::vec((0u8..12, 0i64..40), 0..80)) {
            const WINDOW_MS: u64 = 60;
            let mut table = DedupTable::default();
            let mut list: Vec<(DedupKey, First)> = Vec::new();
            let (mut now, mut offset) = (Timestamp(0), 0);
            for (id, pause) in operations {
                now.0 += pause;
                table.expire(now, WINDOW_MS);
                list.retain(|(_, first)| now.0 - first.append_time.0 < WINDOW_MS as i64);
                for n in 0..12 {
                    let known = list.iter().find(|(known, _)| *known == key(n)).map(|(_, first)| *first);
                    prop_assert_eq!(table.get(&key(n)), known);
                }
                let first = First { offset: Offset(offset), append_time: now };
                if list.iter().all(|(known, _)| *known != key(id)) {
                    list.push((key(id), first));
                }
                table.insert(key(id), first);
                offset += 1;
                prop_assert_eq!(table.len(), list.len());
            }
            let mut bytes = Vec::new();
            table.encode(&mut bytes);
            let back = DedupTable::decode(&bytes).unwrap();
            prop_assert_eq!(&back.entries, &table.entries);
            prop_assert!(list.iter().all(|(known, first)| back.get(known) == Some(*first)));
        }
    }

    #[test]
    fn bytes_that_are_no_table_are_refused() {
        let mut table = DedupTable::default();
        for n in 0..3 {
            table.insert(key(n), First { offset: Offset(n.into()), append_time: Timestamp(n.into()) });
        }
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        assert!((0..bytes.len()).all(|length| DedupTable::decode(&bytes[..length]).is_none()));
        let mut twice = bytes.clone();
        twice.copy_within(HEADER_BYTES..HEADER_BYTES + 16, HEADER_BYTES + ENTRY_BYTES);
        assert!(DedupTable::decode(&twice).is_none());
        let mut back_in_time = bytes.clone();
        back_in_time[HEADER_BYTES + 24] = 9;
        assert!(DedupTable::decode(&back_in_time).is_none());
        let mut many = bytes;
        many[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(DedupTable::decode(&many).is_none());
    }

    #[test]
    fn a_full_table_lets_the_oldest_go_and_finds_the_others() {
        let mut table = DedupTable::default();
        let wide = |n: u64| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            DedupKey(bytes)
        };
        for n in 0..DEDUP_IDS_MAX as u64 + 2 {
            table.insert(wide(n), First { offset: Offset(n), append_time: Timestamp(0) });
        }
        assert_eq!(table.len(), DEDUP_IDS_MAX);
        assert_eq!(table.get(&wide(1)), None);
        assert_eq!(table.get(&wide(2)).map(|first| first.offset), Some(Offset(2)));
    }
}
