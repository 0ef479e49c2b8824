//! Queues from the command line: made, filled, received, settled, watched, and each mistake with its error.

mod support;

use serde_json::Value;
use support::Place;

fn receive(place: &Place, flags: &str) -> Vec<Value> {
    let done = place.sh(&format!("queue receive work {flags}")).ok();
    done.lines().into_iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn total(place: &Place, name: &str) -> u64 {
    place.sh("queue describe work --json").ok().json()["total"][name].as_u64().expect("a number")
}

#[test]
fn a_queue_is_made_used_and_deleted_by_hand() {
    let place = Place::new();
    let _server = place.serve();
    place.sh("stream create jobs --partitions 1").ok();
    place
        .sh("queue create work --stream jobs --from earliest --dead-letter graves --max-receives 2 --retry-min 0s")
        .ok()
        .says("made the stream 'graves'")
        .prints("'graves' after 2 deliveries");
    place.sh_with("produce jobs -", b"{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n").ok();
    let peeked = place.sh("queue peek work").ok();
    assert_eq!(peeked.lines().len(), 3);
    let first = receive(&place, "-n 1 --wait 10s");
    assert_eq!(
        (&first[0]["value"]["n"], &first[0]["receives"], &first[0]["offset"]),
        (&1.into(), &1.into(), &0.into())
    );
    let receipt = first[0]["receipt"].as_str().expect("a receipt");
    place.sh(&format!("queue extend work {receipt} --visibility 1h")).ok();
    place.sh(&format!("queue ack work {receipt}")).ok().prints("acknowledged 1 message");
    place.sh(&format!("queue nack work {receipt}")).exits(30).says("receipt expired");
    let second = receive(&place, "-n 1 --wait 10s");
    let receipt = second[0]["receipt"].as_str().expect("a receipt");
    place.sh(&format!("queue reject work {receipt} --error hopeless")).ok();
    let third = receive(&place, "-n 5 --wait 10s --ack");
    assert_eq!(third.len(), 1);
    assert_eq!(third[0]["value"]["n"], 3);
    place.sh("dlq list").ok().prints("graves");
    place.sh("dlq show work").ok().prints("rejected").prints("hopeless").prints("1 letter of queue 'work' in 'graves'");
    let letter = place.sh("dlq show work --json").ok().json();
    let is_at = (&letter["from"]["stream"], &letter["from"]["offset"], &letter["stream"], &letter["value"]["n"]);
    assert_eq!(is_at, (&"jobs".into(), &1.into(), &"graves".into(), &2.into()));
    assert_eq!((&letter["reason"], &letter["receives"]), (&"rejected".into(), &1.into()));
    place.sh("dlq show work --reason max_receives").ok().says("no such letter");
    place.sh("dlq show nobody").exits(10).says("unknown queue");
    place.sh("queue redrive work").ok().prints("1 came back");
    let again = receive(&place, "-n 5 --wait 10s --ack");
    assert_eq!((&again[0]["value"]["n"], &again[0]["redriven"]), (&2.into(), &1.into()));
    assert_eq!((total(&place, "acked"), total(&place, "dead"), total(&place, "available")), (3, 1, 0));
    place.sh("queue receive work").ok().says("no message is available");
    place.sh("queue seek work --to earliest").ok();
    place.sh("queue purge work --yes").ok().prints("purged 3 messages");
    place.sh("queue pause work").ok();
    place.sh("queue list").ok().prints("paused");
    place.sh("queue resume work").ok();
    place.sh("queue update work --visibility 5m").ok().prints("5m");
    place.sh("queue delete work --yes").ok();
    place.sh("queue list").ok().says("no queues yet");
}

#[test]
fn each_mistake_about_queues_has_its_error() {
    let place = Place::new();
    let _server = place.serve();
    place.sh("stream create jobs --partitions 1").ok();
    place.sh("queue create work --stream jobs").ok();
    place.sh("queue create work --stream jobs").exits(10).says("queue 'work' exists");
    place.sh("queue describe wrok").exits(10).says("unknown queue 'wrok': did you mean 'work'?");
    place.sh("queue create w --stream jbos").exits(10).says("unknown stream 'jbos': did you mean 'jobs'?");
    place.sh("queue create w --stream jobs --filter value.fare>=").exits(10).says("byte");
    place.sh("queue create w --stream jobs --visibility 13h").exits(10).says("visibility");
    place.sh("queue create w --stream jobs --delay 16m").exits(10).says("delay_ms");
    place.sh("queue create w --stream jobs --dead-letter jobs").exits(10).says("dead-letter");
    place.sh("queue create w --stream jobs --fifo").exits(2).says("--dead-letter");
    place.sh("queue create ../w --stream jobs").exits(10).says("illegal queue name");
    place.sh("queue ack work 00ff").exits(2).says("is no receipt");
    place.sh("queue ack work").exits(2).says("RECEIPT");
    place.sh("queue receive work --wait 2m").exits(10).says("0 to 60 s");
    place.sh("queue redrive work").exits(10).says("dead-letter");
    place.sh("queue unpark work --partition 0 --offset 7").exits(2).says("nothing stands parked");
}
