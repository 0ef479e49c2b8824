//! What a run did, for people and for machines.
//!
//! - `table`: for people. `hdr`: logs for `HdrHistogram`'s tools. `report`: a page with plots, drawn by `plot`.
//! - `compare`: two runs side by side. `sweep`: many, along a setting. `progress`: while it runs. `units`: how figures are written.

pub mod compare;
pub mod hdr;
pub mod page;
pub mod plot;
pub mod progress;
pub mod report;
pub mod sweep;
pub mod table;
pub mod units;

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::failure::Failure;

/// Prints a result on stdout: as one line of JSON, or as text for people.
pub fn print(report: &impl Serialize, for_people: &impl std::fmt::Display, json: bool) -> Result<(), Failure> {
    let text = match json {
        true => serde_json::to_string(report).expect("plain structs always serialize"),
        false => for_people.to_string(),
    };
    writeln!(std::io::stdout(), "{text}").map_err(|error| Failure::local(format!("cannot write the output: {error}")))
}

/// Writes a file that somebody asked for.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::file("write", path, &error))
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::SECOND_NS;
    use crate::load::{Load, Scenario};
    use crate::record::sampler::Sample;
    use crate::record::{Meter, Window};
    use crate::result::{FORMAT, Machine, Measured, Process, Run};

    /// A run of so many seconds, a hundred records in each.
    pub fn run(name: &str, seconds: u64) -> Run {
        let window = Arc::new(Window::new(0, seconds * SECOND_NS));
        let meter = Meter::new("produce", Some("from here to there"), window);
        let mut probe = meter.probe();
        for n in 0..seconds * 100 {
            let at = n * SECOND_NS / 100;
            probe.count(at, 1, 1_000);
            probe.latency(at + 1_000_000 + n * 1_000, at);
        }
        drop(probe);
        let samples = (1..=seconds).map(|at| Sample { at: at as f64, cpu_percent: 50.0, resident_bytes: 1 << 20 });
        let samples: Vec<Sample> = samples.collect();
        Run {
            format: FORMAT,
            version: "0".to_owned(),
            name: name.to_owned(),
            started_ms: 1_700_000_000_000,
            seconds: seconds as f64,
            interrupted: false,
            correct: true,
            settings: Load::of(Scenario::Produce),
            meters: vec![Measured::of("produce", meter.latency_of, &meter.take(), seconds as f64)],
            batches: Default::default(),
            verification: Vec::new(),
            process: Some(Process {
                of: "server".to_owned(),
                pid: 1,
                cpu_percent: 50.0,
                resident_bytes_max: 1 << 20,
                samples,
            }),
            lake: None,
            machine: Machine::this(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_run_survives_json_and_its_table_has_all_figures() {
        let run = run("produce", 3);
        let json = serde_json::to_string(&run).expect("it serializes");
        let back: Run = serde_json::from_str(&json).expect("it reads back");
        assert_eq!((back.meters[0].records, back.settings), (300, run.settings.clone()));
        let text = table::Table(&run).to_string();
        for part in ["RECORDS/S", "P99.99", "100", "50 % of a core"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
