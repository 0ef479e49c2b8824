//! `produce`: what is sent is what is stored, whatever it comes from.

mod support;

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Place, consume, lines};

/// The values of a stream, sorted by id.
fn stored(place: &Place, stream: &str) -> Vec<Value> {
    let mut values: Vec<Value> = consume(place, stream).into_iter().map(|record| record["value"].clone()).collect();
    values.sort_by_key(|value| value["id"].as_u64());
    values
}

fn expected(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn files_packed_files_and_stdin_give_the_same_stream() {
    let place = Place::new();
    let _server = place.serve();
    let text = lines(3_000, 7);
    place.write("plain.ndjson", &text);
    place.write("packed.ndjson.zst", zstd::encode_all(text.as_bytes(), 3).expect("in memory"));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).expect("in memory");
    let gzip = place.write("packed.ndjson.gz", gzip.finish().expect("in memory"));
    place.sh("produce plain plain.ndjson").ok();
    place.sh("produce zstd packed.ndjson.zst").ok();
    place.sh("produce gzip packed.ndjson.gz").ok();
    place.sh_with("produce stdin", text.as_bytes()).ok();
    place.sh_with("produce dash -", &std::fs::read(gzip).expect("it is there")).ok();
    for stream in ["plain", "zstd", "gzip", "stdin", "dash"] {
        assert_eq!(stored(&place, stream), expected(&text), "{stream}");
    }
}

#[test]
fn equal_keys_are_in_one_partition_in_the_order_sent() {
    let place = Place::new();
    let _server = place.serve();
    place.sh_with("produce a --key key --compression zstd", lines(5_000, 13).as_bytes()).ok();
    let mut last: HashMap<String, (u64, u64)> = HashMap::new();
    let records = consume(&place, "a");
    assert_eq!(records.len(), 5_000);
    for record in records {
        let (key, partition) =
            (record["key"].as_str().expect("it has one"), record["partition"].as_u64().expect("a number"));
        let id = record["value"]["id"].as_u64().expect("a number");
        assert_eq!(record["value"]["key"], key);
        if let Some((home, before)) = last.insert(key.to_owned(), (partition, id)) {
            assert_eq!(home, partition);
            assert!(before < id, "{before} came before {id}");
        }
    }
    assert_eq!(last.len(), 13);
}

#[test]
fn a_file_is_sent_as_often_as_asked() {
    let place = Place::new();
    let _server = place.serve();
    place.write("f.ndjson", lines(100, 1));
    let summary = place.sh("produce a f.ndjson --repeat 7 --json").ok().json();
    assert_eq!(
        (&summary["records"], &summary["batches_resent"], &summary["complete"]),
        (&700.into(), &0.into(), &true.into())
    );
    assert_eq!(stored(&place, "a").len(), 700);
}

#[test]
fn what_was_sent_before_is_counted_and_not_stored_again() {
    let place = Place::new();
    let _server = place.serve();
    place.write("f.ndjson", lines(500, 7));
    place.sh("stream create a --dedup-window 1h").ok();
    place.sh("stream describe a").ok().prints("dedup window     1h");
    assert_eq!(place.sh("stream describe a --json").ok().json()["dedup_window_ms"], 3_600_000);
    let first = place.sh("produce a f.ndjson --key key --dedup-id id --json").ok().json();
    assert_eq!((&first["records"], &first["duplicates"]), (&500.into(), &0.into()));
    // A program that starts anew does not know how far it came: some are known, some are not.
    place.write("more.ndjson", lines(800, 7));
    let again = place.sh("produce a more.ndjson --key key --dedup-id id");
    again.ok().prints("stored 800 records").prints("500 of them known by dedup id and not stored again");
    assert_eq!(stored(&place, "a"), expected(&lines(800, 7)));

    place.sh_with("produce b --dedup content", b"{\"a\":1}\n{\"a\":2}\n{\"a\":1}\n").ok().prints("1 of them known");
    assert_eq!(consume(&place, "b").len(), 2);
    place.sh_with("produce b --format lines --dedup-id id", b"x").exits(2).says("--dedup-id names a field");
    place
        .sh("stream create c --dedup-window 25h")
        .exits(10)
        .says("dedup_window_ms is 90000000, legal is 1000 to 86400000");
}

