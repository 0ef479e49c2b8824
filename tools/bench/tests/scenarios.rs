//! Each scenario small, against a real server: what is counted is what was sent, and nothing is left behind.

mod support;

use serde_json::Value;
use support::{TestServer, bench, json, meter, refused};

const SMALL: &str = "--records 3000 --warm-up 0s --record-size 100 --quiet";

fn check(run: &Value, meters: &[(&str, u64)]) {
    assert_eq!((run["format"].as_u64(), run["correct"].as_bool()), (Some(1), Some(true)), "{run}");
    for (name, records) in meters {
        let meter = meter(run, name);
        assert_eq!(meter["records"].as_u64(), Some(*records), "{name}: {meter}");
        assert_eq!(meter["bytes"].as_u64(), Some(records * 100), "{name}");
        assert!(meter["records_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{name}");
        let seconds: u64 =
            meter["series"].as_array().expect("a series").iter().map(|s| s["records"].as_u64().expect("n")).sum();
        assert_eq!(seconds, *records, "{name}: its seconds add up");
    }
    for one in run["verification"].as_array().expect("a list") {
        let facts = (one["mode"].as_str(), one["records"].as_u64(), one["mismatches"].as_u64());
        assert_eq!(facts, (Some("full"), one["expected"].as_u64(), Some(0)), "{one}");
    }
}

#[test]
fn every_scenario_counts_what_was_sent_and_leaves_nothing() {
    let server = TestServer::start();
    let run = |line: &str| json(&mut server.bench(&format!("{line} {SMALL}")));
    check(&run("produce --producers 3 --keys zipf:50"), &[("produce", 3_000)]);
    check(&run("end-to-end --producers 2 --consumers 2 --connections 2"), &[("produce", 3_000), ("consume", 3_000)]);
    let queue = run("queue --producers 1 --consumers 2");
    check(&queue, &[("produce", 3_000), ("deliver", 3_000), ("settle", 3_000)]);
    assert!(meter(&queue, "settle")["latency"]["p9999_us"].as_f64().is_some_and(|us| us > 0.0));
    check(&run("queue --queues 2 --groups 20"), &[("settle", 6_000)]);
    let fan_out = run("fan-out --subscribers 2 --queues 1 --compression zstd");
    check(&fan_out, &[("consume", 6_000), ("settle", 3_000)]);
    assert_eq!(fan_out["verification"].as_array().map(Vec::len), Some(3));
    check(&run("group --members 3"), &[("produce", 3_000), ("consume", 3_000)]);
    check(&run("mixed --workers 2"), &[("produce", 3_000), ("consume", 3_000), ("settle", 3_000)]);
    let lake = run("lake --rate max --roll-age 1s");
    check(&lake, &[("produce", 3_000)]);
    assert_eq!((lake["lake"]["rows"].as_u64(), lake["lake"]["audited"].as_bool()), (Some(3_000), Some(true)), "{lake}");
    assert_eq!(server.streams(), [""; 0], "what a run makes goes with it");
}

#[test]
fn a_backlog_is_read_whole_and_a_late_subscriber_gets_it_too() {
    let server = TestServer::start();
    let run = json(&mut server.bench("consume --backlog 5000 --record-size 100 --consumers 2 --producers 3 --quiet"));
    check(&run, &[("consume", 5_000)]);
    let late = json(&mut server.bench(&format!("end-to-end --backlog 500 {SMALL}")));
    check(&late, &[("produce", 3_000), ("consume", 3_500)]);
}

#[test]
fn a_stream_of_ones_own_stays_and_is_read_again() {
    let server = TestServer::start();
    json(&mut server.bench(&format!("produce --stream mine --partitions 3 {SMALL}")));
    let run = json(&mut server.bench("consume --stream mine --quiet"));
    check(&run, &[("consume", 3_000)]);
    assert_eq!(run["settings"]["partitions"], 3);
    assert_eq!(server.streams(), ["mine"]);
    let said = refused(&mut server.bench("produce --stream mine --partitions 4"), 2);
    assert!(said.contains("mine") && said.contains("3 partitions, not 4"), "{said}");
    let said = refused(&mut server.bench("consume --stream other"), 2);
    assert!(said.contains("other") && said.contains("--backlog"), "{said}");
    // Readers at the tail begin behind what is there.
    check(&json(&mut server.bench(&format!("end-to-end --stream mine {SMALL}"))), &[("consume", 3_000)]);
}

#[test]
fn at_a_rate_the_latency_is_measured_and_the_rate_is_kept() {
    let server = TestServer::start();
    let line = "end-to-end --rate 2000 --duration 2s --warm-up 0s --record-size 100 --producers 2 --quiet";
    let run = json(&mut server.bench(line));
    let produce = meter(&run, "produce");
    assert_eq!(run["settings"]["rate"], 2_000.0);
    assert_eq!(
        produce["latency"]["count"].as_u64(),
        Some(4_000),
        "every record due in the window has a latency: {run}"
    );
    assert_eq!(meter(&run, "consume")["latency"]["count"].as_u64(), Some(4_000));
}

#[test]
fn small_records_are_counted_and_that_is_said() {
    let server = TestServer::start();
    let run = json(&mut server.bench("end-to-end --records 2000 --warm-up 0s --record-size 8 --quiet"));
    let verified = &run["verification"][0];
    assert_eq!((verified["mode"].as_str(), verified["records"].as_u64()), (Some("counts"), Some(2_000)));
    assert!(run["notes"].to_string().contains("below 32 bytes"), "{run}");
    assert_eq!(meter(&run, "consume")["latency"]["count"].as_u64(), Some(2_000));
    let off = json(&mut server.bench(&format!("end-to-end --no-verify {SMALL}")));
    assert_eq!(off["verification"][0]["mode"], "off");
    assert_eq!(meter(&off, "consume")["latency"]["count"].as_u64(), Some(3_000));
}

#[test]
fn lines_of_a_file_are_sent_and_compared() {
    let server = TestServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("lines.ndjson");
    let lines: Vec<String> = (0..100).map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(n))).collect();
    std::fs::write(&path, lines.join("\n")).expect("written");
    let line = format!("mixed --records 1000 --warm-up 0s --quiet --payload file:{}", path.display());
    let run = json(&mut server.bench(&line));
    assert_eq!(run["verification"][0]["mode"], "full");
    assert_eq!(meter(&run, "consume")["records"], 1_000);
    let lake = format!("lake --records 1000 --rate max --warm-up 0s --quiet --payload file:{}", path.display());
    assert_eq!(json(&mut server.bench(&lake))["lake"]["rows"], 1_000);
}

