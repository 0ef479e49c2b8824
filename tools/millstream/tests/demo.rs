//! `demo`: it passes, says so, and what it tells people to try next works.

mod support;

use support::Place;

#[test]
fn it_passes_and_leaves_what_it_promises() {
    let place = Place::new();
    let done = place.sh("demo --dir here --measure 200ms").ok();
    for part in [
        "sent",
        "read back",
        "landed",
        "measured",
        "RECORDS/S",
        "ACK P99",
        "LANDED FILE",
        "5,000 rows",
        "Next",
        "duckdb",
    ] {
        assert!(done.stdout.contains(part), "{part:?} is not in {}", done.stdout);
    }
    let server = place.serve_with("--data-dir here/data --listen 127.0.0.1:0 --http off");
    assert_eq!(place.sh("consume flights --count 3 --data-dir here/data --format value").ok().lines().len(), 3);
    let status = place.sh("lake status flights --data-dir here/data --json").ok().json();
    assert_eq!((&status["rows"], &status["waiting"]), (&5_000.into(), &0.into()));
    assert!(server.terminate().success());
    place.sh("demo --dir here").exits(70).says("not empty");
}

#[test]
fn machines_get_one_object_and_nothing_is_left_if_asked() {
    let place = Place::new();
    let report = place.sh("demo --json --dir here --measure 100ms --remove").ok().json();
    assert_eq!((&report["ok"], &report["rows"], &report["records"]), (&true.into(), &5_000.into(), &5_000.into()));
    assert!(report["rates"]["produce"]["records_per_second"].as_f64() > Some(0.0));
    assert!(report["rates"]["one_at_a_time"]["ack_p99_ms"].as_f64() > Some(0.0));
    assert!(!place.path("here").exists());
}
