//! This program as child processes, which clients are that can be killed: started, killed, told to leave.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use millstream_check::history::{Clock, Recorder};
use millstream_check::seeded::Seeded;
use millstream_client::{Client, Error, LocalServer};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::failure::Failure;

/// One that leaves finishes what it has in hand, and says so.
const LEAVE_DEADLINE: Duration = Duration::from_secs(30);
/// They count on from here as processes of the history.
const FIRST_PROCESS: u32 = 10_001;

/// What every child is told: the server, and where it writes down what it does, as which process, by the clock of that origin.
#[derive(Debug, Clone, Args)]
pub struct Told {
    #[arg(long)]
    address: String,
    #[arg(long)]
    fingerprint: String,
    #[arg(long)]
    history: PathBuf,
    #[arg(long)]
    pub process: u32,
    #[arg(long)]
    origin_ns: u64,
    #[arg(long)]
    seed: u64,
}

impl Told {
    /// What the `process` of 0 stands for is filled in for each child.
    pub fn all(server: &LocalServer, history: PathBuf, clock: Clock, seed: u64) -> Self {
        let LocalServer { address, fingerprint, .. } = server.clone();
        Self { address, fingerprint, history, process: 0, origin_ns: clock.origin_ns(), seed }
    }

    /// The history of this process.
    pub fn recorder(&self) -> Result<Recorder, Failure> {
        Ok(Recorder::create(&self.history, self.process, Clock::of_origin(self.origin_ns))?)
    }

    /// Choices of its own.
    pub fn seeded(&self) -> Seeded {
        Seeded::new(self.seed).fork(u64::from(self.process))
    }

    /// One attempt to reach the server.
    pub async fn connect(&self) -> Result<Client, Error> {
        let name = format!("torture-{}", self.process);
        let builder = Client::builder(&self.address).fingerprint(&self.fingerprint).name(name);
        builder.connect_timeout(Duration::from_secs(1)).connect().await
    }

    fn args(&self, process: u32) -> Vec<OsString> {
        let number = |number: u64| OsString::from(number.to_string());
        [
            ("--address", self.address.clone().into()),
            ("--fingerprint", self.fingerprint.clone().into()),
            ("--history", self.history.clone().into()),
            ("--process", number(process.into())),
            ("--origin-ns", number(self.origin_ns)),
            ("--seed", number(self.seed)),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.into(), value])
        .collect()
    }
}

/// A child that was killed: its process, the moment before it, and the moment after it.
#[derive(Debug, Clone, Copy)]
pub struct Killed {
    pub process: u32,
    pub before_ns: u64,
    pub after_ns: u64,
}

/// Children at work. Killed when dropped.
#[derive(Debug)]
pub struct Children {
    /// Which of this program's commands they run, and what that is told beside [`Told`].
    what: &'static str,
    own_args: Vec<OsString>,
    told: Told,
    /// What all of them write to stderr.
    log: PathBuf,
    next: u32,
    alive: Vec<(u32, Child)>,
    killed: Vec<Killed>,
}

impl Children {
    pub fn new(what: &'static str, own_args: Vec<OsString>, told: Told, log: PathBuf) -> Self {
        Self { what, own_args, told, log, next: FIRST_PROCESS, alive: Vec::new(), killed: Vec::new() }
    }

    pub fn alive(&self) -> usize {
        self.alive.len()
    }

    /// Who was killed, and when.
    pub fn killed(&self) -> &[Killed] {
        &self.killed
    }

    /// Starts another one.
    pub fn start(&mut self) -> Result<(), Failure> {
        let failed = |why: &dyn std::fmt::Display| Failure::run(format!("a {} cannot be started: {why}", self.what));
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let log = File::options().create(true).append(true).open(&self.log).map_err(|error| failed(&error))?;
        let process = self.next;
        self.next += 1;
        let mut command = Command::new(program);
        command.arg(self.what).args(self.told.args(process)).args(&self.own_args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let child = command.spawn().map_err(|error| failed(&error))?;
        self.alive.push((process, child));
        Ok(())
    }

    /// Kills one of them: nothing is told to anybody.
    ///
    /// # Errors
    /// It had ended by itself.
    pub async fn kill_one(&mut self, seeded: &mut Seeded) -> Result<(), Failure> {
        if self.alive.is_empty() {
            return Ok(());
        }
        let (process, mut child) = self.alive.swap_remove(seeded.index(self.alive.len()));
        self.ended_by_itself(process, &mut child)?;
        let clock = Clock::of_origin(self.told.origin_ns);
        let before_ns = clock.now_ns();
        let failed = |error| Failure::run(format!("{} {process} cannot be killed: {error}", self.what));
        child.kill().await.map_err(failed)?;
        self.killed.push(Killed { process, before_ns, after_ns: clock.now_ns() });
        Ok(())
    }

    /// Whether all of them are there still.
    pub fn look(&mut self) -> Result<(), Failure> {
        let mut alive = std::mem::take(&mut self.alive);
        let all = alive.iter_mut().try_for_each(|(process, child)| self.ended_by_itself(*process, child));
        self.alive = alive;
        all
    }

    /// Has them finish and leave.
    pub async fn leave(&mut self) -> Result<(), Failure> {
        let what = self.what;
        for (process, child) in &self.alive {
            let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            let pid = pid.ok_or_else(|| Failure::run(format!("{what} {process} ended by itself")))?;
            kill_process(pid, Signal::TERM)
                .map_err(|error| Failure::run(format!("{what} {process} got no SIGTERM: {error}")))?;
        }
        for (process, mut child) in std::mem::take(&mut self.alive) {
            match tokio::time::timeout(LEAVE_DEADLINE, child.wait()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(status) => {
                    let log = self.log.display();
                    return Err(Failure::run(format!("{what} {process} did not leave well ({status:?}): see {log}")));
                }
                Err(_) => {
                    return Err(Failure::run(format!("{what} {process} did not leave within {LEAVE_DEADLINE:?}")));
                }
            }
        }
        Ok(())
    }

    fn ended_by_itself(&self, process: u32, child: &mut Child) -> Result<(), Failure> {
        let what = self.what;
        match child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let log = self.log.display();
                Err(Failure::run(format!("{what} {process} ended by itself ({status}): see {log}")))
            }
            Err(error) => Err(Failure::run(format!("{what} {process} cannot be looked at: {error}"))),
        }
    }
}
