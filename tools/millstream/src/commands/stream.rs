//! `millstream stream create | list | describe | delete | delete-before`.

use std::time::Duration;

use millstream_protocol::frame::control::{
    Cleanup, Compaction, Durability, PartitionInfo, PartitionState, StreamConfig, StreamInfo, StreamSummary,
};
use millstream_protocol::{ByteSize, Offset, PartitionId, Timestamp};
use serde::Serialize;

use super::{Session, can_ask, confirm, legal_name};
use crate::cli::{CleanupChoice, Limit, Stream, StreamCreate};
use crate::context::ServerFlags;
use crate::exit::Failure;
use crate::output::{Align, Output, Paint, Table, count, counted, facts};
use crate::time::{rfc3339, span};

/// Runs one of them.
///
/// # Errors
/// What the server says, or that it cannot be reached.
pub async fn run(command: Stream, server: &ServerFlags, output: Output) -> Result<(), Failure> {
    if let Stream::Create(StreamCreate { name, .. })
    | Stream::Describe { name }
    | Stream::Delete { name, .. }
    | Stream::DeleteBefore { name, .. } = &command
    {
        legal_name("stream", name)?;
    }
    Session::with(server, async |session| match command {
        Stream::Create(create) => create_stream(session, create, output).await,
        Stream::List => list(session, output).await,
        Stream::Describe { name } => describe(session, &name, output).await,
        Stream::Delete { name, yes } => delete(session, &name, yes, output).await,
        Stream::DeleteBefore { name, partition, offset } => {
            delete_before(session, &name, PartitionId(partition), Offset(offset), output).await
        }
    })
    .await
}

async fn create_stream(session: &Session, create: StreamCreate, output: Output) -> Result<(), Failure> {
    let config = config(&create)?;
    let created = session.client.create_stream(&create.name, create.partitions, config).await;
    let info = created
        .map_err(|error| session.failure(&error).or_try(format!("millstream stream describe {}", create.name)))?;
    output.result(&StreamView::from(&info), |_| {
        format!("created stream '{}' with {}", info.name, counted(info.partitions.len() as u64, "partition"))
    })
}

fn config(create: &StreamCreate) -> Result<StreamConfig, Failure> {
    let mut config = match create.cleanup {
        Some(CleanupChoice::Compact) => StreamConfig::compacted(compaction(create)?),
        Some(CleanupChoice::Delete) | None => {
            if create.delete_retention.or(create.min_compaction_lag).is_some() {
                let text =
                    "--delete-retention and --min-compaction-lag are for compacted streams: add --cleanup compact";
                return Err(Failure::usage(text));
            }
            if create.interest { StreamConfig::by_interest() } else { StreamConfig::default() }
        }
    };
    match create.retention {
        None => {}
        Some(Limit::None) => config.retention_ms = None,
        Some(Limit::Some(time)) => config.retention_ms = Some(millis(time)),
    }
    match create.retention_bytes {
        None => {}
        Some(Limit::None) => config.retention_bytes = None,
        Some(Limit::Some(size)) => config.retention_bytes = Some(size.bytes()),
    }
    if let Some(durability) = create.durability {
        config.durability = durability.into();
    }
    if let Some(window) = create.dedup_window {
        // The server names what is legal.
        config.dedup_window_ms = u32::try_from(window.as_millis()).unwrap_or(u32::MAX);
    }
    if let Some(delay) = create.max_delay {
        config.max_delay_ms = u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
    }
    if let Some(size) = create.segment_bytes {
        config.segment_bytes = size.bytes();
    }
    if let Some(size) = create.record_bytes_max {
        let too_large = |_| Failure::usage(format!("--record-bytes-max {size} is too large: 8 MiB at most"));
        config.record_bytes_max = u32::try_from(size.bytes()).map_err(too_large)?;
    }
    Ok(config)
}

