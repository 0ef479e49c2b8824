//! Samples of what queues say.

use millstream_protocol::frame::control::{Request, Response};
use millstream_protocol::frame::delivery::{
    DeliveredRun, Deliveries, Receipt, Receive, Received, Verb, VerbRun, decode_results, decode_verbs, decode_window,
    encode_results, encode_verbs, encode_window,
};
use millstream_protocol::frame::queue::{
    HeldDelivery, OnDead, PeekedHeader, PeekedMessage, QueueBackoff, QueueConfig, QueueCounts, QueueInfo, QueueOpen,
    QueueOpened, QueueOrdering, QueuePartition, QueueStart, QueueSummary, RedriveInfo, RedriveOptions, RedriveStatus,
    Standing,
};
use millstream_protocol::{Code, Incarnation, PartitionId, QueueId};

use super::{Sample, control, sample};

pub fn all() -> Vec<Sample> {
    let mut all = data();
    all.extend(requests());
    all.extend(responses());
    all
}

fn receipt() -> Receipt {
    Receipt {
        queue: QueueId(0x0102_0304_0506_0708),
        epoch: 0x1112_1314,
        partition: 0x2122_2324,
        offset: 0x3132_3334_3536_3738,
        redriven: 0x4142,
        fence: 0x5152_5354_5556_5758,
    }
}

