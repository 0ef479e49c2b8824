//! Retention by interest: up to where a partition's records are done for all who want them, and that they go.
//!
//! | who is interested | how far it is in a partition | while that is not known |
//! | --- | --- | --- |
//! | a queue on the stream | its durable ack floor | it is not open there: all is kept |
//! | a group that reads the stream, or has committed in it | its committed offset; without one the log start | a commit cannot be read: all is kept |
//! | a lake on the stream | what it has landed (its hold on the partition) | it does not run: all is kept |
//!
//! Who is only *holding* (dead letters that a queue or a redrive still needs) makes nothing go, and keeps what it holds: the
//! log asks the holds itself. Nobody interested: nothing goes. A partition of the stream that is offline may have commits
//! of groups that are not known elsewhere: nothing goes as long as it is.
//!
//! Order: records go under the stream's lock for writing; who becomes interested, or interested in earlier records, looks
//! up where it begins and makes itself known under the lock for reading. So its beginning is kept, or was gone before and
//! is the log start. What is durable of each is asked, never what is decided: a crash takes nobody back behind the log start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_log::{LogError, Partition};
use millstream_protocol::Offset;

use crate::broker::Broker;
use crate::catalog::{Catalog, QueueEntry};
use crate::error::BrokerError;
use crate::group::offsets;
use crate::stream::Stream;

/// How far one who is interested is in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Past all below that offset, durably.
    Past(u64),
    /// It may want anything.
    Unknown,
}

impl From<Option<u64>> for Standing {
    fn from(offset: Option<u64>) -> Self {
        offset.map_or(Standing::Unknown, Standing::Past)
    }
}

/// The offset that all are past; `None` if nobody is there, or one may want anything.
fn least(standings: impl IntoIterator<Item = Standing>) -> Option<Offset> {
    let mut least = None;
    for standing in standings {
        let Standing::Past(offset) = standing else { return None };
        least = Some(least.map_or(offset, |least: u64| least.min(offset)));
    }
    least.map(Offset)
}

impl Broker {
    /// Deletes what a stream's retention settings let go; errors are logged. Blocks.
    pub(crate) fn retain(&self, stream: &Stream) {
        let committed = stream.config.interest.then(|| groups_committed(stream));
        for partition in stream.online().filter(|partition| !partition.is_read_only()) {
            let done = match &committed {
                None => partition.run_retention(None),
                Some(committed) => {
                    let _alone = stream.let_go();
                    let consumed = committed.as_ref().map_err(|error| error.clone().into());
                    let consumed = consumed.and_then(|committed| self.consumed(stream, partition, committed));
                    // Age and bytes go on all the same.
                    partition.run_retention(consumed.unwrap_or_else(|error: BrokerError| {
                        tracing::warn!(stream = stream.name, partition = %partition.id(), %error,
                            "it is not known how far all are who are interested: nothing goes by that");
                        None
                    }))
                }
            };
            if let Err(error) = done {
                tracing::warn!(stream = stream.name, partition = %partition.id(), %error, "retention failed");
            }
        }
    }

    /// The offset that all who are interested in a partition are past, durably. `committed`: the groups that had committed
    /// anywhere in the stream a moment ago.
    fn consumed(
        &self,
        stream: &Stream,
        partition: &Arc<Partition>,
        committed: &BTreeSet<u64>,
    ) -> Result<Option<Offset>, BrokerError> {
        let index = partition.id().0;
        let look = |catalog: &Catalog| {
            let on = |queue: &&QueueEntry| queue.stream == stream.id.0;
            let to = |queue: &&QueueEntry| queue.config.dead_letter.as_deref() == Some(stream.name.as_str());
            let lakes = catalog.lakes().filter(|lake| lake.config.stream == stream.name).map(|lake| lake.id);
            let (on, to) = (catalog.queues().filter(on), catalog.queues().filter(to));
            (on.cloned().collect::<Vec<_>>(), to.map(QueueEntry::id).collect::<Vec<_>>(), lakes.collect::<Vec<_>>())
        };
        let seen = self.catalog().read_durable(look);
        let (on, to, lakes) = seen.ok_or_else(|| self.catalog().failure().unwrap_or(LogError::Closed))?;
        let mut standings: Vec<Standing> = Vec::new();
        for queue in &on {
            let floors = self.queues().floors(queue.id());
            standings.push(floors.and_then(|floors| floors.of(queue, index)).into());
        }
        // Which letters a queue that is not open still needs, nobody says.
        let is_open = |queue| self.queues().floors(queue).is_some_and(|floors| floors.are_known());
        standings.extend(to.into_iter().filter(|queue| !is_open(*queue)).map(|_| Standing::Unknown));
        standings.extend(lakes.into_iter().map(|lake| Standing::from(partition.hold(&lake.key()).map(|at| at.0))));

        let commits: BTreeMap<u64, _> = partition.state_read(offsets::all)?.into_iter().collect();
        let groups: Vec<u64> = self.groups().read(|groups| {
            let is_interested = |id: u64| committed.contains(&id) || commits.contains_key(&id);
            let found = groups
                .iter()
                .filter(|group| is_interested(group.id) || group.streams().any(|(read, _)| read == stream.id.0));
            found.map(|group| group.id).collect()
        })?;
        standings.extend(groups.into_iter().map(|group| match commits.get(&group) {
            Some(Ok(committed)) => Standing::Past(committed.offset),
            Some(Err(_)) => Standing::Unknown,
            None => Standing::Past(partition.log_start().0),
        }));
        Ok(least(standings))
    }
}

/// The groups that have committed in a partition of the stream.
fn groups_committed(stream: &Stream) -> Result<BTreeSet<u64>, LogError> {
    let mut groups = BTreeSet::new();
    for partition in stream.partitions() {
        let partition = partition.as_ref().map_err(Clone::clone)?;
        groups.extend(partition.state_read(offsets::all)?.into_iter().map(|(group, _)| group));
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_says_what_is_consumed_and_one_that_is_not_known_says_nothing() {
        use Standing::{Past, Unknown};
        for (standings, consumed) in [
            (vec![], None),
            (vec![Past(7)], Some(Offset(7))),
            (vec![Past(7), Past(3), Past(9)], Some(Offset(3))),
            (vec![Past(7), Past(0)], Some(Offset(0))),
            (vec![Past(7), Unknown], None),
            (vec![Unknown], None),
        ] {
            assert_eq!(least(standings.clone()), consumed, "{standings:?}");
        }
    }
}
