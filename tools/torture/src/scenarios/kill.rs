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

use millstream_check::history::{Clock, Life, Recorder, What};
use millstream_check::seeded::Seeded;
use millstream_client::{ByteSize, Client, Durability, LocalServer, StreamConfig};

use crate::cli;
use crate::failure::Failure;
use crate::judge::judge;
use crate::last_read;
use crate::load::{HARNESS, LAST_READER, Load, LoadSettings};
use crate::report::{Report, Tally};
use crate::run_dir::RunDir;
use crate::server_process::{Program, ServerProcess};

const LOAD_MS: std::ops::RangeInclusive<u64> = 50..=500;
/// A stop under load takes about this long.
const SHUTDOWN_US_MAX: u64 = 40_000;
/// The smallest there is, so that kills meet segments being rolled.
const SEGMENT: ByteSize = ByteSize::mib(1);
const PROGRESS_EVERY: u32 = 10;
/// Forks of the seed for whoever is not a process of the history.
const KILLER: u64 = 1 << 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    UnderLoad,
    InRecovery,
    InShutdown,
}

impl Moment {
    fn choose(seeded: &mut Seeded) -> Self {
        match seeded.of(0..=99) {
            0..=69 => Self::UnderLoad,
            70..=89 => Self::InRecovery,
            _ => Self::InShutdown,
        }
    }
}

/// Runs it and judges it.
///
/// # Errors
/// It could not begin; or the server or a client did what ends a run at once. What there is was kept then.
pub async fn run(mut options: cli::Kill) -> Result<Report, Failure> {
    options.settle_seed();
    let program = Program::find(options.server.as_deref())?;
    let mut dir = RunDir::make(options.keep_dir.as_deref())?;
    let clock = Clock::start();
    let mut torture = Torture {
        seeded: Seeded::new(options.seed()).fork(KILLER),
        recorder: Recorder::create(&dir.history(), HARNESS, clock)?,
        tally: Tally::default(),
        options: &options,
        program,
        dir: &dir,
        clock,
    };
    let ended = Box::pin(torture.run()).await;
    let Torture { tally, recorder, .. } = torture;
    let ended = ended.and(recorder.finish().map(drop).map_err(Failure::from));
    if let Err(Failure::Run(text)) = ended {
        dir.keep();
        let when = match tally.cycles {
            done if done < options.cycles => format!("in cycle {} of {}", done + 1, options.cycles),
            all => format!("after all {all} cycles"),
        };
        let (kept, again) = (dir.path().display(), options.again());
        return Err(Failure::run(format!("{when}: {text}; kept in {kept}; again: {again}")));
    }
    ended?;
    let history = dir.history();
    let judged = tokio::task::spawn_blocking(move || judge(&history)).await;
    let verdict = judged.map_err(|error| Failure::run(format!("the judge panicked: {error}")))??;
    let kept = (!verdict.is_good() || options.keep_dir.is_some()).then(|| dir.path().to_owned());
    if kept.is_some() {
        dir.keep();
    }
    verdict.violations().iter().for_each(|violation| eprintln!("{violation}"));
    Ok(Report { tally, verdict, again: options.again(), seed: options.seed(), kept })
}

struct Torture<'a> {
    options: &'a cli::Kill,
    program: Program,
    dir: &'a RunDir,
    clock: Clock,
    seeded: Seeded,
    recorder: Recorder,
    tally: Tally,
}

