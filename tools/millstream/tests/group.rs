//! Consumer groups end to end: the real program as members and operator, the real server, and a client where the program
//! cannot do what must be refused.
//!
//! Members print records with their stream, partition and offset, so that what each of them was given is seen from outside.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use millstream_client::{
    Client, Code, Commit, Error, GroupConsumer, GroupEvent, NamedPartition, Offset, PartitionId, Position, Record,
};
use serde_json::Value;
use support::{Place, Serve, lines};

/// The shortest session there is.
const SESSION: Duration = Duration::from_secs(3);
/// What a hand-over may take beyond it.
const SLACK: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(60);

/// A member that runs: what it printed so far, and what it said.
struct Member {
    child: Option<Child>,
    heard: Arc<(Mutex<Heard>, Condvar)>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Heard {
    /// (partition, offset, the record's id), in the order printed.
    records: Vec<(u64, u64, u64)>,
    notes: Vec<String>,
}

impl Member {
    fn start(place: &Place, flags: &str) -> Self {
        let mut child = place.command(["consume"].into_iter().chain(flags.split(' '))).spawn().expect("it starts");
        let heard: Arc<(Mutex<Heard>, Condvar)> = Arc::default();
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let err = BufReader::new(child.stderr.take().expect("piped"));
        let (on_out, on_err) = (Arc::clone(&heard), Arc::clone(&heard));
        let threads = vec![
            std::thread::spawn(move || {
                for line in out.lines() {
                    // A line that was cut by a kill was not printed.
                    let Ok(value) = serde_json::from_str::<Value>(&line.expect("text")) else { continue };
                    let number = |name: &str| value[name].as_u64().expect("a number");
                    let id = value["value"]["id"].as_u64().expect("an id");
                    on_out.0.lock().expect("whole").records.push((number("partition"), number("offset"), id));
                    on_out.1.notify_all();
                }
            }),
            std::thread::spawn(move || {
                for line in err.lines() {
                    on_err.0.lock().expect("whole").notes.push(line.expect("text"));
                    on_err.1.notify_all();
                }
            }),
        ];
        Self { child: Some(child), heard, threads }
    }

    /// Waits until something holds of what it printed.
    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Heard) -> bool) {
        let (heard, changed) = &*self.heard;
        let waited = changed.wait_timeout_while(heard.lock().expect("whole"), DEADLINE, |heard| !holds(heard));
        let (heard, timeout) = waited.expect("whole");
        let printed = heard.records.len();
        assert!(!timeout.timed_out(), "never: {what}; {printed} records, notes: {:?}", heard.notes);
    }

    fn records(&self) -> Vec<(u64, u64, u64)> {
        self.heard.0.lock().expect("whole").records.clone()
    }

    fn ids(&self) -> BTreeSet<u64> {
        self.records().iter().map(|(_, _, id)| *id).collect()
    }

    fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        self.join();
    }

    /// As an operator stops it.
    fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is there");
        let status = child.wait().expect("it ends");
        self.join();
        status.code()
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            thread.join().expect("it read to the end");
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn describe(place: &Place, group: &str) -> Value {
    place.sh(&format!("group describe {group} --json")).ok().json()
}

/// Waits until something holds of the group, as the server describes it.
#[track_caller]
fn until(place: &Place, group: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let since = Instant::now();
    loop {
        let done = place.sh(&format!("group describe {group} --json"));
        // Before the first member has joined there is no group.
        if done.status.success() {
            let info = done.json();
            if holds(&info) {
                return info;
            }
        }
        assert!(since.elapsed() < DEADLINE, "never: {what}: {done:?}");
    }
}

/// How many partitions each member holds.
fn shares(info: &Value) -> Vec<usize> {
    let holds = |member: &Value| member["holds"].as_array().expect("an array").len();
    let mut shares: Vec<usize> = info["members"].as_array().expect("an array").iter().map(holds).collect();
    shares.sort_unstable();
    shares
}

fn is_settled(info: &Value, wanted: &[usize]) -> bool {
    info["state"] == "stable" && shares(info) == wanted
}

fn filled(partitions: u32, records: u64) -> (Place, Serve) {
    let place = Place::new();
    let server = place.serve();
    place.sh(&format!("stream create a --partitions {partitions}")).ok();
    place.sh_with("produce a --key key", lines(records, 40).as_bytes()).ok();
    (place, server)
}

