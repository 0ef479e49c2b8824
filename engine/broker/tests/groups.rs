//! The groups' shell on a real directory: commits against hand-overs, and what a start puts right.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use millstream_broker::group::offsets::{self, Committed};
use millstream_broker::{Broker, BrokerConfig, Heartbeat, Stream};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::frame::control::{CreateMode, StreamConfig};
use millstream_protocol::frame::group::{
    Assignment, GroupHeartbeat, GroupJoin, GroupReset, OffsetCommit, ResetTo, StreamPartition,
};
use millstream_protocol::{Code, PartitionId, Record};

const GROUP: &str = "readers";

fn stream(broker: &Broker, partitions: u32, records: u64) -> Arc<Stream> {
    let stream = broker.create_stream("flights", partitions, StreamConfig::default(), CreateMode::Explicit).unwrap();
    for partition in stream.partitions() {
        let mut builder = BatchBuilder::new(Codec::None);
        (0..records).for_each(|_| builder.push(&Record::new("x")).unwrap());
        partition.as_ref().unwrap().append_wait(BatchView::parse(&builder.finish().unwrap()).unwrap()).unwrap();
    }
    stream
}

fn join(broker: &Broker, member: u64) -> Assignment {
    let join = GroupJoin {
        group: GROUP.into(),
        member,
        instance: None,
        streams: vec!["flights".into()],
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 60_000,
        client: "tests".into(),
    };
    broker.join_group(&join).unwrap().assignment.unwrap()
}

fn beat(member: u64, seen: u32, applied: u32) -> GroupHeartbeat {
    GroupHeartbeat { group: GROUP.into(), member, seen, applied, wait_ms: 0 }
}

/// What a member hears in answer to a heartbeat that confirms `applied`.
fn hear(broker: &Broker, member: u64, seen: u32, applied: u32) -> Option<Assignment> {
    let beat = beat(member, seen, applied);
    match broker.heartbeat_group(&beat) {
        Heartbeat::Waits { answer, .. } => answer.assignment,
        Heartbeat::Due => broker.answer_heartbeat(&beat).unwrap().assignment,
    }
}

fn commit(at: StreamPartition, epoch: u32, offset: u64) -> OffsetCommit {
    OffsetCommit { at, epoch, offset, batch_epoch: None, metadata: String::new() }
}

fn fetch(broker: &Broker, at: StreamPartition) -> Option<u64> {
    broker.fetch_offsets(GROUP, &[at]).unwrap()[0].offset
}

fn reset(broker: &Broker, group: &str, to: ResetTo) {
    let (group, stream) = (group.to_owned(), "flights".to_owned());
    broker.reset_group(&GroupReset { group, stream, partitions: vec![], to, dry_run: false }).unwrap();
}

#[test]
fn no_commit_of_the_one_before_is_taken_after_the_next_one_has_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(BrokerConfig::new(dir.path())).unwrap();
    let stream = stream(&broker, 1, 100_000);
    let at = StreamPartition { stream: stream.id.0, partition: 0 };
    let mut holder = (1, join(&broker, 1));
    for round in 0..30 {
        let (member, epoch) = (holder.0, holder.1.partitions[0].epoch);
        let from = fetch(&broker, at).unwrap_or(0);
        let committing = std::thread::spawn({
            let broker = broker.clone();
            move || {
                for offset in from + 1.. {
                    let result = broker.commit_offsets(GROUP, Some(member), &[commit(at, epoch, offset)]);
                    match result.map(|results| Code::from_number(results[0].code)) {
                        // 0 is no code: stored.
                        Ok(Code::Internal) => {}
                        Ok(code) => return (offset, code),
                        Err(error) => return (offset, error.code()),
                    }
                }
                unreachable!("the partition was handed over")
            }
        });
        let next = member + 1;
        let told = join(&broker, next);
        assert_eq!(told.partitions, [], "it is still in the other's hands");
        while fetch(&broker, at) == Some(from) || fetch(&broker, at).is_none() {
            // The old one is at work.
            std::thread::yield_now();
        }
        // Every other time it leaves instead of confirming. Targets stay with the old one while it is there, so it leaves in
        // the end either way.
        if round % 2 == 0 {
            let version = holder.1.version;
            assert!(hear(&broker, member, version, version).is_none());
        }
        broker.leave_group(GROUP, member, true).unwrap();
        let assignment = hear(&broker, next, told.version, told.version).expect("it is the next one's now");
        let fetched = fetch(&broker, at);
        let (refused, code) = committing.join().unwrap();
        assert!(matches!(code, Code::UnknownMember | Code::StaleEpoch), "{code}");
        assert_eq!(fetch(&broker, at), fetched, "a commit came after the hand-over");
        assert_eq!(fetched, Some(refused - 1), "what was answered is there, what was refused is not");
        holder = (next, assignment);
    }
    broker.close().unwrap();
}