impl Torture<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        let mut server = self.start("127.0.0.1:0").await?;
        let address = server.address()?;
        let streams: Vec<String> = (0..self.options.streams).map(|stream| format!("torture-{stream}")).collect();
        self.make_streams(&address, &streams).await?;
        let settings = LoadSettings {
            producers: self.options.producers,
            streams: streams.clone(),
            history: self.dir.history(),
            clock: self.clock,
            seeded: Seeded::new(self.options.seed()),
        };
        let mut load = Load::start(&address, settings).await?;
        for cycle in 1..=self.options.cycles {
            load.next_ack().await?;
            let under_load = Duration::from_millis(self.seeded.of(LOAD_MS));
            tokio::time::sleep(under_load).await;
            server = self.cycle(server, &address.address).await?;
            self.tally.cycles = cycle;
            if cycle % PROGRESS_EVERY == 0 {
                eprintln!("cycle {cycle} of {}: {}", self.options.cycles, self.tally.progress(load.acked()));
            }
        }
        load.next_ack().await?;
        load.stop_sending().await?;
        load.catch_up(last_read::ends(&address, &streams).await?).await?;
        let reader = Recorder::create(&self.dir.history(), LAST_READER, self.clock)?;
        last_read::read_all(&address, &streams, reader).await?;
        server.terminate()?;
        let status = server.exited().await?;
        if !status.success() {
            return Err(Failure::run(format!("the last stop was not clean ({status}); server.log says why")));
        }
        self.tell(Life::Stop);
        self.program.verify(self.dir).await
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

    /// From a server at work to the next one that is ready.
    async fn cycle(&mut self, server: ServerProcess, address: &str) -> Result<ServerProcess, Failure> {
        match Moment::choose(&mut self.seeded) {
            Moment::UnderLoad => self.kill(server, Life::KillUnderLoad).await?,
            Moment::InRecovery => {
                self.kill(server, Life::KillUnderLoad).await?;
                for _ in 0..self.seeded.of(1..=2) {
                    self.kill_in_recovery(address).await?;
                }
            }
            Moment::InShutdown => self.kill_in_shutdown(server).await?,
        }
        self.start(address).await
    }

    async fn kill_in_recovery(&mut self, address: &str) -> Result<(), Failure> {
        let took_us = u64::try_from(self.tally.last_start.as_micros()).unwrap_or(u64::MAX);
        let after = Duration::from_micros(self.seeded.of(0..=took_us));
        self.tell(Life::Start);
        let mut server = self.program.start(self.dir, address)?;
        let moment = tokio::select! {
            ready = server.ready() => {
                ready?;
                self.tell(Life::Ready);
                Life::KillUnderLoad
            }
            () = tokio::time::sleep(after) => Life::KillInRecovery,
        };
        self.kill(server, moment).await
    }

    async fn kill_in_shutdown(&mut self, mut server: ServerProcess) -> Result<(), Failure> {
        let after = Duration::from_micros(self.seeded.of(0..=SHUTDOWN_US_MAX));
        server.terminate()?;
        let stopped = tokio::select! {
            status = server.exited() => Some(status?),
            () = tokio::time::sleep(after) => None,
        };
        match stopped {
            None => self.kill(server, Life::KillInShutdown).await,
            Some(status) if status.success() => {
                self.tell(Life::Stop);
                Ok(())
            }
            Some(status) => Err(Failure::run(format!("a stop under load was not clean ({status}); see server.log"))),
        }
    }

    async fn kill(&mut self, server: ServerProcess, moment: Life) -> Result<(), Failure> {
        server.kill().await?;
        self.tell(moment);
        Ok(())
    }

    async fn start(&mut self, listen: &str) -> Result<ServerProcess, Failure> {
        self.tell(Life::Start);
        let mut server = self.program.start(self.dir, listen)?;
        self.tally.started(server.ready().await?);
        self.tell(Life::Ready);
        Ok(server)
    }

    fn tell(&mut self, life: Life) {
        self.tally.count(life);
        self.recorder.record(What::Server(life));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_come_as_often_as_the_header_says() {
        let mut seeded = Seeded::new(1);
        let moments: Vec<Moment> = (0..10_000).map(|_| Moment::choose(&mut seeded)).collect();
        let count = |moment| moments.iter().filter(|one| **one == moment).count();
        assert!((6_800..7_200).contains(&count(Moment::UnderLoad)));
        assert!((1_850..2_150).contains(&count(Moment::InRecovery)));
        assert!((850..1_150).contains(&count(Moment::InShutdown)));
    }
}
