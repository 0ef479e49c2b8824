//! A group's member against a server that does as the test says: what it is told and in which order, what it commits and
//! when, and that nothing is lost or comes twice while partitions, connections and memberships come and go.

mod support;

use std::time::Duration;

use millstream_client::{
    Client, Code, Commit, Epoch, GroupConsumer, GroupConsumerBuilder, GroupEvent, NamedPartition, Offset, PartitionId,
    Start,
};
use millstream_protocol::frame::control::{ConsumeEvent, Start as WireStart};
use support::group::held;
use support::{Fake, Piece, STREAM, fill};

/// Nothing here takes this long.
const DEADLINE: Duration = Duration::from_secs(20);

fn named(partition: u32) -> NamedPartition {
    NamedPartition { stream: STREAM.into(), partition: PartitionId(partition) }
}

fn member(client: &Client) -> GroupConsumerBuilder {
    client.group("landing").stream(STREAM).commit(Commit::Manual)
}

/// Waits until something holds of the server.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn next(consumer: &mut GroupConsumer) -> GroupEvent {
    let next = tokio::time::timeout(DEADLINE, consumer.next()).await.expect("something comes");
    next.expect("it has not ended").expect("no error")
}

/// The next one, which is a record.
async fn record(consumer: &mut GroupConsumer) -> (u32, u64, String) {
    match next(consumer).await {
        GroupEvent::Record(found) => {
            let value = String::from_utf8(found.record.value.expect("a value").to_vec()).expect("text");
            (found.partition.0, found.offset.0, value)
        }
        other => panic!("no record: {other:?}"),
    }
}

async fn assigned(consumer: &mut GroupConsumer) -> Vec<NamedPartition> {
    match next(consumer).await {
        GroupEvent::Assigned(partitions) => partitions,
        other => panic!("nothing assigned: {other:?}"),
    }
}

fn is(partition: u32, offset: u64, value: &str) -> (u32, u64, String) {
    (partition, offset, value.to_owned())
}

#[tokio::test]
async fn a_member_joins_reads_from_what_is_committed_and_commits() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a", "b"], &["c"]]);
    fill(&fake, 1, &[&["x"]]);
    fake.state.groups.set_committed(0, 1, Some(3));
    fake.state.groups.prepare(&[held(0, 4)]);
    let client = fake.client().await;
    let mut consumer = member(&client).instance("pod-3").build().await.expect("it joins");
    let join = fake.state.groups.joins().remove(0);
    assert_eq!(
        (join.group.as_str(), join.instance.as_deref(), join.streams),
        ("landing", Some("pod-3"), vec![STREAM.into()])
    );
    assert_eq!((join.session_timeout_ms, join.rebalance_timeout_ms), (15_000, 60_000));

    assert_eq!(assigned(&mut consumer).await, [named(0)]);
    assert_eq!(record(&mut consumer).await, is(0, 1, "b"));
    assert_eq!(record(&mut consumer).await, is(0, 2, "c"));
    consumer.commit().await.expect("it is held");
    assert_eq!(fake.state.groups.committed(0), Some((3, Some(3))), "what was returned last is part of it");
    let before = fake.state.groups.commits();
    consumer.commit().await.expect("nothing to do");
    assert_eq!(fake.state.groups.commits(), before);

    // A second partition comes: the first one goes on where it was read to.
    fake.state.groups.assign(&[held(0, 4), held(1, 5)]);
    assert_eq!(assigned(&mut consumer).await, [named(1)]);
    assert_eq!(record(&mut consumer).await, is(1, 0, "x"));
    fill(&fake, 0, &[&["d"]]);
    assert_eq!(record(&mut consumer).await, is(0, 3, "d"));
    assert_eq!(consumer.assignment(), [named(0), named(1)]);
    let positions: Vec<(u32, u64)> = consumer.positions().iter().map(|at| (at.partition.0, at.next.0)).collect();
    assert_eq!(positions, [(0, 4), (1, 1)]);
    let at = |partition, offset| (partition, WireStart::Offset { offset, epoch: Some(3) });
    let opened = fake.state.opened.lock();
    let last: Vec<(u32, WireStart)> =
        opened.last().expect("opened").partitions.iter().map(|s| (s.partition, s.start)).collect();
    assert_eq!(last, [at(0, 3), (1, WireStart::Earliest)]);
}