#[test]
fn commits_to_many_partitions_are_each_for_itself_in_the_order_given() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(BrokerConfig::new(dir.path())).unwrap();
    stream(&broker, 40, 5);
    let assignment = join(&broker, 1);
    let commits: Vec<OffsetCommit> = assignment
        .partitions
        .iter()
        .map(|held| commit(held.at, held.epoch, if held.at.partition % 3 == 0 { 6 } else { 4 }))
        .collect();
    let results = broker.commit_offsets(GROUP, Some(1), &commits).unwrap();
    assert_eq!(results.len(), 40);
    for (result, commit) in results.iter().zip(&commits) {
        assert_eq!(result.at, commit.at);
        let stored = commit.offset == 4;
        assert_eq!(result.code, if stored { 0 } else { Code::CommitPastEnd.number() });
        assert_eq!(fetch(&broker, commit.at), stored.then_some(4));
    }
    let stats = broker.group_stats();
    assert_eq!((stats.groups, stats.members, stats.commits, stats.commits_refused), (1, 1, 26, 14));
    broker.close().unwrap();
}

#[test]
fn a_committed_offset_above_the_end_of_the_log_is_cut_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig::new(dir.path());
    let broker = Broker::open(config.clone()).unwrap();
    let stream = stream(&broker, 2, 5);
    reset(&broker, GROUP, ResetTo::Latest);
    // As a log leaves it that lost its tail: the commit is there, the records below it are not.
    let lost = Committed { offset: 9, batch_epoch: Some(1), metadata: "m".into(), committed_ms: 7, epoch: 3 };
    let partition = stream.partition(PartitionId(1)).unwrap();
    let key = partition.state_read(|table| table.below("group/").next().unwrap().0.to_owned()).unwrap();
    partition.state_put(&key, Some(&lost.encode())).unwrap();
    broker.close().unwrap();

    let broker = Broker::open(config).unwrap();
    let partitions: Vec<StreamPartition> =
        (0..2).map(|partition| StreamPartition { stream: stream.id.0, partition }).collect();
    let offsets = broker.fetch_offsets(GROUP, &partitions).unwrap();
    assert_eq!(offsets.iter().map(|offset| offset.offset).collect::<Vec<_>>(), [Some(5), Some(5)]);
    assert_eq!((offsets[1].batch_epoch, &*offsets[1].metadata), (None, "m"));
    broker.close().unwrap();
}

#[test]
fn the_deletion_of_a_group_goes_on_at_a_start_where_it_could_not_end() {
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig::new(dir.path());
    let broker = Broker::open(config.clone()).unwrap();
    let stream = stream(&broker, 2, 5);
    reset(&broker, GROUP, ResetTo::Latest);
    reset(&broker, "others", ResetTo::Latest);
    broker.close().unwrap();

    // One partition is away while the group is deleted.
    let streams = dir.path().join("streams").join(format!("{:010}", stream.id.0));
    let away = fs::read_dir(&streams).unwrap().map(|entry| entry.unwrap().path());
    let away = away.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with("00001")).unwrap();
    let aside = dir.path().join("streams-aside");
    fs::rename(&away, &aside).unwrap();
    let broker = Broker::open(config.clone()).unwrap();
    broker.delete_group(GROUP).unwrap();
    broker.close().unwrap();
    fs::rename(&aside, &away).unwrap();

    let broker = Broker::open(config.clone()).unwrap();
    let left = |broker: &Broker| -> usize {
        let stream = broker.stream("flights").unwrap();
        let count = |partition: u32| {
            stream.partition(PartitionId(partition)).unwrap().state_read(|table| offsets::all(table).len()).unwrap()
        };
        count(0) + count(1)
    };
    assert_eq!(left(&broker), 2, "those of the other group");
    assert_eq!(broker.list_groups().unwrap().len(), 1);
    // A group of that name is another one.
    join(&broker, 1);
    assert_eq!(fetch(&broker, StreamPartition { stream: stream.id.0, partition: 1 }), None);
    broker.close().unwrap();
}

#[test]
fn a_group_in_use_without_members_stays_and_one_that_is_not_goes() {
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig { offsets_retention: Some(Duration::from_millis(400)), ..BrokerConfig::new(dir.path()) };
    let broker = Broker::open(config).unwrap();
    let stream = stream(&broker, 1, 5);
    let at = StreamPartition { stream: stream.id.0, partition: 0 };
    reset(&broker, GROUP, ResetTo::Earliest);
    reset(&broker, "idle", ResetTo::Earliest);
    while broker.list_groups().unwrap().len() == 2 {
        // It commits, being no member.
        let stored = broker.commit_offsets(GROUP, None, &[commit(at, 0, 3)]).unwrap();
        assert_eq!(stored[0].code, 0);
        broker.tick_groups();
    }
    assert_eq!(broker.list_groups().unwrap()[0].name, GROUP);
    assert_eq!(fetch(&broker, at), Some(3));
    broker.close().unwrap();
}
