//! `GET /metrics`: the counters, and the gauges that are only known when asked.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use millstream_broker::GroupStats;
use millstream_broker::queue::{PartState, QueueState};
use millstream_protocol::frame::control::LakeStatus;

use crate::metrics::Text;
use crate::shared::{Shared, blocking};

pub(super) async fn get(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let mut text = shared.metrics.render();
    in_hand(&shared, &mut text);
    groups(shared.broker.group_stats(), &mut text);
    lakes(&shared.lakes.all(), &mut text);
    let broker = Arc::clone(&shared.broker);
    // Each queue's thread is asked. One that was deleted meanwhile has no figures.
    let states = blocking(move || {
        let entries = broker.queue_entries().into_iter();
        entries.filter_map(|entry| Some((broker.queue(&entry.name).ok()?.state().ok()?, entry.name))).collect()
    });
    let states: Vec<(QueueState, String)> = states.await.unwrap_or_default();
    queues(&states, shared.now().0, &mut text);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text.into_string())
}

fn in_hand(shared: &Shared, text: &mut Text) {
    let in_hand = shared.budget.in_hand();
    let shares = [("incoming", in_hand.incoming), ("outgoing", in_hand.outgoing), ("windows", in_hand.windows)];
    let samples = shares.map(|(share, bytes)| (format!("share=\"{share}\""), bytes));
    text.family("millstream_in_hand_bytes", "gauge", "Bytes held for clients, by share of memory_in_hand.", samples);
}

fn groups(stats: GroupStats, text: &mut Text) {
    text.gauge("millstream_groups", "Consumer groups.", stats.groups);
    text.gauge("millstream_group_members", "Members of all consumer groups.", stats.members);
    text.counter("millstream_group_rebalances_total", "Changes of a group's assignment.", stats.rebalances);
    let expired = "Members whose session ended, or that did not let go of partitions in time.";
    text.counter("millstream_group_members_expired_total", expired, stats.members_expired);
    text.counter("millstream_group_commits_total", "Offsets committed.", stats.commits);
    text.counter("millstream_group_commits_refused_total", "Commits of offsets refused.", stats.commits_refused);
}

fn queues(queues: &[(QueueState, String)], now_ms: i64, text: &mut Text) {
    let sum = |state: &QueueState, of: fn(&PartState) -> u64| state.partitions.iter().map(of).sum::<u64>();
    // Names are of [a-z0-9._-]: nothing in them needs escaping.
    let label = |name: &str| format!("queue=\"{name}\"");
    let parts = |of: fn(&PartState) -> u64| queues.iter().map(move |(state, name)| (label(name), sum(state, of)));
    let mut gauge = |name: &str, meaning: &str, of| text.family(name, "gauge", meaning, parts(of));
    // Records that were not looked at yet may be filtered: they are backlog all the same.
    let available: fn(&PartState) -> u64 = |part| part.counts.available + part.not_looked_at;
    gauge("millstream_queue_available", "Messages that may be delivered, and records not looked at yet.", available);
    gauge("millstream_queue_in_flight", "Messages that receivers have.", |part| part.counts.in_flight);
    gauge("millstream_queue_delayed", "Messages that are not due.", |part| part.counts.delayed);
    gauge("millstream_queue_dying", "Messages on their way to the dead letters.", |part| part.counts.dying);
    gauge("millstream_queue_parked", "Messages that wait for an operator.", |part| part.counts.parked);
    let span: fn(&PartState) -> u64 = |part| (part.end - part.not_looked_at.min(part.end)).saturating_sub(part.floor);
    gauge(
        "millstream_queue_span_offsets",
        "Offsets between the ack floors and what was looked at: holes included.",
        span,
    );
    gauge("millstream_queue_entries", "What the queue keeps in memory, in entries.", |part| part.entries);
    let receivers = queues.iter().map(|(state, name)| (label(name), state.receivers));
    text.family("millstream_queue_receivers", "gauge", "Receivers that are connected.", receivers);
    let age = |state: &QueueState| {
        let oldest = state.partitions.iter().filter_map(|part| part.oldest_ms).min();
        oldest.map_or(0.0, |oldest| now_ms.saturating_sub(oldest).max(0) as f64 / 1e3)
    };
    let ages = queues.iter().map(|(state, name)| (label(name), age(state)));
    text.family("millstream_queue_oldest_seconds", "gauge", "Age of the oldest unsettled record.", ages);
    let errors = parts(|part| part.filter_errors);
    let meaning = "Records on which the filter failed since the start: they do not match.";
    text.family("millstream_queue_filter_errors_total", "counter", meaning, errors);
    let settled = queues.iter().flat_map(|(state, name)| {
        let sum = |of| sum(state, of);
        let ways = [
            ("acked", sum(|part| part.tally.acked)),
            ("filtered", sum(|part| part.tally.filtered)),
            ("dead", sum(|part| part.tally.dead)),
            ("expired", sum(|part| part.tally.expired)),
            ("expired_by_retention", sum(|part| part.tally.expired_by_retention)),
            ("removed", sum(|part| part.tally.removed)),
            ("lost", sum(|part| part.tally.lost)),
            ("purged", sum(|part| part.tally.purged)),
        ];
        ways.map(|(how, count)| (format!("{},how=\"{how}\"", label(name)), count))
    });
    text.family(
        "millstream_queue_settled_total",
        "counter",
        "Messages settled since the queue was made, by how.",
        settled,
    );
}

