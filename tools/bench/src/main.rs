//! `millstream-bench`: load for a running server, and what it did with it: rates and latencies (HDR histogram).
//!
//! It measures through the public client, as an application sees the server; what the bare machine can do is measured
//! in `benches/`. Client and server share the machine unless `--server` names another: compare ratios in one run, not
//! figures of two days.
#![forbid(unsafe_code)]

mod commits;
mod consume;
mod groups;
mod members;
mod payload;
mod produce;
mod queue;
mod report;
mod server;
mod target;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use millstream_client::{ByteSize, Codec, Error};

use crate::target::TargetFlags;

/// Puts load on a Millstream server and says what it did with it.
#[derive(Debug, Parser)]
#[command(name = "millstream-bench", version, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    target: TargetFlags,
    /// Print the result as one line of JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send records and measure until each is acknowledged
    Produce(Produce),
    /// Read a stream from its beginning
    Consume(Consume),
    /// Be many members of many groups, and see what they cost and how fast one group rebalances
    Groups(groups::Groups),
    /// Commit offsets, and see how many become durable beside plain appends
    Commits(commits::Commits),
    /// Send jobs, and have them pushed to competing consumers that acknowledge each
    Queue(queue::Queue),
}

/// When to end: whichever comes first.
#[derive(Debug, Clone, Copy, Args)]
struct Until {
    /// After so many records
    #[arg(long, value_name = "N")]
    records: Option<u64>,
    /// After so many seconds [default: 10, without --records]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
}

impl Until {
    fn records(self) -> u64 {
        self.records.unwrap_or(u64::MAX)
    }

    fn time(self) -> Duration {
        let seconds = self.seconds.unwrap_or(if self.records.is_some() { f64::INFINITY } else { 10.0 });
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

#[derive(Debug, Args)]
struct Produce {
    /// The stream; made if it is not there
    #[arg(long, default_value = "bench")]
    stream: String,
    /// How many partitions it is made with
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    #[command(flatten)]
    until: Until,
    /// The size of a record's value
    #[arg(long, value_name = "SIZE", default_value = "1024")]
    record_size: ByteSize,
    /// When a batch is full [default: the client's]
    #[arg(long, value_name = "SIZE")]
    batch_bytes: Option<ByteSize>,
    /// How many batches may wait for their acks [default: the client's]
    #[arg(long, value_name = "N")]
    in_flight: Option<u32>,
    /// How long a record waits for others, in milliseconds [default: the client's]
    #[arg(long, value_name = "MS")]
    linger_ms: Option<u64>,
    /// How batches are compressed; values are text that packs to about a half
    #[arg(long, value_enum, default_value_t)]
    compression: Compression,
    /// Send the next record when the last is acknowledged, instead of as fast as it goes
    #[arg(long)]
    one_at_a_time: bool,
    /// Delete the stream at the end
    #[arg(long)]
    delete: bool,
}

#[derive(Debug, Args)]
struct Consume {
    /// The stream
    #[arg(long, default_value = "bench")]
    stream: String,
    #[command(flatten)]
    until: Until,
    /// Check batches without decoding their records
    #[arg(long)]
    batches: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Compression {
    #[default]
    None,
    Lz4,
    Zstd,
}

impl From<Compression> for Codec {
    fn from(choice: Compression) -> Self {
        match choice {
            Compression::None => Codec::None,
            Compression::Lz4 => Codec::Lz4,
            Compression::Zstd => Codec::Zstd,
        }
    }
}

/// Why a run failed: its exit code, as the `millstream` program's, and the text.
#[derive(Debug)]
struct Failure {
    exit: u8,
    text: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let is_elsewhere = error.is_unreachable() || error.is_wrong_fingerprint();
        let exit = if is_elsewhere { 60 } else { 10 * error.code().class().number() };
        Self { exit, text: error.to_string() }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, text }) => {
            eprintln!("error: {text}");
            ExitCode::from(exit)
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let client = cli.target.connect().await?;
    let printed = match &cli.command {
        Command::Produce(command) => produce::run(&client, command).await.and_then(|report| report.print(cli.json)),
        Command::Consume(command) => consume::run(&client, command).await.and_then(|report| report.print(cli.json)),
        Command::Groups(command) => {
            let report = Box::pin(groups::run(&client, &cli.target, command)).await;
            report.and_then(|report| report::print(&report, &report, cli.json))
        }
        Command::Queue(command) => {
            let report = Box::pin(queue::run(&client, &cli.target, command)).await;
            report.and_then(|report| report::print(&report, &report, cli.json))
        }
        Command::Commits(command) => {
            let report = Box::pin(commits::run(&client, command)).await;
            report.and_then(|report| report::print(&report, &report, cli.json))
        }
    };
    client.close().await;
    printed
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_run_ends_by_itself_unless_it_is_told_when() {
        let until = |records, seconds| Until { records, seconds };
        assert_eq!((until(None, None).records(), until(None, None).time()), (u64::MAX, Duration::from_secs(10)));
        assert_eq!((until(Some(5), None).records(), until(Some(5), None).time()), (5, Duration::MAX));
        assert_eq!(until(Some(5), Some(0.5)).time(), Duration::from_millis(500));
    }
}
