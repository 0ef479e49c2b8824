//! The real server: `millstream serve` as a child process, started, awaited, killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use millstream_client::LocalServer;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

use crate::failure::Failure;
use crate::run_dir::RunDir;

/// A start that takes longer hangs.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// So does a stop: the server's own patience is 5 s.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// The `millstream` program.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    environment: Vec<(String, String)>,
}

/// A server's process, ready or not. Killed when dropped.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    started: Instant,
    data_dir: PathBuf,
}

/// Under `cargo run` the server is built as this program was, so that it is the tree's and not an older one.
fn build_beside(this: &Path) -> Result<(), Failure> {
    let (Some(cargo), Some(manifest_dir)) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR")) else {
        return Ok(());
    };
    let Some(profile_dir) = this.parent() else { return Ok(()) };
    let mut build = std::process::Command::new(cargo);
    build.args(["build", "--package", "millstream"]).current_dir(manifest_dir);
    if profile_dir.ends_with("release") {
        build.arg("--release");
    }
    if let Some(target_dir) = profile_dir.parent() {
        build.arg("--target-dir").arg(target_dir);
    }
    match build.stdout(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::CannotBegin(format!("the server does not build: {status}"))),
        Err(error) => Err(Failure::CannotBegin(format!("the server cannot be built: {error}"))),
    }
}

impl Program {
    /// The one asked for, or the one beside this program.
    pub fn find(asked: Option<&Path>) -> Result<Self, Failure> {
        let path = match asked {
            Some(path) => path.to_owned(),
            None => {
                let this = std::env::current_exe().map_err(|error| {
                    Failure::CannotBegin(format!("this program does not know where it is: {error}"))
                })?;
                build_beside(&this)?;
                this.with_file_name("millstream")
            }
        };
        if !path.is_file() {
            let text = format!(
                "there is no server program at {}: build it with `cargo build --release -p millstream`, or name it with \
                 --server",
                path.display()
            );
            return Err(Failure::CannotBegin(text));
        }
        Ok(Self { path, environment: Vec::new() })
    }

    /// The same, told this in its environment as well.
    #[must_use]
    pub fn with_environment(self, environment: Vec<(String, String)>) -> Self {
        Self { environment, ..self }
    }

    /// Starts a server on the run's data directory; `listen` and `settings` as the flags of `millstream serve`.
    pub fn start(&self, dir: &RunDir, listen: &str, settings: &[&str]) -> Result<ServerProcess, Failure> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.server_log())
            .map_err(|error| Failure::run(format!("{}: {error}", dir.server_log().display())))?;
        let mut command = self.command();
        command.args(["serve", "--http", "off", "--listen", listen, "--data-dir"]).arg(dir.data());
        settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| self.does_not_run(&error))?;
        let stdout = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Ok(ServerProcess { child, stdout, started: Instant::now(), data_dir: dir.data() })
    }

    /// Has every batch of a directory that no server has open checked.
    pub async fn verify(&self, dir: &RunDir) -> Result<(), Failure> {
        let mut command = self.command();
        command.args(["verify", "--data-dir"]).arg(dir.data()).stdin(Stdio::null());
        let done = command.output().await.map_err(|error| self.does_not_run(&error))?;
        if done.status.success() {
            return Ok(());
        }
        let says = String::from_utf8_lossy(&done.stderr);
        Err(Failure::run(format!("`millstream verify` found damage ({}): {}", done.status, says.trim())))
    }

    /// Without settings of whoever runs this.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        let is_setting = |name: &str| ["MILLSTREAM_", "AWS_"].iter().any(|prefix| name.starts_with(prefix));
        let ours = std::env::vars_os().filter(|(name, _)| is_setting(&name.to_string_lossy()));
        for (name, _) in ours {
            command.env_remove(name);
        }
        command.env_remove("CARGO_MANIFEST_DIR");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn does_not_run(&self, error: &std::io::Error) -> Failure {
        Failure::CannotBegin(format!("{} does not run: {error}", self.path.display()))
    }
}

impl ServerProcess {
    /// Waits for the line that says that it is ready; gives how long that took since the start.
    ///
    /// # Cancel safety
    /// A call that is dropped has missed nothing.
    pub async fn ready(&mut self) -> Result<Duration, Failure> {
        let line = match tokio::time::timeout(START_DEADLINE, self.stdout.next_line()).await {
            Ok(line) => line.map_err(|error| Failure::run(format!("the server's stdout cannot be read: {error}")))?,
            Err(_) => return Err(Failure::run(format!("the server was not ready {START_DEADLINE:?} after its start"))),
        };
        match line {
            Some(line) if line.starts_with("millstream ready on ") => Ok(self.started.elapsed()),
            Some(line) => Err(Failure::run(format!("the server printed {line:?} instead of being ready"))),
            None => {
                let status = self.exited().await?;
                Err(Failure::run(format!("the server ended before it was ready ({status}); server.log says why")))
            }
        }
    }

    /// Where a server that is ready listens, and what to pin.
    pub fn address(&self) -> Result<LocalServer, Failure> {
        LocalServer::read(&self.data_dir).map_err(|error| Failure::run(error.to_string()))
    }

    /// As a crash: nothing is flushed, nobody is told.
    ///
    /// # Errors
    /// It had ended already, by itself.
    pub async fn kill(mut self) -> Result<(), Failure> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(Failure::run(format!("the server ended by itself ({status}); server.log says why")));
        }
        self.child.kill().await.map_err(|error| Failure::run(format!("the server cannot be killed: {error}")))
    }

    /// As an operator stops it.
    pub fn terminate(&self) -> Result<(), Failure> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.ok_or_else(|| Failure::run("the server ended by itself; server.log says why"))?;
        kill_process(pid, Signal::TERM).map_err(|error| Failure::run(format!("the server got no SIGTERM: {error}")))
    }

    /// Waits for its end.
    ///
    /// # Cancel safety
    /// A call that is dropped has missed nothing.
    pub async fn exited(&mut self) -> Result<ExitStatus, Failure> {
        match tokio::time::timeout(STOP_DEADLINE, self.child.wait()).await {
            Ok(status) => status.map_err(|error| Failure::run(format!("the server cannot be waited for: {error}"))),
            Err(_) => Err(Failure::run(format!("the server did not end within {STOP_DEADLINE:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_server_program_is_said_before_the_run_with_what_to_do() {
        let missing = Program::find(Some(Path::new("/nonexistent/millstream"))).expect_err("refused");
        let Failure::CannotBegin(text) = missing else { panic!("{missing:?}") };
        assert!(text.contains("cargo build --release -p millstream"), "{text}");
    }
}
