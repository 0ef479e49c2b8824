//! The server is killed while a producer is at work, and comes back on its port: the producer goes on, and nothing
//! acknowledged is missing.

mod support;

use std::collections::HashMap;

use support::{Place, consume, lines};

const RECORDS: u64 = 30_000;

/// Waits until the stream holds more than `records`.
fn wait_for(place: &Place, records: u64) {
    loop {
        let stream = place.sh("stream describe a --json");
        if stream.status.success() && stream.json()["records"].as_u64() > Some(records) {
            return;
        }
    }
}

#[test]
fn nothing_acknowledged_is_missing_after_a_kill_in_the_middle() {
    let place = Place::new();
    let mut server = place.serve();
    place.write("f.ndjson", lines(RECORDS, 100));
    place.sh("stream create a").ok();
    let producing =
        place.command("produce a f.ndjson --key key --rate 10000 --json".split(' ')).spawn().expect("it starts");
    for kill_at in [RECORDS / 6, RECORDS / 2] {
        wait_for(&place, kill_at);
        let address = server.address.clone();
        server.kill();
        server = place.serve_again(&address);
    }
    let summary = support::finish(producing).ok().json();
    assert_eq!((&summary["records"], &summary["complete"]), (&RECORDS.into(), &true.into()));

    let mut seen: HashMap<u64, u64> = HashMap::new();
    for record in consume(&place, "a") {
        *seen.entry(record["value"]["id"].as_u64().expect("an id")).or_default() += 1;
    }
    let recovery = place.sh("recovery --json").ok().json();
    assert_eq!((&recovery["partitions"], &recovery["offline"], &recovery["holes"]), (&4.into(), &0.into(), &0.into()));
    place.sh("recovery").ok().prints("torn tails cut");
    let missing: Vec<u64> = (0..RECORDS).filter(|id| !seen.contains_key(id)).collect();
    assert_eq!(missing, [0_u64; 0]);
    let twice = seen.values().filter(|times| **times > 1).count();
    assert_eq!(twice, 0, "{} batches were sent again, each is stored once", summary["batches_resent"]);
    assert!(server.terminate().success());
    place.sh("verify").ok().prints("every batch is whole");
}

#[test]
fn a_producer_whose_server_does_not_come_back_gives_up_in_time() {
    let place = Place::new();
    let server = place.serve();
    place.write("f.ndjson", lines(RECORDS, 100));
    place.sh("stream create a").ok();
    let command = "produce a f.ndjson --rate 5000 --delivery-timeout 2s --connect-timeout 1s --json";
    let producing = place.command(command.split(' ')).spawn().expect("it starts");
    wait_for(&place, 1_000);
    server.kill();
    let killed = std::time::Instant::now();
    let done = support::finish(producing);
    assert!(killed.elapsed().as_secs() < 20, "{:?} is long after the 2 s", killed.elapsed());
    assert!([40, 60].contains(&done.status.code().expect("an exit code")), "{done:?}");
    assert!(done.json()["records"].as_u64() >= Some(1_000) && done.json()["complete"] == false, "{done:?}");
}
