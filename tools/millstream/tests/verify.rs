//! `verify`: a whole directory passes, a flipped byte does not, and a server's directory is left alone.

mod support;

use std::path::{Path, PathBuf};

use support::{Place, lines};

/// The largest segment below a directory.
fn largest_segment(dir: &Path) -> PathBuf {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).expect("readable") {
            let entry = entry.expect("readable");
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "log") {
                found.push((entry.metadata().expect("readable").len(), path));
            }
        }
    }
    found.into_iter().max().expect("there is a segment").1
}

#[test]
fn damage_is_found_and_named() {
    let place = Place::new();
    let server = place.serve();
    place.sh("stream create a --partitions 1").ok();
    for _ in 0..3 {
        place.sh_with("produce a", lines(500, 3).as_bytes()).ok();
    }
    place.sh("verify").exits(70).says("in use");
    assert!(server.terminate().success());
    place.sh("verify").ok().prints("every batch is whole").prints("1,500");
    let whole = place.sh("verify --json").ok().json();
    assert_eq!((&whole["damaged_places"], whole["partitions"].is_array()), (&0.into(), true));

    let segment = largest_segment(&place.path("millstream-data/streams"));
    let mut bytes = std::fs::read(&segment).expect("readable");
    bytes[200] ^= 1;
    std::fs::write(&segment, bytes).expect("writable");
    let done = place.sh("verify").exits(50).prints("1 place damaged").says("from offset 0").says("partition 0");
    assert!(done.stderr.contains("to offset 500"), "{}", done.stderr);
    assert_eq!(place.sh("verify --json").exits(50).json()["damaged_places"], 1);

    // A consumer is told what it cannot have, until an operator accepts that.
    let server = place.serve();
    place.sh("consume a --from earliest --format value").exits(50).says("0..500");
    assert!(server.terminate().success());
    place.sh("verify --accept-loss").ok().says("0..500").prints("1 place accepted as lost");
    place.sh("verify").ok().prints("accepted as lost");
    let server = place.serve();
    assert_eq!(place.sh("consume a --from earliest --format value").ok().lines().len(), 1_000);
    assert!(server.terminate().success());
}

#[test]
fn what_is_no_data_directory_is_left_as_it_is() {
    let place = Place::new();
    place.sh("verify --data-dir nowhere").exits(70).says("not a Millstream data directory");
    assert!(!place.path("nowhere").exists());
}
