//! One sample of everything that goes over the wire or to the disk, with its decoder.
//!
//! `golden.rs` holds their bytes to the committed ones; `hostile.rs` cuts, flips and rewrites them.
//! Values are chosen so that each field differs from its neighbours and from zero: a swap shows.

mod lake;
mod queue;

use bytes::Bytes;
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec, Stamp, stamp};
use millstream_protocol::frame::consume::BatchesPrefix;
use millstream_protocol::frame::control::{
    Cleanup, Compaction, ConsumeEvent, ConsumeMode, ConsumeOpen, ConsumeOpened, ConsumePosition, ConsumeStart,
    CreateMode, Durability, Message, NextSequence, PartitionInfo, PartitionRecovery, PartitionState, RecoveryInfo,
    Request, Response, Start, StreamConfig, StreamInfo, StreamSummary,
};
use millstream_protocol::frame::group::{
    AssignedPartition, Assignment, CommitResult, CommittedOffset, GroupHeartbeat, GroupInfo, GroupJoin, GroupMember,
    GroupPartition, GroupReset, GroupState, GroupSummary, Membership, OffsetCommit, ResetTo, StreamPartition,
};
use millstream_protocol::frame::hello::{Hello, HelloOk};
use millstream_protocol::frame::produce::{
    Duplicate, OpenProduce, ProduceAck, ProducePrefix, Produced, Stored, decode_acks, encode_acks,
};
use millstream_protocol::frame::{FLAG_RESEND, FLAG_RESUME, FrameHeader, Kind, Refusal};
use millstream_protocol::{
    Code, Epoch, Header, Incarnation, Offset, PartitionId, ProducerId, Record, StreamId, Timestamp,
};

/// The partition that the stamped sample is of.
pub const INCARNATION: Incarnation = Incarnation(0x1122_3344_5566_7788);

/// A sample message, as its encoder gives it.
pub struct Sample {
    /// Its file in `golden/`, without the ending.
    pub name: &'static str,
    /// Encoded now.
    pub bytes: Vec<u8>,
    /// Decodes bytes.
    pub decode: Decoder,
}

/// Bytes to what they are, or the error's text.
pub type Decoder = Box<dyn Fn(&[u8]) -> Result<Decoded, String>>;

/// What a decoder made of some bytes.
pub struct Decoded {
    /// Whether it is the value that the sample was made of.
    pub is_the_sample: bool,
    /// It, encoded again.
    pub again: Vec<u8>,
}

fn sample<T: PartialEq + 'static, E: ToString>(
    name: &'static str,
    value: T,
    encode: impl Fn(&T) -> Vec<u8> + 'static,
    decode: impl Fn(&[u8]) -> Result<T, E> + 'static,
) -> Sample {
    let bytes = encode(&value);
    let decode = Box::new(move |bytes: &[u8]| {
        let decoded = decode(bytes).map_err(|error| error.to_string())?;
        Ok(Decoded { is_the_sample: decoded == value, again: encode(&decoded) })
    });
    Sample { name, bytes, decode }
}

fn control<T: Message + PartialEq + 'static>(name: &'static str, value: T) -> Sample {
    sample(name, value, T::encode, T::decode)
}

/// Every message but batches.
pub fn messages() -> Vec<Sample> {
    let mut all = by_hand();
    all.extend(requests());
    all.extend(responses());
    all.extend(consume());
    all.extend(lake::all());
    all.extend(queue::all());
    all
}

