//! The catalog against a model that is slow and obviously right, over random inputs; its snapshots and its events must
//! give the same state again.
//! Operations: create and delete streams, add and remove lakes, files gone, name producers. After each: names unique, numbers never given
//! twice, no lake without its stream, replay equals state.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::{BTreeMap, BTreeSet};

use millstream_broker::catalog::{Catalog, Event, Input};
use millstream_log::Machine;
use millstream_protocol::frame::control::{Compaction, LakeConfig, LakeFormat, StreamConfig};
use millstream_protocol::limits::PRODUCER_NAMES_MAX;
use millstream_protocol::{Code, Incarnation, ProducerId, StreamId, Timestamp};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    CreateStream(u8),
    DeleteStream(u8),
    FilesRemoved(u64),
    CreateLake(u8, u8),
    RemoveLake(u8),
    /// The name's number and the id's.
    NameProducer(u8, u64),
}

#[derive(Default)]
struct Model {
    producers: BTreeMap<String, u64>,
    streams: BTreeMap<String, u64>,
    lakes: BTreeMap<String, String>,
    numbers: BTreeSet<u64>,
}

fn operations() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        (0..5u8).prop_map(Op::CreateStream),
        (0..5u8).prop_map(Op::DeleteStream),
        (0..20u64).prop_map(Op::FilesRemoved),
        (0..4u8, 0..5u8).prop_map(|(lake, stream)| Op::CreateLake(lake, stream)),
        (0..4u8).prop_map(Op::RemoveLake),
        (0..4u8, any::<u64>()).prop_map(|(name, id)| Op::NameProducer(name, id)),
    ];
    prop::collection::vec(op, 0..60)
}

fn input(op: &Op) -> Input {
    match *op {
        Op::CreateStream(n) => Input::CreateStream {
            name: format!("s{n}"),
            config: StreamConfig::default(),
            incarnations: vec![Incarnation(u64::from(n)); 2],
            now: Timestamp(5),
        },
        Op::DeleteStream(n) => Input::DeleteStream { name: format!("s{n}") },
        Op::FilesRemoved(id) => Input::StreamFilesRemoved { id: StreamId(id) },
        Op::CreateLake(lake, stream) => Input::CreateLake { config: lake_config(lake, stream) },
        Op::RemoveLake(n) => Input::RemoveLake { name: format!("l{n}") },
        Op::NameProducer(n, id) => Input::NameProducer { name: format!("p{n}"), id: ProducerId(id) },
    }
}

fn lake_config(lake: u8, stream: u8) -> LakeConfig {
    LakeConfig {
        name: format!("l{lake}"),
        stream: format!("s{stream}"),
        url: "file:///tmp/x".to_owned(),
        format: LakeFormat::Parquet,
        roll_bytes: 64 << 20,
        roll_age_ms: 60_000,
    }
}

