//! The member processes: started, killed, told to leave.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use millstream_check::history::Clock;
use millstream_check::seeded::Seeded;
use millstream_client::LocalServer;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::failure::Failure;

/// A member that leaves commits and says so.
const LEAVE_DEADLINE: Duration = Duration::from_secs(30);
/// Members count on from here as processes of the history.
pub const FIRST_PROCESS: u32 = 10_001;

/// What every member is told.
#[derive(Debug, Clone)]
pub struct Setup {
    pub server: LocalServer,
    pub group: String,
    pub stream: String,
    pub session: Duration,
    pub history: PathBuf,
    /// What all of them write to stderr.
    pub log: PathBuf,
    pub clock: Clock,
    pub seed: u64,
    /// A canary: see `member`.
    pub commit_first: bool,
}

/// Members at work. Killed when dropped.
#[derive(Debug)]
pub struct Members {
    setup: Setup,
    next: u32,
    alive: Vec<(u32, Child)>,
    /// Process, and when it was killed.
    killed: Vec<(u32, u64)>,
}

impl Members {
    pub fn new(setup: Setup) -> Self {
        Self { setup, next: FIRST_PROCESS, alive: Vec::new(), killed: Vec::new() }
    }

    pub fn alive(&self) -> usize {
        self.alive.len()
    }

    /// Who was killed, and when.
    pub fn killed(&self) -> &[(u32, u64)] {
        &self.killed
    }

    /// Starts another one.
    pub fn start(&mut self) -> Result<(), Failure> {
        let failed = |what: &dyn std::fmt::Display| Failure::run(format!("a member cannot be started: {what}"));
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let log = File::options().create(true).append(true).open(&self.setup.log).map_err(|error| failed(&error))?;
        let Setup { server, group, stream, session, history, clock, seed, .. } = &self.setup;
        let process = self.next;
        self.next += 1;
        let mut command = Command::new(program);
        command.args(["member", "--address", &server.address, "--fingerprint", &server.fingerprint]);
        command.args(["--group", group, "--stream", stream]).arg("--history").arg(history);
        for (flag, value) in [
            ("--session-ms", u64::try_from(session.as_millis()).unwrap_or(u64::MAX)),
            ("--process", process.into()),
            ("--origin-ns", clock.origin_ns()),
            ("--seed", *seed),
        ] {
            command.arg(flag).arg(value.to_string());
        }
        if self.setup.commit_first {
            command.arg("--commit-first");
        }
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
        ended_by_itself(process, &mut child)?;
        // From before it: what is measured from here is measured too long, not too short.
        let at_ns = self.setup.clock.now_ns();
        child.kill().await.map_err(|error| Failure::run(format!("member {process} cannot be killed: {error}")))?;
        self.killed.push((process, at_ns));
        Ok(())
    }

    /// Whether all of them are there still.
    pub fn look(&mut self) -> Result<(), Failure> {
        self.alive.iter_mut().try_for_each(|(process, child)| ended_by_itself(*process, child))
    }

    /// Has them finish and leave.
    pub async fn leave(&mut self) -> Result<(), Failure> {
        for (process, child) in &self.alive {
            let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            let pid = pid.ok_or_else(|| Failure::run(format!("member {process} ended by itself")))?;
            kill_process(pid, Signal::TERM)
                .map_err(|error| Failure::run(format!("member {process} got no SIGTERM: {error}")))?;
        }
        for (process, mut child) in std::mem::take(&mut self.alive) {
            match tokio::time::timeout(LEAVE_DEADLINE, child.wait()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(status) => {
                    let text = format!("member {process} did not leave well ({status:?}): members.log says why");
                    return Err(Failure::run(text));
                }
                Err(_) => {
                    return Err(Failure::run(format!("member {process} did not leave within {LEAVE_DEADLINE:?}")));
                }
            }
        }
        Ok(())
    }
}

fn ended_by_itself(process: u32, child: &mut Child) -> Result<(), Failure> {
    match child.try_wait() {
        Ok(None) => Ok(()),
        Ok(Some(status)) => {
            Err(Failure::run(format!("member {process} ended by itself ({status}): members.log says why")))
        }
        Err(error) => Err(Failure::run(format!("member {process} cannot be looked at: {error}"))),
    }
}
