//! The log against its model on a disk that misbehaves; see `millstream_sim` for what must hold.
//!
//! Every seed of the default run must pass. Three bugs, put in on purpose, must each be found within it: a test that
//! cannot fail proves nothing. `MILLSTREAM_SEEDS=100000 cargo test --release -p millstream-sim` runs longer, and so does
//! `cargo run --release -p millstream-torture -- sim --seeds 100000`.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::sync::atomic::{AtomicU64, Ordering};

use millstream_sim::{Bug, Report, run};

fn seeds() -> u64 {
    std::env::var("MILLSTREAM_SEEDS").map_or(2_000, |text| text.parse().expect("MILLSTREAM_SEEDS is a number"))
}

/// Runs the seeds on all cores; the first failure of each is given back.
fn run_all(count: u64, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        return;
                    }
                    work(seed);
                }
            });
        }
    });
}

#[test]
fn the_log_keeps_its_promises_for_every_seed() {
    let [acknowledged, faults, replayed, compacted, resent] = [const { AtomicU64::new(0) }; 5];
    run_all(seeds(), |seed| match run(seed, None) {
        Ok(report) => {
            acknowledged.fetch_add(report.acknowledged, Ordering::Relaxed);
            faults.fetch_add(report.faults, Ordering::Relaxed);
            replayed.fetch_add(report.replayed, Ordering::Relaxed);
            compacted.fetch_add(report.compacted, Ordering::Relaxed);
            resent.fetch_add(report.resent, Ordering::Relaxed);
        }
        Err(failure) => panic!("{failure}"),
    });
    // A run in which nothing happens would pass, too.
    assert!(acknowledged.into_inner() > 50 * seeds(), "batches were acknowledged");
    assert!(faults.into_inner() > seeds(), "the disk had faults");
    assert!(replayed.into_inner() > seeds(), "journals were replayed");
    assert!(compacted.into_inner() > seeds(), "records were compacted away");
    assert!(resent.into_inner() > seeds(), "batches were sent more than once");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        let runs: Vec<Option<Report>> = (0..2).map(|_| run(seed, None).ok()).collect();
        assert_eq!(runs[0], runs[1], "seed {seed}");
    }
}

/// The first seeds that find a bug.
fn found_by(bug: Bug) -> Option<u64> {
    (0..seeds()).find(|seed| run(*seed, Some(bug)).is_err())
}

#[test]
fn a_directory_that_is_never_synced_is_found() {
    assert!(found_by(Bug::NoDirectorySync).is_some());
}

#[test]
fn a_watermark_ahead_of_the_sync_is_found() {
    assert!(found_by(Bug::WatermarkBeforeSync).is_some());
}

#[test]
fn a_failed_sync_taken_for_a_good_one_is_found() {
    assert!(found_by(Bug::FailedSyncIgnored).is_some());
}
