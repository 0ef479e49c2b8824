//! The commands, a noun a file.

mod completions;
mod consume;
mod demo;
mod dlq;
mod group;
mod lake;
mod produce;
mod queue;
mod recovery;
mod serve;
mod stream;
mod verify;

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use millstream_client::{Client, Error};
use millstream_protocol::names::check_name;
use millstream_protocol::{Code, frame::control::StreamSummary};
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::context::{ServerFlags, Target, process_env};
use crate::exit::{Exit, Failure};
use crate::nearest::nearest;
use crate::output::Output;

/// Runs what the command line asks for.
///
/// # Errors
/// Whatever the command says.
pub fn run(cli: Cli, output: Output) -> Result<(), Failure> {
    match cli.command {
        Command::Serve(command) => {
            log_to_stderr("info,quinn=warn,quinn_proto=warn,rustls=warn", output);
            on_runtime(serve::run(command, &cli.server, output))
        }
        Command::Demo(command) => {
            log_to_stderr("error", output);
            on_runtime(demo::run(command, output))
        }
        Command::Verify { accept_loss } => verify::run(&cli.server.data_dir(&process_env), accept_loss, output),
        Command::Completions { shell } => completions::run(shell),
        command => {
            log_to_stderr("warn", output);
            let server = cli.server;
            on_runtime(async move {
                match command {
                    Command::Stream(command) => stream::run(command, &server, output).await,
                    Command::Produce(command) => produce::run(command, &server, output).await,
                    Command::Consume(command) => consume::run(command, &server, output).await,
                    Command::Group(command) => group::run(command, &server, output).await,
                    Command::Dlq(command) => dlq::run(command, &server, output).await,
                    Command::Queue(command) => queue::run(*command, &server, output).await,
                    Command::Recovery => recovery::run(&server, output).await,
                    Command::Lake(command) => lake::run(*command, &server, output).await,
                    _ => unreachable!("the others are matched above"),
                }
            })
        }
    }
}

/// Logs go to stderr; `MILLSTREAM_LOG` says which.
fn log_to_stderr(default: &str, output: Output) {
    let filter = EnvFilter::try_from_env("MILLSTREAM_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = output.err == crate::output::Paint::Colour;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
}

fn on_runtime<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::local(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(command);
    // A thread that still waits for stdin must not hold the end up.
    runtime.shutdown_background();
    result
}

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// A connected client, and how its errors are told.
struct Session {
    client: Client,
    target: Target,
}

impl Session {
    /// Connects, does something, and says goodbye, so that the server need not wait for a client that is gone.
    async fn with<T>(
        server: &ServerFlags,
        command: impl AsyncFnOnce(&Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let target = server.target(&process_env)?;
        let session = Self { client: target.connect().await?, target };
        let result = command(&session).await;
        // Nobody may be there to hear it.
        let _ = tokio::time::timeout(GOODBYE, session.client.close()).await;
        result
    }

    /// An error about nothing in particular.
    fn failure(&self, error: &Error) -> Failure {
        self.target.failure(error)
    }

    /// An error of a request that named a stream.
    async fn stream_failure(&self, stream: &str, error: &Error) -> Failure {
        if error.code() != Code::UnknownStream || error.is_unreachable() {
            return self.failure(error);
        }
        unknown_stream(stream, &self.client.list_streams().await.unwrap_or_default())
    }

    /// An error of a request that named a group.
    async fn group_failure(&self, group: &str, error: &Error) -> Failure {
        match error.code() {
            Code::GroupNotEmpty => self.failure(error).or_try(format!("millstream group describe {group}")),
            Code::UnknownGroup if !error.is_unreachable() => {
                let groups = self.client.list_groups().await.unwrap_or_default();
                let meant = nearest(group, groups.iter().map(|group| group.name.as_str()));
                let text = format!("unknown group '{group}'{}", did_you_mean(meant));
                Failure::new(Exit::Code(Code::UnknownGroup), text).or_try("millstream group list")
            }
            _ => self.failure(error),
        }
    }

    /// An error of a request that named a lake.
    async fn lake_failure(&self, lake: &str, error: &Error) -> Failure {
        if error.code() != Code::UnknownLake || error.is_unreachable() {
            return self.failure(error);
        }
        let lakes = self.client.list_lakes().await.unwrap_or_default();
        let meant = nearest(lake, lakes.iter().map(|lake| lake.name.as_str()));
        let text = format!("unknown lake '{lake}'{}", did_you_mean(meant));
        Failure::new(Exit::Code(Code::UnknownLake), text).or_try("millstream lake list")
    }
}

fn unknown_stream(stream: &str, known: &[StreamSummary]) -> Failure {
    let meant = nearest(stream, known.iter().map(|stream| stream.name.as_str()));
    let text = format!("unknown stream '{stream}'{}", did_you_mean(meant));
    Failure::new(Exit::Code(Code::UnknownStream), text)
        .or_try("millstream stream list")
        .or_try(format!("millstream stream create {stream}"))
}

fn did_you_mean(name: Option<&str>) -> String {
    name.map_or(String::new(), |name| format!(": did you mean '{name}'?"))
}

/// Asks on the terminal; anything but yes ends the command.
fn confirm(question: &str) -> Result<(), Failure> {
    let _ = write!(io::stderr(), "{question}").and_then(|()| io::stderr().flush());
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.map_err(|error| Failure::local(format!("cannot read the answer: {error}")))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Usage, "nothing was deleted")),
    }
}

/// Whether a person is there to be asked; a script that names what it deletes means it.
fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Refuses what can be no name before a server is asked.
fn legal_name(noun: &str, name: &str) -> Result<(), Failure> {
    check_name(name)
        .map_err(|error| Failure::new(Exit::Code(Code::IllegalName), format!("illegal {noun} name: {error}")))
}
