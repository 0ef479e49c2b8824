//! `millstream queue …`.

use std::io::Write;
use std::time::Duration;

use millstream_client::{
    Header, Message, OnDead, PeekedMessage, QueueConfig, QueueCounts, QueueInfo, QueueOrdering, QueueStart, Record,
    RedriveInfo, RedriveOptions, RedriveStatus, Standing, StreamConfig,
};
use millstream_protocol::{Code, Offset, PartitionId, Timestamp};
use serde::Serialize;

use super::consume::render::{self, Placed};
use super::{Session, can_ask, confirm, did_you_mean, legal_name};
use crate::cli::queue::{
    OnDeadChoice, Queue, QueueCreate, QueuePeek, QueueReceive, QueueRedrive, QueueSettings, Receipts,
};
use crate::cli::{Begin, Limit};
use crate::context::ServerFlags;
use crate::exit::{Exit, Failure};
use crate::nearest::nearest;
use crate::output::{Align, Output, Paint, Table, count, counted, facts};
use crate::time::{now, span};

/// Deliveries of a message, where a dead-letter stream is given and no number.
const MAX_RECEIVES_DEFAULT: u16 = 5;
/// How long a dead-letter stream that is made on the way keeps its letters.
const DEAD_LETTER_RETENTION: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Runs one of them.
///
/// # Errors
/// What the server says, or that it cannot be reached.
pub async fn run(command: Queue, server: &ServerFlags, output: Output) -> Result<(), Failure> {
    if let Some(name) = name(&command) {
        legal_name("queue", name)?;
    }
    Session::with(server, async |session| match command {
        Queue::Create(create) => make(session, create, output).await,
        Queue::Update(update) => {
            let before = session.client.describe_queue(&update.name).await;
            let before = before.map_err(|error| session.failure(&error))?;
            let config = settings(before.config, &update.settings);
            make_dead_letters(session, &update.settings, output).await?;
            match session.client.update_queue(&update.name, config).await {
                Ok(info) => show(&info, output),
                Err(error) => Err(failure(session, &update.name, &error).await),
            }
        }
        Queue::List => list(session, output).await,
        Queue::Describe { name } => match session.client.describe_queue(&name).await {
            Ok(info) => show(&info, output),
            Err(error) => Err(failure(session, &name, &error).await),
        },
        Queue::Receive(receive) => print(session, &receive, output).await,
        Queue::Ack { of } => say(session, &of, "acknowledged", output, async |q, r| q.ack(r).await.map(drop)).await,
        Queue::Nack { of, delay, error } => {
            say(session, &of, "failed", output, async |q, r| q.nack(r, delay, &error).await).await
        }
        Queue::Release { of } => say(session, &of, "released", output, async |q, r| q.release(r).await).await,
        Queue::Extend { of, visibility } => {
            say(session, &of, "extended", output, async |q, r| q.extend(r, visibility).await).await
        }
        Queue::Reject { of, error } => {
            say(session, &of, "rejected", output, async |q, r| q.reject(r, &error).await).await
        }
        Queue::Peek(peek) => show_messages(session, &peek, output).await,
        Queue::Unpark { name, partition, offset, key, skip } => {
            let partition = PartitionId(partition);
            let unparked = match (offset, key) {
                (Some(offset), _) => session.client.unpark_message(&name, partition, Offset(offset), !skip).await,
                (None, key) => {
                    let key = key.unwrap_or_default().into_bytes();
                    session.client.unpark_group(&name, partition, key, !skip).await
                }
            };
            match unparked {
                Ok(0) => Err(Failure::usage(format!("nothing stands parked there in queue '{name}'"))
                    .or_try(format!("millstream queue peek {name} --parked"))),
                Ok(unparked) => output.result(&serde_json::json!({ "queue": name, "unparked": unparked }), |_| {
                    format!("unparked {} of queue '{name}'", counted(unparked, "message"))
                }),
                Err(error) => Err(failure(session, &name, &error).await),
            }
        }
        Queue::Redrive(command) => redrive(session, command, output).await,
        Queue::Purge { name, yes } => {
            if !yes && can_ask() {
                confirm(&format!("Settle all that queue '{name}' holds? [y/N] "))?;
            }
            match session.client.purge_queue(&name).await {
                Ok(purged) => output.result(&serde_json::json!({ "queue": name, "purged": purged }), |_| {
                    format!("purged {} of queue '{name}'", counted(purged, "message"))
                }),
                Err(error) => Err(failure(session, &name, &error).await),
            }
        }
        Queue::Seek { name, to } => match session.client.seek_queue(&name, start(to)).await {
            Ok(info) => show(&info, output),
            Err(error) => Err(failure(session, &name, &error).await),
        },
        Queue::Pause { name } => pause(session, &name, true, output).await,
        Queue::Resume { name } => pause(session, &name, false, output).await,
        Queue::Delete { name, yes } => {
            if !yes && can_ask() {
                confirm(&format!("Delete queue '{name}'? Its stream stays. [y/N] "))?;
            }
            match session.client.delete_queue(&name).await {
                Ok(()) => output.result(&serde_json::json!({ "deleted": name }), |_| format!("deleted queue '{name}'")),
                Err(error) => Err(failure(session, &name, &error).await),
            }
        }
    })
    .await
}