fn lakes(lakes: &[LakeStatus], text: &mut Text) {
    // Names are of [a-z0-9._-]: nothing in them needs escaping.
    let by_lake = |value: fn(&LakeStatus) -> f64| {
        lakes.iter().map(move |lake| (format!("lake=\"{}\"", lake.config.name), value(lake)))
    };
    let lag = |lake: &LakeStatus| {
        let lag = lake.partitions.iter().map(|p| p.high_watermark.saturating_sub(p.landed_end)).sum::<u64>();
        lag as f64
    };
    text.family("millstream_lake_lag_records", "gauge", "Records that have not landed.", by_lake(lag));
    let mut family = |name: &str, kind: &str, meaning: &str, value| text.family(name, kind, meaning, by_lake(value));
    family(
        "millstream_lake_oldest_waiting_seconds",
        "gauge",
        "Age of the oldest record that has not landed.",
        |lake| lake.oldest_waiting_ms as f64 / 1e3,
    );
    let newest =
        "When the newest landed record was appended, Unix time; 0 if none has landed since the server's start.";
    family("millstream_lake_newest_landed_timestamp_seconds", "gauge", newest, |lake| {
        lake.newest_landed_ms as f64 / 1e3
    });
    let files = "Files put since the lake was added.";
    family("millstream_lake_files_total", "counter", files, |lake| lake.files as f64);
    family("millstream_lake_rows_total", "counter", "Rows in those files.", |lake| lake.rows as f64);
    family("millstream_lake_bytes_total", "counter", "Bytes of those files.", |lake| lake.bytes as f64);
    let lost = "Offsets that the log no longer had when their turn to land came.";
    family("millstream_lake_lost_total", "counter", lost, |lake| lake.lost as f64);
    let rejected = "Records in the error prefix that have not landed since.";
    family("millstream_lake_rejected_records", "gauge", rejected, |lake| lake.rejected as f64);
    let open_rows = "Records that are in open files.";
    family("millstream_lake_open_rows", "gauge", open_rows, |lake| lake.open_rows as f64);
    family("millstream_lake_open_files", "gauge", "Files that are open.", |lake| f64::from(lake.open_files));
    let failing = "1 while something keeps the lake from going on.";
    family("millstream_lake_failing", "gauge", failing, |lake| f64::from(u8::from(!lake.error.is_empty())));
    let last_error = "When something went wrong last, Unix time; 0 if nothing did since the server's start.";
    family("millstream_lake_last_error_timestamp_seconds", "gauge", last_error, |lake| lake.last_error_ms as f64 / 1e3);
}
