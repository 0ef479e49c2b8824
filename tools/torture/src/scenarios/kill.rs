//! Kills the server again and again under load; in the end everything acknowledged is there, once, in order.
//!
//! A cycle: load for 50 to 500 ms from the first acknowledgement on, then, as the seed says,
//! - 70 %: `kill -9` under load;
//! - 20 %: the same, and once or twice more while the server recovers;
//! - 10 %: SIGTERM, and `kill -9` if it has not stopped a moment later;
//!
//! then a start on the same port, awaited. After the last cycle: no more load, everybody catches up, a fresh client reads
//! everything, a clean stop, `millstream verify`, and the checkers judge the whole history.
//! A `written` stream promises as much here: a kill leaves the page cache.

use std::time::Duration;

use millstream_check::history::{Clock, Recorder};
use millstream_check::seeded::Seeded;
use millstream_client::{ByteSize, Client, Durability, LocalServer, StreamConfig};

use crate::cli;
use crate::failure::Failure;
use crate::last_read;
use crate::load::consumer::seen;
use crate::load::{HARNESS, LAST_READER, Lives, Load, LoadSettings, Mix};
use crate::report::{Report, Tally};
use crate::run_dir::RunDir;
use crate::scenarios::killer::{Killer, SHUTDOWN_US_MAX};
use crate::scenarios::{Keep, ended_early, judged};
use crate::server_process::Program;

const LOAD_MS: std::ops::RangeInclusive<u64> = 50..=500;
/// The smallest there is, so that kills meet segments being rolled.
const SEGMENT: ByteSize = ByteSize::mib(1);
const PROGRESS_EVERY: u32 = 10;
/// Forks of the seed for whoever is not a process of the history.
const KILLER: u64 = 1 << 32;

/// Runs it and judges it.
///
/// # Errors
/// It could not begin; or the server or a client did what ends a run at once. What there is was kept then.
pub async fn run(mut options: cli::Kill) -> Result<Report, Failure> {
    options.run.settle_seed();
    let program = Program::find(options.run.server.as_deref())?;
    let mut dir = RunDir::make(options.run.keep_dir.as_deref())?;
    let clock = Clock::start();
    let killer = Killer {
        seeded: Seeded::new(options.run.seed()).fork(KILLER),
        recorder: Recorder::create(&dir.history(), HARNESS, clock)?,
        tally: Tally::default(),
        settings: &[],
        shutdown_us_max: SHUTDOWN_US_MAX,
        lives: Lives::default(),
        program,
        dir: &dir,
    };
    let mut torture = Torture { options: &options, killer, clock };
    let ended = Box::pin(torture.run()).await;
    let Killer { tally, recorder, .. } = torture.killer;
    let ended = ended.and(recorder.finish().map(drop).map_err(Failure::from));
    ended.map_err(|why| ended_early(why, &mut dir, (tally.cycles, options.cycles), &options.again()))?;
    let keep = if options.run.keep_dir.is_some() { Keep::Always } else { Keep::IfBad };
    let (verdict, kept) = judged(&mut dir, Vec::new(), keep).await?;
    Ok(Report { tally, verdict, again: options.again(), seed: options.run.seed(), kept })
}

struct Torture<'a> {
    options: &'a cli::Kill,
    killer: Killer<'a>,
    clock: Clock,
}

impl Torture<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        let mut server = self.killer.start("127.0.0.1:0").await?;
        let address = server.address()?;
        let streams: Vec<String> = (0..self.options.streams).map(|stream| format!("torture-{stream}")).collect();
        self.make_streams(&address, &streams).await?;
        let settings = LoadSettings {
            producers: self.options.producers,
            streams: streams.clone(),
            history: self.killer.dir.history(),
            clock: self.clock,
            seeded: Seeded::new(self.options.run.seed()),
            mix: Mix::Any,
            lives: self.killer.lives.clone(),
        };
        let mut load = Load::start(&address, settings).await?;
        for cycle in 1..=self.options.cycles {
            load.next_ack().await?;
            let under_load = Duration::from_millis(self.killer.seeded.of(LOAD_MS));
            tokio::time::sleep(under_load).await;
            server = self.killer.cycle(server, &address.address).await?;
            self.killer.tally.cycles = cycle;
            if cycle % PROGRESS_EVERY == 0 {
                eprintln!("cycle {cycle} of {}: {}", self.options.cycles, self.killer.tally.progress(load.acked()));
            }
        }
        load.next_ack().await?;
        load.stop_sending().await?;
        load.catch_up(last_read::ends(&address, &streams).await?).await?;
        let reader = Recorder::create(&self.killer.dir.history(), LAST_READER, self.clock)?;
        last_read::read_all(&address, &streams, seen, reader).await?;
        self.killer.stop(server).await
    }

    async fn make_streams(&self, address: &LocalServer, streams: &[String]) -> Result<(), Failure> {
        let durability = match self.options.durability {
            cli::Durability::Synced => Durability::Synced,
            cli::Durability::Written => Durability::Written,
        };
        let config = StreamConfig { durability, segment_bytes: SEGMENT.0, ..StreamConfig::default() };
        let failed = |error: millstream_client::Error| Failure::run(format!("a stream cannot be made: {error}"));
        let client = Client::connect(&address.address, &address.fingerprint).await.map_err(failed)?;
        for name in streams {
            client.create_stream(name, self.options.partitions, config.clone()).await.map_err(failed)?;
        }
        client.close().await;
        Ok(())
    }
}