fn name(command: &Queue) -> Option<&str> {
    match command {
        Queue::List => None,
        Queue::Create(QueueCreate { name, .. })
        | Queue::Describe { name }
        | Queue::Receive(QueueReceive { name, .. })
        | Queue::Ack { of: Receipts { name, .. } }
        | Queue::Nack { of: Receipts { name, .. }, .. }
        | Queue::Release { of: Receipts { name, .. } }
        | Queue::Extend { of: Receipts { name, .. }, .. }
        | Queue::Reject { of: Receipts { name, .. }, .. }
        | Queue::Peek(QueuePeek { name, .. })
        | Queue::Unpark { name, .. }
        | Queue::Redrive(QueueRedrive { name, .. })
        | Queue::Purge { name, .. }
        | Queue::Seek { name, .. }
        | Queue::Pause { name }
        | Queue::Resume { name }
        | Queue::Delete { name, .. } => Some(name),
        Queue::Update(update) => Some(&update.name),
    }
}

/// An error of a request that named a queue.
pub(super) async fn failure(session: &Session, queue: &str, error: &millstream_client::Error) -> Failure {
    if error.code() != Code::UnknownQueue || error.is_unreachable() {
        return session.failure(error);
    }
    let queues = session.client.list_queues().await.unwrap_or_default();
    let meant = nearest(queue, queues.iter().map(|queue| queue.name.as_str()));
    let text = format!("unknown queue '{queue}'{}", did_you_mean(meant));
    Failure::new(Exit::Code(Code::UnknownQueue), text)
        .or_try("millstream queue list")
        .or_try(format!("millstream queue create {queue} --stream STREAM"))
}

async fn make(session: &Session, create: QueueCreate, output: Output) -> Result<(), Failure> {
    let QueueCreate { name, stream, from, fifo, group_batch, on_dead, settings: given } = create;
    legal_name("stream", &stream)?;
    let on_dead = match on_dead {
        OnDeadChoice::Skip => OnDead::Skip,
        OnDeadChoice::Park => OnDead::Park,
    };
    let ordering = if fifo { QueueOrdering::Fifo { group_batch, on_dead } } else { QueueOrdering::Unordered };
    let config = settings(QueueConfig { ordering, ..QueueConfig::default() }, &given);
    make_dead_letters(session, &given, output).await?;
    match session.client.create_queue(&name, &stream, config, start(from)).await {
        Ok(info) => show(&info, output),
        Err(error) if error.code() == Code::UnknownStream => Err(session.stream_failure(&stream, &error).await),
        Err(error) => Err(session.failure(&error)),
    }
}

