//! A lake against a bare program that does the same conversion with the same crates, in turn, as ratios:
//! `cargo bench -p millstream-benches --bench lake [-- --json]`.
//!
//! | row | product | ceiling |
//! | --- | --- | --- |
//! | landing, CPU | a backlog of flights, in 4 partitions of the log, into Parquet in a local lake; MB of JSON for each second of CPU | [`bare`]: the same lines from the page cache, through arrow-json (its schema given) into Parquet, zstd 1, row groups of 1 Mi rows or 64 MiB |
//! | landing, wall | the same by the clock; the product reads one partition a core of two | the same, on one core |
//! | by directory | by carrier and month (the sample: and day) | a decoder and a writer for each of the same files |
//! | produce | 260-byte records into another stream, while a lake (with the sample: several) catches up | without it |
//! | ack p99 | the same at 5,000 records a second | without it |
//!
//! Beside them: the memory that landing in 200 directories takes, and how old the newest landed record is at 1,000 records a
//! second and a roll of 10 s.
//!
//! Both decode and encode the same values, and both write the four columns that a lake adds (where each record comes from, and
//! what had no column). The product does more: it reads and checks the log, and finds out the schema.
//!
//! `MILLSTREAM_FLIGHTS=FILE` (NDJSON, not compressed) lands that 20 times over (`MILLSTREAM_FLIGHTS_TIMES`); without it the
//! committed sample is repeated. `MILLSTREAM_LAKE_SECONDS` (30) is how long freshness is watched. `MILLSTREAM_LAKE_ONLY=landing`,
//! `memory`, `freshness` or `produce` runs that alone.

mod backlog;
mod bare;
mod flights;
mod live;

use std::path::Path;
use std::time::Duration;

use millstream_benches::ratio::{Better, Row, json, table};
use millstream_benches::settings::Settings;

use backlog::{Backlog, Cost};
use flights::Flights;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Directories whose files are all open at once, in each of four partitions: 200 files, 800 files.
const SLOTS: [usize; 2] = [50, 200];
/// Enough for each directory in each partition: what is measured is not how files are closed to make room.
const OPEN_FILES: u32 = 1_024;
const PRODUCE_TIME: Duration = Duration::from_secs(3);

fn main() -> Result<(), Error> {
    let settings = Settings::read(env!("CARGO_TARGET_TMPDIR"), 5, 128);
    let dir = tempfile::tempdir_in(&settings.directory)?;
    let flights = Flights::find(settings.bytes)?;
    let only = std::env::var("MILLSTREAM_LAKE_ONLY").ok();
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    // First, while this process holds nothing else.
    if wanted("memory") {
        for slots in SLOTS {
            notes.push(memory(&flights, dir.path(), slots)?);
        }
    }
    if wanted("landing") {
        rows.extend(landing(&settings, &flights, dir.path())?);
    }
    if wanted("produce") {
        rows.extend(produce(&settings, &flights, dir.path())?);
    }
    if wanted("freshness") {
        notes.push(live::freshness(&dir.path().join("fresh"))?);
    }
    let title = format!(
        "{} rounds, {} times {} ({:.0} MB); median [min..max]; 1.00 is the ceiling",
        settings.rounds,
        flights.times,
        flights.path.display(),
        flights.bytes() as f64 / 1e6
    );
    if settings.json {
        println!("{}", json(&format!("{title}; {}", notes.join("; ")), &rows));
    } else {
        if !rows.is_empty() {
            println!("{}", table(&title, &rows));
        }
        notes.iter().for_each(|note| println!("{note}"));
    }
    Ok(())
}

fn landing(settings: &Settings, flights: &Flights, dir: &Path) -> Result<Vec<Row>, Error> {
    let row = |name, aim| Row::new(name, "MB/s", Better::Higher, aim);
    let mut flat = [row("flat, of a core / bare", Some(0.9)), row("flat, by the clock / bare", None)];
    let mut by = [row("by directory, of a core / bare", Some(0.9)), row("by directory, by the clock / bare", None)];
    let backlog = Backlog::fill(&dir.join("backlog"), flights, None)?;
    let layout = format!("carrier={{carrier}}/date={{event_time:{}}}", flights.format());
    // A round that nobody counts: pages are touched, the allocator has grown.
    bare::flat(flights, dir)?;
    backlog.land(dir, "", OPEN_FILES)?;
    for round in 0..settings.rounds {
        let pair = |is_flat: bool| -> Result<(Cost, Cost), Error> {
            let bare = || if is_flat { bare::flat(flights, dir) } else { bare::by_directory(flights, dir) };
            let land = || backlog.land(dir, if is_flat { "" } else { &layout }, OPEN_FILES);
            Ok(if round % 2 == 0 {
                let bare = bare()?;
                (bare, land()?)
            } else {
                let land = land()?;
                (bare()?, land)
            })
        };
        for (rows, is_flat) in [(&mut flat, true), (&mut by, false)] {
            let (bare, land) = pair(is_flat)?;
            let rate = |time: Duration| Ok::<_, Error>(flights.bytes() as f64 / 1e6 / time.as_secs_f64());
            rows[0].round(|| rate(bare.cpu), || rate(land.cpu))?;
            rows[1].round(|| rate(bare.wall), || rate(land.wall))?;
        }
    }
    Ok([flat, by].concat())
}

fn memory(flights: &Flights, dir: &Path, slots: usize) -> Result<String, Error> {
    let backlog = Backlog::fill(&dir.join(format!("slots-{slots}")), flights, Some(slots))?;
    let (before, peak) = backlog.land_watched(dir, "slot={slot}", OPEN_FILES)?;
    let mib = |bytes: u64| bytes >> 20;
    Ok(format!(
        "memory: {} MiB of RssAnon at the peak, {} MiB before, with {slots} directories open in each of {} partitions",
        mib(peak),
        mib(before),
        backlog::PARTITIONS
    ))
}

fn produce(settings: &Settings, flights: &Flights, dir: &Path) -> Result<Vec<Row>, Error> {
    let mut rate = Row::new("produce while lakes catch up / without", "1/s", Better::Higher, None);
    let mut p50 = Row::new("ack p50 at 5,000/s while they do / without", "µs", Better::Lower, None);
    let mut p99 = Row::new("ack p99 at 5,000/s while they do / without", "µs", Better::Lower, None);
    let live = live::Live::start(&dir.join("live"))?;
    live.fill("backlog", flights)?;
    live.produce(PRODUCE_TIME, None)?;
    for _ in 0..settings.rounds {
        rate.round(
            || live.produce(PRODUCE_TIME, None).map(|done| done.rate),
            || live.behind(flights, || live.produce(PRODUCE_TIME, None)).map(|done| done.rate),
        )?;
        let alone = live.produce(PRODUCE_TIME, Some(5_000))?;
        let behind = live.behind(flights, || live.produce(PRODUCE_TIME, Some(5_000)))?;
        p50.round(|| Ok::<_, Error>(alone.p50_us), || Ok(behind.p50_us))?;
        p99.round(|| Ok::<_, Error>(alone.p99_us), || Ok(behind.p99_us))?;
    }
    live.stop()?;
    Ok(vec![rate, p50, p99])
}
