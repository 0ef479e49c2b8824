//! The seconds of a meter: open while something may still come, then encoded.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};

use super::histogram_ns;

/// One second, closed.
#[derive(Debug, Clone, Default)]
pub struct Second {
    /// From the window's start.
    pub second: u64,
    /// How many came.
    pub records: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Latencies of it, if it has some.
    pub latency: Option<SecondLatency>,
}

/// A second's latencies.
#[derive(Debug, Clone)]
pub struct SecondLatency {
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub max_ns: u64,
    /// V2, deflated: as `HdrHistogram`'s logs have it.
    pub encoded: Vec<u8>,
}

#[derive(Debug, Default)]
struct Open {
    records: u64,
    bytes: u64,
    latency_ns: Option<Histogram<u64>>,
}

/// All seconds, and their sum.
#[derive(Debug)]
pub struct Series {
    /// All records.
    pub records: u64,
    /// All bytes.
    pub bytes: u64,
    /// When the last of them came.
    pub last_ns: u64,
    /// All latencies.
    pub total_ns: Histogram<u64>,
    open: BTreeMap<u64, Open>,
    closed: Vec<Second>,
    settled: u64,
}

impl Default for Series {
    fn default() -> Self {
        let (open, closed) = Default::default();
        Self { records: 0, bytes: 0, last_ns: 0, total_ns: histogram_ns(), open, closed, settled: 0 }
    }
}

impl Series {
    /// Takes in what a task has gathered. What comes for a second that is closed goes to the first open one.
    pub fn add(
        &mut self,
        second: u64,
        (records, bytes): (u64, u64),
        last_ns: u64,
        latency_ns: Option<&Histogram<u64>>,
    ) {
        self.records += records;
        self.bytes += bytes;
        self.last_ns = self.last_ns.max(last_ns);
        let open = self.open.entry(second.max(self.settled)).or_default();
        open.records += records;
        open.bytes += bytes;
        if let Some(latency_ns) = latency_ns {
            self.total_ns.add(latency_ns).expect("all have the same bounds");
            open.latency_ns.get_or_insert_with(histogram_ns).add(latency_ns).expect("all have the same bounds");
        }
    }

    /// Closes the seconds before that one.
    pub fn settle(&mut self, before: u64) {
        while let Some(entry) = self.open.first_entry().filter(|entry| *entry.key() < before) {
            let (second, open) = entry.remove_entry();
            let latency = open.latency_ns.as_ref().map(SecondLatency::new);
            self.closed.push(Second { second, records: open.records, bytes: open.bytes, latency });
        }
        self.settled = self.settled.max(before);
    }

    /// The closed seconds, in order; those in which nothing came are left out.
    pub fn seconds(&self) -> impl Iterator<Item = &Second> {
        self.closed.iter()
    }
}

impl SecondLatency {
    fn new(histogram: &Histogram<u64>) -> Self {
        let mut encoded = Vec::new();
        V2DeflateSerializer::new().serialize(histogram, &mut encoded).expect("writing to memory succeeds");
        Self {
            p50_ns: histogram.value_at_quantile(0.5),
            p99_ns: histogram.value_at_quantile(0.99),
            max_ns: histogram.max(),
            encoded,
        }
    }
}
