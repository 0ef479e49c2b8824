//! Queues over real QUIC, with the client that users have: messages asked for and pushed, what is said of them, lost
//! connections and restarts, dead letters, order, and each bad input with its error.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream_client::{
    Client, Code, Message, MessageReceipt, Messages, OnDead, PartitionId, QueueBackoff, QueueConfig, QueueOrdering,
    QueueStart, Record, RedriveOptions, RedriveStatus, Said, Start, StreamConfig,
};
use millstream_server::{Server, ServerConfig};
use support::{Rig, config, soon, until};

const WAIT: Duration = Duration::from_secs(15);
const NOW: Duration = Duration::ZERO;

async fn client(server: &Server) -> Client {
    soon(Client::connect(server.address().to_string(), server.fingerprint())).await.expect("connected")
}

/// A server with the stream `jobs`, and a client.
async fn rig(partitions: u32) -> (Rig, Client) {
    let rig = Rig::start().await;
    let client = client(&rig.server).await;
    client.create_stream("jobs", partitions, StreamConfig::default()).await.expect("made");
    (rig, client)
}

async fn queue(client: &Client, name: &str, config: QueueConfig) -> millstream_client::Queue {
    client.create_queue(name, "jobs", config, QueueStart::Earliest).await.expect("made");
    client.queue(name)
}

async fn produce(client: &Client, records: impl IntoIterator<Item = Record>) {
    let producer = client.producer("jobs").build().await.expect("a producer");
    let receipts: Vec<_> = {
        let mut receipts = Vec::new();
        for record in records {
            receipts.push(producer.enqueue(record).await.expect("enqueued"));
        }
        receipts
    };
    for receipt in receipts {
        receipt.await.expect("stored");
    }
    producer.close().await.expect("closed");
}

fn texts(range: std::ops::Range<u64>) -> impl Iterator<Item = Record> {
    range.map(|n| Record::new(format!("job {n}")))
}

fn text(message: &Message) -> String {
    String::from_utf8(message.record().value.clone().expect("a value").to_vec()).expect("text")
}

fn header(message: &Message, name: &str) -> String {
    let header = message.record().headers.iter().find(|header| header.name == name).expect("the header is there");
    String::from_utf8(header.value.clone().expect("a value").to_vec()).expect("text")
}

