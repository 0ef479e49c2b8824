//! Queues' requests.

use std::sync::Arc;

use millstream_broker::queue::{
    ParkedAt, PartState, Peeked, QueueHandle, RedriveOptions, RedriveState, RedriveStatus, RedriveTo, Standing, Unpark,
};
use millstream_broker::{Broker, BrokerError};
use millstream_protocol::Code;
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::control::{Request, Response};
use millstream_protocol::frame::queue::{
    self as wire, PeekedHeader, PeekedMessage, QueueCounts, QueueInfo, QueuePartition, QueueSummary, RedriveInfo,
};
use millstream_protocol::limits::CONTROL_BYTES_MAX;

use super::Session;
use crate::authorize::{Action, Resource};
use crate::shared::{Shared, blocking, broker_refusal};

/// Partitions that a description of a queue shows.
const PARTITIONS_SHOWN: usize = 2_000;

pub(super) async fn perform(session: &Session, request: Request) -> Result<Response, Refusal> {
    let shared = Arc::clone(&session.shared);
    let broker = Arc::clone(&shared.broker);
    let answer = match request {
        Request::CreateQueue { name, stream, config, start } => {
            session.authorize(Action::Create, Resource::Queue(&name))?;
            session.authorize(Action::Consume, Resource::Stream(&stream))?;
            if let Some(dead_letter) = &config.dead_letter {
                session.authorize(Action::Produce, Resource::Stream(dead_letter))?;
            }
            let make = move || info(&shared, &broker.create_queue(&name, &stream, config, start)?);
            blocking(make).await?.map(Response::Queue)
        }
        Request::UpdateQueue { name, config } => {
            session.authorize(Action::Alter, Resource::Queue(&name))?;
            if let Some(dead_letter) = &config.dead_letter {
                session.authorize(Action::Produce, Resource::Stream(dead_letter))?;
            }
            blocking(move || info(&shared, &broker.update_queue(&name, config)?)).await?.map(Response::Queue)
        }
        Request::DeleteQueue { name } => {
            session.authorize(Action::Delete, Resource::Queue(&name))?;
            blocking(move || broker.delete_queue(&name)).await?.map(|()| Response::Done)
        }
        Request::ListQueues => {
            session.authorize(Action::Describe, Resource::Server)?;
            Ok(Response::Queues(blocking(move || summaries(&broker)).await?))
        }
        Request::DescribeQueue { name } => {
            session.authorize(Action::Describe, Resource::Queue(&name))?;
            blocking(move || info(&shared, &broker.queue(&name)?)).await?.map(Response::Queue)
        }
        Request::PurgeQueue { name } => {
            session.authorize(Action::Alter, Resource::Queue(&name))?;
            blocking(move || purge(&broker, &name)).await?.map(Response::Count)
        }
        Request::SeekQueue { name, to } => {
            session.authorize(Action::Alter, Resource::Queue(&name))?;
            blocking(move || info(&shared, &broker.seek_queue(&name, to)?)).await?.map(Response::Queue)
        }
        Request::PauseQueue { name, is_paused } => {
            session.authorize(Action::Alter, Resource::Queue(&name))?;
            blocking(move || broker.pause_queue(&name, is_paused)).await?.map(|_| Response::Done)
        }
        Request::PeekQueue { name, partition, from, max, only_parked } => {
            session.authorize(Action::Consume, Resource::Queue(&name))?;
            let peek = move || {
                let handle = broker.queue(&name)?;
                let max = max as usize;
                if only_parked { handle.parked(partition, from, max) } else { handle.peek(partition, from, max) }
            };
            blocking(peek).await?.map(|peeked| Response::Peeked(shown(peeked)))
        }
        Request::UnparkQueue { name, partition, offset, key, retry } => {
            session.authorize(Action::Alter, Resource::Queue(&name))?;
            let which = match (offset, key) {
                (Some(offset), None) => ParkedAt::Offset(offset),
                (None, Some(key)) => ParkedAt::Group(key.into()),
                _ => {
                    let text = "name either the offset of a parked message or the key of its group";
                    return Err(Refusal::new(Code::IllegalSetting, text));
                }
            };
            let how = if retry { Unpark::Retry } else { Unpark::Skip };
            blocking(move || broker.queue(&name)?.unpark(partition, which, how)).await?.map(Response::Count)
        }
        Request::RedriveQueue { name, options } => {
            session.authorize(Action::Alter, Resource::Queue(&name))?;
            if let Some(stream) = &options.to {
                session.authorize(Action::Produce, Resource::Stream(stream))?;
            }
            let wire::RedriveOptions { filter, limit, rate_per_s, to } = options;
            let to = to.map_or(RedriveTo::Source, RedriveTo::Stream);
            let options = RedriveOptions { filter, limit, rate_per_s, to };
            blocking(move || broker.redrive(&name, options)).await?.map(|state| Response::Redrive(Some(redrive(state))))
        }
        Request::DescribeRedrive { name } => {
            session.authorize(Action::Describe, Resource::Queue(&name))?;
            let state = blocking(move || broker.redrive_state(&name)).await?;
            state.map(|state| Response::Redrive(state.map(redrive)))
        }
        Request::CancelRedrive { name } => {
            session.authorize(Action::Alter, Resource::Queue(&name))?;
            let state = blocking(move || broker.cancel_redrive(&name)).await?;
            state.map(|state| Response::Redrive(state.map(redrive)))
        }
        _ => return Err(Refusal::new(Code::Unsupported, "this server does not know the request: use a newer server")),
    };
    answer.map_err(broker_refusal)
}

