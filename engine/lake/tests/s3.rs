//! Exactly once over S3, as a server of our own speaks it that fails on command: every fault at every request, one by one; and
//! many at random, on machines that are killed. After each run every record is in the bucket once.
//!
//! That the server does what it is told is `tools/s3`'s to prove; that it is not only ours that works, `moto.rs`'s.

mod bucket;
mod common;

use std::sync::Arc;
use std::time::Duration;

use bucket::{Feed, client, is_error_file};
use bytes::Bytes;
use common::{Dies, LAKE, Machine, TIMEOUT, as_sources, eventually};
use futures::{StreamExt, stream};
use millstream_lake::Sink;
use millstream_protocol::frame::control::{LakeConfig, LakeFormat};
use millstream_protocol::{Code, LakeId};
use millstream_s3::{ACCESS_KEY, Act, Chaos, Fault, Operation, Refusal, SECRET_KEY, Server, Settings};
use object_store::aws::AmazonS3;

const FORMATS: [LakeFormat; 2] = [LakeFormat::Parquet, LakeFormat::Ndjson];
/// How long a client waits for an answer: one that comes later is lost.
const PATIENCE: Duration = Duration::from_millis(400);
/// Runs at once: most of a run is waiting.
const PARALLEL: usize = 16;
/// Set where the test that needs an environment of its own is run.
const INNER: &str = "MILLSTREAM_LAKE_INNER_TEST";
const READS: [Operation; 3] = [Operation::Get, Operation::Head, Operation::List];

const PUT_FAULTS: [Act; 15] = [
    Act::Refuse(Refusal::InternalError),
    Act::Refuse(Refusal::SlowDown),
    Act::Refuse(Refusal::TooManyRequests),
    Act::Refuse(Refusal::Conflict),
    Act::Refuse(Refusal::AccessDenied),
    Act::ApplyThenRefuse(Refusal::InternalError),
    Act::ApplyThenRefuse(Refusal::SlowDown),
    Act::ApplyThenRefuse(Refusal::Conflict),
    Act::HangUp,
    Act::ApplyThenHangUp,
    Act::ApplyThenAnswerAfter(Duration::from_millis(20)),
    Act::ApplyThenAnswerAfter(PATIENCE.saturating_mul(2)),
    Act::HangUpThenApplyAfter(Duration::from_millis(150)),
    Act::CutRequest,
    Act::Unlisted { lists: 3 },
];

const READ_FAULTS: [Act; 8] = [
    Act::Refuse(Refusal::InternalError),
    Act::Refuse(Refusal::SlowDown),
    Act::Refuse(Refusal::TooManyRequests),
    Act::Refuse(Refusal::AccessDenied),
    Act::HangUp,
    Act::ApplyThenHangUp,
    Act::ApplyThenAnswerAfter(PATIENCE.saturating_mul(2)),
    Act::CutAnswer,
];

async fn server() -> Server {
    Server::start(Settings::default()).await.expect("a server")
}

fn client_of(server: &Server, retries: usize) -> Arc<AmazonS3> {
    client(&server.endpoint(), [ACCESS_KEY, SECRET_KEY], "test", PATIENCE, retries)
}

fn objects(server: &Server) -> Vec<(String, Bytes)> {
    let keys = server.store().list("test", "").into_iter();
    keys.map(|key| (key.clone(), server.store().get("test", &key).expect("it is listed").body)).collect()
}

/// Waits for requests whose senders have given up.
async fn late_ones_arrived(server: &Server) {
    let is_under_way = |act, status: Option<u16>| matches!(act, Some(Act::HangUpThenApplyAfter(_))) && status.is_none();
    eventually("late requests arrive", || {
        !server.faults().seen().iter().any(|seen| is_under_way(seen.act, seen.status))
    })
    .await;
}

/// What a run asked of its server.
struct Run {
    puts: u32,
    reads: u32,
    /// How many faults found no request that they are meant for.
    idle_faults: usize,
}

