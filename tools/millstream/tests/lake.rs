//! Lakes at the command line: tried without writing, added, watched, audited, altered, probed; and each bad input with its
//! error.

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Place, finish, lines, sample};

/// A place with a server and the sample's flights.
fn flights(place: &Place) -> support::Serve {
    let server = place.serve();
    place.run([std::ffi::OsStr::new("produce"), "flights".as_ref(), sample().as_os_str()]).ok();
    server
}

/// The data files below a directory.
fn data_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("there").map(|entry| entry.expect("an entry").path());
    let is_data = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "parquet" || ending == "zst");
    let below = entries.flat_map(|path| if path.is_dir() { data_files(&path) } else { vec![path] });
    below.filter(is_data).collect()
}

#[test]
fn a_dry_run_shows_columns_and_paths_and_writes_nothing() {
    let place = Place::new();
    let _server = flights(&place);
    let add = "lake add nyc --stream flights --url ./lake --layout carrier={carrier}/month={event_time:%Y-%m}";
    let shown = place.sh(&format!("{add} --dry-run")).ok();
    shown.prints("1,000 newest records").prints("air_time").prints("carrier=").prints("no record would be rejected");
    let view = place.sh(&format!("{add} --dry-run --json")).ok().json();
    let columns = view["fields"].as_array().expect("columns");
    assert!(columns.iter().any(|column| column["name"] == "carrier" && column["type"] == "string"), "{view}");
    assert!(view["paths"][0].as_str().is_some_and(|path| path.starts_with("carrier=")), "{view}");
    assert!(!place.path("lake").exists());
    assert_eq!(place.sh("lake list --json").ok().json(), json!([]));

    place.sh(add).ok().prints("lands as parquet").prints("/lake/carrier={carrier}/month={event_time:%Y-%m}");
    place.sh("lake flush nyc").ok().prints("5,000 rows");
    assert!(place.path("lake/carrier=UA/month=2013-01").is_dir());
    place.sh("lake audit nyc").ok().prints("complete: 5,000 rows");
}

