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
