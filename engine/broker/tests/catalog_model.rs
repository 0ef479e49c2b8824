//! The catalog against a model that is slow and obviously right, over random inputs; its snapshots and its events must
//! give the same state again.
//! Operations: create and delete streams, add, alter and remove lakes, files gone, make, change, move and delete queues, name producers. After each: names unique, numbers never given
//! twice, no lake or queue without its streams, no circle of dead letters, replay equals state.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::{BTreeMap, BTreeSet};

use millstream_broker::catalog::{Catalog, Event, Input, LakeEntry, QueueEvent, QueueInput};
use millstream_log::Machine;
use millstream_protocol::frame::control::{
    Compaction, LakeColumns, LakeCompression, LakeConfig, LakeFormat, StreamConfig,
};
use millstream_protocol::frame::queue::{QueueBackoff, QueueConfig, QueueOrdering};
use millstream_protocol::limits::PRODUCER_NAMES_MAX;
use millstream_protocol::{Code, Incarnation, ProducerId, QueueId, StreamId, Timestamp};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    CreateStream(u8),
    DeleteStream(u8),
    FilesRemoved(u64),
    CreateLake(u8, u8),
    /// The lake, its stream, and another age.
    AlterLake(u8, u8, u64),
    RemoveLake(u8),
    /// The queue, its stream, its dead-letter stream.
    CreateQueue(u8, u8, Option<u8>),
    UpdateQueue(u8, Option<u8>),
    MoveQueue(u8),
    PauseQueue(u8, bool),
    DeleteQueue(u8),
    QueueFilesRemoved(u64),
    /// The name's number and the id's.
    NameProducer(u8, u64),
}

#[derive(Default)]
struct Model {
    producers: BTreeMap<String, u64>,
    streams: BTreeMap<String, u64>,
    /// Stream, roll age.
    lakes: BTreeMap<String, (String, u64)>,
    /// Stream, dead-letter stream, epoch, paused.
    queues: BTreeMap<String, (String, Option<String>, u32, bool)>,
    numbers: BTreeSet<u64>,
}

fn operations() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        (0..5u8).prop_map(Op::CreateStream),
        (0..5u8).prop_map(Op::DeleteStream),
        (0..20u64).prop_map(Op::FilesRemoved),
        (0..4u8, 0..5u8).prop_map(|(lake, stream)| Op::CreateLake(lake, stream)),
        (0..4u8, 0..5u8, 0..3u64).prop_map(|(lake, stream, age)| Op::AlterLake(lake, stream, age)),
        (0..4u8).prop_map(Op::RemoveLake),
        (0..4u8, 0..5u8, prop::option::of(0..5u8))
            .prop_map(|(queue, stream, dead)| Op::CreateQueue(queue, stream, dead)),
        (0..4u8, prop::option::of(0..5u8)).prop_map(|(queue, dead)| Op::UpdateQueue(queue, dead)),
        (0..4u8).prop_map(Op::MoveQueue),
        (0..4u8, any::<bool>()).prop_map(|(queue, is_paused)| Op::PauseQueue(queue, is_paused)),
        (0..4u8).prop_map(Op::DeleteQueue),
        (0..30u64).prop_map(Op::QueueFilesRemoved),
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
        Op::AlterLake(lake, stream, age) => {
            Input::AlterLake { config: LakeConfig { roll_age_ms: 1_000 + age, ..lake_config(lake, stream) } }
        }
        Op::RemoveLake(n) => Input::RemoveLake { name: format!("l{n}") },
        Op::CreateQueue(queue, stream, dead) => Input::Queue(QueueInput::Create {
            name: format!("q{queue}"),
            stream: format!("s{stream}"),
            config: queue_config(dead),
            starts: vec![7, 8],
            now: Timestamp(6),
        }),
        Op::UpdateQueue(queue, dead) => Input::Queue(QueueInput::Update {
            name: format!("q{queue}"),
            config: QueueConfig { delay_ms: 5, ..queue_config(dead) },
            from: vec![9, 9],
        }),
        Op::MoveQueue(queue) => {
            Input::Queue(QueueInput::Move { name: format!("q{queue}"), floors: vec![1, 2], is_purge: true })
        }
        Op::PauseQueue(queue, is_paused) => Input::Queue(QueueInput::Pause { name: format!("q{queue}"), is_paused }),
        Op::DeleteQueue(queue) => Input::Queue(QueueInput::Delete { name: format!("q{queue}") }),
        Op::QueueFilesRemoved(id) => Input::Queue(QueueInput::FilesRemoved { id: QueueId(id) }),
        Op::NameProducer(n, id) => Input::NameProducer { name: format!("p{n}"), id: ProducerId(id) },
    }
}

