//! Key → latest offset, in bounded memory, and the rule which record stays. Pure.

use std::collections::HashMap;

use millstream_protocol::Offset;

/// What a key takes beside its own bytes: the entry in a table that is half empty after it has grown, and the allocation.
const ENTRY_BYTES: usize = 80;

/// The latest offsets of some keys. What it does not name stays.
#[derive(Debug)]
pub(super) struct KeyMap {
    latest: HashMap<Box<[u8]>, Offset>,
    bytes: usize,
    bytes_max: usize,
    /// The greatest offset in it.
    last: Option<Offset>,
}

impl KeyMap {
    /// An empty map that will take about `bytes_max` bytes, and one key whatever its size.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { latest: HashMap::new(), bytes: 0, bytes_max, last: None }
    }

    /// Notes a record; `false` if there is no room for its key.
    pub(super) fn note(&mut self, key: &[u8], offset: Offset) -> bool {
        self.note_within(key, offset, self.bytes_max)
    }

    /// The same with half of the room: what is left is for others.
    pub(super) fn note_in_half(&mut self, key: &[u8], offset: Offset) -> bool {
        self.note_within(key, offset, self.bytes_max / 2)
    }

    fn note_within(&mut self, key: &[u8], offset: Offset, bytes_max: usize) -> bool {
        if let Some(latest) = self.latest.get_mut(key) {
            *latest = offset.max(*latest);
        } else {
            let bytes = self.bytes + key.len() + ENTRY_BYTES;
            if bytes > bytes_max && !self.latest.is_empty() {
                return false;
            }
            self.bytes = bytes;
            self.latest.insert(key.into(), offset);
        }
        self.last = self.last.max(Some(offset));
        true
    }

    /// Whether a record of a segment that begins at `base` may have to go.
    pub(super) fn may_concern(&self, base: Offset) -> bool {
        self.last.is_some_and(|last| base <= last)
    }

    /// The rule. `is_over`: the tombstones of the record's segment have been kept long enough, and what lies below was
    /// rewritten by this map.
    pub(super) fn keeps(&self, offset: Offset, key: Option<&[u8]>, is_tombstone: bool, is_over: bool) -> bool {
        let Some(latest) = key.and_then(|key| self.latest.get(key)) else { return true };
        if offset == *latest { !(is_tombstone && is_over) } else { offset > *latest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_a_key_stays_and_a_tombstone_until_its_time_is_over() {
        let mut keys = KeyMap::new(1 << 20);
        for (key, offset) in [("a", 1), ("b", 2), ("a", 5)] {
            assert!(keys.note(key.as_bytes(), Offset(offset)));
        }
        let keeps = |offset, key: &str, is_tombstone, is_over| {
            keys.keeps(Offset(offset), Some(key.as_bytes()), is_tombstone, is_over)
        };
        assert!(!keeps(1, "a", false, false) && !keeps(1, "a", true, false), "superseded");
        assert!(keeps(5, "a", false, true), "a value is never over");
        assert!(keeps(5, "a", true, false) && !keeps(5, "a", true, true));
        assert!(keeps(9, "a", false, false) && keeps(9, "a", true, true), "later than what was mapped");
        assert!(keeps(1, "c", false, true) && keeps(1, "c", true, true), "not mapped");
        assert!(keys.keeps(Offset(0), None, true, true), "no key");
        assert!(keys.may_concern(Offset(5)) && !keys.may_concern(Offset(6)));
    }

    #[test]
    fn a_full_map_takes_known_keys_and_no_new_one_but_at_least_one() {
        let mut keys = KeyMap::new(2 * (ENTRY_BYTES + 1));
        assert!(keys.note_in_half(b"a", Offset(1)));
        assert!(!keys.note_in_half(b"b", Offset(2)) && keys.note(b"b", Offset(2)));
        assert!(!keys.note(b"c", Offset(3)) && keys.note(b"a", Offset(4)));
        assert!(keys.keeps(Offset(3), Some(b"c"), false, false) && !keys.keeps(Offset(3), Some(b"a"), false, false));
        assert!(KeyMap::new(0).note(b"a key of any length", Offset(1)));
    }
}
