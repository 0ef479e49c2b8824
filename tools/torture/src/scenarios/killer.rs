//! Who starts the server, kills it and starts it again, and says so in the history.

use std::time::Duration;

use millstream_check::history::{Life, Recorder, What};
use millstream_check::seeded::Seeded;

use crate::failure::Failure;
use crate::load::Lives;
use crate::report::Tally;
use crate::run_dir::RunDir;
use crate::server_process::{Program, ServerProcess};

/// A stop under load takes about this long, if nothing has to land first.
pub const SHUTDOWN_US_MAX: u64 = 40_000;

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

pub struct Killer<'a> {
    pub program: Program,
    pub dir: &'a RunDir,
    /// For whom the server's settings differ from the defaults: `--set` of `millstream serve`.
    pub settings: &'static [&'static str],
    /// A stop is killed within this time.
    pub shutdown_us_max: u64,
    pub seeded: Seeded,
    pub recorder: Recorder,
    pub tally: Tally,
    pub lives: Lives,
}

impl Killer<'_> {
    /// From a server at work to the next one that is ready, on the same port: killed under load (7 of 10), and once or twice
    /// more while it recovers (2), or while it stops (1).
    pub async fn cycle(&mut self, server: ServerProcess, address: &str) -> Result<ServerProcess, Failure> {
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

    /// Kills it under load, and no more.
    pub async fn kill_and_start(&mut self, server: ServerProcess, address: &str) -> Result<ServerProcess, Failure> {
        self.kill(server, Life::KillUnderLoad).await?;
        self.start(address).await
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&mut self, listen: &str) -> Result<ServerProcess, Failure> {
        self.tell(Life::Start);
        let began = self.lives.begin(self.recorder.clock());
        let mut server = self.program.start(self.dir, listen, self.settings)?;
        self.tally.started(server.ready().await?);
        self.lives.ready(began, self.recorder.clock());
        self.tell(Life::Ready);
        Ok(server)
    }

    /// Stops it for good, and has what it leaves checked.
    pub async fn stop(&mut self, mut server: ServerProcess) -> Result<(), Failure> {
        server.terminate()?;
        let status = server.exited().await?;
        if !status.success() {
            return Err(Failure::run(format!("the last stop was not clean ({status}); server.log says why")));
        }
        self.tell(Life::Stop);
        self.program.verify(self.dir).await
    }

    async fn kill_in_recovery(&mut self, address: &str) -> Result<(), Failure> {
        let took_us = u64::try_from(self.tally.last_start.as_micros()).unwrap_or(u64::MAX);
        let after = Duration::from_micros(self.seeded.of(0..=took_us));
        self.tell(Life::Start);
        let began = self.lives.begin(self.recorder.clock());
        let mut server = self.program.start(self.dir, address, self.settings)?;
        let moment = tokio::select! {
            ready = server.ready() => {
                ready?;
                self.lives.ready(began, self.recorder.clock());
                self.tell(Life::Ready);
                Life::KillUnderLoad
            }
            () = tokio::time::sleep(after) => Life::KillInRecovery,
        };
        self.kill(server, moment).await
    }

    async fn kill_in_shutdown(&mut self, mut server: ServerProcess) -> Result<(), Failure> {
        let after = Duration::from_micros(self.seeded.of(0..=self.shutdown_us_max));
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

    fn tell(&mut self, life: Life) {
        self.tally.count(life);
        self.recorder.record(What::Server(life));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_come_as_often_as_is_said() {
        let mut seeded = Seeded::new(1);
        let moments: Vec<Moment> = (0..10_000).map(|_| Moment::choose(&mut seeded)).collect();
        let count = |moment| moments.iter().filter(|one| **one == moment).count();
        assert!((6_800..7_200).contains(&count(Moment::UnderLoad)));
        assert!((1_850..2_150).contains(&count(Moment::InRecovery)));
        assert!((850..1_150).contains(&count(Moment::InShutdown)));
    }
}