#[test]
fn the_engine_runs_without_a_network_where_that_makes_sense() {
    let run = |line: &str| json(&mut bench(&format!("{line} {SMALL} --in-process")));
    check(&run("produce --producers 2"), &[("produce", 3_000)]);
    let end_to_end = run("end-to-end --consumers 2");
    check(&end_to_end, &[("produce", 3_000), ("consume", 3_000)]);
    assert_eq!(end_to_end["settings"]["place"], "engine");
    check(&run("queue --workers 2 --keys uniform:9"), &[("settle", 3_000)]);
    check(&json(&mut bench("consume --in-process --backlog 4000 --record-size 100 --quiet")), &[("consume", 4_000)]);
    for scenario in ["group", "lake"] {
        let said = refused(&mut bench(&format!("{scenario} --in-process")), 2);
        assert!(said.contains("--start-server"), "{said}");
    }
}

#[test]
fn without_a_server_it_says_what_to_do_and_can_start_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let said = refused(bench("produce").arg("--data-dir").arg(dir.path()), 60);
    assert!(said.contains("--start-server"), "{said}");
    let run = json(bench(&format!("produce --start-server {SMALL}")).arg("--temp-dir").arg(dir.path()));
    check(&run, &[("produce", 3_000)]);
    assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0, "its directory is deleted");
    let said = refused(&mut bench("end-to-end --consumers 9 --partitions 2 --start-server"), 2);
    assert!(said.contains("--partitions"), "{said}");
}
