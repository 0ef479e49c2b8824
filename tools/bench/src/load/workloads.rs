//! Named workloads, with the parameters of the OpenMessaging Benchmark's: a topic of so many partitions, records of one size,
//! four producers and consumers at a set rate or flat out, and consumers that come late to a backlog.
//!
//! Each fills the same settings as a scenario; flags override them.

use super::{Load, Scenario};

struct Size {
    name: &'static str,
    bytes: u64,
    /// What is in the way of a reader that comes late: about a gigabyte.
    backlog: u64,
}

const PARTITIONS: [u32; 3] = [1, 16, 100];
const SIZES: [Size; 3] = [
    Size { name: "100b", bytes: 100, backlog: 10_000_000 },
    Size { name: "1kb", bytes: 1_024, backlog: 1_000_000 },
    Size { name: "64kb", bytes: 65_536, backlog: 16_000 },
];
/// Producers and consumers each, where the partitions allow it.
const PARTIES: u32 = 4;

/// A workload.
#[derive(Debug, Clone)]
pub struct Workload {
    /// What it is called.
    pub name: String,
    /// What it is, in a line.
    pub about: String,
    /// What it does.
    pub load: Load,
}

/// All of them.
pub fn all() -> Vec<Workload> {
    let mut all = Vec::new();
    for partitions in PARTITIONS {
        for size in &SIZES {
            let topic =
                format!("1-topic-{partitions}-partition{}-{}", if partitions == 1 { "" } else { "s" }, size.name);
            let consumers = PARTIES.min(partitions);
            let mut load = Load::of(Scenario::EndToEnd);
            (load.partitions, load.producers, load.consumers) = (Some(partitions), PARTIES, consumers);
            load.record_size = size.bytes;
            let parties = format!("{PARTIES} producers, {consumers} consumer(s), {} B", size.bytes);
            let mut late = load.clone();
            late.scenario = Scenario::Consume;
            (late.backlog, late.duration) = (Some(size.backlog), None);
            late.warm_up = super::duration::Time::seconds(0);
            let mut at_rate = load.clone();
            // A tenth of what a disk of 500 MB/s could take.
            at_rate.rate = Some((50e6 / size.bytes as f64).round());
            let rate = at_rate.rate.unwrap_or_default();
            all.push(Workload { about: format!("{parties}, flat out"), name: topic.clone(), load });
            all.push(Workload {
                name: format!("rate-{topic}"),
                about: format!("{parties}, {rate:.0} records/s"),
                load: at_rate,
            });
            all.push(Workload {
                name: format!("backlog-{topic}"),
                about: format!("{parties}, {} records to catch up with", size.backlog),
                load: late,
            });
        }
    }
    all
}

/// The one of that name; else those that are like it.
pub fn find(name: &str) -> Result<Workload, String> {
    let all = all();
    if let Some(found) = all.iter().find(|workload| workload.name == name) {
        return Ok(found.clone());
    }
    let fewest = all.iter().map(|one| edits(name, &one.name)).min();
    let near = all.iter().filter(|one| Some(edits(name, &one.name)) == fewest);
    let near: Vec<&str> = near.map(|one| one.name.as_str()).collect();
    Err(format!("no workload is called '{name}': did you mean {}? `workload --list` shows all", near.join(" or ")))
}

/// Levenshtein's distance, one row at a time.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().take(100).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_workload_is_legal() {
        let all = all();
        let names: std::collections::HashSet<&str> = all.iter().map(|workload| workload.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        for workload in &all {
            workload.load.check().expect(&workload.name);
        }
        for name in ["1-topic-16-partitions-1kb", "1-topic-1-partition-100b", "backlog-1-topic-16-partitions-1kb"] {
            assert_eq!(find(name).expect(name).name, name);
        }
    }

    #[test]
    fn a_slip_is_answered_with_the_nearest_name() {
        let error = find("1-topic-16-partition-1kb").expect_err("a slip");
        assert!(error.contains("1-topic-16-partitions-1kb") && !error.contains("backlog"), "{error}");
    }
}