fn data() -> Vec<Sample> {
    let run = |offset, count| DeliveredRun {
        offset,
        fence: 0x0107_0000_0000_0001 + offset,
        first_ms: 1_700_000_000_123,
        count,
        receives: 3,
        redriven: 1,
    };
    let deliveries = Deliveries {
        partition: PartitionId(258),
        incarnation: Incarnation(0x1122_3344_5566_7788),
        epoch: 9,
        runs: vec![run(0x0a0b_0c0d, 32), run(0x0e0f, 1)],
    };
    let verb = |count, verb| VerbRun { first: receipt(), count, verb };
    let verbs = vec![
        verb(7, Verb::Ack),
        verb(1, Verb::Nack { delay_ms: Some(0x0102_0304), error: "no größe".into() }),
        verb(2, Verb::Nack { delay_ms: None, error: String::new() }),
        verb(3, Verb::Release),
        verb(4, Verb::Extend { visibility_ms: 43_200_000 }),
        verb(1, Verb::Reject { error: "hopeless".into() }),
    ];
    let results = vec![None, None, Some(Code::ReceiptExpired), Some(Code::AlreadySettled), None];
    let receive = Receive {
        messages_max: 258,
        bytes_max: 0x000f_0e0d,
        wait_ms: 20_000,
        visibility_ms: Some(30_000),
        attempt: 0x0102_0304_0506_0708_1112_1314_1516_1718,
    };
    let front = |body: &[u8]| match Deliveries::decode(body) {
        Ok((deliveries, length)) if length == body.len() => Ok(deliveries),
        Ok(_) => Err("the batches are not part of the sample".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    vec![
        sample("queue_receipt", receipt(), |receipt| receipt.to_bytes().to_vec(), Receipt::from_bytes),
        sample("queue_deliveries", deliveries, Deliveries::encode, front),
        sample("queue_verbs", verbs, |verbs| encode_verbs(verbs), decode_verbs),
        sample(
            "queue_results",
            results,
            |results| encode_results(results.iter().copied()),
            |body| decode_results(body, 5),
        ),
        sample("queue_receive", receive, Receive::encode, Receive::decode),
        sample("queue_received", Received { messages: 258, at_limit: true }, Received::encode, Received::decode),
        sample("queue_window", 0x0102_0304, |window| encode_window(*window), decode_window),
        control(
            "queue_open",
            QueueOpen {
                queue: "work".into(),
                receiver: 0x0102_0304_0506_0708_1112_1314_1516_1718,
                window: 258,
                visibility_ms: Some(30_000),
                held: Some(vec![HeldDelivery { partition: 3, fence: 0x0107_0000_0000_0001 }]),
            },
        ),
        control(
            "queue_opened",
            QueueOpened { queue: 17, stream: "jobs".into(), visibility_ms: 30_000, window: 258, is_fifo: true },
        ),
    ]
}

fn config() -> QueueConfig {
    QueueConfig {
        filter: "value.distance >= 2000.0".into(),
        ordering: QueueOrdering::Fifo { group_batch: 7, on_dead: OnDead::Park },
        visibility_ms: 0x0001_0203,
        max_receives: Some(5),
        dead_letter: Some("dead".into()),
        delay_ms: 0x0004_0506,
        backoff: QueueBackoff { min_ms: 0x0708, max_ms: 0x090a_0b0c, factor_percent: 250 },
        disconnect_grace_ms: Some(0x0d0e),
        ttl_ms: Some(0x0f10_1112),
        keeps_expired: true,
        in_flight_max: 0x0013_1415,
        receiver_in_flight_max: 0x1617,
    }
}

fn requests() -> Vec<Sample> {
    let name = || "work".to_owned();
    let options =
        RedriveOptions { filter: "true".into(), limit: Some(100), rate_per_s: Some(50), to: Some("again".into()) };
    let (stream, start) = ("jobs".to_owned(), QueueStart::Time(-1_700_000_000_000));
    let peek =
        Request::PeekQueue { name: name(), partition: Some(3), from: Some(0x0102_0304), max: 10, only_parked: true };
    let unpark = Request::UnparkQueue {
        name: name(),
        partition: 3,
        offset: Some(77),
        key: Some(b"\x00k".to_vec()),
        retry: true,
    };
    vec![
        control("request_create_queue", Request::CreateQueue { name: name(), stream, config: config(), start }),
        control("request_update_queue", Request::UpdateQueue { name: name(), config: config() }),
        control("request_delete_queue", Request::DeleteQueue { name: name() }),
        control("request_list_queues", Request::ListQueues),
        control("request_describe_queue", Request::DescribeQueue { name: name() }),
        control("request_purge_queue", Request::PurgeQueue { name: name() }),
        control("request_seek_queue", Request::SeekQueue { name: name(), to: QueueStart::Offset(0x0102_0304) }),
        control("request_pause_queue", Request::PauseQueue { name: name(), is_paused: true }),
        control("request_peek_queue", peek),
        control("request_unpark_queue", unpark),
        control("request_redrive_queue", Request::RedriveQueue { name: name(), options }),
        control("request_describe_redrive", Request::DescribeRedrive { name: name() }),
        control("request_cancel_redrive", Request::CancelRedrive { name: name() }),
    ]
}

fn counts() -> QueueCounts {
    QueueCounts {
        available: 1,
        in_flight: 2,
        delayed: 3,
        dying: 4,
        parked: 5,
        waiting: 6,
        acked: 7,
        filtered: 8,
        dead: 9,
        expired: 10,
        expired_by_retention: 11,
        removed: 12,
        lost: 13,
        purged: 14,
        filter_errors: 15,
        entries: 16,
    }
}

fn responses() -> Vec<Sample> {
    let info = QueueInfo {
        id: 17,
        name: "work".into(),
        stream: "jobs".into(),
        config: config(),
        epoch: 3,
        is_paused: true,
        created_ms: 1_700_000_000_000,
        rule_from: vec![100, 200],
        receivers: 4,
        total: counts(),
        oldest_age_ms: 5_000,
        partitions: vec![QueuePartition {
            partition: 1,
            counts: counts(),
            floor: 77,
            end: 12_345,
            oldest_ms: Some(1_700_000_000_001),
            error: "damaged".into(),
        }],
    };
    let summary = QueueSummary {
        name: "work".into(),
        stream: "jobs".into(),
        ordering: QueueOrdering::Unordered,
        is_paused: false,
        dead_letter: Some("dead".into()),
    };
    let peeked = PeekedMessage {
        partition: 3,
        offset: 77,
        standing: Standing::Delayed(1_700_000_000_002),
        receives: 2,
        redriven: 1,
        first_ms: 1_700_000_000_000,
        append_ms: 1_699_000_000_000,
        timestamp_ms: -5,
        key: Some(b"ride-17".to_vec()),
        headers: vec![PeekedHeader { name: "trace".into(), value: None }],
        value: Some(b"42.5 km".to_vec()),
    };
    let redrive = RedriveInfo {
        id: 5,
        options: RedriveOptions { limit: Some(9), ..RedriveOptions::default() },
        began_ms: 1_700_000_000_003,
        status: RedriveStatus::Cancelled,
        looked_at: 1,
        redriven: 2,
        skipped: 3,
        failed: 4,
        left: 5,
        error: "disk full".into(),
    };
    vec![
        control("response_queue", Response::Queue(info)),
        control("response_queues", Response::Queues(vec![summary])),
        control("response_count", Response::Count(0x0102_0304)),
        control("response_peeked", Response::Peeked(vec![peeked])),
        control("response_redrive", Response::Redrive(Some(redrive))),
        control("response_redrive_none", Response::Redrive(None)),
    ]
}
