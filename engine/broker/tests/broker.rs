//! The catalog's shell on a real directory: what it says is there after a restart, what is deleted is gone, and what a cut
//! creation leaves is set aside.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::fs;

use millstream_broker::{Broker, BrokerConfig, BrokerError};
use millstream_log::LogError;
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::frame::control::{Compaction, CreateMode, PartitionState, StreamConfig};
use millstream_protocol::{Code, Offset, PartitionId, Record, StreamId};

fn batch() -> BatchView {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&Record::new("x")).unwrap();
    BatchView::parse(&builder.finish().unwrap()).unwrap()
}

#[test]
fn streams_and_their_records_are_there_after_a_restart_and_deleted_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig::new(dir.path());
    let broker = Broker::open(config.clone()).unwrap();
    let id = broker.server_id();
    let flights = broker.create_stream("flights", 3, StreamConfig::default(), CreateMode::Explicit).unwrap();
    let trains = broker.create_stream("trains", 1, StreamConfig::default(), CreateMode::Explicit).unwrap();
    let partition = flights.partition(PartitionId(2)).unwrap();
    partition.append_wait(batch()).unwrap();
    let epoch = partition.epoch();

    let reader = trains.partition(PartitionId(0)).unwrap().clone();
    reader.append_wait(batch()).unwrap();
    broker.delete_stream("trains").unwrap();
    assert!(matches!(reader.read(Offset(0), 1), Err(LogError::Deleted)));
    assert!(matches!(reader.append_wait(batch()), Err(LogError::Deleted)));
    assert!(matches!(trains.partition(PartitionId(0)), Err(BrokerError::StreamDeleted(_))));
    assert!(matches!(broker.stream_by_id(trains.id), Err(BrokerError::StreamDeleted(_))));
    assert_eq!(broker.stream_by_id(StreamId(99)).unwrap_err().code(), Code::UnknownStream);
    assert_eq!(fs::read_dir(dir.path().join("streams")).unwrap().count(), 1, "its files are gone");
    assert!(matches!(Broker::open(config.clone()), Err(BrokerError::Log(LogError::Locked { .. }))));
    broker.close().unwrap();
    assert!(matches!(partition.append_wait(batch()), Err(LogError::Closed)));

    // The directory is free although handles of the closed broker are still held.
    let reopened = Broker::open(config).unwrap();
    drop((trains, reader, broker));
    let broker = reopened;
    assert_eq!(broker.server_id(), id);
    let flights = broker.stream("flights").unwrap();
    let partition = flights.partition(PartitionId(2)).unwrap();
    assert_eq!(partition.high_watermark(), Offset(1));
    assert!(partition.epoch() > epoch, "each start is a new epoch");
    assert!(matches!(broker.stream("trains"), Err(BrokerError::UnknownStream(_))));
    let again = broker.create_stream("trains", 1, StreamConfig::default(), CreateMode::Explicit).unwrap();
    assert!(again.id > flights.id, "a number is never given twice");
    assert_eq!(again.partition(PartitionId(0)).unwrap().high_watermark(), Offset(0));
}

#[test]
fn automatic_creation_finds_what_exists_and_may_be_forbidden() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(BrokerConfig::new(dir.path())).unwrap();
    let first = broker.create_stream("s", 4, StreamConfig::default(), CreateMode::Automatic).unwrap();
    let second = broker.create_stream("s", 1, StreamConfig::default(), CreateMode::Automatic).unwrap();
    assert_eq!(first.id, second.id);
    drop(broker);
    let config = BrokerConfig { auto_create_streams: false, ..BrokerConfig::new(dir.path()) };
    let broker = Broker::open(config).unwrap();
    assert!(broker.create_stream("s", 4, StreamConfig::default(), CreateMode::Automatic).is_ok(), "it exists");
    let error = broker.create_stream("t", 4, StreamConfig::default(), CreateMode::Automatic).unwrap_err();
    assert!(matches!(error, BrokerError::AutoCreateForbidden(_)));
    for name in ["", "../x", &"a".repeat(300)] {
        let error = broker.create_stream(name, 1, StreamConfig::default(), CreateMode::Explicit).unwrap_err();
        assert_eq!(error.code(), Code::IllegalName);
        assert_eq!(broker.stream(name).unwrap_err().code(), Code::IllegalName);
    }
}

#[test]
fn a_partition_whose_directory_is_gone_is_offline_and_the_others_work() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(BrokerConfig::new(dir.path())).unwrap();
    let stream = broker.create_stream("s", 2, StreamConfig::default(), CreateMode::Explicit).unwrap();
    let stream_dir = dir.path().join("streams").join(format!("{:010}", stream.id.0));
    drop((stream, broker));
    let mut names: Vec<_> = fs::read_dir(&stream_dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    fs::remove_dir_all(&names[0]).unwrap();
    // And what a creation that was cut short leaves.
    fs::create_dir_all(dir.path().join("streams/0000000077/00000-00000000000000aa")).unwrap();
    let broker = Broker::open(BrokerConfig::new(dir.path())).unwrap();
    let stream = broker.stream("s").unwrap();
    assert_eq!(stream.partition(PartitionId(0)).unwrap_err().code(), Code::RecordsLost);
    assert!(stream.partition(PartitionId(1)).unwrap().append_wait(batch()).is_ok());
    let states: Vec<_> = stream.info().partitions.iter().map(|partition| partition.state).collect();
    assert_eq!(states, [PartitionState::Offline, PartitionState::Online]);
    assert!(!dir.path().join("streams/0000000077").exists());
    assert!(dir.path().join("quarantine/stream-0000000077").exists());
}

#[test]
fn a_compacted_stream_keeps_the_latest_record_of_each_key_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig::new(dir.path());
    let broker = Broker::open(config.clone()).unwrap();
    let settings = StreamConfig { segment_bytes: 1 << 20, ..StreamConfig::compacted(Compaction::default()) };
    let stream = broker.create_stream("latest", 1, settings.clone(), CreateMode::Explicit).unwrap();
    let plain = broker.create_stream(
        "plain",
        1,
        StreamConfig { cleanup: Default::default(), ..settings },
        CreateMode::Explicit,
    );
    let partitions = [&stream, &plain.unwrap()].map(|stream| stream.partition(PartitionId(0)).unwrap().clone());
    for _ in 0..3 {
        for partition in &partitions {
            let mut builder = BatchBuilder::new(Codec::None);
            builder.push(&Record::new(vec![7; 600 << 10]).key("k")).unwrap();
            partition.append_wait(BatchView::parse(&builder.finish().unwrap()).unwrap()).unwrap();
        }
    }
    broker.run_compaction();
    let sizes = partitions.each_ref().map(|partition| partition.size_bytes());
    assert!(sizes[0] < 1_300 << 10 && sizes[1] > 1_700 << 10, "{sizes:?}");
    drop((partitions, stream));
    broker.close().unwrap();
    drop(broker);
    let broker = Broker::open(config).unwrap();
    let stream = broker.stream("latest").unwrap();
    assert!(stream.config.is_compacted());
    let partition = stream.partition(PartitionId(0)).unwrap();
    assert_eq!((partition.size_bytes(), partition.high_watermark()), (sizes[0], Offset(3)));
    broker.run_compaction();
}
