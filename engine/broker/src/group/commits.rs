//! Offsets' side of the shell: commit, fetch, reset, delete.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millstream_log::{LogError, Partition, StateTable, TableEvent};
use millstream_protocol::frame::group::{
    CommitResult, CommittedOffset, GroupReset, OffsetCommit, ResetTo, StreamPartition,
};
use millstream_protocol::limits::{COMMIT_METADATA_BYTES_MAX, OFFSETS_PER_REQUEST_MAX};
use millstream_protocol::names::check_name;
use millstream_protocol::{Offset, PartitionId, StreamId, Timestamp};

use super::offsets::{self, Committed};
use super::step::Input;
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::stream::Stream;

/// Partitions whose state is changed at once by one request: their syncs are shared, and one waits for the other.
const AT_ONCE: usize = 8;

impl Broker {
    /// Commits offsets, each partition for itself: those that say so are durable. `member` is `None` for who is no member,
    /// which is legal while the group has none. Blocks.
    ///
    /// # Errors
    /// For all of them: [`BrokerError::UnknownGroup`], [`BrokerError::UnknownMember`], [`BrokerError::MemberFenced`],
    /// [`BrokerError::GroupNotEmpty`], [`BrokerError::IllegalSetting`] (how many). For each:
    /// [`BrokerError::StaleEpoch`], [`BrokerError::CommitPastEnd`], [`BrokerError::IllegalSetting`] (the metadata),
    /// [`BrokerError::UnknownPartition`], [`BrokerError::StreamDeleted`]; the log's.
    pub fn commit_offsets(
        &self,
        group: &str,
        member: Option<u64>,
        commits: &[OffsetCommit],
    ) -> Result<Vec<CommitResult>, BrokerError> {
        let counters = &self.groups().counters;
        let check = || {
            check_count(commits.iter().map(|commit| commit.at))?;
            self.groups().read(|groups| {
                let group = groups.find(group)?;
                member.map_or_else(|| group.check_empty(), |member| group.member(member).map(drop))
            })?
        };
        if let Err(error) = check() {
            counters.commits_refused.fetch_add(commits.len() as u64, Ordering::Relaxed);
            return Err(error);
        }
        let results = in_parallel(commits, |commit| match self.commit_one(group, member, commit) {
            Ok(()) => {
                counters.commits.fetch_add(1, Ordering::Relaxed);
                CommitResult { at: commit.at, code: 0, text: String::new() }
            }
            Err(error) => {
                counters.commits_refused.fetch_add(1, Ordering::Relaxed);
                CommitResult { at: commit.at, code: error.code().number(), text: error.to_string() }
            }
        });
        Ok(results)
    }

    fn commit_one(&self, group: &str, member: Option<u64>, commit: &OffsetCommit) -> Result<(), BrokerError> {
        let (stream, partition) = self.partition_at(commit.at)?;
        let _kept = stream.keep_all();
        if commit.metadata.len() > COMMIT_METADATA_BYTES_MAX {
            return Err(BrokerError::IllegalSetting {
                setting: "the length of a commit's metadata",
                value: commit.metadata.len().to_string(),
                legal: format!("0 to {COMMIT_METADATA_BYTES_MAX} bytes"),
            });
        }
        let committed = Committed {
            offset: commit.offset,
            batch_epoch: commit.batch_epoch,
            metadata: commit.metadata.clone(),
            committed_ms: self.log().now().0,
            epoch: commit.epoch,
        };
        let value = committed.encode();
        partition.state_update(|_| {
            // Under the table's lock: see `offsets`.
            let id = self
                .groups()
                .machine
                .read(|groups| groups.check_commit(group, member, commit.at, commit.epoch).map(|group| group.id))?;
            let high_watermark = partition.high_watermark();
            if commit.offset > high_watermark.0 {
                return Err(BrokerError::CommitPastEnd {
                    stream: commit.at.stream,
                    partition: commit.at.partition,
                    offset: commit.offset,
                    high_watermark: high_watermark.0,
                });
            }
            Ok(vec![StateTable::event(&offsets::key(id), Some(&value))])
        })
    }

