//! `consume`: from where, how many, how they look, and when it ends.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::{Value, json};
use support::{Place, consume, lines};

fn filled(partitions: u32, records: u64) -> (Place, support::Serve) {
    let place = Place::new();
    let server = place.serve();
    place.sh(&format!("stream create a --partitions {partitions}")).ok();
    place.sh_with("produce a --key key", lines(records, 5).as_bytes()).ok();
    (place, server)
}

fn ids(done: &support::Done) -> Vec<u64> {
    done.lines()
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].as_u64().expect("an id"))
        .collect()
}

#[test]
fn it_ends_at_the_count_or_at_what_there_is() {
    let (place, _server) = filled(1, 100);
    assert_eq!(ids(&place.sh("consume a --from earliest --count 3 --format value").ok()), [0, 1, 2]);
    assert_eq!(place.sh("consume a --count 0").ok().stdout, "");
    let all = place.sh("consume a --from earliest --count 1000 --format value").ok().says("100 records of 1,000");
    assert_eq!(ids(&all), (0..100).collect::<Vec<_>>());
    assert_eq!(place.sh("consume a --from latest").ok().stdout, "");
}

#[test]
fn it_begins_where_it_should() {
    let (place, _server) = filled(1, 100);
    assert_eq!(ids(&place.sh("consume a --from 97 --format value").ok()), [97, 98, 99]);
    assert_eq!(ids(&place.sh("consume a --from 100 --format value").ok()), [0_u64; 0]);
    place.sh("consume a --from 101").exits(30);
    assert_eq!(ids(&place.sh("consume a --from -10m --format value").ok()).len(), 100);
    assert_eq!(ids(&place.sh("consume a --from 2020-01-01T00:00:00Z --format value").ok()).len(), 100);
    assert_eq!(place.sh("consume a --from 2100-01-01").ok().stdout, "");
    let last = &consume(&place, "a")[99];
    let from_its_time =
        place.sh(&format!("consume a --format value --from {}", last["append_time"].as_str().expect("a time"))).ok();
    assert_eq!(ids(&from_its_time).last(), Some(&99));
}

#[test]
fn only_the_partitions_asked_for_come() {
    let (place, _server) = filled(4, 400);
    let all = consume(&place, "a");
    assert_eq!(all.len(), 400);
    let of = |n: u64| all.iter().filter(|record| record["partition"] == n).count();
    assert_eq!(place.sh("consume a --partition 1").ok().lines().len(), of(1));
    assert_eq!(place.sh("consume a --partition 0 --partition 2,3").ok().lines().len(), of(0) + of(2) + of(3));
}

#[test]
fn a_record_is_an_object_with_everything() {
    let (place, _server) = filled(1, 1);
    place.sh_with("produce a --format lines", b"plain text\n").ok();
    let records = consume(&place, "a");
    let first = records[0].as_object().expect("an object");
    let names: Vec<&str> = first.keys().map(String::as_str).collect();
    assert_eq!(names, ["append_time", "headers", "key", "offset", "partition", "timestamp", "value"]);
    assert_eq!(first["value"], json!({ "id": 0, "key": "k0" }));
    assert_eq!((&first["key"], &first["headers"], &first["offset"]), (&json!("k0"), &json!([]), &json!(0)));
    assert!(first["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert_eq!((&records[1]["value"], &records[1]["key"]), (&json!("plain text"), &Value::Null));
}

#[test]
fn following_gives_what_comes_later_at_once() {
    let (place, _server) = filled(1, 2);
    let mut following =
        place.command("consume a --follow --format value --count 4".split(' ')).spawn().expect("it starts");
    let mut out = BufReader::new(following.stdout.take().expect("piped"));
    let mut line = || {
        let mut line = String::new();
        out.read_line(&mut line).expect("text");
        line
    };
    assert!(line().contains("\"id\":0") && line().contains("\"id\":1"));
    place.sh_with("produce a", b"{\"id\":2}\n").ok();
    assert_eq!(line(), "{\"id\":2}\n");
    place.sh_with("produce a", b"{\"id\":3}\n{\"id\":4}\n").ok();
    assert_eq!(line(), "{\"id\":3}\n");
    assert_eq!(line(), "", "it ends at the count");
    assert!(following.wait().expect("it ends").success());
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let (place, _server) = filled(1, 20_000);
    let mut consuming = place.command(["consume", "a"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut out = BufReader::new(consuming.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("text");
    drop(out);
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut consuming.stderr.take().expect("piped"), &mut stderr).expect("text");
    assert_eq!((consuming.wait().expect("it ends").code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn records_below_a_deleted_offset_do_not_come() {
    let (place, _server) = filled(1, 100);
    place.sh("stream delete-before a 0 40").ok();
    let from = ids(&place.sh("consume a --from earliest --format value").ok())[0];
    assert!(from <= 40, "deletion is by whole batches or exact, never beyond the offset: {from}");
    place.sh("stream delete-before a 0 1000").exits(30);
    place.sh("stream delete-before a 9 0").exits(10);
}

#[test]
fn nothing_is_written_where_nobody_can_take_it() {
    let (place, _server) = filled(1, 10);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let Ok(full) = full else { return };
    let done = place.command(["consume", "a"]).stdout(full).output().expect("it runs");
    assert_eq!(done.status.code(), Some(70));
    std::io::stderr().flush().expect("stderr");
}
