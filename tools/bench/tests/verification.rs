//! The rig is tested: a stream in which one thing is wrong makes a run fail, and it says which.

mod support;

use millstream_client::Record;
use support::{TestServer, json, refused, text};

/// What a producer sent, and the same with one change.
fn altered(change: impl FnOnce(&mut Vec<Record>)) -> (TestServer, Vec<Record>) {
    let server = TestServer::start();
    json(&mut server.bench("produce --stream good --partitions 1 --records 500 --warm-up 0s --record-size 64 --quiet"));
    let mut records = server.read("good");
    assert_eq!(records.len(), 500);
    change(&mut records);
    server.write("altered", records.clone());
    (server, records)
}

fn said(change: impl FnOnce(&mut Vec<Record>)) -> String {
    let (server, _) = altered(change);
    refused(&mut server.bench("consume --stream altered --quiet"), 50)
}

#[test]
fn a_copy_without_a_change_is_right() {
    let (server, _) = altered(|_| {});
    let run = json(&mut server.bench("consume --stream altered --quiet"));
    assert_eq!((run["verification"][0]["records"].as_u64(), run["correct"].as_bool()), (Some(500), Some(true)));
}

#[test]
fn a_flipped_bit_is_named() {
    let said = said(|records| {
        let mut value = records[250].value.clone().expect("a value").to_vec();
        value[60] ^= 1;
        records[250].value = Some(value.into());
    });
    for part in ["damaged", "producer 0", "sequence 250", "partition 0", "offset 250"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_duplicate_is_named() {
    let said = said(|records| records.insert(301, records[300].clone()));
    assert!(said.contains("duplicate: producer 0, sequence 300, at partition 0, offset 301"), "{said}");
}

#[test]
fn a_gap_is_named() {
    let said = said(|records| drop(records.remove(120)));
    assert!(said.contains("missing: producer 0, sequence 120: 1 of its 500 records"), "{said}");
}

#[test]
fn a_change_of_order_is_named() {
    let said = said(|records| records.swap(10, 11));
    assert!(said.contains("out of order: producer 0, sequence 10, at partition 0, offset 11"), "{said}");
}

#[test]
fn a_foreign_record_is_named_and_a_stream_without_ours_is_only_counted() {
    let said = said(|records| records.push(Record::new("not one of ours, and long enough to be one")));
    assert!(said.contains("foreign: partition 0, offset 500"), "{said}");
    let server = TestServer::start();
    server.write("theirs", (0..50).map(|n| Record::new(format!("{n}"))).collect());
    let run = json(&mut server.bench("consume --stream theirs --quiet"));
    assert_eq!((&run["verification"][0]["mode"], &run["verification"][0]["records"]), (&"counts".into(), &50.into()));
}

#[test]
fn what_is_not_looked_at_does_not_fail_and_that_is_said() {
    let (server, _) = altered(|records| drop(records.remove(120)));
    let output = server.bench("consume --stream altered --quiet --no-verify").output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("not compared"), "{}", text(&output.stdout));
}