/// As many of them as fit into an answer, one at least.
fn shown(peeked: Vec<Peeked>) -> Vec<PeekedMessage> {
    let mut bytes = 0;
    let mut messages = Vec::with_capacity(peeked.len());
    for Peeked { partition, offset, standing, receives, redriven, first_ms, append_time, record } in peeked {
        let standing = match standing {
            Standing::Available => wire::Standing::Available,
            Standing::Delayed(until) => wire::Standing::Delayed(until),
            Standing::InFlight => wire::Standing::InFlight,
            Standing::Dying => wire::Standing::Dying,
            Standing::Parked => wire::Standing::Parked,
            Standing::Waiting => wire::Standing::Waiting,
        };
        let bytes_of = |bytes: Option<bytes::Bytes>| bytes.map(|bytes| bytes.to_vec());
        let headers: Vec<PeekedHeader> = record
            .headers
            .into_iter()
            .map(|header| PeekedHeader { name: header.name.to_string(), value: bytes_of(header.value) })
            .collect();
        let (key, value) = (bytes_of(record.key), bytes_of(record.value));
        let own = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let in_headers = headers.iter().map(|header| 64 + header.name.len() + own(&header.value));
        bytes += 128 + own(&key) + own(&value) + in_headers.sum::<usize>();
        if bytes > 3 * CONTROL_BYTES_MAX && !messages.is_empty() {
            break;
        }
        let (append_ms, timestamp_ms) = (append_time.0, record.timestamp.0);
        messages.push(PeekedMessage {
            partition,
            offset,
            standing,
            receives,
            redriven,
            first_ms,
            append_ms,
            timestamp_ms,
            key,
            headers,
            value,
        });
    }
    messages
}

fn redrive(state: RedriveState) -> RedriveInfo {
    let RedriveState { id, options, began_ms, status, counts, left, error } = state;
    let RedriveOptions { filter, limit, rate_per_s, to } = options;
    let to = match to {
        RedriveTo::Source => None,
        RedriveTo::Stream(name) => Some(name),
    };
    let status = match status {
        RedriveStatus::Running => wire::RedriveStatus::Running,
        RedriveStatus::Done => wire::RedriveStatus::Done,
        RedriveStatus::Cancelled => wire::RedriveStatus::Cancelled,
    };
    RedriveInfo {
        id,
        options: wire::RedriveOptions { filter, limit, rate_per_s, to },
        began_ms,
        status,
        looked_at: counts.looked_at,
        redriven: counts.redriven,
        skipped: counts.skipped,
        failed: counts.failed,
        left,
        error: error.unwrap_or_default(),
    }
}

