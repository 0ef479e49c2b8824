//! Each peer, small, if its server is installed: what it is told to do ends, and is counted. Else a loud line.

use std::io::Write;

use super::*;

const LOAD: Load = Load { records: 2_001, record_bytes: 300, producers: 2, in_flight: 64 };

/// Past the test harness, which would keep a passing test's output to itself.
fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("there is a standard error");
}

async fn runs(kind: Kind, sync: SyncPolicy) {
    let peer = match Peer::start(kind, sync, &std::env::temp_dir()).await {
        Ok(peer) => peer,
        Err(absent) if absent.is_absence() => return say(&format!("SKIPPED: {absent}")),
        Err(error) => panic!("{error}"),
    };
    say(&peer.describe());
    let produced = peer.produce(&LOAD).await.expect("it stores them");
    let one = Load { producers: 1, in_flight: 1, records: 20, ..LOAD };
    peer.produce(&one).await.expect("one in flight is enough");
    let mut queued = Vec::new();
    for consumers in [1, 4] {
        queued.push(peer.queue(&LOAD, consumers).await.expect("each job is acknowledged once"));
    }
    let few = Load { records: 1, ..LOAD };
    peer.queue(&few, 3).await.expect("fewer jobs than consumers");
    let trips = peer.round_trips(50, LOAD.record_bytes).await.expect("it answers");
    assert_eq!(trips.len(), 50);
    let trip = trips.iter().sum::<Duration>() / 50;
    say(&format!("{} {sync:?}: produced in {produced:?}, queued in {queued:?}, a round trip in {trip:?}", peer.name()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_syncing_always_does_all_that_a_bench_asks() {
    runs(Kind::RedisStreams, SyncPolicy::Always).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_syncing_now_and_then_does_all_that_a_bench_asks() {
    runs(Kind::RedisStreams, SyncPolicy::Periodic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jetstream_syncing_always_does_all_that_a_bench_asks() {
    runs(Kind::JetStream, SyncPolicy::Always).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jetstream_syncing_now_and_then_does_all_that_a_bench_asks() {
    runs(Kind::JetStream, SyncPolicy::Periodic).await;
}
