//! Which partition a record goes to: a pure decision.
//!
//! A key's partition is `mix(fnv1a_64(key)) mod partitions`: FNV-1a with the 64-bit offset basis and prime
//! (<http://www.isthe.com/chongo/tech/comp/fnv/>), then MurmurHash3's 64-bit finaliser
//! (<https://github.com/aappleby/smhasher>), which makes the low bits depend on all of the key. It is the same in every
//! version and for every client: a key never moves while the number of partitions stays.
//!
//! A record without a key but with a dedup id goes to the id's partition, by the same function: a second one of that id
//! meets the first.
//!
//! Other records without a key stay with one partition until its batch is closed, then go to the next: few full batches rather
//! than many small ones.

use millstream_protocol::PartitionId;

/// The partition of a key among `partitions` (at least 1).
pub fn partition_of_key(key: &[u8], partitions: u32) -> PartitionId {
    let hash = mix(fnv1a(key));
    PartitionId((hash % u64::from(partitions.max(1))) as u32)
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Picks partitions for records with and without keys.
#[derive(Debug)]
pub(super) struct Partitioner {
    partitions: u32,
    sticky: u32,
}

impl Partitioner {
    /// `seed` decides where records without keys begin: producers that start together should not share it.
    pub fn new(partitions: u32, seed: u64) -> Self {
        let partitions = partitions.max(1);
        Self { partitions, sticky: (seed % u64::from(partitions)) as u32 }
    }

    pub fn pick(&self, key: Option<&[u8]>, dedup_id: Option<&[u8]>) -> PartitionId {
        match key.or(dedup_id) {
            Some(bytes) => partition_of_key(bytes, self.partitions),
            None => PartitionId(self.sticky),
        }
    }

    /// A batch is closed: if it was the sticky one, records without keys go on elsewhere.
    pub fn batch_closed(&mut self, partition: PartitionId) {
        if partition.0 == self.sticky {
            self.sticky = (self.sticky + 1) % self.partitions;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_1a_is_the_published_one() {
        // From the reference's test vectors.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_key_keeps_its_partition_over_versions() {
        let pinned: Vec<u32> =
            ["", "a", "ride-17", "N14228"].map(|key| partition_of_key(key.as_bytes(), 1_000).0).into();
        assert_eq!(pinned, PINNED);
    }

    #[test]
    fn keys_spread_evenly() {
        let mut counts = [0u32; 7];
        for n in 0..70_000 {
            counts[partition_of_key(format!("key-{n}").as_bytes(), 7).0 as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn records_without_keys_move_on_when_their_batch_is_closed() {
        let mut partitioner = Partitioner::new(3, 2);
        assert_eq!(partitioner.pick(None, None), PartitionId(2));
        partitioner.batch_closed(PartitionId(1));
        assert_eq!(partitioner.pick(None, None), PartitionId(2), "another partition's batch");
        let seen = [(); 4].map(|()| {
            partitioner.batch_closed(partitioner.pick(None, None));
            partitioner.pick(None, None).0
        });
        assert_eq!(seen, [0, 1, 2, 0]);
    }

    #[test]
    fn a_dedup_id_decides_only_where_there_is_no_key() {
        let partitioner = Partitioner::new(1_000, 0);
        assert_eq!(partitioner.pick(None, Some(b"ride-17")), partition_of_key(b"ride-17", 1_000));
        assert_eq!(partitioner.pick(Some(b"a"), Some(b"ride-17")), partition_of_key(b"a", 1_000));
    }

    // Computed by another implementation of the same two published functions.
    const PINNED: [u32; 4] = [342, 315, 533, 70];
}