/// More lines, with the ids from `first` on.
fn more(place: &Place, first: u64, count: u64) {
    let lines: String =
        (first..first + count).map(|id| format!("{{\"id\":{id},\"key\":\"k{}\"}}\n", id % 40)).collect();
    place.sh_with("produce a --key key", lines.as_bytes()).ok();
}

#[test]
fn two_members_share_and_one_takes_over_what_a_killed_one_held() {
    let (place, _server) = filled(4, 400);
    let flags = "a --group g --session-timeout 3s";
    let first = Member::start(&place, flags);
    first.until("all of it", |heard| heard.records.len() == 400);
    until(&place, "g", "all is committed", |info| info["lag"] == 0);

    let mut second = Member::start(&place, flags);
    until(&place, "g", "two each", |info| is_settled(info, &[2, 2]));
    more(&place, 400, 400);
    let printed = |member: &Member| member.ids().iter().filter(|id| **id >= 400).count();
    let since = Instant::now();
    while printed(&first) + printed(&second) < 400 {
        assert!(since.elapsed() < DEADLINE, "{} and {}", printed(&first), printed(&second));
        std::thread::yield_now();
    }
    assert!(printed(&first) > 0 && printed(&second) > 0, "both have a share");
    let info = until(&place, "g", "all is committed", |info| info["lag"] == 0);
    let of_second: BTreeSet<u64> = second.records().iter().map(|(partition, ..)| *partition).collect();
    assert_eq!(of_second.len(), 2, "{info}");

    second.kill();
    let killed = Instant::now();
    more(&place, 800, 400);
    first.until("the rest", |heard| {
        heard.records.iter().map(|(_, _, id)| *id).filter(|id| *id >= 800).collect::<BTreeSet<_>>().len() == 400
    });
    let took = killed.elapsed();
    assert!(took <= SESSION + SLACK, "handed over after {took:?}");
    let info = until(&place, "g", "all is committed", |info| info["lag"] == 0);
    assert!(is_settled(&info, &[4]), "{info}");

    // Nothing is missing, and only what was printed and not committed at the kill could come twice: nothing was.
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    for (.., id) in first.records().into_iter().chain(second.records()) {
        *times.entry(id).or_default() += 1;
    }
    assert_eq!(times.keys().copied().collect::<Vec<_>>(), (0..1_200).collect::<Vec<_>>());
    assert_eq!(times.values().filter(|times| **times > 1).count(), 0);
}

#[test]
fn a_member_that_is_stopped_commits_and_leaves_at_once() {
    let (place, _server) = filled(2, 100);
    let mut member = Member::start(&place, "a --group g --commit-interval 1h");
    member.until("all of it", |heard| heard.records.len() == 100);
    assert_eq!(member.terminate(), Some(128 + 15));
    let info = describe(&place, "g");
    assert_eq!((&info["state"], &info["lag"], &info["members"]), (&"empty".into(), &0.into(), &serde_json::json!([])));
    place.sh("consume a --group g --count 0").ok();
    more(&place, 100, 10);
    let done = place.sh("consume a --group g --count 10").ok().says("assigned: a/0, a/1");
    assert_eq!(done.lines().len(), 10, "it goes on where the group was");
    let line: Value = serde_json::from_str(done.lines()[0]).expect("JSON");
    assert_eq!(line["stream"], "a");
    assert_eq!(describe(&place, "g")["lag"], 0);
    // Who commits nothing leaves the group where it is.
    more(&place, 110, 10);
    assert_eq!(place.sh("consume a --group g --count 10 --commit none").ok().lines().len(), 10);
    assert_eq!(describe(&place, "g")["lag"], 10);
}

#[test]
fn a_static_member_that_comes_back_has_its_partitions_and_nobody_else_is_disturbed() {
    let (place, _server) = filled(4, 40);
    let other = Member::start(&place, "a --group g --session-timeout 30s");
    let mut one = Member::start(&place, "a --group g --session-timeout 30s --instance pod-1");
    let before = until(&place, "g", "two each", |info| is_settled(info, &[2, 2]));
    let held = |info: &Value| {
        let members = info["members"].as_array().expect("an array").clone();
        let pod = members.into_iter().find(|member| member["instance"] == "pod-1").expect("pod-1");
        (pod["member"].clone(), pod["holds"].clone())
    };
    let (number, partitions) = held(&before);
    one.kill();
    let again = Member::start(&place, "a --group g --session-timeout 30s --instance pod-1");
    again.until("assigned", |heard| heard.notes.iter().any(|note| note.contains("assigned")));
    let after = until(&place, "g", "two each", |info| is_settled(info, &[2, 2]));
    let (new_number, same_partitions) = held(&after);
    assert!(number != new_number, "another life");
    assert_eq!(partitions, same_partitions);
    let given = other.heard.0.lock().expect("whole").notes.iter().filter(|note| note.contains("given")).count();
    assert!(given <= 1, "once, when pod-1 first came");
    more(&place, 40, 40);
    let since = Instant::now();
    let have = || other.ids().union(&again.ids()).filter(|id| **id >= 40).count();
    while have() < 40 {
        assert!(since.elapsed() < DEADLINE);
        std::thread::yield_now();
    }
}

