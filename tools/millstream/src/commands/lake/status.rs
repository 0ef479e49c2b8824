//! `millstream lake status`, once or again and again.

use std::time::Duration;

use millstream_protocol::Timestamp;
use millstream_protocol::frame::control::LakeStatus;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};

use super::super::Session;
use super::pace::{Outlook, Pace, Progress};
use super::view::{StatusView, delivery, files, freshness_ms, place, waiting};
use crate::cli::lake;
use crate::exit::Failure;
use crate::output::{Align, Output, Paint, Table, bytes, count, counted, facts, printable, three_digits};
use crate::time::{now, rfc3339, span};

/// Each look is a request to the server.
const WATCH_MIN: Duration = Duration::from_millis(100);

/// Refuses an interval that would only load the server.
pub(super) fn check_interval(watch: Option<Duration>) -> Result<(), Failure> {
    match watch {
        Some(interval) if interval < WATCH_MIN => {
            let text = format!("--watch {} is too often: {} at least", span(interval), span(WATCH_MIN));
            Err(Failure::usage(text))
        }
        _ => Ok(()),
    }
}

/// Shows it.
pub(super) async fn run(session: &Session, command: &lake::LakeStatus, output: Output) -> Result<(), Failure> {
    match command.watch {
        Some(interval) => watch(session, &command.name, interval, output).await,
        None => {
            let status = ask(session, &command.name).await?;
            let now = now();
            output.result(&StatusView::new(&status, now), |paint| description(&status, now, paint))
        }
    }
}

async fn ask(session: &Session, name: &str) -> Result<LakeStatus, Failure> {
    match session.client.lake_status(name).await {
        Ok(status) => Ok(status),
        Err(error) => Err(session.lake_failure(name, &error).await),
    }
}

/// A line per interval, until Ctrl-C.
async fn watch(session: &Session, name: &str, interval: Duration, output: Output) -> Result<(), Failure> {
    let started = Instant::now();
    let mut pace = Pace::default();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let live = output.live_line();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let status = tokio::select! {
            _ = &mut interrupted => break,
            status = async {
                ticks.tick().await;
                ask(session, name).await
            } => status?,
        };
        let sum = |of: fn(&millstream_protocol::frame::control::LakePartition) -> u64| {
            status.partitions.iter().map(of).sum::<u64>()
        };
        let progress =
            pace.step(started.elapsed(), sum(|p| p.landed_end), sum(|p| p.read_end), sum(|p| p.high_watermark));
        let view = WatchView::new(&status, &progress, now());
        match &live {
            Some(live) => live.set_message(line(&view, output.out)),
            None => output.result(&view, |paint| line(&view, paint))?,
        }
    }
    if let Some(live) = live {
        live.abandon();
    }
    Ok(())
}

#[derive(Serialize)]
struct WatchView<'a> {
    time_ms: i64,
    rows: u64,
    files: u64,
    rejected: u64,
    landed_per_second: f64,
    read_per_second: f64,
    produced_per_second: f64,
    waiting: u64,
    unread: u64,
    oldest_waiting_ms: u64,
    freshness_ms: Option<u64>,
    caught_up_in_ms: Option<u64>,
    #[serde(skip)]
    outlook: Outlook,
    error: Option<&'a str>,
}

impl<'a> WatchView<'a> {
    fn new(status: &'a LakeStatus, progress: &Progress, now: Timestamp) -> Self {
        let caught_up_in_ms = match progress.outlook {
            Outlook::CaughtUp => Some(0),
            Outlook::In(left) => Some(ms(left)),
            Outlook::Never | Outlook::Unknown => None,
        };
        Self {
            time_ms: now.0,
            rows: status.rows,
            files: status.files,
            rejected: status.rejected,
            landed_per_second: progress.landed_per_second,
            read_per_second: progress.read_per_second,
            produced_per_second: progress.produced_per_second,
            waiting: waiting(status),
            unread: progress.unread,
            oldest_waiting_ms: status.oldest_waiting_ms,
            freshness_ms: freshness_ms(status, now.0),
            caught_up_in_ms,
            outlook: progress.outlook,
            error: (!status.error.is_empty()).then_some(&status.error),
        }
    }
}

fn line(view: &WatchView<'_>, paint: Paint) -> String {
    let time = rfc3339(Timestamp(view.time_ms));
    let clock = time.get(11..19).unwrap_or_default().to_owned();
    let mut parts = vec![
        paint.dim(&clock),
        format!("{} landed", counted(view.rows, "row")),
        format!("{}/s", paint.cyan(&three_digits(view.landed_per_second))),
        format!("lag {} ({})", counted(view.waiting, "record"), seconds(view.oldest_waiting_ms)),
    ];
    match view.outlook {
        Outlook::Unknown => {}
        Outlook::CaughtUp if view.waiting > 0 => parts.push("all read, the rest is in open files".to_owned()),
        Outlook::CaughtUp => parts.push(paint.green("caught up")),
        Outlook::In(left) => {
            let rate = paint.cyan(&three_digits(view.read_per_second));
            parts.push(format!("reading {rate}/s, caught up in about {}", roughly(ms(left))));
        }
        Outlook::Never => parts.push(paint.yellow("not catching up")),
    }
    if view.rejected > 0 {
        parts.push(paint.yellow(&format!("{} rejected", count(view.rejected))));
    }
    if let Some(error) = view.error {
        // In place there is one line.
        parts.push(paint.red(&printable(&error.replace('\n', " "))));
    }
    parts.join("  ")
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A time to come, without digits that nobody can know.
fn roughly(left_ms: u64) -> String {
    let step = match left_ms {
        0..120_000 => 1_000,
        120_000..7_200_000 => 60_000,
        _ => 3_600_000,
    };
    span(Duration::from_millis(left_ms.div_ceil(step) * step))
}

fn seconds(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{:.1} s", ms as f64 / 1e3),
        _ => span(Duration::from_secs(ms / 1_000)),
    }
}