fn by_hand() -> Vec<Sample> {
    let hello =
        Hello { version_min: 1, version_max: 258, client_name: "pump-7 1.0 ü".into(), token: "mst_abc".into() };
    let hello_ok = HelloOk { version: 1, server_id: 0x0102_0304_0506_0708, server_version: "0.1.0".into() };
    let refusal = Refusal { code: Code::Throttled, retry_after_ms: 1_500, text: "too much at once: wait".into() };
    let prefix = ProducePrefix { stream: StreamId(0x0a0b_0c0d), partition: PartitionId(258), epoch: Epoch(515) };
    let stored =
        |offset, time| Ok(Produced::Stored(Stored { base_offset: Offset(offset), append_time: Timestamp(time) }));
    let duplicate =
        |index, offset| Duplicate { index, offset: Offset(offset), append_time: Timestamp(1_700_000_000_456) };
    let acks = vec![
        ProduceAck { correlation: 0x0102_0304, result: stored(1_000_000, 1_700_000_000_123) },
        ProduceAck { correlation: 0x0102_0305, result: Err(Refusal::new(Code::RecordTooLarge, "split it")) },
        ProduceAck {
            correlation: 0x0102_0306,
            result: Ok(Produced::Duplicates(vec![duplicate(0, 17), duplicate(9, 3)])),
        },
        ProduceAck { correlation: u64::MAX, result: stored(0, -1) },
    ];
    let batches =
        BatchesPrefix { partition: PartitionId(3), high_watermark: Offset(0x1234_5678_9abc), log_start: Offset(77) };
    let produce = FrameHeader {
        flags: FLAG_RESUME | FLAG_RESEND,
        ..FrameHeader::new(Kind::Produce, 0x0807_0605_0403_0201, 70_000)
    };
    let frame_header = |bytes: &[u8]| match bytes.first_chunk() {
        Some(bytes) => FrameHeader::decode(bytes).map_err(|error| error.to_string()),
        None => Err("a frame header is read whole or not at all".to_owned()),
    };
    vec![
        sample("frame_header", produce, |header| header.encode().to_vec(), frame_header),
        sample("hello", hello, Hello::encode, Hello::decode),
        sample("hello_ok", hello_ok, HelloOk::encode, HelloOk::decode),
        sample("refusal", refusal, Refusal::encode, Refusal::decode),
        sample("open_produce", OpenProduce { depth: 64 }, OpenProduce::encode, OpenProduce::decode),
        sample("produce_prefix", prefix, |prefix| prefix.encode().to_vec(), ProducePrefix::decode),
        sample("produce_acks", acks, |acks| encode_acks(acks), decode_acks),
        sample("batches_prefix", batches, |prefix| prefix.encode().to_vec(), BatchesPrefix::decode),
    ]
}

fn stream_config() -> StreamConfig {
    StreamConfig {
        durability: Durability::Written,
        retention_ms: Some(86_400_000),
        retention_bytes: None,
        segment_bytes: 64 << 20,
        record_bytes_max: 2 << 20,
        cleanup: Cleanup::Compact(Compaction { delete_retention_ms: 0x0a0b_0c0d, min_compaction_lag_ms: 0x0102_0304 }),
        dedup_window_ms: 0x0051_5253,
        max_delay_ms: 0x0061_6263,
        interest: true,
    }
}

fn recovery() -> RecoveryInfo {
    let named = PartitionRecovery {
        stream: "flights".into(),
        partition: 3,
        bytes_read: 4_096,
        bytes_cut: 100,
        files_quarantined: 1,
        holes: 2,
        preambles_restored: 1,
        error: "the disk failed".into(),
    };
    RecoveryInfo {
        took_ms: 740,
        partitions: 2_000,
        offline: 1,
        needed: 1,
        bytes_read: 1 << 20,
        frames_replayed: 17,
        bytes_replayed: 70_000,
        journal_damage: 1,
        bytes_cut: 100,
        files_quarantined: 1,
        holes: 2,
        preambles_restored: 1,
        named: vec![named],
    }
}

fn requests() -> Vec<Sample> {
    let name = || "flights".to_owned();
    let create = |config, mode| Request::CreateStream { name: name(), partitions: 4, config, mode };
    vec![
        control("request_create_stream", create(stream_config(), CreateMode::Explicit)),
        control("request_create_stream_automatic", create(StreamConfig::default(), CreateMode::Automatic)),
        control("request_delete_stream", Request::DeleteStream { name: name() }),
        control("request_list_streams", Request::ListStreams),
        control("request_describe_stream", Request::DescribeStream { name: "a-name-longer-than-8".into() }),
        control("request_delete_before", Request::DeleteBefore { stream: name(), partition: 3, offset: 0x0102_0304 }),
        control("request_describe_recovery", Request::DescribeRecovery),
        control("request_init_producer", Request::InitProducer { name: Some("meter-17".into()) }),
        control("request_bump_producer", Request::BumpProducer { id: 0x0102_0304_0506, epoch: 7, stream: 42 }),
        control("request_join_group", Request::JoinGroup(join())),
        control("request_heartbeat_group", Request::HeartbeatGroup(heartbeat())),
        control("request_leave_group", Request::LeaveGroup { group: "g".into(), member: 0x1718, for_good: true }),
        control("request_commit_offsets", commit_offsets()),
        control("request_fetch_offsets", Request::FetchOffsets { group: "g".into(), partitions: vec![at(42, 3)] }),
        control("request_list_groups", Request::ListGroups),
        control("request_describe_group", Request::DescribeGroup { name: "landing".into() }),
        control("request_reset_group", Request::ResetGroup(reset(ResetTo::Shift(-500)))),
        control("request_reset_group_time", Request::ResetGroup(reset(ResetTo::Time(1_700_000_000_000)))),
        control("request_delete_group", Request::DeleteGroup { name: "landing".into() }),
        control(
            "request_delete_offsets",
            Request::DeleteOffsets { group: "g".into(), stream: name(), partitions: vec![1, 2] },
        ),
    ]
}