/// Lands two rounds of records, the second after a restart, under these faults.
async fn land(what: &str, format: LakeFormat, retries: usize, faults: Vec<Fault>) -> Run {
    let (server, mut feed) = (server().await, Feed::new(1));
    let client = client_of(&server, retries);
    faults.into_iter().for_each(|fault| server.faults().push(fault));
    for _ in 0..2 {
        feed.append(0, 7);
        let sink = feed.start(&client, format, &Machine::immortal());
        sink.flush(TIMEOUT).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(sink.status().error, "", "{what}: success clears it");
        sink.stop().await;
    }
    late_ones_arrived(&server).await;
    feed.assert_complete(what, &objects(&server), format);
    let requests = |operation| server.faults().tally(operation).requests as u32;
    let reads = READS.into_iter().map(requests).sum();
    Run { puts: requests(Operation::Put), reads, idle_faults: server.faults().waiting().len() }
}

/// Lands under each of these, many at once. Nearly all must meet their faults.
async fn land_all(runs: Vec<(String, LakeFormat, usize, Vec<Fault>)>) {
    let count = runs.len();
    assert!(count > 0, "something is tried");
    let runs = stream::iter(runs).map(|(what, format, retries, faults)| async move {
        tokio::spawn(async move { land(&what, format, retries, faults).await.idle_faults }).await.expect("a good run")
    });
    let idle = runs.buffer_unordered(PARALLEL).filter(|idle| std::future::ready(*idle > 0)).count().await;
    // A run with a fault in it may ask in another order than the one without.
    assert!(idle * 10 <= count, "{idle} of {count} runs did not meet their faults");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_every_put_is_put_right() {
    let mut runs = Vec::new();
    for format in FORMATS {
        let puts = land("without faults", format, 0, Vec::new()).await.puts;
        assert!(puts >= 5, "an owner, two files, two error files: {puts}");
        for act in PUT_FAULTS {
            for nth in 0..puts {
                let fault = Fault::new(act).on(Operation::Put).after(nth);
                let retries = (nth % 2) as usize * 2;
                runs.push((
                    format!("{format:?}, {act:?} of put {nth}, {retries} retries"),
                    format,
                    retries,
                    vec![fault],
                ));
            }
        }
    }
    land_all(runs).await;
}

/// Faults of reads come on top of lost answers: it is only then that a lake reads, now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_every_read_behind_a_lost_answer_is_put_right() {
    let mut runs = Vec::new();
    for (format, odd) in FORMATS.into_iter().flat_map(|format| [(format, 0), (format, 1)]) {
        // Every other put, so that those which follow them are tried too.
        let lost = || -> Vec<Fault> {
            (0..3).map(|n| Fault::new(Act::ApplyThenHangUp).on(Operation::Put).after(2 * n + odd)).collect()
        };
        let reads = land("lost answers", format, 0, lost()).await.reads;
        for act in READ_FAULTS {
            for nth in 0..reads {
                let fault = READS.into_iter().fold(Fault::new(act).after(nth), Fault::on);
                let what = format!("{format:?}, lost answers from put {odd}, {act:?} of read {nth}");
                runs.push((what, format, 0, lost().into_iter().chain([fault]).collect()));
            }
        }
    }
    land_all(runs).await;
}