fn summaries(broker: &Broker) -> Vec<QueueSummary> {
    let summary = |entry: millstream_broker::QueueEntry| QueueSummary {
        stream: broker.queue_stream_name(&entry),
        name: entry.name,
        ordering: entry.config.ordering,
        is_paused: entry.is_paused,
        dead_letter: entry.config.dead_letter,
    };
    broker.queue_entries().into_iter().map(summary).collect()
}

/// How many messages a purge settled.
fn purge(broker: &Broker, name: &str) -> Result<u64, BrokerError> {
    let purged = |handle: &QueueHandle| {
        handle.state().map(|state| state.partitions.iter().map(|part| part.tally.purged).sum::<u64>())
    };
    let before = purged(&broker.queue(name)?)?;
    let handle = broker.purge_queue(name)?;
    Ok(purged(&handle)?.saturating_sub(before))
}

fn info(shared: &Shared, handle: &QueueHandle) -> Result<QueueInfo, BrokerError> {
    let state = handle.state()?;
    let now_ms = shared.now().0;
    let entry = &handle.entry;
    let mut total = QueueCounts::default();
    state.partitions.iter().for_each(|part| add(&mut total, &counts(part)));
    let oldest_ms = state.partitions.iter().filter_map(|part| part.oldest_ms).min();
    let partition = |part: &PartState| QueuePartition {
        partition: part.partition,
        counts: counts(part),
        floor: part.floor,
        end: part.end,
        oldest_ms: part.oldest_ms,
        error: part.error.clone().unwrap_or_default(),
    };
    Ok(QueueInfo {
        id: entry.id,
        name: entry.name.clone(),
        stream: shared.broker.queue_stream_name(entry),
        config: entry.config.clone(),
        epoch: entry.epoch,
        is_paused: entry.is_paused,
        created_ms: entry.created_ms,
        rule_from: entry
            .rules
            .last()
            .map(|rule| rule.from.iter().copied().take(PARTITIONS_SHOWN).collect())
            .unwrap_or_default(),
        receivers: state.receivers,
        total,
        oldest_age_ms: oldest_ms.map_or(0, |oldest| u64::try_from(now_ms - oldest).unwrap_or(0)),
        partitions: state.partitions.iter().take(PARTITIONS_SHOWN).map(partition).collect(),
    })
}

/// How a queue stands on one partition, in numbers.
pub(crate) fn counts(part: &PartState) -> QueueCounts {
    let (counts, tally) = (part.counts, part.tally);
    QueueCounts {
        available: counts.available,
        in_flight: counts.in_flight,
        delayed: counts.delayed,
        dying: counts.dying,
        parked: counts.parked,
        waiting: part.not_looked_at,
        acked: tally.acked,
        filtered: tally.filtered,
        dead: tally.dead,
        expired: tally.expired,
        expired_by_retention: tally.expired_by_retention,
        removed: tally.removed,
        lost: tally.lost,
        purged: tally.purged,
        filter_errors: part.filter_errors,
        entries: part.entries,
    }
}

/// Adds one partition's numbers to those of others.
pub(crate) fn add(total: &mut QueueCounts, counts: &QueueCounts) {
    total.available += counts.available;
    total.in_flight += counts.in_flight;
    total.delayed += counts.delayed;
    total.dying += counts.dying;
    total.parked += counts.parked;
    total.waiting += counts.waiting;
    total.acked += counts.acked;
    total.filtered += counts.filtered;
    total.dead += counts.dead;
    total.expired += counts.expired;
    total.expired_by_retention += counts.expired_by_retention;
    total.removed += counts.removed;
    total.lost += counts.lost;
    total.purged += counts.purged;
    total.filter_errors += counts.filter_errors;
    total.entries += counts.entries;
}
