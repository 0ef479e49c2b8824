//! `millstream produce`: lines of a file or of stdin become records of a stream.
//!
//! ```text
//! reader thread: lines ─► parse ─► [channel] ─► pace ─► producer.enqueue ─► deliveries ─► acks: count, latency, first error
//! ```
//! Memory is bounded by the channel and the producer's buffer. While the server is away, the client reconnects and goes
//! on, up to the delivery timeout. Not here: batching, retries, partitioning (`millstream-client`).

pub(super) mod acks;
mod pace;
mod parse;
mod reader;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use millstream_client::{Dedup, Producer};
use millstream_protocol::Code;
use millstream_protocol::frame::control::{StreamConfig, StreamInfo};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::acks::{Acked, Acks};
use self::pace::Pace;
use self::parse::Rules;
use self::reader::{BadLine, Item, Reader};
use super::{Session, did_you_mean, legal_name, unknown_stream};
use crate::cli::{DedupChoice, InputFormat, OnError, Produce};
use crate::context::ServerFlags;
use crate::exit::{Exit, Failure};
use crate::input::Source;
use crate::nearest::nearest;
use crate::output::{self, Output, count, counted, per_second, three_digits};

/// How many skipped lines are named one by one.
const NAMED_MAX: u64 = 10;

/// What was done, whether or not all of it.
#[derive(Debug, Serialize)]
struct Summary {
    stream: String,
    /// Records acknowledged: they are stored, or (the duplicates) were stored before.
    records: u64,
    /// Those whose dedup ids were known: an earlier record of the id is stored.
    duplicates: u64,
    /// Bytes of their keys and values.
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
    bytes_per_second: f64,
    ack_p50_ms: f64,
    ack_p99_ms: f64,
    /// Lines that were no records.
    skipped: u64,
    /// Batches sent more than once, because the first answer did not come. With --no-idempotence their records may be
    /// stored twice.
    batches_resent: u64,
    /// Whether the whole input is stored, but for skipped lines.
    complete: bool,
}

/// Sends the input.
///
/// # Errors
/// Exit 10: a line that is no record, an unknown stream; 70: the input cannot be read; else what the server or client says.
pub async fn run(command: Produce, server: &ServerFlags, output: Output) -> Result<(), Failure> {
    legal_name("stream", &command.stream)?;
    if let Some(name) = &command.producer_name {
        legal_name("producer", name)?;
    }
    let source = Source::named(&command.file);
    check(&command, &source)?;
    if source == Source::Stdin && io::stdin().is_terminal() {
        output.note("reading lines from this terminal; Ctrl-D ends");
    }
    Session::with(server, async |session| produce(session, &command, &source, output).await).await
}

async fn produce(session: &Session, command: &Produce, source: &Source, output: Output) -> Result<(), Failure> {
    let info = find_or_create(session, command, output).await?;
    let mut builder = session.client.producer(&info.name);
    if let Some(compression) = command.compression {
        builder = builder.compression(compression.into());
    }
    if let Some(linger) = command.linger {
        builder = builder.linger(linger);
    }
    if let Some(timeout) = command.delivery_timeout {
        builder = builder.delivery_timeout(timeout);
    }
    if let Some(name) = &command.producer_name {
        builder = builder.name(name);
    }
    if let Some(DedupChoice::Content) = command.dedup {
        builder = builder.dedup(Dedup::Content);
    }
    builder = builder.idempotent(!command.no_idempotence);
    let producer = builder.build().await.map_err(|error| session.failure(&error))?;

    let consumed = Arc::<AtomicU64>::default();
    let bar = output.bar(source.length().map(|length| length.saturating_mul(command.repeat)));
    let items = Reader {
        source: source.clone(),
        rules: Rules {
            format: command.format,
            key: command.key.clone(),
            dedup_id: command.dedup_id.clone(),
            record_bytes_max: info.config.record_bytes_max as usize,
        },
        repeat: command.repeat,
        on_error: command.on_error,
        consumed: Arc::clone(&consumed),
    }
    .start();

    let started = Instant::now();
    let mut sending = Sending {
        source_name: source.name(),
        on_error: command.on_error,
        pace: command.rate.map(|rate| Pace::new(rate.0, started)),
        skipped: 0,
        acks: Acks::start(),
        bar,
        consumed,
        started,
        output,
    };
    let end = sending.run(&producer, items).await;
    // What went wrong, the deliveries say.
    let _ = producer.flush().await;
    let bar = sending.bar.clone();
    let skipped = sending.skipped;
    let acked = sending.acks.finish().await;
    let elapsed = started.elapsed();
    bar.finish_and_clear();

    let resent = producer.stats().batches_resent;
    let failure = match (&acked.error, end) {
        (Some(error), _) => Some(session.failure(error)),
        (None, End::Bad(bad)) => Some(bad_line(command, source, &bad, acked.records)),
        (None, End::Broken(reason)) => Some(Failure::local(reason)),
        (None, End::Signal(number)) => Some(Failure::new(Exit::Signal(number), "interrupted")),
        (None, End::Input | End::Failed) => None,
    };
    let summary = summary(&info.name, &acked, elapsed, skipped, resent, failure.is_none());
    output.result(&summary, |_| summary.for_people(!command.no_idempotence))?;
    match failure {
        Some(failure) => {
            let are = if acked.records == 1 { "is" } else { "are" };
            Err(failure.adding(&format!("{} {are} stored", counted(acked.records, "record"))))
        }
        None => Ok(()),
    }
}