#[test]
fn a_server_that_is_killed_and_comes_back_has_its_groups_members_and_offsets() {
    let (place, server) = filled(3, 300);
    let member = Member::start(&place, "a --group g --session-timeout 15s");
    member.until("all of it", |heard| heard.records.len() == 300);
    let before = until(&place, "g", "all is committed", |info| info["lag"] == 0);
    let address = server.address.clone();
    server.kill();
    let _server = place.serve_again(&address);
    more(&place, 300, 300);
    member.until("the rest", |heard| heard.records.iter().map(|(_, _, id)| *id).collect::<BTreeSet<_>>().len() == 600);
    let after = until(&place, "g", "all is committed", |info| info["lag"] == 0 && info["state"] == "stable");
    assert_eq!(before["members"][0]["member"], after["members"][0]["member"], "the same membership");
    let printed = member.records();
    let once: BTreeSet<_> = printed.iter().collect();
    assert_eq!(printed.len(), once.len(), "nothing was printed twice");
}

#[test]
fn groups_are_listed_described_reset_and_deleted() {
    let (place, _server) = filled(2, 100);
    place.sh("group list").ok().says("no groups yet");
    assert_eq!(place.sh("group list --json").ok().json(), serde_json::json!([]));
    place.sh("consume a --group g --count 100").ok();
    place.sh("group list").ok().prints("g").prints("empty");
    let listed = place.sh("group list --json").ok().json();
    assert_eq!(
        (&listed[0]["name"], &listed[0]["lag"], &listed[0]["members"], &listed[0]["streams"]),
        (&"g".into(), &0.into(), &0.into(), &serde_json::json!(["a"]))
    );
    place.sh("group describe g").ok().prints("COMMITTED").prints("lag");

    let total = |info: &Value| -> u64 {
        info["partitions"]
            .as_array()
            .expect("an array")
            .iter()
            .map(|p| p["high_watermark"].as_u64().expect("a number"))
            .sum()
    };
    let dry = place.sh("group reset g --stream a --to earliest --dry-run --json").ok().json();
    assert_eq!((&dry["dry_run"], &dry["partitions"][0]["after"]), (&true.into(), &0.into()));
    assert_eq!(describe(&place, "g")["lag"], 0, "nothing was moved");
    place.sh("group reset g --stream a --to earliest").ok().prints("moved group 'g' in 2 partitions of 'a'");
    let info = describe(&place, "g");
    assert_eq!(info["lag"].as_u64(), Some(total(&info)));
    place.sh("group reset g --stream a --partition 0 --to latest").ok();
    let info = describe(&place, "g");
    assert_eq!((&info["partitions"][0]["lag"], &info["partitions"][1]["committed"]), (&0.into(), &0.into()));
    place.sh("group reset g --stream a --partition 0 --to shift=-3").ok();
    assert_eq!(describe(&place, "g")["partitions"][0]["lag"], 3);
    place.sh("group reset g --stream a --partition 0 --to shift=-1000000").ok();
    assert_eq!(describe(&place, "g")["partitions"][0]["committed"], 0, "cut to what the log holds");
    place.sh("group reset g --stream a --partition 1 --to offset=5").ok();
    assert_eq!(describe(&place, "g")["partitions"][1]["committed"], 5);
    place.sh("group reset g --stream a --to time=2100-01-01").ok();
    assert_eq!(describe(&place, "g")["lag"], 0);
    place.sh("group reset g --stream a --to time=2013-01-01T00:00:00Z").ok();
    assert_eq!(place.sh("consume a --group g --count 100").ok().lines().len(), 100, "all of it again");
    // A group that is not there is made by a reset.
    place.sh("group reset new --stream a --to latest").ok();
    assert_eq!(describe(&place, "new")["lag"], 0);

    place.sh("group delete g --offsets-of a --partition 1").ok();
    let left = &describe(&place, "g")["partitions"];
    assert_eq!((left.as_array().map(Vec::len), &left[0]["partition"]), (Some(1), &0.into()), "{left}");
    place.sh("group delete g --yes").ok().prints("deleted group 'g'");
    place.sh("group describe g").exits(10).says("unknown group 'g'");
}

