//! What a run needs to be there, made before it and deleted after it.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use millstream_client::{GroupReset, LakeColumns, LakeConfig, ResetTo};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{share, tasks};
use crate::clock::RunClock;
use crate::drive::Shared;
use crate::drive::producer::{Limit, Produced};
use crate::failure::Failure;
use crate::load::payload::{Payload, Pool};
use crate::load::{Load, Scenario};
use crate::record::Window;
use crate::target::{From, Target};
use crate::verify::Rules;

/// A run's number, by which its records know each other.
pub fn number() -> u32 {
    RandomState::new().hash_one(std::process::id()) as u32
}

/// What was made, to be deleted.
#[derive(Debug, Default)]
pub struct Made {
    queues: Vec<String>,
    group: Option<String>,
    lake: Option<String>,
    lake_dir: Option<TempDir>,
    streams: Vec<String>,
}

impl Made {
    /// Deletes it all; tells the first error.
    pub async fn clean<T: Target>(self, target: &T) -> Result<(), Failure> {
        let mut failed = Ok(());
        for queue in &self.queues {
            failed = failed.and(target.delete_queue(queue).await);
        }
        if let Some(group) = &self.group {
            failed = failed.and(target.client()?.delete_group(group).await.map_err(Failure::from));
        }
        if let Some(lake) = &self.lake {
            failed = failed.and(target.client()?.remove_lake(lake).await.map_err(Failure::from));
        }
        for stream in &self.streams {
            failed = failed.and(target.delete_stream(stream).await);
        }
        failed.map_err(|failure| Failure {
            text: format!("what the run made was not deleted: {}", failure.text),
            ..failure
        })
    }
}

/// What is there when the tasks begin.
pub struct Prepared {
    pub stream: String,
    pub partitions: u32,
    /// Records in it.
    pub records: u64,
    /// Nothing of it is missing at its beginning.
    pub is_whole: bool,
    /// Why it is not looked at whether all came.
    pub not_whole: Option<String>,
    /// Whether there were records before the run.
    pub is_old: bool,
    /// Where readers begin.
    pub from: From,
    pub queues: Vec<String>,
    pub group: Option<String>,
    pub lake: Option<String>,
    /// Who filled the backlog, with what.
    pub filled: Vec<Produced>,
    pub pool: Pool,
}

impl Prepared {
    /// What must be true for who reads it.
    pub fn rules(&self, load: &Load, run: u32) -> Rules {
        let own = (load.sends() || !self.is_old).then_some(run);
        Rules { offsets: true, order: true, key_order: false, run: own }
    }
}

/// Makes it all.
pub async fn prepare<T: Target>(
    target: &T,
    load: &Load,
    run: u32,
    made: &mut Made,
    interrupt: &CancellationToken,
) -> Result<Prepared, Failure> {
    let pool = {
        let (payload, size, seed) = (load.payload.clone(), load.record_size, load.seed);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        tokio::task::spawn_blocking(move || Pool::make(&payload, size, seed)).await.expect("it does not panic")?
    };
    let stream = load.stream.clone().unwrap_or_else(|| format!("bench-{run:08x}"));
    let before = target.look(&stream).await?;
    match before {
        Some(facts) => {
            let wanted = load.partitions.unwrap_or(facts.partitions);
            if wanted != facts.partitions {
                return Err(Failure::usage(format!(
                    "the stream {stream} is there with {} partitions, not {wanted}: leave --partitions out, name another \
                     --stream, or delete it: `millstream stream delete {stream}`",
                    facts.partitions
                )));
            }
        }
        None if load.scenario == Scenario::Consume && load.backlog.is_none() => {
            return Err(Failure::usage(format!(
                "there is no stream {stream} to read: have one made and filled with --backlog RECORDS, or `millstream-bench \
                 produce --stream {stream} --keep`"
            )));
        }
        None => {
            target.make_stream(&stream, load).await?;
            made.streams.extend(load.stream.is_none().then(|| stream.clone()));
        }
    }
    let is_old = before.is_some_and(|facts| facts.records > 0);
    let from = match (load.scenario, load.backlog) {
        (Scenario::Consume, _) => From::Whole,
        (_, Some(_)) => From::Earliest,
        (_, None) => From::Now,
    };
    let queues: Vec<String> = (0..load.queues).map(|index| format!("bench-{run:08x}-{index}")).collect();
    // A FIFO queue needs somewhere to put what it cannot order; nothing goes there.
    let dead_letters = (load.fifo && load.queues > 0).then(|| format!("bench-{run:08x}-dead"));
    if let Some(dead_letters) = &dead_letters {
        let alone = Load { partitions: Some(1), ..load.clone() };
        target.make_stream(dead_letters, &alone).await?;
        made.streams.push(dead_letters.clone());
    }
    for queue in &queues {
        let from = if is_old { From::Now } else { from };
        target.make_queue(queue, &stream, from, dead_letters.as_deref()).await?;
        made.queues.push(queue.clone());
    }
    let filled = match load.backlog {
        Some(records) => Box::pin(fill(target, &stream, load, run, records, &pool, interrupt)).await?,
        None => Vec::new(),
    };
    let facts = target.look(&stream).await?.ok_or_else(|| Failure::data(format!("the stream {stream} has gone")))?;
    load.check_consumers(facts.partitions)?;
    let group = match load.members {
        0 => None,
        _ => Some(make_group(target, &stream, run, from, made).await?),
    };
    let lake = match load.scenario {
        Scenario::Lake => Some(make_lake(target, &stream, load, run, made).await?),
        _ => None,
    };
    let not_whole = (!facts.is_whole && load.scenario == Scenario::Consume)
        .then(|| format!("the beginning of {stream} was deleted before: whether all came cannot be said of it"));
    let (partitions, records, is_whole) = (facts.partitions, facts.records, facts.is_whole || load.sends());
    Ok(Prepared { stream, partitions, records, is_whole, not_whole, is_old, from, queues, group, lake, filled, pool })
}