fn check(command: &Produce, source: &Source) -> Result<(), Failure> {
    for (flag, field) in [("--key", &command.key), ("--dedup-id", &command.dedup_id)] {
        if field.is_some() && command.format == InputFormat::Lines {
            return Err(Failure::usage(format!("{flag} names a field of a JSON object: it goes with --format ndjson")));
        }
    }
    match source {
        Source::Stdin if command.repeat > 1 => Err(Failure::usage("--repeat cannot send stdin twice: name a file")),
        // Found out before a stream is made for it.
        Source::File(path) => match std::fs::metadata(path) {
            Ok(file) if file.is_dir() => Err(Failure::local(format!("{} is a directory: name a file", path.display()))),
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::local(format!("cannot read {}: {error}", path.display()))),
        },
        Source::Stdin => Ok(()),
    }
}

async fn find_or_create(session: &Session, command: &Produce, output: Output) -> Result<StreamInfo, Failure> {
    let name = &command.stream;
    let error = match session.client.describe_stream(name).await {
        Ok(info) => return Ok(info),
        Err(error) => error,
    };
    if error.code() != Code::UnknownStream {
        return Err(session.failure(&error));
    }
    let known = session.client.list_streams().await.unwrap_or_default();
    if command.no_create {
        return Err(unknown_stream(name, &known));
    }
    let created = session.client.create_stream_automatically(name, command.partitions, StreamConfig::default()).await;
    match created {
        Ok(info) => {
            let meant = nearest(name, known.iter().map(|stream| stream.name.as_str()));
            let partitions = counted(info.partitions.len() as u64, "partition");
            output.note(&format!("stream '{name}' was not there: created with {partitions}{}", did_you_mean(meant)));
            Ok(info)
        }
        // Somebody else was faster.
        Err(error) if error.code() == Code::StreamExists => {
            session.client.describe_stream(name).await.map_err(|error| session.failure(&error))
        }
        Err(error) => Err(session.failure(&error).or_try(format!("millstream stream create {name}"))),
    }
}

/// Why sending ended.
enum End {
    Input,
    Bad(BadLine),
    Broken(String),
    Signal(u8),
    /// A delivery failed: the acks know why.
    Failed,
}

struct Sending {
    source_name: String,
    on_error: OnError,
    pace: Option<Pace>,
    skipped: u64,
    acks: Acks,
    bar: ProgressBar,
    consumed: Arc<AtomicU64>,
    started: Instant,
    output: Output,
}

