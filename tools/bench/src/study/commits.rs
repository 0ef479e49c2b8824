//! `study commits`: how many offsets become durable in a second, with so many commits in flight, beside plain appends that are as
//! small and as durable: the ceiling, for a commit is an append to its partition's state.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use millstream_client::{Client, Code, Record, StreamConfig};
use millstream_protocol::frame::control::{Request, Response};
use millstream_protocol::frame::group::{CommitResult, GroupReset, OffsetCommit, ResetTo, StreamPartition};
use serde::Serialize;

use super::times::{Latency, histogram_us};
use crate::failure::Failure;

const STREAM: &str = "bench-commits";
/// Records in each partition: offsets to commit.
const OFFSETS: u64 = 100;
/// About what a commit takes in the log.
const RECORD_BYTES: usize = 64;

#[derive(Debug, Args)]
pub struct Commits {
    /// How many commits wait for their answers, one figure each
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 256])]
    in_flight: Vec<u32>,
    /// Partitions they are in
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// How long each figure takes, in seconds
    #[arg(long, value_name = "S", default_value_t = 5)]
    seconds: u64,
}

/// A run's result.
#[derive(Debug, Serialize)]
pub struct CommitsReport {
    command: &'static str,
    partitions: u32,
    depths: Vec<Depth>,
}

#[derive(Debug, Serialize)]
struct Depth {
    in_flight: u32,
    commits_per_second: f64,
    commit: Latency,
    appends_per_second: f64,
    append: Latency,
    /// Commits to appends.
    ratio: f64,
}

/// Runs it.
pub async fn run(client: &Client, command: &Commits) -> Result<CommitsReport, Failure> {
    let stream = make_stream(client, command.partitions).await?;
    let time = Duration::from_secs(command.seconds);
    let mut depths = Vec::new();
    for in_flight in command.in_flight.iter().copied().map(|depth| depth.max(1)) {
        let (appends_per_second, append) = appends(client, in_flight, time).await?;
        let (commits_per_second, commit) = commits(client, stream, command.partitions, in_flight, time).await?;
        let ratio = commits_per_second / appends_per_second.max(f64::MIN_POSITIVE);
        depths.push(Depth { in_flight, commits_per_second, commit, appends_per_second, append, ratio });
    }
    Ok(CommitsReport { command: "commits", partitions: command.partitions, depths })
}

/// The stream's number; each partition has records to commit.
async fn make_stream(client: &Client, partitions: u32) -> Result<u64, Failure> {
    match client.create_stream(STREAM, partitions, StreamConfig::default()).await {
        Ok(_) => {}
        Err(error) if error.code() == Code::StreamExists => {}
        Err(error) => return Err(error.into()),
    }
    let info = client.describe_stream(STREAM).await?;
    let is_empty = |high_watermark: u64| high_watermark < OFFSETS;
    if info.partitions.len() == partitions as usize && !info.partitions.iter().any(|p| is_empty(p.high_watermark)) {
        return Ok(info.id);
    }
    if info.partitions.len() != partitions as usize {
        let found = info.partitions.len();
        let text = format!(
            "the stream {STREAM} is there with {found} partitions, wanted are {partitions}: delete it, `millstream stream \
             delete {STREAM}`"
        );
        return Err(Failure { exit: 10, text });
    }
    let producer = client.producer(STREAM).build().await?;
    let mut key = 0_u64;
    loop {
        for _ in 0..OFFSETS * u64::from(partitions) {
            key += 1;
            // A failure is the flush's.
            drop(producer.enqueue(Record::new(vec![0; RECORD_BYTES]).key(key.to_le_bytes().to_vec())).await?);
        }
        producer.flush().await?;
        let info = client.describe_stream(STREAM).await?;
        if !info.partitions.iter().any(|p| is_empty(p.high_watermark)) {
            return Ok(info.id);
        }
    }
}

