//! A run's result: all that was measured, and the load that it was measured under. What `--json` prints and `compare` reads.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::load::Load;
use crate::record::sampler::Sample;
use crate::record::series::{Second, Series};

/// Rises when a field changes its meaning.
pub const FORMAT: u32 = 1;

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: u32,
    /// The program's version.
    pub version: String,
    /// The scenario's name, or the workload's.
    pub name: String,
    /// When the window began, Unix ms.
    pub started_ms: u64,
    /// The window's length.
    pub seconds: f64,
    /// The run was ended early, by a signal.
    pub interrupted: bool,
    /// Whether all is as it must be: of `verification`.
    pub correct: bool,
    /// All that it was told.
    pub settings: Load,
    /// What was measured, the most important first.
    pub meters: Vec<Measured>,
    /// What became of batches.
    pub batches: Batches,
    /// Whether what was read is what was sent.
    pub verification: Vec<Verified>,
    /// The server's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The lake, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lake: Option<Landed>,
    /// The machine that put the load on.
    pub machine: Machine,
    /// What one should know to read the figures.
    pub notes: Vec<String>,
}

/// One kind of event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    /// `produce`, `consume`, `deliver`, `settle`, `land`.
    pub name: String,
    /// Within the window.
    pub records: u64,
    /// Of their values.
    pub bytes: u64,
    pub records_per_second: f64,
    pub bytes_per_second: f64,
    /// What the latency runs from and to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_of: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Percentiles for a curve: percentile, µs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<(f64, f64)>,
    /// Second by second.
    pub series: Vec<Point>,
    /// For `--hdr`.
    #[serde(skip)]
    pub encoded: Vec<(u64, u64, Vec<u8>)>,
}

/// A second.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Point {
    pub second: u64,
    pub records: u64,
    pub bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_us: Option<f64>,
}

/// Percentiles, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub mean_us: f64,
    pub min_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub p9999_us: f64,
    pub max_us: f64,
}

/// What became of batches.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Batches {
    /// Acknowledged, warm-up included.
    pub acked: u64,
    /// Sent again.
    pub resent: u64,
    /// Encoded and compressed.
    pub bytes: u64,
}

/// One subscriber's reading, held against what was sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verified {
    /// Who.
    pub subscriber: String,
    /// `full`: each record's CRC, sequence and place. `counts`: records are too small for that, or not ours. `off`.
    pub mode: String,
    /// Records looked at, warm-up included.
    pub records: u64,
    /// Records that were to come; what was there, where nothing was sent.
    pub expected: u64,
    /// Records that came again, as they may.
    pub again: u64,
    /// Things that are wrong.
    pub mismatches: u64,
    /// Some of them.
    pub examples: Vec<String>,
}

/// What a process used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// `server`: another process. `this`: the load and what bears it are in this one.
    pub of: String,
    pub pid: u32,
    /// Of one core, over the window.
    pub cpu_percent: f64,
    pub resident_bytes_max: u64,
    /// Second by second.
    pub samples: Vec<Sample>,
}

/// What a lake did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Landed {
    pub files: u64,
    pub rows: u64,
    pub bytes: u64,
    pub rejected: u64,
    /// After the last record was sent, until all had landed.
    pub catch_up_seconds: f64,
    /// Records produced and not landed, at most.
    pub lag_records_max: u64,
    /// Whether log, manifest and files were compared in the end.
    pub audited: bool,
}

/// The machine that put the load on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    pub os: String,
    pub arch: String,
    pub cpus: usize,
    /// Whether this program was built with optimisations: figures of a debug build say little.
    pub optimized: bool,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        Self {
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            optimized: !cfg!(debug_assertions),
        }
    }
}

impl Latency {
    /// `None` of a histogram in which nothing is.
    pub fn of(ns: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| micros(ns.value_at_quantile(quantile));
        (!ns.is_empty()).then(|| Self {
            count: ns.len(),
            mean_us: tenth(ns.mean() / 1e3),
            min_us: micros(ns.min()),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: micros(ns.max()),
        })
    }
}

/// To a tenth of a microsecond.
fn micros(ns: u64) -> f64 {
    tenth(ns as f64 / 1e3)
}

fn tenth(us: f64) -> f64 {
    (us * 10.0).round() / 10.0
}

impl Measured {
    /// A meter's series over a window of that length.
    pub fn of(name: &str, latency_of: Option<&str>, series: &Series, seconds: f64) -> Self {
        let per_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let latency = Latency::of(&series.total_ns);
        let point = |second: &Second| Point {
            second: second.second,
            records: second.records,
            bytes: second.bytes,
            p50_us: second.latency.as_ref().map(|latency| micros(latency.p50_ns)),
            p99_us: second.latency.as_ref().map(|latency| micros(latency.p99_ns)),
            max_us: second.latency.as_ref().map(|latency| micros(latency.max_ns)),
        };
        let encoded = |second: &Second| {
            let latency = second.latency.as_ref()?;
            Some((second.second, latency.max_ns, latency.encoded.clone()))
        };
        Self {
            name: name.to_owned(),
            records: series.records,
            bytes: series.bytes,
            records_per_second: per_second(series.records),
            bytes_per_second: per_second(series.bytes),
            latency_of: latency.and(latency_of).map(str::to_owned),
            latency,
            curve: curve(&series.total_ns),
            series: series.seconds().map(point).collect(),
            encoded: series.seconds().filter_map(encoded).collect(),
        }
    }
}

/// The percentiles that a curve is drawn from: ten to each half of what is left.
fn curve(ns: &Histogram<u64>) -> Vec<(f64, f64)> {
    if ns.is_empty() {
        return Vec::new();
    }
    let points = ns.iter_quantiles(10).map(|step| (step.quantile() * 100.0, micros(step.value_iterated_to())));
    let mut points: Vec<(f64, f64)> = points.filter(|(percentile, _)| *percentile < 100.0).collect();
    points.push((100.0, micros(ns.max())));
    points
}

impl Run {
    /// The meter that the scenario is about: what it is compared by.
    pub fn main(&self) -> Option<&Measured> {
        self.meters.first()
    }
}