    /// Committed offsets in the order asked, as durable when this returns. Blocks while commits are in flight.
    ///
    /// # Errors
    /// [`BrokerError::UnknownGroup`], [`BrokerError::IllegalSetting`], [`BrokerError::UnknownPartition`],
    /// [`BrokerError::UnknownStream`], [`BrokerError::StreamDeleted`]; the log's.
    pub fn fetch_offsets(
        &self,
        group: &str,
        partitions: &[StreamPartition],
    ) -> Result<Vec<CommittedOffset>, BrokerError> {
        check_count(partitions.iter().copied())?;
        let id = self.groups().read(|groups| groups.find(group).map(|group| group.id))??;
        let fetch = |at: &StreamPartition| {
            let (_, partition) = self.partition_at(*at)?;
            Ok(answer(*at, committed_in(&partition, id)?))
        };
        partitions.iter().map(fetch).collect()
    }

    /// Moves the offsets of a group without members, or says where they would go; makes the group if it is not there. Blocks.
    ///
    /// # Errors
    /// Before anything is moved: [`BrokerError::GroupNotEmpty`], [`BrokerError::IllegalName`],
    /// [`BrokerError::UnknownStream`], [`BrokerError::UnknownPartition`], [`LogError::OffsetOutOfRange`]. Midway
    /// [`BrokerError::GroupNotEmpty`] if a member joins meanwhile; the log's.
    pub fn reset_group(&self, reset: &GroupReset) -> Result<Vec<CommittedOffset>, BrokerError> {
        check_name(&reset.group)?;
        let stream = self.stream(&reset.stream)?;
        let partitions = select(&stream, &reset.partitions)?;
        let _kept = stream.keep_all();
        let known = self.groups().read(|groups| match groups.find(&reset.group) {
            Ok(group) => group.check_empty().map(|()| Some(group.id)),
            Err(_) => Ok(None),
        })??;
        let goals = partitions.iter().map(|partition| goal(partition, known, reset.to));
        let goals: Vec<Offset> = goals.collect::<Result<_, _>>()?;
        let now = self.log().now();
        if !reset.dry_run {
            self.groups().change(&Input::Create { group: reset.group.clone(), now }, || Ok(()))?;
            let moves: Vec<(&Arc<Partition>, Offset)> = partitions.iter().copied().zip(goals.iter().copied()).collect();
            let moved = in_parallel(&moves, |(partition, goal)| self.move_offset(&reset.group, partition, *goal, now));
            moved.into_iter().collect::<Result<(), BrokerError>>()?;
        }
        let answers = partitions.iter().zip(goals).map(|(partition, goal)| CommittedOffset {
            at: StreamPartition { stream: stream.id.0, partition: partition.id().0 },
            offset: Some(goal.0),
            batch_epoch: None,
            metadata: String::new(),
        });
        Ok(answers.collect())
    }

    fn move_offset(
        &self,
        group: &str,
        partition: &Arc<Partition>,
        goal: Offset,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        let committed =
            Committed { offset: goal.0, batch_epoch: None, metadata: String::new(), committed_ms: now.0, epoch: 0 };
        let value = committed.encode();
        partition.state_update(|_| {
            let id = self.check_empty_group(group)?;
            Ok(vec![StateTable::event(&offsets::key(id), Some(&value))])
        })
    }

    /// Deletes the offsets of a group without members in one stream. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::UnknownGroup`], [`BrokerError::GroupNotEmpty`], [`BrokerError::UnknownStream`],
    /// [`BrokerError::UnknownPartition`]; the log's.
    pub fn delete_offsets(&self, group: &str, stream: &str, partitions: &[u32]) -> Result<(), BrokerError> {
        self.groups().read(|groups| groups.find(group)?.check_empty())??;
        let stream = self.stream(stream)?;
        let partitions = select(&stream, partitions)?;
        let removed = in_parallel(&partitions, |partition| {
            partition.state_update(|table| {
                let id = self.check_empty_group(group)?;
                Ok::<_, BrokerError>(removal(table, id))
            })
        });
        removed.into_iter().collect()
    }