/// Makes the stream of the dead letters if it is not there.
async fn make_dead_letters(session: &Session, given: &QueueSettings, output: Output) -> Result<(), Failure> {
    let Some(stream) = given.dead_letter.as_deref() else { return Ok(()) };
    legal_name("stream", stream)?;
    let retention_ms = u64::try_from(DEAD_LETTER_RETENTION.as_millis()).ok();
    let config = StreamConfig { retention_ms, ..StreamConfig::default() };
    match session.client.describe_stream(stream).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Code::UnknownStream => {
            match session.client.create_stream(stream, 1, config).await {
                Ok(_) => {
                    output.note(&format!("made the stream '{stream}' for dead letters, which it keeps for 14 days"))
                }
                Err(error) if error.code() == Code::StreamExists => {}
                Err(error) => return Err(session.failure(&error)),
            }
            Ok(())
        }
        Err(error) => Err(session.failure(&error)),
    }
}

fn settings(config: QueueConfig, given: &QueueSettings) -> QueueConfig {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let optional = |limit: &Limit<Duration>| match limit {
        Limit::None => None,
        Limit::Some(time) => Some(ms(*time)),
    };
    let mut config = config;
    if let Some(filter) = &given.filter {
        config.filter.clone_from(filter);
    }
    if let Some(visibility) = given.visibility {
        config.visibility_ms = ms(visibility);
    }
    if let Some(stream) = &given.dead_letter {
        config.dead_letter = Some(stream.clone());
        config.max_receives.get_or_insert(MAX_RECEIVES_DEFAULT);
    }
    match given.max_receives {
        None => {}
        Some(Limit::None) => config.max_receives = None,
        Some(Limit::Some(most)) => config.max_receives = Some(most),
    }
    if let Some(delay) = given.delay {
        config.delay_ms = ms(delay);
    }
    if let Some(wait) = given.retry_min {
        config.backoff.min_ms = ms(wait);
        config.backoff.max_ms = config.backoff.max_ms.max(config.backoff.min_ms);
    }
    if let Some(wait) = given.retry_max {
        config.backoff.max_ms = ms(wait);
    }
    if let Some(grace) = &given.disconnect_grace {
        config.disconnect_grace_ms = optional(grace);
    }
    if let Some(ttl) = &given.ttl {
        config.ttl_ms = optional(ttl);
    }
    if let Some(keeps) = given.keep_expired {
        config.keeps_expired = keeps;
    }
    if let Some(most) = given.in_flight {
        config.in_flight_max = most;
        config.receiver_in_flight_max = config.receiver_in_flight_max.min(most);
    }
    config
}

fn start(from: Begin) -> QueueStart {
    match from {
        Begin::Earliest => QueueStart::Earliest,
        Begin::Latest => QueueStart::Latest,
        Begin::Offset(offset) => QueueStart::Offset(offset),
        Begin::Time(time) => QueueStart::Time(time.0),
        Begin::Ago(ago) => QueueStart::Time(now().0.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX))),
    }
}

async fn list(session: &Session, output: Output) -> Result<(), Failure> {
    let queues = session.client.list_queues().await.map_err(|error| session.failure(&error))?;
    if queues.is_empty() && !output.json {
        output.note("no queues yet: `millstream queue create NAME --stream STREAM` makes one");
        return Ok(());
    }
    let views: Vec<serde_json::Value> = queues
        .iter()
        .map(|queue| {
            serde_json::json!({
                "name": queue.name,
                "stream": queue.stream,
                "ordering": ordering(queue.ordering),
                "paused": queue.is_paused,
                "dead_letter": queue.dead_letter,
            })
        })
        .collect();
    output.result(&views, |paint| {
        let mut table = Table::new(&[
            ("QUEUE", Align::Left),
            ("STREAM", Align::Left),
            ("ORDERING", Align::Left),
            ("DEAD LETTERS", Align::Left),
            ("STATE", Align::Left),
        ]);
        for queue in &queues {
            table.row([
                queue.name.clone(),
                queue.stream.clone(),
                ordering(queue.ordering).into(),
                queue.dead_letter.clone().unwrap_or_else(|| "-".into()),
                if queue.is_paused { "paused" } else { "running" }.into(),
            ]);
        }
        table.render(paint)
    })
}

fn ordering(ordering: QueueOrdering) -> &'static str {
    match ordering {
        QueueOrdering::Unordered => "unordered",
        QueueOrdering::Fifo { .. } => "fifo",
    }
}

fn show(info: &QueueInfo, output: Output) -> Result<(), Failure> {
    output.result(&InfoView::from(info), |paint| description(info, paint))
}

