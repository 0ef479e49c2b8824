//! What is encoded is decoded to the same: any records, under any codec; stamped batches back to back; any message.
//! And the largest legal ones fit where they must.
//! More cases: `PROPTEST_CASES=10000`.

use bytes::Bytes;
use millstream_protocol::batch::{
    BatchBuilder, BatchError, BatchView, Codec, HEADER_BYTES, Stamp, check_zero_stamp, stamp,
};
use millstream_protocol::frame::consume::BatchesPrefix;
use millstream_protocol::frame::control::{
    Cleanup, Compaction, ConsumeEvent, ConsumeMode, ConsumeOpen, ConsumeOpened, ConsumePosition, ConsumeStart,
    CreateMode, Durability, Message, PartitionInfo, PartitionState, Request, Response, Start, StreamConfig, StreamInfo,
    StreamSummary,
};
use millstream_protocol::frame::group::{
    AssignedPartition, Assignment, CommittedOffset, GroupHeartbeat, GroupJoin, GroupReset, Membership, OffsetCommit,
    ResetTo, StreamPartition,
};
use millstream_protocol::frame::hello::{Hello, HelloOk};
use millstream_protocol::frame::produce::{
    Duplicate, OpenProduce, ProduceAck, ProducePrefix, Produced, Stored, decode_acks, encode_acks,
};
use millstream_protocol::frame::{FLAG_RESUME, FrameHeader, Kind, Refusal};
use millstream_protocol::limits::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, COMMIT_METADATA_BYTES_MAX, CONSUME_PARTITIONS_MAX, CONTROL_BATCH_RECORDS_MAX,
    ERROR_TEXT_BYTES_MAX, GROUP_PARTITIONS_MAX, HEADER_NAME_BYTES_MAX, KEY_BYTES_MAX, NAME_BYTES_MAX,
    OFFSETS_PER_REQUEST_MAX, PARTITIONS_MAX, PRODUCE_DEPTH_MAX, RECORD_BYTES_MAX, RECORD_HEADERS_MAX,
};
use millstream_protocol::{
    Code, Epoch, Header, Incarnation, Offset, PartitionId, ProducerId, Record, StreamId, Timestamp,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];

// ---- batches ----