impl Sending {
    async fn run(&mut self, producer: &Producer, mut items: tokio::sync::mpsc::Receiver<Item>) -> End {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return End::Broken("cannot listen for signals".into());
        };
        let number = tokio::select! {
            end = self.send_all(producer, &mut items) => return end,
            _ = interrupt.recv() => 2,
            _ = terminate.recv() => 15,
        };
        // What is on its way is waited for; a second signal is not.
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            std::process::exit(128 + i32::from(number));
        });
        End::Signal(number)
    }

    async fn send_all(&mut self, producer: &Producer, items: &mut tokio::sync::mpsc::Receiver<Item>) -> End {
        let mut is_bounded = true;
        while is_bounded {
            let item = tokio::select! {
                item = items.recv() => item,
                () = self.acks.failed() => return End::Failed,
                () = tokio::time::sleep(Duration::from_millis(250)), if !self.bar.is_hidden() => {
                    self.show();
                    continue;
                }
            };
            match item {
                None => is_bounded = false,
                Some(Item::Records(records)) => {
                    if !self.send(producer, records).await {
                        return End::Failed;
                    }
                }
                Some(Item::Bad(bad)) if self.on_error == OnError::Stop => return End::Bad(bad),
                Some(Item::Bad(bad)) => self.skip(&bad),
                Some(Item::Broken(reason)) => return End::Broken(reason),
            }
            self.show();
        }
        End::Input
    }

    /// `false` if a delivery failed.
    async fn send(&mut self, producer: &Producer, records: Vec<millstream_protocol::Record>) -> bool {
        for record in records {
            if let Some(pace) = &mut self.pace
                && let Some(until) = pace.next(Instant::now())
            {
                self.acks.hand_over();
                tokio::time::sleep_until(until.into()).await;
            }
            let bytes = record.size() as u64;
            match producer.enqueue(record).await {
                Ok(delivery) => self.acks.push(delivery, bytes),
                Err(error) => {
                    self.acks.fail(error);
                    return false;
                }
            }
        }
        self.acks.hand_over();
        !self.acks.has_failed()
    }

    fn skip(&mut self, bad: &BadLine) {
        self.skipped += 1;
        if self.skipped <= NAMED_MAX {
            let (name, line) = (&self.source_name, bad.line);
            let output = self.output;
            self.bar.suspend(|| output.warn(&format!("skipped {name} line {line}: it {}", bad.reason)));
        }
        if self.skipped == NAMED_MAX + 1 {
            self.bar.suspend(|| self.output.warn("more lines are skipped; the summary counts them"));
        }
    }

    fn show(&self) {
        if self.bar.is_hidden() {
            return;
        }
        let acked = self.acks.records();
        let rate = per_second(acked, self.started.elapsed());
        self.bar.set_position(self.consumed.load(Ordering::Relaxed));
        self.bar.set_message(format!("{} stored, {} records/s", count(acked), three_digits(rate)));
        self.bar.tick();
    }
}

fn bad_line(command: &Produce, source: &Source, bad: &BadLine, stored: u64) -> Failure {
    let name = source.name();
    let text = format!("{name} line {}: it {}", bad.line, bad.reason);
    let same = format!("millstream produce {} {}", command.stream, command.file.display());
    let failure = Failure::new(Exit::Code(bad.code), text).or_try(format!("{same} --on-error skip"));
    let is_json = command.format == InputFormat::Ndjson && command.key.is_none() && bad.code == Code::IllegalRecord;
    // Only a file whose first line is no JSON is likely to be something else.
    if is_json && stored == 0 { failure.or_try(format!("{same} --format lines")) } else { failure }
}

fn summary(stream: &str, acked: &Acked, elapsed: Duration, skipped: u64, resent: u64, complete: bool) -> Summary {
    let ms = |quantile: f64| acked.latency_us.value_at_quantile(quantile) as f64 / 1e3;
    Summary {
        stream: stream.to_owned(),
        records: acked.records,
        duplicates: acked.duplicates,
        bytes: acked.bytes,
        seconds: elapsed.as_secs_f64(),
        records_per_second: per_second(acked.records, elapsed),
        bytes_per_second: per_second(acked.bytes, elapsed),
        ack_p50_ms: ms(0.5),
        ack_p99_ms: ms(0.99),
        skipped,
        batches_resent: resent,
        complete,
    }
}

impl Summary {
    fn for_people(&self, is_idempotent: bool) -> String {
        let mut text = format!(
            "stored {} in '{}': {} in {} s, {} records/s, {}/s, ack p50 {} ms p99 {} ms",
            counted(self.records, "record"),
            self.stream,
            output::bytes(self.bytes),
            three_digits(self.seconds),
            three_digits(self.records_per_second),
            output::bytes(self.bytes_per_second as u64),
            three_digits(self.ack_p50_ms),
            three_digits(self.ack_p99_ms),
        );
        if self.skipped > 0 {
            text += &format!("; {} skipped", counted(self.skipped, "line"));
        }
        if self.duplicates > 0 {
            text += &format!("; {} of them known by dedup id and not stored again", count(self.duplicates));
        }
        if self.batches_resent > 0 {
            let twice = if is_idempotent { "" } else { ": their records may be stored twice" };
            text += &format!("; {} resent{twice}", counted(self.batches_resent, "batch"));
        }
        text
    }
}