#[tokio::test]
async fn a_revoked_partition_is_confirmed_by_the_next_call_and_nothing_of_it_comes_after() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"], &["b"], &["c"]]);
    fake.state.groups.prepare(&[held(0, 1), held(1, 1)]);
    let client = fake.client().await;
    let mut consumer = member(&client).build().await.expect("it joins");
    assigned(&mut consumer).await;
    assert_eq!(record(&mut consumer).await, is(0, 0, "a"));
    let version = fake.state.groups.assign(&[held(1, 1)]);
    let revoking = loop {
        match next(&mut consumer).await {
            GroupEvent::Revoking(partitions) => break partitions,
            GroupEvent::Record(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(revoking, [named(0)]);
    assert_eq!(consumer.assignment(), [named(1)]);
    assert!(fake.state.groups.applied() < Some(version), "it may still be at work");
    consumer.commit().await.expect("it is still held");
    let (committed, _) = fake.state.groups.committed(0).expect("what was handed out");
    assert!((1..=3).contains(&committed));
    assert!(fake.state.groups.applied() < Some(version));

    fill(&fake, 1, &[&["x"]]);
    assert_eq!(record(&mut consumer).await, is(1, 0, "x"), "nothing of partition 0");
    until("confirmed", || fake.state.groups.applied() == Some(version)).await;
    let error = consumer.seek(&named(0), Start::Earliest).expect_err("it is gone");
    assert_eq!(
        (error.code(), error.partition(), error.stream()),
        (Code::StaleEpoch, Some(PartitionId(0)), Some(STREAM))
    );
}

#[tokio::test]
async fn automatic_commits_are_behind_what_is_in_hand_and_come_before_a_confirmation() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a", "b", "c"]]);
    fake.state.groups.prepare(&[held(0, 1)]);
    let client = fake.client().await;
    let commit = Commit::Automatic { interval: Duration::from_millis(10) };
    let mut consumer = member(&client).commit(commit).build().await.expect("it joins");
    let first = consumer.next_record().await.expect("a record").expect("no error");
    assert_eq!(first.offset, Offset(0));
    assert!(fake.state.groups.committed(0).is_none_or(|(offset, _)| offset == 0), "the first is in hand");
    assert_eq!(consumer.next_record().await.expect("a record").expect("no error").offset, Offset(1));
    // While it waits for more it commits what it is done with.
    assert_eq!(consumer.next_record().await.expect("a record").expect("no error").offset, Offset(2));
    assert!(fake.state.groups.committed(0).is_none_or(|(offset, _)| offset <= 2));
    {
        let waiting = consumer.next_record();
        tokio::pin!(waiting);
        let committed = until("committed", || fake.state.groups.committed(0) == Some((3, Some(3))));
        tokio::select! {
            _ = &mut waiting => panic!("there is nothing more"),
            () = committed => {}
        }
    }
    fill(&fake, 0, &[&["d"]]);
    assert_eq!(record(&mut consumer).await, is(0, 3, "d"));
    let version = fake.state.groups.assign(&[]);
    assert!(matches!(next(&mut consumer).await, GroupEvent::Revoking(_)));
    let waiting = tokio::time::timeout(DEADLINE, consumer.next());
    tokio::select! {
        _ = waiting => panic!("there is nothing more"),
        () = until("confirmed", || fake.state.groups.applied() == Some(version)) => {}
    }
    assert_eq!(fake.state.groups.committed(0), Some((4, Some(3))), "before it was confirmed");
}

#[tokio::test]
async fn closing_commits_and_leaves_and_a_static_member_stays() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"]]);
    fake.state.groups.prepare(&[held(0, 1)]);
    let client = fake.client().await;
    let mut consumer = member(&client).commit(Commit::default()).build().await.expect("it joins");
    consumer.next_record().await.expect("a record").expect("no error");
    consumer.close().await.expect("committed");
    assert_eq!(fake.state.groups.committed(0), Some((1, Some(3))));
    assert!(fake.state.groups.has_left());

    let consumer = member(&client).instance("pod-3").build().await.expect("it joins");
    consumer.close().await.expect("nothing to commit");
    assert!(!fake.state.groups.has_left());
    fake.state.groups.forget();
    let consumer = member(&client).instance("pod-3").build().await.expect("it joins");
    consumer.close_for_good().await.expect("nothing to commit");
    assert!(fake.state.groups.has_left());
}