fn bytes(length: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
    // Half of them compress.
    prop_oneof![
        vec(any::<u8>(), length.clone()).prop_map(Bytes::from),
        (any::<u8>(), length).prop_map(|(byte, length)| Bytes::from(vec![byte; length])),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let name = "\\PC{1,20}".prop_filter("the system's", |name| !name.starts_with("ms-"));
    let header = (name, option::of(bytes(0..20))).prop_map(|(name, value)| Header { name, value });
    // The span between two timestamps of a batch must fit an i64.
    let timestamp = prop_oneof![Just(0), Just(-1), 0..1i64 << 42, -(1i64 << 62)..1i64 << 62];
    (option::of(bytes(0..40)), vec(header, 0..5), timestamp, option::of(bytes(0..300)))
        .prop_map(|(key, headers, timestamp, value)| Record { key, headers, timestamp: Timestamp(timestamp), value })
}

fn build(codec: Codec, records: &[Record]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for record in records {
        builder.push(record).expect("a legal record");
    }
    assert_eq!(builder.record_count() as usize, records.len());
    builder.finish().expect("not empty")
}

fn read(view: &BatchView) -> Vec<(Offset, Record)> {
    let mut records = view.records().expect("it decompresses");
    std::iter::from_fn(|| records.next_with_offset()).collect::<Result<_, _>>().expect("legal records")
}

proptest! {
    #[test]
    fn records_come_back_whatever_the_codec(
        records in vec(record(), 1..20), codec in select(&CODECS), producer: (u64, u32, u64)
    ) {
        let mut builder = BatchBuilder::with_capacity(codec, 1_000);
        builder.producer(ProducerId(producer.0), producer.1, producer.2);
        for record in &records {
            builder.push(record).expect("a legal record");
        }
        let batch = builder.finish().expect("not empty");
        prop_assert_eq!(check_zero_stamp(&batch), Ok(()));
        let view = BatchView::parse(&batch).expect("just built");
        let header = view.header();
        prop_assert!(header.codec == codec || header.codec == Codec::None);
        prop_assert_eq!(header.record_count as usize, records.len());
        prop_assert_eq!(header.last_offset_delta + 1, header.record_count);
        prop_assert_eq!(header.batch_len(), batch.len());
        prop_assert_eq!(header.first_timestamp, records[0].timestamp);
        prop_assert_eq!(Some(header.max_timestamp), records.iter().map(|record| record.timestamp).max());
        prop_assert_eq!((header.producer_id.0, header.producer_epoch, header.base_sequence), producer);
        prop_assert_eq!((header.base_offset, header.sparse, header.flags), (Offset(0), false, 0));
        let owned = view.records().expect("it decompresses").collect::<Result<Vec<_>, _>>();
        prop_assert_eq!(owned, Ok(records));
        prop_assert_eq!(view.records().expect("it decompresses").validate(), Ok(()));
    }

    #[test]
    fn lent_records_are_the_owned_ones(records in vec(record(), 1..10), codec in select(&CODECS)) {
        let view = BatchView::parse(&build(codec, &records)).expect("just built");
        let mut lent = view.records().expect("it decompresses");
        for (index, record) in records.iter().enumerate() {
            let found = lent.next_ref().expect("there is one more").expect("a legal record");
            prop_assert_eq!((found.offset_delta as usize, found.timestamp), (index, record.timestamp));
            prop_assert_eq!((found.key, found.value), (record.key.as_deref(), record.value.as_deref()));
            let headers: Vec<_> = record.headers.iter().map(|h| (h.name.as_str(), h.value.as_deref())).collect();
            prop_assert_eq!(found.headers().collect::<Vec<_>>(), headers);
        }
        prop_assert!(lent.next_ref().is_none() && lent.next_ref().is_none());
    }

    #[test]
    fn stamped_batches_are_split_off_one_after_the_other(
        batches in vec((vec(record(), 1..6), select(&CODECS)), 1..6),
        base in 0..u64::MAX / 2,
        incarnation: u64,
        append_time: i64,
        epoch: u32,
        synced_end: u64,
    ) {
        let incarnation = Incarnation(incarnation);
        let (mut stored, mut next) = (Vec::new(), base);
        for (records, codec) in &batches {
            let unstamped = build(*codec, records);
            let mut batch = unstamped.to_vec();
            let now = Stamp {
                base_offset: Offset(next),
                append_time: Timestamp(append_time),
                epoch: Epoch(epoch),
                synced_end: Offset(synced_end),
            };
            stamp(&mut batch[..HEADER_BYTES], &now, incarnation);
            prop_assert_eq!(&batch[40..], &unstamped[40..], "the producer's part is as it was");
            stored.extend_from_slice(&batch);
            next += records.len() as u64;
        }
        let mut rest = Bytes::from(stored.clone());
        let mut next = base;
        for (records, _) in &batches {
            let view = BatchView::split_stored(&mut rest, incarnation).expect("its own partition");
            let header = view.header();
            prop_assert_eq!((header.append_time.0, header.epoch.0, header.synced_end.0), (append_time, epoch, synced_end));
            for ((offset, found), record) in read(&view).into_iter().zip(records) {
                prop_assert_eq!(offset, Offset(next));
                prop_assert_eq!(&found, record);
                next += 1;
            }
            prop_assert_eq!(header.end_offset(), Offset(next));
        }
        prop_assert!(rest.is_empty());
        let mut other = Bytes::from(stored);
        prop_assert!(BatchView::split_stored(&mut other, Incarnation(incarnation.0 ^ 1)).is_err());
    }
}

#[test]
fn empty_and_absent_are_different() {
    let key_and_value = [None, Some(Bytes::new()), Some(Bytes::from_static(b"x"))];
    let mut records = Vec::new();
    for key in &key_and_value {
        for value in &key_and_value {
            let header = Header { name: "h".into(), value: value.clone() };
            let headers = vec![header.clone(), header];
            records.push(Record { key: key.clone(), value: value.clone(), headers, timestamp: Timestamp(-5) });
        }
    }
    for codec in CODECS {
        let view = BatchView::parse(&build(codec, &records)).expect("just built");
        let found: Vec<Record> = read(&view).into_iter().map(|(_, record)| record).collect();
        assert_eq!(found, records);
    }
}

#[test]
fn a_body_that_does_not_compress_is_stored_as_it_is() {
    let record = Record::new("short");
    for codec in CODECS {
        let batch = build(codec, std::slice::from_ref(&record));
        assert_eq!(batch, build(Codec::None, std::slice::from_ref(&record)));
    }
}

/// As large as each part may be, and as a whole.
fn largest_record() -> Record {
    let name = "n".repeat(HEADER_NAME_BYTES_MAX);
    let headers = vec![Header { name, value: Some(Bytes::from_static(b"v")) }; RECORD_HEADERS_MAX];
    let mut record = Record { headers, ..Record::default() }.key(vec![b'k'; KEY_BYTES_MAX]);
    // Noise, so that it stays large under every codec.
    let mut state = 1u32;
    let noise = std::iter::from_fn(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((state >> 24) as u8)
    });
    record.value = Some(noise.take(RECORD_BYTES_MAX - record.size()).collect());
    record
}

