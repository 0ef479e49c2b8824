//! `millstream dlq …`: dead letters, as who has to decide about them wants to see them.

use std::collections::BTreeMap;
use std::io::Write;

use millstream_client::{ConsumedRecord, Start};
use millstream_protocol::{PartitionId, Record, Timestamp};
use serde::Serialize;

use super::consume::render::{self, Placed};
use super::queue::failure;
use super::{Session, legal_name};
use crate::cli::dlq::{Dlq, DlqShow};
use crate::context::ServerFlags;
use crate::exit::Failure;
use crate::output::{Align, Output, Table, count, counted};
use crate::time::rfc3339;

/// Runs one of them.
///
/// # Errors
/// What the server says, or that it cannot be reached.
pub async fn run(command: Dlq, server: &ServerFlags, output: Output) -> Result<(), Failure> {
    Session::with(server, async |session| match command {
        Dlq::List => list(session, output).await,
        Dlq::Show(command) => show(session, &command, output).await,
    })
    .await
}

#[derive(Serialize)]
struct Line {
    queue: String,
    stream: String,
    dead_letter: String,
    /// Letters stored, those that came back included.
    dead: u64,
    /// On their way there.
    dying: u64,
    /// They stand in the queue instead.
    parked: u64,
}

async fn list(session: &Session, output: Output) -> Result<(), Failure> {
    let mut lines = Vec::new();
    for queue in session.client.list_queues().await.map_err(|error| session.failure(&error))? {
        let Some(dead_letter) = queue.dead_letter else { continue };
        let info = match session.client.describe_queue(&queue.name).await {
            Ok(info) => info,
            Err(error) => return Err(failure(session, &queue.name, &error).await),
        };
        let (dead, dying, parked) = (info.total.dead, info.total.dying, info.total.parked);
        lines.push(Line { queue: queue.name, stream: queue.stream, dead_letter, dead, dying, parked });
    }
    if lines.is_empty() && !output.json {
        output.note("no queue has a dead-letter stream: `millstream queue create NAME --dead-letter STREAM`");
        return Ok(());
    }
    output.result(&lines, |paint| {
        let mut table = Table::new(&[
            ("QUEUE", Align::Left),
            ("STREAM", Align::Left),
            ("DEAD LETTERS", Align::Left),
            ("DEAD", Align::Right),
            ("ON THEIR WAY", Align::Right),
            ("PARKED", Align::Right),
        ]);
        for Line { queue, stream, dead_letter, dead, dying, parked } in &lines {
            let names = [queue, stream, dead_letter].map(Clone::clone);
            table.row(names.into_iter().chain([dead, dying, parked].map(|number| count(*number))));
        }
        table.render(paint)
    })
}

async fn show(session: &Session, command: &DlqShow, output: Output) -> Result<(), Failure> {
    let DlqShow { name, count: most, reason } = command;
    legal_name("queue", name)?;
    let info = match session.client.describe_queue(name).await {
        Ok(info) => info,
        Err(error) => return Err(failure(session, name, &error).await),
    };
    let Some(stream) = info.config.dead_letter else {
        return Err(Failure::usage(format!("queue '{name}' has no dead-letter stream: nothing of it dies"))
            .or_try(format!("millstream queue update {name} --dead-letter STREAM")));
    };
    let mut consumer = (session.client.consumer(&*stream).start(Start::Earliest).bounded().build().await)
        .map_err(|error| session.failure(&error))?;
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    let mut letters: BTreeMap<PartitionId, Vec<ConsumedRecord>> = BTreeMap::new();
    while let Some(item) = consumer.next().await {
        let letter = item.map_err(|error| session.failure(&error))?;
        if said(&letter.record, "ms-dl-queue") != *name {
            continue;
        }
        let why = said(&letter.record, "ms-dl-reason");
        if reason.as_ref().is_some_and(|wanted| *wanted != why) {
            continue;
        }
        *reasons.entry(why).or_default() += 1;
        let shown = letters.entry(letter.partition).or_default();
        if shown.len() < *most {
            shown.push(letter);
        }
    }
    let letters = letters.into_values().flatten();
    if output.json {
        let mut out = std::io::stdout().lock();
        for letter in letters {
            out.write_all(&line(&stream, &letter))?;
        }
        out.flush()?;
        return Ok(());
    }
    if reasons.is_empty() {
        output.note(&format!("'{stream}' holds no such letter of queue '{name}'"));
        return Ok(());
    }
    let mut table = Table::new(&[
        ("LETTER", Align::Left),
        ("MESSAGE", Align::Left),
        ("REASON", Align::Left),
        ("RECEIVES", Align::Right),
        ("FIRST", Align::Left),
        ("LAST", Align::Left),
        ("ERROR", Align::Left),
    ]);
    for letter in letters {
        let said = |name| said(&letter.record, name);
        let time = |name| said(name).parse().map_or_else(|_| String::new(), |ms: i64| at(Timestamp(ms)));
        table.row([
            format!("{}:{}", letter.partition, letter.offset),
            format!("{}:{}", said("ms-dl-partition"), said("ms-dl-offset")),
            said("ms-dl-reason"),
            said("ms-dl-receives"),
            time("ms-dl-first"),
            time("ms-dl-last"),
            said("ms-dl-error"),
        ]);
    }
    let all = reasons.values().sum();
    let by_reason: Vec<String> =
        reasons.iter().map(|(reason, number)| format!("{reason} {}", count(*number))).collect();
    output.line(&table.render(output.out))?;
    output.line(&format!("{} of queue '{name}' in '{stream}': {}", counted(all, "letter"), by_reason.join(", ")))
}

/// 0: there was none.
fn at(time: Timestamp) -> String {
    if time.0 == 0 { "-".to_owned() } else { rfc3339(time).to_string() }
}

/// What a header says; nothing, if there is none.
fn said(record: &Record, name: &str) -> String {
    let header = record.headers.iter().rfind(|header| &*header.name == name);
    header
        .and_then(|header| header.value.as_deref())
        .map_or_else(String::new, |value| String::from_utf8_lossy(value).into_owned())
}

/// A letter as a line of JSON: what it says of its message, and the record with all its headers.
fn line(stream: &str, letter: &ConsumedRecord) -> Vec<u8> {
    let record = &letter.record;
    let number = |name| said(record, name).parse::<u64>().unwrap_or_default();
    let origin = serde_json::json!({
        "queue": said(record, "ms-dl-queue"),
        "reason": said(record, "ms-dl-reason"),
        "error": said(record, "ms-dl-error"),
        "receives": number("ms-dl-receives"),
        "from": {
            "stream": said(record, "ms-dl-stream"),
            "partition": number("ms-dl-partition"),
            "offset": number("ms-dl-offset"),
        },
    });
    let (partition, offset, append_time) = (letter.partition, letter.offset, letter.append_time);
    let placed = Placed { stream: Some(stream), partition, offset, append_time, record };
    let mut origin = origin.to_string();
    origin.pop();
    render::json_behind(origin, &placed)
}
