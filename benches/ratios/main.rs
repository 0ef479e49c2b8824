//! How near each whole path comes to what the machine can do, in one run:
//! `cargo run --release -p millstream-benches --bin ratios [-- --only NAME… --json --quick --peers]`.
//!
//! | name | product | ceiling |
//! | --- | --- | --- |
//! | `produce-1k` | 4 producers send 1 KiB records in 1 MiB batches into a `synced` stream | the same bytes over 4 quinn streams into one file, grouped writes, one `fdatasync` each |
//! | `produce-100b` | the same with 100 B records: the bytes of the records count | the same number of bytes |
//! | `produce-written` | `produce-1k` into a `written` stream: acknowledged from the page cache | the pipe without `fdatasync` |
//! | `fetch` | a backlog from the page cache to the client, every record decoded | the same bytes out of a file with `pread`; `mapped` says what a map would give, whose price is the process's life at the first bad sector |
//! | `tail` | p99 from when a record was due until a consumer has it; 1,000 a second, durable | p99 of the pipe's durable round trip at that pace |
//! | `ack` | p50 of one durable 1 KiB record in flight | p50 of the pipe's durable round trip |
//! | `queue` | jobs a second, sent, pushed and acknowledged one by one, durable | the same records produced and consumed, by as many |
//! | `partitions` | 1,000 partitions, the same number and size of batches | the product's own rate to 1 partition |
//! | `connections` | 1,000 connections, the same total load | the product's own rate over 4 |
//! | `idle-memory` | the server's memory for an idle connection, and for an idle consumer: the larger | 64 KiB |
//! | `restart` | from the start of a killed server on 20 GiB until it has acknowledged a durable record | 1 s |
//!
//! With `--peers`, also durable produce and durable queue jobs beside Redis Streams and JetStream, as far as these are installed.
//!
//! Client and server are two processes on the same machine, on both sides; the sides take turns, and a ratio is one round's.
//! The server's processor time is counted beside it. Where a ceiling is the pipe, both run with datagrams of 6,500 bytes
//! (the best that may ship) and of 1,452 (what an Ethernet path carries).

mod bulk;
mod child;
mod idle;
mod latency;
mod outcome;
mod peers;
mod product;
mod queue;
mod restart;
mod scale;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Parser, ValueEnum};
use millstream_benches::process;
use millstream_benches::quic::{DATAGRAM_BYTES_ETHERNET, DATAGRAM_BYTES_MAX, Error};

use crate::outcome::Outcome;

/// Holds each path of Millstream against what this machine can do.
#[derive(Debug, Parser)]
#[command(name = "ratios", max_term_width = 110)]
struct Cli {
    /// Only these paths
    #[arg(long, value_name = "NAME", num_args = 1.., value_enum)]
    only: Vec<Name>,
    /// An object of JSON for each path, instead of a table
    #[arg(long)]
    json: bool,
    /// Less data and fewer rounds: under a minute
    #[arg(long)]
    quick: bool,
    /// How often each is measured [default: 5; 2 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: Option<u16>,
    /// The largest datagram [default: 6500 and 1452, each in turn]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1_200..=6_550))]
    datagram: Option<u16>,
    /// Where files go: a directory on the disk that is to be measured
    #[arg(long, value_name = "DIR", env = "MILLSTREAM_BENCH_DIR", default_value = env!("CARGO_MANIFEST_DIR"))]
    dir: PathBuf,
    /// Beside Redis Streams and NATS JetStream as well, if redis-server and nats-server are installed
    #[arg(long)]
    peers: bool,
    /// A data directory of 20 GiB for `restart`: written there if it is not; alone, nothing else is done
    #[arg(long, value_name = "DIR")]
    prepare: Option<PathBuf>,
    #[command(subcommand)]
    child: Option<child::Serve>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    #[value(name = "produce-1k")]
    Produce1k,
    #[value(name = "produce-100b")]
    Produce100b,
    ProduceWritten,
    Fetch,
    Tail,
    Ack,
    Queue,
    Partitions,
    Connections,
    IdleMemory,
    Restart,
}

/// What every path is told.
#[derive(Debug)]
struct Plan<'a> {
    dir: &'a Path,
    rounds: usize,
    quick: bool,
    datagrams: Vec<u16>,
    prepared: Option<&'a Path>,
    open_files_max: u64,
}

impl Plan<'_> {
    /// An amount, and what it is in a quick run.
    fn amount<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn main() -> Result<(), Error> {
    let cli = Cli::parse();
    if let Some(child) = &cli.child {
        return child.run();
    }
    let open_files_max = process::raise_open_files()?;
    let work = tempfile::Builder::new().prefix("ratios-").tempdir_in(&cli.dir)?;
    let plan = Plan {
        dir: work.path(),
        rounds: usize::from(cli.rounds.unwrap_or(if cli.quick { 2 } else { 5 })),
        quick: cli.quick,
        datagrams: cli.datagram.map_or(vec![DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_ETHERNET], |bytes| vec![bytes]),
        prepared: cli.prepare.as_deref(),
        open_files_max,
    };
    if let (Some(dir), true) = (plan.prepared, cli.only.is_empty()) {
        return restart::prepare(dir, plan.amount(restart::BYTES, restart::BYTES_QUICK));
    }
    // `--peers` alone is what it says.
    let names: &[Name] = match (cli.only.is_empty(), cli.peers) {
        (true, false) => Name::value_variants(),
        _ => &cli.only,
    };
    let started = Instant::now();
    let mut printed = outcome::Printer::new(cli.json);
    for name in names {
        for outcome in measure(*name, &plan)? {
            printed.print(&outcome);
        }
    }
    if cli.peers {
        peers::beside(&plan, |outcome| printed.print(&outcome))?;
    }
    printed.end(started.elapsed(), plan.rounds);
    Ok(())
}

fn measure(name: Name, plan: &Plan<'_>) -> Result<Vec<Outcome>, Error> {
    match name {
        Name::Produce1k => bulk::produce("produce-1k", plan, &bulk::ONE_KIB),
        Name::Produce100b => bulk::produce("produce-100b", plan, &bulk::HUNDRED_BYTES),
        Name::ProduceWritten => bulk::produce("produce-written", plan, &bulk::WRITTEN),
        Name::Fetch => bulk::fetch(plan),
        Name::Tail => latency::tail(plan),
        Name::Ack => latency::ack(plan),
        Name::Queue => queue::queue(plan),
        Name::Partitions => scale::partitions(plan),
        Name::Connections => scale::connections(plan),
        Name::IdleMemory => idle::memory(plan),
        Name::Restart => restart::restart(plan),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