#[tokio::test]
async fn a_session_that_ended_is_told_as_lost_and_it_joins_again_by_itself() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a", "b"]]);
    fake.state.groups.prepare(&[held(0, 1)]);
    let client = fake.client().await;
    let mut consumer = member(&client).build().await.expect("it joins");
    assigned(&mut consumer).await;
    assert_eq!(record(&mut consumer).await, is(0, 0, "a"));
    consumer.commit().await.expect("it is held");
    assert_eq!(record(&mut consumer).await, is(0, 1, "b"));
    fake.state.groups.forget();
    let error = consumer.commit().await.expect_err("nobody is held to be a member");
    assert_eq!(error.code(), Code::UnknownMember);
    match next(&mut consumer).await {
        GroupEvent::Lost(partitions) => assert_eq!(partitions, [named(0)]),
        other => panic!("{other:?}"),
    }
    assert_eq!(assigned(&mut consumer).await, [named(0)]);
    assert_eq!(record(&mut consumer).await, is(0, 1, "b"), "what was not committed comes again");
    let numbers: Vec<u64> = fake.state.groups.joins().iter().map(|join| join.member).collect();
    assert!(numbers.len() >= 2 && numbers[0] != numbers[1], "{numbers:?}");
}

#[tokio::test]
async fn a_member_whose_instance_id_was_taken_over_ends() {
    let fake = Fake::start();
    fake.state.groups.prepare(&[held(0, 1)]);
    let client = fake.client().await;
    let mut consumer = member(&client).instance("pod-3").build().await.expect("it joins");
    assigned(&mut consumer).await;
    fake.state.groups.refuse(Some(Code::Fenced));
    assert!(matches!(next(&mut consumer).await, GroupEvent::Lost(partitions) if partitions == [named(0)]));
    let error = consumer.next().await.expect("why").expect_err("fenced");
    assert_eq!(error.code(), Code::Fenced);
    assert!(consumer.next().await.is_none());
    assert_eq!(fake.state.groups.joins().len(), 1, "it does not fight for it");
}

#[tokio::test]
async fn a_lost_connection_loses_no_place_and_repeats_nothing() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a", "b"], &["c"], &["d"]]);
    fake.state.groups.prepare(&[held(0, 1)]);
    fake.pieces([Piece::Batch(PartitionId(0), 0), Piece::Cut]);
    fake.pieces([Piece::Batch(PartitionId(0), 0), Piece::Batch(PartitionId(0), 1), Piece::Cut]);
    let client = fake.client().await;
    let mut consumer = member(&client).build().await.expect("it joins");
    assigned(&mut consumer).await;
    for (offset, value) in ["a", "b", "c", "d"].into_iter().enumerate() {
        assert_eq!(record(&mut consumer).await, is(0, offset as u64, value));
    }
    let numbers: Vec<u64> = fake.state.groups.joins().iter().map(|join| join.member).collect();
    assert!(numbers.iter().all(|number| *number == numbers[0]), "one membership: {numbers:?}");
    consumer.commit().await.expect("it is still a member");
}

#[tokio::test]
async fn a_connection_that_does_not_answer_heartbeats_is_replaced() {
    let fake = Fake::start();
    fake.state.groups.prepare(&[held(0, 1)]);
    let client = fake.client().await;
    let mut consumer = member(&client).session_timeout(Duration::from_secs(3)).build().await.expect("it joins");
    fake.state.groups.silence(true);
    assigned(&mut consumer).await;
    fake.state.groups.silence(false);
    let version = fake.state.groups.assign(&[held(0, 1), held(1, 2)]);
    assert_eq!(assigned(&mut consumer).await, [named(1)]);
    until("confirmed", || fake.state.groups.applied() == Some(version)).await;
}