#[test]
fn a_producers_name_is_its_own() {
    let place = Place::new();
    let _server = place.serve();
    let mut old = place
        .command(["produce", "a", "--producer-name", "loader"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut pipe = old.stdin.take().expect("piped");
    pipe.write_all(b"{\"id\":1}\n").expect("it is read");
    while place.sh("consume a --format value").stdout != "{\"id\":1}\n" {}
    place.sh_with("produce a --producer-name loader", b"{\"id\":2}").ok();
    pipe.write_all(b"{\"id\":3}\n").expect("it is read");
    drop(pipe);
    support::finish(old)
        .exits(30)
        .says("a newer producer of the name \"loader\" has taken over")
        .prints("stored 1 record");
    assert_eq!(stored(&place, "a").len(), 2);
    place.sh_with("produce a --producer-name NO", b"{}").exits(10).says("illegal producer name");
    place.sh_with("produce a --producer-name x --no-idempotence", b"{}").exits(2);
    place.sh_with("produce a --no-idempotence", b"{}").ok().prints("stored 1 record");
}

#[test]
fn lines_are_stored_as_they_are_and_blank_lines_between_objects_are_none() {
    let place = Place::new();
    let _server = place.serve();
    place.sh_with("produce text --format lines --partitions 1", b"one\n\nth\xff\xfere\r\nlast").ok();
    let done = place.command(["consume", "text", "--format", "value"]).output().expect("it runs");
    assert_eq!(done.stdout, b"one\n\nth\xff\xfere\nlast\n");
    place.sh_with("produce objects", b"{}\n\n \n{}\n").ok().prints("stored 2 records");
    place.sh_with("produce nothing", b"").ok().prints("stored 0 records");
}

#[test]
fn a_rate_is_kept() {
    let place = Place::new();
    let _server = place.serve();
    let started = Instant::now();
    place.sh_with("produce a --rate 1000/s", lines(1_501, 1).as_bytes()).ok();
    assert!(started.elapsed() >= Duration::from_millis(1_500), "{:?}", started.elapsed());
}

#[test]
fn lines_that_trickle_in_are_stored_as_they_come() {
    let place = Place::new();
    let _server = place.serve();
    let mut producing = place.command(["produce", "a"]).stdin(std::process::Stdio::piped()).spawn().expect("it starts");
    let mut pipe = producing.stdin.take().expect("piped");
    pipe.write_all(b"{\"id\":1}\n").expect("it is read");
    // The input is still open: the first line must come all the same.
    while place.sh("consume a --format value").stdout != "{\"id\":1}\n" {}
    pipe.write_all(b"{\"id\":2}").expect("it is read");
    drop(pipe);
    support::finish(producing).ok().prints("stored 2 records");
}

#[test]
fn an_interrupted_producer_stores_what_it_took_and_says_how_much() {
    let place = Place::new();
    let _server = place.serve();
    let mut producing =
        place.command(["produce", "a", "--json"]).stdin(std::process::Stdio::piped()).spawn().expect("it starts");
    let mut pipe = producing.stdin.take().expect("piped");
    pipe.write_all(lines(10, 1).as_bytes()).expect("it is read");
    while place.sh("consume a").lines().len() < 10 {}
    let pid = rustix::process::Pid::from_child(&producing);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is there");
    let done = support::finish(producing).exits(130);
    assert_eq!((&done.json()["records"], &done.json()["complete"]), (&10.into(), &false.into()));
    drop(pipe);
}

#[test]
fn a_server_that_makes_no_streams_on_the_way_is_obeyed() {
    let place = Place::new();
    let _server = place.serve_with("--listen 127.0.0.1:0 --http off --set auto_create_streams=false");
    place.sh_with("produce a", b"{}\n").exits(10).says("millstream stream create a");
}