/// Records a second, one for each answer.
async fn appends(client: &Client, in_flight: u32, time: Duration) -> Result<(f64, Latency), Failure> {
    let producer = client.producer(STREAM).linger(Duration::ZERO).max_in_flight(in_flight.min(4_096)).build().await?;
    let producer = Arc::new(producer);
    let since = Instant::now();
    let workers = (0..in_flight).map(|worker| {
        let producer = Arc::clone(&producer);
        async move {
            let mut times_us = histogram_us();
            let key = worker.to_le_bytes().to_vec();
            while since.elapsed() < time {
                let sent = Instant::now();
                producer.send(Record::new(vec![0; RECORD_BYTES]).key(key.clone())).await?;
                record(&mut times_us, sent);
            }
            Ok::<_, Failure>(times_us)
        }
    });
    figures(try_join_all(workers).await?, since)
}

/// Commits a second, one for each answer: each worker is a group of its own.
async fn commits(
    client: &Client,
    stream: u64,
    partitions: u32,
    in_flight: u32,
    time: Duration,
) -> Result<(f64, Latency), Failure> {
    let name = |worker: u32| format!("bench-commits-{worker}");
    // A group is made by its first member or by a reset.
    let reset = |worker| GroupReset {
        group: name(worker),
        stream: STREAM.to_owned(),
        partitions: vec![worker % partitions],
        to: ResetTo::Earliest,
        dry_run: false,
    };
    try_join_all((0..in_flight).map(|worker| client.reset_group(reset(worker)))).await?;
    let since = Instant::now();
    let workers = (0..in_flight).map(|worker| async move {
        let mut times_us = histogram_us();
        let at = StreamPartition { stream, partition: worker % partitions };
        let group = name(worker);
        for turn in 0.. {
            if since.elapsed() >= time {
                break;
            }
            let commit =
                OffsetCommit { at, epoch: 0, offset: turn % OFFSETS, batch_epoch: None, metadata: String::new() };
            let request = Request::CommitOffsets { group: group.clone(), member: None, commits: vec![commit] };
            let sent = Instant::now();
            durable(client.call(request).await?)?;
            record(&mut times_us, sent);
        }
        Ok::<_, Failure>(times_us)
    });
    figures(try_join_all(workers).await?, since)
}

fn durable(answer: Response) -> Result<(), Failure> {
    let failed = |text: String| Err(Failure { exit: 50, text });
    match answer {
        Response::Committed(results) => match results.iter().find(|result| result.code != 0) {
            None if results.len() == 1 => Ok(()),
            None => failed(format!("one commit has {} answers", results.len())),
            Some(CommitResult { code, text, .. }) => failed(format!("a commit was refused ({code}): {text}")),
        },
        other => failed(format!("an unexpected answer to a commit: {other:?}")),
    }
}

fn record(times_us: &mut Histogram<u64>, since: Instant) {
    times_us.saturating_record(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX).max(1));
}

fn figures(of_workers: Vec<Histogram<u64>>, since: Instant) -> Result<(f64, Latency), Failure> {
    let elapsed = since.elapsed().as_secs_f64();
    let mut all = histogram_us();
    for one in of_workers {
        all.add(one).map_err(|error| Failure { exit: 50, text: format!("histograms do not add up: {error}") })?;
    }
    Ok((all.len() as f64 / elapsed, Latency::from(&all)))
}

impl fmt::Display for CommitsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "commits: durable, one offset each, in {} partitions", self.partitions)?;
        for Depth { in_flight, commits_per_second, commit, appends_per_second, append, ratio } in &self.depths {
            write!(f, "\n  {in_flight} in flight: {commits_per_second:.0} commits/s  ms: {commit}")?;
            write!(f, "\n    beside appends: {appends_per_second:.0} records/s  ms: {append}")?;
            write!(f, "\n    ratio {ratio:.2}")?;
        }
        Ok(())
    }
}