#[test]
fn each_bad_input_of_a_lake_has_its_error() {
    let place = Place::new();
    place.write("broken.json", "{\n \"columns\": [1,]\n}");
    // Found without a server.
    place.sh("lake add nyc --stream a --url d --schema broken.json").exits(10).says("line 2, column 16");
    place.sh("lake add nyc --stream a --url d --schema nowhere.json").exits(70).says("nowhere.json");
    place.sh("lake alter nyc --schema broken.json").exits(10).says("broken.json").says("line 2, column 16");
    place.sh("lake add nyc --stream a --url d --schema broken.json --columns raw").exits(2);
    place.sh("lake status nyc --watch 1ms").exits(2).says("100ms at least");

    let _server = place.serve();
    place.sh("lake status nyc").exits(10).says("unknown lake 'nyc'");
    for verb in ["audit", "retry-errors", "alter --schema ok.json", "flush", "remove"] {
        place.write("ok.json", r#"{"columns":[{"name":"id","type":"int64"}]}"#);
        let (verb, flags) = verb.split_once(' ').unwrap_or((verb, ""));
        place.sh(&format!("lake {verb} nyc {flags}")).exits(10).says("unknown lake 'nyc'");
    }
    place.sh_with("produce a", lines(20, 3).as_bytes()).ok();
    let add = |flags: &str| place.sh(&format!("lake add nyc --stream a --url ./lake {flags}"));
    add("--format ndjson --compression snappy").exits(10).says("snappy").says("zstd, gzip, none for ndjson");
    add("--compression gzip").exits(10).says("gzip").says("for parquet");
    add("--roll-age 1h --max-age 1m").exits(10).says("max_age_ms is 60000");
    add("--roll-rows 1").exits(10).says("roll_rows");
    add("--open-files 0").exits(10).says("open_files");
    place.sh("lake add nyc --stream a --url ftp://x/y").exits(10).says("ftp");
    place.sh("lake add nyc --stream a --url ./ok.json").exits(10).says("file").says("lake doctor");
    assert_eq!(place.sh("lake list --json").ok().json(), json!([]));
    add("").ok();
    add("").exits(10).says("'nyc' exists").says("millstream lake status nyc");
    add("--dry-run").exits(10).says("'nyc' exists");
    place.sh("lake list").ok().prints("nyc").prints("128 MiB or 5m");
}

#[test]
fn a_layout_with_an_unknown_field_names_the_one_that_was_probably_meant() {
    let place = Place::new();
    let _server = flights(&place);
    for flags in ["", "--dry-run"] {
        let add = format!("lake add nyc --stream flights --url ./lake --layout c={{carier}} {flags}");
        place.sh(&add).exits(10).says("carier").says("'{carrier}'");
    }
    assert!(!place.path("lake").exists());
}

#[test]
fn a_schema_rejects_and_once_it_is_loosened_the_rejected_land() {
    let place = Place::new();
    let _server = place.serve();
    place.sh_with("produce a", b"{\"id\":1}\n{\"id\":3000000000}\n").ok();
    let schema = |kind: &str| format!(r#"{{"columns":[{{"name":"id","type":"{kind}"}}]}}"#);
    place.write("narrow.json", schema("int32"));
    place.write("wide.json", schema("int64"));
    let dry = place.sh("lake add nyc --stream a --url ./lake --schema narrow.json --dry-run --json").ok().json();
    assert_eq!((&dry["rejected"], &dry["columns"]), (&1.into(), &"declared".into()), "{dry}");
    place.sh("lake add nyc --stream a --url ./lake --schema narrow.json").ok().prints("parquet, declared");
    place.sh("lake flush nyc").ok().prints("1 row").prints("1 record rejected");
    place.sh("lake status nyc").ok().prints("lake retry-errors nyc");
    place.sh("lake retry-errors nyc").ok().prints("0 records landed, 1 still rejected");
    place.sh("lake alter nyc --schema wide.json").ok().prints("lake retry-errors nyc");
    place.sh("lake retry-errors nyc").ok().prints("1 record landed; none is left");
    place.sh("lake alter nyc --schema narrow.json").exits(10).says("id");
    place.sh("lake audit nyc").ok().prints("complete: 2 rows");
    assert_eq!(place.sh("lake status nyc --json").ok().json()["schema"], schema("int64"));
}

#[test]
fn an_audit_ends_with_50_when_a_file_is_gone() {
    let place = Place::new();
    let _server = flights(&place);
    place.sh("lake add nyc --stream flights --url ./lake").ok();
    place.sh("lake flush nyc").ok();
    let audit = place.sh("lake audit nyc --json").ok().json();
    assert_eq!((&audit["complete"], &audit["rows"]), (&true.into(), &5_000.into()), "{audit}");
    let gone = data_files(&place.path("lake")).pop().expect("a file");
    std::fs::remove_file(&gone).expect("removed");
    place.sh("lake audit nyc").exits(50).says("lake 'nyc' is not complete: 1 finding").prints("not complete:");
    let audit = place.sh("lake audit nyc --json").exits(50).json();
    assert_eq!((&audit["complete"], audit["named"].as_array().map(Vec::is_empty)), (&false.into(), Some(false)));
}

#[test]
fn a_watched_status_is_a_line_per_look_until_it_is_interrupted() {
    let place = Place::new();
    let _server = flights(&place);
    place.sh("lake add nyc --stream flights --url ./lake").ok();
    place.sh("lake flush nyc").ok();
    let status = place.sh("lake status nyc").ok().prints("none: all has landed").prints("READ UP TO").prints("0 rows");
    status.prints("exactly-once");

    let mut child =
        place.command("lake status nyc --watch 100ms --json".split_whitespace()).spawn().expect("it starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
    for _ in 0..3 {
        let line = stdout.next().expect("a line").expect("text");
        let look: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&look["rows"], &look["waiting"], &look["unread"]), (&5_000.into(), &0.into(), &0.into()), "{look}");
        assert_eq!((&look["caught_up_in_ms"], &look["error"]), (&0.into(), &Value::Null), "{look}");
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("it is there");
    assert!(stdout.all(|line| line.is_ok()), "to its end");
    child.stdout = None;
    assert!(child.wait().expect("it ends").success());

    let mut child = place.command("lake status nyc --watch 100ms".split_whitespace()).spawn().expect("it starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("text");
    assert!(
        line.contains("5,000 rows landed") && line.contains("lag 0 records") && line.contains("caught up"),
        "{line}"
    );
    // Whoever reads it leaves: the end, but no error.
    drop(stdout);
    assert!(child.wait().expect("it ends").success());
    // One of a lake that is not there ends at once.
    let child = place.command("lake status other --watch 1s".split_whitespace()).spawn().expect("it starts");
    finish(child).exits(10);
}

#[test]
fn the_doctor_says_what_a_store_can_promise_without_a_server() {
    let place = Place::new();
    place.sh("lake doctor ./lake").ok().prints("CHECK").prints("passed").prints("lands each record once");
    let report = place.sh("lake doctor ./lake --json").ok().json();
    assert_eq!(report["exactly_once"], true);
    assert!(report["checks"].as_array().is_some_and(|checks| !checks.is_empty()), "{report}");
    assert_eq!(data_files(&place.path(".")), Vec::<PathBuf>::new());
    for url in ["ftp://x/y", "file://host/x", "s3://"] {
        place.sh(&format!("lake doctor {url}")).exits(10).says("URL");
    }
    place.write("file", "not a directory");
    place.sh("lake doctor ./file").exits(10).says("file");
}