fn description(info: &QueueInfo, paint: Paint) -> String {
    let config = &info.config;
    let time = |ms: u64| span(Duration::from_millis(ms));
    let total = &info.total;
    let dead = config.dead_letter.as_ref().map_or("-".into(), |stream| match config.max_receives {
        Some(1) => format!("'{stream}' after one delivery"),
        Some(most) => format!("'{stream}' after {most} deliveries"),
        None => format!("'{stream}'"),
    });
    let mut lines = vec![
        ("queue", info.name.clone()),
        ("stream", info.stream.clone()),
        ("state", if info.is_paused { "paused" } else { "running" }.into()),
        ("ordering", ordering(config.ordering).into()),
        ("visibility", time(config.visibility_ms)),
        ("dead letters", dead),
        ("receivers", count(info.receivers.into())),
        ("available", count(total.available)),
        ("in flight", count(total.in_flight)),
        ("delayed", count(total.delayed)),
        ("not looked at", count(total.waiting)),
        ("acknowledged", count(total.acked)),
        ("dead", count(total.dead)),
    ];
    let rare = [
        ("dying", total.dying),
        ("parked", total.parked),
        ("filtered", total.filtered),
        ("filter errors", total.filter_errors),
        ("expired", total.expired),
        ("expired by retention", total.expired_by_retention),
        ("purged", total.purged),
        ("removed by compaction", total.removed),
        ("lost", total.lost),
    ];
    lines.extend(rare.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name, count(n))));
    if !config.filter.is_empty() {
        lines.push(("filter", config.filter.clone()));
    }
    if info.oldest_age_ms > 0 {
        lines.push(("oldest", format!("{} ago", time(info.oldest_age_ms))));
    }
    let mut table = Table::new(&[
        ("PARTITION", Align::Right),
        ("ALL DONE BELOW", Align::Right),
        ("NEXT OFFSET", Align::Right),
        ("AVAILABLE", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("DELAYED", Align::Right),
        ("NOT LOOKED AT", Align::Right),
        ("TROUBLE", Align::Left),
    ]);
    for partition in &info.partitions {
        let counts = &partition.counts;
        table.row([
            partition.partition.to_string(),
            count(partition.floor),
            count(partition.end),
            count(counts.available),
            count(counts.in_flight),
            count(counts.delayed),
            count(counts.waiting),
            partition.error.clone(),
        ]);
    }
    format!("{}\n\n{}", facts(paint, &lines), table.render(paint))
}

async fn print(session: &Session, receive: &QueueReceive, output: Output) -> Result<(), Failure> {
    let queue = session.client.queue(&receive.name);
    let messages = match queue.receive_for(receive.count, receive.wait, receive.visibility).await {
        Ok(messages) => messages,
        Err(error) => return Err(failure(session, &receive.name, &error).await),
    };
    if messages.is_empty() && !output.json {
        output.note("no message is available");
    }
    let mut out = std::io::stdout().lock();
    for message in &messages {
        out.write_all(&line(message, receive.values))?;
        out.flush()?;
        if receive.ack {
            message.ack().await.map_err(|error| session.failure(&error))?;
        }
    }
    Ok(())
}

fn line(message: &Message, value_alone: bool) -> Vec<u8> {
    let placed = Placed {
        stream: None,
        partition: message.partition(),
        offset: message.offset(),
        append_time: message.append_time(),
        record: message.record(),
    };
    if value_alone {
        let mut record = Vec::new();
        render::value(&placed, &mut record);
        return record;
    }
    let delivery = format!(
        "{{\"receipt\":\"{}\",\"receives\":{},\"redriven\":{},\"first_received\":\"{}\"",
        message.receipt(),
        message.receive_count(),
        message.redriven(),
        crate::time::rfc3339(Timestamp(message.first_received().0)),
    );
    render::json_behind(delivery, &placed)
}