#[test]
fn what_cannot_be_done_with_a_group_is_said_with_its_exit_code() {
    let (place, _server) = filled(2, 10);
    place.sh("group reset landing --stream a --to earliest").ok();
    for command in ["group describe landign", "group delete landign --yes"] {
        place
            .sh(command)
            .exits(10)
            .says("unknown group 'landign': did you mean 'landing'?")
            .says("millstream group list");
    }
    let error: Value = serde_json::from_str(&place.sh("group delete x --json").exits(10).stderr).expect("JSON");
    assert_eq!(error["error"]["name"], "unknown group");
    place.sh("group describe ../x").exits(10).says("illegal group name");
    place.sh("consume a --group UPPER").exits(10).says("illegal group name");
    place.sh("consume b --group g").exits(10).says("unknown stream 'b'");
    place.sh("group reset g --stream b --to earliest").exits(10).says("unknown stream 'b'");
    place.sh("group reset landing --stream a --partition 7 --to earliest").exits(10);
    place.sh("group reset landing --stream a --to offset=1000000").exits(30).says("--to earliest or latest");
    place.sh("consume a --group g --session-timeout 1s").exits(10).says("out of range");
    place.sh("consume a b --group g").exits(2);
    place.sh("consume --stream a").exits(2);

    // What a live group refuses.
    let member = Member::start(&place, "a --group landing");
    member.until("all of it", |heard| heard.records.len() == 10);
    for command in [
        "group reset landing --stream a --to earliest",
        "group delete landing --yes",
        "group delete landing --offsets-of a",
    ] {
        place.sh(command).exits(10).says("millstream group describe landing");
    }
}

/// A client of the server in that place.
async fn client(server: &Serve) -> Client {
    Client::connect(server.address.clone(), server.fingerprint.clone()).await.expect("it is there")
}

