//! A member of the group, as a process of its own: it works on records by writing them down, commits what it has written,
//! and may be killed at any moment.
//!
//! Each line is handed to the system before what it says is done: a commit is on record before it is sent, and a record that
//! was worked on before it is committed.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use millstream_check::history::{self, InGroup, OfGroup, Place, Recorder, What};
use millstream_client::{
    Commit, CommitOutcome, Error, GroupBatch, GroupConsumer, GroupEvent, GroupPosition, NamedPartition, Outcome,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::data::seen;
use crate::children::Told;
use crate::failure::Failure;
use crate::load::{PATIENCE, patiently};

/// What the harness tells it.
#[derive(Debug, Clone, Args)]
pub struct Member {
    #[command(flatten)]
    told: Told,
    #[arg(long)]
    group: String,
    #[arg(long)]
    stream: String,
    #[arg(long)]
    session_ms: u64,
    /// A canary: it commits before it works, as nobody should who may be killed.
    #[arg(long)]
    commit_first: bool,
}

/// How long that work takes then.
const WORK_COMMITTED_FIRST: Duration = Duration::from_millis(30);

struct Working {
    recorder: Recorder,
    /// By partition: the epoch under which it is held, and the member that holds it.
    held: BTreeMap<u32, Held>,
}

#[derive(Debug, Clone)]
struct Held {
    epoch: u32,
    member: u64,
    /// What was worked on and not committed.
    done: Option<GroupPosition>,
}

/// Works until it is terminated or killed.
pub async fn run(options: Member) -> Result<(), Failure> {
    let mut seeded = options.told.seeded();
    let recorder = options.told.recorder()?;
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| Failure::run(format!("no signals: {error}")))?;
    let mut consumer = build(&options).await?;
    let mut working = Working { recorder, held: BTreeMap::new() };
    working.tell(consumer.member(), InGroup::Joined { streams: vec![0] })?;
    // Some commit each batch, some after a while.
    let commit_every = Duration::from_millis([0, 50, 200, 500][seeded.index(4)]);
    let mut commit_at = Instant::now() + commit_every;
    loop {
        let event = tokio::select! {
            event = consumer.next_batch() => event,
            () = tokio::time::sleep_until(commit_at), if working.owes() => {
                working.commit(&mut consumer).await?;
                commit_at = Instant::now() + commit_every;
                continue;
            }
            _ = terminate.recv() => break,
        };
        let Some(event) = event else { return Err(Failure::run("the membership has ended")) };
        match event {
            Ok(GroupEvent::Batch(batch)) if options.commit_first => {
                working.owe(&batch)?;
                working.commit(&mut consumer).await?;
                tokio::time::sleep(WORK_COMMITTED_FIRST).await;
                working.work(&batch)?;
            }
            Ok(GroupEvent::Batch(batch)) => {
                working.work(&batch)?;
                working.owe(&batch)?;
            }
            Ok(GroupEvent::Assigned(partitions)) => working.takes(&consumer, &partitions)?,
            Ok(GroupEvent::Revoking(partitions)) => {
                working.commit(&mut consumer).await?;
                working.lets_go(&partitions)?;
            }
            Ok(GroupEvent::Lost(partitions)) => working.loses(&partitions)?,
            Ok(_) => {}
            // What does not end a membership is told for its partition, and would show as a record that is missing.
            Err(error) if error.is_retryable() || error.partition().is_some() => eprintln!("{error}"),
            Err(error) => return Err(Failure::run(format!("process {}: {error}", options.told.process))),
        }
    }
    working.commit(&mut consumer).await?;
    let all: Vec<NamedPartition> = consumer.assignment();
    working.lets_go(&all)?;
    consumer.close().await.map_err(|error| Failure::run(format!("it cannot leave: {error}")))?;
    working.recorder.finish()?;
    Ok(())
}

async fn build(options: &Member) -> Result<GroupConsumer, Failure> {
    let attempt = || async {
        let client = options.told.connect().await?;
        let session = Duration::from_millis(options.session_ms);
        let consumer = client.group(&options.group).stream(&options.stream).commit(Commit::Manual);
        consumer.session_timeout(session).reconnect_timeout(PATIENCE).build().await
    };
    patiently("a member cannot join", attempt).await
}

impl Working {
    /// Told before it is done.
    fn tell(&mut self, member: u64, what: InGroup) -> Result<(), Failure> {
        self.recorder.record(What::Group(OfGroup { group: 0, member, what }));
        Ok(self.recorder.flush()?)
    }

