//! `millstream recovery`: what the server's last start had to do.

use millstream_protocol::ByteSize;
use millstream_protocol::frame::control::{PartitionRecovery, RecoveryInfo};
use serde::Serialize;

use super::Session;
use crate::context::ServerFlags;
use crate::exit::Failure;
use crate::output::{Align, Output, Paint, Table, count, facts};
use crate::time::span;

#[derive(Serialize)]
struct View<'a> {
    took_ms: u64,
    partitions: u64,
    offline: u64,
    needed: u64,
    bytes_read: u64,
    frames_replayed: u64,
    bytes_replayed: u64,
    journal_damage: u64,
    bytes_cut: u64,
    files_quarantined: u64,
    holes: u64,
    preambles_restored: u64,
    named: Vec<PartitionView<'a>>,
}

#[derive(Serialize)]
struct PartitionView<'a> {
    stream: &'a str,
    partition: u32,
    bytes_read: u64,
    bytes_cut: u64,
    files_quarantined: u64,
    holes: u64,
    preambles_restored: u64,
    error: &'a str,
}

/// Asks the server.
///
/// # Errors
/// What the server says, or that it cannot be reached.
pub async fn run(server: &ServerFlags, output: Output) -> Result<(), Failure> {
    Session::with(server, async |session| {
        let info = session.client.describe_recovery().await.map_err(|error| session.failure(&error))?;
        output.result(&View::from(&info), |paint| description(&info, paint))
    })
    .await
}

fn description(info: &RecoveryInfo, paint: Paint) -> String {
    let head = facts(
        paint,
        &[
            ("took", span(std::time::Duration::from_millis(info.took_ms))),
            ("partitions", format!("{}, {} offline", count(info.partitions), count(info.offline))),
            ("needed something", count(info.needed)),
            ("read", ByteSize(info.bytes_read).to_string()),
            ("replayed", format!("{} journal frames, {}", count(info.frames_replayed), ByteSize(info.bytes_replayed))),
            ("journal damage", count(info.journal_damage)),
            ("torn tails cut", ByteSize(info.bytes_cut).to_string()),
            ("files in quarantine", count(info.files_quarantined)),
            ("damaged ranges", count(info.holes)),
            ("preambles restored", count(info.preambles_restored)),
        ],
    );
    if info.named.is_empty() {
        return head;
    }
    let mut table = Table::new(&[
        ("STREAM", Align::Left),
        ("PARTITION", Align::Right),
        ("READ", Align::Right),
        ("CUT", Align::Right),
        ("QUARANTINED", Align::Right),
        ("DAMAGED", Align::Right),
        ("ERROR", Align::Left),
    ]);
    for partition in &info.named {
        table.row([
            partition.stream.clone(),
            partition.partition.to_string(),
            ByteSize(partition.bytes_read).to_string(),
            ByteSize(partition.bytes_cut).to_string(),
            count(partition.files_quarantined),
            count(partition.holes),
            partition.error.clone(),
        ]);
    }
    format!("{head}\n\n{}", table.render(paint))
}

impl<'a> From<&'a RecoveryInfo> for View<'a> {
    fn from(info: &'a RecoveryInfo) -> Self {
        Self {
            took_ms: info.took_ms,
            partitions: info.partitions,
            offline: info.offline,
            needed: info.needed,
            bytes_read: info.bytes_read,
            frames_replayed: info.frames_replayed,
            bytes_replayed: info.bytes_replayed,
            journal_damage: info.journal_damage,
            bytes_cut: info.bytes_cut,
            files_quarantined: info.files_quarantined,
            holes: info.holes,
            preambles_restored: info.preambles_restored,
            named: info.named.iter().map(PartitionView::from).collect(),
        }
    }
}

impl<'a> From<&'a PartitionRecovery> for PartitionView<'a> {
    fn from(found: &'a PartitionRecovery) -> Self {
        Self {
            stream: &found.stream,
            partition: found.partition,
            bytes_read: found.bytes_read,
            bytes_cut: found.bytes_cut,
            files_quarantined: found.files_quarantined,
            holes: found.holes,
            preambles_restored: found.preambles_restored,
            error: &found.error,
        }
    }
}
