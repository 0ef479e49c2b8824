//! Producers and consumers side by side, whichever peer they talk to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use super::wire::{Answers, Wire, pipelined};
use super::{Error, Load};

/// Producers that are connected: each with its request and its share.
pub(super) struct Producers {
    /// One for each, with what it sends.
    pub wires: Vec<(Wire, Arc<[u8]>)>,
    /// What counts its answers.
    pub answers: Answers,
    /// Records and depth.
    pub load: Load,
}

impl Producers {
    /// Starts them all. Each task ends when its share is acknowledged.
    fn spawn(self, tasks: &mut JoinSet<Result<(), Error>>) {
        let Self { wires, answers, load } = self;
        let producers = wires.len() as u64;
        for (index, (mut wire, request)) in (0u64..).zip(wires) {
            let share = load.records / producers + u64::from(index < load.records % producers);
            tasks.spawn(async move { pipelined(&mut wire, &request, share, load.in_flight, answers).await });
        }
    }
}

/// The time until all records are acknowledged.
pub(super) async fn produce(producers: Producers) -> Result<Duration, Error> {
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    producers.spawn(&mut tasks);
    while let Some(ended) = tasks.join_next().await {
        outcome(ended)?;
    }
    Ok(start.elapsed())
}

/// The time of each of `count` requests, one after the other.
pub(super) async fn round_trips(
    mut wire: Wire,
    request: &[u8],
    count: u64,
    answers: Answers,
) -> Result<Vec<Duration>, Error> {
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let start = Instant::now();
        pipelined(&mut wire, request, 1, 1, answers).await?;
        times.push(start.elapsed());
    }
    Ok(times)
}

/// Where consumers report how many jobs they have acknowledged.
pub(super) type Progress = mpsc::UnboundedSender<u64>;

/// Runs producers beside consumers until as many jobs are reported as there are; returns when that began. Consumers run until
/// they fail, or are dropped with the rest.
pub(super) async fn queue<C>(
    producers: Producers,
    consumers: impl FnOnce(&Progress) -> Vec<C>,
) -> Result<Instant, Error>
where
    C: Future<Output = Result<(), Error>> + Send + 'static,
{
    let jobs = producers.load.records;
    // `report` stays here: the channel never ends.
    let (report, mut progress) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for consumer in consumers(&report) {
        tasks.spawn(consumer);
    }
    producers.spawn(&mut tasks);
    let mut acked = 0;
    while acked < jobs {
        tokio::select! {
            Some(more) = progress.recv() => acked += more,
            Some(ended) = tasks.join_next() => outcome(ended)?,
        }
    }
    if acked > jobs {
        return Err(Error::Unaccounted(format!("{acked} acknowledgements for {jobs} jobs")));
    }
    Ok(start)
}

fn outcome(ended: Result<Result<(), Error>, JoinError>) -> Result<(), Error> {
    match ended {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Closed),
    }
}