#[test]
fn the_largest_record_fits_into_a_batch_and_that_into_a_frame() {
    let record = largest_record();
    assert_eq!(record.size(), RECORD_BYTES_MAX);
    for codec in CODECS {
        let batch = build(codec, std::slice::from_ref(&record));
        assert!(batch.len() <= BATCH_BYTES_MAX);
        let prefix = ProducePrefix { stream: StreamId(1), partition: PartitionId(1), epoch: Epoch(1) };
        let _ = FrameHeader::new(Kind::Produce, 1, prefix.encode().len() + batch.len());
        let view = BatchView::parse(&batch).expect("just built");
        assert!(read(&view) == [(Offset(0), record.clone())], "{codec}");
    }
}

#[test]
fn a_record_above_a_limit_is_refused_and_the_batch_stays_as_it_was() {
    let good = Record::new("good").timestamp(Timestamp(5));
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&good).expect("legal");
    let before = builder.len();
    let header = |name: &str| Record::new("v").header(name, "x");
    let many =
        Record { headers: vec![Header { name: "n".into(), value: None }; RECORD_HEADERS_MAX + 1], ..good.clone() };
    let refused = [
        Record::new(vec![0; RECORD_BYTES_MAX + 1]),
        Record::new("v").key(vec![0; KEY_BYTES_MAX + 1]),
        header(&"n".repeat(HEADER_NAME_BYTES_MAX + 1)),
        many,
    ];
    for record in refused {
        assert!(matches!(builder.push(&record), Err(BatchError::RecordLimit { .. })));
    }
    for value in [None, Some(""), Some("-1"), Some("+5"), Some("1.5"), Some("99999999999999999999")] {
        let headers = vec![Header { name: "ms-delay".into(), value: value.map(Into::into) }];
        let pushed = builder.push(&Record { headers, ..good.clone() });
        assert!(matches!(pushed, Err(BatchError::ControlHeader { .. })), "{value:?}: {pushed:?}");
    }
    for name in ["", "ms-", "ms-later", "ms-unknown", "ms-dl-queue"] {
        assert_eq!(builder.push(&header(name)), Err(BatchError::ReservedHeader(name.into())));
    }
    // The span of the timestamps does not fit.
    let far = Record::new("v").timestamp(Timestamp(i64::MIN));
    assert!(matches!(builder.push(&far), Err(BatchError::OutOfRange { what: "timestamp", .. })));
    // It is legal, but there is no room left for it.
    let mut full = BatchBuilder::new(Codec::None);
    full.push(&largest_record()).expect("legal");
    let length = full.len();
    assert!(matches!(full.push(&largest_record()), Err(BatchError::OutOfRange { what: "batch length", .. })));
    assert_eq!((full.len(), full.record_count()), (length, 1));

    assert_eq!((builder.len(), builder.record_count()), (before, 1));
    let view = BatchView::parse(&builder.finish().expect("not empty")).expect("just built");
    assert_eq!(read(&view), [(Offset(0), good)]);
    assert!(BatchBuilder::new(Codec::None).finish().is_err(), "a batch without records is none");
}