/// Some dozen files from machines that are killed, while a third of all requests fail: how many there are, and faults.
async fn chaos(format: LakeFormat, seed: u64) -> (usize, u64) {
    let what = format!("{format:?}, seed {seed}");
    let (server, mut feed) = (server().await, Feed::new(4));
    let client = client_of(&server, (seed % 2) as usize * 2);
    server.faults().set_chaos(Some(Chaos::everywhere(seed, 300).late(Duration::from_millis(60))));
    for round in 0..2 {
        let mut sink = feed.start(&client, format, &Machine::immortal());
        for _ in 0..3 {
            (0..4).for_each(|partition| feed.append(partition, 1 + (u64::from(partition) + seed) % 5));
            sink.flush(TIMEOUT).await.unwrap_or_else(|error| panic!("{what}, round {round}: {error}"));
        }
        sink.stop().await;
        // And a machine that dies on its way, somewhere.
        (0..4).for_each(|partition| feed.append(partition, 2));
        let dies = if round == 0 { Dies::Before } else { Dies::After };
        let machine = Machine::dying(seed as usize, dies);
        sink = feed.start(&client, format, &machine);
        tokio::select! {
            flushed = sink.flush(TIMEOUT) => drop(flushed),
            () = eventually("the machine dies", || machine.is_dead()) => {}
        }
        sink.stop().await;
    }
    let sink = feed.start(&client, format, &Machine::immortal());
    sink.flush(TIMEOUT).await.unwrap_or_else(|error| panic!("{what}, the last time: {error}"));
    sink.stop().await;
    late_ones_arrived(&server).await;
    let objects = objects(&server);
    feed.assert_complete(&what, &objects, format);
    let faulty: u64 = Operation::ALL.into_iter().map(|operation| server.faults().tally(operation).faulty).sum();
    let files = objects.iter().filter(|(key, _)| !key.starts_with("_millstream/") && !is_error_file(key)).count();
    (files, faulty)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_files_under_chaos_and_kills_hold_every_record_once() {
    let lakes = FORMATS.into_iter().flat_map(|format| (0..6).map(move |seed| (format, seed)));
    let lakes = lakes.map(|(format, seed)| tokio::spawn(chaos(format, seed)));
    let (mut files, mut faults) = (0, 0);
    for lake in lakes.collect::<Vec<_>>() {
        let of_lake = lake.await.expect("a good run");
        files += of_lake.0;
        faults += of_lake.1;
    }
    assert!(files > 300 && faults > 200, "{files} files, {faults} faults");
}

/// An audit asks so often that some request fails for sure, where one in five does and no client tries again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_gets_through_where_reads_fail() {
    for format in FORMATS {
        let (server, mut feed) = (server().await, Feed::new(2));
        let sink = feed.start(&client_of(&server, 0), format, &Machine::immortal());
        for _ in 0..4 {
            (0..2).for_each(|partition| feed.append(partition, 5));
            sink.flush(TIMEOUT).await.expect("it lands");
        }
        let chaos = READS.into_iter().fold(Chaos::new(1), |chaos, operation| chaos.on(operation, 200));
        server.faults().set_chaos(Some(chaos.late(Duration::from_millis(20))));
        let audit = sink.audit(TIMEOUT).await.expect("it gets through");
        assert!(audit.complete, "{:?}", audit.named);
        assert_eq!(audit.rows + audit.rejected, 40);
        let faulty: u64 = READS.into_iter().map(|operation| server.faults().tally(operation).faulty).sum();
        assert!(faulty > 0, "something failed");
        sink.stop().await;
    }
}