fn at(stream: u64, partition: u32) -> StreamPartition {
    StreamPartition { stream, partition }
}

fn join() -> GroupJoin {
    GroupJoin {
        group: "landing".into(),
        member: 0x0102_0304_0506_0708,
        instance: Some("pod-3".into()),
        streams: vec!["flights".into(), "weather".into()],
        session_timeout_ms: 15_000,
        rebalance_timeout_ms: 60_000,
        client: "worker 1.0".into(),
    }
}

fn heartbeat() -> GroupHeartbeat {
    GroupHeartbeat { group: "landing".into(), member: 0x0102_0304_0506_0708, seen: 9, applied: 7, wait_ms: 5_000 }
}

fn commit_offsets() -> Request {
    let commit = |partition, epoch, batch_epoch| OffsetCommit {
        at: at(42, partition),
        epoch,
        offset: 1_000_000,
        batch_epoch,
        metadata: "row 17".into(),
    };
    let commits = vec![commit(0, 3, Some(9)), commit(1, 7, None)];
    Request::CommitOffsets { group: "landing".into(), member: Some(0x0102_0304_0506_0708), commits }
}

fn reset(to: ResetTo) -> GroupReset {
    GroupReset { group: "landing".into(), stream: "flights".into(), partitions: vec![0, 5], to, dry_run: true }
}

fn group_info() -> GroupInfo {
    let member = GroupMember {
        member: 0x0102_0304_0506_0708,
        instance: Some("pod-3".into()),
        client: "worker 1.0".into(),
        streams: vec!["flights".into()],
        session_left_ms: 12_345,
        holds: vec![at(42, 0), at(42, 1)],
    };
    let partition = GroupPartition {
        stream: "flights".into(),
        at: at(42, 0),
        member: Some(0x0102_0304_0506_0708),
        committed: Some(900),
        committed_ms: 1_700_000_000_789,
        log_start: 100,
        high_watermark: 1_000,
        lag: 101,
        metadata: "row 17".into(),
    };
    GroupInfo {
        name: "landing".into(),
        state: GroupState::Rebalancing,
        version: 9,
        members: vec![member],
        partitions: vec![partition],
        lag: 102,
    }
}

fn responses() -> Vec<Sample> {
    let partition = |partition, owner: &str, state| PartitionInfo {
        partition,
        incarnation: 0x1122_3344_5566_7788,
        epoch: 9,
        owner: owner.to_owned(),
        log_start: 100,
        high_watermark: 12_345,
        bytes: 1 << 33,
        state,
    };
    let stream = StreamInfo {
        id: 42,
        name: "flights".into(),
        config: stream_config(),
        created_ms: 1_700_000_000_000,
        partitions: vec![
            partition(0, "", PartitionState::Online),
            partition(1, "127.0.0.1:4650", PartitionState::ReadOnly),
            partition(2, "edge-7", PartitionState::Offline),
        ],
    };
    let summary = |id, name: &str, durability| StreamSummary {
        id,
        name: name.to_owned(),
        partitions: 4,
        durability,
        records: 1_000_000,
        bytes: 1 << 30,
    };
    let streams = vec![summary(1, "a", Durability::Synced), summary(2, "weather.eu-1", Durability::Written)];
    let next = vec![NextSequence { partition: 0, next: Some(1_000) }, NextSequence { partition: 1, next: None }];
    let assigned = |partition, epoch| AssignedPartition { at: at(42, partition), epoch };
    let assignment = Assignment { version: 9, partitions: vec![assigned(0, 3), assigned(1, 7)] };
    let membership = |assignment| Membership { assignment, heartbeat_interval_ms: 5_000 };
    let committed = |code, text: &str| CommitResult { at: at(42, 3), code, text: text.to_owned() };
    let offset = |offset| CommittedOffset { at: at(42, 3), offset, batch_epoch: Some(9), metadata: "row 17".into() };
    let group_summary = GroupSummary {
        name: "landing".into(),
        state: GroupState::Stable,
        members: 3,
        streams: vec!["flights".into()],
        lag: 17,
    };
    vec![
        control("response_done", Response::Done),
        control("response_stream", Response::Stream(stream)),
        control("response_streams", Response::Streams(streams)),
        control("response_offset", Response::Offset(0x0102_0304_0506_0708)),
        control("response_recovery", Response::Recovery(recovery())),
        control("response_producer", Response::Producer { id: 0x0102_0304_0506, epoch: 7 }),
        control("response_producer_bumped", Response::ProducerBumped { epoch: 8, partitions: next }),
        control("response_membership", Response::Membership(membership(Some(assignment)))),
        control("response_membership_same", Response::Membership(membership(None))),
        control("response_committed", Response::Committed(vec![committed(0, ""), committed(307, "it has moved")])),
        control("response_offsets", Response::Offsets(vec![offset(Some(17)), offset(None)])),
        control("response_groups", Response::Groups(vec![group_summary])),
        control("response_group", Response::Group(group_info())),
    ]
}

