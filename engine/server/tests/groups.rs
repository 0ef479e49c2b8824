//! Consumer groups over real QUIC: join, hand-over, death, restart, commits and their errors, as seen on the wire.
//! A member here does by hand what the client library does: it hears, finishes, confirms.

mod support;

use std::time::{Duration, Instant};

use millstream_protocol::Code;
use millstream_protocol::frame::control::{Message, Request, Response, StreamConfig, StreamInfo};
use millstream_protocol::frame::group::{
    Assignment, CommitResult, CommittedOffset, GroupHeartbeat, GroupInfo, GroupJoin, GroupReset, GroupState,
    GroupSummary, Membership, OffsetCommit, ResetTo, StreamPartition,
};
use millstream_protocol::frame::{Kind, Refusal};
use millstream_server::Server;
use support::{Client, Rig, batch, config, soon, until};

const GROUP: &str = "readers";
/// What a member lets pass before it looks again.
const A_LITTLE: u32 = 900;

fn join(member: u64) -> GroupJoin {
    GroupJoin {
        group: GROUP.into(),
        member,
        instance: None,
        streams: vec!["flights".into()],
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 60_000,
        client: "tests".into(),
    }
}

fn static_join(member: u64, instance: &str) -> GroupJoin {
    GroupJoin { instance: Some(instance.into()), ..join(member) }
}

/// A member on a connection of its own.
struct Member {
    client: Client,
    number: u64,
    assignment: Assignment,
}

impl Member {
    async fn join(rig: &Rig, join: GroupJoin) -> Self {
        Self::try_join(rig.connect().await, join).await.expect("joined")
    }

    async fn try_join(mut client: Client, join: GroupJoin) -> Result<Self, Refusal> {
        let number = join.member;
        match client.request(&Request::JoinGroup(join)).await? {
            Response::Membership(Membership { assignment: Some(assignment), heartbeat_interval_ms }) => {
                assert!(heartbeat_interval_ms >= 600);
                Ok(Self { client, number, assignment })
            }
            other => panic!("{other:?}"),
        }
    }

    fn beat(&self, seen: u32, applied: u32, wait_ms: u32) -> Request {
        let (group, member) = (GROUP.into(), self.number);
        Request::HeartbeatGroup(GroupHeartbeat { group, member, seen, applied, wait_ms })
    }

    /// One heartbeat that confirms all it was told; whether something changed.
    async fn hear(&mut self, wait_ms: u32) -> Result<bool, Refusal> {
        let version = self.assignment.version;
        match self.client.request(&self.beat(version, version, wait_ms)).await? {
            Response::Membership(Membership { assignment: Some(assignment), .. }) => {
                assert!(assignment.version > version);
                self.assignment = assignment;
                Ok(true)
            }
            Response::Membership(_) => Ok(false),
            other => panic!("{other:?}"),
        }
    }

    fn partitions(&self) -> Vec<u32> {
        self.assignment.partitions.iter().map(|held| held.at.partition).collect()
    }

    async fn commit(&mut self, held: usize, offset: u64) -> CommitResult {
        let held = self.assignment.partitions[held];
        let commit = OffsetCommit {
            at: held.at,
            epoch: held.epoch,
            offset,
            batch_epoch: Some(1),
            metadata: format!("at {offset}"),
        };
        let (group, member) = (GROUP.to_owned(), Some(self.number));
        match self.client.request(&Request::CommitOffsets { group, member, commits: vec![commit] }).await {
            Ok(Response::Committed(results)) => results[0].clone(),
            other => panic!("{other:?}"),
        }
    }
}

/// Lets all hear and confirm until each has as many partitions as it should.
async fn settle(members: &mut [&mut Member], counts: &[usize]) {
    let started = Instant::now();
    while members.iter().map(|member| member.assignment.partitions.len()).ne(counts.iter().copied()) {
        assert!(started.elapsed() < Duration::from_secs(20), "the hand-over did not come");
        for member in members.iter_mut() {
            member.hear(20).await.expect("a member");
        }
    }
}

async fn describe(client: &mut Client, name: &str) -> GroupInfo {
    match client.request(&Request::DescribeGroup { name: name.into() }).await {
        Ok(Response::Group(info)) => info,
        other => panic!("{other:?}"),
    }
}

async fn list(client: &mut Client) -> Vec<GroupSummary> {
    match client.request(&Request::ListGroups).await {
        Ok(Response::Groups(list)) => list,
        other => panic!("{other:?}"),
    }
}

