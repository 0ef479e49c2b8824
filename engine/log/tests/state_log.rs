//! State logs under many threads: updates share syncs, decide in order, and fail together where one was not stored.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream_log::{LogError, Partition, PartitionConfig, StateTable};
use millstream_protocol::Code;
use support::{Bench, Fault};

fn count(table: &StateTable) -> u64 {
    table.get("count").map_or(0, |bytes| u64::from_le_bytes((&*bytes).try_into().expect("eight bytes")))
}

/// Adds one, from what the state says.
fn add(partition: &Arc<Partition>) -> Result<u64, LogError> {
    let seen = AtomicU64::new(0);
    partition.state_update(|table| {
        let next = count(table) + 1;
        seen.store(next, Ordering::Relaxed);
        Ok::<_, LogError>(vec![StateTable::event("count", Some(&next.to_le_bytes()))])
    })?;
    Ok(seen.load(Ordering::Relaxed))
}

#[test]
fn updates_of_many_threads_decide_one_after_the_other_and_share_syncs() {
    let mut bench = Bench::new();
    let log = bench.open();
    let (threads, each) = (16, 50);
    let partition = bench.create(&log, 0, PartitionConfig::default());
    add(&partition).expect("the first one makes the state log");
    let syncs_before = bench.storage.syncs.lock().len() as u64;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..each {
                    add(&partition).expect("it is stored");
                }
            });
        }
    });
    assert_eq!(partition.state_read(count).unwrap(), threads * each + 1, "no decision was lost");
    let syncs = bench.storage.syncs.lock().len() as u64 - syncs_before;
    assert!(syncs < threads * each / 2, "{syncs} syncs for {} updates", threads * each);
    drop(partition);
    bench.kill(log);
    let log = bench.open();
    let partition = bench.reopen(&log, 0, PartitionConfig::default());
    assert_eq!(partition.state_read(count).unwrap(), threads * each + 1, "and it is all on the disk");
}

#[test]
fn a_full_disk_undoes_what_was_in_flight_and_nothing_that_was_answered() {
    let mut bench = Bench::new();
    bench.config.snapshot_interval_bytes = 4_096;
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    add(&partition).expect("there is room");
    let (stored, refused) = (AtomicU64::new(1), AtomicU64::new(0));
    for round in 0..40 {
        (0..round % 8).for_each(|_| bench.storage.arm(Fault::NoRoom, "/state/"));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| match add(&partition) {
                    Ok(_) => stored.fetch_add(1, Ordering::Relaxed),
                    Err(error) => {
                        assert!(matches!(error, LogError::DiskFull), "{error}");
                        refused.fetch_add(1, Ordering::Relaxed)
                    }
                });
            }
        });
        bench.storage.disarm();
        let stored = stored.load(Ordering::Relaxed);
        assert_eq!(partition.state_read(count).unwrap(), stored, "each one that was answered counts, once");
    }
    assert!(refused.load(Ordering::Relaxed) > 0, "the disk was full for somebody");
    drop(partition);
    bench.kill(log);
    let log = bench.open();
    let partition = bench.reopen(&log, 0, PartitionConfig::default());
    assert_eq!(partition.state_read(count).unwrap(), stored.load(Ordering::Relaxed));
}

#[test]
fn an_answer_without_a_change_waits_for_what_it_rests_on_and_a_failed_sync_ends_them_all() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    add(&partition).expect("the disk is well");
    bench.storage.arm(Fault::Sync, "/state/");
    bench.storage.arm(Fault::Sync, ".journal");
    let outcomes: Vec<Result<u64, LogError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| add(&partition))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(outcomes.iter().any(Result::is_err));
    let code = partition.state_update(|_| Ok::<_, LogError>(Vec::new())).unwrap_err().code();
    assert!(matches!(code, Code::DurabilityUnknown | Code::ReadOnly), "nothing may rest on it: {code}");
    assert!(partition.state_read(count).is_err());
    assert!(partition.is_read_only(), "a partition goes with its state log");
}
