//! Each fault does what it says: what is stored behind it, and what its client is told.

mod client;

use std::time::{Duration, Instant};

use client::{builder, client, create, get, put, server};
use futures::TryStreamExt;
use millstream_s3::{Act, Chaos, Fault, Operation, Refusal, Server, Tally};
use object_store::path::Path;
use object_store::{ClientOptions, Error, ObjectStore, ObjectStoreExt, RetryConfig};

fn is_stored(server: &Server, key: &str) -> bool {
    server.store().get("test", key).is_some()
}

/// Waits for what comes late.
async fn stored_in_the_end(server: &Server, key: &str) {
    let stored = async {
        while !is_stored(server, key) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), stored).await.expect("it is stored in the end");
}

#[tokio::test]
async fn refusals_say_what_they_are_and_store_only_if_they_lie() {
    let server = server().await;
    let client = client(&server);
    for (refusal, says) in [
        (Refusal::InternalError, "500"),
        (Refusal::SlowDown, "503"),
        (Refusal::TooManyRequests, "429"),
        (Refusal::Conflict, "409"),
        (Refusal::AccessDenied, "403"),
    ] {
        for act in [Act::Refuse(refusal), Act::ApplyThenRefuse(refusal)] {
            let key = format!("{act:?}");
            server.faults().push(Fault::new(act).on(Operation::Put).key("Refuse"));
            put(&client, "another", "x").await.expect("it is not meant for this one");
            let error = create(&client, &key, "x".into()).await.expect_err("refused");
            assert!(format!("{error:?}").contains(says), "{error:?}");
            assert_eq!(matches!(error, Error::AlreadyExists { .. }), refusal == Refusal::Conflict, "{error:?}");
            assert_eq!(is_stored(&server, &key), act == Act::ApplyThenRefuse(refusal));
            let again = create(&client, &key, "x".into()).await;
            assert_eq!(again.is_ok(), act == Act::Refuse(refusal));
        }
    }
    assert!(server.faults().waiting().is_empty());
    assert_eq!(server.faults().tally(Operation::Put), Tally { requests: 30, faulty: 10 });
    let seen = server.faults().seen();
    assert_eq!(seen[1].act, Some(Act::Refuse(Refusal::InternalError)));
    assert_eq!((seen[1].status, seen[2].status, seen[5].status), (None, Some(200), Some(412)));
}

#[tokio::test]
async fn connections_are_closed_before_or_after_it_is_done() {
    let server = server().await;
    let client = client(&server);
    for (act, stored) in [(Act::HangUp, false), (Act::ApplyThenHangUp, true), (Act::CutRequest, false)] {
        let key = format!("{act:?}");
        server.faults().push(Fault::new(act).on(Operation::Put));
        let error = create(&client, &key, "x".repeat(100_000)).await.expect_err("no answer");
        assert!(matches!(error, Error::Generic { .. }), "{error:?}");
        assert_eq!(is_stored(&server, &key), stored, "{act:?}");
    }
    let late = Duration::from_millis(50);
    server.faults().push(Fault::new(Act::HangUpThenApplyAfter(late)));
    create(&client, "late", "x".into()).await.expect_err("no answer");
    stored_in_the_end(&server, "late").await;
}

#[tokio::test]
async fn an_answer_comes_later_than_its_client_waits() {
    let server = server().await;
    let options = ClientOptions::new().with_allow_http(true).with_timeout(Duration::from_millis(200));
    let impatient = builder(&server, "test").with_client_options(options).build().expect("a client");
    server.faults().push(Fault::new(Act::ApplyThenAnswerAfter(Duration::from_secs(60))));
    create(&impatient, "a", "x".into()).await.expect_err("too late");
    assert!(is_stored(&server, "a"));
    server.faults().push(Fault::new(Act::ApplyThenAnswerAfter(Duration::from_millis(100))));
    let before = Instant::now();
    create(&client(&server), "b", "x".into()).await.expect("late, and not too late");
    assert!(before.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn answers_are_cut_and_nobody_takes_them_for_whole() {
    let server = server().await;
    let client = client(&server);
    create(&client, "a", "x".repeat(300_000)).await.expect("put");
    server.faults().push(Fault::new(Act::CutAnswer).on(Operation::Get));
    let answer = client.get(&Path::from("a")).await.expect("its head comes");
    assert_eq!(answer.meta.size, 300_000);
    let mut came = 0;
    let mut body = answer.into_stream();
    let error = loop {
        match body.try_next().await {
            Ok(Some(part)) => came += part.len(),
            Ok(None) => panic!("taken for whole after {came}"),
            Err(error) => break error,
        }
    };
    assert_eq!(came, 150_000, "{error}");
    server.faults().push(Fault::new(Act::CutAnswer).on(Operation::List));
    client.list(None).try_collect::<Vec<_>>().await.expect_err("half a list");
    server.faults().push(Fault::new(Act::CutAnswer).on(Operation::Head));
    client.head(&Path::from("a")).await.expect_err("an answer without a body is not sent");
}

#[tokio::test]
async fn lists_lag_and_catch_up() {
    let server = server().await;
    let client = client(&server);
    server.faults().push(Fault::new(Act::Unlisted { lists: 2 }).key("new"));
    create(&client, "old", "x".into()).await.expect("put");
    create(&client, "new", "x".into()).await.expect("put");
    for count in [1, 1, 2, 2] {
        let listed = client.list(None).try_collect::<Vec<_>>().await.expect("listed");
        assert_eq!(listed.len(), count);
        assert_eq!(get(&client, "new").await.expect("it can be got all the time"), b"x");
    }
}

/// A client that tries again and again gets everything done, and what it was told first is what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_chaos_creates_are_done_once_and_the_same_seed_does_the_same() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let server = server().await;
        server.faults().set_chaos(Some(Chaos::everywhere(3, 500).late(Duration::from_millis(5))));
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let client = builder(&server, "test").with_retry(retry).build().expect("a client");
        for number in 0..60 {
            let key = format!("{number}");
            for attempt in 0.. {
                // Others' bodies: the first that gets through stays, whatever comes later.
                let outcome = create(&client, &key, format!("{number} {attempt}")).await;
                let there = server.store().get("test", &key);
                if outcome.is_ok() {
                    assert_eq!(there.expect("it was done").body, format!("{number} {attempt}"));
                    break;
                }
                if there.is_some() {
                    break;
                }
            }
        }
        assert_eq!(server.store().list("test", "").len(), 60);
        let acts: Vec<_> = server.faults().seen().into_iter().map(|seen| (seen.key, seen.act)).collect();
        assert!(acts.iter().filter(|(_, act)| act.is_some()).count() > 30);
        runs.push(acts);
    }
    // Whether a late request is there before the next attempt is a matter of time; the first attempts are not.
    let first = |run: &[(String, Option<Act>)]| -> Vec<_> {
        (0..60).map(|n| run.iter().find(|(key, _)| *key == n.to_string()).cloned()).collect()
    };
    assert_eq!(first(&runs[0]), first(&runs[1]));
}
