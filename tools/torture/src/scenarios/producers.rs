//! Kills the server and cuts connections under producers whose records stand once; in the end each does, in the order of its
//! producer, and at the offset that was acknowledged.
//!
//! Everybody is connected through a proxy that loses, doubles and delays packets, and falls silent for a connection now and
//! then, for a while or for good. Producers pipeline with batches of 1 KiB to 1 MiB, 1 to 128 in flight; some give records up
//! while the server is away, some crash. One has dedup ids, dies, forgets what was acknowledged and sends its last window
//! again. One name passes from producer to producer while the one before still sends.
//! A cycle is one of `kill`'s, with up to three silences in it. A silent connection is given up after a second; in three of
//! ten cycles the server outlives some that are cut, so that what was in flight on them is sent again to the life that has
//! stored it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use millstream_check::history::{Clock, Recorder};
use millstream_check::seeded::Seeded;
use millstream_check::verdict::{Check, Verdict};
use millstream_client::{ByteSize, Client, LocalServer, StreamConfig};

use crate::cli;
use crate::failure::Failure;
use crate::last_read;
use crate::load::consumer::seen;
use crate::load::{Counted, HARNESS, LAST_READER, Lives, Load, LoadSettings, Mix};
use crate::proxy::{Damage, Proxy, Weather};
use crate::report::{Tally, grouped, others};
use crate::run_dir::RunDir;
use crate::scenarios::killer::{Killer, SHUTDOWN_US_MAX};
use crate::scenarios::{Keep, ended_early, judged};
use crate::server_process::Program;

const LOAD_MS: std::ops::RangeInclusive<u64> = 50..=500;
const SILENCES_MAX: u64 = 3;
const OUTLIVES_PERCENT: u64 = 30;
const CUTS_MAX: u64 = 4;
/// Longer than `idle_timeout` below.
const OUTLIVES_MS: std::ops::RangeInclusive<u64> = 1_300..=2_000;
const SETTINGS: &[&str] = &["idle_timeout=1 s"];
/// The smallest there is, so that what is known of producers is spread over many.
const SEGMENT: ByteSize = ByteSize::mib(1);
/// Longer than any run: what is sent again is always within it.
const DEDUP_WINDOW_MS: u32 = 24 * 60 * 60 * 1_000;
const PROGRESS_EVERY: u32 = 10;
/// Forks of the seed for whoever is not a process of the history.
const KILLER: u64 = 1 << 32;
const CUTTER: u64 = KILLER + 1;
const WEATHER: u64 = KILLER + 2;

/// A run that was judged.
#[derive(Debug)]
pub struct Report {
    tally: Tally,
    counted: Counted,
    damage: Damage,
    verdict: Verdict,
    again: String,
    seed: u64,
    kept: Option<PathBuf>,
}

/// Runs it and judges it.
///
/// # Errors
/// It could not begin; or the server or a client did what ends a run at once. What there is was kept then.
pub async fn run(mut options: cli::Producers) -> Result<Report, Failure> {
    options.run.settle_seed();
    let program = Program::find(options.run.server.as_deref())?;
    let mut dir = RunDir::make(options.run.keep_dir.as_deref())?;
    let clock = Clock::start();
    let killer = Killer {
        seeded: Seeded::new(options.run.seed()).fork(KILLER),
        recorder: Recorder::create(&dir.history(), HARNESS, clock)?,
        tally: Tally::default(),
        settings: SETTINGS,
        shutdown_us_max: SHUTDOWN_US_MAX,
        lives: Lives::default(),
        program,
        dir: &dir,
    };
    let mut torture = Torture { options: &options, killer, clock };
    let ended = Box::pin(torture.run()).await;
    let Killer { tally, recorder, .. } = torture.killer;
    let written = recorder.finish();
    let ended = ended.and_then(|done| written.map(|_| done).map_err(Failure::from));
    let of_cycles = (tally.cycles, options.cycles);
    let (counted, damage) = ended.map_err(|why| ended_early(why, &mut dir, of_cycles, &options.again()))?;
    let keep = if options.run.keep_dir.is_some() { Keep::Always } else { Keep::IfBad };
    let (verdict, kept) = judged(&mut dir, Vec::new(), keep).await?;
    Ok(Report { tally, counted, damage, verdict, again: options.again(), seed: options.run.seed(), kept })
}

struct Torture<'a> {
    options: &'a cli::Producers,
    killer: Killer<'a>,
    clock: Clock,
}

