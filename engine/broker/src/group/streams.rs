//! Streams come, go and grow: the groups are told.
//!
//! The catalog comes first, the groups after it. A start that finds them apart (it was cut short in between) brings them
//! together.

use std::collections::BTreeSet;

use millstream_protocol::StreamId;

use super::event::StreamCount;
use super::state::Groups;
use super::step::Input;
use crate::broker::Broker;
use crate::error::BrokerError;

/// Groups told in one update: each may answer with as many changes as the stream has partitions, and an update is one batch.
const GROUPS_AT_ONCE: usize = 8;

impl Broker {
    /// Tells the groups that read it that a stream has so many partitions; 0: it is gone. If they cannot be told now, they are
    /// at the next start; what is gone is refused in the meantime by its partitions themselves.
    pub(crate) fn tell_groups(&self, name: &str, id: StreamId, partitions: u32) {
        let stream = StreamCount { name: name.to_owned(), id: id.0, partitions };
        if let Err(error) = self.try_tell_groups(&stream) {
            tracing::warn!(stream = name, %error, "the groups were not told of a stream: the next start does it");
        }
    }

    fn try_tell_groups(&self, stream: &StreamCount) -> Result<(), BrokerError> {
        let concerned = |groups: &Groups| -> Vec<u64> {
            let concerned =
                groups.iter().filter(|group| group.streams.contains_key(&stream.id) || group.reads(&stream.name));
            concerned.map(|group| group.id).collect()
        };
        for groups in self.groups().machine.read(concerned).chunks(GROUPS_AT_ONCE) {
            let input = Input::StreamChanged { groups: groups.to_vec(), stream: stream.clone() };
            self.groups().change(&input, || Ok(()))?;
        }
        Ok(())
    }

    /// At a start: what the groups know of streams is made what the catalog knows.
    pub(crate) fn tell_groups_of_all_streams(&self) {
        let (known, wanted) = self.groups().machine.read(|groups| {
            let known: BTreeSet<(String, u64)> =
                groups.iter().flat_map(|group| group.streams()).map(|(id, s)| (s.name.clone(), id)).collect();
            let members = groups.iter().flat_map(|group| group.members());
            let wanted: BTreeSet<String> =
                members.flat_map(|(_, member)| member.settings.streams.iter().cloned()).collect();
            (known, wanted)
        });
        for (name, id) in known {
            if self.stream_by_id(StreamId(id)).is_err() {
                self.tell_groups(&name, StreamId(id), 0);
            }
        }
        for stream in wanted.iter().filter_map(|name| self.stream(name).ok()) {
            self.tell_groups(&stream.name, stream.id, stream.partitions().len() as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BrokerConfig;
    use millstream_protocol::frame::control::{CreateMode, StreamConfig};
    use millstream_protocol::frame::group::{GroupHeartbeat, GroupJoin};

    #[test]
    fn groups_that_know_other_streams_than_the_catalog_are_put_right_at_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let config = BrokerConfig::new(dir.path());
        let join = |streams: &[&str]| GroupJoin {
            group: "readers".into(),
            member: 1,
            instance: None,
            streams: streams.iter().map(|name| (*name).to_owned()).collect(),
            session_timeout_ms: 30_000,
            rebalance_timeout_ms: 30_000,
            client: String::new(),
        };
        let broker = Broker::open(config.clone()).unwrap();
        for (name, partitions) in [("flights", 3), ("trains", 2)] {
            broker.create_stream(name, partitions, StreamConfig::default(), CreateMode::Explicit).unwrap();
        }
        broker.join_group(&join(&["flights", "trains"])).unwrap();
        // One stream has grown since, the other was made anew: the groups were told of neither.
        let trains = broker.stream("trains").unwrap().id;
        broker.tell_groups("flights", broker.stream("flights").unwrap().id, 1);
        broker.tell_groups("trains", trains, 0);
        broker.tell_groups("trains", StreamId(99), 7);
        broker.close().unwrap();

        let broker = Broker::open(config).unwrap();
        let (group, member) = ("readers".to_owned(), 1);
        let beat = GroupHeartbeat { group, member, seen: 0, applied: 0, wait_ms: 0 };
        let assignment = broker.answer_heartbeat(&beat).unwrap().assignment.unwrap();
        let of = |id: StreamId| assignment.partitions.iter().filter(|held| held.at.stream == id.0).count();
        assert_eq!((of(broker.stream("flights").unwrap().id), of(trains), assignment.partitions.len()), (3, 2, 5));
        broker.close().unwrap();
    }
}