fn compaction(create: &StreamCreate) -> Result<Compaction, Failure> {
    if create.interest {
        let text = "a compacted stream keeps the latest record of each key for those who come later: leave out --interest, \
                    or --cleanup compact";
        return Err(Failure::usage(text));
    }
    if matches!(create.retention, Some(Limit::Some(_))) || matches!(create.retention_bytes, Some(Limit::Some(_))) {
        let text = "a compacted stream keeps the latest record of each key for ever: leave out --retention and \
                    --retention-bytes, or --cleanup compact";
        return Err(Failure::usage(text));
    }
    let default = Compaction::default();
    Ok(Compaction {
        delete_retention_ms: create.delete_retention.map_or(default.delete_retention_ms, millis),
        min_compaction_lag_ms: create.min_compaction_lag.map_or(default.min_compaction_lag_ms, millis),
    })
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

async fn list(session: &Session, output: Output) -> Result<(), Failure> {
    let streams = session.client.list_streams().await.map_err(|error| session.failure(&error))?;
    if streams.is_empty() && !output.json {
        output.note("no streams yet: `millstream stream create NAME`, or produce to one");
        return Ok(());
    }
    let views: Vec<SummaryView<'_>> = streams.iter().map(SummaryView::from).collect();
    output.result(&views, |paint| {
        let mut table = Table::new(&[
            ("STREAM", Align::Left),
            ("PARTITIONS", Align::Right),
            ("RECORDS", Align::Right),
            ("SIZE", Align::Right),
            ("DURABILITY", Align::Left),
        ]);
        for stream in &streams {
            table.row([
                stream.name.clone(),
                stream.partitions.to_string(),
                count(stream.records),
                ByteSize(stream.bytes).to_string(),
                durability(stream.durability).into(),
            ]);
        }
        table.render(paint)
    })
}

async fn describe(session: &Session, name: &str, output: Output) -> Result<(), Failure> {
    let info = match session.client.describe_stream(name).await {
        Ok(info) => info,
        Err(error) => return Err(session.stream_failure(name, &error).await),
    };
    output.result(&StreamView::from(&info), |paint| description(&info, paint))
}

fn description(info: &StreamInfo, paint: Paint) -> String {
    let config = &info.config;
    let forever = || "forever".to_owned();
    let records: u64 = info.partitions.iter().map(|p| p.high_watermark.saturating_sub(p.log_start)).sum();
    let head = facts(
        paint,
        &[
            ("stream", info.name.clone()),
            ("id", info.id.to_string()),
            ("created", rfc3339(Timestamp(info.created_ms))),
            ("durability", durability(config.durability).into()),
            ("cleanup", cleanup(config.cleanup)),
            ("interest", interest(config.interest).into()),
            ("retention", config.retention_ms.map_or_else(forever, |ms| span(Duration::from_millis(ms)))),
            ("retention bytes", config.retention_bytes.map_or("unlimited".into(), |n| ByteSize(n).to_string())),
            ("dedup window", span(Duration::from_millis(u64::from(config.dedup_window_ms)))),
            ("longest delay", span(Duration::from_millis(u64::from(config.max_delay_ms)))),
            ("segment bytes", ByteSize(config.segment_bytes).to_string()),
            ("largest record", ByteSize(u64::from(config.record_bytes_max)).to_string()),
            ("records", count(records)),
        ],
    );
    let mut table = Table::new(&[
        ("PARTITION", Align::Right),
        ("FIRST OFFSET", Align::Right),
        ("NEXT OFFSET", Align::Right),
        ("SIZE", Align::Right),
        ("EPOCH", Align::Right),
        ("STATE", Align::Left),
    ]);
    for partition in &info.partitions {
        table.row([
            partition.partition.to_string(),
            count(partition.log_start),
            count(partition.high_watermark),
            ByteSize(partition.bytes).to_string(),
            partition.epoch.to_string(),
            state(partition.state).into(),
        ]);
    }
    format!("{head}\n\n{}", table.render(paint))
}

/// On a terminal it asks; a script that names the stream means it.
async fn delete(session: &Session, name: &str, yes: bool, output: Output) -> Result<(), Failure> {
    if !yes && can_ask() {
        let info = match session.client.describe_stream(name).await {
            Ok(info) => info,
            Err(error) => return Err(session.stream_failure(name, &error).await),
        };
        let records: u64 = info.partitions.iter().map(|p| p.high_watermark.saturating_sub(p.log_start)).sum();
        confirm(&format!("Delete stream '{name}' and its {}? [y/N] ", counted(records, "record")))?;
    }
    if let Err(error) = session.client.delete_stream(name).await {
        return Err(session.stream_failure(name, &error).await);
    }
    output.result(&serde_json::json!({ "deleted": name }), |_| format!("deleted stream '{name}'"))
}

async fn delete_before(
    session: &Session,
    name: &str,
    partition: PartitionId,
    offset: Offset,
    output: Output,
) -> Result<(), Failure> {
    let log_start = match session.client.delete_before(name, partition, offset).await {
        Ok(log_start) => log_start,
        Err(error) => return Err(session.stream_failure(name, &error).await),
    };
    let view = serde_json::json!({ "stream": name, "partition": partition.0, "log_start": log_start.0 });
    output.result(&view, |_| format!("partition {partition} of '{name}' now begins at offset {}", count(log_start.0)))
}

fn cleanup(cleanup: Cleanup) -> String {
    match cleanup {
        Cleanup::Delete => "delete".to_owned(),
        Cleanup::Compact(Compaction { delete_retention_ms, min_compaction_lag_ms }) => format!(
            "compact: tombstones stay {}, every record {} at least",
            span(Duration::from_millis(delete_retention_ms)),
            span(Duration::from_millis(min_compaction_lag_ms))
        ),
    }
}

fn interest(interest: bool) -> &'static str {
    match interest {
        true => "yes: records go after consumption",
        false => "no",
    }
}

