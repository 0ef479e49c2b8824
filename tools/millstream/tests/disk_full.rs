//! A small file system of its own, filled: records are refused by name, everything that frees room goes on, and appends
//! resume when there is some. Needs to mount a tmpfs; skipped, loudly, where that is not allowed.

mod support;

use std::path::Path;
use std::process::Command;

use support::{Place, consume, lines};

/// A file system of 48 MiB at `./millstream-data`.
struct Small<'a>(&'a Place);

impl<'a> Small<'a> {
    fn mount(place: &'a Place) -> Option<Self> {
        let path = place.path("millstream-data");
        std::fs::create_dir(&path).expect("made");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"]).arg(&path).output();
        match done {
            Ok(done) if done.status.success() => Some(Self(place)),
            other => {
                eprintln!("SKIPPED: no tmpfs can be mounted here: {other:?}");
                None
            }
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path("millstream-data")
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Writes to a file until nothing more fits.
fn fill(path: &Path) -> u64 {
    use std::io::Write;
    let mut file = std::fs::File::create(path).expect("made");
    let (mut written, mut block) = (0, vec![1; 64 << 10]);
    while !block.is_empty() {
        match file.write(&block) {
            Ok(0) | Err(_) => block.truncate(block.len() / 2),
            Ok(more) => written += more as u64,
        }
    }
    written
}

#[test]
fn a_full_disk_refuses_records_and_nothing_else_and_loses_nothing() {
    let place = Place::new();
    let Some(small) = Small::mount(&place) else { return };
    // What somebody deletes at the end: beyond what the server's last writes went below the watermark.
    let ballast = small.path().join("ballast");
    let server = place.serve();
    std::fs::write(&ballast, vec![1; 8 << 20]).expect("written");
    place.sh("stream create keep --partitions 3").ok();
    place.sh("stream create spare --partitions 1").ok();
    place.sh_with("produce spare", lines(4_000, 3).as_bytes()).ok();
    place.write("big.ndjson", lines(200_000, 100));
    // Its own writes reach the watermark: refused by name, retried until the deadline.
    let mut stored = 0;
    for round in 0.. {
        let done = place.sh("produce keep big.ndjson --key key --delivery-timeout 5s --json");
        stored += done.json()["records"].as_u64().expect("a number");
        if !done.status.success() {
            assert!(done.stderr.contains("disk full"), "{done:?}");
            break;
        }
        assert!(round < 100, "it must fill up");
    }
    // Another program takes the rest, to the last byte.
    let filler = small.path().join("filler");
    assert!(fill(&filler) > 0);
    place.sh_with("produce spare --delivery-timeout 10s", lines(10, 3).as_bytes()).says("disk full");
    assert_eq!(consume(&place, "spare").len(), 4_000, "reads go on");
    place.sh("stream describe keep").ok();

    // Killed on a full disk, it starts on one.
    let address = server.address.clone();
    server.kill();
    let server = place.serve_again(&address);
    assert_eq!(consume(&place, "spare").len(), 4_000);
    let kept = consume(&place, "keep").len() as u64;
    assert!(kept >= stored, "{kept} of {stored} acknowledged records");
    place.sh("stream delete spare --yes").ok();

    std::fs::remove_file(&filler).expect("removed");
    std::fs::remove_file(&ballast).expect("removed");
    place.sh("stream delete-before keep 0 100000000").exits(30);
    place.sh("stream create again").ok();
    place.sh_with("produce again --delivery-timeout 20s", lines(100, 3).as_bytes()).ok();
    assert_eq!(consume(&place, "keep").len() as u64, kept, "nothing was lost by all that");
    assert!(server.terminate().success());
    place.sh("verify").ok().prints("every batch is whole");
}