fn description(status: &LakeStatus, now: Timestamp, paint: Paint) -> String {
    let config = &status.config;
    let lag = match waiting(status) {
        0 => "none: all has landed".to_owned(),
        waiting => format!("{}, the oldest for {}", counted(waiting, "record"), seconds(status.oldest_waiting_ms)),
    };
    let freshness = match freshness_ms(status, now.0) {
        Some(age) => format!("the newest landed record is {} old", seconds(age)),
        None => "nothing has landed since the server's start".to_owned(),
    };
    let open = format!("{}, {} in them", counted(status.open_files.into(), "file"), counted(status.open_rows, "row"));
    let mut facts_of = vec![
        ("lake", config.name.clone()),
        ("stream", config.stream.clone()),
        ("url", place(&config.url, &config.layout)),
        ("format", files(config)),
        ("delivery", delivery(config.delivery).into()),
        ("rolls at", super::rolls(config)),
        ("lag", lag),
        ("freshness", freshness),
        ("files", format!("{}, {}", count(status.files), bytes(status.bytes))),
        ("rows", count(status.rows)),
        ("rejected", rejected(status)),
        ("open", open),
    ];
    if status.lost > 0 {
        facts_of.push(("lost", format!("{} that the log no longer had", counted(status.lost, "offset"))));
    }
    if !status.error.is_empty() {
        facts_of.push(("held up by", status.error.clone()));
    }
    // What holds it up now is not said twice.
    if !status.last_error.is_empty() && status.last_error != status.error {
        let when = rfc3339(Timestamp(status.last_error_ms));
        facts_of.push(("last error", format!("{} (at {when})", status.last_error)));
    }
    let mut table = Table::new(&[
        ("PARTITION", Align::Right),
        ("LANDED UP TO", Align::Right),
        ("READ UP TO", Align::Right),
        ("HIGH WATERMARK", Align::Right),
        ("WAITING", Align::Right),
    ]);
    for partition in &status.partitions {
        table.row([
            partition.partition.to_string(),
            count(partition.landed_end),
            count(partition.read_end),
            count(partition.high_watermark),
            count(partition.high_watermark.saturating_sub(partition.landed_end)),
        ]);
    }
    format!("{}\n\n{}", facts(paint, &facts_of), table.render(paint))
}

fn rejected(status: &LakeStatus) -> String {
    match status.rejected {
        0 => "0".to_owned(),
        n => format!("{}, in errors/: `millstream lake retry-errors {}` after a fix", count(n), status.config.name),
    }
}

#[cfg(test)]
mod tests {
    use millstream_protocol::frame::control::{LakeConfig, LakePartition};

    use super::*;

    fn status() -> LakeStatus {
        LakeStatus {
            config: LakeConfig::new("nyc", "flights", "s3://bucket/nyc"),
            partitions: vec![LakePartition { partition: 0, landed_end: 900, read_end: 950, high_watermark: 1_000 }],
            files: 3,
            rows: 898,
            bytes: 70_000,
            rejected: 2,
            lost: 0,
            open_rows: 50,
            open_files: 1,
            oldest_waiting_ms: 4_200,
            newest_landed_ms: 1_700_000_000_000,
            error: String::new(),
            last_error: "the store refuses".into(),
            last_error_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn a_status_says_lag_freshness_and_what_went_wrong() {
        let text = description(&status(), Timestamp(1_700_000_061_000), Paint::Plain);
        for part in [
            "lag        100 records, the oldest for 4.2 s",
            "freshness  the newest landed record is 1m1s old",
            "files      3, 70.0 kB",
            "rejected   2, in errors/: `millstream lake retry-errors nyc`",
            "open       1 file, 50 rows in them",
            "last error  the store refuses (at 2023-11-14T22:13:20.000Z)",
        ] {
            let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(squeezed(&text).contains(&squeezed(part)), "{part:?} is not in {text}");
        }
        assert!(!text.contains("held up by"));
        let held = LakeStatus { error: "the store refuses".into(), ..status() };
        let text = description(&held, Timestamp(0), Paint::Plain);
        assert!(text.contains("held up by") && !text.contains("last error"), "{text}");
    }

    #[test]
    fn a_watched_line_says_when_it_has_caught_up() {
        let mut pace = Pace::default();
        pace.step(Duration::ZERO, 0, 0, 1_000);
        let progress = pace.step(Duration::from_secs(1), 100, 100, 1_000);
        let status = status();
        let view = WatchView::new(&status, &progress, Timestamp(1_700_000_000_000));
        let all_read = WatchView { outlook: Outlook::CaughtUp, ..WatchView::new(&status, &progress, Timestamp(0)) };
        assert!(line(&all_read, Paint::Plain).contains("lag 100 records (4.2 s)  all read, the rest is in open files"));
        assert_eq!(
            line(&view, Paint::Plain),
            "22:13:20  898 rows landed  100/s  lag 100 records (4.2 s)  reading 100/s, caught up in about 9s  2 rejected"
        );
    }

    #[test]
    fn an_interval_that_only_loads_the_server_is_refused() {
        assert!(check_interval(Some(Duration::ZERO)).is_err());
        assert!(check_interval(Some(WATCH_MIN)).is_ok() && check_interval(None).is_ok());
        assert_eq!([1, 119_001, 121_000, 7_200_001].map(roughly), ["1s", "2m", "3m", "3h"]);
    }
}
