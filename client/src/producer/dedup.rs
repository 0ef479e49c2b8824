//! Dedup ids: what tells the server that a record was sent before, by whomever.

use aws_lc_rs::digest::{Context, SHA256};
use millstream_protocol::Record;
use millstream_protocol::batch::DEDUP_ID;

/// Where the dedup ids of records that have none come from. The first record of an id (and key) is stored; others within
/// the stream's dedup window are acknowledged with the first one's offset, and
/// [`Receipt::duplicate`](crate::Receipt::duplicate) set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dedup {
    /// Nowhere: only records with [`Record::dedup_id`] are looked at.
    #[default]
    None,
    /// The SHA-256 of key and value: equal records are stored once. Headers and timestamps do not count. It takes 46
    /// bytes in each record, and about 1 µs a KiB.
    Content,
}

impl Dedup {
    /// Gives the record an id, if it has none and is to have one.
    pub(super) fn fill(self, record: &mut Record) {
        if self == Dedup::Content && record.headers.iter().all(|header| header.name != DEDUP_ID) {
            let id = content_id(record);
            *record = std::mem::take(record).dedup_id(id);
        }
    }
}

/// SHA-256 over key and value, each as `u64 LE: 0 if it has none, else its length + 1`, then its bytes.
fn content_id(record: &Record) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    for part in [&record.key, &record.value] {
        context.update(&part.as_ref().map_or(0, |part| part.len() as u64 + 1).to_le_bytes());
        context.update(part.as_deref().unwrap_or_default());
    }
    context.finish().as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(record: &Record) -> Vec<u8> {
        let mut record = record.clone();
        Dedup::Content.fill(&mut record);
        let header = record.headers.iter().find(|header| header.name == DEDUP_ID).expect("filled in");
        header.value.as_ref().expect("a value").to_vec()
    }

    #[test]
    fn key_and_value_decide_and_where_one_ends() {
        let record = Record::new("42.5 km").key("ride-17");
        assert_eq!(id(&record), id(&record.clone().header("trace", "7")), "headers do not count");
        let others = [
            Record::new("42.5 km"),
            Record::new("17-42.5 km").key("ride-"),
            Record::new("42.5 km").key(""),
            Record::tombstone("ride-17"),
            Record::new("").key("ride-17"),
        ];
        assert!(others.iter().all(|other| id(other) != id(&record)));
        assert_ne!(id(&others[0]), id(&others[2]), "no key is not an empty one");
        assert_ne!(id(&others[3]), id(&others[4]), "no value is not an empty one");
    }

    #[test]
    fn the_id_is_the_published_hash_of_what_the_header_says() {
        // printf '\x08\0\0\0\0\0\0\0ride-17\x08\0\0\0\0\0\0\042.5 km' | sha256sum
        let hex: String = id(&Record::new("42.5 km").key("ride-17")).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "ebc1144657988a0c27d84a9e3ae8308d85719cef9b263de8b60d777bc01b2e1e");
    }

    #[test]
    fn an_id_of_its_own_stays_and_none_is_added_unasked() {
        let mut record = Record::new("x").dedup_id("mine");
        Dedup::Content.fill(&mut record);
        assert_eq!(record, Record::new("x").dedup_id("mine"));
        let mut record = Record::new("x");
        Dedup::None.fill(&mut record);
        assert_eq!(record, Record::new("x"));
    }
}
