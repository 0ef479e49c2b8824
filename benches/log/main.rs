//! The engine alone against bare system calls on the same file system, in turn, as ratios:
//! `cargo bench -p millstream-benches --bench log [-- --json]`.
//!
//! | row | product | ceiling |
//! | --- | --- | --- |
//! | append written | 1 KiB records in 64 KiB or 1 MiB batches, 8 in flight, `written`; a burst that fits the unsynced bytes | `pwrite` of the same bytes |
//! | append written, sustained | eight times what may be unsynced | `pwrite`, and `fdatasync` on a second thread that keeps the same bound |
//! | append synced | one batch in flight | `pwrite` and `fdatasync` |
//! | read | 1 MiB at a time out of the page cache, headers checked | `pread` into one page-aligned buffer |
//! | small durable appends | one 1 KiB record a batch, 1,024 in flight, over 1,000 partitions | the product's own rate to 1 partition |
//! | the same without a journal | every touched segment synced itself | the same |

mod appends;
mod bare;

use std::path::Path;

use millstream_benches::ratio::{Better, Row, json, table};
use millstream_benches::settings::Settings;
use millstream_log::Durability;

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

fn run(settings: &Settings, dir: &Path) -> Result<Vec<Row>, Error> {
    if let Ok(which) = std::env::var("ONLY") {
        let (small, large, record) = (batch(SMALL), batch(LARGE), batch(1 << 10));
        for _ in 0..settings.rounds {
            let rate = match which.as_str() {
                "w64" => Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Written)?.append(&small, BURST_BYTES, IN_FLIGHT)?,
                "w1m" => Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Written)?.append(&large, BURST_BYTES, IN_FLIGHT)?,
                "b1m" => bare::written(&dir.join("bare"), large.bytes(), BURST_BYTES)?,
                "mix" => { let b = bare::written(&dir.join("bare"), large.bytes(), BURST_BYTES)?; print!("bare {b:.0} "); let e = Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Written)?; let a = e.append(&large, BURST_BYTES/4, IN_FLIGHT)?; print!("first {a:.0} ");  e.append(&large, BURST_BYTES/2, IN_FLIGHT)? },
                "mix2" => { let b = bare::written(&dir.join("bare"), large.bytes(), BURST_BYTES)?; print!("bare {b:.0} "); let b = bare::written(&dir.join("bare"), large.bytes(), BURST_BYTES)?; print!("bare {b:.0} "); let e = Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Written)?; e.append(&large, BURST_BYTES/2, 1)? },
                "sb" => { let b = bare::synced(&dir.join("bare"), large.bytes(), 64 << 20)?; let e = Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Synced)?; let a = e.append(&large, 64 << 20, 1)?; print!("ratio {:.2} bare {b:.0} ", a/b); a },
                "s1m" => Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Synced)?.append(&large, 64 << 20, 1)?,
                "many4" => { let e = Engine::open(dir, UNSYNCED_BYTES, PARTITIONS, Durability::Synced)?; for _ in 0..8 { print!("{:.0} ", e.append_each(&record, 32 << 10, MANY_IN_FLIGHT)?); } 0.0 },
                "manybig" => { let e = Engine::open(dir, UNSYNCED_BYTES*16, PARTITIONS, Durability::Synced)?; for _ in 0..8 { print!("{:.0} ", e.append_each(&record, 32 << 10, MANY_IN_FLIGHT)?); } 0.0 },
                "manyw" => { let e = Engine::open(dir, UNSYNCED_BYTES*16, PARTITIONS, Durability::Written)?; for _ in 0..8 { print!("{:.0} ", e.append_each(&record, 32 << 10, MANY_IN_FLIGHT)?); } 0.0 },
                "many" => Engine::open(dir, UNSYNCED_BYTES, PARTITIONS, Durability::Synced)?.append_each(&record, 128 << 10, MANY_IN_FLIGHT)?,
                "one" => Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Synced)?.append_each(&record, 256 << 10, MANY_IN_FLIGHT)?,
                _ => { let engine = Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Written)?; engine.append(&large, settings.bytes / 2, IN_FLIGHT)?; engine.read(LARGE)?; engine.read(LARGE)? }
            };
            println!("{which} {rate:.0}");
        }
        std::process::exit(0);
    }
    let row = |name, unit, aim| Row::new(name, unit, Better::Higher, aim);
    let mut written_small = row("append written, 64 KiB / pwrite", "MB/s", None);
    let mut written_large = row("append written, 1 MiB / pwrite", "MB/s", Some(0.9));
    let mut sustained = row("append written, 1 MiB, sustained / the same bound", "MB/s", None);
    let mut synced_small = row("append synced, 64 KiB / pwrite, fdatasync", "MB/s", None);
    let mut synced_large = row("append synced, 1 MiB / pwrite, fdatasync", "MB/s", Some(0.9));
    let mut read = row("read, 1 MiB / pread", "MB/s", Some(0.9));
    let mut many = row("small durable appends, 1,000 partitions / 1", "1/s", Some(0.5));
    let mut direct = row("the same without a journal / 1", "1/s", None);
    let (small, large, record) = (batch(SMALL), batch(LARGE), batch(1 << 10));
    let synced_bytes = settings.bytes / 4;
    let appends = settings.bytes / (1 << 10) / 2;
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
        for (row, batch) in [(&mut synced_small, &small), (&mut synced_large, &large)] {
            row.round(
                || bare::synced(&dir.join("bare"), batch.bytes(), synced_bytes),
                || Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Synced)?.append(batch, synced_bytes, 1),
            )?;
        }
        let engine = Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Written)?;
        engine.append(&large, settings.bytes / 2, IN_FLIGHT)?;
        // Both read the same file, and neither for the first time.
        engine.read(LARGE)?;
        read.round(|| bare::read(&engine.segment()?, LARGE), || engine.read(LARGE))?;
        drop(engine);
        let one =
            || Engine::open(dir, UNSYNCED_BYTES, 1, Durability::Synced)?.append_each(&record, appends, MANY_IN_FLIGHT);
        many.round(one, || {
            Engine::open(dir, UNSYNCED_BYTES, PARTITIONS, Durability::Synced)?.append_each(
                &record,
                appends,
                MANY_IN_FLIGHT,
            )
        })?;
        // Nothing fits into a journal of no bytes.
        direct.round(one, || {
            Engine::open(dir, 0, PARTITIONS, Durability::Synced)?.append_each(&record, appends / 20, MANY_IN_FLIGHT)
        })?;
    }
    Ok(vec![written_small, written_large, sustained, synced_small, synced_large, read, many, direct])
}