#[tokio::test]
async fn what_is_paused_does_not_come_and_gives_its_bytes_back() {
    let fake = Fake::start();
    let large = "x".repeat(100_000);
    let value: &[&str] = &[&large];
    fill(&fake, 0, &[value; 20]);
    fill(&fake, 1, &[&["y"]]);
    fake.state.groups.prepare(&[held(0, 1)]);
    let client = fake.client().await;
    // Room for about one frame: if what is paused kept it, nothing else would ever come.
    let mut consumer = member(&client).prefetch_bytes(1_000).build().await.expect("it joins");
    assigned(&mut consumer).await;
    assert_eq!(record(&mut consumer).await.1, 0);
    consumer.pause(&[named(0)]).expect("it is held");
    fake.state.groups.assign(&[held(0, 1), held(1, 1)]);
    assert_eq!(assigned(&mut consumer).await, [named(1)]);
    assert_eq!(record(&mut consumer).await, is(1, 0, "y"));
    fill(&fake, 1, &[&["z"]]);
    assert_eq!(record(&mut consumer).await, is(1, 1, "z"));
    consumer.resume(&[named(0)]).expect("it is held");
    for offset in 1..20 {
        let (partition, found, _) = record(&mut consumer).await;
        assert_eq!((partition, found), (0, offset), "where it was, each once");
    }
}

#[tokio::test]
async fn a_seek_goes_back_and_drops_what_was_read_ahead() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"], &["b"], &["c"], &["d"]]);
    fake.state.groups.prepare(&[held(0, 1)]);
    let client = fake.client().await;
    let mut consumer = member(&client).build().await.expect("it joins");
    assigned(&mut consumer).await;
    assert_eq!(record(&mut consumer).await, is(0, 0, "a"));
    assert_eq!(record(&mut consumer).await, is(0, 1, "b"));
    consumer.seek(&named(0), Start::Offset(Offset(0))).expect("it is held");
    assert_eq!(record(&mut consumer).await, is(0, 0, "a"));
    consumer.seek(&named(0), Start::Offset(Offset(3))).expect("it is held");
    assert_eq!(record(&mut consumer).await, is(0, 3, "d"));
    // Beyond the end: told with both ends, then the group's start.
    consumer.seek(&named(0), Start::Offset(Offset(99))).expect("it is held");
    let error = consumer.next().await.expect("an item").expect_err("out of range");
    assert_eq!((error.code(), error.partition()), (Code::OffsetOutOfRange, Some(PartitionId(0))));
    assert!(error.to_string().contains("offset 99") && error.to_string().contains("0..4"), "{error}");
    assert_eq!(record(&mut consumer).await, is(0, 0, "a"));
}

#[tokio::test]
async fn a_committed_position_below_the_log_is_told_before_the_start_is_taken() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"], &["b"]]);
    fake.state.groups.set_committed(0, 1, Some(3));
    *fake.state.log_start.lock() = 2;
    fake.state.groups.prepare(&[held(0, 1)]);
    let client = fake.client().await;
    let mut consumer = member(&client).start(Start::Latest).build().await.expect("it joins");
    assigned(&mut consumer).await;
    let error = consumer.next().await.expect("an item").expect_err("out of range");
    assert_eq!(error.code(), Code::OffsetOutOfRange);
    assert!(error.to_string().contains("offset 1") && error.to_string().contains("2..2"), "{error}");
    until("opened at the end", || !fake.state.opened.lock().is_empty()).await;
    fill(&fake, 0, &[&["c"]]);
    assert_eq!(record(&mut consumer).await, is(0, 2, "c"));
    consumer.commit().await.expect("it is held");
    assert_eq!(fake.state.groups.committed(0), Some((3, Some(3))));
}

#[tokio::test]
async fn a_log_that_lost_its_tail_is_told_before_the_start_is_taken_and_the_others_go_on() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"]]);
    fill(&fake, 1, &[&["x"]]);
    fake.state.groups.set_committed(0, 1, Some(3));
    fake.state.groups.prepare(&[held(0, 1), held(1, 1)]);
    let (code, text) = (Code::LogTruncated.number(), "lost its tail".to_owned());
    fake.pieces([Piece::Event(ConsumeEvent::Failed { partition: 0, code, text }), Piece::Stop]);
    let client = fake.client().await;
    let mut consumer = member(&client).build().await.expect("it joins");
    assigned(&mut consumer).await;
    let error = consumer.next().await.expect("an item").expect_err("truncated");
    assert_eq!((error.code(), error.partition()), (Code::LogTruncated, Some(PartitionId(0))));
    assert!(error.to_string().contains("lost its tail") && error.to_string().contains("0..1"), "{error}");
    let mut seen = [record(&mut consumer).await, record(&mut consumer).await];
    seen.sort();
    assert_eq!(seen, [is(0, 0, "a"), is(1, 0, "x")]);
}