async fn next(messages: &mut Messages) -> Message {
    soon(messages.next()).await.expect("it goes on").expect("no error")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_comes_to_one_of_many_receivers_and_once() {
    let (rig, client) = rig(3).await;
    queue(&client, "work", QueueConfig::default()).await;
    let mut seen = BTreeSet::new();
    let (found, mut all) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..4 {
        let client = self::client(&rig.server).await;
        let found = found.clone();
        tasks.spawn(async move {
            let mut messages = client.queue("work").messages().window(8 << n).open().await.expect("opened");
            while let Some(message) = messages.next().await {
                let message = message.expect("no error");
                assert_eq!((message.receive_count(), message.redriven()), (1, 0));
                message.ack().await.expect("durable");
                found.send((n, text(&message))).expect("the test waits");
            }
        });
    }
    produce(&client, texts(0..5_000)).await;
    let mut by_receiver = BTreeMap::<u32, u64>::new();
    while seen.len() < 5_000 {
        let (n, text) = soon(all.recv()).await.expect("receivers go on");
        assert!(seen.insert(text.clone()), "{text} came twice");
        *by_receiver.entry(n).or_default() += 1;
    }
    assert_eq!(by_receiver.len(), 4, "each had its share: {by_receiver:?}");
    tasks.shutdown().await;
    let info = client.describe_queue("work").await.expect("described");
    assert_eq!((info.total.acked, info.total.entries, info.oldest_age_ms), (5_000, 0, 0), "{info:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receives_wait_for_the_first_and_take_what_is_there() {
    let (rig, client) = rig(1).await;
    let work = queue(&client, "work", QueueConfig::default()).await;
    assert!(work.receive(10, NOW).await.expect("empty is success").is_empty());
    let waiting = tokio::spawn({
        let work = work.clone();
        async move { work.receive(10, WAIT).await }
    });
    produce(&client, texts(0..1)).await;
    let first = soon(waiting).await.expect("no panic").expect("received");
    assert_eq!(first.iter().map(text).collect::<Vec<_>>(), ["job 0"]);
    produce(&client, texts(1..40)).await;
    let some = until(|| async {
        let some = work.receive(7, NOW).await.expect("received");
        (!some.is_empty()).then_some(some)
    })
    .await;
    assert!(some.len() <= 7);
    // A receipt works in another client, and text is enough to keep it.
    let kept: MessageReceipt = some[0].receipt().to_string().parse().expect("a receipt");
    let other = self::client(&rig.server).await;
    other.queue("work").ack(kept).await.expect("acknowledged");
    assert_eq!(some[0].ack().await.expect("done already is done"), Said::Done);
    assert_eq!(
        other.queue("work").nack(kept, None, "late").await.expect_err("it is settled").code(),
        Code::ReceiptExpired
    );
    // Bytes bound an answer, but one message comes in any case.
    produce(&client, [Record::new(vec![7; 900 << 10]), Record::new(vec![8; 900 << 10])]).await;
    work.receive(1_000, WAIT).await.expect("the small ones");
    let large = until(|| async {
        let large = work.receive(1_000, NOW).await.expect("received");
        (!large.is_empty()).then_some(large)
    })
    .await;
    assert!(large.iter().map(|m| m.record().value.as_ref().map_or(0, |v| v.len())).sum::<usize>() <= 1 << 20);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_delivery_holds_as_promised() {
    let (rig, client) = rig(1).await;
    client.create_stream("dead", 1, StreamConfig::default()).await.expect("made");
    let config = QueueConfig {
        max_receives: Some(3),
        dead_letter: Some("dead".into()),
        backoff: QueueBackoff { min_ms: 0, ..QueueBackoff::default() },
        ..QueueConfig::default()
    };
    let work = queue(&client, "work", config).await;
    produce(&client, texts(0..4)).await;
    let mut messages = work.messages().open().await.expect("opened");
    let (poison, released, extended, rejected) =
        (next(&mut messages).await, next(&mut messages).await, next(&mut messages).await, next(&mut messages).await);
    released.release().await.expect("released");
    let again = next(&mut messages).await;
    assert_eq!((text(&again), again.receive_count()), ("job 1".into(), 1), "a release does not count");
    assert_eq!(released.ack().await.expect_err("its receipt is void").code(), Code::ReceiptExpired);
    again.ack().await.expect("acknowledged");
    extended.extend(Duration::from_secs(3_600)).await.expect("extended");
    assert_eq!(
        extended.extend(Duration::from_secs(13 * 3_600)).await.expect_err("above 12 hours").code(),
        Code::VisibilityOutOfRange
    );
    extended.ack().await.expect("acknowledged");
    rejected.reject("hopeless").await.expect("rejected");
    poison.nack("first").await.expect("failed");
    let second = next(&mut messages).await;
    assert_eq!((second.receive_count(), text(&second)), (2, "job 0".into()));
    assert_eq!(second.first_received(), poison.first_received());
    assert!(second.fencing_token() > poison.fencing_token());
    second.nack_after(Duration::from_millis(1), "second").await.expect("failed");
    let third = next(&mut messages).await;
    assert_eq!(third.receive_count(), 3);
    third.nack("third").await.expect("failed");
    let graves = queue_on(&client, "graves", "dead").await;
    let mut dead = graves.messages().open().await.expect("opened");
    let mut found = [next(&mut dead).await, next(&mut dead).await];
    found.sort_by_key(text);
    let said = |message: &Message| (text(message), header(message, "ms-dl-reason"), header(message, "ms-dl-error"));
    assert_eq!(said(&found[0]), ("job 0".into(), "max_receives".into(), "third".into()));
    assert_eq!(said(&found[1]), ("job 3".into(), "rejected".into(), "hopeless".into()));
    assert_eq!((header(&found[0], "ms-dl-receives"), header(&found[0], "ms-dl-queue")), ("3".into(), "work".into()));
    until(|| async {
        let info = client.describe_queue("work").await.expect("described");
        (info.total.dead == 2 && info.total.acked == 2).then_some(())
    })
    .await;
    let foreign = graves.receive(1, NOW).await.expect("received");
    assert!(foreign.is_empty(), "all of them are out");
    assert_eq!(work.ack(found[0].receipt()).await.expect_err("another queue's").code(), Code::ReceiptForeign);
    rig.stop().await;
}

async fn queue_on(client: &Client, name: &str, stream: &str) -> millstream_client::Queue {
    client.create_queue(name, stream, QueueConfig::default(), QueueStart::Earliest).await.expect("made");
    client.queue(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_worked_on_in_order_by_many_workers_whatever_fails() {
    let (rig, client) = rig(4).await;
    client.create_stream("dead", 1, StreamConfig::default()).await.expect("made");
    let ordering = QueueOrdering::Fifo { group_batch: 5, on_dead: OnDead::Skip };
    let backoff = QueueBackoff { min_ms: 0, ..QueueBackoff::default() };
    let work = queue(
        &client,
        "work",
        QueueConfig { ordering, backoff, dead_letter: Some("dead".into()), ..QueueConfig::default() },
    )
    .await;
    let (keys, each) = (20u64, 30u64);
    produce(&client, (0..keys * each).map(|n| Record::new(n.to_string()).key(format!("key {}", n % keys)))).await;
    let done: Arc<parking_lot::Mutex<BTreeMap<u64, Vec<u64>>>> = Arc::default();
    let (count, failures) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stop = Arc::new(tokio::sync::Notify::new());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (done, count, failures, stop) = (done.clone(), count.clone(), failures.clone(), stop.clone());
        let worker = work.worker(6).extend_while_running();
        tasks.spawn(async move {
            let handler = |message: Message| {
                let (done, count, failures, stop) = (done.clone(), count.clone(), failures.clone(), stop.clone());
                async move {
                    let n: u64 = text(&message).parse().expect("a number");
                    // One in seven fails at its first delivery.
                    if n % 7 == 3 && message.receive_count() == 1 {
                        failures.fetch_add(1, Ordering::Relaxed);
                        return Err("not today");
                    }
                    done.lock().entry(n % keys).or_default().push(n);
                    if count.fetch_add(1, Ordering::Relaxed) + 1 == keys * each {
                        stop.notify_waiters();
                        stop.notify_one();
                    }
                    Ok(())
                }
            };
            worker
                .run_until(handler, async {
                    tokio::select! { () = stop.notified() => {}, () = tokio::time::sleep(WAIT) => {} }
                })
                .await
        });
    }
    let (mut acked, mut failed) = (0, 0);
    while let Some(report) = tasks.join_next().await {
        let report = report.expect("no panic").expect("no error");
        stop.notify_waiters();
        (acked, failed) = (acked + report.acked, failed + report.failed);
    }
    assert_eq!(count.load(Ordering::Relaxed), keys * each, "{failed} failed");
    assert_eq!((acked, failed), (keys * each, failures.load(Ordering::Relaxed)));
    for (key, numbers) in done.lock().iter() {
        let expected: Vec<u64> = (0..each).map(|n| n * keys + key).collect();
        assert_eq!(numbers, &expected, "key {key}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_loses_nothing_and_repeats_only_what_was_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = soon(Server::start(config(dir.path()))).await.expect("it starts");
    let address = server.address();
    let client = self::client(&server).await;
    client.create_stream("jobs", 2, StreamConfig::default()).await.expect("made");
    let work = queue(&client, "work", QueueConfig::default()).await;
    produce(&client, texts(0..200)).await;
    let mut messages = work.messages().window(40).open().await.expect("opened");
    let mut held = Vec::new();
    for _ in 0..20 {
        next(&mut messages).await.ack().await.expect("acknowledged");
    }
    for _ in 0..40 {
        held.push(next(&mut messages).await);
    }
    soon(server.stop()).await.expect("it stops");
    // Said while nobody is there to hear it.
    let late = held[0].ack();
    let again = ServerConfig { listen: address, ..config(dir.path()) };
    let server = soon(Server::start(again)).await.expect("it starts again");
    let mut acked = 20;
    match soon(late).await {
        Ok(_) => acked += 1,
        Err(error) => assert_eq!(error.code(), Code::ReceiptExpired),
    }
    let mut seen = BTreeSet::new();
    while acked < 200 {
        let message = next(&mut messages).await;
        assert!(seen.insert(text(&message)), "twice without a reason");
        message.ack().await.expect("acknowledged");
        acked += 1;
    }
    drop(held);
    until(|| async {
        let info = client.describe_queue("work").await.ok()?;
        (info.total.acked == 200 && info.total.entries == 0).then_some(())
    })
    .await;
    messages.close().await.expect("closed");
    soon(server.stop()).await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_receiver_had_comes_to_another_after_the_grace() {
    let (rig, client) = rig(1).await;
    let config = QueueConfig { disconnect_grace_ms: Some(100), visibility_ms: 3_600_000, ..QueueConfig::default() };
    queue(&client, "work", config).await;
    produce(&client, texts(0..10)).await;
    let dying = self::client(&rig.server).await;
    let mut messages = dying.queue("work").messages().window(10).open().await.expect("opened");
    let mut had = Vec::new();
    for _ in 0..10 {
        had.push(next(&mut messages).await);
    }
    dying.close().await;
    let mut heir = client.queue("work").messages().window(10).open().await.expect("opened");
    for _ in 0..10 {
        let message = next(&mut heir).await;
        assert_eq!(message.receive_count(), 2, "it may have killed its receiver: it counts");
        message.ack().await.expect("acknowledged");
    }
    drop((had, messages));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_fan_out_purge_seek_pause_and_deletion() {
    let (rig, client) = rig(2).await;
    let far = QueueConfig { filter: "value.distance >= 2000.0".into(), ..QueueConfig::default() };
    let far = queue(&client, "far", far).await;
    let all = queue(&client, "all", QueueConfig::default()).await;
    produce(&client, (0..100).map(|n| Record::new(format!("{{\"distance\": {}}}", n * 100)).key(n.to_string()))).await;
    let drain = |queue: millstream_client::Queue, expected: usize| async move {
        let mut messages = queue.messages().window(1_000).open().await.expect("opened");
        let mut found = Vec::new();
        for _ in 0..expected {
            found.push(next(&mut messages).await);
        }
        (found, messages)
    };
    let (found, messages) = drain(far.clone(), 80).await;
    for message in &found {
        message.ack().await.expect("acknowledged");
    }
    drop((found, messages));
    let info = until(|| async {
        let info = client.describe_queue("far").await.expect("described");
        (info.total.acked == 80 && info.total.filtered == 20).then_some(info)
    })
    .await;
    assert_eq!((info.total.available, info.total.waiting), (0, 0));
    client.pause_queue("all", true).await.expect("paused");
    assert!(all.receive(10, NOW).await.expect("received").is_empty());
    client.pause_queue("all", false).await.expect("goes on");
    assert_eq!(client.purge_queue("all").await.expect("purged"), 100);
    assert!(all.receive(10, NOW).await.expect("received").is_empty());
    client.seek_queue("all", QueueStart::Earliest).await.expect("moved");
    let (found, mut messages) = drain(all.clone(), 100).await;
    let names: Vec<String> = client.list_queues().await.expect("listed").into_iter().map(|queue| queue.name).collect();
    assert_eq!(names, ["all", "far"]);
    client.delete_queue("all").await.expect("deleted");
    let ended = loop {
        match soon(messages.next()).await.expect("an error comes") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(ended.code(), Code::QueueDeleted | Code::UnknownQueue), "{ended}");
    assert!(messages.next().await.is_none());
    let late = found[0].ack().await.expect_err("nothing is left");
    assert!(matches!(late.code(), Code::QueueDeleted | Code::ConnectionLost | Code::UnknownQueue), "{late}");
    // The stream is untouched.
    let mut consumer = client.consumer("jobs").start(Start::Earliest).bounded().build().await.expect("a consumer");
    let mut records = 0;
    while let Some(record) = consumer.next().await {
        record.expect("a record");
        records += 1;
    }
    assert_eq!(records, 100);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_input_has_its_error() {
    let (rig, client) = rig(1).await;
    let make = |name: &'static str, stream: &'static str, config: QueueConfig| {
        let client = client.clone();
        async move { client.create_queue(name, stream, config, QueueStart::Latest).await.expect_err("refused") }
    };
    let with = |change: fn(&mut QueueConfig)| {
        let mut config = QueueConfig::default();
        change(&mut config);
        config
    };
    let error = make("q", "jobs", with(|config| config.filter = "value.fare >= ".into())).await;
    assert_eq!(error.code(), Code::FilterInvalid);
    assert!(error.to_string().contains("byte 14"), "it names the place: {error}");
    assert_eq!(
        make("q", "jobs", with(|config| config.dead_letter = Some("jobs".into()))).await.code(),
        Code::DeadLetterCycle
    );
    assert_eq!(
        make("q", "jobs", with(|config| config.dead_letter = Some("none".into()))).await.code(),
        Code::UnknownStream
    );
    assert_eq!(
        make("q", "jobs", with(|config| config.visibility_ms = 43_200_001)).await.code(),
        Code::VisibilityOutOfRange
    );
    assert_eq!(make("q", "jobs", with(|config| config.delay_ms = 900_001)).await.code(), Code::IllegalSetting);
    assert_eq!(make("q", "none", QueueConfig::default()).await.code(), Code::UnknownStream);
    assert_eq!(make("no/way", "jobs", QueueConfig::default()).await.code(), Code::IllegalName);
    queue(&client, "work", QueueConfig::default()).await;
    assert_eq!(make("work", "jobs", QueueConfig::default()).await.code(), Code::QueueExists);
    let unknown = client.queue("nobody");
    assert_eq!(unknown.receive(1, NOW).await.expect_err("unknown").code(), Code::UnknownQueue);
    assert_eq!(client.describe_queue("nobody").await.expect_err("unknown").code(), Code::UnknownQueue);
    assert_eq!(client.delete_queue("nobody").await.expect_err("unknown").code(), Code::UnknownQueue);
    let work = client.queue("work");
    assert_eq!(work.receive(0, NOW).await.expect_err("none").code(), Code::IllegalSetting);
    assert_eq!(work.receive(1, Duration::from_secs(61)).await.expect_err("too long").code(), Code::IllegalSetting);
    let too_long = work.receive_for(1, NOW, Duration::from_secs(43_201)).await.expect_err("too long");
    assert_eq!(too_long.code(), Code::VisibilityOutOfRange);
    assert!("00ff".parse::<MessageReceipt>().is_err() && "zz".repeat(35).parse::<MessageReceipt>().is_err());
    let producer = client.producer("jobs").build().await.expect("a producer");
    let late = Record::new("x").header("ms-delay", (7 * 86_400_000 + 1).to_string());
    let error = producer.enqueue(late).await.expect_err("too late");
    assert_eq!(error.code(), Code::DelayTooLong);
    assert!(error.to_string().contains("604800001"), "it names the delay: {error}");
    produce(&client, texts(0..1)).await;
    let message = work.receive(1, WAIT).await.expect("received").pop().expect("one");
    assert_eq!(message.partition(), PartitionId(0));
    assert_eq!(message.reject("no").await.expect_err("nowhere to go").code(), Code::NoDeadLetter);
    message.nack_after(NOW, "again").await.expect("failed");
    let second = work.receive(1, WAIT).await.expect("received").pop().expect("one");
    assert_eq!(message.ack().await.expect_err("stale").code(), Code::ReceiptExpired);
    second.ack().await.expect("acknowledged");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_message_is_looked_at_dies_and_comes_back_to_its_queue_alone() {
    let (rig, client) = rig(2).await;
    client.create_stream("dead", 1, StreamConfig::default()).await.expect("made");
    let config = QueueConfig {
        max_receives: Some(3),
        dead_letter: Some("dead".into()),
        backoff: QueueBackoff { min_ms: 0, ..QueueBackoff::default() },
        ..QueueConfig::default()
    };
    let work = queue(&client, "work", config.clone()).await;
    queue(&client, "other", config).await;
    produce(&client, texts(0..20)).await;
    let peeked = client.peek_queue("work", None, None, 100, false).await.expect("peeked");
    assert_eq!(peeked.len(), 20);
    assert!(peeked.iter().all(|message| message.receives == 0), "{peeked:?}");
    let mut messages = work.messages().window(5).open().await.expect("opened");
    let mut left = 19 + 3;
    while left > 0 {
        let message = next(&mut messages).await;
        if text(&message) == "job 7" {
            message.nack("a bug").await.expect("failed");
        } else {
            message.ack().await.expect("acknowledged");
        }
        left -= 1;
    }
    until(|| async {
        let info = client.describe_queue("work").await.expect("described");
        (info.total.dead == 1 && info.total.acked == 19).then_some(())
    })
    .await;
    // The fix is there: it is brought back, and succeeds.
    let nothing = client.redrive_queue("other", RedriveOptions::default()).await.expect("begun");
    assert_eq!(nothing.options, RedriveOptions::default());
    client.redrive_queue("work", RedriveOptions::default()).await.expect("begun");
    let again = next(&mut messages).await;
    assert_eq!((text(&again), again.redriven(), again.receive_count()), ("job 7".into(), 1, 1));
    again.ack().await.expect("acknowledged");
    let done = |name: &'static str| {
        let client = client.clone();
        async move {
            let info = client.describe_redrive(name).await.expect("described").expect("there is one");
            (info.status == RedriveStatus::Done).then_some(info)
        }
    };
    let info = until(|| done("work")).await;
    assert_eq!((info.redriven, info.skipped, info.failed, info.left), (1, 0, 0, 0), "{info:?}");
    let info = until(|| done("other")).await;
    assert_eq!((info.redriven, info.skipped), (0, 1), "another queue's letter: {info:?}");
    // A letter brings its message back once.
    client.redrive_queue("work", RedriveOptions::default()).await.expect("begun");
    let info = until(|| done("work")).await;
    assert_eq!((info.redriven, info.skipped), (0, 1), "{info:?}");
    let info = client.describe_queue("other").await.expect("described");
    assert_eq!(info.total.acked + info.total.dead, 0, "the other queue saw nothing: {info:?}");
    let error =
        client.redrive_queue("work", RedriveOptions { filter: "1 +".into(), ..RedriveOptions::default() }).await;
    assert_eq!(error.expect_err("no filter").code(), Code::FilterInvalid);
    assert_eq!(
        client.peek_queue("work", None, None, 101, false).await.expect_err("too many").code(),
        Code::IllegalSetting
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_queue_has_its_metrics() {
    let (rig, client) = rig(1).await;
    let work = queue(&client, "work", QueueConfig::default()).await;
    let odd = QueueConfig { filter: "value.n % 2 == 1".to_owned(), ..QueueConfig::default() };
    queue(&client, "odd", odd).await;
    produce(&client, (0..10).map(|n| Record::new(format!("{{\"n\":{n}}}")))).await;
    produce(&client, [Record::new("no JSON")]).await;
    let messages = work.receive(4, WAIT).await.expect("received");
    messages[0].ack().await.expect("acknowledged");
    let odds = client.queue("odd").receive(1, WAIT).await.expect("received");
    // The rest is looked at, too.
    let rest = client.queue("odd").receive(10, NOW).await.expect("received");
    let none = client.queue("odd").receive(1, NOW).await.expect("received");
    assert_eq!((messages.len(), odds.len() + rest.len(), none.len()), (4, 5, 0));
    let lines = [
        "millstream_queue_available{queue=\"work\"} 7",
        "millstream_queue_in_flight{queue=\"work\"} 3",
        "millstream_queue_in_flight{queue=\"odd\"} 5",
        "millstream_queue_settled_total{queue=\"work\",how=\"acked\"} 1",
        "millstream_queue_settled_total{queue=\"odd\",how=\"filtered\"} 6",
        "millstream_queue_filter_errors_total{queue=\"odd\"} 1",
    ];
    until(|| async {
        let (_, metrics) = support::get(&rig.server, "/metrics").await;
        lines.iter().all(|line| metrics.lines().any(|found| found == *line)).then_some(())
    })
    .await;
    drop((messages, odds, rest));
    rig.stop().await;
}
