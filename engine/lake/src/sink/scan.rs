//! Scans: reads new records once to count them and to learn their columns. Decides nothing, writes nothing.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millstream_log::{Clock, LogError};

use crate::Source;
use crate::build::object;
use crate::json::Parser;
use crate::plan::Open;
use crate::schema::Schema;
use crate::walk::{Item, walk_chunk};

/// What a scan is given and gives back.
pub struct Scan {
    /// What is open, and by how much more.
    pub open: Open,
    /// The schema, widened by what was seen; none where the format has no columns.
    pub schema: Option<Schema>,
    /// Whether it came to the high watermark, as it was at the beginning.
    pub caught_up: bool,
    /// What broke it off.
    pub error: Option<LogError>,
}

/// Scans on, until the high watermark, a full file, or a stop. Blocks.
pub fn scan(
    source: &dyn Source,
    mut open: Open,
    mut schema: Option<Schema>,
    roll_bytes: u64,
    age: Duration,
    clock: &dyn Clock,
    stop: &AtomicBool,
) -> Scan {
    let target = source.high_watermark();
    let mut parser = Parser::default();
    while open.next < target && !open.is_full(roll_bytes) && !stop.load(Ordering::Relaxed) {
        let (now, now_at) = (clock.append_time(), Instant::now());
        let walked = walk_chunk(source, open.next, target, &mut |item| {
            match item {
                Item::Record { appended, record, .. } => {
                    open.note_age(appended, now, now_at, age);
                    open.records += 1;
                    open.bytes += (record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len)) as u64;
                    if let (Some(schema), Some(value)) = (&mut schema, record.value)
                        && let Ok(json) = object(&mut parser, value)
                    {
                        schema.observe(&json);
                    }
                }
                Item::Broken { first, end, appended, reason, batch } => {
                    let partition = source.partition();
                    tracing::warn!(%partition, %first, %end, reason, "a stored batch goes to the lake's error file");
                    open.note_age(appended, now, now_at, age);
                    open.records += first.records_until(end);
                    open.bytes += batch.len() as u64;
                }
                Item::Lost { first, end, reason } => {
                    let partition = source.partition();
                    tracing::warn!(%partition, %first, %end, reason, "the lake goes on behind a gap");
                    open.note_age(now, now, now_at, age);
                }
                Item::Boundary { next } => {
                    open.next = next;
                    if open.is_full(roll_bytes) {
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        });
        match walked {
            // A chunk may end in batches that lie before its beginning; it never ends before a boundary it showed.
            Ok(next) => open.next = open.next.max(next),
            Err(error) => return Scan { open, schema, caught_up: false, error: Some(error) },
        }
    }
    let caught_up = open.next >= target;
    Scan { open, schema, caught_up, error: None }
}
