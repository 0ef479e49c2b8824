//! Histogram logs as `HdrHistogram`'s own tools read them: a file for each meter, a line for each second.
//!
//! The format is that of `HistogramLogWriter`: comments, then start and length of each interval, its maximum, and the
//! histogram (V2, deflated, base64). Values are nanoseconds; maxima are shown in milliseconds.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};

use crate::failure::Failure;
use crate::result::{Measured, Run};

const NS_A_MS: f64 = 1e6;

/// Writes the logs of a run into that directory, and makes it if it is not there.
pub fn write(dir: &Path, run: &Run) -> Result<Vec<PathBuf>, Failure> {
    std::fs::create_dir_all(dir).map_err(|error| Failure::file("make", dir, &error))?;
    let mut written = Vec::new();
    for measured in run.meters.iter().filter(|measured| !measured.encoded.is_empty()) {
        let path = dir.join(format!("{}-{}.hlog", run.name, measured.name));
        std::fs::write(&path, log(run, measured)).map_err(|error| Failure::file("write", &path, &error))?;
        written.push(path);
    }
    Ok(written)
}

/// One log.
fn log(run: &Run, measured: &Measured) -> Vec<u8> {
    let start = UNIX_EPOCH + Duration::from_millis(run.started_ms);
    let mut out = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder
        .add_comment(&format!("[Logged with millstream-bench {}]", run.version))
        .add_comment(&format!(
            "[{}, in nanoseconds; maxima in milliseconds]",
            measured.latency_of.as_deref().unwrap_or_default()
        ))
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(NS_A_MS);
    let mut writer = builder.begin_log_with(&mut out, &mut serializer).expect("writing to memory succeeds");
    for (second, _, encoded) in &measured.encoded {
        let histogram: Histogram<u64> =
            Deserializer::new().deserialize(&mut encoded.as_slice()).expect("it was encoded here");
        let written = writer.write_histogram(&histogram, Duration::from_secs(*second), Duration::from_secs(1), None);
        written.expect("writing to memory succeeds");
    }
    out
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    #[test]
    fn a_log_is_read_back_by_the_formats_own_reader() {
        let run = crate::output::tests::run("produce", 3);
        let dir = tempfile::tempdir().expect("a directory");
        let written = write(&dir.path().join("logs"), &run).expect("written");
        let text = std::fs::read(&written[0]).expect("it is there");
        assert!(text.starts_with(b"#"), "comments come first");
        let mut intervals = 0;
        for entry in IntervalLogIterator::new(&text) {
            if let LogEntry::Interval(interval) = entry.expect("it parses") {
                assert_eq!(interval.duration(), Duration::from_secs(1));
                let encoded = base64(interval.encoded_histogram());
                let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut encoded.as_slice()).expect("V2");
                assert_eq!(histogram.len(), 100);
                assert!((interval.max() - histogram.max() as f64 / NS_A_MS).abs() < 0.1);
                intervals += 1;
            }
        }
        assert_eq!(intervals, 3);
    }

    /// The alphabet of RFC 4648.
    fn base64(text: &str) -> Vec<u8> {
        let value = |byte: u8| match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(value).collect();
        let mut bytes = Vec::new();
        for group in digits.chunks(4) {
            let bits = group.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - group.len()));
            bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
        }
        bytes
    }
}