    /// Deletes a group without members, and its offsets. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::UnknownGroup`], [`BrokerError::GroupNotEmpty`]; the log's.
    pub fn delete_group(&self, name: &str) -> Result<(), BrokerError> {
        let id = self.groups().read(|groups| groups.find(name).map(|group| group.id))??;
        self.groups().change(&Input::Delete { group: name.to_owned() }, || Ok(()))?;
        self.remove_offsets(id);
        Ok(())
    }

    /// Removes a deleted group's offsets. What cannot be removed now is removed at the next start: the group is gone all the
    /// same.
    pub(super) fn remove_offsets(&self, id: u64) {
        if !self.groups().machine.read(|groups| groups.leaving().any(|leaving| leaving == id)) {
            return;
        }
        let streams = self.streams();
        let is_all_online = streams.iter().all(|stream| stream.partitions().iter().all(Result::is_ok));
        let partitions: Vec<&Arc<Partition>> = streams.iter().flat_map(|stream| stream.online()).collect();
        let removed = in_parallel(&partitions, |partition| {
            // Looking is cheap, and most partitions have nothing of it.
            match partition.state_read(|table| removal(table, id).is_empty()) {
                Ok(true) => Ok(()),
                _ => partition.state_update(|table| Ok(removal(table, id))),
            }
        });
        let failed = removed.into_iter().find_map(|removed: Result<(), LogError>| removed.err());
        let done = match failed {
            None if is_all_online => self.groups().change(&Input::OffsetsRemoved { group: id }, || Ok(())),
            None => Ok(()),
            Some(LogError::Deleted) => Ok(()),
            Some(error) => Err(error.into()),
        };
        if let Err(error) = done {
            tracing::warn!(group = id, %error, "a deleted group's offsets were not all removed: the next start goes on");
        }
    }

    fn check_empty_group(&self, name: &str) -> Result<u64, BrokerError> {
        self.groups().machine.read(|groups| {
            let group = groups.find(name)?;
            group.check_empty().map(|()| group.id)
        })
    }

    /// At a start: offsets above the end of a log that lost its tail are cut to it, and those of groups that are no more are
    /// removed, as are those of groups whose deletion was cut short.
    pub(crate) fn recover_offsets(&self) {
        let mut cut = Vec::new();
        let mut foreign = BTreeSet::new();
        self.for_each_commit(|stream, partition, group, found| {
            let name = self.groups().machine.read(|groups| groups.group(group).map(|group| group.name.clone()));
            let (Some(name), end) = (name, partition.high_watermark()) else {
                foreign.insert(group);
                return;
            };
            match found {
                Ok(committed) if committed.offset > end.0 => {
                    tracing::warn!(group = name, stream = stream.name, partition = %partition.id(),
                        committed = committed.offset, %end,
                        "records below a committed offset are gone: the group goes on at the end of the log");
                    let at = StreamPartition { stream: stream.id.0, partition: partition.id().0 };
                    cut.push((at, group, Committed { offset: end.0, batch_epoch: None, ..committed }));
                }
                Ok(_) => {}
                Err(reason) => {
                    tracing::error!(group = name, stream = stream.name, partition = %partition.id(), reason,
                        "a committed offset cannot be read: reset the group's offsets in this stream");
                }
            }
        });
        for (at, group, committed) in cut {
            let value = committed.encode();
            let stored = self
                .partition_at(at)
                .and_then(|(_, partition)| Ok(partition.state_put(&offsets::key(group), Some(&value))?));
            if let Err(error) = stored {
                tracing::warn!(group, ?at, %error, "a committed offset was not cut to the end of the log");
            }
        }
        let leaving: BTreeSet<u64> = self.groups().machine.read(|groups| groups.leaving().collect());
        for group in foreign.difference(&leaving) {
            tracing::warn!(group, "offsets of a group that is not there are removed");
            for partition in self.streams().iter().flat_map(|stream| stream.online()) {
                let removed: Result<(), LogError> = partition.state_update(|table| Ok(removal(table, *group)));
                if let Err(error) = removed {
                    tracing::warn!(group, partition = %partition.id(), %error, "offsets were not removed");
                }
            }
        }
        leaving.into_iter().for_each(|group| self.remove_offsets(group));
    }

