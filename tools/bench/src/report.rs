//! What a run did, for people and for machines.

use std::io::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Failure;

/// Prints a result on stdout: as one line of JSON, or as text for people.
pub fn print(report: &impl Serialize, for_people: &impl std::fmt::Display, json: bool) -> Result<(), Failure> {
    let text = match json {
        true => serde_json::to_string(report).expect("plain structs always serialize"),
        false => for_people.to_string(),
    };
    writeln!(std::io::stdout(), "{text}")
        .map_err(|error| Failure { exit: 70, text: format!("cannot write the output: {error}") })
}

/// Microseconds, up to an hour, to three digits.
pub fn histogram_us() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are legal")
}

/// A run's result.
#[derive(Debug, Serialize)]
pub struct Report {
    pub command: &'static str,
    pub stream: String,
    pub records: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Batches, where the run saw them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batches: Option<u64>,
    /// Batches sent again after a lost connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batches_resent: Option<u64>,
    pub seconds: f64,
    pub records_per_second: f64,
    pub bytes_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

/// Times from sending to acknowledgement.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub mean_us: f64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |us: u64| us as f64 / 1e3;
        write!(
            f,
            "p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}",
            ms(self.p50_us),
            ms(self.p90_us),
            ms(self.p99_us),
            ms(self.p999_us),
            ms(self.max_us)
        )
    }
}

impl From<&Histogram<u64>> for Latency {
    fn from(us: &Histogram<u64>) -> Self {
        Self {
            mean_us: us.mean(),
            p50_us: us.value_at_quantile(0.5),
            p90_us: us.value_at_quantile(0.9),
            p99_us: us.value_at_quantile(0.99),
            p999_us: us.value_at_quantile(0.999),
            max_us: us.max(),
        }
    }
}

impl Report {
    /// A report without batches and latencies.
    pub fn new(command: &'static str, stream: &str, records: u64, bytes: u64, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        let per_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        Self {
            command,
            stream: stream.to_owned(),
            records,
            bytes,
            batches: None,
            batches_resent: None,
            seconds,
            records_per_second: per_second(records),
            bytes_per_second: per_second(bytes),
            latency: None,
        }
    }

    /// Prints it on stdout.
    pub fn print(&self, json: bool) -> Result<(), Failure> {
        print(self, &self.for_people(), json)
    }

    fn for_people(&self) -> String {
        let mut text = format!(
            "{} '{}': {} records, {:.1} MB in {:.2} s{}\n  {:.0} records/s  {:.1} MB/s",
            self.command,
            self.stream,
            self.records,
            self.bytes as f64 / 1e6,
            self.seconds,
            self.batches.map_or(String::new(), |batches| format!(", {batches} batches")),
            self.records_per_second,
            self.bytes_per_second / 1e6,
        );
        if let Some(latency) = &self.latency {
            text += &format!("\n  ack ms: {latency}");
        }
        if let Some(resent) = self.batches_resent.filter(|resent| *resent > 0) {
            text += &format!("\n  {resent} batches were sent again: the connection was lost on the way");
        }
        text
    }
}