#[test]
fn a_batch_takes_its_number_of_records_and_no_more() {
    let record = Record { timestamp: Timestamp(1), ..Record::default() };
    for codec in CODECS {
        let mut builder = BatchBuilder::with_capacity(codec, 4 << 20);
        for _ in 0..BATCH_RECORDS_MAX {
            builder.push(&record).expect("room");
        }
        assert!(matches!(builder.push(&record), Err(BatchError::OutOfRange { what: "record count", .. })));
        let view = BatchView::parse(&builder.finish().expect("not empty")).expect("just built");
        assert_eq!((view.header().record_count, view.header().codec), (BATCH_RECORDS_MAX, codec));
        assert_eq!(view.records().expect("it decompresses").validate(), Ok(()));
    }
}

#[test]
fn timestamps_at_the_ends_of_time_are_carried() {
    for timestamp in [i64::MIN, -1, 0, i64::MAX] {
        let records =
            [Record::new("a").timestamp(Timestamp(timestamp)), Record::new("b").timestamp(Timestamp(timestamp))];
        let view = BatchView::parse(&build(Codec::None, &records)).expect("just built");
        assert!(read(&view).into_iter().map(|(_, record)| record).eq(records));
    }
}

// ---- messages ----

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

fn stream_config() -> impl Strategy<Value = StreamConfig> {
    let durability = select(vec![Durability::Synced, Durability::Written]);
    let cleanup = any::<Option<(u64, u64)>>().prop_map(|compaction| match compaction {
        None => Cleanup::Delete,
        Some((delete_retention_ms, min_compaction_lag_ms)) => {
            Cleanup::Compact(Compaction { delete_retention_ms, min_compaction_lag_ms })
        }
    });
    (durability, any::<Option<u64>>(), any::<Option<u64>>(), any::<u64>(), any::<(u32, u32, u32, bool)>(), cleanup)
        .prop_map(
            |(
                durability,
                retention_ms,
                retention_bytes,
                segment_bytes,
                (record_bytes_max, dedup_window_ms, max_delay_ms, interest),
                cleanup,
            )| {
                StreamConfig {
                    durability,
                    retention_ms,
                    retention_bytes,
                    segment_bytes,
                    record_bytes_max,
                    cleanup,
                    dedup_window_ms,
                    max_delay_ms,
                    interest,
                }
            },
        )
}

