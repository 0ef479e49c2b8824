//! `millstream lake add | list | status | flush | remove`.

use std::path::Path;
use std::time::Duration;

use millstream_protocol::frame::control::{LakeConfig, LakeFormat, LakePartition, LakeStatus};
use millstream_protocol::{ByteSize, Code};
use serde::Serialize;
use url::Url;

use super::{Session, legal_name};
use crate::cli::{Lake, LakeAdd};
use crate::context::ServerFlags;
use crate::exit::Failure;
use crate::output::{Align, Output, Paint, Table, count, counted, facts};
use crate::time::span;

/// Runs one of them.
///
/// # Errors
/// What the server says, or that it cannot be reached.
pub async fn run(command: Lake, server: &ServerFlags, output: Output) -> Result<(), Failure> {
    if let Lake::Add(LakeAdd { name, .. }) | Lake::Status { name } | Lake::Flush { name, .. } | Lake::Remove { name } =
        &command
    {
        legal_name("lake", name)?;
    }
    if let Lake::Add(LakeAdd { stream, .. }) = &command {
        legal_name("stream", stream)?;
    }
    Session::with(server, async |session| match command {
        Lake::Add(add) => add_lake(session, add, output).await,
        Lake::List => list(session, output).await,
        Lake::Status { name } => status(session, &name, output).await,
        Lake::Flush { name, timeout } => flush(session, &name, timeout, output).await,
        Lake::Remove { name } => remove(session, &name, output).await,
    })
    .await
}

async fn add_lake(session: &Session, add: LakeAdd, output: Output) -> Result<(), Failure> {
    let config = LakeConfig {
        name: add.name,
        stream: add.stream,
        url: lake_url(&add.url)?,
        format: add.format.into(),
        roll_bytes: add.roll_size.bytes(),
        roll_age_ms: u64::try_from(add.roll_age.as_millis()).unwrap_or(u64::MAX),
    };
    let added = match session.client.create_lake(config.clone()).await {
        Ok(added) => added,
        Err(error) => {
            let failure = session.stream_failure(&config.stream, &error).await;
            return Err(match error.code() {
                Code::LakeExists => failure.or_try(format!("millstream lake status {}", config.name)),
                Code::IllegalLake => failure.or_try("--url with a directory that the server may write"),
                _ => failure,
            });
        }
    };
    output.result(&LakeView::from(&added), |_| {
        format!("stream '{}' lands as {} in {} (lake '{}')", added.stream, format(added.format), added.url, added.name)
    })
}

/// A URL as it is; a path as the `file:///` URL of its absolute form.
pub(super) fn lake_url(text: &str) -> Result<String, Failure> {
    let is_url = text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.len() > 1 && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    });
    if is_url {
        return Ok(text.to_owned());
    }
    let absolute = std::path::absolute(Path::new(text));
    let absolute = absolute.map_err(|error| Failure::usage(format!("--url '{text}' is no path: {error}")))?;
    let url = Url::from_file_path(&absolute);
    url.map(String::from).map_err(|()| Failure::usage(format!("--url '{text}' is no path that a URL can hold")))
}

async fn list(session: &Session, output: Output) -> Result<(), Failure> {
    let lakes = session.client.list_lakes().await.map_err(|error| session.failure(&error))?;
    if lakes.is_empty() && !output.json {
        output.note("no lakes yet: `millstream lake add NAME --stream STREAM --url ./DIR`");
        return Ok(());
    }
    let views: Vec<LakeView<'_>> = lakes.iter().map(LakeView::from).collect();
    output.result(&views, |paint| {
        let mut table = Table::new(&[
            ("LAKE", Align::Left),
            ("STREAM", Align::Left),
            ("FORMAT", Align::Left),
            ("ROLLS AT", Align::Left),
            ("URL", Align::Left),
        ]);
        for lake in &lakes {
            let rolls = format!("{} or {}", ByteSize(lake.roll_bytes), span(Duration::from_millis(lake.roll_age_ms)));
            table.row([lake.name.clone(), lake.stream.clone(), format(lake.format).into(), rolls, lake.url.clone()]);
        }
        table.render(paint)
    })
}

async fn status(session: &Session, name: &str, output: Output) -> Result<(), Failure> {
    let status = match session.client.lake_status(name).await {
        Ok(status) => status,
        Err(error) => return Err(session.lake_failure(name, &error).await),
    };
    output.result(&StatusView::from(&status), |paint| description(&status, paint))
}