async fn show_messages(session: &Session, peek: &QueuePeek, output: Output) -> Result<(), Failure> {
    let QueuePeek { name, count, partition, from, parked } = peek;
    let (partition, from) = (partition.map(PartitionId), from.map(Offset));
    let messages = match session.client.peek_queue(name, partition, from, *count, *parked).await {
        Ok(messages) => messages,
        Err(error) => return Err(failure(session, name, &error).await),
    };
    if messages.is_empty() && !output.json {
        output.note(if *parked { "no message stands parked" } else { "no unsettled message" });
    }
    let mut out = std::io::stdout().lock();
    for message in messages {
        out.write_all(&peeked(message))?;
    }
    out.flush()?;
    Ok(())
}

fn peeked(message: PeekedMessage) -> Vec<u8> {
    let standing = match message.standing {
        Standing::Waiting => "waiting".to_owned(),
        Standing::Available => "available".to_owned(),
        Standing::Delayed(until) => {
            let until = Timestamp(i64::try_from(until).unwrap_or(i64::MAX));
            format!("delayed until {}", crate::time::rfc3339(until))
        }
        Standing::InFlight => "in flight".to_owned(),
        Standing::Dying => "dying".to_owned(),
        Standing::Parked => "parked".to_owned(),
    };
    let header =
        |header: millstream_client::PeekedHeader| Header { name: header.name, value: header.value.map(Into::into) };
    let record = Record {
        key: message.key.map(Into::into),
        headers: message.headers.into_iter().map(header).collect(),
        timestamp: Timestamp(message.timestamp_ms),
        value: message.value.map(Into::into),
    };
    let placed = Placed {
        stream: None,
        partition: PartitionId(message.partition),
        offset: Offset(message.offset),
        append_time: Timestamp(message.append_ms),
        record: &record,
    };
    let (receives, redriven) = (message.receives, message.redriven);
    let members = format!("{{\"state\":\"{standing}\",\"receives\":{receives},\"redriven\":{redriven}");
    render::json_behind(members, &placed)
}

async fn redrive(session: &Session, command: QueueRedrive, output: Output) -> Result<(), Failure> {
    let QueueRedrive { name, filter, limit, rate, to, detach, status, cancel } = command;
    let options = RedriveOptions { filter, limit, rate_per_s: rate, to };
    let begun = match (status, cancel) {
        (true, _) => session.client.describe_redrive(&name).await,
        (_, true) => session.client.cancel_redrive(&name).await,
        _ => session.client.redrive_queue(&name, options).await.map(Some),
    };
    let mut info = match begun {
        Ok(Some(info)) => info,
        Ok(None) => return Err(Failure::usage(format!("queue '{name}' has no redrive"))),
        Err(error) => return Err(failure(session, &name, &error).await),
    };
    let waits = !(status || cancel || detach);
    while waits && info.status == RedriveStatus::Running {
        tokio::time::sleep(Duration::from_millis(100)).await;
        match session.client.describe_redrive(&name).await {
            Ok(Some(now)) => info = now,
            Ok(None) => break,
            Err(error) => return Err(failure(session, &name, &error).await),
        }
    }
    output.result(&redrive_view(&name, &info), |_| {
        let counts = format!(
            "{} came back, {} passed over, {} failed, {} records to look at",
            count(info.redriven),
            count(info.skipped),
            count(info.failed),
            count(info.left)
        );
        let trouble = if info.error.is_empty() { String::new() } else { format!("\n  it waits: {}", info.error) };
        format!("redrive of queue '{name}' {}: {counts}{trouble}", redrive_status(info.status))
    })
}

fn redrive_status(status: RedriveStatus) -> &'static str {
    match status {
        RedriveStatus::Running => "running",
        RedriveStatus::Done => "done",
        RedriveStatus::Cancelled => "cancelled",
    }
}

fn redrive_view(name: &str, info: &RedriveInfo) -> serde_json::Value {
    serde_json::json!({
        "queue": name,
        "status": redrive_status(info.status),
        "looked_at": info.looked_at,
        "redriven": info.redriven,
        "skipped": info.skipped,
        "failed": info.failed,
        "left": info.left,
        "error": info.error,
    })
}