fn group_request() -> impl Strategy<Value = Request> {
    let at = || any::<(u64, u32)>().prop_map(|(stream, partition)| StreamPartition { stream, partition });
    let to = prop_oneof![
        Just(ResetTo::Earliest),
        Just(ResetTo::Latest),
        any::<u64>().prop_map(ResetTo::Offset),
        any::<i64>().prop_map(ResetTo::Time),
        any::<i64>().prop_map(ResetTo::Shift),
    ];
    let join = (text(), any::<u64>(), option::of(text()), vec(text(), 0..4), any::<(u32, u32)>(), text()).prop_map(
        |(group, member, instance, streams, (session_timeout_ms, rebalance_timeout_ms), client)| {
            let join = GroupJoin { group, member, instance, streams, session_timeout_ms, rebalance_timeout_ms, client };
            Request::JoinGroup(join)
        },
    );
    let commit =
        (at(), any::<(u32, u64, Option<u32>)>(), text()).prop_map(|(at, (epoch, offset, batch_epoch), metadata)| {
            OffsetCommit { at, epoch, offset, batch_epoch, metadata }
        });
    prop_oneof![
        join,
        (text(), any::<(u64, u32, u32, u32)>()).prop_map(|(group, (member, seen, applied, wait_ms))| {
            Request::HeartbeatGroup(GroupHeartbeat { group, member, seen, applied, wait_ms })
        }),
        (text(), any::<(u64, bool)>()).prop_map(|(group, (member, for_good))| Request::LeaveGroup {
            group,
            member,
            for_good
        }),
        (text(), any::<Option<u64>>(), vec(commit, 0..4)).prop_map(|(group, member, commits)| Request::CommitOffsets {
            group,
            member,
            commits
        }),
        (text(), vec(at(), 0..4)).prop_map(|(group, partitions)| Request::FetchOffsets { group, partitions }),
        Just(Request::ListGroups),
        text().prop_map(|name| Request::DescribeGroup { name }),
        (text(), text(), vec(any::<u32>(), 0..4), to, any::<bool>()).prop_map(
            |(group, stream, partitions, to, dry_run)| {
                Request::ResetGroup(GroupReset { group, stream, partitions, to, dry_run })
            }
        ),
        text().prop_map(|name| Request::DeleteGroup { name }),
        (text(), text(), vec(any::<u32>(), 0..4)).prop_map(|(group, stream, partitions)| Request::DeleteOffsets {
            group,
            stream,
            partitions
        }),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let mode = select(vec![CreateMode::Explicit, CreateMode::Automatic]);
    prop_oneof![
        (text(), any::<u32>(), stream_config(), mode)
            .prop_map(|(name, partitions, config, mode)| { Request::CreateStream { name, partitions, config, mode } }),
        text().prop_map(|name| Request::DeleteStream { name }),
        Just(Request::ListStreams),
        text().prop_map(|name| Request::DescribeStream { name }),
        (text(), any::<(u32, u64)>()).prop_map(|(stream, (partition, offset))| Request::DeleteBefore {
            stream,
            partition,
            offset
        }),
        Just(Request::DescribeRecovery),
        option::of(text()).prop_map(|name| Request::InitProducer { name }),
        any::<(u64, u32, u64)>().prop_map(|(id, epoch, stream)| Request::BumpProducer { id, epoch, stream }),
        group_request(),
    ]
}

fn partition_info() -> impl Strategy<Value = PartitionInfo> {
    let state = select(vec![PartitionState::Online, PartitionState::ReadOnly, PartitionState::Offline]);
    (any::<(u32, u64, u32)>(), text(), any::<(u64, u64, u64)>(), state).prop_map(
        |((partition, incarnation, epoch), owner, (log_start, high_watermark, bytes), state)| PartitionInfo {
            partition,
            incarnation,
            epoch,
            owner,
            log_start,
            high_watermark,
            bytes,
            state,
        },
    )
}

fn response() -> impl Strategy<Value = Response> {
    let durability = select(vec![Durability::Synced, Durability::Written]);
    let summary = (any::<(u64, u32, u64, u64)>(), text(), durability).prop_map(
        |((id, partitions, records, bytes), name, durability)| StreamSummary {
            id,
            name,
            partitions,
            durability,
            records,
            bytes,
        },
    );
    let stream = (any::<(u64, i64)>(), text(), stream_config(), vec(partition_info(), 0..6)).prop_map(
        |((id, created_ms), name, config, partitions)| StreamInfo { id, name, config, created_ms, partitions },
    );
    prop_oneof![
        Just(Response::Done),
        stream.prop_map(Response::Stream),
        vec(summary, 0..6).prop_map(Response::Streams),
        any::<u64>().prop_map(Response::Offset),
    ]
}

fn consume_open() -> impl Strategy<Value = ConsumeOpen> {
    let start = prop_oneof![
        Just(Start::Earliest),
        Just(Start::Latest),
        any::<(u64, Option<u32>)>().prop_map(|(offset, epoch)| Start::Offset { offset, epoch }),
        any::<i64>().prop_map(Start::Time),
    ];
    let start = (any::<u32>(), start).prop_map(|(partition, start)| ConsumeStart { partition, start });
    (any::<u64>(), vec(start, 0..20), select(vec![ConsumeMode::Bounded, ConsumeMode::Follow]))
        .prop_map(|(stream, partitions, mode)| ConsumeOpen { stream, partitions, mode })
}

fn consume_event() -> impl Strategy<Value = ConsumeEvent> {
    prop_oneof![
        any::<(u32, u64)>().prop_map(|(partition, offset)| ConsumeEvent::End { partition, offset }),
        (any::<(u32, u64, u64, u16)>(), text()).prop_map(|((partition, from, resume, code), text)| {
            ConsumeEvent::Gap { partition, from, resume, code, text }
        }),
        (any::<(u32, u16)>(), text()).prop_map(|((partition, code), text)| ConsumeEvent::Failed {
            partition,
            code,
            text
        }),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    (select(Code::ALL), any::<u32>(), text()).prop_map(|(code, retry_after_ms, text)| Refusal {
        code,
        retry_after_ms,
        text,
    })
}

proptest! {
    #[test]
    fn control_messages_come_back(
        request in request(), response in response(), open in consume_open(), event in consume_event(),
        positions in vec(any::<(u32, u64, u64, u64)>(), 0..20),
    ) {
        let position = |(partition, offset, high_watermark, log_start)| ConsumePosition {
            partition, offset, high_watermark, log_start,
        };
        let opened = ConsumeOpened { positions: positions.into_iter().map(position).collect() };
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        prop_assert_eq!(Response::decode(&response.encode()), Ok(response));
        prop_assert_eq!(ConsumeOpen::decode(&open.encode()), Ok(open));
        prop_assert_eq!(ConsumeOpened::decode(&opened.encode()), Ok(opened));
        prop_assert_eq!(ConsumeEvent::decode(&event.encode()), Ok(event));
    }

    #[test]
    fn an_archive_is_decoded_wherever_it_lies(request in request(), shift in 0usize..16) {
        let mut buffer = vec![0xff; shift];
        buffer.extend_from_slice(&request.encode());
        prop_assert_eq!(Request::decode(&buffer[shift..]), Ok(request));
    }

    #[test]
    fn messages_decoded_by_hand_come_back(
        numbers: (u64, u64, u32, u32, u16, u16), name in text(), token in text(), refusal in refusal(),
        acks in vec((any::<u64>(), prop_oneof![
            any::<(u64, i64)>().prop_map(|(offset, time)| Ok(Produced::Stored(Stored { base_offset: Offset(offset), append_time: Timestamp(time) }))),
            vec(any::<(u32, u64, i64)>(), 0..5).prop_map(|all| Ok(Produced::Duplicates(all.into_iter().map(
                |(index, offset, time)| Duplicate { index, offset: Offset(offset), append_time: Timestamp(time) },
            ).collect()))),
            self::refusal().prop_map(Err),
        ]), 0..20),
    ) {
        let (a, b, c, d, e, f) = numbers;
        let hello = Hello { version_min: e, version_max: f, client_name: name.clone(), token };
        prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        let answer = HelloOk { version: e, server_id: a, server_version: name };
        prop_assert_eq!(HelloOk::decode(&answer.encode()), Ok(answer));
        prop_assert_eq!(Refusal::decode(&refusal.encode()), Ok(refusal));
        let open = OpenProduce { depth: c };
        prop_assert_eq!(OpenProduce::decode(&open.encode()), Ok(open));
        let prefix = ProducePrefix { stream: StreamId(a), partition: PartitionId(c), epoch: Epoch(d) };
        prop_assert_eq!(ProducePrefix::decode(&prefix.encode()), Ok(prefix));
        let prefix = BatchesPrefix { partition: PartitionId(c), high_watermark: Offset(a), log_start: Offset(b) };
        prop_assert_eq!(BatchesPrefix::decode(&prefix.encode()), Ok(prefix));
        let acks: Vec<_> = acks.into_iter().map(|(correlation, result)| ProduceAck { correlation, result }).collect();
        prop_assert_eq!(decode_acks(&encode_acks(&acks)), Ok(acks));
    }

    #[test]
    fn frame_headers_come_back(kind in select(Kind::ALL), correlation: u64, length: prop::sample::Index, resume: bool) {
        let mut header = FrameHeader::new(kind, correlation, length.index(kind.body_bytes_max() + 1));
        if resume && kind == Kind::Produce {
            header.flags = FLAG_RESUME;
        }
        prop_assert_eq!(FrameHeader::decode(&header.encode()), Ok(header));
    }
}

#[test]
fn texts_above_their_limit_are_cut_between_characters() {
    for text in ["x".repeat(10_000), "ü".repeat(5_000), format!("x{}", "ü".repeat(5_000)), "𝄞".repeat(3_000)] {
        let found = Refusal::decode(&Refusal::new(Code::Internal, text.clone()).encode()).expect("cut to fit").text;
        assert!(text.starts_with(&found) && found.len() <= ERROR_TEXT_BYTES_MAX);
        assert!(found.len() > ERROR_TEXT_BYTES_MAX - 4);
        let hello = Hello { version_min: 1, version_max: 1, client_name: text.clone(), token: text };
        assert!(Hello::decode(&hello.encode()).is_ok());
    }
}

/// A message of the greatest legal content must not trip the assertion in `FrameHeader::new`, nor its own decoder.
#[test]
fn the_largest_messages_fit_into_their_frames() {
    let name = "n".repeat(NAME_BYTES_MAX);
    let error_text = "t".repeat(ERROR_TEXT_BYTES_MAX);
    let partition = |partition| PartitionInfo {
        partition,
        incarnation: u64::MAX,
        epoch: u32::MAX,
        owner: "[2001:0db8:85a3:0000:0000:8a2e:0370:7334]:65535".into(),
        log_start: u64::MAX,
        high_watermark: u64::MAX,
        bytes: u64::MAX,
        state: PartitionState::Online,
    };
    let info = StreamInfo {
        id: u64::MAX,
        name: name.clone(),
        config: StreamConfig::default(),
        created_ms: i64::MAX,
        partitions: (0..PARTITIONS_MAX).map(partition).collect(),
    };
    let start = Start::Offset { offset: u64::MAX, epoch: Some(u32::MAX) };
    let open = ConsumeOpen {
        stream: u64::MAX,
        partitions: vec![ConsumeStart { partition: u32::MAX, start }; CONSUME_PARTITIONS_MAX],
        mode: ConsumeMode::Follow,
    };
    let position = ConsumePosition { partition: 1, offset: 1, high_watermark: 1, log_start: 1 };
    let opened = ConsumeOpened { positions: vec![position; CONSUME_PARTITIONS_MAX] };
    let failed = ConsumeEvent::Failed { partition: 1, code: 1, text: error_text.clone() };
    let stored = Stored { base_offset: Offset(u64::MAX), append_time: Timestamp(i64::MAX) };
    let acks =
        vec![ProduceAck { correlation: u64::MAX, result: Ok(Produced::Stored(stored)) }; PRODUCE_DEPTH_MAX as usize];
    let hello = Hello { version_min: 1, version_max: 1, client_name: error_text.clone(), token: error_text.clone() };

    fits(Kind::Response, Response::Stream(info));
    fits(Kind::OpenConsume, open);
    fits(Kind::OpenConsumeOk, opened);
    fits(Kind::ConsumeEvent, failed);
    let _ = FrameHeader::new(Kind::Hello, 0, hello.encode().len());
    let _ = FrameHeader::new(Kind::Error, 0, Refusal::new(Code::Internal, error_text).encode().len());
    let _ = FrameHeader::new(Kind::ProduceAcks, 0, encode_acks(&acks).len());
    let duplicate = Duplicate { index: 1, offset: Offset(1), append_time: Timestamp(1) };
    let all = Produced::Duplicates(vec![duplicate; CONTROL_BATCH_RECORDS_MAX as usize]);
    let ack = ProduceAck { correlation: 1, result: Ok(all) };
    let _ = FrameHeader::new(Kind::ProduceAcks, 0, encode_acks(&[ack]).len());
    let at = StreamPartition { stream: 1, partition: 1 };
    let assignment =
        Assignment { version: 1, partitions: vec![AssignedPartition { at, epoch: 1 }; GROUP_PARTITIONS_MAX] };
    let membership = Membership { assignment: Some(assignment), heartbeat_interval_ms: 1 };
    fits(Kind::Response, Response::Membership(membership));
    let metadata = "m".repeat(COMMIT_METADATA_BYTES_MAX);
    let offset = CommittedOffset { at, offset: Some(1), batch_epoch: Some(1), metadata };
    fits(Kind::Response, Response::Offsets(vec![offset; OFFSETS_PER_REQUEST_MAX]));
}

fn fits<M: Message + PartialEq + std::fmt::Debug>(kind: Kind, message: M) {
    let body = message.encode();
    let _ = FrameHeader::new(kind, 0, body.len());
    assert!(M::decode(&body).as_ref() == Ok(&message), "{} of {} bytes", M::NAME, body.len());
}