async fn flush(session: &Session, name: &str, timeout: Duration, output: Output) -> Result<(), Failure> {
    let status = match session.client.flush_lake(name, timeout).await {
        Ok(status) => status,
        Err(error) => {
            let failure = session.lake_failure(name, &error).await;
            return Err(match error.code() {
                Code::TimedOut => failure.or_try(format!("millstream lake status {name}")),
                _ => failure,
            });
        }
    };
    output.result(&StatusView::from(&status), |_| {
        let rejected = match status.rejected {
            0 => String::new(),
            n => format!(", {} rejected (see errors/ there)", counted(n, "record")),
        };
        format!(
            "all landed: {} in {}{rejected}, under {}",
            counted(status.rows, "row"),
            counted(status.files, "file"),
            status.config.url
        )
    })
}

async fn remove(session: &Session, name: &str, output: Output) -> Result<(), Failure> {
    if let Err(error) = session.client.remove_lake(name).await {
        return Err(session.lake_failure(name, &error).await);
    }
    output.result(&serde_json::json!({ "removed": name }), |_| format!("removed lake '{name}'; its files stay"))
}

fn description(status: &LakeStatus, paint: Paint) -> String {
    let config = &status.config;
    let mut facts_of = vec![
        ("lake", config.name.clone()),
        ("stream", config.stream.clone()),
        ("url", config.url.clone()),
        ("format", format(config.format).into()),
        ("files", count(status.files)),
        ("rows", count(status.rows)),
        ("rejected", count(status.rejected)),
        ("waiting", counted(waiting(status), "record")),
        ("oldest waiting", span(Duration::from_millis(status.oldest_waiting_ms))),
    ];
    if !status.error.is_empty() {
        facts_of.push(("held up by", status.error.clone()));
    }
    let mut table = Table::new(&[
        ("PARTITION", Align::Right),
        ("LANDED UP TO", Align::Right),
        ("HIGH WATERMARK", Align::Right),
        ("WAITING", Align::Right),
    ]);
    for partition in &status.partitions {
        table.row([
            partition.partition.to_string(),
            count(partition.landed_end),
            count(partition.high_watermark),
            count(lag(partition)),
        ]);
    }
    format!("{}\n\n{}", facts(paint, &facts_of), table.render(paint))
}

fn lag(partition: &LakePartition) -> u64 {
    partition.high_watermark.saturating_sub(partition.landed_end)
}

fn waiting(status: &LakeStatus) -> u64 {
    status.partitions.iter().map(lag).sum()
}

fn format(format: LakeFormat) -> &'static str {
    match format {
        LakeFormat::Parquet => "parquet",
        LakeFormat::Ndjson => "ndjson",
    }
}

#[derive(Serialize)]
struct LakeView<'a> {
    name: &'a str,
    stream: &'a str,
    url: &'a str,
    format: &'static str,
    roll_bytes: u64,
    roll_age_ms: u64,
}

impl<'a> From<&'a LakeConfig> for LakeView<'a> {
    fn from(config: &'a LakeConfig) -> Self {
        Self {
            name: &config.name,
            stream: &config.stream,
            url: &config.url,
            format: format(config.format),
            roll_bytes: config.roll_bytes,
            roll_age_ms: config.roll_age_ms,
        }
    }
}

#[derive(Serialize)]
struct StatusView<'a> {
    #[serde(flatten)]
    lake: LakeView<'a>,
    files: u64,
    rows: u64,
    rejected: u64,
    waiting: u64,
    oldest_waiting_ms: u64,
    error: Option<&'a str>,
    partitions: Vec<PartitionView>,
}

#[derive(Serialize)]
struct PartitionView {
    partition: u32,
    landed_end: u64,
    high_watermark: u64,
}

impl<'a> From<&'a LakeStatus> for StatusView<'a> {
    fn from(status: &'a LakeStatus) -> Self {
        let partition = |p: &LakePartition| PartitionView {
            partition: p.partition,
            landed_end: p.landed_end,
            high_watermark: p.high_watermark,
        };
        Self {
            lake: LakeView::from(&status.config),
            files: status.files,
            rows: status.rows,
            rejected: status.rejected,
            waiting: waiting(status),
            oldest_waiting_ms: status.oldest_waiting_ms,
            error: (!status.error.is_empty()).then_some(&status.error),
            partitions: status.partitions.iter().map(partition).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_a_url_and_a_url_stays() {
        for url in ["file:///tmp/lake", "s3://bucket/prefix", "ftp://x"] {
            assert_eq!(lake_url(url), Ok(url.to_owned()));
        }
        assert_eq!(lake_url("/tmp/my lake"), Ok("file:///tmp/my%20lake".into()));
        let relative = lake_url("./lake").expect("a path");
        assert!(
            relative.starts_with("file:///") && relative.ends_with("/lake") && !relative.contains("./"),
            "{relative}"
        );
    }
}
