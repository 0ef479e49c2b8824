//! The log on a simulated disk: seeds of `millstream-sim`, on all cores.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use millstream_sim as simulation;

use crate::cli::{Bug, Sim};

/// Runs the seeds; the last line is the verdict.
pub fn run(sim: &Sim) -> ExitCode {
    let bug = sim.bug.map(|bug| match bug {
        Bug::NoDirectorySync => simulation::Bug::NoDirectorySync,
        Bug::WatermarkBeforeSync => simulation::Bug::WatermarkBeforeSync,
        Bug::FailedSyncIgnored => simulation::Bug::FailedSyncIgnored,
    });
    let started = Instant::now();
    let next = AtomicU64::new(sim.first);
    let end = sim.first.saturating_add(sim.seeds);
    let failed = AtomicBool::new(false);
    let [done, acknowledged, restarts, faults, replayed] = [const { AtomicU64::new(0) }; 5];
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    match simulation::run(seed, bug) {
                        Ok(report) => {
                            acknowledged.fetch_add(report.acknowledged, Ordering::Relaxed);
                            restarts.fetch_add(report.restarts, Ordering::Relaxed);
                            faults.fetch_add(report.faults, Ordering::Relaxed);
                            replayed.fetch_add(report.replayed, Ordering::Relaxed);
                        }
                        Err(failure) => {
                            failed.store(true, Ordering::Relaxed);
                            println!("{failure}");
                        }
                    }
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if done % 500 == 0 {
                        eprintln!("{done} of {} seeds, {:.0} s", sim.seeds, started.elapsed().as_secs_f64());
                    }
                }
            });
        }
    });
    let counts = format!(
        "{} seeds from {}: {} batches acknowledged, {} restarts, {} faults, {} journal frames replayed, {:.0} s",
        done.into_inner(),
        sim.first,
        acknowledged.into_inner(),
        restarts.into_inner(),
        faults.into_inner(),
        replayed.into_inner(),
        started.elapsed().as_secs_f64()
    );
    match failed.into_inner() {
        false => {
            println!("PASS {counts}");
            ExitCode::SUCCESS
        }
        true => {
            println!("FAIL {counts}");
            ExitCode::from(1)
        }
    }
}