impl Torture<'_> {
    async fn run(&mut self) -> Result<(Counted, Damage), Failure> {
        let seeded = Seeded::new(self.options.run.seed());
        let mut server = self.killer.start("127.0.0.1:0").await?;
        let direct = server.address()?;
        let streams = vec!["torture".to_owned()];
        self.make_stream(&direct, &streams[0]).await?;
        let server_address = direct.address.parse();
        let server_address = server_address.map_err(|_| Failure::run(format!("{:?} is no address", direct.address)))?;
        let proxy = Proxy::start(server_address, Weather::ROUGH, seeded.fork(WEATHER)).await?;
        let through = LocalServer { address: proxy.address().to_string(), ..direct.clone() };
        let settings = LoadSettings {
            producers: self.options.producers,
            streams: streams.clone(),
            history: self.killer.dir.history(),
            clock: self.clock,
            mix: Mix::Exact { idempotent: !self.options.no_idempotence },
            lives: self.killer.lives.clone(),
            seeded: seeded.clone(),
        };
        let mut load = Load::start(&through, settings).await?;
        let mut cutter = seeded.fork(CUTTER);
        for cycle in 1..=self.options.cycles {
            load.next_ack().await?;
            for _ in 0..cutter.of(0..=SILENCES_MAX) {
                tokio::time::sleep(Duration::from_millis(cutter.of(LOAD_MS)) / 2).await;
                proxy.disturb(&mut cutter);
            }
            // The server outlives a connection that is cut, and answers what is sent again.
            if cutter.percent(OUTLIVES_PERCENT) {
                for _ in 0..cutter.of(1..=CUTS_MAX) {
                    proxy.cut(&mut cutter);
                }
                tokio::time::sleep(Duration::from_millis(cutter.of(OUTLIVES_MS))).await;
            }
            tokio::time::sleep(Duration::from_millis(self.killer.seeded.of(LOAD_MS))).await;
            server = self.killer.cycle(server, &direct.address).await?;
            self.killer.tally.cycles = cycle;
            if cycle % PROGRESS_EVERY == 0 {
                eprintln!("cycle {cycle} of {}: {}", self.options.cycles, self.killer.tally.progress(load.acked()));
            }
        }
        load.next_ack().await?;
        load.stop_sending().await?;
        let counted = load.counted();
        load.catch_up(last_read::ends(&direct, &streams).await?).await?;
        let reader = Recorder::create(&self.killer.dir.history(), LAST_READER, self.clock)?;
        last_read::read_all(&direct, &streams, seen, reader).await?;
        self.killer.stop(server).await?;
        Ok((counted, proxy.damage()))
    }

    async fn make_stream(&self, address: &LocalServer, name: &str) -> Result<(), Failure> {
        let config =
            StreamConfig { segment_bytes: SEGMENT.0, dedup_window_ms: DEDUP_WINDOW_MS, ..StreamConfig::default() };
        let failed = |error: millstream_client::Error| Failure::run(format!("a stream cannot be made: {error}"));
        let client = Client::connect(&address.address, &address.fingerprint).await.map_err(failed)?;
        client.create_stream(name, self.options.partitions, config).await.map_err(failed)?;
        client.close().await;
        Ok(())
    }
}

impl Report {
    /// The program's exit code.
    pub fn exit(&self) -> u8 {
        u8::from(!self.verdict.is_good())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tally, counted, damage, verdict, .. } = self;
        let (counts, of) = (verdict.counts(), |check| grouped(verdict.count(check)));
        write!(f, "{} {} cycles: ", if verdict.is_good() { "PASS" } else { "FAIL" }, tally.cycles)?;
        write!(f, "{} acked, {} lost, ", grouped(counts.acked), of(Check::LostWrite))?;
        write!(f, "{} duplicates, ", of(Check::Duplicate))?;
        write!(f, "{} reordered, ", grouped(verdict.count(Check::Reorder) + verdict.count(Check::RealTime)))?;
        write!(f, "{} divergent, {} phantom, ", of(Check::Divergence), of(Check::Phantom))?;
        write!(f, "{} stored by fenced producers, ", of(Check::Fenced))?;
        let told = [Check::LostWrite, Check::Duplicate, Check::Reorder, Check::RealTime, Check::Divergence];
        others(f, verdict, &[&told[..], &[Check::Phantom, Check::Fenced]].concat())?;
        write!(f, "{} unknown ({} stored), ", grouped(counts.unknown), grouped(counts.unknown_stored))?;
        write!(f, "{} read; ", grouped(counts.fetched + counts.last_read))?;
        write!(f, "{} batches resent, ", grouped(counted.resent))?;
        write!(f, "{} records answered as stored before out of the log, ", grouped(counted.from_log))?;
        write!(f, "{} out of memory, ", grouped(counted.from_memory))?;
        write!(
            f,
            "{} by their dedup ids in {} lives that repeat, ",
            grouped(counted.known_ids),
            grouped(counted.repeated)
        )?;
        write!(f, "{} producers fenced; ", grouped(counted.fenced))?;
        let Damage { cuts, stalls, spoilt, silenced } = *damage;
        write!(f, "{} connections cut, {} stalled ({} packets), ", grouped(cuts), grouped(stalls), grouped(silenced))?;
        write!(f, "{} packets lost, doubled or late; ", grouped(spoilt))?;
        write!(f, "{}, seed {}", tally.kills_told(), self.seed)?;
        if let Some(kept) = &self.kept {
            write!(f, "; kept in {}", kept.display())?;
        }
        if !verdict.is_good() {
            write!(f, "; again: {}", self.again)?;
        }
        Ok(())
    }
}
