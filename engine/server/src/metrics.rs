//! The server's figures, as Prometheus' text (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! One table of counters: name, unit (the name's last word before `_total`) and meaning. Counting is one relaxed
//! atomic addition; what is only known when asked (bytes in hand, lakes' lag) is handed in by `http::metrics`.

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use millstream_protocol::Code;

/// Upper bounds of the append histogram, in microseconds: from a sync of a fast disk to one that is in trouble.
const APPEND_BUCKETS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

macro_rules! counters {
    ($($field:ident $name:literal $meaning:literal;)*) => {
        /// All counters of a server.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $(#[doc = $meaning] pub $field: Counter,)*
            /// From a whole batch in hand to its result.
            pub append: Histogram,
            errors: Errors,
        }

        impl Metrics {
            fn render_counters(&self, out: &mut Text) {
                $(out.counter($name, $meaning, self.$field.get());)*
            }
        }
    };
}

counters! {
    batches_stored "millstream_produce_batches_total" "Batches stored to their stream's durability, and those stored before that came again.";
    records_stored "millstream_produce_records_total" "Records stored to their stream's durability.";
    bytes_stored "millstream_produce_bytes_total" "Bytes of batches stored, as sent (compressed).";
    batches_refused "millstream_produce_refused_batches_total" "Batches refused or failed.";
    duplicates "millstream_produce_duplicate_records_total" "Records answered with the place of an earlier one of their dedup id.";
    producers "millstream_producers_initialised_total" "Producer ids given.";
    producers_bumped "millstream_producers_bumped_total" "Producers whose epoch was raised.";
    frame_bytes_in "millstream_received_bytes_total" "Bytes of frames received.";
    bytes_delivered "millstream_consume_bytes_total" "Bytes of batches written to consumers.";
    offsets_delivered "millstream_consume_records_total" "Offsets covered by what was written to consumers.";
    gaps "millstream_consume_gaps_total" "Gaps told to consumers: damage, or retention overtook them.";
    queue_deliveries "millstream_queue_deliveries_total" "Messages written to receivers of queues.";
    queue_bytes_delivered "millstream_queue_delivered_bytes_total" "Bytes of records written to receivers of queues.";
    queue_verbs "millstream_queue_verbs_total" "Acks and other words on deliveries received.";
    requests "millstream_requests_total" "Control requests answered.";
    connections_accepted "millstream_connections_accepted_total" "Connections whose hello was accepted.";
    connections_refused "millstream_connections_refused_total" "Connection attempts refused at a limit.";
    connections_retried "millstream_connections_retried_total" "Connection attempts asked to prove their address.";
    connections_closed "millstream_connections_closed_total" "Connections whose hello was accepted and that have ended.";
    violations "millstream_protocol_violations_total" "Connections closed because the peer broke the protocol.";
    panics "millstream_panics_total" "Panics caught at the edge of a connection: each is a bug.";
}

impl Metrics {
    /// Counts an error sent to a client.
    pub fn error(&self, code: Code) {
        if let Some(counter) = self.errors.slot(code) {
            counter.add(1);
        }
    }

    /// Connections that are through their hello now.
    pub fn connections(&self) -> u64 {
        self.connections_accepted.get().saturating_sub(self.connections_closed.get())
    }

    /// Everything counted here; the caller appends its gauges.
    pub fn render(&self) -> Text {
        let mut out = Text::default();
        self.render_counters(&mut out);
        out.gauge("millstream_connections", "Connections that are through their hello.", self.connections());
        let errors = Code::ALL.iter().map(|code| {
            let count = self.errors.slot(*code).map_or(0, Counter::get);
            (format!("code=\"{}\",name=\"{}\"", code.number(), code.name()), count)
        });
        out.family("millstream_errors_total", "counter", "Errors sent to clients, by code.", errors);
        out.histogram("millstream_append_seconds", "From a whole batch in hand to its result.", &self.append);
        out
    }
}

/// A number that only rises.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug)]
struct Errors(Vec<Counter>);

impl Default for Errors {
    fn default() -> Self {
        Self(Code::ALL.iter().map(|_| Counter::default()).collect())
    }
}

impl Errors {
    fn slot(&self, code: Code) -> Option<&Counter> {
        Code::ALL.binary_search_by_key(&code.number(), |code| code.number()).ok().and_then(|index| self.0.get(index))
    }
}

/// How often something took how long.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; APPEND_BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = APPEND_BUCKETS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }
}

/// Metrics as text.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

impl Text {
    pub fn counter(&mut self, name: &str, meaning: &str, value: u64) {
        self.family(name, "counter", meaning, [(String::new(), value)]);
    }

    pub fn gauge(&mut self, name: &str, meaning: &str, value: u64) {
        self.family(name, "gauge", meaning, [(String::new(), value)]);
    }

    /// One metric with its samples: labels (`a="b"`, may be empty) and value.
    pub fn family<V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        meaning: &str,
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        self.line(format_args!("# HELP {name} {meaning}\n# TYPE {name} {kind}"));
        for (labels, value) in samples {
            if labels.is_empty() {
                self.line(format_args!("{name} {value}"));
            } else {
                self.line(format_args!("{name}{{{labels}}} {value}"));
            }
        }
    }

    fn histogram(&mut self, name: &str, meaning: &str, histogram: &Histogram) {
        self.line(format_args!("# HELP {name} {meaning}\n# TYPE {name} histogram"));
        let mut count = 0;
        for (bound_us, bucket) in APPEND_BUCKETS_US.iter().zip(&histogram.buckets) {
            count += bucket.load(Relaxed);
            self.line(format_args!("{name}_bucket{{le=\"{}\"}} {count}", *bound_us as f64 / 1e6));
        }
        count += histogram.buckets[APPEND_BUCKETS_US.len()].load(Relaxed);
        let sum = histogram.sum_us.load(Relaxed) as f64 / 1e6;
        self.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a string succeeds");
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_errors_and_histogram_are_rendered_as_prometheus_reads_them() {
        let metrics = Metrics::default();
        metrics.batches_stored.add(3);
        metrics.error(Code::UnknownStream);
        for us in [50, 100, 101, 60_000_000] {
            metrics.append.observe(Duration::from_micros(us));
        }
        let text = metrics.render().into_string();
        for line in [
            "# TYPE millstream_produce_batches_total counter",
            "millstream_produce_batches_total 3",
            "millstream_errors_total{code=\"101\",name=\"unknown stream\"} 1",
            "millstream_errors_total{code=\"502\",name=\"internal error\"} 0",
            "millstream_append_seconds_bucket{le=\"0.0001\"} 2",
            "millstream_append_seconds_bucket{le=\"0.00025\"} 3",
            "millstream_append_seconds_bucket{le=\"+Inf\"} 4",
            "millstream_append_seconds_count 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        let is_sample = |line: &&str| line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok());
        assert!(text.lines().filter(|line| !line.starts_with('#')).all(|line| is_sample(&line)));
    }
}