    fn takes(&mut self, consumer: &GroupConsumer, partitions: &[NamedPartition]) -> Result<(), Failure> {
        for name in partitions {
            let partition = name.partition.0;
            let Some(epoch) = consumer.epoch(name) else { continue };
            let member = consumer.member();
            self.held.insert(partition, Held { epoch, member, done: None });
            self.tell(member, InGroup::Assigned { at: at(partition), epoch })?;
        }
        Ok(())
    }

    fn lets_go(&mut self, partitions: &[NamedPartition]) -> Result<(), Failure> {
        for name in partitions {
            if let Some(Held { epoch, member, .. }) = self.held.remove(&name.partition.0) {
                self.tell(member, InGroup::Revoked { at: at(name.partition.0), epoch })?;
            }
        }
        Ok(())
    }

    fn loses(&mut self, partitions: &[NamedPartition]) -> Result<(), Failure> {
        for name in partitions {
            if let Some(Held { epoch, member, .. }) = self.held.remove(&name.partition.0) {
                self.tell(member, InGroup::Lost { at: at(name.partition.0), epoch })?;
            }
        }
        Ok(())
    }

    fn work(&mut self, batch: &GroupBatch) -> Result<(), Failure> {
        let partition = batch.batch.partition.0;
        let failed = |error: Error| Failure::run(format!("a batch cannot be read: {error}"));
        let records: Vec<_> = batch
            .batch
            .records()
            .map_err(failed)?
            .map(|found| found.map(|found| (found.offset.0, seen(&found.record))).map_err(failed))
            .collect::<Result<_, _>>()?;
        let Held { epoch, member, .. } = *self.held(partition)?;
        self.tell(member, InGroup::Delivered { at: at(partition), epoch, records })
    }

    /// It is to be committed.
    fn owe(&mut self, batch: &GroupBatch) -> Result<(), Failure> {
        self.held(batch.batch.partition.0)?.done = Some(batch.position());
        Ok(())
    }

    fn held(&mut self, partition: u32) -> Result<&mut Held, Failure> {
        let held = self.held.get_mut(&partition);
        held.ok_or_else(|| Failure::run(format!("a batch came of partition {partition}, which is not held")))
    }

    fn owes(&self) -> bool {
        self.held.values().any(|held| held.done.is_some())
    }

    /// Commits what was worked on.
    async fn commit(&mut self, consumer: &mut GroupConsumer) -> Result<(), Failure> {
        let due: Vec<(u32, Held, GroupPosition)> = self
            .held
            .iter_mut()
            .filter_map(|(partition, held)| held.done.take().map(|done| (*partition, held.clone(), done)))
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        for (partition, Held { epoch, member, .. }, position) in &due {
            let commit = InGroup::Commit { at: at(*partition), epoch: *epoch, offset: position.next.0 };
            self.tell(*member, commit)?;
        }
        let invoked_ns = self.recorder.clock().now_ns();
        let positions: Vec<GroupPosition> = due.iter().map(|(.., position)| position.clone()).collect();
        let outcomes: Vec<Result<(), Error>> = match consumer.commit_offsets(&positions).await {
            Ok(outcomes) => outcomes.into_iter().map(|CommitOutcome { result, .. }| result).collect(),
            Err(error) => positions.iter().map(|_| Err(error.clone())).collect(),
        };
        for ((partition, Held { epoch, member, .. }, position), result) in due.into_iter().zip(outcomes) {
            let outcome = match result {
                Ok(()) => history::CommitOutcome::Ok,
                Err(error) => match error.outcome() {
                    Outcome::Definite => history::CommitOutcome::Refused { code: error.code().number() },
                    Outcome::Indefinite => history::CommitOutcome::Unknown { code: error.code().number() },
                },
            };
            // What may not be committed is tried again with what comes next.
            if outcome != history::CommitOutcome::Ok
                && let Some(held) = self.held.get_mut(&partition).filter(|held| held.epoch == epoch)
            {
                held.done.get_or_insert_with(|| position.clone());
            }
            let (at, offset) = (at(partition), position.next.0);
            self.tell(member, InGroup::CommitDone { at, epoch, offset, invoked_ns, outcome })?;
        }
        Ok(())
    }
}

fn at(partition: u32) -> Place {
    Place { stream: 0, partition }
}
