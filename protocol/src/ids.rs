//! Positions and identities, as types that cannot be swapped for one another.
//!
//! There is no `Add` between two of them: an offset moves by `offset.plus(records)`, and the distance between
//! two is `start.records_until(end)`.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// The position of a record in its partition: counts records from 0, never reused under one incarnation.
    Offset(u64)
);
id!(
    /// A stream's number, given at creation and never reused. 0 is the catalog's own.
    StreamId(u64)
);
id!(
    /// A partition's number within its stream, from 0.
    PartitionId(u32)
);
id!(
    /// Rises at every start and every change of owner of a partition; stamped into each batch.
    Epoch(u32)
);
id!(
    /// A producer's number, given by the server; 0 is a producer without idempotence.
    ProducerId(u64)
);
id!(
    /// A lake's number, given at creation and never reused.
    LakeId(u64)
);

impl LakeId {
    /// The key of a lake's state in each partition that it lands, and the name under which it holds records back there.
    pub fn key(self) -> String {
        format!("lake/{self}")
    }
}

id!(
    /// A queue's number, given at creation and never reused.
    QueueId(u64)
);

/// Names one life of a partition: random at its creation, it seeds every header's checksum, so that bytes of
/// another partition, or of an earlier stream under the same name, fail the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Offset {
    /// The first offset of a partition.
    pub const ZERO: Offset = Offset(0);

    /// The offset `records` further on; `None` past the end of the number space.
    pub fn checked_plus(self, records: u64) -> Option<Offset> {
        self.0.checked_add(records).map(Offset)
    }

    /// The offset after this one.
    ///
    /// # Panics
    /// At the end of the number space, which a check at append keeps out of reach.
    pub fn next(self) -> Offset {
        self.checked_plus(1).expect("offsets near 2^64 are refused at append")
    }

    /// How many records lie in `self..end`; 0 if `end` is not above `self`.
    pub fn records_until(self, end: Offset) -> u64 {
        end.0.saturating_sub(self.0)
    }
}