#[tokio::test]
async fn gaps_are_items_and_a_failed_partition_leaves_the_others_alone() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"], &["b"]]);
    fill(&fake, 1, &[&["x"]]);
    fake.state.groups.prepare(&[held(0, 1), held(1, 1)]);
    let lost = Code::RecordsLost.number();
    let gap = ConsumeEvent::Gap { partition: 0, from: 0, resume: 1, code: lost, text: "lost".into() };
    let failed = ConsumeEvent::Failed { partition: 1, code: Code::Internal.number(), text: "broken".into() };
    fake.pieces([Piece::Event(gap), Piece::Event(failed), Piece::Batch(PartitionId(0), 1)]);
    let client = fake.client().await;
    let mut consumer = member(&client).build().await.expect("it joins");
    assigned(&mut consumer).await;
    let error = consumer.next().await.expect("an item").expect_err("a gap");
    assert_eq!(error.gap().map(|gap| (gap.from, gap.resume)), Some((Offset(0), Offset(1))));
    let error = consumer.next().await.expect("an item").expect_err("it failed");
    assert_eq!((error.code(), error.partition(), error.gap()), (Code::Internal, Some(PartitionId(1)), None));
    assert_eq!(record(&mut consumer).await, is(0, 1, "b"));
    // It is read again once it is sought.
    consumer.seek(&named(1), Start::Earliest).expect("it is held");
    assert_eq!(record(&mut consumer).await, is(1, 0, "x"));
}

#[tokio::test]
async fn an_offline_partition_is_told_once_and_read_when_it_is_back() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"]]);
    *fake.state.offline.lock() = Some(0);
    fake.state.groups.prepare(&[held(0, 1)]);
    let client = fake.client().await;
    let mut consumer = member(&client).start(Start::Latest).build().await.expect("it joins");
    assigned(&mut consumer).await;
    let error = consumer.next().await.expect("an item").expect_err("offline");
    assert_eq!((error.code(), error.partition(), error.stream()), (Code::Internal, Some(PartitionId(0)), Some(STREAM)));
    assert!(consumer.positions().is_empty(), "where its end is, is not known");
    *fake.state.offline.lock() = None;
    until("opened", || !fake.state.opened.lock().is_empty()).await;
    fill(&fake, 0, &[&["b"]]);
    assert_eq!(record(&mut consumer).await, is(0, 1, "b"), "from the end, as it was asked for");
}

#[tokio::test]
async fn a_partition_whose_offset_cannot_be_read_holds_up_no_other() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a"]]);
    fill(&fake, 1, &[&["x"]]);
    fake.state.groups.unreadable(Some(1));
    fake.state.groups.prepare(&[held(0, 1), held(1, 1)]);
    let client = fake.client().await;
    let mut consumer = member(&client).build().await.expect("it joins");
    assert_eq!(assigned(&mut consumer).await, [named(0)]);
    assert_eq!(record(&mut consumer).await, is(0, 0, "a"));
    let error = consumer.next().await.expect("an item").expect_err("it cannot be read");
    assert_eq!(error.code(), Code::Internal);
    fake.state.groups.unreadable(None);
    assert_eq!(assigned(&mut consumer).await, [named(1)]);
    assert_eq!(record(&mut consumer).await, is(1, 0, "x"));
}

