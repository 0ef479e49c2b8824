//! Declared schemas, the error prefix and its second chance; previews; what an audit and a doctor find.

mod common;

use std::sync::Arc;

use common::{Dies, Fault, Machine, TIMEOUT, World, as_sources, eventually, rows};
use millstream_lake::Sink;
use millstream_protocol::Code;
use millstream_protocol::frame::control::{LakeColumns, LakeConfig, LakeFormat};
use serde_json::json;

const STRICT: &str = r#"{"columns":[
    {"name":"id","type":"int32","required":true},
    {"name":"price","type":"decimal(6,2)"},
    {"name":"day","type":"date"},
    {"name":"at","type":"timestamp"},
    {"name":"name","type":"string"},
    {"name":"tags","type":"list<string>"},
    {"name":"to","type":"struct<zip: string, floor: int32>"}
]}"#;

fn loose() -> String {
    STRICT.replace("int32\",\"required\":true", "int64\"").replace("decimal(6,2)", "decimal(38,2)")
}

fn declared(world: &World, schema: &str) -> LakeConfig {
    LakeConfig { columns: LakeColumns::Declared(schema.into()), ..world.config(LakeFormat::Parquet) }
}

fn append_all(world: &World) {
    for value in [
        r#"{"id":1,"price":12.5,"day":"2024-02-29","at":"2024-02-29T12:00:00+02:00","name":"a","tags":["x",null],"to":{"zip":"1","floor":2},"more":[1]}"#,
        r#"{"id":2}"#,
        r#"{"price":1}"#,
        r#"{"id":3000000000}"#,
        r#"{"id":4,"price":12345.67}"#,
        r#"{"id":5,"price":0.001}"#,
        r#"{"id":6,"name":7}"#,
        r#"{"id":7,"tags":["x",1]}"#,
        r#"{"id":8,"to":{"zip":"1","street":"s"}}"#,
        r#"{"id":9,"day":"29.2.2024"}"#,
        "no json",
    ] {
        world.append(0, &[value]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_a_declared_schema_is_an_error_that_says_why() {
    let mut world = World::new(1);
    append_all(&world);
    let sink = world.start(declared(&world, STRICT), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    assert_eq!((sink.status().rows, sink.status().rejected), (2, 9));
    let row = &rows(&world)[0].fields;
    assert_eq!((&row["id"], &row["price"], &row["day"]), (&json!(1), &json!(12.5), &json!("2024-02-29")));
    assert_eq!((&row["at"], &row["tags"]), (&json!("2024-02-29T10:00:00Z"), &json!(["x", null])));
    assert_eq!((&row["to"], &row["_rest"]), (&json!({"zip": "1", "floor": 2}), &json!(r#"{"more":[1]}"#)));
    let lines = world.error_lines();
    let reasons: Vec<&str> = lines.iter().map(|line| line["reason"].as_str().expect("a reason")).collect();
    for (reason, says) in reasons.iter().zip([
        "\"id\" is required",
        "\"id\" does not fit its column: 3000000000",
        "\"price\" does not fit its column: 12345.67",
        "\"price\" does not fit its column: 0.001",
        "\"name\" does not fit",
        "\"tags\" does not fit",
        "\"to\" does not fit",
        "\"day\" does not fit",
        "not JSON",
    ]) {
        assert!(reason.contains(says), "{reason}");
    }
    assert!(sink.audit(TIMEOUT).await.expect("audited").complete);
    sink.stop().await;
}

async fn retried(world: &mut World, machine: &Arc<Machine>, faults: &[Fault]) -> (Sink, bool) {
    let config = declared(world, &loose());
    let sink = world.start(config, machine, faults);
    let retried = tokio::select! {
        retried = sink.retry_errors(TIMEOUT) => retried.is_ok(),
        () = eventually("the machine dies", || machine.is_dead()) => false,
    };
    (sink, retried)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_that_fit_after_a_fix_land_once_whatever_is_killed() {
    for dies in [Dies::Before, Dies::After] {
        for step in 0.. {
            let mut world = World::new(1);
            append_all(&world);
            let sink = world.start(declared(&world, STRICT), &Machine::immortal(), &[]);
            sink.flush(TIMEOUT).await.expect("it lands");
            let again = sink.retry_errors(TIMEOUT).await.expect("tried");
            assert_eq!((again.landed, again.rejected), (0, 9), "nothing has changed");
            sink.stop().await;
            let machine = Machine::dying(step, dies);
            let (sink, finished) = retried(&mut world, &machine, &[]).await;
            drop(sink);
            let (sink, _) = retried(&mut world, &Machine::immortal(), &[]).await;
            let what = format!("killed {dies:?} step {step}: {}", sink.status().error);
            let mut offsets: Vec<u64> = rows(&world).iter().map(|row| row.offset.0).collect();
            offsets.sort_unstable();
            assert_eq!(offsets, [0, 1, 2, 3, 4], "{what}");
            let left: Vec<u64> = world.error_lines().iter().map(|line| line["offset"].as_u64().expect("one")).collect();
            assert_eq!(left, [5, 6, 7, 8, 9, 10], "{what}");
            assert_eq!((sink.status().rows, sink.status().rejected), (5, 6), "{what}");
            let audit = sink.audit(TIMEOUT).await.expect("audited");
            assert!(audit.complete, "{what}: {:?}", audit.named);
            sink.stop().await;
            if finished {
                assert!(step > 4, "each step was tried: {step}");
                break;
            }
        }
    }
}

#[test]
fn a_schema_may_only_be_loosened() {
    let world = World::new(1);
    let old = declared(&world, STRICT);
    Sink::check_alter(&old, &declared(&world, &loose())).expect("it is looser");
    for (new, says) in [
        (declared(&world, r#"{"columns":[{"name":"id","type":"string"}]}"#), "type of \"id\" changes"),
        (declared(&world, "{"), "does not parse"),
        (LakeConfig { layout: "a={id}".into(), ..declared(&world, &loose()) }, "nothing of a lake but"),
        (world.config(LakeFormat::Parquet), "only a declared schema"),
    ] {
        let error = Sink::check_alter(&old, &new).expect_err(says);
        assert_eq!(error.code(), Code::IllegalLake);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_preview_shows_columns_and_paths_and_finds_slips_of_the_pen() {
    let mut world = World::new(2);
    for n in 0..50 {
        world.append(0, &[&format!(r#"{{"n":{n},"carrier":"UA"}}"#)]);
        world.append(1, &[&format!(r#"{{"n":{n},"carrier":"AA","late":{n}.5}}"#), "no"]);
    }
    let sources = as_sources(world.sources(&Machine::immortal()));
    let config = LakeConfig { layout: "c={carrier}/d={ts:%F}".into(), ..world.config(LakeFormat::Parquet) };
    let preview = Sink::preview(&config, &sources, 40).expect("a preview");
    assert_eq!((preview.records, preview.directories, preview.rejected), (40, 3, 10));
    let columns: Vec<String> =
        preview.columns.iter().take(3).map(|column| format!("{}: {}", column.name, column.kind)).collect();
    assert_eq!(columns, ["n: int64", "carrier: string", "late: float64"]);
    assert!(preview.paths[0].starts_with("c=AA/d=2023-11-14/00001-"), "{:?}", preview.paths);
    assert!(preview.reason.contains("not JSON"), "{}", preview.reason);
    let slip = LakeConfig { layout: "c={carier}".into(), ..config.clone() };
    let error = Sink::preview(&slip, &sources, 40).expect_err("no such field").to_string();
    assert!(
        error.contains("\"carier\", which none of the newest 30 records") && error.contains("carrier, late, n"),
        "{error}"
    );
    assert_eq!(world.objects().len(), 0, "nothing is written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_finds_what_was_done_to_a_lake() {
    for format in [LakeFormat::Parquet, LakeFormat::Ndjson] {
        let mut world = World::new(2);
        for n in 0..20 {
            world.append(0, &[&format!(r#"{{"n":{n},"k":{}}}"#, n % 2), "no"]);
            world.append(1, &[&format!(r#"{{"n":{n},"k":2}}"#)]);
        }
        let config = LakeConfig { layout: "k={k}".into(), ..world.config(format) };
        let sink = world.start(config, &Machine::immortal(), &[]);
        sink.flush(TIMEOUT).await.expect("it lands");
        let audit = sink.audit(TIMEOUT).await.expect("audited");
        assert_eq!(
            (audit.complete, audit.rows, audit.rejected, audit.compared),
            (true, 40, 20, 60),
            "{:?}",
            audit.named
        );
        let objects = world.objects();
        let victim = objects.iter().find(|(name, _)| name.starts_with("k=1/")).expect("a file").1.clone();
        let bytes = std::fs::read(&victim).expect("a file");
        let other = std::fs::read(objects.values().next().expect("a file")).expect("a file");
        let finds = async |what: &str, says: &str| {
            let audit = sink.audit(TIMEOUT).await.expect("audited");
            assert!(!audit.complete && audit.findings > 0, "{format:?}, {what}");
            assert!(audit.named.iter().any(|text| text.contains(says)), "{format:?}, {what}: {:?}", audit.named);
        };
        std::fs::remove_file(&victim).expect("removed");
        finds("a file is gone", "is missing: 10 rows").await;
        std::fs::write(&victim, &bytes[..bytes.len() / 2]).expect("written");
        finds("a file is cut", &victim.file_name().expect("a name").to_string_lossy()).await;
        std::fs::write(&victim, &bytes).expect("written");
        let stranger =
            victim.with_file_name(format!("copy.{}", if format == LakeFormat::Parquet { "parquet" } else { "ndjson" }));
        std::fs::write(&stranger, other).expect("written");
        finds("a file is there that nobody knows", "not in the manifest").await;
        std::fs::remove_file(&stranger).expect("removed");
        let errors = objects.iter().find(|(name, _)| name.starts_with("errors/")).expect("a file").1;
        let text = std::fs::read_to_string(errors).expect("text");
        std::fs::write(errors, text.split_once('\n').expect("lines").1).expect("written");
        finds("a rejected record is gone", "has 19 rows, the manifest says 20").await;
        std::fs::write(errors, text).expect("written");
        let entry = world.lake().join("_millstream/manifest/00000/00000000000000000000.json");
        let kept = std::fs::read(&entry).expect("an entry");
        std::fs::remove_file(&entry).expect("removed");
        finds("an entry is gone", "not in the manifest").await;
        std::fs::write(&entry, kept).expect("written");
        assert!(sink.audit(TIMEOUT).await.expect("audited").complete, "all is well again");
        sink.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doctor_says_what_a_store_promises_and_leaves_nothing() {
    let world = World::new(1);
    let report =
        millstream_lake::doctor::doctor(&format!("file://{}", world.lake().display())).await.expect("a report");
    assert!(report.exactly_once && report.at_least_once, "{report:?}");
    assert!(report.checks.len() == 7 && report.checks.iter().all(|check| check.passed), "{report:?}");
    assert_eq!(std::fs::read_dir(world.lake()).expect("there").count(), 0);
    let error = millstream_lake::doctor::doctor("file:///proc/lake").await.expect_err("not writable");
    assert_eq!(error.code(), Code::IllegalLake);
}