async fn fetch(client: &mut Client, stream: &StreamInfo) -> Vec<CommittedOffset> {
    let partitions = stream.partitions.iter().map(|p| StreamPartition { stream: stream.id, partition: p.partition });
    match client.request(&Request::FetchOffsets { group: GROUP.into(), partitions: partitions.collect() }).await {
        Ok(Response::Offsets(offsets)) => offsets,
        other => panic!("{other:?}"),
    }
}

/// A stream `flights` with five records in each partition.
async fn flights(client: &mut Client, partitions: u32) -> StreamInfo {
    let stream = client.create("flights", partitions, StreamConfig::default()).await;
    let mut producer = client.producer(8).await;
    for partition in 0..partitions {
        producer.store(&stream, partition, &batch(&["a", "b", "c", "d", "e"])).await.expect("stored");
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_goes_on_only_after_its_holder_has_let_go() {
    let rig = Rig::start().await;
    let mut admin = rig.connect().await;
    flights(&mut admin, 4).await;
    let mut first = Member::join(&rig, join(1)).await;
    assert_eq!(first.partitions(), [0, 1, 2, 3]);

    // The second one is meant to have two; it gets nothing while the first one has not confirmed.
    let mut second = Member::join(&rig, join(2)).await;
    assert!(second.partitions().is_empty());
    let before = first.assignment.clone();
    let told = first.client.request(&first.beat(before.version, before.version, 10_000)).await;
    let Ok(Response::Membership(Membership { assignment: Some(assignment), .. })) = told else { panic!("{told:?}") };
    assert_eq!(assignment.partitions.len(), 2);
    assert!(!second.hear(50).await.expect("a member"), "nothing yet");
    assert_eq!(describe(&mut admin, GROUP).await.state, GroupState::Rebalancing);
    // It finishes its work on what it loses: that commit is taken.
    assert_eq!(first.commit(3, 5).await.code, 0);

    // A heartbeat that waits is answered when the confirmation comes, not when its time is up.
    let waiting = second.beat(second.assignment.version, second.assignment.version, 10_000);
    let started = Instant::now();
    second.client.ask(&waiting).await;
    first.assignment = assignment;
    first.hear(0).await.expect("confirmed");
    let (_, body) = second.client.control.expect(Kind::Response).await.expect("an answer");
    let Ok(Response::Membership(Membership { assignment: Some(assignment), .. })) = Response::decode(&body) else {
        panic!("no assignment")
    };
    assert!(started.elapsed() < Duration::from_secs(5));
    second.assignment = assignment;
    let mut all = [first.partitions(), second.partitions()].concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);

    // What it held before is not its any more.
    let lost = before.partitions.iter().find(|held| second.partitions().contains(&held.at.partition)).expect("lost");
    let commit = OffsetCommit { at: lost.at, epoch: lost.epoch, offset: 1, batch_epoch: None, metadata: String::new() };
    let fenced = Request::CommitOffsets { group: GROUP.into(), member: Some(1), commits: vec![commit] };
    match first.client.request(&fenced).await {
        Ok(Response::Committed(results)) => {
            assert_eq!(Code::from_number(results[0].code), Code::StaleEpoch);
            assert!(results[0].text.contains("held under epoch"), "{}", results[0].text);
        }
        other => panic!("{other:?}"),
    }
    let info = describe(&mut admin, GROUP).await;
    assert_eq!((info.state, info.members.len(), info.partitions.len()), (GroupState::Stable, 2, 4));

    // Who leaves gives up at once.
    admin.request(&Request::LeaveGroup { group: GROUP.into(), member: 2, for_good: false }).await.expect("left");
    settle(&mut [&mut first], &[4]).await;
    assert_eq!(second.hear(0).await.expect_err("gone").code, Code::UnknownMember);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_a_dead_member_are_with_another_within_its_session_and_two_seconds() {
    let rig = Rig::start().await;
    let mut admin = rig.connect().await;
    flights(&mut admin, 4).await;
    let mut dies = Member::join(&rig, GroupJoin { session_timeout_ms: 3_000, ..join(1) }).await;
    let mut lives = Member::join(&rig, join(2)).await;
    settle(&mut [&mut dies, &mut lives], &[2, 2]).await;
    // Killed, not closed: its connection says nothing any more.
    dies.hear(0).await.expect("alive");
    let last = Instant::now();
    let taken = async {
        while lives.assignment.partitions.len() < 4 {
            lives.hear(A_LITTLE).await.expect("a member");
        }
    };
    soon(taken).await;
    let took = last.elapsed();
    assert!((Duration::from_millis(2_900)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert_eq!(dies.hear(0).await.expect_err("dead").code, Code::UnknownMember);
    let (status, metrics) = support::get(&rig.server, "/metrics").await;
    assert_eq!(status, 200);
    for line in ["millstream_group_members_expired_total 1", "millstream_groups 1", "millstream_group_members 1"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing in\n{metrics}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_does_not_let_go_in_time_is_fenced_and_its_partitions_go_on() {
    let rig = Rig::start().await;
    let mut admin = rig.connect().await;
    flights(&mut admin, 2).await;
    let mut slow = Member::join(&rig, GroupJoin { rebalance_timeout_ms: 1_000, ..join(1) }).await;
    let mut other = Member::join(&rig, join(2)).await;
    // It is alive, and says that it still works on its first assignment.
    let stays = slow.assignment.clone();
    let code = until(async || {
        let mut client = rig.connect().await;
        let beat = slow.beat(stays.version + 10, stays.version, 0);
        client.request(&beat).await.err().map(|refusal| refusal.code)
    })
    .await;
    assert_eq!(code, Code::UnknownMember);
    settle(&mut [&mut other], &[2]).await;
    let commit = OffsetCommit {
        at: stays.partitions[0].at,
        epoch: stays.partitions[0].epoch,
        offset: 1,
        batch_epoch: None,
        metadata: String::new(),
    };
    let late = Request::CommitOffsets { group: GROUP.into(), member: Some(1), commits: vec![commit] };
    assert_eq!(slow.client.refused(&late).await, Code::UnknownMember);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_comes_back_to_its_partitions_and_the_old_one_is_fenced() {
    let rig = Rig::start().await;
    let mut admin = rig.connect().await;
    flights(&mut admin, 4).await;
    let mut old = Member::join(&rig, static_join(1, "left")).await;
    let mut other = Member::join(&rig, static_join(2, "right")).await;
    settle(&mut [&mut old, &mut other], &[2, 2]).await;
    assert_eq!(old.commit(0, 3).await.code, 0);
    // Leaving for a restart keeps its place.
    admin.request(&Request::LeaveGroup { group: GROUP.into(), member: 1, for_good: false }).await.expect("noted");
    let mut new = Member::join(&rig, static_join(3, "left")).await;
    assert_eq!(new.partitions(), old.partitions());
    assert!(!other.hear(0).await.expect("a member"), "the other one noticed nothing");
    assert_eq!(old.hear(0).await.expect_err("replaced").code, Code::Fenced);
    assert_eq!(old.client.refused(&Request::JoinGroup(static_join(1, "left"))).await, Code::Fenced);
    let held = old.assignment.partitions[0];
    let commit = OffsetCommit { at: held.at, epoch: held.epoch, offset: 4, batch_epoch: None, metadata: String::new() };
    let late = Request::CommitOffsets { group: GROUP.into(), member: Some(1), commits: vec![commit] };
    assert_eq!(old.client.refused(&late).await, Code::Fenced);
    assert_eq!(new.commit(0, 5).await.code, 0);
    // Leaving for good does not.
    admin.request(&Request::LeaveGroup { group: GROUP.into(), member: 3, for_good: true }).await.expect("left");
    settle(&mut [&mut other], &[4]).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_offsets_and_lag_survive_a_stop_and_a_kill() {
    let rig = Rig::start().await;
    let mut admin = rig.connect().await;
    let stream = flights(&mut admin, 3).await;
    let mut first = Member::join(&rig, join(1)).await;
    let mut second = Member::join(&rig, join(2)).await;
    settle(&mut [&mut first, &mut second], &[2, 1]).await;
    assert_eq!(first.commit(0, 2).await.code, 0);
    assert_eq!(first.commit(1, 5).await.code, 0);
    let [committed, all, _] =
        [first.assignment.partitions[0].at, first.assignment.partitions[1].at, second.assignment.partitions[0].at];

    let check = async |client: &mut Client| {
        let info = describe(client, GROUP).await;
        assert_eq!((info.state, info.members.len(), info.lag), (GroupState::Stable, 2, 3 + 5));
        for partition in &info.partitions {
            let (offset, lag) = match partition.at {
                at if at == committed => (Some(2), 3),
                at if at == all => (Some(5), 0),
                _ => (None, 5),
            };
            assert_eq!((partition.committed, partition.lag, partition.high_watermark), (offset, lag, 5));
            assert_eq!(partition.committed_ms > 0, offset.is_some());
            assert_eq!(partition.member, Some(if offset.is_some() { 1 } else { 2 }));
        }
        let summary = list(client).await;
        assert_eq!(summary.len(), 1);
        let summary = &summary[0];
        assert_eq!(
            (&*summary.name, summary.members, summary.lag, &*summary.streams),
            (GROUP, 2, 8, &["flights".to_owned()][..])
        );
        let offsets = fetch(client, &stream).await;
        let found = offsets.iter().find(|offset| offset.at == committed).expect("asked for");
        assert_eq!((found.offset, found.batch_epoch, &*found.metadata), (Some(2), Some(1), "at 2"));
    };
    check(&mut admin).await;

    let rig = rig.restart().await;
    let mut client = rig.connect().await;
    check(&mut client).await;
    // The same members go on under the same epochs.
    (first.client, second.client) = (rig.connect().await, rig.connect().await);
    assert!(!first.hear(0).await.expect("still a member"));
    assert!(!second.hear(0).await.expect("still a member"));

    // Like a kill: nobody is told, nothing is closed.
    let Rig { dir, server } = rig;
    drop(server);
    let server = until(async || Server::start(config(dir.path())).await.ok()).await;
    let rig = Rig { dir, server };
    let mut client = rig.connect().await;
    check(&mut client).await;
    first.client = rig.connect().await;
    assert!(!first.hear(0).await.expect("still a member"));
    assert_eq!(first.commit(0, 4).await.code, 0);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_begin_anew_at_a_restart_and_end() {
    let rig = Rig::start().await;
    let mut admin = rig.connect().await;
    flights(&mut admin, 2).await;
    Member::join(&rig, GroupJoin { session_timeout_ms: 3_000, ..join(1) }).await;
    let rig = rig.restart().await;
    let mut client = rig.connect().await;
    assert_eq!(describe(&mut client, GROUP).await.members.len(), 1);
    let empty = async || {
        let mut client = rig.connect().await;
        (describe(&mut client, GROUP).await.state == GroupState::Empty).then_some(())
    };
    until(empty).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_request_says_what_is_wrong() {
    let rig = Rig::start().await;
    let mut admin = rig.connect().await;
    let stream = flights(&mut admin, 2).await;
    let at = StreamPartition { stream: stream.id, partition: 0 };
    let commit = |epoch, offset| OffsetCommit { at, epoch, offset, batch_epoch: None, metadata: String::new() };
    let commits = |member, commits| Request::CommitOffsets { group: GROUP.into(), member, commits };
    let reset = |to, partitions: &[u32], stream: &str| {
        let (group, stream, partitions) = (GROUP.into(), stream.into(), partitions.to_vec());
        Request::ResetGroup(GroupReset { group, stream, partitions, to, dry_run: false })
    };
    let beat = |member, applied| {
        Request::HeartbeatGroup(GroupHeartbeat { group: GROUP.into(), member, seen: 0, applied, wait_ms: 0 })
    };
    let leave = Request::LeaveGroup { group: GROUP.into(), member: 9, for_good: true };
    for unknown in [
        Request::DescribeGroup { name: GROUP.into() },
        Request::DeleteGroup { name: GROUP.into() },
        Request::FetchOffsets { group: GROUP.into(), partitions: vec![at] },
        Request::DeleteOffsets { group: GROUP.into(), stream: "flights".into(), partitions: vec![] },
        commits(None, vec![commit(0, 1)]),
        commits(Some(1), vec![commit(1, 1)]),
        beat(1, 0),
        leave.clone(),
    ] {
        assert_eq!(admin.refused(&unknown).await, Code::UnknownGroup, "{unknown:?}");
    }
    for (wrong, code) in [
        (GroupJoin { group: "../x".into(), ..join(1) }, Code::IllegalName),
        (static_join(1, "a b"), Code::IllegalName),
        (GroupJoin { streams: vec!["trains".into()], ..join(1) }, Code::UnknownStream),
        (GroupJoin { streams: vec![], ..join(1) }, Code::IllegalSetting),
        (GroupJoin { session_timeout_ms: 2_999, ..join(1) }, Code::IllegalSetting),
        (GroupJoin { session_timeout_ms: 1_800_001, ..join(1) }, Code::IllegalSetting),
        (GroupJoin { rebalance_timeout_ms: 999, ..join(1) }, Code::IllegalSetting),
    ] {
        assert_eq!(admin.refused(&Request::JoinGroup(wrong.clone())).await, code, "{wrong:?}");
    }
    assert_eq!(list(&mut admin).await, [], "nothing was made on the way");

    let mut member = Member::join(&rig, join(1)).await;
    let (version, epoch) = (member.assignment.version, member.assignment.partitions[0].epoch);
    for (live, code) in [
        (reset(ResetTo::Earliest, &[], "flights"), Code::GroupNotEmpty),
        (Request::DeleteGroup { name: GROUP.into() }, Code::GroupNotEmpty),
        (
            Request::DeleteOffsets { group: GROUP.into(), stream: "flights".into(), partitions: vec![0] },
            Code::GroupNotEmpty,
        ),
        (commits(None, vec![commit(0, 1)]), Code::GroupNotEmpty),
        (commits(Some(9), vec![commit(epoch, 1)]), Code::UnknownMember),
        (beat(9, 0), Code::UnknownMember),
        (leave, Code::UnknownMember),
        (beat(1, version + 1), Code::IllegalSetting),
        (commits(Some(1), vec![]), Code::IllegalSetting),
        (commits(Some(1), vec![commit(epoch, 1); 2]), Code::IllegalSetting),
    ] {
        assert_eq!(admin.refused(&live).await, code, "{live:?}");
    }
    let long = OffsetCommit { metadata: "x".repeat(257), ..commit(epoch, 1) };
    let nowhere = OffsetCommit { at: StreamPartition { partition: 7, ..at }, ..commit(epoch, 1) };
    let never = OffsetCommit { at: StreamPartition { stream: 99, ..at }, ..commit(epoch, 1) };
    for (one, code, text) in [
        (commit(epoch, 6), Code::CommitPastEnd, "past the end at 5"),
        (commit(epoch + 1, 1), Code::StaleEpoch, "by this member under epoch"),
        (long, Code::IllegalSetting, "256 bytes"),
        (nowhere, Code::UnknownPartition, "it has 2"),
        (never, Code::UnknownStream, "99"),
    ] {
        match admin.request(&commits(Some(1), vec![one])).await {
            Ok(Response::Committed(results)) => {
                assert_eq!(Code::from_number(results[0].code), code);
                assert!(results[0].text.contains(text), "{}", results[0].text);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(member.commit(0, 5).await.code, 0, "the end itself is fine");

    admin.request(&Request::LeaveGroup { group: GROUP.into(), member: 1, for_good: true }).await.expect("left");
    for (wrong, code) in [
        (reset(ResetTo::Offset(6), &[], "flights"), Code::OffsetOutOfRange),
        (reset(ResetTo::Earliest, &[2], "flights"), Code::UnknownPartition),
        (reset(ResetTo::Earliest, &[], "trains"), Code::UnknownStream),
    ] {
        assert_eq!(admin.refused(&wrong).await, code, "{wrong:?}");
    }
    assert_eq!(fetch(&mut admin, &stream).await[0].offset, Some(5), "nothing was moved");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_members_is_reset_and_deleted_with_its_offsets() {
    let rig = Rig::start().await;
    let mut admin = rig.connect().await;
    let stream = flights(&mut admin, 2).await;
    let reset = async |client: &mut Client, to, partitions: &[u32], dry_run| {
        let (group, stream, partitions) = (GROUP.to_owned(), "flights".to_owned(), partitions.to_vec());
        match client.request(&Request::ResetGroup(GroupReset { group, stream, partitions, to, dry_run })).await {
            Ok(Response::Offsets(offsets)) => offsets.iter().map(|offset| offset.offset).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reset(&mut admin, ResetTo::Latest, &[], true).await, [Some(5), Some(5)]);
    assert_eq!(list(&mut admin).await, [], "only asked");
    assert_eq!(reset(&mut admin, ResetTo::Latest, &[], false).await, [Some(5), Some(5)]);
    assert_eq!(reset(&mut admin, ResetTo::Shift(-2), &[1], false).await, [Some(3)]);
    assert_eq!(reset(&mut admin, ResetTo::Time(0), &[0], true).await, [Some(0)]);
    assert_eq!(reset(&mut admin, ResetTo::Offset(1), &[0], false).await, [Some(1)]);
    assert_eq!(describe(&mut admin, GROUP).await.lag, 4 + 2);
    assert_eq!(describe(&mut admin, GROUP).await.state, GroupState::Empty);

    // Who is no member may commit while there is none.
    let at = StreamPartition { stream: stream.id, partition: 0 };
    let commit = OffsetCommit { at, epoch: 0, offset: 2, batch_epoch: None, metadata: String::new() };
    let alone = Request::CommitOffsets { group: GROUP.into(), member: None, commits: vec![commit] };
    match admin.request(&alone).await {
        Ok(Response::Committed(results)) => assert_eq!(results[0].code, 0),
        other => panic!("{other:?}"),
    }
    let forget = Request::DeleteOffsets { group: GROUP.into(), stream: "flights".into(), partitions: vec![1] };
    admin.request(&forget).await.expect("deleted");
    let offsets = fetch(&mut admin, &stream).await;
    assert_eq!(offsets.iter().map(|offset| offset.offset).collect::<Vec<_>>(), [Some(2), None]);

    admin.request(&Request::DeleteGroup { name: GROUP.into() }).await.expect("deleted");
    assert_eq!(list(&mut admin).await, []);
    // One of the same name begins without offsets.
    assert_eq!(reset(&mut admin, ResetTo::Shift(0), &[], true).await, [Some(0), Some(0)]);
    Member::join(&rig, join(1)).await;
    assert!(fetch(&mut admin, &stream).await.iter().all(|offset| offset.offset.is_none()));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_without_members_go_after_the_retention() {
    let rig = Rig::start_with(|config| config.offsets_retention = Some(Duration::from_secs(1))).await;
    let mut admin = rig.connect().await;
    flights(&mut admin, 1).await;
    let mut member = Member::join(&rig, join(1)).await;
    assert_eq!(member.commit(0, 3).await.code, 0);
    let group = GroupReset {
        group: "old".into(),
        stream: "flights".into(),
        partitions: vec![],
        to: ResetTo::Latest,
        dry_run: false,
    };
    admin.request(&Request::ResetGroup(group)).await.expect("made");
    let gone = async || {
        let mut client = rig.connect().await;
        let names: Vec<String> = list(&mut client).await.into_iter().map(|group| group.name).collect();
        (names == [GROUP]).then_some(())
    };
    until(gone).await;
    member.hear(0).await.expect("a group with members stays");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_follow_their_stream_when_it_is_deleted_and_made_again() {
    let rig = Rig::start().await;
    let mut admin = rig.connect().await;
    let before = flights(&mut admin, 2).await;
    let mut member = Member::join(&rig, join(1)).await;
    admin.request(&Request::DeleteStream { name: "flights".into() }).await.expect("deleted");
    settle(&mut [&mut member], &[0]).await;
    let after = admin.create("flights", 3, StreamConfig::default()).await;
    settle(&mut [&mut member], &[3]).await;
    assert!(after.id > before.id);
    assert!(member.assignment.partitions.iter().all(|held| held.at.stream == after.id));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_heartbeats_keep_no_other_request_waiting_and_end_with_the_server() {
    let rig = Rig::start().await;
    let mut admin = rig.connect().await;
    flights(&mut admin, 1).await;
    // More members on one connection than it has requests that are worked on at once.
    const MEMBERS: u64 = 300;
    let mut members = Vec::new();
    for number in 1..=MEMBERS {
        let join = GroupJoin { group: format!("g{number}"), ..join(number) };
        match admin.request(&Request::JoinGroup(join)).await {
            Ok(Response::Membership(Membership { assignment: Some(assignment), .. })) => {
                members.push(assignment.version)
            }
            other => panic!("{other:?}"),
        }
    }
    let mut waiting = std::collections::BTreeSet::new();
    for (number, version) in (1..=MEMBERS).zip(&members) {
        let (group, member) = (format!("g{number}"), number);
        let (seen, applied) = (*version, *version);
        let beat = GroupHeartbeat { group, member, seen, applied, wait_ms: 10_000 };
        waiting.insert(admin.ask(&Request::HeartbeatGroup(beat)).await);
    }
    // All of them wait; this one is answered before any of them.
    let started = Instant::now();
    assert_eq!(admin.describe("flights").await.partitions.len(), 1);
    assert!(started.elapsed() < Duration::from_secs(5));

    let stopping = tokio::spawn(rig.server.stop());
    while !waiting.is_empty() {
        let (header, body) = admin.control.next().await.expect("each is answered");
        assert!(waiting.remove(&header.correlation));
        assert_eq!(Refusal::decode(&body).expect("a refusal").code, Code::ShuttingDown);
    }
    soon(stopping).await.expect("no panic").expect("it stops");
    assert!(started.elapsed() < Duration::from_secs(8), "nobody waited for the end of a heartbeat");
}