fn durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Synced => "synced",
        Durability::Written => "written",
    }
}

fn state(state: PartitionState) -> &'static str {
    match state {
        PartitionState::Online => "online",
        PartitionState::ReadOnly => "read-only",
        PartitionState::Offline => "offline",
    }
}

#[derive(Serialize)]
struct SummaryView<'a> {
    id: u64,
    name: &'a str,
    partitions: u32,
    durability: &'static str,
    records: u64,
    bytes: u64,
}

impl<'a> From<&'a StreamSummary> for SummaryView<'a> {
    fn from(stream: &'a StreamSummary) -> Self {
        Self {
            id: stream.id,
            name: &stream.name,
            partitions: stream.partitions,
            durability: durability(stream.durability),
            records: stream.records,
            bytes: stream.bytes,
        }
    }
}

#[derive(Serialize)]
struct StreamView<'a> {
    id: u64,
    name: &'a str,
    created_ms: i64,
    durability: &'static str,
    cleanup: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_retention_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_compaction_lag_ms: Option<u64>,
    interest: bool,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
    dedup_window_ms: u32,
    max_delay_ms: u32,
    segment_bytes: u64,
    record_bytes_max: u32,
    records: u64,
    bytes: u64,
    partitions: Vec<PartitionView<'a>>,
}

#[derive(Serialize)]
struct PartitionView<'a> {
    partition: u32,
    log_start: u64,
    high_watermark: u64,
    bytes: u64,
    epoch: u32,
    state: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    owner: &'a str,
}

impl<'a> From<&'a StreamInfo> for StreamView<'a> {
    fn from(info: &'a StreamInfo) -> Self {
        let records = |p: &PartitionInfo| p.high_watermark.saturating_sub(p.log_start);
        let compaction = match info.config.cleanup {
            Cleanup::Delete => None,
            Cleanup::Compact(compaction) => Some(compaction),
        };
        Self {
            id: info.id,
            name: &info.name,
            created_ms: info.created_ms,
            durability: durability(info.config.durability),
            cleanup: if compaction.is_some() { "compact" } else { "delete" },
            delete_retention_ms: compaction.map(|compaction| compaction.delete_retention_ms),
            min_compaction_lag_ms: compaction.map(|compaction| compaction.min_compaction_lag_ms),
            interest: info.config.interest,
            retention_ms: info.config.retention_ms,
            retention_bytes: info.config.retention_bytes,
            dedup_window_ms: info.config.dedup_window_ms,
            max_delay_ms: info.config.max_delay_ms,
            segment_bytes: info.config.segment_bytes,
            record_bytes_max: info.config.record_bytes_max,
            records: info.partitions.iter().map(records).sum(),
            bytes: info.partitions.iter().map(|p| p.bytes).sum(),
            partitions: info.partitions.iter().map(PartitionView::from).collect(),
        }
    }
}

impl<'a> From<&'a PartitionInfo> for PartitionView<'a> {
    fn from(partition: &'a PartitionInfo) -> Self {
        Self {
            partition: partition.partition,
            log_start: partition.log_start,
            high_watermark: partition.high_watermark,
            bytes: partition.bytes,
            epoch: partition.epoch,
            state: state(partition.state),
            owner: &partition.owner,
        }
    }
}