/// Sends a backlog; nothing of it is counted.
async fn fill<T: Target>(
    target: &T,
    stream: &str,
    load: &Load,
    run: u32,
    records: u64,
    pool: &Pool,
    interrupt: &CancellationToken,
) -> Result<Vec<Produced>, Failure> {
    let never = Arc::new(Window::new(u64::MAX, u64::MAX));
    let load = Load { rate: None, outstanding: None, one_at_a_time: false, ..load.clone() };
    let shared = Arc::new(Shared {
        run,
        clock: RunClock::start(),
        window: Arc::clone(&never),
        stop: interrupt.child_token(),
        done: CancellationToken::new(),
        room: None,
        unsent: 0.into(),
        is_stamped: load.is_stamped(),
        verifies: load.verify,
        fifo: load.fifo,
    });
    let meters = tasks::Meters::new(&load, &never);
    let senders = tasks::senders(target, stream, &load).await?;
    let limit = |index| Limit::All(share(records, load.producers, index));
    // Behind those that are measured.
    let mut sending = tasks::produce_as::<T>(senders, pool, &load, &meters, &shared, (load.producers, &limit));
    let mut filled = Vec::new();
    while let Some(ended) = sending.join_next().await {
        filled.push(ended.expect("a producer does not panic")?);
    }
    match interrupt.is_cancelled() {
        true => Err(Failure::local("interrupted before there was anything to measure")),
        false => Ok(filled),
    }
}

async fn make_group<T: Target>(
    target: &T,
    stream: &str,
    run: u32,
    from: From,
    made: &mut Made,
) -> Result<String, Failure> {
    let group = format!("bench-{run:08x}");
    // Positions are fixed before anyone joins: nothing is missed, nothing old is read.
    let reset = GroupReset {
        group: group.clone(),
        stream: stream.to_owned(),
        partitions: Vec::new(),
        to: if from == From::Now { ResetTo::Latest } else { ResetTo::Earliest },
        dry_run: false,
    };
    target.client()?.reset_group(reset).await?;
    made.group = Some(group.clone());
    Ok(group)
}

async fn make_lake<T: Target>(
    target: &T,
    stream: &str,
    load: &Load,
    run: u32,
    made: &mut Made,
) -> Result<String, Failure> {
    let lake = format!("bench-{run:08x}");
    let url = match &load.lake_url {
        Some(url) => url.clone(),
        None => {
            let dir = tempfile::Builder::new().prefix("millstream-bench-lake-").tempdir();
            let dir = dir.map_err(|error| Failure::local(format!("cannot make a directory for the lake: {error}")))?;
            let url = url::Url::from_directory_path(dir.path())
                .map_err(|()| Failure::local(format!("{} makes no URL", dir.path().display())))?;
            made.lake_dir = Some(dir);
            url.to_string()
        }
    };
    let mut config = LakeConfig::new(&lake, stream, url);
    if !matches!(load.payload, Payload::File(_)) {
        config.columns = LakeColumns::Raw;
    }
    let age_ms = u64::try_from(load.roll_age.get().as_millis()).unwrap_or(u64::MAX);
    (config.roll_age_ms, config.max_age_ms) = (age_ms, age_ms);
    target.client()?.create_lake(config).await?;
    made.lake = Some(lake.clone());
    Ok(lake)
}