fn lake_config(lake: u8, stream: u8) -> LakeConfig {
    LakeConfig::new(format!("l{lake}"), format!("s{stream}"), "file:///tmp/x")
}

fn queue_config(dead: Option<u8>) -> QueueConfig {
    QueueConfig { dead_letter: dead.map(|n| format!("s{n}")), ..QueueConfig::default() }
}

impl Model {
    /// Whether a queue from `stream` to `dead` may be.
    fn check_queue(&self, stream: &str, dead: Option<&String>) -> Result<(), Code> {
        if !self.streams.contains_key(stream) {
            return Err(Code::UnknownStream);
        }
        let Some(dead) = dead else { return Ok(()) };
        if !self.streams.contains_key(dead) {
            return Err(Code::UnknownStream);
        }
        // All that can be reached, until nothing is added.
        let mut reached = BTreeSet::from([dead.clone()]);
        loop {
            let on = self.queues.values().filter(|(stream, ..)| reached.contains(stream));
            let next: BTreeSet<String> = on.filter_map(|(_, dead, ..)| dead.clone()).chain(reached.clone()).collect();
            if next.len() == reached.len() {
                break;
            }
            reached = next;
        }
        if reached.contains(stream) { Err(Code::DeadLetterCycle) } else { Ok(()) }
    }

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
                let of_queue = |(stream, dead, ..): &(String, Option<String>, u32, bool)| {
                    *stream == name || dead.as_ref() == Some(&name)
                };
                if self.lakes.values().any(|(stream, _)| *stream == name) || self.queues.values().any(of_queue) {
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
                self.lakes.insert(lake, (stream, 300_000));
            }
            Op::AlterLake(lake, stream, age) => {
                let Some((on, now)) = self.lakes.get_mut(&format!("l{lake}")) else { return Err(Code::UnknownLake) };
                if *on != format!("s{stream}") {
                    return Err(Code::IllegalSetting);
                }
                assert_eq!(events.is_empty(), *now == 1_000 + age, "only a change is an event");
                *now = 1_000 + age;
            }
            Op::RemoveLake(n) => {
                if self.lakes.remove(&format!("l{n}")).is_none() {
                    return Err(Code::UnknownLake);
                }
            }
            Op::CreateQueue(queue, stream, dead) => {
                let (queue, stream) = (format!("q{queue}"), format!("s{stream}"));
                let dead = dead.map(|n| format!("s{n}"));
                self.check_queue(&stream, dead.as_ref())?;
                if self.queues.contains_key(&queue) {
                    return Err(Code::QueueExists);
                }
                match events {
                    [Event::Queue(QueueEvent::Created(entry))] => assert!(self.numbers.insert(entry.id)),
                    other => panic!("{other:?}"),
                }
                self.queues.insert(queue, (stream, dead, 1, false));
            }
            Op::UpdateQueue(queue, dead) => {
                let dead = dead.map(|n| format!("s{n}"));
                let Some((stream, before, ..)) = self.queues.get(&format!("q{queue}")).cloned() else {
                    return Err(Code::UnknownQueue);
                };
                self.check_queue(&stream, dead.as_ref())?;
                if before.is_some() && before != dead {
                    return Err(Code::IllegalSetting);
                }
                self.queues.entry(format!("q{queue}")).and_modify(|(_, known, ..)| *known = dead);
            }
            Op::MoveQueue(queue) => match self.queues.get_mut(&format!("q{queue}")) {
                Some((_, _, epoch, _)) => *epoch += 1,
                None => return Err(Code::UnknownQueue),
            },
            Op::PauseQueue(queue, now) => match self.queues.get_mut(&format!("q{queue}")) {
                Some((.., is_paused)) => {
                    assert_eq!(events.is_empty(), is_paused == now);
                    *is_paused = *now;
                }
                None => return Err(Code::UnknownQueue),
            },
            Op::DeleteQueue(queue) => {
                if self.queues.remove(&format!("q{queue}")).is_none() {
                    return Err(Code::UnknownQueue);
                }
            }
            Op::QueueFilesRemoved(_) => {}
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
            let lakes = catalog.lakes().map(|LakeEntry { config, .. }| {
                (config.name.clone(), (config.stream.clone(), config.roll_age_ms))
            });
            prop_assert_eq!(lakes.collect::<BTreeMap<_, _>>(), model.lakes.clone());
            let queues = catalog.queues().map(|queue| {
                let stream = catalog.streams().find(|(_, stream)| stream.id.0 == queue.stream).unwrap().0.to_owned();
                (queue.name.clone(), (stream, queue.config.dead_letter.clone(), queue.epoch, queue.is_paused))
            });
            prop_assert_eq!(queues.collect::<BTreeMap<_, _>>(), model.queues.clone());
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
        (create(1, StreamConfig { max_delay_ms: 30 * 86_400_000 + 1, ..config() }), "max_delay_ms"),
        (create(1, StreamConfig { retention_ms: Some(1), ..config() }), "retention_ms"),
        (create(1, StreamConfig { retention_bytes: Some(0), ..config() }), "retention_bytes"),
        (create(1, StreamConfig { retention_ms: Some(86_400_000), ..compacted() }), "retention_ms"),
        (create(1, StreamConfig { retention_bytes: Some(1 << 30), ..compacted() }), "retention_bytes"),
        (create(1, StreamConfig { interest: true, ..compacted() }), "interest"),
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
    assert!(create(1, StreamConfig::by_interest()).is_ok());
}

