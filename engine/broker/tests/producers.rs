//! Producer ids and fences on a real directory: what a name's new producer costs the old one, and what a restart keeps.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use millstream_broker::{Broker, BrokerConfig, Stream};
use millstream_log::LogError;
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::frame::control::{CreateMode, NextSequence, StreamConfig};
use millstream_protocol::{Code, PartitionId, ProducerId, Record};

fn open(dir: &Path) -> Arc<Broker> {
    Broker::open(BrokerConfig::new(dir)).unwrap()
}

fn append(stream: &Stream, id: ProducerId, epoch: u32, base: u64) -> Result<u64, Code> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.producer(id, epoch, base);
    builder.push(&Record::new("x")).unwrap();
    let view = BatchView::parse(&builder.finish().unwrap()).unwrap();
    let partition = stream.partition(PartitionId(0)).unwrap();
    partition.append_wait(view).map(|appended| appended.base_offset.0).map_err(|error: LogError| error.code())
}

#[test]
fn ids_are_never_given_twice_not_even_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let broker = open(dir.path());
        for name in [None, Some("a"), None, Some("b"), Some("a")] {
            let id = broker.init_producer(name).unwrap();
            assert_eq!(id.0 >> 63 == 1, name.is_some());
            assert!(id.0 != 0 && seen.insert(id));
        }
        broker.close().unwrap();
    }
    assert_eq!(open(dir.path()).init_producer(Some("No")).unwrap_err().code(), Code::IllegalName);
}

#[test]
fn a_names_newer_producer_fences_the_older_one_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let stream = broker.create_stream("s", 1, StreamConfig::default(), CreateMode::Explicit).unwrap();
    let old = broker.init_producer(Some("sensor")).unwrap();
    let other = broker.init_producer(Some("other")).unwrap();
    assert_eq!(append(&stream, old, 0, 0), Ok(0));
    let new = broker.init_producer(Some("sensor")).unwrap();
    assert_eq!(append(&stream, old, 0, 1), Err(Code::Fenced));
    assert_eq!((append(&stream, new, 0, 0), append(&stream, other, 0, 0)), (Ok(1), Ok(2)));
    assert_eq!(broker.bump_producer(old, 0, stream.id).unwrap_err().code(), Code::Fenced);
    drop(stream);
    broker.close().unwrap();
    drop(broker);
    let broker = open(dir.path());
    let stream = broker.stream("s").unwrap();
    assert_eq!(append(&stream, old, 0, 1), Err(Code::Fenced));
    assert_eq!(append(&stream, new, 0, 1), Ok(3));
    broker.close().unwrap();
}

#[test]
fn a_bump_fences_the_epoch_and_says_where_to_go_on_as_often_as_it_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let stream = broker.create_stream("s", 2, StreamConfig::default(), CreateMode::Explicit).unwrap();
    let id = broker.init_producer(None).unwrap();
    assert_eq!((append(&stream, id, 0, 0), append(&stream, id, 0, 1)), (Ok(0), Ok(1)));
    let next = [NextSequence { partition: 0, next: Some(2) }, NextSequence { partition: 1, next: Some(0) }];
    for _ in 0..2 {
        assert_eq!(broker.bump_producer(id, 0, stream.id).unwrap(), (1, next.to_vec()));
    }
    assert_eq!(append(&stream, id, 0, 2), Err(Code::Fenced));
    assert_eq!(append(&stream, id, 1, 2), Ok(2));
    // One that was asked for long ago does no harm.
    broker.bump_producer(id, 0, stream.id).unwrap();
    assert_eq!(append(&stream, id, 1, 3), Ok(3));
    for unknown in [ProducerId(0), ProducerId(id.0 + 1), ProducerId(id.0 + (1 << 32)), ProducerId(7)] {
        assert_eq!(broker.bump_producer(unknown, 0, stream.id).unwrap_err().code(), Code::UnknownProducer, "{unknown}");
    }
    assert_eq!(broker.bump_producer(id, u32::MAX - 1, stream.id).unwrap_err().code(), Code::IllegalSetting);
    broker.close().unwrap();
}
