//! The engine alone against bare system calls on the same file system, in turn, as ratios:
//! `cargo bench -p millstream-benches --bench log [-- --json]`.
//!
//! | row | product | ceiling |
//! | --- | --- | --- |
//! | append written | 1 KiB records in 64 KiB or 1 MiB batches, 8 in flight, `written`; a burst that fits the unsynced bytes | `pwrite` of the same bytes |
//! | append written, sustained | eight times what may be unsynced | `pwrite`, and `fdatasync` on a second thread that keeps the same bound |
//! | append synced | 8 in flight: what waits is synced together | `pwrite` and `fdatasync` of each |
//! | append synced, one in flight | the way to the lane and back is not hidden | the same |
//! | read | 1 MiB at a time out of the page cache, headers checked | `pread` into one page-aligned buffer |
//! | small durable appends | one 1 KiB record a batch, 1,024 in flight, over 1,000 partitions: a burst that the journal holds | the product's own rate to 1 partition |
//! | the same, sustained | as fast as the disk takes the journal's laps and 1,000 files' ends | the same |
//! | the same without a journal | every touched segment synced itself | the same |

mod appends;
mod bare;

use std::path::Path;

use millstream_benches::ratio::{Better, Row, json, table};
use millstream_benches::settings::Settings;
use millstream_log::Durability;
use millstream_protocol::batch::BatchView;

use appends::{Engine, batch};

type Error = Box<dyn std::error::Error>;

/// What may be unsynced: the default of one lane.
const UNSYNCED_BYTES: u64 = 64 << 20;
const BURST_BYTES: u64 = UNSYNCED_BYTES / 2;
const SMALL: usize = 64 << 10;
const LARGE: usize = 1 << 20;
const IN_FLIGHT: usize = 8;
const MANY_IN_FLIGHT: usize = 1_024;
const PARTITIONS: u32 = 1_000;

fn main() -> Result<(), Error> {
    let settings = Settings::read(env!("CARGO_TARGET_TMPDIR"), 7, 256);
    let dir = tempfile::tempdir_in(&settings.directory)?;
    let rows = run(&settings, dir.path())?;
    let title = format!("{} rounds; median [min..max]; 1.00 is the ceiling", settings.rounds);
    println!("{}", if settings.json { json(&title, &rows) } else { table(&title, &rows) });
    Ok(())
}

/// Lets the disk finish what the measurement before has left to it.
fn settle() {
    rustix::fs::sync();
}

fn run(settings: &Settings, dir: &Path) -> Result<Vec<Row>, Error> {
    let row = |name, unit, aim| Row::new(name, unit, Better::Higher, aim);
    let mut written_small = row("append written, 64 KiB / pwrite", "MB/s", None);
    let mut written_large = row("append written, 1 MiB / pwrite", "MB/s", Some(0.9));
    let mut sustained = row("append written, 1 MiB, sustained / the same bound", "MB/s", None);
    let mut synced_small = row("append synced, 64 KiB / pwrite, fdatasync", "MB/s", None);
    let mut synced_large = row("append synced, 1 MiB / pwrite, fdatasync", "MB/s", Some(0.9));
    let mut synced_alone = row("append synced, 1 MiB, one in flight / the same", "MB/s", None);
    let mut read = row("read, 1 MiB / pread", "MB/s", Some(0.9));
    let mut many = row("small durable appends, 1,000 partitions / 1", "1/s", Some(0.5));
    let mut long_run = row("the same, sustained / 1", "1/s", None);
    let mut direct = row("the same without a journal / 1", "1/s", None);
    let (small, large, record) = (batch(SMALL), batch(LARGE), batch(1 << 10));
    let synced_bytes = settings.bytes / 4;
    // With its header a record takes some 1,200 bytes of the journal.
    let few = (BURST_BYTES / 1_300).min(settings.bytes >> 10);
    let lots = settings.bytes >> 10;
    let burst = BURST_BYTES.min(settings.bytes);
    for _ in 0..settings.rounds {
        for (row, batch) in [(&mut written_small, &small), (&mut written_large, &large)] {
            row.round(
                || bare::written(&dir.join("bare"), batch.bytes(), burst),
                || Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Written)?.append(batch, burst, IN_FLIGHT),
            )?;
        }
        let long = settings.bytes.max(4 << 20) * 2;
        sustained.round(
            || bare::written_bounded(&dir.join("bare"), large.bytes(), long, UNSYNCED_BYTES),
            || Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Written)?.append(&large, long, IN_FLIGHT),
        )?;
        let synced = |batch: &BatchView, in_flight| {
            Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Synced)?.append(batch, synced_bytes, in_flight)
        };
        for (row, batch, in_flight) in [
            (&mut synced_small, &small, IN_FLIGHT),
            (&mut synced_large, &large, IN_FLIGHT),
            (&mut synced_alone, &large, 1),
        ] {
            row.round(|| bare::synced(&dir.join("bare"), batch.bytes(), synced_bytes), || synced(batch, in_flight))?;
        }
        let engine = Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Written)?;
        engine.append(&large, settings.bytes / 2, IN_FLIGHT)?;
        // Both read the same file, and neither for the first time.
        engine.read(LARGE)?;
        read.round(|| bare::read(&engine.segment()?, LARGE), || engine.read(LARGE))?;
        drop(engine);
        let appends = |unsynced, partitions, count| {
            let engine = Engine::open(dir, unsynced, partitions, Durability::Synced)?;
            engine.append_each(&record, count, MANY_IN_FLIGHT)
        };
        many.round(|| appends(UNSYNCED_BYTES, 1, few), || appends(UNSYNCED_BYTES, PARTITIONS, few))?;
        long_run.round(|| appends(UNSYNCED_BYTES, 1, lots), || appends(UNSYNCED_BYTES, PARTITIONS, lots))?;
        // Nothing fits into a journal of no bytes.
        direct.round(|| appends(UNSYNCED_BYTES, 1, few), || appends(0, PARTITIONS, few / 8))?;
    }
    Ok(vec![
        written_small,
        written_large,
        sustained,
        synced_small,
        synced_large,
        synced_alone,
        read,
        many,
        long_run,
        direct,
    ])
}
