//! Stores that fail, lie or belong to somebody else; and what a check says before a lake is added.

mod common;

use std::time::Duration;

use common::{Fault, LAKE, Machine, TIMEOUT, World, as_sources, eventually, rows};
use millstream_lake::Sink;
use millstream_protocol::frame::control::{LakeConfig, LakeFormat};
use millstream_protocol::{Code, LakeId};

fn small() -> World {
    let world = World::new(1);
    world.append(0, &[r#"{"n":1}"#, "no", r#"{"n":2}"#]);
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_failures_and_conflicts_are_put_right() {
    for format in [LakeFormat::Parquet, LakeFormat::Ndjson] {
        for fault in [Fault::Fails, Fault::AnswerLost, Fault::Conflict] {
            let mut world = small();
            // Each object meets it: the owner, the error file and the data file.
            let sink = world.start(world.config(format), &Machine::immortal(), &[fault, fault]);
            let flushed = sink.flush(TIMEOUT);
            let seen = eventually("the error is seen", || sink.status().error.contains("cannot put"));
            let (flushed, ()) = tokio::join!(flushed, seen);
            flushed.expect("it lands");
            assert_eq!(sink.status().error, "", "cleared by success");
            assert_eq!((sink.status().rows, sink.status().rejected), (2, 1));
            assert_eq!(world.error_lines().len(), 1);
            match format {
                LakeFormat::Parquet => assert_eq!(rows(&world).len(), 2),
                LakeFormat::Ndjson => {
                    let text = std::fs::read_to_string(&world.files("ndjson")[0]).expect("a file");
                    assert_eq!(text, "{\"n\":1}\n{\"n\":2}\n");
                }
            }
            sink.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_cannot_be_done_in_time_says_how_far_it_is() {
    let mut world = small();
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[Fault::Fails; 100]);
    let error = sink.flush(Duration::from_millis(300)).await.expect_err("the store is down");
    assert_eq!(error.code(), Code::TimedOut);
    let text = error.to_string();
    assert!(text.contains("partition 0 has landed up to 0 of 3") && text.contains("503 Slow Down"), "{text}");
    assert!(sink.status().oldest_waiting_ms > 0);
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_lake_in_the_same_directory_is_stopped_and_overwrites_nothing() {
    for format in [LakeFormat::Parquet, LakeFormat::Ndjson] {
        let mut world = World::new(1);
        world.append(0, &[r#"{"n":1}"#]);
        let sink = world.start(world.config(format), &Machine::immortal(), &[]);
        sink.flush(TIMEOUT).await.expect("it lands");
        sink.stop().await;
        let file = world.files(if format == LakeFormat::Parquet { "parquet" } else { "ndjson" }).remove(0);
        let before = std::fs::read(&file).expect("a file");

        // On another server, and on this one over the same stream: there no name of a file need be the same.
        let mut other = World::new(1);
        other.append(0, &[r#"{"m":7}"#]);
        world.append(0, &[r#"{"n":2}"#]);
        let there = as_sources(other.sources(&Machine::immortal()));
        let here = as_sources(world.sources(&Machine::immortal()));
        for sources in [there, here] {
            let config = LakeConfig { name: "second".into(), ..world.config(format) };
            Sink::check(&config, &other.settings()).await.expect_err("the directory is another lake's");
            let sink = Sink::start(LakeId(8), config, "rides", sources, other.settings()).expect("a legal lake");
            let error = sink.flush(TIMEOUT).await.expect_err("it is fenced");
            assert_eq!(error.code(), Code::IllegalLake);
            assert!(error.to_string().contains("belongs to the lake \"landing\""), "{error}");
            assert!(sink.status().error.contains("owner.json"));
            sink.stop().await;
        }
        assert_eq!(std::fs::read(&file).expect("a file"), before);
        assert_eq!(world.files("parquet").len() + world.files("ndjson").len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn something_else_under_the_name_stops_the_lake() {
    let mut world = World::new(1);
    world.append(0, &[r#"{"n":1}"#]);
    let name = "00000-00000000000000000000-00000000000000000000.parquet";
    std::fs::write(world.lake().join(name), b"hello").expect("written");
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
    let error = sink.flush(TIMEOUT).await.expect_err("foreign");
    assert!(error.to_string().contains("no Parquet file"), "{error}");
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_names_what_is_wrong_with_a_lake() {
    let world = World::new(1);
    let settings = world.settings();
    std::fs::write(world.directory.path().join("file"), b"").expect("written");
    let url = |path: &str| format!("file://{}/{path}", world.directory.path().display());
    let config = |url: &str| LakeConfig { url: url.into(), ..world.config(LakeFormat::Parquet) };
    Sink::check(&config(&url("new/deeper")), &settings).await.expect("a directory is made");
    assert_eq!(
        std::fs::read_dir(world.directory.path().join("new/deeper")).expect("there").count(),
        0,
        "nothing is left"
    );
    for (bad, says) in [
        ("lake", "not a URL"),
        ("/tmp/lake", "not a URL"),
        ("file://lake/dir", "three slashes"),
        ("ftp://host/dir", "\"ftp\" is not known"),
        ("s3:///prefix", "no bucket"),
        ("s3://user:secret@bucket/prefix", "environment"),
        (&url("file"), "is a file"),
        (&url("file/below"), "cannot create the directory"),
        ("file:///proc/lake", "cannot create the directory"),
    ] {
        let error = Sink::check(&config(bad), &settings).await.expect_err(bad);
        assert_eq!(error.code(), Code::IllegalLake, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    let tiny = LakeConfig { roll_bytes: 10, ..world.config(LakeFormat::Parquet) };
    let error = Sink::check(&tiny, &settings).await.expect_err("too small");
    assert!(error.to_string().contains("roll_bytes is 10"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_missing_at_the_start_is_waited_for() {
    let mut world = small();
    let place = world.directory.path().join("mount");
    std::fs::write(&place, b"").expect("written");
    let config = LakeConfig { url: format!("file://{}/lake", place.display()), ..world.config(LakeFormat::Ndjson) };
    let sources = as_sources(world.sources(&Machine::immortal()));
    let sink = Sink::start(LAKE, config, "rides", sources, world.settings()).expect("a legal lake");
    eventually("the error is seen", || sink.status().error.contains("cannot create the directory")).await;
    std::fs::remove_file(&place).expect("removed");
    sink.flush(TIMEOUT).await.expect("it lands");
    assert_eq!(sink.status().error, "");
    sink.stop().await;
}
