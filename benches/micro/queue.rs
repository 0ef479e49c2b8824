//! Messages through the machine of one queue on one partition, 100 at a time: receiving, acknowledging, and the whole way with
//! the events made bytes and durable. No disk; the bench `queue` has what it costs in memory.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group};
use millstream_broker::queue::{Ledger, Now, Ordering, PartitionQueue, Receipt, Settings, Verdict};
use millstream_log::Machine;

const COUNT: u64 = 100;
const VISIBILITY_MS: u64 = 30_000;
const NOW: Now = Now { mono_ms: 1_000_000, wall_ms: 1_700_000_000_000 };
const FIFO: Ordering = Ordering::Fifo { group_batch: 1, parks: false };

/// A queue, and the offset of the record that comes next.
struct Steps {
    queue: PartitionQueue,
    next: u64,
}

impl Steps {
    fn new(ordering: Ordering) -> Self {
        let settings = Settings { ordering, ..Settings::default() };
        Self { queue: PartitionQueue::recover(Ledger::starting(1, 0), settings, 1, 0, NOW), next: 0 }
    }

    /// New messages, each of a group of its own.
    fn judge(&mut self) {
        let range = self.next..self.next + COUNT;
        self.next = range.end;
        match self.queue.settings().ordering {
            Ordering::Unordered => self.queue.judge_all(range, 0),
            Ordering::Fifo { .. } => {
                let verdict = |group| Verdict::Matches { due_ms: 0, is_own_delay: false, group };
                self.queue.judge(range.end, range.map(|offset| (offset, verdict(offset))), NOW);
            }
        }
    }

    fn receive(&mut self) -> Vec<Receipt> {
        let taken = self.queue.receive(1, COUNT as usize, VISIBILITY_MS, NOW).expect("the visibility is in range");
        taken.iter().map(|delivery| delivery.receipt).collect()
    }

    fn ack(&mut self, receipts: Vec<Receipt>) {
        for receipt in receipts {
            self.queue.ack(receipt, NOW).expect("it is live");
        }
    }

    /// What the shell does after each step: events as bytes, and durable.
    fn flush(&mut self) -> usize {
        let Some((number, passes)) = self.queue.flush() else { return 0 };
        let bytes = passes.iter().map(|pass| Ledger::encode_event(pass).len()).sum();
        self.queue.durable(number, NOW);
        self.queue.tick(NOW);
        bytes
    }
}

/// Carries out a step and adds its time to the total.
fn timed<T>(total: &mut Duration, step: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = step();
    *total += start.elapsed();
    result
}

fn queues(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    group.throughput(Throughput::Elements(COUNT));
    for (name, ordering) in [("unordered", Ordering::Unordered), ("fifo", FIFO)] {
        group.bench_function(format!("receive/{name}"), |bench| {
            bench.iter_custom(|count| {
                let (mut steps, mut took) = (Steps::new(ordering), Duration::ZERO);
                for _ in 0..count {
                    steps.judge();
                    let receipts = timed(&mut took, || steps.receive());
                    steps.ack(receipts);
                    steps.flush();
                }
                took
            });
        });
        group.bench_function(format!("ack/{name}"), |bench| {
            bench.iter_custom(|count| {
                let (mut steps, mut took) = (Steps::new(ordering), Duration::ZERO);
                for _ in 0..count {
                    steps.judge();
                    let receipts = steps.receive();
                    timed(&mut took, || steps.ack(receipts));
                    steps.flush();
                }
                took
            });
        });
        let mut steps = Steps::new(ordering);
        group.bench_function(format!("whole_way/{name}"), |bench| {
            bench.iter(|| {
                steps.judge();
                let receipts = steps.receive();
                assert_eq!(receipts.len() as u64, COUNT);
                steps.ack(receipts);
                steps.flush()
            });
        });
    }
    group.finish();
}

criterion_group!(steps, queues);