/// The judge of these runs, judged: it sees a file that is missing, and one that is there twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_and_a_repeated_file_are_noticed() {
    for format in FORMATS {
        let (server, mut feed) = (server().await, Feed::new(1));
        feed.append(0, 20);
        let sink = feed.start(&client_of(&server, 0), format, &Machine::immortal());
        sink.flush(TIMEOUT).await.expect("it lands");
        sink.stop().await;
        let objects = objects(&server);
        feed.assert_complete("as it should be", &objects, format);
        for (index, (key, body)) in objects.iter().enumerate().filter(|(_, (key, _))| !key.starts_with("_millstream/"))
        {
            let mut missing = objects.clone();
            missing.remove(index);
            assert!(feed.judge(&missing, format).expect_err("missing").contains("is there 0 times"), "{key}");
            let again = key.rsplit_once('/').map_or_else(String::new, |(directory, _)| format!("{directory}/"));
            let extension = key.rsplit_once('.').expect("an extension").1;
            let repeated = [&objects[..], &[(format!("{again}again.{extension}"), body.clone())]].concat();
            assert!(feed.judge(&repeated, format).expect_err("repeated").contains("is there 2 times"), "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_lakes_in_one_bucket_one_lands_and_the_other_stops() {
    for format in FORMATS {
        let server = server().await;
        let client = client_of(&server, 0);
        let (mut first, mut second) = (Feed::new(1), Feed::new(1));
        first.append(0, 5);
        second.append(0, 9);
        let config = LakeConfig { name: "second".into(), url: "s3://test".into(), ..second.world.config(format) };
        let sources = as_sources(second.world.sources(&Machine::immortal()));
        let settings = second.world.settings();
        let one = first.start(&client, format, &Machine::immortal());
        let other = Sink::start_over(client, LakeId(LAKE.0 + 1), config, "rides", sources, settings).expect("legal");
        let (one_flushed, other_flushed) = tokio::join!(one.flush(TIMEOUT), other.flush(TIMEOUT));
        let (winner, error) = match (one_flushed, other_flushed) {
            (Ok(()), Err(error)) => (first, error),
            (Err(error), Ok(())) => (second, error),
            both => panic!("exactly one lands: {both:?}"),
        };
        assert_eq!(error.code(), Code::IllegalLake, "{error}");
        one.stop().await;
        other.stop().await;
        winner.assert_complete("the winner's", &objects(&server), format);
    }
}

/// The client that a server uses, made from its environment. That can be set for a process only: this test is run in one of its
/// own, by the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by a_lake_finds_its_bucket_through_the_environment"]
async fn inner_through_the_environment() {
    // Whoever asks for all tests asks for this one too, in an environment of which nothing is known.
    if std::env::var_os(INNER).is_none() {
        return;
    }
    let mut feed = Feed::new(2);
    (0..2).for_each(|partition| feed.append(partition, 20));
    for format in FORMATS {
        let config = |bucket: &str| {
            let url = format!("s3://{bucket}/deep/{format:?}");
            LakeConfig { url, ..feed.world.config(format) }
        };
        Sink::check(&config("test"), &feed.world.settings()).await.expect("a bucket that can be used");
        let error = Sink::check(&config("nowhere"), &feed.world.settings()).await.expect_err("there is no such bucket");
        assert_eq!(error.code(), Code::IllegalLake, "{error}");
        let config = config("test");
        let sources = as_sources(feed.world.sources(&Machine::immortal()));
        let sink = Sink::start(LAKE, config.clone(), "rides", sources, feed.world.settings()).expect("a legal lake");
        sink.flush(TIMEOUT).await.expect("it lands");
        sink.stop().await;
        Sink::check(&config, &feed.world.settings()).await.expect_err("it is taken now");
        feed = Feed::new(2);
        (0..2).for_each(|partition| feed.append(partition, 20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_finds_its_bucket_through_the_environment() {
    let server = server().await;
    let mut inner = std::process::Command::new(std::env::current_exe().expect("this program"));
    inner.args(["--ignored", "--exact", "inner_through_the_environment", "--nocapture"]);
    let theirs = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("AWS_"));
    for name in theirs {
        inner.env_remove(name);
    }
    inner.envs(server.environment()).env(INNER, "1");
    let output = tokio::task::spawn_blocking(move || inner.output()).await.expect("no panic").expect("it runs");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let mut feed = Feed::new(2);
    (0..2).for_each(|partition| feed.append(partition, 20));
    for format in FORMATS {
        let prefix = format!("deep/{format:?}/");
        let below = objects(&server).into_iter();
        let below = below.filter_map(|(key, body)| Some((key.strip_prefix(&prefix)?.to_owned(), body)));
        let below: Vec<_> = below.collect();
        assert!(below.len() >= 5, "an owner, two files, two error files: {}", below.len());
        feed.assert_complete("through the environment", &below, format);
    }
    assert!(objects(&server).iter().all(|(key, _)| key.starts_with("deep/")), "nothing of the checks is left");
}