#[test]
fn each_setting_of_a_lake_outside_its_range_is_named() {
    let mut catalog = Catalog::default();
    let (name, config, incarnations) = ("s1".to_owned(), StreamConfig::default(), vec![Incarnation(1)]);
    let input = Input::CreateStream { name, config, incarnations, now: Timestamp(0) };
    catalog.step(input).unwrap().iter().for_each(|event| catalog.apply(event));
    let create = |config: LakeConfig| catalog.step(Input::CreateLake { config });
    let config = || lake_config(1, 1);
    let declared = |length: usize| LakeColumns::Declared("s".repeat(length));
    let ndjson = |compression| LakeConfig { format: LakeFormat::Ndjson, compression, ..config() };
    for (refused, setting) in [
        (LakeConfig { url: String::new(), ..config() }, "the length of url is 0"),
        (LakeConfig { url: "u".repeat((4 << 10) + 1), ..config() }, "the length of url is 4097"),
        (LakeConfig { layout: "l".repeat((4 << 10) + 1), ..config() }, "the length of layout"),
        (LakeConfig { columns: declared((256 << 10) + 1), ..config() }, "the length of schema"),
        (LakeConfig { columns: declared(0), ..config() }, "the length of schema"),
        (LakeConfig { roll_bytes: (1 << 20) - 1, ..config() }, "roll_bytes"),
        (LakeConfig { roll_bytes: (512 << 20) + 1, ..config() }, "roll_bytes"),
        (LakeConfig { roll_rows: 999, ..config() }, "roll_rows"),
        (LakeConfig { roll_rows: 1_000_000_001, ..config() }, "roll_rows"),
        (LakeConfig { roll_age_ms: 99, ..config() }, "roll_age_ms"),
        (LakeConfig { roll_age_ms: 7 * 86_400_000 + 1, ..config() }, "roll_age_ms"),
        (LakeConfig { max_age_ms: 299_999, ..config() }, "max_age_ms is 299999, legal is 300000 to 604800000"),
        (LakeConfig { max_age_ms: 7 * 86_400_000 + 1, ..config() }, "max_age_ms"),
        (LakeConfig { open_files: 0, ..config() }, "open_files"),
        (LakeConfig { open_files: 4_097, ..config() }, "open_files"),
        (ndjson(LakeCompression::Snappy), "compression is snappy, legal is zstd, gzip, none for ndjson"),
        (ndjson(LakeCompression::Lz4), "compression is lz4"),
        (LakeConfig { compression: LakeCompression::Gzip, ..config() }, "compression is gzip, legal is zstd, snappy"),
    ] {
        let error = create(refused).unwrap_err();
        assert_eq!(error.code(), Code::IllegalSetting, "{error}");
        assert!(error.to_string().starts_with(setting), "{error}");
    }
    assert!(create(LakeConfig { columns: declared(256 << 10), open_files: 4_096, ..config() }).is_ok());
    assert!(create(ndjson(LakeCompression::Gzip)).is_ok());
    let another = LakeConfig { name: "l9".into(), ..config() };
    assert_eq!(catalog.step(Input::AlterLake { config: another }).unwrap_err().code(), Code::UnknownLake);
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

#[test]
fn each_setting_of_a_queue_outside_its_range_is_named() {
    let mut catalog = Catalog::default();
    for (name, config) in [
        ("s", StreamConfig::default()),
        ("dead", StreamConfig::default()),
        ("c", StreamConfig::compacted(Compaction::default())),
    ] {
        let incarnations = vec![Incarnation(1)];
        let input = Input::CreateStream { name: name.to_owned(), config, incarnations, now: Timestamp(0) };
        catalog.step(input).unwrap().iter().for_each(|event| catalog.apply(event));
    }
    let create = |stream: &str, config: QueueConfig| {
        let (name, stream) = ("q".to_owned(), stream.to_owned());
        catalog.step(Input::Queue(QueueInput::Create { name, stream, config, starts: Vec::new(), now: Timestamp(0) }))
    };
    let config = QueueConfig::default;
    let fifo = |group_batch| QueueConfig {
        ordering: QueueOrdering::Fifo { group_batch, on_dead: Default::default() },
        dead_letter: Some("dead".to_owned()),
        ..config()
    };
    let backoff = QueueBackoff::default();
    for (refused, code, says) in [
        (
            create("s", QueueConfig { visibility_ms: 43_200_001, ..config() }),
            Code::VisibilityOutOfRange,
            "a visibility of 43200001 ms",
        ),
        (create("s", QueueConfig { delay_ms: 900_001, ..config() }), Code::IllegalSetting, "delay_ms"),
        (
            create("s", QueueConfig { filter: "1".repeat(1_025), ..config() }),
            Code::IllegalSetting,
            "the length of a filter",
        ),
        (create("s", QueueConfig { in_flight_max: 0, ..config() }), Code::IllegalSetting, "in_flight_max"),
        (create("s", QueueConfig { ttl_ms: Some(0), ..config() }), Code::IllegalSetting, "ttl_ms"),
        (
            create("s", QueueConfig { backoff: QueueBackoff { factor_percent: 99, ..backoff }, ..config() }),
            Code::IllegalSetting,
            "backoff factor_percent",
        ),
        (
            create("s", QueueConfig { backoff: QueueBackoff { min_ms: 2, max_ms: 1, ..backoff }, ..config() }),
            Code::IllegalSetting,
            "backoff min_ms",
        ),
        (create("s", fifo(0)), Code::IllegalSetting, "group_batch"),
        (create("s", fifo(101)), Code::IllegalSetting, "group_batch"),
        (create("s", QueueConfig { dead_letter: None, ..fifo(1) }), Code::NoDeadLetter, "a FIFO queue"),
        (create("s", QueueConfig { max_receives: Some(3), ..config() }), Code::NoDeadLetter, "max_receives"),
        (create("s", QueueConfig { max_receives: Some(0), ..fifo(1) }), Code::IllegalSetting, "max_receives"),
        (create("s", QueueConfig { keeps_expired: true, ..config() }), Code::NoDeadLetter, "keeps_expired"),
        (create("dead", fifo(1)), Code::DeadLetterCycle, "a queue on 'dead'"),
        (create("nope", config()), Code::UnknownStream, "unknown stream 'nope'"),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().starts_with(says), "{error}");
    }
    assert!(create("s", fifo(100)).is_ok());
    assert!(create("c", QueueConfig { dead_letter: None, ..fifo(1) }).is_ok(), "its records have keys");
}

