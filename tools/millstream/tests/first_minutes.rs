//! The first five minutes, as the README tells them: nothing but the commands, in a directory of one's own.

mod support;

use millstream_lake::reader::parquet_summary;
use support::{Place, sample};

#[test]
fn from_nothing_to_a_lake_without_a_flag() {
    let place = Place::new();
    let server = place.serve();
    let sample = sample();
    let done = place.run([std::ffi::OsStr::new("produce"), "flights".as_ref(), sample.as_os_str()]).ok();
    done.says("stream 'flights' was not there: created with 4 partitions").prints("stored 5,000 records in 'flights'");

    place.sh("stream list").ok().prints("flights").prints("5,000");
    let list = place.sh("stream list --json").ok().json();
    assert_eq!((list[0]["name"].as_str(), list[0]["records"].as_u64()), (Some("flights"), Some(5_000)));
    place.sh("stream describe flights").ok().prints("durability").prints("synced");
    let stream = place.sh("stream describe flights --json").ok().json();
    assert_eq!(stream["partitions"].as_array().map(Vec::len), Some(4));
    assert_eq!(place.sh("consume flights --count 3 --format value").ok().lines().len(), 3);

    place.sh("lake add nyc --stream flights --url ./lake").ok().prints("lands as parquet");
    place.sh("lake flush nyc").ok().prints("5,000 rows");
    let status = place.sh("lake status nyc --json").ok().json();
    assert_eq!(
        (status["rows"].as_u64(), status["waiting"].as_u64(), status["rejected"].as_u64()),
        (Some(5_000), Some(0), Some(0))
    );
    place.sh("lake status nyc").ok().prints("LANDED UP TO");
    assert_eq!(place.sh("lake list --json").ok().json()[0]["stream"], "flights");
    place.sh("lake list").ok().prints("nyc");
    let files = std::fs::read_dir(place.path("lake")).expect("it landed here");
    let parquet = files
        .map(|file| file.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "parquet"));
    let rows: u64 = parquet.map(|path| parquet_summary(&path).expect("it is Parquet").rows).sum();
    assert_eq!(rows, 5_000);

    place.sh("stream delete flights").exits(10).says("lake 'nyc'");
    place.sh("lake remove nyc").ok();
    place.sh("stream delete-before flights 0 10").ok().prints("begins at offset");
    place.sh("stream delete flights --yes").ok().prints("deleted stream 'flights'");
    place.sh("stream list").ok().says("no streams yet");
    assert!(server.terminate().success());
}

#[test]
fn a_script_that_deletes_a_stream_is_not_asked() {
    let place = Place::new();
    let _server = place.serve();
    place.sh("stream create a --partitions 2").ok().prints("created stream 'a' with 2 partitions");
    place.sh("stream delete a").ok();
    place.sh("stream describe a").exits(10);
}

#[test]
fn a_stream_is_made_as_it_was_asked_for() {
    let place = Place::new();
    let _server = place.serve();
    let flags = "--partitions 3 --retention forever --retention-bytes 1GiB --durability written --segment-bytes 4MiB --record-bytes-max 2KiB";
    place.sh(&format!("stream create a {flags}")).ok();
    let stream = place.sh("stream describe a --json").ok().json();
    assert_eq!(stream["retention_ms"], serde_json::Value::Null);
    assert_eq!(stream["retention_bytes"], 1_u64 << 30);
    assert_eq!(
        (&stream["durability"], &stream["segment_bytes"], &stream["record_bytes_max"]),
        (&"written".into(), &(4 << 20).into(), &2_048.into())
    );
    place.sh("stream create a").exits(10).says("exists");
}

#[test]
fn a_stream_by_interest_says_so_and_keeps_nothing_by_age_but_what_it_is_told() {
    let place = Place::new();
    let _server = place.serve();
    place.sh("stream create jobs --interest").ok();
    let stream = place.sh("stream describe jobs --json").ok().json();
    assert_eq!((&stream["interest"], &stream["retention_ms"]), (&true.into(), &serde_json::Value::Null));
    place.sh("stream describe jobs").ok().prints("records go after consumption");
    place.sh("stream create both --interest --retention 1d").ok();
    let stream = place.sh("stream describe both --json").ok().json();
    assert_eq!((&stream["interest"], &stream["retention_ms"]), (&true.into(), &86_400_000.into()));
    place.sh("stream create a --interest --cleanup compact").exits(2).says("--interest");
}

#[test]
fn a_compacted_stream_says_so_and_wants_keys() {
    let place = Place::new();
    let _server = place.serve();
    place.sh("stream create latest --cleanup compact --delete-retention 2h --min-compaction-lag 5s").ok();
    let stream = place.sh("stream describe latest --json").ok().json();
    assert_eq!(
        (&stream["cleanup"], &stream["delete_retention_ms"], &stream["min_compaction_lag_ms"]),
        (&"compact".into(), &7_200_000.into(), &5_000.into())
    );
    assert_eq!(stream["retention_ms"], serde_json::Value::Null);
    place.sh("stream describe latest").ok().prints("compact: tombstones stay 2h");
    let file = place.path("records.ndjson");
    std::fs::write(&file, "{\"id\":\"a\"}\n").expect("a directory of one's own");
    place.sh("produce latest records.ndjson").exits(10).says("has no key");
    place.sh("produce latest records.ndjson --key id").ok();

    place.sh("stream create plain").ok();
    assert_eq!(place.sh("stream describe plain --json").ok().json()["cleanup"], "delete");
    place.sh("stream create a --cleanup compact --retention 7d").exits(2).says("--retention");
    place.sh("stream create a --delete-retention 1h").exits(2).says("--cleanup compact");
}

#[test]
fn elsewhere_flags_environment_and_context_file_find_the_server() {
    let (here, elsewhere) = (Place::new(), Place::new());
    let server = here.serve();
    here.sh("stream create a").ok();
    let list = ["stream", "list", "--json"].map(String::from);
    elsewhere.run(&list).exits(60).says("millstream serve");
    assert_eq!(elsewhere.run(list.iter().chain(&server.flags())).ok().json()[0]["name"], "a");
    let by_env = |name: &str, value: &str| {
        let mut command = elsewhere.command(&list);
        support::finish(
            command.env(name, value).env("MILLSTREAM_FINGERPRINT", &server.fingerprint).spawn().expect("it starts"),
        )
    };
    by_env("MILLSTREAM_SERVER", &server.address).ok();
    let context = format!("server = \"{}\"\nfingerprint = \"{}\"\n", server.address, server.fingerprint);
    let path = elsewhere.write("context.toml", context);
    by_env("MILLSTREAM_CONTEXT", &path.display().to_string()).ok();
    by_env("MILLSTREAM_DATA_DIR", &here.path("millstream-data").display().to_string()).ok();
}

#[test]
fn completions_and_help_come_from_the_definition() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        place.sh(&format!("completions {shell}")).ok().prints("delete-before");
    }
    place.sh("--help").ok().prints("The first five minutes");
    place.sh("lake add --help").ok().prints("file:///DIR");
}
