//! Lakes and their status as programs read them, and the words that people read.

use millstream_protocol::Timestamp;
use millstream_protocol::frame::control::{LakeColumns, LakeConfig, LakeDelivery, LakePartition, LakeStatus};
use serde::Serialize;

/// `parquet`, with what else is not as by default: `ndjson, gzip`, `parquet, raw`.
pub(super) fn files(config: &LakeConfig) -> String {
    let mut words = vec![config.format.name()];
    if config.compression != Default::default() {
        words.push(match config.compression.name() {
            "none" => "uncompressed",
            name => name,
        });
    }
    if config.columns != LakeColumns::Inferred {
        words.push(columns(&config.columns));
    }
    words.join(", ")
}

/// A lake's URL and the layout under it.
pub(super) fn place(url: &str, layout: &str) -> String {
    if layout.is_empty() { url.to_owned() } else { format!("{}/{layout}", url.trim_end_matches('/')) }
}

/// Where columns come from, in a word.
pub(super) fn columns(columns: &LakeColumns) -> &'static str {
    match columns {
        LakeColumns::Inferred => "inferred",
        LakeColumns::Raw => "raw",
        LakeColumns::Declared(_) => "declared",
    }
}

/// What is promised, in words.
pub(super) fn delivery(delivery: LakeDelivery) -> &'static str {
    match delivery {
        LakeDelivery::ExactlyOnce => "exactly-once",
        LakeDelivery::AtLeastOnce => "at-least-once",
    }
}

/// Records that have not landed.
pub(super) fn waiting(status: &LakeStatus) -> u64 {
    status.partitions.iter().map(|p| p.high_watermark.saturating_sub(p.landed_end)).sum()
}

/// How old the newest landed record is, in milliseconds; `None` if none has landed since the server's start.
pub(super) fn freshness_ms(status: &LakeStatus, now_ms: i64) -> Option<u64> {
    // The clocks of two machines may differ: what landed is never newer than now.
    (status.newest_landed_ms != 0).then(|| now_ms.saturating_sub(status.newest_landed_ms).max(0).unsigned_abs())
}

#[derive(Serialize)]
pub(super) struct LakeView<'a> {
    name: &'a str,
    stream: &'a str,
    url: &'a str,
    format: &'static str,
    compression: &'static str,
    columns: &'static str,
    /// The schema file's text; lists leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a str>,
    layout: &'a str,
    delivery: &'static str,
    roll_bytes: u64,
    roll_rows: u64,
    roll_age_ms: u64,
    max_age_ms: u64,
    open_files_max: u32,
}

impl<'a> From<&'a LakeConfig> for LakeView<'a> {
    fn from(config: &'a LakeConfig) -> Self {
        let schema = match &config.columns {
            LakeColumns::Declared(text) if !text.is_empty() => Some(text.as_str()),
            _ => None,
        };
        Self {
            name: &config.name,
            stream: &config.stream,
            url: &config.url,
            format: config.format.name(),
            compression: config.compression.name(),
            columns: columns(&config.columns),
            schema,
            layout: &config.layout,
            delivery: delivery(config.delivery),
            roll_bytes: config.roll_bytes,
            roll_rows: config.roll_rows,
            roll_age_ms: config.roll_age_ms,
            max_age_ms: config.max_age_ms,
            open_files_max: config.open_files,
        }
    }
}

#[derive(Serialize)]
pub(super) struct StatusView<'a> {
    #[serde(flatten)]
    lake: LakeView<'a>,
    files: u64,
    rows: u64,
    bytes: u64,
    rejected: u64,
    lost: u64,
    waiting: u64,
    open_rows: u64,
    open_files: u32,
    oldest_waiting_ms: u64,
    newest_landed_ms: Option<i64>,
    freshness_ms: Option<u64>,
    error: Option<&'a str>,
    last_error: Option<&'a str>,
    last_error_ms: Option<i64>,
    partitions: Vec<PartitionView>,
}

#[derive(Serialize)]
struct PartitionView {
    partition: u32,
    landed_end: u64,
    read_end: u64,
    high_watermark: u64,
}

impl<'a> StatusView<'a> {
    pub fn new(status: &'a LakeStatus, now: Timestamp) -> Self {
        let partition = |p: &LakePartition| PartitionView {
            partition: p.partition,
            landed_end: p.landed_end,
            read_end: p.read_end,
            high_watermark: p.high_watermark,
        };
        Self {
            lake: LakeView::from(&status.config),
            files: status.files,
            rows: status.rows,
            bytes: status.bytes,
            rejected: status.rejected,
            lost: status.lost,
            waiting: waiting(status),
            open_rows: status.open_rows,
            open_files: status.open_files,
            oldest_waiting_ms: status.oldest_waiting_ms,
            newest_landed_ms: (status.newest_landed_ms != 0).then_some(status.newest_landed_ms),
            freshness_ms: freshness_ms(status, now.0),
            error: (!status.error.is_empty()).then_some(&status.error),
            last_error: (!status.last_error.is_empty()).then_some(&status.last_error),
            last_error_ms: (status.last_error_ms != 0).then_some(status.last_error_ms),
            partitions: status.partitions.iter().map(partition).collect(),
        }
    }
}
