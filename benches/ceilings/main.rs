//! The bare machine in figures: `cargo bench -p millstream-benches --bench ceilings [-- --json]`.
//!
//! On a virtual machine whose cores halt when idle, a lone `fdatasync` may be seen only at the next timer tick (4 ms at
//! 250 Hz, sixteen times its real cost): compare with a run beside other work before believing the last three.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_benches::gather::Gather;
use millstream_benches::pipe::{Ack, Pipe, Server};
use millstream_benches::quic::{DATAGRAM_BYTES_ETHERNET, DATAGRAM_BYTES_MAX, Error, SOCKET_BUFFER};
use millstream_benches::ratio::Spread;
use millstream_benches::settings::Settings;
use millstream_benches::{disk, memory, process};

const STREAMS: usize = 4;
/// Batches of a stream without an ack.
const DEPTH: usize = 8;

struct Figure {
    name: String,
    unit: &'static str,
    rounds: Vec<f64>,
}

fn main() -> Result<(), Error> {
    let settings = Settings::read(env!("CARGO_TARGET_TMPDIR"), 5, 256);
    let dir = tempfile::tempdir_in(&settings.directory)?;
    let (file, synced) = (dir.path().join("cached"), dir.path().join("synced"));
    let block = memory::noise(1 << 20);
    disk::fill(&file, &block, settings.bytes)?;
    let mut figures: Vec<Figure> = Vec::new();
    let mut note = |name: &str, unit, value| match figures.iter_mut().find(|figure| figure.name == name) {
        Some(figure) => figure.rounds.push(value),
        None => figures.push(Figure { name: name.to_owned(), unit, rounds: vec![value] }),
    };
    for _ in 0..settings.rounds {
        let rate = |bytes: u64, elapsed: Duration| bytes as f64 / 1e6 / elapsed.as_secs_f64();
        let mut copied = vec![0; block.len()];
        let start = Instant::now();
        (0..256).for_each(|_| memory::copy(&block, &mut copied));
        note("copy in memory, 1 MiB", "MB/s", rate(256 << 20, start.elapsed()));
        let start = Instant::now();
        (0..256).for_each(|_| {
            black_box(memory::crc(&block));
        });
        note("crc32, 1 MiB", "MB/s", rate(256 << 20, start.elapsed()));
        let start = Instant::now();
        let by_pread = disk::crc_by_pread(&file, 1 << 20)?;
        note("cached file: pread 1 MiB, crc32", "MB/s", rate(settings.bytes, start.elapsed()));
        let start = Instant::now();
        let by_map = disk::crc_by_map(&file)?;
        note("cached file: map, crc32", "MB/s", rate(settings.bytes, start.elapsed()));
        assert_eq!(by_pread, by_map, "the same bytes");
        // Pages that the cache gets new are memory that a virtual machine's host may have to find first.
        let fresh = dir.path().join("fresh");
        for name in ["write 1 MiB, new pages of the cache", "write 1 MiB, the same pages again"] {
            let before = process::thread_cpu();
            disk::overwrite(&fresh, &block, settings.bytes)?;
            let took = process::thread_cpu() - before;
            note(name, "µs of CPU a MB", took.as_secs_f64() * 1e12 / settings.bytes as f64);
        }
        std::fs::remove_file(&fresh)?;
        for (name, length, count) in [
            ("1 KiB and fdatasync, p50", 1 << 10, 400),
            ("64 KiB and fdatasync, p50", 64 << 10, 200),
            ("1 MiB and fdatasync, p50", 1 << 20, 50),
        ] {
            let times = disk::synced_appends(&synced, &block[..length], count)?;
            note(name, "µs", Spread::of(times.iter().map(|time| time.as_secs_f64() * 1e6)).median);
        }
    }
    let mut pipes = Vec::new();
    for datagram in [DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_ETHERNET] {
        for (how, gather) in [("pieces", Gather::Pieces), ("fresh", Gather::Fresh), ("used again", Gather::UsedAgain)] {
            let server = Server::start_gathering(dir.path(), &file, datagram, SOCKET_BUFFER, gather)?;
            let pipe = Pipe::connect(server.address, &server.certificate)?;
            pipes.push((format!("beside QUIC, {datagram}, {how}"), server, pipe));
        }
    }
    let batch = Bytes::from(block);
    // Each settles its path in a round that does not count.
    for round in 0..=settings.rounds {
        for (name, server, pipe) in &pipes {
            let before = server.writing();
            let batches = (settings.bytes as usize / batch.len() / STREAMS).max(1);
            let took = pipe.produce(&batch, STREAMS, batches, DEPTH, Ack::Synced)?;
            let megabytes = (STREAMS * batches * batch.len()) as f64 / 1e6;
            if round > 0 {
                let writing = (server.writing() - before).as_secs_f64() * 1e6 / megabytes;
                note(&format!("write {name}: the thread"), "µs of CPU a MB", writing);
                note(&format!("write {name}: in all"), "MB/s", megabytes / took.as_secs_f64());
            }
        }
    }
    if settings.json {
        let object: serde_json::Map<_, _> = figures
            .iter()
            .map(|figure| (format!("{} ({})", figure.name, figure.unit), serde_json::json!(figure.rounds)))
            .collect();
        println!("{}", serde_json::Value::Object(object));
        return Ok(());
    }
    for Figure { name, unit, rounds } in figures {
        let spread = Spread::of(rounds);
        println!("{name:48} {:>8.0} [{:.0}..{:.0}] {unit}", spread.median, spread.min, spread.max);
    }
    Ok(())
}
