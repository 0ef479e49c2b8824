//! What a queue's machine costs by itself: memory for messages in flight and delayed, a hole that is held open, and how many
//! messages a second one partition's machine passes. No network, no disk: `cargo bench -p millstream-benches --bench queue`.
//!
//! `MILLSTREAM_IN_FLIGHT` sets how many messages are in flight, in millions (default `1,10`).

use std::time::Instant;

use millstream_broker::queue::{Ledger, Now, Ordering, PartitionQueue, Receipt, Settings, Verdict};
use millstream_log::Machine;

const HOUR_MS: u64 = 60 * 60 * 1_000;
const PASS: u64 = 1_000;

fn now() -> Now {
    Now { mono_ms: 1_000_000, wall_ms: 1_700_000_000_000 }
}

/// Memory of this process that is not a file's, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("the kernel says");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
    kib * 1_024
}

fn new(ordering: Ordering) -> PartitionQueue {
    let settings = Settings { ordering, ..Settings::default() };
    PartitionQueue::recover(Ledger::starting(1, 0), settings, 1, 0, now())
}

/// What the shell does after each step: events as bytes, and durable.
fn flush(queue: &mut PartitionQueue) -> u64 {
    let Some((number, passes)) = queue.flush() else { return 0 };
    let bytes = passes.iter().map(|pass| Ledger::encode_event(pass).len() as u64).sum();
    queue.durable(number, now());
    queue.tick(now());
    bytes
}

fn receive(queue: &mut PartitionQueue, count: u64, visibility_ms: u64) -> Vec<Receipt> {
    let taken = queue.receive(1, count as usize, visibility_ms, now()).expect("the visibility is in range");
    taken.iter().map(|delivery| delivery.receipt).collect()
}

fn in_flight(count: u64) {
    let before = memory();
    let mut queue = new(Ordering::Unordered);
    for base in (0..count).step_by(PASS as usize) {
        queue.judge_all(base..base + PASS, 0);
        assert_eq!(receive(&mut queue, PASS, HOUR_MS).len() as u64, PASS);
        flush(&mut queue);
    }
    let used = memory() - before;
    let snapshot = queue.ledger().encode_snapshot().len();
    println!(
        "{count:>11} in flight: {:>6.1} MB, {:>5.1} bytes each; snapshot {} bytes",
        used as f64 / 1e6,
        used as f64 / count as f64,
        snapshot
    );
}

fn delayed(count: u64) {
    let before = memory();
    let mut queue = new(Ordering::Unordered);
    for base in (0..count).step_by(PASS as usize) {
        // Each at its own time, over ten days.
        let verdict = |offset: u64| {
            let due_ms = now().wall_ms + 1_000 + offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (240 * HOUR_MS);
            (offset, Verdict::Matches { due_ms, is_own_delay: true, group: 0 })
        };
        queue.judge(base + PASS, (base..base + PASS).map(verdict), now());
        flush(&mut queue);
    }
    let used = memory() - before;
    let snapshot = queue.ledger().encode_snapshot().len();
    println!(
        "{count:>11} delayed:   {:>6.1} MB, {:>5.1} bytes each; snapshot {:.1} MB",
        used as f64 / 1e6,
        used as f64 / count as f64,
        snapshot as f64 / 1e6
    );
}

/// The first message is out, all behind it are acknowledged: in order, or every second one.
fn hole(count: u64, step: u64) {
    let before = memory();
    let mut queue = new(Ordering::Unordered);
    queue.judge_all(0..PASS, 0);
    let first = receive(&mut queue, PASS, HOUR_MS);
    for receipt in &first[1..] {
        queue.ack(*receipt, now()).expect("it is live");
    }
    for base in (PASS..count * step).step_by(PASS as usize) {
        queue.judge_all(base..base + PASS, 0);
        for receipt in receive(&mut queue, PASS, HOUR_MS) {
            if receipt.offset % step == 0 {
                queue.ack(receipt, now()).expect("it is live");
            }
        }
        flush(&mut queue);
    }
    let used = memory() - before;
    let snapshot = queue.ledger().encode_snapshot();
    let since = Instant::now();
    let ledger = Ledger::decode_snapshot(&snapshot).expect("whole");
    let recovered = PartitionQueue::recover(ledger, *queue.settings(), 2, u64::MAX, now());
    let took = since.elapsed();
    assert_eq!(recovered.ledger().floor(), 0);
    let unsettled = if step == 1 { 1 } else { count * (step - 1) };
    println!(
        "{count:>11} acked behind a hole, {unsettled} not: {:>6.1} MB; snapshot {} bytes; recovered in {:.1} ms",
        used as f64 / 1e6,
        snapshot.len(),
        took.as_secs_f64() * 1e3
    );
}

fn rate(name: &str, ordering: Ordering, groups: u64) {
    const COUNT: u64 = 2_000_000;
    let mut queue = new(ordering);
    let (since, mut bytes, mut next, mut done) = (Instant::now(), 0, 0, 0);
    while done < COUNT {
        if next < COUNT && !queue.has_available(now()) {
            match ordering {
                Ordering::Unordered => queue.judge_all(next..next + PASS, 0),
                Ordering::Fifo { .. } => {
                    let verdict =
                        |offset: u64| Verdict::Matches { due_ms: 0, is_own_delay: false, group: offset % groups };
                    queue.judge(next + PASS, (next..next + PASS).map(|offset| (offset, verdict(offset))), now());
                }
            }
            next += PASS;
        }
        for receipt in receive(&mut queue, 100, HOUR_MS) {
            queue.ack(receipt, now()).expect("it is live");
            done += 1;
        }
        bytes += flush(&mut queue);
    }
    let seconds = since.elapsed().as_secs_f64();
    println!(
        "{name:<28} {:>10.0} messages/s through one machine, {:.1} bytes of events each",
        COUNT as f64 / seconds,
        bytes as f64 / COUNT as f64
    );
}

/// Runs one figure in a process of its own: what another one has freed would be taken again, and not be seen.
fn alone(figure: &str, count: u64) {
    let program = std::env::current_exe().expect("it runs");
    let ended = std::process::Command::new(program).args(["--figure", figure, &count.to_string()]).status();
    assert!(ended.expect("it starts").success(), "{figure} failed");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test --benches` runs this with `--test`: a figure is not wanted then.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    if let [_, flag, figure, count] = arguments.as_slice()
        && flag == "--figure"
    {
        let count = count.parse().expect("a number");
        match figure.as_str() {
            "in-flight" => in_flight(count),
            "delayed" => delayed(count),
            "hole" => hole(count, 1),
            _ => hole(count, 2),
        }
        return;
    }
    let wanted = std::env::var("MILLSTREAM_IN_FLIGHT").unwrap_or_else(|_| "1,10".to_owned());
    for millions in wanted.split(',').filter_map(|text| text.trim().parse::<u64>().ok()) {
        alone("in-flight", millions * 1_000_000);
    }
    alone("delayed", 1_000_000);
    alone("hole", 5_000_000);
    alone("every second", 2_500_000);
    rate("unordered", Ordering::Unordered, 0);
    for groups in [1, 100, 100_000] {
        let ordering = Ordering::Fifo { group_batch: 1, parks: false };
        rate(&format!("FIFO, {groups} groups"), ordering, groups);
    }
}