    fn partition_at(&self, at: StreamPartition) -> Result<(Arc<Stream>, Arc<Partition>), BrokerError> {
        let stream = self.stream_by_id(StreamId(at.stream))?;
        let partition = stream.partition(PartitionId(at.partition))?.clone();
        Ok((stream, partition))
    }
}

fn answer(at: StreamPartition, committed: Option<Committed>) -> CommittedOffset {
    match committed {
        Some(Committed { offset, batch_epoch, metadata, .. }) => {
            CommittedOffset { at, offset: Some(offset), batch_epoch, metadata }
        }
        None => CommittedOffset { at, offset: None, batch_epoch: None, metadata: String::new() },
    }
}

fn committed_in(partition: &Partition, group: u64) -> Result<Option<Committed>, LogError> {
    partition.state_read(|table| offsets::committed(table, group))?.map_err(|reason| LogError::StateDamaged {
        path: PathBuf::from(format!(
            "the committed offset in stream {}, partition {}",
            partition.stream(),
            partition.id()
        )),
        reason,
    })
}

fn removal(table: &StateTable, group: u64) -> Vec<TableEvent> {
    let key = offsets::key(group);
    let has = table.get(&key).is_some();
    has.then(|| StateTable::event(&key, None)).into_iter().collect()
}

/// Where a reset takes the group in a partition.
fn goal(partition: &Partition, group: Option<u64>, to: ResetTo) -> Result<Offset, BrokerError> {
    // An offset that cannot be read is no reason not to set it anew; only a shift needs to know it.
    let committed = match (group, to) {
        (Some(group), ResetTo::Shift(_)) => committed_in(partition, group)?,
        _ => None,
    };
    let at_time = match to {
        ResetTo::Time(time) => partition.offset_for_time(Timestamp(time))?,
        _ => Offset::ZERO,
    };
    let (log_start, high_watermark) = (partition.log_start(), partition.high_watermark());
    let goal = offsets::reset(to, committed.map(|committed| committed.offset), log_start, high_watermark, at_time);
    goal.map(Offset).ok_or_else(|| {
        let wanted = if let ResetTo::Offset(offset) = to { Offset(offset) } else { log_start };
        LogError::OffsetOutOfRange { wanted, log_start, high_watermark }.into()
    })
}

/// The partitions of those numbers, each once; of none: all.
fn select<'a>(stream: &'a Stream, partitions: &[u32]) -> Result<Vec<&'a Arc<Partition>>, BrokerError> {
    let wanted: BTreeSet<u32> = match partitions.is_empty() {
        true => (0..stream.partitions().len() as u32).collect(),
        false => partitions.iter().copied().collect(),
    };
    wanted.into_iter().map(|partition| stream.partition(PartitionId(partition))).collect()
}

fn check_count(partitions: impl ExactSizeIterator<Item = StreamPartition>) -> Result<(), BrokerError> {
    let count = partitions.len();
    let illegal = |value: String, legal: String| BrokerError::IllegalSetting {
        setting: "the number of partitions of a request",
        value,
        legal,
    };
    if !(1..=OFFSETS_PER_REQUEST_MAX).contains(&count) {
        return Err(illegal(count.to_string(), format!("1 to {OFFSETS_PER_REQUEST_MAX}")));
    }
    match partitions.collect::<BTreeSet<_>>().len() {
        distinct if distinct == count => Ok(()),
        distinct => {
            Err(illegal(format!("{count}, of which {distinct} are different"), "each partition once".to_owned()))
        }
    }
}

/// Works on many partitions at once, on a few threads: what each waits for is shared.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if items.len() <= 1 {
        return items.iter().map(work).collect();
    }
    let share = items.len().div_ceil(AT_ONCE);
    let work = &work;
    std::thread::scope(|scope| {
        let shares = items.chunks(share);
        let running: Vec<_> =
            shares.map(|share| scope.spawn(move || share.iter().map(work).collect::<Vec<R>>())).collect();
        let ended = running.into_iter().map(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.flatten().collect()
    })
}
