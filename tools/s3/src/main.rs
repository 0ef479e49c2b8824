//! `millstream-s3`: the S3 server for tests as a program, to try things by hand.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use millstream_s3::{Chaos, Server, Settings, StartError};

/// An S3 server for tests, which fails at random if it is told to.
///
/// Prints one line with its endpoint and the variables to set for its clients, then runs until it is interrupted. What it
/// stores goes with it, unless it is given a directory. Never for data that anybody needs: its one secret is known to all.
#[derive(Debug, Parser)]
#[command(name = "millstream-s3", version, max_term_width = 110)]
struct Cli {
    /// Where to listen; port 0: one that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A bucket to make; may be repeated
    #[arg(long, value_name = "NAME", default_value = "test")]
    bucket: Vec<String>,
    /// How many of a thousand requests fail, each in one of a dozen ways
    #[arg(long, value_name = "PER_MILLE", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    chaos: u16,
    /// From which the faults are drawn: the same requests fail the same way
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep objects in this directory too, and start with those that are there
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

async fn run(cli: Cli) -> Result<(), StartError> {
    let settings = Settings { listen: cli.listen, buckets: cli.bucket, directory: cli.dir };
    let server = Server::start(settings).await?;
    if cli.chaos > 0 {
        server.faults().set_chaos(Some(Chaos::everywhere(cli.seed, cli.chaos)));
    }
    let variables = server.environment().map(|(name, value)| format!("{name}={value}")).join(" ");
    println!("{} {variables}", server.endpoint());
    if let Err(error) = tokio::signal::ctrl_c().await {
        eprintln!("cannot wait for an interrupt, so ending now: {error}");
    }
    Ok(())
}
