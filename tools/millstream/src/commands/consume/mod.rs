//! `millstream consume`: a stream's records on stdout, a line each. `group`: as a member of a group.

mod group;
pub(super) mod render;

use std::io::{self, Write};

use futures::FutureExt;
use millstream_client::{Client, Consumer, Error, Start};
use millstream_protocol::{Code, Offset, PartitionId, Timestamp};

use self::render::Placed;
use super::{Session, legal_name};
use crate::cli::{Begin, Consume, RecordFormat};
use crate::context::ServerFlags;
use crate::exit::Failure;
use crate::output::{Output, count, counted};
use crate::time;

/// Lines are collected up to this size before they are written, while more records are at hand.
const BUFFER_BYTES: usize = 128 << 10;

/// Prints records.
///
/// # Errors
/// What the server or client says; a reader of stdout that goes away ends it quietly.
pub async fn run(command: Consume, server: &ServerFlags, output: Output) -> Result<(), Failure> {
    let streams: Vec<&str> = command.stream.iter().chain(&command.group.streams).map(String::as_str).collect();
    for stream in &streams {
        legal_name("stream", stream)?;
    }
    match (&command.group.group, streams.as_slice()) {
        (Some(group), streams) => {
            legal_name("group", group)?;
            Session::with(server, async |session| group::run(session, group, streams, &command, output).await).await
        }
        (None, [stream]) => {
            Session::with(server, async |session| consume(session, stream, &command, output).await).await
        }
        (None, _) => Err(Failure::usage("several streams are for a group's members: name one, or add --group NAME")),
    }
}

async fn consume(session: &Session, stream: &str, command: &Consume, output: Output) -> Result<(), Failure> {
    let mut consumer = match open(&session.client, stream, command).await {
        Ok(consumer) => consumer,
        Err(error) => return Err(session.stream_failure(stream, &error).await),
    };
    let wanted = command.count.unwrap_or(u64::MAX);
    let mut lines = Lines { format: command.format, buffer: Vec::new(), out: io::stdout() };
    let mut printed = 0;
    let mut lost = None;
    while printed < wanted {
        let next = match consumer.next().now_or_never() {
            Some(next) => next,
            // Nothing at hand: what is there is shown before waiting.
            None => {
                lines.flush()?;
                consumer.next().await
            }
        };
        match next {
            None => break,
            Some(Ok(record)) => {
                let placed = Placed {
                    stream: None,
                    partition: record.partition,
                    offset: record.offset,
                    append_time: record.append_time,
                    record: &record.record,
                };
                lines.push(&placed)?;
                printed += 1;
            }
            // Records are missing, but reading goes on behind them.
            Some(Err(error)) if error.gap().is_some() => {
                lines.flush()?;
                output.warn(&error.to_string());
                lost.get_or_insert(error);
            }
            Some(Err(error)) => {
                lines.flush()?;
                return Err(session.stream_failure(stream, &error).await);
            }
        }
    }
    lines.flush()?;
    if command.count.is_some_and(|wanted| printed < wanted) {
        let text = format!(
            "{} of {}: the stream has no more for now; --follow waits",
            counted(printed, "record"),
            count(wanted)
        );
        output.note(&text);
    }
    match lost {
        Some(error) if error.code() == Code::RecordsLost => {
            Err(session.failure(&error).or_try("millstream verify, with the server stopped"))
        }
        _ => Ok(()),
    }
}

async fn open(client: &Client, stream: &str, command: &Consume) -> Result<Consumer, Error> {
    let builder = client.consumer(stream).start(start(command.from));
    let builder = if command.follow { builder.follow() } else { builder.bounded() };
    let builder = if command.partition.is_empty() {
        builder
    } else {
        builder.partitions(command.partition.iter().copied().map(PartitionId))
    };
    builder.build().await
}

fn start(from: Begin) -> Start {
    match from {
        Begin::Earliest => Start::Earliest,
        Begin::Latest => Start::Latest,
        Begin::Offset(offset) => Start::Offset(Offset(offset)),
        Begin::Time(time) => Start::Time(time),
        Begin::Ago(span) => {
            let ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
            Start::Time(Timestamp(time::now().0.saturating_sub(ms)))
        }
    }
}

struct Lines<W> {
    format: RecordFormat,
    buffer: Vec<u8>,
    out: W,
}

impl<W: Write> Lines<W> {
    fn push(&mut self, placed: &Placed<'_>) -> io::Result<()> {
        match self.format {
            RecordFormat::Json => render::json(placed, &mut self.buffer),
            RecordFormat::Value => render::value(placed, &mut self.buffer),
        }
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        self.out.flush()
    }
}