fn consume() -> Vec<Sample> {
    let starts = [
        Start::Earliest,
        Start::Latest,
        Start::Offset { offset: 0x0102_0304, epoch: Some(7) },
        Start::Offset { offset: 5, epoch: None },
        Start::Time(-1_700_000_000_000),
    ];
    let partitions = (0..).zip(starts).map(|(partition, start)| ConsumeStart { partition, start }).collect();
    let open = ConsumeOpen { stream: 42, partitions, mode: ConsumeMode::Bounded };
    let follow = ConsumeOpen { stream: 43, partitions: Vec::new(), mode: ConsumeMode::Follow };
    let positions = vec![
        ConsumePosition { partition: 0, offset: 100, high_watermark: 12_345, log_start: 77 },
        ConsumePosition { partition: 1, offset: 0, high_watermark: 0, log_start: 0 },
    ];
    let code = Code::RecordsLost.number();
    vec![
        control("consume_open", open),
        control("consume_open_follow", follow),
        control("consume_opened", ConsumeOpened { positions }),
        control("consume_event_end", ConsumeEvent::End { partition: 3, offset: 12_345 }),
        control(
            "consume_event_gap",
            ConsumeEvent::Gap { partition: 3, from: 10, resume: 20, code, text: "damaged".into() },
        ),
        control(
            "consume_event_failed",
            ConsumeEvent::Failed { partition: 3, code: Code::LogTruncated.number(), text: "the tail is gone".into() },
        ),
    ]
}

/// Records with everything a record can have and lack. They compress with every codec.
pub fn records() -> Vec<Record> {
    let long = "0123456789".repeat(20);
    vec![
        Record::new("42.5 km").key("ride-17").timestamp(Timestamp(1_700_000_000_000)),
        Record::tombstone("ride-16").timestamp(Timestamp(1_700_000_000_001)),
        Record::default().timestamp(Timestamp(-1)),
        Record::new("").key("").timestamp(Timestamp(0)),
        Record {
            headers: vec![
                Header { name: "trace".into(), value: Some(Bytes::from_static(b"\x00\xff")) },
                Header { name: "trace".into(), value: Some(Bytes::new()) },
                Header { name: "größe".into(), value: None },
                Header { name: "ms-correlation-id".into(), value: Some("17".into()) },
            ],
            ..Record::new(long).timestamp(Timestamp(1_800_000_000_000))
        },
    ]
}

/// [`records`] as a client sends them.
pub fn batch(codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    builder.producer(ProducerId(0x0123_4567), 0x89ab, 0x00cd_ef01);
    for record in records() {
        builder.push(&record).expect("the sample is legal");
    }
    let bytes = builder.finish().expect("the sample has records");
    let header = BatchView::parse(&bytes).expect("just built").header().codec;
    assert_eq!(header, codec, "the sample must be worth compressing");
    bytes.into()
}

/// The stamp of [`stamped`].
pub const STAMP: Stamp = Stamp {
    base_offset: Offset(0x0102_0304_0506),
    append_time: Timestamp(1_750_000_000_000),
    epoch: Epoch(9),
    synced_end: Offset(0x0102_0304_0500),
};

/// [`batch`] as a server of [`INCARNATION`] stores it.
pub fn stamped(codec: Codec) -> Vec<u8> {
    let mut bytes = batch(codec);
    stamp(&mut bytes, &STAMP, INCARNATION);
    bytes
}
