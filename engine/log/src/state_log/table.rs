//! What a partition keeps beside its records: a small map from names to bytes (its log start, how far each lake is).

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize, rancor};

use super::Machine;

const VERSION: u8 = 1;

/// A value was set, or removed.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct TableEvent {
    key: String,
    value: Option<Vec<u8>>,
}

/// The map.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StateTable(BTreeMap<String, Bytes>);

impl StateTable {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.0.get(key).cloned()
    }

    /// The entries whose keys begin with `prefix`, in order.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Bytes)> {
        let from = self.0.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.take_while(move |(key, _)| key.starts_with(prefix)).map(|(key, value)| (key.as_str(), value))
    }

    /// The event that sets, or with `None` removes, a value.
    pub fn event(key: &str, value: Option<&[u8]>) -> TableEvent {
        TableEvent { key: key.to_owned(), value: value.map(<[u8]>::to_vec) }
    }
}

impl Machine for StateTable {
    type Event = TableEvent;

    fn apply(&mut self, event: &TableEvent) {
        match &event.value {
            Some(value) => drop(self.0.insert(event.key.clone(), Bytes::from(value.clone()))),
            None => drop(self.0.remove(&event.key)),
        }
    }

    fn encode_event(event: &TableEvent) -> Vec<u8> {
        let archive = rkyv::to_bytes::<rancor::Error>(event).expect("flat types always archive");
        [&[VERSION], archive.as_slice()].concat()
    }

    fn decode_event(bytes: &[u8]) -> Result<TableEvent, String> {
        match bytes.split_first() {
            Some((&VERSION, archive)) => {
                rkyv::from_bytes::<TableEvent, rancor::Error>(archive).map_err(|error| error.to_string())
            }
            other => Err(format!("unknown version {:?}", other.map(|(version, _)| version))),
        }
    }

    fn encode_snapshot(&self) -> Vec<u8> {
        let entries: Vec<TableEvent> = self.0.iter().map(|(key, value)| Self::event(key, Some(value))).collect();
        let archive = rkyv::to_bytes::<rancor::Error>(&entries).expect("flat types always archive");
        [&[VERSION], archive.as_slice()].concat()
    }

    fn decode_snapshot(bytes: &[u8]) -> Result<Self, String> {
        let entries = match bytes.split_first() {
            Some((&VERSION, archive)) => {
                rkyv::from_bytes::<Vec<TableEvent>, rancor::Error>(archive).map_err(|error| error.to_string())?
            }
            other => return Err(format!("unknown version {:?}", other.map(|(version, _)| version))),
        };
        let mut table = Self::default();
        entries.iter().for_each(|entry| table.apply(entry));
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_snapshots_come_back() {
        let mut table = StateTable::default();
        for event in
            [StateTable::event("a", Some(b"1")), StateTable::event("b", Some(b"")), StateTable::event("a", None)]
        {
            let back = StateTable::decode_event(&StateTable::encode_event(&event)).unwrap();
            assert_eq!(back, event);
            table.apply(&back);
        }
        assert_eq!((table.get("a"), table.get("b")), (None, Some(Bytes::new())));
        assert_eq!(StateTable::decode_snapshot(&table.encode_snapshot()).unwrap(), table);
        assert!(StateTable::decode_event(&[]).is_err());
        assert!(StateTable::decode_event(&[2, 0, 0]).is_err());
    }
}
