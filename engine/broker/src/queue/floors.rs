//! How far a queue is in each partition, durably: below that offset nothing will be asked for again, whatever happens.
//!
//! The ledger runs ahead of the disk: its floor would fall in a crash. What stands here is the floor of the newest flush
//! that is durable, with the queue epoch that it belongs to. A purge or a seek raises the epoch in the catalog first; until
//! a flush of that epoch is durable, the place that the catalog names is what a start would go on from.
//!
//! A partition on which the queue is not open has no floor: all that it holds may still be wanted.

use parking_lot::Mutex;

use crate::catalog::QueueEntry;

#[derive(Debug, Clone, Copy)]
struct Floor {
    epoch: u32,
    offset: u64,
}

/// The durable floors of one queue.
#[derive(Debug)]
pub(crate) struct Floors(Vec<Mutex<Option<Floor>>>);

impl Floors {
    /// Of a queue that is open nowhere yet.
    pub fn new(partitions: usize) -> Self {
        Self((0..partitions).map(|_| Mutex::default()).collect())
    }

    /// That floor is durable. A partition beyond those it was made for has none.
    pub(super) fn set(&self, partition: u32, epoch: u32, offset: u64) {
        if let Some(floor) = self.0.get(partition as usize) {
            *floor.lock() = Some(Floor { epoch, offset });
        }
    }

    /// Whether it is open on all partitions.
    pub fn are_known(&self) -> bool {
        self.0.iter().all(|floor| floor.lock().is_some())
    }

    /// The offset below which the queue, as the catalog knows it durably, needs nothing; `None`: not known, so all is kept.
    pub fn of(&self, entry: &QueueEntry, partition: u32) -> Option<u64> {
        let known = (*self.0.get(partition as usize)?.lock())?;
        Some(if known.epoch == entry.epoch { known.offset } else { entry.floor(partition) })
    }
}

#[cfg(test)]
mod tests {
    use millstream_protocol::frame::queue::QueueConfig;

    use super::*;

    fn entry(epoch: u32, floors: Vec<u64>) -> QueueEntry {
        QueueEntry {
            id: 1,
            name: "work".to_owned(),
            stream: 2,
            config: QueueConfig::default(),
            rules: Vec::new(),
            epoch,
            floors,
            is_purge: false,
            is_paused: false,
            created_ms: 0,
        }
    }

    #[test]
    fn a_partition_that_is_not_open_has_no_floor() {
        let floors = Floors::new(2);
        floors.set(1, 1, 30);
        floors.set(7, 1, 30);
        let entry = entry(1, vec![10, 10]);
        assert_eq!([0, 1, 7].map(|partition| floors.of(&entry, partition)), [None, Some(30), None]);
        assert!(!floors.are_known());
    }

    #[test]
    fn a_seek_counts_from_when_the_catalog_knows_it() {
        let floors = Floors::new(1);
        floors.set(0, 1, 30);
        let sought = entry(2, vec![5]);
        assert_eq!(floors.of(&sought, 0), Some(5), "its flush is not durable yet");
        floors.set(0, 2, 6);
        assert_eq!(floors.of(&sought, 0), Some(6));
        assert_eq!(floors.of(&entry(1, vec![0]), 0), Some(0), "who looked before it asks for no less");
    }
}