#[tokio::test]
async fn commits_of_positions_have_a_result_each() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a", "b", "c"]]);
    // An epoch from 100 on is only held while it is in the list.
    fake.state.groups.prepare(&[held(0, 1), held(1, 200)]);
    let client = fake.client().await;
    let mut consumer = member(&client).build().await.expect("it joins");
    assigned(&mut consumer).await;
    let GroupEvent::Record(first) = next(&mut consumer).await else { panic!("no record") };
    let mine = first.position();
    assert_eq!((mine.next, mine.epoch), (Offset(1), Some(Epoch(3))));
    let mut other = mine.clone();
    other.partition = PartitionId(1);
    let mut nobodys = mine.clone();
    nobodys.partition = PartitionId(7);
    fake.state.groups.assign(&[held(0, 1)]);
    let outcomes = consumer.commit_offsets(&[nobodys, other, mine]).await.expect("answered");
    let codes: Vec<Option<Code>> =
        outcomes.iter().map(|outcome| outcome.result.as_ref().err().map(millstream_client::Error::code)).collect();
    assert_eq!(codes, [Some(Code::StaleEpoch), Some(Code::StaleEpoch), None]);
    let error = outcomes[1].result.as_ref().expect_err("stale");
    assert_eq!((error.partition(), error.stream()), (Some(PartitionId(1)), Some(STREAM)));
    assert_eq!(fake.state.groups.committed(0), Some((1, Some(3))));
}

#[tokio::test]
async fn batches_come_whole_and_mix_with_records() {
    let fake = Fake::start();
    fill(&fake, 0, &[&["a", "b", "c"], &["d"]]);
    fake.state.groups.prepare(&[held(0, 1)]);
    let client = fake.client().await;
    let mut consumer = member(&client).build().await.expect("it joins");
    assigned(&mut consumer).await;
    assert_eq!(record(&mut consumer).await, is(0, 0, "a"));
    let GroupEvent::Batch(rest) = consumer.next_batch().await.expect("a batch").expect("no error") else {
        panic!("no batch")
    };
    assert_eq!((rest.batch.first, rest.batch.end, rest.position().next), (Offset(1), Offset(3), Offset(3)));
    assert_eq!(consumer.high_watermark(&named(0)), Some(Offset(4)));
    assert_eq!(record(&mut consumer).await, is(0, 3, "d"));
}

#[tokio::test]
async fn what_came_and_went_before_it_was_begun_is_never_told() {
    let fake = Fake::start();
    fill(&fake, 1, &[&["x"]]);
    fake.state.groups.prepare(&[held(0, 1)]);
    let client = fake.client().await;
    let mut consumer = member(&client).build().await.expect("it joins");
    let version = fake.state.groups.assign(&[held(1, 2)]);
    until("seen", || fake.state.groups.applied() == Some(version)).await;
    assert_eq!(assigned(&mut consumer).await, [named(1)]);
    assert_eq!(record(&mut consumer).await, is(1, 0, "x"));
}

#[tokio::test]
async fn settings_out_of_range_are_refused_before_anything_is_asked() {
    let fake = Fake::start();
    let client = fake.client().await;
    let seconds = Duration::from_secs;
    let refused = async |builder: GroupConsumerBuilder| builder.build().await.expect_err("illegal").code();
    assert_eq!(refused(client.group("landing")).await, Code::IllegalSetting);
    assert_eq!(refused(client.group("../x").stream(STREAM)).await, Code::IllegalName);
    for session in [seconds(2), seconds(31 * 60)] {
        assert_eq!(refused(member(&client).session_timeout(session)).await, Code::IllegalSetting);
    }
    for rebalance in [Duration::from_millis(999), seconds(3_601)] {
        assert_eq!(refused(member(&client).rebalance_timeout(rebalance)).await, Code::IllegalSetting);
    }
    let many = (0..101).map(|n| format!("s{n}"));
    assert_eq!(refused(client.group("landing").streams(many)).await, Code::IllegalSetting);
    assert!(fake.state.groups.joins().is_empty());
}

#[tokio::test]
async fn a_server_that_does_not_come_back_is_given_up() {
    let fake = Fake::start();
    fake.state.groups.prepare(&[held(0, 1)]);
    let client = fake.client().await;
    let builder = member(&client).session_timeout(Duration::from_secs(3)).reconnect_timeout(Duration::from_millis(300));
    let mut consumer = builder.build().await.expect("it joins");
    assigned(&mut consumer).await;
    fake.stop();
    drop(fake);
    assert!(matches!(next(&mut consumer).await, GroupEvent::Lost(_)));
    let error = consumer.next().await.expect("why").expect_err("nobody there");
    assert_eq!(error.code(), Code::ConnectionLost, "{error:?}");
    assert!(consumer.next().await.is_none());
}