#[test]
fn another_filter_is_another_rule_from_its_offset_on() {
    let mut catalog = Catalog::default();
    let mut run = |input: Input| catalog.step(input).unwrap().iter().for_each(|event| catalog.apply(event));
    let incarnations = vec![Incarnation(1); 2];
    run(Input::CreateStream { name: "s".to_owned(), config: StreamConfig::default(), incarnations, now: Timestamp(0) });
    let with = |filter: &str| QueueConfig { filter: filter.to_owned(), ..QueueConfig::default() };
    let (name, stream, starts) = ("q".to_owned(), "s".to_owned(), vec![3, 4]);
    run(Input::Queue(QueueInput::Create { name, stream, config: with("a"), starts, now: Timestamp(0) }));
    for (filter, from) in [("b", vec![10, 20]), ("b", vec![12, 20]), ("c", vec![15, 15])] {
        run(Input::Queue(QueueInput::Update { name: "q".to_owned(), config: with(filter), from }));
    }
    let queue = catalog.queue("q").unwrap();
    let rules: Vec<_> = queue.rules.iter().map(|rule| (rule.filter.as_str(), rule.from.clone())).collect();
    assert_eq!(
        rules,
        [("a", vec![]), ("b", vec![10, 20]), ("c", vec![15, 15])],
        "the same filter again is no new rule"
    );
    assert_eq!((queue.floor(0), queue.floor(1), queue.floor(2)), (3, 4, 0));
}