async fn event(consumer: &mut GroupConsumer) -> GroupEvent {
    let next = tokio::time::timeout(DEADLINE, consumer.next()).await.expect("something comes");
    next.expect("it has not ended").expect("no error")
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> Code {
    result.expect_err("refused").code()
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_cannot_be_taken_are_named() {
    let (_place, server) = filled(1, 10);
    let client = client(&server).await;
    let mut consumer = client.group("g").stream("a").commit(Commit::Manual).build().await.expect("it joins");
    assert!(matches!(event(&mut consumer).await, GroupEvent::Assigned(_)));
    let GroupEvent::Record(first) = event(&mut consumer).await else { panic!("no record") };
    let mut beyond = first.position();
    beyond.next = Offset(11);
    let outcome = consumer.commit_offsets(&[beyond]).await.expect("answered").remove(0);
    assert_eq!(code(outcome.result), Code::CommitPastEnd);
    consumer.commit().await.expect("it is held");

    // From outside, only while nobody is in.
    let position = Position { partition: PartitionId(0), next: Offset(4), epoch: None };
    assert_eq!(code(client.commit_offsets("g", "a", &[position]).await), Code::GroupNotEmpty);
    assert_eq!(client.fetch_offsets("g", "a", &[]).await.expect("there")[0].next, Some(Offset(1)));
    consumer.close().await.expect("it leaves");
    let outcome = client.commit_offsets("g", "a", &[position]).await.expect("answered").remove(0);
    outcome.result.expect("taken");
    let beyond = Position { next: Offset(11), ..position };
    let outcome = client.commit_offsets("g", "a", &[beyond]).await.expect("answered").remove(0);
    assert_eq!(code(outcome.result), Code::CommitPastEnd);
    let nowhere = Position { partition: PartitionId(9), ..position };
    let outcome = client.commit_offsets("g", "a", &[nowhere]).await.expect("answered").remove(0);
    assert_eq!(code(outcome.result), Code::UnknownPartition);
    assert_eq!(client.fetch_offsets("g", "a", &[PartitionId(0)]).await.expect("there")[0].next, Some(Offset(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_let_go_in_time_loses_everything_and_joins_again() {
    let (_place, server) = filled(2, 20);
    let client = client(&server).await;
    let member = || {
        let builder = client.group("g").stream("a").commit(Commit::Manual);
        builder.session_timeout(SESSION).rebalance_timeout(Duration::from_secs(1))
    };
    let mut slow = member().build().await.expect("it joins");
    assert!(matches!(event(&mut slow).await, GroupEvent::Assigned(partitions) if partitions.len() == 2));
    let GroupEvent::Record(in_hand) = event(&mut slow).await else { panic!("no record") };
    // The application is busy with it and calls nothing, while another member waits for its share.
    let mut quick = member().build().await.expect("it joins");
    let GroupEvent::Assigned(taken) = event(&mut quick).await else { panic!("nothing assigned") };
    assert!(!taken.is_empty());
    let refused = slow.commit_offsets(&[in_hand.position()]).await;
    let code = match refused {
        Err(error) => error.code(),
        Ok(mut outcomes) => code(outcomes.remove(0).result),
    };
    assert!([Code::UnknownMember, Code::StaleEpoch].contains(&code), "{code}");
    let lost = loop {
        match event(&mut slow).await {
            GroupEvent::Lost(partitions) => break partitions,
            GroupEvent::Record(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(lost.len(), 2);
    // It is in again by itself; while it lets go of nothing that it has not, the other one must call to share.
    let shared = tokio::time::timeout(DEADLINE, async {
        loop {
            tokio::select! {
                item = slow.next() => if let GroupEvent::Assigned(partitions) = item.expect("on").expect("no error") {
                    break partitions;
                },
                item = quick.next() => drop(item.expect("on").expect("no error")),
            }
        }
    });
    assert_eq!(shared.await.expect("in time").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_later_one_of_an_instance_id_takes_over_and_the_earlier_one_ends() {
    let (_place, server) = filled(1, 10);
    let client = client(&server).await;
    let member = || client.group("g").stream("a").instance("pod-1").commit(Commit::Manual);
    let mut first = member().build().await.expect("it joins");
    assert!(matches!(event(&mut first).await, GroupEvent::Assigned(_)));
    let mut second = member().build().await.expect("it joins");
    assert!(matches!(event(&mut second).await, GroupEvent::Assigned(partitions) if partitions.len() == 1));
    let mut items = Vec::new();
    while let Some(item) = tokio::time::timeout(DEADLINE, first.next()).await.expect("it ends") {
        items.push(item);
    }
    let error = items.pop().expect("why").expect_err("fenced");
    assert_eq!(error.code(), Code::Fenced, "{error:?}");
    assert!(matches!(items.pop(), Some(Ok(GroupEvent::Lost(_)))));
    assert!(matches!(event(&mut second).await, GroupEvent::Record(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_streams_are_read_by_one_group_and_a_new_one_of_that_name_is_found() {
    let (place, server) = filled(2, 20);
    place.sh("stream create b --partitions 1").ok();
    let client = client(&server).await;
    let producer = client.producer("b").build().await.expect("it is there");
    producer.send(Record::new("of b")).await.expect("stored");
    let mut consumer = client.group("g").streams(["a", "b"]).build().await.expect("it joins");
    let GroupEvent::Assigned(partitions) = event(&mut consumer).await else { panic!("nothing assigned") };
    let named = |stream: &str, partition| NamedPartition { stream: stream.into(), partition: PartitionId(partition) };
    assert_eq!(
        partitions.iter().cloned().collect::<BTreeSet<_>>(),
        BTreeSet::from([named("a", 0), named("a", 1), named("b", 0)])
    );
    let mut seen = BTreeMap::new();
    for _ in 0..21 {
        let record = consumer.next_record().await.expect("on").expect("no error");
        *seen.entry(record.stream.to_string()).or_insert(0) += 1;
    }
    assert_eq!(seen, BTreeMap::from([("a".to_owned(), 20), ("b".to_owned(), 1)]));
    // The stream is deleted and made again: another one, read from its beginning.
    place.sh("stream delete b --yes").ok();
    place.sh("stream create b --partitions 1").ok();
    let producer = client.producer("b").build().await.expect("it is there");
    producer.send(Record::new("of the new b")).await.expect("stored");
    let value = loop {
        match consumer.next_record().await.expect("on") {
            Ok(record) => break record.record.value.expect("a value"),
            // The reader may see that the stream is gone before the member does.
            Err(error) => assert_eq!((error.code(), error.stream()), (Code::StreamDeleted, Some("b")), "{error}"),
        }
    };
    assert_eq!(value, "of the new b");
    consumer.close().await.expect("committed");
    let info = client.describe_group("g").await.expect("it is there");
    assert_eq!((info.lag, info.members.len(), info.partitions.len()), (0, 0, 3));
}