impl Model {
    /// What must come of an operation: a code, or done.
    fn run(&mut self, op: &Op, events: &[Event]) -> Result<(), Code> {
        match op {
            Op::CreateStream(n) => {
                let name = format!("s{n}");
                if self.streams.contains_key(&name) {
                    return Err(Code::StreamExists);
                }
                let id = match events {
                    [Event::StreamCreated { id, .. }] => *id,
                    other => panic!("{other:?}"),
                };
                assert!(self.numbers.insert(id), "number {id} was given before");
                self.streams.insert(name, id);
            }
            Op::DeleteStream(n) => {
                let name = format!("s{n}");
                if !self.streams.contains_key(&name) {
                    return Err(Code::UnknownStream);
                }
                if self.lakes.values().any(|stream| *stream == name) {
                    return Err(Code::StreamInUse);
                }
                self.streams.remove(&name);
            }
            Op::FilesRemoved(_) => {}
            Op::CreateLake(lake, stream) => {
                let (lake, stream) = (format!("l{lake}"), format!("s{stream}"));
                if !self.streams.contains_key(&stream) {
                    return Err(Code::UnknownStream);
                }
                if self.lakes.contains_key(&lake) {
                    return Err(Code::LakeExists);
                }
                match events {
                    [Event::LakeCreated { id, .. }] => assert!(self.numbers.insert(*id)),
                    other => panic!("{other:?}"),
                }
                self.lakes.insert(lake, stream);
            }
            Op::RemoveLake(n) => {
                if self.lakes.remove(&format!("l{n}")).is_none() {
                    return Err(Code::UnknownLake);
                }
            }
            Op::NameProducer(n, id) => {
                self.producers.insert(format!("p{n}"), *id);
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn the_catalog_agrees_with_its_model_and_comes_back_from_events_and_snapshots(ops in operations()) {
        let (mut catalog, mut model, mut log) = (Catalog::default(), Model::default(), Vec::new());
        let mut image = (Vec::new(), 0);
        for op in &ops {
            let (events, result) = match catalog.step(input(op)) {
                Ok(events) => (events, Ok(())),
                Err(error) => (Vec::new(), Err(error.code())),
            };
            prop_assert_eq!(result, model.run(op, &events), "{:?}", op);
            for event in events {
                let bytes = Catalog::encode_event(&event);
                prop_assert_eq!(&Catalog::decode_event(&bytes).unwrap(), &event);
                catalog.apply(&event);
                log.push(event);
            }
            let streams: Vec<&str> = catalog.streams().map(|(name, _)| name).collect();
            prop_assert_eq!(streams, model.streams.keys().map(String::as_str).collect::<Vec<_>>());
            let lakes: Vec<&str> = catalog.lakes().map(|lake| lake.config.name.as_str()).collect();
            prop_assert_eq!(lakes, model.lakes.keys().map(String::as_str).collect::<Vec<_>>());
            let producers: Vec<_> = catalog.producers().map(|(name, id)| (name.to_owned(), id.0)).collect();
            prop_assert_eq!(producers, model.producers.clone().into_iter().collect::<Vec<_>>());
            if log.len() % 7 == 3 {
                image = (catalog.encode_snapshot(), log.len());
            }
        }
        let mut replayed = match image.0.is_empty() {
            true => Catalog::default(),
            false => Catalog::decode_snapshot(&image.0).unwrap(),
        };
        log[image.1..].iter().for_each(|event| replayed.apply(event));
        prop_assert_eq!(replayed, catalog);
    }

    #[test]
    fn hostile_events_and_snapshots_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Catalog::decode_event(&bytes);
        let _ = Catalog::decode_snapshot(&bytes);
        let mut versioned = vec![1];
        versioned.extend_from_slice(&bytes);
        let _ = Catalog::decode_event(&versioned);
        let _ = Catalog::decode_snapshot(&versioned);
    }
}

#[test]
fn each_setting_outside_its_range_is_named() {
    let catalog = Catalog::default();
    let create = |partitions: usize, config: StreamConfig| {
        let incarnations = vec![Incarnation(1); partitions];
        catalog.step(Input::CreateStream { name: "s".to_owned(), config, incarnations, now: Timestamp(0) })
    };
    let config = StreamConfig::default;
    let with = StreamConfig::compacted;
    let compacted = || with(Compaction::default());
    for (refused, setting) in [
        (create(0, config()), "partitions"),
        (create(10_001, config()), "partitions"),
        (create(1, StreamConfig { segment_bytes: 1, ..config() }), "segment_bytes"),
        (create(1, StreamConfig { record_bytes_max: 0, ..config() }), "record_bytes_max"),
        (create(1, StreamConfig { record_bytes_max: 9 << 20, ..config() }), "record_bytes_max"),
        (create(1, StreamConfig { retention_ms: Some(1), ..config() }), "retention_ms"),
        (create(1, StreamConfig { retention_bytes: Some(0), ..config() }), "retention_bytes"),
        (create(1, StreamConfig { retention_ms: Some(86_400_000), ..compacted() }), "retention_ms"),
        (create(1, StreamConfig { retention_bytes: Some(1 << 30), ..compacted() }), "retention_bytes"),
        (create(1, with(Compaction { delete_retention_ms: u64::MAX, ..Default::default() })), "delete_retention_ms"),
        (
            create(1, with(Compaction { min_compaction_lag_ms: u64::MAX, ..Default::default() })),
            "min_compaction_lag_ms",
        ),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.code(), Code::IllegalSetting);
        assert!(error.to_string().starts_with(setting), "{error}");
    }
    assert!(create(10_000, config()).is_ok());
    assert!(create(1, compacted()).is_ok());
}

#[test]
fn the_producer_named_longest_ago_is_forgotten_when_there_are_too_many() {
    let mut catalog = Catalog::default();
    let mut name = |name: String, id: u64| {
        let events = catalog.step(Input::NameProducer { name, id: ProducerId(id) }).unwrap();
        events.iter().for_each(|event| catalog.apply(event));
        let [Event::ProducerNamed { forgotten, .. }] = events.as_slice() else { panic!("{events:?}") };
        (forgotten.clone(), catalog.producers().count())
    };
    for n in 0..PRODUCER_NAMES_MAX as u64 {
        assert_eq!(name(format!("p{n}"), n), (None, n as usize + 1));
    }
    let max = PRODUCER_NAMES_MAX;
    assert_eq!(name("p0".to_owned(), 20_000), (None, max), "a name that is there takes no other's place");
    assert_eq!(name("new".to_owned(), 20_001), (Some("p1".to_owned()), max), "p0 was named since");
    assert_eq!(name("p1".to_owned(), 20_002), (Some("p2".to_owned()), max));
    assert_eq!(
        catalog.step(Input::NameProducer { name: "No".into(), id: ProducerId(1) }).unwrap_err().code(),
        Code::IllegalName
    );
}
