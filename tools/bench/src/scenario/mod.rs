//! A run of a load on a target: what is needed is made, the tasks run, what they measured is put together, and what was made
//! is deleted.
//!
//! ```text
//! stream, backlog, queues, group, lake ─► readers open ─► warm-up │ window │ ─► producers flush ─► readers have all
//!                                                                           ─► verification ─► result
//! ```
//! - `setup`: what is made, and deleted. `tasks`: producers, readers and workers. `lake`: watches one land.

mod lake;
mod setup;
mod tasks;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clock::{RunClock, SECOND_NS, nanos};
use crate::drive::Shared;
use crate::drive::producer::{Limit, Produced};
use crate::drive::subscription::Subscription;
use crate::failure::Failure;
use crate::load::Load;
use crate::output::progress::Progress;
use crate::record::process::ServerProcess;
use crate::record::sampler::{self, Sample};
use crate::record::{Meter, Window};
use crate::result::{Batches, FORMAT, Machine, Measured, Process, Run, Verified};
use crate::target::Target;
use setup::Made;
use tasks::Meters;

/// What is to be run.
pub struct Order {
    /// What it is called.
    pub name: String,
    pub load: Load,
    /// Whose CPU and memory is sampled; and whether that is a server's of its own, or this process.
    pub process: Option<(ServerProcess, &'static str)>,
    /// Ends it early, with a result.
    pub interrupt: CancellationToken,
    /// Whether what goes on is shown while it does.
    pub shows_progress: bool,
}

/// Runs it.
pub async fn run<T: Target>(target: &T, order: &Order) -> Result<Run, Failure> {
    order.load.check()?;
    let mut made = Made::default();
    let result = Box::pin(measure(target, order, &mut made)).await;
    let cleaned = if order.load.keep { Ok(()) } else { made.clean(target).await };
    // Why it failed is more than what was left behind.
    result.and_then(|run| cleaned.map(|()| run))
}

async fn measure<T: Target>(target: &T, order: &Order, made: &mut Made) -> Result<Run, Failure> {
    let load = &order.load;
    let run_number = setup::number();
    let prepared = Box::pin(setup::prepare(target, load, run_number, made, &order.interrupt)).await?;
    let pool = prepared.pool.clone();
    let senders = match load.sends() {
        true => tasks::senders(target, &prepared.stream, load).await?,
        false => Vec::new(),
    };
    let rules = prepared.rules(load, run_number);
    let (readers, subscriptions) = Box::pin(tasks::readers(target, &prepared, load, rules)).await?;

    let clock = RunClock::start();
    let start_ns = clock.now() + nanos(load.warm_up.get());
    let end_ns = load.duration.map_or(u64::MAX, |duration| start_ns + nanos(duration.get()));
    let window = Arc::new(Window::new(start_ns, end_ns));
    let shared = Arc::new(Shared {
        run: run_number,
        clock,
        window: Arc::clone(&window),
        stop: CancellationToken::new(),
        done: CancellationToken::new(),
        room: load
            .outstanding
            .filter(|_| load.has_readers())
            .map(|outstanding| Semaphore::new(outstanding as usize * load.readers_of_each() as usize)),
        unsent: 0.into(),
        is_stamped: load.is_stamped(),
        verifies: load.verify,
        fifo: load.fifo,
    });
    let meters = Meters::new(load, &window);
    let samples: Arc<Mutex<Vec<Sample>>> = Arc::default();
    let process = order.process.map(|(process, _)| process);
    let sampling = tokio::spawn(sampler::run(process, meters.all(), Arc::clone(&window), clock, Arc::clone(&samples)));
    let progress = Progress::start(&order.name, load, &meters.all(), &window, clock, order.shows_progress);

    let mut reading = readers.start(&subscriptions, &meters, &shared);
    let lake = match &prepared.lake {
        Some(lake) => Some(lake::Watch::start(target.client()?.clone(), lake.clone(), &meters, &shared)),
        None => None,
    };
    let mut sending = tasks::produce::<T>(senders, &pool, load, &meters, &shared);
    let mut interrupted = false;
    let mut produced = Vec::new();
    let time_is_over = tokio::time::sleep_until(clock.instant(end_ns.min(start_ns + FOREVER_NS)).into());
    tokio::pin!(time_is_over);
    // Until producers have ended by themselves; where nobody sends, until readers have.
    while if load.sends() { !sending.is_empty() } else { !reading.is_empty() } {
        tokio::select! {
            biased;
            () = order.interrupt.cancelled(), if !interrupted => {
                interrupted = true;
                window.close(clock.now());
                shared.stop.cancel();
                if !load.sends() {
                    shared.done.cancel();
                }
            }
            () = &mut time_is_over, if !load.sends() && end_ns < u64::MAX => {
                shared.done.cancel();
                break;
            }
            Some(ended) = sending.join_next() => produced.push(ended.expect("a producer does not panic")?),
            Some(ended) = reading.join_next() => ended.expect("a reader does not panic")?,
        }
    }
    let landed = match lake {
        Some(lake) => Some(lake.finish(load, produced.iter().map(|produced: &Produced| produced.records).sum()).await?),
        None => None,
    };
    let cut_short = interrupted || end_ns < u64::MAX;
    let sent = sent_by(&produced, &prepared.filled);
    let total: u64 = sent.values().sum();
    if load.sends() {
        for subscription in &subscriptions {
            subscription.expect(total);
        }
        let drained = async {
            for subscription in &subscriptions {
                subscription.wait(load.drain_timeout.get()).await;
            }
        };
        tokio::pin!(drained);
        loop {
            tokio::select! {
                () = &mut drained => break,
                Some(ended) = reading.join_next() => ended.expect("a reader does not panic")?,
            }
        }
    }
    shared.done.cancel();
    while let Some(ended) = reading.join_next().await {
        ended.expect("a reader does not panic")?;
    }
    sampling.abort();
    progress.finish();

    let seconds_of = |last_ns: u64| match cut_short {
        true => window.end().saturating_sub(start_ns) as f64 / SECOND_NS as f64,
        false => last_ns.saturating_sub(start_ns) as f64 / SECOND_NS as f64,
    };
    let measured: Vec<(Measured, f64)> = meters.all().iter().map(|meter| measured(meter, seconds_of)).collect();
    let seconds = measured.iter().map(|(_, seconds)| *seconds).fold(0.0, f64::max);
    let is_end = load.sends() || !(interrupted || load.duration.is_some());
    let verification = subscriptions.iter().map(|one| verified(one, load, run_number, &sent, &prepared, is_end));
    let verification: Vec<Verified> = verification.collect();
    let mut notes = notes(load, &shared, &prepared, &subscriptions);
    if let Some(landed) = &landed {
        notes.extend(landed.1.iter().cloned());
    }
    let lake_is_right = landed.as_ref().is_none_or(|(_, wrong)| wrong.is_empty());
    Ok(Run {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: order.name.clone(),
        started_ms: start_ns / 1_000_000,
        seconds,
        interrupted,
        correct: lake_is_right && verification.iter().all(|one| one.mismatches == 0),
        settings: Load { partitions: Some(prepared.partitions), ..load.clone() },
        meters: measured.into_iter().map(|(measured, _)| measured).collect(),
        batches: batches(&produced),
        verification,
        process: order.process.and_then(|(process, of)| used(process, of, &samples.lock())),
        lake: landed.map(|(landed, _)| landed),
        machine: Machine::this(),
        notes,
    })
}

/// Longer than any run.
const FOREVER_NS: u64 = 60 * 24 * 3_600 * SECOND_NS;

fn measured(meter: &Arc<Meter>, seconds_of: impl Fn(u64) -> f64) -> (Measured, f64) {
    let series = meter.take();
    let seconds = seconds_of(series.last_ns);
    (Measured::of(meter.name, meter.latency_of, &series, seconds), seconds)
}

/// How many each producer sent, a backlog's included.
fn sent_by(produced: &[Produced], filled: &[Produced]) -> HashMap<u32, u64> {
    produced.iter().chain(filled).map(|produced| (produced.producer, produced.records)).collect()
}

fn batches(produced: &[Produced]) -> Batches {
    let mut batches = Batches::default();
    for Produced { sent, .. } in produced {
        batches.acked += sent.batches;
        batches.resent += sent.batches_resent;
        batches.bytes += sent.batch_bytes;
    }
    batches
}

fn verified(
    subscription: &Subscription,
    load: &Load,
    run: u32,
    sent: &HashMap<u32, u64>,
    prepared: &setup::Prepared,
    is_end: bool,
) -> Verified {
    subscription.look(|ledger| {
        let expected = if sent.is_empty() { prepared.records } else { sent.values().sum() };
        let is_stamped = load.is_stamped() && (ledger.stamped() > 0 || ledger.records() == 0);
        if load.verify && is_end {
            match is_stamped && prepared.is_whole {
                true => ledger.close(run, sent),
                false => ledger.close_counted(expected),
            }
        }
        let mode = match (load.verify, is_stamped) {
            (false, _) => "off",
            (true, false) => "counts",
            (true, true) => "full",
        };
        let (mismatches, examples) = ledger.mismatches();
        Verified {
            subscriber: subscription.name.clone(),
            mode: mode.to_owned(),
            records: ledger.records(),
            expected,
            again: ledger.again(),
            mismatches: if load.verify { mismatches } else { 0 },
            examples: examples.iter().map(ToString::to_string).collect(),
        }
    })
}

fn notes(load: &Load, shared: &Shared, prepared: &setup::Prepared, subscriptions: &[Arc<Subscription>]) -> Vec<String> {
    let mut notes = Vec::new();
    let unsent = shared.unsent.load(Ordering::Relaxed);
    if unsent > 0 {
        notes.push(format!(
            "the rate was not reached: {unsent} records were due and not sent when the time was over; latencies are those of \
             the records that were sent"
        ));
    }
    if load.has_readers() && load.verify && !load.is_stamped() {
        notes.push("records below 32 bytes say nothing of themselves: they were counted, not compared".to_owned());
    }
    if let Some(of) = &prepared.not_whole {
        notes.push(of.clone());
    }
    if subscriptions.iter().any(|one| one.has_moved.load(Ordering::Relaxed)) {
        notes
            .push("partitions moved between members while it ran: what came again is not held against them".to_owned());
    }
    if cfg!(debug_assertions) {
        notes.push("this program was built without optimisations: build it with --release for figures".to_owned());
    }
    notes
}

/// `None` of a run that was over before there was a sample.
fn used(process: ServerProcess, of: &str, samples: &[Sample]) -> Option<Process> {
    let count = samples.len() as f64;
    (!samples.is_empty()).then(|| Process {
        of: of.to_owned(),
        pid: process.pid(),
        cpu_percent: samples.iter().map(|sample| sample.cpu_percent).sum::<f64>() / count,
        resident_bytes_max: samples.iter().map(|sample| sample.resident_bytes).max().unwrap_or(0),
        samples: samples.to_vec(),
    })
}

/// The limit of each of so many producers.
fn limit(load: &Load, index: u32) -> Limit {
    match load.records {
        None => Limit::Window,
        Some(records) => Limit::Counted(share(records, load.producers, index)),
    }
}

/// A part of `all`, of so many parts that differ by one at most.
fn share(all: u64, parts: u32, index: u32) -> u64 {
    all / u64::from(parts) + u64::from(u64::from(index) < all % u64::from(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_differ_by_one_at_most() {
        for (all, parts) in [(10, 3), (2, 4), (9, 3), (1_000_003, 7)] {
            let shares: Vec<u64> = (0..parts).map(|index| share(all, parts, index)).collect();
            assert_eq!(shares.iter().sum::<u64>(), all);
            assert!(shares.iter().max().expect("some") - shares.iter().min().expect("some") <= 1);
        }
    }
}
