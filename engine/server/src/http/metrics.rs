//! `GET /metrics`: the counters, and the gauges that are only known when asked.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use millstream_broker::GroupStats;
use millstream_protocol::frame::control::LakeStatus;

use crate::metrics::Text;
use crate::shared::Shared;

pub(super) async fn get(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let mut text = shared.metrics.render();
    in_hand(&shared, &mut text);
    groups(shared.broker.group_stats(), &mut text);
    lakes(&shared.lakes.all(), &mut text);
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
    let age = |lake: &LakeStatus| lake.oldest_waiting_ms as f64 / 1e3;
    text.family(
        "millstream_lake_oldest_waiting_seconds",
        "gauge",
        "Age of the oldest record that has not landed.",
        by_lake(age),
    );
    let (files, rows) = (|lake: &LakeStatus| lake.files as f64, |lake: &LakeStatus| lake.rows as f64);
    text.family("millstream_lake_files_total", "counter", "Files put since the lake was added.", by_lake(files));
    text.family("millstream_lake_rows_total", "counter", "Rows in those files.", by_lake(rows));
    let rejected = |lake: &LakeStatus| lake.rejected as f64;
    text.family(
        "millstream_lake_rejected_total",
        "counter",
        "Records that went to the error prefix.",
        by_lake(rejected),
    );
    let failing = |lake: &LakeStatus| f64::from(u8::from(!lake.error.is_empty()));
    text.family(
        "millstream_lake_failing",
        "gauge",
        "1 while something keeps the lake from going on.",
        by_lake(failing),
    );
}
