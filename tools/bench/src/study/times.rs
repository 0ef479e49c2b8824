//! Latencies of a study, in microseconds.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Microseconds, up to an hour, to three digits.
pub fn histogram_us() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are legal")
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
        let (p50, p90, p99) = (ms(self.p50_us), ms(self.p90_us), ms(self.p99_us));
        let (p999, max) = (ms(self.p999_us), ms(self.max_us));
        write!(f, "p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2}")
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
