//! What operators are told: which groups there are, and how far each is.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use millstream_log::Partition;
use millstream_protocol::PartitionId;
use millstream_protocol::frame::group::{GroupInfo, GroupMember, GroupPartition, GroupSummary, StreamPartition};

use super::offsets::{self, Committed};
use super::sessions::MemberKey;
use super::shell::GroupStats;
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::stream::Stream;

impl Broker {
    /// All groups, by name. Blocks while changes and commits are in flight.
    ///
    /// # Errors
    /// The log's.
    pub fn list_groups(&self) -> Result<Vec<GroupSummary>, BrokerError> {
        let groups = self.groups().read(|groups| {
            let group = |group: &super::state::Group| {
                let reads: BTreeSet<u64> = group.streams().map(|(id, _)| id).collect();
                (group.id, group.name.clone(), group.state(), group.members().len() as u32, reads)
            };
            groups.by_name().map(group).collect::<Vec<_>>()
        })?;
        let mut commits: HashMap<u64, BTreeMap<StreamPartition, u64>> = HashMap::new();
        self.for_each_commit(|stream, partition, group, found| {
            if let Ok(committed) = found {
                let at = StreamPartition { stream: stream.id.0, partition: partition.id().0 };
                commits.entry(group).or_default().insert(at, committed.offset);
            }
        });
        let streams: BTreeMap<u64, _> = self.streams().into_iter().map(|stream| (stream.id.0, stream)).collect();
        let summary = |(id, name, state, members, reads): (u64, String, _, u32, BTreeSet<u64>)| {
            let committed = commits.remove(&id).unwrap_or_default();
            let with_offsets = committed.keys().map(|at| at.stream);
            let used: BTreeSet<u64> = with_offsets.chain(reads.iter().copied()).collect();
            let used: Vec<_> = used.iter().filter_map(|id| streams.get(id)).collect();
            let mut lag = 0;
            for partition in used.iter().flat_map(|stream| stream.online()) {
                let at = StreamPartition { stream: partition.stream().0, partition: partition.id().0 };
                let committed = committed.get(&at).copied();
                if committed.is_some() || reads.contains(&at.stream) {
                    lag += offsets::lag(committed, partition.log_start(), partition.high_watermark());
                }
            }
            let mut names: Vec<String> = used.iter().map(|stream| stream.name.clone()).collect();
            names.sort();
            GroupSummary { name, state, members, streams: names, lag }
        };
        Ok(groups.into_iter().map(summary).collect())
    }

    /// One group, with its members and partitions. Blocks while changes and commits are in flight.
    ///
    /// # Errors
    /// [`BrokerError::UnknownGroup`]; the log's.
    pub fn describe_group(&self, name: &str) -> Result<GroupInfo, BrokerError> {
        let group = self.groups().read(|groups| groups.find(name).cloned())??;
        let now = self.groups().now();
        let mut holds: BTreeMap<u64, Vec<StreamPartition>> = BTreeMap::new();
        let mut holders: BTreeMap<StreamPartition, u64> = BTreeMap::new();
        for (at, seat) in group.seats() {
            if let Some(hold) = seat.hold {
                holds.entry(hold.member).or_default().push(at);
                holders.insert(at, hold.member);
            }
        }
        let live = self.groups().live.lock();
        let members = group.members().map(|(number, member)| GroupMember {
            member: number,
            instance: member.settings.instance.clone(),
            client: member.settings.client.clone(),
            streams: member.settings.streams.clone(),
            session_left_ms: {
                let left = live.sessions.left(MemberKey { group: group.id, member: number }, now);
                u32::try_from(left.as_millis()).unwrap_or(u32::MAX)
            },
            holds: holds.remove(&number).unwrap_or_default(),
        });
        let members = members.collect();
        drop(live);

        let reads: BTreeSet<u64> = group.streams().map(|(id, _)| id).collect();
        let mut partitions = Vec::new();
        for stream in self.streams() {
            for partition in stream.online() {
                let at = StreamPartition { stream: stream.id.0, partition: partition.id().0 };
                let committed = partition.state_read(|table| offsets::committed(table, group.id))?.ok().flatten();
                if committed.is_some() || reads.contains(&stream.id.0) {
                    partitions.push(self::partition(&stream, partition, holders.get(&at).copied(), committed));
                }
            }
        }
        let lag = partitions.iter().map(|partition| partition.lag).sum();
        Ok(GroupInfo {
            name: group.name.clone(),
            state: group.state(),
            version: group.version,
            members,
            partitions,
            lag,
        })
    }

    /// What has happened in the groups since the start, and how many there are.
    pub fn group_stats(&self) -> GroupStats {
        self.groups().stats()
    }

    /// The names of the streams of these numbers that are there, each once: whoever asks for something in them must be
    /// allowed to.
    pub fn stream_names(&self, partitions: &[StreamPartition]) -> Vec<String> {
        let ids: BTreeSet<u64> = partitions.iter().map(|at| at.stream).collect();
        let found = ids.into_iter().filter_map(|id| self.stream_by_id(millstream_protocol::StreamId(id)).ok());
        found.map(|stream| stream.name.clone()).collect()
    }
}

fn partition(
    stream: &Stream,
    partition: &Partition,
    member: Option<u64>,
    committed: Option<Committed>,
) -> GroupPartition {
    let (log_start, high_watermark) = (partition.log_start(), partition.high_watermark());
    let offset = committed.as_ref().map(|committed| committed.offset);
    let PartitionId(number) = partition.id();
    GroupPartition {
        stream: stream.name.clone(),
        at: StreamPartition { stream: stream.id.0, partition: number },
        member,
        committed: offset,
        committed_ms: committed.as_ref().map_or(0, |committed| committed.committed_ms),
        log_start: log_start.0,
        high_watermark: high_watermark.0,
        lag: offsets::lag(offset, log_start, high_watermark),
        metadata: committed.map(|committed| committed.metadata).unwrap_or_default(),
    }
}