/// Says something of each delivery; the first refusal ends the command, after all were said.
async fn say(
    session: &Session,
    of: &Receipts,
    done: &'static str,
    output: Output,
    verb: impl AsyncFn(&millstream_client::Queue, millstream_client::MessageReceipt) -> millstream_client::Result<()>,
) -> Result<(), Failure> {
    let queue = session.client.queue(&of.name);
    let (mut held, mut refused) = (0u64, None);
    for receipt in &of.receipts {
        match verb(&queue, *receipt).await {
            Ok(()) => held += 1,
            Err(error) => drop(refused.get_or_insert(error)),
        }
    }
    match refused {
        None => output.result(&serde_json::json!({ "queue": of.name, done: held }), |_| {
            format!("{done} {} of queue '{}'", counted(held, "message"), of.name)
        }),
        Some(error) => {
            let failure = failure(session, &of.name, &error).await;
            Err(if held > 0 { failure.adding(&format!("{held} of {} held", of.receipts.len())) } else { failure })
        }
    }
}

async fn pause(session: &Session, name: &str, is_paused: bool, output: Output) -> Result<(), Failure> {
    match session.client.pause_queue(name, is_paused).await {
        Ok(()) => output.result(&serde_json::json!({ "queue": name, "paused": is_paused }), |_| {
            format!("queue '{name}' {}", if is_paused { "delivers nothing more" } else { "delivers again" })
        }),
        Err(error) => Err(failure(session, name, &error).await),
    }
}

#[derive(Serialize)]
struct InfoView<'a> {
    name: &'a str,
    stream: &'a str,
    ordering: &'static str,
    paused: bool,
    epoch: u32,
    filter: &'a str,
    visibility_ms: u64,
    max_receives: Option<u16>,
    dead_letter: Option<&'a str>,
    delay_ms: u64,
    ttl_ms: Option<u64>,
    disconnect_grace_ms: Option<u64>,
    created_ms: i64,
    rule_from: &'a [u64],
    receivers: u32,
    oldest_age_ms: u64,
    total: CountsView,
    partitions: Vec<PartitionView<'a>>,
}

#[derive(Serialize)]
struct PartitionView<'a> {
    partition: u32,
    floor: u64,
    end: u64,
    oldest_ms: Option<i64>,
    #[serde(flatten)]
    counts: CountsView,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct CountsView {
    available: u64,
    in_flight: u64,
    delayed: u64,
    dying: u64,
    parked: u64,
    waiting: u64,
    acked: u64,
    filtered: u64,
    dead: u64,
    expired: u64,
    expired_by_retention: u64,
    removed: u64,
    lost: u64,
    purged: u64,
    filter_errors: u64,
    entries: u64,
}

impl From<&QueueCounts> for CountsView {
    fn from(counts: &QueueCounts) -> Self {
        Self {
            available: counts.available,
            in_flight: counts.in_flight,
            delayed: counts.delayed,
            dying: counts.dying,
            parked: counts.parked,
            waiting: counts.waiting,
            acked: counts.acked,
            filtered: counts.filtered,
            dead: counts.dead,
            expired: counts.expired,
            expired_by_retention: counts.expired_by_retention,
            removed: counts.removed,
            lost: counts.lost,
            purged: counts.purged,
            filter_errors: counts.filter_errors,
            entries: counts.entries,
        }
    }
}

impl<'a> From<&'a QueueInfo> for InfoView<'a> {
    fn from(info: &'a QueueInfo) -> Self {
        let config = &info.config;
        let partitions = info.partitions.iter().map(|partition| PartitionView {
            partition: partition.partition,
            floor: partition.floor,
            end: partition.end,
            oldest_ms: partition.oldest_ms,
            counts: CountsView::from(&partition.counts),
            error: &partition.error,
        });
        Self {
            name: &info.name,
            stream: &info.stream,
            ordering: ordering(config.ordering),
            paused: info.is_paused,
            epoch: info.epoch,
            filter: &config.filter,
            visibility_ms: config.visibility_ms,
            max_receives: config.max_receives,
            dead_letter: config.dead_letter.as_deref(),
            delay_ms: config.delay_ms,
            ttl_ms: config.ttl_ms,
            disconnect_grace_ms: config.disconnect_grace_ms,
            created_ms: info.created_ms,
            rule_from: &info.rule_from,
            receivers: info.receivers,
            oldest_age_ms: info.oldest_age_ms,
            total: CountsView::from(&info.total),
            partitions: partitions.collect(),
        }
    }
}
