//! `millstream-check`, as a script calls it: its exit code is the verdict.

use std::path::Path;
use std::process::Command;

use millstream_check::history::{Clock, Place, Recorder, What};
use millstream_check::value::ValueId;

const AT: Place = Place { stream: 0, partition: 0 };

fn history(dir: &Path, last_read: Vec<(u64, Option<ValueId>)>) -> Vec<std::path::PathBuf> {
    let clock = Clock::start();
    let values = vec![ValueId::new(1, 0)];
    let mut producer = Recorder::create(dir, 1, clock).expect("made");
    producer.record(What::Invoke { at: AT, values: values.clone() });
    producer.record(What::Ok { at: AT, base_offset: 0, values, resends: 0 });
    let mut reader = Recorder::create(dir, 2, clock).expect("made");
    reader.record(What::Final { at: AT, records: last_read });
    reader.record(What::FinalEnd { at: AT, start: 0, end: 1 });
    vec![producer.finish().expect("written"), reader.finish().expect("written")]
}

/// Exit code, stdout, stderr.
fn check(files: &[std::path::PathBuf]) -> (Option<i32>, String, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_millstream-check")).args(files).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

#[test]
fn the_exit_code_is_the_verdict() {
    let dir = tempfile::tempdir().expect("a directory");
    let good = history(dir.path(), vec![(0, Some(ValueId::new(1, 0)))]);
    let (code, stdout, _) = check(&good);
    assert_eq!(code, Some(0));
    assert!(stdout.starts_with("PASS 1 sent to 1 partitions: 1 acked"), "{stdout}");

    let dir = tempfile::tempdir().expect("a directory");
    let (code, stdout, _) = check(&history(dir.path(), Vec::new()));
    assert_eq!(code, Some(1));
    assert!(stdout.starts_with("L1 lost write: ") && stdout.contains("\nFAIL "), "{stdout}");

    let (code, _, stderr) = check(&[dir.path().join("none")]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("none: "), "{stderr}");
    assert_eq!(check(&[]).0, Some(2));
}
